"""Service workers: restarts and their times, budgets, the handle, start-up, restart capacity."""

from __future__ import annotations

import random
import sys
from contextvars import ContextVar
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from support import deterministic_scheduling, fail, let_run, reports_of, stray_cancelled, switch_off
from trio.testing import MockClock, assert_checkpoints

from trio_modules import (
    App,
    Backoff,
    FailureLevel,
    Module,
    ModuleCrashed,
    ModuleOffline,
    ModuleStatus,
    Restart,
    RestartModule,
    RestartNow,
    ServiceWorker,
    StartError,
    current_app,
    current_module,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

colour: ContextVar[str] = ContextVar("colour", default="none")
NO_DELAY = Restart(backoff=Backoff(initial=0))


class Script:
    """A service that writes down when each of its runs begins, and ends it as it is told.

    A step is a number of seconds to run before a failure, an exception to raise at once, or a
    function to call; after the last step it runs until it is cancelled.
    """

    def __init__(self, *steps: float | BaseException | Callable[[], Awaitable[None]]) -> None:
        self.steps = iter(steps)
        self.begun: list[float] = []
        self.cancelled: list[float] = []

    async def run(self) -> None:
        self.begun.append(trio.current_time())
        step = next(self.steps, None)
        if step is None:
            await self.run_on()
        elif isinstance(step, BaseException):
            raise step
        elif isinstance(step, (int, float)):
            await trio.sleep(step)
            raise ValueError("the script says so")
        else:
            await step()

    async def run_on(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.append(trio.current_time())


def shortest_window(times: list[float], count: int) -> float:
    """Return the shortest time in which one more than ``count`` of these times lie."""
    return min(later - earlier for earlier, later in zip(times, times[count:], strict=False))


def failing(times: int) -> Iterable[float]:
    return [0.0] * times


async def run_on(app: App, begin: Callable[[], object]) -> None:
    """Run the app with a body that begins something and then waits for ever."""
    async with app:
        begin()
        await trio.sleep_forever()


# --- Backoff and Restart as values ---------------------------------------------------------------


def test_the_defaults_of_a_backoff() -> None:
    """a Backoff is the seed's unless told otherwise: two seconds more for each failure."""
    assert attrs.asdict(Backoff()) == {
        "initial": 2.0,
        "growth": "linear",
        "maximum": 300.0,
        "jitter": 0.0,
        "reset_after": 300.0,
    }


def test_the_defaults_of_a_restart() -> None:
    """a Restart allows any number of restarts unless told otherwise."""
    restart = Restart()
    assert (restart.max_restarts, restart.within, restart.backoff) == (None, 300, Backoff())
    assert (restart.cover_start, restart.exhausted) == (False, "shutdown")


def test_policies_are_frozen() -> None:
    """Backoff and Restart can't be changed, but compared, hashed and evolved."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Backoff().initial = 1  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Restart().within = 1  # type: ignore[misc]
    assert attrs.evolve(Restart(within=1), within=300) == Restart()
    assert hash(Restart()) == hash(Restart())


def test_linear_growth() -> None:
    """a linear delay is the initial one times the number of failures."""
    assert [Backoff(initial=3).delay(n) for n in (1, 2, 3, 10)] == [3, 6, 9, 30]


def test_exponential_growth() -> None:
    """an exponential delay doubles with each failure."""
    backoff = Backoff(initial=3, growth="exponential")
    assert [backoff.delay(n) for n in (1, 2, 3, 6)] == [3, 6, 12, 96]


@pytest.mark.parametrize("growth", ["linear", "exponential"])
@pytest.mark.parametrize("failures", [1000, 10**6, 10**400])
def test_a_delay_has_a_maximum(growth: str, failures: int) -> None:
    """however many failures there were, the delay is the maximum at most."""
    backoff = Backoff(growth=growth, maximum=20)  # type: ignore[arg-type]
    assert backoff.delay(failures) == 20


@pytest.mark.parametrize("growth", ["linear", "exponential"])
def test_no_delay_stays_no_delay(growth: str) -> None:
    """an initial delay of 0 gives 0, for any number of failures."""
    backoff = Backoff(initial=0, growth=growth, jitter=0.5)  # type: ignore[arg-type]
    assert [backoff.delay(n, random.Random(1)) for n in (1, 10, 10**400)] == [0, 0, 0]


def test_jitter_spreads_the_delay() -> None:
    """with jitter the delays fill the fraction around the plain one, on both sides."""
    backoff, rng = Backoff(initial=10, jitter=0.2), random.Random(1)
    delays = [backoff.delay(2, rng) for _ in range(500)]
    assert 16 <= min(delays) < 17
    assert 23 < max(delays) <= 24


def test_jitter_is_clipped() -> None:
    """jitter neither makes a delay negative nor longer than the maximum."""
    backoff, rng = Backoff(initial=10, maximum=10, jitter=1), random.Random(1)
    delays = [backoff.delay(5, rng) for _ in range(200)]
    assert min(delays) >= 0
    assert max(delays) == 10


def test_bad_policies() -> None:
    """jitter above 1, a count of failures below 1 and a backoff of another type are refused."""
    with pytest.raises(ValueError, match="jitter"):
        Backoff(jitter=1.25)
    with pytest.raises(ValueError, match="failures"):
        Backoff().delay(0)
    with pytest.raises(TypeError, match="backoff"):
        Restart(backoff=5)  # type: ignore[arg-type]


def test_jitter_comes_from_the_generator_that_is_given() -> None:
    """the same random generator gives the same delays."""
    backoff = Backoff(jitter=0.5)
    one, two = random.Random(7), random.Random(7)
    first = [backoff.delay(n, one) for n in range(1, 20)]
    assert first == [backoff.delay(n, two) for n in range(1, 20)]
    assert len(set(first)) == len(first)


# --- the restart loop ----------------------------------------------------------------------------


async def test_a_service_worker_runs_with_its_arguments(autojump_clock: MockClock) -> None:
    """start_service_worker returns a handle before the first step of the worker."""
    m = Module("m")
    app = App(m)
    seen: list[object] = []

    async def work(first: int, second: str) -> None:
        seen.append((first, second, current_module(), current_app()))
        await trio.sleep_forever()

    async with app:
        handle = m.start_service_worker(work, 1, "two")
        assert isinstance(handle, ServiceWorker)
        assert seen == []
        await let_run()
        assert seen == [(1, "two", m, app)]


async def test_the_default_backoff_is_exact(autojump_clock: MockClock) -> None:
    """each failure in a row is followed by two seconds more of backoff."""
    m = Module("m")
    script = Script(*failing(4))
    async with App(m):
        m.start_service_worker(script.run)
        await trio.sleep(100)
    assert script.begun == [0, 2, 2 + 4, 2 + 4 + 6, 2 + 4 + 6 + 8]


async def test_backoff_counts_from_the_failure(autojump_clock: MockClock) -> None:
    """the delay begins when the run fails, not when it began."""
    m = Module("m")
    script = Script(5, 7)
    async with App(m):
        m.start_service_worker(script.run)
        await trio.sleep(100)
    assert script.begun == [0, 5 + 2, 5 + 2 + 7 + 4]


@pytest.mark.parametrize(
    "options",
    [
        {"backoff": 5},
        {"backoff": Backoff(initial=5)},
        {"restart": Restart(backoff=Backoff(initial=5))},
    ],
    ids=["seconds", "Backoff", "Restart"],
)
async def test_three_ways_to_say_the_backoff(
    autojump_clock: MockClock, options: dict[str, object]
) -> None:
    """backoff is given in seconds, as a Backoff or within restart, to the same effect."""
    m = Module("m")
    started, declared = Script(*failing(2)), Script(*failing(2))
    m.service_worker(declared.run, name="declared", **options)  # type: ignore[call-overload]
    async with App(m):
        m.start_service_worker(started.run, **options)  # type: ignore[arg-type]
        await trio.sleep(100)
    assert started.begun == declared.begun == [0, 5, 15]


async def test_exponential_backoff(autojump_clock: MockClock) -> None:
    """a service worker follows an exponential Backoff up to its maximum."""
    m = Module("m")
    script = Script(*failing(5))
    async with App(m):
        m.start_service_worker(
            script.run, backoff=Backoff(initial=1, growth="exponential", maximum=4)
        )
        await trio.sleep(100)
    assert script.begun == [0, 1, 3, 7, 11, 15]


async def test_backoff_has_a_cap(autojump_clock: MockClock) -> None:
    """after very many failures the pause is the maximum, not hours."""
    m = Module("m")
    script = Script(*failing(400))
    async with App(m):
        m.start_service_worker(script.run)
        await trio.sleep(300 * 400)
    pauses = [later - earlier for earlier, later in pairwise(script.begun)]
    assert pauses[:3] == [2, 4, 6]
    assert pauses[149:] == [300] * (len(pauses) - 149)
    assert len(pauses) == 400


async def test_a_long_run_sets_the_count_back(autojump_clock: MockClock) -> None:
    """a run that lasted reset_after before it failed is followed by the first delay again."""
    m = Module("m")
    script = Script(0, 0, 300, 0)
    async with App(m):
        m.start_service_worker(script.run)
        await trio.sleep(1000)
    assert script.begun == [0, 2, 6, 306 + 2, 308 + 4]


async def test_a_shorter_run_does_not_set_the_count_back(autojump_clock: MockClock) -> None:
    """a run just short of reset_after counts as one more failure in a row."""
    m = Module("m")
    script = Script(0, 0, 299, 0)
    async with App(m):
        m.start_service_worker(script.run)
        await trio.sleep(1000)
    assert script.begun == [0, 2, 6, 305 + 6, 311 + 8]


async def test_a_long_backoff_does_not_set_the_count_back(autojump_clock: MockClock) -> None:
    """the pauses don't count as run time: a service that fails at once never looks healthy."""
    m = Module("m")
    script = Script(*failing(3))
    async with App(m):
        m.start_service_worker(
            script.run, backoff=Backoff(initial=100, maximum=1000, reset_after=50)
        )
        await trio.sleep(1000)
    assert script.begun == [0, 100, 300, 600]


async def test_jitter_comes_from_the_app(autojump_clock: MockClock) -> None:
    """the same App(rng=) gives the same restarts, another seed gives others."""

    async def begun(seed: int) -> list[float]:
        m = Module("m")
        script = Script(*failing(5))
        async with App(m, rng=random.Random(seed)):
            start = trio.current_time()
            m.start_service_worker(script.run, backoff=Backoff(initial=8, jitter=0.5))
            await trio.sleep(1024)
        return [round(time - start, 6) for time in script.begun]

    first = await begun(1)
    assert first == await begun(1)
    assert first != await begun(2)
    assert 4 <= first[1] <= 12


async def test_any_exception_restarts(autojump_clock: MockClock) -> None:
    """groups, a stray Cancelled and whatever wraps one restart a service worker as all do."""
    m = Module("m")
    app = App(m)
    stray = await stray_cancelled()
    wrapping = RuntimeError("wraps a cancellation")
    wrapping.__cause__ = stray
    errors: list[BaseException] = [
        ValueError("plain"),
        ExceptionGroup("group", [ValueError("in a group")]),
        stray,
        BaseExceptionGroup("group", [await stray_cancelled()]),
        wrapping,
    ]
    script = Script(*errors)

    async def body() -> None:
        handle = m.start_service_worker(script.run, backoff=0.0)
        await trio.sleep(10)
        assert handle.state == "running"
        assert handle.restarts == len(errors)

    reports = await reports_of(app, body)
    assert [report.exception for report in reports] == errors
    assert {report.task_type for report in reports} == {"service-worker"}
    assert {report.severity for report in reports} == {"panic"}


class Unprintable(Exception):
    """An exception that can't even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("can't be shown")

    __str__ = __repr__


async def test_an_exception_that_cannot_be_shown(autojump_clock: MockClock) -> None:
    """an exception whose text can't be had restarts the worker, and status can be asked."""
    m = Module("m")
    app = App(m)
    script = Script(Unprintable())
    async with app:
        handle = m.start_service_worker(script.run, backoff=1)
        await let_run()
        assert isinstance(handle.last_error, Unprintable)
        assert isinstance(app.status().modules["m"].workers[0].last_error, str)
        await trio.sleep(2)
    assert script.begun == [0, 1]


async def test_a_base_exception_is_not_a_failure_to_restart(autojump_clock: MockClock) -> None:
    """a SystemExit of a service worker isn't restarted, it leaves the block."""
    m = Module("m")
    script = Script(SystemExit(3))
    with pytest.raises(SystemExit):
        await run_on(App(m), lambda: m.start_service_worker(script.run, backoff=0))
    assert script.begun == [0]


async def test_each_failure_is_reported_once(autojump_clock: MockClock) -> None:
    """every failed run is one report with the worker's name."""
    m = Module("m")
    app = App(m)
    errors = [ValueError(1), ValueError(2), ValueError(3)]

    async def body() -> None:
        m.start_service_worker(Script(*errors).run, name="poll")
        await trio.sleep(100)

    reports = await reports_of(app, body)
    assert [report.exception for report in reports] == errors
    assert {(report.module, report.task_name) for report in reports} == {("m", "poll")}
    assert [report.time for report in reports] == [0, 2, 6]


async def test_returning_ends_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """a service worker that returns is not restarted, and its module's log says so."""
    m = Module("m")
    app = App(m)
    caplog.set_level("DEBUG", "trio_modules")

    async def work() -> None:
        await trio.sleep(1)

    async def body() -> None:
        handle = m.start_service_worker(work, name="once", backoff=0)
        await trio.sleep(5)
        assert (handle.state, handle.restarts, handle.last_error) == ("ended", 0, None)
        assert m.online
        assert m.failure.level is FailureLevel.NONE

    assert await reports_of(app, body) == []
    (record,) = [record for record in caplog.records if "once" in record.getMessage()]
    assert record.name == "trio_modules.m"


async def test_being_cancelled_is_said_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """a service worker that is cancelled by its handle says so in its module's log, and why."""
    m = Module("m")
    caplog.set_level("DEBUG", "trio_modules")
    async with App(m):
        handle = m.start_service_worker(trio.sleep_forever, name="poll")
        await let_run()
        handle.cancel("the line was closed")
        await handle.wait()
    (text,) = [text for text in caplog.messages if "the line was closed" in text]
    assert "poll" in text


async def test_declared_work_runs_in_the_context_of_entry(autojump_clock: MockClock) -> None:
    """a declared service worker sees the context in which the app was entered, restarted too."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    seen: list[str] = []

    @m.service_worker(backoff=1)
    async def work() -> None:
        seen.append(colour.get())
        raise ValueError("no")

    colour.set("at entry")
    async with app:
        colour.set("later")
        await trio.sleep(2)
        await app.restart(m)
        await let_run()
    assert seen == ["at entry"] * 3


async def test_restart_on_return(autojump_clock: MockClock) -> None:
    """with restart_on_return a service worker that returns runs again, without a report."""
    m = Module("m")
    app = App(m)
    begun: list[float] = []

    async def work() -> None:
        begun.append(trio.current_time())
        await trio.sleep(1)

    async def body() -> None:
        handle = m.start_service_worker(work, restart_on_return=True)
        await trio.sleep(4.5)
        assert handle.state != "ended"
        assert handle.restarts == len(begun) - 1
        assert handle.last_error is None

    assert await reports_of(app, body) == []
    assert len(begun) > 1


async def test_restart_on_return_ends_with_the_module(autojump_clock: MockClock) -> None:
    """a service worker that returns while its module stops, or when cancelled, has ended."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    begun: list[float] = []

    async def obedient() -> None:
        begun.append(trio.current_time())
        with m.interruptible():
            await trio.sleep_forever()

    async def stubborn() -> None:
        begun.append(trio.current_time())
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    async with app:
        m.start_service_worker(obedient, restart_on_return=True, grace_period=20, backoff=1)
        handle = m.start_service_worker(stubborn, restart_on_return=True, backoff=1)
        await let_run()
        handle.cancel("enough")
        await handle.wait()
        await trio.sleep(5)
        await switch_off(app, m)
        assert trio.current_time() == 10
    assert begun == [0, 0]


async def test_a_stop_ends_it(autojump_clock: MockClock) -> None:
    """a stop cancels a running service worker, which isn't restarted."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    script = Script()

    async def body() -> None:
        handle = m.start_service_worker(script.run, backoff=0)
        await trio.sleep(1)
        await switch_off(app, m)
        assert handle.state == "ended"

    assert await reports_of(app, body) == []
    assert script.begun == [0]
    assert script.cancelled == [1]


async def test_a_failure_during_the_stop(autojump_clock: MockClock) -> None:
    """a service worker that fails on its way out is reported and not restarted."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    error = ValueError("while leaving")

    async def leave_badly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    script = Script(leave_badly)
    at_stop: list[str] = []

    @m.on_stop
    async def stop() -> None:
        at_stop.extend(m.failures)

    async def body() -> None:
        m.start_service_worker(script.run, restart=Restart(max_restarts=0))
        await trio.sleep(1)
        await switch_off(app, m)
        await trio.sleep(10)

    (report,) = await reports_of(app, body)
    assert report.exception is error
    assert script.begun == [0]
    assert at_stop == []


async def test_a_failure_within_the_grace(autojump_clock: MockClock) -> None:
    """a service worker that fails while its module stops isn't restarted, grace or not."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)

    async def fail_when_stopping() -> None:
        await m.stopping.wait()
        raise ValueError("no")

    script = Script(fail_when_stopping)

    async def body() -> None:
        m.start_service_worker(script.run, grace_period=20, backoff=1)
        await trio.sleep(1)
        await switch_off(app, m)
        assert trio.current_time() == 1

    assert len(await reports_of(app, body)) == 1
    assert script.begun == [0]


async def test_a_stop_during_the_backoff(autojump_clock: MockClock) -> None:
    """a stop doesn't wait for a backoff, and nothing runs after it."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    script = Script(0)
    async with app:
        handle = m.start_service_worker(script.run, backoff=100, grace_period=20)
        await trio.sleep(1)
        assert list(m.failures) == ["run:restarting"]
        await switch_off(app, m)
        assert trio.current_time() == 1
        assert handle.state == "ended"
        assert dict(m.failures) == {}
        await trio.sleep(200)
    assert script.begun == [0]


@pytest.mark.parametrize("seed", range(10))
def test_a_stop_in_the_moment_of_a_restart(seed: int) -> None:
    """a run begins before the stop and has its grace, or doesn't begin."""
    scripts = [Script(0) for _ in range(3)]

    async def fall_at_one() -> AsyncIterator[None]:
        yield
        await trio.sleep_until(1)

    async def main() -> None:
        m, late = Module("m"), Module("late")
        late.lifespan(fall_at_one)
        late.on_start(fail, ValueError("no start"))
        for number, script in enumerate(scripts):
            name = f"script {number}"
            m.service_worker(script.run, name=name, restart=NO_DELAY, grace_period=5)
        async with App(m, late, max_concurrent_restarts=1, restart_settle=1):
            pass

    with deterministic_scheduling(seed), pytest.raises(StartError):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert {time for script in scripts for time in script.cancelled} == {6}


async def test_a_service_worker_has_its_grace(autojump_clock: MockClock) -> None:
    """a running service worker is cancelled when its grace period has run out."""
    m = Module("m")
    script = Script()
    async with App(m):
        m.start_service_worker(script.run, grace_period=5)
        await trio.sleep(1)
    assert script.cancelled == [6]


async def test_a_service_workers_grace_is_limited(autojump_clock: MockClock) -> None:
    """a grace period above three quarters of stop_timeout is refused."""
    m = Module("m", stop_timeout=8)
    async with App(m):
        with pytest.raises(ValueError, match="grace_period"):
            m.start_service_worker(trio.sleep_forever, grace_period=6.25)


async def test_a_stopping_module_refuses_service_workers(autojump_clock: MockClock) -> None:
    """a service worker can't be started from outside once the module stops or is offline."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)

    async def linger() -> None:
        await m.stopping.wait()
        await trio.sleep(1)

    async with app, trio.open_nursery() as nursery:
        m.start_worker(linger, grace_period=5)
        m.disable()
        nursery.start_soon(app.manage)
        await let_run()
        assert m.status is ModuleStatus.STOPPING
        with pytest.raises(ModuleOffline):
            m.start_service_worker(trio.sleep_forever)
        await trio.sleep(2)
        with pytest.raises(ModuleOffline):
            m.start_service_worker(trio.sleep_forever)


async def test_declared_service_workers_begin_at_every_start(autojump_clock: MockClock) -> None:
    """a declared service worker is begun once by each start, with a fresh count of failures."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    begun: list[float] = []

    @m.service_worker
    async def work() -> None:
        begun.append(trio.current_time())
        if len(begun) in {1, 2, 3}:
            raise ValueError("no")
        await trio.sleep_forever()

    async with app:
        await trio.sleep(3)
        assert begun == [0, 2]
        await app.restart(m)
        await trio.sleep(10)
    assert begun == [0, 2, 3, 3 + 2]


async def test_the_forms_of_a_declaration(autojump_clock: MockClock) -> None:
    """a service worker is declared bare, with options, or by a call with its arguments."""
    m = Module("m")
    seen: list[str] = []

    @m.service_worker
    async def bare() -> None:
        seen.append("bare")

    @m.service_worker(name="named", backoff=1)
    async def with_options() -> None:
        seen.append("with options")

    async def with_arguments(first: str, second: str) -> None:
        seen.append(first + second)

    for word in ("x", "y"):
        assert m.service_worker(with_arguments, word, "z", backoff=1) is with_arguments
    assert callable(bare)
    assert callable(with_options)
    async with App(m):
        await let_run()
    assert sorted(seen) == ["bare", "with options", "xz", "yz"]


# --- failures while restarting -------------------------------------------------------------------


async def test_a_restart_is_a_warning_until_it_settled(autojump_clock: MockClock) -> None:
    """from the failure until the restarted run has settled the module shows a warning."""
    m = Module("m")
    async with App(m, restart_settle=0.5):
        m.start_service_worker(Script(1, 0).run, name="poll", backoff=2)
        await trio.sleep(0.75)
        assert dict(m.failures) == {}
        await trio.sleep(0.5)
        failure = m.failures["poll:restarting"]
        assert failure.level is FailureLevel.WARNING
        assert failure.since == 1
        await trio.sleep(6)  # a failure at once, 2 s after the first, and 4 s of backoff
        assert list(m.failures) == ["poll:restarting"]
        assert m.failure.since == 1
        await trio.sleep(0.25)
        assert trio.current_time() == 7.5
        await let_run()
        assert dict(m.failures) == {}


async def test_settling_begins_with_the_restart(autojump_clock: MockClock) -> None:
    """just before the settling time is over the warning is still there."""
    m = Module("m")
    async with App(m, restart_settle=0.5):
        m.start_service_worker(Script(0).run, name="poll", backoff=1)
        await trio.sleep(1.25)
        assert list(m.failures) == ["poll:restarting"]
        await trio.sleep(0.5)
        assert dict(m.failures) == {}


async def test_a_restart_without_delay_is_told_to_those_who_listen(
    autojump_clock: MockClock,
) -> None:
    """Without backoff and settling the warning lasts no time, yet whoever hears changes sees it."""
    m = Module("m")
    script = Script(1.0)
    async with App(m, restart_settle=0) as app, app.changes() as changes:
        handle = m.start_service_worker(script.run, restart=NO_DELAY)
        await trio.sleep(2)
        assert script.begun == [0.0, 1.0]
        assert (handle.restarts, handle.state, handle.since) == (1, "running", 1.0)
        warned, resolved = changes.receive_nowait(), changes.receive_nowait()
    assert (warned.failure_after.id, warned.time) == ("run:restarting", 1.0)
    assert (resolved.failure_before.id, resolved.failure_after.id) == ("run:restarting", "")


async def test_a_run_that_follows_a_return_at_once_begins_then(
    autojump_clock: MockClock,
) -> None:
    """without backoff and settling, too, a run lasts from its own beginning."""
    m = Module("m")
    async with App(m, restart_settle=0):
        handle = m.start_service_worker(trio.sleep, 10, restart=NO_DELAY, restart_on_return=True)
        await trio.sleep(25)
        assert (handle.restarts, handle.since) == (2, 20.0)


async def test_ending_resolves_the_warning(autojump_clock: MockClock) -> None:
    """a restarted worker that returns or is cancelled takes its warning with it."""
    m = Module("m")

    async def return_at_once() -> None:
        await trio.lowlevel.checkpoint()

    async with App(m, restart_settle=10):
        m.start_service_worker(Script(0, return_at_once).run, name="returns", backoff=1)
        handle = m.start_service_worker(Script(0).run, name="cancelled", backoff=100)
        await let_run()
        assert sorted(m.failures) == ["cancelled:restarting", "returns:restarting"]
        handle.cancel("enough")
        await trio.sleep(2)
        assert dict(m.failures) == {}


async def test_each_worker_has_its_own_warning(autojump_clock: MockClock) -> None:
    """workers of one name have failures of their own: one that settles doesn't hide another."""
    m = Module("m")
    async with App(m):
        m.start_service_worker(Script(0).run, name="poll", backoff=1)
        m.start_service_worker(Script(0).run, name="poll", backoff=5)
        await let_run()
        assert sorted(m.failures) == ["poll#2:restarting", "poll:restarting"]
        await trio.sleep(2)
        assert list(m.failures) == ["poll#2:restarting"]


# --- RestartNow and RestartModule ----------------------------------------------------------------


async def test_restart_now_restarts_without_backoff(autojump_clock: MockClock) -> None:
    """RestartNow restarts at once and counts as a restart."""
    m = Module("m")
    app = App(m)
    script = Script(RestartNow(), RestartNow())

    async def body() -> None:
        handle = m.start_service_worker(script.run, backoff=100)
        await trio.sleep(1)
        assert handle.restarts == 2
        assert handle.state == "running"

    reports = await reports_of(app, body)
    assert script.begun == [0, 0, 0]
    assert {report.severity for report in reports} == {"info"}


async def test_restart_now_counts_for_the_budget(autojump_clock: MockClock) -> None:
    """RestartNow beyond the budget gives up like any failure."""
    m = Module("m", restart=Restart(max_restarts=0))
    script = Script(*[RestartNow() for _ in range(10)])
    restart = Restart(max_restarts=2)
    with pytest.raises(ModuleCrashed):
        await run_on(App(m), lambda: m.start_service_worker(script.run, restart=restart))
    assert script.begun == [0, 0, 0]


async def test_restart_now_from_a_child(autojump_clock: MockClock) -> None:
    """RestartNow that a nursery of the worker wrapped in a group is understood, too."""
    m = Module("m")

    async def with_children() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(Script(RestartNow()).run)

    script = Script(with_children)
    async with App(m):
        m.start_service_worker(script.run, backoff=100)
        await trio.sleep(1)
    assert script.begun == [0, 0]


async def test_restart_now_as_a_cause(autojump_clock: MockClock) -> None:
    """an exception that was raised from RestartNow asks for the same; one from another doesn't."""
    m = Module("m")
    asking, failing_run = RuntimeError("asking"), RuntimeError("failing")
    asking.__cause__, failing_run.__cause__ = RestartNow(), ValueError("no")
    script = Script(asking, failing_run)
    async with App(m):
        m.start_service_worker(script.run, backoff=Backoff(initial=8, maximum=8))
        await trio.sleep(10)
    assert script.begun == [0, 0, 8]


async def test_causes_in_a_circle(autojump_clock: MockClock) -> None:
    """looking through them for what they ask for ends: it is an ordinary failure."""
    m = Module("m")
    app = App(m)
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    async def body() -> None:
        m.start_worker(fail, first)
        service = m.start_service_worker(fail, first)
        await let_run()
        assert service.state == "backoff"

    reports = await reports_of(app, body)
    assert [report.exception for report in reports] == [first, first]


async def test_restart_now_beside_a_failure(autojump_clock: MockClock) -> None:
    """a group with RestartNow and another exception is a failure: it has its backoff."""
    m = Module("m")
    app = App(m)
    script = Script(ExceptionGroup("mixed", [RestartNow(), ValueError("no")]))

    async def body() -> None:
        m.start_service_worker(script.run, backoff=8)
        await trio.sleep(10)

    (report,) = await reports_of(app, body)
    assert report.severity == "panic"
    assert script.begun == [0, 8]


async def test_restart_now_cannot_spin(autojump_clock: MockClock) -> None:
    """a worker that only says RestartNow runs no more often than the capacity allows."""
    m = Module("m")
    begun: list[float] = []

    async def spin() -> None:
        begun.append(trio.current_time())
        raise RestartNow

    async with App(m, max_concurrent_restarts=5, restart_settle=1):
        m.start_service_worker(spin)
        await trio.sleep(3.5)
    assert shortest_window(begun[1:], 5) >= 1
    assert begun[-1] == 3


async def test_restart_now_lets_others_run(autojump_clock: MockClock) -> None:
    """without a settling time RestartNow restarts at once, yet not before others had a turn."""
    m = Module("m")
    runs: list[float] = []

    async def spin() -> None:
        runs.append(trio.current_time())
        raise RestartNow

    async with App(m, restart_settle=0):
        handle = m.start_service_worker(spin)
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        handle.cancel("seen enough")
        await let_run()
        assert handle.state == "ended"
    assert 2 < len(runs) < 200


async def test_restart_module(autojump_clock: MockClock) -> None:
    """a worker that raises RestartModule restarts its whole module."""
    m = Module("m", restart=Restart(backoff=Backoff(initial=3)))
    app = App(m)
    log: list[tuple[str, float]] = []
    m.worker(trio.sleep_forever)

    @m.on_start
    async def start() -> None:
        log.append(("start", trio.current_time()))

    @m.on_stop
    async def stop() -> None:
        log.append(("stop", trio.current_time()))

    async def ask_for_it() -> None:
        await trio.sleep(1)
        raise RestartModule

    async def body() -> None:
        m.start_worker(ask_for_it)
        await trio.sleep(2)
        m_is_offline = m.status is ModuleStatus.OFFLINE
        assert m_is_offline
        await trio.sleep(3)
        assert m.online
        m.start_service_worker(ask_for_it, backoff=100)
        await trio.sleep(20)
        assert m.online

    reports = await reports_of(app, body)
    assert log[:4] == [("start", 0), ("stop", 1), ("start", 4), ("stop", 6)]
    assert [report.severity for report in reports] == ["info", "info"]


@pytest.mark.parametrize("beside", [False, True])
async def test_restart_module_from_a_child(autojump_clock: MockClock, beside: bool) -> None:
    """RestartModule in a group restarts the module; what fails beside it is no mere request."""
    m = Module("m")
    app = App(m)
    errors = [RestartModule(), *([ValueError("no")] if beside else [])]

    async def work() -> None:
        raise ExceptionGroup("group", errors)

    async def body() -> None:
        m.start_worker(work)
        await trio.sleep(1)
        assert m.status is ModuleStatus.OFFLINE
        await m.wait_online()

    (report,) = await reports_of(app, body)
    assert report.severity == ("panic" if beside else "info")


async def test_restart_module_while_starting(autojump_clock: MockClock) -> None:
    """RestartModule before its module is online is a failed start, raised and not reported."""
    m = Module("m")
    app = App(m)

    @m.worker
    async def ask() -> None:
        raise RestartModule

    @m.service_worker
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)
        task_status.started()

    async with app.reports() as reports:
        with pytest.raises(StartError) as caught:
            async with app:
                raise AssertionError("the body must not run")
        assert isinstance(caught.value.__cause__, RestartModule)
        assert [report async for report in reports] == []


# --- budgets and giving up -----------------------------------------------------------------------


async def test_over_budget_the_module_crashes(autojump_clock: MockClock) -> None:
    """one failure more than the budget allows crashes the module, which shows what gave up."""
    m = Module("m", restart=Restart(backoff=Backoff(initial=50)))
    app = App(m)
    errors = [ValueError(n) for n in range(3)]
    script = Script(*errors)
    handles: list[ServiceWorker] = []
    at_stop: list[tuple[str, FailureLevel]] = []

    @m.on_stop
    async def stop() -> None:
        at_stop.extend((failure.id, failure.level) for failure in m.failures.values())

    async def body() -> None:
        restart = Restart(max_restarts=2, backoff=Backoff(initial=1))
        handles.append(m.start_service_worker(script.run, name="poll", restart=restart))
        await trio.sleep(2.5)
        assert m.online
        await trio.sleep(1)
        assert m.status is ModuleStatus.OFFLINE
        assert list(m.failures) == ["m:crashed"]

    reports = await reports_of(app, body)
    assert script.begun == [0, 1, 3]
    assert [report.exception for report in reports] == errors
    assert ("poll:gave-up", FailureLevel.ERROR) in at_stop
    assert ("poll:restarting", FailureLevel.WARNING) not in at_stop
    assert handles[0].state == "gave-up"
    assert handles[0].last_error is errors[-1]


async def test_a_budget_of_zero(autojump_clock: MockClock) -> None:
    """with max_restarts=0 the first failure gives up; what began the crash is its cause."""
    m = Module("m", restart=Restart(max_restarts=0))
    error = ValueError("no")
    script, restart = Script(error), Restart(max_restarts=0)
    with pytest.raises(ModuleCrashed) as caught:
        await run_on(App(m), lambda: m.start_service_worker(script.run, restart=restart))
    assert caught.value.module == "m"
    assert caught.value.__cause__ is error


async def test_the_budget_counts_within_its_period(autojump_clock: MockClock) -> None:
    """failures further apart than the period never exhaust a budget."""
    m = Module("m")
    script = Script(*[4.0] * 20)
    restart = Restart(max_restarts=2, within=9, backoff=Backoff(initial=1, maximum=1))
    async with App(m):
        handle = m.start_service_worker(script.run, restart=restart)
        await trio.sleep(20.5)  # one failure each 5 s: never three within 9 s
        assert handle.restarts == 4
        await trio.sleep(80)
        assert m.online
        assert handle.restarts == 20


async def test_the_period_slides(autojump_clock: MockClock) -> None:
    """old failures leave the period one by one; too many within it give up."""
    m = Module("m", restart=Restart(max_restarts=0))
    script = Script(0, 5, 5, 1, 1)
    restart = Restart(max_restarts=2, within=9, backoff=Backoff(initial=1, maximum=1))
    with pytest.raises(ModuleCrashed):
        await run_on(App(m), lambda: m.start_service_worker(script.run, restart=restart))
    # failures at 0, 6, 12, 14: three restarts within 9 s would be needed at 14
    assert script.begun == [0, 1, 7, 13]


async def test_no_budget_is_no_limit(autojump_clock: MockClock) -> None:
    """without max_restarts a service worker is restarted for ever."""
    m = Module("m")
    script = Script(*failing(500))
    async with App(m, restart_settle=0):
        handle = m.start_service_worker(script.run, backoff=0)
        await trio.sleep(1)
        assert handle.restarts == 500
        assert m.online


async def test_giving_up_takes_the_dependents_along(autojump_clock: MockClock) -> None:
    """when a service worker gives up, modules that depend on its module leave ONLINE, too."""
    db = Module("db")
    web = Module("web", depends_on=[db])
    async with App(db, web):
        db.start_service_worker(Script(1).run, restart=Restart(max_restarts=0))
        await trio.sleep(1.5)
        assert (db.status, web.status) == (ModuleStatus.OFFLINE, ModuleStatus.OFFLINE)
        await trio.sleep(2)
        assert db.online
        assert web.online


# --- the handle ----------------------------------------------------------------------------------


async def test_a_handle_tells_its_name(autojump_clock: MockClock) -> None:
    """names are the function's or as told, made unique within the module."""
    m = Module("m")

    async def poll() -> None:
        await trio.sleep_forever()

    async with App(m):
        handles = [m.start_service_worker(poll) for _ in range(3)]
        handles.append(m.start_service_worker(poll, name="other"))
        assert [handle.name for handle in handles] == ["poll", "poll#2", "poll#3", "other"]


async def test_a_handle_tells_its_state(autojump_clock: MockClock) -> None:
    """a handle follows its worker: running, backoff, running, ended; restarts, last error."""
    m = Module("m")
    error = ValueError("no")

    async def short() -> None:
        await trio.sleep(1)

    async with App(m):
        handle = m.start_service_worker(Script(error, short).run, backoff=2)
        assert (handle.state, handle.restarts, handle.last_error) == ("running", 0, None)
        await trio.sleep(1)
        assert (handle.state, handle.restarts) == ("backoff", 0)
        assert handle.last_error is error
        await trio.sleep(1.5)
        assert (handle.state, handle.restarts) == ("running", 1)
        await trio.sleep(1)
        assert (handle.state, handle.restarts) == ("ended", 1)


async def test_cancelling_a_running_worker(autojump_clock: MockClock) -> None:
    """cancel ends the worker for good, says why to it, and reports nothing."""
    m = Module("m")
    app = App(m)
    reasons: list[str | None] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            reasons.append(cancelled.reason)
            raise

    async def body() -> None:
        handle = m.start_service_worker(work, backoff=0)
        await let_run()
        handle.cancel("not needed any more")
        await let_run()
        assert handle.state == "ended"
        assert m.online
        await trio.sleep(10)

    assert await reports_of(app, body) == []
    assert len(reasons) == 1
    assert "not needed any more" in str(reasons[0])


async def test_a_worker_that_fails_when_it_is_cancelled(autojump_clock: MockClock) -> None:
    """an exception on the way out of a cancelled worker is reported; it is no failure to count."""
    m = Module("m")
    app = App(m)
    error = ValueError("while leaving")

    async def leave_badly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def body() -> None:
        handle = m.start_service_worker(leave_badly, restart=Restart(max_restarts=0))
        await let_run()
        handle.cancel("enough")
        await handle.wait()
        assert handle.state == "ended"
        assert dict(m.failures) == {}
        assert m.online

    (report,) = await reports_of(app, body)
    assert report.exception is error


async def test_cancelling_during_the_backoff(autojump_clock: MockClock) -> None:
    """cancel during the backoff ends the worker at once."""
    m = Module("m")
    script = Script(0)
    async with App(m):
        handle = m.start_service_worker(script.run, backoff=5)
        await let_run()
        handle.cancel("enough")
        await handle.wait()
        assert trio.current_time() == 0
        assert handle.state == "ended"
        await trio.sleep(10)
    assert script.begun == [0]


async def test_cancelling_before_the_first_step(autojump_clock: MockClock) -> None:
    """cancel right after the start ends the worker at its first checkpoint at most."""
    m = Module("m")
    passed: list[str] = []

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        passed.append("checkpoint")

    async with App(m):
        handle = m.start_service_worker(work, backoff=0)
        handle.cancel("changed my mind")
        await handle.wait()
        assert handle.state == "ended"
    assert passed == []


async def test_cancelling_twice(autojump_clock: MockClock) -> None:
    """cancel and restart of a worker that has ended change nothing."""
    m = Module("m")
    script = Script()
    async with App(m):
        handle = m.start_service_worker(script.run)
        await let_run()
        handle.cancel("enough")
        handle.cancel("enough")
        await handle.wait()
        handle.cancel("enough")
        assert handle.state == "ended"
    assert script.begun == [0]


async def test_restarting_a_running_worker(autojump_clock: MockClock) -> None:
    """restart cancels the present run and begins another one; that is no failure."""
    m = Module("m")
    app = App(m)
    script = Script()

    async def body() -> None:
        handle = m.start_service_worker(script.run, backoff=100)
        await trio.sleep(1)
        handle.restart()
        await trio.sleep(1)
        assert handle.state == "running"
        assert handle.last_error is None
        assert dict(m.failures) == {}

    assert await reports_of(app, body) == []
    assert script.begun == [0, 1]
    assert script.cancelled == [1, 2]


async def test_restarting_counts(autojump_clock: MockClock) -> None:
    """restart counts as a restart, and the restart capacity applies to it."""
    m = Module("m")
    first, second = Script(), Script()
    async with App(m, max_concurrent_restarts=1, restart_settle=2):
        handles = [m.start_service_worker(script.run) for script in (first, second)]
        await trio.sleep(1)
        handles[0].restart()
        await let_run()
        handles[1].restart()
        await trio.sleep(1)
        assert [handle.restarts for handle in handles] == [1, 0]
        await trio.sleep(2)
        assert [handle.restarts for handle in handles] == [1, 1]
    assert (first.begun, second.begun) == ([0, 1], [0, 3])


async def test_restarting_a_worker_that_returns(autojump_clock: MockClock) -> None:
    """a worker that returns instead of being cancelled by restart runs again all the same."""
    m = Module("m")
    begun: list[float] = []

    async def work() -> None:
        begun.append(trio.current_time())
        with trio.CancelScope(shield=True):
            await trio.sleep(3)

    async with App(m):
        handle = m.start_service_worker(work)
        await trio.sleep(1)
        handle.restart()
        await handle.wait()
        assert handle.restarts == 1
    assert begun == [0, 3]


async def test_a_worker_that_fails_when_it_is_restarted(autojump_clock: MockClock) -> None:
    """an exception on the way out of a restart is reported, and the worker runs again."""
    m = Module("m")
    app = App(m)
    error = ValueError("while leaving")

    async def leave_badly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    script = Script(leave_badly)

    async def body() -> None:
        handle = m.start_service_worker(script.run, backoff=2)
        await trio.sleep(1)
        handle.restart()
        await trio.sleep(10)
        assert handle.state == "running"

    (report,) = await reports_of(app, body)
    assert report.exception is error
    assert len(script.begun) == 2


async def test_restart_keeps_the_place_in_the_line(autojump_clock: MockClock) -> None:
    """restart of a worker that waits for restart capacity changes nothing."""
    m = Module("m")
    scripts = [Script(number / 8) for number in range(3)]
    async with App(m, max_concurrent_restarts=1, restart_settle=1):
        handles = [m.start_service_worker(script.run, restart=NO_DELAY) for script in scripts]
        await trio.sleep(0.5)
        handles[1].restart()
        await trio.sleep(10)
        assert [handle.restarts for handle in handles] == [1, 1, 1]
    assert [script.begun[1:] for script in scripts] == [[0], [1], [2]]


async def test_restart_cuts_the_backoff(autojump_clock: MockClock) -> None:
    """restart during the backoff begins the next run at once."""
    m = Module("m")
    script = Script(0)
    async with App(m):
        handle = m.start_service_worker(script.run, backoff=100)
        await trio.sleep(1)
        handle.restart()
        await trio.sleep(1)
        assert handle.state == "running"
        await trio.sleep(200)
    assert script.begun == [0, 1]


async def test_runs_of_one_worker_never_overlap(autojump_clock: MockClock) -> None:
    """restart begins the next run when the present one has really ended."""
    m = Module("m")
    log: list[tuple[str, float]] = []

    async def work() -> None:
        log.append(("begins", trio.current_time()))
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            log.append(("ends", trio.current_time()))

    async with App(m):
        handle = m.start_service_worker(work)
        await trio.sleep(1)
        handle.restart()
        handle.restart()
        await trio.sleep(10)
    assert log == [("begins", 0), ("ends", 4), ("begins", 4), ("ends", 14)]


async def test_wait_returns_when_the_worker_ended(autojump_clock: MockClock) -> None:
    """wait lasts through restarts until the worker has ended, and is a checkpoint afterwards."""
    m = Module("m")

    async def short() -> None:
        await trio.sleep(1)

    async with App(m):
        handle = m.start_service_worker(Script(0, short).run, backoff=2)
        await handle.wait()
        assert trio.current_time() == 3
        assert handle.state == "ended"
        with assert_checkpoints():
            await handle.wait()


async def test_waiting_for_a_worker_that_has_ended(autojump_clock: MockClock) -> None:
    """wait returns for whoever comes late."""
    m = Module("m")
    async with App(m):
        handle = m.start_service_worker(trio.sleep, 1)
        await trio.sleep(2)
        with trio.fail_after(1), assert_checkpoints():
            await handle.wait()


async def test_many_wait_for_one_worker(autojump_clock: MockClock) -> None:
    """all who wait for a worker are woken when it ends."""
    m = Module("m")
    async with App(m):
        handle = m.start_service_worker(trio.sleep, 1)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(handle.wait)
                    await trio.sleep(0.25)
        assert trio.current_time() == 1


async def test_wait_returns_when_the_module_stops(autojump_clock: MockClock) -> None:
    """wait returns for whoever waits, at a stop as well as when the worker gave up."""
    m = Module("m", enabled=True, restart=Restart(backoff=Backoff(initial=1)))
    app = App(m, managed=True)
    async with app, trio.open_nursery() as nursery:
        stopped = m.start_service_worker(trio.sleep_forever)
        nursery.start_soon(stopped.wait)
        await let_run()
        await switch_off(app, m)
        m.enable()
        await app.manage()
        gave_up = m.start_service_worker(Script(0).run, restart=Restart(max_restarts=0))
        await gave_up.wait()
        assert (stopped.state, gave_up.state) == ("ended", "gave-up")


async def test_wait_can_be_cancelled(autojump_clock: MockClock) -> None:
    """cancelling who waits doesn't touch the worker."""
    m = Module("m")
    async with App(m):
        handle = m.start_service_worker(trio.sleep_forever)
        with trio.move_on_after(1) as scope:
            await handle.wait()
        assert scope.cancelled_caught
        assert handle.state == "running"


# --- task_status ---------------------------------------------------------------------------------


async def test_task_status_holds_online_back(autojump_clock: MockClock) -> None:
    """a declared service worker with task_status keeps its module STARTING until started()."""
    m = Module("m")
    dependent = Module("dependent", depends_on=[m])
    started: list[float] = []

    @m.service_worker
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(3)
        assert m.status is ModuleStatus.STARTING
        task_status.started()
        await trio.sleep_forever()

    @dependent.on_start
    async def start() -> None:
        started.append(trio.current_time())

    async with App(m, dependent):
        assert m.online
    assert started == [3]


async def test_task_status_with_arguments(autojump_clock: MockClock) -> None:
    """a worker with arguments of its own gets task_status by keyword."""
    m = Module("m")

    async def listen(port: int, task_status: trio.TaskStatus[int]) -> None:
        await trio.sleep(port)
        task_status.started(port)
        await trio.sleep_forever()

    m.service_worker(listen, 4)
    m.service_worker(listen, 2)
    async with App(m):
        assert trio.current_time() == 4


async def test_returning_before_started_is_a_failed_start(autojump_clock: MockClock) -> None:
    """a worker with task_status that returns without started() fails the start of its module."""
    m = Module("m")

    @m.service_worker
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)

    with pytest.raises(StartError) as caught:
        async with App(m):
            raise AssertionError("the body must not run")
    assert (caught.value.module, caught.value.stage) == ("m", "start")
    assert "listen" in str(caught.value.__cause__)
    assert trio.current_time() == 1


