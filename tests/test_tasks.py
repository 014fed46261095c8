"""Tasks: whose turn it is, when they are due, and what ends them, seen from outside."""

from __future__ import annotations

import gc
import itertools
import math
import random
import sys
import weakref
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
from lifecycle_helpers import FOREVER, drain, stubborn
from support import deterministic_scheduling, let_run, reports_of, stray_cancelled, switch_off
from trio.testing import MockClock

from trio_modules import (
    App,
    Backoff,
    Module,
    ModuleOffline,
    Restart,
    RestartModule,
    Retry,
    ShutdownError,
    StartError,
    StopError,
    Task,
    TaskCancelled,
    TaskFailed,
    current_app,
    current_module,
)
from trio_modules._context import snapshot

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Order = Callable[[Task], object]

QUICK = Restart(max_restarts=5, backoff=Backoff(initial=1))


class Jobs:
    """A module's tasks that write down when they begin and end.

    The n-th execution of a task takes the n-th of its seconds, later ones no time; an exception
    is raised.
    """

    def __init__(self, module: Module | None = None) -> None:
        self.module = Module("m") if module is None else module
        self.begun: list[str] = []
        self.times: dict[str, list[float]] = {}
        self.cancelled: list[str] = []
        self.running: list[str] = []
        self.most = 0

    def task(self, name: str, *steps: float | BaseException) -> Task:
        return self.module.new_task(self.job(name, *steps), name=name)

    def tasks(self, names: str, takes: float = 1.0) -> list[Task]:
        return [self.task(name, *[takes] * 20) for name in names.split()]

    def job(self, name: str, *steps: float | BaseException) -> Callable[[Task], Awaitable[str]]:
        left = iter(steps)

        async def run(task: Task) -> str:
            self.begun.append(name)
            self.times.setdefault(name, []).append(trio.current_time())
            self.running.append(name)
            self.most = max(self.most, len(self.running))
            try:
                step = next(left, 0.0)
                if isinstance(step, BaseException):
                    raise step
                await trio.sleep(step)
            except trio.Cancelled:
                self.cancelled.append(name)
                raise
            finally:
                self.running.remove(name)
            return f"{name} {len(self.times[name])}"

        return run


async def nothing(task: Task) -> None:
    """Do nothing, without a checkpoint."""


def managed(**options: Any) -> tuple[App, Module, Jobs]:
    m = Module("m", enabled=True, **options)
    return App(m, managed=True), m, Jobs(m)


async def switch_on(app: App, module: Module) -> None:
    module.enable()
    await app.manage()


# --- the queues ----------------------------------------------------------------------------


async def test_the_plain_queue_is_first_in_first_out(autojump_clock: MockClock) -> None:
    """queued tasks are executed one at a time, in the order in which they were queued."""
    jobs = Jobs()
    async with App(jobs.module):
        for task in jobs.tasks("a b c d"):
            task.queue()
        await trio.sleep(10)
    assert jobs.begun == ["a", "b", "c", "d"]
    assert jobs.times == {"a": [0], "b": [1], "c": [2], "d": [3]}


async def test_prioritized_tasks_go_before_plain_ones(autojump_clock: MockClock) -> None:
    """the prioritized queue is emptied before the plain one, and is first in, first out, too."""
    jobs = Jobs()
    async with App(jobs.module):
        first, plain, other, high, higher = jobs.tasks("first plain other high higher")
        first.queue()
        plain.queue()
        high.queue_prioritized()
        other.queue()
        higher.queue_prioritized()
        await trio.sleep(10)
    assert jobs.begun == ["first", "high", "higher", "plain", "other"]


async def test_start_asap_goes_to_the_front(autojump_clock: MockClock) -> None:
    """start_asap puts a task before all that are prioritized; the last one there goes first."""
    jobs = Jobs()
    async with App(jobs.module):
        first, plain, high, asap, newest = jobs.tasks("first plain high asap newest")
        first.queue()
        plain.queue()
        high.queue_prioritized()
        asap.start_asap()
        newest.start_asap()
        await trio.sleep(10)
    assert jobs.begun == ["first", "newest", "asap", "high", "plain"]


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        (["queue", "queue"], ["first", "p", "x", "q"]),
        (["queue", "queue_prioritized"], ["first", "x", "p", "q"]),
        (["queue", "start_asap"], ["first", "x", "p", "q"]),
        (["queue_prioritized", "queue"], ["first", "x", "p", "q"]),
        (["start_asap", "queue_prioritized", "queue"], ["first", "x", "p", "q"]),
    ],
)
async def test_a_task_is_in_the_queue_once(
    autojump_clock: MockClock, orders: list[str], expected: list[str]
) -> None:
    """a task that is queued twice is executed once; it moves up, and never back."""
    jobs = Jobs()
    async with App(jobs.module):
        first, p, x, q = jobs.tasks("first p x q")
        first.queue()
        p.queue()
        getattr(x, orders[0])()
        q.queue()
        for order in orders[1:]:
            getattr(x, order)()
        await trio.sleep(10)
    assert jobs.begun == expected


async def test_a_task_queued_many_times_before_it_begins_runs_once(
    autojump_clock: MockClock,
) -> None:
    """also in the step in which it is handed over, queueing again makes one more run at most."""
    jobs = Jobs()
    async with App(jobs.module):
        blocker, task = jobs.tasks("blocker x")
        blocker.queue()
        for _ in range(5):
            task.queue()
        await trio.sleep(10)
    assert jobs.begun == ["blocker", "x"]


@pytest.mark.parametrize("limit", [1, 5])
async def test_queued_while_it_runs_it_runs_once_more(
    autojump_clock: MockClock, limit: int
) -> None:
    """a task never runs twice at a time: queued while it runs, however often, it runs once more."""
    jobs = Jobs()
    async with App(jobs.module, max_concurrent_tasks=limit):
        task = jobs.task("x", 5, 5, 5).queue()
        await trio.sleep(1)
        for _ in range(3):
            task.queue()
        assert task.queued
        await trio.sleep(20)
    assert jobs.times == {"x": [0, 5]}
    assert jobs.most == 1


async def test_queued_while_it_runs_it_goes_behind_the_others(autojump_clock: MockClock) -> None:
    """the second turn of a task comes in the order of when its first one ended."""
    jobs = Jobs()
    async with App(jobs.module):
        x, other = jobs.task("x", 2), jobs.task("other")
        x.queue()
        await trio.sleep(1)
        x.queue()
        other.queue()
        await trio.sleep(10)
    assert jobs.begun == ["x", "other", "x"]


async def test_queued_while_it_runs_it_keeps_its_priority(autojump_clock: MockClock) -> None:
    """prioritized while it runs, its second turn comes before what is plainly queued."""
    jobs = Jobs()
    async with App(jobs.module):
        x, other = jobs.task("x", 2), jobs.task("other")
        x.queue()
        other.queue()
        await trio.sleep(1)
        x.queue_prioritized().queue()
        await trio.sleep(10)
    assert jobs.begun == ["x", "x", "other"]


async def test_a_task_may_queue_itself(autojump_clock: MockClock) -> None:
    """a task that queues itself runs again, and again, each time after it has ended."""
    m, runs = Module("m"), []

    async def again(task: Task) -> None:
        runs.append(trio.current_time())
        if len(runs) < 4:
            task.queue()
        await trio.sleep(1)

    async with App(m):
        m.new_task(again).queue()
        await trio.sleep(10)
    assert runs == [0, 1, 2, 3]


async def test_tasks_of_all_modules_share_one_line(autojump_clock: MockClock) -> None:
    """the order is that of the app, not of each module, and so is the limit."""
    a, b = Jobs(Module("a")), Jobs(Module("b"))
    order: list[str] = []
    a.begun = b.begun = order
    async with App(a.module, b.module):
        for number in range(3):
            a.task(f"a{number}", 1).queue()
            b.task(f"b{number}", 1).queue()
        await trio.sleep(3.5)
        assert len(a.running) + len(b.running) == 1
        await trio.sleep(10)
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_queueing_begins_nothing_in_the_same_step(autojump_clock: MockClock) -> None:
    """queue() never yields and never runs the function; it counts as executing at most."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x").queue()
        assert jobs.begun == []
        assert task.runs == 0
        await let_run()
        assert jobs.begun == ["x"]


# --- how many run at a time ----------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_at_most_so_many_run_at_a_time(autojump_clock: MockClock, limit: int) -> None:
    """max_concurrent_tasks tasks run at a time, no more, and no fewer while others wait."""
    jobs = Jobs()
    async with App(jobs.module, max_concurrent_tasks=limit) as app:
        for number in range(20):
            jobs.task(f"{number}", 1).queue()
        await let_run()
        assert app.status().limits.tasks_executing == limit
        await trio.sleep(30)
    assert jobs.most == limit
    assert len(jobs.begun) == 20
    last = max(time for times in jobs.times.values() for time in times)
    assert last == math.ceil(20 / limit) - 1


async def test_the_limit_is_one_by_default(autojump_clock: MockClock) -> None:
    """without another limit one task runs at a time."""
    assert App().max_concurrent_tasks == 1


async def test_a_higher_limit_takes_effect_at_once(autojump_clock: MockClock) -> None:
    """raised while tasks run, the limit lets as many more begin in that moment."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        for task in jobs.tasks("a b c d", 10):
            task.queue()
        await trio.sleep(3)
        app.max_concurrent_tasks = 3
        await let_run()
        assert jobs.times == {"a": [0], "b": [3], "c": [3]}
        await trio.sleep(30)
    assert jobs.times["d"] == [10]


async def test_a_lower_limit_waits_for_those_that_run(autojump_clock: MockClock) -> None:
    """lowered while tasks run, the limit lets none begin until few enough run."""
    jobs = Jobs()
    async with App(jobs.module, max_concurrent_tasks=3) as app:
        for number, takes in enumerate([2, 4, 6, 1, 1]):
            jobs.task(f"{number}", takes).queue()
        await let_run()
        app.max_concurrent_tasks = 1
        await trio.sleep(30)
    assert jobs.times == {"0": [0], "1": [0], "2": [0], "3": [6], "4": [7]}


async def test_the_wait_for_a_slot_begins_when_a_place_is_free(autojump_clock: MockClock) -> None:
    """at the end of the task before, and lasts for 30 s, though nothing else happens meanwhile."""
    jobs = Jobs()
    async with App(jobs.module, max_concurrent_microtasks=1):
        for task in jobs.tasks("first second", 10):
            task.queue()
        await trio.sleep(5)
        jobs.module.start_microtask(trio.sleep, 100)
        await trio.sleep(90)
    assert jobs.times == {"first": [0], "second": [40]}


async def test_overtime_tasks_do_not_block_the_others(autojump_clock: MockClock) -> None:
    """a task that runs for longer than 60 s goes on, and stops holding its place."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("long", 1000).queue()
        for name in ("a", "b"):
            jobs.task(name, 10).max_delay(0).queue()
        await trio.sleep(59.9)
        assert jobs.begun == ["long"]
        await trio.sleep(30)
        assert jobs.running == ["long"]
    assert jobs.times == {"long": [0], "a": [60], "b": [70]}


async def test_many_overtime_tasks_do_not_block_either(autojump_clock: MockClock) -> None:
    """each place is free again 60 s after its task began, when all tasks are endless."""
    jobs = Jobs()
    async with App(jobs.module, max_concurrent_tasks=2):
        for number in range(6):
            jobs.task(f"{number}", math.inf).max_delay(0).queue()
        await trio.sleep(200)
    begun = [times[0] for times in jobs.times.values()]
    assert begun == [0, 0, 60, 60, 120, 120]


async def test_a_task_that_ends_late_frees_no_second_place(autojump_clock: MockClock) -> None:
    """the end of a task whose place was taken already lets nobody else begin."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("long", 70).queue()
        for name in ("a", "b"):
            jobs.task(name, 50).max_delay(0).queue()
        await trio.sleep(200)
    assert jobs.times == {"long": [0], "a": [60], "b": [110]}


# --- the longest delay ---------------------------------------------------------------------


