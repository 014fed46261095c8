"""Steps of tasks: those of a coroutine in a context of its own, and the one that follows a wait.

A task that does one small job after another saves the spawn, but each job still has to run in a
copy of its starter's context. So the coroutine is stepped in that context, here: a job that never
waits is over in one step, and one that does goes on as the awaited `Rest`.

There may be a hundred thousand tasks that wait. What each of them makes anew for a wait is what
waking them costs, and what the garbage collector looks at: `WOKEN`, `trap_of` and `wait_again`
are there so that it needn't.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import trio

if TYPE_CHECKING:
    from outcome import Outcome

__all__ = [
    "OVER",
    "PARKED",
    "TURN",
    "WOKEN",
    "AbortFn",
    "Outermost",
    "Rest",
    "begin",
    "first_step",
    "itself",
    "run_in_context",
    "start_in",
    "trap_of",
    "wait_again",
]

T = TypeVar("T")

#: What calls off the wait of a task that is cancelled.
AbortFn = Callable[[object], trio.lowlevel.Abort]

#: Seconds for which small jobs may follow each other before everybody else has a turn.
TURN = 0.01

_TAKEN = object()

#: What a step gives that was the last, see `begin`.
OVER = object()


class _Woken:
    """The outcome of a wait in which nothing is handed over."""

    __slots__ = ()

    def unwrap(self) -> None:
        """Return None, to each who asks."""


#: For `trio.lowlevel.reschedule`. Without it Trio makes an outcome for each wake-up, which may be
#: taken once alone: a quarter of what it costs to wake a hundred thousand, with the collector.
WOKEN = cast("Outcome[object]", _Woken())


def trap_of(abort: AbortFn) -> object:
    """What `trio.lowlevel.wait_task_rescheduled` hands to Trio, for `wait_again`."""
    wait = trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 - stepped by hand
    trap: object = wait.send(None)
    wait.close()
    return trap


@types.coroutine
def wait_again(trap: object) -> Generator[object, Outcome[None], None]:
    """Do what `trio.lowlevel.wait_task_rescheduled` does, with what is made for it once.

    A task that waits again and again makes one object for a wait in place of four.
    """
    (yield trap).unwrap()


def _give_up(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.SUCCEEDED


#: What all wait with whose tasks have a mark while they wait, `custom_sleep_data`, which Trio takes
#: from whoever goes on: a trap of its own would cost each four objects.
PARKED = trap_of(_give_up)


class Outermost(Coroutine[object, object, None]):
    """A coroutine that is a task's outermost one and stands before another, of ours or a user's.

    A second real coroutine around that would cost more: a frame, and a step through it each time.
    Whoever walks the stack of the task sees the frames of the other.
    """

    __slots__ = ("_coro",)

    _coro: Coroutine[object, object, object] | Generator[object, Any, object]

    # Trio's locks ask for the state of their holder's coroutine.
    cr_frame = property(operator.attrgetter("_coro.cr_frame"))
    cr_await = property(operator.attrgetter("_coro.cr_await"))
    cr_running = property(operator.attrgetter("_coro.cr_running"))
    cr_suspended = property(operator.attrgetter("_coro.cr_suspended"))
    cr_code = property(operator.attrgetter("_coro.cr_code"))
    cr_origin = property(operator.attrgetter("_coro.cr_origin"))

    def __await__(self) -> Outermost:  # type: ignore[override]
        return self

    def __next__(self) -> object:
        return self.send(None)


def itself(coro: Coroutine[object, object, T]) -> Coroutine[object, object, T]:
    """For `Nursery.start_soon`, which calls something that returns a coroutine."""
    return coro


def start_in(nursery: trio.Nursery, coro: Coroutine[object, object, object], name: str) -> None:
    """Start a task of *coro* in the nursery; `Context.run` calls it where a context is given."""
    nursery.start_soon(itself, coro, name=name)


class Rest(Generic[T]):
    """What is left of a coroutine after its first step.

    It is the iterator of its own ``await``, and has the attributes of a coroutine by which stacks
    are walked, so that everything that shows where a task waits looks through it.
    """

    __slots__ = ("_context", "_coro", "_trap")

    def __init__(self, context: Context, coro: Coroutine[object, object, T], trap: object) -> None:
        self._context = context
        self._coro = coro
        self._trap: object = trap

    def __await__(self) -> Generator[object, object, T]:
        return cast("Generator[object, object, T]", self)

    def __next__(self) -> object:
        """A sent None ends here, as the first always does: that step is done, but not handed on."""
        trap, self._trap = self._trap, _TAKEN
        return self.send(None) if trap is _TAKEN else trap

    def send(self, value: object) -> object:
        return self._context.run(self._coro.send, value)

    def throw(self, *exc: BaseException) -> object:
        throw = cast("Callable[..., object]", self._coro.throw)
        return self._context.run(throw, *exc)

    def close(self) -> None:
        self._coro.close()

    @property
    def cr_frame(self) -> types.FrameType | None:
        return cast("types.FrameType | None", getattr(self._coro, "cr_frame", None))

    @property
    def cr_await(self) -> object:
        return getattr(self._coro, "cr_await", None)


def first_step(
    context: Context, coro: Coroutine[object, object, T]
) -> tuple[Literal[True], T] | tuple[Literal[False], Awaitable[T]]:
    """Step *coro*, not yet begun, in *context*: whether it is over, and its value or its rest.

    What it raises in that step is raised here.
    """
    try:
        trap = context.run(coro.send, None)
    except StopIteration as stop:
        return True, cast("T", stop.value)
    return False, Rest(context, coro, trap)


def begin(context: Context, coro: Coroutine[object, object, T]) -> Awaitable[T] | None:
    """Step *coro*, not yet begun, in *context*: its rest, or None if it is over.

    Nobody learns what it returned. That spares the exception by which a coroutine would tell it,
    and the frames and the traceback of that: half of the cost of such a step.
    """
    trap = context.run(next, coro.__await__(), OVER)
    return None if trap is OVER else Rest(context, coro, trap)


async def run_in_context(context: Context, coro: Coroutine[object, object, T]) -> T:
    """Await *coro*, not yet begun, with each of its steps in *context*.

    Cancellation and exceptions reach it and leave it as if it were awaited plainly.
    """
    is_over, value = first_step(context, coro)
    return cast("T", value) if is_over else await cast("Awaitable[T]", value)
