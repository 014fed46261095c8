"""What is wrong with a module, as a value; and the failures that one module has at a time."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

__all__ = ["NO_FAILURE", "FailureLevel", "FailureLog", "FailureStatus", "worst_of"]


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


def worst_of(failures: Mapping[str, FailureStatus]) -> FailureStatus:
    """The most severe one, the newest among equals; `NO_FAILURE` when there is none."""
    worst = NO_FAILURE
    for failure in failures.values():
        if failure.level >= worst.level:
            worst = failure
    return worst


class FailureLog:
    """The failures that one module has now, one per id, in the order in which they were set.

    *changed* is called with the worst failure before and after whenever something changed.
    """

    __slots__ = ("_by_id", "_changed", "_view")

    def __init__(self, changed: Callable[[FailureStatus, FailureStatus], None]) -> None:
        self._by_id: dict[str, FailureStatus] = {}
        self._view = MappingProxyType(self._by_id)
        self._changed = changed

    @property
    def by_id(self) -> Mapping[str, FailureStatus]:
        return self._view

    @property
    def worst(self) -> FailureStatus:
        return worst_of(self._by_id)

    def set(self, failure: FailureStatus) -> FailureStatus:
        before = self.worst
        known = self._by_id.pop(failure.id, None)
        if known is not None and known.level == failure.level:
            failure = attrs.evolve(failure, since=known.since)
        self._by_id[failure.id] = failure
        self._changed(before, self.worst)
        return failure

    def resolve(self, failure_id: str) -> bool:
        if failure_id not in self._by_id:
            return False
        before = self.worst
        del self._by_id[failure_id]
        self._changed(before, self.worst)
        return True

    def resolve_all(self, keep: str | None = None) -> None:
        for failure_id in [known for known in self._by_id if known != keep]:
            self.resolve(failure_id)
