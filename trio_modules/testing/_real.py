"""Real work under a virtual clock: it takes real time, while the clock jumps on without it."""

from __future__ import annotations

import trio
import trio.testing

from trio_modules._context import owner_of
from trio_modules.testing._scheduling import all_tasks

__all__ = ["RealWork"]

_WAITS = {
    "_epoll_wait": "a socket or pipe",
    "_wait_common": "a socket or pipe",
    "wait_readable": "a socket or pipe",
    "wait_writable": "a socket or pipe",
    "to_thread_run_sync": "a thread",
}
#: It looks for files each of so many times first, and then once in so many.
_CLOSELY, _RARELY = 2000, 16
#: The task of Trio's that others wake from outside.
_WAKER = "<TrioToken.run_sync_soon task>"
_OWN_PACKAGES = ("trio", "trio_modules")
#: The place of a wait without any code of the user's around it.
_NOWHERE = "code of trio or trio_modules"


class RealWork:
    """Looks for tasks that wait for the world outside.

    Attributes:
        place: where the first was found: what for, function, file and line; "" while none is.
        waker: the task of Trio's that wakes others for threads; None before `calibrate`.
    """

    def __init__(self) -> None:
        self.place = ""
        self._own: int | None = None
        self._asked = 0
        self.waker: trio.lowlevel.Task | None = None

    async def calibrate(self) -> None:
        """See what waits before anybody else works: Trio's own."""
        await trio.testing.wait_all_tasks_blocked()
        self._own = _waiting_for_files()
        self.waker = next(task for task in all_tasks() if task.name == _WAKER)

    def woke(self, task: trio.lowlevel.Task) -> bool:
        """Whether *task*, which may have been woken from outside, waited for a thread.

        Such a thread may be over before anybody asks what is found.
        """
        self.place = self.place or _place_of(task)
        return bool(self.place)

    def found(self) -> bool:
        """Whether there is one, or was one before; to be asked when all is quiet."""
        if self._own is None or self.place:
            return bool(self.place)
        if trio.testing.active_thread_count() or self._files_are_awaited(self._own):
            self.place = self._first_place()
        return bool(self.place)

    def _files_are_awaited(self, own: int) -> bool:
        self._asked += 1
        if self._asked > _CLOSELY and self._asked % _RARELY:
            return False
        return _waiting_for_files() > own

    def _first_place(self) -> str:
        """Where the first task waits, one of the user's if there is; "" without any."""
        others = (task for task in all_tasks() if task is not self.waker)
        places = list(filter(None, map(_place_of, others)))
        return min(places, key=lambda place: _NOWHERE in place, default="")


def _waiting_for_files() -> int:
    io = trio.lowlevel.current_statistics().io_statistics
    counts = (getattr(io, name, 0) for name in ("tasks_waiting_read", "tasks_waiting_write"))
    return sum(counts)


def _place_of(task: trio.lowlevel.Task) -> str:
    """What a task waits for, and where, in code that isn't the framework's; "" if it doesn't."""
    calls = [frame.f_code.co_name for frame, _ in task.iter_await_frames()]
    waits = [_WAITS[name] for name in calls if name in _WAITS]
    if not waits:
        return ""
    return f"{waits[0]} in {_code_around(task)}"


def _code_around(below: trio.lowlevel.Task) -> str:
    """The innermost code of the user's, of the task or of one that waits for it."""
    task: trio.lowlevel.Task | None = below
    while task is not None:
        users = [
            f"{frame.f_code.co_name}, {frame.f_code.co_filename}:{line}"
            for frame, line in task.iter_await_frames()
            if str(frame.f_globals.get("__name__")).partition(".")[0] not in _OWN_PACKAGES
        ]
        if users:
            return users[-1]
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
    owner = owner_of(below)
    return _NOWHERE if owner is None else f"{_NOWHERE}, for module {owner.name!r}"
