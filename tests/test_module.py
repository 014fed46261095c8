"""Modules: declarations, status, resources, contexts, subclasses."""

from __future__ import annotations

import contextvars
import inspect
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from lifecycle_helpers import Trace, chain_of, module_with, raising
from trio.testing import assert_checkpoints

from trio_modules import (
    App,
    Module,
    ModuleOffline,
    ModuleStatus,
    Resource,
    Restart,
    StartError,
    StopError,
    UndeclaredDependency,
    current_app,
    current_module,
)

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from trio.testing import MockClock

    AnyFn = Callable[..., Any]

# --- making one --------------------------------------------------------------------------------


def test_the_options_have_their_documented_defaults() -> None:
    """Module(...) takes the options of the contract, by keyword, with its defaults."""
    parameters = inspect.signature(Module).parameters
    options = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert options == {
        "depends_on": (),
        "wants": (),
        "prep": None,
        "start": None,
        "stop": None,
        "enabled": False,
        "start_timeout": None,
        "stop_timeout": None,
        "restart": Restart(max_restarts=3),
    }


@pytest.mark.parametrize("name", ["", "a/b", "/"])
def test_names_are_not_empty_and_have_no_slash(name: str) -> None:
    """a name that would make paths of events ambiguous is refused."""
    with pytest.raises(ValueError, match="name"):
        Module(name)


def test_the_logger_is_named_like_the_module() -> None:
    """module.logger is the standard library's logger trio_modules.<name>."""
    assert Module("db").logger is logging.getLogger("trio_modules.db")


def test_the_status_has_the_values_of_the_seed() -> None:
    """statuses are ordered integers from DEAD to ONLINE."""
    assert {status.name: int(status) for status in ModuleStatus} == {
        "DEAD": 0,
        "PREPARING": 1,
        "OFFLINE": 2,
        "STOPPING": 3,
        "STARTING": 4,
        "ONLINE": 5,
    }


async def test_dependencies_are_modules_however_they_were_named() -> None:
    """module.dependencies has the modules behind names and modules."""
    db, cache = Module("db"), Module("cache")
    web = Module("web", depends_on=[db, "cache"])
    async with App(db, cache, web):
        assert list(web.dependencies) == [db, cache]
        assert list(db.dependencies) == []


# --- declarations ------------------------------------------------------------------------------

# What a plain function can be declared as; "every" needs an interval before it.
LIFECYCLE = ["on_prep", "on_start", "on_stop"]
WORK = ["worker", "service_worker"]


@pytest.mark.parametrize("kind", [*LIFECYCLE, *WORK])
async def test_declarations_are_bare_decorators(autojump_clock: MockClock, kind: str) -> None:
    """@module.kind declares the function and returns it."""
    db, trace = Module("db"), Trace()

    async def fn() -> None:
        trace.add("ran")

    assert getattr(db, kind)(fn) is fn
    async with App(db):
        await trio.sleep(1)
    assert trace.names == ["ran"]


@pytest.mark.parametrize("kind", [*LIFECYCLE, *WORK])
async def test_declarations_are_decorators_with_options(
    autojump_clock: MockClock, kind: str
) -> None:
    """@module.kind() declares the function and returns it."""
    db, trace = Module("db"), Trace()

    async def fn() -> None:
        trace.add("ran")

    assert getattr(db, kind)()(fn) is fn
    async with App(db):
        await trio.sleep(1)
    assert trace.names == ["ran"]


@pytest.mark.parametrize("kind", WORK)
async def test_declarations_are_calls_with_arguments(autojump_clock: MockClock, kind: str) -> None:
    """module.kind(fn, *args, option=...) declares the function with its arguments, in a loop."""
    db, trace = Module("db"), Trace()

    async def fn(what: str, more: int) -> None:
        trace.add(f"{what}{more}")

    for number in range(3):
        getattr(db, kind)(fn, "poll", number, name=f"poll-{number}")
    async with App(db):
        await trio.sleep(1)
    assert sorted(trace.names) == ["poll0", "poll1", "poll2"]