async def test_after_three_minutes_a_queued_task_runs_at_once(autojump_clock: MockClock) -> None:
    """by default a task that is queued for 180 s runs, whatever else does."""
    jobs = Jobs()
    async with App(jobs.module):
        for number in range(5):
            jobs.task(f"blocker {number}", 59).max_delay(0).queue()
        jobs.task("x", 100).queue()
        await trio.sleep(179.9)
        assert "x" not in jobs.begun
        await trio.sleep(1)
        assert len(jobs.running) == 2
        await trio.sleep(200)
    assert jobs.times["x"] == [180]
    assert jobs.times["blocker 4"] == [4 * 59]


@pytest.mark.parametrize("delay", [0.5, 10, 20.25])
async def test_the_longest_delay_can_be_set(autojump_clock: MockClock, delay: float) -> None:
    """a task with a max_delay runs when that is over, also when it is the last in the line."""
    jobs = Jobs()
    async with App(jobs.module):
        for number in range(3):
            jobs.task(f"{number}", 50).queue()
        jobs.task("x").max_delay(delay).queue()
        await trio.sleep(100)
    assert jobs.times["x"] == [delay]


async def test_without_a_longest_delay_it_waits_for_its_turn(autojump_clock: MockClock) -> None:
    """a max_delay of 0 is none."""
    jobs = Jobs()
    async with App(jobs.module):
        for number in range(5):
            jobs.task(f"{number}", 59).max_delay(0).queue()
        jobs.task("x").max_delay(0).queue()
        await trio.sleep(1000)
    assert jobs.times["x"] == [5 * 59]


async def test_the_longest_delay_changed_while_queued(autojump_clock: MockClock) -> None:
    """a new max_delay counts from when the task was queued, and one that is over is now."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("blocker", 55).queue()
        sooner, later, now = jobs.tasks("sooner later now", 0)
        sooner.queue()
        later.max_delay(10).queue()
        now.queue()
        await trio.sleep(5)
        sooner.max_delay(8)
        later.max_delay(30)
        now.max_delay(3)
        await trio.sleep(40)
    assert jobs.times["now"] == [5]
    assert jobs.times["sooner"] == [8]
    assert jobs.times["later"] == [30]


async def test_the_same_longest_delay_set_again_runs_nothing_twice(
    autojump_clock: MockClock,
) -> None:
    """setting max_delay to what it is, while others run out of patience, changes nothing."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("blocker", 55).queue()
        x = jobs.task("x", 1, 1).max_delay(20).queue()
        jobs.task("impatient").max_delay(5).queue()
        await trio.sleep(10)
        x.max_delay(20)
        await trio.sleep(100)
    assert jobs.times["x"] == [20]
    assert jobs.most == 2


async def test_the_longest_delay_counts_from_the_end_of_the_running_execution(
    autojump_clock: MockClock,
) -> None:
    """queued while it runs, a task has waited since that execution ended, not since the call."""
    jobs = Jobs()
    async with App(jobs.module):
        x = jobs.task("x", 30).max_delay(20).queue()
        await trio.sleep(1)
        x.queue()
        jobs.task("blocker", 50).queue()
        await trio.sleep(100)
    assert jobs.times == {"x": [0, 50], "blocker": [30]}


async def test_queueing_again_does_not_prolong_the_delay(autojump_clock: MockClock) -> None:
    """max_delay counts from when the task was first queued."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("blocker", 55).queue()
        x = jobs.task("x").max_delay(20).queue()
        await trio.sleep(10)
        x.queue().queue_prioritized()
        await trio.sleep(80)
    assert jobs.times["x"] == [20]


async def test_what_runs_out_of_patience_takes_no_place(autojump_clock: MockClock) -> None:
    """a task that began because of its max_delay doesn't keep the next one from its turn."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("blocker", 20).queue()
        jobs.task("next").queue()
        jobs.task("impatient", 50).max_delay(10).queue()
        await trio.sleep(100)
    assert jobs.times["impatient"] == [10]
    assert jobs.times["next"] == [20]


# --- the schedule --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [
        lambda task: task.schedule(trio.current_time() + 10),
        lambda task: task.schedule(10),
        lambda task: task.schedule(current_app_time(task) + timedelta(seconds=10)),
        lambda task: task.schedule_after(10),
        lambda task: task.schedule_after(5).schedule_after(10),
    ],
    ids=["trio time", "integer", "datetime", "after", "moved"],
)
async def test_a_scheduled_task_runs_when_it_is_due(
    autojump_clock: MockClock, order: Order
) -> None:
    """by a time on Trio's clock, an aware datetime, or a time from now on; it has one time."""
    jobs = Jobs()
    app = App(jobs.module, epoch=datetime(2030, 1, 1, tzinfo=timezone.utc))
    APPS[jobs.module] = app
    async with app:
        task = jobs.task("x")
        assert order(task) is task
        assert task.next_run == pytest.approx(10)
        await trio.sleep(9.9)
        assert jobs.begun == []
        await trio.sleep(10)
        assert task.next_run is None
    assert jobs.times == {"x": [pytest.approx(10)]}


APPS: weakref.WeakKeyDictionary[Module, App] = weakref.WeakKeyDictionary()


def current_app_time(task: Task) -> datetime:
    return APPS[task.module].now()


async def test_a_due_task_joins_the_front(autojump_clock: MockClock) -> None:
    """a task that is due goes before all that is queued; of several the earliest goes first."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("blocker", 10).queue()
        jobs.task("high").queue_prioritized()
        jobs.task("second").schedule(5)
        jobs.task("third").schedule(5)
        jobs.task("latest").schedule(6)
        await trio.sleep(20)
    assert jobs.begun == ["blocker", "latest", "second", "third", "high"]


async def test_a_task_that_is_due_while_it_is_queued_moves_up(autojump_clock: MockClock) -> None:
    """queued and due before its turn, it moves to the front, and runs once."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("blocker", 10).queue()
        jobs.task("other").queue()
        jobs.task("x").schedule(5).queue()
        await trio.sleep(20)
    assert jobs.begun == ["blocker", "x", "other"]


async def test_a_task_that_is_due_while_it_runs_runs_once_more(autojump_clock: MockClock) -> None:
    """due during its own execution it runs after it, at once."""
    jobs = Jobs()
    async with App(jobs.module, max_concurrent_tasks=3):
        jobs.task("x", 10, 1).schedule(5).queue()
        await trio.sleep(30)
    assert jobs.times == {"x": [0, 10]}


@pytest.mark.parametrize("takes", [0, 3])
async def test_queueing_keeps_the_schedule(autojump_clock: MockClock, takes: float) -> None:
    """a task that is scheduled and then queued runs now, and when it is due."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x", takes).schedule(100).queue()
        await trio.sleep(50)
        assert task.next_run == 100
        task.queue_prioritized()
        await trio.sleep(10)
        task.start_asap()
        await trio.sleep(100)
    assert jobs.times == {"x": [0, 50, 60, 100]}


async def test_a_schedule_can_be_taken_back(autojump_clock: MockClock) -> None:
    """schedule(None) leaves nothing of the time, and what is queued stays queued."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        jobs.task("blocker", 5).queue()
        queued, idle = jobs.tasks("queued idle", 0)
        queued.schedule(10).queue().schedule(None)
        idle.schedule(10).schedule(None)
        assert queued.next_run is None
        assert idle.next_run is None
        assert app.status().limits.tasks_scheduled == 0
        await trio.sleep(30)
        idle.schedule(None)
    assert jobs.times == {"blocker": [0], "queued": [5]}


async def test_a_time_that_is_past_is_now(autojump_clock: MockClock) -> None:
    """a time between the app's entry and now, and a datetime of the past, are due at once."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        await trio.sleep(50)
        jobs.task("trio").schedule(20)
        jobs.task("wall").schedule(app.now() - timedelta(days=400))
        jobs.task("now").schedule_after(0)
        jobs.task("entry").schedule(0.0)
        await trio.sleep(10)
    assert jobs.times == {name: [50] for name in ("trio", "wall", "now", "entry")}


async def test_a_time_before_the_entry_is_an_error(autojump_clock: MockClock) -> None:
    """a Trio time from before the app was entered points to schedule_after."""
    jobs = Jobs()
    await trio.sleep(100)
    async with App(jobs.module) as app:
        task = jobs.task("x")
        for at in (99.0, 60, -1.0):
            with pytest.raises(ValueError, match=r"at must not lie before.*schedule_after"):
                task.schedule(at)
        assert app.status().limits.tasks_scheduled == 0
        task.schedule(100)
        await trio.sleep(1)
    assert jobs.times == {"x": [100]}


async def test_a_schedule_survives_what_comes_before_it(autojump_clock: MockClock) -> None:
    """a retry of a queued execution loses neither itself nor the time of the schedule."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("x", Retry(10), 0.0).schedule(100).queue()
        await trio.sleep(200)
    assert jobs.times == {"x": [0, 10, 100]}


class Pair:
    """Tasks of two modules, the first of which is due at 5: its runner sleeps until then."""

    def __init__(self) -> None:
        self.first, self.second = Module("first", enabled=True), Module("second", enabled=True)
        self.app = App(self.first, self.second, managed=True, max_concurrent_tasks=2)
        self.seen: list[tuple[str, float]] = []
        self.takes = 0.0

    async def note(self, task: Task) -> None:
        self.seen.append((task.module.name, trio.current_time()))
        await trio.sleep(self.takes)

    async def tasks(self) -> tuple[Task, Task]:
        first, second = self.first.new_task(self.note), self.second.new_task(self.note)
        first.schedule(5.0)
        for module in (self.second, self.first):  # so each has a runner, and it is idle
            await module.new_task(self.note).queue().wait()
        await trio.sleep(1)
        self.seen.clear()
        return first, second


async def test_a_stop_of_the_module_that_is_due_next_delays_no_other(
    autojump_clock: MockClock,
) -> None:
    """the time of another module's task isn't missed when the first in the schedule stops."""
    pair = Pair()
    async with pair.app:
        _, second = await pair.tasks()
        second.schedule(6.0)
        await switch_off(pair.app, pair.first)
        await trio.sleep(10)
    assert pair.seen == [("second", 6)]


async def test_a_runner_that_is_busy_delays_no_schedule(autojump_clock: MockClock) -> None:
    """what is due while the runner that waited for it executes a queued task is in time."""
    pair = Pair()
    async with pair.app:
        first, second = await pair.tasks()
        pair.takes = 10
        first.queue()
        second.schedule(6.0)
        await trio.sleep(20)
    assert pair.seen == [("first", 1), ("second", 6), ("first", 11)]


@pytest.mark.parametrize("name", ["first", "second"])
async def test_an_earlier_time_counts_while_a_runner_waits(
    autojump_clock: MockClock, name: str
) -> None:
    """a schedule that is earlier than what the runner sleeps for comes first, whose ever it is."""
    pair = Pair()
    async with pair.app:
        _, second = await pair.tasks()
        pair.app[name].new_task(pair.note).schedule(3.0)
        second.schedule(7.0)
        await trio.sleep(20)
    assert pair.seen == [(name, 3), ("first", 5), ("second", 7)]


class Passes(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1


async def test_an_idle_runner_needs_nobody_to_wake_it(autojump_clock: MockClock) -> None:
    """each of many tasks that are due one after the other is one step of one task."""
    m = Module("m")
    async with App(m):
        tasks = [m.new_task(return_at_once).schedule(float(when)) for when in range(1, 101)]
        await trio.sleep(1.5)
        passes = Passes()
        trio.lowlevel.add_instrument(passes)
        await trio.sleep(200)
        trio.lowlevel.remove_instrument(passes)
    assert all(task.runs == 1 for task in tasks)
    assert 99 <= passes.steps <= 104


async def return_at_once(_: Task) -> None:
    pass


# --- repeating -----------------------------------------------------------------------------


async def test_a_repeated_task_runs_one_interval_after_each_end(autojump_clock: MockClock) -> None:
    """the first run comes after one interval, each later one an interval after the last end."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("x", 10, 20, 100).repeat(60)
        await trio.sleep(500)
    assert jobs.times == {"x": [60, 130, 210, 370, 430, 490]}


async def test_repeats_do_not_drift_with_the_time_in_the_queue(autojump_clock: MockClock) -> None:
    """waiting for its turn delays a run; the interval counts from its end, as is said."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("x", 5).repeat(100)
        await trio.sleep(90)
        jobs.task("blocker", 30).queue()
        await trio.sleep(300)
    assert jobs.times["x"] == [120, 225, 325]


async def test_queueing_a_repeated_task_shifts_the_repeat(autojump_clock: MockClock) -> None:
    """a repeated task that is queued runs now, and next one interval after that end."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x", 10).repeat(60)
        await trio.sleep(30)
        task.queue()
        await trio.sleep(150)
    assert jobs.times == {"x": [30, 100, 160]}


@pytest.mark.parametrize("nothing_more", [0, 0.0, None])
async def test_repeating_ends_with_the_present_schedule(
    autojump_clock: MockClock, nothing_more: float | None
) -> None:
    """repeat(0) and repeat(None) leave the time that the task is due at, and it is the last."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x").repeat(60)
        await trio.sleep(70)
        assert task.repeat(nothing_more) is task
        assert task.next_run == 120
        await trio.sleep(500)
    assert jobs.times == {"x": [60, 120]}


