"""module.every: what happens on a fixed grid, and what an overrun, jitter or a failure does."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from trio_modules import (
    App,
    Backoff,
    FailureLevel,
    Module,
    ModuleCrashed,
    Restart,
    current_module,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


class Beats:
    """A function to be repeated that writes down when it begins, relative to the first time.

    Its n-th call takes the n-th of these seconds, later ones none; an exception is raised.
    """

    def __init__(self, *steps: float | BaseException) -> None:
        self.steps = iter(steps)
        self.begun: list[float] = []

    async def beat(self) -> None:
        self.begun.append(trio.current_time())
        step = next(self.steps, 0.0)
        if isinstance(step, BaseException):
            raise step
        await trio.sleep(step)


async def run_for(seconds: float, app: App) -> None:
    async with app:
        await trio.sleep(seconds)


async def test_beats_are_on_a_grid(autojump_clock: MockClock) -> None:
    """the function runs at once and then once each interval, however long it takes within it."""
    m = Module("m")
    beats = Beats(0.25, 0.5, 0.75)
    m.every(1, beats.beat)
    await run_for(5.5, App(m))
    assert beats.begun == [0, 1, 2, 3, 4, 5]


async def test_the_first_beat_may_wait(autojump_clock: MockClock) -> None:
    """with immediately=False the first run comes after one interval."""
    m = Module("m")
    beats = Beats()
    m.every(2, beats.beat, immediately=False)
    await run_for(7, App(m))
    assert beats.begun == [2, 4, 6]


async def test_the_grid_begins_with_the_worker(autojump_clock: MockClock) -> None:
    """the grid's origin is when the worker began, not a round time."""
    m = Module("m")
    beats = Beats()
    async with App(m):
        await trio.sleep(0.75)
        m.every(2, beats.beat)
        await trio.sleep(5)
    assert beats.begun == [0.75, 2.75, 4.75]


async def test_a_decorator_and_a_call(autojump_clock: MockClock) -> None:
    """every is a decorator with the interval, and a call with the function and its arguments."""
    m = Module("m")
    seen: list[tuple[str, float]] = []

    @m.every(2)
    async def decorated() -> None:
        seen.append(("decorated", trio.current_time()))

    @m.every(5, immediately=False, name="other")
    async def with_options() -> None:
        seen.append(("with options", trio.current_time()))

    async def with_arguments(first: str, second: str) -> None:
        seen.append((first + second, trio.current_time()))

    m.every(4, with_arguments, "x", "y")
    assert callable(decorated)
    assert callable(with_options)
    await run_for(5.5, App(m))
    assert sorted(seen) == [
        ("decorated", 0),
        ("decorated", 2),
        ("decorated", 4),
        ("with options", 5),
        ("xy", 0),
        ("xy", 4),
    ]


async def test_a_decorator_returns_the_function(autojump_clock: MockClock) -> None:
    """a decorated function can be called like before."""
    m = Module("m")

    async def tidy() -> None:
        await trio.lowlevel.checkpoint()

    assert m.every(2)(tidy) is tidy


async def test_it_is_a_service_worker_of_the_module(autojump_clock: MockClock) -> None:
    """the function runs in its module, and status shows a service worker of its name."""
    m = Module("m")
    app = App(m)
    seen: list[Module] = []

    async def tidy() -> None:
        seen.append(current_module())

    m.every(2, tidy)
    m.every(2, tidy, name="special")
    async with app:
        await trio.sleep(1)
        workers = app.status().modules["m"].workers
    assert seen == [m, m]
    assert [(worker.name, worker.kind) for worker in workers] == [
        ("tidy", "service-worker"),
        ("special", "service-worker"),
    ]


async def test_a_grid_does_not_drift(autojump_clock: MockClock) -> None:
    """after thousands of beats the next one is still where it belongs."""
    m = Module("m")
    beats = Beats()
    m.every(0.1, beats.beat)
    await run_for(500.05, App(m))
    assert len(beats.begun) == 5001
    assert beats.begun[-1] == pytest.approx(500, abs=1e-6)


async def test_there_is_no_floor(autojump_clock: MockClock) -> None:
    """intervals far below the minimum for repeated tasks are fine."""
    m = Module("m")
    beats = Beats()
    m.every(1 / 1024, beats.beat)
    await run_for(1 / 8, App(m, min_repeat_interval=60))
    assert len(beats.begun) in {128, 129}


async def test_an_overrun_drops_beats(autojump_clock: MockClock) -> None:
    """by default the beats that an overrun missed are dropped, and the grid stays."""
    m = Module("m")
    beats = Beats(0, 2.5)
    m.every(1, beats.beat)
    await run_for(6.5, App(m))
    assert beats.begun == [0, 1, 4, 5, 6]


async def test_an_overrun_can_shift_the_grid(autojump_clock: MockClock) -> None:
    """with missed="delay" an overdue beat comes at once, and the others follow it."""
    m = Module("m")
    beats = Beats(0, 2.5)
    m.every(1, beats.beat, missed="delay")
    await run_for(6, App(m))
    assert beats.begun == [0, 1, 3.5, 4.5, 5.5]


