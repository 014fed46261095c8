"""Tests that drive the hub as a process, with real clients."""

from __future__ import annotations

import socket
import sys
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING

import pytest
import trio
from hub_process import APP, generator, hub, logger, numbers, process, query, sent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hub_process import Sent

pytestmark = pytest.mark.process


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "syslog.db"


def assert_beginnings(database: Path, sent: Sent) -> None:
    """Check that of each connection a beginning is stored: in order, nothing left out or twice."""
    for connection, found in numbers(database, run=1).items():
        assert found == list(range(len(found)))
        assert len(found) <= sent.by_connection[connection]


async def test_logger_over_udp_and_tcp(database: Path) -> None:
    """What logger sends, in each of its ways, is on the console and in the database."""
    ways = {
        "tcp": ["-T"],
        "udp": ["-d"],
        "tcp-rfc3164": ["-T", "--rfc3164"],
        "udp-rfc3164": ["-d", "--rfc3164"],
        "tcp-counted": ["-T", "--octet-count"],
    }
    with trio.fail_after(60):
        async with hub(database) as running:
            for name, options in ways.items():
                port = running.tcp_port if "-T" in options else running.udp_port
                await logger(port, *options, "-t", "me", "-p", "daemon.err", f"hello by {name}")
                await running.stdout.find(rf"\d\d:\d\d:\d\d \S+ me error: hello by {name}$")
            assert await running.send_signal(SIGTERM) == 0
    sql = "SELECT transport, format, facility, severity, app_name, text FROM messages"
    assert {(*row[:2], row[-1]) for row in query(database, sql)} == {
        ("tcp", "rfc5424", "hello by tcp"),
        ("udp", "rfc5424", "hello by udp"),
        ("tcp", "rfc3164", "hello by tcp-rfc3164"),
        ("udp", "rfc3164", "hello by udp-rfc3164"),
        ("tcp", "rfc5424", "hello by tcp-counted"),
    }
    assert {row[2:5] for row in query(database, sql)} == {(3, 3, "me")}


async def test_environment_sets_up_the_app(tmp_path: Path) -> None:
    """The app itself, without arguments, takes its settings from the environment."""
    settings = {"DATABASE": str(tmp_path / "env.db"), "UDP_PORT": "0", "TCP_PORT": "0"}
    env = {f"SYSLOG_HUB_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "trio_modules", "run", f"{APP}:app"]
    with trio.fail_after(60):
        async with process(*command, env=env) as running:
            port = (await running.stderr.find(r"listening on tcp 127\.0\.0\.1:([0-9]+)"))[1]
            await logger(int(port), "-T", "hello")
            await running.stdout.find("notice: hello$")
            assert await running.send_signal(SIGTERM) == 0
    assert query(tmp_path / "env.db", "SELECT text FROM messages") == [("hello",)]


@pytest.mark.parametrize("framing", [[], ["--octet-count"]], ids=["lines", "octet-count"])
async def test_everything_is_stored(
    database: Path, framing: list[str], tabulate: Callable[[int, int | None, int], None]
) -> None:
    """When the sender has finished before SIGTERM, sent = accepted = stored, in order."""
    options = ["--connections", 4, *framing]
    with trio.fail_after(60):
        async with (
            hub(database) as running,
            generator(running.tcp_port, 20_000, *options) as sender,
        ):
            total = (await sent(sender)).total
            assert await running.send_signal(SIGTERM) == 0
    [(accepted,)] = query(database, "SELECT accepted FROM runs")
    [(stored,)] = query(database, "SELECT count(*) FROM messages")
    tabulate(total, accepted, stored)
    assert (total, accepted, stored) == (20_000, 20_000, 20_000)
    assert numbers(database, run=1) == {n: [*range(5_000)] for n in range(4)}


async def test_sigterm_amid_100000_messages(
    database: Path, tabulate: Callable[[int, int | None, int], None]
) -> None:
    """SIGTERM amid 100,000 messages, stdout unread: exit code 0, accepted = stored."""
    options = ["--connections", 4, "--pause", 50_000]
    with trio.fail_after(60):
        async with (
            hub(database, read_stdout=False) as running,
            generator(running.tcp_port, 100_000, *options) as sender,
        ):
            await sender.stdout.find("paused")
            await sender.go_on()
            assert await running.send_signal(SIGTERM) == 0
            result = await sent(sender)
    [(accepted, stopped)] = query(database, "SELECT accepted, stopped FROM runs")
    [(stored, last)] = query(database, "SELECT count(*), max(seq) FROM messages")
    tabulate(result.total, accepted, stored)
    assert 0 < accepted == stored == last <= result.total < 100_000
    assert stopped is not None
    assert_beginnings(database, result)


async def test_kill_amid_100000_messages(
    database: Path, tabulate: Callable[[int, int | None, int], None]
) -> None:
    """After kill -9 all that was committed is there, and the hub starts again on the file."""
    options = ["--connections", 4, "--pause", 50_000]
    with trio.fail_after(60):
        async with (
            hub(database, read_stdout=False) as running,
            generator(running.tcp_port, 100_000, *options) as sender,
        ):
            await sender.stdout.find("paused")
            await sender.go_on()
            [(committed,)] = query(database, "SELECT count(*) FROM messages")
            assert await running.send_signal(SIGKILL) == -SIGKILL
            result = await sent(sender)
        [(stored, last)] = query(database, "SELECT count(*), max(seq) FROM messages")
        assert query(database, "SELECT stopped, accepted FROM runs") == [(None, None)]
        assert query(database, "PRAGMA integrity_check") == [("ok",)]
        assert 0 < committed <= stored == last <= result.total < 100_000
        assert_beginnings(database, result)
        async with hub(database) as running:
            await logger(running.tcp_port, "-T", "hello again")
            await running.stdout.find("hello again$")
            assert await running.send_signal(SIGTERM) == 0
    assert query(database, "SELECT run, count(*) FROM messages GROUP BY run") == [
        (1, stored),
        (2, 1),
    ]
    tabulate(result.total, None, stored)


async def test_port_that_is_taken_is_a_failed_start(database: Path) -> None:
    """A hub that can't listen leaves with exit code 1, and says which module and why."""
    with trio.fail_after(60), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "trio_modules", "run", f"{APP}:make_app", "--"]
        options = ["--database", database, "--udp-port", 0, "--tcp-port", port]
        async with process(*command, *options) as running:
            assert await running.wait() == 1
            text = await running.stderr.text()
    assert "receiver" in text
    assert "Address already in use" in text


async def test_wrong_argument_ends_it(database: Path) -> None:
    """A setting that is no good ends the hub with exit code 2 and its name, not a traceback."""
    command = [sys.executable, "-m", "trio_modules", "run", f"{APP}:make_app", "--"]
    with trio.fail_after(60):
        async with process(*command, "--database", database, "--queue", "0") as running:
            assert await running.wait() == 2
            text = await running.stderr.text()
    assert "argument --queue: out of range: '0'" in text
    assert "Traceback" not in text
    assert not await trio.Path(database).exists()
