"""Plain asyncio, without any package: what one writes by hand there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from benchmarks.graphs import random_graph
from benchmarks.memory import traced
from benchmarks.peers.counting import Countdown, Outage, let_all_begin, run, sleep_forever
from benchmarks.peers.serving import Measure, PeerWork, serve
from benchmarks.stopwatch import clock

BURST = 1_000
HOUR = 3600.0
SLOTS = 8

Job = Callable[[], Awaitable[None]]


async def end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def modules(size: int) -> float:
    graph = random_graph(size)
    online = [asyncio.Event() for _ in graph]

    async def live(node: int) -> None:
        for other in graph[node]:
            await online[other].wait()
        online[node].set()
        await sleep_forever()

    began = clock()
    tasks = [asyncio.create_task(live(node)) for node in range(size)]
    for event in online:
        await event.wait()
    await end(tasks)
    return (clock() - began) / size


async def short_workers(size: int) -> float:
    countdown = Countdown(size)
    began = clock()
    tasks = [asyncio.create_task(countdown.yield_once()) for _ in range(size)]
    await countdown.done.wait()
    cost = (clock() - began) / size
    await asyncio.gather(*tasks)
    return cost


async def restarts(size: int) -> float:
    outage = Outage(size)

    async def restarting(number: int) -> None:
        while True:
            try:
                await outage.work(number)
            except Exception:
                continue

    tasks = [asyncio.create_task(restarting(number)) for number in range(size)]
    await let_all_begin()
    began = clock()
    outage.comes.set()
    await outage.restarted.done.wait()
    cost = (clock() - began) / size
    await end(tasks)
    return cost


async def memory(size: int) -> float:
    with traced() as held:
        tasks = [asyncio.create_task(sleep_forever()) for _ in range(size)]
        await let_all_begin()
        cost = held() / size
    await end(tasks)
    return cost


async def stop(size: int) -> float:
    tasks = [asyncio.create_task(sleep_forever()) for _ in range(size)]
    await let_all_begin()
    began = clock()
    await end(tasks)
    return (clock() - began) / size


def queued(job_of: Callable[[Countdown], Job]) -> Measure:
    """One task that reads a queue and does what comes."""

    async def measure(size: int) -> float:
        countdown = Countdown(size)
        queue: asyncio.Queue[Job] = asyncio.Queue()
        job = job_of(countdown)

        async def work() -> None:
            while True:
                await (await queue.get())()

        task = asyncio.create_task(work())
        began = clock()
        for _ in range(size):
            queue.put_nowait(job)
        await countdown.done.wait()
        cost = (clock() - began) / size
        await end([task])
        return cost

    return measure


async def schedules(size: int) -> float:
    """The loop's own heap of callbacks."""
    rng = random.Random(size)
    loop = asyncio.get_running_loop()
    now = loop.time()
    times = [now + 60 + rng.uniform(0, HOUR) for _ in range(size)]
    began = clock()
    handles = [loop.call_at(when, print) for when in times]
    for handle in handles[::2]:
        handle.cancel()
    cost = (clock() - began) / size
    for handle in handles:
        handle.cancel()
    return cost


def limited(job_of: Callable[[Countdown], Job]) -> Measure:
    """Eight tasks that share the work and a semaphore."""

    async def measure(size: int) -> float:
        semaphore = asyncio.Semaphore(SLOTS)
        job = job_of(Countdown(size))

        async def share(count: int) -> None:
            for _ in range(count):
                async with semaphore:
                    await job()

        began = clock()
        await asyncio.gather(*(share(size // SLOTS) for _ in range(SLOTS)))
        return (clock() - began) / size

    return measure


def spawned(job_of: Callable[[Countdown], Job]) -> Measure:
    """A task for each item, which waits for the semaphore."""

    async def measure(size: int) -> float:
        semaphore = asyncio.Semaphore(SLOTS)
        countdown = Countdown(size)
        job = job_of(countdown)
        tasks = set()

        async def run() -> None:
            async with semaphore:
                await job()

        began = clock()
        for _ in range(size):
            tasks.add(task := asyncio.create_task(run()))
            task.add_done_callback(tasks.discard)
        await countdown.done.wait()
        return (clock() - began) / size

    return measure


def bursts(hooks: int) -> Measure:
    """A queue for each that listens, and a task that reads it."""

    async def measure(size: int) -> float:
        countdown = Countdown(0)
        queues: list[asyncio.Queue[int]] = [asyncio.Queue(BURST) for _ in range(hooks)]
        tasks = [asyncio.create_task(read(queue, countdown)) for queue in queues]
        await let_all_begin()
        began = clock()
        for _ in range(size // BURST):
            countdown.expect(BURST * hooks)
            for number in range(BURST):
                for queue in queues:
                    queue.put_nowait(number)
            await countdown.done.wait()
        cost = (clock() - began) / size
        await end(tasks)
        return cost

    return measure


def awaited(hooks: int) -> Measure:
    async def measure(size: int) -> float:
        countdown = Countdown(size * hooks)
        queues: list[asyncio.Queue[int]] = [asyncio.Queue(BURST) for _ in range(hooks)]
        tasks = [asyncio.create_task(read(queue, countdown)) for queue in queues]
        await let_all_begin()
        began = clock()
        for number in range(size):
            for queue in queues:
                await queue.put(number)
        await countdown.done.wait()
        cost = (clock() - began) / size
        await end(tasks)
        return cost

    return measure


async def read(queue: asyncio.Queue[int], countdown: Countdown) -> None:
    while True:
        await queue.get()
        await countdown.return_at_once()


WORKS = {
    "modules": PeerWork(modules),
    "short-workers": PeerWork(short_workers),
    "cancellable-workers": PeerWork(short_workers),
    "restarts": PeerWork(restarts),
    "worker-memory": PeerWork(memory),
    "stop-workers": PeerWork(stop),
    "queued-tasks": PeerWork(queued(lambda countdown: countdown.return_at_once)),
    "queued-tasks-yield": PeerWork(queued(lambda countdown: countdown.yield_once)),
    "schedules": PeerWork(schedules),
    "microtasks": PeerWork(spawned(lambda countdown: countdown.return_at_once)),
    "microtasks-yield": PeerWork(spawned(lambda countdown: countdown.yield_once)),
    "microtasks-few-tasks": PeerWork(limited(lambda countdown: countdown.return_at_once)),
    "microtasks-few-tasks-yield": PeerWork(limited(lambda countdown: countdown.yield_once)),
    "events-burst-1": PeerWork(bursts(1)),
    "events-burst-10": PeerWork(bursts(10)),
    "events-awaited-1": PeerWork(awaited(1)),
    "events-awaited-10": PeerWork(awaited(10)),
}

if __name__ == "__main__":
    serve(WORKS, run)
