"""Which devices of its nodes a pool counts, and what they say otherwise than the plan."""

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.world import DeviceClass, Devices, Node, Observation, PlanObject, Pod
from servingplan.planning.inventory import read_pools
from servingplan.planning.known import known_of
from servingplan.planning.layouts import inside_a_node, over_nodes, over_types

DRIVER = "gpu.nvidia.com"
WHOLE = DeviceClass(name="gpu.nvidia.com", driver=DRIVER, attributes={f"{DRIVER}/type": "gpu"})
SLICES = DeviceClass(name="mig.nvidia.com", driver=DRIVER, attributes={f"{DRIVER}/type": "mig"})
SLICE = {"memoryGb": "40", "memoryBandwidthGbPerSecond": "1500", "bf16DenseTflops": "400", "linkGbPerSecond": "32"}
MIG = {"gpu": "mine", "gpuSpec": SLICE, "dra": {"deviceClass": "mig.nvidia.com"}}


def devices(count, *, driver=DRIVER, held=0, **attributes):
    named = {f"{driver}/{key}": value for key, value in attributes.items()}
    return Devices(driver=driver, attributes=named, count=count, held_by_others=held)


def gpus(count, product="NVIDIA H100 80GB HBM3", **more):
    return devices(count, type="gpu", productName=product, **more)


def migs(count, profile, **more):
    return devices(count, type="mig", profile=profile, **more)


def node(*found, name="n", **more):
    return Node(name=name, labels={"pool": "p"}, gpus=0, devices=found, ready=True, **more)


def read(*nodes, pods=(), classes=(WHOLE, SLICES), quota=None, **pool):
    item = {
        "name": "p",
        "gpu": "H100-SXM-80GB",
        "dollarsPerNodeHour": "10",
        "nodeSelector": {"pool": "p"},
        "dra": {"deviceClass": "gpu.nvidia.com"},
        **pool,
    }
    spec = PlanSpec.model_validate(
        {
            "budget": {"dollarsPerHour": "100"},
            "models": [{"name": "llama-3.1-8b"}],
            "nodePools": [{key: value for key, value in item.items() if value is not None}],
        }
    )
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
    world = Observation(
        now="2026-01-01T00:00:00Z", plan=plan, nodes=nodes, pods=pods, device_classes=tuple(classes), quota=quota
    )
    (found,), errors = read_pools(spec, world, known_of(world))
    return found, errors


def free(pool):
    return [(item.node.gpus, item.free_gpus) for item in pool.nodes]


def asked(**attributes):
    return [{"name": f"{DRIVER}/{key}", "value": value} for key, value in attributes.items()]


@pytest.mark.parametrize(
    ("found", "pool", "expected"),
    [
        ([gpus(8)], {}, (8, 8)),
        ([gpus(8, held=3)], {}, (8, 5)),
        ([gpus(4), migs(6, "1g.10gb", held=6)], {}, (4, 4)),
        ([devices(4, driver="other.dev", type="gpu")], {}, (0, 0)),
        ([gpus(4), migs(2, "3g.40gb"), migs(6, "1g.10gb")], MIG, (8, 8)),
        (
            [gpus(4), migs(2, "3g.40gb", held=1), migs(6, "1g.10gb")],
            {**MIG, "dra": {"deviceClass": "mig.nvidia.com", "attributes": asked(profile="3g.40gb")}},
            (2, 1),
        ),
    ],
)
def test_a_pool_counts_the_devices_of_its_class_and_attributes(found, pool, expected):
    assert free(read(node(*found), **pool)[0]) == [expected]


def test_extended_resources_and_pods_that_hold_them_do_not_count():
    holder = Pod(namespace="x", name="x", uid="x", gpus=4, created="", node="n", bound=True)
    found = node(gpus(4)).model_copy(update={"gpus": 8})
    assert free(read(found, pods=(holder,))[0]) == [(4, 4)]


def test_devices_that_our_pods_hold_are_there_while_nobody_publishes_them():
    ours = Pod(namespace="llm", name="x", uid="x", gpus=2, created="", node="n", bound=True, deployment="d")
    tied = ours.model_copy(update={"uid": "y", "bound": False})
    assert free(read(node(), pods=(ours, tied))[0]) == [(2, 2)]


def test_the_card_and_their_number_are_read_from_the_devices():
    pool, errors = read(node(gpus(4, "NVIDIA L40S")), gpu=None)
    assert errors == ()
    assert pool.gpu is not None
    assert (pool.gpu.name, pool.gpus_per_node) == ("L40S", 4)


