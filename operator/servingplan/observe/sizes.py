"""The path of the size in the object of a node pool, and the largest size that the object's owner allows.

A plan's author may not choose the path, since the operator may patch the whole object. So the path is that of the object's
kind, or the one in the owner's annotation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from servingplan.api.v1alpha1 import Resize
from servingplan.model import names

PATHS: Mapping[str, str] = {
    "ContainerNodePool.container.cnrm.cloud.google.com": ".spec.nodeCount",
    "MachineDeployment.cluster.x-k8s.io": ".spec.replicas",
    "MachinePool.cluster.x-k8s.io": ".spec.replicas",
    "MachineSet.cluster.x-k8s.io": ".spec.replicas",
    "MachineSet.machine.openshift.io": ".spec.replicas",
    "ManagedClustersAgentPool.containerservice.azure.com": ".spec.count",
    "NodePool.karpenter.sh": ".spec.replicas",
    "Nodegroup.eks.services.k8s.aws": ".spec.scalingConfig.desiredSize",
}
"""The path by kind, as the kind's API documents it: Config Connector, Cluster API, OpenShift's machine API, Azure Service
Operator, Karpenter (static capacity), AWS Controllers for Kubernetes."""
_PATH = re.compile(r"\.spec(\.[A-Za-z0-9_-]+)+")
_NUMBER = re.compile(r"[0-9]{1,6}")


def size_path(resize: Resize, annotations: Mapping[str, str]) -> tuple[tuple[str, ...] | None, str | None]:
    """The keys of the path to the size (None: unknown), and a text about an error in the plan's or the owner's path (None: no
    error)."""
    kind = f"{resize.kind}.{resize.api_version.rpartition('/')[0]}"
    owners = annotations.get(names.REPLICAS_PATH_ANNOTATION)
    if owners is not None and not _PATH.fullmatch(owners):
        return None, (
            f"its annotation {names.REPLICAS_PATH_ANNOTATION} is {owners!r}, which is not the path of a size; its owner must "
            "write one, for example .spec.count"
        )
    path = owners or PATHS.get(kind)
    if path is None:
        return None, (
            f"the path of the size is not known for kind {kind}; the object's owner must write it into its annotation "
            f"{names.REPLICAS_PATH_ANNOTATION}"
        )
    keys = tuple(path.strip(".").split("."))
    if resize.replicas_path in (None, path):
        return keys, None
    return keys, (
        f"is not the path of the size of {resize.kind} {resize.name}, which is {path}; remove it, or ask its owner to write "
        f"it into its annotation {names.REPLICAS_PATH_ANNOTATION}"
    )


def ceiling(annotations: Mapping[str, str], wanted: int) -> tuple[int | None, str | None]:
    """The most nodes that the owner allows (None: no limit), and a text about an error in the annotation. With an error the
    limit is ``wanted``, so that the pool does not grow."""
    text = annotations.get(names.MAX_NODES_ANNOTATION)
    if text is None:
        return None, None
    if _NUMBER.fullmatch(text.strip()):
        return int(text), None
    return wanted, (
        f"its annotation {names.MAX_NODES_ANNOTATION} is {text!r}, which is not a whole number: it does not grow until its "
        "owner writes one"
    )


def number(text: str | None) -> int | None:
    """The whole number in an annotation; None if it holds none."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None
