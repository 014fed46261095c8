"""What an item costs and holds where there are few of them, and where there are many.

Modules, workers, hooks and queued tasks from 100 to 100,000, schedules to 1,000,000; each beside
the same in raw Trio, which isn't flat itself: what doesn't fit into the processor's caches costs
more. A curve is flat if at no size an item costs more than 1.5 times what it costs at a smaller.

Times are measured twice: as they are, and with the garbage collector off, whose work grows with
all that the process holds.
"""

from __future__ import annotations

import argparse
import heapq
import math
import platform
import statistics
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from benchmarks import events, idle_memory, short_workers, start_stop, tasks
from benchmarks.measuring import SCALES, Measure, Work, measure
from benchmarks.memory import traced
from benchmarks.page import FLAT, growth, write
from benchmarks.picture import curves_picture
from benchmarks.stopwatch import clock, use_the_wall
from trio_modules import App, Module

SIZES = (100, 1_000, 10_000, 100_000)
TO_A_MILLION = (*SIZES, 1_000_000)
REPETITIONS = 5
# A repetition handles about this many items.
ITEMS = 2_000
# So many events are measured together, since one is soon over where there are few hooks.
EVENTS = 10


async def hooks(size: int) -> float:
    """Events to so many hooks, each until the last has seen it."""
    service = events.Service(size)
    async with App(service.source, service.sink):
        await wait_all_tasks_blocked()
        return await cost_of_events(service, size, service.event.trigger)


async def channels(size: int) -> float:
    """The same with a channel and a task for each; an event gets to all of them at once, too."""
    readers = events.Channels(size)

    async def send(number: int) -> None:
        await trio.lowlevel.checkpoint()
        for sender in readers.senders:
            sender.send_nowait(number)

    async with trio.open_nursery() as nursery:
        for receiver in readers.receivers:
            nursery.start_soon(readers.read, receiver)
        await wait_all_tasks_blocked()
        cost = await cost_of_events(readers, size, send)
        nursery.cancel_scope.cancel()
    return cost


async def cost_of_events(
    count: events.Count, size: int, send: Callable[[int], Awaitable[None]]
) -> float:
    began = clock()
    for number in range(EVENTS):
        count.expect(size)
        await send(number)
        await count.done.wait()
    return (clock() - began) / size / EVENTS


async def hooks_memory(size: int) -> float:
    with traced() as held:
        service = events.Service(size)
        async with App(service.source, service.sink):
            await wait_all_tasks_blocked()
            return held() / size


async def channels_memory(size: int) -> float:
    with traced() as held:
        readers = events.Channels(size)
        async with trio.open_nursery() as nursery:
            for receiver in readers.receivers:
                nursery.start_soon(readers.read, receiver)
            await wait_all_tasks_blocked()
            cost = held() / size
            nursery.cancel_scope.cancel()
    return cost


async def wait_for_ever(_: object) -> None:
    await trio.sleep_forever()


async def queued_memory(size: int) -> float:
    """Tasks behind one that doesn't end."""
    module = Module("bench")
    async with App(module):
        module.new_task(wait_for_ever).queue()
        await wait_all_tasks_blocked()
        with traced() as held:
            waiting = [module.new_task(tasks.return_at_once).queue() for _ in range(size)]
            cost = held() / size
        assert len(waiting) == size
    return cost


async def channel_memory(size: int) -> float:
    """As many objects in a channel that nobody reads."""
    with traced() as held:
        sender, _receiver = trio.open_memory_channel[object](math.inf)
        for _ in range(size):
            sender.send_nowait(tasks.Scheduled(tasks.return_at_once))
        return held() / size


async def schedules_memory(size: int) -> float:
    module = Module("bench")
    async with App(module):
        with traced() as held:
            times = tasks.random_times(size)
            scheduled = [module.new_task(tasks.return_at_once).schedule(when) for when in times]
            del times
            tasks.sort_in(module)
            cost = held() / size
        assert len(scheduled) == size
    return cost


async def heap_memory(size: int) -> float:
    with traced() as held:
        heap: list[tuple[float, int, object]] = []
        for number, when in enumerate(tasks.random_times(size)):
            item = tasks.Scheduled(tasks.return_at_once)
            heapq.heappush(heap, (when, number, item))
        return held() / size


