"""Tests for alerts.py of the hub: a burst of errors in the status, and its end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio
from alerts import ERROR_BURST, Alerts, Rate
from hub_records import Source, record
from hypothesis import given
from hypothesis import strategies as st
from records import is_error
from trio.testing import wait_all_tasks_blocked

from trio_modules import App, FailureLevel

if TYPE_CHECKING:
    from trio.testing import MockClock

ERROR = b"<11>error"
WARNING = b"<12>warning"


def offer(source: Source, data: bytes, count: int = 1) -> None:
    """Trigger what the receiver does for such a message."""
    for _ in range(count):
        each = record(data)
        source.message.trigger_nowait(each)
        if is_error(each):
            source.error.trigger_nowait(each)


@given(
    gaps=st.lists(st.integers(0, 10), max_size=30),
    limit=st.integers(0, 5),
    window=st.integers(1, 10),
    later=st.integers(0, 12),
)
def test_rate_counts_a_sliding_window(gaps: list[int], limit: int, window: int, later: int) -> None:
    """The rate is exceeded while more than `limit` times lie less than `window` back."""
    rate = Rate(limit, window)
    times = [sum(gaps[:n]) for n in range(1, len(gaps) + 1)]
    for time in times:
        rate.add(time)
    now = (times[-1] if times else 0) + later
    within = [time for time in times if now < time + window]
    assert (now < rate.exceeded_until()) == (len(within) > limit)


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"<8>x", True), (b"<11>x", True), (b"<12>x", False), (b"<11>1 2003-", True), (b"x", False)],
)
def test_errors_are_severity_3_and_worse(data: bytes, expected: bool) -> None:
    """Severities 0 to 3 are errors, also where only the priority can be read."""
    assert is_error(record(data, arrived=0)) == expected


async def test_burst_is_a_warning_until_it_is_over(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One error too many within the window sets the warning; it goes when they have stopped."""
    caplog.set_level(logging.INFO)
    source = Source()
    alerts = Alerts(source.error, limit=3, window=60)
    async with App(source, alerts) as app:
        began = trio.current_time()
        offer(source, ERROR, 3)
        await wait_all_tasks_blocked()
        assert ERROR_BURST not in alerts.failures
        await trio.sleep_until(began + 59)
        offer(source, ERROR)
        await wait_all_tasks_blocked()
        [failure] = app.status().modules["alerts"].failures
        assert (failure.id, failure.level) == (ERROR_BURST, FailureLevel.WARNING)
        assert failure.message == "more than 3 error messages within 60 s"
        assert app.health.id == ERROR_BURST
        await trio.sleep_until(began + 59.9)
        assert ERROR_BURST in alerts.failures
        await trio.sleep_until(began + 60.1)
        assert ERROR_BURST not in alerts.failures
    logged = [(entry.levelname, entry.getMessage()) for entry in caplog.records]
    assert ("WARNING", "more than 3 error messages within 60 s") in logged
    assert ("INFO", "the burst of error messages is over") in logged


async def test_burst_that_goes_on_keeps_its_warning(autojump_clock: MockClock) -> None:
    """As long as errors come faster than the limit the warning stays as it was set."""
    source = Source()
    alerts = Alerts(source.error, limit=3, window=10)
    async with App(source, alerts):
        for _ in range(100):
            offer(source, ERROR)
            await trio.sleep(2)
        failure = alerts.failures[ERROR_BURST]
        assert failure.since < trio.current_time() - 100
        await trio.sleep(9)
        assert ERROR_BURST not in alerts.failures


async def test_slow_errors_and_mere_warnings_are_no_burst(autojump_clock: MockClock) -> None:
    """Errors at the limit, and any number of lesser messages, are no burst."""
    source = Source()
    alerts = Alerts(source.error, limit=3, window=10)
    async with App(source, alerts):
        for _ in range(100):
            offer(source, ERROR)
            offer(source, WARNING, 50)
            await trio.sleep(10 / 3)
            assert ERROR_BURST not in alerts.failures


async def test_flood_between_two_looks_is_a_burst(autojump_clock: MockClock) -> None:
    """More errors at once than the buffer holds are a burst all the same, and last as long."""
    source = Source()
    alerts = Alerts(source.error, limit=3, window=10)
    async with App(source, alerts):
        offer(source, ERROR, 100_000)
        await wait_all_tasks_blocked()
        assert ERROR_BURST in alerts.failures
        await trio.sleep(10.1)
        assert ERROR_BURST not in alerts.failures


async def test_harmless_messages_push_no_error_out(autojump_clock: MockClock) -> None:
    """Errors amid any number of harmless messages, all before the next look, are a burst."""
    source = Source()
    alerts = Alerts(source.error, limit=3, window=10)
    async with App(source, alerts):
        for _ in range(4):
            offer(source, WARNING, 25_000)
            offer(source, ERROR)
        offer(source, WARNING, 25_000)
        await wait_all_tasks_blocked()
        assert ERROR_BURST in alerts.failures


async def test_each_burst_has_its_end(autojump_clock: MockClock) -> None:
    """After a burst that is over, the next one sets the warning again, and ends, too."""
    source = Source()
    alerts = Alerts(source.error, limit=3, window=10)
    async with App(source, alerts):
        for _ in range(3):
            offer(source, ERROR, 4)
            await trio.sleep(9.9)
            assert ERROR_BURST in alerts.failures
            await trio.sleep(0.2)
            assert ERROR_BURST not in alerts.failures
