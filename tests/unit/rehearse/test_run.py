"""The operator on the clock of a trace: nothing is lost or paid twice, and what it does about events is what it does live."""

import copy
import random
from collections import Counter

import pytest

from servingplan.answering import solve_with
from servingplan.cli.imagine import imagined_world
from servingplan.errors import InputError
from servingplan.planning.situation import Situation
from servingplan.rehearse.figures import of_rehearsal
from servingplan.rehearse.run import Rehearsal
from servingplan.rehearse.stage import Stage, Times
from servingplan.replay.events import PoolEvent
from servingplan.replay.figures import of_fleet
from servingplan.replay.fleet import Shapes
from servingplan.replay.generate import Stream, generated
from servingplan.replay.run import ClassFigures, Replay
from tests.unit.replay.test_run import MANIFEST

BUDGET = 14.0
PRICES = {"l40s": 2.0, "h100": 6.0}
DEMAND = {"prometheus": {"window": "5m"}}
BOOT, START = 90, 60


def manifest(*, h100=True, **spec):
    """Two models' worth of requests on L40S, and H100 beside it where that is allowed."""
    found = copy.deepcopy(MANIFEST)
    (l40s,) = found["spec"]["nodePools"]
    other = {**copy.deepcopy(l40s), "name": "h100", "gpu": "H100-SXM-80GB", "dollarsPerNodeHour": "6", "maxNodes": 2}
    other |= {"nodeSelector": {"pool": "h100"}, "resize": {**l40s["resize"], "name": "h100"}}
    found["spec"] |= {"nodePools": [l40s, other] if h100 else [l40s], "budget": {"dollarsPerHour": f"{BUDGET:g}"}}
    found["spec"] |= spec
    return found


def rehearsal(made, *events, seed=1):
    situation = Situation(imagined_world(made))
    stage = Stage(situation, solve_with(), Times(BOOT, START, 30))
    stage.settle()
    shapes = Shapes(situation.spec, situation.known.catalogue)
    return Rehearsal(stage, situation, shapes, events=events, seed=seed), situation


def figures(made, *events, seconds=600.0, seed=1, faster=1.0):
    found, situation = rehearsal(made, *events, seed=seed)
    outcome = found.run(generated(situation.spec, Stream(seconds, faster=faster, seed=seed)))
    return found, of_fleet(outcome, situation.spec, name="operator"), of_rehearsal(found)


def whole(items, field):
    return sum(item[field] for item in items)


def random_events(seed, seconds):
    """Events at random, after a loss that the pool does not make good, so that the fleet must move."""
    chance = random.Random(seed)
    begun, lasts = chance.uniform(0, seconds / 4), chance.uniform(seconds / 8, seconds / 2)
    found = [PoolEvent(at=begun, event="Refused", pool="l40s", seconds=lasts)]
    found.append(PoolEvent(at=begun + chance.uniform(0, 20), event="NodeLost", pool="l40s"))
    for at in sorted(chance.uniform(0, seconds) for _ in range(4)):
        kind = chance.choice(["NodeLost", "NodeLost", "Refused", "Slow"])
        lasts = chance.choice([None, chance.uniform(1, seconds)])
        found.append(PoolEvent(at=at, event=kind, pool=chance.choice(["l40s", "l40s", "h100"]), seconds=lasts))
    return sorted(found, key=lambda event: event.at)


