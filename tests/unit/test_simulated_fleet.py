"""What the benchmarks of routing and scaling stand on: buckets, choices, and who was in time."""

from collections import Counter

import pytest

from benchmarks.closed_loop import peak_rates
from benchmarks.simulated_fleet import (
    Request,
    by_class,
    faster,
    least_request,
    new_replica,
    poisson,
    replay,
    round_robin,
    share_in_time,
)
from servingplan.api.models_v1alpha1 import Model
from servingplan.replay.gateway import Bucket

MODEL = Model.model_validate(
    {
        "name": "llama-3.1-8b",
        "classes": [{"name": "a", "inputTokens": 100, "outputTokens": 10, "requestsPerSecond": "1"}],
    }
)
LIMITS = {("llama-3.1-8b", "a"): (1.0, 0.1)}


def replicas(*services):
    return [new_replica(MODEL, service, "bf16", "A100-SXM4-80GB", 1, 1) for service in services]


def document(weights, admit=None):
    targets = [{"service": name, "port": 8000, "weight": weight} for name, weight in weights.items()]
    classes = [{"name": "a", "match": {}, "admitRequestsPerSecond": admit, "targets": targets}]
    return {"models": {"llama-3.1-8b": {"defaultClass": "a", "classes": classes}}}


def arrivals(rate, number):
    return poisson([("llama-3.1-8b", "a", rate, 100, 10)], number, seed=3)


def test_arrivals_come_at_their_rate_and_the_same_each_time():
    requests = arrivals(20.0, 4000)
    assert requests == arrivals(20.0, 4000)
    assert len(requests) / requests[-1].at == pytest.approx(20, rel=0.05)
    assert list(faster(requests, 2.0))[-1].at == requests[-1].at / 2


def test_a_class_is_split_by_its_weights():
    fleet = replicas("one", "two", "two")
    route = by_class(fleet, document({"one": 2500, "two": 7500}))
    counts = Counter(route(item).service for item in arrivals(5.0, 4000))
    assert counts["one"] / 4000 == pytest.approx(0.25, abs=0.03)


def test_a_service_without_a_replica_gets_nothing_and_none_at_all_means_no_answer():
    (only,) = replicas("one")
    (request,) = arrivals(1.0, 1)
    assert by_class([only], document({"one": 1, "two": 9999}))(request) is only
    assert by_class([], document({"one": 10000}))(request) is None


@pytest.mark.parametrize("rate", [0.3, 2.5, 10.0])
def test_no_more_is_admitted_than_the_rate(rate):
    bucket = Bucket(rate)
    taken = sum(bucket.takes(moment / 100) for moment in range(100_000))
    assert taken == pytest.approx(1000 * rate, rel=0.02)


def test_a_rate_of_nothing_admits_nothing():
    assert not any(Bucket(0.0).takes(float(moment)) for moment in range(100))


def test_the_fewest_in_flight_are_chosen_and_turns_are_taken_in_turn():
    fleet = replicas("one", "two", "three")
    busy, idle, other = fleet
    for replica in (busy, other):
        replica.engine.admit(100, 100, 0.0)
    request = Request(0.001, "llama-3.1-8b", "a", 100, 10)
    assert least_request(fleet)(request) is idle
    assert by_class(fleet, document({"two": 10000}))(request) is idle
    turns = round_robin(fleet)
    assert Counter(id(turns(request)) for _ in range(9)) == dict.fromkeys(map(id, fleet), 3)


def test_who_waits_too_long_or_is_turned_away_is_not_in_time():
    (replica,) = replicas("one")
    assert share_in_time(replay(arrivals(5.0, 200), lambda _: replica), LIMITS) == 1.0
    (replica,) = replicas("one")
    crowded = replay(arrivals(500.0, 2000), lambda _: replica)
    assert share_in_time(crowded, LIMITS) < 0.2
    assert share_in_time(replay(arrivals(5.0, 50), lambda _: None), LIMITS) == 0.0


def test_the_peak_is_the_busiest_five_minutes():
    quiet = [Request(float(second), "m", "conv", 1, 1) for second in range(0, 1800, 2)]
    busy = [Request(600 + second / 2, "m", "code", 1, 1) for second in range(600)]
    requests = sorted([*quiet, *busy], key=lambda item: item.at)
    assert peak_rates(requests) == {"code": 2.0, "conv": 0.5}
