"""aiojobs: a scheduler that runs at most so many jobs at a time, the others queued; on asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiojobs import Scheduler

from benchmarks.memory import traced
from benchmarks.peers.counting import Countdown, let_all_begin, run, sleep_forever
from benchmarks.peers.serving import Measure, PeerWork, serve
from benchmarks.stopwatch import clock

SLOTS = 8


def at_once(countdown: Countdown) -> Callable[[], Awaitable[None]]:
    return countdown.return_at_once


def yielding(countdown: Countdown) -> Callable[[], Awaitable[None]]:
    return countdown.yield_once


def scheduler(limit: int | None) -> Scheduler:
    """Return one that lets everybody in, and doesn't stop waiting for what it closes."""
    return Scheduler(limit=limit, pending_limit=0, close_timeout=None)


def spawned(
    limit: int | None, job_of: Callable[[Countdown], Callable[[], Awaitable[None]]]
) -> Measure:
    async def measure(size: int) -> float:
        countdown = Countdown(size)
        jobs = scheduler(limit)
        job = job_of(countdown)
        began = clock()
        for _ in range(size):
            await jobs.spawn(job())
        await countdown.done.wait()
        cost = (clock() - began) / size
        await jobs.close()
        return cost

    return measure


async def memory(size: int) -> float:
    jobs = scheduler(None)
    with traced() as held:
        for _ in range(size):
            await jobs.spawn(sleep_forever())
        await let_all_begin()
        cost = held() / size
    await jobs.close()
    return cost


async def stop(size: int) -> float:
    jobs = scheduler(None)
    for _ in range(size):
        await jobs.spawn(sleep_forever())
    await let_all_begin()
    began = clock()
    await jobs.close()
    return (clock() - began) / size


WORKS = {
    "short-workers": PeerWork(spawned(None, yielding)),
    "cancellable-workers": PeerWork(spawned(None, yielding)),
    "worker-memory": PeerWork(memory),
    "stop-workers": PeerWork(stop),
    "queued-tasks": PeerWork(spawned(1, at_once)),
    "queued-tasks-yield": PeerWork(spawned(1, yielding)),
    "microtasks": PeerWork(spawned(SLOTS, at_once)),
    "microtasks-yield": PeerWork(spawned(SLOTS, yielding)),
    "microtasks-few-tasks": PeerWork(spawned(SLOTS, at_once)),
    "microtasks-few-tasks-yield": PeerWork(spawned(SLOTS, yielding)),
}

if __name__ == "__main__":
    serve(WORKS, run, "aiojobs")
