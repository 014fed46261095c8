"""Settings and fixtures for all tests."""

from __future__ import annotations

from hypothesis import settings

# No deadline: two cores shared with other processes make times say little.
settings.register_profile("trio_modules", deadline=None, derandomize=True)
settings.load_profile("trio_modules")
