"""The life of an app: entering, the body, every way to leave, and what leaves the block."""

from __future__ import annotations

import inspect
import random
import signal
import sys
from contextlib import AsyncExitStack, nullcontext, suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import trio
from lifecycle_helpers import (
    FOREVER,
    ONE_SHOT,
    Trace,
    drain,
    notes_of,
    order_fault,
    raising,
    statuses,
    stray_cancelled,
    stubborn,
    tasks_living,
    watching,
)
from support import ctrl_c_raises, deterministic_scheduling
from trio.testing import MockClock, assert_checkpoints

from trio_modules import (
    App,
    Backoff,
    CleanExit,
    Module,
    ModuleCrashed,
    ModuleStatus,
    Restart,
    ShutdownError,
    StartError,
    StopError,
    serve,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from trio.testing import MockClock

OFFLINE, ONLINE = ModuleStatus.OFFLINE, ModuleStatus.ONLINE


class Outcome(BaseException):
    """Stand for what a test framework raises to end a test."""


# --- declarative until entered -----------------------------------------------------------------


def test_the_options_have_their_documented_defaults() -> None:
    """App(...) takes the options of the contract, by keyword, with its defaults."""
    parameters = inspect.signature(App).parameters
    options = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert options == {
        "name": "app",
        "prep": None,
        "command": None,
        "managed": False,
        "start_timeout": 120,
        "stop_timeout": 60,
        "max_concurrent_microtasks": None,
        "max_concurrent_restarts": 100,
        "restart_settle": 0.1,
        "max_concurrent_tasks": 1,
        "min_repeat_interval": 60,
        "rng": None,
        "epoch": None,
        "stderr_reporting": False,
    }


def test_an_app_is_a_mapping_of_its_modules() -> None:
    """modules are found by name, in the order of their registration, and counted."""
    web, db = Module("web", depends_on=["db"]), Module("db")
    app = App(web)
    assert app.register(db) is db
    assert app["web"] is web
    assert list(app.modules.items()) == [("web", web), ("db", db)]
    assert len(app) == 2
    assert ("db" in app, "other" in app) == (True, False)
    with pytest.raises(KeyError, match="other"):
        _ = app["other"]


def test_get_checks_the_type() -> None:
    """app.get returns the module if it is of the type, else it raises."""

    class Database(Module):
        """A module of its own type."""

    db = Database("db")
    app = App(db, Module("web"))
    assert app.get("db", Database) is db
    with pytest.raises(TypeError, match="'web'"):
        app.get("web", Database)
    with pytest.raises(KeyError, match="other"):
        app.get("other", Database)


@pytest.mark.parametrize("wrong", ["db", None, Module])
def test_only_modules_are_registered(wrong: Any) -> None:
    """something that is no module is a TypeError that shows it."""
    with pytest.raises(TypeError, match="odule"):
        App(wrong)


async def test_nothing_is_registered_while_the_app_runs() -> None:
    """register belongs to the time before; a running app has add()."""
    app = App()
    async with app:
        with pytest.raises(RuntimeError, match="add"):
            app.register(Module("db"))


@pytest.mark.parametrize("limit", ["max_concurrent_restarts", "max_concurrent_microtasks"])
def test_limits_are_settable(limit: str) -> None:
    """a limit is an attribute that takes what the constructor takes, and checks it."""
    app = App()
    setattr(app, limit, 7)
    assert getattr(app, limit) == 7
    with pytest.raises(ValueError, match=rf"{limit}.*-2"):
        setattr(app, limit, -2)
    assert getattr(app, limit) == 7


async def test_things_say_what_they_are(autojump_clock: MockClock) -> None:
    """the repr of an app, a module, a resource and a handle has the name and the state."""
    db = Module("db")
    app = App(db, name="hub")

    @db.lifespan
    async def pool() -> AsyncGenerator[int]:
        yield 1

    async with app:
        worker = db.start_service_worker(trio.sleep_forever, name="poll")
        shown = [repr(each) for each in (app, db, pool, worker)]
    assert shown == [
        "<App 'hub', 1 modules, running>",
        "<Module 'db' ONLINE>",
        "<Resource db/pool>",
        "<ServiceWorker db/poll running>",
    ]
    assert repr(app) == "<App 'hub', 1 modules, offline>"


def test_settings_of_the_next_run_are_settable() -> None:
    """whoever wants a run again sets the epoch and seeds the rng."""
    rng = random.Random(1)
    app = App(rng=rng)
    assert app.rng is rng
    assert app.epoch is None
    app.epoch = datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert app.epoch.year == 2030
    with pytest.raises(ValueError, match="epoch must be aware"):
        app.epoch = datetime(2030, 1, 1)  # noqa: DTZ001


# --- the whole life ----------------------------------------------------------------------------


async def test_the_life_of_an_app(autojump_clock: MockClock) -> None:
    """the app's prep, each prep, each start, the body, each stop: in the order of the graph."""
    trace = Trace()
    modules = [trace.module("web", "db"), trace.module("db", "disk"), trace.module("disk")]
    app = App(*modules, prep=trace.step("app.prep"))
    async with app as entered:
        assert entered is app
        trace.add("body")
    assert trace.names == [
        "app.prep",
        "disk.prep",
        "db.prep",
        "web.prep",
        "disk.start",
        "db.start",
        "web.start",
        "body",
        "web.stop",
        "db.stop",
        "disk.stop",
    ]


async def test_every_prep_runs_before_any_start(autojump_clock: MockClock) -> None:
    """a module's start waits for the slowest prep, of whatever module."""
    trace = Trace()
    slow = Module("slow", prep=trace.step("slow.prep", 5))
    async with App(trace.module("db"), slow):
        pass
    assert trace.at("db.start") == 5


async def test_modules_that_are_not_wanted_are_prepared_only(autojump_clock: MockClock) -> None:
    """an app that is managed preps every module and starts the enabled ones."""
    trace = Trace()
    app = App(trace.module("db", enabled=True), trace.module("web", "db"), managed=True)
    async with app:
        assert statuses(app) == {"db": ONLINE, "web": OFFLINE}
    assert trace.names == ["db.prep", "web.prep", "db.start", "db.stop"]


async def test_independent_modules_start_and_stop_concurrently(autojump_clock: MockClock) -> None:
    """the way up and the way down take as long as the longest path through the graph."""
    trace = Trace()
    leaves = [trace.module(f"leaf{i}", "root", start=i, stop=i) for i in range(1, 5)]
    root = trace.module("root", start=2, stop=2)
    top = trace.module("top", "leaf1", "leaf2", start=3, stop=3)
    async with App(top, *leaves, root):
        assert trio.current_time() == 2 + 2 + 3
        assert trace.at("leaf4.start") == 6
    assert trio.current_time() == 7 + 3 + 2 + 2
    assert trace.at("leaf4.stop") == 7 + 4
    assert trace.at("leaf1.stop") == 7 + 3 + 1


async def test_no_module_is_ever_online_without_its_dependencies(
    autojump_clock: MockClock,
) -> None:
    """at every step of every task the order holds, on the way up and down."""
    trace = Trace()
    modules = [trace.module("m0")] + [
        trace.module(f"m{i}", f"m{i // 2}", *([f"m{i // 3}"] if i > 3 else []), start=i % 3)
        for i in range(1, 30)
    ]
    app = App(*modules)
    with watching(lambda: order_fault(app)) as faults:
        async with app:
            assert set(statuses(app).values()) == {ONLINE}
    assert faults == []


async def calls_made(modules: list[Module]) -> int:
    """Return how many calls starting and stopping an app of these modules takes."""
    app, calls = App(*modules), 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    profiler = sys.getprofile()
    sys.setprofile(count)
    try:
        async with app:
            pass
    finally:
        sys.setprofile(profiler)
    return calls


def star(n: int) -> list[Module]:
    return [Module("hub"), *(Module(f"m{i}", depends_on=["hub"]) for i in range(n))]


def fan(n: int) -> list[Module]:
    return [*(Module(f"m{i}") for i in range(n)), Module("hub", depends_on=map_names(n))]


def chain(n: int) -> list[Module]:
    return [Module(f"m{i}", depends_on=[f"m{i - 1}"] if i else []) for i in range(n)]


def map_names(n: int) -> list[str]:
    return [f"m{i}" for i in range(n)]


@pytest.mark.parametrize("graph", [star, fan, chain])
async def test_the_cost_grows_with_modules_and_edges_only(
    autojump_clock: MockClock, graph: Callable[[int], list[Module]]
) -> None:
    """five times the modules take at most some five times the calls."""
    small, big = await calls_made(graph(60)), await calls_made(graph(300))
    assert big < 6 * small


async def test_a_long_chain_does_not_end_in_a_recursion(autojump_clock: MockClock) -> None:
    """a chain far longer than the interpreter's recursion limit starts, falls and stops."""
    modules = chain(sys.getrecursionlimit() + 200)
    modules[0] = Module("m0", restart=FOREVER)
    async with App(*modules):
        assert modules[-1].online
        modules[0].nursery.start_soon(raising(ValueError("bad")))
        await modules[-1].wait_status(OFFLINE)
        await modules[-1].wait_online()


async def test_each_module_is_a_task_under_one_root_inside_the_block() -> None:
    """a module's task owns its nursery and lives in the root nursery, below the block's task."""
    a, b = Module("a"), Module("b", depends_on=["a"])
    async with App(a, b):
        tasks = [module.nursery.parent_task for module in (a, b)]
        root = tasks[0].parent_nursery
        assert (tasks[0] is tasks[1], tasks[1].parent_nursery is root) == (False, True)
        task = tasks[0]
        while task is not trio.lowlevel.current_task():
            assert task.parent_nursery is not None
            task = task.parent_nursery.parent_task


async def test_the_steps_of_the_life_are_checkpoints() -> None:
    """entering and leaving yield and can be cancelled, even with nothing to do."""
    async with AsyncExitStack() as stack:
        with assert_checkpoints():
            await stack.enter_async_context(App())
        with assert_checkpoints():
            await stack.aclose()


async def test_the_other_async_methods_are_checkpoints_too() -> None:
    """managing and restarting yield when there is nothing to do."""
    db = Module("db")
    async with App(db) as app:
        with assert_checkpoints():
            await app.manage()
        with assert_checkpoints():
            await app.add()
        with assert_checkpoints():
            await app.restart(db)
        with assert_checkpoints():
            await app.remove(db)


async def test_shutdown_is_a_checkpoint_when_all_is_stopped() -> None:
    """a second shutdown() in the block's own task yields and returns."""
    async with App() as app:
        await app.shutdown()
        with assert_checkpoints():
            await app.shutdown()


# --- entering again ----------------------------------------------------------------------------


async def test_an_app_may_be_entered_again(autojump_clock: MockClock) -> None:
    """everything runs again, prep included."""
    trace = Trace()
    app = App(trace.module("db"), prep=trace.step("app.prep"))
    for _ in range(2):
        async with app:
            assert app["db"].online
    assert trace.names == ["app.prep", "db.prep", "db.start", "db.stop"] * 2


@pytest.mark.parametrize("error", [StartError, CleanExit])
async def test_an_app_may_be_entered_after_a_failed_start(
    autojump_clock: MockClock, error: type[Exception]
) -> None:
    """a run that ended badly leaves nothing behind that hinders the next one."""
    db, faults = Module("db"), [CleanExit() if error is CleanExit else ValueError("bad")]

    @(db.on_prep if error is CleanExit else db.on_start)
    async def fails_once() -> None:
        if faults:
            raise faults.pop()

    app = App(db)
    with nullcontext() if error is CleanExit else pytest.raises(StartError):
        async with app:
            await trio.sleep(1)
    async with app:
        await trio.sleep(1)
        assert db.online


async def test_an_app_is_not_entered_while_it_runs() -> None:
    """a second entry is refused and disturbs nothing."""
    app = App(Module("db"))
    async with app:
        with pytest.raises(RuntimeError, match="'app'"):
            async with app:
                raise AssertionError("the body must not run")
        await trio.lowlevel.checkpoint()
        assert app["db"].online


async def test_a_module_serves_one_running_app_at_a_time() -> None:
    """a second app with the same module is refused while the first one runs, then not."""
    db = Module("db")
    async with App(db, name="first"):
        with pytest.raises(RuntimeError, match="'db'"):
            async with App(db, name="second"):
                raise AssertionError("the body must not run")
        assert db.online
    async with App(db, name="second"):
        assert db.online


async def test_a_run_starts_afresh(autojump_clock: MockClock) -> None:
    """exit code, reason, reports and counters of the run before are gone."""
    db = Module("db")
    app = App(db)

    def remembered() -> list[object]:
        counts = app.status().modules["db"].work
        return [app.exit_code, app.shutdown_reason, app.last_error, counts.started]

    async with app:
        fresh = remembered()
        db.start_worker(raising(ValueError("bad")))
        await trio.sleep(1)
        app.request_shutdown("enough", exit_code=3)
        assert remembered()[:2] == [3, "enough"]
        assert app.last_error is not None
    assert app.exit_code == 3
    async with app:
        assert remembered() == fresh
    assert app.exit_code is None


async def test_the_apps_events_belong_to_one_run() -> None:
    """started and shutting_down read while offline are those of the next run."""
    app = App()
    started, shutting_down = app.started, app.shutting_down
    async with app:
        assert (app.started is started, started.is_set()) == (True, True)
        assert (app.shutting_down is shutting_down, shutting_down.is_set()) == (True, False)
    assert shutting_down.is_set()
    assert (app.started is started, app.started.is_set()) == (False, False)
    assert (app.shutting_down is shutting_down, app.shutting_down.is_set()) == (False, False)
    assert isinstance(app.started, trio.Event)
    assert isinstance(app.shutting_down, trio.Event)


async def test_started_is_set_when_every_module_is_online(autojump_clock: MockClock) -> None:
    """not while one of them is still starting."""
    trace, flags = Trace(), list[bool]()
    db, web = trace.module("db", start=1), trace.module("web", "db")
    app = App(db, web)

    async def start() -> None:
        flags.append(app.started.is_set())

    web.on_start(start)
    async with app:
        flags.append(app.started.is_set())
    assert flags == [False, True]


# --- one order for every cause -----------------------------------------------------------------


class Service:
    """Two modules, one upon the other, and a body: what each cause of a shutdown finds."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.db = self.trace.module("db", stop=1)
        self.web = self.trace.module("web", "db", stop=1)
        self.app = App(self.db, self.web)

    async def run(self, cause: Callable[[Service], Awaitable[None]], late: BaseException) -> None:
        """Run the app until the cause ends it; the body raises an exception on its way out."""
        async with self.app:
            await cause(self)
            await raise_when_cancelled(late)

    async def body(self, cause: Callable[[Service], Awaitable[None]]) -> None:
        await cause(self)
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(1)
            self.trace.add("body ended")


async def by_return(service: Service) -> None:
    pass


async def by_request(service: Service) -> None:
    service.app.request_shutdown("enough")


async def by_request_of_a_module(service: Service) -> None:
    async def request() -> None:
        service.app.request_shutdown("enough")

    service.web.start_worker(request)


async def by_shutdown_of_a_module(service: Service) -> None:
    service.web.start_worker(service.app.shutdown)


async def by_crash(service: Service) -> None:
    service.db.nursery.start_soon(raising(ValueError("bad")))


async def by_keyboard_interrupt(service: Service) -> None:
    service.web.start_worker(raising(KeyboardInterrupt()))


@pytest.mark.parametrize(
    ("cause", "leaves"),
    [
        (by_request, None),
        (by_request_of_a_module, None),
        (by_shutdown_of_a_module, None),
        (by_crash, ModuleCrashed),
        (by_keyboard_interrupt, KeyboardInterrupt),
    ],
)
async def test_every_cause_stops_in_one_order(
    autojump_clock: MockClock,
    cause: Callable[[Service], Awaitable[None]],
    leaves: type[BaseException] | None,
) -> None:
    """the body is cancelled and awaited, then the modules stop, dependents first."""
    service, error = Service(), None
    before = tasks_living()
    try:
        async with service.app:
            await service.body(cause)
    except BaseException as exc:
        error = type(exc)
    assert error is leaves
    if cause is by_crash:  # a crashed module doesn't stay up for the body
        assert service.trace.only(".stop") == ["web.stop", "db.stop"]
    else:
        assert service.trace.names[-3:] == ["body ended", "web.stop", "db.stop"]
        assert trio.current_time() == 3
    assert tasks_living() == before


async def test_what_did_not_crash_waits_for_the_body(autojump_clock: MockClock) -> None:
    """a crash beyond the budget takes down its module at once, the others after the body."""
    service = Service()
    apart = service.app.register(service.trace.module("apart"))
    with pytest.raises(ModuleCrashed):
        async with service.app:
            await service.body(by_crash)
    assert service.trace.names.index("apart.stop") > service.trace.names.index("body ended")
    assert apart.status is OFFLINE


async def test_a_crash_beyond_the_budget_that_comes_late(autojump_clock: MockClock) -> None:
    """the body's exception has begun the shutdown: the crash is reported, and named in a note."""
    service = Service()
    error, crash = ValueError("bad"), ValueError("crash")

    async def body() -> None:
        service.db.nursery.start_soon(raising(crash, 1))
        service.app.request_shutdown("enough")
        await stubborn(5)
        raise error

    async with service.app.reports() as channel:
        with pytest.raises(ValueError, match="bad") as caught:
            async with service.app:
                await body()
        reports = await drain(channel)
    assert caught.value is error
    assert [leaves_of(report.exception) for report in reports] == [[crash]]
    assert "ModuleCrashed: module 'db' crashed beyond its budget" in notes_of(error)


async def test_the_end_of_the_body_stops_in_order(autojump_clock: MockClock) -> None:
    """leaving the block stops everything and leaves no task behind."""
    service, before = Service(), tasks_living()
    async with service.app:
        pass
    assert service.trace.only(".stop") == ["web.stop", "db.stop"]
    assert (trio.current_time(), tasks_living()) == (2, before)


async def test_an_exception_in_the_body_stops_in_order(autojump_clock: MockClock) -> None:
    """it leaves the block as it is, after everything stopped."""
    service, error = Service(), ValueError("bad")
    before = tasks_living()
    with pytest.raises(ValueError, match="bad") as caught:
        async with service.app:
            raise error
    assert caught.value is error
    assert "bad" in (service.app.shutdown_reason or "")
    assert service.trace.only(".stop") == ["web.stop", "db.stop"]
    assert (trio.current_time(), tasks_living()) == (2, before)


async def test_an_outer_cancellation_stops_in_order(autojump_clock: MockClock) -> None:
    """it begins the shutdown; modules stop shielded from it; the Cancelled leaves in the end."""
    service, before = Service(), tasks_living()
    with trio.move_on_after(5) as scope:
        async with service.app:
            await service.body(by_return)
    assert scope.cancelled_caught
    assert service.trace.names[-3:] == ["body ended", "web.stop", "db.stop"]
    assert (trio.current_time(), tasks_living()) == (8, before)


async def test_an_outer_cancellation_while_stopping_disturbs_nothing(
    autojump_clock: MockClock,
) -> None:
    """stop functions that run when the scope around the block is cancelled run to their end."""
    service = Service()
    with trio.move_on_after(1.5) as scope:
        async with service.app:
            pass
    assert service.trace.only(".stop", ".stop!") == ["web.stop", "db.stop"]
    assert scope.cancelled_caught


async def test_an_outer_cancellation_after_the_shutdown_began_by_itself(
    autojump_clock: MockClock,
) -> None:
    """what began the shutdown wins against the Cancelled, which leaves last of all."""
    service = Service()
    with pytest.raises(ValueError, match="bad"), trio.move_on_after(1.5):
        async with service.app:
            raise ValueError("bad")


async def test_a_body_that_swallows_its_cancellation_ends_quietly(
    autojump_clock: MockClock,
) -> None:
    """a body that ends by itself after a request lets the modules stop then."""
    service = Service()
    async with service.app:
        service.app.request_shutdown()
        await stubborn(30)
        assert statuses(service.app) == {"db": ONLINE, "web": ONLINE}
    assert service.trace.at("web.stop") == 31


async def test_the_body_is_awaited_for_the_stop_timeout_at_most(autojump_clock: MockClock) -> None:
    """a body that goes on for too long sees the modules stop around it."""
    trace = Trace()
    app = App(trace.module("db"), stop_timeout=20)
    async with app:
        app.request_shutdown()
        await stubborn(50)
        trace.add("body ended")
    assert (trace.at("db.stop"), trace.at("body ended")) == (20, 50)


@pytest.mark.parametrize("how", ["request", "outer", "shutdown"])
async def test_a_shutdown_does_not_wait_for_a_start(autojump_clock: MockClock, how: str) -> None:
    """what is starting is cancelled, what had started is stopped, the rest never begins."""
    trace = Trace()
    db, web = trace.module("db"), trace.module("web", "db", start=1000)
    app = App(db, web, trace.module("top", "web"))

    async def later() -> None:
        await trio.sleep(10)
        if how == "request":
            app.request_shutdown("enough")
        elif how == "shutdown":
            await app.shutdown()
        else:
            scope.cancel()

    db.worker(later)
    with trio.CancelScope() as scope:
        async with app:
            assert not app.started.is_set()
            await trio.lowlevel.checkpoint()
            trace.add("body went on")
    assert trace.names[3:] == ["db.start", "web.start!", "db.stop"]
    assert trio.current_time() == 10
    assert scope.cancelled_caught == (how == "outer")


async def test_a_shutdown_does_not_wait_for_a_prep(autojump_clock: MockClock) -> None:
    """what is preparing is cancelled, and nothing is started."""
    trace = Trace()
    app = App(Module("db", prep=trace.step("db.prep", 1000)), trace.module("web"))

    async def later() -> None:
        await trio.sleep(10)
        app.request_shutdown("enough")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        async with app:
            await trio.sleep(1)
    assert "db.prep!" in trace.names
    assert trace.only(".start", ".stop") == []
    assert trio.current_time() == 10


async def test_an_outer_cancellation_does_not_wait_for_a_prep(autojump_clock: MockClock) -> None:
    """the prep is cancelled, nothing is started, and the scope around the block catches it."""
    trace = Trace()
    with trio.move_on_after(10) as scope:
        async with App(Module("db", prep=trace.step("db.prep", 1000)), trace.module("web")):
            await trio.sleep(1)
    assert trace.only(".prep!", ".start") == ["db.prep!"]
    assert (scope.cancelled_caught, trio.current_time()) == (True, 10)


async def test_nothing_runs_in_a_scope_that_is_cancelled_already(
    autojump_clock: MockClock,
) -> None:
    """entering is cancelled before the first prep; the app may be entered later."""
    trace = Trace()
    app = App(trace.module("db"))
    with trio.CancelScope() as scope:
        scope.cancel()
        async with app:
            trace.add("body")
    assert (scope.cancelled_caught, trace.names) == (True, [])
    async with app:
        assert app["db"].online


async def test_a_start_that_swallows_its_cancellation_comes_to_nothing(
    autojump_clock: MockClock,
) -> None:
    """the module never is online; its start functions all returned, so it is stopped in full."""
    trace = Trace()
    db, base = trace.module("db"), Module("base")
    app = App(db, base)

    @db.on_start
    async def start() -> None:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()

    @base.worker
    async def request() -> None:
        await trio.sleep(1)
        app.request_shutdown()

    with watching(lambda: "online" if db.online else None) as faults:
        async with app:
            await trio.lowlevel.checkpoint()
    assert faults == []
    assert trace.names == ["db.prep", "db.start", "db.stop"]


async def test_shutting_down_is_set_with_the_reason(autojump_clock: MockClock) -> None:
    """the first request's reason counts; later ones change nothing but the exit code."""
    app = App(Module("db"))
    async with app:
        assert not app.shutting_down.is_set()
        app.request_shutdown("first")
        app.request_shutdown("second", exit_code=4)
        assert app.shutting_down.is_set()
        assert app.shutdown_reason == "first"
    assert app.exit_code == 4


async def test_every_cause_sets_shutting_down_before_modules_stop(
    autojump_clock: MockClock,
) -> None:
    """the end of the body is a cause like any other, and has a reason."""
    db, seen = Module("db"), list[object]()
    app = App(db)

    async def stop() -> None:
        seen.extend([app.shutting_down.is_set(), bool(app.shutdown_reason)])

    db.on_stop(stop)
    async with app:
        pass
    assert seen == [True, True]


async def test_a_request_may_come_from_a_thread() -> None:
    """request_shutdown is sync and reached through trio.from_thread."""
    async with App() as app:
        await trio.to_thread.run_sync(
            lambda: trio.from_thread.run_sync(app.request_shutdown, "from a thread")
        )
        assert app.shutdown_reason == "from a thread"


# --- await app.shutdown() ----------------------------------------------------------------------


async def test_shutdown_in_the_blocks_task_waits_for_the_end(autojump_clock: MockClock) -> None:
    """it returns when all is stopped, and the body goes on."""
    service = Service()
    async with service.app:
        await service.app.shutdown()
        assert statuses(service.app) == {"db": OFFLINE, "web": OFFLINE}
        assert trio.current_time() == 2
        await trio.sleep(5)
        service.trace.add("body went on")
    assert service.trace.names[-3:] == ["web.stop", "db.stop", "body went on"]


async def test_a_cancelled_shutdown_in_the_blocks_task(autojump_clock: MockClock) -> None:
    """only the wait ends: the shutdown goes on, and the body is cancelled like any other."""
    service = Service()
    async with service.app:
        with trio.move_on_after(0.5):
            await service.app.shutdown()
        await trio.sleep(5)
        raise AssertionError("the body has been cancelled")
    assert trio.current_time() == 2
    assert service.trace.only(".stop") == ["web.stop", "db.stop"]


async def test_shutdown_takes_a_reason_and_an_exit_code() -> None:
    """both are kept like those of request_shutdown."""
    async with App() as app:
        await app.shutdown("enough", exit_code=3)
        assert (app.shutdown_reason, app.exit_code) == ("enough", 3)


async def test_shutdown_inside_a_module_ends_by_being_cancelled(autojump_clock: MockClock) -> None:
    """the worker that asked is stopped like all others, with everything in order."""
    service = Service()

    async def ask() -> None:
        try:
            await service.app.shutdown()
        except trio.Cancelled:
            service.trace.add("cancelled")
            raise

    async with service.app:
        service.db.start_worker(ask)
        await trio.sleep_forever()
    assert service.trace.names[-3:] == ["web.stop", "cancelled", "db.stop"]


async def test_shutdown_in_another_task_of_the_body_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    """a nursery of the body ends with the body."""
    service = Service()
    async with service.app:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.app.shutdown)
        raise AssertionError("the body was not cancelled")
    assert service.trace.only(".stop") == ["web.stop", "db.stop"]


