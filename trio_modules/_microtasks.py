"""Microtasks: short heavy work that takes turns by means of slots.

What flows through here: work asks `Slots` for a slot, which decides at once or later, in one step,
who is next. Work in the caller's task is parked until then. Work that was started waits as a small
entry, and runs in a runner: a task in its module's nursery that runs one after the other. When one
has to wait for something, other runners take over what is left, so nobody is held up by it.

What may never happen: a slot that isn't given back, or is lost on its way to somebody who was
cancelled; work that waits for a slot and that a stop doesn't see.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, TypeVar

import trio

from trio_modules._context import owner_var
from trio_modules._exceptions import ModuleOffline
from trio_modules._reporting import Reporter, take_apart
from trio_modules._seam import AnyAsyncFn, Seam
from trio_modules._slots import Priority, SlotOrder, Waiter
from trio_modules._status import MicrotaskInfo
from trio_modules._stepping import TURN, WOKEN, begin
from trio_modules._timers import Timer, Timers
from trio_modules._util import Checked, awaiting, check_seconds
from trio_modules._workers import Guest, Workers

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    ArgsT = TypeVarTuple("ArgsT")

__all__ = ["Microtasks", "Slots"]

T = TypeVar("T")

#: How many microtasks may follow each other before everybody else has a turn.
SLICE = 64

_NO_CONTEXT = Context()

#: How many runners take over from one that has to wait, so that many are soon reached.
HEIRS = 2


class Slots:
    """The slots of an app, for one run of it.

    Attributes:
        order: who holds one and who is next.
        holders: the tasks that hold one.
        time: Trio's clock; asked for here, it costs a third.
        threads: for the microtasks in threads.
    """

    def __init__(self, timers: Timers, limit: int) -> None:
        self.order = SlotOrder(limit)
        self.threads = trio.CapacityLimiter(math.inf)  # the slots are what limits them
        self.holders: dict[trio.lowlevel.Task, None] = {}
        self.time = trio.lowlevel.current_clock().current_time
        self._timers = timers
        self._timer: Timer | None = None
        self._wake = math.inf

    def wait(self, waiter: Waiter, priority: Priority, patience: float) -> None:
        """Let the waiter wait until it is granted a slot, for so many seconds at most."""
        if self.order.wait(waiter, priority, self.time(), patience):
            self._set_wake()

    async def acquire(self, priority: Priority, patience: float) -> None:
        """Take a slot, if need be after waiting; a checkpoint.

        Cancelled, it holds none.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.order.enter(priority):
            await _Parked().wait(self, priority, patience)
            return
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        except BaseException:  # Ctrl-C
            self.order.leave()
            raise

    def _set_wake(self) -> None:
        when = self.order.next_time
        if when < self._wake:
            if self._timer is not None:
                self._timer.cancel()
            self._wake = when
            self._timer = self._timers.at(when, self._woke)

    def _woke(self) -> None:
        self._wake = math.inf
        self._timer = None
        self.order.lose_patience(self.time())
        self._set_wake()


class _Parked(Waiter):
    """A task that waits for a slot."""

    __slots__ = ("_slots", "_task")

    async def wait(self, slots: Slots, priority: Priority, patience: float) -> None:
        self._slots = slots
        self._task = trio.lowlevel.current_task()
        slots.wait(self, priority, patience)
        await trio.lowlevel.wait_task_rescheduled(self._give_up)

    def grant(self) -> None:
        trio.lowlevel.reschedule(self._task, WOKEN)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self._slots.order.give_up(self)
        return trio.lowlevel.Abort.SUCCEEDED


class _Entry(Waiter):
    """A microtask that was started and has not begun yet."""

    # A hundred thousand of these may be waiting, so the coroutine is made when it begins.
    __slots__ = ("_args", "_context", "_fn", "_microtasks", "name")

    def __init__(
        self,
        microtasks: Microtasks,
        fn: AnyAsyncFn,
        args: tuple[object, ...],
        context: Context,
        name: str,
    ) -> None:
        self._queued = False
        self._since = 0.0
        self._microtasks = microtasks
        self._fn: AnyAsyncFn | None = fn
        self._args = args
        self._context = context
        self.name = name

    def take(self) -> tuple[AnyAsyncFn, tuple[object, ...], Context] | None:
        """What to call, and in which context; None if it was dropped.

        It keeps nothing of that, since it may itself be kept for a while by who looked after it.
        """
        fn, args, context = self._fn, self._args, self._context
        self._fn, self._args, self._context = None, (), _NO_CONTEXT
        return None if fn is None else (fn, args, context)

    def grant(self) -> None:
        self._microtasks.granted(self)

    def drop(self) -> None:
        """See `Unborn`."""
        self._microtasks.dropped(self)


