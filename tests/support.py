"""What several test files share."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trio._core import _run

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Make each ``trio.run`` inside schedule its tasks as ``seed`` says."""
    # Trio has no public switch for this; pytest-trio turns the same one for async tests.
    scheduler: Any = _run
    was_deterministic = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    state = scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = was_deterministic
        scheduler._r.setstate(state)
