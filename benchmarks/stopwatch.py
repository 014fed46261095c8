"""The clock of all measurements, and what a round of one needs before; peers import it, too.

Time is the processor's by default, since nothing that is measured here waits: so what else a
machine does disturbs the figures less.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, process_time


class _Clock:
    source = staticmethod(process_time)


def clock() -> float:
    return _Clock.source()


def use_the_wall() -> None:
    """Measure the time that passes from now on, in place of the processor's."""
    _Clock.source = staticmethod(perf_counter)


#: What the garbage collector does in a round: its work, its work without looking at what was there
#: before, or nothing.
COLLECTORS = ("on", "frozen", "off")


@contextmanager
def fair_round(collector: str = "on") -> Iterator[None]:
    """Begin without garbage, with the collector as `COLLECTORS` says, for as long as the block."""
    gc.collect()
    if collector == "on":
        yield
        return
    gc.freeze()
    if collector == "off":
        gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
