"""A fleet on its clock: nothing is lost or served twice, memory is kept, routing is as planned."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.answering import solve_with
from servingplan.cli.imagine import imagined_world
from servingplan.decide.decide import decide
from servingplan.errors import InputError
from servingplan.model.fleet import PipelineStage
from servingplan.planning.situation import Situation
from servingplan.replay.events import PoolEvent
from servingplan.replay.fleet import Shapes
from servingplan.replay.generate import Stream, generated
from servingplan.replay.run import Replay
from servingplan.replay.trace import Arrival

MANIFEST = {
    "metadata": {"name": "small", "namespace": "llm"},
    "spec": {
        "budget": {"dollarsPerHour": "20"},
        "models": [
            {
                "name": "llama-3.1-8b",
                "slo": {"ttftSeconds": "2", "tpotSeconds": "0.1", "percentile": 95},
                "maxModelLen": 4096,
                "classes": [
                    {"name": "long", "inputTokens": 2000, "outputTokens": 40, "requestsPerSecond": "3"},
                    {"name": "short", "inputTokens": 200, "outputTokens": 100, "requestsPerSecond": "10"},
                ],
            }
        ],
        "nodePools": [
            {
                "name": "l40s",
                "gpu": "L40S",
                "gpusPerNode": 1,
                "dollarsPerNodeHour": "2",
                "maxNodes": 6,
                "nodeSelector": {"pool": "l40s"},
                "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "l40s"},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def situation():
    return Situation(imagined_world(MANIFEST))


@pytest.fixture(scope="module")
def fleet(situation):
    return decide(situation, solve_with()).fleet


@pytest.fixture(scope="module")
def shapes(situation):
    return Shapes(situation.spec, situation.known.catalogue)


@pytest.fixture
def start(situation, fleet, shapes):
    def begin(**how):
        return Replay(how.pop("fleet", fleet), situation, shapes, **how)

    return begin


lengths = st.integers(min_value=1, max_value=4500)
arrivals = st.lists(st.tuples(st.floats(0, 2), lengths, lengths), min_size=1, max_size=80)
happenings = st.lists(
    st.builds(
        PoolEvent,
        at=st.floats(0, 100),
        event=st.sampled_from(["NodeLost", "Slow"]),
        pool=st.just("l40s"),
        seconds=st.none() | st.floats(1, 50),
        factor=st.floats(0.5, 4),
    ),
    max_size=8,
)


@settings(max_examples=25)
@given(
    arrivals,
    happenings,
    st.sampled_from(["weights", "least-request", "round-robin", "prefix-aware"]),
)
def test_every_request_has_one_end_and_memory_is_kept(situation, fleet, shapes, gaps, events, balancing):
    replay = Replay(fleet, situation, shapes, balancing=balancing, events=events)
    now, sent, seen = 0.0, [], []
    for gap, prompt, output in gaps:
        now += gap
        name = "long" if prompt > 1000 else "short"
        sent.append(Arrival(now, "llama-3.1-8b", name, prompt, output, tuple(range(output % 3, prompt // 512))))

    def watched():
        for arrival in sent:
            for replica in replay.replicas:
                engine = replica.engine
                assert 0 <= engine.free_blocks <= engine.pace.kv_blocks
                assert engine.next_time is None or engine.next_time >= 0
                assert len(replica.open) == engine.running + engine.waiting
            yield arrival
            seen.append(arrival)

    outcome = replay.run(watched())
    for item in outcome.classes:
        assert item.arrived == item.finished + item.turned_away + item.too_long + item.cut
        assert item.arrived == sum(arrival.name == item.name for arrival in sent)
        assert item.in_time <= item.finished == item.ttft.count == item.end_to_end.count
        if item.finished:
            assert 0 < item.ttft.smallest <= item.end_to_end.largest
    too_long = sum(arrival.prompt_tokens + arrival.output_tokens > 4096 for arrival in sent)
    assert sum(item.too_long for item in outcome.classes) <= too_long
    assert all(not replica.open and replica.engine.idle for replica in outcome.replicas)
    assert all(replica.engine.free_blocks == replica.engine.pace.kv_blocks for replica in outcome.replicas)
    assert outcome.seconds >= outcome.arrival_seconds == sent[-1].at


def test_at_the_planned_rates_the_promise_is_kept_and_above_what_is_there_it_is_not(start, situation):
    planned = start().run(generated(situation.spec, Stream(400.0)))
    assert all(item.in_time >= 0.95 * item.arrived for item in planned.classes)
    flooded = start().run(generated(situation.spec, Stream(100.0, faster=4.0)))
    assert all(item.in_time < 0.5 * item.arrived for item in flooded.classes)


def test_the_same_seed_gives_the_same_figures(start, situation):
    def figures(seed):
        found = start(seed=seed).run(generated(situation.spec, Stream(60.0)))
        return [(item.arrived, item.in_time, item.ttft.percentiles()) for item in found.classes]

    assert figures(1) == figures(1)


def test_a_class_is_split_by_its_weights_and_its_rest_is_turned_away(start, situation, fleet):
    (item,) = [found for found in fleet.replica_sets if found.replicas > 0][:1]
    served = {"long": 1.0, "short": 10.0}
    twin = item.model_copy(
        update={"deployment": "twin", "planned": {name: 3 * rate for name, rate in item.planned.items()}}
    )
    classes = tuple(
        found.model_copy(update={"planned_requests_per_second": served[found.name]}) for found in fleet.classes
    )
    both = fleet.model_copy(update={"replica_sets": (item, twin), "groups": (), "classes": classes})
    outcome = start(fleet=both).run(generated(situation.spec, Stream(600.0)))
    long, short = outcome.classes
    assert short.turned_away == 0
    assert (long.arrived - long.turned_away) / 600 == pytest.approx(1.0, rel=0.1)
    taken = Counter()
    for replica in outcome.replicas:
        taken[replica.place] += replica.taken
    assert taken[1] / taken[0] == pytest.approx(3.0, rel=0.1)


def conversations(*, many=30, turns=12, seconds=20.0):
    """Turns whose prompts are those of the turn before and 256 tokens more, conversation by conversation in turn."""
    for turn in range(turns):
        for number in range(many):
            prompt = 600 + 256 * turn
            names = tuple(100 * number + part for part in range(prompt // 512))
            yield Arrival((turn + number / many) * seconds, "llama-3.1-8b", "long", prompt, 20, names)


def test_replicas_that_know_the_beginning_of_a_prompt_are_found_by_the_prefix_aware_gateway(start, fleet):
    (item,) = [found for found in fleet.replica_sets if found.replicas > 0][:1]
    four = fleet.model_copy(update={"replica_sets": (item.model_copy(update={"replicas": 4}),), "groups": ()})

    def hits(balancing):
        outcome = start(fleet=four, balancing=balancing).run(conversations())
        assert outcome.classes[0].finished == 30 * 12
        work = [replica.work for replica in outcome.replicas]
        assert min(replica.taken for replica in outcome.replicas) > 0
        return sum(found.prefix_hits for found in work) / sum(found.prefix_queries for found in work)

    possible = sum((600 + 256 * (turn - 1)) // 512 * 512 for turn in range(1, 12)) / sum(
        600 + 256 * t for t in range(12)
    )
    assert hits("prefix-aware") == pytest.approx(possible, rel=0.02)
    assert hits("round-robin") < 0.9 * possible
    assert hits("least-request") < 0.9 * possible


def test_a_lost_node_cuts_its_requests_and_the_others_go_on(start, situation):
    event = PoolEvent(at=30.0, event="NodeLost", pool="l40s", seconds=30.0)
    outcome = start(events=[event]).run(generated(situation.spec, Stream(120.0)))
    cut = sum(item.cut for item in outcome.classes)
    assert cut > 0
    assert outcome.events == [
        f"30 s: node 0 of l40s is lost, and {cut} requests with it",
        "60 s: node 0 of l40s is back",
    ]
    assert all(replica.up for replica in outcome.replicas)
    quiet = start().run(generated(situation.spec, Stream(120.0)))
    assert sum(item.cut for item in quiet.classes) == 0


def test_without_any_replica_everything_is_turned_away(start, situation, fleet):
    events = [PoolEvent(at=10.0, event="NodeLost", pool="l40s") for _ in range(fleet.nodes["l40s"] + 1)]
    outcome = start(events=events).run(generated(situation.spec, Stream(60.0)))
    assert outcome.events[-1] == "10 s: no node of l40s with a replica is left to lose"
    for item in outcome.classes:
        assert item.turned_away / item.arrived == pytest.approx(50 / 60, abs=0.1)


def test_a_replica_over_several_nodes_is_refused(start, fleet):
    stages = [PipelineStage(pool="l40s", gpu="L40S", layers=16)] * 2
    (item, *_) = fleet.replica_sets
    spanning = item.model_copy(update={"stages": tuple(stages), "pipeline_parallel": 2})
    with pytest.raises(InputError, match="spans nodes; a replay knows only replicas inside one node"):
        start(fleet=fleet.model_copy(update={"replica_sets": (spanning,)}))


def test_a_slow_pool_is_slow_as_long_as_it_is_told(start, situation):
    def whole(events):
        found = start(events=events).run(generated(situation.spec, Stream(100.0)))
        return found.classes[1].end_to_end.mean

    for_ever = whole([PoolEvent(at=0.0, event="Slow", pool="l40s", factor=1.5)])
    a_while = whole([PoolEvent(at=0.0, event="Slow", pool="l40s", factor=1.5, seconds=50.0)])
    assert whole([]) < a_while < for_ever
