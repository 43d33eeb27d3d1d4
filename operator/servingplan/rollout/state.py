"""What a step starts from, what it aims at, and what limits it."""

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
    """The present state of the cluster, and the fleet that is wanted."""

    world: Observation
    pools: tuple[Pool, ...]
    fleet: Fleet
    """The wanted fleet; empty for a plan that is being deleted."""
    facts: Mapping[str, ReplicaFacts]
    """The facts of every Deployment of the plan, wanted or not."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """The number of wanted replicas that have no pod, by Deployment. No node is asked for on their account."""
    age_seconds: float = math.inf
    """How long the plan has been in force, in seconds."""

    @property
    def spend(self) -> float:
        """$/h of all pools now; ``nan`` if it cannot be computed."""
        return total_spend(self.pools)

    def facts_of(self, pod: Pod) -> ReplicaFacts:
        """The facts of the Deployment to which a pod of the plan belongs."""
        return self.facts[pod.deployment or ""]


def missing_replicas(world: Observation, fleet: Fleet) -> dict[str, int]:
    """The number of planned replicas without a pod, by Deployment.

    Pods wait behind their gate for nodes. If the API server refuses the Deployment or its pods (because of a wrong template, a
    quota, or pod security), there will be none. A pod behind a gate of others counts as missing, because a queue may hold it
    for any time. So does a group without all of its pods.
    """
    there = {
        item.deployment: sum(not pod.kept_back for pod in world.pods_of(item.deployment)) for item in fleet.replica_sets
    }
    missing = {item.deployment: item.replicas - there[item.deployment] for item in fleet.replica_sets}
    return {name: count for name, count in missing.items() if count > 0}


@dataclass(frozen=True)
class Limits:
    """The limits of a step."""

    budget_dollars_per_hour: float
    may_grow: bool
    change: Change
    """How long drains take, in seconds."""
    startup_seconds: Mapping[str, float]
    """How long replicas may take to start, by Deployment of the wanted fleet, in seconds."""
    topology_keys: Mapping[str, str] = field(default_factory=dict)
    """The label of nodes over whose values the replicas of a model are spread, by model."""
    gateway_follows: bool | None = None
    """Whether the gateway has taken the published weights; None if none can be asked."""

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
        """The limits that a spec sets for the way to a fleet, with this budget."""
        keys = {
            model.name: model.topology_spread.topology_key for model in spec.models if model.topology_spread is not None
        }
        return cls(budget_dollars_per_hour, may_grow, spec.change, start_limits(fleet, spec), keys, gateway_follows)

    def exceeded_by(self, spend: float) -> bool:
        """Whether this many $/h exceed the budget; False for ``nan``."""
        return spend > self.budget_dollars_per_hour + CENT

    def startup_seconds_of(self, pod: Pod) -> float:
        """How long a replica may take to start, in seconds."""
        return self.startup_seconds.get(pod.deployment or "", float(UNTOLD_STARTUP_SECONDS))
