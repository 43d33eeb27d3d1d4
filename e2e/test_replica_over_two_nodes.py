"""A model that fits no node runs over two: its group comes, is lost and comes again as a whole, by the real controller."""

import json

import pytest

from e2e.support import plans
from e2e.support.cluster import get_or_none, pod_is_ready
from e2e.support.waiting import wait_for
from localcluster.leader_worker_sets import API, LeaderWorkerSets
from localcluster.nodes import A100, ZONE
from localcluster.proxy import WriteProxy
from servingplan.kube import PLANS
from servingplan.model import names

LARGE = "large"
CARD = {
    "parameters": 200 * 10**9,
    "layers": 2,
    "hiddenSize": 8192,
    "attentionHeads": 4,
    "kvHeads": 4,
    "headDim": 128,
}
"""400 GB in bf16: more than a node of four A100, and a pipeline of two stages on two of them."""


@pytest.fixture
def leader_worker_sets(cluster, tmp_path):
    """The controller; one that an existing cluster has is taken as it is."""
    if cluster.try_kubectl("get", "crd", API).returncode == 0:
        yield
        return
    if cluster.reminder is None:
        pytest.skip("this cluster serves no LeaderWorkerSets")
    with LeaderWorkerSets(cluster.kubeconfig, cluster.kubectl, tmp_path / "lws"):
        yield


def rank(pod):
    return pod["metadata"]["labels"][names.WORKER_LABEL]


@pytest.fixture
def writes(scene):
    """What an operator writes."""
    with WriteProxy(scene.cluster.kubeconfig, certificate=scene.cluster.certificate) as proxy:
        yield proxy


@pytest.fixture
def operator(scene, leader_worker_sets, writes):
    with scene.operator(server=writes.url) as running:
        yield running


def test_a_group_over_two_nodes_serves_loses_a_worker_and_serves_again(karpenter, scene, operator, writes, witness):
    pool = {**scene.rented(A100, price=20), "zone": ZONE}
    made = plans.model_at(LARGE, requests_per_second=0.01, card=CARD)
    scene.apply(plans.plan(scene.namespace, [made], [pool], budget=50))
    status = scene.wait_ready(seconds=60)
    (service,) = scene.weights(LARGE)
    assert [(item["name"], item["tensorParallel"], item["pipelineParallel"]) for item in status["deployments"]] == [
        (service, 4, 2)
    ]
    assert scene.deployments() == {}

    leader, worker = sorted(scene.ready_pods(), key=rank)
    assert len({pod["spec"]["nodeName"] for pod in (leader, worker)} & set(scene.nodes_of(pool))) == 2
    variables = {item["name"]: item.get("value") for item in worker["spec"]["containers"][0]["env"]}
    assert (variables["LWS_WORKER_INDEX"], variables["LWS_GROUP_SIZE"]) == ("1", "2")
    assert variables["LWS_LEADER_ADDRESS"].startswith(f"{service}-0.{service}-0.{scene.namespace}")
    assert endpoints(scene, service) == [leader["metadata"]["uid"]]

    # What the controller's webhooks and the API server add is no reason to write again.
    ended = turns(scene, operator)
    wait_for("some more turns", lambda: turns(scene, operator) >= ended + 2, seconds=30)
    assert [write.method for write in writes.writes if "/leaderworkersets/" in write.path] == ["PATCH"]

    # A worker is evicted: its controller makes the group anew.
    documents = len(witness.documents())
    scene.cluster.kubectl("delete", "pod", worker["metadata"]["name"], "-n", scene.namespace, "--wait=false")
    wait_until_replaced(scene, witness, service, documents, {leader["metadata"]["uid"], worker["metadata"]["uid"]})
    leader, worker = sorted(scene.ready_pods(), key=rank)

    # The worker's node dies: another one comes, and the group with it.
    documents = len(witness.documents())
    scene.lose_node(worker["spec"]["nodeName"])
    wait_until_replaced(scene, witness, service, documents, {leader["metadata"]["uid"], worker["metadata"]["uid"]})
    serving = [pod for pod in scene.ready_pods() if pod["spec"]["nodeName"] in scene.nodes_of(pool)]
    assert sorted(rank(pod) for pod in serving) == ["0", "1"]
    assert max(witness.sizes(pool)) <= 2

    # The plan is deleted: the group goes, and the nodes are given back.
    scene.cluster.kubectl("delete", "lsp", "chat", "-n", scene.namespace, "--wait=false")
    wait_for("the plan is gone", lambda: get_or_none(scene.api, PLANS, "chat", scene.namespace) is None, seconds=60)
    assert scene.pods() == []
    assert scene.size_of(pool) == 0


def turns(scene, operator):
    series = operator.metrics(scene.namespace)
    return sum(value for name, value in series.items() if name.startswith("servingplan_turns_total{"))


def endpoints(scene, service):
    """Uids of the pods that the Service's EndpointSlices list."""
    listed = scene.cluster.kubectl(
        "get", "endpointslices", "-n", scene.namespace, "-l", f"kubernetes.io/service-name={service}", "-o", "json"
    )
    found = [item for piece in json.loads(listed)["items"] for item in piece.get("endpoints") or ()]
    return [item["targetRef"]["uid"] for item in found if item["conditions"].get("ready")]


def wait_until_replaced(scene, witness, service, documents, before):
    """Weights out, a group of other pods, weights in again."""
    wait_for(
        "no weight goes to the group",
        lambda: any(service not in item.services(LARGE) for item in witness.documents()[documents:]),
        seconds=30,
        shown=scene.conditions,
    )
    wait_for(
        "a group of other pods serves",
        lambda: (
            sum(pod_is_ready(pod) and pod["metadata"]["uid"] not in before for pod in scene.pods()) == 2
            and scene.weights(LARGE) == {service: 10_000}
        ),
        seconds=60,
        shown=scene.conditions,
    )
    scene.wait_ready(seconds=30)