async def test_shutdown_elsewhere_waits_for_the_end(autojump_clock: MockClock) -> None:
    """a task outside of the block waits until everything is stopped."""
    service = Service()

    async def elsewhere() -> None:
        await trio.sleep(1)
        await service.app.shutdown()
        service.trace.add("waited")
        assert statuses(service.app) == {"db": OFFLINE, "web": OFFLINE}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(elsewhere)
        async with service.app:
            await trio.sleep_forever()
    assert service.trace.at("waited") == 3


@pytest.mark.parametrize("where", ["stop", "lifespan"])
async def test_shutdown_where_it_would_wait_for_itself(
    autojump_clock: MockClock, where: str
) -> None:
    """in a stop function and the end of a lifespan it raises RuntimeError at once."""
    db, errors = Module("db"), list[RuntimeError]()
    app = App(db)

    async def refused() -> None:
        with pytest.raises(RuntimeError, match="shutdown") as caught:
            await app.shutdown()
        errors.append(caught.value)

    async def lifespan() -> AsyncGenerator[None]:
        yield
        await refused()

    _ = db.on_stop(refused) if where == "stop" else db.lifespan(lifespan)
    async with app:
        pass
    assert len(errors) == 1
    assert trio.current_time() == 0


@pytest.mark.parametrize("where", ["prep", "start", "lifespan"])
async def test_shutdown_on_the_way_up_ends_by_being_cancelled(
    autojump_clock: MockClock, where: str
) -> None:
    """a lifecycle function before ONLINE may ask; the app ends quietly."""
    db, trace = Module("db"), Trace()
    app = App(db)

    async def ask() -> None:
        try:
            await app.shutdown()
        finally:
            trace.add("ended")

    async def lifespan() -> AsyncGenerator[None]:
        await ask()
        yield

    _ = db.lifespan(lifespan) if where == "lifespan" else getattr(db, f"on_{where}")(ask)
    async with app:
        await trio.lowlevel.checkpoint()
        trace.add("body")
    assert trace.names == ["ended"]


