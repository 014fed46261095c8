"""The face of an app: the registry of its modules, the block in which they run, its status."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import datetime, timedelta, timezone
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, TypeVar, cast

import attrs
import trio

from trio_modules._block import AppRun, Member, Settings
from trio_modules._broadcast import Broadcast
from trio_modules._context import current_owner
from trio_modules._events import Occurrence
from trio_modules._exceptions import GraphError, ModuleOffline, StartError
from trio_modules._failure import NO_FAILURE, FailureLevel, FailureStatus
from trio_modules._hooks import EventRoom, ModuleEvents
from trio_modules._lifecycle import Ticket, Unit
from trio_modules._module import Interceptor, Module, current_module
from trio_modules._order import check_known, near_misses, topological_order
from trio_modules._part import Part
from trio_modules._reporting import Reporter
from trio_modules._reports import ModuleError
from trio_modules._seam import AnyAsyncFn, Seam
from trio_modules._status import (
    AppStatus,
    Change,
    Limits,
    ModuleInfo,
    ModuleStatus,
    Totals,
    WorkCounts,
)
from trio_modules._tasks import WallClock
from trio_modules._util import check_async, check_call, check_count, check_identifier, check_seconds

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["App", "current_app"]

ModuleT = TypeVar("ModuleT", bound=Module)
AsyncFn = Callable[[], Awaitable[object]]


def current_app() -> App:
    """The app that the running code's module belongs to (ours).

    Raises:
        RuntimeError: outside of anything that a module of a running app runs.
    """
    try:
        host = current_module()._module_part.host
    except RuntimeError:
        host = None
    if host is None:
        raise RuntimeError("current_app() was called outside of anything that a module runs")
    assert isinstance(host.app, App)
    return host.app


@attrs.define(eq=False)
class _Addition:
    """Modules whose prep goes on: all of them start, or none; nobody adds others meanwhile.

    Attributes:
        names: of the modules.
        over: when that has ended.
    """

    names: frozenset[str]
    over: trio.Event = attrs.field(factory=trio.Event)


class App:
    """The root supervisor: modules that start in dependency order and stop in reverse.

    ``async with app:`` is the whole life. Entering it checks the graph, runs the app's prep and
    every module's, then starts every wanted module, each when all that it depends on is online;
    leaving it stops everything in order, whatever the cause. Nothing that it started outlives the
    block.

    Args:
        modules: the modules; more can be registered until it is entered.
        name: for logs.
        prep: an async function, run before the modules' prep functions.
        command: an async function, run after prep instead of starting (seed: cmdline operation).
        managed: start only what is enabled, and what that depends on.
        start_timeout: seconds for the start of a module that has no time of its own.
        stop_timeout: seconds for the stop of a module that has no time of its own, and for the
            body to end when it is cancelled.
        max_concurrent_microtasks: how many microtasks may hold a slot; twice the processors by
            default, at least 2.
        max_concurrent_restarts: how many restarted service workers may be within their first
            `restart_settle` seconds.
        restart_settle: seconds after which a restarted service worker counts as settled.
        max_concurrent_tasks: how many queued tasks may run at a time.
        min_repeat_interval: the smallest interval in seconds in which a task may be repeated.
        rng: where all random numbers come from.
        epoch: an aware datetime: the wall time of entry, where the clock isn't Trio's own.
        stderr_reporting: write every report to stderr, too.

    Raises:
        TypeError, ValueError: if an argument isn't usable; the message names it.
        GraphError: if two modules have one name.

    From the seed, where all of this was global; many apps in one program are ours.
    """

    def __init__(
        self,
        *modules: Module,
        name: str = "app",
        prep: AsyncFn | None = None,
        command: AsyncFn | None = None,
        managed: bool = False,
        start_timeout: float = 120,
        stop_timeout: float = 60,
        max_concurrent_microtasks: int | None = None,
        max_concurrent_restarts: int = 100,
        restart_settle: float = 0.1,
        max_concurrent_tasks: int = 1,
        min_repeat_interval: float = 60,
        rng: random.Random | None = None,
        epoch: datetime | None = None,
        stderr_reporting: bool = False,
    ) -> None:
        for what, fn in (("prep", prep), ("command", command)):
            if fn is not None:
                check_async(fn, what)
                check_call(fn, (), what)
        if max_concurrent_microtasks is None:
            max_concurrent_microtasks = max(2, 2 * (os.cpu_count() or 1))
        self._settings = Settings(
            name=check_identifier("name", name),
            prep=prep,
            command=command,
            managed=bool(managed),
            start_timeout=check_seconds("start_timeout", start_timeout),
            stop_timeout=check_seconds("stop_timeout", stop_timeout),
            max_concurrent_restarts=check_count(
                "max_concurrent_restarts", max_concurrent_restarts, minimum=1
            ),
            restart_settle=check_seconds("restart_settle", restart_settle, finite=True),
            max_concurrent_tasks=check_count(
                "max_concurrent_tasks", max_concurrent_tasks, minimum=1
            ),
            max_concurrent_microtasks=check_count(
                "max_concurrent_microtasks", max_concurrent_microtasks, minimum=1
            ),
            min_repeat_interval=check_seconds("min_repeat_interval", min_repeat_interval),
            rng=_checked_rng(rng),
        )
        self._epoch = _checked_epoch(epoch)
        self.exit_code: int | None = None
        self._modules: dict[str, Module] = {}
        self._view = MappingProxyType(self._modules)
        self._reporter = Reporter(stderr=stderr_reporting, fatal=self._fatal)
        self._changes: Broadcast[Change] = Broadcast()
        self._room = EventRoom()
        self._seam = Seam()
        self._chosen: frozenset[str] | None = None
        self._addition: _Addition | None = None
        self._run: AppRun | None = None
        self._block: AbstractAsyncContextManager[None] | None = None
        self._started: trio.Event | None = None
        self._shutting_down: trio.Event | None = None
        self._last_reason: str | None = None
        self._wall_zero: tuple[datetime, float] | None = None
        for module in modules:
            self.register(module)

    def __repr__(self) -> str:
        return f"<App {self._settings.name!r}, {len(self._modules)} modules, {self._state}>"

    # ------------------------------------------------------------ the registry

    def register(self, module: ModuleT) -> ModuleT:
        """Add a module before the app runs, and return it; while it runs, use `add` (seed).

        Raises:
            GraphError: if there is a module of that name.
            TypeError: if it is no module.
            RuntimeError: while the app runs.
        """
        if self._run is not None:
            raise RuntimeError(f"app {self.name!r} runs: use add() for module {module!r}")
        self._check_new([module])
        self._enroll(module)
        return module

    def _check_new(self, modules: list[ModuleT] | list[Module]) -> None:
        names: set[str] = set()
        for module in modules:
            if not isinstance(module, Module):
                raise TypeError(f"modules must be instances of Module, got {module!r}")
            if module.name in names or module.name in self._modules:
                raise GraphError(
                    f"there is a module of the name {module.name!r} already", (module.name,)
                )
            names.add(module.name)

    def _enroll(self, module: Module) -> None:
        self._modules[module.name] = module
        module._module_spec.registry = self._view

    def _strike(self, name: str) -> None:
        module = self._modules.pop(name)
        module._module_spec.registry = module._module_spec.owner = None

    @property
    def name(self) -> str:
        """Its name."""
        return self._settings.name

    @property
    def modules(self) -> Mapping[str, Module]:
        """All modules by name, in the order of registration."""
        return self._view

    def __getitem__(self, name: str) -> Module:
        try:
            return self._modules[name]
        except KeyError:
            hint = near_misses(str(name), self._modules)
            raise KeyError(f"app {self.name!r} has no module {name!r}{hint}") from None

    def get(self, name: str, type: type[ModuleT]) -> ModuleT:  # noqa: A002
        """The module of that name, which has to be of that class.

        Raises:
            KeyError: if there is none.
            TypeError: if it is of another class.
        """
        module = self[name]
        if not isinstance(module, type):
            raise TypeError(f"module {name!r} must be a {type.__name__}, got {module!r}")
        return module

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, module: object) -> bool:
        if isinstance(module, Module):
            return self._modules.get(module.name) is module
        return module in self._modules

    # ------------------------------------------------------------ the graph

    def _edges(self, modules: Mapping[str, Module], kind: str) -> dict[str, tuple[str, ...]]:
        edges: dict[str, tuple[str, ...]] = {}
        hard = kind == "depends on"
        for name, module in modules.items():
            spec = module._module_spec
            others = spec.depends_on if hard else spec.wants
            names = tuple([self._known_name(modules, name, kind, other) for other in others])
            if hard and spec.owner is not None and spec.owner.name not in names:
                names += (spec.owner.name,)
            edges[name] = names
        return edges

    def _known_name(
        self, modules: Mapping[str, Module], name: str, kind: str, other: Module | str
    ) -> str:
        if isinstance(other, str):
            return other
        known = other.name
        if modules.get(known) is not other:
            raise GraphError(
                f"module {name!r} {kind} {other!r}, which is not registered in app {self.name!r}",
                (name, known),
            )
        return known

    def check(self) -> list[str]:
        """Check the graph without running anything, and return an order of starting.

        Raises:
            GraphError: if a dependency is unknown or depends on itself, directly or not.
            ValueError: if a declared grace period is too long for its module's stop time.
        """
        order, _ = self._checked_graph(self._modules)
        return order

    def _checked_graph(self, modules: Mapping[str, Module]) -> tuple[list[str], dict[str, Member]]:
        needs = self._edges(modules, "depends on")
        wants = self._edges(modules, "wants")
        check_known(needs, "depends on")
        check_known(wants, "wants")
        order = topological_order({name: needs[name] + wants[name] for name in modules})
        members = {name: self._member(modules[name], needs[name], wants[name]) for name in modules}
        _find_events(modules)
        return order, members

    def _member(self, module: Module, needs: tuple[str, ...], wants: tuple[str, ...]) -> Member:
        part, spec = module._module_part, module._module_spec
        if part.tasks_made is not None:
            part.tasks_made.check_declared(self.min_repeat_interval)
        stop_timeout = spec.stop_timeout
        limit = 0.75 * (self._settings.stop_timeout if stop_timeout is None else stop_timeout)
        for declared in part.declared:
            if declared.grace_period > limit:
                raise ValueError(
                    f"grace_period of {declared.name!r} in module {module.name!r} must be at most "
                    f"three quarters of its stop_timeout ({limit:g} s), "
                    f"got {declared.grace_period!r}"
                )
        return Member(
            part,
            spec.restart,
            spec.start_timeout,
            stop_timeout,
            needs,
            tuple(name for name in wants if name not in needs) if wants else (),
        )

    def _wish(self) -> list[str]:
        """What should run: all, or in a managed app what is enabled and what that depends on."""
        new = () if self._addition is None else self._addition.names
        if not self._settings.managed and self._chosen is None:
            return [name for name in self._modules if name not in new]
        roots = set(self._modules if self._chosen is None else self._chosen)
        if self._settings.managed:
            roots = {name for name in roots if self._modules[name].enabled}
        wanted = self._with_needs(roots)
        if not wanted:
            logging.getLogger("trio_modules").warning(
                "app %s is managed and no module of it is enabled: nothing will run", self.name
            )
        return [name for name in self._modules if name in wanted and name not in new]

    def _with_needs(self, names: Iterable[str]) -> set[str]:
        """These modules and what they depend on, directly or not."""
        found = set(names)
        todo = list(found)
        needs = self._edges(self._modules, "depends on")
        while todo:
            for other in needs[todo.pop()]:
                if other not in found:
                    found.add(other)
                    todo.append(other)
        return found

    # ------------------------------------------------------------ the block

    async def __aenter__(self) -> Self:
        if self._run is not None:
            raise RuntimeError(f"app {self.name!r} runs already, it can't be entered again")
        order, members = self._checked_graph(self._modules)
        if self._chosen is not None:
            possible = self._with_needs(self._chosen)
            order = [name for name in order if name in possible]
        for module in self._modules.values():
            if module._module_part.host is not None:
                raise RuntimeError(f"module {module.name!r} serves another running app already")
        self.exit_code = None
        self._last_reason = None
        self._reporter.reset()
        self._reporter.readers.lost = self._changes.lost = 0
        self._set_clock()
        clock = WallClock(self.now, virtual=self._wall_zero is not None)
        self._room.everything.lost = 0
        run = AppRun(
            self,
            self._settings,
            members,
            self._reporter,
            self._changes,
            clock,
            self._room,
            self._seam,
        )
        run.on_shutdown = self._on_shutdown
        run.on_started = self.started.set
        run.on_removed = self._strike
        self._run = run
        # An iterator lets go of the list, which the block would hold for as long as it lasts.
        self._block = run.block(iter(order), self._wish)
        try:
            await self._block.__aenter__()
        except BaseException:
            self._end_run()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        try:
            return await self._block.__aexit__(exc_type, exc, traceback)
        finally:
            self._end_run()

    def _end_run(self) -> None:
        assert self._run is not None
        self._run.detach_all()
        self._run = self._block = None
        self._started = self._shutting_down = None
        self._reporter.readers.end()
        self._changes.end()
        self._room.everything.end()

    def _on_shutdown(self) -> None:
        assert self._run is not None
        self._last_reason = self._run.reason
        self.shutting_down.set()

    def _fatal(self, exc: BaseException) -> None:
        assert self._run is not None
        self._run.fatal(exc)

    @property
    def _state(self) -> str:
        return "offline" if self._run is None else self._run.state

    @property
    def started(self) -> trio.Event:
        """Set when the start is over and the body begins; replaced when the run ends."""
        if self._started is None:
            self._started = trio.Event()
        return self._started

    @property
    def shutting_down(self) -> trio.Event:
        """Set when the shutdown begins; replaced when the run ends (seed)."""
        if self._shutting_down is None:
            self._shutting_down = trio.Event()
        return self._shutting_down

    @property
    def shutdown_reason(self) -> str | None:
        """Why it is going down, or last went down; None while it isn't."""
        return self._last_reason

    def request_shutdown(self, reason: str = "", exit_code: int | None = None) -> None:
        """Begin the shutdown and return at once; the first reason counts.

        Args:
            reason: for logs, cancellations and `shutdown_reason`.
            exit_code: what `run` returns; None leaves it as it is (seed: ``SetExitStatusCode``).

        Raises:
            RuntimeError: if the app doesn't run.
        """
        run = self._running("request_shutdown()")
        if exit_code is not None:
            self.exit_code = exit_code
        run.request_shutdown(reason or "it was asked for")

    async def shutdown(self, reason: str = "", exit_code: int | None = None) -> None:
        """Begin the shutdown and wait until it is over (seed).

        In the block's own task it returns when all is stopped, and the body goes on; inside of a
        module it ends by being cancelled, like everything there.

        Args:
            reason: for logs, cancellations and `shutdown_reason`.
            exit_code: what `run` returns; None leaves it as it is.

        Raises:
            RuntimeError: if the app doesn't run, or in a stop function or the end of a lifespan,
                where it would wait for itself.

        Cancellation only ends the wait.
        """
        run = self._running("shutdown()")
        part = _current_part()
        if part is not None and part.in_lifecycle_function and part.status is ModuleStatus.STOPPING:
            raise RuntimeError(
                f"shutdown() in a stop of module {part.name!r} would wait for itself"
            )
        if exit_code is not None:
            self.exit_code = exit_code
        why = reason or "it was asked for"
        if trio.lowlevel.current_task() is run.body_task and run.state != "starting":
            await run.shutdown_from_body(why)
        else:
            run.request_shutdown(why)
            await run.ended.wait()

    def _running(self, what: str) -> AppRun:
        if self._run is None:
            raise RuntimeError(f"{what} needs a running app, and app {self.name!r} does not run")
        return self._run

    # ------------------------------------------------------------ time

    def _set_clock(self) -> None:
        if type(trio.lowlevel.current_clock()).__name__ == "SystemClock":
            self._wall_zero = None
        else:
            zero = self._epoch or datetime.now(timezone.utc)
            self._wall_zero = (zero, trio.current_time())

    def now(self) -> datetime:
        """The wall time, aware, UTC: real under Trio's own clock, virtual under any other.

        Virtual time begins with the app's epoch, or with the real time of entry.
        """
        if self._wall_zero is None or self._run is None:
            return datetime.now(timezone.utc)
        zero, entered = self._wall_zero
        return (zero + timedelta(seconds=trio.current_time() - entered)).astimezone(timezone.utc)

    # ------------------------------------------------------------ management

    async def manage(self) -> None:
        """Bring the running set in line with the wishes, and return when it is (seed).

        Stops come before starts. The newest wish wins: a start no longer wanted is cancelled. It
        runs in the root supervisor, so a module may manage itself away, and a cancelled caller
        stops nothing. What failed to start before is tried again.

        Raises:
            StartError, StopError: the first that came up; all are reported, and the rest of the
                work is done all the same.
            RuntimeError: in a lifecycle function, where it would wait for itself, and if the app
                doesn't run.
        """
        run = await self._managing("manage()")
        wish = self._wish()
        await _finished(lambda done: run.supervisor.manage(wish, done))

    async def restart(self, module: Module | str, reason: str = "") -> None:
        """Restart a module and all that depend on it; returns when they are online again (ours).

        Args:
            module: the module or its name.
            reason: for logs and cancellations.

        Raises:
            StartError, StopError: the first that came up.
            RuntimeError: in a lifecycle function, and if the app doesn't run.

        A cancelled caller stops nothing.
        """
        run = await self._managing("restart()")
        unit = self._member_of(module)._module_part.unit
        why = f"restart{f': {reason}' if reason else ''}"
        await _finished(lambda done: run.supervisor.bounce(unit, why, done))

    async def add(self, *modules: Module, owner: Module | None = None) -> None:
        """Add modules to the running app: check the graph, prepare and start them (ours).

        Args:
            modules: new modules.
            owner: a module of this app that they then depend on; they are removed when it stops.

        Raises:
            GraphError: if they don't fit in; nothing has happened then.
            StartError: if a prep failed (none of them is registered then) or a start (they stay
                registered, offline).
            ModuleOffline: if the owner isn't starting or online.
            RuntimeError: in a lifecycle function, and if the app doesn't run.

        All of them start or none, whatever else is managed meanwhile. While the prep of another
        addition goes on it waits for that; a caller that is cancelled there has added nothing.
        After that a cancelled caller stops nothing.
        """
        run = await self._managing("add()")
        while self._addition is not None:
            await self._addition.over.wait()
            run = await self._managing("add()")
        run.check_not_over("add()")
        new = list(modules)
        self._check_new(new)
        self._check_free(new)
        if owner is not None:
            self._check_owner(owner)
        members = self._members_of(new, owner)
        for module in new:
            self._enroll(module)
        units = run.adopt(members)
        if owner is not None:
            owner._module_part.unit.owned = [*(owner._module_part.unit.owned or ()), *units]
        self._addition = _Addition(frozenset(module.name for module in new))
        await self._prepare_and_start(run, [member.part for member in members], self._addition)

    def _check_free(self, modules: list[Module]) -> None:
        for module in modules:
            if module._module_part.host is not None:
                raise RuntimeError(f"module {module.name!r} serves another running app already")

    def _check_owner(self, owner: Module) -> None:
        self._member_of(owner)
        if owner.status < ModuleStatus.STARTING:
            raise ModuleOffline(owner.name, owner.status.name, "own modules")

    def _members_of(self, modules: list[Module], owner: Module | None) -> list[Member]:
        """The new members in an order in which they can be tied in; checks the whole graph."""
        names = [module.name for module in modules]
        for module in modules:
            module._module_spec.owner = owner
        try:
            order, members = self._checked_graph(
                {**self._modules, **{module.name: module for module in modules}}
            )
            for name in names:
                self._check_staying(members[name])
        except BaseException:
            for module in modules:
                module._module_spec.owner = None
            raise
        new = set(names)
        return [members[name] for name in order if name in new]

    def _check_staying(self, member: Member) -> None:
        """Raise `GraphError` if a new module would depend on one that is being removed."""
        for other in (*member.needs, *member.wants):
            known = self._modules.get(other)
            if (
                known is not None
                and known._module_part.host is not None
                and known._module_part.unit.orphan
            ):
                name = member.part.name
                raise GraphError(
                    f"module {name!r} depends on {other!r}, which is being removed", (name, other)
                )

    async def _prepare_and_start(self, run: AppRun, parts: list[Part], addition: _Addition) -> None:
        errors: list[Exception] = []
        over = trio.Event()

        def failed(name: str | None, failure: BaseException) -> None:
            assert name is not None
            run.reporter.caught(failure, name, "prep", "control")
            error = StartError(name, "prep")
            error.__cause__ = failure
            errors.append(error)

        def done(ticket: Ticket) -> None:
            errors.extend(ticket.errors)
            over.set()

        async def prepare() -> None:
            try:
                await run.prep_modules(parts, failed)
                if errors:
                    detach_all()
            finally:
                self._addition = None
                addition.over.set()
            if errors:
                over.set()
            else:
                start()

        def detach_all() -> None:
            for part in reversed(parts):
                if run.supervisor.units.get(part.name) is part.unit:
                    run.supervisor.detach(part.unit)

        def start() -> None:
            wish = set(self._wish())
            units = [unit for unit in _units(run) if unit.name in wish]
            new = {part.unit for part in parts}
            run.supervisor.want(
                [unit for unit in units if not unit.hold or unit in new],
                [unit for unit in units if unit in new],
                done,
            )

        run.in_root(prepare, "add()")
        await over.wait()
        if errors:
            raise errors[0]

    async def remove(self, module: Module | str) -> None:
        """Stop a module and take it out of the running app (ours).

        Args:
            module: the module or its name.

        Raises:
            GraphError: while something depends on it.
            StopError: if its stop failed; it is removed all the same once it is offline.
            RuntimeError: in a lifecycle function, and if the app doesn't run.

        A cancelled caller stops nothing.
        """
        run = await self._managing("remove()")
        unit = self._member_of(module)._module_part.unit
        if unit.needed_by:
            names = tuple(other.name for other in unit.needed_by)
            raise GraphError(
                f"module {unit.name!r} can't be removed while {', '.join(map(repr, names))} "
                "depend on it",
                (unit.name, *names),
            )
        await _finished(lambda done: run.supervisor.retire(unit, done))

    async def _managing(self, what: str) -> AppRun:
        """The present run, when its preparation is over; not for those who would hold it up."""
        run = self._running(what)
        part = _current_part()
        if part is not None and part.in_lifecycle_function:
            raise RuntimeError(
                f"{what} in a lifecycle function of module {part.name!r} would wait for itself"
            )
        if trio.lowlevel.current_task() is run.entry_task:
            raise RuntimeError(
                f"{what} before the start of app {self.name!r} would wait for itself"
            )
        if not run.prepared.is_set():  # else it is begun even for a caller that is cancelled
            await run.prepared.wait()
        return run

    def _member_of(self, module: Module | str) -> Module:
        if isinstance(module, Module) and self._modules.get(module.name) is module:
            return module
        if isinstance(module, str) and module in self._modules:
            return self._modules[module]
        name = module if isinstance(module, str) else repr(module)
        hint = near_misses(name, self._modules)
        raise GraphError(f"app {self.name!r} has no module {module!r}{hint}", (name,))

    # ------------------------------------------------------------ reports, changes, status

    def report(self, error: ModuleError) -> None:
        """Report an error of yours like one of the framework's (seed).

        Args:
            error: what to report.
        """
        if not isinstance(error, ModuleError):
            raise TypeError(f"error must be a ModuleError, got {error!r}")
        self._reporter.report(error)

    @property
    def last_error(self) -> ModuleError | None:
        """The last report of this run or, when it is over, of that one."""
        return self._reporter.last_error

    @asynccontextmanager
    async def reports(
        self, buffer: int = 100
    ) -> AsyncIterator[trio.MemoryReceiveChannel[ModuleError]]:
        """A channel of all reports from here on (seed: ``SetErrorReportingChannel``).

        It may be entered before the app and ends with the app's run. A reader that lags loses
        the oldest, which is counted in the status.

        Args:
            buffer: how many reports may wait for the reader, at least 1.
        """
        async with self._reporter.readers.subscribe(buffer) as channel:
            yield channel

    @asynccontextmanager
    async def changes(self, buffer: int = 100) -> AsyncIterator[trio.MemoryReceiveChannel[Change]]:
        """A channel of all changes of status and failures from here on (seed: the notify function).

        It may be entered before the app and ends with the app's run. A reader that lags loses
        the oldest, which is counted in the status, and shows in the numbers of the changes.

        Args:
            buffer: how many changes may wait for the reader, at least 1.
        """
        async with self._changes.subscribe(buffer) as channel:
            yield channel

    @asynccontextmanager
    async def subscribe(
        self, buffer: int = 100
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Occurrence]]:
        """A channel of all events of all modules from here on (ours).

        It may be entered before the app and ends with the app's run. A reader that lags loses the
        oldest, which is counted in the status.

        Args:
            buffer: how many events may wait for the reader, at least 1.
        """
        try:
            async with self._room.everything.subscribe(buffer) as channel:
                self._watch_events()
                yield channel
        finally:
            self._watch_events()

    def _watch_events(self) -> None:
        for module in self._modules.values():
            if module._module_part.events_made is not None:
                module._module_part.events_made.watch()

    @property
    def health(self) -> FailureStatus:
        """The worst failure of all modules, the newest among equals."""
        worst = NO_FAILURE
        for module in self._modules.values():
            failure = module.failure
            if (failure.level, failure.since) >= (worst.level, worst.since):
                worst = failure
        return worst if worst.level is not FailureLevel.NONE else NO_FAILURE

    @property
    def ready(self) -> bool:
        """Whether others should give it work: all that is wanted is online, and stays so."""
        run = self._run
        if run is None or run.state != "running" or run.draining:
            return False
        return all(unit.up for unit in _units(run) if unit.wanted)

    def status(self) -> AppStatus:
        """How everything is doing at this moment (ours)."""
        run = self._run
        infos = {name: self._info(module) for name, module in self._modules.items()}
        work = sum((info.work for info in infos.values()), WorkCounts())
        executions = sum((info.executions for info in infos.values()), WorkCounts())
        return AppStatus(
            name=self.name,
            state=self._state,
            time=None if run is None else run.board.time(),
            ready=self.ready,
            health=self.health,
            modules=MappingProxyType(infos),
            totals=Totals(
                modules=len(infos),
                online=sum(info.status is ModuleStatus.ONLINE for info in infos.values()),
                work=work,
                executions=executions,
                reports_lost=self._reporter.readers.lost,
                changes_lost=self._changes.lost,
                events_lost=self._room.everything.lost + _lost_events(self._modules),
            ),
            limits=Limits(
                max_concurrent_restarts=self.max_concurrent_restarts,
                restart_settle=self.restart_settle,
                restarts_settling=0 if run is None else run.gate.settling,
                restarts_waiting=0 if run is None else run.gate.waiting,
                max_concurrent_tasks=self.max_concurrent_tasks,
                tasks_executing=executions.running,
                tasks_queued=0 if run is None else run.board.queued,
                tasks_scheduled=0 if run is None else run.board.scheduled,
                min_repeat_interval=self.min_repeat_interval,
                max_concurrent_microtasks=self.max_concurrent_microtasks,
                microtasks_running=0 if run is None else run.slots.order.held,
                microtasks_waiting=0 if run is None else run.slots.order.waiting,
            ),
            shutdown_reason=self.shutdown_reason,
            exit_code=self.exit_code,
        )

    def task_tree(self) -> str:
        """Every module with every task in it and its stack, as text for people (ours).

        Raises:
            RuntimeError: if the app doesn't run.
        """
        return self._running("task_tree()").tree()

    def _info(self, module: Module) -> ModuleInfo:
        part = module._module_part
        wanted = part.host is not None and part.unit.wanted
        return part.info(wanted=wanted, enabled=module.enabled)

    # ------------------------------------------------------------ for tests and tools

    @contextmanager
    def intercept(self, interceptor: Interceptor) -> Iterator[None]:
        """Come between the framework and the functions that it calls, for a block's length (ours).

        The interceptor is asked at each call from there on, and gives what is called in the
        place of the function. Of several the last to come is the outermost.

        Args:
            interceptor: see there.
        """
        if not callable(interceptor):
            raise TypeError(f"interceptor must be callable, got {interceptor!r}")
        with self._seam.open(cast("Callable[..., AnyAsyncFn]", interceptor)):
            yield

    @contextmanager
    def only(self, *modules: Module | str) -> Iterator[None]:
        """Let a run within the block start nothing but these and what they depend on (ours).

        Soft dependencies aren't started for them. What is left out is OFFLINE, not even prepared.

        Args:
            modules: modules of this app or their names.

        Raises:
            GraphError: if one isn't registered.
            RuntimeError: while the app runs.
        """
        if self._run is not None:
            raise RuntimeError(f"app {self.name!r} runs, so what it starts is settled")
        before = self._chosen
        self._chosen = frozenset(self._member_of(module).name for module in modules)
        try:
            yield
        finally:
            self._chosen = before

    @property
    def rng(self) -> random.Random:
        """Where all random numbers come from: to be seeded by who wants a run again."""
        return self._settings.rng

    @property
    def epoch(self) -> datetime | None:
        """The wall time of entry, where the clock isn't Trio's own; settable, for the next run."""
        return self._epoch

    @epoch.setter
    def epoch(self, value: datetime | None) -> None:
        self._epoch = _checked_epoch(value)

    # ------------------------------------------------------------ limits

    @property
    def max_concurrent_microtasks(self) -> int:
        """How many microtasks may hold a slot at a time; settable."""
        return self._settings.max_concurrent_microtasks

    @max_concurrent_microtasks.setter
    def max_concurrent_microtasks(self, value: int) -> None:
        self._settings.max_concurrent_microtasks = check_count(
            "max_concurrent_microtasks", value, minimum=1
        )
        if self._run is not None:
            self._run.slots.order.limit = value

    @property
    def max_concurrent_tasks(self) -> int:
        """How many queued tasks may run at a time; settable."""
        return self._settings.max_concurrent_tasks

    @max_concurrent_tasks.setter
    def max_concurrent_tasks(self, value: int) -> None:
        self._settings.max_concurrent_tasks = check_count("max_concurrent_tasks", value, minimum=1)
        if self._run is not None:
            self._run.board.limit = value

    @property
    def min_repeat_interval(self) -> float:
        """The smallest interval in seconds in which a task may be repeated; settable."""
        return self._settings.min_repeat_interval

    @min_repeat_interval.setter
    def min_repeat_interval(self, value: float) -> None:
        self._settings.min_repeat_interval = check_seconds("min_repeat_interval", value)
        if self._run is not None:
            self._run.board.min_interval = value

    @property
    def max_concurrent_restarts(self) -> int:
        """How many restarted service workers may be settling at a time; settable."""
        return self._settings.max_concurrent_restarts

    @max_concurrent_restarts.setter
    def max_concurrent_restarts(self, value: int) -> None:
        self._settings.max_concurrent_restarts = check_count(
            "max_concurrent_restarts", value, minimum=1
        )
        if self._run is not None:
            self._run.gate.limit = value

    @property
    def restart_settle(self) -> float:
        """Seconds after which a restarted service worker has settled; settable, 0: at once."""
        return self._settings.restart_settle

    @restart_settle.setter
    def restart_settle(self, value: float) -> None:
        self._settings.restart_settle = check_seconds("restart_settle", value, finite=True)
        if self._run is not None:
            self._run.gate.settle = value


