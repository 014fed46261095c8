"""Random services: what a seed stands for, made up before anything is built from it."""

from __future__ import annotations

import random

import attrs

from services.chance import TASK_TROUBLE, WORKER_TROUBLE
from services.make_work import WorkMaker
from services.plan import (
    Act,
    AddModules,
    AwaitOnline,
    AwaitShutdown,
    Call,
    CallGuarded,
    CancelBlock,
    CancelNursery,
    ChangeWishes,
    Ending,
    Extend,
    Func,
    Lifespan,
    ModulePlan,
    Periodic,
    ReadResource,
    RemoveIt,
    RequestShutdown,
    RestartIt,
    RestartPlan,
    RunWorker,
    Service,
    ServicePlan,
    StartService,
    StartTask,
    StartWorker,
    TimedCall,
    Worker,
)

SMALL = (1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 6, 8, 8, 10, 14)
LARGE = (20, 30, 40, 60)
# How many functions of a whole service fail, more or less, in one phase of its life.
TROUBLES = (0.0, 0.0, 0.0, 0.5, 1.0, 3.0)
FUNCTIONS_PER_PHASE = 2.5

LIFECYCLE_TROUBLE: tuple[Ending, ...] = (
    "raise",
    "raise",
    "raise",
    "forever",
    "forever",
    "group",
    "stray",
    "stray-group",
    "interrupt",
    "exit",
    "mixed-group",
)
PREP_TROUBLE: tuple[Ending, ...] = (
    "raise",
    "raise",
    "group",
    "stray",
    "interrupt",
    "exit",
    "mixed-group",
    "clean-exit",
)
SERVICE_TROUBLE: tuple[Ending, ...] = (
    "raise",
    "raise",
    "raise",
    "raise",
    "group",
    "stray",
    "stray-group",
    "restart-now",
    "restart-now",
    "restart-module",
    "return",
    "interrupt",
    "mixed-group",
)


