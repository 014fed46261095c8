"""Makes records for the tests of the hub's modules."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import trio
from parsing import parse
from records import Record

from trio_modules import Module

if TYPE_CHECKING:
    from collections.abc import Iterable

RECEIVED = datetime(2026, 11, 24, 14, 12, tzinfo=timezone.utc)


def record(data: bytes, *, arrived: float | None = None, cut: bool = False) -> Record:
    """Return a record of `data` as the receiver makes them."""
    now = trio.current_time() if arrived is None else arrived
    return Record(parse(data, RECEIVED, timezone.utc), data, "tcp", "peer:1", RECEIVED, now, cut)


class Source(Module):
    """Has the receiver's events and its name, and listens nowhere."""

    def __init__(self, depends_on: Iterable[str] = ()) -> None:
        super().__init__("receiver", depends_on=depends_on)
        self.message = self.event("message", Record)
        self.error = self.event("error", Record)

    async def trigger_all(self, records: Iterable[Record]) -> None:
        """Trigger the event for each."""
        for each in records:
            await self.message.trigger(each)
