"""The budget is cut below what runs: spend falls, lowest priority first, what goes serves until it is removed, and a budget
that keeps nothing is told a minute before it is carried out."""

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from localcluster.nodes import A100

pytestmark = pytest.mark.usefixtures("karpenter", "operator")

EXTRA = "mistral-7b"


def test_the_lowest_priority_goes_first_and_nothing_is_left_for_no_money(scene, witness):
    pool = scene.rented(A100, price=20)
    important = plans.model(SMALL, rate=60, priority=100)
    extra = plans.model(EXTRA, rate=60, priority=10)
    scene.apply(plans.plan(scene.namespace, [important, extra], [pool], budget=60))
    scene.wait_ready()
    size = scene.size_of(pool)
    assert size >= 2
    assert scene.weights(EXTRA)
    edited = len(witness.documents())

    scene.edit("chat", {"budget": {"dollarsPerHour": "20"}})
    wait_for("the pool shrinks", lambda: scene.size_of(pool) == 1, seconds=20, shown=scene.conditions)
    wait_for("the node goes", lambda: len(scene.nodes_of(pool)) == 1, seconds=10)
    scene.wait_condition("WithinBudget", "WithinBudget")
    wait_for(
        "all that is left is for the important model",
        lambda: scene.weights(SMALL) and not scene.weights(EXTRA),
        seconds=10,
        shown=scene.routing,
    )
    since = witness.documents()[edited - 1 :]
    assert all(item.services(SMALL) for item in since), "the important model served at every moment"

    scene.edit("chat", {"budget": {"dollarsPerHour": "5"}})
    told = scene.wait_condition("WithinBudget", "BudgetBelowOneNode")
    assert "spec.budget.dollarsPerHour" in told
    assert (scene.size_of(pool), bool(scene.weights(SMALL))) == (1, True), "it is told first"
    wait_for("nothing is paid for", lambda: scene.size_of(pool) == 0, seconds=100, shown=scene.conditions)
    wait_for("no node is left", lambda: scene.nodes_of(pool) == [], seconds=10)
    message = scene.wait_condition("PlanSolved", "BudgetTooSmall")
    assert SMALL in message
    assert "spec.budget.dollarsPerHour" in message
    wait_for("nobody has weight", lambda: not scene.weights(SMALL), seconds=10, shown=scene.routing)
    assert witness.sizes(pool) == [0, size, *range(size - 1, -1, -1)]


def test_the_budget_is_halved_while_nodes_boot(scene, sell, witness):
    """At every resource version: the spend is within the budget of its moment, and what serves goes on serving."""
    pool = scene.rented(A100, price=20)
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [pool], budget=70))
    scene.wait_ready()
    served = len(witness.documents())

    sell(held=[A100.name])
    scene.edit("chat", {"models": [plans.model(rate=220)]})
    wait_for("nodes are asked for", lambda: scene.size_of(pool) == 3, seconds=60, shown=scene.conditions)
    (node,) = scene.nodes_of(pool)
    scene.edit("chat", {"budget": {"dollarsPerHour": "35"}})
    wait_for("they are given back", lambda: scene.size_of(pool) == 1, seconds=60, shown=scene.conditions)
    wait_for("their claims are gone", lambda: len(scene.claims_of(pool)) == 1, seconds=60)
    sell()
    status = scene.wait_ready(such=lambda status: status["served"] != "100%")
    assert float(status["cost"]["spendPerHour"]) == 20
    assert scene.nodes_of(pool) == [node]
    assert witness.sizes(pool) == [0, 1, 3, 1]
    assert witness.spends() == [0, 20, 60, 20]
    assert all(item.services(SMALL) for item in witness.documents()[served:])
