"""A plan names a queue of Kueue's, whose controller is the real one: the plan counts on the queue's quota, Kueue opens its own
gate, the operator places behind it, and what the plan gives up others may have.

At every resource version: the plan has no more replicas than the queue has quota for, and none is tied to a node before Kueue
has opened its gate.
"""

import pytest

from e2e.support import plans
from e2e.support.cluster import get_or_none
from e2e.support.plans import SMALL
from e2e.support.scene import FLEET_LABEL
from e2e.support.waiting import wait_for
from localcluster import kueue
from localcluster.nodes import A100
from servingplan.kube import PLANS, Resource
from servingplan.model.names import QUEUE_LABEL

API_VERSION = "kueue.x-k8s.io/v1beta2"
FLAVORS = Resource(API_VERSION, "resourceflavors", "ResourceFlavor", namespaced=False)
CLUSTER_QUEUES = Resource(API_VERSION, "clusterqueues", "ClusterQueue", namespaced=False)
LOCAL_QUEUES = Resource(API_VERSION, "localqueues", "LocalQueue")
WORKLOADS = Resource(API_VERSION, "workloads", "Workload")
GPU = "nvidia.com/gpu"


@pytest.fixture
def controller(cluster, tmp_path):
    if cluster.reminder is None:
        pytest.skip("Kueue is installed only into a cluster of the stories' own")
    if why := kueue.missing():
        pytest.skip(why)
    with kueue.Kueue(cluster.kubeconfig, cluster.kubectl, tmp_path / "kueue") as running:
        yield running


@pytest.fixture
def operator(scene, controller):
    with scene.operator() as running:
        yield running


def written(resource, name, spec, namespace=None):
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": metadata, "spec": spec}


def cluster_queue(name, gpus, *, flavor, cohort=None):
    quotas = [{"name": GPU, "nominalQuota": gpus}, {"name": "cpu", "nominalQuota": 1000}]
    quotas += [{"name": "memory", "nominalQuota": "10Ti"}]
    group = {
        "coveredResources": [item["name"] for item in quotas],
        "flavors": [{"name": flavor, "resources": quotas}],
    }
    spec = {"namespaceSelector": {}, "resourceGroups": [group]}
    return written(CLUSTER_QUEUES, name, spec if cohort is None else {**spec, "cohortName": cohort})


@pytest.fixture
def queue(scene, controller):
    """A queue with three GPUs of the scene's nodes, and how it gets into a cohort where another queue has so many."""
    name = scene.name
    lender = f"{name}-lender"

    def lend(gpus):
        scene.cluster.apply(
            cluster_queue(lender, gpus, flavor=name, cohort=name), cluster_queue(name, 3, flavor=name, cohort=name)
        )

    flavor = written(FLAVORS, name, {"nodeLabels": {FLEET_LABEL: f"{scene.name}-fixed"}})
    local = written(LOCAL_QUEUES, "team-a", {"clusterQueue": name}, scene.namespace)
    scene.cluster.apply(flavor, cluster_queue(name, 3, flavor=name), local)
    yield lend
    for resource, made, namespace in (
        (LOCAL_QUEUES, "team-a", scene.namespace),
        (CLUSTER_QUEUES, name, None),
        (CLUSTER_QUEUES, lender, None),
        (FLAVORS, name, None),
    ):
        options = [] if namespace is None else ["-n", namespace]
        scene.cluster.kubectl("delete", resource.plural, made, *options, "--ignore-not-found", "--timeout=120s")


def reserved(scene) -> int:
    """GPUs that Kueue holds for somebody."""
    status = scene.api.get(CLUSTER_QUEUES, scene.name).get("status") or {}
    resources = [item for flavor in status.get("flavorsReservation") or () for item in flavor["resources"]]
    return sum(int(item["total"]) for item in resources if item["name"] == GPU)


def admitted(scene) -> int:
    """Pods of the scene that Kueue has let go."""
    found = scene.api.list(WORKLOADS, namespace=scene.namespace)
    conditions = (entry for item in found for entry in (item.get("status") or {}).get("conditions") or ())
    return sum(entry["type"] == "Admitted" and entry["status"] == "True" for entry in conditions)


def test_a_plan_keeps_to_the_quota_of_its_queue(kwok, scene, controller, queue, operator, witness):
    pool = scene.fixed(A100, 2, price=20)
    plan = plans.plan(scene.namespace, [plans.model(rate=150)], [pool], budget=60)
    plan["metadata"]["labels"] = {QUEUE_LABEL: "team-a"}
    scene.apply(plan)
    wait_for("three replicas are ready", lambda: len(scene.ready_pods()) == 3, seconds=60, shown=scene.conditions)
    scene.wait_ready()
    assert "the queue team-a has quota for 3 GPUs in fixed" in scene.condition("NodePoolsReady")["message"]
    (name,) = scene.weights(SMALL)
    assert witness.most_pods(name) == 3
    assert reserved(scene) == 3
    assert admitted(scene) == 3
    before = len(witness.documents())

    queue(5)  # without a borrowing limit
    wait_for("all are ready", lambda: len(scene.ready_pods()) == 8, seconds=60, shown=scene.conditions)
    scene.wait_ready(such=lambda status: status["served"] == "100%")
    assert (reserved(scene), admitted(scene)) == (8, 8)
    assert all(item.services(SMALL) for item in witness.documents()[before:])

    scene.cluster.kubectl("delete", "lsp", "chat", "-n", scene.namespace, "--wait=false")
    wait_for("the plan is gone", lambda: get_or_none(scene.api, PLANS, "chat", scene.namespace) is None, seconds=60)
    wait_for("its quota is free", lambda: not scene.pods() and reserved(scene) == 0, seconds=60)
