"""What the modules hand to each other, and the channel that never makes the sender wait."""

from collections.abc import Callable
from datetime import datetime
from typing import Literal

import attrs
import trio
from parsing import Message

__all__ = ["Record", "Tap", "TapStatistics", "Transport"]

Transport = Literal["tcp", "udp"]


@attrs.frozen
class Record:
    """A message as it was received."""

    message: Message
    data: bytes
    """The bytes that the message was read from."""
    transport: Transport
    peer: str
    received: datetime
    """Wall time, aware, UTC: for people."""
    arrived: float
    """The same moment on Trio's clock: for measuring."""
    cut: bool = False
    """True when the message went on after `data`."""


@attrs.frozen
class TapStatistics:
    """What became of the records that a tap was offered and wanted."""

    waiting: int
    taken: int
    dropped: int


class Tap:
    """A memory channel that loses its oldest record rather than making the sender wait.

    `wanted` chooses what goes into it.
    """

    def __init__(self, size: int, wanted: Callable[[Record], bool] = lambda _: True) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size!r}")
        self._wanted = wanted
        self._send, self._receive = trio.open_memory_channel[Record](size)
        self._offered = 0
        self._dropped = 0

    def offer(self, record: Record) -> None:
        """Put `record` in; where there is no room the oldest makes some."""
        if not self._wanted(record):
            return
        self._offered += 1
        try:
            self._send.send_nowait(record)
        except trio.WouldBlock:
            self._receive.receive_nowait()
            self._dropped += 1
            self._send.send_nowait(record)

    async def receive(self) -> Record:
        """Wait for the oldest record and take it."""
        return await self._receive.receive()

    def receive_all_nowait(self) -> list[Record]:
        """Take what is there."""
        waiting = self._receive.statistics().current_buffer_used
        return [self._receive.receive_nowait() for _ in range(waiting)]

    def statistics(self) -> TapStatistics:
        """Return the counts; they begin with the program and never go back."""
        waiting = self._receive.statistics().current_buffer_used
        return TapStatistics(waiting, self._offered - self._dropped - waiting, self._dropped)
