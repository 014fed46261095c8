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

from services.generate import ServicePlan
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


@attrs.define(eq=False)
class Run:
    """All that is known of one life of a service."""

    plan: ServicePlan
    records: list[Record] = attrs.field(factory=list)
    made: dict[int, Made] = attrs.field(factory=dict)
    reports: list[ModuleError] = attrs.field(factory=list)
    changes: list[Change] = attrs.field(factory=list)
    caught: Counter[int] = attrs.field(factory=Counter)
    passed_on: set[int] = attrs.field(factory=set)
    managed: set[int] = attrs.field(factory=set)
    foreign: list[BaseException] = attrs.field(factory=list)
    body_failure: BaseException | None = None
    body_failed_at: int = -1
    left: BaseException | None = None
    tasks: tuple[int, int] = (0, 0)
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


COUNTED = frozenset({"worker", "scoped", "service", "every", "run", "guarded"})
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
        shutting_down = self.app.shutting_down.is_set()
        if shutting_down is not self._shutting_down:
            self._shutting_down = shutting_down
            if shutting_down:
                self.add("shutdown", text=ADDRESS.sub("", str(self.app.shutdown_reason)))

    def note(
        self, kind: str, module: str = "", what: str = "", token: int = 0, text: str = ""
    ) -> None:
        self.sync()
        self.add(kind, module, what, token, text)
        if len(self.run.records) % SAMPLE_EVERY == 0:
            self.sample()

    def wrong(self, text: str) -> None:
        self.note("wrong", text=text)

    def token(self) -> int:
        self._tokens += 1
        return self._tokens

    def begin(self, role: str, module: str, text: str) -> int:
        token = self.token()
        self._begun[token] = (module, role)
        if role in COUNTED:
            self._open[module] += 1
        self.note("begin", module, role, token, text)
        return token

    def end(self, token: int, exc: BaseException | None = None) -> None:
        module, role = self._begun[token]
        if role in COUNTED:
            self._open[module] -= 1
        self.note("end", module, role, token, self.outcome(exc))

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
        status = self.app.status()
        for name, info in status.modules.items():
            work = info.work
            if work.started != work.running + work.ended:
                self.add("wrong", text=f"counts of {name} don't add up: {work}")
            if info.status is not self.modules[name].status:
                self.add("wrong", text=f"status() shows {name} as {info.status.name}")
            if self._open[name] > work.running:
                self.add("wrong", text=f"{self._open[name]} workers of {name} run: {work}")
            if info.status < ModuleStatus.STOPPING and work.running:
                self.add("wrong", text=f"{name} is {info.status.name}, yet counts {work}")
