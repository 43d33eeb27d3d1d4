"""What the pods of a replica ask of their node beside GPUs."""

from dataclasses import replace

from servingplan.api.models_v1alpha1 import Model
from servingplan.model.fleet import PoolStock
from servingplan.planning.layouts import Layout, Leg
from servingplan.planning.needs import SHARE_TO_ASK_FOR, needs_of
from tests.unit.rollout.builders import node, pool

MODEL = Model.model_validate({"name": "m"})
GIB = 2**30
LARGE = {"cpu_millicores": 192_000, "memory_bytes": 2000 * GIB}


def needs(*nodes, tensor_parallel=2, stages=1, weight_bytes=16e9, stock=None, model=MODEL, learned=None):
    found = replace(pool(*nodes, wanted=len(nodes)), stock=stock)
    return needs_of(model, Layout(tensor_parallel, (Leg(found, stages),)), weight_bytes, learned)


def test_a_core_for_each_process_and_memory_by_the_weights():
    found = needs(node("a", **LARGE))
    assert found.cpu_millicores == 4000
    assert 16e9 + 7 * GIB < found.memory_bytes < 16e9 + 9 * GIB
    assert needs(node("a", **LARGE), weight_bytes=140e9).memory_bytes > 140e9


def test_no_more_than_a_part_of_what_the_smallest_node_has_for_its_gpus():
    small = node("b", cpu_millicores=8000, memory_bytes=64 * GIB)
    found = needs(node("a", **LARGE), small)
    assert found.cpu_millicores == SHARE_TO_ASK_FOR * 8000 * 2 / 8
    assert found.memory_bytes == SHARE_TO_ASK_FOR * 64 * GIB * 2 / 8
    everywhere = needs(small, tensor_parallel=8)
    assert everywhere.memory_bytes <= SHARE_TO_ASK_FOR * 64 * GIB


def test_nothing_is_asked_for_where_no_node_says_what_it_has():
    for found in (needs(), needs(node("a")), needs(node("a", gpus=0, **LARGE))):
        assert (found.cpu_millicores, found.memory_bytes) == (None, None)


def test_a_pool_without_nodes_is_asked_by_the_nodes_that_were_last_there():
    stock = PoolStock(node_cpu_millicores=8000, node_memory_bytes=64 * GIB)
    assert needs(stock=stock) == needs(node("b", cpu_millicores=8000, memory_bytes=64 * GIB))


def test_each_pod_of_a_replica_over_nodes_asks_for_its_part():
    whole, half = needs(node("a", **LARGE), tensor_parallel=8), needs(node("a", **LARGE), tensor_parallel=8, stages=2)
    assert half.memory_bytes - 8 * GIB < (whole.memory_bytes - 8 * GIB) / 2 + GIB
    assert half.cpu_millicores == whole.cpu_millicores == 10_000


def test_pods_of_a_replica_over_two_pools_ask_for_what_the_nodes_of_both_have():
    """They are all made alike: what only one pool has would keep the stages on the other one from starting."""
    small = {"cpu_millicores": 8000, "memory_bytes": 64 * GIB}

    def over(first, second):
        pools = [pool(node(name, **has), name=name, wanted=1) for name, has in (first, second)]
        return needs_of(MODEL, Layout(8, tuple(Leg(item, 1) for item in pools)), 800e9, None)

    alone = needs(node("a", **small), tensor_parallel=8, stages=2, weight_bytes=800e9)
    assert over(("a", LARGE), ("b", small)) == over(("a", small), ("b", LARGE)) == alone
    assert over(("a", LARGE), ("b", {})).memory_bytes is None


def test_nodes_of_one_type_that_differ_by_little_ask_for_the_same():
    small = 64 * GIB + 3000
    assert needs(node("a", memory_bytes=small)) == needs(node("a", memory_bytes=small + 4096))


def test_how_long_it_may_take_is_part_of_it():
    declared = Model.model_validate({"name": "m", "engine": {"startupSeconds": 77}})
    assert needs(model=declared).start_limit_seconds == 77
    assert needs(learned=5000.0).start_limit_seconds >= 10_000
