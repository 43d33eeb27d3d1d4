"""Rows that an installation adds: each right one counts, each wrong one is told by its number."""

import json

import pytest

from servingplan.profiles.additions import price_of, read_gpus, read_models, read_prices, shipped_prices
from servingplan.profiles.catalogue import find_gpu, shipped

MODEL = {
    "name": "House-8B",
    "source": "config.json of house/House-8B-Instruct",
    "config": {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    },
    "repositories": {"house/House-8B-Instruct": {}},
}
GPUS = """name,memory_gb,memory_bandwidth_gb_per_second,bf16_dense_tflops,link_gb_per_second_per_direction,link,aliases,source
X100-96GB,96,4000,900,450,NVLink9,X100;NVIDIA-X100,its datasheet
"""
PRICES = "gpu,dollars_per_gpu_hour,capacity_type,as_of,source\n"


def test_a_model_as_the_command_prints_it():
    for text in (json.dumps(MODEL), json.dumps([MODEL])):
        (row,), problems = read_models(text)
        assert problems == ()
        card = shipped().with_rows([row]).find_model("house-8b")
        assert (card.repository, card.max_context_tokens) == ("house/House-8B-Instruct", 8192)


def test_a_wrong_model_is_told_and_the_others_count():
    strange = MODEL | {"config": MODEL["config"] | {"model_type": "martian"}}
    rows, problems = read_models(json.dumps([strange, MODEL, MODEL | {"color": "red"}, 7]))
    assert [row.name for row in rows] == ["House-8B"]
    assert [text[:6] for text in problems] == ["row 1:", "row 3:", "row 4:"]
    assert "model_type" in problems[0]
    assert "color" in problems[1]
    assert "add-model" in read_models("{").problems[0]


def test_a_gpu_is_one_line():
    (gpu,), problems = read_gpus(GPUS)
    assert problems == ()
    assert (gpu.name, gpu.nvlink, gpu.answers_to("nvidia-x100")) == ("X100-96GB", True, True)
    rows, problems = read_gpus(GPUS + "Y,much,1,1,1,,,\n" + "Z,1,1,1,1,,,\n")
    assert [row.name for row in rows] == ["X100-96GB", "Z"]
    assert problems[0].startswith("line 3: memory_gb: 'much'")


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("H100,twelve,OnDemand,2026-01-01,me", "dollars_per_gpu_hour"),
        ("H100,-1,OnDemand,2026-01-01,me", "dollars_per_gpu_hour"),
        ("H100,98000,OnDemand,2026-01-01,me", "dollars_per_gpu_hour"),
        ("H100,nan,OnDemand,2026-01-01,me", "dollars_per_gpu_hour"),
        ("H1000,2,OnDemand,2026-01-01,me", "gpu"),
        ("H100,2,Borrowed,2026-01-01,me", "capacity_type"),
        ("H100,2,OnDemand,yesterday,me", "as_of"),
        ("H100,2,OnDemand,,me", "as_of"),
        ("H100,2,OnDemand,2026-01-01,", "source"),
    ],
)
def test_a_wrong_price_is_told_by_line_and_column(line, field):
    rows, problems = read_prices(f"{PRICES}{line}\nL4,0.5,,2026-01,me\n", shipped())
    assert [(row.gpu, row.dollars_per_gpu_hour, row.capacity_type) for row in rows] == [("L4-24GB", 0.5, "OnDemand")]
    (problem,) = problems
    assert problem.startswith(f"line 2: {field}: ")


def test_prices_are_of_the_newest_date_and_the_middle_of_it():
    lines = ["H100,9,OnDemand,2025-01-01,a", "H100,3,OnDemand,2026-01-01,b", "H100,5,OnDemand,2026-01-01,c"]
    lines += ["H100,4,OnDemand,2026-01-01,d", "H100,1,Spot,2026-06-01,e"]
    prices, _ = read_prices(PRICES + "\n".join(lines), shipped())
    assert price_of(prices, find_gpu("H100"), "OnDemand").source == "d"
    assert price_of(prices, find_gpu("H100"), "Spot").dollars_per_gpu_hour == 1
    assert price_of(prices, find_gpu("H100"), "Reserved") is None
    assert price_of(prices, find_gpu("L4"), "OnDemand") is None


def test_every_shipped_price_has_a_date_and_a_source():
    prices = shipped_prices()
    assert len(prices) > 15
    assert all(item.as_of >= "2024-01" and item.source for item in prices)
