"""The instance as arrays over (query type, pair, size), shared by the heuristics and our method.

A pair p = j K + k is a model on a tier. Among shapes with the same number of GPUs nm, the one with the largest n has the
least delay for every query type and the same rent, memory and compute (section 2.3: TP divides computing, PP adds
communication), so one shape per number of GPUs is enough: no plan gets dearer when the others are dropped.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from papers.p2.instance import SECONDS_PER_HOUR, Instance, Plan, Shape

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Booleans = NDArray[np.bool_]
NONE = 1e-9
"""A share below this is no traffic."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """Everything that a heuristic looks up. Money is in $ over the horizon."""

    instance: Instance
    shapes: tuple[Shape, ...]
    """The shape of each size index g, by number of GPUs."""
    gpus: Indices
    """[g]"""
    delay_seconds: Floats
    """[i, p, g]: D"""
    error: Floats
    """[i, p]: e"""
    work_tflop: Floats
    """[i, p]: left side of (5g) at x = 1"""
    gpu_tflop: Floats
    """[p]: right side of (5g) for one GPU"""
    cache_gb: Floats
    """[i, p]: KV term of (5f) at x = 1 on one GPU"""
    weights_gb: Floats
    """[p]"""
    memory_gb: Floats
    """[p]: C of one GPU"""
    rent: Floats
    """[p]: Delta_T p^c of one GPU"""
    stored_gb: Floats
    """[i]"""
    gb_price: float
    """Delta_T p^s"""
    delay_slo: Floats
    error_slo: Floats
    delay_price: Floats
    """[i]: rho, $ per second"""
    unmet_price: Floats
    """[i]: phi"""
    unserved_cap: Floats
    """[i]: zeta"""

    @property
    def fits(self) -> Booleans:
        """[p, g]: whether the weights fit, B / nm <= C."""
        return self.weights_gb[:, None] <= self.gpus * self.memory_gb[:, None]

    def plan(self, size: Indices, share: Floats, *, placed: Booleans | None = None) -> Plan:
        """The plan with size index `size[p]` (below 0: not active) and routes `share[i, p]`."""
        tiers = len(self.instance.tiers)
        placed = share > NONE if placed is None else placed
        active = {divmod(p, tiers): self.shapes[size[p]] for p in np.flatnonzero(size >= 0).tolist()}
        where = [(i, *divmod(p, tiers)) for i, p in np.argwhere(placed).tolist()]
        routes = {(i, j, k): float(share[i, j * tiers + k]) for i, j, k in where if share[i, j * tiers + k] > NONE}
        routed = [0.0] * len(self.stored_gb)
        for (i, _, _), amount in routes.items():
            routed[i] += amount
        return Plan(active, routes, tuple(max(0.0, 1.0 - amount) for amount in routed), frozenset(where))


def arrays_of(instance: Instance) -> Arrays:
    """Compute the arrays of an instance."""
    kinds, models, tiers = instance.query_types, instance.models, instance.tiers
    best: dict[int, Shape] = {}
    for n, m in sorted(instance.shapes):
        best[n * m] = (n, m)  # the last one has the largest n
    shapes = tuple(shape for _, shape in sorted(best.items()))
    pairs = len(models) * len(tiers)

    def by_pair(grid: Any) -> Floats:
        return np.asarray(grid, dtype=float).reshape(len(kinds), pairs)

    def by_model(values: list[float]) -> Floats:
        return np.repeat(np.asarray(values), len(tiers))

    def by_tier(values: list[float]) -> Floats:
        return np.tile(np.asarray(values), len(models))

    tokens = np.array([float(kind.tokens) for kind in kinds])
    arrivals = np.array([kind.arrivals_per_hour for kind in kinds])
    output = np.array([float(kind.output_tokens) for kind in kinds])
    tensor = np.array([float(n) for n, _ in shapes])
    pipeline = np.array([float(m) for _, m in shapes])
    compute = by_pair(instance.compute_seconds_per_token) * tokens[:, None]
    link = by_pair(instance.link_seconds_per_token) * output[:, None]
    return Arrays(
        instance=instance,
        shapes=shapes,
        gpus=np.array([rows * stages for rows, stages in shapes]),
        delay_seconds=compute[:, :, None] / tensor + link[:, :, None] * pipeline,
        error=by_pair(instance.error_rate),
        work_tflop=by_model([model.gflop_per_token for model in models]) * (tokens * arrivals / 1e3)[:, None],
        gpu_tflop=by_tier([instance.utilisation * SECONDS_PER_HOUR * tier.peak_tflops for tier in tiers]),
        cache_gb=by_model([model.kv_gb_per_token for model in models])
        * tokens[:, None]
        * by_pair(instance.residence_seconds),
        weights_gb=by_model([model.weights_gb for model in models]),
        memory_gb=by_tier([tier.memory_gb for tier in tiers]),
        rent=by_tier([instance.horizon_hours * tier.price_per_hour for tier in tiers]),
        stored_gb=np.array([kind.stored_gb for kind in kinds]),
        gb_price=instance.horizon_hours * instance.storage_price_per_gb_hour,
        delay_slo=np.array([kind.delay_slo_seconds for kind in kinds]),
        error_slo=np.array([kind.error_slo for kind in kinds]),
        delay_price=np.array([kind.delay_penalty_per_ms * 1e3 for kind in kinds]),
        unmet_price=np.array([kind.unmet_penalty for kind in kinds]),
        unserved_cap=np.array([kind.unserved_cap for kind in kinds]),
    )
