"""The world that a plan file alone tells of: no cluster, every pool as the plan describes it.

Pools that can be sized stand at zero nodes and may be claimed; fixed pools have the nodes that ``maxNodes`` says, all of
them free.
"""

from __future__ import annotations

from typing import Any

from servingplan.api.parse import name_problem, parse_spec
from servingplan.api.v1alpha1 import NodePool
from servingplan.cli.files import fail
from servingplan.model.world import Node, Observation, PlanObject, PoolObject

MIDNIGHT = "2000-01-01T00:00:00Z"
"""No clock offline: the same file gives the same bytes."""


def imagined_world(manifest: dict[str, Any]) -> Observation:
    """The observation that a plan manifest describes. Ends the command where the spec is wrong."""
    metadata = manifest["metadata"]
    spec, errors = parse_spec(manifest.get("spec"))
    if spec is None:
        fail("\n       ".join(str(error) for error in errors))
    if problem := name_problem(metadata["name"], spec):
        fail(str(problem))
    nodes: list[Node] = []
    for pool in spec.node_pools:
        if pool.resize is None:
            nodes += _nodes(pool)
    return Observation(
        now=MIDNIGHT,
        plan=PlanObject(
            namespace=metadata.get("namespace", "default"),
            name=metadata["name"],
            uid="offline",
            generation=1,
            spec=manifest["spec"],
        ),
        nodes=tuple(nodes),
        pools=tuple(
            PoolObject(
                pool=pool.name,
                reference=f"{pool.resize.kind}//{pool.resize.name}",
                wanted=0,
                actual=0,
                allowed_namespaces=("*",),
            )
            for pool in spec.node_pools
            if pool.resize is not None
        ),
    )


def _nodes(pool: NodePool) -> list[Node]:
    if pool.max_nodes is None or pool.gpus_per_node is None or pool.gpu is None:
        fail(
            f"spec.nodePools[{pool.name}]: fixed nodes are read from the cluster; to plan without one give gpu, "
            "gpusPerNode and maxNodes, or a world with --world"
        )
    return [
        Node(name=f"{pool.name}-{index}", labels=dict(pool.node_selector), gpus=pool.gpus_per_node, ready=True)
        for index in range(1, pool.max_nodes + 1)
    ]
