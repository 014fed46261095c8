"""Sync functions in threads and in other processes, on behalf of a module.

A thread notes its identity with the guest whose work it does, so that a stop that hangs on it can
show where. Processes are those of `trio-parallel`, an extra: they live as long as the run of the
app that used them.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pickle
import threading
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import trio

from trio_modules._exceptions import ProcessDied
from trio_modules._util import check_call
from trio_modules._workers import Guest

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    ArgsT = TypeVarTuple("ArgsT")

__all__ = ["Processes", "check_portable", "check_sync", "in_thread"]

T = TypeVar("T")

#: Seconds that idle processes have to leave when the app does.
LEAVE_TIME = 5.0


async def in_thread(
    guest: Guest,
    sync_fn: Callable[[Unpack[ArgsT]], T],
    args: tuple[Unpack[ArgsT]],
    limiter: trio.CapacityLimiter | None,
) -> T:
    """Call *sync_fn* in a thread, which no cancellation leaves behind."""

    def work() -> T:
        guest.thread = threading.get_ident()
        try:
            return sync_fn(*args)
        finally:
            guest.thread = None

    return await trio.to_thread.run_sync(work, limiter=limiter)


class _Pool(Protocol):
    def run_sync(
        self, sync_fn: Callable[[], T], *, kill_on_cancel: bool, limiter: trio.CapacityLimiter
    ) -> Awaitable[T]: ...


class Processes:
    """The processes of one run of an app, made on first use.

    Args:
        in_root: runs a function in the root nursery.
    """

    def __init__(self, in_root: Callable[[Callable[[], Awaitable[object]], str], None]) -> None:
        self._in_root = in_root
        self._ready: trio.Event | None = None
        self._pool: _Pool | None = None
        self._limiter = trio.CapacityLimiter(float("inf"))  # slots are what limits them

    async def run(
        self, module: str, name: str, sync_fn: Callable[[Unpack[ArgsT]], T],
        args: tuple[Unpack[ArgsT]],
    ) -> T:  # fmt: skip
        """Call *sync_fn* in another process; cancellation kills that.

        Raises:
            ProcessDied: if the process is gone before it has answered.
        """
        library = _library()
        pool = await self._opened()
        call = functools.partial(sync_fn, *args)
        try:
            return await pool.run_sync(call, kill_on_cancel=True, limiter=self._limiter)
        except library.BrokenWorkerError as exc:
            raise ProcessDied(module, name) from exc

    async def _opened(self) -> _Pool:
        if self._ready is None:
            self._ready = trio.Event()
            self._in_root(self._hold_open, "processes")
        await self._ready.wait()
        assert self._pool is not None
        return self._pool

    async def _hold_open(self) -> None:
        assert self._ready is not None
        async with _library().open_worker_context(grace_period=LEAVE_TIME) as pool:
            self._pool = cast("_Pool", pool)
            self._ready.set()
            await trio.sleep_forever()


def _library() -> ModuleType:
    try:
        return importlib.import_module("trio_parallel")
    except ImportError as exc:
        raise ImportError(
            "where='process' needs the extra 'parallel': pip install 'trio-modules[parallel]'"
        ) from exc


def check_sync(fn: Callable[..., object], args: tuple[object, ...], what: str) -> None:
    """Raise `TypeError` unless *fn* is a plain function that takes *args*."""
    if inspect.iscoroutinefunction(fn) or not callable(fn):
        raise TypeError(f"{what} expected a sync function, but got {fn!r}")
    check_call(fn, args, what)


def check_portable(fn: Callable[..., object], args: tuple[object, ...], what: str) -> None:
    """Raise `TypeError` unless *fn* and *args* can be sent to another process."""
    for value in (fn, *args):
        try:
            pickle.dumps(value)
        except Exception as exc:
            raise TypeError(
                f"{what} can't send {value!r} to another process: {exc}; functions have to be "
                "importable there"
            ) from exc
