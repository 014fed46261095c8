"""Who listens to events by a channel, what is injected, and the figures of both."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
import trio
from event_helpers import Gate, loss_fault, pair
from lifecycle_helpers import drain, notes_of
from support import fail, let_run, reports_of, switch_off
from trio.testing import MockClock

from trio_modules import (
    App,
    Event,
    GraphError,
    Module,
    ModuleOffline,
    Occurrence,
    Overflow,
)

# ---------------------------------------------------------------------- subscriptions


async def test_a_subscription_is_a_plain_channel(autojump_clock: MockClock) -> None:
    """it may be entered before the app, gets the data in order, and ends with the run."""
    source, sink, event = pair(int)
    async with event.subscribe() as channel:
        assert isinstance(channel, trio.MemoryReceiveChannel)
        async with App(source, sink):
            await event.trigger(1)
            event.trigger_nowait(2)
        assert await drain(channel) == [1, 2]


async def test_a_subscription_ends_with_its_block(autojump_clock: MockClock) -> None:
    """after the block nothing is published any more, and the channel is closed."""
    source, _, event = pair(int)
    async with App(source):
        async with event.subscribe() as channel:
            pass
        event.trigger_nowait(1)
        with pytest.raises(trio.ClosedResourceError):
            channel.receive_nowait()
        async with event.subscribe() as late_channel:
            event.trigger_nowait(2)
            assert late_channel.receive_nowait() == 2


async def test_a_subscriber_that_lags_loses_the_oldest(autojump_clock: MockClock) -> None:
    """the newest stay, no trigger waits, and what is lost is counted for event and app."""
    source, _, event = pair(int)
    app = App(source)
    async with event.subscribe(buffer=2) as channel:
        async with app:
            for n in range(5):
                event.trigger_nowait(n)
            assert event.statistics().dropped == 3
            assert app.status().totals.events_lost == 3
        assert await drain(channel) == [3, 4]


async def test_every_subscriber_has_a_buffer_of_its_own(autojump_clock: MockClock) -> None:
    """one that lags takes nothing from the others."""
    source, _, event = pair(int)
    async with event.subscribe(buffer=1) as small, event.subscribe(buffer=9) as big:
        async with App(source):
            for n in range(3):
                event.trigger_nowait(n)
        assert await drain(small) == [2]
        assert await drain(big) == [0, 1, 2]


@pytest.mark.parametrize("buffer", [0, -1])
async def test_a_subscription_needs_a_buffer(buffer: int) -> None:
    """a buffer below 1 is an error, of an event and of the app."""
    source, _, event = pair(int)
    with pytest.raises(ValueError, match="buffer"):
        async with event.subscribe(buffer=buffer):
            pass
    with pytest.raises(ValueError, match="buffer"):
        async with App(source).subscribe(buffer=buffer):
            pass


async def test_the_events_of_an_app_are_occurrences(autojump_clock: MockClock) -> None:
    """whoever subscribes to the app gets event, data and time of every event of every module."""
    source, sink, event = pair(int)
    other = sink.event("other", str)
    app = App(source, sink)
    async with app.subscribe() as channel:
        async with app:
            event.trigger_nowait(1)
            await trio.sleep(2)
            await other.trigger("a")
            late: Event[None] = sink.event("late")
            late.trigger_nowait(None)
            sink.inject_event("mine", "source/event", 3)
        seen = await drain(channel)
    start = seen[0].time
    assert all(type(each) is Occurrence for each in seen)
    assert [attrs.astuple(each, recurse=False) for each in seen] == [
        (event, 1, start, ""),
        (other, "a", start + 2, ""),
        (late, None, start + 2, ""),
        (event, 3, start + 2, "sink/mine"),
    ]


async def test_a_reader_of_the_app_that_lags_loses_the_oldest(autojump_clock: MockClock) -> None:
    """the loss is counted in the app's status."""
    source, _, event = pair(int)
    app = App(source)
    async with app.subscribe(buffer=2) as channel:
        async with app:
            for n in range(5):
                event.trigger_nowait(n)
            assert app.status().totals.events_lost == 3
        assert [each.data for each in await drain(channel)] == [3, 4]


async def test_a_subscriber_sees_what_hooks_drop(autojump_clock: MockClock) -> None:
    """a subscription gets what a full hook waits for or drops."""
    source, sink, event = pair(int)
    gate = Gate()
    sink.hook(event, gate, buffer=1, overflow=Overflow.DROP_NEWEST)
    async with event.subscribe() as channel, App(source, sink):
        for n in range(4):
            event.trigger_nowait(n)
        assert [channel.receive_nowait() for _ in range(4)] == [0, 1, 2, 3]
        gate.may.set()
    assert gate.seen == [0]


# ---------------------------------------------------------------------- injecting


async def test_an_injected_event_is_one_of_the_target(autojump_clock: MockClock) -> None:
    """hooks get the data itself, and the statistics say in whose name it came."""
    source, sink, event = pair(int)
    injector = Module("injector")
    alike = injector.event("alike", int)
    gate, batches = Gate(is_open=True), Gate(is_open=True)
    sink.hook(event, gate)
    sink.hook(event, batches, name="batches", batch=5)
    async with App(source, sink, injector):
        injector.inject_event(alike, "source/event", 1)
        injector.inject_event("other", "source/event", 2)
        event.trigger_nowait(3)
        injector.inject_event(alike, "source/event", 4)
        await let_run()
        figures = event.statistics()
        assert (figures.triggered, alike.statistics().triggered) == (4, 0)
        assert dict(figures.injected) == {"injector/alike": 2, "injector/other": 1}
        assert loss_fault(event) is None
    assert gate.seen == [1, 2, 3, 4]
    assert list(itertools.chain(*batches.seen)) == [1, 2, 3, 4]


