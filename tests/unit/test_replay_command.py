"""`servingplan replay` from the shell."""

import gzip
import json

import pytest
import typer.testing
import yaml

from servingplan.cli import app
from tests.simulated.plans import operator, sized
from tests.simulated.plans import plan as live_plan
from tests.unit.replay.test_run import MANIFEST

LINES = """
{"at": 20, "event": "NodeLost", "pool": "l40s", "seconds": 20}
{"at": 50, "event": "Slow", "pool": "l40s"}
"""
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def run(*arguments):
    return typer.testing.CliRunner().invoke(app, ["replay", *map(str, arguments)])


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "servingplan.dev/v1alpha1", "kind": "LLMServingPlan", **MANIFEST}))
    return path


@pytest.fixture
def trace(tmp_path):
    """Ten requests a second for a minute, of which the second comes too early, and three that are none."""
    rows = [
        f"2023-11-16 18:{15 + second // 60}:{second % 60:02}.{tenth}000000,{300 + 100 * tenth},{20 + tenth}"
        for second in range(60)
        for tenth in range(10)
    ]
    rows[0], rows[1] = rows[1], rows[0]
    rows[5:5] = ["2023-11-16 18:15:46.0000000,374,0", "2023-11-16 18:15:46.0000000,99999999999,3", "yesterday,5,3"]
    path = tmp_path / "trace.csv"
    path.write_text(AZURE + "\n".join(rows) + "\n")
    return path


