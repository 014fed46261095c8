"""For tests of services: apps in a test, waits that say what happened instead, reports."""

from __future__ import annotations

from trio_modules.testing._collecting import MissingReports, Reports, UnexpectedReports
from trio_modules.testing._running_app import CutShort, SomethingLeft, assert_nothing_left, running
from trio_modules.testing._telling import NotInTime
from trio_modules.testing._waiting import Caught, expect_event, next_event, wait_for_status

__all__ = [
    "Caught",
    "CutShort",
    "MissingReports",
    "NotInTime",
    "Reports",
    "SomethingLeft",
    "UnexpectedReports",
    "assert_nothing_left",
    "expect_event",
    "next_event",
    "running",
    "wait_for_status",
]
