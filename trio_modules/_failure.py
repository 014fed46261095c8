"""What is wrong with a module, as a value; and the failures that one module has at a time."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

__all__ = ["NO_FAILURE", "FailureLevel", "FailureLog", "FailureStatus"]


class FailureLevel(enum.IntEnum):
    """How bad it is (the seed's values)."""

    NONE = 0
    HINT = 1
    WARNING = 2
    ERROR = 3


@attrs.frozen
class FailureStatus:
    """One thing that is wrong with a module, or worth knowing.

    Attributes:
        level: how bad it is.
        id: for programs: the same id is the same trouble.
        message: for people.
        title: a short headline for people, may be empty.
        since: when this id was set first and not resolved since, on Trio's clock, in seconds.
    """

    level: FailureLevel = FailureLevel.NONE
    id: str = ""
    message: str = ""
    title: str = ""
    since: float = 0.0


NO_FAILURE = FailureStatus()


class FailureLog:
    """The failures that one module has now, one per id, in the order in which they were set.

    *changed* is called with the worst failure before and after, whenever another one is the worst.
    """

    __slots__ = ("_by_id", "_by_level", "_changed", "_view", "worst")

    def __init__(self, changed: Callable[[FailureStatus, FailureStatus], None]) -> None:
        self.worst = NO_FAILURE
        self._by_id: dict[str, FailureStatus] = {}
        # The worst may go at every change, and a shared outage makes thousands of failures.
        self._by_level: tuple[dict[str, FailureStatus], ...] = tuple({} for _ in FailureLevel)
        self._view = MappingProxyType(self._by_id)
        self._changed = changed

    @property
    def by_id(self) -> Mapping[str, FailureStatus]:
        return self._view

    def set(self, failure: FailureStatus) -> FailureStatus:
        before = self.worst
        if failure.id in self._by_id:
            failure = self._replaced(failure)
        self._by_id[failure.id] = failure
        self._by_level[failure.level][failure.id] = failure
        if failure.level and failure.level >= self.worst.level:
            self.worst = failure
        if self.worst is not before:
            self._changed(before, self.worst)
        return failure

    def _replaced(self, failure: FailureStatus) -> FailureStatus:
        """*failure* in place of the one with its id, which is removed."""
        known = self._by_id.pop(failure.id)
        del self._by_level[known.level][known.id]
        if known is self.worst:
            self.worst = self._next_worst()
        return attrs.evolve(failure, since=known.since) if known.level == failure.level else failure

    def resolve(self, failure_id: str) -> bool:
        failure = self._by_id.pop(failure_id, None)
        if failure is None:
            return False
        del self._by_level[failure.level][failure_id]
        if failure is self.worst:
            self.worst = self._next_worst()
            self._changed(failure, self.worst)
        return True

    def _next_worst(self) -> FailureStatus:
        for level in (FailureLevel.ERROR, FailureLevel.WARNING, FailureLevel.HINT):
            if failures := self._by_level[level]:
                return next(reversed(failures.values()))
        return NO_FAILURE

    def resolve_all(self, keep: str | None = None) -> None:
        for failure_id in [known for known in self._by_id if known != keep]:
            self.resolve(failure_id)
