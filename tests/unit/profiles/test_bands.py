"""Bands: quantiles by group that cover what is to come, and inherit where too little was measured."""

import math
import random
from statistics import NormalDist

import pytest

from servingplan.profiles.bands import (
    LEAST_GROUPS,
    PROBABILITIES,
    Band,
    Basis,
    band,
    calibrated,
    planned_ratio,
    wider_classes,
)

NORMAL = Band(tuple(0.1 * NormalDist().inv_cdf(p) for p in PROBABILITIES))


@pytest.mark.parametrize("probability", [0.01, 0.05, 0.1, 0.17, 0.5, 0.8, 0.9, 0.95, 0.99])
def test_between_the_kept_probabilities_a_band_is_linear_in_the_normal_score(probability):
    assert NORMAL.ratio(probability) == pytest.approx(math.exp(0.1 * NormalDist().inv_cdf(probability)))


def test_ends_of_a_band_are_its_quantiles():
    assert NORMAL.low == pytest.approx(NORMAL.ratio(0.1))
    assert NORMAL.high == pytest.approx(NORMAL.ratio(0.9))


def test_a_mixed_band_lies_between():
    wide = Band(tuple(3 * log for log in NORMAL.logs))
    assert NORMAL.mixed(wide, 0.0).logs == NORMAL.logs
    assert NORMAL.mixed(wide, 1.0).logs == wide.logs
    assert NORMAL.mixed(wide, 0.5).logs == pytest.approx([2 * log for log in NORMAL.logs])


def test_wider_classes_drop_reach_then_kind_then_engine_then_source_then_load():
    assert list(wider_classes(Basis("concurrency", "kernels", "same", "mixture", "beyond"))) == [
        ("concurrency", "kernels", "same", "mixture", "beyond"),
        ("concurrency", "kernels", "same", "mixture", "any"),
        ("concurrency", "kernels", "same", "any", "any"),
        ("concurrency", "kernels", "any", "any", "any"),
        ("concurrency", "any", "any", "any", "any"),
        ("any", "any", "any", "any", "any"),
    ]


def test_every_class_has_a_band_and_the_widest_is_the_last_resort():
    for load in ("saturated", "concurrency"):
        assert band("rate", Basis(load, "guessed")).basis == load
    assert band("rate", Basis("guessed", "guessed")).basis == "all"
    for quantity in ("rate", "ttft", "tpot"):
        for source in ("measured", "interpolated", "kernels", "fitted", "datasheet", "learned"):
            found = band(quantity, Basis("saturated", source, "other", "mixture", "beyond"))
            assert list(found.logs) == sorted(found.logs)
            assert found.groups >= LEAST_GROUPS or found.basis == "all"


def test_pipelines_have_a_band_wider_than_any_that_was_measured():
    for quantity in ("rate", "ttft", "tpot"):
        piped, widest = (band(quantity, Basis("saturated", "fitted", reach=reach)) for reach in ("pipeline", "inside"))
        assert piped.low < widest.low
        assert piped.high > widest.high
        assert "not measured" in piped.basis


def test_quantiles_leave_room_for_the_group_to_come():
    # 19 groups of one row at 1 ... 19: each and the one to come hold a twentieth.
    found = calibrated({value: [float(value)] for value in range(1, 20)})
    by_probability = dict(zip(PROBABILITIES, found, strict=True))
    assert by_probability[0.05] == 1  # the one to come may be below all
    assert by_probability[0.1] == 2
    assert by_probability[0.5] == 10
    assert by_probability[0.9] == 18
    assert by_probability[0.95] == 19


def test_a_group_of_many_rows_counts_as_one():
    few = {group: [0.01 * group] for group in range(20)}
    many = {**few, 19: [0.19] * 500}
    assert calibrated(many) == calibrated(few)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [LEAST_GROUPS, 30])
def test_a_new_group_is_covered_as_often_as_promised(groups):
    draw = random.Random(groups)

    def group():
        shared = draw.gauss(0, 0.2) + 0.1  # what all rows of a group have in common
        return [shared + draw.gauss(0, 0.1) for _ in range(draw.randint(1, 8))]

    below, above, trials = 0.0, 0.0, 800
    for _ in range(trials):
        quantiles = dict(zip(PROBABILITIES, calibrated({i: group() for i in range(groups)}), strict=True))
        new = group()
        below += sum(row < quantiles[0.1] for row in new) / len(new)
        above += sum(row > quantiles[0.9] for row in new) / len(new)
    # Promised: at most 0.1 on each side; the bound is above it by five standard errors (at most 0.0106 each).
    assert below / trials < 0.1 + 5 * 0.0106
    assert above / trials < 0.1 + 5 * 0.0106
    assert below / trials > 0.02  # and not far more than promised, or bands would cost more than they must
    assert above / trials > 0.02


def test_quantiles_never_cross():
    lopsided = {group: [0.0] * 3 + [float(group == 3)] for group in range(LEAST_GROUPS)}
    found = calibrated(lopsided)
    assert list(found) == sorted(found)


@pytest.mark.parametrize("source", ["measured", "interpolated", "kernels", "fitted", "datasheet"])
@pytest.mark.parametrize("kind", ["dense", "mixture"])
@pytest.mark.parametrize("reach", ["inside", "beyond"])
def test_a_limit_on_latency_makes_no_plan_bolder(source, kind, reach):
    free, limited = (Basis(load, source, "same", kind, reach) for load in ("saturated", "concurrency"))
    for confidence in (0.5, 0.6, 0.75, 0.9, 0.99):
        assert planned_ratio(limited, confidence) <= planned_ratio(free, confidence)
        assert planned_ratio(free, confidence) == band("rate", free).ratio(1 - confidence)


def test_latency_has_the_bands_of_what_it_was_measured_by():
    for quantity in ("ttft", "tpot"):
        assert band(quantity, Basis("saturated", "kernels")) == band(quantity, Basis("concurrency", "kernels"))
    assert band("rate", Basis("saturated", "kernels")) != band("rate", Basis("concurrency", "kernels"))
