"""Fit the constants of ``servingplan.profiles.engines`` on end-to-end measurements.

    python -m benchmarks.fit_rates              prints the constants and the errors of the fit
    python -m benchmarks.fit_rates --left-out   prints the errors on groups that were left out of a fit of their own

Only groups of the fitting part (``profiles.split``) are looked at. The logarithm of computed over measured rate is made small
by least squares, softened beyond 8 % so that a few odd measurements count little; groups (card, model, precision,
tensor-parallel size, engine, kind of load) weigh by the root of their size, so that no group drowns the others; every
constant is drawn to a first guess, as far as its spread says, so that what the data cannot tell stays where it was.
"""

import math
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
from scipy.optimize import least_squares

from servingplan.profiles import catalogue
from servingplan.profiles.bands import Basis, kind_of
from servingplan.profiles.check import Predicted, load_words, summarised
from servingplan.profiles.engines import ENGINES, FACTORS, Engine, Factors
from servingplan.profiles.measured import SHIPPED
from servingplan.profiles.split import part_of
from servingplan.profiles.steady import steady
from servingplan.profiles.steps import step_times

GUESS = {
    # constant: (first guess, spread of its logarithm)
    **dict.fromkeys(("products",), (1.0, 0.15)),
    **dict.fromkeys(("experts", "generation"), (1.0, 0.2)),
    **dict.fromkeys(("experts_of_many", "sums", "sums_over_pcie", "head", "context"), (1.0, 0.3)),
    "small": (1.0, 0.4),
    "bubble": (0.1, 0.3),
    "borrowed_over_pcie": (1.25, 0.1),
}
OF_ENGINE = {
    "pace": (1.0, 0.1),
    "launch_seconds": (15e-6, 0.5),
    "step_seconds": (1e-3, 0.5),
    "sequence_seconds": (4e-6, 0.5),
}
SOFT = 0.08
NAMES = [*GUESS, *((engine, field) for engine in ENGINES for field in OF_ENGINE)]
SPREADS = np.array(
    [*(GUESS[name][1] for name in GUESS), *(spread for _ in ENGINES for _, spread in OF_ENGINE.values())]
)


class Batch:
    """Measurements of one replica that were taken alike."""

    def __init__(self, rows, counts):
        first = rows[0]
        self.rows, self.engine = rows, first.settings.engine
        self.base = step_times(
            model=catalogue.find_model(first.model),
            precision=first.precision,
            gpu=catalogue.find_gpu(first.gpu),
            tensor_parallel=first.tensor_parallel,
            pipeline_parallel=first.pipeline_parallel,
            settings=first.settings,
        )
        room = [max(1.0, math.floor(self.base.batch_room(row.input_tokens, row.output_tokens))) for row in rows]
        self.batch = np.array([min(it, row.concurrency or math.inf) for it, row in zip(room, rows, strict=True)])
        self.input = np.array([float(row.input_tokens) for row in rows])
        self.output = np.array([float(row.output_tokens) for row in rows])
        self.rate = np.array([row.requests_per_second for row in rows])
        self.weight = 2.0 / np.sqrt([counts[group(row)] for row in rows])

    def errors(self, factors: Factors, engines: dict[str, Engine]):
        """ln(computed / measured) rate."""
        steps = replace(self.base, factors=factors, engine=engines[self.engine])
        return np.log(steady(steps, self.batch, self.input, self.output).requests_per_second / self.rate)


def group(row):
    """Rows that resemble each other."""
    return (*replica(row), row.settings.engine, row.concurrency is None)


def replica(row):
    """A group as ``profiles.split`` has it."""
    return row.gpu, row.model, row.precision, row.tensor_parallel


def is_to_fit(row):
    """Whether a measurement may be looked at here."""
    gpu, model, precision, size = replica(row)
    return part_of(gpu=gpu, model=model, precision=precision, tensor_parallel=size) == "fit"


def batches(rows):
    """Rows put together by replica and settings."""
    counts = Counter(map(group, rows))
    alike = defaultdict(list)
    for row in rows:
        alike[*replica(row), row.pipeline_parallel, row.settings].append(row)
    return [Batch(members, counts) for members in alike.values()]


def constants(point):
    """The constants at a point of the search: logarithms over the first guesses."""
    values = dict(zip(NAMES, map(float, np.exp(point)), strict=True))
    factors = Factors(**{name: values[name] * guess for name, (guess, _) in GUESS.items()})
    engines = {
        engine: kept._replace(**{name: values[engine, name] * guess for name, (guess, _) in OF_ENGINE.items()})
        for engine, kept in ENGINES.items()
    }
    return factors, engines


def fitted(found):
    """The constants that fit best."""

    def residuals(point):
        parts = []
        for batch in found:
            size = batch.errors(*constants(point)) / SOFT
            parts.append(np.sign(size) * np.sqrt(2.0 * (np.sqrt(1.0 + size**2) - 1.0)) * batch.weight)
        return np.concatenate([*parts, point / SPREADS])

    return constants(least_squares(residuals, np.zeros(len(NAMES)), xtol=1e-4, ftol=1e-4).x)


def told(title, pairs):
    """Errors by kind of measurement, in words and in the way of ``servingplan profile check``: groups weigh alike."""
    print(title)
    found = []
    for row, error in pairs:
        kind, load = kind_of(catalogue.find_model(row.model)), "saturated" if row.concurrency is None else "concurrency"
        found.append(Predicted(row, "group", "rate", Basis(load, "fitted", kind=kind), float(error), 0.0, 0.0))
    lines = summarised(found, load_words)
    for name, line in lines.items():
        size = f"{line.rows} rows, {line.groups} groups"
        print(f"  {name:36} {size:>22}  median {line.median_error:6.1%}  p90 {line.p90_error:6.1%}")
    return lines


def pairs_of(found, factors, engines):
    """Rows with their errors."""
    return [pair for batch in found for pair in zip(batch.rows, batch.errors(factors, engines), strict=True)]


def main():
    """Fit, and tell."""
    rows = [row for row in SHIPPED.rows if is_to_fit(row)]
    told("as they stand", pairs_of(batches(rows), FACTORS, ENGINES))
    if "--left-out" not in sys.argv:
        factors, engines = fitted(batches(rows))
        print(factors)
        for name, engine in engines.items():
            print(name, engine)
        told("fitted", pairs_of(batches(rows), factors, engines))
        return
    sides = {"card": 0, "model": 1, "precision": 2, "tensor-parallel size": 3}
    for side, place in sides.items():
        pairs = []
        for value in sorted({replica(row)[place] for row in rows}, key=str):
            best = fitted(batches([row for row in rows if replica(row)[place] != value]))
            pairs += pairs_of(batches([row for row in rows if replica(row)[place] == value]), *best)
        told(f"one {side} left out", pairs)


if __name__ == "__main__":
    main()