@pytest.mark.parametrize(
    ("found", "pool", "classes", "words"),
    [
        (
            node(gpus(4, "NVIDIA L40S")),
            {},
            (WHOLE,),
            "gpu is H100-SXM-80GB, node n says gpu.nvidia.com/productName=NVIDIA L40S",
        ),
        (node(), {}, (), "the cluster has no such DeviceClass (it has none)"),
        (
            node(gpus(4)),
            {},
            (WHOLE.model_copy(update={"unread": "device.driver.matches('x')"}),),
            "selects by more than the driver and texts of attributes (device.driver.matches('x'))",
        ),
        (
            Node(name="n", labels={"pool": "p"}, gpus=8, ready=True),
            {},
            (WHOLE,),
            "counts devices of gpu.nvidia.com, node n has 8 nvidia.com/gpu; correct dra or nodeSelector",
        ),
        (
            node(devices(8, driver="gpu.amd.com", type="amdgpu-partition", productName="AMD Instinct MI300X")),
            {"gpu": "MI300X-192GB", "engineImage": "rocm/vllm:v0.18.0", "dra": {"deviceClass": "gpu.amd.com"}},
            (DeviceClass(name="gpu.amd.com", driver="gpu.amd.com"),),
            "node n says gpu.amd.com/type=amdgpu-partition",
        ),
        (node(migs(2, "3g.40gb")), {}, (WHOLE,), "node n has devices in ResourceSlices (2 of gpu.nvidia.com"),
        (node(gpus(4)), {"dra": None}, (WHOLE,), "give dra with a deviceClass"),
        (node(gpus(4)), {"gpusPerNode": 8}, (WHOLE,), "gpusPerNode is 8, node n has 4 of gpu.nvidia.com"),
    ],
)
def test_what_the_cluster_says_otherwise_is_told(found, pool, classes, words):
    contradiction = read(found, classes=classes, **pool)[0].contradiction
    assert contradiction is not None
    assert contradiction.reason == "FalseDeclaration"
    assert words in contradiction.message


def test_devices_that_say_the_same_contradict_nothing():
    assert read(node(gpus(8)), gpusPerNode=8)[0].contradiction is None
    assert read(node(migs(2, "3g.40gb")), **MIG)[0].contradiction is None
    assert read(node())[0].contradiction is None  # the driver may still be starting


@pytest.mark.parametrize(
    ("dra", "classes"),
    [
        ({"deviceClass": "mig.nvidia.com"}, (SLICES,)),
        ({"deviceClass": "own", "attributes": asked(type="mig")}, ()),
    ],
)
def test_slices_need_the_figures_of_a_slice(dra, classes):
    _, errors = read(dra=dra, classes=classes, gpusPerNode=2)
    (error,) = errors
    assert error.field == "spec.nodePools[p].dra.deviceClass"
    assert "give gpuSpec with the figures of one slice" in str(error)
    assert read(**MIG, gpusPerNode=2)[1] == ()


def test_devices_of_amd_need_an_image_for_amd():
    _, errors = read(gpu="mine", gpuSpec=SLICE, gpusPerNode=2, dra={"deviceClass": "gpu.amd.com"})
    assert [error.field for error in errors] == ["spec.nodePools[p].engineImage"]


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"resourceName": "nvidia.com/gpu"}, "dra and resourceName"),
        ({"dra": {"deviceClass": "Not A Name"}}, "deviceClass"),
        ({"dra": {"deviceClass": "x", "attributes": [{"name": "type", "value": "mig"}]}}, "name"),
        ({"dra": {"deviceClass": "x", "attributes": asked(type="mig") * 2}}, "given twice"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(pool, words):
    with pytest.raises(ValueError, match=words):
        read(**pool)


@pytest.mark.parametrize(
    ("pool", "most"),
    [
        (MIG, 1),
        ({**MIG, "dra": None, "resourceName": "nvidia.com/mig-3g.40gb"}, 1),
        ({**MIG, "dra": {"deviceClass": "gpu.nvidia.com"}}, 4),
    ],
)
def test_a_mig_slice_is_a_replica_by_itself(pool, most):
    found, errors = read(gpusPerNode=4, **pool)
    assert errors == ()
    sizes = {layout.tensor_parallel * layout.pipeline_parallel for layout in inside_a_node(found)}
    assert max(sizes) == most
    assert bool(list(over_nodes(found))) is (most > 1)
    assert bool(list(over_types(found, found))) is (most > 1)


def test_a_quota_of_extended_resources_does_not_bound_devices():
    assert read(node(gpus(8)), quota=())[0].quota_gpus is None
    assert read(node(gpus(8)), quota=(), dra=None)[0].quota_gpus == 0
