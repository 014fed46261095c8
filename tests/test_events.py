"""Events: triggering, inboxes, overflow, waiting, deadlocks, subscriptions, injection."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
import trio
from support import let_run
from trio.testing import MockClock

from trio_modules import (
    App,
    Event,
    EventDeadlock,
    GraphError,
    Module,
    ModuleOffline,
    Overflow,
)


class Pair:
    """A source with an event and a sink with one hook on it, which takes its time if told so."""

    def __init__(self, **options: Any) -> None:
        self.source = Module("source")
        self.sink = Module("sink", depends_on=[self.source])
        self.event: Event[int] = self.source.event("tick", int)
        self.seen: list[int] = []
        self.gate = trio.Event()
        self.gate.set()
        self.sink.hook(self.event, self.take, **options)
        self.app = App(self.source, self.sink)

    async def take(self, data: int) -> None:
        await self.gate.wait()
        self.seen.append(data)

    def close(self) -> None:
        self.gate = trio.Event()

    def figures(self) -> tuple[int, int, int, int]:
        """Delivered, handling, backlog, dropped of the hook."""
        (hook,) = self.event.statistics().hooks
        return hook.delivered, hook.handling, hook.backlog, hook.dropped


# ---------------------------------------------------------------- declaring


def test_an_event_is_the_same_object_on_a_second_call() -> None:
    """with or without its type, by whatever call."""
    module = Module("m")
    event = module.event("tick", int)
    again: Event[int] = module.event("tick")
    assert module.event("tick", int) is event is again
    assert module.events == {"tick": event}
    assert (event.name, event.module, event.full_name) == ("tick", module, "m/tick")


def test_another_type_for_the_same_event_is_an_error() -> None:
    """the first type that was named stays."""
    module = Module("m")
    module.event("tick", int)
    with pytest.raises(TypeError, match=r"must stay the same, got <class 'str'>"):
        module.event("tick", str)


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_name_of_an_event_is_not_empty_and_without_slash(name: str) -> None:
    """the slash divides the module's name from the event's."""
    with pytest.raises(ValueError, match="name must be non-empty"):
        Module("m").event(name)


def test_a_data_type_has_to_be_a_type() -> None:
    """a value in its place is an early error."""
    wrong: Any = 5
    with pytest.raises(TypeError, match="data_type must be a type, got 5"):
        Module("m").event("tick", wrong)


@pytest.mark.parametrize(
    ("data_type", "good", "bad"),
    [
        (int, 1, "x"),
        (float, 1, "x"),
        (float, 1.5, None),
        (list[int], ["not looked at"], (1,)),
        (dict[str, int], {}, []),
        (int | None, None, "x"),
        (type(None), None, 0),
    ],
)
async def test_data_of_another_type_is_refused(data_type: Any, good: Any, bad: Any) -> None:
    """generics are checked by their origin, float takes an int; nobody gets the wrong data."""
    module = Module("m")
    event: Event[Any] = module.event("tick", data_type)
    async with App(module):
        event.trigger_nowait(good)
        await event.trigger(good)
        with pytest.raises(TypeError, match="data of event 'm/tick' must be"):
            event.trigger_nowait(bad)
        with pytest.raises(TypeError, match="data of event 'm/tick' must be"):
            await event.trigger(bad)
        assert event.statistics().triggered == 2


async def test_data_is_not_checked_without_a_type_or_when_switched_off() -> None:
    """an event typed by annotation, or with check=False, takes what it is given."""
    module = Module("m")
    noted: Event[int] = module.event("noted")
    free = module.event("free", int, check=False)
    wrong: Any = "x"
    async with App(module):
        noted.trigger_nowait(wrong)
        free.trigger_nowait(wrong)


@pytest.mark.parametrize("buffer", [0, -1, 1.5, True])
def test_a_buffer_is_a_number_of_at_least_one(buffer: Any) -> None:
    """the argument is named, the value shown."""
    pair = Pair()
    with pytest.raises((TypeError, ValueError), match=r"buffer must be .* got"):
        pair.sink.hook(pair.event, pair.take, buffer=buffer)


def test_a_hook_is_async_and_takes_the_data() -> None:
    """a sync function and a wrong signature are errors when the hook is declared."""
    pair = Pair()
    sync: Any = lambda data: None  # noqa: E731

    async def nothing() -> None: ...

    wrong: Any = nothing
    with pytest.raises(TypeError, match="hook expected an async function"):
        pair.sink.hook(pair.event, sync)
    with pytest.raises(TypeError, match="hook can't call"):
        pair.sink.hook(pair.event, wrong)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("sourse/tick", "no module 'sourse'.*source"),
        ("source/tik", "module 'source' has no event 'tik'.*tick"),
    ],
)
async def test_an_unknown_event_is_an_error_at_entry(target: str, message: str) -> None:
    """entering the app and checking it name the near misses, and nothing has run."""
    pair = Pair()
    other = Module("other")
    other.hook(target, pair.take)
    app = App(pair.source, other)
    with pytest.raises(GraphError, match=message):
        app.check()
    with pytest.raises(GraphError, match=message):
        await app.__aenter__()


async def test_an_event_of_a_module_that_is_not_here_is_an_error_at_entry() -> None:
    """another module of that name doesn't help."""
    source, sink = Module("source"), Module("sink")
    event = source.event("tick", int)
    impostor = Module("source")
    impostor.event("tick", int)
    sink.hook(event, trio.sleep)
    with pytest.raises(GraphError, match="belongs to another module"):
        await App(impostor, sink).__aenter__()
    with pytest.raises(GraphError, match="no module 'source'"):
        await App(sink).__aenter__()


