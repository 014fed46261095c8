"""The directives of the page on benchmarks, which read the figures that the repository keeps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

# Behind all others, so that the package that is documented stays the installed one.
sys.path.append(str(Path(__file__).parents[2]))

from benchmarks import page, picture

if TYPE_CHECKING:
    from sphinx.application import Sphinx

NOT_MEASURED = "No figures of this are kept at present."


def results(record: page.Record) -> str:
    """Return how it was measured, the table, and who is missing."""
    parts = [page.circumstances(record), page.results_table(record), page.missing_peers(record)]
    return "\n\n".join(part for part in parts if part)


TABLES = {
    "results": (page.RESULTS, results),
    "scaling": (page.SCALING, page.scaling_table),
    "counts": (page.COUNTS, page.counts_table),
}
PICTURES = {
    "results": (page.RESULTS, picture.ratios_picture),
    "scaling": (page.SCALING, picture.curves_picture),
}


class BenchmarkTable(SphinxDirective):
    """Insert a table of what was measured: ``results``, ``scaling`` or ``counts``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table as nodes."""
        path, table_of = TABLES[self.arguments[0]]
        text = table_of(page.load(path)) if path.exists() else NOT_MEASURED
        return self.parse_text_to_nodes(text)


class BenchmarkPicture(SphinxDirective):
    """Insert a picture of what was measured: ``results`` or ``scaling``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the picture as it is."""
        path, picture_of = PICTURES[self.arguments[0]]
        if not path.exists():
            return []
        return [nodes.raw("", picture_of(page.load(path)), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives, and rebuild the page when the figures change."""
    app.add_directive("benchmark-table", BenchmarkTable)
    app.add_directive("benchmark-picture", BenchmarkPicture)
    return {"parallel_read_safe": True}
