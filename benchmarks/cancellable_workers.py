"""Start 100,000 short workers that can each be cancelled alone, beside tasks that can't."""

from __future__ import annotations

from time import process_time

import trio

from benchmarks.measuring import Work
from benchmarks.short_workers import Countdown, floor
from trio_modules import App, Module


async def ours(size: int) -> float:
    module = Module("bench")
    countdown = Countdown(size)
    async with App(module):
        began = process_time()
        for _ in range(size):
            module.start_worker(countdown.work, cancel_scope=trio.CancelScope())
        await countdown.done.wait()
        return (process_time() - began) / size


WORK = Work("cancellable-workers", 1.85, 100_000, ours, floor)
