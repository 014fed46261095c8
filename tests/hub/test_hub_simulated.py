"""The hub through days of outages, in a world of its own (simulated_hub.py)."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
import trio
from database import connect
from simulated_hub import World, make_app, nothing_lost
from trio.testing import MockClock

from trio_modules.testing import FaultPlan, SimulationResult, simulate

DAY = 86_400.0
NO_FAULTS = FaultPlan(every=None)  # but those of the world: its disk fails by itself
FEW_FAULTS = FaultPlan(every=2 * 3600, targets=("store/*", "receiver/*", "stats/*", "alerts/*"))


def simulated(days: float, seed: int, faults: FaultPlan) -> SimulationResult:
    """Simulate the hub, which must not lose what it has taken."""
    return simulate(
        make_app, seed=seed, duration=days * DAY, faults=faults, check=nothing_lost, shrink=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("faults", [NO_FAULTS, FEW_FAULTS], ids=["disk", "modules"])
def test_the_hub_survives_outages_the_same_way_each_time(faults: FaultPlan) -> None:
    """No promise is broken, by the framework's or the hub's own account, and a seed is a run."""
    result = simulated(0.25, 1, faults)
    result.assert_ok()
    assert result.trace_text == simulated(0.25, 1, faults).trace_text
    assert result.trace_text != simulated(0.25, 2, faults).trace_text


@pytest.mark.slow
def test_a_week_of_outages_takes_less_than_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """Seven days with a disk that fails every six hours, without a lost message."""
    began, cpu_began = time.perf_counter(), time.process_time()
    result = simulated(7, 1, NO_FAULTS)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    with capsys.disabled():
        print(
            f"\n7 days of the hub: {seconds:.1f} s ({cpu_seconds:.1f} s of CPU), "
            f"{result.steps:,} steps, {result.checks:,} checks, {result.reports:,} reports"
        )
    result.assert_ok()
    assert result.time >= 7 * DAY
    assert result.reports > 1_000  # the outages were there
    assert cpu_seconds < 60


@pytest.mark.slow
def test_modules_that_fail_for_days_lose_nothing() -> None:
    """Beside the disk any function of the hub's modules may fail, hang, be late or deaf."""
    simulated(2, 3, FEW_FAULTS).assert_ok()


async def run_for_some_hours(lose: int = 0) -> tuple[int, int, int]:
    """Run the hub, lose some messages behind its back, check it, and count."""
    with make_app() as app:
        app.rng.seed(1)
        async with app:
            await trio.sleep(DAY / 8)
        world = app.get("world", World)
        with closing(connect(world.disk.path)) as connection:
            connection.execute("DELETE FROM messages WHERE seq <= ?", (lose,))
        nothing_lost(app)
        return world.sent, len(world.confirmed), len(world.disk.stored())


def test_what_is_sent_is_confirmed_and_stored() -> None:
    """The world's own figures add up: there is traffic, nearly all of it confirmed and stored."""
    clock = MockClock(autojump_threshold=0)
    sent, confirmed, stored = trio.run(run_for_some_hours, clock=clock)
    assert sent > 1_000
    assert 0.6 * sent < confirmed < stored <= sent


def test_a_loss_is_found() -> None:
    """The check isn't blind: what vanishes from the database fails it."""
    with pytest.raises(AssertionError, match=r"of \d+ confirmed messages are not in the database"):
        trio.run(run_for_some_hours, 500, clock=MockClock(autojump_threshold=0))
