"""The tasks of one module: what is pending or declared, and the runners that execute them.

A runner is a task in the module's nursery that executes one task after the other, so that none of
them costs a spawn. When an execution has ended, the board is asked for the next one, in the same
step.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable
from contextvars import Context
from datetime import datetime
from types import CoroutineType
from typing import Literal, cast

import attrs
import trio

from trio_modules._context import owner_var
from trio_modules._exceptions import ModuleOffline, TaskCancelled, TaskFailed, shown
from trio_modules._reporting import Caught, Reporter, take_apart
from trio_modules._schedule import Rank
from trio_modules._seam import Seam
from trio_modules._status import TaskInfo, WorkCounts
from trio_modules._stepping import OVER, TURN, WOKEN, Rest, first_step
from trio_modules._taskboard import TaskBoard
from trio_modules._tasks import NO_EXTRAS, BaseTask, Extras, Retry, Rhythm, TaskKind, TaskModule
from trio_modules._util import awaiting

__all__ = ["DeclaredTask", "ModuleTasks"]

#: How many executions may follow each other before everybody else has a turn.
SLICE = 64


@attrs.frozen
class DeclaredTask:
    """A task that is scheduled anew at every start of its module.

    Attributes:
        task: the task.
        lasts: how long it is declared for: "always", this run of the "app", or of the module.
        rhythm: how it repeats itself, None if it doesn't.
        at: the one time that it is scheduled for, None without one.
        misfire: what happens if that time has passed when the module starts.
    """

    task: BaseTask
    lasts: Literal["always", "app", "run"]
    rhythm: Rhythm | None = None
    at: float | datetime | None = None
    misfire: Literal["run-once", "skip"] = "run-once"


class ModuleTasks:
    """The tasks of one module: what runs them, what is pending, what is declared.

    Attributes:
        module: the module.
        board: the app's board, None outside of a running app.
        pending: the tasks that are queued, scheduled or being executed; those that are scheduled
            when the board has sorted them in.
        at: the declared tasks whose one time is still to come.
        started, ended: executions in this run of the app.
        kind: what is shared by tasks of the function that was last found to be right.
    """

    def __init__(self, module: TaskModule) -> None:
        self.module = module
        self.board: TaskBoard | None = None
        self.pending: dict[BaseTask, None] = {}
        self.at: dict[BaseTask, float | datetime] = {}
        self.started = 0
        self.ended = 0
        self._declared: list[DeclaredTask] = []
        self._reporter: Reporter | None = None
        self._seam = Seam()
        self._context: Context | None = None
        self._idle: list[_Runner] = []
        self._runners: dict[trio.lowlevel.Task, None] = {}
        self.kind: TaskKind | None = None

    # ------------------------------------------------------------ tasks

    def admit(self, task: BaseTask, what: str) -> TaskBoard:
        """The board, if the task may be put there now.

        Raises:
            ModuleOffline: if the module takes no work.
            TaskCancelled: if the task was cancelled.
        """
        if task._cancelled:
            raise TaskCancelled(self.module.name, task.name)
        board = self.board
        if board is None or not self.module.workers.open:
            status = self.module.status.name
            raise ModuleOffline(self.module.name, status, f"{what} task {task.name!r}")
        return board

    def withdraw(self, task: BaseTask) -> None:
        """Take the task out of queue and schedule."""
        if self.board is not None:
            self.board.withdraw(task)

    def forget(self, task: BaseTask, why: str) -> None:
        """Nothing of the task is pending any more: nobody need wait for it."""
        self.pending.pop(task, None)
        extras = task._extras
        if extras is not NO_EXTRAS:
            extras.rhythm = extras.moment = None
            extras.attempt = 1  # what is asked for from here on has not been tried before
            task._settle(TaskCancelled(self.module.name, task.name, why))

    @property
    def counts(self) -> WorkCounts:
        return WorkCounts(self.started, self.started - self.ended, self.ended)

    @property
    def declared_names(self) -> list[str]:
        return [declared.task.name for declared in self._declared]

    def infos(self) -> list[TaskInfo]:
        """What is pending or declared, for people."""
        known = dict.fromkeys(declared.task for declared in self._declared)
        return [_info(task) for task in {**known, **self._all_pending()}]

    def _all_pending(self) -> dict[BaseTask, None]:
        if self.board is not None:
            self.board.sort_in()
        return self.pending

    # ------------------------------------------------------------ runs of app and module

    def attach(self, board: TaskBoard, reporter: Reporter, context: Context) -> None:
        """A run of the app begins."""
        self.board = board
        self._reporter = reporter
        self._context = context
        self._seam = self.module.seam
        self.started = self.ended = 0
        self.at = {each.task: each.at for each in self._declared if each.at is not None}

    def detach(self) -> None:
        """The run of the app is over."""
        self.board = None
        self._keep_declared(("always",))

    def run_ended(self) -> None:
        """A run of the module is over."""
        self._keep_declared(("always", "app"))

    def _keep_declared(self, lasting: tuple[str, ...]) -> None:
        self._declared = [each for each in self._declared if each.lasts in lasting]

    def stop(self, reason: str) -> None:
        """The module stops or has crashed: nothing is pending any more."""
        for task in list(self._all_pending()):
            self.withdraw(task)
            if task._extras is not NO_EXTRAS:
                task._extras.again = task._extras.rhythm = None
            if task._runner is not None:
                task._runner.cancel(reason)
            else:
                self._lost(task)

    def _lost(self, task: BaseTask) -> None:
        del self.pending[task]
        if task._extras is NO_EXTRAS:
            return
        task._extras.attempt = 1
        module = self.module
        task._settle(ModuleOffline(module.name, module.status.name, f"execute task {task.name!r}"))

    # ------------------------------------------------------------ declared tasks

    def declare(self, declared: DeclaredTask, *, at_once: bool) -> None:
        """Take a declaration; *at_once* if the module is up already.

        Raises:
            ValueError: if the app runs and it repeats itself too fast for it.
        """
        if self.board is not None:
            self._check_interval(declared, self.board.min_interval)
        self._declared.append(declared)
        if declared.at is not None:
            self.at[declared.task] = declared.at
        if at_once:
            self._arm(declared)

    def check_declared(self, min_interval: float) -> None:
        """Raise `ValueError` if something declared repeats itself too fast for the app."""
        for each in self._declared:
            self._check_interval(each, min_interval)

    def _check_interval(self, declared: DeclaredTask, min_interval: float) -> None:
        rhythm = declared.rhythm
        if rhythm is not None and 0 < rhythm.interval < min_interval:
            raise ValueError(
                f"every of task {declared.task.name!r} in module {self.module.name!r} must be at "
                f"least the app's min_repeat_interval of {min_interval:g} s, "
                f"got {rhythm.interval!r}; for anything faster use Module.every"
            )

    def arm_declared(self) -> None:
        """The module has started: its declared tasks are scheduled."""
        for each in self._declared:
            self._arm(each)

    def _arm(self, declared: DeclaredTask) -> None:
        task, board = declared.task, self.board
        if task._cancelled:
            return
        assert board is not None
        assert self._context is not None
        task._scheduled_in = self._context
        task._with_extras().rhythm = declared.rhythm
        if declared.rhythm is not None:
            missed = self._missed(task, declared.rhythm, board.clock.now())
            board.plan_next(task, declared.rhythm)
            if missed:
                task._queued_in = self._context
                board.enqueue(task, Rank.FRONT)
        elif task in self.at:
            self._arm_once(task, self.at[task], declared.misfire)

    def _missed(self, task: BaseTask, rhythm: Rhythm, now: datetime) -> bool:
        """Whether a time of the cron line passed while the module was down."""
        moment = task._extras.moment
        if rhythm.cron is None or rhythm.misfire == "skip" or moment is None:
            return False
        return moment <= now

    def _arm_once(
        self, task: BaseTask, at: float | datetime, misfire: Literal["run-once", "skip"]
    ) -> None:
        board = self.board
        assert board is not None
        wall = at if isinstance(at, datetime) else None
        when = board.clock.to_trio(at) if isinstance(at, datetime) else at
        if misfire == "skip" and when < trio.current_time():
            del self.at[task]
            return
        task._with_extras().planned = False
        board.schedule(task, when, wall)

    # ------------------------------------------------------------ executions

    def begin(self, task: BaseTask) -> None:
        """It is the task's turn: a runner takes it, in its next step at the latest."""
        runner = self._idle.pop() if self._idle else self._new_runner()
        self.execute(task, runner)
        if runner.parked is not None:
            runner.wake()

    def execute(self, task: BaseTask, runner: _Runner) -> None:
        """Hand the task to a runner, which has to be awake then."""
        if task._extras is not NO_EXTRAS:
            self._begins(task, task._extras)
        self.started += 1
        task._runner = runner
        runner.task = task

    def _begins(self, task: BaseTask, extras: Extras) -> None:
        extras.decided = False
        if extras.rhythm is not None and extras.rhythm.cron is None and extras.planned:
            assert self.board is not None
            self.board.unschedule(task)  # one interval after the end of this

    def _new_runner(self) -> _Runner:
        assert self.board is not None
        runner = _Runner(self, self.board)
        nursery = self.module.workers.nursery
        assert nursery is not None
        assert self._context is not None
        start = functools.partial(nursery.start_soon, runner.run, name=_Runner.NAME)
        self._context.copy().run(start)
        return runner

    def first_step(self, task: BaseTask) -> Awaitable[object] | None:
        """Begin an execution, in a copy of the context of whoever queued or scheduled it.

        Returns:
            the rest of it, None if it is over.
        """
        fn = task._kind.fn
        if self._seam.interceptors:
            fn = self.module.around("task", task.name, fn)
        coro = fn(task)
        if type(coro) is not CoroutineType:
            coro = awaiting(coro)
        context = task._queued_in.copy()
        owner = context.get(owner_var)
        if owner is not None and owner is not self.module:  # else it is found by its nursery
            context.run(owner_var.set, self.module)
        if task._extras.result is None:  # as `begin` does it, without the call
            trap = context.run(next, coro.__await__(), OVER)
            return None if trap is OVER else Rest(context, coro, trap)
        is_over, value = first_step(context, coro)
        if not is_over:
            return cast("Awaitable[object]", value)
        task._settle(None, value)
        return None

    def returned(self, runner: _Runner, task: BaseTask, value: object = None) -> None:
        """An execution has returned."""
        if task._extras is not NO_EXTRAS:
            task._extras.attempt = 1
            task._settle(None, value)
        self.over(runner, task)

    def raised(self, runner: _Runner, task: BaseTask, caught: Caught) -> None:
        """An execution has raised, or was cancelled."""
        assert self._reporter is not None
        self._reporter.pass_on(caught)
        failure = caught.failure
        extras = task._with_extras()
        if isinstance(failure, Retry) and not task._cancelled and self.module.workers.open:
            self._retry(task, extras, failure)
        else:
            extras.attempt = 1
            if failure is not None and not isinstance(failure, Retry):
                extras.last_error = failure
                self.module.workers.report(failure, task.name, "task")
            task._settle(self._error_of(task, failure))
        self.over(runner, task)

    def _error_of(self, task: BaseTask, failure: BaseException | None) -> Exception:
        name = self.module.name
        if failure is not None and not isinstance(failure, Retry):
            error = TaskFailed(name, task.name)
            error.__cause__ = failure
            return error
        if task._cancelled:
            return TaskCancelled(name, task.name)
        return ModuleOffline(name, self.module.status.name, f"finish task {task.name!r}")

    def _retry(self, task: BaseTask, extras: Extras, retry: Retry) -> None:
        board = self.board
        assert board is not None
        extras.attempt += 1
        board.retry(task, trio.current_time() + retry.after)

    def not_begun(self, runner: _Runner, task: BaseTask) -> None:
        """A runner was cancelled before it could begin what it had taken."""
        if task._extras is not NO_EXTRAS:
            task._extras.attempt = 1
            task._settle(self._error_of(task, None))
        self.over(runner, task)

    def over(self, runner: _Runner, task: BaseTask) -> None:
        """An execution has ended: what comes next of this task, and of all."""
        board = self.board
        assert board is not None
        board.context = task._runner = None
        task.runs += 1
        self.ended += 1
        now = board.time()
        if task._due is not None or task._extras is not NO_EXTRAS:
            self._go_on(task, board, now)
            if task._due is None and not task._queued:
                self._complete(task)
        else:
            del self.pending[task]
        following = board.take_next(now, task)
        if following is not None and following._kind.tasks is self and not runner.spent:
            if following._extras is not NO_EXTRAS:  # as `execute` does it, without the call
                self._begins(following, following._extras)
            self.started += 1
            following._runner = runner
            runner.task = following
            return
        if not runner.spent:
            self._idle.append(runner)
        if following is not None:
            following._kind.tasks.begin(following)
        else:
            board.nobody_follows()

    def _go_on(self, task: BaseTask, board: TaskBoard, now: float) -> None:
        extras = task._extras
        again = extras.again
        if again is not None:
            extras.again = None
        if task._cancelled or not self.module.workers.open:
            self.withdraw(task)
            return
        if extras.rhythm is not None and task._due is None and not extras.decided:
            board.plan_next(task, extras.rhythm)
        if again is not None:
            board.rejoin(task, again, now)

    def _complete(self, task: BaseTask) -> None:
        """Nothing comes next of the task."""
        del self.pending[task]
        extras = task._extras
        if extras is NO_EXTRAS:
            return
        extras.rhythm = None
        if self.module.workers.open:  # else its cron line may miss that moment meanwhile
            extras.moment = None
        if extras.result is not None:
            task._settle(self._error_of(task, None))

    # ------------------------------------------------------------ runners

    def may_stay(self, runner: _Runner) -> bool:
        """Whether a runner without a task should wait for one; one of them is enough."""
        if len(self._idle) > 1:
            self._idle.remove(runner)
            return False
        return True

    def came_back(self, runner: _Runner) -> bool:
        """A runner has a new scope after a cancellation; whether it is still needed."""
        if self._idle or not self.module.workers.open:
            return False
        self._idle.append(runner)
        return True

    def joined(self, trio_task: trio.lowlevel.Task) -> None:
        """A runner has begun."""
        self._runners[trio_task] = None

    def left(self, runner: _Runner, trio_task: trio.lowlevel.Task) -> None:
        """A runner has ended."""
        del self._runners[trio_task]
        if runner in self._idle:
            self._idle.remove(runner)

    def is_runner(self, trio_task: trio.lowlevel.Task) -> bool:
        """Whether a task of the module's nursery is one of ours."""
        return trio_task in self._runners or trio_task.name == _Runner.NAME


