"""One simulation: a service under a virtual clock, with faults, watched, from its start to its end.

The app is entered and, if it ends with an error before its time, entered again after a pause, as
whoever supervises processes would do. When the time is over it is left, and what stays is found.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timezone
from typing import TypeAlias

import attrs
import trio
import trio.testing

from trio_modules import App
from trio_modules.testing._background import background
from trio_modules.testing._faults import Fault
from trio_modules.testing._injecting import Injector
from trio_modules.testing._scheduling import (
    all_tasks,
    break_shields,
    collector_off,
    seeded_scheduling,
)
from trio_modules.testing._trace import TraceEntry, Violation, leaves, said
from trio_modules.testing._watch import Watch

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["Case", "MakeApp", "Outcome", "RealIO", "SimulationError", "made", "run_case"]

MakeApp: TypeAlias = Callable[[], App | AbstractContextManager[App]]

#: When the service ends with an error: seconds until it is entered again.
_PAUSE = 10.0
#: How long the end of a service may take, in simulated seconds.
_PATIENCE = 86_400.0
_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
_EVERYTHING = 100_000


class SimulationError(ValueError):
    """A simulation can't be what it should be, and the message says why (ours)."""


class RealIO(SimulationError):
    """The service waits for the real world, which a virtual clock doesn't (ours).

    Attributes:
        place: what it waits for, and where.
    """

    def __init__(self, place: str) -> None:
        super().__init__(
            f"the service waits for {place}: put a fake there, since the clock jumps on meanwhile"
        )
        self.place = place


@attrs.frozen
class Case:
    """What makes a simulation what it is, besides the service; see `simulate`."""

    seed: int
    duration: float
    faults: tuple[Fault, ...]
    only: tuple[str, ...]
    check: Callable[[App], object] | None
    bugs: tuple[type[BaseException], ...]
    recovers_within: float | None
    logs: bool


@attrs.frozen
class Outcome:
    """What became of a case.

    Attributes:
        trace, violations: what happened, and what shouldn't have.
        first_steps: time and task of the scheduler's first steps.
        missed: the faults that had no occasion to strike.
        strikes, restarts, reports, steps, checks: how often.
        needs: of each module that was simulated, the names of those that it depends on.
        time: when it ended, in simulated seconds.
    """

    trace: tuple[TraceEntry, ...]
    first_steps: tuple[tuple[float, str], ...]
    violations: tuple[Violation, ...]
    needs: dict[str, tuple[str, ...]]
    missed: tuple[Fault, ...]
    strikes: int
    restarts: int
    reports: int
    steps: int
    checks: int
    time: float


@contextmanager
def made(make_app: MakeApp) -> Iterator[App]:
    """The app that *make_app* returns or, as a context manager, yields."""
    if not callable(make_app):
        raise TypeError(f"make_app must be a function that returns an App, got {make_app!r}")
    found: object = make_app()
    if isinstance(found, App):
        yield found
        return
    if not isinstance(found, AbstractContextManager):
        raise SimulationError(
            f"make_app must return an App or a context manager that yields one, got {found!r}"
        )
    with found as app:
        if not isinstance(app, App):
            raise SimulationError(f"make_app must yield an App, got {app!r}")
        yield app


def run_case(app: App, case: Case, most_steps: int | None = None) -> Outcome:
    """Simulate a case, or not more than so many steps of it.

    Raises:
        RealIO: if the service waits for the real world.
        BaseException: what ended it and is no fault's and no `Exception`, like Ctrl-C.
    """
    simulation = _Simulation(app, case, most_steps)
    logging_as_usual = nullcontext() if case.logs else _logging_off()
    with _prepared(app, case), logging_as_usual, seeded_scheduling(case.seed), collector_off():
        try:
            trio.run(
                simulation.main,
                clock=trio.testing.MockClock(autojump_threshold=0),
                instruments=[simulation.watch],
                # One that strikes anywhere may leave Trio, the watch or the service half done.
                restrict_keyboard_interrupt_to_checkpoints=True,
            )
        except BaseExceptionGroup as exc:
            _raise_ctrl_c(exc)
            raise
    return simulation.outcome()


def _raise_ctrl_c(group: BaseExceptionGroup[BaseException]) -> None:
    """Ctrl-C reaches the main task, which may be waiting in a nursery that makes a group of it."""
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves(group)):
        raise KeyboardInterrupt from group


@contextmanager
def _prepared(app: App, case: Case) -> Iterator[None]:
    """The app with chance and wall time of the case's, and the modules that it names."""
    chance, epoch = app.rng.getstate(), app.epoch
    app.rng.seed(f"app {case.seed}")
    app.epoch = epoch or _EPOCH
    try:
        if case.only:
            with app.only(*case.only):
                yield
        else:
            yield
    finally:
        app.rng.setstate(chance)
        app.epoch = epoch


