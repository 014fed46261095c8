"""A task as its users hold it: work of a module that is queued, scheduled or repeated.

What flows through here and the two rooms above, `_taskboard` and `_taskwork`: a task joins the
board's line, by hand or when the time comes that it is scheduled for. The board begins it when it
is its turn, by handing it to a runner of its module. When the execution has ended, the board looks
for the next one, in the same step.

What may never happen: a task twice in the line, or executed twice at a time; one that is accepted
and then neither runs nor is cancelled; an execution that begins when its module is stopping.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Literal, Protocol

import attrs
import trio

from trio_modules._context import HasMainTask, snapshot
from trio_modules._cron import Cron, check_zone
from trio_modules._exceptions import TaskFailed
from trio_modules._schedule import Item, Rank
from trio_modules._seam import SeamedModule
from trio_modules._status import ModuleStatus
from trio_modules._util import check_seconds

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "NO_EXTRAS",
    "BaseTask",
    "Execution",
    "Extras",
    "Retry",
    "Rhythm",
    "TaskKind",
    "TaskModule",
    "TaskOrder",
    "TaskOwner",
    "WallClock",
    "check_at",
    "check_misfire",
    "cron_rhythm",
]

#: Takes the task; which class that is, the face of the module says.
TaskFn = Callable[..., Awaitable[object]]

#: Seconds that a task is queued at most, unless it says otherwise (seed).
MAX_DELAY = 180.0


class Retry(Exception):
    """Raised by a task: queue me again after that time (ours).

    It is no failure and isn't reported; ``task.attempt`` counts.

    Args:
        after: seconds from now on, at least 0.

    Attributes:
        after: the seconds.
    """

    def __init__(self, after: float = 0.0) -> None:
        self.after = check_seconds("after", after, finite=True)
        super().__init__(self.after)


@attrs.frozen
class Rhythm:
    """How a task repeats itself: by an interval from each end on, or by a cron line.

    Attributes:
        interval: seconds from the end of one execution to the next one.
        cron: the line, None with an interval.
        jitter: up to so many seconds later, each time anew.
        misfire: what becomes of times of the line that pass while nobody can take them.
    """

    interval: float = 0.0
    cron: Cron | None = None
    jitter: float = 0.0
    misfire: Literal["run-once", "skip"] = "run-once"


@attrs.frozen
class WallClock:
    """The app's wall time beside Trio's.

    Attributes:
        now: the wall time.
        virtual: whether it follows Trio's clock, so that nobody can set it.
    """

    now: Callable[[], datetime]
    virtual: bool

    def to_trio(self, moment: datetime) -> float:
        """The time on Trio's clock at which the wall clock will show that moment."""
        return trio.current_time() + (moment - self.now()).total_seconds()


class TaskWorkers(Protocol):
    """What tasks have to know of the work of their module."""

    @property
    def nursery(self) -> trio.Nursery | None: ...
    @property
    def open(self) -> bool: ...
    def report(self, failure: BaseException, name: str, kind: str) -> None: ...


class TaskModule(HasMainTask, SeamedModule, Protocol):
    """What tasks have to know of their module."""

    @property
    def face(self) -> object: ...
    @property
    def status(self) -> ModuleStatus: ...
    @property
    def stop_reason(self) -> str: ...
    @property
    def workers(self) -> TaskWorkers: ...


class Execution(Protocol):
    """What executes a task."""

    def cancel(self, reason: str) -> None: ...


class TaskOrder(Protocol):
    """What says whose turn it is, as a task sees it."""

    context: Context | None

    @property
    def entered(self) -> float: ...
    @property
    def clock(self) -> WallClock: ...
    def check_interval(self, interval: float) -> None: ...
    def check_time(self, at: object) -> float: ...
    def enqueue(self, task: BaseTask, rank: Rank) -> None: ...
    def set_delay(self, task: BaseTask) -> None: ...
    def schedule(self, task: BaseTask, when: float, wall: datetime | None = None) -> None: ...
    def unschedule(self, task: BaseTask) -> None: ...
    def withdraw(self, task: BaseTask) -> None: ...
    def plan_next(self, task: BaseTask, rhythm: Rhythm) -> None: ...


