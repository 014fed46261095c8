"""`simulate` and what it returns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import attrs

from trio_modules import App
from trio_modules._util import Placeholder, check_call, check_seconds
from trio_modules.testing._faults import Fault
from trio_modules.testing._injecting import FaultNotMet, check_faults
from trio_modules.testing._picture import picture
from trio_modules.testing._plan import FaultPlan
from trio_modules.testing._shrinking import shrink as shrunk_case
from trio_modules.testing._simulating import (
    Case,
    MakeApp,
    Outcome,
    SimulationError,
    made,
    run_case,
)
from trio_modules.testing._timeline import timeline
from trio_modules.testing._trace import TraceEntry, Violation, trace_text
from trio_modules.testing._watch import KEPT_STEPS

__all__ = [
    "BUGS",
    "NotDeterministic",
    "SimulationFailed",
    "SimulationResult",
    "check_the_check",
    "simulate",
]

#: Exceptions that no outage explains.
BUGS: tuple[type[BaseException], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    TypeError,
)
#: Seconds after which everything should be back.
_RECOVERY = 3600.0
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


class NotDeterministic(SimulationError):
    """Two simulations of one seed differ, so nothing that they find could be found again (ours).

    Attributes:
        number: the first step in which they do.
        first, second: what happened there in the one and in the other; None for nothing.
    """

    def __init__(self, number: int, first: str | None, second: str | None) -> None:
        super().__init__(
            f"the service isn't deterministic: step {number} is {first or 'missing'} in one run "
            f"and {second or 'missing'} in the other; take all chance from App.rng, and time from "
            f"trio.current_time() or App.now(), and let the factory begin with nothing that an "
            f"earlier run has left in modules and classes"
        )
        self.number = number
        self.first = first
        self.second = second


class SimulationFailed(AssertionError):
    """A simulation found a promise that was broken (ours).

    Attributes:
        result: the whole result.
    """

    def __init__(self, result: SimulationResult) -> None:
        super().__init__(str(result))
        self.result = result


@attrs.frozen(str=False)
class SimulationResult:
    """What a simulation found (ours).

    Attributes:
        seed, duration, only: as given to `simulate`.
        faults: those of the plan, random ones and others.
        violations: which promises were broken, in order; the first ends the simulation.
        trace: what happened, in order; `trace_text` is the same as text.
        modules: those simulated, each with what it depends on.
        missed: the faults of the plan's own, by name, that had no occasion to strike, though the
            simulation came to its end.
        strikes: how often a fault struck.
        restarts: how often service workers and modules were started again.
        reports: how many reports there were.
        steps: how many steps of Trio's scheduler it took.
        checks: how often something was checked.
        time: when it ended, in seconds of simulated time.
        shrunk: the smallest simulation found that fails in the same way; None for one that
            doesn't fail or wasn't shrunk.
    """

    seed: int
    duration: float
    only: tuple[str, ...]
    faults: tuple[Fault, ...]
    violations: tuple[Violation, ...]
    trace: tuple[TraceEntry, ...] = attrs.field(repr=False)
    modules: Mapping[str, tuple[str, ...]] = attrs.field(repr=False)
    missed: tuple[Fault, ...]
    strikes: int
    restarts: int
    reports: int
    steps: int
    checks: int
    time: float
    shrunk: SimulationResult | None = attrs.field(default=None, repr=False)
    _target: str = attrs.field(default="make_app", repr=False)
    _plan: FaultPlan | None = attrs.field(default=None, repr=False)
    _judges: tuple[str, ...] = attrs.field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        """Whether no promise was broken."""
        return not self.violations

    @property
    def trace_text(self) -> str:
        """The trace, one entry a line: the same for the same seed."""
        return trace_text(self.trace)

    @property
    def replay(self) -> str:
        """The line that simulates this again."""
        args = [self._target, f"seed={self.seed}", f"duration={self.duration!r}"]
        if self._plan is None or self._plan.every is None:
            args.append(f"faults=[{', '.join(map(str, self.faults))}]")
        elif self._plan != FaultPlan():
            args.append(f"faults={self._plan!r}")
        if self.only:
            args.append(f"only={list(self.only)!r}")
        args += self._judges
        return f"simulate({', '.join(args)})"

    def timeline(self, width: int = 72, last: int = 20) -> str:
        """The run as text: modules as rows, time across, and what happened last.

        Args:
            width: how many characters the time has.
            last: how many entries of the trace follow.
        """
        return timeline(self.trace, tuple(self.modules), self._shown_until, width, last)

    def picture(self) -> str:
        """The run as an SVG: modules as rows, time across, states as colours, faults marked."""
        title = f"seed {self.seed}: {self.violations[0] if self.violations else 'no violation'}"
        return picture(self.trace, tuple(self.modules), self._shown_until, title)

    @property
    def _shown_until(self) -> float:
        """What comes after the first violation is its shadow."""
        return self.violations[0].time if self.violations else self.time

    def assert_ok(self) -> None:
        """Do nothing if no promise was broken, and all that was to go wrong went wrong.

        Raises:
            SimulationFailed: with the line that simulates the failure again, and its timeline.
            FaultNotMet: if a fault of the plan's own, by name, had no occasion to strike.
        """
        if not self.ok:
            raise SimulationFailed(self)
        if self.missed:
            raise FaultNotMet(self.missed)

    def __str__(self) -> str:
        if self.ok:
            return (
                f"seed {self.seed}: no promise broken in {self.time:g} simulated seconds with "
                f"{self.strikes} strikes of faults and {self.restarts} restarts"
                + (f"; no occasion for {', '.join(map(str, self.missed))}" if self.missed else "")
            )
        smallest = self.shrunk or self
        lines = [f"seed {self.seed}: {self.violations[0]}", f"replay: {self.replay}"]
        if self.shrunk is not None:
            lines.append(f"smaller: {self.shrunk.replay}")
        return "\n".join([*lines, "", smallest.timeline()])


def simulate(
    make_app: MakeApp,
    *,
    seed: int = 0,
    duration: float = 86_400.0,
    faults: FaultPlan | Iterable[Fault] | None = None,
    check: Callable[[App], object] | None = None,
    bugs: Iterable[type[BaseException]] = BUGS,
    recovers_within: float | None = _RECOVERY,
    only: Iterable[str] = (),
    shrink: bool = True,
    compare: bool = True,
    logs: bool = False,
) -> SimulationResult:
    """Run a service through days of outages, the same way for the same seed (ours).

    It runs under a clock that jumps, with the order of tasks, the app's random numbers and the
    faults all taken from the seed. What can be seen of the framework's promises from outside is
    checked at every step, and the service's own as *check* and its asserts say. The first broken
    one ends the simulation. Then it is made smaller for as long as it fails in the same way: fewer
    faults, a shorter time, fewer modules.

    An app that ends with an error is entered again after ten seconds, as long as faults explain
    its end. Where the factory gives modules that are made once, they are used again and again.

    Args:
        make_app: a function that returns the app or, as a context manager, yields it, with fakes
            in place of all that is real. It is called several times.
        seed: any number.
        duration: how much time to simulate, in seconds.
        faults: a plan, or the faults themselves; one random fault an hour by default.
        check: a sync function, called with the app whenever all is quiet, and once its block was
            left; that it raises, or returns False, is a violation.
        bugs: exceptions whose report is a violation, since no outage explains them: by default
            ArithmeticError, AssertionError, AttributeError, LookupError, NameError and TypeError.
        recovers_within: seconds after the last fault, at most, after which everything wanted must
            be online at the end, aside from modules that are meant to stay offline when their
            restarts are exhausted; None for no such promise.
        only: names of modules; nothing but these and what they depend on is simulated.
        shrink: whether to look for a smaller simulation that fails, too.
        compare: whether to run the first 3,000 steps twice, and see whether they are the same.
        logs: whether what is logged meanwhile gets anywhere: it is a lot, and simulated several
            times.

    Returns:
        what happened, and which promises were broken. `SimulationResult.assert_ok` raises for
        these.

    Raises:
        UnknownTarget: if the faults name something that isn't there.
        GraphError: if *only* does.
        TypeError, ValueError: if another argument isn't usable.
        RealIO: if the service waits for the real world: a socket, a pipe, a thread.
        NotDeterministic: if two simulations of the seed differ, where they are compared: in
            their first steps and, before something is made smaller, as a whole.
        SimulationError: if *make_app* doesn't give an app.

    It calls ``trio.run``, so it isn't for use inside of one. Ctrl-C ends it between two steps of
    the service: not in the middle of one, and so not one that never ends.
    """
    length = _check_numbers(seed, duration)
    if check is not None:
        check_the_check(check)
    if recovers_within is not None:
        recovers_within = check_seconds("recovers_within", recovers_within)
    kinds = _as_bugs(bugs)
    plan = FaultPlan() if faults is None else _as_plan(faults)
    with made(make_app) as app:
        chosen = _chosen(app, only)
        drawn = plan.draw(app, seed, length)
        check_faults(app, drawn)
    case = Case(seed, length, drawn, chosen, check, kinds, recovers_within, logs)
    outcome = _run(make_app, case)
    if compare:
        _compare_beginnings(make_app, case, outcome)
    smaller: SimulationResult | None = None
    target = getattr(make_app, "__qualname__", "make_app")
    if outcome.violations and shrink:
        _compare_traces(outcome, _run(make_app, case))
        small_case, small_outcome = shrunk_case(case, outcome, lambda each: _run(make_app, each))
        smaller = _result(small_case, small_outcome, target)
    return _result(case, outcome, target, plan, smaller)


def _check_numbers(seed: int, duration: float) -> float:
    """The duration, if both are usable."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, got {seed!r}")
    length = check_seconds("duration", duration, finite=True)
    if not length:
        raise ValueError(f"duration must be a number of seconds above 0, got {duration!r}")
    return length


