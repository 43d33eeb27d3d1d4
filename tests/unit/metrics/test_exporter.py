"""The page that Prometheus reads: what turns did, and nothing of plans that are gone."""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from localcluster.ports import free_port
from servingplan import reconcile
from servingplan.errors import ApiError, InputError, NotFound
from servingplan.kube import PLANS, Resource
from servingplan.metrics import families
from servingplan.metrics.exporter import Exporter, PlanMetrics
from servingplan.metrics.families import FAMILIES
from servingplan.model.actions import PlacePod, ResizePool
from servingplan.model.outcome import Outcome, Refused
from servingplan.reconcile import Turns
from tests.simulated.driver import exact
from tests.simulated.plans import operator, plan

DOCS = Path(__file__).parents[3] / "docs" / "reference-metrics.md"


class Cluster:
    """A plan that was just written, for `Turns`; takes every write and does nothing about it."""

    def __init__(self, world):
        self.world = world
        self.refuses = False

    def observe(self, namespace, name):
        if self.refuses:
            raise ApiError(500, "InternalError", "no")
        return self.world

    def get(self, resource, name, **more):
        if resource is not PLANS:
            raise NotFound(404, "NotFound", name)
        plan = self.world.plan
        return {"metadata": {"uid": plan.uid, "generation": plan.generation}}

    def discover(self, api_version, kind):
        return Resource(api_version, f"{kind.lower()}s", kind)

    def merge(self, resource, name, patch, **more):
        return patch

    def apply(self, resource, manifest, **more):
        return manifest

    def create(self, resource, manifest, **more):
        return manifest


