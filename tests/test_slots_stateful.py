"""Random uses of the slots agree with a simple model, without an event loop and in a real app.

``SOAK_EXAMPLES`` sets how many of each are tried.
"""

from __future__ import annotations

import math
import os
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import deterministic_scheduling, let_run
from trio.testing import MockClock

from trio_modules import App, Module, ModuleOffline, ModuleStatus, Priority
from trio_modules._slots import SlotOrder, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "200"))
HIGH, MEDIUM, LOW = Priority.HIGH, Priority.MEDIUM, Priority.LOW
PATIENCE = {MEDIUM: 3.0, LOW: 15.0}

priorities = st.sampled_from(Priority)
limits = st.integers(1, 4)
seconds = st.sampled_from([0.0, 0.5, 1.0, 2.5, 3.0, 7.5, 15.0])
delays = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 4.0, 20.0, math.inf]))


@attrs.define(eq=False)
class Use:
    """One use of a slot, in the model."""

    name: int
    module: str
    way: str
    priority: Priority
    limit: float


class Model:
    """Lists of who holds a slot and who waits for one, searched from the beginning each time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = 0.0
        self.everybody = False
        self.held: list[Use] = []
        self.waiting: list[Use] = []
        self.begun: list[int] = []

    def begin(self, use: Use) -> None:
        if use in self.waiting:
            self.waiting.remove(use)
        self.held.append(use)
        self.begun.append(use.name)

    def ask(self, use: Use) -> None:
        if use.priority is HIGH or self.everybody or len(self.held) < self.limit:
            self.begin(use)
        else:
            self.waiting.append(use)

    def fill(self) -> None:
        while self.waiting and (self.everybody or len(self.held) < self.limit):
            self.begin(min(self.waiting, key=lambda use: use.priority is LOW))

    def end(self, use: Use) -> None:
        self.held.remove(use)
        self.fill()

    def set_limit(self, limit: int) -> None:
        self.limit = limit
        self.fill()

    def advance(self, time: float) -> None:
        self.now += time
        for use in sorted(self.waiting, key=lambda use: use.limit):
            if use.limit <= self.now:
                self.begin(use)


# --- without an event loop ---------------------------------------------------------------------


class Named(Waiter):
    def __init__(self, name: int, begun: list[int]) -> None:
        super().__init__()
        self.name = name
        self.begun = begun

    def grant(self) -> None:
        self.begun.append(self.name)


class SlotsMachine(RuleBasedStateMachine):
    """`SlotOrder` beside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.order = SlotOrder(2)
        self.model = Model(2)
        self.begun: list[int] = []
        self.waiters: dict[int, Named] = {}
        self.rooms = 0
        self.order.on_room = self.came_room
        self.count = 0

    def came_room(self) -> None:
        assert self.order.has_room()
        assert self.order.waiting == 0
        self.rooms += 1

    @rule(priority=priorities, delay=delays)
    def ask(self, priority: Priority, delay: float | None) -> None:
        self.count += 1
        patience = PATIENCE.get(priority, 0.0) if delay is None else delay
        use = Use(self.count, "", "", priority, self.model.now + patience)
        if self.order.enter(priority):
            self.begun.append(use.name)
        else:
            waiter = self.waiters[use.name] = Named(use.name, self.begun)
            before = self.order.next_time
            earlier = self.order.wait(waiter, priority, self.model.now, patience)
            assert earlier == (self.order.next_time < before)
        self.model.ask(use)

    @precondition(lambda self: self.model.held)
    @rule(which=st.integers(0, 1000))
    def leave(self, which: int) -> None:
        self.rooms = 0
        self.order.leave()
        self.model.end(self.model.held[which % len(self.model.held)])
        assert bool(self.rooms) == (len(self.model.held) < self.model.limit)

    @precondition(lambda self: self.model.waiting)
    @rule(which=st.integers(0, 1000))
    def give_up(self, which: int) -> None:
        use = self.model.waiting.pop(which % len(self.model.waiting))
        self.order.give_up(self.waiters[use.name])

    @rule(limit=limits)
    def set_limit(self, limit: int) -> None:
        self.rooms = 0
        self.order.limit = limit
        self.model.set_limit(limit)
        assert bool(self.rooms) == (len(self.model.held) < limit)

    @rule(time=seconds)
    def advance(self, time: float) -> None:
        self.model.advance(time)
        self.order.lose_patience(self.model.now)

    @precondition(lambda self: self.count > 10)
    @rule()
    def let_everybody_in(self) -> None:
        self.order.let_everybody_in()
        self.model.everybody = True
        self.model.fill()

    @invariant()
    def agrees(self) -> None:
        assert self.order.held == len(self.model.held)
        assert self.order.waiting == len(self.model.waiting)
        assert self.begun == self.model.begun
        assert self.order.has_room() == (len(self.model.held) < self.model.limit)
        limits = [use.limit for use in self.model.waiting]
        assert self.order.next_time <= min(limits, default=math.inf)


SlotsMachine.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=60)
TestSlotOrder = SlotsMachine.TestCase


# --- in an app ---------------------------------------------------------------------------------

