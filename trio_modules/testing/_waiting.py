"""Waits with a deadline, which tell a failing test what happened instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import attrs
import trio

from trio_modules import Event, Module, ModuleStatus
from trio_modules._util import check_seconds
from trio_modules.testing._telling import NotInTime, condition, listing, story

__all__ = ["Caught", "expect_event", "next_event", "wait_for_status"]

T = TypeVar("T")

# Of events that the test hasn't looked at yet.
_UNREAD = 100_000


async def wait_for_status(module: Module, status: ModuleStatus, *, within: float = 10.0) -> None:
    """Wait until a module has this status, however briefly, or fail (ours).

    Args:
        module: the module.
        status: what to wait for.
        within: seconds after which the test fails.

    Raises:
        NotInTime: if it takes longer; the message says which status it has instead, what it waits
            for and where its tasks are.

    Cancellation only ends the wait.
    """
    if not isinstance(module, Module):
        raise TypeError(f"module must be a Module, got {module!r}")
    with trio.move_on_after(check_seconds("within", within)):
        await module.wait_status(status)
        return
    # The status may have been reached and left again between the end of the time and here.
    head = f"{condition(module)}, not {status.name} within {within:g} s"
    why = list(story(module)) or ["nothing of it waits, and nothing that it depends on is missing"]
    raise NotInTime(listing(head, why))


@attrs.define
class Caught(Generic[T]):
    """The event that `expect_event` has waited for (ours)."""

    _data: list[T] = attrs.field(factory=list)

    @property
    def data(self) -> T:
        """What it was triggered with.

        Raises:
            RuntimeError: inside of the block, at the end of which it is waited for.
        """
        if not self._data:
            raise RuntimeError("an event is caught at the end of the block of expect_event()")
        return self._data[0]


@asynccontextmanager
async def expect_event(
    event: Event[T], where: Callable[[T], bool] | None = None, *, within: float = 10.0
) -> AsyncIterator[Caught[T]]:
    """Wait at the end of the block for an event that came since its beginning, or fail (ours).

    So it is found, too, if it comes while the block still does what leads to it.

    Args:
        event: which.
        where: takes the data, and says whether it is meant; any by default.
        within: seconds after the end of the block when the test fails.

    Yields:
        what has `Caught.data` after the block.

    Raises:
        NotInTime: if it doesn't come; the message says what came instead.

    Cancellation only ends the wait.
    """
    check_seconds("within", within)
    caught: Caught[T] = Caught()
    others: list[T] = []
    async with event.subscribe(_UNREAD) as channel:
        yield caught
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(within) as scope:
            async for data in channel:
                if where is None or where(data):
                    caught._data.append(data)
                    return
                others.append(data)
    in_time = f"within {within:g} s" if scope.cancelled_caught else "before the app ended"
    head = f"event {event.full_name!r} did not come {in_time} ({condition(event.module)})"
    raise NotInTime(listing(f"{head}; it came with", map(repr, others)))


async def next_event(
    event: Event[T], where: Callable[[T], bool] | None = None, *, within: float = 10.0
) -> T:
    """Wait for an event from here on and return its data, or fail (ours).

    What leads to it has to come later than the call: in another task, or in time. Around what
    leads to it, use `expect_event`.

    Args:
        event: which.
        where: takes the data, and says whether it is meant; any by default.
        within: seconds after which the test fails.

    Raises:
        NotInTime: if it doesn't come; the message says what came instead.

    Cancellation only ends the wait.
    """
    async with expect_event(event, where, within=within) as caught:
        pass
    return caught.data
