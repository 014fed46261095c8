"""Cron lines: what they match across changes of the clocks, and tasks that follow them."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

import pytest
import trio
from lifecycle_helpers import module_with
from process_helpers import environment
from support import switch_off
from trio.testing import MockClock

from trio_modules import App, Module, Task
from trio_modules._cron import Cron, check_zone
from trio_modules._tasks import WallClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

UTC = timezone.utc
BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def matches(line: str, zone: str, since: str, count: int) -> list[str]:
    """Return the first matches after a moment in UTC, as they are read off a clock there."""
    cron, moment, found = Cron(line, ZoneInfo(zone)), utc(since), []
    for _ in range(count):
        moment = cron.next_after(moment)
        assert moment.tzinfo is UTC
        found.append(moment.astimezone(ZoneInfo(zone)).strftime("%d. %H:%M %z"))
    return found


# --- changes of the clocks -----------------------------------------------------------------

# Berlin: on 31 March 2024 at 1:00 UTC, 2:00 becomes 3:00; on 27 October at 1:00 UTC, 3:00 becomes
# 2:00. New York: on 10 March at 7:00 UTC, 2:00 becomes 3:00; on 3 November at 6:00 UTC, 2:00
# becomes 1:00.
SPRING = [
    ("30 2 * * *", ["31. 03:00 +0200", "01. 02:30 +0200"]),
    ("30 1 * * *", ["31. 01:30 +0100", "01. 01:30 +0200"]),
    ("0 3 * * *", ["31. 03:00 +0200", "01. 03:00 +0200"]),
    ("0 * * * *", ["31. 01:00 +0100", "31. 03:00 +0200", "31. 04:00 +0200"]),
    (
        "*/30 * * * *",
        ["31. 00:30 +0100", "31. 01:00 +0100", "31. 01:30 +0100", "31. 03:00 +0200"],
    ),
    ("0 2,3 * * *", ["31. 03:00 +0200", "01. 02:00 +0200"]),
    ("15 30 2 * * *", ["31. 03:00 +0200", "01. 02:30 +0200"]),
    ("0 30 2 * * *", ["31. 03:00 +0200", "01. 02:30 +0200"]),
]
AUTUMN = [
    ("30 2 * * *", ["27. 02:30 +0200", "28. 02:30 +0100"]),
    ("30 1 * * *", ["27. 01:30 +0200", "28. 01:30 +0100"]),
    ("0 3 * * *", ["27. 03:00 +0100", "28. 03:00 +0100"]),
    (
        "0 * * * *",
        ["27. 01:00 +0200", "27. 02:00 +0200", "27. 02:00 +0100", "27. 03:00 +0100"],
    ),
    (
        "*/30 1-3 * * *",
        [
            *("27. 01:00 +0200", "27. 01:30 +0200", "27. 02:00 +0200", "27. 02:30 +0200"),
            *("27. 02:00 +0100", "27. 02:30 +0100", "27. 03:00 +0100"),
        ],
    ),
    ("15 30 2 * * *", ["27. 02:30 +0200", "28. 02:30 +0100"]),
    ("0 30 2 * * *", ["27. 02:30 +0200", "28. 02:30 +0100"]),
]


@pytest.mark.parametrize(("line", "expected"), SPRING)
def test_the_night_that_lacks_an_hour_in_berlin(line: str, expected: list[str]) -> None:
    """what falls into the missing hour is due when it would be over; the rest keeps its time."""
    assert matches(line, BERLIN, "2024-03-30T23:05", len(expected)) == expected


@pytest.mark.parametrize(("line", "expected"), AUTUMN)
def test_the_night_that_has_an_hour_twice_in_berlin(line: str, expected: list[str]) -> None:
    """a fixed time is due the first time alone; what follows the clock is due both times."""
    assert matches(line, BERLIN, "2024-10-26T22:05", len(expected)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("30 2 * * *", ["10. 03:00 -0400", "11. 02:30 -0400"]),
        ("0 3 * * *", ["10. 03:00 -0400", "11. 03:00 -0400"]),
        ("0 * * * *", ["10. 01:00 -0500", "10. 03:00 -0400", "10. 04:00 -0400"]),
        ("*/30 * * * *", ["10. 00:30 -0500", "10. 01:00 -0500", "10. 01:30 -0500"]),
        ("0 30 2 * * *", ["10. 03:00 -0400", "11. 02:30 -0400"]),
    ],
)
def test_the_night_that_lacks_an_hour_in_new_york(line: str, expected: list[str]) -> None:
    """the same west of Greenwich, where the change has another time in UTC."""
    assert matches(line, NEW_YORK, "2024-03-10T05:05", len(expected)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("30 1 * * *", ["03. 01:30 -0400", "04. 01:30 -0500"]),
        ("30 2 * * *", ["03. 02:30 -0500", "04. 02:30 -0500"]),
        ("0 3 * * *", ["03. 03:00 -0500", "04. 03:00 -0500"]),
        ("0 * * * *", ["03. 01:00 -0400", "03. 01:00 -0500", "03. 02:00 -0500"]),
        (
            "*/30 * * * *",
            [
                *("03. 00:30 -0400", "03. 01:00 -0400", "03. 01:30 -0400"),
                *("03. 01:00 -0500", "03. 01:30 -0500", "03. 02:00 -0500"),
            ],
        ),
        ("0 30 1 * * *", ["03. 01:30 -0400", "04. 01:30 -0500"]),
    ],
)
def test_the_night_that_has_an_hour_twice_in_new_york(line: str, expected: list[str]) -> None:
    """a fixed time is due the first time alone; what follows the clock is due both times."""
    assert matches(line, NEW_YORK, "2024-11-03T04:05", len(expected)) == expected


@pytest.mark.parametrize("line", ["30 2 * * *", "0 30 2 * * *"])
def test_asked_within_the_hour_that_comes_twice(line: str) -> None:
    """in the second of two equal hours a fixed time of the first is over."""
    assert matches(line, BERLIN, "2024-10-27T00:10", 1) == ["27. 02:30 +0200"]
    assert matches(line, BERLIN, "2024-10-27T00:31", 1) == ["28. 02:30 +0100"]
    assert matches(line, BERLIN, "2024-10-27T01:10", 1) == ["28. 02:30 +0100"]


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, "Australia/Lord_Howe", "Asia/Kolkata", "UTC"])
@pytest.mark.parametrize("line", ["30 2 * * *", "0 3 * * *", "15 1 * * *", "10 30 2 * * *"])
def test_a_daily_line_is_due_once_a_day(line: str, zone: str) -> None:
    """over two years a daily line is due once on each day of its zone, whatever the clocks do."""
    cron, moment = Cron(line, ZoneInfo(zone)), utc("2024-01-01T12:00")
    days: list[date] = []
    while len(days) < 730:
        moment = cron.next_after(moment)
        days.append(moment.astimezone(ZoneInfo(zone)).date())
    assert days == [days[0] + timedelta(days=number) for number in range(730)]


def test_the_hours_of_a_year_are_all_there() -> None:
    """an hourly line is due each hour of real time, across both changes."""
    cron, moment = Cron("0 * * * *", ZoneInfo(BERLIN)), utc("2024-03-01T00:00")
    for number in range(24 * 270):
        moment = cron.next_after(moment)
        assert moment == utc("2024-03-01T01:00") + timedelta(hours=number)


def test_a_match_is_strictly_later() -> None:
    """a moment that matches isn't its own next match; a fraction before, it is."""
    cron = Cron("0 3 * * *", UTC)
    assert cron.next_after(utc("2024-01-01T03:00:00")) == utc("2024-01-02T03:00")
    assert cron.next_after(utc("2024-01-01T02:59:59.999999")) == utc("2024-01-01T03:00")
    assert cron.next_after(utc("2024-01-01T03:00:00.000001")) == utc("2024-01-02T03:00")


