"""A plan counts on no more GPUs than the quota of its queue leaves it."""

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.keep_or_move import running_answer
from servingplan.model.fleet import PlanRecord
from servingplan.model.names import POOL_LABEL
from servingplan.model.world import FlavorQuota, LiveObject, Node, Observation, PlanObject, Pod, PoolObject
from servingplan.planning.inventory import read_pools
from servingplan.planning.known import known_of
from servingplan.planning.question import pose
from servingplan.planning.quota import quota_lines
from servingplan.solve import solve
from tests.unit.planning.test_question import RESIZE, spec, stock

GATE = "kueue.x-k8s.io/admission"
NOW, EARLIER = "2026-01-01T01:00:00Z", "2026-01-01T00:00:00Z"


def flavor(most=8, reserved=0, labels=None, resource="nvidia.com/gpu", name="f"):
    labels = {"pool": "p"} if labels is None else labels
    return FlavorQuota(flavor=name, node_labels=labels, resource=resource, most=most, reserved=reserved)


def ours(name, gpus, *, on=None, held=False, created=EARLIER):
    return Pod(
        namespace="llm",
        name=name,
        uid=name,
        gpus=gpus,
        created=created,
        node=on,
        bound=on is not None,
        deployment="d",
        gated=on is None,
        other_gates=(GATE,) if held else (),
    )


def looked_at(*quota, pods=(), nodes=2, pool=None, wanted=None, rate="5", objects=(), zones=""):
    """The pool, and what may be asked of it."""
    chat = {"name": "chat", "inputTokens": 500, "outputTokens": 250, "requestsPerSecond": rate}
    raw = spec(model={"classes": [chat]}, pool=pool)
    the_spec = PlanSpec.model_validate(raw)
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec=raw, queue="team-a")
    sized = ()
    if wanted is not None:
        sized = (PoolObject(pool="p", reference="r", wanted=wanted, allowed_namespaces=("*",)),)
    labels = [{"pool": "p", **({"zone": zones[number]} if zones else {})} for number in range(nodes)]
    there = tuple(Node(name=f"n{number}", labels=labels[number], gpus=4, ready=True) for number in range(nodes))
    world = Observation(now=NOW, plan=plan, nodes=there, pods=pods, pools=sized, objects=objects, quota=quota or None)
    pools, errors = read_pools(the_spec, world, known_of(world))
    assert errors == ()
    return pools[0], pose(spec=the_spec, pools=pools, incumbent=None)[0].question


def test_without_a_queue_nothing_is_bounded():
    pool, question = looked_at()
    assert pool.quota_gpus is None
    assert stock(question) == {"p": (4, 0, 2)}


def test_whole_nodes_come_first_and_of_the_last_one_what_is_left():
    pool, question = looked_at(flavor(most=6))
    assert pool.quota_gpus == 6
    assert stock(question) == {"p": (4, 0, 1), "p~2": (2, 0, 1)}
    assert quota_lines([pool], "team-a") == ["the queue team-a has quota for 6 GPUs in p"]


def test_a_sized_pool_is_bounded_before_anything_is_bought():
    resize = {"resize": RESIZE, "minNodes": 1, "maxNodes": 5}
    assert stock(looked_at(flavor(most=8), nodes=0, pool=resize, wanted=0)[1]) == {"p": (4, 1, 2)}
    assert stock(looked_at(flavor(most=3), nodes=0, pool=resize, wanted=0)[1]) == {"p": (4, 0, 0), "p~3": (3, 1, 1)}


def test_what_others_hold_is_not_there_and_what_the_plan_holds_is():
    assert looked_at(flavor(most=8, reserved=5))[0].quota_gpus == 3
    own = (ours("a", 2, on="n0"), ours("b", 1))
    assert looked_at(flavor(most=8, reserved=5), pods=own)[0].quota_gpus == 6


def test_a_replica_that_is_held_counts_only_while_its_gate_may_just_open():
    just = ours("new", 2, held=True, created="2026-01-01T00:59:45Z")
    assert looked_at(flavor(most=4, reserved=4), pods=(just,))[0].quota_gpus == 2
    waits = ours("old", 2, held=True)
    assert looked_at(flavor(most=4, reserved=4), pods=(waits,))[0].quota_gpus == 0


@pytest.mark.parametrize(
    ("quota", "gpus"),
    [
        ((flavor(labels={"pool": "other"}),), 0),
        ((flavor(labels={}),), 8),
        ((flavor(resource="amd.com/gpu"),), 0),
        ((flavor(most=None),), None),
        ((flavor(most=3), flavor(most=2, name="g")), 5),
    ],
)
def test_flavors_count_whose_labels_the_nodes_have(quota, gpus):
    assert looked_at(*quota)[0].quota_gpus == gpus


