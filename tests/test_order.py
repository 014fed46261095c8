"""The dependency graph: what is wrong with it is said before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lifecycle_helpers import Trace, module_with

from trio_modules import App, GraphError, Module
from trio_modules._order import near_misses, topological_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio


async def error_of(*modules: Module) -> GraphError:
    """Return the error that entering an app of these modules raises; nothing may run."""
    trace = Trace()
    app = App(*modules, prep=trace.step("app.prep"))
    for module in modules:
        module.on_prep(trace.step(f"{module.name}.prep"))
    with pytest.raises(GraphError) as caught:
        async with app:
            trace.add("body")
    assert trace.names == []
    return caught.value


def rotations(path: list[str]) -> Iterator[list[str]]:
    """Yield the ways to write a cycle, from each of its members back to it."""
    for i in range(len(path)):
        yield [*path[i:], *path[:i], path[i]]


@pytest.mark.parametrize("kind", ["depends_on", "wants"])
async def test_an_unknown_name_is_found_before_anything_runs(kind: str) -> None:
    """a name that no module has is an error of hard and soft dependencies alike."""
    error = await error_of(Module("db"), module_with("web", **{kind: ["bd"]}))
    assert error.modules == ("web", "bd")
    assert "'bd'" in str(error)


@pytest.mark.parametrize("kind", ["depends_on", "wants"])
async def test_a_module_that_is_not_registered_is_unknown(kind: str) -> None:
    """a dependency given as a module has to be one of the app's modules, too."""
    error = await error_of(module_with("web", **{kind: [Module("db")]}))
    assert "'db'" in str(error)


async def test_the_near_miss_of_a_name_is_shown() -> None:
    """a misspelt name comes with the name that was probably meant."""
    error = await error_of(Module("database"), Module("web", depends_on=["databse"]))
    assert "did you mean 'database'?" in str(error)


@pytest.mark.parametrize("length", [1, 2, 3, 50])
async def test_a_cycle_is_named_as_its_whole_path(length: int) -> None:
    """the path leads along depends_on through every member back to the first."""
    names = [f"m{i}" for i in range(length)]
    modules = [Module(name, depends_on=[names[(i + 1) % length]]) for i, name in enumerate(names)]
    error = await error_of(*modules)
    assert list(error.modules) in list(rotations(names))
    assert " -> ".join(map(repr, error.modules)) in str(error) or (
        " -> ".join(error.modules) in str(error)
    )


async def test_a_cycle_is_named_without_what_leads_to_it() -> None:
    """modules that only depend on the cycle, or that it depends on, aren't part of the path."""
    base, top = Module("base"), Module("top", depends_on=["a"])
    a, b = Module("a", depends_on=["b", "base"]), Module("b", depends_on=["a"])
    error = await error_of(top, base, a, b)
    assert set(error.modules) == {"a", "b"}


@pytest.mark.parametrize("kinds", [("wants", "wants"), ("wants", "depends_on")])
async def test_soft_dependencies_count_for_cycles(kinds: tuple[str, str]) -> None:
    """a cycle that is closed by a soft dependency can't be started in order either."""
    error = await error_of(
        module_with("a", **{kinds[0]: ["b"]}), module_with("b", **{kinds[1]: ["a"]})
    )
    assert set(error.modules) == {"a", "b"}


@pytest.mark.parametrize("kind", ["depends_on", "wants"])
def test_a_dependency_listed_twice_is_refused_by_the_module(kind: str) -> None:
    """duplicates are found when the module is made, also when one is a name, one a module."""
    db = Module("db")
    for twice in (["db", "db"], [db, db], [db, "db"]):
        with pytest.raises(GraphError, match="'db'"):
            module_with("web", **{kind: twice})


@pytest.mark.parametrize("kind", ["depends_on", "wants"])
def test_a_lone_string_is_not_a_list_of_names(kind: str) -> None:
    """a string is refused with the list that was probably meant."""
    with pytest.raises(TypeError, match=rf"{kind}.*got the string 'db'; did you mean \['db'\]\?"):
        module_with("web", **{kind: "db"})


def test_a_second_module_of_one_name_is_refused_at_once() -> None:
    """registering it raises and leaves the app with the first one."""
    first = Module("db")
    app = App(first)
    with pytest.raises(GraphError, match="'db'"):
        app.register(Module("db"))
    assert list(app.modules.values()) == [first]


async def test_an_app_with_a_graph_error_can_be_mended() -> None:
    """what is missing may be registered after the error; then the app runs."""
    app = App(Module("web", depends_on=["db"]))
    with pytest.raises(GraphError):
        async with app:
            raise AssertionError("the body must not run")
    app.register(Module("db"))
    async with app:
        assert app["web"].online
    assert not app["web"].online


async def test_a_module_may_depend_on_one_that_is_registered_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """names are looked up when the app is entered; registration order doesn't matter."""
    trace = Trace()
    async with App(trace.module("web", "db"), trace.module("db")):
        pass
    assert trace.only(".start") == ["db.start", "web.start"]


def test_near_misses_are_at_most_three() -> None:
    """the hint names what is close, the closest first, and is empty if nothing is."""
    assert near_misses("stoer", ["store", "printer"]) == "; did you mean 'store'?"
    known = ["store1", "store2", "store3", "store4"]
    hint = near_misses("store", known)
    assert hint.count(" or ") == 2
    assert hint.startswith("; did you mean 'store")
    assert near_misses("clock", ["printer"]) == ""


def test_an_order_that_fits_is_kept() -> None:
    """modules that are declared after all that they need start in just that order."""
    edges = {"b": [], "z": ["b"], "a": [], "c": ["a", "z"]}
    assert topological_order(edges) == ["b", "z", "a", "c"]
    assert topological_order({"c": ["a"], "b": ["c"], "a": []}) == ["a", "c", "b"]
