"""Management: what runs follows what is wished, whenever and by whomever the wishes change."""

from __future__ import annotations

import contextlib
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support import let_run, reports_of
from trio.testing import MockClock, assert_checkpoints

from trio_modules import (
    App,
    Backoff,
    GraphError,
    Module,
    ModuleOffline,
    ModuleStatus,
    Restart,
    ShutdownError,
    StartError,
    StopError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

OFFLINE, STOPPING = ModuleStatus.OFFLINE, ModuleStatus.STOPPING
STARTING, ONLINE = ModuleStatus.STARTING, ModuleStatus.ONLINE


def service(
    log: list[str], name: str, *, start: float = 0, stop: float = 0, **options: Any
) -> Module:
    """Return a module that takes its time to start and stop, and writes down how it goes."""
    module = Module(name, **options)

    @module.on_start
    async def begin() -> None:
        log.append(f"start {name}")
        await trio.sleep(start)
        log.append(f"started {name}")

    @module.on_stop
    async def end() -> None:
        log.append(f"stop {name}")
        await trio.sleep(stop)
        log.append(f"stopped {name}")

    return module


class Stubborn(Module):
    """A module whose stop can't be cancelled for some seconds."""

    def __init__(self, name: str, seconds: float, **options: Any) -> None:
        super().__init__(name, **options)
        self.seconds = seconds
        self.alive = 0
        self.most_alive = 0

        @self.lifespan
        async def one_copy() -> AsyncGenerator[None]:
            self.alive += 1
            self.most_alive = max(self.alive, self.most_alive)
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.seconds)
                self.alive -= 1


def failing_start(module: Module, *errors: BaseException) -> list[float]:
    """Make the first starts of a module fail; return when each start begins."""
    begun: list[float] = []
    left = list(errors)

    @module.on_start
    async def start() -> None:
        begun.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if left:
            raise left.pop(0)

    return begun


async def switch(app: App, *, on: tuple[Module, ...] = (), off: tuple[Module, ...] = ()) -> float:
    """Enable and disable modules, manage, and return how long that took."""
    before = trio.current_time()
    for module in on:
        module.enable()
    for module in off:
        module.disable()
    await app.manage()
    return trio.current_time() - before


def online(app: App) -> set[str]:
    return {module.name for module in app.modules.values() if module.online}


# --- wishes --------------------------------------------------------------------------------------


async def test_only_what_is_wanted_is_started(autojump_clock: MockClock) -> None:
    """a managed app starts the enabled modules and all that they depend on, nothing else."""
    log: list[str] = []
    net = service(log, "net")
    db = service(log, "db", depends_on=[net])
    web = service(log, "web", depends_on=["db"], enabled=True)
    extra = service(log, "extra", depends_on=[web])
    app = App(net, db, web, extra, managed=True)
    async with app:
        assert online(app) == {"net", "db", "web"}
        assert extra.status is OFFLINE
        await trio.sleep(10)
        assert online(app) == {"net", "db", "web"}
    assert [line for line in log if line.startswith("start ")] == [
        "start net",
        "start db",
        "start web",
    ]


async def test_a_soft_dependency_is_not_started_for_it(autojump_clock: MockClock) -> None:
    """what an enabled module merely wants isn't started on that account."""
    cache = Module("cache")
    web = Module("web", wants=[cache], enabled=True)
    app = App(cache, web, managed=True)
    async with app:
        assert online(app) == {"web"}
        assert not cache.enabled_as_dependency
        await switch(app, on=(cache,))
        assert online(app) == {"web", "cache"}


async def test_an_app_that_does_not_manage_starts_everything(autojump_clock: MockClock) -> None:
    """in an app that isn't managed every module is wanted, and wishes have no effect."""
    a, b = Module("a"), Module("b", enabled=True)
    app = App(a, b)
    async with app:
        assert online(app) == {"a", "b"}
        await switch(app, off=(a, b))
        assert online(app) == {"a", "b"}


async def test_nothing_enabled_is_said_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """a managed app without an enabled module says so, one with some doesn't."""
    caplog.set_level("INFO", "trio_modules")
    m = Module("m")
    app = App(m, managed=True)

    def said() -> list[str]:
        return [text for text in caplog.messages if "enabled" in text and "no" in text]

    async with app:
        assert online(app) == set()
        assert len(said()) == 1
    caplog.clear()
    m.enable()
    async with app:
        assert online(app) == {"m"}
    assert said() == []


async def test_wishes_say_whether_they_changed(autojump_clock: MockClock) -> None:
    """enable, disable and set_enabled return whether that was news."""
    m = Module("m")
    assert not m.enabled
    assert (m.enable(), m.enabled, m.enable()) == (True, True, False)
    assert (m.disable(), m.enabled, m.disable()) == (True, False, False)
    assert (m.set_enabled(True), m.enabled, m.set_enabled(True)) == (True, True, False)
    assert (m.set_enabled(False), m.enabled, m.set_enabled(False)) == (True, False, False)
    assert Module("other", enabled=True).enabled


async def test_enabled_as_a_dependency(autojump_clock: MockClock) -> None:
    """enabled_as_dependency says whether an enabled module depends on it, however far away."""
    net = Module("net")
    db = Module("db", depends_on=[net])
    web = Module("web", depends_on=[db])
    app = App(net, db, web, managed=True)
    async with app:
        assert not net.enabled_as_dependency
        await switch(app, on=(web,))
        states = [(m.enabled, m.enabled_as_dependency) for m in (net, db, web)]
        assert states == [(False, True), (False, True), (True, False)]
        await switch(app, on=(db,), off=(web,))
        states = [(m.enabled, m.enabled_as_dependency) for m in (net, db, web)]
        assert states == [(False, True), (True, False), (False, False)]


async def test_a_wish_alone_changes_nothing(autojump_clock: MockClock) -> None:
    """until somebody calls manage() what runs stays as it is."""
    a, b = Module("a", enabled=True), Module("b")
    app = App(a, b, managed=True)
    async with app:
        a.disable()
        b.enable()
        await trio.sleep(10)
        assert online(app) == {"a"}
        await app.manage()
        assert online(app) == {"b"}


# --- manage --------------------------------------------------------------------------------------


async def test_manage_starts_in_order(autojump_clock: MockClock) -> None:
    """manage starts what became wanted, dependencies first, and returns when it is online."""
    log: list[str] = []
    db = service(log, "db", start=2)
    web = service(log, "web", start=3, depends_on=[db])
    app = App(db, web, managed=True)
    async with app:
        assert await switch(app, on=(web,)) == 5
        assert online(app) == {"db", "web"}
        assert log == ["start db", "started db", "start web", "started web"]


async def test_manage_stops_in_order(autojump_clock: MockClock) -> None:
    """manage stops what isn't wanted any more, dependents first, and returns when it is off."""
    log: list[str] = []
    db = service(log, "db", stop=2)
    web = service(log, "web", stop=3, depends_on=[db], enabled=True)
    app = App(db, web, managed=True)
    async with app:
        log.clear()
        assert await switch(app, off=(web,)) == 5
        assert (db.status, web.status) == (OFFLINE, OFFLINE)
        assert log == ["stop web", "stopped web", "stop db", "stopped db"]


async def test_what_others_need_stays(autojump_clock: MockClock) -> None:
    """a dependency runs on while an enabled module depends on it, disabled or not."""
    log: list[str] = []
    db = service(log, "db", enabled=True)
    web = service(log, "web", depends_on=[db], enabled=True)
    mail = service(log, "mail", depends_on=[db], enabled=True)
    app = App(db, web, mail, managed=True)
    async with app:
        log.clear()
        await switch(app, off=(db, web))
        assert online(app) == {"db", "mail"}
        assert log == ["stop web", "stopped web"]


async def test_stopping_comes_before_starting(autojump_clock: MockClock) -> None:
    """what has to stop is offline before anything new is started, related or not."""
    log: list[str] = []
    old = service(log, "old", stop=3, enabled=True)
    new = service(log, "new", start=2)
    app = App(old, new, managed=True)
    async with app:
        log.clear()
        assert await switch(app, on=(new,), off=(old,)) == 5
        assert log == ["stop old", "stopped old", "start new", "started new"]


