"""Everything that works for a module: its workers, counted, contained, cancelled and awaited.

Work is counted from the call on, so that a stop can't miss it. Workers live in the module's
nursery; work that runs in somebody else's task (`run`, `guard`) is a guest: it has a scope of its
own, which a stop cancels, and the stop waits until it has left.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import copy_context
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import trio

from trio_modules._context import HasMainTask, current_owner, owner_var
from trio_modules._exceptions import ModuleOffline, add_note
from trio_modules._reporting import Caught, Reporter, asked_for, take_apart
from trio_modules._seam import AnyAsyncFn, CallKind, Seam, SeamedModule
from trio_modules._status import ModuleStatus, WorkCounts
from trio_modules._stepping import Outermost, itself, start_in
from trio_modules._tasktree import format_thread
from trio_modules._util import callable_name, check_async, check_call, make_coroutine

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVarTuple, Unpack

    ArgsT = TypeVarTuple("ArgsT")
    P = ParamSpec("P")

__all__ = ["Guest", "Unborn", "WorkHost", "Workers", "WorkingModule"]

T = TypeVar("T")


class WorkHost(Protocol):
    """What a running app hands to the work of its modules."""

    @property
    def reporter(self) -> Reporter: ...
    @property
    def seam(self) -> Seam: ...


class WorkingModule(HasMainTask, SeamedModule, Protocol):
    """What the workers have to know of the module they work for."""

    @property
    def status(self) -> ModuleStatus: ...

    def has_within(self, task: trio.lowlevel.Task) -> bool:
        """Whether *task* is in the app's block, so that what it raises gets there by itself."""

    def crash(self, exc: BaseException) -> bool:
        """End the module because of *exc*; whether that raises it, so nobody has to report it."""


class Guest:
    """Work of the module in a task that isn't the module's, unless it is `at_home`.

    The module's own code can call `Workers.run`, too: its task is cancelled with the nursery.
    """

    __slots__ = ("at_home", "name", "scope", "since", "task", "thread")

    def __init__(self, name: str, *, at_home: bool) -> None:
        self.name = name
        self.at_home = at_home
        self.scope = trio.CancelScope()
        self.task = trio.lowlevel.current_task()
        self.since = trio.current_time()
        self.thread: int | None = None


class Unborn(Protocol):
    """Work that was taken and has not begun yet."""

    def drop(self) -> None:
        """It will never begin."""


