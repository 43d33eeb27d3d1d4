"""HTTPRoutes say of every class what the routing document says, within the limits of the Gateway API."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.api.v1alpha1 import HttpRoute, PlanSpec
from servingplan.model import names
from servingplan.model.fleet import Fleet, ReplicaFacts
from servingplan.model.world import PlanObject
from servingplan.routing.document import routing_document
from servingplan.routing.httproute import MOST_BACKENDS, MOST_RULES, coming_since, cut_shares, http_routes, not_shed

GOLDEN = Path(__file__).parents[2] / "golden"
RAW = yaml.safe_load((GOLDEN / "render" / "plan.yaml").read_text())["spec"]
PLAN = PlanObject(namespace="llm", name="chat", uid="0b51e7a2", generation=1, spec=RAW)
PUBLIC = HttpRoute.model_validate({"parentRefs": [{"name": "public"}]})
thorough = settings(max_examples=100)


def entry(name, weights=None, *, match=None, admitted=None):
    targets = [{"service": item, "port": 8000, "weight": weight} for item, weight in (weights or {}).items()]
    targets.sort(key=lambda target: (-target["weight"], target["service"]))
    return {"name": name, "match": match or {}, "admitRequestsPerSecond": admitted, "targets": targets}


def document(*classes, default=None):
    return {"models": {"m/1": {"defaultClass": default or classes[-1]["name"], "classes": list(classes)}}}


def rules(*classes, default=None):
    """All rules of one model: (matches, backends), matches as lists of header values."""
    found = [
        rule
        for route in http_routes(PLAN, PUBLIC, document(*classes, default=default))
        for rule in route["spec"]["rules"]
    ]
    return [
        (
            [[header["value"] for header in match["headers"]] for match in rule["matches"]],
            {ref["name"]: ref["weight"] for ref in rule["backendRefs"]},
        )
        for rule in found
    ]


def test_the_manifests_are_the_ones_kept():
    wanted = {"parentRefs": [{"name": "public"}, {"name": "inner", "namespace": "edge", "sectionName": "https"}]}
    spec = PlanSpec.model_validate({**RAW, "gateway": {"httpRoute": {**wanted, "hostnames": ["llm.example.com"]}}})
    facts = {
        f"chat-llama-3-1-70b-{suffix}": ReplicaFacts(
            model="llama-3.1-70b", pool="h100", gpus=4, priority=100, planned=planned, capacity=planned
        )
        for suffix, planned in (
            ("3fa9c1", {"long-in": 1.5, "chat": 1.0}),
            ("77b0d2", {"chat": 2.0}),
            ("90aa00", {"chat": 2.0}),
        )
    }
    made = routing_document(
        plan=PLAN,
        spec=spec,
        fleet=Fleet(),
        facts=facts,
        ready={"chat-llama-3-1-70b-3fa9c1": 1, "chat-llama-3-1-70b-77b0d2": 1, "chat-llama-3-1-70b-90aa00": 0},
        previous=None,
    )
    assert spec.gateway.http_route is not None
    text = yaml.safe_dump_all(http_routes(PLAN, spec.gateway.http_route, made), sort_keys=False, width=120)
    path = GOLDEN / "routing" / "http-route.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "UPDATE_GOLDEN=1 writes the files anew"


weights = st.dictionaries(st.from_regex(r"s[0-9]{1,3}", fullmatch=True), st.integers(1, 10_000), max_size=40)


@pytest.mark.slow
@thorough
@given(weights)
def test_weights_are_whole_complete_and_the_largest_is_last(given_weights):
    ((_, found),) = rules(entry("chat", given_weights))
    kept = sorted(given_weights, key=lambda name: (-given_weights[name], name))[:MOST_BACKENDS]
    total = sum(given_weights[name] for name in kept)
    assert set(found) <= set(kept), "only what the document names"
    assert sum(found.values()) == (10_000 if kept else 0)
    assert all(weight > 0 for weight in found.values())
    assert list(found.values()) == sorted(found.values())
    for name in kept:
        assert abs(found.get(name, 0) - given_weights[name] / total * 10_000) < 1


shares = st.floats(0.001, 1000, allow_nan=False)


@thorough
@given(
    st.dictionaries(
        st.from_regex(r"d[0-9]{1,2}", fullmatch=True), st.tuples(shares, st.integers(0, 5)), min_size=1, max_size=16
    )
)
def test_from_the_plan_on_weights_go_to_ready_replicas_in_proportion_within_one(planned):
    facts = {
        name: ReplicaFacts(model="llama-3.1-70b", pool="h100", gpus=4, priority=0, planned={"chat": rate}, capacity={})
        for name, (rate, _) in planned.items()
    }
    ready = {name: count for name, (_, count) in planned.items()}
    spec = PlanSpec.model_validate(RAW)
    made = routing_document(plan=PLAN, spec=spec, fleet=Fleet(), facts=facts, ready=ready, previous=None)
    found = {
        ref["name"]: ref["weight"] for ref in http_routes(PLAN, PUBLIC, made)[0]["spec"]["rules"][-1]["backendRefs"]
    }
    rates = {name: rate * count for name, (rate, count) in planned.items() if count}
    assert set(found) <= set(rates)
    if rates:
        assert sum(found.values()) == 10_000
    for name, rate in rates.items():
        assert abs(found.get(name, 0) - rate / sum(rates.values()) * 10_000) < 1


def test_the_default_class_takes_what_no_other_rule_takes():
    found = rules(entry("a", {"x": 10000}), entry("chat", {"y": 10000}), entry("b"), default="chat")
    assert found == [
        ([["m/1", "a"]], {"x": 10000}),
        ([["m/1", "chat"], ["m/1"]], {"y": 10000}),
        ([["m/1", "b"]], {}),
    ]


def test_a_class_may_be_asked_for_by_the_value_that_it_matches():
    gold, long, chat = (
        entry("gold", match={"header": "paid"}),
        entry("long", match={"header": "long-header", "inputTokensAtLeast": 9}),
        entry("chat"),
    )
    assert [matches for matches, _ in rules(gold, long, chat)] == [
        [["m/1", "gold"], ["m/1", "paid"]],
        [["m/1", "long"]],
        [["m/1", "chat"], ["m/1"]],
    ]
    # A name is stronger than another class's value, and the first of two like values has it.
    again = [
        entry("gold", match={"header": "chat"}),
        entry("a", match={"header": "v"}),
        entry("b", match={"header": "v"}),
        chat,
    ]
    assert [matches for matches, _ in rules(*again)] == [
        [["m/1", "gold"]],
        [["m/1", "a"], ["m/1", "v"]],
        [["m/1", "b"]],
        [["m/1", "chat"], ["m/1"]],
    ]


def test_what_is_admitted_at_nothing_gets_no_backend():
    for rate, backends in ((0, {}), (2.5, {"x": 10000})):
        ((_, found),) = rules(entry("chat", {"x": 10000}, admitted=rate))
        assert found == backends
    assert not_shed(
        document(entry("a", {"x": 10000}, admitted=2.5), entry("b", admitted=1.0), entry("c", {"x": 10000}))
    ) == ["m/1/a"]


@pytest.mark.parametrize(("classes", "routes"), [(1, 1), (16, 1), (17, 2), (32, 2)])
def test_rules_beyond_the_limit_go_on_in_another_route(classes, routes):
    made = http_routes(PLAN, PUBLIC, document(*(entry(f"c{index}", {"x": 10000}) for index in range(classes))))
    assert len(made) == routes
    assert all(len(item["spec"]["rules"]) <= MOST_RULES for item in made)
    assert sum(len(item["spec"]["rules"]) for item in made) == classes
    assert len({item["metadata"]["name"] for item in made}) == routes


def written(standing, *classes, default=None, taken=True, now="2026-01-01T00:00:00Z"):
    """What stands after another document is written over it, by name. ``taken``: the gateways have what stands."""
    untaken = () if taken else standing
    made = http_routes(PLAN, PUBLIC, document(*classes, default=default), standing, untaken=untaken, now=now)
    return {item["metadata"]["name"]: item for item in made}


def settled(standing, *classes, default=None):
    """What stands when the gateways have taken all of it."""
    while (after := written(standing, *classes, default=default)) != standing:
        standing = after
    return standing


def numbered(standing):
    """(class header of the first match, Services) of every rule, in order; None where it has no such header."""
    found = []
    for _, route in sorted(standing.items()):
        for rule in route["spec"]["rules"]:
            values = [header["value"] for header in rule["matches"][0]["headers"]]
            found.append((values[1] if len(values) > 1 else None, {ref["name"] for ref in rule["backendRefs"]}))
    return found


def answering(standing, value):
    """Services of the match that takes a request by the standard: the one with the most headers, the first of equals."""
    asked, best, services = {"m/1", value}, 0, None
    for _, route in sorted(standing.items()):
        for rule in route["spec"]["rules"]:
            for match in rule["matches"]:
                headers = {header["value"] for header in match["headers"]}
                if headers <= asked and len(headers) > best:
                    best, services = len(headers), {ref["name"] for ref in rule["backendRefs"]}
    return services


def test_a_class_keeps_the_number_of_its_rule_and_a_free_one_waits_for_a_new_class():
    a, b, c, chat = (entry(name, {f"s-{name}": 10000}) for name in ("a", "b", "c", "chat"))
    default = ("chat", {"s-chat"})
    standing = written({}, a, chat)
    assert numbered(standing) == [("a", {"s-a"}), default]
    standing = settled(standing, c, chat, b, default="chat")
    assert numbered(standing) == [("(free)", {"s-chat"}), default, ("c", {"s-c"}), ("b", {"s-b"})]
    standing = settled(standing, chat, b, a, c, default="chat")
    assert numbered(standing) == [("a", {"s-a"}), default, ("c", {"s-c"}), ("b", {"s-b"})]


def test_a_class_that_is_added_gets_no_request_before_the_gateways_have_its_rule():
    a, b, chat = (entry(name, {f"s-{name}": 10000}) for name in ("a", "b", "chat"))
    standing = written({}, a, chat)
    coming = written(standing, a, b, chat)
    assert numbered(coming) == [("a", {"s-a"}), ("chat", {"s-chat"}), ("(coming) b", {"s-b"})]
    assert answering(coming, "b") == {"s-chat"}
    assert written(coming, a, b, chat, taken=False, now="later") == coming, "it waits, and is not written again"
    ((_, route),) = coming.items()
    assert coming_since(route) == "2026-01-01T00:00:00Z"
    ((_, route),) = written(coming, a, b, chat).items()
    assert (answering({"": route}, "b"), coming_since(route)) == ({"s-b"}, None)
    gone = written(coming, a, chat, taken=False)
    assert numbered(gone)[2] == ("(free)", {"s-chat"}), "one that goes before it has come"
    back = written(gone, a, b, chat)
    assert numbered(back)[2] == ("(coming) b", {"s-b"}), "a number that is free is as a new one"


def test_what_has_no_class_stays_where_it_is_until_a_default_class_that_is_new_has_come():
    a, b, chat = (entry(name, {f"s-{name}": 10000}) for name in ("a", "b", "chat"))
    for kept, meanwhile in (((a, chat), {"s-chat"}), ((a,), {"s-b"})):
        coming = written(written({}, a, chat), *kept, b, default="b")
        assert answering(coming, "odd") == answering(coming, "b") == meanwhile
        assert written(coming, *kept, b, default="b", taken=False) == coming
        c = entry("c", {"s-c": 10000})
        assert answering(written(coming, *kept, c, b, default="b", taken=False), "odd") == meanwhile
        come = written(coming, *kept, b, default="b")
        assert answering(come, "odd") == answering(come, "b") == {"s-b"}
        assert "(coming)" not in str(come)


def test_a_rule_at_the_end_goes_when_the_gateways_know_that_no_request_goes_by_it():
    classes = [entry(f"c{index}", {f"s{index}": 10000}) for index in range(17)]
    stays = {"default": "c0"}
    standing = written({}, *classes, **stays)
    free = written(standing, *classes[:16], **stays, taken=False)
    assert (len(free), numbered(free)[16]) == (2, ("(free)", {"s0"}))
    assert written(free, *classes[:16], **stays, taken=False) == free
    assert len(written(free, *classes[:16], **stays)) == 1


def test_what_has_no_class_is_never_without_a_rule_while_it_moves_to_another_route():
    classes = [entry(f"c{index}", {f"s{index}": 10000}) for index in range(17)]
    standing = written({}, *classes)
    for default in ("c0", "c16", "c1"):
        for name, route in written(standing, *classes, default=default).items():
            standing[name] = route
            assert answering(standing, "odd")
        assert answering(standing, "odd") == {f"s{default[1:]}"}


def test_a_class_in_another_route_than_the_first_comes_as_the_others_do():
    classes = [entry(f"c{index}", {f"s{index}": 10000}) for index in range(17)]
    first, second = written(written({}, *classes[:16]), *classes, default="c15").values()
    assert coming_since(first) is None
    assert numbered({"": second}) == [("(coming) c16", {"s16"})]


def test_routes_of_earlier_versions_keep_their_numbers():
    a, b, chat = (entry(name, {f"s-{name}": 10000}) for name in ("a", "b", "chat"))
    standing = written({}, a, chat)
    ((_, route),) = standing.items()
    del route["spec"]["rules"][1]["matches"][0]
    assert numbered(standing)[1] == (None, {"s-chat"})
    found = numbered(settled(standing, b, a, chat))
    assert found == [("a", {"s-a"}), ("chat", {"s-chat"}), ("b", {"s-b"})]


@pytest.mark.parametrize("spec", [{}, {"rules": [{}]}, {"rules": [{"matches": []}]}])
def test_what_somebody_else_made_of_a_route_is_put_right(spec):
    standing = written({}, entry("a"), entry("chat"))
    ((name, route),) = standing.items()
    found = settled({name: {**route, "spec": spec}}, entry("a"), entry("chat"))
    assert {value for value, _ in numbered(found)} == {"a", "chat"}


edits = st.lists(st.lists(st.integers(0, 23), min_size=1, max_size=20, unique=True), min_size=1, max_size=6)


@thorough
@given(edits, st.data())
def test_over_any_edits_classes_keep_their_numbers_and_are_answered_as_they_should(lists, data):
    """A value of another class's name, and one that nobody knows, are among what is asked for. Classes that have just been
    added are asked for too."""
    standing, before, rest = {}, [], None
    for numbers in lists:
        default = f"c{data.draw(st.sampled_from(numbers))}"
        classes = [
            entry(f"c{number}", {f"s{number}": 10000}, match={"header": f"c{(7 * number + 1) % 24}"})
            for number in numbers
        ]
        wanted = {f"c{number}" for number in numbers}
        by_value = {f"c{(7 * number + 1) % 24}": f"c{number}" for number in reversed(numbers)}

        def check(standing, there, rest, wanted=wanted, by_value=by_value):
            """``there``: classes that take requests; ``rest``: that which takes all others."""
            for value in [f"c{number}" for number in range(24)] + ["odd", "(free)"]:
                asked = value if value in wanted else by_value.get(value)
                assert answering(standing, value) == {f"s{(asked if asked in there else rest)[1:]}"}

        coming = written(standing, *classes, default=default)
        assert written(coming, *classes, default=default, taken=False) == coming
        if standing:
            there = wanted & set(before)
            check(coming, there, rest if default not in there and rest in wanted else default)
            assert len(numbered(coming)) >= len(before), "rules that requests may go by stay until the gateways know"
        standing = settled(coming, *classes, default=default)
        check(standing, wanted, default)
        slots = [value for value, _ in numbered(standing)]
        assert all(len(route["spec"]["rules"]) <= MOST_RULES for route in standing.values())
        assert set(slots) - {"(free)"} == wanted
        assert all(slots[index] == value for index, value in enumerate(before) if value in wanted)
        of_gone = [index for index, value in enumerate(before) if value not in wanted and value != "(free)"]
        assert all(slots[index] == "(free)" for index in of_gone if index < len(slots)), "not taken over at once"
        before, rest = slots, default


def test_what_backends_beyond_the_limit_would_have_had_is_told_where_it_counts():
    even = {f"s{index:02}": 500 for index in range(20)}
    few = {"s00": 9901, **{f"s{index:02}": 6 for index in range(1, 17)}, "s17": 3}
    assert cut_shares(document(entry("even", even), entry("few", few))) == {"m/1/even": pytest.approx(0.2)}


def test_what_a_person_takes_away_from_the_spec_changes_the_digest():
    def digest(**wanted):
        made = http_routes(PLAN, HttpRoute.model_validate(wanted), document(entry("chat")))
        return made[0]["metadata"]["annotations"][names.SPEC_HASH_ANNOTATION]

    plain = digest(parentRefs=[{"name": "public"}])
    assert plain == digest(parentRefs=[{"name": "public", "namespace": "llm"}])
    assert plain != digest(parentRefs=[{"name": "public", "sectionName": "https"}])
    assert plain != digest(parentRefs=[{"name": "public"}], hostnames=["a.example"])
