"""A plan that names a queue of Kueue's keeps to its quota, against a real API server.

Kueue's own controller does not run here, but in ``e2e/test_queue_of_kueue.py``: the definitions are small ones of ours with the
fields that are read, and the test writes what Kueue would.
"""

import asyncio

import kubernetes.config
import pytest

from e2e.support.rights_used import Account, story_of
from e2e.support.waiting import wait_for
from localcluster.audit import AuditLog
from localcluster.control_plane import ControlPlane, wait_until_established
from localcluster.operator_process import NAMESPACE, USER, OperatorProcess
from servingplan.kube import NODES, PLANS, Kube, Resource
from servingplan.model.names import QUEUE_LABEL
from tests.contract.test_cli_live import turns_of
from tests.contract.test_pool_kinds import CRDS, PLAN_DEFINITION
from tests.simulated.plans import fixed, model, plan

pytestmark = pytest.mark.cluster
GROUP, VERSION = "kueue.x-k8s.io", "v1beta1"
KINDS = {"LocalQueue": True, "ClusterQueue": False, "Cohort": False, "ResourceFlavor": False}


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


def cluster_queue(kube, quota, reserved, *, name="all", cohort=None):
    gpu = "nvidia.com/gpu"
    flavors = [{"name": "l40s", "resources": [{"name": gpu, "nominalQuota": quota}]}]
    written(
        kube,
        "ClusterQueue",
        name,
        spec={
            "resourceGroups": [{"coveredResources": [gpu], "flavors": flavors}],
            **({} if cohort is None else {"cohort": cohort}),
        },
        status={"flavorsReservation": [{"name": "l40s", "resources": [{"name": gpu, "total": reserved}]}]},
    )


@pytest.fixture(scope="module")
def plane():
    with ControlPlane(audit=True) as up:
        yield up


@pytest.fixture(scope="module")
def kube(plane):
    with kubernetes.config.new_client_from_config(str(plane.kubeconfig)) as client:
        api = Kube(client)
        plane.install_crds([PLAN_DEFINITION])
        for kind in KINDS:
            api.create(CRDS, definition(kind))
            wait_until_established(plane.kubectl, f"{kind.lower()}s.{GROUP}")
        for number in range(4):
            name = f"l40s-{number}"
            api.create(
                NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "l40s"}}}
            )
            status = {"allocatable": {"nvidia.com/gpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}
            api.merge(NODES, name, {"status": status}, manager="test", subresource="status")
        # The API server makes nodes with the taint not-ready; a controller takes it off once they are Ready.
        wait_for("nodes take pods", lambda: not any(item["spec"].get("taints") for item in api.list(NODES)), seconds=60)
        yield api


def turn(kube):
    """One turn of the operator; the replicas that are planned, and what the plan says of its pools."""
    with turns_of(kube, "default", "chat") as turns:
        asyncio.run(turns.take())
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

    # It borrows what another queue and the cohort above both have left, and nothing more.
    cluster_queue(kube, quota="1", reserved="0", cohort="team")
    cluster_queue(kube, quota="2", reserved="2", name="other", cohort="team")
    replicas, pools = turn(kube)
    assert replicas == 1
    resource_group = {
        "coveredResources": ["nvidia.com/gpu"],
        "flavors": [{"name": "l40s", "resources": [{"name": "nvidia.com/gpu", "nominalQuota": "1"}]}],
    }
    written(kube, "Cohort", "team", spec={"resourceGroups": [resource_group]})
    replicas, pools = turn(kube)
    assert replicas == 2
    assert "the queue team-a has quota for 2 GPUs in l40s" in pools


def test_the_operator_follows_queues_with_the_rights_of_its_chart(plane, kube, tmp_path, request):
    plane.kubectl("create", "namespace", "llm")
    account = Account(AuditLog(plane.audit_log), USER, home=NAMESPACE, story=story_of(request.node))
    log = tmp_path / "operator.log"

    def followed():
        return {right.resource for right in account.used() if (right.group, right.verb) == (GROUP, "watch")}

    with OperatorProcess(plane, log=log, values={"namespaces": ["llm"]}):
        plurals = {resource(kind).plural for kind in KINDS}
        wait_for("it watches them", lambda: followed() == plurals, seconds=60, shown=lambda: log.read_text()[-3000:])
    account.check()