# --- a body that can't run ---------------------------------------------------------------------


async def run_body(app: App) -> tuple[list[str], list[bool]]:
    """Enter the app; return which parts of its body ran, and what was online there."""
    parts, online = list[str](), list[bool]()
    async with app:
        parts.append("before the checkpoint")
        online.extend([app.started.is_set(), *(m.online for m in app.modules.values())])
        await trio.lowlevel.checkpoint()
        parts.append("after it")
    return parts, online


@pytest.mark.parametrize("cause", ["clean exit", "command", "shutdown"])
async def test_a_body_that_can_not_run_is_entered_cancelled(
    autojump_clock: MockClock, cause: str
) -> None:
    """it runs to its first checkpoint, app.started unset, no module online."""
    trace = Trace()
    app = App(
        trace.module("db"),
        prep=raising(CleanExit()) if cause == "clean exit" else None,
        command=trace.step("command") if cause == "command" else None,
    )
    if cause == "shutdown":
        app["db"].on_start(requesting(app))
    parts, online = await run_body(app)
    assert parts == ["before the checkpoint"]
    assert online == [False, False]


def requesting(app: App, exit_code: int | None = None) -> Callable[[], Awaitable[None]]:
    async def request() -> None:
        app.request_shutdown(exit_code=exit_code)

    return request


