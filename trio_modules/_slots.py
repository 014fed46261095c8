"""Who holds a slot and who is next to get one, without Trio.

A free slot goes to MEDIUM before LOW, in each to who came first; HIGH takes one whether it is free
or not. Who has waited for too long begins all the same. So there is never a free slot while
somebody waits.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from trio_modules._schedule import Item, Line, Patience, Rank

__all__ = ["Priority", "SlotOrder", "Waiter"]

#: Seconds after which a microtask begins without a free slot (seed).
_PATIENCE = {"high": 0.0, "medium": 3.0, "low": 15.0}


class Priority(enum.Enum):
    """How urgent a microtask is (seed).

    Attributes:
        patience: seconds for which it waits for a slot, if nothing else is said.
    """

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    def __init__(self, name: str) -> None:
        self.patience = _PATIENCE[name]


class Waiter(Item):
    """Somebody who waits for a slot."""

    __slots__ = ("_line",)

    _line: Line[Waiter]

    def grant(self) -> None:
        """It has one."""
        raise NotImplementedError


class SlotOrder:
    """The slots of an app.

    Args:
        limit: how many there are.

    Attributes:
        on_room: called whenever a slot is free and nobody waits.
        free: how many are free; less than 0, if more are held because HIGH or patience says so.
        everybody: whether nobody has to wait.
    """

    __slots__ = ("_limit", "_low", "_medium", "_patience", "everybody", "free", "on_room")

    def __init__(self, limit: int) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.free = limit
        self.everybody = False
        self._limit = limit
        self._medium: Line[Waiter] = Line()
        self._low: Line[Waiter] = Line()
        self._patience: Patience[Waiter] = Patience()

    @property
    def limit(self) -> int:
        """How many there are; more let the next ones in at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self.free += limit - self._limit
        self._limit = limit
        while self.free > 0 and (waiter := self._pop()) is not None:
            self._let_in(waiter)
        self._tell()

    @property
    def held(self) -> int:
        """How many are held; more than there are, if HIGH or patience says so."""
        return self._limit - self.free

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._medium.count + self._low.count

    def has_room(self) -> bool:
        """Whether a slot is free; then nobody waits."""
        return self.free > 0

    @property
    def next_time(self) -> float:
        """No patience ends before this; infinity: nobody's."""
        return self._patience.soonest

    def enter(self, priority: Priority) -> bool:
        """Take a slot, if that is possible at once."""
        if self.free > 0 or priority is Priority.HIGH or self.everybody:
            self.free -= 1
            return True
        return False

    def wait(self, waiter: Waiter, priority: Priority, now: float, patience: float) -> bool:
        """Wait for a slot; whether `next_time` is earlier than it was."""
        waiter._since = now
        waiter._latest = now + patience
        waiter._line = self._medium if priority is Priority.MEDIUM else self._low
        waiter._line.join(waiter, Rank.PLAIN)
        return self._patience.note(waiter, self.waiting)

    def give_up(self, waiter: Waiter) -> None:
        """The waiter waits no longer, and has none."""
        waiter._line.leave(waiter)

    def leave(self) -> None:
        """A slot comes back: who is next has it, in this step."""
        self.free += 1
        if self.free > 0:
            waiter = self._pop()
            if waiter is None:
                self.on_room()
            else:
                self._let_in(waiter)

    def lose_patience(self, now: float) -> None:
        """Let in all who have waited for too long."""
        for waiter in self._patience.pop_due(now):
            self.give_up(waiter)
            self._let_in(waiter)

    def let_everybody_in(self) -> None:
        """From now on nobody waits."""
        self.everybody = True
        while (waiter := self._pop()) is not None:
            self._let_in(waiter)

    def _pop(self) -> Waiter | None:
        return self._medium.pop() or self._low.pop()

    def _let_in(self, waiter: Waiter) -> None:
        self.free -= 1
        waiter.grant()

    def _tell(self) -> None:
        if self.has_room():
            self.on_room()