@contextmanager
def _logging_off() -> Iterator[None]:
    """A day of outages, simulated again and again, would bury what was found."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.CRITICAL))
    try:
        yield
    finally:
        logging.disable(before)


class _Simulation:
    def __init__(self, app: App, case: Case, most_steps: int | None) -> None:
        self._app = app
        self._case = case
        self._main: trio.lowlevel.Task | None = None
        self._over = trio.Event()
        self._entering = trio.CancelScope()
        self._time = 0.0
        self.watch = Watch(app, case.bugs, case.check, most_steps)
        self._record = self.watch.record
        self._injector: Injector | None = None

    async def main(self) -> None:
        self._main = trio.lowlevel.current_task()
        await self.watch.real.calibrate()
        self._injector = Injector(self._app, self._case.faults, self.watch.struck)
        with self._app.intercept(self._injector), self._app.intercept(self.watch.calls):
            async with background() as nursery:
                nursery.start_soon(self._end_in_time)
                for fault in self._case.faults:
                    if "/" not in fault.target:
                        nursery.start_soon(self._injector.crash_module, fault)
                with self._record.stop:
                    await self._run_again_and_again()
        self._time = trio.current_time()
        await self._make_sure_of_the_watch()
        if self.watch.real.place:
            raise RealIO(self.watch.real.place)

    async def _make_sure_of_the_watch(self) -> None:
        """Trio takes an instrument that raises away, and goes on."""
        steps = self.watch.steps
        await trio.lowlevel.checkpoint()
        assert self.watch.steps > steps, (
            "the watch has failed; with logs=True, trio.abc.Instrument's log says how"
        )

    async def _run_again_and_again(self) -> None:
        while not self._over.is_set():
            if await self._run():
                break
            with trio.move_on_after(_PAUSE):
                await self._over.wait()

    async def _run(self) -> bool:
        """One run of the app; whether it ended as it should."""
        left: BaseException | None = None
        async with (
            self._app.changes(_EVERYTHING) as changes,
            self._app.reports(_EVERYTHING) as reports,
        ):
            self.watch.begin_run(changes, reports)
            try:
                with trio.CancelScope() as self._entering:
                    async with self._app:
                        self._record.note("", "app", "started")
                        await self._over.wait()
            except BaseException as exc:
                left = exc
                if not self._may_pass(exc):
                    raise
            finally:
                self.watch.end_run(left)
                self._record.note("", "app", self._ending(left))
        if left is not None and not self._injector_struck:
            self._record.violation("", "exit", f"the service ended without a fault: {said(left)}")
        return left is None

    @property
    def _injector_struck(self) -> bool:
        return self._injector is not None and bool(self._injector.strikes)

    def _ending(self, left: BaseException | None) -> str:
        if isinstance(left, trio.Cancelled):
            return "ended: the simulation is over"
        return f"ended: {self._app.shutdown_reason if left is None else said(left)}"

    def _may_pass(self, exc: BaseException) -> bool:
        """Whether it is the service's own affair: no cancellation, and no Ctrl-C but a fault's."""
        assert self._injector is not None
        injected = [strike.error for strike in self._injector.strikes if strike.error is not None]
        return all(
            isinstance(leaf, (Exception, SystemExit)) or any(leaf is each for each in injected)
            for leaf in leaves(exc)
        )

    async def _end_in_time(self) -> None:
        await trio.sleep_until(self._case.duration)
        within = self._case.recovers_within
        if within is not None and self._calm >= within:
            self.watch.calls.check_recovery(within)
        self._over.set()
        if not self._app.started.is_set():  # the body, which waits for that, hasn't begun
            self._entering.cancel(reason="the simulated time is over")
        await self._end_at_last()

    @property
    def _calm(self) -> float:
        """For how long no fault has gone on while the app was there to recover."""
        if self._app.status().state == "offline":
            return 0.0
        assert self._injector is not None
        ends = [
            strike.time + max(strike.fault.lasts, strike.fault.seconds)
            for strike in self._injector.strikes
        ]
        return trio.current_time() - max(ends, default=0.0)

    async def _end_at_last(self) -> None:
        """When it doesn't end by itself: say so, and take it down by force."""
        await trio.sleep(_PATIENCE)
        text = f"the service did not end within {_PATIENCE:g} s"
        self._record.violation("", "end", text)
        while True:
            break_shields(all_tasks(self._main), text)
            await trio.sleep(1)

    def outcome(self) -> Outcome:
        watch, record = self.watch, self._record
        assert self._injector is not None
        return Outcome(
            trace=tuple(record.trace),
            first_steps=tuple(watch.first_steps),
            violations=tuple(record.violations),
            needs={
                name: tuple(other.name for other in module.dependencies)
                for name, module in self._app.modules.items()
            },
            missed=tuple(each for each in self._case.faults if each not in self._injector.met),
            strikes=len(self._injector.strikes),
            restarts=record.restarts,
            reports=watch.reports,
            steps=watch.steps,
            checks=record.checks,
            time=self._time,
        )
