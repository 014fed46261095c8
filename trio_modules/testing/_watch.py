"""Who watches a simulated service from outside, and checks the promises of the framework.

Three things reach it: every call of a function of a module's, by the seam (see `_calls`); every
change of status and every report, by the app's channels, read after each step of the scheduler; and
the moments in which all is quiet, when nothing more can happen before the clock moves on.
"""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable

import trio

from trio_modules import App, Change, ModuleError, RestartModule, RestartNow
from trio_modules.abc import CallKind
from trio_modules.testing._calls import Calls
from trio_modules.testing._injecting import InjectedFault, Strike
from trio_modules.testing._real import RealWork
from trio_modules.testing._record import Record
from trio_modules.testing._scheduling import all_tasks
from trio_modules.testing._trace import leaves, said

__all__ = ["KEPT_STEPS", "Watch"]

#: Work whose exceptions have to be reported: nobody else may have asked for them.
_REPORTED: frozenset[CallKind] = frozenset({"service-worker", "hook"})
#: So many steps of the scheduler are kept, to be compared.
KEPT_STEPS = 3000
_MOST_STEPS_AT_ONCE = 300_000
_STEPS_PER_COUNT = 1024
_STEPS_PER_COLLECTION = 100_000
#: A second report of an exception comes soon, or never.
_REMEMBERED = 32