async def test_failing_before_started_is_restarted(autojump_clock: MockClock) -> None:
    """a worker that fails before started() is restarted, and ONLINE waits for the next run."""
    m = Module("m")
    begun: list[float] = []

    @m.service_worker(backoff=2)
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        begun.append(trio.current_time())
        if len(begun) == 1:
            raise OSError("the address is in use")
        task_status.started()
        await trio.sleep_forever()

    async with App(m):
        assert trio.current_time() == 2
    assert begun == [0, 2]


async def test_giving_up_before_started_is_a_failed_start(autojump_clock: MockClock) -> None:
    """a worker that gives up before started() fails the start with its exception."""
    m = Module("m")
    error = OSError("the address is in use")

    @m.service_worker(restart=Restart(max_restarts=0))
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        raise error

    app = App(m)
    async with app.reports() as reports:
        with pytest.raises(StartError) as caught:
            async with app:
                raise AssertionError("the body must not run")
        assert caught.value.__cause__ is error
        assert [report async for report in reports] == []


async def test_never_started_is_a_start_that_runs_out_of_time(autojump_clock: MockClock) -> None:
    """a worker that never says started() fails the start in time, which shows where it waits."""
    m = Module("m", start_timeout=7)

    async def wait_for_the_postman() -> None:
        await trio.sleep_forever()

    @m.service_worker
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        await wait_for_the_postman()

    with pytest.raises(StartError, match="wait_for_the_postman"):
        async with App(m):
            raise AssertionError("the body must not run")
    assert trio.current_time() == 7


