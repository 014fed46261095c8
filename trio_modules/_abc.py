"""The protocols by which the rooms know each other, where the class is none of their business."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Protocol

import attrs

from trio_modules._exceptions import StartError

__all__ = ["Ending", "Startable"]


@attrs.frozen
class Ending:
    """How one run of a module ended.

    Attributes:
        start_error: why it never came online, None if it did or was told to stop before.
        crashed: whether it left ONLINE by itself.
        cause: the exception that made it crash.
        reported: whether the cause has been reported already.
        failures: what else went wrong while it stopped.
        interrupted: whether what is no `Exception` ended it; the app shuts down because of that.
    """

    start_error: StartError | None = None
    crashed: bool = False
    cause: BaseException | None = None
    reported: bool = False
    failures: tuple[BaseException, ...] = ()
    interrupted: bool = False


class Startable(Protocol):
    """What the root supervisor starts and stops: one module, without what makes it a module.

    `live` is one whole run, as a task of the root nursery: it returns when nothing of the run is
    left. All others are synchronous: they only say what `live` should do next.
    """

    def live(self) -> Coroutine[object, object, None]:
        """Run from STARTING to the moment before OFFLINE, and say so; never raises."""

    def begin_stop(self) -> None:
        """It is its turn to stop."""

    def fall(self) -> None:
        """Cancel everything at once, without grace; its turn to stop comes later."""

    def hurry(self, seconds: float) -> None:
        """Time is up: cancel what still runs; what has to follow gets so many more seconds."""

    def stacks(self) -> str:
        """Where everything that runs for it is waiting, for people."""

    def closed(self) -> None:
        """The run is over: nothing of it is left."""
