"""Tests for network.py of the hub: what a server gets to feel of a system's network."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
from network import DATAGRAMS, STREAM_BUFFER, Network
from support import let_run


@pytest.fixture
async def network() -> Network:
    """A network in the place of the system's, for the run of Trio that the test is."""
    network = Network()
    trio.socket.set_custom_socket_factory(network)
    await trio.lowlevel.checkpoint()
    return network


async def connected(network: Network, port: int = 80) -> tuple[trio.SocketStream, ...]:
    """Return both ends of a connection: the client's, the server's."""
    [listener] = await trio.open_tcp_listeners(port, host="127.0.0.1")
    client = await network.connect(port)
    server = await listener.accept()
    await listener.aclose()
    return client, server


async def test_bytes_go_both_ways_and_end(network: Network) -> None:
    """What one end sends the other receives, up to the end of what was sent."""
    client, server = await connected(network)
    assert client.socket.getpeername() == server.socket.getsockname() == ("127.0.0.1", 80)
    assert server.socket.getpeername() == client.socket.getsockname()
    await client.send_all(b"ping")
    await client.send_eof()
    await client.send_eof()
    assert client.socket.did_shutdown_SHUT_WR
    assert b"".join([data async for data in server]) == b"ping"
    await server.send_all(b"pong")
    await server.aclose()
    assert b"".join([data async for data in client]) == b"pong"


async def test_a_sender_waits_for_its_reader(network: Network) -> None:
    """A connection takes no more than its buffer until somebody reads."""
    client, server = await connected(network)
    sent = trio.Event()

    async def send() -> None:
        await client.send_all(b"x" * 2 * STREAM_BUFFER)
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await let_run()
        assert not sent.is_set()
        assert len(await server.receive_some()) == STREAM_BUFFER
        await sent.wait()


async def test_what_is_closed_unread_is_reset(network: Network) -> None:
    """Who sent it hears of it: at the next send, and when waiting for the end."""
    client, server = await connected(network)
    await client.send_all(b"never read")
    await server.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"more")
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


async def test_a_send_breaks_when_the_reader_leaves(network: Network) -> None:
    """One that waits for room doesn't wait for ever."""
    client, server = await connected(network)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_a_break, client)
        await let_run()
        await server.aclose()


async def expect_a_break(stream: trio.SocketStream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x" * 2 * STREAM_BUFFER)


async def test_nobody_listens(network: Network) -> None:
    """A connection is refused without a listener, and one that waits is reset with it."""
    with pytest.raises(ConnectionRefusedError):
        await network.connect(80)
    [listener] = await trio.open_tcp_listeners(80, host="127.0.0.1")
    waiting = await network.connect(80)
    await listener.aclose()
    assert await waiting.receive_some() == b""
    with pytest.raises(ConnectionRefusedError):
        await network.connect(80)


async def test_a_port_is_taken_until_it_is_given_back(network: Network) -> None:
    """Two can't listen on one port, but on TCP and UDP of one number; 0 is any that is free."""
    [listener] = await trio.open_tcp_listeners(80, host="127.0.0.1")
    with pytest.raises(OSError, match="in use") as caught:
        await trio.open_tcp_listeners(80, host="127.0.0.1")
    assert caught.value.errno == errno.EADDRINUSE
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 80))
        await listener.aclose()
    [again] = await trio.open_tcp_listeners(80, host="127.0.0.1")
    await again.aclose()
    [one], [other] = [await trio.open_tcp_listeners(0, host="127.0.0.1") for _ in range(2)]
    assert one.socket.getsockname() != other.socket.getsockname()
    assert network.bound.keys() == {
        (socket.SOCK_STREAM, each.socket.getsockname()[1]) for each in (one, other)
    }


async def test_datagrams_arrive_while_there_is_room(network: Network) -> None:
    """Those that nobody has room for are lost, and so are those that nobody waits for."""
    assert not network.send_datagram(b"nobody", 53)
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 53))
        arrived = [network.send_datagram(b"%d" % n, 53) for n in range(DATAGRAMS + 1)]
        assert arrived == [True] * DATAGRAMS + [False]
        data, (host, _) = await sock.recvfrom(1)
        assert (data, host) == (b"0", "127.0.0.1")
        assert network.send_datagram(b"room again", 53)
    assert not network.send_datagram(b"closed", 53)


async def test_only_what_is_needed_is_there(network: Network) -> None:
    """IPv6 is not, and a socket says what it is."""
    with pytest.raises(OSError, match="family"):
        trio.socket.socket(socket.AF_INET6)
    with trio.socket.socket() as sock:
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)
        assert repr(sock) == "<MemorySocket SOCK_STREAM ('127.0.0.1', 0)>"
        assert sock.fileno() != -1
        with pytest.raises(OSError, match="not connected"):
            sock.getpeername()
    assert sock.fileno() == -1
