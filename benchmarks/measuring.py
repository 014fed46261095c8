"""How everything here is measured: ours, its floor and the peers in turns, each in a fresh run."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio
from trio.testing import MockClock

from benchmarks.peering import Contestant, PeerFailed
from benchmarks.stopwatch import fair_round

REPETITIONS = 5
# Works that vary a lot from round to round are repeated more often, or are cut into many rounds:
# a machine that others use is now faster, now slower, for seconds at a time.
MORE_REPETITIONS = 15
MANY_REPETITIONS = 45
# A small work is run so often that a repetition handles about this many items, if it is cheap.
ITEMS = 10_000
# Peers, some of which are slow, handle about this many in theirs.
PEER_ITEMS = 2_000
# The quick variant shows that everything runs; its figures say little.
QUICK_PART = 10
# What is measured, seconds or bytes, times this is in the unit that is shown.
SCALES = {"µs": 1e6, "B": 1.0}

# Does the work for so many items and returns what one of them cost.
Measure = Callable[[int], Awaitable[float]]


@dataclass(frozen=True)
class Work:
    """One work, done by the package and by the least honest code in raw Trio.

    `goal` is the highest ratio of the two that is good enough, None where the other is there for
    comparison. What has to stay below a figure has that for its floor. `kind` is what the peers
    call the work, if not by its name. `least` is the plainest code that keeps the promises of ours.
    """

    name: str
    goal: float | None
    size: int
    ours: Measure
    floor: Measure
    floor_size: int | None = None
    unit: str = "µs"
    items: int = ITEMS
    repetitions: int = REPETITIONS
    mock_clock: bool = False
    kind: str | None = None
    title: str = ""
    least: Measure | None = None


@dataclass(frozen=True)
class Result:
    """The costs per item of all who took part, one for every repetition; why some didn't."""

    work: Work
    costs: dict[str, list[float]]
    sizes: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def ratio(self, name: str = "ours") -> float:
        return statistics.median(self.costs[name]) / statistics.median(self.costs["floor"])

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest ratio of one repetition."""
        pairs = zip(self.costs["ours"], self.costs["floor"], strict=True)
        ratios = [ours / floor for ours, floor in pairs]
        return min(ratios), max(ratios)

    @property
    def reached(self) -> bool:
        return self.work.goal is None or self.ratio() <= self.work.goal


def measure(
    work: Work, peers: Sequence[Contestant] = (), *, part: int = 1, collector: str = "on"
) -> Result:
    """Measure a part of the work; a peer that fails once takes part no more."""
    kind, size = work.kind or work.name, work.size // part
    sizes = {"ours": size, "floor": (work.floor_size or work.size) // part}
    runs: dict[str, Callable[[int, int], float]] = {
        "ours": partial(_mean, work, work.ours, collector),
        "floor": partial(_mean, work, work.floor, collector),
    }
    if work.least is not None:
        sizes["least"] = size
        runs["least"] = partial(_mean, work, work.least, collector)
    items = dict.fromkeys(runs, work.items // part)
    for peer in peers:
        sizes[peer.name] = peer.size(kind, size)
        runs[peer.name] = partial(peer.cost, kind)
        items[peer.name] = min(work.items, PEER_ITEMS) // part
    costs: dict[str, list[float]] = {name: [] for name in runs}
    failed: dict[str, str] = {}
    # The first of each fills caches and is thrown away.
    for _ in range(1 + (work.repetitions if part == 1 else 1)):
        for name in list(runs):
            times = max(1, items[name] // sizes[name])
            try:
                costs[name].append(runs[name](sizes[name], times))
            except PeerFailed as failure:
                failed[name] = str(failure)
                del runs[name], costs[name]
    return Result(work, {name: each[1:] for name, each in costs.items()}, sizes, failed)


def _mean(work: Work, cost: Measure, collector: str, size: int, times: int) -> float:
    with fair_round(collector):
        return statistics.fmean(_run(work, cost, size) for _ in range(times))


def _run(work: Work, cost: Measure, size: int) -> float:
    clock = MockClock(autojump_threshold=0) if work.mock_clock else None
    return trio.run(cost, size, clock=clock)
