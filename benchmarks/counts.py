"""How many machine instructions the hot paths take: the same on a busy machine as on an idle one.

Each path is run under valgrind's callgrind for two sizes, by ours and by its floor; the difference
of the two, per item, has no part in it of starting and stopping. Hashes, scheduling and the clock
are made deterministic, and no garbage is collected meanwhile. What grew by more than 3 % since the
last counts that the repository keeps for this minor version of Python is named, with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trio
from trio._core import _run
from trio.testing import MockClock

from benchmarks import events, microtasks, restarts, short_workers, tasks
from benchmarks.measuring import Measure
from benchmarks.page import COUNTS, load
from benchmarks.peering import ROOT
from benchmarks.stopwatch import fair_round

PATHS: dict[str, dict[str, Measure]] = {
    "spawn": {"ours": short_workers.ours, "floor": short_workers.floor},
    "trigger": {"ours": events.bursts(1), "floor": events.channel_bursts(1)},
    "trigger, awaited": {"ours": events.awaited(1), "floor": events.channel_sends(1)},
    "trigger, awaited by 10": {"ours": events.awaited(10), "floor": events.channel_sends(10)},
    "queue": {
        "ours": tasks.queued(tasks.return_at_once),
        "floor": tasks.read(tasks.return_at_once),
    },
    "slot": {
        "ours": microtasks.started(microtasks.return_at_once),
        "floor": microtasks.limited(microtasks.return_at_once),
    },
    "restart": {"ours": restarts.ours, "floor": restarts.floor},
}
SIDES = ("ours", "floor")
# Multiples of a burst of events.
SIZES = (1_000, 3_000)
TOLERATED = 1.03
# A function of the C library that nothing else here calls: callgrind counts anew whenever it is.
MARK = "getppid"
TOTAL = re.compile(r"^totals: ([0-9]+)$", re.MULTILINE)
CHILD = "import sys; from benchmarks.counts import run; run(sys.argv[1])"


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.counts", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep these counts in the repository")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(PATHS)}")
    options = parser.parse_args()
    if unknown := set(options.names).difference(PATHS):
        parser.error(f"no hot path is called {', '.join(sorted(unknown))}")
    if shutil.which("valgrind") is None:
        parser.exit(2, "valgrind is not installed: the instructions can't be counted\n")
    counts = count(options.names or list(PATHS))
    kept = load(COUNTS) if COUNTS.exists() else {}
    minor = ".".join(platform.python_version_tuple()[:2])
    grown = report(counts, kept.get(minor, {}).get("paths"), minor)
    if options.keep:
        keep(counts, kept, minor)
    elif grown:
        parser.exit(1, f"more than 3 % above what is kept: {', '.join(grown)}\n")


def count(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the instructions per item of each path, ours and its floor."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(instructions, names), strict=True))


def instructions(name: str) -> dict[str, int]:
    """Run one path in a process under callgrind, and return what it counted per item."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out")
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        child = [sys.executable, "-c", CHILD, name]
        ended = subprocess.run(
            [*tool, f"--dump-before={MARK}", *child],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": "0"},
            cwd=ROOT,
            check=False,
        )
        # The first has what comes before the first mark.
        totals = [total(out.with_suffix(f".{part}")) for part in range(2, 6)]
    if ended.returncode or None in totals:
        raise RuntimeError(f"counting {name} failed: {ended.stderr[-500:]}")
    return per_item([each for each in totals if each is not None])


def total(dump: Path) -> int | None:
    found = TOTAL.search(dump.read_text(encoding="utf-8")) if dump.exists() else None
    return int(found[1]) if found else None


def per_item(totals: Sequence[int]) -> dict[str, int]:
    """Return what an item takes, from the totals of each side for few and for many."""
    few, many = SIZES
    pairs = zip(SIDES, (totals[:2], totals[2:]), strict=True)
    return {side: round((most - least) / (many - few)) for side, (least, most) in pairs}


def run(name: str) -> None:
    """Do the work of one path in a way that is the same each time: ours twice, the floor twice."""
    scheduler: Any = _run
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r = random.Random(0)
    for side in SIDES:  # what is run for the first time is specialized by the interpreter
        once(PATHS[name][side], SIZES[0])
    for side in SIDES:
        for size in SIZES:
            os.getppid()
            once(PATHS[name][side], size)
    os.getppid()


def once(measure: Measure, size: int) -> None:
    with fair_round("off"):
        trio.run(measure, size, clock=MockClock(autojump_threshold=0))


def report(
    counts: Mapping[str, Mapping[str, int]],
    kept: Mapping[str, Mapping[str, int]] | None,
    minor: str,
) -> list[str]:
    """Print the counts beside those kept, and return which of ours grew too much."""
    if kept is None:
        print(f"no counts are kept for Python {minor}; --keep keeps these")
    print(f"{'instructions':<10} {'ours':>9} {'floor':>9} {'ratio':>6} {'kept':>9} {'change':>8}")
    grown = []
    for name, both in counts.items():
        before = (kept or {}).get(name, {}).get("ours")
        ratio = both["ours"] / both["floor"]
        print(f"{name:<12} {both['ours']:>9,} {both['floor']:>9,} {ratio:>6.2f}", end="")
        if before is not None:
            change = both["ours"] / before
            print(f" {before:>9,} {100 * (change - 1):>+7.1f}%", end="")
            if change > TOLERATED:
                grown.append(f"{name} by {100 * (change - 1):.1f} %")
        print()
    return grown


def keep(counts: dict[str, dict[str, int]], kept: dict[str, Any], minor: str) -> None:
    """Put the counts in the place of those of this version; paths not counted stay."""
    paths = kept.get(minor, {}).get("paths", {}) | counts
    kept[minor] = {"python": platform.python_version(), "trio": version("trio"), "paths": paths}
    ordered = {each: kept[each] for each in sorted(kept, key=lambda text: int(text.split(".")[1]))}
    COUNTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
