"""Whatever is done to tasks, they run when a plain model of their rules says so.

``SOAK_EXAMPLES`` sets how many histories are tried.
"""

from __future__ import annotations

import logging
import math
import os
import random
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support import deterministic_scheduling, let_run, switch_off
from trio.testing import MockClock

from trio_modules import App, Backoff, Module, ModuleOffline, Restart, Retry, Task, TaskCancelled

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "200"))
PLAIN, PRIORITIZED, FRONT = 0, 1, 2
DOWN_AFTER_CRASH = 2.5

# Fractions that floats hold exactly, and that no two moments share: what happens in one moment
# would else depend on whose turn it is in Trio.
TICK = 2.0**-12
FINE_TICK = 2.0**-36


def fraction(number: int, count: int) -> float:
    """A fraction of a second that no two sums of them share, but by rare chance."""
    return random.Random(number * 1000 + count).randrange(1, 2**24) * FINE_TICK


@attrs.define
class Run:
    """One execution, in the model."""

    began: float
    until: float
    outcome: str
    has_place: bool
    again: int | None = None
    decided: bool = False


@attrs.define
class Plan:
    """All that the model knows of one task."""

    name: str
    module: str
    takes: float
    outcomes: tuple[str, ...]
    runs: int = 0
    not_begun: int = 0  # executions that were called off before their first step
    cancelled: bool = False
    delay: float = 180.0
    joined: float | None = None
    due: float | None = None
    due_number: int = 0
    repeated: bool = False  # whether it is due by its repetition
    tried_again: bool = False  # whether it is due for a retry
    later: float | None = None
    interval: float | None = None
    run: Run | None = None
    begun: list[float] = attrs.field(factory=list)

    @property
    def limit(self) -> float:
        return math.inf if self.joined is None or not self.delay else self.joined + self.delay

    def next_run(self, now: float, number: int) -> tuple[float, str]:
        """How long the execution that begins now takes, and how it ends."""
        count = len(self.begun)
        outcome = self.outcomes[count % len(self.outcomes)]
        return now + self.takes + fraction(number, count), outcome


