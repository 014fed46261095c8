"""The least honest syslog collector in raw Trio: python -m benchmarks.raw_collector DATABASE

It takes what the hub takes over TCP, reads it with the hub's `framing` and `parsing`, and writes
it with the hub's `database`: bounded, in batches, each commit synced, all of it at SIGTERM.  It
has neither UDP nor console, alerts, figures, retries, status nor anything else of the hub.
"""

from __future__ import annotations

import signal
import sqlite3
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import trio
from database import begin_run, connect, end_run, write
from framing import Frame, Framer
from parsing import parse
from records import Record

QUEUE = 10_000
BATCH = 5_000


class Collector:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.run = begin_run(connection, datetime.now(timezone.utc))
        self.stored = 0
        self.send, self.receive = trio.open_memory_channel[Record](QUEUE)

    async def serve(self, stream: trio.SocketStream) -> None:
        framer = Framer()
        host, port = stream.socket.getpeername()[:2]
        async with self.send.clone() as send:
            async for data in stream:
                for record in received(framer.feed(data), f"{host}:{port}"):
                    try:
                        send.send_nowait(record)
                    except trio.WouldBlock:
                        await send.send(record)

    async def store(self) -> None:
        async for record in self.receive:
            records = [record]
            waiting = self.receive.statistics().current_buffer_used
            for _ in range(min(waiting, BATCH - 1)):
                records.append(self.receive.receive_nowait())  # noqa: PERF401
            rows = enumerate(records, self.stored + 1)
            await trio.to_thread.run_sync(write, self.connection, self.run, rows)
            self.stored += len(records)
        end_run(self.connection, self.run, datetime.now(timezone.utc), self.stored)


def received(frames: list[Frame], peer: str) -> Iterator[Record]:
    now, arrived = datetime.now(timezone.utc), trio.current_time()
    for frame in frames:
        yield Record(parse(frame.data, now), frame.data, "tcp", peer, now, arrived, frame.cut)


async def collect(database: Path) -> None:
    collector = Collector(connect(database))
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collector.store)
            async with collector.send, trio.open_nursery() as serving:
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                serving.start_soon(trio.serve_listeners, collector.serve, listeners)
                port = listeners[0].socket.getsockname()[1]
                print(f"listening on tcp 127.0.0.1:{port}", file=sys.stderr, flush=True)
                await anext(signals)
                serving.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(collect, Path(sys.argv[1]))
