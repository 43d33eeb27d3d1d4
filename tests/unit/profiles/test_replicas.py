"""Rates of many replicas at once are those of each by itself."""

import pytest

from servingplan.model.engine import EngineSettings, Speculation
from servingplan.profiles import replicas
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import Estimate, Made, estimate
from servingplan.profiles.fit import Unfit
from servingplan.profiles.measured import SHIPPED, MeasuredRows
from servingplan.profiles.promise import AT_ONCE, Limits, Requests

CLASSES = (
    Requests("chat", 500, 250, Limits(1.0, 0.05, 95)),
    Requests("batch", 2000, 200, Limits(None, None)),
    Requests("score", 1000, 1, Limits(2.0, None, 99)),
    Requests("hasty", 4000, 400, Limits(0.01, 0.001, 95)),
    Requests("long", 100_000, 100, Limits(1.0, None)),
)


def made(model: str, precision: str, gpu: str, tensor_parallel: int, **settings) -> Made:
    return Made(find_model(model), precision, find_gpu(gpu), tensor_parallel, 1, EngineSettings(**settings))


MADE = [
    made("llama-3.1-8b", "bf16", "L40S", 1),
    made("llama-3.1-8b", "bf16", "H100-SXM-80GB", 2, max_num_seqs=32),
    made("llama-3.1-70b", "fp8", "H100-SXM-80GB", 4, kv_cache_dtype="fp8"),
    made("qwen3-30b-a3b", "bf16", "A100-SXM4-80GB", 2, prefix_cache_hit_share=0.5),
    made("gemma-3-27b", "bf16", "H200-SXM-141GB", 1),
    made("llama-3.1-8b", "bf16", "A10G", 1, speculation=Speculation(method="ngram", tokens=3, acceptance=0.6)),
    made("llama-3.1-70b", "bf16", "L40S", 1),
]


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    replicas.forget()
    yield
    replicas.forget()


def alone(one: Made, item: Requests) -> Estimate | Unfit:
    return estimate(
        **one._asdict(),
        input_tokens=item.input_tokens,
        output_tokens=item.output_tokens,
        ttft_seconds=item.limits.ttft_seconds,
        tpot_seconds=item.limits.tpot_seconds,
        percentile=item.limits.percentile,
        confidence=0.75,
    )


def figures(found: Estimate) -> list[float]:
    values = []
    for value in found.model_dump(exclude={"source", "basis", "evidence"}).values():
        values += value if isinstance(value, tuple) else [0.0 if value is None else value]
    return values


def test_rates_of_many_replicas_are_those_of_each_by_itself():
    asked = [replicas.Replica(one, CLASSES) for one in MADE]
    found = replicas.rates_of(asked, confidence=0.75, rows=SHIPPED)
    served = set()
    for replica in asked:
        for item in CLASSES:
            expected, answer = alone(replica.made, item), found[replica][item.name]
            assert type(answer) is type(expected)
            if isinstance(expected, Estimate):
                served.add(item.name)
                assert figures(answer) == pytest.approx(figures(expected), rel=1e-12)
                assert (answer.source, answer.basis, answer.evidence) == (
                    expected.source,
                    expected.basis,
                    expected.evidence,
                )
            else:
                assert answer.reason == expected.reason
    assert served == {"chat", "batch", "score"}


def test_more_pairs_than_are_looked_at_together_change_nothing():
    lengths = [Requests(f"c{n}", 100 + 10 * n, 50 + n, Limits(2.0, 0.1, 95)) for n in range(AT_ONCE + 3)]
    replica = replicas.Replica(MADE[0], tuple(lengths))
    found = replicas.rates_of([replica], confidence=0.75, rows=SHIPPED)[replica]
    assert list(found) == [item.name for item in lengths]
    for item in (lengths[0], lengths[AT_ONCE - 1], lengths[AT_ONCE], lengths[-1]):
        assert figures(found[item.name]) == pytest.approx(figures(alone(MADE[0], item)), rel=1e-12)


def test_answers_are_remembered_by_all_that_they_depend_on():
    replica = replicas.Replica(MADE[0], CLASSES[:1])
    first = replicas.rates_of([replica], confidence=0.75, rows=SHIPPED)[replica]
    assert replicas.rates_of([replica], confidence=0.75, rows=SHIPPED)[replica] is first
    careful = replicas.rates_of([replica], confidence=0.9, rows=SHIPPED)[replica]
    assert careful["chat"].planned_requests_per_second < first["chat"].planned_requests_per_second
    unmeasured = replicas.rates_of([replica], confidence=0.75, rows=MeasuredRows(list))[replica]
    assert unmeasured is not first


def test_what_is_remembered_does_not_grow_without_bound(monkeypatch):
    monkeypatch.setattr(replicas, "MOST_REMEMBERED", 3)
    for one in MADE[:5]:
        replica = replicas.Replica(one, CLASSES[1:2])
        assert replicas.rates_of([replica], confidence=0.75, rows=SHIPPED)[replica]["batch"] is not None
        assert len(replicas._remembered) <= 3


def test_no_replica_has_no_rates():
    assert replicas.rates_of([], confidence=0.75, rows=SHIPPED) == {}
