"""Splits the layers of a model over the stages of a pipeline.

``pipeline`` calls it. Jiang et al. split layers in proportion to the stages' memory (ICML 2025, section 4.3). A card with much
memory need not be fast, so here memory only limits a stage, and the time of the slowest stage decides.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def split_layers(layers: int, seconds: Sequence[Sequence[float]]) -> tuple[int, ...] | None:
    """The split with the least time of the slowest stage, and among such splits with the least time over all stages.

    Times rise with the layers, so the slowest stage's time is found by bisection: a time is enough if all stages together
    hold all layers within it. A dynamic program over (stages, layers held so far) then finds the least sum within that time.
    Of equal splits, the one is taken whose last stage holds the most layers, then the stage before it, and so on.

    Args:
        layers: the number of layers of the model.
        seconds: by stage, the time with 1, 2, ... layers, never falling; the length of a row is the most layers that
            its memory holds.

    Returns:
        Layers by stage, each at least 1; None if the stages cannot hold all layers.
    """

    def enough(limit: float) -> bool:
        held = [bisect_right(row, limit) for row in seconds]
        return all(held) and sum(held) >= layers

    times = sorted({time for row in seconds for time in row})
    if len(seconds) > layers or not times or not enough(times[-1]):
        return None
    slowest = times[bisect_left(times, True, key=enough)]
    return _least_total(layers, [row[: bisect_right(row, slowest)] for row in seconds])


def _least_total(layers: int, seconds: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """The split with the least sum of stage times; the caller knows that there is a split."""
    best = [0.0] + [math.inf] * layers
    choices: list[list[int]] = []
    left = sum(map(len, seconds))
    for row in seconds:
        left -= len(row)
        following = [math.inf] * (layers + 1)
        choice = [0] * (layers + 1)
        for before, total in enumerate(best):
            if total == math.inf:
                continue
            # With fewer layers in this stage, the later stages could not hold the rest.
            fewest = max(1, layers - before - left)
            for held in range(fewest, min(len(row), layers - before) + 1):
                if total + row[held - 1] < following[before + held]:
                    following[before + held] = total + row[held - 1]
                    choice[before + held] = held
        best = following
        choices.append(choice)
    split: list[int] = []
    rest = layers
    for choice in reversed(choices):
        split.append(choice[rest])
        rest -= choice[rest]
    return tuple(reversed(split))
