"""Start 100,000 short workers that can each be cancelled alone, beside tasks that can't."""

from __future__ import annotations

import trio

from benchmarks.measuring import Work
from benchmarks.short_workers import Countdown, floor
from benchmarks.stopwatch import clock
from trio_modules import App, Module


async def ours(size: int) -> float:
    module = Module("bench")
    countdown = Countdown(size)
    async with App(module):
        began = clock()
        for _ in range(size):
            module.start_worker(countdown.work, cancel_scope=trio.CancelScope())
        await countdown.done.wait()
        return (clock() - began) / size


WORK = Work(
    "cancellable-workers", 1.85, 100_000, ours, floor, title="spawn and finish a cancellable worker"
)
