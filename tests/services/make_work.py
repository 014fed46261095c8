"""Random tasks, microtasks, events and hooks, and what is done with them."""

from __future__ import annotations

import importlib.util
from typing import Literal

import attrs

from services.chance import TASK_TROUBLE, WORKER_TROUBLE, Chance
from services.plan import (
    AddHook,
    AwaitTask,
    Call,
    Func,
    HookPlan,
    Inject,
    Order,
    OrderTask,
    RunMicrotask,
    SetLimit,
    Subscribe,
    TaskPlan,
    TimedCall,
    Trigger,
)
from trio_modules import Overflow, Priority

HAS_CRON = importlib.util.find_spec("cronsim") is not None
ORDERS: tuple[Order, ...] = (
    "queue",
    "queue",
    "queue",
    "queue_prioritized",
    "queue_prioritized",
    "start_asap",
    "start_asap",
    "max_delay",
    "schedule",
    "schedule_after",
    "schedule_after",
    "schedule_after",
    "unschedule",
    "repeat",
    "repeat",
    "cancel",
)
SECONDS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 7.0)
LONG_SECONDS = (0.0, 1.0, 10.0, 30.0, 50.0, 70.0, 100.0)


class WorkMaker(Chance):
    """Makes up work beyond workers.

    Attributes:
        tasks_rate, events_rate: how many of them each module has, more or less.
        microtasks: whether there are any.
    """

    tasks_rate = 0.0
    events_rate = 0.0
    microtasks = False

    # ------------------------------------------------------------ parts of a module

    def some(self, rate: float) -> range:
        return self.repeat(1.0, rate, rate / 2, rate / 4)

    def own_tasks(self, owner: str) -> tuple[TaskPlan, ...]:
        if not self.tasks_rate:
            return ()
        return tuple(self.task(owner) for _ in self.some(self.tasks_rate))

    def task(self, owner: str) -> TaskPlan:
        rng = self.rng
        plan = TaskPlan(self.job(owner), declared=self.maybe(0.5))
        if not plan.declared:
            return plan
        kind = rng.choice(("none", "every", "every", "cron", "at"))
        misfire: Literal["run-once", "skip"] = "skip" if self.maybe(0.3) else "run-once"
        if kind == "every":
            return attrs.evolve(plan, every=rng.choice((0.5, 1.0, 3.0)), jitter=self.jitter())
        if kind == "cron" and HAS_CRON:
            cron = rng.choice((2, 5, 10))
            return attrs.evolve(plan, cron=cron, jitter=self.jitter(), misfire=misfire)
        if kind == "at":
            return attrs.evolve(plan, at=rng.choice((0.0, 1.0, 2.0, 5.0, 8.0)), misfire=misfire)
        return plan

    def jitter(self) -> float:
        return self.rng.choice((0.0, 0.0, 0.0, 0.5))

    def job(self, owner: str) -> Func:
        call = self.inner_call(owner) if self.maybe(0.15) else None
        delays = (1.0, 5.0, 40.0, 70.0, 100.0) if self.lasting else (0.0, 0.25, 0.5, 1.0, 3.0)
        func = self.brief("job", WORKER_TROUBLE, call, delays)
        if not self.maybe(0.2):
            return func
        again = [
            attrs.evolve(
                self.act("retry", delay=self.rng.choice((0.0, 0.5))),
                retry_after=self.rng.choice((0.0, 0.5, 1.0, 3.0)),
            )
            for _ in range(self.rng.choice((1, 1, 2, 3)))
        ]
        return Func(func.name, (*func.acts[:-1], *again, func.acts[-1]))

    def own_events(self) -> tuple[str, ...]:
        if not self.events_rate:
            return ()
        return tuple(self.name("event") for _ in self.some(self.events_rate))

    def own_hooks(self, owner: str) -> tuple[HookPlan, ...]:
        if not self.events:
            return ()
        return tuple(self.hook(owner) for _ in self.some(self.events_rate))

    def hook(self, owner: str) -> HookPlan:
        rng = self.rng
        call = self.inner_call(owner) if self.maybe(0.15) else None
        func = self.brief("hook", WORKER_TROUBLE, call)
        if self.maybe(0.03):
            func = Func(func.name, (*func.acts[:-1], self.act("forever")))
        return HookPlan(
            func,
            event=rng.choice(self.events),
            buffer=rng.choice((1, 1, 2, 3, 100)),
            overflow=rng.choice(tuple(Overflow)),
            concurrency=rng.choice((1, 1, 1, 2, 3)),
            batch=rng.choice((None, None, None, 1, 2, 4)),
            retry=rng.choice((None, None, 0.25, 1.0)),
        )

    # ------------------------------------------------------------ what is asked

    def inner_call(self, owner: str) -> Call:
        """Something that a function of *owner* asks for."""
        raise NotImplementedError

    def inner_work(self, owner: str) -> list[Call]:
        """What a function of *owner* asks for in the way of work."""
        calls: list[Call] = []
        if self.tasks_rate:
            calls += [call for call in (self.order(), self.order_of(owner)) if call is not None]
        if self.microtasks:
            calls += [self.microtask(owner), self.microtask(self.any_module())]
        if self.events:
            calls += [self.trigger(), self.trigger(), self.inject(owner)]
        return calls

    def more_work(self) -> list[TimedCall]:
        """What the body does with tasks, microtasks and events, often much at a time."""
        found: list[TimedCall] = []
        for kind, rate in (
            (self.task_calls, self.tasks_rate),
            (self.microtask_calls, float(self.microtasks)),
            (self.event_calls, float(bool(self.events))),
        ):
            if rate:
                for _ in self.repeat(0, 1, 2, 2, 1):
                    moment = self.moment()
                    found += [(moment, call) for call in kind()]
        return found

    def task_calls(self) -> list[Call]:
        if self.maybe(0.08):
            return [SetLimit("max_concurrent_tasks", self.rng.choice((1, 2, 3)))]
        orders = [self.order() for _ in range(self.rng.choice((1, 1, 2, 4, 6)))]
        found = [order for order in orders if order is not None]
        calls: list[Call] = []
        if found and self.maybe(0.3):
            one = self.rng.choice(found)
            delay = self.rng.choice((0.5, 1.0, 2.0))
            calls.append(OrderTask(one.module, one.task, "max_delay", delay))
        calls += found
        if found and self.maybe(0.4):
            one = self.rng.choice(found)
            calls.append(AwaitTask(one.module, one.task, self.patience()))
        return calls

    def order(self) -> OrderTask | None:
        return self.order_of(self.any_module())

    def order_of(self, module: str) -> OrderTask | None:
        """An order for a task of that module, or of any."""
        plan = self.plans.get(module)
        if plan is None or not plan.tasks:
            owners = [plan for plan in self.plans.values() if plan.tasks]
            if not owners:
                return None
            plan = self.rng.choice(owners)
        order = self.rng.choice(ORDERS)
        seconds = self.rng.choice(LONG_SECONDS if self.lasting else SECONDS)
        if order == "repeat":
            seconds = self.rng.choice((0.0, 0.5, 1.0, 3.0))
        return OrderTask(plan.name, self.rng.choice(plan.tasks).func.name, order, seconds)

    def microtask_calls(self) -> list[Call]:
        if self.maybe(0.08):
            return [SetLimit("max_concurrent_microtasks", self.rng.choice((1, 2, 4)))]
        module = self.any_module()
        return [self.microtask(module) for _ in range(self.rng.choice((1, 2, 3, 5, 8)))]

    def microtask(self, module: str, *, nested: bool = False) -> RunMicrotask:
        rng = self.rng
        inner = self.microtask(module, nested=True) if not nested and self.maybe(0.15) else None
        ways: tuple[Literal["run", "start", "slot"], ...] = ("run", "run", "start", "start", "slot")
        way = rng.choice(ways)
        # Whatever an exception does to somebody else's code, a slot in it raises none.
        troubles = WORKER_TROUBLE if way == "start" else TASK_TROUBLE
        delays = (0.0, 5.0, 40.0) if self.lasting else (0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 4.0)
        return RunMicrotask(
            module,
            self.brief("micro", troubles, inner, delays),
            way,
            rng.choice((Priority.HIGH, Priority.MEDIUM, Priority.MEDIUM, Priority.LOW)),
            max_delay=rng.choice((None, None, None, 0.0, 0.5, 2.0)),
            patience=self.patience(),
        )

    def event_calls(self) -> list[Call]:
        kind = self.rng.random()
        if kind < 0.12:
            return [self.subscription()]
        if kind < 0.2:
            owner = self.any_module()
            return [AddHook(owner, self.hook(owner))]
        if kind < 0.3:
            return [self.inject(self.any_module())]
        return [self.trigger() for _ in range(self.rng.choice((1, 1, 2, 3)))]

    def trigger(self) -> Trigger:
        event = self.rng.choice(self.events)
        return Trigger(
            event.partition("/")[0],
            event,
            count=self.rng.choice((1, 1, 2, 3, 6)),
            nowait=self.maybe(0.35),
            patience=self.patience(),
        )

    def inject(self, owner: str) -> Inject:
        return Inject(owner, self.rng.choice(self.events))

    def subscription(self) -> Subscribe:
        event = self.rng.choice((None, *self.events))
        module = "" if event is None else event.partition("/")[0]
        return Subscribe(module, event, self.moment() + 1.0, self.rng.choice((1, 2, 100)))
