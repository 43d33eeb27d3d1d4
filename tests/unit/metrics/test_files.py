"""The rules and the dashboard against what the exporter and the engines have, without a Prometheus."""

import json
import re
from pathlib import Path

import pytest
import yaml

from servingplan.emulate.exposition import EngineCollector
from servingplan.metrics.families import FAMILIES, PLAN_LABELS
from servingplan.model.engine import EngineSettings
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import Pace

REPOSITORY = Path(__file__).parents[3]
FILES = REPOSITORY / "charts" / "servingplan" / "files"
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
GROUPS = yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    *(rule["expr"] for rule in RULES),
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
    *(item["expr"] for item in DASHBOARD["annotations"]["list"]),
    *(item["definition"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"),
]
UNITS = {"currencyUSD", "percentunit", "reqps", "s", "none"}


@pytest.fixture(scope="module")
def told():
    """Names of series that there are."""
    pace = Pace(
        model=find_model("llama-3.2-1b"),
        precision="bf16",
        gpu=find_gpu("L4"),
        settings=EngineSettings(max_model_len=512),
    )
    families = EngineCollector(Engine(pace, max_num_seqs=1, max_num_batched_tokens=1), "m").collect()
    engines = {sample.name for family in families for sample in family.samples}
    assert engines
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    ours = {"servingplan_build_info"}
    for family in FAMILIES:
        ends = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        ours |= {family.name + end for end in ends}
    return engines | ours | recorded


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_uses_metrics_that_there_are(query, told):
    names = set(re.findall(r"\b(?:servingplan|vllm)(?:[:_]|\[:_\])[\w:]+", query))
    assert names
    assert {name.replace("[:_]", ":") for name in names} <= told


def test_labels_that_a_query_selects_by_are_those_of_the_metric():
    labels = {family.name: {*family.labels, *PLAN_LABELS} for family in FAMILIES}
    checked = 0
    for query in QUERIES:
        for name, selector in re.findall(r"(servingplan_\w+)\{([^}]*)\}", query):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert set(re.findall(r"(\w+)\s*[=!]~?", selector)) <= labels[base], query
            checked += 1
    assert checked > 40


def test_every_panel_says_what_it_shows_in_which_unit():
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        assert all(target["legendFormat"] for target in panel["targets"] if len(panel["targets"]) > 1), panel["title"]


def test_annotations_are_asked_for_in_the_old_form_and_the_new():
    """Grafana read the query from the annotation itself, later from its target alone, now from both."""
    for item in DASHBOARD["annotations"]["list"]:
        assert (item["target"]["expr"], item["target"]["interval"]) == (item["expr"], item["step"])


def test_units_fit_what_is_shown():
    wanted = {"dollars": "currencyUSD", "_requests_per_second": "reqps", "_age_seconds": "s"}
    for panel in PANELS:
        for target in panel["targets"]:
            found = {unit for part, unit in wanted.items() if part in target["expr"] and " / " not in target["expr"]}
            assert found <= {panel["fieldConfig"]["defaults"]["unit"]}, panel["title"]


def test_panels_have_each_their_own_number_and_place():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_a_person_can_choose_source_namespace_plan_and_model():
    assert [item["name"] for item in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "plan_namespace",
        "plan",
        "model",
    ]
    for panel in PANELS:
        for target in panel["targets"]:
            assert 'plan_namespace=~"$plan_namespace"' in target["expr"], panel["title"]
            assert 'plan=~"$plan"' in target["expr"], panel["title"]


def test_moves_to_another_plan_are_marked():
    (marks,) = [item for item in DASHBOARD["annotations"]["list"] if item["enable"]]
    assert "servingplan_plan_adopted_timestamp_seconds" in marks["expr"]


def test_every_alert_has_a_runbook_and_words_for_people():
    headings = {line.removeprefix("### ") for line in (REPOSITORY / "docs/metrics.md").read_text().splitlines()}
    for rule in RULES:
        if "alert" in rule:
            assert rule["alert"] in headings
            assert rule["annotations"]["runbook"] == f"docs/metrics.md: {rule['alert']}"
            assert rule["annotations"]["summary"]
            assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_both_ways(alert):
    tests = yaml.safe_load((REPOSITORY / "tests/contract/rules/alerts.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"] if case["alertname"] == alert]
    assert {bool(case.get("exp_alerts")) for case in cases} == {True, False}
