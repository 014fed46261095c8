"""Tests of the whole hub within this process, with real sockets and a real file."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from alerts import ERROR_BURST
from app import make_app
from console import Console
from hub_process import generator, locked, numbers, query, sent
from receiver import Receiver, ReceiverStatistics
from store import Store

from trio_modules import App, FailureLevel, ModuleStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from records import Record

    from trio_modules import Change


@attrs.frozen
class Hub:
    """The hub, its modules and its file."""

    app: App
    store: Store
    receiver: Receiver
    console: Console
    database: Path
    arrived: trio.MemoryReceiveChannel[Record]

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.receiver.tcp_port)

    async def send(self, data: bytes) -> None:
        """Send over a connection of its own, and wait until the hub has taken everything."""
        async with await self.connect() as stream:
            await stream.send_all(data)
            await stream.send_eof()
            assert await stream.receive_some() == b""

    def stored(self, *columns: str) -> list[tuple[Any, ...]]:
        """Ask the database, in the order of arrival."""
        return query(self.database, f"SELECT {', '.join(columns)} FROM messages ORDER BY seq")


@asynccontextmanager
async def hub(directory: Path, *options: object) -> AsyncIterator[Hub]:
    """Run the hub on free ports."""
    database = directory / "syslog.db"
    ports = ["--udp-port", "0", "--tcp-port", "0"]
    app = make_app([*ports, "--database", str(database), *map(str, options)])
    store, receiver = app.get("store", Store), app.get("receiver", Receiver)
    with trio.fail_after(60):
        async with receiver.message.subscribe(100_000) as arrived, app:
            yield Hub(app, store, receiver, app.get("console", Console), database, arrived)


async def change_to(
    changes: trio.MemoryReceiveChannel[Change], matches: Callable[[Change], bool]
) -> None:
    """Wait for a change that matches."""
    async for change in changes:
        if matches(change):
            return


async def test_order_of_the_modules(tmp_path: Path) -> None:
    """The receiver starts after what takes its messages, and stops before it."""
    app = make_app(["--udp-port=0", "--tcp-port=0", f"--database={tmp_path / 'syslog.db'}"])
    with trio.fail_after(60):
        async with app.changes() as changes:
            async with app:
                assert all(module.online for module in app.modules.values())
            seen = [(change.module, change.after) async for change in changes]
    for other in ("store", "alerts", "console", "stats"):
        assert seen.index((other, ModuleStatus.ONLINE)) < seen.index(
            ("receiver", ModuleStatus.STARTING)
        )
        stops = seen.index((other, ModuleStatus.STOPPING))
        assert ("receiver", ModuleStatus.OFFLINE) in seen[:stops]
    for other in ("retention", "report"):
        assert seen.index(("store", ModuleStatus.ONLINE)) < seen.index((other, ModuleStatus.ONLINE))


async def test_line_that_is_no_syslog_is_kept_and_counted(tmp_path: Path) -> None:
    """What can't be parsed is stored raw between its neighbours, and counted."""
    async with hub(tmp_path) as running:
        await running.send(b"<14>one\nno syslog\n<14>1 2026-\xff\n<14>two\n")
        assert running.receiver.statistics() == ReceiverStatistics(
            udp=0, tcp=4, raw=2, cut=0, skipped_bytes=0, refused=0
        )
    assert running.stored("format", "text", "raw") == [
        ("rfc3164", "one", None),
        ("raw", "no syslog", None),
        ("raw", "<14>1 2026-\ufffd", b"<14>1 2026-\xff"),
        ("rfc3164", "two", None),
    ]


@pytest.mark.parametrize("first", [b"<14>" + b"x" * 996, b"100000 <14>" + b"x" * 996])
async def test_oversized_message_is_cut_and_the_connection_kept(
    tmp_path: Path, first: bytes
) -> None:
    """Of a message over the limit the beginning is kept, and the next one is whole."""
    rest = b"x" * 99_000 + (b"" if first.startswith(b"1") else b"\n")
    async with hub(tmp_path, "--max-message", 1_000) as running:
        await running.send(first + rest + b"<14>next\n")
        assert running.receiver.statistics().cut == 1
        assert running.receiver.statistics().skipped_bytes == 99_000
    assert running.stored("text", "cut") == [("x" * 996, 1), ("next", 0)]


