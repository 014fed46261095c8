"""The life of a module: its start, its stop, its crashes and restarts, each in its phases."""

from __future__ import annotations

import inspect
import math
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing
from lifecycle_helpers import (
    FOREVER,
    ONE_SHOT,
    Trace,
    chain_of,
    drain,
    order_fault,
    raising,
    statuses,
    stray_cancelled,
    stubborn,
    tasks_living,
    watching,
)
from support import deterministic_scheduling
from trio.testing import MockClock

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
    ShutdownError,
    StartError,
    StopError,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

OFFLINE, ONLINE = ModuleStatus.OFFLINE, ModuleStatus.ONLINE
STARTING, STOPPING = ModuleStatus.STARTING, ModuleStatus.STOPPING


def spanned(module: Module, trace: Trace, leaving: float = 0) -> None:
    """Give the module a lifespan whose ends are traced."""

    @module.lifespan
    async def span() -> AsyncGenerator[None]:
        trace.add(f"{module.name}+")
        yield
        await trace.step(f"{module.name}-", leaving)()


async def with_worker(module: Module, fn: Callable[..., Awaitable[None]], *args: object) -> None:
    """Start a worker of the module and give it a second."""
    module.start_worker(fn, *args)
    await trio.sleep(1)


async def error_at_start(app: App) -> StartError:
    """Return the error of entering the app."""
    with pytest.raises(StartError) as caught:
        async with app:
            raise AssertionError("the body must not run")
    return caught.value


# --- start -------------------------------------------------------------------------------------


async def test_a_start_has_its_phases(autojump_clock: MockClock) -> None:
    """lifespans, start functions one after the other, declared workers, ONLINE."""
    trace = Trace()
    db = Module("db")
    spanned(db, trace)
    db.worker(trace.step("worker"))
    db.service_worker(trace.step("service worker"))
    db.on_start(trace.step("start 1", 2))
    db.on_start(trace.step("start 2", 1))
    async with App(db):
        trace.add("body")
        await trio.sleep(1)
    assert trace.entries[:3] == [(0, "db+"), (2, "start 1"), (3, "start 2")]
    assert sorted(trace.entries[3:6]) == [(3, "body"), (3, "service worker"), (3, "worker")]


async def test_the_module_takes_work_from_its_start_functions_on(
    autojump_clock: MockClock,
) -> None:
    """while its lifespans are entered it refuses work; in a start function it begins at once."""
    trace = Trace()
    db = Module("db")

    @db.lifespan
    async def span() -> AsyncGenerator[None]:
        with pytest.raises(ModuleOffline):
            db.start_worker(trace.step("too early"))
        yield

    @db.on_start
    async def start() -> None:
        db.start_worker(trace.step("worker"))
        await db.run_worker(trace.step("run"))
        await trio.sleep(1)
        trace.add("start")

    async with App(db):
        pass
    assert sorted(trace.names[:2]) == ["run", "worker"]
    assert trace.names[2:] == ["start"]


async def test_a_failing_start_function_ends_the_start(autojump_clock: MockClock) -> None:
    """later ones don't run, neither do workers or stop functions; lifespans are left."""
    trace = Trace()
    db = trace.module("db")
    spanned(db, trace)
    db.on_start(raising(ValueError("bad"), 1))
    db.on_start(trace.step("later start"))
    db.worker(trace.step("worker"))
    await error_at_start(App(db))
    assert trace.names == ["db.prep", "db+", "db.start", "db-"]


async def test_a_failed_start_stops_what_had_started(autojump_clock: MockClock) -> None:
    """its dependencies are stopped in order, and no task is left."""
    trace, before = Trace(), tasks_living()
    db = Module("db", depends_on=["disk"], start=raising(ValueError("bad")))
    app = App(trace.module("disk", "base"), trace.module("base"), db, trace.module("web", "db"))
    error = await error_at_start(app)
    assert (error.module, error.stage) == ("db", "start")
    assert trace.only(".start", ".stop") == ["base.start", "disk.start", "disk.stop", "base.stop"]
    assert set(statuses(app).values()) == {OFFLINE}
    assert tasks_living() == before


async def test_nothing_comes_online_after_another_start_failed(autojump_clock: MockClock) -> None:
    """a module that is still starting is cancelled at that moment and never was online."""
    trace = Trace()
    slow = trace.module("slow", start=10)
    app = App(slow, Module("db", start=raising(ValueError("bad"), 1)))
    with watching(lambda: "online" if slow.online else None) as faults:
        await error_at_start(app)
    assert faults == []
    assert trace.entries[1:] == [(1, "slow.start!")]


async def test_work_of_a_failed_start_ends_with_it(autojump_clock: MockClock) -> None:
    """what a start function had started is cancelled before the lifespans are left."""
    trace = Trace()
    db = Module("db")
    spanned(db, trace)

    @db.on_start
    async def start() -> None:
        db.start_worker(trace.step("worker", 100), grace_period=10)
        db.nursery.start_soon(trace.step("child", 100))
        await trio.sleep(1)
        raise ValueError("bad")

    await error_at_start(App(db))
    assert trace.names[0] == "db+"
    assert sorted(trace.names[1:3]) == ["child!", "worker!"]
    assert trace.names[3:] == ["db-"]


async def test_a_child_that_fails_during_the_start_fails_the_start(
    autojump_clock: MockClock,
) -> None:
    """an exception that escapes the nursery while STARTING is no crash."""
    error = ValueError("bad")
    db = Module("db", restart=FOREVER)

    @db.on_start
    async def start() -> None:
        db.nursery.start_soon(raising(error, 1))
        await trio.sleep(100)

    start_error = await error_at_start(App(db))
    assert error in list(chain_of(start_error.__cause__))
    assert trio.current_time() == 1


@pytest.mark.parametrize("kind", ["asks", "gives up"])
async def test_a_worker_that_ends_its_module_during_the_start_fails_the_start(
    autojump_clock: MockClock, kind: str
) -> None:
    """RestartModule or a service worker that gives up while STARTING is no crash."""
    error = RestartModule() if kind == "asks" else ValueError("bad")
    db = Module("db", restart=FOREVER)

    @db.on_start
    async def start() -> None:
        if kind == "asks":
            db.start_worker(raising(error, 1))
        else:
            db.start_service_worker(raising(error, 1), restart=ONE_SHOT)
        await trio.sleep(100)

    start_error = await error_at_start(App(db))
    assert error in list(chain_of(start_error.__cause__))
    assert (trio.current_time(), dict(db.failures)) == (1, {})


async def test_stop_functions_run_when_the_start_functions_had_returned(
    autojump_clock: MockClock,
) -> None:
    """a start that fails after them, in a worker that holds it back, is stopped in full."""
    trace = Trace()
    db = trace.module("db")
    spanned(db, trace)

    @db.service_worker
    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)

    await error_at_start(App(db))
    assert trace.names == ["db.prep", "db+", "db.start", "db.stop", "db-"]


# --- service workers that hold the start back --------------------------------------------------


async def test_a_service_worker_with_task_status_holds_online_back(
    autojump_clock: MockClock,
) -> None:
    """the module is ONLINE when the last of them has called started()."""
    db = Module("db")

    async def listen(seconds: float, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(seconds)
        task_status.started()
        await trio.sleep_forever()

    db.service_worker(listen, 3)
    db.service_worker(listen, 5, name="other")
    async with App(db):
        assert trio.current_time() == 5


async def test_returning_before_started_is_a_failed_start(autojump_clock: MockClock) -> None:
    """a worker that ends without started() will never be ready; its name is said."""
    db = Module("db")

    @db.service_worker
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)

    error = await error_at_start(App(db))
    assert error.module == "db"
    assert any("listen" in str(inner) for inner in chain_of(error))


async def test_failing_before_started_is_tried_again(autojump_clock: MockClock) -> None:
    """a service worker that raises before started() restarts; its next started() counts."""
    db, runs = Module("db"), list[float]()

    @db.service_worker(backoff=4)
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        runs.append(trio.current_time())
        if len(runs) == 1:
            raise OSError("address in use")
        task_status.started()
        await trio.sleep_forever()

    async with App(db):
        assert trio.current_time() == 4
    assert runs == [0, 4]


async def test_only_the_first_started_counts(autojump_clock: MockClock) -> None:
    """a service worker that restarts later may call started() again, to no effect."""
    db, runs = Module("db"), list[float]()

    @db.service_worker(backoff=4)
    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        runs.append(trio.current_time())
        task_status.started()
        await trio.sleep(1)
        raise OSError("connection lost")

    async with App(db):
        await trio.sleep(7)
        assert db.online
    assert runs == [0, 5]


