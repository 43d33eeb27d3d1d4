"""Somebody else sets the number of replicas of a Deployment of ours: told by name, left for a minute, then set back."""

import pytest

from servingplan.model import names
from servingplan.model.world import LiveObject
from servingplan.observe.parse import replicas_owner
from servingplan.rollout.owners import HOLD_SECONDS, TOLD_SECONDS, contest_of

HPA = "kube-controller-manager"
NOW = "2026-01-01T01:00:00Z"


def entry(manager, *fields, subresource=None, time="2026-01-01T00:59:30Z"):
    made = {"manager": manager, "time": time, "fieldsV1": {"f:spec": {f"f:{field}": {} for field in fields}}}
    return made if subresource is None else {**made, "subresource": subresource}


@pytest.mark.parametrize(
    ("entries", "owner"),
    [
        ([entry("servingplan", "replicas", "template")], None),
        ([entry("servingplan", "template"), entry(HPA, "replicas", subresource="scale")], HPA),
        ([entry("kubectl-edit", "replicas")], "kubectl-edit"),
        ([entry("kubectl-rollout", "template")], None),
        ([], None),
    ],
)
def test_who_else_owns_the_number_of_replicas(entries, owner):
    found = replicas_owner({"metadata": {"managedFields": entries}})
    assert found == (None if owner is None else (owner, "2026-01-01T00:59:30Z"))


def live(replicas, *, owner=None, since="2026-01-01T00:59:30Z", noted=None):
    annotations = {} if noted is None else {names.REPLICAS_SET_BY_ANNOTATION: noted}
    return LiveObject(
        kind="Deployment",
        name="d",
        uid="u",
        ours=True,
        owner="LLMServingPlan chat",
        manifest={"metadata": {"annotations": annotations}, "spec": {"replicas": replicas}},
        replicas_owner=None if owner is None else (owner, since),
    )


def test_their_number_is_left_for_a_while_and_then_set_back():
    found = contest_of(live(5, owner="keda"), wish=2, now=NOW)
    assert (found.manager, found.replicas, found.wish, found.hold_seconds) == ("keda", 5, 2, HOLD_SECONDS - 30)
    later = contest_of(live(5, owner="keda", since="2026-01-01T00:59:00Z"), wish=2, now=NOW)
    assert later.hold_seconds == 0


def test_a_lower_number_is_set_back_at_once():
    """Requests of the replicas that are missing are answered with 429 or 503 meanwhile."""
    found = contest_of(live(0, owner="kubectl-scale"), wish=2, now=NOW)
    assert (found.manager, found.hold_seconds) == ("kubectl-scale", 0)
    assert "is set in 0 s" not in found.told


def test_their_number_that_is_the_plan_s_is_no_contest():
    assert contest_of(live(2, owner="keda"), wish=2, now=NOW) is None
    assert contest_of(live(5), wish=2, now=NOW) is None


def test_one_that_was_set_back_is_told_for_a_while():
    found = contest_of(live(2, noted="keda 2026-01-01T00:51:00Z"), wish=2, now=NOW)
    assert (found.manager, found.hold_seconds) == ("keda", 0)
    assert TOLD_SECONDS == 600
    assert contest_of(live(2, noted="keda 2026-01-01T00:50:00Z"), wish=2, now=NOW) is None
    assert contest_of(live(2, noted="nonsense"), wish=2, now=NOW) is None


def test_a_number_of_long_ago_is_set_back_and_not_told():
    assert contest_of(live(5, owner="keda", since="2026-01-01T00:40:00Z"), wish=2, now=NOW) is None
