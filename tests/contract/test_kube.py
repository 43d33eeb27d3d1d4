"""The adapter against a real API server: what it promises to everything above it."""

from __future__ import annotations

import threading

import kubernetes.config
import pytest

from e2e.support.waiting import wait_for
from localcluster.control_plane import ControlPlane
from servingplan.errors import ApiError, Conflict, Forbidden, Invalid, NotFound
from servingplan.kube import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    LEADER_WORKER_SETS,
    NODES,
    PODS,
    SERVICES,
    Kube,
    Resource,
)
from servingplan.observe.urls import NoAnswer, UrlPolicy, UrlRefused

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as up:
        yield up


@pytest.fixture(scope="module")
def kube(cluster):
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as client:
        yield Kube(client)


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


def test_what_is_not_there_is_not_found(kube):
    with pytest.raises(NotFound):
        kube.get(CONFIG_MAPS, "nothing", namespace="default")
    with pytest.raises(NotFound):
        kube.merge(PODS, "nothing", {"metadata": {}}, manager="m", namespace="default")


def test_deleting_what_is_gone_is_no_error(kube):
    kube.delete(CONFIG_MAPS, "nothing", uid="0", namespace="default")


def test_server_side_apply_creates_changes_and_drops_what_it_no_longer_names(kube):
    kube.apply(CONFIG_MAPS, config_map("applied", a="1", b="2"), manager="servingplan", force=True)
    assert kube.apply(CONFIG_MAPS, config_map("applied", a="3"), manager="servingplan", force=True)["data"] == {
        "a": "3"
    }


def test_another_managers_field_is_a_conflict_unless_forced(kube):
    kube.apply(CONFIG_MAPS, config_map("shared", a="theirs"), manager="them", force=True)
    with pytest.raises(Conflict, match="them"):
        kube.apply(CONFIG_MAPS, config_map("shared", a="ours"), manager="servingplan", force=False)
    assert (
        kube.apply(CONFIG_MAPS, config_map("shared", a="ours"), manager="servingplan", force=True)["data"]["a"]
        == "ours"
    )


def test_a_stale_version_is_a_conflict(kube):
    made = kube.apply(CONFIG_MAPS, config_map("versioned", a="1"), manager="servingplan", force=True)
    kube.merge(CONFIG_MAPS, "versioned", {"data": {"a": "2"}}, manager="x", namespace="default")
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"a": "3"}}
    with pytest.raises(Conflict):
        kube.merge(CONFIG_MAPS, "versioned", stale, manager="x", namespace="default")


def test_a_json_patch_whose_test_fails_changes_nothing(kube):
    kube.apply(CONFIG_MAPS, config_map("tested", a="1"), manager="servingplan", force=True)

    def patch(seen):
        operations = [
            {"op": "test", "path": "/data/a", "value": seen},
            {"op": "add", "path": "/data/b", "value": "2"},
        ]
        return kube.json_patch(CONFIG_MAPS, "tested", operations, manager="x", namespace="default")

    with pytest.raises(Invalid):
        patch("other")
    assert kube.get(CONFIG_MAPS, "tested", namespace="default")["data"] == {"a": "1"}
    assert patch("1")["data"] == {"a": "1", "b": "2"}


def test_another_uid_is_refused(kube):
    kube.apply(CONFIG_MAPS, config_map("identity"), manager="servingplan", force=True)
    with pytest.raises(Conflict):
        kube.delete(CONFIG_MAPS, "identity", uid="00000000-0000-0000-0000-000000000000", namespace="default")
    with pytest.raises((Conflict, Invalid), match="uid"):
        kube.merge(CONFIG_MAPS, "identity", {"metadata": {"uid": "other"}}, manager="x", namespace="default")


def test_what_the_schema_refuses_is_invalid(kube):
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "bad", "namespace": "default"},
        "spec": {
            "replicas": -1,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}},
        },
    }
    with pytest.raises(Invalid, match="replicas"):
        kube.apply(DEPLOYMENTS, manifest, manager="servingplan", force=True)


def test_a_missing_right_is_forbidden_and_names_verb_and_resource(cluster, kube, tmp_path):
    from localcluster import service_account

    path = service_account.write_kubeconfig(cluster.kubeconfig, "default", "default", tmp_path / "nobody")
    with kubernetes.config.new_client_from_config(str(path)) as client, pytest.raises(Forbidden, match=r"list.*nodes"):
        list(Kube(client).list(NODES))


def test_a_server_that_does_not_answer_is_an_api_error(tmp_path):
    import kubernetes.client

    configuration = kubernetes.client.Configuration()
    configuration.host = "http://127.0.0.1:9"
    with kubernetes.client.ApiClient(configuration) as client, pytest.raises(ApiError) as caught:
        Kube(client).get(NODES, "any")
    assert caught.value.status == 0


