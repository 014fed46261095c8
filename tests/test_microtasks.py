"""Microtasks: who gets a slot and when, what becomes of those that wait, and how they end."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import weakref
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from lifecycle_helpers import ONE_SHOT, Trace, notes_of, watching
from support import fail, let_run, reports_of, stray_cancelled, switch_off
from trio.testing import MockClock, assert_checkpoints

from trio_modules import (
    App,
    Module,
    ModuleCrashed,
    ModuleOffline,
    ModuleStatus,
    Priority,
    Restart,
    RestartModule,
    StartError,
    StopError,
    Task,
    current_app,
    current_module,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

HIGH, MEDIUM, LOW = Priority.HIGH, Priority.MEDIUM, Priority.LOW
colour: ContextVar[str] = ContextVar("colour", default="none")


async def noop() -> None:
    """End without a checkpoint."""


def used(app: App) -> tuple[int, int]:
    """How many slots are held, and how many wait for one."""
    limits = app.status().limits
    return limits.microtasks_running, limits.microtasks_waiting


def work(app: App, name: str) -> tuple[int, int, int]:
    counts = app.status().modules[name].work
    return counts.started, counts.running, counts.ended


def states(app: App, name: str) -> list[tuple[str, str]]:
    """The microtasks of a module that its status shows, each with its state."""
    return [(each.name, each.state) for each in app.status().modules[name].microtasks]


async def hold(module: Module, count: int = 1) -> trio.Event:
    """Let microtasks hold so many slots, until the event is set."""
    release = trio.Event()
    for _ in range(count):
        module.start_microtask(release.wait, name="holder")
    await let_run()
    return release


async def run_in_place(module: Module, trace: Trace, name: str, priority: Priority) -> None:
    await module.run_microtask(trace.step(name), priority=priority)


async def in_slot(module: Module, trace: Trace, name: str, priority: Priority) -> None:
    async with module.microtask_slot(priority=priority):
        trace.add(name)


def begin_started(
    nursery: trio.Nursery, module: Module, trace: Trace, name: str, priority: Priority
) -> None:
    module.start_microtask(trace.step(name), priority=priority)


def begin_in_place(
    nursery: trio.Nursery, module: Module, trace: Trace, name: str, priority: Priority
) -> None:
    nursery.start_soon(run_in_place, module, trace, name, priority)


def begin_slot(
    nursery: trio.Nursery, module: Module, trace: Trace, name: str, priority: Priority
) -> None:
    nursery.start_soon(in_slot, module, trace, name, priority)


EVERY_WAY = pytest.mark.parametrize("begin", [begin_started, begin_in_place, begin_slot])


# --- limits ------------------------------------------------------------------------------------


def test_the_default_limit_is_twice_the_processors() -> None:
    """there are twice as many slots as processors, and at least 2."""
    assert App().max_concurrent_microtasks == max(2, 2 * (os.cpu_count() or 1))


def test_the_default_limit_is_at_least_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """there are 2 slots even where nobody knows how many processors there are."""
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert App().max_concurrent_microtasks == 2


@EVERY_WAY
async def test_no_more_than_the_limit_hold_a_slot(begin: Any, autojump_clock: MockClock) -> None:
    """MEDIUM and LOW microtasks begin only while a slot is free."""
    m = Module("m")
    trace = Trace()
    async with App(m, max_concurrent_microtasks=2) as app, trio.open_nursery() as nursery:
        release = await hold(m, 2)
        begin(nursery, m, trace, "medium", MEDIUM)
        begin(nursery, m, trace, "low", LOW)
        await let_run()
        assert trace.names == []
        assert used(app) == (2, 2)
        release.set()
        await let_run()
        assert sorted(trace.names) == ["low", "medium"]
        assert used(app) == (0, 0)


@EVERY_WAY
async def test_high_begins_at_once_and_counts(begin: Any, autojump_clock: MockClock) -> None:
    """a HIGH microtask takes a slot whether one is free or not, and others wait for it too."""
    m = Module("m")
    trace = Trace()
    async with App(m, max_concurrent_microtasks=1) as app, trio.open_nursery() as nursery:
        first = await hold(m)
        second = await hold(m)
        assert used(app) == (2, 0)
        begin(nursery, m, trace, "high", HIGH)
        begin(nursery, m, trace, "medium", MEDIUM)
        await let_run()
        assert trace.names == ["high"]
        first.set()
        await let_run()
        assert trace.names == ["high"]  # the second holder holds the only slot
        second.set()
        await let_run()
        assert trace.names == ["high", "medium"]


@EVERY_WAY
@pytest.mark.parametrize(("priority", "seconds"), [(MEDIUM, 3), (LOW, 15)])
async def test_who_waits_for_too_long_begins_regardless(
    begin: Any, priority: Priority, seconds: float, autojump_clock: MockClock
) -> None:
    """MEDIUM waits for a slot at most 3 seconds, LOW at most 15; they count as well."""
    m = Module("m")
    trace = Trace()
    async with App(m, max_concurrent_microtasks=1) as app, trio.open_nursery() as nursery:
        release = await hold(m)
        await trio.sleep(1)
        began = trio.current_time()
        begin(nursery, m, trace, "late", priority)
        await trio.sleep(1)
        begin(nursery, m, trace, "later", LOW)
        await trio.sleep(seconds - 1.125)
        assert trace.names == []
        await trio.sleep(0.125)
        await let_run()
        assert trace.names == ["late"]
        assert trace.at("late") == began + seconds
        release.set()
        await let_run()
        assert used(app) == (0, 0)


async def test_max_delay_takes_the_place_of_the_patience(autojump_clock: MockClock) -> None:
    """max_delay says how long a microtask waits, 0 not at all, infinity as long as it takes."""
    m = Module("m")
    trace = Trace()
    async with App(m, max_concurrent_microtasks=1):
        release = await hold(m)
        began = trio.current_time()
        for delay in (0, 1.5, 40, float("inf")):
            m.start_microtask(trace.step(f"{delay}"), priority=MEDIUM, max_delay=delay)
        with trio.move_on_after(2):
            await m.run_microtask(trace.step("in place"), priority=LOW, max_delay=0.5)
        await trio.sleep(1000)
        assert trace.names == ["0", "in place", "1.5", "40"]
        assert [time - began for time, _ in trace.entries] == [0, 0.5, 1.5, 40]
        release.set()
        await let_run()
        assert trace.names[-1] == "inf"


async def test_patience_of_a_later_one_may_end_earlier(autojump_clock: MockClock) -> None:
    """a MEDIUM microtask that came after a LOW one begins after its own 3 seconds."""
    m = Module("m")
    trace = Trace()
    async with App(m, max_concurrent_microtasks=1):
        await hold(m)
        began = trio.current_time()
        m.start_microtask(trace.step("low"), priority=LOW)
        await trio.sleep(1)
        m.start_microtask(trace.step("medium"), priority=MEDIUM)
        await trio.sleep(30)
        assert trace.at("medium") == began + 4
        assert trace.at("low") == began + 15
        m.nursery.cancel_scope.cancel()


@EVERY_WAY
async def test_medium_goes_before_low_each_first_come_first_served(
    begin: Any, autojump_clock: MockClock
) -> None:
    """free slots go to MEDIUM before LOW, in each to who came first."""
    m = Module("m")
    trace = Trace()
    async with App(m, max_concurrent_microtasks=1), trio.open_nursery() as nursery:
        release = await hold(m)
        for name, priority in (("l1", LOW), ("m1", MEDIUM), ("l2", LOW), ("m2", MEDIUM)):
            begin(nursery, m, trace, name, priority)
            await let_run()
        release.set()
        await let_run()
        assert trace.names == ["m1", "m2", "l1", "l2"]


async def test_all_modules_share_the_slots_in_one_order(autojump_clock: MockClock) -> None:
    """slots are the app's: who came first is next, of whatever module and in whatever way."""
    a, b = Module("a"), Module("b")
    trace = Trace()
    async with App(a, b, max_concurrent_microtasks=1), trio.open_nursery() as nursery:
        release = await hold(a)
        ways = (begin_started, begin_in_place, begin_slot) * 2
        for number, begin in enumerate(ways):
            begin(nursery, (a, b)[number % 2], trace, str(number), MEDIUM)
            await let_run()
        release.set()
        await let_run()
        assert trace.names == ["0", "1", "2", "3", "4", "5"]