async def test_endless_line_holds_nobody_up(tmp_path: Path) -> None:
    """While one connection sends a line without end others are served, and it is cut at once."""

    async def send_for_ever(stream: trio.SocketStream) -> None:
        async with stream:
            while True:
                await stream.send_all(b"x" * 10_000)

    async with hub(tmp_path, "--max-message", 1_000) as running, trio.open_nursery() as nursery:
        nursery.start_soon(send_for_ever, await running.connect())
        assert (await running.arrived.receive()).cut
        await running.send(b"<14>other\n")
        nursery.cancel_scope.cancel()
    assert running.stored("text", "cut") == [("x" * 1_000, 1), ("other", 0)]


async def test_broken_connection_loses_nothing_that_was_read(tmp_path: Path) -> None:
    """When a sender resets its connection, what had come of its last line is kept, as cut."""
    async with hub(tmp_path) as running:
        stream = await running.connect()
        await stream.send_all(b"<14>whole\n<14>half")
        await running.arrived.receive()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await running.arrived.receive()
        assert running.receiver.failures == {}
    assert running.stored("text", "cut") == [("whole", 0), ("half", 1)]


async def test_stop_keeps_what_was_read_of_a_line(tmp_path: Path) -> None:
    """A line that was half here when the hub was left is stored, as cut."""
    async with hub(tmp_path) as running:
        stream = await running.connect()
        await stream.send_all(b"<14>whole\n<14>half")
        await running.arrived.receive()
    assert running.stored("text", "cut") == [("whole", 0), ("half", 1)]
    assert await stream.receive_some() == b""
    await stream.aclose()