async def test_repeating_can_end_while_it_runs(autojump_clock: MockClock) -> None:
    """a task that stops its own repetition runs no more."""
    m, runs = Module("m"), []

    async def thrice(task: Task) -> None:
        runs.append(trio.current_time())
        if len(runs) == 3:
            task.repeat(None)

    async with App(m):
        m.new_task(thrice).repeat(60)
        await trio.sleep(1000)
    assert runs == [60, 120, 180]


@pytest.mark.parametrize("interval", [59.999, 1, 0.001])
async def test_a_repeat_below_the_minimum_points_to_every(
    autojump_clock: MockClock, interval: float
) -> None:
    """under the app's min_repeat_interval a repeat is refused, and nothing is scheduled."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        task = jobs.task("x")
        with pytest.raises(ValueError, match=r"60 s.*every") as caught:
            task.repeat(interval)
        assert repr(interval) in str(caught.value)
        assert app.status().limits.tasks_scheduled == 0
        task.repeat(90)
        with pytest.raises(ValueError, match="every"):
            task.repeat(interval)
        await trio.sleep(200)
    assert jobs.times == {"x": [90, 180]}


async def test_the_minimum_can_be_set(autojump_clock: MockClock) -> None:
    """min_repeat_interval is the app's, and can change while it runs."""
    jobs = Jobs()
    async with App(jobs.module, min_repeat_interval=5) as app:
        jobs.task("x").repeat(5)
        app.min_repeat_interval = 20
        with pytest.raises(ValueError, match="20 s"):
            jobs.task("y").repeat(19)
        await trio.sleep(12)
    assert jobs.times == {"x": [5, 10]}


@pytest.mark.parametrize("after", [5, 600])
async def test_a_task_that_schedules_itself_overrides_the_repeat(
    autojump_clock: MockClock, after: float
) -> None:
    """scheduled while it runs, it is next executed then; after that the repeat goes on."""
    m, runs = Module("m"), []

    async def own_mind(task: Task) -> None:
        runs.append(trio.current_time())
        if len(runs) == 1:
            task.schedule_after(after)
        await trio.sleep(1)

    async with App(m):
        m.new_task(own_mind).repeat(60)
        await trio.sleep(800)
    assert runs[:3] == [60, 60 + after, 60 + after + 61]


async def test_scheduling_from_outside_while_it_waits_moves_the_repeat(
    autojump_clock: MockClock,
) -> None:
    """a repeated task has one next time, too: a schedule replaces it, then it repeats on."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x").repeat(60)
        task.schedule(10)
        await trio.sleep(100)
    assert jobs.times == {"x": [10, 70]}


async def test_queueing_keeps_the_schedule_of_a_repeated_task(autojump_clock: MockClock) -> None:
    """what a repeated task was scheduled for by hand, a queued run before it doesn't take away."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("x").repeat(60).schedule(30).queue()
        await trio.sleep(100)
    assert jobs.times == {"x": [0, 30, 90]}


async def test_a_task_that_scheduled_itself_once_can_be_repeated(
    autojump_clock: MockClock,
) -> None:
    """what a task decided in an earlier execution has no say in a later one's repetition."""
    m, runs = Module("m"), []

    async def run(task: Task) -> None:
        runs.append(trio.current_time())
        if len(runs) == 1:
            task.schedule_after(10)
        elif len(runs) == 2:
            task.repeat(60)

    async with App(m):
        m.new_task(run).queue()
        await trio.sleep(150)
    assert runs == [0, 10, 70, 130]


@pytest.mark.parametrize("running", [False, True])
async def test_a_repetition_that_was_taken_out_is_over(
    autojump_clock: MockClock, running: bool
) -> None:
    """schedule(None) ends a repetition, now and after a restart of the module."""
    jobs = Jobs()
    app = App(jobs.module)
    async with app:
        task = jobs.task("x", 5, 1).repeat(60)
        if running:
            task.queue()
            await trio.sleep(1)
        task.schedule(None)
        await trio.sleep(100)
        await app.restart("m")
        task.queue()
        await trio.sleep(200)
        assert task.runs == 1 + running


async def test_repeat_begins_at_the_end_of_a_running_execution(autojump_clock: MockClock) -> None:
    """repeat() while the task runs counts its first interval from that end."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x", 30).queue()
        await trio.sleep(10)
        task.repeat(60)
        await trio.sleep(120)
    assert jobs.times == {"x": [0, 90]}


async def test_a_failed_execution_is_repeated(autojump_clock: MockClock) -> None:
    """an exception ends that execution alone."""
    jobs = Jobs()
    app = App(jobs.module)

    async def use() -> None:
        jobs.task("x", ValueError("one"), 0.0, ValueError("three")).repeat(60)
        await trio.sleep(200)

    reports = await reports_of(app, use)
    assert jobs.times == {"x": [60, 120, 180]}
    assert [str(report.exception) for report in reports] == ["one", "three"]


async def test_orders_chain(autojump_clock: MockClock) -> None:
    """every method that orders a task returns it, cancel() too."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        task = jobs.task("x")
        for order in (
            task.queue,
            task.queue_prioritized,
            task.start_asap,
            lambda: task.max_delay(5),
            lambda: task.schedule(5),
            lambda: task.schedule(app.now()),
            lambda: task.schedule(None),
            lambda: task.schedule_after(5),
            lambda: task.repeat(60),
            lambda: task.repeat(None),
            lambda: task.cron("0 3 * * *"),
            task.cancel,
        ):
            assert order() is task


# --- cancel --------------------------------------------------------------------------------


def assert_gone(app: App, task: Task) -> None:
    """Nothing of a cancelled task is left, and it takes no orders."""
    limits = app.status().limits
    assert limits.tasks_queued == limits.tasks_scheduled == 0
    assert task.cancelled
    assert not task.queued
    assert task.next_run is None
    orders: list[Callable[[], object]] = [
        task.queue,
        task.queue_prioritized,
        task.start_asap,
        lambda: task.schedule(trio.current_time() + 5),
        lambda: task.schedule_after(5),
        lambda: task.repeat(60),
        lambda: task.cron("0 3 * * *"),
    ]
    for order in orders:
        with pytest.raises(TaskCancelled) as caught:
            order()
        assert (caught.value.module, caught.value.task) == ("m", task.name)
    assert app.status().limits == limits


@pytest.mark.parametrize(
    "order",
    [
        lambda task: task,
        lambda task: task.schedule_after(10),
        lambda task: task.repeat(60),
        lambda task: task.cron("* * * * *"),
        lambda task: task.schedule_after(0),
    ],
    ids=["idle", "scheduled", "repeated", "cron", "due now"],
)
async def test_a_task_cancelled_before_it_is_due_never_runs(
    autojump_clock: MockClock, order: Order
) -> None:
    """idle, scheduled or repeated: a cancelled task never runs, and never again takes orders."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        task = jobs.task("x")
        order(task)
        task.cancel()
        assert_gone(app, task)
        await trio.sleep(500)
        task.cancel()
        assert_gone(app, task)
    assert jobs.begun == []


@pytest.mark.parametrize("order", ["queue", "queue_prioritized", "start_asap"])
async def test_a_task_cancelled_in_the_queue_leaves_it(
    autojump_clock: MockClock, order: str
) -> None:
    """a cancelled task leaves the queue in that moment, and its max_delay doesn't run it."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        jobs.task("blocker", 50).queue()
        task = jobs.task("x").max_delay(10)
        getattr(task, order)()
        jobs.task("next").queue()
        assert app.status().limits.tasks_queued == 2
        task.cancel()
        assert app.status().limits.tasks_queued == 1
        await trio.sleep(100)
        assert_gone(app, task)
    assert jobs.begun == ["blocker", "next"]


async def test_a_task_cancelled_while_it_runs_is_cancelled(autojump_clock: MockClock) -> None:
    """its execution is cancelled, what it was queued or scheduled for is gone, the next runs."""
    jobs = Jobs()
    app = App(jobs.module)

    async def use() -> None:
        task = jobs.task("x", 50).queue()
        other = jobs.task("other").queue()
        await trio.sleep(10)
        task.queue().schedule_after(20)
        task.repeat(60).cancel()
        assert task.executing
        assert not task.queued
        await let_run()
        assert not task.executing
        assert (task.runs, other.runs) == (1, 1)
        await trio.sleep(200)
        assert_gone(app, task)
        assert task.last_error is None

    assert await reports_of(app, use) == []
    assert jobs.cancelled == ["x"]
    assert jobs.times == {"x": [0], "other": [10]}


async def test_a_cancelled_execution_says_why(autojump_clock: MockClock) -> None:
    """the cancellation's reason names the task."""
    m, seen = Module("m"), []

    async def run(task: Task) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            seen.append(str(error))
            raise

    async with App(m):
        task = m.new_task(run, "import").queue()
        await let_run()
        task.cancel()
        await let_run()
    assert len(seen) == 1
    assert "task 'import' was cancelled" in seen[0]