async def test_a_dependency_is_handed_over(autojump_clock: MockClock) -> None:
    """a dependency of the old and of the new module isn't restarted in between."""
    log: list[str] = []
    db = service(log, "db")
    old = service(log, "old", depends_on=[db], enabled=True)
    new = service(log, "new", depends_on=[db])
    app = App(db, old, new, managed=True)
    async with app:
        await switch(app, on=(new,), off=(old,))
        assert online(app) == {"db", "new"}
        assert log.count("start db") == 1
        assert "stop db" not in log


async def test_independent_modules_start_concurrently(autojump_clock: MockClock) -> None:
    """one slow module doesn't hold back those that have nothing to do with it."""
    log: list[str] = []
    slow = service(log, "slow", start=10)
    quick = service(log, "quick", start=1)
    on_quick = service(log, "on_quick", start=1, depends_on=[quick])
    app = App(slow, quick, on_quick, managed=True)
    async with app:
        assert await switch(app, on=(slow, on_quick)) == 10
    assert log.index("started on_quick") < log.index("started slow")


async def test_manage_with_nothing_to_do(autojump_clock: MockClock) -> None:
    """manage is a checkpoint, also when everything is as wished."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)
    async with app:
        with assert_checkpoints():
            await app.manage()
        assert m.online


# --- the newest wish wins ------------------------------------------------------------------------


async def test_a_start_that_is_no_longer_wanted_is_cancelled(autojump_clock: MockClock) -> None:
    """disabling a module that is starting cancels its start; nobody waits for it or complains."""
    log: list[str] = []
    m = service(log, "m", start=10)
    app = App(m, managed=True)
    took: list[float] = []

    async def enable() -> None:
        took.append(await switch(app, on=(m,)))

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enable)
            await trio.sleep(1)
            took.append(await switch(app, off=(m,)))
        assert m.status is OFFLINE
        assert sorted(took) == [0, 1]
        assert dict(m.failures) == {}

    assert await reports_of(app, body) == []
    assert log == ["start m"]


async def test_a_cancelled_start_takes_its_dependencies_down(autojump_clock: MockClock) -> None:
    """what was started only for a module that is no longer wanted is stopped again."""
    log: list[str] = []
    db = service(log, "db")
    web = service(log, "web", start=10, depends_on=[db])
    app = App(db, web, managed=True)
    async with app, trio.open_nursery() as nursery:
        web.enable()
        nursery.start_soon(app.manage)
        await trio.sleep(1)
        await switch(app, off=(web,))
        assert (db.status, web.status) == (OFFLINE, OFFLINE)
    assert log == ["start db", "started db", "start web", "stop db", "stopped db"]


async def test_a_module_is_enabled_again_while_it_stops(autojump_clock: MockClock) -> None:
    """a module that is wanted again stops to the end, then starts: both callers return."""
    log: list[str] = []
    m = service(log, "m", start=2, stop=5, enabled=True)
    app = App(m, managed=True)
    async with app, trio.open_nursery() as nursery:
        log.clear()
        m.disable()
        nursery.start_soon(app.manage)
        await trio.sleep(1)
        assert m.status is STOPPING
        assert await switch(app, on=(m,)) == 4 + 2
        assert m.online
        assert log == ["stop m", "stopped m", "start m", "started m"]


async def test_a_module_is_enabled_again_while_its_start_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    """a cancelled start unwinds to the end before the next one begins."""
    m = Module("m")
    app = App(m, managed=True)
    log: list[tuple[str, float]] = []

    @m.on_start
    async def start() -> None:
        log.append(("begins", trio.current_time()))
        try:
            await trio.sleep(10 if len(log) == 1 else 0)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            log.append(("unwound", trio.current_time()))
            raise

    async with app, trio.open_nursery() as nursery:
        m.enable()
        nursery.start_soon(app.manage)
        await trio.sleep(1)
        m.disable()
        nursery.start_soon(app.manage)
        await trio.sleep(1)
        await switch(app, on=(m,))
        assert m.online
    assert log == [("begins", 0), ("unwound", 4), ("begins", 4)]


async def test_of_many_wishes_the_last_counts(autojump_clock: MockClock) -> None:
    """wishes that change to and fro without a pause leave what was wished last."""
    log: list[str] = []
    m = service(log, "m", start=1, stop=1)
    app = App(m, managed=True)
    async with app, trio.open_nursery() as nursery:
        for number in range(9):
            m.set_enabled(number % 2 == 0)
            nursery.start_soon(app.manage)
            await trio.lowlevel.checkpoint()
        await trio.sleep(10)
        assert m.online
    assert log[-2:] == ["stop m", "stopped m"]


async def test_two_callers_wish_the_same(autojump_clock: MockClock) -> None:
    """callers that ask at a time all return when it is done, and it is done once."""
    log: list[str] = []
    m = service(log, "m", start=3)
    app = App(m, managed=True)
    took: list[float] = []

    async def ask() -> None:
        took.append(await switch(app, on=(m,)))

    async with app:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert took == [3, 3, 3]
    assert log.count("start m") == 1


async def test_nobody_waits_for_the_modules_of_others(autojump_clock: MockClock) -> None:
    """a caller doesn't wait for what was wished after its call."""
    log: list[str] = []
    quick = service(log, "quick", start=2)
    slow = service(log, "slow", start=10)
    leaving = service(log, "leaving", stop=20, enabled=True)
    app = App(quick, slow, leaving, managed=True)
    took: dict[str, float] = {}

    async def enable(module: Module) -> None:
        took[module.name] = await switch(app, on=(module,))

    async with app:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enable, quick)
            await trio.sleep(1)
            nursery.start_soon(enable, slow)
            await let_run()
            leaving.disable()
            nursery.start_soon(app.manage)
        assert took == {"quick": 2, "slow": 10}
        assert trio.current_time() == 21


async def test_a_start_does_not_wait_for_what_others_stop(autojump_clock: MockClock) -> None:
    """what an earlier call stops holds up what that call starts, and nothing else."""
    log: list[str] = []
    slow = service(log, "slow", stop=20, enabled=True)
    heir = service(log, "heir")
    again = service(log, "again", enabled=True)
    new = service(log, "new")
    app = App(slow, heir, again, new, managed=True)
    at: dict[str, float] = {}

    async def note(module: Module) -> None:
        await module.wait_online()
        at[module.name] = trio.current_time()

    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(partial(switch, app, on=(heir,), off=(slow, again)))
        await trio.sleep(1)
        for module in (heir, again, new):
            nursery.start_soon(note, module)
        assert await switch(app, on=(again,)) == 19
        assert await switch(app, on=(new,)) == 0
        await let_run()
    assert at == {"again": 1, "heir": 20, "new": 20}


async def test_what_is_held_up_may_be_wished_again(autojump_clock: MockClock) -> None:
    """by whomever: it still waits for what was to stop before it."""
    log: list[str] = []
    old = service(log, "old", stop=20, enabled=True)
    new = service(log, "new")
    app = App(old, new, managed=True)
    async with app, trio.open_nursery() as nursery:
        log.clear()
        nursery.start_soon(partial(switch, app, on=(new,), off=(old,)))
        await trio.sleep(1)
        await switch(app, off=(new,))
        assert trio.current_time() == 20
        nursery.start_soon(partial(switch, app, on=(new,)))
        await trio.sleep(1)
    assert log[:4] == ["stop old", "stopped old", "start new", "started new"]


async def test_a_start_that_fails_while_another_stop_goes_on(autojump_clock: MockClock) -> None:
    """it is tried once, and its error is raised when all is done."""
    log: list[str] = []
    slow = service(log, "slow", stop=20, enabled=True)
    bad = Module("bad")
    tries = failing_start(bad, ValueError("bad"), ValueError("bad"))
    app = App(slow, bad, managed=True)
    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(partial(switch, app, off=(slow,)))
        await trio.sleep(1)
        with pytest.raises(StartError):
            await switch(app, on=(bad,))
        assert (trio.current_time(), tries) == (20, [1])


