"""The command ``trio-modules simulate``: many seeds, and the first that fails in full.

The command line finds the target; this room knows what to do with it. With several jobs each
process finds it for itself.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import logging
import math
import multiprocessing
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, cast

import attrs

from trio_modules import App
from trio_modules.testing._faults import Action, Fault, UnknownTarget, parse_fault
from trio_modules.testing._plan import FaultPlan
from trio_modules.testing._simulate import BUGS, SimulationResult, check_the_check, simulate
from trio_modules.testing._simulating import MakeApp, SimulationError

__all__ = ["MISTAKES", "USAGE", "Found", "add_options", "run"]

T = TypeVar("T")

MISTAKES: tuple[type[Exception], ...] = (SimulationError, UnknownTarget)
USAGE = """ [--seeds 0:1000] [--duration 7d] [--every 1h]
       [--actions fail,hang] [--targets PATTERN] [--fault FAULT] [--only MODULE]
       [--check TARGET] [--bug EXCEPTION] [--recovers-within 1h] [--picture FILE]
       [--jobs N] [--no-shrink]
      """

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(min|[smhdw]?)")
_NEVER = "never"
_RECOVERY = 3600.0
_BAR = 30
#: So many seconds may pass without a word where there is no bar.
_SILENCE = 30.0
#: The exit code of what Ctrl-C has ended.
_INTERRUPTED = 128 + signal.SIGINT


class Found(Protocol):
    """What the command line makes of TARGET and ARGS; it can be sent to other processes."""

    @property
    def text(self) -> str: ...
    @property
    def args(self) -> tuple[str, ...]: ...
    def __call__(self) -> object: ...
    def find(self, option: str, text: str) -> object: ...


# ---------------------------------------------------------------- options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to a parser."""
    add = parser.add_argument
    add("--seeds", type=_typed(_seeds), default=range(100), help="one, or from:to; default: 0:100")
    add("--duration", type=_typed(_seconds), default=86_400.0, help="default: 1d")
    add("--every", type=_typed(_seconds_or_never), help="time between random faults; default: 1h")
    add("--actions", type=_typed(_actions), help="some of fail,hang,...")
    add("--targets", action="append", metavar="PATTERN", help="what random faults strike")
    add("--fault", action="append", type=_typed(parse_fault), default=[], help=_FAULT_HELP)
    add("--only", action="append", metavar="MODULE", default=[], help="simulate a part")
    add("--check", metavar="TARGET", help="a function that takes the app and raises")
    add("--bug", action="append", metavar="EXCEPTION", default=[], help=_BUG_HELP)
    add("--recovers-within", type=_typed(_seconds_or_never), default=_RECOVERY, help="default: 1h")
    add("--picture", type=_typed(_picture), metavar="FILE", help=_PICTURE_HELP)
    add("--jobs", type=_typed(_jobs), default=1, metavar="N", help="processes; default: 1")
    add("--no-shrink", action="store_true", help="leave the failing run as large as it is")


_FAULT_HELP = "a fault by name, without random ones: \"fail('store/worker:poll', at=60)\""

_PICTURE_HELP = "where to draw the failing run, as SVG"

_BUG_HELP = "an exception that no outage explains, beside the usual ones: OSError or TARGET"