@pytest.mark.parametrize("target", ["tick", "a/b/c", "/tick", "source/"])
def test_a_name_of_an_event_has_a_module_and_an_event(target: str) -> None:
    """anything else is refused when the hook is declared."""
    pair = Pair()
    with pytest.raises(ValueError, match="event must be an Event or 'module/event', got"):
        pair.sink.hook(target, pair.take)


async def test_a_hook_by_name_gets_the_arguments_of_its_declaration(
    autojump_clock: MockClock,
) -> None:
    """the plain call takes arguments that follow the data, and a decorator gives the function."""
    source = Module("source")
    event = source.event("tick", int)
    sink = Module("sink", depends_on=[source])
    seen = []

    async def take(data: int, factor: int) -> None:
        seen.append(data * factor)

    sink.hook("source/tick", take, 10)

    @sink.hook(event, name="other")
    async def other(data: int) -> None:
        seen.append(data)

    async with App(source, sink):
        await event.trigger(3)
        await let_run()
        await other(7)
    assert sorted(seen) == [3, 7, 30]


# ---------------------------------------------------------------- delivering


async def test_events_are_handled_in_the_order_triggered(autojump_clock: MockClock) -> None:
    """a hook sees all of them, once, whether it was waited for or not."""
    pair = Pair(buffer=10)
    async with pair.app:
        for number in range(0, 1_000, 2):
            await pair.event.trigger(number)
            try:
                pair.event.trigger_nowait(number + 1)
            except trio.WouldBlock:
                await pair.event.trigger(number + 1)
        await let_run()
    assert pair.seen == list(range(1_000))


async def test_trigger_nowait_is_for_all_hooks_or_for_none(autojump_clock: MockClock) -> None:
    """one full hook that says WAIT is enough, and then nobody gets it."""
    pair = Pair(buffer=2)
    other: list[int] = []

    async def note(data: int) -> None:
        other.append(data)

    pair.sink.hook(pair.event, note)
    async with pair.app:
        pair.close()
        for number in range(3):  # one in hand, two in the buffer
            await pair.event.trigger(number)
            await let_run()
        with pytest.raises(trio.WouldBlock):
            pair.event.trigger_nowait(3)
        await let_run()
        assert other == [0, 1, 2]
        assert pair.event.statistics().triggered == 3
        pair.gate.set()
    assert pair.seen == [0, 1, 2]


