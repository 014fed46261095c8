"""Fakes in the place of whole modules, which keep their names, edges and events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches

import trio

from trio_modules import App, Module
from trio_modules.abc import AnyAsyncFn, CallKind

__all__ = ["FakeModule", "fake"]


class FakeModule:
    """A module that does nothing of its own; made by `fake` (ours).

    Attributes:
        module: the module.
        calls: kind and name of what would have been called, in order.
        received: what each of its hooks got, by the hook's name.
    """

    def __init__(self, module: Module, replaced: Mapping[str, AnyAsyncFn]) -> None:
        self.module = module
        self.calls: list[tuple[CallKind, str]] = []
        self.received: dict[str, list[object]] = {}
        self._replaced = replaced

    def __call__(
        self, module: Module, kind: CallKind, name: str, async_fn: AnyAsyncFn, /
    ) -> AnyAsyncFn:
        """See `trio_modules.abc.Interceptor`."""
        if module is not self.module:
            return async_fn
        self.calls.append((kind, name))
        if name in self._replaced:
            return self._replaced[name]
        if kind == "hook":
            return self._receiver(name)
        return async_fn if kind == "leave" else _do_nothing  # what wasn't entered isn't left

    def _receiver(self, name: str) -> AnyAsyncFn:
        received = self.received.setdefault(name, [])

        async def receive(data: object) -> None:
            received.append(data)
            await trio.lowlevel.checkpoint()

        return receive


async def _do_nothing(
    *_: object, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    task_status.started()
    await trio.lowlevel.checkpoint()


@contextmanager
def fake(
    app: App, module: Module | str, replace: Mapping[str, AnyAsyncFn] | None = None
) -> Iterator[FakeModule]:
    """Put a fake in the place of a module for the length of a block (ours).

    It starts and stops like any other, and its events can be triggered and hooked, but none of
    its own functions run: lifecycle functions and work return at once, and hooks keep what they
    get. Its resources can't be read, unless `trio_modules.Resource.override` gives them a value.

    Args:
        app: the app that the module is registered in.
        module: the module or its name.
        replace: by name, functions to call in the place of its own.

    Yields:
        the `FakeModule`.

    Raises:
        KeyError: if there is no such module.
        ValueError: if a name in *replace* isn't declared. The name of work that is started while
            the module runs has a plus before it: "+name".
    """
    target = app[module.name if isinstance(module, Module) else module]
    known = {name for _, name in target.declared}
    replaced = replace or {}
    for name in replaced:
        if not name.startswith("+") and name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"module {target.name!r} declares no {name!r}{hint}")
    faked = FakeModule(target, {name.removeprefix("+"): fn for name, fn in replaced.items()})
    with app.intercept(faked):
        yield faked
