"""Hooks: declared, called in order, in batches and side by side, failing and retried."""

from __future__ import annotations

import gc
import itertools
import sys
import types
from contextvars import ContextVar
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import pytest
import trio
from event_helpers import Gate, hook_figures, loss_fault, pair
from support import fail, let_run, reports_of, stray_cancelled
from trio.testing import MockClock

from trio_modules import (
    App,
    Backoff,
    Event,
    FailureLevel,
    Module,
    ModuleOffline,
    ModuleStatus,
    Overflow,
    Restart,
    RestartModule,
    current_app,
    current_module,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

colour: ContextVar[str] = ContextVar("colour", default="none")


async def swallow(_: object) -> None:
    """Take an event."""


# ---------------------------------------------------------------------- declaration


async def test_the_first_example_of_the_contract_works(autojump_clock: MockClock) -> None:
    """a service worker of one module triggers, a hook of another one sees it, in order."""
    clock = Module("clock")
    printer = Module("printer", depends_on=[clock])
    tick = clock.event("tick", int)
    shown: list[int] = []

    @clock.service_worker
    async def count() -> None:
        for n in range(100):
            await trio.sleep(1)
            await tick.trigger(n)

    @printer.hook(tick)
    async def show(n: int) -> None:
        shown.append(n)

    async with App(clock, printer):
        await trio.sleep(5.5)
    assert shown == [0, 1, 2, 3, 4]


async def test_a_hook_is_a_decorator_and_a_plain_call(autojump_clock: MockClock) -> None:
    """both return the function; the plain call takes its further arguments, and options."""
    source, sink, event = pair(int)
    seen: list[tuple[object, ...]] = []

    @sink.hook(event)
    async def bare(n: int) -> None:
        seen.append(("bare", n))

    async def more(n: int, *args: str) -> None:
        seen.append((*args, n))

    assert sink.hook(event, more, "one", name="named") is more
    for word in ("two", "three"):
        sink.hook("source/event", more, word, "more")
    app = App(source, sink)
    async with app:
        await bare(0)
        await event.trigger(1)
        await let_run()
        names = [info.name for info in app.status().modules["sink"].hooks]
    assert seen[0] == ("bare", 0)
    expected = [("bare", 1), ("one", 1), ("two", "more", 1), ("three", "more", 1)]
    assert sorted(seen[1:], key=repr) == sorted(expected, key=repr)
    assert names[:2] == ["bare", "named"]
    assert "more" in names[2]


def test_a_function_that_cannot_be_a_hook_is_refused_at_once() -> None:
    """a sync function, a signature without room for the data, and wrong options are errors."""
    _, sink, event = pair(int)
    takes_nothing: Any = Module  # only its type matters here

    async def nothing() -> None: ...

    async def one(n: int) -> None: ...

    wrong: Any = nothing
    with pytest.raises(TypeError, match="hook"):
        sink.hook(event, wrong)
    with pytest.raises(TypeError, match="hook"):
        sink.hook(event)(wrong)
    wrong_args: Any = one
    with pytest.raises(TypeError, match="hook"):
        sink.hook(event, wrong_args, "too many")
    sync: Any = print
    with pytest.raises(TypeError, match="async"):
        sink.hook(event, sync)
    with pytest.raises(TypeError, match="event must be an Event"):
        sink.hook(takes_nothing)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("buffer", 0),
        ("buffer", -1),
        ("buffer", 1.5),
        ("concurrency", 0),
        ("batch", 0),
        ("overflow", "wait"),
        ("retry", 2),
    ],
)
def test_options_of_a_hook_are_checked(option: str, value: Any) -> None:
    """the error names the option and shows the value, before there is a hook."""
    source, sink, event = pair(int)
    options: Any = {option: value}
    with pytest.raises((TypeError, ValueError), match=rf"{option} .*{value!r}"):
        sink.hook(event, **options)
    with pytest.raises((TypeError, ValueError), match=rf"{option} .*{value!r}"):
        sink.hook(event, Gate(), **options)
    assert App(source, sink).status().modules["sink"].hooks == ()


# ---------------------------------------------------------------------- order, batch, concurrency


