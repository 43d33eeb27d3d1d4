"""What a turn sees of the objects that size pools, through the list of the API server."""

import pytest

from servingplan.kube import Resource
from servingplan.model.world import Taint
from tests.unit.observe.test_cluster import of_pools
from tests.unit.pool_kinds.pool_objects import (
    AKS_AGENT_POOL,
    EKS_NODEGROUP,
    FLEET,
    GKE_NODE_POOL,
    KARPENTER_STATIC,
    MACHINE_DEPLOYMENT,
    MACHINE_POOL,
    changed,
)


def seen(item, *, scalable=False, written=None):
    """The pool object that a plan names."""
    kind, version = item["kind"], item["apiVersion"]
    namespace = item["metadata"].get("namespace")
    resource = Resource(version, f"{kind.lower()}s", kind, namespace is not None, scalable)
    resize = {"apiVersion": version, "kind": kind, "name": item["metadata"]["name"]}
    if written is not None:
        resize["replicasPath"] = written
    spec = {
        "budget": {"dollarsPerHour": 1},
        "models": [{"name": "m"}],
        "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}, "resize": resize}],
    }
    own = {key: item[key] for key in ("metadata", "spec", "status")}
    own["metadata"] = {**own["metadata"], "uid": "o", "resourceVersion": "3"}
    (found,) = of_pools(spec, {resource: [own]}, resource).pools
    return found


@pytest.mark.parametrize(
    ("item", "wanted", "actual", "least", "most", "path"),
    [
        (KARPENTER_STATIC, 2, 1, 0, 5, "spec.replicas"),
        (MACHINE_DEPLOYMENT, 3, 4, 0, None, "spec.replicas"),
        (MACHINE_POOL, 1, 0, 0, None, "spec.replicas"),
        (EKS_NODEGROUP, 2, None, 1, 6, "spec.scalingConfig.desiredSize"),
        (GKE_NODE_POOL, 2, None, 0, None, "spec.nodeCount"),
        (AKS_AGENT_POOL, 1, 2, 0, 1000, "spec.count"),
    ],
)
def test_every_kind_is_read_through_its_own_fields(item, wanted, actual, least, most, path):
    found = seen(item)
    assert found.problem_reason is None
    assert (found.wanted, found.actual, found.min_nodes, found.max_nodes) == (wanted, actual, least, most)
    assert (found.path, found.resource_version, found.sized_by) == (tuple(path.split(".")), "3", None)


def test_the_lower_of_the_owner_s_ceiling_and_the_object_s_bound_counts():
    for text, most in (("3", 3), ("9", 6)):
        annotated = changed(EKS_NODEGROUP, ("metadata", "annotations"), {"servingplan.dev/max-nodes": text})
        assert seen(annotated).max_nodes == most


def test_zones_multiply_what_is_asked_for():
    found = seen(changed(GKE_NODE_POOL, ("spec", "nodeLocations"), ["us-central1-a", "us-central1-b"]))
    assert (found.wanted, found.step) == (4, 2)


def test_another_autoscaler_is_seen_by_annotations_too():
    key = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size"
    assert "the cluster autoscaler" in seen(changed(MACHINE_POOL, ("metadata", "annotations"), {key: "5"})).sized_by
    assert seen(changed(AKS_AGENT_POOL, ("spec", "enableAutoScaling"), True)).sized_by is not None


def test_a_dynamic_pool_is_not_resizable_with_the_reason():
    found = seen(changed(KARPENTER_STATIC, ("spec", "replicas"), None))
    assert (found.problem_reason, found.wanted) == ("NotResizable", None)
    assert "is dynamic" in found.problem


def test_nodes_are_described_by_the_object_without_taints_that_pass():
    taints = [*KARPENTER_STATIC["spec"]["template"]["spec"]["taints"]]
    taints.append({"key": "ebs.csi.aws.com/agent-not-ready", "effect": "NoExecute"})
    found = seen(changed(KARPENTER_STATIC, ("spec", "template", "spec", "taints"), taints))
    assert found.template.taints == (Taint(key="dedicated", value="serving", effect="NoSchedule"),)
    assert found.template.gpus_per_node == 8
    assert found.node_label == ("karpenter.sh/nodepool", "h100")


def test_any_kind_that_serves_scale_is_sized_at_spec_replicas():
    assert seen(FLEET).problem_reason == "PathNotAllowed"
    found = seen(FLEET, scalable=True)
    assert (found.wanted, found.actual, found.path) == (9, 2, ("spec", "replicas"))


def test_any_path_is_the_owner_s():
    annotated = changed(FLEET, ("metadata", "annotations"), {"servingplan.dev/replicas-path": ".spec.machines.count"})
    found = seen(annotated, written=".spec.machines.count")
    assert (found.wanted, found.actual, found.path_problem) == (3, 2, None)
    assert found.path == ("spec", "machines", "count")
