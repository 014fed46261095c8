"""Settings and fixtures for all tests."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

# For the benchmarks; behind all others, so that the package tested stays the installed one.
sys.path.append(str(Path(__file__).parents[1]))

# No deadline: two cores shared with other processes make times say little.
settings.register_profile("trio_modules", deadline=None, derandomize=True)
settings.load_profile("trio_modules")
