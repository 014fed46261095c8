"""Tests for console.py of the hub: readable lines, and nobody waits for them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from console import Console, line
from hub_records import Source
from hub_records import record as record_at

from trio_modules import App, Module, ModuleStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from records import Record
    from trio.testing import MockClock


def record(data: bytes, *, cut: bool = False) -> Record:
    return record_at(data, arrived=0, cut=cut)


def after_time(text: str) -> str:
    """Drop "Nov 24 14:12:00 ", which depends on the zone."""
    assert text[:15].count(":") == 2
    return text[16:]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<11>1 - host app 7 - - it broke", "host app[7] error: it broke"),
        (b"<14>Nov 24 14:12:00 host app: fine", "host app info: fine"),
        (b"<14>fine", "peer:1 - info: fine"),
        (b"no syslog", "peer:1 - raw: no syslog"),
        (b"<14>two\nlines\ttab", r"peer:1 - info: two\nlines\ttab"),
        (b"<14>\x1b[31mred", r"peer:1 - info: \x1b[31mred"),
        ("<14>\u202eabc".encode(), r"peer:1 - info: \u202eabc"),
        ("<14>f\u00fcr".encode(), "peer:1 - info: f\u00fcr"),
        (b"<14>f\xfcr", "peer:1 - info: f\ufffdr"),
    ],
)
def test_a_message_is_one_harmless_line(data: bytes, expected: str) -> None:
    """A line says when, where, who, how bad and what, and holds nothing but printable text."""
    text = line(record(data))
    assert after_time(text) == expected
    assert text.isprintable()


def test_long_and_cut_messages_are_marked() -> None:
    """What isn't shown to its end ends with an ellipsis."""
    assert line(record(b"<14>" + b"x" * 5_000)).endswith("xxx\u2026")
    assert len(line(record(b"<14>" + b"x" * 5_000))) == 1_001
    assert line(record(b"<14>short", cut=True)).endswith("short\u2026")


class Screen:
    """Somebody who reads, or doesn't."""

    def __init__(self) -> None:
        self.text = ""
        self.written = trio.Event()
        self.begun = trio.Event()
        self.reading = threading.Event()

    def write(self, output: bytes) -> None:
        trio.from_thread.run_sync(self.begun.set)
        self.reading.wait()
        self.text += output.decode()
        trio.from_thread.run_sync(self.written.set)

    @contextmanager
    def stuck(self) -> Iterator[None]:
        """Let no write end within the block."""
        try:
            yield
        finally:
            self.reading.set()


async def test_what_arrives_is_printed() -> None:
    """Each message triggered is printed, in order."""
    screen = Screen()
    screen.reading.set()
    source = Source()
    console = Console(source.message, screen.write)
    with trio.fail_after(60):
        async with App(source, console):
            for n in range(3):
                source.message.trigger_nowait(record(b"<14>%d" % n))
            await screen.written.wait()
    assert [text[-1] for text in screen.text.splitlines()] == ["0", "1", "2"]


async def test_what_nobody_read_is_counted_on_the_console() -> None:
    """While a write hangs the oldest messages are lost, and the next line says how many."""
    screen = Screen()
    source = Source()
    console = Console(source.message, screen.write, buffer=10)
    with trio.fail_after(60):
        async with App(source, console):
            with screen.stuck():
                source.message.trigger_nowait(record(b"<14>first"))
                await screen.begun.wait()
                for n in range(100):
                    source.message.trigger_nowait(record(b"<14>%d" % n))
            await screen.written.wait()
            screen.written = trio.Event()
            await screen.written.wait()
            assert console.dropped() == 90
    first, missing, *rest = screen.text.splitlines()
    assert first.endswith("info: first")
    assert missing == "... 90 messages not shown"
    assert [text.split()[-1] for text in rest] == [str(n) for n in range(90, 100)]


async def test_hub_leaves_a_hanging_console_behind() -> None:
    """A write that never ends doesn't keep the app from ending."""
    screen = Screen()
    source = Source()
    console = Console(source.message, screen.write)
    with screen.stuck(), trio.fail_after(60):
        async with App(source, console):
            source.message.trigger_nowait(record(b"<14>first"))
            await screen.begun.wait()
    assert console.status == ModuleStatus.OFFLINE


async def test_broken_stdout_takes_nobody_along(mock_clock: MockClock) -> None:
    """A stdout that fails each time puts the console offline; who merely wants it stays online."""

    def broken(output: bytes) -> None:
        raise BrokenPipeError

    source = Source()
    console = Console(source.message, broken)
    other = Module("other", wants=[console])
    mock_clock.rate = 20
    with trio.fail_after(200):
        async with App(source, console, other) as app, app.changes() as changes:
            source.message.trigger_nowait(record(b"<14>x"))
            async for change in changes:
                source.message.trigger_nowait(record(b"<14>x"))
                if change.after == ModuleStatus.OFFLINE:
                    break
            assert other.online
            assert "console:crashed" in console.failures
            for _ in range(5_000):
                source.message.trigger_nowait(record(b"<14>x"))
            assert app.status().modules["console"].hooks[0].backlog == 0
