"""The board: the tasks of all modules of an app, in one line, and when which of them is due.

It is `Board` on Trio's clock, with wall times: what is due by a cron line or a datetime is due
when the wall clock says so, and that can be set anew.
"""

from __future__ import annotations

import math
from contextvars import Context
from datetime import datetime, timedelta
from random import Random
from typing import Protocol

import trio

from trio_modules._cron import Cron
from trio_modules._schedule import Board, Rank, Room
from trio_modules._tasks import NO_EXTRAS, BaseTask, Rhythm, TaskOwner, WallClock
from trio_modules._timers import Timer, Timers
from trio_modules._util import check_seconds

__all__ = ["TaskBoard", "TimeKeeper"]

#: Seconds between two looks at the wall clock, since nobody says when it is set anew.
CLOCK_CHECK = 60.0

#: Seconds by which the wall clock may go astray before times are reckoned anew.
CLOCK_TOLERANCE = 0.5

#: Seconds that rounding may make a wall time early.
ROUNDING = 0.001


class TimeKeeper(Protocol):
    """A task of Trio's that sleeps until the board has something to do.

    Attributes:
        nap: the scope in which it sleeps, None if it is awake and hasn't given the time back.
    """

    nap: trio.CancelScope | None


class TaskBoard:
    """The tasks of all modules of an app, in one line, for one run of it.

    Attributes:
        entered: when the app was entered, on Trio's clock.
        clock: the wall clock.
        context: in which a task was ordered last, for others that are ordered in the same; until
            an execution ends, or the schedules are sorted in.
        min_interval: the smallest interval of a repetition.
        wake: when `move` is needed at the latest; infinity: never.
        take_next: `Board.take_next`; if nobody is next, `nobody_follows` has to be called.
    """

    def __init__(
        self,
        timers: Timers,
        clock: WallClock,
        rng: Random,
        *,
        limit: int,
        min_interval: float,
        room: Room,
    ) -> None:
        self.time = trio.lowlevel.current_clock().current_time
        self.entered = self.time()
        self.clock = clock
        self.context: Context | None = None
        self.min_interval = min_interval
        self._timers = timers
        self._rng = rng
        self._board: Board[BaseTask] = Board(limit, room, self._came_due, _begin, self._are_pending)
        self.take_next = self._board.take_next
        self._agenda = self._board.agenda
        self._line = self._board.line
        self.wake = math.inf
        self._timer: Timer | None = None
        self._keeper: TimeKeeper | None = None
        self._by_wall: dict[BaseTask, datetime] = {}
        self._astray: float | None = None

    # ------------------------------------------------------------ limits

    @property
    def limit(self) -> int:
        """How many tasks run at a time."""
        return self._board.limit

    @limit.setter
    def limit(self, value: int) -> None:
        self._board.limit = value
        self.move()

    @property
    def queued(self) -> int:
        """How many tasks are in the line."""
        return self._board.waiting

    @property
    def scheduled(self) -> int:
        """How many tasks are due some time."""
        return self._board.scheduled

    def check_interval(self, interval: float) -> None:
        """Raise `ValueError` if a repetition may not be that fast."""
        if interval < self.min_interval:
            raise ValueError(
                f"interval must be at least the app's min_repeat_interval of {self.min_interval:g} "
                f"s, got {interval!r}; for anything faster use Module.every"
            )

    def check_time(self, at: object) -> float:
        """Return *at* as a time on Trio's clock in this run of the app, or say what is wrong."""
        when = check_seconds("at", at, minimum=-math.inf, finite=True)
        if when < self.entered:
            raise ValueError(
                f"at must not lie before the app was entered at {self.entered!r} on Trio's clock, "
                f"got {at!r}; for a time from now on use schedule_after"
            )
        return when

    # ------------------------------------------------------------ line and agenda

    def enqueue(self, task: BaseTask, rank: Rank) -> None:
        """Let the task join the line, at its end if it is being executed."""
        if task._runner is not None:
            task._run_again(rank)
            return
        now = self.time()
        task._kind.tasks.pending[task] = None
        if self._board.enqueue(task, rank, now, task._extras.delay):
            self.move(now)

    def line_up(self, task: BaseTask, rank: Rank, now: float) -> None:
        """The task, which isn't being executed, joins the line; `move` has to follow."""
        task._kind.tasks.pending[task] = None
        self._board.enqueue(task, rank, now, task._extras.delay)

    def rejoin(self, task: BaseTask, rank: Rank, now: float) -> None:
        """The task, whose execution has ended, joins the line; `take_next` has to follow."""
        self.line_up(task, rank, now)
        self._set_wake()  # its longest delay may be the first to be over

    def set_delay(self, task: BaseTask) -> None:
        """The longest delay of a queued task has changed."""
        self._board.set_delay(task, task._extras.delay)
        self.move()

    def schedule(self, task: BaseTask, when: float, wall: datetime | None = None) -> None:
        """The task is due at that time, *wall* being the same on the wall clock if that counts.

        Its module has it among what is pending by the time `sort_in` returns, if not before.
        """
        if task._extras.retry is not None:
            task._extras.retry = None
        if task._due is None:  # as `Agenda.add` does it, without the call
            task._due = when
            self._agenda.noted.append(task)
        else:
            self._agenda.add(task, when)
        if wall is not None:
            self._by_wall[task] = wall
            self._watch_clock()
        elif self._by_wall:
            self._by_wall.pop(task, None)
        if when < self.wake:
            self._wake_at(when)

    def sort_in(self) -> None:
        """Let each module have all that is due some time among what is pending."""
        self._agenda.sort_in()

    def _are_pending(self, tasks: list[BaseTask]) -> None:
        self.context = None
        for task in tasks:
            task._kind.tasks.pending[task] = None

    def unschedule(self, task: BaseTask) -> None:
        """The task isn't due at any time."""
        self._agenda.drop(task)
        if task._extras is not NO_EXTRAS:
            task._extras.retry = None
        if self._by_wall:
            self._by_wall.pop(task, None)

    def retry(self, task: BaseTask, when: float) -> None:
        """The task is due once more at that time, unless it is executed earlier than that."""
        due = task._due
        if due is not None and due <= when:
            return
        later = None if due is None else (due, self._by_wall.get(task))
        if task._extras.retry is not None:  # this takes the place of that one
            later = task._extras.retry[1]
        self.schedule(task, when)
        extras = task._with_extras()
        extras.planned = False
        extras.retry = task._queued_in, later

    def withdraw(self, task: BaseTask) -> None:
        """The task is neither queued nor scheduled."""
        if task._queued:
            self._board.withdraw(task)
        if task._due is not None:
            self.unschedule(task)

    def nobody_follows(self) -> None:
        """A task has been executed, and no other could have its place.

        Nobody need be woken earlier than before if there is one: who is still in the line has
        waited already, and those that hold a place have begun later than what has ended.
        """
        if self._line.count:
            self._set_wake()

    # ------------------------------------------------------------ time

    def move(self, now: float | None = None) -> None:
        """Begin what can begin now, and see to it that the next change isn't missed."""
        # In another thread this raises, before anything is taken out of the line.
        self._board.move(trio.current_time() if now is None else now)
        self._set_wake()

    def _set_wake(self) -> None:
        when = self._board.next_time()
        if when < self.wake:
            self._wake_at(when)

    def _wake_at(self, when: float) -> None:
        self.wake = when
        if self._keeper is None:
            self._set_timer()
        elif self._keeper.nap is not None:
            self._keeper.nap.deadline = when

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timers.at(self.wake, self._rang)

    def _rang(self) -> None:
        self._timer = None
        self.woke()

    def woke(self) -> None:
        """The time `wake` has come."""
        self.wake = math.inf
        self.move(self.time())

    def keep_time(self, keeper: TimeKeeper, owner: TaskOwner) -> bool:
        """Whether *keeper* is the one who sleeps until `wake`, and calls `woke` then.

        It is if the task that is due next is *owner's*: this spares the scheduler's pass between
        a timer that rings and a runner that it wakes, a third of what a scheduled task costs.
        """
        first = self._agenda.first
        if first is None or first._kind.tasks is not owner:
            self.give_time_back(keeper)
        elif self._keeper is None:
            self._keeper = keeper
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return self._keeper is keeper

    def give_time_back(self, keeper: TimeKeeper) -> None:
        """The keeper, if it is the one, does something else."""
        if self._keeper is keeper:
            self._keeper = None
            if self.wake < math.inf:
                self._set_timer()

    def _came_due(self, tasks: list[BaseTask], now: float) -> None:
        """The times of these tasks have come, the earliest first."""
        for task in reversed(tasks):  # each goes to the front, but those that try again
            if task._extras.retry is None:
                self._is_due(task, now)
        for task in tasks:
            if task._extras.retry is not None:
                self._is_due(task, now)

    def _is_due(self, task: BaseTask, now: float) -> None:
        """The time of a task has come, if it really has: a wall clock may have been set back."""
        wall = self._by_wall.pop(task, None) if self._by_wall else None
        late = 0.0 if wall is None else (self.clock.now() - wall).total_seconds()
        if late < -ROUNDING:
            self.schedule(task, now - late, wall)
        elif task._extras.retry is not None:
            self._try_again(task, now, *task._extras.retry)
        elif task._extras is NO_EXTRAS or self._takes_time(task, late):
            if task._kind.tasks.at:
                task._kind.tasks.at.pop(task, None)
            self._join(task, Rank.FRONT, task._scheduled_in, now)

    def _takes_time(self, task: BaseTask, late: float) -> bool:
        """Plan what follows the time that has come; whether that one, so late, still counts."""
        extras = task._extras
        rhythm = extras.rhythm
        if rhythm is None or rhythm.cron is None:
            return True
        self._plan_by_cron(task, rhythm, rhythm.cron, extras.moment if extras.planned else None)
        return rhythm.misfire != "skip" or late <= CLOCK_CHECK

    def _try_again(
        self,
        task: BaseTask,
        now: float,
        context: Context,
        later: tuple[float, datetime | None] | None,
    ) -> None:
        """The time of a retry has come; *later* is what the task was scheduled for beside that."""
        task._extras.retry = None
        rhythm = task._extras.rhythm
        if later is not None:
            self.schedule(task, *later)
        elif rhythm is not None and rhythm.cron is not None:
            self._plan_by_cron(task, rhythm, rhythm.cron, None)
        self._join(task, Rank.PLAIN, context, now)

    def _join(self, task: BaseTask, rank: Rank, context: Context, now: float) -> None:
        if not task.queued:
            task._queued_in = context
        if task._runner is not None:
            task._run_again(rank)
        else:
            self.line_up(task, rank, now)

    def plan_next(self, task: BaseTask, rhythm: Rhythm) -> None:
        """The task is due when its rhythm says."""
        if rhythm.cron is not None:
            self._plan_by_cron(task, rhythm, rhythm.cron, None)
            return
        task._with_extras().planned = True
        self.schedule(task, trio.current_time() + rhythm.interval + self._jitter(rhythm))

    def _plan_by_cron(
        self, task: BaseTask, rhythm: Rhythm, cron: Cron, reached: datetime | None
    ) -> None:
        """The task is due when its line matches next, after now and after what was reached."""
        now = self.clock.now()
        extras = task._with_extras()
        extras.moment = cron.next_after(now if reached is None else max(now, reached))
        extras.planned = True
        wall = extras.moment + timedelta(seconds=self._jitter(rhythm))
        self.schedule(task, self.clock.to_trio(wall), wall)

    def _jitter(self, rhythm: Rhythm) -> float:
        return self._rng.uniform(0, rhythm.jitter) if rhythm.jitter else 0.0

    # ------------------------------------------------------------ the wall clock

    def _watch_clock(self) -> None:
        """A real wall clock can be set anew, and a machine can sleep: look now and then."""
        if self._astray is None and not self.clock.virtual:
            self._astray = self._offset()
            self._timers.after(CLOCK_CHECK, self._look_at_clock)

    def _offset(self) -> float:
        return self.clock.now().timestamp() - trio.current_time()

    def _look_at_clock(self) -> None:
        before, self._astray = self._astray, None
        if not self._by_wall:
            return
        assert before is not None
        if abs(self._offset() - before) > CLOCK_TOLERANCE:
            for task, wall in list(self._by_wall.items()):
                self.schedule(task, self.clock.to_trio(wall), wall)
        self._watch_clock()


def _begin(task: BaseTask) -> None:
    task._kind.tasks.begin(task)
