"""2,000 service workers fail once at the same moment and restart without delay."""

from __future__ import annotations

import logging

import trio
from trio.testing import wait_all_tasks_blocked

from benchmarks.measuring import Work
from benchmarks.stopwatch import clock
from trio_modules import App, Backoff, Module, Restart

AT_ONCE = Restart(backoff=Backoff(initial=0))


class Outage:
    """Work that fails when the outage comes, and runs for ever the second time."""

    def __init__(self, size: int) -> None:
        self.fresh = [True] * size
        self.left = size
        self.comes = trio.Event()
        self.over = trio.Event()

    async def work(self, number: int) -> None:
        if self.fresh[number]:
            self.fresh[number] = False
            await self.comes.wait()
            raise OSError("no answer")
        self.left -= 1
        if not self.left:
            self.over.set()
        await trio.sleep_forever()

    async def time(self) -> float:
        """The time from the failure to the moment when all run again; starting isn't part of it."""
        await wait_all_tasks_blocked()
        began = clock()
        self.comes.set()
        await self.over.wait()
        return clock() - began


async def ours(size: int) -> float:
    module = Module("bench")
    outage = Outage(size)
    logging.disable()
    try:
        async with App(module, restart_settle=0):
            for number in range(size):
                module.start_service_worker(outage.work, number, restart=AT_ONCE)
            return await outage.time() / size
    finally:
        logging.disable(logging.NOTSET)


async def floor(size: int) -> float:
    outage = Outage(size)

    async def restarting(number: int) -> None:
        while True:
            try:
                await outage.work(number)
            except Exception:
                continue

    async with trio.open_nursery() as nursery:
        for number in range(size):
            nursery.start_soon(restarting, number)
        cost = await outage.time() / size
        nursery.cancel_scope.cancel()
    return cost


WORK = Work("restarts", 2.0, 2_000, ours, floor, title="2,000 workers restart at one moment")
