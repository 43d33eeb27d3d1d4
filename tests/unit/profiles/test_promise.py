"""A plan with a limit on latency counts on the upper quantile of latency at its confidence, wherever its rates come from."""

import numpy as np
import pytest

from servingplan.model.engine import EngineSettings
from servingplan.profiles import latency
from servingplan.profiles.bands import Basis, band, planned_latency_ratio
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.chain import estimate_chain
from servingplan.profiles.estimate import Estimate, Made, estimate
from servingplan.profiles.fit import Unfit
from servingplan.profiles.floor import first_token_seconds
from servingplan.profiles.pipeline import Stage
from servingplan.profiles.promise import COPIES, Asked, Limits, Requests, promises
from servingplan.profiles.steady import steady

LLAMA = "Llama-3.1-70B"
# source and engine of the rates: the replica, the lengths
SOURCES = {
    "measured, same": ((LLAMA, "bf16", "H100-SXM-80GB", 4, 1, "tensorrt-llm"), (467, 256)),
    "measured, other": ((LLAMA, "bf16", "H100-SXM-80GB", 4, 1, "vllm"), (467, 256)),
    "interpolated, same": ((LLAMA, "bf16", "H100-SXM-80GB", 4, 1, "tensorrt-llm"), (1200, 100)),
    "interpolated, other": ((LLAMA, "bf16", "H100-SXM-80GB", 4, 1, "vllm"), (1200, 100)),
    "kernels, same": (("Qwen3-8B", "bf16", "H100-SXM-80GB", 1, 1, "vllm"), (1000, 200)),
    "fitted, same": (("Qwen3-8B", "bf16", "A100-PCIE-80GB", 1, 1, "vllm"), (1000, 200)),
    "datasheet, same": (("Mixtral-8x7B", "bf16", "MI300X", 4, 1, "vllm"), (1000, 200)),
}
PIPELINE = (("Qwen3-8B", "bf16", "H100-SXM-80GB", 1, 2, "vllm"), (1000, 200))
CASES = [*SOURCES.items(), ("kernels, same", PIPELINE)]


def replica(model, precision, gpu, tensor_parallel, stages, engine):
    settings = EngineSettings(engine=engine, max_num_seqs=1024)
    return Made(find_model(model), precision, find_gpu(gpu), tensor_parallel, stages, settings)


def planned(made, lengths, ttft=None, tpot=None, confidence=0.75):
    found = estimate(
        **made._asdict(),
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        ttft_seconds=ttft,
        tpot_seconds=tpot,
        confidence=confidence,
        load="concurrency",
    )
    assert isinstance(found, Estimate), found
    return found


def tight(made, lengths, quantity, confidence):
    """A limit that copies keep at a part of their rate: somewhat more than the least possible."""
    found = estimate(
        **made._asdict(),
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        ttft_seconds=1e-3 if quantity == "ttft" else None,
        tpot_seconds=1e-6 if quantity == "tpot" else None,
        confidence=confidence,
    )
    assert isinstance(found, Unfit), found
    least = found.least_ttft_seconds if quantity == "ttft" else found.least_tpot_seconds
    assert least is not None
    return 1.25 * least


