"""P2's model as facility location, the form in which our method bounds it.

A facility f is a model on a tier at a size (one w of P_DM); v[i,f] is the share of type i that it serves, so x = sum over its
sizes of v and McCormick's envelope becomes `v <= cap w`, which is exact at binary w and far tighter between. The cap is the
most that (5g), (5i) and (5j) alone let through: cap[i,f] = min(1, eta T_conv P y / work, Delta_i / D, eps_i / e), and placement
is held by `sum_g v / cap <= z`.

The means in (5i) and (5j) let a relaxation mix a little of a dear facility with much of a bad one. Cover rows forbid it: let
s = a e / eps + (1 - a) D / Delta for some a in [0, 1]. Any plan has sum_f s v <= 1, so if every open facility of type i has
s >= t > 1, then sum_f v <= 1 / t and u >= 1 - 1 / t. Hence `sum of w over s < t, plus u / (1 - 1 / t), >= 1` for every t > 1.
"""

from dataclasses import dataclass

import numpy as np

from papers.p2.arrays import Arrays, Booleans, Floats, Indices

MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The weights a of the cover rows"""
LEAST_UNSERVED = (0.01, 0.03, 0.1)
"""Cover rows are made for the least t with 1 - 1/t above each of these."""


@dataclass(frozen=True, slots=True, eq=False)
class Facilities:
    """The facilities that may be used, one row of numbers each, sorted by pair."""

    arrays: Arrays
    pair: Indices
    """[f]"""
    size: Indices
    """[f]"""
    rent: Floats
    """[f]: $ over the horizon"""
    delay: Floats
    """[i, f]: D in seconds"""
    error: Floats
    """[i, f]"""
    cap: Floats
    """[i, f]"""
    load: Floats
    """[i, f]: share of the facility's compute (5g) that all of type i takes"""
    cache: Floats
    """[i, f]: share of the memory that the weights leave (5f) that all of type i takes"""
    stored_gb: Floats
    """[i, f]: left side of (5h) for each unit of v, with z = v / cap"""

    def only(self, kept: Indices) -> "Facilities":
        """Those kept."""
        a = self
        return Facilities(
            a.arrays, a.pair[kept], a.size[kept], a.rent[kept], a.delay[:, kept], a.error[:, kept], a.cap[:, kept],
            a.load[:, kept], a.cache[:, kept], a.stored_gb[:, kept],
        )  # fmt: skip


def facilities_of(arrays: Arrays, *, per_route: bool = False) -> Facilities:
    """Every facility whose weights fit and whose rent alone is within the budget.

    `per_route` also demands M1's delay limit of every route, which P_DM does not: the problem that GH and AGH solve.
    """
    gpus = arrays.gpus
    pair, size = np.nonzero(arrays.fits & (arrays.rent[:, None] * gpus <= arrays.instance.budget))
    delay = arrays.delay_seconds[:, pair, size]
    error = arrays.error[:, pair]
    load = arrays.work_tflop[:, pair] / (arrays.gpu_tflop[pair] * gpus[size])
    room = arrays.memory_gb[pair] * gpus[size] - arrays.weights_gb[pair]
    with np.errstate(divide="ignore", invalid="ignore"):
        cache = np.where(arrays.cache_gb[:, pair] > 0, arrays.cache_gb[:, pair] / room, 0.0)
        limits = (1 / load, 1 / cache, arrays.delay_slo[:, None] / delay, arrays.error_slo[:, None] / error)
        cap = np.minimum.reduce([np.ones_like(load), *(np.where(np.isnan(limit), 1.0, limit) for limit in limits)])
        stored = arrays.stored_gb[:, None] + arrays.weights_gb[pair] / cap
    if per_route:
        cap = np.where(delay <= arrays.delay_slo[:, None], cap, 0.0)
    cache = np.where(np.isfinite(cache), cache, 0.0)  # no room at all: cap is 0 and v with it
    return Facilities(
        arrays,
        pair,
        size,
        arrays.rent[pair] * gpus[size],
        delay,
        error,
        cap,
        load,
        cache,
        np.where(cap > 0, stored, 0.0),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Covers:
    """Rows `sum_f holds[c, f] w_f + u_i / least[c] >= 1`, with i = kind[c]."""

    kind: Indices
    least: Floats
    holds: Booleans

    def only(self, kept: Indices) -> "Covers":
        """The same rows over fewer facilities; still valid, since the others are closed."""
        return Covers(self.kind, self.least, self.holds[:, kept])


def covers_of(facilities: Facilities) -> Covers:
    """The cover rows of every query type."""
    f, a = facilities, facilities.arrays
    rows: dict[tuple[int, bytes], tuple[float, Booleans]] = {}
    for i in range(len(f.cap)):
        for mix in MIXES:
            score = mix * f.error[i] / a.error_slo[i] + (1.0 - mix) * f.delay[i] / a.delay_slo[i]
            for unserved in LEAST_UNSERVED:
                beyond = score[score > (1.0 + 1e-6) / (1.0 - unserved)]
                if len(beyond):
                    threshold = float(beyond.min())
                    holds = score < threshold
                    key = (i, holds.tobytes())
                    least = 1.0 - 1.0 / threshold
                    if key not in rows or least > rows[key][0]:
                        rows[key] = (least, holds)
    kind = np.array([i for i, _ in rows], dtype=np.int64)
    bounds = np.array([least for least, _ in rows.values()])
    held = np.array([holds for _, holds in rows.values()], dtype=bool).reshape(len(rows), len(f.pair))
    return Covers(kind, bounds, held)
