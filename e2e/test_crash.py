"""The operator is killed right before and right after every one of its writes, and comes back each time.

One plan is applied until it serves, edited so that a replica is drained and a node given back, and deleted. Its first,
undisturbed life tells which writes that takes. Then it lives again and again, with SIGKILL once in each of the three
phases, until each write has had its death before it and its death after it. Every phase must end where it ended in the
undisturbed life, and everything that the API server showed meanwhile is held against what must never happen.

The second and later statuses and Events of a phase, and the third and later records, are no moments of death: they tell what
came of earlier writes, and what one life tells in two turns another tells in one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

import pytest

from e2e.crash_support import (
    BUDGET,
    BUDGET_DOLLARS,
    DEPLOYMENT_LABEL,
    FIXED_DOLLARS,
    PLAN,
    RENTED_DOLLARS,
    Death,
    Json,
    Life,
    Stage,
    State,
    annotations_of,
    is_ready,
    kind_of,
    labels_of,
    numbered,
    states,
)
from e2e.support.cluster import Cluster
from localcluster.proxy import Moment, Write

LIVES_AT_A_TIME = 12
MOMENTS = {"status": 1, "event": 1, "record": 2}
"""How many writes of a kind are moments of death in each phase; of other kinds all are."""
LAST_TURN = {"record", "status", "event"}
"""Kinds of writes of a plan that serves, not of one that retires."""


@pytest.fixture(scope="module")
def stage(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """What all lives share."""
    if not (cluster.has_karpenter and cluster.has_kwok):
        pytest.skip("this cluster lacks Karpenter with its KWOK provider, or a KWOK that plays nodes")
    with Stage(cluster, tmp_path_factory.mktemp("crash")) as stage:
        yield stage


@pytest.fixture(scope="module")
def undisturbed(stage: Stage) -> Life:
    """A life without a kill."""
    return stage.live("undisturbed")


@pytest.fixture(scope="module")
def lives(stage: Stage, undisturbed: Life) -> list[Life]:
    """Lives in which each write of each phase was once the moment of death, before it and after it."""
    deaths = {
        phase: [Death(phase, kind, ordinal, moment) for kind, ordinal in _moments(writes) for moment in Moment]
        for phase, writes in undisturbed.writes.items()
    }
    shares = [dict(zip(deaths, each, strict=True)) for each in zip_longest(*deaths.values())]
    with ThreadPoolExecutor(max_workers=LIVES_AT_A_TIME) as pool:
        return list(pool.map(lambda number: stage.live(f"life-{number}", shares[number]), range(len(shares))))


def test_a_life_has_every_kind_of_write(undisturbed: Life) -> None:
    assert {kind_of(write) for writes in undisturbed.writes.values() for write in writes} == {
        "finalizer",
        "record",
        "service",
        "disruption budget",
        "deployment",
        "pool",
        "place",
        "routing",
        "status",
        "event",
        "drain",
        "scale down",
        "delete deployment",
        "delete service",
        "delete disruption budget",
    }
    assert undisturbed.served["deployments"] == {"large on fixed": 1, "large on rented": 1}
    assert undisturbed.edited["deployments"] == {"large on fixed": 1}


def test_it_was_killed_before_and_after_every_write(undisturbed: Life, lives: list[Life]) -> None:
    for phase, writes in undisturbed.writes.items():
        died = {death for life in lives for death, _ in life.died if death.phase == phase}
        every = {Death(phase, kind, ordinal, moment) for kind, ordinal in _moments(writes) for moment in Moment}
        # Weights that one life publishes in two turns another publishes in one. A turn that a deletion finds under way still
        # writes in one life, not in another.
        may_lack = {
            death
            for death in every
            if (death.kind == "routing" and death.ordinal > 1) or (phase == "delete" and death.kind in LAST_TURN)
        }
        assert every - died <= may_lack


def test_it_comes_to_the_same_end_as_an_undisturbed_run(undisturbed: Life, lives: list[Life]) -> None:
    for life in lives:
        assert life.served == undisturbed.served, life.describe()
        assert life.edited == undisturbed.edited, life.describe()


def test_nothing_of_a_deleted_plan_is_left(stage: Stage, lives: list[Life]) -> None:
    assert lives
    stage.wait_until_collected()


def test_no_shape_ever_has_two_deployments(undisturbed: Life, lives: list[Life]) -> None:
    for life, state in _all_states(undisturbed, lives):
        shapes = [_shape(item) for item in state.all("Deployment")]
        assert len(shapes) == len(set(shapes)), life.describe()


def test_there_are_never_more_live_pods_than_planned(undisturbed: Life, lives: list[Life]) -> None:
    planned: dict[str, int] = {}
    for life, state in _all_states(undisturbed, lives):
        if (fleet := state.record.fleet) is not None:
            planned |= {item.deployment: item.replicas for item in fleet.replica_sets}
        alive: dict[str, int] = defaultdict(int)
        for pod in state.all("Pod"):
            if "deletionTimestamp" not in pod["metadata"]:
                alive[labels_of(pod)[DEPLOYMENT_LABEL]] += 1
        assert all(count <= planned[name] for name, count in alive.items()), life.describe()


def test_every_object_is_the_plans_and_was_written_down_before(undisturbed: Life, lives: list[Life]) -> None:
    known: set[str] = set()
    owner = None
    for life, state in _all_states(undisturbed, lives):
        if (found := state.one("LLMServingPlan")) is not None:
            owner = found["metadata"]["uid"]
        if (fleet := state.record.fleet) is not None:
            known |= {item.deployment for item in fleet.replica_sets}
        known |= {f"{PLAN}-plan", f"{PLAN}-routing"}
        for item in (*state.all("Deployment"), *state.all("Service"), *state.all(BUDGET), *state.ours("ConfigMap")):
            owners = [reference["uid"] for reference in item["metadata"].get("ownerReferences", ())]
            assert owners == [owner], life.describe()
            assert item["metadata"]["name"] in known, life.describe()


def test_spend_is_never_above_the_budget(undisturbed: Life, lives: list[Life]) -> None:
    most = 0.0
    for life, state in _all_states(undisturbed, lives):
        fixed = {node["metadata"]["name"] for node in state.nodes("fixed")}
        used = {pod["spec"].get("nodeName") for pod in state.all("Pod")} & fixed
        rented = max(state.asked_nodes, len(state.nodes("rented")))
        spend = FIXED_DOLLARS * len(used) + RENTED_DOLLARS * rented
        assert spend <= BUDGET_DOLLARS, life.describe()
        most = max(most, spend)
    assert most == BUDGET_DOLLARS


def test_weights_are_only_ever_on_ready_replicas(undisturbed: Life, lives: list[Life]) -> None:
    for life, state in _all_states(undisturbed, lives):
        models = (state.routing or {}).get("models", {})
        targets = [item for model in models.values() for entry in model["classes"] for item in entry["targets"]]
        serving = {
            labels_of(pod)[DEPLOYMENT_LABEL]
            for pod in state.all("Pod")
            if is_ready(pod) and labels_of(pod)["servingplan.dev/serving"] == "true"
        }
        assert {item["service"] for item in targets if item["weight"] > 0} <= serving, life.describe()


def test_a_pod_is_placed_once_and_runs_where_it_was_placed(undisturbed: Life, lives: list[Life]) -> None:
    for life in (undisturbed, *lives):
        places: dict[str, set[str]] = defaultdict(set)
        for change in life.changes:
            if change.kind == "Pod":
                placed = annotations_of(change.item).get("servingplan.dev/placed-on")
                bound = change.item["spec"].get("nodeName")
                assert bound in (None, placed), life.describe()
                places[change.uid] |= {placed} if placed else set()
        assert all(len(nodes) <= 1 for nodes in places.values()), life.describe()
        done = [write.path for write in life.writes["apply"] if kind_of(write) == "place" and write.status == 200]
        assert len(done) == len(set(done)), life.describe()


def _moments(writes: Iterable[Write]) -> list[tuple[str, int]]:
    """The writes that are moments of death, each as its kind and the how-manieth of its kind it is."""
    return [(kind, ordinal) for kind, ordinal in numbered(writes) if ordinal <= MOMENTS.get(kind, ordinal)]


def _all_states(undisturbed: Life, lives: list[Life]) -> Iterator[tuple[Life, State]]:
    for life in (undisturbed, *lives):
        for _, state in states(life.changes):
            yield life, state


def _shape(deployment: Json) -> str:
    """What a replica is, without the names that it goes by."""
    template = deployment["spec"]["template"]
    return json.dumps([template["spec"], annotations_of(template)], sort_keys=True)
