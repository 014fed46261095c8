"""Faults and plans as values: what they accept, how they are written and read, what is drawn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import trio

from trio_modules import App, Module
from trio_modules.testing import (
    Fault,
    FaultPlan,
    crash,
    deaf,
    fail,
    hang,
    inject,
    slow,
    targets_of,
)
from trio_modules.testing._faults import parse_fault


async def work(*_: object) -> None:
    await trio.lowlevel.checkpoint()


def service() -> App:
    """An app that declares something of each kind."""
    store = Module("store", prep=work, start=work, stop=work)
    shop = Module("shop", depends_on=[store])
    changed = store.event("changed", int)

    @store.lifespan
    async def pool() -> AsyncIterator[int]:
        yield 1

    store.worker(work, name="once")
    store.service_worker(work, name="poll")
    store.every(10, work, name="beat")
    store.task(work, name="tidy", every=60)
    shop.hook(changed, work, name="count")
    return App(store, shop, name="service")


@pytest.mark.parametrize(
    "fault",
    [
        fail("store/worker:poll"),
        fail("store/worker", OSError, call=3),
        fail("store/worker", at=0.5, lasts=20),
        hang("store/start", at=1.0),
        deaf("store/worker:poll", 5.0, at=1.0),
        slow("store/hook:x y", 2.5, call=1),
        crash("store", at=10.0),
        crash("store/task:tidy", KeyboardInterrupt, at=10.0, lasts=3.5),
    ],
)
def test_a_fault_is_read_as_it_is_written(fault: Fault) -> None:
    """what str shows of a fault makes the same fault."""
    assert parse_fault(str(fault)) == fault


@pytest.mark.parametrize(
    "text",
    [
        "fail",
        "fail(",
        "explode('store/worker')",
        "fail(store)",
        "fail('store/worker', open)",
        "fail('store/worker', NoSuchError)",
        "fail('store/worker', at=__import__('os'))",
        "",
    ],
)
def test_what_is_no_fault_is_an_error(text: str) -> None:
    """text that isn't a call with plain values is refused, and nothing of it is run."""
    with pytest.raises(ValueError, match=r"a fault looks like .*, got"):
        parse_fault(text)


def test_wrong_arguments_of_a_written_fault_are_an_error() -> None:
    """the maker's complaint names the text."""
    with pytest.raises(ValueError, match=r"in \"slow\('store/worker'\)\": .*seconds"):
        parse_fault("slow('store/worker')")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fail(""), "target must be 'module'"),
        (lambda: fail("store/nap"), "with a kind of prep, start.*got 'store/nap'"),
        (lambda: fail("store/"), "target must be"),
        (lambda: fail("store"), "must name what is to fail, as in 'store/worker:name'"),
        (lambda: crash("store"), "a crash of module 'store' as such needs at"),
        (lambda: crash("store", at=1, lasts=1), "needs at, and nothing else"),
        (lambda: fail("store/worker", call=0), "call must be at least 1, got 0"),
        (lambda: fail("store/worker", call=True), "call must be at least 1, got True"),
        (lambda: fail("store/worker", at=-1), "at must be .* from 0 on, got -1"),
        (lambda: fail("store/worker", at=float("nan")), "at must be .*, got nan"),
        (lambda: slow("store/worker", float("inf")), "seconds must be .*, got inf"),
        (lambda: fail("store/worker", lasts=5), "lasts needs at, got 5 alone"),
        (lambda: fail("store/worker", call=1, at=5), "only one of call and at.*got 1 and 5"),
        (lambda: fail("store/worker", 42), "error must be an exception's class.*, got 42"),  # type: ignore[arg-type]
    ],
)
def test_a_fault_that_cannot_be_is_an_error(make: Callable[[], Fault], message: str) -> None:
    """wrong targets, times and counts are found when the fault is made, and shown."""
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_what_can_be_struck_is_what_is_declared() -> None:
    """the targets of an app are its lifecycle functions and its declared work."""
    assert targets_of(service()) == [
        "store/prep:work",
        "store/enter:pool",
        "store/leave:pool",
        "store/start:work",
        "store/worker:once",
        "store/worker:poll",
        "store/worker:beat",
        "store/task:tidy",
        "store/stop:work",
        "shop/hook:count",
    ]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (fail("stor/worker"), r"'service' has no module 'stor' for .*did you mean 'store'\?"),
        (fail("store/worker:pol"), r"declares no 'worker:pol' .*did you mean 'store/worker:poll'"),
        (fail("shop/worker"), "module 'shop' declares no 'worker'"),
        (crash("nobody", at=1), "has no module 'nobody'"),
    ],
)
async def test_what_is_not_there_cannot_be_struck(fault: Fault, message: str) -> None:
    """a fault that names an unknown module or function is an error at once, with the near miss."""
    with pytest.raises(ValueError, match=message):
        async with inject(service(), fault):
            raise AssertionError("the block must not run")