class Maker(WorkMaker):
    """Makes up the parts of one service."""

    managed = False
    flaky = False

    # functions

    def lifecycle(self, kind: str, troubles: tuple[Ending, ...] = LIFECYCLE_TROUBLE) -> Func:
        trouble = self.stop_trouble if kind in ("stop", "exit") else self.start_trouble
        acts = self.failing_acts(troubles) if self.maybe(trouble) else []
        return Func(self.name(kind), (*acts, self.act("return")))

    def endless(self, kind: str, troubles: tuple[Ending, ...], owner: str) -> Func:
        acts = self.failing_acts(troubles) if self.maybe(self.run_trouble) else []
        # What it asks for it asks for once, or one that restarts itself would never end.
        if self.maybe(0.08):
            acts.append(self.act("forever", call=self.inner_call(owner)))
        last = attrs.evolve(self.act("forever"), interruptible=self.maybe(0.1))
        return Func(self.name(kind), (*acts, last))

    # parts of a module

    def restart(self, *, module: bool) -> RestartPlan:
        rng = self.rng
        return RestartPlan(
            max_restarts=rng.choice((0, 1, 2, 3, None) if module else (0, 1, 2, 3, None, None)),
            within=rng.choice((5.0, 300.0)),
            initial=rng.choice((0.25, 0.5, 1.0, 2.0)),
            growth=rng.choice(("linear", "exponential")),
            maximum=rng.choice((2.0, 8.0)),
            jitter=rng.choice((0.0, 0.0, 0.3)),
            reset_after=rng.choice((1.0, 300.0)),
            cover_start=module and self.maybe(0.25),
            exhausted=rng.choice(("shutdown", "offline")) if module else "shutdown",
        )

    def lifespan(self, owner: str) -> Lifespan:
        child = None
        if self.maybe(0.3):
            child = self.endless("child", ("raise", "raise", "group", "interrupt"), owner)
        return Lifespan(
            name=self.name("span"),
            enter=self.lifecycle("enter"),
            exit=self.lifecycle("exit"),
            child=child,
        )

    def grace(self, stop_timeout: float) -> float:
        return self.rng.choice((0.0, 0.0, 0.25, 0.5, 0.75)) * stop_timeout

    def worker(self, owner: str, stop_timeout: float) -> Worker:
        return Worker(self.endless("worker", WORKER_TROUBLE, owner), self.grace(stop_timeout))

    def service(self, owner: str, stop_timeout: float, *, declared: bool) -> Service:
        on_return = self.maybe(0.2)
        func = self.endless("service", SERVICE_TROUBLE, owner)
        if self.flaky and self.maybe(0.5):
            func = self.often_failing(func)
        if self.maybe(0.15):
            func = attrs.evolve(func, acts=(*func.acts[:-1], self.act("return", delay=1.0)))
        may_wait = declared and func.acts[-1].ending == "forever"
        return Service(
            func=func,
            restart=self.restart(module=False),
            on_return=on_return,
            grace=self.grace(stop_timeout),
            ready_after=self.short() if may_wait and self.maybe(0.25) else None,
        )

    def often_failing(self, func: Func) -> Func:
        """The same with some failures before, many of them at the same times."""
        endings: tuple[Ending, ...] = ("raise", "raise", "raise", "group", "restart-now")
        failing = [
            self.act(self.rng.choice(endings), delay=self.rng.choice((0.5, 0.5, 1.0, 4.0)))
            for _ in range(self.rng.choice((2, 3, 5)))
        ]
        return Func(func.name, (*failing, *func.acts))

    def periodic(self) -> Periodic:
        troubled = self.maybe(self.run_trouble)
        acts = self.failing_acts(("raise", "group", "stray")) if troubled else []
        interval = self.rng.choice((10.0, 20.0) if self.lasting else (0.5, 1.0, 3.0))
        last = self.act("return", delay=self.rng.choice((0.0, 0.0, 0.5, 2.0)))
        return Periodic(
            func=Func(self.name("beat"), (*acts, last)),
            interval=interval,
            immediately=self.maybe(0.5),
            jitter=self.rng.choice((0.0, 0.0, 0.25)),
            missed=self.rng.choice(("skip", "delay")),
        )

    def events_of(self, name: str) -> tuple[str, ...]:
        """The events of a module that is there from the beginning."""
        found = (event.partition("/") for event in self.events)
        return tuple(event for owner, _, event in found if owner == name)

    def lifecycle_calls(self, func: Func, owner: str) -> Func:
        if not self.maybe(0.06):
            return func
        calls: tuple[Call, ...] = (
            StartTask(owner, self.passing("task", TASK_TROUBLE)),
            StartTask(owner, self.passing("task", TASK_TROUBLE)),
            StartWorker(owner, self.passing("work", WORKER_TROUBLE)),
            Extend(owner, self.rng.choice((0.5, 3.0))),
            ChangeWishes(),
            AwaitShutdown(),
            RequestShutdown(),
            *self.inner_work(owner),
        )
        asking = attrs.evolve(func.acts[-1], call=self.rng.choice(calls))
        return attrs.evolve(func, acts=(*func.acts[:-1], asking, func.acts[-1]))

    def module(self, name: str, depends_on: tuple[str, ...], wants: tuple[str, ...]) -> ModulePlan:
        stop_timeout = self.rng.choice((None, None, 2.0, 6.0, 8.0, 16.0))
        # A service whose app stops sooner than in its own time has a grace period too long.
        grace_base = 8.0 if stop_timeout is None else stop_timeout
        restart = self.restart(module=True)
        # What may be restarted for ever must be able to start.
        start_timeout = 30.0 if restart.max_restarts is None else self.rng.choice((None, 3.0, 6.0))
        if start_timeout is not None:  # a short period would always end before its budget does
            restart = attrs.evolve(restart, within=max(restart.within, 300.0))
        plan = ModulePlan(
            name=name,
            depends_on=depends_on,
            wants=wants,
            prep=tuple(self.lifecycle("prep", PREP_TROUBLE) for _ in self.repeat(4, 1)),
            start=tuple(
                self.lifecycle_calls(self.lifecycle("start"), name) for _ in self.repeat(2, 3, 1)
            ),
            stop=tuple(
                self.lifecycle_calls(self.lifecycle("stop"), name) for _ in self.repeat(2, 3, 1)
            ),
            lifespans=tuple(self.lifespan(name) for _ in self.repeat(3, 2, 1)),
            workers=tuple(self.worker(name, grace_base) for _ in self.repeat(2, 2, 1)),
            services=tuple(
                self.service(name, grace_base, declared=True) for _ in self.repeat(3, 2, 1)
            ),
            periodics=tuple(self.periodic() for _ in self.repeat(8, 1)),
            tasks=self.own_tasks(name),
            events=self.own_events() if name not in self.names else self.events_of(name),
            hooks=self.own_hooks(name),
            start_timeout=start_timeout,
            stop_timeout=stop_timeout,
            restart=restart,
            enabled=self.managed and self.maybe(0.4),
        )
        self.plans[name] = plan
        return plan

    # what is asked of the framework while the app runs

    def inner_call(self, owner: str) -> Call:
        """Something that a worker of *owner* asks for."""
        rng, other = self.rng, self.any_module()
        patience = self.patience()
        work = self.inner_work(owner)
        if work and self.maybe(0.5):
            return rng.choice(work)
        calls: tuple[Call, ...] = (
            RunWorker(
                other, self.passing("run", TASK_TROUBLE), patience, propagate=self.maybe(0.3)
            ),
            RunWorker(owner, self.passing("run", TASK_TROUBLE), patience),
            StartWorker(owner, self.passing("work", WORKER_TROUBLE)),
            StartWorker(other, self.passing("work", WORKER_TROUBLE)),
            StartTask(owner, self.passing("task", TASK_TROUBLE)),
            CallGuarded(other, self.passing("guarded", WORKER_TROUBLE)),
            AwaitOnline(other, patience),
            *(self.inner_troubles(owner, other, patience) if self.run_trouble else ()),
        )
        return rng.choice(calls)

    def inner_troubles(self, owner: str, other: str, patience: float) -> tuple[Call, ...]:
        return (
            RequestShutdown(),
            AwaitShutdown(),
            ChangeWishes(*self.wishes(), patience=patience),
            RestartIt(other, patience),
            RestartIt(owner, patience),
        )

    def wishes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        chosen = self.rng.sample(self.names, min(len(self.names), self.rng.choice((1, 1, 2, 4))))
        enabled = tuple(name for name in chosen if self.maybe(0.5))
        return enabled, tuple(name for name in chosen if name not in enabled)

    def read_resource(self) -> Call | None:
        owner = self.any_module()
        lifespans = self.plans[owner].lifespans
        return ReadResource(owner, self.rng.choice(lifespans).name) if lifespans else None

    def added_modules(self) -> AddModules:
        owner = self.any_module() if self.maybe(0.4) else None
        fresh: list[str] = []
        plans: list[ModulePlan] = []
        for _ in range(self.rng.choice((1, 1, 2))):
            name = self.name("added")
            known = [*self.names, *fresh]
            depends_on = tuple(self.rng.sample(known, min(len(known), self.rng.choice((0, 1, 2)))))
            plans.append(self.module(name, tuple(x for x in depends_on if x != owner), ()))
            fresh.append(name)
        return AddModules(tuple(plans), owner, self.rng.choice((1.0, 1000.0, 1000.0)))

    def work_call(self) -> Call:
        """Something that gives work to a module, from outside of it."""
        rng, module = self.rng, self.any_module()
        patience = self.patience()
        stop_timeout = self.plans[module].stop_timeout or 8.0
        calls: tuple[Call, ...] = (
            StartWorker(
                module,
                self.passing("work", WORKER_TROUBLE),
                grace=self.grace(stop_timeout),
                cancel_after=rng.choice((None, 0.0, 1.0, 3.0)),
            ),
            StartWorker(module, self.passing("work", WORKER_TROUBLE)),
            RunWorker(module, self.passing("run", TASK_TROUBLE), patience),
            CallGuarded(module, self.passing("guarded", WORKER_TROUBLE), patience),
            StartTask(module, self.passing("task", TASK_TROUBLE)),
            StartService(
                module,
                self.service(module, stop_timeout, declared=False),
                cancel_after=rng.choice((None, None, 2.0)),
            ),
            AwaitOnline(module, patience),
        )
        return self.read_resource() or rng.choice(calls) if self.maybe(0.15) else rng.choice(calls)

    def change_call(self) -> Call:
        """Something that changes which modules run."""
        patience = self.rng.choice((0.0, 0.5, 1000.0, 1000.0))
        kind = self.rng.random()
        if kind < 0.5:
            return ChangeWishes(*self.wishes(), manage=self.maybe(0.85), patience=patience)
        if kind < 0.7:
            return RestartIt(self.any_module(), patience)
        if kind < 0.85:
            return self.added_modules()
        return RemoveIt(self.any_module(), patience)

    def body_call(self) -> Call:
        kind = self.rng.random()
        if self.run_trouble and kind < 0.08:
            return CancelNursery(self.any_module())
        if kind < 0.55:
            return self.work_call()
        return self.change_call()

    def outside_call(self) -> Call:
        kind = self.rng.random()
        if kind < 0.12:
            return AwaitOnline(self.any_module(), self.patience())
        if kind < 0.3:
            return RequestShutdown()
        if kind < 0.4:
            return AwaitShutdown(self.rng.choice((1.0, 1000.0)))
        if kind < 0.6:
            return CancelBlock()
        call = self.change_call()
        # A control exception in the task of somebody outside the block has two owners.
        return call if not isinstance(call, RunWorker | CallGuarded) else RequestShutdown()

    def timed(self, call: Call) -> TimedCall:
        return self.moment(), call