class Steps(trio.abc.Instrument):
    """Counts how often any task has run."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_burst_costs_no_step_per_message(tmp_path: Path) -> None:
    """What comes in one piece, and has room, is handed on to all in far fewer steps."""
    async with hub(tmp_path) as running:
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await running.send(b"<11>x\n" * 5_000)
        trio.lowlevel.remove_instrument(steps)
        assert steps.count < 500
    assert len(running.stored("seq")) == 5_000


async def test_stop_hands_over_what_was_read(tmp_path: Path) -> None:
    """What had been read and waited for room in the store is stored when the hub has left."""
    data = b"".join(b"<14>%d\n" % n for n in range(1_000))
    async with hub(tmp_path, "--queue", 1) as running:
        stream = await running.connect()
        await stream.send_all(data)
        await running.arrived.receive()
        assert running.store.statistics().accepted < 1_000
    await stream.aclose()
    statistics = running.receiver.statistics()
    accepted = running.store.statistics().accepted
    assert 0 < accepted == statistics.tcp == len(running.stored("seq"))
    assert running.receiver.message.statistics().triggered == accepted  # none of them twice
    assert statistics.refused == 0


async def test_what_the_store_does_not_take_is_counted(tmp_path: Path) -> None:
    """What a stuck store has not taken when the grace is over is refused: counted, not accepted."""
    receiver = Receiver(depends_on=["store"], udp_port=0, tcp_port=0, grace=0.1)
    store = Store(receiver.message, tmp_path / "syslog.db", queue=1)

    async def lock_until_refused(task_status: trio.TaskStatus[None]) -> None:
        async with locked(tmp_path / "syslog.db"):
            task_status.started()
            await receiver.wait_status(ModuleStatus.STOPPING)
            await receiver.wait_status(ModuleStatus.OFFLINE)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, App(store, receiver):
            await nursery.start(lock_until_refused)
            stream = await trio.open_tcp_stream("127.0.0.1", receiver.tcp_port)
            async with receiver.message.subscribe() as arrived:
                await stream.send_all(b"<14>x\n" * 10)
                await arrived.receive()
    await stream.aclose()
    accepted, refused = store.statistics().accepted, receiver.statistics().refused
    assert accepted == store.statistics().stored
    assert refused > 0
    assert accepted + refused == 10


async def test_nothing_listens_any_more(tmp_path: Path) -> None:
    """When the hub has left, its ports are free."""
    async with hub(tmp_path) as running:
        pass
    with pytest.raises(OSError, match="all attempts to connect"):
        await running.connect()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", running.receiver.udp_port))


async def test_datagrams(tmp_path: Path) -> None:
    """A datagram is a message, readable or not; an empty one is none."""
    async with hub(tmp_path, "--max-message", 100) as running:
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
            await sock.connect(("127.0.0.1", running.receiver.udp_port))
            for data in (b"<14>one\n", b"", b"no syslog", b"<14>" + b"x" * 200):
                await sock.send(data)
            for _ in range(3):
                await running.arrived.receive()
    assert running.stored("transport", "format", "text", "cut") == [
        ("udp", "rfc3164", "one", 0),
        ("udp", "raw", "no syslog", 0),
        ("udp", "rfc3164", "x" * 96, 1),
    ]
    assert running.receiver.statistics() == ReceiverStatistics(
        udp=3, tcp=0, raw=1, cut=1, skipped_bytes=0, refused=0
    )


async def test_errors_are_an_event_of_their_own(tmp_path: Path) -> None:
    """Of all messages, which are events, those that are errors are another one, too."""
    async with hub(tmp_path) as running:
        async with running.receiver.error.subscribe() as errors:
            await running.send(b"<14>one\n<11>two\nno syslog\n<8>three\n<12>four\n")
            assert [(await errors.receive()).message.text for _ in range(2)] == ["two", "three"]
    assert running.receiver.message.statistics().triggered == 5
    assert running.receiver.error.statistics().triggered == 2


async def test_burst_of_errors_shows_in_the_status(tmp_path: Path) -> None:
    """Errors faster than the limit are a warning of the alerts module, and the app's health."""

    def begins(change: Change) -> bool:
        return change.failure_after.id == ERROR_BURST

    def ends(change: Change) -> bool:
        return change.failure_before.id == ERROR_BURST

    options = ["--error-limit", 5, "--error-window", 2]
    async with hub(tmp_path, *options) as running, running.app.changes() as changes:
        await running.send(b"<11>bad\n" * 6)
        await change_to(changes, begins)
        assert running.app.health.id == ERROR_BURST
        await change_to(changes, ends)
        assert running.app.health.level == FailureLevel.NONE


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("queue", "0"), ("queue", "many"), ("max-message", "0"), ("error-limit", "-1")),
        *(("error-window", "nan"), ("udp-port", "65536"), ("tcp-port", "-1")),
    ],
)
def test_settings_out_of_range(
    option: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting out of range is an error that names it, as an argument and in the environment."""
    with pytest.raises(SystemExit, match="2"):
        make_app([f"--{option}={value}"])
    assert f"argument --{option}: " in capsys.readouterr().err
    monkeypatch.setenv("SYSLOG_HUB_" + option.upper().replace("-", "_"), value)
    with pytest.raises(SystemExit, match="2"):
        make_app([])


async def test_restarted_store_takes_the_receiver_along(tmp_path: Path) -> None:
    """After a restart of the store the hub listens where it did, and has lost nothing."""
    async with hub(tmp_path) as running:
        port = running.receiver.tcp_port
        stream = await running.connect()
        await stream.send_all(b"<14>one\n<14>two\n")
        await running.arrived.receive()
        await running.app.restart(running.store)
        assert await stream.receive_some() == b""
        await stream.aclose()
        assert running.receiver.online
        assert running.receiver.tcp_port == port
        await running.send(b"<14>three\n")
    assert running.stored("run", "seq", "text") == [(1, 1, "one"), (1, 2, "two"), (1, 3, "three")]


@pytest.mark.slow
async def test_database_locked_for_ten_seconds(
    tmp_path: Path,
    tabulate: Callable[[int, int | None, int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another process's lock stops the senders, shows in the status, and costs no message."""

    def write_failed(change: Change) -> bool:
        return change.failure_after.id == "write:retrying"

    options = ["--connections", 4, "--pause", 5_000]
    async with hub(tmp_path, "--queue", 1_000) as running, running.app.changes() as changes:
        async with generator(running.receiver.tcp_port, 20_000, *options) as sender:
            await sender.stdout.find("paused")
            async with locked(running.database):
                await sender.go_on()
                began = trio.current_time()
                await change_to(changes, write_failed)
                status = running.app.status().modules["store"]
                assert [failure.id for failure in status.failures] == ["write:retrying"]
                assert status.hooks[0].handling > 0
                assert "database is locked" in caplog.text
                await trio.sleep_until(began + 5)
                halfway = running.store.statistics()
                assert halfway.senders_waiting == 4
                await trio.sleep_until(began + 10)
                assert running.store.statistics() == halfway
                assert running.store.online
                assert 3 <= caplog.text.count("sqlite3.OperationalError: database is locked") <= 10
            result = await sent(sender)
    statistics = running.store.statistics()
    tabulate(result.total, statistics.accepted, statistics.stored)
    assert result.longest > 5
    assert result.total == statistics.accepted == statistics.stored == 20_000
    assert numbers(running.database, run=1) == {n: [*range(5_000)] for n in range(4)}
