"""Long random histories through the operator's own turns. ``make histories`` runs as many as HISTORIES says.

What the driver watches in each, whatever the API server does: no write raises spend over the budget that the operator knew,
no Service gets its first weight before the operator saw it listed, and nothing is decided on a state older than the operator's
last write. In the end the world holds still, and the fleet is what is planned.
"""

import os

import pytest

from tests.simulated.driver import Driver
from tests.simulated.histories import DeviceHistory, GroupHistory, History
from tests.simulated.plans import operator, plan

FEW, MORE = 3, 100
"""Seeds of each kind of history: by `make unit`, and by `make test`, which so runs 300."""


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


@pytest.mark.parametrize("seed", seeds())
def test_a_history_with_replicas_over_several_nodes_does_too(seed):
    GroupHistory(seed).live()


@pytest.mark.parametrize("seed", seeds())
def test_a_history_on_devices_does_too(seed):
    DeviceHistory(seed).live()


def test_a_history_that_breaks_a_rule_names_its_seed(monkeypatch):
    """The driver allows less than the plan."""
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
