"""Admission over what is ready: no replica beyond its SLO, nobody turned away in vain, and shortage shared evenly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.model.fleet import ClassService, Fleet, ReplicaFacts
from servingplan.routing.admission import admitted_parts
from tests.unit.routing.test_document import document

thorough = settings(max_examples=300)
CLASSES = ("long-in", "chat")
MEASURED = tuple(f"m/{name}" for name in CLASSES)
OF_WEIGHTS = 2e-4
"""Rounding of weights and of parts that are all but whole."""


def facts(planned=None, capacity=None, limit=(), model="m"):
    return ReplicaFacts(
        model=model,
        pool="p",
        gpus=1,
        priority=0,
        planned=planned or {},
        capacity=capacity or {},
        max_utilization=limit,
    )


def fleet(model="m", **rates):
    """What the plan serves by class, of just as much that is asked for."""
    return Fleet(
        classes=tuple(
            ClassService(
                model=model,
                name=name.replace("_", "-"),
                requests_per_second=rate,
                planned_requests_per_second=rate,
            )
            for name, rate in rates.items()
        )
    )


def admitted(known, ready, **rates):
    made = document(known, ready, fleet=fleet(**rates), measured=MEASURED)
    return {entry["name"]: entry["admitRequestsPerSecond"] for entry in made["models"]["m"]["classes"]}


capacities = st.floats(0.05, 50).map(lambda rate: round(rate, 3))
tables = st.lists(st.floats(0.1, 1), max_size=4).map(lambda table: tuple(sorted(table)))


@st.composite
def states(draw):
    """Replicas of one model; some ready; planned rates of its classes, which need not fit."""
    known, ready = {}, {}
    for index in range(draw(st.integers(1, 5))):
        able = draw(st.dictionaries(st.sampled_from(CLASSES), capacities))
        planned = {name: draw(st.floats(0, 1)) * rate for name, rate in able.items() if draw(st.booleans())}
        known[f"d{index}"] = facts(planned, able, draw(tables))
        ready[f"d{index}"] = draw(st.integers(0, 4))
    rates = draw(st.dictionaries(st.sampled_from(CLASSES), st.one_of(st.just(0.0), st.floats(0.01, 200))))
    return known, ready, rates


def shares_of(known, ready, name):
    """As the documentation says it: planned rate x ready, else what the replicas could do."""
    by_planned = {key: item.planned.get(name, 0) * ready[key] for key, item in known.items()}
    by_capacity = {key: item.capacity.get(name, 0) * ready[key] for key, item in known.items()}
    chosen = by_planned if sum(by_planned.values()) > 0 else by_capacity
    return {key: share for key, share in chosen.items() if share > 0}


def busy(known, ready, shares, rates):
    """Utilisation by ready Deployment."""
    return {
        key: sum(
            rate * shares[name][key] / sum(shares[name].values()) / (known[key].capacity[name] * ready[key])
            for name, rate in rates.items()
            if key in shares[name]
        )
        for key in known
        if ready[key]
    }


def limit_of(known, ready, key):
    table = known[key].max_utilization
    return table[min(ready[key], len(table)) - 1] if table else 1.0


@thorough
@given(states())
def test_no_replica_is_sent_more_than_keeps_its_slo_and_a_class_is_cut_only_by_a_replica_that_is_full(state):
    known, ready, planned = state
    shares = {name: shares_of(known, ready, name) for name in CLASSES}
    parts = admitted_parts(planned=planned, shares=shares, facts=known, ready=ready)
    assert parts.keys() == planned.keys()
    sent = {name: rate * parts[name] for name, rate in planned.items() if rate > 0 and shares[name]}
    load = busy(known, ready, shares, sent)
    full = set()
    for key, utilization in load.items():
        limit = limit_of(known, ready, key)
        assert utilization <= limit * (1 + OF_WEIGHTS)
        if utilization >= limit * (1 - 1e-6):
            full.add(key)
    for name, part in parts.items():
        assert 0 < part <= 1
        if part < 1:
            # Its bottleneck: a full Deployment where nobody has more. That makes the parts the fairest there are.
            others = {key: [parts[other] for other in sent if key in shares[other]] for key in shares[name]}
            assert any(key in full and part >= max(others[key]) for key in shares[name])


@thorough
@given(states(), st.data())
def test_what_is_planned_within_the_limits_is_admitted_whole_while_all_of_it_is_ready(state, data):
    known, ready, _ = state
    scaled = {}
    for key, item in known.items():
        used = sum(rate / item.capacity[name] for name, rate in item.planned.items())
        fits = min(1.0, limit_of(known, ready, key) / used) if used and ready[key] else 1.0
        kept = {name: rate * fits for name, rate in item.planned.items()}
        scaled[key] = item.model_copy(update={"planned": kept})
    rates = {
        name.replace("-", "_"): round(sum(item.planned.get(name, 0) * ready[key] for key, item in scaled.items()), 9)
        for name in CLASSES
    }
    part = data.draw(st.floats(0, 1))
    assert set(admitted(scaled, ready, **rates).values()) <= {None}
    assert set(admitted(scaled, ready, **{name: rate * part for name, rate in rates.items()}).values()) <= {None}


@thorough
@given(states(), states())
def test_a_shortage_of_one_model_is_not_felt_by_another(ours, others):
    known, ready, rates = ours
    rates = {name.replace("-", "_"): rate for name, rate in rates.items()}
    foreign = {f"other-{key}": item.model_copy(update={"model": "other"}) for key, item in others[0].items()}
    foreign_ready = {f"other-{key}": count for key, count in others[1].items()}
    alone = admitted(known, ready, **rates)
    assert admitted({**known, **foreign}, {**ready, **foreign_ready}, **rates) == alone


@thorough
@given(states())
def test_no_class_that_has_a_target_is_turned_away_entirely(state):
    known, ready, rates = state
    served = fleet(**{name.replace("-", "_"): rate for name, rate in rates.items()})
    made = document(known, ready, fleet=served, measured=MEASURED)
    for entry in made["models"]["m"]["classes"]:
        assert entry["admitRequestsPerSecond"] != 0 or rates[entry["name"]] == 0


FULL = {"a": facts({"chat": 4.0}, {"chat": 5.0}, (0.7, 0.75, 0.8))}
"""Three copies carry 12 requests/s at the utilisation that three can bear; two, or one, can bear less."""


@pytest.mark.parametrize(("ready", "rate"), [(3, None), (2, 7.5), (1, 3.5)])
def test_fewer_copies_admit_what_they_carry_in_time(ready, rate):
    assert admitted(FULL, {"a": ready}, chat=12.0)["chat"] == rate


def test_nothing_is_turned_away_while_those_that_are_left_have_room():
    roomy = {"a": facts({"chat": 2.0}, {"chat": 5.0}, (0.7, 0.75, 0.8))}
    assert admitted(roomy, {"a": 2}, chat=6.0)["chat"] is None
    assert admitted(roomy, {"a": 1}, chat=6.0)["chat"] == 3.5


def test_while_nothing_is_ready_the_plan_stands_and_the_gateway_answers_503():
    assert admitted(FULL, {"a": 0}, chat=12.0)["chat"] is None
    assert admitted(FULL, {}, chat=12.0)["chat"] is None


def test_classes_that_share_a_replica_share_its_loss():
    both = {"a": facts({"chat": 2.0, "long-in": 0.5}, {"chat": 4.0, "long-in": 1.0})}
    assert admitted(both, {"a": 2}, chat=4.0, long_in=1.0) == {"chat": None, "long-in": None}
    assert admitted(both, {"a": 1}, chat=4.0, long_in=1.0) == {"chat": 2.0, "long-in": 0.5}


def test_a_class_whose_own_replicas_are_all_ready_fills_what_the_cut_one_leaves():
    known = {
        "a": facts({"chat": 4.0}, {"chat": 4.0}),
        "b": facts({"chat": 1.0, "long-in": 0.75}, {"chat": 4.0, "long-in": 1.0}),
    }
    assert admitted(known, {"a": 2, "b": 1}, chat=9.0, long_in=0.75) == {"chat": None, "long-in": None}
    assert admitted(known, {"a": 1, "b": 1}, chat=9.0, long_in=0.75) == {"chat": 5.0, "long-in": None}


def test_a_class_sent_where_nothing_was_planned_for_it_shares_with_those_that_are_there():
    known = {
        "lost": facts({"chat": 4.0}, {"chat": 4.0}),
        "left": facts({"long-in": 1.0}, {"chat": 4.0, "long-in": 1.0}),
    }
    assert admitted(known, {"left": 1}, chat=4.0, long_in=1.0) == {"chat": 2.0, "long-in": 0.5}
    assert admitted(known, {"left": 2}, chat=4.0, long_in=1.0) == {"chat": None, "long-in": None}


def test_what_the_plan_itself_sheds_stays_the_most():
    service = ClassService(model="m", name="chat", requests_per_second=20.0, planned_requests_per_second=12.0)
    for ready, rate in ((3, 12.0), (4, 12.0), (1, 3.5)):
        made = document(FULL, {"a": ready}, fleet=Fleet(classes=(service,)), measured=MEASURED)
        assert made["models"]["m"]["classes"][1]["admitRequestsPerSecond"] == rate


def test_a_rate_too_small_to_be_written_is_not_nothing():
    slow = {"a": facts({"chat": 4e-7}, {"chat": 1e-6})}
    assert admitted(slow, {"a": 1}, chat=8e-6)["chat"] == 1e-6


def test_replicas_whose_annotation_tells_no_capacity_carry_what_was_planned_for_them():
    assert admitted({"a": facts({"chat": 4.0})}, {"a": 1}, chat=8.0)["chat"] == 4.0


@pytest.mark.parametrize("measured", [(), ("m/long-in",)])
def test_rates_that_are_only_declared_limit_nothing(measured):
    made = document(FULL, {"a": 1}, fleet=fleet(chat=12.0), measured=measured)
    assert {entry["admitRequestsPerSecond"] for entry in made["models"]["m"]["classes"]} == {None}
