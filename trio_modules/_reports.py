"""The report of something that went wrong inside a module, as a value that is an exception."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import attrs

from trio_modules._exceptions import BaseExceptionGroup

__all__ = ["ModuleError", "is_panic"]


@attrs.define(eq=False, slots=False)
class ModuleError(Exception):
    """What happened in which part of which module (the seed's ``ModuleError``).

    Attributes:
        message: for people.
        module: the name of the module, "" for the app itself.
        task_name: the name of the worker or function in which it happened.
        task_type: "worker", "service-worker", "control" (lifecycle and management) or your own.
        severity: "info", "warning", "error", "panic" (a caught exception) or your own.
        exception: the exception, None for a mere message.
        time: when it was reported, on Trio's clock, in seconds.
    """

    message: str
    module: str = ""
    task_name: str = ""
    task_type: str = "worker"
    severity: str = "error"
    exception: BaseException | None = None
    time: float = 0.0

    def __attrs_post_init__(self) -> None:
        Exception.__init__(self, self.message)
        self.__cause__ = self.exception

    def __str__(self) -> str:
        where = "/".join(part for part in (self.module, self.task_name) if part)
        return f"{where}: {self.message}" if where else self.message

    @property
    def traceback(self) -> str:
        """The exception's traceback as text, "" without one; formatted anew at each reading,

        since most reports are never read so closely.
        """
        if self.exception is None:
            return ""
        exc = self.exception
        return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))


def is_panic(exc: BaseException | None) -> ModuleError | None:
    """The report of a caught exception that *exc* is or wraps, through causes and groups.

    Args:
        exc: any exception, or None.

    From the seed (``IsPanic``), which looked at wrapped errors only.
    """
    for found in _chain(exc):
        if isinstance(found, ModuleError) and found.severity == "panic":
            return found
    return None


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    todo = [exc]
    seen: set[int] = set()
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        todo.append(found.__cause__)
        if isinstance(found, BaseExceptionGroup):
            todo += reversed(found.exceptions)
