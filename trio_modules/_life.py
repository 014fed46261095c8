"""One run of one module, as a task: from STARTING to the moment before OFFLINE.

From the outside in: the lifespans, the nursery with all of the module's work, and, when that is
closed, the stop functions; then the lifespans are left. Two scopes around the lifespans make them
cancellable without touching the scopes that they hold themselves: the outer one ends an entry that
is no longer wanted, the inner one then shields what has to be left, and ends that when its time
is up. No scope is ever opened around the entry or the exit of a lifespan alone, since a lifespan
may hold a nursery over its yield.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Protocol

import trio

from trio_modules._abc import Ending
from trio_modules._context import HasMainTask, owner_var
from trio_modules._exceptions import BaseExceptionGroup, StartError, shown
from trio_modules._lifecycle import Supervisor, Unit
from trio_modules._reporting import Caught, Reporter, remember_under_way, take_apart
from trio_modules._resources import Resource
from trio_modules._seam import AnyAsyncFn, CallKind
from trio_modules._services import ServiceWorker
from trio_modules._status import ModuleStatus
from trio_modules._stepping import PARKED, WOKEN, wait_again
from trio_modules._tasktree import child_tasks, format_stacks
from trio_modules._timers import Timer, Timers
from trio_modules._util import callable_name
from trio_modules._workers import Workers

__all__ = ["Life", "LivingModule"]

AsyncFn = Callable[[], Awaitable[object]]

_WELL = Ending()
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


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
    def timers(self) -> Timers: ...
    @property
    def services(self) -> dict[str, ServiceWorker] | None: ...

    @property
    def readiness_counts(self) -> bool: ...
    def around(self, kind: CallKind, name: str, fn: AnyAsyncFn) -> AnyAsyncFn: ...

    @property
    def has_to_drain(self) -> bool: ...

    async def drain(self, deadline: float) -> None: ...
    def readers_ended(self) -> None: ...
    def stop_triggering(self) -> None: ...
    def begin_declared_work(self) -> list[ServiceWorker]: ...
    def came_online(self) -> None: ...
    def began_to_stop(self) -> None: ...
    def run_ended(self) -> None: ...


class _Extras:
    """What few runs ever have: lifespans and their scopes, timers, errors.

    Attributes:
        entry_scope, exit_scope: the two around the lifespans, see the head of this file.
        called_off: the reason for which the first of them was cancelled, if it was.
        start_timer: set while the start waits for something.
        timed_out, waiting: whether the start ran out of time, and where everything was then.
        cause, reported: why it crashed or did not start, and whether that is reported.
        cancelled: what was said of the cancellation that ended it, if no exception did.
        interrupted: whether what is no `Exception` ended it, so that the app shuts down.
        failures: what else went wrong.
        holding: the service workers whose readiness the start waits for.
        interruptible: what is cancelled when the stop begins.
        stop_scope: the one around the stop function that runs.
        late, late_timer, expired: the seconds that what follows has when the stop is overdue,
            the timer of that, and whether that is over, too.
    """

    __slots__ = (
        "called_off",
        "cancelled",
        "cause",
        "entry_scope",
        "exit_scope",
        "expired",
        "failures",
        "holding",
        "interrupted",
        "interruptible",
        "late",
        "late_timer",
        "reported",
        "start_timer",
        "stop_scope",
        "timed_out",
        "waiting",
    )

    def __init__(self) -> None:
        self.cause: BaseException | None = None
        self.reported = self.timed_out = self.expired = self.interrupted = False
        self.called_off = self.cancelled = ""
        self.failures: tuple[BaseException, ...] = ()
        self.holding: set[ServiceWorker] = set()
        self.interruptible: dict[trio.CancelScope, None] = {}
        self.waiting = ""
        self.late: float | None = None
        self.start_timer: Timer | None = None
        self.late_timer: Timer | None = None
        self.entry_scope: trio.CancelScope | None = None
        self.exit_scope: trio.CancelScope | None = None
        self.stop_scope: trio.CancelScope | None = None


#: Those of a run that has none; never changed.
_NO_EXTRAS = _Extras()


class Life:
    """The runs of one module, one after another; see `Startable` for what the supervisor calls."""

    __slots__ = (
        "_completed",
        "_crashed",
        "_extras",
        "_failed",
        "_module",
        "_supervisor",
        "_turn",
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
        start_timeout: float,
    ) -> None:
        self._module = module
        self._supervisor = supervisor
        self.start_timeout = start_timeout
        self.main_task: trio.lowlevel.Task | None = None
        self._reset()

    def _reset(self) -> None:
        self.function_runs = False
        self._turn = self._failed = self._crashed = self._completed = False
        self._extras = _NO_EXTRAS

    def _with_extras(self) -> _Extras:
        """The extras of this run, to set one of them."""
        if self._extras is _NO_EXTRAS:
            self._extras = _Extras()
        return self._extras

    # ------------------------------------------------------------ the run

    def live(self) -> Coroutine[object, object, None]:
        """The whole run; see the head of this file."""
        return self._live_in_lifespans() if self._module.resources else self._work(alone=True)

    def _begin(self) -> bool:
        """The first step of the task; whether it hasn't been told to stop before that."""
        owner_var.set(self._module)
        self.main_task = trio.lowlevel.current_task()
        return not self._turn

    def _end(self) -> None:
        """The last step of the task."""
        self.main_task = None
        self._supervisor.ended(self.unit, self._ending())

    async def _live_in_lifespans(self) -> None:
        if self._begin():
            await self._in_lifespans(self._module.resources)
        self._end()

    async def _in_lifespans(self, resources: Sequence[Resource[object]]) -> None:
        extras = self._with_extras()
        extras.entry_scope, extras.exit_scope = trio.CancelScope(), trio.CancelScope()
        self._arm_start()
        with extras.entry_scope, extras.exit_scope:
            entered: list[Resource[object]] = []
            if await self._enter(resources, entered):
                await self._work(alone=False)
                await self._finish()
            self._module.stop_triggering()
            if extras.entry_scope.cancel_called:
                remember_under_way(extras.called_off)
            extras.exit_scope.shield = True
            self._arm_late()
            if extras.expired:
                extras.exit_scope.cancel(reason=self._late_reason)
            await self._leave(entered)

    async def _enter(
        self, resources: Sequence[Resource[object]], entered: list[Resource[object]]
    ) -> bool:
        for resource in resources:
            if self._turn or not await self._call("enter", resource.name, resource.enter):
                return False
            entered.append(resource)
        return not self._turn

    async def _leave(self, entered: list[Resource[object]]) -> None:
        while entered:
            resource = entered.pop()
            await self._call_late("leave", resource.name, resource.leave)

    async def _call_late(self, kind: CallKind, name: str, fn: AsyncFn) -> None:
        """Call a function of the stop, inside of the scope that shields it.

        A cancellation ends here: it was that scope's, whose time was over.
        """
        self.function_runs = True
        try:
            await self._module.around(kind, name, fn)()
        except BaseException as exc:
            self._raised_late(exc)
        finally:
            self.function_runs = False

    async def _work(self, *, alone: bool) -> None:
        """The life of the nursery, and *alone*, without lifespans, the whole run.

        An idle module waits in here, so this frame is all it has: it holds nothing else.
        """
        if alone and not self._begin():
            self._end()
            return
        try:
            async with trio.open_nursery() as self._module.workers.nursery:
                self._module.workers.open = True
                if self._has_to_wait_for_start and not await self._start():
                    await self._wind_up()
                else:
                    self._come_online()
                    trio.lowlevel.current_task().custom_sleep_data = self
                    try:
                        await wait_again(PARKED)
                    except trio.Cancelled as exc:
                        self._fell(exc)
                        raise
                    if self._module.workers.busy:
                        await self._drain()
                        await self._wind_up()
        except BaseException as exc:
            self._escaped(exc)
        self._module.workers.nursery = None
        if self._module.workers.guests:
            await self._module.workers.guests_left()
        if alone:
            if (self._completed and self._module.stop_functions) or not self._turn:
                await self._finish()
            self._end()

    async def _drain(self) -> None:
        """Let the hooks handle what they have, for at most half of the time, beside the workers."""
        module = self._module
        in_a_hurry = self._crashed or self._extras.expired or self._supervisor.hurrying
        if module.has_to_drain and not in_a_hurry:
            began = module.workers.stop_began
            assert began is not None
            try:
                await module.drain(began + self.unit.stop_timeout / 2)
            except trio.Cancelled:
                self._cancel_work()  # what isn't in the nursery has to hear of it, too
                raise

    async def _wind_up(self) -> None:
        """Cancel what still works, those with a grace period when that is over."""
        workers = self._module.workers
        self._stop_services()
        self._cancel_work()
        if workers.guests:
            await workers.guests_left()

    def _cancel_work(self) -> None:
        with_grace = not (self._crashed or self._extras.expired)
        self._module.workers.cancel(self.reason, with_grace=with_grace)

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
            if self._turn or not await self._call("start", callable_name(fn), fn):
                return False
        self._completed = True
        try:
            await self._begin_and_hold()
        except trio.Cancelled as exc:
            if not self._over:
                self._did_not_start(take_apart(exc))
            self._cancel_work()  # what isn't in the nursery has to hear of it, too
            raise
        return not self._over

    async def _begin_and_hold(self) -> None:
        """Begin the declared work and wait until it is ready, unless all has been cancelled."""
        if self._turn:
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        self._begin_declared_work()
        while self._extras.holding and not self._over:
            self._arm_start()
            await self._park()
        if not self._over:
            await trio.lowlevel.checkpoint_if_cancelled()

    def _begin_declared_work(self) -> None:
        holding = self._module.begin_declared_work()
        if holding:
            self._with_extras().holding = {worker for worker in holding if worker.holds_back}

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

    async def _call(self, kind: CallKind, name: str, fn: AsyncFn) -> bool:
        """Call a function of the start, here at the edge of user code; whether it returned.

        A cancellation ends here: whoever cancelled the start has said so to the supervisor, and
        what follows is the stop.
        """
        self.function_runs = True
        try:
            await self._module.around(kind, name, fn)()
        except BaseException as exc:
            caught = take_apart(exc)
            self._reporter.pass_on(caught)
            if not self._turn:
                self._did_not_start(caught)
            elif caught.failure is not None:
                self._keep(caught.failure)
            return False
        finally:
            self.function_runs = False
        return True

    def _did_not_start(self, caught: Caught) -> None:
        if caught.fatal:
            self._with_extras().interrupted = True
        if caught.cancelled is not None:
            self._with_extras().cancelled = _described(caught.cancelled)
        self._fail(caught.failure)

    def _fail(self, cause: BaseException | None) -> None:
        """The start failed: undo it. The cause may still be on its way, in the nursery."""
        self._failed = True
        extras = self._with_extras()
        extras.cause = extras.cause or cause
        self._supervisor.failing(self.unit, "its start failed")

    def _arm_start(self) -> None:
        if self._extras.start_timer is None and not self._turn:
            self._with_extras().start_timer = self._module.timers.after(
                self.start_timeout, self._start_overdue
            )

    def _disarm_start(self) -> None:
        if self._extras.start_timer is not None:
            self._extras.start_timer.cancel()

    def _start_overdue(self) -> None:
        extras = self._with_extras()
        extras.waiting, extras.timed_out = self.stacks(), True
        self._failed = True
        self._supervisor.failing(self.unit, f"it did not start within {self.start_timeout:g} s")

    def service_ready(self, worker: ServiceWorker) -> None:
        """A service worker that holds ONLINE back has called ``task_status.started()``."""
        if self._extras.holding and worker in self._extras.holding:
            self._extras.holding.discard(worker)
            if not self._extras.holding:
                self._wake()

    def holds_back(self, tasks: Sequence[trio.lowlevel.Task]) -> bool:
        """Whether one of these tasks is a service worker that holds ONLINE back."""
        return any(worker.task in tasks for worker in self._extras.holding)

    def service_ended(self, worker: ServiceWorker) -> None:
        """A service worker has ended; one that was never ready makes the start fail."""
        if not self._extras.holding or worker not in self._extras.holding or self._over:
            return
        if worker.interrupted:
            self._extras.interrupted = True
            self._fail(None)
        elif trio.current_effective_deadline() > -math.inf:  # else something else ends the start
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
            extras = self._with_extras()
            extras.cause, extras.reported = exc, True
            self._fall(shown(exc))
            return False
        self._keep(exc)
        return True

    def _fell(self, exc: trio.Cancelled) -> None:
        """The scope that the module's own task waits in was cancelled: by itself, or by a crash."""
        if not self._turn and not self._crashed:
            self._with_extras().cancelled = _described(exc)
            self._fall("its nursery or a lifespan of it was cancelled")
        else:  # what isn't in the nursery has to hear of it, too
            self._cancel_work()

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
        if self._extras.interruptible:
            for scope in list(self._extras.interruptible):
                scope.cancel(reason=self.reason)
        self._module.began_to_stop()

    @property
    def _must_wait(self) -> bool:
        module = self._module
        return bool(
            not self._parked
            or self._extras.holding
            or module.stop_functions
            or module.resources
            or module.workers.busy
        )

    def _cancel_start(self) -> None:
        """It isn't parked, so it is in the middle of its start, or on its way out already."""
        if self._module.workers.nursery is not None:
            self._stop_services()  # at once, however long the start takes to leave
            self._cancel_work()
        elif self._extras.entry_scope is not None and not self._completed:
            self._extras.called_off = self.reason
            self._extras.entry_scope.cancel(reason=self.reason)

    def _stop_services(self) -> None:
        for worker in list((self._module.services or {}).values()):
            worker.stop_waiting(self.reason)

    async def _run_stop_functions(self) -> None:
        for fn in reversed(self._module.stop_functions):
            extras = self._with_extras()
            extras.stop_scope = trio.CancelScope(shield=True)
            if extras.expired:
                extras.stop_scope.cancel(reason=self._late_reason)
            with extras.stop_scope:
                await self._call_late("stop", callable_name(fn), fn)
            extras.stop_scope = None

    def hurry(self, seconds: float) -> None:
        """See `Startable`."""
        workers = self._module.workers
        if workers.nursery is not None:
            workers.cancel(self._late_reason, with_grace=False)
        elif self._extras.stop_scope is not None:
            self._extras.stop_scope.cancel(reason=self._late_reason)
        elif self._extras.exit_scope is not None and self._extras.exit_scope.shield:
            self._extras.exit_scope.cancel(reason=self._late_reason)
        self._with_extras().late = seconds
        if not seconds:
            self._expire()
        elif self._in_last_stage:
            self._arm_late()

    def _arm_late(self) -> None:
        """What went before has outlasted its time: what follows has as much once more."""
        if self._extras.late and self._extras.late_timer is None:
            self._with_extras().late_timer = self._module.timers.after(
                self._extras.late, self._expire
            )

    @property
    def _in_last_stage(self) -> bool:
        if self._extras.stop_scope is not None:
            return True
        return self._extras.exit_scope is not None and self._extras.exit_scope.shield

    def _expire(self) -> None:
        self._with_extras().expired = True
        for scope in (self._extras.stop_scope, self._extras.exit_scope):
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
        if caught.fatal:
            self._with_extras().interrupted = True
        if failure is None:
            return
        if (
            (self._crashed or self._failed)
            and self._extras.cause is None
            and not self._extras.timed_out
        ):
            self._with_extras().cause = failure
        else:
            self._keep(failure)

    def _raised_late(self, exc: BaseException) -> None:
        """A stop function or the end of a lifespan raised."""
        caught = take_apart(exc)
        self._reporter.pass_on(caught)
        failure = caught.failure
        if failure is None:
            return
        if (self._crashed and self._extras.cause is None) or (
            self._failed and self._extras.cause is None and not self._extras.timed_out
        ):
            self._with_extras().cause = failure
        else:
            self._keep(failure)

    def _keep(self, failure: BaseException) -> None:
        extras = self._with_extras()
        extras.failures = (*extras.failures, failure)

    def _ending(self) -> Ending:
        if not (self._failed or self._crashed or self._extras.failures):
            return _WELL
        cause = self._cause()
        return Ending(
            start_error=self._start_error(cause) if self._failed else None,
            crashed=self._crashed and cause is not None,
            cause=cause,
            reported=self._extras.reported,
            failures=self._extras.failures,
            interrupted=self._extras.interrupted,
        )

    def _cause(self) -> BaseException | None:
        """What made it crash or fail to start; None if it ran out of time or was interrupted."""
        extras = self._extras
        if extras.cause is not None or extras.interrupted or extras.timed_out:
            return extras.cause
        return RuntimeError(f"the module's nursery, or a scope around it, was {extras.cancelled}")

    def _start_error(self, cause: BaseException | None) -> StartError | None:
        if cause is None and self._extras.interrupted:
            return None
        timeout = self.start_timeout if self._extras.timed_out else None
        error = StartError(self._module.name, "start", self._extras.waiting, timeout)
        error.__cause__ = cause
        return error

    def closed(self) -> None:
        """See `Startable`."""
        if self._extras.late_timer is not None:
            self._extras.late_timer.cancel()
        self._reset()
        self._module.run_ended()

    # ------------------------------------------------------------ small change

    @property
    def _reporter(self) -> Reporter:
        return self._module.workers.reporter

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
        self._with_extras().interruptible[scope] = None

    def not_interruptible(self, scope: trio.CancelScope) -> None:
        """*scope* has been left."""
        self._extras.interruptible.pop(scope, None)

    def extend_timeout(self, seconds: float) -> None:
        """Move the present deadline."""
        timer = self._extras.start_timer
        if self.unit.status is ModuleStatus.STARTING:
            self._arm_start()
            timer = self._extras.start_timer
            assert timer is not None
            timer.cancel()
            self._with_extras().start_timer = self._module.timers.at(
                timer.when + seconds, self._start_overdue
            )
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
        trio.lowlevel.current_task().custom_sleep_data = self
        await wait_again(PARKED)

    @property
    def _parked(self) -> bool:
        """Whether its task waits for `_wake`; Trio takes the mark away from whoever goes on."""
        return self.main_task is not None and self.main_task.custom_sleep_data is self

    def _wake(self) -> bool:
        if not self._parked:
            return False
        assert self.main_task is not None
        trio.lowlevel.reschedule(self.main_task, WOKEN)
        return True


def _described(exc: trio.Cancelled) -> str:
    """Who cancelled what, and why, in Trio's words; without addresses, which differ in each run."""
    return _ADDRESS.sub("", str(exc))


def _unwrapped(exc: BaseException) -> BaseException:
    """Without the group that our nursery makes of a single exception: it tells nobody a thing."""
    if isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        return exc.exceptions[0]
    return exc