def test_six_fields_across_the_changes_of_the_clocks() -> None:
    """a star for hours or minutes follows the clock; a fixed time that lacks is due at its end."""
    spring = "2024-03-31T00:30:00"
    assert matches("0 * 2 * * *", BERLIN, spring, 1) == ["01. 02:00 +0200"]
    assert matches("0 15 * * * *", BERLIN, spring, 2) == ["31. 03:15 +0200", "31. 04:15 +0200"]
    assert matches("20 30 2 * * *", BERLIN, spring, 2) == ["31. 03:00 +0200", "01. 02:30 +0200"]
    cron = Cron("20 30 2 * * *", ZoneInfo(BERLIN))
    assert cron.next_after(utc(spring)) == utc("2024-03-31T01:00:00")


def test_no_more_matches() -> None:
    """the end of what a datetime can express is an error with the line and the moment."""
    moment = datetime(9999, 12, 31, 12, tzinfo=UTC)
    with pytest.raises(OverflowError, match=r"cron '0 3 \* \* \*' matches no more after .*9999"):
        Cron("0 3 * * *", UTC).next_after(moment)


def test_six_fields_begin_with_seconds() -> None:
    """with six fields the first is that of the seconds."""
    cron, moment, found = Cron("*/20 0 3 * * *", UTC), utc("2024-01-01T00:00"), []
    for _ in range(4):
        moment = cron.next_after(moment)
        found.append(moment.isoformat())
    assert found == [
        "2024-01-01T03:00:00+00:00",
        "2024-01-01T03:00:20+00:00",
        "2024-01-01T03:00:40+00:00",
        "2024-01-02T03:00:00+00:00",
    ]


