"""The SQLite file: its schema and what is done to it, in plain blocking functions."""

import json
import os
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from records import Record

__all__ = ["begin_run", "connect", "end_run", "write"]

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

    The connection may be used by any thread, by one at a time.
    """
    connection = sqlite3.connect(
        path, timeout=OPEN_TIMEOUT, isolation_level=None, check_same_thread=False
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


def _time(time: datetime) -> str:
    """Return a time in UTC in ISO format, always as long: in order as text, too."""
    return time.isoformat(timespec="microseconds")