async def test_a_higher_limit_lets_in_at_once(autojump_clock: MockClock) -> None:
    """raising the limit while the app runs lets in those who wait, in order."""
    m = Module("m")
    release = trio.Event()
    async with App(m, max_concurrent_microtasks=1) as app:
        await hold(m)
        for number in range(3):
            m.start_microtask(release.wait, priority=MEDIUM, name=str(number))
        app.max_concurrent_microtasks = 3
        await let_run()
        assert used(app) == (3, 1)
        assert states(app, "m")[0] == ("2", "waiting")
        m.nursery.cancel_scope.cancel()


async def test_a_lower_limit_takes_nothing_away(autojump_clock: MockClock) -> None:
    """lowering the limit leaves those who run alone and lets nobody in before it is kept."""
    m = Module("m")
    trace = Trace()
    async with App(m, max_concurrent_microtasks=3) as app:
        holders = [await hold(m) for _ in range(3)]
        app.max_concurrent_microtasks = 1
        m.start_microtask(trace.step("medium"), priority=MEDIUM)
        for left, holder in zip((2, 1), holders, strict=False):
            holder.set()
            await let_run()
            assert used(app) == (left, 1)
        holders[2].set()
        await let_run()
        assert trace.names == ["medium"]
        assert app.status().limits.max_concurrent_microtasks == 1


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2", None])
def test_a_limit_that_is_none_is_an_error(value: Any) -> None:
    """a limit is an integer of at least 1, and a wrong one changes nothing."""
    app = App(max_concurrent_microtasks=3)
    with pytest.raises((TypeError, ValueError), match="max_concurrent_microtasks must be"):
        app.max_concurrent_microtasks = value
    assert app.max_concurrent_microtasks == 3


# --- nesting -----------------------------------------------------------------------------------


async def test_nested_microtasks_of_one_task_use_its_slot(autojump_clock: MockClock) -> None:
    """a microtask within a microtask of one task takes no slot and so never waits for itself."""
    m, other = Module("m"), Module("other")
    seen: list[tuple[int, int]] = []

    async def innermost() -> None:
        seen.append(used(app))

    async def inner() -> None:
        async with other.microtask_slot(priority=LOW):
            await m.run_microtask(innermost, priority=MEDIUM)
        seen.append(used(app))

    async with App(m, other, max_concurrent_microtasks=1) as app:
        before = trio.current_time()
        await m.run_microtask(inner)
        m.start_microtask(inner)
        await let_run()
        async with m.microtask_slot():
            await inner()
            assert used(app) == (1, 0)
        assert seen == [(1, 0)] * 6
        assert trio.current_time() == before
        assert used(app) == (0, 0)


async def test_child_tasks_dont_use_the_slot_of_their_parent(autojump_clock: MockClock) -> None:
    """a microtask in a child task of one waits for a slot of its own."""
    m = Module("m")
    trace = Trace()

    async def parent() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_in_place, m, trace, "child", MEDIUM)
            await trio.sleep(1)
            trace.add("waited")

    async with App(m, max_concurrent_microtasks=1):
        await m.run_microtask(parent)
        assert trace.names == ["waited", "child"]
        assert trace.at("child") == 3  # patience let it in


async def test_a_microtask_that_starts_another_gives_it_a_slot_of_its_own(
    autojump_clock: MockClock,
) -> None:
    """start_microtask within a microtask waits for another slot."""
    m = Module("m")
    trace = Trace()

    async def first() -> None:
        m.start_microtask(trace.step("second"), priority=MEDIUM)
        await trio.sleep(1)
        trace.add("first")

    async with App(m, max_concurrent_microtasks=1):
        m.start_microtask(first)
        await trio.sleep(2)
        assert trace.names == ["first", "second"]


async def test_a_slot_is_free_again_after_a_nested_failure(autojump_clock: MockClock) -> None:
    """errors inside of nested microtasks give back one slot, not two."""
    m = Module("m")

    async def outer() -> None:
        with pytest.raises(ValueError, match="inner"):
            await m.run_microtask(fail, ValueError("inner"))
        assert used(app) == (1, 0)
        raise KeyError("outer")

    async with App(m, max_concurrent_microtasks=1) as app:
        with pytest.raises(KeyError):
            await m.run_microtask(outer)
        assert used(app) == (0, 0)


