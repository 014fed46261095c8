"""The one place where an exception of user code becomes a report.

An exception that reaches the edge of a module's work is taken apart here: a genuine cancellation
is nobody's failure, what is no `Exception` (Ctrl-C, `SystemExit`, a test's outcome) passes on and
begins the shutdown, and all the rest is one failure that is reported exactly once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import weakref
from collections.abc import Callable, Iterator

import attrs
import trio

from trio_modules._broadcast import Broadcast
from trio_modules._exceptions import BaseExceptionGroup, RestartModule, RestartNow, shown
from trio_modules._reports import ModuleError
from trio_modules._tasktree import tasks_below

__all__ = ["Caught", "Reporter", "asked_for", "is_ordinary", "remember_under_way", "take_apart"]

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING}


@attrs.define
class Caught:
    """What an exception is made of.

    Attributes:
        passing: the part that whoever caught it has to pass on where the task isn't its own: a
            genuine `trio.Cancelled` and what no guard may keep.
        fatal: of that, the exceptions that begin a shutdown.
        failure: the rest, an ordinary failure; None if nothing is left.
    """

    passing: BaseException | None
    fatal: tuple[BaseException, ...]
    failure: BaseException | None

    @property
    def cancelled(self) -> trio.Cancelled | None:
        """The first genuine `trio.Cancelled` in it."""
        leaves = _leaves(self.passing)
        return next((leaf for leaf in leaves if isinstance(leaf, trio.Cancelled)), None)


def is_ordinary(exc: BaseException) -> bool:
    """Whether *exc* is a failure and nothing else at first sight, as nearly all are."""
    return isinstance(exc, Exception) and not isinstance(exc, BaseExceptionGroup)


def take_apart(exc: BaseException) -> Caught:
    """Take *exc* apart, in the task that caught it: only there can be seen what was cancelled."""
    if isinstance(exc, BaseExceptionGroup):
        cancelled = _is_cancelled()
        passing, failure = exc.split(lambda leaf: _passes(leaf, cancelled))
        if passing is None:
            return Caught(None, (), exc)  # not the copy that a split makes
        return Caught(passing, tuple(_fatal_leaves(passing)), failure)
    if isinstance(exc, Exception) or not _passes(exc, _is_cancelled()):
        return Caught(None, (), exc)
    return Caught(exc, tuple(_fatal_leaves(exc)), None)


#: The tasks of a run that a shield came too late for, and the reason for which they are cancelled.
_Reached = weakref.WeakKeyDictionary[trio.lowlevel.Task, str]
_REACHED = trio.lowlevel.RunVar[_Reached | None]("reached by a cancellation", None)


def remember_under_way(reason: str) -> None:
    """A scope around the current task was cancelled for *reason*, and is about to be shielded.

    Its child tasks may have the `trio.Cancelled` of that on its way to them, and can't see any
    more where it comes from when they come to their turn: it is remembered for them.
    """
    reached = _REACHED.get()
    if reached is None:
        reached = _Reached()
        _REACHED.set(reached)
    for task in tasks_below(trio.lowlevel.current_task()):
        reached[task] = reason


def _was_under_way(exc: trio.Cancelled) -> bool:
    reached = _REACHED.get()
    if reached is None or exc.reason is None:
        return False
    return reached.get(trio.lowlevel.current_task()) == exc.reason


def _is_cancelled() -> bool:
    return trio.current_effective_deadline() == -math.inf


def _passes(exc: BaseException, cancelled: bool) -> bool:
    if isinstance(exc, trio.Cancelled):
        return cancelled or _was_under_way(exc)
    return not isinstance(exc, (Exception, BaseExceptionGroup))


def _leaves(exc: BaseException | None) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    elif exc is not None:
        yield exc


def _fatal_leaves(exc: BaseException | None) -> Iterator[BaseException]:
    return (leaf for leaf in _leaves(exc) if not isinstance(leaf, trio.Cancelled))


@attrs.frozen
class Asked:
    """What a failure asks for.

    Attributes:
        module: a restart of the whole module.
        now: a restart without backoff, and nothing else is wrong.
        quiet: nothing but asking; no failure that anybody has to look at.
    """

    module: bool
    now: bool
    quiet: bool


_NOTHING = Asked(module=False, now=False, quiet=False)
_ASKING = (RestartModule, RestartNow, BaseExceptionGroup)


def asked_for(exc: BaseException) -> Asked:
    """Look for `RestartModule` and `RestartNow`, raised alone, in a group, or as a cause."""
    if exc.__cause__ is None and not isinstance(exc, _ASKING):
        return _NOTHING  # on the way of every failure
    found = {_asked_by(leaf) for leaf in _leaves(exc)}
    return Asked(RestartModule in found, found == {RestartNow}, None not in found)


def _asked_by(exc: BaseException | None) -> type[Exception] | None:
    seen: set[int] = set()  # causes may go in a circle
    while exc is not None and id(exc) not in seen:
        for kind in (RestartModule, RestartNow):
            if isinstance(exc, kind):
                return kind
        seen.add(id(exc))
        exc = exc.__cause__
    return None


class Reporter:
    """Takes reports: keeps the last, logs it, and hands it to whoever listens."""

    def __init__(self, *, stderr: bool, fatal: Callable[[BaseException], None]) -> None:
        self.readers: Broadcast[ModuleError] = Broadcast()
        self._last: ModuleError | tuple[str, str, str, str, BaseException, float] | None = None
        self.reported = 0
        self._stderr = stderr
        self._loggers: dict[str, logging.Logger] = {}
        self._fatal = fatal

    def reset(self) -> None:
        """Begin afresh, for the next run."""
        self._last = None
        self.reported = 0

    def report(self, error: ModuleError) -> None:
        """Take one report. Never raises on account of what the report is about."""
        self._last = error
        self.reported += 1
        self._hand_out(error)

    def _hand_out(self, error: ModuleError) -> None:
        logger = self._logger(error.module)
        level = _LEVELS.get(error.severity, logging.ERROR)
        if logger.isEnabledFor(level):
            where = f"{error.task_type} {error.task_name}: " if error.task_name else ""
            logger.log(level, "%s%s", where, error.message, exc_info=_exc_info(error, level))
        if self._stderr:
            self._write(error)
        if self.readers.listening:
            self.readers.publish(error)

    def _logger(self, module: str) -> logging.Logger:
        logger = self._loggers.get(module)
        if logger is None:
            name = f"trio_modules.{module}" if module else "trio_modules"
            logger = self._loggers[module] = logging.getLogger(name)
        return logger

    def caught(
        self,
        exc: BaseException,
        module: str,
        task_name: str,
        task_type: str,
        severity: str = "panic",
        now: float | None = None,
    ) -> None:
        """Report an exception of user code.

        The report is made when somebody reads it: an outage may bring thousands that nobody does.
        """
        now = trio.current_time() if now is None else now
        self._last = (module, task_name, task_type, severity, exc, now)
        self.reported += 1
        level = _LEVELS.get(severity, logging.ERROR)
        if self._stderr or self.readers.listening or self._logger(module).isEnabledFor(level):
            error = self.last_error
            assert error is not None
            self._hand_out(error)

    @property
    def last_error(self) -> ModuleError | None:
        """The newest report of this run, None before the first."""
        if isinstance(self._last, tuple):
            exc = self._last[4]
            self._last = ModuleError(shown(exc), *self._last)
        return self._last

    def pass_on(self, caught: Caught) -> None:
        """Hand what no guard may keep to the root supervisor."""
        for fatal in caught.fatal:
            self._fatal(fatal)

    def _write(self, error: ModuleError) -> None:
        lines = [
            f"===== {error.severity}: {error.module or 'app'} =====",
            f"{error.task_type} {error.task_name}".strip(),
            error.message,
            error.traceback.rstrip(),
            "===== end of report =====",
        ]
        # A stderr that is gone is no reason to lose the report, or what it is about.
        with contextlib.suppress(OSError, ValueError):
            print("\n".join(line for line in lines if line), file=sys.stderr, flush=True)


def _exc_info(error: ModuleError, level: int) -> BaseException | None:
    return error.exception if level == logging.ERROR else None
