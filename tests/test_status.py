"""status, health and changes: how a service is doing, as values."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from support import fail, let_run
from trio.testing import MockClock, assert_checkpoints

from trio_modules import (
    App,
    AppStatus,
    Backoff,
    Change,
    FailureLevel,
    Module,
    ModuleStatus,
    Restart,
    RestartNow,
    StartError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DEAD, PREPARING, OFFLINE = ModuleStatus.DEAD, ModuleStatus.PREPARING, ModuleStatus.OFFLINE
STOPPING, STARTING, ONLINE = ModuleStatus.STOPPING, ModuleStatus.STARTING, ModuleStatus.ONLINE


def json_of(status: AppStatus) -> dict[str, Any]:
    """Return what a reader of the status as strict JSON gets."""
    found: dict[str, Any] = json.loads(json.dumps(status.to_dict(), allow_nan=False))
    return found


def fields_of(value: object) -> list[str]:
    cls: Any = type(value)
    return [field.name for field in attrs.fields(cls)] if attrs.has(cls) else []


def values_in(value: object) -> Iterator[object]:
    """Yield a status value and all that are in it."""
    yield value
    parts = [getattr(value, name) for name in fields_of(value)]
    if isinstance(value, (tuple, list)):
        parts.extend(value)
    elif isinstance(value, Mapping):
        parts.extend(value.values())
    for part in parts:
        yield from values_in(part)


# --- status --------------------------------------------------------------------------------------


async def test_status_at_every_stage(autojump_clock: MockClock) -> None:
    """status can be asked before, during and after a run, and says how far the app is."""
    m = Module("m")
    app = App(m, name="hub")
    seen: list[tuple[str, str, ModuleStatus]] = []

    def look(stage: str) -> None:
        status = app.status()
        assert status.name == "hub"
        seen.append((stage, status.state, status.modules["m"].status))

    @m.on_start
    async def start() -> None:
        look("start")

    @m.on_stop
    async def stop() -> None:
        look("stop")

    look("before")
    async with app:
        look("body")
    look("after")
    assert [(stage, state) for stage, state, _ in seen] == [
        ("before", "offline"),
        ("start", "starting"),
        ("body", "running"),
        ("stop", "stopping"),
        ("after", "offline"),
    ]
    assert [status for _, _, status in seen[:4]] == [DEAD, STARTING, ONLINE, STOPPING]
    assert seen[4][2] in {DEAD, OFFLINE}


async def test_status_is_a_value(autojump_clock: MockClock) -> None:
    """a status is frozen, with plain values in it, and doesn't change with the app."""
    m = Module("m")
    app = App(m)
    async with app:
        m.start_service_worker(fail, ValueError("no"))
        await let_run()
        status = app.status()
    assert status.modules["m"].status is ONLINE
    for value in values_in(status):
        assert not isinstance(value, (Module, App, BaseException))
        for name in fields_of(value):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(value, name, None)


async def test_status_lists_the_modules_in_order(autojump_clock: MockClock) -> None:
    """the modules are listed by name, in the order of registration."""
    names = ["web", "db", "alerts"]
    app = App(*(Module(name) for name in names))
    async with app:
        assert list(app.status().modules) == names
        assert [info.name for info in app.status().modules.values()] == names


async def test_status_says_what_is_wanted(autojump_clock: MockClock) -> None:
    """of each module the status says whether it is enabled and whether it is wanted."""
    db = Module("db")
    web = Module("web", depends_on=[db], enabled=True)
    extra = Module("extra")
    app = App(db, web, extra, managed=True)
    async with app:
        modules = app.status().modules
        assert [(info.name, info.enabled, info.wanted) for info in modules.values()] == [
            ("db", False, True),
            ("web", True, True),
            ("extra", False, False),
        ]
        assert [info.status for info in modules.values()] == [ONLINE, ONLINE, OFFLINE]


async def test_status_shows_failures(autojump_clock: MockClock) -> None:
    """of each module the status shows all its failures."""
    m = Module("m")
    app = App(m, Module("other"))
    async with app:
        hint = m.set_hint("low", "low")
        error = m.set_error("high", "high")
        assert set(app.status().modules["m"].failures) == {hint, error}
        assert app.status().modules["other"].failures == ()


