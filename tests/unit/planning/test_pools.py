"""What pools are and cost, from the spec and what was observed."""

import math

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import Fleet, NodeGroup, ReplicaSet
from servingplan.model.world import Node, NodeTemplate, Observation, PlanObject, Pod, PoolObject
from servingplan.planning.fleet import within_budget
from servingplan.planning.inventory import read_pools
from servingplan.planning.known import known_of
from servingplan.planning.pools import total_spend
from servingplan.planning.question import pose

RESIZE = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "np"}


def spec(*pools):
    return PlanSpec.model_validate(
        {"budget": {"dollarsPerHour": "100"}, "models": [{"name": "llama-3.1-8b"}], "nodePools": list(pools)}
    )


def item(name="p", **more):
    return {
        "name": name,
        "gpu": "L40S",
        "gpusPerNode": 4,
        "dollarsPerNodeHour": "2",
        "nodeSelector": {"pool": "p"},
        **more,
    }


def node(name, gpus=4, labels=(("pool", "p"),)):
    return Node(name=name, labels=dict(labels), gpus=gpus, ready=True)


def pod(name, on, gpus, deployment=None, namespace="llm"):
    return Pod(
        namespace=namespace, name=name, uid=name, gpus=gpus, created="", node=on, bound=True, deployment=deployment
    )


def world(**parts):
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
    return Observation(now="2026-01-01T00:00:00Z", plan=plan, **parts)


def sizing(**more):
    return PoolObject(**{"pool": "p", "reference": "r", "wanted": 0, "allowed_namespaces": ("llm",), **more})


def read(the_spec, **parts):
    seen = world(**parts)
    pools, errors = read_pools(the_spec, seen, known_of(seen))
    assert errors == ()
    return pools


def test_a_sized_pool_costs_what_is_asked_for_or_what_exists_whichever_is_more():
    for wanted, actual, nodes, spend in [(3, 1, 1, 6), (1, 3, 1, 6), (0, 0, 2, 4), (0, 0, 0, 0)]:
        (pool,) = read(
            spec(item(resize=RESIZE)),
            nodes=tuple(node(f"n{index}") for index in range(nodes)),
            pools=(sizing(wanted=wanted, actual=actual),),
        )
        assert pool.spend == spend


def test_fixed_nodes_cost_only_where_they_hold_our_replicas():
    (pool,) = read(spec(item()), nodes=(node("a"), node("b")), pods=(pod("ours", "a", 1, "d"), pod("theirs", "b", 2)))
    assert (pool.spend, pool.occupied) == (2, 1)
    assert [(found.free_gpus, found.unused_gpus) for found in pool.nodes] == [(4, 3), (2, 2)]


def test_a_pod_of_the_same_label_in_another_namespace_is_foreign():
    (pool,) = read(spec(item()), nodes=(node("a"),), pods=(pod("x", "a", 1, "d", namespace="other"),))
    assert pool.nodes[0].foreign_gpus == 1


def test_spend_is_unknown_without_a_price():
    nameless = {key: value for key, value in item(resize=RESIZE).items() if key != "dollarsPerNodeHour"}
    assert math.isnan(total_spend(read(spec(nameless), pools=(sizing(),))))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"claimed_by": "llm/other"}, "ClaimedByOther"),
        ({"allowed_namespaces": ()}, "NotAllowed"),
        ({"problem_reason": "PoolMissing", "problem": "is not there"}, "PoolMissing"),
    ],
)
def test_a_pool_that_is_not_ours_to_size_is_planned_without_and_costs_us_nothing(found, reason):
    (pool,) = read(spec(item(resize=RESIZE)), nodes=(node("a"),), pools=(sizing(**found),))
    assert pool.problem is not None
    assert (pool.problem.reason, pool.spend, pool.sized_by_us) == (reason, 0, False)


def test_a_size_that_somebody_else_set_is_a_conflict_and_still_costs():
    mine = sizing(wanted=3, asked=1, claimed_by="llm/chat")
    (pool,) = read(spec(item(resize=RESIZE)), pools=(mine,))
    assert pool.conflict is not None
    assert (pool.conflict.reason, pool.spend, pool.sized_by_us) == ("FieldOwnershipConflict", 6, False)


