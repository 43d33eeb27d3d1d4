"""A new version of the operator restarts nothing that runs: what it would render otherwise is for new replicas."""

import copy
import json
from pathlib import Path

import pytest

from servingplan.decide.decide import decide
from servingplan.model.actions import ApplyObject
from servingplan.model.world import Observation
from servingplan.planning import cold_starts, needs
from servingplan.planning.shapes import ShapeFacts
from servingplan.planning.situation import Situation
from servingplan.render import deployment
from tests.simulated.driver import exact
from tests.simulated.plans import fixed, model, operator, plan, sized

WORLD = Path(__file__).parents[2] / "golden" / "upgrade" / "before-settings.json"
"""A fleet at rest, as the version of the operator left it that did not write settings as flags."""
HOST = {"cpu": "48", "memory": "200Gi"}
"""What a node has beside GPUs."""


def world(**plan_changes):
    seen = Observation.model_validate_json(WORLD.read_text())
    return seen.model_copy(update={"plan": seen.plan.model_copy(update=plan_changes)})


def deployments_written(decision):
    return {
        action.manifest["metadata"]["name"]: action.manifest
        for action in decision.actions
        if isinstance(action, ApplyObject) and action.manifest["kind"] == "Deployment"
    }


def restarted(seen, decision):
    """Deployments of before whose pods are replaced: by a template that differs, or by others."""
    written = deployments_written(decision)
    planned = {item.deployment for item in decision.fleet.replica_sets}
    return [
        live.name
        for live in seen.deployments()
        if live.name not in planned
        or (live.name in written and as_bytes(written[live.name]["spec"]["template"]) != as_bytes(template_of(live)))
    ]


def as_bytes(template):
    return json.dumps(template, sort_keys=True)


def edited(change):
    spec = copy.deepcopy(world().plan.spec)
    change(spec)
    return world(spec=spec, generation=world().plan.generation + 1)


def template_of(live):
    return live.manifest["spec"]["template"]


def test_what_runs_is_rendered_as_it_was_to_the_byte():
    seen = world()
    decision = decide(Situation(seen), exact)
    before = {item.deployment for item in Situation(seen).record.fleet.replica_sets}
    assert before == {live.name for live in seen.deployments()}
    assert restarted(seen, decision) == []
    assert [finding for finding in decision.findings if not finding.holds] == []


def test_more_of_what_runs_is_more_of_the_same():
    def twice(spec):
        for item in spec["models"]:
            item["classes"][0]["requestsPerSecond"] = "24"

    seen = edited(twice)
    decision = decide(Situation(seen), exact)
    assert restarted(seen, decision) == []
    assert sum(item.replicas for item in decision.fleet.replica_sets) > len(seen.deployments())


def test_a_template_that_somebody_changed_is_still_put_right():
    seen = world()
    objects = copy.deepcopy(seen.objects)
    changed = next(live for live in objects if live.kind == "Deployment")
    right = as_bytes(template_of(changed))
    template_of(changed)["spec"]["containers"][0]["image"] = "other:1"
    written = deployments_written(decide(Situation(seen.model_copy(update={"objects": objects})), exact))
    assert as_bytes(written[changed.name]["spec"]["template"]) == right


def test_an_edit_of_the_drain_restarts_nothing():
    seen = edited(lambda spec: spec.update(change={"drainSeconds": 900}))
    assert restarted(seen, decide(Situation(seen), exact)) == []


def test_an_edit_of_the_image_is_a_new_deployment_with_settings_as_flags():
    seen = edited(lambda spec: spec["models"][0].update(engine={"image": "vllm/vllm-openai:v0.19.0"}))
    decision = decide(Situation(seen), exact)
    old = {live.name for live in seen.deployments()}
    (new,) = [item for item in decision.fleet.replica_sets if item.deployment not in old]
    assert new.settings is not None
    arguments = deployments_written(decision)[new.deployment]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--max-num-seqs={new.settings.max_num_seqs}" in arguments