@pytest.mark.parametrize("kind", WORK)
async def test_a_worker_has_the_name_that_was_declared(
    autojump_clock: MockClock, kind: str
) -> None:
    """name= of a decorator with options names the worker."""
    db = Module("db")
    app = App(db)

    @getattr(db, kind)(name="poller")  # type: ignore[untyped-decorator]
    async def fn() -> None:
        await trio.sleep_forever()

    async with app:
        assert [worker.name for worker in app.status().modules["db"].workers] == ["poller"]


async def test_every_is_a_decorator_and_a_call(autojump_clock: MockClock) -> None:
    """@module.every(interval) returns the function; module.every(interval, fn, *args) takes it."""
    db, trace = Module("db"), Trace()

    async def beat(what: str = "bare") -> None:
        trace.add(what)

    assert db.every(10)(beat) is beat
    db.every(10, beat, "call")
    async with App(db):
        await trio.sleep(15)
    assert sorted(trace.names) == ["bare", "bare", "call", "call"]


async def test_a_lifespan_may_be_declared_in_each_way(autojump_clock: MockClock) -> None:
    """lifespan is a bare decorator, one with parentheses, and a call with arguments."""
    db = Module("db")

    @db.lifespan
    async def bare() -> AsyncGenerator[int]:
        yield 1

    @db.lifespan()
    async def called() -> AsyncGenerator[int]:
        yield 2

    async def given(value: int) -> AsyncGenerator[int]:
        yield value

    plain = db.lifespan(given, 3)
    async with App(db):
        assert [resource.value for resource in (bare, called, plain)] == [1, 2, 3]


def not_async(*args: object) -> None:
    """Stand for a function that somebody forgot to make async."""


async def two_arguments(first: object, second: object) -> None:
    await trio.lowlevel.checkpoint()


async def no_generator() -> None:
    await trio.lowlevel.checkpoint()


async def yields() -> AsyncGenerator[None]:
    yield


def ways_to_declare(kind: str) -> list[Callable[[AnyFn], object]]:
    """Return the ways to declare a function as something, each on a module of its own."""
    first = (1,) if kind == "every" else ()
    return [
        lambda fn: getattr(Module("db"), kind)(*first, fn),
        lambda fn: getattr(Module("db"), kind)(*first)(fn),
    ]


@pytest.mark.parametrize("way", [0, 1], ids=["call", "decorator"])
@pytest.mark.parametrize("kind", [*LIFECYCLE, *WORK, "every", "lifespan"])
def test_a_sync_function_is_refused_at_the_declaration(kind: str, way: int) -> None:
    """declaring a sync function is a TypeError that names it, in each way to declare."""
    with pytest.raises(TypeError, match=r"async.*not_async"):
        ways_to_declare(kind)[way](not_async)


@pytest.mark.parametrize("way", [0, 1], ids=["call", "decorator"])
@pytest.mark.parametrize("kind", [*LIFECYCLE, *WORK, "every"])
def test_missing_arguments_are_refused_at_the_declaration(kind: str, way: int) -> None:
    """declaring a function without the arguments that it needs is a TypeError that names both."""
    with pytest.raises(TypeError, match=r"two_arguments.*first"):
        ways_to_declare(kind)[way](two_arguments)


@pytest.mark.parametrize("kind", WORK)
def test_too_many_arguments_are_refused_at_the_declaration(kind: str) -> None:
    """declaring a function with more arguments than it takes is a TypeError."""
    with pytest.raises(TypeError, match="two_arguments"):
        getattr(Module("db"), kind)(two_arguments, 1, 2, 3)


@pytest.mark.parametrize("kind", WORK)
def test_a_coroutine_is_refused_with_the_way_to_do_it(kind: str) -> None:
    """calling the function instead of passing it is the classic slip; nothing warns later."""
    with pytest.raises(TypeError, match="without the parentheses"):
        getattr(Module("db"), kind)(no_generator())


@pytest.mark.parametrize("kind", [*LIFECYCLE, *WORK])
def test_an_async_generator_is_no_async_function(kind: str) -> None:
    """a generator where an async function belongs is a TypeError."""
    with pytest.raises(TypeError, match="generator"):
        getattr(Module("db"), kind)(yields)


def test_a_lifespan_has_to_be_a_generator() -> None:
    """an async function that doesn't yield is a TypeError."""
    with pytest.raises(TypeError, match="no_generator"):
        Module("db").lifespan(no_generator)  # type: ignore[arg-type]


