"""The part of the cluster's nodes and pods that matters to one plan."""

from __future__ import annotations

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.world import Node, PlanObject, Pod, PoolObject
from servingplan.observe.devices import devices_by_node
from servingplan.observe.pods import replicas_of
from servingplan.observe.state import Snapshot


def near(
    seen: Snapshot, plan: PlanObject, label: str, spec: PlanSpec | None, objects: tuple[PoolObject, ...]
) -> tuple[tuple[Node, ...], tuple[Pod, ...]]:
    """The nodes of the plan's pools and of its pods, and the pods that hold GPUs on these nodes. No others matter."""
    nodes = {node.name: node for node in seen.nodes}
    # Nodes that have not been heard of for long say nothing about a pod's end: then its own word counts.
    known = nodes if seen.sources["nodes"].trouble is None else None
    endpoints = frozenset(
        endpoint
        for item in seen.slices
        if (item.namespace, item.plan_label) == (plan.namespace, label)
        for endpoint in item.endpoints
    )
    own = replicas_of(
        (item.member, pod)
        for item in seen.pods
        if (item.plan_label, item.own.namespace) == (label, plan.namespace)
        and (pod := item.for_plan(plan_label=label, namespace=plan.namespace, nodes=known, endpoints=endpoints))
    )
    held = {node for pod in own if pod.deployment is not None for node in pod.nodes}
    selectors = [pool.node_selector for pool in (spec.node_pools if spec else ())]
    # Nodes that name a pool's object, and that its selector does not match: it is told.
    selectors += [dict((item.node_label,)) for item in objects if item.node_label is not None]
    near = {
        name: node
        for name, node in sorted(nodes.items())
        if name in held or any(_matches(node.labels, selector) for selector in selectors)
    }
    others = [
        pod
        for item in seen.pods
        if item.own.node in near
        and (item.plan_label, item.own.namespace) != (label, plan.namespace)
        and (pod := item.for_plan(plan_label=label, namespace=plan.namespace, nodes=known, endpoints=endpoints))
    ]
    mine = [pod for pod in own if pod.deployment is not None or pod.node in near]
    return tuple(near.values()), tuple(sorted([*mine, *others], key=lambda pod: (pod.namespace, pod.name)))


def with_devices(seen: Snapshot, plan: PlanObject, label: str, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The nodes with their devices."""
    if not seen.devices:
        return nodes
    near = {node.name for node in nodes}
    slices = (item for item in seen.devices if item.node in near)
    found = devices_by_node(slices, seen.claims, namespace=plan.namespace, plan_label=label)
    return tuple(
        node if node.name not in found else node.model_copy(update={"devices": found[node.name]}) for node in nodes
    )


def _matches(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())
