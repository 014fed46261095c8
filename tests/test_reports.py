"""Reports: what is told about failures in modules, to whom, and how often."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from support import fail, let_run, reports_of
from trio.testing import MockClock, assert_checkpoints

from trio_modules import (
    App,
    Backoff,
    CleanExit,
    Module,
    ModuleError,
    ModuleStatus,
    Restart,
    StartError,
    is_panic,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def raises(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def raising() -> None:
        raise error

    return raising


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """Return an exception that was raised from another one."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


# --- the value -----------------------------------------------------------------------------------


def test_a_module_error_is_an_exception_with_fields() -> None:
    """a ModuleError can be made by the user, with a task type and a severity of its own."""
    cause = ValueError("no")
    error = ModuleError(
        message="it went wrong",
        module="m",
        task_name="job",
        task_type="cron job",
        severity="odd",
        exception=cause,
        time=5.0,
    )
    assert isinstance(error, Exception)
    assert (error.message, error.module, error.task_name) == ("it went wrong", "m", "job")
    assert (error.task_type, error.severity) == ("cron job", "odd")
    assert (error.exception, error.time) == (cause, 5.0)


def test_a_module_error_shows_what_it_is_about() -> None:
    """as text a ModuleError names the module, the task and the message."""
    error = ModuleError(message="it went wrong", module="db", task_name="writer")
    assert str(error) == "db/writer: it went wrong"
    assert str(ModuleError(message="it went wrong")) == "it went wrong"


def test_a_module_errors_cause() -> None:
    """raising a ModuleError shows the exception that it reports as its cause."""
    cause = ValueError("no")
    assert ModuleError(message="it went wrong", exception=cause).__cause__ is cause


def test_a_traceback_is_text() -> None:
    """traceback is the formatted traceback of the exception, its causes included."""
    error = ModuleError(
        message="it went wrong", exception=raised(ValueError("outer"), KeyError("inner"))
    )
    assert "ValueError: outer" in error.traceback
    assert "KeyError: 'inner'" in error.traceback
    assert "in raised" in error.traceback


def test_a_traceback_is_formatted_when_it_is_read() -> None:
    """nothing is formatted when a ModuleError is made: a later note shows, too."""
    exception = ValueError("no")
    error = ModuleError(message="it went wrong", exception=exception)
    exception.__notes__ = ["a later note"]  # type: ignore[attr-defined]
    assert "a later note" in error.traceback


def test_a_message_has_no_traceback() -> None:
    """without an exception the traceback is empty."""
    assert ModuleError(message="by the way").traceback == ""


# --- is_panic ------------------------------------------------------------------------------------

PANIC = ModuleError(message="panic", severity="panic", exception=ValueError("no"))


def handled() -> ModuleError:
    return ModuleError(message="handled", severity="error", exception=ValueError("no"))


@pytest.mark.parametrize(
    "error",
    [
        PANIC,
        raised(RuntimeError("caused"), PANIC),
        raised(RuntimeError("twice"), raised(RuntimeError("caused"), PANIC)),
        ExceptionGroup("group", [KeyError(), PANIC]),
        ExceptionGroup("outer", [KeyError(), ExceptionGroup("inner", [KeyError(), PANIC])]),
        raised(RuntimeError("caused"), ExceptionGroup("group", [KeyError(), PANIC])),
        ExceptionGroup("group", [KeyError(), RuntimeError(), PANIC]),
        BaseExceptionGroup("group", [SystemExit(), raised(KeyError(), PANIC)]),
        raised(RuntimeError("caused"), raised(handled(), PANIC)),
    ],
    ids=range(9),
)
def test_a_panic_is_found(error: BaseException) -> None:
    """is_panic returns the ModuleError of a panic, through causes and groups."""
    assert is_panic(error) is PANIC


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        handled(),
        raised(RuntimeError("caused"), handled()),
        ExceptionGroup("group", [KeyError(), handled()]),
    ],
    ids=range(4),
)
def test_what_is_no_panic(error: BaseException) -> None:
    """is_panic returns None for other exceptions and other severities."""
    assert is_panic(error) is None


def test_a_circle_of_causes_ends() -> None:
    """is_panic ends although two exceptions are each other's cause."""
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    assert is_panic(one) is None


# --- what is reported ----------------------------------------------------------------------------


