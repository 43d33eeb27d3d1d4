"""Emulated engines and the gateways of ``examples/gateway`` as pods of a real node."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.scene import FLEET_LABEL, Scene
from e2e.support.waiting import wait_for
from localcluster import image
from localcluster.real_node import RealNode
from servingplan.kube import PODS
from servingplan.routing.envoy import REVISION_PATH

Json = dict[str, Any]

GPUS = 3
GPU = "A100-SXM4-80GB"
POOL_LABELS = {FLEET_LABEL: "real"}
_EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "gateway"
_GATEWAY_ADDRESSES = itertools.count(2)
"""Numbers of the gateways' Services in the range, so that a story knows the address before the Service is there. Of 256 the API
server gives the first sixteen last to Services that ask for none (kubernetes.io, "Service ClusterIP allocation"); 1 is its
own."""


class Ground:
    """What the stories share."""

    def __init__(self, scene: Scene, node: RealNode) -> None:
        self.scene, self.node = scene, node
        self.gateway_address = node.network.service_address(next(_GATEWAY_ADDRESSES))
        """ClusterIP of the gateway."""
        self._end_what_earlier_stories_left()

    def _end_what_earlier_stories_left(self) -> None:
        """Pods of namespaces that are going still end in peace, and hold GPUs the while."""
        kubectl = self.scene.cluster.kubectl
        kubectl("delete", "pods", "--all", "--all-namespaces", "--force", "--grace-period=0", "--wait=false")
        wait_for("the node is empty", lambda: not list(self.scene.api.list(PODS)), seconds=30)

    def plan(self, *models: Json, **more: Any) -> Json:
        """A plan for models of ``model``, on the node's GPUs, that asks the gateway before it drains."""
        pool = {
            "name": "real",
            "gpu": GPU,
            "gpusPerNode": GPUS,
            "dollarsPerNodeHour": "20",
            "nodeSelector": POOL_LABELS,
        }
        gateway = {"ackUrl": f"http://chat-gateway.{self.scene.namespace}{REVISION_PATH}"}
        return plans.plan(self.scene.namespace, list(models), [pool], budget=20, gateway=gateway, **more)

    @staticmethod
    def model(rate: float, name: str = SMALL) -> Json:
        """A small model whose engines are emulated; one serves some twenty requests a second."""
        label = "metadata.labels['servingplan.dev/pool']"
        engine = {
            "name": "engine",
            "command": ["servingplan", "emulate"],
            "env": [
                {"name": "SERVINGPLAN_EMULATE_GPU", "value": f"real={GPU}"},
                {"name": "SERVINGPLAN_EMULATE_POOL", "valueFrom": {"fieldRef": {"fieldPath": label}}},
                {"name": "SERVINGPLAN_EMULATE_STARTUP_SECONDS", "value": "1"},
            ],
        }
        made = plans.model(name, rate=rate, image=image.NAME)
        made["engine"]["podTemplate"] = {"spec": {"containers": [engine]}}
        return made

    def apply_gateway(self) -> None:
        """Apply ``examples/gateway/envoy.yaml``, one copy of it. It waits for the plan."""
        manifests = _example("envoy.yaml", self.scene.namespace)
        for item in manifests:
            if item["kind"] == "Deployment":
                item["spec"]["replicas"] = 1
            if item["kind"] == "Service" and item["metadata"]["name"] == "chat-gateway":
                item["spec"]["clusterIP"] = self.gateway_address
        self.scene.cluster.apply(*manifests)

    def apply_mounted_gateway(self) -> None:
        """Apply the Deployment of ``examples/gateway/envoy-mounted.yaml``, one copy of it, as a second gateway."""
        (deployment,) = (
            item for item in _example("envoy-mounted.yaml", self.scene.namespace) if item["kind"] == "Deployment"
        )
        deployment["spec"]["replicas"] = 1
        self.scene.cluster.apply(deployment)

    def touch_mounted_gateway(self) -> None:
        """Change an annotation of its pod, at which the kubelet looks at what it mounts."""
        (pod,) = self.scene.api.list(PODS, namespace=self.scene.namespace, labels="app=chat-gateway-mounted")
        change = {"metadata": {"annotations": {"servingplan.dev/touched": str(time.time_ns())}}}
        name = pod["metadata"]["name"]
        self.scene.api.merge(PODS, name, change, manager="test", namespace=self.scene.namespace)

    def address_of(self, app: str) -> str:
        """Of a gateway's pod, once it is ready."""

        def ready() -> str:
            found = self.scene.api.list(PODS, namespace=self.scene.namespace, labels=f"app={app}")
            return next((str(pod["status"]["podIP"]) for pod in found if _is_ready(pod)), "")

        return wait_for(f"the gateway {app} is ready", ready, seconds=60, shown=self.pods)

    def pods(self) -> str:
        """All pods of the scene's, for messages."""
        return self.scene.cluster.kubectl("get", "pods", "-n", self.scene.namespace, "-o", "wide")


def _example(file: str, namespace: str) -> list[Json]:
    manifests = list(yaml.safe_load_all((_EXAMPLES / file).read_text()))
    for item in manifests:
        item["metadata"]["namespace"] = namespace
    return manifests


def _is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def revision(address: str, port: int = 8080) -> int:
    """Of the weights that a gateway uses."""
    with closing(http.client.HTTPConnection(address, port, timeout=60)) as connection:
        connection.request("GET", REVISION_PATH)
        return int(json.loads(connection.getresponse().read())["revision"])


def ask(address: str, body: Json, *, port: int = 8080) -> tuple[int, Json]:
    """Status and JSON of one request."""
    with closing(http.client.HTTPConnection(address, port, timeout=600)) as connection:
        connection.request("POST", "/v1/chat/completions", body=json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def chat(*, tokens: int, model: str = SMALL, stream: bool = False) -> Json:
    """A request's body."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": "word" * 50}],
        "max_tokens": tokens,
        "stream": stream,
    }
