"""An app in a test: a test that the app's end cuts short does not pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from trio_modules import App, ModuleStatus
from trio_modules.testing._collecting import Reports
from trio_modules.testing._telling import condition, listing, tasks, works_for

__all__ = ["CutShort", "SomethingLeft", "assert_nothing_left", "running"]


class CutShort(AssertionError):
    """The app went down by itself before the test was over (ours).

    Attributes:
        app: the app's name.
        reason: why it went down.
    """

    def __init__(self, app: str, reason: str | None) -> None:
        super().__init__(f"app {app!r} shut down before the test was over: {reason}")
        self.app = app
        self.reason = reason


class SomethingLeft(AssertionError):
    """Something of an app is alive after its block (ours).

    Attributes:
        app: the app's name.
        left: a description of each.
    """

    def __init__(self, app: str, left: tuple[str, ...]) -> None:
        super().__init__(listing(f"left of app {app!r}", left))
        self.app = app
        self.left = left


@asynccontextmanager
async def running(app: App, *, reports: Reports | None = None) -> AsyncIterator[App]:
    """Run *app* for the length of a block of a test (ours).

    ``async with app:`` ends quietly when the app is shut down from inside, and skips the rest of
    its body, as a program wants it. A test would then pass without its asserts; with this one it
    fails.

    Args:
        app: what runs.
        reports: collects what it reports, and is checked by whoever has made it; by default all
            reports are unexpected, and checked at the end of the block.

    Yields:
        the app.

    Raises:
        CutShort: if the app went down by itself, quietly, before the end of the block was reached.
        UnexpectedReports: if something was reported.
        Exception: what leaves the app's own block: `StartError`, `ModuleCrashed`, the body's own
            exception, and so on; it goes before both, with a note of what was reported.

    Cancellation stops the app in order. A block that itself awaits `App.shutdown` goes on after.
    """
    if reports is not None and not isinstance(reports, Reports):
        raise TypeError(f"reports must be a Reports, got {reports!r}")
    came_to_its_end = False
    with Reports() if reports is None else nullcontext(reports) as collected:
        async with collected.collect(app):
            async with app:
                if not app.shutting_down.is_set():
                    yield app
                    came_to_its_end = True
            if not came_to_its_end:
                raise CutShort(app.name, app.shutdown_reason) from None


def assert_nothing_left(app: App) -> None:
    """Make sure that nothing of *app* is alive, after its block (ours).

    Args:
        app: an app that has ended.

    Raises:
        SomethingLeft: if it still runs, if a module isn't offline or counts work, or if a task
            that one of its modules has begun, anywhere in this run of Trio, goes on.
    """
    status = app.status()
    left = [] if status.state == "offline" else [f"the app is {status.state}"]
    all_tasks = list(tasks())
    for module in app.modules.values():
        work = status.modules[module.name].work
        if module.status > ModuleStatus.OFFLINE or work.running:
            left.append(f"{condition(module)}, and counts {work.running} workers")
        left += [
            f"task {task.name!r} of module {module.name!r}"
            for task in all_tasks
            if works_for(task, module)
        ]
    if left:
        raise SomethingLeft(app.name, tuple(left))
