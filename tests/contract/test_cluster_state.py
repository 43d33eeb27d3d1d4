"""The cluster's state against a real API server: what it does when watches end, when versions grow old, when kinds are added
and removed, and when the API server dies."""

from __future__ import annotations

import signal
import time

import kubernetes.config
import pytest

from e2e.support.rights_used import Account, story_of
from e2e.support.waiting import wait_for
from localcluster.audit import AuditLog
from localcluster.control_plane import ControlPlane
from localcluster.operator_process import NAMESPACE, USER, OperatorProcess
from servingplan.errors import NotFound
from servingplan.kube import CONFIG_MAPS, Kube, Resource
from servingplan.lease import ALL, LEASES
from servingplan.observe.state import ClusterState, Overlaid
from servingplan.watch.informer import Informer, Source

pytestmark = pytest.mark.cluster

CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", False)


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane(audit=True) as up:
        yield up


@pytest.fixture(scope="module")
def kube(cluster):
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as client:
        yield Kube(client)


@pytest.fixture
def state(kube):
    made = ClusterState(kube)
    made.start()
    assert made.wait_settled(60)
    yield made
    made.stop()


def config_map(name, plan="chat", **data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": {"servingplan.dev/plan": plan}},
        "data": data,
    }


def data_of(state, name):
    found = [item.live for item in state.snapshot().objects["ConfigMap"] if item.live.name == name]
    return found[0].manifest["data"] if found else None


def test_what_others_write_is_seen_and_what_we_write_is_there_at_once(kube, state):
    kube.apply(CONFIG_MAPS, config_map("theirs", a="1"), manager="x", force=True)
    wait_for("it is seen", lambda: data_of(state, "theirs") == {"a": "1"}, seconds=30)
    ours = Overlaid(kube, state)
    for number in range(50):
        ours.apply(CONFIG_MAPS, config_map("ours", a=str(number)), manager="x", force=True)
        assert data_of(state, "ours") == {"a": str(number)}
    made = kube.get(CONFIG_MAPS, "ours", namespace="default")
    ours.delete(CONFIG_MAPS, "ours", uid=made["metadata"]["uid"], namespace="default")
    assert data_of(state, "ours") is None
    kube.apply(CONFIG_MAPS, config_map("theirs", a="2"), manager="x", force=True)
    wait_for("a later change is seen", lambda: data_of(state, "theirs") == {"a": "2"}, seconds=30)
    assert data_of(state, "ours") is None


def test_a_version_that_is_too_old_is_listed_anew(kube):
    kube.apply(CONFIG_MAPS, config_map("aged", a="1"), manager="x", force=True)
    source = Source("things", lambda api: CONFIG_MAPS, lambda item: item["metadata"]["name"], "default")
    made = Informer(kube, source)
    made.load()
    made._version = "1"
    made.start()
    try:
        wait_for("it goes on from a version of now", lambda: int(made._version or 0) > 1, seconds=60)
        assert "aged" in made.facts
    finally:
        made.stop()


def definition(group, kind, versions):
    plural = f"{kind.lower()}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {"name": version, "served": True, "storage": version == versions[0], "schema": schema}
                for version in versions
            ],
        },
    }


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha1", "v1"])
def test_objects_that_size_pools_are_followed_in_the_version_that_a_plan_names(kube, state, version):
    group, kind = f"{version}.pools.example", "Machines"
    kube.create(CRDS, definition(group, kind, [version]))
    api_version, resource = f"{group}/{version}", Resource(f"{group}/{version}", "machiness", kind)

    def served():
        try:
            return state.pool(api_version, kind, "default", "p")[1] is None
        except NotFound:
            return False

    wait_for("the kind is served", served, seconds=60)
    item = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"replicas": 3},
    }
    kube.create(resource, item, namespace="default")
    found = wait_for("it is seen", lambda: state.pool(api_version, kind, "default", "p")[1], seconds=60)
    assert found["spec"] == {"replicas": 3}


def test_a_kind_that_is_removed_and_comes_back_is_found_again(kube, state):
    group, kind, version = "removed.example", "Machines", "v1beta2"
    api_version = f"{group}/{version}"
    made = kube.create(CRDS, definition(group, kind, [version]))

    def served():
        try:
            return state.pool(api_version, kind, "default", "p")[1] is None
        except NotFound:
            return False

    wait_for("the kind is served", served, seconds=60)
    kube.delete(CRDS, made["metadata"]["name"], uid=made["metadata"]["uid"])
    wait_for("the kind is known to be gone", lambda: not served(), seconds=90)
    kube.create(CRDS, definition(group, kind, [version]))
    wait_for("the kind is served again", served, seconds=90)


def test_an_api_server_that_dies_is_waited_for_and_nothing_is_forgotten(cluster, kube, state):
    kube.apply(CONFIG_MAPS, config_map("kept", a="1"), manager="x", force=True)
    wait_for("it is seen", lambda: data_of(state, "kept") == {"a": "1"}, seconds=30)
    cluster.kill_api_server()
    assert data_of(state, "kept") == {"a": "1"}
    cluster.start_api_server()
    wait_for(
        "a change is seen",
        lambda: (
            kube.merge(CONFIG_MAPS, "kept", {"data": {"a": "2"}}, manager="x", namespace="default")
            and data_of(state, "kept") == {"a": "2"}
        ),
        seconds=120,
    )


def holder(kube):
    try:
        return (kube.get(LEASES, ALL, namespace="kube-system").get("spec") or {}).get("holderIdentity")
    except NotFound:
        return None


def test_a_standby_takes_over_when_the_leader_is_killed_and_at_once_when_it_ends(cluster, kube, tmp_path, request):
    arguments = ("--lease-namespace", "kube-system")
    account = Account(AuditLog(cluster.audit_log), USER, home=NAMESPACE, story=story_of(request.node))
    with OperatorProcess(cluster, log=tmp_path / "one.log", arguments=arguments) as one:
        first = wait_for("one leads", lambda: holder(kube), seconds=120)
        with OperatorProcess(cluster, log=tmp_path / "two.log", arguments=arguments) as two:
            wait_for("two stands by", lambda: "standing by for" in (tmp_path / "two.log").read_text(), seconds=120)
            assert holder(kube) == first
            one.process.kill()
            killed = time.monotonic()
            second = wait_for("two leads", lambda: (now := holder(kube)) and now != first and now, seconds=120)
            print(f"taken over after {time.monotonic() - killed:.1f} s")
            two.process.send_signal(signal.SIGTERM)
            two.process.wait(120)
            assert holder(kube) is None, f"{second} has given it back"
    account.check()
