"""Simulations: they find planted bugs, make them small, and do the same for the same seed."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import simulated
import trio
from simulated import DAY, HOUR, Shop
from support import ctrl_c_raises

from trio_modules import App, Module, ModuleStatus, _lifecycle
from trio_modules._life import Life
from trio_modules._reporting import Reporter
from trio_modules._services import RestartGate
from trio_modules._state import decide
from trio_modules._workers import Guest, Workers
from trio_modules.testing import (
    FaultNotMet,
    FaultPlan,
    NotDeterministic,
    RealIO,
    SimulationError,
    SimulationFailed,
    SimulationResult,
    crash,
    deaf,
    fail,
    hang,
    simulate,
    slow,
)
from trio_modules.testing import _watch as watch_room

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

GOLDEN = Path(__file__).parent / "golden_trace.txt"
NO_FAULTS = FaultPlan(every=None)
SOURCE = r".*simulated\.py:\d+"


def first_failing() -> SimulationResult:
    """The first failure of ten seeds of a shop that forgets its connections."""
    plan = FaultPlan(every=600, targets="orders/*")
    results = (
        simulate(simulated.forgetful, seed=seed, duration=DAY, faults=plan) for seed in range(10)
    )
    return next(result for result in results if not result.ok)


def rule_of(make_app: Callable[[], App], faults: FaultPlan = NO_FAULTS) -> str:
    """The promise that a service breaks, "" for none."""
    result = simulate(make_app, duration=DAY, faults=faults, shrink=False)
    return result.violations[0].rule if result.violations else ""


# ---------------------------------------------------------------- a sound service


@pytest.mark.parametrize("seed", range(5))
def test_a_sound_service_breaks_no_promise(seed: int) -> None:
    """with faults of all kinds in all of its functions it fails, restarts and comes back."""
    result = simulate(simulated.sound, seed=seed, duration=DAY, faults=FaultPlan(every=600))
    result.assert_ok()
    assert result.ok
    assert result.shrunk is None
    assert result.time >= DAY
    assert min(result.strikes, result.restarts, result.reports) > 30
    assert result.checks > result.steps / 1024
    assert f"seed {seed}: no promise broken in" in str(result)


def test_the_same_seed_gives_the_same_trace() -> None:
    """byte by byte, and another seed gives another."""
    traces = [simulate(simulated.sound, seed=seed).trace_text for seed in (1, 1, 2)]
    assert traces[0] == traces[1] != traces[2]


def test_the_trace_is_the_same_everywhere() -> None:
    """on every Python that is supported, a seed has the trace that is kept with the tests."""
    plan = FaultPlan(every=1200, calm=0.3)
    result = simulate(simulated.sound, seed=1, duration=2 * HOUR, faults=plan)
    assert result.trace_text == GOLDEN.read_text()


def test_the_order_of_tasks_comes_from_the_seed() -> None:
    """what runs at the same time runs in another order for another seed."""

    def racing() -> App:
        modules = [Module(name) for name in "abcdef"]
        for module in modules:
            module.on_start(trio.lowlevel.checkpoint)
        return App(*modules)

    traces = {
        simulate(racing, seed=seed, duration=10, faults=NO_FAULTS).trace_text for seed in range(5)
    }
    assert len(traces) > 1


def test_nothing_of_a_simulation_stays() -> None:
    """the app's own chance and epoch are as before, and others schedule as before."""
    shop = Shop()
    state, epoch = shop.app.rng.getstate(), shop.app.epoch
    simulate(lambda: shop.app, duration=100, faults=NO_FAULTS)
    assert (shop.app.rng.getstate(), shop.app.epoch) == (state, epoch)


def test_an_app_that_dies_of_a_fault_is_entered_again() -> None:
    """as whoever supervises processes would do, after a pause; its faults go on."""
    result = simulate(
        simulated.sound,
        duration=HOUR,
        faults=[fail("store/start:migrate", call=1), fail("store/enter", call=2)],
    )
    result.assert_ok()
    starts = [entry.time for entry in result.trace if entry.text == "enter _pool"]
    assert starts == [0, 10.1, 20.1]


def test_a_service_may_end_of_its_own_accord() -> None:
    """one that shuts down in order has ended."""
    result = simulate(simulated.ending, duration=DAY, faults=NO_FAULTS)
    assert (result.ok, result.time) == (True, 100)