# --- shutdown and cancelled waiters ------------------------------------------------------------


async def test_during_shutdown_nobody_waits(autojump_clock: MockClock) -> None:
    """the beginning of a shutdown lets all in, and those who come later wait for nothing."""
    a = Module("a")
    trace = Trace()
    b = Module("b", depends_on=[a])

    @b.on_stop
    async def call() -> None:
        assert used(app) == (1, 0)
        await a.run_microtask(trace.step("called"), priority=LOW)
        a.start_microtask(trace.step("started"), priority=LOW)
        await let_run()
        async with a.microtask_slot(priority=LOW):
            trace.add("slot")

    async with App(a, b, max_concurrent_microtasks=1) as app:
        await hold(a)
    assert trace.entries == [(0, "called"), (0, "started"), (0, "slot")]


async def test_who_waits_is_let_in_by_the_shutdown(autojump_clock: MockClock) -> None:
    """a caller in a module that stops last gets its slot in the step of the shutdown."""
    base = Module("base")
    trace = Trace()
    top = Module("top", depends_on=[base], stop=trace.step("top.stop", 1))

    async with App(base, top, max_concurrent_microtasks=1) as app:
        await hold(base)
        base.start_microtask(trace.step("low"), priority=LOW)
        base.start_worker(run_in_place, base, trace, "in place", LOW)
        await let_run()
        app.request_shutdown()
    assert sorted(trace.names[:2]) == ["in place", "low"]
    assert trace.at("low") == trace.at("in place") == 0


async def test_a_cancelled_caller_that_waits_loses_no_slot(autojump_clock: MockClock) -> None:
    """who is cancelled while waiting holds none, and the next in line gets the next one."""
    m = Module("m")
    trace = Trace()
    async with App(m, max_concurrent_microtasks=1) as app, trio.open_nursery() as nursery:
        release = await hold(m)
        for begin in (begin_in_place, begin_slot):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    begin(inner, m, trace, "never", MEDIUM)
                    await let_run()
                    assert used(app) == (1, 1)
                    scope.cancel()
            assert scope.cancelled_caught
            assert used(app) == (1, 0)
        begin_in_place(nursery, m, trace, "next", MEDIUM)
        await let_run()
        release.set()
        await let_run()
        assert trace.names == ["next"]
        assert used(app) == (0, 0)
        assert work(app, "m") == (4, 0, 4)


@pytest.mark.parametrize("begin", [begin_in_place, begin_slot])
async def test_who_is_cancelled_in_the_step_of_the_grant_gives_the_slot_on(
    begin: Any, autojump_clock: MockClock
) -> None:
    """a slot granted to who is cancelled in the same step goes to the next in line."""
    m = Module("m")
    trace = Trace()
    async with App(m, max_concurrent_microtasks=1) as app, trio.open_nursery() as nursery:
        await hold(m)
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                async with trio.open_nursery() as inner:
                    begin(inner, m, trace, "first", MEDIUM)

        nursery.start_soon(cancelled)
        await let_run()
        begin_in_place(nursery, m, trace, "second", MEDIUM)
        await let_run()
        app.max_concurrent_microtasks = 2  # the first has it now
        assert used(app) == (2, 1)
        scope.cancel()
        await let_run()
        assert used(app) == (1, 0)
        assert trace.names[-1] == "second"
        m.nursery.cancel_scope.cancel()


async def offline_call(module: Module, trace: Trace) -> None:
    with pytest.raises(ModuleOffline) as caught:
        await module.run_microtask(trace.step("called"), priority=MEDIUM, name="call")
    assert caught.value.wanted == "finish 'call'"


async def offline_slot(module: Module, trace: Trace) -> None:
    with pytest.raises(ModuleOffline) as caught:
        await in_slot(module, trace, "slot", MEDIUM)
    assert caught.value.wanted == "take a microtask slot"


async def test_a_stop_lets_those_go_who_wait(autojump_clock: MockClock) -> None:
    """whoever waits for a slot of a module that stops gets ModuleOffline, and holds none."""
    m, other = Module("m", enabled=True), Module("other", enabled=True)
    trace = Trace()
    async with App(m, other, managed=True, max_concurrent_microtasks=1) as app:
        release = await hold(other)
        async with trio.open_nursery() as nursery:
            m.start_microtask(trace.step("started"), priority=MEDIUM)
            nursery.start_soon(offline_call, m, trace)
            nursery.start_soon(offline_slot, m, trace)
            await let_run()
            assert used(app) == (1, 3)
            await switch_off(app, m)
        assert used(app) == (1, 0)
        assert work(app, "m") == (3, 0, 3)
        release.set()
        await let_run()
        assert used(app) == (0, 0)
        assert trace.names == []


async def test_a_stop_in_the_step_of_the_grant_loses_no_slot(autojump_clock: MockClock) -> None:
    """what was granted a slot in the step in which its module begins to stop gives it back.

    What was started doesn't begin or is cancelled, so is what was called, and a block, which
    nobody cancels, is waited for.
    """
    m = Module("m")
    trace = Trace()

    async def call() -> None:
        with pytest.raises(ModuleOffline):
            await m.run_microtask(trace.step("called", 1), priority=MEDIUM)

    async with App(m, max_concurrent_microtasks=1) as app, trio.open_nursery() as nursery:
        await hold(m)
        m.start_microtask(trace.step("started", 1), priority=MEDIUM)
        nursery.start_soon(call)
        nursery.start_soon(in_slot, m, trace, "slot", MEDIUM)
        await let_run()
        assert used(app) == (1, 3)
        await app.shutdown()  # it lets them in, and the modules stop in the same step
        assert used(app) == (0, 0)
        assert set(trace.names) - {"started!"} == {"called!", "slot"}
        assert work(app, "m") == (4, 0, 4)


# --- what a stop sees --------------------------------------------------------------------------


