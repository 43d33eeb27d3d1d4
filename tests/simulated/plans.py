"""Specs as users write them, and the clusters they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from servingplan.rehearse.cluster import SimulatedCluster
from tests.simulated.driver import Driver, exact

Json = dict[str, Any]
GPUS = {"l40s": "L40S", "h100": "H100-SXM-80GB", "a100": "A100-SXM4-80GB"}


def model(name: str = "llama-3.1-8b", rate: str = "10", **more: Any) -> Json:
    """A chat model. 10 requests/s are two L40S."""
    return {
        "name": name,
        "slo": {"ttftSeconds": "2", "tpotSeconds": "0.1"},
        "classes": [{"name": "chat", "inputTokens": 500, "outputTokens": 250, "requestsPerSecond": rate}],
        **more,
    }


def sized(name: str = "l40s", *, gpus: int = 1, price: str | None = "2", **more: Any) -> Json:
    """A pool that the plan may size."""
    return {
        **fixed(name, gpus=gpus, price=price),
        "maxNodes": 6,
        "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": name},
        **more,
    }


def fixed(name: str = "l40s", *, gpus: int = 1, price: str | None = "2", **more: Any) -> Json:
    """Nodes that are there."""
    pool: Json = {"name": name, "gpu": GPUS[name], "gpusPerNode": gpus, "nodeSelector": {"pool": name}, **more}
    return pool if price is None else {**pool, "dollarsPerNodeHour": price}


def plan(*models: Json, pools: list[Json] | None = None, budget: str = "20", **more: Any) -> Json:
    return {
        "budget": {"dollarsPerHour": budget},
        "models": list(models) or [model()],
        "nodePools": pools or [sized()],
        **more,
    }


def operator(
    spec: Json, *, nodes: int = 0, solve: Callable[..., Any] = exact, slow: bool = False, **cluster: Any
) -> Driver:
    """An operator and a cluster that has the spec's pools: those to be sized empty, of fixed ones ``nodes`` each."""
    made = SimulatedCluster(spec, **cluster)
    for pool in spec["nodePools"]:
        if "resize" in pool:
            made.add_pool(pool["name"], pool["nodeSelector"], pool["gpusPerNode"])
        else:
            for index in range(nodes):
                made.add_node(f"{pool['name']}-{index}", pool["nodeSelector"], pool["gpusPerNode"])
    return Driver(made, solve=solve, slow=slow)