async def test_trigger_waits_for_the_full_hooks_alone(autojump_clock: MockClock) -> None:
    """who has room gets it at once; the sender goes on when the last one has it."""
    pair = Pair(buffer=1)
    other: list[int] = []

    async def note(data: int) -> None:
        other.append(data)

    pair.sink.hook(pair.event, note)
    done: list[float] = []

    async def send() -> None:
        await pair.event.trigger(2)
        done.append(trio.current_time())

    async with pair.app, trio.open_nursery() as nursery:
        pair.close()
        for number in range(2):
            await pair.event.trigger(number)
            await let_run()
        nursery.start_soon(send)
        await let_run()
        assert other == [0, 1, 2]
        assert not done
        assert pair.event.statistics().hooks[0].senders_waiting == 1
        await trio.sleep(5)
        pair.gate.set()
    assert done == [5.0]
    assert pair.seen == [0, 1, 2]


async def test_a_sender_that_is_cancelled_counts_as_dropped_where_it_waited(
    autojump_clock: MockClock,
) -> None:
    """who has the event keeps it."""
    pair = Pair(buffer=1)
    other: list[int] = []

    async def note(data: int) -> None:
        other.append(data)

    pair.sink.hook(pair.event, note)
    async with pair.app:
        pair.close()
        for number in range(2):
            await pair.event.trigger(number)
            await let_run()
        with trio.move_on_after(3) as scope:
            await pair.event.trigger(2)
        assert scope.cancelled_caught
        first, second = pair.event.statistics().hooks
        assert (first.dropped, first.senders_waiting, second.dropped) == (1, 0, 0)
        pair.gate.set()
        await let_run()
        assert pair.event.statistics().dropped == 1
    assert (pair.seen, other) == ([0, 1], [0, 1, 2])


async def test_waiting_senders_are_served_in_their_order(autojump_clock: MockClock) -> None:
    """nobody overtakes a sender that waits, not even without waiting."""
    pair = Pair(buffer=1)
    async with pair.app, trio.open_nursery() as nursery:
        pair.close()
        for number in range(6):
            nursery.start_soon(pair.event.trigger, number)
            await let_run()
        with pytest.raises(trio.WouldBlock):
            pair.event.trigger_nowait(99)
        pair.gate.set()
    assert pair.seen == list(range(6))


@pytest.mark.parametrize(
    ("overflow", "kept"), [(Overflow.DROP_OLDEST, [0, 4, 5]), (Overflow.DROP_NEWEST, [0, 1, 2])]
)
async def test_dropping_never_waits_and_is_counted(
    overflow: Overflow, kept: list[int], autojump_clock: MockClock
) -> None:
    """the oldest or the newest of what the buffer can't hold."""
    pair = Pair(buffer=2, overflow=overflow)
    async with pair.app:
        pair.close()
        await pair.event.trigger(0)
        await let_run()  # in hand
        for number in range(1, 6):
            pair.event.trigger_nowait(number)
        assert pair.figures() == (0, 1, 2, 3)
        pair.gate.set()
        await let_run()
        assert pair.figures() == (3, 0, 0, 3)
    assert pair.seen == kept


async def test_trigger_is_a_checkpoint_that_can_be_cancelled() -> None:
    """with and without hooks, also when there is room."""
    pair = Pair()
    async with pair.app:
        for event in (pair.event, pair.source.event("alone", int)):
            with trio.testing.assert_checkpoints():
                await event.trigger(1)
            with trio.CancelScope() as scope:
                scope.cancel()
                await event.trigger(2)
            assert scope.cancelled_caught
            assert event.statistics().triggered == 1


