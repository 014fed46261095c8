"""Which exception leaves the block of an app: the first that applies.

(a) what is no `Exception`: alone if there is one, else in a group;
(b) what began the shutdown: the exception of the body or the command, `StartError`,
    `ModuleCrashed`;
(c) an exception of the body after it was cancelled;
(d) `ShutdownError`;
(e) the outer cancellation.

What loses is reported, and named in a note on what leaves.
"""

from __future__ import annotations

import trio

from trio_modules._exceptions import (
    BaseExceptionGroup,
    ModuleCrashed,
    ShutdownError,
    StartError,
    StopError,
    add_note,
    shown,
)
from trio_modules._reporting import Reporter

__all__ = ["Verdict"]


class Verdict:
    """What a run of an app has to answer for, collected while it lasts.

    Attributes:
        fatal: what is no `Exception`.
        began_by: the error that began the shutdown.
        late_body: what the body raised after it was cancelled.
        stop_errors: the stops that went wrong in the shutdown.
        cancelled: the outer cancellation, as the body raised it.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.fatal: list[BaseException] = []
        self.began_by: BaseException | None = None
        self.late_body: BaseException | None = None
        self.stop_errors: list[StopError] = []
        self.cancelled: BaseException | None = None
        self._reporter = reporter
        self._lost: list[BaseException] = []

    def lose(self, error: BaseException, *, reported: bool = False) -> None:
        """An error came too late to begin the shutdown: report it now, and note it later."""
        self._lost.append(error)
        if not reported:
            self._report(error)

    async def pronounce(self) -> None:
        """Raise what has to leave; see the head of this file for which it is."""
        found = [exc for exc in self._candidates() if exc is not None]
        winner = found[0] if found else None
        for loser in found[1:]:
            for error in self._parts(loser):
                self._report(error)
                _note(winner, error)
        for loser in self._lost:
            _note(winner, loser)
        if winner is not None:
            raise winner
        if self.cancelled is not None:
            raise self.cancelled
        await trio.lowlevel.checkpoint_if_cancelled()

    def _candidates(self) -> tuple[BaseException | None, ...]:
        fatal = self.fatal[0] if self.fatal else None
        if len(self.fatal) > 1:
            fatal = BaseExceptionGroup("several exceptions end the app", self.fatal)
        stopping = None
        if self.stop_errors:
            stopping = ShutdownError("the app did not stop cleanly", self.stop_errors)
        return fatal, self.began_by, self.late_body, stopping

    def _parts(self, loser: BaseException) -> list[BaseException]:
        return list(self.stop_errors) if isinstance(loser, ShutdownError) else [loser]

    def _report(self, error: BaseException) -> None:
        module = getattr(error, "module", None) or ""
        self._reporter.caught(error, module, "shutdown", "control")


def _note(winner: BaseException | None, loser: BaseException) -> None:
    """Name the loser; our own errors say more as text, with their cause, than as a call."""
    if winner is None:
        return
    ours = isinstance(loser, (StartError, StopError, ModuleCrashed))
    add_note(
        winner, f"besides: {type(loser).__name__}: {loser}" if ours else f"besides: {shown(loser)}"
    )
