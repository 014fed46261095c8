"""One heap of timers and one task that sleeps until the next of them is due."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import trio

__all__ = ["Timer", "Timers"]


class Timer:
    """A call that is due at a time; `cancel` takes it back."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, timers: Timers, when: float, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._timers.forgot_one()


class Timers:
    """The timers of one run of an app: O(log n) to set, O(1) to cancel.

    Cancelled entries leave the heap when they come up, or all together when they are the greater
    part of it, so that they never hold more memory than the living ones.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._dead = 0
        self._nap: trio.CancelScope | None = None
        self._task: trio.lowlevel.Task | None = None

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call *callback*, which must not raise, at the time *when* or as soon as it is past."""
        timer = Timer(self, when, callback)
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, timer))
        if self._nap is not None and when < self._nap.deadline:
            self._nap.deadline = when
        return timer

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* after so many seconds."""
        return self.at(trio.current_time() + seconds, callback)

    def forgot_one(self) -> None:
        """A timer was cancelled: count it, and sweep when most of the heap is dead."""
        self._dead += 1
        if self._dead > 64 and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the main task, which ends all in order
    async def run(self) -> None:
        """Call what is due, for ever; ends by being cancelled."""
        self._task = trio.lowlevel.current_task()
        while True:
            self._call_due()
            deadline = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=deadline) as self._nap:
                await trio.lowlevel.wait_task_rescheduled(self._wake)
            self._nap = None

    def _wake(self, _: object) -> trio.lowlevel.Abort:
        """End the nap: plainly when it is over, which is far cheaper than raising `Cancelled`."""
        assert self._nap is not None
        assert self._task is not None
        if not self._nap.cancel_called:
            return trio.lowlevel.Abort.SUCCEEDED  # cancelled from outside
        trio.lowlevel.reschedule(self._task)
        return trio.lowlevel.Abort.FAILED

    def _call_due(self) -> None:
        now = trio.current_time()
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._dead -= 1
            else:
                callback()