async def test_nobody_returns_early_because_of_others(autojump_clock: MockClock) -> None:
    """a caller gets what it wished, whatever others wish or manage in the same moment."""
    log: list[str] = []
    modules = [service(log, f"m{number}", start=5) for number in range(10)]
    other = Module("other", enabled=True)
    app = App(*modules, other, managed=True)
    seen: list[bool] = []

    async def enable(module: Module) -> None:
        await switch(app, on=(module,))
        seen.append(module.online)

    async def interfere() -> None:
        await trio.lowlevel.checkpoint()
        other.enable()

    async with app:
        for module in modules:  # the order in which tasks run is random: ten times is enough
            async with trio.open_nursery() as nursery:
                nursery.start_soon(enable, module)
                nursery.start_soon(interfere)
                nursery.start_soon(app.manage)
    assert seen == [True] * 10


async def test_a_wish_that_someone_else_took_back(autojump_clock: MockClock) -> None:
    """who waits for a module that another caller disables isn't left waiting."""
    slow = Module("slow")
    app = App(slow, managed=True)

    @slow.on_start
    async def start() -> None:
        await trio.sleep(10)

    returned: list[float] = []

    async def enable() -> None:
        await switch(app, on=(slow,))
        returned.append(trio.current_time())

    async with app:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enable)
            await trio.sleep(2)
            await switch(app, off=(slow,))
        assert returned == [2]


async def test_a_shutdown_wins_over_a_start(autojump_clock: MockClock) -> None:
    """a shutdown doesn't wait for what manage is starting: that is cancelled."""
    log: list[str] = []
    other = service(log, "other", enabled=True)
    m = service(log, "m", start=50)
    app = App(other, m, managed=True)
    async with app:
        log.clear()
        m.enable()
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + 1
            await app.manage()
    assert trio.current_time() == 1
    assert log == ["start m", "stop other", "stopped other"]


async def test_manage_during_the_shutdown(autojump_clock: MockClock) -> None:
    """once the app shuts down manage starts nothing any more, and doesn't wait for ever."""
    log: list[str] = []
    m = service(log, "m")
    other = service(log, "other", enabled=True)
    app = App(m, other, managed=True)

    async def manage_late() -> None:
        await app.shutting_down.wait()
        m.enable()
        with trio.CancelScope(shield=True), trio.move_on_after(5):
            await app.manage()

    async with app:
        other.start_worker(manage_late, grace_period=10)
        await let_run()
    assert "start m" not in log


def wanted(app: App) -> set[str]:
    modules = app.modules.values()
    return {module.name for module in modules if module.enabled or module.enabled_as_dependency}


class Wishers:
    """Callers that enable and disable modules and look at what they get."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.history: list[set[str]] = []
        self.broken: list[str] = []

    async def wish(self, module: Module, enabled: bool) -> None:
        """Change one wish; on return it has come true, unless somebody changed it since then."""
        module.set_enabled(enabled)
        asked = len(self.history)
        self.history.append(wanted(self.app))
        await self.app.manage()
        wishes = {module.name in wish for wish in self.history[asked:]}
        if len(wishes) == 1 and module.online not in wishes:
            self.broken.append(f"{module.name} is {module.status.name}, wished: {wishes}")

    def check_dependencies(self) -> None:
        for name, module in self.app.modules.items():
            if module.online and not all(other.online for other in module.dependencies):
                self.broken.append(f"{name} is online without its dependencies")


@pytest.mark.parametrize("seed", range(6))
async def test_random_wishes(autojump_clock: MockClock, seed: int) -> None:
    """whatever the wishes, the order and the timing: every caller gets what it wished."""
    rng = random.Random(seed)
    log: list[str] = []
    modules: list[Module] = []
    for number in range(8):
        depends_on = rng.sample(modules, min(len(modules), rng.randrange(3)))
        start, stop = rng.random(), rng.random()
        modules.append(service(log, f"m{number}", start=start, stop=stop, depends_on=depends_on))
    app = App(*modules, managed=True)
    wishers = Wishers(app)
    async with app:
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                for _ in range(60):
                    nursery.start_soon(wishers.wish, rng.choice(modules), rng.random() < 0.5)
                    await trio.sleep(rng.choice([0, 0.1, 1]) * rng.random())
                    wishers.check_dependencies()
        assert online(app) == wanted(app)
    assert wishers.broken == []
    for name in app.modules:
        assert log.count(f"started {name}") == log.count(f"stopped {name}")
    assert len(log) > 15


# --- who calls -----------------------------------------------------------------------------------


async def test_a_module_manages_itself_away(autojump_clock: MockClock) -> None:
    """a worker may disable its own module and call manage: it is cancelled, the work is done."""
    log: list[str] = []
    db = service(log, "db")
    web = service(log, "web", depends_on=[db], enabled=True)
    app = App(db, web, managed=True)

    async def leave() -> None:
        try:
            await switch(app, off=(web,))
        except trio.Cancelled:
            log.append("cancelled")
            raise

    async def body() -> None:
        web.start_worker(leave)
        await trio.sleep(1)
        assert (db.status, web.status) == (OFFLINE, OFFLINE)
        assert not app.shutting_down.is_set()

    assert await reports_of(app, body) == []
    assert log[-5:] == ["cancelled", "stop web", "stopped web", "stop db", "stopped db"]


async def test_a_module_replaces_itself(autojump_clock: MockClock) -> None:
    """a worker may disable its own module and enable another one in one go."""
    old, new = Module("old", enabled=True), Module("new")
    app = App(old, new, managed=True)

    async def replace() -> None:
        await switch(app, on=(new,), off=(old,))

    async with app:
        old.start_worker(replace)
        await let_run()
        assert online(app) == {"new"}


async def test_a_cancelled_caller_does_not_stop_it(autojump_clock: MockClock) -> None:
    """a caller that is cancelled leaves, and what it began is carried to its end."""
    log: list[str] = []
    old = service(log, "old", stop=3, enabled=True)
    new = service(log, "new", start=3)
    app = App(old, new, managed=True)
    async with app:
        with trio.move_on_after(1) as scope:
            await switch(app, on=(new,), off=(old,))
        assert scope.cancelled_caught
        assert trio.current_time() == 1
        await trio.sleep(6)
        assert online(app) == {"new"}


async def test_a_caller_that_is_cancelled_already(autojump_clock: MockClock) -> None:
    """manage in a cancelled scope raises Cancelled, and the wishes come true all the same."""
    m = Module("m")
    app = App(m, managed=True)
    async with app:
        with trio.CancelScope() as scope:
            scope.cancel()
            await switch(app, on=(m,))
        assert scope.cancelled_caught
        await app.manage()
        assert m.online


async def test_managing_on_every_change(autojump_clock: MockClock) -> None:
    """a reader of changes may call manage at each of them: it never waits for itself."""
    a, b = Module("a", enabled=True), Module("b")
    app = App(a, b, managed=True)
    managed: list[str] = []

    async def manage_on_changes(task_status: trio.TaskStatus[None]) -> None:
        async with app.changes() as changes:
            task_status.started()
            async for change in changes:
                await app.manage()
                managed.append(change.module)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(manage_on_changes)
        with trio.fail_after(10):
            await switch(app, on=(b,), off=(a,))
            await let_run()
        assert online(app) == {"b"}
        assert set(managed) == {"a", "b"}
        nursery.cancel_scope.cancel()


async def test_a_module_that_manages_others(autojump_clock: MockClock) -> None:
    """a worker of one module may manage the others and sees the result."""
    boss, worker = Module("boss", enabled=True), Module("worker")
    app = App(boss, worker, managed=True)
    seen: list[ModuleStatus] = []

    async def lead() -> None:
        await switch(app, on=(worker,))
        seen.append(worker.status)
        await switch(app, off=(worker,))
        seen.append(worker.status)

    async with app:
        await boss.run_worker(lead)
    assert seen == [ONLINE, OFFLINE]


def in_prep(module: Module, act: Callable[[], Awaitable[None]]) -> None:
    module.on_prep(act)


def in_start(module: Module, act: Callable[[], Awaitable[None]]) -> None:
    module.on_start(act)


def on_entering_a_lifespan(module: Module, act: Callable[[], Awaitable[None]]) -> None:
    @module.lifespan
    async def acting() -> AsyncGenerator[None]:
        await act()
        yield


@pytest.mark.parametrize("place", [in_prep, in_start, on_entering_a_lifespan])
async def test_manage_while_starting(
    autojump_clock: MockClock, place: Callable[[Module, Callable[[], Awaitable[None]]], None]
) -> None:
    """manage in a function that a start waits for raises RuntimeError instead of waiting."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)

    async def act() -> None:
        await app.manage()

    place(m, act)
    with pytest.raises(StartError) as caught:
        async with app:
            raise AssertionError("the body must not run")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "manage" in str(caught.value.__cause__)
    assert trio.current_time() == 0


