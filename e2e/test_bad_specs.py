"""Whatever is wrong with a plan, it says so, in a condition and an Event, and nothing that serves is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.scene import Scene
from e2e.support.waiting import hold
from localcluster.nodes import A100, L40S
from servingplan.kube import CONFIG_MAPS

pytestmark = pytest.mark.usefixtures("kwok")

Json = dict[str, Any]


@dataclass(frozen=True)
class Mistake:
    """Something wrong in a plan, and how the plan tells it."""

    name: str
    spoil: Callable[[Json, Scene], None]
    """Makes the mistake in a spec that is good."""
    condition: str
    reason: str
    words: tuple[str, ...]
    """The field, the value, the next step."""


def _unknown_model(spec: Json, scene: Scene) -> None:
    spec["models"][0]["name"] = "no-such-model"
    del spec["models"][0]["card"], spec["models"][0]["variants"]


def _unknown_gpu(spec: Json, scene: Scene) -> None:
    spec["nodePools"][0]["gpu"] = "Z9000"


def _too_large(spec: Json, scene: Scene) -> None:
    spec["models"][0]["card"] = plans.card(900, most_gpus=8)
    spec["models"][0]["variants"] = [{"name": "bf16", "source": "hf://stories/large", "precision": "bf16"}]


def _slo_out_of_reach(spec: Json, scene: Scene) -> None:
    spec["models"][0]["slo"] = {"ttftSeconds": "0.001"}


def _price_unknown(spec: Json, scene: Scene) -> None:
    del spec["nodePools"][0]["dollarsPerNodeHour"]


def _budget_too_small(spec: Json, scene: Scene) -> None:
    spec["budget"]["dollarsPerHour"] = "5"


def _engine_argument(spec: Json, scene: Scene) -> None:
    spec["models"][0]["engine"]["extraArgs"] = ["--tensor-parallel-size=2"]


def _pool_missing(spec: Json, scene: Scene) -> None:
    spec["nodePools"][0]["resize"] = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "no-such-pool"}


def _kind_not_allowed(spec: Json, scene: Scene) -> None:
    spec["nodePools"][0]["resize"] = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}


def _pool_not_allowed(spec: Json, scene: Scene) -> None:
    spec["nodePools"].append(scene.rented(A100, price=20, name="closed", allowed=("another-namespace",)))


def _pool_dynamic(spec: Json, scene: Scene) -> None:
    spec["nodePools"].append(scene.dynamic((A100, L40S), price=20, name="dynamic"))


def _name_taken(spec: Json, scene: Scene) -> None:
    spec["gateway"] = {"configMap": "somebody-elses"}


MISTAKES = (
    Mistake("unknown-model", _unknown_model, "SpecValid", "UnknownModel", ("spec.models[", "no-such-model", "card")),
    Mistake("unknown-gpu", _unknown_gpu, "SpecValid", "UnknownGPU", ("spec.nodePools[fixed].gpu", "Z9000", "gpuSpec")),
    Mistake("too-large", _too_large, "SpecValid", "NoFittingShape", ("classes[short]", "1800.0 GB", "take more GPUs")),
    Mistake("slow-slo", _slo_out_of_reach, "SpecValid", "NoFittingShape", ("classes[short]", "relax the SLO")),
    Mistake(
        "price-unknown",
        _price_unknown,
        "WithinBudget",
        "PriceUnknown",
        ("spec.nodePools[fixed].dollarsPerNodeHour", "not given", "give the price"),
    ),
    Mistake(
        "small-budget",
        _budget_too_small,
        "PlanSolved",
        "BudgetTooSmall",
        (SMALL, "spec.budget.dollarsPerHour", "raise"),
    ),
    Mistake(
        "our-argument",
        _engine_argument,
        "SpecValid",
        "SpecInvalid",
        ("engine.extraArgs", "--tensor-parallel-size=2", "remove it"),
    ),
    Mistake(
        "kind-not-allowed", _kind_not_allowed, "NodePoolsReady", "KindNotAllowed", ("resize", "Deployment", "poolKinds")
    ),
    Mistake(
        "name-taken",
        _name_taken,
        "RoutingPublished",
        "NameTaken",
        ("spec.gateway.configMap", "somebody-elses", "choose another name"),
    ),
)
NEED_KARPENTER = (
    Mistake(
        "pool-missing", _pool_missing, "NodePoolsReady", "PoolMissing", ("resize", "no-such-pool", "correct the name")
    ),
    Mistake(
        "pool-not-allowed",
        _pool_not_allowed,
        "NodePoolsReady",
        "NotAllowed",
        ("resize", "servingplan.dev/allowed-namespaces", "add the namespace"),
    ),
    Mistake(
        "pool-dynamic",
        _pool_dynamic,
        "NodePoolsReady",
        "NotResizable",
        ("resize", "is dynamic, and could make nodes of several GPU types", A100.name, L40S.name, "static NodePool"),
    ),
)


EDITS = tuple(mistake for mistake in MISTAKES if mistake.name not in ("small-budget", "kind-not-allowed"))
"""Those that say nothing about what may be spent or used: they are obeyed."""


def _mistakes(scene: Scene) -> tuple[Mistake, ...]:
    return MISTAKES + NEED_KARPENTER if scene.cluster.has_karpenter else MISTAKES


def _good(scene: Scene, pool: Json, name: str) -> Json:
    return plans.plan(scene.namespace, [plans.model(rate=30)], [pool], budget=30, name=name)


def _foreign_config_map(scene: Scene) -> None:
    manifest = {"metadata": {"name": "somebody-elses"}, "data": {"theirs": "yes"}}
    scene.api.create(CONFIG_MAPS, manifest, namespace=scene.namespace)


def _wait_told(scene: Scene, plan: str, mistake: Mistake) -> None:
    """A plan tells about a mistake: a condition with the right words, an Event after it, and not Ready."""
    message = scene.wait_condition(mistake.condition, mistake.reason, plan)
    assert [word for word in mistake.words if word not in message] == [], message
    assert scene.condition("Ready", plan)["status"] == "False"
    assert scene.wait_event(mistake.reason, plan).type == "Warning"


def test_bad_plans_tell_what_is_wrong_and_do_not_disturb_a_good_one(scene, operator, witness):
    good = scene.fixed(A100, 1, price=20, name="fixed")
    scene.apply(_good(scene, good, "good"))
    scene.wait_ready("good")
    pods = {pod["metadata"]["uid"] for pod in scene.ready_pods()}
    revision = scene.routing("good")["revision"]

    _foreign_config_map(scene)
    idle = scene.fixed(A100, 1, price=20, name="idle")
    for mistake in _mistakes(scene):
        plan = _good(scene, {**idle, "name": "fixed"}, mistake.name)
        mistake.spoil(plan["spec"], scene)
        scene.apply(plan)
    for mistake in _mistakes(scene):
        _wait_told(scene, mistake.name, mistake)

    assert {pod["metadata"]["uid"] for pod in scene.ready_pods()} >= pods
    assert scene.routing("good")["revision"] == revision
    assert scene.condition("Ready", "good")["status"] == "True"
    assert scene.api.get(CONFIG_MAPS, "somebody-elses", namespace=scene.namespace)["data"] == {"theirs": "yes"}
    # The good one still answers to its user.
    more = plans.model(rate=60)
    asked = float(more["classes"][0]["requestsPerSecond"])
    scene.edit("good", {"models": [more]})
    assert float(scene.wait_ready("good")["classes"][0]["plannedRequestsPerSecond"]) == pytest.approx(asked, rel=1e-3)


def test_a_plan_that_is_edited_for_the_worse_keeps_what_serves(scene, operator, witness):
    pool = scene.fixed(A100, 1, price=20)
    scene.apply(_good(scene, pool, "chat"))
    scene.wait_ready()
    _foreign_config_map(scene)
    pods = {pod["metadata"]["uid"] for pod in scene.ready_pods()}
    routing = scene.routing()["models"]

    def untouched() -> bool:
        serving = {pod["metadata"]["uid"] for pod in scene.ready_pods()}
        return serving == pods and scene.routing()["models"] == routing

    for mistake in EDITS:
        plan = _good(scene, pool, "chat")
        mistake.spoil(plan["spec"], scene)
        scene.apply(plan)
        _wait_told(scene, "chat", mistake)
        hold(f"{mistake.name} leaves what serves alone", untouched, seconds=1, shown=scene.conditions)
        scene.apply(_good(scene, pool, "chat"))
        scene.wait_ready()
        assert untouched()


def test_a_right_that_is_missing_is_named(scene, witness):
    pool = scene.fixed(A100, 1, price=20)

    def without_creating_deployments(manifests: list[Json]) -> None:
        for item in manifests:
            for rule in item.get("rules", ()):
                if "deployments" in rule["resources"]:
                    rule["verbs"] = ["get", "list", "watch"]

    with scene.operator(edit=without_creating_deployments):
        scene.apply(_good(scene, pool, "chat"))
        message = scene.wait_condition("WorkloadsReady", "WriteForbidden")
        assert "deployments" in message
        assert "grant the verb" in message
        scene.wait_event("WriteForbidden")
        assert scene.deployments() == {}