@pytest.mark.parametrize("warm", [False, True])
async def test_a_task_cancelled_before_its_first_step_never_begins(
    autojump_clock: MockClock, warm: bool
) -> None:
    """queued and cancelled in one step, it doesn't run at all, and the next one does."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        if warm:
            jobs.task("warm").queue()
            await trio.sleep(1)
            jobs.begun.clear()
        task = jobs.task("x").queue()
        assert task.executing
        task.cancel()
        jobs.task("next").queue()
        await trio.sleep(10)
        assert_gone(app, task)
        counts = app.status().totals.executions
        assert counts.running == 0
        assert counts.started == counts.ended
    assert jobs.begun == ["next"]


@pytest.mark.parametrize("wait_on", [True, False])
async def test_a_task_may_cancel_itself(autojump_clock: MockClock, wait_on: bool) -> None:
    """from inside, the execution is cancelled at its next checkpoint, if it has one."""
    m, seen = Module("m"), []

    async def run(task: Task) -> str:
        task.cancel()
        seen.append("after cancel")
        if wait_on:
            await trio.lowlevel.checkpoint()
            seen.append("after checkpoint")
        return "done"

    async with App(m) as app:
        task = m.new_task(run).repeat(60).queue()
        other = m.new_task(nothing).queue()
        await trio.sleep(200)
        assert_gone(app, task)
        assert (task.runs, other.runs) == (1, 1)
    assert seen == ["after cancel"]


async def test_a_cancelled_task_in_a_shield_runs_on(autojump_clock: MockClock) -> None:
    """a shield lets an execution finish; it holds its place until it has, then the next runs."""
    jobs = Jobs()
    seen: list[float] = []

    async def run(task: Task) -> None:
        await stubborn(20)
        seen.append(trio.current_time())
        await trio.sleep(1)
        seen.append(-1)

    async with App(jobs.module):
        task = jobs.module.new_task(run).queue()
        jobs.task("next").queue()
        await trio.sleep(5)
        task.cancel()
        await trio.sleep(5)
        assert task.executing
        assert jobs.begun == []
        await trio.sleep(50)
        assert not task.executing
    assert seen == [20]
    assert jobs.times == {"next": [20]}


async def test_cancelling_one_leaves_the_others(autojump_clock: MockClock) -> None:
    """of several that run at a time only the cancelled one ends."""
    jobs = Jobs()
    async with App(jobs.module, max_concurrent_tasks=3):
        tasks = [jobs.task(name, 10).queue() for name in ("a", "b", "c", "d")]
        await trio.sleep(1)
        tasks[1].cancel()
        await trio.sleep(30)
    assert jobs.cancelled == ["b"]
    assert jobs.times == {"a": [0], "b": [0], "c": [0], "d": [1]}


async def test_a_task_of_an_offline_module_can_be_cancelled(autojump_clock: MockClock) -> None:
    """cancel() works without a running app, and holds for good."""
    jobs = Jobs()
    task = jobs.task("x").cancel()
    async with App(jobs.module) as app:
        assert_gone(app, task)


async def test_cancelled_tasks_leave_no_memory_behind(autojump_clock: MockClock) -> None:
    """of thousands of tasks that were scheduled or queued and cancelled hardly any stay alive."""
    jobs = Jobs()

    class Mark:
        """What dies with the task that refers to it."""

    marks: weakref.WeakSet[Mark] = weakref.WeakSet()

    def make() -> Task:
        mark = Mark()
        marks.add(mark)

        async def run(task: Task) -> None:
            raise AssertionError(mark)

        return jobs.module.new_task(run)

    async with App(jobs.module):
        jobs.task("blocker", math.inf).max_delay(0).queue()
        for number in range(2000):
            make().schedule_after(1000 + number).cancel()
            make().max_delay(300).queue().cancel()
            make().repeat(60).cancel()
        gc.collect()
        assert len(marks) < 400


# --- the module's life ---------------------------------------------------------------------


ORDERS: list[tuple[str, Order]] = [
    ("queue", lambda task: task.queue()),
    ("queue_prioritized", lambda task: task.queue_prioritized()),
    ("start_asap", lambda task: task.start_asap()),
    ("schedule", lambda task: task.schedule(trio.current_time() + 50)),
    ("schedule_after", lambda task: task.schedule_after(50)),
    ("repeat", lambda task: task.repeat(60)),
    ("cron", lambda task: task.cron("* * * * *")),
]


@pytest.mark.parametrize("order", [order for _, order in ORDERS], ids=[name for name, _ in ORDERS])
async def test_an_offline_module_takes_no_orders(autojump_clock: MockClock, order: Order) -> None:
    """in every status but STARTING and ONLINE an order is refused, and nothing is half-queued."""
    seen: dict[str, str] = {}
    m = Module("m", enabled=True)
    task = m.new_task(nothing, "x")

    def give() -> None:
        status = m.status.name
        if status in {"STARTING", "ONLINE"}:
            order(task)
            assert task.queued or task.executing or task.next_run is not None
            seen[status] = "taken"
            return
        with pytest.raises(ModuleOffline, match="'x'") as caught:
            order(task)
        assert (caught.value.module, caught.value.status) == ("m", status)
        seen[status] = "refused"

    async def lifecycle() -> None:
        give()

    give()
    m.on_prep(lifecycle)
    m.on_start(lifecycle)
    m.on_stop(lifecycle)
    app = App(m, managed=True)
    async with app:
        give()
        await switch_off(app, m)
        give()
        assert app.status().limits.tasks_scheduled == app.status().limits.tasks_queued == 0
    give()
    assert seen == {
        "DEAD": "refused",
        "PREPARING": "refused",
        "STARTING": "taken",
        "ONLINE": "taken",
        "STOPPING": "refused",
        "OFFLINE": "refused",
    }
    assert not task.queued
    assert task.next_run is None


async def test_tasks_ordered_in_a_start_function_run_while_it_starts(
    autojump_clock: MockClock,
) -> None:
    """from the start functions on the module takes work, and executes it."""
    jobs = Jobs()
    task = jobs.task("x", 1)

    async def start() -> None:
        task.queue()
        await trio.sleep(5)

    jobs.module.on_start(start)
    async with App(jobs.module):
        assert task.runs == 1
    assert jobs.times == {"x": [0]}


async def test_a_failed_start_ends_its_tasks(autojump_clock: MockClock) -> None:
    """tasks of a module whose start fails are cancelled, and wait() says that it is offline."""
    jobs = Jobs()
    running, queued = jobs.task("running", 50), jobs.task("queued")
    outcomes: list[str] = []

    async def wait_for(task: Task) -> None:
        with pytest.raises(ModuleOffline):
            await task.wait()
        outcomes.append(task.name)

    async with trio.open_nursery() as nursery:

        async def start() -> None:
            running.queue()
            queued.queue()
            nursery.start_soon(wait_for, running)
            nursery.start_soon(wait_for, queued)
            await trio.sleep(5)
            raise ValueError("no start")

        jobs.module.on_start(start)
        with pytest.raises(StartError):
            async with App(jobs.module):
                pass
    assert sorted(outcomes) == ["queued", "running"]
    assert jobs.begun == jobs.cancelled == ["running"]


# Each with whether another task runs already.
STATES: dict[str, tuple[Order, bool]] = {
    "executing": (lambda task: task.start_asap(), False),
    "executing and queued": (lambda task: task.start_asap().queue(), False),
    "queued": (lambda task: task.queue(), True),
    "scheduled": (lambda task: task.schedule_after(20), False),
    "repeated": (lambda task: task.repeat(60), False),
    "everything": (lambda task: task.repeat(60).schedule_after(5).queue(), True),
}


@pytest.mark.parametrize(("state", "must_wait"), STATES.values(), ids=STATES)
@pytest.mark.parametrize("how", ["disable", "restart", "crash"])
async def test_a_stop_takes_a_task_out_and_it_can_be_used_again(
    autojump_clock: MockClock, state: Order, must_wait: bool, how: str
) -> None:
    """stopped, restarted or crashed: nothing of the order is left, and a new one works."""
    m = Module("m", enabled=True, restart=QUICK)
    jobs = Jobs(m)
    app = App(m, managed=True)
    task = jobs.task("x", 100, 1)
    async with app:
        if must_wait:
            jobs.task("blocker", 200).max_delay(0).queue()
        state(task)
        await trio.sleep(3)
        if how == "disable":
            await switch_off(app, m)
            await trio.sleep(10)
            await switch_on(app, m)
        elif how == "restart":
            await app.restart(m)
        else:
            m.nursery.start_soon(crash)
            await trio.sleep(0.1)
            await m.wait_online()
        limits = app.status().limits
        assert limits.tasks_queued == limits.tasks_scheduled == limits.tasks_executing == 0
        assert (task.queued, task.executing, task.cancelled) == (False, False, False)
        assert task.next_run is None
        before = task.runs
        await trio.sleep(300)
        assert task.runs == before
        task.queue()
        assert str(await task.wait()).startswith("x ")
        task.schedule_after(10)
        await trio.sleep(300)
        assert task.runs == before + 2


async def crash() -> None:
    raise ValueError("crash")


async def test_a_queued_task_is_taken_out_by_a_stop(autojump_clock: MockClock) -> None:
    """a task that waits behind another module's is not executed after its own module stopped."""
    other, (app, m, jobs) = Jobs(Module("other", enabled=True)), managed()
    app.register(other.module)
    async with app:
        other.task("blocker", 50).queue()
        task = jobs.task("x").max_delay(30).queue()
        next_one = other.task("next").queue()
        await trio.sleep(5)
        await switch_off(app, m)
        assert app.status().limits.tasks_queued == 1
        await trio.sleep(100)
        assert (task.runs, next_one.runs) == (0, 1)
    assert jobs.begun == []


async def test_a_stop_cancels_running_tasks_and_waits_for_them(autojump_clock: MockClock) -> None:
    """an execution is cancelled when the stop begins, and says why; the stop waits for its end."""
    app, m, jobs = managed()
    seen: list[str] = []

    async def run(task: Task) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            seen.append(str(error))
            await stubborn(5)
            seen.append("cleaned up")
            raise

    async with app:
        jobs.module.new_task(run).queue()
        await trio.sleep(1)
        await switch_off(app, m)
        assert trio.current_time() == 6
    assert "module 'm' is stopping" in seen[0]
    assert seen[1:] == ["cleaned up"]


async def test_tasks_end_before_the_stop_functions(autojump_clock: MockClock) -> None:
    """stop functions run when all executions have ended."""
    order: list[str] = []
    m = Module("m")

    async def run(task: Task) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(3)
            order.append("task")

    @m.on_stop
    async def stop() -> None:
        order.append("stop")

    async with App(m):
        m.new_task(run).queue()
        await trio.sleep(1)
    assert order == ["task", "stop"]


async def test_a_stopped_module_frees_its_places(autojump_clock: MockClock) -> None:
    """what ran in a module that stopped holds no place: the others' tasks run at once."""
    other, (app, m, jobs) = Jobs(Module("other", enabled=True)), managed()
    app.register(other.module)
    async with app:
        jobs.task("x", 50).queue()
        other.task("waits").queue()
        await trio.sleep(5)
        await switch_off(app, m)
        await trio.sleep(5)
    assert other.times == {"waits": [5]}


async def test_a_task_made_before_the_app_works_in_each_run(autojump_clock: MockClock) -> None:
    """an app that is entered twice executes the same task in both runs; counts begin afresh."""
    jobs = Jobs()
    task = jobs.task("x", 1, 1, 1)
    app = App(jobs.module)
    for number in (1, 2):
        async with app:
            task.queue()
            task.schedule_after(500)
            await task.wait()
            assert app.status().totals.executions.started == 1
            assert task.runs == number
        assert task.next_run is None
        assert not task.queued
    async with App(jobs.module):
        task.queue()
        await trio.sleep(5)
    assert task.runs == 3


async def test_a_trio_time_of_an_earlier_run_is_refused_in_the_next(
    autojump_clock: MockClock,
) -> None:
    """entered a second time, the app takes its new entry as the earliest time."""
    jobs = Jobs()
    app = App(jobs.module)
    task = jobs.task("x")
    async with app:
        await trio.sleep(100)
    async with app:
        with pytest.raises(ValueError, match="schedule_after"):
            task.schedule(50)


async def test_a_shutdown_ends_all_tasks(autojump_clock: MockClock) -> None:
    """at the end of the body what runs is cancelled and what waits never begins."""
    jobs = Jobs()
    async with App(jobs.module, max_concurrent_tasks=2):
        for task in jobs.tasks("a b c", 50):
            task.queue()
        jobs.task("later").schedule_after(0.5)
        await trio.sleep(0.25)
    assert trio.current_time() == 0.25
    assert sorted(jobs.cancelled) == sorted(jobs.begun) == ["a", "b"]


async def test_no_execution_begins_while_the_module_stops(autojump_clock: MockClock) -> None:
    """a task that was due or queued during a long stop doesn't run in it."""
    jobs = Jobs()

    async def slow() -> None:
        await trio.sleep(30)

    jobs.module.on_stop(slow)
    async with App(jobs.module):
        jobs.task("x", 100).queue()
        jobs.task("due").schedule_after(10)
        jobs.task("impatient").max_delay(10).queue()
        await trio.sleep(1)
    assert trio.current_time() == 31
    assert jobs.begun == ["x"]


# --- retry ---------------------------------------------------------------------------------


async def test_retry_queues_the_task_again_after_a_time(autojump_clock: MockClock) -> None:
    """Retry isn't reported; the task runs again after that time, and attempt counts."""
    m, seen = Module("m"), []
    app = App(m)

    async def run(task: Task) -> str:
        seen.append((trio.current_time(), task.attempt))
        if task.attempt < 4:
            raise Retry(10 * task.attempt)
        return "done"

    async def use() -> None:
        task = m.new_task(run).queue()
        assert task.attempt == 1
        assert await task.wait() == "done"
        assert task.attempt == 1
        assert task.last_error is None
        assert task.runs == 4
        await trio.sleep(1000)

    assert await reports_of(app, use) == []
    assert seen == [(0, 1), (10, 2), (30, 3), (60, 4)]


async def test_a_retry_waits_in_the_plain_queue(autojump_clock: MockClock) -> None:
    """what is tried again goes behind what was queued before it was due."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("x", Retry(5)).queue()
        await trio.sleep(1)
        jobs.task("blocker", 10).queue()
        jobs.task("other").queue()
        await trio.sleep(30)
    assert jobs.begun == ["x", "blocker", "other", "x"]


async def test_a_retry_at_once_lets_the_others_go_first(autojump_clock: MockClock) -> None:
    """Retry() without a time queues it behind the others, and everybody else has a turn."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("x", Retry(), Retry(0), 0.0).queue()
        jobs.task("other", 1).queue()
        await trio.sleep(30)
    assert jobs.begun == ["x", "other", "x", "x"]