@pytest.mark.parametrize("confidence", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("quantity", ["ttft", "tpot"])
@pytest.mark.parametrize(("source", "case"), CASES, ids=[name for name, _ in CASES[:-1]] + ["several stages"])
def test_a_limit_is_kept_at_the_quantile_of_latency(source, case, quantity, confidence):
    made, lengths = replica(*case[0]), case[1]
    limit = tight(made, lengths, quantity, confidence)
    free = planned(made, lengths, confidence=confidence)
    found = planned(made, lengths, confidence=confidence, **{quantity: limit})
    assert f"{found.source}, {found.basis.engine}" == source
    load = found.planned_requests_per_second / free.planned_requests_per_second
    assert 0.01 < load < 0.94, "the limit should bind, but not exclude the replica"

    # The times of the formulas alone at that load, corrected by measurements, times the quantile of their error.
    floor = first_token_seconds(made.settings, made.model)
    table = latency.tabulate(made.steps(), *lengths, floor_seconds=floor)
    at = latency.open_loop(table, load * latency.highest_rate(table), copies=COPIES)
    plain = steady(made.steps(), np.array([free.batch]), *lengths, floor_seconds=floor)
    name = f"{quantity}_seconds"
    corrected = getattr(free, name) / float(getattr(plain, name)[0])
    ratio = corrected * planned_latency_ratio("first token" if quantity == "ttft" else "tpot", found.basis, confidence)
    assert float(getattr(at, f"{quantity}_percentile_seconds")[0]) * ratio <= limit * 1.02

    told = getattr(found, f"{quantity}_percentile_seconds")
    assert getattr(found, name) < told
    assert told <= limit * 1.02 or found.utilization[0] < 0.05


@pytest.mark.parametrize("quantity", ["ttft", "tpot"])
@pytest.mark.parametrize(("source", "case"), CASES, ids=[name for name, _ in CASES[:-1]] + ["several stages"])
def test_more_confidence_never_loads_copies_more(source, case, quantity):
    made, lengths = replica(*case[0]), case[1]
    limit = {quantity: tight(made, lengths, quantity, 0.9)}
    rates = [planned(made, lengths, confidence=it, **limit).planned_requests_per_second for it in (0.5, 0.6, 0.75, 0.9)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_replicas_over_nodes_count_on_the_widest_band():
    model, settings = find_model("Qwen3-8B"), EngineSettings(max_num_seqs=256)
    stages = tuple(Stage(find_gpu("L40S"), node) for node in (0, 1))

    def answer(confidence, ttft):
        return estimate_chain(
            model=model,
            precision="bf16",
            stages=stages,
            tensor_parallel=1,
            settings=settings,
            classes=(Requests("chat", 1000, 200, Limits(ttft, None)),),
            confidence=confidence,
        ).by_class["chat"]

    refused = {it: answer(it, 1e-3) for it in (0.6, 0.75)}
    least = {it: found.least_ttft_seconds for it, found in refused.items() if isinstance(found, Unfit)}
    quantile = band("first token", Basis("any", "any", reach="pipeline")).ratio
    # The first token of an almost idle replica is as late as the quantile says.
    assert least[0.75] / least[0.6] == pytest.approx(quantile(0.75) / quantile(0.6), rel=0.05)
    found = answer(0.75, 1.25 * least[0.75])
    assert isinstance(found, Estimate), found
    assert found.ttft_percentile_seconds <= 1.25 * least[0.75] * 1.02


@pytest.mark.parametrize("quantity", ["ttft", "first token", "tpot"])
@pytest.mark.parametrize("source", ["measured", "interpolated"])
def test_a_measured_replica_is_at_least_as_well_known_as_all_together(quantity, source):
    basis = planned(replica(*SOURCES["kernels, same"][0]), (1000, 200)).basis
    for confidence in (0.5, 0.75, 0.9, 0.95):
        of_all = band(quantity, basis._replace(source="any")).ratio(confidence)
        assert planned_latency_ratio(quantity, basis._replace(source=source), confidence) <= of_all


def test_what_is_learned_of_latencies_replaces_the_caution():
    """Fully learned, the profile's own error counts no more; half learned, half of it does."""
    made = replica(*SOURCES["kernels, same"][0])
    steps, limits = made.steps(), Limits(None, None)

    def times(**more):
        promise = promises(steps, [Asked(1000, 200, 5.0, limits, **more)])[0]
        return np.array([promise.ttft_percentile_seconds, promise.tpot_percentile_seconds])

    plain, cautious = times(), times(ttft_ratio=4.0, tpot_ratio=4.0)
    assert (cautious > plain).all()
    np.testing.assert_allclose(times(ttft_ratio=4.0, tpot_ratio=4.0, caution=0.0), plain, rtol=1e-6)
    half = times(ttft_ratio=4.0, tpot_ratio=4.0, caution=0.5)
    assert (plain < half).all()
    assert (half < cautious).all()