@pytest.mark.parametrize("offset", [-11, -3.5, 0, 5.75, 14])
def test_any_tzinfo_is_a_zone(offset: float) -> None:
    """a fixed offset is as good as a zone with a name."""
    zone = timezone(timedelta(hours=offset))
    found = Cron("0 3 * * *", zone).next_after(utc("2024-06-01T12:34"))
    assert found.astimezone(zone).hour == 3
    assert utc("2024-06-01T12:34") < found <= utc("2024-06-02T12:34")


# --- lines that make no sense --------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("61 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("* 25 * * *", "hour"),
        ("* * 0 * *", "day-of-month"),
        ("* * * 13 *", "month"),
        ("* * * * 9", "day-of-week"),
        ("60 * * * * *", "second"),
        ("* * * *", "number of fields"),
        ("* * * * * * *", "number of fields"),
        ("@daily", "number of fields"),
        ("", "number of fields"),
        ("0 0 30 2 *", "day-of-month"),
    ],
)
def test_a_bad_line_names_the_field(line: str, field: str) -> None:
    """a line that makes no sense is refused at the declaration, with its field and itself."""
    with pytest.raises(ValueError, match="cron") as caught:
        Module("m").task(nothing, cron=line)
    assert field in str(caught.value)
    assert repr(line) in str(caught.value)


@pytest.mark.parametrize("line", ["0 0 30 2 *", "0 0 31 4,6 *", "0 0 */30 2 MON#2"])
def test_a_line_that_never_matches(line: str) -> None:
    """a day that never comes is refused."""
    with pytest.raises(ValueError, match="cron"):
        Cron(line, UTC)


def test_a_line_that_matches_seldom() -> None:
    """a day that comes once in decades is waited for."""
    found = Cron("0 0 * 2 MON#5", UTC).next_after(utc("2024-01-01T00:00"))
    assert (found.year, found.month, found.day) == (2044, 2, 29)


@pytest.mark.parametrize("line", [None, 5, b"0 3 * * *", ["0 3 * * *"]])
def test_a_line_that_is_no_string(line: Any) -> None:
    """a line is a string; what was given instead is shown."""
    with pytest.raises(TypeError, match="cron must be a string") as caught:
        Cron(line, UTC)
    assert repr(line) in str(caught.value)


