"""Makes one write per action, with guards that make a repeated or interrupted turn harmless.

Whole objects are written by forced server-side apply under one field manager, since they are ours alone. A pod is patched only
if it still has the uid that was seen, and ungated only if our gate is the only one. A pool is written only if it has not
changed since it was read, never by force.
"""

from __future__ import annotations

from typing import Any

from servingplan.api.pools_v1alpha1 import Resize
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import ApiError, Conflict, Invalid, NotFound
from servingplan.kube import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    HTTP_ROUTES,
    LEADER_WORKER_SETS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    SERVICES,
    Api,
    Resource,
)
from servingplan.model import names
from servingplan.model.actions import (
    AnyAction,
    ApplyObject,
    ClaimPool,
    DeleteObject,
    DeletePod,
    DrainPod,
    NoteUnrouted,
    PlacePod,
    ResizePool,
    RestorePod,
    ScaleDeployment,
)
from servingplan.model.outcome import Outcome, Refused
from servingplan.model.world import Observation, PlanObject
from servingplan.pool_kinds.table import kind_at, kind_key

_KINDS: dict[str, Resource] = {
    resource.kind: resource
    for resource in (
        *(DEPLOYMENTS, LEADER_WORKER_SETS, SERVICES, DISRUPTION_BUDGETS, CONFIG_MAPS),
        *(HTTP_ROUTES, RESOURCE_CLAIM_TEMPLATES),
    )
}
_DELETION_COST_LEAVING = "-1000"
DELETE_MACHINE = "cluster.x-k8s.io/delete-machine"
"""Cluster API deletes Machines with this annotation first when a size falls, whatever its value."""
_MACHINE_OWNERS = {
    "MachineDeployment": "cluster.x-k8s.io/deployment-name",
    "MachineSet": "cluster.x-k8s.io/set-name",
}
"""The label of a Machine with the name of the object that sizes its pool, by kind."""

Json = dict[str, Any]


class NameTaken(ApiError):  # noqa: N818 (a reason, as the API server's)
    """An object with this name exists and is not ours."""


