"""Where the object of a node pool says its size, and how large its owner lets it be.

A plan's author may not choose the path: the operator may patch the whole object. So the path is that of the object's kind, or
the one that the object's owner wrote on it.
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
"""By kind, as its own API documents it: Config Connector, Cluster API, OpenShift's machine API, Azure Service Operator,
Karpenter (static capacity), AWS Controllers for Kubernetes."""
_PATH = re.compile(r"\.spec(\.[A-Za-z0-9_-]+)+")
_NUMBER = re.compile(r"[0-9]{1,6}")


def size_path(resize: Resize, annotations: Mapping[str, str]) -> tuple[tuple[str, ...] | None, str | None]:
    """Keys that lead to the size (None: nobody says them), and what is wrong with the plan's path or the owner's, for
    people."""
    kind = f"{resize.kind}.{resize.api_version.rpartition('/')[0]}"
    owners = annotations.get(names.REPLICAS_PATH_ANNOTATION)
    if owners is not None and not _PATH.fullmatch(owners):
        return None, (
            f"its annotation {names.REPLICAS_PATH_ANNOTATION} is {owners!r}, which is no path of a size; its owner must write "
            "one such as .spec.count"
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
        f"is not the path of the size of {resize.kind} {resize.name}, which is {path}; leave it out, or have its owner write "
        f"it into its annotation {names.REPLICAS_PATH_ANNOTATION}"
    )


def ceiling(annotations: Mapping[str, str], wanted: int) -> tuple[int | None, str | None]:
    """Most nodes that the owner allows (None: no limit of theirs), and what is wrong with what they wrote: the pool then stays
    at ``wanted`` at most."""
    text = annotations.get(names.MAX_NODES_ANNOTATION)
    if text is None:
        return None, None
    if _NUMBER.fullmatch(text.strip()):
        return int(text), None
    return wanted, (
        f"its annotation {names.MAX_NODES_ANNOTATION} is {text!r}, which is no whole number: it does not grow until its owner "
        "writes one"
    )


def number(text: str | None) -> int | None:
    """A whole number that an annotation holds, or None."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None