def _current_part() -> Part | None:
    owner = current_owner()
    assert owner is None or isinstance(owner, Part)
    return owner


def _units(run: AppRun) -> list[Unit]:
    return list(run.supervisor.units.values())


async def _finished(begin: Callable[[Callable[[Ticket], None]], None]) -> None:
    """Begin something and wait for its ticket; raise its first error."""
    over = trio.Event()
    errors: list[Exception] = []

    def done(ticket: Ticket) -> None:
        errors.extend(ticket.errors)
        over.set()

    begin(done)
    await over.wait()
    if errors:
        raise errors[0]


def _find_events(modules: Mapping[str, Module]) -> None:
    """Find what all hooks are on.

    Raises:
        GraphError: if there is no such event.
    """
    known = list(modules)

    def lookup(name: str) -> ModuleEvents | None:
        module = modules.get(name)
        return None if module is None else module._module_part.events_made

    for module in modules.values():
        events = module._module_part.events_made
        if events is not None:
            events.find(lookup, known)


def _lost_events(modules: Mapping[str, Module]) -> int:
    made = (module._module_part.events_made for module in modules.values())
    return sum(events.lost for events in made if events is not None)


def _checked_rng(rng: random.Random | None) -> random.Random:
    if rng is None:
        return random.Random()
    if not isinstance(rng, random.Random):
        raise TypeError(f"rng must be a random.Random, got {rng!r}")
    return rng


def _checked_epoch(epoch: datetime | None) -> datetime | None:
    if epoch is None:
        return None
    if not isinstance(epoch, datetime):
        raise TypeError(f"epoch must be a datetime, got {epoch!r}")
    if epoch.tzinfo is None:
        raise ValueError(f"epoch must be aware, got the naive {epoch!r}")
    return epoch
