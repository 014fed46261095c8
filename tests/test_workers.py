"""Workers: started, run, guarded and declared; what they raise and how they end."""

from __future__ import annotations

import gc
import inspect
import logging
import re
import sys
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from support import deterministic_scheduling, fail, let_run, reports_of, stray_cancelled, switch_off
from trio.testing import MockClock, assert_checkpoints, open_stream_to_socket_listener

from trio_modules import (
    App,
    Module,
    ModuleOffline,
    ModuleStatus,
    Restart,
    StartError,
    StopError,
    current_app,
    current_module,
)
from trio_modules._workers import _Contained
from trio_modules.testing._scheduling import all_tasks

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

colour: ContextVar[str] = ContextVar("colour", default="none")


class Outcome(BaseException):
    """Neither an Exception nor one of Python's own ways to leave."""


def leaves(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exceptions in a group, or the one that isn't a group."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    elif error is not None:
        yield error


async def step_out_slowly(log: list[str], name: str, seconds: float) -> None:
    """Run until cancelled, then take some seconds to leave."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        log.append(name)


def running(app: App, name: str) -> int:
    return app.status().modules[name].work.running


# --- start_worker ------------------------------------------------------------------------------


async def test_start_worker_returns_before_the_first_step(autojump_clock: MockClock) -> None:
    """start_worker only begins the worker, which then runs with its arguments."""
    m = Module("m")
    seen: list[object] = []

    async def work(first: int, second: str) -> None:
        await trio.lowlevel.checkpoint()
        seen.append((first, second))

    async with App(m):
        m.start_worker(work, 1, "two")
        assert seen == []
        await let_run()
        assert seen == [(1, "two")]


async def test_a_worker_runs_in_the_modules_own_time(autojump_clock: MockClock) -> None:
    """the starter isn't waited for by its worker, nor the worker by its starter."""
    m = Module("m")
    ends: list[float] = []

    async def starter() -> None:
        m.start_worker(sleeper)
        await trio.lowlevel.checkpoint()

    async def sleeper() -> None:
        await trio.sleep(5)
        ends.append(trio.current_time())

    async with App(m):
        await m.run_worker(starter)
        assert trio.current_time() == 0
        await trio.sleep(6)
    assert ends == [5]


async def test_workers_know_where_they_run(autojump_clock: MockClock) -> None:
    """started, run, guarded and declared workers see their module and app."""
    a, b = Module("a"), Module("b")
    app = App(a, b)
    seen: list[tuple[Module, App]] = []

    async def look() -> None:
        await trio.lowlevel.checkpoint()
        seen.append((current_module(), current_app()))

    a.worker(look)
    async with app:
        await let_run()
        b.start_worker(look)
        await let_run()
        await a.run_worker(look)
        await b.guarded(look)()
    assert seen == [(a, app), (b, app), (a, app), (b, app)]


async def test_a_worker_of_another_module(autojump_clock: MockClock) -> None:
    """what a module runs for another one belongs to that one, and only as long as it runs."""
    a, b = Module("a"), Module("b")
    seen: list[Module] = []

    async def outer() -> None:
        seen.append(current_module())
        await b.run_worker(inner)
        seen.append(current_module())

    async def inner() -> None:
        await trio.lowlevel.checkpoint()
        seen.append(current_module())

    async with App(a, b):
        await a.run_worker(outer)
    assert seen == [a, b, a]


async def test_a_worker_started_for_another_module(autojump_clock: MockClock) -> None:
    """a worker that a module starts in another one belongs to that one."""
    a, b = Module("a"), Module("b", enabled=True)
    a.enable()
    app = App(a, b, managed=True)
    seen: list[Module] = []

    async def outer() -> None:
        b.start_worker(inner)
        await trio.lowlevel.checkpoint()
        seen.append(current_module())

    async def inner() -> None:
        seen.append(current_module())
        await trio.sleep_forever()

    async with app:
        await a.run_worker(outer)
        await let_run()
        assert sorted(module.name for module in seen) == ["a", "b"]
        assert (running(app, "a"), running(app, "b")) == (0, 1)
        await switch_off(app, b)
        assert (a.online, running(app, "b")) == (True, 0)


async def test_outside_of_a_module_there_is_none(autojump_clock: MockClock) -> None:
    """in the body current_module() raises, also after a worker ran in its task."""
    m = Module("m")

    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    async with App(m):
        await m.run_worker(nothing)
        with pytest.raises(RuntimeError):
            current_module()


async def test_a_started_worker_gets_a_copy_of_its_starters_context(
    autojump_clock: MockClock,
) -> None:
    """a worker sees the context variables of its starter, and its own changes stay its own."""
    m = Module("m")
    seen: list[str] = []

    async def work() -> None:
        seen.append(colour.get())
        colour.set("blue")
        await trio.lowlevel.checkpoint()

    async with App(m):
        colour.set("red")
        m.start_worker(work)
        colour.set("green")
        await let_run()
    assert seen == ["red"]
    assert colour.get() == "green"


async def test_a_declared_worker_gets_a_copy_of_the_context_of_entry(
    autojump_clock: MockClock,
) -> None:
    """a declared worker sees the context in which the app was entered, at later starts too."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    seen: list[str] = []

    @m.worker
    async def work() -> None:
        seen.append(colour.get())
        colour.set("blue")
        await trio.lowlevel.checkpoint()

    colour.set("at entry")
    async with app:
        await let_run()
        colour.set("later")
        await app.restart(m)
        await let_run()
    assert seen == ["at entry", "at entry"]


async def test_a_workers_name(autojump_clock: MockClock) -> None:
    """a worker is called by its function's name, or as it was told."""
    m = Module("m")
    app = App(m)

    async def body() -> None:
        m.start_worker(fail, ValueError())
        m.start_worker(fail, ValueError(), name="special")
        m.start_worker(fail, ValueError(), name="scoped", cancel_scope=trio.CancelScope())
        m.start_worker(fail, ValueError(), name="graced", grace_period=1)
        await let_run()

    reports = await reports_of(app, body)
    names = sorted(str(report.task_name) for report in reports)
    assert names == ["fail", "graced", "scoped", "special"]
    assert m.guarded(fail).__name__ == "fail"


# --- cancel_scope --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["returns", "raises", "is cancelled"])
async def test_the_frames_of_a_worker(autojump_clock: MockClock, end: str) -> None:
    """a walk over its frames says that it has not begun, then where it waits, and ends with it."""
    m = Module("m")

    async def work() -> None:
        await inner()

    async def inner() -> None:
        await trio.sleep(1)
        if end == "raises":
            raise ValueError("boom")
        if end == "is cancelled":
            await trio.sleep_forever()

    def calls() -> list[str]:
        return [frame.f_code.co_name for frame, _ in task.iter_await_frames()]

    async with App(m) as app:
        m.start_worker(work)
        task = next(task for task in all_tasks() if task.name == "work")
        coro: Any = task.coro
        frames_are_made_when_asked_for = sys.version_info >= (3, 11)
        assert calls() == ["_not_begun" if frames_are_made_when_asked_for else "work"]
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CREATED
        await let_run()
        assert calls()[:3] == ["work", "inner", "sleep"]
        assert inspect.getcoroutinestate(coro) == inspect.CORO_SUSPENDED
        await trio.sleep(2)
        assert running(app, "m") == (end == "is cancelled")
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    assert coro.cr_frame is None
    assert coro.cr_await is None


class Kinds:
    """A module that does the same work in each of the ways that there are."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self.module = m = Module("m")
        self.work = work
        self.event = m.event("event", int)
        m.on_prep(work)
        m.on_start(work)
        m.on_stop(work)
        m.lifespan(self.live)
        m.worker(work, name="declared")
        m.service_worker(work, name="declared service", restart_on_return=False)
        m.every(1, work)
        m.task(self.work_with, every=60)
        m.hook(self.event, self.work_with)

    async def live(self) -> AsyncGenerator[None, None]:
        await self.work()
        yield
        await self.work()

    async def work_with(self, _: object) -> None:
        await self.work()

    async def do_all(self) -> None:
        m = self.module
        m.start_worker(self.work)
        m.start_worker(self.work, grace_period=1)
        m.start_worker(self.work, cancel_scope=trio.CancelScope())
        m.start_service_worker(self.work, restart_on_return=False)
        m.start_microtask(self.work)
        m.new_task(self.work_with).queue()
        m.new_task(self.work_with).schedule_after(1)
        await self.event.trigger(1)
        await m.run_worker(self.work)
        await m.guarded(self.work)()
        await m.run_microtask(self.work)
        async with m.microtask_slot():
            await self.work()


@pytest.mark.parametrize("lock_type", [trio.Lock, trio.StrictFIFOLock, trio.Condition])
async def test_work_of_every_kind_may_hold_a_lock(
    autojump_clock: MockClock, lock_type: Callable[[], trio.Lock]
) -> None:
    """Trio's locks ask who holds them for their state; one after the other has it and goes."""
    lock = lock_type()
    times = holders = 0

    async def work() -> None:
        nonlocal times, holders
        async with lock:
            holders += 1
            assert holders == 1
            await trio.sleep(0.01)
            holders -= 1
        times += 1

    kinds = Kinds(work)
    app = App(kinds.module)

    async def body() -> None:
        await kinds.do_all()
        await trio.sleep(100)

    assert await reports_of(app, body) == []
    assert times > 120


async def test_the_state_of_a_worker_that_runs(autojump_clock: MockClock) -> None:
    """its own code is running while it runs, and over while what it has raised is reported."""
    m = Module("m")
    states: list[str] = []

    def note_state(_: object = None) -> bool:
        coro: Any = trio.lowlevel.current_task().coro
        states.append(inspect.getcoroutinestate(coro))
        return True

    async def work() -> None:
        note_state()
        await trio.lowlevel.checkpoint()
        raise ValueError("boom")

    logger = logging.getLogger("trio_modules.m")
    logger.addFilter(note_state)
    try:
        async with App(m):
            m.start_worker(work)
            await let_run()
    finally:
        logger.removeFilter(note_state)
    assert states == [inspect.CORO_RUNNING, inspect.CORO_CLOSED]


def test_a_worker_that_is_closed_before_it_has_begun() -> None:
    """nothing is left of it, and nobody is told that it was never awaited."""

    async def work() -> None:
        raise AssertionError

    coro = _Contained(Module("m")._module_part.workers, work())
    coro.close()
    assert inspect.getcoroutinestate(cast("Any", coro)) == inspect.CORO_CLOSED


async def test_a_cancel_scope_ends_one_worker(autojump_clock: MockClock) -> None:
    """a caller's cancel scope cancels its worker alone, and nothing is reported."""
    m = Module("m")
    app = App(m)
    ended: list[str] = []
    scope = trio.CancelScope()

    async def body() -> None:
        m.start_worker(step_out_slowly, ended, "one", 0, cancel_scope=scope)
        m.start_worker(step_out_slowly, ended, "other", 0)
        await let_run()
        scope.cancel()
        await let_run()
        assert ended == ["one"]
        assert scope.cancelled_caught
        assert running(app, "m") == 1

    assert await reports_of(app, body) == []


async def test_a_cancel_scope_cancelled_before_the_first_step(autojump_clock: MockClock) -> None:
    """a scope that is cancelled before its worker's first step cancels it at its checkpoint."""
    m = Module("m")
    app = App(m)
    passed: list[str] = []
    scope = trio.CancelScope()

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        passed.append("checkpoint")

    async with app:
        m.start_worker(work, cancel_scope=scope)
        scope.cancel()
        await let_run()
        assert running(app, "m") == 0
    assert passed == []


async def test_a_cancel_scope_that_was_used_before(autojump_clock: MockClock) -> None:
    """the worker never begins: Trio's error is reported, and nothing is left behind."""
    m, scope = Module("m"), trio.CancelScope()
    app = App(m)

    async def body() -> None:
        for _ in range(2):
            m.start_worker(trio.sleep, 1, cancel_scope=scope)
        await trio.sleep(2)
        gc.collect()  # which would warn of a coroutine that was never awaited
        assert app.status().totals.work.running == 0

    (report,) = await reports_of(app, body)
    assert isinstance(report.exception, RuntimeError)


async def test_a_cancel_scopes_deadline(autojump_clock: MockClock) -> None:
    """a deadline of the caller's scope ends the worker, too."""
    m = Module("m")
    ended: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with App(m):
        m.start_worker(work, cancel_scope=trio.CancelScope(deadline=3))
        await trio.sleep(4)
    assert ended == [3]


async def test_a_failure_in_a_cancelled_scope(autojump_clock: MockClock) -> None:
    """an exception on the way out of a cancelled scope is reported like any other."""
    m = Module("m")
    app = App(m)
    error = ValueError("while leaving")
    scope = trio.CancelScope()

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def body() -> None:
        m.start_worker(work, cancel_scope=scope)
        await let_run()
        scope.cancel()
        await let_run()
        assert m.online

    (report,) = await reports_of(app, body)
    assert report.exception is error


async def test_a_stop_cancels_a_worker_with_a_scope(autojump_clock: MockClock) -> None:
    """a worker with a scope of the caller's is cancelled by a stop like the others."""
    m = Module("m")
    ended: list[str] = []
    scope = trio.CancelScope()
    async with App(m):
        m.start_worker(step_out_slowly, ended, "one", 0, cancel_scope=scope)
        await let_run()
    assert ended == ["one"]
    assert not scope.cancel_called


# --- counted from the call on --------------------------------------------------------------------


async def test_a_stop_cannot_miss_a_worker(autojump_clock: MockClock) -> None:
    """a worker started in the step in which the stop begins ends before the stop functions run."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    log: list[str] = []

    @m.on_stop
    async def stop() -> None:
        await trio.lowlevel.checkpoint()
        log.append("stop")

    async def work() -> None:
        log.append("begins")
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        log.append("ends")

    async with app:
        m.start_worker(work)
        await switch_off(app, m)
        assert m.status is ModuleStatus.OFFLINE
        assert trio.current_time() == 3
    assert log == ["begins", "ends", "stop"]


async def test_a_worker_counts_from_the_call_on(autojump_clock: MockClock) -> None:
    """a worker is counted before its first step."""
    m = Module("m")
    app = App(m)
    async with app:
        m.start_worker(trio.sleep, 1)
        work = app.status().modules["m"].work
        assert (work.started, work.running, work.ended) == (1, 1, 0)
        await trio.sleep(2)
        work = app.status().modules["m"].work
        assert (work.started, work.running, work.ended) == (1, 0, 1)


async def test_no_worker_begins_after_offline(autojump_clock: MockClock) -> None:
    """once a module is offline start_worker refuses instead of running late."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    begun: list[str] = []

    async def work() -> None:
        begun.append("work")

    async with app:
        await switch_off(app, m)
        with pytest.raises(ModuleOffline):
            m.start_worker(work)
        await let_run()
    assert begun == []


async def test_a_stopping_module_refuses_work_from_outside(autojump_clock: MockClock) -> None:
    """while its workers end a module takes no new ones from outside, but from itself."""
    m = Module("m")
    log: list[str] = []

    async def last_words() -> None:
        log.append("last words")

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            m.start_worker(last_words)
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    async def outsider() -> None:
        await m.stopping.wait()
        with pytest.raises(ModuleOffline):
            m.start_worker(trio.sleep, 1)
        with pytest.raises(ModuleOffline):
            await m.run_worker(trio.sleep, 1)
        with pytest.raises(ModuleOffline):
            await m.guarded(trio.sleep)(1)
        log.append("refused")

    async with trio.open_nursery() as nursery, App(m):
        nursery.start_soon(outsider)
        m.start_worker(work)
        await let_run()
    assert sorted(log) == ["last words", "refused"]


async def test_work_started_while_stopping_is_waited_for(autojump_clock: MockClock) -> None:
    """what a module's own code starts during the stop ends before its stop functions run."""
    m = Module("m")
    log: list[str] = []

    @m.on_stop
    async def stop() -> None:
        log.append("stop")

    async def late() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        log.append("late")

    async def work() -> None:
        await m.stopping.wait()
        m.start_worker(late)

    async with App(m):
        m.start_worker(work, grace_period=5)
        await let_run()
    assert log == ["late", "stop"]


# --- stop and grace ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["run_worker", "guarded", "run_microtask"])
async def test_a_start_that_is_slow_to_leave_delays_no_cancellation(
    autojump_clock: MockClock, kind: str
) -> None:
    """when the module is to stop all of its work hears of it at once, also that of callers."""
    m, other = Module("m", start_timeout=1.0), Module("other")
    log: list[str] = []
    ended: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async def call() -> None:
        run = m.guarded(work) if kind == "guarded" else partial(getattr(m, kind), work)
        await ending(run)

    m.on_start(step_out_slowly, log, "start", 2.0)
    other.worker(call)
    began = trio.current_time()
    with pytest.raises(StartError):
        async with App(m, other):
            pass
    assert log == ["start"]
    assert [time - began for time in ended] == [1.0]


async def test_grace_counts_from_a_stop_in_the_middle_of_a_start(
    autojump_clock: MockClock,
) -> None:
    """a start that is slow to leave prolongs no grace, and no service begins a run meanwhile."""
    m = Module("m", start_timeout=1.0)
    log: list[str] = []
    begun: list[float] = []
    ended: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async def service() -> None:
        begun.append(trio.current_time())
        await fail(ValueError("again"))

    async def start() -> None:
        m.start_worker(work, grace_period=0.5)
        m.start_service_worker(service, backoff=1.5, grace_period=5)
        await step_out_slowly(log, "start", 2.0)

    m.on_start(start)
    with pytest.raises(StartError):
        async with App(m):
            pass
    assert log == ["start"]
    assert ended == [1.5]
    assert begun == [0.0]


@pytest.mark.parametrize("seed", range(4))
def test_work_that_comes_when_all_in_the_nursery_has_ended(seed: int) -> None:
    """a caller's own task may outlast it by a step: it gets ModuleOffline, and leaves nothing."""
    refused: list[RuntimeError] = []

    async def persistent(m: Module) -> None:
        nursery = m.nursery
        while not refused:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            if m.status is ModuleStatus.STOPPING and not nursery.child_tasks:
                for start in (m.start_worker, m.start_service_worker, m.start_microtask):
                    with collecting(refused):
                        start(trio.lowlevel.checkpoint)

    async def main() -> None:
        m = Module("m", restart=Restart())
        async with App(m) as app, trio.open_nursery() as nursery:
            nursery.start_soon(partial(ending, partial(m.run_worker, persistent, m)))
            await trio.lowlevel.checkpoint()
            m.nursery.start_soon(fail, ValueError("crash"))
            await m.wait_status(ModuleStatus.OFFLINE)
            assert app.status().modules["m"].workers == ()

    with deterministic_scheduling(seed):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    gc.collect()  # which would warn of a coroutine that was never awaited
    assert {type(error) for error in refused} == {ModuleOffline}


@contextmanager
def collecting(errors: list[RuntimeError]) -> Iterator[None]:
    """Collect what is raised."""
    try:
        yield
    except RuntimeError as error:
        errors.append(error)


async def ending(call: Callable[[], Awaitable[None]]) -> None:
    """Make a call that its module ends."""
    with suppress(ModuleOffline):
        await call()


async def test_workers_end_before_the_stop_functions(autojump_clock: MockClock) -> None:
    """stop functions run when all workers have ended, however long they take to leave."""
    m = Module("m")
    log: list[str] = []

    @m.on_stop
    async def stop() -> None:
        log.append("stop")

    async with App(m):
        m.start_worker(step_out_slowly, log, "slow", 3)
        m.start_worker(step_out_slowly, log, "quick", 1)
        await let_run()
    assert log == ["quick", "slow", "stop"]
    assert trio.current_time() == 3


async def test_a_stop_says_why(autojump_clock: MockClock) -> None:
    """the Cancelled that a worker gets names the module and the reason of its stop."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    reasons: list[str | None] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            reasons.append(cancelled.reason)
            raise

    async with app:
        m.start_worker(work)
        await let_run()
        await switch_off(app, m)
    assert reasons == ["module 'm' is stopping: disabled"]


async def test_a_worker_ends_within_its_grace(autojump_clock: MockClock) -> None:
    """a worker with a grace period may end on its own after the stop began."""
    m = Module("m")
    log: list[str] = []

    async def work() -> None:
        await m.stopping.wait()
        await trio.sleep(3)
        log.append("done")

    async with App(m):
        m.start_worker(work, grace_period=5)
        await let_run()
    assert log == ["done"]
    assert trio.current_time() == 3


async def test_a_worker_is_cancelled_when_its_grace_ends(autojump_clock: MockClock) -> None:
    """grace periods end each in their time, and the module is offline after the last."""
    m = Module("m")
    ends: dict[str, float] = {}

    async def work(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ends[name] = trio.current_time()

    async with App(m):
        m.start_worker(work, "none")
        m.start_worker(work, "short", grace_period=2)
        m.start_worker(work, "long", grace_period=5)
        await trio.sleep(1)
    assert ends == {"none": 1, "short": 3, "long": 6}
    assert trio.current_time() == 6


async def test_grace_counts_from_the_beginning_of_the_stop(autojump_clock: MockClock) -> None:
    """a worker started during the stop gets what is left of its grace, not all of it."""
    m = Module("m")
    ends: list[float] = []

    async def late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ends.append(trio.current_time())

    async def work() -> None:
        await m.stopping.wait()
        await trio.sleep(3)
        m.start_worker(late, grace_period=5)

    async with App(m):
        m.start_worker(work, grace_period=10)
        await let_run()
    assert ends == [5]


async def test_a_worker_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    """workers with a grace period or a scope that have ended are forgotten by their module."""
    m = Module("m")

    async def nothing() -> None:
        pass

    def scopes() -> int:
        gc.collect()
        return sum(type(each) is trio.CancelScope for each in gc.get_objects())

    async with App(m):
        before = scopes()
        for _ in range(50):
            m.start_worker(nothing, grace_period=1, cancel_scope=trio.CancelScope())
        await let_run()
        assert scopes() - before < 10


async def test_a_declared_worker_has_its_grace(autojump_clock: MockClock) -> None:
    """a declared worker's grace period applies at every stop."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    ends: list[float] = []

    @m.worker(grace_period=2)
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ends.append(trio.current_time())

    async with app:
        await trio.sleep(1)
        await app.restart(m)
        await trio.sleep(1)
    assert ends == [3, 6]


async def test_a_crash_gives_no_grace(autojump_clock: MockClock) -> None:
    """a module that crashed cancels its workers at once."""
    m = Module("m")
    ends: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ends.append(trio.current_time())

    async with App(m):
        m.start_worker(work, grace_period=5)
        await trio.sleep(1)
        m.nursery.start_soon(fail, ValueError("crash"))
        await m.stopping.wait()
        await let_run()
        assert ends == [1]


async def test_a_crash_says_why(autojump_clock: MockClock) -> None:
    """the Cancelled that a worker gets because of a crash says so, of its module or another."""
    db = Module("db")
    web = Module("web", depends_on=[db])
    reasons: dict[str, str] = {}

    async def work(name: str) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            reasons[name] = str(cancelled.reason)
            raise

    async with App(db, web):
        for module in (db, web):
            module.start_worker(work, module.name)
        await let_run()
        db.start_service_worker(fail, ValueError("no"), restart=Restart(max_restarts=0))
        await let_run()
        assert reasons["db"].startswith("module 'db' is stopping: ")
        assert reasons["web"].startswith("module 'web' is stopping: ")
        assert all("'db' crashed" in reason for reason in reasons.values())


async def test_three_quarters_of_the_stop_time_are_the_most(autojump_clock: MockClock) -> None:
    """a grace period of three quarters of stop_timeout is taken, one above it refused."""
    m = Module("m", stop_timeout=8)
    app = App(m)
    async with app:
        m.start_worker(trio.sleep, 1, grace_period=6)
        with pytest.raises(ValueError, match="grace_period"):
            m.start_worker(trio.sleep, 1, grace_period=6.25)
        assert running(app, "m") == 1


async def test_the_apps_stop_timeout_limits_the_grace(autojump_clock: MockClock) -> None:
    """a declared grace period that the app's stop_timeout doesn't allow fails on entering."""
    m = Module("m")
    m.worker(trio.sleep_forever, grace_period=6.25)
    ran: list[str] = []

    @m.on_prep
    async def prep() -> None:
        ran.append("prep")

    with pytest.raises(ValueError, match="grace_period"):
        async with App(m, stop_timeout=8):
            raise AssertionError("the body must not run")
    assert ran == []


# --- declared workers ----------------------------------------------------------------------------


async def test_a_declared_worker_begins_at_every_start(autojump_clock: MockClock) -> None:
    """a declared worker is begun once by each start of its module."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    begun: list[float] = []

    @m.worker
    async def work() -> None:
        begun.append(trio.current_time())
        await trio.sleep_forever()

    async with app:
        await trio.sleep(5)
        assert begun == [0]
        await app.restart(m)
        await let_run()
        assert begun == [0, 5]
        await switch_off(app, m)
        await trio.sleep(1)
        assert begun == [0, 5]


async def test_the_forms_of_a_declaration(autojump_clock: MockClock) -> None:
    """a worker is declared bare, with options, or by a call with its arguments."""
    m = Module("m")
    app = App(m)
    seen: list[str] = []

    @m.worker
    async def bare() -> None:
        seen.append("bare")

    @m.worker(name="named")
    async def with_options() -> None:
        seen.append("with options")

    async def with_arguments(first: str, second: str) -> None:
        seen.append(first + second)

    for word in ("x", "y"):
        assert m.worker(with_arguments, word, "z", name="called") is with_arguments
    async with app:
        await let_run()
    assert sorted(seen) == ["bare", "with options", "xz", "yz"]


async def test_a_decorator_returns_the_function(autojump_clock: MockClock) -> None:
    """a decorated function can be called like before."""
    m = Module("m")

    async def one() -> None:
        await trio.lowlevel.checkpoint()

    async def other() -> None:
        await trio.lowlevel.checkpoint()

    assert m.worker(one) is one
    assert m.worker(name="x", grace_period=1)(other) is other


async def test_declared_workers_begin_between_start_functions_and_online(
    autojump_clock: MockClock,
) -> None:
    """a declared worker begins after the start functions; its module is online soon after."""
    m = Module("m")
    log: list[str] = []

    @m.worker
    async def work() -> None:
        log.append(f"worker at {trio.current_time():g}")

    @m.on_start
    async def start() -> None:
        await trio.sleep(2)
        log.append("started")

    async with App(m):
        assert m.online
        await let_run()
    assert log == ["started", "worker at 2"]


async def test_a_failed_start_begins_no_worker(autojump_clock: MockClock) -> None:
    """when a start function fails the declared workers aren't begun."""
    m = Module("m")
    begun: list[str] = []

    @m.worker
    async def work() -> None:
        begun.append("work")

    @m.on_start
    async def start() -> None:
        raise ValueError("no")

    with pytest.raises(StartError):
        async with App(m):
            raise AssertionError("the body must not run")
    assert begun == []


async def test_a_worker_declared_while_online_begins_at_once(autojump_clock: MockClock) -> None:
    """a worker declared while its module runs begins then, and goes with that run."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    begun: list[float] = []

    async def work() -> None:
        begun.append(trio.current_time())

    async with app:
        await trio.sleep(1)
        m.worker(work)
        await let_run()
        assert begun == [1]
        await app.restart(m)
        await let_run()
    assert begun == [1]


async def test_an_app_entered_again_has_its_declared_workers(autojump_clock: MockClock) -> None:
    """what was declared before the app ran is there in every run."""
    m = Module("m")
    app = App(m)
    begun: list[str] = []

    @m.worker
    async def work() -> None:
        begun.append("work")

    for _ in range(2):
        async with app:
            await let_run()
    assert begun == ["work", "work"]


# --- run_worker ----------------------------------------------------------------------------------


async def test_run_worker_runs_in_the_callers_task(autojump_clock: MockClock) -> None:
    """run_worker runs the function with its arguments in the caller's task: the result is its."""
    m = Module("m")

    async def work(number: int) -> tuple[int, trio.lowlevel.Task]:
        await trio.lowlevel.checkpoint()
        return number + 1, trio.lowlevel.current_task()

    async with App(m):
        assert await m.run_worker(work, 1) == (2, trio.lowlevel.current_task())


async def test_run_worker_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """run_worker is a checkpoint even if the function isn't."""
    m = Module("m")

    async def work() -> int:
        return 1

    async with App(m):
        with assert_checkpoints():
            assert await m.run_worker(work) == 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await m.run_worker(work)
        assert scope.cancelled_caught


async def test_run_worker_counts_as_the_modules(autojump_clock: MockClock) -> None:
    """what run_worker runs is counted, and the stop functions wait for it."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    log: list[str] = []

    @m.on_stop
    async def stop() -> None:
        log.append("stop")

    async def outsider() -> None:
        with pytest.raises(ModuleOffline):
            await m.run_worker(step_out_slowly, log, "worker", 2)

    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(outsider)
        await let_run()
        assert running(app, "m") == 1
        await switch_off(app, m)
        assert log == ["worker", "stop"]
        assert trio.current_time() == 2
        assert running(app, "m") == 0


async def test_a_stop_waits_for_all_callers(autojump_clock: MockClock) -> None:
    """several run_worker and guarded calls at a time are all counted and all waited for."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    log: list[str] = []

    @m.on_stop
    async def stop() -> None:
        log.append("stop")

    async def outsider(name: str, seconds: float) -> None:
        with pytest.raises(ModuleOffline):
            await m.run_worker(step_out_slowly, log, name, seconds)

    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(outsider, "slow", 3)
        nursery.start_soon(outsider, "quick", 1)
        nursery.start_soon(m.guarded(step_out_slowly), log, "guarded", 2)
        await let_run()
        assert running(app, "m") == 3
        await switch_off(app, m)
        assert log == ["quick", "guarded", "slow", "stop"]


async def test_a_caller_that_outlasts_the_stop_time(autojump_clock: MockClock) -> None:
    """what a module provides isn't taken away before the last run_worker has really ended."""
    m = Module("m", enabled=True, stop_timeout=5)
    app = App(m, managed=True)
    log: list[str] = []

    @m.lifespan
    async def connection() -> AsyncGenerator[None]:
        yield
        log.append("closed")

    async def outsider() -> None:
        with pytest.raises(ModuleOffline):
            await m.run_worker(step_out_slowly, log, "worker", 30)

    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(outsider)
        await let_run()
        with pytest.raises(StopError):
            await switch_off(app, m)
        assert trio.current_time() == 5
        await m.wait_status(ModuleStatus.OFFLINE)
    assert log == ["worker", "closed"]


async def test_run_worker_raises_to_its_caller(autojump_clock: MockClock) -> None:
    """run_worker raises what the function raised, with a note, and reports nothing."""
    m = Module("m")
    app = App(m)
    error = ValueError("no")

    async def body() -> None:
        with pytest.raises(ValueError, match="no") as caught:
            await m.run_worker(fail, error, name="job")
        assert caught.value is error
        assert m.online

    assert await reports_of(app, body) == []
    assert app.last_error is None
    notes: list[str] = getattr(error, "__notes__", [])
    (note,) = notes
    assert "'m'" in note
    assert "'job'" in note


async def test_run_worker_raises_groups_whole(autojump_clock: MockClock) -> None:
    """an exception group from run_worker arrives unchanged, but for the note."""
    m = Module("m")
    group = ExceptionGroup("two", [ValueError(1), KeyError(2)])
    async with App(m):
        with pytest.raises(ExceptionGroup) as caught:
            await m.run_worker(fail, group)
        assert caught.value is group


async def test_run_workers_caller_may_be_cancelled(autojump_clock: MockClock) -> None:
    """the caller's cancellation ends run_worker and its function, quietly."""
    m = Module("m")
    app = App(m)

    async def body() -> None:
        with trio.move_on_after(2) as scope:
            await m.run_worker(trio.sleep_forever)
        assert scope.cancelled_caught
        assert trio.current_time() == 2
        assert running(app, "m") == 0
        assert m.online

    assert await reports_of(app, body) == []


async def test_run_worker_when_the_module_stops(autojump_clock: MockClock) -> None:
    """if the module stops first the function is cancelled and its caller gets ModuleOffline."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    seen: list[object] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            seen.append(cancelled.reason)
            raise

    async def outsider() -> None:
        with pytest.raises(ModuleOffline) as caught:
            await m.run_worker(work)
        seen.append(caught.value.module)

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outsider)
            await let_run()
            await switch_off(app, m)

    assert await reports_of(app, body) == []
    assert seen == ["module 'm' is stopping: disabled", "m"]


async def test_run_worker_that_fails_while_the_module_stops(autojump_clock: MockClock) -> None:
    """what the function raises while it is cancelled by the stop reaches its caller."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    error = ValueError("while leaving")

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def outsider() -> None:
        with pytest.raises(ValueError, match="while leaving") as caught:
            await m.run_worker(work)
        assert caught.value is error

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outsider)
            await let_run()
            await switch_off(app, m)

    assert await reports_of(app, body) == []


