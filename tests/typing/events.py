"""What type checkers must accept and refuse of events and hooks; checked by mypy, never run.

Each refusal has an ignore with its code, and an ignore that isn't needed is an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
from typing_extensions import assert_type

from trio_modules import App, Backoff, Event, Module, Occurrence, Overflow
from trio_modules.abc import EventStatistics, HookStatistics

source, sink = Module("source"), Module("sink")
numbers = source.event("numbers", int)
lists: Event[list[int]] = source.event("lists")
maybe: Event[int | None] = source.event("maybe")
assert_type(numbers, Event[int])
assert_type(source.event("words", str), Event[str])
assert_type(source.events["numbers"], Event[object])
not_annotated = source.event("nothing")  # type: ignore[var-annotated]
union = source.event("union", int | None)  # type: ignore[arg-type]  # annotate it, as maybe
other_type: Event[str] = source.event("other", int)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- as a decorator


@sink.hook(numbers)
async def of_int(n: int) -> None: ...


@sink.hook(numbers, name="wide", buffer=1, overflow=Overflow.DROP_OLDEST, concurrency=2)
async def of_anything(data: object) -> None: ...


@sink.hook(numbers)
async def of_float(n: float) -> None: ...


@sink.hook(numbers)
async def with_a_result(n: int) -> str:
    return str(n)


@sink.hook(numbers)
async def with_a_default(n: int, word: str = "") -> None: ...


@sink.hook(lists)
async def of_list(some: list[int]) -> None: ...


@sink.hook(maybe)
async def of_maybe(n: int | None) -> None: ...


@sink.hook(numbers, batch=10, retry=Backoff())
async def of_some(some: Sequence[int]) -> None: ...


@sink.hook("source/numbers")
async def by_name(n: int) -> None: ...


@sink.hook("source/numbers", batch=2)
async def by_name_some(some: Sequence[int]) -> None: ...


@sink.hook(numbers)  # type: ignore[arg-type]
async def of_str(word: str) -> None: ...


@sink.hook(maybe)  # type: ignore[arg-type]
async def not_maybe(n: int) -> None: ...


@sink.hook(lists)  # type: ignore[arg-type]
async def of_other_list(some: list[str]) -> None: ...


@sink.hook(numbers)  # type: ignore[arg-type]
async def of_some_without_batch(some: Sequence[int]) -> None: ...


@sink.hook(numbers, batch=10)  # type: ignore[arg-type]
async def of_one_with_batch(n: int) -> None: ...


@sink.hook(numbers, batch=10)  # type: ignore[arg-type]
async def of_some_others(some: Sequence[str]) -> None: ...


@sink.hook(numbers)  # type: ignore[arg-type]
async def of_nothing() -> None: ...


@sink.hook(numbers)  # type: ignore[arg-type]
async def of_two(n: int, word: str) -> None: ...


@sink.hook(numbers)  # type: ignore[arg-type]
def no_async(n: int) -> None: ...


assert_type(with_a_result, Callable[[int], Awaitable[str]])


# ---------------------------------------------------------------------- as a plain call


async def one(n: int) -> None: ...


async def two(n: int, word: str) -> None: ...


async def some_and_word(some: Sequence[int], word: str) -> None: ...


async def text(word: str) -> None: ...


sink.hook(numbers, one)
sink.hook(numbers, two, "word", name="named")
sink.hook(numbers, some_and_word, "word", batch=3)
sink.hook("source/numbers", one, retry=Backoff(initial=1))
sink.hook(numbers, text)  # type: ignore[arg-type]
sink.hook(numbers, some_and_word, "word")  # type: ignore[arg-type]
sink.hook(numbers, print)  # type: ignore[arg-type]
sink.hook(numbers, one, batch=3)  # type: ignore[arg-type]
sink.hook(numbers, one, overflow="drop-oldest")  # type: ignore[call-overload]
sink.hook(3, one)  # type: ignore[call-overload]


# ---------------------------------------------------------------------- use


async def use(app: App) -> None:
    await numbers.trigger(1)
    numbers.trigger_nowait(True)
    await numbers.trigger("a")  # type: ignore[arg-type]
    numbers.trigger_nowait(None)  # type: ignore[arg-type]
    await maybe.trigger(None)
    await lists.trigger([1])
    await lists.trigger(["a"])  # type: ignore[list-item]
    async with numbers.subscribe() as channel:
        assert_type(channel, trio.MemoryReceiveChannel[int])
        assert_type(await channel.receive(), int)
    async with app.subscribe(buffer=3) as occurrences:
        assert_type(await occurrences.receive(), Occurrence)
    sink.inject_event(numbers, "source/numbers", 1)
    sink.inject_event("mine", "source/numbers", 1)
    sink.inject_event(1, "source/numbers", 1)  # type: ignore[arg-type]
    assert_type(numbers.module, Module)
    assert_type(numbers.statistics().triggered, int)
    assert_type(numbers.internal, bool)
    untyped: Event[Any] = source.event("untyped")
    await untyped.trigger("whatever")
    figures: EventStatistics = numbers.statistics()
    assert_type(figures.hooks, tuple[HookStatistics, ...])
    assert_type(figures.closed, tuple[HookStatistics, ...])
