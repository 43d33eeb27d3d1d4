"""The results of a replay, as numbers for JSON, tables and reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.replay.fleet import Replica
from servingplan.replay.run import ClassFigures, Outcome
from servingplan.replay.sketch import Sketch
from servingplan.replay.trace import Told

DIGITS = 9
SECONDS_PER_HOUR = 3600.0
Json = dict[str, Any]


def of_trace(told: Told, *, name: str) -> Json:
    """The trace, and what was repaired."""
    return {
        "name": name,
        "format": told.format,
        "requests": told.requests,
        "seconds": _rounded(told.seconds),
        "requests_per_second": _rounded(told.requests / told.seconds) if told.seconds else None,
        "bad_rows": told.bad_rows,
        "bad_examples": told.bad_examples,
        "sorted_rows": told.sorted_rows,
        "late_rows": told.late_rows,
        "uncovered": dict(sorted(told.uncovered.items())),
        "other_models": dict(sorted(told.other_models.items())),
    }


def of_fleet(outcome: Outcome, spec: PlanSpec, *, name: str) -> Json:
    """The results of one fleet. Nodes are paid from the first arrival to the last answer, lost ones too. In a fleet that
    changes, they are paid as long as they exist, and its $/h is the mean."""
    seconds, fleet, classes = outcome.seconds, outcome.fleet, outcome.classes
    per_hour, most = fleet.dollars_per_hour, outcome.most_dollars_per_hour
    if outcome.dollars is not None and seconds:
        per_hour = outcome.dollars / seconds * SECONDS_PER_HOUR
    dollars = per_hour * seconds / SECONDS_PER_HOUR
    finished = sum(item.finished for item in classes)
    tokens = sum(item.served_tokens for item in classes)
    arrived = sum(item.arrived for item in classes)
    work = [replica.work for replica in outcome.replicas]
    return {
        "name": name,
        "plan_hash": fleet.hash,
        "seconds": _rounded(seconds),
        "arrived": arrived,
        "finished": finished,
        "in_time_share": _part(sum(item.in_time for item in classes), arrived),
        "requests_per_second": _part(finished, seconds),
        "tokens_per_second": _part(tokens, seconds),
        "dollars_per_hour": _rounded(per_hour),
        "dollars": _rounded(dollars),
        "dollars_per_million_tokens": _rounded(dollars / tokens * 1e6) if tokens else None,
        "within_budget": (per_hour if most is None else most) <= float(spec.budget.dollars_per_hour) * (1 + 1e-9),
        "utilization": _utilization(outcome),
        "prefix_hit_share": _part(sum(item.prefix_hits for item in work), sum(item.prefix_queries for item in work)),
        "nodes": dict(fleet.nodes if outcome.most_nodes is None else outcome.most_nodes),
        "classes": [_of_class(item, outcome, spec) for item in classes],
        "replicas": _of_replicas(outcome),
        "events": outcome.events,
    }


def _of_class(item: ClassFigures, outcome: Outcome, spec: PlanSpec) -> Json:
    service = next(found for found in outcome.fleet.classes if (found.model, found.name) == (item.model, item.name))
    model = next(found for found in spec.models if found.name == item.model)
    declared = next(found for found in model.effective_classes if found.name == item.name)
    share = _part(item.in_time, item.arrived)
    return {
        "model": item.model,
        "name": item.name,
        "arrived": item.arrived,
        "finished": item.finished,
        "turned_away": item.turned_away,
        "unavailable": item.unavailable,
        "too_long": item.too_long,
        "cut": item.cut,
        "requests_per_second": _part(item.arrived, outcome.arrival_seconds),
        "asked_requests_per_second": _rounded(service.requests_per_second),
        "planned_requests_per_second": _rounded(service.planned_requests_per_second),
        "mean_input_tokens": _part(item.prompt_tokens, item.arrived),
        "mean_output_tokens": _part(item.output_tokens, item.arrived),
        "declared_input_tokens": declared.input_tokens,
        "declared_output_tokens": declared.output_tokens,
        "ttft_seconds": _times(item.ttft),
        "tpot_seconds": _times(item.tpot),
        "end_to_end_seconds": _times(item.end_to_end),
        "ttft_limit_seconds": _limit(item.ttft_limit),
        "tpot_limit_seconds": _limit(item.tpot_limit),
        "promised_share": item.percentile / 100,
        "in_time": item.in_time,
        "in_time_share": share,
        "in_time_share_of_admitted": _part(item.in_time, item.arrived - item.turned_away),
        "kept": None if share is None else share >= item.percentile / 100,
    }


def _of_replicas(outcome: Outcome) -> list[Json]:
    found = []
    for place, item in enumerate(outcome.fleet.replica_sets):
        copies = [replica for replica in outcome.replicas if replica.place == place]
        if not copies:
            continue  # an autoscaler found no room for any
        blocks = copies[0].engine.pace.kv_blocks
        found.append(
            {
                "deployment": item.deployment,
                "model": item.model,
                "variant": item.variant,
                "pool": item.pool,
                "gpu": item.gpu,
                "gpus": item.gpus,
                "copies": len(copies),
                "requests": sum(replica.taken for replica in copies),
                "utilization": _part(
                    sum(_busy(replica) for replica in copies), sum(_stood(replica, outcome) for replica in copies)
                ),
                "kv_peak": _rounded(1 - min(replica.least_free_blocks for replica in copies) / blocks),
                "preemptions": sum(replica.work.preemptions for replica in copies),
            }
        )  # fmt: skip
    return found


def _utilization(outcome: Outcome) -> float | None:
    """The share of the time in which the GPUs of all replicas together worked."""
    gpus = [(outcome.fleet.replica_sets[replica.place].gpus, replica) for replica in outcome.replicas]
    stood = sum(count * _stood(replica, outcome) for count, replica in gpus)
    return _part(sum(count * _busy(replica) for count, replica in gpus), stood)


def _stood(replica: Replica, outcome: Outcome) -> float:
    """The seconds for which a replica existed."""
    return (outcome.seconds if replica.until is None else replica.until) - replica.since


def _busy(replica: Replica) -> float:
    return replica.work.busy_seconds


def _times(sketch: Sketch) -> Mapping[str, float]:
    return {name: _rounded(value) for name, value in sketch.percentiles().items()}


def _limit(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds


def _part(part: float, whole: float) -> float | None:
    return _rounded(part / whole) if whole else None


def _rounded(value: float) -> float:
    return round(value, DIGITS)
