"""A simulation as a picture: an SVG that stands alone, in a browser or a bug report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from trio_modules.testing._timeline import Mark, Span, marks_of, rows_of, spans_of
from trio_modules.testing._trace import TraceEntry, shown_time

__all__ = ["picture"]

_COLOURS = {
    "ONLINE": "#4c9f70",
    "STARTING": "#e8c547",
    "PREPARING": "#e8c547",
    "STOPPING": "#e08d3c",
    "OFFLINE": "#c9ccd3",
}
_MARKS = {"fault": "#c1272d", "restart": "#3a5a98", "violation": "#8b008b"}
_WIDTH, _MARGIN, _ROW, _BAR, _TOP = 1000.0, 160.0, 26.0, 14.0, 50.0
_TICKS = 8
_FONT = 'font-family="sans-serif" font-size="12"'


def picture(trace: Sequence[TraceEntry], modules: Sequence[str], end: float, title: str) -> str:
    """Modules as rows, time across, states as colours, faults and restarts marked.

    What is under the pointer says what it is.
    """
    rows = rows_of(trace, modules)
    height = _TOP + len(rows) * _ROW + 60
    width = _MARGIN + _WIDTH + 20
    scale = _WIDTH / end if end else 0.0
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" {_FONT}>',
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
        f'<text x="10" y="22" font-size="14">{escape(title)}</text>',
    ]
    for number, module in enumerate(rows):
        lines += _row(trace, module, end, scale, _TOP + number * _ROW)
    lines += _axis(end, scale, _TOP + len(rows) * _ROW)
    lines += _legend(height - 12)
    return "\n".join([*lines, "</svg>", ""])


def _row(
    trace: Sequence[TraceEntry], module: str, end: float, scale: float, y: float
) -> Iterator[str]:
    yield f'<text x="10" y="{y + _BAR - 2:g}">{escape(module or "(app)")}</text>'
    for span in spans_of(trace, module, end):
        yield _bar(span, scale, y)
    for mark in marks_of(trace, module, end):
        yield _sign(mark, scale, y)


def _bar(span: Span, scale: float, y: float) -> str:
    x = _MARGIN + span.begin * scale
    width = max((span.end - span.begin) * scale, 0.5)
    says = f"{span.status} from {shown_time(span.begin)} to {shown_time(span.end)}"
    return (
        f'<rect x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{_BAR:g}" '
        f'fill="{_COLOURS.get(span.status, "#ffffff")}"><title>{says}</title></rect>'
    )


def _sign(mark: Mark, scale: float, y: float) -> str:
    """A triangle for a fault, a line for a restart, a circle for a violation."""
    x = _MARGIN + mark.time * scale
    says = f"<title>{escape(f'{shown_time(mark.time)}: {mark.what} {mark.text}')}</title>"
    colour = _MARKS[mark.what]
    if mark.what == "fault":
        points = f"{x:.2f},{y + 4:g} {x - 4:.2f},{y - 5:g} {x + 4:.2f},{y - 5:g}"
        return f'<polygon points="{points}" fill="{colour}">{says}</polygon>'
    if mark.what == "restart":
        return (
            f'<rect x="{x - 0.75:.2f}" y="{y:g}" width="1.5" height="{_BAR:g}" '
            f'fill="{colour}">{says}</rect>'
        )
    return (
        f'<circle cx="{x:.2f}" cy="{y + _BAR / 2:g}" r="6" fill="none" stroke="{colour}" '
        f'stroke-width="3">{says}</circle>'
    )


def _axis(end: float, scale: float, y: float) -> Iterator[str]:
    for number in range(_TICKS + 1):
        time = end * number / _TICKS
        x = _MARGIN + time * scale
        anchor = "end" if number == _TICKS else "middle"
        yield (f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{_TOP - 6:g}" y2="{y:g}" stroke="#00000022"/>')
        yield f'<text x="{x:.2f}" y="{y + 14:g}" text-anchor="{anchor}">{shown_time(time)}</text>'


def _legend(y: float) -> Iterator[str]:
    x = _MARGIN
    for text, colour in {
        "online": _COLOURS["ONLINE"],
        "starting": _COLOURS["STARTING"],
        "stopping": _COLOURS["STOPPING"],
        "offline": _COLOURS["OFFLINE"],
        **_MARKS,
    }.items():
        yield f'<rect x="{x:g}" y="{y - 10:g}" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 17:g}" y="{y:g}">{text}</text>'
        x += 100