@pytest.mark.parametrize("name", ["Europe/Atlantis", "", "../etc/passwd", "Berlin", "/etc"])
def test_an_unknown_zone(name: str) -> None:
    """a zone that isn't known is named."""
    with pytest.raises(ValueError, match="timezone must be known") as caught:
        Module("m").task(nothing, cron="0 3 * * *", timezone=name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("value", [None, 2, timedelta(hours=1)])
def test_a_zone_of_the_wrong_type(value: Any) -> None:
    """a zone is a name or a tzinfo."""
    with pytest.raises(TypeError, match="timezone must be a name"):
        check_zone(value)


@pytest.mark.parametrize("name", ["UTC", "utc", "Utc"])
def test_utc_needs_no_database(name: str) -> None:
    """UTC is known where no database of zones is."""
    assert check_zone(name) is UTC
    assert check_zone(ZoneInfo(BERLIN)) is not UTC


def test_the_extra_is_missing() -> None:
    """without cronsim the package works; a cron line says which extra to install."""
    program = """
        import sys
        sys.modules["cronsim"] = None
        from trio_modules import Module

        async def nothing(task): ...

        m = Module("m")
        m.task(nothing, every=60)
        for _ in range(2):
            try:
                m.task(nothing, cron="0 3 * * *")
            except ImportError as error:
                print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("pip install 'trio-modules[cron]'" in line for line in lines)


def test_cron_costs_nothing_to_those_without_it() -> None:
    """neither cronsim nor zoneinfo is imported before a cron line needs them."""
    program = (
        "import sys, trio_modules; print([n for n in ('cronsim', 'zoneinfo') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# --- tasks that follow a line --------------------------------------------------------------


async def nothing(task: Task) -> None:
    await trio.lowlevel.checkpoint()


class Runs:
    """A task's function that writes down the wall time at which it runs."""

    def __init__(self, app: App | None = None, takes: float = 0) -> None:
        self.app = app
        self.takes = takes
        self.walls: list[str] = []
        self.times: list[float] = []

    async def run(self, task: Task) -> None:
        assert self.app is not None
        self.walls.append(self.app.now().strftime("%m-%d %H:%M:%S"))
        self.times.append(trio.current_time())
        await trio.sleep(self.takes)


def declared(
    line: str, *, takes: float = 0, epoch: str = "2024-03-30T00:00", **options: Any
) -> tuple[App, Module, Runs]:
    m, runs = Module("m"), Runs(takes=takes)
    m.task(runs.run, cron=line, **options)
    runs.app = App(m, epoch=utc(epoch), rng=random.Random(5))
    return runs.app, m, runs


async def test_a_cron_task_runs_when_its_line_says(autojump_clock: MockClock) -> None:
    """in UTC by default, at the line's times, starting with the first after the start."""
    app, _, runs = declared("0 3 * * *")
    async with app:
        (task,) = app.status().modules["m"].tasks
        assert task.next_due == 3 * 3600
        await trio.sleep(3 * 86400)
    assert runs.walls == ["03-30 03:00:00", "03-31 03:00:00", "04-01 03:00:00"]


async def test_a_cron_task_follows_its_zone(autojump_clock: MockClock) -> None:
    """in a zone of its own the task keeps to the clock on the wall there."""
    app, _, runs = declared("0 3 * * *", timezone=BERLIN)
    async with app:
        await trio.sleep(3 * 86400)
    assert runs.walls == ["03-30 02:00:00", "03-31 01:00:00", "04-01 01:00:00"]


async def test_a_year_of_weeks(autojump_clock: MockClock) -> None:
    """a weekly line runs fifty-two times in a year of virtual time, each at three o'clock there."""
    app, _, runs = declared("0 3 * * MON", timezone=BERLIN, epoch="2024-01-01T12:00")
    async with app:
        await trio.sleep(365 * 86400)
    assert len(runs.walls) == 52
    hours = {wall[6:] for wall in runs.walls}
    assert hours == {"02:00:00", "01:00:00"}


async def test_the_epoch_may_be_in_any_zone(autojump_clock: MockClock) -> None:
    """an epoch with another offset is the same moment."""
    m, runs = Module("m"), Runs()
    m.task(runs.run, cron="0 3 * * *")
    epoch = datetime(2024, 3, 30, 2, tzinfo=timezone(timedelta(hours=2)))
    runs.app = App(m, epoch=epoch)
    async with runs.app:
        await trio.sleep(86400)
    assert runs.times == [3 * 3600]


FRACTIONS = [random.Random(number).uniform(0, 1e5) for number in range(60)]


@pytest.mark.parametrize("line", ["* * * * *", "*/10 * * * * *"])
def test_rounding_never_makes_a_time_due_twice(line: str) -> None:
    """whenever the app is entered, to the last bit, each time of the line is due exactly once."""
    for start in FRACTIONS:
        clock = MockClock(autojump_threshold=0)
        clock.jump(start)
        app, _, runs = declared(line, epoch="2024-03-30T00:00:00.123457")

        async def use(app: App = app) -> None:
            async with app:
                await trio.sleep(600)

        trio.run(use, clock=clock)
        step = 60 if line == "* * * * *" else 10
        gaps = {round(b - a, 3) for a, b in zip(runs.times, runs.times[1:], strict=False)}
        assert gaps == {float(step)}, start
        assert len(runs.times) == 600 // step, start


async def test_jitter_delays_each_run_anew(autojump_clock: MockClock) -> None:
    """each run is up to `jitter` seconds late, never early, by chance of the app's rng."""

    async def late() -> list[float]:
        app, _, runs = declared("0 * * * *", jitter=100)
        async with app:
            entered = trio.current_time()
            await trio.sleep(20 * 3600 + 200)
        return [when - entered - 3600 * number for number, when in enumerate(runs.times, 1)]

    first, second = await late(), await late()
    assert len(first) == 20
    assert all(0 <= seconds <= 100 for seconds in first)
    assert len(set(first)) == 20
    assert max(first) - min(first) > 50
    assert first == pytest.approx(second, abs=0.01)


async def test_a_run_longer_than_the_period_runs_once_more(autojump_clock: MockClock) -> None:
    """a time that passes during a run is made up for once, after it, never at the same time."""
    app, _, runs = declared("* * * * *", takes=150)
    async with app:
        await trio.sleep(605)
    assert runs.times == [60, 210, 360, 510]


async def test_queueing_does_not_disturb_the_line(autojump_clock: MockClock) -> None:
    """a cron task that is queued by hand runs then, and at its next time all the same."""
    m, runs = Module("m"), Runs()
    task = m.task(runs.run, cron="0 * * * *")
    runs.app = App(m, epoch=utc("2024-03-30T00:00"))
    async with runs.app:
        await trio.sleep(600)
        task.queue()
        await trio.sleep(3600)
    assert runs.times == [600, 3600]


async def test_repeating_can_be_stopped(autojump_clock: MockClock) -> None:
    """repeat(None) ends a cron task's repetition, and leaves the time that it is due at."""
    m, runs = Module("m"), Runs()
    task = m.task(runs.run, cron="0 * * * *")
    runs.app = App(m, epoch=utc("2024-03-30T00:00"))
    async with runs.app:
        await trio.sleep(10)
        task.repeat(None)
        await trio.sleep(4 * 3600)
    assert runs.times == [3600]


# --- times that pass while the module is down ----------------------------------------------


@pytest.mark.parametrize(("misfire", "expected"), [("run-once", 2), ("skip", 1)])
async def test_times_that_pass_while_the_module_is_down(
    autojump_clock: MockClock, misfire: Literal["run-once", "skip"], expected: int
) -> None:
    """three times that passed in the meantime are made up for once at the start, or skipped."""
    m, runs = module_with("m", enabled=True), Runs()
    m.task(runs.run, cron="0 * * * *", misfire=misfire)
    app = runs.app = App(m, managed=True, epoch=utc("2024-03-30T00:00"))
    async with app:
        await trio.sleep(3700)
        await switch_off(app, m)
        await trio.sleep(3 * 3600)
        m.enable()
        await app.manage()
        await trio.sleep(10)
        assert len(runs.times) == expected
        await trio.sleep(3600)
    assert runs.times[-1] == 5 * 3600
    assert len(runs.times) == expected + 1


@pytest.mark.parametrize("misfire", ["run-once", "skip"])
async def test_nothing_is_made_up_for_without_a_time_that_passed(
    autojump_clock: MockClock, misfire: Literal["run-once", "skip"]
) -> None:
    """a short stop between two times makes no run, and neither does the first start."""
    m, runs = module_with("m", enabled=True), Runs()
    m.task(runs.run, cron="0 * * * *", misfire=misfire)
    app = runs.app = App(m, managed=True, epoch=utc("2024-03-30T00:30"))
    async with app:
        await trio.sleep(60)
        await app.restart("m")
        await trio.sleep(60)
    assert runs.times == []


async def unschedule(task: Task) -> None:
    task.schedule(None)


async def unschedule_in_time(task: Task) -> None:
    """Do it while the task is being executed."""
    task.queue()
    await trio.sleep(1)
    assert task.executing
    task.schedule(None)


async def repeat_otherwise(task: Task) -> None:
    task.repeat(4 * 3600)


@pytest.mark.parametrize("order", [unschedule, unschedule_in_time, repeat_otherwise])
async def test_times_that_were_called_off_are_not_made_up_for(
    autojump_clock: MockClock, order: Callable[[Task], Awaitable[None]]
) -> None:
    """a time of the line that its user took back hasn't passed when the module starts anew."""
    m, runs = Module("m"), Runs(takes=10)
    task = m.task(runs.run, cron="0 * * * *")
    app = runs.app = App(m, epoch=utc("2024-03-30T00:00"))
    async with app:
        await order(task)
        await trio.sleep(2 * 3600)
        before = list(runs.times)
        await app.restart("m")
        await trio.sleep(600)
        assert runs.times == before
        await trio.sleep(3600)
    assert len(runs.times) == len(before) + 1


# --- a wall clock that is set --------------------------------------------------------------


class Wall:
    """A wall clock beside a mock clock, which somebody can set."""

    def __init__(self) -> None:
        self.shift = 0.0
        self.rate = 1.0
        self.asked = 0

    def now(self) -> datetime:
        self.asked += 1
        seconds = trio.current_time() * self.rate + self.shift
        return utc("2024-03-30T00:00") + timedelta(seconds=seconds)


class Watched:
    """An app whose wall clock can be set, and a task of it."""

    def __init__(self) -> None:
        self.wall = Wall()
        self.m = Module("m")
        self.app = App(self.m, rng=random.Random(1))
        self.runs: list[float] = []
        self.task = self.m.new_task(self.run)

    async def run(self, task: Task) -> None:
        self.runs.append(trio.current_time())

    async def during(self, use: Callable[[], object], seconds: float) -> list[float]:
        """Enter the app, order the task, and return the times at which it ran."""
        async with self.app:
            assert self.app._run is not None
            self.app._run.board.clock = WallClock(self.wall.now, virtual=False)
            use()
            await trio.sleep(seconds)
        return self.runs


def at(text: str) -> datetime:
    return utc(f"2024-03-30T{text}")


async def set_after(watched: Watched, seconds: float, shift: float) -> None:
    await trio.sleep(seconds)
    watched.wall.shift += shift


async def test_a_clock_set_forward_is_noticed(autojump_clock: MockClock) -> None:
    """what is due by the wall clock runs within a minute of it being set past that time."""
    watched = Watched()
    watched.m.worker(set_after, watched, 100.0, 7200.0)
    runs = await watched.during(lambda: watched.task.schedule(at("01:00")), 4000)
    assert len(runs) == 1
    assert 100 <= runs[0] <= 160


async def test_a_clock_set_forward_before_the_time(autojump_clock: MockClock) -> None:
    """set forward, but not past the time, it runs when the wall clock shows the time."""
    watched = Watched()
    watched.m.worker(set_after, watched, 100.0, 1800.0)
    runs = await watched.during(lambda: watched.task.schedule(at("01:00")), 4000)
    assert runs == [pytest.approx(1800, abs=0.01)]


@pytest.mark.parametrize("when", [100.0, 3590.0])
async def test_a_clock_set_back_is_noticed(autojump_clock: MockClock, when: float) -> None:
    """set back, also in the last minute, it runs when the wall clock shows the time, once."""
    watched = Watched()
    watched.m.worker(set_after, watched, when, -1800.0)
    runs = await watched.during(lambda: watched.task.schedule(at("01:00")), 9000)
    assert runs == [pytest.approx(5400, abs=0.01)]


async def test_a_clock_that_goes_slow(autojump_clock: MockClock) -> None:
    """a wall clock that goes slow makes nothing early."""
    watched = Watched()
    watched.wall.rate = 0.999
    runs = await watched.during(lambda: watched.task.schedule(at("01:00")), 9000)
    assert runs == [pytest.approx(3600 / 0.999, abs=0.01)]


async def test_times_of_trio_know_no_wall_clock(autojump_clock: MockClock) -> None:
    """what is due on Trio's clock stays so, whatever the wall clock does."""
    watched = Watched()
    watched.m.worker(set_after, watched, 100.0, 7200.0)
    runs = await watched.during(lambda: watched.task.schedule_after(3600), 4000)
    assert runs == [3600]
    assert watched.wall.asked == 0


async def test_nobody_looks_at_a_clock_that_nobody_needs(autojump_clock: MockClock) -> None:
    """when nothing is due by the wall clock any more, nobody looks at it."""

    async def asked_in(seconds: float) -> int:
        watched = Watched()
        await watched.during(lambda: watched.task.schedule(at("10:00")).schedule(None), seconds)
        return watched.wall.asked

    assert await asked_in(200) == await asked_in(36_000)


@pytest.mark.parametrize(("misfire", "expected"), [("run-once", 1), ("skip", 0)])
async def test_a_cron_time_that_passes_in_a_jump(
    autojump_clock: MockClock, misfire: Literal["run-once", "skip"], expected: int
) -> None:
    """when the clock jumps over three times of a line, one run makes up for them, or none."""
    watched = Watched()
    watched.m.worker(set_after, watched, 100.0, 3 * 3600.0)
    runs = await watched.during(lambda: watched.task.cron("30 * * * *", misfire=misfire), 600)
    assert len(runs) == expected
    assert watched.task.next_run is None


async def test_a_cron_line_goes_on_after_a_jump(autojump_clock: MockClock) -> None:
    """after a jump the line's next times are those that the wall clock shows."""
    watched = Watched()
    watched.m.worker(set_after, watched, 100.0, 2.25 * 3600.0)
    runs = await watched.during(lambda: watched.task.cron("30 * * * *", misfire="skip"), 9000)
    assert runs == [pytest.approx(900 + 3600 * hour, abs=0.01) for hour in range(3)]


async def test_a_cron_time_is_not_repeated_when_the_clock_is_set_back(
    autojump_clock: MockClock,
) -> None:
    """a time that was served isn't due again when the clock is set back over it."""
    watched = Watched()
    watched.m.worker(set_after, watched, 1900.0, -600.0)
    runs = await watched.during(lambda: watched.task.cron("30 * * * *"), 6100)
    assert runs == [pytest.approx(1800, abs=0.01), pytest.approx(6000, abs=0.01)]


@pytest.mark.parametrize("rate", [1.0, 1 - 1e-7, 1 + 1e-7])
async def test_a_cron_time_is_due_once_on_a_clock_that_drifts(
    autojump_clock: MockClock, rate: float
) -> None:
    """a wall clock that is a fraction behind when the time has come makes it due once."""
    watched = Watched()
    watched.wall.rate = rate
    runs = await watched.during(lambda: watched.task.cron("*/10 * * * *"), 86400 - 5)
    assert len(runs) == 143


async def test_trios_own_clock_is_real() -> None:
    """only under Trio's own clock the wall clock is real, and watched."""
    app = App(Module("m"))
    async with app:
        assert app._run is not None
        assert not app._run.board.clock.virtual
        assert abs((app.now() - datetime.now(UTC)).total_seconds()) < 5


async def test_any_other_clock_is_virtual(autojump_clock: MockClock) -> None:
    """under a mock clock the wall clock follows it, and nobody need watch it."""
    app, _, _ = declared("0 3 * * *")
    async with app:
        assert app._run is not None
        assert app._run.board.clock.virtual
        before = app.now()
        await trio.sleep(80_000)
        assert app.now() - before == timedelta(seconds=80_000)
