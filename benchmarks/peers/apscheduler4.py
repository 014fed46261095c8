"""APScheduler 4, a pre-release, with its store in memory; on asyncio."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone

from apscheduler import AsyncScheduler
from apscheduler.triggers.date import DateTrigger

from benchmarks.peers.counting import Countdown, run
from benchmarks.peers.serving import Measure, PeerWork, serve
from benchmarks.stopwatch import clock

HOUR = 3600.0


async def nothing() -> None:
    pass


def queued(job_of: Callable[[Countdown], Callable[[], Awaitable[None]]]) -> Measure:
    async def measure(size: int) -> float:
        countdown = Countdown(size)
        async with AsyncScheduler(max_concurrent_jobs=1) as scheduler:
            await scheduler.configure_task("job", func=job_of(countdown), max_running_jobs=1)
            await scheduler.start_in_background()
            began = clock()
            for _ in range(size):
                await scheduler.add_job("job")
            await countdown.done.wait()
            cost = (clock() - began) / size
            await scheduler.stop()
        return cost

    return measure


async def schedules(size: int) -> float:
    rng = random.Random(size)
    first = datetime.now(timezone.utc) + timedelta(minutes=10)
    times = [first + timedelta(seconds=rng.uniform(0, HOUR)) for _ in range(size)]
    async with AsyncScheduler() as scheduler:
        await scheduler.configure_task("job", func=nothing)
        await scheduler.start_in_background()
        began = clock()
        ids = [await scheduler.add_schedule("job", DateTrigger(when)) for when in times]
        for id_ in ids[::2]:
            await scheduler.remove_schedule(id_)
        cost = (clock() - began) / size
        await scheduler.stop()
    return cost


WORKS = {
    "queued-tasks": PeerWork(queued(lambda countdown: countdown.return_at_once), most=1_000),
    "queued-tasks-yield": PeerWork(queued(lambda countdown: countdown.yield_once), most=1_000),
    "schedules": PeerWork(schedules, most=2_000),
}

if __name__ == "__main__":
    logging.disable()
    serve(WORKS, run, "apscheduler")
