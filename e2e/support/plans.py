"""Plans and their parts as users write them, with few words."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from functools import cache
from typing import Any

from localcluster import stages
from servingplan.answering import solve_with
from servingplan.cli.imagine import imagined_world
from servingplan.decide.decide import decide
from servingplan.planning.situation import Situation

Json = dict[str, Any]

SMALL = "llama-3.1-8b"
"""A model of the catalogue that runs on one GPU."""
SERVED_BY_AN_A100 = 19.4
"""The rate of ``model`` in stories that one A100 serves. Stories count nodes, so their rates are in this measure and are
scaled to what the profiles say of the card today."""
_GIGA = 10**9


def model(name: str = SMALL, *, rate: float, **more: Any) -> Json:
    """``model_at`` with a rate in the measure of the stories, where an A100 serves ``SERVED_BY_AN_A100``.

    Stories count replicas, so the model has no other shape than one GPU unless a card says otherwise.
    """
    shape = more.setdefault("card", card(8, most_gpus=1))
    return model_at(name, requests_per_second=scaled(rate, name, card=shape), **more)


def scaled(rate: float, name: str = SMALL, **more: Any) -> float:
    """Requests a second that are ``rate`` in the measure of the stories, for a model as ``model`` makes it."""
    more.setdefault("card", card(8, most_gpus=1))
    return rate * planned_of_an_a100(name, **more) / SERVED_BY_AN_A100


def model_at(
    name: str = SMALL,
    *,
    requests_per_second: float,
    priority: int = 0,
    image: str = "vllm/vllm-openai:v0.18.0",
    ready_seconds: int = 2,
    stop_seconds: int = 1,
    never_ready_percent: int = 0,
    startup_seconds: int = 600,
    **more: Any,
) -> Json:
    """A model with one class of short requests. The times are those of the simulated model servers.

    A model with a card of its own is in no catalogue, so it gets a source.
    """
    if "card" in more:
        more = {"variants": [{"name": "bf16", "source": f"hf://stories/{name}", "precision": "bf16"}], **more}
    annotations = {
        stages.READY_SECONDS_ANNOTATION: str(ready_seconds),
        stages.STOP_SECONDS_ANNOTATION: str(stop_seconds),
        stages.NEVER_READY_PERCENT_ANNOTATION: str(never_ready_percent),
    }
    return {
        "name": name,
        "priority": priority,
        "classes": [
            {"name": "short", "inputTokens": 496, "outputTokens": 18, "requestsPerSecond": f"{requests_per_second:.3f}"}
        ],
        "engine": {
            "image": image,
            "version": "0.18.0",  # the first that can be told to let running requests finish
            "startupSeconds": startup_seconds,
            "podTemplate": {"metadata": {"annotations": annotations}},
        },
        **more,
    }


def planned_of_an_a100(name: str = SMALL, **more: Any) -> float:
    """Requests a second of ``model`` that the planner counts on for one replica on one A100, among several."""
    return _planned(json.dumps(model_at(name, requests_per_second=10_000, **more)), gpus_per_node=1)


def planned_of_a_node(made: Json, *, gpus: int) -> float:
    """Requests a second of a model that the planner counts on for one node of so many A100s."""
    return _planned(json.dumps(made), gpus_per_node=gpus)


@cache
def _planned(made: str, *, gpus_per_node: int) -> float:
    pool = {
        "name": "a100",
        "gpu": "A100-SXM4-80GB",
        "gpusPerNode": gpus_per_node,
        "dollarsPerNodeHour": "1",
        "maxNodes": 8,
        "nodeSelector": {"pool": "a100"},
    }
    overloaded = json.loads(made)
    overloaded["classes"][0]["requestsPerSecond"] = "10000"
    world = imagined_world(plan("stories", [overloaded], [pool], budget=1000))
    fleet = decide(Situation(world), solve=solve_with()).fleet
    assert fleet is not None, f"no replica of {made} on an A100"
    return math.fsum(item.planned_requests_per_second for item in fleet.classes) / 8


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
