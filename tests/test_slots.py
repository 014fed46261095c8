"""The slots as pure logic: who holds one, who is next, and who has waited for too long."""

from __future__ import annotations

import math

import pytest

from trio_modules._slots import Priority, SlotOrder, Waiter

HIGH, MEDIUM, LOW = Priority.HIGH, Priority.MEDIUM, Priority.LOW


class Named(Waiter):
    """A waiter that writes its name down when it is let in."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.name = name
        self.log = log

    def grant(self) -> None:
        self.log.append(self.name)


class Scene:
    """An order with waiters that have names, and the names of those that were let in."""

    def __init__(self, limit: int, held: int = 0) -> None:
        self.order = SlotOrder(limit)
        self.let_in: list[str] = []
        for _ in range(held):
            assert self.order.enter(HIGH)

    def wait(
        self, name: str, priority: Priority = MEDIUM, now: float = 0.0, patience: float = 3.0
    ) -> Named:
        waiter = Named(name, self.let_in)
        assert not self.order.enter(priority)
        self.order.wait(waiter, priority, now, patience)
        return waiter


def test_the_priorities_have_the_patience_of_the_contract() -> None:
    """HIGH doesn't wait, MEDIUM waits for 3 seconds and LOW for 15."""
    assert {each: each.patience for each in Priority} == {HIGH: 0, MEDIUM: 3, LOW: 15}


def test_a_waiter_has_to_say_what_a_grant_does() -> None:
    """a waiter without a `grant` of its own is a mistake."""
    with pytest.raises(NotImplementedError):
        Waiter().grant()


@pytest.mark.parametrize("priority", Priority)
def test_a_free_slot_is_taken_at_once(priority: Priority) -> None:
    """while a slot is free everybody gets it at once."""
    order = SlotOrder(1)
    assert order.has_room()
    assert order.enter(priority)
    assert order.held == 1
    assert not order.has_room()


def test_without_a_free_slot_only_high_enters() -> None:
    """without a free slot HIGH enters and counts, the others don't."""
    order = SlotOrder(1)
    assert order.enter(HIGH)
    assert not order.enter(MEDIUM)
    assert not order.enter(LOW)
    assert order.held == 1
    assert order.enter(HIGH)
    assert order.held == 2


def test_medium_is_let_in_before_low_each_first_come_first_served() -> None:
    """a slot that comes back goes to MEDIUM before LOW, in each to who came first."""
    scene = Scene(1, held=1)
    for name, priority in (("l1", LOW), ("m1", MEDIUM), ("l2", LOW), ("m2", MEDIUM)):
        scene.wait(name, priority)
    assert scene.order.waiting == 4
    for _ in range(4):
        scene.order.leave()
        assert scene.order.held == 1
    assert scene.let_in == ["m1", "m2", "l1", "l2"]
    assert scene.order.waiting == 0


def test_what_is_held_above_the_limit_lets_nobody_in_when_it_comes_back() -> None:
    """while more slots are held than there are, one that comes back is nobody's."""
    scene = Scene(2, held=4)
    scene.wait("a")
    scene.order.leave()
    scene.order.leave()
    assert scene.let_in == []
    scene.order.leave()
    assert scene.let_in == ["a"]
    assert scene.order.held == 2


def test_who_gives_up_is_not_let_in() -> None:
    """a waiter that gave up is passed over, and the slot goes to the next."""
    scene = Scene(1, held=1)
    first = scene.wait("a")
    scene.wait("b")
    scene.order.give_up(first)
    assert scene.order.waiting == 1
    scene.order.leave()
    assert scene.let_in == ["b"]
    assert scene.order.held == 1


def test_who_gave_up_loses_no_patience() -> None:
    """a waiter that gave up isn't let in when its time is over."""
    scene = Scene(1, held=1)
    scene.order.give_up(scene.wait("a"))
    scene.order.lose_patience(1000)
    assert scene.let_in == []
    assert scene.order.held == 1


