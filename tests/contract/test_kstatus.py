"""kstatus, by which Flux and Helm wait, says of every state of a plan what it is: current, in progress, failed."""

import copy
import json
import subprocess

import pytest

from localcluster import binaries
from localcluster.control_plane import ControlPlane, wait_until_established
from servingplan.api.crd import custom_resource_definition
from servingplan.api.reasons import CONDITIONS, REASONS, needs_a_person
from servingplan.decide.retirement import Retirement
from servingplan.model.decision import Decision
from servingplan.model.row import Row
from servingplan.model.world import PlanObject
from servingplan.status.conditions import COUNT_IN_READY, with_ready
from servingplan.status.exceptional import retiring, turn_failed
from tests.simulated.plans import operator, plan, sized

pytestmark = pytest.mark.cluster
CURRENT, IN_PROGRESS, FAILED, TERMINATING = "Current", "InProgress", "Failed", "Terminating"
NOW = "2026-01-01T00:00:00Z"


def kstatus(*objects):
    done = subprocess.run([binaries.program("kstatus")], input=json.dumps(objects), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [item["status"] for item in json.loads(done.stdout)]


def manifest(status, *, generation=1, deleting=False):
    metadata = {"name": "chat", "namespace": "llm", "generation": generation}
    if deleting:
        metadata |= {"deletionTimestamp": NOW, "finalizers": ["servingplan.dev/retire"]}
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": metadata,
        "spec": plan(),
        "status": status,
    }


def written(rows, generation=1):
    """A status with these conditions, as it is written."""
    conditions = [
        {"type": row.type, "status": row.status, "reason": row.reason, "message": row.message,
         "observedGeneration": generation, "lastTransitionTime": NOW}
        for row in rows
    ]  # fmt: skip
    return {"observedGeneration": generation, "conditions": conditions}


def rows(condition=None, state="True", reason="AsPlanned"):
    """The conditions of a turn, all as they should be but one."""
    usual = [Row(kind, "True", "AsPlanned", "text") for kind in COUNT_IN_READY if kind != condition]
    return with_ready(usual if condition is None else [*usual, Row(condition, state, reason, "text")])


@pytest.mark.parametrize("state", ["False", "Unknown"])
def test_whatever_keeps_ready_away_is_in_progress_or_failed_where_a_person_has_to_act(state):
    cases = [(kind, reason) for kind in COUNT_IN_READY for reason in sorted(REASONS)]
    found = kstatus(*(manifest(written(rows(kind, state, reason))) for kind, reason in cases))
    wanted = [FAILED if needs_a_person(reason) else IN_PROGRESS for _, reason in cases]
    wrong = [(case, said) for case, said, right in zip(cases, found, wanted, strict=True) if said != right]
    assert not wrong
    assert FAILED in found
    assert IN_PROGRESS in found


def test_conditions_beside_ready_do_not_hold_it_up():
    """A plan that serves is current while another one waits for approval, a class is spilled or demand is not measured."""
    beside = sorted(CONDITIONS.keys() - {*COUNT_IN_READY, "Ready", "Stalled"})
    objects = [
        manifest(written(rows(kind, state, reason)))
        for kind in beside
        for state in ("True", "False", "Unknown")
        for reason in ("AwaitingApproval", "Spilled", "LastGood", "PrometheusMissing")
    ]
    assert set(kstatus(*objects)) == {CURRENT}
    assert beside


def test_a_newer_spec_is_in_progress_whatever_the_status_says_of_the_old_one():
    states = [rows(), rows("SpecValid", "False", "SpecInvalid"), rows("WorkloadsReady", "False", "RollingOut")]
    assert kstatus(*(manifest(written(state), generation=2) for state in states)) == [IN_PROGRESS] * 3


def test_turns_that_fail_are_in_progress_and_a_deleted_plan_is_terminating():
    for before in ({}, {"observedGeneration": -1}, written(rows()), written(rows("SpecValid", "False", "SpecInvalid"))):
        known = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec=plan(), status=before)
        step = Retirement(Decision(), False, left=("pool h100",), since=NOW, until=NOW)
        failed, leaving = turn_failed(known, ValueError("x"), NOW), retiring(known, step, NOW)
        assert kstatus(manifest(failed), manifest(leaving, deleting=True)) == [IN_PROGRESS, TERMINATING]


LIVES = {
    "served": (plan(), CURRENT),
    "waiting for its first approval": (plan(mode="Approve"), None),
    "too little money": (plan(budget="1"), FAILED),
    "no price": (plan(pools=[sized(price=None)]), FAILED),
    "wrong": ({**plan(), "modles": []}, FAILED),
}


@pytest.mark.parametrize("name", LIVES)
def test_a_plan_is_current_from_when_it_is_ready_and_not_before(name):
    spec, end = LIVES[name]
    driver = operator(spec)
    seen, ready = [], []
    for _ in range(40):
        driver.turn()
        found = driver.cluster.observe().plan
        seen.append(manifest(found.status, generation=found.generation))
        ready.append(any(item["type"] == "Ready" and item["status"] == "True" for item in found.status["conditions"]))
        driver.cluster.tick()
    said = kstatus(*seen)
    assert [status == CURRENT for status in said] == ready
    assert end is None or said[-1] == end
    # An edit is not current by the status of the spec before it.
    driver.cluster.edit({**spec, "change": {"minGain": "0.2"}})
    found = driver.cluster.observe().plan
    assert kstatus(manifest(found.status, generation=found.generation)) == [IN_PROGRESS]


def test_a_plan_that_no_operator_has_seen_is_in_progress():
    """Also one that was stored before an operator came: kstatus takes an object without a status for a current one."""
    with ControlPlane() as cluster:
        cluster.apply(custom_resource_definition())
        wait_until_established(cluster.kubectl, "llmservingplans.servingplan.dev")
        cluster.kubectl("create", "namespace", "llm")
        unseen = copy.deepcopy(manifest({}))
        del unseen["status"], unseen["metadata"]["generation"]
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(unseen))
        there = json.loads(cluster.kubectl("get", "lsp", "chat", "-n", "llm", "-o", "json"))
        assert kstatus(there) == [IN_PROGRESS]
