"""The example of weights that are near: its plan can be made, and pods find the weights where the other objects put them."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.cli import app
from servingplan.model.engine import EngineSettings
from servingplan.model.fleet import PodNeeds
from servingplan.render.deployment import replica_template
from servingplan.render.pod_access import refused_access

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "weights.yaml"
OBJECTS = {item["kind"]: item for item in yaml.safe_load_all(EXAMPLE.read_text())}
SPEC = PlanSpec.model_validate(OBJECTS["LLMServingPlan"]["spec"])


def pod(name):
    model = next(model for model in SPEC.models if model.name == name)
    return replica_template(
        model=model,
        variant=model.variants[0],
        pool=SPEC.node_pools[0],
        tensor_parallel=1,
        pipeline_parallel=1,
        settings=EngineSettings(version="0.18.0"),
        needs=PodNeeds(start_limit_seconds=1200),
    )["spec"]


def test_its_plan_serves_all_that_is_asked():
    done = CliRunner().invoke(app, ["plan", str(EXAMPLE), "-o", "json"])
    assert done.exit_code == 0, done.output


def test_the_claim_is_mounted_and_holds_the_folder_that_the_engine_reads():
    made = pod("qwen3-8b")
    claims = [item["persistentVolumeClaim"] for item in made["volumes"] if "persistentVolumeClaim" in item]
    assert claims == [{"claimName": OBJECTS["PersistentVolumeClaim"]["metadata"]["name"], "readOnly": True}]
    (filled,) = OBJECTS["Job"]["spec"]["template"]["spec"]["containers"]
    job_volumes = OBJECTS["Job"]["spec"]["template"]["spec"]["volumes"]
    assert [item["persistentVolumeClaim"]["claimName"] for item in job_volumes] == [claims[0]["claimName"]]
    assert filled["command"][-1] == made["containers"][0]["args"][0] == "/weights/qwen3-8b"


def test_the_image_is_mounted_as_the_folder_that_the_engine_reads():
    made = pod("llama-3.1-8b")
    images = [item["image"]["reference"] for item in made["volumes"] if "image" in item]
    assert images == [SPEC.models[1].variants[0].source.removeprefix("oci://")]
    assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in made["containers"][0]["volumeMounts"]
    assert made["containers"][0]["args"][0] == "/weights"


def test_the_folder_of_the_node_is_where_the_client_of_hugging_face_keeps_files():
    made = pod("llama-3.1-70b")
    assert [item["hostPath"]["path"] for item in made["volumes"] if "hostPath" in item] == ["/var/cache/models"]
    assert "HF_HOME" not in {item["name"] for item in made["containers"][0].get("env", ())}


@pytest.mark.parametrize(
    ("allowed", "refused"), [((), 1), (("hostPath=/var/cache/models",), 0), (("hostPath=/etc",), 1)]
)
def test_the_folder_needs_the_permission_that_the_example_names(allowed, refused):
    assert "podAccess: [hostPath=/var/cache/models]" in EXAMPLE.read_text()
    assert sum(len(refused_access(model, allowed)) for model in SPEC.models) == refused
