"""Classes from requests: the sums are theirs, the loss is the best there is, the matches take whom they count."""

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.api.matching import class_of
from servingplan.classes.cells import cells_of
from servingplan.classes.fit import enough, fit
from servingplan.classes.request import BadRow, Request
from servingplan.classes.tally import OTHER_MODELS, Sums, Tally, total
from servingplan.classes.work import bound_of, pace_of, replicas_on
from servingplan.profiles.catalogue import find_gpu, find_model

thorough = settings(max_examples=40)
MODEL = find_model("llama-3.1-8b")
REPLICAS, _ = replicas_on(
    [find_gpu("L40S"), find_gpu("H100-SXM-80GB")], model=MODEL, precision="bf16", context_tokens=20_000
)
plain = {"at_seconds": st.none(), "model": st.none()}
exact = st.builds(Request, st.integers(1, 127), st.integers(1, 127), st.none(), **plain)
any_request = st.builds(
    Request,
    st.integers(1, 20_000),
    st.integers(1, 5_000),
    st.none() | st.sampled_from([16, 256, 1000, 4096]),
    **plain,
)


def counted(requests, **options):
    tally = Tally(**options)
    assert list(tally.all_of(requests)) == list(range(1, len(requests) + 1))
    return tally


def fitted(tally, most=4):
    whole = tally.sums
    return fit(cells_of(tally), [pace_of(replica, whole) for replica in REPLICAS], most=most)


def plain_sums(requests):
    return Sums(
        len(requests),
        sum(r.input_tokens for r in requests),
        sum(r.output_tokens for r in requests),
        sum(r.input_tokens**2 for r in requests),
        sum(r.input_tokens * r.output_tokens for r in requests),
        sum(r.output_tokens**2 for r in requests),
    )


@pytest.mark.slow
@thorough
@given(st.lists(any_request, min_size=1, max_size=40), st.booleans())
def test_every_request_is_counted_once_and_in_the_class_that_its_match_names(requests, output_known):
    tally = counted(requests, output_known=output_known)
    assert tally.sums == plain_sums(requests)
    for found in fitted(tally):
        classes = [item.in_plan(1.0) for item in found.classes]
        taken = {item.name: [] for item in classes}
        for request in requests:
            bound = request.output_tokens if output_known else request.max_tokens
            taken[class_of(classes, input_tokens=request.input_tokens, max_tokens=bound)].append(request)
        assert {item.name: item.sums for item in found.classes} == {
            name: plain_sums(members) for name, members in taken.items()
        }


@thorough
@given(st.lists(any_request, min_size=1, max_size=40), st.randoms())
def test_the_order_of_the_rows_changes_nothing(requests, source):
    shuffled = list(requests)
    source.shuffle(shuffled)
    assert fitted(counted(requests)) == fitted(counted(shuffled))


@thorough
@given(st.lists(any_request, min_size=1, max_size=40))
def test_more_classes_never_lose_more(requests):
    losses = [found.loss for found in fitted(counted(requests), most=6)]
    assert losses == sorted(losses, reverse=True)
    assert enough(losses) == next(n for n, loss in enumerate(losses) if loss < losses[-1] + 0.02)


def work(replica, request, batch):
    """Seconds of prompt and answer, straight from the roofline."""
    step = replica.base.step_seconds(batch, request.input_tokens + request.output_tokens / 2) / batch
    return replica.base.prefill_seconds(request.input_tokens), request.output_tokens * step


@thorough
@given(st.lists(exact, min_size=1, max_size=7))
def test_no_boundaries_plan_less_work_wrongly(requests):
    """Every set of boundaries, its loss added up request by request."""
    lengths = sorted({request.input_tokens for request in requests})
    whole = plain_sums(requests)
    batches = {replica.gpu: replica.batch(whole) for replica in REPLICAS}
    works = {
        replica.gpu: [work(replica, request, batches[replica.gpu]) for request in requests] for replica in REPLICAS
    }

    def loss(starts):
        lost = 0.0
        for replica in REPLICAS:
            wrong = 0.0
            for low, high in zip(starts, [*starts[1:], math.inf], strict=True):
                inside = [n for n, r in enumerate(requests) if low <= r.input_tokens < high]
                mean_in = sum(requests[n].input_tokens for n in inside) / len(inside)
                mean_out = sum(requests[n].output_tokens for n in inside) / len(inside)
                planned = work(replica, Request(mean_in, mean_out), batches[replica.gpu])
                for tokens in {requests[n].input_tokens for n in inside}:
                    alike = [n for n in inside if requests[n].input_tokens == tokens]
                    for part in (0, 1):
                        wrong += abs(sum(works[replica.gpu][n][part] - planned[part] for n in alike))
            lost += wrong / sum(map(sum, works[replica.gpu]))
        return lost / len(REPLICAS)

    found = fitted(counted(requests), most=3)
    for count, split in enumerate(found, start=1):
        least = min(loss([lengths[0], *cuts]) for size in range(count) for cuts in combinations(lengths[1:], size))
        assert split.loss == pytest.approx(least, abs=1e-9)
        starts = sorted(item.match.input_tokens_at_least or lengths[0] for item in split.classes)
        assert loss(starts) == pytest.approx(split.loss, abs=1e-9)


