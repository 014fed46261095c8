"""Hooks while modules start, stop, crash, restart, fail, come and go."""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import weakref
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
import trio
from event_helpers import Gate, hook_figures, loss_fault, pair
from support import ctrl_c_raises, let_run, switch_off
from trio.testing import MockClock

from trio_modules import (
    App,
    Backoff,
    Event,
    EventDeadlock,
    GraphError,
    Module,
    ModuleOffline,
    ModuleStatus,
    Overflow,
    Restart,
    RestartModule,
    StartError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType


def crashing(name: str, initial: float = 5) -> Module:
    """Return a module that may crash and comes back after some seconds."""
    return Module(name, restart=Restart(backoff=Backoff(initial=initial)))


async def crash(module: Module) -> None:
    """Let a module crash, and wait until it is down."""

    async def ask() -> None:
        raise RestartModule

    module.start_worker(ask)
    await module.wait_status(ModuleStatus.OFFLINE)


def managed(*modules: Module) -> App:
    for module in modules:
        module.enable()
    return App(*modules, managed=True)


# ---------------------------------------------------------------------- when a hook begins


async def test_a_hook_begins_when_both_modules_are_online(autojump_clock: MockClock) -> None:
    """what is triggered in the start waits for the end of both starts, the hook's and its own."""
    source = Module("source")
    event = source.event("event", int)
    times: list[tuple[int, float]] = []
    began = trio.current_time()

    @source.on_start
    async def start() -> None:
        await event.trigger(1)
        await trio.sleep(3)

    async def take(_: int, number: int) -> None:
        times.append((number, trio.current_time() - began))

    sinks = [Module("sink0", start=sleeping(1)), Module("sink1", start=sleeping(5))]
    for number, sink in enumerate(sinks):
        sink.hook("source/event", take, number)
    async with App(source, *sinks):
        await let_run()
    assert times == [(0, 3), (1, 5)]


def sleeping(seconds: float) -> Any:
    async def sleep() -> None:
        await trio.sleep(seconds)

    return sleep


async def test_a_hook_goes_on_while_its_source_stops(autojump_clock: MockClock) -> None:
    """the source going offline doesn't pause the hook: what waits for it is handled."""
    source, sink, event = pair(int)
    seen: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        await trio.sleep(1)
        seen.append(n)

    app = managed(source, sink)
    async with app:
        for n in range(5):
            event.trigger_nowait(n)
        await switch_off(app, source)
        with pytest.raises(ModuleOffline):
            event.trigger_nowait(9)
        await trio.sleep(6)
        assert seen == [0, 1, 2, 3, 4]
        source.enable()
        await app.manage()
        event.trigger_nowait(5)
        await trio.sleep(2)
        assert seen == [0, 1, 2, 3, 4, 5]


async def test_a_module_that_is_not_wanted_gets_nothing(autojump_clock: MockClock) -> None:
    """a hook of a module that isn't enabled isn't one of the event, and no sender waits for it."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, gate, buffer=1)
    source.enable()
    app = App(source, sink, managed=True)
    async with app:
        for n in range(5):
            await event.trigger(n)
        assert event.statistics().hooks == ()
        assert event.statistics().dropped == 0
        sink.enable()
        await app.manage()
        await event.trigger(5)
        await let_run()
        assert gate.seen == [5]


async def test_events_wait_from_the_wish_on(autojump_clock: MockClock) -> None:
    """while a wanted module is still coming up its hooks already get what is triggered."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, gate)
    sink.on_start(sleeping(5))
    app = managed(source, sink)
    sink.disable()
    async with app, trio.open_nursery() as nursery:
        sink.enable()
        nursery.start_soon(app.manage)
        await trio.sleep(1)
        event.trigger_nowait(1)
        await trio.sleep(1)
        assert gate.seen == []
        await trio.sleep(5)
        assert gate.seen == [1]


async def test_disabling_and_enabling(autojump_clock: MockClock) -> None:
    """what came while a module was disabled isn't there when it is back; its drain has ended."""
    source, sink, event = pair(int)
    seen: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        await trio.sleep(1)
        seen.append(n)

    app = managed(source, sink)
    async with app:
        for n in range(3):
            event.trigger_nowait(n)
        await switch_off(app, sink)
        assert seen == [0, 1, 2]
        event.trigger_nowait(3)
        sink.enable()
        await app.manage()
        event.trigger_nowait(4)
        await trio.sleep(3)
        assert seen == [0, 1, 2, 4]
        figures = event.statistics()
        assert (figures.triggered, figures.delivered, figures.dropped) == (5, 4, 0)


# ---------------------------------------------------------------------- the drain of a stop


async def test_hooks_drain_at_a_stop(autojump_clock: MockClock) -> None:
    """a stop lets hooks handle what waits, while workers still run and before stop functions."""
    source, sink, event = pair(int)
    log: list[str] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        await trio.sleep(1)
        log.append(str(n))

    @sink.worker
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("worker")

    @sink.on_stop
    async def stop() -> None:
        log.append("stop")

    async with App(source, sink, stop_timeout=60):
        for n in range(5):
            event.trigger_nowait(n)
    assert log == ["0", "1", "2", "3", "4", "worker", "stop"]
    assert event.statistics().dropped == 0


async def test_workers_feed_the_drain(autojump_clock: MockClock) -> None:
    """what a worker still triggers while the hooks drain is handled, too."""
    module = Module("m", stop_timeout=60)
    event = module.event("event", int)
    seen: list[int] = []

    @module.hook(event)
    async def take(n: int) -> None:
        await trio.sleep(1)
        seen.append(n)

    @module.worker
    async def work() -> None:
        await module.stopping.wait()
        await trio.sleep(0.5)
        event.trigger_nowait(2)
        await trio.sleep_forever()

    async with App(module):
        await let_run()
        event.trigger_nowait(1)
    assert seen == [1, 2]


async def test_the_drain_takes_half_of_the_stop_time_at_most(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """then what is left is dropped, counted and logged, and the hook is cancelled."""
    source, sink, event = pair(int)
    log: list[tuple[str, float]] = []

    @sink.hook(event, name="slow")
    async def take(n: int) -> None:
        try:
            await trio.sleep(3)
        except trio.Cancelled:
            log.append(("cancelled", trio.current_time() - began))
            raise
        log.append((str(n), trio.current_time() - began))

    @sink.on_stop
    async def stop() -> None:
        log.append(("stop", trio.current_time() - began))

    async with App(source, sink, stop_timeout=20):
        for n in range(9):
            event.trigger_nowait(n)
        began = trio.current_time()
    assert log == [("0", 3), ("1", 6), ("2", 9), ("cancelled", 10), ("stop", 10)]
    assert "hook slow dropped 5 events" in caplog.text
    figures = event.statistics()
    assert (figures.triggered, figures.delivered, figures.dropped) == (9, 4, 5)


async def test_the_drain_lets_waiting_senders_in_or_go(autojump_clock: MockClock) -> None:
    """senders of other modules get room while it drains, and are let go at its end."""
    source, sink, event = pair(int)
    seen: list[int] = []
    sent: list[tuple[int, float]] = []

    @sink.hook(event, buffer=1)
    async def take(n: int) -> None:
        await trio.sleep(4)
        seen.append(n)

    async def send(n: int) -> None:
        await event.trigger(n)
        sent.append((n, trio.current_time() - began))

    app = App(source, sink, managed=True, stop_timeout=20)
    source.enable()
    sink.enable()
    async with app, trio.open_nursery() as nursery:
        began = trio.current_time()
        for n in range(6):
            nursery.start_soon(send, n)
            await let_run()
        await switch_off(app, sink)
        await let_run()
        assert sorted(sent) == [(0, 0), (1, 0), (2, 4), (3, 8), (4, 10), (5, 10)]
    assert seen == [0, 1]
    figures = event.statistics()
    assert (figures.triggered, figures.delivered, figures.dropped) == (6, 3, 3)


async def test_no_drain_for_hooks_with_nothing_left(autojump_clock: MockClock) -> None:
    """idle hooks don't hold up a stop."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, gate, concurrency=3)
    sink.hook(event, gate, batch=3)
    async with App(source, sink):
        event.trigger_nowait(1)
        await let_run()
        began = trio.current_time()
    assert trio.current_time() == began


async def test_a_retry_ends_with_the_drain(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """events that are still being retried when the drain ends are dropped and counted."""
    source, sink, event = pair(int)

    @sink.hook(event, name="h", batch=2, retry=Backoff(initial=1))
    async def take(some: Sequence[int]) -> None:
        raise ValueError(some)

    app = App(source, sink, stop_timeout=20)
    async with app:
        for n in range(5):
            event.trigger_nowait(n)
        await let_run()
    figures = event.statistics()
    assert (figures.triggered, figures.delivered, figures.dropped) == (5, 0, 5)
    (info,) = app.status().modules["sink"].hooks
    assert (info.backlog, info.handling, info.dropped) == (0, 0, 5)
    said = [record.getMessage() for record in caplog.records if "dropped" in record.msg]
    assert said == ["hook h dropped 5 events that were left"]


async def test_a_stop_function_does_not_wait_for_hooks_that_have_ended(
    autojump_clock: MockClock,
) -> None:
    """the hooks of a module that is stopped get nothing, so its stop function doesn't wait."""
    module = Module("m", stop_timeout=20)
    event = module.event("event", int)
    module.hook(event, Gate(is_open=True), buffer=1)

    @module.on_stop
    async def stop() -> None:
        for n in range(5):
            await event.trigger(n)

    async with App(module):
        began = trio.current_time()
    assert trio.current_time() == began


async def test_a_stop_function_does_not_wait_for_hooks_that_never_began(
    autojump_clock: MockClock,
) -> None:
    """a full hook whose source never came doesn't hold up the stop of its module."""
    source, sink, event = pair(int)
    sink.hook(event, Gate(), name="later", buffer=1)

    @sink.on_stop
    async def stop() -> None:
        for n in range(3):
            await event.trigger(n)

    source.on_start(sleeping(50))
    app = managed(source, sink)
    source.disable()
    async with app, trio.open_nursery() as nursery:
        source.enable()
        nursery.start_soon(app.manage)
        await trio.sleep(1)
        event.trigger_nowait(0)
        began = trio.current_time()
        sink.disable()
        nursery.start_soon(app.manage)
        await sink.wait_status(ModuleStatus.OFFLINE)
        assert trio.current_time() == began
        assert sink.failures == {}
        source.disable()


async def test_an_urgent_shutdown_does_not_drain(autojump_clock: MockClock) -> None:
    """a KeyboardInterrupt while stopping cuts the drain to nothing."""
    source, sink, event = pair(int)
    seen: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        await trio.sleep(1)
        seen.append(n)

    @sink.worker
    async def work() -> None:
        await sink.stopping.wait()
        await trio.sleep(2.5)
        raise KeyboardInterrupt

    async def live() -> None:
        async with App(source, sink):
            await let_run()
            for n in range(20):
                event.trigger_nowait(n)

    with pytest.raises(KeyboardInterrupt):
        await live()
    assert seen == [0, 1]
    figures = event.statistics()
    assert figures.delivered + figures.dropped == 20


# ---------------------------------------------------------------------- crashes and restarts


async def test_a_crash_does_not_drain_and_the_backlog_survives(autojump_clock: MockClock) -> None:
    """what waits is handled after the restart, in order; what was in work is over."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    done: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        await trio.sleep(1)
        done.append(n)

    async with App(source, sink):
        for n in range(5):
            event.trigger_nowait(n)
        await trio.sleep(1.5)
        began = trio.current_time()
        await crash(sink)
        assert trio.current_time() == began
        event.trigger_nowait(5)
        assert done == [0]
        await sink.wait_online()
        await trio.sleep(10)
        assert done == [0, 2, 3, 4, 5]
        assert loss_fault(event) is None
        assert event.statistics().delivered == 6


@pytest.mark.parametrize("batch", [None, 3])
async def test_a_hook_with_retry_gets_its_events_again_after_a_crash(
    batch: int | None, autojump_clock: MockClock
) -> None:
    """what was in work when the module crashed is given again, before what waits."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    done: list[int] = []

    async def take(data: Any) -> None:
        await trio.sleep(1)
        done.extend([data] if batch is None else data)

    sink.hook(event, take, batch=batch, retry=Backoff(initial=1))
    async with App(source, sink):
        for n in range(5):
            event.trigger_nowait(n)
        await trio.sleep(0.5)
        await crash(sink)
        await sink.wait_online()
        await trio.sleep(10)
    assert done == [0, 1, 2, 3, 4]
    assert loss_fault(event) is None


async def test_what_is_given_again_after_a_crash_takes_room(autojump_clock: MockClock) -> None:
    """it is in the buffer again: nobody may trigger more than what fits beside it."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    gate = Gate()
    sink.hook(event, gate, buffer=10, batch=8, retry=Backoff(initial=1))
    async with App(source, sink):
        for n in range(8):
            event.trigger_nowait(n)
        await let_run()
        for n in range(4):
            event.trigger_nowait(n)
        assert hook_figures(event, "sink/Gate") == (0, 0, 4, 8, 0)
        await crash(sink)
        assert hook_figures(event, "sink/Gate") == (0, 0, 12, 0, 0)
        with pytest.raises(trio.WouldBlock):
            event.trigger_nowait(99)
        gate.may.set()
        await sink.wait_online()
        await trio.sleep(1)
        assert loss_fault(event) is None


async def test_a_hook_that_comes_later_has_the_room_of_its_own(autojump_clock: MockClock) -> None:
    """its small buffer counts, however much room the others were found to have."""
    source, sink, event = pair(int)
    sink.hook(event, Gate(), name="large", buffer=100)
    async with App(source, sink):
        event.trigger_nowait(0)
        sink.hook(event, Gate(), name="small", buffer=1)
        await let_run()
        event.trigger_nowait(1)
        await let_run()
        event.trigger_nowait(2)
        with pytest.raises(trio.WouldBlock):
            event.trigger_nowait(3)
        assert hook_figures(event, "sink/small") == (0, 0, 1, 1, 0)


async def test_what_is_given_again_after_a_crash_is_in_order(autojump_clock: MockClock) -> None:
    """several events were in work side by side: they begin again in the order triggered."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    began: list[int] = []

    @sink.hook(event, concurrency=4, retry=Backoff(initial=1))
    async def take(n: int) -> None:
        began.append(n)
        await trio.sleep(1)

    async with App(source, sink):
        for n in range(10):
            event.trigger_nowait(n)
        await trio.sleep(0.5)
        assert began == [0, 1, 2, 3]
        await crash(sink)
        began.clear()
        await sink.wait_online()
        await trio.sleep(10)
    assert began == list(range(10))


async def test_a_crash_before_the_hook_could_begin_costs_no_event(
    autojump_clock: MockClock,
) -> None:
    """an event that comes in the very step of a crash is handled after the restart."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    calls: list[int] = []
    done: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        calls.append(n)
        await trio.sleep(1)
        done.append(n)

    async with App(source, sink):
        for n in range(5):
            await sink.wait_online()
            await let_run()
            event.trigger_nowait(n)
            sink.nursery.cancel_scope.cancel()
            await sink.wait_status(ModuleStatus.OFFLINE)
            await sink.wait_online()
            await trio.sleep(2)
        assert calls == done == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("batch", [None, 1])
async def test_a_reader_that_was_cancelled_begins_no_other_event(
    autojump_clock: MockClock, batch: int | None
) -> None:
    """not even when its function has let no cancellation in: the event is for the next run."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    begun: list[object] = []

    async def handle(data: object) -> None:
        begun.append(data)
        with trio.CancelScope(shield=True):
            await trio.sleep(2)

    if batch is None:
        sink.hook(event, handle)
    else:
        sink.hook(event, handle, batch=batch)
    async with App(source, sink):
        for number in range(3):
            event.trigger_nowait(number)
        await trio.sleep(1)
        await crash(sink)
        assert len(begun) == 1
        await trio.sleep(20)
    assert begun == ([0, 1, 2] if batch is None else [[0], [1], [2]])


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_event_wakes_no_reader_that_was_cancelled_in_its_step(
    autojump_clock: MockClock, concurrency: int
) -> None:
    """it is on its way out already; the event is for the next run."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    handled: list[int] = []

    @sink.hook(event, concurrency=concurrency)
    async def handle(number: int) -> None:
        handled.append(number)

    async with App(source, sink):
        await let_run()
        sink.nursery.cancel_scope.cancel()
        event.trigger_nowait(1)
        await trio.sleep(1)
        assert handled == []
        await trio.sleep(20)
    assert handled == [1]


async def test_a_function_that_cancels_its_module_is_the_last(autojump_clock: MockClock) -> None:
    """what waits behind the event at which it does that is for the next run."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    handled: list[int] = []

    @sink.hook(event)
    async def handle(number: int) -> None:
        if number == 0:
            sink.nursery.cancel_scope.cancel()
        else:
            await trio.lowlevel.checkpoint()
        handled.append(number)

    async with App(source, sink):
        for number in range(3):
            event.trigger_nowait(number)
        await trio.sleep(20)
    assert handled == [0, 1, 2]


async def test_senders_wait_through_a_crash(autojump_clock: MockClock) -> None:
    """a full hook of a module that will be back keeps its senders waiting, in order."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    gate = Gate()
    sink.hook(event, gate, buffer=1)
    async with App(source, sink), trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(event.trigger, n)
            await let_run()
        await crash(sink)
        await let_run()
        assert len(nursery.child_tasks) == 3
        gate.may.set()
        await sink.wait_online()
        await let_run()
        assert not nursery.child_tasks
        assert gate.seen == [0, 1, 2, 3, 4]


async def test_a_restart_on_request_keeps_the_backlog(autojump_clock: MockClock) -> None:
    """app.restart neither closes nor drains what waits."""
    source, sink, event = pair(int)
    done: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        await trio.sleep(1)
        done.append(n)

    app = App(source, sink)
    async with app:
        for n in range(5):
            event.trigger_nowait(n)
        await trio.sleep(1.5)
        began = trio.current_time()
        await app.restart(sink)
        assert trio.current_time() == began
        await trio.sleep(10)
        assert done == [0, 2, 3, 4]
        figures = event.statistics()
        assert (figures.delivered, figures.dropped) == (5, 0)


async def test_a_restart_of_the_source_keeps_the_hooks(autojump_clock: MockClock) -> None:
    """a dependent restarts with it, one that doesn't depend goes on; both miss nothing."""
    source = crashing("source")
    event = source.event("event", int)
    gates = [Gate(is_open=True), Gate(is_open=True)]
    free, bound = Module("free"), Module("bound", depends_on=[source])
    free.hook(event, gates[0])
    bound.hook(event, gates[1])
    async with App(source, free, bound):
        event.trigger_nowait(0)
        await let_run()
        await crash(source)
        await source.wait_online()
        event.trigger_nowait(1)
        await bound.wait_online()
        await let_run()
        assert [gate.seen for gate in gates] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("who", ["own", "dependent"])
async def test_a_stop_function_that_waits_for_a_restart_is_told(
    who: str, autojump_clock: MockClock
) -> None:
    """after a crash a stop function can't wait for a hook that begins only after the restart."""
    source = crashing("source")
    sink = source if who == "own" else Module("sink", depends_on=[source])
    event = source.event("event", int)
    gate = Gate()
    errors: list[EventDeadlock] = []
    sink.hook(event, gate, buffer=1)

    @source.on_stop
    async def stop() -> None:
        try:
            await event.trigger(2)
        except EventDeadlock as error:
            errors.append(error)

    async with App(*{source: None, sink: None}):
        event.trigger_nowait(0)
        await let_run()
        event.trigger_nowait(1)
        began = trio.current_time()
        await crash(source)
        assert trio.current_time() == began
        assert len(errors) == 1
        gate.may.set()
        await sink.wait_online()
        await let_run()
        assert gate.seen == [0, 1]


async def test_a_module_that_gave_up_lets_its_senders_go(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """a crash beyond a budget that ends offline drops what waits, and new events pass it by."""
    source = Module("source")
    sink = Module("sink", restart=Restart(max_restarts=0, exhausted="offline"))
    event = source.event("event", int)
    sink.hook(event, Gate(), name="h", buffer=1)
    async with App(source, sink), trio.open_nursery() as nursery:
        for n in range(4):
            nursery.start_soon(event.trigger, n)
            await let_run()
        await crash(sink)
        await let_run()
        assert not nursery.child_tasks
        await event.trigger(4)
        figures = event.statistics()
        assert figures.hooks == ()
        assert (figures.triggered, figures.delivered, figures.dropped) == (5, 1, 3)
        assert "hook h dropped 3 events" in caplog.text


# ---------------------------------------------------------------------- failed starts


async def test_a_failed_start_drops_what_waits(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """senders that wait for a module whose start failed are let go, all is counted and logged."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, gate, name="h", buffer=2)

    @sink.on_start
    async def start() -> None:
        await trio.sleep(5)
        raise ValueError("no start")

    app = managed(source, sink)
    sink.disable()
    async with app, trio.open_nursery() as nursery:
        sink.enable()

        async def manage() -> None:
            with pytest.raises(StartError):
                await app.manage()

        nursery.start_soon(manage)
        await trio.sleep(1)
        for n in range(5):
            nursery.start_soon(event.trigger, n)
            await let_run()
        assert hook_figures(event, "sink/h") == (0, 0, 2, 0, 3)
        await trio.sleep(5)
        assert not nursery.child_tasks
        await event.trigger(5)
        figures = event.statistics()
        assert (figures.triggered, figures.delivered, figures.dropped) == (6, 0, 5)
        assert "hook h dropped 5 events" in caplog.text
    assert gate.seen == []


async def test_a_failed_first_start_lets_senders_go(autojump_clock: MockClock) -> None:
    """a worker that waits for a module which never came doesn't hold up the shutdown."""
    source, sink, event = pair(int)
    sink.hook(event, Gate(), buffer=1)
    let_go: list[float] = []

    @source.worker
    async def work() -> None:
        with trio.CancelScope(shield=True):
            for n in range(3):
                await event.trigger(n)
            let_go.append(trio.current_time())

    @sink.on_start
    async def start() -> None:
        await trio.sleep(5)
        raise ValueError("no start")

    with pytest.raises(StartError):
        async with App(source, sink):
            pass
    assert len(let_go) == 1
    figures = event.statistics()
    assert (figures.delivered, figures.dropped) == (0, 2)  # the third came after all that


# ---------------------------------------------------------------------- hooks of one run


@pytest.mark.parametrize("where", ["start", "running"])
async def test_hooks_of_a_run_do_not_pile_up(where: str, autojump_clock: MockClock) -> None:
    """one added in a start function or while running is gone after it, for 50 restarts."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)

    async def start() -> None:
        sink.hook(event, gate, name="added")

    if where == "start":
        sink.on_start(start)
    app = App(source, sink)
    async with app:
        sizes: list[int] = []
        for n in range(50):
            if where == "running":
                await start()
            assert len(event.statistics().hooks) == 1
            assert len(app.status().modules["sink"].hooks) == 1
            event.trigger_nowait(n)
            await let_run()
            await app.restart(sink)
            if n in (10, 49):
                gc.collect()
                sizes.append(sum(type(each).__name__ == "Inbox" for each in gc.get_objects()))
        assert gate.seen == list(range(50))
        assert sizes[0] == sizes[1]
        figures = event.statistics()
        assert (figures.triggered, figures.delivered, figures.dropped) == (50, 50, 0)


async def test_a_hook_of_a_run_says_what_it_had_when_it_goes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """what waited for it at a crash is counted as dropped, and logged."""
    source, sink = Module("source"), crashing("sink")
    event = source.event("event", int)
    async with App(source, sink):
        sink.hook(event, Gate(), name="added")
        for n in range(5):
            event.trigger_nowait(n)
        await let_run()
        await crash(sink)
        await sink.wait_online()
        figures = event.statistics()
        assert (figures.triggered, figures.delivered, figures.dropped) == (5, 1, 4)
        assert figures.hooks == ()
    assert "hook added dropped 4 events" in caplog.text


async def test_a_hook_added_while_running_begins_at_once(autojump_clock: MockClock) -> None:
    """it sees what is triggered from then on, and an unknown event is an error then."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    async with App(source, sink):
        event.trigger_nowait(1)
        sink.hook(event, gate)
        sink.hook("source/event", gate, name="other")
        event.trigger_nowait(2)
        await let_run()
        with pytest.raises(GraphError, match=r"no event 'evnt'.*'event'"):
            sink.hook("source/evnt", gate)
    assert gate.seen == [2, 2]


async def test_a_hook_added_before_its_module_has_its_turn_to_stop(
    autojump_clock: MockClock,
) -> None:
    """a module that waits for its dependents at a shutdown is online, and so is its new hook."""
    base = Module("base")
    event = base.event("event", int)
    user = Module("user", depends_on=[base])
    gate = Gate(is_open=True)

    @user.on_stop
    async def stop() -> None:
        assert base.online
        base.hook(event, gate)
        await event.trigger(1)
        await trio.sleep(1)
        assert gate.seen == [1]
        event.trigger_nowait(2)

    async with App(base, user):
        pass
    assert gate.seen == [1, 2]


async def test_a_stopping_module_takes_no_hooks(autojump_clock: MockClock) -> None:
    """a hook that is declared in a stop function is refused."""
    source, sink, event = pair(int)
    refused: list[ModuleOffline] = []

    @sink.on_stop
    async def stop() -> None:
        with pytest.raises(ModuleOffline) as info:
            sink.hook(event, Gate())
        refused.append(info.value)

    async with App(source, sink):
        pass
    assert len(refused) == 1


async def test_an_app_that_is_entered_again_begins_afresh(autojump_clock: MockClock) -> None:
    """declared hooks are there in every run, those of a run are not, and figures start at 0."""
    source, sink, event = pair(int)
    declared, added = Gate(is_open=True), Gate(is_open=True)
    sink.hook(event, declared)
    app = App(source, sink)
    for n in range(3):
        async with app:
            assert event.statistics().triggered == event.statistics().delivered == 0
            if n == 0:
                sink.hook(event, added, name="added")
            event.trigger_nowait(n)
            await let_run()
            assert loss_fault(event) is None
            assert len(event.statistics().hooks) == (2 if n == 0 else 1)
        assert event.statistics().triggered == 1
        assert event.statistics().delivered == (2 if n == 0 else 1)
    assert declared.seen == [0, 1, 2]
    assert added.seen == [0]


# ---------------------------------------------------------------------- add and remove


async def test_a_module_that_is_added_brings_its_events_and_hooks(
    autojump_clock: MockClock,
) -> None:
    """its hooks hear events that were there, hooks on its events can be declared."""
    source, sink, event = pair(int)
    gate, other = Gate(is_open=True), Gate(is_open=True)
    app = App(source)
    sink.hook(event, gate)
    answer = sink.event("answer", str)
    async with app:
        event.trigger_nowait(0)
        await app.add(sink)
        source.hook(answer, other)
        event.trigger_nowait(1)
        await answer.trigger("a")
        await let_run()
        assert gate.seen == [1]
        assert other.seen == ["a"]


async def test_a_module_with_a_hook_on_nothing_is_not_added(autojump_clock: MockClock) -> None:
    """app.add checks what hooks are on, before anything happens."""
    source, sink, _ = pair(int)
    sink.hook("source/evnt", Gate(), name="h")
    app = App(source)
    async with app:
        with pytest.raises(GraphError, match=r"hook 'h'.*no event 'evnt'.*'event'"):
            await app.add(sink)
        assert "sink" not in app.modules


async def test_a_module_that_is_removed_takes_its_hooks_along(autojump_clock: MockClock) -> None:
    """its hooks drain and are gone; events go on without them."""
    source, sink, event = pair(int)
    seen: list[int] = []

    @sink.hook(event, buffer=2)
    async def take(n: int) -> None:
        await trio.sleep(1)
        seen.append(n)

    app = App(source, sink)
    async with app:
        event.trigger_nowait(0)
        event.trigger_nowait(1)
        await app.remove(sink)
        assert seen == [0, 1]
        for n in range(5):
            await event.trigger(n)
        assert event.statistics().hooks == ()
        await app.add(sink)
        await event.trigger(9)
        await trio.sleep(2)
        assert seen == [0, 1, 9]


async def test_a_source_that_is_removed_and_added_again(autojump_clock: MockClock) -> None:
    """a hook on its event hears it again, also when the hook's module was restarted meanwhile."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, gate, name="h")
    app = App(source, sink)
    async with app:
        event.trigger_nowait(0)
        await let_run()
        await app.remove(source)
        await app.restart(sink)
        await app.add(source)
        event.trigger_nowait(1)
        await let_run()
        assert gate.seen == [0, 1]


@pytest.mark.parametrize("overflow", list(Overflow))
async def test_nothing_is_lost_uncounted_over_restarts(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    """a hook whose module crashes again and again has what was triggered, or has it as dropped."""
    source, sink = Module("source"), crashing("sink", initial=1)
    event: Event[int] = source.event("event", int)
    seen: list[int] = []

    @sink.hook(event, buffer=5, overflow=overflow)
    async def take(n: int) -> None:
        seen.append(n)
        await trio.sleep(0.3)

    async def send() -> None:
        for n in range(200):
            with trio.move_on_after(0.5):
                await event.trigger(n)
            await trio.sleep(0.1)

    async with App(source, sink), trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(10):
            await trio.sleep(2)
            await crash(sink)
            assert loss_fault(event) is None
            await sink.wait_online()
    assert seen == sorted(set(seen))
    figures = event.statistics()
    assert figures.delivered + figures.dropped == figures.triggered
    assert figures.delivered == len(seen)


# ---------------------------------------------------------------------- what a reader leaves


class Payload:
    """Something that a hook keeps in its context."""


payload: ContextVar[Payload | str] = ContextVar("payload", default="none")


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_reader_that_has_ended_is_gone_at_once(
    autojump_clock: MockClock, concurrency: int
) -> None:
    """with its context: in a module that restarts, the garbage collector has nothing to do."""
    source, sink, event = pair(int)
    kept: list[weakref.ref[Payload]] = []

    @sink.hook(event, concurrency=concurrency)
    async def keep(_: int) -> None:
        value = Payload()
        kept.append(weakref.ref(value))
        payload.set(value)
        await trio.lowlevel.checkpoint()

    gc.disable()
    try:
        async with App(source, sink) as app:
            for _ in range(3):
                for number in range(concurrency):
                    event.trigger_nowait(number)
                await let_run()
                await app.restart(sink)
            assert [ref() for ref in kept] == [None] * 3 * concurrency
    finally:
        gc.enable()


@pytest.mark.parametrize("batch", [None, 3])
async def test_a_hook_that_is_idle_holds_no_event(
    autojump_clock: MockClock, batch: int | None
) -> None:
    """what was handled last may be large, and the next may come in a year."""
    source, sink, event = pair(Payload)

    async def handle(_: object) -> None:
        await trio.lowlevel.checkpoint()

    if batch is None:
        sink.hook(event, handle)
    else:
        sink.hook(event, handle, batch=batch)
    async with App(source, sink):
        data = Payload()
        kept = weakref.ref(data)
        await event.trigger(data)
        await let_run()
        del data
        assert kept() is None


class CtrlC:
    """Strikes at one line of a function, the first time that it gets there."""

    def __init__(self, function: str, line: int) -> None:
        self.function = function
        self.line = line
        self.struck = False

    def __call__(self, frame: FrameType, event: str, _: object) -> CtrlC | None:
        if frame.f_code.co_name != self.function:
            return None
        if event == "line" and not self.struck:
            self.line -= 1
            if self.line == 0:
                self.struck = True
                signal.raise_signal(signal.SIGINT)
        return self

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Strike in this block."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


@pytest.mark.parametrize("function", ["deliver", "_deliver_beside", "refill"])
def test_ctrl_c_amid_an_event_parts_no_hook_from_it(function: str) -> None:
    """who has it in its inbox is woken, so that the stop has nothing to wait for."""
    for line in itertools.count(1):
        strike = CtrlC(function, line)
        with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
            trio.run(events_until_ctrl_c, strike, clock=MockClock(autojump_threshold=0))
        if not strike.struck:
            break
    assert line > 3


async def events_until_ctrl_c(strike: CtrlC) -> None:
    """Trigger more than there is room for; each hook handles what it has got, at once."""
    source, sink, event = pair(int)
    handled: list[list[int]] = [[], []]

    async def handle(number: int, seen: list[int]) -> None:
        for _ in range(5):  # longer than it takes to trigger three
            await trio.lowlevel.checkpoint()
        seen.append(number)

    for name, seen in zip("ab", handled, strict=True):
        sink.hook(event, handle, seen, name=name, buffer=1)
    began = trio.current_time()
    try:
        async with App(source, sink):
            await let_run()
            with strike.at_work():
                for number in range(3):
                    await event.trigger(number)
            if not strike.struck:
                raise KeyboardInterrupt
            await trio.sleep(1)
    finally:
        assert trio.current_time() == began
        for figures, seen in zip(event.statistics().closed, handled, strict=True):
            assert (figures.delivered, figures.backlog, figures.handling) == (len(seen), 0, 0)
            assert figures.accepted == len(seen)


class Meddling(trio.abc.Instrument):
    """An instrument that does something when a reader begins."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self.meddle = meddle

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith("<hook"):
            self.meddle()


async def test_readers_share_no_context(autojump_clock: MockClock) -> None:
    """not even what an instrument sets as the one before begins."""
    source, sink, event = pair(int)
    seen: list[Payload | str] = []

    async def look(_: int) -> None:
        seen.append(payload.get())

    for number in range(3):
        sink.hook(event, name=f"hook-{number}")(look)
    meddling = Meddling(lambda: payload.set("meddled"))
    trio.lowlevel.add_instrument(meddling)
    async with App(source, sink):
        await event.trigger(1)
        await let_run()
    trio.lowlevel.remove_instrument(meddling)
    assert seen == ["none"] * 3


async def test_an_instrument_may_declare_a_hook_as_another_begins(
    autojump_clock: MockClock,
) -> None:
    """it reads like any other."""
    source, sink, event = pair(int)
    seen: list[str] = []

    @sink.hook(event)
    async def first(_: int) -> None:
        seen.append("first")

    async def second(_: int) -> None:
        seen.append("second")

    def declare() -> None:
        if not declared:
            declared.append(second)
            sink.hook(event, name="second")(second)

    declared: list[object] = []
    meddling = Meddling(declare)
    trio.lowlevel.add_instrument(meddling)
    async with App(source, sink):
        await event.trigger(1)
        await let_run()
    trio.lowlevel.remove_instrument(meddling)
    assert sorted(seen) == ["first", "second"]