async def test_a_body_that_can_not_run_and_has_no_checkpoint_ends(
    autojump_clock: MockClock,
) -> None:
    """nothing is raised by a block that was cancelled from its beginning."""
    ran = []
    async with App(prep=raising(CleanExit())):
        ran.append("body")
    assert ran == ["body"]


# --- clean exit and command --------------------------------------------------------------------


@pytest.mark.parametrize("where", ["app's prep", "prep", "command"])
async def test_clean_exit_ends_the_block_quietly(autojump_clock: MockClock, where: str) -> None:
    """raised in a prep or by the command nothing is started, reported or raised."""
    trace, done = Trace(), raising(CleanExit())
    app = App(
        Module("first", prep=done if where == "prep" else None),
        trace.module("db", "first"),
        prep=done if where == "app's prep" else None,
        command=done if where == "command" else None,
    )
    async with app.reports() as channel:
        async with app:
            await trio.sleep(1)
        assert await drain(channel) == []
    assert trace.only(".start", ".stop") == []
    assert app.exit_code is None


async def test_clean_exit_in_a_start_function_is_a_failed_start() -> None:
    """it belongs to what runs before anything is started."""
    with pytest.raises(StartError) as caught:
        async with App(Module("db", start=raising(CleanExit()))):
            raise AssertionError("the body must not run")
    assert isinstance(caught.value.__cause__, CleanExit)