async def test_run_worker_that_ends_in_spite_of_the_stop(autojump_clock: MockClock) -> None:
    """a function that ends its work shielded returns its result although the module stops."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    results: list[int] = []

    async def work() -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        return 5

    async def outsider() -> None:
        results.append(await m.run_worker(work))

    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(outsider)
        await let_run()
        await switch_off(app, m)
        assert trio.current_time() == 3
    assert results == [5]


async def test_a_cancelled_caller_of_a_stopping_module(autojump_clock: MockClock) -> None:
    """when the caller is cancelled as well, its Cancelled wins over ModuleOffline."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    ended: list[str] = []

    async with app, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def outsider() -> None:
            with scope:
                await m.run_worker(step_out_slowly, ended, "worker", 2)
                raise AssertionError("run_worker must not return")

        nursery.start_soon(outsider)
        await let_run()
        m.disable()
        nursery.start_soon(app.manage)
        await let_run()
        scope.cancel()
    assert scope.cancelled_caught
    assert ended == ["worker"]


async def test_run_worker_within_its_own_module(autojump_clock: MockClock) -> None:
    """a worker that waits in run_worker of its own module is simply cancelled by the stop."""
    m = Module("m")
    app = App(m)
    seen: list[type[BaseException]] = []

    async def outer() -> None:
        try:
            await m.run_worker(trio.sleep_forever)
        except BaseException as error:
            seen.append(type(error))
            raise

    async def body() -> None:
        m.start_worker(outer)
        await let_run()

    assert await reports_of(app, body) == []
    assert seen == [trio.Cancelled]


