"""What one syslog message says (RFC 5424 and RFC 3164), without I/O.

`parse` never fails: what it can't read becomes a `Message` of format "raw" that says why and
still carries all of the text.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Literal, TypeAlias

import attrs

__all__ = ["FACILITIES", "SEVERITIES", "Format", "Message", "Parameters", "StructuredData", "parse"]

Format: TypeAlias = Literal["rfc5424", "rfc3164", "raw"]
Parameters: TypeAlias = Mapping[str, tuple[str, ...]]
"""Values by name; a tuple each, since RFC 5424 lets a parameter occur more than once."""
StructuredData: TypeAlias = Mapping[str, Parameters]
"""The parameters of each element."""

SEVERITIES = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp", "ntp", "audit", "alert", "clock"),
    *(f"local{n}" for n in range(8)),
)


@attrs.frozen
class Message:
    """One message. What it leaves out, or says with a NILVALUE, is None."""

    format: Format
    text: str
    priority: int | None = None
    timestamp: datetime | None = None
    """Aware, in UTC."""
    hostname: str | None = None
    app_name: str | None = None
    procid: str | None = None
    msgid: str | None = None
    structured: StructuredData = attrs.field(factory=dict)
    exact: bool = True
    """False when the fields don't tell all that the bytes did: keep the bytes as well."""
    problem: str = ""
    """Why the message is raw."""

    @property
    def facility(self) -> int | None:
        """An index into `FACILITIES`."""
        return None if self.priority is None else self.priority // 8

    @property
    def severity(self) -> int | None:
        """An index into `SEVERITIES`: 0 is the worst."""
        return None if self.priority is None else self.priority % 8


class _Unreadable(Exception):
    """Not a message of the format that it claims to have."""


# The RFC's limits on the length of each field are not enforced: names longer than that are
# common, and nothing would be won by refusing them.  Digits beyond the microsecond are cut.
_PRI = re.compile(r"<(0|[1-9][0-9]{0,2})>")
_IS_RFC5424 = re.compile(r"1 (?:- |[0-9]{4}-)")
_HEADER = re.compile(r"1 (\S+)" + r" ([!-~]+)" * 4 + " ")
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:Z|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)
_NAME = r"[!#-<>-\\^-~]+"  # printable ASCII but the space and " = ]
_VALUE = r'(?:[^"\\\]]|\\.)*'
_ELEMENT = re.compile(rf'\[({_NAME})((?: {_NAME}="{_VALUE}")*)\]', re.DOTALL)
_PARAMETER = re.compile(rf' ({_NAME})="({_VALUE})"', re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\\]])')  # before any other character a backslash is just that

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BSD_TIME = re.compile(
    rf"({'|'.join(_MONTHS)}) ([ 0-3]?[0-9])(?: ([0-9]{{4}}))? "
    r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?:?(?: |\Z)"
)
_ISO_TIME = re.compile(rf"{_ISO.pattern}(?: |\Z)")
_HOSTNAME = re.compile(r"([A-Za-z0-9_.:-]*[A-Za-z0-9_.-]) ")
_TAG = re.compile(r"([!-9;-Z\\^-~]+)(?:\[([^\]\s]*)\])?:(?: |\Z)")
_TRAILER = re.compile(r"(?:\r?\n|\r|\0)\Z")


def parse(data: bytes, now: datetime, zone: tzinfo | None = None) -> Message:
    """Read one message, received at `now`.

    RFC 3164's timestamps have neither year nor zone: the year is the one that brings them nearest
    to `now`, the zone is `zone`, by default that of this machine.
    """
    text, exact = _decode(data)
    if text.endswith(("\n", "\r", "\0")):  # some senders end a datagram like a line
        text = _TRAILER.sub("", text)
    pri = _PRI.match(text)
    if pri is None or int(pri[1]) >= 8 * len(FACILITIES):
        return Message("raw", text, exact=exact, problem="no valid priority")
    priority, body = int(pri[1]), text[pri.end() :]
    try:
        if _IS_RFC5424.match(body):
            return _rfc5424(priority, body, exact)
        return _rfc3164(priority, body, exact, now, zone)
    except _Unreadable as reason:
        return Message("raw", text, priority, exact=exact, problem=str(reason))


def _decode(data: bytes) -> tuple[str, bool]:
    """Return the text and whether it holds all of the bytes.

    SQLite keeps a text with NUL in it, yet its own functions see no further than that.
    """
    try:
        return data.decode(), b"\0" not in data
    except UnicodeDecodeError:
        return data.decode(errors="replace"), False


