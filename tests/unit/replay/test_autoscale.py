"""An autoscaler's fleet follows its queue, inside its room, and pays for nodes as long as they are there."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.errors import InputError
from servingplan.planning.situation import Situation
from servingplan.replay.autoscale import ENGINE_SECONDS, NODE_SECONDS, SYNC_SECONDS, Autoscaled, Rule, desired, rule_of
from servingplan.replay.figures import of_fleet
from servingplan.replay.fleet import Shapes
from servingplan.replay.rivals import autoscaled
from servingplan.replay.trace import Arrival
from tests.unit.replay.test_run import MANIFEST

MODEL = "llama-3.1-8b"


@pytest.fixture(scope="module")
def situation():
    from servingplan.cli.imagine import imagined_world

    return Situation(imagined_world(MANIFEST))


@pytest.fixture(scope="module")
def found(situation):
    return autoscaled(situation)


@pytest.fixture
def start(situation, found):
    fleet, room = found

    def begin(*, replicas, rule=None, room=room):
        (item,) = fleet.replica_sets
        sized = fleet.model_copy(update={"replica_sets": (item.model_copy(update={"replicas": replicas}),)})
        shapes = Shapes(situation.spec, situation.known.catalogue)
        return Autoscaled(sized, situation, shapes, room=room, rule=rule or Rule())

    return begin


def every(seconds, until, prompt=200, output=20):
    return [Arrival(step * seconds, MODEL, "short", prompt, output) for step in range(round(until / seconds))]


@pytest.mark.parametrize(
    ("current", "ready", "ratio", "wanted"),
    [
        (4, 4, 1.05, 4),  # a tenth is ignored
        (4, 4, 1.5, 6),
        (4, 2, 1.5, 4),  # two are booting and count as idle
        (4, 2, 3.0, 6),
        (4, 4, 9.0, 8),  # the double, or four more
        (1, 1, 9.0, 5),
        (10, 10, 9.0, 20),
        (4, 4, 0.5, 2),
        (4, 4, 0.0, 1),  # never none
    ],
)
def test_the_rule(current, ready, ratio, wanted):
    assert desired(current, ready, ratio) == wanted


def test_the_names_of_rules():
    assert rule_of("homogeneous") is None
    assert rule_of("autoscaler") == Rule("waiting", 5.0)
    assert rule_of("autoscaler:in-flight=20") == Rule("in-flight", 20.0)
    for wrong in (
        "autoscaler:",
        "autoscaler:cpu=5",
        "autoscaler:waiting=0",
        "autoscaler:waiting=inf",
        "autoscaler:waiting",
    ):
        with pytest.raises(InputError, match="autoscaler:METRIC=TARGET"):
            rule_of(wrong)


def test_it_begins_with_what_the_declared_rates_need(situation, found):
    fleet, room = found
    (item,) = fleet.replica_sets
    asked = {entry.name: entry.requests_per_second for entry in fleet.classes}
    busy = sum(asked[name] / item.capacity[name] for name in asked)
    assert item.replicas - 1 < busy <= item.replicas
    assert (room.pool, room.gpus_per_node, room.dollars_per_node_hour, room.most_nodes) == ("l40s", 1, 2.0, 6)


def test_without_a_queue_it_keeps_one_after_five_minutes(situation, start):
    outcome = start(replicas=4).run(every(10, 600))
    told = of_fleet(outcome, situation.spec, name="autoscaler")
    assert outcome.events == [f"315 s: {MODEL} goes from 4 to 1 replicas"]
    # The three that leave are idle by the next look, 330 s; the fourth is there to the last answer.
    assert told["dollars"] == pytest.approx(2 * (3 * 330 + outcome.seconds) / 3600)
    assert told["dollars_per_hour"] == pytest.approx(told["dollars"] / outcome.seconds * 3600)
    assert told["nodes"] == {"l40s": 4}
    assert told["within_budget"] is True
    assert told["finished"] == told["arrived"] == 60
    stood = 3 * 330 + outcome.seconds
    busy = sum(replica.engine.tally.busy_seconds for replica in outcome.replicas)
    assert told["utilization"] == pytest.approx(busy / stood)


def test_a_surge_waits_for_nodes_and_engines_and_ends_at_the_stock(situation, start):
    run = start(replicas=1)
    outcome = run.run(every(1 / 60, 400, prompt=2000, output=40))
    first, *later = outcome.replicas
    assert first.since == 0
    assert len(later) == 5  # the stock has six nodes
    assert min(replica.since for replica in later) == SYNC_SECONDS + NODE_SECONDS + ENGINE_SECONDS
    assert outcome.most_nodes == {"l40s": 6}
    assert outcome.most_dollars_per_hour == 12.0
    (short,) = [item for item in outcome.classes if item.name == "short"]
    assert short.arrived == short.finished == 24_000
    assert sum(replica.taken for replica in outcome.replicas) == 24_000
    assert all(replica.taken for replica in later)


def test_the_metric_decides(start):
    """Twenty long answers at a time run without a queue: only the rule of requests in flight grows."""
    arrivals = every(0.5, 300, prompt=100, output=1000)
    waiting, in_flight = (
        start(replicas=1, rule=Rule(*rule)).run(arrivals) for rule in (("waiting", 5), ("in-flight", 5))
    )
    assert len(waiting.replicas) == 1
    assert len(in_flight.replicas) > 1


bursts = st.lists(
    st.tuples(st.floats(0, 120), st.integers(1, 60), st.integers(1, 2000), st.integers(1, 400)), min_size=1, max_size=12
)


@settings(max_examples=25, deadline=None)
@given(bursts, st.integers(1, 4), st.integers(1, 3), st.sampled_from([("waiting", 1.0), ("in-flight", 4.0)]))
def test_every_request_has_one_end_and_nodes_hold_what_is_on_them(situation, found, start, gaps, gpus, most, rule):
    room = replace(found[1], gpus_per_node=gpus, most_nodes=most)
    run = start(replicas=2, rule=Rule(*rule), room=room)
    now, sent = 0.0, []
    for gap, count, prompt, output in gaps:
        now += gap
        sent += [Arrival(now, MODEL, "short", prompt, output)] * count

    def watched():
        for arrival in sent:
            (scaled,) = run._models
            assert scaled.ready
            assert len(run._open) <= most
            for node in run._open:
                on_it = sum(run._home[item] is node for item in [*scaled.ready, *scaled.leaving])
                assert on_it + sum(boot.node is node for boot in scaled.booting) == gpus - node.free_gpus
                assert 0 <= node.free_gpus < gpus
            yield arrival

    outcome = run.run(watched())
    (short,) = [item for item in outcome.classes if item.name == "short"]
    assert short.arrived == short.finished == len(sent)
    assert sum(replica.taken for replica in outcome.replicas) == len(sent)
    assert 0 < outcome.dollars <= most * room.dollars_per_node_hour * outcome.seconds / 3600 * (1 + 1e-9)