class Writer:
    """Carries out the actions of one plan's turn. It blocks, so call it in a thread."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def write(self, actions: tuple[AnyAction, ...], *, world: Observation, spec: PlanSpec | None) -> Outcome:
        """Try every action in order; a refusal does not stop the others."""
        done: list[AnyAction] = []
        refused: list[Refused] = []
        for action in actions:
            try:
                self._write(action, world, spec)
            except ApiError as error:
                if isinstance(error, NotFound) and isinstance(
                    action, PlacePod | DrainPod | NoteUnrouted | RestorePod | DeletePod
                ):
                    continue  # the pod is already gone
                refused.append(Refused(action=action, reason=error.reason, message=error.message))
            else:
                done.append(action)
        return Outcome(done=tuple(done), refused=tuple(refused))

    def disown(self, world: Observation) -> None:
        """Remove the owner from the plan's objects, so that they are not deleted with the plan."""
        for item in world.objects:
            if item.ours and item.name != names.record_name(world.plan.name):
                self._api.merge(
                    _KINDS[item.kind],
                    item.name,
                    {"metadata": {"uid": item.uid, "ownerReferences": None}},
                    manager=names.FIELD_MANAGER,
                    namespace=world.plan.namespace,
                )

    def _write(self, action: AnyAction, world: Observation, spec: PlanSpec | None) -> None:
        plan = world.plan
        match action:
            case ApplyObject():
                self._apply(action.manifest, world)
            case ScaleDeployment():
                self._api.merge(
                    _KINDS[action.object_kind],
                    action.name,
                    _scaled(action),
                    manager=names.FIELD_MANAGER,
                    namespace=plan.namespace,
                )
            case DeleteObject():
                self._api.delete(_KINDS[action.object_kind], action.name, uid=action.uid, namespace=plan.namespace)
            case ClaimPool():
                self._patch_pool(action.pool, world, spec, claimed_by=action.claimed_by, nodes=None)
            case ResizePool():
                self._patch_pool(action.pool, world, spec, claimed_by=plan.key, nodes=action.nodes, resize_by=action)
            case PlacePod():
                self._place(plan, action, world.now)
            case DrainPod():
                self._patch_pod(plan, action.pod, action.uid, _draining(action))
            case NoteUnrouted():
                note = {"metadata": {"annotations": {names.UNROUTED_SINCE_ANNOTATION: action.since}}}
                self._patch_pod(plan, action.pod, action.uid, note)
            case RestorePod():
                self._patch_pod(plan, action.pod, action.uid, _RESTORED)
            case DeletePod():
                self._api.delete(PODS, action.pod, uid=action.uid, namespace=plan.namespace)

    def _apply(self, manifest: Json, world: Observation) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        resource = _KINDS[kind]
        if world.live(kind, name) is None:
            self._refuse_foreign(resource, name, world.plan)
        self._api.apply(resource, manifest, manager=names.FIELD_MANAGER, force=True)

    def _refuse_foreign(self, resource: Resource, name: str, plan: PlanObject) -> None:
        try:
            found = self._api.get(resource, name, namespace=plan.namespace)
        except NotFound:
            return
        owners = found["metadata"].get("ownerReferences") or ()
        if not any(owner.get("uid") == plan.uid for owner in owners):
            raise NameTaken(409, "NameTaken", f"{resource.kind} {name} exists and is not this plan's")

    def _place(self, plan: PlanObject, action: PlacePod, now: str) -> None:
        """Place a pod by a patch on a fresh read. Everything beside our annotations and our part of the affinity stays. If the
        gates changed since the read, the patch changes nothing."""
        pod = self._api.get(PODS, action.pod, namespace=plan.namespace)
        if pod["metadata"]["uid"] != action.uid:
            raise NotFound(404, "NotFound", f"pod {action.pod} was replaced by another pod")
        gates = (pod.get("spec") or {}).get("schedulingGates") or []
        if gates != [{"name": names.PLACEMENT_GATE}]:
            said = ", ".join(gate.get("name", "?") for gate in gates) or "none"
            raise Conflict(409, "Changed", f"pod {action.pod} has other scheduling gates than ours by now: {said}")
        self._api.json_patch(
            PODS, action.pod, _placed(pod, action, now), manager=names.FIELD_MANAGER, namespace=plan.namespace
        )

    def _patch_pod(self, plan: PlanObject, name: str, uid: str, patch: Json) -> None:
        patch = {**patch, "metadata": {**patch.get("metadata", {}), "uid": uid}}
        try:
            self._api.merge(PODS, name, patch, manager=names.FIELD_MANAGER, namespace=plan.namespace)
        except (Conflict, Invalid) as error:
            # Which of the two it is for another uid depends on the kind's validation.
            if "uid" not in error.message.lower():
                raise
            raise NotFound(404, "NotFound", f"pod {name} was replaced by another pod: {error.message}") from error

    def _patch_pool(
        self,
        pool: str,
        world: Observation,
        spec: PlanSpec | None,
        *,
        claimed_by: str,
        nodes: int | None,
        resize_by: ResizePool | None = None,
    ) -> None:
        resize = _resize_of(pool, spec)
        seen = world.pool(pool)
        if resize is None or seen is None:
            raise NotFound(404, "NotFound", f"pool {pool} has no object to size")
        resource = self._api.discover(resize.api_version, resize.kind)
        namespace = (resize.namespace or world.plan.namespace) if resource.namespaced else None
        # A claim earlier in this turn changed the version that was seen, so read the object again and check it.
        current = self._api.get(resource, resize.name, namespace=namespace)
        annotations = current["metadata"].get("annotations") or {}
        holder = annotations.get(names.CLAIM_ANNOTATION)
        kind = kind_at(kind_key(resize.api_version, resize.kind), seen.path)
        size = kind.wanted(current)
        if holder not in (None, "", world.plan.key, seen.orphan_of):
            raise Conflict(409, "ClaimedByOther", f"{resize.kind} {resize.name} was claimed by plan {holder} meanwhile")
        if (size or 0) != (seen.wanted or 0):
            raise Conflict(409, "Changed", f"the size of {resize.kind} {resize.name} became {size} since it was read")
        if nodes is not None and (other := kind.sized_by(current)) is not None:
            raise Conflict(409, "Changed", f"{resize.kind} {resize.name} is sized by {other} by now")
        asked = None if not claimed_by else str(size or 0) if nodes is None else str(nodes)
        patch: Json = {
            "metadata": {
                "resourceVersion": current["metadata"]["resourceVersion"],
                "annotations": {names.CLAIM_ANNOTATION: claimed_by or None, names.SIZE_ANNOTATION: asked},
            }
        }
        if nodes is not None:
            try:
                patch |= kind.patch(current, nodes)
            except ValueError as error:
                raise Invalid(422, "Invalid", f"{resize.kind} {resize.name}: {error}") from error
        if resize_by is not None and (resize_by.machines or resize_by.spared):
            self._mark_machines(resize, namespace, resize_by)
        self._api.merge(resource, resize.name, patch, manager=names.POOL_MANAGER, namespace=namespace)

    def _mark_machines(self, resize: Resize, namespace: str | None, action: ResizePool) -> None:
        """Have the Machines of these nodes deleted first (kubernetes-sigs/cluster-api, api/core/v1beta2/common_types.go,
        DeleteMachineAnnotation), and no others for our sake. A Machine that is not of the pool's object is left alone, and so
        is a mark of somebody else."""
        resource = self._api.discover(resize.api_version, "Machine")
        for marked, machines in ((True, action.machines), (False, action.spared)):
            for machine in machines:
                where, _, name = machine.partition("/")
                if where != namespace:
                    continue
                try:
                    self._mark(resource, name, where, resize, marked=marked)
                except NotFound:
                    continue  # it is gone already

    def _mark(self, resource: Resource, name: str, namespace: str, resize: Resize, *, marked: bool) -> None:
        found = self._api.get(resource, name, namespace=namespace)["metadata"]
        labels, mark = found.get("labels") or {}, (found.get("annotations") or {}).get(DELETE_MACHINE)
        if labels.get(_MACHINE_OWNERS.get(resize.kind, "")) != resize.name:
            return
        if (marked and mark is None) or (not marked and mark == names.POOL_MANAGER):
            change = {DELETE_MACHINE: names.POOL_MANAGER if marked else None}
            patch = {"metadata": {"uid": found["uid"], "annotations": change}}
            self._api.merge(resource, name, patch, manager=names.POOL_MANAGER, namespace=namespace)


