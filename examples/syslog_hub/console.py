"""Prints what arrives, one readable line each, as fast as somebody reads and no faster."""

import os
import sys
from collections.abc import Callable, Iterable

import trio
from parsing import SEVERITIES
from records import Record, Tap

from trio_modules import Backoff, Module, Restart

__all__ = ["Console", "line"]

WIDTH = 1_000
STDOUT = 1


class Console(Module):
    """Writes a line for each message to stdout, or leaves it out when stdout can't keep up.

    A stdout that fails for good, as a closed pipe does, puts this module out of service, and
    nothing else.
    """

    def __init__(self, write: Callable[[bytes], None] | None = None, buffer: int = 1_000) -> None:
        super().__init__("console", restart=Restart(max_restarts=0, exhausted="offline"))
        self.tap = Tap(buffer)
        self._write = write_to_stdout if write is None else write
        self._told_dropped = 0
        restart = Restart(max_restarts=3, within=60, backoff=Backoff(initial=1))
        self.service_worker(self._print, name="print", restart=restart)

    async def _print(self) -> None:
        while True:
            first = await self.tap.receive()
            output = self._format([first, *self.tap.receive_all_nowait()])
            # Nobody may read stdout, so the hub must be able to leave without this thread.
            await trio.to_thread.run_sync(self._write, output, abandon_on_cancel=True)

    def _format(self, records: Iterable[Record]) -> bytes:
        dropped = self.tap.statistics().dropped
        missing, self._told_dropped = dropped - self._told_dropped, dropped
        lines = [f"... {missing} messages not shown"] if missing else []
        lines += map(line, records)
        return "".join(f"{text}\n" for text in lines).encode()


def line(record: Record) -> str:
    """Return the message as one line that is safe to show on a terminal."""
    message = record.message
    time = (message.timestamp or record.received).astimezone()
    app = message.app_name or "-"
    process = f"{app}[{message.procid}]" if message.procid else app
    severity = "raw" if message.severity is None else SEVERITIES[message.severity]
    text = f"{time:%b %d %H:%M:%S} {message.hostname or record.peer} {process} {severity}: "
    return _printable(_shortened(text + message.text, cut=record.cut))


def _shortened(text: str, *, cut: bool) -> str:
    return text[:WIDTH] + "…" if cut or len(text) > WIDTH else text


def _printable(text: str) -> str:
    """Escape what would move the cursor, switch colours or turn the writing direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_to_stdout(output: bytes) -> None:
    """Write to the file descriptor, past `sys.stdout`.

    A thread that was left behind in there would hold its lock, which Python takes at its end.
    """
    if sys.__stdout__ is None:
        return  # started without one, and the descriptor may be anything by now
    while output:
        output = output[os.write(STDOUT, output) :]
