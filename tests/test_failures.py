"""Failures: what a module says is wrong with it, and what the framework says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from support import fail, switch_off

from trio_modules import (
    App,
    Backoff,
    FailureLevel,
    FailureStatus,
    Module,
    ModuleStatus,
    Restart,
    ShutdownError,
    StopError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

HINT, WARNING, ERROR = FailureLevel.HINT, FailureLevel.WARNING, FailureLevel.ERROR


# --- the values ----------------------------------------------------------------------------------


def test_the_levels_are_the_seeds() -> None:
    """the failure levels have the seed's values and can be compared."""
    assert {level.name: level.value for level in FailureLevel} == {
        "NONE": 0,
        "HINT": 1,
        "WARNING": 2,
        "ERROR": 3,
    }
    assert HINT < WARNING < ERROR


def test_a_failure_is_frozen() -> None:
    """a FailureStatus is a value: it can't be changed, equal ones are equal."""
    failure = FailureStatus(ERROR, "disk", "the disk is full", "Disk full", since=5.0)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        failure.level = HINT  # type: ignore[misc]
    assert failure == attrs.evolve(failure)
    assert attrs.asdict(failure) == {
        "level": 3,
        "id": "disk",
        "message": "the disk is full",
        "title": "Disk full",
        "since": 5.0,
    }


# --- set and resolve -----------------------------------------------------------------------------


async def test_there_is_no_failure_at_first(autojump_clock: MockClock) -> None:
    """failure is never None: without any it is a FailureStatus of level NONE."""
    m = Module("m")
    async with App(m):
        assert isinstance(m.failure, FailureStatus)
        assert m.failure.level is FailureLevel.NONE
        assert dict(m.failures) == {}


@pytest.mark.parametrize(
    ("setter", "level"), [("set_hint", HINT), ("set_warning", WARNING), ("set_error", ERROR)]
)
async def test_setting_a_failure(
    autojump_clock: MockClock, setter: str, level: FailureLevel
) -> None:
    """each setter sets its level and returns what it set, with the time."""
    m = Module("m")
    async with App(m):
        await trio.sleep(3)
        set_failure: Callable[..., FailureStatus] = getattr(m, setter)
        failure = set_failure("disk", "the disk is full", title="Disk full")
        assert failure == FailureStatus(level, "disk", "the disk is full", "Disk full", since=3.0)
        assert m.failures["disk"] == failure
        assert m.failure == failure


async def test_the_title_may_be_left_out(autojump_clock: MockClock) -> None:
    """without a title a failure's title is empty, and it may be given by position."""
    m = Module("m")
    async with App(m):
        assert m.set_hint("disk", "the disk is filling").title == ""
        assert m.set_hint("disk", "the disk is filling", "Disk").title == "Disk"


async def test_a_module_can_have_several_failures(autojump_clock: MockClock) -> None:
    """failures maps each id to its failure."""
    m = Module("m")
    async with App(m):
        failures = {
            "low": m.set_hint("low", "low"),
            "high": m.set_error("high", "high"),
            "middle": m.set_warning("middle", "middle"),
        }
        assert isinstance(m.failures, Mapping)
        assert dict(m.failures) == failures


async def test_a_hint_does_not_hide_an_error(autojump_clock: MockClock) -> None:
    """the module's failure is the most severe one, whatever was set after it."""
    m = Module("m")
    async with App(m):
        error = m.set_error("error", "error")
        m.set_warning("warning", "warning")
        m.set_hint("hint", "hint")
        assert m.failure == error


async def test_the_newest_among_equals(autojump_clock: MockClock) -> None:
    """of failures equally severe the module's failure is the newest, at one time the later."""
    m = Module("m")
    async with App(m):
        first = m.set_error("first", "first")
        second = m.set_error("second", "second")
        assert m.failure == second
        await trio.sleep(1)
        third = m.set_error("third", "third")
        m.set_hint("fourth", "fourth")
        assert m.failure == third
        assert m.resolve("third")
        assert m.failure == second
        assert m.resolve("second")
        assert m.failure == first


