"""Others come between the framework and the functions that it calls; apps run in part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from support import let_run, reports_of

from trio_modules import App, Backoff, GraphError, Module, ModuleStatus, Restart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_modules.abc import AnyAsyncFn, CallKind, Interceptor


class Spy:
    """Notes each call and its end."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.ended: list[str] = []

    def __call__(
        self, module: Module, kind: CallKind, name: str, async_fn: AnyAsyncFn, /
    ) -> AnyAsyncFn:
        self.seen.append((module.name, kind, name))

        async def spied(*args: object, **kwargs: object) -> object:
            try:
                return await async_fn(*args, **kwargs)
            finally:
                self.ended.append(name)

        return spied


async def work(*args: object) -> str:
    await trio.lowlevel.checkpoint()
    return f"worked with {args!r}"


def everything(module: Module) -> None:
    """Declare something of each kind."""

    async def prepare() -> None:
        await work()

    async def start() -> None:
        await work()

    async def stop() -> None:
        await work()

    async def pool() -> AsyncIterator[int]:
        yield 1

    module.on_prep(prepare)
    module.on_start(start)
    module.on_stop(stop)
    module.lifespan(pool)
    module.worker(work, 1, name="declared")
    module.service_worker(work, 2, name="service")
    module.every(100, work, name="beat")


async def test_every_call_of_a_module_passes_the_seam(autojump_clock: MockClock) -> None:
    """lifecycle functions, halves of lifespans and work of all kinds are asked for, in order."""
    spy = Spy()
    module = Module("db")
    everything(module)
    event = module.event("changed", int)
    module.hook(event, work, name="hooked")
    app = App(module)
    with app.intercept(spy):
        async with app:
            module.start_worker(work, name="started")
            assert await module.run_worker(work, 3, name="run") == "worked with (3,)"
            await module.guarded(work, name="guarded")()
            await event.trigger(5)
            task = module.new_task(work, name="task").queue()
            await task.wait()
            module.start_microtask(work, name="micro")
            await module.run_microtask(work, name="micro run")
            await let_run()
    assert {entry[0] for entry in spy.seen} == {"db"}
    calls = [entry[1:] for entry in spy.seen]
    assert calls[:3] == [("prep", "prepare"), ("enter", "pool"), ("start", "start")]
    assert calls[-2:] == [("stop", "stop"), ("leave", "pool")]
    assert sorted(calls[3:-2]) == [
        ("hook", "hooked"),
        ("microtask", "micro"),
        ("microtask", "micro run"),
        ("service-worker", "beat"),
        ("service-worker", "service"),
        ("task", "task"),
        ("worker", "declared"),
        ("worker", "guarded"),
        ("worker", "run"),
        ("worker", "started"),
    ]
    assert sorted(spy.ended) == sorted(entry[2] for entry in spy.seen)


async def test_each_attempt_and_each_beat_is_a_call(autojump_clock: MockClock) -> None:
    """a service worker passes at every restart, and what `every` calls at every beat."""
    spy = Spy()
    module = Module("db")

    @module.service_worker(restart=Restart(backoff=Backoff(1)))
    async def poll() -> None:
        await trio.sleep(1)
        raise OSError("away")

    module.every(10, work, name="beat")
    app = App(module)

    async def use() -> None:
        with app.intercept(spy):
            await trio.sleep(25)

    await reports_of(app, use)
    names = [entry[2] for entry in spy.seen]
    assert names.count("beat") == 3
    assert names.count("poll") > 2


async def test_a_batch_is_one_call(autojump_clock: MockClock) -> None:
    """a hook that takes batches is asked for once per batch."""
    spy = Spy()
    module = Module("db")
    event = module.event("changed", int)
    module.hook(event, work, name="hooked", batch=10)
    app = App(module)
    with app.intercept(spy):
        async with app:
            for n in range(10):
                event.trigger_nowait(n)
            await let_run()
    assert [entry[2] for entry in spy.seen] == ["hooked"]


async def test_the_last_to_come_is_the_outermost(autojump_clock: MockClock) -> None:
    """each interceptor gets what the one before it has returned, and is gone after its block."""
    order: list[str] = []

    def named(name: str) -> Interceptor:
        def interceptor(
            module: Module, kind: CallKind, call: str, async_fn: AnyAsyncFn, /
        ) -> AnyAsyncFn:
            async def around(*args: object, **kwargs: object) -> object:
                order.append(name)
                return await async_fn(*args, **kwargs)

            return around

        return interceptor

    module = Module("db")
    app = App(module)
    first = named("first")
    async with app:
        with app.intercept(first), app.intercept(named("second")), app.intercept(first):
            await module.run_worker(work)
        await module.run_worker(work)
    assert order == ["first", "second", "first"]


async def test_what_an_interceptor_raises_is_the_calls_own(autojump_clock: MockClock) -> None:
    """it is reported for a worker, and raised to who runs one."""

    def refuse(module: Module, kind: CallKind, name: str, async_fn: AnyAsyncFn, /) -> AnyAsyncFn:
        raise LookupError(name)

    module = Module("db")
    app = App(module)

    async def use() -> None:
        with app.intercept(refuse):
            module.start_worker(work, name="started")
            with pytest.raises(LookupError, match="run"):
                await module.run_worker(work, name="run")
            await let_run()

    (report,) = await reports_of(app, use)
    assert (report.task_name, repr(report.exception)) == ("started", "LookupError('started')")


async def test_bad_functions_are_found_before_the_seam(autojump_clock: MockClock) -> None:
    """an interceptor hides neither a sync function nor arguments that don't fit."""
    module = Module("db")
    app = App(module)
    with app.intercept(Spy()):
        async with app:
            with pytest.raises(TypeError, match="start_worker"):
                module.start_worker(len, [])  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="start_microtask"):
                module.start_microtask(len, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="interceptor must be callable, got 3"):
        app.intercept(3).__enter__()  # type: ignore[arg-type]


async def test_a_part_of_the_graph_runs(autojump_clock: MockClock) -> None:
    """`only` starts the modules named and what they depend on, and prepares nothing else."""
    spy = Spy()
    store = Module("store", prep=work)
    cache = Module("cache", prep=work)
    orders = Module("orders", depends_on=[store], wants=[cache], prep=work)
    shop = Module("shop", depends_on=[orders], prep=work)
    app = App(store, cache, orders, shop)
    with app.intercept(spy):
        with app.only("orders"):
            async with app:
                assert [module.name for module in (store, orders) if module.online] == [
                    "store",
                    "orders",
                ]
                assert cache.status is shop.status is ModuleStatus.DEAD
                await app.manage()
                assert not shop.online
                with pytest.raises(RuntimeError, match="runs"):
                    app.only(shop).__enter__()
        assert [entry[0] for entry in spy.seen] == ["store", "orders"]
    async with app:
        assert shop.online
    with pytest.raises(GraphError, match="no module 'order'; did you mean 'orders'"):
        app.only("order").__enter__()


async def test_a_part_of_a_managed_app_is_what_is_enabled_of_it(autojump_clock: MockClock) -> None:
    """in a managed app the wishes count within the part."""
    first, second, third = Module("first"), Module("second", enabled=True), Module("third")
    app = App(first, second, third, managed=True)
    with app.only(first, second):
        async with app:
            assert second.online
            third.enable()
            first.enable()
            await app.manage()
            assert first.online
            assert not third.online
