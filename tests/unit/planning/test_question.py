"""The question that a spec and its pools pose."""

import re

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import Fleet, PoolStock, StartTimes
from servingplan.model.question import canonical_json
from servingplan.model.world import Node, Observation, PlanObject, Pod, PoolObject, Taint
from servingplan.planning.availability import seen_of, with_stock
from servingplan.planning.cold_starts import with_starts
from servingplan.planning.inventory import read_pools
from servingplan.planning.known import known_of
from servingplan.planning.question import pose
from servingplan.planning.start_times import with_start_ups
from servingplan.solve import solve

RESIZE = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "p"}


def spec(model=None, pool=None, **more):
    return {
        "budget": {"dollarsPerHour": "30"},
        "models": [
            {
                "name": "llama-3.1-8b",
                "slo": {"ttftSeconds": "2", "tpotSeconds": "0.1"},
                "classes": [{"name": "chat", "inputTokens": 500, "outputTokens": 250, "requestsPerSecond": "5"}],
                **(model or {}),
            }
        ],
        "nodePools": [
            {
                "name": "p",
                "gpu": "H100-SXM-80GB",
                "gpusPerNode": 4,
                "dollarsPerNodeHour": "6",
                "nodeSelector": {"pool": "p"},
                **(pool or {}),
            }
        ],
        **more,
    }


def node(name, gpus=4, **more):
    return Node(name=name, labels={"pool": "p"}, gpus=gpus, ready=True, **more)


def foreign(name, on, gpus):
    return Pod(namespace="x", name=name, uid=name, gpus=gpus, created="", node=on, bound=True)


def posed(raw, *, incumbent=None, nodes=(), pods=(), wanted=None, start_times=None, boots=()):
    the_spec = PlanSpec.model_validate(raw)
    objects = ()
    if wanted is not None:
        objects = (PoolObject(pool="p", reference="r", wanted=wanted, allowed_namespaces=("*",)),)
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec=raw)
    world = Observation(now="2026-01-01T00:00:00Z", plan=plan, nodes=nodes, pods=pods, pools=objects)
    pools, errors = read_pools(the_spec, world, known_of(world))
    assert errors == ()
    pools = with_stock(with_starts(pools, start_times or {}), {"p": PoolStock(boot_seconds=boots)})
    return pose(spec=the_spec, pools=pools, incumbent=incumbent)


def stock(question):
    return {pool.name: (pool.gpus_per_node, pool.min_nodes, pool.max_nodes) for pool in question.pools}


def test_a_sized_pool_is_asked_about_from_floor_to_cap():
    found, errors = posed(spec(pool={"resize": RESIZE, "minNodes": 1, "maxNodes": 5}), wanted=0)
    assert errors == ()
    assert stock(found.question) == {"p": (4, 1, 5)}


def test_fixed_nodes_are_asked_about_by_what_is_free_on_them():
    nodes = (node("a"), node("b"), node("c"), node("d", schedulable=False))
    found, _ = posed(spec(), nodes=nodes, pods=(foreign("x", "b", 3), foreign("y", "c", 4)))
    assert stock(found.question) == {"p": (4, 0, 1), "p~1": (1, 0, 1)}
    assert {shape.gpus["p~1"] for shape in found.question.shapes if "p~1" in shape.gpus} == {1}


def test_nodes_that_foreign_pods_hold_are_paid_and_taken_from_the_cap():
    raw = spec(pool={"resize": RESIZE, "minNodes": 2, "maxNodes": 5})
    found, _ = posed(raw, wanted=2, nodes=(node("a"), node("b")), pods=(foreign("x", "a", 4),))
    assert stock(found.question) == {"p": (4, 1, 4)}
    assert found.question.budget_dollars_per_hour == 24


@pytest.mark.parametrize("free", [1, 0])
def test_a_node_that_takes_nobody_more_and_holds_pods_of_others_is_paid_and_is_no_node_to_come(free):
    closed = node("a", closing=(Taint(key="node.kubernetes.io/disk-pressure", value="", effect="NoSchedule"),))
    raw = PlanSpec.model_validate(spec(pool={"resize": RESIZE, "minNodes": 2, "maxNodes": 5}))
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
    world = Observation(
        now="2026-01-01T00:00:00Z",
        plan=plan,
        nodes=(closed, node("b")),
        pods=(foreign("x", "a", 4 - free),),
        pools=(PoolObject(pool="p", reference="r", wanted=2, allowed_namespaces=("*",)),),
    )
    (pool,) = read_pools(raw, world, known_of(world))[0]
    assert (pool.foreign_nodes, pool.boots, seen_of(pool).came) == (1, False, 2)
    found, _ = pose(spec=raw, pools=(pool,), incumbent=None)
    assert stock(found.question) == {"p": (4, 1, 4)}
    assert found.question.budget_dollars_per_hour == 24


