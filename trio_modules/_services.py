"""Service workers: restarted after a backoff when they fail, given up when they fail too often.

What flows through: one attempt after another of the same function. What may never happen: a
restart that spins, a failure that nobody hears of, a genuine cancellation taken for a failure.
"""

from __future__ import annotations

import inspect
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import trio

from trio_modules._backoff import Restart, RestartTracker, checked_policy
from trio_modules._broadcast import Broadcast
from trio_modules._context import owner_var
from trio_modules._exceptions import shown
from trio_modules._failure import FailureLevel, FailureStatus
from trio_modules._reporting import asked_for, is_ordinary, take_apart
from trio_modules._seam import AnyAsyncFn
from trio_modules._status import Change
from trio_modules._timers import Timers
from trio_modules._util import check_async, check_call, check_count, check_seconds
from trio_modules._workers import Workers, WorkHost, WorkingModule

if TYPE_CHECKING:
    import logging

    from typing_extensions import TypeVarTuple, Unpack

    ArgsT = TypeVarTuple("ArgsT")

__all__ = ["Grid", "RestartGate", "ServiceModule", "ServiceWorker", "supervise"]


class ServiceHost(WorkHost, Protocol):
    """What a running app hands to service workers."""

    @property
    def gate(self) -> RestartGate: ...
    @property
    def rng(self) -> random.Random: ...
    @property
    def changes(self) -> Broadcast[Change]: ...


class ServiceModule(WorkingModule, Protocol):
    """What a service worker has to know of its module."""

    @property
    def logger(self) -> logging.Logger: ...
    @property
    def workers(self) -> Workers: ...
    @property
    def hosted(self) -> ServiceHost: ...

    def service_ready(self, worker: ServiceWorker) -> None: ...
    def service_ended(self, worker: ServiceWorker) -> None: ...
    def set_failure(self, failure: FailureStatus) -> FailureStatus: ...
    def resolve_failure(self, failure_id: str) -> bool: ...


class RestartGate:
    """The restart capacity of an app: at most `limit` restarted workers within their first seconds.

    A worker passes before it runs again and holds its place for `settle` seconds, even if it
    fails sooner; the others wait, first come first served. After an outage that all workers share
    they so come back in a ramp.

    Attributes:
        is_limited: whether anybody has to pass; not while `settle` is 0.
        settling: how many hold a place.
    """

    def __init__(self, timers: Timers, limit: int, settle: float) -> None:
        self._timers = timers
        self._limit = check_count("max_concurrent_restarts", limit, minimum=1)
        self._settle = check_seconds("restart_settle", settle, finite=True)
        self.is_limited = self._settle > 0
        self._waiting: deque[trio.Event] = deque()
        self.settling = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, value: int) -> None:
        self._limit = check_count("max_concurrent_restarts", value, minimum=1)
        self._admit()

    @property
    def settle(self) -> float:
        return self._settle

    @settle.setter
    def settle(self, value: float) -> None:
        self._settle = check_seconds("restart_settle", value, finite=True)
        self.is_limited = self._settle > 0
        self._admit()

    async def enter(self) -> None:
        """Wait for a place; cancelled, it goes to the next. Nobody has to while `settle` is 0."""
        turn = trio.Event()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn.wait()
        except BaseException:
            self._withdraw(turn)
            raise

    def settled_after(self, settled: Callable[[], None]) -> None:
        """Call *settled* once the restart that has just entered has held out long enough."""
        self._timers.after(self._settle, lambda: self._release(settled))

    def _release(self, settled: Callable[[], None]) -> None:
        self.leave()
        settled()

    def _withdraw(self, turn: trio.Event) -> None:
        if turn.is_set():
            self.leave()
        else:
            self._waiting.remove(turn)

    def leave(self) -> None:
        """Give back the place that `enter` has given."""
        self.settling -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and (not self.is_limited or self.settling < self._limit):
            self.settling += 1
            self._waiting.popleft().set()