async def test_a_report_tells_all_about_a_failure(autojump_clock: MockClock) -> None:
    """the report of a caught exception says where and when it happened, and is a panic."""
    m = Module("m")
    app = App(m)
    error = ValueError("no such luck")

    async def body() -> None:
        await trio.sleep(3)
        m.start_worker(fail, error, name="job")
        await let_run()

    (report,) = await reports_of(app, body)
    assert isinstance(report, ModuleError)
    assert (report.module, report.task_name, report.task_type) == ("m", "job", "worker")
    assert (report.severity, report.exception, report.time) == ("panic", error, 3)
    assert "no such luck" in report.message
    assert "in fail" in report.traceback
    assert is_panic(report) is report


async def test_report_info(autojump_clock: MockClock) -> None:
    """report_info reports a mere message of the module."""
    m = Module("m")
    app = App(m)

    async def body() -> None:
        await trio.sleep(3)
        m.report_info("by the way")
        await trio.lowlevel.checkpoint()

    (report,) = await reports_of(app, body)
    assert (report.message, report.module, report.severity) == ("by the way", "m", "info")
    assert (report.exception, report.time) == (None, 3)


async def test_report_error(autojump_clock: MockClock) -> None:
    """report_error reports an exception that the module handled itself; it is no panic."""
    m = Module("m")
    app = App(m)
    error = ValueError("no")

    async def body() -> None:
        m.report_error("job", error)
        await trio.lowlevel.checkpoint()

    (report,) = await reports_of(app, body)
    assert (report.module, report.task_name) == ("m", "job")
    assert (report.severity, report.exception) == ("error", error)
    assert is_panic(report) is None


async def test_a_report_of_the_users_own(autojump_clock: MockClock) -> None:
    """app.report passes on a ModuleError of the user's making as it is."""
    app = App()
    error = ModuleError(message="odd", module="x", task_type="cron job", severity="odd")

    async def body() -> None:
        app.report(error)
        await trio.lowlevel.checkpoint()

    (report,) = await reports_of(app, body)
    assert report is error


async def test_only_module_errors_can_be_reported(autojump_clock: MockClock) -> None:
    """app.report refuses what is no ModuleError, and shows it."""
    async with App() as app:
        with pytest.raises(TypeError, match=r"ModuleError.*'oops'"):
            app.report("oops")  # type: ignore[arg-type]
        assert app.last_error is None


async def test_last_error(autojump_clock: MockClock) -> None:
    """app.last_error is the newest report of the run, None before the first."""
    m = Module("m")
    app = App(m)
    first, second = ModuleError(message="first"), ModuleError(message="second")
    assert app.last_error is None
    async with app:
        assert app.last_error is None
        app.report(first)
        assert app.last_error is first
        app.report(second)
        assert app.last_error is second
    assert app.last_error is second
    async with app:
        assert app.last_error is None


async def test_a_crash_is_reported_once(autojump_clock: MockClock) -> None:
    """an exception that escapes a module's nursery is one report of the control kind."""
    m = Module("m")
    web = Module("web", depends_on=[m])
    app = App(m, web)
    error = ValueError("no")

    async def body() -> None:
        m.nursery.start_soon(fail, error)
        await trio.sleep(10)
        assert web.online

    (report,) = await reports_of(app, body)
    assert (report.module, report.task_type, report.severity) == ("m", "control", "panic")
    assert error in {report.exception, *getattr(report.exception, "exceptions", ())}


async def test_a_give_up_is_reported_once(autojump_clock: MockClock) -> None:
    """a service worker's last failure isn't reported again as the crash of its module."""
    m = Module("m")
    app = App(m)
    error = ValueError("no")

    async def body() -> None:
        m.start_service_worker(fail, error, restart=Restart(max_restarts=0))
        await trio.sleep(1)
        assert m.status is ModuleStatus.OFFLINE

    (report,) = await reports_of(app, body)
    assert (report.task_type, report.exception) == ("service-worker", error)


async def test_a_failed_start_is_raised_and_not_reported(autojump_clock: MockClock) -> None:
    """what is raised to the caller of the block isn't reported as well."""
    m = Module("m")
    app = App(m)
    m.on_start(raises(ValueError("no")))
    async with app.reports() as reports:
        with pytest.raises(StartError):
            async with app:
                raise AssertionError("the body must not run")
        assert [report async for report in reports] == []


