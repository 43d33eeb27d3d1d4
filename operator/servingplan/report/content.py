"""Every number and name of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from servingplan.frontier.frontier import Frontier
from servingplan.frontier.words import lines as curve_lines
from servingplan.model.decision import Finding
from servingplan.model.fleet import Fleet, ReplicaSet
from servingplan.planning import words
from servingplan.planning.explain import Explained
from servingplan.planning.question import pose
from servingplan.planning.shapes import ShapeFacts, slo_of
from servingplan.planning.situation import Situation

DIGITS = 9
Json = dict[str, Any]


def content(
    situation: Situation,
    fleet: Fleet,
    findings: tuple[Finding, ...],
    explained: Explained,
    frontier: Frontier | None,
    replay: Mapping[str, Any] | None,
) -> Json:
    """The page's content.

    Args:
        fleet: the plan in force, or the one that would be.
        explained: why; of the best plan of the moment, which may be another.
        frontier: the curve over budgets.
        replay: what ``servingplan replay -o json`` printed.
    """
    spec = situation.spec
    posed, _ = pose(
        spec=spec,
        pools=situation.pools,
        incumbent=fleet,
        across_nodes=situation.world.leader_worker_sets or fleet.spans_nodes,
        rows=situation.rows,
        lessons=situation.lessons,
        catalogue=situation.known.catalogue,
    )
    facts = {item.deployment: posed.facts_of(item) for item in fleet.replica_sets}
    observed = {item.get("name"): item.get("learned") for item in situation.world.plan.status.get("deployments") or ()}
    asked = math.fsum(item.requests_per_second for item in fleet.classes)
    served = math.fsum(item.planned_requests_per_second for item in fleet.classes)
    return {
        "version": 1,
        "plan": situation.world.plan.key,
        "hash": fleet.hash,
        "objective": spec.objective,
        "dollars_per_hour": fleet.dollars_per_hour,
        "budget_dollars_per_hour": float(spec.budget.dollars_per_hour),
        "served": round(served, DIGITS),
        "asked": round(asked, DIGITS),
        "served_share": round(served / asked, DIGITS) if asked else None,
        "scale": fleet.scale,
        "status": fleet.status,
        "gap": fleet.gap,
        "confidence": fleet.confidence,
        "binding": list(fleet.binding),
        "findings": [{"reason": item.reason, "message": item.message} for item in findings if not item.holds],
        "models": sorted({item.model for item in fleet.replica_sets} | {model.name for model in spec.models}),
        "pools": [_pool(situation, fleet, name, count) for name, count in sorted(fleet.nodes.items())],
        "replicas": [_replica_set(item, facts[item.deployment]) for item in fleet.replica_sets],
        "classes": [_class(fleet, model, item) for model in spec.models for item in model.effective_classes],
        "flows": [
            {"class": f"{item.model}/{name}", "deployment": item.deployment, "requests_per_second": rate}
            for item in fleet.replica_sets
            for name, rate in sorted(item.planned.items())
            if rate > 0
        ],
        "latency": [
            row for item in fleet.replica_sets for row in _latencies(item, facts[item.deployment], observed)
        ],
        "limits": _limits(explained),
        "alternatives": [
            {"name": other.name, "outcome": words.outcome(other.answer)}
            for other in (explained.explanation.alternatives if explained.answer else ())
        ],
        "clash": [] if explained.explanation.clash is None else list(words.conflict_lines(explained.explanation.clash)),
        "curve": _curve(frontier),
        "history": _history(situation.world.plan.status.get("history")),
        "transition": _transition(situation.world.plan.status.get("transition")),
        "replay": None if replay is None else {key: replay[key] for key in ("trace", "fleets", "seed") if key in replay},
    }  # fmt: skip


def _history(entries: Any) -> list[Json]:
    """The decisions in the status; empty if it has none."""
    fields = ("time", "hash", "reason", "dollarsPerHour", "served")
    found = [item for item in entries if isinstance(item, dict)] if isinstance(entries, list) else []
    return [{field: _text(item.get(field)) for field in fields} for item in found]


def _transition(step: Any) -> Json:
    """The step of the rollout in the status; empty if the rollout is complete."""
    return {str(name): _text(value) for name, value in step.items()} if isinstance(step, dict) else {}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _pool(situation: Situation, fleet: Fleet, name: str, nodes: int) -> Json:
    pool = next(pool for pool in situation.pools if pool.name == name)
    price = pool.dollars_per_node_hour
    groups = [group for group in fleet.groups if group.pool == name]
    spare = nodes - sum(group.nodes for group in groups)
    return {
        "name": name,
        "gpu": pool.gpu.name if pool.gpu is not None else "",
        "gpus_per_node": pool.gpus_per_node,
        "nodes": nodes,
        "max_nodes": pool.spec.max_nodes,
        "dollars_per_node_hour": price,
        "dollars_per_hour": None if price is None else round(price * nodes, DIGITS),
        "groups": [{"nodes": group.nodes, "replicas": group.replicas} for group in groups]
        + ([{"nodes": spare, "replicas": {}}] if spare > 0 else []),
    }


def _replica_set(item: ReplicaSet, facts: ShapeFacts | None) -> Json:
    shape = f"TP{item.tensor_parallel}" + (f" PP{item.pipeline_parallel}" if item.pipeline_parallel > 1 else "")
    busy = math.fsum(rate / item.capacity[name] for name, rate in item.planned.items() if item.capacity.get(name))
    evidence = sorted({line for found in facts.estimates.values() for line in found.evidence}) if facts else []
    return {
        "deployment": item.deployment,
        "model": item.model,
        "variant": item.variant,
        "shape": shape,
        "pool": item.pool,
        "gpu": item.gpu,
        "gpus": item.gpus,
        "copies": item.replicas,
        "requests_per_second": round(math.fsum(item.planned.values()), DIGITS),
        "utilization": round(busy / item.replicas, DIGITS),
        "rates_from": item.rates_from,
        "below": item.error_band,
        "above": item.error_above,
        "evidence": evidence,
        "engine": words.engine(item.settings),
    }


def _class(fleet: Fleet, model: Any, item: Any) -> Json:
    service = next(found for found in fleet.classes if (found.model, found.name) == (model.name, item.name))
    slo = slo_of(model, item)
    missing = max(0.0, service.requests_per_second - service.planned_requests_per_second)
    return {
        "name": f"{model.name}/{item.name}",
        "model": model.name,
        "input_tokens": item.input_tokens,
        "output_tokens": item.output_tokens,
        "asked": service.requests_per_second,
        "planned": service.planned_requests_per_second,
        "unserved": 0.0 if fleet.scale is not None else round(missing, DIGITS),
        "ttft_limit_seconds": None if slo.ttft_seconds is None else float(slo.ttft_seconds),
        "tpot_limit_seconds": None if slo.tpot_seconds is None else float(slo.tpot_seconds),
        "percentile": slo.percentile,
        "priority": model.priority,
    }


def _latencies(item: ReplicaSet, facts: ShapeFacts | None, observed: Mapping[str, Any]) -> list[Json]:
    """The predictions of the profile for each class that a replica set serves, beside what its engines measured, which is of
    all its classes together."""
    rows = []
    seen = observed.get(item.deployment) or {}
    for name, rate in sorted(item.planned.items()):
        found = facts.estimates.get(name) if facts is not None else None
        if rate > 0 and found is not None:
            rows.append(
                {
                    "class": f"{item.model}/{name}",
                    "deployment": item.deployment,
                    "requests_per_second": rate,
                    "ttft_seconds": found.ttft_seconds,
                    "ttft_band": list(found.ttft_band),
                    "ttft_percentile_seconds": found.ttft_percentile_seconds,
                    "tpot_seconds": found.tpot_seconds,
                    "tpot_band": list(found.tpot_band),
                    "tpot_percentile_seconds": found.tpot_percentile_seconds,
                    "source": str(found.source),
                    "observed_percentile": _observed(seen.get("percentile")),
                    **{
                        f"observed_{name}": _observed((seen.get(field) or {}).get("observed"))
                        for name, field in _OBSERVED.items()
                    },
                }
            )
    return rows


_OBSERVED = {
    "ttft_seconds": "ttftSeconds",
    "tpot_seconds": "tpotSeconds",
    "ttft_percentile_seconds": "ttftPercentileSeconds",
    "tpot_percentile_seconds": "tpotPercentileSeconds",
}
"""Fields of a Deployment's status, by their names on the page."""


def _observed(text: str | None) -> float | None:
    return None if text is None else float(text)


def _limits(explained: Explained) -> list[Json]:
    answer = explained.answer
    if answer is None:
        return []
    return [
        {"limit": words.one_more(found), "brings": words.gain(found, answer)} for found in explained.explanation.worth
    ]


def _curve(frontier: Frontier | None) -> Json | None:
    if frontier is None:
        return None

    def points(of: Any) -> list[Json]:
        return [
            {
                "x": point.x,
                "dollars_per_hour": point.dollars_per_hour,
                "served_share": point.served_share,
                "dollars_per_million_tokens": point.dollars_per_million_tokens,
                "gap": point.gap,
            }
            for point in of
        ]

    return {
        "points": points(frontier.points),
        "homogeneous": {pool: points(of) for pool, of in frontier.homogeneous.items()},
        "remarks": list(curve_lines(frontier)),
    }