def test_a_node_that_two_selectors_match_is_planned_once():
    pools = read(spec(item("p"), item("q")), nodes=(node("a"),))
    assert [len(pool.nodes) for pool in pools] == [1, 0]


def test_gpu_type_and_count_are_read_from_the_nodes_where_the_spec_is_silent():
    bare = {"name": "p", "nodeSelector": {"pool": "p"}, "dollarsPerNodeHour": 1}
    labels = (("pool", "p"), ("nvidia.com/gpu.product", "NVIDIA-L40S"))
    (pool,) = read(spec(bare), nodes=(node("a", 4, labels),))
    assert pool.gpu is not None
    assert (pool.gpu.name, pool.gpus_per_node) == ("L40S", 4)


def test_a_pool_that_nothing_describes_is_an_error_with_advice():
    bare = {"name": "p", "nodeSelector": {"pool": "p"}, "resize": RESIZE}
    seen = world(pools=(sizing(),))
    _, errors = read_pools(spec(bare), seen, known_of(seen))
    assert [error.field for error in errors] == ["spec.nodePools[p].gpu", "spec.nodePools[p].gpusPerNode"]


# --- what stays of a plan when prices or the budget change ------------------------------------------------------------


def running(priority_by_name, *, per_node):
    sets = tuple(
        ReplicaSet(
            deployment=name,
            model=name,
            variant="bf16",
            pool="p",
            gpu="L40S",
            tensor_parallel=1,
            pipeline_parallel=1,
            replicas=2,
            planned={"chat": 2.0},
            capacity={"chat": 1.0},
            priority=priority,
            error_band=0.1,
            source="measured",
        )
        for name, priority in priority_by_name.items()
    )
    groups = tuple(NodeGroup(pool="p", nodes=count, free_gpus=4, replicas=content) for count, content in per_node)
    return Fleet(replica_sets=sets, nodes={"p": sum(count for count, _ in per_node)}, groups=groups)


def test_a_plan_that_costs_more_than_the_budget_loses_its_least_important_nodes():
    pools = read(spec(item(resize=RESIZE)), pools=(sizing(),))
    fleet = running({"low": 1, "high": 9}, per_node=[(2, {"low": 1}), (2, {"high": 1})])
    assert within_budget(fleet, pools, 8.0) is fleet
    left = within_budget(fleet, pools, 6.0)
    assert {one.deployment: (one.replicas, one.planned["chat"]) for one in left.replica_sets} == {
        "low": (1, 1.0),
        "high": (2, 2.0),
    }
    assert left.nodes == {"p": 3}
    assert within_budget(fleet, pools, 0.0).replica_sets == ()


def test_a_replica_over_several_nodes_goes_with_all_of_them():
    pools = read(spec(item(resize=RESIZE)), pools=(sizing(),))
    fleet = running({"wide": 1}, per_node=[(4, {"wide": 1})])
    (wide,) = fleet.replica_sets
    fleet = fleet.model_copy(update={"replica_sets": (wide.model_copy(update={"nodes": 2}),)})
    for budget in (6.0, 4.0):
        left = within_budget(fleet, pools, budget)
        assert ([one.replicas for one in left.replica_sets], left.nodes) == ([1], {"p": 2})
    assert within_budget(fleet, pools, 2.0).replica_sets == ()


def test_nodes_below_the_floor_save_nothing_and_are_kept():
    pools = read(spec(item(resize=RESIZE, minNodes=2)), pools=(sizing(),))
    fleet = running({"low": 1}, per_node=[(2, {"low": 1})])
    assert within_budget(fleet, pools, 0.0) == fleet


@pytest.mark.parametrize(("ceiling", "least", "most"), [(None, 2, 6), (4, 2, 4), (1, 1, 1), (9, 2, 6)])
def test_the_owner_of_a_pool_bounds_every_plan(ceiling, least, most):
    (pool,) = read(spec(item(resize=RESIZE, minNodes=2, maxNodes=6)), pools=(sizing(max_nodes=ceiling),))
    assert (pool.spec.min_nodes, pool.spec.cap) == (least, most)


