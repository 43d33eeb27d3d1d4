"""The example of ``docs/rehearsal.md``: its trace, its command and its figures."""

import json
import os
import shlex

import pytest
import typer.testing

from servingplan.cli import app
from servingplan.cli.files import read_plan
from servingplan.cli.imagine import imagined_world
from servingplan.planning.situation import Situation
from servingplan.replay.generate import Stream, generated
from tests.documents import REPOSITORY, blocks_of

FOLDER = REPOSITORY / "examples" / "replay"
PAGE = REPOSITORY / "docs" / "rehearsal.md"


def test_the_trace_is_what_the_generator_makes_of_the_plan():
    spec = Situation(imagined_world(read_plan(str(FOLDER / "plan.yaml")))).spec
    arrivals = generated(spec, Stream(1200.0, burstiness=1.5, length_variation=0.3))
    rows = [f"{item.at:.2f},{item.prompt_tokens},{item.output_tokens}" for item in arrivals]
    text = "\n".join(["timestamp,input_tokens,output_tokens", *rows]) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        (FOLDER / "trace.csv").write_text(text)
    assert (FOLDER / "trace.csv").read_text() == text


def test_the_command_of_the_page_gives_the_figures_of_the_page(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    (command,) = [line for block in blocks_of(PAGE) if block.language == "sh" for line in block.commands]
    result = typer.testing.CliRunner().invoke(app, [*shlex.split(command)[1:], "-o", "json"])
    assert result.exit_code == 0, result.output
    page, rows = PAGE.read_text(), {}
    for item in json.loads(result.stdout)["fleets"]:
        turned_away, cut = (sum(found[field] for found in item["classes"]) for field in ("turned_away", "cut"))
        rows[item["name"]] = f"| {item['dollars']:.2f} | {item['in_time_share']:.1%} | {turned_away} | {cut} |"
        course = item.get("course")
    assert f"| the plan alone {rows['plan']}" in page
    assert f"| the operator {rows['operator']}" in page
    assert course is not None
    (shown,) = [block.text for block in blocks_of(PAGE) if block.language == "text"]
    told = {f"{step['at']:>6g}   {step['what']}" for step in course["steps"]}
    paid = "paid $/h: " + ", ".join(f"{item['dollars_per_hour']:.2f} from {item['at']:g} s" for item in course["spend"])
    assert [line for line in shown.splitlines() if line.strip() and line not in told] == [paid]
    assert course["most_dollars_per_hour"] == pytest.approx(10.6)