async def test_clean_exit_in_the_body_is_an_exception_like_any_other() -> None:
    """the body's own exception leaves the block."""
    with pytest.raises(CleanExit):
        async with App():
            raise CleanExit


async def test_a_command_runs_after_prep_instead_of_the_start(autojump_clock: MockClock) -> None:
    """no module is started; the command is awaited before the body is entered."""
    trace = Trace()
    app = App(trace.module("db"), prep=trace.step("app.prep"), command=trace.step("command", 5))
    async with app:
        trace.add("body")
    assert trace.names == ["app.prep", "db.prep", "command", "body"]
    assert trace.at("command") == 5


async def test_a_commands_exception_is_raised_by_entering(autojump_clock: MockClock) -> None:
    """it is the command's own exception, and the body never runs."""
    error, trace = ValueError("bad"), Trace()
    with pytest.raises(ValueError, match="bad") as caught:
        async with App(trace.module("db"), command=raising(error)):
            trace.add("body")
    assert caught.value is error
    assert trace.names == ["db.prep"]


async def test_a_shutdown_cancels_the_command(autojump_clock: MockClock) -> None:
    """a request while the command runs ends it and the block."""
    trace = Trace()
    app = App(command=trace.step("command", 100))

    async def later() -> None:
        await trio.sleep(10)
        app.request_shutdown()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        async with app:
            await trio.sleep(1)
    assert trace.entries == [(10, "command!")]


# --- what leaves the block: (a) what is no Exception -------------------------------------------


def service_with(where: str, error: BaseException) -> tuple[App, Trace]:
    """Return an app of web upon db in which the error is raised somewhere in db."""
    trace = Trace()
    fail = raising(error)
    db = trace.module("db", restart=FOREVER)
    app = App(db, trace.module("web", "db"), prep=fail if where == "app's prep" else None)
    if where in {"prep", "start", "stop"}:
        getattr(db, f"on_{where}")(fail)
    elif where in {"worker", "service_worker"}:
        getattr(db, where)(raising(error, 1))
    elif where == "nursery":

        async def start() -> None:
            db.nursery.start_soon(raising(error, 1))

        db.on_start(start)
    elif where.startswith("lifespan"):

        async def lifespan() -> AsyncGenerator[None]:
            if where == "lifespan+":
                raise error
            yield
            if where == "lifespan-":
                raise error

        db.lifespan(lifespan)
    return app, trace


PLACES = ["app's prep", "prep", "start", "lifespan+", "worker", "service_worker", "nursery",
          "stop", "lifespan-"]  # fmt: skip


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Outcome])
@pytest.mark.parametrize("where", PLACES)
async def test_what_is_no_exception_passes_every_guard(
    autojump_clock: MockClock, where: str, kind: type[BaseException]
) -> None:
    """it begins an ordered shutdown, leaves the block bare and is not reported."""
    error, before = kind(), tasks_living()
    app, trace = service_with(where, error)
    async with app.reports() as channel:
        with pytest.raises(kind) as caught:
            async with app:
                await trio.sleep(10)
        assert await drain(channel) == []
    assert caught.value is error
    assert trio.current_time() <= 1 or where in {"stop", "lifespan-"}
    assert set(statuses(app).values()) <= {ModuleStatus.DEAD, OFFLINE}
    started = trace.only(".start")
    assert trace.only(".stop")[:1] == (["web.stop"] if "web.start" in started else [])
    assert tasks_living() == before


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Outcome])
async def test_what_is_no_exception_leaves_the_body(
    autojump_clock: MockClock, kind: type[BaseException]
) -> None:
    """raised in the body it leaves after everything stopped in order."""
    error, service = kind(), Service()
    with pytest.raises(kind) as caught:
        async with service.app:
            raise error
    assert caught.value is error
    assert service.trace.only(".stop", ".stop!") == ["web.stop", "db.stop"]


async def test_what_is_no_exception_leaves_the_command() -> None:
    """raised by the command it leaves bare."""
    with pytest.raises(SystemExit):
        async with App(command=raising(SystemExit(3))):
            raise AssertionError("the body must not run")


@pytest.mark.parametrize("where", ["start", "worker", "nursery", "stop"])
async def test_groups_are_split(autojump_clock: MockClock, where: str) -> None:
    """of a group the KeyboardInterrupt leaves bare, the rest is an ordinary failure."""
    interrupt, error = KeyboardInterrupt(), ValueError("bad")
    app, _ = service_with(where, BaseExceptionGroup("both", [interrupt, error]))
    async with app.reports() as channel:
        with pytest.raises(KeyboardInterrupt) as caught:
            async with app:
                await trio.sleep(10)
        reports = await drain(channel)
    assert caught.value is interrupt
    assert len([r for r in reports if error in list(leaves_of(r.exception))]) == 1


def leaves_of(error: BaseException | None) -> list[BaseException]:
    """Return an exception, or those in a group, or those behind an error of ours."""
    if error is None:
        return []
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves_of(inner)]
    return [error, *leaves_of(error.__cause__)]


async def test_two_that_are_no_exceptions_leave_in_a_group(autojump_clock: MockClock) -> None:
    """none of them is lost."""
    first, second = KeyboardInterrupt(), SystemExit(1)
    app, _ = service_with("worker", first)
    app["web"].on_stop(raising(second))
    with pytest.raises(BaseExceptionGroup) as caught:
        async with app:
            await trio.sleep(10)
    assert set(caught.value.exceptions) == {first, second}


async def test_one_that_comes_while_stopping_cuts_all_times_to_zero(
    autojump_clock: MockClock,
) -> None:
    """graces and stop times end at once, the order stays."""
    trace = Trace()
    top, db = trace.module("top", "web"), trace.module("db", stop=30)
    web = trace.module("web", "db", stop=30)
    top.on_stop(raising(KeyboardInterrupt(), 1))
    for module in (web, db):
        module.worker(trace.step(f"{module.name}.worker", 1000), grace_period=40)
    with pytest.raises(KeyboardInterrupt):
        async with App(db, web, top):
            await trio.sleep(5)
    assert trace.entries[-5:] == [
        (6, "top.stop!"),
        (6, "web.worker!"),
        (6, "web.stop!"),
        (6, "db.worker!"),
        (6, "db.stop!"),
    ]