async def test_started_work_that_waits_is_counted_from_the_call_on(
    autojump_clock: MockClock,
) -> None:
    """a microtask that waits for a slot is shown as the module's running work."""
    m = Module("m")
    async with App(m, max_concurrent_microtasks=1) as app:
        await hold(m)
        m.start_microtask(noop, priority=LOW)
        assert work(app, "m") == (2, 2, 0)
        assert states(app, "m") == [("noop", "waiting"), ("holder", "running")]
        m.nursery.cancel_scope.cancel()


async def test_a_stop_drops_what_waits_and_never_begins_it(autojump_clock: MockClock) -> None:
    """a microtask that waits for a slot when its module stops never begins, not even later."""
    trace = Trace()
    m = Module("m", enabled=True, stop=trace.step("stop"))
    other = Module("other", enabled=True)
    async with App(m, other, managed=True, max_concurrent_microtasks=1) as app:
        release = await hold(other)
        m.start_microtask(trace.step("never"), priority=LOW)
        await switch_off(app, m)
        assert work(app, "m") == (1, 0, 1)
        release.set()
        await trio.sleep(20)
        assert trace.names == ["stop"]
        m.enable()
        await app.manage()
        await trio.sleep(20)
        assert trace.names == ["stop"]
        assert work(app, "m") == (1, 0, 1)


async def test_a_running_microtask_is_cancelled_by_the_stop_and_awaited(
    autojump_clock: MockClock,
) -> None:
    """stop functions run after the microtasks have ended, also those in a shield."""
    trace = Trace()
    m = Module("m", stop=trace.step("stop"))

    async def shielded() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        trace.add("shielded")
        await trio.sleep(5)

    async with App(m, max_concurrent_microtasks=4) as app:
        m.start_microtask(trace.step("cancelled", 100))
        m.start_microtask(shielded)
        async with trio.open_nursery() as nursery:
            await let_run()
            nursery.start_soon(app.restart, m)
            await trio.sleep(1)
            assert m.status is ModuleStatus.STOPPING
            with pytest.raises(ModuleOffline):
                m.start_microtask(noop)
        assert trace.names == ["cancelled!", "shielded", "stop"]
        assert used(app) == (0, 0)


async def test_stop_waits_for_the_block_of_a_slot_and_cancels_nothing(
    autojump_clock: MockClock,
) -> None:
    """a stop waits for a block that holds a slot, and doesn't cancel it."""
    trace = Trace()
    m = Module("m", enabled=True, stop=trace.step("stop"))

    async def block() -> None:
        async with m.microtask_slot():
            await trio.sleep(5)
            trace.add("block")

    async with App(m, managed=True) as app, trio.open_nursery() as nursery:
        nursery.start_soon(block)
        await let_run()
        await switch_off(app, m)
        assert trace.entries == [(5, "block"), (5, "stop")]


async def test_a_block_that_outlasts_the_stop_timeout_is_a_stop_error(
    autojump_clock: MockClock,
) -> None:
    """a block that is still there at stop_timeout is logged as a StopError, but not cancelled."""
    trace = Trace()
    m = Module("m", enabled=True, stop_timeout=4)

    async def block() -> None:
        async with m.microtask_slot():
            await trio.sleep(10)
            trace.add("block")

    async with App(m, managed=True) as app, trio.open_nursery() as nursery:
        nursery.start_soon(block)
        await let_run()
        with pytest.raises(StopError, match="in block"):
            await switch_off(app, m)
        assert trio.current_time() == 4
    assert trace.entries == [(10, "block")]


async def test_the_modules_own_code_still_starts_microtasks_while_it_stops(
    autojump_clock: MockClock,
) -> None:
    """a worker with a grace period may start microtasks while its module stops; they are awaited.

    The module's work is cancelled already: what is started then waits for no slot and runs to its
    first checkpoint.
    """
    trace = Trace()
    m = Module("m", enabled=True, stop=trace.step("stop"))
    other = Module("other", enabled=True)

    async def shielded() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(4)
        trace.add("shielded")

    async def last_words() -> None:
        await m.stopping.wait()
        await trio.sleep(1)
        m.start_microtask(trace.step("own", 1), priority=LOW)
        m.start_microtask(shielded, priority=LOW)
        await let_run()
        await m.run_microtask(trace.step("in place", 1), priority=HIGH)

    async with App(m, other, managed=True, max_concurrent_microtasks=1) as app:
        await hold(other)
        m.start_worker(last_words, grace_period=5)
        await let_run()
        await switch_off(app, m)
        assert trace.entries == [(1, "own!"), (2, "in place"), (5, "shielded"), (5, "stop")]
        assert work(app, "m") == (4, 0, 4)
        assert used(app) == (1, 0)
        other.nursery.cancel_scope.cancel()


async def test_a_crash_cancels_microtasks_in_every_state(autojump_clock: MockClock) -> None:
    """a module that crashes loses no slot, whatever its microtasks were doing, and starts again."""
    m = Module("m", restart=Restart(max_restarts=1))
    other = Module("other")
    trace = Trace()
    async with App(m, other, max_concurrent_microtasks=1) as app, trio.open_nursery() as nursery:
        release = await hold(other)
        m.start_microtask(trace.step("running", 100))  # above the limit
        await let_run()
        m.start_microtask(trace.step("started"), priority=LOW)
        nursery.start_soon(offline_call, m, trace)
        nursery.start_soon(offline_slot, m, trace)
        await let_run()
        assert used(app) == (2, 3)
        m.nursery.start_soon(fail, ValueError("the end"))
        await let_run()
        assert m.status is not ModuleStatus.ONLINE
        assert used(app) == (1, 0)
        await m.wait_online()
        assert trace.names == ["running!"]
        assert work(app, "m") == (4, 0, 4)
        release.set()
        await m.run_microtask(trace.step("again"), priority=MEDIUM)
        assert trace.names == ["running!", "again"]
        assert used(app) == (0, 0)


async def test_a_start_that_fails_drops_what_waits(autojump_clock: MockClock) -> None:
    """microtasks that a start function started and that wait are dropped if the start fails."""
    other = Module("other")
    m = Module("m", depends_on=[other])
    trace = Trace()

    @m.on_start
    async def start() -> None:
        other.start_worker(in_slot_for, other, 30.0)
        await let_run()
        m.start_microtask(trace.step("never"), priority=LOW)
        await let_run()
        raise ValueError("no")

    app = App(m, other, max_concurrent_microtasks=1)
    with pytest.raises(StartError):
        async with app:
            pass
    assert "never" not in trace.names
    assert work(app, "m") == (1, 0, 1)


