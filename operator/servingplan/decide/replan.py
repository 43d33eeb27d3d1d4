"""The plan that is to be in force: whether to ask for a new one, and what becomes of the answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.keep_or_move import (
    HURRIED,
    must_hurry,
    running_answer,
    same_replicas,
    serves_less,
    solved,
    staying,
    why_moved,
)
from servingplan.decide.turn import Solve, Turn
from servingplan.errors import InputError, Searching
from servingplan.model.answer import Answer
from servingplan.model.fleet import Fleet, PlanRecord, digest
from servingplan.model.question import Question, QuestionError, canonical_json
from servingplan.model.remembered import Kept
from servingplan.model.world import PlanObject
from servingplan.planning.fleet import fleet_of, within_budget
from servingplan.planning.lessons import lessons_of
from servingplan.planning.pools import CENT, more_nodes
from servingplan.planning.question import Posed, pose, without
from servingplan.planning.shapes import ShapeFacts
from servingplan.planning.start_times import with_start_ups
from servingplan.planning.starts import left_out
from servingplan.render.deployment import Group, replica_name
from servingplan.render.leader_worker_set import template_of
from servingplan.rollout.next import ready_replicas
from servingplan.verify import verify

OVERTAKEN_SECONDS = 0.3
"""The time of a search for a plan that is needed, if the cluster changed before an earlier search had ended. Else a cluster
that never holds still would never get a plan, or a proposal. A better one comes in a later turn."""
HURRIED_SECONDS = 0.08
"""The time of a search for the first plan after a loss, which is to be there, verified, after 0.2 s, also where
other processes take most of the cores. A better one comes in the next turn."""


type _Question = tuple[tuple[Posed, tuple[InputError, ...]], tuple[dict[str, str], tuple[InputError, ...]]]

_last_asked = Kept[str, tuple[object, _Question]](256)
"""The last question by uid of the plan, with what it rests on."""
_last_names = Kept[tuple[str, str], tuple[tuple[object, ...], str]](16384)
"""The name of a Deployment and what it rests on, by uid of the plan and key of the shape."""
_NOTHING_WAITS: dict[str, Any] = {"waiting": None, "waiting_answer": None, "waiting_question": None}


def replan(turn: Turn, spec: PlanSpec, solve: Solve) -> tuple[PlanRecord, bool]:
    """The record after this turn's planning, and whether nothing may grow. ``spec`` is the turn's, at the rates to plan for."""
    world, record, pools = turn.world, turn.record, turn.pools
    (posed, errors), (names_of, template_errors) = _posed(turn, spec)
    for error in errors:
        reason = "UnknownModel" if error.field.endswith(".name") else "SpecInvalid"
        turn.find("SpecValid", reason, str(error))
    for line in posed.unfit if not errors else ():
        turn.find("SpecValid", "NoFittingShape", line)
    for error in template_errors:
        turn.find("SpecValid", "SpecInvalid", str(error))
    if errors or posed.unfit or template_errors:
        return record, True
    if posed.question is None:
        lacking = ", ".join(posed.no_room) or "all classes"
        turn.find(
            "PlanSolved", "NoCapacity", f"no node of the pools can take a replica for {lacking}; {more_nodes(pools)}"
        )
        return record, True
    posed = _without_failed_shapes(turn, posed, names_of)
    assert posed.question is not None
    asked = turn.asked = digest(
        [json.loads(canonical_json(posed.question.model_copy(update={"running": None}))), names_of]
    )
    if record.fleet is not None and record.question == asked:
        kept = {"spec": world.plan.spec, "generation": world.plan.generation}
        return record.model_copy(update={**kept, **_NOTHING_WAITS}), False
    waiting = _answer_of(record.waiting_answer) if record.waiting_question == asked else None
    if record.waiting is not None and waiting is not None:
        return _adopt(turn, spec, posed.question, waiting, record.waiting, asked), False
    try:
        return _planned(turn, spec, posed, solve, names_of)
    except QuestionError as error:
        turn.find("PlanSolved", "SolverError", str(error))
        return record, True
    except Searching:
        return record, _waits_for_the_answer(turn, posed.question)


def _posed(turn: Turn, spec: PlanSpec) -> _Question:
    """The question of this turn, with the names of its Deployments, and what is wrong with either. Most turns ask what the last
    one of their plan asked: that question is kept, and compared with all that this one rests on."""
    world, record, situation = turn.world, turn.record, turn.situation
    ask = partial(
        pose,
        spec=spec,
        pools=turn.pools,
        incumbent=record.fleet,
        in_force=situation.in_force,
        across_nodes=turn.may_span_nodes,
        across_types=turn.may_mix_types,
        rows=situation.rows,
        catalogue=situation.known.catalogue,
        lessons=lessons_of(spec, world, record),
    )
    asked = (ask.keywords, world.plan.name, world.plan.queue)
    kept = _last_asked.get(world.plan.uid)
    if kept is None or kept[0] != asked:
        found = ask()
        kept = asked, (found, _deployment_names(world.plan, found[0]))
        _last_asked.put(world.plan.uid, kept)
    return kept[1]


def forget() -> None:
    """Keep no question, for tests that change what a question is made of."""
    _last_asked.clear()
    _last_names.clear()


def _waits_for_the_answer(turn: Turn, question: Question) -> bool:
    """Whether only weights may be written until the answer is there, since the plan in force is no answer to this question. If
    the question comes from a new or edited spec, a finding says that it is being searched.

    Where plans need approval, no answer changes what is in force: it is kept up, and shrinks with its budget, at once.
    """
    turn.searching = True
    first = _is_first(turn)
    if first:
        turn.find("PlanSolved", "Searching", "the plan for this spec is being searched; what runs goes on as it is")
    return turn.spec.mode == "Auto" and (first or running_answer(turn.record, question) is None)


def _is_first(turn: Turn) -> bool:
    """Whether no plan was made for this spec yet."""
    return turn.record.fleet is None or turn.record.generation != turn.world.plan.generation


def _serves_nothing(turn: Turn) -> bool:
    """Whether the plan in force has no replicas, as where its pools were taken away."""
    return turn.record.fleet is not None and not turn.record.fleet.replica_sets


def _answer(turn: Turn, spec: PlanSpec, question: Question, solve: Solve) -> tuple[Answer, bool]:
    """The answer to the question, and whether it was found in haste, so that a better one is to be sought."""
    # Neither a new plan, nor an edit, nor one that serves nothing waits behind other plans' improvements.
    first = _is_first(turn) or _serves_nothing(turn)
    seconds = HURRIED_SECONDS if must_hurry(turn, spec, question) else None
    if seconds is None:
        try:
            return solved(turn, spec, question, partial(solve, first=first)), False
        except Searching as searching:
            needed = first or running_answer(turn.record, question) is None
            if not (needed and searching.overtaken):
                raise
            seconds = OVERTAKEN_SECONDS
    answer = solved(turn, spec, question, partial(solve, at_most_seconds=seconds))
    if answer.stopped != "deadline":
        return answer, False
    if answer.status == "Infeasible":
        return solved(turn, spec, question, partial(solve, first=first)), False
    return answer, True


def _planned(
    turn: Turn, spec: PlanSpec, posed: Posed, solve: Solve, names_of: Mapping[str, str]
) -> tuple[PlanRecord, bool]:
    """The same as ``replan``, for a question that was not answered yet."""
    world, record, asked = turn.world, turn.record, turn.asked
    assert posed.question is not None
    assert asked is not None
    posed = replace(posed, question=with_start_ups(posed.question, posed.shapes))
    assert posed.question is not None
    answer, hurried = _answer(turn, spec, posed.question, solve)
    answered = HURRIED + asked if hurried else asked  # the next turn takes all the time that the spec allows
    if answer.status == "Infeasible" and answer.stopped != "proved":
        # A search that ended early, or a heuristic that found nothing, proves nothing: what runs stays.
        turn.find(
            "PlanSolved",
            "TimeLimit",
            f"{answer.method} found no plan within {spec.solver.deadline_seconds} s, which does not prove that there is none; "
            "raise spec.solver.deadlineSeconds, or choose another spec.solver.method",
        )
        return record, True
    if answer.status == "Infeasible":
        turn.find("PlanSolved", "Infeasible", "; ".join(answer.reasons) or "the constraints exclude each other")
        return _fall_back(turn, spec, posed, solve, names_of)
    broken = verify(posed.question, answer)
    if broken:
        text = "; ".join(str(item) for item in broken[:3])
        turn.find("PlanSolved", "SolverError", f"the solver's plan breaks its promises and is not used: {text}")
        return record, True
    fleet = fleet_of(spec=spec, posed=posed, answer=answer, name_of=lambda shape: names_of[shape.key])
    if answer.reasons and record.fleet and same_replicas(record.fleet, fleet) and spec.mode != "Preview":
        # What runs carries the new rates: only weights follow, which needs no approval, and the plan keeps its age.
        _take_over(turn, spec, posed.question, fleet)
        return PlanRecord(
            fleet=fleet,
            answer=answer_data(answer),
            question=answered if turn.plan_is_due_in is None else None,
            generation=world.plan.generation,
            since=record.since,
            spec=world.plan.spec,
        ), False
    stays = staying(turn, spec, posed.question, answer)
    if stays is not None:
        # While the incumbent is only too young to go, the question stays open.
        turn.plan_is_due_in = turn.plan_is_due_in if stays.due_in_seconds is None else stays.due_in_seconds
        closed = {} if turn.plan_is_due_in is not None else {"question": answered}
        return record.model_copy(update={**closed, **_NOTHING_WAITS}), False
    adopted = _adopt(turn, spec, posed.question, answer, fleet, asked)
    if not hurried:
        return adopted, False
    # A better one than what waits is sought, too.
    again = {"question": answered} if adopted.waiting is None else {"waiting_question": None}
    return adopted.model_copy(update=again), False


def _without_failed_shapes(turn: Turn, posed: Posed, names_of: Mapping[str, str]) -> Posed:
    """The question without shapes that do not start. Where a class would have none left while replicas of before serve it,
    those of its model stay: a plan that gives the class nothing would take these away."""
    record = turn.record
    out = left_out(record.failed_shapes)
    if not out or posed.question is None:
        return posed
    failed = {name for name, facts in posed.shapes.items() if not out.isdisjoint((facts.key, names_of[facts.key]))}
    left = {key for item in posed.question.shapes if item.name not in failed for key in item.requests_per_second}
    facts = turn.situation.facts(record.fleet or Fleet())
    serving = {facts[name].model for name, count in ready_replicas(turn.world).items() if count and name in facts}
    spared = {item.model for item in posed.question.classes if item.name not in left and item.model in serving}
    return without(posed, {name for name in failed if posed.shapes[name].model.name not in spared})


def _adopt(turn: Turn, spec: PlanSpec, question: Question, answer: Answer, fleet: Fleet, asked: str) -> PlanRecord:
    """The new plan in force, or waiting where the mode asks for consent."""
    world, record = turn.world, turn.record
    if (why := _not_renderable(turn, fleet)) is not None:
        turn.find("PlanSolved", "NotRenderable", f"{why}, so the plan is only shown")
        return record.model_copy(
            update={"waiting": fleet, "waiting_answer": answer_data(answer), "waiting_question": asked}
        )
    if _waits(turn, spec, fleet):
        return record.model_copy(
            update={"waiting": fleet, "waiting_answer": answer_data(answer), "waiting_question": asked}
        )
    _take_over(turn, spec, question, fleet)
    return PlanRecord(
        fleet=fleet,
        answer=answer_data(answer),
        question=asked,
        generation=world.plan.generation,
        since=world.now,
        spec=world.plan.spec,
    )


def _not_renderable(turn: Turn, fleet: Fleet) -> str | None:
    """Why a plan cannot be applied; None: it can."""
    if fleet.spans_types:
        return (
            "the plan has replicas with stages on two GPU types; the engine would need other layers on each (vLLM's "
            "VLLM_PP_LAYER_PARTITION) in one group over two pools, which this version cannot write"
        )
    if fleet.spans_nodes and not turn.world.leader_worker_sets:
        return "the plan has replicas over several nodes, which need LeaderWorkerSets, and the cluster serves none"
    return None


def _take_over(turn: Turn, spec: PlanSpec, question: Question, fleet: Fleet) -> None:
    """Note why this fleet takes over, where it is another than the one in force."""
    if turn.record.fleet is None or turn.record.fleet.hash != fleet.hash:
        turn.moved = why_moved(turn, spec, question, fleet)


def _waits(turn: Turn, spec: PlanSpec, fleet: Fleet) -> bool:
    """Whether the mode asks for consent that the plan does not have; with Approve, what is in force needs none."""
    if spec.mode == "Preview":
        return True
    consented = {turn.world.plan.approved_hash, None if turn.record.fleet is None else turn.record.fleet.hash}
    return spec.mode == "Approve" and fleet.hash not in consented


def _fall_back(
    turn: Turn, spec: PlanSpec, posed: Posed, solve: Solve, names_of: Mapping[str, str]
) -> tuple[PlanRecord, bool]:
    """The record where floors or survival cannot hold, and whether nothing may grow.

    What runs stays, unless it costs more than the budget and more than the floors, which are paid anyway. Then the best plan
    for that much, without survival, takes over, so that spend falls. Nothing may grow meanwhile. So a plan is not taken if it
    needs nodes that are not there, or if it serves less than what the budget leaves of the plan in force.
    """
    record, pools, question = turn.record, turn.pools, posed.question
    assert question is not None
    floors = math.fsum(pool.min_nodes * pool.dollars_per_node_hour for pool in question.pools)
    dollars = max(question.budget_dollars_per_hour, floors)
    if record.fleet is None or record.fleet.dollars_per_hour <= dollars + CENT:
        return record, True
    relaxed = question.model_copy(update={"survive": (), "budget_dollars_per_hour": dollars})
    answer = solve(relaxed, spec, first=_is_first(turn))
    if answer.status == "Infeasible" or verify(relaxed, answer):
        return record, True
    fleet = fleet_of(spec=spec, posed=posed, answer=answer, name_of=lambda shape: names_of[shape.key])
    if _not_renderable(turn, fleet) is not None:
        return record, True
    left = within_budget(record.fleet, pools, turn.budget_dollars_per_hour)
    if any(fleet.nodes.get(pool.name, 0) > len(pool.nodes) for pool in pools) or serves_less(fleet, left):
        return record, True
    waiting = {"waiting": fleet, "waiting_answer": answer_data(answer), "waiting_question": None}
    if _waits(turn, spec, fleet):
        return record.model_copy(update=waiting), True
    turn.moved = "FloorsExcludePlan" if fleet.hash != record.fleet.hash else None
    update = {"fleet": fleet, "answer": answer_data(answer), "question": None, **_NOTHING_WAITS}
    return record.model_copy(update=update), True


def _answer_of(data: Mapping[str, Any] | None) -> Answer | None:
    """The answer behind a waiting plan; None where another version of the operator wrote what this one cannot read."""
    try:
        return Answer.model_validate(data)
    except ValidationError:
        return None


def answer_data(answer: Answer) -> dict[str, Any]:
    """The answer without the time that it took: what is written down is the same on any machine."""
    data: dict[str, Any] = answer.model_dump(mode="json", exclude={"seconds"}, exclude_none=True)
    return data


def _deployment_names(plan: PlanObject, posed: Posed) -> tuple[dict[str, str], tuple[InputError, ...]]:
    """Deployment by shape: of replicas that run and are still what the spec asks for, theirs, however this version of the
    operator would render them. The names are part of what is asked, since they hold image, arguments and template."""
    found: dict[str, str] = {}
    errors: dict[str, InputError] = {}
    for shape in posed.shapes.values():
        key = shape.key
        if key in found:
            continue
        if shape.running is not None:
            found[key] = shape.running.deployment
            continue
        rests_on = _rendered_from(plan, shape)
        kept = _last_names.get((plan.uid, key))
        try:
            if kept is None or kept[0] != rests_on:
                kept = rests_on, _deployment_name(plan, shape)
                _last_names.put((plan.uid, key), kept)
        except InputError as error:
            errors[str(error)] = error
            continue
        found[key] = kept[1]
    return found, tuple(errors[text] for text in sorted(errors))


def _rendered_from(plan: PlanObject, shape: ShapeFacts) -> tuple[object, ...]:
    """All that the name of a Deployment rests on."""
    layout = shape.layout
    where = (shape.pool.spec, shape.tensor_parallel, shape.pipeline_parallel, layout.nodes_of_a_replica, shape.layers)
    return (plan.name, plan.queue, shape.model, shape.variant, *where, shape.written_settings, shape.written_needs)


def _deployment_name(plan: PlanObject, shape: ShapeFacts) -> str:
    """Raises ``InputError`` where the template cannot be rendered."""
    template = template_of(
        plan,
        shape.model,
        shape.variant,
        shape.pool.spec,
        tensor_parallel=shape.tensor_parallel,
        pipeline_parallel=shape.pipeline_parallel,
        settings=shape.written_settings,
        needs=shape.written_needs,
        group=None if shape.layout.inside_a_node else Group(shape.layout.nodes_of_a_replica, shape.layers),
    )
    return replica_name(
        plan=plan.name,
        model=shape.model.name,
        variant=shape.variant.name,
        where=shape.pool.name if shape.layout.inside_a_node else shape.layout.name,
        template=template,
    )
