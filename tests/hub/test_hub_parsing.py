"""Tests for parsing.py of the hub: what a message says."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsing import FACILITIES, SEVERITIES, Message, parse

UTC = timezone.utc
NOW = datetime(2026, 11, 24, 14, 12, tzinfo=UTC)
BOM = b"\xef\xbb\xbf"


def read(data: bytes, now: datetime = NOW) -> Message:
    return parse(data, now, UTC)


# RFC 5424


def test_everything_that_rfc5424_has() -> None:
    """All fields of an RFC 5424 message are read."""
    message = read(
        b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog 77 ID47 "
        b'[exampleSDID@32473 iut="3" eventSource="Application"][x@1 y="z"] ' + BOM + b"An event"
    )
    assert message == Message(
        "rfc5424",
        "An event",
        priority=165,
        timestamp=datetime(2003, 10, 11, 22, 14, 15, 3000, tzinfo=UTC),
        hostname="mymachine.example.com",
        app_name="evntslog",
        procid="77",
        msgid="ID47",
        structured={
            "exampleSDID@32473": {"iut": ("3",), "eventSource": ("Application",)},
            "x@1": {"y": ("z",)},
        },
    )
    assert message.facility is not None
    assert message.severity is not None
    assert (FACILITIES[message.facility], SEVERITIES[message.severity]) == ("local4", "notice")


def test_what_logger_sends_by_default() -> None:
    """The line that util-linux's logger sends without options is read."""
    message = read(
        b"<13>1 2026-11-24T14:11:58.602261+00:00 vm root - - "
        b'[timeQuality tzKnown="1" isSynced="0"] hello'
    )
    assert (message.format, message.text) == ("rfc5424", "hello")
    assert (message.facility, message.severity) == (1, 5)
    assert (message.hostname, message.app_name) == ("vm", "root")
    assert message.timestamp == datetime(2026, 11, 24, 14, 11, 58, 602261, tzinfo=UTC)
    assert message.structured == {"timeQuality": {"tzKnown": ("1",), "isSynced": ("0",)}}


def test_nil_values_are_none() -> None:
    """Each NILVALUE is None, and a message may end with the structured data."""
    assert read(b"<13>1 - - - - - -") == Message("rfc5424", "", priority=13)


def test_text_without_bom_may_be_anything() -> None:
    """The text is what follows one space, spaces and line ends included."""
    assert read(b"<13>1 - - - - - -  two\nlines ").text == " two\nlines "


def test_only_the_first_bom_is_a_mark() -> None:
    """A second byte order mark is part of the text."""
    assert read(b"<13>1 - - - - - - " + BOM + BOM + b"x").text == "\ufeffx"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (rb"say \"hi\"", 'say "hi"'),
        (rb"a \] b", "a ] b"),
        (rb"C:\\temp", r"C:\temp"),
        (rb"C:\temp", r"C:\temp"),
        (rb"\\\]", r"\]"),
        ("h\u00e4 [x] = ".replace("]", "\\]").encode(), "h\u00e4 [x] = "),
        (b"", ""),
        (b"two\nlines", "two\nlines"),
    ],
)
def test_parameter_values_are_unescaped(value: bytes, text: str) -> None:
    r"""Only \", \\ and \] are escapes; any other backslash stands for itself."""
    message = read(b'<13>1 - - - - - [id a="' + value + b'"] x')
    assert (message.structured, message.text) == ({"id": {"a": (text,)}}, "x")


def test_parameter_may_occur_more_than_once() -> None:
    """All values of a parameter are kept, in order."""
    message = read(b'<13>1 - - - - - [origin ip="192.0.2.1" ip="192.0.2.129"]')
    assert message.structured == {"origin": {"ip": ("192.0.2.1", "192.0.2.129")}}


