"""Hooks and the life of their modules: when they begin, what they keep, what they drop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from support import let_run, stray_cancelled, switch_off
from test_events import Pair
from trio.testing import MockClock

from trio_modules import (
    App,
    Backoff,
    Module,
    ModuleStatus,
    Overflow,
    Restart,
    RestartModule,
    StartError,
    current_app,
    current_module,
)

AT_ONCE = Restart(backoff=Backoff(initial=0))
SLICE = 256


async def until_online(module: Module) -> None:
    await module.wait_online()
    await let_run()


# ---------------------------------------------------------------- beginning


async def test_events_wait_until_both_modules_are_online(autojump_clock: MockClock) -> None:
    """what is triggered before is handled then, in order."""
    pair = Pair()
    states: list[tuple[str, str]] = []

    @pair.source.on_start
    async def start() -> None:
        await pair.event.trigger(0)
        await trio.sleep(3)
        await pair.event.trigger(1)

    @pair.sink.on_start
    async def slow() -> None:
        await trio.sleep(3)
        await pair.event.trigger(2)
        assert pair.seen == []

    async with pair.app:
        await let_run()
        states.append((pair.source.status.name, pair.sink.status.name))
        assert pair.seen == [0, 1, 2]
    assert states == [("ONLINE", "ONLINE")]


async def test_a_hook_waits_for_the_module_of_the_event(autojump_clock: MockClock) -> None:
    """a hooking module that is online earlier begins when the source is."""
    source, sink = Module("source"), Module("sink")
    event = source.event("tick", int)
    seen: list[tuple[float, int]] = []

    @sink.hook(event)
    async def take(number: int) -> None:
        seen.append((trio.current_time(), number))

    @source.on_start
    async def start() -> None:
        await event.trigger(1)
        await trio.sleep(5)

    async with App(source, sink):
        await let_run()
    assert seen == [(5.0, 1)]


async def test_the_source_stopping_does_not_pause_a_hook(autojump_clock: MockClock) -> None:
    """it goes on with what it has until its own module stops."""
    source, sink = Module("source", enabled=True), Module("sink", enabled=True)
    event = source.event("tick", int)
    seen: list[int] = []

    @sink.hook(event)
    async def take(number: int) -> None:
        await trio.sleep(1)
        seen.append(number)

    async with App(source, sink, managed=True) as app:
        for number in range(5):
            await event.trigger(number)
        await switch_off(app, source)
        assert source.status is ModuleStatus.OFFLINE
        await trio.sleep(10)
        assert seen == list(range(5))


async def test_a_hook_of_a_module_that_is_not_wanted_gets_nothing(
    autojump_clock: MockClock,
) -> None:
    """not even something that waits for it to be enabled one day."""
    pair = Pair()
    app = App(pair.source, pair.sink, managed=True)
    pair.source.enable()
    async with app:
        await pair.event.trigger(1)
        assert pair.event.statistics().hooks == ()
        pair.sink.enable()
        await app.manage()
        await pair.event.trigger(2)
        await let_run()
        await switch_off(app, pair.sink)
        await pair.event.trigger(3)
        await let_run()
    assert pair.seen == [2]


async def test_a_hook_declared_while_the_module_runs_begins_at_once(
    autojump_clock: MockClock,
) -> None:
    """and is gone with that run of the module, so that restarts don't pile them up."""
    pair = Pair()
    late: list[int] = []

    async def note(number: int) -> None:
        late.append(number)

    async with pair.app as app:
        pair.sink.hook(pair.event, note)
        await pair.event.trigger(1)
        await let_run()
        assert late == [1]
        await app.restart(pair.sink)
        await pair.event.trigger(2)
        await let_run()
    assert (late, pair.seen) == ([1], [1, 2])


async def test_hooks_added_at_start_do_not_pile_up(autojump_clock: MockClock) -> None:
    """after fifty restarts there is one of them, everywhere."""
    pair = Pair()
    calls: list[int] = []

    async def note(number: int) -> None:
        calls.append(number)

    @pair.sink.on_start
    async def start() -> None:
        pair.sink.hook(pair.event, note)

    async with pair.app as app:
        for _ in range(50):
            await app.restart(pair.sink)
        await pair.event.trigger(1)
        await let_run()
        assert len(pair.event.statistics().hooks) == 2
        assert len(app.status().modules["sink"].hooks) == 2
    assert calls == [1]