def test_a_lifespan_has_to_take_its_arguments() -> None:
    """a generator function called with too many arguments is a TypeError at the declaration."""
    with pytest.raises(TypeError, match="yields"):
        Module("db").lifespan(yields, 1)


@pytest.mark.parametrize("option", ["prep", "start", "stop"])
def test_the_constructor_checks_its_functions(option: str) -> None:
    """a sync function or one that needs arguments is a TypeError of the constructor."""
    for wrong in (not_async, two_arguments):
        with pytest.raises(TypeError, match=wrong.__name__):
            module_with("db", **{option: wrong})


async def test_lifecycle_functions_run_in_order_and_stop_functions_in_reverse(
    autojump_clock: MockClock,
) -> None:
    """the constructor's functions come first, the decorated ones after, in their order."""
    trace = Trace()
    db = trace.module("db")
    for number in (1, 2):
        db.on_prep(trace.step(f"{number}.prep"))
        db.on_start(trace.step(f"{number}.start", 2 - number))
        db.on_stop(trace.step(f"{number}.stop"))
    async with App(db):
        pass
    assert trace.only("prep") == ["db.prep", "1.prep", "2.prep"]
    assert trace.only("start") == ["db.start", "1.start", "2.start"]
    assert trace.only("stop") == ["2.stop", "1.stop", "db.stop"]


@pytest.mark.parametrize("kind", [*LIFECYCLE, "lifespan"])
async def test_lifecycle_functions_are_not_declared_while_the_module_runs(kind: str) -> None:
    """too late for this run, it would be silently missed."""
    db = Module("db")
    async with App(db):
        with pytest.raises(RuntimeError):
            getattr(db, kind)(yields if kind == "lifespan" else no_generator)


@pytest.mark.parametrize("kind", WORK)
async def test_a_worker_declared_while_online_starts_at_once(
    autojump_clock: MockClock, kind: str
) -> None:
    """it goes with that run of the module and isn't there in the next one."""
    db, trace = Module("db"), Trace()
    app = App(db)
    async with app:
        getattr(db, kind)(trace.step("late"))
        await trio.sleep(1)
        assert trace.names == ["late"]
    async with app:
        await trio.sleep(1)
    assert trace.names == ["late"]


async def test_declared_work_is_there_in_every_run(autojump_clock: MockClock) -> None:
    """what was declared before the app ran runs again each time."""
    db, trace = Module("db"), Trace()
    db.worker(trace.step("worker"))
    app = App(db)
    for _ in range(2):
        async with app:
            await trio.sleep(1)
    assert trace.names == ["worker", "worker"]


# --- subclasses --------------------------------------------------------------------------------


class Database(Module):
    """A module with an attribute and declarations of its own."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name)
        self.url = url
        self.trace = Trace()
        self.on_start(self.connect)
        self.worker(self.poll)

    async def connect(self) -> None:
        self.trace.add("connect")

    async def poll(self) -> None:
        self.trace.add("poll")
        await trio.sleep_forever()


async def test_a_subclass_declares_its_methods_in_init(autojump_clock: MockClock) -> None:
    """bound methods are declared like functions; app.get gives the module with its type."""
    app = App(Database("db", "sqlite:"))
    async with app:
        await trio.sleep(1)
    db = app.get("db", Database)
    assert (db.url, db.trace.names) == ("sqlite:", ["connect", "poll"])


def public_names() -> list[str]:
    return [name for name in dir(Module) if not name.startswith("_")]


@pytest.mark.parametrize("name", public_names())
def test_a_subclass_can_not_shadow_a_public_name(name: str) -> None:
    """an attribute that would break the module fails when the class is made."""
    with pytest.raises(TypeError, match=rf"Odd.*{name}"):
        type("Odd", (Module,), {name: None})


def test_a_subclass_of_a_subclass_can_not_shadow_either() -> None:
    """the check holds at any depth, and for mixins' names, too."""
    with pytest.raises(TypeError, match="status"):
        type("Odd", (Database,), {"status": property(lambda self: 1)})


def test_a_subclass_may_use_names_of_its_own() -> None:
    """private names, dunders and new public names are the subclass's business."""
    fine = type("Fine", (Module,), {"url": "", "_cache": None, "__repr__": lambda self: "fine"})
    assert repr(fine("db")) == "fine"


