"""The plan record: read in every form that was ever written, kept where it cannot be read."""

import json
from pathlib import Path

import pytest

from servingplan.decide.decide import decide, publish
from servingplan.decide.objects import record_actions
from servingplan.model.fleet import RECORD_VERSION, PlanRecord
from servingplan.model.outcome import Outcome
from servingplan.planning.record import record_problem, with_left_pools
from servingplan.planning.situation import Situation
from servingplan.status.conclude import conclude
from tests.simulated.driver import exact
from tests.simulated.plans import model, operator, plan

FORMS = Path(__file__).parents[2] / "golden" / "record"


def running(**spec):
    driver = operator(plan(**spec))
    driver.settle()
    return driver


def rewritten(driver, change):
    """The cluster with the text of the record changed."""
    data = driver.cluster.objects["ConfigMap", "chat-plan"]["data"]
    data["plan.json"] = change(data["plan.json"])
    return driver.cluster.observe()


def with_field(text, *path):
    raw = json.loads(text)
    part = raw
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = "what a later version wrote"
    return json.dumps(raw)


def with_leaving(text, *pools):
    return json.dumps({**json.loads(text), "leaving": pools})


OLD_POOL = {
    "name": "old",
    "nodeSelector": {"pool": "old"},
    "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "old"},
}

BROKEN = {
    "a pool of the past that is none": lambda text: with_leaving(text, {**OLD_POOL, "name": 7}),
    "a pool of the past of a later version": lambda text: with_leaving(text, {**OLD_POOL, "tomorrow": 1}),
    "a field of a later version": lambda text: with_field(text, "tomorrow"),
    "one deep inside": lambda text: with_field(text, "fleet", "replica_sets", 0, "tomorrow"),
    "a later form": lambda text: json.dumps({**json.loads(text), "version": RECORD_VERSION + 1}),
    "not JSON": lambda text: text[:-20],
    "a list": lambda text: "[]",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in FORMS.glob("*.json")))
def test_every_form_that_was_released_is_read(name):
    driver = running()
    text = (FORMS / f"{name}.json").read_text()
    world = rewritten(driver, lambda _: text)
    assert record_problem(world) is None
    record = Situation(world).record
    assert record.fleet is not None
    assert record.fleet.replica_sets
    assert record.version == RECORD_VERSION


def test_the_form_that_is_written_is_among_those_that_are_kept():
    assert (FORMS / f"{RECORD_VERSION}.json").exists()
    written = json.loads(running().cluster.objects["ConfigMap", "chat-plan"]["data"]["plan.json"])
    kept = json.loads((FORMS / f"{RECORD_VERSION}.json").read_text())
    assert written.keys() == kept.keys()


def test_a_record_is_written_in_the_oldest_form_that_holds_it_so_that_a_rollback_reads_it():
    driver = running()
    assert json.loads(driver.cluster.objects["ConfigMap", "chat-plan"]["data"]["plan.json"])["version"] == 4
    for form in (4, 5):
        record = PlanRecord.model_validate_json((FORMS / f"{form}.json").read_text())
        (action,) = record_actions(driver.cluster.observe(), record)
        text = action.manifest["data"]["plan.json"]
        assert json.loads(text)["version"] == form
        assert ("tail" in text) == (form == 5)


@pytest.mark.parametrize("name", BROKEN)
def test_a_record_that_cannot_be_read_is_kept_and_nothing_grows_or_shrinks(name):
    driver = running()
    driver.cluster.edit(plan(model(rate="30")))
    world = rewritten(driver, BROKEN[name])
    decision = decide(Situation(world), exact)
    assert decision.actions == ()
    status = conclude(Situation(world), decision, Outcome())
    found = {item.type: item for item in status.conditions}
    assert (found["PlanSolved"].status, found["PlanSolved"].reason) == ("False", "RecordUnreadable")
    assert "delete the ConfigMap" in found["PlanSolved"].message
    assert found["Ready"].status == "False"


@pytest.mark.parametrize("name", ["a field of a later version", "one deep inside", "a later form"])
def test_weights_follow_what_is_ready_by_a_record_of_a_later_version(name):
    driver = running()
    rewritten(driver, BROKEN[name])
    driver.cluster.lose_node("l40s-1")
    assert publish(Situation(driver.cluster.observe())) != ()


def test_pools_of_the_past_are_known_from_a_record_that_cannot_be_read_whole():
    world = rewritten(running(), BROKEN["a pool of the past of a later version"])
    situation = Situation(world)
    assert situation.spec_errors == ()
    assert [pool.name for pool in situation.spec.node_pools][-1] == "old~left"


@pytest.mark.parametrize("odd", [{"minNodes": -1}, {"minNodes": 3, "maxNodes": 2}, {"tomorrow": 1}])
def test_pools_are_given_back_by_their_object_where_the_spec_before_is_none_any_more(odd):
    driver = running()
    world = driver.cluster.observe()
    before = PlanRecord(
        spec={
            **world.plan.spec,
            "nodePools": [{**OLD_POOL, "dollarsPerNodeHour": "3", **odd}, "odd", {"name": "fixed"}],
        }
    )
    (left,) = with_left_pools(PlanRecord(spec=world.plan.spec), before, world).leaving
    assert (left["name"], left["resize"], left["nodeSelector"]) == ("old", OLD_POOL["resize"], {"pool": "old"})
    assert left.get("dollarsPerNodeHour") == (None if len(odd) > 1 else "3")
    assert not odd.keys() & {key for key, value in left.items() if value == odd.get(key)}


def test_in_approve_mode_the_running_fleet_is_still_known():
    driver = operator(plan(mode="Approve"))
    driver.act()
    driver.cluster.approved = driver.decision.waiting.hash
    driver.settle()
    world = rewritten(driver, BROKEN["a later form"])
    decision = decide(Situation(world), exact)
    assert (decision.actions, decision.fleet) == ((), driver.decision.fleet)


def test_with_the_record_deleted_a_plan_is_made_anew_around_what_runs():
    driver = running()
    rewritten(driver, BROKEN["a later form"])
    before = {pod.name for pod in driver.cluster.our_pods()}
    driver.turn()
    del driver.cluster.objects["ConfigMap", "chat-plan"]
    driver.settle()
    driver.check_settled()
    assert {pod.name for pod in driver.cluster.our_pods()} == before
