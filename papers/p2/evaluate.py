"""An independent check of a plan for P2's model: every cost term and every constraint from the data, in plain Python.

Shares no code with the model builder or the heuristics, and reads only the fields of the instance, none of its formulas.
"""

import math
from dataclasses import dataclass

from papers.p2.instance import Instance, Plan

TOLERANCE = 1e-6
"""Relative to the limit of each constraint."""
VIOLATION_SHARE = 0.01
"""A query type with more unserved than this counts as violated in the stress protocol (section 2.7) [T]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The five terms of (5a), $ over the horizon."""

    rental: float
    """(i)"""
    model_storage: float
    """(ii)"""
    token_storage: float
    """(iii)"""
    delay: float
    """(iv)"""
    unmet: float
    """(v)"""

    @property
    def provisioning(self) -> float:
        """What (5c) holds against the budget."""
        return self.rental + self.model_storage + self.token_storage

    @property
    def total(self) -> float:
        """The objective (5a)."""
        return self.provisioning + self.delay + self.unmet


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a plan costs and what it breaks."""

    cost: Cost
    violations: tuple[str, ...]
    """One line per broken constraint, with its equation; empty when the plan is feasible."""

    @property
    def feasible(self) -> bool:
        """Whether nothing is broken."""
        return not self.violations


def evaluate(instance: Instance, plan: Plan) -> Evaluation:
    """Recompute (5a) to (5k)."""
    kinds, models, tiers = instance.query_types, instance.models, instance.tiers
    broken: list[str] = []

    def at_most(label: str, value: float, limit: float, unit: float | None = None) -> None:
        scale = max(abs(limit), 1e-3) if unit is None else unit
        if not value <= limit + TOLERANCE * scale:  # written so that NaN fails
            broken.append(f"{label}: {value:.9g} > {limit:.9g}")

    for (j, k), (n, m) in plan.shapes.items():
        if n not in instance.tensor_parallel or m not in instance.pipeline_parallel:
            broken.append(f"(5d) pair {j},{k}: no shape {n}x{m}")
    for (i, j, k), share in plan.routes.items():
        at_most(f"(5k) x >= 0, route {i},{j},{k}", -share, 0.0, 1.0)
        at_most(f"(5k) x <= 1, route {i},{j},{k}", share, 1.0)
        if share > TOLERANCE and (i, j, k) not in plan.placed:
            broken.append(f"(5k) x <= z, route {i},{j},{k}: not placed")
    for i, j, k in sorted(plan.placed):
        if (j, k) not in plan.shapes:
            broken.append(f"(5k) z <= q, placement {i},{j},{k}: pair not active")

    delay = [0.0] * len(kinds)
    error = [0.0] * len(kinds)
    routed = [0.0] * len(kinds)
    token_gb = 0.0
    for (i, j, k), share in plan.routes.items():
        kind = kinds[i]
        routed[i] += share
        error[i] += instance.error_rate[i][j][k] * share
        token_gb += (
            kind.stored_kb_per_token * 1e-6 * (kind.input_tokens + kind.output_tokens) * kind.arrivals_per_hour * share
        )
        if (j, k) in plan.shapes:
            n, m = plan.shapes[j, k]
            prompt = instance.compute_seconds_per_token[i][j][k] * kind.input_tokens / n
            step = instance.compute_seconds_per_token[i][j][k] / n + m * instance.link_seconds_per_token[i][j][k]
            delay[i] += share * (prompt + step * kind.output_tokens)
    for i, kind in enumerate(kinds):
        left = plan.unserved[i]
        if not math.isclose(routed[i] + left, 1.0, abs_tol=TOLERANCE):
            broken.append(f"(5b) type {i}: routed and unserved sum to {routed[i] + left:.9g}")
        at_most(f"u >= 0, type {i}", -left, 0.0, 1.0)
        at_most(f"u <= zeta, type {i}", left, kind.unserved_cap, 1.0)
        at_most(f"(5i) type {i}", delay[i], kind.delay_slo_seconds)
        at_most(f"(5j) type {i}", error[i], kind.error_slo)

    for (j, k), (n, m) in plan.shapes.items():
        here = [(i, share) for (i, its_j, its_k), share in plan.routes.items() if (its_j, its_k) == (j, k)]
        cache = sum(
            (kinds[i].input_tokens + kinds[i].output_tokens) * instance.residence_seconds[i][j][k] * share
            for i, share in here
        )
        at_most(
            f"(5f) pair {j},{k}",
            (models[j].weights_gb + models[j].kv_gb_per_token * cache) / (n * m),
            tiers[k].memory_gb,
        )
        work_tflop = sum(
            models[j].gflop_per_token
            * (kinds[i].input_tokens + kinds[i].output_tokens)
            * kinds[i].arrivals_per_hour
            / 1e3
            * share
            for i, share in here
        )
        at_most(f"(5g) pair {j},{k}", work_tflop, instance.utilisation * 3600.0 * tiers[k].peak_tflops * n * m)

    model_gb = sum(models[j].weights_gb for _, j, _ in plan.placed)
    at_most("(5h) storage", model_gb + token_gb, instance.storage_cap_gb)
    hours = instance.horizon_hours
    cost = Cost(
        rental=hours * sum(tiers[k].price_per_hour * n * m for (_, k), (n, m) in plan.shapes.items()),
        model_storage=hours * instance.storage_price_per_gb_hour * model_gb,
        token_storage=hours * instance.storage_price_per_gb_hour * token_gb,
        delay=sum(kind.delay_penalty_per_ms * 1e3 * seconds for kind, seconds in zip(kinds, delay, strict=True)),
        unmet=sum(kind.unmet_penalty * left for kind, left in zip(kinds, plan.unserved, strict=True)),
    )
    at_most("(5c) budget", cost.provisioning, instance.budget)
    return Evaluation(cost, tuple(broken))