# --- status and its waiters --------------------------------------------------------------------


class Seen:
    """What a module says about itself, at each phase of a run."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.phases: list[tuple[str, ModuleStatus, bool, bool]] = []

    def note(self, phase: str) -> None:
        module = self.module
        self.phases.append((phase, module.status, module.online, module.online_soon))

    def noting(self, phase: str) -> Callable[[], Awaitable[None]]:
        async def note() -> None:
            self.note(phase)

        return note


async def test_the_status_follows_the_life_of_the_module() -> None:
    """DEAD, PREPARING, OFFLINE, STARTING, ONLINE, STOPPING, OFFLINE."""
    base, db = Module("base"), Module("db", depends_on=["base"])
    seen = Seen(db)
    db.on_prep(seen.noting("prep"))
    base.on_start(seen.noting("before"))
    db.on_start(seen.noting("start"))
    db.on_stop(seen.noting("stop"))
    seen.note("new")
    async with App(base, db):
        seen.note("body")
    seen.note("after")
    assert seen.phases == [
        ("new", ModuleStatus.DEAD, False, False),
        ("prep", ModuleStatus.PREPARING, False, False),
        ("before", ModuleStatus.OFFLINE, False, True),
        ("start", ModuleStatus.STARTING, False, True),
        ("body", ModuleStatus.ONLINE, True, True),
        ("stop", ModuleStatus.STOPPING, False, False),
        ("after", ModuleStatus.OFFLINE, False, False),
    ]


async def test_started_is_set_when_the_module_is_online(autojump_clock: MockClock) -> None:
    """an event read while offline belongs to the next run; it is not set while starting."""
    db, flags = Module("db"), list[bool]()
    started = db.started

    async def start() -> None:
        flags.append(db.started.is_set())

    db.on_start(start)
    async with App(db):
        flags.append(started.is_set())
        assert db.started is started
    assert flags == [False, True]


async def test_stopping_is_set_when_the_stop_begins(autojump_clock: MockClock) -> None:
    """it is not set while the module runs, and set before the workers end."""
    db, flags = Module("db"), list[bool]()
    stopping = db.stopping

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            flags.append(stopping.is_set())

    db.worker(work)
    async with App(db):
        flags.append(stopping.is_set())
        assert db.stopping is stopping
        await trio.sleep(1)
    assert flags == [False, True]


async def test_the_events_are_replaced_when_a_run_ends() -> None:
    """after a run started and stopping are new events, not set."""
    db = Module("db")
    async with App(db):
        started, stopping = db.started, db.stopping
    assert isinstance(db.started, trio.Event)
    assert isinstance(db.stopping, trio.Event)
    assert (db.started is started, db.stopping is stopping) == (False, False)
    assert (db.started.is_set(), db.stopping.is_set()) == (False, False)
    assert (started.is_set(), stopping.is_set()) == (True, True)


async def test_a_restart_replaces_the_events_too(autojump_clock: MockClock) -> None:
    """one read during the backoff is set when the module is online again."""
    db = Module("db", restart=Restart())
    async with App(db):
        first = db.started
        db.nursery.start_soon(raising(ValueError("bad")))
        await db.wait_status(ModuleStatus.OFFLINE)
        second = db.started
        assert (second is first, second.is_set()) == (False, False)
        await second.wait()
        assert db.online


async def test_wait_status_waits_for_the_status(autojump_clock: MockClock) -> None:
    """it returns when the module comes to the status, at that time."""
    trace = Trace()
    db = trace.module("db", start=5, stop=7)
    app = App(db)

    async def wait(status: ModuleStatus) -> None:
        await db.wait_status(status)
        trace.add(status.name)

    async with trio.open_nursery() as nursery:
        for status in ModuleStatus:
            nursery.start_soon(wait, status)
        await trio.sleep(1)
        async with app:
            await trio.sleep(10)
    assert trace.at("DEAD") == 0
    assert trace.at("PREPARING") == trace.at("OFFLINE") == trace.at("STARTING") == 1
    assert trace.at("ONLINE") == 6
    assert trace.at("STOPPING") == 16


async def test_wait_status_sees_a_status_that_is_gone_already(autojump_clock: MockClock) -> None:
    """a status that was passed in one step wakes its waiter all the same."""
    db = Module("db", restart=Restart())
    seen: list[ModuleStatus] = []

    async def wait() -> None:
        await db.wait_status(ModuleStatus.STARTING)
        seen.append(db.status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        async with App(db):
            await trio.sleep(1)
    assert len(seen) == 1


async def test_waiting_for_the_present_status_is_a_checkpoint() -> None:
    """wait_status and wait_online yield and can be cancelled when there is nothing to wait for."""
    db = Module("db")
    with assert_checkpoints():
        await db.wait_status(ModuleStatus.DEAD)
    async with App(db):
        with assert_checkpoints():
            await db.wait_status(ModuleStatus.ONLINE)
        with assert_checkpoints():
            await db.wait_online()


@pytest.mark.parametrize("wrong", ["ONLINE", 9, None])
async def test_wait_status_refuses_what_is_no_status(wrong: Any) -> None:
    """it would wait for ever."""
    with pytest.raises((TypeError, ValueError), match="status"):
        await Module("db").wait_status(wrong)


async def test_wait_online_waits_until_the_module_is_online(autojump_clock: MockClock) -> None:
    """a waiter of another task wakes when the start is done, not before."""
    trace = Trace()
    db = trace.module("db", start=3)

    async def wait() -> None:
        await db.wait_online()
        trace.add("online")
        assert db.online

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        async with App(db):
            await trio.sleep(10)
    assert trace.at("online") == 3


# --- the nursery and extend_timeout ------------------------------------------------------------


async def test_the_nursery_is_open_while_starting_and_online(autojump_clock: MockClock) -> None:
    """start functions and others may use it; before and after it is ModuleOffline."""
    db, trace = Module("db"), Trace()

    async def start() -> None:
        db.nursery.start_soon(trace.step("from start"))

    async def stop() -> None:
        with pytest.raises(ModuleOffline):
            _ = db.nursery
        trace.add("refused")

    db.on_start(start)
    db.on_stop(stop)
    with pytest.raises(ModuleOffline):
        _ = db.nursery
    async with App(db):
        db.nursery.start_soon(trace.step("from body", 1))
        await trio.sleep(2)
    with pytest.raises(ModuleOffline):
        _ = db.nursery
    assert trace.names == ["from start", "from body", "refused"]


async def test_extending_the_timeout_needs_a_start_or_stop() -> None:
    """extend_timeout while nothing is timed is an error."""
    db = Module("db")
    with pytest.raises(RuntimeError, match="'db'"):
        db.extend_timeout(5)
    async with App(db):
        with pytest.raises(RuntimeError, match="'db'"):
            db.extend_timeout(5)


# --- lifespans and resources -------------------------------------------------------------------


def span(trace: Trace, name: str) -> Callable[[], AsyncGenerator[str]]:
    """Return a lifespan that traces its two ends."""

    async def lifespan() -> AsyncGenerator[str]:
        trace.add(f"{name}+")
        yield name
        trace.add(f"{name}-")

    return lifespan


async def test_lifespans_nest_around_everything_else(autojump_clock: MockClock) -> None:
    """entered before the start functions, left after the stop functions, in reverse."""
    trace = Trace()
    db = Module("db", start=trace.step("start"), stop=trace.step("stop"))
    db.lifespan(span(trace, "a"))
    db.lifespan(span(trace, "b"))
    async with App(db):
        trace.add("body")
    assert trace.names == ["a+", "b+", "start", "body", "stop", "b-", "a-"]


async def test_a_lifespan_lives_in_the_modules_task_around_its_nursery() -> None:
    """a scope or nursery may be open across the yield, and holds the module's own nursery."""
    db, tasks = Module("db"), list[trio.lowlevel.Task]()
    nurseries: list[trio.Nursery] = []

    @db.lifespan
    async def lifespan() -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            tasks.append(trio.lowlevel.current_task())
            nurseries.append(nursery)
            yield
            tasks.append(trio.lowlevel.current_task())
            nursery.cancel_scope.cancel()

    async with App(db):
        assert db.nursery.parent_task is tasks[0]
        open_there = tasks[0].child_nurseries
        assert open_there.index(nurseries[0]) < open_there.index(db.nursery)
    assert tasks[0] is tasks[1]


