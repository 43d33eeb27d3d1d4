"""What the crash story needs: operators that start at once, plans small enough to live through a hundred times, and the
history of everything that the API server ever showed.

Operators are forked from a process that has their modules loaded, so that starting one costs milliseconds; what runs in
them is the command ``servingplan run``, with the rights of the chart's ServiceAccount.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import urllib3
from kubernetes import client
from kubernetes.config import kube_config
from servingplan.cli import app
from servingplan.model.fleet import Fleet, PlanRecord

from e2e.cluster import karpenter, nodes, service_account
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.operator_process import NAMESPACE, install
from e2e.cluster.proxy import Moment, Verdict, Write, WriteProxy

Json = dict[str, Any]

PLAN = "tiny"
RUN_LABEL = "crash-story"
"""On the nodes of one run: its namespace."""
ONE_GPU = nodes.NodeType("l40s-1x", "NVIDIA-L40S", 1, 46068, 24, 192, 2.0)
FIXED_DOLLARS, RENTED_DOLLARS, BUDGET_DOLLARS = 1.0, 2.0, 3.0
CONVERGE_SECONDS = 90.0

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["pytest", "servingplan.cli", "servingplan.answering", "servingplan.handlers.plan", "servingplan.solve", __name__]
)


# --- the plan and its ground -----------------------------------------------------------------------------------------


def plan(namespace: str, requests_per_second: int) -> Json:
    """One model on one fixed and one rented pool of single-GPU nodes: 2 requests/s take one replica, 12 take two."""
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": PLAN, "namespace": namespace},
        "spec": {
            "budget": {"dollarsPerHour": str(BUDGET_DOLLARS)},
            "models": [
                {
                    "name": "llama-3.1-8b",
                    "variants": [
                        {"name": "bf16", "source": "hf://meta-llama/Llama-3.1-8B-Instruct", "precision": "bf16"}
                    ],
                    "classes": [
                        {
                            "name": "chat",
                            "inputTokens": 496,
                            "outputTokens": 253,
                            "requestsPerSecond": str(requests_per_second),
                        }
                    ],
                    "engine": {
                        "podTemplate": {
                            "metadata": {
                                "annotations": {
                                    "kwok.servingplan.dev/ready-seconds": "0",
                                    "kwok.servingplan.dev/stop-seconds": "0",
                                }
                            }
                        }
                    },
                }
            ],
            "nodePools": [
                {
                    "name": "fixed",
                    "gpu": "L40S",
                    "gpusPerNode": 1,
                    "dollarsPerNodeHour": str(FIXED_DOLLARS),
                    "maxNodes": 1,
                    "nodeSelector": {RUN_LABEL: namespace, "kind": "fixed"},
                },
                {
                    "name": "rented",
                    "gpu": "L40S",
                    "gpusPerNode": 1,
                    "dollarsPerNodeHour": str(RENTED_DOLLARS),
                    "maxNodes": 2,
                    "nodeSelector": {RUN_LABEL: namespace, "kind": "rented"},
                    "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": namespace},
                },
            ],
            "change": {"drainSeconds": 0},
        },
    }


def ground(namespace: str) -> list[Json]:
    """The namespace of one run, its fixed node and its pool of rented ones."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        nodes.node(ONE_GPU, f"{namespace}-fixed", labels={RUN_LABEL: namespace, "kind": "fixed"}),
        karpenter.static_node_pool(
            ONE_GPU,
            name=namespace,
            labels={RUN_LABEL: namespace, "kind": "rented"},
            annotations={karpenter.ALLOWED_NAMESPACES_ANNOTATION: namespace},
        ),
    ]


# --- history ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One object as it became, or ceased to be, at one revision of the store."""

    revision: int
    kind: str
    deleted: bool
    item: Json

    @property
    def uid(self) -> str:
        """Of the object."""
        return str(self.item["metadata"]["uid"])


_WATCHED = {
    "Pod": "/api/v1/pods",
    "Service": "/api/v1/services",
    "ConfigMap": "/api/v1/configmaps",
    "Node": "/api/v1/nodes",
    "Deployment": "/apis/apps/v1/deployments",
    "NodePool": "/apis/karpenter.sh/v1/nodepools",
    "LLMServingPlan": "/apis/servingplan.dev/v1alpha1/llmservingplans",
}


