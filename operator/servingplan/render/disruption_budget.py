"""PodDisruptionBudgets: evictions wait until successors serve. Our own removals do not go by evictions, so they never wait."""

from __future__ import annotations

from typing import Any

from servingplan.model import names
from servingplan.model.fleet import ReplicaSet
from servingplan.model.world import PlanObject
from servingplan.render.deployment import model_server_labels, owner_reference

KIND = "PodDisruptionBudget"


def disruption_budget(*, plan: PlanObject, replica_set: ReplicaSet, must_stay: int) -> dict[str, Any]:
    """The budget of a Deployment or LeaderWorkerSet: evictions leave ``must_stay`` ready replicas with all of their pods.

    These are all that are planned, but for replicas on cordoned nodes for which no successor can come: were they kept, a
    drain of their node would never end. Replicas that are not ready may always be evicted.
    """
    labels = model_server_labels(plan, replica_set)
    selector = {names.PLAN_LABEL: labels[names.PLAN_LABEL], names.DEPLOYMENT_LABEL: replica_set.deployment}
    return {
        "apiVersion": "policy/v1",
        "kind": KIND,
        "metadata": {
            "name": replica_set.deployment,
            "namespace": plan.namespace,
            "labels": labels,
            "ownerReferences": [owner_reference(plan)],
        },
        "spec": {
            "minAvailable": must_stay * replica_set.nodes,
            "selector": {"matchLabels": selector},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