async def test_a_lifespan_is_never_left_with_the_modules_exception(
    autojump_clock: MockClock,
) -> None:
    """when the module crashes its lifespans go on after the yield as always."""
    db, left = Module("db", restart=Restart()), list[BaseException | None]()

    @db.lifespan
    async def lifespan() -> AsyncGenerator[None]:
        try:
            yield
        except BaseException as error:
            left.append(error)
            raise
        left.append(None)

    async with App(db):
        db.nursery.start_soon(raising(ValueError("bad")))
        await trio.sleep(10)
    assert left == [None, None]


async def test_a_lifespan_that_fails_to_enter_is_a_failed_start(autojump_clock: MockClock) -> None:
    """those that were entered before are left; neither start nor stop functions run."""
    trace = Trace()
    error = ValueError("no disk")
    db = trace.module("db")
    db.lifespan(span(trace, "a"))

    @db.lifespan
    async def broken() -> AsyncGenerator[None]:
        raise error
        yield

    with pytest.raises(StartError) as caught:
        async with App(db):
            trace.add("body")
    assert (caught.value.module, caught.value.stage) == ("db", "start")
    assert caught.value.__cause__ is error
    assert trace.names == ["db.prep", "a+", "a-"]


async def test_a_lifespan_that_does_not_yield_is_a_failed_start() -> None:
    """a generator that ends before it yields has nothing to give."""
    db = Module("db")

    @db.lifespan
    async def empty() -> AsyncGenerator[None]:
        if not db.online:
            return
        yield

    with pytest.raises(StartError) as caught:
        async with App(db):
            raise AssertionError("the body must not run")
    assert any("empty" in str(error) for error in chain_of(caught.value.__cause__))


