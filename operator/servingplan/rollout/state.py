"""What a step starts from, what it works towards, and what bounds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from servingplan.api.v1alpha1 import Change, PlanSpec
from servingplan.model.fleet import Fleet, ReplicaFacts
from servingplan.model.world import Observation, Pod
from servingplan.planning.cold_starts import start_limits
from servingplan.planning.pools import CENT, Pool, total_spend
from servingplan.render.deployment import UNTOLD_STARTUP_SECONDS


@dataclass(frozen=True)
class Rollout:
    """Where the cluster is, and the fleet that is to be there."""

    world: Observation
    pools: tuple[Pool, ...]
    fleet: Fleet
    """What is wanted; empty for a plan that is being deleted."""
    facts: Mapping[str, ReplicaFacts]
    """The facts of every Deployment of ours, wanted or not."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Wanted replicas that have no pod, by Deployment; no node is asked for on their account."""
    age_seconds: float = math.inf
    """How long the plan has been in force."""

    @property
    def spend(self) -> float:
        """$/h of all pools now; ``nan`` where it cannot be computed."""
        return total_spend(self.pools)

    def facts_of(self, pod: Pod) -> ReplicaFacts:
        """Facts of the Deployment that a pod of ours belongs to."""
        return self.facts[pod.deployment or ""]


def missing_replicas(world: Observation, fleet: Fleet) -> dict[str, int]:
    """Planned replicas of which there is no pod yet, by Deployment. The pods wait behind their gate for nodes; where the
    API server refuses the Deployment or its pods (a wrong template, quota, pod security), none ever comes. A pod behind
    somebody else's gate counts as not there: a queue may hold it for as long as it likes. So does a group without all of its
    pods."""
    there = {
        item.deployment: sum(not pod.kept_back for pod in world.pods_of(item.deployment)) for item in fleet.replica_sets
    }
    missing = {item.deployment: item.replicas - there[item.deployment] for item in fleet.replica_sets}
    return {name: count for name, count in missing.items() if count > 0}


@dataclass(frozen=True)
class Limits:
    """What bounds a step."""

    budget_dollars_per_hour: float
    may_grow: bool
    change: Change
    """How long drains take."""
    startup_seconds: Mapping[str, float]
    """How long replicas may take to start, by Deployment of the fleet that is wanted."""
    gateway_follows: bool | None = None
    """Whether the gateway has taken the published weights; None: there is none to ask."""

    @classmethod
    def of(
        cls,
        spec: PlanSpec,
        fleet: Fleet,
        *,
        budget_dollars_per_hour: float,
        may_grow: bool,
        gateway_follows: bool | None,
    ) -> Limits:
        """The limits that a spec sets on the way to a fleet, with this budget."""
        return cls(budget_dollars_per_hour, may_grow, spec.change, start_limits(fleet, spec), gateway_follows)

    def exceeded_by(self, spend: float) -> bool:
        """Whether this many $/h are over the budget; ``nan`` is not."""
        return spend > self.budget_dollars_per_hour + CENT

    def startup_seconds_of(self, pod: Pod) -> float:
        """How long a replica may take to start."""
        return self.startup_seconds.get(pod.deployment or "", float(UNTOLD_STARTUP_SECONDS))
