"""Keeps the messages: what it accepted is on disk when it has stopped.

A record is *accepted* when it is in the store's bounded queue, and *stored* when the transaction
that holds it was committed and synced to disk.  While the writer is behind, or the database
can't be written, the queue fills up and whoever hands over the next record waits: that is the
back-pressure which a TCP sender gets to feel.

Accepted records are numbered in the order in which they are written, per run of the hub, from 1
on.  The number is part of the primary key, so a batch that is written again, because its writer
failed, is stored once.
"""

import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

import attrs
import trio
from database import begin_run, connect, end_run, write
from records import Record

from trio_modules import Backoff, Module, Restart, current_app, supervise

__all__ = ["Store", "StoreStatistics"]

T = TypeVar("T")

BATCH = 5_000  # records to a transaction, at most


@attrs.frozen
class StoreStatistics:
    """Counts of records, since the app was entered."""

    accepted: int
    stored: int
    senders_waiting: int
    """Senders that wait for room in the queue."""


class Store(Module):
    """Takes records and writes them, many to a transaction."""

    def __init__(self, path: Path, queue: int = 10_000) -> None:
        super().__init__("store")
        self.path = path
        self._turn = trio.Lock()  # one at a time uses the connection
        self._send, self._receive = trio.open_memory_channel[Record](queue)
        self._in_hand: list[Record] = []  # taken from the queue; outlives a writer that fails
        self._run = 0  # none yet
        self._accepted = 0
        self._stored = 0
        self.on_prep(self._reset)
        self.connection = self.lifespan(self._connection)
        self._retry = Restart(
            backoff=Backoff(initial=0.2, growth="exponential", maximum=2, jitter=0.1)
        )
        self.service_worker(self._write, name="writer", restart=self._retry)
        self.on_stop(self._drain)

    async def put(self, records: deque[Record]) -> None:
        """Hand over `records`, from the left, waiting for room.

        An accepted record is taken off the deque: what a cancellation leaves in there is
        precisely what was not accepted.
        """
        while records:
            try:
                self._send.send_nowait(records[0])
            except trio.WouldBlock:
                await self._send.send(records[0])
            records.popleft()
            self._accepted += 1
        await trio.lowlevel.checkpoint()

    async def change(self, fn: Callable[..., T], *args: object) -> T:
        """Call `fn` with the connection and `args` in a thread, between two batches."""
        async with self._turn:
            return await trio.to_thread.run_sync(fn, self.connection.value, *args)

    def statistics(self) -> StoreStatistics:
        """Return how much was accepted and how much of it is stored."""
        senders_waiting = self._send.statistics().tasks_waiting_send
        return StoreStatistics(self._accepted, self._stored, senders_waiting)

    async def _reset(self) -> None:
        """Begin to count, once each time that the app is entered.

        What an earlier run had accepted and could not write is accepted by this one.
        """
        self._run = 0
        self._stored = 0
        self._accepted = len(self._in_hand) + self._receive.statistics().current_buffer_used

    async def _connection(self) -> AsyncGenerator[sqlite3.Connection, None]:
        connection = await trio.to_thread.run_sync(connect, self.path)
        try:
            if not self._run:  # else the module was restarted, and goes on with its run
                now = current_app().now()
                self._run = await trio.to_thread.run_sync(begin_run, connection, now)
            yield connection
        finally:
            connection.close()

    async def _write(self) -> None:
        """Write what comes.  What is in hand was in a writer's hand that failed, too."""
        while True:
            if not self._in_hand:
                self._in_hand.append(await self._receive.receive())
                self._fill_hand()
            await self._write_hand()

    def _fill_hand(self) -> None:
        waiting = self._receive.statistics().current_buffer_used
        for _ in range(min(waiting, BATCH - len(self._in_hand))):
            self._in_hand.append(self._receive.receive_nowait())

    async def _write_hand(self) -> None:
        rows = enumerate(self._in_hand, self._stored + 1)
        # Not abandoned when cancelled: whatever comes back from the thread is counted here.
        await self.change(write, self._run, rows)
        self._stored += len(self._in_hand)
        self._in_hand.clear()

    async def _drain(self) -> None:
        """Write all that was accepted; the module's stop timeout bounds the attempts."""
        try:
            await supervise(self._write_rest, restart=self._retry, on_failure=self._say_why)
        finally:
            self._say_goodbye()

    async def _write_rest(self) -> None:
        while self._stored < self._accepted:
            if not self._in_hand:
                self._fill_hand()
            await self._write_hand()
        now, run = current_app().now(), self._run
        await self.change(end_run, run, now, self._accepted)

    def _say_why(self, error: BaseException) -> None:
        self.logger.warning("can't write while stopping, trying again: %s", error)

    def _say_goodbye(self) -> None:
        self.logger.info("accepted %d messages, stored %d", self._accepted, self._stored)
        if self._stored < self._accepted:
            self.logger.error("%d accepted messages are lost", self._accepted - self._stored)
