"""Stop 10,000 idle modules, beside cancelling a nursery of as many tasks.

The second work, without a goal, has the least beside it that can stop one without the others, and
in order: a task, a nursery and a deadline for each.
"""

from __future__ import annotations

import trio
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


class Idle:
    """What a module needs to stop by itself, when those that depend on it have stopped."""

    def __init__(self, dependencies: tuple[Idle, ...] = ()) -> None:
        self.dependencies = dependencies
        self.dependents = 0
        self.nursery: trio.Nursery | None = None
        self.stopping = trio.Event()

    async def live(self) -> None:
        for other in self.dependencies:
            other.dependents += 1
        async with trio.open_nursery() as self.nursery:
            await self.stopping.wait()
            self.nursery.cancel_scope.deadline = trio.current_time() + 30.0
            self.nursery.cancel_scope.cancel()
        for other in self.dependencies:
            other.dependents -= 1
            other.stop_unless_needed()

    def stop_unless_needed(self) -> None:
        if not self.dependents:
            self.stopping.set()


async def one_by_one(size: int) -> float:
    modules = [Idle() for _ in range(size)]
    async with trio.open_nursery() as root:
        for module in modules:
            root.start_soon(module.live)
        await wait_all_tasks_blocked()
        began = clock()
        for module in modules:
            module.stop_unless_needed()
    return (clock() - began) / size


WORKS = (
    Work("stop-modules", 1.5, 10_000, ours, floor, title="stop 10,000 idle modules"),
    Work(
        "stop-modules-in-order",
        None,
        10_000,
        ours,
        one_by_one,
        title="the same, beside the least that stops them in order",
    ),
)
