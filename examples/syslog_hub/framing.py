"""Where one syslog message ends and the next begins in a stream (RFC 6587), without I/O.

Both framings are understood, message by message: octet counting (``11 <13>hello w``) and
non-transparent framing, in which LF or NUL ends a message.  A message longer than the limit is
cut there and the rest of it is skipped, so that an endless line costs neither memory nor the
connection.
"""

import re

import attrs

__all__ = ["DEFAULT_LIMIT", "Frame", "Framer", "datagram"]

DEFAULT_LIMIT = 64 * 1024

_COUNT = re.compile(rb"([1-9][0-9]{0,9}) ")
_COUNT_TO_COME = re.compile(rb"[1-9][0-9]{0,9} ?\Z")
_TRAILER = re.compile(rb"[\n\0]")


@attrs.frozen
class Frame:
    """The bytes of one message, without the bytes that framed it."""

    data: bytes
    cut: bool = False
    """True when the message went on after these bytes."""


class Framer:
    """Turns the bytes of one connection into frames, in whatever pieces they arrive."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit!r}")
        self._limit = limit
        self._buffer = b""
        self._scanned = 0  # so much of an unfinished line is known to hold no trailer
        self._counting = False  # the message before came with its length
        self._skip_octets = 0
        self._skip_line = False
        self.discarded = 0
        """Bytes that were skipped because their message was over the limit."""

    def feed(self, data: bytes | bytearray) -> list[Frame]:
        """Return the frames that `data` completes."""
        self._buffer += data
        frames: list[Frame] = []
        position = 0
        while (end := self._step(position, frames)) is not None:
            position = end
        self._buffer = self._buffer[position:]
        return frames

    def finish(self, *, complete: bool) -> list[Frame]:
        """Return what is left at the end of the stream.

        The end of a stream that its sender closed (`complete`) ends a line as well as LF does.
        A message shorter than its announced length is cut in any case.
        """
        rest, self._buffer, self._scanned = self._buffer, b"", 0
        header = self._count_at(rest, 0)
        if header is not None:
            rest = rest[header.end() :]
        return [Frame(rest, cut=not complete or header is not None)] if rest else []

    def _step(self, start: int, frames: list[Frame]) -> int | None:
        """Deal with what begins at `start`; return where the next begins, None if it is open."""
        if start == len(self._buffer):
            return None
        if self._skip_octets:
            return self._skip_counted(start)
        if self._skip_line:
            return self._skip_to_trailer(start)
        header = self._count_at(self._buffer, start)
        if header is not None:
            return self._counted(header.end(), int(header[1]), frames)
        if not self._scanned and self._may_become_count(start):
            return None
        return self._line(start, frames)

    def _count_at(self, buffer: bytes, start: int) -> re.Match[bytes] | None:
        """The announced length at `start`.

        A line of text may begin with a number, too ("12 monkeys"), while a message begins with
        "<": without that, a number is a length only on a connection that just used one.
        """
        header = _COUNT.match(buffer, start)
        if header is None or self._counting or buffer.startswith(b"<", header.end()):
            return header
        return None

    def _may_become_count(self, start: int) -> bool:
        return _COUNT_TO_COME.match(self._buffer, start) is not None

    def _counted(self, start: int, length: int, frames: list[Frame]) -> int | None:
        kept = min(length, self._limit)
        end = start + kept
        if end > len(self._buffer):
            return None
        frames.append(Frame(self._buffer[start:end], cut=kept < length))
        self._counting = True
        self._skip_octets = length - kept
        return end

    def _line(self, start: int, frames: list[Frame]) -> int | None:
        over = start + self._limit + 1
        trailer = _TRAILER.search(self._buffer, start + self._scanned, over)
        if trailer is None and len(self._buffer) < over:
            self._scanned = len(self._buffer) - start
            return None
        self._scanned = 0
        end = over - 1 if trailer is None else trailer.start()
        if end > start:  # an empty line is no message: some senders end with LF and NUL
            frames.append(Frame(self._buffer[start:end], cut=trailer is None))
            self._counting = False
        self._skip_line = trailer is None
        return end if trailer is None else end + 1

    def _skip_counted(self, start: int) -> int:
        end = min(len(self._buffer), start + self._skip_octets)
        self._skip_octets -= end - start
        self.discarded += end - start
        return end

    def _skip_to_trailer(self, start: int) -> int:
        trailer = _TRAILER.search(self._buffer, start)
        end = len(self._buffer) if trailer is None else trailer.start()
        self.discarded += end - start
        self._skip_line = trailer is None
        return end if trailer is None else end + 1


def datagram(data: bytes, limit: int = DEFAULT_LIMIT) -> list[Frame]:
    """Return the message that a datagram is; an empty one is none."""
    return [Frame(data[:limit], cut=len(data) > limit)] if data else []
