"""`servingplan classes fit` from the shell.

`UPDATE_GOLDEN=1 pytest tests/unit/classes/test_command.py` rewrites the golden output. The Azure traces are not in the
repository; where `AZURE_LLM_TRACES` names a folder with `code.csv.gz` and `conv.csv.gz`, they are read too.
"""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing
import yaml

from servingplan.api.models_v1alpha1 import Model
from servingplan.cli import app

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLE = REPOSITORY / "examples/chat.yaml"
GOLDEN = REPOSITORY / "tests/golden/classes/fit.txt"
TRACES = os.environ.get("AZURE_LLM_TRACES")


def run(*arguments, **options):
    return typer.testing.CliRunner().invoke(app, ["classes", "fit", *map(str, arguments)], **options)


def written(path, rows=600):
    """Chats and long documents at 4 requests/s, lengths by a rule."""
    lines = ["timestamp,model,input_tokens,output_tokens,max_tokens"]
    for number in range(rows):
        chat = number % 4 > 0
        tokens = 150 + 29 * number % 700 if chat else 2500 + 83 * number % 3000
        lines.append(f"{number / 4},m,{tokens},{40 + 17 * number % 400 if chat else 20},{512 if chat else 32}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return written(tmp_path_factory.mktemp("log") / "requests.csv")


def test_the_table_is_the_golden_one(log, tmp_path):
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"] |= {"models": manifest["spec"]["models"][1:], "solver": {"deadlineSeconds": 60}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(manifest))
    result = run("--from", log, "--plan", tmp_path / "plan.yaml", "--most", "3", "--requests-per-second", "30")
    assert result.exit_code == 0, result.output
    printed = "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(printed)
    assert printed == GOLDEN.read_text()


def test_the_yaml_can_be_pasted_into_a_plan(log, tmp_path):
    result = run("--from", log, "--classes", "3", "-o", "yaml")
    assert result.exit_code == 0, result.output
    classes = yaml.safe_load(result.stdout)["classes"]
    model = Model.model_validate({"name": "m", "classes": classes})
    assert len(model.classes) == 3
    rate = sum(float(item.requests_per_second) for item in model.classes)
    assert rate == pytest.approx(600 / (599 / 4), abs=1e-5)
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["models"][1]["classes"] = classes
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(manifest))
    planned = typer.testing.CliRunner().invoke(app, ["plan", str(tmp_path / "plan.yaml"), "-o", "json"])
    assert planned.exit_code == 0, planned.output
    assert {item["name"] for item in json.loads(planned.stdout)["fleet"]["classes"]} >= {
        item["name"] for item in classes
    }


def test_json_has_all_figures_and_the_same_from_gzip_and_standard_input(log, tmp_path):
    plain = run("--from", log, "-o", "json")
    data = json.loads(plain.stdout)
    assert data["log"]["requests"] == 600
    assert data["log"]["outputKnownAtArrival"] is True
    assert [entry["classes"] for entry in data["fits"]] == [1, 2, 3, 4, 5, 6]
    assert len(data["bounds"]) == len(data["classes"]) * 4
    assert {bound["boundBy"] for bound in data["bounds"]} <= {"compute", "memory"}
    (tmp_path / "log.gz").write_bytes(gzip.compress(log.read_bytes()))
    assert run("--from", tmp_path / "log.gz", "-o", "json").stdout == plain.stdout
    assert run("--from", "-", "-o", "json", input=log.read_bytes()).stdout == plain.stdout
    assert run("--from", "-", "-o", "json", input=gzip.compress(log.read_bytes())).stdout == plain.stdout


def test_without_times_rates_are_shares_unless_a_rate_is_given(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("input_tokens,output_tokens\n100,5\n100,5\n2000,5\n")
    result = run("--from", path, "-o", "json", "--classes", "2")
    data = json.loads(result.stdout)
    assert data["requestsPerSecond"] is None
    assert [item["requestsPerSecond"] for item in data["classes"]] == ["0.333333", "0.666667"]
    assert any("no times" in note for note in data["notes"])
    given = json.loads(run("--from", path, "-o", "json", "--classes", "2", "--requests-per-second", "6").stdout)
    assert [item["requestsPerSecond"] for item in given["classes"]] == ["2", "4"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "no-such-model"], "no-such-model"),
        (["--gpu", "no-such-gpu"], "no-such-gpu"),
        (["--precision", "fp3"], "--precision"),
        (["--log-model", "other"], "has requests to m"),
        (["--plan", str(EXAMPLE)], "name one of llama-3.1-70b, llama-3.1-8b"),
        (["--plan", str(EXAMPLE), "--model", "x"], "is not in"),
        (["--gpu", "L4", "--model", "llama-3.1-405b"], "cannot hold"),
    ],
)
def test_wrong_arguments_are_named(log, arguments, named):
    command = [sys.executable, "-m", "servingplan", "classes", "fit", "--from", str(log), *arguments]
    if named == "cannot hold":  # as the shell sees an error of the pure rooms
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (result.returncode, named in result.stderr) == (2, True), result.stderr
        assert "Traceback" not in result.stderr
    else:
        result = run("--from", log, *arguments)
        assert result.exit_code != 0
        assert named in result.output + str(result.exception)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "the file is empty"),
        (bytes(range(256)) * 50, "no column tells"),
        (b"\x1f\x8bnot gzip at all", "cannot be read"),
        (gzip.compress(b"input_tokens,output_tokens\n" * 9)[:-9], "cannot be read"),
        (b"input_tokens,output_tokens\n", "has a header only"),
        (b"input_tokens,output_tokens\n0,0\n", "line 2: input_tokens: '0'"),
        (b"[" * 100_000, "no row contains a request"),
    ],
    ids=["nothing", "bytes", "no gzip", "half of a gzip", "only a header", "zeros", "deep"],
)
def test_garbage_is_refused_with_the_file_and_what_to_do(tmp_path, content, named):
    path = tmp_path / "log"
    path.write_bytes(content)
    result = run("--from", path)
    assert result.exit_code != 0
    said = result.output + str(result.exception)
    assert named in said
    assert str(path) in said
    assert not isinstance(result.exception, RecursionError | UnicodeError | MemoryError)


def test_a_file_that_is_not_there():
    result = run("--from", "/no/such/file")
    assert result.exit_code == 2
    assert "cannot be read" in result.output


@pytest.mark.skipif(TRACES is None, reason="AZURE_LLM_TRACES does not name the folder of the traces")
@pytest.mark.parametrize(("name", "requests"), [("code", 8819), ("conv", 19366)])
def test_azure_traces(name, requests):
    path = Path(TRACES) / f"{name}.csv.gz"
    data = json.loads(run("--from", path, "--classes", "2", "-o", "json").stdout)
    assert data["log"]["requests"] == requests
    assert data["log"]["badRows"] == 0
    with gzip.open(path, "rt") as lines:
        rows = [(int(row["input_tokens"]), int(row["output_tokens"])) for row in csv.DictReader(lines)]
    boundary = data["classes"][0]["match"]["inputTokensAtLeast"]
    for item, inside in zip(
        data["classes"], ([r for r in rows if r[0] >= boundary], [r for r in rows if r[0] < boundary]), strict=True
    ):
        assert item["inputTokens"] == round(sum(r[0] for r in inside) / len(inside))
        assert item["outputTokens"] == round(sum(r[1] for r in inside) / len(inside))