# --- start timeouts ----------------------------------------------------------------------------


async def first_hang() -> None:
    await trio.sleep_forever()


async def second_hang(*, task_status: trio.TaskStatus[None]) -> None:
    await trio.sleep_forever()


async def third_hang(*, task_status: trio.TaskStatus[None]) -> None:
    await trio.sleep_forever()


async def test_a_start_out_of_time_says_where_it_was_waiting(autojump_clock: MockClock) -> None:
    """the StartError has the stack of the function that hung."""
    error = await error_at_start(App(Module("db", start=first_hang), start_timeout=10))
    assert trio.current_time() == 10
    assert (error.module, error.stage, error.timeout) == ("db", "start", 10)
    assert "first_hang" in error.waiting
    assert "sleep_forever" in error.waiting
    assert "first_hang" in str(error)


async def test_each_function_that_hung_is_shown(autojump_clock: MockClock) -> None:
    """of several workers that hold the start back each one's stack is there."""
    db = Module("db", start_timeout=10)
    db.service_worker(second_hang)
    db.service_worker(third_hang)
    error = await error_at_start(App(db))
    assert "second_hang" in error.waiting
    assert "third_hang" in error.waiting


async def test_a_lifespan_that_hangs_runs_out_of_time(autojump_clock: MockClock) -> None:
    """the start time covers lifespans, and shows where one hung."""
    db = Module("db", start_timeout=10)

    @db.lifespan
    async def span() -> AsyncGenerator[None]:
        await first_hang()
        yield

    error = await error_at_start(App(db))
    assert "first_hang" in error.waiting
    assert trio.current_time() == 10


async def test_the_start_time_is_for_all_functions_together(autojump_clock: MockClock) -> None:
    """two that take less than the time each, and more together, are too slow."""
    trace = Trace()
    db = trace.module("db", start=6, start_timeout=10)
    db.on_start(trace.step("second", 6))
    await error_at_start(App(db))
    assert trace.entries[1:] == [(6, "db.start"), (10, "second!")]


async def test_the_start_time_counts_from_the_modules_own_start(
    autojump_clock: MockClock,
) -> None:
    """waiting for a slow dependency costs a module none of its time."""
    trace = Trace()
    async with App(trace.module("db", start=9), trace.module("web", "db", start=9),
                   start_timeout=10):  # fmt: skip
        assert trio.current_time() == 18


async def test_a_modules_own_start_time_counts(autojump_clock: MockClock) -> None:
    """start_timeout of the module goes before that of the app, longer or shorter."""
    trace = Trace()
    slow = trace.module("slow", start=50, start_timeout=60)
    fast = trace.module("fast", "slow", start=5, start_timeout=2)
    error = await error_at_start(App(slow, fast, start_timeout=10))
    assert (error.module, trio.current_time()) == ("fast", 52)


async def test_a_start_that_ends_in_time_is_not_timed_any_more(autojump_clock: MockClock) -> None:
    """the deadline of the start doesn't hang over the running module."""
    trace = Trace()
    async with App(trace.module("db", start=5, start_timeout=10)) as app:
        await trio.sleep(100)
        assert app["db"].online


async def test_a_start_may_ask_for_more_time(autojump_clock: MockClock) -> None:
    """extend_timeout moves the deadline; it can be asked for again and again."""
    db = Module("db", start_timeout=10)

    @db.on_start
    async def migrate() -> None:
        for _ in range(5):
            await trio.sleep(8)
            db.extend_timeout(8)

    async with App(db):
        assert trio.current_time() == 40


async def test_an_extension_is_no_pardon(autojump_clock: MockClock) -> None:
    """the deadline moves by the seconds that were asked for, no more."""
    db = Module("db", start_timeout=10)

    @db.on_start
    async def migrate() -> None:
        await trio.sleep(8)
        db.extend_timeout(5)
        await trio.sleep(100)

    await error_at_start(App(db))
    assert trio.current_time() == 15


async def test_a_start_that_swallows_its_timeout_has_failed(autojump_clock: MockClock) -> None:
    """returning after the deadline is too late; what its start functions did is undone."""
    trace = Trace()
    db = trace.module("db", start_timeout=10)

    @db.on_start
    async def start() -> None:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()

    error = await error_at_start(App(db))
    assert error.timeout == 10
    assert trace.names == ["db.prep", "db.start", "db.stop"]


async def test_times_may_be_infinite(autojump_clock: MockClock) -> None:
    """math.inf means no deadline, for start, stop and grace."""
    trace = Trace()
    db = trace.module("db", start=5000, stop=5000)

    @db.worker(grace_period=1000)
    async def work() -> None:
        await db.stopping.wait()
        await trace.step("work", 999)()

    async with App(db, start_timeout=math.inf, stop_timeout=math.inf):
        await trio.sleep(1)
    assert trace.entries[1:] == [(5000, "db.start"), (6000, "work"), (11000, "db.stop")]


async def test_a_prep_has_no_timeout(autojump_clock: MockClock) -> None:
    """what takes long in prep is waited for."""
    async with App(Module("db", prep=partial(trio.sleep, 1000)), start_timeout=10):
        assert trio.current_time() == 1000


# --- stop --------------------------------------------------------------------------------------


async def test_a_stop_has_its_phases(autojump_clock: MockClock) -> None:
    """stopping set, workers cancelled and ended, stop functions, lifespans, OFFLINE."""
    trace = Trace()
    db = trace.module("db", stop=2)
    spanned(db, trace, leaving=3)

    async def watch() -> None:
        await db.stopping.wait()
        trace.add(db.status.name)

    @db.worker
    async def slow_to_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(5)
            trace.add("worker ended")

    db.worker(watch, grace_period=1)
    async with App(db):
        await trio.sleep(10)
    assert trace.entries[3:] == [
        (10, "STOPPING"),
        (15, "worker ended"),
        (17, "db.stop"),
        (20, "db-"),
    ]


WORK = ["worker", "service worker", "child", "every", "run_worker", "guarded"]


@pytest.mark.parametrize("kind", WORK)
async def test_stop_functions_wait_for_every_kind_of_work(
    autojump_clock: MockClock, kind: str
) -> None:
    """whatever runs for the module has ended when its stop functions begin."""
    trace = Trace()
    db = trace.module("db")

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(5)
            trace.add("work ended")

    async def outside() -> None:
        try:
            await (db.run_worker(work) if kind == "run_worker" else db.guarded(work)())
        except ModuleOffline:
            trace.add("raised to the caller")

    async with trio.open_nursery() as nursery:
        async with App(db):
            if kind == "worker":
                db.start_worker(work)
            elif kind == "service worker":
                db.start_service_worker(work)
            elif kind == "child":
                db.nursery.start_soon(work)
            elif kind == "every":
                db.every(10, work)
            else:
                nursery.start_soon(outside)
            await trio.sleep(1)
    assert trace.at("work ended") == trace.at("db.stop") == 6
    assert trace.names.index("work ended") < trace.names.index("db.stop")
    assert ("raised to the caller" in trace.names) == (kind == "run_worker")


async def test_a_worker_started_in_the_last_moment_is_not_missed(
    autojump_clock: MockClock,
) -> None:
    """work is counted from the call on: its end, too, comes before the stop functions."""
    trace = Trace()
    db = trace.module("db")

    async def work() -> None:
        trace.add("begun")
        await stubborn(5)
        trace.add("ended")

    async with App(db):
        db.start_worker(work)
    assert trace.names[2:] in (["begun", "ended", "db.stop"], ["db.stop"])
    assert "begun" in trace.names


async def test_work_from_outside_is_refused_while_stopping(autojump_clock: MockClock) -> None:
    """from the moment of STOPPING the body and other modules get ModuleOffline."""
    trace = Trace()
    db, web = trace.module("db"), trace.module("web", "db")
    refused: list[str] = []

    async def ask(who: str) -> None:
        with pytest.raises(ModuleOffline):
            web.start_worker(trace.step("late"))
        with pytest.raises(ModuleOffline):
            web.start_service_worker(trace.step("late"))
        with pytest.raises(ModuleOffline):
            await web.run_worker(trace.step("late"))
        with pytest.raises(ModuleOffline):
            await web.guarded(trace.step("late"))()
        refused.append(who)

    async def other_module() -> None:
        await web.stopping.wait()
        await ask("other module")

    async def foreign_task() -> None:
        await web.stopping.wait()
        await ask("foreign task")

    async with trio.open_nursery() as nursery:
        async with App(db, web):
            db.start_worker(other_module)
            nursery.start_soon(foreign_task)
            web.start_worker(trio.sleep_forever)
            web.start_worker(stubborn, 5)
            await trio.sleep(1)
    assert sorted(refused) == ["foreign task", "other module"]
    assert "late" not in trace.names


