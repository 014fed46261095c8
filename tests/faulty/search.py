"""Run random services until one breaks a rule: ``python -m faulty.search FIRST END``.

The last line of what it prints is the seed and the rule, or "none".
"""

from __future__ import annotations

import logging
import sys

from services.build import run_seed
from services.check import check


def fault_of(seed: int) -> str:
    """The first thing that the service of that seed does wrong, "" for nothing."""
    try:
        for run in run_seed(seed):
            errors = check(run)
            if errors:
                return " ".join(errors[0].split())
    except BaseException as exc:
        return f"raised out of the run: {exc!r}"
    return ""


def main() -> None:
    logging.getLogger("trio_modules").setLevel(logging.CRITICAL + 1)
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        fault = fault_of(seed)
        if fault:
            sys.stdout.write(f"{seed} {fault}\n")
            return
    sys.stdout.write("none\n")


if __name__ == "__main__":
    main()
