"""The root supervisor: it settles the difference between what should run and what does run.

What flows through here: wishes (`want`, `manage`, `bounce`, `stop_all`) and facts (`online`,
`fall`, the end of a module's task). Each change of one of them decides again about the module
concerned and about those neighbours whose counters it moved: O(degree), no scan, no polling.

What may never happen: a module started before all that it depends on is online, or stopped
before all that depend on it are offline, whatever the cause.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from typing import Protocol

import trio

from trio_modules._abc import Ending, Startable
from trio_modules._backoff import Restart, RestartTracker
from trio_modules._exceptions import ModuleCrashed, StartError, StopError
from trio_modules._state import Action, decide
from trio_modules._status import ModuleStatus
from trio_modules._timers import Timer, Timers

__all__ = ["NO_TIME", "Supervisor", "Ticket", "Unit", "Watcher"]

DEAD, PREPARING, OFFLINE, STOPPING, STARTING, ONLINE = sorted(ModuleStatus)

#: With no time left everything is cancelled at once; whoever answers at once isn't left behind.
NO_TIME = 0.01

#: What units have for a list of neighbours while it is empty; never changed.
_NOBODY: list[Unit] = []

#: Only a wish can end these.
_FINAL = ("gave-up", "failed")

#: Nobody who waits for the unit should go on waiting: it has had its chance for now.
_STUCK = (*_FINAL, "retrying")


class Watcher(Protocol):
    """Whom the supervisor tells what has become of the modules: the app."""

    def status_changed(self, unit: Unit, before: ModuleStatus) -> None: ...
    def start_failed(self, unit: Unit, error: StartError) -> bool:
        """A first start failed; whether that ends the app."""

    def stop_failed(self, unit: Unit, error: StopError) -> None: ...
    def crashed(self, unit: Unit, cause: BaseException, reported: bool) -> None: ...
    def gave_up(self, unit: Unit, error: ModuleCrashed) -> None: ...
    def removed(self, unit: Unit) -> None: ...
    def all_stopped(self) -> None: ...


class Unit:
    """A module as the supervisor sees it: its wish, its status and its neighbours' counters.

    Attributes:
        needs, wants: what it depends on, hard and soft; needed_by, wanted_by: the reverse.
        wanted: the wish. bounce: stop once, then start again. hold: why the wish has to wait:
            "" (it hasn't), "crashed", "backoff", "retrying" (a backoff before it was ever up),
            "gave-up" or "failed".
        missing: dependencies that it would have to wait for before it starts.
        dependents: dependents that it would have to wait for before it stops.
        preparing: its prep is going on, or waits for that of others.
        turn: whether it was its turn to stop in this run.
        reviving: it was up, so its next start is a restart by the supervisor.
        leftover: the error of a stop that ran out of time, while it still runs.
        began: when its run began to start or, since then, came online.
        owned: what is removed when it stops; orphan: its owner has stopped, or it is removed.
        on_wish: called when it is wanted, or able to come, and wasn't before; and the reverse.
    """

    __slots__ = (
        "_tracker",
        "began",
        "bounce",
        "dependents",
        "down",
        "hold",
        "leftover",
        "missing",
        "name",
        "needed_by",
        "needs",
        "on_wish",
        "orphan",
        "out",
        "out_needs",
        "owned",
        "part",
        "preparing",
        "reason",
        "restarts",
        "retry",
        "reviving",
        "rising",
        "sinking",
        "status",
        "stop_timeout",
        "stop_timer",
        "tickets",
        "turn",
        "up",
        "wanted",
        "wanted_by",
        "wants",
        "was_up",
    )

    def __init__(self, name: str, part: Startable, restart: Restart, stop_timeout: float) -> None:
        self.name = name
        self.part = part
        self._tracker: Restart | RestartTracker = restart
        self.stop_timeout = stop_timeout
        self.needs: list[Unit] = _NOBODY
        self.wants: list[Unit] = _NOBODY
        self.needed_by: list[Unit] = _NOBODY
        self.wanted_by: list[Unit] = _NOBODY
        self.owned: list[Unit] | None = None
        self.status = DEAD
        self.wanted = self.bounce = False
        self.hold = ""
        self.missing = self.dependents = self.out_needs = 0
        self.up = self.rising = self.sinking = self.out = False
        self.down = True
        self.preparing = True
        self.turn = self.reviving = self.orphan = self.was_up = False
        self.leftover: StopError | None = None
        self.retry: Timer | None = None
        self.stop_timer: Timer | None = None
        self.tickets: tuple[Ticket, ...] = ()
        self.on_wish: Callable[[], None] | None = None
        self.reason = ""
        self.began = 0.0
        self.restarts = 0

    def __repr__(self) -> str:
        return f"<Unit {self.name} {self.status.name}>"

    @property
    def tracker(self) -> RestartTracker:
        """What is remembered of its crashes, made on the first: few modules ever do."""
        if isinstance(self._tracker, Restart):
            self._tracker = RestartTracker(self._tracker)
        return self._tracker

    @property
    def wish(self) -> bool:
        """Whether it should be running right now."""
        return self.wanted and not self.bounce and not self.hold

    @property
    def is_coming(self) -> bool:
        """Whether it is wanted, and nothing that it needs has failed or given up for good."""
        return self.wanted and not (self.out and _holds(self, _FINAL))

    @property
    def resting(self) -> bool:
        """Whether it is where its wish wants it, or can't get there by itself."""
        if self.leftover is not None:
            return True
        if self.bounce:
            return False
        if self.wanted:
            return self.up or (self.down and self.out and _is_stuck(self))
        return self.down and not self.preparing


class Ticket:
    """Somebody waits until certain units are at rest; `done` is called in the step that does it."""

    __slots__ = ("done", "errors", "left")

    def __init__(self, done: Callable[[Ticket], None]) -> None:
        self.done = done
        self.left = 1
        self.errors: list[Exception] = []

    def watch(self, units: Iterable[Unit]) -> None:
        alone = (self,)  # one for the ten thousand units that nobody else waits for
        for unit in units:
            if unit.resting:
                if unit.leftover is not None:
                    self.errors.append(unit.leftover)
                continue
            self.left += 1
            unit.tickets = (*unit.tickets, self) if unit.tickets else alone
        self.discharge()

    def discharge(self) -> None:
        self.left -= 1
        if not self.left:
            self.done(self)


class Supervisor:
    """The engine of one run of an app."""

    def __init__(
        self, watcher: Watcher, timers: Timers, rng: random.Random, context: Context
    ) -> None:
        self.units: dict[str, Unit] = {}
        self.closing = False
        self.hurrying = False
        self._watcher = watcher
        self._timers = timers
        self._rng = rng
        self._context = context
        self._nursery: trio.Nursery | None = None
        self._alive = 0
        self._latest_wish: frozenset[str] = frozenset()
        self._held: set[Unit] = set()  # to be started when what had to stop for them is down
        self._batch: list[Unit] | None = None

    # ------------------------------------------------------------ the graph

    def attach(self, unit: Unit, needs: Iterable[str], wants: Iterable[str]) -> None:
        """Take in a unit whose dependencies are here already."""
        self.units[unit.name] = unit
        unit.needs = [self.units[name] for name in needs] or _NOBODY
        unit.wants = [self.units[name] for name in wants] or _NOBODY
        for other in unit.needs:
            other.needed_by = _with(other.needed_by, unit)
            unit.missing += not other.up
            unit.out_needs += other.out
        for other in unit.wants:
            other.wanted_by = _with(other.wanted_by, unit)
            unit.missing += other.rising

    def detach(self, unit: Unit) -> None:
        """Forget a unit that is offline and that nothing depends on."""
        assert unit.down
        assert not unit.needed_by
        unit.orphan = False
        del self.units[unit.name]
        for other in unit.needs:
            other.needed_by.remove(unit)
        for other in unit.wants:
            other.wanted_by.remove(unit)
        for other in unit.wanted_by:
            other.wants.remove(unit)
            other.missing -= unit.rising
            self._decide(other)
        self._watcher.removed(unit)

    def open(self, nursery: trio.Nursery) -> None:
        """From now on modules can live, in this nursery."""
        self._nursery = nursery

    # ------------------------------------------------------------ wishes

    def manage(self, wish: Iterable[str], done: Callable[[Ticket], None]) -> None:
        """Make exactly these units run; *done* is called when all are where this wish wants them.

        Stops come before starts: what is to start is wished only when what has to stop for it is
        down. That is what this wish stops; what an earlier one has stopped holds up those alone
        that it was to start.
        What a later wish changes nobody waits for any more: it is at rest where that wants it.
        """
        self._latest_wish = frozenset(wish)
        present = [unit for unit in self.units.values() if not unit.orphan]
        starts = [unit for unit in present if unit.name in self._latest_wish]
        stops = [unit for unit in present if unit.name not in self._latest_wish]
        ours = [unit for unit in stops if unit.wanted]
        held = [unit for unit in starts if unit in self._held]
        free = [unit for unit in starts if unit not in self._held]
        for unit in stops:
            if not unit.down:
                unit.reason = unit.reason or "disabled"
        self._set_wanted(stops, False)
        self._held.update(free)
        whole = Ticket(done)
        whole.left = 2
        Ticket(lambda _: self._then_start(free, (), whole)).watch(ours)
        Ticket(lambda stopped: self._then_start(held, stopped.errors, whole)).watch(stops)

    def _then_start(self, units: list[Unit], errors: Iterable[Exception], whole: Ticket) -> None:
        def done(started: Ticket) -> None:
            whole.errors += started.errors
            whole.discharge()

        self._held.difference_update(units)
        latest = [u for u in units if u.name in self._latest_wish]
        self.want(latest, units, done, errors)

    def want(
        self,
        units: list[Unit],
        watched: list[Unit],
        done: Callable[[Ticket], None],
        errors: Iterable[Exception] = (),
    ) -> None:
        """Make these units run, too, and call *done* when those *watched* are at rest.

        What failed or gave up before gets another chance.
        """
        units = [u for u in units if self.units.get(u.name) is u and not u.orphan]
        if not self.closing:
            for unit in units:
                if unit.hold in _FINAL:
                    self._renew(unit)
            self._set_wanted(units, True)
        ticket = Ticket(done)
        ticket.errors += errors
        ticket.watch(watched)

    def bounce(self, unit: Unit, reason: str, done: Callable[[Ticket], None]) -> None:
        """Stop a unit and all that depend on it, then start them again."""
        units = list(_dependents_first(unit, lambda u: True))
        for each in units:
            if each.hold in (*_STUCK, "backoff"):
                self._renew(each)
            each.bounce = each.wanted and not each.down
            each.reason = reason
            each.reviving = False
        self._again(units)
        Ticket(done).watch(units)

    def retire(self, unit: Unit, done: Callable[[Ticket], None]) -> None:
        """Stop a unit that nothing depends on; it is detached once it is offline."""
        unit.reason = "removed"
        unit.orphan = True
        self._set_wanted([unit], False)
        Ticket(done).watch([unit])
        self._drop_orphan(unit)

    def stop_all(self, reason: str) -> None:
        """The wish that nothing runs, for good."""
        self.closing = True
        for unit in self.units.values():
            self._cancel_retry(unit)
            unit.hold = ""
            unit.bounce = False
            unit.reason = reason
        self._set_wanted(list(self.units.values()), False)
        self._check_closed()

    def hurry(self) -> None:
        """Cut all stop times to nothing; the order stays."""
        self.hurrying = True
        for unit in list(self.units.values()):
            if unit.status is STOPPING:
                self._hurry(unit)

    def _set_wanted(self, units: list[Unit], wanted: bool) -> None:
        for unit in units:
            if unit.wanted is not wanted:
                unit.wanted = wanted
                if not wanted:
                    self._cancel_retry(unit)
                    unit.hold = "crashed" if unit.hold == "crashed" else ""
                    unit.bounce = unit.bounce and not unit.down
                    unit.reviving = unit.was_up = False
                if unit.on_wish is not None:
                    unit.on_wish()
        self._again(units)

    def _again(self, units: list[Unit]) -> None:
        """Some wishes changed: first all flags, then all decisions, or one would be hasty."""
        batch, self._batch = self._batch, [] if self._batch is None else self._batch
        for unit in units:
            # The flags of a unit without soft neighbours follow from facts, not from wishes.
            if unit.wants or unit.wanted_by or unit.bounce or unit.out or unit.hold:
                self._refresh(unit)
        if batch is not None:  # somebody above is doing the same
            batch += units
            return
        touched, self._batch = self._batch, None
        for unit in [*units, *touched]:
            self._decide(unit)
        for unit in units:
            if unit.tickets:
                self._settle(unit)

    def _touch(self, unit: Unit) -> None:
        """One of the unit's counters came to zero."""
        if self._batch is None:
            self._decide(unit)
        else:
            self._batch.append(unit)

    def _renew(self, unit: Unit) -> None:
        unit.tracker.renew()
        unit.reviving = unit.was_up = False
        unit.hold = ""
        self._cancel_retry(unit)

    def _cancel_retry(self, unit: Unit) -> None:
        if unit.retry is not None:
            unit.retry.cancel()
            unit.retry = None

    # ------------------------------------------------------------ facts

    def set_status(self, unit: Unit, status: ModuleStatus) -> None:
        """A new fact: tell the app and count it at the neighbours."""
        before = unit.status
        unit.status = status
        self._watcher.status_changed(unit, before)
        self._refresh(unit)

    def online(self, unit: Unit) -> None:
        """The unit has started."""
        unit.began = trio.current_time()
        unit.was_up = True
        self.set_status(unit, ONLINE)
        self._settle(unit)

    def prepared(self, unit: Unit, status: ModuleStatus) -> None:
        """The unit's prep is over: OFFLINE if it went well, else DEAD."""
        unit.preparing = False
        self.set_status(unit, status)
        self._settle(unit)
        self._drop_orphan(unit)

    def passed_over(self, unit: Unit) -> None:
        """The unit's prep won't come: it has no part in this run."""
        unit.preparing = False
        self._settle(unit)

    def fall(self, unit: Unit, reason: str) -> None:
        """The unit crashed: it and all that depend on it leave ONLINE in this step."""
        unit.hold = "crashed"
        unit.tracker.failed_at = trio.current_time()
        fallen = list(_dependents_first(unit, lambda u: u.status in (STARTING, ONLINE)))
        starting = [each for each in fallen if each.status is STARTING]
        self._batch = []
        for each in fallen:
            each.reviving = each.was_up = True
            each.reason = reason
            self.set_status(each, STOPPING)
        touched, self._batch = self._batch, None
        unit.part.fall()
        for each in starting:  # nothing is up on top of these, and what they need is gone
            self._stop(each)
        for each in [*fallen, *touched]:
            self._decide(each)

    def failing(self, unit: Unit, reason: str) -> None:
        """The unit's start failed and is being undone; nothing can depend on it yet."""
        unit.tracker.failed_at = trio.current_time()
        if unit.status is STARTING:
            unit.reason = reason
            self._stop(unit)

    def arm(self, unit: Unit) -> None:
        """The unit has something to wait for before it is offline: its stop has a time-out."""
        seconds = NO_TIME if self.hurrying else unit.stop_timeout
        unit.stop_timer = self._timers.after(seconds, lambda: self._overdue(unit))

    def extend(self, unit: Unit, seconds: float) -> None:
        """Give a stopping unit more time."""
        if unit.stop_timer is not None and unit.stop_timer.callback is not None:
            unit.stop_timer.cancel()
            when = unit.stop_timer.when + seconds
            unit.stop_timer = self._timers.at(when, lambda: self._overdue(unit))

    # ------------------------------------------------------------ one unit at a time

    def _decide(self, unit: Unit) -> None:
        action = decide(unit.status, unit.wish, unit.missing, unit.dependents)
        if action is Action.START:
            self._start(unit)
        elif action is Action.STOP and not unit.turn:
            self._stop(unit)

    def _start(self, unit: Unit) -> None:
        self._alive += 1
        unit.began = trio.current_time()
        if unit.reviving:
            unit.restarts += 1
        self.set_status(unit, STARTING)
        self._context.run(self._spawn, unit)

    def _spawn(self, unit: Unit) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(unit.part.live, name=unit.name)

    def _stop(self, unit: Unit) -> None:
        unit.turn = True
        if unit.status is not STOPPING:
            self.set_status(unit, STOPPING)
        unit.part.begin_stop()
        if self.hurrying:
            self._hurry(unit)

    def _hurry(self, unit: Unit) -> None:
        unit.part.hurry(0.0)
        timer = unit.stop_timer
        if timer is not None and timer.when > trio.current_time() + NO_TIME:
            timer.cancel()
            self.arm(unit)

    def _overdue(self, unit: Unit) -> None:
        """The stop has run out of time: the others go on as if the unit were offline."""
        error = StopError(unit.name, hanging=unit.part.stacks())
        unit.stop_timer = None
        unit.leftover = error
        self._watcher.stop_failed(unit, error)
        unit.part.hurry(unit.stop_timeout)
        self._refresh(unit)
        self._settle(unit, error)

    def ended(self, unit: Unit, ending: Ending) -> None:
        """The unit's task is over; what comes next is settled before its status says so."""
        if unit.stop_timer is not None:
            unit.stop_timer.cancel()
            unit.stop_timer = None
        self._alive -= 1
        error = self._stop_error(unit, ending)
        unit.bounce = False
        unit.leftover = None
        unit.reason = ""
        unit.hold = "" if unit.hold == "crashed" else unit.hold
        unit.part.closed()
        failure = self._judge(unit, ending) or error
        unit.turn = False
        self.set_status(unit, OFFLINE)
        self._settle(unit, failure)
        if unit.hold in _STUCK:
            for each in list(_dependents_first(unit, lambda u: True)):
                self._settle(each)
        if unit.owned or unit.orphan:
            self._drop_owned(unit)
        if not unit.orphan:
            self._decide(unit)
        self._check_closed()

    def _stop_error(self, unit: Unit, ending: Ending) -> StopError | None:
        if not ending.failures:
            return None
        error = StopError(unit.name, ending.failures)
        self._watcher.stop_failed(unit, error)
        return error

    def _judge(self, unit: Unit, ending: Ending) -> Exception | None:
        """What follows from the way the run ended; the error for whoever waits for the unit."""
        if ending.interrupted:  # the shutdown that this begins is all that follows
            unit.hold = "failed"
        if ending.crashed:
            assert ending.cause is not None
            self._watcher.crashed(unit, ending.cause, ending.reported)
            self._retry_later(unit, ending.cause)
        elif ending.start_error is not None:
            return self._failed_start(unit, ending)
        return None

    def _failed_start(self, unit: Unit, ending: Ending) -> Exception | None:
        error = ending.start_error
        assert error is not None
        if self.closing or not unit.wanted:
            self._watcher.start_failed(unit, error)
        elif unit.reviving or unit.tracker.policy.cover_start:
            unit.reviving = True
            self._watcher.crashed(unit, error, ending.reported)
            self._retry_later(unit, error)
        elif self._watcher.start_failed(unit, error):
            unit.hold = "failed"
        else:
            unit.hold = "failed"
            return error
        return None

    def _retry_later(self, unit: Unit, cause: BaseException) -> None:
        if self.closing or not unit.wanted or unit.hold == "failed":
            return
        delay = unit.tracker.failed(unit.began, unit.tracker.failed_at, self._rng)
        if delay is not None:
            unit.hold = "backoff" if unit.was_up else "retrying"
            unit.retry = self._timers.after(delay, lambda: self._retry(unit))
            return
        unit.hold = "gave-up"
        if unit.tracker.policy.exhausted == "shutdown":
            error = ModuleCrashed(unit.name, unit.tracker.crashes)
            error.__cause__ = cause
            self._watcher.gave_up(unit, error)

    def _retry(self, unit: Unit) -> None:
        unit.retry = None
        unit.hold = ""
        self._again([unit])

    def _drop_owned(self, unit: Unit) -> None:
        """What the unit owns goes with it, and what needs that: all down already, or nearly."""
        owned, unit.owned = unit.owned or (), None
        present = [each for each in owned if self.units.get(each.name) is each]
        goes = {u: None for each in present for u in _dependents_first(each, lambda u: True)}
        for each in goes:
            each.orphan = True
            each.wanted = False
            self._settle(each)
            self._drop_orphan(each)
        self._drop_orphan(unit)

    def _drop_orphan(self, unit: Unit) -> None:
        if unit.orphan and unit.resting and unit.status <= OFFLINE and not unit.needed_by:
            needs = [other for other in unit.needs if other.orphan]
            self.detach(unit)
            for other in needs:
                self._drop_orphan(other)

    def _settle(self, unit: Unit, error: Exception | None = None) -> None:
        """Let those go who wait for this unit, if it is at rest."""
        if not unit.tickets or not unit.resting:
            return
        tickets, unit.tickets = unit.tickets, ()
        for ticket in tickets:
            if error is not None:
                ticket.errors.append(error)
            ticket.discharge()

    def _check_closed(self) -> None:
        if self.closing and not self._alive:
            self._watcher.all_stopped()

    # ------------------------------------------------------------ what the neighbours count

    def _refresh(self, unit: Unit) -> None:
        """Bring the unit's flags up to date, and with them the counters of its neighbours."""
        up = unit.status is ONLINE and not unit.bounce
        if up is not unit.up:
            unit.up = up
            self._count_missing(unit.needed_by, -1 if up else 1)
        down = unit.status <= OFFLINE or unit.leftover is not None
        if down is not unit.down:
            unit.down = down
            self._count_dependents(unit.needs, -1 if down else 1)
        if unit.hold or unit.out or unit.out_needs:
            self._flip_out(unit)
        if unit.wanted_by:
            self._refresh_rising(unit)
        if unit.wants:
            self._refresh_sinking(unit)

    def _refresh_rising(self, unit: Unit) -> None:
        rising = unit.wanted and not unit.out and not unit.up
        if rising is not unit.rising:
            unit.rising = rising
            self._count_missing(unit.wanted_by, 1 if rising else -1)

    def _refresh_sinking(self, unit: Unit) -> None:
        sinking = not unit.down and (not unit.wish or unit.status is STOPPING)
        if sinking is not unit.sinking:
            unit.sinking = sinking
            self._count_dependents(unit.wants, 1 if sinking else -1)

    def _count_missing(self, units: Iterable[Unit], change: int) -> None:
        for unit in units:
            unit.missing += change
            if not unit.missing:
                self._touch(unit)

    def _count_dependents(self, units: Iterable[Unit], change: int) -> None:
        for unit in units:
            unit.dependents += change
            if not unit.dependents:
                self._touch(unit)

    def _flip_out(self, unit: Unit) -> None:
        """A unit can't come by itself (or can again): the same is true of all that need it."""
        todo = [unit]
        while todo:
            each = todo.pop()
            out = bool(each.hold) or each.out_needs > 0
            if each.out is out:
                continue
            each.out = out
            if each.wanted_by:
                self._refresh_rising(each)
            if each.on_wish is not None:
                each.on_wish()
            for other in each.needed_by:
                other.out_needs += 1 if out else -1
                todo.append(other)
            if each is not unit:
                self._settle(each)


def _with(units: list[Unit], unit: Unit) -> list[Unit]:
    if units is _NOBODY:
        return [unit]
    units.append(unit)
    return units


def _is_stuck(unit: Unit) -> bool:
    """Whether it can't come by itself, and isn't on its way back from a crash either."""
    return _holds(unit, _STUCK)


def _holds(unit: Unit, holds: tuple[str, ...]) -> bool:
    """Whether one of these holds it, or something that it needs."""
    todo = [unit]
    seen = {unit}
    while todo:
        each = todo.pop()
        if each.hold in holds:
            return True
        for other in each.needs:
            if other.out and other not in seen:
                seen.add(other)
                todo.append(other)
    return False


def _dependents_first(unit: Unit, relevant: Callable[[Unit], bool]) -> Iterator[Unit]:
    """*unit* and the relevant ones that need it, directly or not, each before what it needs."""
    seen = {unit}
    stack = [(unit, iter(unit.needed_by))]
    while stack:
        top, others = stack[-1]
        for other in others:
            if other not in seen and relevant(other):
                seen.add(other)
                stack.append((other, iter(other.needed_by)))
                break
        else:
            stack.pop()
            yield top
