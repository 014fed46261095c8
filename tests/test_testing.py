"""What `trio_modules.testing` gives to tests of services, seen from a plain `trio.run`."""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from support import fail, let_run

from trio_modules import (
    App,
    CleanExit,
    Event,
    Module,
    ModuleCrashed,
    ModuleError,
    ModuleStatus,
    Restart,
    ShutdownError,
    StartError,
)
from trio_modules.testing import (
    CutShort,
    MissingReports,
    NoEnd,
    NotInTime,
    Reports,
    SomethingLeft,
    UnexpectedReports,
    assert_nothing_left,
    expect_event,
    next_event,
    running,
    wait_for_status,
)

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock


def failing_app(error: BaseException | None = None) -> App:
    """Return an app with a service worker that fails at 1 s, and every second from then on."""
    module = Module("poller")

    @module.service_worker(backoff=0)
    async def poll() -> None:
        await trio.sleep(1)
        raise ConnectionError("away") if error is None else error

    return App(module, name="shop")


async def use(
    app: App,
    *steps: Callable[[], Awaitable[object]],
    seconds: float = 0.0,
    reports: Reports | None = None,
) -> None:
    """Run an app, take these steps, wait for so long."""
    async with running(app, reports=reports):
        for step in steps:
            await step()
        await trio.sleep(seconds)


async def crash(module: Module, error: Exception) -> None:
    await trio.lowlevel.checkpoint()
    module.nursery.start_soon(fail, error)


# ---------------------------------------------------------------- running


async def test_an_app_runs_for_the_length_of_the_block() -> None:
    """the block gets the app, all online, and nothing is left after it."""
    module = Module("quiet")
    async with running(App(module)) as app:
        assert app["quiet"].online
    assert module.status is ModuleStatus.OFFLINE
    assert_nothing_left(app)


async def test_a_body_that_a_shutdown_cuts_short_fails(autojump_clock: MockClock) -> None:
    """a quiet shutdown from inside is an error of the test, with its reason."""
    module = Module("button")

    @module.worker
    async def press() -> None:
        await trio.sleep(1)
        app.request_shutdown("the button was pressed")

    app = App(module, name="shop")
    with pytest.raises(CutShort, match="the button was pressed") as caught:
        await use(app, seconds=2)
    assert trio.current_time() == 1
    assert (caught.value.app, caught.value.reason) == ("shop", "the button was pressed")


async def test_without_running_such_a_body_ends_quietly(autojump_clock: MockClock) -> None:
    """that is what the block of an app does by itself, and why `running` is there."""
    module = Module("button")
    app = App(module)
    async with app:
        module.nursery.start_soon(app.shutdown)
        await trio.sleep(2)
        pytest.fail("the body goes on")  # pragma: no cover


async def test_a_body_that_cannot_begin_fails() -> None:
    """after a clean exit the body isn't entered at all."""

    async def prep() -> None:
        await trio.lowlevel.checkpoint()
        raise CleanExit("only help was asked for")

    with pytest.raises(CutShort, match="only help was asked for"):
        async with running(App(Module("m"), prep=prep)):
            pytest.fail("the body begins")  # pragma: no cover


async def test_a_failed_start_fails_the_test() -> None:
    """the start's own error is what the test ends with."""
    module = Module("db", start=partial(fail, OSError("no route")))
    with pytest.raises(StartError, match="db"):
        async with running(App(module)):
            pytest.fail("the body begins")  # pragma: no cover