async def test_what_is_no_exception_wins_against_what_began_the_shutdown(
    autojump_clock: MockClock,
) -> None:
    """the exception that loses is reported, and named in a note on the winner."""
    app, _ = service_with("stop", KeyboardInterrupt())
    error = ValueError("the disk is full")
    async with app.reports() as channel:
        with pytest.raises(KeyboardInterrupt) as caught:
            async with app:
                raise error
        reports = await drain(channel)
    assert [report.exception for report in reports] == [error]
    assert "the disk is full" in notes_of(caught.value)


async def test_a_group_of_the_body_is_split_too(autojump_clock: MockClock) -> None:
    """the KeyboardInterrupt leaves bare; the rest is reported and named in a note."""
    interrupt, error = KeyboardInterrupt(), ValueError("the disk is full")
    app = App(Module("db"))
    async with app.reports() as channel:
        with pytest.raises(KeyboardInterrupt) as caught:
            async with app:
                raise BaseExceptionGroup("both", [interrupt, error])
        reports = await drain(channel)
    assert caught.value is interrupt
    assert [leaves_of(report.exception) for report in reports] == [[error]]
    assert "the disk is full" in notes_of(caught.value)


async def test_what_is_no_exception_leaves_the_cancelled_body(autojump_clock: MockClock) -> None:
    """raised by the body on its way out it wins like everywhere else."""
    service = Service()
    with pytest.raises(KeyboardInterrupt):
        await service.run(by_crash, KeyboardInterrupt())


# --- what leaves the block: (b) what began the shutdown ----------------------------------------


async def test_a_failed_start_is_raised_by_entering(autojump_clock: MockClock) -> None:
    """StartError names module and stage, has the cause, and the body never runs."""
    error = ValueError("bad")
    app, trace = service_with("start", error)
    async with app.reports() as channel:
        with pytest.raises(StartError) as caught:
            async with app:
                trace.add("body")
        assert await drain(channel) == []
    assert (caught.value.module, caught.value.stage) == ("db", "start")
    assert caught.value.__cause__ is error
    assert "body" not in trace.names


@pytest.mark.parametrize(("where", "module"), [("app's prep", None), ("prep", "db")])
async def test_a_failed_prep_is_raised_by_entering(
    autojump_clock: MockClock, where: str, module: str | None
) -> None:
    """the stage is prep; the module of the app's own prep is None; nothing is started."""
    error = ValueError("bad")
    app, trace = service_with(where, error)
    with pytest.raises(StartError) as caught:
        async with app:
            trace.add("body")
    assert (caught.value.module, caught.value.stage) == (module, "prep")
    assert caught.value.__cause__ is error
    assert trace.only(".start", ".stop", "body") == []
    assert set(statuses(app).values()) == {ModuleStatus.DEAD}


class Unshowable(Exception):
    """An exception whose own code fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no way to show it")

    __str__ = __repr__


@pytest.mark.parametrize("where", ["app's prep", "prep", "start", "lifespan+", "stop", "lifespan-"])
async def test_an_exception_that_can_not_be_shown_breaks_nothing(
    autojump_clock: MockClock, where: str
) -> None:
    """it leaves like any other, and the messages say of what class it is."""
    error = Unshowable()
    app, _ = service_with(where, error)
    with pytest.raises((StartError, ShutdownError)) as caught:
        async with app:
            await trio.sleep(10)
    (leaving,) = getattr(caught.value, "exceptions", (caught.value,))
    assert leaving.__cause__ is error
    assert "<Unshowable, which can't be shown>" in str(leaving)
    assert set(statuses(app).values()) <= {ModuleStatus.DEAD, OFFLINE}


async def test_a_crash_that_can_not_be_shown_breaks_nothing(autojump_clock: MockClock) -> None:
    """beyond the budget it is the cause of what leaves."""
    error = Unshowable()
    db = Module("db", restart=Restart(max_restarts=0))
    db.service_worker(raising(error), restart=Restart(max_restarts=0))
    with pytest.raises(ModuleCrashed, match="<Unshowable, which can't be shown>") as caught:
        async with App(db):
            await trio.sleep(10)
    assert caught.value.__cause__ is error


async def test_an_exception_that_is_long_to_show_is_cut_in_messages(
    autojump_clock: MockClock,
) -> None:
    """a group may hold ten thousand: all of them are in the error, its beginning in the text."""
    error = ExceptionGroup("many", [ValueError(f"number {number}") for number in range(10_000)])
    db = Module("db")
    db.on_stop(raising(error))
    with pytest.raises(ShutdownError) as caught:
        async with App(db):
            await trio.sleep(1)
    (leaving,) = caught.value.exceptions
    assert leaving.__cause__ is error
    assert "number 9" in str(leaving)
    assert f"... ({len(repr(error)):,} characters)" in str(leaving)
    assert len(str(leaving)) < 2_100


async def test_two_failed_preps_lose_no_error(autojump_clock: MockClock) -> None:
    """the first is raised, what the other one raised on being cancelled is reported and noted."""
    other = Module("other")

    @other.on_prep
    async def prep() -> None:
        await raise_when_cancelled(KeyError("second"))

    app = App(Module("db", prep=raising(ValueError("first"), 1)), other)
    async with app.reports() as channel:
        with pytest.raises(StartError) as caught:
            async with app:
                raise AssertionError("the body must not run")
        reports = await drain(channel)
    assert (caught.value.module, caught.value.stage) == ("db", "prep")
    assert ["second" in "".join(map(str, leaves_of(r.exception))) for r in reports] == [True]
    assert "second" in notes_of(caught.value)


async def test_a_crash_beyond_the_budget_leaves_unwrapped(autojump_clock: MockClock) -> None:
    """ModuleCrashed names the module and has the last crash as its cause."""
    service = Service()
    with pytest.raises(ModuleCrashed) as caught:
        async with service.app:
            await service.body(by_crash)
    assert caught.value.module == "db"
    assert "bad" in map(str, leaves_of(caught.value.__cause__))


async def test_the_first_cause_wins(autojump_clock: MockClock) -> None:
    """the body's exception began the shutdown: what a stop function raises is reported, noted."""
    service, late = Service(), KeyError("late")
    service.db.on_stop(raising(late))
    async with service.app.reports() as channel:
        with pytest.raises(ValueError, match="first") as caught:
            async with service.app:
                raise ValueError("first")
        reports = await drain(channel)
    assert [report.module for report in reports if late in leaves_of(report.exception)] == ["db"]
    assert "late" in notes_of(caught.value)


async def test_a_crash_wins_against_the_body_that_it_ended(autojump_clock: MockClock) -> None:
    """an exception that the body raises on being cancelled is reported, and named in a note."""
    service, late = Service(), KeyError("late")
    async with service.app.reports() as channel:
        with pytest.raises(ModuleCrashed) as caught:
            await service.run(by_crash, late)
        reports = await drain(channel)
    assert sum(late in leaves_of(report.exception) for report in reports) == 1
    assert "late" in notes_of(caught.value)


async def raise_when_cancelled(error: BaseException) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise error


async def test_a_group_of_the_body_leaves_as_it_is(autojump_clock: MockClock) -> None:
    """what the body's own nursery raised is the body's exception, not unwrapped."""
    error = ValueError("bad")
    with pytest.raises(ExceptionGroup) as caught:
        async with App(), trio.open_nursery() as nursery:
            nursery.start_soon(raising(error))
    assert caught.value.exceptions == (error,)


