"""The example of weights that are near, and the Deployments of its plan, on a real API server."""

import json
from pathlib import Path

import pytest
import yaml

from localcluster.control_plane import ControlPlane, wait_until_established
from servingplan.api.crd import custom_resource_definition
from servingplan.cli.imagine import imagined_world
from servingplan.decide.decide import decide
from servingplan.model.actions import ApplyObject
from servingplan.model.manifests import covers
from servingplan.planning.situation import Situation
from tests.simulated.driver import exact

pytestmark = pytest.mark.cluster

EXAMPLE = Path(__file__).parents[2] / "examples" / "weights.yaml"
MODELS = ["llama-3.1-70b", "llama-3.1-8b", "qwen3-8b"]


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as running:
        running.apply(custom_resource_definition())
        wait_until_established(running.kubectl, "llmservingplans.servingplan.dev")
        running.kubectl("create", "namespace", "llm")
        yield running


def deployments():
    (plan,) = [item for item in yaml.safe_load_all(EXAMPLE.read_text()) if item["kind"] == "LLMServingPlan"]
    decision = decide(Situation(imagined_world(plan)), exact)
    return [
        action.manifest
        for action in decision.actions
        if isinstance(action, ApplyObject) and action.manifest["kind"] == "Deployment"
    ]


def test_every_object_of_the_example_is_accepted(cluster):
    done = cluster.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=EXAMPLE.read_text())
    assert done.count("serverside-applied") == 3


def test_the_pods_of_its_plan_are_kept_as_they_are_rendered(cluster):
    made = deployments()
    assert sorted(item["metadata"]["labels"]["servingplan.dev/model"] for item in made) == MODELS
    for manifest in made:
        command = ("apply", "--server-side", "--validate=strict", "--dry-run=server", "-o", "json", "-f", "-")
        stored = json.loads(cluster.kubectl(*command, stdin=json.dumps(manifest)))
        assert covers(stored["spec"], manifest["spec"]), manifest["metadata"]["name"]