async def test_a_crash_for_good_fails_the_test(autojump_clock: MockClock) -> None:
    """`ModuleCrashed` leaves the block, with the crash as its cause."""
    module = Module("db", restart=Restart(max_restarts=0))
    with pytest.raises(ModuleCrashed, match="db") as caught:
        await use(App(module), partial(crash, module, OSError("disk full")), seconds=10)
    assert trio.current_time() == 0
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_crash_that_is_mended_fails_the_test_by_its_report(
    autojump_clock: MockClock,
) -> None:
    """a module that crashed and came back doesn't pass unseen."""
    module = Module("db")
    with pytest.raises(UnexpectedReports, match="disk full") as caught:
        await use(
            App(module),
            partial(crash, module, OSError("disk full")),
            partial(wait_for_status, module, ModuleStatus.OFFLINE),
            partial(wait_for_status, module, ModuleStatus.ONLINE),
        )
    assert isinstance(caught.value.__cause__, OSError)
    assert [report.module for report in caught.value.reports] == ["db"]


async def test_the_own_exception_of_a_body_goes_first(autojump_clock: MockClock) -> None:
    """it isn't hidden by reports, which are in a note of it."""
    steps = [partial(trio.sleep, 1.5), partial(fail, ZeroDivisionError())]
    with pytest.raises(ZeroDivisionError) as caught:
        await use(failing_app(), *steps)
    (note,) = caught.value.__notes__  # type: ignore[attr-defined]  # since Python 3.11
    assert "besides, reported" in note
    assert "ConnectionError('away')" in note


async def test_a_body_may_shut_its_app_down(autojump_clock: MockClock) -> None:
    """what awaits the shutdown in the block itself isn't cut short by it."""
    module = Module("m")
    over = False
    async with running(App(module)) as app:
        await app.shutdown("the test is over")
        assert module.status is ModuleStatus.OFFLINE
        over = True
    assert over


async def test_a_cancellation_from_outside_passes(autojump_clock: MockClock) -> None:
    """a time-out around the block is the business of whoever set it."""
    with trio.move_on_after(1) as scope:
        with pytest.raises(trio.Cancelled) as caught:
            await use(App(Module("m")), seconds=10)
        raise caught.value
    assert scope.cancelled_caught


async def test_a_time_out_does_not_hide_a_shutdown(autojump_clock: MockClock) -> None:
    """when the app went down first, a cancellation that follows is not what ended the test."""
    module = Module("m")

    @module.worker
    async def press() -> None:
        await trio.sleep(0.5)
        app.request_shutdown("the button was pressed")

    @module.on_stop
    async def stop() -> None:
        await trio.sleep(1)

    app = App(module)
    with pytest.raises(CutShort, match="the button was pressed"), trio.move_on_after(1):
        await use(app, seconds=2)
    assert trio.current_time() == 1.5


async def test_a_time_out_during_the_stop_passes(autojump_clock: MockClock) -> None:
    """a test whose body was over wasn't cut short."""
    module = Module("m", stop=partial(trio.sleep, 2))
    with trio.move_on_after(1) as scope:
        await use(App(module))
    assert scope.cancelled_caught


async def deaf() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


@pytest.mark.parametrize("how", ["the body ends", "by itself", "cancelled"])
async def test_an_app_that_does_not_end_is_ended(how: str, autojump_clock: MockClock) -> None:
    """no worker that is deaf lets a test hang; the error says where it was waiting."""
    module = Module("m")
    module.worker(deaf)
    app = App(module, name="shop")

    async def shut_down() -> None:
        if how == "cancelled":
            scope.cancel()
        await trio.lowlevel.checkpoint()
        if how == "by itself":
            app.request_shutdown("from inside")

    with trio.CancelScope() as scope, pytest.raises(NoEnd) as caught:
        await use(app, shut_down, reports=Reports())
    first, second, third = str(caught.value).splitlines()
    assert first == "app 'shop' did not end within 300 s of the beginning of its shutdown:"
    assert second.startswith("  module 'm' is STOPPING, ERROR 'm:stop-failed'")
    assert "waits in deaf, " in third
    assert trio.current_time() == 300
    assert_nothing_left(app)


async def test_no_hang_hides_ctrl_c(autojump_clock: MockClock) -> None:
    """what is no `Exception` goes before the error about what was hanging."""
    module = Module("m")
    module.worker(deaf)
    with pytest.raises(KeyboardInterrupt):
        await use(App(module), partial(fail, KeyboardInterrupt()))


