"""Small worlds for the tests of single steps."""

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.model.fleet import Fleet, NodeGroup, ReplicaFacts, ReplicaSet
from servingplan.model.world import Node, Observation, PlanObject, Pod, PoolObject
from servingplan.planning.pools import Pool, PoolNode
from servingplan.rollout.placement import Placement

NOW = "2026-01-01T01:00:00Z"


def node(name, gpus=8, **more):
    return Node(name=name, labels={"pool": "h100"}, gpus=gpus, ready=True, **more)


def pod(name, on=None, *, of="d", gpus=1, ready=None, listed=None, bound=True, created="2026-01-01T00:00:00Z", **more):
    """One of ours; ready if it is bound, and listed if it is ready, unless said otherwise. Without a node it is gated."""
    ready = (on is not None and bound) if ready is None else ready
    return Pod(
        namespace="llm",
        name=name,
        uid=f"uid-{name}",
        gpus=gpus,
        created=created,
        node=on,
        bound=on is not None and bound,
        deployment=of,
        gated=on is None,
        ready=ready,
        listed=ready if listed is None else listed,
        **more,
    )


def pool(
    *nodes, pods=(), name="h100", gpus_per_node=8, price=10.0, wanted=None, actual=None, foreign=None, step=1, **spec
):
    """A pool of these nodes; with ``wanted`` its size is ours to set."""
    resize = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": name} if wanted is not None else None
    return Pool(
        spec=NodePool.model_validate({"name": name, "nodeSelector": {"pool": name}, "resize": resize, **spec}),
        gpu=None,
        gpus_per_node=gpus_per_node,
        dollars_per_node_hour=price,
        nodes=tuple(
            PoolNode(item, (foreign or {}).get(item.name, 0), tuple(p for p in pods if p.node == item.name))
            for item in nodes
        ),
        object=None
        if wanted is None
        else PoolObject(pool=name, reference=name, wanted=wanted, actual=actual, step=step),
    )


def replica_set(name="d", replicas=1, *, gpus=1, rate=1.0, priority=0, model="m", pool="h100"):
    return ReplicaSet(
        deployment=name,
        model=model,
        variant="bf16",
        pool=pool,
        gpu="H100",
        tensor_parallel=gpus,
        pipeline_parallel=1,
        replicas=replicas,
        planned={"chat": rate * replicas},
        capacity={"chat": rate},
        priority=priority,
        error_band=0.1,
        source="measured",
    )


def fleet(*sets, nodes=None, groups=()):
    return Fleet(
        replica_sets=sets,
        nodes=nodes or {},
        groups=tuple(NodeGroup(pool="h100", nodes=n, free_gpus=8, replicas=content) for n, content in groups),
    )


def facts(*, rate=1.0, priority=0, model="m", gpus=1, pool="h100"):
    return ReplicaFacts(
        model=model, pool=pool, gpus=gpus, priority=priority, planned={"chat": rate}, capacity={"chat": rate}
    )


def world(*pods, nodes=(), **more):
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
    return Observation(now=NOW, plan=plan, nodes=nodes, pods=pods, **more)


def placement(**more):
    nothing = {"stay": (), "assigned": (), "movers": (), "surplus": (), "leaving": (), "unplaced": 0}
    return Placement(**{**nothing, **more})