async def test_of_two_failed_starts_one_is_raised_and_one_reported(
    autojump_clock: MockClock,
) -> None:
    """when two modules fail to start at a time, the one that isn't raised is reported."""
    a, b = Module("a"), Module("b")
    app = App(a, b)
    errors = {"a": ValueError("a"), "b": ValueError("b")}
    for module in (a, b):

        async def start(error: BaseException = errors[module.name]) -> None:
            try:
                await trio.sleep(1)
            finally:
                raise error

        module.on_start(start)
    async with app.reports() as reports:
        with pytest.raises(StartError) as caught:
            async with app:
                raise AssertionError("the body must not run")
        (report,) = [report async for report in reports]
    assert isinstance(report.exception, StartError)
    assert {caught.value.module, report.exception.module} == {"a", "b"}
    assert {caught.value.__cause__, report.exception.__cause__} == set(errors.values())


# --- the channel ---------------------------------------------------------------------------------


async def test_reports_of_a_start(autojump_clock: MockClock) -> None:
    """a channel opened before the app runs has what is reported while it starts, and ends."""
    m = Module("m")
    app = App(m)

    @m.on_start
    async def start() -> None:
        m.report_info("starting")

    @m.on_stop
    async def stop() -> None:
        m.report_info("stopping")

    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    reports = await reports_of(app, nothing)
    assert [report.message for report in reports] == ["starting", "stopping"]


async def test_reports_opened_while_the_app_runs(autojump_clock: MockClock) -> None:
    """a channel opened later has what is reported from then on."""
    m = Module("m")
    app = App(m)
    async with app:
        m.report_info("before")
        async with app.reports() as reports:
            m.report_info("within")
            assert (await reports.receive()).message == "within"
        m.report_info("after")


async def test_opening_reports_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """entering the channel's block is a checkpoint."""
    app = App()
    context = app.reports()
    with assert_checkpoints():
        await context.__aenter__()
    await context.__aexit__(None, None, None)


async def test_every_reader_gets_every_report(autojump_clock: MockClock) -> None:
    """readers don't take reports from each other."""
    m = Module("m")
    app = App(m)
    async with app.reports() as one, app.reports() as other:
        async with app:
            m.report_info("first")
            m.report_info("second")
        for reports in (one, other):
            assert [report.message async for report in reports] == ["first", "second"]


async def test_a_reader_that_lags_loses_the_oldest(autojump_clock: MockClock) -> None:
    """a full channel drops its oldest report, counted, and never blocks who reports."""
    m = Module("m")
    app = App(m)
    async with app.reports(buffer=2) as lagging, app.reports(buffer=10) as quick:
        async with app:
            for number in range(5):
                m.report_info(str(number))
            assert app.status().totals.reports_lost == 3
        assert [report.message async for report in lagging] == ["3", "4"]
        assert len([report async for report in quick]) == 5


async def test_the_default_buffer(autojump_clock: MockClock) -> None:
    """a channel holds a hundred reports unless told otherwise."""
    m = Module("m")
    app = App(m)
    async with app.reports() as reports:
        async with app:
            for number in range(101):
                m.report_info(str(number))
        messages = [report.message async for report in reports]
    assert messages == [str(number) for number in range(1, 101)]


async def test_a_reader_in_its_own_task(autojump_clock: MockClock) -> None:
    """a reader gets a report while the app runs, and its loop ends with the run."""
    m = Module("m")
    app = App(m)
    seen: list[tuple[str, float]] = []

    async def read(task_status: trio.TaskStatus[None]) -> None:
        async with app.reports() as reports:
            task_status.started()
            seen.extend([(report.message, trio.current_time()) async for report in reports])

    async with trio.open_nursery() as nursery:
        await nursery.start(read)
        async with app:
            m.report_info("first")
            await trio.sleep(1)
            m.report_info("second")
            await trio.sleep(1)
    assert seen == [("first", 0), ("second", 1)]


async def test_a_channel_ends_with_its_block(autojump_clock: MockClock) -> None:
    """after its block a channel is closed for its reader."""
    async with App() as app:
        async with app.reports() as reports:
            pass
        with pytest.raises(trio.ClosedResourceError):
            reports.receive_nowait()


@pytest.mark.parametrize("buffer", [0, -1])
async def test_a_buffer_of_nothing(autojump_clock: MockClock, buffer: int) -> None:
    """a channel that could hold nothing is refused."""
    with pytest.raises(ValueError, match="buffer"):
        async with App().reports(buffer=buffer):
            raise AssertionError("the block must not be entered")


