"""The types that users of `trio_modules` implement or annotate with, and seldom name."""

from __future__ import annotations

from trio_modules._events import EventStatistics, HookStatistics
from trio_modules._module import Interceptor
from trio_modules._seam import AnyAsyncFn, CallKind

__all__ = ["AnyAsyncFn", "CallKind", "EventStatistics", "HookStatistics", "Interceptor"]
