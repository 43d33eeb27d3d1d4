"""What a world adds to the catalogue counts in its turn, and what nobody stated stays unknown."""

import json

import pytest

from servingplan.answering import solve_with
from servingplan.cli.imagine import imagined_world
from servingplan.decide.decide import decide
from servingplan.model.readings import SeenCatalogue, SeenModelConfig
from servingplan.model.world import Node
from servingplan.planning.known import findings_of, known_of
from servingplan.planning.situation import Situation
from tests.unit.profiles.test_additions import GPUS, MODEL, PRICES

SPEC = {
    "budget": {"dollarsPerHour": "200"},
    "models": [{"name": "llama-3.1-8b"}],
    "nodePools": [
        {
            "name": "a",
            "gpu": "H100",
            "gpusPerNode": 8,
            "maxNodes": 4,
            "nodeSelector": {"pool": "a"},
            "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "a"},
        }
    ],
}


def world(*catalogues, models=None, pool=None, configs=(), offline=False):
    spec = SPEC | ({} if models is None else {"models": models})
    spec = spec | ({} if pool is None else {"nodePools": [spec["nodePools"][0] | pool]})
    seen = imagined_world({"metadata": {"name": "chat", "namespace": "llm"}, "spec": spec})
    kept = seen.catalogues if offline else ()
    return seen.model_copy(update={"catalogues": (*catalogues, *kept), "model_configs": configs})


def added(kind, text):
    return SeenCatalogue(config_map=f"own-{kind}", kind=kind, key="rows", text=text)


def pools_of(seen):
    situation = Situation(seen)
    assert situation.spec_errors == ()
    return situation.pools, situation.pool_errors


def the_pool(seen):
    (pool,), errors = pools_of(seen)
    assert errors == ()
    return pool


def grows(seen):
    decision = decide(Situation(seen), solve_with())
    return decision.fleet is not None and bool(decision.fleet.replica_sets)


def test_in_a_cluster_a_price_that_nobody_stated_is_unknown_and_nothing_grows():
    assert the_pool(world()).dollars_per_node_hour is None
    assert not grows(world())


def test_offline_the_shipped_prices_serve():
    assert the_pool(world(offline=True)).dollars_per_node_hour == pytest.approx(8 * 3.49)
    assert grows(world(offline=True))


def test_a_price_of_the_installation_counts_and_one_of_the_plan_comes_before_it():
    stated = added("prices", PRICES + "H100-SXM-80GB,2.5,OnDemand,2026-01-01,our contract\n")
    assert the_pool(world(stated)).dollars_per_node_hour == 20
    assert grows(world(stated))
    assert the_pool(world(stated, pool={"dollarsPerNodeHour": "0"})).dollars_per_node_hour == 0
    # It is for nodes that are rented in this way, and for no others.
    assert the_pool(world(stated, pool={"capacityType": "Spot"})).dollars_per_node_hour is None
    # It comes before the shipped ones, whatever their dates.
    assert the_pool(world(stated, offline=True)).dollars_per_node_hour == 20


def test_a_model_and_a_gpu_of_the_installation():
    seen = world(
        added("models", json.dumps([MODEL])),
        added("gpus", GPUS),
        added("prices", PRICES + "X100,1,OnDemand,2026-01-01,me\n"),
        models=[{"name": "house-8b"}],
        pool={"gpu": "NVIDIA-X100"},
    )
    assert the_pool(seen).gpu.name == "X100-96GB"
    decision = decide(Situation(seen), solve_with())
    assert {item.model for item in decision.fleet.replica_sets} == {"house-8b"}
    assert Situation(seen).spec.models[0].variants[0].source == "hf://house/House-8B-Instruct"


def test_wrong_rows_are_told_in_a_condition_and_the_rest_counts():
    seen = world(
        added("prices", PRICES + "H100,2.5,OnDemand,2026-01-01,me\nL4,free,OnDemand,2026-01-01,me\n"),
        added("models", "{"),
        added("colours", ""),
        SeenCatalogue(config_map="away", kind="models", problem="cannot be read"),
    )
    assert the_pool(seen).dollars_per_node_hour == 20
    (finding,) = findings_of(known_of(seen))
    assert finding.holds
    for part in ("own-prices [rows]: line 3", "own-models [rows]: is no JSON", "own-colours", "away: cannot be read"):
        assert part in finding.message
    assert finding in decide(Situation(seen), solve_with()).findings
    assert findings_of(known_of(world())) == ()


OWN = [
    {"name": "mine", "modelConfig": {"configMap": "mine-config"}, "variants": [{"name": "v", "source": "pvc://w/m"}]}
]


def errors_of(seen):
    return [item.message for item in decide(Situation(seen), solve_with()).findings if item.condition == "SpecValid"]


def test_a_model_may_be_its_own_config_json():
    priced = {"dollarsPerNodeHour": "20"}
    config = SeenModelConfig(config_map="mine-config", text=json.dumps(MODEL["config"]))
    assert grows(world(models=OWN, pool=priced, configs=(config,)))
    (message,) = errors_of(world(models=OWN, pool=priced))
    assert "spec.models[mine].modelConfig" in message
    assert "was not read" in message
    strange = config.model_copy(update={"text": json.dumps(MODEL["config"] | {"model_type": "martian"})})
    (message,) = errors_of(world(models=OWN, pool=priced, configs=(strange,)))
    assert "modelConfig[mine-config].model_type" in message


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({"nvidia.com/gpu.product": "NVIDIA-H100-NVL"}, "H100-NVL-94GB"),
        ({"cloud.google.com/gke-accelerator": "nvidia-l4"}, "L4-24GB"),
        (
            {"karpenter.k8s.aws/instance-gpu-name": "a100", "node.kubernetes.io/instance-type": "p4de.24xlarge"},
            "A100-SXM4-80GB",
        ),
        (
            {"karpenter.k8s.aws/instance-gpu-name": "a100", "node.kubernetes.io/instance-type": "p4d.24xlarge"},
            "A100-40GB-SXM",
        ),
        (
            {
                "kubernetes.azure.com/accelerator": "nvidia",
                "node.kubernetes.io/instance-type": "Standard_ND96isr_H100_v5",
            },
            "H100-SXM-80GB",
        ),
        ({"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}, "MI300X-192GB"),
    ],
)
def test_labels_of_nodes_tell_the_gpu(labels, name):
    (pool,), _ = pools_of(labelled(labels))
    assert pool.gpu.name == name


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (
            {
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb",
                "node.kubernetes.io/instance-type": "p5.48xlarge",
            },
            "MIG slice",
        ),
        (
            {"node.kubernetes.io/instance-type": "m5.large", "kubernetes.azure.com/accelerator": "nvidia"},
            "neither a node of the pool nor its object",
        ),
        ({"nvidia.com/gpu.product": "NVIDIA-X9000"}, "is not in the catalogue"),
    ],
)
def test_labels_that_tell_no_whole_gpu(labels, advice):
    _, errors = pools_of(labelled(labels))
    assert advice in errors[0].advice


def labelled(labels):
    seen = world(pool={"gpu": None, "dollarsPerNodeHour": "20"})
    spec = seen.plan.spec
    del spec["nodePools"][0]["gpu"]
    node = Node(name="n", labels={"pool": "a", **labels}, gpus=8, ready=True, schedulable=True)
    return seen.model_copy(update={"nodes": (node,)})