def check_the_check(check: Callable[[App], object]) -> None:
    """Raise `TypeError` unless it can be called with the app, between two steps of the service."""
    if not callable(check):
        raise TypeError(f"check must be a function, got {check!r}")
    call = getattr(check, "__call__", None)  # noqa: B004 - of an object, to look at
    if inspect.iscoroutinefunction(check) or inspect.iscoroutinefunction(call):
        raise TypeError(f"check must be a sync function, got the async {check!r}")
    check_call(check, (Placeholder("the app"),), "check")


def _as_bugs(bugs: Iterable[type[BaseException]]) -> tuple[type[BaseException], ...]:
    kinds: tuple[object, ...] = (bugs,) if isinstance(bugs, type) else tuple(bugs)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise TypeError(f"bugs must be classes of exceptions, got {kind!r}")
    return cast("tuple[type[BaseException], ...]", kinds)


def _as_plan(faults: FaultPlan | Iterable[Fault]) -> FaultPlan:
    if isinstance(faults, FaultPlan):
        return faults
    if isinstance(faults, Fault):
        raise TypeError(f"faults must be a FaultPlan or a list of faults, got {faults}")
    return FaultPlan(every=None, faults=faults)


def _chosen(app: App, only: Iterable[str]) -> tuple[str, ...]:
    names = tuple(only)
    with app.only(*names):  # which looks for them
        return names


