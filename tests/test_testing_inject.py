"""Faults on cue: each kind of fault strikes what it names, when it says, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from support import let_run
from trio.testing import MockClock

from trio_modules import (
    App,
    Backoff,
    Module,
    ModuleCrashed,
    ModuleStatus,
    Restart,
    ShutdownError,
    StartError,
)
from trio_modules.testing import (
    FaultNotMet,
    InjectedFault,
    crash,
    deaf,
    fail,
    hang,
    inject,
    slow,
)


async def nothing() -> None:
    await trio.lowlevel.checkpoint()


class Polling:
    """A module with a service worker that notes when it begins, works and ends."""

    def __init__(self) -> None:
        self.module = Module("store", stop_timeout=40, restart=Restart(backoff=Backoff(1)))
        self.began: list[float] = []
        self.ended: list[float] = []
        self.module.service_worker(self.poll, backoff=2)
        self.app = App(self.module)

    async def poll(self) -> None:
        self.began.append(trio.current_time())
        try:
            await trio.sleep_forever()
        finally:
            self.ended.append(trio.current_time())


# ---------------------------------------------------------------- fail


async def test_a_call_fails_by_its_number(autojump_clock: MockClock) -> None:
    """the second call raises what the fault says, the others don't notice."""
    module = Module("store")
    tries: list[int] = []

    @module.service_worker(restart_on_return=True, backoff=1)
    async def poll() -> None:
        await trio.lowlevel.checkpoint()
        tries.append(1)

    app = App(module)
    async with inject(app, fail("store/worker:poll", OSError, call=2)) as injector, app:
        await trio.sleep(0.5)
        assert (len(tries), app.last_error) == (1, None)
        await trio.sleep(1)
        assert app.last_error is not None
        assert isinstance(app.last_error.exception, OSError)
        await trio.sleep(10)
        assert len(tries) > 3
    (strike,) = injector.strikes
    assert (strike.number, strike.error) == (1, app.last_error.exception)


async def test_a_call_that_goes_on_is_struck_when_the_time_comes(autojump_clock: MockClock) -> None:
    """it is cancelled, so that it cleans up, and what it was called by sees the fault."""
    polling = Polling()
    async with inject(polling.app, fail("store/worker:poll", at=5)), polling.app:
        await trio.sleep(10)
        assert polling.ended == [5]
        assert polling.began == [0, 7]
        error = polling.app.last_error
        assert error is not None
        assert isinstance(error.exception, InjectedFault)
        assert str(error.exception) == "fault 1 in store/worker:poll"


async def test_a_fault_that_lasts_strikes_each_call(autojump_clock: MockClock) -> None:
    """in its time every call fails, and after it none does."""
    polling = Polling()
    fault = fail("store/worker", at=5, lasts=10)
    async with inject(polling.app, fault) as injector, polling.app:
        await trio.sleep(100)
        assert [strike.time for strike in injector.strikes] == [5, 7, 11]
        assert polling.began == [0, 17]


async def test_without_a_time_every_call_fails(autojump_clock: MockClock) -> None:
    """a fault with neither call nor at strikes until its block ends."""
    module = Module("store")

    async def work() -> int:
        await trio.lowlevel.checkpoint()
        return 5

    async with App(module) as app:
        async with inject(app, fail("store/worker:+work")):
            for _ in range(2):
                with pytest.raises(InjectedFault):
                    await module.run_worker(work)
        assert await module.run_worker(work) == 5


@pytest.mark.parametrize("stage", ["prep", "enter", "start"])
async def test_the_start_fails_on_cue(stage: str, autojump_clock: MockClock) -> None:
    """a prep function, a lifespan and a start function fail like the service's own."""
    store = Module("store", prep=nothing, start=nothing)

    @store.lifespan
    async def pool() -> AsyncIterator[int]:
        yield 1

    app = App(store)
    async with inject(app, fail(f"store/{stage}", OSError, call=1)):
        with pytest.raises(StartError, match="store") as caught:
            async with app:
                raise AssertionError("the body must not run")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("stage", ["stop", "leave"])
