"""The cluster that stories run against: one made for the session, or the one of ``KUBECONFIG``."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes.client

from e2e.support.waiting import wait_for
from localcluster import binaries, karpenter, kubeconfig, nodes
from localcluster.audit import AuditLog
from localcluster.certificates import Certificate
from localcluster.control_plane import ControlPlane, wait_until_established
from localcluster.reminder import Reminder
from localcluster.stages import PodTimes
from servingplan.errors import ApiError, NotFound
from servingplan.kube import NODES, Kube, Resource

Json = dict[str, Any]

NODE_POOLS = Resource("karpenter.sh/v1", "nodepools", "NodePool", namespaced=False)
NODE_CLAIMS = Resource("karpenter.sh/v1", "nodeclaims", "NodeClaim", namespaced=False)
NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)
NODE_CLASS = "servingplan-e2e"
BOOT_SECONDS = 1
_CRD = Path(__file__).resolve().parents[2] / "crds" / "llmservingplans.servingplan.dev.yaml"
_LOOKS_LIKE_A_TEST = re.compile(r"(^|[^a-z])(local|kind|minikube|k3d|k3s|test|e2e|dev|ci|sandbox)([^a-z]|$)")


@dataclass
class Cluster:
    """A cluster, seen by its administrator."""

    kubeconfig: Path
    client: kubernetes.client.ApiClient
    certificate: Certificate | None = None
    """The certificate that a proxy in front of the API server uses."""
    has_karpenter: bool = False
    """Whether Karpenter runs with its KWOK provider."""
    has_kwok: bool = False
    sell: Callable[..., None] | None = None
    """Tells Karpenter's market what is sold out and what is held (``ControlPlane.sell``); None: this market cannot be told."""
    audit: AuditLog | None = None
    """What ServiceAccounts ask; None: this API server writes no such log for us."""
    reminder: Reminder | None = None
    """Reminds KWOK of pods that it has not ended; None: this cluster is not ours."""

    def __post_init__(self) -> None:
        self.client.configuration.retries = False
        self.api = Kube(self.client, timeout_seconds=120)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Output of a kubectl command."""
        done = self.try_kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
        return done.stdout

    def try_kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A kubectl command that may fail."""
        command = [str(binaries.program("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        # By default kubectl keeps what a server has told it under the server's port, which others had before.
        environment = {**os.environ, "KUBECACHEDIR": str(self.kubeconfig.with_name("kubectl-cache"))}
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment)

    def apply(self, *manifests: Mapping[str, Any], manager: str = "cluster-admin") -> None:
        """Server-side apply as an administrator would."""
        objects = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", f"--field-manager={manager}", "-f", "-", stdin=json.dumps(objects))


@contextmanager
def own_cluster(*, with_crd: bool = True) -> Iterator[Cluster]:
    """A control plane of the session's own, with Karpenter, all pools empty; ``with_crd`` with the plans' definition."""
    with (
        ControlPlane(karpenter=True, audit=True, pod_times=PodTimes(ready_seconds=2, stop_seconds=1)) as plane,
        Reminder(plane.kubeconfig) as reminder,
        cluster_of(plane, has_karpenter=True, has_kwok=True, with_crd=with_crd) as cluster,
    ):
        cluster.audit = AuditLog(plane.audit_log)
        cluster.reminder = reminder
        cluster.sell = plane.sell
        yield cluster


@contextmanager
def cluster_of(
    plane: ControlPlane, *, has_karpenter: bool = False, has_kwok: bool = False, with_crd: bool = True
) -> Iterator[Cluster]:
    """A control plane, with the CRD in it unless a story installs it itself."""
    with _client(plane.kubeconfig) as client:
        cluster = Cluster(plane.kubeconfig, client, plane.serving_certificate, has_karpenter, has_kwok)
        _prepare(cluster, with_crd=with_crd)
        yield cluster


@contextmanager
def existing_cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster of ``KUBECONFIG``. Raises ``ValueError`` where its context does not look like a test cluster."""
    command = [str(binaries.program("kubectl")), "config", "view", "--minify", "--flatten", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"KUBECONFIG has no current context: {done.stderr.strip()}")
    context = json.loads(done.stdout)["current-context"]
    if not looks_like_a_test(context) and os.environ.get("E2E_ANY_CONTEXT") != "1":
        raise ValueError(
            f"the current context is {context!r}, which does not look like a test cluster (kind-..., ...-test, local): "
            "choose another KUBECONFIG, or set E2E_ANY_CONTEXT=1 if this one may be used"
        )
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(done.stdout)
    with _client(path) as client:
        cluster = Cluster(path, client)
        cluster.has_karpenter = _serves(cluster, "karpenter.kwok.sh") and _serves(cluster, "karpenter.sh")
        cluster.has_kwok = _plays_nodes(cluster)
        _prepare(cluster)
        yield cluster


def looks_like_a_test(context: str) -> bool:
    """Whether a context's name says that nobody's work depends on the cluster."""
    return _LOOKS_LIKE_A_TEST.search(context.lower()) is not None


def _prepare(cluster: Cluster, *, with_crd: bool = True) -> None:
    if with_crd:
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=cluster-admin", "-f", str(_CRD))
        wait_until_established(cluster.kubectl, _CRD.stem)
    if cluster.has_karpenter:
        cluster.apply(karpenter.node_class(registration_delay_seconds=BOOT_SECONDS, name=NODE_CLASS))


@contextmanager
def _client(path: Path) -> Iterator[kubernetes.client.ApiClient]:
    with kubeconfig.client(path) as client:
        yield client
        client.rest_client.pool_manager.clear()


def _serves(cluster: Cluster, group: str) -> bool:
    return cluster.try_kubectl("get", "--raw", f"/apis/{group}").returncode == 0


def _plays_nodes(cluster: Cluster) -> bool:
    """Whether KWOK makes a node Ready here."""
    name = f"servingplan-e2e-probe-{os.getpid()}"
    try:
        cluster.api.create(NODES, nodes.node(nodes.A100, name))
    except ApiError:
        return False
    try:
        wait_for("the node is Ready", lambda: node_is_ready(cluster.api.get(NODES, name)), seconds=3)
    except AssertionError:
        return False
    else:
        return True
    finally:
        cluster.kubectl("delete", "node", name, "--wait=false")


def node_is_ready(item: Json) -> bool:
    """Whether a Node says that it is Ready."""
    return _condition(item, "Ready") == "True"


def pod_is_ready(item: Json) -> bool:
    """Whether a Pod says that it is Ready, and is not being deleted."""
    return _condition(item, "Ready") == "True" and "deletionTimestamp" not in item["metadata"]


def _condition(item: Json, kind: str) -> str | None:
    conditions = (item.get("status") or {}).get("conditions") or ()
    return next((entry["status"] for entry in conditions if entry["type"] == kind), None)


def get_or_none(api: Kube, resource: Resource, name: str, namespace: str | None = None) -> Json | None:
    """An object, if it is there."""
    try:
        return api.get(resource, name, namespace=namespace)
    except NotFound:
        return None