@pytest.mark.parametrize(
    ("field", "time"),
    [
        (b"1985-04-12T23:20:50.52Z", datetime(1985, 4, 12, 23, 20, 50, 520000, UTC)),
        (b"1985-04-12T19:20:50.52-04:00", datetime(1985, 4, 12, 23, 20, 50, 520000, UTC)),
        (b"2003-08-24T05:14:15.000003-07:00", datetime(2003, 8, 24, 12, 14, 15, 3, UTC)),
        (b"2003-12-31T23:30:00-01:30", datetime(2004, 1, 1, 1, 0, tzinfo=UTC)),
        (b"2003-12-31T23:30:00.123456789Z", datetime(2003, 12, 31, 23, 30, 0, 123456, UTC)),
    ],
)
def test_timestamps_become_utc(field: bytes, time: datetime) -> None:
    """A timestamp with any offset is the same moment in UTC, to the microsecond."""
    message = read(b"<13>1 " + field + b" h a p m - x")
    assert (message.timestamp, message.format) == (time, "rfc5424")
    assert message.timestamp is not None
    assert message.timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"<13>1 2003-10-11T22:14:15Z host", "incomplete header"),
        (b"<13>1 - h a p m", "incomplete header"),
        (b"<13>1 - h a  p m - two spaces", "incomplete header"),
        ("<13>1 - h\u00f6st a p m - x".encode(), "incomplete header"),
        (b"<13>1 2003-10-11 h a p m - x", "not a timestamp: '2003-10-11'"),
        (b"<13>1 2003-08-24T05:14:15 h a p m - x", "not a timestamp: '2003-08-24T05:14:15'"),
        (b"<13>1 2003-02-30T05:14:15Z h a p m - x", "no such time: '2003-02-30T05:14:15Z'"),
        (b"<13>1 2003-02-20T05:14:60Z h a p m - x", "no such time: '2003-02-20T05:14:60Z'"),
        (b"<13>1 0001-01-01T00:00:00+01:00 h a p m - x", "no such time"),
        (b"<13>1 - h a p m x", "malformed structured data"),
        (b"<13>1 - h a p m [id", "malformed structured data"),
        (b'<13>1 - h a p m [id a="]"] x', "malformed structured data"),
        (b'<13>1 - h a p m [id a="b"][', "malformed structured data"),
        (b'<13>1 - h a p m [id  a="b"] x', "malformed structured data"),
        (b"<13>1 - h a p m [] x", "malformed structured data"),
        (b"<13>1 - h a p m -x", "no space after the structured data"),
        (b"<13>1 - h a p m [id]x", "no space after the structured data"),
        (b"<13>1 - h a p m [id][id]", "structured data has the element 'id' twice"),
    ],
)
def test_broken_rfc5424_is_kept_raw(data: bytes, problem: str) -> None:
    """A message that breaks RFC 5424 is raw, with all its text, its priority and the reason."""
    message = read(data)
    assert (message.format, message.text) == ("raw", data.decode())
    assert (message.facility, message.severity) == (1, 5)
    assert message.problem.startswith(problem)


def test_hostile_structured_data_takes_no_time() -> None:
    """A message of 64 KiB of almost structured data is refused in linear time."""
    began = time.process_time()
    for value in (b'a="' * 21_000, b'[id a="b"]' * 6_500, b'[id a="\\' * 7_000, b"[" * 65_000):
        read(b"<13>1 - h a p m [id " + value)
    assert time.process_time() - began < 2


# Priorities


@pytest.mark.parametrize("priority", [0, 7, 13, 191])
def test_priority_is_facility_and_severity(priority: int) -> None:
    """Every priority from 0 to 191 is 8 * facility + severity."""
    message = read(b"<%d>x" % priority)
    assert (message.facility, message.severity) == divmod(priority, 8)
    assert message.format == "rfc3164"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"no priority", b"<192>x", b"<999>x", b"<1000>x", b"<013>x", b"<00>x", b"<>x"),
        *(b"<-1>x", b"<1", b"<a>x", b"< 1>x", b" <1>x", "<\u0661>x".encode()),
    ],
)
def test_without_a_valid_priority_it_is_raw(data: bytes) -> None:
    """What has no priority of 0 to 191 is kept as it is, and has none."""
    message = read(data)
    assert message == Message("raw", data.decode(), problem="no valid priority")


# RFC 3164


def test_what_logger_sends_with_rfc3164() -> None:
    """The line that util-linux's logger sends with --rfc3164 -i is read."""
    message = read(b"<13>Nov 24 14:11:58 vm tag[5166]: hello")
    assert message == Message(
        "rfc3164",
        "hello",
        priority=13,
        timestamp=datetime(2026, 11, 24, 14, 11, 58, tzinfo=UTC),
        hostname="vm",
        app_name="tag",
        procid="5166",
    )


