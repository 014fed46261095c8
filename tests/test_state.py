"""The table of the lifecycle, as a table: every row, and what it has to wait for."""

from __future__ import annotations

import itertools

import pytest

from trio_modules import ModuleStatus
from trio_modules._state import TABLE, Action, decide

DEAD, PREPARING, OFFLINE, STOPPING, STARTING, ONLINE = sorted(ModuleStatus)
MAY_START = {(OFFLINE, True)}
MAY_STOP = {(STARTING, False), (ONLINE, False), (STOPPING, False), (STOPPING, True)}


def test_the_table_is_whole() -> None:
    """there is one row for every status and wish, and none beside."""
    assert set(TABLE) == set(itertools.product(ModuleStatus, (False, True)))


@pytest.mark.parametrize("status", list(ModuleStatus))
@pytest.mark.parametrize("wanted", [False, True])
def test_what_may_happen_when_nobody_is_in_the_way(status: ModuleStatus, wanted: bool) -> None:
    """a module starts only from OFFLINE and wanted, and stops only when it is up or on its way."""
    expected = Action.NOTHING
    if (status, wanted) in MAY_START:
        expected = Action.START
    elif (status, wanted) in MAY_STOP:
        expected = Action.STOP
    assert decide(status, wanted, missing=0, dependents=0) is expected


def test_a_start_waits_for_dependencies_alone() -> None:
    """a missing dependency holds a start back, a dependent does not."""
    assert decide(OFFLINE, wanted=True, missing=1, dependents=0) is Action.NOTHING
    assert decide(OFFLINE, wanted=True, missing=0, dependents=1) is Action.START


@pytest.mark.parametrize("status", [ONLINE, STOPPING])
def test_a_stop_waits_for_dependents_alone(status: ModuleStatus) -> None:
    """a dependent holds a stop back, a missing dependency does not."""
    assert decide(status, wanted=False, missing=0, dependents=1) is Action.NOTHING
    assert decide(status, wanted=False, missing=1, dependents=0) is Action.STOP


def test_a_start_no_longer_wanted_is_cancelled_at_once() -> None:
    """nothing is up on top of a module that is starting, so its stop waits for nobody."""
    assert decide(STARTING, wanted=False, missing=1, dependents=1) is Action.STOP
