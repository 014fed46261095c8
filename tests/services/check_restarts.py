"""Rules for restarts: of service workers, by backoff, budget and capacity; and of modules."""

from __future__ import annotations

from collections import defaultdict

import attrs

from services.plan import (
    AwaitShutdown,
    CancelBlock,
    CancelNursery,
    RequestShutdown,
    RestartPlan,
    Service,
)
from services.record import Record
from services.seen import EPSILON, Ground, Rules, function_of, serials_of
from trio_modules import ModuleStatus, RestartModule, RestartNow

__all__ = ["RestartRules"]

CHANGES = frozenset({"ChangeWishes", "RestartIt", "AddModules", "RemoveIt"})
#: After these, a module may stop for other reasons than a crash.
ENDING = (AwaitShutdown, CancelBlock, CancelNursery, RequestShutdown)
#: Whose exceptions end no more than what raised them.
HARMLESS = frozenset({"worker", "scoped", "run", "guarded", "job", "hook", "micro", "microrun"})
#: More restarts at a time than any service has.
ENDLESS = 100


@attrs.define(eq=False)
class History:
    """What is known of the executions of one service worker in one run of its module.

    Attributes:
        plan, module: the service worker.
        began: when its execution began.
        failures: how many of them failed in a row, and when all of them did.
        due: from when to when it has to begin again, None if it needn't.
    """

    plan: Service
    module: str
    began: float = 0.0
    failures: int = 0
    failed: list[float] = attrs.field(factory=list)
    due: tuple[float, float] | None = None

    def recent(self) -> int:
        """How many of the failures count against the budget."""
        last = self.failed[-1] - self.plan.restart.within
        return sum(time > last + EPSILON for time in self.failed)

    def is_spent(self) -> bool:
        """Whether it may have given up: a failure at the very edge of the period may count."""
        limit = self.plan.restart.max_restarts
        if limit is None or not self.failed:
            return False
        last = self.failed[-1] - self.plan.restart.within
        return sum(time >= last - EPSILON for time in self.failed) > limit


@attrs.define(eq=False)
class Crashes:
    """What is known of the crashes of one module."""

    failed: list[float] = attrs.field(factory=list)
    offline: float | None = None


