"""Asphalt 4: components that wait for each other's resources, signals; on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from asphalt.core import Component, ContainerComponent, Context, Event, Signal

from benchmarks.graphs import Graph, random_graph, shuffled_nodes
from benchmarks.memory import traced
from benchmarks.peers.counting import Countdown, let_all_begin, run
from benchmarks.peers.serving import Measure, PeerWork, serve
from benchmarks.stopwatch import clock

BURST = 1_000


class Part(Component):
    """It has no task: it asks for others' resources, adds its own, and has a stop function."""

    def __init__(self, node: int, dependencies: Sequence[int]) -> None:
        self.node = node
        self.dependencies = dependencies

    async def start(self, ctx: Context) -> None:
        for other in self.dependencies:
            await ctx.request_resource(Part, f"m{other}")
        ctx.add_resource(self, f"m{self.node}")
        ctx.add_teardown_callback(self.stop)

    async def stop(self) -> None:
        pass


def container(graph: Graph, order: Sequence[int]) -> ContainerComponent:
    root = ContainerComponent()
    for node in order:
        root.add_component(f"m{node}", Part, node=node, dependencies=graph[node])
    return root


async def life(root: ContainerComponent, size: int) -> float:
    began = clock()
    async with Context() as context:
        await root.start(context)
    return (clock() - began) / size


async def modules(size: int) -> float:
    """In an order in which nobody has to wait."""
    return await life(container(random_graph(size), range(size)), size)


async def shuffled_modules(size: int) -> float:
    """Each that waits is told of every resource that is added."""
    return await life(container(random_graph(size), shuffled_nodes(size)), size)


async def module_memory(size: int) -> float:
    with traced() as held:
        root = container([[] for _ in range(size)], range(size))
        async with Context() as context:
            await root.start(context)
            return held() / size


class Number(Event):
    __slots__ = ("number",)

    def __init__(self, source: Source, topic: str, number: int) -> None:
        super().__init__(source, topic)
        self.number = number


class Source:
    event = Signal(Number)


async def read(source: Source, countdown: Countdown) -> None:
    async for _ in source.event.stream_events():
        countdown.count()


def bursts(hooks: int) -> Measure:
    """To streams of events, each read in a task: the nearest to a channel per hook."""

    async def measure(size: int) -> float:
        source = Source()
        countdown = Countdown(0)
        tasks = [asyncio.create_task(read(source, countdown)) for _ in range(hooks)]
        await let_all_begin()
        began = clock()
        for _ in range(size // BURST):
            countdown.expect(BURST * hooks)
            for number in range(BURST):
                source.event.dispatch(number)
            await countdown.done.wait()
        cost = (clock() - began) / size
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return cost

    return measure


def awaited(hooks: int) -> Measure:
    """To async listeners: dispatching makes a task for each, and is over when all have ended."""

    async def measure(size: int) -> float:
        source = Source()
        countdown = Countdown(size * hooks)
        for _ in range(hooks):
            source.event.connect(listener(countdown))
        began = clock()
        for number in range(size):
            await source.event.dispatch(number)
        return (clock() - began) / size

    return measure


def listener(countdown: Countdown) -> Callable[[Number], Awaitable[None]]:
    async def take(_: Number) -> None:
        countdown.count()

    return take


WORKS = {
    "modules": PeerWork(modules),
    "modules-shuffled": PeerWork(shuffled_modules, most=1_000),
    "module-memory": PeerWork(module_memory),
    "events-burst-1": PeerWork(bursts(1)),
    "events-burst-10": PeerWork(bursts(10)),
    "events-awaited-1": PeerWork(awaited(1)),
    "events-awaited-10": PeerWork(awaited(10), most=2_000),
    "events-no-hook": PeerWork(awaited(0)),
}

if __name__ == "__main__":
    serve(WORKS, run, "asphalt")
