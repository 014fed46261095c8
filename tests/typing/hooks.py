"""What the type checker says of hooks: an unused ``ignore`` in here is an error of its own."""

from __future__ import annotations

from collections.abc import Sequence

from trio_modules import Event, Module

source = Module("source")
ticks = source.event("ticks", int)
names: Event[list[str]] = source.event("names")


@source.hook(ticks)
async def fits(number: int) -> None: ...


@source.hook(ticks)
async def fits_too(number: float) -> None: ...


@source.hook(ticks)  # type: ignore[arg-type]
async def takes_another(text: str) -> None: ...


@source.hook(ticks, batch=10)
async def fits_in_a_batch(numbers: Sequence[int]) -> None: ...


@source.hook(ticks, batch=10)  # type: ignore[arg-type]
async def takes_one_of_a_batch(number: int) -> None: ...


@source.hook(names)
async def fits_what_was_noted(names: list[str]) -> None: ...


async def with_argument(number: int, factor: int) -> None: ...


source.hook(ticks, with_argument, 5)


async def of_text(text: str) -> None: ...


source.hook(ticks, of_text)  # type: ignore[arg-type]


async def send() -> None:
    await ticks.trigger(1)
    await ticks.trigger("x")  # type: ignore[arg-type]
    ticks.trigger_nowait(None)  # type: ignore[arg-type]
    async with ticks.subscribe() as channel:
        number: int = await channel.receive()
        text: str = await channel.receive()  # type: ignore[assignment]
        print(number, text)