async def test_the_modules_own_code_may_start_work_while_stopping(
    autojump_clock: MockClock,
) -> None:
    """a worker in its grace period starts another one, which is waited for."""
    trace = Trace()
    db = trace.module("db")

    async def farewell() -> None:
        await stubborn(3)
        trace.add("farewell")

    @db.worker(grace_period=10)
    async def work() -> None:
        await db.stopping.wait()
        db.start_worker(farewell)
        await db.run_worker(trace.step("run"))

    async with App(db):
        await trio.sleep(1)
    assert trace.entries[2:] == [(1, "run"), (4, "farewell"), (4, "db.stop")]


async def test_workers_with_a_grace_period_end_in_their_own_time(
    autojump_clock: MockClock,
) -> None:
    """each is cancelled when its own grace has run out, counted from STOPPING; others at once."""
    trace = Trace()
    db = trace.module("db")

    async def tidy(name: str, seconds: float) -> None:
        await db.stopping.wait()
        await trace.step(name, seconds)()

    async with App(db):
        db.start_worker(tidy, "in time", 8, grace_period=10)
        db.start_service_worker(tidy, "too slow", 30, grace_period=20)
        db.start_worker(trace.step("without", 1000))
        await trio.sleep(1)
    assert trace.entries[2:] == [
        (1, "without!"),
        (9, "in time"),
        (21, "too slow!"),
        (21, "db.stop"),
    ]


@pytest.mark.parametrize("declare", ["worker", "service_worker"])
async def test_the_longest_grace_is_three_quarters_of_the_stop_time(
    autojump_clock: MockClock, declare: str
) -> None:
    """one above is a ValueError before anything runs; one that reaches it is fine."""
    trace = Trace()
    fine, bad = Module("fine", stop_timeout=40), Module("bad", stop_timeout=40)
    getattr(fine, declare)(trio.sleep_forever, grace_period=30)
    async with App(fine):
        await trio.lowlevel.checkpoint()
    app = App(bad, prep=trace.step("prep"))

    async def run_with_too_much_grace() -> None:
        getattr(bad, declare)(trio.sleep_forever, grace_period=30.5)
        async with app:
            raise AssertionError("the body must not run")

    with pytest.raises(ValueError, match="grace_period"):
        await run_with_too_much_grace()
    assert trace.names == []


async def test_the_app_gives_the_stop_time_that_graces_are_measured_by(
    autojump_clock: MockClock,
) -> None:
    """without a stop_timeout of the module that of the app counts."""
    db = Module("db")
    async with App(db, stop_timeout=20):
        with pytest.raises(ValueError, match="grace_period"):
            db.start_worker(trio.sleep_forever, grace_period=16)
        with pytest.raises(ValueError, match="grace_period"):
            db.start_service_worker(trio.sleep_forever, grace_period=16)


async def test_stop_functions_can_wait(autojump_clock: MockClock) -> None:
    """they and the ends of lifespans are shielded from the cancellation that ended the workers."""
    trace = Trace()
    db = trace.module("db", stop=5)
    spanned(db, trace, leaving=5)
    async with App(db):
        pass
    assert trace.entries[-2:] == [(5, "db.stop"), (10, "db-")]


async def test_every_stop_function_runs_though_one_fails(autojump_clock: MockClock) -> None:
    """what follows a failing stop function, lifespans included, still runs."""
    trace = Trace()
    db = trace.module("db")
    spanned(db, trace)
    db.on_stop(raising(ValueError("bad")))
    with pytest.raises(ShutdownError):
        async with App(db):
            pass
    assert trace.names[-2:] == ["db.stop", "db-"]


async def test_offline_means_a_closed_nursery(autojump_clock: MockClock) -> None:
    """whoever sees OFFLINE finds none of the module's tasks."""
    db = Module("db", restart=FOREVER, stop=partial(trio.sleep, 1))
    async with App(db):
        nursery = db.nursery
        db.start_worker(trio.sleep_forever)
        await trio.sleep(1)
        nursery.start_soon(raising(ValueError("bad")))
        await db.wait_status(OFFLINE)
        assert nursery.child_tasks == frozenset()
        with pytest.raises(RuntimeError):
            nursery.start_soon(trio.sleep_forever)


async def test_what_fails_while_stopping_is_a_stop_error(autojump_clock: MockClock) -> None:
    """an exception of the nursery's children after STOPPING is no crash."""
    error = ValueError("bad")
    db = Module("db", restart=FOREVER)

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    @db.on_start
    async def start() -> None:
        db.nursery.start_soon(child)

    with pytest.raises(ShutdownError) as caught:
        async with App(db):
            await trio.sleep(1)
    (stop_error,) = caught.value.exceptions
    assert isinstance(stop_error, StopError)
    assert error in [inner for exc in stop_error.exceptions for inner in chain_of(exc)]


async def test_a_failed_stop_is_kept_as_a_failure(autojump_clock: MockClock) -> None:
    """<module>:stop-failed stays when all other failures are resolved at OFFLINE."""
    db = Module("db")
    db.on_stop(raising(ValueError("disk full")))
    with pytest.raises(ShutdownError):
        async with App(db):
            db.set_warning("slow", "queries take long")
    assert set(db.failures) == {"db:stop-failed"}
    assert db.failure.level is FailureLevel.ERROR
    assert "disk full" in db.failure.message


# --- stop timeouts -----------------------------------------------------------------------------


async def hanging_worker(seconds: float) -> None:
    await stubborn(seconds)


