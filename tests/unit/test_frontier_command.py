"""`servingplan frontier` from the shell."""

import csv
import json
from pathlib import Path

import pytest
import typer.testing
import yaml

from servingplan.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples/chat.yaml"


def run(*arguments):
    return typer.testing.CliRunner().invoke(app, ["frontier", *map(str, arguments)])


def example(tmp_path, **spec):
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"].update(spec)
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


@pytest.fixture(scope="module")
def curve():
    result = run(EXAMPLE, "--budget", "10:110:5", "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_points_are_those_of_the_plan_at_each_budget(curve, tmp_path):
    assert [point["x"] for point in curve["points"]] == [10.0, 35.0, 60.0, 85.0, 110.0]
    for point in (curve["points"][2], curve["points"][4]):
        plan = example(tmp_path, budget={"dollarsPerHour": str(point["x"])})
        explained = typer.testing.CliRunner().invoke(app, ["plan", str(plan), "-o", "json"])
        fleet = json.loads(explained.stdout)["fleet"]
        assert point["dollars_per_hour"] == pytest.approx(fleet["dollars_per_hour"])
        assert point["nodes"] == fleet["nodes"]
        assert point["served"] == pytest.approx(sum(item["planned_requests_per_second"] for item in fleet["classes"]))
        assert point["gap"] == 0.0


def test_dollars_per_million_tokens_count_prompts_and_answers(curve):
    tokens_per_second = 6 * (2455 + 18) + 20 * (496 + 253) + 8 * (2455 + 253) + 60 * (496 + 18)
    full = curve["points"][-1]
    assert full["served"] == pytest.approx(94)
    assert full["served_share"] == pytest.approx(1)
    expected = full["dollars_per_hour"] / (tokens_per_second * 3600 / 1e6)
    assert full["dollars_per_million_tokens"] == pytest.approx(expected, rel=1e-6)
    assert curve["points"][0]["dollars_per_million_tokens"] is None


def test_fleets_on_one_pool_use_that_pool_alone_and_are_never_better(tmp_path):
    # Of several classes, plans first raise the smallest served part of the most important ones, not the sum: so there is one.
    model = yaml.safe_load(EXAMPLE.read_text())["spec"]["models"][0]
    chat = next(item for item in model["classes"] if item["name"] == "chat")
    alike = example(tmp_path, models=[model | {"classes": [chat]}])
    result = run(alike, "--budget", "10:110:5", "-o", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert sorted(found["homogeneous"]) == ["a100", "h100", "l40s"]
    assert any(0 < point["served_share"] < 1 for points in found["homogeneous"].values() for point in points)
    for pool, points in found["homogeneous"].items():
        for alone, mixed in zip(points, found["points"], strict=True):
            assert alone["x"] == mixed["x"]
            assert {name for name, count in alone["nodes"].items() if count} <= {pool}
            assert alone["served_share"] <= mixed["served_share"] + 1e-9


def test_the_remarks_that_a_page_shows_are_those_that_the_command_prints(curve):
    page = (REPOSITORY / "docs/seeing.md").read_text()
    assert page.split("```text\n", 1)[1].split("```", 1)[0].splitlines() == curve["remarks"]


def test_the_remarks_say_where_money_stops_helping_and_what_pools_are_worth(curve):
    assert curve["remarks"][0] == "From 77.40 $/h on everything is served, and more money changes nothing."
    assert any(line.startswith("l40s is worth 1.20 $/h: without it") for line in curve["remarks"])
    assert any("alone it serves everything from 98.48 $/h on" in line for line in curve["remarks"])


def test_csv_has_a_row_for_each_fleet_and_point(curve):
    result = run(EXAMPLE, "--budget", "10:110:5", "-o", "csv")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert len(rows) == 4 * 5
    mixed = [row for row in rows if row["fleet"] == "mixed"]
    assert [float(row["dollars_per_hour"]) for row in mixed] == [p["dollars_per_hour"] for p in curve["points"]]
    assert [int(row["nodes_l40s"]) for row in mixed] == [point["nodes"]["l40s"] for point in curve["points"]]


def test_points_are_told_as_they_are_found_and_the_answer_alone_is_on_standard_output(curve):
    result = run(EXAMPLE, "--stock", "h100=0:1", "-o", "json")
    assert result.stderr.splitlines()[0] == "1/8 1 of h100: 77.40 $/h, 94 requests/s, gap 0.00%"
    data = json.loads(result.stdout)
    assert data["pool"] == "h100"
    assert [point["nodes"]["h100"] for point in data["points"]] == [0, 1]
    assert data["points"][0]["served_share"] < data["points"][1]["served_share"] == 1.0


def test_stock_may_go_beyond_what_the_plan_allows(tmp_path):
    pools = yaml.safe_load(EXAMPLE.read_text())["spec"]["nodePools"]
    pools[0]["maxNodes"] = 0
    result = run(example(tmp_path, nodePools=pools), "--stock", "h100=0:1", "-o", "json")
    assert [point["nodes"]["h100"] for point in json.loads(result.stdout)["points"]] == [0, 1]


@pytest.mark.slow
def test_demand_is_served_up_to_a_factor():
    result = run(EXAMPLE, "--demand", "0.5:2:4")
    assert "All demand up to 1 x the asked demand is served, there for 77.40 $/h" in result.stdout
    assert "times demand" in result.stdout


@pytest.mark.slow
def test_a_mix_is_multiplied(tmp_path):
    plan = example(tmp_path, objective="MaximizeService")
    data = json.loads(run(plan, "--budget", "20:110:3", "-o", "json").stdout)
    shares = [point["served_share"] for point in data["points"]]
    assert shares == sorted(shares)
    assert shares[-1] > 1
    assert any("times the mix" in line for line in data["remarks"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give one of --budget"),
        (("--budget", "1:2:3", "--demand", "1:2:3"), "give one of --budget"),
        (("--stock", "b200=0:3"), "--stock: 'b200': is none of spec.nodePools; give one of: h100, l40s, a100"),
    ],
)
def test_a_wrong_use_leaves_with_two(arguments, said):
    result = run(EXAMPLE, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_range_below_the_floor_of_the_pool_is_refused(tmp_path):
    pools = yaml.safe_load(EXAMPLE.read_text())["spec"]["nodePools"]
    pools[0]["minNodes"] = 2
    result = run(example(tmp_path, nodePools=pools), "--stock", "h100=1:4")
    assert result.exit_code != 0
    assert "below the 2 nodes that pool h100 keeps at least" in str(result.exception)


def test_floors_that_no_budget_pays_leave_with_three(tmp_path):
    pools = yaml.safe_load(EXAMPLE.read_text())["spec"]["nodePools"]
    pools[0]["minNodes"] = 4
    result = run(example(tmp_path, nodePools=pools), "--budget", "10:20:2", "-o", "json")
    assert result.exit_code == 3
    data = json.loads(result.stdout)
    assert data["points"][1]["dollars_per_hour"] is None
    assert data["remarks"] == ["There is no plan at a budget of 20.00 $/h or below it."]
