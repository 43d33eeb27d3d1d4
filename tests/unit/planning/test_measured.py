"""Measurements that a plan names: they rank first, what is wrong with them is told, and the plan goes on."""

import json

import pytest
import typer.testing
import yaml

from servingplan.answering import solve_with
from servingplan.api.parse import parse_spec
from servingplan.cli import app
from servingplan.cli.imagine import imagined_world
from servingplan.decide.decide import decide
from servingplan.model.hardware import GpuType
from servingplan.model.readings import SeenProfiles
from servingplan.planning.measured import rows_of
from servingplan.planning.situation import Situation
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import estimate
from servingplan.profiles.rows import Row, measured, measured_rows, write_csv
from servingplan.status.planned import profiles_available

BASE = {"model": "llama-3.1-8b", "gpu": "H100-SXM-80GB", "precision": "bf16", "tp": 1, "input": 500, "output": 250}
MANIFEST = {
    "apiVersion": "servingplan.dev/v1alpha1",
    "kind": "LLMServingPlan",
    "metadata": {"name": "chat", "namespace": "llm"},
    "spec": {
        "budget": {"dollarsPerHour": "100"},
        "models": [
            {
                "name": "llama-3.1-8b",
                "maxModelLen": 8192,
                "classes": [{"name": "chat", "inputTokens": 500, "outputTokens": 250, "requestsPerSecond": "40"}],
            }
        ],
        "nodePools": [
            {
                "name": "h100",
                "gpu": "H100-SXM-80GB",
                "gpusPerNode": 1,
                "dollarsPerNodeHour": "4",
                "maxNodes": 20,
                "nodeSelector": {"pool": "h100"},
                "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "h100"},
            }
        ],
        "profiles": [{"configMap": "rates"}],
    },
}


def saturated(rate, **more):
    return write_csv([Row.model_validate({**BASE, "requests_per_second": rate, "source": "ours", **more})])


def curve(rate, **more):
    """A replica that takes as long for any number of requests, and so has this rate at 256 of them."""
    row = {**BASE, "source": "ours", "ttft_seconds": 0.05, "tpot_seconds": (256 / rate - 0.05) / 249, **more}
    counts = (1, 4, 16, 64, 128, 256)
    rows = [Row.model_validate({**row, "concurrency": n, "requests_per_second": rate * n / 256}) for n in counts]
    return write_csv([*rows, Row.model_validate({**BASE, "source": "ours", "requests_per_second": rate, **more})])


def estimated(rows):
    return estimate(
        model=find_model("llama-3.1-8b"),
        precision="bf16",
        gpu=find_gpu("H100-SXM-80GB"),
        tensor_parallel=1,
        pipeline_parallel=1,
        settings=measured(Row.model_validate({**BASE, "requests_per_second": 1}), "x").settings,
        input_tokens=500,
        output_tokens=250,
        ttft_seconds=None,
        tpot_seconds=None,
        rows=rows,
    )


def decided(*profiles):
    world = imagined_world(MANIFEST).model_copy(update={"profiles": profiles})
    return decide(Situation(world), solve_with())


def test_own_measurements_rank_before_the_shipped_ones():
    rows, wrong = measured_rows((("rates", curve(9.0)),))
    assert wrong == ()
    found = estimated(rows)
    assert found.requests_per_second == pytest.approx(9.0, rel=0.03)
    assert any("rates: ours, vllm" in line for line in found.evidence)
    first, _ = measured_rows((("first", curve(9.0)), ("second", curve(12.0))))
    assert estimated(first) == estimated(measured_rows((("first", curve(9.0)),))[0])


def test_the_same_texts_are_prepared_once():
    assert measured_rows((("rates", saturated(9.0)),))[0] is measured_rows((("rates", saturated(9.0)),))[0]


def test_open_arrivals_count_as_the_requests_that_they_keep_running():
    times = {"ttft_seconds": 0.1, "tpot_seconds": 0.02}
    kept_up = Row.model_validate({**BASE, "offered_requests_per_second": 4, "requests_per_second": 4, **times})
    row = measured(kept_up, "x")
    assert row.concurrency == pytest.approx(4 * (0.1 + 249 * 0.02))
    assert row.ttft_seconds is None
    overloaded = kept_up.model_copy(update={"offered_requests_per_second": 8.0})
    assert measured(overloaded, "x").concurrency is None
    blind = kept_up.model_copy(update={"tpot_seconds": None})
    assert measured(blind, "x") is None


def test_a_plan_counts_on_its_own_measurements_and_a_change_of_them_is_another_question():
    def replicas(decision):
        return sum(item.replicas for item in (decision.fleet or decision.waiting).replica_sets)

    slow = decided(SeenProfiles(config_map="rates", rows=curve(4.0)))
    fast = decided(SeenProfiles(config_map="rates", rows=curve(16.0)))
    assert replicas(slow) > 2 * replicas(fast)
    assert slow.asked != fast.asked
    assert profiles_available(fast).status == "True"


@pytest.mark.parametrize(
    ("profiles", "status", "reason", "words"),
    [
        (
            SeenProfiles(config_map="rates", problem_reason="ProfilesMissing", problem="is not there; create it"),
            "False",
            "ProfilesMissing",
            "spec.profiles[rates]: the ConfigMap is not there",
        ),
        (
            SeenProfiles(
                config_map="rates", rows=saturated(9.0) + "llama-3.1-8b,H100-SXM-80GB,bf16,1,500,250,vllm,1e6,x\n"
            ),
            "True",
            "RowsRefused",
            "row 2: requests_per_second",
        ),
        (SeenProfiles(config_map="rates", rows="model,gpuu\n"), "True", "RowsRefused", "did you mean gpu?"),
    ],
)
def test_what_is_wrong_is_told_and_the_plan_goes_on(profiles, status, reason, words):
    decision = decided(profiles)
    assert decision.fleet is not None
    row = profiles_available(decision)
    assert (row.status, row.reason) == (status, reason)
    assert words in row.message


def test_offline_rows_are_given_as_files(tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(MANIFEST))
    (tmp_path / "rates.csv").write_text(curve(9.0))
    manifest = {"kind": "ConfigMap", "metadata": {"name": "rates"}, "data": {"rows.csv": curve(9.0)}}
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump(manifest))

    def plan(*arguments):
        result = typer.testing.CliRunner().invoke(app, ["plan", str(tmp_path / "plan.yaml"), "-o", "json", *arguments])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    without = plan()
    assert "offline, give its rows with --profiles" in without["findings"][0]["message"]
    given = plan("--profiles", str(tmp_path / "rates.yaml"))
    assert given["findings"] == []
    assert given["fleet"]["replica_sets"] != without["fleet"]["replica_sets"]
    plain = plan("--profiles", str(tmp_path / "rates.csv"))
    assert plain["fleet"]["replica_sets"] == given["fleet"]["replica_sets"]


def test_a_config_map_is_named_once():
    spec = MANIFEST["spec"] | {"profiles": [{"configMap": "rates"}, {"configMap": "rates"}]}
    assert parse_spec(spec)[0] is None
    spec, errors = parse_spec(MANIFEST["spec"])
    assert errors == ()
    assert isinstance(find_gpu("H100-SXM-80GB"), GpuType)
    rows, findings = rows_of(spec, imagined_world(MANIFEST))
    assert [item.reason for item in findings] == ["ProfilesMissing"]
    assert rows.rows