class ServiceWorker:
    """A worker that is restarted when it fails: the handle of `Module.start_service_worker`.

    Attributes:
        name: unique among the service workers of its module: "poll", then "poll#2".
        state: "running", "backoff", "waiting" (for restart capacity), "ended" or "gave-up".
        restarts: how often it was restarted.
        last_error: its last exception, None before the first.
        since: when it entered its present state, on Trio's clock, in seconds.
        interrupted: whether what is no `Exception` ended it.
    """

    __slots__ = (
        "_args",
        "_began",
        "_cancelled",
        "_done",
        "_fn",
        "_host",
        "_module",
        "_points",
        "_ready",
        "_restart_asked",
        "_restart_on_return",
        "_says_it_restarts",
        "_scope",
        "_tracker",
        "_wants_status",
        "interrupted",
        "last_error",
        "name",
        "restarts",
        "since",
        "state",
        "task",
    )

    def __init__(
        self,
        module: ServiceModule,
        name: str,
        async_fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        restart: Restart,
        restart_on_return: bool,
        task_status: bool,
    ) -> None:
        self.name = name
        self.state: Literal["running", "backoff", "waiting", "ended", "gave-up"] = "running"
        self.restarts = 0
        self.last_error: BaseException | None = None
        self.since = trio.current_time()
        self.task: trio.lowlevel.Task | None = None
        self._module = module
        self._host = module.hosted
        self._fn = async_fn
        self._args = args
        self._tracker = RestartTracker(restart)
        self._restart_on_return = restart_on_return
        self._wants_status = task_status
        self._ready = False
        self.interrupted = False
        self._began = self.since
        self._points = 0  # where its task was in Trio's count of its steps when the attempt began
        self._cancelled = ""
        self._restart_asked = False
        self._says_it_restarts = False
        self._scope: trio.CancelScope | None = None
        self._done: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<ServiceWorker {self._module.name}/{self.name} {self.state}>"

    @property
    def holds_back(self) -> bool:
        """Whether its module isn't online before it has called ``task_status.started()``."""
        return self._wants_status and not self._ready

    # ------------------------------------------------------------ for its user

    def cancel(self, reason: str = "") -> None:
        """Cancel it for good, whatever it is doing; nothing happens if it has ended.

        Args:
            reason: the reason that `trio.Cancelled` and the log show.
        """
        self._cancelled = reason or f"service worker {self.name!r} was cancelled"
        if self._scope is not None:
            self._scope.cancel(reason=self._cancelled)

    def restart(self) -> None:
        """Run it again from the start, without backoff; the restart capacity applies.

        Doesn't count against the budget: nothing has failed.
        """
        if self.state in ("running", "backoff") and self._scope is not None:
            self._restart_asked = True
            self._scope.cancel(reason=f"service worker {self.name!r} is to be restarted")

    async def wait(self) -> None:
        """Wait until it has ended for good, for whatever reason. Cancellation leaves it alone."""
        if self.state in ("ended", "gave-up"):
            await trio.lowlevel.checkpoint()
            return
        if self._done is None:
            self._done = trio.Event()
        await self._done.wait()

    def started(self, value: object = None) -> None:
        """What the function calls as ``task_status.started()``."""
        if not self._ready:
            self._ready = True
            self._module.service_ready(self)

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """All attempts, in the module's nursery.

        One scope serves them all until it is cancelled, since a scope costs more than the rest.
        """
        owner_var.set(self._module)
        self.task = trio.lowlevel.current_task()
        delay: float | None = None
        try:
            while True:
                left: float | None = None
                with trio.CancelScope() as self._scope:
                    if self._cancelled:
                        self._scope.cancel(reason=self._cancelled)
                    left = await self._attempts(delay)
                delay = 0.0 if left is None and self._restart_asked else left
                self._restart_asked = False
                if delay is None or self._cancelled or self._stopping:
                    break
            if self._scope.cancelled_caught:
                self._say_end(self._cancelled or "cancelled, since its module stops")
        finally:
            self._ended()

    async def _attempts(self, delay: float | None) -> float | None:
        """One attempt after another, in the present scope.

        The delay before the next one, if that needs a new scope; None at the end.
        """
        assert self.task is not None
        if delay is not None:
            await self._pause(delay)
        self._began = self.since = trio.current_time()
        while True:
            self._restart_asked = False
            self._points = self.task._schedule_points
            try:
                await self._call()
            except BaseException as exc:
                delay = self._failed(exc)
            else:
                delay = self._returned()
            if delay is None or self._restart_asked:
                return delay
            if self._goes_on_at_once(delay):
                self.restarts += 1
                if self._says_it_restarts:
                    self._settled(self.restarts)
            else:
                await self._pause(delay)
                self._began = self.since = trio.current_time()

    def _goes_on_at_once(self, delay: float) -> bool:
        """Whether nothing is to be waited for after an attempt that has let others run."""
        if delay or self._host.gate.is_limited:
            return False
        assert self.task is not None
        return self.task._schedule_points != self._points  # else it could spin

    def _call(self) -> Awaitable[object]:
        fn = self._fn
        if isinstance(fn, Grid):  # its beats are the calls
            return fn(self._around)
        if self._host.seam.interceptors:
            fn = self._around(fn)
        if self._wants_status:
            return fn(*self._args, task_status=self)
        return fn(*self._args)

    def _around(self, fn: AnyAsyncFn) -> AnyAsyncFn:
        """What to call in the place of *fn*, this time."""
        return self._module.around("service-worker", self.name, fn)

    def _returned(self) -> float | None:
        if self._cancelled or self._stopping:
            self._say_end(self._cancelled or "returned while its module stops")
            return None
        if self._restart_asked:  # it returned before it noticed
            return 0.0
        if self._restart_on_return:
            self._began = self.since = trio.current_time()
            return self._tracker.policy.backoff.delay(1, self._host.rng)
        self._say_end("returned")
        return None

    def _say_end(self, why: str) -> None:
        self._module.logger.info("service worker %s ended: %s", self.name, why)

    def _failed(self, exc: BaseException) -> float | None:
        workers = self._module.workers
        failure, is_all = (exc, True) if is_ordinary(exc) else self._taken_apart(exc)
        if failure is None:
            return None
        self.last_error = failure
        asked = asked_for(failure)
        now = trio.current_time()
        delay, raised = None, False
        if asked.module:
            raised = self._module.crash(failure)
        elif is_all and workers.stop_began is None and not self._cancelled:
            delay = self._tracker.failed(self._began, now, self._host.rng, immediate=asked.now)
            self._began = self.since = now
            if delay is None:
                raised = self._give_up(failure)
            elif self._host.changes.listening or not self._goes_on_at_once(delay):
                self._show_restart(failure, now)
        if not raised:
            kind, severity = "service-worker", "info" if asked.quiet else "panic"
            self._host.reporter.caught(failure, self._module.name, self.name, kind, severity, now)
        return delay

    def _taken_apart(self, exc: BaseException) -> tuple[BaseException | None, bool]:
        """What of *exc* is a failure, None for nothing, and whether that is all of it."""
        caught = take_apart(exc)
        self._host.reporter.pass_on(caught)
        self.interrupted = bool(caught.fatal)
        if caught.failure is None and caught.passing is not None and not caught.fatal:
            raise caught.passing
        return caught.failure, caught.passing is None

    def _show_restart(self, failure: BaseException, now: float) -> None:
        """Say that it has failed and will be restarted, until that has settled.

        Nobody need be told of what is over in the same step, unless somebody listens.
        """
        self._says_it_restarts = True
        why = f"restarting after {shown(failure)}"
        self._module.set_failure(
            FailureStatus(FailureLevel.WARNING, f"{self.name}:restarting", why, "", now)
        )

    def _give_up(self, failure: BaseException) -> bool:
        """Say so and crash the module; whether that raises *failure*, so it needs no report."""
        self._enter("gave-up")
        self._module.resolve_failure(f"{self.name}:restarting")
        crashes, last = self._tracker.crashes, shown(failure)
        message = f"gave up after {crashes} failures, the last was {last}"
        self._module.set_failure(
            FailureStatus(FailureLevel.ERROR, f"{self.name}:gave-up", message, since=self.since)
        )
        return self._module.crash(failure)

    async def _pause(self, delay: float) -> None:
        """Back off, then wait for restart capacity."""
        if delay:
            self._enter("backoff")
            await trio.sleep(delay)
        holds_place = self._host.gate.is_limited
        if holds_place:
            self._enter("waiting")
            await self._host.gate.enter()
        else:
            await trio.lowlevel.checkpoint()
        assert self._scope is not None
        if (self._cancelled or self._stopping) and self._scope.cancel_called:
            # That came after it was woken, so that this wait didn't notice.
            if holds_place:
                self._host.gate.leave()
            await trio.lowlevel.checkpoint()
        self.restarts += 1
        self.state = "running"
        if holds_place:
            self._host.gate.settled_after(partial(self._settled, self.restarts))
        else:
            self._settled(self.restarts)

    def stop_waiting(self, reason: str) -> None:
        """The module stops: a worker that isn't running has no use for a grace period."""
        if self.state in ("backoff", "waiting") and self._scope is not None:
            self._scope.cancel(reason=reason)

    def _settled(self, attempt: int) -> None:
        if attempt == self.restarts and self.state == "running":
            self._says_it_restarts = False
            self._module.resolve_failure(f"{self.name}:restarting")

    # ------------------------------------------------------------ small change

    @property
    def _stopping(self) -> bool:
        return self._module.workers.stop_began is not None

    def _enter(self, state: Literal["running", "backoff", "waiting", "gave-up"]) -> None:
        self.state = state
        self.since = trio.current_time()

    def _ended(self) -> None:
        if self.state != "gave-up":
            self.state = "ended"
            self._module.resolve_failure(f"{self.name}:restarting")
        self.since = trio.current_time()
        if self._done is not None:
            self._done.set()
        self._module.service_ended(self)


