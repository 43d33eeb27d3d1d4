"""What the README shows is what the commands print."""

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
    shown = readme.split("as the command above prints it (shortened):", 1)[1].split("The 70B model", 1)[0]
    lines = [" ".join(line.split()) for line in shown.splitlines() if line.strip()]
    actual = {" ".join(line.split()) for line in printed.splitlines()}
    assert lines
    assert [line for line in lines if line not in actual] == []


def test_the_tests_and_the_code_that_the_page_on_security_names_are_there():
    text = (REPOSITORY / "SECURITY.md").read_text()
    tests = re.findall(r"`(tests/[\w/.]+)`", text)
    code = re.findall(r"`((?:observe|render)/[\w/.]+)`", text)
    assert len(set(tests)) > 8
    assert [path for path in tests if not (REPOSITORY / path).is_file()] == []
    assert [path for path in code if not (REPOSITORY / "operator" / "servingplan" / path).is_file()] == []
