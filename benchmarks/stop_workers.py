"""Stop a module with 10,000 idle workers, beside cancelling a nursery of them."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from benchmarks.measuring import Work
from benchmarks.stopwatch import clock
from trio_modules import App, Module


async def ours(size: int) -> float:
    module = Module("bench")
    async with App(module):
        for _ in range(size):
            module.start_worker(trio.sleep_forever)
        await wait_all_tasks_blocked()
        began = clock()
    return (clock() - began) / size


async def floor(size: int) -> float:
    async with trio.open_nursery() as nursery:
        for _ in range(size):
            nursery.start_soon(trio.sleep_forever)
        await wait_all_tasks_blocked()
        began = clock()
        nursery.cancel_scope.cancel()
    return (clock() - began) / size


WORK = Work("stop-workers", 1.0, 10_000, ours, floor, title="stop 10,000 idle workers")
