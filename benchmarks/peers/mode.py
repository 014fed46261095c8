"""Mode: services that have children and background tasks, supervisors, signals; on asyncio."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mode import OneForOneSupervisor, Service, Signal

from benchmarks.graphs import random_graph
from benchmarks.memory import traced
from benchmarks.peers.counting import Countdown, Outage, let_all_begin, run, sleep_forever
from benchmarks.peers.serving import Measure, PeerWork, serve
from benchmarks.stopwatch import clock


class Root(Service):
    """The parent of all others; it starts its children one after another, and stops them so."""


class Part(Service):
    """A service with a task of its own, as a module has one."""

    @Service.task
    async def work(self) -> None:
        await sleep_forever()


class Fragile(Service):
    def __init__(self, outage: Outage, number: int) -> None:
        super().__init__()
        self.outage = outage
        self.number = number

    @Service.task
    async def work(self) -> None:
        await self.outage.work(self.number)


async def modules(size: int) -> float:
    """In an order that suits the graph; the edges themselves can't be said."""
    graph = random_graph(size)
    root = Root()
    for _ in graph:
        root.add_dependency(Part())
    began = clock()
    await root.start()
    await root.stop()
    return (clock() - began) / size


async def short_workers(size: int) -> float:
    root = Root()
    await root.start()
    countdown = Countdown(size)
    began = clock()
    for _ in range(size):
        root.add_future(countdown.yield_once())
    await countdown.done.wait()
    cost = (clock() - began) / size
    await root.stop()
    return cost


async def restarts(size: int) -> float:
    logging.disable()
    outage = Outage(size)
    supervisor = OneForOneSupervisor(max_restarts=1e9, over=1.0)
    supervisor.add(*(Fragile(outage, number) for number in range(size)))
    await supervisor.start()
    await let_all_begin()
    began = clock()
    outage.comes.set()
    await outage.restarted.done.wait()
    cost = (clock() - began) / size
    await supervisor.stop()
    logging.disable(logging.NOTSET)
    return cost


async def module_memory(size: int) -> float:
    with traced() as held:
        root = Root()
        for _ in range(size):
            root.add_dependency(Part())
        await root.start()
        await let_all_begin()
        cost = held() / size
    await root.stop()
    return cost


async def worker_memory(size: int) -> float:
    root = Root()
    await root.start()
    with traced() as held:
        for _ in range(size):
            root.add_future(sleep_forever())
        await let_all_begin()
        cost = held() / size
    await root.stop()
    return cost


async def stop_modules(size: int) -> float:
    root = Root()
    for _ in range(size):
        root.add_dependency(Part())
    await root.start()
    await let_all_begin()
    began = clock()
    await root.stop()
    return (clock() - began) / size


async def stop_workers(size: int) -> float:
    root = Root()
    await root.start()
    for _ in range(size):
        root.add_future(sleep_forever())
    await let_all_begin()
    began = clock()
    await root.stop()
    return (clock() - began) / size


def receiver(countdown: Countdown) -> Callable[..., object]:
    async def take(_: int, **__: object) -> None:
        countdown.count()

    return take


def sends(hooks: int) -> Measure:
    """A signal calls its receivers before sending returns: a burst is nothing else than that."""

    async def measure(size: int) -> float:
        countdown = Countdown(size * hooks)
        signal = Signal(name="event")
        for _ in range(hooks):
            signal.connect(receiver(countdown))
        began = clock()
        for number in range(size):
            await signal.send(number)
        if hooks:
            await countdown.done.wait()
        return (clock() - began) / size

    return measure


WORKS = {
    "modules": PeerWork(modules),
    "short-workers": PeerWork(short_workers),
    "restarts": PeerWork(restarts),
    "worker-memory": PeerWork(worker_memory),
    "module-memory": PeerWork(module_memory),
    "stop-workers": PeerWork(stop_workers),
    "stop-modules": PeerWork(stop_modules, most=2_000),
    "events-burst-1": PeerWork(sends(1)),
    "events-burst-10": PeerWork(sends(10)),
    "events-awaited-1": PeerWork(sends(1)),
    "events-awaited-10": PeerWork(sends(10)),
    "events-no-hook": PeerWork(sends(0)),
}

if __name__ == "__main__":
    serve(WORKS, run, "mode-streaming")