# ---------------------------------------------------------------- plans


def test_a_seed_draws_the_same_faults() -> None:
    """a plan takes all chance from the seed."""
    plan = FaultPlan(every=100)
    drawn = [plan.draw(service(), seed, 10_000) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 60 < len(drawn[0]) < 120


def test_random_faults_leave_a_calm_and_what_has_one_chance() -> None:
    """no random fault begins in the last part, or strikes a prep or the end of a lifespan."""
    drawn = FaultPlan(every=10, calm=0.5).draw(service(), 3, 10_000)
    assert all(fault.at is not None and fault.at < 5000 for fault in drawn)
    assert {fault.action for fault in drawn} == {"fail", "hang", "deaf", "slow", "crash"}
    struck = {fault.target.partition(":")[0] for fault in drawn}
    assert struck == {
        "store/enter", "store/start", "store/worker", "store/task", "store/stop", "shop/hook",
        "store", "shop",
    }  # fmt: skip


def test_a_plan_strikes_what_its_patterns_fit() -> None:
    """patterns choose the targets, those that have one chance included."""
    drawn = FaultPlan(every=10, targets="store/[pl]*", actions="fail").draw(service(), 3, 1000)
    assert {fault.target for fault in drawn} == {"store/prep:work", "store/leave:pool"}


def test_named_faults_come_with_random_ones_or_alone() -> None:
    """every=None draws nothing."""
    named = fail("store/start", call=1)
    assert FaultPlan(every=None, faults=[named]).draw(service(), 1, 1e6) == (named,)
    drawn = FaultPlan(faults=[named]).draw(service(), 1, 1e6)
    assert drawn[0] is named
    assert len(drawn) > 100


def test_a_plan_is_written_as_it_was_made() -> None:
    """what isn't the default is shown, so that it can be pasted."""
    assert str(FaultPlan()) == "FaultPlan()"
    plan = FaultPlan(every=60, faults=[fail("store/start", call=1)])
    assert str(plan) == "FaultPlan(every=60, faults=[fail('store/start', call=1)])"


def test_a_fault_of_a_plan_is_written_shortly() -> None:
    """a drawn fault can be pasted into a test."""
    (first, *_) = FaultPlan(actions=("fail",), targets="*/hook:*").draw(service(), 1, 1e6)
    assert str(first).startswith("fail('shop/hook:count', at=")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FaultPlan(every=0), "every must be .* above 0, got 0"),
        (lambda: FaultPlan(every=float("nan")), "every must be .*, got nan"),
        (lambda: FaultPlan(actions=["explode"]), "actions must be some of fail, .*got 'explode'"),
        (lambda: FaultPlan(outage=(5, 1)), r"outage must be a range of seconds, got \(5, 1\)"),
        (lambda: FaultPlan(calm=1), "calm must be from 0 to below 1, got 1"),
    ],
)
def test_a_plan_that_cannot_be_is_an_error(make: Callable[[], FaultPlan], message: str) -> None:
    """wrong numbers and names are found when the plan is made, and shown."""
    with pytest.raises(ValueError, match=message):
        make()


def test_a_plan_of_something_else_is_an_error() -> None:
    """what isn't a fault is shown."""
    with pytest.raises(TypeError, match=r"faults must be made by .*, got 'store'"):
        FaultPlan(faults=["store"])  # type: ignore[list-item]


def test_a_pattern_that_fits_nothing_is_an_error() -> None:
    """a plan for something that isn't there names what is."""
    with pytest.raises(ValueError, match=r"targets must fit .*got 'stor/\*'; it has store/prep"):
        FaultPlan(targets=["stor/*"]).draw(service(), 1, 100)