class History:
    """Every change of every object, by run. All kinds share one store, whose revisions order them."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._api = cluster.client()
        self._changes: dict[str, list[Change]] = defaultdict(list)
        self._broken: list[BaseException] = []
        self._ended = False
        self._answers: list[urllib3.BaseHTTPResponse] = []

    def __enter__(self) -> Self:
        for kind, path in _WATCHED.items():
            answer = self._begin(path)
            self._answers.append(answer)
            threading.Thread(target=self._follow, args=(kind, answer), name=f"history-{kind}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for answer in self._answers:
            answer.shutdown()
        self._api.close()

    def of(self, run: str) -> list[Change]:
        """All changes of one run so far, in the order in which they happened."""
        assert not self._broken, self._broken
        return sorted(self._changes[run], key=lambda change: change.revision)

    def _begin(self, path: str) -> urllib3.BaseHTTPResponse:
        url = f"{self._api.configuration.host}{path}?watch=true&timeoutSeconds=3600"
        for _ in range(50):
            answer = self._api.rest_client.pool_manager.request("GET", url, preload_content=False, retries=False)
            if answer.status == 200:
                return answer
            answer.close()
            time.sleep(0.2)  # the API server needs a moment for a kind that is new to it
        raise AssertionError(f"{path} cannot be watched: {answer.status}")

    def _follow(self, kind: str, answer: urllib3.BaseHTTPResponse) -> None:
        try:
            rest = b""
            for piece in answer.stream(65536):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._note(kind, json.loads(line))
            assert self._ended, f"the watch of {kind} ended"
        except BaseException as error:
            if not self._ended:
                self._broken.append(error)

    def _note(self, kind: str, event: Json) -> None:
        item = event["object"]
        assert event["type"] in ("ADDED", "MODIFIED", "DELETED"), event
        metadata = item["metadata"]
        run = metadata.get("namespace") or (metadata.get("labels") or {}).get(RUN_LABEL) or metadata["name"]
        change = Change(int(metadata["resourceVersion"]), kind, event["type"] == "DELETED", item)
        self._changes[run].append(change)


class State:
    """What was there at one revision."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Json]] = defaultdict(dict)

    def follow(self, change: Change) -> None:
        """Go on to the next revision."""
        if change.deleted:
            self._objects[change.kind].pop(change.uid, None)
        else:
            self._objects[change.kind][change.uid] = change.item

    def all(self, kind: str) -> list[Json]:
        """Objects of a kind."""
        return list(self._objects[kind].values())

    def ours(self, kind: str) -> list[Json]:
        """Those that carry the plan's label."""
        return [item for item in self.all(kind) if labels(item).get("servingplan.dev/plan") == PLAN]

    def one(self, kind: str, name: str | None = None) -> Json | None:
        """The one object of a kind, or of a name."""
        return next((item for item in self.all(kind) if name in (None, item["metadata"]["name"])), None)

    @property
    def record(self) -> PlanRecord:
        """What the operator wrote down."""
        found = self.one("ConfigMap", f"{PLAN}-plan")
        return PlanRecord.model_validate_json(found["data"]["plan.json"]) if found else PlanRecord()

    @property
    def routing(self) -> Json | None:
        """The routing document."""
        found = self.one("ConfigMap", f"{PLAN}-routing")
        return json.loads(found["data"]["routing.json"]) if found else None

    @property
    def asked_nodes(self) -> int:
        """Size of the rented pool."""
        pool = self.one("NodePool")
        return int(pool["spec"].get("replicas") or 0) if pool else 0

    def nodes(self, kind: str) -> list[Json]:
        """Nodes of a pool that exist, those on their way out included."""
        return [item for item in self.all("Node") if labels(item).get("kind") == kind]


def states(changes: list[Change]) -> Iterator[tuple[Change, State]]:
    """Each change with the state after it; the state is the same object, moved on."""
    state = State()
    for change in changes:
        state.follow(change)
        yield change, state


def labels(item: Json) -> dict[str, str]:
    """Of any object."""
    return item["metadata"].get("labels") or {}


