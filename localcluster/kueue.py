"""Kueue's controller beside a control plane: it holds pods that name a queue behind a gate until the queue has quota for them.

    with Kueue(cluster.kubeconfig, cluster.kubectl, folder):
        cluster.apply(resource_flavor, cluster_queue, local_queue)

Of the kinds of workloads that it knows only pods are admitted. Its program takes the certificate of its metrics from a
folder of ``/etc`` and nowhere else, so it runs in a mount namespace of its own; where that cannot be made, it cannot run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar, override

from localcluster import binaries
from localcluster.certificates import Certificate
from localcluster.outside import Json, OutsideController, having_label

API = "clusterqueues.kueue.x-k8s.io"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_MODULE = "sigs.k8s.io/kueue"
_OWN_KINDS = ("clusterqueue", "cohort", "localqueue", "resourceflavor", "workload")
_ENTER = """\
set -e
mount --bind {etc} /etc
exec {program} --config {config} --zap-log-level=info
"""


def missing() -> str:
    """Why it cannot run here, in one line; empty where it can."""
    tried = subprocess.run([*_unshare(), "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return f"no mount namespace can be made: {tried.stderr.strip()}" if tried.returncode else ""


class Kueue(OutsideController):
    """The controller as a child process. It ends with the block, and the kinds that it serves go."""

    tool = "kueue"
    title = "the controller of Kueue"
    api_version = "config.kueue.x-k8s.io/v1beta2"
    settings: ClassVar[Json] = {
        "integrations": {"frameworks": ["pod"]},
        "featureGates": {"VisibilityOnDemand": False, "MultiKueue": False},
    }

    @override
    def source(self) -> Path:
        return binaries.module_folder(self.tool, _MODULE) / "config" / "components"

    @override
    def chosen(self, path: str) -> Json | None:
        kind = path.rpartition("-")[2]
        if path.endswith("--v1-pod"):
            return having_label(QUEUE_LABEL)  # other pods are none of its business
        return {} if "kueue-x-k8s-io" in path and kind in _OWN_KINDS else None

    @override
    def command(self, program: Path, config: Path, served: Certificate) -> list[str]:
        etc = self._folder / "etc"
        metrics = etc / "kueue" / "metrics" / "certs"
        metrics.mkdir(parents=True, exist_ok=True)
        for file in (served.certificate, served.key):
            shutil.copy(file, metrics / file.name)
        script = _ENTER.format(
            **{name: shlex.quote(str(path)) for name, path in (("etc", etc), ("program", program), ("config", config))}
        )
        return [*_unshare(), "sh", "-c", script]


def _unshare() -> list[str]:
    return ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount", "--"]
