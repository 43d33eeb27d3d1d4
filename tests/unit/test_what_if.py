"""`servingplan plan --with-leader-worker-sets`: a plan that is shown, and said not to be applicable."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from servingplan.cli import app
from tests.unit.test_decide import LARGE


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(LARGE))
    return str(path)


def test_without_the_flag_the_model_fits_nowhere_and_the_message_says_what_it_takes(plan_file):
    result = CliRunner().invoke(app, ["plan", plan_file])
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "8 x A100-SXM4-80GB leave" in text
    assert "would fit over 2 nodes of pool a100 (TP8, PP2) with LeaderWorkerSets" in text
    assert "install their controller (leaderworkerset.x-k8s.io/v1)" in text


def test_with_the_flag_the_plan_is_shown_as_one_that_cannot_be_applied(plan_file):
    result = CliRunner().invoke(app, ["plan", plan_file, "--with-leader-worker-sets"])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "a100 x 2" in text
    assert "2 x [part of llama-3.1-405b TP8xPP2]" in text
    assert "the cluster serves none, so the plan is only shown" in text
    data = json.loads(CliRunner().invoke(app, ["plan", plan_file, "--with-leader-worker-sets", "-o", "json"]).stdout)
    assert [stage["layers"] for stage in data["fleet"]["replica_sets"][0]["stages"]] == [62, 64]
    assert data["first"] == data["grow"] == data["shrink"] == []


def test_a_plan_that_cannot_be_applied_is_not_rendered(plan_file):
    assert CliRunner().invoke(app, ["render", plan_file]).exit_code == 3
    assert CliRunner().invoke(app, ["render", plan_file, "--with-leader-worker-sets"]).exit_code == 2
