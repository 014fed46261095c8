"""Tests for framing.py of the hub: where messages end, in whatever pieces they come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from framing import DEFAULT_LIMIT, Frame, Framer, datagram
from hypothesis import example, given
from hypothesis import strategies as st


def all_at_once(data: bytes, limit: int = DEFAULT_LIMIT, *, complete: bool = True) -> list[Frame]:
    framer = Framer(limit)
    return framer.feed(data) + framer.finish(complete=complete)


def in_pieces(data: bytes, cuts: list[int], limit: int) -> tuple[list[Frame], int]:
    framer = Framer(limit)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    frames = [frame for piece in pieces for frame in framer.feed(piece)]
    return frames + framer.finish(complete=True), framer.discarded


def test_line_feed_ends_a_message() -> None:
    """Non-transparent framing splits at LF."""
    assert all_at_once(b"<13>one\n<13>two\n") == [Frame(b"<13>one"), Frame(b"<13>two")]


def test_nul_ends_a_message() -> None:
    """Non-transparent framing splits at NUL as well."""
    assert all_at_once(b"<13>one\0<13>two\0") == [Frame(b"<13>one"), Frame(b"<13>two")]


def test_empty_lines_are_no_messages() -> None:
    """What holds no byte, as between LF and NUL, yields no frame."""
    assert all_at_once(b"\n\0<13>one\n\0\n") == [Frame(b"<13>one")]


def test_counted_message_may_hold_trailers() -> None:
    """With octet counting LF and NUL are bytes like any other."""
    assert all_at_once(b"10 <13>a\nb\0c\n7 <13>two") == [Frame(b"<13>a\nb\0c\n"), Frame(b"<13>two")]


def test_framings_mix_on_one_connection() -> None:
    """Each message is taken by the framing that it came in."""
    data = b"<13>one\n7 <13>two<13>three\n8 <13>four\n\n<13>five\0"
    frames = [b"<13>one", b"<13>two", b"<13>three", b"<13>four", b"<13>five"]
    assert [frame.data for frame in all_at_once(data)] == frames


def test_line_that_begins_with_a_number_is_a_line() -> None:
    """A number is no length where neither "<" follows nor a length came before."""
    assert all_at_once(b"12 monkeys\n<13>one\n") == [Frame(b"12 monkeys"), Frame(b"<13>one")]


def test_counted_connection_counts_what_is_no_syslog() -> None:
    """After a counted message a number is a length, whatever follows."""
    assert all_at_once(b"7 <13>one5 hello7 <13>two") == [
        Frame(b"<13>one"),
        Frame(b"hello"),
        Frame(b"<13>two"),
    ]


@pytest.mark.parametrize("data", [b"0 <13>zero\n", b"007 <13>one\n", b"12345678901 <13>\n"])
def test_bad_length_begins_a_line(data: bytes) -> None:
    """Zero, leading zeros and lengths beyond ten digits are no octet counts."""
    assert all_at_once(data) == [Frame(data.rstrip(b"\n"))]


def test_closed_connection_ends_its_last_line() -> None:
    """A line without a trailer is whole when its sender closed the connection."""
    assert all_at_once(b"<13>one\n<13>two") == [Frame(b"<13>one"), Frame(b"<13>two")]


def test_broken_connection_cuts_its_last_line() -> None:
    """A line without a trailer is marked as cut when the connection did not end by itself."""
    assert all_at_once(b"<13>tw", complete=False) == [Frame(b"<13>tw", cut=True)]


def test_counted_message_that_stays_short_is_cut() -> None:
    """What came of a counted message is kept, and marked, when the rest never comes."""
    assert all_at_once(b"20 <13>half") == [Frame(b"<13>half", cut=True)]


def test_line_as_long_as_the_limit_is_whole() -> None:
    """A line of exactly `limit` bytes is not cut."""
    assert all_at_once(b"<13>four\nx\n", limit=8) == [Frame(b"<13>four"), Frame(b"x")]


def test_longer_line_is_cut_and_the_next_is_whole() -> None:
    """One byte more than the limit cuts the line, and only that line."""
    framer = Framer(limit=8)
    frames = framer.feed(b"<13>fourteen\n<13>next\n")
    assert frames == [Frame(b"<13>four", cut=True), Frame(b"<13>next")]
    assert framer.discarded == len(b"teen")


def test_longer_counted_message_is_cut_and_the_next_is_whole() -> None:
    """The rest of a counted message over the limit is skipped by its length."""
    framer = Framer(limit=8)
    frames = framer.feed(b"12 <13>four\nee\n8 <13>next")
    assert frames == [Frame(b"<13>four", cut=True), Frame(b"<13>next")]
    assert framer.discarded == len(b"\nee\n")


def test_endless_line_yields_one_frame_and_no_memory() -> None:
    """A line without end is kept up to the limit, at once; of the rest nothing is held."""
    framer = Framer(limit=1000)
    frames = [frame for _ in range(1000) for frame in framer.feed(b"x" * 1000)]
    assert frames == [Frame(b"x" * 1000, cut=True)]
    assert framer.discarded == 999_000
    assert framer.finish(complete=True) == []


def test_huge_announced_length_does_not_block() -> None:
    """A message announced as ten digits long yields its first `limit` bytes when they are here."""
    assert Framer(limit=8).feed(b"9999999999 <13>fourteen") == [Frame(b"<13>four", cut=True)]


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_refused(limit: int) -> None:
    """A framer needs room for a byte."""
    with pytest.raises(ValueError, match=f"limit must be at least 1, not {limit}"):
        Framer(limit)


def test_datagram_is_one_message() -> None:
    """A datagram is a message, whatever is in it, cut at the limit; an empty one is none."""
    assert datagram(b"7 <13>a\nb\n") == [Frame(b"7 <13>a\nb\n")]
    assert datagram(b"<13>fourteen", limit=8) == [Frame(b"<13>four", cut=True)]
    assert datagram(b"") == []


# An alphabet in which lengths, trailers and limits meet often.
NASTY = st.lists(st.sampled_from([b"<", b"1", b"2", b"0", b" ", b"\n", b"\0", b"x", b"12 <"]))


@given(
    data=NASTY.map(b"".join) | st.binary(),
    cuts=st.lists(st.integers(0, 40)),
    limit=st.integers(1, 12),
)
@example(data=b"12 <x\n", cuts=[1, 2, 3, 4], limit=12)
@example(data=b"1234567890 <x", cuts=list(range(12)), limit=3)
def test_pieces_make_no_difference(data: bytes, cuts: list[int], limit: int) -> None:
    """Any bytes yield the same frames in whatever pieces they arrive."""
    framer = Framer(limit)
    whole = framer.feed(data) + framer.finish(complete=True)
    assert in_pieces(data, cuts, limit) == (whole, framer.discarded)


@given(data=NASTY.map(b"".join) | st.binary(), limit=st.integers(1, 12))
def test_no_frame_is_empty_or_over_the_limit(data: bytes, limit: int) -> None:
    """Frames hold 1 to `limit` bytes, and those of a cut line are `limit` of them."""
    frames = Framer(limit).feed(data)
    assert all(1 <= len(frame.data) <= limit for frame in frames)
    assert all(len(frame.data) == limit for frame in frames if frame.cut)


def counted(message: bytes) -> bytes:
    return b"%d %b" % (len(message), message)


def lined(message: bytes) -> bytes:
    return message.replace(b"\n", b"").replace(b"\0", b"") + b"\n"


@given(
    messages=st.lists(st.tuples(st.binary().map(b"<13>".__add__), st.booleans())),
    cuts=st.lists(st.integers(0, 2000)),
)
def test_messages_come_out_as_they_went_in(
    messages: list[tuple[bytes, bool]], cuts: list[int]
) -> None:
    """Messages in any mixture of framings and any pieces come out whole and in order."""
    data = b"".join(counted(message) if count else lined(message) for message, count in messages)
    sent = [message if count else lined(message)[:-1] for message, count in messages]
    frames, discarded = in_pieces(data, cuts, DEFAULT_LIMIT)
    assert frames == [Frame(message) for message in sent]
    assert discarded == 0
