"""One run of one module, as a task: from STARTING to the moment before OFFLINE.

From the outside in: the lifespans, the nursery with all of the module's work, and, when that is
closed, the stop functions; then the lifespans are left. Two scopes around the lifespans make them
cancellable without touching the scopes that they hold themselves: the outer one ends an entry that
is no longer wanted, the inner one then shields what has to be left, and ends that when its time
is up. No scope is ever opened around the entry or the exit of a lifespan alone, since a lifespan
may hold a nursery over its yield.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from trio_modules._abc import Ending
from trio_modules._context import HasMainTask, owner_var
from trio_modules._exceptions import BaseExceptionGroup, StartError
from trio_modules._lifecycle import Supervisor, Unit
from trio_modules._reporting import Reporter, take_apart
from trio_modules._resources import Resource
from trio_modules._services import ServiceWorker
from trio_modules._status import ModuleStatus
from trio_modules._tasktree import child_tasks, format_stacks
from trio_modules._timers import Timer, Timers
from trio_modules._util import shown
from trio_modules._workers import Workers

__all__ = ["Life", "LivingModule"]

AsyncFn = Callable[[], Awaitable[object]]

_WELL = Ending()


class LivingModule(HasMainTask, Protocol):
    """What a run has to know of the module whose run it is."""

    @property
    def workers(self) -> Workers: ...
    @property
    def resources(self) -> Sequence[Resource[object]]: ...
    @property
    def start_functions(self) -> Sequence[AsyncFn]: ...
    @property
    def stop_functions(self) -> Sequence[AsyncFn]: ...
    @property
    def services(self) -> dict[str, ServiceWorker] | None: ...

    @property
    def readiness_counts(self) -> bool: ...

    @property
    def has_to_drain(self) -> bool: ...

    async def drain(self, deadline: float) -> None: ...
    def readers_ended(self) -> None: ...
    def stop_triggering(self) -> None: ...
    def begin_declared_work(self) -> list[ServiceWorker]: ...
    def came_online(self) -> None: ...
    def began_to_stop(self) -> None: ...
    def run_ended(self) -> None: ...


class Life:
    """The runs of one module, one after another; see `Startable` for what the supervisor calls."""

    __slots__ = (
        "_cause",
        "_completed",
        "_crashed",
        "_entry_scope",
        "_exit_scope",
        "_expired",
        "_failed",
        "_failures",
        "_holding",
        "_interruptible",
        "_late",
        "_late_timer",
        "_module",
        "_parked",
        "_reported",
        "_reporter",
        "_start_timer",
        "_stop_scope",
        "_supervisor",
        "_timed_out",
        "_timers",
        "_turn",
        "_waiting",
        "function_runs",
        "main_task",
        "start_timeout",
        "unit",
    )

    unit: Unit

    def __init__(
        self,
        module: LivingModule,
        supervisor: Supervisor,
        timers: Timers,
        reporter: Reporter,
        start_timeout: float,
    ) -> None:
        self._module = module
        self._supervisor = supervisor
        self._timers = timers
        self._reporter = reporter
        self.start_timeout = start_timeout
        self.main_task: trio.lowlevel.Task | None = None
        self._parked: trio.lowlevel.Task | None = None
        self._late_timer: Timer | None = None
        self._interruptible: dict[trio.CancelScope, None] | None = None
        self._reset()

    def _reset(self) -> None:
        self.function_runs = False
        self._turn = self._failed = self._crashed = self._completed = False
        self._expired = False
        self._cause: BaseException | None = None
        self._reported = False
        self._failures: list[BaseException] | None = None
        self._holding: set[ServiceWorker] | None = None
        self._start_timer: Timer | None = None
        self._timed_out = False
        self._waiting = ""
        self._late: float | None = None
        self._entry_scope: trio.CancelScope | None = None
        self._exit_scope: trio.CancelScope | None = None
        self._stop_scope: trio.CancelScope | None = None

    # ------------------------------------------------------------ the run

    async def live(self) -> None:
        """The whole run; see the head of this file."""
        module = self._module
        owner_var.set(module)
        self.main_task = trio.lowlevel.current_task()
        if self._turn:
            pass  # told to stop before the first step
        elif module.resources:
            await self._live_in_lifespans(module.resources)
        else:
            await self._work()
            if (self._completed and module.stop_functions) or not self._turn:
                await self._finish()
        self.main_task = None
        self._supervisor.ended(self.unit, self._ending())

    async def _live_in_lifespans(self, resources: Sequence[Resource[object]]) -> None:
        self._entry_scope = trio.CancelScope()
        self._exit_scope = trio.CancelScope()
        self._arm_start()
        with self._entry_scope, self._exit_scope:
            entered: list[Resource[object]] = []
            if await self._enter(resources, entered):
                await self._work()
                await self._finish()
            self._module.stop_triggering()
            self._exit_scope.shield = True
            self._arm_late()
            if self._expired:
                self._exit_scope.cancel(reason=self._late_reason)
            await self._leave(entered)

    async def _enter(
        self, resources: Sequence[Resource[object]], entered: list[Resource[object]]
    ) -> bool:
        for resource in resources:
            if self._turn or not await self._call(resource.enter):
                return False
            entered.append(resource)
        return not self._turn

    async def _leave(self, entered: list[Resource[object]]) -> None:
        while entered:
            await self._call_late(entered.pop().leave)

    async def _call_late(self, fn: AsyncFn) -> None:
        """Call a function of the stop, inside of the scope that shields it.

        A cancellation ends here: it was that scope's, whose time was over.
        """
        self.function_runs = True
        try:
            await fn()
        except BaseException as exc:
            self._raised_late(exc)
        finally:
            self.function_runs = False

    async def _work(self) -> None:
        """The life of the nursery. An idle module waits in here, so this frame is all it has."""
        workers = self._module.workers
        try:
            async with trio.open_nursery() as nursery:
                workers.nursery = nursery
                workers.open = True
                if self._has_to_wait_for_start and not await self._start():
                    await self._wind_up()
                else:
                    self._come_online()
                    self._parked = self.main_task
                    try:
                        await trio.lowlevel.wait_task_rescheduled(self._unpark)
                    except trio.Cancelled:
                        self._fell()
                        raise
                    if workers.busy:
                        await self._drain()
                        await self._wind_up()
        except BaseException as exc:
            self._escaped(exc)
        workers.nursery = None
        if workers.guests:
            await workers.guests_left()

    async def _drain(self) -> None:
        """Let the hooks handle what they have, for at most half of the time, beside the workers."""
        module = self._module
        in_a_hurry = self._crashed or self._expired or self._supervisor.hurrying
        if module.has_to_drain and not in_a_hurry:
            began = module.workers.stop_began
            assert began is not None
            await module.drain(began + self.unit.stop_timeout / 2)

    async def _wind_up(self) -> None:
        """Cancel what still works, those with a grace period when that is over."""
        workers = self._module.workers
        self._stop_services()
        workers.cancel(self.reason, with_grace=not (self._crashed or self._expired))
        if workers.guests:
            await workers.guests_left()

    async def _finish(self) -> None:
        """After the nursery: wait for the dependents to be down, then run the stop functions."""
        self._arm_late()
        if not self._turn:  # a crash: those that depend on it go first
            with trio.CancelScope(shield=True):
                await self._park()
        self._module.readers_ended()
        if self._completed:
            await self._run_stop_functions()

    # ------------------------------------------------------------ starting

    @property
    def _has_to_wait_for_start(self) -> bool:
        module = self._module
        return bool(module.start_functions) or module.readiness_counts

    async def _start(self) -> bool:
        """Start functions and declared workers; whether the module is to be ONLINE now."""
        for fn in self._module.start_functions:
            self._arm_start()
            if self._turn or not await self._call(fn):
                return False
        self._completed = True
        if self._turn:
            return False
        self._begin_declared_work()
        while self._holding and not self._over:
            self._arm_start()
            await self._park_starting()
        return not self._over

    async def _park_starting(self) -> None:
        try:
            await self._park()
        except trio.Cancelled:
            if not self._over:
                self._fail(None)
            raise

    def _begin_declared_work(self) -> None:
        holding = self._module.begin_declared_work()
        if holding:
            self._holding = {worker for worker in holding if worker.holds_back}

    def _come_online(self) -> None:
        """The last step of the start."""
        if not self._completed:  # there was nothing to wait for
            self._completed = True
            self._begin_declared_work()
        self._disarm_start()
        self._supervisor.online(self.unit)
        self._module.came_online()

    @property
    def _over(self) -> bool:
        return self._turn or self._failed or self._crashed

    async def _call(self, fn: AsyncFn) -> bool:
        """Call a function of the start, here at the edge of user code; whether it returned.

        A cancellation ends here: whoever cancelled the start has said so to the supervisor, and
        what follows is the stop.
        """
        self.function_runs = True
        try:
            await fn()
        except BaseException as exc:
            caught = take_apart(exc)
            self._reporter.pass_on(caught)
            if not self._turn:
                self._fail(caught.failure)
            elif caught.failure is not None:
                self._keep(caught.failure)
            return False
        finally:
            self.function_runs = False
        return True

    def _fail(self, cause: BaseException | None) -> None:
        """The start failed: undo it. The cause may still be on its way, in the nursery."""
        self._failed = True
        self._cause = self._cause or cause
        self._supervisor.failing(self.unit, "its start failed")

    def _arm_start(self) -> None:
        if self._start_timer is None and not self._turn:
            self._start_timer = self._timers.after(self.start_timeout, self._start_overdue)

    def _disarm_start(self) -> None:
        if self._start_timer is not None:
            self._start_timer.cancel()

    def _start_overdue(self) -> None:
        self._waiting = self.stacks()
        self._timed_out = True
        self._failed = True
        self._supervisor.failing(self.unit, f"it did not start within {self.start_timeout:g} s")

    def service_ready(self, worker: ServiceWorker) -> None:
        """A service worker that holds ONLINE back has called ``task_status.started()``."""
        if self._holding and worker in self._holding:
            self._holding.discard(worker)
            if not self._holding:
                self._wake()

    def holds_back(self, tasks: Sequence[trio.lowlevel.Task]) -> bool:
        """Whether one of these tasks is a service worker that holds ONLINE back."""
        return any(worker.task in tasks for worker in self._holding or ())

    def service_ended(self, worker: ServiceWorker) -> None:
        """A service worker has ended; one that was never ready makes the start fail."""
        if self._holding and worker in self._holding and not self._over:
            self._fail(
                RuntimeError(
                    f"service worker {worker.name!r} ended before it called task_status.started()"
                )
            )

    # ------------------------------------------------------------ crashing and stopping

    def crash(self, exc: BaseException) -> bool:
        """A worker asks for the end of its module; whether *exc* will be raised for it."""
        if self.unit.status is ModuleStatus.STARTING:
            self._fail(exc)
            return True
        if self.unit.status is ModuleStatus.ONLINE:
            self._cause = exc
            self._reported = True
            self._fall(shown(exc))
            return False
        self._keep(exc)
        return True

    def _fell(self) -> None:
        """The scope that the module's own task waits in was cancelled: by itself, or by a crash."""
        if not self._turn and not self._crashed:
            self._fall("its nursery or a lifespan of it was cancelled")

    def _fall(self, why: str) -> None:
        self._crashed = True
        self._supervisor.fall(self.unit, f"module {self._module.name!r} crashed: {why}")

    def fall(self) -> None:
        """See `Startable`."""
        self._end_work()
        workers = self._module.workers
        if workers.busy:
            workers.cancel(self.reason, with_grace=False)
        self._wake()

    def begin_stop(self) -> None:
        """See `Startable`."""
        self._turn = True
        self._disarm_start()
        self._end_work()
        if self._must_wait:
            self._supervisor.arm(self.unit)
        if not self._wake():
            self._cancel_start()

    def _end_work(self) -> None:
        """From here on no new work comes from outside."""
        workers = self._module.workers
        if workers.stop_began is not None:
            return
        workers.open = False
        workers.stop_began = trio.current_time()
        for scope in list(self._interruptible or ()):
            scope.cancel(reason=self.reason)
        self._module.began_to_stop()

    @property
    def _must_wait(self) -> bool:
        module = self._module
        return bool(
            not self._parked
            or self._holding
            or module.stop_functions
            or module.resources
            or module.workers.busy
        )

    def _cancel_start(self) -> None:
        """It isn't parked, so it is in the middle of its start, or on its way out already."""
        nursery = self._module.workers.nursery
        if nursery is not None:
            nursery.cancel_scope.cancel(reason=self.reason)
        elif self._entry_scope is not None and not self._completed:
            self._entry_scope.cancel(reason=self.reason)

    def _stop_services(self) -> None:
        for worker in list((self._module.services or {}).values()):
            worker.stop_waiting(self.reason)

    async def _run_stop_functions(self) -> None:
        for fn in reversed(self._module.stop_functions):
            self._stop_scope = trio.CancelScope(shield=True)
            if self._expired:
                self._stop_scope.cancel(reason=self._late_reason)
            with self._stop_scope:
                await self._call_late(fn)
        self._stop_scope = None

    def hurry(self, seconds: float) -> None:
        """See `Startable`."""
        workers = self._module.workers
        if workers.nursery is not None:
            workers.cancel(self._late_reason, with_grace=False)
        elif self._stop_scope is not None:
            self._stop_scope.cancel(reason=self._late_reason)
        elif self._exit_scope is not None and self._exit_scope.shield:
            self._exit_scope.cancel(reason=self._late_reason)
        self._late = seconds
        if not seconds:
            self._expire()
        elif self._in_last_stage:
            self._arm_late()

    def _arm_late(self) -> None:
        """What went before has outlasted its time: what follows has as much once more."""
        if self._late and self._late_timer is None:
            self._late_timer = self._timers.after(self._late, self._expire)

    @property
    def _in_last_stage(self) -> bool:
        if self._stop_scope is not None:
            return True
        return self._exit_scope is not None and self._exit_scope.shield

    def _expire(self) -> None:
        self._expired = True
        for scope in (self._stop_scope, self._exit_scope):
            if scope is not None and scope.shield:
                scope.cancel(reason=self._late_reason)

    # ------------------------------------------------------------ what went wrong

    def _escaped(self, exc: BaseException) -> None:
        """Something came out of the nursery.

        A cancellation ends here: it was a lifespan's, whose end has still to run, and `_fell` has
        told the supervisor. What that lifespan raises in its end is the cause.
        """
        caught = take_apart(_unwrapped(exc))
        self._reporter.pass_on(caught)
        failure = caught.failure
        if failure is None:
            if caught.fatal:
                self._crashed = False  # the shutdown that it begins is all that follows
            return
        if (self._crashed or self._failed) and self._cause is None and not self._timed_out:
            self._cause = failure
        else:
            self._keep(failure)

    def _raised_late(self, exc: BaseException) -> None:
        """A stop function or the end of a lifespan raised."""
        caught = take_apart(exc)
        self._reporter.pass_on(caught)
        failure = caught.failure
        if failure is None:
            return
        if (self._crashed and self._cause is None) or (
            self._failed and self._cause is None and not self._timed_out
        ):
            self._cause = failure
        else:
            self._keep(failure)

    def _keep(self, failure: BaseException) -> None:
        if self._failures is None:
            self._failures = []
        self._failures.append(failure)

    def _ending(self) -> Ending:
        if not (self._failed or self._crashed or self._failures):
            return _WELL
        start_error = None
        if self._failed:
            timeout = self.start_timeout if self._timed_out else None
            start_error = StartError(self._module.name, "start", self._waiting, timeout)
            start_error.__cause__ = self._cause
        return Ending(
            start_error=start_error,
            crashed=self._crashed,
            cause=self._cause,
            reported=self._reported,
            failures=tuple(self._failures or ()),
        )

    def closed(self) -> None:
        """See `Startable`."""
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None
        self._reset()
        self._interruptible = None
        self._module.run_ended()

    # ------------------------------------------------------------ small change

    @property
    def reason(self) -> str:
        """Why the module stops, for those whom that cancels."""
        return f"module {self._module.name!r} is stopping: {self.unit.reason or 'the app stops'}"

    @property
    def _late_reason(self) -> str:
        return f"module {self._module.name!r} has run out of time to stop"

    def interruptible(self, scope: trio.CancelScope) -> None:
        """*scope* is cancelled when the module begins to stop, at once if it has begun."""
        if self._module.workers.stop_began is not None:
            scope.cancel(reason=self.reason)
            return
        if self._interruptible is None:
            self._interruptible = {}
        self._interruptible[scope] = None

    def not_interruptible(self, scope: trio.CancelScope) -> None:
        """*scope* has been left."""
        if self._interruptible is not None:
            self._interruptible.pop(scope, None)

    def extend_timeout(self, seconds: float) -> None:
        """Move the present deadline."""
        timer = self._start_timer
        if self.unit.status is ModuleStatus.STARTING:
            self._arm_start()
            timer = self._start_timer
            assert timer is not None
            timer.cancel()
            self._start_timer = self._timers.at(timer.when + seconds, self._start_overdue)
        else:
            self._supervisor.extend(self.unit, seconds)

    def stacks(self) -> str:
        """See `Startable`."""
        tasks = [] if self.main_task is None else [self.main_task]
        workers = self._module.workers
        if workers.nursery is not None:
            tasks += child_tasks(workers.nursery)
        tasks += [guest.task for guest in workers.guests or ()]
        threads = workers.thread_stacks("  ")
        return "\n".join([format_stacks(dict.fromkeys(tasks)), *threads])

    async def _park(self) -> None:
        """Wait for `_wake`: an event that costs nothing, since ten thousand modules wait here."""
        self._parked = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._unpark)

    def _unpark(self, _: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> bool:
        task, self._parked = self._parked, None
        if task is not None:
            trio.lowlevel.reschedule(task)
        return task is not None


def _unwrapped(exc: BaseException) -> BaseException:
    """Without the group that our nursery makes of a single exception: it tells nobody a thing."""
    if isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        return exc.exceptions[0]
    return exc
