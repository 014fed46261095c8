"""The pytest plugin of `trio_modules`: fixtures for tests of services.

Pytest imports it in every run, whether or not a test has to do with `trio_modules`. So it stands
beside the package, not in it, and imports the package when one of its fixtures is asked for: runs
without are not slowed down, and a measurement of coverage that begins after the plugins are
loaded misses nothing of the package.

PYTEST_DONT_REWRITE: it asserts nothing, and may have been imported before.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from trio_modules import App
    from trio_modules.testing import Reports

__all__ = ["reports", "running_app"]

_reports_key = pytest.StashKey["Reports"]()


@pytest.fixture
def reports(request: pytest.FixtureRequest) -> Reports:
    """What the apps of this test report: the test fails on what it has not foreseen.

    A `trio_modules.testing.Reports`, with the methods `expect`, `allow` and `wait_for`.
    """
    from trio_modules.testing import Reports

    made = request.node.stash[_reports_key] = Reports()
    return made


@pytest.fixture
async def running_app(_trio_test: None, app: App, reports: Reports) -> AsyncIterator[App]:
    """The app of the test suite's own fixture ``app``, running for the length of the test.

    The test fails when the app goes down before the test is over, and on unexpected reports.
    """
    from trio_modules.testing import running

    async with running(app, reports=reports):
        yield app


@pytest.fixture
def _trio_test(request: pytest.FixtureRequest) -> None:
    if not request.config.pluginmanager.has_plugin("trio"):
        pytest.fail(
            "the fixture 'running_app' needs pytest-trio: install trio-modules[pytest]",
            pytrace=False,
        )
    if request.node.get_closest_marker("trio") is None:
        pytest.fail(
            "the fixture 'running_app' needs an async test that pytest-trio runs: "
            "mark it with pytest.mark.trio, or set trio_mode = true",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Check the reports when the test is over: not in the fixture, where it isn't known how.

    A test that has failed has its own exception then, with a note of what else was reported.
    """
    __tracebackhide__ = True
    made = item.stash.get(_reports_key, None)
    with nullcontext() if made is None else made:
        return (yield)
