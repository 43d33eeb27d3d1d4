"""What the README shows is what the commands print."""

import json
import re
from pathlib import Path

import pytest
import typer.testing

from servingplan.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def printed():
    result = typer.testing.CliRunner().invoke(app, ["plan", str(REPOSITORY / "examples/chat.yaml")])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_plan_in_the_readme_is_the_plan_that_the_command_prints(printed):
    readme = (REPOSITORY / "README.md").read_text()
    shown = readme.split("```text\n", 1)[1].split("```", 1)[0]
    lines = [" ".join(line.split()) for line in shown.splitlines() if line.strip()]
    actual = [" ".join(line.split()) for line in printed.splitlines()]
    assert lines
    assert [line for line in actual if line in lines] == lines


def test_the_saving_in_the_readme_is_what_the_methods_print():
    """The plan's cost is in the excerpt above; one type of GPU is the method that compares."""
    readme = (REPOSITORY / "README.md").read_text()
    question = str(REPOSITORY / "examples/questions/chat.json")
    result = typer.testing.CliRunner().invoke(app, ["solve", question, "--method", "homogeneous", "-o", "json"])
    one_type = json.loads(result.stdout)["dollars_per_hour"]
    planned = float(re.search(r"plan \w+: ([\d.]+) \$/h", readme)[1])
    assert f"costs {one_type:.2f} $/h, so the mixed one saves {1 - planned / one_type:.0%}".replace(
        "%", " %"
    ) in " ".join(readme.split())


def test_the_gains_in_the_readme_are_those_of_the_papers_page():
    readme, page = ((REPOSITORY / name).read_text() for name in ("README.md", "docs/papers.md"))
    mean, least, greatest = re.search(
        r"70B: equal stock mean ([\d.]+%), least ([\d.]+%), greatest ([\d.]+%)", page
    ).groups()
    told = " ".join(readme.split())
    assert f"serves {mean} more of a 70B model on average" in told
    assert f"{least} in the worst case, {greatest} in the best" in told
    without_limit = re.search(r"70B: equal stock .*; of all six mean -([\d.]+%)", page)[1]
    assert f"it serves {without_limit} less on average" in told


def test_the_tests_and_the_code_that_the_page_on_security_names_are_there():
    text = (REPOSITORY / "SECURITY.md").read_text()
    tests = re.findall(r"`(tests/[\w/.]+)`", text)
    code = re.findall(r"`((?:observe|render)/[\w/.]+)`", text)
    assert len(set(tests)) > 8
    assert [path for path in tests if not (REPOSITORY / path).is_file()] == []
    assert [path for path in code if not (REPOSITORY / "operator" / "servingplan" / path).is_file()] == []