class TaskOwner(Protocol):
    """The tasks of one module, as each of them sees it."""

    @property
    def module(self) -> TaskModule: ...
    @property
    def board(self) -> TaskOrder | None: ...
    @property
    def pending(self) -> dict[BaseTask, None]: ...
    @property
    def at(self) -> dict[BaseTask, float | datetime]: ...
    def admit(self, task: BaseTask, what: str) -> TaskOrder: ...
    def forget(self, task: BaseTask, why: str) -> None: ...
    def begin(self, task: BaseTask) -> None: ...


class _Result:
    """What somebody waits for: how the next execution ends."""

    __slots__ = ("_error", "_over", "_value")

    def __init__(self) -> None:
        self._over = trio.Event()
        self._value: object = None
        self._error: Exception | None = None

    def set(self, value: object, error: Exception | None = None) -> None:
        self._value = value
        self._error = error
        self._over.set()

    async def get(self) -> object:
        await self._over.wait()
        error = self._error
        if error is None:
            return self._value
        if isinstance(error, TaskFailed):  # each who waits gets one of its own
            raise TaskFailed(error.module, error.task) from error.__cause__
        raise error


class Extras:
    """What few tasks have, and none before it is needed.

    Attributes:
        delay: seconds that it is queued at most, 0 for no limit.
        attempt: 1, or how often it was tried.
        last_error: what the last failed execution ended with.
        rhythm: how it repeats itself.
        planned: whether the time that it is due at follows from its rhythm.
        decided: whether it was scheduled since it began.
        again: where it joins the line when it has ended.
        moment: the match of its cron line that it waits for.
        retry: while it is due for one, the context of that and the time that comes after it.
        result: what somebody waits for.
    """

    __slots__ = (
        "again",
        "attempt",
        "decided",
        "delay",
        "last_error",
        "moment",
        "planned",
        "result",
        "retry",
        "rhythm",
    )

    def __init__(self) -> None:
        self.delay = MAX_DELAY
        self.attempt = 1
        self.last_error: BaseException | None = None
        self.rhythm: Rhythm | None = None
        self.planned = False
        self.decided = False
        self.again: Rank | None = None
        self.moment: datetime | None = None
        self.retry: tuple[Context, tuple[float, datetime | None] | None] | None = None
        self.result: _Result | None = None


#: Shared by all tasks that have none: only read.
NO_EXTRAS = Extras()


class TaskKind:
    """What the tasks of a function have in common: each holds this alone, since they may be many.

    Attributes:
        tasks: of which module they are.
        fn: what they do.
        name: their name.
    """

    __slots__ = ("fn", "name", "tasks")

    def __init__(self, tasks: TaskOwner, fn: TaskFn, name: str) -> None:
        self.tasks = tasks
        self.fn = fn
        self.name = name