async def test_a_stop_out_of_time_does_not_hold_up_the_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """its dependencies go on as if it were offline; the block waits for what is left."""
    trace, before = Trace(), tasks_living()
    db, web = trace.module("db"), trace.module("web", "db", stop_timeout=20)
    spanned(web, trace)
    app = App(db, web)

    async def watch() -> None:
        await db.wait_status(STOPPING)
        trace.add(f"web is {web.status.name}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with pytest.raises(ShutdownError) as caught:
            async with app:
                await with_worker(web, hanging_worker, 100)
    assert (trace.at("db.stop"), trace.at("web is STOPPING")) == (21, 21)
    assert (trace.at("web.stop"), trace.at("web-")) == (100, 100)
    assert statuses(app) == {"db": OFFLINE, "web": OFFLINE}
    assert tasks_living() == before
    (error,) = caught.value.exceptions
    assert isinstance(error, StopError)
    assert error.module == "web"
    assert "hanging_worker" in error.hanging
    assert "hanging_worker" in caplog.text


async def test_a_stop_function_out_of_time_is_cancelled(autojump_clock: MockClock) -> None:
    """it is kept as a StopError with its stack; lifespans get one more stop_timeout."""
    trace = Trace()
    db = Module("db", stop=first_hang, stop_timeout=20)
    spanned(db, trace, leaving=15)
    with pytest.raises(ShutdownError) as caught:
        async with App(db):
            pass
    assert trace.entries == [(0, "db+"), (35, "db-")]
    (error,) = caught.value.exceptions
    assert isinstance(error, StopError)
    assert "first_hang" in error.hanging


async def test_a_lifespan_out_of_time_is_cancelled(autojump_clock: MockClock) -> None:
    """one that never ends doesn't keep the block from ending."""
    trace = Trace()
    db = Module("db", stop_timeout=20)
    spanned(db, trace, leaving=1000)
    with pytest.raises(ShutdownError) as caught:
        async with App(db):
            pass
    assert trace.names == ["db+", "db-!"]
    assert trio.current_time() <= 40
    (error,) = caught.value.exceptions
    assert isinstance(error, StopError)
    assert "in span" in error.hanging


async def test_leftover_stop_functions_have_one_more_stop_time(autojump_clock: MockClock) -> None:
    """after a worker that hung they run, for another stop_timeout at most."""
    trace = Trace()
    db = trace.module("db", stop=1000, stop_timeout=20)
    with pytest.raises(ShutdownError):
        async with App(db):
            await with_worker(db, hanging_worker, 50)
    assert trace.entries[2:] == [(70, "db.stop!")]


async def test_a_stop_may_ask_for_more_time(autojump_clock: MockClock) -> None:
    """extend_timeout in a stop function moves the deadline."""
    db, trace = Module("db", stop_timeout=10), Trace()

    @db.on_stop
    async def stop() -> None:
        await trio.sleep(8)
        db.extend_timeout(8)
        await trace.step("stopped", 9)()

    async with App(db):
        pass
    assert trace.entries == [(17, "stopped")]


async def test_an_extension_of_a_stop_is_no_pardon(autojump_clock: MockClock) -> None:
    """the deadline of a stop moves by the seconds that were asked for, no more."""
    db, trace = Module("db", stop_timeout=10), Trace()

    @db.on_stop
    async def stop() -> None:
        await trio.sleep(8)
        db.extend_timeout(5)
        await trace.step("stopped", 1000)()

    with pytest.raises(ShutdownError):
        async with App(db):
            pass
    assert trace.entries == [(15, "stopped!")]


async def test_a_module_with_leftovers_is_not_started_again(autojump_clock: MockClock) -> None:
    """until it really ended it stays STOPPING, and two runs never overlap."""
    trace = Trace()
    db = trace.module("db", stop_timeout=20, enabled=True)
    app = App(db, managed=True)
    async with app:
        await with_worker(db, hanging_worker, 100)
        db.disable()
        with pytest.raises(StopError, match="hanging_worker"):
            await app.manage()
        assert (trio.current_time(), db.status) == (21, STOPPING)
        db.enable()
        with pytest.raises(StopError, match="hanging_worker"):
            await app.manage()
        await trio.sleep(50)
        assert (db.status, trace.only(".start")) == (STOPPING, ["db.start"])
        await db.wait_status(OFFLINE)
        await app.manage()
        assert db.online
    assert trace.entries[2:] == [(100, "db.stop"), (100, "db.start"), (100, "db.stop")]


async def test_a_stop_error_is_not_wiped(autojump_clock: MockClock) -> None:
    """manage() raises it, the failure stays while offline, and the end of the block raises it."""
    error = ValueError("bad")
    db = Module("db", enabled=True, stop=raising(error))
    app = App(db, managed=True)

    async with app.reports() as channel:
        async with app:
            db.disable()
            with pytest.raises(StopError) as caught:
                await app.manage()
            await trio.sleep(100)
            assert set(db.failures) == {"db:stop-failed"}
        reports = await drain(channel)
    assert caught.value.exceptions == (error,)
    assert [error in chain_of(report.exception) for report in reports] == [True]


# --- interruptible -----------------------------------------------------------------------------


async def test_interruptible_waits_end_when_the_stop_begins(autojump_clock: MockClock) -> None:
    """only what is inside the block is cancelled: the work outside is done."""
    trace = Trace()
    db = trace.module("db")

    @db.worker(grace_period=30)
    async def work() -> None:
        with db.interruptible() as scope:
            await trace.step("wait", 1000)()
        assert isinstance(scope, trio.CancelScope)
        assert scope.cancelled_caught
        await trace.step("work", 5)()

    async with App(db):
        await trio.sleep(1)
    assert trace.entries[2:] == [(1, "wait!"), (6, "work"), (6, "db.stop")]


async def test_interruptible_is_cancelled_already_while_stopping(
    autojump_clock: MockClock,
) -> None:
    """entered after stopping was set it waits for nothing."""
    trace = Trace()
    db = trace.module("db")

    @db.worker(grace_period=30)
    async def work() -> None:
        await db.stopping.wait()
        with db.interruptible():
            await trace.step("wait", 1000)()

    async with App(db):
        await trio.sleep(1)
    assert trace.entries[2:] == [(1, "wait!"), (1, "db.stop")]


async def test_interruptible_blocks_that_ended_are_left_alone(autojump_clock: MockClock) -> None:
    """many short waits leave nothing behind that a stop would cancel."""
    db, scopes = Module("db"), list[trio.CancelScope]()

    @db.worker
    async def work() -> None:
        for _ in range(3):
            with db.interruptible() as scope:
                await trio.sleep(1)
            scopes.append(scope)

    async with App(db):
        await trio.sleep(10)
    assert [scope.cancel_called for scope in scopes] == [False] * 3


# --- reasons -----------------------------------------------------------------------------------


class Reasons:
    """What cancelled functions were told."""

    def __init__(self) -> None:
        self.told: dict[str, str | None] = {}

    def sleeper(self, what: str) -> Callable[[], Awaitable[None]]:
        async def sleep() -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                self.told[what] = cancelled.reason
                raise

        return sleep


async def test_every_cancellation_at_a_stop_says_why(autojump_clock: MockClock) -> None:
    """workers of each kind, children, runs from outside and the body are told the reason."""
    db, reasons = Module("db"), Reasons()
    app = App(db)

    @db.worker(grace_period=5)
    async def interrupted() -> None:
        with db.interruptible():
            await reasons.sleeper("interruptible")()

    async def outside() -> None:
        with pytest.raises(ModuleOffline):
            await db.run_worker(reasons.sleeper("run_worker"))
        await db.guarded(reasons.sleeper("refused"))()

    async with trio.open_nursery() as nursery:
        async with app:
            db.start_worker(reasons.sleeper("worker"))
            db.start_service_worker(reasons.sleeper("service worker"))
            db.nursery.start_soon(reasons.sleeper("child"))
            nursery.start_soon(guard_offline, outside)
            await trio.sleep(1)
            app.request_shutdown("enough")
            await reasons.sleeper("body")()
    assert "enough" in (reasons.told.pop("body") or "")
    assert len(reasons.told) == 5
    assert {"'db'" in (reason or "") for reason in reasons.told.values()} == {True}


async def guard_offline(fn: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(ModuleOffline):
        await fn()


@pytest.mark.parametrize("what", ["prep", "start", "command"])
async def test_a_cancellation_on_the_way_up_says_why(autojump_clock: MockClock, what: str) -> None:
    """what a shutdown interrupts before the app is online is told its reason."""
    db, reasons = Module("db"), Reasons()
    app = App(db, command=reasons.sleeper("command") if what == "command" else None)
    if what != "command":
        getattr(db, f"on_{what}")(reasons.sleeper(what))

    async def request() -> None:
        await trio.sleep(1)
        app.request_shutdown("enough")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
        async with app:
            await trio.lowlevel.checkpoint()
    assert "enough" in (reasons.told[what] or "")


async def test_a_failed_start_tells_its_reason(autojump_clock: MockClock) -> None:
    """what a start had begun is told that the start failed, or ran out of time."""
    reasons = Reasons()
    failing, slow = Module("failing"), Module("slow", start_timeout=5)

    def begin(module: Module, then: Callable[[], Awaitable[None]]) -> None:
        @module.on_start
        async def start() -> None:
            module.start_worker(reasons.sleeper(module.name))
            await then()

    begin(failing, raising(ValueError("bad"), 1))
    begin(slow, trio.sleep_forever)
    await error_at_start(App(failing))
    await error_at_start(App(slow))
    assert reasons.told == {
        "failing": "module 'failing' is stopping: its start failed",
        "slow": "module 'slow' is stopping: it did not start within 5 s",
    }


async def test_a_crash_tells_its_reason(autojump_clock: MockClock) -> None:
    """the crashed module's workers and its dependents' are told which module crashed."""
    db, reasons = Module("db", restart=FOREVER), Reasons()
    web = Module("web", depends_on=[db])
    async with App(db, web):
        db.start_worker(reasons.sleeper("db"))
        web.start_worker(reasons.sleeper("web"))
        await trio.sleep(1)
        db.start_worker(raising(RestartModule()))
        await trio.sleep(1)
    assert "'db'" in (reasons.told["db"] or "")
    assert "'db'" in (reasons.told["web"] or "")


async def test_a_managed_stop_tells_its_reason(autojump_clock: MockClock) -> None:
    """a module that is stopped because it was disabled says just that."""
    db, reasons = Module("db", enabled=True), Reasons()
    app = App(db, managed=True)
    async with app:
        await with_worker(db, reasons.sleeper("worker"))
        db.disable()
        await app.manage()
    assert reasons.told == {"worker": "module 'db' is stopping: disabled"}


# --- soft dependencies -------------------------------------------------------------------------


async def test_a_wanted_module_starts_before_and_stops_after(autojump_clock: MockClock) -> None:
    """wants orders like depends_on while both run."""
    trace = Trace()
    web = trace.module("web", wants=("cache",), stop=5)
    async with App(web, trace.module("cache", start=5)):
        pass
    assert trace.only(".start", ".stop") == ["cache.start", "web.start", "web.stop", "cache.stop"]


async def test_wants_makes_nothing_wanted(autojump_clock: MockClock) -> None:
    """a module that isn't wanted by others stays offline, and nobody waits for it."""
    trace = Trace()
    app = App(
        trace.module("web", wants=("cache",), enabled=True), trace.module("cache"), managed=True
    )
    async with app:
        assert statuses(app) == {"web": ONLINE, "cache": OFFLINE}


async def test_a_module_does_not_fall_with_what_it_wants(autojump_clock: MockClock) -> None:
    """a crash of a soft dependency leaves it online; so does its end beyond the budget."""
    trace = Trace()
    cache = trace.module("cache", restart=Restart(max_restarts=1, exhausted="offline"))
    web = trace.module("web", wants=("cache",))
    with watching(lambda: None if web.online or not entered else "web fell") as faults:
        entered: list[bool] = []
        async with App(cache, web):
            entered.append(True)
            cache.nursery.start_soon(raising(ValueError("bad")))
            await trio.sleep(10)
            assert cache.online
            cache.nursery.start_soon(raising(ValueError("bad")))
            await trio.sleep(10)
            assert cache.status is OFFLINE
            entered.clear()
    assert faults == []
    assert trace.only("web.start", "web.stop") == ["web.start", "web.stop"]


async def test_a_start_does_not_wait_for_a_backoff_of_what_it_wants(
    autojump_clock: MockClock,
) -> None:
    """a soft dependency whose covered start failed holds nobody back."""
    trace = Trace()
    restart = Restart(cover_start=True, backoff=Backoff(initial=50))
    cache = trace.module("cache", restart=restart)
    cache.on_start(raising(ValueError("bad"), 1))
    async with App(cache, trace.module("web", wants=("cache",))) as app:
        assert statuses(app) == {"cache": OFFLINE, "web": ONLINE}
        assert trio.current_time() == 1


async def test_soft_dependencies_count_for_the_prep_order(autojump_clock: MockClock) -> None:
    """what a module wants is prepared before it."""
    trace = Trace()
    async with App(trace.module("web", wants=("cache",)), trace.module("cache")):
        pass
    assert trace.only(".prep") == ["cache.prep", "web.prep"]


# --- crashes -----------------------------------------------------------------------------------


def by_child(module: Module) -> None:
    module.nursery.start_soon(raising(ValueError("bad")))


def by_cancelled_nursery(module: Module) -> None:
    module.nursery.cancel_scope.cancel()


def by_given_up_worker(module: Module) -> None:
    module.start_service_worker(raising(ValueError("bad")), restart=ONE_SHOT)


def by_worker_that_asks(module: Module) -> None:
    module.start_worker(raising(RestartModule("bad")))


def by_service_worker_that_asks(module: Module) -> None:
    module.start_service_worker(raising(RestartModule("bad")))


CRASHES = [
    by_child,
    by_cancelled_nursery,
    by_given_up_worker,
    by_worker_that_asks,
    by_service_worker_that_asks,
]


@pytest.mark.parametrize("crash", CRASHES)
async def test_each_kind_of_crash_restarts_the_module(
    autojump_clock: MockClock, crash: Callable[[Module], None]
) -> None:
    """offline during the backoff, with the failure db:crashed, then online without it."""
    trace = Trace()
    db = trace.module("db", restart=Restart(backoff=Backoff(initial=10)))
    app = App(db)
    async with app.reports() as channel:
        async with app:
            crash(db)
            await db.wait_status(OFFLINE)
            assert trace.at("db.stop") == trio.current_time() == 0
            await trio.sleep(9)
            assert db.status is OFFLINE
            failure = db.failures["db:crashed"]
            assert (failure.level, db.failure) == (FailureLevel.ERROR, failure)
            await trio.sleep(1)
            await db.wait_online()
            assert (trio.current_time(), dict(db.failures)) == (10, {})
        reports = await drain(channel)
    assert len(reports) == 1
    assert trace.only(".start", ".stop") == ["db.start", "db.stop", "db.start", "db.stop"]
    assert trace.only(".prep") == ["db.prep"]


async def test_an_exception_that_escapes_a_lifespan_is_a_crash(autojump_clock: MockClock) -> None:
    """a lifespan's own nursery failing while the module is online restarts the module."""
    trace = Trace()
    db = trace.module("db", restart=FOREVER)
    failing = iter([True])

    @db.lifespan
    async def span() -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            if next(failing, False):
                nursery.start_soon(raising(ValueError("bad"), 5))
            trace.add("span+")
            yield
            nursery.cancel_scope.cancel()

    app = App(db)
    async with app.reports() as channel:
        async with app:
            await trio.sleep(6)
            assert set(db.failures) == {"db:crashed"}
            await trio.sleep(2)
            assert db.online
        reports = await drain(channel)
    assert len(reports) == 1
    assert trace.only(".stop", "span+") == ["span+", "db.stop", "span+", "db.stop"]


async def test_a_cancelled_lifespan_scope_is_a_crash(autojump_clock: MockClock) -> None:
    """a scope of the module's own around its nursery that somebody cancels restarts it."""
    db, scopes = Module("db", restart=FOREVER), list[trio.CancelScope]()

    @db.lifespan
    async def span() -> AsyncGenerator[None]:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            yield

    async with App(db):
        scopes[0].cancel()
        await db.wait_status(OFFLINE)
        assert set(db.failures) == {"db:crashed"}
        await db.wait_online()
    assert len(scopes) == 2


async def test_all_dependents_leave_online_in_the_same_step(autojump_clock: MockClock) -> None:
    """at no step is a module online while one that it depends on, directly or not, isn't."""
    trace = Trace()
    db = trace.module("db", restart=FOREVER)
    chain = [trace.module(f"m{i}", f"m{i - 1}" if i else "db", stop=1) for i in range(5)]
    app = App(*chain, db, trace.module("apart"))
    with watching(lambda: order_fault(app)) as faults:
        async with app:
            by_child(db)
            await db.wait_status(STOPPING)
            assert {m.status for m in chain} == {STOPPING}
            assert app["apart"].online
            await chain[-1].wait_online()
    assert faults == []
    assert trace.only("apart.start", "apart.stop") == ["apart.start", "apart.stop"]


async def test_dependents_of_a_crash_stop_in_order(autojump_clock: MockClock) -> None:
    """stopping is set when it is a module's turn; the crashed one's stop functions come last."""
    trace = Trace()
    db = trace.module("db", stop=1, restart=FOREVER)
    web = trace.module("web", "db", stop=2)
    top = trace.module("top", "web", stop=3)
    spanned(db, trace)

    async def watch(module: Module) -> None:
        await module.stopping.wait()
        trace.add(f"{module.name} stopping")

    async with App(db, web, top), trio.open_nursery() as nursery:
        for module in (web, top):
            nursery.start_soon(watch, module)
        await trio.sleep(10)
        by_child(db)
        await db.wait_status(OFFLINE)
        await top.wait_online()
        trace.add("up")
    begin = trace.names.index("top stopping")
    assert trace.entries[begin : trace.names.index("up")] == [
        (10, "top stopping"),
        (13, "top.stop"),
        (13, "web stopping"),
        (15, "web.stop"),
        (16, "db.stop"),
        (16, "db-"),
        (18, "db+"),
        (18, "db.start"),
        (18, "web.start"),
        (18, "top.start"),
    ]


async def test_a_crashed_modules_workers_have_no_grace(autojump_clock: MockClock) -> None:
    """its nursery is cancelled at once; its dependents' workers keep their grace."""
    trace = Trace()
    db = trace.module("db", restart=FOREVER)
    web = trace.module("web", "db")
    async with App(db, web):
        for module in (db, web):
            module.start_worker(trace.step(f"{module.name}.worker", 1000), grace_period=20)
        await trio.sleep(1)
        by_child(db)
        await db.wait_status(OFFLINE)
    assert trace.at("db.worker!") == 1
    assert trace.at("web.worker!") == trace.at("db.stop") == 21


async def test_a_crash_cancels_dependents_that_are_starting(autojump_clock: MockClock) -> None:
    """they are cancelled, start again after it, and spend nothing for it."""
    trace = Trace()
    db = trace.module("db", restart=FOREVER)
    web = trace.module("web", "db", start=10)

    async def crash_once() -> None:
        if trace.names.count("db.start") == 1:
            await trio.sleep(5)
            by_child(db)

    db.worker(crash_once)
    async with App(db, web):
        assert trio.current_time() == 5 + 2 + 10
        assert trace.only("web.start", "web.start!", "web.stop") == ["web.start!", "web.start"]


async def test_only_the_crashed_module_spends_its_budget(autojump_clock: MockClock) -> None:
    """dependents that may never restart fall and come back with it, as often as it crashes."""
    db = Module("db", restart=FOREVER)
    web = Module("web", depends_on=["db"], restart=ONE_SHOT)
    async with App(db, web):
        for _ in range(5):
            by_child(db)
            await web.wait_status(OFFLINE)
            await web.wait_online()


async def test_a_crash_while_stopping_is_none(autojump_clock: MockClock) -> None:
    """RestartModule during the stop restarts nothing."""
    trace = Trace()
    db = trace.module("db", restart=FOREVER)

    @db.worker(grace_period=10)
    async def work() -> None:
        await db.stopping.wait()
        raise RestartModule

    with pytest.raises(ShutdownError) as caught:
        async with App(db):
            await trio.sleep(1)
    assert [type(error) for error in caught.value.exceptions] == [StopError]
    assert trace.only(".start", ".stop") == ["db.start", "db.stop"]
    assert trio.current_time() == 1


async def test_a_crash_during_the_shutdown_forgets_no_dependent(autojump_clock: MockClock) -> None:
    """one that comes while its dependents are stopping waits for them and restarts nothing."""
    trace = Trace()
    db = trace.module("db", restart=FOREVER)
    app = App(db, trace.module("web", "db", stop=10))

    async def crash() -> None:
        await app.shutting_down.wait()
        await trio.sleep(5)
        raise ValueError("bad")

    async with app.reports() as channel:
        async with app:
            db.nursery.start_soon(crash)
            await trio.sleep(1)
        reports = await drain(channel)
    assert trace.entries[-2:] == [(11, "web.stop"), (11, "db.stop")]
    assert ["bad" in "".join(map(str, chain_of(report.exception))) for report in reports] == [True]


async def test_a_stop_error_of_a_crash_is_reported(autojump_clock: MockClock) -> None:
    """what fails while a crashed module is taken down isn't lost, and doesn't end the app."""
    late, faults = KeyError("late"), iter([True, False])
    db = Module("db", restart=FOREVER)

    @db.on_stop
    async def stop() -> None:
        if next(faults):
            raise late

    app = App(db)
    async with app.reports() as channel:
        async with app:
            by_child(db)
            await db.wait_status(OFFLINE)
            assert set(db.failures) == {"db:crashed", "db:stop-failed"}
            await db.wait_online()
        reports = await drain(channel)
    assert sum(late in chain_of(report.exception) for report in reports) == 1


# --- restarts, budgets, and what comes after ---------------------------------------------------


def test_a_restart_policy_has_its_documented_defaults() -> None:
    """Restart(...) is frozen and allows any number of restarts within five minutes."""
    restart = Restart()
    assert (restart.max_restarts, restart.within, restart.backoff) == (None, 300.0, Backoff())
    assert (restart.cover_start, restart.exhausted) == (False, "shutdown")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        restart.within = 5  # type: ignore[misc]
    assert list(inspect.signature(Restart).parameters) == [
        "max_restarts", "within", "backoff", "cover_start", "exhausted",
    ]  # fmt: skip


async def test_the_backoff_grows_from_crash_to_crash(autojump_clock: MockClock) -> None:
    """two, four, six seconds offline, as the policy's Backoff says."""
    trace = Trace()
    db = trace.module("db", restart=FOREVER)
    db.worker(raising(RestartModule(), 1))
    async with App(db):
        await trio.sleep(20)
    starts = [time for time, what in trace.entries if what == "db.start"]
    assert starts == [0, 1 + 2, 4 + 4, 9 + 6]


async def test_a_crash_beyond_the_budget_ends_the_app(autojump_clock: MockClock) -> None:
    """with max_restarts=2 the third crash is the last; the error tells module and cause."""
    trace = Trace()
    db = trace.module("db", restart=Restart(max_restarts=2))
    db.worker(raising(RestartModule("worn out"), 1))
    app = App(db, trace.module("web", "db"))
    with pytest.raises(ModuleCrashed) as caught:
        async with app:
            await trio.sleep_forever()
    assert (caught.value.module, caught.value.crashes) == ("db", 3)
    assert "worn out" in "".join(map(str, chain_of(caught.value)))
    assert trace.only("db.start") == ["db.start"] * 3
    assert trace.names[-2:] == ["web.stop", "db.stop"]


async def test_crashes_far_apart_do_not_add_up(autojump_clock: MockClock) -> None:
    """only those within the policy's period count."""
    db = Module("db", restart=Restart(max_restarts=1, within=50))
    async with App(db):
        for _ in range(5):
            by_child(db)
            await db.wait_status(OFFLINE)
            await db.wait_online()
            await trio.sleep(60)


async def test_a_long_stop_does_not_keep_crashes_apart(autojump_clock: MockClock) -> None:
    """the budget counts from crash to crash, not from one end of a stop to the next."""
    db = Module("db", restart=Restart(max_restarts=1, within=10, backoff=Backoff(initial=2)))
    db.worker(raising(RestartModule("worn out"), 1))
    takes = iter([0, 30])

    @db.on_stop
    async def stop() -> None:
        await trio.sleep(next(takes))

    with pytest.raises(ModuleCrashed) as caught:
        async with App(db):
            await trio.sleep_forever()
    assert caught.value.crashes == 2
    assert trio.current_time() == 1 + 2 + 1 + 30


async def test_a_long_stop_is_no_long_run(autojump_clock: MockClock) -> None:
    """only the time until a crash counts for reset_after, so the backoff grows all the same."""
    backoff = Backoff(initial=1, reset_after=10)
    db = Module("db", stop=partial(trio.sleep, 20), restart=Restart(backoff=backoff))
    starts: list[float] = []

    @db.worker
    async def crash() -> None:
        starts.append(trio.current_time())
        await trio.sleep(1)
        raise RestartModule

    async with App(db):
        await trio.sleep(69.5)
    assert starts == [0, 22, 45, 69]


async def test_a_restart_whose_start_fails_is_another_crash(autojump_clock: MockClock) -> None:
    """it is reported, spends the budget and is tried again after a longer backoff."""
    trace = Trace()
    faults = iter([False, True, True, False])
    db = trace.module("db", restart=Restart(max_restarts=3))

    @db.on_start
    async def start() -> None:
        if next(faults):
            raise ValueError("bad")

    app = App(db)
    async with app.reports() as channel:
        async with app:
            by_child(db)
            await db.wait_status(OFFLINE)
            await db.wait_online()
            assert trio.current_time() == 2 + 4 + 6
            assert dict(db.failures) == {}
        reports = await drain(channel)
    assert len(reports) == 3
    assert trace.only("db.stop") == ["db.stop"] * 2


async def test_a_restart_whose_start_fails_may_exhaust_the_budget(
    autojump_clock: MockClock,
) -> None:
    """one restart allowed, and its start fails: the app ends with ModuleCrashed."""
    error, faults = ValueError("bad"), iter([False, True])
    db = Module("db", restart=Restart(max_restarts=1))

    @db.on_start
    async def start() -> None:
        if next(faults):
            raise error

    async def crash() -> None:
        by_child(db)
        await trio.sleep_forever()

    with pytest.raises(ModuleCrashed) as caught:
        async with App(db):
            await crash()
    assert error in list(chain_of(caught.value))


async def exhaust(db: Module) -> None:
    by_child(db)
    await db.wait_status(OFFLINE)
    await trio.sleep(1000)


@pytest.mark.parametrize("how", ["manage", "restart"])
async def test_an_exhausted_module_may_stay_offline(autojump_clock: MockClock, how: str) -> None:
    """it and its dependents are offline, failure and all, until somebody gives a new budget."""
    trace = Trace()
    db = trace.module("db", restart=Restart(max_restarts=0, exhausted="offline"))
    web = trace.module("web", "db")
    app = App(db, web, trace.module("apart"))

    async def renew() -> None:
        await (app.manage() if how == "manage" else app.restart(db))

    async with app:
        for _ in range(2):
            await exhaust(db)
            assert statuses(app) == {"db": OFFLINE, "web": OFFLINE, "apart": ONLINE}
            assert db.failures["db:crashed"].level is FailureLevel.ERROR
            await renew()
            assert statuses(app) == {"db": ONLINE, "web": ONLINE, "apart": ONLINE}
            assert dict(db.failures) == {}


async def test_a_failed_first_start_ends_the_app_without_cover(autojump_clock: MockClock) -> None:
    """a policy that allows restarts doesn't cover the first start by itself."""
    db = Module("db", restart=FOREVER, start=raising(ValueError("bad")))
    assert (await error_at_start(App(db))).module == "db"


async def test_a_covered_first_start_is_a_crash(autojump_clock: MockClock) -> None:
    """entering waits for the first attempt only; the module and its dependents follow later."""
    trace, faults = Trace(), iter([True, True, False])
    db = trace.module("db", restart=Restart(cover_start=True))
    web = trace.module("web", "db")

    @db.on_start
    async def start() -> None:
        await trio.sleep(1)
        if next(faults):
            raise ValueError("bad")

    app = App(db, web)
    async with app.reports() as channel:
        async with app:
            assert trio.current_time() == 1
            assert app.started.is_set()
            assert statuses(app) == {"db": OFFLINE, "web": OFFLINE}
            assert db.failure.level is FailureLevel.ERROR
            await web.wait_online()
            assert trio.current_time() == 1 + 2 + 1 + 4 + 1
            assert dict(db.failures) == {}
        reports = await drain(channel)
    assert len(reports) == 2


async def test_a_covered_start_beyond_the_budget_ends_the_app(autojump_clock: MockClock) -> None:
    """ModuleCrashed, with the last failed start as its cause."""
    error = ValueError("bad")
    restart = Restart(max_restarts=2, cover_start=True)
    db = Module("db", start=raising(error), restart=restart)
    with pytest.raises(ModuleCrashed) as caught:
        async with App(db):
            await trio.sleep_forever()
    assert error in list(chain_of(caught.value))
    assert trio.current_time() == 2 + 4


async def test_a_covered_start_beyond_the_budget_may_stay_offline(
    autojump_clock: MockClock,
) -> None:
    """with exhausted="offline" the app is entered and runs without the module."""
    restart = Restart(max_restarts=0, cover_start=True, exhausted="offline")
    db = Module("db", start=raising(ValueError("bad")), restart=restart)
    app = App(db, Module("web", depends_on=[db]), Module("apart"))
    async with app:
        await trio.sleep(1000)
        assert statuses(app) == {"db": OFFLINE, "web": OFFLINE, "apart": ONLINE}


async def test_a_crashed_module_with_leftovers_restarts_when_they_ended(
    autojump_clock: MockClock,
) -> None:
    """a worker that outlasts the stop time keeps the module from running twice."""
    trace = Trace()
    db = trace.module("db", stop_timeout=20, restart=FOREVER)
    app = App(db)
    async with app.reports() as channel:
        async with app:
            db.start_worker(hanging_worker, 100)
            await trio.sleep(1)
            by_child(db)
            await trio.sleep(98)
            assert db.status is STOPPING
            await db.wait_status(OFFLINE)
            assert trio.current_time() == 100
            await db.wait_online()
        reports = await drain(channel)
    assert trace.only(".start", ".stop") == ["db.start", "db.stop"] * 2
    assert ["hanging_worker" in str(report.exception) for report in reports].count(True) == 1


async def test_a_shutdown_does_not_wait_for_a_backoff(autojump_clock: MockClock) -> None:
    """a module that waits for its restart is offline, and stays so."""
    trace = Trace()
    db = trace.module("db", restart=Restart(backoff=Backoff(initial=300)))
    async with App(db):
        by_child(db)
        await trio.sleep(1)
    assert trio.current_time() == 1
    assert trace.only(".start", ".stop") == ["db.start", "db.stop"]


async def test_a_restart_by_hand_ends_the_backoff(autojump_clock: MockClock) -> None:
    """it starts the module at once; the timer of the old backoff has no effect on the next one."""
    trace = Trace()
    db = trace.module("db", restart=Restart(backoff=Backoff(initial=10)))
    app = App(db)
    async with app:
        by_child(db)
        await trio.sleep(5)
        await app.restart(db)
        assert db.online
        by_child(db)
        await db.wait_status(OFFLINE)
        await db.wait_online()
    assert [time for time, what in trace.entries if what == "db.start"] == [0, 5, 15]


async def test_a_dependent_does_not_start_during_the_backoff(autojump_clock: MockClock) -> None:
    """it comes after the crashed module is online again."""
    trace = Trace()
    db = trace.module("db", restart=Restart(backoff=Backoff(initial=30)))
    web = trace.module("web", "db")
    async with App(db, web):
        by_child(db)
        await web.wait_status(OFFLINE)
        await web.wait_online()
        assert trio.current_time() == 30
    assert trace.only(".start") == ["db.start", "web.start"] * 2


# --- managing, as far as the lifecycle is concerned --------------------------------------------


async def test_a_failed_start_is_tried_again_by_the_next_manage(autojump_clock: MockClock) -> None:
    """the error is raised once; when the cause is gone the module starts."""
    faults = iter([True, False])
    db = Module("db")

    @db.on_start
    async def start() -> None:
        if next(faults):
            raise ValueError("bad")

    app = App(db, managed=True)
    async with app.reports() as channel:
        async with app:
            db.enable()
            with pytest.raises(StartError):
                await app.manage()
            assert db.status is OFFLINE
            assert set(db.failures) == {"db:start-failed"}
            await app.manage()
            assert db.online
            assert dict(db.failures) == {}
        reports = await drain(channel)
    assert [(report.module, str(report.exception)) for report in reports] == [("db", "bad")]


async def test_managing_when_a_change_is_seen_waits_for_nothing_of_its_own(
    autojump_clock: MockClock,
) -> None:
    """a module that reads the app's changes may manage at each of them, even itself away."""
    db = Module("db", start=partial(trio.sleep, 1))
    keeper = Module("keeper", enabled=True)
    app = App(db, keeper, managed=True)

    @keeper.worker
    async def keep() -> None:
        async with app.changes() as channel:
            db.enable()
            await app.manage()
            async for change in channel:
                if change.module == "db" and change.after is ONLINE:
                    keeper.disable()
                await app.manage()

    async with app:
        await db.wait_online()
        await keeper.wait_status(OFFLINE)
        assert statuses(app) == {"db": ONLINE, "keeper": OFFLINE}
        assert trio.current_time() == 1


async def test_a_lifespan_that_hangs_after_a_slow_entry_is_cut_short(
    autojump_clock: MockClock,
) -> None:
    """a stop that runs out of time amid the entry of a lifespan still limits leaving the others."""
    db = Module("db", stop_timeout=5)
    app = App(db)

    @db.lifespan
    async def hanging() -> AsyncGenerator[None, None]:
        yield
        await trio.sleep_forever()

    @db.lifespan
    async def slow() -> AsyncGenerator[None, None]:
        with trio.CancelScope(shield=True):
            await trio.sleep(30)
        await trio.sleep_forever()
        yield

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                await trio.sleep(1)
                app.request_shutdown("enough")

            nursery.start_soon(leave)
            with pytest.raises(ShutdownError):
                async with app:
                    await trio.lowlevel.checkpoint()
    assert trio.current_time() == 35


async def test_a_stray_cancelled_in_a_grace_period_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    """behind the shield of its grace no scope around the worker is cancelled: it isn't lost."""
    db = Module("db", stop_timeout=20)
    app = App(db)
    stray = await stray_cancelled()

    @db.worker(grace_period=5)
    async def fail() -> None:
        await db.stopping.wait()
        await trio.sleep(1)
        raise stray

    async with app.reports() as reports:
        async with app:
            await trio.sleep(1)
        assert [report.exception async for report in reports] == [stray]


async def test_a_stray_cancelled_in_a_shielded_stop_function_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    """the scope of a crashed lifespan is cancelled around it, but the shield lies between."""
    db = Module("db", restart=Restart())
    app = App(db)
    stray = await stray_cancelled()
    left: list[BaseException] = [stray]

    @db.lifespan
    async def crashing() -> AsyncGenerator[None, None]:
        async with trio.open_nursery() as nursery:
            if left:
                nursery.start_soon(raising(ValueError("crash"), after=1))
            yield

    @db.on_stop
    async def stop() -> None:
        if left:
            raise left.pop()

    async with app.reports() as reports:
        async with app:
            await db.wait_online()
            await trio.sleep(30)
        found = [report.exception async for report in reports]
    assert any(exc is stray for exc in found)


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_a_cancelled_under_way_when_its_lifespan_is_left_is_genuine(seed: int, late: float) -> None:
    """what is left is shielded, perhaps before those who were cancelled before have had a turn."""

    async def main() -> None:
        db, other = Module("db"), Module("other", enabled=True)
        app = App(db, other, managed=True)

        @other.guarded
        async def work() -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(late)

        async def child() -> None:
            async with trio.open_nursery() as inner:
                inner.start_soon(work)

        with_child(db, child)
        never_there(db)
        async with app.reports() as reports:
            async with app:
                await start_and_give_up(app, db)
            assert await drain(reports) == []

    with deterministic_scheduling(seed):
        trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_stray_cancelled_in_the_end_of_a_lifespan_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    """its start was cancelled around it, but the shield lies between."""
    db, other = Module("db"), Module("other", enabled=True)
    app = App(db, other, managed=True)
    stray = await stray_cancelled()

    @db.lifespan
    async def first() -> AsyncGenerator[None, None]:
        yield
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.guarded(raising(stray)))
        raise stray

    never_there(db)
    async with app.reports() as reports:
        async with app:
            with pytest.raises(ExceptionGroup):
                await start_and_give_up(app, db)
        guarded, leaving = await drain(reports)
    assert guarded.exception is stray
    assert stray in list(chain_of(leaving.exception))


@pytest.mark.parametrize("reason", [None, "another"])
async def test_a_stray_cancelled_below_a_start_that_was_called_off_is_a_failure(
    autojump_clock: MockClock, reason: str | None
) -> None:
    """for those who were shielded before, and for whom that cancellation isn't the one."""
    db, other = Module("db"), Module("other", enabled=True)
    app = App(db, other, managed=True)
    stray = await stray_cancelled(reason)
    went_on: list[float] = []

    async def child() -> None:
        with trio.CancelScope(shield=True):
            await other.guarded(raising(stray, after=5))()
            went_on.append(trio.current_time())

    with_child(db, child)
    never_there(db)
    async with app.reports() as reports:
        async with app:
            await start_and_give_up(app, db)
        assert [report.exception for report in await drain(reports)] == [stray]
    assert went_on == [5]


async def test_a_stray_cancelled_beside_a_lifespan_that_was_cancelled_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    """what ends an inner lifespan is no cancellation of what an outer one has started."""
    db, other = Module("db", restart=FOREVER), Module("other")
    app = App(db, other)
    stray = await stray_cancelled()
    leaving = trio.Event()
    went_on: list[bool] = []

    async def fail() -> None:
        await leaving.wait()
        raise stray

    async def child() -> None:
        await other.guarded(fail)()
        went_on.append(True)

    @db.lifespan
    async def outer() -> AsyncGenerator[None, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            yield
            leaving.set()
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    @db.lifespan
    async def inner() -> AsyncGenerator[None, None]:
        async with trio.open_nursery() as nursery:
            if not went_on:
                nursery.start_soon(cancelling, nursery.cancel_scope)
            yield

    async with app.reports() as reports:
        async with app:
            await trio.sleep(3)
        assert (await drain(reports))[0].exception is stray
    assert went_on == [True]


async def cancelling(scope: trio.CancelScope) -> None:
    await trio.sleep(1)
    scope.cancel()


def with_child(module: Module, child: Callable[[], Awaitable[None]]) -> None:
    """Give the module a lifespan whose nursery, open while it lives, has that child."""

    @module.lifespan
    async def span() -> AsyncGenerator[None, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            yield


def never_there(module: Module) -> None:
    """Give the module a lifespan that is never entered."""

    @module.lifespan
    async def span() -> AsyncGenerator[None, None]:
        await trio.sleep_forever()
        yield


async def start_and_give_up(app: App, module: Module) -> None:
    """Want a module for a second that doesn't come online in that time."""
    async with trio.open_nursery() as nursery:
        module.enable()
        nursery.start_soon(app.manage)
        await trio.sleep(1)
        module.disable()
        await app.manage()


# --- which error it is, when several things end at once ----------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_what_ends_the_nursery_is_why_the_start_failed(seed: int) -> None:
    """and not that a worker with task_status was cancelled because of that before it was ready."""
    error, errors = ValueError("bad"), list[BaseException | None]()

    async def main() -> None:
        db = Module("db")
        db.on_start(by_child_later, db, error)

        @db.service_worker
        async def hold(task_status: object) -> None:
            await trio.sleep_forever()

        app = App(db)
        async with app.reports() as reports:
            errors.append((await error_at_start(app)).__cause__)
            assert await drain(reports) == []

    with deterministic_scheduling(seed):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert error in list(chain_of(errors[0]))


async def by_child_later(module: Module, error: BaseException) -> None:
    """Let the module's nursery fall a second from now."""
    module.nursery.start_soon(raising(error, 1))
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("holds", [False, True])
async def test_a_cancelled_nursery_is_a_failed_start(
    autojump_clock: MockClock, waits: bool, holds: bool
) -> None:
    """the module doesn't come online in it, and the error says who cancelled it and why."""
    db = Module("db", restart=FOREVER)

    @db.on_start
    async def start() -> None:
        db.nursery.cancel_scope.cancel(reason="no luck")
        if waits:
            await trio.sleep(1)

    @db.service_worker
    async def hold(task_status: trio.TaskStatus[None]) -> None:
        if holds:
            await trio.sleep(1)
        task_status.started()

    app = App(db)
    async with app.changes() as changes:
        error = await error_at_start(app)
        assert not any(change.after is ONLINE for change in await drain(changes))
    assert "'no luck' from task <Task 'db'>" in str(error)


async def test_a_nursery_cancelled_in_the_step_of_the_last_started(
    autojump_clock: MockClock,
) -> None:
    """what the module waited for has come, but it can't work any more."""
    db = Module("db", restart=FOREVER)

    @db.service_worker
    async def hold(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        db.nursery.cancel_scope.cancel()

    app = App(db)
    async with app.changes() as changes:
        await error_at_start(app)
        assert not any(change.after is ONLINE for change in await drain(changes))


async def test_a_stray_cancelled_of_a_child_says_so(autojump_clock: MockClock) -> None:
    """Trio's nursery drops it, and everything else in it: the report names it and the task."""
    db = Module("db", restart=FOREVER)
    stray = await stray_cancelled()
    app = App(db)
    async with app.reports() as reports:
        async with app:
            db.nursery.start_soon(raising(stray), name="odd one")
            await db.wait_status(OFFLINE)
        (report,) = await drain(reports)
    text = str(report.exception)
    assert "child task raised exception Cancelled" in text
    assert "from task <Task 'odd one'>" in text
    assert report.severity == "panic"


async def test_a_crash_by_cancellation_says_who_cancelled(autojump_clock: MockClock) -> None:
    """beyond the budget, it is the cause of ModuleCrashed."""
    db = Module("db", restart=ONE_SHOT)

    @db.worker
    async def cancel() -> None:
        db.nursery.cancel_scope.cancel(reason="enough")
        await trio.lowlevel.checkpoint()

    with pytest.raises(ModuleCrashed, match="'enough' from task <Task 'cancel'>"):
        async with App(db):
            await trio.sleep(1)


# --- what is no Exception, while the body goes on ----------------------------------------------


def interrupted(where: str, error: BaseException) -> Module:
    """Return a module whose start ends with the error."""
    db = Module("db", restart=Restart(backoff=Backoff(initial=1)))
    if where == "start":
        db.on_start(raising(error))
    elif where == "child":
        db.on_start(by_child_later, db, error)
        db.on_start(trio.sleep, 5)
    elif where == "service worker":

        @db.service_worker
        async def hold(task_status: object) -> None:
            raise error

    else:

        @db.lifespan
        async def span() -> AsyncGenerator[None]:
            raise error
            yield

    return db


async def enable(app: App, module: Module) -> None:
    """Start a module of an app that runs."""
    module.enable()
    await app.manage()


async def test_an_interrupt_gives_nobody_more_time_to_stop(autojump_clock: MockClock) -> None:
    """a stop that is about to run out of time does so then, not a moment after the interrupt."""
    base = Module("base")
    deaf = Module("deaf", depends_on=[base], stop_timeout=4)
    deaf.on_stop(partial(stubborn, 10))
    stopped: list[float] = []

    @base.worker
    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped.append(trio.current_time())

    base.worker(raising(KeyboardInterrupt(), 3.995))
    with pytest.raises(KeyboardInterrupt):
        async with App(base, deaf):
            pass
    assert stopped == [4]


@pytest.mark.parametrize("where", ["start", "child", "service worker", "lifespan"])
async def test_an_interrupted_start_is_no_failed_one(autojump_clock: MockClock, where: str) -> None:
    """a module that is started later: its KeyboardInterrupt leaves, and nothing else is said."""
    error = KeyboardInterrupt()
    db = interrupted(where, error)
    app = App(db, managed=True)
    async with app.reports() as reports:
        with pytest.raises(KeyboardInterrupt) as caught:
            async with app:
                await enable(app, db)
        assert await drain(reports) == []
    assert caught.value is error
    assert not hasattr(error, "__notes__")


async def with_deaf_body(module: Module, error: BaseException) -> None:
    """Let the module crash, and don't listen to what follows."""
    module.nursery.start_soon(raising(error))
    await stubborn(50)


@pytest.mark.parametrize("besides", [(), (ValueError("bad"),)])
async def test_an_interrupted_module_does_not_come_back(
    autojump_clock: MockClock, besides: tuple[Exception, ...]
) -> None:
    """however long the body takes to end."""
    trace = Trace()
    db = trace.module("db", restart=FOREVER)
    error = BaseExceptionGroup("all", [KeyboardInterrupt(), *besides])
    app = App(db)
    async with app.reports() as reports:
        with pytest.raises(KeyboardInterrupt):
            async with app:
                await with_deaf_body(db, error)
        assert len(await drain(reports)) == len(besides)
    assert trace.only(".start", ".stop") == ["db.start", "db.stop"]
