"""Services as plain values: what is built and run, and what the checks compare it with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import attrs

from trio_modules import Overflow, Priority

Ending: TypeAlias = Literal[
    "return",
    "forever",
    "raise",
    "group",
    "stray",
    "stray-group",
    "interrupt",
    "exit",
    "mixed-group",
    "restart-now",
    "restart-module",
    "clean-exit",
    "retry",
]


@attrs.frozen
class Act:
    """One execution of a user function.

    Attributes:
        delay: how long it takes before it calls and ends.
        ending: how it ends.
        stubborn: how long it goes on, shielded, once it was cancelled.
        spiteful: once cancelled it raises something else.
        call: what it asks of the framework after its delay.
        interruptible: it waits inside ``module.interruptible()`` and returns when that is over.
        retry_after: with the ending "retry", the time after which a task is to be tried again.
    """

    delay: float = 0.0
    ending: Ending = "return"
    stubborn: float = 0.0
    spiteful: bool = False
    call: Call | None = None
    interruptible: bool = False
    retry_after: float = 0.0


@attrs.frozen
class Func:
    """A user function: its n-th execution takes the n-th act, all later ones the last."""

    name: str
    acts: tuple[Act, ...]


@attrs.frozen
class RestartPlan:
    max_restarts: int | None = None
    within: float = 300.0
    initial: float = 1.0
    growth: Literal["linear", "exponential"] = "linear"
    maximum: float = 8.0
    jitter: float = 0.0
    reset_after: float = 300.0
    cover_start: bool = False
    exhausted: Literal["shutdown", "offline"] = "shutdown"


@attrs.frozen
class Worker:
    func: Func
    grace: float = 0.0


@attrs.frozen
class Service:
    """A service worker; ``ready_after`` makes it one with a parameter ``task_status``."""

    func: Func
    restart: RestartPlan
    on_return: bool = False
    grace: float = 0.0
    ready_after: float | None = None


@attrs.frozen
class Periodic:
    func: Func
    interval: float
    immediately: bool
    jitter: float
    missed: Literal["skip", "delay"]


@attrs.frozen
class Lifespan:
    """A lifespan; with a ``child`` it holds a nursery around its yield that runs the child."""

    name: str
    enter: Func
    exit: Func
    child: Func | None = None


@attrs.frozen
class TaskPlan:
    """A task; a declared one has at most one of the three times.

    Attributes:
        func: what it executes.
        declared: whether it is declared, else it is made by ``new_task``.
        every: the interval of its repetition.
        cron: the seconds of a cron line that matches all their multiples.
        at: the time on Trio's clock that it is scheduled for.
        jitter: of `every` or `cron`.
        misfire: what becomes of a time that passes while the module is down.
    """

    func: Func
    declared: bool = False
    every: float | None = None
    cron: int | None = None
    at: float | None = None
    jitter: float = 0.0
    misfire: Literal["run-once", "skip"] = "run-once"


@attrs.frozen
class HookPlan:
    """A hook; with ``retry`` seconds it is given what it failed with again."""

    func: Func
    event: str
    buffer: int = 100
    overflow: Overflow = Overflow.WAIT
    concurrency: int = 1
    batch: int | None = None
    retry: float | None = None


@attrs.frozen
class ModulePlan:
    name: str
    depends_on: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    prep: tuple[Func, ...] = ()
    start: tuple[Func, ...] = ()
    stop: tuple[Func, ...] = ()
    lifespans: tuple[Lifespan, ...] = ()
    workers: tuple[Worker, ...] = ()
    services: tuple[Service, ...] = ()
    periodics: tuple[Periodic, ...] = ()
    tasks: tuple[TaskPlan, ...] = ()
    events: tuple[str, ...] = ()
    hooks: tuple[HookPlan, ...] = ()
    start_timeout: float | None = None
    stop_timeout: float | None = None
    restart: RestartPlan = RestartPlan(max_restarts=3)
    enabled: bool = False


@attrs.frozen
class StartWorker:
    module: str
    func: Func
    grace: float = 0.0
    cancel_after: float | None = None


@attrs.frozen
class RunWorker:
    module: str
    func: Func
    patience: float = 1000.0
    propagate: bool = False


@attrs.frozen
class CallGuarded:
    module: str
    func: Func
    patience: float = 1000.0


@attrs.frozen
class StartTask:
    """``module.nursery.start_soon``, behind the framework's back."""

    module: str
    func: Func


@attrs.frozen
class CancelNursery:
    module: str


