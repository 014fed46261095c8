"""Tests for stats.py of the hub: how many messages came, and of which kind."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio
from hub_records import Source, record
from stats import Stats

from trio_modules import App

if TYPE_CHECKING:
    import pytest
    from trio.testing import MockClock


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if " messages within " in text]


async def test_every_minute_has_its_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The line of a minute counts by severity, and names the busiest second's count."""
    caplog.set_level(logging.INFO)
    source = Source()
    async with App(source, Stats(source.message)):
        began = trio.current_time()
        await trio.sleep_until(began + 1)
        await source.trigger_all(record(b"<14>x") for _ in range(3))
        await trio.sleep_until(began + 30)
        await source.trigger_all([record(b"<11>x"), record(b"no syslog")])
        assert lines(caplog) == []
        await trio.sleep_until(began + 61)
        await source.trigger_all([record(b"<8>x")])
        await trio.sleep_until(began + 181)
    assert lines(caplog) == [
        "5 messages within 60 s, at most 3 in a second: info 3, error 1, raw 1",
        "1 messages within 60 s, at most 1 in a second: emergency 1",
        "0 messages within 60 s, at most 0 in a second",
    ]


async def test_what_it_missed_is_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood beyond its buffer makes nobody wait, and is part of the line."""
    caplog.set_level(logging.INFO)
    source = Source()
    stats = Stats(source.message, buffer=100)
    async with App(source, stats):
        for _ in range(1_000):
            source.message.trigger_nowait(record(b"<14>x"))
        assert stats.dropped() == 900
        await trio.sleep(121)
    first, second = lines(caplog)
    assert first == "100 messages within 60 s, at most 100 in a second, 900 not counted: info 100"
    assert second == "0 messages within 60 s, at most 0 in a second"
