"""Replicas over several nodes: against the replica on one node, against bytes counted by hand, against even splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.model.engine import EngineSettings
from servingplan.profiles import catalogue
from servingplan.profiles.bands import Basis
from servingplan.profiles.chain import estimate_chain
from servingplan.profiles.estimate import Estimate
from servingplan.profiles.fit import Unfit
from servingplan.profiles.pipeline import Pipeline, Stage, most_layers, stage_steps
from servingplan.profiles.promise import Limits, Requests
from servingplan.profiles.steady import steady
from servingplan.profiles.steps import RESERVED_BYTES_PER_GPU

CHAT = Requests("chat", 496, 253, Limits(None, None))
LONG = Requests("long", 2455, 18, Limits(None, None))
GPUS = ("A100-SXM4-80GB", "H100-SXM-80GB", "L40S", "A10G")
MODELS = ("Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B", "Mixtral-8x7B")


def stage(gpu, node):
    return Stage(catalogue.find_gpu(gpu), node)


def chain(model, stages, tp, classes=(CHAT,), context=1498, precision="bf16"):
    return estimate_chain(
        model=catalogue.find_model(model),
        precision=precision,
        stages=stages,
        tensor_parallel=tp,
        classes=classes,
        settings=EngineSettings(max_model_len=context, max_num_seqs=1024),
    )


def test_one_stage_is_the_replica_itself_but_for_where_prompts_are_read():
    model, gpu = catalogue.find_model("Llama-3.1-70B"), "A100-SXM4-80GB"
    stages = stage_steps(
        model=model, precision="bf16", stages=[stage(gpu, 0)], tensor_parallel=4, settings=EngineSettings()
    )
    pipeline = Pipeline(stages, (80,), 0.0)
    batch = np.array([1.0, 16.0, 64.0])
    along, plain = pipeline.at(batch, 496, 253), steady(stages[0].whole, batch, 496, 253)
    # The chain reads a prompt beside the steps, the engine inside one.
    assert along.requests_per_second == pytest.approx(plain.requests_per_second, rel=0.12)


def test_a_network_between_the_stages_costs_time():
    inside = chain("Llama-3.1-70B", (stage("L40S", 0), stage("L40S", 0)), 4).by_class["chat"]
    between = chain("Llama-3.1-70B", (stage("L40S", 0), stage("L40S", 1)), 4).by_class["chat"]
    assert between.ttft_seconds > inside.ttft_seconds
    assert 0.5 * inside.requests_per_second < between.requests_per_second < inside.requests_per_second


@settings(max_examples=60)
@given(
    model=st.sampled_from(MODELS),
    precision=st.sampled_from(["bf16", "fp8", "int4"]),
    gpus=st.lists(st.sampled_from(GPUS), min_size=2, max_size=6),
    tp=st.sampled_from([1, 2, 4, 8]),
    context=st.sampled_from([800, 4096, 32768]),
)
def test_no_stage_holds_more_bytes_than_it_has(model, precision, gpus, tp, context):
    stages = tuple(stage(gpu, node) for node, gpu in enumerate(gpus))
    found = chain(model, stages, tp, context=context, precision=precision)
    card = catalogue.find_model(model)
    tables = [card.vocabulary_size * card.hidden_size * 2.0] * (1 if card.tied_embeddings else 2)
    body = card.weight_bytes(precision) - sum(tables)
    if not found.layers:
        assert all(isinstance(answer, Unfit) and answer.reason == "Memory" for answer in found.by_class.values())
        return
    assert sum(found.layers) == card.layers
    for number, (held, (gpu, _)) in enumerate(zip(found.layers, stages, strict=True)):
        kv_of_a_token = 2 * held * max(card.kv_heads, tp) * card.head_dim * 2
        table = card.vocabulary_size * card.hidden_size * 2 * ((number == 0) + (number == len(stages) - 1))
        answers = [answer for answer in found.by_class.values() if isinstance(answer, Estimate)]
        tokens = max([context, *((answer.batch - 1) * 635 for answer in answers)])
        needed = body * held / card.layers + table + tokens * kv_of_a_token
        assert needed <= tp * (0.9 * gpu.usable_bytes - RESERVED_BYTES_PER_GPU) * (1 + 1e-9)


@settings(max_examples=40)
@given(
    model=st.sampled_from(MODELS[:2]),
    gpus=st.lists(st.sampled_from(GPUS), min_size=2, max_size=4),
    tp=st.sampled_from([2, 4, 8]),
)
def test_the_split_is_never_slower_than_the_even_one(model, gpus, tp):
    stages = tuple(stage(gpu, node) for node, gpu in enumerate(gpus))
    card = catalogue.find_model(model)
    staged = stage_steps(model=card, precision="bf16", stages=stages, tensor_parallel=tp, settings=EngineSettings())
    body = card.weight_bytes("bf16") - 2 * card.vocabulary_size * card.hidden_size * 2
    even = tuple(card.layers // len(gpus) + (number < card.layers % len(gpus)) for number in range(len(gpus)))
    most = most_layers(card.layers, staged, body, kv_tokens=1498)
    if any(held > limit for held, limit in zip(even, most, strict=True)):
        return
    pipeline = Pipeline(staged, even, body)
    batch = np.array([min(1024.0, pipeline.kv_room_tokens() // (496 + 0.55 * 253))])
    rate = chain(model, stages, tp).by_class["chat"].requests_per_second
    assert rate >= pipeline.at(batch, 496, 253).requests_per_second[0] * (1 - 1e-6)


def test_a_fast_stage_holds_more_layers_than_a_slow_one_of_more_memory():
    a40, h100 = catalogue.find_gpu("A40"), catalogue.find_gpu("H100-SXM-80GB")
    fast = h100.model_copy(update={"memory_gb": 40})
    found = chain("Llama-3.1-70B", (Stage(a40, 0), Stage(fast, 1)), 8)
    assert a40.usable_bytes > fast.usable_bytes
    assert found.layers[1] > 2 * found.layers[0]


def test_a_mixed_replica_is_faster_than_two_slow_nodes_and_slower_than_two_fast_ones():
    def rate(first, second):
        return chain("Llama-3.1-70B", (stage(first, 0), stage(second, 1)), 8).by_class["chat"].requests_per_second

    slow, fast = "L40S", "H100-SXM-80GB"
    assert rate(slow, slow) < rate(slow, fast) < rate(fast, fast)


def test_the_largest_model_fits_two_nodes_of_eight_and_not_one():
    gpu = "A100-SXM4-80GB"
    one = chain("Llama-3.1-405B", (stage(gpu, 0),), 8).by_class["chat"]
    assert isinstance(one, Unfit)
    assert one.reason == "Memory"
    two = chain("Llama-3.1-405B", (stage(gpu, 0), stage(gpu, 1)), 8, classes=(CHAT, LONG), context=4096)
    assert two.layers == (62, 64)  # the first stage also sends
    assert {answer.source for answer in two.by_class.values()} == {"datasheet"}
    assert {answer.basis for answer in two.by_class.values()} == {Basis("saturated", "datasheet", reach="pipeline")}


def test_limits_are_met_or_refused():
    stages = (stage("A100-SXM4-80GB", 0), stage("L40S", 1))
    free = chain("Llama-3.1-70B", stages, 8).by_class["chat"]
    limits = Limits(3.0, free.tpot_seconds * 0.7)
    held = chain("Llama-3.1-70B", stages, 8, classes=(CHAT._replace(limits=limits),)).by_class["chat"]
    assert held.ttft_percentile_seconds <= limits.ttft_seconds * 1.02
    assert held.tpot_percentile_seconds <= limits.tpot_seconds * 1.02
    assert held.requests_per_second < free.requests_per_second
    never = CHAT._replace(limits=Limits(None, 1e-6))
    assert chain("Llama-3.1-70B", stages, 8, classes=(never,)).by_class["chat"].reason == "SloUnreachable"


def test_heads_context_and_layers_are_refused_by_name():
    two = (stage("A100-SXM4-80GB", 0), stage("A100-SXM4-80GB", 1))
    assert chain("Llama-3.1-70B", two, 3).by_class["chat"].reason == "HeadsNotDivisible"
    assert chain("Llama-3.1-70B", two, 4, context=600).by_class["chat"].reason == "ContextTooShort"
    many = tuple(stage("A100-SXM4-80GB", node) for node in range(33))
    assert chain("Llama-3.1-8B", many, 1).by_class["chat"].reason == "LayersNotDivisible"
