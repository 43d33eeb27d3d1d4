"""The garbage collector waits for a short search, and is there again whatever happens in it."""

import gc

import pytest

from servingplan.solve.solver.collector import SHORT_SECONDS, collector_waits


@pytest.fixture(autouse=True)
def _collecting():
    assert gc.isenabled()
    yield
    gc.enable()


@pytest.mark.parametrize(("deadline", "waits"), [(0.08, True), (SHORT_SECONDS, True), (5.0, False), (None, False)])
def test_only_a_short_deadline_makes_it_wait(deadline, waits):
    with collector_waits(deadline):
        assert gc.isenabled() is not waits
    assert gc.isenabled()


def test_it_collects_again_after_an_error():
    with pytest.raises(ZeroDivisionError), collector_waits(0.1):
        _ = 1 / 0
    assert gc.isenabled()


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_it_collects_again_after_searches_that_overlap(first_ends_first):
    first, second = collector_waits(0.1), collector_waits(0.1)
    first.__enter__()
    second.__enter__()
    for search in (first, second) if first_ends_first else (second, first):
        search.__exit__(None, None, None)
    assert gc.isenabled()


def test_a_collector_that_somebody_else_stopped_stays_stopped():
    gc.disable()
    with collector_waits(0.1):
        pass
    assert not gc.isenabled()
