"""`servingplan profile table, models, gpus, add-model` from the shell."""

import csv
import io
import json

import pytest
import typer.testing
import yaml

from servingplan.cli import app
from servingplan.errors import InputError
from servingplan.profiles.catalogue import Catalogue, ModelRow, packaged_gpus, packaged_models

PRICES = ("--price", "H100-SXM-80GB=3,L40S=1", "--price", "A100-SXM4-80GB=1.75")
CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
}


def run(*arguments, **options):
    return typer.testing.CliRunner().invoke(app, ["profile", *map(str, arguments)], **options)


def cells(*arguments):
    result = run("table", "--model", "llama-3.1-8b", *PRICES, "--classes", "2455:18,496:253", *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_shape_on_every_card_for_every_class_has_a_cell():
    found = cells("--gpus-per-replica", "4")
    assert {cell["gpu"] for cell in found} == {"H100-SXM-80GB", "L40S", "A100-SXM4-80GB"}
    assert {(cell["tp"], cell["pp"]) for cell in found} == {(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)}
    assert len(found) == 3 * 2 * 6
    for cell in found:
        assert cell["requests_per_dollar"] == pytest.approx(
            3600 * cell["requests_per_second"] / cell["dollars_per_hour"]
        )
        latency = cell["ttft_seconds"] + (cell["output"] - 1) * cell["tpot_seconds"]
        assert cell["latency_times_price"] == pytest.approx(latency * cell["dollars_per_hour"])


def test_a_cell_is_what_lookup_says():
    (cell,) = [cell for cell in cells("--shapes", "2x1", "--gpu", "L40S") if cell["class"] == "496:253"]
    replica = ("--model", "llama-3.1-8b", "--gpu", "L40S", "--tp", "2", "--input", "496", "--output", "253")
    found = json.loads(run("lookup", *replica, "-o", "json").stdout)
    assert cell["requests_per_second"] == found["requests_per_second"]


def test_csv_has_what_json_has_and_cells_that_cannot_be_say_why():
    arguments = ("table", "--model", "llama-3.1-70b", *PRICES, "--classes", "496:253", "--shapes", "1,4")
    result = run(*arguments, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["error"] != "" for row in rows] == [True, False] * 3
    assert "Memory" in rows[0]["error"]


def test_the_table_marks_the_best_and_the_plot_is_written(tmp_path):
    common = ("table", "--model", "llama-3.1-8b", *PRICES, "--classes", "496:253", "--shapes", "1,2")
    result = run(*common, "--plot", tmp_path / "table.html")
    assert "Requests per dollar" in result.stdout
    assert "Latency times price" in result.stdout
    assert result.stdout.count("*") == 2
    assert "L40S" in (tmp_path / "table.html").read_text()
    every = run(*common, "--every-shape")
    assert "L40S TP2" in every.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--price", "H100-SXM-80GB"), ("--price", "GPU=DOLLARS")),
        (("--price", "H100-SXM-80GB=-1"), ("--price", "-1")),
        (("--price", "nothing=1"), ("gpu", "nothing")),
        ((*PRICES, "--shapes", "0x1"), ("--shapes", "0x1")),
        ((*PRICES, "--classes", "1:x"), ("--classes", "1:x")),
        ((*PRICES, "--gpu", "GB300-288GB"), ("--price", "GB300-288GB")),
        (("--model", "lama"), ("model", "lama")),
    ],
)
def test_wrong_tables(arguments, words):
    result = run("table", "--model", "llama-3.1-8b", *arguments)
    text = result.stderr if isinstance(result.exception, SystemExit) else str(result.exception)
    assert result.exit_code != 0
    assert all(word in text for word in words), text
    assert result.stdout == ""


def test_published_prices_serve_where_none_is_stated():
    common = (
        "table",
        "--model",
        "llama-3.1-8b",
        "--gpu",
        "L4-24GB",
        "--classes",
        "496:253",
        "--shapes",
        "1",
        "-o",
        "json",
    )
    result = run(*common)
    (cell,) = json.loads(result.stdout)
    assert f"L4-24GB: {cell['dollars_per_hour']:g} $/h as of 20" in result.stderr
    stated = run(*common, "--price", "L4-24GB=0.3")
    assert json.loads(stated.stdout)[0]["dollars_per_hour"] == 0.3
    assert stated.stderr == ""


def test_where_nothing_fits_the_exit_code_says_so():
    result = run("table", "--model", "llama-3.1-405b", "--price", "L4-24GB=0.7", "--shapes", "1")
    assert result.exit_code == 3
    assert "no shape serves any class" in result.stderr


