"""TriOTP: supervisors whose children each have a nursery of their own; on Trio."""

from __future__ import annotations

import logbook
import trio
from trio.testing import wait_all_tasks_blocked
from triotp import dynamic_supervisor, mailbox, supervisor
from triotp.supervisor import child_spec, options, restart_strategy

from benchmarks.graphs import random_graph
from benchmarks.memory import traced
from benchmarks.peers.serving import Measure, PeerWork, serve
from benchmarks.stopwatch import clock


async def modules(size: int) -> float:
    """Children wait for each other by events of their own, and are all cancelled at once."""
    graph = random_graph(size)
    online = [trio.Event() for _ in graph]

    async def live(node: int) -> None:
        for other in graph[node]:
            await online[other].wait()
        online[node].set()
        await trio.sleep_forever()

    children = [child_spec(f"m{node}", live, [node]) for node in range(size)]
    began = clock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start, children, options())
        for event in online:
            await event.wait()
        nursery.cancel_scope.cancel()
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

    child = child_spec("worker", work, [], restart_strategy.TEMPORARY)
    mailbox._init()
    async with trio.open_nursery() as nursery:
        mailbox_id = await nursery.start(dynamic_supervisor.start, options())
        began = clock()
        for _ in range(size):
            await dynamic_supervisor.start_child(mailbox_id, child)
        await done.wait()
        cost = (clock() - began) / size
        nursery.cancel_scope.cancel()
    return cost


async def restarts(size: int) -> float:
    fresh = [True] * size
    left = size
    comes, over = trio.Event(), trio.Event()

    async def work(number: int) -> None:
        nonlocal left
        if fresh[number]:
            fresh[number] = False
            await comes.wait()
            raise OSError("no answer")
        left -= 1
        if not left:
            over.set()
        await trio.sleep_forever()

    children = [child_spec(f"w{number}", work, [number]) for number in range(size)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start, children, options())
        await wait_all_tasks_blocked()
        began = clock()
        comes.set()
        await over.wait()
        cost = (clock() - began) / size
        nursery.cancel_scope.cancel()
    return cost


def sleepers(size: int) -> list[child_spec]:
    return [child_spec(f"w{number}", trio.sleep_forever, []) for number in range(size)]


async def memory(size: int) -> float:
    async with trio.open_nursery() as nursery:
        with traced() as held:
            nursery.start_soon(supervisor.start, sleepers(size), options())
            await wait_all_tasks_blocked()
            cost = held() / size
        nursery.cancel_scope.cancel()
    return cost


async def stop(size: int) -> float:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start, sleepers(size), options())
        await wait_all_tasks_blocked()
        began = clock()
        nursery.cancel_scope.cancel()
    return (clock() - began) / size


def run(measure: Measure, size: int) -> float:
    with logbook.NullHandler().applicationbound():
        return float(trio.run(measure, size))


WORKS = {
    "modules": PeerWork(modules, most=1_000),
    "short-workers": PeerWork(short_workers, most=5_000),
    "restarts": PeerWork(restarts),
    "worker-memory": PeerWork(memory, most=2_000),
    "module-memory": PeerWork(memory, most=2_000),
    "stop-workers": PeerWork(stop, most=2_000),
    "stop-modules": PeerWork(stop, most=2_000),
}

if __name__ == "__main__":
    serve(WORKS, run, "triotp")
