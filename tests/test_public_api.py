"""The face of the package: its names, their documentation, their types, what importing costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import trio_modules
import trio_modules.testing
from trio_modules import abc

if TYPE_CHECKING:
    from collections.abc import Iterator

FACE = frozenset({
    "App", "AppStatus", "Backoff", "Change", "CleanExit", "Event", "EventDeadlock",
    "FailureLevel", "FailureStatus", "GraphError", "Module", "ModuleCrashed", "ModuleError",
    "ModuleOffline", "ModuleStatus", "Occurrence", "Overflow", "Priority", "Resource",
    "Restart", "RestartModule", "RestartNow", "Retry", "ServiceWorker", "ShutdownError",
    "StartError", "StopError", "Task", "TaskCancelled", "TaskFailed", "UndeclaredDependency",
    "current_app", "current_module", "is_panic", "run", "serve", "supervise",
})  # fmt: skip
PACKAGE = Path(trio_modules.__file__).parent
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Definition = FunctionNode | ast.ClassDef


@cache
def definitions() -> dict[str, Definition]:
    """Return the functions and classes at the top level of the package's files, by name."""
    found: dict[str, Definition] = {}
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, Definition):
                found[node.name] = node
    return found


def classes_behind(name: str) -> list[ast.ClassDef]:
    """Return the class of a public name and its bases as far as they are the package's own."""
    found = []
    for base in getattr(trio_modules, name).__mro__:
        node = definitions().get(base.__name__)
        if base.__module__.startswith("trio_modules") and isinstance(node, ast.ClassDef):
            found.append(node)
    return found


def decorators(function: FunctionNode) -> set[str]:
    return {ast.unparse(node).rpartition(".")[2] for node in function.decorator_list}


def functions_seen_by_users(body: list[ast.stmt]) -> Iterator[FunctionNode]:
    """Yield the functions of a class's body; of an overloaded one only the overloads."""
    functions = [node for node in body if isinstance(node, FunctionNode)]
    overloaded = {node.name for node in functions if "overload" in decorators(node)}
    for node in functions:
        if node.name not in overloaded or "overload" in decorators(node):
            yield node


def public_functions() -> Iterator[tuple[str, FunctionNode]]:
    """Yield every public function and method, and special methods, with a name to show."""
    for name in sorted(FACE):
        if inspect.isclass(getattr(trio_modules, name)):
            for node in classes_behind(name):
                for method in functions_seen_by_users(node.body):
                    if is_public(method.name) or is_special(method.name):
                        yield f"{node.name}.{method.name}", method
        else:
            yield name, function_node(name)


def function_node(name: str) -> FunctionNode:
    node = definitions()[name]
    assert isinstance(node, FunctionNode)
    return node


def is_public(name: str) -> bool:
    return not name.startswith("_")


def is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def parameters(function: FunctionNode) -> list[ast.arg]:
    arguments = function.args
    extra = [arg for arg in (arguments.vararg, arguments.kwarg) if arg is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *extra]


def annotated_parts(function: FunctionNode) -> Iterator[tuple[str, str | None]]:
    """Yield each parameter, self and cls aside, and the result with what they are annotated as."""
    for arg in parameters(function):
        if arg.arg not in {"self", "cls"}:
            yield arg.arg, ast.unparse(arg.annotation) if arg.annotation else None
    yield "return", ast.unparse(function.returns) if function.returns else None


def test_the_face_has_the_names_of_the_contract_and_no_others() -> None:
    """what can be imported from trio_modules is the documented list."""
    leaked = (
        name
        for name, value in vars(trio_modules).items()
        if is_public(name) and not isinstance(value, ModuleType) and name != "annotations"
    )
    assert sorted(leaked) == sorted(FACE)


def test_the_protocols_have_a_place_of_their_own() -> None:
    """what users implement or annotate with is in trio_modules.abc, and is no part of the face."""
    protocols = importlib.import_module("trio_modules.abc")
    assert protocols.__all__
    assert all(hasattr(protocols, name) for name in protocols.__all__)
    assert not set(protocols.__all__) & set(trio_modules.__all__)


def test_a_star_import_gives_the_face() -> None:
    """__all__ lists the same names."""
    assert sorted(name for name in trio_modules.__all__ if is_public(name)) == sorted(FACE)


@pytest.mark.parametrize("name", sorted(FACE))
def test_public_names_are_documented(name: str) -> None:
    """every public class and function has a docstring of its own."""
    assert ast.get_docstring(definitions()[name])


