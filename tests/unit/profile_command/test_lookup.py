"""`servingplan profile lookup` from the shell: names and forms that programs build on."""

import csv
import io
import json

import pytest
import typer.testing

from servingplan.api.v1alpha1 import Model
from servingplan.cli import app
from servingplan.errors import InputError
from servingplan.planning.settings import context_tokens
from servingplan.profiles.catalogue import find_model

FIELDS = {
    "requests_per_second",
    "low",
    "high",
    "ttft_seconds",
    "tpot_seconds",
    "ttft_percentile_seconds",
    "tpot_percentile_seconds",
    "concurrency",
    "source",
    "evidence",
    "engine",
}
REPLICA = ("--model", "llama-3.1-70b", "--gpu", "H100-SXM-80GB", "--precision", "fp8", "--tp", "2")
LENGTHS = ("--input", "2048", "--output", "128")


def run(*arguments, **options):
    return typer.testing.CliRunner().invoke(app, ["profile", "lookup", *map(str, arguments)], **options)


def asked(*arguments):
    result = run(*REPLICA, *LENGTHS, *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_answer_has_the_fields_that_programs_read():
    answer = asked()
    assert set(answer) == FIELDS
    assert answer["low"] < answer["requests_per_second"] < answer["high"]
    assert answer["engine"]["engine"] == "vllm"
    assert answer["engine"]["max_model_len"] >= 2048 + 128
    assert answer["source"]
    assert answer["evidence"]


def test_the_default_context_is_that_of_a_plan_with_this_class():
    card = find_model("llama-3.1-70b")
    for prompt, answer in ((2048, 128), (64, 8), (card.max_context_tokens - 5000, 4000)):
        told = json.loads(run(*REPLICA, "--input", prompt, "--output", answer, "-o", "json").stdout)
        planned = Model.model_validate(
            {
                "name": "llama-3.1-70b",
                "slo": {"ttftSeconds": "2"},
                "variants": [{"name": "fp8", "source": "hf://x/y", "precision": "fp8"}],
                "classes": [
                    {"name": "c", "inputTokens": prompt, "outputTokens": answer, "requestsPerSecond": "1"},
                ],
            }
        )
        assert told["engine"]["max_model_len"] == context_tokens(planned, card)


def test_short_answers_are_not_slowed_by_a_context_without_room_for_long_requests():
    limits = ("--ttft", "2", "--tpot", "0.1", "-o", "json")
    usual, tight = (
        json.loads(run(*REPLICA, "--input", 2048, "--output", 8, *limits, *more).stdout)["requests_per_second"]
        for more in ((), ("--max-model-len", 2056))
    )
    assert usual > tight
    twice = json.loads(run(*REPLICA, "--input", 2048, "--output", 8, *limits, "--max-model-len", 4112).stdout)
    assert twice["requests_per_second"] == usual


def test_limits_are_kept_and_cost_rate():
    free, limited = asked(), asked("--ttft", "2", "--tpot", "0.1")
    assert limited["requests_per_second"] < free["requests_per_second"]
    assert limited["ttft_percentile_seconds"] <= 2 * (1 + 1e-6)
    assert limited["tpot_percentile_seconds"] <= 0.1 * (1 + 1e-6)
    stricter = asked("--ttft", "2", "--tpot", "0.1", "--percentile", "99")
    assert stricter["requests_per_second"] < limited["requests_per_second"]


def test_a_closed_loop_has_the_rate_of_its_running_requests():
    one, many = asked("--concurrency", "1"), asked("--concurrency", "32")
    assert one["concurrency"] == 1
    for answer in (one, many):
        held = answer["ttft_seconds"] + 127 * answer["tpot_seconds"]
        assert answer["requests_per_second"] == pytest.approx(answer["concurrency"] / held, rel=0.02)
    assert one["requests_per_second"] < many["requests_per_second"]


def test_the_precision_is_read_from_the_name():
    named = run("--model", "org/Llama-3.1-70B-Instruct-FP8", *REPLICA[2:4], "--tp", "2", *LENGTHS, "-o", "json")
    assert json.loads(named.stdout)["requests_per_second"] == asked()["requests_per_second"]


def test_settings_of_the_engine_change_the_answer():
    plain = asked()
    small = asked("--max-num-seqs", "8", "--gpu-memory-utilization", "0.95", "--engine-version", "0.18.0")
    assert small["requests_per_second"] < plain["requests_per_second"]
    assert small["engine"]["max_num_seqs"] == 8
    assert small["engine"]["gpu_memory_utilization"] == 0.95
    assert small["engine"]["version"] == "0.18.0"


def test_the_table_and_csv_of_one_question():
    assert "requests/s" in run(*REPLICA, *LENGTHS).stdout
    row = next(csv.DictReader(io.StringIO(run(*REPLICA, *LENGTHS, "-o", "csv").stdout)))
    assert float(row["requests_per_second"]) == pytest.approx(asked()["requests_per_second"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "lama-3.1-70b"), 2, ("model", "lama-3.1-70b", "Llama-3.1-70B")),
        (("--gpu", "H100-SXM-81GB"), 2, ("gpu", "H100-SXM-81GB", "H100-SXM-80GB")),
        (("--tp", "0"), 2, ("--tp", "0", "1")),
        (("--input", "-5"), 2, ("--input", "-5")),
        (("--precision", "fp7"), 2, ("--precision", "fp7", "bf16")),
        (("--engine", "llama.cpp"), 2, ("--engine", "llama.cpp", "sglang")),
        (("--kv-cache-dtype", "int3"), 2, ("--kv-cache-dtype", "int3", "fp8")),
        (("--gpu-memory-utilization", "nan"), 2, ("--gpu-memory-utilization",)),
        (("--ttft", "inf"), 2, ("--ttft",)),
        (("--percentile", "100"), 2, ("--percentile", "100")),
        (("--tp", "1", "--precision", "bf16"), 3, ("Memory", "GB")),
        (("--ttft", "0.000001"), 3, ("SloUnreachable", "first token")),
    ],
)
def test_wrong_input_is_named_on_standard_error_alone(arguments, code, words):
    result = run(*REPLICA, *LENGTHS, *arguments)
    assert result.stdout == ""
    text = result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        assert isinstance(result.exception, InputError)  # main() prints it and ends with 2
        text, exit_code = str(result.exception), 2
    else:
        exit_code = result.exit_code
    assert exit_code == code
    assert all(word in text for word in words), text


