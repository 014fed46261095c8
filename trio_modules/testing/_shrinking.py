"""Making a simulation that fails smaller, for as long as it fails in the same way.

Fewer faults, a shorter time, fewer modules. Each trial is a simulation, so their number and the
steps that they take have a limit; what is smallest by then is it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import attrs

from trio_modules.testing._faults import Fault
from trio_modules.testing._simulating import Case, Outcome

__all__ = ["shrink"]

_MOST_TRIALS = 300
_TIMES_TRIED = 30
#: All trials together may take so many times the steps of the first simulation, and some.
_TIMES, _SOME = 5, 200_000
_SCALES = (0.25, 0.5, 0.75, 0.9)


def shrink(case: Case, outcome: Outcome, run: Callable[[Case], Outcome]) -> tuple[Case, Outcome]:
    """The smallest case found that fails as *case* does, and what becomes of it.

    Args:
        case: one that fails.
        outcome: what became of it.
        run: simulates a case.
    """
    shrinking = _Shrinking(case, outcome, run)
    shrinking.shorten()
    shrinking.drop_faults()
    shrinking.drop_modules()
    shrinking.simplify_faults()
    shrinking.single_out()
    shrinking.shorten()
    return shrinking.case, shrinking.outcome


class _Shrinking:
    """The smallest case so far, and the trials that are left."""

    def __init__(self, case: Case, outcome: Outcome, run: Callable[[Case], Outcome]) -> None:
        self.case = case
        self.outcome = outcome
        self._run = run
        self._failure = _failure_of(outcome)
        self._trials = _MOST_TRIALS
        self._steps = _TIMES * outcome.steps + _SOME

    def _try(self, case: Case) -> bool:
        """Whether *case* fails in the same way; if so it is the smallest so far."""
        if self._trials <= 0 or self._steps <= 0:
            return False
        outcome = self._run(case)
        self._trials -= 1
        self._steps -= outcome.steps
        if _failure_of(outcome) != self._failure:
            return False
        self.case, self.outcome = case, outcome
        return True

    # ------------------------------------------------------------ time

    def shorten(self) -> None:
        """Cut the time after the failure; then let all come sooner, again and again."""
        found = float(math.ceil(self.outcome.violations[0].time + 0.001))
        if found < self.case.duration:
            self._try_duration(found, 1.0)
        while self.case.duration > 1 and any(map(self._try_scale, _SCALES)):
            pass

    def _try_scale(self, scale: float) -> bool:
        return self._try_duration(self.case.duration * scale, scale)

    def _try_duration(self, duration: float, scale: float) -> bool:
        sooner = [
            fault if fault.at is None else attrs.evolve(fault, at=round(fault.at * scale, 3))
            for fault in self.case.faults
        ]
        faults = tuple(fault for fault in sooner if (fault.at or 0.0) < duration)
        return self._try(attrs.evolve(self.case, duration=round(duration, 3), faults=faults))

    # ------------------------------------------------------------ faults

    def drop_faults(self) -> None:
        """Leave out all that it fails without, in ever smaller pieces."""
        if self._try_faults(()):
            return
        size = max(1, len(self.case.faults) // 2)
        while True:
            dropped = self._drop_pieces(size)
            if size == 1 and not dropped:
                return
            size = max(1, min(size // 2, len(self.case.faults) // 2))

    def _drop_pieces(self, size: int) -> bool:
        """One pass; whether a piece of that size could go."""
        dropped = False
        place = 0
        while place < len(self.case.faults) and len(self.case.faults) > 1:
            faults = self.case.faults
            if self._try_faults(faults[:place] + faults[place + size :]):
                dropped = True
            else:
                place += size
        return dropped

    def _try_faults(self, faults: tuple[Fault, ...]) -> bool:
        return self._try(attrs.evolve(self.case, faults=faults))

    def simplify_faults(self) -> None:
        """Let those that last strike once."""
        for fault in self.case.faults:
            if fault.lasts and fault.action != "hang":
                once = attrs.evolve(fault, lasts=0.0)
                faults = self.case.faults
                self._try_faults(tuple(once if each is fault else each for each in faults))

    def single_out(self) -> None:
        """Look for a time at which one of the faults is enough, and then for an earlier one."""
        chance = random.Random(self.case.seed)
        if len(self.case.faults) > 1:
            any(self._try_alone(fault, 1.0, chance) for fault in self.case.faults)
        while len(self.case.faults) == 1 and self.case.duration > 1:
            if not self._try_alone(self.case.faults[0], 0.5, chance):
                return

    def _try_alone(self, fault: Fault, scale: float, chance: random.Random) -> bool:
        """Whether that fault fails at some time in so much of the present duration."""
        if fault.at is None:
            return False
        duration = round(self.case.duration * scale, 3)
        times = (round(chance.uniform(0, duration), 3) for _ in range(_TIMES_TRIED))
        return any(
            self._try(
                attrs.evolve(self.case, duration=duration, faults=(attrs.evolve(fault, at=time),))
            )
            for time in times
        )

    # ------------------------------------------------------------ modules

    def drop_modules(self) -> None:
        """Leave out modules on which nothing depends, then those below them."""
        kept = _closed(self.case.only or tuple(self.outcome.needs), self.outcome.needs)
        gone = True
        while gone:
            gone = False
            for name in _tops(kept, self.outcome.needs):
                fewer = [other for other in kept if other != name]
                if fewer and self._try_modules(fewer):
                    kept, gone = fewer, True

    def _try_modules(self, names: Sequence[str]) -> bool:
        faults = tuple(fault for fault in self.case.faults if fault.module in names)
        roots = tuple(_tops(names, self.outcome.needs))
        return self._try(attrs.evolve(self.case, only=roots, faults=faults))


def _failure_of(outcome: Outcome) -> tuple[str, str] | None:
    """What makes two failures the same: which promise was broken, and by what exception."""
    if not outcome.violations:
        return None
    first = outcome.violations[0]
    return first.rule, first.error


def _closed(names: Sequence[str], needs: dict[str, tuple[str, ...]]) -> list[str]:
    """These and all that they depend on, in the order of *needs*."""
    found = set(names)
    todo = list(names)
    while todo:
        for other in needs[todo.pop()]:
            if other not in found:
                found.add(other)
                todo.append(other)
    return [name for name in needs if name in found]


def _tops(names: Sequence[str], needs: dict[str, tuple[str, ...]]) -> list[str]:
    """Those of them on which none of the others depends."""
    needed = {other for name in names for other in needs[name]}
    return [name for name in names if name not in needed]
