"""Every kind of object that sizes a pool: how its size, its bounds, its other owners and its nodes are read, and the one field
that is written."""

from dataclasses import dataclass, field

import pytest

from servingplan.model.world import NodeTemplate, Taint
from servingplan.pool_kinds.any_path import AnyPath
from servingplan.pool_kinds.table import KINDS
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

KARPENTER = KINDS["NodePool.karpenter.sh"]
DEPLOYMENT = KINDS["MachineDeployment.cluster.x-k8s.io"]
MACHINES = KINDS["MachinePool.cluster.x-k8s.io"]
EKS = KINDS["Nodegroup.eks.services.k8s.aws"]
GKE = KINDS["ContainerNodePool.container.cnrm.cloud.google.com"]
AKS = KINDS["ManagedClustersAgentPool.containerservice.azure.com"]
ANY = AnyPath(("spec", "machines", "count"))
DEDICATED = Taint(key="dedicated", value="serving", effect="NoSchedule")


@dataclass
class Case:
    kind: object
    item: dict
    wanted: int
    actual: int | None
    bounds: tuple
    label: tuple | None
    patch: dict
    """That asks for four nodes."""
    template: NodeTemplate = field(default_factory=NodeTemplate)


CASES = {
    "karpenter": Case(
        KARPENTER,
        KARPENTER_STATIC,
        2,
        1,
        (0, 5),
        ("karpenter.sh/nodepool", "h100"),
        {"spec": {"replicas": 4}},
        NodeTemplate(
            labels={
                "team": "serving",
                "node.kubernetes.io/instance-type": "p5.48xlarge",
                "karpenter.sh/capacity-type": "spot",
                "karpenter.k8s.aws/instance-gpu-count": "8",
                "karpenter.sh/nodepool": "h100",
            },
            taints=(DEDICATED,),
            startup_taints=(Taint(key="node.cilium.io/agent-not-ready", effect="NoExecute"),),
            instance_types=("p5.48xlarge",),
            zones=("us-east-1a", "us-east-1b"),
            gpus_per_node=8,
            capacity_type="Spot",
        ),
    ),
    "machine deployment": Case(
        DEPLOYMENT,
        MACHINE_DEPLOYMENT,
        3,
        4,
        (0, None),
        None,
        {"spec": {"replicas": 4}},
        NodeTemplate(
            labels={
                "pool": "l40s",
                "disk": "fast",
                "node.cluster.x-k8s.io/pool": "l40s",
                "gpu.node-restriction.kubernetes.io/type": "l40s",
            },
            taints=(Taint(key="gpu", value="l40s", effect="NoSchedule"), DEDICATED),
            startup_taints=(Taint(key="drivers", effect="NoExecute"),),
            gpus_per_node=4,
        ),
    ),
    "machine pool": Case(MACHINES, MACHINE_POOL, 1, 0, (0, None), None, {"spec": {"replicas": 4}}),
    "eks": Case(
        EKS,
        EKS_NODEGROUP,
        2,
        None,
        (1, 6),
        ("eks.amazonaws.com/nodegroup", "h100"),
        {"spec": {"scalingConfig": {"desiredSize": 4}}},
        NodeTemplate(
            labels={
                "team": "serving",
                "eks.amazonaws.com/nodegroup": "h100",
                "eks.amazonaws.com/capacityType": "ON_DEMAND",
                "node.kubernetes.io/instance-type": "p5.48xlarge",
            },
            taints=(DEDICATED,),
            instance_types=("p5.48xlarge",),
            capacity_type="OnDemand",
        ),
    ),
    "gke": Case(
        GKE,
        GKE_NODE_POOL,
        2,
        None,
        (0, None),
        ("cloud.google.com/gke-nodepool", "l4"),
        {"spec": {"nodeCount": 4}},
        NodeTemplate(
            labels={
                "team": "serving",
                "cloud.google.com/gke-nodepool": "l4",
                "cloud.google.com/gke-accelerator": "nvidia-l4",
                "node.kubernetes.io/instance-type": "g2-standard-48",
                "topology.kubernetes.io/zone": "us-central1-a",
            },
            taints=(Taint(key="dedicated", value="serving", effect="NoExecute"),),
            instance_types=("g2-standard-48",),
            gpus_per_node=4,
            capacity_type="Spot",
        ),
    ),
    "aks": Case(
        AKS,
        AKS_AGENT_POOL,
        1,
        2,
        (0, 1000),
        ("kubernetes.azure.com/agentpool", "a100"),
        {"spec": {"count": 4}},
        NodeTemplate(
            labels={
                "team": "serving",
                "kubernetes.azure.com/agentpool": "a100",
                "node.kubernetes.io/instance-type": "Standard_ND96amsr_A100_v4",
            },
            taints=(Taint(key="sku", value="gpu", effect="NoSchedule"),),
            instance_types=("Standard_ND96amsr_A100_v4",),
            capacity_type="OnDemand",
        ),
    ),
    "any path": Case(ANY, FLEET, 3, 2, (0, None), None, {"spec": {"machines": {"count": 4}}}),
}


