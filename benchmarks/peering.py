"""Our side of the conversation with the peers: their environments, their processes.

A peer that can't be installed or fails is named with the reason in the results; it stops nothing.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# A round that takes longer ends the peer's process: it was asked for more than it can do.
SECONDS_FOR_AN_ANSWER = 120.0
STAMP = "installed.txt"


@dataclass(frozen=True)
class Peer:
    """Another package, or none; *file* is the one in `peers` that knows how to use it."""

    name: str
    file: str
    requirements: tuple[str, ...] = ()

    def python(self, directory: Path) -> str:
        """Return the interpreter of the peer's environment in *directory*."""
        if not self.requirements:
            return sys.executable
        return str(directory / self.file / "bin" / "python")


PEERS = (
    Peer("asyncio", "asyncio_alone"),
    Peer("Mode", "mode", ("mode-streaming",)),
    Peer("triotp", "triotp", ("triotp", "tenacity", "logbook")),
    Peer("asphalt", "asphalt", ("asphalt",)),
    Peer("aiojobs", "aiojobs", ("aiojobs",)),
    Peer("APScheduler 3", "apscheduler3", ("apscheduler<4",)),
    Peer("APScheduler 4", "apscheduler4", ("apscheduler==4.0.0a6",)),
    Peer("async-service", "async_service", ("async-service",)),
)


class PeerFailed(Exception):
    """A peer doesn't start, dies, or takes too long."""


def install(peers: Sequence[Peer], directory: Path) -> dict[str, str]:
    """Give each peer an environment in *directory*; return why some could not get one."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = pool.map(lambda peer: _install(peer, directory), peers)
        return {peer.name: reason for peer, reason in zip(peers, reasons, strict=True) if reason}


def _install(peer: Peer, directory: Path) -> str | None:
    """Return the last line of what was said if that fails."""
    wanted = f"{sys.version}\n{peer.requirements}\n"
    stamp = directory / peer.file / STAMP
    if not peer.requirements or (stamp.exists() and stamp.read_text() == wanted):
        return None
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(directory / peer.file)],
        [peer.python(directory), "-m", "pip", "install", "--quiet", *peer.requirements],
    ):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            return _reason(ended.stderr or ended.stdout)
    stamp.write_text(wanted)
    return None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a word"])[-1]


def _reason(text: str) -> str:
    """The line with pip's error: it may show the place below that."""
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    return _last_line("\n".join(errors) or text)


class Process:
    """A peer's process: begun when it is asked for something, and again after it failed."""

    def __init__(self, command: Sequence[str], seconds: float = SECONDS_FOR_AN_ANSWER) -> None:
        self._command = command
        self._seconds = seconds
        self._running = ExitStack()
        self._process: subprocess.Popen[str] | None = None
        self.greeting: dict[str, Any] = {}

    def start(self) -> None:
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the process has ended
        self._said = self._running.enter_context(said)
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self._running.callback(self._process.communicate)
        self._running.callback(self._process.kill)
        self.greeting = self._answer()

    def ask(self, *question: object) -> float:
        """Let the peer do a work of a size so many times, and return the mean cost per item."""
        if self._process is None:
            self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            in_time = bool(selector.select(self._seconds))
        line = self._process.stdout.readline() if in_time else ""
        if line:
            return json.loads(line)
        reason = self._last_words() if in_time else f"it took more than {self._seconds:g} seconds"
        self.end()
        raise PeerFailed(reason)

    def _last_words(self) -> str:
        self._said.seek(0)
        return f"it died: {_last_line(self._said.read())}"

    def end(self) -> None:
        self._running.close()
        self._process = None


class Contestant:
    """A peer that runs, and what it can do: for each work up to which size, None for any."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self._process = process
        self.version: str = process.greeting["version"]
        self.works: dict[str, int | None] = process.greeting["works"]

    def size(self, work: str, size: int) -> int:
        """Return how many items it handles where others handle *size*."""
        return min(size, self.works[work] or size)

    def cost(self, work: str, size: int, times: int) -> float:
        return self._process.ask(work, size, times)


@dataclass(frozen=True)
class Team:
    """The peers that run, and why those are missing that don't."""

    contestants: Sequence[Contestant] = ()
    missing: dict[str, str] | None = None

    def who_can(self, work: str) -> list[Contestant]:
        return [contestant for contestant in self.contestants if work in contestant.works]


@contextmanager
def team(
    directory: Path, arguments: Sequence[str], peers: Sequence[Peer] = PEERS
) -> Iterator[Team]:
    """Install the peers in *directory*, and run them in the block."""
    missing = install(peers, directory)
    processes = {
        peer.name: Process(_command(peer, directory, arguments))
        for peer in peers
        if peer.name not in missing
    }
    contestants = []
    try:
        for name, process in processes.items():
            try:
                process.start()
            except PeerFailed as failed:
                missing[name] = str(failed)
            else:
                contestants.append(Contestant(name, process))
        yield Team(contestants, missing)
    finally:
        for process in processes.values():
            process.end()


def _command(peer: Peer, directory: Path, arguments: Sequence[str]) -> list[str]:
    development = ("-X", "dev") if sys.flags.dev_mode else ()
    module = f"benchmarks.peers.{peer.file}"
    return [peer.python(directory), *development, "-W", "ignore", "-m", module, *arguments]