def _graph(maker: Maker, size: int) -> list[ModulePlan]:
    """Modules with edges to earlier ones, in a random order of registration."""
    rng = maker.rng
    maker.names = [f"m{number}" for number in range(size)]
    maker.events = [f"{name}/{event}" for name in maker.names for event in maker.own_events()]
    density = rng.choice((0.0, 0.5, 1.0, 2.0))
    plans = []
    for number, name in enumerate(maker.names):
        earlier = maker.names[:number]
        count = min(len(earlier), int(rng.expovariate(1.0) * density + 0.5))
        chosen = rng.sample(earlier, count)
        soft = [other for other in chosen if maker.maybe(0.25)]
        hard = [other for other in chosen if other not in soft]
        plans.append(maker.module(name, tuple(hard), tuple(soft)))
    rng.shuffle(plans)
    return plans


def _body(maker: Maker) -> Func:
    rng = maker.rng
    ending: Ending = "return"
    if maker.maybe(0.1):
        ending = rng.choice(("raise", "raise", "group", "interrupt", "exit", "mixed-group"))
    if maker.maybe(0.05):
        ending = "forever"
    # Nobody would cancel a body that goes on for ever after it has awaited the shutdown.
    call = AwaitShutdown() if ending != "forever" and maker.maybe(0.07) else None
    stubborn = rng.choice((0.0, 0.0, 0.0, 0.5, 3.0, 12.0)) if maker.maybe(0.3) else 0.0
    times = (60.0, 100.0, 200.0) if maker.lasting else (0.0, 1.0, 3.0, 5.0, 10.0, 10.0, 20.0)
    act = Act(rng.choice(times), ending, stubborn, maker.maybe(0.05), call)
    return Func("body", (act,))