def page(exporter):
    """Samples by name and labels, read back by the parser of the format's own library."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(exporter.registry).decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(exporter, name, **labels):
    wanted = {"plan_namespace": "llm", "plan": "chat", **labels}
    return page(exporter).get((name, tuple(sorted(wanted.items()))))


def turns_of(exporter, solve=exact):
    cluster = Cluster(operator(plan()).cluster.observe())
    metrics = exporter.plan("llm", "chat")
    made = Turns(api=cluster, reader=cluster, solve=solve, namespace="llm", name="chat", metrics=metrics)
    return made, cluster


async def test_a_turn_is_counted_with_its_solve_its_writes_and_its_events():
    exporter = Exporter()
    turns, _ = turns_of(exporter)
    assert (await turns.take()).writes > 0
    assert value(exporter, "servingplan_turns_total", result="done") == 1
    assert value(exporter, "servingplan_turns_total", result="error") == 0
    assert value(exporter, "servingplan_turn_seconds_count") == 1
    assert value(exporter, "servingplan_solve_total", result="optimal", trigger="first") == 1
    assert value(exporter, "servingplan_solve_seconds_count") == 1
    assert value(exporter, "servingplan_solve_seconds_bucket", le="+Inf") == 1
    assert value(exporter, "servingplan_writes_total", action="ApplyObject", result="done") > 0
    assert value(exporter, "servingplan_pool_actions_total", pool="l40s", action="claim", result="refused") == 1
    assert value(exporter, "servingplan_events_total", type="Normal", reason="PlanSolved") == 1
    assert value(exporter, "servingplan_budget_dollars_per_hour") == 20
    assert value(exporter, "servingplan_plan_adopted_timestamp_seconds") > 1.7e9
    assert value(exporter, "servingplan_inventory_age_seconds") < 60


async def test_the_remembered_answer_is_no_second_solve():
    exporter = Exporter()
    turns, _ = turns_of(exporter)
    await turns.take()
    await turns.take()
    assert value(exporter, "servingplan_turns_total", result="done") == 2
    assert value(exporter, "servingplan_solve_seconds_count") == 1


async def test_a_solver_that_breaks_is_counted_and_what_was_known_stays():
    def broken(question, spec, at_most_seconds=None, **_):
        raise RuntimeError("no")

    exporter = Exporter()
    turns, _ = turns_of(exporter, broken)
    await turns.take()
    assert value(exporter, "servingplan_turns_total", result="done") == 1
    assert value(exporter, "servingplan_solve_total", result="error", trigger="first") == 1
    assert value(exporter, "servingplan_inventory_age_seconds") < 60


async def test_a_turn_that_the_api_server_refuses_makes_the_last_one_older():
    exporter = Exporter()
    turns, cluster = turns_of(exporter)
    await turns.take()
    cluster.refuses = True
    before = value(exporter, "servingplan_turn_age_seconds")
    await asyncio.sleep(0.02)
    with pytest.raises(ApiError):
        await turns.take()
    assert value(exporter, "servingplan_turns_total", result="api_error") == 1
    assert value(exporter, "servingplan_turn_age_seconds") >= before + 0.02
    assert value(exporter, "servingplan_budget_dollars_per_hour") == 20


async def test_metrics_that_cannot_be_told_keep_no_turn_from_its_end(monkeypatch, caplog):
    def broken(*_):
        raise KeyError("models")

    exporter = Exporter()
    turns, _ = turns_of(exporter)
    await turns.take()
    monkeypatch.setattr(reconcile, "samples", broken)
    await turns.take()
    assert "its metrics cannot be updated" in caplog.text
    assert value(exporter, "servingplan_turns_total", result="done") == 2
    assert value(exporter, "servingplan_budget_dollars_per_hour") is None


async def test_the_steps_of_a_retirement_are_turns_that_tell_what_is_still_paid():
    exporter = Exporter()
    driver = operator(plan())
    driver.settle()
    cluster = Cluster(driver.cluster.observe())
    asked = cluster.world.plan.model_copy(update={"deleting_since": cluster.world.now})
    cluster.world = cluster.world.model_copy(update={"plan": asked})
    metrics = exporter.plan("llm", "chat")
    turns = Turns(api=cluster, reader=cluster, solve=exact, namespace="llm", name="chat", metrics=metrics)
    assert not (await turns.retire(asked.uid)).gone
    assert value(exporter, "servingplan_turns_total", result="done") == 1
    assert value(exporter, "servingplan_spend_dollars_per_hour") == pytest.approx(4.0)
    assert value(exporter, "servingplan_planned_dollars_per_hour") is None


def test_ages_grow_by_the_clock():
    moment = [100.0]
    metrics = PlanMetrics(lambda: moment[0])
    with metrics.turn():
        metrics.tell({}, inventory_was_read=True)
    moment[0] = 130.0
    metrics.tell({}, inventory_was_read=False)
    assert metrics.values()[families.TURN_AGE, ()] == 30.0
    assert metrics.values()[families.INVENTORY_AGE, ()] == 30.0


def test_refused_writes_are_told_from_those_done():
    metrics = PlanMetrics()
    resize = ResizePool(why="", pool="a", before=1, nodes=2)
    place = PlacePod(why="", pod="p", uid="u", node="n", node_affinity={})
    metrics.wrote(Outcome(done=(place,), refused=(Refused(action=resize, reason="Conflict", message=""),)))
    counts = metrics.values()
    assert counts[families.WRITES, ("PlacePod", "done")] == 1
    assert counts[families.WRITES, ("ResizePool", "refused")] == 1
    assert counts[families.POOL_ACTIONS, ("a", "resize", "refused")] == 1


async def test_series_end_with_their_plan():
    exporter = Exporter()
    turns, _ = turns_of(exporter)
    await turns.take()
    exporter.forget("llm", "chat", turns.metrics)
    assert not [key for key in page(exporter) if "plan" in dict(key[1])]
    await turns.take()  # one that was under way
    assert not [key for key in page(exporter) if "plan" in dict(key[1])]


def test_who_takes_a_plan_up_is_not_forgotten_with_who_had_it_before():
    exporter = Exporter()
    before, now = exporter.plan("llm", "chat"), exporter.plan("llm", "chat")
    exporter.forget("llm", "chat", before)
    assert value(exporter, "servingplan_turn_age_seconds") is not None
    exporter.forget("llm", "chat", now)
    assert value(exporter, "servingplan_turn_age_seconds") is None


def test_labels_may_hold_anything():
    exporter = Exporter()
    metrics = exporter.plan("llm", "chat")
    metrics.tell({(families.DEMAND, ('a"b\\c\nd', "ü{}", "declared")): 1.0}, inventory_was_read=True)
    found = {name: dict(labels) for name, labels in page(exporter)}
    assert found["servingplan_demand_requests_per_second"]["model"] == 'a"b\\c\nd'


def test_the_page_is_served_until_the_end_of_the_block():
    exporter = Exporter()
    exporter.plan("llm", "chat")
    address = f"127.0.0.1:{free_port()}"
    with exporter.serving(address):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        assert 'servingplan_build_info{version="' in text
        assert "process_cpu_seconds_total" in text
        with pytest.raises(InputError, match="cannot be listened on"), Exporter().serving(address):
            pass
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=60)


@pytest.mark.parametrize("address", ["8081", ":8081", "host:", "host:port", "host:0", "host:70000"])
def test_an_address_that_is_none_is_told(address):
    with pytest.raises(InputError, match="HOST:PORT"), Exporter().serving(address):
        pass


def test_without_an_address_nothing_listens():
    with Exporter().serving(""):
        pass


def test_the_documentation_lists_every_metric_with_its_labels():
    rows = [line.split("|") for line in DOCS.read_text().splitlines() if line.startswith("| `servingplan_")]
    listed = {row[1].strip(" `"): row[2] for row in rows}
    assert list(listed) == [family.name for family in FAMILIES]
    for family in FAMILIES:
        assert tuple(listed[family.name].replace("`", "").replace(",", " ").split()) == family.labels, family.name
