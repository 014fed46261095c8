"""Start and stop modules in a random graph, each with up to three dependencies."""

from __future__ import annotations

import random
from time import process_time

import trio

from benchmarks.measuring import Work
from trio_modules import App, Module

Graph = list[list[int]]


def random_graph(size: int) -> Graph:
    """Return for each node the earlier ones that it depends on."""
    rng = random.Random(size)
    return [rng.sample(range(node), min(node, rng.randint(0, 3))) for node in range(size)]


async def ours(size: int) -> float:
    modules: list[Module] = []
    for node, dependencies in enumerate(random_graph(size)):
        modules.append(Module(f"m{node}", depends_on=[modules[other] for other in dependencies]))
    app = App(*modules)
    began = process_time()
    async with app:
        assert modules[-1].online
    return (process_time() - began) / size


class Floor:
    """A task and an event per node, all tasks in one nursery, and two counters per node."""

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
    graph = random_graph(size)
    online = [trio.Event() for _ in graph]

    async def live(node: int) -> None:
        for other in graph[node]:
            await online[other].wait()
        online[node].set()
        await trio.sleep_forever()

    began = process_time()
    async with trio.open_nursery() as nursery:
        for node in range(size):
            nursery.start_soon(live, node)
        for event in online:
            await event.wait()
        nursery.cancel_scope.cancel()
    return (process_time() - began) / size


async def ordered_floor(size: int) -> float:
    """The same with counters in place of waiting, and stopped in order: the least that does it."""
    graph = random_graph(size)
    began = process_time()
    await Floor(graph).life()
    return (process_time() - began) / size


WORKS = (
    Work("modules-100", 2.0, 100, ours, ordered_floor),
    Work("modules-1000", 2.0, 1_000, ours, ordered_floor),
    Work("modules-10000", 2.0, 10_000, ours, ordered_floor),
    # Beside a floor that does less, for comparison: it leaves out the order of stopping.
    Work("modules-1000-unordered", 2.0, 1_000, ours, floor),
    # What a module costs among 10,000, and as its floor what it costs among 100.
    Work("modules-growth", 1.5, 10_000, ours, ours, floor_size=100),
)
