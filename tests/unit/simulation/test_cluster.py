"""The simulated cluster's front door refuses what an API server refuses, and shows what is written through it."""

import copy

import pytest

from servingplan.errors import Conflict, Gone, Invalid, NotFound
from servingplan.kube import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS
from servingplan.model import names
from servingplan.observe.state import ClusterState
from servingplan.rehearse.cluster import NAMESPACE
from servingplan.rehearse.objects import NODE_POOLS
from servingplan.rehearse.patches import applied, merged, patched
from tests.simulated.plans import operator, plan


@pytest.fixture
def cluster():
    """With two replicas that wait for their nodes."""
    driver = operator(plan())
    driver.turn()
    return driver.cluster


def a_pod(cluster):
    return cluster.api.get(PODS, min(cluster.pods), namespace=NAMESPACE)


def test_a_pod_of_a_node_that_is_gone_is_ready_in_the_api_and_not_to_the_operator():
    driver = operator(plan(), collect_ticks=5)
    driver.settle()
    driver.cluster.lose_node("l40s-1")
    (ghost,) = [pod for pod in driver.cluster.our_pods() if pod.node == "l40s-1"]
    (condition,) = driver.cluster.api.get(PODS, ghost.name, namespace=NAMESPACE)["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("Ready", "True")
    assert not next(pod for pod in driver.cluster.observe().pods if pod.name == ghost.name).ready


def test_an_object_that_does_not_change_keeps_its_version_and_one_that_does_gets_a_later_one(cluster):
    before = a_pod(cluster)
    cluster.tick()
    assert a_pod(cluster) is before
    cluster.pods[before["metadata"]["name"]].reports_ready = True
    assert int(a_pod(cluster)["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])


def test_a_size_is_written_only_by_whoever_saw_the_last_version(cluster):
    version = cluster.api.get(NODE_POOLS, "l40s")["metadata"]["resourceVersion"]
    patch = {"metadata": {"resourceVersion": version}, "spec": {"replicas": 1}}
    cluster.api.merge(NODE_POOLS, "l40s", patch, manager=names.POOL_MANAGER)
    with pytest.raises(Conflict):
        cluster.api.merge(NODE_POOLS, "l40s", patch, manager=names.POOL_MANAGER)
    assert cluster.pools["l40s"].wanted == 1


def test_a_pod_is_neither_patched_nor_deleted_by_another_uid(cluster):
    name = min(cluster.pods)
    with pytest.raises(Conflict, match="uid"):
        cluster.api.merge(PODS, name, {"metadata": {"uid": "other"}}, manager="m", namespace=NAMESPACE)
    with pytest.raises(Conflict):
        cluster.api.delete(PODS, name, uid="other", namespace=NAMESPACE)
    assert cluster.api.delete(PODS, "nobody", uid="x", namespace=NAMESPACE) is None


def test_a_json_patch_whose_test_fails_changes_nothing(cluster):
    name, before = min(cluster.pods), copy.deepcopy(a_pod(cluster))
    operations = [
        {"op": "add", "path": "/metadata/annotations/servingplan.dev~1placed-on", "value": "n"},
        {"op": "test", "path": "/spec/schedulingGates", "value": []},
    ]
    with pytest.raises(Invalid):
        cluster.api.json_patch(PODS, name, operations, manager="m", namespace=NAMESPACE)
    assert a_pod(cluster) == before


def test_what_the_cluster_has_no_place_for_is_not_swallowed(cluster):
    patch = {"metadata": {"annotations": {"other": "x"}}}
    with pytest.raises(AssertionError, match="no place"):
        cluster.api.merge(PODS, min(cluster.pods), patch, manager="m", namespace=NAMESPACE)


def test_an_object_that_is_made_anew_under_its_name_has_another_uid(cluster):
    (name,) = [name for kind, name in cluster.objects if kind == "Deployment"]
    before = cluster.api.get(DEPLOYMENTS, name, namespace=NAMESPACE)
    assert cluster.api.delete(DEPLOYMENTS, name, uid=before["metadata"]["uid"], namespace=NAMESPACE) is None
    with pytest.raises(NotFound):
        cluster.api.get(DEPLOYMENTS, name, namespace=NAMESPACE)
    manifest = {key: before[key] for key in ("apiVersion", "kind", "metadata", "spec")}
    after = cluster.api.apply(DEPLOYMENTS, manifest, manager=names.FIELD_MANAGER, force=True)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]


def test_a_node_that_comes_back_under_its_name_is_another_object(cluster):
    cluster.add_node("n", {}, 1)
    before = cluster.api.get(NODES, "n")["metadata"]["uid"]
    cluster.lose_node("n")
    cluster.add_node("n", {}, 1)
    assert cluster.api.get(NODES, "n")["metadata"]["uid"] != before


def test_a_watch_tells_of_what_its_selector_has_no_more_as_deleted():
    driver = operator(plan())
    driver.turn()
    api = driver.cluster.api
    (page,) = api.pages(CONFIG_MAPS, labels=names.PLAN_LABEL)
    since = page["metadata"]["resourceVersion"]
    driver.cluster.foreign_objects.add(("ConfigMap", "chat-plan"))
    events = list(api.watch(CONFIG_MAPS, labels=names.PLAN_LABEL, since=since))
    assert [(kind, item["metadata"].get("name")) for kind, item in events[1:-1]] == [("DELETED", "chat-plan")]
    assert events[-1][0] == "BOOKMARK"
    api.compact()
    with pytest.raises(Gone):
        list(api.watch(CONFIG_MAPS, since=since))


def test_a_copy_of_the_cluster_goes_its_own_way_from_the_same_version(cluster):
    other = copy.deepcopy(cluster)
    assert other.api.version == cluster.api.version
    other.pods.clear()
    assert len(list(other.api.list(PODS))) == 0
    assert len(list(cluster.api.list(PODS))) == 2


def test_informers_that_follow_hold_what_a_fresh_list_holds():
    driver = operator(plan())
    driver.settle()
    driver.cluster.lose_node("l40s-1")
    driver.tick(3)
    fresh = ClusterState(driver.cluster.api, clock=driver.cluster.seconds)
    with driver.cluster.api.one_moment():
        driver.operator.state.step()
        fresh.load()
    followed, listed = driver.operator.state.snapshot(), fresh.snapshot()
    for source in ("plans", "nodes", "pods", "slices"):
        assert sorted(map(str, getattr(followed, source))) == sorted(map(str, getattr(listed, source))), source
    for kind, found in listed.objects.items():
        assert sorted(map(str, followed.objects[kind])) == sorted(map(str, found)), kind


def test_the_three_ways_of_writing_are_those_of_their_standards():
    live = {"a": {"ours": 1, "theirs": 2}, "list": [1, 2]}
    assert applied(live, {"a": {"ours": 1, "old": 0}}, {"a": {}, "list": [3]}) == {"a": {"theirs": 2}, "list": [3]}
    # RFC 7386, section 3
    before = {"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"}, "tags": ["a", "b"]}
    patch = {"title": "Hello!", "author": {"familyName": None}, "tags": ["a"], "phone": "1"}
    assert merged(before, patch) == {"title": "Hello!", "author": {"givenName": "John"}, "tags": ["a"], "phone": "1"}
    # RFC 6902, appendix A
    assert patched({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}]) == {"foo": ["bar", "baz"]}
    assert patched({"foo": "bar"}, [{"op": "add", "path": "/m~1n", "value": 1}]) == {"foo": "bar", "m/n": 1}
    with pytest.raises(Invalid):
        patched({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "bar"}])
