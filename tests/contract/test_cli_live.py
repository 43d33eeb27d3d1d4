"""The commands of a live plan against a real API server: what the operator's turns write there is what they show."""

from __future__ import annotations

import asyncio
import contextlib
import json

import kubernetes.config
import pytest
import typer.testing
import yaml

from e2e.support.waiting import wait_for
from localcluster.control_plane import ControlPlane
from servingplan.answering import solve_with
from servingplan.api.crd import crd_yaml
from servingplan.cli import app
from servingplan.kube import NODES, PLANS, PODS, Kube, Resource
from servingplan.observe.cluster import Reader
from servingplan.observe.state import ClusterState
from servingplan.observe.urls import UrlPolicy
from servingplan.reconcile import Turns
from tests.simulated.plans import fixed, model, plan

pytestmark = pytest.mark.cluster

CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
NAME, NAMESPACE = "chat", "default"


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as up:
        yield up


@pytest.fixture(scope="module")
def kube(cluster):
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as client:
        api = Kube(client)
        api.create(CRDS, yaml.safe_load(crd_yaml()))
        for number in range(4):
            add_node(api, f"l40s-{number}")
        yield api


def add_node(api, name):
    api.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "l40s"}}})
    status = {
        "allocatable": {"nvidia.com/gpu": "1", "pods": "110"},
        "capacity": {"nvidia.com/gpu": "1", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    api.merge(NODES, name, {"status": status}, manager="test", subresource="status")


def manifest(rate, mode="Approve"):
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": plan(model(rate=rate), pools=[fixed()], mode=mode),
    }


def turn(kube):
    """One turn of the operator, by what the API server has now."""
    with turns_of(kube, NAMESPACE, NAME) as turns:
        return asyncio.run(turns.take())


@contextlib.contextmanager
def turns_of(kube, namespace, name):
    """The turns of a plan, by what the API server has now."""
    state = ClusterState(kube, namespaces=(namespace,))
    state.load()
    reader = Reader(kube, state, pool_kinds=None, urls=UrlPolicy(None, allowed_hosts=frozenset()))
    turns = Turns(api=kube, reader=reader, solve=solve_with(), namespace=namespace, name=name)
    try:
        yield turns
    finally:
        turns.stop()
        reader.close()


def run(*arguments):
    done = typer.testing.CliRunner().invoke(app, [*arguments, "-n", NAMESPACE])
    assert done.exit_code == 0, done.output
    return done.stdout


def status_of(kube):
    return kube.get(PLANS, NAME, namespace=NAMESPACE)["status"]


def test_a_plan_is_proposed_approved_edited_and_remembered(kube, tmp_path, monkeypatch):
    monkeypatch.setattr(Kube, "connect", classmethod(lambda cls: kube))
    kube.apply(PLANS, manifest("5"), manager="test", force=True)
    turn(kube)
    first = status_of(kube)["proposed"]
    assert first["objects"]["created"]["count"] > 0
    assert f"plan {first['hash']} waits" in run("status", NAME)

    assert run("approve", NAME, "--hash", first["hash"]).endswith(f"approved plan {first['hash']}\n")

    def bound():
        """Whether the scheduler has bound the replica. A turn places it once the controllers have made its pod."""
        while turn(kube).writes:
            pass
        return any(pod["spec"].get("nodeName") for pod in kube.list(PODS, namespace=NAMESPACE))

    wait_for("the replica is bound", bound, seconds=10, shown=lambda: status_of(kube))
    turn(kube)  # it sees the bound replica
    status = status_of(kube)
    assert (status["planHash"], status["history"][0]["reason"]) == (first["hash"], "Approved")
    # No kubelet starts it.
    assert (status["transition"]["step"], status["transition"]["of"]) == (1, 1)
    assert "to start: 1" in status["transition"]["waitingFor"]
    assert json.loads(run("history", NAME, "-o", "json"))["history"] == status["history"]
    assert json.loads(run("top", NAME, "--once", "-o", "json"))["transition"] == status["transition"]

    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(manifest("40")))
    change = json.loads(run("diff", str(path), "--live", NAME, "-o", "json"))
    assert change["in_force"] == first["hash"]
    kube.apply(PLANS, manifest("40"), manager="test", force=True)
    turn(kube)
    proposed = status_of(kube)["proposed"]
    assert proposed["hash"] == change["hash"]
    assert proposed["objects"]["changed"]["names"] == change["changed"][:16]
    assert proposed["dollarsPerHour"]["after"] == f"{change['dollars_per_hour_after']:.2f}"

    annotation = {"metadata": {"annotations": {"servingplan.dev/approve": "0bad0bad"}}}
    kube.merge(PLANS, NAME, annotation, manager="test", namespace=NAMESPACE)
    turn(kube)
    told = next(item for item in status_of(kube)["conditions"] if item["type"] == "Approved")
    assert "'0bad0bad', which is not the hash of the waiting plan" in told["message"]
    assert change["hash"] in told["message"]
