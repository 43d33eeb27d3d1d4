"""A market has no more of one type: the size asked for comes down, the other type serves, and when there is stock again the
plan comes back."""

import time

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.record import let_caps_end
from e2e.support.waiting import hold, wait_for
from localcluster.nodes import A100, L40S
from servingplan.kube import EVENTS

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


def refused_claims(scene, pool) -> list[str]:
    """Names of a pool's NodeClaims that got no node."""
    found = scene.api.list(EVENTS, namespace="default", fields="reason=InsufficientCapacityError")
    names = {item["involvedObject"]["name"] for item in found}
    return sorted(name for name in names if name.rpartition("-")[0] == pool["resize"]["name"])


def cap_of(scene, pool) -> plans.Json:
    pools = scene.plan().get("status", {}).get("nodePools", ())
    return next((item.get("learnedCap") or {} for item in pools if item["name"] == pool["name"]), {})


def test_another_type_serves_while_one_is_sold_out_and_the_plan_comes_back(scene, sell, witness):
    cheap, other = scene.rented(A100, price=10, name="cheap"), scene.rented(L40S, price=30, name="other")
    sell(sold_out=[A100.name])
    change = {"drainSeconds": 1, "minLifetime": "1s"}
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [cheap, other], budget=60, change=change))
    wait_for("a claim is refused", lambda: refused_claims(scene, cheap), seconds=60, shown=scene.conditions)
    refused_at = time.monotonic()
    wait_for("the other type is asked for", lambda: scene.size_of(other) == 1, seconds=60, shown=scene.conditions)
    print(f"the other type was asked for {time.monotonic() - refused_at:.1f} s after the refusal was seen")
    wait_for("the refused one is not", lambda: scene.size_of(cheap) == 0, seconds=60, shown=scene.conditions)
    scene.wait_ready()
    cap = cap_of(scene, cheap)
    assert (cap["nodes"], cap["reason"]) == (0, "InsufficientCapacity")
    scene.wait_event("InsufficientCapacity")
    (serving,) = scene.weights(SMALL)
    assert scene.deployments()[serving]["metadata"]["labels"]["servingplan.dev/pool"] == "other"
    before = refused_claims(scene, cheap)
    print(f"{len(before)} claims were refused before the size came down")
    hold("nobody asks again", lambda: refused_claims(scene, cheap) == before, seconds=5)

    # The cap ends, and the market still has nothing: one claim more, and a cap that lasts twice as long.
    let_caps_end(scene)
    wait_for(
        "a probe is refused",
        lambda: len(refused_claims(scene, cheap)) > len(before),
        seconds=60,
        shown=scene.conditions,
    )
    wait_for("the size is down again", lambda: scene.size_of(cheap) == 0, seconds=60, shown=scene.conditions)
    wait_for("the next cap", lambda: cap_of(scene, cheap).get("since", "") > cap["since"], seconds=30)
    assert max(witness.sizes(cheap)[2:]) == 1
    assert scene.weights(SMALL).keys() == {serving}

    # It ends again, and there are nodes.
    sell()
    let_caps_end(scene)
    wait_for("the plan is back", lambda: scene.size_of(other) == 0, seconds=60, shown=scene.conditions)
    scene.wait_ready()
    assert scene.size_of(cheap) == 1
    assert cap_of(scene, cheap) == {}
    assert all(item.services(SMALL) for item in witness.documents()[-5:])
