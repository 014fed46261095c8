"""Counts the messages by severity and by second, and says every minute how many came."""

from collections import Counter
from collections.abc import Sequence

from parsing import SEVERITIES
from records import Record

from trio_modules import Event, Module, Overflow

__all__ = ["Stats"]

EVERY = 60.0
BUFFER = 100_000  # what may come before it counts on; beyond that it misses the oldest
BATCH = 1_000


class Stats(Module):
    """Logs how many messages came in the last minute, and how many in its busiest second."""

    def __init__(self, messages: Event[Record], buffer: int = BUFFER) -> None:
        super().__init__("stats")
        self._messages = messages
        self.severities: Counter[str] = Counter()
        """Counts by the name of the severity, since the last line."""
        self.seconds: Counter[int] = Counter()
        """Counts by the second of Trio's clock, since the last line."""
        self._told_dropped = 0
        self.on_prep(self._reset)
        self.hook(
            messages,
            self._count,
            name="count",
            buffer=buffer,
            overflow=Overflow.DROP_OLDEST,
            batch=BATCH,
        )
        self.every(EVERY, self._say, immediately=False, name="say")

    def dropped(self) -> int:
        """Return how many messages it has missed, since the app was entered."""
        hooks = self._messages.statistics().hooks
        return sum(hook.dropped for hook in hooks if hook.hook == f"{self.name}/count")

    async def _reset(self) -> None:
        self._told_dropped = 0
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.severities.clear()
        self.seconds.clear()

    async def _count(self, records: Sequence[Record]) -> None:
        self.severities.update(severity(record) for record in records)
        self.seconds.update(int(record.arrived) for record in records)

    async def _say(self) -> None:
        total, most = self.severities.total(), max(self.seconds.values(), default=0)
        by_severity = ", ".join(f"{name} {count}" for name, count in self.severities.most_common())
        self.logger.info(
            "%d messages within %g s, at most %d in a second%s%s",
            *(total, EVERY, most, self._missed(), f": {by_severity}" if total else ""),
        )
        self._begin_anew()

    def _missed(self) -> str:
        dropped = self.dropped()
        missed, self._told_dropped = dropped - self._told_dropped, dropped
        return f", {missed} not counted" if missed else ""


def severity(record: Record) -> str:
    """Return the name of the severity; "raw" when the message has none."""
    number = record.message.severity
    return "raw" if number is None else SEVERITIES[number]
