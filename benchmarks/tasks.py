"""Tasks that are queued, and tasks that are scheduled over an hour: what they cost and hold."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Awaitable, Callable
from contextvars import copy_context

import trio

from benchmarks.measuring import MORE_REPETITIONS, Work
from benchmarks.memory import traced
from benchmarks.stopwatch import clock
from trio_modules import App, Module

HOUR = 3600.0
#: Bytes that one of a million schedules may hold.
SCHEDULE_BYTES = 700.0


async def return_at_once(_: object) -> None:
    pass


async def yield_once(_: object) -> None:
    await trio.lowlevel.checkpoint()


def queued(fn: Callable[[object], Awaitable[None]]) -> Callable[[int], Awaitable[float]]:
    async def measure(size: int) -> float:
        module = Module("bench")
        async with App(module):
            tasks = [module.new_task(fn) for _ in range(size)]
            began = clock()
            for task in tasks:
                task.queue()
            await tasks[-1].wait()
            return (clock() - began) / size

    return measure


def read(fn: Callable[[object], Awaitable[None]]) -> Callable[[int], Awaitable[float]]:
    """One worker that reads a memory channel and does what comes, item by item."""

    async def measure(size: int) -> float:
        sender, receiver = trio.open_memory_channel[int](math.inf)
        done = trio.Event()

        async def work() -> None:
            async for item in receiver:
                await fn(item)
                if item == size - 1:
                    done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            began = clock()
            for item in range(size):
                sender.send_nowait(item)
            await done.wait()
            cost = (clock() - began) / size
            nursery.cancel_scope.cancel()
        return cost

    return measure


def random_times(size: int) -> list[float]:
    rng = random.Random(size)
    now = trio.current_time()
    return [now + rng.uniform(0, HOUR) for _ in range(size)]


async def scheduled(size: int) -> float:
    module = Module("bench")
    async with App(module):
        times = random_times(size)
        began = clock()
        tasks = [module.new_task(return_at_once).schedule(when) for when in times]
        for task in tasks[::2]:
            task.cancel()
        return (clock() - began) / size


class Scheduled:
    """What the floor keeps of something scheduled."""

    __slots__ = ("cancelled", "fn")

    def __init__(self, fn: Callable[[object], Awaitable[None]]) -> None:
        self.fn = fn
        self.cancelled = False


async def pushed(size: int) -> float:
    """A bare heap of objects that can be marked as cancelled."""
    times = random_times(size)
    heap: list[tuple[float, int, Scheduled]] = []
    number = itertools.count()
    began = clock()
    items = []
    for when in times:
        item = Scheduled(return_at_once)
        heapq.heappush(heap, (when, next(number), item))
        items.append(item)
    for item in items[::2]:
        item.cancelled = True
    return (clock() - began) / size


class Kept(Scheduled):
    """A scheduled item that whoever it belongs to can call off, and run as its user meant it."""

    __slots__ = ("context", "due", "name", "owner")

    def __init__(self, owner: Owner, fn: Callable[[object], Awaitable[None]]) -> None:
        self.owner = owner
        self.fn = fn
        self.name = fn.__qualname__
        self.due: tuple[float, int, Kept] | None = None
        self.cancelled = False

    def schedule(self, when: float) -> Kept:
        owner = self.owner
        if not owner.open or self.cancelled:
            raise RuntimeError(f"{self.name} can't be scheduled")
        if not -math.inf < when < math.inf:
            raise ValueError(f"when must be finite, got {when!r}")
        self.context = copy_context()
        if self.due is not None:
            owner.dead += 1
        self.due = entry = (when, next(owner.number), self)
        heapq.heappush(owner.heap, entry)
        owner.pending[self] = None
        if when < owner.wake:
            owner.wake_at(when)
        return self

    def cancel(self) -> None:
        owner = self.owner
        self.cancelled = True
        self.due = None
        owner.pending.pop(self, None)
        owner.dead += 1
        if owner.dead > 64 and owner.dead * 2 > len(owner.heap):
            owner.sweep()


class Owner:
    """A heap in which the dead are never the greater part, and what is pending of one module."""

    def __init__(self) -> None:
        self.open = True
        self.heap: list[tuple[float, int, Kept]] = []
        self.number = itertools.count()
        self.pending: dict[Kept, None] = {}
        self.dead = 0
        self.wake = math.inf

    def wake_at(self, when: float) -> None:
        self.wake = when

    def sweep(self) -> None:
        self.heap = [entry for entry in self.heap if entry[2].due is entry]
        heapq.heapify(self.heap)
        self.dead = 0


async def kept(size: int) -> float:
    """The same, and each can be found, called off and run in the context it was ordered in."""
    owner = Owner()
    times = random_times(size)
    began = clock()
    tasks = [Kept(owner, return_at_once).schedule(when) for when in times]
    for task in tasks[::2]:
        task.cancel()
    return (clock() - began) / size


async def held(size: int) -> float:
    """All that a scheduled task is made of, its time included."""
    module = Module("bench")
    async with App(module):
        rng = random.Random(size)
        now = trio.current_time()
        with traced() as held:
            tasks = [
                module.new_task(return_at_once).schedule(now + rng.uniform(0, HOUR))
                for _ in range(size)
            ]
            sort_in(module)
            cost = held() / size
        assert len(tasks) == size
    return cost


def sort_in(module: Module) -> None:
    """Have the schedules take their places: something else that begins asks for the earliest."""
    module.new_task(return_at_once).queue().cancel()


async def allowed(_: int) -> float:
    return SCHEDULE_BYTES


async def run_through(size: int) -> float:
    module = Module("bench")
    async with App(module):
        times = random_times(size)
        began = clock()
        tasks = [module.new_task(return_at_once).schedule(when) for when in times]
        for task in tasks[::2]:
            task.cancel()
        await trio.sleep(HOUR + 1)
        assert all(task.runs for task in tasks[1::2])
        return (clock() - began) / size


async def heap_task(size: int) -> float:
    """One task that sleeps until the next one on a heap is due, and does it."""
    times = random_times(size)
    heap: list[tuple[float, int, Scheduled]] = []
    number = itertools.count()

    async def schedule() -> None:
        while heap:
            when, _, item = heapq.heappop(heap)
            if item.cancelled:
                continue
            await trio.sleep_until(when)
            await item.fn(item)

    began = clock()
    items = []
    for when in times:
        item = Scheduled(return_at_once)
        heapq.heappush(heap, (when, next(number), item))
        items.append(item)
    for item in items[::2]:
        item.cancelled = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedule)
        await trio.sleep(HOUR + 1)
    return (clock() - began) / size


WORKS = (
    Work(
        "queued-tasks",
        0.5,
        50_000,
        queued(return_at_once),
        read(return_at_once),
        repetitions=MORE_REPETITIONS,
        title="queued tasks that return at once",
    ),
    Work(
        "queued-tasks-yield",
        1.0,
        50_000,
        queued(yield_once),
        read(yield_once),
        title="queued tasks that yield once",
    ),
    Work(
        "schedules",
        1.6,
        100_000,
        scheduled,
        pushed,
        repetitions=MORE_REPETITIONS,
        title="schedule tasks, and cancel half",
    ),
    Work(
        "schedules-kept",
        None,
        100_000,
        scheduled,
        kept,
        title="the same, beside the least that can be found, called off and run",
    ),
    Work(
        "schedule-memory",
        1.0,
        1_000_000,
        held,
        allowed,
        unit="B",
        repetitions=1,
        title="memory of a schedule among 1,000,000, of 700 B",
    ),
    Work(
        "schedules-run",
        1.3,
        100_000,
        run_through,
        heap_task,
        mock_clock=True,
        title="the same, and run the others",
    ),
)
