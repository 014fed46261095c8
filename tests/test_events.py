"""Events: declared, typed, triggered, buffered, dropped and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional, TypeVar, Union

import pytest
import trio
from event_helpers import Gate, hook_figures, loss_fault, pair
from lifecycle_helpers import watching
from support import let_run
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from trio_modules import (
    App,
    Event,
    EventDeadlock,
    GraphError,
    Module,
    ModuleOffline,
    Overflow,
    Restart,
    StartError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


# ---------------------------------------------------------------------- declaration


def test_the_event_of_a_name_is_one_object() -> None:
    """asking a second time, with the type or without, gives the same event."""
    module = Module("m")
    event = module.event("tick", int)
    assert module.event("tick", int) is event
    assert module.event("tick") is event
    assert isinstance(event, Event)
    assert (event.name, event.module, event.full_name) == ("tick", module, "m/tick")


def test_another_type_for_the_same_event_is_an_error() -> None:
    """the type of an event's data can't change, and the message shows both names."""
    module = Module("m")
    module.event("tick", int)
    with pytest.raises(TypeError, match=r"data_type of 'm/tick' must stay .*'str'"):
        module.event("tick", str)


def test_a_type_may_be_named_later() -> None:
    """the first type that is named counts, whoever asked before without one."""
    module = Module("m")
    assert module.event("tick") is module.event("tick", int)
    with pytest.raises(TypeError, match="data_type"):
        module.event("tick", str)


@pytest.mark.parametrize("name", ["", "a/b"])
def test_the_name_of_an_event_has_to_be_one(name: str) -> None:
    """an empty name, or one with a slash, is an error that shows it."""
    with pytest.raises(ValueError, match="name"):
        Module("m").event(name)


def test_what_is_no_type_is_an_error() -> None:
    """a value where a type belongs is an error at the declaration."""
    wrong: Any = 3
    with pytest.raises(TypeError, match="data_type must be a type, got 3"):
        Module("m").event("tick", wrong)


def test_internal_is_a_mark() -> None:
    """an internal event says so, and is triggered like any other."""
    module = Module("m")
    assert module.event("inside", internal=True).internal
    assert not module.event("outside").internal


def test_the_events_of_a_module_are_a_mapping() -> None:
    """events are found by name, in the order of declaration, and can't be changed from outside."""
    module = Module("m")
    assert dict(module.events) == {}
    first = module.event("first", int)
    second: Event[str] = module.event("second")
    assert list(module.events.items()) == [("first", first), ("second", second)]
    events: Any = module.events
    with pytest.raises(TypeError):
        events["third"] = first


# ---------------------------------------------------------------------- the type of the data

FITS: list[tuple[Any, Any]] = [
    (int, 1),
    (int, True),
    (float, 1.5),
    (float, 1),
    (str, "a"),
    (None, None),
    (type(None), None),
    (list[int], [1]),
    (list[int], ["not looked at"]),
    (dict[str, int], {}),
    (Sequence[int], (1,)),
    (Union[int, str], "a"),  # noqa: UP007
    (Union[int, str], 1),  # noqa: UP007
    (Optional[float], None),  # noqa: UP045
    (Optional[float], 2),  # noqa: UP045
    (int | None, None),
    (list[int] | str, [1]),
    (Any, object()),
    (Union[int, Any], "a"),  # noqa: UP007
    (object, 1),
    (tuple[int, ...], (1, 2)),
]
FITS_NOT: list[tuple[Any, Any]] = [
    (int, "a"),
    (int, 1.5),
    (int, None),
    (float, "1"),
    (str, 1),
    (None, 0),
    (list[int], (1,)),
    (dict[str, int], []),
    (Union[int, str], 1.5),  # noqa: UP007
    (Optional[float], "a"),  # noqa: UP045
    (int | None, "a"),
    (list[int] | str, {1}),
]


async def both_triggers(event: Event[Any], data: Any) -> None:
    event.trigger_nowait(data)
    await event.trigger(data)


@pytest.mark.parametrize(("data_type", "data"), FITS)
async def test_data_of_the_type_passes(data_type: Any, data: Any) -> None:
    """a subclass, the origin of a generic, an int for a float and a part of a union all fit."""
    module = Module("m")
    seen = Gate(is_open=True)
    event: Event[Any] = module.event("event", data_type)
    module.hook(event, seen)
    async with App(module):
        await both_triggers(event, data)
        await let_run()
    assert seen.seen == [data, data]


