"""How the documentation is built."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from trio_modules._version import __version__

project = "trio-modules"
author = "The trio_modules authors"
copyright = author
version = release = __version__

extensions = [
    "benchmark_results",
    "docstrings",
    "lifecycle",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinxcontrib_trio",
]
myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "py:obj"

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 88

# A build needs no network, so what belongs to others is not linked; type variables have no page.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|contextlib|datetime|enum|logging|random|trio|types|typing)\..*"),
    ("py:obj", r"repr"),
    ("py:.*", r"(.*\.)?(ArgsT|FnT|ModuleT|P|R|T)"),
    ("py:class", r"datetime|tzinfo|(.*\.)?BaseEvent"),  # as their annotations have them
]

html_theme = "furo"
html_title = f"trio-modules {version}"
