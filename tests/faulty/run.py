"""Try every fault: is it caught by the random services, how soon, and by which rule?

``python -m faulty.run``, from the folder of the tests, prints a table, and ends with an error if
too few are caught, or if the package as it is isn't found to be right.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

import trio_modules
from faulty.catalogue import FAULTS, Fault

SEEDS = 2000
#: Real seconds for all seeds of one fault.
PATIENCE = 1800.0
#: The share of the faults that has to be caught.
LEAST = 0.9

#: What the rules say, and the invariant that this is about; the first that fits.
INVARIANTS = (
    (r"hangs|takes more than|raised out of the run", "none: it hangs, or breaks down"),
    (r"after the block|tasks lived|leaves threads", "1 nothing outlives the block"),
    (r"a run of .* begins while|is offline while this goes on", "3 offline is offline"),
    (r"stop function|lifespans|where .* should|while this goes on", "4 stopped once, at last"),
    (r"Cancelled|control exception|was cancelled|no Cancelled", "5 cancellation"),
    (r"reported|is lost|raised to|leaves the block|leave as", "6 every exception once"),
    (r"slots|settle|restarted after|are executed|at a time|failures", "8 limits"),
    (r"hook|event|trigger|subscription|task|microtask", "7 events and tasks"),
    (r"counts|own account|is left|status\(\) shows|workers of", "10 counters agree"),
    (r"ONLINE|online|shutdown|OFFLINE|start|stop|depend|body|settled", "2 order"),
)


@attrs.frozen
class Result:
    """What came of one fault.

    Attributes:
        seed: the one that caught it, None if none did.
        rule: what that says.
        took: real seconds.
    """

    fault: str
    seed: int | None
    rule: str
    took: float

    @property
    def invariant(self) -> str:
        found = (name for pattern, name in INVARIANTS if re.search(pattern, self.rule))
        return "-" if self.seed is None else next(found, "?")


def try_one(fault: Fault | None, seeds: range) -> Result:
    """Put a fault into a copy of the package, and run random services on that."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "trio_modules"
        shutil.copytree(Path(trio_modules.__file__).parent, package)
        if fault is not None:
            fault.put_into(package)
        seed, rule = search(folder, seeds)
    return Result("(none)" if fault is None else fault.name, seed, rule, time.monotonic() - began)


def search(folder: str, seeds: range) -> tuple[int | None, str]:
    """Run the services in a process of their own; the first that finds something, and what."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "faulty.search", str(seeds.start), str(seeds.stop)]
    paths = [folder, str(tests), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        # Not in the folder of the tests: what stands beside it would come before the copy.
        done = subprocess.run(
            command,
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return seeds.start, f"it hangs: all took more than {PATIENCE:g} real seconds"
    lines = done.stdout.splitlines() or [""]
    seed, _, rule = lines[-1].partition(" ")
    if seed == "none":
        return None, ""
    if not seed.isdigit():
        return seeds.start, f"raised out of the run: {done.stderr.splitlines()[-1:]}"
    return int(seed), rule


def table(results: list[Result], first: int) -> Iterator[str]:
    """What is printed."""
    width = max(len(result.fault) for result in results)
    for result in results:
        caught = "not caught"
        if result.seed is not None:
            caught = f"seed {result.seed:4}, after {result.seed - first + 1:4}"
        line = f"{result.fault:{width}}  {caught:21}  {result.invariant:31}"
        yield f"{line} {result.took:5.0f} s  {result.rule[:90]}"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("words", nargs="*", help="only faults with one of these words")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    words = options.words or [""]
    chosen = [fault for fault in FAULTS if any(word in fault.name for word in words)]
    with ThreadPoolExecutor(options.processes) as pool:
        found = pool.map(lambda fault: try_one(fault, seeds), [None, *chosen])
        results = []
        for result in found:
            results.append(result)
            say(next(table([result], options.first)))
    return verdict(results, options.first)


def verdict(results: list[Result], first: int) -> int:
    """Print the table, and say whether that is good enough."""
    unmended, *faulty = results
    caught = [result for result in faulty if result.seed is not None]
    say("")
    for line in table(results, first):
        say(line)
    say(f"{len(caught)} of {len(faulty)} faults are caught")
    if unmended.seed is not None:
        say(f"the package itself breaks a rule, with seed {unmended.seed}: {unmended.rule}")
    return int(unmended.seed is not None or len(caught) < LEAST * len(faulty))


if __name__ == "__main__":
    sys.exit(main())
