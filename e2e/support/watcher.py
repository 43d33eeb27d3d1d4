"""A witness of one namespace: looks at every state that the API server held, and writes down what must never happen."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, override

from e2e.support.cluster import node_is_ready, pod_is_ready
from e2e.support.feed import Feed
from e2e.support.waiting import wait_for

Json = dict[str, Any]

LONGEST_SECONDS = 60.0
"""What may hold for a while only: weight on a replica that was lost, a pod that waits for the node that was chosen for it, a
pod that the ReplicaSet controller has yet to end. Mostly it takes a second; this is for a machine that stands still."""

_PREFIX = "servingplan.dev/"
_GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Violation:
    """Something that must never happen, seen."""

    at: float
    """Seconds since the witness came."""
    rule: str
    detail: str

    @override
    def __str__(self) -> str:
        return f"{self.at:.2f} s: {self.rule}: {self.detail}"


@dataclass
class Routing:
    """One published routing document."""

    at: float
    """Received (monotonic)."""
    document: Json

    def services(self, model: str) -> set[str]:
        """Services of a model that any class gives weight to."""
        classes = self.document["models"].get(model, {}).get("classes", ())
        return {target["service"] for entry in classes for target in entry["targets"] if target["weight"] > 0}


@dataclass
class _Pod:
    deployment: str
    node: str | None
    tied: str | None
    gated: bool
    held: bool
    """Whether a gate that is not the plan's holds it."""
    terminating: bool
    ready: bool
    draining: bool
    gpus: int
    group: str | None = None
    """The group of a LeaderWorkerSet that the pod belongs to; None if it belongs to none."""


@dataclass
class _Since:
    """Since when something holds, by key; forgets what holds no more."""

    started: dict[Any, float] = field(default_factory=dict)

    def look(self, now: float, holding: set[Any]) -> dict[Any, float]:
        """Seconds that each has held."""
        self.started = {key: self.started.get(key, now) for key in holding}
        return {key: now - started for key, started in self.started.items()}


