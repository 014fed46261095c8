"""What the tests of apps, modules and their lifecycle share."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from trio_modules import Module, ModuleStatus, Restart

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from typing_extensions import override

    from trio_modules import App

    AsyncFn = Callable[[], Awaitable[None]]
else:

    def override(fn: T) -> T:
        return fn


ONE_SHOT = Restart(max_restarts=0)
FOREVER = Restart()


class Trace:
    """What happened, in order, each with its time on Trio's clock."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, str]] = []

    def add(self, what: str) -> None:
        self.entries.append((trio.current_time(), what))

    @property
    def names(self) -> list[str]:
        return [what for _, what in self.entries]

    def only(self, *suffixes: str) -> list[str]:
        """Return what happened that ends with one of the suffixes."""
        return [what for what in self.names if what.endswith(suffixes)]

    def at(self, what: str) -> float:
        """Return when something happened that happened once."""
        (time,) = [time for time, entry in self.entries if entry == what]
        return time

    def step(self, what: str, takes: float = 0, *, raises: BaseException | None = None) -> AsyncFn:
        """Return an async function that is traced when it ends, or with a ! when cancelled."""

        async def run() -> None:
            try:
                await trio.sleep(takes)
            except trio.Cancelled:
                self.add(f"{what}!")
                raise
            self.add(what)
            if raises is not None:
                raise raises

        return run

    def module(
        self,
        name: str,
        *depends_on: Module | str,
        start: float = 0,
        stop: float = 0,
        wants: tuple[Module | str, ...] = (),
        enabled: bool = False,
        start_timeout: float | None = None,
        stop_timeout: float | None = None,
        restart: Restart = ONE_SHOT,
    ) -> Module:
        """Return a module whose prep, start and stop are traced and take their time."""
        return Module(
            name,
            depends_on=depends_on,
            wants=wants,
            prep=self.step(f"{name}.prep"),
            start=self.step(f"{name}.start", start),
            stop=self.step(f"{name}.stop", stop),
            enabled=enabled,
            start_timeout=start_timeout,
            stop_timeout=stop_timeout,
            restart=restart,
        )


def module_with(name: str, **options: Any) -> Module:
    """Return a module with options whose names the test computes."""
    return Module(name, **options)


def raising(error: BaseException, after: float = 0) -> AsyncFn:
    """Return an async function that raises the error, after a time."""

    async def fail() -> None:
        await trio.sleep(after)
        raise error

    return fail


async def stubborn(seconds: float) -> None:
    """Sleep and let no cancellation shorten it."""
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


async def stray_cancelled(reason: str | None = None) -> trio.Cancelled:
    """Return a Cancelled whose scope was left long ago."""
    caught: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel(reason=reason)
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            caught.append(cancelled)
            raise
    return caught[0]


async def drain(channel: AsyncIterator[T]) -> list[T]:
    """Return all that is left in a channel that ended."""
    return [item async for item in channel]


def tasks_living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def notes_of(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it groups and its causes."""
    while error is not None:
        yield error
        for inner in getattr(error, "exceptions", ()):
            yield from chain_of(inner)
        error = error.__cause__


def statuses(app: App) -> dict[str, ModuleStatus]:
    return {name: module.status for name, module in app.modules.items()}


class _Watch(trio.abc.Instrument):
    def __init__(self, check: Callable[[], str | None], broken: list[str]) -> None:
        self.check = check
        self.broken = broken

    @override
    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        fault = self.check()
        if fault is not None:
            self.broken.append(fault)


@contextmanager
def watching(check: Callable[[], str | None]) -> Iterator[list[str]]:
    """Run a check after every step of every task; yield the faults that it found."""
    broken: list[str] = []
    watch = _Watch(check, broken)
    trio.lowlevel.add_instrument(watch)
    try:
        yield broken
    finally:
        trio.lowlevel.remove_instrument(watch)


def order_fault(app: App) -> str | None:
    """Say which module is online while something that it depends on isn't."""
    for module in app.modules.values():
        for dependency in module.dependencies if module.online else ():
            if not dependency.online:
                return f"{module.name} is online while {dependency.name} is not"
    return None