class RestartRules(Rules):
    """What holds for all restarts of an app."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.by_module: dict[str, list[History]] = defaultdict(list)
        self.known: dict[str, History] = {}
        for module in ground.plan.all_modules:
            for plan in module.services:
                history = History(plan, module.name)
                self.known[plan.func.name] = history
                self.by_module[module.name].append(history)
        self.modules = {module.name: module for module in ground.plan.all_modules}
        self.hard = ground.plan.hard_dependencies()
        self.ended: set[str] = set()
        self.settling: list[tuple[float, str]] = []
        self.crashes: dict[str, Crashes] = defaultdict(Crashes)
        self.raised: dict[str, bool] = defaultdict(bool)
        self.suspects: list[str] = []
        self.meddled = False
        limit = ground.plan.max_concurrent_restarts
        self.is_limited = limit < ENDLESS and ground.plan.restart_settle > 0

    # ------------------------------------------------------------ service workers

    def on_begin(self, record: Record) -> None:
        if record.what != "service":
            return
        name = function_of(record.text)
        if name in self.ended:
            self.ended.discard(name)
            self.settling.append((self.now, record.module))
            self.check_capacity()
        history = self.known.get(name)
        if history is None:
            return
        history.began = self.now
        if history.due is not None:
            self.check_restart(name, history, history.due)
        history.due = None

    def check_restart(self, name: str, history: History, due: tuple[float, float]) -> None:
        policy = history.plan.restart
        if self.now < due[0] - EPSILON:
            self.fail(f"{name} was restarted {due[0] - self.now} s too soon after its failures")
        if not history.failed or policy.max_restarts is None:
            return
        if history.recent() > policy.max_restarts:
            limit = policy.max_restarts
            self.fail(f"{name} was restarted after {history.recent()} failures, not {limit}")

    def check_capacity(self) -> None:
        plan = self.ground.plan
        last = self.now - plan.restart_settle + EPSILON
        self.settling = [each for each in self.settling if each[0] > last]
        if plan.restart_settle and len(self.settling) > plan.max_concurrent_restarts:
            limit = plan.max_concurrent_restarts
            self.fail(f"{len(self.settling)} restarts settle, the limit is {limit}")

    def on_end(self, record: Record, text: str) -> None:
        name = function_of(text)
        raised = record.text.startswith("raised") and not record.text.startswith("raised Retry")
        if raised and not (record.what in HARMLESS and self.is_harmless(record.text)):
            self.raised[record.module] |= name not in self.known
        if record.what != "service":
            return
        self.ended.add(name)
        history = self.known.get(name)
        works = self.ground.seen[record.module].status >= ModuleStatus.STARTING
        if history is not None and works and record.text != "cancelled":
            self.expect(history, record.text)

    def is_harmless(self, outcome: str) -> bool:
        numbers = serials_of(outcome)
        raised = [made for made in self.ground.run.made.values() if made.serial in numbers]
        asks = (made.label == "control" or isinstance(made.exc, RestartModule) for made in raised)
        return bool(raised) and not any(asks)

    def expect(self, history: History, outcome: str) -> None:
        """An execution has ended: when the next one has to begin."""
        policy = history.plan.restart
        if outcome == "returned":
            history.due = self.after(policy, 1) if history.plan.on_return else None
            return
        numbers = serials_of(outcome)
        raised = [made for made in self.ground.run.made.values() if made.serial in numbers]
        if any(made.label == "control" or isinstance(made.exc, RestartModule) for made in raised):
            self.raised[history.module] = True
            return
        if self.now >= history.began + policy.reset_after:
            history.failures = 0
        history.failures += 1
        history.failed.append(self.now)
        at_once = bool(raised) and all(isinstance(made.exc, RestartNow) for made in raised)
        history.due = (self.now, self.now) if at_once else self.after(policy, history.failures)

    def after(self, policy: RestartPlan, failures: int) -> tuple[float, float]:
        """From when to when a restart comes after so many failures."""
        grown = failures if policy.growth == "linear" else 2 ** (failures - 1)
        delay = min(policy.initial * grown, policy.maximum)
        spread = delay * policy.jitter
        return self.now + delay - spread, self.now + min(delay + spread, policy.maximum)

    def rest(self) -> None:
        if self.ground.shutdown_at is None and not self.meddled:
            for name in self.suspects:
                self.fail(f"{name} crashed, and none of its failures is a reason for that")
        self.suspects.clear()

    def advance(self, until: float) -> None:
        """Whoever had to begin again by now has done so, unless there is no capacity."""
        if self.is_limited:
            return
        for name, history in self.known.items():
            due = history.due
            if due is None or due[1] >= until - EPSILON:
                continue
            history.due = None
            if self.is_online(history.module) and not history.is_spent():
                self.fail(
                    f"{name} was not restarted at {due[1]}, after {history.failures} failures"
                )

    # ------------------------------------------------------------ modules

    def on_call(self, record: Record) -> None:
        call, _ = self.ground.run.calls[record.token]
        if record.what in CHANGES or isinstance(call, ENDING):
            self.meddled = True

    def on_move(self, name: str, before: ModuleStatus, after: ModuleStatus) -> None:
        if after is not ModuleStatus.ONLINE:
            self.settling = [each for each in self.settling if each[1] != name]
            for history in self.by_module[name]:
                self.ended.discard(history.plan.func.name)
        if self.ground.shutdown_at is None and not self.meddled:
            self.check_crash(name, before, after)
        if after is not ModuleStatus.ONLINE:
            for history in self.by_module[name]:
                history.due, history.failures = None, 0
                history.failed.clear()
        if after is ModuleStatus.STARTING:
            self.raised[name] = False

    def check_crash(self, name: str, before: ModuleStatus, after: ModuleStatus) -> None:
        """A module that leaves ONLINE by itself has crashed, for a reason, and comes back late."""
        crashes = self.crashes[name]
        policy = self.modules[name].restart
        if before is ModuleStatus.ONLINE and after is ModuleStatus.STOPPING:
            if all(self.is_online(other) for other in self.hard[name]):
                crashes.failed.append(self.now)
                spent = any(history.is_spent() for history in self.by_module[name])
                if not spent and not self.raised[name]:
                    self.suspects.append(name)
            else:
                crashes.failed.clear()  # it fell with another, and waits for that one
        elif after is ModuleStatus.OFFLINE:
            crashes.offline = self.now
        elif after is ModuleStatus.STARTING and crashes.failed and crashes.offline is not None:
            least = policy.initial * (1 - policy.jitter)
            if self.now < crashes.offline + min(least, policy.maximum) - EPSILON:
                self.fail(f"{name} was restarted at once after it crashed at {crashes.failed[-1]}")
            last = crashes.failed[-1] - policy.within
            recent = sum(time > last + EPSILON for time in crashes.failed)
            if policy.max_restarts is not None and recent > policy.max_restarts:
                limit = policy.max_restarts
                self.fail(f"{name} was restarted after {recent} failures, not {limit}")
