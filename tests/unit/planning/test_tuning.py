"""With which settings a layout is asked about."""

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.answer import Answer
from servingplan.planning import cards
from servingplan.planning.fleet import fleet_of
from servingplan.planning.question import pose
from servingplan.planning.settings import SEQUENCES
from tests.unit.planning.test_shapes import plan, pool, pools_of

CHAT = {"name": "chat", "inputTokens": 496, "outputTokens": 253, "requestsPerSecond": "1"}


def posed(manifest, **more):
    spec, pools = pools_of(manifest)
    found, errors = pose(spec=spec, pools=pools, incumbent=more.pop("incumbent", None), **more)
    return spec, found, errors


def asked(model="llama-3.1-8b", gpu="H100-SXM-80GB", **more):
    """The one shape on one GPU of a model with one class."""
    _, found, errors = posed(plan(pool("p", gpu, gpus=1), model=model, **more))
    assert errors == ()
    return list(found.shapes.values())


def rate(shapes):
    (shape,) = shapes
    return shape.estimates["chat"].planned_requests_per_second


def test_the_batch_that_the_limits_allow_is_what_the_engine_may_run():
    (shape,) = asked(slo={"tpotSeconds": "0.02"})
    batch = shape.estimates["chat"].most_running
    assert shape.settings.max_num_seqs == min(count for count in SEQUENCES if count >= batch) < SEQUENCES[-1]
    assert shape.key.endswith(f"/seqs{shape.settings.max_num_seqs}")


@pytest.mark.parametrize("tpot", ["0.015", "0.02", "0.05", "0.3"])
def test_the_smaller_limit_costs_no_class_any_of_its_rate(tpot):
    slo = {"tpotSeconds": tpot}
    assert rate(asked(slo=slo)) >= rate(asked(slo=slo, engine={"maxNumSeqs": SEQUENCES[-1]})) * (1 - 1e-9)


@pytest.mark.parametrize(
    "engine",
    [
        {"maxNumSeqs": 1},
        {"extraArgs": ["--max-num-seqs=1"]},
        {"gpuMemoryUtilization": "0.3"},
        {"extraArgs": ["--gpu_memory_utilization", "0.3"]},
    ],
)
def test_what_slows_the_engine_slows_the_plan(engine):
    assert rate(asked(engine=engine)) < 0.8 * rate(asked())


def test_an_fp8_kv_cache_is_taken_only_where_it_may_be_and_serves_more():
    auto = {"kvCacheDtype": "auto"}
    memory_bound = {
        "model": "llama-3.1-70b",
        "gpu": "H200-SXM-141GB",
        "variants": [
            {
                "name": "fp8",
                "source": "hf://neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8",
                "precision": "fp8",
                "kvCacheQualityLoss": "0.002",
            }
        ],
    }
    assert [item.settings.kv_cache_dtype for item in asked(**memory_bound)] == ["auto"]
    narrow = asked(**memory_bound, engine=auto)
    assert [item.settings.kv_cache_dtype for item in narrow] == ["fp8"]
    assert rate(narrow) > rate(asked(**memory_bound))
    assert narrow[0].key.endswith("+kv-fp8")
    limited = asked(**memory_bound, engine=auto, maxQualityLoss="0.001")
    assert [item.settings.kv_cache_dtype for item in limited] == ["auto", "fp8"]
    assert [item.settings.kv_cache_dtype for item in asked(gpu="A100-SXM4-80GB", engine=auto)] == ["auto"]


def test_what_an_fp8_kv_cache_loses_counts_against_the_quality_limit():
    variants = [{"name": "v", "source": "hf://m/llama-3.1-8b", "qualityLoss": "0.001", "kvCacheQualityLoss": "0.002"}]
    _, found, _ = posed(
        plan(
            pool("p", "H100-SXM-80GB", gpus=1), model="llama-3.1-8b", variants=variants, engine={"kvCacheDtype": "fp8"}
        )
    )
    (shape,) = found.question.shapes
    assert shape.quality_loss == {"llama-3.1-8b/chat": pytest.approx(0.003)}


def fleet_with(manifest, settings):
    """A fleet of one replica that runs with these settings, and its spec."""
    spec, found, _ = posed(manifest)
    (name,) = found.shapes
    answer = Answer(
        status="Optimal",
        method="m",
        objective=1.0,
        bound=1.0,
        gap=0.0,
        seconds=0.0,
        stopped="proved",
        dollars_per_hour=1.0,
        nodes={"p": 1},
        replicas={name: 1},
        placements=(),
        rates={"llama-3.1-8b/chat": {name: 0.5}},
        unserved={},
        binding=(),
    )
    fleet = fleet_of(spec=spec, posed=found, answer=answer, name_of=lambda shape: "chat-x-1")
    (one,) = fleet.replica_sets
    assert one.settings == found.shapes[name].settings
    return fleet.model_copy(update={"replica_sets": (one.model_copy(update={"settings": settings(one.settings)}),)})


def one_gpu(**more):
    return plan(pool("p", "H100-SXM-80GB", gpus=1), model="llama-3.1-8b", **more)


@pytest.mark.parametrize(("sequences", "kept"), [(1024, True), (1, False)])
def test_settings_that_run_stay_while_others_bring_less_than_it_takes_to_move(sequences, kept):
    manifest = one_gpu(slo={"tpotSeconds": "0.02"})
    fleet = fleet_with(manifest, lambda settings: settings.model_copy(update={"max_num_seqs": sequences}))
    _, found, _ = posed(manifest, incumbent=fleet)
    running = [item for item in found.shapes.values() if item.running is not None]
    assert [item.settings.max_num_seqs for item in running] == [sequences]
    assert (len(found.shapes) == 1) is kept
    assert found.question.running.replicas == {running[0].key: 1}


def test_settings_that_the_spec_no_longer_lets_be_are_not_asked_about():
    fleet = fleet_with(one_gpu(), lambda settings: settings)
    for engine in ({"maxNumSeqs": 77}, {"image": "v2"}, {"extraArgs": ["--kv-cache-dtype=fp8"]}):
        manifest = one_gpu(engine=engine)
        _, found, _ = posed(manifest, incumbent=fleet, in_force=PlanSpec.model_validate(one_gpu()["spec"]))
        (shape,) = found.shapes.values()
        assert shape.running is None
        assert found.question.running.replicas == {shape.key: 1}  # the nearest that there is


def test_a_context_that_the_model_was_not_made_for_is_said(monkeypatch):
    find = cards.find_model
    monkeypatch.setattr(
        cards, "find_model", lambda name, **more: find(name, **more).model_copy(update={"max_context_tokens": 32_768})
    )
    long = {"name": "long", "inputTokens": 40_000, "outputTokens": 10, "requestsPerSecond": "1"}
    _, found, _ = posed(one_gpu(maxModelLen=32_769))
    assert found.pruned["ContextAboveModel"] == 1
    assert "at most 32768 tokens, asked are 32769" in found.unfit[0]
    _, found, _ = posed(one_gpu(classes=[CHAT, long]))
    (shape,) = found.shapes.values()
    assert (set(shape.estimates), shape.settings.max_model_len) == ({"chat"}, 32_768)
    assert "asked are 40010" in found.unfit[0]


def test_an_argument_that_contradicts_the_plan_is_an_error_of_the_spec():
    _, found, errors = posed(one_gpu(engine={"extraArgs": ["--dtype=float32"]}))
    assert found.question is None
    assert [error.field for error in errors] == ["spec.models[llama-3.1-8b].engine.extraArgs"]
