"""The judge of the profiles: hides what it says it hides, weighs groups alike, and finds the bands that were promised."""

import importlib
import math

import pytest

from servingplan.model.engine import EngineSettings
from servingplan.profiles import check
from servingplan.profiles.bands import Basis
from servingplan.profiles.check import Predicted, predictions, report, summarised
from servingplan.profiles.measured import SHIPPED, MeasuredRow, MeasuredRows
from servingplan.profiles.split import part_of


def row(version="1", lengths=(1000, 1000), rate=10.0, engine="tensorrt-llm", tp=2, concurrency=None, **more):
    latency = {"ttft_seconds": None, "tpot_seconds": None} | more
    return MeasuredRow(
        model="Llama-3.1-70B",
        gpu="H100-SXM-80GB",
        precision="fp8",
        tensor_parallel=tp,
        pipeline_parallel=1,
        settings=EngineSettings(engine=engine, version=version, kv_cache_dtype="fp8", max_num_seqs=2048),
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        concurrency=concurrency,
        requests_per_second=rate,
        dataset=f"{engine} {version}",
        **latency,
    )


def under(condition, *rows, asked=None):
    known = MeasuredRows(lambda: rows)
    return [item for item in predictions(asked or rows, known, (condition,)) if item.quantity == "rate"]


def test_another_version_at_the_same_lengths_predicts_exactly_what_it_measured():
    old, new = row("1", rate=8.0), row("2", rate=10.0)
    (of_old, of_new) = sorted(under("version", old, new), key=lambda item: item.row.settings.version)
    assert of_new.basis.source == of_old.basis.source == "measured"
    assert math.exp(of_new.log_error) == pytest.approx(0.8)
    assert math.exp(of_old.log_error) == pytest.approx(1.25)
    assert of_new.residual == -of_new.log_error


def test_a_version_alone_is_not_predicted_from_itself():
    assert under("version", row("1"), row("2", lengths=(128, 128))) == []
    assert under("engine", row("1")) == []
    assert under("lengths", row("1")) == []


def test_other_lengths_are_what_is_left_when_a_pair_is_hidden():
    shorter, longer = row(lengths=(500, 500), rate=20.0), row(lengths=(2000, 2000), rate=4.0)
    hidden = row(rate=1000.0)
    (found,) = [item for item in under("lengths", shorter, longer, hidden) if item.row is hidden]
    assert math.exp(found.log_error) < 0.1  # the absurd rate was not seen
    assert found.basis.source == "interpolated"


def test_on_another_engine_says_so():
    theirs, ours = row(engine="tensorrt-llm"), row(engine="vllm", rate=5.0)
    found = under("engine", theirs, ours)
    assert {item.basis.engine for item in found} == {"other"}
    assert {item.basis.source for item in found} == {"measured"}


def test_a_hidden_group_is_predicted_as_if_nobody_had_measured_it():
    rows = row("1"), row("2"), row(lengths=(128, 128))
    assert [item.basis for item in under("group", *rows)] == [
        item.basis for item in predictions(rows, MeasuredRows(tuple), ("group",)) if item.quantity == "rate"
    ]
    assert {item.basis.source for item in under("card", *rows)} == {"datasheet"}


def test_times_are_judged_where_they_were_measured():
    timed = row(concurrency=16.0, ttft_seconds=0.5, tpot_seconds=0.02, rate=0.8)
    found = list(predictions([timed], MeasuredRows(tuple), ("group",)))
    assert [item.quantity for item in found] == ["rate", "ttft", "tpot", "first token"]
    assert {item.load for item in found} == {"concurrency"}


def test_first_tokens_that_mostly_wait_for_a_common_start_tell_plans_nothing():
    def quantities(**load):
        timed = row(ttft_seconds=0.5, tpot_seconds=0.02, rate=0.8, concurrency=load.pop("clients"))._replace(**load)
        return {item.quantity for item in predictions([timed], MeasuredRows(tuple), ("group",))}

    assert "first token" in quantities(clients=64.0)
    assert "first token" in quantities(clients=4.0, requests_per_client=10.0)
    assert "first token" not in quantities(clients=512.0, requests_per_client=2.0)
    assert "first token" not in quantities(clients=5000.0)  # these wait for a slot


def rate_of(item):
    (found,) = [one for one in predictions([item], MeasuredRows(tuple), ("group",)) if one.quantity == "rate"]
    return item.requests_per_second * math.exp(found.log_error)


def test_less_than_one_running_request_is_one_that_runs_part_of_the_time():
    assert rate_of(row(concurrency=0.25)) == pytest.approx(0.25 * rate_of(row(concurrency=1.0)))
    assert rate_of(row(concurrency=6.4)) < rate_of(row(concurrency=7.0))


def test_a_row_is_predicted_with_the_settings_that_it_states():
    fp8, wide = row(concurrency=600.0), row(concurrency=600.0)
    wide = wide._replace(settings=wide.settings.model_copy(update={"kv_cache_dtype": "auto"}))
    few = fp8._replace(settings=fp8.settings.model_copy(update={"max_num_seqs": 64}))
    assert rate_of(wide) < rate_of(fp8)
    assert rate_of(few) < rate_of(fp8)
    assert rate_of(few) == pytest.approx(rate_of(row(concurrency=64.0)))


def ttft_of(item):
    (found,) = [one for one in predictions([item], MeasuredRows(tuple), ("group",)) if one.quantity == "ttft"]
    return item.ttft_seconds * math.exp(found.log_error)


