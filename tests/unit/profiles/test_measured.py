"""Corrections from measurements: exact at a measurement, bounded between, and honest errors when one is held out."""

import math

import numpy as np
import pytest

from servingplan.profiles import catalogue, measured
from servingplan.profiles.floor import first_token_seconds
from servingplan.profiles.measured import Coverage, correction
from servingplan.profiles.steady import Steady, steady


def saturated(nodes):
    """The saturated rates among measurements."""
    return tuple(node for node in nodes if node.ttft_stretch is None)


def by_concurrency(nodes):
    """The (TTFT, TPOT) points among measurements."""
    return tuple(node for node in nodes if node.ttft_stretch is not None)


def one(batch):
    """A point with a slot of a second a request."""
    return Steady(*(np.array([it]) for it in (batch, batch, 0.1, 0.1)))


def llama_70b(gpu="H100-SXM-80GB", precision="fp8", tp=4, pp=1, **changed):
    return measured.SHIPPED.nodes_for(
        model=catalogue.find_model("Llama-3.1-70B").model_copy(update=changed),
        precision=precision,
        gpu=catalogue.find_gpu(gpu),
        tensor_parallel=tp,
        pipeline_parallel=pp,
    )


def test_both_data_sets_of_a_replica_are_found():
    nodes = llama_70b()
    assert len(saturated(nodes)) == 9
    assert len(by_concurrency(nodes)) == 15


def test_no_measurement_of_another_size_precision_card_or_shape_is_used():
    assert llama_70b(tp=3) == ()
    assert llama_70b(pp=2) == ()
    assert llama_70b(precision="int4") == ()
    assert llama_70b(gpu="A10G") == ()
    assert llama_70b(layers=79) == ()


def test_a_measurement_follows_the_shape_not_the_name_and_ignores_memory():
    assert llama_70b(name="my-finetune", aliases=()) == llama_70b()
    h100 = catalogue.find_gpu("H100-SXM-80GB")
    model = catalogue.find_model("Llama-3.1-70B")
    asked = {"model": model, "precision": "fp8", "tensor_parallel": 4, "pipeline_parallel": 1}
    assert measured.SHIPPED.nodes_for(gpu=h100.model_copy(update={"memory_bytes": 10**11}), **asked)
    slower = h100.model_copy(update={"memory_bandwidth_gb_per_second": 3000.0})
    assert measured.SHIPPED.nodes_for(gpu=slower, **asked) == ()


def test_fp16_and_bf16_share_measurements():
    assert llama_70b(precision="fp16") == llama_70b(precision="BF16") != ()


def test_the_newest_version_of_a_cell_stands():
    assert {node.dataset[-6:] for node in saturated(llama_70b())} == {"0.17.0"}


def test_a_correction_is_exact_at_a_measurement_and_bounded_elsewhere():
    nodes = llama_70b()
    for node in nodes:
        seen = correction(nodes, input_tokens=node.input_tokens, output_tokens=node.output_tokens)
        got = seen.apply(one(node.batch))
        assert got.requests_per_second[0] * node.slot_stretch == pytest.approx(node.batch, rel=1e-3)
        assert seen.coverage(node.batch) is Coverage.MEASURED
    stretches = [node.slot_stretch for node in nodes]
    for lengths in [(300, 300), (3000, 700), (50_000, 5)]:
        seen = correction(nodes, input_tokens=lengths[0], output_tokens=lengths[1])
        got = seen.apply(one(20.0))
        assert min(stretches) <= 1 / (got.requests_per_second[0] / 20) <= max(stretches)


def test_coverage_tells_between_from_beyond():
    nodes = llama_70b()
    assert correction(nodes, input_tokens=1500, output_tokens=700).coverage(32) is Coverage.INTERPOLATED
    assert correction(nodes, input_tokens=1500, output_tokens=20).coverage(32) is Coverage.BEYOND
    assert correction(nodes, input_tokens=25_000, output_tokens=2000).coverage(32) is Coverage.BEYOND
    saturated_only = saturated(nodes)
    assert correction(saturated_only, input_tokens=1000, output_tokens=1000).coverage(2) is Coverage.BEYOND