@pytest.mark.parametrize(
    ("body", "hostname", "app_name", "procid", "text"),
    [
        (b"Nov 24 14:11:58 vm root: hello", "vm", "root", None, "hello"),
        (b"Nov 24 14:11:58 root: hello", None, "root", None, "hello"),
        (b"Nov 24 14:11:58 root[1]: hello", None, "root", "1", "hello"),
        (b"Nov 24 14:11:58 vm hello world", "vm", None, None, "hello world"),
        (b"Nov 24 14:11:58 hello", None, None, None, "hello"),
        (b"Nov 24 14:11:58", None, None, None, ""),
        (b"Nov 24 14:11:58 fe80::1 root: hello", "fe80::1", "root", None, "hello"),
        (b"Nov 24 14:11:58 vm postfix/smtpd[7]: x: y", "vm", "postfix/smtpd", "7", "x: y"),
        (b"Nov 24 14:11:58 vm root:", "vm", "root", None, ""),
        (b"root[2]: hello", None, "root", "2", "hello"),
        (b"hello world", None, None, None, "hello world"),
        (b"see http://example.com", None, None, None, "see http://example.com"),
        (b"http://example.com", None, None, None, "http://example.com"),
        (b"1 apple a day", None, None, None, "1 apple a day"),
        (b"", None, None, None, ""),
    ],
)
def test_what_rfc3164_leaves_out(
    body: bytes, hostname: str | None, app_name: str | None, procid: str | None, text: str
) -> None:
    """Timestamp, hostname and tag may each be missing."""
    message = read(b"<13>" + body)
    assert message.format == "rfc3164"
    assert (message.hostname, message.app_name, message.procid) == (hostname, app_name, procid)
    assert message.text == text
    assert (message.timestamp is None) == (not body.startswith(b"Nov"))


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        (b"Nov  4 01:02:03", datetime(2026, 11, 4, 1, 2, 3, tzinfo=UTC)),
        (b"Nov 04 01:02:03", datetime(2026, 11, 4, 1, 2, 3, tzinfo=UTC)),
        (b"Nov 4 01:02:03", datetime(2026, 11, 4, 1, 2, 3, tzinfo=UTC)),
        (b"Nov 24 01:02:03.25", datetime(2026, 11, 24, 1, 2, 3, 250000, UTC)),
        (b"Feb 29 2024 01:02:03", datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC)),
        (b"2026-11-24T01:02:03.5+01:00", datetime(2026, 11, 24, 0, 2, 3, 500000, UTC)),
    ],
)
def test_timestamps_that_are_met_in_rfc3164(stamp: bytes, time: datetime) -> None:
    """Padded days, years, fractions and ISO timestamps are read where RFC 3164 has its own."""
    message = read(b"<13>" + stamp + b" vm tag: hello")
    assert (message.timestamp, message.hostname, message.text) == (time, "vm", "hello")


@pytest.mark.parametrize(
    ("now", "year"),
    [
        (datetime(2027, 1, 1, 0, 5, tzinfo=UTC), 2026),
        (datetime(2026, 12, 31, 23, 50, tzinfo=UTC), 2026),
        (datetime(2026, 6, 1, tzinfo=UTC), 2025),
    ],
)
def test_year_is_the_nearest(now: datetime, year: int) -> None:
    """A message from just before New Year, read just after it, is of the old year."""
    message = read(b"<13>Dec 31 23:55:00 vm tag: hello", now)
    assert message.timestamp == datetime(year, 12, 31, 23, 55, tzinfo=UTC)