# --- guarded -------------------------------------------------------------------------------------


async def test_guarded_contains_exceptions(autojump_clock: MockClock) -> None:
    """an exception in a guarded function is reported and doesn't reach its foreign task."""
    m = Module("m")
    app = App(m)
    error = ValueError("no")

    async def body() -> None:
        async with trio.open_nursery() as foreign:
            foreign.start_soon(m.guarded(fail, name="handler"), error)

    (report,) = await reports_of(app, body)
    assert (report.module, report.task_name, report.exception) == ("m", "handler", error)
    assert (report.task_type, report.severity) == ("worker", "panic")


async def test_guarded_passes_arguments_and_task(autojump_clock: MockClock) -> None:
    """a guarded function gets the caller's arguments and runs in the caller's task."""
    m = Module("m")
    seen: list[object] = []

    async def handle(first: int, *, second: str) -> None:
        await trio.lowlevel.checkpoint()
        seen.extend([first, second, trio.lowlevel.current_task()])

    async with App(m):
        await m.guarded(handle)(1, second="two")
        assert seen == [1, "two", trio.lowlevel.current_task()]


async def test_guarded_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """a guarded function is a checkpoint even if the function isn't."""
    m = Module("m")

    async def handle() -> None:
        pass

    async with App(m):
        with assert_checkpoints():
            await m.guarded(handle)()


