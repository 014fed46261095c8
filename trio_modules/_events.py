"""Events and the inboxes of their hooks: what is triggered, accepted, handled, and dropped.

What flows through here: an event puts its data into the inbox of every hook that is open. A full
inbox lets the sender wait, or drops something, as the hook has said. The hook's readers, in
`_reading`, take the data out, and so make room for those who wait, in their order.

What may never happen: data that is accepted and then neither handled nor counted as dropped, or
handled out of order; a sender that waits for somebody who will never read; an item in an inbox
whose reader isn't woken, not even if Ctrl-C comes in between.
"""

from __future__ import annotations

import enum
import types
import typing
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

import attrs
import trio
from trio.lowlevel import checkpoint, enable_ki_protection, reschedule  # looked up each time

from trio_modules._broadcast import Broadcast
from trio_modules._context import HasMainTask, current_owner
from trio_modules._exceptions import EventDeadlock, ModuleOffline
from trio_modules._status import HookInfo, ModuleStatus
from trio_modules._stepping import WOKEN

__all__ = [
    "BaseEvent",
    "EventModule",
    "EventStatistics",
    "HookStatistics",
    "Inbox",
    "Injected",
    "Occurrence",
    "Outlet",
    "Overflow",
    "Source",
    "cycle_from",
    "data_types",
]

T = TypeVar("T")

#: So many can be triggered before somebody looks for room where nobody needs any.
_MUCH = 1_000_000

#: The classes of data that isn't checked.
ANYTHING: tuple[type, ...] = (object,)


class Overflow(enum.Enum):
    """What becomes of an event when the buffer of a hook is full."""

    WAIT = "wait"
    DROP_OLDEST = "drop-oldest"
    DROP_NEWEST = "drop-newest"


@attrs.frozen
class Occurrence:
    """One event of an app, as `App.subscribe` tells it.

    Attributes:
        event: the event.
        data: what it was triggered with.
        time: when, on Trio's clock in seconds.
        source: in whose name it was injected, as "module/event"; "" if it wasn't.
    """

    event: BaseEvent[object]
    data: object
    time: float
    source: str = ""


@attrs.frozen
class HookStatistics:
    """One hook of an event.

    Attributes:
        hook: its name, as "module/hook".
        accepted: how many events it has accepted.
        delivered: how many of them it has handled.
        handling: how many it is handling.
        backlog: how many wait for it.
        dropped: how many it has missed.
        senders_waiting: how many triggers wait until it has room.
    """

    hook: str
    accepted: int
    delivered: int
    handling: int
    backlog: int
    dropped: int
    senders_waiting: int


@attrs.frozen
class EventStatistics:
    """One event, in this run of the app.

    Attributes:
        triggered: how often it was triggered.
        delivered: how often a hook has handled it, over all of them.
        dropped: how often a hook or a subscription has missed it.
        hooks: the hooks that get it now; those of modules that are stopped get nothing.
        closed: the declared hooks that don't, but did before.
        injected: how often it was injected in whose name, by "module/event".
    """

    triggered: int
    delivered: int
    dropped: int
    hooks: tuple[HookStatistics, ...]
    closed: tuple[HookStatistics, ...]
    injected: Mapping[str, int]


class EventModule(HasMainTask, Protocol):
    """What events have to know of the module they belong to."""

    @property
    def face(self) -> object: ...
    @property
    def status(self) -> ModuleStatus: ...
    @property
    def in_lifecycle_function(self) -> bool: ...
    @property
    def is_coming(self) -> bool: ...
    def holds_online_back(self, tasks: Sequence[trio.lowlevel.Task]) -> bool: ...


class Source(Protocol):
    """The events of one module, as each of them sees it."""

    @property
    def module(self) -> EventModule: ...
    @property
    def open(self) -> bool: ...
    @property
    def everything(self) -> Broadcast[Occurrence]: ...
    @property
    def reading(self) -> Mapping[trio.lowlevel.Task, Inbox]: ...
    def watch(self) -> None: ...


class Keeper(Protocol):
    """Whoever looks after an inbox."""

    def is_slow(self, inbox: Inbox) -> None:
        """Somebody waits for room in it."""


