"""Rules for microtasks: who has a slot, who waits, and whose turn it is.

Between the moment in which somebody gets a slot and the first step of what runs in it others may
run, so an order is judged when time goes by: who was passed over and still waits then has been.
"""

from __future__ import annotations

import attrs

from services.plan import RunMicrotask, SetLimit
from services.record import Record
from services.seen import EPSILON, Ground, Rules, function_of
from trio_modules import ModuleStatus, Priority

__all__ = ["MicrotaskRules"]

ROLES = frozenset({"microrun", "micro", "slot"})
PATIENCE = {Priority.HIGH: 0.0, Priority.MEDIUM: 3.0, Priority.LOW: 15.0}


@attrs.define(eq=False)
class Use:
    """One use of a slot.

    Attributes:
        plan: what was asked for.
        asked: when; number: as the how manieth.
        nested: whether it is in a microtask of the same task, whose slot it uses.
        limit: when it begins, whether there is a slot or not.
        vague: whether its module is stopping, which may end the wait in many ways.
        began: when it began, None before that.
        in_turn: whether it needed a free slot to begin.
    """

    plan: RunMicrotask
    asked: float
    number: int
    nested: bool
    limit: float
    vague: bool = False
    began: float | None = None
    in_turn: bool = False

    @property
    def is_high(self) -> bool:
        return self.plan.priority is Priority.HIGH


class MicrotaskRules(Rules):
    """What holds for all microtasks of an app together."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.limit = ground.run.limits[1]
        self.lowered_from = (0.0, 0)
        self.known: dict[str, Use] = {}
        self.waiting: dict[str, Use] = {}
        self.holders: dict[int, Use] = {}
        self.passed: list[tuple[str, Use]] = []

    @property
    def held(self) -> int:
        return sum(not use.nested for use in self.holders.values())

    @property
    def has_room(self) -> bool:
        return self.held < self.limit

    def held_before(self, time: float) -> int:
        """How many slots have been held since before that time."""
        early = (use for use in self.holders.values() if use.began is not None)
        return sum(not use.nested and (use.began or 0.0) < time - EPSILON for use in early)

    @property
    def top_limit(self) -> int:
        """The limit, or the one that was lowered at this very moment."""
        when, before = self.lowered_from
        return max(self.limit, before) if when == self.now else self.limit

    # ------------------------------------------------------------ calls

    def on_call(self, record: Record) -> None:
        call, source = self.ground.run.calls[record.token]
        if isinstance(call, SetLimit) and call.what == "max_concurrent_microtasks":
            self.lowered_from = (self.now, self.top_limit)
            self.limit = call.value
        if not isinstance(call, RunMicrotask):
            return
        patience = PATIENCE[call.priority] if call.max_delay is None else call.max_delay
        use = Use(
            call,
            self.now,
            len(self.known),
            nested=source[0] in ROLES and call.way != "start",
            limit=self.now + patience,
            vague=not self.is_online(call.module),
        )
        self.known[call.func.name] = self.waiting[call.func.name] = use

    def on_return(self, record: Record) -> None:
        call, _ = self.ground.run.calls[record.token]
        if isinstance(call, RunMicrotask) and (
            call.way != "start" or not record.text.startswith("accepted")
        ):
            self.waiting.pop(call.func.name, None)

    def on_move(self, name: str, before: ModuleStatus, after: ModuleStatus) -> None:
        if after is ModuleStatus.ONLINE:
            return
        for function, use in list(self.waiting.items()):
            if use.plan.module == name:
                use.vague = True
                if after is ModuleStatus.OFFLINE:
                    del self.waiting[function]

    # ------------------------------------------------------------ executions

    def on_begin(self, record: Record) -> None:
        if record.what not in ROLES:
            return
        function = function_of(record.text)
        use = self.known[function]
        if self.waiting.pop(function, None) is None:
            self.fail(f"the microtask {function} begins, and nobody waits for that")
        if use.began is not None:
            self.fail(f"the microtask {function} begins twice")
        use.began = self.now
        is_free = use.nested or use.is_high or use.vague or self.now >= use.limit - EPSILON
        use.in_turn = not is_free and self.ground.shutdown_at is None
        if use.in_turn:
            self.check_turn(function, use)
        self.holders[record.token] = use

    def check_turn(self, function: str, use: Use) -> None:
        """It takes a slot that is free, and nobody who comes before it waits."""
        # Those that need no free slot may have begun after it got its own.
        before = sum(
            not other.nested and (other.in_turn or (other.began or 0.0) < self.now - EPSILON)
            for other in self.holders.values()
        )
        if before >= self.top_limit:
            self.fail(
                f"{function} begins in its turn while {before} of {self.limit} slots are held"
            )
        for name, other in self.waiting.items():
            goes_first = other.plan.priority is Priority.MEDIUM or (
                use.plan.priority is Priority.LOW and other.plan.priority is Priority.LOW
            )
            earlier = other.number < use.number or use.plan.priority is not other.plan.priority
            if goes_first and earlier and other.asked < self.now - EPSILON:
                self.passed.append((name, other))

    def on_end(self, record: Record, text: str) -> None:
        self.holders.pop(record.token, None)

    # ------------------------------------------------------------ when time goes by

    def rest(self) -> None:
        for name, other in self.passed:
            if self.waiting.get(name) is other and not other.vague:
                self.fail(f"the microtask {name}, whose turn it was, was passed over")
        self.passed.clear()
        for name, use in self.waiting.items():
            if not use.vague:
                self.check_waits(name, use)

    def check_waits(self, name: str, use: Use) -> None:
        """Whoever waits has to."""
        if use.is_high or use.nested:
            self.fail(f"the microtask {name} doesn't begin at once")
        elif self.ground.shutdown_at is not None:
            self.fail(f"the microtask {name} waits though the app shuts down")
        elif self.has_room:
            self.fail(f"the microtask {name} waits though {self.held} of {self.limit} are held")
        elif self.now >= use.limit - EPSILON:
            self.fail(f"the microtask {name} waits though it lost patience at {use.limit}")

    def advance(self, until: float) -> None:
        for name, use in self.waiting.items():
            if not use.vague and use.limit < until - EPSILON:
                self.fail(f"the microtask {name} still waits, it lost patience at {use.limit}")
                use.vague = True