def test_a_context_manager_brings_fakes() -> None:
    """make_app may yield the app, with something around it."""
    result = simulate(simulated.arranged, duration=HOUR, faults=NO_FAULTS)
    assert result.ok
    assert [entry.text for entry in result.trace if "pool" in entry.text] == [
        "enter _pool", "enter _pool returned", "leave _pool", "leave _pool returned",
    ]  # fmt: skip


def test_a_part_of_the_service_is_simulated() -> None:
    """only names what is started, beside what that needs."""
    result = simulate(simulated.sound, duration=HOUR, only=["orders"], faults=NO_FAULTS)
    assert {entry.module for entry in result.trace} == {"", "store", "orders"}


def test_wall_time_begins_in_the_same_moment() -> None:
    """without an epoch of the app's own the wall clock shows the same in every simulation."""
    seen: list[str] = []
    app = App(Module("store"))
    simulate(
        lambda: app, duration=10, faults=NO_FAULTS, check=lambda app: seen.append(str(app.now()))
    )
    assert seen[0] == "2000-01-01 00:00:00+00:00"


# ---------------------------------------------------------------- bugs of services


def test_a_forgotten_connection_is_found_and_made_small() -> None:
    """a worker that doesn't give back when it is cancelled empties the pool in the end."""
    found = first_failing()
    assert found.violations[0].rule == "bug"
    assert "the pool is empty" in found.violations[0].text
    small = found.shrunk
    assert small is not None
    assert small.violations[0].rule == "bug"
    assert len(small.faults) < len(found.faults)
    assert len(small.faults) <= 3
    assert small.duration <= found.duration / 2
    assert small.only == ("orders",)


@pytest.mark.slow
def test_a_failure_is_replayed_by_one_line() -> None:
    """the line that is printed simulates the same, of the whole and of what was made small."""
    found = first_failing()
    assert found.shrunk is not None
    names = {"forgetful": simulated.forgetful} | {
        maker.__name__: maker for maker in (simulate, crash, deaf, fail, hang, slow, FaultPlan)
    }
    for result in (found, found.shrunk):
        assert "\n" not in result.replay
        again: SimulationResult = eval(result.replay, dict(names))
        assert again.trace_text == result.trace_text
        assert again.violations == result.violations


def test_who_judges_is_part_of_the_line() -> None:
    """without the check, the bugs and the time to recover it would simulate something else."""

    def check(app: App) -> None:
        assert app["store"].status is not ModuleStatus.OFFLINE

    usual = simulate(simulated.sound, duration=10, faults=NO_FAULTS)
    assert usual.replay == "simulate(sound, seed=0, duration=10.0, faults=[])"
    result = simulate(
        simulated.sound,
        duration=10,
        faults=NO_FAULTS,
        check=check,
        bugs=[OSError, KeyError],
        recovers_within=None,
    )
    judges = f"check={check.__qualname__}, bugs=[OSError, KeyError], recovers_within=None"
    assert result.replay == f"simulate(sound, seed=0, duration=10.0, faults=[], {judges})"
    assert result.shrunk is not None
    assert result.shrunk.replay.endswith(f", {judges})")


def test_a_fault_without_an_occasion_is_no_success() -> None:
    """as in a test of one's own, what was to be tried was not; random ones may come too late."""
    missed = crash("store", at=999_999)
    result = simulate(simulated.sound, duration=HOUR, faults=[crash("store", at=5), missed])
    assert result.ok
    assert result.missed == (missed,)
    assert str(result).endswith(f"; no occasion for {missed}")
    with pytest.raises(FaultNotMet, match="no occasion for crash") as caught:
        result.assert_ok()
    assert caught.value.faults == (missed,)
    plan = FaultPlan(every=60, targets="*/stop:*")
    simulate(simulated.sound, duration=HOUR, faults=plan).assert_ok()


def test_what_is_logged_meanwhile_is_not_heard(caplog: pytest.LogCaptureFixture) -> None:
    """a day of outages would bury what was found; whoever wants it gets it."""
    plan = [crash("store", at=5)]
    simulate(simulated.sound, duration=HOUR, faults=plan)
    assert caplog.records == []
    simulate(simulated.sound, duration=HOUR, faults=plan, logs=True)
    assert [record.name for record in caplog.records if record.levelname == "ERROR"]


