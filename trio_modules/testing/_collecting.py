"""The reports that come in during a test, and which of them the test has foreseen."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, overload

import attrs
import trio

from trio_modules import App, Module, ModuleError
from trio_modules._exceptions import BaseExceptionGroup, add_note
from trio_modules._util import check_seconds
from trio_modules.testing._telling import NotInTime, listing

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MissingReports", "Reports", "UnexpectedReports"]

# Of reports that nobody has read yet; what a test leaves unread for longer loses the oldest.
_UNREAD = 100_000


class UnexpectedReports(AssertionError):
    """Something was reported that the test has not foreseen (ours).

    Its cause is the exception of the first of them.

    Attributes:
        reports: those.
    """

    def __init__(self, reports: tuple[ModuleError, ...]) -> None:
        super().__init__(listing(f"{_counted(reports)} not expected", map(_line, reports)))
        self.reports = reports


class MissingReports(AssertionError):
    """Something was not reported that the test expects (ours).

    Attributes:
        expected: a description of each that did not come.
        reports: what was reported instead.
    """

    def __init__(self, expected: tuple[str, ...], reports: tuple[ModuleError, ...]) -> None:
        what = listing("expected, but not reported", expected)
        instead = listing("reported instead", map(_line, reports)) if reports else "no report came"
        super().__init__(f"{what}\n{instead}")
        self.expected = expected
        self.reports = reports


@attrs.define(eq=False)
class _Foreseen:
    """A kind of report that the test knows of."""

    errors: tuple[type[BaseException], ...]
    match: str | None
    module: str | None
    demanded: bool
    came: bool = False

    def fits(self, report: ModuleError) -> bool:
        """Whether the report is of this kind."""
        if self.module is not None and report.module != self.module:
            return False
        if self.errors and not _consists_of(report.exception, self.errors):
            return False
        return self.match is None or re.search(self.match, report.message) is not None

    def __str__(self) -> str:
        what = " or ".join(error.__name__ for error in self.errors) or "a report"
        match = "" if self.match is None else f" that matches {self.match!r}"
        return what + match + ("" if self.module is None else f" of module {self.module!r}")


class Reports(Sequence[ModuleError]):
    """What apps report in the course of a test (ours).

    A sequence: each is a `trio_modules.ModuleError`, the oldest first. As a context manager it
    makes sure at the end of its block that all were foreseen, by `expect`, `allow` or `wait_for`;
    those of severity "info" need not be. When the block raises anyway, a note on the exception
    tells what else was reported.

    The plugin's fixture ``reports`` is one, checked at the end of the test.
    """

    def __init__(self) -> None:
        self._foreseen: list[_Foreseen] = []
        self._found: list[ModuleError] = []
        self._waited_for: set[ModuleError] = set()
        self._channels: list[trio.MemoryReceiveChannel[ModuleError]] = []

    def __repr__(self) -> str:
        return f"<Reports: {len(self)}, {len(self.unexpected)} not expected>"

    # ------------------------------------------------------------ what came

    @asynccontextmanager
    async def collect(self, app: App) -> AsyncIterator[None]:
        """Take in what *app* reports during a block; `running` does that for its app.

        Args:
            app: enter it inside of the block.
        """
        async with app.reports(_UNREAD) as channel:
            self._channels.append(channel)
            try:
                yield
            finally:
                self._read()
                self._channels.remove(channel)

    def _read(self) -> None:
        for channel in self._channels:
            with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                while True:
                    self._found.append(channel.receive_nowait())

    @overload
    def __getitem__(self, index: int) -> ModuleError: ...
    @overload
    def __getitem__(self, index: slice) -> list[ModuleError]: ...
    def __getitem__(self, index: int | slice) -> ModuleError | list[ModuleError]:
        self._read()
        return self._found[index]

    def __len__(self) -> int:
        self._read()
        return len(self._found)

    def __iter__(self) -> Iterator[ModuleError]:
        self._read()
        return iter(tuple(self._found))

    # ------------------------------------------------------------ what should come

    def expect(
        self,
        *errors: type[BaseException],
        match: str | None = None,
        module: Module | str | None = None,
    ) -> None:
        """Demand a report, at least one; the test fails if it doesn't come.

        Args:
            errors: classes of the reported exception: of itself, or of all in a group; anything
                by default.
            match: a regular expression to be found in the report's message.
            module: the module that it has to be of, or its name.
        """
        self._foreseen.append(_foreseen(errors, match, module, demanded=True))

    def allow(
        self,
        *errors: type[BaseException],
        match: str | None = None,
        module: Module | str | None = None,
    ) -> None:
        """Let such reports pass, none or many.

        Args:
            errors: as of `expect`.
            match: as of `expect`.
            module: as of `expect`.
        """
        self._foreseen.append(_foreseen(errors, match, module, demanded=False))

    async def wait_for(
        self,
        *errors: type[BaseException],
        match: str | None = None,
        module: Module | str | None = None,
        within: float = 10.0,
    ) -> ModuleError:
        """Wait for a report and return it; those like it are expected from now on.

        Each report is returned once, the oldest first, also if it came before the call.

        Args:
            errors: as of `expect`.
            match: as of `expect`.
            module: as of `expect`.
            within: seconds after which the test fails.

        Raises:
            NotInTime: if it doesn't come; the message says what came instead.

        Cancellation only ends the wait.
        """
        wanted = _foreseen(errors, match, module, demanded=False)
        self._foreseen.append(wanted)
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(check_seconds("within", within)):
            while (found := self._next(wanted)) is None:
                await self._receive()
            return found
        reports = map(_line, self)
        raise NotInTime(listing(f"no report of {wanted} within {within:g} s, but", reports))

    def _next(self, wanted: _Foreseen) -> ModuleError | None:
        for report in self:
            if report not in self._waited_for and wanted.fits(report):
                self._waited_for.add(report)
                return report
        return None

    async def _receive(self) -> None:
        """Wait for one more report of any app."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)  # all apps may have ended
            for channel in self._channels:
                nursery.start_soon(self._receive_from, channel, nursery.cancel_scope)

    async def _receive_from(
        self, channel: trio.MemoryReceiveChannel[ModuleError], others: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.EndOfChannel):
            self._found.append(await channel.receive())
            others.cancel(reason="a report came")

    # ------------------------------------------------------------ the judgement

    @property
    def unexpected(self) -> tuple[ModuleError, ...]:
        """Those that were not foreseen."""
        return tuple(report for report in self if not self._is_foreseen(report))

    def _is_foreseen(self, report: ModuleError) -> bool:
        return report.severity == "info" or any(each.fits(report) for each in self._foreseen)

    def check(self) -> None:
        """Make sure that what came was foreseen, and that what was expected came.

        Raises:
            UnexpectedReports: if something was not.
            MissingReports: if something didn't.
        """
        __tracebackhide__ = True
        if unexpected := self.unexpected:
            raise UnexpectedReports(unexpected) from unexpected[0].exception
        if missing := [str(each) for each in self._foreseen if self._is_missing(each)]:
            raise MissingReports(tuple(missing), tuple(self))

    def _is_missing(self, foreseen: _Foreseen) -> bool:
        return foreseen.demanded and not any(map(foreseen.fits, self))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if exc is None:
            self.check()
        elif unexpected := self.unexpected:
            add_note(exc, listing("besides, reported", map(_line, unexpected)))


def _foreseen(
    errors: tuple[type[BaseException], ...],
    match: str | None,
    module: Module | str | None,
    *,
    demanded: bool,
) -> _Foreseen:
    for error in errors:
        if not _is_exception_class(error):
            raise TypeError(f"errors must be classes of exceptions, got {error!r}")
    if match is not None:
        re.compile(match)
    name = module.name if isinstance(module, Module) else module
    return _Foreseen(errors, match, name, demanded)


def _is_exception_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _consists_of(exc: BaseException | None, errors: tuple[type[BaseException], ...]) -> bool:
    if isinstance(exc, errors):
        return True
    if not isinstance(exc, BaseExceptionGroup):
        return False
    return all(_consists_of(inner, errors) for inner in exc.exceptions)


def _counted(reports: tuple[ModuleError, ...]) -> str:
    return "1 report was" if len(reports) == 1 else f"{len(reports)} reports were"


def _line(report: ModuleError) -> str:
    return f"{report.severity} in {report.task_type} {report}, at {report.time:g} s"
