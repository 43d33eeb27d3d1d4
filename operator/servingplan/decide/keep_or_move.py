"""Compares the running plan with the present question: whether it still holds, and whether another is worth moving to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from servingplan.api.scalars import seconds_of
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.turn import Solve, Turn
from servingplan.model.answer import Answer
from servingplan.model.decision import Reason
from servingplan.model.fleet import Fleet, PlanRecord
from servingplan.model.question import Change, Question
from servingplan.model.times import seconds_since
from servingplan.verify import verify

SAME_SERVICE = 1e-6
"""Differences of served parts below this are none; this is the verifier's tolerance."""
PART = "~"
"""Separates the name of a pool from the free GPUs of its nodes in the name of a part (``planning.question``)."""
_NEVER = 1e9
"""A gain that no plan has, so that the running plan is kept."""


HURRIED = "in haste: "
"""The prefix of the question's digest in the record if its answer was found in haste. A better answer is then searched for."""


def must_hurry(turn: Turn, spec: PlanSpec, question: Question) -> bool:
    """Whether the plan in force is no longer possible. The same question is not answered in haste twice."""
    record = turn.record
    edited = record.generation != turn.world.plan.generation
    if spec.mode != "Auto" or edited or record.fleet is None or record.question == f"{HURRIED}{turn.asked}":
        return False
    return running_answer(record, question) is None


def solved(turn: Turn, spec: PlanSpec, question: Question, solve: Solve) -> Answer:
    """The answer to the question. If only measured rates may have changed, it is the running fleet with new routing, unless
    moving gains enough.

    A plan that is younger than ``change.minLifetime``, or that costs less to keep than its successor costs to start, is
    replaced by one that serves more, but not by one that is only cheaper.
    """
    record = turn.record
    measured = spec.demand is not None or spec.planning.learn
    if not measured or record.fleet is None or record.generation != turn.world.plan.generation:
        return solve(question, spec)
    best = solve(question.model_copy(update={"change": Change(min_gain=float(spec.change.min_gain))}), spec)
    left = max(_lifetime_left(turn, spec), _payback_left(turn, best))
    if best.status == "Infeasible" or best.reasons or left <= 0:
        return best
    stay = solve(question.model_copy(update={"change": Change(min_gain=_NEVER)}), spec)
    if not stay.reasons or _missing_made_up_for(question, stay, best) > 0:
        return best
    turn.plan_is_due_in = left
    return stay


def why_moved(turn: Turn, spec: PlanSpec, question: Question, fleet: Fleet) -> Reason:
    """Why a new plan replaces the one in force."""
    record, demand = turn.record, turn.situation.demand
    if spec.mode == "Approve" and fleet.hash == turn.world.plan.approved_hash:
        return "Approved"
    if record.fleet is None:
        return "FirstPlan"
    if record.generation != turn.world.plan.generation:
        return "SpecChanged"
    before = record.demand.rates if record.demand is not None else {}
    adopted = demand.adopted if demand is not None else None
    if before != (adopted.rates if adopted is not None else {}):
        return "DemandChanged"
    return "NoLongerHeld" if running_answer(record, question) is None else "Improvement"


def _lifetime_left(turn: Turn, spec: PlanSpec) -> float:
    """Seconds until the plan in force has had its least lifetime; 0 or less once it has."""
    return seconds_of(spec.change.min_lifetime) - seconds_since(turn.record.since, turn.world.now)


def _payback_left(turn: Turn, best: Answer) -> float:
    """Seconds until the plan in force has cost as much more than its successor as the successor costs to start; 0 or less once
    it has, or if either is not known.

    Waiting for this costs at most twice as much as the best decision, however long the plan goes on to live (the ski-rental
    rule: Karlin, Manasse, Rudolph and Sleator, Competitive Snoopy Caching, 1988). The loss counts from when the plan came into
    force, so the wait is never too long.
    """
    before, after, start = turn.record.fleet, best.dollars_per_hour, best.startup_dollars
    if before is None or after is None or not start or best.scale is not None or before.dollars_per_hour <= after:
        return 0.0
    return start / (before.dollars_per_hour - after) * 3600.0 - seconds_since(turn.record.since, turn.world.now)


