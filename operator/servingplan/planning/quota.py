"""What Kueue's quota leaves a plan of each pool.

Kueue holds a pod behind its gate until the quota of its queue has room, so a plan that counts on more than the quota would wait
for ever while other pools are free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from servingplan.api.v1alpha1 import NodePool
from servingplan.model import names
from servingplan.model.times import seconds_since
from servingplan.model.world import FlavorQuota, LiveObject, Observation
from servingplan.planning.pools import Pool, PoolNode

JUST_MADE_SECONDS = 30.0
"""How long a new pod behind a gate counts as one that holds quota: Kueue reserves the quota first and opens the gate after."""


def quota_gpus(pool: NodePool, resource: str, nodes: tuple[PoolNode, ...], world: Observation) -> int | None:
    """GPUs that the plan's queue lets it hold in a pool, those that it holds included; None where nothing bounds them.

    What others hold of a flavor is what is reserved of it, less what the plan's own pods may hold.
    """
    if world.quota is None:
        return None
    fitting = [item for item in world.quota if item.resource == resource and _fits(item, pool, nodes, world)]
    if any(item.most is None for item in fitting):
        return None
    most = sum(item.most or 0 for item in fitting)
    return max(0, most - max(0, sum(item.reserved for item in fitting) - _may_be_reserved(pool, nodes, world)))


def _fits(item: FlavorQuota, pool: NodePool, nodes: tuple[PoolNode, ...], world: Observation) -> bool:
    """Whether nodes of the pool are of the flavor. A label that nobody has told of yet may be the flavor's."""
    found = world.pool(pool.name)
    template = found.template.labels if found is not None else {}
    shown = [{**template, **node.node.labels, **pool.node_selector} for node in nodes]
    told = {**template, **pool.node_selector}
    return any(item.node_labels.items() <= labels.items() for labels in shown) or (
        not nodes and all(told.get(key, value) == value for key, value in item.node_labels.items())
    )


def _may_be_reserved(pool: NodePool, nodes: tuple[PoolNode, ...], world: Observation) -> int:
    """GPUs that may be reserved for the plan's pods on the pool's nodes, and for those that wait for one of these.

    New pods behind a gate count as far as they are not instead of pods that end, which hold their quota until they are gone.
    """
    here = {node.name for node in nodes}
    behind = {item.name: item for item in world.deployments()}
    certain: Counter[str] = Counter()
    young: Counter[str] = Counter()
    replicas: Counter[str] = Counter()
    for pod in world.pods:
        if pod.deployment is None or pod.namespace != world.plan.namespace:
            continue
        elsewhere = _belongs_elsewhere(pool, behind.get(pod.deployment))
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


def _belongs_elsewhere(pool: NodePool, workload: LiveObject | None) -> bool:
    """Whether the pods of a workload belong on another pool. Those of groups may belong on two."""
    if workload is None or workload.kind != names.DEPLOYMENT:
        return False
    labels = workload.manifest.get("metadata", {}).get("labels") or {}
    return labels.get(names.POOL_LABEL) not in (None, names.label_value(pool.name))


def quota_lines(pools: Iterable[Pool], queue: str | None) -> list[str]:
    """The pools of which the quota has less than they could give, for people, one a line."""
    return [
        f"the queue {queue} has quota for {pool.quota_gpus} GPUs in {pool.name}"
        for pool in pools
        if pool.quota_gpus is not None and pool.quota_gpus < _gpus_at_most(pool)
    ]


def _gpus_at_most(pool: Pool) -> int:
    """GPUs that the pool could give."""
    if pool.spec.resize is not None:
        return pool.most_nodes * pool.gpus_per_node
    return sum(node.free_gpus for node in pool.usable_nodes)
