"""What user code does while it runs, written down as it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import trio

from services import plan as plans
from services.record import BaseExceptionGroup, ExceptionGroup, Recorder, parts
from trio_modules import (
    App,
    CleanExit,
    Module,
    RestartModule,
    RestartNow,
    Retry,
    current_app,
    current_module,
)

__all__ = ["AsyncFn", "Performer", "Source", "named"]

AsyncFn = Callable[[], Awaitable[object]]

#: The role of the function that does something, its module, and the token of its execution.
Source = tuple[str, str, int]

REQUESTS: dict[str, type[Exception]] = {
    "restart-now": RestartNow,
    "restart-module": RestartModule,
    "clean-exit": CleanExit,
}


FnT = TypeVar("FnT", bound=Callable[..., object])


class Failure(Exception):
    """What user code raises when it fails."""


async def stray_cancelled() -> trio.Cancelled:
    """Return a `trio.Cancelled` whose scope is gone."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            return exc
    raise AssertionError("a checkpoint in a cancelled scope went on")


def named(fn: FnT, name: str) -> FnT:
    """Give a function made here the name of the function that it stands for."""
    for attribute in ("__name__", "__qualname__"):
        setattr(fn, attribute, name)
    return fn


def details_of(call: plans.Call) -> str:
    """What people want to know of a call, beyond its kind and module."""
    if isinstance(call, plans.OrderTask):
        return f" {call.order} {call.task} {call.seconds}"
    if isinstance(call, plans.RunMicrotask):
        return f" {call.way} {call.func.name} {call.priority.name}"
    if isinstance(call, plans.SetLimit):
        return f" {call.what} {call.value}"
    return f" {call.task}" if isinstance(call, plans.AwaitTask) else ""


class Performer:
    """Acts out what the plan says of functions, and asks the framework for what they ask for."""

    app: App
    modules: dict[str, Module]
    recorder: Recorder
    executions: Counter[str]

    # execution

    @contextmanager
    def recorded(self, role: str, module: str, text: str) -> Iterator[int]:
        recorder = self.recorder
        token = recorder.begin(role, module, text)
        try:
            yield token
        except BaseException as exc:
            recorder.end(token, exc)
            raise
        recorder.end(token)

    async def execute(
        self,
        role: str,
        module: str,
        func: plans.Func,
        get_ready: AsyncFn | None = None,
        details: str = "",
    ) -> str:
        """Run one execution of a user function; its name."""
        count = self.executions[func.name]
        self.executions[func.name] += 1
        self.recorder.run.functions[func.name] = func
        act = func.acts[min(count, len(func.acts) - 1)]
        name = f"{func.name}@{count}"
        with self.recorded(role, module, f"{name}{details}") as token:
            self.check_context(role, module)
            if get_ready is not None and act.ending == "forever":
                await get_ready()
            await self.perform(act, (role, module, token))
        return name

    def check_context(self, role: str, module: str) -> None:
        if not module or role == "slot":
            return
        if current_app() is not self.app:
            self.recorder.wrong(f"current_app() in {role} of {module} is another one")
        if current_module() is not self.modules[module]:
            self.recorder.wrong(f"current_module() in {role} of {module} is another one")

    async def perform(self, act: plans.Act, source: Source) -> None:
        try:
            await self.work(act, source)
        except trio.Cancelled:
            if act.stubborn:
                with trio.CancelScope(shield=True):
                    await trio.sleep(act.stubborn)
            if act.spiteful:
                raise self.failure(source) from None
            raise
        await self.finish(act, source)

    async def work(self, act: plans.Act, source: Source) -> None:
        module = source[1]
        await trio.sleep(act.delay)
        if act.call is not None:
            await self.ask(act.call, source)
        if act.interruptible:
            with self.modules[module].interruptible():
                await trio.sleep_forever()
            if not self.modules[module].stopping.is_set():
                self.recorder.wrong(f"{module} was interrupted though it isn't stopping")
        elif act.ending == "forever":
            await trio.sleep_forever()

    async def finish(self, act: plans.Act, source: Source) -> None:
        """End as planned."""
        ending = act.ending
        if ending == "retry":
            raise Retry(act.retry_after)
        if ending == "raise":
            raise self.failure(source)
        if ending == "group":
            raise ExceptionGroup("two at once", [self.failure(source), self.failure(source)])
        if ending == "stray":
            raise await self.stray(source)
        if ending == "stray-group":
            both = [await self.stray(source), self.failure(source)]
            raise BaseExceptionGroup("a stray one and a failure", both)
        if ending == "mixed-group":
            mixed = [self.control(KeyboardInterrupt, source), self.failure(source)]
            raise BaseExceptionGroup("an interrupt and a failure", mixed)
        if ending in ("interrupt", "exit"):
            raise self.control(KeyboardInterrupt if ending == "interrupt" else SystemExit, source)
        if ending in REQUESTS:
            request = REQUESTS[ending](f"#{len(self.recorder.run.made) + 1}")
            label: Literal["clean-exit", "request"] = (
                "clean-exit" if ending == "clean-exit" else "request"
            )
            self.recorder.make(request, label, source)
            raise request

    def failure(self, source: Source) -> Failure:
        exc = Failure(f"#{len(self.recorder.run.made) + 1}")
        self.recorder.make(exc, "failure", source)
        return exc

    def control(self, kind: type[BaseException], source: Source) -> BaseException:
        exc = kind(f"#{len(self.recorder.run.made) + 1}")
        self.recorder.make(exc, "control", source)
        return exc

    async def stray(self, source: Source) -> trio.Cancelled:
        exc = await stray_cancelled()
        self.recorder.make(exc, "stray", source)
        return exc

    # asking the framework

    async def ask(self, call: plans.Call, source: Source) -> None:
        """Do what *call* says, as the function that *source* tells of, and record the answer."""
        recorder = self.recorder
        token = recorder.token()
        recorder.run.calls[token] = call, source
        what = type(call).__name__
        text = f"by {source[0]}/{source[1]}{details_of(call)}"
        recorder.note("call", getattr(call, "module", ""), what, token, text)
        try:
            answer = await self.ask_now(call, source, token)
        except trio.Cancelled:
            recorder.note("return", "", what, token, "cancelled")
            raise
        except Exception as exc:
            if isinstance(call, plans.RunWorker) and call.propagate and self.is_made(exc):
                recorder.run.passed_on.update(recorder.run.serials(exc))
                recorder.note("return", "", what, token, "passed on")
                raise
            self.caught(call, exc)
            recorder.note("return", "", what, token, recorder.outcome(exc))
        except BaseException as exc:
            recorder.run.passed_on.update(recorder.run.serials(exc))
            recorder.note("return", "", what, token, "passed on")
            raise
        else:
            recorder.note("return", "", what, token, answer)

    def is_made(self, exc: BaseException) -> bool:
        return any(id(part) in self.recorder.run.made for part in parts(exc))

    def caught(self, call: plans.Call, exc: BaseException) -> None:
        run = self.recorder.run
        run.foreign.append(exc)
        if isinstance(call, plans.RunWorker | plans.RunMicrotask):
            run.caught += run.serials(exc)
        else:
            run.managed.update(run.serials(exc))

    async def ask_now(self, call: plans.Call, source: Source, token: int) -> str:
        """Do what *call* says; the answer, for the trace."""
        raise NotImplementedError
