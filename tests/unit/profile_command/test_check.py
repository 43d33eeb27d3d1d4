"""`servingplan profile check` from the shell: one report in three forms."""

import json

import pytest
import typer.testing

from servingplan.cli import app
from servingplan.profiles import check
from servingplan.profiles.measured import SHIPPED


@pytest.fixture
def few(monkeypatch):
    """The report of a few rows."""
    rows = [row for row in SHIPPED.rows if row.model == "Llama-3.1-70B" and row.gpu == "H100-SXM-80GB"][::12]
    whole = check.predictions
    monkeypatch.setattr(check, "predictions", lambda _, known, conditions: whole(rows, known, conditions))
    return rows


def run(*arguments):
    result = typer.testing.CliRunner().invoke(app, ["profile", "check", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_programs_read_one_line_per_part_and_state_of_knowledge(few):
    lines = json.loads(run("-o", "json"))["lines"]
    assert {line["part"] for line in lines} <= {"fit", "judge"}
    assert {"rows", "groups", "median_error", "p90_error", "bias", "inside", "score", "constant_score"} <= set(lines[0])
    counted = sum(line["rows"] for line in lines if line["table"] == "rate without a measurement, by card")
    assert counted == len(few)


def test_people_read_tables(few):
    text = run()
    assert "Saturated rate" in text
    assert "inside 80 %" in text


def test_the_page_gets_markdown(few):
    assert run("-o", "markdown").startswith("| saturated rate | fit |")