async def test_guarded_counts_as_the_modules(autojump_clock: MockClock) -> None:
    """a stop cancels and awaits guarded functions, and their foreign tasks go on quietly."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    log: list[str] = []

    @m.on_stop
    async def stop() -> None:
        log.append("stop")

    async def foreign_task() -> None:
        await m.guarded(step_out_slowly)(log, "handler", 2)
        log.append("foreign task goes on")

    async def body() -> None:
        async with trio.open_nursery() as foreign:
            foreign.start_soon(foreign_task)
            await let_run()
            assert running(app, "m") == 1
            await switch_off(app, m)
            assert trio.current_time() == 2

    assert await reports_of(app, body) == []
    assert log[0] == "handler"
    assert sorted(log[1:]) == ["foreign task goes on", "stop"]


async def test_guarded_passes_the_callers_cancellation(autojump_clock: MockClock) -> None:
    """a guarded function doesn't swallow the cancellation of its caller."""
    m = Module("m")
    app = App(m)

    async def body() -> None:
        with trio.move_on_after(2) as scope:
            await m.guarded(trio.sleep_forever)()
            raise AssertionError("the Cancelled must pass")
        assert scope.cancelled_caught

    assert await reports_of(app, body) == []


async def test_guarded_may_be_made_before_the_app_runs(autojump_clock: MockClock) -> None:
    """a guarded function refuses while its module takes no work and works while it does."""
    m = Module("m")
    seen: list[str] = []

    async def handle() -> None:
        seen.append("handled")

    guarded = m.guarded(handle)
    with pytest.raises(ModuleOffline):
        await guarded()
    async with App(m):
        await guarded()
    with pytest.raises(ModuleOffline):
        await guarded()
    assert seen == ["handled"]


