"""From a loss that the API shows to routing without it, hundreds of times."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.ground import POOL_LABEL, Ground, Json, Watch, ground, is_ready, wait, weights
from benchmarks.report import Row, Section, alone, percentile
from localcluster import nodes
from servingplan.kube import CONFIG_MAPS, NODES, PLANS, PODS

GOAL_SECONDS = 1.0
POOLS = ("one", "two", "three", "four")
NAMESPACE, PLAN = "losses", "chat"
KEY = (NAMESPACE, f"{PLAN}-routing")


def measure(quick: bool) -> Section:
    """Losses of a pod and of a node by turns; the plan is whole again before each."""
    losses = 6 if quick else 300
    found: dict[str, list[float]] = {"a pod is deleted": [], "a node becomes NotReady": []}
    with ground() as here:
        for pool in POOLS:
            here.nodes(pool, 1, nodes.A100)
        here.namespace(NAMESPACE)
        watches = {resource: here.watch(resource) for resource in (PODS, NODES, CONFIG_MAPS)}
        here.api.create(PLANS, _plan(), namespace=NAMESPACE)
        _whole(watches[CONFIG_MAPS])
        time.sleep(2)
        for number in range(losses):
            services = _whole(watches[CONFIG_MAPS])
            service = services[number % len(services)]
            pod = _pod_of(watches[PODS], service)
            lose = (_delete_pod, _fail_node)[number % 2]
            found[list(found)[number % 2]].append(lose(here, watches, service, pod))
    every = [value for values in found.values() for value in values]
    rows = [
        Row(f"{what}, {len(values)} times", f"p50 {percentile(values, 50):.2f} s, p99 {percentile(values, 99):.2f} s")
        for what, values in found.items()
    ]
    p99 = percentile(every, 99)
    text = f"p50 {percentile(every, 50):.2f} s, p99 {p99:.2f} s, most {max(every):.2f} s"
    rows.append(Row(f"all {len(every)} losses", text, f"p99 {GOAL_SECONDS:g} s", p99 < GOAL_SECONDS))
    return Section(
        "From a loss to weights without it",
        "Four pools with one replica each. From the moment at which a watch shows the loss (pod gone or on its way out, node "
        "NotReady) to the moment at which a watch shows routing without weight on it; both watches in one process.",
        tuple(rows),
    )


def _plan() -> Json:
    """A model whose replicas fill a node, so that each of the four is a Deployment of its own."""
    pool: dict[str, Any] = {"gpu": "A100-SXM4-80GB", "gpusPerNode": 4, "dollarsPerNodeHour": "1", "maxNodes": 1}
    card = {
        "parameters": 120 * 10**9,
        "layers": 1,
        "hiddenSize": 8192,
        "attentionHeads": 4,
        "kvHeads": 4,
        "headDim": 128,
    }
    classes = [{"name": "short", "inputTokens": 496, "outputTokens": 18, "requestsPerSecond": "100"}]
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": PLAN, "namespace": NAMESPACE},
        "spec": {
            "budget": {"dollarsPerHour": "10"},
            "models": [{"name": "large", "card": card, "classes": classes}],
            "nodePools": [{**pool, "name": name, "nodeSelector": {POOL_LABEL: name}} for name in POOLS],
            # A node that comes back is planned for at once: the next loss waits for it.
            "change": {"drainSeconds": 0, "minGain": "0", "minLifetime": "0s"},
        },
    }


def _whole(config_maps: Watch) -> list[str]:
    """Services, once all have weight; then a moment for what may still be under way."""
    config_maps.wait(lambda objects: len(_served(objects.get(KEY))) == len(POOLS), 120)
    time.sleep(0.25)
    return sorted(_served(config_maps.objects[KEY]))


def _served(config_map: Json | None) -> set[str]:
    return {name for targets in weights(config_map).values() for name, weight in targets.items() if weight > 0}


def _pod_of(pods: Watch, service: str) -> Json:
    found: list[Json] = []

    def look(objects: Any) -> bool:
        found[:] = [
            item
            for item in objects.values()
            if item["metadata"].get("labels", {}).get("servingplan.dev/deployment") == service and is_ready(item)
        ]
        return bool(found)

    pods.wait(look)
    return found[0]


def _delete_pod(here: Ground, watches: dict[Any, Watch], service: str, pod: Json) -> float:
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    here.api.delete(PODS, name, uid=uid, namespace=NAMESPACE)

    def lost(objects: Any) -> bool:
        item = objects.get((NAMESPACE, name))
        return item is None or "deletionTimestamp" in item["metadata"]

    return _until_out(watches, service, watches[PODS].wait(lost))


def _fail_node(here: Ground, watches: dict[Any, Watch], service: str, pod: Json) -> float:
    node = pod["spec"]["nodeName"]
    _annotate(here, node, "true")
    seconds = _until_out(watches, service, watches[NODES].wait(lambda objects: not is_ready(objects["", node])))
    _annotate(here, node, None)
    wait(lambda: is_ready(here.api.get(NODES, node)), 60)
    # The cluster has made its pod not Ready; a new one begins afresh.
    here.api.delete(PODS, pod["metadata"]["name"], uid=pod["metadata"]["uid"], namespace=NAMESPACE)
    return seconds


def _until_out(watches: dict[Any, Watch], service: str, lost_at: float) -> float:
    seen_at = watches[CONFIG_MAPS].wait(lambda objects: service not in _served(objects[KEY]))
    return max(0.0, seen_at - lost_at)


def _annotate(here: Ground, node: str, failed: str | None) -> None:
    patch = {"metadata": {"annotations": {nodes.NOT_READY_ANNOTATION: failed}}}
    here.api.merge(NODES, node, patch, manager="benchmark")


if __name__ == "__main__":
    alone(measure)
