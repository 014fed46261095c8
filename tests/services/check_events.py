"""Rules for events: each hook handles what it must, once, in order, or has it counted as dropped.

What is triggered while a hook's module is online from before the call until after its return is
certain to have reached that hook. What was triggered around a start or a stop may or may not have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import attrs

from services.plan import AddHook, HookPlan
from services.record import Figures, Record
from services.seen import EPSILON, Ground, Rules, serials_of
from trio_modules import GraphError, ModuleStatus, Overflow, RestartModule

__all__ = ["EventRules"]

LONGEST_RETRY = 2.0
ENDLESS = 100  # a buffer that no service here fills
REFUSED = ("full", "offline", "deadlock", "unknown")
MAY_REFUSE = frozenset({"hook", "prep", "start", "stop", "enter", "exit", "service", "span"})


@attrs.define(eq=False)
class Datum:
    """One trigger: when it was called, when it returned, and with what answer.

    Attributes:
        alone: whether no other trigger of the event was under way meanwhile.
    """

    event: str
    called: int
    at: float
    alone: bool = True
    returned: int | None = None
    answer: str = ""


@attrs.define(eq=False)
class Hook:
    """What is known of one hook.

    Attributes:
        plan, module, source: the hook, its module, and that of its event.
        declared: whether it is, as far as anybody knows.
        passes: whether it was added while its module ran, and goes with that run.
        since: the record with which its module was last online, None while it isn't.
        may_begin: whether its own and the event's module were online at a time in this run.
        certain: what it is certain to have got, and whether it has begun with that.
        begun: what it has begun with.
        pending: what it is certain to have got in this run of its module, and hasn't begun with.
        open: what it is handling, by execution.
        failed: what it is to be given again, as it was.
        again: what it may be given again, in whatever parts.
        last: the latest call of a trigger whose data it has begun with.
        failed_at: when the last of that failed.
        asked: what it had when it asked for a restart of its module.
        owed: what it has to begin with when its module is back from a crash.
        draining: what it has to begin with before its module stops.
        idle: since which record its buffer is known to have been empty, None if it isn't.
        first, newest: what came since then.
    """

    plan: HookPlan
    module: str
    source: str
    declared: bool
    passes: bool = False
    since: int | None = None
    may_begin: bool = False
    certain: set[int] = attrs.field(factory=set)
    begun: set[int] = attrs.field(factory=set)
    pending: dict[int, None] = attrs.field(factory=dict)
    open: dict[int, tuple[int, ...]] = attrs.field(factory=dict)
    failed: list[tuple[int, ...]] = attrs.field(factory=list)
    again: set[int] = attrs.field(factory=set)
    last: int = -1
    failed_at: float = 0.0
    asked: tuple[int, ...] = ()
    owed: dict[int, None] = attrs.field(factory=dict)
    draining: set[int] = attrs.field(factory=set)
    idle: int | None = None
    first: int | None = None
    newest: int | None = None

    @property
    def name(self) -> str:
        return self.plan.func.name

    @property
    def is_busy(self) -> bool:
        return len(self.open) + len(self.failed) >= self.plan.concurrency

    @property
    def keeps_all(self) -> bool:
        """Whether it drops nothing while it is open."""
        return self.plan.overflow is Overflow.WAIT or self.plan.buffer >= ENDLESS

    @property
    def drops_oldest(self) -> bool:
        return self.plan.overflow is Overflow.DROP_OLDEST and not self.keeps_all

    def leave_online(self) -> None:
        """Its module leaves ONLINE: it drains, or comes back later with what it has."""
        if self.keeps_all and self.may_begin:
            self.owed.update(self.pending)
            self.draining = set(self.pending) if self.plan.retry is None else set()
        for serials in (*self.failed, self.asked):
            self.owed.update(dict.fromkeys(serials))
        self.asked = ()

    def new_life(self) -> None:
        self.since = None
        self.pending.clear()
        self.again.update(*self.failed)
        self.failed.clear()
        self.idle, self.first, self.newest = None, None, None


@attrs.define(eq=False)
class Listener:
    """A subscription: what it has to hear, and what it has heard."""

    event: str
    buffer: int
    since: int
    due: dict[int, float] = attrs.field(factory=dict)
    heard: set[int] = attrs.field(factory=set)
    last: int = -1


class EventRules(Rules):
    """What holds for all events of an app and their hooks."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.data: dict[int, Datum] = {}
        self.hooks: dict[str, Hook] = {}
        self.by_event: dict[str, list[Hook]] = defaultdict(list)
        self.by_module: dict[str, list[Hook]] = defaultdict(list)
        for module in ground.plan.all_modules:
            for plan in module.hooks:
                self.add(plan, module.name, declared=True)
        self.waiting: dict[int, Datum] = {}
        self.listeners: dict[int, Listener] = {}
        self.handlers: dict[str, Callable[[Record], None]] = {
            "send": self.on_send,
            "sent": self.on_sent,
            "nowait": self.on_sent,
            "listen": self.on_listen,
            "heard": self.on_heard,
            "deaf": self.on_deaf,
        }

    def add(self, plan: HookPlan, module: str, *, declared: bool) -> Hook:
        hook = Hook(plan, module, plan.event.partition("/")[0], declared)
        self.hooks[hook.name] = hook
        self.by_event[plan.event].append(hook)
        self.by_module[module].append(hook)
        if hook.source != module:
            self.by_module[hook.source].append(hook)
        return hook

    def has_hooks(self, module: str) -> bool:
        """Whether a module has hooks, which go on for a while when it stops."""
        return any(hook.module == module for hook in self.by_module[module])

    # ------------------------------------------------------------ triggers

    def on_send(self, record: Record) -> None:
        datum = Datum(record.what, self.ground.number, self.now)
        for other in self.waiting.values():
            if other.event == datum.event:
                other.alone = datum.alone = False
        self.data[record.token] = self.waiting[record.token] = datum
        for hook in self.by_event[record.what]:
            hook.newest = None  # it may get this one before the trigger returns
            if hook.drops_oldest:
                hook.owed.clear()  # this may take the place of what was given back

    def on_sent(self, record: Record) -> None:
        datum, answer = self.data[record.token], record.text
        del self.waiting[record.token]
        datum.answer = answer
        if answer == "sent":
            datum.returned = self.ground.number
            for hook in self.by_event[datum.event]:
                self.reached(hook, record.token, datum)
            for listener in self.listeners.values():
                if listener.since < datum.called and listener.event in ("", datum.event):
                    listener.due[record.token] = self.now
        else:
            for hook in self.by_event[datum.event]:
                hook.idle = None  # it may have got that, or not
        patient = any(h.plan.overflow is Overflow.WAIT for h in self.by_event[datum.event])
        if not patient and (answer == "full" or self.now > datum.at + EPSILON):
            self.fail(f"a trigger of {datum.event} waited ({answer}), and no hook says WAIT")
        if answer == "offline" and self.is_online(record.module) and record.kind == "sent":
            self.fail(f"{record.module}, which is online, refused a trigger of {datum.event}")

    def reached(self, hook: Hook, serial: int, datum: Datum) -> None:
        """A trigger has returned: whether it is certain that the hook got it."""
        if hook.since is None or hook.since > datum.called:
            return
        hook.certain.add(serial)
        if serial not in hook.begun:
            hook.pending[serial] = None
        if hook.plan.overflow is Overflow.WAIT and len(hook.pending) > hook.plan.buffer:
            self.fail(f"{hook.name} holds {len(hook.pending)} events, more than its buffer")
        if any(other.event == datum.event for other in self.waiting.values()):
            hook.idle = None  # it may have got that one, too
            return
        if datum.alone:
            hook.newest = serial  # those that wait may return in another order
        if hook.first is None and hook.idle is not None and hook.idle <= datum.called:
            hook.first = serial

    # ------------------------------------------------------------ hooks

    def on_call(self, record: Record) -> None:
        call, _ = self.ground.run.calls[record.token]
        if isinstance(call, AddHook):
            hook = self.add(call.hook, call.module, declared=False)
            hook.passes = self.ground.seen[call.module].status > ModuleStatus.OFFLINE

    def on_return(self, record: Record) -> None:
        call, _ = self.ground.run.calls[record.token]
        if isinstance(call, AddHook):
            hook = self.hooks[call.hook.func.name]
            if record.text == "accepted":
                hook.declared = True
                self.both_online(hook)
            elif record.text.startswith("raised ModuleOffline") and self.is_online(call.module):
                self.fail(f"{call.module}, which is online, refused the hook {hook.name}")

    def both_online(self, hook: Hook) -> None:
        if self.is_online(hook.module):
            if hook.since is None:
                hook.since = self.ground.number
            hook.may_begin = hook.may_begin or self.is_online(hook.source)

    def for_a_moment(self, name: str) -> set[str]:
        """What was online with a module that came online and left that again in one step."""
        beside: set[str] = set()
        online: set[str] = set()
        for change in self.ground.run.changes:
            if change.after is not ModuleStatus.ONLINE:
                online.discard(change.module)
                continue
            online.add(change.module)
            if change.module == name and change.time == self.now:
                beside |= online
        return beside

    def on_move(self, name: str, before: ModuleStatus, after: ModuleStatus) -> None:
        passed = before is ModuleStatus.STARTING and after is not ModuleStatus.ONLINE
        beside = self.for_a_moment(name) if passed and self.by_module[name] else ()
        for hook in self.by_module[name]:
            if hook.module == name:
                if after is ModuleStatus.STARTING:
                    hook.may_begin = False
                if before is ModuleStatus.ONLINE:
                    hook.leave_online()
                if after is not ModuleStatus.ONLINE:
                    hook.new_life()
                if after is not ModuleStatus.STOPPING:
                    hook.draining.clear()
                # A restart may go from one run to the next without a step in which it is offline.
                is_over = after <= ModuleStatus.OFFLINE or after is ModuleStatus.STARTING
                if is_over and hook.passes:
                    hook.declared = False
            if after is ModuleStatus.ONLINE and hook.declared:
                self.both_online(hook)
            if hook.module in beside and hook.source in beside:
                hook.may_begin = True

    def on_begin(self, record: Record) -> None:
        if record.what != "hook":
            return
        name, _, rest = record.text.partition("@")
        hook = self.hooks[name]
        serials = tuple(int(serial) for serial in rest.split()[1:])
        self.check_place(hook)
        if len(serials) > (hook.plan.batch or 1):
            self.fail(f"{name} is given {len(serials)} events at a time")
        for serial in serials:
            if self.data[serial].event != hook.plan.event:
                self.fail(f"{name} is given an event of {self.data[serial].event}")
        fresh = [serial for serial in serials if serial not in hook.begun]
        if fresh != list(serials):
            self.check_again(hook, serials)
        elif hook.failed and hook.plan.concurrency == 1:
            self.fail(f"{name} is given {serials} before it has handled {hook.failed}")
        self.check_order(hook, fresh)
        for serial in serials:
            hook.owed.pop(serial, None)
        hook.open[record.token] = serials

    def check_place(self, hook: Hook) -> None:
        """A hook begins when its module is online, or drains."""
        module = self.ground.seen[hook.module]
        name = hook.name
        if module.status not in (ModuleStatus.ONLINE, ModuleStatus.STOPPING):
            self.fail(f"the hook {name} begins while its module is {module.status.name}")
        if not hook.may_begin:
            self.fail(f"the hook {name} begins, and both modules were not yet online")
        if len(hook.open) >= hook.plan.concurrency:
            self.fail(f"{name} handles more than {hook.plan.concurrency} at a time")
        draining = module.status is ModuleStatus.STOPPING
        if not draining or self.ground.has_crashed(hook.module):
            return
        if self.now > module.since + self.half_time(hook) + EPSILON:
            self.fail(f"{name} begins after half of the time that its module has to stop")

    def check_again(self, hook: Hook, serials: tuple[int, ...]) -> None:
        """What it is given again is what it couldn't handle."""
        if serials in hook.failed:
            hook.failed.remove(serials)
            return
        twice = [each for each in serials if each in hook.begun and each not in hook.again]
        if twice:
            self.fail(f"{hook.name} is given {twice} twice, in {serials}")
        hook.again.difference_update(serials)

    def check_order(self, hook: Hook, serials: list[int]) -> None:
        for serial in serials:
            datum = self.data[serial]
            if datum.returned is not None and datum.returned < hook.last:
                self.fail(f"{hook.name} is given {serial} after one that was triggered later")
            if datum.answer in REFUSED:
                self.fail(f"{hook.name} is given {serial}, whose trigger was {datum.answer}")
            hook.last = max(hook.last, datum.called)
            hook.begun.add(serial)
            hook.pending.pop(serial, None)
            hook.draining.discard(serial)

    def on_end(self, record: Record, text: str) -> None:
        if record.what != "hook":
            return
        hook = self.hooks[text.partition("@")[0]]
        serials = hook.open.pop(record.token)
        if hook.plan.retry is None or record.text == "returned":
            return
        if record.text == "cancelled" or hook.since is None:
            hook.again.update(serials)
            if record.text == "cancelled":
                hook.owed.update(dict.fromkeys(serials))
        else:
            self.fails_with(hook, serials, record.text)

    def fails_with(self, hook: Hook, serials: tuple[int, ...], text: str) -> None:
        numbers = serials_of(text)
        raised = [made for made in self.ground.run.made.values() if made.serial in numbers]
        if any(made.label == "control" for made in raised):
            hook.again.update(serials)
        elif any(isinstance(made.exc, RestartModule) for made in raised):
            hook.again.update(serials)
            hook.asked = serials
        else:
            hook.failed.append(serials)
            hook.failed_at = self.now

    # ------------------------------------------------------------ subscriptions

    def on_listen(self, record: Record) -> None:
        self.listeners[record.token] = Listener(record.what, int(record.text), self.ground.number)

    def on_heard(self, record: Record) -> None:
        listener, serial = self.listeners[record.token], int(record.text)
        datum = self.data[serial]
        if serial in listener.heard or datum.event != record.what:
            self.fail(f"a subscription hears {serial} of {datum.event} twice, or as {record.what}")
        if datum.returned is not None and datum.returned < listener.last:
            self.fail(f"a subscription hears {serial} after one that was triggered later")
        listener.last = max(listener.last, datum.called)
        listener.heard.add(serial)

    def on_deaf(self, record: Record) -> None:
        listener = self.listeners.pop(record.token, None)
        if listener is None:
            return  # it was over before it began
        missed = [
            serial
            for serial, time in listener.due.items()
            if serial not in listener.heard and time < self.now - EPSILON
        ]
        if missed and listener.buffer >= ENDLESS:
            self.fail(f"a subscription to {record.what or 'everything'} didn't hear {missed}")

    # ------------------------------------------------------------ when time goes by

    def rest(self) -> None:
        for name, hook in self.hooks.items():
            if hook.draining:
                self.check_drains(name, hook)
            if hook.failed or hook.owed:
                self.check_owed(name, hook)
            if hook.newest is not None or hook.pending or hook.idle is None:
                self.check_idle(name, hook)
        for datum in self.waiting.values():
            self.check_waits(datum)

    def works(self, hook: Hook) -> bool:
        return hook.since is not None and self.is_online(hook.source)

    def check_idle(self, name: str, hook: Hook) -> None:
        """An idle hook has nothing left, and what came first, or last, was kept."""
        if not self.works(hook) or hook.is_busy:
            return
        overflow = hook.plan.overflow
        if hook.pending and hook.keeps_all:
            self.fail(f"the hook {name} does nothing though {list(hook.pending)} waits for it")
        if overflow is Overflow.DROP_OLDEST and hook.newest in hook.pending:
            self.fail(f"the hook {name} dropped {hook.newest}, which was the newest")
        if overflow is Overflow.DROP_NEWEST and hook.first in hook.pending:
            self.fail(f"the hook {name} dropped {hook.first}, though it was idle")
        hook.idle, hook.first, hook.newest = self.ground.number, None, None
        hook.pending.clear()

    def check_drains(self, name: str, hook: Hook) -> None:
        """At shutdown a hook goes on for half of the time, if it has something left."""
        module = self.ground.seen[hook.module]
        half = self.half_time(hook)
        if (
            not self.ground.stops_at_shutdown(hook.module)
            or self.ground.may_hurry
            or hook.is_busy
            or self.ground.has_crashed(hook.module)
        ):
            return
        if module.status is ModuleStatus.STOPPING and self.now < module.since + half - EPSILON:
            self.fail(f"the hook {name} doesn't go on, though {sorted(hook.draining)} is left")
            hook.draining.clear()

    def half_time(self, hook: Hook) -> float:
        timeout = self.ground.seen[hook.module].plan.stop_timeout
        return (self.ground.plan.stop_timeout if timeout is None else timeout) / 2

    def check_owed(self, name: str, hook: Hook) -> None:
        """What failed is given again soon, and what waited for a restart is still there then."""
        if self.ground.changed or self.ground.shutdown_at is not None:
            hook.owed.clear()  # it may have stopped for good meanwhile
        if not self.works(hook) or hook.open:
            return
        if hook.failed and self.now > hook.failed_at + LONGEST_RETRY + EPSILON:
            self.fail(f"the hook {name} isn't given {hook.failed} again")
            hook.failed.clear()
        if hook.owed and not hook.is_busy:
            self.fail(f"the hook {name} has lost {list(hook.owed)} in a restart")
            hook.owed.clear()

    def check_waits(self, datum: Datum) -> None:
        """A trigger waits for a hook that is busy, or that can't begin yet."""
        known = self.by_event[datum.event]
        hooks = [h for h in known if h.plan.overflow is Overflow.WAIT and h.declared]
        if all(self.works(hook) and not hook.is_busy for hook in hooks):
            self.fail(f"a trigger of {datum.event} waits though all its hooks are idle")

    # ------------------------------------------------------------ when all is over

    def finish(self) -> None:
        if isinstance(self.ground.run.left, GraphError):
            return  # the app didn't run, so the figures are of an earlier life
        for hook in self.hooks.values():
            figures = self.ground.run.hooks.get(f"{hook.module}/{hook.name}")
            if figures is not None:
                self.check_figures(hook, figures)
        sent: dict[str, list[str]] = defaultdict(list)
        for datum in self.data.values():
            sent[datum.event].append(datum.answer)
        for event, total in self.ground.run.events.items():
            least = sent[event].count("sent")
            most = least + sent[event].count("cancelled")
            if not least <= total.triggered <= most:
                self.fail(
                    f"{event} was triggered {least} to {most} times, by its own account {total}"
                )

    def check_figures(self, hook: Hook, figures: Figures) -> None:
        lost = hook.certain - hook.begun
        if len(lost) > figures.dropped:
            self.fail(
                f"{hook.name} never got {sorted(lost)}, and says it dropped {figures.dropped}"
            )
        possible = sum(
            datum.event == hook.plan.event and datum.answer not in REFUSED
            for datum in self.data.values()
        )
        if hook.plan.retry is not None:
            if figures.delivered > len(hook.begun):
                self.fail(f"{hook.name} handled {len(hook.begun)}, by its own account {figures}")
        elif figures.delivered != len(hook.begun):
            self.fail(f"{hook.name} handled {len(hook.begun)}, by its own account {figures}")
        elif figures.dropped + len(hook.begun) > possible:
            self.fail(f"{hook.name} got {possible} at most, by its own account {figures}")
