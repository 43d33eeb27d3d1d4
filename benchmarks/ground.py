"""A control plane with fixed nodes, the operator beside it, and a watch that notes when each thing became visible."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from localcluster import nodes
from localcluster.control_plane import ControlPlane
from localcluster.nodes import NodeType
from localcluster.operator_process import OperatorProcess
from localcluster.stages import PodTimes
from servingplan.errors import ApiError
from servingplan.kube import NODES, Kube, Resource

Json = dict[str, Any]
POOL_LABEL = "benchmark-pool"
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "chat.yaml"
TYPES = {"h100": nodes.H100, "l40s": nodes.L40S, "a100": nodes.A100}
NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)


@dataclass
class Ground:
    """A running cluster with the operator."""

    cluster: ControlPlane
    api: Kube
    operator: OperatorProcess
    log: Path

    def nodes(self, pool: str, count: int, node_type: NodeType | None = None) -> list[str]:
        """Fixed nodes of a pool, Ready when this returns."""
        names = [f"{pool}-{number}" for number in range(count)]
        kind = node_type or TYPES[pool]
        self.each(lambda name: self.api.create(NODES, nodes.node(kind, name, labels={POOL_LABEL: pool})), names)
        wait(lambda: sum(is_ready(node) for node in self.api.list(NODES, labels=f"{POOL_LABEL}={pool}")) == count, 120)
        return names

    def each(self, do: Callable[[str], Any], names: Iterable[str]) -> None:
        """Some at a time."""
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(do, names))

    def namespace(self, name: str) -> str:
        """A new one."""
        self.api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        wait(lambda: _found(self.api, "serviceaccounts", name), 30)  # pods are refused before it is there
        return name

    def watch(self, resource: Resource) -> Watch:
        """Begin to watch a kind."""
        return Watch(self.api, resource)

    def resident_mebibytes(self) -> tuple[float, float]:
        """The memory of the operator: now, and the most so far."""
        status = Path(f"/proc/{self.operator.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        now, most = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return now, most

    def processor_seconds(self) -> float:
        """The processor time that the operator has used."""
        return _processor_seconds(self.operator.process.pid)

    def processor_seconds_with_searches(self) -> float:
        """The processor time that the operator and the processes of its searches have used, those that ended included."""
        running = sum(map(_processor_seconds, self.processes()))
        return running + _processor_seconds(self.operator.process.pid, of_ended_children=True)

    def processes(self) -> list[int]:
        """The operator and its children."""
        pid = self.operator.process.pid
        found = {pid}
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (task / "children").read_text().split()}
        return sorted(found)

    def requests(self, since: float = 0) -> list[Json]:
        """Audit events of the operator's requests since a time, watches left out."""
        out = []
        for line in self.cluster.audit_log.read_text().splitlines():
            event = json.loads(line)
            operator = event["user"]["username"].startswith("system:serviceaccount:servingplan-system:")
            if operator and event["verb"] != "watch" and _epoch(event["requestReceivedTimestamp"]) >= since:
                out.append(event)
        return out


Look = Callable[[Mapping[tuple[str, str], Json]], bool]


class Watch:
    """Objects of a kind by (namespace, name), and one who waits for something of them."""

    def __init__(self, api: Kube, resource: Resource) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._received = self._held_at = time.monotonic()
        self._waiting: Look | None = None
        threading.Thread(target=self._follow, args=(api, resource), daemon=True).start()

    def stop(self) -> None:
        """End after the next event."""
        self._ended = True

    def wait(self, look: Look, seconds: float = 60) -> float:
        """Until it holds; returns the time (monotonic) at which the change that made it hold was received."""
        with self._changed:
            if look(self.objects):
                return self._received
            self._waiting = look
            if not self._changed.wait_for(lambda: self._waiting is None, seconds):
                raise TimeoutError(f"not seen within {seconds} s")
            return self._held_at

    def _follow(self, api: Kube, resource: Resource) -> None:
        while not self._ended:
            try:
                for kind, item in api.watch(resource):
                    if kind in ("OPEN", "BOOKMARK"):
                        continue
                    key = (item["metadata"].get("namespace", ""), item["metadata"]["name"])
                    with self._changed:
                        self._received = time.monotonic()
                        if kind == "DELETED":
                            self.objects.pop(key, None)
                        else:
                            self.objects[key] = item
                        if self._waiting is not None and self._waiting(self.objects):
                            self._held_at, self._waiting = self._received, None
                            self._changed.notify_all()
            except ApiError:
                time.sleep(0.2)


@contextmanager
def ground(*, ready_seconds: int = 0, audit: bool = False, period_seconds: float = 15) -> Iterator[Ground]:
    """A control plane with the operator."""
    times = PodTimes(ready_seconds=ready_seconds, stop_seconds=0)
    with (
        ControlPlane(pod_times=times, audit=audit) as cluster,
        tempfile.TemporaryDirectory() as folder,
        cluster.client() as client,
    ):
        log = Path(folder) / "operator.log"
        arguments = ("--period-seconds", f"{period_seconds:g}", "--pool-kinds", "", "--verbose")
        with OperatorProcess(cluster, log=log, arguments=arguments) as operator:
            yield Ground(cluster, Kube(client), operator, log)


def example(namespace: str, **changes: Any) -> Json:
    """The example plan on fixed nodes that are there."""
    plan: Json = yaml.safe_load(EXAMPLE.read_text())
    plan["metadata"] = {"name": "chat", "namespace": namespace}
    for pool in plan["spec"]["nodePools"]:
        del pool["resize"]
        pool["nodeSelector"] = {POOL_LABEL: pool["name"]}
    plan["spec"] |= {"change": {"drainSeconds": 0}, **changes}
    return plan


def weights(config_map: Json | None) -> dict[str, dict[str, int]]:
    """Weight by Service and class of a routing ConfigMap; empty where there is none."""
    document = json.loads((config_map or {}).get("data", {}).get("routing.json", '{"models": {}}'))
    return {
        f"{model}/{entry['name']}": {target["service"]: target["weight"] for target in entry["targets"]}
        for model, item in document["models"].items()
        for entry in item["classes"]
    }


def is_ready(item: Json) -> bool:
    """Whether a pod or node says so."""
    conditions = (item.get("status") or {}).get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def wait(look: Callable[[], bool], seconds: float) -> None:
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {seconds} s")
        time.sleep(0.05)


def _found(api: Kube, plural: str, namespace: str) -> bool:
    try:
        api.get(Resource("v1", plural, "ServiceAccount"), "default", namespace=namespace)
    except ApiError:
        return False
    return True


def _processor_seconds(pid: int, *, of_ended_children: bool = False) -> float:
    """The processor time of a process; 0 if it has ended by now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    user, system = (13, 14) if of_ended_children else (11, 12)
    return (int(fields[user]) + int(fields[system])) / 100


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