class _Runner:
    """A task in a module's nursery that executes one task after the other.

    All of them run in one cancel scope, which is renewed when one of them was cancelled.
    """

    NAME = "<tasks>"

    __slots__ = ("_board", "_scope", "_tasks", "nap", "parked", "spent", "task")

    def __init__(self, tasks: ModuleTasks, board: TaskBoard) -> None:
        self.nap: trio.CancelScope | None = None
        self.spent = False
        self._board = board
        self._tasks = tasks
        self.task: BaseTask | None = None
        self.parked: trio.lowlevel.Task | None = None
        self._scope: trio.CancelScope | None = None

    def wake(self) -> None:
        """There is a task, and it is parked."""
        parked, self.parked = self.parked, None
        assert parked is not None
        trio.lowlevel.reschedule(parked, WOKEN)

    def cancel(self, reason: str) -> None:
        """Cancel what is being executed."""
        self.spent = True
        if self._scope is not None:
            self._scope.cancel(reason=reason)

    async def run(self) -> None:
        this = trio.lowlevel.current_task()
        self._tasks.joined(this)
        try:
            while await self._run_in_scope(this):
                self.spent = False
                await trio.lowlevel.checkpoint()
                if not self._tasks.came_back(self):
                    return
        finally:
            self._board.give_time_back(self)
            self._drop()
            self._tasks.left(self, this)

    async def _run_in_scope(self, this: trio.lowlevel.Task) -> bool:
        """Execute what comes; whether to go on with a new scope."""
        with trio.CancelScope() as self._scope:
            await self._execute_all(this)
        self._scope = None
        self._drop()
        this.name = self.NAME
        return self.spent

    def _drop(self) -> None:
        """What was taken and not begun ends here."""
        task, self.task = self.task, None
        if task is not None:
            self.spent = True
            self._tasks.not_begun(self, task)

    async def _execute_all(self, this: trio.lowlevel.Task) -> None:
        while not self.spent:
            if self.task is None:
                if not self._tasks.may_stay(self):
                    return
                this.name = self.NAME
                await self._rest(this)
            elif (waiting := self._execute_some(this)) is not None:
                task, rest = waiting
                self._board.give_time_back(self)
                try:
                    value = await rest
                except BaseException as exc:
                    self._raised(task, exc)
                else:
                    self._tasks.returned(self, task, value)
            elif self.task is not None:
                self._board.give_time_back(self)
                await trio.lowlevel.checkpoint()

    def _execute_some(self, this: trio.lowlevel.Task) -> tuple[BaseTask, Awaitable[object]] | None:
        """Execute what ends in its first step, until one doesn't: that one, and its rest.

        Also ends after so many, or so long, that everybody else should have a turn.
        """
        tasks = self._tasks
        until = self._board.time() + TURN
        for _ in range(SLICE):
            task = self.task
            if task is None or task._since > until:  # it was taken when the one before had ended
                return None
            self.task = None
            this.name = task._kind.name
            try:
                rest = tasks.first_step(task)
            except BaseException as exc:
                self._raised(task, exc)
            else:
                if rest is not None:
                    return task, rest
                if task._extras is NO_EXTRAS:  # nobody waits for it
                    tasks.over(self, task)
                else:
                    tasks.returned(self, task)
        return None

    def _raised(self, task: BaseTask, exc: BaseException) -> None:
        caught = take_apart(exc)
        self.spent = self.spent or isinstance(caught.passing, trio.Cancelled)
        self._tasks.raised(self, task, caught)

    async def _rest(self, this: trio.lowlevel.Task) -> None:
        """Wait for a task, be it that its time comes."""
        self.parked = this
        if not self._board.keep_time(self, self._tasks):
            await trio.lowlevel.wait_task_rescheduled(self._unpark)
            return
        with trio.CancelScope(deadline=self._board.wake) as self.nap:
            await trio.lowlevel.wait_task_rescheduled(self._unpark)
        is_over, self.nap = self.nap.cancel_called, None
        if is_over:
            self._board.woke()

    def _unpark(self, _: object) -> trio.lowlevel.Abort:
        if self.nap is not None and self.nap.cancel_called:
            self.wake()  # far cheaper than raising `Cancelled`
            return trio.lowlevel.Abort.FAILED
        self.parked = None
        return trio.lowlevel.Abort.SUCCEEDED


def _info(task: BaseTask) -> TaskInfo:
    error = None if task.last_error is None else shown(task.last_error)
    return TaskInfo(
        name=task.name,
        queued=task.queued,
        scheduled=task.next_run is not None,
        executing=task.executing,
        next_due=task.next_run,
        since=task._since if task.queued or task.executing else None,
        attempt=task.attempt,
        runs=task.runs,
        last_error=error,
    )