class Model:
    """The rules of tasks, written for being read: everything is looked at, each time."""

    def __init__(self, plans: list[Plan], limit: int) -> None:
        self.plans = {plan.name: plan for plan in plans}
        self.limit = limit
        self.now = 0.0
        self.high: list[str] = []
        self.low: list[str] = []
        self.up = {plan.module: True for plan in plans}
        self.back_at: dict[str, float] = {}
        self.number = 0

    # what can be asked of it

    @property
    def line(self) -> list[str]:
        return self.high + self.low

    @property
    def executing(self) -> list[Plan]:
        return [plan for plan in self.plans.values() if plan.run is not None]

    def refusal(self, plan: Plan) -> type[Exception] | None:
        if plan.cancelled:
            return TaskCancelled
        return None if self.up[plan.module] else ModuleOffline

    # orders

    def queue(self, plan: Plan, rank: int) -> None:
        if plan.run is not None:
            plan.run.again = max(rank, plan.run.again or 0)
        else:
            self.join(plan, rank)

    def join(self, plan: Plan, rank: int) -> None:
        name = plan.name
        if plan.joined is None:
            plan.joined = self.now
        elif rank == PLAIN or (rank == PRIORITIZED and name in self.high):
            return
        self.leave(plan, keep=True)
        if rank == PLAIN:
            self.low.append(name)
        elif rank == PRIORITIZED:
            self.high.append(name)
        else:
            self.high.insert(0, name)

    def leave(self, plan: Plan, *, keep: bool = False) -> None:
        for queue in (self.high, self.low):
            if plan.name in queue:
                queue.remove(plan.name)
        if not keep:
            plan.joined = None

    def set_due(self, plan: Plan, when: float | None, *, repeated: bool = False) -> None:
        self.number += 1
        plan.due, plan.due_number, plan.repeated = when, self.number, repeated
        plan.tried_again, plan.later = False, None

    def schedule(self, plan: Plan, when: float | None) -> None:
        self.set_due(plan, when)
        if plan.run is not None:
            plan.run.decided = True
        self.forget(plan)

    def repeat(self, plan: Plan, interval: float | None) -> None:
        plan.interval = interval
        if interval is not None and plan.run is None:
            self.set_due(plan, self.now + interval, repeated=True)

    def cancel(self, plan: Plan) -> None:
        plan.cancelled = True
        self.drop(plan)

    def stop(self, module: str) -> None:
        self.up[module] = False
        for plan in self.plans.values():
            if plan.module == module:
                self.drop(plan)

    def drop(self, plan: Plan) -> None:
        self.leave(plan)
        self.set_due(plan, None)
        plan.interval = None
        if plan.run is not None:
            plan.run = None
            plan.runs += 1

    # time

    def advance(self, until: float) -> None:
        self.settle()
        while (when := self.next_moment()) <= until:
            self.now = when
            self.settle()
        self.now = until
        self.settle()

    def next_moment(self) -> float:
        moments = [plan.run.until for plan in self.executing if plan.run is not None]
        moments += [plan.due for plan in self.plans.values() if plan.due is not None]
        moments += [self.plans[name].limit for name in self.line]
        moments += self.back_at.values()
        if self.line:
            moments += [
                plan.run.began + 60
                for plan in self.executing
                if plan.run is not None and plan.run.has_place
            ]
        return min((moment for moment in moments if moment > self.now), default=math.inf)

    def settle(self) -> None:
        for module, when in list(self.back_at.items()):
            if when <= self.now:
                del self.back_at[module]
                self.up[module] = True
        for plan in self.executing:
            if plan.run is not None and plan.run.until <= self.now:
                self.end(plan, plan.run)
        self.come_due()
        for name in self.line:
            if self.plans[name].limit <= self.now:
                self.begin(self.plans[name], has_place=False)
        while self.line and self.places < self.limit:
            self.begin(self.plans[self.line[0]], has_place=True)

    @property
    def places(self) -> int:
        return sum(
            plan.run is not None and plan.run.has_place and self.now < plan.run.began + 60
            for plan in self.plans.values()
        )

    def come_due(self) -> None:
        due = [p for p in self.plans.values() if p.due is not None and p.due <= self.now]
        for plan in sorted(due, key=lambda plan: (plan.due, plan.due_number), reverse=True):
            rank = PLAIN if plan.tried_again else FRONT
            self.set_due(plan, plan.later)
            self.queue(plan, rank)

    def begin(self, plan: Plan, *, has_place: bool) -> None:
        self.leave(plan)
        number = list(self.plans).index(plan.name)
        until, outcome = plan.next_run(self.now, number)
        plan.run = Run(self.now, until, outcome, has_place)
        plan.begun.append(self.now)
        if plan.interval is not None and plan.repeated:
            self.set_due(plan, None)

    def end(self, plan: Plan, run: Run) -> None:
        plan.run = None
        plan.runs += 1
        if run.outcome == "retry":
            self.try_again(plan, self.now + 7)
        if plan.interval is not None and plan.due is None and not run.decided:
            self.set_due(plan, self.now + plan.interval, repeated=True)
        if run.again is not None:
            self.join(plan, run.again)
        self.forget(plan)

    def forget(self, plan: Plan) -> None:
        """What is taken out altogether isn't repeated any more."""
        if plan.run is None and plan.due is None and plan.joined is None:
            plan.interval = None

    def try_again(self, plan: Plan, when: float) -> None:
        later = plan.due
        if later is None or later > when:
            self.set_due(plan, when)
            plan.tried_again, plan.later = True, later


class Real:
    """The same tasks, in an app that runs."""

    def __init__(self, model: Model, limit: int) -> None:
        self.model = model
        restart = Restart(backoff=Backoff(initial=DOWN_AFTER_CRASH, maximum=DOWN_AFTER_CRASH))
        self.modules = {
            name: Module(name, enabled=True, restart=restart) for name in sorted(model.up)
        }
        self.app = App(*self.modules.values(), managed=True, max_concurrent_tasks=limit)
        self.begun: dict[str, list[float]] = {}
        self.inside: set[str] = set()
        self.tasks = {
            plan.name: self.modules[plan.module].new_task(self.function(number, plan), plan.name)
            for number, plan in enumerate(model.plans.values())
        }

    def function(self, number: int, plan: Plan) -> Any:
        begun = self.begun[plan.name] = []
        rehearsal = attrs.evolve(plan, begun=begun)

        async def run(task: Task) -> None:
            assert plan.name not in self.inside, "it runs twice at a time"
            self.inside.add(plan.name)
            try:
                now = trio.current_time()
                until, outcome = rehearsal.next_run(now, number)
                begun.append(now)
                await trio.sleep_until(until)
            finally:
                self.inside.remove(plan.name)
            if outcome == "retry":
                raise Retry(7)
            if outcome == "error":
                raise ValueError(plan.name)

        return run

    def check(self) -> None:
        """Compare all that can be seen from outside."""
        model = self.model
        assert self.begun == {name: plan.begun for name, plan in model.plans.items()}
        for name, plan in model.plans.items():
            task = self.tasks[name]
            again = plan.run is not None and plan.run.again is not None
            assert task.executing == (plan.run is not None), name
            assert task.queued == (plan.joined is not None or again), name
            assert (task.next_run, task.runs) == (plan.due, plan.runs), name
        limits, counts = self.app.status().limits, self.app.status().totals.executions
        assert limits.tasks_queued == len(model.line)
        assert limits.tasks_scheduled == sum(p.due is not None for p in model.plans.values())
        begun = sum(len(plan.begun) + plan.not_begun for plan in model.plans.values())
        assert counts.started == begun
        assert counts.running == len(model.executing)
        assert counts.ended == sum(plan.runs for plan in model.plans.values())


