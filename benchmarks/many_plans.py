"""The operator with 50 plans on 1,000 nodes among 15,000 pods of others, each as large as real ones are."""

from __future__ import annotations

import argparse
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.ground import POOL_LABEL, Ground, Json, ground, wait
from benchmarks.report import Row, Section, alone, show
from localcluster import nodes
from servingplan.kube import CONFIG_MAPS, NODES, PLANS, PODS

NODES_COUNT, STRANGERS_COUNT, AT_REST_PLANS, NEW_PLANS = 1000, 15_000, 30, 20
POD_BYTES = 14_000
CHANGES_PER_SECOND = 20
PERIOD_SECONDS = 15.0
WRITES = ("create", "update", "patch", "delete")
NAMESPACE, STRANGERS = "plans", "strangers"


def measure(quick: bool) -> Section:
    """The section of the page, as large as the goals ask for, or a twentieth of it."""
    return measured(0.05 if quick else 1.0, seconds=15 if quick else 120)


def measured(share: float, *, seconds: float) -> Section:
    """``share`` of all counts; each window lasts so many seconds."""
    node_count, strangers, old, new = (
        max(1, round(count * share)) for count in (NODES_COUNT, STRANGERS_COUNT, AT_REST_PLANS, NEW_PLANS)
    )
    with ground(audit=True, period_seconds=PERIOD_SECONDS) as here:
        fixed = here.nodes("l40s", old + new)
        others = [f"other-{number}" for number in range(node_count - old - new)] or fixed
        if others is not fixed:
            here.each(lambda name: here.api.create(NODES, nodes.node(nodes.A100, name)), others)
        for namespace in (NAMESPACE, STRANGERS):
            here.namespace(namespace)
        here.each(
            lambda number: _stranger(here, f"stranger-{number}", others[int(number) % len(others)]),
            map(str, range(strangers)),
        )
        for number, name in enumerate(fixed):
            here.api.merge(NODES, name, {"metadata": {"labels": {POOL_LABEL: f"p{number}"}}}, manager="benchmark")
        _apply(here, range(old))
        wait(lambda: _routed(here) >= old, 900)
        begun = time.monotonic()
        _apply(here, range(old, old + new))
        wait(lambda: _routed(here) >= old + new, 900)
        routed = time.monotonic() - begun
        wait(lambda: _explained(here) >= old + new, 900)  # one at a time, beside the turns
        time.sleep(2 * PERIOD_SECONDS)
        rest = _window(here, lambda: time.sleep(seconds))
        churn = _window(here, lambda: _churn(here, others, seconds))
        memory = _mebibytes(here)
        start = _seconds_to_first_turn(here)
    lists = rest["lists"] / max(1.0, rest["turns"])
    return Section(
        f"{node_count:,} nodes, {strangers:,} pods of others of {POD_BYTES / 1000:g} KB, {old + new} plans",
        f"Each plan has one replica on a fixed node of its own. A turn is due every {PERIOD_SECONDS:g} s. Windows of "
        f"{seconds:g} s, after the last explanation is written; the processor and the memory are of the operator with the "
        "processes of its searches.",
        (
            Row("lists per turn at rest", f"{lists:.2f} ({rest['turns']:.0f} turns)", "0", rest["lists"] == 0),
            Row("writes at rest, renewals of the lease aside", rest["writes"] or "0", "0", not rest["writes"]),
            Row("processor at rest", f"{rest['processor']:.2f} of a core", "0.3", rest["processor"] < 0.3),
            Row("memory", f"{memory:.0f} MiB", "600 MiB", memory < 600),
            Row(f"from apply of {new} plans to all routed", f"{routed:.1f} s", "15 s", routed <= 15),
            Row(
                f"processor with {CHANGES_PER_SECOND} pods a second created and deleted elsewhere",
                f"{churn['processor']:.2f} of a core",
                "0.6",
                churn["processor"] < 0.6,
            ),
            Row("from the start of the operator to its first turn", f"{start:.1f} s", "20 s", start <= 20),
        ),
    )


def _apply(here: Ground, numbers: range) -> None:
    here.each(lambda number: here.api.create(PLANS, plan(number), namespace=NAMESPACE), map(str, numbers))