class Watch(trio.abc.Instrument):
    """Watches one simulation, as an instrument of Trio's.

    Attributes:
        record: what is written down.
        calls: what watches the modules.
        first_steps: time and task of the scheduler's first steps.
        real: the first real work that was found.
        steps: how many steps the scheduler has made.
        reports: how many reports there were.
    """

    def __init__(
        self,
        app: App,
        bugs: tuple[type[BaseException], ...],
        check: Callable[[App], object] | None,
        most_steps: int | None = None,
    ) -> None:
        self.record = Record()
        self.calls = Calls(app, self.record, self._work_raised)
        self.first_steps: list[tuple[float, str]] = []
        self.real = RealWork()
        self.steps = self.reports = 0
        self._app = app
        self._bugs = bugs
        self._check = check
        self._most_steps = most_steps
        self._receive_change: Callable[[], Change] | None = None
        self._receive_report: Callable[[], ModuleError] | None = None
        self._unreported: dict[int, tuple[BaseException, str, str]] = {}
        self._told: deque[BaseException] = deque(maxlen=_REMEMBERED)
        self._owed: list[BaseException] = []
        self._tasks_before: set[trio.lowlevel.Task] = set()
        self._has_changed = False
        self._most_settling = 0
        self._runnable = 0
        self._scheduled: trio.lowlevel.Task | None = None
        self._instant = -1.0
        self._steps_then = 0

    # ------------------------------------------------------------ runs of the app

    def struck(self, strike: Strike) -> None:
        """A fault has struck."""
        self.record.note(strike.fault.module, "fault", strike.fault.label)
        if strike.error is not None and not isinstance(strike.error, Exception):
            self._owed.append(strike.error)

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
        self.calls.check_all_ended()
        for task in all_tasks():
            if task not in self._tasks_before:
                self.record.violation(
                    "", "left", f"task {task.name!r} is alive after the app's block"
                )
        self._check_exceptions(() if left is None else tuple(leaves(left)))
        self._check_counts()
        self._run_check()

    def _check_exceptions(self, left: tuple[BaseException, ...]) -> None:
        """What had to be reported was, or has left the block; what may not stay in it hasn't."""
        for exc, module, what in self._unreported.values():
            if not any(exc is other for other in left):
                self.record.violation(
                    module, "report", f"what {what} raised is lost: {said(exc)}", exc
                )
        self._unreported.clear()
        for exc in self._owed:
            if not any(exc is other for other in left):
                self.record.violation(
                    "", "report", f"{said(exc)} did not leave the app's block", exc
                )
        self._owed.clear()
        self._told.clear()
        module = ""
        for exc in left:
            module = getattr(exc, "module", module) or ""
            self._look_for_bug(exc, module, f"a lifecycle function of {module!r}")

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
            self.record.stop.cancel(reason="enough was seen")
        if not self.steps % _STEPS_PER_COUNT:
            self._now_and_then(task)

    def _woken(self) -> None:
        """Somebody outside of Trio has woken a task, most likely the one scheduled last."""
        if self._scheduled is not None and self.real.woke(self._scheduled):
            self.record.stop.cancel(reason="the service does real work")

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
            self.record.violation("", "spin", text)

    def before_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        if not self._runnable:
            self._quiet()

    def _quiet(self) -> None:
        """Nothing can happen any more before the clock moves on."""
        if self.real.found():
            self.record.stop.cancel(reason="the service does real work")
        if self._receive_report is not None:
            self._look_at_reports()
            if self._has_changed:
                self._has_changed = False
                self._check_counts()
            self._run_check()

    def _run_check(self) -> None:
        if self._check is None or self.record.violations:
            return
        self.record.checks += 1
        try:
            result = self._check(self._app)
        except Exception as exc:
            self.record.violation("", "check", f"the check failed: {said(exc)}", exc)
        else:
            if result is False:
                self.record.violation("", "check", "the check returned False")

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

    def _changed(self, changes: list[Change]) -> None:
        self._has_changed = True
        for change in changes:
            if change.before is change.after:
                self._failure_changed(change)
            else:
                self.calls.status_changed(change)
        self.calls.check_order()

    def _failure_changed(self, change: Change) -> None:
        failure = change.failure_after
        self.record.note(change.module, "failure", f"{failure.level.name} {failure.id}".rstrip())

    # ------------------------------------------------------------ exceptions

    def _work_raised(self, module: str, kind: CallKind, name: str, exc: BaseException) -> None:
        asks = isinstance(exc, (RestartNow, RestartModule))
        is_plain = isinstance(exc, Exception) and not hasattr(exc, "exceptions")
        if kind in _REPORTED and is_plain and not asks:
            self._unreported[id(exc)] = exc, module, f"{kind} {name!r}"

    def _reported(self, error: ModuleError) -> None:
        self.reports += 1
        what = error.message if error.exception is None else said(error.exception)
        self.record.note(error.module, "report", f"{error.severity} {error.task_name}: {what}")
        if error.exception is None:
            return
        self._check_told_once(error.exception, error)
        for exc in leaves(error.exception):
            self._unreported.pop(id(exc), None)
            if isinstance(exc, trio.Cancelled):
                text = f"a cancellation was reported, of {error.task_name!r}"
                self.record.violation(error.module, "cancelled", text, exc)
            self._look_for_bug(exc, error.module, f"{error.task_name!r} of {error.module!r}")
        if error.task_type == "service-worker":
            self.record.restarts += 1

    def _check_told_once(self, exc: BaseException, error: ModuleError) -> None:
        if id(exc) in self._unreported:
            self._told.append(exc)
        elif any(exc is other for other in self._told):
            text = f"what {error.task_name!r} raised is reported twice: {said(exc)}"
            self.record.violation(error.module, "report", text, exc)

    def _look_for_bug(self, exc: BaseException, module: str, where: str) -> None:
        if isinstance(exc, self._bugs) and not isinstance(exc, InjectedFault):
            self.record.violation(module, "bug", f"there is a bug in {where}: {said(exc)}", exc)

    # ------------------------------------------------------------ counts

    def _check_counts(self) -> None:
        """What was started runs or has ended, by the app's own account; limits hold."""
        self.record.checks += 1
        status = self._app.status()
        for name, info in status.modules.items():
            for work in (info.work, info.executions):
                if work.started != work.running + work.ended or work.running < 0:
                    text = f"counts of module {name!r} don't add up: {work}"
                    self.record.violation(name, "counts", text)
        limits = status.limits
        self._most_settling = max(self._most_settling, limits.max_concurrent_restarts)
        if limits.restarts_settling > self._most_settling:  # a limit that is lowered takes time
            text = f"{limits.restarts_settling} service workers settle at a time"
            self.record.violation("", "limits", text)