def test_public_methods_are_documented() -> None:
    """every public function, method and property has a docstring."""
    missing = [
        name
        for name, node in public_functions()
        if is_public(node.name)
        and not decorators(node) & {"overload", "setter", "override"}
        and not ast.get_docstring(node)
    ]
    assert missing == []


def test_overloaded_methods_are_documented() -> None:
    """of an overloaded method the implementation has the docstring."""
    missing = [
        name
        for name, node in public_functions()
        if "overload" in decorators(node) and not documented_at_runtime(name)
    ]
    assert missing == []


def documented_at_runtime(name: str) -> bool:
    value: object = trio_modules
    for part in name.split("."):
        value = getattr(value, part)
    return bool(value.__doc__)


def test_public_signatures_are_typed() -> None:
    """every parameter and result of the public interface is annotated."""
    missing = [
        f"{name}: {part}"
        for name, node in public_functions()
        for part, annotation in annotated_parts(node)
        if annotation is None
    ]
    assert missing == []


def test_public_signatures_do_not_say_any() -> None:
    """nothing public is typed as Any."""
    vague = [
        f"{name}: {part}: {annotation}"
        for name, node in public_functions()
        for part, annotation in annotated_parts(node)
        if annotation and re.search(r"\bAny\b", annotation)
    ]
    assert vague == []


def test_public_fields_are_typed() -> None:
    """no public field of a public class is typed as Any."""
    vague = [
        f"{name}.{ast.unparse(node)}"
        for name in sorted(FACE)
        if inspect.isclass(getattr(trio_modules, name))
        for owner in classes_behind(name)
        for node in owner.body
        if isinstance(node, ast.AnnAssign)
        and is_public(ast.unparse(node.target))
        and re.search(r"\bAny\b", ast.unparse(node.annotation))
    ]
    assert vague == []


def test_an_event_has_no_other_names_than_those_of_its_users() -> None:
    """what the framework needs of an event isn't among its public attributes."""
    event = trio_modules.Module("m").event("event", int)
    public = {name for name in dir(event) if is_public(name)}
    described = {"name", "full_name", "module", "internal"}
    assert public == described | {"trigger", "trigger_nowait", "subscribe", "statistics"}


def test_types_to_annotate_with_can_be_imported() -> None:
    """what a method returns that isn't in the face is in trio_modules.abc."""
    event = trio_modules.Module("m").event("event", int)
    assert type(event.statistics()) is abc.EventStatistics
    # Names that no source can have are pytest's, from rewriting asserts.
    names = {name for name in vars(abc) if name.isidentifier() and is_public(name)}
    assert set(abc.__all__) == names - {"annotations"}


LIST_WHAT_AN_IMPORT_LOADS = """
import sys
import attr, attrs, trio
if sys.version_info < (3, 11):
    import exceptiongroup
before = set(sys.modules)
import trio_modules
print(*sorted(set(sys.modules) - before))
"""


def modules_loaded_by_importing() -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", LIST_WHAT_AN_IMPORT_LOADS],
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split()


def test_importing_loads_nothing_foreign() -> None:
    """importing trio_modules loads the standard library, trio, attrs and what those need."""
    allowed = sys.stdlib_module_names | {"trio_modules"}
    loaded = {name.partition(".")[0] for name in modules_loaded_by_importing()}
    assert loaded - allowed == set()
    assert "trio_modules" in loaded


def test_importing_loads_only_the_core() -> None:
    """importing trio_modules loads neither its command line nor its testing and ext parts."""
    outside = ("trio_modules._cli", "trio_modules.testing", "trio_modules.ext")
    assert [name for name in modules_loaded_by_importing() if name.startswith(outside)] == []


def test_the_reference_has_every_public_name() -> None:
    """the reference in the documentation describes the whole face."""
    reference = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()
    described = set(
        re.findall(r"^\.\. auto(?:class|exception|function):: (\w+)", reference, re.MULTILINE)
    )
    assert described >= FACE


def test_types_reach_the_users() -> None:
    """the package ships the marker that makes type checkers read it."""
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize(
    "face", [trio_modules, trio_modules.testing], ids=lambda face: face.__name__
)
def test_exceptions_show_where_they_are_imported_from(face: ModuleType) -> None:
    """a traceback names an exception of the face as its users do, and it can be pickled so."""
    exceptions = [
        each
        for each in vars(face).values()
        if isinstance(each, type) and issubclass(each, BaseException)
    ]
    assert exceptions
    for each in exceptions:
        assert f"{each.__module__}.{each.__qualname__}" == f"{face.__name__}.{each.__name__}"
        assert pickle.loads(pickle.dumps(each)) is each
