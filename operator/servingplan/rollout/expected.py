"""Predicts the world: right after writes, and when everything that has begun is over.

Nodes that were asked for exist, replicas with a node become ready, drains and removals end, gates of others open. Nothing
fails here. If something fails in reality, the next turn begins from what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from servingplan.model import names
from servingplan.model.actions import (
    AnyAction,
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
from servingplan.model.fleet import Fleet, ReplicaFacts
from servingplan.model.times import later
from servingplan.model.transition import PoolChange
from servingplan.model.world import DeviceClass, LiveObject, Node, Observation, Pod
from servingplan.planning.pools import Pool
from servingplan.planning.resources import shown_by
from servingplan.rollout.removal import group_index


class UnderWay(NamedTuple):
    """What has begun and is not over, by kind."""

    coming: tuple[PoolChange, ...]
    starting: dict[str, int]
    draining: dict[str, int]
    removing: dict[str, int]
    leaving: tuple[PoolChange, ...]
    held: int
    """The replicas behind a scheduling gate of others."""

    def __bool__(self) -> bool:
        """Whether anything is under way."""
        return any(self)


def under_way(world: Observation, pools: tuple[Pool, ...]) -> UnderWay:
    """What is under way in a world with these pools."""
    silent = {node.name for node in world.nodes if not node.ready}
    ours = [pod for pod in world.pods if _is_ours(pod, world) and silent.isdisjoint(pod.nodes)]
    alive = [pod for pod in ours if not pod.terminating]
    changes = [
        PoolChange(
            pool=pool.name,
            before=sum(not (item.boots or item.node.disrupted) for item in pool.nodes),
            nodes=pool.wanted,
        )
        for pool in pools
        if pool.sized_by_us
    ]
    return UnderWay(
        coming=tuple(item for item in changes if item.before < item.nodes),
        starting=_counted(pod for pod in alive if pod.placed and _starts(pod)),
        draining=_counted(pod for pod in alive if pod.ready and pod.draining_since is not None),
        removing=_counted(pod for pod in ours if pod.terminating),
        leaving=tuple(item for item in changes if item.before > item.nodes),
        held=sum(bool(pod.other_gates) for pod in alive),
    )


def written(
    world: Observation, actions: Iterable[AnyAction], *, fleet: Fleet, facts: Mapping[str, ReplicaFacts]
) -> Observation:
    """The world right after these writes: the Deployments of the fleet exist, and each has its pods."""
    pods = {pod.uid: pod for pod in world.pods}
    objects = {(item.kind, item.name): item for item in world.objects}
    pools = {item.pool: item for item in world.pools}
    for item in fleet.replica_sets:
        kind = names.LEADER_WORKER_SET if item.stages else names.DEPLOYMENT
        if (kind, item.deployment) not in objects:
            objects[kind, item.deployment] = _workload(kind, item.deployment, item.replicas)
    for action in actions:
        match action:
            case ScaleDeployment(object_kind=kind, name=name, replicas=replicas):
                live = objects[kind, name]
                manifest = {**live.manifest, "spec": {**live.manifest.get("spec", {}), "replicas": replicas}}
                objects[kind, name] = live.model_copy(update={"manifest": manifest, "replicas_owner": None})
            case DeleteObject(object_kind=kind, name=name):
                objects.pop((kind, name), None)
            case ClaimPool(pool=name, claimed_by=key):
                pools[name] = pools[name].model_copy(update={"claimed_by": key or None})
            case ResizePool(pool=name, nodes=nodes):
                pools[name] = pools[name].model_copy(update={"wanted": nodes, "asked": nodes})
            case _:
                _write_pod(pods, action, world.now)
    seen = world.model_copy(update={"objects": tuple(objects.values()), "pools": tuple(pools.values())})
    return seen.model_copy(update={"pods": _as_controllers_leave(pods, seen, facts)})


def _write_pod(pods: dict[str, Pod], action: AnyAction, now: str) -> None:
    match action:
        case PlacePod(uid=part, node=node):
            uid = next(key for key, pod in pods.items() if part in [item.uid for item in pod.parts])
            change = _placed(pods[uid], part, node, now)
        case DrainPod(uid=uid, leave_service=leaves):
            change = {"draining_since": now, "serving": not leaves, "listed": pods[uid].listed and not leaves}
        case NoteUnrouted(uid=uid):
            change = {"unrouted_since": now}
        case RestorePod(uid=uid):
            change = {"draining_since": None, "unrouted_since": None, "serving": True}
        case DeletePod(uid=uid):
            _end(pods, pods[uid])
            return
        case _:
            return
    pods[uid] = pods[uid].model_copy(update=change)


def _placed(replica: Pod, part: str, node: str, now: str) -> dict[str, Any]:
    """The changed fields of a replica after this part of it, the leader or a worker, was bound to a node."""
    if part == replica.uid:
        return {"node": node, "bound": True, "gated": False, "placed_since": now}
    workers = [
        worker.model_copy(update={"node": node, "bound": True}) if worker.uid == part else worker
        for worker in replica.workers
    ]
    return {"workers": tuple(workers)}


def _end(pods: dict[str, Pod], pod: Pod) -> None:
    """Begin the end of a pod. One that never had a node is removed at once."""
    if not pod.nodes:
        del pods[pod.uid]
    else:
        pods[pod.uid] = pod.model_copy(update={"terminating": True, "ready": False, "listed": False})


def _as_controllers_leave(
    pods: dict[str, Pod], world: Observation, facts: Mapping[str, ReplicaFacts]
) -> tuple[Pod, ...]:
    """The pods once each Deployment has as many as it asks for. They are removed in the order of ``rollout.removal``."""
    for live in world.deployments():
        if live.name not in facts or (live.manifest.get("status") or {}).get("replicaFailure"):
            continue
        replicas = int(live.manifest.get("spec", {}).get("replicas", 1))
        if live.kind == names.LEADER_WORKER_SET:
            _as_many_groups(pods, live.name, replicas, facts[live.name], world)
            continue
        active = [pod for pod in pods.values() if pod.deployment == live.name and not pod.terminating]
        number = 0
        for _ in range(replicas - len(active)):
            while (name := f"{live.name}~{number}") in pods:
                number += 1
            pods[name] = _pod(world, live.name, name, facts[live.name])
        active.sort(key=lambda pod: (pod.created, pod.name), reverse=True)
        active.sort(key=lambda pod: (pod.bound, pod.ready, pod.draining_since is None))
        for pod in active[: max(0, len(active) - replicas)]:
            _end(pods, pod)
    return tuple(pods.values())


def _as_many_groups(pods: dict[str, Pod], name: str, replicas: int, facts: ReplicaFacts, world: Observation) -> None:
    """Ends the groups of a LeaderWorkerSet from ``replicas`` on, and makes those below that are not there; one whose end is not
    over keeps its place."""
    groups = {group_index(pod): pod for pod in pods.values() if pod.deployment == name}
    for index, pod in groups.items():
        if index >= replicas and not pod.terminating:
            _end(pods, pod)
        elif pod.workers_to_come and not pod.terminating:
            ranks = range(len(pod.workers) + 1, facts.nodes)
            coming = [_pod(world, name, f"{pod.name}-{rank}~{world.now}", facts) for rank in ranks]
            change = {"workers": (*pod.workers, *coming), "workers_to_come": 0}
            pods[pod.uid] = pod.model_copy(update=change)
    for index in range(replicas):
        if index not in groups:
            leader = f"{name}-{index}"
            uid = f"{leader}~{world.now}"
            workers = [_pod(world, name, f"{leader}-{rank}", facts) for rank in range(1, facts.nodes)]
            pods[uid] = _pod(world, name, leader, facts).model_copy(update={"uid": uid, "workers": tuple(workers)})


def _pod(world: Observation, deployment: str, name: str, facts: ReplicaFacts) -> Pod:
    """A pod that was just created."""
    return Pod(
        namespace=world.plan.namespace,
        name=name,
        uid=name,
        gpus=facts.gpus // facts.nodes,
        created=world.now,
        deployment=deployment,
        gated=True,
    )


def settled(world: Observation, pools: tuple[Pool, ...], *, seconds: float, follows: bool) -> Observation:
    """The world some seconds later, when everything that was under way is over. ``follows``: whether the gateway can be
    asked and has taken the earlier weights."""
    nodes = {node.name: node for node in world.nodes}
    objects = {item.pool: item for item in world.pools}
    for pool in pools:
        if pool.sized_by_us:
            count = _provide(nodes, pool, world.now, world.device_classes)
            if objects[pool.name].actual is not None:
                objects[pool.name] = objects[pool.name].model_copy(update={"actual": count})
    pods = []
    for pod in world.pods:
        there = [nodes[name] for name in pod.nodes if name in nodes]
        gone, ready = len(there) < len(pod.nodes), all(node.ready for node in there)
        if not _is_ours(pod, world):
            pods.append(pod)
        elif not gone and not (pod.terminating and ready):
            pods.append(_over(pod, world.now, ready=pod.placed and ready, follows=follows))
    return world.model_copy(
        update={
            "now": later(world.now, seconds),
            "nodes": tuple(nodes.values()),
            "pods": tuple(pods),
            "pools": tuple(objects.values()),
        }
    )


def _over(pod: Pod, now: str, *, ready: bool, follows: bool) -> Pod:
    """A replica of the plan when what it was doing is over. ``ready``: it has its nodes, and these are ready."""
    change: dict[str, Any] = {"other_gates": (), "requests_inside": None, "unasked": False}
    if pod.draining_since is not None:
        change["unrouted_since"] = pod.unrouted_since or (now if follows else None)
    elif ready:
        change |= {"bound": True, "ready": True, "listed": True, "started": True, "trouble": None}
    return pod.model_copy(update=change)


def _provide(nodes: dict[str, Node], pool: Pool, now: str, classes: tuple[DeviceClass, ...]) -> int:
    """What the autoscaler or the cloud does with the nodes of a pool. Booting nodes become ready, and nodes are added or
    removed until there are as many as wanted; empty ones are removed first. Also returns the resulting number of nodes."""
    for item in pool.nodes:
        if item.node.disrupted:
            del nodes[item.name]
        elif item.boots:
            nodes[item.name] = _like(pool, item.node, item.name, now, classes)
    there = [item for item in pool.nodes if item.name in nodes]
    empty = [item for item in there if not item.our_pods]
    empty.sort(key=lambda item: (item.node.schedulable, item.foreign_gpus > 0, item.name))
    given_back = empty[: max(0, len(there) - pool.wanted)]
    for item in given_back:
        del nodes[item.name]
    number = 0
    for _ in range(pool.wanted - len(there)):
        while (name := f"{pool.name}~{number}") in nodes:
            number += 1
        sample = next((item.node for item in there if item.node.usable and not item.contradicts), None)
        nodes[name] = _like(pool, sample, name, now, classes)
    return max(len(there) - len(given_back), pool.wanted)


def _like(pool: Pool, sample: Node | None, name: str, now: str, classes: tuple[DeviceClass, ...]) -> Node:
    """A node of a pool that is ready and shows its GPUs."""
    labels: dict[str, str] = {}
    if sample is not None:
        labels = dict(sample.labels)
    elif pool.object is not None:
        named = pool.object.node_label
        labels = {**pool.object.template.labels, **({named[0]: named[1]} if named is not None else {})}
    resource = pool.spec.resource_name or names.GPU_RESOURCE
    return Node(
        name=name,
        labels={**labels, **pool.spec.node_selector},
        **shown_by(pool.spec, resource, pool.gpus_per_node, classes),
        ready=True,
        created=now,
    )


def _starts(pod: Pod) -> bool:
    return not pod.reachable and pod.draining_since is None


def _is_ours(pod: Pod, world: Observation) -> bool:
    return pod.deployment is not None and pod.namespace == world.plan.namespace


def _counted(pods: Iterable[Pod]) -> dict[str, int]:
    counts = Counter(pod.deployment or "" for pod in pods)
    return dict(sorted(counts.items()))


def _workload(kind: str, name: str, replicas: int) -> LiveObject:
    manifest = {"metadata": {"name": name}, "spec": {"replicas": replicas}}
    return LiveObject(kind=kind, name=name, uid=name, ours=True, owner="this plan", manifest=manifest)
