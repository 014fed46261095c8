"""Which module the running code works for, and copies of contexts.

The module's own task carries it in its context, so what the module starts inherits it for free.
Work that comes from outside gets it set, unless it can be found by walking up the task tree: ten
thousand workers that a program starts from its body then need no context of their own.
"""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from gc import get_referents
from typing import Protocol

import trio

__all__ = ["HasMainTask", "current_owner", "owner_of", "owner_var", "snapshot"]


class HasMainTask(Protocol):
    """A module, as far as those must know it who meet it in a context."""

    @property
    def name(self) -> str: ...
    @property
    def main_task(self) -> trio.lowlevel.Task | None: ...

    def reaches(self, name: str) -> bool: ...


owner_var: ContextVar[HasMainTask | None] = ContextVar("trio_modules_owner", default=None)


def current_owner() -> HasMainTask | None:
    """The module that the running code works for, None outside of all modules."""
    owner = owner_var.get()
    if owner is not None:
        return owner
    try:
        return _owner_above(trio.lowlevel.current_task())
    except RuntimeError:
        return None


def owner_of(task: trio.lowlevel.Task) -> HasMainTask | None:
    """The module that a task works for, None if it works for none."""
    return task.context.get(owner_var) or _owner_above(task)


def _owner_above(below: trio.lowlevel.Task) -> HasMainTask | None:
    task: trio.lowlevel.Task | None = below
    while task is not None:
        owner = task.context.get(owner_var)
        if owner is not None and owner.main_task is task:
            return owner
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
    return None


def snapshot(last: Context | None) -> Context:
    """A copy of the current context, or *last*, such a copy, if no variable was set since then.

    Nobody may run anything in it, only in copies of it. Thousands of tasks that are ordered by
    one piece of code share one: the garbage collector looks at each again and again.
    """
    context = copy_context()
    if last is None:
        return context
    # A context is a reference to a mapping that never changes: setting a variable makes another.
    # To compare their values instead would call other people's `__eq__`.
    try:
        before, now = get_referents(last, context)
    except ValueError:  # whoever made this Python keeps them otherwise
        return context
    return last if before is now else context