def same_replicas(left: Fleet, right: Fleet) -> bool:
    """Whether two fleets have the same nodes and the same replicas of the same Deployments."""

    def content(fleet: Fleet) -> Any:
        # A pool that came since is not in the older fleet.
        used = {pool: nodes for pool, nodes in fleet.nodes.items() if nodes}
        return used, [(item.deployment, item.replicas) for item in fleet.replica_sets]

    return bool(content(left) == content(right))


def serves_less(fleet: Fleet, other: Fleet) -> bool:
    """Whether ``fleet`` serves fewer requests/s than the other, by priority from the top."""
    for priority in sorted({item.priority for item in (*fleet.replica_sets, *other.replica_sets)}, reverse=True):
        served, least = (
            math.fsum(sum(item.planned.values()) for item in one.replica_sets if item.priority == priority)
            for one in (fleet, other)
        )
        if abs(served - least) > SAME_SERVICE * max(served, least):
            return served < least
    return False


class Staying(NamedTuple):
    """That the plan in force stays although another one could take its place."""

    gain: float
    """The part by which the other is better; 0 or less if it is not."""
    why: str
    """What keeps the plan in force, for people."""
    due_in_seconds: float | None = None
    """When the other may replace it; None: not while the question stays the same."""


def staying(turn: Turn, spec: PlanSpec, question: Question, answer: Answer) -> Staying | None:
    """Why the running plan, which still holds, is not replaced by the new one; None if it is replaced, as after each edit of
    the spec."""
    record, change = turn.record, spec.change
    if record.fleet is None or record.generation != turn.world.plan.generation:
        return None
    running = running_answer(record, question)
    if running is None or _serves_another_class(question, running, answer):
        return None
    gain = _gain(question, running, answer)
    if gain < float(change.min_gain):
        least = 100 * float(change.min_gain)
        return Staying(gain, f"it gains {100 * gain:.3g} %, less than spec.change.minGain ({least:.3g} %)")
    if _missing_made_up_for(question, running, answer) > 0:
        return None  # requests that are turned away do not wait for the plan to grow old
    young, payback = _lifetime_left(turn, spec), _payback_left(turn, answer)
    if max(young, payback) <= 0:
        return None
    if young >= payback:
        return Staying(gain, f"spec.change.minLifetime keeps the plan in force for {_minutes(young)} more", young)
    start = f"its replicas cost {answer.startup_dollars:.2f} $ while they start"
    return Staying(gain, f"{start}, so the plan in force is kept for {_minutes(payback)} more", payback)


def _minutes(seconds: float) -> str:
    return f"{math.ceil(seconds / 60)} min"


def running_answer(record: PlanRecord, question: Question) -> Answer | None:
    """The answer in force as an answer to this question; None if it no longer keeps its promises."""
    try:
        running = Answer.model_validate(record.answer)
    except ValidationError:
        return None
    running = _on_parts_of(question, running)
    # Pools that came meanwhile have none of its nodes, what it took to start is spent, and it need not be the best: what kept
    # it from being better may have gone.
    nodes = {**{pool.name: 0 for pool in question.pools}, **running.nodes}
    running = running.model_copy(update={"nodes": nodes, "startup_dollars": None})
    broken = verify(question.model_copy(update={"running": None}), running)
    return None if any(item.promise not in ("proof", "binding") for item in broken) else running


