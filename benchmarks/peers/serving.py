"""A peer's side: it reads a work, a size and how often, and answers with the mean cost.

Each line is JSON.  The first answer, unasked, says which works the peer does and up to which size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from statistics import fmean

from benchmarks.stopwatch import COLLECTORS, fair_round, use_the_wall

Measure = Callable[[int], Awaitable[float]]


@dataclass(frozen=True)
class PeerWork:
    """What a peer does in place of ours; *most* is the size from which on it takes too long."""

    measure: Measure
    most: int | None = None


def serve(
    works: Mapping[str, PeerWork], run: Callable[[Measure, int], float], package: str | None = None
) -> None:
    """Answer until nothing more is asked; what a peer prints goes to stderr."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--gc", choices=COLLECTORS, default="on")
    options = parser.parse_args()
    if options.wall:
        use_the_wall()
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    installed = version(package) if package else ".".join(map(str, sys.version_info[:3]))
    answer({"version": installed, "works": {name: work.most for name, work in works.items()}})
    for line in sys.stdin:
        name, size, times = json.loads(line)
        with fair_round(options.gc):
            answer(fmean(run(works[name].measure, size) for _ in range(times)))
