"""From "depends on" to an order, without Trio: unknown names and cycles are found first."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from trio_modules._exceptions import GraphError

__all__ = ["check_known", "near_misses", "topological_order"]


def near_misses(name: str, known: Iterable[str]) -> str:
    """A hint ``; did you mean 'x'?`` for a misspelt *name*, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def check_known(edges: Mapping[str, Sequence[str]], kind: str) -> None:
    """Raise `GraphError` for the first edge that leads to a name that isn't a key."""
    for name, targets in edges.items():
        for target in targets:
            if target not in edges:
                raise GraphError(
                    f"module {name!r} {kind} {target!r}, which is not registered"
                    f"{near_misses(target, edges)}",
                    (name, target),
                )


def topological_order(edges: Mapping[str, Sequence[str]]) -> list[str]:
    """The names, each after all that it needs, in O(names + edges).

    Where they have such an order already it is kept: most programs declare first what comes first.

    Raises:
        GraphError: if there is a cycle, whose whole path it names.
    """
    if _is_ordered(edges):
        return list(edges)
    try:
        return list(TopologicalSorter(edges).static_order())
    except CycleError as exc:
        # graphlib walks from the needed to the needing; people read "depends on".
        path = list(reversed(exc.args[1]))
        raise GraphError(
            f"the dependencies make a circle: {' -> '.join(map(repr, path))}", path
        ) from None


def _is_ordered(edges: Mapping[str, Sequence[str]]) -> bool:
    seen: set[str] = set()
    for name, needs in edges.items():
        if not seen.issuperset(needs):
            return False
        seen.add(name)
    return True