def test_lists_come_page_by_page_and_whole(kube, monkeypatch):
    monkeypatch.setattr("servingplan.kube.PAGE_SIZE", 2)
    for index in range(5):
        manifest = config_map(f"page-{index}")
        manifest["metadata"]["labels"] = {"page": "yes"}
        kube.apply(CONFIG_MAPS, manifest, manager="servingplan", force=True)
    found = list(kube.list(CONFIG_MAPS, namespace="default", labels="page=yes"))
    assert sorted(item["metadata"]["name"] for item in found) == [f"page-{index}" for index in range(5)]


def test_a_watch_begins_with_what_is_there_and_tells_of_changes(kube):
    manifest = config_map("watched", a="1")
    manifest["metadata"]["labels"] = {"watched": "yes"}
    kube.apply(CONFIG_MAPS, manifest, manager="servingplan", force=True)
    seen = []

    def look():
        for kind, item in kube.watch(CONFIG_MAPS, namespace="default", labels="watched=yes"):
            if kind in ("ADDED", "MODIFIED", "DELETED"):
                seen.append((kind, item.get("data")))
            if kind == "DELETED":
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    wait_for("what is there is told", lambda: seen, seconds=10)
    kube.merge(CONFIG_MAPS, "watched", {"data": {"a": "2"}}, manager="x", namespace="default")
    wait_for("a change is told", lambda: len(seen) > 1, seconds=10)
    made = kube.get(CONFIG_MAPS, "watched", namespace="default")
    kube.delete(CONFIG_MAPS, "watched", uid=made["metadata"]["uid"], namespace="default")
    thread.join(60)
    assert [kind for kind, _ in seen] == ["ADDED", "MODIFIED", "DELETED"]


def test_discovery_finds_a_kind_and_says_which_it_does_not_know(kube):
    assert kube.discover("apps/v1", "Deployment") == Resource("apps/v1", "deployments", "Deployment", True)
    with pytest.raises(NotFound):
        kube.discover("apps/v1", "Nonsense")
    with pytest.raises(NotFound):
        kube.discover("nowhere.example/v1", "Thing")


def test_a_kind_that_is_installed_while_we_run_is_found(kube):
    with pytest.raises(NotFound):
        kube.discover(LEADER_WORKER_SETS.api_version, LEADER_WORKER_SETS.kind)
    group, version = LEADER_WORKER_SETS.api_version.split("/")
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"leaderworkersets.{group}",
            # The API server wants to know who approved a group under x-k8s.io.
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/lws"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": LEADER_WORKER_SETS.kind, "plural": "leaderworkersets", "singular": "leaderworkerset"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }
    definitions = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", False)
    kube.create(definitions, definition)

    def found():
        try:
            return kube.discover(LEADER_WORKER_SETS.api_version, LEADER_WORKER_SETS.kind)
        except NotFound:
            return None

    assert wait_for("the kind is found", found, seconds=20) == LEADER_WORKER_SETS


def test_what_is_followed_begins_with_a_list_and_goes_on_from_it(kube):
    for name in ("followed", "unfollowed"):
        kube.apply(CONFIG_MAPS, config_map(name, a="1"), manager="servingplan", force=True)
    events = kube.follow(CONFIG_MAPS, namespace="default", fields="metadata.name=followed")
    kind, listed = next(events)
    assert (kind, [item["metadata"]["name"] for item in listed["items"]]) == ("LISTED", ["followed"])
    kube.merge(
        CONFIG_MAPS, "followed", {"data": {"a": "2"}}, manager="x", namespace="default"
    )  # before the watch begins
    kube.merge(CONFIG_MAPS, "unfollowed", {"data": {"a": "2"}}, manager="x", namespace="default")
    kube.delete(CONFIG_MAPS, "followed", uid=listed["items"][0]["metadata"]["uid"], namespace="default")
    seen = [next(events), next(events)]
    assert [(kind, item["data"]) for kind, item in seen] == [("MODIFIED", {"a": "2"}), ("DELETED", {"a": "2"})]
    events.close()


def test_a_plans_url_leads_to_the_service_as_the_api_server_has_it(kube):
    def service(name, **spec):
        metadata = {"name": name, "namespace": "default"}
        manifest = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
        return kube.apply(SERVICES, manifest, manager="m", force=True)

    policy = UrlPolicy(kube, allowed_hosts=frozenset())

    def addresses(name):
        return policy.target(f"http://{name}.default:8080/x", field="f", namespace="default").addresses

    ports = [{"port": 8080}]
    made = service("gateway", selector={"app": "gateway"}, ports=ports)
    assert addresses("gateway") == (made["spec"]["clusterIP"],)
    service("replicas", clusterIP="None", selector={"app": "gateway"}, ports=ports)
    with pytest.raises(NoAnswer):
        addresses("replicas")
    endpoints = [
        {"addresses": ["10.0.0.2"], "conditions": {"ready": True}},
        {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": False}},
    ]
    labels = {"kubernetes.io/service-name": "replicas"}
    found = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "replicas-1", "namespace": "default", "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }
    kube.apply(ENDPOINT_SLICES, found, manager="m", force=True)
    assert addresses("replicas") == ("10.0.0.1", "10.0.0.2")
    service("away", type="ExternalName", externalName="metadata.google.internal")
    with pytest.raises(UrlRefused):
        addresses("away")