def _typed(read: Callable[[str], T]) -> Callable[[str], T]:
    """What argparse calls: its own words hide what is wrong."""

    def typed(text: str) -> T:
        try:
            return read(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from None

    return typed


def _seeds(text: str) -> range:
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if match is None:
        raise ValueError(f"must be a number from 0 on or two, as in 0:1000, got {text!r}")
    first = int(match.group(1))
    seeds = range(first, int(match.group(2) or first + 1))
    if not seeds:
        raise ValueError(f"must hold at least one seed, got {text!r}")
    return seeds


def _seconds(text: str) -> float:
    parts = _AMOUNT.findall(text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not seconds or _AMOUNT.sub("", text).strip():
        raise ValueError(f"must be a time above 0, as in 90, 30min, 12h, 7d, got {text!r}")
    return seconds


def _seconds_or_never(text: str) -> float:
    return math.inf if text == _NEVER else _seconds(text)


def _actions(text: str) -> tuple[Action, ...]:
    return FaultPlan(actions=text.split(",")).actions


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"must be at least 1, got {text!r}")
    return int(text)


def _picture(text: str) -> Path:
    """A file that can be written when the time comes: after minutes would be late to say no."""
    path = Path(text)
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise ValueError(f"must be a file in a folder that is there, got {text!r}")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise ValueError(f"must be a file that can be written, got {text!r}")
    return path


# ---------------------------------------------------------------- what is simulated


@attrs.frozen
class _Order:
    """What is simulated with each seed."""

    target: Found
    duration: float
    plan: FaultPlan
    only: tuple[str, ...]
    check: str | None
    bugs: tuple[str, ...]
    recovers_within: float | None
    first_seed: int

    def simulate(self, seed: int, *, shrink: bool) -> SimulationResult:
        """Simulate one seed; what the service prints is lost, as it would print it many times."""
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            return simulate(
                cast("MakeApp", self.target),
                seed=seed,
                duration=self.duration,
                faults=self.plan,
                check=self._check(),
                bugs=(*BUGS, *map(self._bug, self.bugs)),
                recovers_within=self.recovers_within,
                only=self.only,
                shrink=shrink,
                compare=seed == self.first_seed,
                logs=True,  # as --log-level says
            )

    def _bug(self, name: str) -> type[BaseException]:
        if name.isidentifier() and not hasattr(builtins, name):
            raise SimulationError(
                f"--bug must be an exception of Python's or file.py:attribute, got {name!r}"
            )
        found = getattr(builtins, name, None) or self.target.find("--bug", name)
        if not isinstance(found, type) or not issubclass(found, BaseException):
            raise SimulationError(f"--bug {name!r} must be an exception, got {found!r}")
        return found

    def _check(self) -> Callable[[App], object] | None:
        if self.check is None:
            return None
        found = cast("Callable[[App], object]", self.target.find("--check", self.check))
        try:
            check_the_check(found)
        except TypeError as exc:
            raise SimulationError(f"--check {self.check!r}: {exc}") from None
        return found

    def command(self, result: SimulationResult, plan: FaultPlan) -> str:
        """The line that simulates a result again."""
        words = ["trio-modules", "simulate", self.target.text, "--seeds", str(result.seed)]
        words += ["--duration", f"{result.duration:.12g}", *_words_of(plan)]
        for name in result.only:
            words += ["--only", name]
        if self.check is not None:
            words += ["--check", self.check]
        for name in self.bugs:
            words += ["--bug", name]
        if self.recovers_within != _RECOVERY:
            words += ["--recovers-within", _shown(self.recovers_within)]
        if self.target.args:
            words += ["--", *self.target.args]
        return " ".join(map(_quoted, words))


def _words_of(plan: FaultPlan) -> Iterator[str]:
    default = FaultPlan()
    for fault in plan.faults:
        yield from ("--fault", str(fault))
    if plan.every != (None if plan.faults else default.every):
        yield from ("--every", _shown(plan.every))
    if plan.actions != default.actions:
        yield from ("--actions", ",".join(plan.actions))
    for pattern in plan.targets or ():
        yield from ("--targets", pattern)


def _shown(seconds: float | None) -> str:
    return _NEVER if seconds is None else f"{seconds:g}"


def _quoted(word: str) -> str:
    """For a shell; faults have quotes in them, and are easier to read within the other kind."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _order_of(target: Found, options: argparse.Namespace) -> _Order:
    faults: list[Fault] = options.fault
    every: float | None = options.every
    if every is None and not faults:
        every = FaultPlan().every
    plan = FaultPlan(
        every=_unless_never(every),
        actions=options.actions or FaultPlan().actions,
        targets=options.targets,
        faults=faults,
    )
    return _Order(
        target=target,
        duration=options.duration,
        plan=plan,
        only=tuple(options.only),
        check=options.check,
        bugs=tuple(options.bug),
        recovers_within=_unless_never(options.recovers_within),
        first_seed=options.seeds[0],
    )


def _unless_never(seconds: float | None) -> float | None:
    return None if seconds == math.inf else seconds


# ---------------------------------------------------------------- doing it


def run(target: Found, options: argparse.Namespace) -> int:
    """Simulate one seed after another until one fails; return the exit code."""
    order, out = _order_of(target, options), sys.stdout
    total = _Total(len(options.seeds))
    try:
        with _lost_ctrl_c() as lost:
            failed = _first_failure(order, options, total, lost)
        if failed is not None:
            return _tell(order, failed, options)
    except KeyboardInterrupt:
        sys.stdout = out  # it may have struck before this was turned back from the service's
        print(f"{total}, then interrupted")
        return _INTERRUPTED
    if total.missed:
        print(
            f"{total}: no promise broken, but there was no occasion for {', '.join(total.missed)}"
        )
        return 1
    print(f"{total}: no promise broken")
    return 0


@contextlib.contextmanager
def _lost_ctrl_c() -> Iterator[list[BaseException]]:
    """Keep a Ctrl-C that strikes in a ``__del__``: Python prints it there and goes on."""
    lost: list[BaseException] = []
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            lost.append(unraisable.exc_value)
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield lost
    finally:
        sys.unraisablehook = before


def _first_failure(
    order: _Order, options: argparse.Namespace, total: _Total, lost: list[BaseException]
) -> int | None:
    """The first seed that fails, None if none does; *lost* is what ends it after a seed."""
    seeds: range = options.seeds
    try:
        for summary in _summaries(order, seeds, min(options.jobs, len(seeds))):
            total.add(summary)
            if lost:
                raise lost[0]
            if not summary.ok:
                return summary.seed
    finally:
        total.end()
    return None


def _tell(order: _Order, seed: int, options: argparse.Namespace) -> int:
    """Simulate a seed that fails once more, make it small, and show all of it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"seed {seed} fails; making it smaller ...\n")
    result = order.simulate(seed, shrink=not options.no_shrink)
    smallest = result.shrunk or result
    print(f"seed {seed}: {result.violations[0]}")
    print(f"replay: {order.command(result, order.plan)}")
    if result.shrunk is not None:
        plan = FaultPlan(every=None, faults=smallest.faults)
        print(f"smaller: {order.command(smallest, plan)}")
    print(f"\n{smallest.timeline()}")
    if options.picture is not None:
        options.picture.write_text(smallest.picture())
        print(f"\npicture: {options.picture}")
    return 1