class Injected:
    """What was injected, while it waits in an inbox."""

    __slots__ = ("data", "source")

    def __init__(self, data: object, source: str) -> None:
        self.data = data
        self.source = source


class Inbox:
    """The buffer of one hook, and the tasks that wait for room in it.

    There may be a hundred thousand, so what most of them never need is made when they do.

    Attributes:
        name: the hook, as "module/hook".
        module: the module that the hook belongs to.
        keeper: who is told when somebody begins to wait for room.
        size: how much it holds.
        overflow: what happens when it is full.
        items: what waits for the hook.
        parked: the reader that waits for something, and is woken next; None if nobody does.
        parked_too: others that do, the next of them last.
        readers: the tasks that read.
        busy: how many of them are handling something.
        senders: the tasks that wait for room, if any ever did.
        blocked_on: the inboxes for which the hook's own triggers wait, if any ever did.
        outlet: what it gets, None while it gets nothing.
        dropped: counted over one run of the app.
        taken: how often readers have taken something that they may have to give back.
        unfinished: what they couldn't handle, each with the number of the taking, if anything.
    """

    __slots__ = (
        "_beside",
        "blocked_on",
        "busy",
        "dropped",
        "items",
        "keeper",
        "module",
        "name",
        "outlet",
        "overflow",
        "parked",
        "parked_too",
        "readers",
        "senders",
        "size",
        "taken",
        "unfinished",
        "waits",
    )

    def __init__(
        self,
        name: str,
        module: EventModule,
        size: int,
        overflow: Overflow,
        keeper: Keeper,
    ) -> None:
        self.name = name
        self.module = module
        self.keeper = keeper
        self.size = size
        self.overflow = overflow
        self.waits = overflow is Overflow.WAIT
        self.items: deque[object] = deque()
        self.parked: trio.lowlevel.Task | None = None
        self.parked_too: list[trio.lowlevel.Task] | None = None
        self.readers: dict[trio.lowlevel.Task, None] = {}
        self.senders: deque[_Sender] | None = None
        self.blocked_on: list[Inbox] | None = None
        self.busy = 0
        self.taken = 0
        self.unfinished: list[tuple[int, list[object]]] | None = None
        self.outlet: Outlet | None = None
        self.dropped = 0
        self._beside = 0

    @property
    def accepted(self) -> int:
        """How many it has accepted, in this run of the app.

        That is all that is triggered while it is connected: only what differs is counted.
        """
        return self._beside if self.outlet is None else self.outlet.triggered + self._beside

    @property
    def senders_waiting(self) -> int:
        return len(self.senders or ())

    def reset(self) -> None:
        """A run of the app begins."""
        self._beside -= self.accepted
        self.dropped = 0

    def connect(self, outlet: Outlet) -> None:
        """From now on it gets what that delivers."""
        self._beside -= outlet.triggered
        self.outlet = outlet

    def disconnect(self) -> None:
        """From now on it gets nothing."""
        self._beside, self.outlet = self.accepted, None

    def misses_one(self) -> None:
        """It doesn't accept what is being delivered, or no longer what it had."""
        self._beside -= 1

    def make_room(self) -> bool:
        """Make room in a full inbox, or drop the newest; whether there is room then."""
        self.dropped += 1
        self.misses_one()
        if self.overflow is Overflow.DROP_NEWEST:
            return False
        self.items.popleft()
        return True

    @enable_ki_protection
    def refill(self) -> None:
        """There is room: those who wait for it are next, first come first served."""
        while self.senders and len(self.items) < self.size:
            sender = self.senders.popleft()
            self.items.append(sender.data)
            self._beside += 1
            sender.done(self)
            self.wake()

    def park(self, reader: trio.lowlevel.Task) -> None:
        """That reader is about to wait for something; the last who came is woken first."""
        if self.parked is not None:
            if self.parked_too is None:
                self.parked_too = []
            self.parked_too.append(self.parked)
        self.parked = reader
        reader.custom_sleep_data = self

    def wake(self) -> None:
        """There is something: let a reader go on, if one waits.

        Trio takes the mark from whoever was cancelled, and goes on without us.
        """
        while self.parked is not None:
            reader, self.parked = self.parked, self.parked_too.pop() if self.parked_too else None
            if reader.custom_sleep_data is not None:
                reschedule(reader, WOKEN)
                return

    def reader_ends(self, reader: trio.lowlevel.Task) -> None:
        """That reader was cancelled, perhaps while it waited."""
        del self.readers[reader]
        if self.parked is reader:
            self.parked = self.parked_too.pop() if self.parked_too else None
        elif self.parked_too is not None and reader in self.parked_too:
            self.parked_too.remove(reader)
        if not self.readers:
            self.give_back()

    def take(self, count: int) -> tuple[int, list[object]]:
        """Take the next ones out; the number of the taking, and what it was."""
        taken = [self.items.popleft() for _ in range(count)]
        self.taken += 1
        self.busy += count
        if self.senders:
            self.refill()
        return self.taken, taken

    def could_not_finish(self, number: int, taken: list[object]) -> None:
        """A reader ends before it has handled what it took."""
        if self.unfinished is None:
            self.unfinished = []
        self.unfinished.append((number, taken))

    def give_back(self) -> None:
        """All readers have ended: what they couldn't handle is next, in the order triggered."""
        unfinished, self.unfinished = self.unfinished or [], None
        unfinished.sort(key=_number, reverse=True)
        for _, taken in unfinished:
            self.busy -= len(taken)
            self.items.extendleft(reversed(taken))

    def expect(self, sender: _Sender) -> None:
        """A sender waits for room."""
        if self.senders is None:
            self.senders = deque()
        self.senders.append(sender)
        if len(self.senders) == 1:
            self.keeper.is_slow(self)

    def no_longer_expect(self, sender: _Sender) -> None:
        """A sender gives up."""
        assert self.senders is not None
        self.senders.remove(sender)
        self.dropped += 1

    def drop_all(self) -> int:
        """Nobody will read any more: drop what is there, and let those go who wait."""
        lost = len(self.items) + self.senders_waiting
        self._beside -= len(self.items)
        self.items.clear()
        self.dropped += lost
        while self.senders:
            self.senders.popleft().done(self)
        return lost

    def statistics(self) -> HookStatistics:
        backlog = len(self.items)
        return HookStatistics(
            hook=self.name,
            accepted=self.accepted,
            delivered=self.accepted - backlog - self.busy,
            handling=self.busy,
            backlog=backlog,
            dropped=self.dropped,
            senders_waiting=self.senders_waiting,
        )

    def info(self) -> HookInfo:
        figures = self.statistics()
        return HookInfo(
            name=self.name.partition("/")[2],
            backlog=figures.backlog,
            delivered=figures.delivered,
            dropped=figures.dropped,
            handling=figures.handling,
        )


