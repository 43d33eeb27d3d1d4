"""What the parts of a turn hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.answer import Answer
from servingplan.model.decision import Decision, Finding
from servingplan.model.fleet import PlanRecord
from servingplan.model.question import Question
from servingplan.model.world import Observation
from servingplan.profiles.measured import SHIPPED, MeasuredRows
from servingplan.rollout.next import ready_replicas


class Solve(Protocol):
    """Answers a question within the deadline of the spec, or within so many seconds where that is less."""

    def __call__(self, question: Question, spec: PlanSpec, at_most_seconds: float | None = None) -> Answer: ...


@dataclass
class Turn:
    """What accumulates while a turn is decided."""

    world: Observation
    record: PlanRecord
    may_span_nodes: bool
    """Whether replicas over several nodes are asked about."""
    findings: list[Finding] = field(default_factory=list)
    rows: MeasuredRows = SHIPPED
    """Measurements that rates are estimated with."""
    plan_is_due_in: float | None = None
    """Seconds until a better plan that is known may take over."""
    asked: str | None = None
    """Digest of the question that was posed."""

    def find(self, condition: str, reason: str, message: str, *, holds: bool = False) -> None:
        self.findings.append(Finding(condition=condition, reason=reason, message=message, holds=holds))

    def standstill(self) -> Decision:
        """Nothing is written in this turn."""
        return Decision(
            fleet=self.record.fleet,
            waiting=self.record.waiting,
            findings=tuple(self.findings),
            ready=ready_replicas(self.world),
        )


def seconds_between(then: str, now: str) -> float:
    """Seconds from one RFC 3339 time to another."""
    return (datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds()