def plan(number: str) -> Json:
    classes = [{"name": "short", "inputTokens": 496, "outputTokens": 18, "requestsPerSecond": "1"}]
    pool = {
        "name": "l40s",
        "gpu": "L40S",
        "gpusPerNode": 4,
        "dollarsPerNodeHour": "4",
        "maxNodes": 1,
        "nodeSelector": {POOL_LABEL: f"p{number}"},
    }
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": f"plan-{number}", "namespace": NAMESPACE},
        "spec": {
            "budget": {"dollarsPerHour": "10"},
            "models": [{"name": "llama-3.1-8b", "classes": classes}],
            "nodePools": [pool],
            "change": {"drainSeconds": 0},
        },
    }


def _routed(here: Ground) -> int:
    found = here.api.list(CONFIG_MAPS, namespace=NAMESPACE, labels="app.kubernetes.io/managed-by=servingplan")
    return sum('"weight": 10000' in (item.get("data") or {}).get("routing.json", "") for item in found)


def _explained(here: Ground) -> int:
    return sum("explanation" in (item.get("status") or {}) for item in here.api.list(PLANS, namespace=NAMESPACE))


def _stranger(here: Ground, name: str, node: str) -> None:
    """A pod of somebody else's on a node: no GPUs, and as large as sidecars and annotations make one."""
    filling = {"note": "x" * (POD_BYTES - 1500)}
    metadata = {"name": name, "namespace": STRANGERS, "annotations": filling}
    container = {"name": "main", "image": "web", "resources": {"requests": {"cpu": "1m"}}}
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0}
    here.api.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, namespace=STRANGERS)


def _churn(here: Ground, others: list[str], seconds: float) -> None:
    """Create and delete pods: as many a second as asked for, or as the API server accepts."""
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        due = time.monotonic() + 1
        names = [f"passing-{number + index}" for index in range(CHANGES_PER_SECOND)]
        number += CHANGES_PER_SECOND
        here.each(lambda name: _stranger(here, name, others[int(name.rpartition("-")[2]) % len(others)]), names)
        threading.Thread(target=_remove, args=(here, names), daemon=True).start()
        time.sleep(max(0.0, due - time.monotonic()))


def _remove(here: Ground, names: list[str]) -> None:
    time.sleep(2)
    for name in names:
        found = here.api.get(PODS, name, namespace=STRANGERS)
        here.api.delete(PODS, name, uid=found["metadata"]["uid"], namespace=STRANGERS)


def _window(here: Ground, during: Callable[[], None]) -> dict[str, Any]:
    since, used, turns = time.time(), here.processor_seconds_with_searches(), _turns(here)
    during()
    seconds = time.time() - since
    # A request for the versions of a group is of no kind of object.
    objects = ((event["verb"], event.get("objectRef", {})) for event in here.requests(since))
    asked = [(verb, "/".join(filter(None, map(named.get, ("resource", "subresource"))))) for verb, named in objects]
    writes = Counter(" ".join(one) for one in asked if one[0] in WRITES and one[1] != "leases")
    return {
        "turns": _turns(here) - turns,
        "lists": sum(verb == "list" for verb, _ in asked),
        "writes": ", ".join(f"{count} {kind}" for kind, count in sorted(writes.items())),
        "processor": (here.processor_seconds_with_searches() - used) / seconds,
    }


def _turns(here: Ground) -> int:
    return len(re.findall(r": turn of ", here.log.read_text()))


def _mebibytes(here: Ground) -> float:
    """Proportional set sizes: what processes share counts once."""
    total = 0
    for pid in here.processes():
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(re.findall(r"^Pss: +(\d+) kB", text, re.M)[0])
    return total / 1024


def _seconds_to_first_turn(here: Ground) -> float:
    """Seconds that a freshly started operator needs to its first turn on this cluster."""
    before = _turns(here)
    here.operator.__exit__()
    begun = time.monotonic()
    here.operator.__enter__()
    wait(lambda: _turns(here) > before, 300)
    return time.monotonic() - begun


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--share", type=float)
    parser.add_argument("--seconds", type=float, default=60)
    known, _ = parser.parse_known_args()
    if known.share is None:
        alone(measure)
    else:
        show(measured(known.share, seconds=known.seconds))