def test_clock_ahead_over_new_year() -> None:
    """A message from a clock that is in the new year already is of the new year."""
    message = read(b"<13>Jan  1 00:00:01 vm tag: x", datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert message.timestamp == datetime(2027, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_zone_of_rfc3164_is_what_it_is_told() -> None:
    """A timestamp without a zone is read in the given one."""
    message = parse(b"<13>Nov 24 14:11:58 vm tag: x", NOW, timezone(timedelta(hours=1)))
    assert message.timestamp == datetime(2026, 11, 24, 13, 11, 58, tzinfo=UTC)


def test_default_zone_is_this_machine() -> None:
    """Without a zone that of the machine is taken."""
    message = parse(b"<13>Nov 24 14:11:58 vm tag: x", NOW)
    assert message.timestamp == datetime(2026, 11, 24, 14, 11, 58).astimezone(UTC)


@pytest.mark.parametrize("stamp", ["Feb 30 01:02:03", "Nov 24 25:00:00", "Feb 29 2023 01:02:03"])
def test_impossible_time_is_kept_raw(stamp: str) -> None:
    """A message of a time that never was is raw, with its priority."""
    message = read(f"<13>{stamp} vm tag: x".encode())
    assert (message.format, message.text) == ("raw", f"<13>{stamp} vm tag: x")
    assert (message.severity, message.problem) == (5, f"no such time: {stamp!r}")


# All formats


@pytest.mark.parametrize("trailer", [b"\n", b"\r\n", b"\0", b"\r"])
def test_one_trailer_is_no_text(trailer: bytes) -> None:
    """A line end that came within a datagram or a counted message is left out, one of them."""
    assert read(b"<13>tag: hello" + trailer).text == "hello"
    assert read(b"<13>tag: hello\n" + trailer).text == "hello\n"


def test_bytes_that_are_not_utf8_are_marked() -> None:
    """Text in another encoding is readable in part, and the message says that it is not exact."""
    message = read(b"<13>1 - h a p m - f\xfcr alle")
    assert (message.format, message.text) == ("rfc5424", "f\ufffdr alle")
    assert not message.exact


def test_nul_is_marked() -> None:
    """A text with NUL in it, which SQLite's functions don't see the end of, is not exact."""
    message = read(b"<13>tag: a\0b")
    assert (message.text, message.exact) == ("a\0b", False)


NASTY = st.lists(
    st.sampled_from(
        [
            *(b"<13>", b"<", b">", b"1 ", b" ", b"- ", b"-", b"[", b"]", b'"', b"\\", b"=", b"a"),
            *(b"2003-10-11T22:14:15.003Z ", b"0001-01-01T00:00:00+23:59 ", b"Feb 29 ", b"0001 "),
            *(b"9999-12-31T23:59:59-23:59 ", b"Nov 24 ", b"9999 ", b"14:11:58", b"99:99:99"),
            *(b": ", b"[7]", b"tag", b"host ", b"\n", b"\0", b"\xff", BOM, b"\xc2\xb2", b"."),
            *(b'[x y="z"]', b"h a p m "),
        ]
    )
).map(b"".join)


@given(data=NASTY | st.binary() | NASTY.map(b"<13>1 ".__add__) | NASTY.map(b"<13>".__add__))
def test_nothing_breaks_it(data: bytes) -> None:
    """Any bytes make a message, its time is in UTC, and a raw one has all of the text."""
    for message in (read(data), parse(data, NOW)):
        assert (message.format == "raw") == bool(message.problem)
        assert message.timestamp is None or message.timestamp.utcoffset() == timedelta()
        if message.format == "raw" and message.exact:
            assert data.startswith(message.text.encode())
            assert data[len(message.text.encode()) :] in (b"", b"\n", b"\r\n", b"\r", b"\0")


FIELD = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
NAME = FIELD.filter(lambda name: not set(name) & set('"=]'))
STRUCTURED = st.dictionaries(
    NAME, st.dictionaries(NAME, st.lists(st.text(), min_size=1, max_size=2).map(tuple), max_size=3)
)


def element(name: str, parameters: dict[str, tuple[str, ...]]) -> str:
    escapes = str.maketrans({c: f"\\{c}" for c in '"\\]'})
    pairs = [(key, value) for key, values in parameters.items() for value in values]
    return f"[{name}" + "".join(f' {key}="{v.translate(escapes)}"' for key, v in pairs) + "]"


@given(
    priority=st.integers(0, 191),
    timestamp=st.none() | st.datetimes(timezones=st.just(UTC)),
    fields=st.tuples(FIELD, FIELD, FIELD, FIELD),
    structured=STRUCTURED,
    text=st.text().map("{}.".format),
)
def test_rfc5424_reads_what_was_written(
    priority: int,
    timestamp: datetime | None,
    fields: tuple[str, ...],
    structured: dict[str, dict[str, tuple[str, ...]]],
    text: str,
) -> None:
    """Each field of a message written by RFC 5424's grammar comes back."""
    stamp = "-" if timestamp is None else timestamp.isoformat()
    elements = "".join(element(*item) for item in structured.items()) or "-"
    line = f"<{priority}>1 {stamp} {' '.join(fields)} {elements} \ufeff{text}"
    message = read(line.encode())
    assert (message.format, message.problem) == ("rfc5424", "")
    assert (message.timestamp, message.structured, message.text) == (timestamp, structured, text)
    read_fields = (message.hostname, message.app_name, message.procid, message.msgid)
    assert read_fields == tuple(None if field == "-" else field for field in fields)
