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


@contextmanager
def fair_round(*, frozen: bool = False) -> Iterator[None]:
    """Begin without garbage; with *frozen* the collector touches nothing in the block."""
    gc.collect()
    if not frozen:
        yield
        return
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
