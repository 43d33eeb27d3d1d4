"""HTTPRoutes follow what is ready as the ConfigMap does, are added and removed with what asks for them, and are waited for."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.decide.decide import decide, publish
from servingplan.decide.retirement import retire
from servingplan.planning.situation import Situation
from servingplan.rehearse.cluster import TICK_SECONDS
from servingplan.rollout.drains import GATEWAY_PATIENCE_SECONDS
from tests.simulated.driver import exact
from tests.simulated.plans import fixed, model, operator, plan
from tests.unit.simulation.test_gateway import DRAIN_SECONDS, EDITS, NEW_IMAGE, drain_times

ROUTED = {"httpRoute": {"parentRefs": [{"name": "public"}]}}


def routed(*models, gateway=ROUTED, **more):
    return plan(*models, gateway=gateway, change={"drainSeconds": DRAIN_SECONDS}, **more)


def routes(driver):
    return {name: item for (kind, name), item in driver.cluster.objects.items() if kind == "HTTPRoute"}


def backends(driver):
    return [
        {ref["name"]: ref["weight"] for ref in rule["backendRefs"]}
        for _, route in sorted(routes(driver).items())
        for rule in route["spec"]["rules"]
    ]


def published(driver):
    (item,) = driver.routing()["models"].values()
    return [{target["service"]: target["weight"] for target in entry["targets"]} for entry in item["classes"]]


def message(driver):
    return next(item for item in driver.cluster.status["conditions"] if item["type"] == "RoutingPublished")["message"]


def test_the_routes_say_what_the_configmap_says_at_every_moment():
    driver = operator(routed(model(rate="20")))
    seen = []
    driver.act()
    for _ in range(12):
        assert backends(driver) == published(driver)
        seen.append(copy.deepcopy(backends(driver)))
        driver.tick()
    assert seen[0] == [{}], "nothing was ready at first"
    assert sum(seen[-1][0].values()) == 10_000
    driver.settle()
    driver.check_settled()
    assert driver.conditions()["RoutingPublished"] == "Published"
    assert "the gateway has taken them" in message(driver)


def test_a_lost_replica_leaves_the_routes_before_anything_is_solved():
    driver = operator(routed(model(rate="20"), pools=[fixed()]), nodes=4)
    driver.settle()
    assert backends(driver)[0]
    for node in list(driver.cluster.nodes):
        driver.cluster.lose_node(node)
    kinds = [action.manifest["kind"] for action in publish(Situation(driver.cluster.observe()))]
    assert kinds == ["ConfigMap", "HTTPRoute"]


def test_routes_go_with_their_models_and_with_the_wish_for_them():
    both = [model("llama-3.1-8b", "5"), model("mistral-7b", "5")]
    driver = operator(routed(*both))
    driver.settle()
    assert len(routes(driver)) == 2
    driver.cluster.edit(routed(both[0]))
    driver.settle()
    assert len(routes(driver)) == 1
    driver.cluster.edit(routed(both[0], gateway={}))
    driver.settle()
    assert routes(driver) == {}
    driver.check_settled()


def rules(driver):
    """Class header's value of the first match of each rule."""
    (route,) = routes(driver).values()
    return [rule["matches"][0]["headers"][1]["value"] for rule in route["spec"]["rules"]]


def test_a_class_that_is_added_before_another_takes_the_next_number():
    one = model(rate="5")
    (chat,) = one["classes"]
    driver = operator(routed(one))
    driver.settle()
    assert rules(driver) == ["chat"]
    driver.cluster.edit(routed({**one, "classes": [{**chat, "name": "batch", "inputTokens": 900}, chat]}))
    driver.settle()
    assert rules(driver) == ["chat", "batch"]
    driver.cluster.edit(routed({**one, "classes": [{**chat, "name": "batch"}]}))
    driver.settle()
    assert rules(driver) == ["(free)", "batch"]
    driver.check_settled()


def with_batch():
    """The model with a class more."""
    one = model(rate="5")
    return routed({**one, "classes": [*one["classes"], {**one["classes"][0], "name": "batch", "inputTokens": 900}]})


@pytest.mark.parametrize("ticks", [0, 1, 4])
def test_a_class_that_is_added_gets_its_requests_when_the_gateway_has_its_rule(ticks):
    driver = operator(routed(model(rate="5")), route_ticks=ticks)
    driver.settle()
    driver.tick(5)
    driver.cluster.edit(with_batch())
    driver.act()
    for _ in range(ticks):
        assert rules(driver) == ["chat", "(coming) batch"]
        assert driver.conditions()["RoutingPublished"] != "Published"
        driver.tick()
    assert rules(driver) == ["chat", "batch"]
    driver.settle()
    driver.check_settled()
    assert driver.conditions()["RoutingPublished"] == "Published"


def test_a_gateway_that_is_silent_keeps_a_class_from_coming_no_longer_than_a_replica_from_leaving():
    driver = operator(routed(model(rate="5")))
    driver.settle()
    driver.cluster.route_ticks = 1000
    driver.cluster.edit(with_batch())
    driver.act()
    seconds = 0
    while "batch" not in rules(driver):
        driver.tick()
        seconds += TICK_SECONDS
        assert seconds < 1000
    assert 0 <= seconds - GATEWAY_PATIENCE_SECONDS <= TICK_SECONDS


def test_without_the_gateway_api_the_configmap_is_written_and_the_condition_says_what_lacks():
    driver = operator(routed(model(rate="10")))
    driver.cluster.absent_kinds.add("HTTPRoute")
    driver.settle()
    driver.check_settled()
    assert routes(driver) == {}
    assert sum(published(driver)[0].values()) == 10_000
    assert driver.conditions()["RoutingPublished"] == "HTTPRoutesUnavailable"
    assert message(driver).startswith("the API server knows no HTTPRoute")


