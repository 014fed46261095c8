"""What the modules hand to each other."""

from datetime import datetime
from typing import Literal

import attrs
from parsing import Message

__all__ = ["Record", "Transport", "is_error"]

Transport = Literal["tcp", "udp"]
ERROR = 3  # the severities up to this one, where 0 is the worst, are errors


@attrs.frozen
class Record:
    """A message as it was received."""

    message: Message
    data: bytes
    """The bytes that the message was read from."""
    transport: Transport
    peer: str
    received: datetime
    """Wall time, aware, UTC: for people."""
    arrived: float
    """The same moment on Trio's clock: for measuring."""
    cut: bool = False
    """True when the message went on after `data`."""


def is_error(record: Record) -> bool:
    """Tell whether the message is at least an error; one without a valid priority is not."""
    severity = record.message.severity
    return severity is not None and severity <= ERROR