async def test_an_error_ends_the_attempts(autojump_clock: MockClock) -> None:
    """after another exception, or a success, the next execution is the first attempt again."""
    m, attempts = Module("m"), []
    steps = iter([Retry(1), ValueError("x"), Retry(1), None, None])

    async def run(task: Task) -> None:
        attempts.append(task.attempt)
        step = next(steps)
        if step is not None:
            raise step

    async with App(m):
        task = m.new_task(run)
        for _ in range(3):
            task.queue()
            await trio.sleep(10)
    assert attempts == [1, 2, 1, 2, 1]


async def test_retry_while_stopping_ends_the_task(autojump_clock: MockClock) -> None:
    """a module that stops takes no retry: it isn't reported, and who waits hears of the stop."""
    app, m, _ = managed()
    outcomes: list[BaseException] = []

    async def run(task: Task) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Retry(5)

    async def wait_for(task: Task) -> None:
        try:
            await task.wait()
        except ModuleOffline as error:
            outcomes.append(error)

    async def use() -> None:
        task = m.new_task(run).queue()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for, task)
            await trio.sleep(1)
            await switch_off(app, m)
        await switch_on(app, m)
        await trio.sleep(100)
        assert task.attempt == 1
        assert task.runs == 1
        assert task.next_run is None

    assert await reports_of(app, use) == []
    assert len(outcomes) == 1


async def test_a_retry_that_waits_is_taken_out_by_a_stop(autojump_clock: MockClock) -> None:
    """between two attempts a stop takes the task out, and the next use is a first attempt."""
    app, m, jobs = managed()
    async with app:
        task = jobs.task("x", Retry(50)).queue()
        await trio.sleep(5)
        assert task.attempt == 2
        await app.restart(m)
        assert task.attempt == 1
        assert task.next_run is None
        await trio.sleep(100)
    assert jobs.times == {"x": [0]}


async def test_a_retry_that_is_taken_out_of_the_schedule_is_forgotten(
    autojump_clock: MockClock,
) -> None:
    """what the task is asked for after that is a first attempt."""
    app, m, jobs = managed()
    async with app:
        task = jobs.task("x", Retry(50)).queue()
        await trio.sleep(5)
        assert task.attempt == 2
        assert task.schedule(None).attempt == 1
        await app.restart(m)
        task.queue()
        await trio.sleep(5)
    assert jobs.times == {"x": [0, 5]}


async def test_a_retry_that_had_just_been_begun_is_taken_out_by_a_stop(
    autojump_clock: MockClock,
) -> None:
    """stopped between its turn and its first step, the next use is a first attempt, too."""
    app, m, jobs = managed()
    async with app:
        task = jobs.task("x", Retry(50)).queue()
        await trio.sleep(5)
        assert task.attempt == 2
        assert task.start_asap().executing
        await app.restart(m)
        assert task.attempt == 1
    assert jobs.times == {"x": [0]}


async def test_a_retry_takes_the_place_of_one_that_is_due_later(
    autojump_clock: MockClock,
) -> None:
    """queued by hand before its retry, it may ask for an earlier one, and then has that alone."""
    app, _, jobs = managed()
    async with app:
        task = jobs.task("x", Retry(50), Retry(10)).queue()
        await trio.sleep(5)
        task.queue()
        await trio.sleep(15)
        assert task.next_run is None
        await trio.sleep(100)
    assert jobs.times == {"x": [0, 5, 15]}


async def test_a_cancelled_task_is_not_tried_again(autojump_clock: MockClock) -> None:
    """cancelled between two attempts, or in one that asks for another, a task never runs again."""
    jobs = Jobs()

    async def stubborn_retry(task: Task) -> None:
        task.cancel()
        raise Retry(1)

    async with App(jobs.module) as app:
        task = jobs.task("x", Retry(50)).queue()
        await trio.sleep(5)
        task.cancel()
        other = jobs.module.new_task(stubborn_retry).queue()
        await trio.sleep(100)
        assert_gone(app, task)
        assert other.runs == 1
    assert jobs.times == {"x": [0]}


async def test_a_repeated_task_may_be_tried_again(autojump_clock: MockClock) -> None:
    """the repetition counts from the end of the last attempt."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("x", Retry(5), 2.0).repeat(60)
        await trio.sleep(200)
    assert jobs.times == {"x": [60, 65, 127, 187]}


@pytest.mark.parametrize("after", [-1, math.nan, math.inf, "5", True, None])
def test_a_retry_after_no_time(after: Any) -> None:
    """what isn't a sensible number of seconds is an error where the Retry is made."""
    with pytest.raises((TypeError, ValueError), match="after") as caught:
        Retry(after)
    assert repr(after) in str(caught.value)


# --- wait ----------------------------------------------------------------------------------


async def test_wait_returns_what_the_next_execution_returns(autojump_clock: MockClock) -> None:
    """whether it is queued, scheduled, repeated or executing: wait() gives its next result."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x", 3)
        assert await task.queue().wait() == "x 1"
        assert trio.current_time() == 3
        assert await task.schedule_after(7).wait() == "x 2"
        assert trio.current_time() == 10
        task.repeat(60)
        assert [await task.wait(), await task.wait()] == ["x 3", "x 4"]
        assert trio.current_time() == 130


async def test_wait_during_an_execution_is_for_that_one(autojump_clock: MockClock) -> None:
    """a task that is executing and queued again gives the result of the present execution."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x", 5, 5).queue()
        await trio.sleep(1)
        task.queue()
        assert await task.wait() == "x 1"
        assert await task.wait() == "x 2"


async def test_an_error_reaches_every_waiter_and_one_report(autojump_clock: MockClock) -> None:
    """each waiter gets a TaskFailed of its own, from the error; it is reported exactly once."""
    jobs = Jobs()
    app = App(jobs.module)
    error = ValueError("broken")
    caught: list[TaskFailed] = []

    async def wait_for(task: Task) -> None:
        try:
            await task.wait()
        except TaskFailed as failed:
            caught.append(failed)

    async def use() -> None:
        task = jobs.task("x", error).schedule_after(5)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait_for, task)
        assert task.last_error is error

    reports = await reports_of(app, use)
    assert [report.exception for report in reports] == [error]
    assert len({id(failed) for failed in caught}) == 3
    for failed in caught:
        assert failed.__cause__ is error
        assert (failed.module, failed.task) == ("m", "x")
        assert str(failed) == "task 'x' of module 'm' failed: ValueError('broken')"


@pytest.mark.parametrize(
    "order",
    [
        lambda task: task.schedule_after(50),
        lambda task: task.repeat(60),
        lambda task: task.queue(),
        lambda task: task.start_asap(),
    ],
    ids=["scheduled", "repeated", "queued", "executing"],
)
async def test_a_cancel_ends_the_wait(autojump_clock: MockClock, order: Order) -> None:
    """who waits for a task that is cancelled gets TaskCancelled."""
    jobs = Jobs()
    async with App(jobs.module):
        jobs.task("blocker", 20).queue()
        task = jobs.task("x", 50)
        order(task)
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await trio.sleep(25)
                task.schedule(None).schedule_after(1).cancel()

            if task.next_run is None:
                nursery.start_soon(cancel)
            else:
                nursery.start_soon(let_run_then, task.cancel)
            with pytest.raises(TaskCancelled) as caught:
                await task.wait()
    assert (caught.value.module, caught.value.task) == ("m", "x")


async def let_run_then(do: Callable[[], object]) -> None:
    await let_run()
    do()


async def test_taking_back_the_schedule_ends_the_wait(autojump_clock: MockClock) -> None:
    """with schedule(None) nothing is pending any more, and who waits for it is told."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x").schedule_after(50)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_run_then, lambda: task.schedule(None))
            with pytest.raises(TaskCancelled) as caught:
                await task.wait()
        assert "taken out of the schedule" in str(caught.value)
        assert not task.cancelled
        assert await task.queue().wait() == "x 1"


@pytest.mark.parametrize("how", ["stop", "crash", "leave"])
@pytest.mark.parametrize("pending", ["executing", "queued", "scheduled"])
async def test_a_stop_ends_the_wait(autojump_clock: MockClock, how: str, pending: str) -> None:
    """who waits outside of the module hears that it is offline."""
    app, m, jobs = managed(restart=QUICK)
    outcomes: list[float] = []

    async def wait_for(task: Task) -> None:
        with pytest.raises(ModuleOffline, match="'x'"):
            await task.wait()
        outcomes.append(trio.current_time())

    async with trio.open_nursery() as nursery, app:
        if pending == "queued":
            jobs.task("blocker", 50).queue()
        task = jobs.task("x", 50)
        if pending == "scheduled":
            task.schedule_after(30)
        else:
            task.queue()
        nursery.start_soon(wait_for, task)
        await trio.sleep(5)
        if how == "stop":
            await switch_off(app, m)
        elif how == "crash":
            m.nursery.start_soon(crash)
            await let_run()
    assert outcomes == [5]


@pytest.mark.parametrize("state", ["new", "done", "cancelled", "offline", "retaken"])
async def test_waiting_for_nothing_is_an_error(autojump_clock: MockClock, state: str) -> None:
    """when the task is neither queued nor scheduled nor executing, wait() raises RuntimeError."""
    jobs = Jobs()
    task = jobs.task("x")
    if state == "offline":
        with pytest.raises(RuntimeError, match=r"'x'.*can't be waited for"):
            await task.wait()
    async with App(jobs.module):
        if state == "done":
            await task.queue().wait()
        elif state == "cancelled":
            task.queue().cancel()
            await let_run()
        elif state == "retaken":
            task.schedule_after(5).schedule(None)
        with pytest.raises(RuntimeError, match=r"'x'.*can't be waited for"):
            await task.wait()


async def test_a_cancelled_waiter_leaves_the_task_alone(autojump_clock: MockClock) -> None:
    """cancelling wait() ends the wait alone: the task runs, the other waiters get its value."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x", 10).queue()
        with trio.move_on_after(2) as scope:
            await task.wait()
        assert scope.cancelled_caught
        assert await task.wait() == "x 1"
        assert trio.current_time() == 10


async def test_wait_is_a_checkpoint_when_the_execution_has_just_ended(
    autojump_clock: MockClock,
) -> None:
    """wait() in a cancelled scope is cancelled."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x", 10).queue()
        with trio.CancelScope() as scope:
            scope.cancel()
            await task.wait()
        assert scope.cancelled_caught
        assert trio.current_time() == 0


async def test_waiting_across_a_retry(autojump_clock: MockClock) -> None:
    """an execution that asks for a retry isn't the end that a waiter waits for."""
    jobs = Jobs()
    async with App(jobs.module):
        task = jobs.task("x", Retry(10), Retry(10), 1.0).queue()
        assert await task.wait() == "x 3"
        assert trio.current_time() == 21


async def test_a_task_may_wait_for_another(autojump_clock: MockClock) -> None:
    """a task that waits for another one needs a second place, or the other's overtime."""
    jobs = Jobs()
    other = jobs.task("other", 5)

    async def run(task: Task) -> object:
        return await other.queue().wait()

    async with App(jobs.module, max_concurrent_tasks=2):
        assert await jobs.module.new_task(run).queue().wait() == "other 1"


# --- what it is ----------------------------------------------------------------------------


async def test_the_attributes_of_a_task(autojump_clock: MockClock) -> None:
    """name, module, cancelled, executing, next_run, runs and last_error say how it is."""
    m = Module("m")
    jobs = Jobs(m)
    unnamed = m.new_task(nothing)
    assert (unnamed.name, unnamed.module) == ("nothing", m)
    error = ValueError("second")
    async with App(m):
        task = jobs.task("x", 5, error, 5)
        assert isinstance(task, Task)
        assert (task.name, task.runs, task.last_error, task.attempt) == ("x", 0, None, 1)
        assert (task.cancelled, task.executing, task.queued, task.next_run) == (
            *(False, False, False),
            None,
        )
        task.schedule(10)
        assert (task.next_run, task.executing) == (10, False)
        await trio.sleep(12)
        assert (task.next_run, task.executing) == (None, True)
        await trio.sleep(10)
        assert (task.executing, task.runs, task.last_error) == (False, 1, None)
        task.queue()
        await trio.sleep(1)
        assert (task.runs, task.last_error) == (2, error)
        task.queue()
        await trio.sleep(10)
        assert (task.runs, task.last_error) == (3, error)
        assert "'x'" in repr(task)
        assert "'m'" in repr(task)