def test_a_closed_node_that_holds_nobody_is_still_to_come():
    closed = node("a", closing=(Taint(key="karpenter.sh/unregistered", value="", effect="NoExecute"),))
    raw = PlanSpec.model_validate(spec(pool={"resize": RESIZE}))
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
    objects = (PoolObject(pool="p", reference="r", wanted=1, allowed_namespaces=("*",)),)
    world = Observation(now="2026-01-01T00:00:00Z", plan=plan, nodes=(closed,), pods=(), pools=objects)
    (pool,) = read_pools(raw, world, known_of(world))[0]
    assert (pool.foreign_nodes, pool.boots, seen_of(pool).came) == (0, True, 0)


def test_every_shape_fits_a_node_and_names_its_model():
    found, _ = posed(spec(), nodes=(node("a"),))
    assert all(sum(shape.gpus.values()) <= 4 for shape in found.question.shapes)
    assert set(found.shapes) == {shape.name for shape in found.question.shapes}


def test_a_model_that_nobody_knows_is_an_error_by_name():
    found, errors = posed(spec({"name": "nobody-knows"}), nodes=(node("a"),))
    assert found.question is None
    assert [error.field for error in errors] == ["spec.models[nobody-knows].name"]


def test_a_precision_that_nobody_knows_is_an_error():
    variants = [{"name": "odd", "source": "hf://x/y", "precision": "fp3"}]
    _, errors = posed(spec({"variants": variants}), nodes=(node("a"),))
    assert [error.field for error in errors] == ["spec.models[llama-3.1-8b].variants[odd].precision"]


def test_limits_that_no_gpu_meets_are_told_by_class():
    found, errors = posed(spec({"slo": {"tpotSeconds": "0.000001"}}), nodes=(node("a"),))
    assert errors == ()
    assert len(found.unfit) == 1
    assert "models[llama-3.1-8b].classes[chat]" in found.unfit[0]


def test_classes_that_would_fit_but_have_no_node_are_told():
    found, _ = posed(spec())
    assert found.question is None
    found, _ = posed(spec(pool={"maxNodes": 1}), nodes=(node("a"),), pods=(foreign("x", "a", 4),))
    assert found.question is None


def test_a_pool_without_a_price_is_left_out():
    raw = spec()
    del raw["nodePools"][0]["dollarsPerNodeHour"]
    found, _ = posed(raw, nodes=(node("a"),))
    assert found.question is None


def test_the_order_of_nodes_and_pods_does_not_matter():
    nodes = tuple(node(name) for name in "abc")
    pods = (foreign("x", "b", 3), foreign("y", "c", 4))
    one, _ = posed(spec(), nodes=nodes, pods=pods)
    other, _ = posed(spec(), nodes=nodes[::-1], pods=pods[::-1])
    assert canonical_json(one.question) == canonical_json(other.question)


def test_a_fleet_of_shapes_that_are_gone_is_no_incumbent():
    found, _ = posed(spec(), nodes=(node("a"),), incumbent=Fleet(nodes={"p": 1, "gone": 2}))
    assert found.question.running.nodes == {"p": 1}
    assert found.question.running.replicas == {}


@pytest.mark.parametrize(
    ("limit", "slo"),
    [
        ("ttftSeconds", {"ttftSeconds": "0.001", "tpotSeconds": "0.1"}),
        ("tpotSeconds", {"ttftSeconds": "2", "tpotSeconds": "0.0001"}),
    ],
)
def test_the_smallest_change_of_a_latency_limit_that_is_told_is_the_smallest_that_does(limit, slo):
    def unfit(value):
        return posed(spec({"slo": {**slo, limit: value}}), nodes=(node("a"),))[0].unfit

    (line,) = unfit(slo[limit])
    told = re.search(rf"{limit} {slo[limit]} to ([0-9.]+)$", line)[1]
    assert unfit(told) == ()
    assert unfit(f"{float(told) * 0.998:.8f}") != ()


