"""What the tests of events and hooks share."""

from __future__ import annotations

from typing import Any, TypeVar

import trio

from trio_modules import Event, Module

T = TypeVar("T")


class Gate:
    """A hook that takes an event whenever it is let to."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.seen: list[Any] = []
        self.may = trio.Event()
        if is_open:
            self.may.set()

    async def __call__(self, data: Any) -> None:
        self.seen.append(data)
        await self.may.wait()


def pair(data_type: type[T] | None = None) -> tuple[Module, Module, Event[T]]:
    """Return a module with an event, another one for hooks, and the event."""
    source = Module("source")
    return source, Module("sink"), source.event("event", data_type)


def hook_figures(event: Event[Any], name: str) -> tuple[int, int, int, int, int]:
    """Return what became of the events of one hook."""
    (hook,) = [each for each in event.statistics().hooks if each.hook == name]
    return hook.delivered, hook.dropped, hook.backlog, hook.handling, hook.senders_waiting


def loss_fault(event: Event[Any]) -> str | None:
    """Say which hook has not got, or missed, all that was triggered."""
    figures = event.statistics()
    for hook in figures.hooks:
        parts = (
            hook.delivered,
            hook.dropped,
            hook.backlog,
            hook.handling,
            hook.senders_waiting,
        )
        if sum(parts) != figures.triggered or min(parts) < 0:
            return f"{hook} of {figures.triggered}"
    return None
