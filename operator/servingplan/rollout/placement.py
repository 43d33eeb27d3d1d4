"""Seats: which node each replica of a pool belongs on, so that the packing the plan counts on comes true.

Replicas that sit where they may stay keep their seats. The others get seats largest first into the tightest fit, over
the nodes that are there and those that are still to come. Only where that leaves one over (fragmentation) the plan's own
node contents are laid over the nodes, wherever they overlap most, and replicas that are in the way become movers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from servingplan.model.fleet import NodeGroup
from servingplan.model.world import Pod
from servingplan.planning.pools import Pool, PoolNode


@dataclass(frozen=True)
class Seat:
    """A gated pod and its node."""

    pod: Pod
    node: str
    free_now: bool
    """The node has the GPUs unused at this moment, and nobody else's gate holds the pod."""


@dataclass(frozen=True)
class Seating:
    """Where the pods of one pool belong."""

    stay: tuple[Pod, ...]
    """Wanted, and placed where they may stay."""
    seats: tuple[Seat, ...]
    """Gated pods with a seat on a node that is there."""
    movers: tuple[Pod, ...]
    """Wanted, but on a node where they may not stay: each needs a successor before it goes."""
    surplus: tuple[Pod, ...]
    """Beyond what the plan wants."""
    leaving: tuple[str, ...]
    """Nodes that the plan does without."""
    unseated: int
    """Wanted replicas whose node is not there yet."""
    blocked: tuple[int, ...] = ()
    """GPUs of each replica, there or to be made, whose place is held by others that serve and are not on their way out."""


def seat_pool(
    *,
    pool: Pool,
    pods: tuple[Pod, ...],
    target: Mapping[str, int],
    gpus: Mapping[str, int],
    size: int,
    groups: tuple[NodeGroup, ...],
    to_leave: frozenset[str] = frozenset(),
) -> Seating:
    """Seats for the pods of one pool.

    ``pods``: ours of this pool, not being deleted. ``target``: copies by Deployment; ``gpus`` of one copy, for all
    Deployments that have pods or a target. ``size``: nodes of the plan. ``groups``: its node contents.
    ``to_leave``: cordoned nodes whose replicas move to others.
    """
    nodes = _chosen_nodes(pool, pods, target, size)
    first = _seat(pool, pods, target, gpus, nodes, size, to_leave)
    if first is not None:
        return first
    return _seat_by_groups(pool, pods, target, gpus, size, groups)


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


def _chosen_nodes(pool: Pool, pods: tuple[Pod, ...], target: Mapping[str, int], size: int) -> list[PoolNode]:
    """The nodes that the plan stays on: those that hold most of what it wants."""
    wanted: dict[str, int] = defaultdict(int)
    serving: dict[str, int] = defaultdict(int)
    for pod in pods:
        if pod.node is not None and target.get(pod.deployment or "", 0) > 0:
            wanted[pod.node] += pod.gpus
            serving[pod.node] += pod.gpus if pod.ready else 0
    usable = sorted(
        pool.usable_nodes,
        key=lambda node: (
            -serving[node.name],
            -wanted[node.name],
            -node.unused_gpus,
            node.foreign_gpus == 0,
            -node.free_gpus,
            node.name,
        ),
    )
    return usable[:size]


def _seat(
    pool: Pool,
    pods: tuple[Pod, ...],
    target: Mapping[str, int],
    gpus: Mapping[str, int],
    nodes: list[PoolNode],
    size: int,
    to_leave: frozenset[str],
) -> Seating | None:
    here = {node.name for node in nodes}
    # A cordoned node takes nobody new, but who sits there serves on until there is room for a successor.
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
    for deployment in sorted({*target, *(pod.deployment or "" for pod in pods)}):
        own = sorted(
            (pod for pod in pods if pod.deployment == deployment),
            key=lambda pod: (*_rank(pod, pod.node in tolerated)[:4], pod.node not in here, pod.created, pod.name),
        )
        count = target.get(deployment, 0)
        kept = 0
        for pod in own:
            if kept == count:
                surplus.append(pod)
                continue
            kept += 1
            if pod.node is None:
                waiting.append((gpus[deployment], deployment, pod))
            elif pod.node in tolerated and room.get(pod.node, pod.gpus) >= pod.gpus:
                stay.append(pod)
                if pod.node in room:
                    room[pod.node] -= pod.gpus
            else:
                movers.append(pod)
                waiting.append((gpus[deployment], deployment, None))
        waiting += [(gpus[deployment], deployment, None)] * (count - kept)
    virtual = {f"\uffff{index}": pool.gpus_per_node for index in range(max(0, size - len(nodes)))}
    assigned: list[tuple[int, Pod | None, str | None]] = []
    order = sorted(waiting, key=lambda item: (-item[0], item[1], item[2] is None, item[2].name if item[2] else ""))
    for need, _, candidate in order:
        node = _tightest(room, need) or _tightest(virtual, need)
        if node is None:
            return None
        (room if node in room else virtual)[node] -= need
        assigned.append((need, candidate, node if node in room else None))
    return _result(pool, stay, movers, surplus, assigned, here)


