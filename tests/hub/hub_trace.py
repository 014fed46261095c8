"""Writes the trace of two simulated days of the hub: a program of its own.

    python hub_trace.py FILE

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


def trace() -> str:
    """Simulate the hub and return what happened."""
    result = simulate(make_app, seed=1, duration=2 * 86_400, faults=PLAN, check=nothing_lost)
    result.assert_ok()
    return result.trace_text


def main(path: Path) -> None:
    """Do what the command line says."""
    logging.disable()
    first, second = trace(), trace()
    known = path.read_text() if path.exists() else first
    for name, text in (("this", first), ("once more", second)):
        lines = known.splitlines(), text.splitlines()
        difference = list(islice(difflib.unified_diff(*lines, "known", name, lineterm=""), SHOWN))
        if difference:
            sys.exit("\n".join(difference))
    path.write_text(known)
    print(f"{sys.version.split()[0]}: the same {len(known.splitlines()):,} lines")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
