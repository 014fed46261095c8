"""Says in the status of the hub when errors come too fast, and when that is over."""

from collections import deque
from math import inf

import trio
from records import Record

from trio_modules import Event, Module, Overflow

__all__ = ["ERROR_BURST", "Alerts", "Rate"]

ERROR_BURST = "error-burst"


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

    def __init__(self, errors: Event[Record], limit: int = 10, window: float = 60.0) -> None:
        super().__init__("alerts")
        self._limit = limit
        self._window = window
        self._rate = Rate(limit, window)
        self._burst = trio.Event()
        # Of what waits here only the newest limit + 1 could matter, so a drop changes nothing.
        # That holds for an event of errors alone: among all messages they would be pushed out.
        self.hook(
            errors, self._count, name="count", buffer=limit + 1, overflow=Overflow.DROP_OLDEST
        )
        self.service_worker(self._watch, name="watch")

    async def _count(self, record: Record) -> None:
        self._rate.add(record.arrived)
        self._show()

    async def _watch(self) -> None:
        """See the end of each burst, which no message tells."""
        while True:
            await self._burst.wait()
            while ERROR_BURST in self.failures:
                await trio.sleep_until(self._rate.exceeded_until())
                self._show()
            self._burst = trio.Event()

    def _show(self) -> None:
        exceeded = trio.current_time() < self._rate.exceeded_until()
        if exceeded and ERROR_BURST not in self.failures:
            message = f"more than {self._limit} error messages within {self._window:g} s"
            self.set_warning(ERROR_BURST, message)
            self.logger.warning(message)
            self._burst.set()
        elif not exceeded and self.resolve(ERROR_BURST):
            self.logger.info("the burst of error messages is over")