async def test_every_hook_sees_the_events_in_the_order_triggered(autojump_clock: MockClock) -> None:
    """many senders, hooks fast and slow: all of them see one order."""
    source, sink, event = pair(int)
    order: list[int] = []
    seen: list[list[int]] = [[], [], []]

    async def take(n: int, number: int) -> None:
        await trio.sleep(0.01 * number)
        seen[number].append(n)

    for number in range(3):
        sink.hook(event, take, number, buffer=3 + number)

    async def send(first: int) -> None:
        for n in range(first, first + 50):
            order.append(n)
            await event.trigger(n)

    async with App(source, sink), trio.open_nursery() as nursery:
        for first in range(0, 300, 100):
            nursery.start_soon(send, first)
    assert seen[0] == seen[1] == seen[2]
    assert sorted(seen[0]) == sorted(order)
    for first in range(0, 300, 100):
        assert [n for n in seen[0] if first <= n < first + 100] == list(range(first, first + 50))


async def test_one_event_is_handled_at_a_time(autojump_clock: MockClock) -> None:
    """without concurrency the next event waits for the end of the last one."""
    source, sink, event = pair(int)
    spans: list[tuple[float, float]] = []

    @sink.hook(event)
    async def take(_: int) -> None:
        began = trio.current_time()
        await trio.sleep(1)
        spans.append((began, trio.current_time()))

    async with App(source, sink):
        for n in range(5):
            event.trigger_nowait(n)
        await trio.sleep(10)
    assert [end for _, end in spans[:-1]] == [began for began, _ in spans[1:]]


@pytest.mark.parametrize("concurrency", [2, 5])
async def test_concurrency_is_how_many_are_handled_at_a_time(
    concurrency: int, autojump_clock: MockClock
) -> None:
    """so many run side by side, they begin in order, and never more."""
    source, sink, event = pair(int)
    began: list[int] = []
    running = highest = 0

    @sink.hook(event, concurrency=concurrency)
    async def take(n: int) -> None:
        nonlocal running, highest
        began.append(n)
        running += 1
        highest = max(highest, running)
        await trio.sleep(1 if n % 2 else 3)
        running -= 1

    async with App(source, sink):
        for n in range(30):
            event.trigger_nowait(n)
        await let_run()
        assert running == concurrency
        await trio.sleep(100)
    assert began == list(range(30))
    assert highest == concurrency


async def test_what_waited_for_room_goes_to_a_reader_that_is_idle(
    autojump_clock: MockClock,
) -> None:
    """a trigger that waited for room is handled beside the others, not after them."""
    source, sink, event = pair(int)
    began: list[tuple[float, int]] = []

    @sink.hook(event, concurrency=2, buffer=1)
    async def take(n: int) -> None:
        began.append((trio.current_time(), n))
        await trio.sleep(1)

    async with App(source, sink):
        for second in range(0, 40, 2):  # in half of them the trigger comes before the reader
            event.trigger_nowait(second)
            await event.trigger(second + 1)
            await trio.sleep_until(second + 2)
    assert began == [(second, second + n) for second in range(0, 40, 2) for n in range(2)]


async def test_a_batch_is_what_is_there_without_lingering(autojump_clock: MockClock) -> None:
    """a hook with batch=4 gets 1 to 4 at a time, in order, and never waits for more."""
    source, sink, event = pair(int)
    batches: list[list[int]] = []

    @sink.hook(event, batch=4, buffer=20)
    async def take(some: Sequence[int]) -> None:
        batches.append(list(some))
        await trio.sleep(1)

    async with App(source, sink):
        event.trigger_nowait(0)
        await let_run()
        assert batches == [[0]]
        for n in range(1, 8):
            event.trigger_nowait(n)
        await trio.sleep(10)
        event.trigger_nowait(8)
        await let_run()
    assert batches == [[0], [1, 2, 3, 4], [5, 6, 7], [8]]


