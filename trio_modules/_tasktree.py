"""Where tasks are waiting, for people: the stacks that a hang, a signal or a time-out shows."""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Container, Iterable, Iterator

import trio

__all__ = [
    "child_tasks",
    "format_stack",
    "format_stacks",
    "format_thread",
    "format_tree",
    "tasks_below",
]

_STEP = "  "


def format_stack(task: trio.lowlevel.Task, indent: str = "") -> list[str]:
    """The lines of the stack of one waiting task, the innermost call last."""
    lines = []
    for frame, line in task.iter_await_frames():
        code = frame.f_code
        lines.append(f'{indent}File "{code.co_filename}", line {line}, in {code.co_name}')
        source = linecache.getline(code.co_filename, line).strip()
        if source:
            lines.append(f"{indent}{_STEP}{source}")
    return lines


def format_thread(name: str, ident: int, indent: str = "") -> list[str]:
    """The lines of the stack of a thread that runs *name*; none if it has just ended."""
    frame = sys._current_frames().get(ident)
    if frame is None:
        return []
    lines = [f"{indent}thread of {name}"]
    for entry in traceback.extract_stack(frame):
        lines.append(
            f'{indent}{_STEP}File "{entry.filename}", line {entry.lineno}, in {entry.name}'
        )
        if entry.line:
            lines.append(f"{indent}{_STEP * 2}{entry.line}")
    return lines


def format_stacks(tasks: Iterable[trio.lowlevel.Task]) -> str:
    """Name and stack of each task, as one text."""
    lines = []
    for task in tasks:
        lines.append(f"{_STEP}task {task.name}")
        lines += format_stack(task, _STEP * 2)
    return "\n".join(lines)


def child_tasks(nursery: trio.Nursery) -> list[trio.lowlevel.Task]:
    """The tasks of a nursery in an order that doesn't depend on their addresses."""
    return sorted(nursery.child_tasks, key=lambda task: (task.name, task._counter))


def tasks_below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """All tasks in the nurseries that *task* holds, and in those of these tasks."""
    above = [task]
    while above:
        for nursery in above.pop().child_nurseries:
            above += nursery.child_tasks
            yield from nursery.child_tasks


def format_tree(
    task: trio.lowlevel.Task, indent: str = "", skip: Container[trio.lowlevel.Task] = ()
) -> list[str]:
    """The lines of the tree of tasks below *task*, each with its stack, without those to *skip*."""
    lines = [f"{indent}task {task.name}", *format_stack(task, indent + _STEP)]
    for nursery in task.child_nurseries:
        for child in child_tasks(nursery):
            if child not in skip:
                lines += format_tree(child, indent + _STEP, skip)
    return lines