async def test_a_deaf_worker_that_ends_in_time_is_no_hang(autojump_clock: MockClock) -> None:
    """then the app's own error leaves the block: the stop that failed."""
    module = Module("m", stop_timeout=1)

    @module.worker
    async def hard_of_hearing() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    with pytest.raises(ShutdownError):
        await use(App(module))
    assert trio.current_time() == 10


async def test_what_runs_must_be_an_app() -> None:
    """something else is named, as is what is waited for if it is no module."""
    with pytest.raises(TypeError, match="app must be an App, got <Module"):
        await use(Module("m"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="module must be a Module, got 'm'"):
        await wait_for_status("m", ModuleStatus.ONLINE)  # type: ignore[arg-type]


async def test_reports_must_be_reports() -> None:
    """something else in their place is named before the app is entered."""
    with pytest.raises(TypeError, match=r"reports must be a Reports, got \[\]"):
        async with running(App(), reports=[]):  # type: ignore[arg-type]
            pytest.fail("the body begins")  # pragma: no cover


# ---------------------------------------------------------------- reports


async def test_an_unexpected_report_fails_the_test(autojump_clock: MockClock) -> None:
    """the error says what was reported, by whom and when, and has the exception as its cause."""
    with pytest.raises(UnexpectedReports, match=r"poller/poll: ConnectionError\('away'\), at 1 s"):
        async with running(failing_app()):
            await trio.sleep(1.5)


@pytest.mark.parametrize("error", [OSError, ConnectionError, Exception])
async def test_an_expected_report_does_not(
    error: type[Exception], autojump_clock: MockClock
) -> None:
    """a class is expected with all that are derived from it, once or more often."""
    with Reports() as reports:
        reports.expect(error)
        async with running(failing_app(), reports=reports):
            await trio.sleep(3.5)
        assert len(reports) == 3
        assert reports[0].time == 1
        assert [report.time for report in reports[1:]] == [2, 3]
        assert reports.unexpected == ()


async def test_what_is_expected_has_to_come(autojump_clock: MockClock) -> None:
    """an expected report that doesn't come fails the test, which says what came instead."""
    reports = Reports()
    reports.allow(OSError)
    reports.expect(KeyError)
    await use(failing_app(), seconds=1.5, reports=reports)
    with pytest.raises(MissingReports, match=r"(?s)KeyError.*instead.*away") as caught, reports:
        pass
    assert caught.value.expected == ("KeyError",)
    assert len(caught.value.reports) == 1


async def test_what_is_missing_says_when_nothing_came() -> None:
    """there may be no report at all."""
    with pytest.raises(MissingReports, match="no report came"), Reports() as reports:
        reports.expect(KeyError, LookupError, match="away", module=Module("db"))
    with pytest.raises(MissingReports, match=r"KeyError or LookupError .* 'away' .*'db'"):
        reports.check()


async def test_what_is_allowed_need_not_come() -> None:
    """nothing has to be reported of what may be."""
    with Reports() as reports:
        reports.allow(OSError)
        async with running(App(Module("m")), reports=reports):
            pass


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"match": "aw.y"}, True),
        ({"match": "home"}, False),
        ({"module": "poller"}, True),
        ({"module": "other"}, False),
    ],
)
async def test_message_and_module_can_be_demanded(
    given: dict[str, str], fits: bool, autojump_clock: MockClock
) -> None:
    """a report of another message or module isn't the expected one."""
    reports = Reports()
    reports.allow(**given)
    async with running(failing_app(), reports=reports):
        await trio.sleep(1.5)
    assert (reports.unexpected == ()) is fits