async def test_a_batch_of_one_is_a_sequence(autojump_clock: MockClock) -> None:
    """with batch=1 the function takes sequences of one."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, gate, batch=1)
    async with App(source, sink):
        event.trigger_nowait(1)
        event.trigger_nowait(2)
        await let_run()
    assert [list(each) for each in gate.seen] == [[1], [2]]


async def test_a_batch_makes_room_for_those_who_wait(autojump_clock: MockClock) -> None:
    """taking a batch lets as many senders go as there is room for then."""
    source, sink, event = pair(int)
    gate = Gate()
    sink.hook(event, gate, name="h", batch=3, buffer=3)
    async with App(source, sink), trio.open_nursery() as nursery:
        event.trigger_nowait(0)
        await let_run()
        for n in range(1, 9):
            nursery.start_soon(event.trigger, n)
            await let_run()
        assert hook_figures(event, "sink/h") == (0, 0, 3, 1, 5)
        gate.may.set()
    assert [list(each) for each in gate.seen] == [[0], [1, 2, 3], [4, 5, 6], [7, 8]]


@pytest.mark.parametrize("options", [{"batch": 3}, {"retry": Backoff()}, {}])
async def test_readers_side_by_side_take_nothing_when_there_is_nothing(
    options: dict[str, Any], autojump_clock: MockClock
) -> None:
    """a quick hook with concurrency is never called without an event, nor fails for that."""
    source, sink, event = pair(int)
    seen: list[int] = []

    async def take(data: Any) -> None:
        some = list(data) if "batch" in options else [data]
        assert some
        seen.extend(some)

    async def send(first: int) -> None:
        for n in range(first, first + 100):
            await event.trigger(n)

    sink.hook(event, take, concurrency=3, **options)

    async def use() -> None:
        async with trio.open_nursery() as nursery:
            for first in range(0, 300, 100):
                nursery.start_soon(send, first)
        await let_run()

    assert await reports_of(App(source, sink), use) == []
    assert sorted(seen) == list(range(300))


# ---------------------------------------------------------------------- exceptions


async def test_an_exception_is_reported_once_and_the_next_event_follows(
    autojump_clock: MockClock,
) -> None:
    """the report names the hook and its type, and the module stays online."""
    source, sink, event = pair(int)
    seen: list[int] = []

    @sink.hook(event, name="odd")
    async def take(n: int) -> None:
        seen.append(n)
        if n % 2:
            await fail(ValueError(n))

    async def use() -> None:
        for n in range(4):
            await event.trigger(n)
        await let_run()
        assert sink.online
        assert seen == [0, 1, 2, 3]

    reports = await reports_of(App(source, sink), use)
    found = [(each.module, each.task_name, each.task_type, each.severity) for each in reports]
    assert found == [("sink", "odd", "hook", "panic")] * 2
    assert [str(each.exception) for each in reports] == ["1", "3"]


async def test_a_failing_hook_takes_nothing_from_others(autojump_clock: MockClock) -> None:
    """an exception in one hook doesn't reach the sender nor another hook."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, fail_with_data, name="bad")
    sink.hook(event, gate)

    async def use() -> None:
        await event.trigger(1)
        await event.trigger(2)
        await let_run()

    assert len(await reports_of(App(source, sink), use)) == 2
    assert gate.seen == [1, 2]


async def fail_with_data(data: object) -> None:
    await fail(ValueError(data))


async def test_a_stray_cancelled_is_an_ordinary_failure(autojump_clock: MockClock) -> None:
    """it is reported, bare or in a group, and the next event follows."""
    source, sink, event = pair(int)
    stray = await stray_cancelled()
    seen: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        seen.append(n)
        if n == 0:
            raise stray
        if n == 1:
            raise BaseExceptionGroup("both", [stray, ValueError(n)])

    async def use() -> None:
        for n in range(3):
            await event.trigger(n)
        await let_run()

    first, second = await reports_of(App(source, sink), use)
    assert isinstance(first.exception, trio.Cancelled)
    assert isinstance(second.exception, BaseExceptionGroup)
    assert len(second.exception.exceptions) == 2
    assert seen == [0, 1, 2]