class Microtasks:
    """The microtasks of one module.

    Attributes:
        visitors: those in a task of somebody's, and whether each is "waiting" or "running".
    """

    NAME = "<microtasks>"

    def __init__(self, workers: Workers) -> None:
        self.visitors: dict[Guest, str] = {}
        self._workers = workers
        self._slots: Slots | None = None
        self._reporter: Reporter | None = None
        self._seam = Seam()
        self._checked = Checked()
        self._context: Context | None = None
        self._granted: deque[_Entry] = deque()
        self._coming = 0  # runners that have yet to look at what was granted
        self._runners: dict[trio.lowlevel.Task, _Entry | None] = {}

    def attach(self, slots: Slots, reporter: Reporter, context: Context) -> None:
        """A run of the app begins."""
        self._slots = slots
        self._reporter = reporter
        self._seam = self._workers.module.seam
        self._context = context

    # ------------------------------------------------------------ started

    def start(
        self,
        async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
        args: tuple[Unpack[ArgsT]],
        priority: Priority,
        max_delay: float | None,
        name: str | None,
    ) -> None:
        """Begin a microtask when there is a slot; see `Module.start_microtask`."""
        workers, slots = self._workers, self._slots
        nursery = workers.admit("start a microtask")
        assert slots is not None
        patience = _patience(priority, max_delay)
        label = self._checked.name_of(async_fn, args, "start_microtask")
        entry = _Entry(self, async_fn, args, copy_context(), name or label)
        workers.expect(entry)
        if not workers.open and nursery.cancel_scope.cancel_called:
            priority = Priority.HIGH  # late work of a module that stops: nobody would let it in
        if slots.order.enter(priority):
            self.granted(entry)
        else:
            slots.wait(entry, priority, patience)

    def granted(self, entry: _Entry) -> None:
        """A microtask has its slot: somebody has to run it."""
        self._granted.append(entry)
        if not self._coming:
            self._new_runners(1)

    def dropped(self, entry: _Entry) -> None:
        """A microtask will never begin, since its module stops."""
        assert self._slots is not None
        entry.take()
        self._workers.born(entry)
        self._workers.ended += 1
        if entry._queued:
            self._slots.order.give_up(entry)
        else:
            self._slots.order.leave()

    # ------------------------------------------------------------ runners

    def _new_runners(self, count: int) -> None:
        nursery = self._workers.nursery
        assert nursery is not None
        assert self._context is not None
        self._coming += count
        start = functools.partial(nursery.start_soon, self._run, name=self.NAME)
        for _ in range(count):
            self._context.copy().run(start)

    async def _run(self) -> None:
        """Run what has a slot, one after the other, until nothing is left."""
        assert self._slots is not None
        self._coming -= 1
        this = trio.lowlevel.current_task()
        self._slots.holders[this] = None
        try:
            await self._run_granted(this)
        finally:
            del self._slots.holders[this]
            self._runners.pop(this, None)

    async def _run_granted(self, this: trio.lowlevel.Task) -> None:
        while self._granted:
            waiting = self._run_some(this)
            if waiting is not None:
                await self._go_on(*waiting)
            elif self._granted:
                this.name = self.NAME
                self._runners[this] = None  # what it ran last has ended
                await trio.lowlevel.checkpoint()

    def _run_some(self, this: trio.lowlevel.Task) -> tuple[_Entry, Awaitable[object]] | None:
        """Run what ends in its first step, until one doesn't: that one, and its rest.

        Also ends after so many, or so long, that everybody else should have a turn.
        """
        assert self._slots is not None
        time = self._slots.time
        until = time() + TURN
        for _ in range(SLICE):
            if not self._granted or (now := time()) > until:
                return None
            entry = self._granted.popleft()
            call = entry.take()
            if call is None:
                continue
            self._workers.born(entry)
            entry._since = now
            this.name = entry.name
            self._runners[this] = entry
            try:
                rest = self._first_step(entry.name, *call)
            except BaseException as exc:
                self._failed(exc, entry.name)
                rest = None
            if rest is not None:
                return entry, rest
            self._ended()
        return None

    async def _go_on(self, entry: _Entry, rest: Awaitable[object]) -> None:
        """Wait for the end of a microtask, while others take over what is left."""
        if self._granted and not self._coming:
            self._new_runners(HEIRS)
        try:
            await rest
        except BaseException as exc:
            is_cancelled = self._failed(exc, entry.name)
        else:
            is_cancelled = False
        self._ended()
        if is_cancelled:
            await trio.lowlevel.checkpoint_if_cancelled()

    def _ended(self) -> None:
        """Give the slot of a microtask back; if it gets to one of ours, this runner comes to it."""
        assert self._slots is not None
        self._workers.ended += 1
        self._coming += 1
        self._slots.order.leave()
        self._coming -= 1

    def _first_step(
        self, name: str, fn: AnyAsyncFn, args: tuple[object, ...], context: Context
    ) -> Awaitable[object] | None:
        """Begin a microtask: its rest, or None if it is over."""
        module = self._workers.module
        if self._seam.interceptors:
            fn = module.around("microtask", name, fn)
        coro = fn(*args)
        if type(coro) is not CoroutineType:
            coro = awaiting(coro)
        owner = context.get(owner_var)
        if owner is not None and owner is not module:  # else it is found by its nursery
            context.run(owner_var.set, module)
        return begin(context, coro)

    def _failed(self, exc: BaseException, name: str) -> bool:
        """A microtask raised; whether it, and so the runner, was cancelled."""
        assert self._reporter is not None
        caught = take_apart(exc)
        self._reporter.pass_on(caught)
        if caught.failure is not None:
            self._workers.report(caught.failure, name, "microtask")
        return isinstance(caught.passing, trio.Cancelled)

    def is_runner(self, task: trio.lowlevel.Task) -> bool:
        """Whether a task of the module's nursery is one of ours."""
        return task in self._runners or task.name == self.NAME

    # ------------------------------------------------------------ in the caller's task

    async def run(
        self,
        call: Callable[[Guest], Awaitable[T]],
        priority: Priority,
        max_delay: float | None,
        name: str,
    ) -> T:
        """Run a microtask in the caller's task; see `Module.run_microtask`."""
        patience = _patience(priority, max_delay)

        async def wait_and_call(guest: Guest) -> T:
            self.visitors[guest] = "waiting"
            is_own = False
            try:
                is_own = await self._take(priority, patience)
                self.visitors[guest] = "running"
                return await call(guest)
            finally:
                self._give_back(is_own)
                del self.visitors[guest]

        return await self._workers.visit(wait_and_call, name, "microtask")

    async def _take(self, priority: Priority, patience: float) -> bool:
        """Take a slot, unless this task holds one already: whether it is to be given back."""
        assert self._slots is not None
        this = trio.lowlevel.current_task()
        if this in self._slots.holders:
            await trio.lowlevel.checkpoint()
            return False
        await self._slots.acquire(priority, patience)
        self._slots.holders[this] = None
        return True

    def _give_back(self, is_own: bool) -> None:
        assert self._slots is not None
        if is_own:
            del self._slots.holders[trio.lowlevel.current_task()]
            self._slots.order.leave()

    @asynccontextmanager
    async def slot(self, priority: Priority, max_delay: float | None) -> AsyncIterator[None]:
        """Hold a slot for the length of a block; see `Module.microtask_slot`."""
        patience = _patience(priority, max_delay)
        workers = self._workers
        guest = workers.enter("microtask slot", "take a microtask slot")
        self.visitors[guest] = "waiting"
        is_own = False
        try:
            with guest.scope:
                is_own = await self._take(priority, patience)
            if guest.scope.cancelled_caught:
                module = workers.module
                raise ModuleOffline(module.name, module.status.name, "take a microtask slot")
            guest.at_home = True  # from here on nobody cancels it
            self.visitors[guest] = "running"
            yield
        finally:
            self._give_back(is_own)
            del self.visitors[guest]
            workers.leave(guest)

    # ------------------------------------------------------------ status

    def infos(self) -> Iterator[MicrotaskInfo]:
        """What holds or waits for a slot, for people."""
        for unborn in self._workers.unborn or ():
            if isinstance(unborn, _Entry):
                yield MicrotaskInfo(unborn.name, "waiting", unborn._since)
        for entry in self._runners.values():
            if entry is not None:
                yield MicrotaskInfo(entry.name, "running", entry._since)
        for guest, state in self.visitors.items():
            yield MicrotaskInfo(guest.name, state, guest.since)


def _patience(priority: Priority, max_delay: float | None) -> float:
    if not isinstance(priority, Priority):
        raise TypeError(f"priority must be a Priority, got {priority!r}")
    if max_delay is None:
        return priority.patience
    return check_seconds("max_delay", max_delay)
