"""Run the benchmarks, print a table, and write it with a picture where it is asked for."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from contextlib import nullcontext
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
from benchmarks.measuring import QUICK_PART, SCALES, Result, Work, measure
from benchmarks.page import write
from benchmarks.peering import Team, team
from benchmarks.picture import ratios_picture
from benchmarks.stopwatch import COLLECTORS, use_the_wall

WORKS: tuple[Work, ...] = (
    *start_stop.WORKS,
    *short_workers.WORKS,
    *cancellable_workers.WORKS,
    restarts.WORK,
    *idle_memory.WORKS,
    stop_workers.WORK,
    *stop_modules.WORKS,
    *tasks.WORKS,
    *microtasks.WORKS,
    processes.WORK,
    *events.WORKS,
    hub.WORK,
)
ROW = "{:<22} {:>12} {:>12} {:>7} {:>7} {:>13}  {}"


def main() -> None:
    options = parse()
    if options.dev and not sys.flags.dev_mode:
        command = [sys.executable, "-X", "dev", "-m", "benchmarks", *sys.argv[1:]]
        os.execv(sys.executable, command)
    if options.wall:
        use_the_wall()
    arguments = ["--gc", options.gc, *(["--wall"] if options.wall else [])]
    with team(options.peers, arguments) if options.peers else nullcontext(Team()) as peers:
        results = run(options, peers)
        record = recorded(results, peers, options)
    if options.output:
        write(options.output, "results", record, ratios_picture(record))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    known = [work.name for work in WORKS]
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, once")
    parser.add_argument("--wall", action="store_true", help="the time that passes, not the CPU's")
    parser.add_argument("--dev", action="store_true", help="under python -X dev")
    parser.add_argument(
        "--gc", choices=COLLECTORS, default="on", help="what the garbage collector does meanwhile"
    )
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="install the peers in DIR, and measure them, too"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write results.json and results.svg in DIR"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.names).difference(known):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return options


def run(options: argparse.Namespace, peers: Team) -> list[Result]:
    for name, reason in (peers.missing or {}).items():
        print(f"without {name}: {reason}")
    print(ROW.format("per item", "ours", "floor", "ratio", "goal", "spread", "").rstrip())
    results = []
    for work in WORKS:
        if not options.names or work.name in options.names:
            part = QUICK_PART if options.quick else 1
            able = peers.who_can(work.kind or work.name)
            results.append(measure(work, able, part=part, collector=options.gc))
            print(row(results[-1]), flush=True)
    return results


def row(result: Result) -> str:
    work, (low, high) = result.work, result.spread
    ours = ROW.format(
        work.name,
        shown(result.costs["ours"], work.unit),
        shown(result.costs["floor"], work.unit),
        f"{result.ratio():.2f}",
        f"{work.goal:.2f}" if work.goal is not None else "",
        f"{low:.2f} - {high:.2f}",
        "" if result.reached else "missed",
    )
    return "\n".join([ours.rstrip(), *peer_rows(result)])


def peer_rows(result: Result) -> list[str]:
    rows = []
    for name in result.sizes:
        if name in {"ours", "floor"}:
            continue
        if name in result.failed:
            rows.append(f"    {name}: {result.failed[name]}")
        else:
            cost = shown(result.costs[name], result.work.unit)
            rows.append(f"    {name:<18} {cost:>12} {'':>12} {result.ratio(name):>7.2f}")
    return rows


def shown(costs: list[float], unit: str) -> str:
    return f"{statistics.median(costs) * SCALES[unit]:.2f} {unit}"


def recorded(results: list[Result], peers: Team, options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures, and all that one has to know to judge them, in plain values."""
    return {
        "python": platform.python_version(),
        "trio": version("trio"),
        "machine": platform.machine(),
        "clock": "wall" if options.wall else "processor",
        "development mode": sys.flags.dev_mode,
        "collector": options.gc,
        "quick": options.quick,
        "peers": {peer.name: peer.version for peer in peers.contestants},
        "missing": peers.missing or {},
        "works": [recorded_work(result) for result in results],
    }


def recorded_work(result: Result) -> dict[str, Any]:
    work = result.work
    return {
        "name": work.name,
        "title": work.title or work.name,
        "goal": work.goal,
        "unit": work.unit,
        "sizes": result.sizes,
        "costs": {
            name: [float(f"{cost * SCALES[work.unit]:.4g}") for cost in costs]
            for name, costs in result.costs.items()
        },
        "failed": result.failed,
    }


if __name__ == "__main__":
    main()