async def test_status_shows_workers(autojump_clock: MockClock) -> None:
    """of each worker the status shows name, kind, state, restarts, last error and since when."""
    m = Module("m")
    app = App(m)
    async with app:
        await trio.sleep(1)
        m.start_worker(trio.sleep_forever, name="plain")
        m.start_service_worker(trio.sleep_forever, name="fine")
        handle = m.start_service_worker(fail, ValueError("no such luck"), name="failing")
        await trio.sleep(5)
        workers = {worker.name: worker for worker in app.status().modules["m"].workers}
        assert len(workers) == 3
        plain, fine, failing = workers["plain"], workers["fine"], workers["failing"]
        assert (plain.name, plain.kind, plain.state) == ("plain", "worker", "running")
        assert (fine.name, fine.kind, fine.state) == ("fine", "service-worker", "running")
        assert (fine.restarts, fine.last_error, fine.since) == (0, None, 1)
        # failed at 1, restarted at 3, failed again
        assert (failing.name, failing.state, failing.restarts) == ("failing", "backoff", 1)
        assert failing.state == handle.state
        assert "no such luck" in str(failing.last_error)
        assert failing.since == 3
        assert app.status().time == trio.current_time() == 6
    assert app.status().time is None


async def test_workers_that_ended_leave_the_status(autojump_clock: MockClock) -> None:
    """a worker that has ended isn't listed any more, but counted."""
    m = Module("m")
    app = App(m)
    async with app:
        for _ in range(100):
            m.start_worker(trio.sleep, 1)
        assert len(app.status().modules["m"].workers) == 100
        await trio.sleep(2)
        assert app.status().modules["m"].workers == ()
        assert app.status().modules["m"].work.ended == 100


async def test_a_waiting_worker_is_shown(autojump_clock: MockClock) -> None:
    """status shows which service workers wait for restart capacity, and how much is used."""
    m = Module("m")
    app = App(m, max_concurrent_restarts=1, restart_settle=10)
    async with app:
        for _ in range(3):
            m.start_service_worker(fail, ValueError("no"), backoff=0)
        await let_run()
        status = app.status()
        assert [worker.state for worker in status.modules["m"].workers] == ["waiting"] * 3
        assert status.limits.restarts_settling == 1
        assert status.limits.restarts_waiting == 3


async def test_status_shows_limits(autojump_clock: MockClock) -> None:
    """status shows the limits in force, changed ones too."""
    app = App(max_concurrent_restarts=7, restart_settle=0.25)
    async with app:
        assert app.status().limits.max_concurrent_restarts == 7
        assert app.status().limits.restart_settle == 0.25
        app.max_concurrent_restarts = 9
        assert app.status().limits.max_concurrent_restarts == 9


async def test_status_shows_totals(autojump_clock: MockClock) -> None:
    """the totals are the sums over all modules."""
    a, b = Module("a", enabled=True), Module("b", enabled=True)
    app = App(a, b, Module("c"), managed=True)
    async with app:
        a.start_worker(trio.sleep, 1)
        a.start_worker(trio.sleep, 9)
        b.start_worker(trio.sleep, 9)
        await trio.sleep(2)
        totals = app.status().totals
        assert (totals.modules, totals.online) == (3, 2)
        assert (totals.work.started, totals.work.running, totals.work.ended) == (3, 2, 1)


async def test_status_shows_the_shutdown(autojump_clock: MockClock) -> None:
    """while the app shuts down the status says why, and with which exit code."""
    m = Module("m")
    app = App(m)
    seen: list[AppStatus] = []

    @m.on_stop
    async def stop() -> None:
        seen.append(app.status())

    async with app:
        assert app.status().shutdown_reason is None
        assert app.status().exit_code is None
        assert app.status().ready
        app.request_shutdown("enough", exit_code=4)
        assert not app.status().ready
    assert (seen[0].shutdown_reason, seen[0].exit_code) == ("enough", 4)
    assert (seen[0].state, seen[0].ready) == ("stopping", False)


