"""What is seen of a running service from user code: the trace, and the exceptions that it made."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

import attrs
import trio

from services.plan import Call, Func, ServicePlan
from trio_modules import App, Change, Module, ModuleError, ModuleStatus

if sys.version_info >= (3, 11):
    BaseExceptionGroup = BaseExceptionGroup
    ExceptionGroup = ExceptionGroup
else:
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

__all__ = [
    "BaseExceptionGroup",
    "ExceptionGroup",
    "Made",
    "Record",
    "Recorder",
    "Run",
    "leaves",
    "parts",
]

Transition: TypeAlias = tuple[str, ModuleStatus, ModuleStatus]


@attrs.frozen
class Record:
    """One thing that was seen.

    Attributes:
        time: when, in virtual seconds.
        step: in which step of the scheduler.
        kind: "begin" and "end" of a user function, "call" and "return" of a question to the
            framework, "status", "shutdown", "made" (an exception), "block", "wrong" and others.
        module: the module that it belongs to, "" for none.
        what: the role of the function, the name of the call, and so on.
        token: the same for what belongs together.
        text: details for people, and for comparing two traces.
        moves: the changes of status that were seen in this step.
    """

    time: float
    step: int
    kind: str
    module: str = ""
    what: str = ""
    token: int = 0
    text: str = ""
    moves: tuple[Transition, ...] = ()

    def __str__(self) -> str:
        moves = " ".join(f"{name}:{old.name}>{new.name}" for name, old, new in self.moves)
        number = f"({self.token})" if self.token else ""
        parts = (self.kind, self.module, self.what, number, self.text, moves)
        return f"{self.time:9.3f} {self.step:5d} " + " ".join(part for part in parts if part)


@attrs.frozen(eq=False)
class Made:
    """An exception that user code raised.

    Attributes:
        serial: its number.
        exc: itself.
        label: "failure", "request" (to restart), "stray" (a Cancelled), "control" or "clean-exit".
        module: the module whose function raised it, "" for none.
        role: the role of that function.
        token: that execution of it.
        at: the length of the trace then.
        cancelled: whether the function was being cancelled.
    """

    serial: int
    exc: BaseException
    label: Literal["failure", "request", "stray", "control", "clean-exit"]
    module: str
    role: str
    token: int
    at: int
    cancelled: bool


@attrs.frozen
class Figures:
    """What the package says in the end became of events: of one, or of all that a hook got."""

    delivered: int
    dropped: int
    triggered: int = 0


@attrs.define(eq=False)
class Run:
    """All that is known of one life of a service.

    Attributes:
        limits: those of tasks and microtasks at its beginning.
        cancelled, delays: what its tasks have kept of earlier lives.
        number: as the how manieth life it is, from 0.
    """

    plan: ServicePlan
    limits: tuple[int, int]
    cancelled: frozenset[str] = frozenset()
    delays: dict[str, float] = attrs.field(factory=dict)
    number: int = 0
    records: list[Record] = attrs.field(factory=list)
    made: dict[int, Made] = attrs.field(factory=dict)
    reports: list[ModuleError] = attrs.field(factory=list)
    changes: list[Change] = attrs.field(factory=list)
    calls: dict[int, tuple[Call, tuple[str, str, int]]] = attrs.field(factory=dict)
    functions: dict[str, Func] = attrs.field(factory=dict)
    events: dict[str, Figures] = attrs.field(factory=dict)
    hooks: dict[str, Figures] = attrs.field(factory=dict)
    caught: Counter[int] = attrs.field(factory=Counter)
    passed_on: set[int] = attrs.field(factory=set)
    managed: set[int] = attrs.field(factory=set)
    foreign: list[BaseException] = attrs.field(factory=list)
    body_failure: BaseException | None = None
    body_failed_at: int = -1
    left: BaseException | None = None
    tasks: tuple[int, int] = (0, 0)
    steps: int = 0
    hang: str = ""

    def serials(self, exc: BaseException | None) -> Counter[int]:
        """How often each exception that user code raised is in *exc*, causes included."""
        return Counter(self.made[id(part)].serial for part in parts(exc) if id(part) in self.made)


def parts(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield *exc*, what its groups hold and what caused them, each occurrence."""
    todo = [] if exc is None else [exc]
    while todo:
        found = todo.pop()
        yield found
        held = list(found.exceptions) if isinstance(found, BaseExceptionGroup) else []
        known = getattr(found, "exceptions", ())
        if not held and isinstance(known, tuple):
            held = list(known)
        cause = found.__cause__
        if cause is not None and cause not in held:
            held.append(cause)
        todo += held


