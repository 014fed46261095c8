"""Pictures of the results, in SVG: the ratios of all works, and the curves of the scaling run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

Record = Mapping[str, Any]

WIDTH = 900
FONT = "font-family='sans-serif' font-size='12'"
INK, FAINT = "#222222", "#dddddd"
OURS, GOAL = "#0b5fb0", "#c0392b"
PEER_COLOURS = (
    "#7f8c8d", "#e67e22", "#27ae60", "#8e44ad", "#b7950b", "#16a085", "#e84393", "#6d4c41",
)  # fmt: skip

# Of the picture of ratios.
LABELS, ROW, TOP = 300, 24, 84
# Of the curves: two columns, a row for each of those who scale.
PANEL_WIDTH, PANEL_HEIGHT, LEFT, GAP = 330, 150, 90, 60
CURVES = {"ours": OURS, "floor": "#7f8c8d", "least": "#e67e22"}


def ratios(record: Record, work: Record) -> dict[str, float]:
    """Return what each that took part costs, divided by what the floor costs."""
    medians = {name: statistics.median(costs) for name, costs in work["costs"].items()}
    floor = medians.pop("floor")
    order = ["ours", *record["peers"]]
    return {name: medians[name] / floor for name in order if name in medians}


def document(height: float, parts: Iterable[str]) -> str:
    size = f"viewBox='0 0 {WIDTH} {height:g}' style='max-width: {WIDTH}px; width: 100%'"
    background = f"<rect width='{WIDTH}' height='{height:g}' fill='white'/>"
    lines = [f"<svg xmlns='http://www.w3.org/2000/svg' {size} {FONT}>", background, *parts]
    return "\n".join([*lines, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = INK) -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}'"
    return f"<text {place}>{escape(words)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    ends = f"x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'"
    return f"<line {ends} stroke='{colour}' stroke-width='{width:g}'/>"


def dot(x: float, y: float, radius: float, colour: str, tip: str) -> str:
    place = f"cx='{x:.1f}' cy='{y:.1f}' r='{radius:g}' fill='{colour}'"
    return f"<circle {place}><title>{escape(tip)}</title></circle>"


def log_scale(low: float, high: float, start: float, length: float) -> Callable[[float], float]:
    span = math.log(high / low)
    return lambda value: start + length * math.log(value / low) / span


def decades(low: float, high: float) -> list[float]:
    """Return the powers of ten that are not below *low* nor above *high*."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)]


def around(values: Iterable[float]) -> tuple[float, float]:
    """Return the powers of ten that enclose the values, at least one apart."""
    logs = [math.log10(value) for value in values]
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return 10.0**low, 10.0 ** max(high, low + 1)


def ratios_picture(record: Record) -> str:
    """Draw a row for each work: ours, its goal and the peers, as multiples of the floor."""
    rows = [(work, ratios(record, work)) for work in record["works"]]
    goals = [work["goal"] for work, _ in rows if work["goal"]]
    shown = [1.0, *goals, *(each for _, row in rows for each in row.values())]
    low, high = min(shown) / 1.5, max(shown) * 1.5
    place = log_scale(low, high, LABELS, WIDTH - LABELS - 30)
    bottom = TOP + ROW * len(rows)
    parts = [*legend(record), *grid(place, decades(low, high), bottom)]
    for number, (work, row) in enumerate(rows):
        parts += marks(record, work, row, place, TOP + ROW * (number + 0.5))
    return document(bottom + 30, parts)


def legend(record: Record) -> list[str]:
    parts = [text(16, 24, "cost as a multiple of the floor in raw Trio (log scale; left is less)")]
    x = 16.0
    for name, colour in {"ours": OURS, **colours(record)}.items():
        parts += [dot(x + 5, 46, 5, colour, name), text(x + 15, 50, name)]
        x += 30 + 7.5 * len(name)
    return [*parts, line(x + 5, 39, x + 5, 53, GOAL, 3), text(x + 15, 50, "goal")]


def colours(record: Record) -> dict[str, str]:
    return dict(zip(record["peers"], PEER_COLOURS, strict=False))


