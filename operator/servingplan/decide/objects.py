"""The objects of the plan except for its routing: the record, Deployments and Services, and whether they are as rendered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError
from servingplan.model import names
from servingplan.model.actions import AnyAction, ApplyObject
from servingplan.model.fleet import Fleet, PlanRecord, ReplicaSet
from servingplan.model.manifests import in_place
from servingplan.model.world import Observation
from servingplan.planning.cold_starts import start_limits
from servingplan.planning.layouts import layout_name
from servingplan.planning.record import RECORD_KEY
from servingplan.planning.situation import Situation
from servingplan.render.claim_template import asked_in, claim_template
from servingplan.render.deployment import (
    Group,
    deployment,
    model_server_labels,
    owner_reference,
    replica_name,
    service,
)
from servingplan.render.disruption_budget import disruption_budget
from servingplan.render.leader_worker_set import leader_worker_set, template_in, template_of
from servingplan.render.pod_access import refused_access

Json = dict[str, Any]
BUDGETS_UNREAD = "PodDisruptionBudgets"
"""Source that a role of an earlier version does not let the operator read: it does without then."""


def object_actions(
    situation: Situation, in_force: PlanSpec, fleet: Fleet, must_stay: Mapping[str, int]
) -> tuple[tuple[AnyAction, ...], tuple[InputError, ...]]:
    """The writes of the fleet's Deployments, LeaderWorkerSets, Services and PodDisruptionBudgets that are missing or were
    changed by somebody else, and what is wrong with the spec behind the plan in force.

    ``must_stay``: the ready replicas by Deployment that evictions must leave.
    """
    world = situation.world
    models = {model.name: model for model in in_force.models}
    by_pool = {pool.name: pool for pool in situation.pools_of(in_force)}
    limits = start_limits(fleet, in_force)
    actions: list[AnyAction] = []
    errors: list[InputError] = []
    for item in fleet.replica_sets:
        model, pool = models.get(item.model), by_pool.get(item.pool)
        variant = next((v for v in model.effective_variants if v.name == item.variant), None) if model else None
        manifests = [service(plan=world.plan, replica_set=item)]
        if not any(failure.source == BUDGETS_UNREAD for failure in world.failures):
            least = must_stay.get(item.deployment, item.replicas)
            manifests.append(disruption_budget(plan=world.plan, replica_set=item, must_stay=least))
        if model is not None and pool is not None and variant is not None:
            if refused_access(model, world.pod_access):
                continue  # of a time when more was allowed: what stands is left, and is not made anew
            try:
                template = template_of(
                    world.plan,
                    model,
                    variant,
                    pool.spec,
                    tensor_parallel=item.tensor_parallel,
                    pipeline_parallel=item.pipeline_parallel,
                    settings=item.settings,
                    needs=item.needs,
                    group=Group(item.nodes, tuple(stage.layers for stage in item.stages)) if item.stages else None,
                )
            except InputError as error:
                errors.append(error)
                continue
            manifests += _workload(world, item, template, fleet, limits[item.deployment])
        for manifest in manifests:
            found = world.live(manifest["kind"], manifest["metadata"]["name"])
            if not in_place(found, manifest):
                why = f"{manifest['kind']} {item.deployment}: {item.replicas} x {item.model} on {item.pool}"
                actions.append(ApplyObject(manifest=manifest, why=why))
    return tuple(actions), tuple(errors)


def _workload(world: Observation, item: ReplicaSet, template: Json, fleet: Fleet, startup_seconds: int) -> list[Json]:
    """The object that makes the replicas, with their present number, after the ResourceClaimTemplate that its pods need."""
    live = world.live(item.kind, item.deployment)
    devices = asked_in(template)
    if live is not None and not _is_its_name(world, item, template):
        # Another version of the operator rendered it. Its pods are not restarted for that.
        template = template_in(live.manifest) or template
        devices = asked_in(template) or devices
    manifests: list[Json] = []
    if devices is not None:
        labels, owner = model_server_labels(world.plan, item), owner_reference(world.plan)
        manifests.append(claim_template(plan=world.plan, replica_set=item, devices=devices, labels=labels, owner=owner))
    replicas = item.replicas if live is None else int(live.manifest.get("spec", {}).get("replicas", 1))
    if item.stages:
        manifests.append(
            leader_worker_set(plan=world.plan, replica_set=item, template=template, replicas=replicas, fleet=fleet)
        )
    else:
        manifests.append(
            deployment(
                plan=world.plan,
                replica_set=item,
                template=template,
                replicas=replicas,
                startup_seconds=startup_seconds,
                fleet=fleet,
            )
        )
    return manifests


def _is_its_name(world: Observation, item: ReplicaSet, template: Mapping[str, Any]) -> bool:
    """Whether the Deployment was made from this template, by its name."""
    return item.deployment == replica_name(
        plan=world.plan.name, model=item.model, variant=item.variant, where=_where(item), template=template
    )


def _where(item: ReplicaSet) -> str:
    """The pool of a replica, or the layout of one that spans nodes."""
    return layout_name(item.legs, tensor_parallel=item.tensor_parallel) if item.stages else item.pool


def record_actions(world: Observation, record: PlanRecord) -> tuple[AnyAction, ...]:
    """The write of the plan record; none if it is already there in this form."""
    name = names.record_name(world.plan.name)
    text = json.dumps({**record.model_dump(mode="json"), "version": record.form}, sort_keys=True, indent=1) + "\n"
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": world.plan.namespace,
            "labels": {
                names.PLAN_LABEL: names.label_value(world.plan.name),
                "app.kubernetes.io/managed-by": "servingplan",
            },
            "ownerReferences": [owner_reference(world.plan)],
        },
        "data": {RECORD_KEY: text},
    }
    live = world.live("ConfigMap", name)
    if in_place(live, manifest):
        return ()
    what = record.fleet or record.waiting
    return (ApplyObject(manifest=manifest, why=f"plan {what.hash if what else 'none'} is written down"),)
