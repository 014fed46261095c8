"""Tests for retention.py of the hub: what is too old goes, a batch at a time."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import attrs
import pytest
import retention
import trio
from database import begin_run, connect, write
from hub_process import locked, query
from hub_records import Source, record
from retention import Retention
from store import Store

from trio_modules import App, Retry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with messages that are 30, 20, 10 and 0 days old, ten of each."""
    path = tmp_path / "syslog.db"
    now = datetime.now(timezone.utc)
    ages = [days for days in (30, 20, 10, 0) for _ in range(10)]
    old = [
        attrs.evolve(record(b"<14>%d" % days, arrived=0), received=now - timedelta(days=days))
        for days in ages
    ]
    with closing(connect(path)) as connection:
        run = begin_run(connection, now)
        write(connection, run, enumerate(old, 1))
    return path


def ages(database: Path) -> list[tuple[str, int]]:
    return query(database, "SELECT text, count(*) FROM messages GROUP BY text ORDER BY text")


@pytest.mark.parametrize("batch", [1, 7, 10, 1_000])
async def test_messages_older_than_that_are_deleted(
    database: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of a batch, all that is too old goes and nothing else."""
    monkeypatch.setattr(retention, "BATCH", batch)
    monkeypatch.setattr(retention, "PAUSE", 0)
    source = Source()
    store = Store(source.message, database)
    keeper = Retention(store, days=15)
    with trio.fail_after(60):
        async with App(source, store, keeper):
            assert await keeper.deleting.queue().wait() == 20
    assert ages(database) == [("0", 10), ("10", 10)]


async def test_nothing_is_deleted_without_a_limit(database: Path) -> None:
    """0 days keep messages for ever: nothing is scheduled."""
    source = Source()
    store = Store(source.message, database)
    keeper = Retention(store, days=0)
    with trio.fail_after(60):
        async with App(source, store, keeper):
            assert keeper.deleting.next_run is None


async def test_it_repeats_every_hour(database: Path) -> None:
    """The first clean-up is due an hour after the start."""
    source = Source()
    store = Store(source.message, database)
    keeper = Retention(store, days=15)
    with trio.fail_after(60):
        async with App(source, store, keeper):
            due = keeper.deleting.next_run
            assert due is not None
            assert 3_590 < due - trio.current_time() <= 3_600


async def test_a_locked_database_is_tried_again_later(database: Path) -> None:
    """While another process holds the lock nothing fails: the task asks for a retry."""
    source = Source()
    store = Store(source.message, database)
    keeper = Retention(store, days=15)
    with trio.fail_after(60):
        async with App(source, store, keeper), locked(database):
            with pytest.raises(Retry) as caught:
                await keeper.run_worker(keeper.delete_old, keeper.deleting)
    assert caught.value.after == 60
    assert len(ages(database)) == 4
