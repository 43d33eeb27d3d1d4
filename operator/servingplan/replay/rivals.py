"""The fleets that other rules would rent for the same question."""

from __future__ import annotations

import math

from servingplan.errors import InputError
from servingplan.model.answer import Answer
from servingplan.model.fleet import Fleet, ReplicaSet
from servingplan.model.question import QuestionError
from servingplan.planning.fleet import fleet_of
from servingplan.planning.question import Posed, pose
from servingplan.planning.situation import Situation
from servingplan.replay.autoscale import NAME, Room
from servingplan.solve import solve

WHOLE = 1e-9
"""The relative slack of a number of copies that is whole except for rounding."""


def fleet_by(situation: Situation, method: str) -> Fleet:
    """The fleet that a method of the planner finds from scratch, whatever runs now: same budget, stock and limits.

    Raises:
        InputError: nothing can be asked, the method cannot answer, or it finds nothing that serves.
    """
    posed, answer = _answered(situation, method)
    return _fleet(situation, posed, answer)


def autoscaled(situation: Situation) -> tuple[Fleet, Room]:
    """What an autoscaler begins with, and the nodes that it may rent.

    The pool is that of the best fleet on one pool. Each model has the shape that takes most of its requests there, and as many
    copies as serve its declared rates, so that the autoscaler begins well.

    Raises:
        InputError: there is no fleet on one pool, or it spans nodes.
    """
    posed, answer = _answered(situation, "homogeneous")
    fleet = _fleet(situation, posed, answer)
    pool = fleet.replica_sets[0].pool
    parts = [part for part in posed.parts.values() if part.pool.name == pool]
    price = max(part.pool.dollars_per_node_hour or 0.0 for part in parts)
    floors = fleet.dollars_per_hour - price * fleet.nodes[pool]
    left = float(situation.spec.budget.dollars_per_hour) - floors
    stock = sum(part.max_nodes for part in parts)
    room = Room(
        pool=pool,
        gpus_per_node=max(part.gpus for part in parts),
        dollars_per_node_hour=price,
        most_nodes=min(stock, math.floor(left / price * (1 + WHOLE))) if price else stock,
        other_dollars_per_hour=max(0.0, floors),
    )
    asked = {(item.model, item.name): item.requests_per_second for item in fleet.classes}
    sets = []
    for model in dict.fromkeys(item.model for item in fleet.replica_sets):
        most = max(
            (item for item in fleet.replica_sets if item.model == model),
            key=lambda item: (math.fsum(item.planned.values()), item.deployment),
        )
        if most.stages:
            raise InputError(NAME, most.deployment, "spans nodes; a replay knows only replicas inside one node")
        sets.append(most.model_copy(update={"replicas": _copies(most, asked)}))
    return fleet.model_copy(update={"replica_sets": tuple(sets), "groups": ()}), room


def _copies(item: ReplicaSet, asked: dict[tuple[str, str], float]) -> int:
    """The copies that serve the declared rates of all classes that the shape can serve."""
    busy = math.fsum(asked[item.model, name] / rate for name, rate in item.capacity.items() if rate > 0)
    return max(1, math.ceil(busy * (1 - WHOLE)))


def _answered(situation: Situation, method: str) -> tuple[Posed, Answer]:
    spec = situation.spec
    posed, errors = pose(
        spec=spec,
        pools=situation.pools,
        incumbent=None,
        rows=situation.rows,
        lessons=situation.lessons,
        catalogue=situation.known.catalogue,
    )
    problems = [*map(str, errors), *posed.unfit]
    if posed.question is None:
        raise InputError(method, None, "; ".join(problems) or "no node of the pools can take a replica")
    try:
        answer = solve(posed.question, method=method, deadline_seconds=float(spec.solver.deadline_seconds))
    except QuestionError as error:
        raise InputError(method, None, str(error)) from error
    if not answer.replicas:
        raise InputError(method, None, "; ".join(answer.reasons) or "it serves nothing")
    return posed, answer


def _fleet(situation: Situation, posed: Posed, answer: Answer) -> Fleet:
    return fleet_of(spec=situation.spec, posed=posed, answer=answer, name_of=lambda facts: facts.key)