def _on_parts_of(question: Question, running: Answer) -> Answer:
    """The answer with its nodes on parts of pools that the question has.

    What others hold of a node, or of a quota, names the part that a node belongs to (``planning.question``). Where that
    changed, the nodes are counted in the smallest part with room for as many GPUs; whether the answer holds there is left to
    the verifier.
    """
    present = {pool.name: pool for pool in question.pools}
    moved: dict[str, str] = {}
    nodes = dict(running.nodes)
    for part in sorted(set(nodes) - set(present)):
        pool, _, gpus = part.partition(PART)
        count = nodes.pop(part)
        fitting = [
            item
            for item in question.pools
            if item.name.partition(PART)[0] == pool
            and item.gpus_per_node >= (int(gpus) if gpus.isdecimal() else 0)
            and nodes.get(item.name, 0) + count <= item.max_nodes
        ]
        if count and fitting:
            moved[part] = min(fitting, key=lambda item: (item.gpus_per_node, item.name)).name
            nodes[moved[part]] = nodes.get(moved[part], 0) + count
        elif count:
            return running
    if nodes == running.nodes:
        return running

    def named(shape: str) -> str:
        found = next((part for part in moved if f"/{part}/" in shape), None)
        return shape if found is None else shape.replace(f"/{found}/", f"/{moved[found]}/")

    def together[N: (int, float)](amounts: Mapping[str, N], zero: N) -> dict[str, N]:
        found: dict[str, N] = {}
        for shape, amount in amounts.items():
            found[named(shape)] = found.get(named(shape), zero) + amount
        return found

    placements = tuple(
        item.model_copy(
            update={"pool": moved.get(item.pool, item.pool), "replicas": together(item.replicas, 0)},
        )
        for item in running.placements
        if item.pool in moved or item.pool in present
    )
    rates = {name: together(found, 0.0) for name, found in running.rates.items()}
    update = {"nodes": nodes, "replicas": together(running.replicas, 0), "rates": rates, "placements": placements}
    return running.model_copy(update=update)


def _serves_another_class(question: Question, running: Answer, new: Answer) -> bool:
    """Whether the new plan serves a class of which the running one serves nothing. That is worth any move, at any age."""

    def served(answer: Answer) -> set[str]:
        return {name for name, rates in answer.rates.items() if sum(rates.values()) > 0}

    return bool((served(new) - served(running)) & {item.name for item in question.classes})


def _gain(question: Question, running: Answer, new: Answer) -> float:
    """The relative gain: of the scale, or of service and then of dollars; below 0 if the new plan serves less."""
    if running.scale is not None and new.scale is not None:
        return _relative(new.scale - running.scale, running.scale)
    made_up_for = _missing_made_up_for(question, running, new)
    if made_up_for:
        return made_up_for
    before, after = running.dollars_per_hour or 0.0, new.dollars_per_hour or 0.0
    return _relative(before - after, before)


def _missing_made_up_for(question: Question, running: Answer, new: Answer) -> float:
    """The part of the unserved requests of the running plan that the new one serves, on the first level of service on which
    they differ. It is 0 if they serve the same, and below 0 if the new one serves less.

    The levels are those of the objective: by priority from the top, the smallest served fraction of a class, then the total.
    What a lower priority loses does not count against the new plan.
    """
    for missing, left in zip(_missing(question, running), _missing(question, new), strict=True):
        if abs(missing - left) > SAME_SERVICE:
            return (missing - left) / max(missing, left)
    return 0.0


def _missing(question: Question, answer: Answer) -> list[float]:
    """The largest unserved fraction of a class and the unserved part of all requests, in pairs by priority from the top."""
    asked = [cls for cls in question.classes if cls.requests_per_second > 0]
    found: list[float] = []
    for priority in sorted({cls.priority for cls in asked}, reverse=True):
        members = [cls for cls in asked if cls.priority == priority]
        unserved = {cls.name: answer.unserved.get(cls.name, 0.0) for cls in members}
        found.append(max(unserved[cls.name] / cls.requests_per_second for cls in members))
        found.append(sum(unserved.values()) / sum(cls.requests_per_second for cls in members))
    return found


def _relative(difference: float, base: float) -> float:
    return difference / base if base > 0 else (1.0 if difference > 0 else 0.0)
