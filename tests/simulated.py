"""Small services for the tests of simulations: a sound one, and one for each kind of bug."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial

import trio

from trio_modules import App, Backoff, Module, Restart

HOUR, DAY = 3600.0, 86_400.0


class Pool:
    """Connections that are lent, or that somebody forgot to give back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lent = 0

    async def take(self) -> None:
        await trio.sleep(0.01)
        assert self.lent < self.size, "the pool is empty"
        self.lent += 1

    def give(self) -> None:
        self.lent -= 1


class Shop:
    """A sound service of three modules, with work of all kinds."""

    def __init__(self) -> None:
        self.store = Module("store", restart=Restart())
        self.orders = Module("orders", depends_on=[self.store], restart=Restart())
        self.report = Module("report", depends_on=["store"], wants=["orders"], restart=Restart())
        self.pools: list[Pool] = []
        self.placed = self.orders.event("placed", int)
        self.pool = self.store.lifespan(self._pool)
        self.store.on_start(self.migrate)
        self.orders.service_worker(self.take_orders, backoff=Backoff(1, maximum=60, jitter=0.5))
        self.orders.every(600, self.poll, name="poll")
        self.report.hook(self.placed, self.count)
        self.report.task(self.tidy, name="tidy", every=HOUR)
        self.report.on_stop(self.save)
        self.app = App(self.store, self.orders, self.report, name="shop")

    async def _pool(self) -> AsyncIterator[Pool]:
        pool = Pool(3)
        self.pools.append(pool)
        yield pool
        await trio.sleep(0.1)

    async def migrate(self) -> None:
        await trio.sleep(2)

    async def take_orders(self) -> None:
        number = 0
        while True:
            await trio.sleep(300)
            await self.use_connection()
            await self.placed.trigger(number)
            number += 1

    async def use_connection(self) -> None:
        await self.pool.value.take()
        try:
            await trio.sleep(5)
        finally:
            self.pool.value.give()

    async def poll(self) -> None:
        await self.use_connection()

    async def count(self, number: int) -> None:
        await trio.sleep(0.1)

    async def tidy(self, task: object) -> None:
        await trio.sleep(30)

    async def save(self) -> None:
        await trio.sleep(1)


class ForgetfulShop(Shop):
    """It forgets to give a connection back when it is cancelled."""

    async def use_connection(self) -> None:
        await self.pool.value.take()
        await trio.sleep(100)
        self.pool.value.give()


def sound() -> App:
    return Shop().app


def forgetful() -> App:
    """A bug that an assert of the service's own shows, when the pool is empty."""
    return ForgetfulShop().app


def buggy() -> App:
    """A hook that can't be called."""
    module = Module("store")
    changed = module.event("changed", int)

    async def count(n: int) -> None:
        await trio.lowlevel.checkpoint()
        len(n)  # type: ignore[arg-type]

    module.hook(changed, count)
    module.every(60, changed.trigger, 1, name="beat")
    return App(module)


def dying() -> App:
    """A service that ends for a reason of its own."""
    module = Module("store", restart=Restart(max_restarts=0))

    @module.on_start
    async def start() -> None:
        module.nursery.start_soon(fail_later)

    async def fail_later() -> None:
        await trio.sleep(100)
        raise OSError("the disk is gone")

    return App(module)


def ending() -> App:
    """A service that shuts down in order, of its own accord."""
    module = Module("store")

    @module.worker
    async def work() -> None:
        await trio.sleep(100)
        app.request_shutdown("all is done")

    app = App(module)
    return app


def stubborn() -> App:
    """A service whose worker doesn't end."""
    module = Module("store")

    @module.worker
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    return App(module)


def spinning() -> App:
    """A service that never lets the clock move on."""
    module = Module("store")

    @module.worker
    async def work() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    return App(module)


def sulking() -> App:
    """A service that doesn't start again after a crash."""
    store = Module("store", restart=Restart())
    starts: list[float] = []

    @store.on_start
    async def start() -> None:
        starts.append(trio.current_time())
        if len(starts) > 1:
            await trio.sleep_forever()

    return App(store, Module("shop", depends_on=["store"]))


def optional() -> App:
    """A service with a part that is meant to stay away when it fails too often."""
    console = Module("console", restart=Restart(max_restarts=0, exhausted="offline"))
    return App(Module("store"), console, Module("tool", depends_on=[console]))


def listening() -> App:
    """A service that waits at a real socket."""
    module = Module("store")

    @module.worker
    async def accept() -> None:
        listener = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with listener:
            await listener.bind(("127.0.0.1", 0))
            listener.listen()
            await listener.accept()

    return App(module)


released = threading.Event()


def serving() -> App:
    """A service whose socket is waited for by a task of Trio's own."""
    module = Module("door")

    @module.service_worker
    async def serve() -> None:
        await trio.serve_tcp(trio.aclose_forcefully, 0, host="127.0.0.1")

    return App(module)


def threaded() -> App:
    """A service that works in a real thread, until the test releases it."""
    module = Module("store")

    @module.worker
    async def compute() -> None:
        await trio.to_thread.run_sync(released.wait, abandon_on_cancel=True)

    return App(module)


def threaded_alone() -> App:
    """The same with no code of its own around the thread."""
    module = Module("store")
    module.worker(partial(trio.to_thread.run_sync, released.wait, abandon_on_cancel=True))
    return App(module)


def threaded_shortly() -> App:
    """A service whose thread is over before anybody looks, since others work on meanwhile."""
    module = Module("store")
    over = threading.Event()

    @module.worker
    async def compute() -> None:
        await trio.to_thread.run_sync(over.set)

    @module.worker
    async def work() -> None:
        while not over.is_set():
            await trio.lowlevel.checkpoint()

    return App(module)


def leaving_a_task() -> App:
    """A service that lets something go on outside of its modules."""
    module = Module("store")

    @module.on_start
    async def start() -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever, name="stray")

    return App(module)


def capricious() -> App:
    """A service that takes its chance from elsewhere."""
    module = Module("store")
    module.every(60 + random.random(), trio.lowlevel.checkpoint, name="beat")
    return App(module)


@contextmanager
def arranged() -> Iterator[App]:
    """An app with a fake in place."""
    shop = Shop()
    with shop.pool.override(Pool(2)):
        yield shop.app
