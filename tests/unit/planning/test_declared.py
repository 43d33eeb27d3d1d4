"""What nodes say of themselves against what the plan says of their pool."""

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.world import Node, NodeTemplate, Observation, PlanObject, Pod, PoolObject, Taint
from servingplan.observe.parse import node_of
from servingplan.planning.availability import seen_of
from servingplan.planning.inventory import read_pools
from servingplan.planning.known import known_of
from servingplan.planning.question import pose

RESIZE = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "np"}
DEDICATED = Taint(key="dedicated", value="training", effect="NoSchedule")


def node(name="n", gpus=8, *, product=None, taints=(), ready=True, labels=None, created=""):
    named = {} if product is None else {"nvidia.com/gpu.product": product}
    found = {"pool": "p", **named, **(labels or {})}
    return Node(name=name, labels=found, gpus=gpus, ready=ready, taints=taints, created=created)


def read(*nodes, pods=(), wanted=None, engine=None, labels=None, startup_taints=(), says=None, **pool):
    written = {
        "name": "p",
        "gpu": "H100-SXM-80GB",
        "gpusPerNode": 8,
        "dollarsPerNodeHour": "10",
        "nodeSelector": labels or {"pool": "p"},
        **({"resize": RESIZE, "maxNodes": 5} if wanted is not None else {}),
        **pool,
    }
    spec = PlanSpec.model_validate(
        {
            "budget": {"dollarsPerHour": "100"},
            "models": [{"name": "llama-3.1-8b", "engine": engine or {}}],
            "nodePools": [written],
        }
    )
    sized = PoolObject(
        pool="p",
        reference="r",
        wanted=wanted,
        actual=len(nodes),
        allowed_namespaces=("*",),
        template=NodeTemplate(startup_taints=startup_taints, **(says or {})),
        node_label=("karpenter.sh/nodepool", "np"),
    )
    world = Observation(
        now="2026-01-01T00:00:00Z",
        plan=PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={}),
        nodes=nodes,
        pods=pods,
        pools=() if wanted is None else (sized,),
    )
    (found,), errors = read_pools(spec, world, known_of(world))
    assert errors == ()
    return spec, found


def parts(spec, pool):
    posed, _ = pose(spec=spec, pools=(pool,), incumbent=None)
    return [(part.pool.name, part.gpus, part.min_nodes, part.max_nodes) for part in posed.parts.values()]


