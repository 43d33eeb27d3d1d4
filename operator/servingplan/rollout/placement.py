"""Placement: which node each replica of a pool belongs on, so that the packing the plan counts on comes true.

Replicas that run where they may stay keep their node. The others are placed largest first into the tightest fit, over
the nodes that are there and those that are still to come. Only where that leaves one over (fragmentation) the plan's own
node contents are laid over the nodes, wherever they overlap most, and replicas that do not fit these become movers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from servingplan.model.fleet import NodeGroup
from servingplan.model.world import Pod
from servingplan.planning.pools import Pool, PoolNode


@dataclass(frozen=True)
class Wanted:
    """What the plan wants of one pool."""

    replicas: Mapping[str, int]
    """By Deployment."""
    gpus: Mapping[str, int]
    """Of one replica, for all Deployments that have pods or are wanted."""
    nodes: int
    groups: tuple[NodeGroup, ...]
    """What the plan packs on its nodes; those of other pools may be among them."""


@dataclass(frozen=True)
class Assignment:
    """A gated pod and the node that it belongs on."""

    pod: Pod
    node: str
    free_now: bool
    """The node has the GPUs unused at this moment, and nobody else's gate holds the pod."""


@dataclass(frozen=True)
class Placement:
    """Where the pods of one pool belong."""

    stay: tuple[Pod, ...]
    """Wanted, and on a node where they may stay."""
    assigned: tuple[Assignment, ...]
    """Gated pods that belong on a node that is there."""
    movers: tuple[Pod, ...]
    """Wanted, but on a node where they may not stay: each needs a successor before it goes."""
    surplus: tuple[Pod, ...]
    """Beyond what the plan wants."""
    leaving: tuple[str, ...]
    """Nodes that the plan does without."""
    unplaced: int
    """Wanted replicas whose node is not there yet."""
    blocked: tuple[int, ...] = ()
    """GPUs of each replica, there or to be made, whose place is held by others that serve and are not on their way out."""


class _Placed(NamedTuple):
    """A replica, there or to be made, and its node."""

    gpus: int
    pod: Pod | None
    """None: it is still to be made."""
    node: str | None
    """None: it is still to come."""


def place(pool: Pool, pods: tuple[Pod, ...], wanted: Wanted, to_leave: frozenset[str] = frozenset()) -> Placement:
    """The placement of one pool's pods.

    ``pods``: ours of this pool, not being deleted. ``to_leave``: cordoned nodes whose replicas move to others.
    """
    nodes = _chosen_nodes(pool, pods, wanted)
    found = _by_tightest_fit(pool, pods, wanted, nodes, to_leave)
    if found is not None and found.blocked and len(pool.usable_nodes) > len(nodes):
        # There are more nodes than the plan stays on: where these have room for all of it at once, nobody who serves has to
        # make room first.
        roomy = sorted(pool.usable_nodes, key=lambda node: (-node.unused_gpus, node.name))[: wanted.nodes]
        other = _by_tightest_fit(pool, pods, wanted, roomy, to_leave)
        if other is not None and not other.blocked:
            return other
    return found or _by_groups(pool, pods, wanted)


def _rank(pod: Pod, here: bool) -> tuple[int, int, int, int, str, str]:
    """Best to keep first: serving on a node that stays, then what is or may be put on such a node, then the oldest.

    A gated pod goes before one that serves on a node that is to be left: it is the successor of that one.
    """
    return (
        0 if pod.ready and pod.draining_since is None and here else 1,
        0 if here or pod.node is None else 1,
        0 if pod.ready else 1,
        0 if pod.node is not None else 1,
        pod.created,
        pod.name,
    )


def _chosen_nodes(pool: Pool, pods: tuple[Pod, ...], wanted: Wanted) -> list[PoolNode]:
    """The nodes that the plan stays on: those that hold most of what it wants."""
    held: dict[str, int] = defaultdict(int)
    serving: dict[str, int] = defaultdict(int)
    for pod in pods:
        if pod.node is not None and wanted.replicas.get(pod.deployment or "", 0) > 0:
            held[pod.node] += pod.gpus
            serving[pod.node] += pod.gpus if pod.ready else 0
    usable = sorted(
        pool.usable_nodes,
        key=lambda node: (
            -serving[node.name],
            -held[node.name],
            -node.unused_gpus,
            node.foreign_gpus == 0,
            -node.free_gpus,
            node.name,
        ),
    )
    return usable[: wanted.nodes]


def _by_tightest_fit(
    pool: Pool, pods: tuple[Pod, ...], wanted: Wanted, nodes: list[PoolNode], to_leave: frozenset[str]
) -> Placement | None:
    """The placement that moves nobody who may stay; None where it leaves a replica over."""
    here = {node.name for node in nodes}
    # A cordoned node takes nobody new, but who runs there serves on until there is room for a successor.
    tolerated = here | {
        node.name
        for node in pool.nodes
        if node.node.ready and not node.node.disrupted and not node.node.schedulable and node.name not in to_leave
    }
    room = {node.name: node.free_gpus for node in nodes}
    stay: list[Pod] = []
    movers: list[Pod] = []
    surplus: list[Pod] = []
    waiting: list[tuple[int, str, Pod | None]] = []
    for deployment in _deployments(pods, wanted):
        own = sorted(
            (pod for pod in pods if pod.deployment == deployment),
            key=lambda pod: (*_rank(pod, pod.node in tolerated)[:4], pod.node not in here, pod.created, pod.name),
        )
        gpus, count = wanted.gpus[deployment], wanted.replicas.get(deployment, 0)
        surplus += own[count:]
        for pod in own[:count]:
            if pod.node is None:
                waiting.append((gpus, deployment, pod))
            elif pod.node in tolerated and room.get(pod.node, pod.gpus) >= pod.gpus:
                stay.append(pod)
                if pod.node in room:
                    room[pod.node] -= pod.gpus
            else:
                movers.append(pod)
                waiting.append((gpus, deployment, None))
        waiting += [(gpus, deployment, None)] * (count - len(own))
    to_come = {f"\uffff{index}": pool.gpus_per_node for index in range(max(0, wanted.nodes - len(nodes)))}
    placed: list[_Placed] = []
    order = sorted(waiting, key=lambda item: (-item[0], item[1], item[2] is None, item[2].name if item[2] else ""))
    for gpus, _, candidate in order:
        node = _tightest(room, gpus) or _tightest(to_come, gpus)
        if node is None:
            return None
        (room if node in room else to_come)[node] -= gpus
        placed.append(_Placed(gpus, candidate, node if node in room else None))
    return _placement(pool, stay, movers, surplus, placed, here)


