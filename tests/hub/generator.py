"""Sends numbered syslog messages over TCP and counts them: a program of its own.

    python generator.py PORT COUNT [--connections N] [--pause N] [--octet-count]

Connection C sends its messages 0, 1, 2, ... as from app C, all of them as long.  When `--pause`
messages were sent it prints "paused" and waits for a line of its input.  At the end, which is when
the hub has taken everything and closed the connections, or broke them, it prints as JSON how many
messages were sent (begun, if the connection broke) per connection, and how long the longest send
took.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time

CHUNK = 50  # messages to a send
PADDING = "x" * 100
SEND_BUFFER = 64 * 1024  # small: a hub that does not read is to be felt soon


def message(connection: int, number: int, *, octet_count: bool) -> bytes:
    """Return a message with its frame."""
    data = f"<14>1 - generator {connection} - - - {number:07d} {PADDING}".encode()
    return b"%d %b" % (len(data), data) if octet_count else data + b"\n"


class Sender:
    """One connection, and the count of what went into it."""

    def __init__(self, port: int, connection: int, *, octet_count: bool) -> None:
        self._connection = connection
        self._octet_count = octet_count
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.longest = 0.0
        self._size = len(message(connection, 0, octet_count=octet_count))
        self._octets = 0

    @property
    def sent(self) -> int:
        """How many messages were sent, one that was only begun included."""
        return -(-self._octets // self._size)

    def send(self, count: int) -> None:
        """Send the next messages."""
        first = self.sent
        numbers = range(first, first + count)
        messages = [message(self._connection, n, octet_count=self._octet_count) for n in numbers]
        data = b"".join(messages)
        while data:
            began = time.monotonic()
            octets = self._socket.send(data)
            self.longest = max(self.longest, time.monotonic() - began)
            self._octets += octets
            data = data[octets:]

    def finish(self) -> None:
        """Wait until the hub has taken everything."""
        self._socket.shutdown(socket.SHUT_WR)
        self._socket.recv(1)


def send_all(senders: list[Sender], count: int, pause: int) -> None:
    """Send `count` messages, in turns; return when that is done."""
    sent = 0
    while sent < count:
        for sender in senders:
            sender.send(min(CHUNK, count - sent))
            sent = sum(sender.sent for sender in senders)
            if pause and sent >= pause:
                print("paused", flush=True)
                sys.stdin.readline()
                pause = 0
    for sender in senders:
        sender.finish()


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--pause", type=int, default=0)
    parser.add_argument("--octet-count", action="store_true")
    args = parser.parse_args()
    numbers = range(args.connections)
    senders = [Sender(args.port, n, octet_count=args.octet_count) for n in numbers]
    try:
        send_all(senders, args.count, args.pause)
    except ConnectionError:
        pass  # the hub has left
    finally:
        sent, longest = [s.sent for s in senders], max(s.longest for s in senders)
        print(json.dumps({"sent": sent, "longest": longest}), flush=True)


if __name__ == "__main__":
    main()
