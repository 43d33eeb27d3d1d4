"""`servingplan profile import`: results in the formats of other programs, written by hand after their sources."""

import csv
import io
import json
from pathlib import Path

import pytest
import typer.testing
import yaml

from servingplan.cli import app
from servingplan.profiles.measured import SHIPPED
from servingplan.profiles.rows import ALLOWANCE, Row, impossible

RESULTS = Path(__file__).parent / "results"
REPLICA = ("--gpu", "H100-SXM-80GB", "--tp", "1")


def run(*arguments, **options):
    return typer.testing.CliRunner().invoke(app, ["profile", "import", *map(str, arguments)], **options)


def imported(name, *arguments):
    result = run(RESULTS / name, *arguments)
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


def written(path, *rows):
    """A file of rows of our own, the header from the first."""
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


ROW = {
    "model": "llama-3.1-8b",
    "gpu": "H100-SXM-80GB",
    "precision": "bf16",
    "tp": 1,
    "input": 1024,
    "output": 256,
    "concurrency": 64,
    "requests_per_second": 5.6,
    "ttft_seconds": 0.2,
    "tpot_seconds": 0.042,
}


def test_vllm_closed_loop():
    (row,) = imported("vllm.json")  # GPU and TP stand in its metadata
    assert (row["model"], row["gpu"], row["engine"], row["concurrency"]) == (
        "Llama-3.1-8B",
        "H100-SXM-80GB",
        "vllm",
        "64",
    )
    assert (row["input"], row["output"]) == ("1024", "256")
    assert (row["requests_per_second"], row["ttft_seconds"], row["tpot_p99_seconds"]) == ("5.603", "0.2124", "0.0553")
    assert row["note"] == "1 requests failed"


def test_vllm_open_loop_one_object_a_line():
    rows = imported("vllm_rates.jsonl", "--model", "llama-3.1-8b", *REPLICA, "--engine", "sglang")
    assert [row["offered_requests_per_second"] for row in rows] == ["2", "8"]
    assert {row["engine"] for row in rows} == {"sglang"}  # "openai" is an API, not an engine
    assert "concurrency" not in rows[0]


def test_guidellm():
    one, ten, full = imported("guidellm.json", *REPLICA)
    assert one["concurrency"] == "1"
    assert ten["offered_requests_per_second"] == "10"
    assert full["concurrency"] == "256"
    assert (one["ttft_seconds"], one["tpot_p95_seconds"]) == ("0.024", "0.0096")
    assert ten["note"] == "3 requests failed"


def test_aiperf_and_genai_perf():
    (row,) = imported("aiperf.json", "--gpu", "H100-SXM-80GB", "--tp", "4")
    assert (row["model"], row["precision"], row["concurrency"]) == ("Llama-3.1-70B", "fp8", "32")
    assert float(row["ttft_seconds"]) == pytest.approx(1.24009)
    (row,) = imported("genai_perf.json", *REPLICA)
    assert (row["model"], row["engine"], row["concurrency"]) == ("Llama-3.1-8B", "tensorrt-llm", "1")


def test_aiconfigurator_predicts_and_data_parallel_is_refused():
    result = run(RESULTS / "aiconfigurator.csv")
    assert result.exit_code == 2
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert (row["gpu"], row["precision"], row["kv_cache_dtype"]) == ("H200-SXM-141GB", "fp8", "fp8")
    assert "prediction" in row["source"]
    assert "row 2" in result.stderr
    assert "data parallel" in result.stderr


def test_what_is_printed_is_read_again(tmp_path):
    first = run(RESULTS / "guidellm.json", *REPLICA).stdout
    (tmp_path / "rows.csv").write_text(first)
    assert run(tmp_path / "rows.csv").stdout == first
    as_json = run(tmp_path / "rows.csv", "-o", "json")
    (tmp_path / "rows.json").write_text(as_json.stdout)
    assert run(tmp_path / "rows.json").stdout == first


def test_a_config_map_to_apply():
    result = run(RESULTS / "guidellm.json", *REPLICA, "-o", "configmap", "--name", "our-rates", "-n", "llm")
    manifest = yaml.safe_load(result.stdout)
    assert manifest["kind"] == "ConfigMap"
    labels = {"servingplan.dev/profiles": "measured"}  # by which the operator watches it
    assert manifest["metadata"] == {"name": "our-rates", "namespace": "llm", "labels": labels}
    assert len(list(csv.DictReader(io.StringIO(manifest["data"]["rows.csv"])))) == 3
    assert "rows.csv: |" in result.stdout


