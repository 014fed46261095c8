"""The face of a module: what it declares, what it starts, what it says about itself."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime, tzinfo
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeVar, cast, overload

import attrs
import trio

from trio_modules._backoff import Backoff, Restart, checked_policy
from trio_modules._context import current_owner
from trio_modules._elsewhere import check_portable, check_sync, in_thread
from trio_modules._events import BaseEvent, EventModule, Outlet, Overflow, data_types
from trio_modules._exceptions import GraphError, ModuleOffline, shown
from trio_modules._failure import FailureLevel, FailureStatus
from trio_modules._part import Declaration, Part
from trio_modules._reading import Hook
from trio_modules._reports import ModuleError
from trio_modules._resources import Resource
from trio_modules._seam import AnyAsyncFn, CallKind
from trio_modules._services import Grid, ServiceWorker
from trio_modules._slots import Priority
from trio_modules._status import ModuleStatus
from trio_modules._tasks import (
    BaseTask,
    Rhythm,
    TaskKind,
    TaskModule,
    check_at,
    check_misfire,
    cron_rhythm,
)
from trio_modules._taskwork import DeclaredTask
from trio_modules._util import (
    Placeholder,
    callable_name,
    check_async,
    check_call,
    check_count,
    check_identifier,
    check_names,
    check_seconds,
    takes_keyword,
)
from trio_modules._workers import Guest

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import ParamSpec, TypeVarTuple, Unpack

    ArgsT = TypeVarTuple("ArgsT")
    P = ParamSpec("P")

__all__ = ["Event", "Interceptor", "Module", "Task", "current_module"]

T = TypeVar("T")
R = TypeVar("R")
FnT = TypeVar("FnT", bound=Callable[..., Awaitable[object]])
GenT = TypeVar("GenT")
AsyncFn = Callable[..., Awaitable[object]]

_A_TASK = Placeholder("the task")
_THE_DATA = Placeholder("the data")

#: The last quarter of the stop time belongs to the stop functions and lifespans.
_LARGEST_GRACE = 0.75


class _Spec:
    """What a module was given, and who has it."""

    __slots__ = (
        "depends_on",
        "enabled",
        "owner",
        "registry",
        "restart",
        "start_timeout",
        "stop_timeout",
        "wants",
    )

    depends_on: tuple[Module | str, ...]
    wants: tuple[Module | str, ...]
    enabled: bool
    owner: Module | None
    registry: Mapping[str, Module] | None
    restart: Restart
    start_timeout: float | None
    stop_timeout: float | None


def current_module() -> Module:
    """The module that the running code works for (ours; the seed handed it around).

    Raises:
        RuntimeError: outside of anything that a module runs.
    """
    owner = current_owner()
    if owner is None:
        raise RuntimeError("current_module() was called outside of anything that a module runs")
    assert isinstance(owner, Part)
    assert isinstance(owner.face, Module)
    return owner.face


class Interceptor(Protocol):
    """What `trio_modules.App.intercept` takes (ours).

    It is asked before each call of a function of a module's.

    Args:
        module: the module.
        kind: "prep", "start" or "stop" function, "enter" or "leave" for the halves of a lifespan,
            "worker", "service-worker" (each attempt; of `trio_modules.Module.every` each beat),
            "task", "microtask" or "hook".
        name: of the function or of the work.
        async_fn: what would be called.

    Returns:
        what is called in its place, with the same arguments: *async_fn*, or something around it.

    It is synchronous. What it raises counts as raised by the function.
    """

    def __call__(
        self, module: Module, kind: CallKind, name: str, async_fn: AnyAsyncFn, /
    ) -> AnyAsyncFn:
        """See the class."""


class Task(BaseTask):
    """Work of a module that is queued, scheduled or repeated; see `Module.new_task` (seed).

    All methods that order it return it, so they chain. Its function is called with the task
    itself. It belongs to the module, not to one run of it: a stop takes it out of queue and
    schedule, and when the module is back it can be used again.

    Attributes:
        runs: how many executions have ended, in whatever way.
    """

    __slots__ = ()

    @property
    def module(self) -> Module:
        """The module that it belongs to."""
        return _face(self._kind.tasks.module)


class Event(BaseEvent[T]):
    """Something that a module tells whoever has a hook on it; see `Module.event` (seed).

    Each hook has a buffer of its own and sees the events in the order in which they were
    triggered. Triggering is possible while the module is starting, online or stopping.

    Attributes:
        name: its name.
        internal: whether it is nobody's business outside of the package that declares it.
    """

    __slots__ = ()

    @property
    def module(self) -> Module:
        """The module that it belongs to."""
        return _face(self._outlet.source.module)


class Module:
    """A part of a program that starts, works and stops as one: a nursery with a name.

    A module is declared once and may live many times: an `App` prepares it, starts it when all
    that it depends on is online, and stops it when all that depends on it is offline. Its task
    enters the lifespans, opens the nursery, runs the start functions and begins the declared
    workers; at a stop the workers are cancelled and awaited, then the stop functions run, then
    the lifespans are left.

    When is it restarted? When it crashes while ONLINE: an exception escapes its nursery or
    lifespan, a service worker gives up, a worker raises `RestartModule`. Its dependents are
    stopped first and started again after it. What must it clean up? Nothing that lives in its
    nursery; what a start function has made a stop function has to undo, and a lifespan undoes
    what it did itself, whatever happens.

    Subclass it to add attributes, and declare in ``__init__``.

    Args:
        name: its name: non-empty, without ``/``.
        depends_on: modules, or names of modules, that it can't run without.
        wants: the same, but soft: it starts after them if they are to run, too, stops before
            them, and doesn't fall with them.
        prep: an async function, the first of the prep functions.
        start: an async function, the first of the start functions.
        stop: an async function, the first of the stop functions (so it runs last).
        enabled: whether a managed app runs it.
        start_timeout: seconds that a start may take; the app's by default.
        stop_timeout: seconds that a stop may take; the app's by default.
        restart: what happens when it crashes.

    Raises:
        GraphError: if a dependency is named twice.
        TypeError, ValueError: if an argument is not usable; the message names it.

    Mostly the seed's ``Register``; soft dependencies, lifespans and restarts are ours.
    """

    # Whoever subclasses it has attributes of their own: two names, and no likely ones.
    __slots__ = ("__weakref__", "_module_part", "_module_spec")

    _public: ClassVar[frozenset[str]]

    def __init_subclass__(cls) -> None:
        shadowed = sorted(name for name in vars(cls) if name in Module._public)
        if shadowed:
            raise TypeError(f"class {cls.__name__!r} shadows Module.{shadowed[0]}")

    def __init__(
        self,
        name: str,
        *,
        depends_on: Iterable[Module | str] = (),
        wants: Iterable[Module | str] = (),
        prep: Callable[[], Awaitable[object]] | None = None,
        start: Callable[[], Awaitable[object]] | None = None,
        stop: Callable[[], Awaitable[object]] | None = None,
        enabled: bool = False,
        start_timeout: float | None = None,
        stop_timeout: float | None = None,
        restart: Restart = Restart(max_restarts=3),  # noqa: B008
    ) -> None:
        check_identifier("name", name)
        self._module_spec = _Spec()
        self._module_spec.depends_on = _dependencies("depends_on", name, depends_on)
        self._module_spec.wants = _dependencies("wants", name, wants)
        self._check_twice(name)
        if not isinstance(restart, Restart):
            raise TypeError(f"restart must be a Restart, got {restart!r}")
        self._module_spec.start_timeout = _timeout("start_timeout", start_timeout)
        self._module_spec.stop_timeout = _timeout("stop_timeout", stop_timeout)
        self._module_spec.restart = restart
        self._module_spec.enabled = bool(enabled)
        self._module_spec.owner = None
        self._module_spec.registry = None
        self._module_part = Part(name, self)
        for declare, fn in ((self.on_prep, prep), (self.on_start, start), (self.on_stop, stop)):
            if fn is not None:
                declare(fn)

    def _check_twice(self, name: str) -> None:
        seen: set[str] = set()
        for other in (
            *map(_name_of, self._module_spec.depends_on),
            *map(_name_of, self._module_spec.wants),
        ):
            if other in seen:
                raise GraphError(f"module {name!r} names the dependency {other!r} twice", (other,))
            seen.add(other)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.status.name}>"

    # ------------------------------------------------------------ what it is

    @property
    def declared(self) -> tuple[tuple[CallKind, str], ...]:
        """What the framework calls of it, kind and name, as declared now (ours).

        A lifespan is an "enter" and a "leave". Work that is started while it runs isn't in it.
        """
        return tuple(self._module_part.declared_calls())

    @property
    def name(self) -> str:
        """Its name."""
        return self._module_part.name

    @property
    def logger(self) -> logging.Logger:
        """Its logger, ``trio_modules.<name>``."""
        return self._module_part.logger

    @property
    def dependencies(self) -> tuple[Module, ...]:
        """The modules that it depends on, hard ones; names are looked up in its app (seed).

        Raises:
            GraphError: if a name can't be looked up.
        """
        owner = () if self._module_spec.owner is None else (self._module_spec.owner,)
        return (*map(self._look_up, self._module_spec.depends_on), *owner)

    def _look_up(self, other: Module | str) -> Module:
        if isinstance(other, Module):
            return other
        known = (self._module_spec.registry or {}).get(other)
        if known is None:
            raise GraphError(
                f"module {self.name!r} depends on {other!r}, which is not registered",
                (self.name, other),
            )
        return known

    # ------------------------------------------------------------ where it is in its life

    @property
    def status(self) -> ModuleStatus:
        """Where it is in its life (seed)."""
        return self._module_part.status

    @property
    def online(self) -> bool:
        """Whether it is ONLINE (seed)."""
        return self.status is ModuleStatus.ONLINE

    @property
    def online_soon(self) -> bool:
        """Whether it is ONLINE or about to be, as far as is known (seed)."""
        part = self._module_part
        if self.online or self.status is ModuleStatus.STARTING:
            return True
        return part.host is not None and part.unit.wanted and not part.unit.out

    @property
    def started(self) -> trio.Event:
        """Set when it comes online; replaced when the run ends (seed: ``StartCompleted``)."""
        return self._module_part.started_event

    @property
    def stopping(self) -> trio.Event:
        """Set when it begins to stop; replaced when the run ends (seed)."""
        return self._module_part.stopping_event

    async def wait_status(self, status: ModuleStatus) -> None:
        """Wait until it has this status, however briefly. Cancellation only ends the wait.

        Args:
            status: what to wait for.
        """
        if not isinstance(status, ModuleStatus):
            raise TypeError(f"status must be a ModuleStatus, got {status!r}")
        if self.status is status:
            await trio.lowlevel.checkpoint()
        else:
            await self._module_part.status_reached(status).wait()

    async def wait_online(self) -> None:
        """Wait until it is online. Cancellation only ends the wait."""
        await self.wait_status(ModuleStatus.ONLINE)

    @property
    def nursery(self) -> trio.Nursery:
        """Its nursery: an exception that escapes it is a crash (seed: ``Module.Ctx``).

        Raises:
            ModuleOffline: unless it is starting or online.
        """
        nursery = self._module_part.workers.nursery
        if nursery is None or self.status < ModuleStatus.STARTING:
            raise ModuleOffline(self.name, self.status.name, "give its nursery")
        return nursery

    def extend_timeout(self, seconds: float) -> None:
        """Move the deadline of the start or stop that is going on.

        Args:
            seconds: by how much later it is, at least 0.

        Raises:
            ModuleOffline: unless it is starting or stopping.
        """
        check_seconds("seconds", seconds, finite=True)
        if self.status not in (ModuleStatus.STARTING, ModuleStatus.STOPPING):
            raise ModuleOffline(self.name, self.status.name, "extend the time of a start or stop")
        self._module_part.life.extend_timeout(seconds)

    @contextmanager
    def interruptible(self) -> Iterator[trio.CancelScope]:
        """A scope that is cancelled when `stopping` is set: wait inside for work, do it outside.

        Raises:
            ModuleOffline: outside of a running app.
        """
        self._module_part.hosted  # noqa: B018
        life = self._module_part.life
        with trio.CancelScope() as scope:
            life.interruptible(scope)
            try:
                yield scope
            finally:
                life.not_interruptible(scope)

    # ------------------------------------------------------------ lifecycle functions

    @overload
    def on_prep(self, async_fn: FnT, *args: object) -> FnT: ...
    @overload
    def on_prep(self, async_fn: None = None) -> Callable[[FnT], FnT]: ...
    def on_prep(self, async_fn: AsyncFn | None = None, *args: object) -> object:
        """Declare a prep function: run before anything is started, in dependency order (seed).

        Args:
            async_fn: the function; several are run in order.
            args: what it is called with.

        Raises:
            TypeError: if it isn't async or can't take *args*.
            RuntimeError: while the module runs.
        """
        return self._lifecycle("on_prep", async_fn, args)

    @overload
    def on_start(self, async_fn: FnT, *args: object) -> FnT: ...
    @overload
    def on_start(self, async_fn: None = None) -> Callable[[FnT], FnT]: ...
    def on_start(self, async_fn: AsyncFn | None = None, *args: object) -> object:
        """Declare a start function: run when all dependencies are online (seed).

        Args:
            async_fn: the function; several are run in order.
            args: what it is called with.

        Raises:
            TypeError: if it isn't async or can't take *args*.
            RuntimeError: while the module runs.
        """
        return self._lifecycle("on_start", async_fn, args)

    @overload
    def on_stop(self, async_fn: FnT, *args: object) -> FnT: ...
    @overload
    def on_stop(self, async_fn: None = None) -> Callable[[FnT], FnT]: ...
    def on_stop(self, async_fn: AsyncFn | None = None, *args: object) -> object:
        """Declare a stop function: run, shielded, when all of the module's work has ended (seed).

        Args:
            async_fn: the function; several are run in reverse order.
            args: what it is called with.

        Raises:
            TypeError: if it isn't async or can't take *args*.
            RuntimeError: while the module runs.
        """
        return self._lifecycle("on_stop", async_fn, args)

    def _lifecycle(self, what: str, fn: AsyncFn | None, args: tuple[object, ...]) -> object:
        if fn is None:
            return functools.partial(self._lifecycle, what, args=())
        self._check_not_running(what)
        check_async(fn, what)
        check_call(fn, args, what)
        self._module_part.add_function(what, functools.partial(fn, *args) if args else fn)
        return fn

    def _check_not_running(self, what: str) -> None:
        if self.status > ModuleStatus.OFFLINE:
            raise RuntimeError(
                f"{what} can't be declared while module {self.name!r} is {self.status.name}"
            )

    @overload
    def lifespan(
        self, async_gen_fn: Callable[..., AsyncIterator[T]], *args: object
    ) -> Resource[T]: ...
    @overload
    def lifespan(
        self, async_gen_fn: None = None
    ) -> Callable[[Callable[[], AsyncIterator[T]]], Resource[T]]: ...
    def lifespan(
        self, async_gen_fn: Callable[..., AsyncIterator[object]] | None = None, *args: object
    ) -> object:
        """Declare an async generator function that yields once: around the module's whole run.

        It is entered before the start functions, in the module's task, and left after the stop
        functions, never with an exception of the module's. Several nest.

        Args:
            async_gen_fn: the generator function.
            args: what it is called with.

        Returns:
            the resource whose ``value`` is what it yields.

        Raises:
            TypeError: if it is no async generator function or can't take *args*.
            RuntimeError: while the module runs.
        """
        if async_gen_fn is None:
            return self.lifespan
        self._check_not_running("lifespan")
        resource = Resource(self._module_part, async_gen_fn, args)
        self._module_part.resources += (resource,)
        return resource

    # ------------------------------------------------------------ workers

    def start_worker(
        self,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
        *args: Unpack[ArgsT],
        name: str | None = None,
        grace_period: float = 0,
        cancel_scope: trio.CancelScope | None = None,
    ) -> None:
        """Begin a worker in the module's nursery and return at once (seed).

        It is counted from the call on. An exception of it is reported and ends it alone.

        Args:
            async_fn: the function, called with *args*.
            name: for logs and reports; the function's by default.
            grace_period: seconds that it may go on when the module stops.
            cancel_scope: a scope of yours that makes this worker alone cancellable.

        Raises:
            ModuleOffline: if the module takes no work now.
            TypeError: if the function isn't async or can't take *args*.
            ValueError: if the grace is more than three quarters of the stop time.
        """
        workers = self._module_part.workers
        if cancel_scope is None and not grace_period:
            workers.start(async_fn, args, name)
            return
        self._check_grace(grace_period)
        if cancel_scope is not None and not isinstance(cancel_scope, trio.CancelScope):
            raise TypeError(f"cancel_scope must be a trio.CancelScope, got {cancel_scope!r}")
        workers.start_scoped(async_fn, args, name, grace_period, cancel_scope)

    async def run_worker(
        self,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[T]],
        *args: Unpack[ArgsT],
        name: str | None = None,
    ) -> T:
        """Run a worker in the caller's task, counted as the module's (seed).

        Args:
            async_fn: the function, called with *args*.
            name: for logs and reports; the function's by default.

        Returns:
            what the function returns.

        Raises:
            ModuleOffline: if the module takes no work now, or stops before the function ends
                (the function is cancelled then).
            Exception: what the function raises, with a note that names module and worker.

        The caller's cancellation applies as usual.
        """
        return await self._module_part.workers.run(async_fn, args, name)

    def guarded(
        self, async_fn: Callable[P, Awaitable[object]], name: str | None = None
    ) -> Callable[P, Awaitable[None]]:
        """An async function that runs as a worker of the module in whatever task calls it (ours).

        Its exceptions are reported and go no further, so it can be handed to a server:
        ``trio.serve_tcp(web.guarded(handle), port)``. When the module stops, what runs is
        cancelled and its caller goes on; a call when it takes no work raises `ModuleOffline`.

        Args:
            async_fn: the function.
            name: for logs and reports; the function's by default.
        """
        return self._module_part.workers.guard(async_fn, name)

    def start_service_worker(
        self,
        async_fn: AsyncFn,
        *args: object,
        name: str | None = None,
        restart: Restart | None = None,
        backoff: float | Backoff | None = None,
        restart_on_return: bool = False,
        grace_period: float = 0,
    ) -> ServiceWorker:
        """Begin a worker that is restarted when it fails (seed; budget and capacity are ours).

        Returning or being cancelled ends it. Any exception is reported and restarts it after the
        backoff, with the failure warning ``<worker>:restarting`` until it has settled;
        `RestartNow` does so without backoff. Over budget it gives up, and the module crashes.

        Args:
            async_fn: the function, called with *args*, and with ``task_status`` if it takes it.
            name: for logs, reports and failures; the function's by default.
            restart: how often and how soon; without limit by default.
            backoff: seconds or a `Backoff`, in place of the one in *restart*.
            restart_on_return: restart it when it returns, too.
            grace_period: seconds that it may go on when the module stops.

        Returns:
            its handle.

        Raises:
            ModuleOffline: if the module takes no work now.
            TypeError, ValueError: if an argument isn't usable.
        """
        declaration = self._service(
            "start_service_worker", async_fn, args, name, restart, backoff, restart_on_return,
            grace_period,
        )  # fmt: skip
        return self._module_part.start_service(declaration)

    @overload
    def worker(
        self, async_fn: FnT, *args: object, name: str | None = ..., grace_period: float = ...
    ) -> FnT: ...
    @overload
    def worker(
        self, async_fn: None = None, *, name: str | None = ..., grace_period: float = ...
    ) -> Callable[[FnT], FnT]: ...
    def worker(
        self,
        async_fn: AsyncFn | None = None,
        *args: object,
        name: str | None = None,
        grace_period: float = 0,
    ) -> object:
        """Declare a worker that begins at every start; a decorator, bare or with options.

        Declared while the app runs, it goes with that run of the app; while the module runs, with
        that run of the module.

        Args:
            async_fn: the function, called with *args*.
            name: for logs and reports; the function's by default.
            grace_period: seconds that it may go on when the module stops.
        """
        if async_fn is None:
            return functools.partial(self.worker, name=name, grace_period=grace_period)
        check_async(async_fn, "worker")
        check_call(async_fn, args, "worker")
        self._check_grace(grace_period)
        self._module_part.declare(
            Declaration(
                make=lambda: async_fn,
                args=args,
                name=_label(name, async_fn),
                lasts=self._module_part.lasts_now(),
                service=False,
                grace_period=grace_period,
            )
        )
        return async_fn

    @overload
    def service_worker(
        self,
        async_fn: FnT,
        *args: object,
        name: str | None = ...,
        restart: Restart | None = ...,
        backoff: float | Backoff | None = ...,
        restart_on_return: bool = ...,
        grace_period: float = ...,
    ) -> FnT: ...
    @overload
    def service_worker(
        self,
        async_fn: None = None,
        *,
        name: str | None = ...,
        restart: Restart | None = ...,
        backoff: float | Backoff | None = ...,
        restart_on_return: bool = ...,
        grace_period: float = ...,
    ) -> Callable[[FnT], FnT]: ...
    def service_worker(
        self,
        async_fn: AsyncFn | None = None,
        *args: object,
        name: str | None = None,
        restart: Restart | None = None,
        backoff: float | Backoff | None = None,
        restart_on_return: bool = False,
        grace_period: float = 0,
    ) -> object:
        """Declare a service worker that begins at every start; a decorator, bare or with options.

        If the function has a parameter ``task_status``, the module isn't online before its first
        ``task_status.started()``. The options are those of `start_service_worker`; when it is
        declared decides how long for, as for `worker`.
        """
        if async_fn is None:
            return functools.partial(
                self.service_worker,
                name=name,
                restart=restart,
                backoff=backoff,
                restart_on_return=restart_on_return,
                grace_period=grace_period,
            )
        declaration = self._service(
            "service_worker", async_fn, args, name, restart, backoff, restart_on_return,
            grace_period,
        )  # fmt: skip
        self._module_part.declare(declaration)
        return async_fn

    def _service(
        self,
        what: str,
        async_fn: AsyncFn,
        args: tuple[object, ...],
        name: str | None,
        restart: Restart | None,
        backoff: float | Backoff | None,
        restart_on_return: bool,
        grace_period: float,
    ) -> Declaration:
        check_async(async_fn, what)
        task_status = takes_keyword(async_fn, "task_status")
        check_call(async_fn, args, what, "task_status" if task_status else None)
        self._check_grace(grace_period)
        return Declaration(
            make=lambda: async_fn,
            args=args,
            name=_label(name, async_fn),
            lasts="run" if what.startswith("start_") else self._module_part.lasts_now(),
            service=True,
            task_status=task_status,
            restart=_policy(restart, backoff),
            restart_on_return=restart_on_return,
            grace_period=grace_period,
        )

    @overload
    def every(
        self,
        interval: float,
        async_fn: FnT,
        *args: object,
        immediately: bool = ...,
        jitter: float = ...,
        missed: Literal["skip", "delay"] = ...,
        name: str | None = ...,
        restart: Restart | None = ...,
    ) -> FnT: ...
    @overload
    def every(
        self,
        interval: float,
        async_fn: None = None,
        *,
        immediately: bool = ...,
        jitter: float = ...,
        missed: Literal["skip", "delay"] = ...,
        name: str | None = ...,
        restart: Restart | None = ...,
    ) -> Callable[[FnT], FnT]: ...
    def every(
        self,
        interval: float,
        async_fn: AsyncFn | None = None,
        *args: object,
        immediately: bool = True,
        jitter: float = 0,
        missed: Literal["skip", "delay"] = "skip",
        name: str | None = None,
        restart: Restart | None = None,
    ) -> object:
        """Declare a service worker that calls a function on a fixed grid (ours).

        The grid is ``start + k * interval``, whatever the function takes; a failure restarts the
        worker after its backoff, and the grid stays.

        Args:
            interval: seconds from beat to beat, above 0.
            async_fn: the function, called with *args* at every beat.
            immediately: whether the first beat is at the start, or one interval later.
            jitter: each beat is late by up to so many seconds, less than the interval.
            missed: after an overrun, "skip" drops the beats that were missed, "delay" makes up
                for one at once and moves the grid there.
            name: for logs, reports and failures; the function's by default.
            restart: how often and how soon after failures.
        """
        _check_grid(interval, jitter, missed)
        if async_fn is None:
            return functools.partial(
                self.every,
                interval,
                immediately=immediately,
                jitter=jitter,
                missed=missed,
                name=name,
                restart=restart,
            )
        check_async(async_fn, "every")
        check_call(async_fn, args, "every")
        beat = functools.partial(async_fn, *args)

        def make() -> AsyncFn:
            return Grid(
                interval, beat, immediately=immediately, jitter=jitter, missed=missed,
                rng=lambda: self._module_part.rng,
            )  # fmt: skip

        self._module_part.declare(
            Declaration(
                make=make,
                args=(),
                name=_label(name, async_fn),
                lasts=self._module_part.lasts_now(),
                service=True,
                restart=_policy(restart, None),
            )
        )
        return async_fn

    # ------------------------------------------------------------ tasks

    def new_task(
        self, async_fn: Callable[[Task], Awaitable[object]], name: str | None = None
    ) -> Task:
        """Make a task: work that is queued, scheduled or repeated (seed).

        It does nothing until one of its methods orders it. It belongs to the module, so it can be
        made before the app runs, but it is ordered while the module is starting or online.

        Args:
            async_fn: the function, called with the task.
            name: for logs and reports; the function's by default.

        Raises:
            TypeError: if the function isn't async or can't be called with the task alone.
        """
        tasks = self._module_part.tasks_made or self._module_part.own_tasks
        kind = tasks.kind
        if kind is None or async_fn is not kind.fn:  # thousands of tasks may do the same
            check_async(async_fn, "new_task")
            check_call(async_fn, (_A_TASK,), "new_task")
            kind = tasks.kind = TaskKind(tasks, async_fn, callable_name(async_fn))
        if name is not None:
            check_identifier("name", name)
            kind = TaskKind(tasks, async_fn, name)
        return Task(kind)

    @overload
    def task(
        self,
        async_fn: Callable[Concatenate[Task, ...], Awaitable[object]],
        *args: object,
        every: float | None = ...,
        cron: str | None = ...,
        at: float | datetime | None = ...,
        name: str | None = ...,
        timezone: str | tzinfo = ...,
        jitter: float = ...,
        misfire: Literal["run-once", "skip"] = ...,
    ) -> Task: ...
    @overload
    def task(
        self,
        async_fn: None = None,
        *,
        every: float | None = ...,
        cron: str | None = ...,
        at: float | datetime | None = ...,
        name: str | None = ...,
        timezone: str | tzinfo = ...,
        jitter: float = ...,
        misfire: Literal["run-once", "skip"] = ...,
    ) -> Callable[[Callable[[Task], Awaitable[object]]], Task]: ...
    def task(
        self,
        async_fn: Callable[..., Awaitable[object]] | None = None,
        *args: object,
        every: float | None = None,
        cron: str | None = None,
        at: float | datetime | None = None,
        name: str | None = None,
        timezone: str | tzinfo = "UTC",
        jitter: float = 0,
        misfire: Literal["run-once", "skip"] = "run-once",
    ) -> object:
        """Declare a task, scheduled at every start; a decorator that returns the task (ours).

        Without a time it is not scheduled, and can be queued by its methods. When it is declared
        decides how long for, as for `worker`.

        Args:
            async_fn: the function, called with the task and *args*.
            every: repeat it, by so many seconds from each end; not below the app's
                ``min_repeat_interval``.
            cron: a cron line, as in ``"0 3 * * *"``; needs the extra ``cron``.
            at: the one time to run it at: an aware datetime, or seconds on Trio's clock.
            name: for logs and reports; the function's by default.
            timezone: the zone in which *cron* is meant, a name or a `datetime.tzinfo`.
            jitter: up to so many seconds later than *every* or *cron* say, each time anew.
            misfire: what becomes of a time that passes while the module is down or the machine
                asleep: "run-once" executes it once when that is over, "skip" drops it.

        Raises:
            TypeError, ValueError: if an argument isn't usable, or more than one time is given.
            ModuleOffline: while the module stops.
            ImportError: for *cron* without the extra.
        """
        if async_fn is None:
            return functools.partial(
                self.task,
                every=every,
                cron=cron,
                at=at,
                name=name,
                timezone=timezone,
                jitter=jitter,
                misfire=misfire,
            )
        check_async(async_fn, "task")
        check_call(async_fn, (_A_TASK, *args), "task")
        rhythm = _rhythm(every, cron, at, timezone, jitter, misfire)
        lasts = self._module_part.lasts_now()
        tasks, label = self._module_part.own_tasks, _label(name, async_fn)
        task = Task(TaskKind(tasks, _with_args(async_fn, args), label))
        self._module_part.declare_task(DeclaredTask(task, lasts, rhythm, at, misfire))
        return task

    # ------------------------------------------------------------ events

    def event(
        self,
        name: str,
        data_type: type[T] | None = None,
        *,
        internal: bool = False,
        check: bool = True,
    ) -> Event[T]:
        """An event of the module, the same object whenever it is asked for (seed: RegisterEvent).

        Without a type it is typed by annotation, and its data isn't checked:
        ``ticks: Event[list[int]] = module.event("ticks")``.

        Args:
            name: its name, non-empty and without ``/``.
            data_type: what its data has to be, checked when it is triggered; generics by their
                origin, and ``float`` takes an ``int``.
            internal: mark it as nobody else's business.
            check: whether to check the data at all.

        Raises:
            TypeError: if *data_type* is no type, or another one than before.
        """
        check_identifier("name", name)
        accepted = data_types(data_type) if data_type is not None and check else None
        events = self._module_part.own_events
        known = events.events.get(name)
        if known is None:
            outlet = Outlet(events, name, accepted)
            event: Event[T] = Event(outlet, internal=internal)
            events.add_event(outlet)
            return event
        if accepted is not None and not known.takes(accepted):
            raise TypeError(
                f"data_type of {known.full_name!r} must stay the same, got {data_type!r}"
            )
        return cast("Event[T]", known.face)

    @property
    def events(self) -> Mapping[str, Event[object]]:
        """Its events by name."""
        made = self._module_part.events_made
        return MappingProxyType(
            {} if made is None else cast("dict[str, Event[object]]", made.faces)
        )

    @overload
    def hook(
        self,
        event: Event[T],
        async_fn: None = None,
        *,
        name: str | None = ...,
        buffer: int = ...,
        overflow: Overflow = ...,
        concurrency: int = ...,
        batch: None = ...,
        retry: Backoff | None = ...,
    ) -> Callable[[Callable[[T], Awaitable[R]]], Callable[[T], Awaitable[R]]]: ...
    @overload
    def hook(
        self,
        event: Event[T],
        async_fn: None = None,
        *,
        name: str | None = ...,
        buffer: int = ...,
        overflow: Overflow = ...,
        concurrency: int = ...,
        batch: int,
        retry: Backoff | None = ...,
    ) -> Callable[
        [Callable[[Sequence[T]], Awaitable[R]]], Callable[[Sequence[T]], Awaitable[R]]
    ]: ...
    @overload
    def hook(
        self,
        event: Event[T],
        async_fn: Callable[Concatenate[T, ...], Awaitable[object]],
        *args: object,
        name: str | None = ...,
        buffer: int = ...,
        overflow: Overflow = ...,
        concurrency: int = ...,
        batch: None = ...,
        retry: Backoff | None = ...,
    ) -> Callable[Concatenate[T, ...], Awaitable[object]]: ...
    @overload
    def hook(
        self,
        event: Event[T],
        async_fn: Callable[Concatenate[Sequence[T], ...], Awaitable[object]],
        *args: object,
        name: str | None = ...,
        buffer: int = ...,
        overflow: Overflow = ...,
        concurrency: int = ...,
        batch: int,
        retry: Backoff | None = ...,
    ) -> Callable[Concatenate[Sequence[T], ...], Awaitable[object]]: ...
    @overload
    def hook(
        self,
        event: str,
        async_fn: None = None,
        *,
        name: str | None = ...,
        buffer: int = ...,
        overflow: Overflow = ...,
        concurrency: int = ...,
        batch: int | None = ...,
        retry: Backoff | None = ...,
    ) -> Callable[[FnT], FnT]: ...
    @overload
    def hook(
        self,
        event: str,
        async_fn: FnT,
        *args: object,
        name: str | None = ...,
        buffer: int = ...,
        overflow: Overflow = ...,
        concurrency: int = ...,
        batch: int | None = ...,
        retry: Backoff | None = ...,
    ) -> FnT: ...
    def hook(
        self,
        event: Event[T] | str,
        async_fn: AsyncFn | None = None,
        *args: object,
        name: str | None = None,
        buffer: int = 100,
        overflow: Overflow = Overflow.WAIT,
        concurrency: int = 1,
        batch: int | None = None,
        retry: Backoff | None = None,
    ) -> object:
        """Call a function with the data of every event, in the order triggered (seed).

        The function runs in the module's nursery. It begins when both this module and the event's
        are online; what is triggered before waits for it. A restart of the module loses nothing
        that waits. At a stop the hook goes on until it has handled what waits for it, for at most
        half of the stop time; what is left then is counted as dropped. An event that it has begun
        with counts as handled; with *retry* it is given again after a restart. Declared while the
        app runs, it goes with that run of the app; while the module runs, with that of the module.

        Args:
            event: the event, or its name as "module/event".
            async_fn: the function, called with the data and *args*.
            name: for logs and reports; the function's by default.
            buffer: how many events may wait for it, at least 1.
            overflow: what happens when more do: WAIT lets the sender wait, DROP_OLDEST and
                DROP_NEWEST count one as dropped.
            concurrency: how many events may be handled at a time; above 1 they begin in order.
            batch: hand over a sequence of what is there, at most so many, without lingering.
            retry: when the function fails, give it the same events again after this backoff, with
                the failure warning ``<hook>:retrying`` meanwhile.

        Raises:
            TypeError, ValueError: if an argument isn't usable.
            GraphError: while the app runs, if there is no such event; before, entering the app
                raises it.
            ModuleOffline: while the module stops.
        """
        _check_hook(event, buffer, overflow, concurrency, batch, retry)
        if async_fn is None:
            return functools.partial(
                self.hook,
                event,
                name=name,
                buffer=buffer,
                overflow=overflow,
                concurrency=concurrency,
                batch=batch,
                retry=retry,
            )
        check_async(async_fn, "hook")
        check_call(async_fn, (_THE_DATA, *args), "hook")
        label = _label(name, async_fn)
        hook = Hook(
            of=event if isinstance(event, str) else cast("Event[object]", event),
            fn=_with_args(async_fn, args),
            name=label,
            lasts=self._module_part.lasts_now(),
            inbox=self._module_part.own_events.new_inbox(label, buffer, overflow),
            concurrency=concurrency,
            batch=batch,
            retry=retry,
        )
        self._module_part.add_hook(hook)
        return async_fn

    def inject_event(self, source_event: Event[T] | str, target: str, data: object) -> None:
        """Trigger the event of another module in this one's name, like ``trigger_nowait`` (seed).

        Reports and statistics show the source.

        Args:
            source_event: an event of this module, or a name for one.
            target: the event to trigger, as "module/event".
            data: what the hooks are called with.

        Raises:
            ModuleOffline: if this module is neither starting nor online nor stopping.
            GraphError: if there is no such event.
            trio.WouldBlock: if a hook that says WAIT has no room; nobody gets it then.
            TypeError: if the data isn't of the type that the event was declared with.
        """
        if isinstance(source_event, str):
            source = f"{self.name}/{check_identifier('source_event', source_event)}"
        else:
            source = source_event.full_name
        self._module_part.event_to_inject(target).inject(data, source)

    # ------------------------------------------------------------ microtasks

    async def run_microtask(
        self,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[T]],
        *args: Unpack[ArgsT],
        priority: Priority = Priority.HIGH,
        max_delay: float | None = None,
        name: str | None = None,
    ) -> T:
        """Run short heavy work in the caller's task, when there is a slot for it (seed).

        A microtask within a microtask of one task uses the slot that it holds.

        Args:
            async_fn: the function, called with *args*.
            priority: HIGH begins at once, MEDIUM waits for a slot, LOW for one that MEDIUM leaves.
            max_delay: seconds after which it begins without a free slot; 3 by default for MEDIUM,
                15 for LOW.
            name: for logs and notes; the function's by default.

        Returns:
            what the function returns.

        Raises:
            ModuleOffline: if the module takes no work now, or stops before the function ends
                (the function is cancelled then).
            Exception: what the function raises, with a note that names module and microtask.

        The caller's cancellation applies as usual, while it waits, too.
        """
        check_async(async_fn, "run_microtask")
        check_call(async_fn, args, "run_microtask")
        label, workers = _label(name, async_fn), self._module_part.workers
        return await self._module_part.microtasks.run(
            lambda _: workers.seamed("microtask", label, async_fn)(*args),
            priority,
            max_delay,
            label,
        )

    def start_microtask(
        self,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
        *args: Unpack[ArgsT],
        priority: Priority = Priority.HIGH,
        max_delay: float | None = None,
        name: str | None = None,
    ) -> None:
        """Begin short heavy work in the module's nursery, when there is a slot for it (seed).

        It returns at once, and the work is counted from here on. An exception of it is reported.

        Args:
            async_fn: the function, called with *args*.
            priority: as for `run_microtask`.
            max_delay: as for `run_microtask`.
            name: for logs and reports; the function's by default.

        Raises:
            ModuleOffline: if the module takes no work now.
            TypeError, ValueError: if an argument isn't usable.
        """
        self._module_part.microtasks.start(async_fn, args, priority, max_delay, name)

    def microtask_slot(
        self, *, priority: Priority = Priority.HIGH, max_delay: float | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Hold a slot for the length of a block: ``async with module.microtask_slot():`` (ours).

        It cancels nothing: a stop of the module waits for the block.

        Args:
            priority: as for `run_microtask`.
            max_delay: as for `run_microtask`.

        Raises:
            ModuleOffline: on entering, if the module takes no work, or stops before there is a
                slot.

        Cancelled while it waits, it holds none.
        """
        return self._module_part.microtasks.slot(priority, max_delay)

    async def run_sync_microtask(
        self,
        sync_fn: Callable[[Unpack[ArgsT]], T],
        *args: Unpack[ArgsT],
        priority: Priority = Priority.HIGH,
        max_delay: float | None = None,
        name: str | None = None,
        where: Literal["thread", "process"] = "thread",
    ) -> T:
        """Run heavy sync code in a thread or in another process, when there is a slot (ours).

        Args:
            sync_fn: the function, called with *args*.
            priority: as for `run_microtask`.
            max_delay: as for `run_microtask`.
            name: for logs and notes; the function's by default.
            where: "thread", or "process", which needs the extra ``parallel`` and a function that
                can be imported there.

        Returns:
            what the function returns.

        Raises:
            ModuleOffline: if the module takes no work now, or stops before there is an answer.
            TypeError: if the function isn't sync, can't take *args* or can't be sent to a process.
            RuntimeError: if the process dies before it has answered; the next call gets another.
            ImportError: for a process without the extra.
            Exception: what the function raises, with a note.

        A thread can't be cancelled, so cancellation waits for it; a process is killed.
        """
        check_sync(sync_fn, args, "run_sync_microtask")
        label = _label(name, sync_fn)
        call: Callable[[Guest], Awaitable[T]]
        if where == "thread":
            threads = self._module_part.hosted.slots.threads
            call = lambda guest: in_thread(guest, sync_fn, args, threads)  # noqa: E731
        elif where == "process":
            check_portable(sync_fn, args, "run_sync_microtask")
            processes = self._module_part.hosted.processes
            call = lambda _: processes.run(self.name, label, sync_fn, args)  # noqa: E731
        else:
            raise ValueError(f"where must be 'thread' or 'process', got {where!r}")
        return await self._module_part.microtasks.run(call, priority, max_delay, label)

    async def run_sync(
        self,
        sync_fn: Callable[[Unpack[ArgsT]], T],
        *args: Unpack[ArgsT],
        limiter: trio.CapacityLimiter | None = None,
    ) -> T:
        """Run blocking sync code in a thread, counted as the module's, without a slot (ours).

        Args:
            sync_fn: the function, called with *args*.
            limiter: how many threads there may be; Trio's default one by default.

        Returns:
            what the function returns.

        Raises:
            ModuleOffline: if the module takes no work now.
            TypeError: if the function isn't sync or can't take *args*.
            Exception: what the function raises, with a note.

        A thread can't be cancelled, so cancellation waits for it; a stop that hangs on it shows
        where the thread is.
        """
        check_sync(sync_fn, args, "run_sync")
        return await self._module_part.workers.visit(
            lambda guest: in_thread(guest, sync_fn, args, limiter),
            callable_name(sync_fn),
            "thread",
        )

    def _check_grace(self, grace_period: float) -> None:
        check_seconds("grace_period", grace_period)
        unit = getattr(self._module_part, "unit", None)
        stop_timeout = self._module_spec.stop_timeout if unit is None else unit.stop_timeout
        if stop_timeout is not None and grace_period > _LARGEST_GRACE * stop_timeout:
            raise ValueError(
                f"grace_period must be at most three quarters of the stop_timeout of module "
                f"{self.name!r} ({stop_timeout:g} s), got {grace_period!r}"
            )

    # ------------------------------------------------------------ failures and reports

    @property
    def failures(self) -> Mapping[str, FailureStatus]:
        """All that is wrong with it now, by id (the seed had one slot)."""
        return self._module_part.failures.by_id

    @property
    def failure(self) -> FailureStatus:
        """The most severe failure, the newest among equals; of level NONE without any."""
        return self._module_part.worst_failure

    def set_hint(self, id: str, message: str, title: str = "") -> FailureStatus:  # noqa: A002
        """Say something worth knowing about a module that works (seed: ``Hint``).

        Args:
            id: for programs, without spaces and ``:``; it replaces what has the same id.
            message: for people.
            title: a headline for people.
        """
        return self._set(FailureLevel.HINT, id, message, title)

    def set_warning(self, id: str, message: str, title: str = "") -> FailureStatus:  # noqa: A002
        """Say that something is wrong that the module can live with (seed: ``Warning``).

        Args:
            id: for programs, without spaces and ``:``; it replaces what has the same id.
            message: for people.
            title: a headline for people.
        """
        return self._set(FailureLevel.WARNING, id, message, title)

    def set_error(self, id: str, message: str, title: str = "") -> FailureStatus:  # noqa: A002
        """Say that the module doesn't work as it should (seed: ``Error``).

        Args:
            id: for programs, without spaces and ``:``; it replaces what has the same id.
            message: for people.
            title: a headline for people.
        """
        return self._set(FailureLevel.ERROR, id, message, title)

    def _set(self, level: FailureLevel, failure_id: str, message: str, title: str) -> FailureStatus:
        _check_failure_id(failure_id)
        return self._module_part.set_failure(
            FailureStatus(level, failure_id, message, title, since=trio.current_time())
        )

    def resolve(self, id: str) -> bool:  # noqa: A002
        """Take a failure back; whether there was one of that id (seed).

        Args:
            id: the id that it was set with.
        """
        return self._module_part.resolve_failure(id)

    def resolve_all(self) -> None:
        """Take all failures back (seed: ``Resolve("")``)."""
        self._module_part.failures.resolve_all()

    def report_info(self, message: str) -> ModuleError:
        """Report a message, with severity "info" (seed: ``NewInfoMessage``).

        Args:
            message: for people.

        Raises:
            ModuleOffline: outside of a running app.
        """
        return self._report(ModuleError(message, self.name, severity="info", task_type="control"))

    def report_error(self, task_name: str, exc: BaseException) -> ModuleError:
        """Report an exception that you handled, with severity "error" (seed: ``NewErrorMessage``).

        Args:
            task_name: the name of what it happened in.
            exc: the exception.

        Raises:
            ModuleOffline: outside of a running app.
        """
        return self._report(ModuleError(shown(exc), self.name, task_name, exception=exc))

    def _report(self, error: ModuleError) -> ModuleError:
        reporter = self._module_part.hosted.reporter
        error.time = trio.current_time()
        reporter.report(error)
        return error

    # ------------------------------------------------------------ management

    @property
    def enabled(self) -> bool:
        """Whether it was enabled by name (seed)."""
        return self._module_spec.enabled

    @property
    def enabled_as_dependency(self) -> bool:
        """Whether an enabled module of its app depends on it, directly or not (seed)."""
        todo = [each for each in (self._module_spec.registry or {}).values() if each.enabled]
        seen = set(todo)
        while todo:
            for other in todo.pop().dependencies:
                if other is self:
                    return True
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return False

    def enable(self) -> bool:
        """Wish that it runs, and say whether that is new; `App.manage` makes it so (seed)."""
        return self.set_enabled(True)

    def disable(self) -> bool:
        """Wish that it doesn't run unless something needs it; `App.manage` makes it so (seed)."""
        return self.set_enabled(False)

    def set_enabled(self, enabled: bool) -> bool:
        """Set the wish, and say whether that changed it (seed).

        Args:
            enabled: whether it is to run in a managed app.
        """
        changed = self._module_spec.enabled is not bool(enabled)
        self._module_spec.enabled = bool(enabled)
        return changed


