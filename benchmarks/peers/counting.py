"""What the peers on asyncio count with."""

from __future__ import annotations

import asyncio

from benchmarks.peers.serving import Measure


class Countdown:
    """Work that counts how often it is done, and says when that is often enough."""

    def __init__(self, size: int) -> None:
        self.done = asyncio.Event()
        self.expect(size)

    def expect(self, size: int) -> None:
        self.left = size
        self.done.clear()

    def count(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()

    async def return_at_once(self) -> None:
        self.count()

    async def yield_once(self) -> None:
        await asyncio.sleep(0)
        self.count()


class Outage:
    """Work that fails when the outage comes, and runs for ever the second time."""

    def __init__(self, size: int) -> None:
        self.fresh = [True] * size
        self.restarted = Countdown(size)
        self.comes = asyncio.Event()

    async def work(self, number: int) -> None:
        if self.fresh[number]:
            self.fresh[number] = False
            await self.comes.wait()
            raise OSError("no answer")
        self.restarted.count()
        await sleep_forever()


async def sleep_forever() -> None:
    await asyncio.get_running_loop().create_future()


async def let_all_begin() -> None:
    """Let every task that was created come to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(measure: Measure, size: int) -> float:
    """Do a work in a fresh event loop."""

    async def main() -> float:
        return await measure(size)

    return asyncio.run(main())
