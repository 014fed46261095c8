"""100,000 microtasks that take turns for 8 slots, beside tasks that share a limiter.

Two floors, since it depends on the program what raw Trio would do in their place: a task for each,
as whoever starts them without waiting needs it, or eight tasks that are there already and take
one item after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from benchmarks.measuring import Work
from benchmarks.stopwatch import clock
from trio_modules import App, Module, Priority

SLOTS = 8


async def return_at_once() -> None:
    pass


async def yield_once() -> None:
    await trio.lowlevel.checkpoint()


class Countdown:
    """Calls a function so many times by `run`, and says when that is done."""

    def __init__(self, fn: Callable[[], Awaitable[None]], size: int) -> None:
        self.fn = fn
        self.left = size
        self.done = trio.Event()

    async def run(self) -> None:
        await self.fn()
        self.left -= 1
        if not self.left:
            self.done.set()


def started(fn: Callable[[], Awaitable[None]]) -> Callable[[int], Awaitable[float]]:
    async def measure(size: int) -> float:
        module = Module("bench")
        work = Countdown(fn, size)
        async with App(module, max_concurrent_microtasks=SLOTS):
            run = work.run
            began = clock()
            for _ in range(size):
                module.start_microtask(run, priority=Priority.MEDIUM)
            await work.done.wait()
            return (clock() - began) / size

    return measure


def limited(fn: Callable[[], Awaitable[None]]) -> Callable[[int], Awaitable[float]]:
    """As many tasks as there are slots share the work: nothing is spawned for an item."""

    async def measure(size: int) -> float:
        limiter = trio.CapacityLimiter(SLOTS)

        async def run() -> None:
            for _ in range(size // SLOTS):
                async with limiter:
                    await fn()

        began = clock()
        async with trio.open_nursery() as nursery:
            for _ in range(SLOTS):
                nursery.start_soon(run)
        return (clock() - began) / size

    return measure


def spawned(fn: Callable[[], Awaitable[None]]) -> Callable[[int], Awaitable[float]]:
    """A task for each item, which waits for a slot."""

    async def measure(size: int) -> float:
        limiter = trio.CapacityLimiter(SLOTS)
        work = Countdown(fn, size)

        async def run() -> None:
            async with limiter:
                await work.run()

        async with trio.open_nursery() as nursery:
            began = clock()
            for _ in range(size):
                nursery.start_soon(run)
            await work.done.wait()
            return (clock() - began) / size

    return measure


async def in_place(size: int) -> float:
    module = Module("bench")
    async with App(module, max_concurrent_microtasks=SLOTS):
        began = clock()
        for _ in range(size):
            await module.run_microtask(return_at_once, priority=Priority.MEDIUM)
        return (clock() - began) / size


async def with_limiter(size: int) -> float:
    limiter = trio.CapacityLimiter(SLOTS)
    began = clock()
    for _ in range(size):
        async with limiter:
            await return_at_once()
    return (clock() - began) / size


WORKS = (
    Work(
        "microtasks",
        0.40,
        100_000,
        started(return_at_once),
        spawned(return_at_once),
        title="microtasks that return at once",
    ),
    Work(
        "microtasks-yield",
        0.90,
        100_000,
        started(yield_once),
        spawned(yield_once),
        title="microtasks that yield once",
    ),
    Work(
        "microtasks-few-tasks",
        None,
        100_000,
        started(return_at_once),
        limited(return_at_once),
        title="the same, beside eight tasks",
    ),
    Work(
        "microtasks-few-tasks-yield",
        None,
        100_000,
        started(yield_once),
        limited(yield_once),
        title="yielding ones beside eight tasks",
    ),
    Work(
        "microtasks-in-place",
        None,
        100_000,
        in_place,
        with_limiter,
        title="microtasks in the caller's task",
    ),
)