@pytest.mark.parametrize(("condition", "reason"), [("Accepted", "NotAccepted"), ("ResolvedRefs", "RefsNotResolved")])
def test_what_a_gateway_objects_to_is_said_in_its_words(condition, reason):
    driver = operator(routed(model(rate="10")))
    driver.cluster.route_objection = (condition, "NotAllowedByListeners", "namespace llm is not let in")
    driver.settle()
    driver.check_settled()
    assert driver.conditions()["RoutingPublished"] == driver.conditions()["Ready"] == reason
    assert "Gateway llm/public: NotAllowedByListeners: namespace llm is not let in" in message(driver)


def swapped(driver, *, objection=None):
    """Another image is another Deployment: the routes must leave the old one."""
    driver.settle()
    driver.cluster.route_objection = objection
    driver.cluster.edit(routed(model(rate="10", engine=NEW_IMAGE), pools=[fixed(gpus=4)]))
    return driver


@pytest.mark.parametrize("ticks", [0, 1, 4])
def test_the_grace_begins_when_the_gateway_has_the_routes(ticks):
    driver = swapped(operator(routed(model(rate="10"), pools=[fixed(gpus=4)]), nodes=1, route_ticks=ticks))
    times = drain_times(driver)
    assert len(times) == 2
    assert max(times) >= ticks * TICK_SECONDS + DRAIN_SECONDS
    assert all(seconds <= (ticks + 1) * TICK_SECONDS + DRAIN_SECONDS for seconds in times)
    assert driver.cluster.removed_early == []


def test_weights_that_stay_need_no_word():
    driver = operator(routed(model(rate="20")), route_ticks=4)
    driver.settle()
    driver.tick(5)
    driver.cluster.edit(routed(model(rate="10")))
    assert all(seconds <= DRAIN_SECONDS + TICK_SECONDS for seconds in drain_times(driver))


def test_a_gateway_that_objects_is_not_waited_for_for_ever():
    objection = ("Accepted", "Invalid", "no")
    driver = swapped(operator(routed(model(rate="10"), pools=[fixed(gpus=4)]), nodes=1), objection=objection)
    times = drain_times(driver)
    assert 0 <= max(times) - GATEWAY_PATIENCE_SECONDS - DRAIN_SECONDS <= TICK_SECONDS


def with_routing(world, change):
    """The world with another routing document in its ConfigMap."""
    objects = []
    for item in world.objects:
        if "routing.json" in item.manifest.get("data", {}):
            document = json.loads(item.manifest["data"]["routing.json"])
            change(document["models"]["llama-3.1-8b"]["classes"][0])
            item = item.model_copy(
                update={"manifest": {**item.manifest, "data": {"routing.json": json.dumps(document)}}}
            )
        objects.append(item)
    return world.model_copy(update={"objects": tuple(objects)})


def test_more_backends_than_a_rule_holds_are_told_with_what_to_do():
    driver = operator(routed(model(rate="10")))
    driver.settle()
    many = [{"service": f"s{index:02}", "port": 8000, "weight": 500} for index in range(20)]
    world = with_routing(driver.cluster.observe(), lambda entry: entry.update(targets=many))
    (finding,) = [item for item in decide(Situation(world), exact).findings if item.condition == "RoutingPublished"]
    assert finding.reason == "TooManyBackends"
    assert "llama-3.1-8b/chat goes to more than 16 Services" in finding.message
    assert "20.0% of the others" in finding.message


def test_what_the_gateway_must_turn_away_itself_is_said():
    driver = operator(routed(model(rate="100"), budget="4"))
    driver.settle()
    assert "limit llama-3.1-8b/chat by a policy of the gateway" in message(driver)


def test_a_route_that_somebody_else_has_under_our_name_is_left_alone():
    driver = operator(routed(model(rate="10")))
    driver.act()
    (name,) = routes(driver)
    driver.cluster.foreign_objects.add(("HTTPRoute", name))
    before = copy.deepcopy(routes(driver)[name])
    for _ in range(8):
        driver.cluster.tick()
        driver.turn()
    assert routes(driver)[name] == before
    assert driver.conditions()["RoutingPublished"] != "Published"


def test_a_plan_that_goes_takes_weights_away_first():
    driver = operator(routed(model(rate="10")))
    driver.settle()
    driver.cluster.deleting_since = driver.cluster.time
    step = retire(Situation(driver.cluster.observe()))
    assert not step.done
    (route,) = [item.manifest for item in step.decision.routing if item.manifest["kind"] == "HTTPRoute"]
    assert all(not rule["backendRefs"] for rule in route["spec"]["rules"])
    assert route["metadata"]["ownerReferences"][0]["name"] == "chat"


@pytest.mark.slow
@settings(max_examples=6)
@given(edits=EDITS, ticks=st.integers(0, 6), slices=st.integers(0, 3))
def test_no_replica_is_taken_from_a_gateway_that_still_sends_to_it(edits, ticks, slices):
    times = {"route_ticks": ticks, "slice_ticks": slices}
    driver = operator(routed(model(rate="10"), pools=[fixed(gpus=4)], budget="40"), nodes=3, **times)
    driver.settle()
    for rate, new_image, wait in edits:
        engine = {"engine": NEW_IMAGE} if new_image else {}
        driver.cluster.edit(routed(model(rate=rate, **engine), pools=[fixed(gpus=4)], budget="40"))
        driver.act()
        driver.tick(wait)
    driver.settle()
    driver.check_settled()
    assert driver.cluster.removed_early == []
