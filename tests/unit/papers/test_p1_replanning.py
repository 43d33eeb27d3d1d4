"""Planning again after a loss and after a shift of the mix."""

import pytest

from papers.p1.replanning import PAPER, events, part, shifted
from papers.page import marks
from servingplan.replay.mixes import LENGTHS, MIXES


def test_the_surge_moves_a_fifth_of_the_requests_to_short_answers():
    after = shifted(MIXES["T2"])
    assert sum(after) == pytest.approx(100)
    short = [k for k, (_, tokens_out) in enumerate(LENGTHS) if tokens_out == 18]
    assert sum(after[k] for k in short) == pytest.approx(sum(MIXES["T2"][k] for k in short) + 20)
    assert min(after) > 0


@pytest.mark.slow
def test_planning_again_is_never_worse_than_what_is_left():
    for event in events(15.0):
        assert event.planned >= event.kept * (1 - 2e-3)
        assert event.kept <= event.planned or event.started_gpus == 0
        assert min(event.kept, event.planned) - 1e-9 <= event.first_hour <= event.planned + 1e-9
        assert event.move_dollars >= 0
    lost, surge = events(15.0)
    assert lost.kept <= lost.before * (1 + 2e-3)
    assert lost.before == surge.before
    assert lost.unrouted is None
    assert 0 < surge.unrouted <= surge.kept * (1 + 2e-3)


@pytest.mark.slow
def test_the_part_stands_between_its_marks():
    begin, end = marks(PAPER)
    text = part([15.0])
    assert text.startswith(begin)
    assert text.endswith(end)
    assert "paper: 4 H100 lost" in text