async def test_status_shows_the_tasks(autojump_clock: MockClock) -> None:
    """app.status() has each pending or declared task, as plain values, and the limits in use."""
    jobs = Jobs()
    declared = jobs.module.task(nothing, every=90, name="declared")
    idle = jobs.task("idle")
    async with App(jobs.module, min_repeat_interval=70) as app:
        await trio.sleep(1)
        running = jobs.task("running", 50).queue()
        queued = jobs.task("queued").queue().schedule(300)
        tried = jobs.task("tried", ValueError("x"), Retry(100))
        await trio.sleep(4)
        status = app.status()
        infos = {info.name: info for info in status.modules["m"].tasks}
        assert set(infos) == {"declared", "running", "queued"}
        now = infos["running"]
        assert (now.executing, now.queued, now.scheduled, now.since) == (True, False, False, 1)
        waits = infos["queued"]
        assert (waits.executing, waits.queued, waits.scheduled) == (False, True, True)
        assert (waits.next_due, waits.since) == (300, 1)
        due = infos["declared"]
        assert (due.queued, due.scheduled, due.next_due, due.since) == (False, True, 90, None)
        limits = status.limits
        assert (limits.tasks_executing, limits.tasks_queued, limits.tasks_scheduled) == (1, 1, 2)
        assert (limits.max_concurrent_tasks, limits.min_repeat_interval) == (1, 70)
        assert status.modules["m"].workers == ()
        plain = status.to_dict()["modules"]
        assert isinstance(plain, dict)
        assert {task["name"] for task in plain["m"]["tasks"]} == set(infos)
        await trio.sleep(100)
        tried.queue()
        await let_run()
        tried.queue()
        await let_run()
        info = {info.name: info for info in app.status().modules["m"].tasks}["tried"]
        assert (info.attempt, info.runs, info.last_error) == (2, 2, "ValueError('x')")
    assert declared.runs == 1
    assert (running.runs, queued.runs, idle.runs) == (1, 1, 0)


async def test_the_counts_of_executions_agree(autojump_clock: MockClock) -> None:
    """started = running + ended, at each step, whatever ends an execution."""
    m = Module("m", restart=FOREVER)
    jobs = Jobs(m)
    app = App(m, max_concurrent_tasks=3)
    async with app:
        orders = random.Random(3)
        tasks = [jobs.task(f"{n}", 3, ValueError("x"), 1, Retry(2), 5) for n in range(12)]
        for _ in range(200):
            task = orders.choice(tasks)
            if not task.cancelled:
                task.queue()
            if orders.random() < 0.05:
                task.cancel()
            await trio.sleep(orders.choice([0, 0.5, 1]))
            counts = app.status().totals.executions
            assert counts.started == counts.running + counts.ended
            assert counts.running == sum(task.executing for task in tasks) <= 3
            assert counts.ended == sum(task.runs for task in tasks)
        await trio.sleep(60)
        counts = app.status().totals.executions
        assert counts.running == 0
        assert counts == app.status().modules["m"].executions
        assert counts.started > 20


async def test_the_task_tree_shows_where_a_task_waits(autojump_clock: MockClock) -> None:
    """the tree names the task, and its stack goes to where it waits, through its function."""
    m = Module("m")

    async def deep_inside() -> None:
        await trio.sleep_forever()

    async def run(task: Task) -> None:
        await trio.lowlevel.checkpoint()
        await deep_inside()

    async with App(m) as app:
        m.new_task(run, name="import").queue()
        await trio.sleep(1)
        tree = app.task_tree()
    assert "import" in tree
    assert "deep_inside" in tree
    assert "sleep_forever" in tree


async def test_a_hanging_task_is_shown_in_the_stop_error(autojump_clock: MockClock) -> None:
    """a stop that runs out of time names the task, with its stack."""
    m = Module("m", stop_timeout=10)

    async def deep_inside() -> None:
        await stubborn(50)

    async def run(task: Task) -> None:
        await deep_inside()

    app = App(m)

    async def use() -> None:
        async with app:
            m.new_task(run, name="import").queue()
            await trio.sleep(1)

    with pytest.raises(ShutdownError) as caught:
        await use()
    (error,) = caught.value.exceptions
    assert isinstance(error, StopError)
    assert "import" in error.hanging
    assert "deep_inside" in error.hanging
    assert trio.current_time() == 50


# --- exceptions ----------------------------------------------------------------------------


async def test_an_exception_is_reported_as_that_of_a_task(autojump_clock: MockClock) -> None:
    """the report names module and task, its type is "task"; the next task runs."""
    jobs = Jobs()
    error = ValueError("broken")

    async def use() -> None:
        jobs.task("x", error).queue()
        after = jobs.task("after").queue()
        await trio.sleep(1)
        assert after.runs == 1
        assert jobs.module.online

    (report,) = await reports_of(App(jobs.module), use)
    assert (report.module, report.task_name, report.task_type) == ("m", "x", "task")
    assert (report.severity, report.exception, report.time) == ("panic", error, 0)
    assert "ValueError: broken" in report.traceback


