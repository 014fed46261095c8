"""What a failing test says of a service: how its modules are, and where their tasks wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import trio

from trio_modules import Module, ModuleStatus
from trio_modules._context import owner_of
from trio_modules.testing._scheduling import all_tasks

__all__ = ["NotInTime", "condition", "listing", "story", "works_for"]

_LONGEST_LIST = 10
_NOT_THE_USERS = ("trio", "trio_modules")


class NotInTime(AssertionError):
    """What a test has waited for didn't happen in time (ours); the message says what did."""


def listing(head: str, lines: Iterable[str]) -> str:
    """A head with lines below it, not too many."""
    lines = list(lines)
    shown = lines[:_LONGEST_LIST]
    if len(lines) > len(shown):
        shown.append(f"... and {len(lines) - len(shown)} more")
    return "\n".join([f"{head}:", *(f"  {line}" for line in shown or ["nothing"])])


def condition(module: Module) -> str:
    """Name, status and failures of a module in one line."""
    failures = [
        f"{each.level.name} {each.id!r} ({each.message})" for each in module.failures.values()
    ]
    return f"module {module.name!r} is {module.status.name}" + "".join(
        f", {failure}" for failure in failures
    )


def story(module: Module) -> Iterator[str]:
    """What keeps a module from going on: what it depends on, and where its tasks wait."""
    for other in module.dependencies:
        if other.status is not ModuleStatus.ONLINE:
            yield f"it depends on {condition(other).removeprefix('module ')}"
    for task in all_tasks():
        if works_for(task, module) and (place := _place(task)):
            yield f"task {task.name!r} waits in {place}"


def works_for(task: trio.lowlevel.Task, module: Module) -> bool:
    """Whether the module has begun this task, directly or not."""
    return owner_of(task) is module._module_part


def _place(task: trio.lowlevel.Task) -> str:
    """The innermost line of the user's that a task waits in, if any."""
    place = ""
    for frame, line in task.iter_await_frames():
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _NOT_THE_USERS:
            place = f"{frame.f_code.co_name}, {frame.f_code.co_filename}:{line}"
    return place