@pytest.mark.parametrize(("data_type", "data"), FITS_NOT)
async def test_data_of_another_type_is_an_error_at_the_trigger(data_type: Any, data: Any) -> None:
    """the error names the event and shows the data, and nobody gets it."""
    module = Module("m")
    seen = Gate(is_open=True)
    # None stands for "not checked" where a type is asked for, so its type is declared.
    event: Event[Any] = module.event("event", type(None) if data_type is None else data_type)
    module.hook(event, seen)
    async with App(module):
        with pytest.raises(TypeError, match=r"data of event 'm/event' must be .*, got "):
            event.trigger_nowait(data)
        with pytest.raises(TypeError, match=r"data of event 'm/event' must be .*, got "):
            await event.trigger(data)
        await let_run()
    assert seen.seen == []
    assert event.statistics().triggered == 0


async def test_an_event_typed_by_annotation_is_not_checked() -> None:
    """without a type, and with check=False, everything passes."""
    module = Module("m")
    ticks: Event[list[int]] = module.event("ticks")
    loose: Event[Any] = module.event("loose", int, check=False)
    wrong: Any = "no list"
    async with App(module):
        ticks.trigger_nowait(wrong)
        loose.trigger_nowait("no int")
    assert ticks.statistics().triggered == loose.statistics().triggered == 1


# ---------------------------------------------------------------------- triggering


async def test_a_trigger_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """trigger is one without a hook, with one that has room, and when it refuses the data."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    async with App(source, sink):
        with assert_checkpoints():
            await event.trigger(1)
        sink.hook(event, gate)
        with assert_checkpoints():
            await event.trigger(2)
        wrong: Any = "a"
        with assert_checkpoints(), pytest.raises(TypeError):
            await event.trigger(wrong)
    with assert_checkpoints(), pytest.raises(ModuleOffline):
        await event.trigger(3)


async def test_a_trigger_that_is_cancelled_already_is_not_one(autojump_clock: MockClock) -> None:
    """cancelled at its checkpoint nobody gets it, and it isn't counted."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, gate)
    async with App(source, sink):
        with trio.CancelScope() as scope:
            scope.cancel()
            await event.trigger(1)
        await let_run()
    assert scope.cancelled_caught
    assert gate.seen == []
    assert event.statistics().triggered == 0


async def test_hooks_with_room_have_it_at_once(autojump_clock: MockClock) -> None:
    """a trigger that waits for a full hook has already given it to the others."""
    source, sink, event = pair(int)
    full, free = Gate(), Gate(is_open=True)
    sink.hook(event, full, name="full", buffer=1)
    sink.hook(event, free, name="free")
    async with App(source, sink), trio.open_nursery() as nursery:
        for n in range(2):
            await event.trigger(n)
            await let_run()
        nursery.start_soon(event.trigger, 2)
        await let_run()
        assert free.seen == [0, 1, 2]
        assert hook_figures(event, "sink/full") == (0, 0, 1, 1, 1)
        assert nursery.child_tasks
        full.may.set()
        await let_run()
        assert not nursery.child_tasks
    assert full.seen == [0, 1, 2]


async def test_a_trigger_waits_for_all_full_hooks(autojump_clock: MockClock) -> None:
    """with two full hooks it returns when the slower one has room."""
    source, sink, event = pair(int)
    gates = [Gate(), Gate()]
    for number, gate in enumerate(gates):
        sink.hook(event, gate, name=f"h{number}", buffer=1)
    async with App(source, sink), trio.open_nursery() as nursery:
        for n in range(2):
            await event.trigger(n)
            await let_run()
        nursery.start_soon(event.trigger, 2)
        await let_run()
        gates[0].may.set()
        await let_run()
        assert gates[0].seen == [0, 1, 2]
        assert nursery.child_tasks
        gates[1].may.set()
    assert gates[1].seen == [0, 1, 2]


async def test_a_cancelled_trigger_counts_as_dropped_for_who_has_it_not(
    autojump_clock: MockClock,
) -> None:
    """cancelled while it waits, the hook with room keeps it, the full one never sees it."""
    source, sink, event = pair(int)
    full, free = Gate(), Gate(is_open=True)
    sink.hook(event, full, name="full", buffer=1)
    sink.hook(event, free, name="free")
    async with App(source, sink):
        for n in range(2):
            await event.trigger(n)
            await let_run()
        with trio.move_on_after(1) as scope:
            await event.trigger(2)
        assert scope.cancelled_caught
        full.may.set()
        await event.trigger(3)
        await let_run()
        assert hook_figures(event, "sink/full") == (3, 1, 0, 0, 0)
        assert hook_figures(event, "sink/free") == (4, 0, 0, 0, 0)
    assert full.seen == [0, 1, 3]
    assert free.seen == [0, 1, 2, 3]