def test_a_failure_says_all_that_one_needs() -> None:
    """the error has the seed, what is wrong, the lines that replay it, and the timeline."""
    found = first_failing()
    with pytest.raises(SimulationFailed) as caught:
        found.assert_ok()
    assert found.shrunk is not None
    text = str(caught.value)
    assert caught.value.result is found
    assert text.startswith(f"seed {found.seed}: ")
    assert f"\nreplay: {found.replay}\n" in text
    assert f"\nsmaller: {found.shrunk.replay}\n" in text
    assert found.shrunk.timeline() in text


def test_a_check_is_asked_when_all_is_quiet_and_at_the_end() -> None:
    """it sees the app before the clock moves on, and once more when the block was left."""
    seen: list[tuple[float, str]] = []

    def check(app: App) -> None:
        seen.append((trio.current_time(), app.status().state))

    module = Module("store")
    module.every(10, trio.lowlevel.checkpoint, name="beat")
    simulate(lambda: App(module), duration=25, faults=NO_FAULTS, check=check)
    whole = seen[: len(seen) // 2]
    assert {time for time, _ in whole} == {0, 10, 20, 25}
    assert whole[-1] == (25, "offline")


@pytest.mark.parametrize("when", [0, 10])
def test_a_check_that_fails_is_a_violation(when: float) -> None:
    """what it raises ends the simulation at that time."""

    def check(app: App) -> None:
        if trio.current_time() >= when:
            raise LookupError("not there")

    module = Module("store")
    module.every(10, trio.lowlevel.checkpoint, name="beat")
    result = simulate(lambda: App(module), duration=25, faults=NO_FAULTS, check=check)
    (violation,) = result.violations
    assert (violation.rule, violation.error, violation.time) == ("check", "LookupError", when)
    assert str(violation).endswith("the check failed: LookupError(not there)")


def returned(value: object, _: App) -> object:
    return value


def test_a_check_may_return_false() -> None:
    """that is as good as an assert; nothing else that it returns means anything."""
    result = simulate(simulated.sound, duration=10, faults=NO_FAULTS, check=lambda _: False)
    assert str(result.violations[0]).endswith("the check returned False")
    for fine in (None, 0, True):
        check = partial(returned, fine)
        simulate(simulated.sound, duration=10, faults=NO_FAULTS, check=check).assert_ok()


def test_an_exception_that_no_outage_explains_is_a_bug() -> None:
    """a TypeError that is reported is one, and which else are can be said."""
    assert rule_of(simulated.buggy) == "bug"
    assert simulate(simulated.buggy, faults=NO_FAULTS, bugs=()).ok

    def outage() -> App:
        module = Module("store")

        @module.service_worker
        async def poll() -> None:
            await trio.sleep(1)
            raise OSError("away")

        return App(module)

    assert rule_of(outage) == ""
    result = simulate(outage, faults=NO_FAULTS, bugs=(OSError,))
    assert "a bug in 'poll' of 'store': OSError(away)" in result.violations[0].text


@pytest.mark.parametrize("stage", ["on_start", "on_stop"])
def test_an_assert_of_a_lifecycle_function_is_a_bug(stage: str) -> None:
    """it leaves the app's block as the cause of an error that names the module."""

    async def wrong() -> None:
        await trio.lowlevel.checkpoint()
        raise AssertionError("two and two")

    def asserting() -> App:
        module = Module("store")
        getattr(module, stage)(wrong)
        return App(module)

    result = simulate(asserting, duration=10, faults=NO_FAULTS)
    assert (result.violations[0].rule, result.violations[0].module) == ("bug", "store")
    assert "AssertionError(two and two)" in result.violations[0].text


def test_an_end_without_a_fault_is_a_violation() -> None:
    """a service that dies although nothing was done to it."""
    result = simulate(simulated.dying, duration=DAY)
    assert result.violations[0].rule == "exit"
    assert result.shrunk is not None
    assert (result.shrunk.duration, result.shrunk.faults) == (101, ())


@pytest.mark.slow
def test_a_service_that_does_not_come_back_is_found() -> None:
    """after the last fault there is time to recover, then all has to be online."""
    result = simulate(simulated.sulking, duration=DAY)
    (first, second) = result.violations
    assert first.rule == second.rule == "recovery"
    assert re.search("module 'store' has not recovered: it is (STARTING|OFFLINE)", first.text)
    assert "module 'shop' has not recovered: it is OFFLINE" in second.text
    assert result.shrunk is not None
    assert len(result.shrunk.faults) == 1
    assert result.shrunk.duration < 3 * HOUR
    assert simulate(simulated.sulking, duration=DAY, recovers_within=None).ok


def test_who_is_meant_to_stay_offline_need_not_recover() -> None:
    """a module may give up by its own policy, and what depends on it stays offline with it."""
    result = simulate(simulated.optional, duration=DAY, faults=[crash("console", at=100)])
    assert result.ok
    assert [entry.text for entry in result.trace if entry.module == "tool"].count("ONLINE") == 1
    crashed = simulate(simulated.optional, duration=DAY, faults=[crash("store", at=100)])
    assert crashed.ok


def test_a_service_that_does_not_end_is_taken_down() -> None:
    """work that ignores its cancellation for ever is a violation, and ends all the same."""
    assert rule_of(simulated.stubborn) == "end"


def test_a_service_that_spins_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """work that never waits lets the clock stand still."""
    monkeypatch.setattr(watch_room, "_MOST_STEPS_AT_ONCE", 5000)
    assert rule_of(simulated.spinning) == "spin"


def test_a_task_outside_of_the_modules_is_found() -> None:
    """what is alive after the app's block was left by somebody."""
    result = simulate(simulated.leaving_a_task, duration=10, faults=NO_FAULTS)
    assert result.violations[0].rule == "left"
    assert "task 'stray' is alive after the app's block" in result.violations[0].text


def test_ctrl_c_by_a_fault_leaves_the_block() -> None:
    """what is no Exception ends the app, and has to come out of it."""
    simulate(
        simulated.sound, duration=HOUR, faults=[fail("orders/worker", KeyboardInterrupt, at=900)]
    ).assert_ok()


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), BaseExceptionGroup("two", [KeyboardInterrupt(), SystemExit(1)])],
    ids=["bare", "in a group"],
)
def test_a_real_ctrl_c_ends_the_simulation(error: BaseException) -> None:
    """one that is no fault isn't the service's affair, and leaves bare."""

    def interrupting() -> App:
        module = Module("store")

        @module.worker
        async def work() -> None:
            await trio.sleep(5)
            raise error

        return App(module)

    with pytest.raises(KeyboardInterrupt):
        simulate(interrupting, duration=100)