def test_weights_that_are_published_narrower_have_no_wide_rate():
    found = ("--model", "Qwen/Qwen3-30B-A3B-FP8", "--gpu", "H100-SXM-80GB", *LENGTHS)
    with pytest.raises(InputError, match=r"--precision: 'bf16': contradicts the weights, which are fp8 .*set fp8"):
        run(*found, "--precision", "bf16", catch_exceptions=False)
    assert run(*found, "--precision", "fp8").exit_code == 0


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="--output: is required"):
        run(*REPLICA, "--input", "5", catch_exceptions=False)


def answers(tmp_path, text, *arguments):
    (tmp_path / "rows.csv").write_text(text)
    result = run("--rows", tmp_path / "rows.csv", *arguments, "-o", "csv")
    refused = [number for number, row in enumerate(csv.DictReader(io.StringIO(result.stdout)), 1) if row["error"]]
    assert result.exit_code == (2 if refused else 0), result.output
    assert f"row {', '.join(map(str, refused))}" in result.stderr or not refused
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_rows_are_answered_one_by_one_and_wrong_ones_say_why(tmp_path):
    found = answers(
        tmp_path,
        "id,model,gpu,precision,tp,input,output,concurrency,engine\n"
        "a,llama-3.1-70b,H100-SXM-80GB,fp8,2,2048,128,,\n"
        "b,nothing-7b,H100-SXM-80GB,,,2048,128,,\n"
        "c,llama-3.1-70b,H100-SXM-80GB,fp8,2,many,128,,\n"
        "d,llama-3.1-8b,L40S,,,2048,128,16,sglang\n",
    )
    assert [row["id"] for row in found] == ["a", "b", "c", "d"]
    assert float(found[0]["requests_per_second"]) == pytest.approx(asked()["requests_per_second"])
    assert found[0]["error"] == ""
    assert "nothing-7b" in found[1]["error"]
    assert found[1]["requests_per_second"] == ""
    assert "--input" in found[2]["error"]
    assert "many" in found[2]["error"]
    assert json.loads(found[3]["answer_engine"])["engine"] == "sglang"
    assert (found[3]["concurrency"], float(found[3]["answer_concurrency"])) == ("16", 16)


def test_options_fill_what_rows_leave_open(tmp_path):
    text = "model,tp,input,output\nllama-3.1-70b,,2048,128\nllama-3.1-70b,4,2048,128\n"
    two, four = answers(tmp_path, text, "--gpu", "H100-SXM-80GB", "--precision", "fp8", "--tp", "2")
    assert float(two["requests_per_second"]) == pytest.approx(asked()["requests_per_second"])
    assert float(four["requests_per_second"]) > float(two["requests_per_second"])


def test_rows_as_json_and_files_that_hold_none(tmp_path):
    (tmp_path / "rows.csv").write_text("model,gpu,input,output\nllama-3.1-8b,L40S,100,100\nx,L40S,1,1\n")
    result = run("--rows", tmp_path / "rows.csv", "-o", "json")
    good, bad = json.loads(result.stdout)
    assert set(good["answer"]) == FIELDS
    assert "error" in bad
    (tmp_path / "empty.csv").write_text("")
    for path in (tmp_path / "empty.csv", tmp_path / "absent.csv"):
        result = run("--rows", path)
        assert (result.exit_code, result.stdout) == (2, "")
        assert str(path) in result.stderr