def _seat_by_groups(
    pool: Pool,
    pods: tuple[Pod, ...],
    target: Mapping[str, int],
    gpus: Mapping[str, int],
    size: int,
    groups: tuple[NodeGroup, ...],
) -> Seating:
    slots = [dict(group.replicas) for group in groups if group.pool == pool.name for _ in range(group.nodes)]
    present: dict[str, Counter[str]] = {node.name: Counter() for node in pool.usable_nodes}
    for pod in pods:
        if pod.node in present and pod.deployment is not None:
            present[pod.node][pod.deployment] += 1
    content = _lay_over(slots, pool.usable_nodes, present, gpus)
    stay: list[Pod] = []
    movers: list[Pod] = []
    surplus: list[Pod] = []
    assigned: list[tuple[int, Pod | None, str | None]] = []
    for deployment in sorted({*target, *(pod.deployment or "" for pod in pods)}):
        own = sorted(
            (pod for pod in pods if pod.deployment == deployment), key=lambda pod: _rank(pod, pod.node in content)
        )
        open_seats = {name: slot.get(deployment, 0) for name, slot in content.items()}
        elsewhere: list[Pod] = []
        for pod in own:
            if pod.node is not None and open_seats.get(pod.node, 0) > 0:
                open_seats[pod.node] -= 1
                stay.append(pod)
            else:
                elsewhere.append(pod)
        left = target.get(deployment, 0) - (len(own) - len(elsewhere))
        free = [name for name in sorted(open_seats) for _ in range(open_seats[name])]
        gated = [pod for pod in elsewhere if pod.node is None]
        placed = [pod for pod in elsewhere if pod.node is not None]
        for pod in [*gated, *placed]:
            if left <= 0:
                surplus.append(pod)
                continue
            left -= 1
            seat = free.pop(0) if free else None
            if pod.node is None:
                assigned.append((gpus[deployment], pod, seat))
            else:
                movers.append(pod)
                assigned.append((gpus[deployment], None, seat))
        assigned += [(gpus[deployment], None, free.pop(0) if free else None) for _ in range(max(0, left))]
    del size
    return _result(pool, stay, movers, surplus, assigned, set(content))


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


def _result(
    pool: Pool,
    stay: list[Pod],
    movers: list[Pod],
    surplus: list[Pod],
    assigned: list[tuple[int, Pod | None, str | None]],
    here: set[str],
) -> Seating:
    unused = {node.name: node.unused_gpus for node in pool.nodes}
    soon = {
        node.name: sum(pod.gpus for pod in node.our_pods if not pod.ready or pod.draining_since is not None)
        for node in pool.nodes
    }
    seats = []
    blocked = []
    for need, pod, node in assigned:
        if node is None:
            continue
        held = pod is not None and bool(pod.other_gates)
        free_now = unused[node] >= need and not held
        if held:
            pass  # nothing makes room for a pod that somebody else keeps from coming
        elif free_now:
            unused[node] -= need
        elif unused[node] + soon[node] >= need:
            soon[node] -= need
        else:
            blocked.append(need)
        if pod is not None:
            seats.append(Seat(pod, node, free_now))
    return Seating(
        stay=tuple(stay),
        seats=tuple(seats),
        movers=tuple(movers),
        surplus=tuple(surplus),
        leaving=tuple(node.name for node in pool.nodes if node.name not in here),
        unseated=sum(1 for _, _, node in assigned if node is None),
        blocked=tuple(blocked),
    )
