"""CPU-bound functions in processes, on two cores, beside the same calls one after another.

This is the one work that is measured by the wall clock: what it is about is doing two things at a
time, so whatever else the machine does shows in the figures.
"""

from __future__ import annotations

from time import perf_counter

import trio

from benchmarks.measuring import Work
from trio_modules import App, Module

CORES = 2
#: Twice the speed at best; 1.7 times is good enough.
GOAL = round(1 / 1.7, 2)


def burn(rounds: int = 300_000) -> int:
    total = 0
    for number in range(rounds):
        total += number * number % 7
    return total


async def on_all_cores(size: int) -> float:
    module = Module("bench")

    async def call(times: int) -> None:
        for _ in range(times):
            await module.run_sync_microtask(burn, where="process")

    async def calls(times: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(CORES):
                nursery.start_soon(call, times)

    async with App(module, max_concurrent_microtasks=CORES):
        await calls(1)  # the processes begin
        began = perf_counter()
        await calls(size // CORES)
        return (perf_counter() - began) / size


async def on_one(size: int) -> float:
    began = perf_counter()
    for _ in range(size):
        burn()
    return (perf_counter() - began) / size


WORK = Work(
    "processes",
    GOAL,
    100,
    on_all_cores,
    on_one,
    items=100,
    title="microtasks in processes, on two cores",
)