async def test_manage_from_outside_during_the_start(autojump_clock: MockClock) -> None:
    """who manages from outside while the app still prepares waits for that, then it is done."""
    late = Module("late")
    m = Module("m", enabled=True)
    app = App(m, late, managed=True)
    done: list[float] = []

    @m.on_prep
    async def prep() -> None:
        await trio.sleep(3)

    async def outsider() -> None:
        await trio.sleep(1)
        await switch(app, on=(late,))
        assert late.online
        done.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outsider)
        async with app:
            await let_run()
            assert online(app) == {"m", "late"}
    assert done == [3]


async def test_manage_in_the_apps_prep(autojump_clock: MockClock) -> None:
    """manage in the app's prep raises RuntimeError, too."""
    apps: list[App] = []

    async def prep() -> None:
        await apps[0].manage()

    apps.append(App(Module("m"), prep=prep))
    with trio.fail_after(10), pytest.raises(StartError) as caught:
        async with apps[0]:
            raise AssertionError("the body must not run")
    assert isinstance(caught.value.__cause__, RuntimeError)


def in_stop(module: Module, act: Callable[[], Awaitable[None]]) -> None:
    module.on_stop(act)


def on_leaving_a_lifespan(module: Module, act: Callable[[], Awaitable[None]]) -> None:
    @module.lifespan
    async def acting() -> AsyncGenerator[None]:
        yield
        await act()


@pytest.mark.parametrize("place", [in_stop, on_leaving_a_lifespan])
async def test_manage_while_stopping(
    autojump_clock: MockClock, place: Callable[[Module, Callable[[], Awaitable[None]]], None]
) -> None:
    """manage in a function that a stop waits for raises RuntimeError instead of waiting."""
    m = Module("m", enabled=True)
    app = App(m, managed=True)

    async def act() -> None:
        await app.manage()

    place(m, act)
    with pytest.raises(ShutdownError) as caught:
        async with app:
            await trio.lowlevel.checkpoint()
    (stop_error,) = caught.value.exceptions
    assert isinstance(stop_error, StopError)
    assert isinstance(stop_error.exceptions[0], RuntimeError)
    assert trio.current_time() == 0


# --- errors --------------------------------------------------------------------------------------


async def test_a_failed_start_is_reported_and_raised(autojump_clock: MockClock) -> None:
    """a module that fails to start doesn't end the app: manage raises it, and reports it once."""
    m = Module("m")
    app = App(m, managed=True)
    error = ValueError("no")
    failing_start(m, error)

    async def body() -> None:
        with pytest.raises(StartError) as caught:
            await switch(app, on=(m,))
        assert (caught.value.module, caught.value.__cause__) == ("m", error)
        assert m.status is OFFLINE
        assert m.enabled
        assert not app.shutting_down.is_set()

    (report,) = await reports_of(app, body)
    assert (report.module, report.task_type) == ("m", "control")
    assert error in {report.exception, getattr(report.exception, "__cause__", None)}


async def test_the_rest_of_the_work_is_still_done(autojump_clock: MockClock) -> None:
    """one failure keeps neither the other starts nor the stops from being done."""
    log: list[str] = []
    old = service(log, "old", enabled=True)
    good = service(log, "good", start=5)
    on_good = service(log, "on_good", depends_on=[good])
    bad = Module("bad")
    on_bad = service(log, "on_bad", depends_on=[bad])
    failing_start(bad, ValueError("no"))
    app = App(old, good, on_good, bad, on_bad, managed=True)
    async with app:
        with pytest.raises(StartError) as caught:
            await switch(app, on=(on_good, on_bad), off=(old,))
        assert caught.value.module == "bad"
        assert online(app) == {"good", "on_good"}
        assert "start on_bad" not in log


async def test_of_several_errors_the_first_is_raised(autojump_clock: MockClock) -> None:
    """when several modules fail, the first failure is raised and all are reported."""
    late, early = Module("late"), Module("early")
    app = App(late, early, managed=True)
    for module, seconds in ((late, 2), (early, 1)):

        async def start(seconds: float = seconds) -> None:
            await trio.sleep(seconds)
            raise ValueError("no")

        module.on_start(start)

    async def body() -> None:
        with pytest.raises(StartError) as caught:
            await switch(app, on=(late, early))
        assert caught.value.module == "early"

    reports = await reports_of(app, body)
    assert [report.module for report in reports] == ["early", "late"]


async def test_a_failed_start_is_tried_again_at_the_next_call(autojump_clock: MockClock) -> None:
    """a failed start isn't repeated by itself, but by the next call of manage."""
    m = Module("m")
    app = App(m, managed=True)
    begun = failing_start(m, ValueError(1), ValueError(2))
    async with app:
        with pytest.raises(StartError):
            await switch(app, on=(m,))
        await trio.sleep(1000)
        assert begun == [0]
        with pytest.raises(StartError):
            await app.manage()
        assert begun == [0, 1000]
        await app.manage()
        assert begun == [0, 1000, 1000]
        assert m.online


async def test_the_dependents_of_a_failed_start_follow(autojump_clock: MockClock) -> None:
    """when a failed start succeeds at the next call, what depends on it is started, too."""
    db = Module("db")
    web = Module("web", depends_on=[db])
    failing_start(db, ValueError("no"))
    app = App(db, web, managed=True)
    async with app:
        with pytest.raises(StartError):
            await switch(app, on=(web,))
        assert online(app) == set()
        await app.manage()
        assert online(app) == {"db", "web"}


async def test_what_a_failed_start_leaves_running_is_stopped_with_it(
    autojump_clock: MockClock,
) -> None:
    """dependencies of a module that failed to start are stopped once it is disabled."""
    db = Module("db")
    web = Module("web", depends_on=[db])
    failing_start(web, ValueError("no"))
    app = App(db, web, managed=True)
    async with app:
        with pytest.raises(StartError):
            await switch(app, on=(web,))
        await switch(app, off=(web,))
        assert (db.status, web.status) == (OFFLINE, OFFLINE)


async def test_a_start_that_runs_out_of_time(autojump_clock: MockClock) -> None:
    """a start under management has its time limit and says where it was waiting."""
    m = Module("m", start_timeout=7)
    app = App(m, managed=True)

    @m.on_start
    async def wait_for_the_postman() -> None:
        await trio.sleep_forever()

    async with app:
        with pytest.raises(StartError, match="wait_for_the_postman"):
            await switch(app, on=(m,))
        assert trio.current_time() == 7
        assert m.status is OFFLINE


async def test_a_failed_stop_is_reported_and_raised(autojump_clock: MockClock) -> None:
    """a stop function's exception is raised by manage as a StopError; the rest is done."""
    log: list[str] = []
    db = service(log, "db")
    web = Module("web", depends_on=[db], enabled=True)
    new = service(log, "new")
    app = App(db, web, new, managed=True)
    error = ValueError("no")

    @web.on_stop
    async def stop() -> None:
        raise error

    async def body() -> None:
        with pytest.raises(StopError) as caught:
            await switch(app, on=(new,), off=(web,))
        assert (caught.value.module, caught.value.exceptions) == ("web", (error,))
        assert web.status is OFFLINE
        assert online(app) == {"new"}

    reports = await reports_of(app, body)
    assert [report.module for report in reports] == ["web"]


