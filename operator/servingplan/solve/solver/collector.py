"""Pauses Python's garbage collector during short searches. `entry` searches inside this context."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SHORT_SECONDS = 1.0
"""The longest deadline without garbage collections. A full collection was measured to stop all threads for 0.06 s of CPU with
40,000 shapes in memory, which is too much for a short deadline on a busy machine. During longer searches, the garbage would
take too much memory."""


@contextmanager
def collector_waits(deadline_seconds: float | None) -> Iterator[None]:
    """A context in which cyclic garbage is not collected if the deadline is short; other memory is freed as usual.

    This holds for the whole process. If searches overlap, the one that stopped the collector starts it again.
    """
    stops = deadline_seconds is not None and deadline_seconds <= SHORT_SECONDS and gc.isenabled()
    if stops:
        gc.disable()
    try:
        yield
    finally:
        if stops:
            gc.enable()
