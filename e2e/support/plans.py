"""Plans and their parts as users write them, with few words."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from e2e.cluster import stages

Json = dict[str, Any]

SMALL = "llama-3.1-8b"
"""A model of the catalogue that runs on one GPU; an A100 serves about twenty requests of ``model`` a second."""
_GIGA = 10**9


def model(
    name: str = SMALL,
    *,
    rate: float,
    priority: int = 0,
    image: str = "vllm/vllm-openai:v0.18.0",
    ready_seconds: int = 2,
    stop_seconds: int = 1,
    never_ready_percent: int = 0,
    startup_seconds: int = 600,
    **more: Any,
) -> Json:
    """A model with one class of short requests. The times are those of the simulated model servers."""
    annotations = {
        stages.READY_SECONDS_ANNOTATION: str(ready_seconds),
        stages.STOP_SECONDS_ANNOTATION: str(stop_seconds),
        stages.NEVER_READY_PERCENT_ANNOTATION: str(never_ready_percent),
    }
    return {
        "name": name,
        "priority": priority,
        "classes": [{"name": "short", "inputTokens": 496, "outputTokens": 18, "requestsPerSecond": f"{rate:g}"}],
        "engine": {
            "image": image,
            "version": "0.18.0",  # the first that can be told to let running requests finish
            "startupSeconds": startup_seconds,
            "podTemplate": {"metadata": {"annotations": annotations}},
        },
        **more,
    }


def card(billions: int, *, most_gpus: int) -> Json:
    """The architecture of a large model: in bf16 it needs two bytes of memory for each of its weights.

    With a head for each GPU and one layer it runs on ``most_gpus`` GPUs at most.
    """
    return {
        "parameters": billions * _GIGA,
        "layers": 1,
        "hiddenSize": 8192,
        "attentionHeads": most_gpus,
        "kvHeads": most_gpus,
        "headDim": 128,
    }


def plan(
    namespace: str, models: list[Json], pools: list[Json], *, budget: float, name: str = "chat", **more: Any
) -> Json:
    """An ``LLMServingPlan`` whose replicas drain for one second."""
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "budget": {"dollarsPerHour": f"{budget:g}"},
            "models": deepcopy(models),
            "nodePools": deepcopy(pools),
            "change": {"drainSeconds": 1},
            "solver": {"deadlineSeconds": 300},  # never reached: no plan depends on how busy the machine is
            **more,
        },
    }
