"""A network in memory, for `trio.socket.set_custom_socket_factory`: TCP and UDP, IPv4, one host.

It keeps the manners of a system's that a server gets to feel: connections take only so many bytes
until somebody reads them, one that is closed with bytes unread is reset, and datagrams are lost
where there is no room for them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import trio

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

__all__ = ["MemorySocket", "Network"]

T = TypeVar("T")
Address: TypeAlias = tuple[str, int]

HOST = "127.0.0.1"
FIRST_FREE_PORT = 49_152
STREAM_BUFFER = 64 * 1024
DATAGRAMS = 1_000  # that wait for their reader


class Network(trio.abc.SocketFactory):
    """Where sockets find each other, by kind and port."""

    def __init__(self) -> None:
        self.bound: dict[tuple[socket.SocketKind, int], MemorySocket] = {}
        self._last_port = FIRST_FREE_PORT - 1

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,  # noqa: A002
        proto: int = 0,
    ) -> MemorySocket:
        """Return a new socket (see `trio.abc.SocketFactory`)."""
        if family != socket.AF_INET:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return MemorySocket(self, socket.SocketKind(type))

    async def connect(self, port: int) -> trio.SocketStream:
        """Open a TCP connection; raises `OSError` if nobody listens."""
        sock = self.socket()
        await sock.connect((HOST, port))
        return trio.SocketStream(sock)

    def send_datagram(self, data: bytes, port: int) -> bool:
        """Send a datagram, and tell whether somebody was there and had room."""
        receiver = self.bound.get((socket.SOCK_DGRAM, port))
        return receiver is not None and receiver.take_datagram(data, (HOST, self.free_port()))

    def free_port(self) -> int:
        """Return a port that nobody has used yet."""
        self._last_port += 1
        return self._last_port


class Pipe:
    """One direction of a connection."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ended = False
        self._broken = False
        self._changed = trio.Event()

    async def send(self, data: bytes) -> int:
        """Take what there is room for, at least a byte."""
        await self._wait(lambda: self._broken or len(self._bytes) < STREAM_BUFFER)
        if self._broken:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        taken = data[: STREAM_BUFFER - len(self._bytes)]
        self._bytes += taken
        self._tell()
        return len(taken)

    async def receive(self, most: int) -> bytes:
        """Return what is there, at least a byte; none at the end."""
        await self._wait(lambda: bool(self._bytes) or self._ended or self._broken)
        if self._broken:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        data = bytes(self._bytes[:most])
        del self._bytes[:most]
        self._tell()
        return data

    def end(self) -> None:
        """Let the reader see the end when it has read all."""
        self._ended = True
        self._tell()

    def abandon(self) -> bool:
        """Fail who writes, since nobody reads any more; tell whether something was unread."""
        self.reset()
        return bool(self._bytes)

    def reset(self) -> None:
        """Fail whoever writes or reads."""
        self._broken = True
        self._tell()

    async def _wait(self, until: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not until():
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class MemorySocket(trio.socket.SocketType):
    """A socket of a `Network`, as far as servers and their clients need one."""

    def __init__(self, network: Network, kind: socket.SocketKind) -> None:
        super().__init__()
        self._network = network
        self._kind = kind
        self._name: Address = (HOST, 0)
        self._peer: Address | None = None
        self._backlog: deque[MemorySocket] | None = None
        self._datagrams: deque[tuple[bytes, Address]] = deque()
        self._incoming, self._outgoing = Pipe(), Pipe()
        self._arrived = trio.Event()
        self._closed = False
        self._did_shutdown = False

    # ------------------------------------------------------------ what it is

    @property
    def family(self) -> socket.AddressFamily:
        """IPv4."""
        return socket.AF_INET

    @property
    def type(self) -> socket.SocketKind:
        """TCP or UDP."""
        return self._kind

    @property
    def proto(self) -> int:
        """The default one."""
        return 0

    @property
    def did_shutdown_SHUT_WR(self) -> bool:  # noqa: N802
        """See `trio.socket.SocketType`."""
        return self._did_shutdown

    def __repr__(self) -> str:
        return f"<MemorySocket {self._kind.name} {self._name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        *exc_info: object,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Return no number of a file: -1 when closed, else one that none has."""
        return -1 if self._closed else 1_000_000

    def getsockname(self) -> Address:
        """Return its own address."""
        return self._name

    def getpeername(self) -> Address:
        """Return the address of the other end."""
        if self._peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._peer

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> int:  # type: ignore[override]  # numbers only
        """Tell whether it listens; no other option is known."""
        return int(optname == socket.SO_ACCEPTCONN and self._backlog is not None)

    def setsockopt(self, *args: object) -> None:
        """Ignore it: nothing of the kind matters here."""

    # ------------------------------------------------------------ both kinds

    async def bind(self, address: object) -> None:
        """Take a port; 0 takes any that is free."""
        await trio.lowlevel.checkpoint()
        _, port = cast("Address", address)
        port = port or self._network.free_port()
        if (self._kind, port) in self._network.bound:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._name = (HOST, port)
        self._network.bound[self._kind, port] = self

    def close(self) -> None:
        """Close it; the other end sees the end, or a reset if something was left unread."""
        if self._closed:
            return
        self._closed = True
        if self._network.bound.get((self._kind, self._name[1])) is self:
            del self._network.bound[self._kind, self._name[1]]
        if self._incoming.abandon():
            self._outgoing.reset()
        else:
            self._outgoing.end()
        for waiting in self._backlog or ():
            waiting.close()

    async def _wait_for(self, queue: deque[T]) -> T:
        await trio.lowlevel.checkpoint()
        while not queue:
            await self._arrived.wait()
        return queue.popleft()

    def _arrive(self) -> None:
        self._arrived.set()
        self._arrived = trio.Event()

    # ------------------------------------------------------------ TCP

    def listen(self, backlog: int = 128) -> None:
        """Let others connect to it."""
        self._backlog = deque(maxlen=backlog)

    async def accept(self) -> tuple[MemorySocket, Address]:
        """Wait for a connection, and return it with the address of the other end."""
        assert self._backlog is not None
        accepted = await self._wait_for(self._backlog)
        return accepted, accepted.getpeername()

    async def connect(self, address: object) -> None:
        """Connect to a socket that listens."""
        await trio.lowlevel.checkpoint()
        host, port = cast("Address", address)
        listener = self._network.bound.get((self._kind, port))
        if listener is None or listener._backlog is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self._name, self._peer = (HOST, self._network.free_port()), (host, port)
        other = MemorySocket(self._network, self._kind)
        other._name, other._peer = self._peer, self._name
        other._incoming, other._outgoing = self._outgoing, self._incoming
        listener._backlog.append(other)
        listener._arrive()

    async def send(self, data: Buffer, flags: int = 0, /) -> int:
        """Send some of the bytes, and return how many."""
        return await self._outgoing.send(bytes(data))

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        """Wait for bytes; none at the end."""
        return await self._incoming.receive(buflen)

    def shutdown(self, flag: int) -> None:
        """Let the other end see the end of what was sent."""
        assert flag == socket.SHUT_WR
        self._did_shutdown = True
        self._outgoing.end()

    # ------------------------------------------------------------ UDP

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Address]:
        """Wait for a datagram, and return it with its sender's address."""
        data, sender = await self._wait_for(self._datagrams)
        return data[:bufsize], sender

    def take_datagram(self, data: bytes, sender: Address) -> bool:
        """Take a datagram if there is room for it."""
        has_room = len(self._datagrams) < DATAGRAMS
        if has_room:
            self._datagrams.append((data, sender))
            self._arrive()
        return has_room
