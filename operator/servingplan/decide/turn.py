"""The inputs of the parts of a turn, and the interface of the solver that they use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, override

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.answer import Answer
from servingplan.model.decision import Decision, Finding, Reason
from servingplan.model.fleet import PlanRecord
from servingplan.model.question import Question
from servingplan.model.world import Observation
from servingplan.planning.availability import with_stock
from servingplan.planning.pools import Pool
from servingplan.planning.situation import Situation
from servingplan.rollout.next import ready_replicas


class Solve(Protocol):
    """Answers a question within the deadline of the spec, or within this many seconds if that is less."""

    def __call__(
        self, question: Question, spec: PlanSpec, at_most_seconds: float | None = None, *, first: bool = False
    ) -> Answer:
        """The answer. ``first``: no plan for this spec is in force yet, so it may be searched before improvements of other
        plans. Raises ``Searching`` while the answer is searched beside the turns."""
        ...


def never() -> bool:
    """False: the answer stays wanted to the end."""
    return False


class Search(Solve, Protocol):
    """A solver that can be stopped."""

    @override
    def __call__(
        self,
        question: Question,
        spec: PlanSpec,
        at_most_seconds: float | None = None,
        *,
        first: bool = False,
        unwanted: Callable[[], bool] = never,
    ) -> Answer:
        """The same as ``Solve``. Raises ``Outdated`` once the answer is ``unwanted``."""
        ...


@dataclass
class Turn:
    """What is known at the beginning of a turn, and what is found and learned while it is decided."""

    situation: Situation
    may_span_nodes: bool = False
    """Whether replicas over several nodes are considered."""
    may_mix_types: bool = False
    """Whether replicas with two GPU types are considered, which can only be shown."""
    record: PlanRecord = field(init=False)
    """The record: first as it was read, later as it is to be written."""
    findings: list[Finding] = field(default_factory=list)
    plan_is_due_in: float | None = None
    """Seconds until a better plan that is known may replace the one in force."""
    asked: str | None = None
    """The digest of the question that was posed."""
    moved: Reason | None = None
    """Why another plan replaced the one in force; None if none did."""
    searching: bool = False
    """Whether its answer is still being searched."""

    def __post_init__(self) -> None:
        self.record = self.situation.record

    @property
    def world(self) -> Observation:
        """The observation for which the turn is decided."""
        return self.situation.world

    @property
    def spec(self) -> PlanSpec:
        """The spec to act by."""
        return self.situation.spec

    @property
    def budget_dollars_per_hour(self) -> float:
        """$/h that the plan may cost."""
        return float(self.spec.budget.dollars_per_hour)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools of that spec, with what is now known of their stock."""
        return with_stock(self.situation.pools, self.record.stock)

    def find(self, condition: str, reason: str, message: str, *, holds: bool = False) -> None:
        """Note what a condition is to report."""
        self.findings.append(Finding(condition=condition, reason=reason, message=message, holds=holds))

    def standstill(self) -> Decision:
        """The decision to write nothing in this turn."""
        return Decision(
            fleet=self.record.fleet,
            in_force_since=self.record.since,
            in_force_generation=self.record.generation,
            waiting=self.record.waiting,
            findings=tuple(self.findings),
            ready=ready_replicas(self.world),
        )
