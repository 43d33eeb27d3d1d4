"""What a turn knows is read out of its observation once, and is the same for all who ask."""

from collections import Counter

import pytest

from servingplan.decide.decide import decide, publish
from servingplan.metrics.samples import samples, trigger
from servingplan.model import names
from servingplan.model.fleet import Fleet
from servingplan.model.outcome import Outcome
from servingplan.model.world import NamespaceBudget
from servingplan.planning import situation as module
from servingplan.planning.situation import Situation
from servingplan.status.conclude import conclude
from tests.simulated.driver import exact
from tests.simulated.plans import model, operator, plan


@pytest.fixture(scope="module")
def rest():
    driver = operator(plan())
    driver.settle()
    return driver.cluster.observe()


def written(world, spec):
    return world.model_copy(update={"plan": world.plan.model_copy(update={"spec": spec, "generation": 9})})


@pytest.mark.parametrize(("rate", "pools_read"), [("10", 1), ("30", 2)])
def test_a_whole_turn_reads_everything_once_and_pools_of_another_spec_in_force_too(rest, monkeypatch, rate, pools_read):
    """The edit waits for approval, so that another spec is in force."""
    world = written(rest, plan(model(rate=rate), mode="Approve"))
    calls = Counter()

    def counted(name):
        read = getattr(module, name)

        def count(*arguments):
            calls[name] += 1
            return read(*arguments)

        return count

    for name in ("read_record", "known_of", "effective_spec", "read_pools", "rows_of"):
        monkeypatch.setattr(module, name, counted(name))
    situation = Situation(world)
    publish(situation)
    decision = decide(situation, exact)
    status = conclude(situation, decision, Outcome())
    samples(situation, decision, Outcome(), status.conditions)
    trigger(situation, decision)
    assert calls == {"read_record": 1, "known_of": 1, "effective_spec": 1, "read_pools": pools_read, "rows_of": 1}


def test_the_last_good_spec_is_acted_by_where_the_written_one_is_wrong(rest):
    situation = Situation(written(rest, {"models": 3}))
    assert situation.spec_errors
    assert situation.spec == Situation(rest).spec == situation.in_force


def test_where_no_spec_is_understood_there_is_none_to_act_by(rest):
    situation = Situation(written(rest, {"models": 3}).model_copy(update={"objects": ()}))
    assert situation.acting is None
    assert situation.published is None
    assert situation.facts(Fleet()) == {}
    with pytest.raises(AssertionError):
        _ = situation.spec


def test_an_edit_is_acted_by_before_its_plan_is_in_force(rest):
    situation = Situation(written(rest, plan(model(rate="30"))))
    assert [item.models[0].classes[0].requests_per_second for item in (situation.spec, situation.in_force)] == [30, 10]


@pytest.mark.parametrize(("taken", "budget", "binds"), [(0.0, 20.0, False), (95.0, 5.0, True), (120.0, 0.0, True)])
def test_the_namespace_leaves_so_much_of_the_plan_s_own_budget(rest, taken, budget, binds):
    allowed = NamespaceBudget(dollars_per_hour=100.0, taken={"other": taken})
    situation = Situation(rest.model_copy(update={"namespace_budget": allowed}))
    assert float(situation.spec.budget.dollars_per_hour) == budget
    assert situation.own_budget_dollars_per_hour == 20.0
    assert situation.binding_allowance == (allowed if binds else None)


def test_facts_are_those_of_the_fleet_and_else_those_that_a_deployment_tells_of(rest):
    situation = Situation(rest)
    fleet = situation.record.fleet
    (item,) = fleet.replica_sets
    assert situation.facts(Fleet()) == situation.facts(fleet) == {item.deployment: item.facts}
    higher = item.model_copy(update={"priority": 7})
    changed = fleet.model_copy(update={"replica_sets": (higher,)})
    assert situation.facts(changed)[item.deployment].priority == 7

    def spoiled(live):
        metadata = {**live.manifest["metadata"], "annotations": {names.FACTS_ANNOTATION: "{"}}
        return live.model_copy(update={"manifest": {**live.manifest, "metadata": metadata}})

    objects = tuple(spoiled(live) if live.kind == "Deployment" else live for live in rest.objects)
    assert Situation(rest.model_copy(update={"objects": objects})).facts(Fleet()) == {}
