"""What Trio has no public switch for: the order of tasks by a seed, and a way out of shields.

All use of Trio's insides is in this file.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import trio
from trio._core import _run

__all__ = ["all_tasks", "break_shields", "collector_off", "seeded_scheduling"]


@contextmanager
def seeded_scheduling(seed: int) -> Iterator[None]:
    """Make each ``trio.run`` in the block schedule its tasks as *seed* says."""
    scheduler: Any = _run
    was_deterministic = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    state = scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = was_deterministic
        scheduler._r.setstate(state)


@contextmanager
def collector_off() -> Iterator[None]:
    """Let nothing be collected in the block unless asked to: it would come when memory says so."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def all_tasks(root: trio.lowlevel.Task | None = None) -> Iterator[trio.lowlevel.Task]:
    """Yield the task and all below it, by default every task of this run, parents first.

    The order is one that addresses in memory have no part in.
    """
    root = root or trio.lowlevel.current_root_task()
    assert root is not None
    todo = [root]
    while todo:
        task = todo.pop()
        yield task
        for nursery in task.child_nurseries:
            todo += _by_age(nursery.child_tasks)


def _by_age(tasks: Iterable[trio.lowlevel.Task]) -> list[trio.lowlevel.Task]:
    return sorted(tasks, key=lambda task: task._counter, reverse=True)


def break_shields(tasks: Iterable[trio.lowlevel.Task], reason: str) -> None:
    """Cancel *tasks* through all shields: the way out when a service would never end."""
    for task in tasks:
        status: Any = task._cancel_status
        while status is not None:
            scope: trio.CancelScope = status._scope
            if scope.shield:
                scope.shield = False
                scope.cancel(reason=reason)
            status = status._parent