@pytest.mark.parametrize("fits", [True, False])
async def test_a_group_is_expected_if_all_in_it_is(fits: bool, autojump_clock: MockClock) -> None:
    """a group with something else in it is not."""
    last = OSError("c") if fits else KeyError("c")
    inner = [OSError("a"), ExceptionGroup("g", [OSError("b"), last])]
    reports = Reports()
    reports.expect(OSError)
    async with running(failing_app(ExceptionGroup("g", inner)), reports=reports):
        await trio.sleep(1.5)
    assert (reports.unexpected == ()) is fits


async def test_what_is_for_information_need_not_be_expected() -> None:
    """reports of severity "info" fail no test, others without an exception do."""
    module = Module("m")
    with Reports() as reports:
        async with running(App(module), reports=reports) as app:
            module.report_info("all is well")
            assert [report.message for report in reports] == ["all is well"]
            app.report(ModuleError("low on disk", severity="warning"))
        with pytest.raises(UnexpectedReports, match="warning in worker low on disk"):
            reports.check()
        reports.allow(match="low on disk")


async def test_a_report_can_be_waited_for(autojump_clock: MockClock) -> None:
    """each report is found once, also one from before the call, and is expected then."""
    with Reports() as reports:
        async with running(failing_app(), reports=reports):
            await trio.sleep(1.5)
            assert (await reports.wait_for(OSError)).time == 1
            assert (await reports.wait_for(OSError, module="poller")).time == 2
            assert trio.current_time() == 2
        assert repr(reports) == "<Reports: 2, 0 not expected>"


async def test_a_report_that_does_not_come_in_time(autojump_clock: MockClock) -> None:
    """the error says what came instead, or that nothing did."""
    reports = Reports()
    async with running(failing_app(), reports=reports):
        with pytest.raises(NotInTime, match=r"(?s)no report of KeyError within 0.5 s.*nothing"):
            await reports.wait_for(KeyError, within=0.5)
        with pytest.raises(NotInTime, match=r"(?s)no report of KeyError within 1 s.*away"):
            await reports.wait_for(KeyError, within=1)
    with pytest.raises(NotInTime):
        await reports.wait_for(KeyError, within=1)
    assert trio.current_time() == 2.5


async def test_reports_of_several_apps_come_together(autojump_clock: MockClock) -> None:
    """a client and its server can be watched by one."""
    with Reports() as reports:
        reports.expect(KeyError)
        async with running(failing_app(), reports=reports):
            async with running(failing_app(KeyError("x")), reports=reports):
                await trio.sleep(0.5)
                await reports.wait_for(OSError)
                await reports.wait_for(KeyError)
                assert trio.current_time() == 1


def test_only_classes_of_exceptions_can_be_expected() -> None:
    """an instance, say, is an error at once."""
    with pytest.raises(TypeError, match="errors must be classes of exceptions, got KeyError"):
        Reports().expect(KeyError())  # type: ignore[arg-type]


# ---------------------------------------------------------------- waiting for a status


async def test_a_status_can_be_waited_for(autojump_clock: MockClock) -> None:
    """the wait ends when the module has it."""
    module = Module("m")
    async with running(App(module)) as app:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.restart, module)
            await wait_for_status(module, ModuleStatus.STOPPING)
            await wait_for_status(module, ModuleStatus.ONLINE)


async def test_a_status_that_does_not_come_in_time(autojump_clock: MockClock) -> None:
    """the error says the status it has instead, what is wrong, and where its tasks wait."""
    module = Module("m")

    @module.worker
    async def wait_for_godot() -> None:
        await trio.sleep_forever()

    async with running(App(module)):
        module.set_warning("late", "nobody came")
        with pytest.raises(NotInTime) as caught:
            await wait_for_status(module, ModuleStatus.OFFLINE, within=5)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "module 'm' is ONLINE, WARNING 'late' (nobody came), not OFFLINE within 5 s:"
    )
    assert "wait_for_godot' waits in wait_for_godot, " in lines[1]
    assert len(lines) == 2
    assert trio.current_time() == 5


