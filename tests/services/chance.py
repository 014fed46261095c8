"""What all makers of random services share: chance, names, and functions that fail or don't."""

from __future__ import annotations

import random

from services.plan import Act, Call, Ending, Func, ModulePlan

__all__ = ["MOMENTS", "TASK_TROUBLE", "WORKER_TROUBLE", "Chance"]

SHORT_TIMES = (0.0, 0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 2.0)
# A coarse grid on purpose, so that many things fall on the same instant.
MOMENTS = (0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 12.0, 16.0)
LONG_MOMENTS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 65.0, 90.0)
HARMLESS_STUBBORN = (0.25, 0.5, 1.0)
LONG_STUBBORN = (3.0, 6.0, 12.0, 30.0)

WORKER_TROUBLE: tuple[Ending, ...] = (
    "raise",
    "raise",
    "raise",
    "group",
    "stray",
    "stray-group",
    "interrupt",
    "exit",
    "mixed-group",
    "restart-module",
    "restart-module",
    "restart-now",
)
# What ``run_worker`` and raw tasks do: a stray Cancelled there can't be told from a genuine one.
TASK_TROUBLE: tuple[Ending, ...] = ("raise", "raise", "group", "interrupt", "exit", "mixed-group")


class Chance:
    """Makes up small parts of one service; all chance comes from ``rng``.

    Attributes:
        names: the modules that are there from the beginning.
        plans: all modules so far.
        events: the events of those modules, as "module/event".
        start_trouble, run_trouble, stop_trouble: how probable it is that a function fails there.
        lasting: whether the service lasts minutes, not seconds.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.names: list[str] = []
        self.plans: dict[str, ModulePlan] = {}
        self.events: list[str] = []
        self.start_trouble = 0.0
        self.run_trouble = 0.0
        self.stop_trouble = 0.0
        self.lasting = False
        self._functions = 0

    def maybe(self, probability: float) -> bool:
        return self.rng.random() < probability

    def short(self) -> float:
        return self.rng.choice(SHORT_TIMES)

    def moment(self) -> float:
        return self.rng.choice(LONG_MOMENTS if self.lasting else MOMENTS)

    def patience(self) -> float:
        return self.rng.choice((0.5, 2.0, 1000.0))

    def repeat(self, *weights: float) -> range:
        """A small number with the given weights of 0, 1, 2 and so on."""
        return range(self.rng.choices(range(len(weights)), weights)[0])

    def name(self, kind: str) -> str:
        self._functions += 1
        return f"{kind}{self._functions}"

    def any_module(self) -> str:
        return self.rng.choice(self.names)

    # functions

    def stubborn(self) -> float:
        if self.maybe(self.stop_trouble / 2):
            return self.rng.choice(LONG_STUBBORN)
        return self.rng.choice(HARMLESS_STUBBORN) if self.maybe(0.08) else 0.0

    def act(self, ending: Ending, delay: float | None = None, call: Call | None = None) -> Act:
        return Act(
            delay=self.short() if delay is None else delay,
            ending=ending,
            stubborn=self.stubborn(),
            spiteful=self.maybe(self.stop_trouble / 4),
            call=call,
        )

    def failing_acts(self, troubles: tuple[Ending, ...]) -> list[Act]:
        times = self.rng.choice((1, 1, 1, 2, 3, 5))
        # Nothing fails in no time at all, for it might be restarted for ever at one instant.
        return [
            self.act(self.rng.choice(troubles), delay=self.rng.choice((0.25, 0.5, 1.0, 2.0)))
            for _ in range(times)
        ]

    def passing(self, kind: str, troubles: tuple[Ending, ...]) -> Func:
        """A function that somebody calls while the app runs."""
        ending: Ending = self.rng.choice(("return", "return", "forever"))
        if self.run_trouble and self.maybe(0.2):
            ending = self.rng.choice(troubles)
        return Func(self.name(kind), (self.act(ending, delay=self.moment()),))

    def brief(
        self,
        kind: str,
        troubles: tuple[Ending, ...],
        call: Call | None = None,
        delays: tuple[float, ...] = (0.0, 0.0, 0.25, 0.5, 1.0, 3.0),
    ) -> Func:
        """A function that is called again and again, and comes to an end each time."""
        rng = self.rng
        acts = self.failing_acts(troubles) if self.run_trouble and self.maybe(0.15) else []
        # What it asks for it asks for once, or two that ask for each other would never end.
        if call is not None:
            acts.append(self.act("return", delay=rng.choice(delays), call=call))
        acts.append(self.act("return", delay=rng.choice(delays)))
        return Func(self.name(kind), tuple(acts))
