"""Tests for report.py of the hub: a day is counted when it is over."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from database import begin_run, connect, write
from hub_process import query
from hub_records import Source, record
from report import Report
from store import Store

from trio_modules import App

if TYPE_CHECKING:
    from pathlib import Path

NIGHTLY = "10 0 * * *"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with messages of yesterday, of the day before and of today."""
    path = tmp_path / "syslog.db"
    now = datetime.now(timezone.utc)
    lines = [
        (b"<11>Nov 24 10:00:00 web app: an error", 1),
        (b"<14>Nov 24 10:00:00 web app: a message", 1),
        (b"<14>Nov 24 10:00:00 mail app: a message", 1),
        (b"no syslog at all", 1),
        (b"<14>Nov 24 10:00:00 web app: too old", 2),
        (b"<14>Nov 24 10:00:00 web app: too new", 0),
    ]
    records = [
        attrs.evolve(record(data, arrived=0), received=now - timedelta(days=days))
        for data, days in lines
    ]
    with closing(connect(path)) as connection:
        run = begin_run(connection, now)
        write(connection, run, enumerate(records, 1))
    return path


async def test_the_day_before_is_counted_by_host_and_severity(database: Path) -> None:
    """Each host and severity has its row, and a second summary replaces the first."""
    source = Source()
    store = Store(source.message, database)
    report = Report(store, NIGHTLY)
    with trio.fail_after(60):
        async with App(source, store, report):
            for _ in range(2):
                await report.summarising.queue().wait()
    yesterday = datetime.now(timezone.utc).date() - timedelta(days=1)
    assert query(database, "SELECT * FROM summaries") == [
        (yesterday.isoformat(), "", -1, 1),
        (yesterday.isoformat(), "mail", 6, 1),
        (yesterday.isoformat(), "web", 3, 1),
        (yesterday.isoformat(), "web", 6, 1),
    ]


async def test_it_is_due_when_the_cron_line_says(database: Path) -> None:
    """The next summary is due within a day."""
    source = Source()
    store = Store(source.message, database)
    report = Report(store, NIGHTLY)
    with trio.fail_after(60):
        async with App(source, store, report):
            due = report.summarising.next_run
            assert due is not None
            assert 0 < due - trio.current_time() <= 24 * 3600


def test_without_the_extra_the_hub_runs_without_summaries(tmp_path: Path) -> None:
    """A plain install has no cron lines: that is said in the log, and all else works."""
    code = (
        "import sys; sys.modules['cronsim'] = None; sys.argv = ['app.py']; import app, logging; "
        "print(len(app.app))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "7\n"
    assert "there are no daily summaries" in result.stderr
