"""Whose turn it is, as pure logic: the agenda, the line, patience, and the board."""

from __future__ import annotations

import math
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_modules._schedule import (
    OVERTIME,
    ROOM_PATIENCE,
    Agenda,
    Board,
    Item,
    Line,
    Patience,
    Rank,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "200"))
DELAY = 180.0


# --- the agenda ----------------------------------------------------------------------------


class Named(Item):
    """An item with a name, to be told from the others."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Diary:
    """An agenda of items that are known by their names."""

    def __init__(self) -> None:
        self.items: dict[str, Named] = {}
        self.placed: list[str] = []
        self.agenda: Agenda[Named] = Agenda(self._sorted_in)

    def _sorted_in(self, items: list[Named]) -> None:
        self.placed += [item.name for item in items]

    def put(self, when: float, name: str) -> None:
        self.agenda.add(self.items.setdefault(name, Named(name)), when)

    def drop(self, name: str) -> None:
        item = self.items.pop(name, None)
        if item is not None:
            self.agenda.drop(item)
            assert item._due is None

    def pop_due(self, now: float) -> list[str]:
        due = self.agenda.pop_due(now)
        for item in due:
            assert item._due is None
            del self.items[item.name]
        return [item.name for item in due]


def test_the_agenda_gives_the_earliest_first() -> None:
    """what is due comes out by time, first come among equals, and nothing that is due later."""
    diary = Diary()
    for when, name in [(3.0, "late"), (1.0, "a"), (2.0, "c"), (1.0, "b")]:
        diary.put(when, name)
    assert diary.agenda.next_time() == 1.0
    assert diary.pop_due(0.5) == []
    assert diary.pop_due(2.0) == ["a", "b", "c"]
    assert diary.agenda.next_time() == 3.0
    assert len(diary.agenda) == 1


def test_an_empty_agenda_is_never_due() -> None:
    """without any entry the next time is infinity, and nothing is due."""
    agenda: Agenda[Named] = Agenda(lambda _: None)
    assert agenda.next_time() == math.inf
    assert agenda.pop_due(1e9) == []
    assert len(agenda) == agenda.size == 0


def test_a_dropped_entry_never_comes_up() -> None:
    """a dropped or replaced entry isn't due, isn't next, and doesn't count."""
    diary = Diary()
    diary.put(1, "dropped")
    diary.put(2, "moved")
    diary.put(3, "stays")
    diary.drop("dropped")
    diary.put(4, "moved")
    assert len(diary.agenda) == 2
    assert diary.agenda.next_time() == 3
    assert diary.pop_due(10) == ["stays", "moved"]
    assert len(diary.agenda) == 0


@pytest.mark.parametrize("living", [0, 1, 10, 1000])
def test_dropped_entries_take_no_more_memory_than_living_ones(living: int) -> None:
    """however many entries are dropped, the agenda stays within a constant of the living."""
    diary = Diary()
    for number in range(living):
        diary.put(1e9 + number, f"living {number}")
    largest = 0
    for number in range(20_000):
        diary.put(1e6 - number, "again and again")
        diary.put(float(number), f"gone {number}")
        diary.drop(f"gone {number}")
        largest = max(largest, diary.agenda.size)
    assert len(diary.agenda) == living + 1
    assert largest <= 2 * (living + 1) + 70