async def test_waiting_senders_are_served_in_their_order(autojump_clock: MockClock) -> None:
    """who waits for room gets it first come first served, and nobody overtakes them."""
    source, sink, event = pair(int)
    gate = Gate()
    sink.hook(event, gate, buffer=1)
    async with App(source, sink), trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(event.trigger, n)
            await let_run()
        gate.may.set()
        await event.trigger(20)
        await let_run()
    assert gate.seen == list(range(21))


async def test_trigger_nowait_is_for_all_or_for_none(autojump_clock: MockClock) -> None:
    """with one full hook that waits nobody gets it, and it isn't counted."""
    source, sink, event = pair(int)
    full, free = Gate(), Gate(is_open=True)
    sink.hook(event, free, name="free")
    sink.hook(event, full, name="full", buffer=1)
    async with App(source, sink):
        event.trigger_nowait(0)
        await let_run()
        event.trigger_nowait(1)
        with pytest.raises(trio.WouldBlock):
            event.trigger_nowait(2)
        await let_run()
        assert free.seen == [0, 1]
        assert event.statistics().triggered == 2
        full.may.set()
        await let_run()
        event.trigger_nowait(3)
    assert full.seen == [0, 1, 3]


async def test_the_oldest_is_dropped(autojump_clock: MockClock) -> None:
    """with DROP_OLDEST the newest stay in the buffer, and no trigger waits."""
    source, sink, event = pair(int)
    gate = Gate()
    sink.hook(event, gate, name="h", buffer=3, overflow=Overflow.DROP_OLDEST)
    async with App(source, sink):
        event.trigger_nowait(0)
        await let_run()
        for n in range(1, 10):
            event.trigger_nowait(n)
        await event.trigger(10)
        assert hook_figures(event, "sink/h") == (0, 7, 3, 1, 0)
        assert event.statistics().dropped == 7
        gate.may.set()
    assert gate.seen == [0, 8, 9, 10]


async def test_the_newest_is_dropped(autojump_clock: MockClock) -> None:
    """with DROP_NEWEST what is in the buffer stays, and no trigger waits."""
    source, sink, event = pair(int)
    gate = Gate()
    sink.hook(event, gate, name="h", buffer=3, overflow=Overflow.DROP_NEWEST)
    async with App(source, sink):
        event.trigger_nowait(0)
        await let_run()
        for n in range(1, 10):
            event.trigger_nowait(n)
        await event.trigger(10)
        assert hook_figures(event, "sink/h") == (0, 7, 3, 1, 0)
        gate.may.set()
    assert gate.seen == [0, 1, 2, 3]


async def test_the_buffer_is_a_hundred_by_default(autojump_clock: MockClock) -> None:
    """a hundred wait beside the one that is handled, the next trigger waits."""
    source, sink, event = pair(int)
    gate = Gate()
    sink.hook(event, gate)
    async with App(source, sink):
        event.trigger_nowait(0)
        await let_run()
        for n in range(100):
            event.trigger_nowait(n)
        with pytest.raises(trio.WouldBlock):
            event.trigger_nowait(101)
        gate.may.set()


# ---------------------------------------------------------------------- conservation


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("batch", [None, 2])
async def test_nothing_is_lost_uncounted(
    concurrency: int, batch: int | None, autojump_clock: MockClock
) -> None:
    """after every step triggered is delivered, dropped, waiting or in work, for each hook."""
    source, sink, event = pair(int)

    async def take(data: Any) -> None:
        await trio.sleep(0.3)
        first = data if batch is None else data[0]
        if first % 7 == 0:
            raise ValueError(first)

    for overflow in Overflow:
        sink.hook(
            event,
            take,
            name=overflow.value,
            buffer=4,
            overflow=overflow,
            concurrency=concurrency,
            batch=batch,
        )

    async def send(first: int) -> None:
        for n in range(first, first + 20):
            with trio.move_on_after(0.2 if n % 3 else 5):
                await event.trigger(n)
            await trio.sleep(0.05)

    with watching(lambda: loss_fault(event)) as faults:
        async with App(source, sink), trio.open_nursery() as nursery:
            for first in (0, 100, 200):
                nursery.start_soon(send, first)
    assert faults == []
    assert event.statistics().triggered > 50


