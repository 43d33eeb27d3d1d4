"""Which shapes exist: what is enumerated, what each step prunes, where replicas over nodes may be."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.cli.files import read_plan
from servingplan.cli.imagine import imagined_world
from servingplan.model.world import Node
from servingplan.planning import words
from servingplan.planning.layouts import MOST_STAGES, connected, zone_of
from servingplan.planning.question import pose
from servingplan.planning.shapes import STEPS
from servingplan.planning.situation import Situation
from servingplan.solve import solve
from servingplan.solve.problem.dominance import count_dominated
from servingplan.solve.problem.instance import instance_of
from servingplan.verify import verify

FLAT = {
    "parameters": 8_000_000_000,
    "layers": 3,
    "hiddenSize": 4096,
    "attentionHeads": 32,
    "kvHeads": 8,
    "headDim": 128,
}
SOMEWHERE = {"name": "bf16", "source": "pvc://weights/flat"}
REPOSITORY = Path(__file__).resolve().parents[3]
GOLDEN = REPOSITORY / "tests/golden/pruned"


def pool(name, gpu="A100-SXM4-80GB", gpus=8, zone="z1", price="20", most=4, **more):
    return {
        "name": name,
        "gpu": gpu,
        "gpusPerNode": gpus,
        "dollarsPerNodeHour": price,
        "maxNodes": most,
        "nodeSelector": {"pool": name},
        "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": name},
        **({"zone": zone} if zone else {}),
        **more,
    }


def plan(*pools, model="llama-3.1-70b", **more):
    return {
        "metadata": {"name": "chat", "namespace": "llm"},
        "spec": {
            "budget": {"dollarsPerHour": "200"},
            "models": [
                {
                    "name": model,
                    "slo": {"ttftSeconds": "10", "tpotSeconds": "0.3"},
                    "classes": [{"name": "chat", "inputTokens": 496, "outputTokens": 253, "requestsPerSecond": "1"}],
                    **more,
                }
            ],
            "nodePools": list(pools),
        },
    }


def pools_of(manifest, nodes=()):
    world = imagined_world(manifest)
    situation = Situation(world.model_copy(update={"nodes": (*world.nodes, *nodes)}))
    assert situation.pool_errors == ()
    return situation.spec, situation.pools


def posed(manifest, *, across_nodes, across_types=None):
    """Across nodes, also across types, unless said otherwise."""
    spec, pools = pools_of(manifest)
    across_types = across_nodes if across_types is None else across_types
    found, errors = pose(spec=spec, pools=pools, incumbent=None, across_nodes=across_nodes, across_types=across_types)
    assert errors == ()
    return found


def layouts(found):
    return {facts.key: facts.layout for facts in found.shapes.values()}


GPUS = st.sampled_from(["A100-SXM4-80GB", "H100-SXM-80GB", "L40S", "L4"])
POOLS = st.lists(
    st.tuples(GPUS, st.sampled_from([1, 2, 4, 6, 8]), st.sampled_from([None, "z1", "z2"]), st.integers(0, 5)),
    min_size=1,
    max_size=3,
)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    pools=POOLS,
    model=st.sampled_from(["llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"]),
    tpot=st.sampled_from(["0.3", "0.02"]),
    across_nodes=st.booleans(),
)
def test_every_candidate_is_kept_or_counted_where_it_fell(pools, model, tpot, across_nodes):
    manifest = plan(
        *(pool(f"p{i}", gpu, gpus, zone, most=most) for i, (gpu, gpus, zone, most) in enumerate(pools)),
        model=model,
        slo={"ttftSeconds": "10", "tpotSeconds": tpot},
    )
    found = posed(manifest, across_nodes=across_nodes)
    kept = layouts(found)
    assert found.candidates == len(kept) + sum(found.pruned.values())
    assert set(found.pruned) <= set(STEPS)
    assert found.candidates == posed(manifest, across_nodes=not across_nodes).candidates
    for layout in kept.values():
        whole = {leg.pool.name: leg.pool.gpus_per_node for leg in layout.legs}
        assert across_nodes or layout.inside_a_node
        for leg in layout.legs:
            gpus = layout.gpus(leg)
            assert layout.tensor_parallel <= whole[leg.pool.name]
            assert gpus <= whole[leg.pool.name] or gpus % whole[leg.pool.name] == 0
            assert layout.nodes(leg) <= leg.pool.spec.max_nodes or layout.inside_a_node
        if not layout.inside_a_node:
            assert layout.pipeline_parallel <= MOST_STAGES
            assert len({leg.pool.spec.zone for leg in layout.legs} - {None}) == 1
    for facts in found.shapes.values():
        held = sum(facts.layers)
        assert facts.layout.inside_a_node == (held == 0)
        assert held in (0, 32, 80, 126)


@pytest.mark.parametrize("across_nodes", [False, True])
def test_the_counts_of_the_example_are_known(across_nodes):
    manifest = read_plan(str(REPOSITORY / "examples/chat.yaml"))
    for item in manifest["spec"]["nodePools"][:2]:
        item["zone"] = "z1"
    found = posed(manifest, across_nodes=across_nodes)
    counts = {
        "candidates": found.candidates,
        "kept": len(layouts(found)),
        "pruned": dict(found.pruned),
        "dominated": count_dominated(found.question),
    }
    path = GOLDEN / f"chat-{'across-nodes' if across_nodes else 'inside-nodes'}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
    assert counts == json.loads(path.read_text()), "UPDATE_GOLDEN=1 writes the files anew"


def test_dominated_shapes_are_those_that_the_solver_drops():
    found = posed(plan(pool("a"), pool("l", "L40S")), across_nodes=True)
    assert count_dominated(found.question) == len(found.question.shapes) - len(instance_of(found.question).shapes) > 0


def test_every_step_happens():
    seen = set()
    seen |= set(posed(plan(pool("a"), pool("l", "L40S")), across_nodes=True, across_types=False).pruned)
    for manifest, across_nodes in (
        (plan(pool("a"), pool("b", zone=None)), False),
        (plan(pool("a"), engine={"image": "vllm/vllm-openai:v0.11.0"}), True),
        (plan(pool("a"), pool("l", "L40S", zone=None, most=0)), True),
        (plan(pool("a"), slo={"tpotSeconds": "0.000001"}), True),
        (plan(pool("a"), model="flat", card=FLAT, variants=[SOMEWHERE]), True),
        (plan(pool("a"), model="Qwen/Qwen3-30B-A3B-FP8"), False),
        (plan(pool("a"), model="Qwen/Qwen3-30B-A3B-FP8", maxModelLen=50_000), False),
    ):
        seen |= set(posed(manifest, across_nodes=across_nodes).pruned)
    # The spec itself refuses a maxModelLen below its classes.
    assert seen == set(STEPS) - {"ContextTooShort"}
    assert set(STEPS) <= set(words._PRUNED)


def test_without_the_api_nothing_spans_nodes():
    found = posed(plan(pool("a"), pool("l", "L40S")), across_nodes=False)
    assert all(layout.inside_a_node for layout in layouts(found).values())


@pytest.mark.parametrize(
    ("engine", "spans"),
    [
        ({}, True),
        ({"image": "vllm/vllm-openai:v0.12.0"}, True),
        ({"image": "vllm/vllm-openai:v0.11.1"}, True),
        ({"image": "vllm/vllm-openai:v0.11.0"}, False),
        ({"image": "vllm/vllm-openai:v0.11"}, False),
        ({"image": "mirror/engine:7", "version": "0.12.1"}, True),
        ({"image": "mirror/engine:7"}, False),
    ],
)
def test_an_engine_that_cannot_span_nodes_by_itself_has_no_such_shapes(engine, spans):
    found = posed(plan(pool("a"), engine=engine), across_nodes=True)
    assert any(not layout.inside_a_node for layout in layouts(found).values()) == spans
    assert ("EngineTooOld" in found.pruned) != spans


def test_a_plan_that_is_to_be_applied_has_no_replicas_over_two_types():
    found = posed(plan(pool("a"), pool("l", "L40S")), across_nodes=True, across_types=False)
    assert all(len(layout.legs) == 1 for layout in layouts(found).values())
    assert any(not layout.inside_a_node for layout in layouts(found).values())


def test_replicas_span_nodes_of_one_zone_only():
    def spans(*pools):
        return {
            tuple(leg.pool.name for leg in layout.legs)
            for layout in layouts(posed(plan(*pools), across_nodes=True)).values()
            if not layout.inside_a_node
        }

    assert spans(pool("a"), pool("l", "L40S")) == {("a",), ("l",), ("a", "l")}
    assert spans(pool("a"), pool("l", "L40S", zone="z2")) == {("a",), ("l",)}
    assert spans(pool("a", zone=None), pool("l", "L40S")) == {("l",)}
    assert spans(pool("a", zone=None), pool("l", "L40S", zone=None)) == set()


def test_fixed_nodes_tell_their_zone_by_their_labels():
    fixed = pool("a", zone=None)
    del fixed["resize"]
    labels = [{"pool": "a", "topology.kubernetes.io/zone": zone} for zone in ("z1", "z1", "z2")]
    nodes = [Node(name=f"n{i}", labels=label, gpus=8, ready=True) for i, label in enumerate(labels)]

    def zone(some):
        world = imagined_world(plan(fixed)).model_copy(update={"nodes": tuple(some)})
        return zone_of(Situation(world).pools[0])

    assert zone(nodes[:2]) == "z1"
    assert zone(nodes) is None
    assert zone([]) is None
    _, (sized,) = pools_of(plan(pool("a", zone=None)), nodes=nodes[:2])
    assert zone_of(sized) is None
    assert not connected(sized, sized)


def test_a_model_too_large_for_any_node_is_told_what_it_would_take():
    found = posed(plan(pool("a"), model="llama-3.1-405b"), across_nodes=False)
    (line,) = found.unfit
    assert "8 x A100-SXM4-80GB leave" in line
    assert "it would fit over 2 nodes of pool a (TP8, PP2) with LeaderWorkerSets" in line
    (line,) = posed(plan(pool("a", zone=None), model="llama-3.1-405b"), across_nodes=True).unfit
    assert "it would fit over 2 nodes of pool a (TP8, PP2) with spec.nodePools[a].zone, since" in line
    assert "LeaderWorkerSets" not in line
    old = {"image": "vllm/vllm-openai:v0.9.1"}
    (line,) = posed(plan(pool("a"), model="llama-3.1-405b", engine=old), across_nodes=True).unfit
    assert "with vLLM 0.11.1 or newer, which spans nodes without Ray; the engine's version is 0.9.1" in line
    (line,) = posed(plan(pool("a"), slo={"tpotSeconds": "0.000001"}), across_nodes=False).unfit
    assert "would fit" not in line


def test_a_model_too_large_for_any_node_is_served_over_nodes():
    found = posed(plan(pool("a"), pool("l", "L40S"), model="llama-3.1-405b"), across_nodes=True)
    assert found.unfit == ()
    answer = solve(found.question)
    assert verify(found.question, answer) == ()
    assert answer.status == "Optimal"
    assert answer.unserved == {}


def test_rates_of_arrival_do_not_move_layers():
    def split(first, second):
        long_in = {"name": "long", "inputTokens": 2455, "outputTokens": 18, "match": {"inputTokensAtLeast": 1476}}
        chat = {"name": "chat", "inputTokens": 496, "outputTokens": 253}
        classes = [{**long_in, "requestsPerSecond": first}, {**chat, "requestsPerSecond": second}]
        found = posed(plan(pool("a"), pool("l", "L40S"), classes=classes), across_nodes=True)
        return {facts.key: facts.layers for facts in found.shapes.values()}

    assert split("1", "100") == split("100", "1")


def test_the_order_of_pools_does_not_matter():
    one = posed(plan(pool("a"), pool("l", "L40S")), across_nodes=True)
    other = posed(plan(pool("l", "L40S"), pool("a")), across_nodes=True)
    assert one.question == other.question
