"""Run very many random services, in several processes, and say what came of it.

``python -m services.soak --services 100000 --minutes 40``, from the folder of the tests, ends with
an error if a service breaks a rule, hangs, or leaves a thread, or if the memory grows.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

import attrs

from services.build import run_seed
from services.check import check, trace_of
from services.record import Run
from trio_modules import ModuleStatus

#: Real seconds for one service; the slowest takes about one.
PATIENCE = 180.0
#: Services between two looks at the memory.
LOOK_EVERY = 250
#: What may come of chance: so much more at the end than at the beginning.
OBJECTS_GROWTH, RSS_GROWTH = 1.02, 1.10
OBJECTS_SLACK, RSS_SLACK = 2_000, 8 * 2**20


@attrs.define
class Tally:
    """What has been done so far; all of it adds up."""

    scenarios: int = 0
    lives: int = 0
    hours: float = 0.0
    events: int = 0
    handled: int = 0
    tasks: int = 0
    microtasks: int = 0
    restarts: int = 0
    checks: int = 0

    def __add__(self, other: Tally) -> Tally:
        names = [field.name for field in attrs.fields(Tally)]
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in names})


@attrs.frozen
class Look:
    """The memory of one process, after so many services."""

    services: int
    objects: int
    rss: int


@attrs.frozen
class Report:
    """What one process has to say: at which seed it is, and what it did."""

    seed: int
    tally: Tally = attrs.field(factory=Tally)
    faults: tuple[str, ...] = ()
    looks: tuple[Look, ...] = ()
    is_over: bool = False


# ---------------------------------------------------------------- in each process


def tally_of(run: Run) -> Tally:
    """Count what one life of a service was made of."""
    records = run.records
    begun: dict[str, int] = {}
    for record in records:
        if record.kind == "begin":
            begun[record.what] = begun.get(record.what, 0) + 1
    return Tally(
        lives=1,
        hours=(records[-1].time - records[0].time) / 3600 if records else 0.0,
        events=sum(record.kind in ("sent", "nowait") for record in records),
        handled=begun.get("hook", 0),
        tasks=begun.get("job", 0),
        microtasks=sum(begun.get(role, 0) for role in ("micro", "microrun", "slot")),
        restarts=restarts_in(run),
        checks=run.steps + len(records),
    )


def restarts_in(run: Run) -> int:
    """How often a module, or a service worker, began anew."""
    seen: set[str] = set()
    restarts = 0
    for record in run.records:
        begun = [name for name, _, after in record.moves if after is ModuleStatus.STARTING]
        if record.kind == "begin" and record.what == "service":
            begun.append(record.text.partition("@")[0])
        restarts += sum(name in seen for name in begun)
        seen.update(begun)
    return restarts


def faults_of(seed: int) -> tuple[Tally, str]:
    """Run the service of *seed*; what it was made of, and what it did wrong."""
    tally = Tally(scenarios=1)
    threads = threading.active_count()
    for number, run in enumerate(run_seed(seed)):
        tally += tally_of(run)
        errors = check(run)
        if errors:
            tail = "\n".join(trace_of(run)[-40:])
            found = "\n".join(f"  - {error}" for error in errors)
            return tally, f"seed {seed}, round {number}:\n{found}\nthe end of its trace:\n{tail}"
    if threading.active_count() != threads:
        return tally, f"seed {seed}: it leaves threads: {threading.enumerate()}"
    return tally, ""


def look(services: int) -> Look:
    """Look at the memory of this process."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        rss = int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    else:  # the highest so far, which can only grow
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Look(services, len(gc.get_objects()), rss)


def work(seeds: range, until: float, reports: Connection) -> None:
    """What each process does."""
    logging.getLogger("trio_modules").setLevel(logging.CRITICAL + 1)
    tally = Tally()
    faults: list[str] = []
    looks: list[Look] = []
    seed = seeds.start
    for seed in seeds:
        reports.send(Report(seed))
        added, fault = faults_of(seed)
        tally += added
        if fault:
            faults.append(fault)
        if tally.scenarios % LOOK_EVERY == 0:
            looks.append(look(tally.scenarios))
        if time.time() >= until:
            break
    reports.send(Report(seed, tally, tuple(faults), tuple(looks), is_over=True))


