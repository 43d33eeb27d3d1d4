"""A plan that names a queue of Kueue's keeps to its quota, against a real API server.

Kueue's own controller does not run here: the definitions are small ones of ours with the fields that are read, and the test
writes what Kueue would.
"""

import asyncio

import kubernetes.config
import pytest

from localcluster.control_plane import ControlPlane
from servingplan.answering import solve_with
from servingplan.kube import NODES, PLANS, Kube, Resource
from servingplan.model.names import QUEUE_LABEL
from servingplan.observe.cluster import Reader
from servingplan.observe.state import ClusterState
from servingplan.observe.urls import UrlPolicy
from servingplan.reconcile import Turns
from tests.contract.test_pool_kinds import CRDS, PLAN_DEFINITION
from tests.simulated.plans import fixed, model, plan

pytestmark = pytest.mark.cluster
GROUP, VERSION = "kueue.x-k8s.io", "v1beta1"
KINDS = {"LocalQueue": True, "ClusterQueue": False, "ResourceFlavor": False}


def definition(kind):
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    name = kind.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{name}s.{GROUP}",
            # The API server wants to know who approved a group under x-k8s.io.
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if KINDS[kind] else "Cluster",
            "names": {"kind": kind, "plural": f"{name}s", "singular": name, "listKind": f"{kind}List"},
            "versions": [{"name": VERSION, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def resource(kind):
    return Resource(f"{GROUP}/{VERSION}", f"{kind.lower()}s", kind, KINDS[kind])


def written(kube, kind, name, namespace=None, **fields):
    item = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        **fields,
    }
    kube.apply(resource(kind), item, manager="kueue", force=True)


def cluster_queue(kube, quota, reserved):
    gpu = "nvidia.com/gpu"
    flavors = [{"name": "l40s", "resources": [{"name": gpu, "nominalQuota": quota}]}]
    written(
        kube,
        "ClusterQueue",
        "all",
        spec={"resourceGroups": [{"coveredResources": [gpu], "flavors": flavors}]},
        status={"flavorsReservation": [{"name": "l40s", "resources": [{"name": gpu, "total": reserved}]}]},
    )


@pytest.fixture(scope="module")
def kube():
    with ControlPlane() as up, kubernetes.config.new_client_from_config(str(up.kubeconfig)) as client:
        api = Kube(client)
        up.install_crds([PLAN_DEFINITION])
        for kind in KINDS:
            api.create(CRDS, definition(kind))
            up.kubectl("wait", "--for=condition=Established", f"crd/{kind.lower()}s.{GROUP}", "--timeout=60s")
        for number in range(4):
            name = f"l40s-{number}"
            api.create(
                NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "l40s"}}}
            )
            status = {"allocatable": {"nvidia.com/gpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}
            api.merge(NODES, name, {"status": status}, manager="test", subresource="status")
        yield api


def turn(kube):
    """One turn of the operator; the replicas that are planned, and what the plan says of its pools."""
    state = ClusterState(kube, namespaces=("default",))
    state.load()
    reader = Reader(kube, state, pool_kinds=None, urls=UrlPolicy(None, allowed_hosts=frozenset()))
    turns = Turns(api=kube, reader=reader, solve=solve_with(), namespace="default", name="chat")
    try:
        asyncio.run(turns.take())
    finally:
        turns.stop()
        reader.close()
    status = kube.get(PLANS, "chat", namespace="default")["status"]
    pools = next(item["message"] for item in status["conditions"] if item["type"] == "NodePoolsReady")
    return sum(item["replicas"] for item in status.get("deployments", ())), pools


def test_a_plan_counts_on_no_more_than_its_queue_has(kube):
    written(kube, "ResourceFlavor", "l40s", spec={"nodeLabels": {"pool": "l40s"}})
    written(kube, "LocalQueue", "team-a", "default", spec={"clusterQueue": "all"})
    cluster_queue(kube, quota="3", reserved="2")
    metadata = {"name": "chat", "namespace": "default", "labels": {QUEUE_LABEL: "team-a"}}
    item = {
        "apiVersion": PLANS.api_version,
        "kind": PLANS.kind,
        "metadata": metadata,
        "spec": plan(model(rate="60"), pools=[fixed()], change={"minLifetime": "0s"}),
    }
    kube.apply(PLANS, item, manager="test", force=True)
    replicas, pools = turn(kube)
    assert replicas == 1
    assert "the queue team-a has quota for 1 GPUs in l40s" in pools

    cluster_queue(kube, quota="3", reserved="0")
    replicas, pools = turn(kube)
    assert replicas == 3
    assert "the queue team-a has quota for 3 GPUs in l40s" in pools
