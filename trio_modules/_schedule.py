"""What is due when, and who goes first: the order of tasks, without Trio.

An `Agenda` holds items by time, a `Line` those whose turn comes next, and the `Board` moves them
from the one to the other and says who begins. None of them knows a clock: whoever asks says what
time it is.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = [
    "OVERTIME",
    "ROOM_PATIENCE",
    "Agenda",
    "Board",
    "Entry",
    "Item",
    "Line",
    "Patience",
    "Rank",
    "Room",
]

T = TypeVar("T")
ItemT = TypeVar("ItemT", bound="Item")

#: Seconds after which what runs stops holding its place.
OVERTIME = 60.0

#: Seconds for which the line waits until there is room.
ROOM_PATIENCE = 30.0

#: A time, a number that keeps the order of equals, and what is due then.
Entry = tuple[float, int, T]

#: So few dead entries are not worth a sweep.
_FEW = 64

#: New entries that are at least this part of a heap are sorted in by one pass over all of it.
_MANY = 8


class Item:
    """What a board can hold; it keeps its own entries.

    Attributes:
        _due: when it is due to join the line, None if it isn't.
        _entry: by which it stands in the agenda, None before it is sorted in.
        _since: when it joined the line or, if it runs, began.
        _latest: when it begins at once if it is in the line; infinity: never.
        _queued: whether it is in the line.
    """

    __slots__ = ("_due", "_entry", "_latest", "_queued", "_since")

    _due: float | None
    _entry: Entry[Item] | None
    _since: float
    _latest: float
    _queued: bool

    def __init__(self) -> None:
        self._due = None
        self._entry = None
        self._queued = False
        self._since = 0.0
        self._latest = math.inf


class Agenda(Generic[ItemT]):
    """Items by time: O(log n) to add, O(1) to drop, the earliest first, first come among equals.

    What is added is only noted, and sorted in when the earliest is asked for: what is dropped
    before that never is, and many at once cost less than one by one.

    Each item keeps the entry by which it is sorted in. Entries and notes that no longer count
    leave when they come up, or all together when they are the greater part, so that they never
    hold more memory than the living ones.

    Args:
        sorted_in: called with the items that are being sorted in.

    Attributes:
        noted: what was added and isn't sorted in yet, though some may have been dropped since.
    """

    __slots__ = ("_bound", "_dead", "_heap", "_number", "_sorted_in", "noted")

    def __init__(self, sorted_in: Callable[[list[ItemT]], None]) -> None:
        self._sorted_in = sorted_in
        self._heap: list[Entry[ItemT]] = []
        self.noted: list[ItemT] = []
        self._number = itertools.count()
        self._dead = 0
        self._bound = _FEW

    def __len__(self) -> int:
        return self.size - self._dead

    @property
    def size(self) -> int:
        """How many entries and notes it holds, the dropped ones included."""
        return len(self._heap) + len(self.noted)

    def add(self, item: ItemT, when: float) -> None:
        """The item is due at that time, in place of any other."""
        if item._due is not None:
            self.drop(item)
        item._due = when
        self.noted.append(item)

    def drop(self, item: ItemT) -> None:
        """The item isn't due at any time."""
        if item._due is None:
            return
        item._due = item._entry = None
        self._dead += 1
        if self._dead > self._bound:
            self._tidy()

    def _tidy(self) -> None:
        """Let those that no longer count leave if they are the greater part, and not few."""
        if self._dead > _FEW and self._dead * 2 > self.size:
            self.noted = self._still_noted()
            self._heap = [entry for entry in self._heap if entry[2]._entry is entry]
            heapq.heapify(self._heap)
            self._dead = 0
        # So many may be dead before it is worth another look, unless some leave in another way.
        self._bound = max(_FEW, self.size // 2)

    def _still_noted(self) -> list[ItemT]:
        """Each of the noted that waits to be sorted in, where it was noted last."""
        if not self._dead:
            return self.noted
        last = reversed(dict.fromkeys(reversed(self.noted)))
        return [item for item in last if item._due is not None and item._entry is None]

    def sort_in(self) -> None:
        """Sort in what is only noted."""
        if not self.noted:
            return
        noted, heap = self._still_noted(), self._heap
        self._sorted_in(noted)  # first: a Ctrl-C in here must leave none that nobody knows
        self._dead -= len(self.noted) - len(noted)
        self._bound = _FEW
        self.noted = []
        all_at_once = len(noted) * _MANY > len(heap)
        for item in noted:
            assert item._due is not None
            entry = (item._due, next(self._number), item)
            item._entry = entry
            if all_at_once:
                heap.append(entry)
            else:
                heapq.heappush(heap, entry)
        if all_at_once:
            heapq.heapify(heap)

    def next_time(self) -> float:
        """When the earliest item is due, infinity without any."""
        if self.noted:
            self.sort_in()
        heap = self._heap
        while heap and heap[0][2]._entry is not heap[0]:
            heapq.heappop(heap)
            self._dead -= 1
            self._bound = _FEW
        return heap[0][0] if heap else math.inf

    @property
    def first(self) -> ItemT | None:
        """The item that is due first, None without any."""
        return self._heap[0][2] if self.next_time() < math.inf else None

    def pop_due(self, now: float) -> list[ItemT]:
        """Take out all that is due at *now*, the earliest first."""
        due = []
        while self.next_time() <= now:
            item = heapq.heappop(self._heap)[2]
            item._due = item._entry = None
            due.append(item)
        if due:
            self._tidy()  # what no longer counts may be the greater part now
        return due


class Rank(enum.IntEnum):
    """Where an item joins a line."""

    PLAIN = 0
    PRIORITIZED = 1
    FRONT = 2


class Line(Generic[ItemT]):
    """Two queues: the prioritized one goes first, each is first in, first out. All is O(1).

    Nearly all items join the plain queue and leave it when it is their turn. So that is a deque,
    and one that leaves it before its turn stays there, counted, to be skipped: such never hold
    more memory than those that wait.

    Attributes:
        count: how many items are in it.
    """

    __slots__ = ("_gone", "_plain", "_prioritized", "_skipped", "count")

    def __init__(self) -> None:
        self.count = 0
        self._prioritized: OrderedDict[ItemT, None] = OrderedDict()
        self._plain: deque[ItemT] = deque()
        self._gone: dict[ItemT, int] = {}  # how often each is to be skipped
        self._skipped = 0  # the sum of these

    @property
    def size(self) -> int:
        """How many entries it holds, those to be skipped included."""
        return len(self._prioritized) + len(self._plain)

    def join(self, item: ItemT, rank: Rank) -> None:
        """Let *item* join, or move up if it is in the line already; it never moves back."""
        if rank is not Rank.PLAIN:
            self._join_prioritized(item, rank)
        elif not item._queued:
            item._queued = True
            self.count += 1
            self._plain.append(item)

    def _join_prioritized(self, item: ItemT, rank: Rank) -> None:
        if not item._queued:
            item._queued = True
            self.count += 1
        elif item not in self._prioritized:
            self._leave_plain(item)
        self._prioritized[item] = None
        if rank is Rank.FRONT:
            self._prioritized.move_to_end(item, last=False)

    def leave(self, item: ItemT) -> None:
        """Let *item*, which is in the line, leave before its turn."""
        item._queued = False
        self.count -= 1
        if item in self._prioritized:
            del self._prioritized[item]
        else:
            self._leave_plain(item)

    def _leave_plain(self, item: ItemT) -> None:
        self._gone[item] = self._gone.get(item, 0) + 1
        self._skipped += 1
        if self._skipped > _FEW and self._skipped * 2 > len(self._plain):
            self._plain = deque(each for each in self._plain if not self._is_skipped(each))

    def pop(self) -> ItemT | None:
        """Take out whose turn it is, None if nobody is there."""
        if not self.count:
            return None
        if self._prioritized:
            item = self._prioritized.popitem(last=False)[0]
        else:
            while self._skipped and self._is_skipped(self._plain[0]):
                self._plain.popleft()
            item = self._plain.popleft()
        item._queued = False
        self.count -= 1
        return item

    def _is_skipped(self, item: ItemT) -> bool:
        """Whether this, the first entry of the item, is to leave the deque now unseen."""
        times = self._gone.get(item, 0)
        if not times:
            return False
        self._skipped -= 1
        if times == 1:
            del self._gone[item]
        else:
            self._gone[item] = times - 1
        return True


class Patience(Generic[ItemT]):
    """Who has been in the line for too long. Hardly anybody ever is, so joining costs little.

    Those who join are only noted. When the earliest limit of them is reached, who is still in the
    line is sorted by limits, each at most once: O(log n) for each who joined, and nothing for
    those that began before.

    Attributes:
        soonest: no limit is earlier; infinity if there is none.
    """

    __slots__ = ("_bound", "_heap", "_noted", "_number", "soonest")

    def __init__(self) -> None:
        self.soonest = math.inf
        self._noted: list[ItemT] = []
        self._bound = _FEW
        self._heap: list[Entry[ItemT]] = []
        self._number = itertools.count()

    def note(self, item: ItemT, waiting: int) -> bool:
        """The item has joined, or has a new limit; whether `soonest` is earlier than it was.

        *waiting* is how many are in the line now: much more than that is not remembered.
        """
        self._noted.append(item)
        if len(self._noted) > self._bound:
            self._tidy(waiting)
        if item._latest < self.soonest:
            self.soonest = item._latest
            return True
        return False

    def _tidy(self, waiting: int) -> None:
        """Forget those that have left, if they are the greater part."""
        if len(self._noted) + len(self._heap) > 2 * waiting:
            self._noted = [item for item in dict.fromkeys(self._noted) if item._queued]
            self._heap = [entry for entry in self._heap if _waits(entry)]
            heapq.heapify(self._heap)
        self._bound = 2 * len(self._noted) + _FEW

    def pop_due(self, now: float) -> list[ItemT]:
        """Take out those whose limit is reached, the earliest first."""
        if now < self.soonest:
            return []
        noted, self._noted = self._noted, []
        for item in dict.fromkeys(noted):
            if item._queued and item._latest < math.inf:
                heapq.heappush(self._heap, (item._latest, next(self._number), item))
        due = []
        while self._heap and (self._heap[0][0] <= now or not _waits(self._heap[0])):
            entry = heapq.heappop(self._heap)
            if _waits(entry):
                due.append(entry[2])
        self.soonest = self._heap[0][0] if self._heap else math.inf
        return list(dict.fromkeys(due))  # a limit can be set to what it was


def _waits(entry: Entry[ItemT]) -> bool:
    return entry[2]._queued and entry[2]._latest == entry[0]


class Room(Protocol):
    """Those who share the machine, and go first."""

    @property
    def free(self) -> int:
        """There is room if this is above 0."""


class Board(Generic[ItemT]):
    """Moves items from the agenda into the line, and begins those whose turn it is.

    An item begins when one of `limit` places is free and there is room, or when the line has
    waited for room for long enough. One that was in the line for its longest delay begins at
    once, whatever else runs.

    Args:
        limit: how many items hold a place at a time.
        room: what those who share the machine leave.
        came_due: called with all items that are due, the earliest first, and the time; it lets
            them join the line, or doesn't.
        begin: called with each item that begins; in the end it is given to `take_next`.
        sorted_in: called with the items that the agenda is sorting in.

    Attributes:
        agenda: the items that are due some time.
        line: those whose turn comes next.
        limit: may be set; `move` has to follow.
    """

    __slots__ = (
        "_begin",
        "_came_due",
        "_patience",
        "_places",
        "_room",
        "_roomless_since",
        "agenda",
        "limit",
        "line",
    )

    def __init__(
        self,
        limit: int,
        room: Room,
        came_due: Callable[[list[ItemT], float], None],
        begin: Callable[[ItemT], None],
        sorted_in: Callable[[list[ItemT]], None],
    ) -> None:
        self.limit = limit
        self._room = room
        self._came_due = came_due
        self._begin = begin
        self.agenda: Agenda[ItemT] = Agenda(sorted_in)
        self._patience: Patience[ItemT] = Patience()
        self.line: Line[ItemT] = Line()
        self._places: dict[ItemT, float] = {}
        self._roomless_since: float | None = None

    # ------------------------------------------------------------ the line

    def enqueue(self, item: ItemT, rank: Rank, now: float, max_delay: float) -> bool:
        """Let the item join the line, or move up in it; a delay of 0 is one without limit.

        Returns:
            whether `move` is needed, or `next_time` may be earlier than it was.
        """
        line = self.line
        if item._queued:
            line.join(item, rank)
            return False
        item._since = now
        item._latest = now + max_delay if max_delay else math.inf
        if rank is Rank.PLAIN:  # as `join` does it, without the call
            item._queued = True
            line.count += 1
            line._plain.append(item)
        else:
            line.join(item, rank)
        is_urgent = self._patience.note(item, line.count)
        return is_urgent or line.count == 1 or len(self._places) < self.limit

    def set_delay(self, item: ItemT, max_delay: float) -> None:
        """How long the item, which is in the line, waits at most since it joined."""
        item._latest = item._since + max_delay if max_delay else math.inf
        self._patience.note(item, self.line.count)

    def withdraw(self, item: ItemT) -> None:
        """Take the item out of the line."""
        if item._queued:
            self.line.leave(item)
            if not self.line.count:
                self._roomless_since = None

    @property
    def waiting(self) -> int:
        """How many items are in the line."""
        return self.line.count

    @property
    def scheduled(self) -> int:
        """How many items are due some time."""
        return len(self.agenda)

    # ------------------------------------------------------------ whose turn it is

    @property
    def is_full(self) -> bool:
        """Whether all places are held."""
        return len(self._places) >= self.limit

    def move(self, now: float) -> None:
        """Do all that is to be done at this time."""
        if self.agenda.next_time() <= now:
            self._came_due(self.agenda.pop_due(now), now)
        for item in self._patience.pop_due(now):
            self.withdraw(item)
            item._since = now
            self._begin(item)
        while (following := self.take_next(now)) is not None:
            self._begin(following)

    def take_next(self, now: float, ended: ItemT | None = None) -> ItemT | None:
        """Give a place to the item whose turn it is, if there is one; it has to begin then.

        *ended* has ended, so that its place is free.
        """
        places = self._places
        if ended is not None:
            places.pop(ended, None)
        if not self.line.count:
            return None
        if len(places) >= self.limit and not self._overtime_gives_way(now):
            return None
        if self._room.free <= 0 and not self._was_patient(now):
            return None
        item = self.line.pop()
        assert item is not None
        item._since = now
        places[item] = now
        self._roomless_since = None
        return item

    def _overtime_gives_way(self, now: float) -> bool:
        """Take their places from those that have run for too long; whether one is free then."""
        places = self._places
        while len(places) >= self.limit:
            oldest, began = next(iter(places.items()))
            if now < began + OVERTIME:
                return False
            del places[oldest]
        return True

    def _was_patient(self, now: float) -> bool:
        if self._roomless_since is None:
            self._roomless_since = now
        return now >= self._roomless_since + ROOM_PATIENCE

    def next_time(self) -> float:
        """When there will be something to do, if nothing changes before; infinity: never."""
        when = min(self.agenda.next_time(), self._patience.soonest)
        if not self.line.count:
            return when
        if len(self._places) >= self.limit:
            return min(when, next(iter(self._places.values())) + OVERTIME)
        if self._roomless_since is not None:
            return min(when, self._roomless_since + ROOM_PATIENCE)
        return when