@pytest.mark.parametrize("batch", [1, 3, 100])
async def test_a_batch_is_what_is_there_without_lingering(
    batch: int, autojump_clock: MockClock
) -> None:
    """one to so many events, in order, as a sequence."""
    source = Module("source")
    event = source.event("tick", int)
    batches: list[list[int]] = []

    @source.hook(event, batch=batch)
    async def take(data: Any) -> None:
        batches.append(list(data))

    async with App(source):
        for number in range(10):
            event.trigger_nowait(number)
        await let_run()
        event.trigger_nowait(10)
        await let_run()
    assert [each for one in batches for each in one] == list(range(11))
    assert max(map(len, batches)) == min(batch, 10)
    assert batches[-1] == [10]


async def test_concurrency_handles_several_at_a_time(autojump_clock: MockClock) -> None:
    """so many and no more, beginning in order."""
    source = Module("source")
    event = source.event("tick", int)
    begun: list[tuple[float, int]] = []

    @source.hook(event, concurrency=3)
    async def take(number: int) -> None:
        begun.append((trio.current_time(), number))
        await trio.sleep(1)

    async with App(source):
        for number in range(6):
            event.trigger_nowait(number)
        await trio.sleep(5)
    assert [number for _, number in begun[:3]] == [0, 1, 2]
    assert [time for time, _ in begun] == [0, 0, 0, 1, 1, 1]


async def test_triggering_from_a_thread() -> None:
    """by way of Trio's own bridge."""
    pair = Pair()
    async with pair.app:
        await trio.to_thread.run_sync(
            functools.partial(trio.from_thread.run, pair.event.trigger, 5)
        )
        await trio.testing.wait_all_tasks_blocked()
    assert pair.seen == [5]


async def test_an_event_can_be_triggered_from_starting_until_the_stop_functions_end(
    autojump_clock: MockClock,
) -> None:
    """else it is offline: before the start, and when the lifespans are left."""
    module = Module("m")
    event = module.event("tick", int)
    worked: dict[str, bool] = {}

    async def attempt(when: str) -> None:
        try:
            event.trigger_nowait(1)
        except ModuleOffline:
            worked[when] = False
        else:
            worked[when] = True

    module.on_prep(attempt, "prep")
    module.on_start(attempt, "start")
    module.on_stop(attempt, "stop")

    @module.lifespan
    async def life() -> Any:
        await attempt("entering")
        yield
        await attempt("leaving")

    await attempt("before")
    async with App(module):
        await attempt("online")
    await attempt("after")
    assert worked == {
        "before": False,
        "prep": False,
        "entering": True,
        "start": True,
        "online": True,
        "stop": True,
        "leaving": False,
        "after": False,
    }


# ---------------------------------------------------------------- deadlocks


async def test_a_hook_that_would_wait_for_itself_is_told(autojump_clock: MockClock) -> None:
    """EventDeadlock, and nobody has got the event."""
    module = Module("m")
    event = module.event("tick", int)
    caught: list[EventDeadlock] = []
    handled: list[int] = []

    @module.hook(event, buffer=1)
    async def again(number: int) -> None:
        handled.append(number)
        if number == 0:
            await event.trigger(1)  # fits into the buffer
            with pytest.raises(EventDeadlock) as error:
                await event.trigger(2)
            caught.append(error.value)

            async def child() -> None:
                with pytest.raises(EventDeadlock):
                    await event.trigger(3)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)

    async with App(module) as app:
        await event.trigger(0)
        await let_run()
        assert app.last_error is None
    assert handled == [0, 1]
    assert (caught[0].event, caught[0].hook) == ("m/tick", "m/again")


async def test_a_worker_that_a_hook_started_may_wait_for_it(autojump_clock: MockClock) -> None:
    """the hook doesn't wait for that worker, so it ends."""
    module = Module("m")
    event = module.event("tick", int)
    handled: list[int] = []

    @module.hook(event, buffer=1)
    async def again(number: int) -> None:
        handled.append(number)
        if number == 0:
            for each in (1, 2, 3):
                module.start_worker(event.trigger, each)
            await trio.sleep(1)

    async with App(module) as app:
        await event.trigger(0)
        await trio.sleep(5)
        assert app.last_error is None
    assert sorted(handled) == [0, 1, 2, 3]


