"""Times as annotations hold them: people can write anything into these."""

import math
from datetime import UTC, datetime

import pytest

from servingplan.model.times import later, seconds_since, text_of

NOW = "2026-01-01T00:01:00Z"


def test_the_time_between_two_moments():
    assert seconds_since("2026-01-01T00:00:00Z", NOW) == 60


def test_times_are_written_as_the_api_server_writes_them():
    moment = datetime(2026, 1, 1, 0, 1, 0, 999_999, UTC)
    assert text_of(moment) == text_of(moment.timestamp()) == later("2026-01-01T00:00:00Z", 60) == NOW


@pytest.mark.parametrize("then", [None, "", "yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"])
def test_what_is_no_moment_was_endlessly_long_ago(then):
    assert seconds_since(then, NOW) == math.inf
