"""One heap of timers, one task."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from support import ctrl_c_raises
from trio.testing import MockClock

from trio_modules._timers import Timer, Timers


@asynccontextmanager
async def running() -> AsyncIterator[Timers]:
    timers = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        yield timers
        nursery.cancel_scope.cancel()


async def test_timers_are_called_in_order(autojump_clock: MockClock) -> None:
    """each at its time, those of one time in the order in which they were set."""
    calls: list[tuple[float, int]] = []
    rng = random.Random(3)
    async with running() as timers:
        times = [rng.randrange(10) for _ in range(200)]
        for number, when in enumerate(times):
            timers.at(when, lambda number=number: calls.append((trio.current_time(), number)))  # type: ignore[misc]
        await trio.sleep(20)
    assert calls == sorted((when, number) for number, when in enumerate(times))


def test_ctrl_c_is_for_the_main_task() -> None:
    """one that strikes while a timer is called reaches the body, and the timers go on."""
    calls: list[float] = []
    interrupts: list[float] = []

    async def main() -> None:
        async with running() as timers:
            timers.after(1, lambda: signal.raise_signal(signal.SIGINT))
            timers.after(2, lambda: calls.append(trio.current_time()))
            try:
                await trio.sleep(5)
            except KeyboardInterrupt:
                interrupts.append(trio.current_time())
                await trio.sleep(5)

    with ctrl_c_raises():
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert (interrupts, calls) == ([1], [2])


async def test_an_earlier_timer_wakes_the_task(autojump_clock: MockClock) -> None:
    """a timer that is set while the task sleeps towards a later one is on time."""
    calls: list[float] = []
    async with running() as timers:
        timers.after(100, lambda: calls.append(trio.current_time()))
        await trio.sleep(1)
        timers.after(1, lambda: calls.append(trio.current_time()))
        await trio.sleep(200)
    assert calls == [2, 100]


async def test_a_timer_of_the_past_is_called_at_once(autojump_clock: MockClock) -> None:
    """what is due already doesn't wait for anything else."""
    calls: list[float] = []
    async with running() as timers:
        await trio.sleep(5)
        timers.at(1, lambda: calls.append(trio.current_time()))
        await trio.sleep(1)
    assert calls == [5]


async def test_a_timer_may_set_another_for_now(autojump_clock: MockClock) -> None:
    """a callback that sets timers, for now or later, is obeyed."""
    calls: list[float] = []
    async with running() as timers:

        def again() -> None:
            calls.append(trio.current_time())
            if len(calls) < 3:
                timers.after(0 if len(calls) == 1 else 2, again)

        timers.after(1, again)
        await trio.sleep(10)
    assert calls == [1, 1, 3]


async def test_a_cancelled_timer_is_not_called(autojump_clock: MockClock) -> None:
    """neither before nor, harmlessly, after its time."""
    calls: list[str] = []
    async with running() as timers:
        timer = timers.after(1, lambda: calls.append("cancelled"))
        kept = timers.after(1, lambda: calls.append("kept"))
        timer.cancel()
        timer.cancel()
        await trio.sleep(2)
        kept.cancel()
    assert calls == ["kept"]


async def test_cancelled_timers_hold_no_memory_for_long(autojump_clock: MockClock) -> None:
    """of a hundred thousand that were set and cancelled the heap keeps a constant factor."""
    timers = Timers()
    living: list[Timer] = []
    for number in range(100_000):
        timer = timers.after(1_000 + number, lambda: None)
        if number % 1000:
            timer.cancel()
        else:
            living.append(timer)
    assert len(timers._heap) <= 2 * len(living) + 128
