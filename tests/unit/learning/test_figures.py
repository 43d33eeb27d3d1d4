"""What is made of Prometheus' answer about engines."""

import pytest

from servingplan.learning.figures import query, query_counts, read, with_counts

WHOLE = {
    "ttft_sum": 50.0,
    "ttft_count": 100.0,
    "tpot_sum": 3.0,
    "tpot_count": 100.0,
    "gap_sum": 60.0,
    "gap_count": 2000.0,
    "input_sum": 40_000.0,
    "input_count": 100.0,
    "output_sum": 2_100.0,
    "output_count": 100.0,
    "running": 4.5,
    "waiting": 0.0,
    "now": 5.0,
    "before": 3.0,
}


def rows(pod="a", **changed):
    told = {**WHOLE, **changed}
    return [
        {"metric": {"pod": pod, "figure": name}, "value": [1.0, str(value)]}
        for name, value in told.items()
        if value is not None
    ]


def test_figures_are_means_over_the_window_by_pod():
    first, second = read([*rows("b", ttft_sum=70), *rows("a")])
    assert (first.pod, second.pod) == ("a", "b")
    assert (first.requests, first.input_tokens, first.output_tokens) == (100, 400, 21)
    assert (first.ttft_seconds, first.tpot_seconds, first.gap_seconds) == (0.5, 0.03, 0.03)
    assert second.ttft_seconds == 0.7


@pytest.mark.parametrize("missing", ["before", "now", "running", "waiting", "output_count"])
def test_a_pod_that_was_not_there_all_the_time_is_left_out(missing):
    assert read(rows(**{missing: None})) == ()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1e308"])
def test_values_that_are_none_are_no_figures(value):
    (seen,) = read(rows(ttft_sum=value))
    assert seen.ttft_seconds is None
    assert seen.tpot_seconds == 0.03
    assert read(rows(running=value)) == ()


def test_a_mean_that_no_engine_has_is_none():
    """A turn that computed with it would end with an error."""
    (seen,) = read(rows(ttft_count="5e-324", output_count="1e-300"))
    assert (seen.ttft_seconds, seen.output_tokens) == (None, None)


def test_a_pod_without_requests_has_no_means():
    (seen,) = read(rows(**{name: 0.0 for name in WHOLE if name.endswith(("sum", "count"))}))
    assert (seen.requests, seen.ttft_seconds, seen.input_tokens) == (0, None, None)


@pytest.mark.parametrize(
    "row", [{}, {"metric": {}, "value": [1.0, "1"]}, {"metric": {"figure": "now"}, "value": [1.0]}]
)
def test_rows_that_prometheus_does_not_promise_are_refused(row):
    with pytest.raises((KeyError, IndexError, TypeError, ValueError)):
        read([row])


def test_the_query_names_the_models_and_on_a_shared_prometheus_the_namespace():
    shared = query(["b.1", 'a"'], namespace="llm", namespace_label="ns")
    assert shared.count('ns="llm"') == shared.count("model_name=~")
    assert "ns=" not in query(["b.1"], namespace="llm", namespace_label=None)
    assert r'model_name=~"a\"|b\\.1"' in shared


COUNTS = {"0.1": 10.0, "0.25": 90.0, "0.5": 99.0, "+Inf": 100.0}


def counts(pod="a", figure="ttft", **changed):
    told = {**COUNTS, **{name.replace("_", ".").removeprefix("b"): value for name, value in changed.items()}}
    return [
        {"metric": {"pod": pod, "figure": figure, "le": bound}, "value": [1.0, str(value)]}
        for bound, value in told.items()
    ]


def test_counts_by_bound_belong_to_their_pod_and_figure():
    engines = read([*rows("a"), *rows("b")])
    first, second = with_counts(engines, [*counts("a"), *counts("b", "prompts"), *counts("gone")])
    assert (first.ttft.bounds, first.ttft.counts, first.ttft.total) == ((0.1, 0.25, 0.5), (10, 90, 99), 100)
    assert (first.tpot, first.prompts, second.ttft) == (None, None, None)
    assert second.prompts.total == 100
    assert with_counts(engines, []) == engines


def test_counts_that_fall_a_little_because_each_was_extrapolated_by_itself_are_mended():
    (seen,) = with_counts(read(rows()), counts(b0_5=89.9))
    assert seen.ttft.counts == (10, 90, 90)


@pytest.mark.parametrize("changed", [{"b0_25": "NaN"}, {"b0_25": -1.0}, {"b0_25": "+Inf"}])
def test_counts_that_are_none_make_no_histogram(changed):
    (seen,) = with_counts(read(rows()), counts(**changed))
    assert seen.ttft is None
    (without_the_last,) = with_counts(read(rows()), counts()[:-1])
    assert without_the_last.ttft is None


@pytest.mark.parametrize("row", [{"metric": {"figure": "ttft"}, "value": [1.0, "1"]}, {"value": [1.0, "1"]}])
def test_counts_that_prometheus_does_not_promise_are_refused(row):
    with pytest.raises((KeyError, ValueError)):
        with_counts(read(rows()), [row])


def test_the_query_for_counts_names_the_same_engines():
    shared = query_counts(["b.1", 'a"'], namespace="llm", namespace_label="ns")
    assert shared.count('ns="llm"') == shared.count("model_name=~") == 3
    assert "ns=" not in query_counts(["b.1"], namespace="llm", namespace_label=None)
    assert r'model_name=~"a\"|b\\.1"' in shared