async def test_counters_start_afresh_with_each_run(autojump_clock: MockClock) -> None:
    """in a new run of the app nothing is counted that an earlier one did."""
    m = Module("m")
    app = App(m)
    for _ in range(2):
        async with app, app.reports(buffer=1), app.changes(buffer=1):
            m.start_worker(trio.sleep, 1)
            for number in range(3):
                m.report_info("by the way")
                m.set_hint(str(number), "by the way")
            totals = app.status().totals
            assert (totals.work.started, totals.reports_lost, totals.changes_lost) == (1, 2, 2)
            await trio.sleep(2)


class Auditor(trio.abc.Instrument):
    """Looks at an app's counters after each step of each task and keeps what doesn't add up."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.steps = 0
        self.wrong: list[object] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        status = self.app.status()
        parts = [info.work for info in status.modules.values()]
        total = status.totals.work
        if any(work.started != work.running + work.ended for work in (*parts, total)):
            self.wrong.append(status)
        for name in ("started", "running", "ended"):
            if getattr(total, name) != sum(getattr(work, name) for work in parts):
                self.wrong.append(status)


async def test_counters_agree_at_every_step(autojump_clock: MockClock) -> None:
    """started = running + ended, after every single step of a lively run."""
    m = Module("m", enabled=True)
    web = Module("web", depends_on=[m], enabled=True)
    app = App(m, web, managed=True, max_concurrent_restarts=2)
    rng = random.Random(1)

    async def work() -> None:
        await trio.sleep(rng.random())
        raise rng.choice([ValueError("no"), RestartNow()])

    auditor = Auditor(app)
    trio.lowlevel.add_instrument(auditor)
    async with app:
        for module in (m, web):
            for _ in range(5):
                module.start_service_worker(work, backoff=0.25)
                module.start_worker(work)
        await trio.sleep(3)
        with trio.move_on_after(1):
            await m.run_worker(trio.sleep_forever)
        await app.restart(m)
        web.disable()
        await app.manage()
    trio.lowlevel.remove_instrument(auditor)
    assert auditor.steps > 100
    assert auditor.wrong == []
    assert app.status().totals.work.running == 0


# --- to_dict -------------------------------------------------------------------------------------


async def test_to_dict_is_json(autojump_clock: MockClock) -> None:
    """to_dict can be dumped as strict JSON, with failures and failing workers in it."""
    m = Module("m", enabled=True)
    app = App(m, Module("other"), managed=True, stop_timeout=math.inf, restart_settle=1)
    async with app:
        m.set_error("disk", "the disk is full")
        m.start_worker(trio.sleep_forever)
        m.start_service_worker(fail, ValueError("no such luck"), name="poll")
        await let_run()
        found = json_of(app.status())
    assert found["name"] == "app"
    assert list(found["modules"]) == ["m", "other"]
    failures = {failure["id"]: failure for failure in found["modules"]["m"]["failures"]}
    assert set(failures) == {"disk", "poll:restarting"}
    assert failures["disk"]["message"] == "the disk is full"
    assert failures["disk"]["level"] == "ERROR"
    assert found["modules"]["m"]["status"] == "ONLINE"
    assert found["limits"]["restart_settle"] == 1
    workers = {worker["name"]: worker for worker in found["modules"]["m"]["workers"]}
    assert "no such luck" in workers["poll"]["last_error"]


async def test_to_dict_of_extremes(autojump_clock: MockClock) -> None:
    """limits without end don't break the JSON, nor does an app that doesn't run."""
    app = App(Module("m"), start_timeout=math.inf, stop_timeout=math.inf)
    limits = json_of(app.status())["limits"]
    assert (limits["restarts_settling"], limits["restarts_waiting"]) == (0, 0)
    async with app:
        json_of(app.status())
    json_of(app.status())


async def test_a_number_that_json_does_not_know(autojump_clock: MockClock) -> None:
    """infinity and NaN become null in JSON."""
    status = App(Module("m")).status()
    for number in (math.inf, math.nan):
        limits = attrs.evolve(status.limits, restart_settle=number)
        assert json_of(attrs.evolve(status, limits=limits))["limits"]["restart_settle"] is None


async def test_to_dict_has_every_field(autojump_clock: MockClock) -> None:
    """to_dict has all the fields of the status under their names."""
    app = App(Module("m"))
    async with app:
        status = app.status()
    assert sorted(status.to_dict()) == sorted(fields_of(status))
    info = status.modules["m"]
    assert sorted(json_of(status)["modules"]["m"]) == sorted(fields_of(info))


# --- health --------------------------------------------------------------------------------------


async def test_health_is_the_worst_failure_of_all(autojump_clock: MockClock) -> None:
    """app.health is the worst failure among all modules, of level NONE without any."""
    a, b = Module("a"), Module("b")
    app = App(a, b)
    assert app.health.level is FailureLevel.NONE
    async with app:
        assert app.health.level is FailureLevel.NONE
        error = b.set_error("error", "error")
        a.set_warning("warning", "warning")
        a.set_hint("hint", "hint")
        assert app.health == error
        assert app.status().health == error
        b.resolve("error")
        assert app.health.id == "warning"
        a.resolve_all()
        assert app.health.level is FailureLevel.NONE


async def test_health_prefers_the_newest_among_equals(autojump_clock: MockClock) -> None:
    """of failures equally severe in different modules health is the newest."""
    a, b = Module("a"), Module("b")
    app = App(a, b)
    async with app:
        b.set_error("first", "first")
        await trio.sleep(1)
        a.set_error("second", "second")
        assert app.health.id == "second"
        await trio.sleep(1)
        b.set_error("third", "third")
        assert app.health.id == "third"


# --- changes -------------------------------------------------------------------------------------


async def changes_of(app: App, body: Any) -> list[Change]:
    """Run ``body`` as the app's body and return all changes of that run."""
    async with app.changes(buffer=1000) as changes:
        async with app:
            await body()
        return [change async for change in changes]