LIES = {
    "the vendor's label": (node(product="NVIDIA-L40S"), {}, "gpu", "NVIDIA-L40S"),
    "a shared card": (node(product="NVIDIA-H100-80GB-HBM3-SHARED"), {}, "gpu", "SHARED"),
    "a cloud's label": (node(labels={"cloud.google.com/gke-accelerator": "nvidia-l4"}), {}, "gpu", "nvidia-l4"),
    "the type of instance": (
        node(labels={"node.kubernetes.io/instance-type": "g6e.48xlarge"}),
        {},
        "gpu",
        "g6e.48xlarge",
    ),
    "fewer GPUs": (node(gpus=8), {"gpusPerNode": 16}, "gpusPerNode", "16"),
    "more GPUs": (node(gpus=8), {"gpusPerNode": 4}, "gpusPerNode", "8"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_contradiction_names_node_field_and_both_values(name):
    found, pool_says, field, node_says = LIES[name]
    _, pool = read(found, **pool_says)
    assert pool.contradiction is not None
    assert pool.contradiction.reason == "FalseDeclaration"
    plan_says = pool.spec.gpus_per_node if field == "gpusPerNode" else "H100-SXM-80GB"
    for word in (f"nodePools[p].{field} is {plan_says}", "node n", node_says):
        assert word in pool.contradiction.message


@pytest.mark.parametrize(
    "honest",
    [
        node(product="NVIDIA-H100-80GB-HBM3"),
        node(product="something-new"),
        node(gpus=0, ready=False),
        node(gpus=0),
        node(gpus=7, labels={"nvidia.com/gpu.count": "8"}),
        node(),
    ],
)
def test_what_agrees_or_says_nothing_is_no_contradiction(honest):
    _, pool = read(honest)
    assert pool.contradiction is None


def test_a_short_name_of_a_cloud_that_means_several_cards_contradicts_none_of_them():
    labels = {"karpenter.k8s.aws/instance-gpu-name": "a100"}
    for gpu in ("A100-SXM4-80GB", "A100-40GB-SXM"):
        _, pool = read(node(labels=labels), gpu=gpu)
        assert pool.contradiction is None


def test_one_node_of_several_that_has_all_its_gpus_is_enough():
    _, pool = read(node("a", 8), node("b", 7))
    assert pool.contradiction is None


def test_own_figures_of_a_card_are_not_compared():
    spec = {"memoryGb": "40", "memoryBandwidthGbPerSecond": "1", "bf16DenseTflops": "1", "linkGbPerSecond": "1"}
    _, pool = read(node(product="NVIDIA-L40S"), gpu="mine", gpuSpec=spec)
    assert pool.contradiction is None


def test_nothing_is_bought_on_a_contradiction_and_nothing_planned_on_the_node():
    wrong, right = node("wrong", product="NVIDIA-L40S"), node("right")
    spec, pool = read(wrong, right, wanted=2)
    assert [item.name for item in pool.usable_nodes] == ["right"]
    assert parts(spec, pool) == [("p", 8, 1, 1)]
    assert pool.spend == 20
    spec, pool = read(wrong, wanted=1)
    assert parts(spec, pool) == []


def test_a_node_on_which_our_replicas_serve_is_told_and_goes_on():
    ours = Pod(namespace="llm", name="x", uid="x", gpus=8, created="", node="wrong", bound=True, deployment="d")
    spec, pool = read(node("wrong", product="NVIDIA-L40S"), pods=(ours,), wanted=1)
    assert pool.contradiction is not None
    assert parts(spec, pool) == [("p", 8, 1, 1)]


def test_nodes_with_fewer_gpus_than_declared_are_used_as_they_are():
    spec, pool = read(node("a"), node("b"), wanted=2, gpusPerNode=16)
    assert [item[1:] for item in parts(spec, pool)] == [(8, 2, 2)]


def test_nodes_of_another_vendor_are_told():
    other = Node(name="n", labels={"pool": "p"}, gpus=0, gpu_resources={"amd.com/gpu": 8}, ready=True)
    _, pool = read(other)
    assert pool.contradiction is not None
    assert "amd.com/gpu" in pool.contradiction.message
    assert "nvidia.com/gpu" in pool.contradiction.message


def test_a_taint_that_no_replica_tolerates_is_told_and_not_planned_on():
    tainted = node(taints=(DEDICATED,))
    spec, pool = read(tainted)
    assert pool.contradiction is not None
    assert pool.contradiction.reason == "UntoleratedTaint"
    assert "dedicated=training:NoSchedule" in pool.contradiction.message
    assert parts(spec, pool) == []


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "dedicated", "operator": "Exists"},
        {"key": "dedicated", "value": "training"},
        {"key": "dedicated", "operator": "Equal", "value": "training", "effect": "NoSchedule"},
        {"operator": "Exists"},
    ],
)
def test_a_taint_that_the_template_tolerates_is_none(toleration):
    template = {"podTemplate": {"spec": {"tolerations": [toleration]}}}
    assert read(node(taints=(DEDICATED,)), engine=template)[1].contradiction is None


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "dedicated", "value": "other"},
        {"key": "dedicated", "operator": "Exists", "effect": "NoExecute"},
        {"key": "else", "operator": "Exists"},
    ],
)
def test_a_toleration_of_something_else_does_not_help(toleration):
    template = {"podTemplate": {"spec": {"tolerations": [toleration]}}}
    assert read(node(taints=(DEDICATED,)), engine=template)[1].contradiction is not None


def test_taints_of_gpus_and_of_nodes_that_come_and_go_are_not_read():
    def tainted(*taints):
        return node_of({"metadata": {"name": "n"}, "spec": {"taints": list(taints)}})

    found = tainted(
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "karpenter.sh/unregistered", "effect": "NoExecute"},
        {"key": "startup-taint.cluster-autoscaler.kubernetes.io/driver", "effect": "NoSchedule"},
        {"key": "ebs.csi.aws.com/agent-not-ready", "effect": "NoExecute"},
        {"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"},
        {"key": "soft", "effect": "PreferNoSchedule"},
        {"key": "dedicated", "value": "training", "effect": "NoSchedule"},
    )
    assert found.taints == (DEDICATED,)
    assert read(node(taints=(Taint(key="nvidia.com/gpu", value="true", effect="NoSchedule"),)))[1].contradiction is None


STATE = {"key": "ignore-taint.cluster-autoscaler.kubernetes.io/gpu", "effect": "NoSchedule"}


@pytest.mark.parametrize("tolerated", [False, True])
def test_a_taint_of_the_state_closes_a_node_unless_replicas_tolerate_it(tolerated):
    tainted = node().model_copy(
        update={"state_taints": node_of({"metadata": {"name": "n"}, "spec": {"taints": [STATE]}}).state_taints}
    )
    template = {"podTemplate": {"spec": {"tolerations": [{"key": STATE["key"], "operator": "Exists"}]}}}
    _, pool = read(tainted, engine=template if tolerated else None)
    assert [item.name for item in pool.usable_nodes] == (["n"] if tolerated else [])
    assert pool.contradiction is None


def test_a_node_that_takes_no_pods_has_not_come():
    """Else a shortage of nodes would never be noticed behind one that is never set up."""
    tainted = node("a").model_copy(
        update={"state_taints": node_of({"metadata": {"name": "n"}, "spec": {"taints": [STATE]}}).state_taints}
    )
    seen = seen_of(read(tainted, node("b"), wanted=2)[1])
    assert (seen.asked, seen.came) == (2, 1)


