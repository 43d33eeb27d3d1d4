"""PURE. Makes the samples of a turn. An unknown value has no sample, which is a gap in a graph instead of a wrong value."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from servingplan.api.status_v1alpha1 import Condition
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.learning.learn import in_use
from servingplan.metrics import families
from servingplan.metrics.families import Family
from servingplan.model import names
from servingplan.model.actions import ApplyObject
from servingplan.model.answer import Answer
from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet, PlanRecord
from servingplan.model.outcome import Outcome
from servingplan.model.readings import Arrivals
from servingplan.model.world import Observation
from servingplan.planning.availability import with_stock
from servingplan.planning.pools import Pool
from servingplan.planning.record import RECORD_KEY
from servingplan.planning.shapes import slo_of
from servingplan.planning.situation import Situation
from servingplan.rollout.next import ready_replicas
from servingplan.routing.conditions import routing_after
from servingplan.simulate.tally import FIRST_TOKEN_BOUNDS, TOKEN_BOUNDS

Key = tuple[Family, tuple[str, ...]]
"""A metric, and the values of its labels in their order."""
Samples = Mapping[Key, float]
Trigger = Literal["first", "edit", "demand", "cluster"]

OBSERVED_OVER_SECONDS = 60.0
UNREAD = ("ReadForbidden", "ReadFailed")


def samples(
    situation: Situation, decision: Decision, outcome: Outcome, conditions: Iterable[Condition] = ()
) -> Samples:
    """All samples after a turn, or after a step of a retirement (which has neither a plan nor conditions)."""
    found: dict[Key, float] = {}
    for key, value in _all(situation, decision, outcome):
        if math.isfinite(value):
            found[key] = value
    for item in conditions:
        for status in ("True", "False", "Unknown"):
            found[families.CONDITION, (item.type, status)] = float(item.status == status)
        found[families.CONDITION_REASON, (item.type, item.reason)] = 1.0
    return found


def trigger(situation: Situation, decision: Decision | None) -> Trigger:
    """The reason why a turn asked the solver: there was no plan yet, the spec was edited, measured rates were adopted, or
    the cluster (nodes, prices, free GPUs) changed."""
    record = situation.record
    if record.fleet is None and record.waiting is None:
        return "first"
    if record.generation != situation.world.plan.generation:
        return "edit"
    before = record.demand.rates if record.demand is not None else {}
    for item in decision.demand if decision is not None else ():
        if item.source == "Measured" and before.get(f"{item.model}/{item.name}") != item.requests_per_second:
            return "demand"
    return "cluster"


def solve_result(answer: Answer) -> str:
    """The word for what the solver found."""
    if answer.status == "Infeasible" and answer.stopped != "proved":
        return "none_found"
    return answer.status.lower()


def _all(situation: Situation, decision: Decision, outcome: Outcome) -> Iterator[tuple[Key, float]]:
    world, spec, fleet = situation.world, situation.acting, decision.fleet
    yield from _plan(situation, decision, outcome)
    if fleet is not None:
        yield from _promised(fleet)
        yield from _learned(fleet, decision)
    for item in decision.demand:
        yield (families.DEMAND, (item.model, item.name, _words(item.source))), item.requests_per_second
    if spec is None:
        return
    yield from _limits(spec)
    if world.failures:
        return  # what could not be read is not known
    pools = with_stock(situation.pools, decision.stock)
    for pool in pools:
        yield from _pool(pool, fleet)
    if not any(pool.problem is not None and pool.problem.reason in UNREAD for pool in pools):
        yield (families.SPEND, ()), situation.spend
    for name, shape in decision.failed_shapes.items():
        if shape.until is not None:
            yield (families.SHAPES_LEFT_OUT, (shape.pool, name)), 1.0
    for key, times in decision.start_times.items():
        labels = tuple(key.rsplit("/", 2))
        for until, seconds in (("running", times.image_seconds), ("ready", times.seconds)):
            if seconds:
                yield (families.START_SECONDS, (*labels, until)), max(seconds)
    yield from _replicas(world, fleet)
    yield from _routing(routing_after(situation, outcome))
    for arrivals in world.demand.classes if world.demand is not None else ():
        yield from _observed(arrivals)


def _plan(situation: Situation, decision: Decision, outcome: Outcome) -> Iterator[tuple[Key, float]]:
    spec = situation.acting
    mode = spec.mode if spec is not None else ""
    for state, fleet in (("applied", decision.fleet), ("waiting", decision.waiting)):
        if fleet is not None:
            yield (families.PLAN_INFO, (fleet.hash, state, mode, fleet.method)), 1.0
    if spec is not None:
        yield (families.BUDGET, ()), float(spec.budget.dollars_per_hour)
    if decision.fleet is not None:
        yield (families.PLANNED_COST, ()), decision.fleet.dollars_per_hour
        if decision.fleet.gap is not None:
            yield (families.GAP, ()), decision.fleet.gap
        since = _record_after(situation, outcome).since
        if since is not None:
            yield (families.PLAN_ADOPTED, ()), datetime.fromisoformat(since).timestamp()


def _record_after(situation: Situation, outcome: Outcome) -> PlanRecord:
    """The plan record after the turn."""
    for action in outcome.done:
        if isinstance(action, ApplyObject) and RECORD_KEY in action.manifest.get("data", {}):
            return PlanRecord.model_validate_json(action.manifest["data"][RECORD_KEY])
    return situation.record


def _promised(fleet: Fleet) -> Iterator[tuple[Key, float]]:
    asked: dict[str, float] = {}
    served: dict[str, float] = {}
    for item in fleet.classes:
        yield (families.PLANNED_RATE, (item.model, item.name)), item.planned_requests_per_second
        asked[item.model] = asked.get(item.model, 0.0) + item.requests_per_second
        within = min(item.planned_requests_per_second, item.requests_per_second)
        served[item.model] = served.get(item.model, 0.0) + within
    for model, rate in asked.items():
        if rate > 0:
            yield (families.PREDICTED_SLO, (model,)), served[model] / rate


def _learned(fleet: Fleet, decision: Decision) -> Iterator[tuple[Key, float]]:
    """What was learned of the replicas of each Deployment, and what their engines measured last."""
    for item in fleet.replica_sets:
        kind = decision.learned.get(item.deployment)
        if kind is None:
            continue
        labels = (item.model, item.pool, item.deployment)
        used = in_use(kind)
        for quantity, shift in (
            ("rate", used.rate_shift),
            ("ttft", used.ttft.shift),
            ("tpot", used.tpot.shift),
            ("ttft_tail", used.ttft_tail.shift),
            ("tpot_tail", used.tpot_tail.shift),
        ):
            yield (families.LEARNED, (*labels, quantity)), math.exp(shift)
        look = kind.look
        if look is None:
            continue
        for latency, seen, expected in (
            ("ttft", look.ttft_seconds, look.profile_ttft_seconds),
            ("tpot", look.tpot_seconds, look.profile_tpot_seconds),
            ("ttft_percentile", look.ttft_percentile_seconds, None),
            ("tpot_percentile", look.tpot_percentile_seconds, None),
        ):
            if seen is not None:
                yield (families.OBSERVED_LATENCY, (*labels, latency)), seen
            if expected is not None:
                yield (families.PREDICTED_LATENCY, (*labels, latency)), expected


def _pool(pool: Pool, fleet: Fleet | None) -> Iterator[tuple[Key, float]]:
    labels = (pool.name, pool.gpu.name if pool.gpu is not None else "unknown", pool.spec.capacity_type)
    read = pool.spec.resize is None or (pool.object is not None and pool.object.wanted is not None)
    states: dict[str, int] = {"ready": len(pool.usable_nodes)}
    if fleet is not None:
        states["planned"] = fleet.nodes.get(pool.name, 0)
    if read:
        states["wanted"] = pool.wanted
    if pool.spec.resize is not None or pool.spec.max_nodes is not None:
        states["cap"] = pool.spec.cap
    if pool.cap is not None:
        states["learned_cap"] = pool.cap.nodes
    for state, nodes in states.items():
        yield (families.NODES, (*labels, state)), nodes
        if state == "ready":
            yield (families.GPUS, (*labels, state)), sum(item.node.gpus for item in pool.usable_nodes)
        elif pool.gpus_per_node:
            yield (families.GPUS, (*labels, state)), nodes * pool.gpus_per_node
    if pool.problem is None:
        yield (families.POOL_SPEND, labels), pool.spend


def _replicas(world: Observation, fleet: Fleet | None) -> Iterator[tuple[Key, float]]:
    """The samples of replicas: of the plan, and of Deployments that are being removed."""
    ready = ready_replicas(world)
    planned = {item.deployment: item for item in fleet.replica_sets} if fleet is not None else {}
    for item in planned.values():
        labels = (item.model, item.pool, item.deployment)
        yield (families.REPLICAS, (*labels, "planned")), item.replicas
        yield (families.REPLICAS, (*labels, "ready")), ready.get(item.deployment, 0)
    for live in world.deployments():
        if live.name not in planned:
            tags = live.manifest["metadata"].get("labels") or {}
            labels = (tags.get(names.MODEL_LABEL, ""), tags.get(names.POOL_LABEL, ""), live.name)
            yield (families.REPLICAS, (*labels, "planned")), 0
            yield (families.REPLICAS, (*labels, "ready")), ready.get(live.name, 0)


def _routing(document: Mapping[str, Any] | None) -> Iterator[tuple[Key, float]]:
    if document is None:
        return
    yield (families.ROUTE_REVISION, ()), float(document["revision"])
    for model, item in document["models"].items():
        for entry in item["classes"]:
            targets = entry["targets"]
            yield (families.ROUTE_TARGETS, (model, entry["name"])), len(targets)
            whole = sum(target["weight"] for target in targets)
            for target in targets:
                labels = (model, entry["name"], target["service"])
                yield (families.ROUTE_WEIGHT, labels), target["weight"] / whole if whole else 0.0


def _observed(arrivals: Arrivals) -> Iterator[tuple[Key, float]]:
    if arrivals.failing_since is not None or not arrivals.intervals:
        return
    begin = arrivals.intervals[-1][0] - OBSERVED_OVER_SECONDS
    last = [(length, count) for end, length, count in arrivals.intervals if end > begin]
    seconds = math.fsum(length for length, _ in last)
    if seconds > 0:
        rate = math.fsum(count for _, count in last) / seconds
        yield (families.OBSERVED_DEMAND, (arrivals.model, arrivals.name)), rate


def _limits(spec: PlanSpec) -> Iterator[tuple[Key, float]]:
    for model in spec.models:
        for item in model.effective_classes:
            slo = slo_of(model, item)
            for latency, limit, bounds in (
                ("ttft", slo.ttft_seconds, FIRST_TOKEN_BOUNDS),
                ("tpot", slo.tpot_seconds, TOKEN_BOUNDS),
            ):
                if limit is None:
                    continue
                labels = (model.name, item.name, latency)
                yield (families.SLO_LIMIT, labels), float(limit)
                for bound, le in _around(float(limit), bounds):
                    yield (families.SLO_OBJECTIVE, (*labels, bound, repr(le))), slo.percentile / 100


def _around(limit: float, bounds: tuple[float, ...]) -> Iterator[tuple[str, float]]:
    """The bounds of a histogram next to a limit; twice the same one if the limit is a bound."""
    below, above = bisect_right(bounds, limit), bisect_left(bounds, limit)
    if below > 0:
        yield "at_least", bounds[below - 1]
    if above < len(bounds):
        yield "at_most", bounds[above]


def _words(source: str) -> str:
    return {"LastGood": "last_good"}.get(source, source.lower())
