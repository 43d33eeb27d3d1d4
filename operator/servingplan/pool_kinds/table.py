"""The table of known kinds, and the choice of the kind that reads an object.

The author of a plan may not choose the path of the size, because the operator may patch the whole object. So the path is that
of the object's kind, or the one that the object's owner wrote on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from servingplan.model import names
from servingplan.pool_kinds.aks_agent_pool import AksAgentPool
from servingplan.pool_kinds.any_path import AnyPath
from servingplan.pool_kinds.cluster_api import MachineReplicas
from servingplan.pool_kinds.eks_nodegroup import EksNodegroup
from servingplan.pool_kinds.gke_node_pool import GkeNodePool
from servingplan.pool_kinds.karpenter import KarpenterNodePool
from servingplan.pool_kinds.protocol import PoolKind

KINDS: Mapping[str, PoolKind] = {
    "ContainerNodePool.container.cnrm.cloud.google.com": GkeNodePool(),
    "MachineDeployment.cluster.x-k8s.io": MachineReplicas(),
    "MachinePool.cluster.x-k8s.io": MachineReplicas(),
    "MachineSet.cluster.x-k8s.io": MachineReplicas(),
    "MachineSet.machine.openshift.io": MachineReplicas(),
    "ManagedClustersAgentPool.containerservice.azure.com": AksAgentPool(),
    "NodePool.karpenter.sh": KarpenterNodePool(),
    "Nodegroup.eks.services.k8s.aws": EksNodegroup(),
}
"""The kinds by ``Kind.group``."""
STATUS_KEYS = frozenset(key for kind in (*KINDS.values(), AnyPath()) for key in kind.status_keys)
"""The keys of the status that some kind reads."""
_ANNOTATIONS = tuple({end for kind in KINDS.values() for end in kind.annotations})
_PATH = re.compile(r"\.spec(\.[A-Za-z0-9_-]+)+")


def reads_annotation(name: str) -> bool:
    """Whether some kind reads an annotation."""
    return name.endswith(_ANNOTATIONS)


def kind_key(api_version: str, kind: str) -> str:
    """The key of a kind, ``Kind.group``."""
    return f"{kind}.{api_version.rpartition('/')[0]}"


def kind_at(key: str, path: tuple[str, ...]) -> PoolKind:
    """The kind that reads an object whose size is at ``path``: the known kind, if that is its own path; else a kind that
    knows only the path."""
    known = KINDS.get(key)
    return known if known is not None and known.path == path else AnyPath(path)


def path_of(
    key: str, name: str, annotations: Mapping[str, str], *, written: str | None, scalable: bool
) -> tuple[tuple[str, ...] | None, str | None]:
    """The keys that lead to the size of the object ``name`` of kind ``key``, and what is wrong with the path, for people.

    The keys are None if nothing states them. ``written`` is the plan's path; the owner's is on the object. ``scalable``: the
    API server serves ``/scale`` for the kind.
    """
    owners = annotations.get(names.REPLICAS_PATH_ANNOTATION)
    if owners is not None and not _PATH.fullmatch(owners):
        return None, (
            f"its annotation {names.REPLICAS_PATH_ANNOTATION} is {owners!r}, which is no path of a size; its owner must write "
            "one such as .spec.count"
        )
    known = KINDS.get(key) or (AnyPath() if scalable else None)
    path = owners or (None if known is None else f".{'.'.join(known.path)}")
    if path is None:
        return None, (
            f"the path of the size is not known for kind {key}; the object's owner must write it into its annotation "
            f"{names.REPLICAS_PATH_ANNOTATION}"
        )
    keys = tuple(path.strip(".").split("."))
    if written in (None, path):
        return keys, None
    return keys, (
        f"is not the path of the size of {key.partition('.')[0]} {name}, which is {path}; leave it out, or have its owner "
        f"write it into its annotation {names.REPLICAS_PATH_ANNOTATION}"
    )