def generate(seed: int) -> ServicePlan:
    """Make up the service that *seed* stands for."""
    rng = random.Random(f"service {seed}")
    maker = Maker(rng)
    size = rng.choice(LARGE if maker.maybe(0.03) else SMALL)
    maker.lasting = size <= 4 and maker.maybe(0.08)
    maker.tasks_rate = rng.choice((0.0, 0.5, 1.5))
    maker.events_rate = rng.choice((0.0, 0.5, 1.5))
    maker.microtasks = maker.maybe(0.5)
    maker.flaky = maker.maybe(0.25)
    for phase in ("start_trouble", "run_trouble", "stop_trouble"):
        setattr(maker, phase, min(0.4, rng.choice(TROUBLES) / (size * FUNCTIONS_PER_PHASE)))
    maker.managed = maker.maybe(0.4)
    modules = _graph(maker, size)
    body = _body(maker)
    body_calls = [maker.timed(maker.body_call()) for _ in maker.repeat(3, 2, 2, 2, 1, 1, 1, 1)]
    body_calls += maker.more_work()
    outside = [maker.timed(maker.outside_call()) for _ in maker.repeat(6, 3, 1)]
    if body.acts[0].ending == "forever":
        outside.append((maker.moment() + 3.0, RequestShutdown()))
    return ServicePlan(
        seed=seed,
        modules=tuple(modules),
        body=body,
        body_calls=tuple(body_calls),
        outside_calls=tuple(outside),
        prep=maker.lifecycle("app-prep", PREP_TROUBLE) if maker.maybe(0.15) else None,
        command=maker.lifecycle("command", PREP_TROUBLE) if maker.maybe(0.03) else None,
        managed=maker.managed,
        max_concurrent_restarts=rng.choice((1, 1, 2) if maker.maybe(0.5) else (100,)),
        restart_settle=rng.choice((0.1, 0.1, 1.0, 1.0, 0.0)),
        max_concurrent_tasks=rng.choice((1, 1, 2, 3)),
        max_concurrent_microtasks=rng.choice((1, 1, 2, 3)),
        rounds=2 if maker.maybe(0.15) else 1,
    )
