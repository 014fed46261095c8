"""The directive ``lifecycle-table``: how a module is decided, read from the code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.util.docutils import SphinxDirective

from trio_modules import ModuleStatus
from trio_modules._state import TABLE, Action

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx


def decision(status: ModuleStatus, *, wanted: bool) -> str:
    """Return what is done with a module of that status, in words."""
    action, condition = TABLE[status, wanted]
    if action is Action.NOTHING or not condition:
        return action.value
    who, what = condition.split()
    return f"{action.value}, once its {who} are {what}"


def table() -> str:
    """Return the whole table in Markdown, a row per status."""
    rows = ["| status | not wanted | wanted |", "| --- | --- | --- |"]
    for status in ModuleStatus:
        cells = decision(status, wanted=False), decision(status, wanted=True)
        rows.append(f"| `{status.name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


class LifecycleTable(SphinxDirective):
    """Insert the table."""

    def run(self) -> list[nodes.Node]:
        """Return the table as nodes."""
        return self.parse_text_to_nodes(table())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("lifecycle-table", LifecycleTable)
    return {"parallel_read_safe": True}
