"""Faults as values: what is to go wrong, where and when.

A fault has a target, "module/kind:name", and strikes at the n-th call of that, or at a time. How
it strikes is in `_injecting`.
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import attrs

from trio_modules import App
from trio_modules.abc import CallKind

__all__ = [
    "KINDS",
    "Action",
    "Fault",
    "UnknownTarget",
    "crash",
    "deaf",
    "fail",
    "hang",
    "parse_fault",
    "slow",
    "targets_of",
]

Action: TypeAlias = Literal["fail", "hang", "deaf", "slow", "crash"]

#: The kinds of calls as a target names them; a service worker is a "worker", too.
KINDS: Mapping[CallKind, str] = {
    "prep": "prep",
    "start": "start",
    "stop": "stop",
    "enter": "enter",
    "leave": "leave",
    "worker": "worker",
    "service-worker": "worker",
    "task": "task",
    "microtask": "microtask",
    "hook": "hook",
}
_NAMES = tuple(dict.fromkeys(KINDS.values()))


class UnknownTarget(ValueError):
    """Something is to be struck that the app doesn't have (ours).

    Attributes:
        target: what, as it was given.
    """

    def __init__(self, message: str, target: str) -> None:
        super().__init__(message)
        self.target = target


def _check_target(_: object, __: object, value: str) -> None:
    module, slash, call = value.partition("/")
    if not module or (slash and call.partition(":")[0] not in _NAMES):
        raise ValueError(
            f"target must be 'module', 'module/kind' or 'module/kind:name' with a kind of "
            f"{', '.join(_NAMES)}, got {value!r}"
        )


def _check_call(_: object, __: object, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or value < 1):
        raise ValueError(f"call must be at least 1, got {value!r}")


def _check_seconds(_: object, attribute: attrs.Attribute[float], value: float | None) -> None:
    if value is not None and not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name} must be a number of seconds from 0 on, got {value!r}")


def _check_error(_: object, __: object, value: Callable[[], BaseException] | None) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"error must be an exception's class, or make one, got {value!r}")


@attrs.frozen
class Fault:
    """One thing that goes wrong (ours); `fail`, `hang`, `deaf`, `slow` and `crash` make them.

    With neither `call` nor `at` it strikes every call.

    Attributes:
        target: "module/kind:name", where the name may be left out; a crash may name the module
            alone. The kind is "prep", "start", "stop", "enter" or "leave" (of a lifespan),
            "worker" (of any sort), "task", "microtask" or "hook".
        action: what happens.
        call: it strikes the n-th call, from 1 on.
        at: it strikes at this time, in seconds from the injection on: the call that goes on then
            or, if there is none, the next one.
        lasts: seconds from `at` on in which it strikes every call.
        seconds: how long "slow" and "deaf" take.
        error: makes the exception that "fail" and "crash" raise; None for `InjectedFault`.
    """

    target: str = attrs.field(validator=_check_target)
    action: Action
    call: int | None = attrs.field(default=None, validator=_check_call)
    at: float | None = attrs.field(default=None, validator=_check_seconds)
    lasts: float = attrs.field(default=0.0, validator=_check_seconds)
    seconds: float = attrs.field(default=0.0, validator=_check_seconds)
    error: Callable[[], BaseException] | None = attrs.field(default=None, validator=_check_error)

    def __attrs_post_init__(self) -> None:
        if self.call is not None and self.at is not None:
            raise ValueError(
                f"only one of call and at can be given, got {self.call!r} and {self.at!r}"
            )
        if self.lasts and self.at is None:
            raise ValueError(f"lasts needs at, got {self.lasts!r} alone")
        if "/" not in self.target and self.action != "crash":
            raise ValueError(
                f"target must name what is to {self.action}, as in '{self.target}/worker:name', "
                f"got {self.target!r}"
            )
        if "/" not in self.target and (self.at is None or self.lasts):
            raise ValueError(
                f"a crash of module {self.target!r} as such needs at, and nothing else"
            )

    @property
    def module(self) -> str:
        """The name of the module."""
        return self.target.partition("/")[0]

    @property
    def label(self) -> str:
        """What happens, for people, without the module."""
        call = self.target.partition("/")[2]
        length = self.seconds or self.lasts
        words = (self.action, call, f"for {length:g} s" if length else "")
        return " ".join(word for word in words if word)

    def __str__(self) -> str:
        args = [repr(self.target)]
        if self.action in ("slow", "deaf"):
            args.append(repr(self.seconds))
        if self.error is not None:
            args.append(getattr(self.error, "__qualname__", repr(self.error)))
        given = {"call": self.call, "at": self.at, "lasts": self.lasts or None}
        args += [f"{name}={value!r}" for name, value in given.items() if value is not None]
        return f"{self.action}({', '.join(args)})"


def fail(
    target: str,
    error: Callable[[], BaseException] | None = None,
    *,
    call: int | None = None,
    at: float | None = None,
    lasts: float = 0.0,
) -> Fault:
    """A call raises (ours). One that goes on when the time comes is cancelled first.

    Args:
        target: see `Fault`.
        error: a class or function that makes the exception; `InjectedFault` by default.
        call: the n-th call, from 1 on.
        at: seconds from the injection on.
        lasts: seconds from *at* on in which every call fails.
    """
    return Fault(target, "fail", call, at, lasts, error=error)


def hang(
    target: str, *, call: int | None = None, at: float | None = None, lasts: float = 0.0
) -> Fault:
    """A call does nothing until it is cancelled (ours).

    When the fault has lasted its time, a call that hung from its beginning goes on, and one that
    was in the middle of something fails.

    Args:
        target: see `Fault`.
        call: the n-th call, from 1 on.
        at: seconds from the injection on.
        lasts: seconds from *at* on; for ever by default. A call that is chosen by its number
            hangs until it is cancelled.
    """
    return Fault(target, "hang", call, at, lasts)


def deaf(
    target: str,
    seconds: float,
    *,
    call: int | None = None,
    at: float | None = None,
    lasts: float = 0.0,
) -> Fault:
    """A call that is cancelled takes its time before it ends (ours).

    Args:
        target: see `Fault`.
        seconds: for how long it ignores the cancellation.
        call: the n-th call, from 1 on.
        at: seconds from the injection on; it is deaf to the first cancellation after that.
        lasts: seconds from *at* on in which it is deaf to all.
    """
    return Fault(target, "deaf", call, at, lasts, seconds)


def slow(
    target: str,
    seconds: float,
    *,
    call: int | None = None,
    at: float | None = None,
    lasts: float = 0.0,
) -> Fault:
    """A call begins late (ours).

    Args:
        target: see `Fault`.
        seconds: how late.
        call: the n-th call, from 1 on.
        at: seconds from the injection on; the first call after that is slow.
        lasts: seconds from *at* on in which all are.
    """
    return Fault(target, "slow", call, at, lasts, seconds)


def crash(
    target: str,
    error: Callable[[], BaseException] | None = None,
    *,
    call: int | None = None,
    at: float | None = None,
    lasts: float = 0.0,
) -> Fault:
    """An exception escapes the module's nursery, which crashes it (ours).

    Args:
        target: see `Fault`; a module's name alone needs *at*.
        error: a class or function that makes the exception; `InjectedFault` by default.
        call: the n-th call, from 1 on.
        at: seconds from the injection on. A module that isn't online then crashes as soon as
            it is; a call of one that isn't online fails instead.
        lasts: seconds from *at* on in which every call crashes it.
    """
    return Fault(target, "crash", call, at, lasts, error=error)


_MAKERS: Mapping[str, Callable[..., Fault]] = {
    maker.__name__: maker for maker in (fail, hang, deaf, slow, crash)
}


def parse_fault(text: str) -> Fault:
    """Read a fault as its `str` shows it; of errors only Python's own exceptions.

    Raises:
        ValueError: if it isn't one.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        assert isinstance(tree, ast.Call)
        assert isinstance(tree.func, ast.Name)
        maker = _MAKERS[tree.func.id]
        args = [_value_of(arg) for arg in tree.args]
        options = {str(option.arg): _value_of(option.value) for option in tree.keywords}
    except (SyntaxError, AssertionError, KeyError, ValueError):
        raise ValueError(
            f"a fault looks like {fail('store/worker:poll', OSError, at=60.0, lasts=5.0)} or "
            f"{hang('store/worker:poll', call=3)}, with one of {', '.join(_MAKERS)}, got {text!r}"
        ) from None
    try:
        return maker(*args, **options)
    except TypeError as exc:
        raise ValueError(f"in {text!r}: {exc}") from None


def _value_of(node: ast.expr) -> object:
    if isinstance(node, ast.Name):
        found: object = getattr(builtins, node.id, None)
        assert isinstance(found, type)
        assert issubclass(found, BaseException)
        return found
    value: object = ast.literal_eval(node)
    return value


def targets_of(app: App) -> list[str]:
    """All that can be struck of an app, as declared now: "module/kind:name" (ours).

    Args:
        app: the app, running or not.
    """
    return [
        f"{module.name}/{KINDS[kind]}:{name}"
        for module in app.modules.values()
        for kind, name in module.declared
    ]
