"""Prints what arrives, one readable line each, as fast as somebody reads and no faster."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from time import localtime, strftime

import trio
from parsing import SEVERITIES
from records import Record

from trio_modules import (
    Backoff,
    Event,
    Module,
    Overflow,
    Restart,
    RestartModule,
    supervise,
)

__all__ = ["Console", "line"]

WIDTH = 1_000
STDOUT = 1
STOP_TIMEOUT = 1.0


class Console(Module):
    """Writes a line for each message to stdout, or leaves it out when stdout can't keep up.

    A stdout that fails for good, as a closed pipe does, puts this module out of service, and
    nothing else.
    """

    def __init__(
        self,
        messages: Event[Record],
        write: Callable[[bytes], None] | None = None,
        buffer: int = 1_000,
    ) -> None:
        # Nobody may read stdout, so what waits at a stop has not long to be printed.
        restart = Restart(max_restarts=0, exhausted="offline")
        super().__init__("console", stop_timeout=STOP_TIMEOUT, restart=restart)
        self._messages = messages
        self._write = write_to_stdout if write is None else write
        self._told_dropped = 0
        self._again = Restart(max_restarts=3, within=60, backoff=Backoff(initial=1))
        self.on_prep(self._reset)
        self.hook(
            messages,
            self._print,
            name="print",
            buffer=buffer,
            overflow=Overflow.DROP_OLDEST,
            batch=buffer,
        )

    def dropped(self) -> int:
        """Return how many messages were left out, since the app was entered."""
        hooks = self._messages.statistics().hooks
        return sum(hook.dropped for hook in hooks if hook.hook == f"{self.name}/print")

    async def _reset(self) -> None:
        self._told_dropped = 0

    async def _print(self, records: Sequence[Record]) -> None:
        output = self._format(records)
        try:
            await supervise(self._put_out, output, restart=self._again, on_failure=self._say_why)
        except OSError as error:
            raise RestartModule("stdout takes nothing") from error

    async def _put_out(self, output: bytes) -> None:
        # The hub must be able to leave without this thread.
        await trio.to_thread.run_sync(self._write, output, abandon_on_cancel=True)

    def _say_why(self, error: BaseException) -> None:
        self.logger.warning("can't print, trying again: %s", error)

    def _format(self, records: Iterable[Record]) -> bytes:
        dropped = self.dropped()
        missing, self._told_dropped = dropped - self._told_dropped, dropped
        lines = [f"... {missing} messages not shown"] if missing > 0 else []
        lines += map(line, records)
        return "".join(f"{text}\n" for text in lines).encode()


def line(record: Record) -> str:
    """Return the message as one line that is safe to show on a terminal."""
    message = record.message
    time = _clock(int((message.timestamp or record.received).timestamp()))
    app = message.app_name or "-"
    process = f"{app}[{message.procid}]" if message.procid else app
    number = message.severity
    severity = "raw" if number is None else SEVERITIES[number]
    text = f"{time} {message.hostname or record.peer} {process} {severity}: "
    return _printable(_shortened(text + message.text, cut=record.cut))


@lru_cache
def _clock(second: int) -> str:
    """Return the local time; many messages share a second, and this is most of a line's cost."""
    return strftime("%b %d %H:%M:%S", localtime(second))


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
