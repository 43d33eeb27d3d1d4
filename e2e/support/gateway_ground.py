"""A gateway as ``examples/gateway/envoy.yaml`` has it, its processes beside a local control plane: ``gateway-sync`` with
exactly the rights of the example, Envoy, and replicas whose pods the control plane knows by this machine's address."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from e2e.support.gateway import EnvoyProcess, Replica, Replicas
from e2e.support.waiting import wait_for
from localcluster import nodes, service_account
from localcluster.control_plane import ControlPlane
from localcluster.ports import free_ports
from servingplan.kube import CONFIG_MAPS, NODES, PODS, SERVICES, Kube, Resource
from servingplan.model import names
from servingplan.routing.envoy import Place

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gateway" / "envoy.yaml"
NAMESPACE, CONFIG_MAP, NODE = "llm", "chat-routing", "gateway-node"
ACCOUNT = "chat-gateway"

Json = dict[str, Any]


class GatewayGround:
    """Services with replicas, the routing ConfigMap, and the gateway that follows both."""

    def __init__(self, cluster: ControlPlane, folder: Path, services: Mapping[str, int], document: Json) -> None:
        """``services``: how many replicas each has. ``document``: the first routing document."""
        self._cluster, self._folder, self._services, self._first = cluster, folder, services, document
        self._cleanup = ExitStack()
        port, admin_port = free_ports(2)
        self.place = Place(folder=str(folder / "routing"), port=port, admin_port=admin_port)
        self.replicas: dict[str, Replica] = {}
        """The replicas by pod."""
        self.sync: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        client = self._cluster.client()
        self._cleanup.callback(client.rest_client.pool_manager.clear)
        self.api = Kube(client)
        self._cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        rights = [item for item in yaml.safe_load_all(EXAMPLE.read_text()) if item["kind"] in _RIGHTS]
        self._cluster.apply(*({**item, "metadata": {**item["metadata"], "namespace": NAMESPACE}} for item in rights))
        wait_for("the accounts of pods are there", self._accounts_are_there, seconds=30)  # pods are refused before
        self.api.create(NODES, nodes.node(nodes.H100, NODE))
        self._servers = self._cleanup.enter_context(Replicas())
        for service, count in self._services.items():
            self.add_service(service, replicas=count)
        self.publish(self._first)
        self.kubeconfig = service_account.write_kubeconfig(
            self._cluster.kubeconfig, NAMESPACE, ACCOUNT, self._folder / "gateway.kubeconfig"
        )
        self.start_sync()
        self._cleanup.callback(self.stop_sync)
        wait_for(
            "the watcher has written its files",
            lambda: (Path(self.place.folder) / "envoy-bootstrap.yaml").exists(),
            seconds=30,
        )
        self.envoy = self._cleanup.enter_context(EnvoyProcess(self.place, log=self._folder / "envoy.log"))
        wait_for("every replica is in use", lambda: self._in_use() == len(self.replicas), seconds=30)

    def _accounts_are_there(self) -> bool:
        accounts = Resource("v1", "serviceaccounts", "ServiceAccount")
        return {item["metadata"]["name"] for item in self.api.list(accounts, namespace=NAMESPACE)} >= {
            "default",
            ACCOUNT,
        }

    def _in_use(self) -> int:
        stats = self.envoy.stats()
        return sum(stats.get(f"cluster.{service}.membership_healthy", 0) for service in self._services)

    def start_sync(self) -> None:
        """Begin ``gateway-sync``."""
        where = ("--directory", self.place.folder, "--port", str(self.place.port))
        with (self._folder / "sync.log").open("ab") as log:
            self.sync = subprocess.Popen(
                [
                    *(sys.executable, "-m", "servingplan", "gateway-sync", "--config-map", CONFIG_MAP),
                    *("-n", NAMESPACE, *where, "--admin-port", str(self.place.admin_port), "--stats-port", "0"),
                ],
                env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop_sync(self) -> int:
        """End it; what it ended with."""
        self.sync.terminate()
        try:
            return self.sync.wait(60)
        except subprocess.TimeoutExpired:
            self.sync.kill()
            return self.sync.wait()

    @property
    def sync_log(self) -> str:
        """What it said."""
        return (self._folder / "sync.log").read_text()

    def publish(self, document: Json) -> None:
        """Write the routing ConfigMap."""
        self.write({"routing.json": json.dumps(document)})

    def write(self, data: Mapping[str, str]) -> None:
        """Write whatever into the routing ConfigMap."""
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE},
            "data": dict(data),
        }
        self.api.apply(CONFIG_MAPS, manifest, manager="test", force=True)

    def add_service(self, name: str, *, replicas: int) -> None:
        """A Service with so many ready replicas."""
        self.api.create(SERVICES, _service(name), namespace=NAMESPACE)
        for number in range(replicas):
            self.add(f"{name}-{number}", name)

    def add(self, pod: str, service: str) -> None:
        """A ready replica: a server here, and a pod that says where it is."""
        address = own_address()
        replica = self._servers.start(pod, host=address)
        self.replicas[pod] = replica
        self.api.create(PODS, _pod(pod, service, replica.port), namespace=NAMESPACE)
        wait_for(
            f"pod {pod} runs",
            lambda: (self.api.get(PODS, pod, namespace=NAMESPACE).get("status") or {}).get("phase") == "Running",
            seconds=30,
        )
        self._patch(pod, {"podIP": address, "podIPs": [{"ip": address}]})
        self.set_ready(pod, ready=True)

    def set_ready(self, pod: str, *, ready: bool) -> None:
        """What the kubelet writes when the readiness probe changes its mind."""
        state = "True" if ready else "False"
        conditions = [{"type": kind, "status": state, "reason": "Probed"} for kind in ("Ready", "ContainersReady")]
        self._patch(pod, {"conditions": conditions})

    def _patch(self, pod: str, status: Json) -> None:
        self.api.merge(PODS, pod, {"status": status}, manager="kubelet", namespace=NAMESPACE, subresource="status")


_RIGHTS = ("ServiceAccount", "Role", "RoleBinding")


def own_address() -> str:
    """An address of this machine that an EndpointSlice may hold: none of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError as error:
            raise RuntimeError("this machine has no address but loopback") from error
        address: str = probe.getsockname()[0]
    return address


def _service(name: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {names.PLAN_LABEL: "chat"}},
        "spec": {"selector": {"service": name}, "ports": [{"name": "http", "port": 8000, "targetPort": "http"}]},
    }


def _pod(name: str, service: str, port: int) -> Json:
    container = {"name": "engine", "image": "engine", "ports": [{"name": "http", "containerPort": port}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"service": service}},
        "spec": {"nodeName": NODE, "containers": [container], "tolerations": [{"operator": "Exists"}]},
    }
