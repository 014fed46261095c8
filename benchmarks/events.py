"""Events in bursts and one by one, to one hook and to ten, beside raw memory channels."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio
from trio.testing import wait_all_tasks_blocked

from benchmarks.measuring import MANY_REPETITIONS, Work
from benchmarks.stopwatch import clock
from trio_modules import App, Event, Module

BURST = 1_000


class Count:
    """Counts what was taken, and lets one task wait until that is so much."""

    def __init__(self) -> None:
        self.left = 0
        self.done = trio.Event()

    def expect(self, count: int) -> None:
        self.left = count
        self.done = trio.Event()

    async def take(self, _: int) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()


class Service(Count):
    """A module with an event and another with hooks on it, that count what they have seen."""

    def __init__(self, hooks: int) -> None:
        super().__init__()
        self.source = Module("source")
        self.sink = Module("sink", depends_on=[self.source])
        self.event: Event[int] = self.source.event("event", int)
        for number in range(hooks):
            self.sink.hook(self.event, name=f"hook-{number}", buffer=BURST)(self.take)


class Channels(Count):
    """Tasks that each read a channel of their own, and count what they have seen."""

    def __init__(self, count: int) -> None:
        super().__init__()
        channels = [trio.open_memory_channel[int](BURST) for _ in range(count)]
        self.senders = [sender for sender, _ in channels]
        self.receivers = [receiver for _, receiver in channels]

    async def read(self, receiver: trio.MemoryReceiveChannel[int]) -> None:
        async for item in receiver:
            await self.take(item)


def bursts(hooks: int) -> Callable[[int], Awaitable[float]]:
    async def measure(size: int) -> float:
        service = Service(hooks)
        trigger = service.event.trigger_nowait
        async with App(service.source, service.sink):
            await wait_all_tasks_blocked()
            began = clock()
            for _ in range(size // BURST):
                service.expect(BURST * hooks)
                for number in range(BURST):
                    trigger(number)
                await service.done.wait()
            return (clock() - began) / size

    return measure


def channel_bursts(count: int) -> Callable[[int], Awaitable[float]]:
    async def measure(size: int) -> float:
        channels = Channels(count)
        async with trio.open_nursery() as nursery:
            for receiver in channels.receivers:
                nursery.start_soon(channels.read, receiver)
            await wait_all_tasks_blocked()
            began = clock()
            for _ in range(size // BURST):
                channels.expect(BURST * count)
                for number in range(BURST):
                    for sender in channels.senders:
                        sender.send_nowait(number)
                await channels.done.wait()
            cost = (clock() - began) / size
            nursery.cancel_scope.cancel()
        return cost

    return measure


def awaited(hooks: int) -> Callable[[int], Awaitable[float]]:
    async def measure(size: int) -> float:
        service = Service(hooks)
        service.expect(size * hooks)
        async with App(service.source, service.sink):
            await wait_all_tasks_blocked()
            began = clock()
            for number in range(size):
                await service.event.trigger(number)
            await service.done.wait()
            return (clock() - began) / size

    return measure


def channel_sends(count: int) -> Callable[[int], Awaitable[float]]:
    async def measure(size: int) -> float:
        channels = Channels(count)
        channels.expect(size * count)
        async with trio.open_nursery() as nursery:
            for receiver in channels.receivers:
                nursery.start_soon(channels.read, receiver)
            await wait_all_tasks_blocked()
            began = clock()
            for number in range(size):
                for sender in channels.senders:
                    await sender.send(number)
            await channels.done.wait()
            cost = (clock() - began) / size
            nursery.cancel_scope.cancel()
        return cost

    return measure


class Parked:
    """A task that is parked until something is there for it: the least that takes it over."""

    def __init__(self, take: Callable[[int], Awaitable[None]]) -> None:
        self.take = take
        self.items: deque[int] = deque()
        self.parked: list[trio.lowlevel.Task] = []

    async def read(self) -> None:
        this = trio.lowlevel.current_task()

        def unpark(_: object) -> trio.lowlevel.Abort:
            self.parked.remove(this)
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            while not self.items:
                self.parked.append(this)
                await trio.lowlevel.wait_task_rescheduled(unpark)
            await self.take(self.items.popleft())

    def put(self, item: int) -> None:
        self.items.append(item)
        if self.parked:
            trio.lowlevel.reschedule(self.parked.pop())


def handed(readers: int) -> Callable[[int], Awaitable[float]]:
    """One checkpoint, and then all get it: without an end, a limit, or a failure."""

    async def trigger(tasks: list[Parked], item: int) -> None:
        await trio.lowlevel.checkpoint()
        for task in tasks:
            task.put(item)

    async def measure(size: int) -> float:
        count = Count()
        count.expect(size * readers)
        tasks = [Parked(count.take) for _ in range(readers)]
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task.read)
            await wait_all_tasks_blocked()
            began = clock()
            for number in range(size):
                await trigger(tasks, number)
            await count.done.wait()
            cost = (clock() - began) / size
            nursery.cancel_scope.cancel()
        return cost

    return measure


async def without_hooks(size: int) -> float:
    service = Service(0)
    async with App(service.source, service.sink):
        began = clock()
        for number in range(size):
            await service.event.trigger(number)
        return (clock() - began) / size


class Empty:
    async def method(self, _: int) -> None:
        await trio.lowlevel.checkpoint()


async def empty_method(size: int) -> float:
    empty = Empty()
    began = clock()
    for number in range(size):
        await empty.method(number)
    return (clock() - began) / size


WORKS = (
    Work(
        "events-burst-1",
        0.16,
        200_000,
        bursts(1),
        channel_bursts(1),
        title="events in bursts, to one hook",
    ),
    Work(
        "events-burst-10",
        0.16,
        20_000,
        bursts(10),
        channel_bursts(10),
        title="events in bursts, to ten hooks",
    ),
    Work(
        "events-awaited-1",
        0.8,
        10_000,
        awaited(1),
        channel_sends(1),
        repetitions=MANY_REPETITIONS,
        title="events awaited, to one hook",
    ),
    Work(
        "events-awaited-10",
        0.3,
        2_000,
        awaited(10),
        channel_sends(10),
        items=2_000,
        repetitions=MANY_REPETITIONS,
        title="events awaited, to ten hooks",
    ),
    Work(
        "events-awaited-1-handed",
        None,
        50_000,
        awaited(1),
        handed(1),
        title="the same to one hook, beside the least that hands it to a parked task",
    ),
    Work(
        "events-awaited-10-handed",
        None,
        10_000,
        awaited(10),
        handed(10),
        title="the same to ten hooks, beside the least that hands it to parked tasks",
    ),
    Work(
        "events-no-hook", 3.0, 100_000, without_hooks, empty_method, title="events without a hook"
    ),
)