async def test_a_start_function_that_would_wait_for_its_own_start_is_told(
    autojump_clock: MockClock,
) -> None:
    """a hook of the same module, or of one that depends on it, hasn't begun yet."""
    pair = Pair(buffer=2)
    caught: list[str] = []

    @pair.source.on_start
    async def start() -> None:
        await pair.event.trigger(0)
        await pair.event.trigger(1)
        try:
            await pair.event.trigger(2)
        except EventDeadlock as error:
            caught.append(str(error))

    async with pair.app:
        await let_run()
    assert pair.seen == [0, 1]
    assert "sink/take" in caught[0]


async def test_a_circle_of_full_hooks_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """two hooks that wait for each other can't go on: after a while the log says so."""
    one, two = Module("one", stop_timeout=2), Module("two", stop_timeout=2)
    ping, pong = one.event("ping", int), two.event("pong", int)

    @two.hook(ping, buffer=1)
    async def on_ping(number: int) -> None:
        for _ in range(3):
            await pong.trigger(number)

    @one.hook(pong, buffer=1)
    async def on_pong(number: int) -> None:
        for _ in range(3):
            await ping.trigger(number)

    with caplog.at_level(logging.WARNING, "trio_modules"):
        async with App(one, two):
            with trio.move_on_after(1):
                await ping.trigger(1)
            await trio.sleep(20)
    assert "hooks with full buffers wait for each other" in caplog.text
    assert "two/on_ping" in caplog.text
    assert "one/on_pong" in caplog.text


# ---------------------------------------------------------------- subscriptions, injection


async def test_a_subscription_is_a_channel_of_the_data(autojump_clock: MockClock) -> None:
    """entered before the app it ends with its run; who lags loses the oldest, counted."""
    pair = Pair()
    async with pair.event.subscribe(buffer=2) as early:
        async with pair.app:
            async with pair.event.subscribe() as late:
                for number in range(5):
                    await pair.event.trigger(number)
                assert [late.receive_nowait() for _ in range(5)] == list(range(5))
            await pair.event.trigger(5)
            assert pair.event.statistics().dropped == 4
        assert [data async for data in early] == [4, 5]


async def test_an_app_tells_all_its_events(autojump_clock: MockClock) -> None:
    """with event, data, time, and in whose name they were injected."""
    pair = Pair()
    async with pair.app.subscribe() as early:
        async with pair.app:
            await trio.sleep(2)
            await pair.event.trigger(1)
            pair.sink.inject_event("mine", "source/tick", 2)
        seen = [each async for each in early]
    assert [(each.event, each.data, each.time, each.source) for each in seen] == [
        (pair.event, 1, 2.0, ""),
        (pair.event, 2, 2.0, "sink/mine"),
    ]
    assert pair.seen == [1, 2]


async def test_an_injected_event_shows_its_source(autojump_clock: MockClock) -> None:
    """in the statistics, and in the report of a hook that fails with it."""
    source, other = Module("source"), Module("other")
    event = source.event("tick", int)

    @source.hook(event)
    async def fail(number: int) -> None:
        raise ValueError(number)

    async with App(source, other) as app:
        other.inject_event(other.event("mine", int), "source/tick", 1)
        await let_run()
        assert app.last_error is not None
        assert app.last_error.exception is not None
        assert "injected by 'other/mine'" in "".join(
            getattr(app.last_error.exception, "__notes__", ())
        )
        assert event.statistics().injected == {"other/mine": 1}
        with pytest.raises(GraphError, match="no event 'tok'"):
            other.inject_event("mine", "source/tok", 1)
        with pytest.raises(TypeError, match="must be int"):
            other.inject_event("mine", "source/tick", "x")
    with pytest.raises(ModuleOffline):
        other.inject_event("mine", "source/tick", 1)
