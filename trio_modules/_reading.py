"""A hook and its readers: the tasks that take events out of its inbox and call its function.

What flows through: events, one at a time or several, from the inbox to the function, in the order
in which they were triggered. What may never happen: an event that is taken and then neither
handled nor given back; one that is handled by a reader that is cancelled, since it would be lost
to the next run; a reader that lets nobody else have a turn.
"""

# ruff: noqa: ASYNC105 - what a coroutine awaits, these generators yield from

from __future__ import annotations

import math
import operator
import random
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Literal, Protocol

import attrs
import trio

from trio_modules._backoff import Backoff
from trio_modules._events import BaseEvent, EventModule, Inbox, Injected, Outlet
from trio_modules._exceptions import add_note, shown
from trio_modules._failure import FailureLevel
from trio_modules._reporting import Reporter, take_apart
from trio_modules._seam import SeamedModule
from trio_modules._stepping import PARKED, TURN, Outermost
from trio_modules._util import coroutine_function
from trio_modules._workers import Workers

__all__ = ["Hook", "HookModule", "HookSource", "Reader", "ReadersHost"]

HookFn = Callable[..., Awaitable[object]]
HookCall = Callable[[object], Coroutine[object, Any, object]]

#: How many events a hook takes before it looks whether that takes too long.
LOOK = 16

#: How often it looks, and goes on, before everybody else has a turn.
LOOKS = 15


class HookModule(EventModule, SeamedModule, Protocol):
    """What hooks have to know of the module they belong to."""

    @property
    def workers(self) -> Workers: ...
    @property
    def rng(self) -> random.Random: ...
    def fail_with(self, level: FailureLevel, failure_id: str, message: str) -> None: ...
    def resolve_failure(self, failure_id: str) -> bool: ...
    def warn(self, message: str, *args: object) -> None: ...


class HookSource(Protocol):
    """The events of a module, as the hooks on them see it."""

    def unlink(self, hook: Hook) -> None:
        """That hook is no longer declared."""


class ReadersHost(Protocol):
    """What readers have to know of the hooks of their module.

    Attributes:
        module: the module.
        reporter: who takes the reports of what hooks raise.
        idle: set when a reader has nothing to read, while somebody waits for that.
    """

    @property
    def module(self) -> HookModule: ...
    @property
    def reporter(self) -> Reporter: ...
    @property
    def idle(self) -> trio.Event | None: ...

    def reader_begins(self, task: trio.lowlevel.Task, inbox: Inbox) -> None: ...
    def reader_ends(self, task: trio.lowlevel.Task) -> None: ...


@attrs.define(eq=False)
class Hook:
    """A hook as it was declared, with its inbox.

    Attributes:
        of: the event, or its name as "module/event".
        fn: the function, which takes the data alone, or a sequence of them.
        name: for logs and reports.
        lasts: how long it is declared for: "always", this run of the "app", or of the module.
        concurrency: how many may be handled at a time.
        batch: how many are handed over at a time; None for one, and no sequence.
        retry: how soon the same events are given again when it fails; None for never.
        call: the function, or what stands before it if a call of it may give no coroutine.
        event: the event, once it is known.
        source: the events that it is one of.
        is_open: whether the event puts its data into the inbox.
        begun: whether it reads in this run of its module.
        lost: how much it has dropped at this stop.
    """

    of: BaseEvent[object] | str
    fn: HookFn
    name: str
    lasts: Literal["always", "app", "run"]
    inbox: Inbox
    concurrency: int = 1
    batch: int | None = None
    retry: Backoff | None = None
    call: HookCall = attrs.field(init=False)
    event: Outlet | None = None
    source: HookSource | None = None
    is_open: bool = False
    begun: bool = False
    lost: int = 0

    def __attrs_post_init__(self) -> None:
        self.call = coroutine_function(self.fn)

    def open(self) -> None:
        """From now on it gets what is triggered."""
        if not self.is_open and self.event is not None:
            self.is_open = True
            self.event.connect(self.inbox)

    def close(self) -> None:
        """From now on it gets nothing, and what it has will never be handled."""
        if self.is_open and self.event is not None:
            self.is_open = False
            self.event.disconnect(self.inbox)
        self.lost += self.inbox.drop_all()


