"""Which faults a simulation has, by chance and by name."""

from __future__ import annotations

import random
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import get_args

import attrs

from trio_modules import App
from trio_modules.testing._faults import Action, Fault, UnknownTarget, targets_of

__all__ = ["FaultPlan"]

_ACTIONS: tuple[Action, ...] = get_args(Action)
#: Of these a service has one chance only: they fail if asked to, not by chance.
_UNLESS_ASKED = ("/prep:", "/leave:")


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


def _actions(values: Iterable[str]) -> tuple[Action, ...]:
    names = _texts(values)
    for name in names:
        if name not in _ACTIONS:
            raise ValueError(f"actions must be some of {', '.join(_ACTIONS)}, got {name!r}")
    return tuple(action for action in _ACTIONS if action in names)


def _faults(values: Iterable[Fault]) -> tuple[Fault, ...]:
    faults = tuple(values)
    for fault in faults:
        if not isinstance(fault, Fault):
            raise TypeError(f"faults must be made by fail, hang and the like, got {fault!r}")
    return faults


@attrs.frozen(repr=False)
class FaultPlan:
    """What goes wrong in a simulation (ours).

    Attributes:
        every: seconds from one random fault to the next, on average; None for no random faults.
        actions: what they do: "fail", "hang", "deaf", "slow", "crash".
        targets: patterns as for file names, ``"store/*"``, of what they strike; by default all that
            is declared, except prep functions and the ends of lifespans.
        outage: the shortest and the longest time that one lasts, in seconds.
        calm: the last part of the simulated time, as a fraction, in which no random fault begins.
        faults: faults by name, beside the random ones.
    """

    every: float | None = 3600.0
    actions: tuple[Action, ...] = attrs.field(default=_ACTIONS, converter=_actions)
    targets: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_texts)
    )
    outage: tuple[float, float] = (1.0, 600.0)
    calm: float = 0.1
    faults: tuple[Fault, ...] = attrs.field(default=(), converter=_faults)

    def __attrs_post_init__(self) -> None:
        if self.every is not None and not self.every > 0:
            raise ValueError(f"every must be a number of seconds above 0, got {self.every!r}")
        if not 0 <= self.outage[0] <= self.outage[1]:
            raise ValueError(f"outage must be a range of seconds, got {self.outage!r}")
        if not 0 <= self.calm < 1:
            raise ValueError(f"calm must be from 0 to below 1, got {self.calm!r}")

    def __repr__(self) -> str:
        faults = f"[{', '.join(map(str, self.faults))}]"
        given = [
            f"{field.name}={faults if field.name == 'faults' else repr(getattr(self, field.name))}"
            for field in attrs.fields(FaultPlan)
            if getattr(self, field.name) != field.default
        ]
        return f"FaultPlan({', '.join(given)})"

    def draw(self, app: App, seed: int, duration: float) -> tuple[Fault, ...]:
        """The faults of one simulation.

        Args:
            app: whose declared functions are struck.
            seed: the same seed draws the same.
            duration: the simulated time in seconds.

        Raises:
            UnknownTarget: if a pattern fits nothing of the app.
        """
        targets = self._targets(app)
        modules = self._modules(app, targets)
        can_crash = "crash" in self.actions and modules
        if self.every is None or not self.actions or not (targets or can_crash):
            return self.faults
        rng = random.Random(f"faults {seed}")
        drawn = []
        time = rng.expovariate(1 / self.every)
        while time < duration * (1 - self.calm):
            drawn.append(self._draw_one(rng, targets, modules, round(time, 3)))
            time += rng.expovariate(1 / self.every)
        return (*self.faults, *drawn)

    def _targets(self, app: App) -> list[str]:
        known = list(dict.fromkeys(targets_of(app)))
        if self.targets is None:
            return [each for each in known if not any(part in each for part in _UNLESS_ASKED)]
        for pattern in self.targets:
            if not any(fnmatchcase(target, pattern) for target in known):
                raise UnknownTarget(
                    f"targets must fit something of app {app.name!r}, got {pattern!r}; "
                    f"it has {', '.join(known) or 'nothing declared'}",
                    pattern,
                )
        return [each for each in known if any(fnmatchcase(each, one) for one in self.targets)]

    def _modules(self, app: App, targets: list[str]) -> list[str]:
        """The modules that can crash: all, or those of which something is to be struck."""
        struck = {target.partition("/")[0] for target in targets}
        return [name for name in app.modules if self.targets is None or name in struck]

    def _draw_one(
        self, rng: random.Random, targets: list[str], modules: list[str], at: float
    ) -> Fault:
        action = rng.choice(self.actions) if targets else "crash"
        length = round(rng.uniform(*self.outage), 3)
        once = rng.random() < 0.5
        if action == "crash":
            return Fault(rng.choice(modules), "crash", at=at)
        target = rng.choice(targets)
        if action in ("slow", "deaf"):
            return Fault(target, action, at=at, seconds=length)
        if action == "fail" and once:
            return Fault(target, "fail", at=at)
        return Fault(target, action, at=at, lasts=length)