async def test_guarded_serves_tcp(autojump_clock: MockClock) -> None:
    """one failing connection handler neither ends the server nor the other connections."""
    m = Module("m")
    app = App(m)

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            if await stream.receive_some() == b"bad":
                raise ValueError("bad")
            await stream.send_all(b"good")

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            serve = partial(trio.serve_listeners, m.guarded(handle), [listener])
            nursery.start_soon(serve)
            for said, answer in ((b"bad", b""), (b"fine", b"good")):
                async with await open_stream_to_socket_listener(listener) as stream:
                    await stream.send_all(said)
                    assert await stream.receive_some() == answer
            nursery.cancel_scope.cancel()

    (report,) = await reports_of(app, body)
    assert report.task_name == "handle"


# --- exceptions ----------------------------------------------------------------------------------


async def test_a_failing_worker_ends_alone(autojump_clock: MockClock) -> None:
    """an exception in a worker is reported once; the others and the module go on."""
    m = Module("m")
    app = App(m)
    error = ValueError("no")

    async def body() -> None:
        m.start_worker(trio.sleep_forever)
        m.start_worker(fail, error)
        await trio.sleep(1)
        assert m.online
        work = app.status().modules["m"].work
        assert (work.started, work.running, work.ended) == (2, 1, 1)

    (report,) = await reports_of(app, body)
    assert report.exception is error
    assert (report.module, report.task_name) == ("m", "fail")
    assert (report.task_type, report.severity) == ("worker", "panic")
    assert app.last_error is report


