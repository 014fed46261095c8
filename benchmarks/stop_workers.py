"""Stop a module with 10,000 idle workers, beside cancelling a nursery of them."""

from __future__ import annotations

from time import process_time

import trio
from trio.testing import wait_all_tasks_blocked

from benchmarks.measuring import Work
from trio_modules import App, Module


async def ours(size: int) -> float:
    module = Module("bench")
    async with App(module):
        for _ in range(size):
            module.start_worker(trio.sleep_forever)
        await wait_all_tasks_blocked()
        began = process_time()
    return (process_time() - began) / size


async def floor(size: int) -> float:
    async with trio.open_nursery() as nursery:
        for _ in range(size):
            nursery.start_soon(trio.sleep_forever)
        await wait_all_tasks_blocked()
        began = process_time()
        nursery.cancel_scope.cancel()
    return (process_time() - began) / size


WORK = Work("stop-workers", 1.0, 10_000, ours, floor)