async def test_a_genuine_cancelled_is_not_reported(autojump_clock: MockClock) -> None:
    """a hook that the end of the drain cancels is no failure; what it raises besides is one."""
    source, sink, event = pair(int)
    ended: list[str] = []

    @sink.hook(event, name="plain")
    async def plain(_: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("plain")

    @sink.hook(event, name="group")
    async def group(_: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                ended.append("group")
                raise ValueError("while leaving")

    async def use() -> None:
        event.trigger_nowait(1)
        await let_run()

    reports = await reports_of(App(source, sink), use)
    assert sorted(ended) == ["group", "plain"]
    (report,) = reports
    assert report.task_name == "group"
    assert not any_cancelled(report.exception)


def any_cancelled(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(any_cancelled(inner) for inner in error.exceptions)
    return isinstance(error, trio.Cancelled)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_grouped", [False, True])
@pytest.mark.parametrize("retry", [None, Backoff()])
async def test_what_is_no_exception_ends_the_app(
    kind: type[BaseException], is_grouped: bool, retry: Backoff | None, autojump_clock: MockClock
) -> None:
    """it passes the guard and begins an ordered shutdown; what is grouped with it is reported."""
    source, sink, event = pair(int)
    stopped: list[str] = []

    @sink.on_stop
    async def stop() -> None:
        stopped.append("sink")

    @sink.hook(event, retry=retry)
    async def take(_: int) -> None:
        await trio.lowlevel.checkpoint()
        if is_grouped:
            raise BaseExceptionGroup("both", [kind(), ValueError("beside")])
        raise kind

    app = App(source, sink)

    async def live() -> None:
        async with app:
            event.trigger_nowait(1)
            await trio.sleep_forever()

    async with app.reports() as channel:
        with pytest.raises(kind):
            await live()
        reports = [str(report.exception) async for report in channel]
    assert trio.current_time() < 100
    assert stopped == ["sink"]
    assert len(reports) == int(is_grouped)
    assert not is_grouped or "both" in reports[0]


async def test_restart_module_in_a_hook_restarts_its_module(autojump_clock: MockClock) -> None:
    """the module comes back, and so does its hook, with what waited for it."""
    source = Module("source")
    sink = Module("sink", restart=Restart(backoff=Backoff(initial=1)))
    event = source.event("event", int)
    seen: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        seen.append(n)
        if n == 1:
            raise RestartModule

    app = App(source, sink)
    async with app:
        for n in range(4):
            event.trigger_nowait(n)
        await let_run()
        assert not sink.online
        assert seen == [0, 1]
        await sink.wait_online()
        await let_run()
        assert seen == [0, 1, 2, 3]
        assert app.status().modules["sink"].restarts == 1


# ---------------------------------------------------------------------- retry


async def test_a_retry_gives_the_same_events_again(autojump_clock: MockClock) -> None:
    """the same events come until that works, then the next ones, with the backoff between."""
    source, sink, event = pair(int)
    calls: list[tuple[float, int]] = []
    began = trio.current_time()

    @sink.hook(event, retry=Backoff(initial=2, growth="linear"))
    async def take(n: int) -> None:
        calls.append((trio.current_time() - began, n))
        if n == 1 and len(calls) < 5:
            await fail(ValueError(n))

    async def use() -> None:
        for n in range(3):
            event.trigger_nowait(n)
        await trio.sleep(100)

    reports = await reports_of(App(source, sink), use)
    assert calls == [(0, 0), (0, 1), (2, 1), (6, 1), (12, 1), (12, 2)]
    assert [each.task_type for each in reports] == ["hook"] * 3


async def test_a_retry_keeps_its_batch(autojump_clock: MockClock) -> None:
    """what is given again is the same sequence, whatever has come since."""
    source, sink, event = pair(int)
    batches: list[list[int]] = []

    @sink.hook(event, batch=3, retry=Backoff(initial=1))
    async def take(some: Sequence[int]) -> None:
        batches.append(list(some))
        if len(batches) < 3:
            await fail(ValueError(some))

    async with App(source, sink):
        event.trigger_nowait(0)
        event.trigger_nowait(1)
        await let_run()
        for n in range(2, 6):
            event.trigger_nowait(n)
        await trio.sleep(20)
    assert batches == [[0, 1], [0, 1], [0, 1], [2, 3, 4], [5]]


async def test_a_retry_pushes_back(autojump_clock: MockClock) -> None:
    """while it retries the buffer fills up and senders wait; nothing is dropped."""
    source, sink, event = pair(int)
    seen: list[int] = []
    is_broken = True

    @sink.hook(event, name="h", buffer=2, retry=Backoff(initial=1, maximum=1))
    async def take(n: int) -> None:
        if is_broken:
            await fail(ValueError(n))
        seen.append(n)

    async with App(source, sink), trio.open_nursery() as nursery:
        event.trigger_nowait(0)
        await let_run()
        for n in range(1, 6):
            nursery.start_soon(event.trigger, n)
            await let_run()
        await trio.sleep(50)
        assert hook_figures(event, "sink/h") == (0, 0, 2, 1, 3)
        is_broken = False
    assert seen == [0, 1, 2, 3, 4, 5]


async def test_a_retry_is_a_failure_warning_while_it_lasts(autojump_clock: MockClock) -> None:
    """the module has the warning from the first failure until the events are handled."""
    source, sink, event = pair(int)
    is_broken = True

    @sink.hook(event, name="h", retry=Backoff(initial=1, maximum=1))
    async def take(n: int) -> None:
        if is_broken:
            await fail(ValueError(n))

    async with App(source, sink):
        assert sink.failures == {}
        event.trigger_nowait(0)
        await let_run()
        assert sink.failures["h:retrying"].level is FailureLevel.WARNING
        assert "1" in sink.failures["h:retrying"].message
        await trio.sleep(10.5)
        assert "h:retrying" in sink.failures
        is_broken = False
        await trio.sleep(1)
        assert sink.failures == {}


# ---------------------------------------------------------------------- inside of a hook


async def test_a_hook_knows_where_it_runs(autojump_clock: MockClock) -> None:
    """the current module is the hook's, whoever triggers, and the context is the app's."""
    source, sink, event = pair(int)
    found: list[tuple[object, object, str]] = []

    @sink.hook(event)
    async def take(_: int) -> None:
        found.append((current_module(), current_app(), colour.get()))
        colour.set("its own")

    @source.worker
    async def work() -> None:
        colour.set("the sender's")
        await event.trigger(1)

    colour.set("the app's")
    app = App(source, sink)
    async with app:
        colour.set("the body's")
        await event.trigger(2)
        await let_run()
    assert found[0] == (sink, app, "the app's")
    assert [each[:2] for each in found] == [(sink, app)] * 2
    assert colour.get() == "the body's"


async def test_a_hook_triggers_other_events(autojump_clock: MockClock) -> None:
    """a chain of hooks passes events on, in order, with back-pressure through the buffers."""
    modules = [Module(f"m{number}") for number in range(6)]
    events: list[Event[int]] = [module.event("event", int) for module in modules]
    gate = Gate(is_open=True)

    async def forward(n: int, to: Event[int]) -> None:
        await to.trigger(n)

    for module, event, following in zip(modules[:-1], events, events[1:], strict=False):
        module.hook(event, forward, following, buffer=1)
    modules[-1].hook(events[-1], gate, buffer=1)
    async with App(*modules):
        for n in range(100):
            await events[0].trigger(n)
        await let_run()
        assert gate.seen == list(range(100))


async def test_a_hook_on_an_event_of_its_own_module(autojump_clock: MockClock) -> None:
    """a module hears its own events."""
    module = Module("m")
    event = module.event("event", int)
    gate = Gate(is_open=True)
    module.hook(event, gate)
    async with App(module):
        event.trigger_nowait(1)
        await let_run()
        assert gate.seen == [1]


async def test_a_hook_that_cancels_its_nursery_crashes_its_module(
    autojump_clock: MockClock,
) -> None:
    """the module is restarted, and the hook goes on with the next event."""
    source = Module("source")
    sink = Module("sink", restart=Restart(backoff=Backoff(initial=1)))
    event = source.event("event", int)
    seen: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        seen.append(n)
        if n == 0:
            sink.nursery.cancel_scope.cancel()
            await trio.sleep(1)

    app = App(source, sink)
    async with app:
        for n in range(3):
            event.trigger_nowait(n)
        await let_run()
        await sink.wait_online()
        await let_run()
        assert seen == [0, 1, 2]
        assert app.status().modules["sink"].restarts == 1
        assert loss_fault(event) is None


async def test_a_hook_in_the_task_tree_shows_where_it_waits(autojump_clock: MockClock) -> None:
    """the tree has the hook under its module, with the line of the function that hangs."""
    source, sink, event = pair(int)

    @sink.hook(event, name="hanging")
    async def take(_: int) -> None:
        await wait_in_here()

    async def wait_in_here() -> None:
        await trio.sleep_forever()

    app = App(source, sink, stop_timeout=4)
    async with app:
        event.trigger_nowait(1)
        await let_run()
        tree = app.task_tree()
    assert "hanging" in tree
    assert "wait_in_here" in tree


async def test_hooks_are_no_workers_in_the_status(autojump_clock: MockClock) -> None:
    """the status shows hooks as hooks: an idle one isn't listed among the workers."""
    source, sink, event = pair(int)
    sink.hook(event, Gate(), name="h")
    app = App(source, sink)
    async with app:
        await let_run()
        info = app.status().modules["sink"]
        assert [hook.name for hook in info.hooks] == ["h"]
        assert all("h" not in worker.name for worker in info.workers)


# ---------------------------------------------------------------------- load


class Steps(trio.abc.Instrument):
    """Counts the rounds of the scheduler, and the steps of tasks in them."""

    def __init__(self) -> None:
        self.rounds = 0
        self.steps = 0

    def before_io_wait(self, timeout: float) -> None:
        self.rounds += 1

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1


async def test_a_flood_for_one_hook_does_not_starve_a_thousand_others(
    autojump_clock: MockClock,
) -> None:
    """while one hook has always something to do, 1,000 idle ones are served in few rounds."""
    source, sink, event = pair(int)
    others = [source.event(f"e{n}", int) for n in range(1000)]
    served: dict[int, int] = {}
    flooded = 0
    steps = Steps()

    @sink.hook(event, buffer=100_000)
    async def flood(_: int) -> None:
        nonlocal flooded
        flooded += 1

    async def note(n: int) -> None:
        served[n] = steps.rounds

    for other in others:
        sink.hook(other, note)
    async with App(source, sink):
        for n in range(100_000):
            event.trigger_nowait(n)
        await trio.lowlevel.checkpoint()
        trio.lowlevel.add_instrument(steps)
        try:
            for n, other in enumerate(others):
                other.trigger_nowait(n)
            for _ in range(6):
                await trio.lowlevel.checkpoint()
            assert len(served) == 1000
            assert max(served.values()) <= 3
            assert 0 < flooded <= 10 * 1000
        finally:
            trio.lowlevel.remove_instrument(steps)


async def test_a_sender_that_never_waits_lets_others_run(autojump_clock: MockClock) -> None:
    """a loop of triggers with room everywhere is a loop of checkpoints."""
    source, sink, event = pair(int)
    gate = Gate(is_open=True)
    sink.hook(event, gate, overflow=Overflow.DROP_OLDEST, buffer=1)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with App(source, sink), trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for n in range(100):
            await event.trigger(n)
        assert turns >= 90
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_million_events_come_in_order(autojump_clock: MockClock) -> None:
    """1,000,000 events go through one hook, none lost, none out of order, in bounded time."""
    source, sink, event = pair(int)
    count = 1_000_000
    expected = 0
    faults: list[int] = []

    @sink.hook(event)
    async def take(n: int) -> None:
        nonlocal expected
        if n != expected:
            faults.append(n)
        expected += 1

    began = perf_counter()
    async with App(source, sink):
        for n in range(count):
            if n % 100:
                try:
                    event.trigger_nowait(n)
                except trio.WouldBlock:
                    await event.trigger(n)
            else:
                await event.trigger(n)
    assert perf_counter() - began < 120
    assert faults == []
    assert expected == event.statistics().delivered == count


async def test_five_thousand_triggers_and_a_shutdown(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """after a shutdown what was delivered and what was dropped is exactly what was triggered."""
    source, sink, event = pair(int)
    seen: list[int] = []

    @sink.hook(event, buffer=5000)
    async def take(n: int) -> None:
        await trio.sleep(0.01)
        seen.append(n)

    app = App(source, sink, stop_timeout=60)
    async with app:
        for n in range(5000):
            event.trigger_nowait(n)
    figures = event.statistics()
    (info,) = app.status().modules["sink"].hooks
    assert figures.triggered == 5000
    assert figures.delivered + figures.dropped == 5000
    assert (info.delivered, info.dropped) == (figures.delivered, figures.dropped)
    assert info.backlog == info.handling == 0
    assert 2990 <= len(seen) <= 3001
    assert seen == list(range(len(seen)))
    assert f"dropped {figures.dropped} events" in caplog.text


# ---------------------------------------------------------------------- a stop that hangs


async def test_a_stop_that_hangs_on_a_hook_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """a hook that can't be cancelled is named, with its stack, when the stop time is over."""
    source, sink, event = pair(int)

    @sink.hook(event, name="hanging")
    async def take(_: int) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(30)

    app = App(source, sink, stop_timeout=8)

    async def hang() -> None:
        async with app:
            event.trigger_nowait(1)
            await let_run()

    with pytest.raises(ExceptionGroup, match="stop"):
        await hang()
    assert "hanging" in caplog.text
    assert "in take" in caplog.text
    assert sink.status is ModuleStatus.OFFLINE
    with pytest.raises(ModuleOffline):
        event.trigger_nowait(2)


async def test_a_heavy_hook_does_not_go_on_for_long(mock_clock: MockClock) -> None:
    """a hook that computes for a while at each event leaves turns to others within a few."""
    source, sink = Module("source"), Module("sink")
    event = source.event("event", int)
    turns: list[str] = []

    async def compute(_: int) -> None:
        turns.append("hook")
        mock_clock.jump(0.05)

    async def watch() -> None:
        while True:
            turns.append("other")
            await trio.lowlevel.checkpoint()

    sink.hook(event, compute, buffer=200)
    async with App(source, sink), trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for n in range(200):
            event.trigger_nowait(n)
        while turns.count("hook") < 200:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    runs = [len(list(run)) for name, run in itertools.groupby(turns) if name == "hook"]
    assert sum(runs) == 200
    assert max(runs) <= 2 * 16


async def test_waking_hooks_makes_nothing_that_stays(autojump_clock: MockClock) -> None:
    """else the garbage collector looks at all there is, in an event that goes to very many."""
    source, sink = Module("source"), Module("sink")
    event = source.event("event", int)
    for number in range(500):
        sink.hook(event, name=f"hook-{number}")(swallow)
    async with App(source, sink):
        await let_run()
        gc.collect()
        gc.disable()
        try:
            before = gc.get_count()[0]
            event.trigger_nowait(1)
            made = gc.get_count()[0] - before
        finally:
            gc.enable()
        await let_run()
    assert made < 50


async def test_what_a_hook_waits_in_shows_in_the_stack_of_its_task(
    autojump_clock: MockClock,
) -> None:
    """its function, below what reads for it, to whoever walks along the frames of the task."""
    source, sink = Module("source"), Module("sink")
    event = source.event("event", int)
    names: list[str] = []

    @sink.hook(event)
    async def wait(_: int) -> None:
        task = trio.lowlevel.current_task()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_at, task)

    async def look_at(task: trio.lowlevel.Task) -> None:
        await let_run()
        names.extend(frame.f_code.co_name for frame, _ in task.iter_await_frames())

    async with App(source, sink):
        await event.trigger(1)
        await let_run()
    assert names[:2] == ["_each", "wait"]


@pytest.mark.slow
def test_many_hooks_cost_no_more_each_than_few() -> None:
    """to show them and to close them: with 32 times as many nobody looks at all for each."""

    async def take(_: int) -> None:
        pass

    async def life(count: int) -> float:
        source, sink = Module("source"), Module("sink")
        event = source.event("event", int)
        for number in range(count):
            sink.hook(event, take, name=f"hook-{number}")
        async with App(source, sink) as app:
            await event.trigger(1)
            await let_run()
            began = process_time()
            assert len(app.status().modules["sink"].hooks) == count
        return (process_time() - began) / count

    trio.run(life, 100)  # fills caches
    few = min(trio.run(life, 500) for _ in range(5))
    assert trio.run(life, 16_000) < 4 * few


async def test_a_hook_that_awaits_what_is_not_trios_fails_alone(autojump_clock: MockClock) -> None:
    """Trio throws its complaint into the task; it is reported, and the hook goes on."""

    @types.coroutine
    def foreign() -> Generator[object, object, None]:
        yield "for another loop"

    source, sink, event = pair(int)
    seen: list[int] = []

    @sink.hook(event, name="mixed")
    async def mixed(number: int) -> None:
        if number == 0:
            await foreign()
        seen.append(number)

    async def use() -> None:
        await event.trigger(0)
        await event.trigger(1)
        await let_run()

    reports = await reports_of(App(source, sink), use)
    assert seen == [1]
    assert [report.task_name for report in reports] == ["mixed"]
    assert "unrecognized yield" in str(reports[0].exception)