async def test_a_lifespan_that_yields_twice_is_a_stop_error() -> None:
    """the second yield is named as a fault of the stop; the other lifespans are left."""
    trace = Trace()
    db = Module("db")
    db.lifespan(span(trace, "a"))

    @db.lifespan
    async def twice() -> AsyncGenerator[None]:
        yield
        yield

    with pytest.raises(ExceptionGroup) as caught:
        async with App(db):
            pass
    assert any("twice" in str(error) for error in chain_of(caught.value))
    assert trace.names == ["a+", "a-"]


async def test_a_lifespan_that_fails_to_leave_is_a_stop_error() -> None:
    """its exception is in the StopError, and the lifespans around it are left."""
    trace, error = Trace(), ValueError("disk full")
    db = Module("db")
    db.lifespan(span(trace, "a"))

    @db.lifespan
    async def broken() -> AsyncGenerator[None]:
        yield
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        async with App(db):
            pass
    (stop_error,) = caught.value.exceptions
    assert isinstance(stop_error, StopError)
    assert (stop_error.module, stop_error.exceptions) == ("db", (error,))
    assert trace.names == ["a+", "a-"]


def resource_of(module: Module, value: str = "pool") -> Resource[str]:
    async def pool() -> AsyncGenerator[str]:
        yield value

    return module.lifespan(pool)


async def test_a_resource_has_what_its_lifespan_yielded() -> None:
    """the value is there while the module is starting, online or stopping."""
    values: list[str] = []
    db = Module("db")
    pool = resource_of(db)

    async def read() -> None:
        values.append(pool.value)

    db.on_start(read)
    db.on_stop(read)
    async with App(db):
        values.append(pool.value)
    assert values == ["pool"] * 3


async def test_a_resource_is_offline_with_its_module(autojump_clock: MockClock) -> None:
    """before, between and after the runs of its module reading is ModuleOffline."""
    db = Module("db", restart=Restart())
    pool = resource_of(db)
    with pytest.raises(ModuleOffline, match="'db'"):
        _ = pool.value
    async with App(db):
        db.nursery.start_soon(raising(ValueError("bad")))
        await db.wait_status(ModuleStatus.OFFLINE)
        with pytest.raises(ModuleOffline, match="'db'"):
            _ = pool.value
    with pytest.raises(ModuleOffline, match="'db'"):
        _ = pool.value


async def test_a_resource_is_new_in_every_run() -> None:
    """a second run gives the value that its own lifespan yielded."""
    db, numbers = Module("db"), iter(range(5))

    @db.lifespan
    async def number() -> AsyncGenerator[int]:
        yield next(numbers)

    app = App(db)
    seen = []
    for _ in range(2):
        async with app:
            seen.append(number.value)
    assert seen == [0, 1]