class Reader(Outermost):
    """One of the readers of a hook: the coroutine of its task, with what that waits with.

    An event may wake a hundred thousand, and what each of them holds has to come out of memory
    then. So there is one frame, that of a generator, since only such can yield to Trio by itself;
    and `send` is at hand: Trio asks for it at each wake-up, and a coroutine makes it anew.
    """

    __slots__ = ("_hook", "_host", "send")

    send: Callable[[object], object]
    _coro: Generator[object, Any, None]

    def __init__(self, host: ReadersHost, hook: Hook) -> None:
        self._host = host
        self._hook = hook
        self._coro = self._some() if hook.batch or hook.retry else self._each()
        self.send = self._coro.send

    cr_frame = property(operator.attrgetter("_coro.gi_frame"))
    cr_await = property(operator.attrgetter("_coro.gi_yieldfrom"))
    cr_running = property(operator.attrgetter("_coro.gi_running"))
    cr_suspended = property(operator.attrgetter("_coro.gi_suspended"))
    cr_code = property(operator.attrgetter("_coro.gi_code"))
    cr_origin = None

    def throw(self, *exc_info: Any) -> object:
        return self._coro.throw(*exc_info)

    def close(self) -> None:
        self._coro.close()

    def _begin(self) -> trio.lowlevel.Task:
        """Its first step; the task."""
        task = trio.lowlevel.current_task()
        self._hook.inbox.readers[task] = None
        self._host.reader_begins(task, self._hook.inbox)
        return task

    def _end(self, task: trio.lowlevel.Task) -> None:
        """Its last step."""
        event = self._hook.event
        assert event is not None
        self._hook.inbox.reader_ends(task)
        event.forget_room()
        self._host.reader_ends(task)

    # What comes in the step of a crash is for the next run, so a reader looks before each event
    # whether it is cancelled. It is not while the module's own task is parked, with the mark of
    # that: they share a nursery, and who cancels that wakes the one at once.

    @types.coroutine
    def _each(self) -> Generator[object, Any, None]:
        """Handle one event after the other; let everybody else have a turn between slices."""
        this = self._begin()
        host, call, inbox = self._host, self._hook.call, self._hook.inbox
        main, seam, outlet = host.module.main_task, host.module.seam, self._hook.event
        items = inbox.items
        assert main is not None
        assert outlet is not None
        left, looks, until = LOOK, LOOKS, trio.current_time() + TURN
        item: object
        data: object
        try:
            while True:
                if not items:
                    item = data = None  # nobody else may hold what was handled
                    inbox.park(this)
                    if host.idle is not None:
                        host.idle.set()
                    (yield PARKED).unwrap()
                    left, looks = LOOK, LOOKS
                    until = trio.current_time() + TURN if len(items) > LOOK else math.inf
                    continue  # who was woken may find that another was quicker
                if main.custom_sleep_data is None:
                    yield from trio.lowlevel.checkpoint_if_cancelled()
                left -= 1
                inbox.busy += 1
                try:
                    item = items.popleft()
                    if inbox.senders:
                        inbox.refill()
                    data = item.data if outlet.injects and type(item) is Injected else item
                    fn: HookCall = self._intercepted if seam.interceptors else call
                    yield from fn(data)
                except BaseException as exc:
                    left = looks = 0
                    self._failed(exc, [item])
                    yield from trio.lowlevel.checkpoint_if_cancelled()
                finally:
                    inbox.busy -= 1
                if left <= 0 and items:
                    left, looks = LOOK, looks - 1
                    if looks < 0 or trio.current_time() >= until:
                        yield from trio.lowlevel.checkpoint()
                        looks, until = LOOKS, trio.current_time() + TURN
        finally:
            self._end(this)

    @types.coroutine
    def _some(self) -> Generator[object, Any, None]:
        """Handle what is there, as many at a time as the hook says, until that has worked."""
        this, inbox = self._begin(), self._hook.inbox
        try:
            while True:
                while not inbox.items:
                    inbox.park(this)
                    if self._host.idle is not None:
                        self._host.idle.set()
                    (yield PARKED).unwrap()
                yield from trio.lowlevel.checkpoint_if_cancelled()
                yield from self._handle_some(inbox)
                if inbox.items:
                    yield from trio.lowlevel.checkpoint()
        finally:
            self._end(this)

    async def _handle_some(self, inbox: Inbox) -> None:
        count = min(len(inbox.items), self._hook.batch or 1)
        number, taken = inbox.take(count)
        is_done = False
        try:
            await self._give(taken)
            is_done = True
        finally:
            if is_done or self._hook.retry is None:
                inbox.busy -= count
            else:
                inbox.could_not_finish(number, taken)

    async def _intercepted(self, data: object) -> None:
        """Call what others put in the place of its function, this time."""
        hook = self._hook
        await self._host.module.around("hook", hook.name, hook.fn)(data)

    async def _give(self, taken: list[object]) -> None:
        hook, module = self._hook, self._host.module
        data = [item.data if isinstance(item, Injected) else item for item in taken]
        failures = 0
        while True:
            call = self._intercepted if module.seam.interceptors else hook.call
            try:
                await call(data[0] if hook.batch is None else data)
            except BaseException as exc:
                ends_app = self._failed(exc, taken)
                await trio.lowlevel.checkpoint_if_cancelled()
                why = shown(exc)
            else:
                break
            if hook.retry is None or ends_app:
                break
            failures += 1
            self._say_it_retries(failures, why)
            await trio.sleep(hook.retry.delay(failures, module.rng))
        if failures:
            module.resolve_failure(f"{hook.name}:retrying")

    def _say_it_retries(self, failures: int, why: str) -> None:
        message = f"will get the same events again after failure {failures}, which was {why}"
        failure_id = f"{self._hook.name}:retrying"
        self._host.module.fail_with(FailureLevel.WARNING, failure_id, message)

    def _failed(self, exc: BaseException, taken: list[object]) -> bool:
        """Report what a hook raised, or pass it on; whether that ends the app."""
        caught = take_apart(exc)
        self._host.reporter.pass_on(caught)
        if caught.failure is None:
            return bool(caught.fatal)
        for item in taken:
            if isinstance(item, Injected):
                add_note(caught.failure, f"with an event injected by {item.source!r}")
        self._host.module.workers.report(caught.failure, self._hook.name, "hook")
        return bool(caught.fatal)
