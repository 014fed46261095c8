"""Counts each day's messages when it is over, by host and severity."""

import sqlite3
from datetime import date, timedelta

from database import save_summary, summarise
from store import Store

from trio_modules import Module, Priority, Retry, Task, current_app

__all__ = ["Report"]


class Report(Module):
    """Writes a summary of the day before into the table `summaries`, when a cron line says so."""

    def __init__(self, store: Store, when: str) -> None:
        super().__init__("report", depends_on=[store])
        self._store = store
        try:
            self.summarising = self.task(self._daily, cron=when, name="daily")
        except ImportError as error:
            self.logger.warning("there are no daily summaries: %s", error)
            self.summarising = self.task(self._daily, name="daily")

    async def _daily(self, _: Task) -> None:
        day = current_app().now().date() - timedelta(days=1)
        try:
            await self._summarise(day)
        except sqlite3.OperationalError as error:
            self.logger.warning("can't summarise %s now: %s", day, error)
            raise Retry(after=60) from error

    async def _summarise(self, day: date) -> None:
        rows = await self._count(day)
        await self._store.change(save_summary, day, rows)
        total = sum(count for _, _, count in rows)
        self.logger.info("%s had %d messages from %d hosts", day, total, len({r[0] for r in rows}))

    async def _count(self, day: date) -> list[tuple[str, int, int]]:
        # It reads the whole table: work that everything else goes before.
        return await self.run_sync_microtask(
            summarise, self._store.path, day, priority=Priority.LOW
        )