def _number(unfinished: tuple[int, list[object]]) -> int:
    return unfinished[0]


class _Sender:
    """A task that waits until some inboxes have room for what it sends."""

    __slots__ = ("_inboxes", "_task", "data", "inside")

    def __init__(self, data: object, inboxes: dict[Inbox, None], inside: Inbox | None) -> None:
        self.data = data
        self.inside = inside
        self._inboxes = inboxes
        self._task = trio.lowlevel.current_task()

    async def wait(self) -> None:
        """Wait for all of them; cancelled, those that have not taken it count it as dropped."""
        for inbox in list(self._inboxes):
            inbox.expect(self)
            if self.inside is not None:
                self._block(self.inside, inbox)
        await trio.lowlevel.wait_task_rescheduled(self._give_up)

    def done(self, inbox: Inbox) -> None:
        """That inbox has taken it, or will never."""
        self._unblock(inbox)
        del self._inboxes[inbox]
        if not self._inboxes:
            reschedule(self._task, WOKEN)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        for inbox in self._inboxes:
            inbox.no_longer_expect(self)
            self._unblock(inbox)
        return trio.lowlevel.Abort.SUCCEEDED

    def _block(self, inside: Inbox, inbox: Inbox) -> None:
        if inside.blocked_on is None:
            inside.blocked_on = []
        inside.blocked_on.append(inbox)

    def _unblock(self, inbox: Inbox) -> None:
        if self.inside is not None and self.inside.blocked_on is not None:
            self.inside.blocked_on.remove(inbox)