async def test_a_reader_that_left(autojump_clock: MockClock) -> None:
    """who left the block, or closed the channel, isn't in the way of later reports."""
    m = Module("m")
    app = App(m)
    async with app:
        async with app.reports(buffer=1):
            m.report_info("within")
        async with app.reports(buffer=1) as reports:
            await reports.aclose()
            m.report_info("closed")
            m.report_info("closed")
        m.report_info("after")
        assert app.last_error is not None
        assert app.last_error.message == "after"


async def test_a_channel_ends_after_a_run_that_never_began(autojump_clock: MockClock) -> None:
    """the channel ends with the run, also if that failed or was called off before the start."""
    m = Module("m")
    outcomes: list[BaseException] = [CleanExit(), ValueError("no")]

    @m.on_prep
    async def prep() -> None:
        raise outcomes.pop(0)

    app = App(m)
    async with app.reports() as reports:
        async with app:
            await trio.lowlevel.checkpoint()
        assert [report async for report in reports] == []
    async with app.reports() as reports:
        with pytest.raises(StartError):
            async with app:
                raise AssertionError("the body must not run")
        assert [report async for report in reports] == []


# --- logging and stderr --------------------------------------------------------------------------


async def test_reports_go_to_the_modules_logger(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """every report is logged by its module's logger, at a level that fits its severity."""
    m = Module("m")
    caplog.set_level(logging.DEBUG, "trio_modules")
    async with App(m):
        m.start_worker(fail, ValueError("no such luck"), name="job")
        await let_run()
        m.report_error("job", ValueError("handled"))
        m.report_info("by the way")
    levels = {
        text: record.levelno
        for record in caplog.records
        if record.name == "trio_modules.m"
        for text in ("no such luck", "handled", "by the way")
        if text in record.getMessage()
    }
    assert levels == {
        "no such luck": logging.ERROR,
        "handled": logging.ERROR,
        "by the way": logging.INFO,
    }


async def test_the_log_has_the_traceback(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """the log record of a caught exception carries it, that of a mere message nothing."""
    m = Module("m")
    caplog.set_level(logging.DEBUG, "trio_modules")
    error = ValueError("no such luck")
    async with App(m) as app:
        m.start_worker(fail, error, name="job")
        await let_run()
        m.report_info("by the way")
        app.report(ModuleError(message="of the whole app"))
    (panic,) = [record for record in caplog.records if "no such luck" in record.getMessage()]
    assert panic.exc_info is not None
    assert panic.exc_info[1] is error
    assert "worker job" in panic.getMessage()
    (info,) = [record for record in caplog.records if "by the way" in record.getMessage()]
    assert info.exc_info is None
    (whole,) = [record for record in caplog.records if "of the whole app" in record.getMessage()]
    assert whole.name == "trio_modules"


async def test_a_modules_logger() -> None:
    """module.logger is the standard logger of that name."""
    assert Module("db").logger is logging.getLogger("trio_modules.db")


async def test_reports_of_the_users_own_are_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """a report that the user made goes to the logger of the module that it names."""
    app = App(Module("m"))
    async with app:
        app.report(ModuleError(message="odd", module="m", severity="warning"))
    (record,) = [record for record in caplog.records if "odd" in record.getMessage()]
    assert (record.name, record.levelno) == ("trio_modules.m", logging.WARNING)


async def test_reporting_to_stderr(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """with stderr_reporting a report is a block on stderr: what, where, and the traceback."""
    m = Module("m")
    async with App(m, stderr_reporting=True):
        m.start_worker(fail, ValueError("no such luck"), name="job")
        await let_run()
    printed = capsys.readouterr().err
    for part in ("no such luck", "m", "job", "worker", "panic", "Traceback", "in fail"):
        assert part in printed
    assert len(printed.splitlines()) > 5


async def test_no_reporting_to_stderr(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """unless asked for nothing is written to stderr."""
    m = Module("m")
    async with App(m):
        m.start_worker(fail, ValueError("no such luck"))
        await let_run()
    assert capsys.readouterr().err == ""


async def test_a_broken_stderr_breaks_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a stderr that is closed neither stops the worker's module nor loses the report."""
    m = Module("m", restart=Restart(backoff=Backoff(initial=1)))
    app = App(m, stderr_reporting=True)

    class Closed:
        """A stream whose other end is gone."""

        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    async def body() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Closed())
            m.start_worker(fail, ValueError("no"))
            await let_run()
        assert m.online

    assert len(await reports_of(app, body)) == 1
