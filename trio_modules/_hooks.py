"""The events and hooks of one module: who reads them, from when on, and until when.

A hook's inbox is open while its module is wanted: from the wish on, before the module is up, and
through its restarts. Its readers are tasks in the module's nursery. They begin when both the
module and the event's are online, and read until the drain of the module's stop is over. What is
left after a stop for good, or after a start that failed for good, is dropped, counted and logged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context

import trio

from trio_modules._broadcast import Broadcast
from trio_modules._context import owner_var
from trio_modules._events import BaseEvent, Inbox, Occurrence, Outlet, Overflow, cycle_from
from trio_modules._exceptions import GraphError
from trio_modules._order import near_misses
from trio_modules._reading import Hook, HookModule, Reader
from trio_modules._reporting import Reporter
from trio_modules._status import HookInfo, ModuleStatus
from trio_modules._stepping import start_in
from trio_modules._timers import Timers

__all__ = ["EventRoom", "ModuleEvents", "find_event"]

#: What the names of the tasks that read for hooks begin with.
_READER = "<hook "

#: Seconds for which senders wait before somebody looks whether that can ever end.
CYCLE_PATIENCE = 5.0


class EventRoom:
    """What the events of all modules of an app share.

    Attributes:
        everything: whoever listens to all events.
        reading: the tasks that read for hooks.
    """

    def __init__(self) -> None:
        self.everything: Broadcast[Occurrence] = Broadcast()
        self.reading: dict[trio.lowlevel.Task, Inbox] = {}


class ModuleEvents:
    """The events of one module, and its hooks; the `Source` of its events.

    Attributes:
        open: whether its events can be triggered.
        events: its events by name.
        faces: the same, as users see them.
        listeners: the hooks of whatever module on its events.
        idle: set when a reader has nothing to read, while the drain waits for that.
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
        self.idle: trio.Event | None = None
        self._slow: dict[Inbox, None] = {}

    @property
    def everything(self) -> Broadcast[Occurrence]:
        """Whoever listens to all events of the app."""
        assert self._room is not None
        return self._room.everything

    @property
    def reporter(self) -> Reporter:
        """Who takes the reports of what hooks raise."""
        assert self._reporter is not None
        return self._reporter

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
        event.watched = self._room is not None and bool(self._room.everything.listening)

    def watch(self) -> None:
        """Who listens has changed."""
        everything = self._room is not None and bool(self._room.everything.listening)
        for event in self.events.values():
            event.watched = everything or bool(event.own.listening)

    def new_inbox(self, name: str, size: int, overflow: Overflow) -> Inbox:
        return Inbox(f"{self.module.name}/{name}", self.module, size, overflow, self)

    def is_slow(self, inbox: Inbox) -> None:
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
            self.is_slow(inbox)  # it may yet become one
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
        self._context = context.copy()
        self._context.run(owner_var.set, self.module)
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

    def unlink(self, hook: Hook) -> None:
        """That hook is no longer declared, or the run of the app is over."""
        self.listeners.pop(hook, None)

    def detach(self) -> None:
        """The run of the app is over."""
        self._keep(("always",))
        for hook in self.hooks:
            self._close(hook)
            hook.event = None
            if hook.source is not None:
                hook.source.unlink(hook)
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
                    hook.source.unlink(hook)
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
        for _ in range(hook.concurrency):
            # In a copy, since an instrument of Trio's may do anything as a task begins.
            context = self._context.copy()
            context.run(start_in, nursery, Reader(self, hook), _task_name(hook))

    def reader_begins(self, task: trio.lowlevel.Task, inbox: Inbox) -> None:
        """A task of the module reads for a hook."""
        assert self._room is not None
        self._room.reading[task] = inbox

    def reader_ends(self, task: trio.lowlevel.Task) -> None:
        """It does no longer."""
        assert self._room is not None
        del self._room.reading[task]

    # ------------------------------------------------------------ stopping

    @property
    def has_to_drain(self) -> bool:
        """Whether hooks have something left that they should handle before the module stops."""
        return any(hook.begun for hook in self.hooks) and not self.module.is_coming

    async def drain(self, deadline: float) -> None:
        """Let the hooks handle what they have, until *deadline*; nothing is left to them then."""
        with trio.CancelScope(deadline=deadline):
            while any(hook.begun and _is_at_work(hook.inbox) for hook in self.hooks):
                self.idle = trio.Event()
                await self.idle.wait()
        self.idle = None
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