class Witness:
    """Watches one namespace's plans. ``violations`` is what a story asserts to be empty."""

    def __init__(self, feed: Feed, namespace: str) -> None:
        self._feed = feed
        self._namespace = namespace
        self._began: float | None = None
        self._pods: dict[str, _Pod] = {}
        self._nodes: dict[str, Json] = {}
        self._pools: dict[str, Json] = {}
        self._deployments: dict[str, Json] = {}
        self._plans: dict[str, Json] = {}
        self._slices: dict[str, Json] = {}
        self._last_reachable: dict[str, float] = {}
        """The time, by Service, at which an EndpointSlice was last seen to list a ready pod."""
        self._budgets: dict[str, dict[int, float]] = defaultdict(dict)
        """The budgets by plan and generation."""
        self._useless_targets, self._pending, self._crowded, self._in_part = self._for_a_while = (
            _Since(),
            _Since(),
            _Since(),
            _Since(),
        )
        self._told: set[Any] = set()
        self.violations: list[Violation] = []
        self._routings: dict[str, list[Routing]] = defaultdict(list)
        """The routing documents by ConfigMap."""
        self.lost_nodes: dict[str, float] = {}
        """When the deletion of a node was seen (monotonic)."""
        self._sizes: dict[str, list[int]] = defaultdict(list)
        """The sizes by NodePool."""
        self._claims: dict[str, list[str]] = defaultdict(list)
        """The plans that held a NodePool, by NodePool."""
        self._spends: dict[str, list[float]] = defaultdict(list)
        """The spend by plan."""
        self._most_pods: dict[str, int] = defaultdict(int)
        """The most pods by Deployment."""

    def __enter__(self) -> Witness:
        self._feed.listen(self._hear, self._judge)
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.leave(self._hear, self._judge)

    def documents(self, config_map: str = "chat-routing") -> list[Routing]:
        """All routing documents of a ConfigMap until now, in order."""
        self._feed.catch_up()
        return list(self._routings.get(config_map, ()))

    def sizes(self, pool: Json) -> list[int]:
        """Sizes that a plan's pool was asked for until now, in order."""
        self._feed.catch_up()
        return list(self._sizes.get(pool["resize"]["name"], ()))

    def claims(self, pool: Json) -> list[str]:
        """The plans that held a pool until now, as NAMESPACE/NAME and in order; "" where it was free."""
        self._feed.catch_up()
        return list(self._claims.get(pool["resize"]["name"], ()))

    def spends(self, plan: str = "chat") -> list[float]:
        """$/h of a plan's pools in each state until now, in order, without repetitions."""
        self._feed.catch_up()
        return list(self._spends.get(plan, ()))

    def most_pods(self, deployment: str) -> int:
        """Most live pods that a Deployment had at any moment until now."""
        self._feed.catch_up()
        return self._most_pods.get(deployment, 0)

    def settle(self) -> None:
        """Wait until nothing holds any more that may hold for a while only. What goes on becomes a violation."""
        self._feed.catch_up()
        wait_for(
            "what may hold for a while only has ended",
            lambda: self.violations or not any(item.started for item in self._for_a_while),
            seconds=LONGEST_SECONDS,
        )

    def report(self) -> str:
        """All violations, one a line."""
        return "\n".join(map(str, self.violations))

    # --- state ---

    def _hear(self, at: float, kind: str, change: str, item: Json) -> None:
        self._began = self._began or at
        metadata = item["metadata"]
        there = change != "DELETED"
        if kind == "Node":
            _put(self._nodes, metadata["name"], item, there)
            if not there:
                self.lost_nodes[metadata["name"]] = at
        elif kind == "NodePool":
            before = self._pools.get(metadata["name"])
            _put(self._pools, metadata["name"], item, there)
            self._see_size(at, before, item)
        elif metadata.get("namespace") != self._namespace:
            return
        elif kind == "Pod":
            deployment = (metadata.get("labels") or {}).get(f"{_PREFIX}deployment")
            if deployment is not None:
                pod = _pod(item, deployment)
                _put(self._pods, metadata["uid"], pod, there)
                if there and pod.held and pod.tied is not None:
                    text = f"{metadata['name']} is tied to {pod.tied}, and somebody else's gate still holds it"
                    self._tell(at, "placed behind another's gate", metadata["uid"], text)
        elif kind == "Deployment" and f"{_PREFIX}plan" in (metadata.get("labels") or {}):
            _put(self._deployments, metadata["name"], item, there)
            self._see_twins(at)
        elif kind == "EndpointSlice":
            self._see_reachable(at)  # as it was until now
            _put(self._slices, metadata["uid"], item, there)
            self._see_reachable(at)
        elif kind == "ConfigMap" and "routing.json" in (item.get("data") or {}) and there:
            self._see_routing(at, item)
        elif kind == "LLMServingPlan":
            _put(self._plans, metadata["name"], item, there)
            budget = float(item["spec"]["budget"]["dollarsPerHour"])
            self._budgets[metadata["name"]][metadata.get("generation", 0)] = budget
        for plan in self._plans:
            _note(self._spends[plan], self.spend(plan))
        self._judge(at)

    # --- rules ---

    def _judge(self, now: float) -> None:
        """The rules that allow a while, over the present state."""
        ready: dict[str, int] = defaultdict(int)
        live: dict[str, int] = defaultdict(int)
        for pod in self._pods.values():
            alive = pod.node in self._nodes and node_is_ready(self._nodes[pod.node])
            ready[pod.deployment] += pod.ready and alive and not pod.draining
            live[pod.deployment] += not pod.terminating
        for name, count in live.items():
            self._most_pods[name] = max(self._most_pods[name], count)
        self._judge_weights(now, ready)
        self._judge_pending(now)
        grouped = {pod.deployment for pod in self._pods.values() if pod.group is not None}
        self._judge_groups(now)
        crowded = {
            name
            for name, count in live.items()
            if name not in grouped
            and count > (self._deployments[name]["spec"]["replicas"] if name in self._deployments else 0)
        }
        for name, seconds in self._crowded.look(now, crowded).items():
            if seconds > LONGEST_SECONDS:
                wanted = self._deployments[name]["spec"]["replicas"] if name in self._deployments else "no"
                self._tell(now, "more pods than replicas", name, f"{name} has {live[name]} live pods, {wanted} wanted")

    def _judge_weights(self, now: float, ready: dict[str, int]) -> None:
        facts = {
            name: json.loads((item["metadata"].get("annotations") or {}).get(f"{_PREFIX}replica-facts", "{}"))
            for name, item in self._deployments.items()
        }
        useless = set()
        for config_map, history in self._routings.items():
            for model, entry in history[-1].document["models"].items():
                for item in entry["classes"]:
                    able = any(
                        count > 0
                        and facts.get(name, {}).get("model") == model
                        and item["name"] in facts[name]["capacity"]
                        for name, count in ready.items()
                    )
                    targets = [target["service"] for target in item["targets"] if target["weight"] > 0]
                    useless |= {(config_map, model, name) for name in targets if able and ready[name] == 0}
        for key, seconds in self._useless_targets.look(now, useless).items():
            if seconds > LONGEST_SECONDS:
                text = f"{key[2]} of {key[1]} has weight and no ready replica for {seconds:.1f} s, another has one"
                self._tell(now, "weight on what is not ready", key, text)

    def _judge_pending(self, now: float) -> None:
        stopping = {pod.node for pod in self._pods.values() if pod.terminating}
        pending = {
            uid
            for uid, pod in self._pods.items()
            if not pod.gated
            and pod.node is None
            and not pod.terminating
            # A node that is gone, or on which others still stop, is no packing of ours.
            and pod.tied in self._nodes
            and pod.tied not in stopping
        }
        for uid, seconds in self._pending.look(now, pending).items():
            if seconds > LONGEST_SECONDS:
                pod = self._pods[uid]
                text = f"a pod of {pod.deployment} with {pod.gpus} GPUs waits for node {pod.tied} for {seconds:.1f} s"
                self._tell(now, "planned pod Pending", uid, text)

    def _judge_groups(self, now: float) -> None:
        """The pods of a group are let go together."""
        gated: dict[str, set[bool]] = defaultdict(set)
        for pod in self._pods.values():
            if pod.group is not None and not pod.terminating:
                gated[pod.group].add(pod.gated)
        for name, seconds in self._in_part.look(now, {name for name, found in gated.items() if len(found) > 1}).items():
            if seconds > LONGEST_SECONDS:
                self._tell(now, "group let go in part", name, f"{name}: some of its pods for {seconds:.1f} s")

    def _see_size(self, at: float, before: Json | None, item: Json) -> None:
        name, size = item["metadata"]["name"], item["spec"].get("replicas") or 0
        _note(self._sizes[name], size)
        annotations = item["metadata"].get("annotations") or {}
        claim = annotations.get(f"{_PREFIX}claimed-by", "")
        _note(self._claims[name], claim)
        namespace, _, plan = claim.partition("/")
        raised = before is not None and size > (before["spec"].get("replicas") or 0)
        ours = annotations.get(f"{_PREFIX}asked-nodes") == str(size) and namespace == self._namespace
        if not (raised and ours and plan in self._plans):
            return
        spend = self.spend(plan)
        budget = self._budget(plan)
        if spend > budget + 1e-6:
            text = f"{name} was raised to {size} nodes: {spend:.2f} $/h, the budget is {budget:.2f} $/h"
            self._tell(at, "spend raised over the budget", (name, at), text)

    def spend(self, plan: str) -> float:
        """$/h of a plan's pools in the state that was seen last."""
        total = 0.0
        for entry in self._plans[plan]["spec"]["nodePools"]:
            price = float(entry.get("dollarsPerNodeHour") or 0)
            if "resize" not in entry:
                held = {pod.node for pod in self._pods.values() if pod.node is not None}
                total += price * sum(1 for name in held if _matches(self._nodes.get(name), entry["nodeSelector"]))
                continue
            pool = self._pools.get(entry["resize"]["name"])
            claim = ((pool or {}).get("metadata", {}).get("annotations") or {}).get(f"{_PREFIX}claimed-by")
            if pool is not None and claim == f"{self._namespace}/{plan}":
                existing = sum(1 for node in self._nodes.values() if _matches(node, entry["nodeSelector"]))
                total += price * max(pool["spec"].get("replicas") or 0, existing)
        return total

    def _budget(self, plan: str) -> float:
        """The largest that a turn now under way can have read: every write after a status is made by its spec or a newer."""
        observed = (self._plans[plan].get("status") or {}).get("observedGeneration", 0)
        return max(budget for generation, budget in self._budgets[plan].items() if generation >= observed)

    def _see_routing(self, at: float, item: Json) -> None:
        document = json.loads(item["data"]["routing.json"])
        history = self._routings[item["metadata"]["name"]]
        if history and history[-1].document == document:
            return
        if history and document["revision"] <= history[-1].document["revision"]:
            text = f"revision {document['revision']} after {history[-1].document['revision']}"
            self._tell(at, "routing revision did not rise", (item["metadata"]["name"], at), text)
        self._see_first_weights(at, item["metadata"]["name"], document)
        history.append(Routing(at, document))
        for model, entry in document["models"].items():
            for found in entry["classes"]:
                total = sum(target["weight"] for target in found["targets"])
                if found["targets"] and total != 10_000:
                    text = f"{model}/{found['name']}: {total} in revision {document['revision']}"
                    self._tell(at, "weights do not sum to 10000", (model, found["name"], at), text)

    def _see_reachable(self, at: float) -> None:
        for item in self._slices.values():
            if any((endpoint.get("conditions") or {}).get("ready") for endpoint in item.get("endpoints") or ()):
                self._last_reachable[item["metadata"]["labels"]["kubernetes.io/service-name"]] = at

    def _see_first_weights(self, at: float, config_map: str, document: Json) -> None:
        """Gateways that go by Services have nobody to send to before an EndpointSlice lists a ready pod. It may have been
        lost again while the weights were on their way."""
        self._see_reachable(at)
        weighted = Routing(at, document)
        for model in document["models"]:
            before = self._routings[config_map][-1].services(model) if self._routings[config_map] else set()
            for name in weighted.services(model) - before:
                if self._last_reachable.get(name, 0.0) < at - LONGEST_SECONDS:
                    text = f"{name} has its first weight in revision {document['revision']}, no EndpointSlice a replica"
                    self._tell(at, "weight before the endpoint", (name, document["revision"]), text)

    def _see_twins(self, at: float) -> None:
        shapes: dict[str, list[str]] = defaultdict(list)
        for name, item in self._deployments.items():
            template = item["spec"]["template"]
            labels = template["metadata"]["labels"]
            what = [
                [labels.get(f"{_PREFIX}{key}") for key in ("plan", "model", "pool")],
                template["metadata"].get("annotations"),
                template["spec"],
            ]
            shapes[hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()].append(name)
        for shape, twins in shapes.items():
            if len(twins) > 1:
                self._tell(at, "two Deployments of one shape", shape, ", ".join(sorted(twins)))

    def _tell(self, at: float, rule: str, key: Any, detail: str) -> None:
        if (rule, key) not in self._told:
            self._told.add((rule, key))
            self.violations.append(Violation(at - (self._began or at), rule, detail))