@pytest.mark.parametrize("name", CASES)
def test_sizes_bounds_and_nodes_are_read(name):
    case = CASES[name]
    kind, item = case.kind, case.item
    assert kind.problem(item) is None
    assert (kind.wanted(item), kind.actual(item), kind.bounds(item)) == (case.wanted, case.actual, case.bounds)
    assert (kind.sized_by(item), kind.node_label(item), kind.step(item)) == (None, case.label, 1)
    assert kind.template(item) == case.template


@pytest.mark.parametrize("name", CASES)
def test_the_patch_sets_the_size_and_nothing_else(name):
    case = CASES[name]
    assert case.kind.patch(case.item, 4) == case.patch
    with pytest.raises(ValueError, match="-1 nodes"):
        case.kind.patch(case.item, -1)


@pytest.mark.parametrize("name", CASES)
def test_without_a_number_there_is_nothing_to_set(name):
    case = CASES[name]
    for value in (None, "two", True, -1, 1.5, [2]):
        item = changed(case.item, case.kind.path, value)
        assert case.kind.wanted(item) is None
        assert case.kind.problem(item)


@pytest.mark.parametrize("name", CASES)
def test_an_object_with_nothing_in_it_is_read_too(name):
    kind = CASES[name].kind
    for item in ({}, {"metadata": None, "spec": None, "status": None}, {"spec": {"template": []}, "metadata": []}):
        assert (kind.wanted(item), kind.actual(item), kind.sized_by(item)) == (None, None, None)
        assert kind.problem(item)
        template = kind.template(item)
        assert (template.taints, template.gpus_per_node) == ((), None)
        assert kind.bounds(item)[0] == 0


BOUND = "cluster.x-k8s.io/cluster-api-autoscaler-node-group"
OWNERS = [
    (DEPLOYMENT, MACHINE_DEPLOYMENT, ("metadata", "annotations"), {f"{BOUND}-min-size": "0", f"{BOUND}-max-size": "5"}),
    (DEPLOYMENT, MACHINE_DEPLOYMENT, ("metadata", "annotations"), {f"machine.openshift.io/{BOUND[17:]}-max-size": "5"}),
    (
        MACHINES,
        MACHINE_POOL,
        ("metadata", "annotations"),
        {"cluster.x-k8s.io/replicas-managed-by": "external-autoscaler"},
    ),
    (MACHINES, MACHINE_POOL, ("metadata", "annotations"), {"cluster.x-k8s.io/replicas-managed-by": ""}),
    (
        DEPLOYMENT,
        MACHINE_DEPLOYMENT,
        ("metadata", "ownerReferences"),
        [{"kind": "MachineDeployment", "name": "l40s", "controller": True}],
    ),
    (
        EKS,
        EKS_NODEGROUP,
        ("metadata", "annotations"),
        {"eks.services.k8s.aws/desired-size-managed-by": "external-autoscaler"},
    ),
    (EKS, EKS_NODEGROUP, ("spec", "tags"), {"k8s.io/cluster-autoscaler/enabled": "true"}),
    (EKS, EKS_NODEGROUP, ("spec", "tags"), {"k8s.io/cluster-autoscaler/prod": "owned"}),
    (GKE, GKE_NODE_POOL, ("spec", "autoscaling"), {"minNodeCount": 0, "maxNodeCount": 3}),
    (GKE, GKE_NODE_POOL, ("spec", "queuedProvisioning"), {"enabled": True}),
    (AKS, AKS_AGENT_POOL, ("spec", "enableAutoScaling"), True),
]


