"""Rows of a log to arrivals: order, repairs, classes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.classes.log import read_log
from servingplan.classes.request import BadRow, Request
from servingplan.errors import InputError
from servingplan.replay.trace import WINDOW, Reading, Told, arrivals_of

SPEC = PlanSpec.model_validate(
    {
        "budget": {"dollarsPerHour": "20"},
        "models": [
            {
                "name": "small",
                "classes": [
                    {"name": "long", "inputTokens": 2000, "outputTokens": 20, "requestsPerSecond": "1"},
                    {"name": "short", "inputTokens": 200, "outputTokens": 20, "requestsPerSecond": "1"},
                ],
            },
            {
                "name": "gated",
                "classes": [
                    {
                        "name": "only",
                        "inputTokens": 2000,
                        "outputTokens": 20,
                        "requestsPerSecond": "1",
                        "match": {"inputTokensAtLeast": 1000},
                    }
                ],
            },
        ],
        "nodePools": [
            {"name": "p", "gpu": "L40S", "gpusPerNode": 1, "maxNodes": 1, "dollarsPerNodeHour": "1", "nodeSelector": {"a": "b"}}
        ],
    }
)  # fmt: skip


def read(rows, **how):
    told = Told("rows")
    return list(arrivals_of(rows, SPEC, told, Reading(**how), name="log")), told


def text(*lines):
    return "".join(f"{line}\n" for line in lines)


def at(*times, **fields):
    return [Request(fields.get("tokens", 100), 10, at_seconds=time, model=fields.get("model")) for time in times]


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1, max_size=60))
def test_arrivals_come_in_order_from_zero_and_none_is_lost(times):
    found, told = read(at(*times))
    moments = [arrival.at for arrival in found]
    assert moments == sorted(moments)
    assert moments[0] == 0.0
    assert moments == pytest.approx([time - min(times) for time in sorted(times)], abs=1e-9)
    assert told.requests == len(times)
    assert (told.sorted_rows > 0) == (times != sorted(times))
    assert told.late_rows == 0


def test_a_row_that_is_further_out_of_order_than_rows_are_held_arrives_with_the_row_before_it():
    rows = at(*map(float, range(5, WINDOW + 20)), 1.0)
    found, told = read(rows)
    assert told.late_rows == 1
    assert [arrival.at for arrival in found] == sorted(arrival.at for arrival in found)
    assert len(found) == len(rows)
    with pytest.raises(InputError, match="rows late; sort the log"):
        read(rows, strict=True)


def test_bad_rows_are_counted_and_the_first_are_told_by_line():
    bad = [BadRow(line, "output_tokens", "0", "must be from 1 to 10000000 tokens") for line in range(2, 12)]
    found, told = read([*bad, *at(1.0)])
    assert len(found) == 1
    assert told.bad_rows == 10
    assert [line.split(":")[0] for line in told.bad_examples] == [f"line {n}" for n in range(2, 7)]
    with pytest.raises(InputError, match="log line 2: output_tokens: '0': must be from 1"):
        read(bad, strict=True)


def test_a_log_without_times_needs_a_rate():
    rows = [Request(100, 10), Request(100, 10), Request(100, 10)]
    with pytest.raises(InputError, match="log: tells no arrival times; give --rate"):
        read(rows)
    found, _ = read(rows, gaps=iter([0.5, 0.25, 1.0]))
    assert [arrival.at for arrival in found] == [0.0, 0.5, 0.75]


def test_classes_are_those_of_the_gateway_and_what_none_covers_is_counted():
    found, told = read([*at(1.0, tokens=1500), *at(2.0, tokens=100), *at(3.0, tokens=100, model="gated")])
    assert [arrival.name for arrival in found] == ["long", "short", "only"]
    assert told.uncovered == {"gated": 1}


def test_models_that_the_plan_does_not_have_go_to_the_one_that_stands_in():
    rows = at(1.0, 2.0, model="gpt-4", tokens=1500)
    found, told = read(rows)
    assert {arrival.model for arrival in found} == {"small"}
    assert told.other_models == {"gpt-4": 2}
    found, _ = read(rows, model="gated")
    assert {(arrival.model, arrival.name) for arrival in found} == {("gated", "only")}
    with pytest.raises(InputError, match="--model: 'other': is none of the plan's models; give one of small, gated"):
        read(rows, model="other")


def test_time_can_be_compressed_and_a_log_cut_short():
    found, told = read(at(10.0, 12.0, 20.0, 30.0), faster=2.0, most_requests=3)
    assert [arrival.at for arrival in found] == [0.0, 1.0, 5.0]
    assert told.seconds == 5.0


def test_published_formats_with_their_own_times():
    azure = text(
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:46.6805900,374,44",
        "2023-11-16 18:15:50.9951690,1000,0",
        "2023-11-16 18:15:51.2224670,396,109",
    )
    burst = text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "5,ChatGPT,472,18,490,Conversation log",
        "45,GPT-4,1087,230,1317,API log",
    )
    lines = text(
        '{"timestamp": "2026-01-01T10:00:00+02:00", "input_tokens": 10, "output_tokens": 5}',
        '{"timestamp": "2026-01-01T08:00:03Z", "input_tokens": 10, "output_tokens": 5}',
    )
    found, told = read(read_log([azure], name="azure").rows)
    assert [round(arrival.at, 5) for arrival in found] == [0.0, 4.54188]
    assert "line 3: GeneratedTokens: '0'" in told.bad_examples[0]
    found, told = read(read_log([burst], name="burst").rows)
    assert [arrival.at for arrival in found] == [0.0, 40.0]
    assert told.other_models == {"ChatGPT": 1, "GPT-4": 1}
    found, _ = read(read_log([lines], name="lines").rows)
    assert [arrival.at for arrival in found] == [0.0, 3.0]