@thorough
@given(st.lists(any_request, min_size=1, max_size=20))
def test_the_work_of_sums_is_the_sum_of_the_work(requests):
    whole = plain_sums(requests)
    for replica in REPLICAS:
        found = pace_of(replica, whole).work(whole)
        parts = [work(replica, request, replica.batch(whole)) for request in requests]
        assert found == pytest.approx([sum(part) for part in zip(*parts, strict=True)])


def test_requests_of_one_kind_lose_nothing_and_need_one_class():
    tally = counted([Request(500, 100)] * 9)
    (found,) = fitted(tally)
    assert found.loss == pytest.approx(0, abs=1e-12)
    assert found.missing == pytest.approx(0, abs=1e-12)
    assert [(item.name, item.match.model_dump(exclude_none=True)) for item in found.classes] == [("all", {})]


def test_two_kinds_are_told_apart_between_them():
    one, two = fitted(counted([Request(100, 90)] * 30 + [Request(120, 1)] * 10), most=2)
    assert one.loss > 0.1
    assert two.loss == pytest.approx(0, abs=1e-12)
    assert [item.name for item in two.classes] == ["from-120", "below-120"]
    rates = [str(item.in_plan(4.0 * item.sums.requests / 40).requests_per_second) for item in two.classes]
    assert rates == ["1", "3"]


def test_answers_divide_classes_only_where_they_are_declared():
    requests = [Request(100, 10, 16)] * 20 + [Request(100, 1000, 1024)] * 10 + [Request(100, 1000)] * 10
    assert len(fitted(counted([request._replace(max_tokens=None) for request in requests]))) == 1
    two = fitted(counted(requests), most=2)[1]
    assert [(item.name, item.sums.requests) for item in two.classes] == [("max-16", 20), ("rest", 20)]
    known = fitted(counted([request._replace(max_tokens=None) for request in requests], output_known=True), most=2)[1]
    assert [(item.match.max_tokens_at_most, item.sums.requests) for item in known.classes] == [(10, 20), (None, 20)]


def test_the_table_stays_small_whatever_the_log():
    tally = counted([Request(1 + n * n % 9_000_000, 1 + n % 997) for n in range(5000)])
    assert len(tally.cells) < 1200
    cells = cells_of(tally)
    assert len(cells.rows) == 64
    assert total(cells.sums.values()) == tally.sums
    assert len(cells_of(counted([Request(n, n) for n in range(1, 2000)], output_known=True)).columns) == 8


def test_the_tally_knows_rates_models_and_bad_rows():
    tally = counted(
        [Request(1, 1, None, float(second), f"m{second % 2}") for second in range(11)]
        + [BadRow(9, "c", "v", "why")] * 7,
        only_model="m0",
    )
    assert tally.sums.requests == 6
    assert tally.requests_per_second == pytest.approx(6 / 10)
    assert tally.models == {"m0": 6, "m1": 5}
    assert (tally.bad_rows, len(tally.bad_examples)) == (7, 5)
    assert counted([Request(1, 1, None, 5.0)]).requests_per_second is None
    assert counted([Request(1, 1, None, None, f"m{n}") for n in range(500)]).models[OTHER_MODELS] == 400


def test_prompts_compute_and_lone_answers_read_memory():
    (l40s, h100) = REPLICAS
    long_prompts, long_answers = plain_sums([Request(8000, 2)]), plain_sums([Request(60, 4000)])
    assert [bound_of(replica, long_prompts).by for replica in REPLICAS] == ["compute", "compute"]
    assert [bound_of(replica, long_answers).by for replica in REPLICAS] == ["memory", "memory"]
    # Both ratios against the card's own balance, by hand: 2 P B FLOP against the bytes of weights and caches.
    found = bound_of(l40s, long_answers)
    gpu = find_gpu("L40S")
    flops = 2 * MODEL.parameters * found.batch / (0.5 * gpu.flops("bf16"))
    moved = MODEL.weight_bytes("bf16") + found.batch * (60 + 2000) * MODEL.kv_bytes_per_token()
    assert found.decode_ratio == pytest.approx(flops / (moved / (0.7 * gpu.memory_bytes_per_second)))
    assert bound_of(h100, long_prompts).prefill_share > 0.9


def test_a_replica_is_as_large_as_the_longest_request_needs():
    large = find_model("llama-3.1-70b")
    found, refused = replicas_on(
        [find_gpu("L4"), find_gpu("L40S"), find_gpu("H100-SXM-80GB")],
        model=large,
        precision="bf16",
        context_tokens=9000,
    )
    assert [(item.gpu, item.tensor_parallel) for item in found] == [("L4-24GB", 8), ("L40S", 4), ("H100-SXM-80GB", 2)]
    assert refused == ()
    found, refused = replicas_on([find_gpu("L4")], model=large, precision="bf16", context_tokens=200_000)
    assert found == ()
    assert "8 of them cannot hold" in str(refused[0])