def _run(make_app: MakeApp, case: Case) -> Outcome:
    with made(make_app) as app:
        return run_case(app, case)


def _compare_beginnings(make_app: MakeApp, case: Case, outcome: Outcome) -> None:
    """Run the beginning once more, to see whether it is the same."""
    with made(make_app) as app:
        again = run_case(app, case, most_steps=KEPT_STEPS)
    _compare(_shown(outcome.first_steps), _shown(again.first_steps))


def _shown(steps: Iterable[tuple[float, str]]) -> list[str]:
    return [f"{_ADDRESS.sub('', name)} at {time:.6f} s" for time, name in steps]


def _compare(first: list[str], second: list[str]) -> None:
    for number in range(max(len(first), len(second))):
        one = first[number] if number < len(first) else None
        other = second[number] if number < len(second) else None
        if one != other:
            raise NotDeterministic(number + 1, one, other)


def _compare_traces(first: Outcome, second: Outcome) -> None:
    _compare(_brief(first.trace), _brief(second.trace))


def _brief(trace: Iterable[TraceEntry]) -> list[str]:
    return [
        f"{entry.what} {entry.text!r} of {entry.module or 'the app'} at {entry.time:.6f} s"
        for entry in trace
    ]


def _result(
    case: Case,
    outcome: Outcome,
    target: str,
    plan: FaultPlan | None = None,
    smaller: SimulationResult | None = None,
) -> SimulationResult:
    named = () if plan is None or outcome.violations else plan.faults
    return SimulationResult(
        seed=case.seed,
        duration=case.duration,
        only=case.only,
        faults=case.faults,
        violations=outcome.violations,
        trace=outcome.trace,
        modules=outcome.needs,
        missed=tuple(each for each in named if each in outcome.missed),
        strikes=outcome.strikes,
        restarts=outcome.restarts,
        reports=outcome.reports,
        steps=outcome.steps,
        checks=outcome.checks,
        time=outcome.time,
        shrunk=smaller,
        target=target,
        plan=plan,
        judges=tuple(_judges(case)),
    )


def _judges(case: Case) -> Iterator[str]:
    """What says whether it fails, as arguments; the usual ones left out."""
    if case.check is not None:
        yield f"check={_name(case.check)}"
    if case.bugs != BUGS:
        yield f"bugs=[{', '.join(map(_name, case.bugs))}]"
    if case.recovers_within != _RECOVERY:
        yield f"recovers_within={case.recovers_within!r}"


def _name(thing: object) -> str:
    return getattr(thing, "__qualname__", None) or repr(thing)
