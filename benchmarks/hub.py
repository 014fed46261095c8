"""The syslog hub beside a collector in raw Trio: messages per second over TCP, until stored.

Each takes 100,000 messages from a process of its own, over four connections, and is told to leave
when the sender has finished.  Time runs from the first messages sent until the collector has left,
that is until each message is in SQLite.  Ours is the whole hub, which prints and counts, too.
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from time import perf_counter

import trio

from benchmarks.measuring import Work

ROOT = Path(__file__).parents[1]
HUB = ROOT / "examples" / "syslog_hub"
GENERATOR = ROOT / "tests" / "hub" / "generator.py"

MESSAGES = 100_000
REPETITIONS = 5
GOAL = 0.8

OURS = ("-m", "trio_modules", "run", f"{HUB / 'app.py'}:make_app", "--")
PORTS = ("--udp-port=0", "--tcp-port=0")
RAW = ("-m", "benchmarks.raw_collector")


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.hub", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, once")
    quick = parser.parse_args().quick
    count, repetitions = (MESSAGES // 10, 1) if quick else (MESSAGES, REPETITIONS)
    ours, raw = [], []
    for _ in range(repetitions):
        ours.append(rate(count, hub_arguments))
        raw.append(rate(count, collector_arguments))
        print(
            f"hub {ours[-1]:>9,.0f}   raw {raw[-1]:>9,.0f}   {ours[-1] / raw[-1]:.2f}", flush=True
        )
    hub, floor = statistics.median(ours), statistics.median(raw)
    missed = "" if hub / floor >= GOAL else "  missed"
    print(f"medians, messages/s: hub {hub:,.0f}  raw {floor:,.0f}")
    print(f"ratio {hub / floor:.2f}  goal at least {GOAL}{missed}")


def hub_arguments(database: Path) -> list[str]:
    return [*OURS, "--database", str(database), *PORTS]


def collector_arguments(database: Path) -> list[str]:
    return [*RAW, str(database)]


async def cost_of_hub(size: int) -> float:
    return 1 / await trio.to_thread.run_sync(rate, size, hub_arguments)


async def cost_of_collector(size: int) -> float:
    return 1 / await trio.to_thread.run_sync(rate, size, collector_arguments)


def rate(count: int, arguments: Callable[[Path], list[str]]) -> float:
    """Return how many messages per second one collector takes and stores."""
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory, "syslog.db")
        seconds = measure(count, arguments(database))
        with closing(sqlite3.connect(database)) as connection:
            [stored] = connection.execute("SELECT count(*) FROM messages").fetchone()
    if stored != count:
        raise RuntimeError(f"{stored} messages are stored instead of {count}")
    return count / seconds


def measure(count: int, arguments: list[str]) -> float:
    path = os.pathsep.join([str(ROOT), str(HUB)])
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as collector:
        assert collector.stderr is not None
        return time_of_sending(count, listening(collector.stderr), collector)


def listening(lines: Iterable[str]) -> int:
    """Wait until the collector says on which port it listens."""
    for line in lines:
        if found := re.search(r"listening on tcp 127\.0\.0\.1:([0-9]+)", line):
            return int(found[1])
    raise RuntimeError("the collector does not listen")


def time_of_sending(count: int, port: int, collector: subprocess.Popen[str]) -> float:
    command = [sys.executable, str(GENERATOR), str(port), str(count)]
    command += ["--connections=4", "--pause=1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as sender:
        assert sender.stdin is not None
        assert sender.stdout is not None
        assert sender.stdout.readline() == "paused\n"
        began = perf_counter()
        sender.stdin.write("\n")
        sender.stdin.flush()
        sender.wait()
    collector.terminate()
    collector.communicate()
    if collector.returncode:
        raise RuntimeError(f"the collector left with exit code {collector.returncode}")
    return perf_counter() - began


# Unlike elsewhere time is the wall's, as the sender feels it: the work is done in other processes.
WORK = Work(
    "hub", 1 / GOAL, MESSAGES, cost_of_hub, cost_of_collector, title="the syslog hub, a message"
)


if __name__ == "__main__":
    main()
