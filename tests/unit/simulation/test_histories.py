"""Long random histories through the operator's own turns. ``make histories`` runs as many as HISTORIES says.

What the driver watches in each: no write over the budget as it was known, no first weight for what nobody lists, no pod let
go without room, and no decision on a state older than the operator's last write, whatever the API server does. In the end the
fleet is what is planned.
"""

import os

import pytest

from tests.simulated.driver import Driver
from tests.simulated.histories import History
from tests.simulated.plans import operator, plan

FEW, MORE = 4, 300
"""Run by `make unit`, and by `make test`."""


def seeds():
    """Those that are asked for; else a few, and more of them that are slow together."""
    asked = os.environ.get("HISTORIES")
    if asked:
        first = int(os.environ.get("FIRST_HISTORY", "0"))
        return range(first, first + int(asked))
    return [seed if seed < FEW else pytest.param(seed, marks=pytest.mark.slow) for seed in range(MORE)]


@pytest.mark.parametrize("seed", seeds())
def test_a_history_keeps_every_rule_and_comes_to_rest(seed):
    History(seed).live()


def test_a_history_that_breaks_a_rule_names_its_seed(monkeypatch):
    """An operator that pays for twice what is planned."""
    monkeypatch.setattr(Driver, "budget", property(lambda driver: 1.0))
    with pytest.raises(AssertionError, match="HISTORIES=1 FIRST_HISTORY=7 make histories") as caught:
        History(7).live()
    assert "raises spend" in str(caught.value)


def test_an_operator_that_forgets_its_own_writes_is_found_out(monkeypatch):
    driver = operator(plan())
    monkeypatch.setattr(driver.operator.state, "wrote", lambda resource, item: None)
    driver.cluster.api.withheld = lambda kind: 100
    driver.turn()
    with pytest.raises(AssertionError, match="and we wrote version"):
        driver.turn()