def _by_groups(pool: Pool, pods: tuple[Pod, ...], wanted: Wanted) -> Placement:
    """The placement by the plan's own node contents."""
    slots = [dict(group.replicas) for group in wanted.groups if group.pool == pool.name for _ in range(group.nodes)]
    present: dict[str, Counter[str]] = {node.name: Counter() for node in pool.usable_nodes}
    for pod in pods:
        if pod.node in present and pod.deployment is not None:
            present[pod.node][pod.deployment] += 1
    content = _lay_over(slots, pool.usable_nodes, present, wanted.gpus)
    stay: list[Pod] = []
    movers: list[Pod] = []
    surplus: list[Pod] = []
    placed: list[_Placed] = []
    for deployment in _deployments(pods, wanted):
        gpus = wanted.gpus[deployment]
        own = sorted(
            (pod for pod in pods if pod.deployment == deployment), key=lambda pod: _rank(pod, pod.node in content)
        )
        places = {name: slot.get(deployment, 0) for name, slot in content.items()}
        elsewhere: list[Pod] = []
        for pod in own:
            if pod.node is not None and places.get(pod.node, 0) > 0:
                places[pod.node] -= 1
                stay.append(pod)
            else:
                elsewhere.append(pod)
        left = max(0, wanted.replicas.get(deployment, 0) - (len(own) - len(elsewhere)))
        free = [name for name in sorted(places) for _ in range(places[name])]
        elsewhere.sort(key=lambda pod: pod.node is not None)  # gated ones first
        surplus += elsewhere[left:]
        for pod in elsewhere[:left]:
            node = free.pop(0) if free else None
            if pod.node is not None:
                movers.append(pod)
            placed.append(_Placed(gpus, pod if pod.node is None else None, node))
        to_make = max(0, left - len(elsewhere))
        placed += [_Placed(gpus, None, free.pop(0) if free else None) for _ in range(to_make)]
    return _placement(pool, stay, movers, surplus, placed, set(content))


def _deployments(pods: tuple[Pod, ...], wanted: Wanted) -> list[str]:
    return sorted({*wanted.replicas, *(pod.deployment or "" for pod in pods)})


def _lay_over(
    slots: list[dict[str, int]],
    nodes: tuple[PoolNode, ...],
    present: Mapping[str, Counter[str]],
    gpus: Mapping[str, int],
) -> dict[str, dict[str, int]]:
    """Contents by node: the pair with the largest overlap first. O(slots x nodes x log)."""
    pairs = []
    for index, slot in enumerate(slots):
        need = sum(gpus[name] * count for name, count in slot.items())
        for node in nodes:
            if node.free_gpus >= need:
                overlap = sum(gpus[name] * min(count, present[node.name][name]) for name, count in slot.items())
                pairs.append((-overlap, node.free_gpus - need, -need, node.name, index))
    content: dict[str, dict[str, int]] = {}
    used: set[int] = set()
    for _, _, _, name, index in sorted(pairs):
        if name not in content and index not in used:
            content[name] = slots[index]
            used.add(index)
    return content


def _tightest(room: Mapping[str, int], need: int) -> str | None:
    fitting = [name for name in room if room[name] >= need]
    return min(fitting, key=lambda name: (room[name], name)) if fitting else None


def _placement(
    pool: Pool, stay: list[Pod], movers: list[Pod], surplus: list[Pod], placed: list[_Placed], here: set[str]
) -> Placement:
    unused = {node.name: node.unused_gpus for node in pool.nodes}
    soon = {
        node.name: sum(pod.gpus for pod in node.our_pods if not pod.ready or pod.draining_since is not None)
        for node in pool.nodes
    }
    assigned = []
    blocked = []
    for gpus, pod, node in placed:
        if node is None:
            continue
        held = pod is not None and bool(pod.other_gates)
        free_now = unused[node] >= gpus and not held
        if held:
            pass  # nothing makes room for a pod that somebody else keeps from coming
        elif free_now:
            unused[node] -= gpus
        elif unused[node] + soon[node] >= gpus:
            soon[node] -= gpus
        else:
            blocked.append(gpus)
        if pod is not None:
            assigned.append(Assignment(pod, node, free_now))
    return Placement(
        stay=tuple(stay),
        assigned=tuple(assigned),
        movers=tuple(movers),
        surplus=tuple(surplus),
        leaving=tuple(node.name for node in pool.nodes if node.name not in here),
        unplaced=sum(1 for item in placed if item.node is None),
        blocked=tuple(blocked),
    )
