"""What several test files share."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio
import trio.testing

from trio_modules.testing._scheduling import seeded_scheduling as deterministic_scheduling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio_modules import App, Module, ModuleError

__all__ = [
    "ctrl_c_raises",
    "deterministic_scheduling",
    "fail",
    "let_run",
    "reports_of",
    "stray_cancelled",
    "switch_off",
]


async def let_run() -> None:
    """Let everything run that can."""
    await trio.testing.wait_all_tasks_blocked()


async def switch_off(app: App, module: Module) -> None:
    """Stop one module of a managed app."""
    module.disable()
    await app.manage()


async def stray_cancelled() -> trio.Cancelled:
    """Return a Cancelled whose scope is gone."""
    caught: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            caught.append(error)
            raise
    return caught[0]


async def fail(error: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise error


async def reports_of(app: App, use: Callable[[], Awaitable[object]]) -> list[ModuleError]:
    """Run ``use`` as the app's body and return everything that was reported in that run."""
    async with app.reports() as reports:
        async with app:
            await use()
        return [report async for report in reports]


@contextmanager
def ctrl_c_raises() -> Iterator[None]:
    """Have SIGINT raise in the block: a shell that runs the tests in the background ignores it."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