class Unprintable(Exception):
    """An exception that can't even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("can't be shown")

    __str__ = __repr__


async def test_an_exception_that_cannot_be_shown(autojump_clock: MockClock) -> None:
    """an exception whose text can't be had is contained and reported like any other."""
    m = Module("m")
    app = App(m, stderr_reporting=True)
    error = Unprintable()

    async def body() -> None:
        m.start_worker(fail, error)
        await let_run()
        assert m.online

    (report,) = await reports_of(app, body)
    assert report.exception is error


async def test_a_failing_declared_worker_ends_alone(autojump_clock: MockClock) -> None:
    """a declared worker that fails doesn't hinder the start of its module."""
    m = Module("m")
    app = App(m)
    error = ValueError("no")

    @m.worker
    async def work() -> None:
        raise error

    async def body() -> None:
        await let_run()
        assert m.online

    (report,) = await reports_of(app, body)
    assert (report.exception, report.task_name) == (error, "work")


async def test_a_group_of_exceptions_is_one_report(autojump_clock: MockClock) -> None:
    """an exception group from a worker is reported whole, once."""
    m = Module("m")
    app = App(m)
    group = ExceptionGroup("two", [ValueError(1), KeyError(2)])

    async def body() -> None:
        m.start_worker(fail, group)
        await let_run()

    (report,) = await reports_of(app, body)
    assert report.exception is group