@attrs.frozen
class _Summary:
    """What other processes tell of a simulation; *mistake* is why it couldn't be."""

    seed: int
    ok: bool = True
    strikes: int = 0
    restarts: int = 0
    missed: tuple[str, ...] = ()
    mistake: str = ""


def _summary(order: _Order, seed: int) -> _Summary:
    try:
        result = order.simulate(seed, shrink=False)
    except MISTAKES as exc:
        return _Summary(seed, mistake=str(exc))
    missed = tuple(map(str, result.missed))
    return _Summary(seed, result.ok, result.strikes, result.restarts, missed)


def _summaries(order: _Order, seeds: range, jobs: int) -> Iterator[_Summary]:
    """Simulate each seed, in their order, and raise what is a mistake of the user's."""
    if jobs == 1:
        for seed in seeds:
            yield _without_mistake(_summary(order, seed))
        return
    context = multiprocessing.get_context("spawn")
    level = logging.getLogger().getEffectiveLevel() - 1
    with ProcessPoolExecutor(jobs, context, _begin_process, (level,)) as executor:
        try:
            for summary in executor.map(partial(_summary, order), seeds):
                yield _without_mistake(summary)
        finally:
            executor.shutdown(cancel_futures=True)


def _begin_process(level: int) -> None:
    """Log as the first process does, and leave Ctrl-C to it; it reaches all of them."""
    logging.disable(level)
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))


def _without_mistake(summary: _Summary) -> _Summary:
    if summary.mistake:
        raise SimulationError(summary.mistake)
    return summary


class _Total:
    """The sums so far and how far it is: a bar on a terminal, elsewhere a line now and then.

    Attributes:
        missed: faults by name that no seed had an occasion for.
    """

    def __init__(self, seeds: int) -> None:
        self.missed: tuple[str, ...] = ()
        self._seeds = seeds
        self._done = self._strikes = self._restarts = 0
        self._began = self._told = time.monotonic()
        self._shows = sys.stderr.isatty()

    def __str__(self) -> str:
        counts = {"seed": self._done, "strike": self._strikes, "restart": self._restarts}
        return ", ".join(
            f"{count:,} {what if count == 1 else what + 's'}" for what, count in counts.items()
        )

    def add(self, summary: _Summary) -> None:
        self._done += 1
        if self._done == 1:
            self.missed = summary.missed
        self.missed = tuple(each for each in self.missed if each in summary.missed)
        self._strikes += summary.strikes
        self._restarts += summary.restarts
        now = time.monotonic()
        rate = self._done / max(now - self._began, 1e-9)
        so_far = f"{self._done}/{self._seeds} seeds, {rate:.1f}/s"
        if self._shows:
            filled = _BAR * self._done // self._seeds
            bar = "#" * filled + " " * (_BAR - filled)
            sys.stderr.write(f"\r[{bar}] {so_far} ")
            sys.stderr.flush()
        elif now - self._told >= _SILENCE:
            self._told = now
            print(so_far, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line of the bar."""
        if self._shows:
            sys.stderr.write("\n")
