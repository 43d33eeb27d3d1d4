"""Placement: the node on which each replica of a pool belongs, so that the packing that the plan counts on is reached.

Replicas keep their node if they may stay there. The others are placed by tightest fit, the largest first, on nodes that exist
and on nodes still to come. A replica over several nodes gets all of them, in one zone, or none: free nodes are kept for it
until the last one is free. If one replica is left over (fragmentation), the plan's own node contents are assigned to the nodes
with which they overlap most, and replicas that do not fit into these have to move.

Where a model is to be spread over the values of a label, its new replicas go to the value with the fewest of them, as long as
this costs nobody a place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from servingplan.model.fleet import NodeGroup
from servingplan.model.world import Pod
from servingplan.planning.layouts import ZONE_LABEL
from servingplan.planning.pools import Pool, PoolNode


@dataclass(frozen=True)
class Spread:
    """How the replicas of a model are spread over nodes."""

    model: str
    key: str
    """A label of nodes. Those without it are one place."""
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    """The pods of the model in other pools, by value of the label."""


@dataclass(frozen=True)
class Wanted:
    """What the plan wants of one pool."""

    replicas: Mapping[str, int]
    """The number of replicas by Deployment."""
    gpus: Mapping[str, int]
    """The GPUs of one pod, by Deployment, for all that have pods or are wanted."""
    nodes: int
    groups: tuple[NodeGroup, ...]
    """The contents of nodes in the plan. Those of other pools may be among them."""
    pods: Mapping[str, int] = field(default_factory=dict)
    """The pods of one replica, each on a node of its own, by Deployment; 1 if it is not given."""

    spread: Mapping[str, Spread] = field(default_factory=dict)
    """How replicas are spread, by Deployment. Those that are not given fill nodes."""

    def pods_of(self, deployment: str) -> int:
        """The pods of one replica, which is also its number of nodes."""
        return self.pods.get(deployment, 1)


@dataclass(frozen=True)
class Assignment:
    """A gated replica and the nodes on which it belongs."""

    pod: Pod
    nodes: tuple[str, ...]
    """One node for each of its pods."""
    free_now: bool
    """Whether all of these nodes have the GPUs free now, and no gate of others holds the replica."""


@dataclass(frozen=True)
class Placement:
    """Where the pods of one pool belong."""

    stay: tuple[Pod, ...]
    """The wanted pods on a node where they may stay."""
    assigned: tuple[Assignment, ...]
    """The gated replicas that belong on nodes that exist."""
    movers: tuple[Pod, ...]
    """The wanted pods on a node where they may not stay. Each needs a successor before it is removed."""
    surplus: tuple[Pod, ...]
    """The pods beyond what the plan wants."""
    leaving: tuple[str, ...]
    """The nodes that the plan does without."""
    unplaced: int
    """The number of wanted replicas whose node does not exist yet."""
    kept: frozenset[str] = frozenset()
    """Nodes with free GPUs that are kept until the other nodes of one replica are free."""
    blocked: tuple[int, ...] = ()
    """The GPUs of each replica, existing or to be made, whose place is held by others that serve and do not leave."""
    to_come: Mapping[str, int] = field(default_factory=dict)
    """The GPUs on each node that planned replicas will hold which do not yet."""


class _Crowd:
    """How many pods of each model are at each value of the label over which it is spread."""

    def __init__(self, pool: Pool, wanted: Wanted) -> None:
        self._spread = wanted.spread
        self._labels = {node.name: node.node.labels for node in pool.nodes}
        self._pods = {item.model: Counter(item.elsewhere) for item in wanted.spread.values()}

    def of(self, deployment: str, node: str) -> int:
        """The pods of the Deployment's model where this node is; 0 if it is not spread."""
        spread = self._spread.get(deployment)
        return 0 if spread is None else self._pods[spread.model][self._place(node, spread)]

    def add(self, deployment: str, nodes: Collection[str]) -> None:
        """Count a replica of the Deployment on these nodes."""
        spread = self._spread.get(deployment)
        if spread is not None:
            self._pods[spread.model].update(self._place(node, spread) for node in nodes)

    def _place(self, node: str, spread: Spread) -> str:
        return self._labels.get(node, {}).get(spread.key, "")


