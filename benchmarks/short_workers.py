"""Start 100,000 workers that end after one checkpoint.

The second work, without a goal, says what its promise costs in the plainest code that keeps it:
that a worker's failure ends no other worker, and that the module knows how many there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

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


class Counted:
    """Runs functions, counts them, and keeps what they raise."""

    def __init__(self) -> None:
        self.started = self.ended = 0
        self.failures: list[BaseException] = []

    def start(self, nursery: trio.Nursery, fn: Callable[[], Awaitable[None]]) -> None:
        nursery.start_soon(self.contain, fn, name=fn)
        self.started += 1

    async def contain(self, fn: Callable[[], Awaitable[None]]) -> None:
        try:
            await fn()
        except trio.Cancelled:
            raise
        except BaseException as exc:
            self.failures.append(exc)
        finally:
            self.ended += 1


async def contained(size: int) -> float:
    countdown, counted = Countdown(size), Counted()
    async with trio.open_nursery() as nursery:
        began = clock()
        for _ in range(size):
            counted.start(nursery, countdown.work)
        await countdown.done.wait()
        return (clock() - began) / size


WORKS = (
    Work("short-workers", 1.10, 100_000, ours, floor, title="spawn and finish a worker"),
    Work(
        "short-workers-contained",
        None,
        100_000,
        ours,
        contained,
        title="the same, beside tasks that are counted and whose failures end nobody",
    ),
)
