"""What a real API server makes of fields that others share with us: scheduling gates, and a Deployment's replicas."""

from __future__ import annotations

import kubernetes.config
import pytest

from localcluster.control_plane import ControlPlane
from servingplan.apply.writer import Writer
from servingplan.kube import DEPLOYMENTS, PODS, Kube
from servingplan.model import names
from servingplan.model.actions import PlacePod, ScaleDeployment
from servingplan.model.world import Observation, PlanObject
from servingplan.observe.parse import replicas_owner
from servingplan.observe.pods import seen_pod

pytestmark = pytest.mark.cluster

WORLD = Observation(
    now="2026-01-01T00:00:00Z",
    plan=PlanObject(namespace="default", name="chat", uid="u", generation=1, spec={}),
)
QUEUE_GATE = "kueue.x-k8s.io/admission"
TERMS = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as up:
        yield up


@pytest.fixture(scope="module")
def kube(cluster):
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as client:
        yield Kube(client)


def gated(kube, name, *gates):
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {names.PLAN_LABEL: "chat", names.DEPLOYMENT_LABEL: "d"},
        },
        "spec": {
            "containers": [{"name": "engine", "image": "none"}],
            "schedulingGates": [{"name": gate} for gate in gates],
            "affinity": {"podAntiAffinity": {}},
        },
    }
    return kube.create(PODS, manifest, namespace="default")


def place(kube, pod):
    action = PlacePod(pod=pod["metadata"]["name"], uid=pod["metadata"]["uid"], node="n", node_affinity=TERMS, why="w")
    return Writer(kube).write((action,), world=WORLD, spec=None)


def test_a_pod_is_let_go_once_nobody_else_holds_it_and_not_before(kube):
    pod = gated(kube, "queued", QUEUE_GATE, names.PLACEMENT_GATE)
    seen = seen_pod(pod)
    assert seen is not None
    assert (seen.own.gated, seen.own.other_gates) == (True, (QUEUE_GATE,))
    outcome = place(kube, pod)
    assert [item.reason for item in outcome.refused] == ["Changed"]
    assert QUEUE_GATE in outcome.refused[0].message
    assert kube.get(PODS, "queued", namespace="default")["spec"]["schedulingGates"] == pod["spec"]["schedulingGates"]

    admitted = [{"op": "remove", "path": "/spec/schedulingGates/0"}]
    kube.json_patch(PODS, "queued", admitted, manager="kueue", namespace="default")
    assert len(place(kube, pod).done) == 1
    after = kube.get(PODS, "queued", namespace="default")
    assert not after["spec"].get("schedulingGates")
    found = after["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert found["nodeSelectorTerms"] == TERMS["nodeSelectorTerms"]
    assert after["metadata"]["annotations"][names.PLACED_ON_ANNOTATION] == "n"
    assert [item.reason for item in place(kube, pod).refused] == ["Changed"], "it is placed once"


def test_who_set_the_replicas_is_known_until_the_plan_s_number_is_set_again(kube, cluster):
    labels = {"app": "d"}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "engine", "image": "none"}], "schedulingGates": [{"name": "x.y/z"}]},
            },
        },
    }
    assert replicas_owner(kube.apply(DEPLOYMENTS, manifest, manager=names.FIELD_MANAGER, force=True)) is None
    cluster.kubectl("-n", "default", "scale", "deployment", "d", "--replicas=5")
    owner = replicas_owner(kube.get(DEPLOYMENTS, "d", namespace="default"))
    assert owner is not None
    assert owner[0] == "kubectl"
    action = ScaleDeployment(name="d", before=5, replicas=2, set_by=" ".join(owner), why="w")
    assert Writer(kube).write((action,), world=WORLD, spec=None).done == (action,)
    after = kube.get(DEPLOYMENTS, "d", namespace="default")
    assert replicas_owner(after) is None
    assert after["metadata"]["annotations"][names.REPLICAS_SET_BY_ANNOTATION] == " ".join(owner)
    again = kube.apply(DEPLOYMENTS, manifest, manager=names.FIELD_MANAGER, force=True)
    assert again["metadata"]["annotations"][names.REPLICAS_SET_BY_ANNOTATION] == " ".join(owner), "it stays noted"
