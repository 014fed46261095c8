"""One run of an app: what happens between entering the block and leaving it.

An outer nursery holds two tasks beside the body: an unshielded watcher, which turns an outer
cancellation into the wish for shutdown, and the root, which lives in a shielded scope and holds
the nursery of all modules. The body runs in a scope of its own in the caller's task.
What leaves the block is decided in `_verdict`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from graphlib import TopologicalSorter

import attrs
import trio

from trio_modules._backoff import Restart
from trio_modules._broadcast import Broadcast
from trio_modules._context import owner_var
from trio_modules._elsewhere import Processes
from trio_modules._exceptions import (
    CleanExit,
    ModuleCrashed,
    StartError,
    StopError,
    shown,
)
from trio_modules._failure import FailureLevel, FailureStatus
from trio_modules._hooks import EventRoom, ModuleEvents
from trio_modules._life import Life
from trio_modules._lifecycle import NO_TIME, Supervisor, Ticket, Unit
from trio_modules._microtasks import Slots
from trio_modules._part import Host, Part
from trio_modules._reporting import Reporter, take_apart
from trio_modules._seam import Seam
from trio_modules._services import RestartGate
from trio_modules._status import Change, ModuleStatus
from trio_modules._taskboard import TaskBoard
from trio_modules._tasks import WallClock
from trio_modules._tasktree import format_tree
from trio_modules._timers import Timers
from trio_modules._util import callable_name
from trio_modules._verdict import Verdict

__all__ = ["AppRun", "Member", "Settings"]

AsyncFn = Callable[[], Awaitable[object]]


@attrs.define
class Settings:
    """What an app was given, checked."""

    name: str
    prep: AsyncFn | None
    command: AsyncFn | None
    managed: bool
    start_timeout: float
    stop_timeout: float
    max_concurrent_restarts: int
    restart_settle: float
    max_concurrent_tasks: int
    max_concurrent_microtasks: int
    min_repeat_interval: float
    rng: random.Random


@attrs.frozen
class Member:
    """A registered module, as a run of the app needs it."""

    part: Part
    restart: Restart
    start_timeout: float | None
    stop_timeout: float | None
    needs: tuple[str, ...]
    wants: tuple[str, ...]


class AppRun:
    """One run of an app; the `Watcher` of its supervisor.

    Attributes:
        state: "starting", "running" or "stopping".
        reason: why it is going down, None while it isn't.
    """

    def __init__(
        self,
        app: object,
        settings: Settings,
        members: Mapping[str, Member],
        reporter: Reporter,
        changes: Broadcast[Change],
        clock: WallClock,
        events: EventRoom,
        seam: Seam,
    ) -> None:
        self.state = "starting"
        self.reason: str | None = None
        self.draining = False
        self.reporter = reporter
        self.timers = Timers()
        self.gate = RestartGate(
            self.timers, settings.max_concurrent_restarts, settings.restart_settle
        )
        self.slots = slots = Slots(self.timers, settings.max_concurrent_microtasks)
        self.board = TaskBoard(
            self.timers,
            clock,
            settings.rng,
            limit=settings.max_concurrent_tasks,
            min_interval=settings.min_repeat_interval,
            room=slots.order,
        )
        slots.order.on_room = self.board.move
        self.processes = Processes(self.in_root)
        self.supervisor = Supervisor(self, self.timers, settings.rng, copy_context())
        self.parts: dict[str, Part] = {}
        self.body_task = trio.lowlevel.current_task()
        self.entry_task: trio.lowlevel.Task | None = None
        self.prepared = trio.Event()
        self.modules_stopped = trio.Event()
        self.on_shutdown: Callable[[], None] = lambda: None
        self.on_removed: Callable[[str], None] = lambda name: None
        self.on_started: Callable[[], None] = lambda: None
        self._root_task = trio.lowlevel.current_root_task()
        self._settings = settings
        self._changes = changes
        self._seq = 0
        self._host = self._make_host(app, events, seam)
        self._initial: frozenset[str] = frozenset()
        self._failing: str | None = None
        self._outer_nursery: trio.Nursery
        self._root_nursery: trio.Nursery | None = None
        self._entering = True
        self._entered = trio.Event()
        self._ended = trio.Event()
        self._watch_scope = trio.CancelScope()
        self._entry_scope = trio.CancelScope()
        self._body_scope = trio.CancelScope()
        self._body_runs = False
        self._body_waits = False
        self._verdict = Verdict(reporter)
        for member in members.values():
            self._make_unit(member)
        for member in members.values():
            self.attach(member)
        self._link(members.values())

    def _link(self, members: Iterable[Member]) -> None:
        """Tie the hooks of these modules to the events that they are on."""
        for member in members:
            if member.part.events_made is not None:
                member.part.events_made.link(self.events_of)

    def events_of(self, name: str) -> ModuleEvents | None:
        """The events and hooks of the module of that name, if it has any."""
        part = self.parts.get(name)
        return None if part is None else part.events_made

    def _make_host(self, app: object, events: EventRoom, seam: Seam) -> Host:
        return Host(
            app=app,
            supervisor=self.supervisor,
            reporter=self.reporter,
            timers=self.timers,
            gate=self.gate,
            board=self.board,
            slots=self.slots,
            processes=self.processes,
            events=events,
            seam=seam,
            has_within=self.has_within,
            events_of=self.events_of,
            rng=self._settings.rng,
            context=copy_context(),
            changes=self._changes,
            failure_changed=self._failure_changed,
        )

    # ------------------------------------------------------------ modules

    def _make_unit(self, member: Member) -> None:
        part = member.part
        settings = self._settings
        start_timeout = member.start_timeout
        stop_timeout = member.stop_timeout
        life = Life(
            part,
            self.supervisor,
            settings.start_timeout if start_timeout is None else start_timeout,
        )
        life.unit = Unit(
            part.name,
            life,
            member.restart,
            settings.stop_timeout if stop_timeout is None else stop_timeout,
        )
        before = part.status
        part.attach(self._host, life.unit, life)
        self.parts[part.name] = part
        self.supervisor.units[part.name] = life.unit
        if before is not ModuleStatus.DEAD:  # it was prepared for an earlier run
            self.status_changed(life.unit, before)

    def attach(self, member: Member) -> None:
        """Tie a module to those that it needs."""
        self.supervisor.attach(member.part.unit, member.needs, member.wants)

    def adopt(self, members: Iterable[Member]) -> list[Unit]:
        """Take in modules while the app runs."""
        members = list(members)
        for member in members:
            self._make_unit(member)
        for member in members:
            self.attach(member)
        self._link(members)
        return [member.part.unit for member in members]

    def detach_all(self) -> None:
        """The run is over: its modules are free for another."""
        for part in self.parts.values():
            part.detach()

    # ------------------------------------------------------------ the block

    @asynccontextmanager
    async def block(
        self, order: Iterable[str], wish: Callable[[], list[str]]
    ) -> AsyncIterator[None]:
        """The whole life; *order* is a topological one, *wish* says what should run at first."""
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as outer:
            self._outer_nursery = outer
            outer.start_soon(self._watch, name="watcher")
            outer.start_soon(self._root, order, wish, name=f"app {self._settings.name}")
            await self._sit_out(self._entered)
            if self._body_may_begin():
                try:
                    with self._body_scope:
                        yield
                except BaseException as exc:
                    self._body_raised(exc)
                self._body_ended()
            await self._sit_out(self._ended)
            self._watch_scope.cancel(reason="the app has stopped")
        await self._verdict.pronounce()

    # Ctrl-C may strike any code. Raised in these two tasks, which run nothing of the user's but
    # the app's own prep and command, it would tear down all at once; so Trio keeps it for the main
    # task, most likely the body's, and the app shuts down in order.

    @trio.lowlevel.enable_ki_protection
    async def _watch(self) -> None:
        """Turn an outer cancellation into the wish for shutdown; it reaches this task alone."""
        try:
            with self._watch_scope:
                await trio.sleep_forever()
        except trio.Cancelled:
            # Not raised here: it would leave the outer nursery before it is known what else has
            # to. The body's task, or the verdict, raises it.
            self.request_shutdown("the block was cancelled")

    @trio.lowlevel.enable_ki_protection
    async def _root(self, order: Iterable[str], wish: Callable[[], list[str]]) -> None:
        try:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    self._root_nursery = nursery
                    self.supervisor.open(nursery)
                    nursery.start_soon(self.timers.run, name="timers")
                    await self._enter(order, wish)
                    await self._ended.wait()
                    nursery.cancel_scope.cancel(reason="the app has stopped")
        finally:  # whatever went wrong here, nobody may wait for it for ever
            for event in (self.prepared, self.modules_stopped, self._entered, self._ended):
                event.set()

    async def _sit_out(self, event: trio.Event) -> None:
        """Wait for *event*, whatever happens to this task: Ctrl-C hastens the end."""
        while not event.is_set():
            try:
                with trio.CancelScope(shield=True):
                    await event.wait()
            except BaseException as exc:
                self.fatal(exc)

    def _body_may_begin(self) -> bool:
        """Whether the block is entered, if only for a body that is cancelled at once."""
        if self._body_runs:
            return True
        outer = trio.current_effective_deadline() == -float("inf")
        if self._verdict.fatal or self._verdict.began_by is not None or outer:
            return False
        self._body_scope.cancel(reason=f"the app is shutting down: {self.reason}")
        return True

    def _body_raised(self, exc: BaseException) -> None:
        caught = take_apart(exc)
        for fatal in caught.fatal:
            self.fatal(fatal)
        if caught.passing is not None and not caught.fatal:
            self._verdict.cancelled = caught.passing
        failure = caught.failure
        if failure is None:
            return
        if self.reason is None:
            self._verdict.began_by = failure
            self.request_shutdown(f"the body raised {shown(failure)}")
        else:
            self._verdict.late_body = failure

    def _body_ended(self) -> None:
        self._body_runs = False
        self.request_shutdown("the body ended")
        self._stop_modules()

    # ------------------------------------------------------------ entering

    async def _enter(self, order: Iterable[str], wish: Callable[[], list[str]]) -> None:
        self.entry_task = trio.lowlevel.current_task()
        with self._entry_scope:
            await self._prepare(order)
            if self.reason is None and self._settings.command is not None:
                await self._run_command(self._settings.command)
        self.entry_task = None
        self._entering = False
        self.prepared.set()
        if self.reason is None:
            self._start(wish())
        self._check_ended()

    async def _prepare(self, order: Iterable[str]) -> None:
        if self._settings.prep is not None:
            await self._prep_one(None, [self._settings.prep])
        parts = [self.parts[name] for name in order]
        if len(parts) < len(self.parts):
            chosen = set(parts)
            for part in self.parts.values():
                if part not in chosen:
                    self.supervisor.passed_over(part.unit)
        if self.reason is None:
            await self.prep_modules(parts, self._prep_failed)

    async def prep_modules(
        self, parts: list[Part], failed: Callable[[str | None, BaseException], None]
    ) -> None:
        """Run the prep functions in dependency order, as many at a time as that allows."""
        if not any(part.prep_functions for part in parts):
            for part in parts:
                self.supervisor.set_status(part.unit, ModuleStatus.PREPARING)
                self.supervisor.prepared(part.unit, ModuleStatus.OFFLINE)
            return
        names = {part.name for part in parts}
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for part in parts:
            needs = (*part.unit.needs, *part.unit.wants)
            sorter.add(part.name, *(unit.name for unit in needs if unit.name in names))
        sorter.prepare()
        async with trio.open_nursery() as nursery:
            self._prep_ready(sorter, nursery, failed)
        for part in parts:  # what waited for a prep that failed
            if part.unit.preparing:
                self.supervisor.prepared(part.unit, ModuleStatus.DEAD)

    def _prep_ready(
        self,
        sorter: TopologicalSorter[str],
        nursery: trio.Nursery,
        failed: Callable[[str | None, BaseException], None],
    ) -> None:
        while ready := sorter.get_ready():
            for name in ready:
                part = self.parts[name]
                self.supervisor.set_status(part.unit, ModuleStatus.PREPARING)
                if part.prep_functions:
                    nursery.start_soon(
                        self._prep_task, part, sorter, nursery, failed, name=f"prep of {name}"
                    )
                else:
                    sorter.done(name)
                    self.supervisor.prepared(part.unit, ModuleStatus.OFFLINE)

    async def _prep_task(
        self,
        part: Part,
        sorter: TopologicalSorter[str],
        nursery: trio.Nursery,
        failed: Callable[[str | None, BaseException], None],
    ) -> None:
        owner_var.set(part)
        part.prep_task = trio.lowlevel.current_task()
        try:
            well = await self._prep_one(part.name, _around_prep(part), failed)
        finally:
            part.prep_task = None
        if well:
            sorter.done(part.name)
            self._prep_ready(sorter, nursery, failed)
        self.supervisor.prepared(part.unit, ModuleStatus.OFFLINE if well else ModuleStatus.DEAD)

    @trio.lowlevel.disable_ki_protection
    async def _prep_one(
        self,
        name: str | None,
        functions: Iterable[AsyncFn],
        failed: Callable[[str | None, BaseException], None] | None = None,
    ) -> bool:
        try:
            for fn in functions:
                await fn()
        except BaseException as exc:
            caught = take_apart(exc)
            for fatal in caught.fatal:
                self.fatal(fatal)
            if caught.failure is not None:
                (failed or self._prep_failed)(name, caught.failure)
            return False
        return True

    def _prep_failed(self, name: str | None, failure: BaseException) -> None:
        if isinstance(failure, CleanExit):
            self.request_shutdown(f"clean exit{f': {failure}' if str(failure) else ''}")
            return
        error = StartError(name, "prep")
        error.__cause__ = failure
        self._shut_down_with(error, f"{error}")

    @trio.lowlevel.disable_ki_protection
    async def _run_command(self, command: AsyncFn) -> None:
        try:
            await command()
        except BaseException as exc:
            caught = take_apart(exc)
            for fatal in caught.fatal:
                self.fatal(fatal)
            failure = caught.failure
            if failure is not None and not isinstance(failure, CleanExit):
                self._shut_down_with(failure, f"the command raised {shown(failure)}")
        self.request_shutdown("the command has run")

    def _start(self, wish: list[str]) -> None:
        self._initial = frozenset(wish)
        units = [self.supervisor.units[name] for name in wish]
        self.supervisor.want(units, units, self._all_started)

    def _all_started(self, ticket: Ticket) -> None:
        if self._is_failing(ticket):
            return
        if self.reason is None:
            self.state = "running"
            self._initial = frozenset()
            self._body_runs = True  # a shutdown from here on has to cancel it first
            self.on_started()
            self._entered.set()

    def _is_failing(self, ticket: Ticket) -> bool:
        """Whether a start has failed and its undoing ran out of time: then the app goes down.

        The start's own error is known when the module has really ended, and leaves the block.
        """
        for error in ticket.errors:
            unit = self.supervisor.units.get(error.module) if isinstance(error, StopError) else None
            if unit is not None and not unit.tracker.policy.cover_start and self.reason is None:
                self._failing = unit.name
                self.request_shutdown(f"the start of module {unit.name!r} failed")
        return self._failing is not None

    # ------------------------------------------------------------ shutdown

    def request_shutdown(self, reason: str) -> None:
        """Begin the shutdown, unless it has begun."""
        if self.reason is not None:
            return
        self.reason = reason
        self.state = "stopping"
        self.on_shutdown()
        self.slots.order.let_everybody_in()
        why = f"the app is shutting down: {reason}"
        self._entry_scope.cancel(reason=why)
        if self._body_runs and not self._body_waits:
            self._body_scope.cancel(reason=why)
            self.timers.after(self._settings.stop_timeout, self._stop_modules)
        else:
            self._stop_modules()

    async def shutdown_from_body(self, reason: str) -> None:
        """The block's own task asks for the shutdown and sees it through; it isn't cancelled."""
        self._body_waits = True
        self.request_shutdown(reason)
        try:
            await self.modules_stopped.wait()
        finally:
            self._body_waits = False
            if not self.modules_stopped.is_set():
                self._body_scope.cancel(reason=f"the app is shutting down: {reason}")

    def _shut_down_with(self, error: BaseException, reason: str) -> None:
        if self.reason is None:
            self._verdict.began_by = error
            self.request_shutdown(reason)
        else:
            self._verdict.lose(error)

    def _stop_modules(self) -> None:
        if not self.supervisor.closing:
            assert self.reason is not None
            self.supervisor.stop_all(self.reason)

    def fatal(self, exc: BaseException) -> None:
        """What no guard may keep has come up: it will leave the block, in order but soon."""
        if any(known is exc for known in self._verdict.fatal):
            return  # it has come by another way, too
        self._verdict.fatal.append(exc)
        if self.reason is None:
            self.request_shutdown(f"{type(exc).__name__} was raised")
        else:
            self.supervisor.hurry()
            self.timers.after(NO_TIME, self._stop_modules)  # a body that is deaf has had its time

    def _check_ended(self) -> None:
        if self.modules_stopped.is_set() and not self._entering:
            self._ended.set()
            self._entered.set()

    def _report(self, exc: BaseException, module: str, what: str) -> None:
        self.reporter.caught(exc, module, what, "control")

    # ------------------------------------------------------------ what the supervisor tells

    def status_changed(self, unit: Unit, before: ModuleStatus) -> None:
        """See `Watcher`."""
        part = self.parts[unit.name]
        if part.status_waiters or part.events_made is not None:
            part.tell_status()
        self._seq += 1
        if self._changes.listening:
            worst = part.worst_failure
            self._publish(part, before, unit.status, worst, worst)

    def _failure_changed(self, part: Part, before: FailureStatus, after: FailureStatus) -> None:
        self._seq += 1
        if self._changes.listening:
            self._publish(part, part.status, part.status, before, after)

    def _publish(
        self,
        part: Part,
        before: ModuleStatus,
        after: ModuleStatus,
        failure_before: FailureStatus,
        failure_after: FailureStatus,
    ) -> None:
        now = trio.current_time()
        self._changes.publish(
            Change(self._seq, part.name, before, after, failure_before, failure_after, now)
        )

    def start_failed(self, unit: Unit, error: StartError) -> bool:
        """See `Watcher`."""
        if unit.name == self._failing and self._verdict.began_by is None:
            self._verdict.began_by = error
            return True
        if self.reason is not None or (self.state == "starting" and unit.name in self._initial):
            self._shut_down_with(error, str(error).partition("\n")[0])
            return True
        self._report(error.__cause__ or error, unit.name, "start")
        message = str(error).partition("\n")[0]
        self.parts[unit.name].fail(FailureLevel.ERROR, "start-failed", message)
        return False

    def stop_failed(self, unit: Unit, error: StopError) -> None:
        """See `Watcher`."""
        part = self.parts[unit.name]
        part.fail(FailureLevel.ERROR, "stop-failed", str(error).partition("\n")[0])
        if error.hanging:
            part.logger.error("%s", error)
        if self.supervisor.closing:
            self._verdict.stop_errors.append(error)
        elif error.exceptions:
            for exc in error.exceptions:
                self._report(exc, unit.name, "stop")
        else:
            self._report(error, unit.name, "stop")

    def crashed(self, unit: Unit, cause: BaseException, reported: bool) -> None:
        """See `Watcher`."""
        if not reported:
            inner = cause.__cause__ if isinstance(cause, StartError) else None
            self._report(inner or cause, unit.name, "crash")
        if self.reason is None and unit.wanted:
            self.parts[unit.name].fail(FailureLevel.ERROR, "crashed", shown(cause))

    def gave_up(self, unit: Unit, error: ModuleCrashed) -> None:
        """See `Watcher`."""
        if self.reason is None:
            self._shut_down_with(error, str(error))
        else:
            self._verdict.lose(error, reported=True)  # its cause has been

    def removed(self, unit: Unit) -> None:
        """See `Watcher`."""
        self.parts.pop(unit.name).detach()
        self.on_removed(unit.name)

    def all_stopped(self) -> None:
        """See `Watcher`."""
        self.modules_stopped.set()
        self._check_ended()

    # ------------------------------------------------------------ for the app

    def check_not_over(self, what: str) -> None:
        """Raise `RuntimeError` if nothing can begin any more in the root nursery."""
        if self._root_nursery is None or self._ended.is_set():
            raise RuntimeError(f"{what} came too late: the app has stopped")

    def in_root(self, fn: Callable[[], Awaitable[object]], name: str) -> None:
        """Run *fn* in the root nursery and the app's context, out of reach of its caller."""
        self.check_not_over(name)
        assert self._root_nursery is not None
        start = partial(self._root_nursery.start_soon, fn, name=name)
        self._host.context.run(start)

    def tree(self) -> str:
        """Every module with every task in it, and what else runs, each with its stack."""
        lines = []
        mine: set[trio.lowlevel.Task] = set()
        for part in self.parts.values():
            lines.append(f"module {part.name!r} {part.status.name}")
            for task in part.tasks():
                mine.add(task)
                lines += format_tree(task, "  ")
            lines += part.workers.thread_stacks("  ")
        lines.append("other tasks")
        assert self._root_task is not None
        lines += format_tree(self._root_task, "  ", mine)
        return "\n".join(lines)

    def has_within(self, task: trio.lowlevel.Task) -> bool:
        """Whether a task is the body's or was begun in the block, by whomever."""
        if task is self.body_task:
            return True
        nursery = task.parent_nursery
        while nursery is not None and nursery.parent_task is not self.body_task:
            nursery = nursery.parent_task.parent_nursery
        # Nurseries that this task had opened before it entered the block are outside of it.
        found = self.body_task.child_nurseries
        return nursery in found[found.index(self._outer_nursery) :]

    @property
    def ended(self) -> trio.Event:
        """Set when everything has stopped."""
        return self._ended


def _around_prep(part: Part) -> Iterator[AsyncFn]:
    for fn in part.prep_functions:
        yield part.around("prep", callable_name(fn), fn)
