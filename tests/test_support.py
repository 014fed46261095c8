"""Tests of the helpers that other tests use."""

from __future__ import annotations

from typing import Any

import trio
from support import deterministic_scheduling
from trio._core import _run

TASKS = 8
STEPS = 4


async def trace_of_steps() -> list[int]:
    """Return the order in which concurrent tasks took their steps."""
    trace: list[int] = []

    async def step(number: int) -> None:
        for _ in range(STEPS):
            trace.append(number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(step, number)
    return trace


def run_with(seed: int) -> list[int]:
    with deterministic_scheduling(seed):
        return trio.run(trace_of_steps)


def test_one_seed_gives_one_order() -> None:
    """two runs with the same seed take their steps in the same order."""
    assert run_with(1) == run_with(1)


def test_seeds_give_different_orders() -> None:
    """different seeds lead to different orders."""
    assert len({tuple(run_with(seed)) for seed in range(5)}) > 1


def test_the_scheduler_is_left_as_it_was() -> None:
    """after the block the scheduler's switch and its random state are what they were."""
    scheduler: Any = _run
    before = (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate())
    with deterministic_scheduling(3):
        scheduler._r.random()
    assert (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()) == before
