"""The protocols that users of `trio_modules` implement."""

from __future__ import annotations

from trio_modules._module import Interceptor
from trio_modules._seam import AnyAsyncFn, CallKind

__all__ = ["AnyAsyncFn", "CallKind", "Interceptor"]
