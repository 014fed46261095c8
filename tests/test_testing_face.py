"""The face of `trio_modules.testing`: its names, their documentation, their types."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from trio_modules import testing

REFERENCE = Path(__file__).parent.parent / "docs" / "reference.md"


LIST_WHAT_AN_IMPORT_LOADS = """
import sys
import attr, attrs, trio, trio.testing
before = set(sys.modules)
import trio_modules.testing
print(*sorted(set(sys.modules) - before))
"""


def public_callables() -> Iterator[tuple[str, object]]:
    """Yield what can be called or made of the face, and the public methods of its classes."""
    for name in testing.__all__:
        value = getattr(testing, name)
        yield name, value
        if inspect.isclass(value) and not issubclass(value, BaseException):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and callable(member):
                    yield f"{name}.{attribute}", member


def test_the_face_is_what_is_listed() -> None:
    """what can be imported is in __all__, which is sorted, and nothing else is."""
    found = [
        name
        for name, value in vars(testing).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    ]
    assert sorted(found) == sorted(testing.__all__)


def test_public_names_are_documented() -> None:
    """everything public has a docstring of its own."""
    assert [name for name, value in public_callables() if not getattr(value, "__doc__", "")] == []


def test_the_reference_has_every_public_name() -> None:
    """the reference describes the whole face."""
    described = re.findall(
        r"^\.\. auto(?:class|exception|function):: (\w+)", REFERENCE.read_text(), re.MULTILINE
    )
    assert set(described) >= set(testing.__all__)


def test_nothing_public_is_typed_as_any() -> None:
    """neither parameters nor results nor fields say Any."""
    vague = [
        f"{name}: {annotation}"
        for name, value in public_callables()
        for annotation in getattr(value, "__annotations__", {}).values()
        if re.search(r"\bAny\b", str(annotation))
    ]
    assert vague == []


def test_importing_loads_nothing_foreign() -> None:
    """testing needs the standard library, trio, attrs, and what those need."""
    ended = subprocess.run(
        [sys.executable, "-c", LIST_WHAT_AN_IMPORT_LOADS],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in ended.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"trio_modules"}
