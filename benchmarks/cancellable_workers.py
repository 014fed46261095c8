"""Start 100,000 short workers that can each be cancelled alone, beside tasks that can't.

The second work, without a goal, has the least beside it that can be cancelled: a task with a scope.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

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


async def within(scope: trio.CancelScope, fn: Callable[[], Awaitable[None]]) -> None:
    with scope:
        await fn()


async def scoped(size: int) -> float:
    countdown = Countdown(size)
    async with trio.open_nursery() as nursery:
        began = clock()
        for _ in range(size):
            nursery.start_soon(within, trio.CancelScope(), countdown.work)
        await countdown.done.wait()
        return (clock() - began) / size


WORKS = (
    Work(
        "cancellable-workers",
        1.85,
        100_000,
        ours,
        floor,
        title="spawn and finish a cancellable worker",
    ),
    Work(
        "cancellable-workers-scoped",
        None,
        100_000,
        ours,
        scoped,
        title="the same, beside tasks with a scope",
    ),
)
