"""Python's garbage collector waits while an answer is due at once.

`entry` searches inside it.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SHORT_SECONDS = 1.0
"""Deadlines up to this are kept free of full collections, each measured to stop all threads for 0.06 s of CPU with 40,000
shapes in memory, more than a short deadline can bear on a busy machine. Longer ones bear it, and memory would not."""


@contextmanager
def collector_waits(deadline_seconds: float | None) -> Iterator[None]:
    """Within a short deadline, leave cyclic garbage for later; everything else is freed as ever.

    Holds for the whole process. Of searches that overlap, the one that stopped the collector starts it again.
    """
    stops = deadline_seconds is not None and deadline_seconds <= SHORT_SECONDS and gc.isenabled()
    if stops:
        gc.disable()
    try:
        yield
    finally:
        if stops:
            gc.enable()