async def test_a_task_may_ask_for_a_restart_of_its_module(autojump_clock: MockClock) -> None:
    """RestartModule restarts the module; who waits for the task gets it as the cause."""
    m = Module("m", restart=QUICK)
    starts: list[float] = []

    @m.on_start
    async def start() -> None:
        starts.append(trio.current_time())

    jobs = Jobs(m)
    error = RestartModule("please")
    async with App(m) as app:
        task = jobs.task("x", error).queue()
        other = jobs.task("other").queue()
        with pytest.raises(TaskFailed) as caught:
            await task.wait()
        assert caught.value.__cause__ is error
        await trio.sleep(10)
        assert m.online
        assert app.status().modules["m"].restarts == 1
        assert other.runs == 0
        assert await other.queue().wait() == "other 1"
    assert starts == [0, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_no_guard_may_keep_ends_the_app(
    autojump_clock: MockClock, error: BaseException
) -> None:
    """KeyboardInterrupt and SystemExit begin the shutdown and leave the block; nothing reports."""
    jobs = Jobs()
    app = App(jobs.module)

    async def use() -> None:
        async with app:
            jobs.task("x", error).queue()
            jobs.task("next").queue()
            await trio.sleep_forever()

    async with app.reports() as reports:
        with pytest.raises(type(error)) as caught:
            await use()
        assert caught.value is error
        assert await drain(reports) == []


async def test_a_group_is_split(autojump_clock: MockClock) -> None:
    """of a group the interrupt leaves the block, and the ordinary error is reported."""
    jobs = Jobs()
    app = App(jobs.module)
    broken = ValueError("broken")
    group = BaseExceptionGroup("both", [broken, KeyboardInterrupt()])

    async def use() -> None:
        async with app:
            jobs.task("x", group).queue()
            await trio.sleep_forever()

    async with app.reports() as reports:
        with pytest.raises(KeyboardInterrupt):
            await use()
        (report,) = await drain(reports)
    assert isinstance(report.exception, ExceptionGroup)
    assert report.exception.exceptions == (broken,)


async def test_a_group_of_errors_is_one_failure(autojump_clock: MockClock) -> None:
    """a group of exceptions is reported as it is, once."""
    jobs = Jobs()
    group = ExceptionGroup("two", [ValueError("a"), ValueError("b")])

    async def use() -> None:
        with pytest.raises(TaskFailed) as caught:
            await jobs.task("x", group).queue().wait()
        assert caught.value.__cause__ is group

    (report,) = await reports_of(App(jobs.module), use)
    assert report.exception is group


async def test_a_stray_cancelled_is_an_ordinary_failure(autojump_clock: MockClock) -> None:
    """a Cancelled whose scope is gone is reported, and neither ends the module nor the next."""
    jobs = Jobs()
    stray = await stray_cancelled()

    async def use() -> None:
        task = jobs.task("x", stray, 1).queue()
        with pytest.raises(TaskFailed) as caught:
            await task.wait()
        assert caught.value.__cause__ is stray
        assert await jobs.task("next").queue().wait() == "next 1"
        assert await task.queue().wait() == "x 2"

    (report,) = await reports_of(App(jobs.module), use)
    assert report.exception is stray


async def test_an_error_while_being_cancelled_is_reported(autojump_clock: MockClock) -> None:
    """what a cancelled execution raises instead is its error, whoever cancelled it."""
    m = Module("m")

    async def run(task: Task) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("clean-up")

    async def use() -> None:
        cancelled = m.new_task(run, "cancelled").queue()
        await trio.sleep(1)
        cancelled.cancel()
        await let_run()
        assert isinstance(cancelled.last_error, ValueError)
        m.new_task(run, "stopped").queue()
        await trio.sleep(1)

    reports = await reports_of(App(m), use)
    assert [report.task_name for report in reports] == ["cancelled", "stopped"]


async def test_a_function_that_only_looks_async(autojump_clock: MockClock) -> None:
    """a callable object with an async call and a method are tasks' functions as well."""

    class Callable_:  # noqa: N801
        async def __call__(self, task: Task) -> str:
            await trio.lowlevel.checkpoint()
            return task.name

        async def method(self, task: Task) -> str:
            return task.name

    m = Module("m")
    async with App(m):
        assert await m.new_task(Callable_()).queue().wait() == "Callable_"
        assert await m.new_task(Callable_().method).queue().wait() == "method"


# --- contexts ------------------------------------------------------------------------------

colour: ContextVar[str] = ContextVar("colour", default="none")


class Painter:
    """A task's function that notes the colour, and leaves another one behind."""

    def __init__(self, *retries: float) -> None:
        self.seen: list[str] = []
        self.retries = iter(retries)

    async def run(self, task: Task) -> None:
        self.seen.append(colour.get())
        colour.set("spilt")
        await trio.sleep(1)
        assert colour.get() == "spilt"
        after = next(self.retries, None)
        if after is not None:
            raise Retry(after)


async def test_each_execution_runs_in_a_copy_of_its_starters_context(
    autojump_clock: MockClock,
) -> None:
    """queued or scheduled: what the starter has set is seen; what a run sets, nobody sees."""
    m, painter = Module("m"), Painter()
    async with App(m):
        task = m.new_task(painter.run)
        colour.set("red")
        task.queue()
        colour.set("green")
        task.schedule_after(10)
        colour.set("blue")
        await trio.sleep(20)
        task.repeat(60)
        colour.set("white")
        await trio.sleep(150)
        assert colour.get() == "white"
        task.repeat(None).queue()
        await trio.sleep(5)
    assert painter.seen == ["red", "green", "blue", "blue", "white"]


async def test_executions_of_a_shared_runner_are_isolated(autojump_clock: MockClock) -> None:
    """tasks that are executed one after the other see nothing of each other."""
    m, painter = Module("m"), Painter()
    async with App(m):
        for name in ("a", "b", "c"):
            colour.set(name)
            m.new_task(painter.run).queue()
        await trio.sleep(10)
    assert painter.seen == ["a", "b", "c"]


class Touchy:
    """A value that equals all others, and says so if it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __eq__(self, other: object) -> bool:
        self.asked += 1
        return True

    __hash__ = None  # type: ignore[assignment]


value: ContextVar[object] = ContextVar("value")


def test_a_context_is_copied_once_while_nothing_is_set() -> None:
    """what was copied before is used again until a variable is set, be it to an equal value."""
    values = Touchy(), Touchy()
    first = snapshot(None)
    assert snapshot(first) is first
    value.set(values[0])
    second = snapshot(first)
    assert second is not first
    assert value not in first
    assert second[value] is values[0]
    value.set(values[1])
    third = snapshot(second)
    assert third[value] is values[1]
    assert snapshot(third) is third
    assert [each.asked for each in values] == [0, 0]


@pytest.mark.parametrize("how", ["queue", "queue_prioritized", "schedule"])
async def test_tasks_that_are_ordered_together_share_a_copy(
    autojump_clock: MockClock, how: str
) -> None:
    """a thousand of one piece of code hold one copy of its context, and still see what it set."""
    seen: list[object] = []
    m = Module("m")

    async def look(task: Task) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(value.get())
        value.set("spilt")

    values = [object(), object()]
    async with App(m):
        tasks = []
        for each in values:
            value.set(each)
            for _ in range(10):
                tasks.append(task := m.new_task(look))
                task.schedule_after(5) if how == "schedule" else getattr(task, how)()
        slot = "_scheduled_in" if how == "schedule" else "_queued_in"
        assert len({id(getattr(task, slot)) for task in tasks}) == 2
        await trio.sleep(10)
    assert sorted(map(id, seen)) == sorted([*map(id, values)] * 10)


@pytest.mark.parametrize("how", ["queue", "schedule", "cancelled"])
async def test_nobody_but_tasks_keeps_a_context(autojump_clock: MockClock, how: str) -> None:
    """what a starter has set goes with the last task that may see it, while the app runs on."""
    m = Module("m")
    async with App(m) as app:
        task = m.new_task(nothing)
        task.queue() if how == "queue" else task.schedule_after(5)
        kept = weakref.ref(task._queued_in if how == "queue" else task._scheduled_in)
        if how == "cancelled":
            app.status()
            task.cancel()
        await trio.sleep(10)
        task._queued_in = task._scheduled_in = snapshot(None)
        gc.collect()
        assert kept() is None


async def test_a_retry_runs_in_the_context_of_what_it_repeats(autojump_clock: MockClock) -> None:
    """the next attempt sees what the starter of the first had set, not an older scheduler."""
    m, painter = Module("m"), Painter(5.0)
    async with App(m):
        task = m.new_task(painter.run)
        colour.set("old")
        task.schedule_after(1)
        await trio.sleep(10)
        assert painter.seen == ["old", "old"]
        painter.retries = iter([5.0])
        colour.set("new")
        task.queue()
        colour.set("other")
        await trio.sleep(20)
    assert painter.seen == ["old", "old", "new", "new"]


async def test_a_declared_task_runs_in_the_apps_context(autojump_clock: MockClock) -> None:
    """declared work sees what was set when the app was entered."""
    m, painter = Module("m"), Painter()
    m.task(painter.run, every=60)
    colour.set("entered")
    async with App(m):
        colour.set("body")
        await trio.sleep(130)
    assert painter.seen == ["entered", "entered"]


@pytest.mark.parametrize("order", ["body", "start", "other module", "itself", "schedule"])
async def test_a_task_knows_its_module_and_app(autojump_clock: MockClock, order: str) -> None:
    """current_module() and current_app() are those of the task, whoever has queued it."""
    a = Module("a")
    b = Module("b", depends_on=[a])
    app = App(a, b)
    seen: list[tuple[Module, App]] = []

    async def inner() -> None:
        await trio.lowlevel.checkpoint()
        seen.append((current_module(), current_app()))

    async def run(task: Task) -> None:
        seen.append((current_module(), current_app()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inner)

    task = a.new_task(run)

    async def worker() -> None:
        task.queue()
        await trio.lowlevel.checkpoint()

    if order == "start":
        b.on_start(worker)
    async with app:
        if order == "body":
            task.queue()
        elif order == "schedule":
            task.schedule_after(5)
        elif order != "start":
            (b if order == "other module" else a).start_worker(worker)
        await trio.sleep(10)
    assert seen == [(a, app)] * 2


# --- declared tasks ------------------------------------------------------------------------


async def test_a_declared_task_repeats_from_the_start_on(autojump_clock: MockClock) -> None:
    """@module.task(every=...) returns the task; it runs one interval after the start, and so on."""
    m, runs = Module("m"), []

    @m.task(every=60)
    async def sweep(task: Task) -> None:
        runs.append(trio.current_time())
        await trio.sleep(5)

    assert isinstance(sweep, Task)
    assert (sweep.name, sweep.module) == ("sweep", m)
    async with App(m):
        await trio.sleep(200)
    assert runs == [60, 125, 190]


async def test_a_bare_declaration_waits_for_orders(autojump_clock: MockClock) -> None:
    """without a time the task is there, and isn't scheduled."""
    m, runs = Module("m"), []

    @m.task
    async def sweep(task: Task) -> None:
        runs.append(trio.current_time())

    async with App(m) as app:
        (info,) = app.status().modules["m"].tasks
        assert (info.name, info.scheduled, info.queued) == ("sweep", False, False)
        await trio.sleep(100)
        sweep.queue()
        await trio.sleep(1)
    assert runs == [100]


async def test_a_plain_call_declares_with_arguments(autojump_clock: MockClock) -> None:
    """m.task(fn, *args, every=...) is what one writes in a loop; the task comes first."""
    m, seen = Module("m"), []

    async def fetch(task: Task, host: str, port: int) -> str:
        seen.append((task.name, host, port))
        return host

    tasks = [m.task(fetch, host, 80, every=60, name=f"fetch {host}") for host in ("a", "b")]
    unnamed = m.task(fetch, "c", 80)
    assert unnamed.name == "fetch"
    async with App(m):
        await trio.sleep(61)
        assert await unnamed.queue().wait() == "c"
    assert seen == [("fetch a", "a", 80), ("fetch b", "b", 80), ("fetch", "c", 80)]
    assert [task.runs for task in tasks] == [1, 1]


@pytest.mark.parametrize("wall", [False, True])
async def test_a_task_declared_for_one_time(autojump_clock: MockClock, wall: bool) -> None:
    """at= schedules it once, by Trio's clock or the wall's, also when it lies behind a restart."""
    jobs = Jobs()
    at: float | datetime = 100
    if wall:
        at = datetime(2030, 1, 1, 0, 1, 40, tzinfo=timezone.utc)
    jobs.module.task(jobs.job("x"), at=at)
    app = App(jobs.module, epoch=datetime(2030, 1, 1, tzinfo=timezone.utc))
    async with app:
        await trio.sleep(50)
        await app.restart("m")
        await trio.sleep(100)
        await app.restart("m")
        await trio.sleep(100)
    assert jobs.times == {"x": [pytest.approx(100)]}


@pytest.mark.parametrize(("misfire", "expected"), [("run-once", [150]), ("skip", None)])
async def test_a_time_that_passed_while_the_module_was_down(
    autojump_clock: MockClock, misfire: Literal["run-once", "skip"], expected: list[float] | None
) -> None:
    """one time that passed in the meantime is made up for at the start, or skipped."""
    app, m, jobs = managed()
    m.task(jobs.job("x"), at=100, misfire=misfire)
    async with app:
        await trio.sleep(50)
        await switch_off(app, m)
        await trio.sleep(100)
        await switch_on(app, m)
        await trio.sleep(20)
        await app.restart(m)
        await trio.sleep(20)
    assert jobs.times.get("x") == expected


async def test_declared_tasks_are_armed_at_each_start(autojump_clock: MockClock) -> None:
    """after a restart, and in the app's next run, the interval begins anew, once."""
    jobs = Jobs()
    jobs.module.task(jobs.job("x"), every=60)
    app = App(jobs.module)
    async with app:
        await trio.sleep(50)
        await app.restart("m")
        await trio.sleep(70)
        assert jobs.times == {"x": [110]}
    async with app:
        await trio.sleep(65)
    assert jobs.times == {"x": [110, 180]}


async def test_a_declared_task_armed_again_after_a_crash(autojump_clock: MockClock) -> None:
    """a crash takes it out, the restart arms it again."""
    m = Module("m", restart=QUICK)
    jobs = Jobs(m)
    m.task(jobs.job("x"), every=60)
    async with App(m):
        await trio.sleep(30)
        m.nursery.start_soon(crash)
        await trio.sleep(100)
    assert jobs.times == {"x": [91]}


async def test_declared_while_the_module_runs_it_goes_with_that_run(
    autojump_clock: MockClock,
) -> None:
    """it is armed at once, and gone after the next start of the module."""
    app, m, jobs = managed()
    async with app:
        await trio.sleep(5)
        task = m.task(jobs.job("x"), every=60)
        assert task.next_run == 65
        await trio.sleep(70)
        await app.restart(m)
        await trio.sleep(100)
        assert app.status().modules["m"].tasks == ()
    assert jobs.times == {"x": [65]}


async def test_a_task_cant_be_declared_while_the_module_stops(autojump_clock: MockClock) -> None:
    """a declaration in a stop function is refused."""
    m, refused = Module("m"), []

    @m.on_stop
    async def stop() -> None:
        with pytest.raises(ModuleOffline):
            m.task(nothing, every=60)
        refused.append(True)

    async with App(m):
        pass
    assert refused == [True]


async def test_a_cancelled_declared_task_isnt_armed_again(autojump_clock: MockClock) -> None:
    """cancel() is for good, also for what is declared."""
    jobs = Jobs()
    task = jobs.module.task(jobs.job("x"), every=60)
    app = App(jobs.module)
    async with app:
        task.cancel()
        await app.restart("m")
        await trio.sleep(100)
    async with app:
        await trio.sleep(100)
    assert jobs.begun == []


async def test_a_declared_interval_below_the_minimum(autojump_clock: MockClock) -> None:
    """it is an error when the app is entered, before anything runs, and points to every."""
    jobs = Jobs()
    jobs.module.task(jobs.job("x"), every=30)
    ran: list[str] = []

    @jobs.module.on_prep
    async def prep() -> None:
        ran.append("prep")

    with pytest.raises(ValueError, match=r"60 s.*Module\.every"):
        async with App(jobs.module):
            pass
    assert ran == []
    async with App(jobs.module, min_repeat_interval=30):
        await trio.sleep(40)
    assert jobs.times == {"x": [30]}


async def test_a_declared_interval_below_the_minimum_in_an_added_module(
    autojump_clock: MockClock,
) -> None:
    """a module that comes later is checked, too, before anything of it runs."""
    jobs = Jobs(Module("late"))
    jobs.module.task(jobs.job("x"), every=30)
    async with App(Module("m")) as app:
        with pytest.raises(ValueError, match=r"60 s.*Module\.every"):
            await app.add(jobs.module)
        assert "late" not in app


async def test_an_interval_below_the_minimum_declared_while_running(
    autojump_clock: MockClock,
) -> None:
    """declared while the module runs, it is an error at once, and nothing is declared."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        with pytest.raises(ValueError, match=r"60 s.*Module\.every"):
            jobs.module.task(jobs.job("x"), every=30)
        assert app.status().modules["m"].tasks == ()
        await trio.sleep(100)
    assert jobs.begun == []


async def test_jitter_of_a_declared_interval(autojump_clock: MockClock) -> None:
    """each run of every= is up to `jitter` seconds later, by the app's rng."""

    async def gaps() -> list[float]:
        jobs = Jobs()
        jobs.module.task(jobs.job("x"), every=60, jitter=20)
        async with App(jobs.module, rng=random.Random(7)):
            times = [trio.current_time()]
            await trio.sleep(1500)
        times += jobs.times["x"]
        return [b - a for a, b in itertools.pairwise(times)]

    first, second = await gaps(), await gaps()
    assert all(60 <= gap <= 80 for gap in first)
    assert len(set(first)) == len(first) > 15
    assert first == pytest.approx(second)


# --- fairness, order and cost --------------------------------------------------------------


async def test_a_flood_of_tasks_starves_nobody(autojump_clock: MockClock) -> None:
    """thousands of tasks without a checkpoint leave turns to everybody else."""
    m, turns = Module("m"), 0
    async with App(m):
        tasks = [m.new_task(nothing).queue() for _ in range(10_000)]
        while tasks[-1].runs == 0:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert all(task.runs == 1 for task in tasks)
    assert turns >= 100


async def test_a_task_that_queues_itself_forever_starves_nobody(
    autojump_clock: MockClock,
) -> None:
    """a task without a checkpoint that queues itself at once leaves turns to everybody else."""
    m = Module("m")

    async def forever(task: Task) -> None:
        task.queue()

    async with App(m):
        task = m.new_task(forever).queue()
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        assert task.runs > 50
        task.cancel()


async def test_tasks_that_ask_for_a_retry_at_once_starve_nobody(autojump_clock: MockClock) -> None:
    """a task that always asks for Retry(0) leaves turns to everybody else."""
    m = Module("m")

    async def forever(task: Task) -> None:
        raise Retry(0)

    async with App(m):
        task = m.new_task(forever).queue()
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        assert task.runs > 5
        task.cancel()


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_gives_the_same_order(seed: int) -> None:
    """with the same seed, clock and scheduling the same executions begin at the same times."""

    def once() -> list[tuple[str, float]]:
        jobs = Jobs()
        log: list[tuple[str, float]] = []

        async def use() -> None:
            rng = random.Random(seed)
            app = App(jobs.module, max_concurrent_tasks=3, rng=random.Random(seed))
            tasks = [jobs.task(f"{n}", 3, 70, 1, Retry(4), 200) for n in range(10)]
            for number, task in enumerate(tasks[:4]):
                jobs.module.task(jobs.job(f"d{number}"), every=60, jitter=10, name=task.name)
            async with app:
                for _ in range(150):
                    task = rng.choice(tasks)
                    order = rng.choice(["queue", "queue_prioritized", "start_asap"])
                    getattr(task, order)()
                    rng.choice(tasks).schedule_after(rng.uniform(0, 50))
                    await trio.sleep(rng.choice([0, 1, 5]))
            log.extend((name, when) for name, times in jobs.times.items() for when in times)

        with deterministic_scheduling(seed):
            trio.run(use, clock=MockClock(autojump_threshold=0))
        return log + [(name, -1.0) for name in jobs.begun]

    first = once()
    assert first == once()
    assert len(first) > 50


async def test_a_limit_set_by_another_thread_is_refused(autojump_clock: MockClock) -> None:
    """everything here belongs to one thread: the error comes before any task is taken."""
    m = Module("m")
    async with App(m) as app:
        tasks = [m.new_task(rest).queue() for _ in range(3)]
        await let_run()
        with pytest.raises(RuntimeError):
            await trio.to_thread.run_sync(setattr, app, "max_concurrent_tasks", 3)
        await trio.sleep(100)
        assert [task.runs for task in tasks] == [1, 1, 1]


async def rest(task: Task) -> None:
    await trio.sleep(5)


def calls_per_order(size: int) -> float:
    """Count the function calls that an order costs while so many other tasks wait."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    async def use() -> None:
        m = Module("m")
        async with App(m):
            m.new_task(trio_forever).max_delay(0).queue()
            for number in range(size):
                m.new_task(nothing).max_delay(0).queue()
                m.new_task(nothing).schedule_after(1000 + number)
            await let_run()
            tasks = [m.new_task(nothing) for _ in range(50)]
            m.new_task(nothing).queue().cancel()  # what the many cost is paid for before
            sys.setprofile(count)
            for task in tasks:
                task.queue().schedule_after(1000 + size / 2).schedule_after(5000).cancel()
            sys.setprofile(None)

    trio.run(use, clock=MockClock(autojump_threshold=0))
    return calls / 50


async def trio_forever(task: Task) -> None:
    await trio.sleep_forever()


def test_an_order_costs_the_same_among_many() -> None:
    """queueing, scheduling, rescheduling and cancelling call no more among 40 times as many."""
    few, many = calls_per_order(50), calls_per_order(2000)
    assert many < 1.5 * few


# --- bad input -----------------------------------------------------------------------------


def not_async(task: Task) -> None:
    """Stand for a function that the user forgot to make async."""


async def needs_two(task: Task, other: int) -> None:
    """Stand for a function that needs an argument that it doesn't get."""


async def needs_none() -> None:
    """Stand for a function that takes no task."""


async def generates(task: Task) -> Any:
    yield 1


BAD_FUNCTIONS = [not_async, needs_two, needs_none, generates]


@pytest.mark.parametrize("function", BAD_FUNCTIONS)
def test_a_function_that_is_no_tasks(function: Any) -> None:
    """a sync function, and one that can't be called with the task, are refused at once."""
    m = Module("m")
    for make in (m.new_task, m.task, m.task(every=60)):
        with pytest.raises(TypeError) as caught:
            make(function)
        assert function.__name__ in str(caught.value)


def test_a_coroutine_object_for_a_task() -> None:
    """a coroutine object, or no function at all, are refused in words like Trio's."""
    coroutine: Any = nothing(Module("other").new_task(nothing))
    m = Module("m")
    with pytest.raises(TypeError, match="without the parentheses"):
        m.new_task(coroutine)
    for value in (5, None):
        with pytest.raises(TypeError, match="expected an async function"):
            m.new_task(value)  # type: ignore[arg-type]


def test_arguments_that_do_not_fit() -> None:
    """a declaration with too many or too few arguments is refused at once."""
    m = Module("m")
    with pytest.raises(TypeError, match="needs_two"):
        m.task(needs_two, 1, 2)
    with pytest.raises(TypeError, match="nothing"):
        m.task(nothing, 1)


@pytest.mark.parametrize("name", ["", "a/b", 5])
def test_a_bad_name_for_a_task(name: Any) -> None:
    """an empty name, one with a slash, and none at all are refused."""
    m = Module("m")
    with pytest.raises((TypeError, ValueError), match="name") as caught:
        m.new_task(nothing, name)
    assert repr(name) in str(caught.value)
    with pytest.raises((TypeError, ValueError), match="name"):
        m.task(nothing, name=name)


NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "options",
    [
        {"every": 60, "cron": "0 3 * * *"},
        {"every": 60, "at": 100},
        {"cron": "0 3 * * *", "at": NOW},
        {"every": 60, "cron": "0 3 * * *", "at": NOW},
    ],
)
def test_only_one_kind_of_time(options: dict[str, Any]) -> None:
    """every, cron and at exclude each other; the message names what was given."""
    with pytest.raises(ValueError, match="only one of every, cron and at") as caught:
        Module("m").task(nothing, **options)
    for name in options:
        assert f"'{name}'" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"every": 0}, "every"),
        ({"every": -5}, "every"),
        ({"every": math.nan}, "every"),
        ({"every": math.inf}, "every"),
        ({"every": "60"}, "every"),
        ({"every": True}, "every"),
        ({"at": NOW.replace(tzinfo=None)}, "at"),
        ({"at": math.nan}, "at"),
        ({"at": math.inf}, "at"),
        ({"at": "tomorrow"}, "at"),
        ({"every": 60, "jitter": -1}, "jitter"),
        ({"every": 60, "jitter": math.inf}, "jitter"),
        ({"every": 60, "misfire": "never"}, "misfire"),
        ({"cron": "0 3 * * *", "misfire": None}, "misfire"),
        ({"cron": "0 3 * * *", "jitter": math.nan}, "jitter"),
        ({"cron": ""}, "cron"),
    ],
)
async def test_a_declaration_with_a_bad_value(options: dict[str, Any], argument: str) -> None:
    """the argument is named, its value shown, and nothing is declared."""
    m = Module("m")
    with pytest.raises((TypeError, ValueError), match=argument) as caught:
        m.task(nothing, **options)
    assert repr(options[argument]) in str(caught.value)
    async with App(m) as app:
        assert app.status().modules["m"].tasks == ()