class History:
    """Does one thing after the other to both, and compares them after each."""

    def __init__(self, plans: list[Plan], limit: int) -> None:
        self.model = Model(plans, limit)
        self.real = Real(self.model, limit)
        self.count = 0

    async def play(self, steps: list[tuple[Any, ...]]) -> None:
        async with self.real.app:
            for what, *args in steps:
                self.count += 1
                await getattr(self, f"do_{what}")(*args)
                await let_run()
                self.model.settle()
                self.real.check()
            await self.do_wait(1000)
            self.real.check()

    def order(self, name: str, what: str, *args: Any) -> Plan | None:
        """Give an order to the task; return its plan unless that is rightly refused."""
        plan = self.model.plans[name]
        task = self.real.tasks[name]
        refusal = self.model.refusal(plan)
        if refusal is None:
            assert getattr(task, what)(*args) is task
            return plan
        with pytest.raises(refusal):
            getattr(task, what)(*args)
        return None

    def moment(self) -> float:
        return self.count * TICK

    async def do_queue(self, names: list[str], rank: int) -> None:
        what = ["queue", "queue_prioritized", "start_asap"][rank]
        for name in names:
            plan = self.order(name, what)
            if plan is not None:
                self.model.queue(plan, rank)
                await let_run()
                self.model.settle()

    async def do_schedule(self, name: str, after: float) -> None:
        when = trio.current_time() + after + self.moment() / 2
        plan = self.order(name, "schedule", when)
        if plan is not None:
            self.model.schedule(plan, when)

    async def do_schedule_after(self, name: str, after: float) -> None:
        after += self.moment() / 2
        plan = self.order(name, "schedule_after", after)
        if plan is not None:
            self.model.schedule(plan, self.model.now + after)

    async def do_unschedule(self, name: str) -> None:
        plan = self.order(name, "schedule", None)
        if plan is not None:
            self.model.schedule(plan, None)

    async def do_repeat(self, name: str, interval: float | None) -> None:
        plan = self.order(name, "repeat", interval)
        if plan is not None:
            self.model.repeat(plan, interval)

    async def do_delay(self, name: str, seconds: float) -> None:
        self.real.tasks[name].max_delay(seconds)
        self.model.plans[name].delay = seconds

    async def do_cancel(self, name: str) -> None:
        self.real.tasks[name].cancel()
        self.model.cancel(self.model.plans[name])

    async def do_limit(self, limit: int) -> None:
        self.real.app.max_concurrent_tasks = self.model.limit = limit

    async def do_stop(self, module: str) -> None:
        self.model.stop(module)
        await switch_off(self.real.app, self.real.modules[module])

    async def do_start(self, module: str) -> None:
        self.real.modules[module].enable()
        await self.real.app.manage()
        self.model.up[module] = True

    async def do_restart(self, module: str) -> None:
        if self.model.up[module]:
            self.model.stop(module)
            await self.real.app.restart(module)
            self.model.up[module] = True

    async def do_crash(self, module: str) -> None:
        if self.model.up[module]:
            self.real.modules[module].nursery.start_soon(crash)
            self.model.stop(module)
            self.model.back_at[module] = self.model.now + DOWN_AFTER_CRASH
            await let_run()
            for plan in self.model.plans.values():
                if plan.module == module:
                    self.order(plan.name, "queue")
                    self.forgive(plan)
            await self.do_wait(DOWN_AFTER_CRASH)

    def forgive(self, plan: Plan) -> None:
        """A crash may be in the very step in which a task gets its turn, which it then loses."""
        lost = self.real.tasks[plan.name].runs - plan.runs
        assert lost in {0, 1}
        plan.runs += lost
        plan.not_begun += lost

    async def do_wait(self, seconds: float) -> None:
        until = trio.current_time() + seconds + self.moment()
        await trio.sleep_until(until)
        await let_run()
        self.model.advance(until)


async def crash() -> None:
    raise ValueError("crash")


# --- random histories ----------------------------------------------------------------------

