"""The events and hooks of one module: who reads them, from when on, and until when.

A hook's inbox is open while its module is wanted: from the wish on, before the module is up, and
through its restarts. Its readers are tasks in the module's nursery. They begin when both the
module and the event's are online, and read until the drain of the module's stop is over. What is
left after a stop for good, or after a start that failed for good, is dropped, counted and logged.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from typing import Literal, Protocol, TypeVar

import attrs
import trio
from trio.lowlevel import wait_task_rescheduled  # looked up for each event

from trio_modules._backoff import Backoff
from trio_modules._broadcast import Broadcast
from trio_modules._context import owner_var
from trio_modules._events import (
    BaseEvent,
    EventModule,
    Inbox,
    Injected,
    Occurrence,
    Outlet,
    Overflow,
    cycle_from,
)
from trio_modules._exceptions import GraphError, add_note, shown
from trio_modules._failure import FailureLevel
from trio_modules._order import near_misses
from trio_modules._reporting import Reporter, take_apart
from trio_modules._seam import AnyAsyncFn, SeamedModule
from trio_modules._status import HookInfo, ModuleStatus
from trio_modules._stepping import TURN
from trio_modules._timers import Timers
from trio_modules._workers import Workers

__all__ = ["EventRoom", "Hook", "HookModule", "ModuleEvents", "find_event"]

T = TypeVar("T")
HookFn = Callable[..., Awaitable[object]]
AbortFn = Callable[[object], trio.lowlevel.Abort]

#: How many events a hook takes before it looks whether that takes too long.
LOOK = 16

#: How often it looks, and goes on, before everybody else has a turn.
LOOKS = 15

#: What the names of the tasks that read for hooks begin with.
_READER = "<hook "

#: Seconds for which senders wait before somebody looks whether that can ever end.
CYCLE_PATIENCE = 5.0


class HookModule(EventModule, SeamedModule, Protocol):
    """What hooks have to know of the module they belong to."""

    @property
    def workers(self) -> Workers: ...
    @property
    def rng(self) -> random.Random: ...
    def fail_with(self, level: FailureLevel, failure_id: str, message: str) -> None: ...
    def resolve_failure(self, failure_id: str) -> bool: ...
    def warn(self, message: str, *args: object) -> None: ...


class EventRoom:
    """What the events of all modules of an app share.

    Attributes:
        everything: whoever listens to all events.
        reading: the tasks that read for hooks.
    """

    def __init__(self) -> None:
        self.everything: Broadcast[Occurrence] = Broadcast()
        self.reading: dict[trio.lowlevel.Task, Inbox] = {}


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
    event: Outlet | None = None
    source: ModuleEvents | None = None
    is_open: bool = False
    begun: bool = False
    lost: int = 0

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


class ModuleEvents:
    """The events of one module, and its hooks; the `Source` of its events.

    Attributes:
        open: whether its events can be triggered.
        events: its events by name.
        faces: the same, as users see them.
        listeners: the hooks of whatever module on its events.
    """

    def __init__(self, module: HookModule) -> None:
        self.module: HookModule = module
        self.open = False
        self.events: dict[str, Outlet] = {}
        self.faces: dict[str, BaseEvent[object]] = {}
        self.hooks: list[Hook] = []
        self.listeners: dict[Hook, ModuleEvents] = {}
        self._room: EventRoom | None = None
        self._reporter: Reporter | None = None
        self._timers: Timers | None = None
        self._context: Context | None = None
        self._idle: trio.Event | None = None
        self._slow: dict[Inbox, None] = {}

    @property
    def everything(self) -> Broadcast[Occurrence]:
        """Whoever listens to all events of the app."""
        assert self._room is not None
        return self._room.everything

    @property
    def reading(self) -> Mapping[trio.lowlevel.Task, Inbox]:
        """The tasks that read for hooks."""
        assert self._room is not None
        return self._room.reading

    # ------------------------------------------------------------ declarations

    def add_event(self, event: Outlet) -> None:
        """Take in a new event of the module."""
        self.events[event.name] = event
        self.faces[event.name] = event.face
        event.watched = self._room is not None and bool(self._room.everything)

    def watch(self) -> None:
        """Who listens has changed."""
        everything = self._room is not None and bool(self._room.everything)
        for event in self.events.values():
            event.watched = everything or bool(event.own)

    def new_inbox(self, name: str, size: int, overflow: Overflow) -> Inbox:
        return Inbox(f"{self.module.name}/{name}", self.module, size, overflow, self._is_slow)

    def _is_slow(self, inbox: Inbox) -> None:
        """Somebody waits for room in the inbox of a hook."""
        assert self._timers is not None
        if inbox not in self._slow:
            self._slow[inbox] = None
            self._timers.after(CYCLE_PATIENCE, functools.partial(self._look_for_cycle, inbox))

    def _look_for_cycle(self, inbox: Inbox) -> None:
        self._slow.pop(inbox, None)
        if not inbox.senders:
            return
        cycle = cycle_from(inbox)
        if not cycle:
            self._is_slow(inbox)  # it may yet become one
            return
        names = " -> ".join(each.name for each in [*cycle, inbox])
        self.module.warn("hooks with full buffers wait for each other: %s", names)

    def find(self, lookup: Callable[[str], ModuleEvents | None], known: Sequence[str]) -> None:
        """Find the events of all hooks.

        Raises:
            GraphError: if there is none of that name.
        """
        for hook in self.hooks:
            if hook.event is None:
                hook.event = self._found(hook, lookup, known)

    def _found(
        self, hook: Hook, lookup: Callable[[str], ModuleEvents | None], known: Sequence[str]
    ) -> Outlet:
        of = hook.of if isinstance(hook.of, str) else hook.of.full_name
        where = f"the event of hook {hook.name!r} of module {self.module.name!r}"
        event = find_event(of, lookup, known, where)
        if not isinstance(hook.of, str) and hook.of is not event.face:
            raise GraphError(f"{where} belongs to another module, got {hook.of!r}", (of,))
        return event

    # ------------------------------------------------------------ runs of app and module

    def attach(self, room: EventRoom, reporter: Reporter, timers: Timers, context: Context) -> None:
        """A run of the app begins."""
        self._room = room
        self._reporter = reporter
        self._timers = timers
        self._context = context
        for event in self.events.values():
            event.reset()
        for hook in self.hooks:
            hook.inbox.reset()
        self.watch()

    def link(self, lookup: Callable[[str], ModuleEvents | None]) -> None:
        """All events are known: tell the modules that they belong to of the hooks."""
        for hook in self.hooks:
            self.link_one(hook, lookup)

    def link_one(self, hook: Hook, lookup: Callable[[str], ModuleEvents | None]) -> None:
        """Tell the module of the event of one hook."""
        assert hook.event is not None
        source = lookup(hook.event.full_name.partition("/")[0])
        assert source is not None
        source.listeners[hook] = self
        hook.source = source

    def detach(self) -> None:
        """The run of the app is over."""
        self._keep(("always",))
        for hook in self.hooks:
            self._close(hook)
            hook.event = None
            if hook.source is not None:
                hook.source.listeners.pop(hook, None)
        self._slow.clear()
        for event in self.events.values():
            event.own.end()
        self.open = False
        self._room = None
        for event in self.events.values():
            event.watched = False

    def wish_changed(self) -> None:
        """Whether the module is wanted, and can come, has changed."""
        if self.module.is_coming:
            self._open_all()
        elif self.module.status <= ModuleStatus.OFFLINE:
            self.close_all()

    def _open_all(self) -> None:
        for hook in self.hooks:
            hook.open()

    def close_all(self) -> None:
        """Nothing will be handled any more: drop what is left, and say so."""
        for hook in self.hooks:
            self._close(hook)

    def _close(self, hook: Hook) -> None:
        hook.close()
        if not hook.inbox.readers:  # else these may yet give something back
            self._say_lost(hook)

    def _say_lost(self, hook: Hook) -> None:
        lost, hook.lost = hook.lost, 0
        if lost:
            self.module.warn("hook %s dropped %d events that were left", hook.name, lost)

    def status_changed(self, status: ModuleStatus) -> None:
        """The module has a new status."""
        if status is ModuleStatus.STARTING:
            self.open = True
            self._open_all()
        elif status is ModuleStatus.ONLINE:
            for hook in self.hooks:
                self._begin(hook)
            for hook, owner in list(self.listeners.items()):
                owner._begin(hook)
        elif status is ModuleStatus.OFFLINE:
            self.open = False
            if not self.module.is_coming:
                self.close_all()

    def run_ended(self) -> None:
        """A run of the module is over; its readers have ended."""
        for hook in self.hooks:
            hook.begun = False
        self._keep(("always", "app"))

    def _keep(self, lasting: tuple[str, ...]) -> None:
        for hook in self.hooks:
            if hook.lasts not in lasting:
                self._close(hook)
                if hook.event is not None:
                    hook.event.forget(hook.inbox)
                if hook.source is not None:
                    hook.source.listeners.pop(hook, None)
        self.hooks = [hook for hook in self.hooks if hook.lasts in lasting]

    # ------------------------------------------------------------ reading

    def add_hook(
        self, hook: Hook, lookup: Callable[[str], ModuleEvents | None], known: Sequence[str]
    ) -> None:
        """Take in a hook while the app runs."""
        hook.event = self._found(hook, lookup, known)
        self.hooks.append(hook)
        self.link_one(hook, lookup)
        # A module that isn't wanted any more keeps its hooks until it is its turn to stop.
        if self.module.is_coming or self.open:
            hook.open()
        self._begin(hook)

    def _begin(self, hook: Hook) -> None:
        """Read, if both modules are online."""
        nursery = self.module.workers.nursery
        online = self.module.status is ModuleStatus.ONLINE and hook.event is not None
        if hook.begun or nursery is None or not online:
            return
        assert hook.event is not None
        assert self._context is not None
        if hook.event.source.module.status is not ModuleStatus.ONLINE:
            return
        hook.begun = True
        start = functools.partial(nursery.start_soon, self._read, hook, name=_task_name(hook))
        for _ in range(hook.concurrency):
            self._context.copy().run(start)

    async def _read(self, hook: Hook) -> None:
        """One reader of a hook, from its beginning to its end."""
        assert self._room is not None
        assert hook.event is not None
        owner_var.set(self.module)
        this, inbox = trio.lowlevel.current_task(), hook.inbox

        def unpark(_: object) -> trio.lowlevel.Abort:
            inbox.parked.remove(this)
            return trio.lowlevel.Abort.SUCCEEDED

        inbox.readers[this] = None
        self._room.reading[this] = inbox
        read = self._read_some if hook.batch or hook.retry else self._read_each
        try:
            await read(hook, this, unpark)
        finally:
            del inbox.readers[this]
            if not inbox.readers:
                inbox.give_back()
                hook.event.forget_room()
            del self._room.reading[this]

    # What comes in the step of a crash is for the next run, so a reader that was woken looks first
    # whether it is cancelled. It is not while the module's own task is parked, with the mark of
    # that: they share a nursery, and who cancels that wakes the one at once.

    async def _read_each(self, hook: Hook, this: trio.lowlevel.Task, unpark: AbortFn) -> None:
        """Handle one event after the other; let everybody else have a turn between slices."""
        outlet, inbox = hook.event, hook.inbox
        main, seam = self.module.main_task, self.module.seam
        time, never = trio.lowlevel.current_clock().current_time, math.inf
        items, parked = inbox.items, inbox.parked
        assert main is not None
        assert outlet is not None
        while True:
            while not items:  # who was woken may find that another was quicker
                parked.append(this)
                if self._idle is not None:
                    self._idle.set()
                await wait_task_rescheduled(unpark)
                if main.custom_sleep_data is None:
                    await trio.lowlevel.checkpoint_if_cancelled()
            fn = self._function_of(hook) if seam.interceptors else hook.fn
            item, left, looks = None, LOOK, LOOKS
            until = time() + TURN if len(items) > LOOK else never
            inbox.busy += 1
            try:
                while items and (left or (looks and time() < until)):
                    if not left:
                        left, looks = LOOK, looks - 1
                    left -= 1
                    item = items.popleft()
                    if inbox.senders:
                        inbox.refill()
                    await fn(item.data if outlet.injects and type(item) is Injected else item)
            except BaseException as exc:
                self._failed(hook, exc, [item])
                await trio.lowlevel.checkpoint_if_cancelled()
            finally:
                inbox.busy -= 1
            if items:
                await trio.lowlevel.checkpoint()

    async def _read_some(self, hook: Hook, this: trio.lowlevel.Task, unpark: AbortFn) -> None:
        """Handle what is there, as many at a time as the hook says, until that has worked."""
        inbox = hook.inbox
        while True:
            while not inbox.items:
                inbox.parked.append(this)
                if self._idle is not None:
                    self._idle.set()
                await wait_task_rescheduled(unpark)
                await trio.lowlevel.checkpoint_if_cancelled()
            await self._handle_some(hook)
            if inbox.items:
                await trio.lowlevel.checkpoint()

    async def _handle_some(self, hook: Hook) -> None:
        inbox = hook.inbox
        count = min(len(inbox.items), hook.batch or 1)
        number, taken = inbox.take(count)
        is_done = False
        try:
            await self._give(hook, taken)
            is_done = True
        finally:
            if is_done or hook.retry is None:
                inbox.busy -= count
            else:
                inbox.unfinished.append((number, taken))

    def _function_of(self, hook: Hook) -> AnyAsyncFn:
        """What to call for one slice of events: its function, or what others put in its place."""
        if not self.module.seam.interceptors:
            return hook.fn

        def ask_each_time(data: object) -> Awaitable[object]:
            return self.module.around("hook", hook.name, hook.fn)(data)

        return ask_each_time

    async def _give(self, hook: Hook, taken: list[object]) -> None:
        data = [item.data if isinstance(item, Injected) else item for item in taken]
        failures = 0
        while True:
            try:
                await self._function_of(hook)(data[0] if hook.batch is None else data)
            except BaseException as exc:
                ends_app = self._failed(hook, exc, taken)
                await trio.lowlevel.checkpoint_if_cancelled()
                why = shown(exc)
            else:
                break
            if hook.retry is None or ends_app:
                break
            failures += 1
            self._say_it_retries(hook, failures, why)
            await trio.sleep(hook.retry.delay(failures, self.module.rng))
        if failures:
            self.module.resolve_failure(f"{hook.name}:retrying")

    def _say_it_retries(self, hook: Hook, failures: int, why: str) -> None:
        message = f"will get the same events again after failure {failures}, which was {why}"
        self.module.fail_with(FailureLevel.WARNING, f"{hook.name}:retrying", message)

    def _failed(self, hook: Hook, exc: BaseException, taken: list[object]) -> bool:
        """Report what a hook raised, or pass it on; whether that ends the app."""
        assert self._reporter is not None
        caught = take_apart(exc)
        self._reporter.pass_on(caught)
        if caught.failure is None:
            return bool(caught.fatal)
        for item in taken:
            if isinstance(item, Injected):
                add_note(caught.failure, f"with an event injected by {item.source!r}")
        self.module.workers.report(caught.failure, hook.name, "hook")
        return bool(caught.fatal)

    # ------------------------------------------------------------ stopping

    @property
    def has_to_drain(self) -> bool:
        """Whether hooks have something left that they should handle before the module stops."""
        return any(hook.begun for hook in self.hooks) and not self.module.is_coming

    async def drain(self, deadline: float) -> None:
        """Let the hooks handle what they have, until *deadline*; nothing is left to them then."""
        with trio.CancelScope(deadline=deadline):
            while any(hook.begun and _is_at_work(hook.inbox) for hook in self.hooks):
                self._idle = trio.Event()
                await self._idle.wait()
        self._idle = None
        self.close_all()

    def readers_ended(self) -> None:
        """All of them, before the stop functions: what can't be read in another run is dropped."""
        if not self.module.is_coming:
            self.close_all()
        for hook in self.hooks:
            self._say_lost(hook)

    def stop_triggering(self) -> None:
        """The stop functions have ended: its events can't be triggered any more."""
        self.open = False

    # ------------------------------------------------------------ status

    def infos(self) -> list[HookInfo]:
        """Its hooks, for people."""
        return [hook.inbox.info() for hook in self.hooks]

    @property
    def lost(self) -> int:
        """How much its hooks and the subscribers of its events have missed."""
        dropped = sum(hook.inbox.dropped for hook in self.hooks)
        return dropped + sum(event.own.lost for event in self.events.values())

    def is_reader(self, task: trio.lowlevel.Task) -> bool:
        """Whether a task of the module's nursery reads for a hook."""
        if self._room is not None and task in self._room.reading:
            return True
        # One that has not begun yet: there may be many hooks, and many tasks that are no readers.
        return task.name.startswith(_READER) and any(
            hook.begun and task.name == _task_name(hook) for hook in self.hooks
        )


def _is_at_work(inbox: Inbox) -> bool:
    return bool(inbox.items or inbox.busy)


def _task_name(hook: Hook) -> str:
    return f"{_READER}{hook.name}>"


def find_event(
    full_name: str,
    lookup: Callable[[str], ModuleEvents | None],
    known: Sequence[str],
    what: str,
) -> Outlet:
    """The event of that name.

    Raises:
        GraphError: if there is none, with the near misses.
    """
    name, _, event_name = full_name.partition("/")
    if name not in known:
        hint = near_misses(name, known)
        raise GraphError(f"{what} must exist, got {full_name!r}: no module {name!r}{hint}", (name,))
    whose = lookup(name)
    events = {} if whose is None else whose.events
    if event_name not in events:
        hint = near_misses(event_name, events)
        raise GraphError(
            f"{what} must exist, got {full_name!r}: module {name!r} has no event "
            f"{event_name!r}{hint}",
            (name,),
        )
    return events[event_name]
