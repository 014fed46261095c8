"""When to try again, and when to give up: pure functions and the little state between them."""

from __future__ import annotations

import math
import random
from typing import Literal

import attrs

from trio_modules._util import check_count, check_seconds

__all__ = ["Backoff", "Restart", "RestartTracker", "checked_policy"]


def _seconds(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    check_seconds(attribute.name, value)


def _growth(instance: object, attribute: attrs.Attribute[str], value: object) -> None:
    if value not in ("linear", "exponential"):
        raise ValueError(f"growth must be 'linear' or 'exponential', got {value!r}")


def _fraction(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    if check_seconds(attribute.name, value) > 1:
        raise ValueError(f"jitter must be a fraction from 0 to 1, got {value!r}")


@attrs.frozen
class Backoff:
    """How long to wait before the next try.

    Linear growth is the seed's (`initial` times the number of failures); the cap, the jitter and
    exponential growth are ours.

    Attributes:
        initial: seconds after the first failure.
        growth: "linear": ``initial * failures``; "exponential": ``initial * 2 ** (failures - 1)``.
        maximum: no delay is longer than these seconds.
        jitter: the delay is spread by plus or minus this fraction of it, 0 to 1.
        reset_after: a run that lasted so many seconds before it failed sets the count back.
    """

    initial: float = attrs.field(default=2.0, validator=_seconds)
    growth: Literal["linear", "exponential"] = attrs.field(default="linear", validator=_growth)
    maximum: float = attrs.field(default=300.0, validator=_seconds)
    jitter: float = attrs.field(default=0.0, validator=_fraction)
    reset_after: float = attrs.field(default=300.0, validator=_seconds)

    def delay(self, failures: int, rng: random.Random | None = None) -> float:
        """The seconds to wait after so many failures in a row.

        Args:
            failures: how many, at least 1; any number is fine, the result is clipped.
            rng: where the jitter comes from; without it there is none.

        Raises:
            ValueError: if *failures* is below 1.
        """
        check_count("failures", failures, minimum=1)
        delay = self._grown(failures)
        if self.jitter and rng is not None:
            delay *= 1 + self.jitter * rng.uniform(-1, 1)
        return float(min(max(delay, 0.0), self.maximum))

    def _grown(self, failures: int) -> float:
        if self.initial == 0:
            return 0.0
        try:
            factor = float(failures) if self.growth == "linear" else math.ldexp(1.0, failures - 1)
        except OverflowError:  # more failures than a float can count
            return self.maximum
        return min(self.initial * factor, self.maximum)


def _max_restarts(instance: object, attribute: attrs.Attribute[int | None], value: object) -> None:
    if value is not None:
        check_count("max_restarts", value, minimum=0)


def _exhausted(instance: object, attribute: attrs.Attribute[str], value: object) -> None:
    if value not in ("shutdown", "offline"):
        raise ValueError(f"exhausted must be 'shutdown' or 'offline', got {value!r}")


def _backoff(instance: object, attribute: attrs.Attribute[Backoff], value: object) -> None:
    if not isinstance(value, Backoff):
        raise TypeError(f"backoff must be a Backoff, got {value!r}")


@attrs.frozen
class Restart:
    """A restart policy: how often within which time, after which delay, and what then.

    Attributes:
        max_restarts: how many restarts are allowed `within` seconds; None for any number.
        within: the period in seconds that the restarts are counted in.
        backoff: the delays between.
        cover_start: of a module: a failed first start is a crash, too, and is tried again.
        exhausted: of a module over budget: "shutdown" ends the app with `ModuleCrashed`,
            "offline" leaves it and its dependents offline.
    """

    max_restarts: int | None = attrs.field(default=None, validator=_max_restarts)
    within: float = attrs.field(default=300.0, validator=_seconds)
    backoff: Backoff = attrs.field(factory=Backoff, validator=_backoff)
    cover_start: bool = False
    exhausted: Literal["shutdown", "offline"] = attrs.field(
        default="shutdown", validator=_exhausted
    )


def checked_policy(restart: object) -> Restart:
    """*restart*, a policy without limit in the place of None, or say what else it is."""
    policy = Restart() if restart is None else restart
    if not isinstance(policy, Restart):
        raise TypeError(f"restart must be a Restart, got {restart!r}")
    return policy


class RestartTracker:
    """What a policy has to remember of one worker's or module's failures.

    The intensity is OTP's: with `max_restarts` restarts within the period behind it, one more
    failure is over budget.

    Attributes:
        policy: the policy.
        failures: how many in a row.
        failed_at: kept for those who can count a failure only when its run has ended, long after
            it, perhaps.
    """

    __slots__ = ("_restarts", "failed_at", "failures", "policy")

    def __init__(self, policy: Restart) -> None:
        self.policy = policy
        self.failures = 0
        self.failed_at = 0.0
        self._restarts: list[float] = []

    @property
    def crashes(self) -> int:
        """How many failures the present period holds."""
        return len(self._restarts)

    def failed(
        self, began: float, now: float, rng: random.Random, *, immediate: bool = False
    ) -> float | None:
        """Count a failure of a run that *began* then; the delay in seconds, or None: give up."""
        backoff = self.policy.backoff
        if now >= began + backoff.reset_after:
            self.failures = 0
        self.failures += 1
        if not self._within_budget(now):
            return None
        if immediate or not backoff.initial:
            return 0.0
        return backoff.delay(self.failures, rng)

    def _within_budget(self, now: float) -> bool:
        limit = self.policy.max_restarts
        if limit is None:
            return True
        restarts = self._restarts
        restarts.append(now)
        while restarts[0] + self.policy.within < now:
            restarts.pop(0)
        return len(restarts) <= limit

    def renew(self) -> None:
        """Forget everything: a new budget."""
        self.failures = 0
        self._restarts.clear()
