"""When a cron line matches next, in a time zone, right across the changes of its clocks.

What falls into the hour that a spring night lacks is due when that hour would have been over; what
falls into the hour that an autumn night has twice is due the first time. A line with a star for
its hours or minutes just follows the clock.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from typing import cast

__all__ = ["Cron", "check_zone"]

#: From here on a line that matches at all matches within the years that are looked at.
_ANY_DAY = datetime(2000, 1, 1, tzinfo=timezone.utc)


class Cron:
    """A cron line in a time zone.

    Args:
        line: five fields (minute, hour, day of month, month, day of week), or six with seconds
            first.
        zone: the time zone that it is meant in.

    Raises:
        ValueError: if the line makes no sense, with the field named, or can never match.
        ImportError: without the extra ``cron``.
    """

    __slots__ = ("_fixed", "_zone", "line")

    def __init__(self, line: str, zone: tzinfo) -> None:
        if not isinstance(line, str):
            raise TypeError(f"cron must be a string like '0 3 * * *', got {line!r}")
        self.line = line
        self._zone = zone
        self._fixed = _has_seconds_and_fixed_time(line)
        try:
            next(self._occurrences(_ANY_DAY))
        except StopIteration:
            raise ValueError(f"cron must match some time, got {line!r}") from None

    def next_after(self, moment: datetime) -> datetime:
        """The first match that is later than *moment*, an aware datetime; in UTC.

        Raises:
            OverflowError: if there is none that a datetime can express.
        """
        with contextlib.suppress(OverflowError):
            for found in self._occurrences(moment):
                # What exists twice is found again when its first time is over.
                if found.astimezone(timezone.utc) > moment:
                    return found.astimezone(timezone.utc)
        raise OverflowError(f"cron {self.line!r} matches no more after {moment!r}")

    def _occurrences(self, moment: datetime) -> Iterator[datetime]:
        local = moment.astimezone(self._zone)
        if not self._fixed:
            return _cronsim()(self.line, local)
        found = _cronsim()(self.line, local.replace(tzinfo=None))
        return (_existing(each.replace(tzinfo=self._zone, fold=0)) for each in found)


def _has_seconds_and_fixed_time(line: str) -> bool:
    """Whether it is up to us to see to the changes of the clocks: cronsim does for five fields."""
    fields = line.split()
    return len(fields) == 6 and not fields[1].startswith("*") and not fields[2].startswith("*")


def _existing(local: datetime) -> datetime:
    """The time itself, or when the hour that lacks would have been over."""
    while local != local.astimezone(timezone.utc).astimezone(local.tzinfo):
        local = local.replace(second=0) + timedelta(minutes=1)
    return local


@functools.cache
def _cronsim() -> Callable[[str, datetime], Iterator[datetime]]:
    try:
        module = importlib.import_module("cronsim")
    except ImportError as exc:
        raise ImportError(
            "cron= needs the extra of that name: pip install 'trio-modules[cron]'"
        ) from exc

    def occurrences(line: str, moment: datetime) -> Iterator[datetime]:
        try:
            return cast("Iterator[datetime]", module.CronSim(line, moment))
        except module.CronSimError as exc:
            problem = str(exc)
            what = problem[:1].lower() + problem[1:]
            raise ValueError(f"cron has a {what}, got {line!r}") from None

    return occurrences


def check_zone(value: str | tzinfo) -> tzinfo:
    """The time zone of that name.

    Raises:
        ValueError: if there is none.
        TypeError: if it is neither a name nor a zone.
    """
    if isinstance(value, tzinfo):
        return value
    if not isinstance(value, str):
        raise TypeError(f"timezone must be a name like 'Europe/Berlin' or a tzinfo, got {value!r}")
    if value.upper() == "UTC":  # known even where no database of zones is
        return timezone.utc
    zoneinfo = importlib.import_module("zoneinfo")  # which few need, and which loads much
    try:
        return cast("tzinfo", zoneinfo.ZoneInfo(value))
    except (KeyError, ValueError, OSError):  # all of these mean that it isn't in the database
        raise ValueError(f"timezone must be known, got {value!r}") from None
