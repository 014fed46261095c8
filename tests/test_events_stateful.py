"""Events flow while modules go up and down, crash, restart, fail and are managed, as chance has it.

An example is a plan: what hooks there are, and what happens in each life of the app. Or it is made
up step by step, by a state machine. The model is simple. What was triggered, in which order, an
`App.subscribe` says. Each hook writes down what it begins with and what it gets done.
``SOAK_EXAMPLES`` sets how many are tried.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import random
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

import attrs
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from lifecycle_helpers import watching
from support import deterministic_scheduling, let_run
from trio.testing import MockClock

from trio_modules import (
    App,
    Backoff,
    Event,
    Module,
    ModuleOffline,
    ModuleStatus,
    Occurrence,
    Overflow,
    Restart,
    StartError,
    StopError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from outcome import Outcome

    from trio_modules.abc import HookStatistics

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "200"))
MODULES = 3
STOP_TIMEOUT = 8.0
LONGEST_STEP = 600.0
LONGEST_WAIT = 3.0
PATIENCE = 30.0

Kind = Literal[
    "send", "send many", "nowait", "inject", "sleep", "crash", "restart", "switch", "break", "add"
]
KINDS: list[Kind] = [
    "send",
    "send many",
    "nowait",
    "inject",
    "sleep",
    "crash",
    "restart",
    "switch",
    "break",
    "add",
]


@attrs.frozen
class HookPlan:
    """A hook: where it is, what it is on, and how it behaves."""

    module: int
    event: int
    buffer: int
    overflow: Overflow
    concurrency: int
    batch: int | None
    retries: bool
    takes: float
    fails: bool
    forwards: bool


@attrs.frozen
class Step:
    """Something that happens in the life of an app."""

    kind: Kind
    module: int
    amount: int
    waits: bool


@attrs.frozen
class Plan:
    seed: int
    hooks: list[HookPlan]
    depends: bool
    lives: list[list[Step]]


INDEX = st.integers(0, MODULES - 1)
HOOKS = st.builds(
    HookPlan,
    module=INDEX,
    event=INDEX,
    buffer=st.integers(1, 4),
    overflow=st.sampled_from(Overflow),
    concurrency=st.integers(1, 3),
    batch=st.none() | st.integers(1, 3),
    retries=st.booleans(),
    takes=st.sampled_from([0, 0.1, 1.5]),
    fails=st.booleans(),
    forwards=st.booleans(),
)
HOOK_LISTS = st.lists(HOOKS, min_size=1, max_size=5)
STEPS = st.builds(
    Step,
    kind=st.sampled_from(KINDS),
    module=INDEX,
    amount=st.integers(1, 12),
    waits=st.booleans(),
)
PLANS = st.builds(
    Plan,
    seed=st.integers(0, 2**16),
    hooks=HOOK_LISTS,
    depends=st.booleans(),
    lives=st.lists(st.lists(STEPS, max_size=25), min_size=1, max_size=2),
)


def accounted(hook: HookStatistics) -> int:
    """Return of how many events something has become, or will."""
    has = hook.delivered + hook.dropped + hook.backlog + hook.handling
    return has + hook.senders_waiting


class Recorder:
    """A hook, and what it saw in one life of the app."""

    def __init__(self, world: World, plan: HookPlan, name: str) -> None:
        self.world = world
        self.plan = plan
        self.name = name
        self.begun: list[int] = []
        self.done: list[int] = []
        self.failed: set[int] = set()

    async def __call__(self, data: Any) -> None:
        some: Sequence[int] = [data] if self.plan.batch is None else data
        assert 1 <= len(some) <= (self.plan.batch or 1)
        self.begun += some
        if self.plan.takes:
            await trio.sleep(self.plan.takes)
        if self.plan.forwards and some[0] % 3 == 0:
            await self.world.forward(self.plan.module)
        if self.plan.fails and some[0] % 4 == 0 and some[0] not in self.failed:
            self.failed.add(some[0])
            raise ValueError(some)
        self.done += some

    def declare(self) -> None:
        plan = self.plan
        self.world.buffers[f"m{plan.module}/{self.name}"] = plan.buffer
        self.world.modules[plan.module].hook(
            f"m{plan.event}/event",
            self,
            name=self.name,
            buffer=plan.buffer,
            overflow=plan.overflow,
            concurrency=plan.concurrency,
            batch=plan.batch,
            retry=Backoff(initial=0.5, maximum=1) if plan.retries else None,
        )


class World:
    """The app of a plan, and everything that is known about it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.numbers = itertools.count()
        self.modules = [self._module(number) for number in range(MODULES)]
        self.events: list[Event[int]] = [each.event("event", int) for each in self.modules]
        self.recorders = [
            Recorder(self, hook, f"hook{number}") for number, hook in enumerate(plan.hooks)
        ]
        self.added: list[Recorder] = []
        self.buffers: dict[str, int] = {}
        for recorder in self.recorders:
            recorder.declare()
        self.app = App(
            *self.modules,
            managed=True,
            stop_timeout=STOP_TIMEOUT,
            start_timeout=60,
            rng=random.Random(plan.seed),
        )
        self.offsets: dict[str, int] = {}
        self.totals: dict[str, int] = {}
        self.nursery: trio.Nursery | None = None
        self.triggered: dict[str, list[int]] = {}
        self.channel: trio.MemoryReceiveChannel[Occurrence]

    def _module(self, number: int) -> Module:
        module = Module(
            f"m{number}",
            depends_on=["m0"] if self.plan.depends and number == 1 else [],
            restart=Restart(backoff=Backoff(initial=1)),
            enabled=True,
        )
        self.broken = dict.fromkeys(range(MODULES), False)

        @module.on_start
        async def start() -> None:
            await trio.sleep(0.5)
            if self.broken[number]:
                raise ValueError("broken")

        return module

    # ------------------------------------------------------------ what happens

    async def forward(self, number: int) -> None:
        with trio.move_on_after(LONGEST_WAIT):
            await self.events[number].trigger(next(self.numbers))

    async def send(self, event: Event[int], count: int) -> None:
        for _ in range(count):
            with trio.move_on_after(LONGEST_WAIT):
                try:
                    await event.trigger(next(self.numbers))
                except ModuleOffline:
                    return

    def send_nowait(self, step: Step) -> None:
        module = self.modules[step.module]
        for _ in range(step.amount):
            try:
                if step.kind == "inject":
                    module.inject_event("own", f"m{step.amount % MODULES}/event", self.next)
                else:
                    module.events["event"].trigger_nowait(self.next)
            except (ModuleOffline, trio.WouldBlock):
                return

    @property
    def next(self) -> int:
        return next(self.numbers)

    async def manage(self) -> None:
        with contextlib.suppress(StartError, StopError), trio.move_on_after(PATIENCE):
            await self.app.manage()

    async def restart(self, module: Module) -> None:
        with contextlib.suppress(StartError, StopError, ModuleOffline):
            with trio.move_on_after(PATIENCE):  # a module may be broken for ever
                await self.app.restart(module)

    async def crash(self, module: Module) -> None:
        if module.online:
            module.nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()

    def add_hook(self, step: Step) -> None:
        module = self.modules[step.module]
        if module.status not in (ModuleStatus.STARTING, ModuleStatus.ONLINE):
            return
        plan = self.plan.hooks[step.amount % len(self.plan.hooks)]
        recorder = Recorder(self, attrs.evolve(plan, module=step.module), f"added{len(self.added)}")
        recorder.declare()
        self.added.append(recorder)

    async def take(self, step: Step) -> None:
        module, event = self.modules[step.module], self.events[step.module]
        if step.kind == "send":
            await self.send(event, 1)
        elif step.kind == "send many":
            await self._do(step, self.send, event, step.amount)
        elif step.kind in ("nowait", "inject"):
            self.send_nowait(step)
        elif step.kind == "sleep":
            await trio.sleep(step.amount / 4)
        elif step.kind == "crash":
            await self.crash(module)
        elif step.kind == "restart":
            await self._do(step, self.restart, module)
        elif step.kind == "switch":
            module.set_enabled(not module.enabled)
            await self._do(step, self.manage)
        elif step.kind == "break":
            self.broken[step.module] = not self.broken[step.module]
        else:
            self.add_hook(step)

    async def _do(self, step: Step, fn: Any, *args: Any) -> None:
        """Wait for it, or go on beside it."""
        assert self.nursery is not None
        if step.waits:
            await fn(*args)
        else:
            self.nursery.start_soon(fn, *args)

    # ------------------------------------------------------------ what must hold

    def step_fault(self) -> str | None:
        """What became of the events of each hook adds up, at every step.

        While a hook is open that and the triggers differ by a constant. When it is closed all
        that it had is accounted for, and nothing is added to it.
        """
        offsets: dict[str, int] = {}
        totals: dict[str, int] = {}
        for event in self.events:
            figures = event.statistics()
            for hook in figures.hooks + figures.closed:
                totals[hook.hook] = total = accounted(hook)
                is_open = hook in figures.hooks
                if is_open:
                    offsets[hook.hook] = figures.triggered - total
                if fault := self.hook_fault(hook, total, figures.triggered, is_open=is_open):
                    return f"{fault}: {hook} of {figures.triggered}"
        self.offsets, self.totals = offsets, totals
        return None

    def hook_fault(
        self, hook: HookStatistics, total: int, triggered: int, *, is_open: bool
    ) -> str | None:
        offset, before = self.offsets.get(hook.hook), self.totals.get(hook.hook, total)
        if min(hook.delivered, hook.dropped, hook.backlog, hook.handling) < 0:
            return "negative"
        if hook.senders_waiting and hook.backlog < self.buffers[hook.hook]:
            return "senders wait while there is room"
        if offset is None:  # it was closed before, and may have been opened since
            return None if total == before or is_open else "changed while closed"
        if is_open:
            return None if triggered - total == offset else "lost or doubled"
        return None if before <= total <= triggered - offset else "lost when it was closed"

    def order_fault(self, recorder: Recorder) -> str | None:
        """What a hook begins with is a part of what was triggered, in that order."""
        order = self.triggered[f"m{recorder.plan.event}"]
        first = list(dict.fromkeys(recorder.begun))
        in_order = is_subsequence(first, order)
        return None if in_order else f"{recorder.name} out of order: {first} of {order}"

    def faults(self) -> Iterator[str]:
        """Say what is wrong after a life of the app."""
        infos = {
            info.name: info for each in self.app.status().modules.values() for info in each.hooks
        }
        for recorder in self.recorders + self.added:
            first = list(dict.fromkeys(recorder.begun))
            if fault := self.order_fault(recorder):
                yield fault
            if not recorder.plan.retries and len(first) != len(recorder.begun):
                yield f"{recorder.name} got something twice: {recorder.begun}"
            if len(set(recorder.done)) != len(recorder.done):
                yield f"{recorder.name} has done something twice: {recorder.done}"
            info = infos.get(recorder.name)
            if info is None:
                continue
            if info.backlog or info.handling:
                yield f"left over: {info}"
            delivered = recorder.done if recorder.plan.retries else recorder.begun
            if info.delivered != len(delivered):
                yield f"{recorder.name} had {delivered}, its figures say {info}"
        for event in self.events:
            if event.statistics().triggered != len(self.triggered[event.module.name]):
                yield f"{event} was triggered {self.triggered[event.module.name]}"

    # ------------------------------------------------------------ a life of the app

    async def live(self, use: Callable[[], Awaitable[None]]) -> list[str]:
        """Run the app once, with *use* as its body; what was wrong."""
        self.offsets.clear()
        self.totals.clear()
        self.added.clear()
        for recorder in self.recorders:
            recorder.__init__(self, recorder.plan, recorder.name)  # type: ignore[misc]
        for number, module in enumerate(self.modules):
            self.broken[number] = False
            module.enable()
        self.triggered = {module.name: [] for module in self.modules}
        async with self.app.subscribe(buffer=100_000) as self.channel:
            with watching(self.step_fault) as broken, trio.fail_after(LONGEST_STEP * 30):
                async with trio.open_nursery() as self.nursery, self.app:
                    await use()
                    self.nursery.cancel_scope.deadline = trio.current_time() + LONGEST_STEP
            self.listen()
        return [*broken[:1], *self.faults()]

    def listen(self) -> None:
        """Note what was triggered since it was called last."""
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                seen = self.channel.receive_nowait()
                assert isinstance(seen.data, int)
                self.triggered[seen.event.full_name.partition("/")[0]].append(seen.data)


