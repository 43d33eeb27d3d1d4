"""A namespace of a story's own, with its pools, nodes and plans, and what the story asks about them."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from e2e.support.cluster import NODE_CLAIMS, NODE_CLASS, NODE_POOLS, Cluster, get_or_none, node_is_ready, pod_is_ready
from e2e.support.feed import Feed
from e2e.support.operator import PERIOD_SECONDS, Operator, acting_as, running
from e2e.support.releases import THIS, Release
from e2e.support.rights_used import Account
from e2e.support.waiting import wait_for
from e2e.support.watcher import Witness
from localcluster import karpenter, nodes
from localcluster.nodes import NodeType
from servingplan.errors import NotFound
from servingplan.kube import CONFIG_MAPS, DEPLOYMENTS, EVENTS, NODES, PLANS, PODS

Json = dict[str, Any]

GPU_TYPES = {
    "h100-8x": "H100-SXM-80GB",
    "l40s-8x": "L40S",
    "a100-4x": "A100-SXM4-80GB",
    "a100-4x-blind": "A100-SXM4-80GB",
}
"""The catalogue's name of the GPU, by instance type."""
FLEET_LABEL = "servingplan-e2e/fleet"

LET_GO_SECONDS = 120
"""How long an operator may take to release the plans of a story that has ended; it takes a second or two."""


class Told(NamedTuple):
    """An Event of a plan."""

    type: str
    reason: str
    message: str