async def test_the_same_id_is_replaced(autojump_clock: MockClock) -> None:
    """setting an id again replaces what it said, at another level, too."""
    m = Module("m")
    async with App(m):
        m.set_error("disk", "the disk is full")
        m.set_error("net", "the net is down")
        hint = m.set_hint("disk", "the disk is filling")
        assert m.failures["disk"] == hint
        assert len(m.failures) == 2
        assert m.failure.id == "net"


async def test_a_failure_that_goes_on_keeps_its_beginning(autojump_clock: MockClock) -> None:
    """set again at the same level a failure has a new message and its old time, until resolved."""
    m = Module("m")
    async with App(m):
        m.set_error("disk", "the disk is full")
        await trio.sleep(1)
        again = m.set_error("disk", "the disk is still full")
        assert (again.message, again.since) == ("the disk is still full", 0)
        m.resolve("disk")
        assert m.set_error("disk", "full again").since == 1


async def test_resolving(autojump_clock: MockClock) -> None:
    """resolve takes one failure away and says whether there was one."""
    m = Module("m")
    async with App(m):
        m.set_error("disk", "the disk is full")
        warning = m.set_warning("net", "the net is slow")
        assert m.resolve("disk") is True
        assert m.resolve("disk") is False
        assert m.resolve("never") is False
        assert m.failure == warning
        assert dict(m.failures) == {"net": warning}


async def test_resolving_all(autojump_clock: MockClock) -> None:
    """resolve_all takes all failures away."""
    m = Module("m")
    async with App(m):
        m.set_error("disk", "the disk is full")
        m.set_warning("net", "the net is slow")
        m.resolve_all()
        assert dict(m.failures) == {}
        assert m.failure.level is FailureLevel.NONE


@pytest.mark.parametrize("setter", ["set_hint", "set_warning", "set_error"])
@pytest.mark.parametrize("failure_id", ["the disk is full", "m:crashed", ":"])
async def test_bad_ids(autojump_clock: MockClock, setter: str, failure_id: str) -> None:
    """an id with spaces or a colon is refused and nothing is set."""
    m = Module("m")
    async with App(m):
        with pytest.raises(ValueError, match="id"):
            getattr(m, setter)(failure_id, "message")
        assert dict(m.failures) == {}


async def test_an_id_with_spaces_looks_like_a_message(autojump_clock: MockClock) -> None:
    """the error about an id with spaces says that it looks like a message."""
    with pytest.raises(ValueError, match="looks like a message"):
        Module("m").set_hint("the disk is full", "disk")


async def test_failures_are_the_modules_own(autojump_clock: MockClock) -> None:
    """what one module says is not seen at another one."""
    a, b = Module("a"), Module("b")
    async with App(a, b):
        a.set_error("disk", "the disk is full")
        assert dict(b.failures) == {}


# --- when failures end ---------------------------------------------------------------------------


async def test_offline_resolves_the_failures(autojump_clock: MockClock) -> None:
    """a module that is offline has no failures left; while it stops they are still there."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    at_stop: list[str] = []

    @m.on_stop
    async def stop() -> None:
        at_stop.extend(m.failures)

    async with app:
        m.set_error("disk", "the disk is full")
        await switch_off(app, m)
        assert m.status is ModuleStatus.OFFLINE
        assert dict(m.failures) == {}
    assert at_stop == ["disk"]


async def test_a_stop_error_is_not_wiped(autojump_clock: MockClock) -> None:
    """a stop function's exception is a failure of the module that offline doesn't resolve."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    error = ValueError("no")

    @m.on_stop
    async def stop() -> None:
        m.set_hint("other", "resolved as usual")
        raise error

    async with app:
        with pytest.raises(StopError):
            await switch_off(app, m)
        assert m.status is ModuleStatus.OFFLINE
        await trio.sleep(100)
        assert [(failure.id, failure.level) for failure in m.failures.values()] == [
            ("m:stop-failed", ERROR)
        ]