async def in_slot_for(module: Module, seconds: float) -> None:
    async with module.microtask_slot():
        await trio.sleep(seconds)


async def test_a_start_that_is_cancelled_from_its_nursery_drops_what_waits(
    autojump_clock: MockClock,
) -> None:
    """what waits is dropped as well if something in the nursery fails while the module starts.

    The module is added to a running app, so that no shutdown lets the waiting one in.
    """
    other = Module("other")
    trace = Trace()
    m = Module("m", restart=ONE_SHOT)

    @m.on_start
    async def start() -> None:
        m.start_microtask(trace.step("never"), priority=LOW)

    @m.service_worker
    async def slow(task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)
        m.nursery.start_soon(fail, ValueError("no"))
        await trio.sleep(100)

    async with App(other, max_concurrent_microtasks=1) as app:
        release = await hold(other)
        with pytest.raises(StartError):
            await app.add(m)
        assert used(app) == (1, 0)
        release.set()
        await trio.sleep(20)
        assert used(app) == (0, 0)
        assert trace.names == []


async def test_a_nursery_that_is_cancelled_as_its_module_stops_takes_callers_with_it(
    autojump_clock: MockClock,
) -> None:
    """callers are cancelled, too, if the nursery is cancelled in the step of the stop."""
    m = Module("m")
    ended: list[float] = []

    async def call(way: Callable[..., Awaitable[object]]) -> None:
        with pytest.raises(ModuleOffline):
            await way(trio.sleep, 1000)
        ended.append(trio.current_time())

    async with App(m, max_concurrent_microtasks=1) as app, trio.open_nursery() as nursery:
        nursery.start_soon(call, m.run_worker)
        nursery.start_soon(call, m.run_microtask)
        nursery.start_soon(call, partial(m.run_microtask, priority=LOW))
        await let_run()
        m.nursery.cancel_scope.cancel()
        await app.shutdown()
        assert ended == [0, 0, 0]
        assert used(app) == (0, 0)


async def test_restarts_under_load_lose_no_slot(autojump_clock: MockClock) -> None:
    """a module that is restarted again and again under load loses neither slots nor counts."""
    m, other = Module("m"), Module("other")
    trace = Trace()
    async with App(m, other, max_concurrent_microtasks=2) as app:
        for number in range(20):
            for priority in (LOW, MEDIUM, HIGH, MEDIUM):
                m.start_microtask(trace.step("m", 0.3), priority=priority)
                other.start_microtask(trace.step("other", 0.2), priority=priority)
            await trio.sleep(0.1 * (number % 5))
            await app.restart(m)
        await trio.sleep(100)
        assert used(app) == (0, 0)
        assert work(app, "m") == (80, 0, 80)
        assert trace.names.count("other") == 80


# --- refused -----------------------------------------------------------------------------------


async def use_every_way(module: Module) -> list[ModuleOffline]:
    """Ask for microtasks in every way, and return how each was refused."""
    errors = []
    with pytest.raises(ModuleOffline) as caught:
        module.start_microtask(noop)
    errors.append(caught.value)
    with pytest.raises(ModuleOffline) as caught:
        await module.run_microtask(noop)
    errors.append(caught.value)
    with pytest.raises(ModuleOffline) as caught:
        async with module.microtask_slot():
            raise AssertionError("the block ran")
    errors.append(caught.value)
    with pytest.raises(ModuleOffline) as caught:
        await module.run_sync(int)
    errors.append(caught.value)
    for where in ("thread", "process"):
        with pytest.raises(ModuleOffline) as caught:
            await module.run_sync_microtask(int, where=where)
        errors.append(caught.value)
    return errors


async def test_a_module_that_isnt_up_refuses_microtasks(autojump_clock: MockClock) -> None:
    """whatever its status, a module that takes no work raises ModuleOffline, which tells it."""
    seen: list[tuple[str, str]] = []
    m = Module("m", enabled=True)
    user = Module("user", depends_on=[m])

    async def look() -> None:
        seen.extend((each.module, each.status) for each in await use_every_way(m))

    @m.on_prep
    async def prep() -> None:
        await look()

    @m.lifespan
    async def span() -> AsyncGenerator[None, None]:
        await look()
        yield
        await look()

    await look()
    async with App(m, managed=True) as app:
        await switch_off(app, m)
        await look()
    await look()
    statuses = ["DEAD", "PREPARING", "STARTING", "STOPPING", "OFFLINE", "OFFLINE"]
    assert [status for _, status in seen[::6]] == statuses
    assert seen == [("m", status) for status in statuses for _ in range(6)]
    assert user.status is ModuleStatus.DEAD


async def test_a_stop_function_can_start_none(autojump_clock: MockClock) -> None:
    """stop functions run when the work of their module has ended, so there is none any more."""
    m = Module("m")

    @m.on_stop
    async def stop() -> None:
        assert {each.status for each in await use_every_way(m)} == {"STOPPING"}

    async with App(m):
        pass


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda m: m.start_microtask(print), TypeError, "print"),
        (lambda m: m.start_microtask(noop()), TypeError, "noop"),
        (lambda m: m.start_microtask(noop, 1), TypeError, "noop"),
        (lambda m: m.start_microtask(noop, priority="high"), TypeError, "'high'"),
        (lambda m: m.start_microtask(noop, max_delay=-1), ValueError, "max_delay .* -1"),
        (lambda m: m.start_microtask(noop, max_delay=float("nan")), ValueError, "max_delay .*nan"),
        (lambda m: m.start_microtask(noop, max_delay="1"), TypeError, "max_delay .*'1'"),
    ],
)
async def test_what_is_wrong_with_a_call_is_said_before_anything_happened(
    use: Callable[[Module], object], error: type[Exception], text: str, autojump_clock: MockClock
) -> None:
    """wrong functions, arguments, priorities and delays are errors that show the value."""
    m = Module("m")
    async with App(m) as app:
        with pytest.raises(error, match=text):
            use(m)
        assert work(app, "m") == (0, 0, 0)
        assert used(app) == (0, 0)