def _note[T](history: list[T], value: T) -> None:
    """Add a value unless it is the last one."""
    if history[-1:] != [value]:
        history.append(value)


def _put(store: dict[str, Any], key: str, value: Any, there: bool) -> None:
    if there:
        store[key] = value
    else:
        store.pop(key, None)


def _pod(item: Json, deployment: str) -> _Pod:
    metadata, spec = item["metadata"], item["spec"]
    annotations = metadata.get("annotations") or {}
    index = (metadata.get("labels") or {}).get("leaderworkerset.sigs.k8s.io/group-index")
    return _Pod(
        deployment=deployment,
        group=None if index is None else f"{deployment}-{index}",
        node=spec.get("nodeName"),
        tied=annotations.get(f"{_PREFIX}placed-on"),
        gated=bool(spec.get("schedulingGates")),
        held=any(not gate["name"].startswith(_PREFIX) for gate in spec.get("schedulingGates") or ()),
        terminating="deletionTimestamp" in metadata,
        ready=pod_is_ready(item),
        draining=f"{_PREFIX}draining-since" in annotations,
        gpus=sum(int(one.get("resources", {}).get("limits", {}).get(_GPU, 0)) for one in spec["containers"])
        + json.loads(annotations.get(f"{_PREFIX}devices", '{"count": 0}'))["count"],
    )


def _matches(node: Json | None, selector: dict[str, str]) -> bool:
    labels = (node or {}).get("metadata", {}).get("labels") or {}
    return node is not None and all(labels.get(key) == value for key, value in selector.items())