async def test_two_failed_starts_lose_no_error(autojump_clock: MockClock) -> None:
    """the first is raised, the second reported and named in a note."""
    a = Module("a", start=raising(ValueError("first"), 1))
    b = Module("b")

    @b.on_start
    async def start() -> None:
        await raise_when_cancelled(KeyError("second"))

    app = App(a, b)
    async with app.reports() as channel:
        with pytest.raises(StartError) as caught:
            async with app:
                raise AssertionError("the body must not run")
        reports = await drain(channel)
    assert caught.value.module == "a"
    assert len(reports) == 1
    assert "second" in str(reports[0].exception) or "second" in reports[0].traceback
    assert "second" in notes_of(caught.value)


# --- what leaves the block: (c), (d), (e) ------------------------------------------------------


async def test_an_exception_of_the_cancelled_body_leaves(autojump_clock: MockClock) -> None:
    """after a plain request it is what leaves, unwrapped, not reported."""
    service, error = Service(), KeyError("late")
    async with service.app.reports() as channel:
        with pytest.raises(KeyError) as caught:
            await service.run(by_request, error)
        assert await drain(channel) == []
    assert caught.value is error


async def test_it_wins_against_a_failed_stop(autojump_clock: MockClock) -> None:
    """the StopError is reported and named in a note."""
    service, late = Service(), ValueError("late")
    service.web.on_stop(raising(late))
    async with service.app.reports() as channel:
        with pytest.raises(KeyError) as caught:
            await service.run(by_request, KeyError("body"))
        reports = await drain(channel)
    assert sum(late in leaves_of(report.exception) for report in reports) == 1
    assert "late" in notes_of(caught.value)


async def test_failed_stops_leave_as_one_group(autojump_clock: MockClock) -> None:
    """ShutdownError has a StopError of each module, with its module, exceptions and cause."""
    service, errors = Service(), [ValueError("db's"), KeyError("web's")]
    service.db.on_stop(raising(errors[0]))
    service.web.on_stop(raising(errors[1]))
    with pytest.raises(ShutdownError) as caught:
        async with service.app:
            pass
    found = {
        error.module: error for error in caught.value.exceptions if isinstance(error, StopError)
    }
    assert {name: error.exceptions for name, error in found.items()} == {
        "db": (errors[0],),
        "web": (errors[1],),
    }
    assert found["db"].__cause__ is errors[0]
    assert service.trace.only(".stop") == ["web.stop", "db.stop"]


async def test_a_failed_stop_wins_against_an_outer_cancellation(
    autojump_clock: MockClock,
) -> None:
    """the Cancelled is the last of all."""
    service = Service()
    service.db.on_stop(raising(ValueError("bad")))
    with pytest.raises(ShutdownError), trio.move_on_after(1):
        async with service.app:
            await trio.sleep_forever()


async def test_a_cancelled_in_the_bodys_group_is_not_kept(autojump_clock: MockClock) -> None:
    """of what the cancelled body raises the genuine Cancelled goes to its scope."""
    service, error = Service(), KeyError("late")

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raise_when_cancelled, error)
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep(1)
            service.app.request_shutdown()

    with pytest.raises(ExceptionGroup) as caught:
        async with service.app:
            await body()
    assert leaves_of(caught.value) == [error]


async def test_an_outer_cancelled_reaches_the_scope_around_the_block(
    autojump_clock: MockClock,
) -> None:
    """a scope outside of the body's own nurseries catches what it cancelled, nothing else."""
    with trio.move_on_after(1) as outer:
        async with App(Module("db")), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
    assert outer.cancelled_caught


async def test_a_scope_of_the_bodys_own_is_the_bodys_business(autojump_clock: MockClock) -> None:
    """cancelling inside of the body begins no shutdown."""
    service = Service()
    async with service.app:
        with trio.move_on_after(1):
            await trio.sleep_forever()
        assert not service.app.shutting_down.is_set()
        assert service.web.online


# --- Cancelled that is none of the scopes around ------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("where", ["app's prep", "prep", "start", "lifespan+"])
async def test_a_stray_cancelled_is_a_failed_start(
    autojump_clock: MockClock, where: str, grouped: bool
) -> None:
    """a Cancelled of some other scope, bare or in a group, ends nothing silently."""
    stray: BaseException = await stray_cancelled()
    error = BaseExceptionGroup("group", [stray]) if grouped else stray
    app, trace = service_with(where, error)
    with pytest.raises(StartError) as caught:
        async with app:
            trace.add("body")
    assert stray in leaves_of(caught.value.__cause__)
    assert "body" not in trace.names


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("where", ["stop", "lifespan-"])
async def test_a_stray_cancelled_is_a_failed_stop(
    autojump_clock: MockClock, where: str, grouped: bool
) -> None:
    """it is kept as a StopError like any other exception."""
    stray: BaseException = await stray_cancelled()
    error = BaseExceptionGroup("group", [stray]) if grouped else stray
    app, _ = service_with(where, error)
    with pytest.raises(ShutdownError) as caught:
        async with app:
            await trio.sleep(1)
    (stop_error,) = caught.value.exceptions
    assert isinstance(stop_error, StopError)
    assert stray in [leaf for exc in stop_error.exceptions for leaf in leaves_of(exc)]


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_stray_cancelled_crashes_the_module(
    autojump_clock: MockClock, grouped: bool
) -> None:
    """one that escapes the module's nursery is a crash like any other exception."""
    stray: BaseException = await stray_cancelled()
    app, _ = service_with("nursery", BaseExceptionGroup("group", [stray]) if grouped else stray)
    async with app.reports() as channel:
        async with app:
            await trio.sleep(1.5)
            assert set(app["db"].failures) == {"db:crashed"}
            await trio.sleep(1.7)
            assert app["db"].online
        reports = await drain(channel)
    assert len(reports) == 1  # the nursery took the Cancelled for its own, so it isn't there


async def test_a_stray_cancelled_leaves_the_command(autojump_clock: MockClock) -> None:
    """raised by the command it is the command's own exception."""
    stray = await stray_cancelled()
    with pytest.raises(trio.Cancelled) as caught:
        async with App(command=raising(stray)):
            raise AssertionError("the body must not run")
    assert caught.value is stray


async def test_a_stray_cancelled_leaves_the_body(autojump_clock: MockClock) -> None:
    """it is the body's own exception; no scope takes it for its own."""
    stray = await stray_cancelled()
    with pytest.raises(trio.Cancelled) as caught:
        async with App(Module("db")):
            raise stray
    assert caught.value is stray


async def test_genuine_cancellations_are_not_reported(autojump_clock: MockClock) -> None:
    """a whole life with cancelled starts, workers and children reports nothing."""
    db, web = Module("db"), Module("web", depends_on=["db"], start=trio.sleep_forever)
    app = App(db, web)
    for declare in (db.worker, db.service_worker):
        declare(trio.sleep_forever)

    async def request() -> None:
        db.nursery.start_soon(trio.sleep_forever)
        await trio.sleep(1)
        app.request_shutdown()

    db.worker(request)
    async with app.reports() as channel:
        async with app:
            await trio.sleep(1)
        assert await drain(channel) == []


# --- exit codes of serve -----------------------------------------------------------------------


async def exit_code_of(app: App | Callable[[], App]) -> int:
    return await serve(app, signals=False)