class BaseTask(Item):
    """All of `Task` but its module, which has a class of a room above."""

    # A million of these may be waiting. What has no value here gets it when it is needed: the
    # times and contexts when the task is ordered, all else by `_with_extras`.
    __slots__ = (
        "_cancelled",
        "_extras",
        "_kind",
        "_queued_in",
        "_runner",
        "_scheduled_in",
        "runs",
    )

    _queued_in: Context
    _scheduled_in: Context

    def __init__(self, kind: TaskKind) -> None:
        self._due = self._entry = None
        self._queued = self._cancelled = False
        self._kind = kind
        self.runs = 0
        self._runner: Execution | None = None
        self._extras = NO_EXTRAS

    def _with_extras(self) -> Extras:
        """Its own extras, to set one of them."""
        if self._extras is NO_EXTRAS:
            self._extras = Extras()
        return self._extras

    def __repr__(self) -> str:
        return f"<Task {self.name!r} of module {self._kind.tasks.module.name!r}>"

    # ------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """For logs and reports."""
        return self._kind.name

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @property
    def attempt(self) -> int:
        """1, or how often it was tried when it asks for `Retry`."""
        return self._extras.attempt

    @property
    def last_error(self) -> BaseException | None:
        """The exception that the last failed execution ended with."""
        return self._extras.last_error

    @property
    def queued(self) -> bool:
        """Whether it is in one of the queues, or will be when its present execution has ended."""
        return self._queued or self._extras.again is not None

    @property
    def executing(self) -> bool:
        """Whether it is being executed."""
        return self._runner is not None

    @property
    def next_run(self) -> float | None:
        """The time on Trio's clock that it is scheduled for, in seconds; None if it isn't."""
        return self._due

    @property
    def pending(self) -> bool:
        """Whether it is queued, scheduled or being executed."""
        return self._due is not None or self._runner is not None or self.queued

    # ------------------------------------------------------------ queue

    def queue(self) -> Self:
        """Put it into the plain queue, unless it is queued already (seed).

        Queued while it is being executed, it is executed once more. A schedule stays.

        Raises:
            ModuleOffline: if the module takes no work now.
            TaskCancelled: if the task was cancelled.
        """
        tasks = self._kind.tasks
        board = tasks.board if tasks.module.workers.open and not self._cancelled else None
        if board is None:
            board = tasks.admit(self, "queue")  # which says why not
        self._queued_in = board.context = snapshot(board.context)
        board.enqueue(self, Rank.PLAIN)
        return self

    def queue_prioritized(self) -> Self:
        """Put it into the prioritized queue, or move it there (seed: ``Prioritize``).

        Raises:
            ModuleOffline: if the module takes no work now.
            TaskCancelled: if the task was cancelled.
        """
        self._join(Rank.PRIORITIZED)
        return self

    def start_asap(self) -> Self:
        """Put it at the front of the prioritized queue, or move it there (seed).

        Raises:
            ModuleOffline: if the module takes no work now.
            TaskCancelled: if the task was cancelled.
        """
        self._join(Rank.FRONT)
        return self

    def _join(self, rank: Rank) -> None:
        board = self._kind.tasks.admit(self, "queue")
        self._queued_in = board.context = snapshot(board.context)
        board.enqueue(self, rank)

    def max_delay(self, seconds: float) -> Self:
        """How long it is queued at most; after that it is executed whatever else runs (seed).

        Args:
            seconds: the time since it was queued; 180 by default, 0 for no limit.
        """
        self._with_extras().delay = check_seconds("seconds", seconds, finite=True)
        board = self._kind.tasks.board
        if self._queued and board is not None:
            board.set_delay(self)
        return self

    # ------------------------------------------------------------ schedule

    def schedule(self, at: float | datetime | None) -> Self:
        """Queue it at that time, at the front of the prioritized one; it has one such time (seed).

        A time that is past is now. If it is scheduled while it is being executed, that takes the
        place of the next repetition.

        Args:
            at: seconds on Trio's clock, or an aware datetime; None takes it out of the schedule.

        Raises:
            ModuleOffline: if the module takes no work now.
            TaskCancelled: if the task was cancelled.
            TypeError, ValueError: if the time isn't usable.
        """
        tasks = self._kind.tasks
        board = tasks.board if tasks.module.workers.open and not self._cancelled else None
        if board is None:
            board = tasks.admit(self, "schedule")  # which says why not
        wall = None
        if type(at) is float and board.entered <= at < math.inf:
            when = at
        elif at is None:
            self._unschedule(board)
            return self
        elif isinstance(at, datetime):
            check_at(at)
            when, wall = board.clock.to_trio(at), at
        else:
            when = board.check_time(at)
        self._scheduled_in = board.context = snapshot(board.context)
        if self._runner is not None or self._extras is not NO_EXTRAS:
            self._decide()
        board.schedule(self, when, wall)
        return self

    def schedule_after(self, seconds: float) -> Self:
        """Queue it after that time, as by `schedule` (ours).

        Args:
            seconds: from now on.

        Raises:
            ModuleOffline: if the module takes no work now.
            TaskCancelled: if the task was cancelled.
            TypeError, ValueError: if the time isn't usable.
        """
        after = check_seconds("seconds", seconds, finite=True)
        self._kind.tasks.admit(self, "schedule")  # outside of a run there is no clock to ask
        return self.schedule(trio.current_time() + after)

    def repeat(self, interval: float | None) -> Self:
        """Execute it again and again: after one interval, then one interval after each end (seed).

        Args:
            interval: seconds, not less than the app's ``min_repeat_interval``; 0 or None ends the
                repetition and leaves the time that it is scheduled for at present.

        Raises:
            ModuleOffline: if the module takes no work now.
            TaskCancelled: if the task was cancelled.
            ValueError: if the interval is too small; `Module.every` takes any.
        """
        seconds = check_seconds("interval", interval or 0.0, finite=True)
        board = self._kind.tasks.admit(self, "repeat")
        if not seconds:
            if self._extras.rhythm is not None:
                self._extras.rhythm = None
            return self
        board.check_interval(seconds)
        self._keep_time(board, Rhythm(seconds))
        return self

    def cron(
        self,
        line: str,
        *,
        timezone: str | tzinfo = "UTC",
        jitter: float = 0.0,
        misfire: Literal["run-once", "skip"] = "run-once",
    ) -> Self:
        """Execute it whenever a cron line says so (ours).

        Args:
            line: five fields, as in ``0 3 * * *``, or six with seconds first.
            timezone: the zone in which the line is meant, a name or a `datetime.tzinfo`.
            jitter: up to so many seconds later, each time anew.
            misfire: what becomes of a time that passes while the module is down or the machine
                asleep: "run-once" executes it once when that is over, "skip" drops it.

        Raises:
            ModuleOffline: if the module takes no work now.
            TaskCancelled: if the task was cancelled.
            ValueError: if the line or the zone makes no sense.
            ImportError: without the extra ``cron``.
        """
        rhythm = cron_rhythm(line, timezone, jitter, misfire)
        board = self._kind.tasks.admit(self, "repeat")
        self._keep_time(board, rhythm)
        return self

    def _keep_time(self, board: TaskOrder, rhythm: Rhythm) -> None:
        extras = self._with_extras()
        extras.rhythm, extras.moment = rhythm, None
        self._scheduled_in = board.context = snapshot(board.context)
        if self._runner is None or rhythm.cron is not None:
            board.plan_next(self, rhythm)

    def _decide(self) -> None:
        """Its user says whether it is due and when, not its rhythm."""
        extras = self._with_extras()
        extras.decided = self._runner is not None
        extras.planned = False

    def _unschedule(self, board: TaskOrder) -> None:
        self._decide()
        board.unschedule(self)
        if not self.pending:
            self._kind.tasks.forget(self, "was taken out of the schedule")

    # ------------------------------------------------------------ end

    def cancel(self) -> Self:
        """Cancel it for good: it leaves queue and schedule, its execution is cancelled (seed)."""
        self._cancelled = True
        tasks = self._kind.tasks
        board = tasks.board
        if board is not None and self._queued:
            board.withdraw(self)
        elif board is not None and self._due is not None:
            board.unschedule(self)
        if self._runner is not None:
            if self._extras.again is not None:
                self._extras.again = None
            self._runner.cancel(f"task {self.name!r} was cancelled")
        elif self._extras is NO_EXTRAS:
            tasks.pending.pop(self, None)  # there is nothing else to forget
        else:
            tasks.forget(self, "was cancelled")
        return self

    async def wait(self) -> object:
        """Wait until an execution ends: the present one or, without one, the next (ours).

        An execution that asks for `Retry` has not ended yet.

        Returns:
            what its function returns.

        Raises:
            TaskFailed: from the exception that it ends with, which is reported as well.
            TaskCancelled: if the task is cancelled or taken out of the schedule.
            ModuleOffline: if its module stops before.
            RuntimeError: if it is neither queued nor scheduled nor being executed.

        Cancellation only ends the wait.
        """
        if not self.pending:
            raise RuntimeError(
                f"task {self.name!r} of module {self._kind.tasks.module.name!r} can't be waited "
                "for: it is neither queued nor scheduled nor executing"
            )
        extras = self._with_extras()
        if extras.result is None:
            extras.result = _Result()
        return await extras.result.get()

    def _run_again(self, rank: Rank) -> None:
        """It is being executed, and will join the line once more when that has ended."""
        extras = self._with_extras()
        extras.again = rank if extras.again is None else max(rank, extras.again)

    def _settle(self, error: Exception | None, value: object = None) -> None:
        result = self._extras.result
        if result is not None:
            self._extras.result = None
            result.set(value, error)


def check_at(at: object) -> None:
    """Raise unless it is an aware datetime, or a time on Trio's clock."""
    if not isinstance(at, datetime):
        check_seconds("at", at, minimum=-math.inf, finite=True)
    elif at.utcoffset() is None:
        raise ValueError(f"at must be aware, got the naive {at!r}")


def cron_rhythm(
    line: str, zone: str | tzinfo, jitter: float, misfire: Literal["run-once", "skip"]
) -> Rhythm:
    """The rhythm of a cron line, checked."""
    check_seconds("jitter", jitter, finite=True)
    check_misfire(misfire)
    return Rhythm(cron=Cron(line, check_zone(zone)), jitter=jitter, misfire=misfire)


def check_misfire(misfire: str) -> None:
    """Raise `ValueError` unless it is one of the two policies."""
    if misfire not in ("run-once", "skip"):
        raise ValueError(f"misfire must be 'run-once' or 'skip', got {misfire!r}")
