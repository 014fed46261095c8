"""An app in a test: a test that the app's end cuts short does not pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from weakref import WeakKeyDictionary

import trio

from trio_modules import App, Module, ModuleStatus
from trio_modules._context import HasMainTask, owner_of
from trio_modules._util import check_seconds
from trio_modules.testing._background import background
from trio_modules.testing._collecting import Reports
from trio_modules.testing._scheduling import all_tasks, break_shields
from trio_modules.testing._telling import condition, listing, story, works_for
from trio_modules.testing._trace import leaves

__all__ = ["CutShort", "NoEnd", "SomethingLeft", "assert_nothing_left", "running"]


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


class NoEnd(AssertionError):
    """The app began to shut down, and did not end until it was taken down by force (ours).

    Attributes:
        app: the app's name.
        hanging: what did not end, and where it was waiting.
    """

    def __init__(self, app: str, within: float, hanging: tuple[str, ...]) -> None:
        head = f"app {app!r} did not end within {within:g} s of the beginning of its shutdown"
        super().__init__(listing(head, hanging))
        self.app = app
        self.hanging = hanging


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
async def running(
    app: App, *, reports: Reports | None = None, stop_within: float = 300.0
) -> AsyncIterator[App]:
    """Run *app* for the length of a block of a test (ours).

    ``async with app:`` ends quietly when the app is shut down from inside, and skips the rest of
    its body, as a program wants it. A test would then pass without its asserts; with this one it
    fails.

    Args:
        app: what runs.
        reports: collects what it reports, and is checked by whoever has made it; by default all
            reports are unexpected, and checked at the end of the block.
        stop_within: seconds that its shutdown may take, until what is left of it is cancelled
            through all shields, and the test fails.

    Yields:
        the app.

    Raises:
        CutShort: if the app went down by itself, quietly, before the end of the block was reached.
        NoEnd: if it didn't end; the message says what was hanging where.
        UnexpectedReports: if something was reported.
        Exception: what leaves the app's own block: `trio_modules.StartError`,
            `trio_modules.ModuleCrashed`, the body's own exception, and so on; it goes before the
            others, with a note of what was reported.

    Cancellation stops the app in order. A block that itself awaits `trio_modules.App.shutdown`
    goes on after.
    """
    if not isinstance(app, App):
        raise TypeError(f"app must be an App, got {app!r}")
    if reports is not None and not isinstance(reports, Reports):
        raise TypeError(f"reports must be a Reports, got {reports!r}")
    ending = _Ending(app, check_seconds("stop_within", stop_within))
    came_to_its_end = False
    with _witnessed(app), Reports() if reports is None else nullcontext(reports) as collected:
        try:
            async with collected.collect(app), ending.watched(), app:
                if not app.shutting_down.is_set():
                    yield app
                    came_to_its_end = True
        except trio.Cancelled:
            if came_to_its_end or not ending.came_first:
                raise
        if not came_to_its_end:
            raise CutShort(app.name, app.shutdown_reason) from None


class _Ending:
    """Sees to it that an app ends in time once its shutdown has begun.

    Attributes:
        came_first: whether it has, before there was a cancellation from outside.
    """

    def __init__(self, app: App, within: float) -> None:
        self.came_first = False
        self._app = app
        self._shutting_down = app.shutting_down
        self._within = within
        self._hanging: list[str] = []
        self._watching = trio.CancelScope(shield=True)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Around the run of the app: raises `NoEnd` after a block that had to be ended by force."""
        try:
            async with background() as nursery:
                nursery.start_soon(self._watch)
                try:
                    yield
                finally:
                    self._watching.cancel(reason="the app has ended")
        except BaseException as exc:
            if not self._hanging or not _may_be_replaced(exc):
                raise
        if self._hanging:
            raise NoEnd(self._app.name, self._within, tuple(self._hanging))

    async def _watch(self) -> None:
        try:
            await self._shutting_down.wait()
            self.came_first = True
        except trio.Cancelled:
            pass  # the app gets it as well, and begins to shut down; its task raises it
        with self._watching:
            await self._shutting_down.wait()
            await trio.sleep(self._within)
            await self._end_by_force()

    async def _end_by_force(self) -> None:
        for module in self._alive():
            self._hanging += [condition(module), *story(module)]
        while alive := self._alive():  # what is cancelled may enter one more shield
            for module in alive:
                tasks = [task for task in all_tasks() if works_for(task, module)]
                break_shields(tasks, "the app did not end in time")
            await trio.sleep(1)

    def _alive(self) -> list[Module]:
        modules = self._app.modules.values()
        return [module for module in modules if module.status > ModuleStatus.OFFLINE]


def _may_be_replaced(exc: BaseException) -> bool:
    return all(isinstance(leaf, (Exception, trio.Cancelled)) for leaf in leaves(exc))


#: Whose tasks end with the run of Trio by their nature: it closes the processes that are kept.
_FOR_THE_RUN = "trio_parallel."


class _Witness(trio.abc.Instrument):
    """Sees who begins which task: a context tells that only of some.

    A worker that was started from the body has no owner in its context, and so has nothing that
    it begins in a nursery of others; a system task has no context of anybody's.

    Attributes:
        begun: the tasks that a module's code has begun, and by which module, while they go on.
    """

    def __init__(self, app: App) -> None:
        self._modules = app.modules
        self.begun: dict[trio.lowlevel.Task, str] = {}

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        try:
            by = trio.lowlevel.current_task()
        except RuntimeError:
            return
        name = self.begun.get(by) or self._name_of(owner_of(by))
        if name and not task.name.startswith(_FOR_THE_RUN):
            self.begun[task] = name

    def _name_of(self, owner: HasMainTask | None) -> str:
        """The name of a module, if it is one of the app's."""
        if owner is None:
            return ""
        module = self._modules.get(owner.name)
        return owner.name if module is not None and module._module_part is owner else ""

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self.begun.pop(task, None)


_witnesses: WeakKeyDictionary[App, _Witness] = WeakKeyDictionary()


@contextmanager
def _witnessed(app: App) -> Iterator[None]:
    _witnesses[app] = witness = _Witness(app)
    trio.lowlevel.add_instrument(witness)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(witness)


def assert_nothing_left(app: App) -> None:
    """Make sure that nothing of *app* is alive, after its block (ours).

    Of an app that ran in `running`, or in the fixture, it is known who began which task. Of
    another, a task is known by its context alone: not if it is a system task, nor if a worker
    began it that was itself started from the body.

    Args:
        app: an app that has ended.

    Raises:
        SomethingLeft: if it still runs, if a module isn't offline or counts work, or if a task
            that one of its modules has begun, anywhere in this run of Trio, goes on.
    """
    status = app.status()
    left = [] if status.state == "offline" else [f"the app is {status.state}"]
    for module in app.modules.values():
        work = status.modules[module.name].work
        if module.status > ModuleStatus.OFFLINE or work.running:
            left.append(f"{condition(module)}, and counts {work.running} workers")
    left += [
        f"task {task.name!r} of module {name!r}"
        for task in all_tasks()
        if (name := _who_began(task, app)) is not None
    ]
    if left:
        raise SomethingLeft(app.name, tuple(left))


def _who_began(task: trio.lowlevel.Task, app: App) -> str | None:
    """The name of the module of *app* that has, None if none did."""
    witness = _witnesses.get(app)
    if witness is not None and task in witness.begun:
        return witness.begun[task]
    owners = (module.name for module in app.modules.values() if works_for(task, module))
    return next(owners, None)
