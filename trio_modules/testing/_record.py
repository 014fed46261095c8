"""What is written down of a simulation while it goes on."""

from __future__ import annotations

import trio

from trio_modules.testing._trace import TraceEntry, Violation

__all__ = ["Record"]

_MOST_VIOLATIONS = 20


class Record:
    """The trace of a simulation, and what is wrong with it.

    Attributes:
        trace: what happened.
        violations: which promises were broken.
        checks: how often something was checked.
        restarts: how often service workers and modules were started again.
        stop: cancelled when a promise is broken: it makes no sense to go on.
    """

    def __init__(self) -> None:
        self.trace: list[TraceEntry] = []
        self.violations: list[Violation] = []
        self.checks = self.restarts = 0
        self.stop = trio.CancelScope()

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