class _Placed(NamedTuple):
    """A replica, existing or to be made, and its nodes."""

    gpus: int
    """The GPUs of each of its pods."""
    pod: Pod | None
    """The replica; None if it is still to be made."""
    nodes: tuple[str, ...]
    """Those of its nodes that exist."""
    to_come: bool = False
    """Whether some of its nodes are still to come."""


def place(pool: Pool, pods: tuple[Pod, ...], wanted: Wanted, to_leave: frozenset[str] = frozenset()) -> Placement:
    """The placement of one pool's pods.

    ``pods``: the plan's pods of this pool that are not being deleted. ``to_leave``: cordoned nodes whose replicas move to
    others.
    """
    packed = _packed(pool, pods, replace(wanted, spread={}), to_leave)
    spread = _packed(pool, pods, wanted, to_leave) if wanted.spread else packed
    return spread if _cost(spread) <= _cost(packed) else packed


def _cost(placement: Placement) -> tuple[int, ...]:
    """What a placement costs those who serve, and those who wait; less is better."""
    waiting = sum(not item.free_now for item in placement.assigned)
    return len(placement.movers), placement.unplaced, len(placement.blocked), waiting


def _packed(pool: Pool, pods: tuple[Pod, ...], wanted: Wanted, to_leave: frozenset[str]) -> Placement:
    """The placement that spreads replicas as ``wanted`` says."""
    nodes = _chosen_nodes(pool, pods, wanted, to_leave)
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
    """The order in which replicas are kept: those that serve on a node that stays, then those that are or may be placed on
    such a node, then the oldest.

    A gated pod comes before one that serves on a node that is to be left, because it is the successor of that one.
    """
    return (
        0 if pod.ready and pod.draining_since is None and here else 1,
        0 if here or not pod.placed else 1,
        0 if pod.ready else 1,
        0 if pod.placed else 2 if pod.kept_back else 1,
        pod.created,
        pod.name,
    )


def _cordoned(pool: Pool, to_leave: frozenset[str]) -> set[str]:
    """The cordoned nodes on which replicas stay. They take no new replica, but what runs there goes on serving until there
    is room for a successor."""
    return {
        node.name
        for node in pool.nodes
        if node.node.ready and not node.node.disrupted and not node.node.schedulable and node.name not in to_leave
    }


def _chosen_nodes(pool: Pool, pods: tuple[Pod, ...], wanted: Wanted, to_leave: frozenset[str]) -> list[PoolNode]:
    """The nodes on which the plan stays: those that hold most of what it wants, one after the other. Of each Deployment only
    so many replicas count as are wanted. A replica over several nodes that has to leave one of them keeps none."""
    usable = {node.name: node for node in pool.usable_nodes}
    may_hold = usable.keys() | _cordoned(pool, to_leave)
    on: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        for node in pod.nodes if may_hold.issuperset(pod.nodes) else ():
            on[node].append(pod)
    left = Counter(wanted.replicas)
    kept: set[str] = set()

    def counted(name: str) -> list[Pod]:
        """The replicas of a node that count, besides those that already do."""
        new = sorted((pod for pod in on[name] if pod.uid not in kept), key=_serves_not)
        of: Counter[str] = Counter()
        found = []
        for pod in new:
            deployment = pod.deployment or ""
            of[deployment] += 1
            if of[deployment] <= left[deployment]:
                found.append(pod)
        return found

    def order(name: str) -> tuple[int, int, int, bool, int, str]:
        node = usable[name]
        held = [*counted(name), *(pod for pod in on[name] if pod.uid in kept)]
        serving = sum(pod.gpus for pod in held if not _serves_not(pod))
        gpus = sum(pod.gpus for pod in held)
        return -serving, -gpus, -node.unused_gpus, node.foreign_gpus == 0, -node.free_gpus, name

    # What a node holds of the plan only falls as others are chosen, so a place in the order that still holds is the first.
    heap = [order(name) for name in usable]
    heapify(heap)
    holding: list[PoolNode] = []
    others: list[PoolNode] = []
    while heap:
        first = heappop(heap)
        now = order(first[-1])
        if heap and now > heap[0]:
            heappush(heap, now)
            continue
        (holding if now[1] else others).append(usable[first[-1]])
        new = counted(first[-1])
        left.subtract(pod.deployment or "" for pod in new)
        kept.update(pod.uid for pod in new)
    # Nodes that hold replicas come first in any case. The others take turns by place, the emptiest first.
    crowd = _Crowd(pool, wanted)
    turn: dict[str, int] = {}
    for item in (*holding, *others):
        turn[item.name] = sum(crowd.of(deployment, item.name) for deployment in wanted.spread)
        for deployment in wanted.spread:
            crowd.add(deployment, (item.name,))
    return [*holding, *sorted(others, key=lambda item: turn[item.name])][: wanted.nodes]


