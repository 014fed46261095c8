"""Tests for store.py of the hub: what was accepted is stored, once."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
import trio
from hub_process import locked, query
from hub_records import Source, record
from store import Store, StoreStatistics

from trio_modules import App, FailureLevel, ModuleOffline, ShutdownError, StartError, StopError

if TYPE_CHECKING:
    from pathlib import Path

    from records import Record

    from trio_modules import Change


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "syslog.db"


def records(count: int, first: int = 0) -> list[Record]:
    return [record(b"<14>%d" % n) for n in range(first, first + count)]


def stored(database: Path, run: int = 1) -> list[int]:
    sql = "SELECT text FROM messages WHERE run = ? ORDER BY seq"
    return [int(text) for (text,) in query(database, sql, [run])]


async def write_failed(changes: trio.MemoryReceiveChannel[Change]) -> None:
    """Wait until the status says that a batch could not be written."""
    async for change in changes:
        if change.failure_after.id == "write:retrying":
            return


async def hold_lock(
    database: Path, release: trio.Event, task_status: trio.TaskStatus[None]
) -> None:
    """Keep the database locked until `release` is set."""
    async with locked(database):
        task_status.started()
        await release.wait()


async def test_what_was_accepted_is_stored_when_the_app_is_left(database: Path) -> None:
    """Leaving the app right after the triggers stores everything, and notes how much it was."""
    source = Source(["store"])
    store = Store(source.message, database)
    with trio.fail_after(60):
        async with App(source, store):
            await source.trigger_all(records(7_000))
    assert store.statistics() == StoreStatistics(7_000, 7_000, 0)
    assert stored(database) == list(range(7_000))
    assert query(database, "SELECT accepted FROM runs WHERE stopped NOT NULL") == [(7_000,)]


async def test_connection_is_closed_when_the_app_is_left(database: Path) -> None:
    """The connection can be read while the store is online, and is closed afterwards."""
    source = Source(["store"])
    store = Store(source.message, database)
    with trio.fail_after(60):
        async with App(source, store):
            connection = store.connection.value
            assert connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    with pytest.raises(ModuleOffline):
        _ = store.connection.value
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


async def test_cancelled_trigger_is_not_accepted(database: Path) -> None:
    """What a sender that waited for room was cancelled with is neither accepted nor stored."""
    source = Source(["store"])
    store = Store(source.message, database, queue=3)
    with trio.fail_after(60):
        async with App(source, store):
            async with locked(database):
                with trio.move_on_after(1) as scope:
                    await source.trigger_all(records(10))
                assert scope.cancelled_caught
                accepted = store.statistics().accepted
                assert 3 < accepted <= 6  # a batch of up to 3 at work, and 3 in the buffer
                assert store.statistics() == StoreStatistics(accepted, 0, 0)
            await source.trigger_all(records(10, first=10))
    assert store.statistics() == StoreStatistics(accepted + 10, accepted + 10, 0)
    assert stored(database) == [*range(accepted), *range(10, 20)]


async def test_app_entered_again_is_another_run(database: Path) -> None:
    """The numbers begin anew with each run of the app."""
    source = Source(["store"])
    store = Store(source.message, database)
    app = App(source, store)
    with trio.fail_after(60):
        for run in (1, 2):
            async with app:
                await source.trigger_all(records(run))
            assert store.statistics() == StoreStatistics(run, run, 0)
    assert (stored(database, 1), stored(database, 2)) == ([0], [0, 1])


async def test_restarted_store_goes_on_with_its_run(database: Path) -> None:
    """A restart of the module neither loses nor renumbers what it had accepted."""
    source = Source(["store"])
    store = Store(source.message, database)
    with trio.fail_after(60):
        async with App(source, store) as app:
            await source.trigger_all(records(10))
            await app.restart(store)
            await source.trigger_all(records(10, first=10))
    assert store.statistics() == StoreStatistics(20, 20, 0)
    assert stored(database) == list(range(20))


async def test_locked_database_at_the_start_is_a_failed_start(database: Path) -> None:
    """A file that another process holds for long makes the start fail, with SQLite's reason."""
    source = Source(["store"])
    with trio.fail_after(60):
        async with locked(database):
            with pytest.raises(StartError) as caught:
                async with App(source, Store(source.message, database)):
                    pytest.fail("the store must not be online")
    assert caught.value.module == "store"
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


async def test_batch_that_could_not_be_written_is_written_once(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the file is locked the buffer fills up; then each record is stored, once, in order."""
    source = Source(["store"])
    store = Store(source.message, database, queue=10)
    with trio.fail_after(60):
        async with App(source, store) as app, trio.open_nursery() as nursery:
            async with app.changes() as changes, locked(database):
                nursery.start_soon(source.trigger_all, records(100))
                await write_failed(changes)
                [failure] = app.status().modules["store"].failures
                assert (failure.id, failure.level) == ("write:retrying", FailureLevel.WARNING)
                assert "database is locked" in caplog.text
                assert store.statistics().stored == 0
                assert store.statistics().accepted <= 10 + 10
                assert store.statistics().senders_waiting == 1
    assert store.statistics() == StoreStatistics(100, 100, 0)
    assert stored(database) == list(range(100))


async def test_stop_waits_for_a_locked_database(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that is locked when the app is left is written when it is free again."""

    async def release_when_it_failed(store: Store) -> None:
        await store.stopping.wait()
        await trio.sleep(1)  # longer than an attempt to write: one fails within
        release.set()

    source = Source(["store"])
    store = Store(source.message, database)
    release = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, App(source, store):
            await nursery.start(hold_lock, database, release)
            await source.trigger_all(records(100))
            nursery.start_soon(release_when_it_failed, store)
    assert "database is locked" in caplog.text
    assert stored(database) == list(range(100))


async def test_restart_keeps_what_could_not_be_written(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits when the store is restarted is not lost: it is written afterwards, once."""

    async def release_when_it_stops(store: Store) -> None:
        await store.stopping.wait()
        await trio.sleep(1.5)  # longer than two attempts to write: one of the stop fails
        release.set()

    source = Source(["store"])
    store = Store(source.message, database)
    release = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, App(source, store) as app:
            await nursery.start(hold_lock, database, release)
            await source.trigger_all(records(100))
            nursery.start_soon(release_when_it_stops, store)
            await app.restart(store)
            await source.trigger_all(records(100, first=100))
    assert "can't write while stopping, trying again: database is locked" in caplog.text
    assert "lost" not in caplog.text
    assert store.statistics() == StoreStatistics(200, 200, 0)
    assert stored(database) == list(range(200))


@pytest.mark.parametrize("batch", [10, 5_000])
async def test_what_is_lost_is_said(
    database: Path, batch: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that stays locked beyond the stop timeout is a StopError, and the loss logged."""
    monkeypatch.setattr("store.BATCH", batch)
    source = Source(["store"])
    store = Store(source.message, database)
    release = trio.Event()

    async def lock_and_leave(nursery: trio.Nursery) -> None:
        async with App(source, store, stop_timeout=1):
            await nursery.start(hold_lock, database, release)
            await source.trigger_all(records(100))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with pytest.raises(ShutdownError) as caught:
                await lock_and_leave(nursery)
            release.set()
    [error] = caught.value.exceptions
    assert isinstance(error, StopError)
    assert error.module == "store"
    assert "100 accepted messages are lost" in caplog.text
    assert store.statistics() == StoreStatistics(100, 0, 0)
    assert stored(database) == []
