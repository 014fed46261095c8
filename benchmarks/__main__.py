"""Run the benchmarks and print a table."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import (
    cancellable_workers,
    events,
    hub,
    idle_memory,
    microtasks,
    processes,
    restarts,
    short_workers,
    start_stop,
    stop_modules,
    stop_workers,
    tasks,
)
from benchmarks.measuring import Result, Work, measure

WORKS: tuple[Work, ...] = (
    *start_stop.WORKS,
    short_workers.WORK,
    cancellable_workers.WORK,
    restarts.WORK,
    *idle_memory.WORKS,
    stop_workers.WORK,
    stop_modules.WORK,
    *tasks.WORKS,
    *microtasks.WORKS,
    processes.WORK,
    *events.WORKS,
    hub.WORK,
)
SCALES = {"µs": 1e6, "B": 1.0}
ROW = "{:<22} {:>12} {:>12} {:>7} {:>7} {:>13}  {}"


def main() -> None:
    options = parse()
    names = options.names or [work.name for work in WORKS]
    print(ROW.format("per item", "ours", "floor", "ratio", "goal", "spread", ""))
    results = []
    for work in WORKS:
        if work.name in names:
            results.append(measure(work, quick=options.quick))
            print(row(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(record(results), indent=2) + "\n")


def parse() -> argparse.Namespace:
    known = [work.name for work in WORKS]
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    options = parser.parse_args()
    if unknown := set(options.names).difference(known):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return options


def row(result: Result) -> str:
    work, (low, high) = result.work, result.spread
    return ROW.format(
        work.name,
        shown(result.ours, work.unit),
        shown(result.floor, work.unit),
        f"{result.ratio:.2f}",
        f"{work.goal:.2f}",
        f"{low:.2f} - {high:.2f}",
        "" if result.reached else "missed",
    )


def shown(costs: list[float], unit: str) -> str:
    return f"{statistics.median(costs) * SCALES[unit]:.2f} {unit}"


def record(results: list[Result]) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "trio": version("trio"),
        "machine": platform.machine(),
        "works": [
            {
                "name": result.work.name,
                "ours": result.ours,
                "floor": result.floor,
                "ratio": result.ratio,
                "goal": result.work.goal,
            }
            for result in results
        ],
    }


if __name__ == "__main__":
    main()