async def test_a_status_that_waits_for_another_module(autojump_clock: MockClock) -> None:
    """the error names the dependency that isn't online, and why."""
    policy = Restart(max_restarts=0, exhausted="offline")
    base = Module("base", restart=policy)
    top = Module("top", depends_on=[base])
    with Reports() as reports:
        reports.expect(OSError)
        async with running(App(base, top), reports=reports):
            base.nursery.start_soon(fail, OSError("disk full"))
            await wait_for_status(top, ModuleStatus.OFFLINE)
            with pytest.raises(NotInTime, match=r"it depends on 'base' is OFFLINE, ERROR .*full"):
                await wait_for_status(top, ModuleStatus.ONLINE, within=5)


@pytest.mark.parametrize("within", [math.nan, -1])
async def test_a_deadline_has_to_be_a_time(within: float) -> None:
    """what is none is named, with its value, by everything that waits."""
    module = Module("m")
    event = module.event("e", int)
    async with running(App(module)):
        for wait in (
            lambda: wait_for_status(module, ModuleStatus.ONLINE, within=within),
            lambda: next_event(event, within=within),
            lambda: Reports().wait_for(within=within),
        ):
            with pytest.raises(ValueError, match=f"within .*{within}"):
                await wait()


# ---------------------------------------------------------------- waiting for an event


async def test_the_next_event_can_be_waited_for(autojump_clock: MockClock) -> None:
    """its data is returned; earlier ones don't count, nor those that aren't meant."""
    module = Module("clock")
    tick = module.event("tick", int)

    @module.service_worker
    async def count() -> None:
        for number in range(100):
            await tick.trigger(number)
            await trio.sleep(1)

    async with running(App(module)):
        await trio.sleep(1.5)
        assert await next_event(tick) == 2
        assert await next_event(tick, lambda number: number % 5 == 0) == 5
        assert trio.current_time() == 5


async def test_an_event_that_comes_during_the_block_is_caught(autojump_clock: MockClock) -> None:
    """what leads to it may be done inside, and the data is there after it."""
    module = Module("m")
    pressed = module.event("pressed", str)
    lit = module.event("lit", str)

    @module.hook(pressed)
    async def light(color: str) -> None:
        await lit.trigger(color)

    async with running(App(module)):
        async with expect_event(lit, within=1) as caught:
            await pressed.trigger("red")
            await let_run()
            with pytest.raises(RuntimeError, match="at the end of the block"):
                _ = caught.data
        assert caught.data == "red"


async def count_up_to_12(tick: Event[int]) -> None:
    async with expect_event(tick, lambda number: number > 20, within=3):
        for number in range(12):
            await tick.trigger(number)


async def test_an_event_that_does_not_come_in_time(autojump_clock: MockClock) -> None:
    """the error says how its module is, and with which data it came instead."""
    module = Module("m")
    tick = module.event("tick", int)
    async with running(App(module)):
        with pytest.raises(NotInTime) as caught:
            await count_up_to_12(tick)
        assert trio.current_time() == 3
        with pytest.raises(NotInTime, match="nothing"):
            await next_event(tick, within=1)
    first, *rest = str(caught.value).splitlines()
    assert first == ("event 'm/tick' did not come within 3 s (module 'm' is ONLINE); it came with:")
    assert rest == [*(f"  {number}" for number in range(10)), "  ... and 2 more"]


async def test_an_event_of_an_app_that_has_ended(autojump_clock: MockClock) -> None:
    """around the app a block may wait, too, and not for longer than the app runs."""
    module = Module("m")
    tick = module.event("tick", int)
    async with expect_event(tick) as caught:
        async with running(App(module)):
            await tick.trigger(1)
    assert caught.data == 1
    with pytest.raises(NotInTime, match="did not come before the app ended"):
        async with expect_event(tick), running(App(module)):
            pass
    assert trio.current_time() == 0


# ---------------------------------------------------------------- nothing left


