"""One sender, any number of readers: those that lag lose the oldest, counted, and block nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

from trio_modules._util import check_count

__all__ = ["Broadcast"]

T = TypeVar("T")


class Broadcast(Generic[T]):
    """Values for whoever has subscribed, each reader with a buffer of its own.

    Attributes:
        lost: how many values slow readers have missed.
        listening: whoever has subscribed; while that is nobody no value need be made.
    """

    __slots__ = ("listening", "lost")

    def __init__(self) -> None:
        self.lost = 0
        self.listening: dict[trio.MemorySendChannel[T], trio.MemoryReceiveChannel[T]] = {}

    def publish(self, value: T) -> None:
        """Hand *value* to every reader; a full one loses its oldest value."""
        for sender, spare in list(self.listening.items()):
            try:
                sender.send_nowait(value)
            except trio.WouldBlock:
                spare.receive_nowait()
                self.lost += 1
                sender.send_nowait(value)

    def end(self) -> None:
        """End all subscriptions: their readers see what is buffered, then the end of channel."""
        for sender, spare in self.listening.items():
            sender.close()
            spare.close()
        self.listening.clear()

    @asynccontextmanager
    async def subscribe(self, buffer: int) -> AsyncIterator[trio.MemoryReceiveChannel[T]]:
        """The channel of a new reader, open as long as the block."""
        check_count("buffer", buffer, minimum=1)
        sender, receiver = trio.open_memory_channel[T](buffer)
        # The spare end is what makes room in a full buffer, and keeps a reader that closed its
        # own end early from breaking the sender.
        self.listening[sender] = receiver.clone()
        try:
            await trio.lowlevel.checkpoint()
            yield receiver
        finally:
            receiver.close()
            spare = self.listening.pop(sender, None)
            if spare is not None:
                spare.close()
                sender.close()