def annotations(item: Json) -> dict[str, str]:
    """Of any object."""
    return item["metadata"].get("annotations") or {}


def is_ready(item: Json) -> bool:
    """Whether a pod or node says so and is not on its way out."""
    conditions = (item.get("status") or {}).get("conditions") or ()
    ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
    return ready and "deletionTimestamp" not in item["metadata"]


# --- operators that can be killed ------------------------------------------------------------------------------------


def _run_operator(kubeconfig: str, namespace: str, log: str) -> None:
    with Path(log).open("ab") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    os.environ["KUBECONFIG"] = kubeconfig
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = kubeconfig  # it was read from the environment before the fork
    app(["run", "--namespaces", namespace, "--liveness-address", ""])


class Operator:
    """``servingplan run`` for one namespace, behind a proxy that may kill it at one of its writes."""

    def __init__(self, namespace: str, proxy: WriteProxy, kubeconfig: Path, log: Path) -> None:
        self._arguments = (str(kubeconfig), namespace, str(log))
        self._proxy = proxy
        self.killed_at: Write | None = None

    def start(self) -> None:
        """Start it; again after a kill."""
        self._process = _FORKS.Process(target=_run_operator, args=self._arguments, daemon=True)
        self._process.start()

    def kill_at(self, number: int, moment: Moment) -> None:
        """SIGKILL at that moment of its write of that number; what it had begun besides is cut off too."""

        def hook(write: Write, now: Moment) -> Verdict:
            if self.killed_at is None and write.number == number and now is moment:
                self.killed_at = write
                self._process.kill()
                return Verdict.DROP
            return Verdict.PASS

        self._proxy.hook = hook

    def revive(self) -> None:
        """Start it again if the kill has happened and it is down."""
        if not self._process.is_alive():
            assert self.killed_at is not None, f"the operator ended by itself, see {self._arguments[2]}"
            self._process.join()
            self._process.close()
            self.start()

    def stop(self) -> None:
        """End it without ceremony."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()


# --- one life of a plan ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """What became of one plan from apply to serving, through an edit, to its deletion."""

    namespace: str
    writes: tuple[Write, ...]
    killed_at: Write | None
    served: Json
    """Where the cluster came to rest after the apply."""
    edited: Json
    """After the edit that drains and shrinks."""
    changes: list[Change]


class Stage:
    """Cluster, history and credentials that all lives share."""

    def __init__(self, cluster: ControlPlane, history: History, folder: Path) -> None:
        self.cluster = cluster
        self.history = history
        self._folder = folder
        self._account = install(cluster.apply)

    def live(self, namespace: str, kill: tuple[int, Moment] | None = None) -> Life:
        """One plan: applied until it serves, edited until it has shrunk, deleted until nothing of it is left."""
        with WriteProxy(self.cluster.kubeconfig) as proxy, self.cluster.client() as api:
            kubeconfig = service_account.write_kubeconfig(
                self.cluster.kubeconfig,
                NAMESPACE,
                self._account,
                self._folder / f"{namespace}.kubeconfig",
                server=proxy.url,
            )
            operator = Operator(namespace, proxy, kubeconfig, self._folder / f"{namespace}.log")
            if kill is not None:
                operator.kill_at(*kill)
            _create(api, *ground(namespace), plan(namespace, 12))
            operator.start()
            try:
                served = self._wait(namespace, operator, lambda state: at_rest(state, generation=1))
                _edit(api, namespace, 2)
                edited = self._wait(namespace, operator, lambda state: at_rest(state, generation=2))
                _delete(api, namespace)
                self._wait(namespace, operator, _gone)
            finally:
                operator.stop()
            assert not proxy.errors, proxy.errors
            changes = self.history.of(namespace)
            return Life(namespace, tuple(proxy.writes), operator.killed_at, served, edited, changes)

    def _wait(self, namespace: str, operator: Operator, look: Callable[[State], Json | None]) -> Json:
        deadline = time.monotonic() + CONVERGE_SECONDS
        while True:
            operator.revive()
            changes = self.history.of(namespace)
            state = State()
            for change in changes:
                state.follow(change)
            if (found := look(state)) is not None:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{namespace}: not at rest after {CONVERGE_SECONDS:.0f} s; killed at {operator.killed_at}; "
                    f"status {json.dumps((state.one('LLMServingPlan') or {}).get('status'), indent=1)}"
                )
            time.sleep(0.1)


def at_rest(state: State, *, generation: int) -> Json | None:
    """The state in words that do not name the run, once the operator says that all is as planned; None before."""
    found = state.one("LLMServingPlan")
    status = (found or {}).get("status") or {}
    conditions = {item["type"]: item["status"] for item in status.get("conditions", ())}
    fleet = state.record.fleet
    if found is None or fleet is None or found["metadata"]["generation"] != generation:
        return None
    if status.get("observedGeneration") != generation or conditions.get("Ready") != "True":
        return None
    if state.asked_nodes != len(state.nodes("rented")) or state.asked_nodes != fleet.nodes.get("rented", 0):
        return None
    if {item["metadata"]["name"] for item in state.ours("Deployment")} != {s.deployment for s in fleet.replica_sets}:
        return None
    if {item["metadata"]["name"] for item in state.ours("Service")} != {s.deployment for s in fleet.replica_sets}:
        return None
    alias = {item.deployment: f"{item.model} on {item.pool}" for item in fleet.replica_sets}
    routing = {**(state.routing or {})}
    assert status["planHash"] == fleet.hash == routing.pop("planHash")
    routing.pop("revision")
    text = json.dumps({"fleet": fleet.model_dump(mode="json"), "routing": routing})
    for name, other in alias.items():
        text = text.replace(name, other)
    plain = json.loads(text.replace(found["metadata"]["namespace"], "NAMESPACE"))
    pods = [(alias[labels(pod)["servingplan.dev/deployment"]], is_ready(pod)) for pod in state.ours("Pod")]
    pool = state.one("NodePool")
    return {
        "plan hash": Fleet.model_validate(plain["fleet"]).hash,
        "routing": plain["routing"],
        "deployments": {alias[item["metadata"]["name"]]: item["spec"]["replicas"] for item in state.ours("Deployment")},
        "services": sorted(alias[item["metadata"]["name"]] for item in state.ours("Service")),
        "config maps": sorted(item["metadata"]["name"] for item in state.ours("ConfigMap")),
        "pods": sorted(pods),
        "nodes asked for": state.asked_nodes,
        "nodes": {kind: len(state.nodes(kind)) for kind in ("fixed", "rented")},
        "claimed by": annotations(pool or {"metadata": {}}).get("servingplan.dev/claimed-by", "").split("/")[-1],
    }


def _gone(state: State) -> Json | None:
    left = [kind for kind in ("Deployment", "Service", "ConfigMap", "Pod") if state.ours(kind)]
    pool = state.one("NodePool")
    claimed = annotations(pool or {"metadata": {}}).get("servingplan.dev/claimed-by")
    return None if left or state.one("LLMServingPlan") or claimed or state.asked_nodes else {}


_PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "NodePool": "/apis/karpenter.sh/v1/nodepools",
}


def _create(api: client.ApiClient, *manifests: Json) -> None:
    for manifest in manifests:
        namespace = manifest["metadata"].get("namespace")
        path = _PATHS.get(manifest["kind"]) or _plans(namespace)
        _send(api, "POST", path, manifest)


def _edit(api: client.ApiClient, namespace: str, requests_per_second: int) -> None:
    models = plan(namespace, requests_per_second)["spec"]["models"]
    _send(api, "PATCH", f"{_plans(namespace)}/{PLAN}", {"spec": {"models": models}})


def _delete(api: client.ApiClient, namespace: str) -> None:
    _send(api, "DELETE", f"{_plans(namespace)}/{PLAN}", {})


def _plans(namespace: str) -> str:
    return f"/apis/servingplan.dev/v1alpha1/namespaces/{namespace}/llmservingplans"


def _send(api: client.ApiClient, method: str, path: str, body: Json) -> None:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    answer = api.rest_client.pool_manager.request(
        method, f"{api.configuration.host}{path}", body=json.dumps(body), headers={"Content-Type": kind}, retries=False
    )
    assert answer.status < 300, (method, path, answer.status, answer.data)
