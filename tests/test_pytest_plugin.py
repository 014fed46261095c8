"""The pytest plugin, by the suites that use it: what should fail does, with a readable message."""

from __future__ import annotations

import textwrap
from importlib import metadata
from pathlib import Path

import pytest

import pytest_trio_modules

pytest_plugins = ["pytester"]

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
APP = """
import pytest
import trio
from trio_modules import App, Module, ModuleStatus, Restart
from trio_modules.testing import wait_for_status

@pytest.fixture
def app():
    poller = Module("poller", restart=Restart(max_restarts=0))

    @poller.service_worker(backoff=0)
    async def poll():
        await trio.sleep(1)
        raise ConnectionError("the database is away")

    return App(poller, name="shop")

async def bang():
    raise OSError("disk full")
"""


def result_of(
    pytester: pytest.Pytester, suite: str, *args: str, trio_mode: bool = True
) -> pytest.RunResult:
    """Run a suite with the plugin and pytest-trio."""
    pytester.makeini(f"[pytest]\ntrio_mode = {str(trio_mode).lower()}\n")
    pytester.makepyfile(APP + textwrap.dedent(suite))
    options = ("-p", "pytest_trio_modules", "--show-capture=no", "-Werror")
    return pytester.runpytest_inprocess(*options, *args)


def assert_fails(result: pytest.RunResult, *lines: str) -> None:
    """The only test fails, and it is said so in these lines."""
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{line}*" for line in lines])


@pytest.mark.parametrize("trio_mode", [True, False])
def test_an_app_runs_in_a_fixture(pytester: pytest.Pytester, trio_mode: bool) -> None:
    """the app is online in the test, whether pytest-trio takes all tests or marked ones."""
    suite = """
        @pytest.mark.trio
        async def test_it(running_app, app, autojump_clock):
            assert running_app is app
            assert app["poller"].online
            await trio.sleep(0.5)
        """
    result_of(pytester, suite, trio_mode=trio_mode).assert_outcomes(passed=1)


@pytest.mark.parametrize("trio_mode", [True, False])
def test_a_shutdown_fails_the_test(pytester: pytest.Pytester, trio_mode: bool) -> None:
    """an app that goes down quietly doesn't let the test pass without its asserts."""
    suite = """
        @pytest.mark.trio
        async def test_it(running_app, autojump_clock):
            running_app["poller"].start_worker(press)
            await trio.sleep(0.5)
            assert False, "this is never reached"

        async def press():
            from trio_modules import current_app
            current_app().request_shutdown("the button was pressed")
        """
    result = result_of(pytester, suite, trio_mode=trio_mode)
    assert_fails(result, "app 'shop' shut down before the test was over: the button was pressed")
    result.stdout.no_fnmatch_line("*never reached*")


def test_a_crash_fails_the_test(pytester: pytest.Pytester) -> None:
    """a crash beyond the budget ends the test with its error."""
    suite = """
        async def test_it(running_app, autojump_clock):
            running_app["poller"].nursery.start_soon(bang)
            await trio.sleep(0.5)
            assert False, "this is never reached"
        """
    result = result_of(pytester, suite)
    assert_fails(result, "OSError: disk full", "ModuleCrashed: *poller*")
    result.stdout.no_fnmatch_line("*never reached*")


def test_a_shutdown_fails_a_test_that_waits_for_nothing(pytester: pytest.Pytester) -> None:
    """a test that reaches its end all the same fails, too."""
    suite = """
        async def test_it(running_app):
            running_app.request_shutdown("too early")
        """
    assert_fails(result_of(pytester, suite), "app 'shop' shut down *: too early")


def test_a_failed_start_fails_the_test(pytester: pytest.Pytester) -> None:
    """the test doesn't begin."""
    suite = """
        async def test_it(app, running_app):
            assert False, "this is never reached"

        @pytest.fixture
        def app():
            return App(Module("db", start=bang))
        """
    result = result_of(pytester, suite)
    assert_fails(result, "StartError: *db*")
    result.stdout.no_fnmatch_line("*never reached*")


def test_an_unexpected_report_fails_a_test_that_passed(pytester: pytest.Pytester) -> None:
    """the message says what was reported, with the traceback of its exception."""
    suite = """
        async def test_it(running_app, autojump_clock):
            await trio.sleep(1.5)
        """
    assert_fails(
        result_of(pytester, suite),
        'raise ConnectionError("the database is away")',
        "UnexpectedReports: 1 report was not expected:",
        "panic in service-worker poller/poll: ConnectionError('the database is away'), at 1 s",
    )


def test_a_failed_test_tells_its_reports(pytester: pytest.Pytester) -> None:
    """its own exception is the failure, and a note says what else was reported."""
    suite = """
        async def test_it(running_app, autojump_clock):
            await trio.sleep(1.5)
            assert 1 == 2
        """
    result = result_of(pytester, suite)
    assert_fails(result, "besides, reported:", "panic in *the database is away*", "assert 1 == 2")
    result.stdout.no_fnmatch_line("*UnexpectedReports*")