READERS = {
    "hard": {"depends_on": ["db"]},
    "soft": {"wants": ["db"]},
    "through a hard one": {"depends_on": ["hard"]},
    "through a soft one": {"depends_on": ["soft"]},
    "softly through a hard one": {"wants": ["hard"]},
}


@pytest.mark.parametrize("reader", list(READERS))
async def test_a_declared_dependency_may_read(autojump_clock: MockClock, reader: str) -> None:
    """a module that reaches the owner by depends_on or wants, directly or not, reads it."""
    db = Module("db")
    pool = resource_of(db)
    others = [module_with(name, **edges) for name, edges in READERS.items()]
    values: list[str] = []

    async def read() -> None:
        values.append(pool.value)

    app = App(db, *others)
    app[reader].on_start(read)
    app[reader].worker(read)
    app[reader].on_stop(read)
    async with app:
        await app[reader].run_worker(read)
        await trio.sleep(1)
    assert values == ["pool"] * 4


@pytest.mark.parametrize("edges", ["none", "the other way"])
async def test_an_undeclared_dependency_is_refused(autojump_clock: MockClock, edges: str) -> None:
    """a module that doesn't reach the owner can't read it, though it is online."""
    web = Module("web")
    db = Module("db", depends_on=[web] if edges == "the other way" else [])
    pool = resource_of(db)
    errors: list[UndeclaredDependency] = []

    async def read() -> None:
        with pytest.raises(UndeclaredDependency) as caught:
            _ = pool.value
        errors.append(caught.value)

    async with App(db, web):
        await web.run_worker(read)
        assert pool.value == "pool"
    (error,) = errors
    assert (error.module, error.owner, error.resource) == ("web", "db", "pool")


async def test_a_resource_can_be_overridden_for_a_test() -> None:
    """inside the block the fake is the value, app or not; after it the real one is back."""
    db = Module("db")
    pool = resource_of(db)
    with pool.override("fake"):
        assert pool.value == "fake"
        with pool.override("other"):
            assert pool.value == "other"
        assert pool.value == "fake"
        async with App(db):
            assert pool.value == "fake"
    with pytest.raises(ModuleOffline):
        _ = pool.value
    async with App(db):
        assert pool.value == "pool"


async def test_an_override_ends_with_an_exception() -> None:
    """an exception in the block restores the real value, too."""
    pool = resource_of(Module("db"))
    with pytest.raises(KeyError), pool.override("fake"):
        raise KeyError
    with pytest.raises(ModuleOffline):
        _ = pool.value


# --- where am I: current_module, current_app, contexts -----------------------------------------

setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="default")


def where() -> tuple[str, str]:
    return current_app().name, current_module().name


async def test_code_knows_its_module_and_app(autojump_clock: MockClock) -> None:
    """current_module and current_app work in everything that a module runs."""
    db = Module("db")
    app = App(db, name="hub")
    seen: dict[str, tuple[str, str]] = {}

    def noting(what: str) -> Callable[[], Awaitable[None]]:
        async def note() -> None:
            seen[what] = where()

        return note

    @db.lifespan
    async def lifespan() -> AsyncGenerator[None]:
        seen["lifespan+"] = where()
        yield
        seen["lifespan-"] = where()

    for kind in (*LIFECYCLE, *WORK):
        getattr(db, kind)(noting(kind))
    db.every(10, noting("every"))
    async with app:
        db.start_worker(noting("start_worker"))
        db.start_service_worker(noting("start_service_worker"))
        db.nursery.start_soon(noting("nursery"))
        await db.run_worker(noting("run_worker"))
        await db.guarded(noting("guarded"))()
        await trio.sleep(1)
    assert seen == dict.fromkeys(seen, ("hub", "db"))
    assert len(seen) == 13


async def test_a_module_that_runs_another_ones_worker_is_left_for_it(
    autojump_clock: MockClock,
) -> None:
    """inside run_worker the current module is the one asked; after it the caller's again."""
    db, web = Module("db"), Module("web")
    seen: list[str] = []

    async def note() -> None:
        seen.append(current_module().name)

    async def work() -> None:
        await note()
        await db.run_worker(note)
        db.start_worker(note)
        await trio.sleep(1)
        await note()

    async with App(db, web):
        await web.run_worker(work)
    assert seen == ["web", "db", "db", "web"]


