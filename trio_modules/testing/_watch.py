"""Who watches a simulated service from outside, and checks the promises of the framework.

Three things reach it: every call of a function of a module's, by the seam; every change of status
and every report, by the app's channels, read after each step of the scheduler; and the moments in
which all is quiet, when nothing more can happen before the clock moves on.
"""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterable

import attrs
import trio

from trio_modules import App, Change, Module, ModuleError, ModuleStatus, RestartModule, RestartNow
from trio_modules.abc import AnyAsyncFn, CallKind
from trio_modules.testing._injecting import InjectedFault, Strike
from trio_modules.testing._real import RealWork
from trio_modules.testing._scheduling import all_tasks
from trio_modules.testing._trace import TraceEntry, Violation, leaves, said

__all__ = ["KEPT_STEPS", "Watch"]

_OFFLINE, _ONLINE = ModuleStatus.OFFLINE, ModuleStatus.ONLINE
#: Calls of the module's main task; all other kinds are work.
_LIFECYCLE: frozenset[CallKind] = frozenset({"prep", "start", "stop", "enter", "leave"})
#: Work whose exceptions have to be reported: nobody else may have asked for them.
_REPORTED: frozenset[CallKind] = frozenset({"service-worker", "hook"})
#: So many steps of the scheduler are kept, to be compared.
KEPT_STEPS = 3000
_MOST_STEPS_AT_ONCE = 300_000
_STEPS_PER_COUNT = 1024
_STEPS_PER_COLLECTION = 100_000
_MOST_VIOLATIONS = 20


@attrs.define(eq=False)
class _Place:
    """One module as it is watched.

    Attributes:
        working, in_lifecycle: calls of its functions that go on.
        called: the lifecycle calls of this run of it.
        entered: its lifespans that were entered and not left.
        was_online: whether it was, in this run of it.
        starts: how often it was started.
        since: when it came to its present status.
    """

    module: Module
    needs: tuple[Module, ...]
    needed_by: list[Module] = attrs.field(factory=list)
    working: int = 0
    in_lifecycle: int = 0
    called: Counter[tuple[CallKind, str]] = attrs.field(factory=Counter)
    entered: Counter[str] = attrs.field(factory=Counter)
    was_online: bool = False
    starts: int = 0
    since: float = 0.0

    @property
    def name(self) -> str:
        return self.module.name

    @property
    def is_leftover(self) -> bool:
        """Whether its stop ran out of time, so that the others went on without it."""
        return f"{self.name}:stop-failed" in self.module.failures