async def test_a_running_app_is_something_left() -> None:
    """the error names the app's state and every module that isn't offline."""
    app = App(Module("m"), name="shop")
    async with running(app):
        with pytest.raises(SomethingLeft, match=r"(?s)shop.*running.*'m' is ONLINE") as caught:
            assert_nothing_left(app)
    assert caught.value.app == "shop"
    assert len(caught.value.left) == 3
    assert_nothing_left(app)


async def test_a_task_that_a_module_began_elsewhere_is_left() -> None:
    """what a module started in a nursery that isn't the app's is found by its context."""
    module = Module("m")
    app = App(module, name="shop")
    async with trio.open_nursery() as nursery:

        @module.on_start
        async def start() -> None:
            await trio.lowlevel.checkpoint()
            nursery.start_soon(trio.sleep_forever, name="stray")

        async with running(app):
            pass
        with pytest.raises(SomethingLeft, match="task 'stray' of module 'm'"):
            assert_nothing_left(app)
        nursery.cancel_scope.cancel()
    assert_nothing_left(app)


def start_elsewhere(nursery: trio.Nursery) -> None:
    nursery.start_soon(trio.sleep_forever, name="stray")


def start_for_the_system(_: trio.Nursery) -> None:
    trio.lowlevel.spawn_system_task(trio.sleep_forever, name="stray")


def start_another_that_does(nursery: trio.Nursery) -> None:
    async def go_between() -> None:
        nursery.start_soon(trio.sleep_forever, name="stray")

    nursery.start_soon(go_between)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("begin", [start_elsewhere, start_for_the_system, start_another_that_does])
async def test_a_task_that_a_worker_began_elsewhere_is_left(
    begin: Callable[[trio.Nursery], None], declared: bool
) -> None:
    """`running` sees who begins what: a context doesn't tell it of all tasks."""
    module = Module("m")
    app = App(module)
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            await trio.lowlevel.checkpoint()
            begin(nursery)

        if declared:
            module.worker(work)
        async with running(app):
            if not declared:
                module.start_worker(work)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(SomethingLeft) as caught:
            assert_nothing_left(app)
        assert caught.value.left == ("task 'stray' of module 'm'",)
        nursery.cancel_scope.cancel()


async def test_who_began_a_task_is_known_among_namesakes() -> None:
    """modules of two apps may have one name."""
    innocent, guilty = App(Module("m"), name="innocent"), App(Module("m"), name="guilty")

    async def work() -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever, name="stray")
        await trio.lowlevel.checkpoint()

    async with running(innocent), running(guilty):
        guilty["m"].start_worker(work)
        await trio.testing.wait_all_tasks_blocked()
    assert_nothing_left(innocent)
    with pytest.raises(SomethingLeft, match="task 'stray' of module 'm'"):
        assert_nothing_left(guilty)


async def test_processes_that_are_kept_are_not_left() -> None:
    """they stay until the run of Trio ends, so that the next call has one."""
    module = Module("m")
    app = App(module)
    async with running(app):
        assert await module.run_sync_microtask(abs, -1, where="process") == 1
    assert_nothing_left(app)


async def test_a_status_that_nothing_stands_in_the_way_of(autojump_clock: MockClock) -> None:
    """where there is nothing to say of a module that is said."""
    module = Module("m")
    async with running(App(module)):
        with pytest.raises(NotInTime, match="nothing of it waits, and nothing that it depends on"):
            await wait_for_status(module, ModuleStatus.OFFLINE, within=1)


async def test_what_the_body_began_elsewhere_is_not_left() -> None:
    """a test's own tasks are its own, whoever runs meanwhile."""
    app = App(Module("m"))
    async with trio.open_nursery() as nursery:
        async with running(app):
            nursery.start_soon(trio.sleep_forever)
            await trio.testing.wait_all_tasks_blocked()
        assert_nothing_left(app)
        nursery.cancel_scope.cancel()
