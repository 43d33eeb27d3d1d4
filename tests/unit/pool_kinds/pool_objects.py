"""Objects that size pools, of every kind that is known, with the fields that its API has."""

from copy import deepcopy

KARPENTER_STATIC = {
    "apiVersion": "karpenter.sh/v1",
    "kind": "NodePool",
    "metadata": {"name": "h100"},
    "spec": {
        "replicas": 2,
        "limits": {"nodes": "5"},
        "template": {
            "metadata": {"labels": {"team": "serving"}},
            "spec": {
                "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
                "requirements": [
                    {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["p5.48xlarge"]},
                    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]},
                    {"key": "karpenter.k8s.aws/instance-gpu-count", "operator": "In", "values": ["8"]},
                    {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["us-east-1a", "us-east-1b"]},
                    {"key": "kubernetes.io/arch", "operator": "NotIn", "values": ["arm64"]},
                ],
                "taints": [
                    {"key": "dedicated", "value": "serving", "effect": "NoSchedule"},
                    {"key": "soft", "effect": "PreferNoSchedule"},
                ],
                "startupTaints": [{"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}],
            },
        },
    },
    "status": {"nodes": 1, "resources": {"nvidia.com/gpu": "8"}},
}
_MACHINES = {
    "bootstrap": {
        "configRef": {"apiGroup": "bootstrap.cluster.x-k8s.io", "kind": "KubeadmConfigTemplate", "name": "gpu"}
    },
    "infrastructureRef": {"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "AWSMachineTemplate", "name": "gpu"},
}
MACHINE_DEPLOYMENT = {
    "apiVersion": "cluster.x-k8s.io/v1beta2",
    "kind": "MachineDeployment",
    "metadata": {
        "name": "l40s",
        "namespace": "llm",
        "annotations": {
            "capacity.cluster-autoscaler.kubernetes.io/gpu-type": "nvidia.com/gpu",
            "capacity.cluster-autoscaler.kubernetes.io/gpu-count": "4",
            "capacity.cluster-autoscaler.kubernetes.io/labels": "pool=l40s,disk=fast",
            "capacity.cluster-autoscaler.kubernetes.io/taints": "dedicated=serving:NoSchedule,soft:PreferNoSchedule",
        },
    },
    "spec": {
        "clusterName": "prod",
        "replicas": 3,
        "selector": {"matchLabels": {"cluster.x-k8s.io/deployment-name": "l40s"}},
        "template": {
            "metadata": {
                "labels": {
                    "cluster.x-k8s.io/deployment-name": "l40s",
                    "node.cluster.x-k8s.io/pool": "l40s",
                    "gpu.node-restriction.kubernetes.io/type": "l40s",
                }
            },
            "spec": {
                "clusterName": "prod",
                **_MACHINES,
                "taints": [
                    {"key": "gpu", "value": "l40s", "effect": "NoSchedule", "propagation": "Always"},
                    {"key": "drivers", "effect": "NoExecute", "propagation": "OnInitialization"},
                ],
            },
        },
    },
    "status": {"replicas": 4, "readyReplicas": 3, "phase": "ScalingDown"},
}
MACHINE_POOL = {
    "apiVersion": "cluster.x-k8s.io/v1beta2",
    "kind": "MachinePool",
    "metadata": {"name": "pool", "namespace": "llm"},
    "spec": {"clusterName": "prod", "replicas": 1, "template": {"spec": {"clusterName": "prod", **_MACHINES}}},
    "status": {"replicas": 0, "phase": "Provisioning"},
}
EKS_NODEGROUP = {
    "apiVersion": "eks.services.k8s.aws/v1alpha1",
    "kind": "Nodegroup",
    "metadata": {"name": "h100-object", "namespace": "llm"},
    "spec": {
        "name": "h100",
        "clusterName": "prod",
        "nodeRole": "arn:aws:iam::111122223333:role/node",
        "subnets": ["subnet-1"],
        "amiType": "AL2023_x86_64_NVIDIA",
        "capacityType": "ON_DEMAND",
        "instanceTypes": ["p5.48xlarge"],
        "labels": {"team": "serving"},
        "taints": [
            {"key": "dedicated", "value": "serving", "effect": "NO_SCHEDULE"},
            {"key": "soft", "effect": "PREFER_NO_SCHEDULE"},
        ],
        "scalingConfig": {"minSize": 1, "maxSize": 6, "desiredSize": 2},
        "tags": {"team": "serving"},
    },
    "status": {"status": "ACTIVE", "health": {"issues": []}},
}
GKE_NODE_POOL = {
    "apiVersion": "container.cnrm.cloud.google.com/v1beta1",
    "kind": "ContainerNodePool",
    "metadata": {"name": "l4-object", "namespace": "llm"},
    "spec": {
        "resourceID": "l4",
        "clusterRef": {"name": "prod"},
        "location": "us-central1",
        "nodeLocations": ["us-central1-a"],
        "initialNodeCount": 9,
        "nodeCount": 2,
        "nodeConfig": {
            "machineType": "g2-standard-48",
            "guestAccelerator": [{"type": "nvidia-l4", "count": 4}],
            "labels": {"team": "serving"},
            "spot": True,
            "taint": [{"key": "dedicated", "value": "serving", "effect": "NO_EXECUTE"}],
        },
    },
    "status": {"observedGeneration": 1},
}
AKS_AGENT_POOL = {
    "apiVersion": "containerservice.azure.com/v1api20240901",
    "kind": "ManagedClustersAgentPool",
    "metadata": {"name": "a100-object", "namespace": "llm"},
    "spec": {
        "azureName": "a100",
        "owner": {"name": "prod"},
        "count": 1,
        "mode": "User",
        "vmSize": "Standard_ND96amsr_A100_v4",
        "scaleSetPriority": "Regular",
        "nodeLabels": {"team": "serving"},
        "nodeTaints": ["sku=gpu:NoSchedule", "soft:PreferNoSchedule"],
    },
    "status": {"count": 2, "provisioningState": "Scaling"},
}
FLEET = {
    "apiVersion": "example.com/v1",
    "kind": "Fleet",
    "metadata": {"name": "fleet"},
    "spec": {"machines": {"count": 3}, "replicas": 9},
    "status": {"count": 2},
}


def changed(item, path, value):
    """A copy with one value set at a path of keys, ``None`` takes the key away."""
    item = deepcopy(item)
    part = item
    *before, last = path
    for key in before:
        part = part.setdefault(key, {})
    if value is None:
        part.pop(last, None)
    else:
        part[last] = value
    return item
