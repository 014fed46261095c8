"""Deletes what is too old, a little at a time, so that nobody notices."""

import sqlite3
from datetime import timedelta

import trio
from database import delete_before
from store import Store

from trio_modules import Module, Retry, Task, current_app

__all__ = ["Retention"]

EVERY = 3600.0
BATCH = 1_000  # messages to a transaction: the writer waits for no more than one
PAUSE = 0.05  # between two of them


class Retention(Module):
    """Keeps messages for so many days, counted from when they were received."""

    def __init__(self, store: Store, days: float) -> None:
        super().__init__("retention", depends_on=[store])
        self._store = store
        self._days = days
        rhythm = EVERY if days else None
        self.deleting = self.task(self.delete_old, every=rhythm, name="delete-old")

    async def delete_old(self, _: Task) -> int:
        """Delete all that is too old, and return how much that was."""
        moment = current_app().now() - timedelta(days=self._days)
        deleted = 0
        while True:
            try:
                count = await self._store.change(delete_before, moment, BATCH)
            except sqlite3.OperationalError as error:
                self.logger.warning("can't delete old messages now: %s", error)
                raise Retry(after=60) from error
            deleted += count
            if count < BATCH:
                break
            await trio.sleep(PAUSE)
        self.logger.info("deleted %d messages from before %s", deleted, moment)
        return deleted
