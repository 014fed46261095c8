"""Random services keep the promises that hold for every service.

Each seed stands for one service. ``TRIO_MODULES_SERVICES`` sets how many of them are tried, and
``TRIO_MODULES_FIRST_SERVICE`` where to begin.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faulty.catalogue import FAULTS, Fault
from services.build import run_seed
from services.check import check, trace_of
from services.generate import generate

import trio_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(trio_modules.__file__).parent
SERVICES = int(os.environ.get("TRIO_MODULES_SERVICES", "500"))
FIRST = int(os.environ.get("TRIO_MODULES_FIRST_SERVICE", "0"))
BATCH = 50
#: What once was found, and is tried each time beside the others.
FOUND = (
    3425,
    3427,
    5920,
    6640,
    7242,
    23843,
    26250,
    49982,
    51257,
    51982,
    58629,
    65245,
    72829,
    86231,
    86596,
    92807,
    95746,
    99807,
)
TAIL = 60
REPEATED = 40


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("trio_modules")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def faults_of(seed: int) -> str:
    """Run the service of *seed* and describe what it does wrong, "" if nothing."""
    for number, run in enumerate(run_seed(seed)):
        errors = check(run)
        if errors:
            found = "\n".join(f"  - {error}" for error in errors)
            tail = "\n".join(trace_of(run)[-TAIL:])
            return f"seed {seed}, round {number}:\n{found}\nthe end of its trace:\n{tail}\n"
    return ""


@pytest.mark.parametrize("first", range(FIRST, FIRST + SERVICES, BATCH))
def test_every_service_keeps_the_rules(first: int) -> None:
    """whatever a service does, it starts, fails, restarts and stops in order, and loses nothing."""
    seeds = range(first, min(first + BATCH, FIRST + SERVICES))
    faults = [fault for fault in map(faults_of, seeds) if fault]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_stays_mended(seed: int) -> None:
    """a service that once broke a rule keeps all of them."""
    assert not faults_of(seed)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + REPEATED))
def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    """with the same seed, clock and scheduling a service does the same, step by step."""
    traces = [[trace_of(run) for run in run_seed(seed)] for _ in range(2)]
    assert traces[0] == traces[1]


def test_a_seed_stands_for_one_plan() -> None:
    """the generator takes all chance from its seed."""
    assert generate(7) == generate(7)
    assert generate(7) != generate(8)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_deliberate_fault_has_its_place(fault: Fault, tmp_path: Path) -> None:
    """each fault for the random services fits into the package as it is, and leaves it Python."""
    room = PACKAGE / f"{fault.room}.py"
    shutil.copy(room, tmp_path)
    fault.put_into(tmp_path)
    text = (tmp_path / room.name).read_text(encoding="utf-8")
    assert text != room.read_text(encoding="utf-8")
    compile(text, room.name, "exec")
