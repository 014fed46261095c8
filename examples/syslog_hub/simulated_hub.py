"""The hub in a world of its own: network and disk in memory, senders, and a disk that fails.

    trio-modules simulate examples/syslog_hub/simulated_hub.py:make_app --seeds 0:100 --duration 7d

No byte leaves the process, and no thread is started, so days pass in seconds. All chance comes
from the random numbers of the app: the same seed makes the same world.
"""

import itertools
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import TypeVar

import trio
from app import assemble, parser
from console import Console
from database import connect, count_day, write
from network import Network
from receiver import Receiver
from records import Record
from report import Report
from store import Store

from trio_modules import App, Event, Module, ModuleStatus, current_app

__all__ = ["Disk", "World", "make_app", "nothing_lost"]

T = TypeVar("T")

PORT = 5514
BETWEEN_SENDERS = 180.0  # seconds on average
MOST_MESSAGES = 60  # of one sender
MOST_AT_ONCE = 20  # of these
BETWEEN_OUTAGES = 6 * 3600.0  # seconds on average
LONGEST_OUTAGE = 900.0
SLOWEST_CALL = 0.02
TRIES = 5  # of a sender, while nobody listens

_numbers = itertools.count()


class Disk:
    """SQLite in memory, which is there as long as this, and can be out of order for a time.

    Attributes:
        fault: what is wrong: nothing, "locked" (calls fail), "unclear" (what was written is
            there, yet the call fails) or "slow".
    """

    def __init__(self) -> None:
        self.fault = ""
        self.path = Path(f"file:hub{next(_numbers)}?mode=memory&cache=shared")
        self._anchor = connect(self.path)

    def close(self) -> None:
        """Forget everything."""
        self._anchor.close()

    def stored(self) -> set[int]:
        """Return the numbers of the messages that are there."""
        return {number for (number,) in self._ask("SELECT CAST(msgid AS INTEGER) FROM messages")}

    def _ask(self, sql: str) -> list[tuple[int, ...]]:
        return self._anchor.execute(sql).fetchall()

    async def call(self, rng: random.Random, fn: Callable[..., T], *args: object) -> T:
        """Call a function as a thread would: it takes time, and no cancellation ends it."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await trio.sleep(rng.uniform(0, SLOWEST_CALL) + 5 * (self.fault == "slow"))
        if self.fault == "locked":
            raise sqlite3.OperationalError("database is locked")
        result = fn(*args)
        if self.fault == "unclear" and fn is write:
            raise sqlite3.OperationalError("disk I/O error")
        return result


class World(Module):
    """Senders of all kinds, and the times at which the disk is out of order.

    Attributes:
        confirmed: the numbers of the messages that the hub has taken for certain: it read the
            connection to its end, and closed it.
        sent: how many messages were sent, those included that nobody received.
    """

    def __init__(self, network: Network, disk: Disk) -> None:
        super().__init__("world", wants=["receiver"])
        self.confirmed: set[int] = set()
        self.sent = 0
        self._network = network
        self.disk = disk
        self.on_prep(self._take_the_place_of_the_system)
        self.service_worker(self._send, name="send")
        self.service_worker(self._break_the_disk, name="break-the-disk")

    async def _take_the_place_of_the_system(self) -> None:
        trio.socket.set_custom_socket_factory(self._network)

    async def _break_the_disk(self) -> None:
        rng = current_app().rng
        try:
            while True:
                await trio.sleep(rng.expovariate(1 / BETWEEN_OUTAGES))
                self.disk.fault = rng.choice(("locked", "unclear", "slow"))
                await trio.sleep(rng.uniform(1, LONGEST_OUTAGE))
                self.disk.fault = ""
        finally:
            self.disk.fault = ""

    async def _send(self) -> None:
        rng = current_app().rng
        while True:
            await trio.sleep(rng.expovariate(1 / BETWEEN_SENDERS))
            if rng.random() < 0.2:
                self._send_datagrams(rng)
            else:
                self.start_worker(self._send_stream, rng, name="sender")

    def _send_datagrams(self, rng: random.Random) -> None:
        for _ in range(rng.randrange(1, MOST_MESSAGES)):
            self._network.send_datagram(self._message(rng), PORT)

    async def _send_stream(self, rng: random.Random) -> None:
        """Send some messages over a connection, as often as it needs until one is closed well."""
        counted = rng.random() < 0.5
        for _ in range(TRIES):
            first = self.sent
            messages = [self._message(rng) for _ in range(rng.randrange(1, MOST_MESSAGES))]
            try:
                await self._deliver([_framed(each, counted) for each in messages], rng)
            except (OSError, trio.BrokenResourceError):
                await trio.sleep(rng.uniform(1, 60))
            else:
                self.confirmed.update(range(first + 1, first + 1 + len(messages)))
                break

    async def _deliver(self, frames: list[bytes], rng: random.Random) -> None:
        async with await self._network.connect(PORT) as stream:
            while frames:
                count = rng.randrange(1, MOST_AT_ONCE)
                await stream.send_all(b"".join(frames[:count]))
                await trio.sleep(rng.uniform(0, 5))
                del frames[:count]
            await stream.send_eof()
            await stream.receive_some()

    def _message(self, rng: random.Random) -> bytes:
        self.sent += 1
        priority = 8 * rng.randrange(24) + min(rng.randrange(8), rng.randrange(8) + 3)
        host, length = rng.randrange(20), rng.randrange(200)
        return f"<{priority}>1 - host{host} app - {self.sent} - {'x' * length}".encode()


def _framed(message: bytes, counted: bool) -> bytes:
    return b"%d %b" % (len(message), message) if counted else message + b"\n"


class SimulatedStore(Store):
    """The store, with a `Disk`, and with a memory of its earlier runs."""

    def __init__(self, messages: Event[Record], disk: Disk, queue: int) -> None:
        super().__init__(messages, disk.path, queue)
        self._disk = disk
        self._lost_before = 0

    def lost(self) -> int:
        """Return how many accepted messages it could not store, by its own account."""
        figures = self.statistics()
        return self._lost_before + figures.accepted - figures.stored

    async def _reset(self) -> None:
        self._lost_before = self.lost()
        await super()._reset()

    async def _in_thread(self, fn: Callable[..., T], *args: object) -> T:
        return await self._disk.call(current_app().rng, fn, *args)


class SimulatedReport(Report):
    """The report, which reads over the connection of the store."""

    async def _count(self, day: date) -> list[tuple[str, int, int]]:
        return await self._store.change(count_day, day)


class SimulatedConsole(Console):
    """The console, which takes its time and shows nothing."""

    async def _put_out(self, output: bytes) -> None:
        await trio.sleep(len(output) / 100_000)


@contextmanager
def make_app() -> Iterator[App]:
    """Make a hub in a world of its own, for `trio_modules.testing.simulate`."""
    settings = parser().parse_args([f"--udp-port={PORT}", f"--tcp-port={PORT}"])
    with closing(Disk()) as disk:

        def make_store(messages: Event[Record], _: Path, queue: int) -> Store:
            return SimulatedStore(messages, disk, queue)

        app = assemble(settings, make_store, SimulatedConsole, SimulatedReport)
        app.register(World(Network(), disk))
        yield app


def nothing_lost(app: App) -> None:
    """Make sure of what the hub promises, when it has ended; for the *check* of `simulate`.

    Raises:
        AssertionError: if a message is missing that was confirmed, and that isn't one of those
            that the hub has counted as lost or refused.
    """
    is_over = app.shutdown_reason is not None
    if not is_over or any(module.status > ModuleStatus.OFFLINE for module in app.modules.values()):
        return
    world = app.get("world", World)
    missing = world.confirmed - world.disk.stored()
    refused = app.get("receiver", Receiver).statistics().refused
    allowed = app.get("store", SimulatedStore).lost() + refused
    assert len(missing) <= allowed, (
        f"{len(missing)} of {len(world.confirmed)} confirmed messages are not in the database, "
        f"and {allowed} are counted as lost"
    )
