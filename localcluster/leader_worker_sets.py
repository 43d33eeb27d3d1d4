"""The controller of LeaderWorkerSets beside a control plane: it makes groups of pods, and makes a group anew that lost one.

    with LeaderWorkerSets(cluster.kubeconfig, cluster.kubectl, folder):
        cluster.apply(leader_worker_set)

Without its webhooks its pods lack their names and variables.
"""

from __future__ import annotations

from pathlib import Path
from typing import override

from localcluster import binaries
from localcluster.outside import Json, OutsideController, having_label

API = "leaderworkersets.leaderworkerset.x-k8s.io"
_MODULE = "sigs.k8s.io/lws"


class LeaderWorkerSets(OutsideController):
    """The controller as a child process. It ends with the block, and the kind that it serves goes."""

    tool = "lws"
    title = "the controller of LeaderWorkerSets"
    api_version = "config.lws.x-k8s.io/v1alpha1"

    @override
    def source(self) -> Path:
        return binaries.module_folder(self.tool, _MODULE) / "config"

    @override
    def chosen(self, path: str) -> Json | None:
        # Other pods are none of its business.
        return having_label("leaderworkerset.sigs.k8s.io/name") if path == "/mutate--v1-pod" else {}