class Outlet:
    """An event as the framework sees it: who gets what is triggered, and what became of it.

    Attributes:
        source: the events that it is one of.
        name: its name.
        accepted: the classes of its data.
        inboxes: the hooks that get it now.
        own: whoever listens to it alone.
        watched: whether anybody listens, to it or to all.
        triggered: how often it was triggered, in all runs of the app.
        injects: whether any of it was ever injected, so that inboxes may hold `Injected`.
        face: the event as users see it.
    """

    __slots__ = (
        "_before",
        "_gone",
        "_injected",
        "_known",
        "_room",
        "accepted",
        "face",
        "inboxes",
        "injects",
        "name",
        "own",
        "source",
        "triggered",
        "watched",
    )

    face: BaseEvent[object]

    def __init__(self, source: Source, name: str, accepted: tuple[type, ...] | None) -> None:
        self.source = source
        self.name = name
        self.accepted = ANYTHING if accepted is None else accepted
        self.inboxes: dict[Inbox, None] = {}
        self.own: Broadcast[object] = Broadcast()
        self.watched = False
        self.triggered = 0
        self.injects = False
        self._injected: dict[str, int] = {}
        self._before = 0  # triggered in runs before this
        self._room = 0
        self._known: dict[Inbox, None] = {}
        self._gone = (0, 0)

    @property
    def full_name(self) -> str:
        return f"{self.source.module.name}/{self.name}"

    def takes(self, accepted: tuple[type, ...]) -> bool:
        """Whether that is the type of its data; the first that is named stays."""
        if self.accepted is ANYTHING:
            self.accepted = accepted
        return self.accepted == accepted

    # ------------------------------------------------------------ inboxes

    def connect(self, inbox: Inbox) -> None:
        """From now on that inbox gets what is triggered."""
        self.inboxes[inbox] = None
        self._known[inbox] = None
        inbox.connect(self)
        self._room = 0

    def disconnect(self, inbox: Inbox) -> None:
        """From now on it gets nothing; what it has got in this run still counts."""
        del self.inboxes[inbox]
        inbox.disconnect()

    def forget(self, inbox: Inbox) -> None:
        """Its hook is no longer declared: keep nothing of it but the figures."""
        if inbox in self._known:
            del self._known[inbox]
            figures = inbox.statistics()
            delivered, dropped = self._gone
            self._gone = (delivered + figures.delivered, dropped + figures.dropped)

    # ------------------------------------------------------------ delivering

    def refusal(self, data: object) -> ModuleOffline | TypeError:
        """Why it doesn't take that."""
        if not self.source.open:
            module = self.source.module
            return ModuleOffline(module.name, module.status.name, f"trigger event {self.name!r}")
        return self.wrong_type(data)

    def wrong_type(self, data: object) -> TypeError:
        expected = " or ".join(each.__name__ for each in self.accepted)
        return TypeError(f"data of event {self.full_name!r} must be {expected}, got {data!r}")

    def _find_room(self) -> bool:
        """Look whether all inboxes have room, and how much there is."""
        least = _MUCH
        for inbox in self.inboxes:
            room = inbox.size - len(inbox.items)
            if room <= 0:
                return False
            least = min(least, room)
        self._room = least
        return True

    def forget_room(self) -> None:
        """An inbox has got back what was taken out of it: its room isn't known any more."""
        self._room = 0

    @enable_ki_protection
    def deliver(self, item: object) -> bool:
        """Put it into all inboxes, or into none if one of them is full; whether it did.

        How much room there is at least is known from the last look at all of them: readers only
        make more, so it isn't looked for again before that much is delivered.
        """
        if not self._room and not self._find_room():
            return False
        self._room -= 1
        self.triggered += 1
        for inbox in self.inboxes:
            inbox.items.append(item)
            reader = inbox.parked
            if reader is None:
                continue
            if reader.custom_sleep_data is None or inbox.parked_too:
                inbox.wake()
            else:  # as that does it, without the call
                inbox.parked = None
                reschedule(reader, WOKEN)
        if self.watched:
            self._tell(item)
        return True

    def _full(self) -> dict[Inbox, None]:
        """The inboxes that have to be waited for."""
        return {each: None for each in self.inboxes if each.waits and len(each.items) >= each.size}

    @enable_ki_protection
    def _deliver_beside(self, item: object, full: Mapping[Inbox, None]) -> None:
        """Put it into all inboxes but those; others that have no room drop one."""
        self.triggered += 1
        for inbox in self.inboxes:
            if inbox in full:
                inbox.misses_one()
            elif len(inbox.items) < inbox.size or inbox.make_room():
                inbox.items.append(item)
                inbox.wake()
        if self.watched:
            self._tell(item)

    async def deliver_and_wait(self, data: object) -> None:
        """`deliver` didn't: put it into all with room, and wait for the others that say WAIT."""
        full = self._full()
        if not full:
            self._deliver_beside(data, full)
            return
        inside = self._check_waiting_ends(full)
        sender = _Sender(data, full, inside)
        self._deliver_beside(data, full)
        await sender.wait()

    def deliver_nowait(self, item: object) -> None:
        """`deliver` didn't: put it into all, unless one of them has to be waited for."""
        full = self._full()
        if full:
            raise trio.WouldBlock
        self._deliver_beside(item, full)

    def inject(self, data: object, source: str) -> None:
        """Trigger it in somebody else's name; see `Module.inject_event`."""
        if not isinstance(data, self.accepted):
            raise self.wrong_type(data)
        self.injects = True
        item = Injected(data, source)
        if not self.deliver(item):
            self.deliver_nowait(item)
        self._injected[source] = self._injected.get(source, 0) + 1

    def _tell(self, item: object) -> None:
        data, source = (item.data, item.source) if isinstance(item, Injected) else (item, "")
        if self.own.listening:
            self.own.publish(data)
        everything = self.source.everything
        if everything.listening:
            everything.publish(Occurrence(self.face, data, trio.current_time(), source))

    # ------------------------------------------------------------ waiting

    def _check_waiting_ends(self, full: Iterable[Inbox]) -> Inbox | None:
        """Raise `EventDeadlock` if waiting can't end; the hook that the calling task runs in."""
        ancestors = _ancestors(trio.lowlevel.current_task())
        starting = _starting(ancestors)
        for inbox in full:
            if not inbox.readers.keys().isdisjoint(ancestors):
                raise EventDeadlock(self.full_name, inbox.name, "it runs in that hook")
            if starting is not None and not inbox.readers and self._waits_for(inbox, starting):
                why = f"that begins when module {starting.name!r} has started"
                raise EventDeadlock(self.full_name, inbox.name, why)
        reading = self.source.reading
        return next((reading[task] for task in ancestors if task in reading), None)

    def _waits_for(self, inbox: Inbox, starting: EventModule) -> bool:
        """Whether a hook can only begin when that module has started."""
        other = inbox.module
        return other is starting or starting is self.source.module or other.reaches(starting.name)

    # ------------------------------------------------------------ figures

    def statistics(self) -> EventStatistics:
        hooks = tuple(each.statistics() for each in self.inboxes)
        closed = tuple(each.statistics() for each in self._known if each not in self.inboxes)
        delivered, dropped = self._gone
        return EventStatistics(
            triggered=self.triggered - self._before,
            delivered=delivered + sum(hook.delivered for hook in hooks + closed),
            dropped=dropped + sum(hook.dropped for hook in hooks + closed) + self.own.lost,
            hooks=hooks,
            closed=closed,
            injected=types.MappingProxyType(dict(self._injected)),
        )

    def reset(self) -> None:
        """A run of the app begins."""
        self._before = self.triggered
        self._gone = (0, 0)
        self._known = dict.fromkeys(self.inboxes)
        self._injected.clear()
        self.own.lost = 0