def test_clients_that_start_together_wait_for_one_another():
    steadily = row(concurrency=64.0, ttft_seconds=1.0, tpot_seconds=0.02)
    together = steadily._replace(requests_per_client=10.0)
    alone = steadily._replace(concurrency=1.0)
    # Of ten requests of each client, one waits for half of the 63 other prompts; an idle engine reads one in under 0.1 s.
    assert 0.1 * 63 / 2 * 0.02 < ttft_of(together) - ttft_of(steadily) < 0.1 * 63 / 2 * ttft_of(alone)
    assert ttft_of(alone._replace(requests_per_client=10.0)) == ttft_of(alone)


def test_clients_that_do_not_fit_wait_at_their_own_cost():
    most = row(concurrency=64.0, ttft_seconds=1.0, tpot_seconds=0.02)
    most = most._replace(settings=most.settings.model_copy(update={"max_num_seqs": 64}))
    crowded = most._replace(concurrency=128.0)
    assert ttft_of(crowded) - ttft_of(most) == pytest.approx(64 / rate_of(most))


def test_weights_of_another_precision_have_not_the_blocks_of_the_published_ones():
    name = "MiniMax-M2"
    four_bits = row(concurrency=16.0, tp=8)._replace(model=name, gpu="B200-180GB", precision="fp4")
    assert rate_of(four_bits) > 0
    published = four_bits._replace(precision="fp8")
    assert list(predictions([published], MeasuredRows(tuple), ("group",))) == []


def test_the_fit_and_the_check_tell_one_error_of_a_row():
    fit = importlib.import_module("benchmarks.fit_rates")
    rows = [item for item in SHIPPED.rows if fit.is_to_fit(item)][::40]
    told = {id(item): error for item, error in fit.pairs_of(fit.batches(rows), fit.FACTORS, fit.ENGINES)}
    found = {id(one.row): one for one in predictions(rows, SHIPPED, ("group",)) if one.quantity == "rate"}
    assert found.keys() == told.keys()
    by_concurrency = [key for key, one in found.items() if one.load == "concurrency"]
    assert len(by_concurrency) > 10
    for key in by_concurrency:
        assert found[key].log_error == pytest.approx(told[key], abs=1e-9)
    # A saturated engine runs the batch that is best, which is not always the largest.
    for key in found.keys() - set(by_concurrency):
        assert found[key].log_error == pytest.approx(told[key], abs=0.03)


def test_the_fit_and_the_check_print_one_figure():
    fit = importlib.import_module("benchmarks.fit_rates")
    rows = [item for item in SHIPPED.rows if fit.is_to_fit(item) and item.concurrency is not None][::10]
    told = fit.told("as they stand", fit.pairs_of(fit.batches(rows), fit.FACTORS, fit.ENGINES))
    lines = report(predictions(rows, SHIPPED, ("group",)))
    checked = {line.name: line.summary for line in lines if line.table == "rate without a measurement"}
    assert checked.keys() == told.keys() == {"by concurrency; dense", "by concurrency; mixture of experts"}
    for name, line in checked.items():
        assert line.median_error == pytest.approx(told[name].median_error)
        assert line.p90_error == pytest.approx(told[name].p90_error)


def prediction(group, log_error, low=-0.1, high=0.1):
    return Predicted(row(tp=group), "group", "rate", Basis("saturated", "fitted"), log_error, low, high)


def test_groups_weigh_alike_however_many_rows_they_have():
    many = [prediction(1, 0.0)] * 99 + [prediction(2, math.log(1.5))]
    (found,) = summarised(many, lambda _: "all").values()
    assert (found.rows, found.groups) == (100, 2)
    assert found.inside == pytest.approx(0.5)
    assert found.p90_error == pytest.approx(0.5)
    assert found.median_error == 0.0


def test_the_bias_has_a_sign():
    (found,) = summarised([prediction(group, math.log(0.8)) for group in (1, 2, 4)], lambda _: "all").values()
    assert found.bias == pytest.approx(-0.2)
    assert found.median_error == pytest.approx(0.2)


def test_the_interval_score_is_width_and_ten_times_the_miss():
    assert check.interval_score(-0.1, 0.2, 0.0) == pytest.approx(0.3)
    assert check.interval_score(-0.1, 0.2, 0.25) == pytest.approx(0.3 + 10 * 0.05)
    assert check.interval_score(-0.1, 0.2, -0.3) == pytest.approx(0.3 + 10 * 0.2)


def test_the_best_constant_band_beats_every_other():
    values = [(value / 50, 1.0) for value in range(-40, 61)]
    best = check.best_constant(values)

    def mean(low, high):
        return sum(check.interval_score(low, high, value) for value, _ in values) / len(values)

    assert all(mean(*best) <= mean(best[0] + a, best[1] + b) + 1e-9 for a in (-0.1, 0, 0.1) for b in (-0.1, 0, 0.1))


@pytest.fixture(scope="module")
def shipped():
    return list(predictions(SHIPPED.rows, SHIPPED, ("version", "group")))


@pytest.mark.slow
def test_the_report_keeps_the_parts_apart(shipped):
    lines = report(shipped)
    assert {line.part for line in lines} == {"fit", "judge"}
    for item in shipped[::50]:
        gpu, model, precision, size = item.group
        assert item.part == part_of(gpu=gpu, model=model, precision=precision, tensor_parallel=size)
    rows = sum(line.summary.rows for line in lines if line.table == "saturated rate")
    assert rows == sum(item.load == "saturated" for item in shipped)


@pytest.mark.slow
def test_bands_of_saturated_rates_hold_on_groups_that_nobody_looked_at(shipped):
    judged = [item for item in shipped if item.part == "judge" and item.load == "saturated"]
    for condition in ("version", "group"):
        of_it = [item for item in judged if item.condition == condition]
        (found,) = summarised(of_it, lambda _: "all").values()
        assert found.inside >= 0.75, condition
