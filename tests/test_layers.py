"""The layers of the package: who may import whom, read from the source alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent.parent / "trio_modules"
DESIGN_PAGE = PACKAGE.parent / "docs" / "design.md"
FACE = "__init__"

# Lowest first. A room imports only from layers above its own line: not sideways, not downwards.
LAYERS: dict[str, tuple[str, ...]] = {
    "ground": ("_version", "_exceptions", "_util"),
    "values": ("_failure", "_reports", "_abc"),
    "pictures": ("_status",),
    "logic": ("_order", "_state", "_backoff", "_schedule", "_cron"),
    "plumbing": ("_context", "_timers", "_broadcast", "_tasktree", "_stepping", "_slots", "_seam"),
    "guard": ("_reporting",),
    "mechanisms": (
        "_workers",
        "_resources",
        "_verdict",
        "_tasks",
        "_events",
        "_lifecycle",
    ),
    "services": ("_services", "_taskboard", "_microtasks", "_elsewhere", "_reading"),
    "work": ("_taskwork", "_hooks"),
    "life": ("_life",),
    "part": ("_part",),
    "module": ("_module", "_block"),
    "app": ("_app",),
    "process": ("_run",),
    "cli": ("_cli",),
    "face": (FACE, "abc"),
    "outside": ("testing", "ext"),
    "program": ("__main__",),
}
LEVELS = {room: level for level, rooms in enumerate(LAYERS.values()) for room in rooms}
FACE_LEVEL = LEVELS[FACE]


def room_of(path: Path) -> str:
    """Return the room that a source file belongs to: its first name below the package."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_names(node: ast.Import | ast.ImportFrom, package: tuple[str, ...]) -> Iterator[str]:
    """Yield the absolute dotted names that one import statement may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = list(package[: len(package) - node.level + 1]) if node.level else []
    base += node.module.split(".") if node.module else []
    for alias in node.names:
        yield ".".join([*base, alias.name])


def rooms_imported_by(source: str, package: tuple[str, ...]) -> set[str]:
    """Return the rooms that a source imports, wherever in the file the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for name in imported_names(node, package):
            top, *rest = name.split(".")
            if top == PACKAGE.name:
                rooms.add(rest[0] if rest and rest[0] in LEVELS else FACE)
    return rooms


def violations(room: str, imported: set[str]) -> list[str]:
    """Return which of the imported rooms are not above the room's own layer."""
    outside = LEVELS[room] > FACE_LEVEL
    own = {room} if outside else set()
    return sorted(other for other in imported - own if LEVELS[other] >= LEVELS[room])


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE.parent).parent.parts


def test_every_room_has_a_layer() -> None:
    """every source file of the package belongs to a room of the table."""
    assert {room_of(path) for path in source_files()} - LEVELS.keys() == set()


def test_no_room_is_in_two_layers() -> None:
    """a room stands once in the table."""
    assert len(LEVELS) == sum(len(rooms) for rooms in LAYERS.values())


def test_the_design_page_shows_the_layers() -> None:
    """the table in the documentation has the same layers with the rooms that exist."""
    existing = {room_of(path) for path in source_files()}
    rows = re.findall(r"^\| (\w+) \| ((?:`\w+` ?)+)\|", DESIGN_PAGE.read_text(), re.MULTILINE)
    shown = {layer: set(re.findall(r"\w+", rooms)) for layer, rooms in rows}
    built = {layer: existing & set(rooms) for layer, rooms in LAYERS.items()}
    assert shown == {layer: rooms for layer, rooms in built.items() if rooms}
    assert list(shown) == [layer for layer in LAYERS if layer in shown]


def test_rooms_import_only_from_layers_above() -> None:
    """no file imports sideways or downwards, under TYPE_CHECKING and in functions included."""
    found = {}
    for path in source_files():
        wrong = violations(room_of(path), rooms_imported_by(path.read_text(), package_of(path)))
        if wrong:
            found[str(path.relative_to(PACKAGE))] = wrong
    assert found == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from trio_modules._app import App", {"_app"}),
        ("import trio_modules._app", {"_app"}),
        ("from trio_modules import _app", {"_app"}),
        ("from trio_modules import App", {FACE}),
        ("import trio_modules", {FACE}),
        ("from ._app import App", {"_app"}),
        ("from . import _app, _run", {"_app", "_run"}),
        ("from . import App", {FACE}),
        ("if TYPE_CHECKING:\n    from ._app import App", {"_app"}),
        ("def lazy():\n    from ._app import App", {"_app"}),
        ("import trio\nfrom collections.abc import Callable", set()),
    ],
)
def test_imports_of_every_form_are_seen(source: str, expected: set[str]) -> None:
    """absolute, relative, conditional and lazy imports are all found."""
    assert rooms_imported_by(source, ("trio_modules",)) == expected


@pytest.mark.parametrize(
    ("room", "imported", "wrong"),
    [
        ("_module", "_workers", []),
        ("_workers", "_module", ["_module"]),
        ("_workers", "_lifecycle", ["_lifecycle"]),
        ("_module", "_block", ["_block"]),
        ("_cli", FACE, [FACE]),
        ("testing", FACE, []),
        ("testing", "testing", []),
    ],
)
def test_the_rule_itself(room: str, imported: str, wrong: list[str]) -> None:
    """upwards is allowed, sideways and downwards are not, and no private room sees the face."""
    assert violations(room, {imported}) == wrong
