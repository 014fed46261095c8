"""Keeps the messages: what it accepted is on disk when it has stopped.

A record is *accepted* when the hook of the store has it in its bounded buffer, and *stored* when
the transaction that holds it was committed and synced to disk.  While the hook is behind, or the
database can't be written, the buffer fills up and whoever triggers the next message waits: that
is the back-pressure which a TCP sender gets to feel.

Accepted records are numbered in the order in which they are written, per run of the hub, from 1
on.  The number is part of the primary key, so a batch that is given again, because writing it
failed, is stored once.
"""

import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import attrs
import trio
from database import begin_run, connect, end_run, write
from records import Record

from trio_modules import Backoff, Event, Module, Overflow, Restart, current_app, supervise

__all__ = ["Store", "StoreStatistics"]

T = TypeVar("T")

BATCH = 5_000  # records to a transaction, at most
BACKOFF = Backoff(initial=0.2, growth="exponential", maximum=2, jitter=0.1)


@attrs.frozen
class StoreStatistics:
    """Counts of records, since the app was entered."""

    accepted: int
    stored: int
    senders_waiting: int
    """Senders that wait for room in the buffer."""


class Store(Module):
    """Writes the records of an event, many to a transaction."""

    def __init__(self, messages: Event[Record], path: Path, queue: int = 10_000) -> None:
        super().__init__("store")
        self.path = path
        self._messages = messages
        self._turn = trio.Lock()  # one at a time uses the connection
        self._run = 0  # none yet
        self._accepted = 0
        self._senders_waiting = 0
        self._stored = 0
        self.on_prep(self._reset)
        self.connection = self.lifespan(self._connection)
        self.hook(
            messages,
            self._write,
            name="write",
            buffer=queue,
            overflow=Overflow.WAIT,
            batch=BATCH,
            retry=BACKOFF,
        )
        self.worker(self._look_when_it_stops, name="stop-watch")
        self.on_stop(self._end)

    async def change(self, fn: Callable[..., T], *args: object) -> T:
        """Call `fn` with the connection and `args` in a thread, between two batches."""
        async with self._turn:
            return await self._in_thread(fn, self.connection.value, *args)

    async def _in_thread(self, fn: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(fn, *args)

    def statistics(self) -> StoreStatistics:
        """Return how much was accepted and how much of it is stored."""
        self._look()
        return StoreStatistics(self._accepted, self._stored, self._senders_waiting)

    async def _reset(self) -> None:
        """Begin to count, once each time that the app is entered."""
        self._run = self._accepted = self._stored = 0

    async def _connection(self) -> AsyncGenerator[sqlite3.Connection, None]:
        connection = await self._in_thread(connect, self.path)
        try:
            if not self._run:  # else the module was restarted, and goes on with its run
                now = current_app().now()
                self._run = await self._in_thread(begin_run, connection, now)
            yield connection
        finally:
            connection.close()

    async def _write(self, records: Sequence[Record]) -> None:
        """Write them in one transaction; the same ones get the same numbers again."""
        rows = enumerate(records, self._stored + 1)
        # Not abandoned when cancelled: whatever comes back from the thread is counted here.
        await self.change(write, self._run, rows)
        self._stored += len(records)
        self._look()

    def _look(self) -> None:
        """Note the figures of the hook, which are gone when it is closed."""
        self._senders_waiting = 0
        for hook in self._messages.statistics().hooks:
            if hook.hook == f"{self.name}/write":
                self._accepted, self._senders_waiting = hook.accepted, hook.senders_waiting

    async def _look_when_it_stops(self) -> None:
        """Look before the drain ends: what it has to drop does not count as accepted then."""
        await self.stopping.wait()
        self._look()

    async def _end(self) -> None:
        """Note the end of the run; the module's stop timeout bounds the attempts."""
        self._look()
        retry = Restart(backoff=BACKOFF)
        try:
            await supervise(self._note_end, restart=retry, on_failure=self._say_why)
        finally:
            self._say_goodbye()

    async def _note_end(self) -> None:
        now, run = current_app().now(), self._run
        await self.change(end_run, run, now, self._accepted)

    def _say_why(self, error: BaseException) -> None:
        self.logger.warning("can't write while stopping, trying again: %s", error)

    def _say_goodbye(self) -> None:
        self.logger.info("accepted %d messages, stored %d", self._accepted, self._stored)
        lost = self._accepted - self._stored
        if lost and not self.online_soon:  # else the module is to start again, and to write it
            self.logger.error("%d accepted messages are lost", lost)