def test_ctrl_c_strikes_between_two_steps() -> None:
    """in the middle of one it could leave Trio or the watch half done, and be lost there."""
    went_on: list[float] = []

    def interrupted() -> App:
        module = Module("store")

        @module.worker
        async def work() -> None:
            await trio.sleep(5)
            signal.raise_signal(signal.SIGINT)
            went_on.append(trio.current_time())

        return App(module)

    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        simulate(interrupted, duration=100)
    assert went_on == [5]


# ---------------------------------------------------------------- promises of the framework


def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for neighbours."""
    monkeypatch.setattr(
        _lifecycle, "decide", lambda status, wanted, _, __: decide(status, wanted, 0, 0)
    )


def lonely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who crashes takes nobody along."""
    monkeypatch.setattr(_lifecycle, "_dependents_first", lambda unit, _: [unit])


def unstopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop functions don't run."""

    async def skip(self: Life) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Life, "_run_stop_functions", skip)


def twice_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop functions run twice."""
    once = Life._run_stop_functions

    async def twice(self: Life) -> None:
        await once(self)
        await once(self)

    monkeypatch.setattr(Life, "_run_stop_functions", twice)


def unclosed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lifespans aren't left."""

    async def skip(self: Life, entered: list[object]) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Life, "_leave", skip)


def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop doesn't wait for work in the tasks of others."""

    async def skip(self: Workers) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Workers, "guests_left", skip)


def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports get lost."""
    monkeypatch.setattr(Reporter, "caught", lambda *_, **__: None)


def chatty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exceptions are reported twice."""
    once = Reporter.caught

    def twice(self: Reporter, *args: object, **kwargs: object) -> None:
        once(self, *args, **kwargs)  # type: ignore[arg-type]
        once(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Reporter, "caught", twice)


def tactless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancellations are taken for failures."""
    monkeypatch.setattr("trio_modules._reporting._is_cancelled", lambda: False)


def deafened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is taken for a failure."""
    monkeypatch.setattr("trio_modules._reporting._passes", lambda leaf, cancelled: cancelled)


