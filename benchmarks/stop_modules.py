"""Stop 10,000 idle modules, beside cancelling a nursery of as many tasks."""

from __future__ import annotations

from trio.testing import wait_all_tasks_blocked

from benchmarks.measuring import Work
from benchmarks.stop_workers import floor
from benchmarks.stopwatch import clock
from trio_modules import App, Module


async def ours(size: int) -> float:
    async with App(*(Module(f"m{number}") for number in range(size))):
        await wait_all_tasks_blocked()
        began = clock()
    return (clock() - began) / size


WORK = Work("stop-modules", 1.5, 10_000, ours, floor, title="stop 10,000 idle modules")
