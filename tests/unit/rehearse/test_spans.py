"""Spans count each request once, also after every two became one."""

import math

from servingplan.rehearse.spans import Spans
from servingplan.replay.run import ClassFigures


def test_joined_spans_hold_the_counts_of_both():
    figures = ClassFigures("m", "c", math.inf, math.inf, 95.0)
    spans = Spans([figures])
    for minute in range(5):
        spans.begin(60.0 * minute)
        figures.arrived += minute + 1
        figures.cut += minute % 2
        spans.in_time(60.0 * minute, 0)
        spans.in_time(60.0 * minute + 59.9, 0)
    one = [(start, counts[0].arrived, counts[0].in_time, counts[0].cut) for start, counts in spans.all()]
    assert one == [(60.0 * minute, minute + 1, 2, minute % 2) for minute in range(5)]
    spans.join_pairs()
    two = [(start, counts[0].arrived, counts[0].in_time, counts[0].cut) for start, counts in spans.all()]
    assert two == [(0.0, 3, 4, 1), (120.0, 7, 4, 1), (240.0, 5, 2, 0)]


def test_a_span_that_begins_where_the_last_one_did_is_that_one():
    spans = Spans([ClassFigures("m", "c", math.inf, math.inf, 95.0)])
    spans.begin(0.0)
    spans.begin(5.0)
    spans.begin(5.0)
    assert spans.starts == [0.0, 5.0]
