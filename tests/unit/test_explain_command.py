"""`servingplan explain` from the shell.

`UPDATE_GOLDEN=1 pytest tests/unit/test_explain_command.py` rewrites the golden output.
"""

import json
import os
from pathlib import Path

import pytest
import typer.testing
import yaml

from servingplan.cli import app
from servingplan.model.answer import answer_from_json
from servingplan.model.question import question_from_json
from servingplan.verify import verify
from tests.simulated.plans import operator, plan

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples/chat.yaml"
GOLDEN = REPOSITORY / "tests/golden/explain/chat.txt"


def run(*arguments):
    return typer.testing.CliRunner().invoke(app, ["explain", *map(str, arguments)])


def example(tmp_path, **spec):
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"].update(spec)
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


def test_the_explanation_of_the_example_is_the_golden_one():
    result = run(EXAMPLE)
    assert result.exit_code == 0, result.output
    printed = "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(printed)
    assert printed == GOLDEN.read_text()


@pytest.mark.slow
def test_json_holds_the_question_and_an_answer_whose_claims_are_verified(tmp_path):
    unbound = json.loads(run(EXAMPLE, "-o", "json").stdout)
    assert unbound["answer"]["status"] == "Optimal"
    result = run(example(tmp_path, budget={"dollarsPerHour": "40"}), "-o", "json")
    data = json.loads(result.stdout)
    question, answer = question_from_json(json.dumps(data["question"])), answer_from_json(json.dumps(data["answer"]))
    assert verify(question, answer) == ()
    assert [item.name for item in answer.explanation.worth][-1] == "slo"
    assert answer.explanation.clash.limits[0].needed == pytest.approx(unbound["answer"]["dollars_per_hour"])


def test_what_cannot_be_had_leaves_with_three_and_the_smallest_changes(tmp_path):
    pools = yaml.safe_load(EXAMPLE.read_text())["spec"]["nodePools"]
    pools[0]["minNodes"] = 2
    result = run(example(tmp_path, nodePools=pools, budget={"dollarsPerHour": "60"}))
    assert result.exit_code == 3
    assert "There is no plan: these limits exclude it together, and no smaller set does" in result.stdout
    assert "the budget of 60 $/h: raise it to 98.48 $/h" in result.stdout
    assert "2 nodes of h100 at least: lower it to 1" in result.stdout


@pytest.mark.slow
def test_a_spec_that_nothing_can_serve_leaves_with_two_and_says_what_would_do(tmp_path):
    models = yaml.safe_load(EXAMPLE.read_text())["spec"]["models"]
    models[1]["slo"]["tpotSeconds"] = "0.0001"
    result = run(example(tmp_path, models=models))
    assert result.exit_code == 2
    assert "the smallest change of one limit that would do: tpotSeconds 0.0001 to" in " ".join(result.stdout.split())


def test_a_world_with_a_plan_in_force_names_it(tmp_path):
    driver = operator(plan())
    driver.settle()
    world = tmp_path / "world.json"
    world.write_text(driver.cluster.observe().model_dump_json())
    manifest = {"apiVersion": "servingplan.dev/v1alpha1", "kind": "LLMServingPlan", "metadata": {"name": "chat"}}
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump({**manifest, "spec": plan()}))
    result = run(file, "--world", world)
    assert result.exit_code == 0, result.output
    assert f"in force: plan {driver.decision.fleet.hash}, " in result.stdout


@pytest.mark.parametrize("arguments", [[], [EXAMPLE, "--live", "chat"], ["--live", "chat", "--world", "w.json"]])
def test_wrong_use_leaves_with_two(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "give either PLAN.yaml" in result.stderr
