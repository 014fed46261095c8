"""Listens on UDP and TCP, and makes an event of each message for whoever has a hook on it."""

import socket
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress

import attrs
import trio
from framing import DEFAULT_LIMIT, Frame, Framer, datagram
from parsing import parse
from records import Record, Transport, is_error

from trio_modules import Backoff, Module, Restart, current_app

__all__ = ["Receiver", "ReceiverStatistics"]

UDP_BUFFER = 4 * 1024 * 1024  # what a burst may fill while the store is behind
DATAGRAM = 65_535


@attrs.frozen
class ReceiverStatistics:
    """Counts of messages, since the program began."""

    udp: int
    tcp: int
    raw: int
    """Neither RFC 5424 nor RFC 3164: kept as they are."""
    cut: int
    """Kept in part: longer than the limit, or ended by the end of their connection."""
    skipped_bytes: int
    """What the limit cost; counted when the connection ends."""
    refused: int
    """Read, but not accepted by the store before the hub had to leave."""


class Receiver(Module):
    """Receives on one UDP and one TCP port; online means that both listen.

    `message` is triggered for each message and makes it wait when the hook of the store, or any
    other that says so, has no room; `error` also for those that are errors.  While it stops, what
    has been read is still handed on: whoever has no room has `grace` seconds to make some.
    """

    def __init__(
        self,
        *,
        depends_on: Iterable[Module | str] = (),
        wants: Iterable[Module | str] = (),
        host: str = "127.0.0.1",
        udp_port: int = 5514,
        tcp_port: int = 5514,
        max_message: int = DEFAULT_LIMIT,
        grace: float = 20.0,
    ) -> None:
        super().__init__("receiver", depends_on=depends_on, wants=wants)
        self.message = self.event("message", Record)
        self.error = self.event("error", Record)
        self._host = host
        self._max_message = max_message
        self._grace = grace
        self._counts: Counter[str] = Counter()
        self.udp_port = udp_port
        self.tcp_port = tcp_port
        restart = Restart(max_restarts=4, within=60, backoff=Backoff(initial=0.3))
        self.service_worker(self._serve_udp, name="udp", restart=restart)
        self.service_worker(self._serve_tcp, name="tcp", restart=restart)
        self.on_stop(self._say_goodbye)

    def statistics(self) -> ReceiverStatistics:
        """Return how many messages came, and what was the matter with them."""
        names = [field.name for field in attrs.fields(ReceiverStatistics)]
        return ReceiverStatistics(**{name: self._counts[name] for name in names})

    async def _serve_udp(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with await self._bind_udp() as sock:
            self.udp_port = self._say_listening("udp", sock)
            task_status.started()
            while True:
                data, address = await sock.recvfrom(DATAGRAM)
                await self._take(datagram(data, self._max_message), "udp", _readable(address))

    async def _bind_udp(self) -> trio.socket.SocketType:
        [(family, kind, protocol, _, address), *_] = await trio.socket.getaddrinfo(
            self._host, self.udp_port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )
        sock = trio.socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER)
            await sock.bind(address)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _serve_tcp(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        listeners = await trio.open_tcp_listeners(self.tcp_port, host=self._host)
        for listener in listeners:
            self.tcp_port = self._say_listening("tcp", listener.socket)
        handler = self.guarded(self._serve_connection, name="connection")
        task_status.started()
        await trio.serve_listeners(handler, listeners)

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        framer = Framer(self._max_message)
        peer = _peer(stream)
        complete = False
        try:
            async for data in stream:
                await self._take(framer.feed(data), "tcp", peer)
            complete = True
        except trio.BrokenResourceError as error:
            self.logger.info("lost the connection from %s: %s", peer, error.__cause__)
        finally:
            self._counts["skipped_bytes"] += framer.discarded
            await self._take(framer.finish(complete=complete), "tcp", peer)

    async def _take(self, frames: Iterable[Frame], transport: Transport, peer: str) -> None:
        """Take what was received at this moment."""
        now, arrived = current_app().now(), trio.current_time()
        records = deque(
            Record(parse(frame.data, now), frame.data, transport, peer, now, arrived, frame.cut)
            for frame in frames
        )
        self._count(records, transport)
        for record in filter(is_error, records):
            self.error.trigger_nowait(record)
        await self._hand_on(records)

    def _count(self, records: deque[Record], transport: Transport) -> None:
        self._counts[transport] += len(records)
        self._counts["raw"] += sum(record.message.format == "raw" for record in records)
        self._counts["cut"] += sum(record.cut for record in records)

    async def _hand_on(self, records: deque[Record]) -> None:
        """Trigger `message` for each, and wait only where somebody has no room."""
        self._hand_on_nowait(records)
        if records:
            await self._hand_on_patiently(records)

    def _hand_on_nowait(self, records: deque[Record]) -> None:
        with suppress(trio.WouldBlock):
            while records:
                self.message.trigger_nowait(records[0])
                records.popleft()

    async def _hand_on_patiently(self, records: deque[Record]) -> None:
        """Trigger `message` for each; cancelled, go on with that for `grace` seconds.

        A trigger that was cancelled while it waited can't be begun again: some hooks have got
        its record.  So it isn't cancelled before its time is over.
        """
        patience = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_patience, patience)
            with patience:
                while records:
                    await self.message.trigger(records[0])
                    records.popleft()
                    self._hand_on_nowait(records)
            self._counts["refused"] += len(records)
            nursery.cancel_scope.cancel()

    async def _end_patience(self, patience: trio.CancelScope) -> None:
        try:
            await trio.sleep_forever()
        finally:
            patience.deadline = trio.current_time() + self._grace

    def _say_listening(self, transport: Transport, sock: trio.socket.SocketType) -> int:
        address = sock.getsockname()
        self.logger.info("listening on %s %s", transport, _readable(address))
        return int(address[1])

    async def _say_goodbye(self) -> None:
        counts = ", ".join(f"{name} {n}" for name, n in attrs.asdict(self.statistics()).items())
        self.logger.info("received: %s", counts)


def _peer(stream: trio.SocketStream) -> str:
    try:
        return _readable(stream.socket.getpeername())
    except OSError:
        return "unknown"  # gone already; what it sent may still be there


def _readable(address: tuple[str | int, ...]) -> str:
    host, port, *_ = address
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