async def test_what_was_injected_outlives_its_target(autojump_clock: MockClock) -> None:
    """what waits for a hook keeps its data while the event's module is away."""
    source, sink, event = pair(int)
    other = Module("other")
    gate = Gate()
    sink.hook(event, gate)
    async with App(source, sink, other) as app:
        for number in range(3):
            other.inject_event("origin", "source/event", number)
        await let_run()
        await app.remove(source)
        await app.add(source)
        gate.may.set()
        await let_run()
    assert gate.seen == [0, 1, 2]


async def test_a_report_names_the_injected_source(autojump_clock: MockClock) -> None:
    """what a hook raises with an injected event has a note with the source, with others none."""
    source, sink, event = pair(int)
    injector = Module("injector")

    @sink.hook(event)
    async def take(n: int) -> None:
        await fail(ValueError(n))

    async def use() -> None:
        injector.inject_event("alike", "source/event", 1)
        event.trigger_nowait(2)
        await let_run()

    first, second = await reports_of(App(source, sink, injector), use)
    assert first.exception is not None
    assert second.exception is not None
    assert "injected by 'injector/alike'" in notes_of(first.exception)
    assert "injected" not in notes_of(second.exception)


async def test_injecting_follows_the_rules_of_trigger_nowait(autojump_clock: MockClock) -> None:
    """full hooks, data of another type, unknown names and an offline injector are errors."""
    source, sink, event = pair(int)
    injector = Module("injector")
    sink.hook(event, Gate(), buffer=1)
    with pytest.raises(ModuleOffline, match=r"'injector'.*inject event 'source/event'"):
        injector.inject_event("x", "source/event", 1)
    async with App(source, sink, injector):
        with pytest.raises(TypeError, match="data of event 'source/event'"):
            injector.inject_event("x", "source/event", "wrong")
        with pytest.raises(GraphError, match=r"no event 'evnt'.*'event'"):
            injector.inject_event("x", "source/evnt", 1)
        with pytest.raises(GraphError, match=r"no module 'sorce'.*'source'"):
            injector.inject_event("x", "sorce/event", 1)
        with pytest.raises(ValueError, match="source_event"):
            injector.inject_event("x/y", "source/event", 1)
        assert event.statistics().triggered == 0
        event.trigger_nowait(1)
        await let_run()
        event.trigger_nowait(2)
        with pytest.raises(trio.WouldBlock):
            injector.inject_event("x", "source/event", 3)
        assert event.statistics().injected == {}
        assert event.statistics().triggered == 2


async def test_an_injection_is_for_the_injector_to_be_online(autojump_clock: MockClock) -> None:
    """the target's module may be offline: the type of the data is checked all the same."""
    source, sink, event = pair(int)
    source.enable()
    sink.enable()
    gate = Gate(is_open=True)
    sink.hook(event, gate)
    app = App(source, sink, managed=True)
    async with app:
        await switch_off(app, source)
        with pytest.raises(ModuleOffline):
            event.trigger_nowait(1)
        sink.inject_event("x", "source/event", 2)
        with pytest.raises(TypeError, match="data of event 'source/event'"):
            sink.inject_event("x", "source/event", "wrong")
        await let_run()
        assert gate.seen == [2]
        await switch_off(app, sink)
        with pytest.raises(ModuleOffline):
            sink.inject_event("x", "source/event", 3)


# ---------------------------------------------------------------------- statistics


async def test_statistics_and_status_show_every_hook(autojump_clock: MockClock) -> None:
    """the event shows its hooks, the app's status the module's, with the same figures."""
    source, sink, event = pair(int)
    gate = Gate()
    sink.hook(event, gate, name="slow")
    app = App(source, sink)
    async with app, trio.open_nursery() as nursery:
        for n in range(5):
            event.trigger_nowait(n)
        await let_run()
        figures = event.statistics()
        assert (figures.triggered, figures.delivered, figures.dropped) == (5, 0, 0)
        (hook,) = figures.hooks
        assert (hook.hook, hook.accepted, hook.backlog, hook.handling) == ("sink/slow", 5, 4, 1)
        (info,) = app.status().modules["sink"].hooks
        assert (info.name, info.backlog, info.handling) == ("slow", 4, 1)
        shown: Any = app.status().to_dict()
        assert shown["modules"]["sink"]["hooks"][0]["backlog"] == 4
        gate.may.set()
        await let_run()
        (info,) = app.status().modules["sink"].hooks
        assert (info.delivered, info.backlog, info.handling) == (5, 0, 0)
        nursery.cancel_scope.cancel()
    assert event.statistics().delivered == 5


async def test_the_figures_of_a_hook_stay_when_it_is_closed(autojump_clock: MockClock) -> None:
    """a hook that gets nothing any more is among the closed ones, until it is back."""
    source, sink, event = pair(int)
    sink.hook(event, Gate(is_open=True), name="h")
    source.enable()
    sink.enable()
    app = App(source, sink, managed=True)
    async with app:
        assert event.statistics().closed == ()
        for n in range(3):
            event.trigger_nowait(n)
        await let_run()
        (before,) = event.statistics().hooks
        await switch_off(app, sink)
        event.trigger_nowait(3)
        figures = event.statistics()
        assert figures.hooks == ()
        assert figures.closed == (before,)
        sink.enable()
        await app.manage()
        assert event.statistics().hooks == (before,)
        assert event.statistics().closed == ()
    assert [hook.delivered for hook in event.statistics().closed] == [3]
    async with app:
        assert event.statistics().closed == ()
