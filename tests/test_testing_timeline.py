"""A simulation as text and as a picture: rows, columns, marks."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from trio_modules.testing import TraceEntry, Violation
from trio_modules.testing._picture import picture
from trio_modules.testing._timeline import timeline
from trio_modules.testing._trace import said, shown_time

TRACE = [
    TraceEntry(0.0, "store", "status", "STARTING"),
    TraceEntry(10.0, "store", "status", "ONLINE"),
    TraceEntry(10.0, "shop", "status", "STARTING"),
    TraceEntry(20.0, "shop", "status", "ONLINE"),
    TraceEntry(50.0, "shop", "fault", "crash"),
    TraceEntry(50.0, "shop", "status", "STOPPING"),
    TraceEntry(60.0, "shop", "status", "OFFLINE"),
    TraceEntry(70.0, "store", "failure", "WARNING poll:restarting"),
    TraceEntry(70.0, "shop", "status", "STARTING"),
    TraceEntry(75.0, "shop", "status", "ONLINE"),
    TraceEntry(95.0, "shop", "violation", "it's <wrong>"),
    TraceEntry(95.0, "shop", "status", "OFFLINE"),
]
MODULES = ("store", "shop", "unused")


def test_modules_are_rows_and_time_goes_across() -> None:
    """each status has a sign, and marks hide what they stand on."""
    rows = timeline(TRACE, MODULES, 95.0, 19, 0).splitlines()
    assert rows[:4] == [
        "store |++############r####|",
        "shop  |  ++######x-..+###!|",
        "-     |                   |",
        "       0          00:01:35",
    ]
    assert "# online" in rows[4]


def test_what_is_short_can_be_seen() -> None:
    """in one column the worst is shown."""
    (store, shop, *_) = timeline(TRACE, MODULES, 95.0, 2, 0).splitlines()
    assert store == "store |+r|"
    assert shop == "shop  |+!|"


def test_the_last_entries_follow() -> None:
    """those before the violation, and it, but not what comes after it."""
    lines = timeline(TRACE, MODULES, 95.0, 19, 2).splitlines()
    assert lines[-2:] == [str(TRACE[-3]), str(TRACE[-2])]
    assert lines[-1] == "        95.000  shop          violation  it's <wrong>"


def test_an_empty_trace_has_a_timeline() -> None:
    """nothing happened, and it took no time."""
    assert timeline([], MODULES, 0.0, 4, 3).splitlines()[:2] == ["- |    |", "   000:00:00"]


def test_the_picture_has_what_the_rows_have() -> None:
    """a bar for each status, a sign for each mark, and titles that say what they are."""
    svg = picture(TRACE, MODULES, 95.0, "seed 7: it's <wrong>")
    root = ET.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    titles = [title.text for title in root.iter(f"{space}title")]
    assert titles == [
        "STARTING from 00:00:00 to 00:00:10",
        "ONLINE from 00:00:10 to 00:01:35",
        "00:01:10: restart WARNING poll:restarting",
        "STARTING from 00:00:10 to 00:00:20",
        "ONLINE from 00:00:20 to 00:00:50",
        "STOPPING from 00:00:50 to 00:01:00",
        "OFFLINE from 00:01:00 to 00:01:10",
        "STARTING from 00:01:10 to 00:01:15",
        "ONLINE from 00:01:15 to 00:01:35",
        "OFFLINE from 00:01:35 to 00:01:35",
        "00:00:50: fault crash",
        "00:01:35: violation it's <wrong>",
    ]
    texts = [text.text for text in root.iter(f"{space}text")]
    assert texts[:4] == ["seed 7: it's <wrong>", "store", "shop", "(app)"]
    assert {"online", "offline", "fault", "restart", "violation"} <= set(texts)
    assert len(list(root.iter(f"{space}polygon"))) == 1


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "00:00:00"),
        (61.5, "00:01:01.5"),
        (3600.0004, "01:00:00"),
        (86_399.9999, "1 d 00:00:00"),
        (90_061.25, "1 d 01:01:01.25"),
    ],
)
def test_times_are_shown_as_people_write_them(seconds: float, shown: str) -> None:
    """days, hours, minutes, seconds, and no more digits than needed."""
    assert shown_time(seconds) == shown
    assert str(Violation(seconds, "", "check", "wrong")) == f"{shown}: wrong"


def test_exceptions_are_said_without_what_differs() -> None:
    """neither addresses nor further lines nor an empty message are shown."""
    assert said(ValueError("<A object at 0x7f12ab>\nmore")) == "ValueError(<A object>)"
    assert said(ValueError()) == "ValueError"