def _serves_not(pod: Pod) -> bool:
    return not pod.ready or pod.draining_since is not None


def _by_tightest_fit(
    pool: Pool, pods: tuple[Pod, ...], wanted: Wanted, nodes: list[PoolNode], to_leave: frozenset[str]
) -> Placement | None:
    """The placement in which no replica moves that may stay; None if it leaves a replica over."""
    here = {node.name for node in nodes}
    tolerated = here | _cordoned(pool, to_leave)
    room = {node.name: node.free_gpus for node in nodes}
    zones = {node.name: node.node.labels.get(ZONE_LABEL, pool.spec.zone) for node in nodes}
    crowd = _Crowd(pool, wanted)
    stay: list[Pod] = []
    movers: list[Pod] = []
    surplus: list[Pod] = []
    waiting: list[tuple[int, str, Pod | None]] = []
    for deployment in _deployments(pods, wanted):
        own = sorted(
            (pod for pod in pods if pod.deployment == deployment),
            key=lambda pod: (
                *_rank(pod, pod.placed and tolerated.issuperset(pod.nodes))[:4],
                not (pod.placed and here.issuperset(pod.nodes)),
                pod.created,
                pod.name,
            ),
        )
        gpus, count = wanted.gpus[deployment], wanted.replicas.get(deployment, 0)
        surplus += own[count:]
        for pod in own[:count]:
            if not _may_stay(pod, tolerated if pod.placed else here, room):
                movers.append(pod)
                waiting.append((gpus, deployment, None))
                continue
            for node in here.intersection(pod.nodes):
                room[node] -= pod.gpus
            if pod.placed:
                stay.append(pod)
                crowd.add(deployment, pod.nodes)
            else:
                waiting.append((gpus, deployment, pod))
        waiting += [(gpus, deployment, None)] * (count - len(own))
    to_come = {f"\uffff{index}": pool.gpus_per_node for index in range(max(0, wanted.nodes - len(nodes)))}
    placed: list[_Placed] = []
    order = sorted(
        waiting,
        key=lambda item: (
            -item[0] * wanted.pods_of(item[1]),
            item[1],
            item[2] is None,
            item[2].name if item[2] else "",
        ),
    )
    for gpus, deployment, candidate in order:
        begun = () if candidate is None else candidate.nodes
        lacks = wanted.pods_of(deployment) - len(begun)
        found = _tightest(room, gpus, lacks, zones, begun, partial(crowd.of, deployment))
        coming = _tightest(to_come, gpus, lacks - len(found), {}, ())
        if len(found) + len(coming) < lacks:
            return None
        for node in found:
            room[node] -= gpus
        for node in coming:
            to_come[node] -= gpus
        crowd.add(deployment, (*begun, *found))
        placed.append(_Placed(gpus, candidate, (*begun, *found), bool(coming)))
    return _placement(pool, stay, movers, surplus, placed, here)


def _may_stay(pod: Pod, where: Collection[str], room: Mapping[str, int]) -> bool:
    """Whether a replica may stay on its nodes; True if it has none."""
    return all(node in where and room.get(node, pod.gpus) >= pod.gpus for node in pod.nodes)