@pytest.mark.parametrize("options", [{"priority": 1}, {"max_delay": -1}, {"max_delay": True}])
async def test_options_are_checked_in_every_way(options: Any, autojump_clock: MockClock) -> None:
    """run_microtask, microtask_slot and run_sync_microtask check their options alike."""
    m = Module("m")
    async with App(m) as app:
        for use in (
            partial(m.run_microtask, noop, **options),
            partial(m.run_sync_microtask, int, **options),
            partial(in_slot_with, m, options),
        ):
            with pytest.raises((TypeError, ValueError), match=next(iter(options))):
                await use()
        with pytest.raises(TypeError, match="print"):
            await m.run_microtask(print)  # type: ignore[arg-type]
        assert work(app, "m") == (0, 0, 0)


async def in_slot_with(module: Module, options: Any) -> None:
    async with module.microtask_slot(**options):
        raise AssertionError("the block ran")


# --- results and errors ------------------------------------------------------------------------


async def test_run_microtask_returns_what_the_function_returns(autojump_clock: MockClock) -> None:
    """run_microtask calls the function with its arguments and returns its value."""
    m = Module("m")

    async def add(a: int, b: int) -> int:
        await trio.lowlevel.checkpoint()
        return a + b

    async with App(m):
        assert await m.run_microtask(add, 1, 2, priority=LOW) == 3


async def test_run_microtask_raises_to_its_caller_with_a_note(autojump_clock: MockClock) -> None:
    """an exception of run_microtask reaches the caller, says where it was, and isn't reported."""
    m = Module("m")

    async def use() -> None:
        with pytest.raises(ValueError, match="wrong") as caught:
            await m.run_microtask(fail, ValueError("wrong"), name="sum")
        assert notes_of(caught.value) == "in microtask 'sum' of module 'm'"

    app = App(m)
    assert await reports_of(app, use) == []
    assert work(app, "m") == (1, 0, 1)


async def test_a_block_raises_as_it_is(autojump_clock: MockClock) -> None:
    """an exception in the block of a slot passes through unchanged, and gives the slot back."""
    m = Module("m")

    async def use() -> None:
        with pytest.raises(ValueError, match="wrong") as caught:
            async with m.microtask_slot():
                raise ValueError("wrong")
        assert notes_of(caught.value) == ""
        assert used(app) == (0, 0)

    app = App(m)
    assert await reports_of(app, use) == []


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_started_one_that_fails_is_reported_once(
    at_once: bool, autojump_clock: MockClock
) -> None:
    """an exception of a started microtask is one report, and the others go on."""
    m = Module("m")
    trace = Trace()
    error = ValueError("wrong")

    async def raises() -> None:
        if not at_once:
            await trio.sleep(1)
        raise error

    async def use() -> None:
        m.start_microtask(raises, name="sum")
        m.start_microtask(trace.step("next"))
        await trio.sleep(2)
        assert m.online
        assert used(app) == (0, 0)

    app = App(m)
    (report,) = await reports_of(app, use)
    assert (report.module, report.task_name, report.task_type) == ("m", "sum", "microtask")
    assert report.exception is error
    assert report.severity == "panic"
    assert trace.names == ["next"]


@pytest.mark.parametrize("kind", ["bare", "group"])
async def test_a_stray_cancelled_is_an_ordinary_failure(
    kind: str, autojump_clock: MockClock
) -> None:
    """a Cancelled that nobody's scope asked for is reported and ends that microtask alone."""
    m = Module("m")
    trace = Trace()
    stray: BaseException = await stray_cancelled()
    if kind == "group":
        stray = BaseExceptionGroup("strays", [stray])

    async def use() -> None:
        m.start_microtask(fail, stray)
        m.start_microtask(trace.step("next"))
        await let_run()
        assert m.online

    (report,) = await reports_of(App(m), use)
    assert report.exception is stray
    assert trace.names == ["next"]


async def test_a_genuine_cancelled_is_not_reported(autojump_clock: MockClock) -> None:
    """a microtask that its module's stop cancels is no failure, and what else it raised is one."""
    m = Module("m")
    error = KeyError("on the way out")

    async def raises_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            raise BaseExceptionGroup("both", [cancelled, error]) from None

    async def use() -> None:
        m.start_microtask(trio.sleep_forever)
        m.start_microtask(raises_when_cancelled)
        await let_run()

    reports = await reports_of(App(m), use)
    assert len(reports) == 1
    group = reports[0].exception
    assert isinstance(group, ExceptionGroup)
    assert group.exceptions == (error,)


async def start_failing(module: Module, error: BaseException) -> None:
    module.start_microtask(fail, error)
    await trio.sleep_forever()


async def test_a_keyboard_interrupt_begins_a_shutdown(autojump_clock: MockClock) -> None:
    """Ctrl-C in a started microtask passes every guard and leaves the block."""
    m = Module("m")
    app = App(m)
    with pytest.raises(KeyboardInterrupt):
        await reports_of(app, partial(start_failing, m, KeyboardInterrupt()))
    assert work(app, "m") == (1, 0, 1)
    assert app.last_error is None


async def test_a_group_is_split(autojump_clock: MockClock) -> None:
    """of a group the SystemExit leaves the block and the rest is reported."""
    m = Module("m")
    error = ValueError("also")
    app = App(m)
    group = BaseExceptionGroup("both", [SystemExit(3), error])
    with pytest.raises(SystemExit, match="3"):
        await reports_of(app, partial(start_failing, m, group))
    report = app.last_error
    assert report is not None
    assert report.task_type == "microtask"
    assert isinstance(report.exception, ExceptionGroup)
    assert report.exception.exceptions == (error,)


async def test_restart_module_restarts_the_module(autojump_clock: MockClock) -> None:
    """RestartModule in a started microtask restarts its module; it is said, not an error."""
    m = Module("m", restart=Restart(max_restarts=1))

    async def use() -> None:
        m.start_microtask(fail, RestartModule())
        await let_run()
        assert not m.online
        await m.wait_online()
        assert app.status().modules["m"].restarts == 1

    app = App(m)
    reports = await reports_of(app, use)
    assert [r.severity for r in reports if r.task_type == "microtask"] == ["info"]