def leaves(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield what *exc* holds if it is a group, else *exc*."""
    if isinstance(exc, BaseExceptionGroup):
        for part in exc.exceptions:
            yield from leaves(part)
    elif exc is not None:
        yield exc


COUNTED = frozenset(
    {"worker", "scoped", "service", "every", "run", "guarded", "microrun", "micro", "slot"}
)
SAMPLE_EVERY = 16
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Recorder:
    """Writes the trace of one life of a service."""

    def __init__(self, app: App, run: Run, modules: dict[str, Module]) -> None:
        self.app = app
        self.run = run
        self.modules = modules
        self.step = 0
        self.deadline = math.inf
        self.wishes = 0
        self._tokens = 0
        self._statuses = [module.status for module in modules.values()]
        self._shutting_down = False
        self._open: Counter[str] = Counter()
        self._jobs: Counter[str] = Counter()
        # A look at everything costs as much as everything, so a large service has fewer of them.
        self._sample_every = max(SAMPLE_EVERY, 4 * len(modules))
        self._until_sample = self._sample_every
        self._begun: dict[int, tuple[str, str]] = {}

    def add(
        self,
        kind: str,
        module: str = "",
        what: str = "",
        token: int = 0,
        text: str = "",
        moves: tuple[Transition, ...] = (),
    ) -> None:
        time = trio.current_time()
        self.run.records.append(Record(time, self.step, kind, module, what, token, text, moves))

    def sync(self) -> None:
        """Write down what has changed in the states of the modules and the app since last time."""
        now = [module.status for module in self.modules.values()]
        if now != self._statuses:
            seen = zip(self.modules, self._statuses, now, strict=True)
            self.add("status", moves=tuple(move for move in seen if move[1] is not move[2]))
            self._statuses = now
            if max(now) <= ModuleStatus.OFFLINE:
                self.check_nothing_is_left()
        shutting_down = self.app.shutting_down.is_set()
        if shutting_down is not self._shutting_down:
            self._shutting_down = shutting_down
            if shutting_down:
                self.add("shutdown", text=ADDRESS.sub("", str(self.app.shutdown_reason)))

    def check_nothing_is_left(self) -> None:
        """All modules are offline: so nobody has a slot, a place or a turn."""
        limits = self.app.status().limits
        rest = (
            limits.restarts_waiting,
            limits.tasks_executing,
            limits.tasks_queued,
            limits.tasks_scheduled,
            limits.microtasks_running,
            limits.microtasks_waiting,
        )
        if any(rest):
            self.add("wrong", text=f"all modules are offline, and something is left: {limits}")

    def note(
        self, kind: str, module: str = "", what: str = "", token: int = 0, text: str = ""
    ) -> None:
        self.sync()
        self.add(kind, module, what, token, text)
        self._until_sample -= 1
        if not self._until_sample:
            self.sample()

    def wrong(self, text: str) -> None:
        self.note("wrong", text=text)

    def token(self) -> int:
        self._tokens += 1
        return self._tokens

    def begin(self, role: str, module: str, text: str) -> int:
        token = self.token()
        self._begun[token] = (module, role)
        self._count(role, module, 1)
        self.note("begin", module, role, token, text)
        return token

    def end(self, token: int, exc: BaseException | None = None) -> None:
        module, role = self._begun[token]
        self._count(role, module, -1)
        self.note("end", module, role, token, self.outcome(exc))

    def _count(self, role: str, module: str, change: int) -> None:
        if role in COUNTED:
            self._open[module] += change
        elif role == "job":
            self._jobs[module] += change

    def send(self, event: str) -> int:
        """An event is about to be triggered; the data for it."""
        serial = self.token()
        self.note("send", event.partition("/")[0], event, serial)
        return serial

    def sent(self, event: str, serial: int, answer: str, *, nowait: bool) -> None:
        """It was, or wasn't."""
        self.note("nowait" if nowait else "sent", event.partition("/")[0], event, serial, answer)

    def outcome(self, exc: BaseException | None) -> str:
        """Describe how something ended; the same in each run of one seed."""
        if exc is None:
            return "returned"
        if isinstance(exc, trio.Cancelled) and id(exc) not in self.run.made:
            return "cancelled"
        serials = sorted(self.run.serials(exc))
        return f"raised {type(exc).__name__} {serials}"

    def make(
        self,
        exc: BaseException,
        label: Literal["failure", "request", "stray", "control", "clean-exit"],
        source: tuple[str, str, int],
    ) -> None:
        """Remember an exception that user code is about to raise."""
        role, module, token = source
        run = self.run
        # At the very moment of a deadline it is too late to say that there was no cancellation.
        cancelled = trio.current_effective_deadline() <= trio.current_time()
        made = Made(len(run.made) + 1, exc, label, module, role, token, len(run.records), cancelled)
        run.made[id(exc)] = made
        self.note("made", module, label, token, f"#{made.serial} in {role}")

    def sample(self) -> None:
        """Compare the app's own account with what is seen."""
        self._until_sample = self._sample_every
        status = self.app.status()
        for name, info in status.modules.items():
            for counts in (info.work, info.executions):
                if counts.started != counts.running + counts.ended:
                    self.add("wrong", text=f"counts of {name} don't add up: {counts}")
                if info.status < ModuleStatus.STOPPING and counts.running:
                    self.add("wrong", text=f"{name} is {info.status.name}, yet counts {counts}")
            if info.status is not self.modules[name].status:
                self.add("wrong", text=f"status() shows {name} as {info.status.name}")
            if self._open[name] > info.work.running:
                self.add("wrong", text=f"{self._open[name]} workers of {name} run: {info.work}")
            if self._jobs[name] > info.executions.running:
                text = f"{self._jobs[name]} tasks of {name} are executed: {info.executions}"
                self.add("wrong", text=text)

    def sample_events(self) -> None:
        """Look at the figures of all events."""
        for module in self.modules.values():
            for event in module.events.values():
                for hook in event.statistics().hooks:
                    if min(hook.delivered, hook.handling, hook.backlog, hook.dropped) < 0:
                        self.add("wrong", text=f"figures below zero: {hook}")
                    if hook.senders_waiting and not hook.backlog:
                        self.add("wrong", text=f"triggers wait for an empty hook: {hook}")

    def close(self) -> None:
        """The run of the app is over: note the last figures, and that nothing is left in them."""
        self.sample()
        self.sample_events()
        status = self.app.status()
        for name, info in status.modules.items():
            for hook in info.hooks:
                self.run.hooks[f"{name}/{hook.name}"] = Figures(hook.delivered, hook.dropped)
                if hook.backlog or hook.handling:
                    self.add("wrong", text=f"hook {hook} of {name} is left after the block")
            for event in self.modules[name].events.values():
                figures = event.statistics()
                self.run.events[event.full_name] = Figures(
                    figures.delivered, figures.dropped, figures.triggered
                )
