"""What Kueue's quota leaves a plan of each pool.

Kueue holds a pod behind its gate until the quota of its queue has room, so a plan that counts on more than the quota would wait
for ever while other pools are free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.model import names
from servingplan.model.times import seconds_since
from servingplan.model.world import FlavorQuota, LiveObject, Observation
from servingplan.planning.pools import Pool, PoolNode, SharedQuota

Flavors = tuple[FlavorQuota, ...]
MOST_UNIONS = 64
"""Unions of flavors that several pools may draw on. Flavors that nest, or that no two pools share in part, make one for each
pool at most."""

JUST_MADE_SECONDS = 30.0
"""How long a new pod behind a gate counts as one that holds quota: Kueue reserves the quota first and opens the gate after."""


def with_quotas(pools: tuple[Pool, ...], world: Observation) -> tuple[Pool, ...]:
    """The pools with the GPUs that the plan's queue lets it hold in each and in several together.

    A pool draws on the flavors that its nodes may be of. Of a set of flavors the plan has what is there, less what others hold:
    what is reserved, less what may be reserved for the plan's own pods. The cap of one pool counts what the plan holds in
    other pools as taken, so the plan moves from pool to pool only as far as the quota is free: Kueue would not admit the
    successor before its predecessor is gone.
    """
    if world.quota is None:
        return pools
    drawn = {pool.name: _drawn(pool, world.quota, world) for pool in pools if pool.spec.dra is None}
    bounded = {name: flavors for name, flavors in drawn.items() if all(item.most is not None for item in flavors)}
    shared = tuple(_shared(pools, bounded, world))
    return tuple(
        replace(
            pool,
            quota_gpus=_left(bounded[pool.name], (pool,), world) if pool.name in bounded else None,
            shared_quotas=tuple(item for item in shared if pool.name in item.pools),
        )
        for pool in pools
    )


def _drawn(pool: Pool, quota: tuple[FlavorQuota, ...], world: Observation) -> Flavors:
    resource = pool.spec.resource_name
    return tuple(item for item in quota if item.resource == resource and _fits(item, pool.spec, pool.nodes, world))


def _shared(pools: tuple[Pool, ...], drawn: Mapping[str, Flavors], world: Observation) -> Iterator[SharedQuota]:
    """The limits of several pools together: one for each union of the flavors of pools that overlap.

    With one limit for each such union, amounts keep to all limits exactly if some distribution over the flavors exists (Gale,
    A theorem on flows in networks, 1957). Beyond ``MOST_UNIONS``, the larger ones are left out.
    """
    unions = sorted({frozenset(map(_key, flavors)) for flavors in drawn.values() if flavors}, key=sorted)
    for left, right in _pairs_as_they_come(unions):
        if left & right and left | right not in unions and len(unions) < MOST_UNIONS:
            unions.append(left | right)
    for union in unions:
        members = tuple(
            pool for pool in pools if drawn.get(pool.name) and union.issuperset(map(_key, drawn[pool.name]))
        )
        if len(members) > 1:
            flavors = {_key(item): item for pool in members for item in drawn[pool.name]}
            yield SharedQuota(tuple(pool.name for pool in members), _left(tuple(flavors.values()), members, world))


def _pairs_as_they_come[T](items: list[T]) -> Iterator[tuple[T, T]]:
    """All pairs of a list that may grow meanwhile."""
    second = 1
    while second < len(items):
        for first in range(second):
            yield items[first], items[second]
        second += 1


def _key(item: FlavorQuota) -> tuple[str, str]:
    return item.flavor, item.resource


def _left(flavors: Flavors, pools: tuple[Pool, ...], world: Observation) -> int:
    """GPUs that the plan may hold of the flavors on the pools, those that it holds included."""
    most, reserved = sum(item.most or 0 for item in flavors), sum(item.reserved for item in flavors)
    return max(0, most - max(0, reserved - _may_be_reserved(pools, world)))


def _fits(item: FlavorQuota, pool: NodePool, nodes: tuple[PoolNode, ...], world: Observation) -> bool:
    """Whether nodes of the pool are of the flavor. A label that nobody has told of yet may be the flavor's."""
    found = world.pool(pool.name)
    template = found.template.labels if found is not None else {}
    shown = [{**template, **node.node.labels, **pool.node_selector} for node in nodes]
    told = {**template, **pool.node_selector}
    return any(item.node_labels.items() <= labels.items() for labels in shown) or (
        not nodes and all(told.get(key, value) == value for key, value in item.node_labels.items())
    )


def _may_be_reserved(pools: tuple[Pool, ...], world: Observation) -> int:
    """GPUs that may be reserved for the plan's pods on the pools' nodes, and for those that wait for one of these.

    New pods behind a gate count as far as they are not instead of pods that end, which hold their quota until they are gone.
    """
    here = {node.name for pool in pools for node in pool.nodes}
    names_here = {pool.name for pool in pools}
    behind = {item.name: item for item in world.deployments()}
    certain: Counter[str] = Counter()
    young: Counter[str] = Counter()
    replicas: Counter[str] = Counter()
    for pod in world.pods:
        if pod.deployment is None or pod.namespace != world.plan.namespace:
            continue
        elsewhere = _belongs_elsewhere(names_here, behind.get(pod.deployment))
        gpus = sum(part.gpus for part in pod.parts if (not elsewhere if part.node is None else part.node in here))
        if not pod.other_gates:
            certain[pod.deployment] += gpus
        elif seconds_since(pod.created, world.now) <= JUST_MADE_SECONDS:
            young[pod.deployment] += gpus
        else:
            continue
        replicas[pod.deployment] += gpus > 0
    ours = 0
    for name, gpus in (certain + young).items():
        wanted = behind[name].manifest.get("spec", {}).get("replicas", 1) if name in behind else replicas[name]
        ours += max(certain[name], min(gpus, gpus * wanted // max(1, replicas[name])))
    return ours


def _belongs_elsewhere(pools: Collection[str], workload: LiveObject | None) -> bool:
    """Whether the pods of a workload belong on none of the pools. Those of groups may belong on two."""
    if workload is None or workload.kind != names.DEPLOYMENT:
        return False
    labels = workload.manifest.get("metadata", {}).get("labels") or {}
    return labels.get(names.POOL_LABEL) not in (None, *map(names.label_value, pools))


def quota_lines(pools: Iterable[Pool], queue: str | None) -> list[str]:
    """The pools of which the quota has less than they could give, alone or together, for people, one a line."""
    room = {pool.name: _gpus_at_most(pool) for pool in pools}
    least = {pool.name: min(room[pool.name], pool.quota_gpus or 0) for pool in pools if pool.quota_gpus is not None}
    lines = [
        f"the queue {queue} has quota for {pool.quota_gpus} GPUs in {pool.name}"
        for pool in pools
        if pool.quota_gpus is not None and pool.quota_gpus < room[pool.name]
    ]
    shared = dict.fromkeys(item for pool in pools for item in pool.shared_quotas)
    return lines + [
        f"the queue {queue} has quota for {item.gpus} GPUs in {', '.join(item.pools)} together"
        for item in shared
        if item.gpus < sum(least.get(name, 0) for name in item.pools)
    ]


def _gpus_at_most(pool: Pool) -> int:
    """GPUs that the pool could give."""
    if pool.spec.resize is not None:
        return pool.most_nodes * pool.gpus_per_node
    return sum(node.free_gpus for node in pool.usable_nodes)