@pytest.mark.parametrize("seed", range(60))
def test_dropped_entries_are_few_whatever_came_before(seed: int) -> None:
    """however items are added, dropped, sorted in and taken out, in whatever amounts."""
    rng = random.Random(seed)
    count = rng.choice([300, 1_000])
    items = [Item() for _ in range(count)]
    agenda: Agenda[Item] = Agenda(lambda _: None)
    weights = [rng.random() ** 2 for _ in range(5)]
    for _ in range(60):
        kind, some = rng.choices(range(5), weights)[0], rng.choice([1, 5, count // 4, count])
        due = sorted((item for item in items if item._due is not None), key=due_of)
        if kind == 0:
            for item in rng.sample(items, some):
                agenda.add(item, float(rng.randint(0, 1_000)))
        elif kind == 1:
            agenda.next_time()
        elif kind == 2:
            agenda.pop_due(rng.randint(0, 400))
        else:
            for item in due[:some] if kind == 3 else due[-some:]:
                agenda.drop(item)
        assert len(agenda) == sum(item._due is not None for item in items)
        if kind >= 2:
            assert agenda.size <= max(2 * len(agenda), len(agenda) + 64)


@pytest.mark.parametrize("sorted_in_before", [True, False])
def test_few_of_many_are_many_when_many_have_left(*, sorted_in_before: bool) -> None:
    """half of them are dropped and leave; of the others all that are dropped then are too many."""
    agenda: Agenda[Item] = Agenda(lambda _: None)
    items = [Item() for _ in range(1_000)]
    for number, item in enumerate(items):
        agenda.add(item, float(number))
    if sorted_in_before:
        agenda.sort_in()
    for item in items[:500]:
        agenda.drop(item)
    assert agenda.next_time() == 500
    for item in items[501:]:
        agenda.drop(item)
    assert len(agenda) == 1
    assert agenda.size <= 65


def due_of(item: Item) -> float:
    assert item._due is not None
    return item._due


def test_what_is_added_again_has_its_last_time_and_turn() -> None:
    """before anything is sorted in, and after: first come, first served counts from the last."""
    diary = Diary()
    for name, when in [("a", 5.0), ("b", 5.0), ("a", 1.0), ("c", 5.0), ("a", 5.0)]:
        diary.put(when, name)
    assert len(diary.agenda) == 3
    assert diary.pop_due(5) == ["b", "c", "a"]
    for name in "abc":
        diary.put(7.0, name)
    assert diary.agenda.next_time() == 7
    diary.put(7.0, "b")
    diary.put(8.0, "c")
    assert diary.pop_due(7) == ["a", "b"]
    assert len(diary.agenda) == diary.agenda.size == 1
    assert diary.pop_due(8) == ["c"]


def test_what_is_sorted_in_is_told() -> None:
    """each item that has a place is told once for it, and those dropped before never are."""
    diary = Diary()
    for name in "abc":
        diary.put(5.0, name)
    diary.drop("b")
    assert diary.placed == []
    diary.agenda.sort_in()
    assert diary.placed == ["a", "c"]
    diary.agenda.sort_in()
    diary.put(6.0, "d")
    assert diary.agenda.next_time() == 5
    assert diary.placed == ["a", "c", "d"]


def test_a_sweep_forgets_no_living_entry() -> None:
    """after sweeps everything that is kept still comes up, in order."""
    rng = random.Random(4)
    diary = Diary()
    expected: dict[str, float] = {}
    for number in range(5_000):
        name = f"{rng.randrange(300)}"
        if rng.random() < 0.5:
            diary.drop(name)
            expected.pop(name, None)
        else:
            expected[name] = float(number % 97) + number / 1e6
            diary.put(expected[name], name)
    assert len(diary.agenda) == len(expected)
    assert diary.pop_due(1e9) == sorted(expected, key=lambda name: expected[name])


class Counted(float):
    """A time that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return float.__lt__(self, other)

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return float.__eq__(self, other)

    __hash__ = float.__hash__


def comparisons_per_reschedule(size: int) -> float:
    """Return how many comparisons a schedule, a reschedule and a cancel cost on a board."""
    rng = random.Random(1)
    board, items = board_with(size)
    for item in items:
        board.agenda.add(item, Counted(rng.random()))
    board.agenda.next_time()
    Counted.compared = 0
    rounds = 500
    for _ in range(rounds):
        item = rng.choice(items)
        board.agenda.add(item, Counted(rng.random()))
        board.agenda.next_time()
        board.agenda.drop(item)
        board.agenda.add(item, Counted(rng.random()))
        board.agenda.next_time()
    return Counted.compared / rounds


def test_scheduling_costs_grow_with_the_logarithm() -> None:
    """fifty times as many scheduled items cost a few more comparisons, not fifty times as many."""
    small, large = comparisons_per_reschedule(400), comparisons_per_reschedule(20_000)
    assert large < 4 * small + 40


# --- the line ------------------------------------------------------------------------------


class Queue:
    """A line of items that are known by their names."""

    def __init__(self, *joined: tuple[str, Rank]) -> None:
        self.items: dict[str, Named] = {}
        self.line: Line[Named] = Line()
        for name, rank in joined:
            self.join(name, rank)

    def join(self, name: str, rank: Rank) -> None:
        self.line.join(self.items.setdefault(name, Named(name)), rank)

    def leave(self, name: str) -> None:
        self.line.leave(self.items[name])

    def pop(self) -> str | None:
        item = self.line.pop()
        assert item is None or not item._queued
        return None if item is None else item.name

    def all(self) -> list[str]:
        found = []
        while (name := self.pop()) is not None:
            found.append(name)
        return found


def test_the_prioritized_go_before_the_plain() -> None:
    """both queues are first in, first out; the prioritized one is emptied first."""
    queue = Queue(
        ("plain 1", Rank.PLAIN),
        ("prioritized 1", Rank.PRIORITIZED),
        ("plain 2", Rank.PLAIN),
        ("prioritized 2", Rank.PRIORITIZED),
    )
    assert queue.line.count == 4
    assert queue.all() == ["prioritized 1", "prioritized 2", "plain 1", "plain 2"]
    assert not queue.line.count


def test_front_goes_before_all() -> None:
    """the last that joins at the front goes first."""
    queue = Queue(("a", Rank.PRIORITIZED), ("b", Rank.FRONT), ("c", Rank.FRONT))
    assert queue.all() == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("before", "after", "order"),
    [
        (Rank.PLAIN, Rank.PLAIN, ["p", "x", "q"]),
        (Rank.PLAIN, Rank.PRIORITIZED, ["p", "x", "q"]),
        (Rank.PLAIN, Rank.FRONT, ["x", "p", "q"]),
        (Rank.PRIORITIZED, Rank.PLAIN, ["p", "x", "q"]),
        (Rank.PRIORITIZED, Rank.PRIORITIZED, ["p", "x", "q"]),
        (Rank.PRIORITIZED, Rank.FRONT, ["x", "p", "q"]),
        (Rank.FRONT, Rank.PLAIN, ["x", "p", "q"]),
        (Rank.FRONT, Rank.PRIORITIZED, ["x", "p", "q"]),
        (Rank.FRONT, Rank.FRONT, ["x", "p", "q"]),
    ],
)
def test_who_joins_twice_moves_up_and_never_back(
    before: Rank, after: Rank, order: list[str]
) -> None:
    """an item is in the line once, in the better of its places."""
    queue = Queue(("p", Rank.PRIORITIZED), ("x", before), ("q", Rank.PLAIN), ("x", after))
    assert queue.line.count == 3
    assert queue.all() == order


@pytest.mark.parametrize("rank", list(Rank))
def test_who_left_the_line_is_not_called(rank: Rank) -> None:
    """an item can leave from any place."""
    queue = Queue(("a", Rank.PLAIN), ("x", rank), ("b", Rank.PRIORITIZED))
    queue.leave("x")
    assert queue.line.count == 2
    assert queue.all() == ["b", "a"]
    assert not queue.line.count


def test_who_left_and_joins_again_is_at_the_end() -> None:
    """each time an item comes back it is behind all that are there, and called once."""
    queue = Queue(("x", Rank.PLAIN), ("a", Rank.PLAIN))
    for other in ("b", "c"):
        queue.leave("x")
        queue.join(other, Rank.PLAIN)
        queue.join("x", Rank.PLAIN)
    assert queue.line.count == 4
    assert queue.all() == ["a", "b", "c", "x"]


def test_what_was_skipped_is_forgotten() -> None:
    """an item that left twice, and was passed over twice, counts in full when it is back."""
    queue = Queue(("x", Rank.PLAIN), ("a", Rank.PLAIN))
    for _ in range(2):
        queue.leave("x")
        queue.join("x", Rank.PLAIN)
    assert queue.all() == ["a", "x"]
    queue.join("x", Rank.PLAIN)
    queue.join("a", Rank.PLAIN)
    queue.leave("a")
    assert queue.all() == ["x"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "leave", "pop"]), st.integers(0, 5), st.sampled_from(Rank)
        ),
        max_size=60,
    )
)
def test_a_line_is_two_lists(steps: list[tuple[str, int, Rank]]) -> None:
    """whatever joins, moves up and leaves: the order is that of two plain lists."""
    queue = Queue()
    plain: list[str] = []
    prioritized: list[str] = []
    for step, number, rank in steps:
        name = str(number)
        here = name in plain or name in prioritized
        if step == "pop":
            first = prioritized or plain
            assert queue.pop() == (first.pop(0) if first else None)
        elif step == "leave" and here:
            queue.leave(name)
            (plain if name in plain else prioritized).remove(name)
        elif step == "join":
            queue.join(name, rank)
            if rank is Rank.PLAIN:
                plain += [] if here else [name]
                continue
            if name in plain:
                plain.remove(name)
            if rank is Rank.FRONT:
                prioritized[:] = [name, *(each for each in prioritized if each != name)]
            elif name not in prioritized:
                prioritized.append(name)
        assert queue.line.count == len(plain) + len(prioritized)
    assert queue.all() == prioritized + plain


@pytest.mark.parametrize("living", [0, 1, 10, 1000])
def test_who_left_takes_no_more_memory_than_who_waits(living: int) -> None:
    """however many leave before their turn, the line stays within a constant of the others."""
    queue = Queue(*((f"stays {number}", Rank.PLAIN) for number in range(living)))
    largest = 0
    for _ in range(5_000):
        for name in ("x", "y"):
            queue.join(name, Rank.PLAIN)
            queue.leave(name)
        largest = max(largest, queue.line.size)
    assert queue.line.count == living
    assert largest <= 2 * living + 140
    assert queue.all() == [f"stays {number}" for number in range(living)]


# --- patience ------------------------------------------------------------------------------


def waiting(latest: float) -> Item:
    item = Item()
    item._queued = True
    item._latest = latest
    return item


def test_patience_says_who_has_waited_too_long() -> None:
    """who is still in the line at its limit comes out, the earliest limit first, once."""
    patience: Patience[Item] = Patience()
    late, early, left = waiting(20), waiting(10), waiting(5)
    assert patience.note(late, 2)
    assert patience.note(early, 2)
    assert patience.note(left, 3)
    assert not patience.note(waiting(30), 3)
    left._queued = False
    assert patience.soonest == 5
    assert patience.pop_due(4.9) == []
    assert patience.pop_due(20) == [early, late]
    assert patience.soonest == 30
    early._queued = late._queued = False
    assert patience.pop_due(25) == []


def test_without_a_limit_patience_never_ends() -> None:
    """an infinite limit is never the soonest, and never due."""
    patience: Patience[Item] = Patience()
    assert not patience.note(waiting(math.inf), 1)
    assert patience.soonest == math.inf
    assert patience.pop_due(1e12) == []


def test_a_new_limit_takes_the_place_of_the_old() -> None:
    """a limit that was changed, also after it was sorted in, counts as it is now."""
    patience: Patience[Item] = Patience()
    item, other = waiting(20), waiting(1)
    patience.note(item, 2)
    patience.note(other, 2)
    assert patience.pop_due(1) == [other]
    other._queued = False
    item._latest = 50
    patience.note(item, 2)
    assert patience.pop_due(20) == []
    assert patience.pop_due(49) == []
    assert patience.pop_due(50) == [item]


def test_a_limit_that_is_set_twice_is_reached_once() -> None:
    """an item whose limit is set to what it was already comes out once."""
    patience: Patience[Item] = Patience()
    item, other = waiting(20), waiting(1)
    patience.note(item, 2)
    patience.note(other, 2)
    patience.pop_due(1)  # sorts the item in
    other._queued = False
    patience.note(item, 2)
    assert patience.pop_due(20) == [item]


def test_patience_remembers_no_more_than_those_who_wait() -> None:
    """who has left the line is forgotten, however many come and go."""
    patience: Patience[Item] = Patience()
    stays = [waiting(1e9) for _ in range(10)]
    for item in stays:
        patience.note(item, len(stays))
    for number in range(20_000):
        item = waiting(1e6 + number)
        patience.note(item, len(stays) + 1)
        item._queued = False
        assert len(patience._noted) + len(patience._heap) <= 4 * len(stays) + 140
    assert patience.pop_due(1e9) == stays


def test_patience_also_forgets_what_it_has_sorted() -> None:
    """entries that were sorted in and have left since don't pile up either."""
    patience: Patience[Item] = Patience()
    for number in range(20_000):
        item, trigger = waiting(1e6), waiting(float(number))
        patience.note(item, 2)
        patience.note(trigger, 2)
        assert trigger in patience.pop_due(number)
        item._queued = trigger._queued = False
        assert len(patience._noted) + len(patience._heap) <= 300


# --- the board -----------------------------------------------------------------------------


class Others:
    """Those who share the machine."""

    free = 1


class Hall:
    """A board with named items, and what it has begun."""

    def __init__(self, limit: int = 1) -> None:
        self.others = Others()
        self.now = 0.0
        self.begun: list[str] = []
        self.names: dict[int, str] = {}
        self.items: dict[str, Item] = {}
        self.came_due: list[str] = []
        self.board: Board[Item] = Board(limit, self.others, self._due, self._begin, lambda _: None)

    def item(self, name: str) -> Item:
        if name not in self.items:
            self.items[name] = item = Item()
            self.names[id(item)] = name
        return self.items[name]

    def _due(self, items: list[Item], now: float) -> None:
        for item in reversed(items):
            self.came_due.append(self.names[id(item)])
            self.board.enqueue(item, Rank.FRONT, now, DELAY)

    def _begin(self, item: Item) -> None:
        self.begun.append(self.names[id(item)])

    def enqueue(self, *names: str, rank: Rank = Rank.PLAIN, delay: float = DELAY) -> None:
        for name in names:
            self.board.enqueue(self.item(name), rank, self.now, delay)

    def move(self, now: float | None = None) -> list[str]:
        """Move and return what began."""
        self.now = self.now if now is None else now
        before = len(self.begun)
        self.board.move(self.now)
        return self.begun[before:]

    def release(self, name: str) -> None:
        """It has ended; nobody has its place before the board moves, with what is due meanwhile."""
        self.board._places.pop(self.item(name), None)


def board_with(size: int) -> tuple[Board[Item], list[Item]]:
    return Hall().board, [Item() for _ in range(size)]


def test_as_many_begin_as_there_are_places() -> None:
    """at most `limit` begin; each release lets the next begin, in the order of the line."""
    hall = Hall(limit=2)
    hall.enqueue("a", "b", "c", "d")
    assert hall.move() == ["a", "b"]
    assert hall.move() == []
    assert hall.board.waiting == 2
    assert hall.board.is_full
    hall.release("a")
    assert hall.move() == ["c"]
    hall.release("b")
    hall.release("c")
    assert hall.move() == ["d"]
    assert not hall.board.is_full


@pytest.mark.parametrize("rank", Rank)
def test_who_joins_an_empty_line_is_looked_at(rank: Rank) -> None:
    """with all places held, that the board is to look again is said to the first in the line."""
    hall = Hall(limit=1)
    hall.enqueue("holds the place")
    hall.move()
    first, second = hall.item("first"), hall.item("second")
    assert hall.board.enqueue(first, rank, 1, 0)
    assert not hall.board.enqueue(second, rank, 1, 0)
    hall.board.withdraw(first)
    assert not hall.board.enqueue(first, rank, 1, 0)
    hall.board.withdraw(first)
    hall.board.withdraw(second)
    assert hall.board.enqueue(second, rank, 1, 0)


def test_who_has_ended_gives_its_place_to_the_next() -> None:
    """the next one is told at once, if there is one; who held no place gives none."""
    hall = Hall()
    hall.enqueue("a", "b")
    hall.move()
    hall.enqueue("c", delay=1)
    assert hall.move(1) == ["c"]
    assert hall.board.take_next(2, hall.item("c")) is None
    assert hall.board.take_next(3, hall.item("a")) is hall.item("b")
    assert hall.item("b")._since == 3
    assert hall.board.take_next(4, hall.item("b")) is None
    assert not hall.board.is_full


def test_the_wait_for_room_begins_anew_with_the_line() -> None:
    """a line that all have left has waited for nothing: the next one waits for as long."""
    hall = Hall()
    hall.others.free = 0
    hall.enqueue("leaves")
    hall.move(0)
    hall.board.withdraw(hall.item("leaves"))
    hall.now = 20
    hall.enqueue("comes")
    assert hall.move() == []
    assert hall.board.next_time() == 20 + ROOM_PATIENCE
    assert hall.move(20 + ROOM_PATIENCE) == ["comes"]


def test_the_limit_can_change() -> None:
    """a higher limit lets more begin at once; under a lower one nobody begins until it holds."""
    hall = Hall(limit=1)
    hall.enqueue(*"abcde")
    assert hall.move() == ["a"]
    hall.board.limit = 3
    assert hall.move() == ["b", "c"]
    hall.board.limit = 1
    hall.release("a")
    hall.release("b")
    assert hall.move() == []
    hall.release("c")
    assert hall.move() == ["d"]


def test_overtime_gives_its_place_away() -> None:
    """what has run for 60 seconds stops holding its place, also if it is released much later."""
    hall = Hall()
    hall.enqueue("long", "next", "last")
    hall.move()
    assert hall.board.next_time() == OVERTIME
    assert hall.move(OVERTIME - 0.5) == []
    assert hall.move(OVERTIME) == ["next"]
    hall.release("long")
    assert hall.move() == []
    hall.release("next")
    assert hall.move() == ["last"]


def test_overtime_counts_for_each() -> None:
    """with several places only those that have run for too long lose theirs."""
    hall = Hall(limit=2)
    hall.enqueue("a")
    hall.move(0)
    hall.enqueue("b", "c", "d")
    assert hall.move(30) == ["b"]
    assert hall.board.next_time() == 60
    assert hall.move(60) == ["c"]
    assert hall.board.next_time() == 90
    assert hall.move(90) == ["d"]


@pytest.mark.parametrize("now", [0.1, 1000000000.0, 101.842, 120.919, 68.068])
def test_what_is_due_at_a_time_moves_at_that_time(now: float) -> None:
    """at the very moment that next_time names, the board moves: nobody is woken in vain."""
    hall = Hall()
    hall.now = now
    hall.enqueue("long", "short of patience", delay=0.3)
    hall.move()
    assert hall.move(hall.board.next_time()) == ["short of patience"]
    hall.enqueue("next", delay=0)
    assert hall.board.next_time() == now + OVERTIME
    assert hall.move(hall.board.next_time()) == ["next"]


def test_who_has_waited_for_its_longest_delay_begins_whatever_runs() -> None:
    """at its limit an item begins, and holds no place: the others are not delayed by it."""
    hall = Hall()
    hall.enqueue("runs")
    hall.move()
    hall.enqueue("patient", delay=0)
    hall.enqueue("impatient", delay=10)
    assert hall.board.next_time() == 10
    assert hall.move(9.9) == []
    assert hall.move(10) == ["impatient"]
    hall.release("runs")
    assert hall.move() == ["patient"]


def test_a_delay_of_zero_is_none() -> None:
    """a delay of 0 never makes anybody begin."""
    hall = Hall()
    hall.board.limit = 1
    hall.enqueue("runs", "waits", delay=0)
    hall.move()
    hall.release("runs")
    hall.enqueue("first", rank=Rank.FRONT)
    assert hall.move() == ["first"]
    assert hall.board.next_time() == OVERTIME


def test_the_delay_of_a_waiting_item_can_change() -> None:
    """a new delay counts from when the item joined; one that is over already takes effect."""
    hall = Hall()
    hall.enqueue("runs", "waits")
    hall.move(0)
    hall.board.set_delay(hall.item("waits"), 20)
    assert hall.board.next_time() == 20
    hall.board.set_delay(hall.item("waits"), 40)
    assert hall.move(30) == []
    hall.board.set_delay(hall.item("waits"), 25)
    assert hall.move(30) == ["waits"]


def test_a_delay_that_is_set_anew_begins_nobody_twice() -> None:
    """setting the delay to what it was doesn't make the item begin twice."""
    hall = Hall()
    hall.enqueue("runs", "waits")
    hall.move(0)
    hall.enqueue("impatient", delay=1)
    assert hall.move(1) == ["impatient"]
    hall.board.set_delay(hall.item("waits"), DELAY)
    hall.board.limit = 1
    hall.board._places[hall.item("runs")] = 170.0  # no overtime meanwhile
    assert hall.move(DELAY) == ["waits"]


def test_who_leaves_and_comes_back_with_the_same_limit_begins_once() -> None:
    """an item that left and joined again, with its limit at the same moment, begins once."""
    hall = Hall()
    hall.enqueue("runs", "waits", delay=50)
    hall.enqueue("impatient", delay=1)
    hall.move(0)
    assert hall.move(1) == ["impatient"]
    hall.board.withdraw(hall.item("waits"))
    hall.now = 20
    hall.enqueue("waits", delay=30)
    assert hall.move(50) == ["waits"]


def test_joining_again_keeps_the_time_of_joining() -> None:
    """who is in the line already keeps its limit when it joins again."""
    hall = Hall()
    hall.enqueue("runs", "waits", delay=50)
    hall.move()
    hall.now = 40
    hall.enqueue("waits", rank=Rank.PRIORITIZED, delay=50)
    assert hall.move(50) == ["waits"]


def test_withdrawn_items_neither_begin_nor_wake() -> None:
    """who was withdrawn doesn't begin, by its turn or by its limit, and nothing is due."""
    hall = Hall()
    hall.enqueue("runs", "withdrawn", delay=10)
    hall.move()
    hall.board.withdraw(hall.item("withdrawn"))
    hall.board.withdraw(hall.item("withdrawn"))
    assert hall.board.waiting == 0
    assert hall.move(20) == []
    hall.release("runs")
    assert hall.move(100) == []
    assert hall.board.next_time() == math.inf


def test_what_is_due_joins_the_line() -> None:
    """each due item is handed over once; the earliest ends up at the front."""
    hall = Hall()
    hall.enqueue("plain")
    for when, name in [(5, "second"), (4, "first"), (9, "later")]:
        hall.board.agenda.add(hall.item(name), when)
    assert hall.board.scheduled == 3
    assert hall.board.next_time() == 4
    assert hall.move(5) == ["first"]
    assert sorted(hall.came_due) == ["first", "second"]
    hall.release("first")
    assert hall.move() == ["second"]
    hall.release("second")
    assert hall.move() == ["plain"]
    assert hall.board.scheduled == 1


def test_an_item_is_due_at_one_time() -> None:
    """scheduling replaces the time; unscheduling takes it away, also twice."""
    hall = Hall()
    hall.board.agenda.add(hall.item("a"), 5)
    hall.board.agenda.add(hall.item("a"), 8)
    assert hall.board.scheduled == 1
    assert hall.move(7) == []
    assert hall.move(8) == ["a"]
    hall.release("a")
    hall.board.agenda.add(hall.item("a"), 10)
    hall.board.agenda.drop(hall.item("a"))
    hall.board.agenda.drop(hall.item("a"))
    assert hall.board.scheduled == 0
    assert hall.move(20) == []


def test_the_line_waits_for_room_for_thirty_seconds() -> None:
    """without room nobody begins, for at most 30 seconds; then one begins, and so on."""
    hall = Hall(limit=2)
    hall.others.free = 0
    hall.enqueue("a", "b", delay=0)
    assert hall.move(0) == []
    assert hall.board.next_time() == ROOM_PATIENCE
    assert hall.move(29.9) == []
    assert hall.move(30) == ["a"]
    assert hall.board.next_time() == 60
    assert hall.move(59) == []
    assert hall.move(60) == ["b"]


def test_room_ends_the_wait() -> None:
    """as soon as there is room the line goes on, and a later lack of it counts from then on."""
    hall = Hall(limit=3)
    hall.others.free = 0
    hall.enqueue("a", "b", delay=0)
    hall.move(0)
    hall.others.free = 1
    assert hall.move(10) == ["a", "b"]
    hall.others.free = 0
    hall.enqueue("c", delay=0)
    assert hall.move(20) == []
    assert hall.board.next_time() == 50
    assert hall.move(50) == ["c"]


def test_the_longest_delay_goes_before_room() -> None:
    """who has waited for its longest delay begins without room, too."""
    hall = Hall()
    hall.others.free = 0
    hall.enqueue("a", delay=10)
    hall.move(0)
    assert hall.move(10) == ["a"]


def test_an_empty_line_is_not_waiting_for_room() -> None:
    """time that passes while nobody is in the line doesn't count as waiting for room."""
    hall = Hall()
    hall.others.free = 0
    hall.move(0)
    hall.move(100)
    hall.enqueue("a", delay=0)
    assert hall.move(100) == []
    assert hall.board.next_time() == 130


def test_nobody_who_waits_is_forgotten_when_the_line_empties() -> None:
    """when all who waited for room were withdrawn, the next one waits its full time."""
    hall = Hall()
    hall.others.free = 0
    hall.enqueue("a", delay=0)
    hall.move(0)
    hall.board.withdraw(hall.item("a"))
    hall.move(5)
    hall.enqueue("b", delay=0)
    assert hall.move(20) == []
    assert hall.move(49) == []
    assert hall.move(50) == ["b"]


# --- the board against a plain model -------------------------------------------------------


class Model:
    """The rules of the board once more, written for being read: lists, and a look at everything."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = 0.0
        self.prioritized: list[str] = []
        self.plain: list[str] = []
        self.joined: dict[str, float] = {}
        self.delay: dict[str, float] = {}
        self.due: dict[str, float] = {}
        self.due_order: list[str] = []
        self.running: dict[str, float] = {}
        self.places: dict[str, float] = {}

    @property
    def line(self) -> list[str]:
        return self.prioritized + self.plain

    def schedule(self, name: str, when: float) -> None:
        self.unschedule(name)
        self.due[name] = when
        self.due_order.append(name)

    def unschedule(self, name: str) -> None:
        if self.due.pop(name, None) is not None:
            self.due_order.remove(name)

    def enqueue(self, name: str, rank: Rank, delay: float) -> None:
        if name not in self.line:
            self.joined[name], self.delay[name] = self.now, delay
        elif rank is Rank.PLAIN or (rank is Rank.PRIORITIZED and name in self.prioritized):
            return
        self.leave(name)
        if rank is Rank.PLAIN:
            self.plain.append(name)
        elif rank is Rank.PRIORITIZED:
            self.prioritized.append(name)
        else:
            self.prioritized.insert(0, name)

    def leave(self, name: str) -> None:
        for queue in (self.prioritized, self.plain):
            if name in queue:
                queue.remove(name)

    def limit_of(self, name: str) -> float:
        return self.joined[name] + self.delay[name] if self.delay[name] else math.inf

    def move(self) -> list[str]:
        due = [name for name in self.due_order if self.due[name] <= self.now]
        for name in sorted(due, key=lambda name: self.due[name])[::-1]:
            self.unschedule(name)
            if name not in self.running:
                self.enqueue(name, Rank.FRONT, DELAY)
        begun = []
        impatient = [name for name in self.line if self.limit_of(name) <= self.now]
        for name in impatient:
            self.leave(name)
            self.running[name] = self.now
            begun.append(name)
        while self.line and self.has_place():
            name = self.line[0]
            self.leave(name)
            self.running[name] = self.places[name] = self.now
            begun.append(name)
        return begun

    def has_place(self) -> bool:
        while len(self.places) >= self.limit:
            oldest = min(self.places, key=lambda name: self.places[name])
            if self.now < self.places[oldest] + OVERTIME:
                return False
            del self.places[oldest]
        return True

    def release(self, name: str) -> None:
        del self.running[name]
        self.places.pop(name, None)


NAMES = st.sampled_from("abcdefgh")
TIMES = st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 30.0, 61.0])
DELAYS = st.sampled_from([0.0, 0.0, 2.0, 3.0, 5.0, 60.0])
CROWD = st.lists(NAMES, min_size=1, max_size=6, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("enqueue"), CROWD, st.sampled_from(list(Rank)), DELAYS),
    st.tuples(st.just("enqueue"), CROWD, st.just(Rank.PLAIN), st.just(0.0)),
    st.tuples(st.just("delay"), NAMES, DELAYS),
    st.tuples(st.just("withdraw"), NAMES),
    st.tuples(st.just("schedule"), NAMES, TIMES),
    st.tuples(st.just("unschedule"), NAMES),
    st.tuples(st.just("release"), NAMES),
    st.tuples(st.just("limit"), st.sampled_from([1, 1, 1, 2, 3])),
    st.tuples(st.just("pass"), TIMES),
    st.tuples(st.just("next")),
)


class Pair:
    """A board and its model, which have to agree after each step."""

    def __init__(self, limit: int) -> None:
        self.model = Model(limit)
        self.hall = Hall(limit)
        # As the owner of a board does it: what runs doesn't join the line.
        self.hall.board._came_due = self._due
        self.executions: dict[str, int] = {}

    def _due(self, items: list[Item], now: float) -> None:
        running = self.model.running
        self.hall._due([item for item in items if self.hall.names[id(item)] not in running], now)

    def do(self, what: str, *args: Any) -> None:
        getattr(self, f"do_{what}")(*args)
        self.settle()

    def do_enqueue(self, names: list[str], rank: Rank, delay: float) -> None:
        for name in names:
            if name not in self.model.running:
                self.hall.enqueue(name, rank=rank, delay=delay)
                self.model.enqueue(name, rank, delay)

    def do_delay(self, name: str, delay: float) -> None:
        if name in self.model.line:
            self.hall.board.set_delay(self.hall.item(name), delay)
            self.model.delay[name] = delay

    def do_withdraw(self, name: str) -> None:
        self.hall.board.withdraw(self.hall.item(name))
        self.model.leave(name)

    def do_schedule(self, name: str, after: float) -> None:
        self.hall.board.agenda.add(self.hall.item(name), self.hall.now + after)
        self.model.schedule(name, self.model.now + after)

    def do_unschedule(self, name: str) -> None:
        self.hall.board.agenda.drop(self.hall.item(name))
        self.model.unschedule(name)

    def do_release(self, name: str) -> None:
        if name in self.model.running:
            self.hall.release(name)
            self.model.release(name)

    def do_limit(self, limit: int) -> None:
        self.hall.board.limit = self.model.limit = limit

    def do_pass(self, seconds: float) -> None:
        self.until(self.hall.now + seconds)

    def do_next(self) -> None:
        when = self.hall.board.next_time()
        self.until(when if when < math.inf else self.hall.now)

    def until(self, when: float) -> None:
        """Let time pass as a timer would: from one moment that the board names to the next."""
        while (following := self.hall.board.next_time()) < when:
            assert following >= self.hall.now
            self.hall.now = self.model.now = following
            self.settle()
        self.hall.now = self.model.now = when

    def settle(self) -> None:
        expected = set(self.model.running)
        begun, wanted = self.hall.move(), self.model.move()
        assert sorted(begun) == sorted(wanted)
        assert not expected & set(begun), "something runs twice"
        assert self.hall.board.waiting == len(self.model.line)
        assert self.hall.board.scheduled == len(self.model.due)
        assert self.hall.board.agenda.size <= 2 * len(self.model.due) + 70
        assert self.by_turn(begun) == self.by_turn(wanted)
        assert self.hall.board.next_time() > self.hall.now

    def by_turn(self, names: Iterable[str]) -> list[str]:
        """Those that began because it was their turn, not because of their limit."""
        return [name for name in names if name in self.model.places]


@given(st.sampled_from([1, 1, 2]), st.lists(STEPS, min_size=20, max_size=80))
@settings(max_examples=EXAMPLES)
def test_the_board_follows_its_rules(limit: int, steps: list[Any]) -> None:
    """whatever is done, it begins the same as a model that looks at everything, at the same time.

    Between two moments that it names nothing is left to do: the model is only asked then.
    """
    pair = Pair(limit)
    for what, *args in steps:
        pair.do(what, *args)
    for name in list(pair.model.running):
        pair.do("release", name)


def test_the_model_finds_a_board_without_overtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """the comparison is worth something: a board that keeps its places for ever is found out."""
    monkeypatch.setattr(Board, "_overtime_gives_way", lambda *_: False)
    pair = Pair(1)
    pair.do("enqueue", ["a", "b"], Rank.PLAIN, 0.0)
    pair.hall.now = pair.model.now = 61.0
    with pytest.raises(AssertionError):
        pair.settle()
