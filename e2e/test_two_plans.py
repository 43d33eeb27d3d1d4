"""Two plans want the same pool: it is one plan's, and when that plan gives it back the other takes it.

At every resource version: a pool is held by one plan at most, it is free before it is another's, and each plan keeps to its own
budget with the pools that it holds.
"""

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from localcluster.nodes import A100

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


def test_a_pool_has_one_plan_and_goes_to_the_other_when_it_is_free(scene, witness):
    shared, dear = (scene.rented(A100, price=price, name=f"for-{price}", most=1) for price in (20, 30))
    first, second = (f"{scene.namespace}/{name}" for name in ("chat", "code"))

    def plan(name: str, pools: list[plans.Json], budget: float) -> plans.Json:
        change = {"drainSeconds": 1, "minLifetime": "1s"}
        return plans.plan(scene.namespace, [plans.model(rate=60)], pools, budget=budget, name=name, change=change)

    scene.apply(plan("chat", [shared], 20))
    scene.wait_ready()
    scene.apply(plan("code", [shared, dear], 50))
    scene.wait_event("ClaimedByOther", "code")
    # It does without that pool, and is not Ready as long as its spec names it.
    scene.wait_condition("WorkloadsReady", "AsPlanned", "code", seconds=30)
    assert scene.condition("Ready", "code")["reason"] == "ClaimedByOther"
    assert (witness.claims(shared), witness.claims(dear)) == (["", first], ["", second])
    assert (witness.spends("chat")[-1], witness.spends("code")[-1]) == (20, 30)
    before = len(witness.documents("code-routing"))

    # A deleted plan drains its replicas and gives the node back.
    scene.cluster.kubectl("delete", "lsp", "chat", "-n", scene.namespace, "--wait=false")
    shown = lambda: scene.conditions("code")  # noqa: E731
    wait_for("the other plan has moved", lambda: witness.sizes(dear)[-1:] == [0], seconds=60, shown=shown)
    scene.wait_ready("code")
    assert witness.claims(shared) == ["", first, "", second]
    assert (witness.sizes(shared), witness.sizes(dear)) == ([0, 1, 0, 1], [0, 1, 0])
    assert all(item.services(SMALL) for item in witness.documents("code-routing")[before:]), "it moved without a gap"
    assert (max(witness.spends("chat")), max(witness.spends("code"))) == (20, 50)
