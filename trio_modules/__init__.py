"""Modules for Trio services: started in dependency order, supervised, stopped in reverse."""

from __future__ import annotations

from trio_modules._app import App, current_app
from trio_modules._backoff import Backoff, Restart
from trio_modules._events import Occurrence, Overflow
from trio_modules._exceptions import (
    CleanExit,
    EventDeadlock,
    GraphError,
    ModuleCrashed,
    ModuleOffline,
    RestartModule,
    RestartNow,
    ShutdownError,
    StartError,
    StopError,
    TaskCancelled,
    TaskFailed,
    UndeclaredDependency,
)
from trio_modules._failure import FailureLevel, FailureStatus
from trio_modules._module import Event, Module, Task, current_module
from trio_modules._reports import ModuleError, is_panic
from trio_modules._resources import Resource
from trio_modules._run import run, serve
from trio_modules._services import ServiceWorker, supervise
from trio_modules._slots import Priority
from trio_modules._status import AppStatus, Change, ModuleStatus
from trio_modules._tasks import Retry
from trio_modules._util import name_exceptions as _name_exceptions

__all__ = [
    "App",
    "AppStatus",
    "Backoff",
    "Change",
    "CleanExit",
    "Event",
    "EventDeadlock",
    "FailureLevel",
    "FailureStatus",
    "GraphError",
    "Module",
    "ModuleCrashed",
    "ModuleError",
    "ModuleOffline",
    "ModuleStatus",
    "Occurrence",
    "Overflow",
    "Priority",
    "Resource",
    "Restart",
    "RestartModule",
    "RestartNow",
    "Retry",
    "ServiceWorker",
    "ShutdownError",
    "StartError",
    "StopError",
    "Task",
    "TaskCancelled",
    "TaskFailed",
    "UndeclaredDependency",
    "current_app",
    "current_module",
    "is_panic",
    "run",
    "serve",
    "supervise",
]

_name_exceptions(globals())