def miscounting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests are counted out twice."""
    leave = Workers.leave

    def twice(self: Workers, guest: Guest) -> None:
        leave(self, guest)
        self.ended += 1

    monkeypatch.setattr(Workers, "leave", twice)


def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of workers restarts at a time."""

    async def enter(self: RestartGate) -> None:
        await trio.lowlevel.checkpoint()
        self.settling += 1

    monkeypatch.setattr(RestartGate, "enter", enter)


class Busy(Shop):
    """A shop with guests in the tasks of others, and many workers that fail together."""

    def __init__(self) -> None:
        super().__init__()
        self.app.max_concurrent_restarts = 2
        self.app.restart_settle = 30
        self.door = Module("door", wants=["orders"])
        self.door.on_stop(self.close)
        self.app.register(self.door)
        self.door.every(50, self.visit, name="visit")
        for number in range(5):
            self.orders.service_worker(self.fail_sometimes, name=f"line{number}", backoff=1)

    async def visit(self) -> None:
        if self.orders.online:
            await self.orders.guarded(self.stay, name="stay")()

    async def stay(self) -> None:
        try:
            await trio.sleep(40)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    async def fail_sometimes(self) -> None:
        await trio.sleep(700)
        raise OSError("away")

    async def close(self) -> None:
        await trio.sleep(1)


@pytest.mark.parametrize(
    ("sabotage", "rules"),
    [
        (hasty, {"order"}),
        (lonely, {"order"}),
        (unstopped, {"stop"}),
        (twice_stopped, {"stop"}),
        (unclosed, {"lifespan"}),
        (early, {"closed", "stop", "left"}),
        (silent, {"report"}),
        (chatty, {"report"}),
        (tactless, {"cancelled"}),
        (deafened, {"report"}),
        (miscounting, {"counts"}),
        (crowded, {"limits"}),
    ],
)
def test_a_framework_that_breaks_its_promise_is_found(
    sabotage: Callable[[pytest.MonkeyPatch], None],
    rules: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """for each promise: with the core made to break it, a sound service fails on that."""
    faults = [
        crash("orders", at=500),
        crash("store", at=1220.0),
        fail("report/hook", KeyboardInterrupt, at=3000),
    ]
    options = {"duration": HOUR, "faults": faults, "shrink": False, "recovers_within": None}
    simulate(lambda: Busy().app, **options).assert_ok()  # type: ignore[arg-type]
    sabotage(monkeypatch)
    result = simulate(lambda: Busy().app, **options)  # type: ignore[arg-type]
    assert {violation.rule for violation in result.violations[:1]} <= rules
    assert result.violations


# ---------------------------------------------------------------- what can't be simulated


@pytest.mark.parametrize(
    ("make_app", "what", "where"),
    [
        (simulated.listening, "a socket or pipe", rf"accept, {SOURCE}"),
        (simulated.threaded, "a thread", rf"compute, {SOURCE}"),
        (
            simulated.threaded_alone,
            "a thread",
            "code of trio or trio_modules, for module 'store'",
        ),
        (simulated.serving, "a socket or pipe", rf"serve, {SOURCE}"),
        (simulated.threaded_shortly, "a thread", rf"compute, {SOURCE}"),
    ],
)
def test_real_work_is_an_error_with_its_place(
    make_app: Callable[[], App], what: str, where: str
) -> None:
    """a service that waits for the real world can't be simulated, and is told where it does."""
    simulated.released.clear()
    try:
        with pytest.raises(RealIO) as caught:
            simulate(make_app, duration=DAY, faults=NO_FAULTS)
    finally:
        simulated.released.set()
    assert re.fullmatch(f"{what} in {where}", caught.value.place)
    assert f"the service waits for {caught.value.place}: put a fake there" in str(caught.value)


def test_a_thread_is_seen_before_it_has_got_going() -> None:
    """a busy machine lets it begin late; the service waits for it all the same."""
    release = threading.Event()
    computed: list[float] = []

    def make_app() -> App:
        module = Module("store")

        @module.worker
        async def compute() -> None:
            await trio.sleep(1.0)  # until all others are quiet
            computed.append(trio.current_time())
            await trio.to_thread.run_sync(release.wait, abandon_on_cancel=True)

        return App(module)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(30.0)  # other threads go on when the main one waits, and not before
    try:
        with pytest.raises(RealIO, match="a thread in compute"):
            simulate(make_app, duration=1.5, faults=NO_FAULTS)
    finally:
        sys.setswitchinterval(usual)
        release.set()
    assert computed == [1.0]  # a second run would have found what the first has left behind


def test_a_thread_that_nobody_waits_for_is_not_the_services() -> None:
    """one that was abandoned before works on; the service may be sound all the same."""
    go_on = threading.Event()

    async def abandon() -> None:
        working = trio.Event()

        def work() -> None:
            trio.from_thread.run_sync(working.set)
            go_on.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.to_thread.run_sync, work, abandon_on_cancel=True))
            await working.wait()
            nursery.cancel_scope.cancel()

    trio.run(abandon)
    try:
        simulate(lambda: Busy().app, duration=HOUR, faults=NO_FAULTS).assert_ok()
    finally:
        go_on.set()


