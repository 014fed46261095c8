"""What an idle worker and an idle module hold in memory, beside a bare sleeping task."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from benchmarks.measuring import Work
from benchmarks.memory import traced
from trio_modules import App, Module


async def worker(size: int) -> float:
    module = Module("bench")
    async with App(module):
        with traced() as held:
            for _ in range(size):
                module.start_worker(trio.sleep_forever)
            await wait_all_tasks_blocked()
            return held() / size


async def module(size: int) -> float:
    """The declaration counts, too: an app holds its modules for as long as it lives."""
    names = [f"m{number}" for number in range(size)]
    with traced() as held:
        async with App(*map(Module, names)):
            await wait_all_tasks_blocked()
            return held() / size


async def task(size: int) -> float:
    async with trio.open_nursery() as nursery:
        with traced() as held:
            for _ in range(size):
                nursery.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
            cost = held() / size
        nursery.cancel_scope.cancel()
    return cost


WORKS = (
    Work("worker-memory", 1.0, 10_000, worker, task, unit="B", title="memory of an idle worker"),
    Work("module-memory", 2.5, 10_000, module, task, unit="B", title="memory of an idle module"),
)
