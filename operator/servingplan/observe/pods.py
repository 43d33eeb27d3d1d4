"""Pods as facts, and the EndpointSlices that list them: the few fields that matter, read without trusting that any is there."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from servingplan.model import names
from servingplan.model.world import Node, Pod
from servingplan.observe.parse import Json, condition_of, whole

Endpoint = tuple[str, str]
"""The name of a Service, and the uid of a pod behind it."""


class Member(NamedTuple):
    """The place of a pod in a group of a LeaderWorkerSet."""

    group: str
    rank: int
    """0: it leads the group."""
    size: int
    """Pods of a whole group."""


class SeenPod(NamedTuple):
    """A pod with a plan's label or with GPUs of a node, without facts from other objects."""

    plan_label: str | None
    """The label of its plan, which is in the pod's namespace; None if it has no plan."""
    deployment: str | None
    own: Pod
    """The pod for its own plan; ``ready`` is from the pod's status, ``listed`` is False."""
    holds_gpus: bool
    """Whether it holds GPUs of a node, which is all that counts for other plans."""
    member: Member | None = None
    """The group of which it is a part; None: it is a replica by itself."""

    def for_plan(
        self, *, plan_label: str, namespace: str, nodes: Mapping[str, Node] | None, endpoints: Collection[Endpoint]
    ) -> Pod | None:
        """The pod for one plan; None if it does not matter to that plan.

        ``nodes``: the existing nodes (None: they could not be read, and the pod's own status counts). ``endpoints``: those of
        the plan's Services.
        """
        if self.deployment is None or (self.plan_label, self.own.namespace) != (plan_label, namespace):
            return _foreign(self.own) if self.holds_gpus else None
        # The API server keeps a pod Ready for up to a minute after its node is gone: the node has the last word.
        ready = self.own.ready
        if ready and nodes is not None:
            node = nodes.get(self.own.node or "") if self.own.bound else None
            ready = node is not None and node.ready
        listed = (self.deployment, self.own.uid) in endpoints
        return self.own.model_copy(update={"ready": ready, "listed": listed})


def _foreign(pod: Pod) -> Pod:
    return Pod(
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        gpus=pod.gpus,
        created=pod.created,
        bound=pod.bound,
        terminating=pod.terminating,
        node=pod.node,
    )


def seen_pod(item: Json) -> SeenPod | None:
    """The facts of a Pod; None if it is no plan's and holds no GPUs of a node, or has ended."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return None  # the watch leaves these out, but the answer to a write of ours may be one
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    plan_label = labels.get(names.PLAN_LABEL)
    deployment = labels.get(names.DEPLOYMENT_LABEL) if plan_label is not None else None
    gpus = pod_gpus(item)
    if deployment is not None:
        gpus += asked_devices(annotations.get(names.DEVICES_ANNOTATION))
    bound_to = spec.get("nodeName")
    holds_gpus = gpus > 0 and bound_to is not None
    if deployment is None and not holds_gpus:
        return None
    terminating = "deletionTimestamp" in metadata
    common: Json = {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "gpus": gpus,
        "created": metadata.get("creationTimestamp", ""),
        "bound": bound_to is not None,
        "terminating": terminating,
    }
    if deployment is None:
        return SeenPod(None, None, Pod(**common, node=bound_to), holds_gpus)
    gates = [str(gate.get("name")) for gate in spec.get("schedulingGates") or ()]
    gated = names.PLACEMENT_GATE in gates
    placed_on = annotations.get(names.PLACED_ON_ANNOTATION) if not gated else None
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    draining_since = annotations.get(names.DRAINING_SINCE_ANNOTATION)
    own = Pod(
        **common,
        node=bound_to or placed_on,
        deployment=deployment,
        gated=gated,
        other_gates=tuple(gate for gate in gates if gate != names.PLACEMENT_GATE),
        ready=not terminating and condition_of(status, "Ready") == "True",
        started=_started(status),
        unready_since=_ready_condition_since(status, "False"),
        **_first_start(status),
        serving=labels.get(names.SERVING_LABEL) == "true",
        draining_since=draining_since,
        address=status.get("podIP") if draining_since is not None else None,
        unrouted_since=annotations.get(names.UNROUTED_SINCE_ANNOTATION),
        placed_since=annotations.get(names.PLACED_SINCE_ANNOTATION) if not gated else None,
        node_affinity=affinity if gated else None,
        trouble=_trouble(status) if not gated else None,
        **_crashes(status),
    )
    return SeenPod(plan_label, deployment, own, holds_gpus, _member(labels, annotations))


def _member(labels: Mapping[str, str], annotations: Mapping[str, str]) -> Member | None:
    if names.GROUP_LABEL not in labels:
        return None
    rank, size = whole(labels.get(names.WORKER_LABEL)), whole(annotations.get(names.GROUP_SIZE_ANNOTATION))
    return Member(labels[names.GROUP_LABEL], rank, size)


def replicas_of(pods: Iterable[tuple[Member | None, Pod]]) -> list[Pod]:
    """The replicas that a plan's pods are: each by itself, or a group as one.

    A worker without a leader, or older than the leader, is left over from a group that ended: its controller deletes it, and
    until then it holds its node.
    """
    found: list[Pod] = []
    groups: dict[tuple[str | None, str], list[tuple[Member, Pod]]] = {}
    for member, pod in pods:
        if member is None or pod.deployment is None:
            found.append(pod)
        else:
            groups.setdefault((pod.deployment, member.group), []).append((member, pod))
    for parts in groups.values():
        parts.sort(key=lambda part: (part[0].rank, part[1].name))
        leads = parts[0][0].rank == 0
        began = parts[0][1].created if leads else None
        own = [part for part in parts if began is not None and part[1].created >= began]
        left_over = (pod for part, pod in parts if (part, pod) not in own)
        found += [pod.model_copy(update={"terminating": True, "ready": False}) for pod in left_over]
        if own:
            found.append(_group([pod for _, pod in own], own[0][0].size))
    return found


def _group(parts: list[Pod], size: int) -> Pod:
    """The replica that a leader and its workers are."""
    leader, *workers = parts
    worst = max(parts, key=lambda part: part.crashes)
    ready, runs = [part.ready_since for part in parts], [part.running_since for part in parts]
    return leader.model_copy(
        update={
            "workers": tuple(workers),
            "workers_to_come": max(0, size - len(parts)),
            "bound": all(part.bound for part in parts),
            "gated": any(part.gated for part in parts),
            "other_gates": tuple(dict.fromkeys(gate for part in parts for gate in part.other_gates)),
            "ready": len(parts) >= size and all(part.ready for part in parts),
            "ready_since": None if None in ready else max(map(str, ready)),
            "running_since": None if None in runs else max(map(str, runs)),
            "terminating": any(part.terminating for part in parts),
            "trouble": next((part.trouble for part in parts if part.trouble is not None), None),
            "crashes": worst.crashes,
            "last_words": worst.last_words,
        }
    )


def pod_of(
    item: Json, *, plan_label: str, namespace: str, nodes: Mapping[str, Node] | None, endpoints: Collection[Endpoint]
) -> Pod | None:
    """The facts of a Pod for one plan; None if it does not matter to that plan."""
    seen = seen_pod(item)
    if seen is None:
        return None
    return seen.for_plan(plan_label=plan_label, namespace=namespace, nodes=nodes, endpoints=endpoints)


def pod_gpus(item: Json) -> int:
    """The GPUs that the scheduler counts for a pod: the sum of its containers, or one init container if that is more."""
    spec = item.get("spec") or {}

    def of(containers: Iterable[Json]) -> list[int]:
        asked = (container.get("resources") or {} for container in containers)
        return [
            sum(
                whole(amount)
                for name, amount in {**(item.get("limits") or {}), **(item.get("requests") or {})}.items()
                if names.is_gpu_resource(name)
            )
            for item in asked
        ]

    return max(sum(of(spec.get("containers") or ())), *of(spec.get("initContainers") or ()), 0)


def asked_devices(text: str | None) -> int:
    """The devices that the claim of a pod of ours asks for, by the annotation that it has from its template; 0 for none."""
    try:
        return 0 if text is None else whole(json.loads(text)["count"])
    except (ValueError, TypeError, KeyError):
        return 0


def _started(status: Json) -> bool:
    containers = status.get("containerStatuses") or ()
    return bool(containers) and all(container.get("started") for container in containers)


def _ready_condition_since(status: Json, value: str) -> str | None:
    """RFC 3339; since when the condition Ready has this value. An unknown one counts as False."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready" and (condition.get("status") == "True") == (value == "True"):
            since = condition.get("lastTransitionTime")
            return str(since) if since else None
    return None


