"""APScheduler 3 with its store in memory and its executor on asyncio."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from benchmarks.peers.counting import Countdown, run
from benchmarks.peers.serving import Measure, PeerWork, serve
from benchmarks.stopwatch import clock

HOUR = 3600.0


async def nothing() -> None:
    pass


def queued(job_of: Callable[[Countdown], Callable[[], Awaitable[None]]]) -> Measure:
    """Jobs that are due at once; it can't be told to run one after another."""

    async def measure(size: int) -> float:
        countdown = Countdown(size)
        scheduler = AsyncIOScheduler(timezone=timezone.utc)
        scheduler.start()
        job = job_of(countdown)
        began = clock()
        for _ in range(size):
            scheduler.add_job(job, misfire_grace_time=None)
        await countdown.done.wait()
        cost = (clock() - began) / size
        scheduler.shutdown()
        return cost

    return measure


async def schedules(size: int) -> float:
    rng = random.Random(size)
    first = datetime.now(timezone.utc) + timedelta(minutes=10)
    times = [first + timedelta(seconds=rng.uniform(0, HOUR)) for _ in range(size)]
    scheduler = AsyncIOScheduler(timezone=timezone.utc)
    scheduler.start()
    began = clock()
    jobs = [scheduler.add_job(nothing, "date", run_date=when) for when in times]
    for job in jobs[::2]:
        job.remove()
    cost = (clock() - began) / size
    scheduler.shutdown()
    return cost


WORKS = {
    "queued-tasks": PeerWork(queued(lambda countdown: countdown.return_at_once), most=5_000),
    "queued-tasks-yield": PeerWork(queued(lambda countdown: countdown.yield_once), most=5_000),
    "schedules": PeerWork(schedules, most=10_000),
}

if __name__ == "__main__":
    logging.disable()
    serve(WORKS, run, "apscheduler")
