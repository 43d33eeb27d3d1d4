"""A cluster whose admission changes what the operator writes: a mutating webhook, a policy of the platform."""

import copy

import pytest

from servingplan.model.manifests import is_rewritten, rewriting
from tests.simulated.plans import model, operator, plan


def mirrored(manifest):
    """What a webhook makes of a Deployment: its images come from the platform's mirror."""
    if manifest["kind"] != "Deployment":
        return manifest
    changed = copy.deepcopy(manifest)
    for container in changed["spec"]["template"]["spec"]["containers"]:
        container["image"] = f"mirror/{container['image']}"
    return changed


@pytest.fixture
def driver():
    driver = operator(plan(model(rate="10")))
    apply = driver.cluster.api.apply
    driver.cluster.api.apply = lambda resource, manifest, **more: apply(resource, mirrored(manifest), **more)
    return driver


def test_what_admission_changes_is_not_written_again_and_again(driver):
    """``act`` fails where turns do not come to rest."""
    driver.settle()
    driver.check_settled()
    before = driver.writes
    driver.tick(3)
    assert driver.writes == before


def test_the_status_says_what_admission_changes(driver):
    driver.settle()
    (name,) = driver.deployments()
    told = next(item for item in driver.cluster.status["conditions"] if item["type"] == "WorkloadsReady")
    assert told["status"] == "True"
    text = f"the cluster's admission changes Deployment {name} (spec.template.spec.containers.0.image)"
    assert text in told["message"]


def test_a_new_operator_writes_it_once_more(driver):
    driver.settle()
    before = driver.writes
    driver.operator = driver._begin()
    driver.act()
    assert 0 < driver.writes - before <= 2
    driver.tick(3)
    assert driver.writes - before <= 2


MANIFEST = {"metadata": {"labels": {"a": "1"}}, "spec": {"image": "x", "args": ["p", "q"]}}


def live(**spec):
    return {
        "metadata": {"labels": {"a": "1", "b": "2"}, "uid": "u"},
        "spec": {"image": "x", "args": ["p", "q"], **spec},
    }


def test_what_stands_as_it_was_asked_is_not_rewritten():
    assert rewriting(MANIFEST, live(replicas=3)) is None


def test_what_others_add_does_not_count_and_what_they_change_does():
    rewritten = rewriting(MANIFEST, live(image="mirror/x")).digests
    assert is_rewritten(rewritten, live(image="mirror/x", replicas=3), MANIFEST)
    assert not is_rewritten(rewritten, live(image="other/x"), MANIFEST)
    assert not is_rewritten(rewritten, live(image="mirror/x", args=["p"]), MANIFEST)


def test_a_field_that_the_server_leaves_out_is_named():
    assert rewriting({"metadata": {}, "spec": {"image": "x", "note": None}}, live()).fields == ("spec.note",)


def test_another_manifest_is_written():
    rewritten = rewriting(MANIFEST, live(image="mirror/x")).digests
    other = {**MANIFEST, "spec": {**MANIFEST["spec"], "args": ["p", "r"]}}
    assert not is_rewritten(rewritten, live(image="mirror/x"), other)