_RESTORED: Json = {
    "metadata": {
        "labels": {names.SERVING_LABEL: "true"},
        "annotations": {
            names.DRAINING_SINCE_ANNOTATION: None,
            names.UNROUTED_SINCE_ANNOTATION: None,
            names.DELETION_COST_ANNOTATION: None,
        },
    }
}


def _scaled(action: ScaleDeployment) -> Json:
    patch: Json = {"spec": {"replicas": action.replicas}}
    if action.set_by is not None:
        patch["metadata"] = {"annotations": {names.REPLICAS_SET_BY_ANNOTATION: action.set_by}}
    return patch


def _placed(pod: Json, action: PlacePod, now: str) -> list[Json]:
    """The JSON patch that places a pod, as it was read with our gate as its only one."""
    marks = {names.PLACED_ON_ANNOTATION: action.node, names.PLACED_SINCE_ANNOTATION: now}
    affinity = pod["spec"].get("affinity") or {}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": action.node_affinity}
    affinity = {**affinity, "nodeAffinity": {**(affinity.get("nodeAffinity") or {}), **required}}
    found = pod["metadata"].get("annotations")
    annotate = (
        [{"op": "add", "path": "/metadata/annotations", "value": marks}]
        if found is None
        else [{"op": "add", "path": f"/metadata/annotations/{_escaped(key)}", "value": marks[key]} for key in marks]
    )
    return [
        {"op": "test", "path": "/metadata/uid", "value": action.uid},
        {"op": "test", "path": "/spec/schedulingGates", "value": pod["spec"]["schedulingGates"]},
        *annotate,
        {"op": "add", "path": "/spec/affinity", "value": affinity},
        {"op": "remove", "path": "/spec/schedulingGates/0"},
    ]


def _escaped(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _draining(action: DrainPod) -> Json:
    metadata: Json = {
        "annotations": {
            names.DRAINING_SINCE_ANNOTATION: action.since,
            names.DELETION_COST_ANNOTATION: _DELETION_COST_LEAVING,
        }
    }
    if action.leave_service:
        metadata["labels"] = {names.SERVING_LABEL: "false"}
    return {"metadata": metadata}


def _resize_of(pool: str, spec: PlanSpec | None) -> Resize | None:
    return next((item.resize for item in (spec.node_pools if spec else ()) if item.name == pool), None)
