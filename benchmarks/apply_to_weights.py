"""The time from the apply of a plan to its Deployments and weights: two models, three pools, nodes already there."""

from __future__ import annotations

import json
import time

from benchmarks.ground import Ground, example, ground, wait, weights
from benchmarks.report import Row, Section, alone, percentile, spread
from servingplan.kube import CONFIG_MAPS, DEPLOYMENTS, PLANS

GOAL_SECONDS = 3.0


def measure(quick: bool) -> Section:
    """Apply, wait, delete, again."""
    with ground() as here:
        for pool in ("h100", "l40s", "a100"):
            here.nodes(pool, 4)
        _once(here, "warm-up")
        found = [_once(here, f"run-{number}") for number in range(2 if quick else 10)]
    first, last = [item[0] for item in found], [item[1] for item in found]
    met = percentile(last, 50) <= GOAL_SECONDS
    return Section(
        "From apply to Deployments and weights",
        "`examples/chat.yaml` on fixed nodes that are there, the operator running; model servers are Ready as soon as they "
        "start. From the moment before the plan is sent to the moment at which a watch shows the change.",
        (
            Row("all Deployments written", spread(first)),
            Row("weights written for every class", spread(last), f"{GOAL_SECONDS:g} s", met),
        ),
    )


def _once(here: Ground, name: str) -> tuple[float, float]:
    namespace = here.namespace(name)
    config_maps, deployments = here.watch(CONFIG_MAPS), here.watch(DEPLOYMENTS)
    time.sleep(0.5)
    started = time.monotonic()
    plan = here.api.create(PLANS, example(namespace), namespace=namespace)
    config_maps.wait(lambda objects: (namespace, "chat-plan") in objects)
    record = json.loads(config_maps.objects[namespace, "chat-plan"]["data"]["plan.json"])
    planned = {(namespace, item["deployment"]) for item in record["fleet"]["replica_sets"]}
    written = deployments.wait(lambda objects: planned <= objects.keys())
    served = config_maps.wait(lambda objects: _all_served(weights(objects.get((namespace, "chat-routing")))))
    config_maps.stop()
    deployments.stop()
    here.api.delete(PLANS, "chat", uid=plan["metadata"]["uid"], namespace=namespace)
    wait(lambda: not list(here.api.list(PLANS)), 60)
    return written - started, served - started


def _all_served(by_class: dict[str, dict[str, int]]) -> bool:
    return bool(by_class) and all(sum(targets.values()) == 10000 for targets in by_class.values())


if __name__ == "__main__":
    alone(measure)