async def test_without_an_overrun_both_are_the_same(autojump_clock: MockClock) -> None:
    """with missed="delay" a run shorter than the interval shifts nothing."""
    m = Module("m")
    beats = Beats(0.25, 0.5, 0.75)
    m.every(1, beats.beat, missed="delay")
    await run_for(4.5, App(m))
    assert beats.begun == [0, 1, 2, 3, 4]


async def test_runs_never_overlap(autojump_clock: MockClock) -> None:
    """an overrun isn't overtaken: the next run begins when the last one has ended."""
    m = Module("m")
    at_work: list[int] = []
    most: list[int] = []

    async def slow() -> None:
        at_work.append(1)
        most.append(len(at_work))
        await trio.sleep(1.5)
        at_work.pop()

    m.every(1, slow)
    await run_for(19, App(m))
    assert set(most) == {1}
    assert len(most) == 10


async def test_jitter_delays_each_beat(autojump_clock: MockClock) -> None:
    """with jitter each beat comes up to so many seconds late, and the grid stays."""
    m = Module("m")
    beats = Beats()
    m.every(8, beats.beat, jitter=4)
    await run_for(8 * 100 - 1, App(m, rng=random.Random(1)))
    late = [time - 8 * number for number, time in enumerate(beats.begun)]
    assert len(late) == 100
    assert 0 <= min(late) < 0.5
    assert 3.5 < max(late) <= 4


async def test_jitter_comes_from_the_app(autojump_clock: MockClock) -> None:
    """the same App(rng=) gives the same beats, another seed gives others."""

    async def begun(seed: int) -> list[float]:
        m = Module("m")
        beats = Beats()
        m.every(8, beats.beat, jitter=4)
        start = trio.current_time()
        await run_for(100, App(m, rng=random.Random(seed)))
        return [round(time - start, 6) for time in beats.begun]

    first = await begun(1)
    assert first == await begun(1)
    assert first != await begun(2)


async def test_jitter_is_below_the_interval() -> None:
    """jitter as long as the interval would let beats collide and is refused."""
    with pytest.raises(ValueError, match="jitter"):
        Module("m").every(1, Beats().beat, jitter=1)


async def test_a_failure_restarts_on_the_grid(autojump_clock: MockClock) -> None:
    """after a failure and the backoff the next run is on the old grid."""
    m = Module("m")
    app = App(m)
    error = ValueError("no")
    beats = Beats(0, error)
    m.every(1, beats.beat, name="tidy", restart=Restart(backoff=Backoff(initial=1.5)))
    async with app.reports() as reports:
        async with app:
            await trio.sleep(1.25)
            assert m.failures["tidy:restarting"].level is FailureLevel.WARNING
            await trio.sleep(4.25)
            assert dict(m.failures) == {}
        (report,) = [report async for report in reports]
    assert beats.begun == [0, 1, 3, 4, 5]
    assert (report.exception, report.task_name) == (error, "tidy")
    assert report.task_type == "service-worker"


async def test_a_failing_first_beat_is_not_repeated_at_once(autojump_clock: MockClock) -> None:
    """immediately is for the beginning of the grid, not for every restart."""
    m = Module("m")
    beats = Beats(ValueError("no"))
    m.every(10, beats.beat, restart=Restart(backoff=Backoff(initial=1)))
    await run_for(25, App(m))
    assert beats.begun == [0, 10, 20]


async def test_repeated_failures_exhaust_a_budget(autojump_clock: MockClock) -> None:
    """over its budget a repeated function gives up like any service worker."""
    m = Module("m", restart=Restart(max_restarts=0))
    beats = Beats(*[ValueError("no") for _ in range(5)])
    m.every(1, beats.beat, restart=Restart(max_restarts=2, backoff=Backoff(initial=0)))
    with pytest.raises(ModuleCrashed):
        await run_for(60, App(m))
    assert beats.begun == [0, 1, 2]


async def test_a_stop_ends_it(autojump_clock: MockClock) -> None:
    """a stop cancels it in a beat as well as between two, without a report."""
    m = Module("m")
    app = App(m)
    beats = Beats(0, 100)
    m.every(1, beats.beat, name="within a beat")
    m.every(100, Beats().beat, name="between beats")
    async with app.reports() as reports:
        async with app:
            await trio.sleep(5)
        assert trio.current_time() == 5
        assert [report async for report in reports] == []
    assert beats.begun == [0, 1]


async def test_every_start_has_its_own_grid(autojump_clock: MockClock) -> None:
    """a declared repetition begins again at every start of its module."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    beats = Beats()
    m.every(2, beats.beat)
    async with app:
        await trio.sleep(3)
        await app.restart(m)
        await trio.sleep(3)
    assert beats.begun == [0, 2, 3, 5]