def _rfc5424(priority: int, body: str, exact: bool) -> Message:
    header = _HEADER.match(body)
    if header is None:
        raise _Unreadable("incomplete header")
    timestamp = None if header[1] == "-" else _timestamp(header[1])
    structured, end = _structured_data(body, header.end())
    if body[end : end + 1] not in ("", " "):
        raise _Unreadable("no space after the structured data")
    return Message(
        "rfc5424",
        body[end + 1 :].removeprefix("\ufeff"),
        priority,
        timestamp=timestamp,
        hostname=_value(header[2]),
        app_name=_value(header[3]),
        procid=_value(header[4]),
        msgid=_value(header[5]),
        structured=structured,
        exact=exact,
    )


def _value(field: str) -> str | None:
    return None if field == "-" else field


def _timestamp(field: str) -> datetime:
    match = _ISO.fullmatch(field)
    if match is None:
        raise _Unreadable(f"not a timestamp: {field[:40]!r}")
    return _iso_time(match)


def _iso_time(match: re.Match[str]) -> datetime:
    *fields, fraction, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    year, month, day, hour, minute, second = map(int, fields)
    zone = timezone(-offset if sign == "-" else offset)
    try:
        time = datetime(year, month, day, hour, minute, second, _microseconds(fraction), zone)
        return time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise _Unreadable(f"no such time: {match[0]!r}") from None


def _microseconds(fraction: str | None) -> int:
    return int((fraction or "")[:6].ljust(6, "0"))


def _structured_data(body: str, start: int) -> tuple[StructuredData, int]:
    """Return the structured data at `start` and where it ends."""
    if body.startswith("-", start):
        return {}, start + 1
    elements: dict[str, Parameters] = {}
    while (element := _ELEMENT.match(body, start)) is not None:
        if element[1] in elements:
            raise _Unreadable(f"structured data has the element {element[1]!r} twice")
        elements[element[1]] = _parameters(element[2])
        start = element.end()
    if not elements or body.startswith("[", start):
        raise _Unreadable("malformed structured data")
    return elements, start


def _parameters(source: str) -> Parameters:
    parameters: dict[str, tuple[str, ...]] = {}
    for name, value in _PARAMETER.findall(source):
        text = _ESCAPE.sub(r"\1", value) if "\\" in value else value
        parameters[name] = (*parameters.get(name, ()), text)
    return parameters


def _rfc3164(priority: int, body: str, exact: bool, now: datetime, zone: tzinfo | None) -> Message:
    """Read what is there: everything but the priority may be missing."""
    timestamp, start = _rfc3164_time(body, now, zone)
    hostname = None
    if timestamp is not None and (match := _HOSTNAME.match(body, start)) is not None:
        hostname, start = match[1], match.end()
    app_name = procid = None
    if (tag := _TAG.match(body, start)) is not None:
        app_name, procid, start = tag[1], tag[2], tag.end()
    return Message(
        "rfc3164",
        body[start:],
        priority,
        timestamp=timestamp,
        hostname=hostname,
        app_name=app_name,
        procid=procid,
        exact=exact,
    )


def _rfc3164_time(body: str, now: datetime, zone: tzinfo | None) -> tuple[datetime | None, int]:
    """Return the timestamp and where it ends; many senders write that of RFC 5424 here."""
    if (iso := _ISO_TIME.match(body)) is not None:
        return _iso_time(iso), iso.end()
    if (bsd := _BSD_TIME.match(body)) is not None:
        return _bsd_time(bsd, now, zone), bsd.end()
    return None, 0


def _bsd_time(match: re.Match[str], now: datetime, zone: tzinfo | None) -> datetime:
    years = [int(match[3])] if match[3] else [now.year - 1, now.year, now.year + 1]
    # 29 February is missing in most years.
    times = [time for year in years if (time := _bsd_time_in(year, match, zone)) is not None]
    if not times:
        raise _Unreadable(f"no such time: {match[0].rstrip()!r}")
    return min(times, key=lambda time: abs(time - now))


def _bsd_time_in(year: int, match: re.Match[str], zone: tzinfo | None) -> datetime | None:
    month, day, _, hour, minute, second, fraction = match.groups()
    date = (year, _MONTHS.index(month) + 1, int(day))
    time = (int(hour), int(minute), int(second), _microseconds(fraction))
    try:
        return datetime(*date, *time, zone).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