@pytest.mark.parametrize(("kind", "item", "path", "value"), OWNERS)
def test_another_autoscaler_is_named(kind, item, path, value):
    named = kind.sized_by(changed(item, path, value))
    assert named is not None
    assert kind.sized_by(item) is None


@pytest.mark.parametrize(
    ("kind", "item", "path", "value"),
    [
        (MACHINES, MACHINE_POOL, ("metadata", "annotations"), {"cluster.x-k8s.io/replicas-managed-by": "false"}),
        (MACHINES, MACHINE_POOL, ("metadata", "ownerReferences"), [{"kind": "Cluster", "controller": True}]),
        (
            EKS,
            EKS_NODEGROUP,
            ("metadata", "annotations"),
            {"eks.services.k8s.aws/desired-size-managed-by": "ack-eks-controller"},
        ),
        (EKS, EKS_NODEGROUP, ("spec", "tags"), {"k8s.io/cluster-autoscaler/enabled": "false"}),
        (EKS, EKS_NODEGROUP, ("spec", "tags"), {"k8s.io/cluster-autoscaler/other-cluster": "owned"}),
        (GKE, GKE_NODE_POOL, ("spec", "queuedProvisioning"), {"enabled": False}),
        (AKS, AKS_AGENT_POOL, ("spec", "enableAutoScaling"), False),
    ],
)
def test_what_only_looks_like_one_is_none(kind, item, path, value):
    assert kind.sized_by(changed(item, path, value)) is None


# --- Karpenter's dynamic pools ---------------------------------------------------------------------------------------


def dynamic(*requirements):
    item = changed(KARPENTER_STATIC, ("spec", "replicas"), None)
    item = changed(item, ("spec", "limits"), {"nvidia.com/gpu": "16"})
    return changed(item, ("spec", "template", "spec", "requirements"), list(requirements))


def one_of(key, *values, operator="In"):
    return {"key": key, "operator": operator, "values": list(values)}


TYPES = "node.kubernetes.io/instance-type"
CARD = "karpenter.k8s.aws/instance-gpu-name"


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        ((one_of(TYPES, "p4d.24xlarge", "p5.48xlarge"),), ("p4d.24xlarge, p5.48xlarge",)),
        ((one_of(CARD, "a100", "h100"),), ("a100, h100",)),
        ((one_of("karpenter.k8s.aws/instance-category", "g", "p"),), ("name no GPU",)),
        ((one_of(CARD, "t4", operator="NotIn"),), ("name no GPU",)),
    ],
)
def test_a_dynamic_pool_that_could_make_several_gpu_types_is_refused_with_the_reason(requirements, words):
    item = dynamic(*requirements)
    assert KARPENTER.wanted(item) is None
    problem = KARPENTER.problem(item)
    assert "is dynamic, and could make nodes of several GPU types" in problem
    assert all(word in problem for word in words)
    assert "static NodePool with spec.replicas" in problem


@pytest.mark.parametrize(
    "requirements",
    [
        (one_of(TYPES, "p5.48xlarge"),),
        (one_of(TYPES, "p5.48xlarge", "p5.4xlarge"), one_of(CARD, "h100")),
        (one_of(CARD, "a100", "h100"), one_of(CARD, "h100", "t4")),
    ],
)
def test_one_of_one_gpu_type_has_no_size_either(requirements):
    problem = KARPENTER.problem(dynamic(*requirements))
    assert "several" not in problem
    assert "it makes nodes for pods that wait to be scheduled" in problem