async def test_the_stop_fails_on_cue(stage: str, autojump_clock: MockClock) -> None:
    """a stop function fails instead of running, the end of a lifespan after it has run."""
    closed: list[str] = []
    store = Module("store")

    @store.lifespan
    async def pool() -> AsyncIterator[int]:
        yield 1
        closed.append("pool")

    @store.on_stop
    async def say_goodbye() -> None:
        await trio.lowlevel.checkpoint()
        closed.append("stop")

    app = App(store)
    async with inject(app, fail(f"store/{stage}")):
        with pytest.raises(ShutdownError):
            async with app:
                await trio.sleep(1)
    assert closed == (["pool"] if stage == "stop" else ["stop", "pool"])


async def test_a_time_that_comes_leaves_open_lifespans_alone(autojump_clock: MockClock) -> None:
    """a lifespan may hold a nursery over its yield: it is struck when it is entered again."""
    store = Module("store", restart=Restart(backoff=Backoff(1)))

    @store.lifespan
    async def pool() -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield nursery
            nursery.cancel_scope.cancel()

    app = App(store)
    faults = fail("store/enter:pool", at=5), crash("store", at=10)
    async with inject(app, *faults) as injector, app:
        await trio.sleep(30)
        assert store.online
    assert [strike.fault.action for strike in injector.strikes] == ["crash", "fail"]


async def test_hooks_tasks_and_microtasks_fail_on_cue(autojump_clock: MockClock) -> None:
    """work of all kinds can be struck, work that isn't declared by a name with a plus."""
    module = Module("store")
    changed = module.event("changed", int)
    seen: list[int] = []

    @module.hook(changed)
    async def count(n: int) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(n)

    @module.task(every=60)
    async def tidy(task: object) -> None:
        await trio.lowlevel.checkpoint()

    app = App(module)
    faults = (
        fail("store/hook:count", call=2),
        fail("store/task:tidy", call=1),
        fail("store/microtask:+nothing", call=1),
    )
    async with app.reports() as reports, inject(app, *faults):
        async with app:
            for n in range(3):
                await changed.trigger(n)
            await trio.sleep(70)
            module.start_microtask(nothing)
            await let_run()
        assert seen == [0, 2]
        names = [report.task_name async for report in reports]
    assert names == ["count", "tidy", "nothing"]


# ---------------------------------------------------------------- hang, slow, deaf


async def test_a_start_that_hangs_runs_out_of_time(autojump_clock: MockClock) -> None:
    """a hanging call does nothing until it is cancelled."""
    app = App(Module("store", start=nothing, start_timeout=30))
    async with inject(app, hang("store/start:nothing", call=1)):
        with pytest.raises(StartError):
            async with app:
                raise AssertionError("the body must not run")
    assert trio.current_time() == 30


async def test_a_call_that_hung_from_its_beginning_goes_on(autojump_clock: MockClock) -> None:
    """when the fault has lasted its time, the call is made."""
    polling = Polling()
    async with inject(polling.app, hang("store/worker", at=0, lasts=5)), polling.app:
        await trio.sleep(20)
        assert polling.began == [5]


async def test_a_call_that_hung_in_its_middle_fails(autojump_clock: MockClock) -> None:
    """it can't go on where it was, so it ends like something that timed out."""
    polling = Polling()
    async with inject(polling.app, hang("store/worker", at=5, lasts=5)), polling.app:
        await trio.sleep(9)
        assert polling.began == [0]
        assert polling.app.last_error is None
        await trio.sleep(20)
        assert polling.began == [0, 12]


async def test_a_hanging_call_obeys_a_stop(autojump_clock: MockClock) -> None:
    """one that hangs for ever is cancelled by the stop of its module."""
    polling = Polling()
    async with inject(polling.app, hang("store/worker", at=5)):
        async with polling.app:
            await trio.sleep(9)
    assert trio.current_time() == 9


async def test_a_slow_call_begins_late(autojump_clock: MockClock) -> None:
    """the call is made after the time that the fault says."""
    polling = Polling()
    async with inject(polling.app, slow("store/worker", 12.5, call=1)), polling.app:
        await trio.sleep(20)
        assert polling.began == [12.5]