async def test_task_status_of_later_runs(autojump_clock: MockClock) -> None:
    """a restarted run gets a task_status again and may call it; nobody waits for it."""
    m = Module("m")
    calls: list[float] = []

    @m.service_worker(backoff=1)
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        calls.append(trio.current_time())
        await trio.sleep(5)
        raise ValueError("no")

    async with App(m):
        await trio.sleep(12)
        assert m.online
    assert calls == [0, 6]


# --- restart capacity ----------------------------------------------------------------------------


class Outage:
    """Many service workers that fail together, once, and write down when they are back."""

    def __init__(self, module: Module, count: int) -> None:
        self.back: list[tuple[float, int]] = []
        self.happens = trio.Event()
        self.module = module
        self.count = count
        self.handles: list[ServiceWorker] = []

    async def begin(self) -> None:
        """Start the workers and make them all fail, in the order of their numbers."""
        for number in range(self.count):
            self.handles.append(
                self.module.start_service_worker(self.work, number, restart=NO_DELAY)
            )
        await let_run()
        self.happens.set()
        await let_run()

    async def work(self, number: int) -> None:
        if not self.happens.is_set():
            await self.happens.wait()
            raise OSError("the network is down")
        self.back.append((trio.current_time(), number))
        await trio.sleep_forever()

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.back]