asks = st.tuples(
    st.just("ask"),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["start", "run", "slot"]),
    priorities,
    delays,
)
numbers = st.integers(0, 1000)
steps = st.lists(
    st.one_of(
        asks,
        asks,
        asks,
        asks,
        st.tuples(st.just("end"), numbers),
        st.tuples(st.just("end"), numbers),
        st.tuples(st.just("end"), numbers),
        st.tuples(st.just("cancel"), numbers),
        st.tuples(st.just("limit"), limits),
        st.tuples(st.just("advance"), seconds),
        st.tuples(st.just("turn"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("grant and cancel"), numbers),
    ),
    min_size=20,  # by themselves most would be too short to fill the slots
    max_size=80,
)


class Play:
    """A real app beside the model."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock
        self.modules = {name: Module(name, enabled=True) for name in "ab"}
        self.app = App(
            *self.modules.values(), managed=True, stop_timeout=1e9, max_concurrent_microtasks=2
        )
        self.model = Model(2)
        self.down: set[str] = set()
        self.refused: list[int] = []
        self.running: set[int] = set()
        self.releases: dict[int, trio.Event] = {}
        self.scopes: dict[int, trio.CancelScope] = {}
        self.taken = dict.fromkeys("ab", 0)
        self.count = 0

    async def job(self, name: int) -> None:
        self.running.add(name)
        try:
            await self.releases[name].wait()
        finally:
            self.running.remove(name)

    async def in_slot(self, module: Module, name: int, options: dict[str, object]) -> None:
        async with module.microtask_slot(**options):  # type: ignore[arg-type]
            await self.job(name)

    async def call(self, use: Use, call: Callable[[], object]) -> None:
        try:
            with self.scopes[use.name]:
                await call()  # type: ignore[misc]
        except ModuleOffline:
            self.refused.append(use.name)

    # ------------------------------------------------------------ steps

    def ask(self, name: str, way: str, priority: Priority, delay: float | None) -> None:
        self.count += 1
        number = self.count
        module = self.modules[name]
        patience = PATIENCE.get(priority, 0.0) if delay is None else delay
        use = Use(number, name, way, priority, self.model.now + patience)
        self.releases[number] = trio.Event()
        self.scopes[number] = trio.CancelScope()
        options: dict[str, object] = {"priority": priority, "max_delay": delay}
        if way == "start":
            try:
                module.start_microtask(self.job, number, **options)  # type: ignore[arg-type]
            except ModuleOffline:
                self.refused.append(number)
        elif way == "run":
            run = partial(module.run_microtask, self.job, number, **options)  # type: ignore[arg-type]
            self.nursery.start_soon(self.call, use, run)
        else:
            self.nursery.start_soon(self.call, use, partial(self.in_slot, module, number, options))
        if name not in self.down:
            self.taken[name] += 1
            self.model.ask(use)
            self.model.advance(0)  # those that wait for no time have begun when all else waits

    def end(self, which: int) -> None:
        if self.model.held:
            use = self.model.held[which % len(self.model.held)]
            self.releases[use.name].set()
            self.model.end(use)

    def cancel(self, which: int) -> None:
        """Cancel a caller, whether it waits or runs."""
        model = self.model
        callers = [use for use in model.waiting + model.held if use.way != "start"]
        if callers:
            use = callers[which % len(callers)]
            self.scopes[use.name].cancel()
            if use in model.waiting:
                model.waiting.remove(use)
            else:
                model.end(use)

    def grant_and_cancel(self, which: int) -> None:
        """In one step, a higher limit lets somebody in who is then cancelled."""
        before = len(self.model.begun)
        self.limit(self.model.limit + 1)
        granted = self.model.begun[before:]
        for use in list(self.model.held):
            if use.name in granted and use.way != "start":
                self.scopes[use.name].cancel()
                self.model.end(use)

    def limit(self, limit: int) -> None:
        self.app.max_concurrent_microtasks = limit
        self.model.set_limit(limit)

    def advance(self, time: float) -> None:
        self.clock.jump(time)
        self.model.advance(time)

    def turn(self, name: str) -> None:
        """Stop a module, or start it again when it is off."""
        module = self.modules[name]
        if name in self.down:
            if any(use.module in self.down for use in self.model.held):
                return  # stops go before starts, and one still waits for the block of a slot
            self.down.discard(name)
        else:
            self.down.add(name)
            self.model.waiting = [use for use in self.model.waiting if use.module != name]
            for use in list(self.model.held):
                if use.module == name and use.way != "slot":
                    self.model.end(use)
        module.set_enabled(name not in self.down)
        self.nursery.start_soon(self.app.manage)

    # ------------------------------------------------------------ the whole

    def check(self) -> None:
        status = self.app.status()
        held = {use.name for use in self.model.held}
        assert self.running == held
        assert status.limits.microtasks_running == len(held)
        assert status.limits.microtasks_waiting == len(self.model.waiting)
        for name in self.modules:
            info = status.modules[name]
            mine = [use for use in self.model.held + self.model.waiting if use.module == name]
            assert (info.work.started, info.work.running) == (self.taken[name], len(mine))
            shown = sorted(each.state for each in info.microtasks)
            waiting = sum(use in self.model.waiting for use in mine)
            assert shown == ["running"] * (len(mine) - waiting) + ["waiting"] * waiting
            offline = name in self.down and not mine
            assert (info.status is ModuleStatus.OFFLINE) == offline

    async def run(self, steps: list[tuple[object, ...]]) -> None:
        async with self.app, trio.open_nursery() as self.nursery:
            for what, *args in steps:
                getattr(self, str(what).replace(" ", "_"))(*args)
                await let_run()
                self.check()
            while self.model.held:
                self.end(0)
                await let_run()
                self.check()
            assert not self.model.waiting
        assert not self.running
        assert not self.app.status().totals.work.running


@settings(max_examples=EXAMPLES)
@given(steps=steps, seed=st.integers(0, 1000))
def test_an_app_does_what_the_model_says(steps: list[tuple[object, ...]], seed: int) -> None:
    """whatever is asked for, ended, cancelled, stopped or set, who holds a slot is as it should."""
    clock = MockClock()
    with deterministic_scheduling(seed):
        trio.run(Play(clock).run, steps, clock=clock)