async def test_restart_module_beyond_the_budget_ends_the_app(autojump_clock: MockClock) -> None:
    """RestartModule spends the budget of the module as any other crash."""
    m = Module("m", restart=ONE_SHOT)
    with pytest.raises(ModuleCrashed):
        await reports_of(App(m), partial(start_failing, m, RestartModule()))


async def test_the_callers_cancellation_wins(autojump_clock: MockClock) -> None:
    """a running microtask in place is cancelled with its caller, and that isn't ModuleOffline."""
    m = Module("m")
    trace = Trace()
    async with App(m) as app:
        with trio.move_on_after(1) as scope:
            await m.run_microtask(trace.step("called", 5))
        assert scope.cancelled_caught
        assert trace.entries == [(1, "called!")]
        assert used(app) == (0, 0)


# --- context -----------------------------------------------------------------------------------


async def test_a_started_one_runs_in_a_copy_of_its_starters_context(
    autojump_clock: MockClock,
) -> None:
    """context variables are those of the starter, and what one sets no other sees."""
    m = Module("m")
    seen: list[str] = []

    async def look(new: str, wait: bool) -> None:
        seen.append(colour.get())
        colour.set(new)
        if wait:
            await trio.sleep(1)
        assert colour.get() == new

    async with App(m, max_concurrent_microtasks=1):
        for value in ("red", "blue", "green"):
            colour.set(value)
            m.start_microtask(look, value * 2, value == "red", priority=MEDIUM)
        colour.set("grey")
        await trio.sleep(2)
        assert seen == ["red", "blue", "green"]
        assert colour.get() == "grey"


@pytest.mark.parametrize("outside", [True, False])
async def test_current_module_and_current_app_work_inside(
    outside: bool, autojump_clock: MockClock
) -> None:
    """inside of a microtask the current module is the one whose microtask it is."""
    a, b = Module("a"), Module("b")
    seen: list[object] = []

    async def look() -> None:
        seen.extend((current_module(), current_app()))
        await trio.lowlevel.checkpoint()
        seen.extend((current_module(), current_app()))

    async def use() -> None:
        a.start_microtask(look)
        await let_run()
        await a.run_microtask(look)
        a.start_microtask(partial(b.run_microtask, look), name="nested")
        await let_run()

    async with App(a, b) as app:
        if outside:
            await use()
            with pytest.raises(RuntimeError):
                current_module()
        else:
            await b.run_worker(use)
        assert seen == [a, app] * 4 + [b, app] * 2


async def test_a_block_stays_the_code_of_its_caller(autojump_clock: MockClock) -> None:
    """a block in a slot runs in place: it is no part of the module."""
    m = Module("m")
    async with App(m), m.microtask_slot():
        with pytest.raises(RuntimeError):
            current_module()


# --- status ------------------------------------------------------------------------------------


async def test_status_shows_what_waits_and_runs_and_since_when(autojump_clock: MockClock) -> None:
    """status lists each microtask with its name, state and time, and no runner as a worker."""
    m = Module("m")
    in_place = partial(m.run_microtask, noop, priority=LOW, name="third")

    async with App(m, max_concurrent_microtasks=1) as app, trio.open_nursery() as nursery:
        m.start_microtask(trio.sleep_forever, name="first")
        await trio.sleep(1)
        m.start_microtask(noop, priority=LOW, name="second")
        nursery.start_soon(in_place)
        await trio.sleep(1)
        async with m.microtask_slot():
            info = app.status().modules["m"]
            assert {(each.name, each.state, each.since) for each in info.microtasks} == {
                ("first", "running", 0),
                ("second", "waiting", 1),
                ("third", "waiting", 1),
                ("microtask slot", "running", 2),
            }
            assert info.workers == ()
            assert info.work.running == 4
            limits = app.status().to_dict()["limits"]
            assert isinstance(limits, dict)
            assert limits["max_concurrent_microtasks"] == 1
            assert limits["microtasks_running"] == 2
            assert limits["microtasks_waiting"] == 2
        app.max_concurrent_microtasks = 2


async def test_runners_that_have_yet_to_begin_are_no_workers(autojump_clock: MockClock) -> None:
    """in the step of start_microtask already, status shows a microtask and not a worker."""
    m = Module("m")
    async with App(m) as app:
        m.start_microtask(noop)
        info = app.status().modules["m"]
        assert [each.name for each in info.microtasks] == ["noop"]
        assert info.workers == ()


async def test_status_agrees_with_the_slots_at_every_step(autojump_clock: MockClock) -> None:
    """at each step of any task, what is shown as begun and not ended holds a slot or waits."""
    m = Module("m")

    async def naps() -> None:
        await trio.sleep(0.1)

    def fault() -> str | None:
        info = app.status().modules["m"]
        limits = app.status().limits
        shown = len(info.microtasks)
        held = limits.microtasks_running + limits.microtasks_waiting
        if info.work.started != info.work.running + info.work.ended:
            return f"{info.work}"
        return None if shown == held == info.work.running else f"{shown} {held} {info.work}"

    async with App(m, max_concurrent_microtasks=3) as app:
        with watching(fault) as faults:
            for number in range(300):
                m.start_microtask(naps if number % 100 == 0 else noop, priority=MEDIUM)
            await trio.sleep(5)
        assert faults == []
        assert work(app, "m") == (300, 0, 300)


async def test_the_task_tree_shows_running_microtasks_by_name(autojump_clock: MockClock) -> None:
    """the task tree shows a running microtask under its name, with its own stack."""
    m = Module("m")

    async def a_long_one() -> None:
        await trio.sleep_forever()

    async with App(m) as app:
        m.start_microtask(noop, name="short")
        m.start_microtask(a_long_one, name="long")
        await let_run()
        tree = app.task_tree()
        assert "task long" in tree
        assert "in a_long_one" in tree
        assert "short" not in tree


# --- fairness ----------------------------------------------------------------------------------


async def test_a_flood_of_short_ones_starves_nobody(autojump_clock: MockClock) -> None:
    """while thousands of microtasks that never wait follow each other, other tasks have turns."""
    m = Module("m")
    ended = 0
    most = 0

    async def count() -> None:
        nonlocal ended
        ended += 1

    async with App(m, max_concurrent_microtasks=2) as app:
        for _ in range(5000):
            m.start_microtask(count, priority=MEDIUM, name="short")
        while ended < 5000:
            before = ended
            await trio.lowlevel.checkpoint()
            most = max(most, ended - before)
            assert "task short" not in app.task_tree()  # none is between its beginning and its end
    assert most <= 200