def test_without_an_event_the_figures_are_those_of_the_fixed_plan():
    found, operated, course = figures(manifest())
    situation = Situation(imagined_world(manifest()))
    shapes = Shapes(situation.spec, situation.known.catalogue)
    fixed = Replay(found.stage.decision.fleet, situation, shapes)
    expected = of_fleet(fixed.run(generated(situation.spec, Stream(600.0))), situation.spec, name="operator")
    assert operated == expected
    assert operated["arrived"] > 7000
    assert course["moves"] == {}
    assert course["steps"] == []
    assert [phase["phase"] for phase in course["phases"]] == ["before"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_happens_each_request_has_one_end_and_each_dollar_is_that_of_a_node(seed, monkeypatch):
    ended = []
    finish = ClassFigures.finish

    def noted(self, served):
        ended.append((self.name, served.arrived))
        return finish(self, served)

    monkeypatch.setattr(ClassFigures, "finish", noted)
    events = random_events(seed, 900)
    found, situation = rehearsal(manifest(demand=DEMAND), *events, seed=seed)
    sent = []

    def noting(arrivals):
        for arrival in arrivals:
            sent.append((arrival.name, arrival.at))
            yield arrival

    stream = Stream(900.0, seed=seed)
    outcome = found.run(noting(generated(situation.spec, stream)))
    fleet, course = of_fleet(outcome, situation.spec, name="operator"), of_rehearsal(found)
    # Nothing is lost, and nothing is served twice.
    assert len(set(sent)) == len(sent) > 9000
    assert len(set(ended)) == len(ended) == fleet["finished"]
    assert set(ended) <= set(sent)
    for item in fleet["classes"]:
        ends = item["finished"] + item["turned_away"] + item["too_long"] + item["cut"]
        assert item["arrived"] == ends == sum(name == item["name"] for name, _ in sent)
    assert all(not replica.open for replica in found.replicas)
    assert whole(fleet["classes"], "cut") > 0
    # Spans tell of the same requests as the whole.
    for spans in (course["phases"], course["timeline"]):
        classes = [item for span in spans for item in span.get("classes", [span])]
        assert whole(classes, "arrived") == fleet["arrived"]
        assert whole(classes, "cut") == whole(fleet["classes"], "cut")
        assert whole(classes, "status_503") == whole(fleet["classes"], "unavailable")
        assert whole(classes, "status_429") == whole(fleet["classes"], "turned_away") - whole(
            fleet["classes"], "unavailable"
        )
        served = sum(round(item["arrived"] * (item["in_time_share"] or 0)) for item in classes)
        assert served == whole(fleet["classes"], "in_time")
    assert len(course["spend"]) > 1
    # Dollars are the lifetimes of nodes times their prices, by the cluster's own list of what became of nodes.
    seconds, dollars, there = fleet["seconds"], 0.0, Counter()
    for entry in found.stage.cluster.ledger:
        at = (entry.at - found._origin).total_seconds()
        if entry.what != "came":
            sign = 1 if entry.what == "rented" else -1
            dollars += sign * PRICES[entry.pool] * (seconds - min(seconds, max(0.0, at))) / 3600
            there[entry.pool] += sign
            assert there[entry.pool] >= 0
    assert fleet["dollars"] == pytest.approx(dollars, abs=1e-7)
    # No write asks for more than the budget, and nothing that was paid exceeds it either.
    assert fleet["within_budget"]
    assert max(item["dollars_per_hour"] for item in course["spend"]) <= course["most_dollars_per_hour"] <= BUDGET
    assert [item["at"] for item in course["steps"]] == sorted(item["at"] for item in course["steps"])


def test_the_same_seed_gives_the_same_course():
    events = random_events(5, 400)
    first, second = (figures(manifest(demand=DEMAND), *events, seconds=400.0, seed=5)[1:] for _ in range(2))
    assert first == second


def test_a_lost_node_is_replaced_and_its_replica_serves_after_a_boot_and_a_start():
    lost = PoolEvent(at=200.5, event="NodeLost", pool="l40s")
    _, fleet, course = figures(manifest(h100=False), lost)
    assert fleet["events"][0].startswith("200.5 s: l40s-1 of l40s is lost, and ")
    before, during, after = course["phases"]
    assert (before["to"], during["event"]) == (200.5, "a node of l40s is lost")
    assert BOOT + START + 15 <= during["to"] - during["from"] <= BOOT + START + 30
    assert course["moves"] == {"nodes came": 1, "nodes lost": 1, "nodes rented": 1, "replicas started": 1}
    assert whole(during["classes"], "cut") > 0
    assert all(item["in_time_share"] == 1 for item in after["classes"])
    assert [item["at"] for item in course["spend"]] == [0.0]  # the successor is paid from the loss on


def test_while_the_only_replica_is_away_requests_get_503():
    small = manifest(h100=False)
    small["spec"]["budget"] = {"dollarsPerHour": "2"}
    _, fleet, course = figures(small, PoolEvent(at=100.0, event="NodeLost", pool="l40s"))
    during = course["phases"][1]
    away = (BOOT + START) / (during["to"] - during["from"])
    assert all(item["status_503"] == pytest.approx(away * item["arrived"], rel=0.1) for item in during["classes"])
    assert whole(during["classes"], "status_503") == whole(fleet["classes"], "unavailable") > 1000
    assert {item["at"] for item in course["timeline"] if item["status_503"]} == {60.0, 120.0, 180.0, 240.0}


def test_a_pool_that_refuses_is_replaced_by_another_one():
    events = PoolEvent(at=50.0, event="Refused", pool="l40s"), PoolEvent(at=60.0, event="NodeLost", pool="l40s")
    _, fleet, course = figures(manifest(), *events)
    assert fleet["nodes"]["h100"] >= 1
    assert course["moves"]["nodes rented"] >= 1
    assert any("h100: 1 node rented" in step["what"] for step in course["steps"])
    assert all(item["in_time_share"] == 1 for item in course["phases"][-1]["classes"])
    assert course["phases"][-1]["phase"] == "after"


def test_a_pool_that_refuses_for_a_while_gives_its_node_after_that():
    events = (
        PoolEvent(at=50.0, event="Refused", pool="l40s", seconds=300.0),
        PoolEvent(at=60.0, event="NodeLost", pool="l40s"),
    )
    _, fleet, course = figures(manifest(h100=False), *events, seconds=1500.0)
    assert "350 s: l40s gives nodes again" in fleet["events"]
    came = [step["at"] for step in course["steps"] if step["what"] == "l40s: 1 node came"]
    assert came
    assert came[0] >= 350 + BOOT
    assert course["phases"][-1]["phase"] == "after"


def test_the_fleet_follows_the_rates_of_the_trace_only_where_the_plan_measures_them():
    _, still, _ = figures(manifest(h100=False), faster=4.0, seconds=500.0)
    _, follows, course = figures(manifest(h100=False, demand=DEMAND), faster=4.0, seconds=500.0)
    assert still["nodes"] == {"l40s": 2}
    assert follows["nodes"]["l40s"] > 2
    assert course["moves"]["replicas started"] >= 1
    assert follows["in_time_share"] > still["in_time_share"] + 0.2


def test_a_fixed_node_that_is_lost_comes_back():
    fixed = manifest(h100=False)
    (pool,) = fixed["spec"]["nodePools"]
    fixed["spec"]["nodePools"] = [{key: value for key, value in pool.items() if key != "resize"} | {"maxNodes": 2}]
    _, fleet, course = figures(fixed, PoolEvent(at=100.0, event="NodeLost", pool="l40s", seconds=100.0))
    assert "200 s: l40s-1 of l40s is back" in fleet["events"]
    assert course["moves"]["nodes lost"] == 1
    assert [item["dollars_per_hour"] for item in course["spend"]] == [4.0, 2.0, 4.0]
    assert course["phases"][1]["to"] >= 200 + START


def test_an_engine_that_comes_while_its_pool_is_slow_is_slow():
    events = (
        PoolEvent(at=10.0, event="Slow", pool="l40s", factor=3.0),
        PoolEvent(at=20.0, event="NodeLost", pool="l40s"),
    )
    found, _, _ = figures(manifest(h100=False), *events, seconds=400.0)
    assert [replica.engine.slowdown for replica in found.replicas if replica.until is None] == [3.0, 3.0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"mode": "Approve"}, "spec.mode: 'Approve': with --operator nobody approves a plan; give Auto"),
        ({"budget": {"dollarsPerHour": "0"}}, "the operator's plan serves nothing"),
    ],
)
def test_a_plan_that_cannot_be_rehearsed_is_refused(spec, said):
    with pytest.raises(InputError) as error:
        rehearsal(manifest(**spec))
    assert said in str(error.value)


def test_pools_whose_object_or_resource_has_another_name_are_rehearsed_under_their_own():
    """Karpenter labels nodes with the name of their NodePool, and GPUs may be counted by another resource."""
    made = manifest(h100=False)
    (pool,) = made["spec"]["nodePools"]
    pool |= {"nodeSelector": {"karpenter.sh/nodepool": "l40s-1x"}, "resourceName": "nvidia.com/gpu.shared"}
    pool["resize"] |= {"name": "l40s-1x"}
    _, fleet, course = figures(made, PoolEvent(at=50.0, event="NodeLost", pool="l40s"), seconds=300.0)
    assert fleet["nodes"] == {"l40s": 2}
    assert "50 s: l40s-1x-1 of l40s is lost" in fleet["events"][0]
    assert {"at": 50.0, "what": "l40s: 1 node rented"} in course["steps"]
    assert course["phases"][-1]["phase"] == "after"