BAD_ORDERS: list[tuple[str, Order, str]] = [
    ("naive datetime", lambda task: task.schedule(NOW.replace(tzinfo=None)), "at .*naive"),
    ("nan", lambda task: task.schedule(math.nan), "at .*nan"),
    ("inf", lambda task: task.schedule(math.inf), "at .*inf"),
    ("-inf", lambda task: task.schedule(-math.inf), "at .*inf"),
    ("string", lambda task: task.schedule("soon"), "at .*'soon'"),  # type: ignore[arg-type]
    ("bool", lambda task: task.schedule(True), "at .*True"),
    ("after nan", lambda task: task.schedule_after(math.nan), "seconds .*nan"),
    ("after inf", lambda task: task.schedule_after(math.inf), "seconds .*inf"),
    ("after negative", lambda task: task.schedule_after(-0.5), "seconds .*-0.5"),
    ("after None", lambda task: task.schedule_after(None), "seconds .*None"),  # type: ignore[arg-type]
    ("delay nan", lambda task: task.max_delay(math.nan), "seconds .*nan"),
    ("delay negative", lambda task: task.max_delay(-1), "seconds .*-1"),
    ("delay None", lambda task: task.max_delay(None), "seconds .*None"),  # type: ignore[arg-type]
    ("repeat nan", lambda task: task.repeat(math.nan), "interval .*nan"),
    ("repeat inf", lambda task: task.repeat(math.inf), "interval .*inf"),
    ("repeat negative", lambda task: task.repeat(-60), "interval .*-60"),
    ("repeat string", lambda task: task.repeat("60"), "interval .*'60'"),  # type: ignore[arg-type]
    ("repeat too fast", lambda task: task.repeat(59), "interval .*every"),
    ("cron", lambda task: task.cron("61 * * * *"), "cron .*minute.*'61"),
    ("zone", lambda task: task.cron("* * * * *", timezone="Mars"), "timezone .*'Mars'"),
    ("jitter", lambda task: task.cron("* * * * *", jitter=-1), "jitter .*-1"),
    (
        "misfire",
        lambda task: task.cron("* * * * *", misfire="no"),  # type: ignore[arg-type]
        "misfire .*'no'",
    ),
]


@pytest.mark.parametrize(
    ("order", "message"),
    [(order, message) for _, order, message in BAD_ORDERS],
    ids=[name for name, _, _ in BAD_ORDERS],
)
@pytest.mark.parametrize("before", ["idle", "scheduled"])
async def test_a_bad_order_changes_nothing(
    autojump_clock: MockClock, order: Order, message: str, before: str
) -> None:
    """the argument is named and the value shown; the task is as it was before."""
    jobs = Jobs()
    async with App(jobs.module) as app:
        task = jobs.task("x")
        if before == "scheduled":
            task.schedule(100)
        limits = app.status().limits
        with pytest.raises((TypeError, ValueError), match=message):
            order(task)
        assert app.status().limits == limits
        assert task.next_run == (100 if before == "scheduled" else None)
        await trio.sleep(500)
    assert jobs.times == ({"x": [100]} if before == "scheduled" else {})


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
async def test_a_bad_limit_of_tasks(value: Any) -> None:
    """max_concurrent_tasks is an integer of at least 1, when made and when set."""
    with pytest.raises((TypeError, ValueError), match="max_concurrent_tasks"):
        App(max_concurrent_tasks=value)
    async with App(Module("m")) as app:
        with pytest.raises((TypeError, ValueError), match="max_concurrent_tasks"):
            app.max_concurrent_tasks = value
        assert app.max_concurrent_tasks == 1


@pytest.mark.parametrize("value", [-1, math.nan, True, "2", None])
async def test_a_bad_smallest_interval(value: Any) -> None:
    """min_repeat_interval is a number of seconds, when made and when set."""
    with pytest.raises((TypeError, ValueError), match="min_repeat_interval"):
        App(min_repeat_interval=value)
    async with App(Module("m")) as app:
        with pytest.raises((TypeError, ValueError), match="min_repeat_interval"):
            app.min_repeat_interval = value
        assert app.min_repeat_interval == 60


async def test_retries_that_are_due_together_queue_in_the_order_in_which_they_asked(
    autojump_clock: MockClock,
) -> None:
    """none of them overtakes another: they join the plain queue one after the other."""
    module = Module("m")
    order: list[str] = []

    async def try_twice(task: Task) -> None:
        if task.attempt == 1:
            raise Retry(10)
        order.append(task.name)

    async with App(module):
        for name in "abc":
            module.new_task(try_twice, name=name).queue()
        await trio.sleep(60)
    assert order == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"timezone": "Europe/Berlin"},
            "timezone can only be given with cron, got 'Europe/Berlin'",
        ),
        ({"every": 60, "timezone": "Europe/Berlin"}, "timezone can only be given with cron"),
        ({"jitter": 5}, "jitter can only be given with every or cron, got 5"),
        ({"at": 100.0, "jitter": 5}, "jitter can only be given with every or cron, got 5"),
    ],
)
def test_an_option_that_would_do_nothing_is_an_error(options: dict[str, Any], message: str) -> None:
    """a task is declared with what it can use."""

    async def work(task: Task) -> None: ...

    declare: Any = Module("m").task
    with pytest.raises(ValueError, match=message):
        declare(work, **options)


async def test_heavy_executions_do_not_follow_each_other_for_long(mock_clock: MockClock) -> None:
    """each computes for a while without a checkpoint, and others have a turn after each."""
    m = Module("m")
    turns: list[str] = []

    async def compute(_: Task) -> None:
        turns.append("task")
        mock_clock.jump(0.05)

    async def watch() -> None:
        while True:
            turns.append("other")
            await trio.lowlevel.checkpoint()

    async with App(m, max_concurrent_tasks=1), trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for _ in range(20):
            m.new_task(compute).queue()
        while turns.count("task") < 20:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    runs = [len(list(run)) for name, run in itertools.groupby(turns) if name == "task"]
    assert sum(runs) == 20
    assert max(runs) <= 2  # the last of one pass of the scheduler and the first of the next one
