"""Renders a kind of replica that spans nodes as a LeaderWorkerSet (``leaderworkerset.x-k8s.io/v1``).

A replica is a group of pods, one for each node: its leader, which takes the requests, and workers. All are gated and placed by
the operator, as the pods of Deployments are. Only leaders have the label by which the Service selects. When a pod of a group is
lost or a container of it ends, the controller makes the whole group anew: an engine over several nodes does not outlive a part.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from servingplan.api.models_v1alpha1 import Model, Variant
from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.model import names
from servingplan.model.engine import EngineSettings
from servingplan.model.fleet import Fleet, PodNeeds, ReplicaSet
from servingplan.model.world import PlanObject
from servingplan.render.claim_template import claim_of
from servingplan.render.deployment import Group, model_server_labels, replica_template, workload_metadata
from servingplan.render.pod_template import merge

API_VERSION = "leaderworkerset.x-k8s.io/v1"

Json = dict[str, Any]


def template_of(
    plan: PlanObject,
    model: Model,
    variant: Variant,
    pool: NodePool,
    *,
    tensor_parallel: int,
    pipeline_parallel: int,
    settings: EngineSettings | None,
    needs: PodNeeds | None,
    group: Group | None,
) -> Json:
    """What all copies of a replica are made from, without the labels that depend on the object's name: a pod template, or, of a
    replica over several nodes, a ``leaderWorkerTemplate``, with ``podTemplate`` merged into both of its pods.

    Raises ``InputError`` as ``replica_template`` does.
    """
    render = partial(
        replica_template,
        model=model,
        variant=variant,
        pool=pool,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        settings=settings,
        needs=needs,
        queue=plan.queue,
        group=group,
    )
    if group is None:
        return render()
    leader, worker = render(), render(worker=True)
    return {
        "size": group.nodes,
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": leader,
        "workerTemplate": worker,
    }


def template_in(manifest: Json) -> Json | None:
    """The template of a Deployment or LeaderWorkerSet, as ``template_of`` has it; None where there is none."""
    spec = manifest.get("spec") or {}
    found: Json | None = spec.get("leaderWorkerTemplate", spec.get("template"))
    return found


def serving_pod(manifest: Json) -> Json:
    """The spec of the pods that take requests; empty where there is none."""
    template = template_in(manifest) or {}
    return (template.get("leaderTemplate") or template).get("spec") or {}


def leader_worker_set(
    *, plan: PlanObject, replica_set: ReplicaSet, template: Json, replicas: int, fleet: Fleet
) -> Json:
    """The LeaderWorkerSet with ``replicas`` copies."""
    labels = model_server_labels(plan, replica_set)
    leader = {"metadata": {"labels": {**labels, names.SERVING_LABEL: "true"}}}
    claim = claim_of(template, replica_set.deployment)
    templates = {
        **template,
        "leaderTemplate": merge(merge(template["leaderTemplate"], claim), leader),
        "workerTemplate": merge(merge(template["workerTemplate"], claim), {"metadata": {"labels": {**labels}}}),
    }
    return {
        "apiVersion": API_VERSION,
        "kind": names.LEADER_WORKER_SET,
        "metadata": workload_metadata(plan, replica_set, fleet),
        "spec": {
            "replicas": replicas,
            "leaderWorkerTemplate": templates,
            # Workers look for their leader while it starts: they come with it.
            "startupPolicy": "LeaderCreated",
            # A shared Service of the pods' names would have the name of our own.
            "networkConfig": {"subdomainPolicy": "UniquePerReplica"},
            # GPUs are not there twice: a group that is to be replaced goes first.
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"maxSurge": 0, "maxUnavailable": 1, "partition": 0},
            },
        },
    }
