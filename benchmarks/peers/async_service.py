"""async-service: a service with a manager that has up to 1,000 tasks; on the Trio that it pins."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio
from async_service import ManagerAPI, Service, background_trio_service
from trio.testing import wait_all_tasks_blocked

from benchmarks.graphs import random_graph
from benchmarks.memory import traced
from benchmarks.peers.serving import PeerWork, serve
from benchmarks.stopwatch import clock

MOST = 1_000


class Idle(Service):
    """A service that others put tasks and services into."""

    async def run(self) -> None:
        await self.manager.wait_finished()


class Part(Service):
    def __init__(self, online: Callable[[], None], wait: list[trio.Event]) -> None:
        self.online = online
        self.wait = wait

    async def run(self) -> None:
        for event in self.wait:
            await event.wait()
        self.online()
        await trio.sleep_forever()


async def modules(size: int) -> float:
    graph = random_graph(size)
    online = [trio.Event() for _ in graph]
    parts = [
        Part(online[node].set, [online[other] for other in others])
        for node, others in enumerate(graph)
    ]
    began = clock()
    async with background_trio_service(Idle()) as manager:
        for part in parts:
            manager.run_child_service(part)
        for event in online:
            await event.wait()
    return (clock() - began) / size


async def short_workers(size: int) -> float:
    done = trio.Event()
    left = size

    async def work() -> None:
        nonlocal left
        await trio.lowlevel.checkpoint()
        left -= 1
        if not left:
            done.set()

    async with background_trio_service(Idle()) as manager:
        began = clock()
        for _ in range(size):
            manager.run_task(work)
        await done.wait()
        return (clock() - began) / size


def put_sleepers(manager: ManagerAPI, size: int) -> None:
    for _ in range(size):
        manager.run_task(trio.sleep_forever)


async def memory(size: int) -> float:
    async with background_trio_service(Idle()) as manager:
        with traced() as held:
            put_sleepers(manager, size)
            await wait_all_tasks_blocked()
            return held() / size


async def stop(size: int) -> float:
    async with background_trio_service(Idle()) as manager:
        put_sleepers(manager, size)
        await wait_all_tasks_blocked()
        began = clock()
    return (clock() - began) / size


WORKS = {
    "modules": PeerWork(modules, MOST - 1),
    "short-workers": PeerWork(short_workers, MOST - 1),
    "cancellable-workers": PeerWork(short_workers, MOST - 1),
    "worker-memory": PeerWork(memory, MOST - 1),
    "stop-workers": PeerWork(stop, MOST - 1),
}

if __name__ == "__main__":
    logging.disable()
    serve(WORKS, lambda measure, size: float(trio.run(measure, size)), "async-service")
