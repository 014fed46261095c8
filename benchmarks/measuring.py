"""How everything here is measured: ours and its floor in turns, each round in a fresh run.

Time is the processor's, since nothing that is measured here waits: so what else a machine does
disturbs the figures less.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
from trio.testing import MockClock

REPETITIONS = 5
# A small work is run so often that a repetition handles about this many items, if it is cheap.
ITEMS = 10_000
# The quick variant shows that everything runs; its figures say little.
QUICK_PART = 10

# Does the work for so many items and returns what one of them cost.
Measure = Callable[[int], Awaitable[float]]


@dataclass(frozen=True)
class Work:
    """One work, done by the package and by the least honest code in raw Trio.

    `goal` is the highest ratio of the two that is good enough. What has to stay below a figure has
    that for its floor.
    """

    name: str
    goal: float
    size: int
    ours: Measure
    floor: Measure
    floor_size: int | None = None
    unit: str = "µs"
    items: int = ITEMS
    repetitions: int = REPETITIONS
    mock_clock: bool = False


@dataclass(frozen=True)
class Result:
    """The costs per item, one of each for every repetition."""

    work: Work
    ours: list[float]
    floor: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.floor)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest ratio of one repetition."""
        ratios = [ours / floor for ours, floor in zip(self.ours, self.floor, strict=True)]
        return min(ratios), max(ratios)

    @property
    def reached(self) -> bool:
        return self.ratio <= self.work.goal


def measure(work: Work, *, quick: bool = False) -> Result:
    part = QUICK_PART if quick else 1
    size, floor_size = work.size // part, (work.floor_size or work.size) // part
    ours: list[float] = []
    floor: list[float] = []
    # The first of each fills caches and is thrown away.
    for _ in range(2 if quick else work.repetitions + 1):
        ours.append(_repetition(work, work.ours, size))
        floor.append(_repetition(work, work.floor, floor_size))
    return Result(work, ours[1:], floor[1:])


def _repetition(work: Work, cost: Measure, size: int) -> float:
    return statistics.fmean(_round(work, cost, size) for _ in range(max(1, work.items // size)))


def _round(work: Work, cost: Measure, size: int) -> float:
    gc.collect()
    clock = MockClock(autojump_threshold=0) if work.mock_clock else None
    return trio.run(cost, size, clock=clock)
