"""Read docstrings in Google style, where types are in the annotations and never in the text.

Napoleon takes the words before a colon for a type, in the docstring of a property and in a section
``Returns``, and doesn't see a property's sections at all. So its own listener is off, and this one
calls its parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.ext.napoleon import GoogleDocstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config


class Docstring(GoogleDocstring):
    """A docstring without types."""

    def _consume_returns_section(
        self, preprocess_types: bool = False
    ) -> list[tuple[str, str, list[str]]]:
        lines = self._dedent(self._consume_to_next_section())
        return [("", "", lines)] if lines else []


def read(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Replace the lines of a docstring by what they mean."""
    kind = "method" if what == "property" else what
    lines[:] = Docstring(lines, app.config, app, kind, name, obj, options).lines()


def silence_napoleon(app: Sphinx, config: Config) -> None:
    """Keep Napoleon's own listener from reading what has been read already."""
    config.napoleon_google_docstring = False
    config.napoleon_numpy_docstring = False


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the listener."""
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("config-inited", silence_napoleon)
    app.connect("autodoc-process-docstring", read)
    return {"parallel_read_safe": True}
