"""`servingplan solve` and `servingplan verify` from the shell: output, errors, exit codes."""

import inspect
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from servingplan.cli.solve import register, solve_command
from servingplan.solve import METHODS
from tests.unit.solve.questions import EXAMPLES

QUESTION = str(EXAMPLES / "p1-worked-example.json")
app = typer.Typer()
register(app)


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_json_is_the_answer_of_the_interface():
    result = run("solve", QUESTION, "-o", "json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["replicas"] == {"t1x1": 1, "t2tp2": 1}
    assert list(answer)[:3] == ["version", "status", "method"]
    assert answer["unserved"] == {}


def test_the_table_names_pools_replicas_and_classes():
    result = run("solve", QUESTION)
    assert result.exit_code == 0
    for word in ("Optimal", "8 $/h", "t2tp2", "w2", "binding: budget"):
        assert word in result.stdout


def test_the_table_has_the_explanation_that_was_asked_for():
    plain, explained = run("solve", QUESTION), run("solve", QUESTION, "--explain")
    assert explained.exit_code == 0
    for words in ("What one more unit is worth", "1 $/h more of budget", "Alternatives", "budget+10%"):
        assert words in explained.stdout
        assert words not in plain.stdout


def test_the_table_of_a_question_without_a_plan_has_the_limits_that_clash(tmp_path):
    question = json.loads(Path(QUESTION).read_text()) | {"budget_dollars_per_hour": 1}
    path = tmp_path / "question.json"
    path.write_text(json.dumps(question))
    plain, explained = run("solve", str(path)), run("solve", str(path), "--explain")
    assert (plain.exit_code, explained.exit_code) == (3, 3)
    assert plain.stdout == ""
    assert "budget" in explained.stdout


def test_an_answer_is_verified_and_a_changed_one_is_not(tmp_path):
    answer = run("solve", QUESTION, "-o", "json").stdout
    assert run("verify", QUESTION, "-", stdin=answer).exit_code == 0
    changed = tmp_path / "answer.json"
    changed.write_text(answer.replace('"t2": 2', '"t2": 1'))
    result = run("verify", QUESTION, str(changed))
    assert result.exit_code == 4
    assert "placements cover 2 nodes of pool 't2'" in result.stderr
    report = json.loads(run("verify", QUESTION, str(changed), "-o", "json").stdout)
    assert report["verified"] is False
    assert report["violations"][0]["promise"]


def test_infeasible_leaves_with_three_and_reasons():
    question = json.loads((EXAMPLES / "p1-worked-example.json").read_text()) | {"budget_dollars_per_hour": 1}
    result = run("solve", "-", "-o", "json", stdin=json.dumps(question))
    assert result.exit_code == 3
    assert json.loads(result.stdout)["status"] == "Infeasible"
    assert "raise the budget to 2" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve", "nowhere.json"], "nowhere.json: cannot be read"),
        (["solve", QUESTION, "--method", "magic"], "choose one of: anytime, exact, binary-search"),
        (["solve", QUESTION, "--deadline", "-1"], "deadline -1.0"),
        (["solve", QUESTION, "--gap", "2"], "gap 2.0"),
        (["verify", "-", "-"], "at most one from stdin"),
        (["verify", QUESTION, QUESTION], "unknown key"),
    ],
)
def test_wrong_use_leaves_with_two_and_says_what_to_do(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_wrong_input_names_the_file_and_the_field():
    result = run("solve", "-", stdin='{"version": 1, "objective": "MinimizeCost"}')
    assert result.exit_code == 2
    assert "stdin: pools: missing; add it" in result.stderr


def test_the_help_names_every_method():
    text = " ".join(inspect.getsource(solve_command).split())
    for name in METHODS:
        assert name in text


def test_a_method_is_chosen_by_name():
    answer = json.loads(run("solve", QUESTION, "-o", "json", "--method", "anytime").stdout)
    assert (answer["method"], answer["replicas"]) == ("anytime", {"t1x1": 1, "t2tp2": 1})
