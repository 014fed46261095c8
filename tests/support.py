"""What several test files share."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio
import trio.testing
from trio._core import _run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio_modules import App, Module, ModuleError


@contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Make each ``trio.run`` inside schedule its tasks as ``seed`` says."""
    # Trio has no public switch for this; pytest-trio turns the same one for async tests.
    scheduler: Any = _run
    was_deterministic = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    state = scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = was_deterministic
        scheduler._r.setstate(state)


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
