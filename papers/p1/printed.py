"""What P1 prints of its results. Bar heights did not survive in the text; the gains are annotations of the figures."""

from papers.p1.instance import Cell

BASELINES = ("RTX4090", "A6000", "H100-SXM-80GB")
"""The paper's homogeneous fleets."""
MEAN_GAIN, LEAST_GAIN = 0.163, 0.05
"""Against the best of the three, over the nine cells of the 70B model: computed from the annotations of figure 5."""
_GAINS = {
    ("70B", "T1", 60.0): (25, 19, 19), ("70B", "T1", 30.0): (27, 17, 21), ("70B", "T1", 15.0): (28, 27, 23),
    ("70B", "T2", 60.0): (27, 23, 18), ("70B", "T2", 30.0): (29, 25, 20), ("70B", "T2", 15.0): (30, 26, 21),
    ("70B", "T3", 60.0): (35, 5, 31), ("70B", "T3", 30.0): (38, 10, 34), ("70B", "T3", 15.0): (41, 14, 37),
    ("8B", "T1", 30.0): (13, 42, 30), ("8B", "T1", 15.0): (7, 39, 26),
    ("8B", "T2", 30.0): (14, 40, 25), ("8B", "T2", 15.0): (8, 37, 25),
    ("pair", "T1", 60.0): (26, 17, 20), ("pair", "T1", 30.0): (23, 35, 16),
}  # fmt: skip
"""Gain in per cent over 4090, A6000, H100: figure 5 (70B), 15 (8B), 10 (the pair). Which snapshot is meant is not said."""
LOSSES = {
    ("T1", 30.0): (16, 32, 32), ("T1", 15.0): (27, 25, 34), ("T2", 30.0): (15, 27, 33), ("T2", 15.0): (21, 32, 30),
}  # fmt: skip
"""Loss in per cent without composition, assignment, deployment (figure 8: 70B, Avail 4)."""
FIGURE_9_GPUS = (4, 8, 16, 24, 32, 48)


def best_gain(cell: Cell) -> float | None:
    """Printed gain over the best of the three homogeneous fleets; None where none is printed."""
    gains = _GAINS.get((cell.models, cell.mix, cell.budget_dollars_per_hour))
    return None if gains is None else min(gains) / 100.0