# --- GKE counts by zone ----------------------------------------------------------------------------------------------


def in_zones(*zones):
    return changed(GKE_NODE_POOL, ("spec", "nodeLocations"), list(zones) or None)


def test_the_nodes_of_all_zones_count():
    item = in_zones("us-central1-b", "us-central1-a", "us-central1-c")
    assert (GKE.wanted(item), GKE.step(item)) == (6, 3)
    assert GKE.patch(item, 9) == {"spec": {"nodeCount": 3}}
    with pytest.raises(ValueError, match="multiples of 3"):
        GKE.patch(item, 8)
    assert "topology.kubernetes.io/zone" not in GKE.template(item).labels


def test_without_its_own_zones_those_of_the_cluster_are_told_by_location_or_instance_groups():
    zonal = changed(in_zones(), ("spec", "location"), "us-central1-f")
    assert (GKE.wanted(zonal), GKE.step(zonal)) == (2, 1)
    url = "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-{}/instanceGroupManagers/gke-{}"
    urls = [url.format("a", 1), url.format("b", 2), url.format("b", 3)]
    told = changed(in_zones(), ("status", "instanceGroupUrls"), urls)
    assert (GKE.wanted(told), GKE.step(told)) == (4, 2)


def test_zones_that_nobody_tells_are_asked_for():
    item = in_zones()
    assert (GKE.wanted(item), GKE.step(item)) == (None, 1)
    assert ".spec.nodeLocations" in GKE.problem(item)


@pytest.mark.parametrize(
    "cards",
    [
        [],
        [{"type": "nvidia-l4", "count": 1}, {"type": "nvidia-t4", "count": 1}],
        [{"type": "nvidia-a100-80gb", "count": 1, "gpuPartitionSize": "3g.40gb"}],
        [{"type": "nvidia-l4", "count": 1, "gpuSharingConfig": {"gpuSharingStrategy": "TIME_SHARING"}}],
    ],
)
def test_several_cards_and_parts_of_one_tell_no_number(cards):
    template = GKE.template(changed(GKE_NODE_POOL, ("spec", "nodeConfig", "guestAccelerator"), cards))
    assert template.gpus_per_node is None
    assert "cloud.google.com/gke-accelerator" not in template.labels


# --- what else differs -----------------------------------------------------------------------------------------------


def test_a_system_pool_of_aks_keeps_a_node():
    assert AKS.bounds(changed(AKS_AGENT_POOL, ("spec", "mode"), "System")) == (1, 1000)


@pytest.mark.parametrize(
    ("kind", "item", "path", "value", "rented"),
    [
        (EKS, EKS_NODEGROUP, ("spec", "capacityType"), "SPOT", "Spot"),
        (EKS, EKS_NODEGROUP, ("spec", "capacityType"), "CAPACITY_BLOCK", "Reserved"),
        (EKS, EKS_NODEGROUP, ("spec", "capacityType"), None, None),
        (AKS, AKS_AGENT_POOL, ("spec", "scaleSetPriority"), "Spot", "Spot"),
        (GKE, GKE_NODE_POOL, ("spec", "nodeConfig"), {"preemptible": True}, "Spot"),
        (
            GKE,
            GKE_NODE_POOL,
            ("spec", "nodeConfig"),
            {"reservationAffinity": {"consumeReservationType": "SPECIFIC_RESERVATION"}},
            "Reserved",
        ),
        (GKE, GKE_NODE_POOL, ("spec", "nodeConfig"), {}, None),
    ],
)
def test_how_nodes_are_rented_is_read(kind, item, path, value, rented):
    assert kind.template(changed(item, path, value)).capacity_type == rented


def test_of_several_types_of_instances_no_label_is_known():
    types = ["p5.48xlarge", "p4d.24xlarge"]
    template = EKS.template(changed(EKS_NODEGROUP, ("spec", "instanceTypes"), types))
    assert template.instance_types == ("p4d.24xlarge", "p5.48xlarge")
    assert "node.kubernetes.io/instance-type" not in template.labels
