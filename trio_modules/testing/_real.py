"""Real work under a virtual clock: it takes real time, while the clock jumps on without it."""

from __future__ import annotations

import threading

import trio
import trio.testing

from trio_modules.testing._scheduling import all_tasks

__all__ = ["RealWork"]

#: Trio names its threads after what works in them, and after nothing while they are idle.
_AT_WORK = " from "
_WAITS = {
    "_epoll_wait": "a socket or pipe",
    "_wait_common": "a socket or pipe",
    "wait_readable": "a socket or pipe",
    "wait_writable": "a socket or pipe",
    "to_thread_run_sync": "a thread",
}
#: It looks each of so many times first, and then once in so many.
_CLOSELY, _RARELY = 2000, 16
_OWN_PACKAGES = ("trio", "trio_modules")


class RealWork:
    """Looks for tasks that wait for the world outside.

    Attributes:
        place: where the first was found: what for, function, file and line; "" while none is.
    """

    def __init__(self) -> None:
        self.place = ""
        self._threads = threading.enumerate()
        self._own: int | None = None
        self._asked = 0

    async def calibrate(self) -> None:
        """See what waits before anybody else works: Trio's own."""
        await trio.testing.wait_all_tasks_blocked()
        self._own = _waiting_for_files()

    def found(self) -> bool:
        """Whether there is one, or was one before; to be asked when all is quiet."""
        if self._own is None or self.place:
            return bool(self.place)
        self._asked += 1
        if self._asked > _CLOSELY and self._asked % _RARELY:
            return False
        if _waiting_for_files() > self._own or self._threads_work():
            self.place = _place()
        return bool(self.place)

    def _threads_work(self) -> bool:
        if threading.active_count() != len(self._threads):
            self._threads = threading.enumerate()
        return any(_AT_WORK in thread.name for thread in self._threads)


def _waiting_for_files() -> int:
    io = trio.lowlevel.current_statistics().io_statistics
    counts = (getattr(io, name, 0) for name in ("tasks_waiting_read", "tasks_waiting_write"))
    return sum(counts)


def _place() -> str:
    """What the first such task waits for, and where, in code that isn't the framework's."""
    for task in all_tasks():
        frames = list(task.iter_await_frames())
        waits = [
            _WAITS[frame.f_code.co_name] for frame, _ in frames if frame.f_code.co_name in _WAITS
        ]
        users = [
            (frame.f_code, line)
            for frame, line in frames
            if str(frame.f_globals.get("__name__")).partition(".")[0] not in _OWN_PACKAGES
        ]
        if waits and users:
            code, line = users[-1]
            return f"{waits[0]} in {code.co_name}, {code.co_filename}:{line}"
    return "a file descriptor or a thread, in a task of Trio's own"
