"""Drives the hub and what talks to it as real processes."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from signal import Signals

APP = Path(__file__).parents[2] / "examples" / "syslog_hub" / "app.py"
GENERATOR = Path(__file__).with_name("generator.py")


class Output:
    """The lines that a process prints, to wait for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = trio.Event()
        self._ended = trio.Event()

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        """Collect what comes until the process closes its end."""
        rest = b""
        async for data in stream:
            *lines, rest = (rest + data).split(b"\n")
            self._add(line.decode() for line in lines)
        self._ended.set()
        self._add([rest.decode()] if rest else [])

    def _add(self, lines: Iterable[str]) -> None:
        self.lines.extend(lines)
        self._more.set()
        self._more = trio.Event()

    async def find(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """Wait for a line that matches, from the first line on."""
        seen = 0
        while True:
            for line in self.lines[seen:]:
                if match := re.search(pattern, line):
                    return match
            seen = len(self.lines)
            if self._ended.is_set():
                raise AssertionError(f"{pattern!r} is not in {self.lines!r}")
            await self._more.wait()

    async def text(self) -> str:
        """Wait for the end and return all of it."""
        await self._ended.wait()
        return "\n".join(self.lines)


@attrs.frozen
class Process:
    """A process and its output."""

    process: trio.Process
    stdout: Output
    stderr: Output

    async def send_signal(self, signal: Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(signal)
        return await self.process.wait()

    async def go_on(self) -> None:
        """Give it the line that it waits for."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"\n")

    async def wait(self) -> int:
        """Return the exit code."""
        return await self.process.wait()


@asynccontextmanager
async def process(
    *command: object, env: dict[str, str] | None = None, read_stdout: bool = True
) -> AsyncIterator[Process]:
    """Run a process for as long as the block; what still runs then is killed."""
    pipe = subprocess.PIPE
    running = await trio.lowlevel.open_process(
        [*map(str, command)], stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | (env or {})
    )
    stdout, stderr = Output(), Output()
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stderr is not None
    async with running.stdin, running.stdout, running.stderr, trio.open_nursery() as nursery:
        if read_stdout:
            nursery.start_soon(stdout.read, running.stdout)
        nursery.start_soon(stderr.read, running.stderr)
        try:
            yield Process(running, stdout, stderr)
        finally:
            running.kill()
            with trio.CancelScope(shield=True):
                await running.wait()


@attrs.frozen
class Hub(Process):
    """The hub, listening."""

    udp_port: int
    tcp_port: int


@asynccontextmanager
async def hub(database: Path, *options: object, read_stdout: bool = True) -> AsyncIterator[Hub]:
    """Run the hub on free ports."""
    run = [sys.executable, "-m", "trio_modules", "run", f"{APP}:make_app", "--"]
    ports = ["--udp-port", 0, "--tcp-port", 0]
    command = [*run, "--database", database, *ports, *options]
    async with process(*command, read_stdout=read_stdout) as running:
        udp = await running.stderr.find(r"listening on udp 127\.0\.0\.1:([0-9]+)")
        tcp = await running.stderr.find(r"listening on tcp 127\.0\.0\.1:([0-9]+)")
        yield Hub(running.process, running.stdout, running.stderr, int(udp[1]), int(tcp[1]))


@asynccontextmanager
async def generator(port: int, count: int, *options: object) -> AsyncIterator[Process]:
    """Run the generator, which sends `count` messages."""
    async with process(sys.executable, GENERATOR, port, count, *options) as running:
        yield running


@attrs.frozen
class Sent:
    """What the generator says at its end."""

    by_connection: list[int]
    longest: float
    """Seconds that the longest send took."""

    @property
    def total(self) -> int:
        """How many messages were sent."""
        return sum(self.by_connection)


async def sent(generator: Process) -> Sent:
    """Wait for the generator's end and return what it sent."""
    result = json.loads((await generator.stdout.find(r"^\{.*\}$"))[0])
    assert await generator.wait() == 0
    return Sent(result["sent"], result["longest"])


async def logger(port: int, *args: str) -> None:
    """Send a message with the `logger` of util-linux."""
    await trio.run_process(["logger", "-n", "127.0.0.1", "-P", str(port), *args])


def query(database: Path, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Ask the database, as any other process may while the hub runs."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql, parameters).fetchall()


def numbers(database: Path, run: int) -> dict[int, list[int]]:
    """Return the numbers of the generator's messages by connection, in the order stored."""
    sql = "SELECT app_name, text FROM messages WHERE run = ? AND NOT cut ORDER BY seq"
    found: dict[int, list[int]] = {}
    for connection, text in query(database, sql, [run]):
        found.setdefault(int(connection), []).append(int(text.split()[0]))
    return found


@asynccontextmanager
async def locked(database: Path) -> AsyncIterator[None]:
    """Hold the database's lock from another process for as long as the block."""
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    async with process(sys.executable, "-c", code, database) as locker:
        await locker.stdout.find("locked")
        yield