def _by_groups(pool: Pool, pods: tuple[Pod, ...], wanted: Wanted) -> Placement:
    """The placement by the plan's own node contents."""
    slots = [dict(group.replicas) for group in wanted.groups if group.pool == pool.name for _ in range(group.nodes)]
    present: dict[str, Counter[str]] = {node.name: Counter() for node in pool.usable_nodes}
    for pod in pods:
        for node in pod.nodes:
            if node in present and pod.deployment is not None:
                present[node][pod.deployment] += 1
    content = _lay_over(slots, pool.usable_nodes, present, wanted.gpus)
    stay: list[Pod] = []
    movers: list[Pod] = []
    surplus: list[Pod] = []
    placed: list[_Placed] = []
    for deployment in _deployments(pods, wanted):
        gpus, each = wanted.gpus[deployment], wanted.pods_of(deployment)
        own = sorted(
            (pod for pod in pods if pod.deployment == deployment),
            key=lambda pod: _rank(pod, pod.placed and content.keys() >= set(pod.nodes)),
        )
        places = {name: slot.get(deployment, 0) for name, slot in content.items()}
        elsewhere: list[Pod] = []
        for pod in own:
            if pod.placed and all(places.get(node, 0) > 0 for node in pod.nodes):
                for node in pod.nodes:
                    places[node] -= 1
                stay.append(pod)
            else:
                elsewhere.append(pod)
        left = max(0, wanted.replicas.get(deployment, 0) - (len(own) - len(elsewhere)))
        free = [name for name in sorted(places) for _ in range(places[name])]
        elsewhere.sort(key=lambda pod: bool(pod.nodes))  # gated ones first
        surplus += elsewhere[left:]
        to_place = [*elsewhere[:left], *[None] * max(0, left - len(elsewhere))]
        for candidate in to_place:
            nodes, free = tuple(free[:each]), free[each:]
            moves = candidate is not None and candidate.nodes
            if candidate is not None and candidate.nodes:
                movers.append(candidate)
            placed.append(_Placed(gpus, None if moves else candidate, nodes, len(nodes) < each))
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


def _tightest(
    room: Mapping[str, int],
    need: int,
    count: int,
    zones: Mapping[str, str | None],
    begun: tuple[str, ...],
    crowd: Callable[[str], int] = lambda _: 0,
) -> tuple[str, ...]:
    """So many nodes with this much room each, those with the least ``crowd`` and then the fullest first; fewer where there are
    not so many. Several are all in one zone, that of the nodes that the replica has begun on."""

    def fullness(name: str) -> tuple[int, int, str]:
        return crowd(name), room[name], name

    fitting = [name for name in room if room[name] >= need] if count else []
    if count == 1 and not begun:
        return (min(fitting, key=fullness),) if fitting else ()
    by_zone: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(fitting) - set(begun), key=fullness):
        by_zone[zones.get(name) or ""].append(name)
    asked = {zones.get(name) or "" for name in begun} or set(by_zone)
    most = max(
        (by_zone[zone] for zone in sorted(asked)),
        key=lambda names: (min(len(names), count), -sum(crowd(name) for name in names[:count])),
        default=[],
    )
    return tuple(most[:count])


def _placement(
    pool: Pool, stay: list[Pod], movers: list[Pod], surplus: list[Pod], placed: list[_Placed], here: set[str]
) -> Placement:
    unused = {node.name: node.unused_gpus for node in pool.nodes}
    soon = {
        node.name: sum(pod.gpus for pod in node.our_pods if not pod.ready or pod.draining_since is not None)
        for node in pool.nodes
    }
    assigned: list[Assignment] = []
    kept: set[str] = set()
    blocked: list[int] = []
    due: Counter[str] = Counter()
    for gpus, pod, nodes, to_come in placed:
        # Nothing makes room for a pod that somebody else keeps from coming.
        held = pod is not None and pod.kept_back
        new = [node for node in nodes if not held and (pod is None or node not in pod.nodes)]
        due.update(dict.fromkeys(new, gpus))
        free = [node for node in new if unused[node] >= gpus]
        for node in free:
            unused[node] -= gpus
        for node in set(new) - set(free):
            if unused[node] + soon[node] >= gpus:
                soon[node] -= gpus
            else:
                blocked.append(gpus)
        free_now = not held and len(free) == len(new)
        kept.update(free if to_come or not free_now else ())
        if pod is not None and not to_come:
            assigned.append(Assignment(pod, nodes, free_now))
    return Placement(
        stay=tuple(stay),
        assigned=tuple(assigned),
        movers=tuple(movers),
        surplus=tuple(surplus),
        leaving=tuple(node.name for node in pool.nodes if node.name not in here),
        unplaced=sum(item.to_come for item in placed),
        kept=frozenset(kept),
        blocked=tuple(blocked),
        to_come=due,
    )
