"""Makes the hub's files importable as they import each other, and prints the tests' table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HUB = Path(__file__).parents[2] / "examples" / "syslog_hub"
sys.path.insert(0, str(HUB))

TABLE = pytest.StashKey[list[tuple[str, int, int | None, int]]]()


@pytest.fixture
def tabulate(request: pytest.FixtureRequest) -> Callable[[int, int | None, int], None]:
    """Return a function that adds a row (sent, accepted, stored) to the table.

    Nobody knows how much a hub had accepted that was killed: None.
    """
    rows = request.config.stash.setdefault(TABLE, [])
    name = request.node.name

    def add(sent: int, accepted: int | None, stored: int) -> None:
        rows.append((name, sent, accepted, stored))

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table of what was sent to the hub, accepted by it and stored."""
    rows = config.stash.get(TABLE, [])
    if rows:
        terminalreporter.section("syslog hub")
        terminalreporter.write_line(f"{'test':<60}{'sent':>10}{'accepted':>10}{'stored':>10}")
    for name, sent, accepted, stored in rows:
        known = "unknown" if accepted is None else f"{accepted:,}"
        terminalreporter.write_line(f"{name:<60}{sent:>10,}{known:>10}{stored:>10,}")
