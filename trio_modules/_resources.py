"""What a module's lifespan yields, for those who declare that they need it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar, cast

from trio_modules._context import HasMainTask, current_owner
from trio_modules._exceptions import ModuleOffline, UndeclaredDependency
from trio_modules._status import ModuleStatus
from trio_modules._util import callable_name, check_call

__all__ = ["Resource", "ResourceModule"]

T = TypeVar("T")


class ResourceModule(HasMainTask, Protocol):
    """What a resource has to know of its module."""

    @property
    def status(self) -> ModuleStatus: ...


class Resource(Generic[T]):
    """The value that a lifespan yields: what `Module.lifespan` returns (ours, not the seed's).

    Attributes:
        name: the name of the lifespan's function.
    """

    __slots__ = ("_args", "_fakes", "_fn", "_generator", "_live", "_module", "_value", "name")

    def __init__(
        self,
        module: ResourceModule,
        fn: Callable[..., AsyncIterator[T]],
        args: tuple[object, ...],
    ) -> None:
        if not inspect.isasyncgenfunction(fn):
            raise TypeError(
                f"lifespan expected an async generator function that yields once, got {fn!r}"
            )
        check_call(fn, args, "lifespan")
        self.name = callable_name(fn)
        self._module = module
        self._fn = cast("Callable[..., AsyncGenerator[T, None]]", fn)
        self._args = args
        self._generator: AsyncGenerator[T, None] | None = None
        self._fakes: list[T] = []
        self._live = False
        self._value: T

    def __repr__(self) -> str:
        return f"<Resource {self._module.name}/{self.name}>"

    @property
    def value(self) -> T:
        """What was yielded.

        Raises:
            ModuleOffline: unless the module is starting, online or stopping.
            UndeclaredDependency: if read from inside a module that doesn't reach this one by
                ``depends_on`` or ``wants``.
        """
        self._check_declared()
        if self._fakes:
            return self._fakes[-1]
        if not self._live:
            module = self._module
            raise ModuleOffline(module.name, module.status.name, f"read its resource {self.name!r}")
        return self._value

    def _check_declared(self) -> None:
        reader = current_owner()
        if reader is None or reader is self._module:
            return
        if not reader.reaches(self._module.name):
            raise UndeclaredDependency(reader.name, self._module.name, self.name)

    @contextmanager
    def override(self, value: T) -> Iterator[None]:
        """Put a fake in the value's place for the length of a block, for a test.

        A module that starts inside of the block doesn't enter the lifespan at all.

        Args:
            value: what `value` is meanwhile, whether the module runs or not.
        """
        self._fakes.append(value)
        try:
            yield
        finally:
            place = next(i for i, fake in enumerate(self._fakes) if fake is value)
            del self._fakes[place]

    async def enter(self) -> None:
        """Run the lifespan up to its yield, unless there is a fake."""
        if self._fakes:
            return
        generator = self._fn(*self._args)
        try:
            self._value = await generator.__anext__()
        except StopAsyncIteration:
            raise RuntimeError(f"lifespan {self.name!r} returned without a yield") from None
        self._generator = generator
        self._live = True

    async def leave(self) -> None:
        """Run the lifespan from its yield to its end, if it was entered."""
        generator, self._generator = self._generator, None
        if generator is None:
            return
        try:
            await generator.__anext__()
        except StopAsyncIteration:
            return
        finally:
            self._live = False
            del self._value
        await generator.aclose()
        raise RuntimeError(f"lifespan {self.name!r} yielded more than once")
