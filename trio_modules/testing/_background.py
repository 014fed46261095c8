"""Tasks beside a block that leave its exceptions alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["background"]


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """A nursery that is cancelled when the block ends, and makes no group of what that raises."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except BaseException as exc:  # raised below, where no group is made of it
            failure = exc
        nursery.cancel_scope.cancel(reason="the block beside it has ended")
    if failure is not None:
        raise failure
