"""GPUs that are devices: what a DRA driver of NVIDIA's publishes, written by hand (``resource.k8s.io/v1``).

The API server and the scheduler are real and allocate. No driver runs, so nothing prepares a device on a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from e2e.support.scene import FLEET_LABEL, GPU_TYPES, Scene
from e2e.support.waiting import wait_for
from localcluster import nodes
from localcluster.nodes import NodeType
from servingplan.kube import DEVICE_CLASSES, NODES, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS, RESOURCE_SLICES

DRIVER = "gpu.nvidia.com"

Json = dict[str, Any]


class Driver:
    """Plays the driver in one scene: nodes without a device plugin, their slices, and the classes."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._api = scene.api
        self._made: list[tuple[str, str]] = []

    def device_class(self, type_: str) -> str:
        """A class as the driver's chart makes it, for devices of one type; its name is the scene's own."""
        name = f"{type_}.{self._scene.name}.nvidia.com"
        expression = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == '{type_}'"
        self._create(DEVICE_CLASSES, name, {"selectors": [{"cel": {"expression": expression}}]})
        return name

    def fixed(self, node_type: NodeType, count: int, *, price: float, device_class: str, name: str = "devices") -> Json:
        """Fixed nodes whose GPUs are devices, as an entry of a plan's ``nodePools``; the slices are yet to be published."""
        fleet = f"{self._scene.name}-{name}"
        for number in range(count):
            made = nodes.node(node_type, f"{fleet}-{number}", labels={FLEET_LABEL: fleet})
            for amounts in made["status"].values():
                del amounts["nvidia.com/gpu"]
            self._made.append(("node", made["metadata"]["name"]))
            self._api.create(NODES, made)
        pool = {
            "name": name,
            "gpu": GPU_TYPES[node_type.name],
            "gpusPerNode": node_type.gpus,
            "dollarsPerNodeHour": f"{price:g}",
            "nodeSelector": {FLEET_LABEL: fleet},
            "dra": {"deviceClass": device_class},
        }
        names = self._scene.nodes_of(pool)
        wait_for("the nodes are Ready", lambda: all(map(self._scene.node_ready, names)), seconds=10)
        return pool

    def publish(self, node: str, devices: dict[str, Json]) -> None:
        """The slice of a node; ``devices``: attributes by name."""
        found = [
            {"name": name, "attributes": {key: {"string": value} for key, value in attributes.items()}}
            for name, attributes in devices.items()
        ]
        pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": DRIVER, "nodeName": node, "pool": pool, "devices": found}
        self._create(RESOURCE_SLICES, f"{node}-{DRIVER}", spec)

    def whole_gpus(self, node_type: NodeType, node: str) -> None:
        """All GPUs of a node, each by itself."""
        product = node_type.gpu_product.replace("-", " ")
        self.publish(
            node,
            {
                f"gpu-{index}": {
                    "type": "gpu",
                    "productName": product,
                    "uuid": f"GPU-{uuid5(NAMESPACE_DNS, f'{node}-{index}')}",
                }
                for index in range(node_type.gpus)
            },
        )

    def take(self, name: str, *, devices: int, device_class: str, node: str, namespace: str) -> None:
        """Somebody else's pod, whose claim holds devices of a node."""
        request = {"name": "x", "exactly": {"deviceClassName": device_class, "count": devices}}
        spec = {"spec": {"devices": {"requests": [request]}}}
        template = {"metadata": {"name": name}, "spec": spec}
        self._api.create(RESOURCE_CLAIM_TEMPLATES, template, namespace=namespace)
        pod = {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "resourceClaims": [{"name": "x", "resourceClaimTemplateName": name}],
            "containers": [{"name": "main", "image": "x", "resources": {"claims": [{"name": "x"}]}}],
            "terminationGracePeriodSeconds": 1,
        }
        self._scene.cluster.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": pod}
        )
        wait_for("the stranger holds its devices", lambda: self.held(namespace) == {node: devices}, seconds=20)

    def results(self, namespace: str) -> list[Json]:
        """All devices that are allocated to claims of a namespace."""
        claims = self._api.list(RESOURCE_CLAIMS, namespace=namespace)
        allocations = ((item.get("status") or {}).get("allocation") or {} for item in claims)
        return [result for found in allocations for result in found.get("devices", {}).get("results", ())]

    def held(self, namespace: str) -> dict[str, int]:
        """Allocated devices of a namespace by node, whose name is that of its pool of devices."""
        found = self.results(namespace)
        assert len({(item["pool"], item["device"]) for item in found}) == len(found), "a device is allocated twice"
        return dict(Counter(item["pool"] for item in found))

    def templates(self) -> set[str]:
        """Names of the plans' ResourceClaimTemplates."""
        found = self._api.list(RESOURCE_CLAIM_TEMPLATES, namespace=self._scene.namespace, labels="servingplan.dev/plan")
        return {item["metadata"]["name"] for item in found}

    def _create(self, resource: Any, name: str, spec: Json) -> None:
        self._made.append((resource.plural, name))
        self._api.create(resource, {"metadata": {"name": name}, "spec": spec})

    def leave(self) -> None:
        """Remove what the driver has made."""
        for resource, name in reversed(self._made):
            self._scene.cluster.try_kubectl("delete", resource, name, "--wait=false", "--ignore-not-found")


@contextmanager
def driver(scene: Scene) -> Iterator[Driver]:
    """A driver for a scene."""
    made = Driver(scene)
    try:
        yield made
    finally:
        made.leave()