Module._public = frozenset(
    {name for name in vars(Module) if not name.startswith("_")}
    | {*Module.__slots__} - {"__weakref__"}
)


def _dependencies(
    argument: str, name: str, value: Iterable[Module | str]
) -> tuple[Module | str, ...]:
    found: list[Module | str] = []
    for item in check_names(argument, value):
        if not isinstance(item, (Module, str)):
            raise TypeError(f"{argument} must hold modules or their names, got {item!r}")
        check_identifier(argument, _name_of(item))
        found.append(item)
    return tuple(found)


def _name_of(module: Module | str) -> str:
    return module if isinstance(module, str) else module.name


def _timeout(name: str, value: float | None) -> float | None:
    return None if value is None else check_seconds(name, value)


def _label(name: str | None, fn: object) -> str:
    if name is None:
        return callable_name(fn)
    return check_identifier("name", name)


def _policy(restart: Restart | None, backoff: float | Backoff | None) -> Restart:
    policy = checked_policy(restart)
    if backoff is None:
        return policy
    if not isinstance(backoff, Backoff):
        backoff = Backoff(initial=check_seconds("backoff", backoff))
    return attrs.evolve(policy, backoff=backoff)


def _face(module: EventModule | TaskModule) -> Module:
    face = module.face
    assert isinstance(face, Module)
    return face