@dataclass(frozen=True)
class Curve:
    """What there are more and more of: what one costs or holds, ours and in raw Trio.

    And in the plainest code that keeps the same promises, where raw Trio keeps less.
    """

    title: str
    ours: Measure
    floor: Measure
    least: Measure | None = None
    unit: str = "µs"
    sizes: Sequence[int] = SIZES

    @property
    def name(self) -> str:
        return f"{self.title}, {self.unit}"


CURVES = (
    Curve("modules", start_stop.ours, start_stop.floor, start_stop.ordered_floor),
    Curve("modules", idle_memory.module, idle_memory.task, unit="B"),
    Curve("workers", short_workers.ours, short_workers.floor, short_workers.contained),
    Curve("workers", idle_memory.worker, idle_memory.task, unit="B"),
    Curve("hooks", hooks, channels),
    Curve("hooks", hooks_memory, channels_memory, unit="B"),
    Curve("queued tasks", tasks.queued(tasks.return_at_once), tasks.read(tasks.return_at_once)),
    Curve("queued tasks", queued_memory, channel_memory, unit="B"),
    Curve("schedules", tasks.scheduled, tasks.pushed, tasks.kept, sizes=TO_A_MILLION),
    Curve("schedules", schedules_memory, heap_memory, unit="B", sizes=TO_A_MILLION),
)


def main() -> None:
    options = parse()
    if options.wall:
        use_the_wall()
    chosen = [curve for curve in CURVES if not options.names or curve.title in options.names]
    record: dict[str, Any] = {
        "python": platform.python_version(),
        "trio": version("trio"),
        "machine": platform.machine(),
        "clock": "wall" if options.wall else "processor",
        "peers": {},
        "curves": [drawn(curve, options.most) for curve in chosen],
    }
    if options.output:
        write(options.output, "scaling", record, curves_picture(record))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    known = list(dict.fromkeys(curve.title for curve in CURVES))
    parser = argparse.ArgumentParser("benchmarks.scaling", description=__doc__)
    parser.add_argument("--wall", action="store_true", help="the time that passes, not the CPU's")
    parser.add_argument("--most", type=int, default=TO_A_MILLION[-1], help="no size above this")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write scaling.json and scaling.svg in DIR"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.names).difference(known):
        parser.error(f"no curve is called {', '.join(sorted(unknown))}")
    return options


def drawn(curve: Curve, most: int, items: int = ITEMS) -> dict[str, Any]:
    """Measure the points of a curve, and print them."""
    sizes = [size for size in curve.sizes if size <= most]
    result: dict[str, Any] = {"title": curve.title, "unit": curve.unit, "sizes": sizes}
    result |= values(curve, sizes, items, "on")
    if curve.unit != "B":
        result["collector off"] = values(curve, sizes, items, "off")
    return result


def values(
    curve: Curve, sizes: Sequence[int], items: int, collector: str
) -> dict[str, list[float]]:
    """What an item costs at each size, to each."""
    name = curve.name if collector == "on" else f"{curve.name}, no gc"
    series: dict[str, list[float]] = {}
    for size in sizes:
        costs = point(curve, size, items, collector)
        for who, cost in costs.items():
            series.setdefault(who, []).append(cost)
        print(f"{name:<24} {size:>9,}{cells(costs.values())}", flush=True)
    verdict = "flat" if growth(series["ours"]) <= FLAT else "not flat"
    print(f"{name:<24} grows by {cells(map(growth, series.values()))}  {verdict}")
    return series


def cells(values: Iterable[float]) -> str:
    return "".join(f" {value:>10.2f}" for value in values)


def point(curve: Curve, size: int, items: int, collector: str) -> dict[str, float]:
    """Return what an item costs to each where there are so many; memory is the same each time."""
    is_memory = curve.unit == "B"
    work = Work(
        curve.name,
        None,
        size,
        curve.ours,
        curve.floor,
        repetitions=1 if is_memory else REPETITIONS,
        items=1 if is_memory else items,
        least=curve.least,
    )
    medians = {
        who: statistics.median(costs) * SCALES[curve.unit]
        for who, costs in measure(work, collector=collector).costs.items()
    }
    return {who: float(f"{cost:.4g}") for who, cost in medians.items()}


if __name__ == "__main__":
    main()
