"""The SQLite file: its schema and what is done to it, in plain blocking functions."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path

from records import Record

__all__ = [
    "begin_run",
    "connect",
    "count_day",
    "delete_before",
    "end_run",
    "reading",
    "save_summary",
    "summarise",
    "write",
]

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run INTEGER PRIMARY KEY,
    pid INTEGER NOT NULL,
    started TEXT NOT NULL,
    stopped TEXT,               -- NULL while the hub runs, and for good if it was killed
    accepted INTEGER            -- how many messages it had accepted when it stopped
);
CREATE TABLE IF NOT EXISTS messages (
    run INTEGER NOT NULL REFERENCES runs,
    seq INTEGER NOT NULL,       -- 1, 2, 3, ... in each run
    received TEXT NOT NULL,
    transport TEXT NOT NULL,
    peer TEXT NOT NULL,
    format TEXT NOT NULL,       -- 'rfc5424', 'rfc3164', or 'raw' for what is neither
    facility INTEGER,
    severity INTEGER,
    timestamp TEXT,
    hostname TEXT,
    app_name TEXT,
    procid TEXT,
    msgid TEXT,
    structured TEXT,            -- JSON: {element: {parameter: [value, ...]}}
    text TEXT NOT NULL,
    raw BLOB,                   -- the bytes, where the columns don't tell all of them
    cut INTEGER NOT NULL,       -- 1 if the message went on after this
    problem TEXT,               -- why the format is 'raw'
    PRIMARY KEY (run, seq)
);
CREATE TABLE IF NOT EXISTS summaries (
    day TEXT NOT NULL,          -- in UTC
    hostname TEXT NOT NULL,     -- '' for messages that don't say
    severity INTEGER NOT NULL,  -- -1 for messages without one
    messages INTEGER NOT NULL,
    PRIMARY KEY (day, hostname, severity)
);
"""
COLUMNS = 18
# What is in there already is a batch that is written again because nobody knew of its commit.
INSERT = f"""
INSERT INTO messages VALUES ({", ".join("?" * COLUMNS)}) ON CONFLICT (run, seq) DO NOTHING
"""  # noqa: S608

OPEN_TIMEOUT = 2.0
BUSY_TIMEOUT = 0.25  # short: what waits for a lock down here can't be seen from above


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, or make it; a commit on the connection is on disk when it returns.

    The connection may be used by any thread, by one at a time. For SQLite a path may be a URI.
    """
    connection = sqlite3.connect(
        path, timeout=OPEN_TIMEOUT, isolation_level=None, check_same_thread=False, uri=True
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_TIMEOUT)}")
    except BaseException:
        connection.close()
        raise
    return connection


def begin_run(connection: sqlite3.Connection, started: datetime) -> int:
    """Note that the hub was started, and return the number of this run."""
    sql = "INSERT INTO runs (pid, started) VALUES (?, ?)"
    run = connection.execute(sql, (os.getpid(), _time(started))).lastrowid
    assert run is not None
    return run


def end_run(connection: sqlite3.Connection, run: int, stopped: datetime, accepted: int) -> None:
    """Note that the run has ended, and how much it had accepted."""
    sql = "UPDATE runs SET stopped = ?, accepted = ? WHERE run = ?"
    connection.execute(sql, (_time(stopped), accepted, run))


def write(connection: sqlite3.Connection, run: int, records: Iterable[tuple[int, Record]]) -> None:
    """Write numbered records in one transaction: all of them or, with an exception, none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(INSERT, (_row(run, seq, record) for seq, record in records))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def delete_before(connection: sqlite3.Connection, moment: datetime, limit: int) -> int:
    """Delete up to `limit` of the oldest messages that were received before `moment`.

    Messages come in order, so only the first ones of the table need be looked at. Returns how
    many were deleted; fewer than `limit` means that nothing older is left.
    """
    sql = """
    DELETE FROM messages WHERE received < ? AND rowid IN (
        SELECT rowid FROM messages ORDER BY run, seq LIMIT ?
    )
    """
    return connection.execute(sql, (_time(moment), limit)).rowcount


def summarise(path: Path, day: date) -> list[tuple[str, int, int]]:
    """Count the messages of a day (in UTC) by host and severity, beside whoever writes."""
    with reading(path) as connection:
        return count_day(connection, day)


def count_day(connection: sqlite3.Connection, day: date) -> list[tuple[str, int, int]]:
    """Count the messages of a day (in UTC) by host and severity."""
    begin = datetime.combine(day, time(), timezone.utc)
    sql = """
    SELECT ifnull(hostname, ''), ifnull(severity, -1), count(*) FROM messages
    WHERE received >= ? AND received < ? GROUP BY 1, 2 ORDER BY 1, 2
    """
    return connection.execute(sql, (_time(begin), _time(begin + timedelta(days=1)))).fetchall()


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads."""
    connection = sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True)
    try:
        yield connection
    finally:
        connection.close()


def save_summary(
    connection: sqlite3.Connection, day: date, rows: Iterable[tuple[str, int, int]]
) -> None:
    """Write what `summarise` has found, in place of what was found before."""
    sql = "INSERT OR REPLACE INTO summaries VALUES (?, ?, ?, ?)"
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        connection.executemany(sql, ((day.isoformat(), *row) for row in rows))


def _row(run: int, seq: int, record: Record) -> tuple[object, ...]:
    message = record.message
    structured = {name: dict(element) for name, element in message.structured.items()}
    return (
        *(run, seq, _time(record.received), record.transport, record.peer),
        *(message.format, message.facility, message.severity),
        None if message.timestamp is None else _time(message.timestamp),
        *(message.hostname, message.app_name, message.procid, message.msgid),
        json.dumps(structured, ensure_ascii=False) if structured else None,
        *(message.text, None if message.exact else record.data),
        *(record.cut, message.problem or None),
    )


def _time(moment: datetime) -> str:
    """Return a time in UTC in ISO format, always as long: in order as text, too."""
    return moment.isoformat(timespec="microseconds")
