"""Start 100,000 workers that end after one checkpoint."""

from __future__ import annotations

import trio

from benchmarks.measuring import Work
from benchmarks.stopwatch import clock
from trio_modules import App, Module


class Countdown:
    """Short work, and the moment when all of it is done."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.done = trio.Event()

    async def work(self) -> None:
        await trio.lowlevel.checkpoint()
        self.left -= 1
        if not self.left:
            self.done.set()


async def ours(size: int) -> float:
    module = Module("bench")
    countdown = Countdown(size)
    async with App(module):
        began = clock()
        for _ in range(size):
            module.start_worker(countdown.work)
        await countdown.done.wait()
        return (clock() - began) / size


async def floor(size: int) -> float:
    countdown = Countdown(size)
    async with trio.open_nursery() as nursery:
        began = clock()
        for _ in range(size):
            nursery.start_soon(countdown.work)
        await countdown.done.wait()
        return (clock() - began) / size


WORK = Work("short-workers", 1.10, 100_000, ours, floor, title="spawn and finish a worker")
