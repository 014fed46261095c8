"""Makes records for the tests of the hub's modules."""

from __future__ import annotations

from datetime import datetime, timezone

import trio
from parsing import parse
from records import Record

RECEIVED = datetime(2026, 11, 24, 14, 12, tzinfo=timezone.utc)


def record(data: bytes, *, arrived: float | None = None, cut: bool = False) -> Record:
    """Return a record of `data` as the receiver makes them."""
    now = trio.current_time() if arrived is None else arrived
    return Record(parse(data, RECEIVED, timezone.utc), data, "tcp", "peer:1", RECEIVED, now, cut)