class Watch(trio.abc.Instrument):
    """Watches one simulation; it is an instrument of Trio's and an interceptor of the app's.

    Attributes:
        trace: what happened.
        first_steps: time and task of the scheduler's first steps.
        violations: which promises were broken.
        real: the first real work that was found.
        restarts: how often service workers and modules were started again.
        steps: of the scheduler; checks: how often something was checked.
        stop: cancelled when a promise is broken: it makes no sense to go on.
    """

    def __init__(
        self,
        app: App,
        bugs: tuple[type[BaseException], ...],
        check: Callable[[App], object] | None,
        most_steps: int | None = None,
    ) -> None:
        self.trace: list[TraceEntry] = []
        self.first_steps: list[tuple[float, str]] = []
        self.violations: list[Violation] = []
        self.stop = trio.CancelScope()
        self.real = RealWork()
        self.restarts = self.steps = self.checks = self.reports = 0
        self._app = app
        self._bugs = bugs
        self._check = check
        self._most_steps = most_steps
        self._places: dict[str, _Place] = {}
        self._receive_change: Callable[[], Change] | None = None
        self._receive_report: Callable[[], ModuleError] | None = None
        self._unreported: dict[int, tuple[BaseException, _Place, str]] = {}
        self._owed: list[BaseException] = []
        self._tasks_before: set[trio.lowlevel.Task] = set()
        self._has_changed = False
        self._most_settling = 0
        self._runnable = 0
        self._scheduled: trio.lowlevel.Task | None = None
        self._instant = -1.0
        self._steps_then = 0

    # ------------------------------------------------------------ what is written down

    def note(self, module: str, what: str, text: str) -> None:
        """Add an entry to the trace."""
        self.trace.append(TraceEntry(round(trio.current_time(), 6), module, what, text))

    def violation(
        self, module: str, rule: str, text: str, exc: BaseException | None = None
    ) -> None:
        """A promise is broken: say so and end the simulation."""
        if len(self.violations) < _MOST_VIOLATIONS:
            error = "" if exc is None else type(exc).__name__
            time = round(trio.current_time(), 6)
            self.violations.append(Violation(time, module, rule, text, error))
            self.note(module, "violation", text)
        self.stop.cancel(reason=f"the simulation ends: {text}")

    def struck(self, strike: Strike) -> None:
        """A fault has struck."""
        self.note(strike.fault.module, "fault", strike.fault.label)
        if strike.error is not None and not isinstance(strike.error, Exception):
            self._owed.append(strike.error)

    # ------------------------------------------------------------ runs of the app

    def begin_run(
        self,
        changes: trio.MemoryReceiveChannel[Change],
        reports: trio.MemoryReceiveChannel[ModuleError],
    ) -> None:
        """The app is about to be entered."""
        self._receive_change = changes.receive_nowait
        self._receive_report = reports.receive_nowait
        self._tasks_before = set(all_tasks())

    def end_run(self, left: BaseException | None) -> None:
        """The app's block is left, with an exception or without: nothing of it may be there."""
        self._look()
        self._receive_change = self._receive_report = None
        for place in self._places.values():
            if place.working or place.in_lifecycle or place.module.status > _OFFLINE:
                text = f"module {place.name!r} outlives its app: it is {place.module.status.name}"
                self.violation(place.name, "left", text)
            self._check_lifespans(place)
        for task in all_tasks():
            if task not in self._tasks_before:
                self.violation("", "left", f"task {task.name!r} is alive after the app's block")
        self._check_exceptions(() if left is None else tuple(leaves(left)))
        self._check_counts()
        self._run_check()

    def _check_exceptions(self, left: tuple[BaseException, ...]) -> None:
        """What had to be reported was, or has left the block; what may not stay in it hasn't."""
        for exc, place, what in self._unreported.values():
            if not any(exc is other for other in left):
                self.violation(
                    place.name, "report", f"what {what} raised is lost: {said(exc)}", exc
                )
        self._unreported.clear()
        for exc in self._owed:
            if not any(exc is other for other in left):
                self.violation("", "report", f"{said(exc)} did not leave the app's block", exc)
        self._owed.clear()
        module = ""
        for exc in left:
            module = getattr(exc, "module", module) or ""
            self._look_for_bug(exc, module, f"a lifecycle function of {module!r}")

    # ------------------------------------------------------------ calls

    def __call__(
        self, module: Module, kind: CallKind, name: str, async_fn: AnyAsyncFn, /
    ) -> AnyAsyncFn:
        """See `trio_modules.abc.Interceptor`."""
        place = self._place(module)
        if kind in _LIFECYCLE:
            return self._around_lifecycle(place, kind, name, async_fn)

        async def watched(*args: object, **kwargs: object) -> object:
            if module.status <= _OFFLINE:
                self._began_offline(place, kind, name)
            place.working += 1
            try:
                return await async_fn(*args, **kwargs)
            except trio.Cancelled:
                raise
            except BaseException as exc:
                self._work_raised(place, kind, name, exc)
                raise
            finally:
                place.working -= 1

        return watched

    def _place(self, module: Module) -> _Place:
        place = self._places.get(module.name)
        return place if place and place.module is module else self._new_place(module)

    def _new_place(self, module: Module) -> _Place:
        """Modules come and go while an app runs: make all places anew, and keep what they know."""
        known = self._places
        self._places = {}
        for name, other in self._app.modules.items():
            place = known.get(name)
            if place is None or place.module is not other:
                place = _Place(other, other.dependencies)
            place.needed_by = []
            self._places[name] = place
        for place in self._places.values():
            for other in place.needs:
                self._places[other.name].needed_by.append(place.module)
        return self._places.setdefault(module.name, _Place(module, ()))

    def _began_offline(self, place: _Place, kind: CallKind, name: str) -> None:
        text = f"{kind} {name!r} begins while module {place.name!r} is {place.module.status.name}"
        self.violation(place.name, "closed", text)

    def _work_raised(self, place: _Place, kind: CallKind, name: str, exc: BaseException) -> None:
        self.note(place.name, "end", f"{kind} {name} raised {said(exc)}")
        asks = isinstance(exc, (RestartNow, RestartModule))
        is_plain = isinstance(exc, Exception) and not hasattr(exc, "exceptions")
        if kind in _REPORTED and is_plain and not asks:
            self._unreported[id(exc)] = exc, place, f"{kind} {name!r}"

    def _around_lifecycle(
        self, place: _Place, kind: CallKind, name: str, async_fn: AnyAsyncFn
    ) -> AnyAsyncFn:
        async def watched(*args: object, **kwargs: object) -> object:
            self._check_lifecycle_call(place, kind, name)
            self.note(place.name, "call", f"{kind} {name}")
            place.in_lifecycle += 1
            try:
                result = await async_fn(*args, **kwargs)
            except trio.Cancelled:
                self.note(place.name, "end", f"{kind} {name} was cancelled")
                raise
            except BaseException as exc:
                self.note(place.name, "end", f"{kind} {name} raised {said(exc)}")
                raise
            finally:
                place.in_lifecycle -= 1
            self.note(place.name, "end", f"{kind} {name} returned")
            if kind == "enter":
                place.entered[name] += 1
            return result

        return watched

    def _check_lifecycle_call(self, place: _Place, kind: CallKind, name: str) -> None:
        self.checks += 1
        place.called[kind, name] += 1
        if place.in_lifecycle:
            text = f"{kind} {name} begins while another function of {place.name!r} runs"
            self.violation(place.name, "overlap", text)
        if kind in ("enter", "start"):
            self._check_start(place, f"{kind} {name}")
        elif kind in ("stop", "leave"):
            self._check_stop(place, f"{kind} {name}")
        if kind == "leave":
            place.entered[name] -= 1

    def _check_start(self, place: _Place, what: str) -> None:
        if place.working:
            text = f"{what} begins while work of an earlier run of {place.name!r} goes on"
            self.violation(place.name, "overlap", text)
        for other in place.needs:
            if not other.online:
                text = (
                    f"{what} of {place.name!r} begins while {other.name!r} is {other.status.name}"
                )
                self.violation(place.name, "order", text)

    def _check_stop(self, place: _Place, what: str) -> None:
        if place.working:
            text = f"{what} of {place.name!r} begins while {place.working} functions of it work"
            self.violation(place.name, "stop", text)
        self._check_dependents(place, f"{what} of {place.name!r} begins")

    def _check_dependents(self, place: _Place, what: str) -> None:
        for other in place.needed_by:
            if other.status > _OFFLINE and not self._places[other.name].is_leftover:
                text = f"{what} while {other.name!r} is {other.status.name}"
                self.violation(place.name, "order", text)

    # ------------------------------------------------------------ steps

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self._runnable += 1
        self._scheduled = task

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self._runnable -= 1
        self.steps += 1
        if task is self.real.waker:
            self._woken()
        if self._receive_change is not None:
            try:
                change = self._receive_change()
            except (trio.WouldBlock, trio.EndOfChannel):  # by far the most steps
                pass
            else:
                self._look(change)
        if self.steps <= KEPT_STEPS:
            self.first_steps.append((trio.current_time(), task.name))
        if self.steps == self._most_steps:
            self.stop.cancel(reason="enough was seen")
        if not self.steps % _STEPS_PER_COUNT:
            self._now_and_then(task)

    def _woken(self) -> None:
        """Somebody outside of Trio has woken a task, most likely the one scheduled last."""
        if self._scheduled is not None and self.real.woke(self._scheduled):
            self.stop.cancel(reason="the service does real work")

    def _now_and_then(self, task: trio.lowlevel.Task) -> None:
        self._check_counts()
        if self.steps % _STEPS_PER_COLLECTION < _STEPS_PER_COUNT:
            gc.collect()
        now = trio.current_time()
        if now != self._instant:
            self._instant, self._steps_then = now, self.steps
        elif self.steps - self._steps_then > _MOST_STEPS_AT_ONCE:
            self._steps_then = self.steps
            text = f"time stands still: task {task.name!r} and others step on and on"
            self.violation("", "spin", text)

    def before_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        if not self._runnable:
            self._quiet()

    def _quiet(self) -> None:
        """Nothing can happen any more before the clock moves on."""
        if self.real.found():
            self.stop.cancel(reason="the service does real work")
        if self._receive_report is not None:
            self._look_at_reports()
            if self._has_changed:
                self._has_changed = False
                self._check_counts()
            self._run_check()

    def _run_check(self) -> None:
        if self._check is None or self.violations:
            return
        self.checks += 1
        try:
            self._check(self._app)
        except Exception as exc:
            self.violation("", "check", f"the check failed: {said(exc)}", exc)

    def _look(self, *changes: Change) -> None:
        """Read what the app has told, beside the changes that have been read already."""
        seen = list(changes)
        assert self._receive_change is not None
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                seen.append(self._receive_change())
        self._look_at_reports()
        if seen:
            self._changed(seen)

    def _look_at_reports(self) -> None:
        assert self._receive_report is not None
        try:
            while True:
                self._reported(self._receive_report())
        except (trio.WouldBlock, trio.EndOfChannel):
            return

    def _changed(self, changes: Iterable[Change]) -> None:
        self._has_changed = True
        places = []
        for change in changes:
            if change.before is change.after:
                self._failure_changed(change)
                continue
            if change.after is ModuleStatus.DEAD and change.before is _OFFLINE:
                continue  # it has run before: in this process, not in this simulation
            self.note(change.module, "status", change.after.name)
            if change.module in self._app:
                place = self._place(self._app[change.module])
                self._status_changed(place, change)
                places.append(place)
        for place in places:
            self._check_neighbours(place)

    def _failure_changed(self, change: Change) -> None:
        failure = change.failure_after
        self.note(change.module, "failure", f"{failure.level.name} {failure.id}".rstrip())

    def _status_changed(self, place: _Place, change: Change) -> None:
        place.since = change.time
        if change.after is _ONLINE:
            place.was_online = True
        elif change.after is _OFFLINE and change.before > _OFFLINE:
            self._check_end(place)
            place.called.clear()
            place.was_online = False
        elif change.after is ModuleStatus.STARTING:
            place.starts += 1
            self.restarts += place.starts > 1

    def _check_end(self, place: _Place) -> None:
        """A run of a module is over."""
        self.checks += 1
        if place.working or place.in_lifecycle:
            running = place.working + place.in_lifecycle
            text = f"module {place.name!r} is OFFLINE while {running} functions of it run"
            self.violation(place.name, "closed", text)
        self._check_lifespans(place)
        self._check_dependents(place, f"module {place.name!r} is OFFLINE")
        for (kind, name), times in Counter(place.module.declared).items():
            called = place.called[kind, name]
            if kind == "stop" and (called > times or (place.was_online and called != times)):
                text = f"stop function {name!r} of {place.name!r} was called {called} times"
                self.violation(place.name, "stop", text)

    def _check_lifespans(self, place: _Place) -> None:
        for name, count in place.entered.items():
            if count:
                text = f"lifespan {name!r} of {place.name!r} was entered and left unequally often"
                self.violation(place.name, "lifespan", text)
        place.entered.clear()

    def _check_neighbours(self, place: _Place) -> None:
        """Nothing is online on top of what isn't."""
        self.checks += 1
        if place.module.online:
            pairs = [(place.module, other) for other in place.needs]
        else:
            pairs = [(other, place.module) for other in place.needed_by]
        for upper, lower in pairs:
            if upper.online and not lower.online:
                text = f"{upper.name!r} is ONLINE while {lower.name!r} is {lower.status.name}"
                self.violation(upper.name, "order", text)

    def _reported(self, error: ModuleError) -> None:
        self.reports += 1
        what = error.message if error.exception is None else said(error.exception)
        self.note(error.module, "report", f"{error.severity} {error.task_name}: {what}")
        if error.exception is None:
            return
        for exc in leaves(error.exception):
            self._unreported.pop(id(exc), None)
            if isinstance(exc, trio.Cancelled):
                text = f"a cancellation was reported, of {error.task_name!r}"
                self.violation(error.module, "cancelled", text, exc)
            self._look_for_bug(exc, error.module, f"{error.task_name!r} of {error.module!r}")
        if error.task_type == "service-worker":
            self.restarts += 1

    def _look_for_bug(self, exc: BaseException, module: str, where: str) -> None:
        if isinstance(exc, self._bugs) and not isinstance(exc, InjectedFault):
            self.violation(module, "bug", f"there is a bug in {where}: {said(exc)}", exc)

    # ------------------------------------------------------------ counts

    def _check_counts(self) -> None:
        """What was started runs or has ended, by the app's own account; limits hold."""
        self.checks += 1
        status = self._app.status()
        for name, info in status.modules.items():
            for work in (info.work, info.executions):
                if work.started != work.running + work.ended or work.running < 0:
                    text = f"counts of module {name!r} don't add up: {work}"
                    self.violation(name, "counts", text)
        limits = status.limits
        self._most_settling = max(self._most_settling, limits.max_concurrent_restarts)
        if limits.restarts_settling > self._most_settling:  # a limit that is lowered takes time
            text = f"{limits.restarts_settling} service workers settle at a time"
            self.violation("", "limits", text)

    def check_recovery(self, within: float) -> None:
        """After a calm of *within* seconds all that is wanted is online, or meant to stay away."""
        for name, info in self._app.status().modules.items():
            is_away = info.wanted and info.status is not _ONLINE
            if is_away and not self._gave_up(self._place(self._app[name]), within):
                text = f"module {name!r} has not recovered: it is {info.status.name}"
                self.violation(name, "recovery", text)

    def _gave_up(self, place: _Place, within: float) -> bool:
        """Whether it, or what it needs, crashed beyond a budget that leaves it offline then.

        Any other module in that state would be in a backoff, and no backoff lasts for so long.
        """
        if place.module.status is not _OFFLINE:
            return False
        rests = trio.current_time() - place.since >= within
        if rests and f"{place.name}:crashed" in place.module.failures:
            return True
        return any(self._gave_up(self._place(other), within) for other in place.needs)
