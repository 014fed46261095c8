"""The seam between the framework and the functions that it calls.

Here others can come in between: to make a call fail, to put another function in its place, to
measure it. Nothing is asked while nobody has come in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, TypeAlias

__all__ = ["AnyAsyncFn", "CallKind", "Seam", "SeamedModule"]

#: What is called: a lifecycle function, the two halves of a lifespan, or work of some kind.
CallKind: TypeAlias = Literal[
    "prep",
    "start",
    "stop",
    "enter",
    "leave",
    "worker",
    "service-worker",
    "task",
    "microtask",
    "hook",
]
AnyAsyncFn: TypeAlias = Callable[..., Awaitable[object]]


class Seam:
    """Who comes in between, of one app, in the order in which they came: the last is outermost."""

    __slots__ = ("interceptors",)

    def __init__(self) -> None:
        self.interceptors: tuple[
            Callable[[object, CallKind, str, AnyAsyncFn], AnyAsyncFn], ...
        ] = ()

    @contextmanager
    def open(
        self, interceptor: Callable[[object, CallKind, str, AnyAsyncFn], AnyAsyncFn]
    ) -> Iterator[None]:
        """Let *interceptor* in for the length of a block."""
        self.interceptors += (interceptor,)
        try:
            yield
        finally:
            left = list(self.interceptors)
            left.reverse()  # the same one may be in twice: the later goes first
            left.remove(interceptor)
            left.reverse()
            self.interceptors = tuple(left)

    def around(self, module: object, kind: CallKind, name: str, fn: AnyAsyncFn) -> AnyAsyncFn:
        """What to call in the place of *fn*, this time."""
        for interceptor in self.interceptors:
            fn = interceptor(module, kind, name, fn)
        return fn


class SeamedModule(Protocol):
    """A module whose functions others may come before."""

    @property
    def seam(self) -> Seam: ...

    def around(self, kind: CallKind, name: str, fn: AnyAsyncFn) -> AnyAsyncFn:
        """What to call in the place of *fn*, this time; for when the seam has interceptors."""