def test_an_expected_report_fails_no_test(pytester: pytest.Pytester) -> None:
    """what the test expects or waits for may be reported."""
    suite = """
        async def test_expect(running_app, reports, autojump_clock):
            reports.expect(ConnectionError)
            await trio.sleep(1.5)

        async def test_wait(running_app, reports, autojump_clock):
            assert (await reports.wait_for(OSError)).time == 1
        """
    result_of(pytester, suite).assert_outcomes(passed=2)


def test_a_missing_report_fails_the_test(pytester: pytest.Pytester) -> None:
    """but only a test that passed otherwise."""
    suite = """
        async def test_it(running_app, reports):
            reports.expect(KeyError)
        """
    result = result_of(pytester, suite)
    assert_fails(result, "MissingReports: expected, but not reported:", "KeyError")


def test_a_skipped_test_is_skipped(pytester: pytest.Pytester) -> None:
    """pytest's own outcomes pass, whatever was reported."""
    suite = """
        async def test_it(running_app, autojump_clock):
            await trio.sleep(1.5)
            pytest.skip("not today")

        @pytest.mark.xfail(strict=True)
        async def test_x(running_app, autojump_clock):
            await trio.sleep(1.5)
        """
    result_of(pytester, suite).assert_outcomes(skipped=1, xfailed=1)


def test_a_deadline_that_passes_fails_the_test(pytester: pytest.Pytester) -> None:
    """the message says what there was instead."""
    suite = """
        async def test_it(running_app, autojump_clock):
            await wait_for_status(running_app["poller"], ModuleStatus.OFFLINE, within=0.5)
        """
    assert_fails(
        result_of(pytester, suite),
        "NotInTime: module 'poller' is ONLINE, not OFFLINE within 0.5 s:",
        "task 'poll' waits in poll, *.py:*",
    )


def test_an_app_of_the_own_fixture(pytester: pytest.Pytester) -> None:
    """a suite may run any app in fixtures of its own, with the same guarantee."""
    suite = """
        from trio_modules.testing import running

        @pytest.fixture
        async def other():
            async with running(App(Module("m"), name="other")) as app:
                yield app

        async def test_it(other):
            other.request_shutdown("by the other")
            await trio.sleep_forever()
        """
    assert_fails(result_of(pytester, suite), "app 'other' shut down *: by the other")


def test_a_part_of_the_graph_in_a_fixture(pytester: pytest.Pytester) -> None:
    """the fixture of the app may leave out modules and put fakes in."""
    suite = """
        store = Module("store")
        broken = Module("broken", start=bang)

        @store.lifespan
        async def connection():
            raise OSError("no server")
            yield 0

        @pytest.fixture
        def app():
            app = App(store, broken)
            with app.only(store), connection.override(7):
                yield app

        async def test_it(running_app):
            assert store.online and not broken.online
            assert connection.value == 7
        """
    result_of(pytester, suite).assert_outcomes(passed=1)


def test_a_synchronous_test_can_not_use_a_running_app(pytester: pytest.Pytester) -> None:
    """it is told what it needs."""
    suite = """
        def test_it(running_app):
            pass
        """
    result = result_of(pytester, suite, trio_mode=False)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'running_app' needs an async test that pytest-trio runs*"])


def test_without_pytest_trio_it_is_said(pytester: pytest.Pytester) -> None:
    """an async test without anybody who runs it is no reason for riddles."""
    pytester.makepyfile(APP + "@pytest.mark.trio\nasync def test_it(running_app):\n    pass\n")
    result = pytester.runpytest_inprocess("-p", "pytest_trio_modules", "-p", "no:trio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*'running_app' needs pytest-trio: install trio-modules[[]pytest[]]"]
    )


def test_a_suite_that_uses_nothing_of_it_is_not_disturbed(pytester: pytest.Pytester) -> None:
    """neither the package nor Trio is imported, and a fixture of the suite's own goes first.

    So a measurement of coverage that begins after the plugins were loaded misses nothing either.
    """
    pytester.makepyfile(
        """
        import sys
        import pytest

        @pytest.fixture
        def reports():
            return 7

        def test_it(reports):
            assert reports == 7
            assert [name for name in sys.modules if name.partition(".")[0] in UNWANTED] == []

        UNWANTED = ("trio_modules", "trio", "attr", "attrs")
        """
    )
    others = ("no:trio", "no:anyio", "no:hypothesispytest")
    options = [f"-p{name}" for name in ("pytest_trio_modules", *others)]
    pytester.runpytest_subprocess(*options, "-Werror").assert_outcomes(passed=1)


def test_the_plugin_is_there_by_entry_point() -> None:
    """pytest finds it under the name by which it can be switched off: its module's."""
    declared = 'pytest_trio_modules = "pytest_trio_modules"'
    assert f"[project.entry-points.pytest11]\n{declared}\n" in PYPROJECT.read_text()
    for point in metadata.entry_points(group="pytest11", name="pytest_trio_modules"):
        assert point.load() is pytest_trio_modules