@pytest.mark.parametrize(
    ("module", "constant"),
    [
        (deployment, "DRAIN_SLEEP_SECONDS"),
        (deployment, "SHUTDOWN_MARGIN_SECONDS"),
        (cold_starts, "FIXED_SECONDS"),
        (needs, "MEMORY_BESIDE_WEIGHTS_BYTES"),
        (needs, "SHARE_TO_ASK_FOR"),
    ],
)
def test_a_later_version_that_renders_otherwise_restarts_nothing_either(monkeypatch, module, constant):
    driver = operator(plan(model(), pools=[sized(), fixed("a100", gpus=2)]), nodes=1)
    driver.cluster.allocatable = HOST
    driver.settle()
    before = {pod.name for pod in driver.cluster.our_pods()}
    templates = [template_of(live) for live in driver.cluster.observe().deployments()]
    monkeypatch.setattr(module, constant, 77)
    driver.cluster.edit(plan(model(rate="20"), pools=[sized(), fixed("a100", gpus=2)]))
    driver.settle()
    assert before <= {pod.name for pod in driver.cluster.our_pods()}
    assert all(
        template in [template_of(live) for live in driver.cluster.observe().deployments()] for template in templates
    )


def test_replicas_from_before_live_on_and_grow_under_a_new_version(monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(ShapeFacts, "written_settings", None)
        driver = operator(plan(model()))
        (old,) = driver.settle().replica_sets
    assert old.settings is None
    before = {pod.name for pod in driver.cluster.our_pods()}
    assert driver.act() == 0
    driver.cluster.edit(plan(model(rate="20")))
    (same,) = driver.settle().replica_sets
    driver.check_settled()
    assert same.deployment == old.deployment
    assert before < {pod.name for pod in driver.cluster.our_pods()}


def test_what_is_learned_and_seen_later_changes_no_replica_that_runs_and_the_next_ones():
    driver = operator(plan(model()), start_ticks=4)
    (first,) = driver.settle().replica_sets
    assert (first.needs.cpu_millicores, first.needs.memory_bytes) == (
        None,
        None,
    )  # no node was there to say what it has
    before = {pod.name for pod in driver.cluster.our_pods()}
    driver.cluster.allocatable = HOST
    driver.cluster.start_ticks = 100
    driver.cluster.edit(plan(model(rate="20")))
    (same,) = driver.settle().replica_sets
    assert (same.deployment, same.needs) == (first.deployment, first.needs)
    assert before < {pod.name for pod in driver.cluster.our_pods()}
    assert max(Situation(driver.cluster.observe()).record.start_times["llama-3.1-8b/bf16/l40s"].seconds) == 1000
    driver.cluster.edit(plan(model(rate="20", engine={"image": "vllm/vllm-openai:v0.19.0"})))
    (new,) = driver.settle().replica_sets
    assert new.needs.start_limit_seconds >= 2000 > first.needs.start_limit_seconds
    assert new.needs.cpu_millicores == 3000
    assert new.needs.memory_bytes is not None


def test_a_replica_that_runs_is_put_right_as_it_was_made_whatever_was_learned_since():
    driver = operator(plan(model()))
    driver.settle()
    (live,) = driver.cluster.observe().deployments()
    right = as_bytes(template_of(live))
    record = json.loads(driver.cluster.objects["ConfigMap", "chat-plan"]["data"]["plan.json"])
    record["start_times"]["llama-3.1-8b/bf16/l40s"]["seconds"] = [1700.0]
    driver.cluster.objects["ConfigMap", "chat-plan"]["data"]["plan.json"] = json.dumps(record)
    changed = driver.cluster.objects["Deployment", live.name]["spec"]["template"]["spec"]["containers"][0]
    changed["startupProbe"]["failureThreshold"] = 1
    written = deployments_written(decide(Situation(driver.cluster.observe()), exact))
    assert as_bytes(written[live.name]["spec"]["template"]) == right
