"""Events at full load for minutes: does the memory grow?

One module triggers without a pause: to a hook that is awaited, one that takes batches, one that
lags and drops the oldest, one that fails and tries again, and to a subscription of the whole app.
A line is printed every few seconds: the events so far, the memory that the process holds, and how
many objects the garbage collector knows. It has grown if its median in the last quarter of the
time is above that of the second by more than what is tolerated; the first warms up.
"""

from __future__ import annotations

import argparse
import gc
import logging
import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from trio_modules import App, Backoff, Event, Module, Overflow

MINUTES = 10.0
SAMPLES = 60
# Of memory: the allocator's pools come and go. Of objects: those in flight when it is looked.
TOLERATED = {"memory": 1.03, "objects": 1.02}
MEBIBYTE = 1024.0 * 1024.0
ROW = "{:>8} {:>14} {:>10} {:>10}"


@dataclass(frozen=True)
class Sample:
    seconds: float
    events: int
    memory: int
    objects: int


class Load:
    """The modules, and what they have seen."""

    def __init__(self) -> None:
        self.source = Module("source")
        self.sink = Module("sink", depends_on=[self.source])
        self.event: Event[int] = self.source.event("event", int)
        self.over = False
        self.failing = False
        self.triggered = 0
        self.source.worker(self.trigger)
        self.sink.hook(self.event, name="awaited")(self.take)
        self.sink.hook(self.event, name="batches", batch=50)(self.take_batch)
        self.sink.hook(self.event, name="lagging", buffer=10, overflow=Overflow.DROP_OLDEST)(
            self.take_slowly
        )
        self.sink.hook(self.event, name="retried", retry=Backoff(initial=0))(self.fail_at_times)
        self.app = App(self.source, self.sink)

    async def trigger(self) -> None:
        while not self.over:
            self.triggered += 1
            await self.event.trigger(self.triggered)

    async def take(self, _: int) -> None:
        pass

    async def take_batch(self, _: Sequence[int]) -> None:
        await trio.lowlevel.checkpoint()

    async def take_slowly(self, _: int) -> None:
        await trio.sleep(0.01)

    async def fail_at_times(self, number: int) -> None:
        self.failing = not self.failing and number % 1_000 == 0
        if self.failing:
            raise OSError("no answer")


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long; default 10")
    options = parser.parse_args()
    logging.disable()
    print(ROW.format("seconds", "events", "MiB", "objects"))
    samples = trio.run(sampled, options.minutes * 60)
    growths = {
        "memory": growth([each.memory for each in samples]),
        "objects": growth([each.objects for each in samples]),
    }
    for name, by in growths.items():
        print(f"{name}: {by:.4f} times what it was")
    grown = [name for name, by in growths.items() if by > TOLERATED[name]]
    sys.exit(f"it has grown: {', '.join(grown)}" if grown else 0)


async def sampled(seconds: float, *, samples: int = SAMPLES) -> list[Sample]:
    """Run under load for so long, and return what was seen meanwhile."""
    load = Load()
    taken = []
    began = trio.current_time()
    async with load.app, load.app.subscribe() as channel, trio.open_nursery() as nursery:
        nursery.start_soon(read, channel)
        for number in range(1, samples + 1):
            await trio.sleep_until(began + seconds * number / samples)
            taken.append(sample(trio.current_time() - began, load.triggered))
            print(row(taken[-1]), flush=True)
        load.over = True  # else the hooks have something to drain for as long as they may
        nursery.cancel_scope.cancel()
    return taken


async def read(channel: trio.MemoryReceiveChannel[object]) -> None:
    async for _ in channel:
        pass


def sample(seconds: float, events: int) -> Sample:
    gc.collect()
    return Sample(seconds, events, held(), len(gc.get_objects()))


def held() -> int:
    """Return the bytes of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def row(each: Sample) -> str:
    memory = f"{each.memory / MEBIBYTE:.1f}"
    return ROW.format(f"{each.seconds:.0f}", f"{each.events:,}", memory, f"{each.objects:,}")


def growth(values: Sequence[float]) -> float:
    """Return the median in the last quarter of the time, divided by that in the second."""
    quarter = max(1, len(values) // 4)
    before, after = values[quarter : 2 * quarter] or values[:1], values[-quarter:]
    return statistics.median(after) / statistics.median(before)


if __name__ == "__main__":
    main()