class Workers:
    """The work of one module, in this and every other of its runs.

    Attributes:
        host: what the running app hands out, None outside of one.
        open: whether work from outside is taken.
        nursery: the module's nursery while it has one.
        stop_began: when the present stop began, None before that.
        started, ended: counted over one run of the app.
        guests: work in tasks that aren't the module's nursery's.
        unborn: work that was taken and waits to begin.
    """

    __slots__ = (
        "_all_left",
        "_graced",
        "ended",
        "guests",
        "host",
        "module",
        "nursery",
        "open",
        "started",
        "stop_began",
        "unborn",
    )

    def __init__(self, module: WorkingModule) -> None:
        self.module = module
        self.host: WorkHost | None = None
        self.open = False
        self.nursery: trio.Nursery | None = None
        self.stop_began: float | None = None
        self.started = 0
        self.ended = 0
        self.guests: dict[Guest, None] | None = None
        self.unborn: dict[Unborn, None] | None = None
        self._graced: dict[trio.CancelScope, float] | None = None
        self._all_left: trio.Event | None = None

    @property
    def reporter(self) -> Reporter:
        """Who takes the reports of what goes wrong."""
        assert self.host is not None
        return self.host.reporter

    # ------------------------------------------------------------ who may bring work

    def admit(self, what: str) -> trio.Nursery:
        """The nursery for new work; while the module stops, for its own code's alone.

        Raises:
            ModuleOffline: if the module takes no work now.
        """
        nursery = self.nursery
        if nursery is None or not (self.open or self._is_own_late_work(nursery)):
            raise ModuleOffline(self.module.name, self.module.status.name, what)
        return nursery

    def _is_own_late_work(self, nursery: trio.Nursery) -> bool:
        """Whether the module's own code asks, before all in the nursery has ended."""
        return current_owner() is self.module and not nursery._closed

    @property
    def counts(self) -> WorkCounts:
        return WorkCounts(self.started, self.started - self.ended, self.ended)

    # ------------------------------------------------------------ workers

    def start(
        self,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
        args: tuple[Unpack[ArgsT]],
        name: str | None,
    ) -> None:
        """Begin a worker; see `Module.start_worker`."""
        nursery = self.nursery
        if not self.open or nursery is None:
            nursery = self.admit("start a worker")
        label = name or callable_name(async_fn)
        coro = self.coroutine("worker", label, async_fn, args, "start_worker")
        self._spawn(nursery, _Contained(self, coro), label)

    def coroutine(
        self,
        kind: CallKind,
        name: str,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
        args: tuple[Unpack[ArgsT]],
        what: str,
    ) -> Coroutine[object, object, object]:
        """The call of a function, or of what others put in its place; *what* is for errors."""
        assert self.host is not None
        if not self.host.seam.interceptors:
            return make_coroutine(async_fn, args, what)
        check_async(async_fn, what)
        check_call(async_fn, args, what)
        return self._call_around(kind, name, async_fn, args)

    async def _call_around(
        self, kind: CallKind, name: str, async_fn: AnyAsyncFn, args: tuple[object, ...]
    ) -> object:
        return await self.module.around(kind, name, async_fn)(*args)

    def _spawn(
        self, nursery: trio.Nursery, coro: Coroutine[object, object, object], name: str
    ) -> None:
        owner = owner_var.get()
        if owner is None or owner is self.module:
            nursery.start_soon(itself, coro, name=name)
        else:
            context = copy_context()
            context.run(owner_var.set, self.module)
            context.run(start_in, nursery, coro, name)
        self.started += 1

    async def _contain_within(
        self, scope: trio.CancelScope, coro: Coroutine[object, object, object]
    ) -> None:
        try:
            with scope:
                await coro
        except BaseException as exc:
            self.failed(exc)
        finally:
            coro.close()  # it never began if the scope had been used before
            self.ended += 1

    def failed(self, exc: BaseException) -> None:
        """A worker raised, in a task of the module's nursery.

        A genuine cancellation ends here, too, since this is the first thing that such a task
        runs: the nursery whose scope was cancelled would drop it in any case.
        """
        caught = take_apart(exc)
        self.reporter.pass_on(caught)
        if caught.failure is not None:
            self.report(caught.failure, trio.lowlevel.current_task().name)

    def report(self, failure: BaseException, name: str, kind: str = "worker") -> None:
        """Report what some work raised, unless it asks for the end of the module, and gets it."""
        asked = asked_for(failure)
        if asked.module and self.module.crash(failure):
            return
        severity = "info" if asked.module and asked.quiet else "panic"
        self.reporter.caught(failure, self.module.name, name, kind, severity)

    def start_scoped(
        self,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
        args: tuple[Unpack[ArgsT]],
        name: str | None,
        grace_period: float,
        cancel_scope: trio.CancelScope | None,
    ) -> None:
        """Begin a worker in a scope: the caller's, one that outlives the stop, or both."""
        nursery = self.admit("start a worker")
        label = name or callable_name(async_fn)
        coro = self.coroutine("worker", label, async_fn, args, "start_worker")
        if cancel_scope is None:
            coro = _Contained(self, coro)
        else:
            coro = self._contain_within(cancel_scope, coro)
        if grace_period:  # outermost: only inside of its shield can be seen what was cancelled
            coro = self.graced(coro, grace_period)
        self._spawn(nursery, coro, label)

    def graced(
        self, coro: Coroutine[object, object, T], grace_period: float
    ) -> Coroutine[object, object, T | None]:
        """*coro* in a scope that the cancelled nursery doesn't reach until the grace is over."""
        scope = trio.CancelScope(shield=True)
        if self._graced is None:
            self._graced = {}
        self._graced[scope] = grace_period
        if self.stop_began is not None:
            scope.deadline = self.stop_began + grace_period
        return self._with_grace(scope, coro)

    async def _with_grace(
        self, scope: trio.CancelScope, coro: Coroutine[object, object, T]
    ) -> T | None:
        assert self._graced is not None
        try:
            with scope:
                return await coro
        finally:
            del self._graced[scope]
        return None

    # ------------------------------------------------------------ work that waits to begin

    def expect(self, unborn: Unborn) -> None:
        """Work was taken: it is counted from here on."""
        if self.unborn is None:
            self.unborn = {}
        self.unborn[unborn] = None
        self.started += 1

    def born(self, unborn: Unborn) -> None:
        """It begins, or never will."""
        assert self.unborn is not None
        del self.unborn[unborn]

    # ------------------------------------------------------------ guests

    async def run(
        self,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[T]],
        args: tuple[Unpack[ArgsT]],
        name: str | None,
    ) -> T:
        """Run a worker in the caller's task; see `Module.run_worker`."""
        check_async(async_fn, "run_worker")
        check_call(async_fn, args, "run_worker")
        label = name or callable_name(async_fn)

        async def call(_: Guest) -> T:
            await trio.lowlevel.checkpoint()
            return await self.seamed("worker", label, async_fn)(*args)

        return await self.visit(call, label, "worker")

    def seamed(
        self, kind: CallKind, name: str, fn: Callable[P, Awaitable[T]]
    ) -> Callable[P, Awaitable[T]]:
        """What to call in the place of *fn*, this time."""
        assert self.host is not None
        if not self.host.seam.interceptors:
            return fn
        return cast("Callable[P, Awaitable[T]]", self.module.around(kind, name, fn))

    async def visit(self, call: Callable[[Guest], Awaitable[T]], name: str, kind: str) -> T:
        """Await *call* in the caller's task, as work of the module.

        Raises:
            ModuleOffline: if the module takes no work now, or stops before it ends.
            Exception: what it raises, with a note.
        """
        guest = self.enter(name, f"run a {kind}")
        token = None
        try:
            if guest.at_home:
                return await call(guest)
            with guest.scope:
                token = owner_var.set(self.module)
                return await call(guest)
        except Exception as exc:
            add_note(exc, f"in {kind} {name!r} of module {self.module.name!r}")
            raise
        except BaseException as exc:
            self._pass_on(take_apart(exc))
            raise
        finally:
            if token is not None:
                owner_var.reset(token)
            self.leave(guest)
        raise ModuleOffline(self.module.name, self.module.status.name, f"finish {name!r}")

    def guard(
        self, async_fn: Callable[P, Awaitable[object]], name: str | None
    ) -> Callable[P, Awaitable[None]]:
        """An async function that runs as a worker wherever it is called; see `Module.guarded`."""
        check_async(async_fn, "guarded")
        label = name or callable_name(async_fn)

        async def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            guest = self.enter(label, f"run {label!r}")
            token = owner_var.set(self.module)
            try:
                with guest.scope:
                    await trio.lowlevel.checkpoint()
                    await self.seamed("worker", label, async_fn)(*args, **kwargs)
            except BaseException as exc:
                self._turn_away(exc, label)
            finally:
                owner_var.reset(token)
                self.leave(guest)

        guarded.__name__ = guarded.__qualname__ = label
        return guarded

    def _turn_away(self, exc: BaseException, name: str) -> None:
        """Report what a guarded function raised; the task isn't ours, so the rest goes on."""
        caught = take_apart(exc)
        self._pass_on(caught)
        if caught.failure is not None:
            self.report(caught.failure, name)
        if caught.passing is not None:
            raise caught.passing

    def _pass_on(self, caught: Caught) -> None:
        """What no guard may keep goes to the caller, and outside of the block to the app, too."""
        if caught.fatal and not self.module.has_within(trio.lowlevel.current_task()):
            self.reporter.pass_on(caught)

    def enter(self, name: str, what: str) -> Guest:
        """The calling task works for the module until `leave`; it is cancelled if not its own.

        Raises:
            ModuleOffline: if the module takes no work now.
        """
        self.admit(what)
        guest = Guest(name, at_home=current_owner() is self.module)
        if self.guests is None:
            self.guests = {}
        self.guests[guest] = None
        self.started += 1
        return guest

    def leave(self, guest: Guest) -> None:
        """The end of what `enter` began."""
        assert self.guests is not None
        del self.guests[guest]
        self.ended += 1
        if not self.guests and self._all_left is not None:
            self._all_left.set()

    # ------------------------------------------------------------ the end of it all

    @property
    def busy(self) -> bool:
        """Whether anything works for the module now."""
        if self.guests or self.unborn:
            return True
        return self.nursery is not None and bool(self.nursery.child_tasks)

    def cancel(self, reason: str, *, with_grace: bool) -> None:
        """Cancel the nursery and the guests; those with a grace period when that has run out."""
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel(reason=reason)
        for guest in list(self.guests or ()):
            if not guest.at_home:
                guest.scope.cancel(reason=reason)
        for unborn in list(self.unborn or ()):
            unborn.drop()
        for scope, grace in list((self._graced or {}).items()):
            if with_grace and self.stop_began is not None:
                scope.deadline = self.stop_began + grace
            else:
                scope.cancel(reason=reason)

    def thread_stacks(self, indent: str) -> Iterator[str]:
        """The lines of the stacks of all threads that work for the module."""
        for guest in self.guests or ():
            if guest.thread is not None:
                yield from format_thread(guest.name, guest.thread, indent)

    async def guests_left(self) -> None:
        """Wait until no guest is left, shielded, since nothing may outlive the module."""
        with trio.CancelScope(shield=True):
            while self.guests:
                self._all_left = trio.Event()
                await self._all_left.wait()
        self._all_left = None