async def test_a_stray_cancelled_is_a_failure(autojump_clock: MockClock) -> None:
    """a worker that raises a Cancelled of a scope that is gone is reported."""
    m = Module("m")
    app = App(m)
    stray = await stray_cancelled()

    async def body() -> None:
        m.start_worker(fail, stray)
        await let_run()
        assert m.online

    (report,) = await reports_of(app, body)
    assert report.exception is stray


async def test_a_stray_cancelled_in_a_group_is_a_failure(autojump_clock: MockClock) -> None:
    """a stray Cancelled within a group is reported, too, with what came with it."""
    m = Module("m")
    app = App(m)
    stray, error = await stray_cancelled(), ValueError("no")

    async def body() -> None:
        m.start_worker(fail, BaseExceptionGroup("mixed", [stray, error]))
        await let_run()
        assert m.online

    (report,) = await reports_of(app, body)
    assert list(leaves(report.exception)) == [stray, error]


async def test_an_exception_that_wraps_a_cancellation_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    """an exception whose cause is a Cancelled is reported like any other."""
    m = Module("m")
    app = App(m)
    error = RuntimeError("no")
    error.__cause__ = await stray_cancelled()

    async def body() -> None:
        m.start_worker(fail, error)
        await let_run()

    (report,) = await reports_of(app, body)
    assert report.exception is error


async def test_a_stray_cancelled_from_run_worker(autojump_clock: MockClock) -> None:
    """run_worker raises a stray Cancelled to its caller like any failure."""
    m = Module("m")
    app = App(m)
    stray = await stray_cancelled()
    caught: list[BaseException] = []

    async def body() -> None:
        try:
            await m.run_worker(fail, stray)
        except trio.Cancelled as error:
            caught.append(error)

    assert await reports_of(app, body) == []
    assert caught == [stray]


async def test_a_stray_cancelled_in_guarded(autojump_clock: MockClock) -> None:
    """a guarded function contains and reports a stray Cancelled."""
    m = Module("m")
    app = App(m)
    stray = await stray_cancelled()

    async def body() -> None:
        await m.guarded(fail)(stray)

    (report,) = await reports_of(app, body)
    assert report.exception is stray


async def test_a_genuine_cancelled_is_not_reported(autojump_clock: MockClock) -> None:
    """workers that are cancelled by the stop, with nurseries in them or not, report nothing."""
    m = Module("m")
    app = App(m)

    async def with_children() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    async def body() -> None:
        m.start_worker(trio.sleep_forever)
        m.start_worker(with_children)
        await let_run()

    assert await reports_of(app, body) == []


async def test_a_group_of_a_genuine_cancelled_and_an_exception(
    autojump_clock: MockClock,
) -> None:
    """of a group with a genuine Cancelled just the exceptions are reported."""
    m = Module("m")
    app = App(m)
    error = ValueError("while leaving")

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(trio.sleep_forever)

    async def body() -> None:
        m.start_worker(work)
        await let_run()

    (report,) = await reports_of(app, body)
    assert list(leaves(report.exception)) == [error]


async def test_run_worker_splits_a_group_of_its_callers_cancellation(
    autojump_clock: MockClock,
) -> None:
    """a cancelled caller gets what its worker raised beside the Cancelled, and only that."""
    m = Module("m")
    app = App(m)
    error = ValueError("while leaving")

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(trio.sleep_forever)

    async def body() -> None:
        caught: list[BaseException] = []
        with trio.move_on_after(1):
            try:
                await m.run_worker(work)
            except ExceptionGroup as group:
                caught.extend(leaves(group))
            except BaseExceptionGroup as group:
                caught.extend(part for part in leaves(group) if isinstance(part, ValueError))
        assert caught == [error]

    assert await reports_of(app, body) == []


