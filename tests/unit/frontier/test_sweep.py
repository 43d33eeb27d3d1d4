"""What is varied, as the command line gives it."""

import pytest

from servingplan.errors import InputError
from servingplan.frontier.sweep import budget_sweep, demand_sweep, stock_sweep
from tests.unit.solve.questions import worked_example


def test_ends_are_met_exactly_and_points_rise():
    sweep = budget_sweep("0.1:0.7:4")
    assert sweep.values == (0.1, 0.3, 0.5, 0.7)
    assert demand_sweep("0.5:2:2").values == (0.5, 2.0)
    assert stock_sweep("h100=0:3").values == (0.0, 1.0, 2.0, 3.0)
    assert stock_sweep("h100=0:3").pool == "h100"


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (budget_sweep, "10:110", "give FROM:TO:POINTS"),
        (budget_sweep, "10:x:3", "give FROM:TO:POINTS"),
        (budget_sweep, "10:nan:3", "TO above FROM"),
        (budget_sweep, "-1:10:3", "FROM must be 0 or more"),
        (budget_sweep, "10:10:3", "TO above FROM"),
        (budget_sweep, "10:20:1", "POINTS is 1"),
        (budget_sweep, "10:20:2.5", "give FROM:TO:POINTS"),
        (budget_sweep, "10:20:1001", "POINTS is 1001"),
        (demand_sweep, "0:2:3", "FROM must be above 0"),
        (stock_sweep, "0:3", "give POOL=FROM:TO"),
        (stock_sweep, "=0:3", "give POOL=FROM:TO"),
        (stock_sweep, "h100=0.5:3", "whole numbers"),
        (stock_sweep, "h100=3:3", "TO above it"),
        (stock_sweep, "h100=-1:3", "FROM must be 0 or more"),
        (stock_sweep, "h100=0:1000", "are 1001 points"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused_by_field_and_value(read, text, said):
    with pytest.raises(InputError, match=said) as refused:
        read(text)
    assert refused.value.field in ("--budget", "--demand", "--stock")
    assert str(text) in str(refused.value)


def test_each_kind_changes_its_own_limit():
    base = worked_example()
    assert budget_sweep("0:9:2").question(base, 9.0, sunk_dollars_per_hour=2.0).budget_dollars_per_hour == 7.0
    assert budget_sweep("0:9:2").question(base, 1.0, sunk_dollars_per_hour=2.0).budget_dollars_per_hour == 0.0
    doubled = demand_sweep("1:2:2").question(base, 2.0)
    assert [cls.requests_per_second for cls in doubled.classes] == [160.0, 40.0]
    assert [pool.max_nodes for pool in stock_sweep("t2=0:5").question(base, 5.0).pools] == [2, 5, 2]
