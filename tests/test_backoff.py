"""Delays and budgets as pure functions: no clock, no event loop."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_modules import Backoff, Restart
from trio_modules._backoff import RestartTracker, checked_policy

if TYPE_CHECKING:
    from collections.abc import Callable

RNG = random.Random(0)


@pytest.mark.parametrize(
    ("growth", "delays"),
    [("linear", [2, 4, 6, 8, 10]), ("exponential", [2, 4, 8, 16, 20])],
)
def test_growth(growth: Literal["linear", "exponential"], delays: list[float]) -> None:
    """linear multiplies by the number of failures, exponential doubles, both up to the maximum."""
    backoff = Backoff(growth=growth, maximum=20)
    assert [backoff.delay(failures) for failures in range(1, 6)] == delays


@given(
    failures=st.integers(min_value=1, max_value=10**400),
    growth=st.sampled_from(["linear", "exponential"]),
    initial=st.floats(min_value=0, max_value=1e9),
    jitter=st.floats(min_value=0, max_value=1),
    seed=st.integers(),
)
def test_any_number_of_failures_is_clipped(
    failures: int,
    growth: Literal["linear", "exponential"],
    initial: float,
    jitter: float,
    seed: int,
) -> None:
    """no number of failures overflows, and jitter never leaves [0, maximum]."""
    backoff = Backoff(initial=initial, growth=growth, maximum=300, jitter=jitter)
    delay = backoff.delay(failures, random.Random(seed))
    assert isinstance(delay, float)
    assert 0 <= delay <= 300


def test_jitter_spreads_both_ways_around_the_delay() -> None:
    """with a jitter of 0.5 delays lie within half of the plain one, on both sides of it."""
    backoff = Backoff(initial=10, jitter=0.5)
    rng = random.Random(1)
    delays = [backoff.delay(1, rng) for _ in range(200)]
    assert all(5 <= delay <= 15 for delay in delays)
    assert min(delays) < 7
    assert max(delays) > 13


def test_without_a_generator_there_is_no_jitter() -> None:
    """the same call gives the same delay when no random numbers are handed in."""
    assert Backoff(initial=10, jitter=0.5).delay(1) == 10


@pytest.mark.parametrize("failures", [0, -1])
def test_failures_are_counted_from_one(failures: int) -> None:
    """no failures have no delay: the error names the argument and shows the value."""
    with pytest.raises(ValueError, match=rf"failures.*{failures}"):
        Backoff().delay(failures)


def test_the_budget_is_a_sliding_window() -> None:
    """so many restarts are allowed within the period that ends now, one more is too much."""
    tracker = RestartTracker(Restart(max_restarts=2, within=10, backoff=Backoff(initial=0)))
    assert tracker.failed(0, 0, RNG) == 0
    assert tracker.failed(0, 5, RNG) == 0
    assert tracker.failed(0, 11, RNG) == 0  # the first has left the window
    assert tracker.failed(0, 12, RNG) is None
    assert tracker.crashes == 3


def test_no_restarts_at_all() -> None:
    """with max_restarts=0 the first failure is over budget."""
    assert RestartTracker(Restart(max_restarts=0)).failed(0, 1, RNG) is None


def test_a_long_run_sets_the_count_back() -> None:
    """a run that lasted exactly reset_after before it failed counts as a first failure."""
    tracker = RestartTracker(Restart(backoff=Backoff(initial=1, reset_after=100)))
    assert [tracker.failed(0, now, RNG) for now in (1, 2, 3)] == [1, 2, 3]
    assert tracker.failed(3, 102.9, RNG) == 4
    assert tracker.failed(103, 203, RNG) == 1


def test_an_immediate_restart_counts_all_the_same() -> None:
    """RestartNow has no delay, but the next failure has the second one's."""
    tracker = RestartTracker(Restart(backoff=Backoff(initial=1)))
    assert tracker.failed(0, 1, RNG, immediate=True) == 0
    assert tracker.failed(0, 1, RNG) == 2


def test_a_new_budget() -> None:
    """after renew() nothing is remembered."""
    tracker = RestartTracker(Restart(max_restarts=1, backoff=Backoff(initial=1)))
    assert tracker.failed(0, 1, RNG) == 1
    assert tracker.failed(0, 2, RNG) is None
    tracker.renew()
    assert tracker.failed(0, 3, RNG) == 1


def test_the_window_includes_its_beginning() -> None:
    """a restart exactly `within` seconds ago still counts, one that is older doesn't."""
    for second, expected in ((10, None), (10.001, 0)):
        tracker = RestartTracker(Restart(max_restarts=1, within=10, backoff=Backoff(initial=0)))
        assert tracker.failed(0, 0, RNG) == 0
        assert tracker.failed(0, second, RNG) == expected


def test_the_jitter_is_the_generators() -> None:
    """the same generator gives the same delay, here as in a tracker; upwards is upwards."""
    backoff = Backoff(initial=10, jitter=0.5)
    expected = 10 * (1 + 0.5 * random.Random(7).uniform(-1, 1))
    assert backoff.delay(1, random.Random(7)) == expected
    assert RestartTracker(Restart(backoff=backoff)).failed(0, 1, random.Random(7)) == expected


def test_small_delays_stay_what_they_are() -> None:
    """nothing rounds them up; no delay is no delay, after any number of failures."""
    assert Backoff(initial=0.25).delay(1) == 0.25
    assert Backoff(initial=0).delay(5) == 0
    assert Backoff(initial=0, growth="exponential").delay(5000) == 0


@pytest.mark.parametrize(
    ("what", "name", "value", "message"),
    [
        (Backoff, "initial", -1, "initial must be at least 0, got -1"),
        (Backoff, "maximum", "5", "maximum must be a number of seconds, got '5'"),
        (Backoff, "reset_after", -2, "reset_after must be at least 0, got -2"),
        (Backoff, "growth", "cubic", "growth must be 'linear' or 'exponential', got 'cubic'"),
        (Backoff, "jitter", 1.5, "jitter must be a fraction from 0 to 1, got 1.5"),
        (Backoff, "jitter", -0.5, "jitter must be at least 0, got -0.5"),
        (Backoff().delay, "failures", 0, "failures must be at least 1, got 0"),
        (Restart, "max_restarts", -1, "max_restarts must be at least 0, got -1"),
        (Restart, "within", -1, "within must be at least 0, got -1"),
        (Restart, "backoff", 2, "backoff must be a Backoff, got 2"),
        (Restart, "exhausted", "go", "exhausted must be 'shutdown' or 'offline', got 'go'"),
        (checked_policy, "restart", 5, "restart must be a Restart, got 5"),
    ],
)
def test_what_is_wrong_is_named_and_shown(
    what: Callable[..., object], name: str, value: object, message: str
) -> None:
    """the whole message, since all of it is for people."""
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
        what(**{name: value})


def test_what_is_allowed_at_the_edges() -> None:
    """the whole delay as jitter, both ends of a failed module, no limit at all."""
    assert Backoff(jitter=1).jitter == 1
    assert Restart(exhausted="offline").exhausted == "offline"
    assert Restart(exhausted="shutdown").exhausted == "shutdown"
    assert checked_policy(None) == Restart(max_restarts=None)