async def test_a_stop_that_runs_out_of_time(autojump_clock: MockClock) -> None:
    """at the stop timeout manage raises a StopError, and the others go on as if it were off."""
    log: list[str] = []
    db = service(log, "db")
    web = Stubborn("web", 60, depends_on=[db], enabled=True, stop_timeout=5)
    app = App(db, web, managed=True)
    async with app:
        with pytest.raises(StopError) as caught:
            await switch(app, off=(web,))
        assert trio.current_time() == 5
        assert caught.value.module == "web"
        assert "one_copy" in caught.value.hanging
        assert web.status is STOPPING
        assert db.status is OFFLINE
        await web.wait_status(OFFLINE)


async def test_a_leftover_is_never_joined_by_a_second_copy(autojump_clock: MockClock) -> None:
    """a module whose stop hangs isn't started before it ended; until then manage raises."""
    m = Stubborn("m", 60, enabled=True, stop_timeout=5)
    app = App(m, managed=True)
    async with app:
        with pytest.raises(StopError) as first:
            await switch(app, off=(m,))
        with pytest.raises(StopError) as second:
            await switch(app, on=(m,))
        assert second.value.module == first.value.module == "m"
        assert trio.current_time() == 5
        assert m.status is STOPPING
        await trio.sleep(60)
        await app.manage()
        assert m.online
        m.seconds = 0
    assert m.most_alive == 1


async def test_the_leftover_of_one_does_not_hinder_others(autojump_clock: MockClock) -> None:
    """while a leftover is waited for, manage still does what else is wished."""
    m = Stubborn("m", 60, enabled=True, stop_timeout=5)
    other = Module("other")
    app = App(m, other, managed=True)
    async with app:
        with pytest.raises(StopError):
            await switch(app, off=(m,))
        with pytest.raises(StopError):
            await switch(app, on=(other,))
        assert other.online
        assert trio.current_time() == 5
        await m.wait_status(OFFLINE)


# --- restart -------------------------------------------------------------------------------------


async def test_restart_takes_the_dependents_along(autojump_clock: MockClock) -> None:
    """restart stops a module and its dependents in order and starts them again, nothing else."""
    log: list[str] = []
    net = service(log, "net")
    db = service(log, "db", start=1, stop=1, depends_on=[net])
    web = service(log, "web", start=1, stop=1, depends_on=[db])
    other = service(log, "other", depends_on=[net])
    app = App(net, db, web, other)
    async with app:
        log.clear()
        before = trio.current_time()
        await app.restart(db)
        assert trio.current_time() == before + 4
        assert online(app) == {"net", "db", "web", "other"}
        assert log == [
            "stop web",
            "stopped web",
            "stop db",
            "stopped db",
            "start db",
            "started db",
            "start web",
            "started web",
        ]


async def test_restart_waits_for_the_slowest_dependent(autojump_clock: MockClock) -> None:
    """a dependent that has stopped isn't started again before the restarted module is back."""
    log: list[str] = []
    db = service(log, "db")
    quick = service(log, "quick", depends_on=[db])
    slow = service(log, "slow", stop=5, depends_on=[db])
    app = App(db, quick, slow)
    async with app:
        log.clear()
        with trio.fail_after(100):
            await app.restart(db)
        assert trio.current_time() == 5
        assert online(app) == {"db", "quick", "slow"}
        lines = ("stopped quick", "stopped slow", "stop db", "start db", "start quick")
        times = [log.index(line) for line in lines]
        assert times == sorted(times)


async def test_a_dependent_added_during_a_restart(autojump_clock: MockClock) -> None:
    """what comes to depend on a module that is being restarted starts when that is back."""
    log: list[str] = []
    db = service(log, "db")
    slow = service(log, "slow", stop=5, depends_on=[db])
    app = App(db, slow)
    async with app, trio.open_nursery() as nursery:
        log.clear()
        nursery.start_soon(app.restart, db)
        await trio.sleep(1)
        with trio.fail_after(100):
            await app.add(service(log, "late", depends_on=[db]))
        assert trio.current_time() == 5
        assert log.index("started db") < log.index("start late")


async def test_overlapping_restarts(autojump_clock: MockClock) -> None:
    """restarts of a module and of its dependents that overlap all return, and all is online."""
    log: list[str] = []
    db = service(log, "db", stop=1)
    web = service(log, "web", start=1, stop=3, depends_on=[db])
    page = service(log, "page", stop=1, depends_on=[web])
    other = service(log, "other", start=2, stop=2, depends_on=[db])
    app = App(db, web, page, other)
    async with app:
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                for module in (web, db, page, other, db):
                    nursery.start_soon(app.restart, module)
                    await trio.sleep(1.25)
        assert online(app) == {"db", "web", "page", "other"}


async def test_a_dependent_flickers_during_a_restart(autojump_clock: MockClock) -> None:
    """a restart goes on although dependents are disabled and enabled again before their turn."""
    log: list[str] = []
    db = service(log, "db", enabled=True)
    web = service(log, "web", depends_on=[db], enabled=True)
    page = service(log, "page", stop=5, depends_on=[web], enabled=True)
    app = App(db, web, page, managed=True)
    async with app:
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(app.restart, db)
                await trio.sleep(1)
                for wish in (False, True):
                    web.set_enabled(wish)
                    page.set_enabled(wish)
                    nursery.start_soon(app.manage)
                    await trio.sleep(1)
        assert online(app) == {"db", "web", "page"}
    assert log.count("start db") == 2


async def test_a_start_whose_dependency_crashes(autojump_clock: MockClock) -> None:
    """a module doesn't come online on a crashed dependency, even if its stop has to wait."""
    log: list[str] = []
    restart = Restart(backoff=Backoff(initial=100))
    db = service(log, "db", restart=restart, enabled=True)
    web = service(log, "web", start=3, depends_on=[db])
    fan = service(log, "fan", stop=20, wants=[web], enabled=True)
    app = App(db, web, fan, managed=True)

    async def crash() -> None:
        raise ValueError("no")

    async with app, trio.open_nursery() as nursery:
        fan.disable()
        nursery.start_soon(app.manage)
        await trio.sleep(1)
        nursery.start_soon(app.add, service(log, "user", depends_on=[web], enabled=True))
        await trio.sleep(1)
        assert (web.status, fan.status) == (STARTING, STOPPING)
        db.nursery.start_soon(crash)
        for _ in range(25):
            await trio.sleep(1)
            assert online(app) == set()
        nursery.cancel_scope.cancel()


async def test_restart_says_why(autojump_clock: MockClock) -> None:
    """the reason of a restart reaches the workers that it cancels."""
    m = Module("m")
    app = App(m)
    reasons: list[str | None] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            reasons.append(cancelled.reason)
            raise

    async with app:
        m.start_worker(work)
        await let_run()
        await app.restart(m, reason="new certificate")
    assert "new certificate" in str(reasons[0])
    assert "module 'm' is stopping" in str(reasons[0])


async def test_restart_gives_the_usual_grace(autojump_clock: MockClock) -> None:
    """a restart isn't a crash: workers have their grace, the budget isn't touched."""
    m = Module("m", restart=Restart(max_restarts=0))
    app = App(m)
    m.worker(trio.sleep_forever, grace_period=3)
    async with app:
        for _ in range(3):
            await app.restart(m)
            assert m.online
        assert trio.current_time() == 9


async def test_restart_by_a_worker_of_the_module(autojump_clock: MockClock) -> None:
    """a module may restart itself: the worker that asked is cancelled, the restart done."""
    log: list[str] = []
    m = service(log, "m")
    app = App(m)

    async def ask() -> None:
        await app.restart(m)

    async def body() -> None:
        m.start_worker(ask)
        await trio.sleep(1)
        assert m.online

    assert await reports_of(app, body) == []
    assert log.count("start m") == 2