def test_patience_ends_at_its_time_and_not_before() -> None:
    """a waiter is let in without a free slot when exactly its patience has passed."""
    scene = Scene(1, held=1)
    scene.wait("a", now=10, patience=3)
    assert scene.order.next_time == 13
    scene.order.lose_patience(12.999)
    assert scene.let_in == []
    scene.order.lose_patience(13)
    assert scene.let_in == ["a"]
    assert scene.order.held == 2
    assert scene.order.next_time == math.inf


def test_the_impatient_are_let_in_by_their_limits() -> None:
    """those whose patience is over are let in by their limits, whatever their priority."""
    scene = Scene(1, held=1)
    scene.wait("late", MEDIUM, patience=3)
    scene.wait("early", LOW, patience=1)
    scene.wait("never", MEDIUM, patience=math.inf)
    scene.order.lose_patience(5)
    assert scene.let_in == ["early", "late"]
    assert scene.order.waiting == 1
    assert scene.order.held == 3


def test_waiting_says_whether_somebody_has_to_be_woken_earlier() -> None:
    """`wait` tells whether the next limit is earlier than it was."""
    order = SlotOrder(1)
    order.enter(HIGH)
    log: list[str] = []
    assert order.wait(Named("a", log), MEDIUM, 0, 3)
    assert not order.wait(Named("b", log), LOW, 0, 15)
    assert not order.wait(Named("c", log), MEDIUM, 0, 3)
    assert order.wait(Named("d", log), LOW, 1, 1)
    assert not order.wait(Named("e", log), LOW, 1, math.inf)
    assert order.next_time == 2


def test_a_higher_limit_lets_the_next_in_at_once() -> None:
    """raising the limit lets in as many as there are new slots."""
    scene = Scene(1, held=1)
    for name in "abc":
        scene.wait(name)
    scene.order.limit = 3
    assert scene.let_in == ["a", "b"]
    assert scene.order.held == scene.order.limit == 3


def test_a_lower_limit_takes_no_slot_away() -> None:
    """lowering the limit only lets nobody in until fewer are held."""
    scene = Scene(3, held=3)
    scene.wait("a")
    scene.order.limit = 1
    assert scene.order.held == 3
    scene.order.leave()
    scene.order.leave()
    assert scene.let_in == []
    scene.order.leave()
    assert scene.let_in == ["a"]


def test_everybody_is_let_in_and_nobody_waits_afterwards() -> None:
    """`let_everybody_in` empties the line, MEDIUM first, and everybody enters from then on."""
    scene = Scene(1, held=1)
    scene.wait("l", LOW)
    scene.wait("m", MEDIUM)
    scene.order.let_everybody_in()
    assert scene.let_in == ["m", "l"]
    assert scene.order.enter(LOW)
    assert scene.order.held == 4


def test_room_is_told_when_a_slot_is_free_and_nobody_waits() -> None:
    """`on_room` is called for a free slot that no waiter takes, and for no other."""
    scene = Scene(1, held=2)
    told: list[int] = []
    scene.order.on_room = lambda: told.append(scene.order.held)
    scene.wait("a")
    scene.order.leave()  # still one above the limit
    scene.order.leave()  # a has it
    assert told == []
    scene.order.leave()
    assert told == [0]


def test_room_is_told_when_the_limit_makes_some() -> None:
    """`on_room` is called when a new limit leaves a slot free."""
    scene = Scene(1, held=1)
    told: list[int] = []
    scene.order.on_room = lambda: told.append(scene.order.limit)
    scene.wait("a")
    scene.order.limit = 2
    assert told == []
    scene.order.limit = 3
    assert told == [3]


def test_those_who_gave_up_leave_no_memory_behind() -> None:
    """a hundred thousand who gave up are forgotten while one goes on waiting."""
    scene = Scene(1, held=1)
    scene.wait("stays", LOW, patience=15)
    for _ in range(100_000):
        scene.order.give_up(scene.wait("x", MEDIUM, patience=20))
    assert len(scene.order._patience._noted) < 1000
    assert scene.order.next_time == 15
