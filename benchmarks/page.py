"""The tables of the documentation, from the figures that the repository keeps."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.picture import ratios

Record = Mapping[str, Any]

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
SCALING = HERE / "scaling.json"
COUNTS = HERE / "counts.json"
# A curve that grows by no more than this is flat.
FLAT = 1.5


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(directory: Path, name: str, record: Record, picture: str) -> None:
    """Write the figures and their picture, and say where."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (directory / f"{name}.svg").write_text(picture, encoding="utf-8")
    print(f"written: {directory / name}.json and .svg")


def table(head: list[str], rows: list[list[str]], *, numbers_from: int = 1) -> str:
    """Return a table in Markdown whose columns from *numbers_from* on are aligned to the right."""
    rule = ["---" if column < numbers_from else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def circumstances(record: Record) -> str:
    """Return one sentence on where and how the figures were measured."""
    peers = ", ".join(f"{name} {version}" for name, version in record["peers"].items())
    clock = "CPU time" if record["clock"] == "processor" else "wall-clock time"
    quick = ", once and at a tenth of the sizes," if record["quick"] else ""
    return (
        f"Measured as {clock}{quick} with Python {record['python']} and Trio {record['trio']} on"
        f" {record['machine']}, beside {peers or 'no peers'}."
    )


def results_table(record: Record) -> str:
    """Return a row for each work: what ours and the floor cost, and the ratios of all."""
    head = ["work", "ours", "floor", "ours / floor", "spread", "goal", "peers / floor"]
    return table(head, [results_row(record, work) for work in record["works"]])


def results_row(record: Record, work: Record) -> list[str]:
    row = ratios(record, work)
    ours, floor = work["costs"]["ours"], work["costs"]["floor"]
    each = [mine / other for mine, other in zip(ours, floor, strict=True)]
    goal = "" if work["goal"] is None else f"{work['goal']:.2f}"
    ratio = f"{row['ours']:.2f}"
    return [
        work["title"],
        shown(ours, work["unit"]),
        shown(floor, work["unit"]),
        f"**{ratio}**" if goal and row["ours"] > work["goal"] else ratio,
        f"{min(each):.2f} to {max(each):.2f}",
        goal,
        peers_cell(work, row),
    ]


def shown(costs: list[float], unit: str) -> str:
    median = statistics.median(costs)
    return f"{median:,.0f} {unit}" if median >= 100 else f"{median:.2f} {unit}"


def peers_cell(work: Record, row: Mapping[str, float]) -> str:
    cells = []
    for name, ratio in row.items():
        if name != "ours":
            size = work["sizes"][name]
            fewer = f" (of {size:,})" if size != work["sizes"]["ours"] else ""
            cells.append(
                f"{name} {ratio:.2g}{fewer}" if ratio < 10 else f"{name} {ratio:.0f}{fewer}"
            )
    cells += [f"{name} failed: {reason}" for name, reason in work["failed"].items()]
    return ", ".join(cells)


def missing_peers(record: Record) -> str:
    """Return a sentence for each peer that took no part."""
    return "\n".join(f"- {name} took no part: {why}" for name, why in record["missing"].items())


def scaling_table(record: Record) -> str:
    """Return rows for each curve, with and without the collector: its values, if it is flat."""
    head = ["curve", "sizes", "ours", "grows by", "raw Trio", "grows by"]
    head += ["plainest with the promises", "grows by", "flat within 1.5"]
    rows = []
    for curve in record["curves"]:
        sizes = f"{curve['sizes'][0]:,} to {curve['sizes'][-1]:,}"
        name = f"{curve['title']}, {curve['unit']}"
        rows.append([name, sizes, *scaling_cells(curve)])
        if "collector off" in curve:
            rows.append([f"{name}, collector off", sizes, *scaling_cells(curve["collector off"])])
    return table(head, rows)


def scaling_cells(values: Mapping[str, list[float]]) -> list[str]:
    cells = []
    for who in ("ours", "floor", "least"):
        series = values.get(who, [])
        cells.append(" ".join(f"{value:.3g}" for value in series))
        cells.append(f"{growth(series):.2f}" if series else "")
    return [*cells, "yes" if growth(values["ours"]) <= FLAT else "no"]


def growth(values: list[float]) -> float:
    """Return by how much an item costs more than where it costs least before: 1 if never."""
    least, most = values[0], 1.0
    for value in values:
        least = min(least, value)
        most = max(most, value / least)
    return most


def counts_table(counts: Record) -> str:
    """Return a row for each hot path: instructions of ours and of the floor, for each Python."""
    head = ["hot path", *(f"Python {version}" for version in counts)]
    paths = list(dict.fromkeys(path for each in counts.values() for path in each["paths"]))
    return table(
        head, [[path, *(count_cell(each, path) for each in counts.values())] for path in paths]
    )


def count_cell(counts: Record, path: str) -> str:
    count = counts["paths"].get(path)
    if count is None:
        return ""
    return f"{count['ours']:,} / {count['floor']:,} = {count['ours'] / count['floor']:.2f}"