async def test_a_workers_own_scopes_are_its_own(autojump_clock: MockClock) -> None:
    """a cancel scope inside a worker works as everywhere, and nobody hears of it."""
    m = Module("m")
    app = App(m)
    done: list[float] = []

    async def work() -> None:
        with trio.move_on_after(1):
            await trio.sleep_forever()
        done.append(trio.current_time())

    async def body() -> None:
        m.start_worker(work)
        await trio.sleep(2)

    assert await reports_of(app, body) == []
    assert done == [1]


LEAVING: list[Any] = [SystemExit(3), KeyboardInterrupt(), Outcome()]


@pytest.mark.parametrize("leaving", LEAVING, ids=lambda error: type(error).__name__)
async def test_other_base_exceptions_shut_down(
    autojump_clock: MockClock, leaving: BaseException
) -> None:
    """a non-Exception in a worker passes every guard, after an ordered shutdown."""
    m, other = Module("m"), Module("other")
    app = App(m, other)
    log: list[str] = []

    @other.on_stop
    async def stop() -> None:
        await trio.lowlevel.checkpoint()
        log.append("other stopped")

    async def body() -> None:
        m.start_worker(fail, leaving)
        await trio.sleep_forever()

    with pytest.raises(type(leaving)) as caught:
        async with app:
            await body()
    assert caught.value is leaving
    assert log == ["other stopped"]


async def test_a_group_with_another_base_exception(autojump_clock: MockClock) -> None:
    """of a group with a SystemExit that leaves the block, and the exceptions are reported."""
    m = Module("m")
    app = App(m)
    leaving, error = SystemExit(3), ValueError("no")

    async def body() -> None:
        m.start_worker(fail, BaseExceptionGroup("mixed", [leaving, error]))
        await trio.sleep_forever()

    async with app.reports() as reports:
        with pytest.raises(SystemExit) as caught:
            async with app:
                await body()
        assert caught.value is leaving
        (report,) = [report async for report in reports]
    assert list(leaves(report.exception)) == [error]


async def test_a_base_exception_in_guarded(autojump_clock: MockClock) -> None:
    """a non-Exception passes guarded to the task that called."""
    m = Module("m")
    leaving = SystemExit(3)
    async with App(m):
        with pytest.raises(SystemExit) as caught:
            await m.guarded(fail)(leaving)
        assert caught.value is leaving


def by_run_worker(module: Module, error: BaseException) -> Callable[[], Awaitable[None]]:
    return partial(module.run_worker, fail, error)


def by_guarded(module: Module, error: BaseException) -> Callable[[], Awaitable[None]]:
    return partial(module.guarded(fail), error)


@pytest.mark.parametrize("call", [by_run_worker, by_guarded])
@pytest.mark.parametrize("grouped", [False, True])
async def test_a_base_exception_outside_of_the_block(
    autojump_clock: MockClock,
    call: Callable[[Module, BaseException], Callable[[], Awaitable[None]]],
    grouped: bool,
) -> None:
    """it goes to its caller, who keeps it here, and begins the shutdown all the same."""
    m = Module("m")
    app = App(m)
    leaving = SystemExit(3)
    error = BaseExceptionGroup("one", [leaving]) if grouped else leaving

    async def outsider() -> None:
        await m.wait_online()
        with pytest.raises((SystemExit, BaseExceptionGroup)) as got:
            await call(m, error)()
        assert list(leaves(got.value)) == [leaving]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outsider)
        with pytest.raises(SystemExit) as caught:
            async with app:
                await trio.sleep_forever()
        assert caught.value is leaving


@pytest.mark.parametrize("call", [by_run_worker, by_guarded])
async def test_a_base_exception_that_comes_twice(
    autojump_clock: MockClock,
    call: Callable[[Module, BaseException], Callable[[], Awaitable[None]]],
) -> None:
    """one that its caller lets into the block by another way still leaves bare."""
    m = Module("m")
    leaving = SystemExit(3)
    mailbox: list[BaseException] = []

    async def outsider() -> None:
        await m.wait_online()
        try:
            await call(m, leaving)()
        except SystemExit as exc:
            mailbox.append(exc)

    async def body() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise mailbox[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outsider)
        with pytest.raises(SystemExit) as caught:
            async with App(m):
                await body()
        assert caught.value is leaving


# --- the coroutine of a worker -------------------------------------------------------------------


class Foreign:
    """What another library's event loop would understand."""

    def __await__(self) -> Iterator[object]:
        yield "a future"


async def test_a_worker_of_another_library(autojump_clock: MockClock) -> None:
    """a worker that awaits what isn't Trio's gets Trio's TypeError, which is reported."""
    m = Module("m")
    app = App(m)

    async def wait_for_another_loop() -> None:
        await Foreign()  # type: ignore[misc]

    async def body() -> None:
        m.start_worker(wait_for_another_loop)
        m.start_worker(wait_for_another_loop, grace_period=1)
        await let_run()
        assert app.status().totals.work.running == 0

    reports = await reports_of(app, body)
    assert [type(report.exception) for report in reports] == [TypeError, TypeError]
    assert {report.task_name for report in reports} == {"wait_for_another_loop"}


async def test_a_worker_may_survive_it(autojump_clock: MockClock) -> None:
    """a worker that catches Trio's TypeError goes on, and ends like any other."""
    m = Module("m")
    app = App(m)

    async def try_another_loop(*, returns: bool) -> None:
        with pytest.raises(TypeError):
            await Foreign()  # type: ignore[misc]
        if not returns:
            await trio.sleep(1)

    async def body() -> None:
        m.start_worker(partial(try_another_loop, returns=True))
        m.start_worker(partial(try_another_loop, returns=False))
        await let_run()
        assert app.status().totals.work.running == 1
        await trio.sleep(2)
        assert app.status().totals.work.running == 0

    assert await reports_of(app, body) == []


async def test_the_stack_of_a_worker(autojump_clock: MockClock) -> None:
    """the task tree shows a worker's own frames, with and without a grace period."""
    m = Module("m")

    async def wait_here() -> None:
        await trio.sleep_forever()

    async with App(m) as app:
        m.start_worker(wait_here)
        m.start_worker(wait_here, grace_period=1)
        m.start_worker(wait_here, cancel_scope=trio.CancelScope())
        await let_run()
        tree = app.task_tree()
    stacks = re.findall(r"task wait_here\n(.*\n)*?.*in wait_here\n.*\n.*in sleep_forever\n", tree)
    assert len(stacks) == 3