def test_no_correction_without_measurements():
    point = one(8.0)
    seen = correction((), input_tokens=100, output_tokens=100)
    assert seen.apply(point) is point


@pytest.mark.parametrize("key", measured.SHIPPED.keys[::5], ids=str)
def test_measurements_reproduce_on_their_own_engine(key):
    for row in measured.SHIPPED._ranked[key][::4]:
        replica = measured._replica(key, row.settings)
        room = replica.batch_room(row.input_tokens, row.output_tokens)
        batch = math.floor(room) if row.concurrency is None else min(row.concurrency, math.floor(room))
        seen = correction(
            measured.SHIPPED.nodes_of(key),
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            engine=row.settings.engine,
        )
        point = steady(
            replica,
            np.array([float(batch)]),
            row.input_tokens,
            row.output_tokens,
            floor_seconds=first_token_seconds(row.settings, replica.model),
            requests_per_client=row.requests_per_client,
        )
        got = seen.apply(point)
        assert got.requests_per_second[0] == pytest.approx(row.requests_per_second, rel=5e-3)
        if row.ttft_seconds is not None and batch == row.concurrency:
            assert got.ttft_seconds[0] == pytest.approx(row.ttft_seconds, rel=5e-3)


def test_another_engine_counts_as_farther_away_where_both_were_measured():
    nodes = llama_70b()
    assert {node.engine for node in nodes} == {"vllm", "tensorrt-llm"}
    ours = correction(nodes, input_tokens=1000, output_tokens=1000, engine="vllm")
    theirs = correction(nodes, input_tokens=1000, output_tokens=1000, engine="tensorrt-llm")
    assert ours.nearest(200.0).engine == "vllm"
    assert theirs.nearest(200.0).engine == "tensorrt-llm"
    # Nobody measured it there: all engines count alike.
    neither = correction(nodes, input_tokens=1000, output_tokens=1000, engine="sglang")
    assert neither.distances == correction(nodes, input_tokens=1000, output_tokens=1000).distances


def test_requests_that_do_not_fit_say_nothing_of_the_first_token():
    row = measured.SHIPPED._ranked["Llama-3.1-70B", "H100-SXM-80GB", "fp8", 1, 1][0]
    crowded = row._replace(concurrency=5000.0, ttft_seconds=60.0)
    (node,) = measured.MeasuredRows(lambda: [crowded]).nodes_of(("Llama-3.1-70B", "H100-SXM-80GB", "fp8", 1, 1))
    assert node.batch < 5000
    assert node.ttft_stretch is None


def test_the_first_token_is_corrected_by_its_own_engine_only():
    nodes = [node for node in llama_70b() if node.ttft_stretch is not None]
    late = tuple(node._replace(ttft_stretch=5.0, slot_stretch=1.0) for node in nodes)
    place = late[0]._asdict()
    lengths = {name: place[name] for name in ("input_tokens", "output_tokens")}
    point = one(place["batch"])

    def ratio(engine):
        return float((correction(late, **lengths, engine=engine).apply(point).ttft_seconds / point.ttft_seconds)[0])

    assert ratio(place["engine"]) > 2
    assert ratio("sglang") == pytest.approx(1.0)


def test_the_correction_of_the_first_token_fades():
    node = next(node for node in llama_70b() if node.ttft_stretch is not None)
    late = (node._replace(ttft_stretch=5.0, slot_stretch=1.0),)

    def ratio(times):
        lengths = node.input_tokens * times, node.output_tokens
        point = one(node.batch)
        seen = correction(late, input_tokens=lengths[0], output_tokens=lengths[1], engine=node.engine)
        return float((seen.apply(point).ttft_seconds / point.ttft_seconds)[0])

    ratios = [ratio(times) for times in (1, 2, 4, 16, 256)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[2] == pytest.approx(5.0**0.5)  # as much as the computed time, at a factor of four
    assert ratios[-1] < 1.05
