"""What the rules know of the modules at one point of a trace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import attrs

from services.plan import ModulePlan, ServicePlan
from services.record import Record, Run
from trio_modules import ModuleStatus

__all__ = ["EPSILON", "Ground", "Rules", "Seen", "function_of", "serials_of"]

EPSILON = 1e-6
DEAD = ModuleStatus.DEAD


@attrs.define(eq=False)
class Seen:
    """What is known of one module at one point of the trace.

    Attributes:
        plan: its plan.
        status: as last seen.
        since: when it came to that status.
        runs: how many runs it has begun.
        was_online: whether this run has been online.
        ever_online: whether any run was.
        troubled: whether something in this run may make it crash.
        must_leave: when something happened after which it can't stay online, else None.
        open: the executions that have begun and not ended, with role and function.
        started: the start functions of this run that returned.
        stopped: the stop functions of this run that began.
        spans: the lifespans of this run that are entered and not left.
        leaving: whether a stop function or the end of a lifespan has begun in this run.
        fell_at_shutdown: whether this run, online, began to stop when the app was going down.
        turn: when it was seen to have its turn to stop, None before.
        fell_with: the record with which this run began to stop.
        fell_for_body: whether the shutdown, if there was one, still waited for the body then.
    """

    plan: ModulePlan
    status: ModuleStatus = DEAD
    since: float = 0.0
    runs: int = 0
    was_online: bool = False
    ever_online: bool = False
    troubled: bool = False
    must_leave: float | None = None
    open: dict[int, tuple[str, str]] = attrs.field(factory=dict)
    started: list[str] = attrs.field(factory=list)
    stopped: list[str] = attrs.field(factory=list)
    spans: list[str] = attrs.field(factory=list)
    leaving: bool = False
    fell_at_shutdown: bool = False
    turn: float | None = None
    fell_with: int = -1
    fell_for_body: bool = False

    def new_run(self) -> None:
        self.runs += 1
        self.was_online = self.troubled = self.leaving = self.fell_at_shutdown = False
        self.must_leave = self.turn = None
        self.started, self.stopped, self.spans = [], [], []

    def busy(self, roles: Iterable[str]) -> list[str]:
        wanted = frozenset(roles)
        return [text for role, text in self.open.values() if role in wanted]

    @property
    def declared(self) -> set[str]:
        plan = self.plan
        names = {worker.func.name for worker in plan.workers}
        names |= {service.func.name for service in plan.services}
        return names | {periodic.func.name for periodic in plan.periodics}


def function_of(text: str) -> str:
    """Return the name of the function that an execution was of."""
    return text.partition("@")[0]


def serials_of(text: str) -> set[int]:
    """The numbers of the exceptions in an outcome."""
    inside = text.partition("[")[2].rstrip("]")
    return {int(number) for number in inside.split(",") if number.strip()}


class Ground(Protocol):
    """What all rules have in common: where the trace is."""

    @property
    def run(self) -> Run: ...
    @property
    def plan(self) -> ServicePlan: ...
    @property
    def seen(self) -> dict[str, Seen]: ...
    @property
    def now(self) -> float: ...
    @property
    def number(self) -> int: ...
    @property
    def shutdown_at(self) -> float | None: ...
    @property
    def may_hurry(self) -> bool: ...
    @property
    def changed(self) -> bool: ...
    def fail(self, text: str) -> None: ...
    def has_crashed(self, name: str) -> bool: ...
    def stops_at_shutdown(self, name: str) -> bool: ...


class Rules:
    """The rules for one kind of work; each method is told of one kind of record."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    @property
    def now(self) -> float:
        return self.ground.now

    def fail(self, text: str) -> None:
        self.ground.fail(text)

    def is_online(self, module: str) -> bool:
        return self.ground.seen[module].status is ModuleStatus.ONLINE

    def on_call(self, record: Record) -> None:
        """Somebody asks the framework for something."""

    def on_return(self, record: Record) -> None:
        """It has answered."""

    def on_begin(self, record: Record) -> None:
        """A function of a module begins."""

    def on_end(self, record: Record, text: str) -> None:
        """It has ended; *text* is that of its begin."""

    def on_move(self, name: str, before: ModuleStatus, after: ModuleStatus) -> None:
        """A module has a new status."""

    def rest(self) -> None:
        """Time is about to go by: what could happen has happened."""

    def advance(self, until: float) -> None:
        """Time goes by."""

    def finish(self) -> None:
        """The trace is over."""