async def test_one_that_waits_holds_nobody_up(autojump_clock: MockClock) -> None:
    """a microtask that waits holds its slot, and the others go on in those that are left."""
    m = Module("m")
    ended = 0

    async def count() -> None:
        nonlocal ended
        ended += 1

    async with App(m, max_concurrent_microtasks=2) as app:
        m.start_microtask(trio.sleep, 1000, priority=MEDIUM)
        for _ in range(1000):
            m.start_microtask(count, priority=MEDIUM)
        await trio.sleep(0.1)
        assert ended == 1000
        assert used(app) == (1, 0)
        m.nursery.cancel_scope.cancel()


async def test_as_many_run_at_a_time_as_there_are_slots(autojump_clock: MockClock) -> None:
    """microtasks that wait run beside each other, and each free slot is filled at once."""
    m = Module("m")
    running = most = 0

    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    async with App(m, max_concurrent_microtasks=7) as app:
        for _ in range(70):
            m.start_microtask(count, priority=LOW, max_delay=100)
        await trio.sleep(10.5)
        assert work(app, "m") == (70, 0, 70)
    assert most == 7


async def test_every_async_function_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """run_microtask and entering a slot are checkpoints, with a free slot and when nested, too."""
    m = Module("m")

    async def enter() -> None:
        async with m.microtask_slot():
            pass

    async def both() -> None:
        with assert_checkpoints():
            await m.run_microtask(noop)
        with assert_checkpoints():
            await enter()

    async with App(m, max_concurrent_microtasks=1):
        await both()
        await m.run_microtask(both)


async def test_a_cancelled_caller_begins_nothing(autojump_clock: MockClock) -> None:
    """who is cancelled already takes no slot and begins nothing."""
    m = Module("m")
    seen: list[str] = []

    async def count() -> None:
        seen.append("begun")

    async with App(m) as app:
        with trio.CancelScope() as scope:
            scope.cancel()
            await m.run_microtask(count)
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            async with m.microtask_slot():
                seen.append("entered")
        assert scope.cancelled_caught
        assert seen == []
        assert used(app) == (0, 0)


async def test_ctrl_c_in_the_step_of_the_grant_loses_no_slot(autojump_clock: MockClock) -> None:
    """an interrupt in the checkpoint of a call that has its slot already gives that back."""
    m = Module("m")
    async with App(m) as app:
        call = m.run_microtask(noop)
        call.send(None)
        assert used(app) == (1, 0)
        with pytest.raises(KeyboardInterrupt):
            call.throw(KeyboardInterrupt())
        assert used(app) == (0, 0)
        assert work(app, "m") == (1, 0, 1)


# --- tasks give way ----------------------------------------------------------------------------


async def test_a_task_waits_while_no_slot_is_free(autojump_clock: MockClock) -> None:
    """a queued task begins when microtasks leave a slot, and those that wait go first."""
    m = Module("m")
    trace = Trace()

    async def task(_: Task) -> None:
        trace.add("task")

    async with App(m, max_concurrent_microtasks=1):
        release = await hold(m)
        m.new_task(task).queue()
        await trio.sleep(1)
        m.start_microtask(trace.step("medium", 1), priority=MEDIUM)
        m.start_microtask(trace.step("low", 1), priority=LOW)
        release.set()
        await trio.sleep(10)
        assert trace.entries == [(2, "medium"), (3, "low"), (3, "task")]


async def test_a_task_waits_for_a_slot_at_most_30_seconds(autojump_clock: MockClock) -> None:
    """a queued task begins after 30 seconds, slots or not."""
    m = Module("m")
    trace = Trace()

    async def task(_: Task) -> None:
        trace.add("task")

    async with App(m, max_concurrent_microtasks=1):
        await hold(m)
        m.new_task(task).queue()
        await trio.sleep(100)
        assert trace.entries == [(30, "task")]
        m.nursery.cancel_scope.cancel()


async def test_a_task_begins_when_a_higher_limit_leaves_a_slot(autojump_clock: MockClock) -> None:
    """raising the limit of microtasks makes room for a task."""
    m = Module("m")
    trace = Trace()

    async def task(_: Task) -> None:
        trace.add("task")

    async with App(m, max_concurrent_microtasks=1) as app:
        await hold(m)
        m.new_task(task).queue()
        await trio.sleep(1)
        app.max_concurrent_microtasks = 2
        await trio.sleep(1)
        assert trace.entries == [(1, "task")]
        m.nursery.cancel_scope.cancel()


async def test_heavy_microtasks_do_not_follow_each_other_for_long(mock_clock: MockClock) -> None:
    """each computes for a while without a checkpoint, and others have a turn after each."""
    m = Module("m")
    turns: list[str] = []

    async def compute() -> None:
        turns.append("microtask")
        mock_clock.jump(0.05)

    async def watch() -> None:
        while True:
            turns.append("other")
            await trio.lowlevel.checkpoint()

    async with App(m, max_concurrent_microtasks=1), trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for _ in range(20):
            m.start_microtask(compute, priority=MEDIUM)
        while turns.count("microtask") < 20:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    runs = [len(list(run)) for name, run in itertools.groupby(turns) if name == "microtask"]
    assert sum(runs) == 20
    assert max(runs) <= 2  # the last of one pass of the scheduler and the first of the next one


async def test_nothing_is_kept_of_what_has_ended(autojump_clock: MockClock) -> None:
    """neither arguments nor context of a started microtask outlive it, whether it had to wait."""

    class Big:
        pass

    async def use(_: Big) -> None:
        pass

    m = Module("m")
    kept: list[weakref.ref[Big]] = []
    var: ContextVar[Big] = ContextVar("var")
    async with App(m, max_concurrent_microtasks=1):
        for priority in (HIGH, MEDIUM, LOW) * 3:
            context, big, other = copy_context(), Big(), Big()
            context.run(var.set, other)
            context.run(partial(m.start_microtask, use, big, priority=priority))
            kept += [weakref.ref(big), weakref.ref(other)]
            del context, big, other
        await let_run()
        gc.collect()
        assert [each() for each in kept] == [None] * 18
