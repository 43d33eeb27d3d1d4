"""Explanations come beside the turns, never in one, and the status keeps them as long as they are true."""

import threading
import time

import pytest

from servingplan import explaining
from servingplan.decide.decide import decide
from servingplan.errors import Outdated
from servingplan.explaining import Explainer
from servingplan.model.outcome import Outcome
from servingplan.planning.explain import explain_plan
from servingplan.planning.situation import Situation
from servingplan.reconcile import Turns
from servingplan.solvers import Solvers
from servingplan.status.conclude import conclude
from servingplan.status.explained import explain, explained_as
from servingplan.verify import verify
from tests.simulated.driver import exact
from tests.simulated.plans import model, operator, plan

PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def rest():
    """A world at rest, with the status that was published."""
    driver = operator(plan(model(rate="100"), budget="6"))
    driver.settle()
    return driver.cluster.observe()


@pytest.fixture(scope="module")
def explanation(rest):
    return explain(rest, decide(Situation(rest), exact).asked, 10.0)


def wait_for(look):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def shown(status):
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_the_status_says_what_a_node_and_a_dollar_bring_and_what_full_service_takes(explanation):
    brings = {item.one_more: item.brings for item in explanation.worth}
    assert brings["1 $/h more of budget"] == "nothing"  # a node costs two
    assert brings["latency limits 1 % looser"]
    assert [item.name for item in explanation.alternatives] == ["budget+10%", "without pool:l40s"]
    assert explanation.clash[0].startswith("Not every class is served in full: these limits exclude it together")
    assert any("100 requests/s of llama-3.1-8b/chat: lower it to" in line for line in explanation.clash)


def test_the_status_keeps_an_explanation_until_another_question_is_asked(rest, explanation):
    decision = decide(Situation(rest), exact)
    first = conclude(Situation(rest), decision, Outcome(), explanation)
    assert first.explanation == explanation
    assert len(str(shown(first)["explanation"])) < 5000
    later = rest.model_copy(update={"plan": rest.plan.model_copy(update={"status": shown(first)})})
    assert shown(conclude(Situation(later), decision, Outcome())) == shown(first)
    asked_nothing = decision.model_copy(update={"asked": None})
    assert conclude(Situation(later), asked_nothing, Outcome()).explanation == explanation
    other = decision.model_copy(update={"asked": "another"})
    assert conclude(Situation(later), other, Outcome()).explanation is None


def test_an_explanation_without_time_says_how_much_it_left_out(rest):
    found = explain_plan(Situation(rest), deadline_seconds=1e-6)
    assert found.explanation.worth == ()
    assert found.explanation.not_asked > 0
    assert verify(found.question, found.answer) == ()


def test_an_explanation_is_computed_once(rest, explanation):
    asked, let = [], threading.Event()

    def explaining_it(world, digest, deadline_seconds, unwanted):
        assert let.wait(PATIENCE_SECONDS)
        asked.append((digest, deadline_seconds))
        return explanation

    explainer = Explainer(explaining_it)
    decision = decide(Situation(rest), exact)
    assert explainer.begin(Situation(rest), decision)
    assert explainer.begin(Situation(rest), decision)  # the same one, still under way
    assert explainer.of(decision) is None
    let.set()
    wait_for(lambda: explainer.of(decision) is explanation)
    assert asked == [(decision.asked, 10.0)]
    assert not explainer.begin(Situation(rest), decision)


@pytest.mark.parametrize("another", [True, False], ids=["another question", "the plan is gone"])
def test_an_explanation_that_nobody_wants_any_more_is_given_up(rest, explanation, another):
    given_up = threading.Event()

    def explaining_it(world, digest, deadline_seconds, unwanted):
        if digest == "new":
            return explanation
        wait_for(unwanted)
        given_up.set()
        raise Outdated("nobody wants it")

    explainer = Explainer(explaining_it)
    old = decide(Situation(rest), exact).model_copy(update={"asked": "old"})
    new = old.model_copy(update={"asked": "new"})
    explainer.begin(Situation(rest), old)
    if another:
        explainer.begin(Situation(rest), new)
        wait_for(lambda: explainer.of(new) is explanation)
    else:
        explainer.stop()
    assert given_up.wait(PATIENCE_SECONDS)
    assert explainer.of(old) is None


def test_a_question_of_the_moment_is_not_explained(rest, explanation):
    asked = []

    def explaining_it(world, digest, deadline_seconds, unwanted):
        asked.append(digest)
        return explanation

    explainer = Explainer(explaining_it, after_seconds=3600.0)
    old = decide(Situation(rest), exact).model_copy(update={"asked": "old"})
    assert explainer.begin(Situation(rest), old)
    explainer._after_seconds = 0.0
    new = old.model_copy(update={"asked": "new"})
    assert explainer.begin(Situation(rest), new)
    wait_for(lambda: explainer.of(new) is explanation)
    wait_for(lambda: not any(thread.name.startswith("explain") for thread in threading.enumerate()))
    assert asked == ["new"]


@pytest.mark.slow
def test_a_process_explains_as_this_one_does_and_is_gone_afterwards(rest, explanation):
    solvers = Solvers(shared=1)
    try:
        assert solvers.explain(rest, decide(Situation(rest), exact).asked, 10.0) == explanation
        assert all(worker._process is None for worker in solvers._explaining._all)
    finally:
        solvers.stop()


def test_an_explanation_that_fails_is_logged_and_not_tried_again(rest, caplog):
    def explaining_it(world, digest, deadline_seconds, unwanted):
        raise RuntimeError("broken")

    explainer = Explainer(explaining_it)
    decision = decide(Situation(rest), exact)
    explainer.begin(Situation(rest), decision)
    wait_for(lambda: not explainer.begin(Situation(rest), decision))
    assert explainer.of(decision) is None
    assert "could not be explained" in caplog.text


class Cluster:
    """The world at rest for `Turns`: what is read, and the status that is written."""

    def __init__(self, world):
        self.world = world
        self.statuses = []

    def observe(self, namespace, name):
        return self.world

    def apply(self, resource, manifest, **more):
        self.statuses.append(manifest["status"])
        plan = self.world.plan.model_copy(update={"status": manifest["status"]})
        self.world = self.world.model_copy(update={"plan": plan})


async def test_a_turn_that_has_nothing_to_write_is_followed_by_an_explanation_in_the_status(rest, monkeypatch):
    cluster = Cluster(rest)
    turns = Turns(api=cluster, reader=cluster, solve=exact, namespace="llm", name="chat")
    report = await turns.take()
    assert report.writes == 0
    assert report.wake_in_seconds <= 2
    wait_for(lambda: turns._explainer.of(report.decision))
    again = await turns.take()
    assert again.writes == 1
    (status,) = cluster.statuses
    assert status["explanation"]["of"] == explained_as(report.decision.asked)
    monkeypatch.setattr(explaining, "explain", None)  # whoever starts now finds it in the status
    restarted = Turns(api=cluster, reader=cluster, solve=exact, namespace="llm", name="chat")
    assert (await restarted.take()).writes == 0
    assert len(cluster.statuses) == 1
