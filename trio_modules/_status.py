"""How a service is doing, as frozen values: what `App.status` returns and `App.changes` tells."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping

import attrs

from trio_modules._failure import NO_FAILURE, FailureStatus

__all__ = [
    "AppStatus",
    "Change",
    "HookInfo",
    "Limits",
    "MicrotaskInfo",
    "ModuleInfo",
    "ModuleStatus",
    "TaskInfo",
    "Totals",
    "WorkCounts",
    "WorkerInfo",
]


class ModuleStatus(enum.IntEnum):
    """Where a module is in its life (the seed's values)."""

    DEAD = 0
    PREPARING = 1
    OFFLINE = 2
    STOPPING = 3
    STARTING = 4
    ONLINE = 5


@attrs.frozen
class Change:
    """One change of a module's status, or of its worst failure.

    Attributes:
        seq: numbers the changes of one run of the app, without gaps.
        module: the module's name.
        before: its status before; the same as `after` if a failure changed.
        after: its status since.
        failure_before: its worst failure before.
        failure_after: its worst failure since.
        time: when, on Trio's clock, in seconds.
    """

    seq: int
    module: str
    before: ModuleStatus
    after: ModuleStatus
    failure_before: FailureStatus
    failure_after: FailureStatus
    time: float


@attrs.frozen
class WorkCounts:
    """Work of one kind in this run of the app; started = running + ended, always."""

    started: int = 0
    running: int = 0
    ended: int = 0

    def __add__(self, other: WorkCounts) -> WorkCounts:
        return WorkCounts(
            self.started + other.started, self.running + other.running, self.ended + other.ended
        )


@attrs.frozen
class WorkerInfo:
    """One worker that runs now.

    Attributes:
        name: its name.
        kind: "worker" or "service-worker".
        state: "running"; a service worker also "backoff" or "waiting" (for restart capacity).
        restarts: how often it was restarted.
        last_error: the `repr` of its last exception, None without one.
        since: when it entered this state, on Trio's clock; None where that isn't kept.
    """

    name: str
    kind: str
    state: str = "running"
    restarts: int = 0
    last_error: str | None = None
    since: float | None = None


@attrs.frozen
class TaskInfo:
    """One task that is pending or declared.

    Attributes:
        name: its name.
        queued: whether it is in a queue, or will be when its present execution has ended.
        scheduled: whether there is a time at which it will be queued.
        executing: whether it is being executed.
        next_due: that time, on Trio's clock in seconds; None without one.
        since: since when it is executing or, if it isn't, queued; None if it is neither.
        attempt: 1, or how often it was tried when it asks for a retry.
        runs: how many executions have ended.
        last_error: the `repr` of the last exception, None without one.
    """

    name: str
    queued: bool = False
    scheduled: bool = False
    executing: bool = False
    next_due: float | None = None
    since: float | None = None
    attempt: int = 1
    runs: int = 0
    last_error: str | None = None


@attrs.frozen
class MicrotaskInfo:
    """One microtask that holds a slot or waits for one.

    Attributes:
        name: its name.
        state: "waiting" or "running".
        since: since when it is, or was taken, on Trio's clock in seconds.
    """

    name: str
    state: str
    since: float


@attrs.frozen
class HookInfo:
    """One hook of a module.

    Attributes:
        name: its name.
        backlog: how many events wait for it.
        delivered: how many it has handled in this run of the app.
        dropped: how many it has missed.
        handling: how many it is handling.
    """

    name: str
    backlog: int = 0
    delivered: int = 0
    dropped: int = 0
    handling: int = 0


@attrs.frozen
class ModuleInfo:
    """One module.

    Attributes:
        name: its name.
        status: where it is in its life.
        wanted: whether it should be running.
        enabled: whether it was enabled by name (only managed apps ask).
        failures: what is wrong with it, in the order in which it was set.
        workers: what works for it now.
        work: how much work it has started and ended in this run of the app.
        restarts: how often it was restarted after a crash in this run of the app.
        tasks: its tasks that are queued, scheduled, executing or declared.
        executions: how many executions of tasks it has begun and ended in this run of the app.
        microtasks: its microtasks that hold a slot or wait for one.
        hooks: its hooks, each with what waits for it.
    """

    name: str
    status: ModuleStatus
    wanted: bool = False
    enabled: bool = False
    failures: tuple[FailureStatus, ...] = ()
    workers: tuple[WorkerInfo, ...] = ()
    work: WorkCounts = WorkCounts()
    restarts: int = 0
    tasks: tuple[TaskInfo, ...] = ()
    executions: WorkCounts = WorkCounts()
    microtasks: tuple[MicrotaskInfo, ...] = ()
    hooks: tuple[HookInfo, ...] = ()


@attrs.frozen
class Totals:
    """Sums over all modules, and what slow readers of reports and changes have lost."""

    modules: int = 0
    online: int = 0
    work: WorkCounts = WorkCounts()
    executions: WorkCounts = WorkCounts()
    reports_lost: int = 0
    changes_lost: int = 0
    events_lost: int = 0


@attrs.frozen
class Limits:
    """The limits in force, and how far they are used."""

    max_concurrent_restarts: int = 0
    restart_settle: float = 0.0
    restarts_settling: int = 0
    restarts_waiting: int = 0
    max_concurrent_tasks: int = 0
    tasks_executing: int = 0
    tasks_queued: int = 0
    tasks_scheduled: int = 0
    min_repeat_interval: float = 0.0
    max_concurrent_microtasks: int = 0
    microtasks_running: int = 0
    microtasks_waiting: int = 0


@attrs.frozen
class AppStatus:
    """The whole service at one moment.

    Attributes:
        name: the app's name.
        state: "offline", "starting", "running" or "stopping".
        time: when this was, on Trio's clock in seconds, like each ``since`` and ``next_due`` in it;
            None outside of a run.
        ready: whether it should be given work by others.
        health: the worst failure of all.
        modules: by name, in the order of registration.
        totals: sums.
        limits: the limits and how far they are used.
        shutdown_reason: why it is going down, None while it isn't.
        exit_code: the exit code asked for, None without one.
    """

    name: str
    state: str
    ready: bool = False
    health: FailureStatus = NO_FAILURE
    modules: Mapping[str, ModuleInfo] = attrs.field(factory=dict)
    totals: Totals = Totals()
    limits: Limits = Limits()
    shutdown_reason: str | None = None
    exit_code: int | None = None
    time: float | None = None

    def to_dict(self) -> dict[str, object]:
        """The same as plain dicts, lists, strings and numbers, ready for JSON.

        Enum members become their names; a number that JSON doesn't know becomes None.
        """
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    kind = type(value)
    if attrs.has(kind):
        return {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(kind)}
    return value