TASKS = "abcdef"
NAMES = st.sampled_from(TASKS)
CROWD = st.lists(NAMES, min_size=1, max_size=5, unique=True)
RANKS = st.sampled_from([PLAIN, PRIORITIZED, FRONT])
MODULES = st.sampled_from(["m", "n"])
AFTER = st.sampled_from([1.0, 3.0, 10.0, 40.0, 100.0])
WAIT = st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, 2.0, 5.0, 20.0, 45.0, 61.0, 130.0]))
STEPS = st.one_of(
    st.tuples(st.just("queue"), CROWD, RANKS),
    st.tuples(st.just("queue"), CROWD, RANKS),
    st.tuples(st.just("schedule"), NAMES, AFTER),
    st.tuples(st.just("schedule_after"), NAMES, AFTER),
    st.tuples(st.just("unschedule"), NAMES),
    st.tuples(st.just("repeat"), NAMES, st.sampled_from([60.0, 95.0, None])),
    st.tuples(st.just("delay"), NAMES, st.sampled_from([0.0, 0.0, 3.25, 12.25, 180.0])),
    WAIT,
    WAIT,
    st.one_of(
        st.tuples(st.just("cancel"), NAMES),
        st.tuples(st.just("limit"), st.sampled_from([1, 1, 2, 3])),
        st.tuples(st.just("stop"), MODULES),
        st.tuples(st.just("start"), MODULES),
        st.tuples(st.just("restart"), MODULES),
        st.tuples(st.just("crash"), MODULES),
    ),
)
PLANS = st.tuples(
    st.sampled_from([1.0, 4.0, 10.0, 30.0, 90.0]),
    st.lists(st.sampled_from(["ok", "ok", "error", "retry"]), min_size=1, max_size=4),
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("trio_modules")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def play(
    seed: int, limit: int, kinds: list[tuple[float, list[str]]], steps: list[tuple[Any, ...]]
) -> History:
    plans = [
        Plan(name, "mn"[number % 2], takes, tuple(outcomes))
        for number, (name, (takes, outcomes)) in enumerate(zip(TASKS, kinds, strict=True))
    ]
    history = History(plans, limit)
    with deterministic_scheduling(seed):
        trio.run(history.play, steps, clock=MockClock(autojump_threshold=0))
    return history


@given(
    st.integers(0, 2**20),
    st.sampled_from([1, 1, 2]),
    st.lists(PLANS, min_size=len(TASKS), max_size=len(TASKS)),
    st.lists(STEPS, min_size=15, max_size=50),
)
@settings(max_examples=EXAMPLES)
def test_tasks_follow_their_rules(
    seed: int, limit: int, kinds: list[tuple[float, list[str]]], steps: list[tuple[Any, ...]]
) -> None:
    """whatever is done to them, tasks begin at the times that the model says, and no other."""
    play(seed, limit, kinds, steps)


KINDS: list[tuple[float, list[str]]] = [
    (10.0, ["ok"]),
    (4.0, ["ok", "retry"]),
    (1.0, ["error"]),
    (90.0, ["ok"]),
    (30.0, ["ok", "error"]),
    (4.0, ["retry", "ok"]),
]


def test_a_history_of_everything() -> None:
    """one history that has each kind of step is played to its end, and much happens in it."""
    steps: list[tuple[Any, ...]] = [
        ("queue", list("abcdef"), PLAIN),
        ("wait", 5.0),
        ("queue", ["a", "f"], FRONT),
        ("repeat", "b", 60.0),
        ("schedule", "c", 40.0),
        ("delay", "e", 12.25),
        ("wait", 130.0),
        ("limit", 2),
        ("crash", "m"),
        ("queue", list("bcd"), PRIORITIZED),
        ("wait", 20.0),
        ("schedule_after", "a", 10.0),
        ("unschedule", "a"),
        ("stop", "n"),
        ("queue", list("abcdef"), PLAIN),
        ("wait", 61.0),
        ("start", "n"),
        ("repeat", "f", 95.0),
        ("cancel", "c"),
        ("restart", "m"),
        ("queue", list("abcdef"), PLAIN),
        ("wait", 130.0),
    ]
    history = play(1, 1, KINDS, steps)
    assert sum(len(times) for times in history.real.begun.values()) > 20


def test_the_model_finds_a_lost_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """the comparison is worth something: a queue that loses the schedule is found out."""

    def queue(task: Task) -> Task:
        original(task)
        return task.schedule(None)

    original = Task.queue
    monkeypatch.setattr(Task, "queue", queue)
    steps: list[tuple[Any, ...]] = [("schedule", "a", 40.0), ("queue", ["a"], PLAIN)]
    with pytest.raises(BaseException, match=r".") as caught:
        play(1, 1, KINDS, steps)
    assert "next_run" in str(caught.getrepr(style="short"))