async def test_a_cancelled_caller_does_not_stop_a_restart(autojump_clock: MockClock) -> None:
    """a restart is carried to its end although its caller left."""
    log: list[str] = []
    m = service(log, "m", start=2, stop=2)
    app = App(m)
    async with app:
        log.clear()
        with trio.move_on_after(1):
            await app.restart(m)
        await trio.sleep(10)
        assert m.online
        assert log == ["stop m", "stopped m", "start m", "started m"]


async def test_two_callers_restart_the_same(autojump_clock: MockClock) -> None:
    """callers that restart the same module at a time both return with it online."""
    log: list[str] = []
    m = service(log, "m", start=1, stop=1)
    app = App(m)
    seen: list[ModuleStatus] = []

    async def restart() -> None:
        await app.restart(m)
        seen.append(m.status)

    async with app:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            nursery.start_soon(restart)
        assert seen == [ONLINE, ONLINE]


async def test_a_restart_whose_start_fails(autojump_clock: MockClock) -> None:
    """a failed start of a restart is reported and raised to its caller."""
    db = Module("db")
    web = Module("web", depends_on=[db])
    app = App(db, web, managed=True)
    errors: list[BaseException] = []

    @db.on_start
    async def start() -> None:
        await trio.lowlevel.checkpoint()
        for error in errors:
            raise error

    async def body() -> None:
        await switch(app, on=(web,))
        errors.append(ValueError("no"))
        with pytest.raises(StartError) as caught:
            await app.restart(db)
        assert caught.value.module == "db"
        assert (db.status, web.status) == (OFFLINE, OFFLINE)
        errors.clear()
        await app.manage()
        assert online(app) == {"db", "web"}

    assert len(await reports_of(app, body)) == 1


async def test_a_restart_whose_dependents_wait_for_others_too(autojump_clock: MockClock) -> None:
    """a failed restart returns although a far dependent waits for a module in its backoff, too."""
    crashing = Module("crashing", restart=Restart(backoff=Backoff(initial=100)))
    base = Module("base")
    between = Module("between", depends_on=[base])
    web = Module("web", depends_on=[crashing, between])
    app = App(crashing, base, between, web)
    errors: list[BaseException] = []

    @base.on_start
    async def start() -> None:
        for error in errors:
            raise error

    async def crash() -> None:
        raise ValueError("crash")

    async with app:
        crashing.nursery.start_soon(crash)
        await trio.sleep(1)
        errors.append(ValueError("no"))
        with trio.fail_after(1000), pytest.raises(StartError) as caught:
            await app.restart(base)
        assert caught.value.module == "base"


@pytest.mark.parametrize("how", ["manage", "restart"])
async def test_a_module_out_of_budget_gets_a_new_one(autojump_clock: MockClock, how: str) -> None:
    """a module that gave up and stays offline is brought back by manage() or restart()."""
    restart = Restart(max_restarts=1, backoff=Backoff(initial=1), exhausted="offline")
    m = Module("m", restart=restart)
    web = Module("web", depends_on=[m])
    app = App(m, web)

    async def crash() -> None:
        raise ValueError("no")

    async def come_back() -> None:
        if how == "manage":
            await app.manage()
        else:
            await app.restart(m)

    async with app:
        for _ in range(2):
            m.nursery.start_soon(crash)
            await trio.sleep(2)
            assert m.online  # within its budget
            m.nursery.start_soon(crash)
            await trio.sleep(1000)
            assert (m.status, web.status) == (OFFLINE, OFFLINE)
            await come_back()
            assert online(app) == {"m", "web"}
            assert dict(m.failures) == {}


# --- add and remove ------------------------------------------------------------------------------


async def test_added_modules_are_prepared_and_started(autojump_clock: MockClock) -> None:
    """add prepares and starts new modules in order and returns when they are online."""
    log: list[str] = []
    db = service(log, "db")
    cache = service(log, "cache", start=1, depends_on=[db])
    web = service(log, "web", start=1, depends_on=["cache"])

    @web.on_prep
    async def prep() -> None:
        log.append("prep web")

    app = App(db)
    async with app:
        log.clear()
        await app.add(web, cache)
        assert trio.current_time() == 2
        assert online(app) == {"db", "cache", "web"}
        assert app["web"] is web
        assert list(app.modules) == ["db", "web", "cache"]
        assert log[0] == "prep web"
        assert log[1:] == ["start cache", "started cache", "start web", "started web"]
        log.clear()
    assert log == [
        "stop web",
        "stopped web",
        "stop cache",
        "stopped cache",
        "stop db",
        "stopped db",
    ]


async def test_an_added_module_starts_what_it_needs(autojump_clock: MockClock) -> None:
    """in a managed app an enabled module that is added brings its dependencies up."""
    db = Module("db")
    web = Module("web", depends_on=[db], enabled=True)
    app = App(db, managed=True)
    async with app:
        assert db.status is OFFLINE
        await app.add(web)
        assert online(app) == {"db", "web"}


def unknown_dependency() -> list[Module]:
    return [Module("fine"), Module("bad", depends_on=["nowhere"])]


def known_name() -> list[Module]:
    return [Module("fine"), Module("db")]


def cycle() -> list[Module]:
    return [Module("fine"), Module("a", depends_on=["b"]), Module("b", depends_on=["a"])]


def one_name_twice() -> list[Module]:
    return [Module("fine"), Module("fine")]


@pytest.mark.parametrize("make", [unknown_dependency, known_name, cycle, one_name_twice])
async def test_a_bad_graph_adds_nothing(
    autojump_clock: MockClock, make: Callable[[], list[Module]]
) -> None:
    """when the graph would be wrong add raises, and nothing is registered, prepared or stopped."""
    db = Module("db")
    app = App(db)
    modules = make()
    ran: list[str] = []

    async def prep() -> None:
        ran.append("prep")

    for module in modules:
        module.on_prep(prep)
    async with app:
        with pytest.raises(GraphError):
            await app.add(*modules)
        assert list(app.modules) == ["db"]
        assert app["db"] is db
        assert db.online
        assert ran == []
        await app.add(Module("fine"))
        assert online(app) == {"db", "fine"}


async def test_an_added_module_that_fails_its_prep(autojump_clock: MockClock) -> None:
    """a module whose prep fails isn't registered; the error is raised."""
    bad = Module("bad")
    app = App(Module("db"))
    outcomes = [ValueError("no")]

    @bad.on_prep
    async def prep() -> None:
        for error in outcomes:
            raise error

    async with app:
        with pytest.raises(StartError) as caught:
            await app.add(bad)
        assert (caught.value.module, caught.value.stage) == ("bad", "prep")
        assert caught.value.__cause__ is outcomes[0]
        assert list(app.modules) == ["db"]
        outcomes.clear()
        await app.add(bad)
        assert online(app) == {"db", "bad"}


async def test_an_added_module_that_fails_its_start(autojump_clock: MockClock) -> None:
    """a module whose start fails stays registered, offline; manage tries again."""
    bad = Module("bad")
    app = App(Module("db"))
    failing_start(bad, ValueError("no"))

    async def body() -> None:
        with pytest.raises(StartError) as caught:
            await app.add(bad)
        assert (caught.value.module, caught.value.stage) == ("bad", "start")
        assert app["bad"] is bad
        assert bad.status is OFFLINE
        await app.manage()
        assert bad.online

    assert len(await reports_of(app, body)) == 1


async def slow_failure() -> None:
    await trio.sleep(10)
    raise ValueError("no")


@pytest.mark.parametrize("other", ["manage", "add", "restart"])
async def test_nothing_starts_while_others_of_the_same_addition_are_prepared(
    other: str, autojump_clock: MockClock
) -> None:
    """all start or none: what else changes meanwhile doesn't start those that are ready."""
    ready, slow = Module("ready"), Module("slow")
    begun: list[float] = []

    @ready.on_start
    async def start() -> None:
        begun.append(trio.current_time())

    slow.on_prep(slow_failure)
    app = App(Module("db"), managed=True)
    app["db"].enable()
    ready.enable()
    slow.enable()

    async def change() -> None:
        await trio.sleep(5)
        if other == "add":
            await app.add(Module("third", enabled=True))
        else:
            await (app.manage() if other == "manage" else app.restart("db"))

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            with pytest.raises(StartError):
                await app.add(ready, slow)
        assert begun == []
        expected = {"db", "third"} if other == "add" else {"db"}
        assert set(app.modules) == online(app) == expected

    assert len(await reports_of(app, body)) == 1