def test_a_factory_that_is_not_deterministic_is_an_error() -> None:
    """the first step that differs is shown, of both runs."""
    with pytest.raises(NotDeterministic) as caught:
        simulate(simulated.capricious, duration=HOUR, faults=NO_FAULTS)
    error = caught.value
    assert error.first != error.second
    assert re.fullmatch(r"beat at 60\.\d+ s", error.first or "")
    assert f"step {error.number} is {error.first} in one run and {error.second}" in str(error)


def test_a_failure_that_does_not_come_again_is_an_error() -> None:
    """before a failure is made small, it has to be the same twice."""
    made: list[int] = []

    def moody() -> App:
        made.append(1)
        module = Module("store")

        @module.worker
        async def work() -> None:
            await trio.sleep(DAY / 2)
            assert len(made) != 2

        module.every(10, trio.lowlevel.checkpoint, name="beat")
        return App(module)

    with pytest.raises(NotDeterministic, match=r"end 'worker work raised .* of store at 43200"):
        simulate(moody, duration=DAY, faults=NO_FAULTS)


async def later(_: App) -> None:
    pass


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": "1"}, TypeError, "seed must be an int, got '1'"),
        ({"seed": True}, TypeError, "seed must be an int, got True"),
        ({"duration": 0}, ValueError, "duration must be .* above 0, got 0"),
        ({"duration": "7d"}, TypeError, "duration must be a number of seconds, got '7d'"),
        ({"recovers_within": "1h"}, TypeError, "recovers_within must be .*, got '1h'"),
        ({"bugs": [5]}, TypeError, "bugs must be classes of exceptions, got 5"),
        ({"check": later}, TypeError, "check must be a sync function, got the async .*later"),
        ({"check": 5}, TypeError, "check must be a function, got 5"),
        ({"check": lambda: None}, TypeError, "check can't call .* with .*<the app>"),
        ({"faults": crash("store", at=1)}, TypeError, "a list of faults, got crash"),
        ({"duration": float("inf")}, ValueError, "duration must be .*, got inf"),
        ({"faults": [fail("shop/worker")]}, ValueError, "no module 'shop'"),
        ({"faults": [fail("store/worker:x")]}, ValueError, "'store' declares no 'worker:x'"),
        ({"faults": FaultPlan(targets="x*")}, ValueError, "targets must fit something"),
        ({"only": ["stor"]}, ValueError, "no module 'stor'; did you mean 'store'"),
        ({"faults": ["store"]}, TypeError, "got 'store'"),
    ],
)
def test_bad_arguments_are_errors(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    """they are found before anything runs, and shown."""
    with pytest.raises(error, match=message):
        simulate(simulated.sound, **options)  # type: ignore[arg-type]


def test_what_is_no_app_is_an_error() -> None:
    """a factory has to return an app, or a context manager that yields one."""
    with pytest.raises(SimulationError, match=r"make_app must return an App .*, got 5"):
        simulate(lambda: 5)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=r"make_app must be a function .*, got <App 'shop', "):
        simulate(simulated.sound())  # type: ignore[arg-type]


def test_inside_of_a_run_it_is_an_error() -> None:
    """simulate is for sync code."""

    async def main() -> None:
        simulate(simulated.sound)

    with pytest.raises(RuntimeError, match="run"):
        trio.run(main)