class Grid:
    """The beats of `Module.every`: ``start + k * interval``, whatever happens in between."""

    def __init__(
        self,
        interval: float,
        async_fn: Callable[[], Awaitable[object]],
        *,
        immediately: bool,
        jitter: float,
        missed: Literal["skip", "delay"],
        rng: Callable[[], random.Random],
    ) -> None:
        self._interval = interval
        self._fn = async_fn
        self._first = 0 if immediately else 1
        self._jitter = jitter
        self._missed = missed
        self._rng = rng
        self._start: float | None = None
        self._beat = 0

    async def __call__(self, around: Callable[[AnyAsyncFn], AnyAsyncFn]) -> None:
        """One attempt: beat after beat until one of them fails."""
        if self._start is None:
            self._start = trio.current_time()
            self._beat = self._first
        while True:
            due = self._next_due(self._start)
            if self._jitter:
                due += self._rng().uniform(0, self._jitter)
            await trio.sleep_until(due)
            self._beat += 1
            await around(self._fn)()

    def _next_due(self, start: float) -> float:
        due = start + self._beat * self._interval
        now = trio.current_time()
        if due >= now:
            return due
        if self._missed == "delay":
            self._start, self._beat = now, 0
            return now
        self._beat = math.ceil((now - start) / self._interval)
        return start + self._beat * self._interval


