"""Random services, run under the mock clock and checked from user code against the invariants."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from services.build import run_seed
from services.check import check, trace_of

SEEDS = int(os.environ.get("RANDOM_SERVICES", "300"))
CHUNK = 25
TAIL = 60


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of failures on purpose are nothing to log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def complaints(seed: int) -> list[str]:
    found = []
    for run in run_seed(seed):
        wrong = check(run)
        if wrong:
            found += [f"seed {seed}: {line}" for line in wrong]
            found += trace_of(run)[-TAIL:]
    return found


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_random_services_keep_the_invariants(first: int) -> None:
    """whatever fails, hangs, crashes or is cancelled, no rule that user code can see is broken."""
    found = [line for seed in range(first, min(first + CHUNK, SEEDS)) for line in complaints(seed)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("seed", range(0, SEEDS, max(SEEDS // 10, 1)))
def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    """two runs of one seed leave the same trace, step by step."""
    first, second = ([trace_of(run) for run in run_seed(seed)] for _ in range(2))
    assert first == second


def test_the_checker_sees_a_broken_rule() -> None:
    """a run whose trace is cut short doesn't pass: the checker isn't blind."""
    caught = 0
    for seed in range(20):
        for run in run_seed(seed):
            del run.records[len(run.records) // 2 :]
            caught += bool(check(run))
    assert caught > 10