def test_models_and_gpus_are_listed_with_their_sources():
    models = json.loads(run("models", "-o", "json").stdout)
    assert [item["name"] for item in models] == [card.name for card in packaged_models()]
    assert all(item["source"] for item in models)
    gpus = json.loads(run("gpus", "-o", "json").stdout)
    assert [item["name"] for item in gpus] == [gpu.name for gpu in packaged_gpus()]
    assert all(item["source"] and item["link"] for item in gpus)


def test_lists_are_filtered_by_any_name():
    assert [item["name"] for item in json.loads(run("gpus", "l40s", "-o", "json").stdout)] == ["L40S"]
    found = json.loads(run("models", "meta-llama/Llama-3.1-70B-Instruct", "-o", "json").stdout)
    assert [item["name"] for item in found] == ["Llama-3.1-70B"]
    assert "Llama-3.1-70B" in run("models", "llama-3.1").stdout
    nothing = run("models", "unheard-of")
    assert (nothing.exit_code, nothing.stdout) == (2, "")
    assert "add-model" in nothing.stderr


def test_a_config_becomes_a_row_that_the_catalogue_reads(tmp_path):
    (tmp_path / "mine-1b").mkdir()
    path = tmp_path / "mine-1b" / "config.json"
    path.write_text(json.dumps(CONFIG))
    result = run("add-model", path)
    assert result.exit_code == 0, result.output
    row = ModelRow.model_validate(json.loads(result.stdout))
    card = Catalogue([row]).find_model("mine-1b")
    assert (card.name, card.layers, card.max_context_tokens) == ("mine-1b", 16, 4096)
    assert "16 layers" in result.stderr
    piped = run("add-model", "-", "--repository", "us/Mine-1B", input=json.dumps(CONFIG))
    assert json.loads(piped.stdout)["repositories"] == {"us/Mine-1B": {}}


def test_a_config_becomes_a_config_map_for_the_operator(tmp_path):
    path = tmp_path / "mine-1b.json"
    path.write_text(json.dumps(CONFIG))
    result = run("add-model", path, "-o", "configmap", "-n", "servingplan-system")
    manifest = yaml.safe_load(result.stdout)
    assert manifest["metadata"] == {
        "name": "servingplan-models",
        "namespace": "servingplan-system",
        "labels": {"servingplan.dev/catalogue": "models"},
    }
    (row,) = json.loads(manifest["data"]["models.json"])
    assert Catalogue([ModelRow.model_validate(row)]).find_model("mine-1b").hidden_size == 2048


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("{", (), "JSON"),
        ("[]", (), "object"),
        (json.dumps(CONFIG | {"model_type": "novel"}), (), "model_type"),
        (json.dumps({key: value for key, value in CONFIG.items() if key != "hidden_size"}), (), "hidden_size"),
        (json.dumps(CONFIG), ("--repository", "alone"), "--repository"),
    ],
)
def test_a_config_that_is_not_understood_names_the_field(text, options, words):
    result = run("add-model", "-", "--name", "x", *options, input=text)
    assert isinstance(result.exception, InputError)
    assert words in str(result.exception)
    assert result.stdout == ""


def test_an_unknown_architecture_is_taken_for_a_plain_one_where_somebody_insists():
    result = run("add-model", "-", "--name", "x", "--assume-plain", input=json.dumps(CONFIG | {"model_type": "novel"}))
    assert json.loads(result.stdout)["assume_plain"] is True


def test_a_model_without_a_name_is_asked_for_one():
    result = run("add-model", "-", input=json.dumps(CONFIG))
    assert "--name" in str(result.exception)


def test_a_price_of_a_gpu_that_is_not_in_the_table_is_told():
    result = run("table", "--model", "llama-3.1-8b", *PRICES, "--gpu", "L40S", "--classes", "496:253", "-o", "json")
    assert result.exit_code == 0
    warned = [line for line in result.stderr.splitlines() if line.startswith("warning: --price")]
    assert [line.split(": ")[2] for line in warned] == ["H100-SXM-80GB", "A100-SXM4-80GB"]
    assert {cell["gpu"] for cell in json.loads(result.stdout)} == {"L40S"}


def test_a_table_that_is_piped_is_as_wide_as_its_content():
    result = run("table", "--model", "llama-3.1-8b", "--price", "H100-SXM-80GB=3,L40S=1", "--every-shape")
    assert result.exit_code == 0
    heads = [line for line in result.stdout.splitlines() if line.strip().startswith("GPU")]
    assert len(heads) == 2
    for head in heads:
        assert head.split()[1:] == [
            *("2455:18", "2455:253", "2455:510", "496:18", "496:253", "496:510", "824:18", "824:253", "824:510")
        ]
    assert "…" not in result.stdout