async def test_a_deaf_call_takes_its_time_to_stop(autojump_clock: MockClock) -> None:
    """it has cleaned up, and its module waits for it all the same."""
    polling = Polling()
    async with inject(polling.app, deaf("store/worker", 25, call=1)):
        async with polling.app:
            await trio.sleep(10)
    assert (polling.ended, trio.current_time()) == ([10], 35)


async def test_a_call_is_deaf_from_its_time_on(autojump_clock: MockClock) -> None:
    """a cancellation before that is obeyed, the first one after it isn't, and the next is."""
    polling = Polling()
    faults = [deaf("store/worker", 7, at=10), *(crash("store", at=at) for at in (5.0, 20.0, 40.0))]
    async with inject(polling.app, *faults), polling.app:
        await trio.sleep(60)
        assert polling.began == [0, 6, 29, 43]


# ---------------------------------------------------------------- crash


async def test_a_module_crashes_at_a_time(autojump_clock: MockClock) -> None:
    """an exception escapes its nursery: it is restarted, and what depends on it with it."""
    store = Module("store", restart=Restart(backoff=Backoff(3)))
    shop = Module("shop", depends_on=[store])
    app = App(store, shop)
    async with inject(app, crash("store", OSError, at=5)), app:
        await trio.sleep(6)
        assert (store.status, shop.status) == (ModuleStatus.OFFLINE, ModuleStatus.OFFLINE)
        assert "OSError" in store.failures["store:crashed"].message
        await trio.sleep(3)
        assert shop.online


async def test_a_module_crashes_when_something_is_called(autojump_clock: MockClock) -> None:
    """the call that the crash strikes is cancelled with its module."""
    polling = Polling()
    async with inject(polling.app, crash("store/worker:poll", at=5)), polling.app:
        await trio.sleep(5.5)
        assert polling.module.status is ModuleStatus.OFFLINE
        await trio.sleep(10)
        assert polling.began == [0, 6]


async def test_a_crash_waits_for_its_module(autojump_clock: MockClock) -> None:
    """one whose time comes while the module isn't online strikes as soon as it is."""
    store = Module("store", restart=Restart(backoff=Backoff(10)))
    app = App(store)
    faults = crash("store", at=5), crash("store", OSError, at=6)
    async with inject(app, *faults) as injector, app:
        await trio.sleep(60)
    assert [strike.time for strike in injector.strikes] == [5, 15]


async def test_crashes_spend_the_budget(autojump_clock: MockClock) -> None:
    """a crash by a fault counts like any other."""
    app = App(Module("store", restart=Restart(max_restarts=0)))
    async with inject(app, crash("store", OSError, at=5)):
        with pytest.raises(ModuleCrashed):
            async with app:
                await trio.sleep(10)


# ---------------------------------------------------------------- the block


async def test_a_fault_without_occasion_fails_the_test(autojump_clock: MockClock) -> None:
    """a test whose fault didn't strike tests nothing, unless it says that it needn't."""
    polling = Polling()
    fault = fail("store/worker:poll", call=5)
    with pytest.raises(FaultNotMet, match=r"no occasion for fail\('store/worker:poll', call=5\)"):
        async with inject(polling.app, fault), polling.app:
            await trio.sleep(1)
    async with inject(polling.app, fault, must_strike=False), polling.app:
        await trio.sleep(1)


async def test_what_the_block_raises_goes_first(autojump_clock: MockClock) -> None:
    """an exception of the block is the one that leaves, bare."""
    polling = Polling()
    with pytest.raises(LookupError):
        async with inject(polling.app, fail("store/worker:poll", call=5)), polling.app:
            raise LookupError


async def test_ctrl_c_on_cue(autojump_clock: MockClock) -> None:
    """a fault may be no Exception, and passes every guard like a real one."""
    polling = Polling()
    with pytest.raises(KeyboardInterrupt):
        async with inject(polling.app, fail("store/worker", KeyboardInterrupt, at=5)), polling.app:
            await trio.sleep(10)
    assert trio.current_time() == 5