# ---------------------------------------------------------------------- who may trigger, and when


async def test_an_event_can_be_triggered_from_the_start_until_the_stop_functions_end(
    autojump_clock: MockClock,
) -> None:
    """STARTING, ONLINE and STOPPING will do; in a lifespan's end and offline it is refused."""
    module = Module("m")
    event = module.event("event", str)
    said: list[str] = []

    def attempt(where: str) -> None:
        try:
            event.trigger_nowait(where)
        except ModuleOffline as error:
            said.append(f"{where}: {error.module} {error.status}")
        else:
            said.append(f"{where}: ok")

    @module.lifespan
    async def around() -> Any:
        attempt("lifespan")
        yield
        attempt("end of lifespan")

    async def prep() -> None:
        attempt("prep")

    async def start() -> None:
        attempt("start")

    async def stop() -> None:
        attempt("stop")

    module.on_prep(prep)
    module.on_start(start)
    module.on_stop(stop)
    attempt("before")
    async with App(module):
        attempt("online")
    attempt("after")
    assert said == [
        "before: m DEAD",
        "prep: m PREPARING",
        "lifespan: ok",
        "start: ok",
        "online: ok",
        "stop: ok",
        "end of lifespan: m STOPPING",
        "after: m OFFLINE",
    ]


async def test_a_refused_trigger_says_why(autojump_clock: MockClock) -> None:
    """the error names the event, the module and its status."""
    module = Module("m")
    event = module.event("event", int)
    with pytest.raises(ModuleOffline, match=r"'m'.*trigger event 'event'"):
        event.trigger_nowait(1)


async def test_a_thread_triggers_by_way_of_trio(autojump_clock: MockClock) -> None:
    """trio.from_thread.run and run_sync trigger from a thread, in order."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, gate)

    def in_a_thread() -> None:
        for n in range(5):
            trio.from_thread.run(event.trigger, n)
        trio.from_thread.run_sync(event.trigger_nowait, 5)

    async with App(source, sink):
        await trio.to_thread.run_sync(in_a_thread)
    assert gate.seen == list(range(6))


async def test_a_thread_waits_for_room(autojump_clock: MockClock) -> None:
    """trio.from_thread.run of a trigger comes back when the full hook has room."""
    source, sink, event = pair(int)
    gate = Gate()
    sink.hook(event, gate, name="hook", buffer=1)
    app = App(source, sink)
    async with app, trio.open_nursery() as nursery:
        event.trigger_nowait(0)
        await let_run()
        event.trigger_nowait(1)
        nursery.start_soon(trio.to_thread.run_sync, trio.from_thread.run, event.trigger, 2)
        while not hook_figures(event, "sink/hook")[-1]:
            await trio.lowlevel.checkpoint()
        gate.may.set()
    assert gate.seen == [0, 1, 2]


# ---------------------------------------------------------------------- deadlocks


async def test_a_hook_that_would_wait_for_itself_is_told(autojump_clock: MockClock) -> None:
    """a trigger in a hook for its own full buffer raises, and nobody else gets it either."""
    source, sink, event = pair(int)
    other = Gate(is_open=True)
    errors: list[EventDeadlock] = []

    async def again(n: int) -> None:
        if n:
            return
        await event.trigger(1)
        try:
            await event.trigger(2)
        except EventDeadlock as error:
            errors.append(error)

    sink.hook(event, other, name="other")
    sink.hook(event, again, name="again", buffer=1)
    async with App(source, sink):
        await event.trigger(0)
        await let_run()
    (error,) = errors
    assert (error.event, error.hook) == ("source/event", "sink/again")
    assert "it runs in that hook" in str(error)
    assert other.seen == [0, 1]
    assert event.statistics().triggered == 2


async def test_a_child_task_of_a_hook_is_part_of_it(autojump_clock: MockClock) -> None:
    """a trigger in a nursery within a hook would wait for that hook, too."""
    source, sink, event = pair(int)
    caught: list[BaseException] = []

    async def attempt() -> None:
        with pytest.raises(EventDeadlock) as info:
            await event.trigger(2)
        caught.append(info.value)

    async def again(n: int) -> None:
        if n == 0:
            await event.trigger(1)
            async with trio.open_nursery() as outer, trio.open_nursery() as inner:
                outer.start_soon(trio.lowlevel.checkpoint)
                inner.start_soon(attempt)

    sink.hook(event, again, buffer=1)
    async with App(source, sink):
        await event.trigger(0)
        await let_run()
        assert len(caught) == 1


async def test_a_worker_that_a_hook_started_may_wait_for_it(autojump_clock: MockClock) -> None:
    """a worker isn't part of the hook that started it: its trigger waits until there is room."""
    source, sink, event = pair(int)
    seen: list[int] = []

    async def take(n: int) -> None:
        seen.append(n)
        if n == 0:
            await event.trigger(1)
            sink.start_worker(event.trigger, 2)
            await trio.sleep(1)

    sink.hook(event, take, buffer=1)
    async with App(source, sink):
        await event.trigger(0)
        await trio.sleep(2)
        assert seen == [0, 1, 2]


