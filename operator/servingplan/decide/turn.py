"""What the parts of a turn take, and the solver as they ask it."""

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
    """Answers a question within the deadline of the spec, or within so many seconds where that is less."""

    def __call__(
        self, question: Question, spec: PlanSpec, at_most_seconds: float | None = None, *, first: bool = False
    ) -> Answer:
        """The answer. ``first``: no plan for this spec is in force yet, so improvements of other plans may wait for it. Raises
        ``Searching`` while the answer is sought beside the turns."""
        ...


def never() -> bool:
    """The answer is wanted."""
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
    """What is known at the top of a turn, and what is found and learned while it is decided."""

    situation: Situation
    may_span_nodes: bool = False
    """Whether replicas over several nodes are asked about."""
    may_mix_types: bool = False
    """Whether such with two GPU types are, which can only be shown."""
    record: PlanRecord = field(init=False)
    """The record as it was read, and then as it is to be written."""
    findings: list[Finding] = field(default_factory=list)
    plan_is_due_in: float | None = None
    """Seconds until a better plan that is known may take over."""
    asked: str | None = None
    """Digest of the question that was posed."""
    moved: Reason | None = None
    """Why another plan took over; absent while none did."""
    searching: bool = False
    """Whether its answer is still sought."""

    def __post_init__(self) -> None:
        self.record = self.situation.record

    @property
    def world(self) -> Observation:
        """The observation that the turn is decided on."""
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
        """The pools of that spec, with what is known of their stock by now."""
        return with_stock(self.situation.pools, self.record.stock)

    def find(self, condition: str, reason: str, message: str, *, holds: bool = False) -> None:
        """Note what a condition is to say."""
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