async def test_an_addition_that_comes_too_late_leaves_no_trace(
    autojump_clock: MockClock,
) -> None:
    """when all modules have stopped nothing is registered any more, for this run or the next."""
    m = Module("m")
    app = App(m)
    errors: list[BaseException] = []

    async def add_at_the_end() -> None:
        await m.wait_status(OFFLINE)
        try:
            await app.add(Module("late"))
        except RuntimeError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        async with app:
            nursery.start_soon(add_at_the_end)
            await let_run()
    assert len(errors) == 1
    assert list(app.modules) == ["m"]
    async with app:
        await app.add(Module("late"))
        assert online(app) == {"m", "late"}


async def test_additions_wait_for_each_other(autojump_clock: MockClock) -> None:
    """a module may be added that depends on one whose prep goes on; names are taken by then."""
    first = Module("first")
    first.on_prep(partial(trio.sleep, 10))
    app = App(Module("db"))

    async def add_dependent() -> None:
        await trio.sleep(5)
        await app.add(Module("second", depends_on=["first"]))
        with pytest.raises(GraphError, match="'first' already"):
            await app.add(Module("first"))

    async with app:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add_dependent)
            await app.add(first)
            assert trio.current_time() == 10
            assert app["first"].online
        assert online(app) == {"db", "first", "second"}


async def test_who_waits_for_another_addition_can_be_cancelled(autojump_clock: MockClock) -> None:
    """then nothing of it has happened, and the next one has its turn."""
    first = Module("first")
    first.on_prep(partial(trio.sleep, 10))
    app = App(Module("db"))

    async def add_in_vain() -> None:
        with trio.move_on_after(1) as scope:
            await app.add(Module("vain"))
        assert scope.cancelled_caught

    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(app.add, first)
        await trio.sleep(1)
        nursery.start_soon(add_in_vain)
        await app.add(Module("next"))
        assert online(app) == {"db", "first", "next"}


async def test_a_failed_prep_among_added_modules(autojump_clock: MockClock) -> None:
    """when one of several preps fails none of the new modules is registered, in any order."""
    cache = Module("cache")
    web = Module("web", depends_on=[cache])
    app = App(Module("db"))
    outcomes = [ValueError("no")]

    @cache.on_prep
    async def prep() -> None:
        for error in outcomes:
            raise error

    async def body() -> None:
        for modules in ((web, cache), (cache, web)):
            with pytest.raises(StartError) as caught:
                await app.add(*modules)
            assert caught.value.module == "cache"
            assert list(app.modules) == ["db"]
        outcomes.clear()
        await app.add(web, cache)
        assert online(app) == {"db", "web", "cache"}

    assert len(await reports_of(app, body)) == 2


async def test_adding_leaves_others_alone(autojump_clock: MockClock) -> None:
    """add neither brings back what gave up, nor waits for what has nothing to do with it."""
    restart = Restart(max_restarts=0, exhausted="offline")
    broken, slow = Module("broken", restart=restart), Module("slow", enabled=True)
    app = App(broken, slow)

    @slow.on_start
    async def start() -> None:
        await trio.sleep(10)

    async def crash() -> None:
        raise ValueError("no")

    async with app, trio.open_nursery() as nursery:
        broken.nursery.start_soon(crash)
        await let_run()
        assert broken.status is OFFLINE
        nursery.start_soon(app.restart, slow)
        await let_run()
        assert slow.status is STARTING
        before = trio.current_time()
        await app.add(Module("new"))
        assert trio.current_time() == before
        assert online(app) == {"new"}
        assert broken.status is OFFLINE


async def test_modules_with_an_owner_go_with_it(autojump_clock: MockClock) -> None:
    """added with an owner modules depend on it: they stop before it and are removed then."""
    log: list[str] = []
    owner = service(log, "owner", enabled=True)
    child = service(log, "child", enabled=True)
    app = App(owner, managed=True)
    async with app:
        await app.add(child, owner=owner)
        assert online(app) == {"owner", "child"}
        assert owner in child.dependencies
        log.clear()
        await switch(app, off=(owner, child))
        assert log == ["stop child", "stopped child", "stop owner", "stopped owner"]
        assert list(app.modules) == ["owner"]


async def test_a_restarted_owner_comes_back_alone(autojump_clock: MockClock) -> None:
    """modules with an owner are removed when it stops for a restart, and may be added anew."""
    owner = Module("owner")
    app = App(owner)
    async with app:
        await app.add(Module("child"), owner=owner)
        await app.restart(owner)
        assert online(app) == {"owner"}
        assert list(app.modules) == ["owner"]
        await app.add(Module("child"), owner=owner)
        assert online(app) == {"owner", "child"}


async def test_a_module_with_an_owner_is_removed_before_it(autojump_clock: MockClock) -> None:
    """a module with an owner may be removed by hand; its owner stops as usual after that."""
    owner, child = Module("owner"), Module("child")
    app = App(owner)
    async with app:
        await app.add(child, owner=owner)
        await app.remove(child)
        await app.restart(owner)
        assert online(app) == {"owner"}
        await app.add(child, owner=owner)
    assert child.status < STOPPING


async def test_owned_modules_that_depend_on_each_other(autojump_clock: MockClock) -> None:
    """when one owner's module goes, another owner's module that depends on it goes, too."""
    a, b = Module("a"), Module("b")
    app = App(a, b)
    async with app:
        await app.add(Module("of_a"), owner=a)
        await app.add(Module("of_b", depends_on=["of_a"]), owner=b)
        await app.restart(a)
        assert online(app) == {"a", "b"}
        assert list(app.modules) == ["a", "b"]


async def test_owners_that_cannot_own(autojump_clock: MockClock) -> None:
    """an owner has to be a module of the app that runs; a refused module is as it was before."""
    offline, child = Module("offline"), Module("child")
    app = App(offline, managed=True)
    async with app:
        with pytest.raises(GraphError, match="stranger"):
            await app.add(child, owner=Module("stranger"))
        with pytest.raises(ModuleOffline, match="offline"):
            await app.add(child, owner=offline)
        await switch(app, on=(offline,))
        with pytest.raises(GraphError, match="nowhere"):
            await app.add(child, Module("bad", depends_on=["nowhere"]), owner=offline)
        assert list(app.modules) == ["offline"]
        child.enable()
        await app.add(child)
        assert child.dependencies == ()
        await switch(app, off=(offline,))
        assert online(app) == {"child"}


async def test_adding_a_module_of_another_running_app(autojump_clock: MockClock) -> None:
    """a module that serves another running app can't be added."""
    m = Module("m")
    app = App(name="second")
    async with App(m, name="first"), app:
        with pytest.raises(RuntimeError, match="'m'"):
            await app.add(m)
        assert len(app.modules) == 0
        assert m.online


@pytest.mark.parametrize("change", ["restart", "remove"])
async def test_changing_an_unknown_module(autojump_clock: MockClock, change: str) -> None:
    """restart and remove take a module of the app or its name; of others they show the name."""
    m = Module("m")
    app = App(m)
    async with app:
        for unknown in ("mm", Module("mm"), Module("m")):
            with pytest.raises(GraphError, match="m"):
                await getattr(app, change)(unknown)
        assert m.online
        await getattr(app, change)("m")


async def test_an_owner_that_crashes(autojump_clock: MockClock) -> None:
    """modules with an owner are removed when it crashes."""
    owner = Module("owner", restart=Restart(backoff=Backoff(initial=1)))
    app = App(owner)

    async def crash() -> None:
        raise ValueError("no")

    async with app:
        await app.add(Module("child"), owner=owner)
        owner.nursery.start_soon(crash)
        await trio.sleep(2)
        assert online(app) == {"owner"}
        assert list(app.modules) == ["owner"]


