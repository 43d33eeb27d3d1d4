"""The extended resource by which the GPUs of a pool are counted and asked for."""

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError
from servingplan.model.world import Node, Observation, PlanObject, Pod
from servingplan.observe.parse import node_of
from servingplan.observe.pods import pod_gpus
from servingplan.planning.inventory import read_pools
from servingplan.planning.known import known_of
from servingplan.render.deployment import replica_template

AMD = {"gpu": "MI300X-192GB", "engineImage": "rocm/vllm:v0.18.0"}
SLICE = {
    "memoryGb": "48",
    "memoryBandwidthGbPerSecond": "1500",
    "bf16DenseTflops": "400",
    "linkGbPerSecond": "32",
}
MINE = {"gpu": "mine", "gpuSpec": SLICE}


def node(gpus=0, **resources):
    found = {f"{name.replace('_', '.', 1).replace('_', '/', 1)}": count for name, count in resources.items()}
    return Node(name="n", labels={"pool": "p"}, gpus=gpus, gpu_resources=found, ready=True)


def read(nodes=(), pods=(), engine=None, **pool):
    item = {"name": "p", "gpusPerNode": 8, "dollarsPerNodeHour": "2", "nodeSelector": {"pool": "p"}, **pool}
    spec = PlanSpec.model_validate(
        {
            "budget": {"dollarsPerHour": "100"},
            "models": [{"name": "llama-3.1-8b", "engine": engine or {}}],
            "nodePools": [item],
        }
    )
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
    world = Observation(now="2026-01-01T00:00:00Z", plan=plan, nodes=nodes, pods=pods)
    pools, errors = read_pools(spec, world, known_of(world))
    return spec, pools[0], errors


def rendered(spec, pool):
    made = replica_template(
        model=spec.models[0],
        variant=spec.models[0].effective_variants[0].model_copy(update={"source": "hf://a/b"}),
        pool=pool.spec,
        tensor_parallel=2,
        pipeline_parallel=1,
        settings=None,
    )
    return made["spec"]


def test_allocatable_gpus_are_read_by_name():
    raw = {
        "metadata": {"name": "n"},
        "status": {"allocatable": {"amd.com/gpu": "8", "cpu": "4", "nvidia.com/gpumem": "80", "rdma/hca": "2"}},
    }
    assert (node_of(raw).gpus, node_of(raw).gpu_resources) == (0, {"amd.com/gpu": 8})
    raw["status"]["allocatable"] = {"nvidia.com/gpu": "8"}
    assert (node_of(raw).gpus, node_of(raw).gpu_resources) == (8, {})


def test_a_pod_holds_gpus_of_any_name():
    def pod(**limits):
        return {"spec": {"containers": [{"resources": {"limits": limits}}]}}

    assert pod_gpus(pod(**{"amd.com/gpu": "2", "cpu": "4"})) == 2
    assert pod_gpus(pod(**{"nvidia.com/mig-3g.40gb": "1"})) == 1
    assert pod_gpus(pod(**{"nvidia.com/gpumem": "80"})) == 0


@pytest.mark.parametrize(
    ("pool", "nodes", "resource"),
    [
        ({"gpu": "L40S"}, (), "nvidia.com/gpu"),
        (AMD, (), "amd.com/gpu"),
        (MINE, (), "nvidia.com/gpu"),
        (
            MINE,
            (node(**{"nvidia_com_mig-3g.40gb": 2}),),
            "nvidia.com/mig-3g.40gb",
        ),
        ({**MINE, "resourceName": "nvidia.com/gpu.shared"}, (), "nvidia.com/gpu.shared"),
        (
            MINE,
            (node(**{"amd_com_gpu": 1, "nvidia_com_mig-1g.10gb": 2}),),
            "nvidia.com/gpu",
        ),
    ],
)
def test_the_resource_is_as_given_or_as_nodes_tell_or_the_vendor_s(pool, nodes, resource):
    _, found, errors = read(nodes, **pool)
    assert errors == ()
    assert found.spec.resource_name == resource


def test_nodes_and_pods_of_an_amd_pool_are_counted_and_rendered_by_its_resource():
    foreign = Pod(namespace="x", name="x", uid="x", gpus=3, created="", node="n", bound=True)
    spec, pool, errors = read((node(amd_com_gpu=8),), (foreign,), **AMD)
    assert errors == ()
    assert [(item.free_gpus, item.node.gpus) for item in pool.nodes] == [(5, 8)]
    pod = rendered(spec, pool)
    (engine,) = pod["containers"]
    assert engine["resources"]["limits"] == {"amd.com/gpu": "2"}
    assert engine["image"] == "rocm/vllm:v0.18.0"
    assert pod["tolerations"][0] == {"key": "amd.com/gpu", "operator": "Exists"}


def test_what_takes_a_slice_tolerates_the_taint_of_its_vendor():
    spec, pool, _ = read(**MINE, resourceName="nvidia.com/mig-3g.40gb")
    assert [item["key"] for item in rendered(spec, pool)["tolerations"]] == ["nvidia.com/mig-3g.40gb", "nvidia.com/gpu"]


@pytest.mark.parametrize(
    ("pool", "field", "words"),
    [
        ({"gpu": "L40S", "resourceName": "amd.com/gpu"}, "resourceName", "nvidia.com/gpu"),
        ({**AMD, "resourceName": "nvidia.com/gpu"}, "resourceName", "amd.com/gpu"),
        ({"gpu": "MI300X-192GB"}, "engineImage", "AMD"),
        ({**AMD, "engineImage": "registry.example/vllm/vllm-openai:v0.18.0"}, "engineImage", "for GPUs of NVIDIA"),
        ({"gpu": "L40S", "engineImage": "rocm/vllm:v0.18.0"}, "engineImage", "is built for ROCm"),
        ({"gpu": "H100-SXM-80GB", "resourceName": "nvidia.com/mig-3g.40gb"}, "resourceName", "gpuSpec"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_its_field(pool, field, words):
    _, _, errors = read(**pool)
    (error,) = errors
    assert isinstance(error, InputError)
    assert error.field == f"spec.nodePools[p].{field}"
    assert words in str(error)


@pytest.mark.parametrize(
    "image", ["rocm/vllm:v0.18.0", "vllm/vllm-openai-rocm:v0.18.0", "registry.example/mine@sha256:1"]
)
def test_an_amd_pool_takes_any_image_that_is_not_known_to_be_another_vendor_s(image):
    assert read(**{**AMD, "engineImage": image})[2] == ()


def test_a_model_s_image_for_amd_serves_amd_pools_and_no_others():
    rocm = {"image": "rocm/vllm:v0.18.0"}
    spec, pool, errors = read(engine=rocm, gpu="MI300X-192GB")
    assert errors == ()
    assert rendered(spec, pool)["containers"][0]["image"] == rocm["image"]
    _, _, (error,) = read(engine=rocm, gpu="L40S")
    assert error.field == "spec.models[llama-3.1-8b].engine.image"
    assert "is built for ROCm, and the GPUs of pool p are not of AMD" in str(error)
    assert read(engine=rocm, gpu="L40S", engineImage="vllm/vllm-openai:v0.18.0")[2] == ()


@pytest.mark.parametrize("name", ["nvidia.com/gpumem", "gpu", "cpu", "habana.ai/gaudi"])
def test_what_is_no_gpu_is_no_resource_name(name):
    with pytest.raises(ValueError, match="resourceName"):
        read(gpu="L40S", resourceName=name)
