"""A module from the inside: what its mechanisms share, and what it has declared.

`Module` is the face; this is what workers, runs and resources know of it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import Context
from typing import Literal

import attrs
import trio

from trio_modules._backoff import Restart
from trio_modules._broadcast import Broadcast
from trio_modules._elsewhere import Processes
from trio_modules._events import Outlet
from trio_modules._exceptions import ModuleOffline, shown
from trio_modules._failure import NO_FAILURE, FailureLevel, FailureLog, FailureStatus
from trio_modules._hooks import EventRoom, ModuleEvents, find_event
from trio_modules._life import Life
from trio_modules._lifecycle import Supervisor, Unit
from trio_modules._microtasks import Microtasks, Slots
from trio_modules._reading import Hook
from trio_modules._reporting import Reporter
from trio_modules._resources import Resource
from trio_modules._seam import AnyAsyncFn, CallKind, Seam
from trio_modules._services import RestartGate, ServiceWorker
from trio_modules._status import Change, ModuleInfo, ModuleStatus, WorkCounts, WorkerInfo
from trio_modules._taskboard import TaskBoard
from trio_modules._tasktree import child_tasks
from trio_modules._taskwork import DeclaredTask, ModuleTasks
from trio_modules._timers import Timers
from trio_modules._util import awaiting, callable_name
from trio_modules._workers import Workers

__all__ = ["Declaration", "Host", "Part"]

AsyncFn = Callable[..., Awaitable[object]]


@attrs.frozen
class Host:
    """What a running app hands to each of its modules."""

    app: object
    supervisor: Supervisor
    reporter: Reporter
    timers: Timers
    gate: RestartGate
    board: TaskBoard
    slots: Slots
    events: EventRoom
    seam: Seam
    has_within: Callable[[trio.lowlevel.Task], bool]
    events_of: Callable[[str], ModuleEvents | None]
    processes: Processes
    rng: random.Random
    context: Context
    changes: Broadcast[Change]
    failure_changed: Callable[[Part, FailureStatus, FailureStatus], None]


@attrs.frozen
class Declaration:
    """A worker that begins by itself.

    `make` gives the function for one run of the module. `lasts` says how long it is declared for:
    "always", for this run of the "app", or for this "run" of the module.
    """

    make: Callable[[], AsyncFn]
    args: tuple[object, ...]
    name: str
    lasts: Literal["always", "app", "run"]
    service: bool
    task_status: bool = False
    restart: Restart = attrs.field(factory=Restart)
    restart_on_return: bool = False
    grace_period: float = 0.0


class Part:
    """The inside of one module; see `LivingModule`, `ServiceModule` and `ResourceModule`."""

    __slots__ = (
        "_failures",
        "_logger",
        "_microtasks",
        "_numbers",
        "_reach",
        "_started",
        "_stopping",
        "declared",
        "events_made",
        "face",
        "host",
        "life",
        "name",
        "prep_functions",
        "prep_task",
        "resources",
        "services",
        "start_functions",
        "status_waiters",
        "stop_functions",
        "tasks_made",
        "unit",
        "workers",
    )

    life: Life
    unit: Unit
    _numbers: dict[str, int]

    def __init__(self, name: str, face: object) -> None:
        self.name = name
        self.face = face
        self.host: Host | None = None
        self.workers = Workers(self)
        self.services: dict[str, ServiceWorker] | None = None
        self.resources: tuple[Resource[object], ...] = ()
        self.prep_functions: tuple[AsyncFn, ...] = ()
        self.start_functions: tuple[AsyncFn, ...] = ()
        self.stop_functions: tuple[AsyncFn, ...] = ()
        self.declared: tuple[Declaration, ...] = ()
        self.prep_task: trio.lowlevel.Task | None = None
        self.tasks_made: ModuleTasks | None = None
        self.events_made: ModuleEvents | None = None
        self._microtasks: Microtasks | None = None
        self._failures: FailureLog | None = None
        self._logger: logging.Logger | None = None
        self._reach: frozenset[str] | None = None
        self._started: trio.Event | None = None
        self._stopping: trio.Event | None = None
        self.status_waiters: dict[ModuleStatus, trio.Event] | None = None

    # ------------------------------------------------------------ who it is

    @property
    def logger(self) -> logging.Logger:
        if self._logger is None:
            self._logger = logging.getLogger(f"trio_modules.{self.name}")
        return self._logger

    @property
    def main_task(self) -> trio.lowlevel.Task | None:
        if self.prep_task is not None:
            return self.prep_task
        return self.life.main_task if self.host is not None else None

    @property
    def status(self) -> ModuleStatus:
        unit = getattr(self, "unit", None)
        return ModuleStatus.DEAD if unit is None else unit.status

    def reaches(self, name: str) -> bool:
        """Whether it depends on the module of that name, directly or not, hard or soft."""
        if self._reach is None:
            self._reach = frozenset(_reachable(self.unit))
        return name in self._reach

    @property
    def in_lifecycle_function(self) -> bool:
        """Whether the running code is in a prep, start or stop function or in a lifespan of it."""
        main = self.main_task
        if main is None or not (self.prep_task or self.life.function_runs):
            return False
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None and task is not main:
            nursery = task.parent_nursery
            task = (
                None if nursery is None or nursery is self.workers.nursery else nursery.parent_task
            )
        return task is main

    def holds_online_back(self, tasks: Sequence[trio.lowlevel.Task]) -> bool:
        """Whether it isn't ONLINE because a service worker among these tasks isn't ready."""
        return self.life.holds_back(tasks)

    def tasks(self) -> list[trio.lowlevel.Task]:
        """The tasks that hold all others of the module: its own and those of its guests."""
        own = [] if self.main_task is None else [self.main_task]
        return own + [guest.task for guest in self.workers.guests or ()]

    # ------------------------------------------------------------ what it has declared

    def add_function(self, what: str, fn: AsyncFn) -> None:
        """Add a lifecycle function, *what* being ``on_prep``, ``on_start`` or ``on_stop``."""
        if what == "on_prep":
            self.prep_functions += (fn,)
        elif what == "on_start":
            self.start_functions += (fn,)
        else:
            self.stop_functions += (fn,)

    # ------------------------------------------------------------ a run of the app

    def attach(self, host: Host, unit: Unit, life: Life) -> None:
        """An app runs: the module belongs to it until `detach`."""
        self.host = host
        self.unit = unit
        self.life = life
        self.workers.host = host
        self.workers.started = self.workers.ended = 0
        self._reach = None
        self._failures = None
        if self.tasks_made is not None:
            self.tasks_made.attach(host.board, host.reporter, host.context)
        if self._microtasks is not None:
            self._microtasks.attach(host.slots, host.reporter, host.context)
        if self.events_made is not None:
            self._attach_events(self.events_made, host)

    def _attach_events(self, events: ModuleEvents, host: Host) -> None:
        events.attach(host.events, host.reporter, host.timers, host.context)
        self.unit.on_wish = events.wish_changed

    def detach(self) -> None:
        """The app's run is over; the unit stays, for its status."""
        if self.events_made is not None:
            self.events_made.detach()
        self.host = self.workers.host = None
        if self.tasks_made is not None:
            self.tasks_made.detach()
        self._keep_declared(("always",))

    @property
    def hosted(self) -> Host:
        if self.host is None:
            raise ModuleOffline(self.name, self.status.name, "do this outside of a running app")
        return self.host

    def has_within(self, task: trio.lowlevel.Task) -> bool:
        return self.hosted.has_within(task)

    @property
    def timers(self) -> Timers:
        return self.hosted.timers

    @property
    def rng(self) -> random.Random:
        return self.hosted.rng

    @property
    def seam(self) -> Seam:
        return self.hosted.seam

    def around(self, kind: CallKind, name: str, fn: AnyAsyncFn) -> AnyAsyncFn:
        return self.hosted.seam.around(self.face, kind, name, fn)

    # ------------------------------------------------------------ a run of the module

    def came_online(self) -> None:
        if self._started is not None:
            self._started.set()
        if self._failures is not None:
            for kind in ("crashed", "start-failed", "stop-failed"):
                self._failures.resolve(f"{self.name}:{kind}")

    def began_to_stop(self) -> None:
        if self._stopping is not None:
            self._stopping.set()
        if self.tasks_made is not None:
            self.tasks_made.stop(self.stop_reason)

    @property
    def stop_reason(self) -> str:
        """Why it stops, for those whom that cancels."""
        return self.life.reason

    def run_ended(self) -> None:
        self._started = self._stopping = None
        self.workers.stop_began = None
        self._keep_declared(("always", "app"))
        if self.tasks_made is not None:
            self.tasks_made.run_ended()
        if self.events_made is not None:
            self.events_made.run_ended()
        if self._failures is not None:
            self._failures.resolve_all(keep=f"{self.name}:stop-failed")

    @property
    def started_event(self) -> trio.Event:
        if self._started is None:
            self._started = trio.Event()
            if self.status is ModuleStatus.ONLINE:
                self._started.set()
        return self._started

    @property
    def stopping_event(self) -> trio.Event:
        if self._stopping is None:
            self._stopping = trio.Event()
            if self.workers.stop_began is not None:
                self._stopping.set()
        return self._stopping

    def status_reached(self, status: ModuleStatus) -> trio.Event:
        """An event that is set when the module next has that status."""
        if self.status_waiters is None:
            self.status_waiters = {}
        return self.status_waiters.setdefault(status, trio.Event())

    def tell_status(self) -> None:
        """The status has changed: let those go who wait for it."""
        if self.status_waiters:
            event = self.status_waiters.pop(self.unit.status, None)
            if event is not None:
                event.set()
        if self.events_made is not None:
            self.events_made.status_changed(self.unit.status)

    # ------------------------------------------------------------ declared and service workers

    def declare(self, declaration: Declaration) -> None:
        """Take a declaration; when the module is up already its work begins at once."""
        self.declared += (declaration,)
        if self.status is ModuleStatus.ONLINE and self.host is not None:
            self.host.context.run(self._begin, declaration)

    def _keep_declared(self, lasting: tuple[str, ...]) -> None:
        if self.declared:
            self.declared = tuple(each for each in self.declared if each.lasts in lasting)

    def declared_calls(self) -> Iterator[tuple[CallKind, str]]:
        """Kind and name of all that is declared."""
        for fn in self.prep_functions:
            yield "prep", callable_name(fn)
        for resource in self.resources:
            yield "enter", resource.name
            yield "leave", resource.name
        for fn in self.start_functions:
            yield "start", callable_name(fn)
        for declaration in self.declared:
            yield "service-worker" if declaration.service else "worker", declaration.name
        if self.tasks_made is not None:
            for name in self.tasks_made.declared_names:
                yield "task", name
        if self.events_made is not None:
            for hook in self.events_made.hooks:
                yield "hook", hook.name
        for fn in self.stop_functions:
            yield "stop", callable_name(fn)

    def lasts_now(self) -> Literal["always", "app", "run"]:
        """For how long what is declared now is declared.

        Raises:
            ModuleOffline: while the module stops.
        """
        if self.host is None:
            return "always"
        if self.status is ModuleStatus.STOPPING:
            raise ModuleOffline(self.name, self.status.name, "declare work")
        return "app" if self.status <= ModuleStatus.OFFLINE else "run"

    @property
    def readiness_counts(self) -> bool:
        """Whether a declared worker has to say that it is ready before the module is ONLINE."""
        return bool(self.declared) and any(each.task_status for each in self.declared)

    def begin_declared_work(self) -> list[ServiceWorker]:
        """Begin all that is declared, and return those whose readiness holds ONLINE back."""
        if self.tasks_made is not None:
            self.tasks_made.arm_declared()
        if not self.declared:
            return []
        begun = self.hosted.context.run(lambda: [self._begin(each) for each in self.declared])
        return [worker for worker in begun if worker is not None]

    def _begin(self, declaration: Declaration) -> ServiceWorker | None:
        if declaration.service:
            return self.start_service(declaration)
        self.workers.start_scoped(
            declaration.make(), declaration.args, declaration.name, declaration.grace_period, None
        )
        return None

    def start_service(self, declaration: Declaration) -> ServiceWorker:
        """Begin a service worker and return its handle."""
        nursery = self.workers.admit("start a service worker")
        if self.services is None:
            self.services = {}
            self._numbers = {}
        worker = ServiceWorker(
            self,
            _unique(declaration.name, self.services, self._numbers),
            declaration.make(),
            declaration.args,
            declaration.restart,
            declaration.restart_on_return,
            declaration.task_status,
        )
        self.services[worker.name] = worker
        if declaration.grace_period:
            coro = self.workers.graced(worker.run(), declaration.grace_period)
            nursery.start_soon(awaiting, coro, name=worker.name)
        else:
            nursery.start_soon(worker.run, name=worker.name)
        self.workers.started += 1
        return worker

    def service_ready(self, worker: ServiceWorker) -> None:
        self.life.service_ready(worker)

    def service_ended(self, worker: ServiceWorker) -> None:
        self.workers.ended += 1
        assert self.services is not None
        del self.services[worker.name]
        self.life.service_ended(worker)

    def crash(self, exc: BaseException) -> bool:
        return self.life.crash(exc)

    # ------------------------------------------------------------ tasks

    @property
    def own_tasks(self) -> ModuleTasks:
        """Its tasks, made on first use."""
        if self.tasks_made is None:
            self.tasks_made = ModuleTasks(self)
            if self.host is not None:
                self.tasks_made.attach(self.host.board, self.host.reporter, self.host.context)
        return self.tasks_made

    def declare_task(self, declared: DeclaredTask) -> None:
        """Take a declaration; when the module is up already it is scheduled at once."""
        up = self.status is ModuleStatus.ONLINE and self.host is not None
        self.own_tasks.declare(declared, at_once=up)

    # ------------------------------------------------------------ events

    @property
    def own_events(self) -> ModuleEvents:
        """Its events and hooks, made on first use."""
        if self.events_made is None:
            self.events_made = ModuleEvents(self)
            if self.host is not None:
                self._attach_events(self.events_made, self.host)
                self.events_made.open = self.status > ModuleStatus.OFFLINE
        return self.events_made

    def add_hook(self, hook: Hook) -> None:
        """Take a declaration; while the app runs the hook is there at once.

        Raises:
            GraphError: while the app runs, if there is no such event.
        """
        events = self.own_events
        if self.host is None:
            events.hooks.append(hook)
        else:
            events.add_hook(hook, self.host.events_of, list(self.host.supervisor.units))

    def event_to_inject(self, target: str) -> Outlet:
        """The event "module/event" of the app.

        Raises:
            ModuleOffline: unless this module's own events could be triggered.
            GraphError: if there is no such event.
        """
        if not self.own_events.open:
            raise ModuleOffline(self.name, self.status.name, f"inject event {target!r}")
        host = self.hosted
        return find_event(target, host.events_of, list(host.supervisor.units), "target")

    @property
    def is_coming(self) -> bool:
        """Whether it is wanted, and can come."""
        return self.host is not None and self.unit.is_coming

    @property
    def has_to_drain(self) -> bool:
        """Whether its hooks have something left to do before it stops."""
        return self.events_made is not None and self.events_made.has_to_drain

    async def drain(self, deadline: float) -> None:
        """Let its hooks do that, until *deadline*."""
        if self.events_made is not None:
            await self.events_made.drain(deadline)

    def readers_ended(self) -> None:
        """Its hooks have ended, its stop functions have not."""
        if self.events_made is not None:
            self.events_made.readers_ended()

    def stop_triggering(self) -> None:
        """Its stop functions have ended."""
        if self.events_made is not None:
            self.events_made.stop_triggering()

    def warn(self, message: str, *args: object) -> None:
        """Say something in its log."""
        self.logger.warning(message, *args)

    def fail_with(self, level: FailureLevel, failure_id: str, message: str) -> None:
        """Set a failure that has an id of the framework's."""
        self.set_failure(FailureStatus(level, failure_id, message, since=trio.current_time()))

    # ------------------------------------------------------------ microtasks

    @property
    def microtasks(self) -> Microtasks:
        """Its microtasks, made on first use."""
        if self._microtasks is None:
            self._microtasks = Microtasks(self.workers)
            if self.host is not None:
                host = self.host
                self._microtasks.attach(host.slots, host.reporter, host.context)
        return self._microtasks

    # ------------------------------------------------------------ failures and status

    @property
    def failures(self) -> FailureLog:
        if self._failures is None:
            self._failures = FailureLog(self._failure_changed)
        return self._failures

    @property
    def worst_failure(self) -> FailureStatus:
        return NO_FAILURE if self._failures is None else self._failures.worst

    def _failure_changed(self, before: FailureStatus, after: FailureStatus) -> None:
        if self.host is not None:
            self.host.failure_changed(self, before, after)

    def set_failure(self, failure: FailureStatus) -> FailureStatus:
        return self.failures.set(failure)

    def fail(self, level: FailureLevel, kind: str, message: str) -> None:
        """Set one of the framework's own failures."""
        failure_id = f"{self.name}:{kind}"
        self.set_failure(FailureStatus(level, failure_id, message, since=trio.current_time()))

    def resolve_failure(self, failure_id: str) -> bool:
        return self._failures is not None and self._failures.resolve(failure_id)

    def info(self, *, wanted: bool, enabled: bool) -> ModuleInfo:
        """The module's part of `App.status`."""
        unit = getattr(self, "unit", None)
        return ModuleInfo(
            name=self.name,
            status=self.status,
            wanted=wanted,
            enabled=enabled,
            failures=tuple(() if self._failures is None else self._failures.by_id.values()),
            workers=tuple(self._worker_infos()),
            work=self.workers.counts,
            restarts=0 if unit is None else unit.restarts,
            tasks=() if self.tasks_made is None else tuple(self.tasks_made.infos()),
            microtasks=() if self._microtasks is None else tuple(self._microtasks.infos()),
            hooks=() if self.events_made is None else tuple(self.events_made.infos()),
            executions=WorkCounts() if self.tasks_made is None else self.tasks_made.counts,
        )

    def _is_runner(self, task: trio.lowlevel.Task) -> bool:
        """Whether a task of the nursery is for tasks, microtasks or hooks, shown elsewhere."""
        if self.tasks_made is not None and self.tasks_made.is_runner(task):
            return True
        if self.events_made is not None and self.events_made.is_reader(task):
            return True
        return self._microtasks is not None and self._microtasks.is_runner(task)

    def _worker_infos(self) -> Iterator[WorkerInfo]:
        services = list((self.services or {}).values())
        theirs = {service.task for service in services}
        unborn = {service.name for service in services if service.task is None}
        nursery = self.workers.nursery
        for task in () if nursery is None else child_tasks(nursery):
            if self._is_runner(task):
                continue
            if task not in theirs and task.name not in unborn:
                yield WorkerInfo(task.name, "worker")
        visitors = () if self._microtasks is None else self._microtasks.visitors
        for guest in self.workers.guests or ():
            if guest in visitors:
                continue
            yield WorkerInfo(guest.name, "worker", since=guest.since)
        yield from map(_service_info, services)


def _service_info(service: ServiceWorker) -> WorkerInfo:
    error = None if service.last_error is None else shown(service.last_error)
    kind, state, restarts = "service-worker", service.state, service.restarts
    return WorkerInfo(service.name, kind, state, restarts, error, service.since)


def _unique(name: str, taken: dict[str, ServiceWorker], numbers: dict[str, int]) -> str:
    """*name* or the next ``name#2``; *numbers* spares thousands of namesakes a long search."""
    if name not in taken:
        numbers.pop(name, None)
        return name
    number = numbers.get(name, 1) + 1
    while f"{name}#{number}" in taken:
        number += 1
    numbers[name] = number
    return f"{name}#{number}"


def _reachable(unit: Unit) -> Iterator[str]:
    seen = {unit}
    todo = [unit]
    while todo:
        for other in (*(top := todo.pop()).needs, *top.wants):
            if other not in seen:
                seen.add(other)
                todo.append(other)
                yield other.name