async def supervise(
    async_fn: Callable[[Unpack[ArgsT]], Awaitable[object]],
    *args: Unpack[ArgsT],
    restart: Restart | None = None,
    on_failure: Callable[[BaseException], object] | None = None,
    rng: random.Random | None = None,
) -> object:
    """Run an async function and restart it when it fails, without an app (ours).

    The loop is that of a service worker: any exception restarts it after the backoff,
    `RestartNow` without.

    Args:
        async_fn: the function, called with *args*.
        restart: how often and how soon; without limit by default.
        on_failure: called with each exception that is followed by another run, before the
            backoff; may be async. The last one is raised instead.
        rng: where the backoff's jitter comes from; without it there is none that repeats.

    Returns:
        what the function returns in the end.

    Raises:
        Exception: the function's last one, when the budget of *restart* is spent.

    Cancellation ends it like any other function; what is no `Exception` passes.
    """
    check_async(async_fn, "supervise")
    check_call(async_fn, args, "supervise")
    tracker = RestartTracker(checked_policy(restart))
    chance = rng or random.Random()
    while True:
        began = trio.current_time()
        try:
            result = await async_fn(*args)
        except BaseException as exc:
            delay = _retry_delay(exc, tracker, began, chance)
            if delay is None:
                raise
            failure = exc
        else:
            await trio.lowlevel.checkpoint()
            return result
        await _tell(on_failure, failure)
        await trio.sleep(delay)


def _retry_delay(
    exc: BaseException, tracker: RestartTracker, began: float, rng: random.Random
) -> float | None:
    if take_apart(exc).passing is not None:
        return None
    immediate = asked_for(exc).now
    return tracker.failed(began, trio.current_time(), rng, immediate=immediate)


async def _tell(on_failure: Callable[[BaseException], object] | None, exc: BaseException) -> None:
    if on_failure is not None:
        answer = on_failure(exc)
        if inspect.isawaitable(answer):
            await answer
