"""What happened in a simulation, when and where: the same text for the same seed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

import attrs

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["TraceEntry", "Violation", "leaves", "said", "shown_time", "trace_text"]

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that one is made of: itself, or what is in the group, and causes."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from leaves(inner)
    else:
        yield exc
        if exc.__cause__ is not None:
            yield from leaves(exc.__cause__)


def said(exc: BaseException) -> str:
    """Class and message of an exception, without what differs from run to run."""
    text = _ADDRESS.sub("", str(exc).partition("\n")[0])
    return f"{type(exc).__name__}({text})" if text else type(exc).__name__


def shown_time(seconds: float) -> str:
    """A time of the simulation, for people: "2 d 03:04:05.5", always with whole seconds."""
    thousandths = round(seconds * 1000)
    days, thousandths = divmod(thousandths, 86_400_000)
    hours, thousandths = divmod(thousandths, 3_600_000)
    minutes, thousandths = divmod(thousandths, 60_000)
    rest = f".{thousandths % 1000:03}".rstrip("0").rstrip(".")
    text = f"{hours:02}:{minutes:02}:{thousandths // 1000:02}{rest}"
    return f"{days} d {text}" if days else text


@attrs.frozen
class TraceEntry:
    """One thing that happened in a simulation (ours).

    Attributes:
        time: seconds from its beginning.
        module: the module's name, "" for the app.
        what: "status", "call", "end", "fault", "report", "failure", "app" or "violation".
        text: for people.
    """

    time: float
    module: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.time:14.3f}  {self.module or '-':<12}  {self.what:<9}  {self.text}"


def trace_text(entries: Iterable[TraceEntry]) -> str:
    """The entries, one a line."""
    return "".join(f"{entry}\n" for entry in entries)


@attrs.frozen
class Violation:
    """A promise that was broken in a simulation (ours).

    Attributes:
        time: seconds from its beginning.
        module: the module's name, "" for the app.
        rule: which promise: "order", "overlap", "closed", "stop", "lifespan", "report",
            "cancelled", "counts", "limits", "left", "end", "spin" for those of the framework,
            "check", "bug", "recovery" and "exit" for those of the service.
        text: what happened, for people.
        error: the class of the exception that shows it, "" without one.
    """

    time: float
    module: str
    rule: str
    text: str
    error: str = ""

    def __str__(self) -> str:
        return f"{shown_time(self.time)}: {self.text}"