def test_labels_that_no_node_has_shown_yet_may_be_there():
    there = flavor(labels={"pool": "p", "cloud/type": "big"})
    resize = {"resize": RESIZE, "maxNodes": 5}
    assert looked_at(there, nodes=0, pool=resize, wanted=0)[0].quota_gpus == 8
    assert looked_at(there, nodes=1, pool=resize, wanted=1)[0].quota_gpus == 0


def gpus_of_the_answer(question):
    gpus = {shape.name: sum(shape.gpus.values()) for shape in question.shapes}
    return sum(gpus[name] * count for name, count in solve(question).replicas.items())


def test_the_plan_keeps_to_the_quota():
    assert gpus_of_the_answer(looked_at(nodes=8, rate="60")[1]) > 1
    assert gpus_of_the_answer(looked_at(flavor(most=1), nodes=8, rate="60")[1]) == 1


def grouped(gpus):
    """A replica over the first two nodes."""
    leader = ours("d-0", gpus, on="n0")
    return leader.model_copy(update={"workers": (ours("d-0-1", gpus, on="n1"),)})


def test_all_pods_of_a_group_hold_quota():
    assert looked_at(flavor(most=8, reserved=8), pods=(grouped(4),))[0].quota_gpus == 8


def behind(pool, replicas, kind="Deployment"):
    """The workload of our pods."""
    manifest = {"metadata": {"labels": {POOL_LABEL: pool}}, "spec": {"replicas": replicas}}
    return LiveObject(kind=kind, name="d", uid="d", ours=True, owner="chat", manifest=manifest)


def test_pods_that_wait_for_a_node_hold_the_quota_of_their_own_pool():
    """Else a plan that leaves a pool without stock would count on quota of others."""
    waits = (ours("a", 4),)
    quota = (flavor(most=8, reserved=8),)
    assert looked_at(*quota, pods=waits, objects=(behind("p", 1),))[0].quota_gpus == 4
    assert looked_at(*quota, pods=waits, objects=(behind("other", 1),))[0].quota_gpus == 0
    group = behind("other", 1, kind="LeaderWorkerSet")
    assert looked_at(*quota, pods=waits, objects=(group,))[0].quota_gpus == 4, "some of its pods may belong here"


def test_a_pod_that_takes_the_place_of_one_that_ends_is_no_more_quota():
    """Else a plan would rent a node for half a minute whenever a replica is replaced."""
    ends = ours("old", 2, on="n0").model_copy(update={"terminating": True})
    runs = ours("runs", 2, on="n1")
    comes = ours("new", 2, held=True, created="2026-01-01T00:59:45Z")
    found = looked_at(flavor(most=8, reserved=8), pods=(ends, runs, comes), objects=(behind("p", 2),))
    assert found[0].quota_gpus == 4


def test_a_flavor_of_any_node_of_the_pool_counts():
    """Whichever node sorts first."""
    zones = (flavor(most=4, labels={"zone": "a"}), flavor(most=2, labels={"zone": "b"}, name="g"))
    assert looked_at(*zones, zones="ab")[0].quota_gpus == 6


def test_nodes_that_are_paid_beyond_the_quota_leave_less_of_the_budget():
    pool = {"resize": RESIZE, "minNodes": 3, "maxNodes": 5}
    price, budget = 6, looked_at(nodes=0, pool=pool, wanted=0)[1].budget_dollars_per_hour
    question = looked_at(flavor(most=6), nodes=0, pool=pool, wanted=0)[1]
    assert stock(question) == {"p": (4, 1, 1), "p~2": (2, 1, 1)}
    assert question.budget_dollars_per_hour == pytest.approx(budget - price)


def test_a_plan_in_force_holds_where_others_leave_more_of_the_quota():
    """Else it would move in haste, at any age and for no gain, whenever they take or give back."""

    def question(most):
        pool = {"resize": RESIZE, "maxNodes": 3}
        return looked_at(flavor(most=most), pool=pool, wanted=2, rate="150")[1]

    asked = question(6)
    answer = solve(asked)
    assert answer.nodes == {"p": 1, "p~2": 1}
    record = PlanRecord(answer=answer.model_dump(mode="json"))
    for most, nodes in (
        (6, {"p": 1, "p~2": 1}),
        (7, {"p": 1, "p~3": 1}),
        (8, {"p": 2}),
        (12, {"p": 2}),
    ):
        held = running_answer(record, question(most))
        assert held is not None
        assert held.nodes == nodes
        assert held.dollars_per_hour == answer.dollars_per_hour
    assert running_answer(record, question(4)) is None
    assert running_answer(record, question(0)) is None


