"""Says in the status of the hub when errors come too fast, and when that is over."""

from collections import deque
from math import inf

import trio
from records import Record, Tap

from trio_modules import Module

__all__ = ["ERROR_BURST", "Alerts", "Rate"]

ERROR_BURST = "error-burst"
ERROR = 3  # the severities up to this one, where 0 is the worst, are errors


class Rate:
    """Whether more than `limit` things happened within the last `window` seconds."""

    def __init__(self, limit: int, window: float) -> None:
        self._times: deque[float] = deque(maxlen=limit + 1)
        self._window = window

    def add(self, time: float) -> None:
        """Count one that happened at `time`, which is no earlier than the one before."""
        self._times.append(time)

    def exceeded_until(self) -> float:
        """Return the time from which on the rate is not exceeded unless more comes."""
        if len(self._times) < (self._times.maxlen or 0):
            return -inf
        return self._times[0] + self._window


class Alerts(Module):
    """Sets the warning "error-burst" while error messages come faster than a limit.

    Faster is: more than `limit` of them, of severity 3 ("error") or worse, within `window`
    seconds.
    """

    def __init__(self, limit: int = 10, window: float = 60.0) -> None:
        super().__init__("alerts")
        self._limit = limit
        self._window = window
        self._rate = Rate(limit, window)
        # Of what waits here only the newest limit + 1 could matter, so a drop changes nothing.
        self.tap = Tap(limit + 1, wanted=is_error)
        self.service_worker(self._watch, name="watch")

    async def _watch(self) -> None:
        while True:
            with trio.move_on_at(self._next_change()):
                record = await self.tap.receive()
                self._rate.add(record.arrived)
            self._show()

    def _next_change(self) -> float:
        return self._rate.exceeded_until() if ERROR_BURST in self.failures else inf

    def _show(self) -> None:
        exceeded = trio.current_time() < self._rate.exceeded_until()
        if exceeded and ERROR_BURST not in self.failures:
            message = f"more than {self._limit} error messages within {self._window:g} s"
            self.set_warning(ERROR_BURST, message)
            self.logger.warning(message)
        elif not exceeded and self.resolve(ERROR_BURST):
            self.logger.info("the burst of error messages is over")


def is_error(record: Record) -> bool:
    """Tell whether the message is at least an error; one without a valid priority is not."""
    severity = record.message.severity
    return severity is not None and severity <= ERROR