async def test_changes_tell_the_life_of_a_module(autojump_clock: MockClock) -> None:
    """each status change is one Change, in order, numbered without gaps."""
    m = Module("m", prep=trio.lowlevel.checkpoint)

    @m.on_start
    async def start() -> None:
        await trio.sleep(2)

    @m.on_stop
    async def stop() -> None:
        await trio.sleep(3)

    async def body() -> None:
        await trio.sleep(1)

    changes = await changes_of(App(m), body)
    assert {change.module for change in changes} == {"m"}
    told = [(change.before, change.after, change.time) for change in changes]
    assert told[:5] == [
        (DEAD, PREPARING, 0),
        (PREPARING, OFFLINE, 0),
        (OFFLINE, STARTING, 0),
        (STARTING, ONLINE, 2),
        (ONLINE, STOPPING, 3),
    ]
    assert told[5] == (STOPPING, OFFLINE, 6)
    first = changes[0].seq
    assert [change.seq for change in changes] == list(range(first, first + len(changes)))


async def test_changes_tell_of_failures(autojump_clock: MockClock) -> None:
    """a change of the worst failure is a Change with the same status before and after."""
    m = Module("m")

    async def body() -> None:
        m.set_error("disk", "the disk is full")
        m.set_hint("net", "the net is slow")
        m.resolve("disk")
        m.resolve("net")
        await trio.lowlevel.checkpoint()

    changes = await changes_of(App(m), body)
    told = [
        (change.before, change.after, change.failure_before.id, change.failure_after.id)
        for change in changes
        if change.failure_before != change.failure_after
    ]
    assert told[0] == (ONLINE, ONLINE, "", "disk")
    assert told[-2:] == [(ONLINE, ONLINE, "disk", "net"), (ONLINE, ONLINE, "net", "")]


