"""A simulation as text: modules as rows, time across."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import attrs

from trio_modules.testing._trace import TraceEntry, shown_time

__all__ = ["Mark", "Span", "marks_of", "rows_of", "spans_of", "timeline"]

_SIGNS = {"ONLINE": "#", "STARTING": "+", "STOPPING": "-", "PREPARING": "+", "OFFLINE": "."}
#: Of several in one column the first here is shown: what is short has to be seen.
_MARKS = {"violation": "!", "fault": "x", "restart": "r"}
_RANKS = ("!", "x", "r", "-", "+", ".", "#", " ")
_LEGEND = "# online   + starting   - stopping   . offline   x fault   r restart   ! violation"


@attrs.frozen
class Span:
    """A time in which a module has one status."""

    begin: float
    end: float
    status: str


@attrs.frozen
class Mark:
    """Something that happens to a module at a time: a "fault", "restart" or "violation"."""

    time: float
    what: str
    text: str


def spans_of(trace: Iterable[TraceEntry], module: str, end: float) -> Iterator[Span]:
    """The times of each status of a module, in order, until *end*."""
    begin, status = 0.0, ""
    for entry in trace:
        if entry.what == "status" and entry.module == module and entry.time <= end:
            if status:
                yield Span(begin, entry.time, status)
            begin, status = entry.time, entry.text
    if status:
        yield Span(begin, end, status)


def marks_of(trace: Iterable[TraceEntry], module: str, end: float) -> Iterator[Mark]:
    """What happens to a module, or with "" to the app as such, until *end*."""
    for entry in trace:
        if entry.module == module and entry.time <= end:
            if entry.what in _MARKS:
                yield Mark(entry.time, entry.what, entry.text)
            elif entry.what == "failure" and ":restarting" in entry.text:
                yield Mark(entry.time, "restart", entry.text)


def rows_of(trace: Iterable[TraceEntry], modules: Sequence[str]) -> list[str]:
    """The modules that had a part in it, and "" for the app."""
    seen = {entry.module for entry in trace}
    return [*(name for name in modules if name in seen), ""]


def timeline(
    trace: Sequence[TraceEntry], modules: Sequence[str], end: float, width: int, last: int
) -> str:
    """The rows of all modules, an axis, a legend, and the last entries before what is wrong."""
    rows = rows_of(trace, modules)
    margin = max(len(name) for name in (*rows, "-"))
    lines = [f"{name or '-':<{margin}} |{_row(trace, name, end, width)}|" for name in rows]
    until = shown_time(end)
    axis = f"{'':<{margin}}  0{until:>{width - 1}}"
    recent = [str(entry) for entry in _until_violation(trace)[-last:]] if last else []
    return "\n".join([*lines, axis, f"{'':<{margin}}  {_LEGEND}", "", *recent])


def _until_violation(trace: Sequence[TraceEntry]) -> Sequence[TraceEntry]:
    for number, entry in enumerate(trace):
        if entry.what == "violation":
            return trace[: number + 1]
    return trace


def _row(trace: Sequence[TraceEntry], module: str, end: float, width: int) -> str:
    columns: list[set[str]] = [{" "} for _ in range(width)]
    scale = width / end if end else 0.0
    for span in spans_of(trace, module, end):
        first = int(span.begin * scale)
        for column in columns[first : max(math.ceil(span.end * scale), first + 1)]:
            column.add(_SIGNS.get(span.status, " "))
    for mark in marks_of(trace, module, end):
        columns[min(int(mark.time * scale), width - 1)].add(_MARKS[mark.what])
    return "".join(min(column, key=_RANKS.index) for column in columns)
