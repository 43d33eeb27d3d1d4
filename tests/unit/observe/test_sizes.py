"""What owners write on a pool object, and what is noted there."""

import pytest

from servingplan.observe.sizes import ceiling, number


@pytest.mark.parametrize(
    ("text", "most", "readable"),
    [("7", 7, True), (" 7 ", 7, True), ("0", 0, True)]
    + [(text, 3, False) for text in ("", "seven", "-1", "1.5", "1e3", "²", "٣", "9" * 7, "7 nodes")],
)
def test_a_ceiling_that_cannot_be_read_keeps_the_size_of_the_moment(text, most, readable):
    found, problem = ceiling({"servingplan.dev/max-nodes": text}, 3)
    assert (found, problem is None) == (most, readable)
    assert readable or "it does not grow" in problem


def test_without_a_ceiling_there_is_none():
    assert ceiling({}, 3) == (None, None)


@pytest.mark.parametrize("text", [None, "", "²", "-1", "x"])
def test_a_note_of_ours_that_is_no_number_is_none(text):
    assert number(text) is None