async def test_first_starts_are_not_limited(autojump_clock: MockClock) -> None:
    """the capacity is for restarts: any number of service workers starts at once."""
    m = Module("m")
    scripts = [Script() for _ in range(20)]
    async with App(m, max_concurrent_restarts=1, restart_settle=1):
        for script in scripts:
            m.start_service_worker(script.run)
        await trio.sleep(0.5)
        assert [script.begun for script in scripts] == [[0]] * 20


async def test_a_shared_outage_ends_in_a_ramp(autojump_clock: MockClock) -> None:
    """no more workers than the capacity allows are within their settling time."""
    m = Module("m")
    async with App(m, max_concurrent_restarts=3, restart_settle=0.5):
        outage = Outage(m, 8)
        await outage.begin()
        states = [handle.state for handle in outage.handles]
        assert (states.count("running"), states.count("waiting")) == (3, 5)
        await trio.sleep(5)
    assert outage.times == [0] * 3 + [0.5] * 3 + [1] * 2


async def test_who_waits_longest_restarts_first(autojump_clock: MockClock) -> None:
    """the workers restart in the order in which they failed."""
    m = Module("m")
    order: list[int] = []

    async def work(number: int) -> None:
        if number not in failed:
            failed.add(number)
            await trio.sleep(number / 16)
            raise OSError("the network is down")
        order.append(number)
        await trio.sleep_forever()

    failed: set[int] = set()
    async with App(m, max_concurrent_restarts=1, restart_settle=1):
        for number in (3, 0, 5, 1, 4, 2):
            m.start_service_worker(work, number, restart=NO_DELAY)
        await trio.sleep(10)
    assert order == [0, 1, 2, 3, 4, 5]


