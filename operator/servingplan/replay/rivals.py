"""Fleets that other rules would rent for the same question."""

from __future__ import annotations

from servingplan.errors import InputError
from servingplan.model.fleet import Fleet
from servingplan.model.question import QuestionError
from servingplan.planning.fleet import fleet_of
from servingplan.planning.question import pose
from servingplan.planning.situation import Situation
from servingplan.solve import solve


def fleet_by(situation: Situation, method: str) -> Fleet:
    """The fleet that a method of the planner finds from scratch, whatever runs now: same budget, stock and limits.

    Raises:
        InputError: nothing can be asked, the method cannot answer, or it finds nothing that serves.
    """
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
    return fleet_of(spec=spec, posed=posed, answer=answer, name_of=lambda facts: facts.key)
