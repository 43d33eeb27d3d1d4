"""Makes the world of a plan file without a cluster: every pool is as the plan describes it.

Pools that can be sized have no nodes and may be claimed. Fixed pools have ``maxNodes`` nodes, all of them free.
"""

from __future__ import annotations

from typing import Any

from servingplan.api.parse import name_problem, parse_spec
from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.cli.files import documents_of, fail, read_text
from servingplan.errors import InputError
from servingplan.model.readings import SeenCatalogue, SeenProfiles
from servingplan.model.world import Node, Observation, PlanObject, PoolObject
from servingplan.planning.devices import imagined_class
from servingplan.planning.resources import resource_of, shown_by
from servingplan.profiles.catalogue import packaged_text, shipped
from servingplan.profiles.rows import ROWS_KEY

MIDNIGHT = "2000-01-01T00:00:00Z"
"""The time of an offline turn, which has no clock: the same file gives the same bytes. It is the start of the last reservation
if pools have any, so that these can be planned with."""


def imagined_world(manifest: dict[str, Any]) -> Observation:
    """The observation that a plan manifest describes. Ends the command if the spec is wrong."""
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
        now=max((pool.reservation.start or MIDNIGHT for pool in spec.node_pools if pool.reservation), default=MIDNIGHT),
        plan=PlanObject(
            namespace=metadata.get("namespace", "default"),
            name=metadata["name"],
            uid="offline",
            generation=1,
            spec=manifest["spec"],
        ),
        nodes=tuple(nodes),
        device_classes=tuple(
            {
                pool.dra.device_class: imagined_class(pool.dra) for pool in spec.node_pools if pool.dra is not None
            }.values()
        ),
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
        catalogues=(SeenCatalogue(config_map="shipped prices", kind="prices", text=packaged_text("prices.csv")),),
    )


def with_profiles(world: Observation, files: list[str] | None) -> Observation:
    """The world with the measured rates of these files before its own. A ConfigMap with a name that the world has replaces
    that one."""
    found = [_profiles(path) for path in files or ()]
    names = {item.config_map for item in found}
    kept = [item for item in world.profiles if item.config_map not in names]
    return world.model_copy(update={"profiles": (*found, *kept)})


def _profiles(path: str) -> SeenProfiles:
    text = read_text(path)
    if "kind: ConfigMap" not in text and '"kind": "ConfigMap"' not in text:
        return SeenProfiles(config_map=path, rows=text)
    import yaml

    try:
        (manifest,) = documents_of(text)
        return SeenProfiles(config_map=manifest["metadata"]["name"], rows=manifest["data"][ROWS_KEY])
    except (yaml.YAMLError, InputError, TypeError, KeyError, ValueError) as error:
        fail(f"{path}: is no ConfigMap with the key {ROWS_KEY}: {error}; write one with servingplan profile import")


def _nodes(pool: NodePool) -> list[Node]:
    if pool.max_nodes is None or pool.gpus_per_node is None or pool.gpu is None:
        fail(
            f"spec.nodePools[{pool.name}]: fixed nodes are read from the cluster; to plan without a cluster give gpu, "
            "gpusPerNode and maxNodes, or a world with --world"
        )
    catalogue = shipped()
    resource = resource_of(pool, catalogue.find_gpu(pool.gpu), (), catalogue)
    return [
        Node(
            name=f"{pool.name}-{index}",
            labels=dict(pool.node_selector),
            **shown_by(pool, resource, pool.gpus_per_node, () if pool.dra is None else [imagined_class(pool.dra)]),
            ready=True,
        )
        for index in range(1, pool.max_nodes + 1)
    ]
