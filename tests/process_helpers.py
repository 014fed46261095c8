"""Runs small programs as real processes, and waits for what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

import trio_modules

# For a process that hangs. Nothing here waits for this long when all is well.
TIME_LIMIT = 20
CLI = ("-m", "trio_modules")
PACKAGE_PARENT = Path(trio_modules.__file__).parents[1]


def environment() -> dict[str, str]:
    """Return the environment in which a process finds the package that is tested."""
    path = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


class Output:
    """The text that a process prints, as it comes."""

    def __init__(self) -> None:
        self.text = ""
        self._ended = False
        self._changed = trio.Event()

    async def collect(self, stream: trio.abc.ReceiveStream) -> None:
        async for data in stream:
            self.text += data.decode()
            self._tell()
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def find(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Wait for a text that matches, wherever it stands from *start* on."""
        looked_for = re.compile(pattern, re.MULTILINE)
        while (match := looked_for.search(self.text, start)) is None:
            if self._ended:
                raise AssertionError(f"{pattern!r} is not in this:\n{self.text}")
            await self._changed.wait()
        return match

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@attrs.frozen
class Running:
    """A running program."""

    process: trio.Process
    stdout: Output
    stderr: Output
    _read: trio.Event

    def send(self, signal: int) -> None:
        self.process.send_signal(signal)

    async def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{line}\n".encode())

    async def ready(self) -> None:
        """Wait for the line by which a program says that it is where the test wants it."""
        await self.stdout.find(r"^ready$")

    async def exit_code(self) -> int:
        """Wait for its end and for all that it printed."""
        await self.process.wait()
        await self._read.wait()
        code = self.process.returncode
        assert code is not None
        return code


@asynccontextmanager
async def python(
    *args: object, cwd: Path | None = None, read_stderr: bool = True
) -> AsyncIterator[Running]:
    """Run Python for as long as the block; what runs longer is killed."""
    pipe = subprocess.PIPE
    process = await trio.lowlevel.open_process(
        [sys.executable, *map(str, args)],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        cwd=cwd,
        env=environment(),
    )
    running = Running(process, Output(), Output(), trio.Event())
    assert process.stdin is not None
    try:
        with trio.fail_after(TIME_LIMIT):
            async with process.stdin, trio.open_nursery() as nursery:
                nursery.start_soon(_collect, running, read_stderr)
                try:
                    yield running
                finally:
                    process.kill()
                    with trio.CancelScope(shield=True):
                        await process.wait()
    except trio.TooSlowError:
        printed = f"stdout:\n{running.stdout.text}\nstderr:\n{running.stderr.text}"
        raise AssertionError(f"it took more than {TIME_LIMIT} s\n{printed}") from None


async def _collect(running: Running, read_stderr: bool) -> None:
    process = running.process
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdout, process.stderr, trio.open_nursery() as nursery:
        nursery.start_soon(running.stdout.collect, process.stdout)
        if read_stderr:
            nursery.start_soon(running.stderr.collect, process.stderr)
        else:
            await process.wait()
    running._read.set()


@attrs.frozen
class Ended:
    """A program that has ended."""

    code: int
    stdout: str
    stderr: str


async def run_python(*args: object, cwd: Path | None = None) -> Ended:
    """Run Python to its end."""
    async with python(*args, cwd=cwd) as running:
        code = await running.exit_code()
    return Ended(code, running.stdout.text, running.stderr.text)
