"""Turn time, requests and memory of the operator with 1,000 GPU nodes and 1,500 pods, at rest and during churn."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import Any

from benchmarks.ground import POOL_LABEL, Ground, Json, ground, wait
from benchmarks.report import Row, Section, alone, percentile
from localcluster import nodes
from servingplan.errors import NotFound
from servingplan.kube import NODES, PLANS, PODS

GOAL_MEBIBYTES = 250
NODES_COUNT, FOREIGN_PODS, OUR_PODS = 1000, 1100, 400
NAMESPACE, STRANGERS = "large", "strangers"
PERIOD_SECONDS = 5.0


def measure(quick: bool) -> Section:
    """Build it up, look at it at rest, then change ten things a second."""
    share = 0.05 if quick else 1.0
    seconds = 12 if quick else 90
    node_count, foreign, ours = (round(count * share) for count in (NODES_COUNT, FOREIGN_PODS, OUR_PODS))
    with ground(audit=True, period_seconds=PERIOD_SECONDS) as here:
        names = here.nodes("a100", node_count, nodes.A100)
        for namespace in (NAMESPACE, STRANGERS):
            here.namespace(namespace)
        holders = [(f"stranger-{number}", names[number % node_count]) for number in range(foreign)]
        here.each(lambda number: _hold(here, *holders[int(number)]), map(str, range(foreign)))
        before = here.resident_mebibytes()[0]
        started = time.monotonic()
        here.api.create(PLANS, plan(node_count, ours), namespace=NAMESPACE)
        wait(lambda: _is_ready(here), 600)
        ready = time.monotonic() - started
        replicas = sum(1 for _ in here.api.list(PODS, namespace=NAMESPACE))
        time.sleep(2 * PERIOD_SECONDS)
        rest = _window(here, lambda: time.sleep(seconds))
        churn = _window(here, lambda: _churn(here, holders, seconds))
        most = here.resident_mebibytes()[1]
    return Section(
        f"{node_count:,} GPU nodes, {foreign + replicas:,} pods that hold GPUs",
        f"One plan on one pool of all the nodes, with {replicas} replicas; the other {foreign:,} pods are somebody else's. "
        f"A turn is due every {PERIOD_SECONDS:g} s here (15 s by default). Churn, for {seconds} s: each second, four foreign "
        "pods go and come and four nodes send heartbeats.",
        (
            Row("from apply to all replicas Ready", f"{ready:.0f} s"),
            *_rows("at rest", rest),
            *_rows("during churn", churn),
            Row("resident memory without a plan", f"{before:.0f} MiB"),
            Row("resident memory, most of all", f"{most:.0f} MiB", f"{GOAL_MEBIBYTES} MiB", most <= GOAL_MEBIBYTES),
        ),
    )


def _rows(when: str, found: dict[str, Any]) -> list[Row]:
    turns = found["turns"]
    times = (
        f"p50 {percentile(turns, 50):.2f} s, p95 {percentile(turns, 95):.2f} s ({len(turns)} turns)"
        if turns
        else "none"
    )
    return [
        Row(f"turn, {when}", times),
        Row(
            f"requests per turn, {when}",
            f"{found['reads'] / max(1, len(turns)):.0f} reads, {found['writes']} writes in all",
        ),
        Row(f"processor, {when}", f"{found['processor']:.0%} of one core"),
        Row(f"resident memory, {when}", f"{found['mebibytes']:.0f} MiB"),
    ]


def _window(here: Ground, during: Any) -> dict[str, Any]:
    since, used, seen = time.time(), here.processor_seconds(), len(_turns(here))
    during()
    requests = here.requests(since)
    writes = sum(1 for event in requests if event["verb"] not in ("get", "list"))
    return {
        "turns": _turns(here)[seen:],
        "reads": len(requests) - writes,
        "writes": writes,
        "processor": (here.processor_seconds() - used) / (time.time() - since),
        "mebibytes": here.resident_mebibytes()[0],
    }


def _turns(here: Ground) -> list[float]:
    return [float(text) for text in re.findall(r"turn of ([0-9.]+) s", here.log.read_text())]


def plan(node_count: int, replicas: int) -> Json:
    classes = [{"name": "short", "inputTokens": 496, "outputTokens": 18, "requestsPerSecond": str(20 * replicas)}]
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": "large", "namespace": NAMESPACE},
        "spec": {
            "budget": {"dollarsPerHour": str(10 * node_count)},
            "models": [{"name": "llama-3.1-8b", "classes": classes}],
            "nodePools": [
                {
                    "name": "a100",
                    "gpu": "A100-SXM4-80GB",
                    "gpusPerNode": 4,
                    "dollarsPerNodeHour": "10",
                    "maxNodes": node_count,
                    "nodeSelector": {POOL_LABEL: "a100"},
                }
            ],
        },
    }


def _is_ready(here: Ground) -> bool:
    status = here.api.get(PLANS, "large", namespace=NAMESPACE).get("status") or {}
    return any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions", ()))


def _hold(here: Ground, name: str, node: str) -> None:
    """Somebody else's pod on one GPU of a node."""
    one = {"nvidia.com/gpu": "1"}
    container = {"name": "main", "image": "train", "resources": {"requests": one, "limits": one}}
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0}
    metadata = {"name": name, "namespace": STRANGERS}
    here.api.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, namespace=STRANGERS)


def _churn(here: Ground, holders: list[tuple[str, str]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    number = 0
    while (left := deadline - time.monotonic()) > 0:
        name, node = holders[number % len(holders)]
        pod = here.api.get(PODS, name, namespace=STRANGERS)
        here.api.delete(PODS, name, uid=pod["metadata"]["uid"], namespace=STRANGERS)
        wait(partial(_is_gone, here, name), 30)
        _hold(here, name, node)
        heartbeat = {"status": {"conditions": here.api.get(NODES, node)["status"]["conditions"]}}
        for condition in heartbeat["status"]["conditions"]:
            condition["lastHeartbeatTime"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        here.api.merge(NODES, node, heartbeat, manager="kubelet", subresource="status")
        number += 1
        time.sleep(min(left, 0.25))


def _is_gone(here: Ground, name: str) -> bool:
    try:
        here.api.get(PODS, name, namespace=STRANGERS)
    except NotFound:
        return True
    return False


if __name__ == "__main__":
    alone(measure)
