"""How faults strike: between the framework and the functions that it calls.

Each target of a fault is a site, which counts its calls and knows which of its faults are due.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from difflib import get_close_matches
from functools import partial

import attrs
import trio

from trio_modules import App, Module, ModuleStatus
from trio_modules.abc import AnyAsyncFn, CallKind
from trio_modules.testing._background import background
from trio_modules.testing._faults import KINDS, Fault, UnknownTarget, targets_of

__all__ = ["FaultNotMet", "InjectedFault", "Injector", "Strike", "check_faults", "inject"]

AsyncCall = Callable[[], Awaitable[object]]

#: What can end a call in its middle.
_BREAKING = ("fail", "hang", "crash")


class InjectedFault(Exception):
    """What a fault raises if it has no error of its own (ours).

    Attributes:
        target: what was struck.
        number: which strike it was, from 1.
    """

    def __init__(self, target: str, number: int) -> None:
        super().__init__(f"fault {number} in {target}")
        self.target = target
        self.number = number


class FaultNotMet(AssertionError):
    """There was no occasion for a fault to strike (ours).

    Attributes:
        faults: those that didn't.
    """

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__(f"there was no occasion for {', '.join(map(str, faults))}")
        self.faults = faults


@attrs.frozen
class Strike:
    """That a fault has struck (ours).

    Attributes:
        time: when, on Trio's clock, in seconds.
        fault: which.
        number: which strike it was, from 1.
        error: what it raised; None for what raises nothing.
    """

    time: float
    fault: Fault
    number: int
    error: BaseException | None = None


@asynccontextmanager
async def inject(app: App, *faults: Fault, must_strike: bool = True) -> AsyncIterator[Injector]:
    """Make things go wrong in *app* for the length of a block (ours).

    Args:
        app: the app, running or not.
        faults: what goes wrong; the times count from here on.
        must_strike: whether it is an error if a fault has had no occasion by the end.

    Yields:
        the `Injector`, which knows what has struck.

    Raises:
        UnknownTarget: at once, if a fault names a module or a function that isn't there. Work
            that is started while the module runs isn't declared, and is named with a plus:
            "module/worker:+name".
        FaultNotMet: at the end, unless the block raised something itself.

    Cancellation passes.
    """
    injector = Injector(app, faults)
    with app.intercept(injector):
        async with background() as nursery:
            for fault in faults:
                if "/" not in fault.target:
                    nursery.start_soon(injector.crash_module, fault)
            yield injector
    missed = tuple(fault for fault in faults if fault not in injector.met)
    if must_strike and missed:
        raise FaultNotMet(missed)


def check_faults(app: App, faults: Iterable[Fault]) -> None:
    """Make sure that all that the faults name is there.

    Raises:
        UnknownTarget: with the near misses.
    """
    known = targets_of(app)
    places = {target.rpartition(":")[0] for target in known}
    for fault in faults:
        if fault.module not in app:
            hint = _hint(fault.module, list(app.modules))
            message = f"app {app.name!r} has no module {fault.module!r} for {fault}{hint}"
            raise UnknownTarget(message, fault.target)
        target = fault.target
        if "/" in target and ":+" not in target and target not in known and target not in places:
            raise UnknownTarget(
                f"module {fault.module!r} declares no {target.partition('/')[2]!r} for {fault}"
                f"{_hint(target, known)}",
                target,
            )


def _hint(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


class _Site:
    """One target: its calls, and which of its faults are due."""

    def __init__(self, faults: Iterable[Fault], began: float) -> None:
        self._by_call = [fault for fault in faults if fault.at is None]
        timed = [fault for fault in faults if fault.at is not None]
        self._coming = deque(sorted(timed, key=lambda fault: fault.at or 0.0))
        self._present: list[Fault] = []
        self._began = began
        self.calls = 0

    def due(self) -> list[Fault]:
        """The faults that strike now, by the number of the present call or by the time."""
        now = trio.current_time() - self._began
        while self._coming and (self._coming[0].at or 0.0) <= now:
            self._present.append(self._coming.popleft())
        if self._present:
            self._present = [each for each in self._present if not _is_over(each, now)]
        by_call = [each for each in self._by_call if each.call in (None, self.calls)]
        return by_call + self._present if self._present else by_call

    def next_break(self) -> Fault | None:
        """The first to come that can end a call in its middle."""
        return next((fault for fault in self._coming if fault.action in _BREAKING), None)

    def met(self, fault: Fault) -> None:
        """It has struck: unless it lasts, it strikes once."""
        if fault.at is not None and not fault.lasts:
            for faults in (self._present, self._coming):
                if fault in faults:
                    faults.remove(fault)
        elif fault in self._coming:
            self._coming.remove(fault)
            self._present.append(fault)


def _is_over(fault: Fault, now: float) -> bool:
    return bool(fault.lasts) and now > (fault.at or 0.0) + fault.lasts


class Injector:
    """Injects faults; made by `inject` (ours).

    Attributes:
        strikes: what has struck, in order.
        met: the faults that have.
    """

    def __init__(
        self,
        app: App,
        faults: Sequence[Fault],
        on_strike: Callable[[Strike], None] = lambda strike: None,
    ) -> None:
        check_faults(app, faults)
        self.strikes: list[Strike] = []
        self.met: dict[Fault, None] = {}
        self._app = app
        self._on_strike = on_strike
        self._began = trio.current_time()
        by_target: dict[str, list[Fault]] = {}
        for fault in faults:
            by_target.setdefault(fault.target.replace(":+", ":"), []).append(fault)
        self._sites = {target: _Site(found, self._began) for target, found in by_target.items()}

    def __call__(
        self, module: Module, kind: CallKind, name: str, async_fn: AnyAsyncFn, /
    ) -> AnyAsyncFn:
        """See `trio_modules.abc.Interceptor`."""
        place = f"{module.name}/{KINDS[kind]}"
        for target in (f"{place}:{name}", place):
            site = self._sites.get(target)
            if site is not None:
                async_fn = self._around(module, kind, site, async_fn)
        return async_fn

    def _around(
        self, module: Module, kind: CallKind, site: _Site, async_fn: AnyAsyncFn
    ) -> AnyAsyncFn:
        # No scope may be around half of a lifespan: it may hold a nursery over its yield.
        ways = {"enter": self._call_enter, "leave": self._call_leave}
        call = ways.get(kind, self._call)

        async def struck(*args: object, **kwargs: object) -> object:
            site.calls += 1
            return await call(module, site, partial(async_fn, *args, **kwargs))

        return struck

    async def _call(self, module: Module, site: _Site, fn: AsyncCall) -> object:
        await self._strike_due(module, site)
        breaks = site.next_break()
        if breaks is None:
            return await self._deafly(site, fn)
        assert breaks.at is not None
        with trio.CancelScope(deadline=self._began + breaks.at):
            return await self._deafly(site, fn)
        # A call that hung in its middle can't go on where it was, so it fails in the end.
        raise await self._strike(module, site, breaks)

    async def _call_enter(self, module: Module, site: _Site, fn: AsyncCall) -> object:
        await self._strike_due(module, site)
        return await self._deafly(site, fn)

    async def _call_leave(self, module: Module, site: _Site, fn: AsyncCall) -> object:
        """A lifespan's end goes wrong after it has run, or it would hold what it holds for ever."""
        try:
            return await self._deafly(site, fn)
        finally:
            await self._strike_due(module, site)

    async def _strike_due(self, module: Module, site: _Site) -> None:
        for fault in site.due():
            if fault.action != "deaf":
                await self._strike(module, site, fault)

    async def _deafly(self, site: _Site, fn: AsyncCall) -> object:
        try:
            return await fn()
        except trio.Cancelled:
            for fault in site.due():
                if fault.action == "deaf":
                    self._note(fault, site)
                    with trio.CancelScope(shield=True):
                        await trio.sleep(fault.seconds)
            raise

    async def _strike(self, module: Module, site: _Site, fault: Fault) -> BaseException:
        """Let it strike; if the call survives that, return the error that it might end with."""
        error = self._note(fault, site)
        if fault.action == "slow":
            await trio.sleep(fault.seconds)
        elif fault.action == "hang":
            over = self._began + (fault.at or 0.0) + fault.lasts
            await trio.sleep_until(over if fault.lasts else math.inf)
        elif fault.action == "crash" and module.online:
            module.nursery.start_soon(_raise, error, name="injected crash")
            await trio.sleep_forever()
        else:
            raise error
        return error

    async def crash_module(self, fault: Fault) -> None:
        """Wait for the time of a crash that no call has a part in."""
        assert fault.at is not None
        await trio.sleep_until(self._began + fault.at)
        module = self._app[fault.module]
        await module.wait_status(ModuleStatus.ONLINE)
        if module.online:
            module.nursery.start_soon(_raise, self._note(fault), name="injected crash")

    def _note(self, fault: Fault, site: _Site | None = None) -> BaseException:
        """Count a strike, and make the error that it raises."""
        number = len(self.strikes) + 1
        error = fault.error() if fault.error else InjectedFault(fault.target, number)
        raised = error if fault.action in ("fail", "crash") else None
        strike = Strike(trio.current_time(), fault, number, raised)
        self.strikes.append(strike)
        self.met[fault] = None
        if site is not None:
            site.met(fault)
        self._on_strike(strike)
        return error


async def _raise(error: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise error