class BaseEvent(Generic[T]):
    """All of `Event` but what needs rooms above."""

    __slots__ = ("_outlet", "internal", "name")

    def __init__(self, outlet: Outlet, *, internal: bool) -> None:
        self.name = outlet.name
        self.internal = internal
        self._outlet = outlet
        outlet.face = typing.cast("BaseEvent[object]", self)

    def __repr__(self) -> str:
        return f"<Event {self.full_name}>"

    @property
    def full_name(self) -> str:
        """Its name with that of its module: "module/event"."""
        return self._outlet.full_name

    async def trigger(self, data: T) -> None:
        """Trigger it, and wait until every hook has room for it that says WAIT (seed).

        A checkpoint first; then all hooks with room get it at once, and it waits for the others.

        Args:
            data: what the hooks are called with.

        Raises:
            ModuleOffline: if its module is neither starting nor online nor stopping.
            TypeError: if the data isn't of the type that the event was declared with.
            EventDeadlock: if it would wait for the hook that it runs in, or for the start of its
                own module, or for its restart in a stop function; nobody gets it then.

        Cancelled while it waits: who has it keeps it, for the others it counts as dropped.
        """
        await checkpoint()
        outlet = self._outlet
        if not outlet.source.open or not isinstance(data, outlet.accepted):
            raise outlet.refusal(data)
        if not outlet.deliver(data):
            await outlet.deliver_and_wait(data)

    def trigger_nowait(self, data: T) -> None:
        """Trigger it for all hooks, or for none if one of them would have to be waited for (ours).

        Args:
            data: what the hooks are called with.

        Raises:
            trio.WouldBlock: if a hook that says WAIT has no room; nobody gets it then.
            ModuleOffline: if its module is neither starting nor online nor stopping.
            TypeError: if the data isn't of the type that the event was declared with.
        """
        outlet = self._outlet
        if not outlet.source.open or not isinstance(data, outlet.accepted):
            raise outlet.refusal(data)
        if not outlet.deliver(data):
            outlet.deliver_nowait(data)

    @asynccontextmanager
    async def subscribe(self, buffer: int = 100) -> AsyncIterator[trio.MemoryReceiveChannel[T]]:
        """A channel of the data of all triggers from here on (ours).

        It may be entered before the app and ends with the app's run. A reader that lags loses the
        oldest, which is counted.

        Args:
            buffer: how many events may wait for the reader, at least 1.
        """
        outlet = self._outlet
        try:
            async with outlet.own.subscribe(buffer) as channel:
                outlet.source.watch()
                yield typing.cast("trio.MemoryReceiveChannel[T]", channel)
        finally:
            outlet.source.watch()

    def statistics(self) -> EventStatistics:
        """How often it was triggered in this run of the app, and what became of that (ours)."""
        return self._outlet.statistics()