async def test_a_backoff_is_over_before_the_wait(autojump_clock: MockClock) -> None:
    """a worker asks for capacity when its backoff is over, and counts as restarted then."""
    m = Module("m")
    slow, quick = Script(0), Script(0)
    async with App(m, max_concurrent_restarts=1, restart_settle=2):
        slow_handle = m.start_service_worker(slow.run, backoff=2)
        m.start_service_worker(quick.run, backoff=1)
        await trio.sleep(2.5)
        assert (slow_handle.state, slow_handle.restarts) == ("waiting", 0)
        await trio.sleep(2.5)
        assert (slow_handle.state, slow_handle.restarts) == ("running", 1)
    assert (quick.begun, slow.begun) == ([0, 1], [0, 3])


async def test_a_place_is_kept_although_the_worker_fails_sooner(
    autojump_clock: MockClock,
) -> None:
    """a restarted worker that fails at once holds its place for the whole settling time."""
    m = Module("m")
    eager, patient = Script(0, 0), Script(0.25)
    async with App(m, max_concurrent_restarts=1, restart_settle=1):
        m.start_service_worker(eager.run, restart=NO_DELAY)
        m.start_service_worker(patient.run, restart=NO_DELAY)
        await trio.sleep(10)
    # the eager one restarts at 0, fails and queues; so does the patient one at 0.25
    assert (eager.begun, patient.begun) == ([0, 0, 1], [0, 2])


