"""Arrivals without a log."""

import math
from collections import Counter
from itertools import pairwise
from statistics import mean, pstdev

import pytest

from servingplan.errors import InputError
from servingplan.replay.events import DemandEvent
from servingplan.replay.generate import Stream, gaps, generated, mixed
from servingplan.replay.mixes import LENGTHS, MIXES
from servingplan.replay.pattern import DAY_SECONDS
from tests.unit.replay.test_trace import SPEC


def of(name, **how):
    return [arrival for arrival in generated(SPEC, Stream(**how)) if arrival.name == name]


def test_the_same_seed_gives_the_same_arrivals_in_order():
    found = list(generated(SPEC, Stream(500.0)))
    assert found == list(generated(SPEC, Stream(500.0)))
    assert found != list(generated(SPEC, Stream(500.0, seed=2)))
    assert all(one.at <= other.at for one, other in pairwise(found))
    assert found[-1].at < 500


@pytest.mark.parametrize(("variation", "slack"), [(0.5, 0.05), (1.0, 0.05), (3.0, 0.15)])
def test_gaps_have_their_mean_and_their_variation(variation, slack):
    times = [arrival.at for arrival in of("short", seconds=20_000.0, burstiness=variation)]
    found = [later - earlier for earlier, later in pairwise(times)]
    assert mean(found) == pytest.approx(1.0, rel=slack)
    assert pstdev(found) / mean(found) == pytest.approx(variation, rel=slack)
    stream = gaps(4.0, variation, seed=1)
    assert mean(next(stream) for _ in range(20_000)) == pytest.approx(0.25, rel=slack)


def test_rates_swing_with_the_day_and_keep_their_mean():
    found = of("short", seconds=DAY_SECONDS, amplitude=0.8, burstiness=0.0)
    assert len(found) == pytest.approx(DAY_SECONDS, rel=1e-3)
    hours = Counter(int(arrival.at // 3600) for arrival in found)
    for hour in (2, 6, 12, 18):
        begin, end = 2 * math.pi * hour / 24, 2 * math.pi * (hour + 1) / 24
        expected = 3600 + 0.8 * DAY_SECONDS / (2 * math.pi) * (math.cos(begin) - math.cos(end))
        assert hours[hour] == pytest.approx(expected, abs=2)


def test_a_surge_multiplies_the_requests_of_its_class_alone():
    surge = DemandEvent.model_validate(
        {"at": 1000, "event": "Surge", "model": "small", "class": "long", "factor": 5, "seconds": 500}
    )
    how = {"seconds": 3000.0, "burstiness": 0.0, "events": (surge,)}
    times = [arrival.at for arrival in of("long", **how)]
    assert sum(1000 <= at < 1500 for at in times) == pytest.approx(2500, abs=1)
    assert len(times) == pytest.approx(2500 + 2500, abs=1)
    assert len(of("short", **how)) == pytest.approx(3000, abs=1)


def test_a_launched_model_has_no_request_before():
    launch = DemandEvent(at=1000, event="Launch", model="gated", seconds=500)
    times = [arrival.at for arrival in of("only", seconds=3000.0, burstiness=0.0, events=(launch,))]
    assert times[0] >= 1000
    assert sum(at < 1500 for at in times) == pytest.approx(250, abs=1)
    assert len(times) == pytest.approx(250 + 1500, abs=1)


def test_a_mix_has_its_shares_and_its_lengths():
    found = list(mixed(MIXES["T2"], "small", 10.0, Stream(2_000.0)))
    assert len(found) == pytest.approx(20_000, rel=0.03)
    counted = Counter((request.input_tokens, request.output_tokens) for request in found)
    for lengths, percent in zip(LENGTHS, MIXES["T2"], strict=True):
        assert counted[lengths] / len(found) == pytest.approx(percent / 100, abs=0.01)


def test_a_surge_of_the_model_reaches_its_mix_and_one_of_a_class_does_not():
    def count(**of):
        surge = DemandEvent.model_validate({"at": 0, "event": "Surge", "factor": 3, **of})
        return len(list(mixed(MIXES["T1"], "small", 1.0, Stream(1000.0, burstiness=0.0, events=(surge,)))))

    assert [count(), count(model="small")] == pytest.approx([3000, 3000], abs=1)
    assert [count(model="gated"), count(**{"model": "small", "class": "long"})] == pytest.approx([1000, 1000], abs=1)


def test_lengths_have_their_mean_and_their_variation():
    found = of("long", seconds=20_000.0, length_variation=0.5)
    lengths = [arrival.prompt_tokens for arrival in found]
    assert mean(lengths) == pytest.approx(2000, rel=0.03)
    assert pstdev(lengths) / mean(lengths) == pytest.approx(0.5, rel=0.06)
    assert {arrival.prompt_tokens for arrival in of("long", seconds=50.0)} == {2000}


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"seconds": 0.0}, "--generate"),
        ({"seconds": math.inf}, "--generate"),
        ({"seconds": 1.0, "burstiness": -1.0}, "--burstiness"),
        ({"seconds": 1.0, "amplitude": 1.5}, "--day"),
        ({"seconds": 1.0, "faster": 0.0}, "--faster"),
    ],
)
def test_what_makes_no_sense_is_refused_by_field(how, field):
    with pytest.raises(InputError) as refused:
        Stream(**how)
    assert refused.value.field == field