async def test_a_thread_of_a_hook_is_part_of_it(autojump_clock: MockClock) -> None:
    """a trigger that a hook makes by way of a thread would wait for that hook, too."""
    source, sink, event = pair(int)
    caught: list[BaseException] = []
    ended = trio.Event()

    def attempt() -> None:
        with pytest.raises(EventDeadlock) as info:
            trio.from_thread.run(event.trigger, 2)
        caught.append(info.value)

    @sink.hook(event, buffer=1)
    async def again(n: int) -> None:
        if n == 0:
            await event.trigger(1)
            await trio.to_thread.run_sync(attempt)
            ended.set()

    async with App(source, sink):
        await event.trigger(0)
        await ended.wait()
        assert len(caught) == 1


@pytest.mark.parametrize("where", ["start", "lifespan", "child", "service worker"])
async def test_a_start_that_would_wait_for_itself_is_told(
    where: str, autojump_clock: MockClock
) -> None:
    """a start that waits for a hook of its own module, which begins after it, fails at once."""
    module = Module("m", start_timeout=50)
    event = module.event("event", int)
    gate = Gate(is_open=True)
    module.hook(event, gate, buffer=2)

    async def flood() -> None:
        for n in range(3):
            await event.trigger(n)

    async def flood_in_a_child() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)

    async def around() -> Any:
        await flood()
        yield

    if where == "start":
        module.on_start(flood)
    elif where == "child":
        module.on_start(flood_in_a_child)
    elif where == "lifespan":
        module.lifespan(around)
    else:
        module.service_worker(flood_before_started(flood), restart=Restart(max_restarts=0))
    with pytest.raises(StartError) as info:
        async with App(module):
            pass
    assert trio.current_time() < 1
    causes = list(leaves(info.value))
    assert any(isinstance(cause, EventDeadlock) for cause in causes), causes
    assert gate.seen == []


def flood_before_started(flood: Callable[[], Awaitable[None]]) -> Any:
    """Return a service worker that floods before it says that it is ready."""

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await flood()
        task_status.started()
        await trio.sleep_forever()

    return serve


def leaves(error: BaseException | None) -> Any:
    """Yield an error, its causes, and what they group."""
    while error is not None:
        yield error
        for inner in getattr(error, "exceptions", ()):
            yield from leaves(inner)
        error = error.__cause__


async def test_a_start_waits_for_hooks_of_others(autojump_clock: MockClock) -> None:
    """a hook of a module that is online already makes room for a start."""
    sink, first = Module("sink"), Module("first")
    event = first.event("event", int)
    source = Module("source", depends_on=[first, sink])
    gate = Gate(is_open=True)
    sink.hook(event, gate, buffer=1)

    @source.on_start
    async def flood() -> None:
        for n in range(10):
            await event.trigger(n)

    async with App(first, sink, source):
        pass
    assert gate.seen == list(range(10))


async def test_a_start_that_waits_for_its_dependent_is_told(autojump_clock: MockClock) -> None:
    """a hook of a module that starts only after this one can't make room either."""
    source = Module("source")
    sink = Module("sink", depends_on=[source])
    event = source.event("event", int)
    sink.hook(event, Gate(is_open=True), buffer=1)

    @source.on_start
    async def flood() -> None:
        await event.trigger(1)
        await event.trigger(2)

    with pytest.raises(StartError) as info:
        async with App(source, sink):
            pass
    assert isinstance(info.value.__cause__, EventDeadlock)
    assert trio.current_time() < 1