# ---------------------------------------------------------------- in the first one


@attrs.define(eq=False)
class Worker:
    """A process, and when it was heard of."""

    process: multiprocessing.process.BaseProcess
    reports: Connection
    last: Report
    heard: float


def start(options: argparse.Namespace) -> list[Worker]:
    """Begin with all processes, each with every so manieth seed."""
    context = multiprocessing.get_context("spawn")
    until = time.time() + 60 * options.minutes
    end = options.first + options.services
    workers = []
    for number in range(options.processes):
        mine, theirs = context.Pipe(duplex=False)
        seeds = range(options.first + number, end, options.processes)
        process = context.Process(target=work, args=(seeds, until, theirs), daemon=True)
        process.start()
        theirs.close()
        workers.append(Worker(process, mine, Report(seeds.start), time.monotonic()))
    return workers


def follow(workers: list[Worker]) -> Iterator[str]:
    """Listen to all processes until they have ended; yield what is wrong with them."""
    living = list(workers)
    while living:
        for reports in wait([worker.reports for worker in living], timeout=1.0):
            worker = next(each for each in living if each.reports is reports)
            try:
                worker.last = worker.reports.recv()
            except EOFError:
                yield f"seed {worker.last.seed}: its process ended"
                living.remove(worker)
                continue
            worker.heard = time.monotonic()
            if worker.last.is_over:
                living.remove(worker)
        for worker in list(living):
            if time.monotonic() > worker.heard + PATIENCE:
                worker.process.kill()
                living.remove(worker)
                yield f"seed {worker.last.seed}: it hangs, after {PATIENCE:g} real seconds"


def growth(looks: tuple[Look, ...]) -> Iterator[str]:
    """What grows from the first quarter to the last one."""
    quarter = len(looks) // 4
    if not quarter:
        return
    first, last = looks[:quarter], looks[-quarter:]
    for name, factor, slack in (
        ("objects", OBJECTS_GROWTH, OBJECTS_SLACK),
        ("rss", RSS_GROWTH, RSS_SLACK),
    ):
        before = max(getattr(each, name) for each in first)
        after = min(getattr(each, name) for each in last)
        if after > before * factor + slack:
            yield f"{name} grow from {before:,} to {after:,}"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--services", type=int, default=100_000, help="how many")
    parser.add_argument("--minutes", type=float, default=40.0, help="and for how long at most")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    began = time.monotonic()
    workers = start(options)
    faults = list(follow(workers))
    took = time.monotonic() - began
    tally = sum((worker.last.tally for worker in workers), Tally())
    for worker in workers:
        faults += worker.last.faults
        faults += growth(worker.last.looks)
    for fault in faults:
        say(fault)
    summary(tally, took, workers)
    say(f"{len(faults)} faults")
    return 1 if faults else 0


def summary(tally: Tally, took: float, workers: list[Worker]) -> None:
    """Print what was done."""
    say(f"{tally.scenarios:,} services, {tally.lives:,} lives, in {took / 60:.1f} min")
    say(f"{tally.hours:,.0f} simulated hours")
    say(f"{tally.events:,} events triggered, {tally.handled:,} calls of hooks")
    say(f"{tally.tasks:,} executions of tasks, {tally.microtasks:,} microtasks")
    say(f"{tally.restarts:,} restarts")
    say(f"{tally.checks:,} checks, {tally.checks / took:,.0f} per second")
    for worker in workers:
        looks = worker.last.looks
        if looks:
            first, last = looks[0], looks[-1]
            objects = f"{first.objects:,} to {last.objects:,} objects"
            rss = f"{first.rss / 2**20:.1f} to {last.rss / 2**20:.1f} MiB"
            say(f"memory after {first.services} and {last.services} services: {objects}, {rss}")


if __name__ == "__main__":
    sys.exit(main())
