"""The errors of the package: exceptions with fields, worded in one place.

Nobody has to parse a text: whatever a message names, the exception holds in a field.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if sys.version_info >= (3, 11):
    BaseExceptionGroup = BaseExceptionGroup
    ExceptionGroup = ExceptionGroup
else:
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "BaseExceptionGroup",
    "CleanExit",
    "EventDeadlock",
    "ExceptionGroup",
    "GraphError",
    "ModuleCrashed",
    "ModuleOffline",
    "ProcessDied",
    "RestartModule",
    "RestartNow",
    "ShutdownError",
    "StartError",
    "StopError",
    "TaskCancelled",
    "TaskFailed",
    "UndeclaredDependency",
    "add_note",
    "shown",
]

#: Characters of an exception's ``repr`` that are shown in messages.
_LONGEST = 2_000


class CleanExit(Exception):
    """Raised by a prep function or the app's command: end quietly, before anything is started.

    From the seed (``ErrCleanExit``): what ``--help`` or ``--version`` raise.
    """


class RestartNow(Exception):
    """Raised by a service worker: run me again without backoff.

    It counts like any other restart, and the restart capacity still applies, so it can't spin.
    From the seed (``ErrRestartNow``).
    """


class RestartModule(Exception):
    """Raised by any worker: my whole module has to be restarted (ours, not the seed's)."""


class TaskFailed(Exception):
    """The execution that somebody waited for raised; what it raised is the cause.

    Attributes:
        module: the name of the module that the task belongs to.
        task: the name of the task.
    """

    def __init__(self, module: str, task: str) -> None:
        super().__init__(module, task)
        self.module = module
        self.task = task

    def __str__(self) -> str:
        why = "" if self.__cause__ is None else f": {shown(self.__cause__)}"
        return f"task {self.task!r} of module {self.module!r} failed{why}"


class TaskCancelled(Exception):
    """The task was cancelled, or taken out of the schedule by whom it concerned.

    Attributes:
        module: the name of the module that the task belongs to.
        task: the name of the task.
        reason: what happened to it.
    """

    def __init__(self, module: str, task: str, reason: str = "was cancelled") -> None:
        super().__init__(module, task, reason)
        self.module = module
        self.task = task
        self.reason = reason

    def __str__(self) -> str:
        return f"task {self.task!r} of module {self.module!r} {self.reason}"


class ProcessDied(RuntimeError):
    """A process was gone before it had answered; the next call gets another one.

    Attributes:
        module: the name of the module that it worked for.
        task: the name of the microtask.
    """

    def __init__(self, module: str, task: str) -> None:
        super().__init__(module, task)
        self.module = module
        self.task = task

    def __str__(self) -> str:
        return f"the process of microtask {self.task!r} of module {self.module!r} has died"


class EventDeadlock(RuntimeError):
    """A trigger would wait for something that waits for it; nobody has got the event.

    Attributes:
        event: the event, as "module/event".
        hook: the hook that it would wait for, as "module/hook".
        why: why that hook can't go on.
    """

    def __init__(self, event: str, hook: str, why: str) -> None:
        super().__init__(event, hook, why)
        self.event = event
        self.hook = hook
        self.why = why

    def __str__(self) -> str:
        return f"triggering {self.event!r} would wait for hook {self.hook!r} for ever: {self.why}"


class GraphError(ValueError):
    """The modules and their dependencies make no graph that can be started in order.

    Attributes:
        modules: the names that the message is about; for a cycle the whole path, first = last.
    """

    def __init__(self, message: str, modules: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(modules))
        self.message = message
        self.modules = tuple(modules)

    def __str__(self) -> str:
        return self.message


class ModuleOffline(RuntimeError):
    """A module was asked for something that it can't do in its present status.

    Attributes:
        module: the module's name.
        status: the name of its status at that moment.
        wanted: what was asked for.
    """

    def __init__(self, module: str, status: str, wanted: str) -> None:
        super().__init__(module, status, wanted)
        self.module = module
        self.status = status
        self.wanted = wanted

    def __str__(self) -> str:
        return f"module {self.module!r} is {self.status}: can't {self.wanted}"


class UndeclaredDependency(RuntimeError):
    """A module read the resource of another one that it doesn't declare a dependency on.

    Attributes:
        module: the name of the module that read.
        owner: the name of the module that the resource belongs to.
        resource: the name of the resource.
    """

    def __init__(self, module: str, owner: str, resource: str) -> None:
        super().__init__(module, owner, resource)
        self.module = module
        self.owner = owner
        self.resource = resource

    def __str__(self) -> str:
        return (
            f"module {self.module!r} read the resource {self.resource!r} of module "
            f"{self.owner!r}, which it reaches by neither depends_on nor wants"
        )


class StartError(Exception):
    """A module (or the app) could not be prepared or started; the reason is its cause.

    Attributes:
        module: the module's name, None for the app's own prep.
        stage: "prep" or "start".
        waiting: where each function was waiting, when the start ran out of time, else "".
        timeout: the seconds that it ran out of, else None.
    """

    def __init__(
        self, module: str | None, stage: str, waiting: str = "", timeout: float | None = None
    ) -> None:
        super().__init__(module, stage, waiting, timeout)
        self.module = module
        self.stage = stage
        self.waiting = waiting
        self.timeout = timeout

    def __str__(self) -> str:
        who = "the app" if self.module is None else f"module {self.module!r}"
        if self.timeout is not None:
            place = f"; it was waiting here:\n{self.waiting}" if self.waiting else ""
            return f"{who} did not start within {self.timeout:g} s{place}"
        why = "" if self.__cause__ is None else f": {shown(self.__cause__)}"
        return f"the {self.stage} of {who} failed{why}"


class StopError(Exception):
    """A module did not stop as it should have.

    Attributes:
        module: the module's name.
        exceptions: what its stop functions, lifespans or nursery raised.
        hanging: the stacks of what still ran when ``stop_timeout`` was over, else "".
    """

    def __init__(
        self, module: str, exceptions: Sequence[BaseException] = (), hanging: str = ""
    ) -> None:
        super().__init__(module, tuple(exceptions), hanging)
        self.module = module
        self.exceptions = tuple(exceptions)
        self.hanging = hanging
        if self.exceptions:
            self.__cause__ = self.exceptions[0]

    def __str__(self) -> str:
        parts = [shown(exc) for exc in self.exceptions]
        if self.hanging:
            parts.append(f"still running when its time was over:\n{self.hanging}")
        return f"module {self.module!r} did not stop cleanly: {'; '.join(parts)}"


class ShutdownError(ExceptionGroup[StopError]):
    """Everything stopped, but not all of it cleanly: a group of `StopError`."""

    def derive(self, excs: Sequence[StopError]) -> Self:  # type: ignore[override]
        """A group of the same kind with other errors; what ``split`` and ``subgroup`` call."""
        return type(self)(self.message, excs)


class ModuleCrashed(Exception):
    """A module crashed more often than its `Restart` allows; the last crash is the cause.

    Attributes:
        module: the module's name.
        crashes: how many crashes fell into the period that its budget counts.
    """

    def __init__(self, module: str, crashes: int) -> None:
        super().__init__(module, crashes)
        self.module = module
        self.crashes = crashes

    def __str__(self) -> str:
        why = "" if self.__cause__ is None else f": {shown(self.__cause__)}"
        return f"module {self.module!r} crashed beyond its budget (crash {self.crashes}){why}"


def shown(exc: BaseException) -> str:
    """``repr(exc)``, even of an exception whose own code for that fails; its beginning if long.

    A group may hold ten thousand, and what is said of it stands in logs and in the status.
    """
    try:
        text = repr(exc)
    except Exception:
        return f"<{type(exc).__name__}, which can't be shown>"
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}... ({len(text):,} characters)"


def add_note(exc: BaseException, note: str) -> None:
    """Attach *note* to *exc*, on Python 3.10 as well."""
    if sys.version_info >= (3, 11):
        exc.add_note(note)
    else:
        notes = [*getattr(exc, "__notes__", ()), note]
        exc.__notes__ = notes  # type: ignore[attr-defined]