def test_the_table_is_for_people():
    result = run(RESULTS / "guidellm.json", *REPLICA, "-o", "table")
    assert "10/s offered" in result.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"requests_per_second": 5000, "concurrency": ""}, ("requests_per_second", "5000", "TFLOP/s")),
        ({"requests_per_second": -1}, ("requests_per_second", "-1")),
        ({"requests_per_second": "nan"}, ("requests_per_second",)),
        ({"ttft_seconds": 200, "tpot_seconds": 42}, ("tpot_seconds", "42", "milliseconds")),
        ({"ttft_seconds": 212, "tpot_seconds": 4.2, "output": 64}, ("concurrency", "does not fit")),
        ({"ttft_seconds": 0.0002, "tpot_seconds": ""}, ("ttft_seconds", "0.0002", "prompt")),
        ({"tpot_seconds": 0.00004, "concurrency": ""}, ("tpot_seconds", "weights")),
        ({"concurrency": 4}, ("concurrency", "4", "running requests")),
        ({"engine": "llama.cpp"}, ("engine", "llama.cpp", "sglang")),
        ({"model": "llama-3.1-9b"}, ("model", "llama-3.1-9b", "close")),
        ({"gpu": "H100-81GB"}, ("gpu", "H100-81GB")),
        ({"tp": "two"}, ("tp", "two")),
        ({"output": ""}, ("output", "missing")),
        ({"precision": "fp7"}, ("precision", "fp7", "bf16")),
        ({"kv_cache_dtype": "int3"}, ("kv_cache_dtype", "int3")),
        ({"offered_requests_per_second": 5}, ("concurrency", "exclude")),
    ],
)
def test_impossible_rows_are_refused_by_number_and_the_rest_is_imported(tmp_path, change, words):
    columns = dict.fromkeys((*ROW, "engine", "kv_cache_dtype", "offered_requests_per_second"), "")
    result = run(
        written(tmp_path / "rows.csv", columns | ROW, columns | ROW | change, columns | ROW | {"concurrency": 60})
    )
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 3
    assert "row 2: " in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert "1 of 3 rows were refused; 2 were imported" in result.stderr


def test_the_physical_limit_has_a_band():
    table = 128256 * 4096
    operations = 2 * (
        (8_030_261_248 - 2 * table) * 1280 + table * 256
    )  # of one request: layers, and head of the answer
    limit = 989e12 / operations
    base = ROW | {"concurrency": None, "ttft_seconds": None, "tpot_seconds": None}
    row = Row.model_validate(base | {"requests_per_second": limit * (1 + 0.9 * ALLOWANCE)})
    assert impossible(row) is None
    assert impossible(row.model_copy(update={"requests_per_second": limit * (1 + 1.2 * ALLOWANCE)}))
    half_cached = {"requests_per_second": limit * 1.5, "prefix_cache_hit_share": 0.5}
    assert impossible(row.model_copy(update=half_cached)) is None


def test_nothing_that_was_measured_is_called_impossible():
    for item in SHIPPED.rows:
        row = Row(
            model=item.model,
            gpu=item.gpu,
            precision=item.precision,
            tp=item.tensor_parallel,
            pp=item.pipeline_parallel,
            input=item.input_tokens,
            output=item.output_tokens,
            concurrency=item.concurrency,
            requests_per_second=item.requests_per_second,
            ttft_seconds=item.ttft_seconds,
            tpot_seconds=item.tpot_seconds,
        )
        assert impossible(row) is None, row


def test_repeated_rows_count_once_and_must_agree(tmp_path):
    rows = (ROW, ROW, ROW | {"requests_per_second": 5.9}, ROW | {"tp": 2})
    result = run(written(tmp_path / "rows.csv", *rows))
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 3
    assert "row 3: repeats row 1" in result.stderr
    assert "5.9 requests/s" in result.stderr
    assert "row 2" not in result.stderr


def test_rates_are_reckoned_from_times_where_none_is_given(tmp_path):
    row = {name: value for name, value in ROW.items() if name != "requests_per_second"}
    (found,) = csv.DictReader(io.StringIO(run(written(tmp_path / "rows.csv", row)).stdout))
    assert float(found["requests_per_second"]) == pytest.approx(64 / (0.2 + 255 * 0.042), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty",)),
        ("{", ("JSON",)),
        ('{"hello": 1}', ("hello", "GuideLLM")),
        ("a,b\n1,2\n", ("none of the known",)),
        ("model,gpu,input,output,concurency\n", ("0 of 0", "0 were imported")),
    ],
)
def test_files_of_no_known_program(tmp_path, text, words):
    path = tmp_path / "results"
    path.write_text(text)
    result = run(path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert all(word in result.stderr for word in words), result.stderr


def test_a_misspelt_column_is_not_read_as_another_load(tmp_path):
    row = {("concurency" if name == "concurrency" else name): value for name, value in ROW.items()}
    result = run(written(tmp_path / "rows.csv", row))
    assert result.exit_code == 2
    assert "concurency" in result.stderr


def test_json_of_a_failed_run_names_what_is_missing(tmp_path):
    document = json.loads((RESULTS / "vllm.json").read_text()) | {"completed": 0, "request_throughput": 0.0}
    (tmp_path / "vllm.json").write_text(json.dumps(document))
    result = run(tmp_path / "vllm.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "row 1" in result.stderr
