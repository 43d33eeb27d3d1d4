"""How long it takes from a loss that the API shows to routing without it: at rest, and while other plans are searched."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from benchmarks.ground import POOL_LABEL, Ground, Json, Watch, ground, is_ready, wait, weights
from benchmarks.report import Row, Section, alone, percentile
from localcluster import nodes
from servingplan.kube import CONFIG_MAPS, NODES, PLANS, PODS

GOAL_SECONDS = 1.0
POOLS = ("one", "two", "three", "four")
NAMESPACE, PLAN = "losses", "chat"
KEY = (NAMESPACE, f"{PLAN}-routing")
SEARCHING = "searching"
SEARCHED_PLANS = 12
SEARCH_SECONDS = 60
EDIT_SECONDS = 5.0
"""The time between two edits, each of another plan. They share few processes, so searches never stop."""
SEARCHED_POOLS = {
    "h100": {"gpu": "H100-SXM-80GB", "gpusPerNode": 8, "dollarsPerNodeHour": "24"},
    "l40s": {"gpu": "L40S", "gpusPerNode": 8, "dollarsPerNodeHour": "7.2"},
    "a100": {"gpu": "A100-SXM4-80GB", "gpusPerNode": 4, "dollarsPerNodeHour": "7.1"},
}
SEARCHED_NODES = 8
"""The nodes of each pool."""
SEARCHED_MODELS = (
    "llama-3.1-8b",
    "llama-3.1-70b",
    "qwen3-32b",
    "gemma-3-27b",
    "mixtral-8x7b",
    "qwen2.5-32b",
    "qwen2.5-72b",
)
SEARCHED_CLASSES = ((496, 18, 9.0), (824, 510, 5.5), (2455, 100, 3.1))
"""Input tokens, output tokens and requests per second."""


def measure(quick: bool) -> Section:
    """Losses of a pod and of a node by turns; the plan is whole again before each."""
    losses = 6 if quick else 300
    with ground() as here:
        for pool in POOLS:
            here.nodes(pool, 1, nodes.A100)
        here.namespace(NAMESPACE)
        watches = {resource: here.watch(resource) for resource in (PODS, NODES, CONFIG_MAPS)}
        here.api.create(PLANS, plan(), namespace=NAMESPACE)
        _whole(watches[CONFIG_MAPS])
        time.sleep(2)
        rows = _rows(_lose(here, watches, losses), "")
        with _searches(here) as searching:
            begun, used = time.monotonic(), here.processor_seconds_with_searches()
            rows += _rows(_lose(here, watches, losses), f", while {SEARCHED_PLANS} plans are searched")
            share = (here.processor_seconds_with_searches() - used) / (time.monotonic() - begun)
    return Section(
        "From a loss to weights without it",
        "Four pools with one replica each. From the moment at which a watch shows the loss (pod gone or on its way out, node "
        "NotReady) to the moment at which a watch shows routing without weight on it; both watches in one process. Then "
        f"the same while {SEARCHED_PLANS} other plans of {len(SEARCHED_MODELS)} models on {len(SEARCHED_POOLS)} pools are "
        f"edited by turns, one each {EDIT_SECONDS:g} s, and each search may take {SEARCH_SECONDS} s. In the mean "
        f"{statistics.mean(searching):.1f} plans were searched or waited for it. The operator and its searches used "
        f"{share:.2f} of a core.",
        tuple(rows),
    )


def _lose(here: Ground, watches: dict[Any, Watch], losses: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"a pod is deleted": [], "a node becomes NotReady": []}
    for number in range(losses):
        services = _whole(watches[CONFIG_MAPS])
        service = services[number % len(services)]
        pod = _pod_of(watches[PODS], service)
        lose = (_delete_pod, _fail_node)[number % 2]
        found[list(found)[number % 2]].append(lose(here, watches, service, pod))
    return found


def _rows(found: dict[str, list[float]], when: str) -> list[Row]:
    every = [value for values in found.values() for value in values]
    rows = [
        Row(
            f"{what}{when}, {len(values)} times",
            f"p50 {percentile(values, 50):.2f} s, p99 {percentile(values, 99):.2f} s",
        )
        for what, values in found.items()
    ]
    p99 = percentile(every, 99)
    text = f"p50 {percentile(every, 50):.2f} s, p99 {p99:.2f} s, most {max(every):.2f} s"
    return [*rows, Row(f"all {len(every)} losses{when}", text, f"p99 {GOAL_SECONDS:g} s", p99 < GOAL_SECONDS)]


@contextmanager
def _searches(here: Ground) -> Iterator[list[int]]:
    """Other plans, whose questions change faster than they are answered; how many wait for an answer, looked at before each
    edit."""
    here.namespace(SEARCHING)
    for pool in SEARCHED_POOLS:
        here.nodes(pool, SEARCHED_NODES)
    names = [f"{SEARCHING}-{number}" for number in range(SEARCHED_PLANS)]
    for name in names:
        here.api.create(PLANS, searched_plan(name, "1"), namespace=SEARCHING)
    ended = threading.Event()
    searching: list[int] = []

    def edit() -> None:
        for number in count():
            if ended.wait(EDIT_SECONDS):
                return
            searching.append(sum(map(_is_searched, here.api.list(PLANS, namespace=SEARCHING))))
            name, rate = names[number % len(names)], f"{1 + number % 97 / 1000:.3f}"
            here.api.merge(
                PLANS, name, {"spec": searched_plan(name, rate)["spec"]}, namespace=SEARCHING, manager="benchmark"
            )

    editor = threading.Thread(target=edit, daemon=True)
    editor.start()
    time.sleep(4 * EDIT_SECONDS)
    searching.clear()
    try:
        yield searching
    finally:
        ended.set()
        editor.join()


def _is_searched(plan: Json) -> bool:
    conditions = (plan.get("status") or {}).get("conditions") or ()
    return any(item["reason"] == "Searching" for item in conditions)


def searched_plan(name: str, factor: str) -> Json:
    """A plan that is only shown, so that it needs none of the nodes that it may use."""
    models = [
        {
            "name": model,
            "classes": [
                {
                    "name": f"c{number}",
                    "inputTokens": prompt,
                    "outputTokens": answer,
                    "requestsPerSecond": f"{rate * float(factor):.4f}",
                }
                for number, (prompt, answer, rate) in enumerate(SEARCHED_CLASSES)
            ],
        }
        for model in SEARCHED_MODELS
    ]
    pools = [
        {"name": name, **pool, "maxNodes": SEARCHED_NODES, "nodeSelector": {POOL_LABEL: name}}
        for name, pool in SEARCHED_POOLS.items()
    ]
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": name, "namespace": SEARCHING},
        "spec": {
            "budget": {"dollarsPerHour": "400"},
            "mode": "Preview",
            "models": models,
            "nodePools": pools,
            # Without this the search is over in two seconds.
            "resilience": {"survive": [{"event": "AnyNode"}]},
            "solver": {"deadlineSeconds": SEARCH_SECONDS},
        },
    }


def plan() -> Json:
    """More demand for a model than four nodes serve, and replicas that fill a node, so that each is a Deployment of its own."""
    pool: dict[str, Any] = {"gpu": "A100-SXM4-80GB", "gpusPerNode": 4, "dollarsPerNodeHour": "1", "maxNodes": 1}
    card = {
        "parameters": 120 * 10**9,
        "layers": 1,
        "hiddenSize": 8192,
        "attentionHeads": 4,
        "kvHeads": 4,
        "headDim": 128,
    }
    variants = [{"name": "bf16", "source": "hf://example/large"}]
    classes = [{"name": "short", "inputTokens": 496, "outputTokens": 18, "requestsPerSecond": "100000"}]
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": PLAN, "namespace": NAMESPACE},
        "spec": {
            "budget": {"dollarsPerHour": "10"},
            "models": [{"name": "large", "card": card, "variants": variants, "classes": classes}],
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
