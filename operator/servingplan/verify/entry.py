"""The independent check of an answer: every promise is recomputed from the question and the answer alone.

Place in the flow: observe -> model -> solve -> **verify** -> render -> apply -> status. It shares no code with the solver and
imports only `model`, so that an error in one is not repeated in the other. Numbers agree within a relative tolerance of 1e-6.

Checked are: names, signs and finiteness; nodes within minimum and cap; dollars within the budget; GPUs within the quotas;
copies within `max_copies`; that the node groups hold exactly the copies, fit their nodes and cover all nodes; that no copy is
loaded above its utilisation; quality; that served and unserved rates add up to the asked ones; survival of losses; that the
named limits bind; that objective, bound, gap, levels and status agree with each other; and the explanation, see
`explanation`. Not checked is that a bound is true, or that an infeasible question has no plan; both need a proof that the
answer does not carry.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from servingplan.model.answer import Answer
from servingplan.model.question import Question
from servingplan.verify.binding import binding
from servingplan.verify.case import Case
from servingplan.verify.explanation import faults
from servingplan.verify.fleet import budget, copies, nodes, placements, quotas
from servingplan.verify.form import names, no_plan, numbers
from servingplan.verify.proof import objective, proof
from servingplan.verify.survival import survival
from servingplan.verify.traffic import load, quality, service


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise."""

    promise: str
    """Short name of the promise, e.g. `budget`."""
    message: str
    """The field, its value and what it should be."""


def verify(question: Question, answer: Answer) -> tuple[Violation, ...]:
    """Every promise that the answer breaks; empty if it keeps them all.

    If a number is not finite or a name is unknown, the other checks are skipped, because they build on numbers and names. So an
    empty result is always a full check, and a non-empty one names at least the first faults.
    """
    case = Case(question, answer)
    found: list[Violation] = []
    for group in (_FOUNDATIONS, _PROMISES if answer.status != "Infeasible" else _INFEASIBLE):
        for promise, check in group.items():
            found += [Violation(promise, message) for message in check(case)]
        if found:
            break
    return tuple(found)


def _explanation(case: Case) -> Iterator[str]:
    def broken(question: Question, answer: Answer) -> list[str]:
        return [f"{found.promise}: {found.message}" for found in verify(question, answer)]

    return faults(case.question, case.answer, broken)


_Check = Callable[[Case], Iterator[str]]
_FOUNDATIONS: dict[str, _Check] = {"numbers": numbers, "names": names}
_INFEASIBLE: dict[str, _Check] = {"reasons": no_plan, "explanation": _explanation}
_PROMISES: dict[str, _Check] = {
    "nodes": nodes,
    "budget": budget,
    "quotas": quotas,
    "max_copies": copies,
    "placements": placements,
    "load": load,
    "service": service,
    "quality": quality,
    "survive": survival,
    "binding": binding,
    "objective": objective,
    "proof": proof,
    "explanation": _explanation,
}
