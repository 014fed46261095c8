"""Fakes of whole modules: they keep names, edges and events, and run nothing of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from trio_modules import App, Module, ModuleOffline
from trio_modules.testing import fake


class Shop:
    """A store that talks to the world, and a shop that uses it."""

    def __init__(self) -> None:
        self.store = Module("store", prep=self.real, start=self.real, stop=self.real)
        self.shop = Module("shop", depends_on=[self.store])
        self.sold = self.shop.event("sold", int)
        self.saved = self.store.event("saved", int)
        self.seen: list[int] = []

        @self.store.lifespan
        async def database() -> AsyncIterator[str]:
            await self.real()
            yield "the database"

        self.database = database
        self.store.service_worker(self.connect)
        self.store.every(10, self.real, name="beat")
        self.store.hook(self.sold, self.save)
        self.shop.hook(self.saved, self.see)
        self.app = App(self.store, self.shop)

    async def real(self) -> None:
        raise AssertionError("the real thing was called")

    async def connect(self, *, task_status: trio.TaskStatus[None]) -> None:
        raise AssertionError("the real thing was called")

    async def query(self) -> str:
        raise AssertionError("the real thing was called")

    async def save(self, n: int) -> None:
        raise AssertionError("the real thing was called")

    async def see(self, n: int) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append(n)


async def test_a_fake_starts_and_stops_and_runs_nothing(autojump_clock: MockClock) -> None:
    """none of the module's functions are called, and what would have been is known."""
    shop = Shop()
    with fake(shop.app, "store") as store:
        async with shop.app as app:
            await trio.sleep(1)
            assert shop.shop.online
            assert app.last_error is None
    assert [name for _, name in store.calls if name not in {"connect", "beat"}] == [
        "real", "database", "real", "real", "database",
    ]  # fmt: skip
    assert {name for _, name in store.calls} == {"real", "database", "connect", "beat"}


async def test_a_fake_has_its_events(autojump_clock: MockClock) -> None:
    """its hooks keep what they get, and its own events reach the others."""
    shop = Shop()
    with fake(shop.app, shop.store) as store:
        async with shop.app:
            await shop.sold.trigger(3)
            await shop.saved.trigger(4)
            await trio.sleep(1)
    assert store.received == {"save": [3]}
    assert shop.seen == [4]


async def test_a_fake_has_resources_if_they_are_given(autojump_clock: MockClock) -> None:
    """a resource of a fake is what override says, or can't be read."""
    shop = Shop()
    with fake(shop.app, "store"):
        async with shop.app:
            with pytest.raises(ModuleOffline):
                assert shop.database.value
            with shop.database.override("a fake"):
                assert shop.database.value == "a fake"


async def test_functions_are_replaced_by_name(autojump_clock: MockClock) -> None:
    """what is given runs in the place of the module's own, with the same arguments."""
    shop = Shop()
    saved: list[int] = []

    async def save(n: int) -> None:
        await trio.lowlevel.checkpoint()
        saved.append(n)

    async def answer() -> str:
        await trio.lowlevel.checkpoint()
        return "a fake answer"

    with fake(shop.app, "store", replace={"save": save, "+query": answer}):
        async with shop.app:
            await shop.sold.trigger(5)
            answered: object = await shop.store.run_worker(shop.query)
            await trio.sleep(1)
    assert (saved, answered) == ([5], "a fake answer")


async def test_the_real_module_is_back_after_the_block(autojump_clock: MockClock) -> None:
    """a fake lasts as long as its block, and a lifespan that was entered for real is left so."""
    module = Module("store")
    left: list[str] = []

    @module.lifespan
    async def pool() -> AsyncIterator[int]:
        yield 1
        left.append("pool")

    app = App(module)
    async with app:
        with fake(app, module):
            pass
        assert pool.value == 1
    assert left == ["pool"]
    with fake(app, module):
        async with app:
            pass
    assert left == ["pool"]


def test_what_is_not_there_cannot_be_faked() -> None:
    """unknown modules and functions are errors, with the near miss."""
    shop = Shop()
    with pytest.raises(KeyError, match=r"no module 'stor'; did you mean 'store'"):
        fake(shop.app, "stor").__enter__()
    with pytest.raises(ValueError, match=r"'store' declares no 'bea'; did you mean 'beat'\?"):
        fake(shop.app, "store", replace={"bea": shop.real}).__enter__()
    with pytest.raises(KeyError, match="other"):
        fake(shop.app, Module("other")).__enter__()