async def test_a_settled_worker_frees_its_place(autojump_clock: MockClock) -> None:
    """failures further apart than the settling time don't wait for each other."""
    m = Module("m")
    one, two = Script(0), Script(1.5)
    async with App(m, max_concurrent_restarts=1, restart_settle=1):
        m.start_service_worker(one.run, restart=NO_DELAY)
        m.start_service_worker(two.run, restart=NO_DELAY)
        await trio.sleep(10)
    assert (one.begun, two.begun) == ([0, 0], [0, 1.5])


async def test_the_capacity_is_shared_by_all_modules(autojump_clock: MockClock) -> None:
    """workers of different modules wait in one line."""
    a, b = Module("a"), Module("b")
    one, two = Script(0), Script(0.25)
    async with App(a, b, max_concurrent_restarts=1, restart_settle=1):
        a.start_service_worker(one.run, restart=NO_DELAY)
        b.start_service_worker(two.run, restart=NO_DELAY)
        await trio.sleep(10)
    assert (one.begun, two.begun) == ([0, 0], [0, 1])


async def test_with_a_settling_time_of_zero_nobody_waits(autojump_clock: MockClock) -> None:
    """with restart_settle=0 all restart at once, and their warnings are resolved."""
    m = Module("m")
    app = App(m, max_concurrent_restarts=1, restart_settle=0)
    async with app:
        outage = Outage(m, 20)
        await outage.begin()
        assert outage.times == [0] * 20
        assert dict(m.failures) == {}
        assert app.status().limits.restarts_settling == 0