def _ancestors(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    """The task and all that wait for it, by way of their nurseries."""
    found = [task]
    while task.parent_nursery is not None:
        task = task.parent_nursery.parent_task
        found.append(task)
    return found


def _starting(ancestors: Sequence[trio.lowlevel.Task]) -> EventModule | None:
    """The module whose start, or restart, the running code holds up; these tasks wait for it."""
    owner = typing.cast("EventModule | None", current_owner())
    if owner is None:
        return None
    restarting = owner.status is ModuleStatus.STOPPING and owner.is_coming
    if not restarting and owner.status is not ModuleStatus.STARTING:
        return None
    holds_it_up = owner.in_lifecycle_function or owner.holds_online_back(ancestors)
    return owner if holds_it_up else None


def cycle_from(inbox: Inbox) -> list[Inbox]:
    """The hooks that wait for each other in a circle that *inbox* is part of, if there is one."""
    path: list[Inbox] = []
    seen = {inbox}
    todo = [(inbox, iter(inbox.blocked_on or ()))]
    while todo:
        _, others = todo[-1]
        other = next(others, None)
        if other is None:
            todo.pop()
        elif other is inbox:
            path = [each for each, _ in todo]
            break
        elif other not in seen:
            seen.add(other)
            todo.append((other, iter(other.blocked_on or ())))
    return path


def data_types(data_type: object) -> tuple[type, ...] | None:
    """The classes by which data of a declared type is checked; None if there is nothing to check.

    Generics are checked by their origin; ``float`` takes an ``int``, as for type checkers.

    Raises:
        TypeError: if it isn't a type.
    """
    if data_type is typing.Any or isinstance(data_type, typing.TypeVar):
        return None
    if data_type is None:
        return (type(None),)
    origin = typing.get_origin(data_type)
    if origin is typing.Union or origin is types.UnionType:
        parts = [data_types(each) for each in typing.get_args(data_type)]
        if any(part is None for part in parts):
            return None
        return tuple(each for part in parts for each in part or ())
    if origin is not None:
        return data_types(origin)
    if not isinstance(data_type, type):
        raise TypeError(f"data_type must be a type, got {data_type!r}")
    return (float, int) if data_type is float else (data_type,)
