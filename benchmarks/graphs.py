"""The graphs of modules that ours, the floors and the peers start and stop."""

from __future__ import annotations

import random

Graph = list[list[int]]


def random_graph(size: int) -> Graph:
    """Return for each node the earlier ones that it depends on, up to three."""
    rng = random.Random(size)
    return [rng.sample(range(node), min(node, rng.randint(0, 3))) for node in range(size)]


def shuffled_nodes(size: int) -> list[int]:
    """Return the order in which a program may happen to name its modules."""
    nodes = list(range(size))
    random.Random(size).shuffle(nodes)
    return nodes