# ---------------------------------------------------------------- stopping


async def test_a_stop_lets_hooks_handle_what_waits(autojump_clock: MockClock) -> None:
    """while the workers still run, and before the stop functions."""
    pair = Pair()
    trace: list[str] = []

    @pair.sink.worker
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            trace.append(f"worker ends, {len(pair.seen)} seen")

    @pair.sink.on_stop
    async def stop() -> None:
        trace.append(f"stop, {len(pair.seen)} seen")

    async with pair.app:
        for number in range(50):
            pair.event.trigger_nowait(number)
    assert pair.seen == list(range(50))
    assert trace == ["worker ends, 50 seen", "stop, 50 seen"]


async def test_a_drain_lasts_half_of_the_stop_time(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """what is left then is counted as dropped, and logged; nothing runs on after it."""
    source = Module("source")
    sink = Module("sink", depends_on=[source], stop_timeout=10)
    event = source.event("tick", int)
    seen: list[int] = []

    @sink.hook(event)
    async def take(number: int) -> None:
        await trio.sleep(1.1)
        seen.append(number)

    figures: list[Any] = []

    @sink.on_stop
    async def stop() -> None:
        figures.append((trio.current_time(), len(seen)))

    with caplog.at_level(logging.WARNING, "trio_modules"):
        async with App(source, sink) as app:
            for number in range(20):
                event.trigger_nowait(number)
        info = app.status().modules["sink"].hooks[0]
    assert figures == [(5.0, 4)]
    assert (info.delivered, info.dropped) == (5, 15)  # one had begun when the time was over
    assert "hook take dropped 15 events" in caplog.text


async def test_a_sender_that_waits_for_a_draining_hook_is_let_go(
    autojump_clock: MockClock,
) -> None:
    """its event counts as dropped, and it doesn't wait for ever."""
    source = Module("source", enabled=True)
    sink = Module("sink", enabled=True, stop_timeout=4)
    event = source.event("tick", int)

    @sink.hook(event, buffer=1)
    async def take(number: int) -> None:
        await trio.sleep(100)

    done: list[float] = []

    async def send() -> None:
        await event.trigger(2)
        done.append(trio.current_time())

    async with App(source, sink, managed=True) as app, trio.open_nursery() as nursery:
        await event.trigger(0)
        await let_run()
        await event.trigger(1)
        nursery.start_soon(send)
        await let_run()
        await switch_off(app, sink)
        assert done == [2.0]
        assert app.status().totals.events_lost == 2


async def test_5000_triggers_then_shutdown_are_all_accounted_for(
    autojump_clock: MockClock,
) -> None:
    """delivered and dropped are what was triggered, exactly."""
    source = Module("source")
    sink = Module("sink", depends_on=[source], stop_timeout=10)
    event = source.event("tick", int)
    handled = 0

    @sink.hook(event, buffer=6_000)
    async def take(number: int) -> None:
        nonlocal handled
        if number % 100 == 0:
            await trio.sleep(0.2)
        handled += 1

    async with App(source, sink) as app:
        for number in range(5_000):
            event.trigger_nowait(number)
    info = app.status().modules["sink"].hooks[0]
    assert info.delivered + info.dropped == 5_000
    assert info.backlog == info.handling == 0
    assert handled <= info.delivered <= handled + 1
    assert 0 < info.dropped < 5_000


async def test_a_million_events_in_order_through_one_hook() -> None:
    """none is lost, none overtakes another."""
    source = Module("source")
    event = source.event("tick", int)
    expected = 0

    @source.hook(event, buffer=1_000)
    async def take(number: int) -> None:
        nonlocal expected
        assert number == expected
        expected += 1

    with trio.fail_after(120):
        async with App(source) as app:
            for number in range(1_000_000):
                try:
                    event.trigger_nowait(number)
                except trio.WouldBlock:
                    await event.trigger(number)
            await let_run()
            assert app.last_error is None
    assert expected == 1_000_000


# ---------------------------------------------------------------- restarts and failures


@pytest.mark.parametrize("cause", ["crash", "restart"])
async def test_a_restart_keeps_what_waits(cause: str, autojump_clock: MockClock) -> None:
    """what the hook had begun counts as handled, the rest is handled after it."""
    source = Module("source")
    sink = Module("sink", depends_on=[source], restart=AT_ONCE)
    event = source.event("tick", int)
    begun: list[int] = []

    @sink.hook(event)
    async def take(number: int) -> None:
        begun.append(number)
        if number == 2:
            await trio.sleep_forever()

    async with App(source, sink) as app:
        for number in range(6):
            event.trigger_nowait(number)
        await let_run()
        if cause == "crash":
            sink.nursery.cancel_scope.cancel()
            await sink.wait_status(ModuleStatus.STARTING)
        else:
            await app.restart(sink)
        event.trigger_nowait(6)
        await until_online(sink)
        (hook,) = event.statistics().hooks
        assert (hook.accepted, hook.delivered, hook.backlog, hook.dropped) == (7, 7, 0, 0)
    assert begun == list(range(7))


async def test_a_failed_start_drops_what_waits_and_lets_senders_go(
    autojump_clock: MockClock,
) -> None:
    """nobody waits for a module that will not come."""
    source, sink = Module("source", enabled=True), Module("sink")
    event = source.event("tick", int)

    @sink.hook(event, buffer=1)
    async def take(number: int) -> None: ...

    @sink.on_start
    async def start() -> None:
        await trio.sleep(2)
        raise OSError("no")

    done: list[float] = []

    async def send() -> None:
        await event.trigger(1)
        await event.trigger(2)
        done.append(trio.current_time())

    async with App(source, sink, managed=True) as app, trio.open_nursery() as nursery:
        sink.enable()
        nursery.start_soon(send)
        with pytest.raises(StartError):
            await app.manage()
        await let_run()
        assert done == [2.0]
        assert app.status().totals.events_lost == 2
        await event.trigger(3)  # nobody is there any more


async def test_an_exception_is_reported_once_and_the_next_event_follows(
    autojump_clock: MockClock,
) -> None:
    """with the hook's name and type; a stray Cancelled is one, too."""
    source = Module("source")
    event = source.event("tick", int)
    seen: list[int] = []

    @source.hook(event, name="my-hook")
    async def take(number: int) -> None:
        if number == 1:
            raise ValueError("wrong")
        if number == 2:
            raise await stray_cancelled()
        seen.append(number)

    app = App(source)
    async with app.reports() as reports:
        async with app:
            for number in range(4):
                event.trigger_nowait(number)
        found = [each async for each in reports]
    assert [(each.task_name, each.task_type) for each in found] == [("my-hook", "hook")] * 2
    assert [type(each.exception) for each in found] == [ValueError, trio.Cancelled]
    assert seen == [0, 3]


async def test_a_hook_can_ask_for_a_restart_of_its_module(autojump_clock: MockClock) -> None:
    """RestartModule is what it is in a worker."""
    source = Module("source", restart=AT_ONCE)
    event = source.event("tick", int)

    @source.hook(event)
    async def take(number: int) -> None:
        if number == 1:
            raise RestartModule

    async with App(source) as app:
        event.trigger_nowait(1)
        await source.wait_status(ModuleStatus.STARTING)
        await source.wait_online()
        assert app.status().modules["source"].restarts == 1


async def test_an_interrupt_in_a_hook_ends_the_app(autojump_clock: MockClock) -> None:
    """in order, and reaches whoever entered it."""
    source = Module("source")
    event = source.event("tick", int)

    @source.hook(event)
    async def take(number: int) -> None:
        raise KeyboardInterrupt

    async def run() -> None:
        async with App(source):
            event.trigger_nowait(1)
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        await run()


@pytest.mark.parametrize("batch", [None, 3])
async def test_retry_gives_the_same_events_again(
    batch: int | None, autojump_clock: MockClock
) -> None:
    """in order, with back-pressure and a warning, until it works."""
    source = Module("source")
    event = source.event("tick", int)
    calls: list[Any] = []
    down = True

    async def take(data: Any) -> None:
        calls.append(list(data) if isinstance(data, Sequence) else data)
        if down:
            raise OSError("database is locked")

    declare: Any = source.hook
    declare(event, take, batch=batch, buffer=4, retry=Backoff(initial=1))
    async with App(source) as app:
        for number in range(4):
            event.trigger_nowait(number)
        await trio.sleep(3.5)  # tries at 0, 1 and 3
        assert len(calls) == 3
        assert all(call == calls[0] for call in calls)
        assert source.failures["take:retrying"].level.name == "WARNING"
        for number in range(4, 10):
            with trio.move_on_after(0.01):
                await event.trigger(number)
        assert event.statistics().hooks[0].backlog == 4
        down, failed = False, len(calls)
        await trio.sleep(10)
        assert "take:retrying" not in source.failures
        assert app.status().modules["source"].hooks[0].backlog == 0
        flat = [each for call in calls[failed:] for each in (call if batch else [call])]
        assert flat == sorted(set(flat))
        assert flat[:4] == [0, 1, 2, 3]


async def test_what_a_retry_has_in_hand_survives_a_crash(autojump_clock: MockClock) -> None:
    """with retry an event counts as handled when the function has returned, not before."""
    source = Module("source", restart=AT_ONCE)
    event = source.event("tick", int)
    done: list[int] = []
    attempts = 0

    @source.hook(event, retry=Backoff(initial=1))
    async def take(number: int) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await trio.sleep_forever()
        done.append(number)

    async with App(source):
        event.trigger_nowait(1)
        event.trigger_nowait(2)
        await let_run()
        source.nursery.cancel_scope.cancel()
        await source.wait_status(ModuleStatus.STARTING)
        await until_online(source)
        assert done == [1, 2]


# ---------------------------------------------------------------- surroundings


async def test_a_hook_runs_as_work_of_its_module(autojump_clock: MockClock) -> None:
    """in a copy of the context in which the app was entered."""
    pair = Pair()
    var: ContextVar[str] = ContextVar("var", default="unset")
    found: list[Any] = []

    @pair.sink.hook(pair.event, name="look")
    async def look(number: int) -> None:
        found.append((current_module(), current_app(), var.get()))

    var.set("entered")
    async with pair.app as app:
        var.set("later")
        await pair.event.trigger(1)
        await let_run()
    assert found == [(pair.sink, app, "entered")]


async def test_a_flood_at_one_hook_starves_no_other() -> None:
    """a thousand idle hooks are served within a bound of steps while one is flooded."""
    source = Module("source")
    flood = source.event("flood", int)
    quiet = source.event("quiet", int)
    served: list[int] = []

    @source.hook(flood, buffer=100_000)
    async def drown(number: int) -> None: ...

    async def serve(number: int, which: int) -> None:
        served.append(which)

    for which in range(1_000):
        source.hook(quiet, serve, which, name=f"serve-{which}")

    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task.name == "<hook drown>":
                self.count += 1

    async with App(source):
        await let_run()
        for number in range(100_000):
            flood.trigger_nowait(number)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        quiet.trigger_nowait(1)
        while len(served) < 1_000:
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(steps)
        (hook,) = flood.statistics().hooks
        assert hook.backlog > 0
        assert steps.count <= 3
        assert hook.delivered <= 3 * SLICE


async def test_readers_are_no_workers(autojump_clock: MockClock) -> None:
    """the status shows hooks as hooks, with their backlog."""
    pair = Pair()
    async with pair.app as app:
        pair.close()
        for number in range(3):
            await pair.event.trigger(number)
        await let_run()
        info = app.status().modules["sink"]
        assert info.workers == ()
        assert [(hook.name, hook.backlog, hook.handling) for hook in info.hooks] == [("take", 2, 1)]
        assert "in take" in app.task_tree()
        pair.gate.set()


async def test_an_app_entered_again_begins_to_count_afresh(autojump_clock: MockClock) -> None:
    """nothing of the first run is left."""
    pair = Pair(overflow=Overflow.DROP_OLDEST)
    for _ in range(2):
        async with pair.app:
            await pair.event.trigger(1)
            await let_run()
            assert pair.event.statistics().triggered == 1
            assert pair.figures() == (1, 0, 0, 0)


async def test_modules_that_are_added_and_removed_bring_their_hooks(
    autojump_clock: MockClock,
) -> None:
    """a hook of an added module begins with it and leaves with it."""
    pair = Pair()
    seen: list[int] = []
    extra = Module("extra", depends_on=["source"])

    @extra.hook("source/tick")
    async def note(number: int) -> None:
        seen.append(number)

    async with pair.app as app:
        await app.add(extra)
        await pair.event.trigger(1)
        await let_run()
        await app.remove(extra)
        await pair.event.trigger(2)
        await let_run()
        assert len(pair.event.statistics().hooks) == 1
        another = Module("another")
        await app.add(another)
    assert (seen, pair.seen) == ([1], [1, 2])