def test_the_table_and_the_json_tell_the_same(plan, trace):
    result = run(plan, "--trace", trace, "-o", "json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["plan"] == "llm/small"
    assert data["trace"]["format"] == "Azure LLM inference trace"
    assert data["trace"]["requests"] == 600
    assert data["trace"]["seconds"] == pytest.approx(59.9)
    (fleet,) = data["fleets"]
    assert fleet["name"] == "plan"
    assert fleet["arrived"] == fleet["finished"] == 600
    assert fleet["dollars"] == pytest.approx(fleet["dollars_per_hour"] * fleet["seconds"] / 3600)
    assert fleet["within_budget"] is True
    long, short = fleet["classes"]
    assert long["arrived"] == 60 * 2  # from 1,100 tokens on
    assert short["mean_input_tokens"] == pytest.approx(sum(300 + 100 * tenth for tenth in range(8)) / 8)
    assert list(short["ttft_seconds"]) == ["p5", "p25", "p50", "p75", "p90", "p95", "p99", "p100", "mean"]
    assert short["ttft_seconds"]["p5"] <= short["ttft_seconds"]["p100"]
    assert 0 < fleet["utilization"] < 1
    table = run(plan, "--trace", trace)
    assert "600 requests in 60 s (Azure LLM inference trace)" in table.stdout
    assert f"{fleet['in_time_share']:.1%}" in table.stdout


def test_what_was_repaired_is_told_on_standard_error(plan, trace):
    result = run(plan, "--trace", trace, "-o", "json")
    told = result.stderr
    assert (
        "note: 3 rows were left out for want of a request, such as: line 7: GeneratedTokens: '0': must be from 1"
        in told
    )
    assert "line 8: ContextTokens: '99999999999': must be from 1 to 10000000 tokens" in told
    assert "line 9: TIMESTAMP: 'yesterday': is neither seconds nor a date" in told
    assert "note: 1 row was out of order by time and sorted" in told
    assert json.loads(result.stdout)["trace"]["bad_rows"] == 3


def test_strict_ends_at_the_first_wrong_row(plan, trace):
    result = run(plan, "--trace", trace, "--strict")
    assert result.exit_code != 0
    assert "line 7: GeneratedTokens: '0'" in str(result.exception)


def test_a_packed_trace_gives_the_same(plan, trace, tmp_path):
    packed = tmp_path / "trace.csv.gz"
    packed.write_bytes(gzip.compress(trace.read_bytes()))
    plain, other = (json.loads(run(plan, "--trace", path, "-o", "json").stdout) for path in (trace, packed))
    assert plain["fleets"] == other["fleets"]


def test_other_fleets_and_balancings_stand_beside_the_plan(plan, trace):
    result = run(plan, "--trace", trace, "--against", "homogeneous,round-robin,least-request,homogeneous", "-o", "json")
    fleets = json.loads(result.stdout)["fleets"]
    assert [fleet["name"] for fleet in fleets] == ["plan", "homogeneous", "round-robin", "least-request"]
    assert len({fleet["arrived"] for fleet in fleets}) == 1
    assert fleets[3]["plan_hash"] == fleets[0]["plan_hash"]
    assert fleets[3]["dollars_per_hour"] == fleets[0]["dollars_per_hour"]


def test_what_a_reader_may_not_expect_is_told(plan, trace, tmp_path):
    text = yaml.safe_load(plan.read_text())
    (model,) = text["spec"]["models"]
    classes = [{**item, "requestsPerSecond": "1"} for item in model["classes"]]
    text["spec"]["models"].append({**model, "name": "llama-3.2-1b", "classes": classes})
    two = tmp_path / "two.yaml"
    two.write_text(yaml.safe_dump(text))
    events = tmp_path / "events.yaml"
    events.write_text("- {at: 5, event: Refused, pool: l40s}\n- {at: 500, event: NodeLost, pool: l40s}\n")
    told = run(two, "--trace", trace, "--events", events, "--against", "prefix-aware", "-o", "json")
    assert told.exit_code == 0, told.output
    notes = told.stderr
    assert "note: 600 requests name no model and went to llama-3.1-8b; --model NAME gives them to another one" in notes
    assert (
        "note: no request names the beginning of its prompt, so prefix-aware balances by queue and memory alone"
        in notes
    )
    assert "note: events after the last request, at 60 s, change nothing: 1 of 2" in notes
    own = json.loads(told.stdout)["fleets"][0]
    assert own["events"][0] == "5 s: l40s gives no more nodes, which changes nothing here: this fleet rents none"
    mixed = run(two, "--generate", 5, "--mix", "T1", "--model", "llama-3.2-1b", "--rate", 3, "-o", "json").stderr
    assert (
        "note: mix T1 goes to llama-3.2-1b at 3 requests/s; the plan is made for its own classes, which together have 2"
        in mixed
    )
    assert "name no model" not in mixed


def test_prompts_that_begin_alike_are_found_in_the_cache(plan, tmp_path):
    trace = tmp_path / "mooncake.jsonl"
    rows = [
        {
            "timestamp": 500 * n,
            "input_length": 1600,
            "output_length": 20,
            "hash_ids": [n % 4, 10 + n % 4, n % 8 + 20, 900 + n],
        }
        for n in range(120)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(plan, "--trace", trace, "--against", "prefix-aware,least-request", "-o", "json")
    data = json.loads(result.stdout)
    assert data["trace"]["format"] == "Mooncake trace"
    own, aware, _ = data["fleets"]
    assert own["plan_hash"] == aware["plan_hash"]
    # Of 120 prompts with three whole parts each, eight are new in their third part and four in their first two.
    assert aware["prefix_hit_share"] == pytest.approx((112 * 3 + 4 * 2) * 512 / (120 * 1600), abs=0.02)
    assert 0 < own["prefix_hit_share"] <= aware["prefix_hit_share"]


def test_an_autoscaler_stands_beside_the_plan(plan, trace):
    names = ["plan", "autoscaler", "autoscaler:in-flight=2"]
    result = run(plan, "--trace", trace, "--against", ",".join(names[1:]), "-o", "json")
    fleets = json.loads(result.stdout)["fleets"]
    assert [fleet["name"] for fleet in fleets] == names
    assert all(fleet["arrived"] == fleet["finished"] == 600 for fleet in fleets)
    assert all(fleet["within_budget"] for fleet in fleets)
    assert fleets[1]["events"] != fleets[2]["events"]


def test_an_autoscaler_without_a_sensible_rule_or_with_events_is_refused(plan, trace, tmp_path):
    wrong = run(plan, "--trace", trace, "--against", "autoscaler:cpu=5")
    assert wrong.exit_code != 0
    assert "autoscaler:METRIC=TARGET" in f"{wrong.exception} {wrong.stderr}"
    events = tmp_path / "events.jsonl"
    events.write_text(LINES)
    both = run(plan, "--trace", trace, "--against", "autoscaler", "--events", events)
    assert both.exit_code != 0
    assert "is not replayed with events of pools" in both.stderr


def test_surges_and_launches_go_with_generated_requests_also_beside_an_autoscaler(plan, trace, tmp_path):
    events = tmp_path / "events.yaml"
    events.write_text("- {at: 20, event: Surge, factor: 3, seconds: 20}\n")
    wrong = run(plan, "--trace", trace, "--events", events)
    assert wrong.exit_code != 0
    assert "--events: Surge: changes generated requests, not those of a log" in wrong.stderr
    plain, surged = (
        json.loads(run(plan, "--generate", 60, "--burstiness", 0, *more, "-o", "json").stdout)
        for more in ((), ("--events", events, "--against", "autoscaler"))
    )
    own, scaled = surged["fleets"]
    assert own["events"][0] == "20 s: requests to all models x 3"
    assert own["arrived"] == scaled["arrived"] == surged["trace"]["requests"]
    assert own["arrived"] == pytest.approx(plain["fleets"][0]["arrived"] * 5 / 3, abs=3)


def test_a_mix_goes_to_one_model_and_its_requests_find_their_classes(plan):
    result = run(plan, "--generate", 60, "--mix", "T1", "--rate", 5, "-o", "json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["trace"]["name"] == "generated, T1"
    assert data["trace"]["requests"] == pytest.approx(300, rel=0.2)
    assert sum(item["arrived"] for item in data["fleets"][0]["classes"]) == data["trace"]["requests"]
    for arguments, words in (
        (("--mix", "T9", "--generate", 5), "must be one of T1, T2, T3"),
        (("--mix", "T1", "--generate", 5, "--model", "other"), "is none of the plan's models"),
        (("--generate", 5, "--rate", 5), "the plan's classes have rates of their own"),
        (("--mix", "T1", "--trace", "-"), "give --generate SECONDS in place of --trace"),
        (("--mix", "T1", "--generate", 5, "--rate", 0), "--rate: 0: must be above 0"),
    ):
        refused = run(plan, *arguments)
        assert refused.exit_code != 0
        assert words in refused.stderr


def test_other_fleets_are_found_from_scratch_also_where_a_plan_is_in_force(tmp_path):
    spec = live_plan(pools=[sized(gpus=2)])
    driver = operator(spec)
    driver.settle()
    world, file = tmp_path / "world.json", tmp_path / "plan.yaml"
    world.write_text(driver.cluster.observe().model_dump_json())
    manifest = {"apiVersion": "servingplan.dev/v1alpha1", "kind": "LLMServingPlan", "metadata": {"name": "chat"}}
    file.write_text(yaml.safe_dump({**manifest, "spec": spec}))
    result = run(file, "--world", world, "--generate", "20", "--against", "uniform-deployment", "-o", "json")
    own, other = json.loads(result.stdout)["fleets"]
    assert own["plan_hash"] == driver.decision.fleet.hash
    assert {item["gpus"] for item in own["replicas"]} == {1}
    assert {item["gpus"] for item in other["replicas"]} == {2}


def test_a_method_that_cannot_answer_says_so(tmp_path):
    path = tmp_path / "plan.yaml"
    spec = {**MANIFEST["spec"], "resilience": {"survive": [{"event": "AnyNode"}]}}
    path.write_text(
        yaml.safe_dump({"apiVersion": "servingplan.dev/v1alpha1", "kind": "LLMServingPlan", **MANIFEST, "spec": spec})
    )
    result = run(path, "--generate", "5", "--against", "melange")
    assert result.exit_code == 3
    assert "--against: melange: method 'melange' cannot guard against losses" in result.stderr


def test_requests_are_generated_where_there_is_no_trace(plan):
    how = ("--generate", "100", "--burstiness", "2", "--day", "0.5", "--length-variation", "0.5", "-o", "json")
    result = run(plan, *how)
    data = json.loads(result.stdout)
    assert data["trace"]["format"] == "generated"
    assert data["trace"]["requests"] == pytest.approx(1300, rel=0.3)
    assert data == json.loads(run(plan, *how).stdout)


def test_nodes_are_lost_as_the_events_say(plan, tmp_path):
    for name, text in (
        ("events.yaml", "- {at: 20, event: NodeLost, pool: l40s, seconds: 20}\n"),
        ("events.jsonl", LINES),
    ):  # fmt: skip
        path = tmp_path / name
        path.write_text(text)
        data = json.loads(run(plan, "--generate", "60", "--events", path, "-o", "json").stdout)
        assert data["fleets"][0]["events"][0].startswith("20 s: node 0 of l40s is lost")
        assert "40 s: node 0 of l40s is back" in data["fleets"][0]["events"]


def test_the_table_tells_who_was_cut_as_not_served_rather_than_turned_away(plan, tmp_path):
    path = tmp_path / "events.yaml"
    path.write_text("- {at: 20, event: NodeLost, pool: l40s}\n")
    arguments = (plan, "--generate", "60", "--events", path)
    classes = json.loads(run(*arguments, "-o", "json").stdout)["fleets"][0]["classes"]
    assert sum(item["cut"] for item in classes) > 0
    table = run(*arguments).stdout
    assert "Classes, times in seconds" in table
    (heading,) = [line for line in table.splitlines() if "not served" in line]
    at = heading.index("not served") + len("not served")
    for item in classes:
        (row,) = [line for line in table.splitlines() if f"{item['model']}/{item['name']} " in line]
        assert int(row[:at].split()[-1]) == item["turned_away"] + item["too_long"] + item["cut"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {at: -1, event: NodeLost, pool: l40s}", "event 1: at: -1"),
        ("- {at: 1, event: Fire, pool: l40s}", "event 1: event: 'Fire'"),
        (
            "- {at: 1, event: NodeLost, pool: h100}",
            "event 1: pool: 'h100': is none of the plan's pools; give one of l40s",
        ),
        ("- {at: 1, event: NodeLost, pool: l40s, colour: red}", "event 1: colour"),
        ("- 5", "event 1: 5: must be a mapping"),
        (
            "- {at: 9, event: Slow, pool: l40s}\n\n- at: 8.5\n  event: NodeLost\n  pool: l40s\n",
            "events.yaml line 3, event 2: at: 8.5: is before the event above it, at 9; sort them by time",
        ),
        (
            "# the second one\n- {at: 1, event: Refused, pool: l40s}\n- {at: 2, event: Sold, pool: l40s}",
            "line 3, event 2",
        ),
        ("- {at: 1, event: Slow, pool: l40s, at: 2}", "at: is given twice"),
        (
            '{"at": 1, "event": "Slow", "pool": "l40s"}\n\n{"at": 2, "event": "Slow", "pool": "x"}',
            "line 3, event 2: pool: 'x': is none",
        ),
    ],
)
def test_an_event_that_makes_no_sense_is_refused_by_number_and_field(plan, tmp_path, text, said):
    path = tmp_path / "events.yaml"
    path.write_text(text)
    result = run(plan, "--generate", "10", "--events", path)
    assert result.exit_code != 0
    assert said in str(result.exception)


def test_the_operator_stands_beside_the_plan_and_answers_to_events(plan, tmp_path):
    path = tmp_path / "events.yaml"
    path.write_text("- {at: 20, event: Refused, pool: l40s, seconds: 60}\n- {at: 30, event: NodeLost, pool: l40s}\n")
    arguments = (
        plan,
        "--generate",
        "200",
        "--events",
        path,
        "--operator",
        "--node-seconds",
        "40",
        "--engine-seconds",
        "20",
    )
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    fixed, operated = json.loads(result.stdout)["fleets"]
    assert (fixed["name"], operated["name"]) == ("plan", "operator")
    assert fixed["arrived"] == operated["arrived"]
    assert "course" not in fixed
    course = operated["course"]
    assert [phase["phase"] for phase in course["phases"]][:2] == ["before", "during"]
    assert course["budget_dollars_per_hour"] == 20
    assert course["spend"][0] == {"at": 0.0, "dollars_per_hour": fixed["dollars_per_hour"]}
    table = run(*arguments).stdout
    assert "The operator: before, during and after each event" in table
    assert all(step["what"].split(":")[0] in table for step in course["steps"])
    assert f"paid $/h: {course['spend'][0]['dollars_per_hour']:.2f} from 0 s" in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--trace", "-", "--operator"), "--operator: standard input can be read once"),
        (("--generate", "5", "--operator", "--world", "w.json"), "--operator: begins with the plan's own pools"),
        ((), "give either --trace FILE or --generate SECONDS"),
        (("--trace", "x", "--generate", "5"), "give either --trace FILE or --generate SECONDS"),
        (("--trace", "-", "--against", "melange"), "standard input can be read once"),
        (("--generate", "5", "--against", "magic"), "--against: 'magic': is not known; give some of: least-request"),
        (("--generate", "5", "--faster", "0"), "--faster: 0: must be above 0"),
        (("--generate", "5", "--rate", "3"), "--rate: the plan's classes have rates of their own"),
        (("--trace", "nowhere.csv"), "nowhere.csv: cannot be read: No such file or directory; name a readable file"),
    ],
)
def test_a_wrong_use_leaves_with_two(plan, arguments, said):
    result = run(plan, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_log_without_a_request_is_refused_with_its_rows(plan, tmp_path):
    path = tmp_path / "empty.csv"
    path.write_text(AZURE + "2023-11-16 18:15:46,5,0\n")
    result = run(plan, "--trace", path)
    assert result.exit_code == 2
    assert "no row holds a request" in result.stderr
    assert "line 2: GeneratedTokens: '0'" in result.stderr


def test_a_log_without_times_is_sent_at_a_rate(plan, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("input_tokens,output_tokens\n" + "100,10\n" * 500)
    assert "tells no arrival times; give --rate" in str(run(plan, "--trace", path).exception)
    data = json.loads(run(plan, "--trace", path, "--rate", "10", "-o", "json").stdout)
    assert data["trace"]["seconds"] == pytest.approx(50, rel=0.2)