def ending(app: App) -> App:
    """Let the app ask for its own shutdown one second after its start."""

    async def end() -> None:
        await trio.sleep(1)
        app.request_shutdown()

    app.register(Module("end")).worker(end)
    return app


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: ending(App()), 0),
        (lambda: App(prep=raising(CleanExit())), 0),
        (lambda: App(command=raising(CleanExit())), 0),
        (lambda: App(command=trio.lowlevel.checkpoint), 0),
        (lambda: App(command=raising(ValueError("bad"))), 1),
        (lambda: App(command=raising(SystemExit(7))), 7),
        (lambda: App(command=raising(SystemExit())), 0),
        (lambda: App(command=raising(SystemExit("text"))), 1),
        (lambda: App(prep=raising(ValueError("bad"))), 1),
        (lambda: App(Module("db", start=raising(ValueError("bad")))), 1),
        (lambda: service_with("worker", SystemExit(5))[0], 5),
        (lambda: ending(App(Module("db", stop=raising(ValueError("bad"))))), 1),
        (lambda: crashing(App(Module("db", restart=ONE_SHOT))), 1),
    ],
)
async def test_serve_returns_the_exit_code(
    autojump_clock: MockClock, make: Callable[[], App], code: int
) -> None:
    """0 for a quiet end, SystemExit's own, 1 after a failure of any kind; also for a factory."""
    assert await exit_code_of(make()) == code
    assert await exit_code_of(make) == code


def crashing(app: App) -> App:
    async def start() -> None:
        app["db"].nursery.start_soon(raising(ValueError("bad"), 1))

    app["db"].on_start(start)
    return app


async def test_an_exit_code_that_was_set_counts(autojump_clock: MockClock) -> None:
    """app.exit_code goes before what the end of the run would say, set in either way."""
    app = ending(App(Module("db", stop=raising(ValueError("bad")))))

    @app["db"].worker
    async def set_code() -> None:
        app.exit_code = 9

    assert await exit_code_of(app) == 9
    app = App(command=raising(ValueError("bad")))
    app.register(Module("db", prep=requesting(app, exit_code=8)))
    assert await exit_code_of(app) == 8


# --- time and chance ---------------------------------------------------------------------------

EPOCH = datetime(2030, 1, 2, 3, 4, tzinfo=timezone.utc)


async def test_wall_time_starts_at_the_epoch_and_follows_trios_clock(
    autojump_clock: MockClock,
) -> None:
    """under a mock clock app.now() is virtual, aware and in UTC."""
    await trio.sleep(1000)
    local = EPOCH.astimezone(timezone(timedelta(hours=5)))
    async with App(epoch=local) as app:
        assert (app.now(), app.now().utcoffset()) == (EPOCH, timedelta(0))
        await trio.sleep(90)
        assert app.now() == EPOCH + timedelta(seconds=90)


async def test_without_an_epoch_wall_time_starts_at_the_entry(autojump_clock: MockClock) -> None:
    """the real time of entry, then virtual seconds."""
    before = datetime.now(timezone.utc)
    async with App() as app:
        entered = app.now()
        assert before <= entered <= datetime.now(timezone.utc)
        await trio.sleep(86400)
        passed = app.now() - entered
        assert abs(passed - timedelta(days=1)) < timedelta(milliseconds=1)


async def test_under_trios_own_clock_wall_time_is_real() -> None:
    """without a mock clock app.now() is the computer's time."""
    async with App() as app:
        before = datetime.now(timezone.utc)
        assert before <= app.now() <= datetime.now(timezone.utc)


class Dice(random.Random):
    """A source of chance that always gives the same number, and counts."""

    thrown = 0

    def random(self) -> float:
        self.thrown += 1
        return 0.75


async def test_all_chance_comes_from_the_apps_rng(autojump_clock: MockClock) -> None:
    """the jitter of a module's backoff is drawn from rng=, none from the global one."""
    dice, state = Dice(), random.getstate()
    restart = Restart(backoff=Backoff(initial=10, jitter=0.5))
    db = Module("db", restart=restart)
    async with App(db, rng=dice):
        db.nursery.start_soon(raising(ValueError("bad")))
        await db.wait_status(OFFLINE)
        await db.wait_online()
        assert trio.current_time() == 10 * 1.25
    assert dice.thrown == 1
    assert random.getstate() == state


async def test_an_interrupt_cuts_the_time_of_a_deaf_body(autojump_clock: MockClock) -> None:
    """while a body ignores its cancellation a further interrupt lets the modules stop at once."""
    stopped: list[float] = []
    db = Module("db")
    app = App(db)

    @db.on_stop
    async def stop() -> None:
        stopped.append(trio.current_time())

    async def interrupt() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        raise KeyboardInterrupt

    async def deaf_body() -> None:
        db.start_worker(interrupt, grace_period=45)
        app.request_shutdown("enough")
        with trio.CancelScope(shield=True):
            await trio.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        async with app:
            await deaf_body()
    assert len(stopped) == 1
    assert 5 <= stopped[0] < 6
    assert trio.current_time() == 30


@pytest.mark.parametrize("seed", range(8))
def test_a_shutdown_in_the_step_of_the_start_cancels_the_body_first(seed: int) -> None:
    """between "all started" and the body's first step the body counts as running already."""
    trace: list[str] = []
    db = Module("db")
    app = App(db)

    @db.worker
    async def leave_at_once() -> None:
        await app.started.wait()
        app.request_shutdown("enough")

    @db.on_stop
    async def stop() -> None:
        trace.append("stop")

    async def main() -> None:
        async with app:
            assert app.started.is_set()
            trace.append(f"body, {db.status.name}")
            try:
                await trio.sleep_forever()
            finally:
                trace.append("body over")

    with deterministic_scheduling(seed):
        trio.run(main)
    assert trace == ["body, ONLINE", "body over", "stop"]


async def test_a_failed_start_that_cannot_be_undone_in_time_still_fails_the_app(
    autojump_clock: MockClock,
) -> None:
    """entering raises the StartError when all has ended, and the body never runs."""
    db = Module("db", stop_timeout=5)
    other = Module("other")
    trace: list[str] = []

    async def deaf() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)

    @db.on_start
    async def start() -> None:
        db.start_worker(deaf)
        await trio.sleep(1)
        raise ValueError("no")

    app = App(db, other)

    async def run() -> None:
        async with app:
            trace.append("body")

    with pytest.raises(StartError) as caught:
        await run()
    assert (caught.value.module, caught.value.stage) == ("db", "start")
    assert isinstance(caught.value.__cause__, ValueError)
    assert trace == []
    assert trio.current_time() == 101


@pytest.mark.parametrize("where", ["prep", "command"])
def test_ctrl_c_strikes_the_prep_and_the_command_of_the_app(where: str) -> None:
    """they are the user's code, in which something may go on for ever."""
    went_on: list[str] = []

    async def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        went_on.append(where)

    async def main() -> None:
        async with App(Module("m"), **{where: interrupted}):  # type: ignore[arg-type]
            went_on.append("body")

    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert went_on == []


def test_ctrl_c_that_strikes_the_app_itself_stops_it_in_order() -> None:
    """its own tasks keep the interrupt for the body, which it leaves bare."""
    stopped: list[str] = []
    base = Module("base")
    top = Module("top", depends_on=[base])

    async def stop(name: str) -> None:
        stopped.append(name)

    for module in (base, top):
        module.on_stop(stop, module.name)

    async def main() -> None:
        async with App(base, top) as app:
            assert app._run is not None
            app._run.timers.after(1, lambda: signal.raise_signal(signal.SIGINT))
            await trio.sleep(5)

    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert stopped == ["top", "base"]