def grid(place: Callable[[float], float], ticks: Sequence[float], bottom: float) -> list[str]:
    parts = []
    for tick in ticks:
        x = place(tick)
        is_floor = tick == 1
        parts.append(line(x, TOP, x, bottom, INK if is_floor else FAINT))
        words = "floor" if is_floor else f"{tick:g}"
        parts.append(text(x, TOP - 8, words, anchor="middle"))
    return parts


def marks(
    record: Record,
    work: Record,
    row: Mapping[str, float],
    place: Callable[[float], float],
    y: float,
) -> list[str]:
    parts = [
        line(16, y + ROW / 2, WIDTH - 16, y + ROW / 2, FAINT, 0.5),
        text(16, y + 4, work["title"]),
    ]
    if work["goal"]:
        x = place(work["goal"])
        parts.append(line(x, y - 9, x, y + 9, GOAL, 3))
    for name, colour in colours(record).items():
        if name in row:
            parts.append(dot(place(row[name]), y, 4, colour, f"{name}: {row[name]:.2f}"))
    return [*parts, dot(place(row["ours"]), y, 6, OURS, f"ours: {row['ours']:.2f}")]


def curves_picture(record: Record) -> str:
    """Draw for each that scales what an item costs and holds, over the number of items."""
    parts = [
        text(16, 24, "what an item costs and holds, over the number of items (log scales)"),
        *key(16, 46),
    ]
    for number, curve in enumerate(record["curves"]):
        column, row = number % 2, number // 2
        left = LEFT + column * (PANEL_WIDTH + LEFT + 20)
        parts += panel(curve, left, 90 + row * (PANEL_HEIGHT + GAP))
    rows = (len(record["curves"]) + 1) // 2
    return document(90 + rows * (PANEL_HEIGHT + GAP), parts)


def key(x: float, y: float) -> list[str]:
    return [
        dot(x + 5, y - 4, 5, OURS, "ours"),
        text(x + 15, y, "ours"),
        dot(x + 65, y - 4, 5, CURVES["floor"], "raw Trio"),
        text(x + 75, y, "raw Trio"),
        dot(x + 145, y - 4, 5, CURVES["least"], "least"),
        text(x + 155, y, "the plainest code with the same promises"),
        text(x + 415, y, "dashed: with the garbage collector off"),
    ]


def drawn_series(curve: Record) -> list[tuple[str, list[float], str, str]]:
    """Return the lines of a panel: name, values, colour, and how it is dashed."""
    series = [(name, curve[name], colour, "") for name, colour in CURVES.items() if name in curve]
    for name, values in curve.get("collector off", {}).items():
        tip = f"{name}, collector off"
        series.append((tip, values, CURVES[name], " stroke-dasharray='4 3'"))
    return series


def panel(curve: Record, left: float, top: float) -> list[str]:
    sizes = [float(size) for size in curve["sizes"]]
    series = drawn_series(curve)
    low, high = around([value for _, values, _, _ in series for value in values])
    across = log_scale(min(sizes), max(sizes), left, PANEL_WIDTH)
    up = log_scale(low, high, top + PANEL_HEIGHT, -PANEL_HEIGHT)
    parts = [text(left, top - 10, f"{curve['title']}, {curve['unit']}")]
    for tick in decades(low, high):
        y = up(tick)
        parts += [
            line(left, y, left + PANEL_WIDTH, y, FAINT),
            text(left - 8, y + 4, f"{tick:g}", anchor="end"),
        ]
    for size in sizes:
        x, bottom = across(size), top + PANEL_HEIGHT
        words = f"{int(size):,}"
        parts += [line(x, top, x, bottom, FAINT), text(x, bottom + 16, words, anchor="middle")]
    for name, values, colour, dashes in series:
        points = [(across(size), up(value)) for size, value in zip(sizes, values, strict=True)]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f"<polyline points='{corners}' fill='none' stroke='{colour}'{dashes}/>")
        tips = [f"{name}: {value:g} {curve['unit']}" for value in values]
        parts += [dot(x, y, 3, colour, tip) for (x, y), tip in zip(points, tips, strict=True)]
    return parts