def _check_hook(
    event: object,
    buffer: int,
    overflow: Overflow,
    concurrency: int,
    batch: int | None,
    retry: Backoff | None,
) -> None:
    if isinstance(event, str):
        if event.count("/") != 1 or event.startswith("/") or event.endswith("/"):
            raise ValueError(f"event must be an Event or 'module/event', got {event!r}")
    elif not isinstance(event, Event):
        raise TypeError(f"event must be an Event or 'module/event', got {event!r}")
    check_count("buffer", buffer, minimum=1)
    check_count("concurrency", concurrency, minimum=1)
    if batch is not None:
        check_count("batch", batch, minimum=1)
    if not isinstance(overflow, Overflow):
        raise TypeError(f"overflow must be an Overflow, got {overflow!r}")
    if retry is not None and not isinstance(retry, Backoff):
        raise TypeError(f"retry must be a Backoff, got {retry!r}")


def _with_args(
    async_fn: Callable[..., Awaitable[object]], args: tuple[object, ...]
) -> Callable[..., Awaitable[object]]:
    return (lambda first: async_fn(first, *args)) if args else async_fn


def _rhythm(
    every: float | None,
    cron: str | None,
    at: float | datetime | None,
    timezone: str | tzinfo,
    jitter: float,
    misfire: Literal["run-once", "skip"],
) -> Rhythm | None:
    given = {"every": every, "cron": cron, "at": at}
    times = {name: value for name, value in given.items() if value is not None}
    if len(times) > 1:
        raise ValueError(f"only one of every, cron and at can be given, got {times!r}")
    check_misfire(misfire)
    check_seconds("jitter", jitter, finite=True)
    if cron is None and timezone != "UTC":
        raise ValueError(f"timezone can only be given with cron, got {timezone!r}")
    if jitter and every is None and cron is None:
        raise ValueError(f"jitter can only be given with every or cron, got {jitter!r}")
    if at is not None:
        check_at(at)
    if cron is not None:
        return cron_rhythm(cron, timezone, jitter, misfire)
    if every is None:
        return None
    if not check_seconds("every", every, finite=True):
        raise ValueError(f"every must be above 0, got {every!r}")
    return Rhythm(float(every), jitter=jitter)


def _check_grid(interval: float, jitter: float, missed: str) -> None:
    check_seconds("interval", interval, finite=True)
    if interval <= 0:
        raise ValueError(f"interval must be above 0, got {interval!r}")
    if not math.isfinite(check_seconds("jitter", jitter)) or jitter >= interval:
        raise ValueError(f"jitter must be less than the interval {interval!r}, got {jitter!r}")
    if missed not in ("skip", "delay"):
        raise ValueError(f"missed must be 'skip' or 'delay', got {missed!r}")


def _check_failure_id(failure_id: str) -> None:
    if not isinstance(failure_id, str):
        raise TypeError(f"id must be a string, got {failure_id!r}")
    if not failure_id or any(part.isspace() for part in failure_id):
        raise ValueError(
            "id must be non-empty and without spaces, "
            f"got {failure_id!r}, which looks like a message"
        )
    if ":" in failure_id:
        raise ValueError(
            f"id must not contain ':', which marks the framework's own, got {failure_id!r}"
        )