async def test_a_circle_of_full_buffers_is_named_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """two hooks whose triggers wait for each other are named, once, after some seconds."""
    left, right = Module("left", stop_timeout=4), Module("right", stop_timeout=4)
    to_left, to_right = left.event("to-left", int), right.event("to-right", int)

    @left.hook(to_left, buffer=1)
    async def ping(n: int) -> None:
        for each in range(4):
            await to_right.trigger(each)

    @right.hook(to_right, buffer=1)
    async def pong(n: int) -> None:
        for each in range(4):
            await to_left.trigger(each)

    async with App(left, right):
        to_left.trigger_nowait(0)
        await trio.sleep(30)
    said = [record.getMessage() for record in caplog.records if "each other" in record.msg]
    assert said, caplog.text
    assert len(said) == len(set(said))
    assert all("left/ping" in text and "right/pong" in text for text in said)


def said_of_circles(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "each other" in record.msg]


async def test_a_circle_is_named_within_seconds_in_its_order(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """three modules in a circle: 5 seconds after its first wait each hook has named all of it."""
    modules = [Module(f"m{number}", stop_timeout=4) for number in range(3)]
    events = [module.event("event", int) for module in modules]

    async def pass_on(_: int, to: Event[int]) -> None:
        for n in range(4):
            await to.trigger(n)

    for number, module in enumerate(modules):
        module.hook(events[number], pass_on, events[(number + 1) % 3], name="hook", buffer=1)
    async with App(*modules):
        events[0].trigger_nowait(0)
        await trio.sleep(4.9)
        assert said_of_circles(caplog) == []
        await trio.sleep(0.2)
        said = said_of_circles(caplog)
        await trio.sleep(60)
        assert said_of_circles(caplog) == said  # once, not every 5 seconds
    ring = "m0/hook -> m1/hook -> m2/hook -> m0/hook -> m1/hook -> m2/hook"
    assert said
    assert all(text.partition(": ")[2] in ring for text in said)


async def test_a_slow_hook_is_no_circle(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """senders that wait long for a hook that only takes its time are nobody's warning."""
    modules = [Module(f"m{number}") for number in range(3)]
    events = [module.event("event", int) for module in modules]
    gate = Gate()

    async def pass_on(n: int, to: Event[int]) -> None:
        await to.trigger(n)

    modules[1].hook(events[0], pass_on, events[1], buffer=1)
    modules[2].hook(events[1], gate, buffer=1)
    async with App(*modules), trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(events[0].trigger, n)
        await trio.sleep(100)
        assert nursery.child_tasks
        gate.may.set()
        await wait_all_tasks_blocked()  # one hook's drain doesn't wait for what another passes on
    assert sorted(gate.seen) == list(range(8))
    assert said_of_circles(caplog) == []


# ---------------------------------------------------------------------- names


async def test_the_text_form_names_module_and_event(autojump_clock: MockClock) -> None:
    """a hook on "module/event" is one on that event, though both are declared later."""
    sink = Module("sink")
    gate = Gate(is_open=True)
    sink.hook("source/event", gate)
    source = Module("source")
    event = source.event("event", int)
    async with App(sink, source):
        await event.trigger(1)
    assert gate.seen == [1]


@pytest.mark.parametrize("text", ["", "source", "/event", "source/", "a/b/c", "/"])
def test_a_text_that_is_no_name_of_an_event_is_an_error(text: str) -> None:
    """the text form has two parts."""
    with pytest.raises(ValueError, match="event must be an Event or 'module/event'"):
        Module("sink").hook(text, Gate())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sorce/event", r"'sorce/event'.*no module 'sorce'.*'source'"),
        ("source/evnt", r"'source/evnt'.*no event 'evnt'.*'event'"),
    ],
)
async def test_a_hook_on_an_unknown_event_keeps_the_app_from_running(text: str, says: str) -> None:
    """entering the app and checking it name the hook, its module and the near misses."""
    source, sink, _ = pair()
    prepared: list[int] = []

    @source.on_prep
    async def prep() -> None:
        prepared.append(1)

    sink.hook(text, Gate(), name="h")
    app = App(source, sink)
    with pytest.raises(GraphError, match=rf"hook 'h' of module 'sink'.*{says}"):
        app.check()
    with pytest.raises(GraphError, match=rf"hook 'h' of module 'sink'.*{says}"):
        async with app:
            pass
    assert prepared == []


async def test_a_hook_on_the_event_of_a_stranger_is_an_error() -> None:
    """an event whose module isn't in the app, though one of its name is, isn't found."""
    _, sink, event = pair(int)
    sink.hook(event, Gate(), name="h")
    with pytest.raises(GraphError, match="no module 'source'"):
        App(sink).check()
    impostor = Module("source")
    impostor.event("event")
    with pytest.raises(GraphError, match="belongs to another module"):
        App(sink, impostor).check()
