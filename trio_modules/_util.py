"""Names of callables, and the checks of arguments that every room shares."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from types import CodeType, CoroutineType, FunctionType, MethodType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from typing_extensions import ParamSpec, TypeVarTuple, Unpack

    P = ParamSpec("P")
    ArgsT = TypeVarTuple("ArgsT")

__all__ = [
    "Checked",
    "Placeholder",
    "awaiting",
    "callable_name",
    "check_async",
    "check_call",
    "check_count",
    "check_identifier",
    "check_names",
    "check_seconds",
    "coroutine_function",
    "make_coroutine",
    "name_exceptions",
    "takes_keyword",
]


def callable_name(fn: object) -> str:
    """The short name by which logs, reports and ids call *fn*."""
    name = getattr(fn, "__name__", None)
    if isinstance(name, str):  # on the way of much work
        return name
    target = _without_partial(fn)
    name = getattr(target, "__name__", None)
    return name if isinstance(name, str) else type(target).__name__


def _without_partial(fn: object) -> object:
    while isinstance(fn, functools.partial):
        fn = cast("object", fn.func)
    return fn


def check_async(fn: object, what: str) -> None:
    """Raise `TypeError` unless calling *fn* would return a coroutine."""
    code = _plain_code(fn)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return  # on the way of much work
    if inspect.iscoroutine(fn):
        fn.close()
        raise TypeError(
            f"{what} was expecting an async function, but instead it got a coroutine object "
            f"{fn!r}; pass the function and its arguments, without the parentheses"
        )
    if not callable(fn):
        raise TypeError(f"{what} expected an async function, but got {fn!r}")
    target = _without_partial(fn)
    if inspect.iscoroutinefunction(target):
        return
    if inspect.iscoroutinefunction(getattr(target, "__call__", None)):  # noqa: B004
        return
    if inspect.isasyncgenfunction(target):
        raise TypeError(f"{what} expected an async function, but got an async generator {fn!r}")
    raise TypeError(
        f"{what} expected an async function, but {_shown(fn)} appears to be synchronous"
    )


def _shown(fn: object) -> str:
    return repr(getattr(fn, "__qualname__", fn))


class Placeholder:
    """Stands in a check for an argument that comes later, and shows what that will be."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


def check_call(
    fn: Callable[..., object], args: tuple[object, ...], what: str, keyword: str | None = None
) -> None:
    """Raise `TypeError` if *fn* can't be called with *args* (and the argument *keyword*)."""
    if keyword is None and _plainly_takes(fn, len(args)):
        return
    try:
        signature = inspect.signature(fn)
    except ValueError:
        return  # some builtins have no signature: the call itself will say
    try:
        signature.bind(*args, **({keyword: None} if keyword else {}))
    except TypeError as exc:
        raise TypeError(
            f"{what} can't call {_shown(fn)} with the arguments {args!r}: {exc}"
        ) from None


_VARIADIC = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def _plain_code(fn: object) -> CodeType | None:
    """The code of a plain function or method: far cheaper to ask than a signature."""
    if isinstance(fn, MethodType):
        fn = fn.__func__
    return fn.__code__ if isinstance(fn, FunctionType) else None


def _plainly_takes(fn: object, count: int) -> bool:
    code = _plain_code(fn)
    if code is None or code.co_flags & _VARIADIC or code.co_kwonlyargcount:
        return False
    return code.co_argcount - isinstance(fn, MethodType) == count


class Checked:
    """The function that was found to be right last: thousands of calls may share one.

    It keeps that function alive until there is another.
    """

    __slots__ = ("_count", "_fn", "_name")

    def __init__(self) -> None:
        self._fn: object = self  # which nobody calls
        self._name = ""
        self._count = 0

    def name_of(self, fn: Callable[..., object], args: tuple[object, ...], what: str) -> str:
        """The name of *fn*; `TypeError` unless it returns a coroutine when called with *args*."""
        if fn is not self._fn or len(args) != self._count:
            check_async(fn, what)
            check_call(fn, args, what)
            self._fn, self._count, self._name = fn, len(args), callable_name(fn)
        return self._name


def takes_keyword(fn: Callable[..., object], keyword: str) -> bool:
    """Whether *fn* has a parameter *keyword* that can be given by name."""
    code = _plain_code(fn)
    if code is not None and not code.co_flags & _VARIADIC:
        first, last = code.co_posonlyargcount, code.co_argcount + code.co_kwonlyargcount
        return keyword in code.co_varnames[first:last]
    try:
        parameter = inspect.signature(fn).parameters.get(keyword)
    except ValueError:
        return False
    return parameter is not None and parameter.kind is not parameter.POSITIONAL_ONLY


def make_coroutine(
    fn: Callable[[Unpack[ArgsT]], Awaitable[object]], args: tuple[Unpack[ArgsT]], what: str
) -> Coroutine[object, object, object]:
    """Call *fn*, which has to be async, and return its coroutine, not yet begun.

    This is on the way of every spawn: the flag of a plain function settles it with one look.
    """
    try:
        plain: int = fn.__code__.co_flags & inspect.CO_COROUTINE
    except AttributeError:
        plain = 0
    if not plain:
        check_async(fn, what)
    coro = fn(*args)
    if type(coro) is CoroutineType:
        return coro
    return awaiting(coro)


def coroutine_function(
    fn: Callable[P, Awaitable[object]],
) -> Callable[P, Coroutine[object, object, object]]:
    """*fn* if its calls give coroutines for sure, as nearly all do, else one that awaits them."""
    code = _plain_code(fn)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return cast("Callable[P, Coroutine[object, object, object]]", fn)

    async def call(*args: P.args, **kwargs: P.kwargs) -> object:
        return await fn(*args, **kwargs)

    return call


async def awaiting(awaitable: Awaitable[object]) -> object:
    """A coroutine of whatever can be awaited."""
    return await awaitable


def check_seconds(name: str, value: object, *, minimum: float = 0.0, finite: bool = False) -> float:
    """Return *value* as a float, or say which argument is no sensible number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if math.isnan(value):
        raise ValueError(f"{name} must not be NaN, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum:g}, got {value!r}")
    if finite and math.isinf(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)


def check_count(name: str, value: object, *, minimum: int) -> int:
    """Return *value* as an int of at least *minimum*, or say which argument is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return value


def check_identifier(name: str, value: object) -> str:
    """Return *value* as a usable name: a non-empty string without a slash."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    if not value or "/" in value:
        raise ValueError(f"{name} must be non-empty and without '/', got {value!r}")
    return value


def check_names(name: str, value: object) -> tuple[object, ...]:
    """Return the items of *value*; a lone string is the classic slip, so it has its own words."""
    if isinstance(value, str):
        raise TypeError(
            f"{name} must be a list, got the string {value!r}; did you mean [{value!r}]?"
        )
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of modules or their names, got {value!r}")
    return tuple(value)


def name_exceptions(namespace: dict[str, object]) -> None:
    """Let tracebacks call the exceptions of a face by the name from which they are imported."""
    face = str(namespace["__name__"])
    for each in namespace.values():
        is_exception = isinstance(each, type) and issubclass(each, BaseException)
        if is_exception and each.__module__.startswith(f"{face}."):
            each.__module__ = face
