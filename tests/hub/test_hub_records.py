"""Tests for records.py of the hub: the channel whose sender never waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hub_records import record
from records import Tap, TapStatistics

if TYPE_CHECKING:
    from records import Record


async def test_tap_passes_on_in_order() -> None:
    """What was offered comes out in order."""
    tap = Tap(3)
    records = [record(b"<13>%d" % n) for n in range(3)]
    for each in records:
        tap.offer(each)
    assert tap.statistics() == TapStatistics(waiting=3, taken=0, dropped=0)
    assert [await tap.receive(), *tap.receive_all_nowait()] == records
    assert tap.statistics() == TapStatistics(waiting=0, taken=3, dropped=0)
    assert tap.receive_all_nowait() == []


async def test_full_tap_drops_and_counts_the_oldest() -> None:
    """An offer to a full tap returns at once, and costs the oldest record."""
    tap = Tap(2)
    records = [record(b"<13>%d" % n) for n in range(5)]
    for each in records:
        tap.offer(each)
    assert tap.receive_all_nowait() == records[3:]
    assert tap.statistics() == TapStatistics(waiting=0, taken=2, dropped=3)


@pytest.mark.parametrize("size", [0, -1])
def test_tap_needs_room(size: int) -> None:
    """A tap without room could drop nothing to make some."""
    with pytest.raises(ValueError, match=f"size must be at least 1, not {size}"):
        Tap(size)


async def test_tap_takes_only_what_is_wanted() -> None:
    """A record that isn't wanted costs no place and isn't counted."""

    def is_urgent(record: Record) -> bool:
        return record.message.severity == 0

    tap = Tap(1, wanted=is_urgent)
    urgent = record(b"<8>urgent")
    for each in (urgent, record(b"<13>not"), record(b"neither")):
        tap.offer(each)
    assert tap.receive_all_nowait() == [urgent]
    assert tap.statistics() == TapStatistics(waiting=0, taken=1, dropped=0)