async def test_a_status_change_keeps_the_failure(autojump_clock: MockClock) -> None:
    """a change of status shows the failure of that moment, before and after alike."""
    m = Module("m")

    async def body() -> None:
        m.set_error("disk", "the disk is full")
        await trio.lowlevel.checkpoint()

    changes = await changes_of(App(m), body)
    assert all(
        change.failure_before == change.failure_after
        for change in changes
        if change.before is not change.after
    )
    stopping = next(change for change in changes if change.after is STOPPING)
    assert stopping.failure_after.id == "disk"


async def test_changes_of_a_crash(autojump_clock: MockClock) -> None:
    """a crash takes the module and its dependents out of ONLINE before any is OFFLINE."""
    db = Module("db", restart=Restart(backoff=Backoff(initial=1)))
    web = Module("web", depends_on=[db])
    app = App(db, web)

    async def body() -> None:
        db.nursery.start_soon(fail, ValueError("no"))
        await trio.sleep(5)

    changes = await changes_of(app, body)
    told = [
        (change.module, change.after) for change in changes if change.before is not change.after
    ]
    begin = next(index for index, (_, status) in enumerate(told) if status is STOPPING)
    assert sorted(told[begin : begin + 2]) == [("db", STOPPING), ("web", STOPPING)]
    assert told[begin + 2 : begin + 8] == [
        ("web", OFFLINE),
        ("db", OFFLINE),
        ("db", STARTING),
        ("db", ONLINE),
        ("web", STARTING),
        ("web", ONLINE),
    ]


async def test_what_a_change_says_has_happened(autojump_clock: MockClock) -> None:
    """changes arrive while the app runs, and their loop ends with the run."""
    m = Module("m")
    app = App(m)
    seen: list[tuple[ModuleStatus, float]] = []

    async def read(task_status: trio.TaskStatus[None]) -> None:
        async with app.changes() as changes:
            task_status.started()
            seen.extend([(change.after, trio.current_time()) async for change in changes])

    async with trio.open_nursery() as nursery:
        await nursery.start(read)
        async with app:
            await trio.sleep(4)
    assert (ONLINE, 0) in seen
    assert (STOPPING, 4) in seen


async def test_a_reader_of_changes_that_lags(autojump_clock: MockClock) -> None:
    """a full channel drops the oldest changes, counted; the gap shows in the numbers."""
    m = Module("m")
    app = App(m)
    async with app:
        async with app.changes(buffer=2) as changes:
            for number in range(5):
                m.set_error(f"error-{number}", "error")
            assert app.status().totals.changes_lost == 3
            kept = [changes.receive_nowait() for _ in range(2)]
            m.resolve_all()
        assert [change.failure_after.id for change in kept] == ["error-3", "error-4"]
        assert kept[1].seq == kept[0].seq + 1


async def test_the_default_buffer_of_changes(autojump_clock: MockClock) -> None:
    """a channel holds a hundred changes unless told otherwise."""
    m = Module("m")
    async with App(m) as app, app.changes() as changes:
        for number in range(101):
            m.set_error(str(number), "error")
        assert app.status().totals.changes_lost == 1
        assert changes.receive_nowait().failure_after.id == "1"


async def test_changes_of_a_failed_start(autojump_clock: MockClock) -> None:
    """the channel ends with a run that failed to start, after its last change."""
    m = Module("m")
    app = App(m)
    seen: list[ModuleStatus] = []

    @m.on_start
    async def start() -> None:
        raise ValueError("no")

    async with app.changes() as changes:
        with pytest.raises(StartError):
            async with app:
                raise AssertionError("the body must not run")
        seen.extend([change.after async for change in changes])
    assert ONLINE not in seen
    assert STARTING in seen


async def test_opening_changes_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """entering the channel's block is a checkpoint."""
    context = App().changes()
    with assert_checkpoints():
        await context.__aenter__()
    await context.__aexit__(None, None, None)


async def test_changes_of_each_run_are_numbered_anew(autojump_clock: MockClock) -> None:
    """in every run of the app the numbers begin with the same one."""

    async def body() -> None:
        await trio.lowlevel.checkpoint()

    app = App(Module("m"))
    first = [change.seq for change in await changes_of(app, body)]
    second = [change.seq for change in await changes_of(app, body)]
    assert first[0] == second[0]