@attrs.frozen
class StartService:
    module: str
    service: Service
    cancel_after: float | None = None


@attrs.frozen
class ChangeWishes:
    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    manage: bool = True
    patience: float = 1000.0


@attrs.frozen
class RestartIt:
    module: str
    patience: float = 1000.0


@attrs.frozen
class AddModules:
    modules: tuple[ModulePlan, ...]
    owner: str | None = None
    patience: float = 1000.0


@attrs.frozen
class RemoveIt:
    module: str
    patience: float = 1000.0


@attrs.frozen
class ReadResource:
    module: str
    lifespan: str


@attrs.frozen
class AwaitOnline:
    module: str
    patience: float


@attrs.frozen
class RequestShutdown:
    reason: str = "asked for"


@attrs.frozen
class AwaitShutdown:
    patience: float = 1000.0


@attrs.frozen
class CancelBlock:
    """Cancel a scope around the app's block."""


@attrs.frozen
class Extend:
    module: str
    seconds: float


Order: TypeAlias = Literal[
    "queue",
    "queue_prioritized",
    "start_asap",
    "max_delay",
    "schedule",
    "schedule_after",
    "unschedule",
    "repeat",
    "cancel",
]


@attrs.frozen
class OrderTask:
    """One of the methods of a task, ``seconds`` being its argument if it has one."""

    module: str
    task: str
    order: Order
    seconds: float = 0.0


@attrs.frozen
class AwaitTask:
    module: str
    task: str
    patience: float = 1000.0


@attrs.frozen
class RunMicrotask:
    """A microtask: run in the caller's task, started, or a slot around code in place."""

    module: str
    func: Func
    way: Literal["run", "start", "slot"]
    priority: Priority
    max_delay: float | None = None
    patience: float = 1000.0


@attrs.frozen
class SetLimit:
    what: Literal["max_concurrent_tasks", "max_concurrent_microtasks"]
    value: int


@attrs.frozen
class Trigger:
    """Trigger an event so many times, one after the other."""

    module: str
    event: str
    count: int = 1
    nowait: bool = False
    patience: float = 1000.0


@attrs.frozen
class Inject:
    """Trigger the event of another module in the name of this one."""

    module: str
    event: str


@attrs.frozen
class Subscribe:
    """Read an event, or all of them, for some time."""

    module: str
    event: str | None
    seconds: float
    buffer: int = 100


@attrs.frozen
class AddHook:
    """A hook that is declared while the app runs."""

    module: str
    hook: HookPlan


Call: TypeAlias = (
    StartWorker
    | RunWorker
    | CallGuarded
    | StartTask
    | CancelNursery
    | StartService
    | ChangeWishes
    | RestartIt
    | AddModules
    | RemoveIt
    | ReadResource
    | AwaitOnline
    | RequestShutdown
    | AwaitShutdown
    | CancelBlock
    | Extend
    | OrderTask
    | AwaitTask
    | RunMicrotask
    | SetLimit
    | Trigger
    | Inject
    | Subscribe
    | AddHook
)

TimedCall: TypeAlias = tuple[float, Call]


@attrs.frozen
class ServicePlan:
    seed: int
    modules: tuple[ModulePlan, ...]
    body: Func
    body_calls: tuple[TimedCall, ...] = ()
    outside_calls: tuple[TimedCall, ...] = ()
    prep: Func | None = None
    command: Func | None = None
    managed: bool = False
    start_timeout: float = 10.0
    stop_timeout: float = 8.0
    max_concurrent_restarts: int = 100
    restart_settle: float = 0.1
    max_concurrent_tasks: int = 1
    max_concurrent_microtasks: int = 2
    min_repeat_interval: float = 0.5
    rounds: int = 1

    @property
    def added(self) -> Iterator[tuple[ModulePlan, str | None]]:
        """The modules that are added while the app runs, and the owner of each."""
        for _, call in (*self.body_calls, *self.outside_calls):
            if isinstance(call, AddModules):
                yield from ((module, call.owner) for module in call.modules)

    @property
    def all_modules(self) -> tuple[ModulePlan, ...]:
        return (*self.modules, *(module for module, _ in self.added))

    def hard_dependencies(self) -> dict[str, tuple[str, ...]]:
        """What each module depends on, its owner included."""
        graph = {module.name: module.depends_on for module in self.modules}
        for module, owner in self.added:
            graph[module.name] = (*module.depends_on, *(() if owner is None else (owner,)))
        return graph