def is_subsequence(some: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(each in rest for each in some)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing be logged that happens on purpose."""
    logger = logging.getLogger("trio_modules")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@given(PLANS)
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_events_are_handled_in_order_or_counted(plan: Plan) -> None:
    """each hook begins with a part of what was triggered, in order, and the rest is counted."""
    with quiet(), deterministic_scheduling(plan.seed):
        trio.run(check, plan, clock=MockClock(autojump_threshold=0))


async def check(plan: Plan) -> None:
    world = World(plan)
    for number, steps in enumerate(plan.lives):
        faults = await world.live(partial(play, world, steps))
        assert not faults, f"life {number}: {faults}"


async def play(world: World, steps: list[Step]) -> None:
    for step in steps:
        with trio.fail_after(LONGEST_STEP):
            await world.take(step)


# ---------------------------------------------------------------------- a state machine


class Puppet:
    """A world in a Trio run that stands still until it is told what happens next.

    The run is a guest of whoever calls these plain functions; its clock stands still, too.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults: list[str] = []
        self._clock = MockClock(autojump_threshold=0)
        self._ticks: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._stands_still = self._is_over = False
        self._orders: trio.MemorySendChannel[Callable[[], Awaitable[object]]]
        self._outcome: Outcome[None] | None = None
        trio.lowlevel.start_guest_run(
            self._live,
            run_sync_soon_threadsafe=self._ticks.put,
            done_callback=self._end,
            clock=self._clock,
        )
        self._go_on()

    def tell(self, async_fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Let something happen in the body of the app, and all that follows at this moment."""
        self._token.run_sync_soon(self._orders.send_nowait, partial(async_fn, *args))
        self._go_on()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.tell(self._sleep, seconds)

    def live_again(self) -> None:
        """Leave the app, and enter it again."""
        self._token.run_sync_soon(self._orders.close)
        self._go_on()

    def die(self) -> None:
        """Leave the app, and end."""
        self._is_over = True
        self.live_again()
        assert self._outcome is not None

    def _go_on(self) -> None:
        self._stands_still = False
        while not self._stands_still and self._outcome is None:
            self._ticks.get(timeout=60)()
        if self._outcome is not None:
            self._outcome.unwrap()

    def _end(self, outcome: Outcome[None]) -> None:
        self._outcome = outcome

    async def _live(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        while not self._is_over:
            self.faults += await self.world.live(self._obey)

    async def _obey(self) -> None:
        self._orders, orders = trio.open_memory_channel[Any](1)
        self._clock.autojump_threshold = math.inf
        with orders:
            self._stands_still = True
            async for order in orders:
                await order()
                await let_run()
                self._stands_still = True
        self._clock.autojump_threshold = 0

    async def _sleep(self, seconds: float) -> None:
        self._clock.autojump_threshold = 0
        await trio.sleep(seconds)
        self._clock.autojump_threshold = math.inf


AMOUNTS = st.integers(1, 12)


class EventsMachine(RuleBasedStateMachine):
    """Events flow while modules go up and down, restart, crash, are managed and get hooks."""

    @initialize(seed=st.integers(0, 2**16), hooks=HOOK_LISTS, depends=st.booleans())
    def begin(self, seed: int, hooks: list[HookPlan], depends: bool) -> None:
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(quiet())
        self.patches.enter_context(deterministic_scheduling(seed))
        self.world = World(Plan(seed, hooks, depends, lives=[]))
        self.puppet = Puppet(self.world)

    def happens(self, kind: Kind, module: int, amount: int = 1) -> None:
        self.puppet.tell(self.world.take, Step(kind, module, amount, waits=False))

    @rule(module=INDEX, count=AMOUNTS)
    def trigger(self, module: int, count: int) -> None:
        self.happens("send many", module, count)

    @rule(module=INDEX, count=AMOUNTS)
    def trigger_nowait(self, module: int, count: int) -> None:
        self.happens("nowait", module, count)

    @rule(module=INDEX, count=AMOUNTS)
    def inject(self, module: int, count: int) -> None:
        self.happens("inject", module, count)

    @rule(module=INDEX)
    def crash(self, module: int) -> None:
        self.happens("crash", module)

    @rule(module=INDEX, count=AMOUNTS)
    def crash_in_the_step_of_events(self, module: int, count: int) -> None:
        self.puppet.tell(self._trigger_and_crash, module, count)

    async def _trigger_and_crash(self, module: int, count: int) -> None:
        self.world.send_nowait(Step("nowait", module, count, waits=False))
        await self.world.crash(self.world.modules[module])

    @rule(module=INDEX)
    def restart(self, module: int) -> None:
        self.happens("restart", module)

    @rule(module=INDEX)
    def enable_or_disable(self, module: int) -> None:
        self.happens("switch", module)

    @rule(module=INDEX)
    def break_or_mend_the_start(self, module: int) -> None:
        self.happens("break", module)

    @rule(module=INDEX, which=AMOUNTS)
    def add_hook(self, module: int, which: int) -> None:
        self.happens("add", module, which)

    @rule(seconds=st.sampled_from([0.05, 0.5, 1, 2.5, 7, 40]))
    def wait(self, seconds: float) -> None:
        self.puppet.wait(seconds)

    @rule()
    def live_again(self) -> None:
        self.puppet.live_again()
        assert self.puppet.faults == []

    @invariant()
    def nothing_is_lost_uncounted(self) -> None:
        assert self.world.step_fault() is None

    @invariant()
    def what_hooks_begin_with_is_in_order(self) -> None:
        self.world.listen()
        for recorder in self.world.recorders + self.world.added:
            assert self.world.order_fault(recorder) is None

    def teardown(self) -> None:
        if hasattr(self, "puppet"):
            self.puppet.die()  # raises if anything still waits after a bounded time
            self.patches.close()
            assert self.puppet.faults == []


EventsMachine.TestCase.settings = settings(
    max_examples=max(1, EXAMPLES // 4), stateful_step_count=40
)
TestEventsMachine = EventsMachine.TestCase
