"""Start and stop modules in a random graph, each with up to three dependencies.

The floor is raw Trio with a task and a trio.Event per module, all in one nursery.  The two works
without a goal say what the order in which modules are named costs, and what nurseries and stopping
in order cost, of which that floor does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from benchmarks.graphs import Graph, random_graph, shuffled_nodes
from benchmarks.measuring import Work
from benchmarks.stopwatch import clock
from trio_modules import App, Module


async def ours(size: int) -> float:
    return await life(size, range(size))


async def shuffled(size: int) -> float:
    return await life(size, shuffled_nodes(size))


async def life(size: int, order: Sequence[int]) -> float:
    graph = random_graph(size)
    modules = [Module(f"m{node}", depends_on=[f"m{n}" for n in graph[node]]) for node in order]
    app = App(*modules)
    began = clock()
    async with app:
        assert modules[-1].online
    return (clock() - began) / size


class Floor:
    """A task with a nursery of its own and an event per node, and two counters per node."""

    def __init__(self, graph: Graph) -> None:
        self.dependencies = graph
        self.dependents: Graph = [[] for _ in graph]
        for node, dependencies in enumerate(graph):
            for other in dependencies:
                self.dependents[other].append(node)
        self.not_online = [len(nodes) for nodes in self.dependencies]
        self.not_offline = [len(nodes) for nodes in self.dependents]
        self.stop = [trio.Event() for _ in graph]
        self.starting = len(graph)
        self.started = trio.Event()

    async def life(self) -> None:
        async with trio.open_nursery() as nursery:
            for node, count in enumerate(self.not_online.copy()):
                if not count:
                    nursery.start_soon(self.run, node, nursery)
            await self.started.wait()
            for node, count in enumerate(self.not_offline.copy()):
                if not count:
                    self.stop[node].set()

    async def run(self, node: int, nursery: trio.Nursery) -> None:
        async with trio.open_nursery():
            for other in self.dependents[node]:
                self.not_online[other] -= 1
                if not self.not_online[other]:
                    nursery.start_soon(self.run, other, nursery)
            self.starting -= 1
            if not self.starting:
                self.started.set()
            await self.stop[node].wait()
        for other in self.dependencies[node]:
            self.not_offline[other] -= 1
            if not self.not_offline[other]:
                self.stop[other].set()


async def floor(size: int) -> float:
    """A task and an event per node: wait for the events of the dependencies, set one's own.

    All are cancelled at once in the end: the order of stopping is on our side alone.
    """
    return await live(size, range(size))


async def shuffled_floor(size: int) -> float:
    return await live(size, shuffled_nodes(size))


async def live(size: int, order: Sequence[int]) -> float:
    graph = random_graph(size)
    online = [trio.Event() for _ in graph]

    async def run(node: int) -> None:
        for other in graph[node]:
            await online[other].wait()
        online[node].set()
        await trio.sleep_forever()

    began = clock()
    async with trio.open_nursery() as nursery:
        for node in order:
            nursery.start_soon(run, node)
        for event in online:
            await event.wait()
        nursery.cancel_scope.cancel()
    return (clock() - began) / size


async def ordered_floor(size: int) -> float:
    """With a nursery for each, counted in place of waited for, and stopped in order.

    It is the least that keeps these promises.
    """
    graph = random_graph(size)
    began = clock()
    await Floor(graph).life()
    return (clock() - began) / size


def work(size: int) -> Work:
    title = f"start and stop {size:,} modules"
    return Work(f"modules-{size}", 2.0, size, ours, floor, kind="modules", title=title)


WORKS = (
    work(100),
    work(1_000),
    work(10_000),
    Work(
        "modules-growth",
        1.5,
        10_000,
        ours,
        ours,
        floor_size=100,
        title="a module among 10,000, beside one among 100",
    ),
    Work(
        "modules-shuffled",
        None,
        1_000,
        shuffled,
        shuffled_floor,
        title="1,000 modules, named in any order",
    ),
    Work(
        "modules-ordered",
        None,
        1_000,
        ours,
        ordered_floor,
        title="1,000 modules, beside the least that has nurseries and stops in order",
    ),
)