async def test_code_outside_of_modules_has_none() -> None:
    """outside the block, in the body and after run_worker both raise RuntimeError."""
    db = Module("db")

    async def work() -> None:
        current_module()

    def refused() -> None:
        for current in (current_module, current_app):
            with pytest.raises(RuntimeError):
                current()

    refused()
    async with App(db):
        refused()
        await db.run_worker(work)
        refused()
    refused()


async def test_an_app_within_an_app_is_told_apart(autojump_clock: MockClock) -> None:
    """code of an inner app's modules knows the inner app, code around it the outer one."""
    inner_db, outer_db = Module("inner db"), Module("outer db")
    seen: list[tuple[str, str]] = []

    async def note() -> None:
        seen.append(where())

    async def run_inner() -> None:
        async with App(inner_db, name="inner"):
            await inner_db.run_worker(note)
            await note()

    inner_db.on_start(note)
    async with App(outer_db, name="outer"):
        await outer_db.run_worker(run_inner)
    assert seen == [("inner", "inner db"), ("inner", "inner db"), ("outer", "outer db")]


async def test_work_runs_in_a_copy_of_its_starters_context(autojump_clock: MockClock) -> None:
    """start_worker sees the starter's variables, and sets none of the starter's."""
    db, seen = Module("db"), list[str]()

    async def work() -> None:
        seen.append(setting.get())
        setting.set("worker's")

    async with App(db):
        setting.set("starter's")
        db.start_worker(work)
        await trio.sleep(1)
        assert setting.get() == "starter's"
    assert seen == ["starter's"]


async def test_declared_work_runs_in_a_copy_of_the_apps_context(autojump_clock: MockClock) -> None:
    """at every start, also a restart, it sees what was set when the app was entered."""
    db, seen = Module("db", restart=Restart()), list[str]()

    async def start() -> None:
        seen.append(f"start {setting.get()}")
        setting.set("start's")

    async def work() -> None:
        seen.append(f"work {setting.get()}")
        setting.set("worker's")

    db.on_start(start)
    db.worker(work)
    setting.set("entry's")
    async with App(db):
        setting.set("body's")
        await trio.sleep(1)
        db.nursery.start_soon(raising(ValueError("bad")))
        await trio.sleep(9)
        assert setting.get() == "body's"
    assert seen == ["start entry's", "work entry's"] * 2


async def test_a_module_started_by_hand_has_the_apps_context(autojump_clock: MockClock) -> None:
    """manage() starts modules in the context of the entry, not of its caller."""
    db, seen = Module("db"), list[str]()

    async def start() -> None:
        seen.append(setting.get())

    db.on_start(start)
    db.worker(start)
    setting.set("entry's")
    app = App(db, managed=True)
    async with app:
        setting.set("caller's")
        db.enable()
        await app.manage()
        await trio.sleep(1)
    assert seen == ["entry's", "entry's"]


async def test_a_module_added_by_hand_has_the_apps_context(autojump_clock: MockClock) -> None:
    """add() prepares and starts modules in the context of the entry, not of its caller."""
    db, seen = Module("db"), list[str]()

    async def note() -> None:
        seen.append(setting.get())

    db.on_prep(note)
    db.on_start(note)
    setting.set("entry's")
    async with App() as app:
        setting.set("caller's")
        await app.add(db)
    assert seen == ["entry's", "entry's"]


# --- failures: several at a time, and what becomes of them -------------------------------------


async def test_a_hint_hides_no_error() -> None:
    """a module has one failure per id; the most severe one is shown."""
    db = Module("db")
    error = db.set_error("disk", "the disk is full")
    db.set_hint("tip", "try the new version")
    assert db.failure == error
    assert set(db.failures) == {"disk", "tip"}


async def test_failures_are_resolved_when_the_module_is_offline() -> None:
    """what was wrong with a run is over with it."""
    db = Module("db")
    async with App(db):
        db.set_error("disk", "the disk is full")
        assert set(db.failures) == {"disk"}
    assert dict(db.failures) == {}