async def test_a_raised_limit_applies_at_once(autojump_clock: MockClock) -> None:
    """raising max_concurrent_restarts lets those who wait go at that moment."""
    m = Module("m")
    app = App(m, max_concurrent_restarts=1, restart_settle=4)
    async with app:
        outage = Outage(m, 6)
        await outage.begin()
        await trio.sleep(1)
        app.max_concurrent_restarts = 3
        assert app.max_concurrent_restarts == 3
        await trio.sleep(20)
    assert outage.times == [0, 1, 1, 4, 5, 5]


async def test_a_lowered_limit_applies_to_the_next(autojump_clock: MockClock) -> None:
    """lowering max_concurrent_restarts lets nobody go until there are fewer than the limit."""
    m = Module("m")
    app = App(m, max_concurrent_restarts=3, restart_settle=4)
    async with app:
        outage = Outage(m, 6)
        await outage.begin()
        app.max_concurrent_restarts = 1
        await trio.sleep(30)
    assert outage.times == [0, 0, 0, 4, 8, 12]


async def test_a_changed_settling_time(autojump_clock: MockClock) -> None:
    """restart_settle can be set while the app runs: it applies to the next, 0 lets all go."""
    m = Module("m")
    app = App(m, max_concurrent_restarts=1, restart_settle=4)
    async with app:
        outage = Outage(m, 6)
        await outage.begin()
        await trio.sleep(1)
        app.restart_settle = 2
        assert app.restart_settle == 2
        await trio.sleep(6)  # at 4 the first has settled, the next ones take 2 s each
        app.restart_settle = 0
        await trio.sleep(10)
        assert outage.times == [0, 4, 6, 7, 7, 7]
        assert app.status().limits.restarts_settling == 0
        with pytest.raises(ValueError, match="restart_settle"):
            app.restart_settle = -1
        assert app.restart_settle == 0


