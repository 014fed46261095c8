"""Tests for database.py of the hub: what ends up in the file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from database import begin_run, connect, end_run, write
from hub_records import RECEIVED
from hub_records import record as record_at
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

    from records import Record


def record(data: bytes, *, cut: bool = False) -> Record:
    return record_at(data, arrived=0, cut=cut)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "syslog.db")) as connection:
        yield connection


def stored(connection: sqlite3.Connection, *columns: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"SELECT {','.join(columns)} FROM messages ORDER BY seq").fetchall()


def test_commits_are_synced(connection: sqlite3.Connection) -> None:
    """The file has a write-ahead log that each commit syncs to disk."""
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_all_that_a_message_says_is_stored(connection: sqlite3.Connection) -> None:
    """Each field has its column; the structured data is JSON."""
    data = b'<165>1 2003-10-11T22:14:15.003+02:00 host app 77 ID47 [x@1 y="z" y="\xc3\xa4"] text'
    write(connection, 1, [(1, record(data))])
    columns = ["received", "transport", "peer", "format", "facility", "severity", "timestamp"]
    assert stored(connection, *columns, "hostname", "app_name", "procid", "msgid", "text") == [
        (
            *("2026-11-24T14:12:00.000000+00:00", "tcp", "peer:1", "rfc5424", 20, 5),
            *("2003-10-11T20:14:15.003000+00:00", "host", "app", "77", "ID47", "text"),
        )
    ]
    assert stored(connection, "json_extract(structured, '$.x@1.y[1]')") == [("\u00e4",)]
    assert stored(connection, "raw", "cut", "problem") == [(None, 0, None)]


def test_raw_message_is_stored_with_its_reason(connection: sqlite3.Connection) -> None:
    """A line that can't be parsed is there as text, with what is wrong."""
    write(connection, 1, [(1, record(b"no syslog", cut=True))])
    assert stored(connection, "format", "text", "problem", "cut", "severity", "structured") == [
        ("raw", "no syslog", "no valid priority", 1, None, None)
    ]


@pytest.mark.parametrize("data", [b"<13>f\xfcr", b"<13>a\0b", b"\xff\xfe"])
def test_bytes_that_text_cannot_hold_are_stored_as_well(
    connection: sqlite3.Connection, data: bytes
) -> None:
    """Where the text is not all, the raw column has every byte."""
    write(connection, 1, [(1, record(data))])
    assert stored(connection, "raw") == [(data,)]


@given(data=st.binary() | st.binary().map(b"<13>1 - h a p m - ".__add__))
def test_any_bytes_can_be_stored_and_read_back(data: bytes) -> None:
    """No message is poison for the database, and none loses a byte of text in it."""
    with closing(connect(Path(":memory:"))) as connection:
        write(connection, 1, [(1, record(data))])
        [(text, raw)] = stored(connection, "text", "raw")
        assert text == record(data).message.text
        assert raw in (None, data)
        assert raw is not None or text.encode() in data


def test_writing_a_batch_again_stores_it_once(connection: sqlite3.Connection) -> None:
    """A batch that was committed already is not stored twice, what is new in it is stored."""
    batch = [(n, record(b"<13>%d" % n)) for n in range(1, 4)]
    write(connection, 1, batch[:2])
    write(connection, 1, batch)
    assert stored(connection, "seq", "text") == [(1, "1"), (2, "2"), (3, "3")]


def test_runs_do_not_hide_each_other(connection: sqlite3.Connection) -> None:
    """The same number in another run is another message."""
    for run in (1, 2):
        write(connection, run, [(1, record(b"<13>%d" % run))])
    assert stored(connection, "run", "text") == [(1, "1"), (2, "2")]


def test_failed_write_stores_nothing(connection: sqlite3.Connection) -> None:
    """An exception in the midst of a batch leaves none of it, and the connection usable."""

    def batch() -> Iterator[tuple[int, Record]]:
        yield 1, record(b"<13>one")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(connection, 1, batch())
    assert stored(connection, "seq") == []
    write(connection, 1, [(1, record(b"<13>again"))])
    assert stored(connection, "seq", "text") == [(1, "again")]


def test_locked_file_fails_soon(connection: sqlite3.Connection, tmp_path: Path) -> None:
    """While another connection writes, a write fails, and succeeds when that has ended."""
    with closing(sqlite3.connect(tmp_path / "syslog.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            write(connection, 1, [(1, record(b"<13>one"))])
        other.execute("ROLLBACK")
    write(connection, 1, [(1, record(b"<13>one"))])
    assert stored(connection, "text") == [("one",)]


def test_runs_are_numbered_and_ended(connection: sqlite3.Connection) -> None:
    """Each run has its row, which says when it ended and how much it had accepted."""
    assert [begin_run(connection, RECEIVED) for _ in range(2)] == [1, 2]
    end_run(connection, 1, RECEIVED + timedelta(seconds=1.5), accepted=7)
    assert connection.execute("SELECT run, started, stopped, accepted FROM runs").fetchall() == [
        (1, "2026-11-24T14:12:00.000000+00:00", "2026-11-24T14:12:01.500000+00:00", 7),
        (2, "2026-11-24T14:12:00.000000+00:00", None, None),
    ]


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Opening something else raises, and leaves it as it is."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        connect(path)
    assert path.read_text() == "not a database" * 100
