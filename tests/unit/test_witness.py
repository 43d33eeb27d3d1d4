"""The witness of the end-to-end stories: each of its rules fires when what it forbids is shown to it."""

import json

import pytest

from e2e.support.watcher import LONGEST_SECONDS, Witness

NAMESPACE = "team"


class NoFeed:
    """Events come from the test."""

    def listen(self, *_):
        pass

    def leave(self, *_):
        pass


class Stage:
    """Shows the witness one object after the other."""

    def __init__(self):
        self.witness = Witness(NoFeed(), NAMESPACE)
        self.now = 100.0

    def show(self, kind, name, *, labels=None, annotations=None, deleted=False, generation=1, **rest):
        metadata = {"name": name, "uid": name, "namespace": NAMESPACE, "generation": generation}
        metadata |= {"labels": labels or {}, "annotations": annotations or {}}
        self.witness._hear(self.now, kind, "DELETED" if deleted else "ADDED", {"metadata": metadata, **rest})

    def wait(self, seconds):
        self.now += seconds
        self.witness._judge(self.now)

    def node(self, name="n", ready="True"):
        self.show("Node", name, labels={"pool": "p"}, status={"conditions": [{"type": "Ready", "status": ready}]})

    def deployment(self, name, replicas=1, image="a", model="m"):
        facts = json.dumps({"model": model, "capacity": {"c": 1.0}})
        labels = {"servingplan.dev/plan": "plan", "servingplan.dev/model": model, "servingplan.dev/pool": "p"}
        spec = {"replicas": replicas, "template": {"metadata": {"labels": labels}, "spec": {"image": image}}}
        self.show("Deployment", name, labels=labels, annotations={"servingplan.dev/replica-facts": facts}, spec=spec)

    def pod(self, name, deployment, *, node="n", ready=True, tied=None):
        status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
        spec = {"nodeName": node, "containers": [{"resources": {"limits": {"nvidia.com/gpu": "4"}}}]}
        annotations = {"servingplan.dev/placed-on": tied} if tied else {}
        labels = {"servingplan.dev/deployment": deployment}
        self.show("Pod", name, labels=labels, annotations=annotations, spec=spec, status=status)

    def endpoints(self, service, *ready):
        labels = {"kubernetes.io/service-name": service}
        self.show(
            "EndpointSlice", f"{service}-x", labels=labels, endpoints=[{"conditions": {"ready": r}} for r in ready]
        )

    def routing(self, revision, **weights):
        targets = [{"service": name, "port": 8000, "weight": weight} for name, weight in weights.items()]
        document = {"revision": revision, "models": {"m": {"classes": [{"name": "c", "targets": targets}]}}}
        self.show("ConfigMap", "routing", data={"routing.json": json.dumps(document)})

    def plan(self, budget, *, generation=1, observed=1):
        pools = [{"name": "p", "dollarsPerNodeHour": "10", "nodeSelector": {"pool": "p"}, "resize": {"name": "pool"}}]
        spec = {"budget": {"dollarsPerHour": str(budget)}, "nodePools": pools}
        status = {"observedGeneration": observed}
        self.show("LLMServingPlan", "plan", generation=generation, spec=spec, status=status)

    def pool(self, size):
        annotations = {"servingplan.dev/claimed-by": f"{NAMESPACE}/plan", "servingplan.dev/asked-nodes": str(size)}
        self.show("NodePool", "pool", annotations=annotations, spec={"replicas": size})

    @property
    def rules(self):
        return [violation.rule for violation in self.witness.violations]


@pytest.fixture
def stage():
    return Stage()


def test_weight_on_a_lost_replica_is_told_after_the_allowed_lag_and_not_before(stage):
    stage.node()
    stage.node("other")
    for name, node in (("a", "n"), ("b", "other")):
        stage.deployment(name, image=name)
        stage.pod(f"{name}-1", name, node=node)
        stage.endpoints(name, True)
    stage.routing(1, a=5000, b=5000)
    stage.show("Node", "other", deleted=True)
    stage.wait(0.9 * LONGEST_SECONDS)
    assert stage.rules == []
    stage.wait(0.2 * LONGEST_SECONDS)
    assert stage.rules == ["weight on what is not ready"]


def test_weights_that_do_not_sum_to_10000_are_told(stage):
    stage.endpoints("a", True)
    stage.endpoints("b", True)
    stage.routing(1, a=5000, b=4999)
    assert stage.rules == ["weights do not sum to 10000"]


def test_a_revision_that_does_not_rise_is_told(stage):
    stage.endpoints("a", True)
    stage.endpoints("b", True)
    stage.routing(2, a=10000)
    stage.routing(2, b=10000)
    assert stage.rules == ["routing revision did not rise"]


def test_a_first_weight_before_the_endpoint_is_told_and_one_after_it_is_not(stage):
    stage.endpoints("a", False, True)
    stage.now += 100.0
    stage.routing(2, a=10000)
    assert stage.rules == []
    stage.endpoints("b", False)
    stage.routing(3, a=5000, b=5000)
    assert stage.rules == ["weight before the endpoint"]


def test_an_endpoint_that_is_lost_while_weights_are_written_is_no_fault_of_theirs(stage):
    stage.endpoints("a", True)
    stage.now += 100.0
    stage.endpoints("a")
    stage.now += 1.0
    stage.routing(2, a=10000)
    assert stage.rules == []


def test_a_raise_over_the_budget_is_told_and_one_within_it_is_not(stage):
    stage.plan(25)
    stage.pool(0)
    stage.pool(2)
    assert stage.rules == []
    stage.pool(3)
    assert stage.rules == ["spend raised over the budget"]


def test_a_raise_by_the_budget_of_before_is_told_once_the_edit_was_seen(stage):
    stage.plan(25)
    stage.pool(0)
    stage.plan(5, generation=2)
    stage.pool(1)
    assert stage.rules == []
    stage.plan(5, generation=2, observed=2)
    stage.pool(2)
    assert stage.rules == ["spend raised over the budget"]


def test_a_pod_that_waits_for_its_node_is_told(stage):
    stage.node()
    stage.deployment("a")
    stage.pod("a-1", "a", node=None, ready=False, tied="n")
    stage.wait(0.9 * LONGEST_SECONDS)
    assert stage.rules == []
    stage.wait(0.2 * LONGEST_SECONDS)
    assert stage.rules == ["planned pod Pending"]


def test_more_pods_than_replicas_are_told(stage):
    stage.node()
    stage.deployment("a", replicas=1)
    stage.pod("a-1", "a")
    stage.pod("a-2", "a")
    stage.wait(1.1 * LONGEST_SECONDS)
    assert stage.rules == ["more pods than replicas"]


def test_two_deployments_of_one_shape_are_told(stage):
    stage.deployment("a")
    stage.deployment("b")
    assert stage.rules == ["two Deployments of one shape"]