async def test_a_stop_that_timed_out_is_a_failure(autojump_clock: MockClock) -> None:
    """a module that didn't stop in time shows it as an error."""
    m = Module("m", stop_timeout=5)
    app = App(m)
    seen: list[tuple[float, list[str]]] = []

    async def watch() -> None:
        await trio.sleep(6)
        seen.append((trio.current_time(), list(m.failures)))

    @m.on_stop
    async def stop() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with pytest.raises(ShutdownError):
            async with app:
                await trio.lowlevel.checkpoint()
    assert seen == [(6, ["m:stop-failed"])]


async def test_a_crashed_module_says_so_until_it_is_back(autojump_clock: MockClock) -> None:
    """from a crash until it is online again a module has an error of its own."""
    m = Module("m", restart=Restart(backoff=Backoff(initial=4)))
    starts: list[float] = []

    @m.on_start
    async def start() -> None:
        starts.append(trio.current_time())
        await trio.sleep(2)

    async with App(m):
        await trio.sleep(1)
        m.nursery.start_soon(fail, ValueError("no"))
        seen = []
        for seconds in (1, 4):  # in the backoff, and while it starts
            await trio.sleep(seconds)
            seen.append((m.status, m.failure.id, m.failure.level))
        assert seen == [
            (ModuleStatus.OFFLINE, "m:crashed", ERROR),
            (ModuleStatus.STARTING, "m:crashed", ERROR),
        ]
        await m.wait_online()
        assert dict(m.failures) == {}
    assert starts == [0, 3 + 4]


async def test_a_crash_is_said_of_who_crashed(autojump_clock: MockClock) -> None:
    """modules that only fall with their dependency have no failure of their own."""
    db = Module("db")
    web = Module("web", depends_on=[db])
    async with App(db, web):
        db.nursery.start_soon(fail, ValueError("no"))
        await trio.sleep(1)
        assert web.status is ModuleStatus.OFFLINE
        assert list(db.failures) == ["db:crashed"]
        assert dict(web.failures) == {}


async def test_out_of_budget_and_offline(autojump_clock: MockClock) -> None:
    """a module that stays offline after its last crash keeps its failure."""
    m = Module("m", restart=Restart(max_restarts=0, exhausted="offline"))
    async with App(m):
        m.nursery.start_soon(fail, ValueError("no"))
        await trio.sleep(1000)
        assert m.status is ModuleStatus.OFFLINE
        assert m.failure.level is ERROR
        assert m.failure.id == "m:crashed"


async def test_a_start_that_failed_without_ending_the_app(autojump_clock: MockClock) -> None:
    """a failed start under management is an error of the module until a start succeeds."""
    m = Module("m")
    app = App(m, managed=True)
    outcomes = [ValueError("no")]

    @m.on_start
    async def start() -> None:
        for error in outcomes:
            raise error

    async with app:
        m.enable()
        with pytest.raises(Exception, match="'m'"):
            await app.manage()
        assert m.status is ModuleStatus.OFFLINE
        assert list(m.failures) == ["m:start-failed"]
        assert m.failure.level is ERROR
        outcomes.clear()
        await app.manage()
        assert m.online
        assert dict(m.failures) == {}


async def test_a_new_run_of_the_app_begins_without_failures(autojump_clock: MockClock) -> None:
    """failures of an app's last run don't show in the next one."""
    m = Module("m")
    app = App(m)
    outcomes = [ValueError("no")]

    @m.on_stop
    async def stop() -> None:
        for error in outcomes:
            raise error

    with pytest.raises(ShutdownError):
        async with app:
            m.set_error("disk", "the disk is full")
    outcomes.clear()
    async with app:
        assert dict(m.failures) == {}