def _first_start(status: Json) -> Json:
    """The fields ``ready_since`` and ``running_since``; none once a container began again."""
    containers = status.get("containerStatuses") or ()
    if any(container.get("restartCount") for container in containers):
        return {}
    runs = [((container.get("state") or {}).get("running") or {}).get("startedAt") for container in containers]
    return {
        "ready_since": _ready_condition_since(status, "True"),
        "running_since": max(map(str, runs)) if runs and all(runs) else None,
    }


def _crashes(status: Json) -> Json:
    """The fields ``crashes`` and ``last_words`` by the container that ended most often; none for a pod that is ready now."""
    if condition_of(status, "Ready") == "True":
        return {}
    found: tuple[int, str | None] = (0, None)
    for container in status.get("containerStatuses") or ():
        state, last = container.get("state") or {}, container.get("lastState") or {}
        waits = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
        ended = state.get("terminated") or last.get("terminated") or {}
        if not ended.get("exitCode") and not waits:
            continue
        crashes = int(container.get("restartCount") or 0) + (1 if waits or "terminated" in state else 0)
        message = str(ended.get("message") or "").strip()[-200:]
        reason = f"{ended.get('reason', 'Error')} (exit code {ended.get('exitCode', 'unknown')})"
        found = max(found, (crashes, f"{reason}: {message}" if message else reason), key=lambda item: item[0])
    return {"crashes": found[0], "last_words": found[1]} if found[0] else {}


def _trouble(status: Json) -> str | None:
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}"[:300]
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"Unschedulable: {condition.get('message', '')}"[:300]
    return None


class SeenSlice(NamedTuple):
    """An EndpointSlice of a plan's Service; it has the labels of the Service."""

    namespace: str
    plan_label: str | None
    endpoints: frozenset[Endpoint]


def seen_slice(item: Json) -> SeenSlice:
    """The plan of an EndpointSlice, and the pods that it lists as ready."""
    metadata = item["metadata"]
    label = (metadata.get("labels") or {}).get(names.PLAN_LABEL)
    return SeenSlice(metadata.get("namespace", ""), label, frozenset(endpoints_of(item)))


def endpoints_of(item: Json) -> set[Endpoint]:
    """The endpoints that an EndpointSlice lists as ready for requests."""
    service = (item["metadata"].get("labels") or {}).get(names.SERVICE_LABEL)
    found = set()
    for endpoint in item.get("endpoints") or ():
        conditions, target = endpoint.get("conditions") or {}, endpoint.get("targetRef") or {}
        ready = conditions.get("ready") is not False and not conditions.get("terminating")  # absent means ready
        if ready and service and target.get("kind") == "Pod":
            found.add((service, target.get("uid", "")))
    return found