async def _ended() -> None:
    """What a worker is when it is over."""


_ENDED = _ended()
_ENDED.close()


def _not_begun() -> Iterator[None]:
    yield  # its own frames are there with its first step


_STAND_IN = _not_begun()
next(_STAND_IN)


class _Contained(Outermost):
    """The coroutine of a worker, whose exceptions end here.

    There may be a hundred thousand: a real coroutine around the worker's own would cost four times
    as much. Whoever walks the stack of the task sees the worker's frames once it has begun.
    """

    __slots__ = ("_workers",)

    def __init__(self, workers: Workers, coro: Coroutine[object, object, object]) -> None:
        self._workers = workers
        self._coro = coro

    @property
    def cr_frame(self) -> FrameType | None:
        """Its frame; one that stands in for it until it has begun.

        Trio asks for it when it makes the task, since it takes what has none for code that isn't
        Python. A coroutine makes its frame an object when it is asked for it, which costs as much
        as all that is ours of a worker, most of it when the garbage collector comes along.
        """
        coro: Any = self._coro
        if sys.version_info < (3, 11) or coro.cr_suspended or coro.cr_running:
            return cast("FrameType | None", coro.cr_frame)
        return None if coro is _ENDED else _STAND_IN.gi_frame

    def send(self, value: object) -> object:
        try:
            return self._coro.send(value)
        except StopIteration:
            self._coro = _ENDED
            self._workers.ended += 1
            raise
        except BaseException as exc:
            self._fail(exc)
        raise StopIteration

    def throw(self, *exc_info: Any) -> object:
        try:
            return self._coro.throw(*exc_info)
        except StopIteration:
            self._coro = _ENDED
            self._workers.ended += 1
            raise
        except BaseException as exc:
            self._fail(exc)
        raise StopIteration

    def _fail(self, exc: BaseException) -> None:
        self._coro = _ENDED
        try:
            self._workers.failed(exc)
        finally:
            self._workers.ended += 1

    def close(self) -> None:
        self._coro.close()
        self._coro = _ENDED
