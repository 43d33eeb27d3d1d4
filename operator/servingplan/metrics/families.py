"""PURE. Every metric of the operator: its name, its labels, its meaning. `docs/reference-metrics.md` is made of this.

All carry `plan_namespace` and `plan`. A label `namespace` would be the operator's own after a scrape in a cluster, where
Prometheus names the scraped pod so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PLAN_LABELS = ("plan_namespace", "plan")
_POOL = ("pool", "gpu", "capacity_type")
_CLASS = ("model", "class")


@dataclass(frozen=True)
class Family:
    """One metric."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    """The labels beside those that name the plan."""
    help: str


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(f"servingplan_{name}", "gauge", labels, text)


def _counter(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(f"servingplan_{name}", "counter", labels, text)


def _histogram(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(f"servingplan_{name}", "histogram", labels, text)


PLAN_INFO = _gauge(
    "plan_info",
    ("plan_hash", "state", "mode", "method"),
    "1 for the applied plan (state applied) and for a plan that waits or is only shown (state waiting).",
)
PLAN_ADOPTED = _gauge(
    "plan_adopted_timestamp_seconds", (), "When the applied plan took over, in Unix seconds. It changes with each move."
)
BUDGET = _gauge("budget_dollars_per_hour", (), "The budget, $/h.")
SPEND = _gauge("spend_dollars_per_hour", (), "What the nodes that exist or are asked for cost now, $/h.")
PLANNED_COST = _gauge("planned_dollars_per_hour", (), "What the applied plan costs, $/h.")
POOL_SPEND = _gauge("pool_spend_dollars_per_hour", _POOL, "What the nodes of a pool cost now, $/h.")
NODES = _gauge(
    "nodes",
    (*_POOL, "state"),
    "Nodes of a pool: planned, wanted (asked for), ready (usable by the plan), cap (maxNodes), "
    "learned_cap (the most that the pool is known to give; absent if nothing is known).",
)
GPUS = _gauge("gpus", (*_POOL, "state"), "GPUs of these nodes.")
SHAPES_LEFT_OUT = _gauge(
    "shape_left_out", ("pool", "deployment"), "1 for replicas that the plan leaves out because they did not start."
)
START_SECONDS = _gauge(
    "start_seconds",
    ("model", "variant", "pool", "until"),
    "The longest of the last starts of replicas, from their node until their container ran (running) and until they were ready "
    "(ready), s. Absent before any start was seen.",
)
REPLICAS = _gauge(
    "replicas", ("model", "pool", "deployment", "state"), "Replicas of a Deployment: planned, ready (and not draining)."
)
ROUTE_WEIGHT = _gauge(
    "route_weight_ratio", (*_CLASS, "deployment"), "Share of a class that the published weights send to a Deployment."
)
ROUTE_TARGETS = _gauge(
    "route_targets", _CLASS, "Deployments with weight for a class. 0: the gateway answers 503 to the class."
)
ROUTE_REVISION = _gauge("routing_revision", (), "Counts changes of the published weights.")
DEMAND = _gauge(
    "demand_requests_per_second",
    (*_CLASS, "source"),
    "Rate that the plan is made for, requests/s; source: declared, measured, last_good.",
)
OBSERVED_DEMAND = _gauge(
    "observed_requests_per_second",
    _CLASS,
    "Arrivals counted over the last minute, requests/s. Absent while no fresh count can be read.",
)
PLANNED_RATE = _gauge("planned_requests_per_second", _CLASS, "Rate that the applied plan serves, requests/s.")
PREDICTED_SLO = _gauge(
    "predicted_slo_ratio",
    ("model",),
    "Share of the planned requests that the applied plan serves within their limits, by the profiles.",
)
SLO_LIMIT = _gauge("slo_limit_seconds", (*_CLASS, "latency"), "Latency limit of a class, s; latency: ttft, tpot.")
SLO_OBJECTIVE = _gauge(
    "slo_objective_ratio",
    (*_CLASS, "latency", "bound", "bucket"),
    "Share of requests that must meet the limit. bucket: the next bound of vLLM's histogram below the limit (bound "
    "at_least) and above it (bound at_most).",
)
LEARNED = _gauge(
    "learned_factor_ratio",
    ("model", "pool", "deployment", "quantity"),
    "Factor that plans put on the profile; quantity: rate, ttft, tpot, and ttft_tail and "
    "tpot_tail, which percentiles have beside them. Absent if the spec does not ask to learn.",
)
OBSERVED_LATENCY = _gauge(
    "observed_latency_seconds",
    ("model", "pool", "deployment", "latency"),
    "Latency that engines measured over the last window, s; latency: ttft and tpot, which are means, ttft_percentile and "
    "tpot_percentile, which are those of the classes' limits.",
)
PREDICTED_LATENCY = _gauge(
    "predicted_latency_seconds",
    ("model", "pool", "deployment", "latency"),
    "What the profile says of that load, without what was learned, s.",
)
GAP = _gauge("optimality_gap_ratio", (), "Relative distance of the applied plan to the proved bound.")
CONDITION = _gauge("condition", ("type", "status"), "1 for the present status of a condition, 0 for the two others.")
CONDITION_REASON = _gauge("condition_reason", ("type", "reason"), "1 for the present reason of a condition.")
TURN_AGE = _gauge(
    "turn_age_seconds", (), "Time since a turn of the plan last succeeded, or since the operator took the plan up, s."
)
INVENTORY_AGE = _gauge("inventory_age_seconds", (), "Time since nodes, pods and pools were last read, s.")

TURNS = _counter("turns_total", ("result",), "Turns; result: done, api_error, error.")
TURN_SECONDS = _histogram("turn_seconds", (), "How long a turn took, s.")
SOLVES = _counter(
    "solve_total",
    ("result", "trigger"),
    "Solved questions; result: optimal, feasible, infeasible, none_found, outdated, error; trigger: first, edit, demand, "
    "cluster.",
)
SOLVE_SECONDS = _histogram("solve_seconds", (), "How long the solver took for one question, s.")
WRITES = _counter("writes_total", ("action", "result"), "Writes to the cluster; result: done, refused.")
POOL_ACTIONS = _counter("pool_actions_total", ("pool", "action", "result"), "Writes to pool objects: resize, claim.")
EVENTS = _counter("events_total", ("type", "reason"), "Events posted on the plan.")

FAMILIES = (
    *(PLAN_INFO, PLAN_ADOPTED, BUDGET, SPEND, PLANNED_COST, POOL_SPEND, NODES, GPUS, SHAPES_LEFT_OUT, START_SECONDS),
    *(REPLICAS, ROUTE_WEIGHT, ROUTE_TARGETS, ROUTE_REVISION, DEMAND, OBSERVED_DEMAND, PLANNED_RATE),
    *(LEARNED, OBSERVED_LATENCY, PREDICTED_LATENCY),
    *(PREDICTED_SLO, SLO_LIMIT, SLO_OBJECTIVE, GAP, CONDITION, CONDITION_REASON, TURN_AGE, INVENTORY_AGE),
    *(TURNS, TURN_SECONDS, SOLVES, SOLVE_SECONDS, WRITES, POOL_ACTIONS, EVENTS),
)
"""All families, in the order of the page."""