def test_a_taint_counts_once_the_node_has_had_time_to_start():
    assert read(node(taints=(DEDICATED,), created="2025-12-31T23:50:01Z"))[1].contradiction is None
    assert read(node(taints=(DEDICATED,), created="2025-12-31T23:50:00Z"))[1].contradiction is not None


def test_a_startup_taint_of_the_pool_never_counts():
    startup = DEDICATED.model_copy(update={"value": ""})
    assert read(node(taints=(DEDICATED,)), wanted=1, startup_taints=(startup,))[1].contradiction is None
    other = DEDICATED.model_copy(update={"effect": "NoExecute"})
    assert read(node(taints=(DEDICATED,)), wanted=1, startup_taints=(other,))[1].contradiction is not None


def test_the_age_of_a_node_is_read():
    assert node_of({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}}).created == (
        "2026-01-01T00:00:00Z"
    )


def test_nodes_of_the_pool_that_the_selector_does_not_match_are_told():
    stray = node(labels={"karpenter.sh/nodepool": "np", "pool": "other"})
    _, pool = read(stray, wanted=1)
    assert pool.contradiction is not None
    assert pool.contradiction.reason == "NoNodeMatches"
    assert "1 node of NodePool np exists, but none matches {pool: p}" in pool.contradiction.message
    assert "node n has pool=other" in pool.contradiction.message
    _, pool = read(stray.model_copy(update={"ready": False}), wanted=1)
    assert pool.contradiction is None, "labels may come late to a node that boots"


def test_a_pool_of_the_past_is_given_back_whatever_its_nodes_say():
    stray = node(product="NVIDIA-L40S")
    spec, _ = read(stray, wanted=1)
    left = spec.node_pools[0].model_copy(update={"name": "p~left"})
    world = Observation(
        now="2026-01-01T00:00:00Z",
        plan=PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={}),
        nodes=(stray,),
    )
    (pool,), _ = read_pools(spec.model_copy(update={"node_pools": (left,)}), world, known_of(world))
    assert pool.contradiction is None


# --- what the pool's object says of nodes that are not there yet ------------------------------------------------------

FALSE_OF_OBJECT = {
    "selector": ({"labels": {"pool": "q"}}, {}, "NoNodeMatches", ("asks for pool=p", "with pool=q")),
    "instance type": (
        {"labels": {"node.kubernetes.io/instance-type": "g6e.48xlarge"}},
        {},
        "FalseDeclaration",
        (".gpu is H100-SXM-80GB", "g6e.48xlarge"),
    ),
    "a cloud's name": (
        {"labels": {"cloud.google.com/gke-accelerator": "nvidia-l4"}},
        {},
        "FalseDeclaration",
        ("gke-accelerator=nvidia-l4",),
    ),
    "several cards": (
        {"instance_types": ("g6e.48xlarge", "p5.48xlarge")},
        {},
        "FalseDeclaration",
        ("several GPU types", "g6e.48xlarge: L40S", "p5.48xlarge: H100-SXM-80GB"),
    ),
    "number": ({"gpus_per_node": 4}, {}, "FalseDeclaration", ("gpusPerNode is 8", "of 4 GPUs")),
    "rental": (
        {"capacity_type": "Spot"},
        {"capacityType": "OnDemand"},
        "FalseDeclaration",
        ("capacityType is OnDemand", "as Spot"),
    ),
    "taint": ({"taints": (DEDICATED,)}, {}, "UntoleratedTaint", ("dedicated=training:NoSchedule", "no replica")),
}


@pytest.mark.parametrize("name", FALSE_OF_OBJECT)
def test_nothing_is_bought_where_the_object_says_otherwise(name):
    says, written, reason, words = FALSE_OF_OBJECT[name]
    spec, pool = read(wanted=0, says=says, **written)
    assert pool.contradiction.reason == reason
    assert all(word in pool.contradiction.message for word in ("nodePools[p]", "NodePool np", *words))
    assert parts(spec, pool) == []


def test_what_the_object_does_not_say_contradicts_nothing():
    labels = {"pool": "p", "node.kubernetes.io/instance-type": "p5.48xlarge", "other": "x"}
    types = ("p5.48xlarge", "unknown.8xlarge")
    says = {"labels": labels, "instance_types": types, "gpus_per_node": 8, "capacity_type": "OnDemand"}
    assert read(wanted=0, says=says)[1].contradiction is None


def test_nodes_that_show_their_gpus_speak_of_their_number_themselves():
    assert read(node(), wanted=1, says={"gpus_per_node": 4})[1].contradiction is None


def test_a_taint_of_the_object_that_replicas_tolerate_is_none():
    engine = {"podTemplate": {"spec": {"tolerations": [{"key": "dedicated", "operator": "Exists"}]}}}
    gpus = Taint(key="nvidia.com/gpu", value="present", effect="NoSchedule")
    assert read(wanted=0, engine=engine, says={"taints": (DEDICATED, gpus)})[1].contradiction is None
