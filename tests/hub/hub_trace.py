"""Writes the trace of some simulated days of the hub, two if not said otherwise: a program.

    python hub_trace.py FILE [DAYS]

It simulates twice, and fails if the traces differ, or differ from what the file holds already:
the same seed is the same run, on every Python.
"""

from __future__ import annotations

import difflib
import logging
import sys
from itertools import islice
from pathlib import Path

from trio_modules.testing import FaultPlan, simulate

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "syslog_hub"))

from simulated_hub import make_app, nothing_lost

PLAN = FaultPlan(every=2 * 3600, targets=("store/*", "receiver/*", "stats/*", "alerts/*"))
SHOWN = 20
DAY = 86_400.0


def trace(days: float) -> str:
    """Simulate the hub and return what happened."""
    result = simulate(make_app, seed=1, duration=days * DAY, faults=PLAN, check=nothing_lost)
    result.assert_ok()
    return result.trace_text


def main(path: Path, days: float = 2) -> None:
    """Do what the command line says."""
    logging.disable()
    first, second = trace(days), trace(days)
    known = path.read_text() if path.exists() else first
    for name, text in (("this", first), ("once more", second)):
        lines = known.splitlines(), text.splitlines()
        difference = list(islice(difflib.unified_diff(*lines, "known", name, lineterm=""), SHOWN))
        if difference:
            sys.exit("\n".join(difference))
    path.write_text(known)
    print(f"{sys.version.split()[0]}: the same {len(known.splitlines()):,} lines")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
