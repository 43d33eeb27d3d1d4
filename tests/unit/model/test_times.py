"""Times as annotations hold them: people can write anything into these."""

import math

import pytest

from servingplan.model.times import seconds_since

NOW = "2026-01-01T00:01:00Z"


def test_the_time_between_two_moments():
    assert seconds_since("2026-01-01T00:00:00Z", NOW) == 60


@pytest.mark.parametrize("then", [None, "", "yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"])
def test_what_is_no_moment_was_endlessly_long_ago(then):
    assert seconds_since(then, NOW) == math.inf