async def test_a_bad_limit_is_refused(autojump_clock: MockClock) -> None:
    """a limit below one is refused when it is set, and the old one stays."""
    app = App(max_concurrent_restarts=7)
    for limit in (0, -1):
        with pytest.raises(ValueError, match="max_concurrent_restarts"):
            app.max_concurrent_restarts = limit
    assert app.max_concurrent_restarts == 7


async def test_a_cancelled_waiter_leaves_the_line(autojump_clock: MockClock) -> None:
    """a worker that is cancelled while it waits neither restarts nor keeps a place."""
    m = Module("m")
    async with App(m, max_concurrent_restarts=1, restart_settle=1):
        outage = Outage(m, 3)
        await outage.begin()
        waiting = [handle for handle in outage.handles if handle.state == "waiting"]
        waiting[0].cancel("not needed")
        await let_run()
        assert waiting[0].state == "ended"
        await trio.sleep(10)
    assert outage.times == [0, 1]


async def test_a_worker_cancelled_when_its_turn_has_come(autojump_clock: MockClock) -> None:
    """a place given to a worker that is cancelled in the same step goes to the next."""
    m = Module("m")
    app = App(m, max_concurrent_restarts=1, restart_settle=4)
    async with app:
        outage = Outage(m, 3)
        await outage.begin()
        waiting = [handle for handle in outage.handles if handle.state == "waiting"]
        await trio.sleep(1)
        app.max_concurrent_restarts = 2
        waiting[0].cancel("not needed")
        await trio.sleep(1)
        assert outage.times == [0, 1]
        await trio.sleep(10)
        assert app.status().limits.restarts_settling == 0


async def test_a_stopped_module_leaves_the_line(autojump_clock: MockClock) -> None:
    """stopping a module takes its waiting workers out of the line, for the others' good."""
    a, b = Module("a", enabled=True), Module("b", enabled=True)
    app = App(a, b, managed=True, max_concurrent_restarts=1, restart_settle=1)
    first, never, last = Script(0), Script(0.25), Script(0.5)
    async with app:
        b.start_service_worker(first.run, restart=NO_DELAY)
        a.start_service_worker(never.run, restart=NO_DELAY)
        b.start_service_worker(last.run, restart=NO_DELAY)
        await trio.sleep(0.75)
        await switch_off(app, a)
        assert trio.current_time() == 0.75
        await trio.sleep(10)
    assert (first.begun, never.begun, last.begun) == ([0, 0], [0], [0, 1])


async def test_a_cancelled_worker_keeps_its_place_until_it_would_have_settled(
    autojump_clock: MockClock,
) -> None:
    """a restarted worker's place is free after the settling time, even if it was cancelled."""
    m = Module("m")
    one, two = Script(0), Script(0.25)
    async with App(m, max_concurrent_restarts=1, restart_settle=1):
        handle = m.start_service_worker(one.run, restart=NO_DELAY)
        m.start_service_worker(two.run, restart=NO_DELAY)
        await trio.sleep(0.5)
        handle.cancel("not needed")
        await trio.sleep(10)
    assert two.begun == [0, 1]


@pytest.mark.parametrize("capacity", [1, 7])
async def test_the_capacity_is_never_exceeded(autojump_clock: MockClock, capacity: int) -> None:
    """in any window of the settling time no more restarts begin than the capacity allows."""
    m = Module("m")
    rng = random.Random(capacity)
    begun: list[float] = []

    async def work() -> None:
        begun.append(trio.current_time())
        await trio.sleep(rng.randrange(8) / 8)
        raise rng.choice([ValueError("no"), RestartNow()])

    async with App(m, max_concurrent_restarts=capacity, restart_settle=1):
        for _ in range(20):
            m.start_service_worker(work, backoff=Backoff(initial=0.125, maximum=1))
        await trio.sleep(30)
    restarts = sorted(begun[20:])
    assert len(restarts) > 25 * capacity
    assert shortest_window(restarts, capacity) >= 1
