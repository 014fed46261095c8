"""The modules of a simulated service as they can be seen from outside, and their promises.

Every call of a function of a module's comes by here, by the app's seam, and every change of a
module's status. Both have an order that has to hold: dependencies first on the way up, dependents
first on the way down, work within the life of its module, each stop once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs
import trio

from trio_modules import App, Change, Module, ModuleStatus
from trio_modules.abc import AnyAsyncFn, CallKind
from trio_modules.testing._record import Record
from trio_modules.testing._trace import said

__all__ = ["Calls"]

_OFFLINE, _ONLINE = ModuleStatus.OFFLINE, ModuleStatus.ONLINE
#: Calls of the module's main task; all other kinds are work.
_LIFECYCLE: frozenset[CallKind] = frozenset({"prep", "start", "stop", "enter", "leave"})


@attrs.define(eq=False)
class _Place:
    """One module as it is watched.

    Attributes:
        working, in_lifecycle: calls of its functions that go on.
        called: the lifecycle calls of this run of it.
        entered: its lifespans that were entered and not left.
        was_online: whether it was, in this run of it.
        starts: how often it was started.
        since: when it came to its present status.
    """

    module: Module
    needs: tuple[Module, ...]
    needed_by: list[Module] = attrs.field(factory=list)
    working: int = 0
    in_lifecycle: int = 0
    called: Counter[tuple[CallKind, str]] = attrs.field(factory=Counter)
    entered: Counter[str] = attrs.field(factory=Counter)
    was_online: bool = False
    starts: int = 0
    since: float = 0.0

    @property
    def name(self) -> str:
        return self.module.name

    @property
    def is_leftover(self) -> bool:
        """Whether its stop ran out of time, so that the others went on without it."""
        return f"{self.name}:stop-failed" in self.module.failures


class Calls:
    """Watches the calls and the status of all modules; it is an interceptor of the app's."""

    def __init__(
        self,
        app: App,
        record: Record,
        work_raised: Callable[[str, CallKind, str, BaseException], None],
    ) -> None:
        self._app = app
        self._record = record
        self._work_raised = work_raised
        self._places: dict[str, _Place] = {}
        self._moved: list[_Place] = []

    # ------------------------------------------------------------ calls

    def __call__(
        self, module: Module, kind: CallKind, name: str, async_fn: AnyAsyncFn, /
    ) -> AnyAsyncFn:
        """See `trio_modules.abc.Interceptor`."""
        place = self._place(module)
        if kind in _LIFECYCLE:
            return self._around_lifecycle(place, kind, name, async_fn)

        async def watched(*args: object, **kwargs: object) -> object:
            if module.status <= _OFFLINE:
                self._began_offline(place, kind, name)
            place.working += 1
            try:
                return await async_fn(*args, **kwargs)
            except trio.Cancelled:
                raise
            except BaseException as exc:
                self._record.note(place.name, "end", f"{kind} {name} raised {said(exc)}")
                self._work_raised(place.name, kind, name, exc)
                raise
            finally:
                place.working -= 1

        return watched

    def _place(self, module: Module) -> _Place:
        place = self._places.get(module.name)
        return place if place and place.module is module else self._new_place(module)

    def _new_place(self, module: Module) -> _Place:
        """Modules come and go while an app runs: make all places anew, and keep what they know."""
        known = self._places
        self._places = {}
        for name, other in self._app.modules.items():
            place = known.get(name)
            if place is None or place.module is not other:
                place = _Place(other, other.dependencies)
            place.needed_by = []
            self._places[name] = place
        for place in self._places.values():
            for other in place.needs:
                self._places[other.name].needed_by.append(place.module)
        return self._places.setdefault(module.name, _Place(module, ()))

    def _began_offline(self, place: _Place, kind: CallKind, name: str) -> None:
        text = f"{kind} {name!r} begins while module {place.name!r} is {place.module.status.name}"
        self._record.violation(place.name, "closed", text)

    def _around_lifecycle(
        self, place: _Place, kind: CallKind, name: str, async_fn: AnyAsyncFn
    ) -> AnyAsyncFn:
        async def watched(*args: object, **kwargs: object) -> object:
            self._check_lifecycle_call(place, kind, name)
            self._record.note(place.name, "call", f"{kind} {name}")
            place.in_lifecycle += 1
            try:
                result = await async_fn(*args, **kwargs)
            except trio.Cancelled:
                self._record.note(place.name, "end", f"{kind} {name} was cancelled")
                raise
            except BaseException as exc:
                self._record.note(place.name, "end", f"{kind} {name} raised {said(exc)}")
                raise
            finally:
                place.in_lifecycle -= 1
            self._record.note(place.name, "end", f"{kind} {name} returned")
            if kind == "enter":
                place.entered[name] += 1
            return result

        return watched

    def _check_lifecycle_call(self, place: _Place, kind: CallKind, name: str) -> None:
        self._record.checks += 1
        place.called[kind, name] += 1
        if place.in_lifecycle:
            text = f"{kind} {name} begins while another function of {place.name!r} runs"
            self._record.violation(place.name, "overlap", text)
        if kind in ("enter", "start"):
            self._check_start(place, f"{kind} {name}")
        elif kind in ("stop", "leave"):
            self._check_stop(place, f"{kind} {name}")
        if kind == "leave":
            place.entered[name] -= 1

    def _check_start(self, place: _Place, what: str) -> None:
        if place.working:
            text = f"{what} begins while work of an earlier run of {place.name!r} goes on"
            self._record.violation(place.name, "overlap", text)
        for other in place.needs:
            if not other.online:
                text = (
                    f"{what} of {place.name!r} begins while {other.name!r} is {other.status.name}"
                )
                self._record.violation(place.name, "order", text)

    def _check_stop(self, place: _Place, what: str) -> None:
        if place.working:
            text = f"{what} of {place.name!r} begins while {place.working} functions of it work"
            self._record.violation(place.name, "stop", text)
        self._check_dependents(place, f"{what} of {place.name!r} begins")

    def _check_dependents(self, place: _Place, what: str) -> None:
        for other in place.needed_by:
            if other.status > _OFFLINE and not self._places[other.name].is_leftover:
                text = f"{what} while {other.name!r} is {other.status.name}"
                self._record.violation(place.name, "order", text)

    # ------------------------------------------------------------ status

    def status_changed(self, change: Change) -> None:
        """A module has another status."""
        if change.after is ModuleStatus.DEAD and change.before is _OFFLINE:
            return  # it has run before: in this process, not in this simulation
        self._record.note(change.module, "status", change.after.name)
        if change.module in self._app:
            place = self._place(self._app[change.module])
            self._status_changed(place, change)
            self._moved.append(place)

    def check_order(self) -> None:
        """A step is over: those whose status it has changed have to fit to their neighbours."""
        while self._moved:
            self._check_neighbours(self._moved.pop())

    def _status_changed(self, place: _Place, change: Change) -> None:
        place.since = change.time
        if change.after is _ONLINE:
            place.was_online = True
        elif change.after is _OFFLINE and change.before > _OFFLINE:
            self._check_end(place)
            place.called.clear()
            place.was_online = False
        elif change.after is ModuleStatus.STARTING:
            place.starts += 1
            self._record.restarts += place.starts > 1

    def _check_end(self, place: _Place) -> None:
        """A run of a module is over."""
        self._record.checks += 1
        if place.working or place.in_lifecycle:
            running = place.working + place.in_lifecycle
            text = f"module {place.name!r} is OFFLINE while {running} functions of it run"
            self._record.violation(place.name, "closed", text)
        self._check_lifespans(place)
        self._check_dependents(place, f"module {place.name!r} is OFFLINE")
        for (kind, name), times in Counter(place.module.declared).items():
            called = place.called[kind, name]
            if kind == "stop" and (called > times or (place.was_online and called != times)):
                text = f"stop function {name!r} of {place.name!r} was called {called} times"
                self._record.violation(place.name, "stop", text)

    def _check_lifespans(self, place: _Place) -> None:
        for name, count in place.entered.items():
            if count:
                text = f"lifespan {name!r} of {place.name!r} was entered and left unequally often"
                self._record.violation(place.name, "lifespan", text)
        place.entered.clear()

    def _check_neighbours(self, place: _Place) -> None:
        """Nothing is online on top of what isn't."""
        self._record.checks += 1
        if place.module.online:
            pairs = [(place.module, other) for other in place.needs]
        else:
            pairs = [(other, place.module) for other in place.needed_by]
        for upper, lower in pairs:
            if upper.online and not lower.online:
                text = f"{upper.name!r} is ONLINE while {lower.name!r} is {lower.status.name}"
                self._record.violation(upper.name, "order", text)

    # ------------------------------------------------------------ ends

    def check_all_ended(self) -> None:
        """The app's block was left: no module of it may be alive."""
        for place in self._places.values():
            if place.working or place.in_lifecycle or place.module.status > _OFFLINE:
                text = f"module {place.name!r} outlives its app: it is {place.module.status.name}"
                self._record.violation(place.name, "left", text)
            self._check_lifespans(place)

    def check_recovery(self, within: float) -> None:
        """After a calm of *within* seconds all that is wanted is online, or meant to stay away."""
        for name, info in self._app.status().modules.items():
            is_away = info.wanted and info.status is not _ONLINE
            if is_away and not self._gave_up(self._place(self._app[name]), within):
                text = f"module {name!r} has not recovered: it is {info.status.name}"
                self._record.violation(name, "recovery", text)

    def _gave_up(self, place: _Place, within: float) -> bool:
        """Whether it, or what it needs, crashed beyond a budget that leaves it offline then.

        Any other module in that state would be in a backoff, and no backoff lasts for so long.
        """
        if place.module.status is not _OFFLINE:
            return False
        rests = trio.current_time() - place.since >= within
        if rests and f"{place.name}:crashed" in place.module.failures:
            return True
        return any(self._gave_up(self._place(other), within) for other in place.needs)
