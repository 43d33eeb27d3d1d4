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


TABLE = """model,gpu,precision,tp,input,output,engine,engine_version,requests_per_second
llama-3.1-8b,H100-SXM-80GB,fp8,1,1000,1000,vllm,0.18.0,12
llama-3.1-8b,H100-SXM-80GB,fp8,1,500,500,vllm,0.18.0,20
llama-3.1-8b,H100-SXM-80GB,fp8,1,500,500,vllm,0.18.0,-1
"""


def test_a_table_of_ones_own_is_predicted_and_wrong_rows_are_told(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(TABLE)
    result = typer.testing.CliRunner().invoke(app, ["profile", "check", "--table", str(file), "-o", "json"])
    assert result.exit_code == 0, result.output
    lines = json.loads(result.stdout)["lines"]
    unmeasured = [line for line in lines if line["table"] == "rate without a measurement, by card"]
    assert [(line["name"], line["rows"], line["groups"]) for line in unmeasured] == [("H100-SXM-80GB", 2, 1)]
    assert "row 3" in result.stderr


def test_a_table_without_a_row_that_counts_is_an_error(tmp_path):
    file = tmp_path / "none.csv"
    file.write_text(TABLE.splitlines()[0] + "\n")
    result = typer.testing.CliRunner().invoke(app, ["profile", "check", "--table", str(file)])
    assert result.exit_code == 2
    assert "no row can be predicted" in result.stderr
