"""The files for the first minutes: what they say fits the chart, and their plan is one that can be made."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from servingplan.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]
QUICKSTART = REPOSITORY / "examples" / "quickstart.yaml"


@pytest.fixture(scope="module")
def objects():
    return list(yaml.safe_load_all(QUICKSTART.read_text()))


def test_its_plan_serves_all_that_is_asked():
    done = CliRunner().invoke(app, ["plan", str(QUICKSTART), "-o", "json"])
    assert done.exit_code == 0, done.output


def test_every_image_of_ours_is_that_of_the_chart(objects):
    version = yaml.safe_load((REPOSITORY / "charts/servingplan/Chart.yaml").read_text())["appVersion"]
    gateway = (REPOSITORY / "examples/gateway/envoy.yaml").read_text()
    for text in (QUICKSTART.read_text(), gateway):
        images = [line.split()[-1] for line in text.splitlines() if line.strip().startswith("image: servingplan")]
        assert images
        assert set(images) == {f"servingplan:{version}"}


def test_everything_is_in_one_namespace_but_the_right_to_write_the_status_of_nodes(objects):
    assert {item["metadata"].get("namespace") for item in objects if "Cluster" not in item["kind"]} == {"quickstart"}
    (role,) = [item for item in objects if item["kind"] == "ClusterRole"]
    rights = {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    assert rights == {("nodes", "list"), ("nodes/status", "patch")}


@pytest.mark.parametrize(
    "pool", [{"gpu": "L40S", "resourceName": "nvidia.com/gpu.emulated"}, {"gpu": "MI300X", "engineImage": "rocm"}]
)
def test_a_plan_without_a_cluster_counts_gpus_by_the_resource_of_the_pool(objects, pool, tmp_path):
    (plan,) = [item for item in objects if item["kind"] == "LLMServingPlan"]
    kept = {key: value for key, value in plan["spec"]["nodePools"][0].items() if key != "resourceName"}
    plan = {**plan, "spec": {**plan["spec"], "nodePools": [{**kept, **pool}]}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "plan.yaml"), "-o", "json"])
    assert done.exit_code == 0, done.output
