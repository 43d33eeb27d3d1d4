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