def test_two_latency_limits_out_of_reach_have_no_change_of_one_alone():
    (line,) = posed(spec({"slo": {"ttftSeconds": "0.001", "tpotSeconds": "0.0001"}}), nodes=(node("a"),))[0].unfit
    assert line.endswith("no change of one latency limit alone does")


def test_a_more_careful_plan_counts_on_lower_rates_and_says_so():
    def rates(**planning):
        question = posed(spec(planning=planning) if planning else spec(), nodes=[node("a")])[0].question
        return {shape.name: shape.requests_per_second["llama-3.1-8b/chat"] for shape in question.shapes}

    bold, usual, careful = rates(confidence="0.5"), rates(), rates(confidence="0.99")
    assert usual == rates(confidence=str(PlanSpec.model_validate(spec()).planning.confidence))
    for name in usual:
        # A shape that keeps the limits no more at that confidence is left out.
        assert careful.get(name, 0.0) < usual[name] < bold[name]
    assert len(careful) > 1


def chat_rates(pool=None, model=None, **more):
    question = posed(spec(model, pool), nodes=[node("a")], **more)[0].question
    return {shape.name: shape.requests_per_second["llama-3.1-8b/chat"] for shape in question.shapes}


def test_nodes_that_are_taken_away_carry_their_rate_for_the_rest_of_the_time_only():
    """A loss each four hours, of 300 s of boot and 1,500 s of start-up: up for 4 of 4.5 hours."""
    quick = {"engine": {"startupSeconds": 1500}}
    steady, spot = chat_rates(model=quick), chat_rates({"interruptionsPerNodeHour": "0.25"}, quick)
    assert spot == pytest.approx({name: rate * 8 / 9 for name, rate in steady.items()})


def test_a_loss_costs_less_where_replicas_start_sooner():
    pool = {"interruptionsPerNodeHour": "0.25"}
    slow, quick = chat_rates(pool), chat_rates(pool, {"engine": {"startupSeconds": 60}})
    assert all(slow[name] < quick[name] for name in slow)


def test_a_loss_costs_what_starts_were_seen_to_take():
    """300 s of boot, and 1,500 s of start-up, the longest that was seen."""
    pool = PlanSpec.model_validate(spec()).node_pools[0].name
    times = {f"llama-3.1-8b/bf16/{pool}": StartTimes(seconds=(600.0, 1499.0))}
    steady = chat_rates(start_times=times)
    spot = chat_rates({"interruptionsPerNodeHour": "0.25"}, start_times=times)
    assert spot == pytest.approx({name: rate * 8 / 9 for name, rate in steady.items()})


def test_what_a_start_costs_is_told_of_variants_that_started_and_changes_nothing_else():
    times = {"llama-3.1-8b/bf16/p": StartTimes(seconds=(300.0, 400.0))}
    found = posed(spec(pool={"resize": RESIZE}), wanted=1, start_times=times, boots=(50.0, 60.0))[0]
    timed = with_start_ups(found.question, found.shapes)
    assert {shape.startup_seconds for shape in timed.shapes} == {60 + 400}
    assert solve(timed).replicas == solve(found.question).replicas
    unknown = posed(spec(pool={"resize": RESIZE}), wanted=1)[0]
    assert with_start_ups(unknown.question, unknown.shapes) == unknown.question


@pytest.mark.parametrize(("losses", "chosen"), [("0", "spot"), ("0.05", "spot"), ("6", "h100")])
def test_cheap_nodes_that_are_lost_too_often_are_not_the_cheapest(losses, chosen):
    raw = spec()
    (pool,) = raw["nodePools"]
    raw["nodePools"] = [
        {**pool, "name": "h100", "nodeSelector": {"pool": "h100"}},
        {**pool, "name": "spot", "nodeSelector": {"pool": "spot"}, "dollarsPerNodeHour": "3", "capacityType": "Spot"}
        | {"interruptionsPerNodeHour": losses},
    ]
    raw["models"][0]["classes"][0]["requestsPerSecond"] = "130"
    nodes = [
        Node(name=f"{name}-{index}", labels={"pool": name}, gpus=4, ready=True)
        for name in ("h100", "spot")
        for index in range(3)
    ]
    answer = solve(posed(raw, nodes=nodes)[0].question, method="exact")
    assert [name for name, count in answer.nodes.items() if count] == [chosen]