async def test_a_module_adds_modules_of_its_own(autojump_clock: MockClock) -> None:
    """a worker may add modules owned by its module, which are there with it at every start."""
    owner = Module("owner")
    app = App(owner)

    @owner.worker
    async def bring_children() -> None:
        await app.add(Module("child"), owner=owner)

    async with app:
        await let_run()
        assert online(app) == {"owner", "child"}
        await app.restart(owner)
        await let_run()
        assert online(app) == {"owner", "child"}


async def test_removing_a_module(autojump_clock: MockClock) -> None:
    """remove stops a module and takes it out; its name is free, and so is the module."""
    log: list[str] = []
    m, other = service(log, "m", stop=3), Module("other")
    app = App(m, other)
    async with app:
        await app.remove(m)
        assert trio.current_time() == 3
        assert log[-1] == "stopped m"
        assert "m" not in app.modules
        assert online(app) == {"other"}
        await app.add(Module("m"))
        assert online(app) == {"other", "m"}
        async with App(m, name="second"):
            assert m.online


async def test_removing_what_others_depend_on(autojump_clock: MockClock) -> None:
    """remove refuses while something depends on the module, and names it."""
    db = Module("db")
    web = Module("web", depends_on=[db])
    fan = Module("fan", wants=[db])
    app = App(db, web, fan)
    async with app:
        with pytest.raises(GraphError, match="web"):
            await app.remove(db)
        assert online(app) == {"db", "web", "fan"}
        await app.remove(web)
        await app.remove(db)
        assert list(app.modules) == ["fan"]
        assert online(app) == {"fan"}


async def test_a_module_being_removed_is_not_wanted_again(autojump_clock: MockClock) -> None:
    """what others add or manage while a module is being removed doesn't bring it back."""
    log: list[str] = []
    leaving = service(log, "leaving", stop=5, enabled=True)
    app = App(leaving, managed=True)
    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(app.remove, leaving)
        await trio.sleep(1)
        await app.add(Module("new", enabled=True))
        await app.manage()
        await trio.sleep(10)
        assert list(app.modules) == ["new"]
        assert online(app) == {"new"}
    assert log.count("start leaving") == 1


async def test_a_module_removed_while_others_stop_is_not_started(
    autojump_clock: MockClock,
) -> None:
    """a manage that still waits for its stops doesn't start what was removed meanwhile."""
    log: list[str] = []
    m = service(log, "m", enabled=True)
    slow = service(log, "slow", stop=5, enabled=True)
    app = App(m, slow, managed=True)
    async with app, trio.open_nursery() as nursery:
        slow.disable()
        nursery.start_soon(app.manage)
        await trio.sleep(1)
        await app.remove(m)
        await trio.sleep(10)
        assert list(app.modules) == ["slow"]
    assert log.count("start m") == 1


async def test_depending_on_a_module_that_is_being_removed(autojump_clock: MockClock) -> None:
    """a module that depends on one that is being removed isn't taken in any more."""
    log: list[str] = []
    leaving = service(log, "leaving", stop=5)
    app = App(leaving)
    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(app.remove, leaving)
        await trio.sleep(1)
        with pytest.raises(GraphError, match="leaving"):
            await app.add(Module("web", depends_on=["leaving"]))
        await trio.sleep(5)
        assert len(app.modules) == 0


async def test_removing_an_offline_module(autojump_clock: MockClock) -> None:
    """a module that doesn't run is just taken out."""
    m = Module("m")
    app = App(m, managed=True)
    async with app:
        await app.remove(m)
        assert len(app.modules) == 0
        await app.add(m)
        assert app["m"] is m


async def test_removing_a_module_whose_stop_runs_out_of_time(autojump_clock: MockClock) -> None:
    """remove raises when the stop ran out of time; the module is gone once it has really ended."""
    m = Stubborn("m", 60, stop_timeout=5)
    app = App(m)
    async with app:
        with pytest.raises(StopError):
            await app.remove(m)
        assert trio.current_time() == 5
        with pytest.raises(GraphError):
            await app.add(Module("m"))
        await trio.sleep(60)
        assert len(app.modules) == 0
        await app.add(Module("m"))
        assert online(app) == {"m"}


async def test_cancelled_callers_of_add_and_remove(autojump_clock: MockClock) -> None:
    """what add and remove have begun is carried to its end although the caller left."""
    log: list[str] = []
    m = service(log, "m", start=3, stop=3)
    app = App(Module("other"))
    async with app:
        for change in (app.add, app.remove):
            with trio.move_on_after(1) as scope:
                await change(m)
            assert scope.cancelled_caught
            await trio.sleep(3)
        assert list(app.modules) == ["other"]
    assert log == ["start m", "started m", "stop m", "stopped m"]


@pytest.mark.parametrize("change", ["restart", "add", "remove"])
@pytest.mark.parametrize("place", [in_start, in_stop])
async def test_other_changes_in_lifecycle_functions(
    autojump_clock: MockClock,
    change: str,
    place: Callable[[Module, Callable[[], Awaitable[None]]], None],
) -> None:
    """restart, add and remove refuse where they would wait for themselves, like manage."""
    m, other = Module("m"), Module("other")
    app = App(m, other)
    refused: list[RuntimeError] = []

    async def act() -> None:
        try:
            if change == "add":
                await app.add(Module("new"))
            else:
                await getattr(app, change)(other)
        except RuntimeError as error:
            refused.append(error)

    place(m, act)
    async with app:
        assert list(app.modules) == ["m", "other"]
    assert len(refused) == 1
    assert change in str(refused[0])
    assert trio.current_time() == 0


@pytest.mark.parametrize("seconds", [0, 1])
async def test_removing_a_module_that_is_being_prepared(
    autojump_clock: MockClock, seconds: float
) -> None:
    """a module may be removed while it is added: both calls end and it isn't there any more."""
    log: list[str] = []
    m = service(log, "m")
    app = App(Module("other"))

    @m.on_prep
    async def prep() -> None:
        await trio.sleep(2)

    async def add() -> None:
        with contextlib.suppress(StartError, GraphError):
            await app.add(m)

    async with app:
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(add)
                await trio.sleep(seconds)
                await let_run()
                await app.remove(m)
        assert online(app) == {"other"}
        assert list(app.modules) == ["other"]
    assert log == []


@pytest.mark.parametrize("steps", range(5))
async def test_adding_and_removing_at_a_time(autojump_clock: MockClock, steps: int) -> None:
    """however close remove follows add, it finds no module or removes it, and the app lives."""
    app = App(Module("other"))
    module = Module("m")

    async def add() -> None:
        with contextlib.suppress(StartError, GraphError):
            await app.add(module)

    async with app:
        for _ in range(4):  # tasks run in the one or the other order
            async with trio.open_nursery() as nursery:
                nursery.start_soon(add)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                with contextlib.suppress(GraphError):
                    await app.remove(module)
            if module in app:
                await app.remove(module)
        assert online(app) == {"other"}


async def test_removing_a_module_whose_stop_fails(autojump_clock: MockClock) -> None:
    """an error of the stop is raised; the module is removed all the same."""
    m = Module("m")
    app = App(m)

    @m.on_stop
    async def stop() -> None:
        raise ValueError("no")

    async def body() -> None:
        with pytest.raises(StopError):
            await app.remove(m)
        assert "m" not in app.modules

    assert len(await reports_of(app, body)) == 1


async def test_what_was_added_is_not_there_twice(autojump_clock: MockClock) -> None:
    """a module that is added and removed many times leaves nothing behind."""
    app = App(Module("db"))
    starts: list[str] = []
    async with app:
        for number in range(20):
            m = service(starts, f"m{number}", depends_on=["db"])
            await app.add(m)
            await app.remove(m)
        assert list(app.modules) == ["db"]
        await app.restart(app["db"])
    assert len(starts) == 80
