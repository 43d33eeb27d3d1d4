"""Estimates, corrected by what was learned about their replicas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.model.engine import EngineSettings
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import Estimate, Made
from servingplan.profiles.expected import Part, mix_of
from servingplan.profiles.latency import Spread
from servingplan.profiles.learned import LEAST_BAND, Factor, Learned
from servingplan.profiles.measured import SHIPPED
from servingplan.profiles.promise import Limits, Requests
from servingplan.profiles.replicas import Replica, rates_of

MADE = Made(find_model("llama-3.1-8b"), "bf16", find_gpu("L40S"), 1, 1, EngineSettings())
CLASSES = (Requests("chat", 500, 250, Limits(1.0, 0.06, 95)), Requests("batch", 500, 250, Limits(None, None)))


NOTHING = Learned()


def estimates(learned=NOTHING, confidence=0.75) -> dict[str, Estimate]:
    replica = Replica(MADE, CLASSES, learned)
    return dict(rates_of([replica], confidence=confidence, rows=SHIPPED)[replica])


def slower(by, weight=1.0) -> Learned:
    """All iterations take so many times as long, as a replica that was full and one that was not have shown."""
    return Learned(Factor(-math.log(by), weight), Factor(math.log(by), weight), Factor(math.log(by), weight))


def test_nothing_learned_changes_nothing():
    assert estimates(Learned(Factor(0.5, 0.0))) == estimates()


def test_an_engine_that_is_slower_has_less_rate_and_still_keeps_the_limits():
    plain, learned = estimates(), estimates(slower(1.5))
    assert learned["batch"].requests_per_second == pytest.approx(plain["batch"].requests_per_second / 1.5)
    assert learned["batch"].tpot_seconds == pytest.approx(plain["batch"].tpot_seconds * 1.5)
    assert learned["chat"].requests_per_second < plain["chat"].requests_per_second / 1.2
    assert learned["chat"].ttft_percentile_seconds <= 1.0 + 1e-3
    assert learned["chat"].tpot_percentile_seconds <= 0.06 + 1e-4
    assert {item.source for item in learned.values()} == {"learned"}
    assert "tpot x 1.5" in learned["chat"].evidence[0]


def test_slower_tokens_lower_the_rate_before_it_was_seen_and_faster_ones_do_not_raise_it():
    tokens = {by: Learned(tpot=Factor(math.log(by), 1.0)) for by in (1.5, 0.7)}
    plain = estimates()["batch"].requests_per_second
    assert estimates(tokens[1.5])["batch"].requests_per_second == pytest.approx(plain / 1.5)
    assert estimates(tokens[0.7])["batch"].requests_per_second == pytest.approx(plain)
    seen = tokens[0.7]._replace(rate=Factor(math.log(1.2), 1.0))
    assert estimates(seen)["batch"].requests_per_second == pytest.approx(plain * 1.2)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_bands_narrow_with_the_evidence_and_never_below_the_least(one, other):
    less, more = sorted((one, other))
    loose, tight = (estimates(slower(1.3, weight))["batch"] for weight in (less, more))
    for early, late, name in (
        ((loose.low, loose.high), (tight.low, tight.high), "rate"),
        (loose.tpot_band, tight.tpot_band, "tpot"),
        (loose.ttft_band, tight.ttft_band, "ttft"),
    ):
        widths = [math.log(high / low) for low, high in (early, late)]
        least = 2 * math.log1p(LEAST_BAND[name])
        assert widths[1] >= min(least, widths[0]) - 1e-9
        assert widths[1] <= max(least, widths[0]) + 1e-9


@pytest.mark.parametrize("confidence", [0.5, 0.75, 0.9])
def test_the_more_is_known_the_less_is_held_back(confidence):
    shares = [
        found.planned_requests_per_second / found.requests_per_second
        for weight in (0.0, 0.5, 1.0)
        for found in [estimates(slower(1.0, weight), confidence)["batch"]]
    ]
    if confidence > 0.5:
        assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=0.06)


def test_a_mix_has_the_spread_of_its_classes_and_of_their_means():
    alone = mix_of([Part(3.0, 500, 100)])
    assert (alone.input_tokens, alone.output_tokens) == (500, 100)
    assert alone.spread == pytest.approx(Spread())
    both = mix_of([Part(1.0, 100, 300), Part(3.0, 1100, 300)])
    assert both.input_tokens == pytest.approx(850)
    second = (100**2 + 3 * 1100**2) / 4 * (1 + Spread().prompt ** 2)
    assert both.spread.prompt == pytest.approx(math.sqrt(second / 850**2 - 1))
    assert both.spread.answer == pytest.approx(Spread().answer)
    assert mix_of([Part(0.0, 1, 1)]) is None