def drawing(*quota, pods=(), objects=(), pools=("p", "r"), nodes=2, sized=False, away=()):
    """Pools of two nodes of four GPUs each, and what may be asked of them."""
    raw = spec()
    resize = {"resize": RESIZE, "maxNodes": nodes} if sized else {}
    raw["nodePools"] = [
        {**raw["nodePools"][0], **resize, "name": name, "nodeSelector": {"pool": name}} for name in pools
    ]
    the_spec = PlanSpec.model_validate(raw)
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec=raw, queue="team-a")
    there = tuple(
        Node(name=f"{name}{number}", labels={"pool": name, "team": "x"}, gpus=4, ready=name not in away)
        for name in pools
        for number in range(nodes)
    )
    world = Observation(now=NOW, plan=plan, nodes=there, pods=pods, objects=objects, quota=quota)
    found, errors = read_pools(the_spec, world, known_of(world))
    assert errors == ()
    return found, pose(spec=the_spec, pools=found, incumbent=None)[0].question


def limits(question):
    return {quota.name: (quota.pools, quota.max_gpus) for quota in question.quotas}


BOTH = {"team": "x"}


def test_two_pools_of_one_flavor_share_its_quota():
    """Else the plan would ask for twice what Kueue admits."""
    pools, question = drawing(flavor(most=6, labels=BOTH))
    assert [pool.quota_gpus for pool in pools] == [6, 6]
    assert limits(question) == {"p+r": (("p", "p~2", "r", "r~2"), 6)}
    assert "the queue team-a has quota for 6 GPUs in p, r together" in quota_lines(pools, "team-a")


def test_what_the_plan_holds_in_one_of_them_is_its_own_in_both_together():
    own = (ours("a", 4, on="p0"),)
    pools, question = drawing(flavor(most=8, reserved=6, labels=BOTH), pods=own)
    assert [pool.quota_gpus for pool in pools] == [6, 2], (
        "what is held in another pool is not free before it is given back"
    )
    assert limits(question) == {"p+r": (("p", "p~2", "r", "r~2"), 6)}


def test_a_quota_that_has_room_for_all_is_no_limit():
    pools, question = drawing(flavor(most=16, labels=BOTH))
    assert limits(question) == {}
    assert quota_lines(pools, "team-a") == []


def test_pools_of_flavors_of_their_own_share_nothing():
    quota = (flavor(most=4, labels={"pool": "p"}), flavor(most=4, labels={"pool": "r"}, name="g"))
    assert limits(drawing(*quota)[1]) == {}


def test_a_flavor_of_one_pool_is_left_to_it_beside_one_that_both_share():
    quota = (flavor(most=2, labels={"pool": "p"}), flavor(most=4, labels=BOTH, name="g"))
    pools, question = drawing(*quota)
    assert [pool.quota_gpus for pool in pools] == [6, 4]
    assert limits(question) == {"p+r": (("p", "p~2", "r"), 6)}


def test_flavors_that_overlap_in_a_chain_bound_pairs_and_all():
    """p draws on f and g, r on g and h: Hall's condition on p, on r, and on both."""
    quota = (
        flavor(most=2, labels={"pool": "p"}, name="f"),
        flavor(most=2, labels=BOTH, name="g"),
        flavor(most=2, labels={"pool": "r"}, name="h"),
    )
    pools, question = drawing(*quota)
    assert [pool.quota_gpus for pool in pools] == [4, 4]
    assert limits(question) == {"p+r": (("p", "r"), 6)}


def test_a_pool_whose_nodes_are_lost_leaves_one_limit_for_the_others():
    """p and r draw on f, s on f and g: without s, two sums are of p and r alone, and the smaller one counts."""
    quota = (
        flavor(most=8, labels={"team": "x"}, name="f"),
        flavor(most=2, labels={"pool": "s"}, name="g"),
    )
    assert limits(drawing(*quota, pools=("p", "r", "s"))[1]) == {
        "p+r": (("p", "r"), 8),
        "p+r+s": (("p", "r", "s"), 10),
    }
    assert limits(drawing(*quota, pools=("p", "r", "s"), away=("s",))[1]) == {"p+r": (("p", "r"), 8)}


def test_a_pool_of_a_flavor_without_a_limit_is_in_no_sum():
    quota = (flavor(most=None, labels={"pool": "p"}), flavor(most=4, labels=BOTH, name="g"))
    pools, question = drawing(*quota)
    assert [pool.quota_gpus for pool in pools] == [None, 4]
    assert limits(question) == {}


def test_the_plan_keeps_to_a_quota_that_two_pools_share():
    question = drawing(flavor(most=3, labels=BOTH))[1]
    busy = tuple(item.model_copy(update={"requests_per_second": 500.0}) for item in question.classes)
    assert gpus_of_the_answer(question.model_copy(update={"classes": busy})) == 3
    free = question.model_copy(update={"classes": busy, "quotas": ()})
    assert gpus_of_the_answer(free) == 6