class Scene:
    """Everything that a story makes; ``close`` removes it."""

    def __init__(self, cluster: Cluster, feed: Feed, folder: Path) -> None:
        self.cluster = cluster
        self.api = cluster.api
        self.feed = feed
        self.name = f"e2e-{secrets.token_hex(3)}"
        self.namespaces: list[str] = []
        self.operators: list[Operator] = []
        self.may_be_refused = False
        """Whether the story takes rights away from its operator."""
        self.has_earlier_releases = False
        """Whether operators of earlier releases have run, which may use other rights."""
        self._folder = folder
        self._fixed_nodes: list[str] = []
        self._pools: list[str] = []
        self.namespace = self.new_namespace("plans")
        self._home = self.new_namespace("operator")

    # --- making ---

    def new_namespace(self, purpose: str) -> str:
        """One more namespace."""
        name = f"{self.name}-{purpose}"
        self.cluster.apply(_object("v1", "Namespace", name))
        wait_for(
            f"the ServiceAccount of {name}",
            lambda: self.cluster.try_kubectl("get", "serviceaccount", "default", "-n", name).returncode == 0,
            seconds=10,
        )
        self.namespaces.append(name)
        return name

    def rented(
        self,
        node_type: NodeType,
        *,
        price: float,
        name: str = "rented",
        most: int = 4,
        least: int = 0,
        allowed: tuple[str, ...] | None = None,
        capacity_type: str = karpenter.ON_DEMAND,
    ) -> Json:
        """A Karpenter NodePool at zero nodes, as an entry of a plan's ``nodePools``."""
        own = f"{self.name}-{name}"
        namespaces = self.namespaces if allowed is None else allowed
        self.cluster.apply(
            karpenter.static_node_pool(
                node_type,
                name=own,
                annotations={karpenter.ALLOWED_NAMESPACES_ANNOTATION: ",".join(namespaces)},
                node_class_name=NODE_CLASS,
                capacity_type=capacity_type,
            )
        )
        self._pools.append(own)
        return _rented_entry(node_type, name, own, price, least=least, most=most)

    def dynamic(self, node_types: tuple[NodeType, ...], *, price: float, name: str) -> Json:
        """A Karpenter NodePool that makes nodes of any of these types for pods that wait, as an entry of a plan's
        ``nodePools``."""
        own = f"{self.name}-{name}"
        annotations = {karpenter.ALLOWED_NAMESPACES_ANNOTATION: ",".join(self.namespaces)}
        self.cluster.apply(karpenter.dynamic_node_pool(node_types, name=own, annotations=annotations))
        self._pools.append(own)
        return _rented_entry(node_types[0], name, own, price, least=0, most=4)

    def fixed(self, node_type: NodeType, count: int, *, price: float, name: str = "fixed") -> Json:
        """Fixed nodes that KWOK keeps alive, as an entry of a plan's ``nodePools``."""
        fleet = f"{self.name}-{name}"
        made = [f"{fleet}-{number}" for number in range(count)]
        for node_name in made:
            self.api.create(NODES, nodes.node(node_type, node_name, labels={FLEET_LABEL: fleet}))
        self._fixed_nodes += made
        wait_for("the fixed nodes are Ready", lambda: all(map(self.node_ready, made)), seconds=10)
        return {
            "name": name,
            "gpu": GPU_TYPES[node_type.name],
            "gpusPerNode": node_type.gpus,
            "dollarsPerNodeHour": f"{price:g}",
            "nodeSelector": {FLEET_LABEL: fleet},
        }

    def foreign_pod(self, name: str, *, gpus: int, node: str, namespace: str | None = None) -> None:
        """Somebody else's pod that holds GPUs of a node."""
        resources = {"requests": {"nvidia.com/gpu": str(gpus)}, "limits": {"nvidia.com/gpu": str(gpus)}}
        spec = {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{"name": "main", "image": "x", "resources": resources}],
            "terminationGracePeriodSeconds": 1,
        }
        manifest = {"metadata": {"name": name}, "spec": spec}
        self.api.create(PODS, manifest, namespace=namespace or self.namespace)

    @contextmanager
    def operator(
        self,
        *,
        clusterwide: bool = False,
        watched: tuple[str, ...] | None = None,
        server: str | None = None,
        edit: Callable[[list[Json]], None] | None = None,
        period_seconds: float = PERIOD_SECONDS,
        release: Release = THIS,
        lets_plans_go: bool = True,
    ) -> Iterator[Operator]:
        """The operator for the plans of this scene's namespace, of ``watched``, or of all namespaces. Without
        ``lets_plans_go`` another is to follow it."""
        chosen = () if clusterwide else watched or (self.namespace,)
        self.may_be_refused |= edit is not None
        self.has_earlier_releases |= release is not THIS
        log = self._folder / f"operator-{len(self.operators)}.log"
        with running(
            self.cluster,
            namespace=self._home,
            watched=chosen,
            log=log,
            server=server,
            edit=edit or (lambda manifests: None),
            period_seconds=period_seconds,
            release=release,
        ) as operator:
            self.operators.append(operator)
            try:
                yield operator
            finally:
                if lets_plans_go:
                    self.let_plans_go()

    @contextmanager
    def operator_of(self, account: str, *, namespace: str) -> Iterator[Operator]:
        """The operator with the rights of a ServiceAccount that the story has installed, for this scene's namespace."""
        log = self._folder / f"operator-{len(self.operators)}.log"
        with acting_as(self.cluster, account, namespace=namespace, watched=(self.namespace,), log=log) as operator:
            self.operators.append(operator)
            try:
                yield operator
            finally:
                self.let_plans_go()

    def witness(self) -> Witness:
        """A witness of the namespace, from now on."""
        return Witness(self.feed, self.namespace)

    def apply(self, plan: Json) -> None:
        """Apply a plan as its user would."""
        self.cluster.apply(plan, manager="kubectl")

    def edit(self, name: str, change: Json, *, namespace: str | None = None) -> None:
        """Merge a change into a plan's spec."""
        self.api.merge(PLANS, name, {"spec": change}, manager="kubectl-edit", namespace=namespace or self.namespace)

    # --- asking ---

    def account(self, story: str) -> Account | None:
        """What the scene's operators do from now on; None where nobody can tell."""
        if self.cluster.audit is None:
            return None
        user = f"system:serviceaccount:{self._home}:servingplan"
        return Account(self.cluster.audit, user, home=self._home, story=story)

    def plan(self, name: str = "chat", namespace: str | None = None) -> Json:
        """A plan as it stands."""
        return self.api.get(PLANS, name, namespace=namespace or self.namespace)

    def condition(self, kind: str, name: str = "chat", namespace: str | None = None) -> Json:
        """A condition of a plan; empty where it has none yet."""
        return _condition(self.plan(name, namespace), kind)

    def conditions(self, name: str = "chat", namespace: str | None = None) -> str:
        """All conditions of a plan, for messages."""
        found = (self.plan(name, namespace).get("status") or {}).get("conditions", ())
        return "; ".join(f"{item['type']}={item['status']} {item['reason']}: {item['message']}" for item in found)

    def wait_ready(
        self,
        name: str = "chat",
        *,
        seconds: float = 30,
        namespace: str | None = None,
        such: Callable[[Json], bool] = lambda status: True,
    ) -> Json:
        """Wait until the plan of the present spec is applied and serves; the status that says so.

        ``such``: what else is to be true of it, where the plan was Ready before and may not yet say otherwise.
        """

        def look() -> Json | None:
            plan = self.plan(name, namespace)
            ready = _condition(plan, "Ready").get("status") == "True" and such(plan["status"])
            return plan["status"] if ready else None

        shown = lambda: self.conditions(name, namespace)  # noqa: E731
        return wait_for(f"plan {name} is Ready", look, seconds=seconds, shown=shown)

    def wait_condition(
        self, kind: str, reason: str, name: str = "chat", *, seconds: float = 15, namespace: str | None = None
    ) -> str:
        """Wait until a condition has a reason; its message."""

        def look() -> Json | None:
            found = self.condition(kind, name, namespace)
            return found if found.get("reason") == reason else None

        shown = lambda: self.conditions(name, namespace)  # noqa: E731
        found = wait_for(f"plan {name} has {kind} with reason {reason}", look, seconds=seconds, shown=shown)
        return str(found["message"])

    def routing(self, name: str = "chat") -> Json:
        """The routing document of a plan; empty where there is none."""
        found = get_or_none(self.api, CONFIG_MAPS, f"{name}-routing", self.namespace)
        return json.loads(found["data"]["routing.json"]) if found else {}

    def weights(self, model: str, name: str = "chat") -> dict[str, int]:
        """Weights of the first class of a model, by Service."""
        entry = self.routing(name).get("models", {}).get(model)
        return {item["service"]: item["weight"] for item in entry["classes"][0]["targets"]} if entry else {}

    def deployments(self, namespace: str | None = None) -> dict[str, Json]:
        """Deployments of plans, by name."""
        found = self.api.list(DEPLOYMENTS, namespace=namespace or self.namespace, labels="servingplan.dev/plan")
        return {item["metadata"]["name"]: item for item in found}

    def pods(self, namespace: str | None = None) -> list[Json]:
        """Pods of plans."""
        return list(self.api.list(PODS, namespace=namespace or self.namespace, labels="servingplan.dev/plan"))

    def ready_pods(self) -> list[Json]:
        """Those that are Ready."""
        return [pod for pod in self.pods() if pod_is_ready(pod)]

    def nodes_of(self, pool: Json) -> list[str]:
        """Names of a pool's nodes."""
        labels = ",".join(f"{key}={value}" for key, value in pool["nodeSelector"].items())
        return sorted(item["metadata"]["name"] for item in self.api.list(NODES, labels=labels))

    def claims_of(self, pool: Json) -> list[str]:
        """Names of a pool's NodeClaims."""
        found = self.api.list(NODE_CLAIMS, labels=f"karpenter.sh/nodepool={pool['resize']['name']}")
        return sorted(item["metadata"]["name"] for item in found)

    def claim_of(self, node: str) -> str:
        """Name of the NodeClaim by which Karpenter holds a node."""
        owners = self.api.get(NODES, node)["metadata"]["ownerReferences"]
        return next(str(owner["name"]) for owner in owners if owner["kind"] == NODE_CLAIMS.kind)

    def size_of(self, pool: Json) -> int:
        """Size that a pool is asked for."""
        return self.pool_object(pool)["spec"].get("replicas") or 0

    def pool_object(self, pool: Json) -> Json:
        """Its NodePool."""
        return self.api.get(NODE_POOLS, pool["resize"]["name"])

    def node_ready(self, name: str) -> bool:
        """Whether a node is there and Ready."""
        found = get_or_none(self.api, NODES, name)
        return found is not None and node_is_ready(found)

    def lose_node(self, name: str) -> None:
        """Take a node away at once, as a cloud does with a machine that died: nobody drains it."""
        self.cluster.kubectl("delete", "node", name, "--wait=false")
        self.cluster.try_kubectl("patch", "node", name, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')

    def events(self, plan: str = "chat", namespace: str | None = None) -> list[Told]:
        listed = self.api.list(EVENTS, namespace=namespace or self.namespace, fields=f"involvedObject.name={plan}")
        return [Told(item["type"], item["reason"], item["message"]) for item in listed]

    def wait_event(self, reason: str, plan: str = "chat", *, namespace: str | None = None) -> Told:
        """Wait for an Event: a turn posts them after it has written the status, so a look at once may be too early."""

        def look() -> list[Told]:
            return [event for event in self.events(plan, namespace) if event.reason == reason]

        return wait_for(f"an Event {reason} of {plan}", look, seconds=10, shown=lambda: self.events(plan, namespace))[0]

    def words(self) -> str:
        """What the operators have logged."""
        return "\n".join(operator.words() for operator in self.operators)

    # --- ending ---

    def let_plans_go(self) -> None:
        """Delete the plans while an operator is there to release their pools; what they made goes with the namespace."""
        left = [(space, item["metadata"]["name"]) for space in self.namespaces for item in self._plans(space)]
        for namespace, name in left:
            try:
                self.edit(name, {"deletionPolicy": "Retain"}, namespace=namespace)
                self.cluster.try_kubectl("delete", "lsp", name, "-n", namespace, "--wait=false")
            except NotFound:
                continue
        deadline = time.monotonic() + LET_GO_SECONDS
        while left and time.monotonic() < deadline and any(self._plans(space) for space in self.namespaces):
            time.sleep(0.1)

    def _plans(self, namespace: str) -> list[Json]:
        return list(self.api.list(PLANS, namespace=namespace))

    def close(self) -> list[str]:
        """Remove all; the names of plans whose finalizer had to be taken off by force."""
        forced = []
        for namespace in self.namespaces:
            for item in self._plans(namespace):
                name = item["metadata"]["name"]
                forced.append(f"{namespace}/{name}")
                self.cluster.try_kubectl("delete", "lsp", name, "-n", namespace, "--wait=false")
                free = {"metadata": {"finalizers": None}}
                self.cluster.try_kubectl("patch", "lsp", name, "-n", namespace, "--type=merge", "-p", json.dumps(free))
        if self._pools:
            self.cluster.try_kubectl("delete", "nodepool", *self._pools, "--wait=false", "--ignore-not-found")
        if self._fixed_nodes:
            self.cluster.try_kubectl("delete", "node", *self._fixed_nodes, "--wait=false", "--ignore-not-found")
        self.cluster.try_kubectl("delete", "namespace", *self.namespaces, "--wait=false", "--ignore-not-found")
        return forced


def _condition(plan: Json, kind: str) -> Json:
    """The condition of the present spec; empty where nothing is said of it yet."""
    status = plan.get("status") or {}
    current = status.get("observedGeneration") == plan["metadata"]["generation"]
    return next((item for item in status.get("conditions", ()) if current and item["type"] == kind), {})


def _object(api_version: str, kind: str, name: str) -> Json:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}


def _rented_entry(node_type: NodeType, name: str, own: str, price: float, *, least: int, most: int) -> Json:
    """An entry of a plan's ``nodePools`` for the NodePool ``own``."""
    return {
        "name": name,
        "gpu": GPU_TYPES[node_type.name],
        "gpusPerNode": node_type.gpus,
        "dollarsPerNodeHour": f"{price:g}",
        "minNodes": least,
        "maxNodes": most,
        "nodeSelector": {"karpenter.sh/nodepool": own},
        "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": own},
    }