# --- what the pool's object says --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "least", "most"),
    [
        ({"min_nodes": 1, "max_nodes": 5}, 1, 5),
        ({"min_nodes": 4}, 4, 6),
        ({"min_nodes": 8}, 8, 8),
        ({"step": 4}, 0, 4),
        ({"step": 4, "min_nodes": 1}, 4, 4),
        ({"step": 3, "max_nodes": 5}, 0, 3),
    ],
)
def test_bounds_and_steps_of_the_object_hold_for_the_plan(bounds, least, most):
    (pool,) = read(spec(item(resize=RESIZE, maxNodes=6)), pools=(sizing(**bounds),))
    assert (pool.spec.min_nodes, pool.spec.cap) == (least, most)


def test_a_pool_that_another_autoscaler_sizes_is_not_taken():
    (pool,) = read(spec(item(resize=RESIZE)), nodes=(node("a"),), pools=(sizing(sized_by="the autoscaler of X"),))
    assert (pool.problem.reason, pool.spend, pool.sized_by_us) == ("SizedByOther", 0, False)
    assert "NodePool np is sized by the autoscaler of X" in pool.problem.message


def test_one_that_the_plan_has_is_left_alone_and_still_costs():
    mine = sizing(wanted=3, asked=3, claimed_by="llm/chat", sized_by="the autoscaler of X")
    (pool,) = read(spec(item(resize=RESIZE)), pools=(mine,))
    assert pool.problem is None
    assert (pool.conflict.reason, pool.spend, pool.sized_by_us) == ("SizedByOther", 6, False)


def test_what_the_object_states_need_not_be_declared_again():
    labels = {"node.kubernetes.io/instance-type": "p5.48xlarge", "topology.kubernetes.io/zone": "us-east-1a"}
    says = NodeTemplate(labels=labels, gpus_per_node=8, capacity_type="Spot")
    bare = {"name": "p", "nodeSelector": {"pool": "p"}, "dollarsPerNodeHour": 1, "resize": RESIZE}
    (pool,) = read(spec(bare), pools=(sizing(template=says),))
    assert (pool.gpu.name, pool.gpus_per_node) == ("H100-SXM-80GB", 8)
    assert (pool.spec.capacity_type, pool.spec.zone) == ("Spot", "us-east-1a")


def test_nodes_know_their_gpus_better_than_the_object():
    says = NodeTemplate(labels={"nvidia.com/gpu.product": "NVIDIA-L40S"}, gpus_per_node=8)
    bare = {"name": "p", "nodeSelector": {"pool": "p"}, "dollarsPerNodeHour": 1, "resize": RESIZE}
    labels = (("pool", "p"), ("nvidia.com/gpu.product", "NVIDIA-L4"))
    seen = world(nodes=(node("a", 4, labels),), pools=(sizing(template=says),))
    pools, errors = read_pools(spec(bare), seen, known_of(seen))
    assert errors == ()
    assert (pools[0].gpu.name, pools[0].gpus_per_node) == ("L4-24GB", 4)


def test_what_rounding_up_to_a_step_may_cost_is_kept_back_from_the_budget():
    zones = sizing(step=3)
    pools = read(spec(item(resize=RESIZE, maxNodes=9)), pools=(zones,))
    posed, errors = pose(spec=spec(item(resize=RESIZE, maxNodes=9)), pools=pools, incumbent=None)
    assert errors == ()
    assert posed.question.budget_dollars_per_hour == 100 - 2 * 2


def test_a_budget_that_falls_takes_whole_steps():
    pools = read(spec(item(resize=RESIZE, maxNodes=9)), pools=(sizing(step=3, wanted=6),))
    fleet = running({"low": 1}, per_node=[(6, {"low": 1})])
    assert within_budget(fleet, pools, 12.0).nodes == {"p": 6}
    assert within_budget(fleet, pools, 11.0).nodes == {"p": 3}
