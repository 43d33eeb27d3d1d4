"""A kind of replica becomes a Deployment and a Service that a person would have written."""

import copy
import os
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError
from servingplan.model import names
from servingplan.model.engine import EngineSettings
from servingplan.model.fleet import Fleet, PodNeeds, ReplicaSet
from servingplan.model.world import PlanObject
from servingplan.render import claim_template, deployment
from servingplan.render.pod_template import merge

GOLDEN = Path(__file__).parents[2] / "golden" / "render"
RAW = yaml.safe_load((GOLDEN / "plan.yaml").read_text())["spec"]
PLAN = PlanObject(namespace="llm", name="chat", uid="0b51e7a2", generation=1, spec=RAW)


def spec(*, model=None, pool=None, engine=None, variant=None):
    raw = copy.deepcopy(RAW)
    raw["models"][0].update(model or {})
    raw["models"][0]["engine"].update(engine or {})
    raw["models"][0]["variants"][0].update(variant or {})
    raw["nodePools"][0].update(pool or {})
    return PlanSpec.model_validate(raw)


SETTINGS = EngineSettings(
    version="0.18.0", max_num_seqs=64, kv_cache_dtype="fp8", max_model_len=8192, shutdown_seconds=300
)


SLICES = {"deviceClass": "mig.nvidia.com", "attributes": [{"name": "gpu.nvidia.com/profile", "value": "3g.40gb"}]}
NEEDS = PodNeeds(cpu_millicores=6000, memory_bytes=80 * 2**30, start_limit_seconds=3300)


def template(tp=4, pp=1, settings=SETTINGS, needs=NEEDS, queue=None, **changes):
    made = spec(**changes)
    model = made.models[0]
    return deployment.replica_template(
        model=model,
        variant=model.variants[0],
        pool=made.node_pools[0],
        tensor_parallel=tp,
        pipeline_parallel=pp,
        settings=settings,
        needs=needs,
        queue=queue,
    )


def engine_of(made):
    return next(item for item in made["spec"]["containers"] if item["name"] == "engine")


def pod_template(**engine):
    return {"podTemplate": {"spec": {"containers": [{"name": "engine", **engine}]}}}


def name(made, **changes):
    identity = {"plan": "chat", "model": "llama-3.1-70b", "variant": "bf16", "where": "h100", **changes}
    return deployment.replica_name(**identity, template=made)


def manifests(made):
    replicas = ReplicaSet(
        deployment=name(made),
        model="llama-3.1-70b",
        variant="bf16",
        pool="h100",
        gpu="H100-SXM-80GB",
        tensor_parallel=4,
        pipeline_parallel=1,
        replicas=2,
        planned={"chat": 3.0, "long-in": 1.5},
        capacity={"chat": 2.5, "long-in": 1.25},
        priority=100,
        error_band=0.15,
        source="derived",
    )
    fleet = Fleet(replica_sets=(replicas,))
    labels, owner = deployment.model_server_labels(PLAN, replicas), deployment.owner_reference(PLAN)
    devices = claim_template.asked_in(made)
    return [
        *(
            []
            if devices is None
            else [
                claim_template.claim_template(
                    plan=PLAN, replica_set=replicas, devices=devices, labels=labels, owner=owner
                )
            ]
        ),
        deployment.deployment(
            plan=PLAN, replica_set=replicas, template=made, replicas=2, startup_seconds=1800, fleet=fleet
        ),
        deployment.service(plan=PLAN, replica_set=replicas),
    ]


@pytest.mark.parametrize(
    ("kept", "changes"),
    [
        ("sharded", {}),
        ("before-settings-were-written", {"settings": None, "needs": None}),
        ("before-needs-were-written", {"needs": None}),
        ("restricted", {"tp": 1, "engine": {"security": "Restricted"}}),
        ("devices", {"pool": {"dra": {"deviceClass": "gpu.nvidia.com"}}}),
        ("slices-of-one-profile", {"tp": 1, "pool": {"dra": SLICES}}),
        ("single-gpu-spot-claim", {"tp": 1, "pool": {"capacityType": "Spot"}, "variant": {"source": "pvc://w/llama"}}),
        (
            "image-weights-and-pod-template",
            {
                "variant": {"source": "oci://models/llama:1"},
                "engine": {
                    "podTemplate": {
                        "metadata": {"annotations": {"team": "search"}},
                        "spec": {
                            "runtimeClassName": "nvidia",
                            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                            "containers": [
                                {
                                    "name": "engine",
                                    "env": [
                                        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "t"}}}
                                    ],
                                    "resources": {"requests": {"cpu": "4000m", "memory": "65536Mi"}},
                                },
                                {"name": "log-shipper", "image": "shipper:1"},
                            ],
                        },
                    }
                },
            },
        ),
    ],
)
def test_the_manifests_are_the_ones_kept(kept, changes):
    path = GOLDEN / f"{kept}.yaml"
    text = yaml.safe_dump_all(manifests(template(**changes)), sort_keys=False, width=120)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "UPDATE_GOLDEN=1 writes the files anew"


def test_a_restricted_engine_writes_only_into_its_volume_and_other_settings_of_a_user_stay():
    own = pod_template(env=[{"name": "HF_HOME", "value": "/models"}], securityContext={"runAsUser": 3000})
    made = template(tp=1, engine={"security": "Restricted", **own})
    engine = engine_of(made)
    told = {item["name"]: item["value"] for item in engine["env"]}
    assert told.pop("HF_HOME") == "/models"
    assert told.pop("USER") == "vllm"
    (mount,) = engine["volumeMounts"]
    assert {"name": mount["name"], "emptyDir": {}} in made["spec"]["volumes"]
    assert all(value == mount["mountPath"] or value.startswith(f"{mount['mountPath']}/") for value in told.values())
    assert engine["securityContext"]["runAsUser"] == 3000
    assert made["spec"]["automountServiceAccountToken"] is False


def test_an_engine_gets_no_token_of_a_service_account_unless_the_user_asks_for_one():
    assert template()["spec"]["automountServiceAccountToken"] is False
    asked = {"podTemplate": {"spec": {"automountServiceAccountToken": True}}}
    assert template(engine=asked)["spec"]["automountServiceAccountToken"] is True
    assert "automountServiceAccountToken" not in template(needs=None)["spec"], "these pods run already"


def test_the_pods_have_the_priority_class_that_the_plan_names():
    assert template(engine={"priorityClassName": "serving"})["spec"]["priorityClassName"] == "serving"
    assert "priorityClassName" not in template()["spec"], "replicas of plans that name none stay as they are"
    same = {"priorityClassName": "serving", "podTemplate": {"spec": {"priorityClassName": "serving"}}}
    assert template(engine=same)["spec"]["priorityClassName"] == "serving"
    with pytest.raises(InputError, match=r"podTemplate\.spec\.priorityClassName.*serving; remove one"):
        template(engine={**same, "podTemplate": {"spec": {"priorityClassName": "batch"}}})


def test_how_replicas_are_spread_is_no_part_of_their_pods():
    assert template(model={"topologySpread": {"topologyKey": "topology.kubernetes.io/zone"}}) == template()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"engine": {"priorityClassName": "Not a name"}}, "priorityClassName"),
        ({"model": {"topologySpread": {"topologyKey": "no/label/key"}}}, "topologyKey"),
        ({"model": {"topologySpread": {"topologyKey": ""}}}, "topologyKey"),
        ({"model": {"topologySpread": {}}}, "topologyKey"),
    ],
)
def test_what_is_no_name_is_refused_with_its_field(changes, field):
    with pytest.raises(ValidationError) as error:
        spec(**changes)
    assert field in error.value.errors()[0]["loc"]


def test_the_engine_is_told_what_the_plan_decided():
    assert engine_of(template(tp=4, pp=2))["args"] == [
        "meta-llama/Llama-3.1-70B-Instruct",
        "--served-model-name=llama-3.1-70b",
        "--port=8000",
        "--tensor-parallel-size=4",
        "--pipeline-parallel-size=2",
        "--max-model-len=8192",
        "--max-num-seqs=64",
        "--max-num-batched-tokens=8192",
        "--gpu-memory-utilization=0.9",
        "--kv-cache-dtype=fp8",
        "--shutdown-timeout=300",
        "--enable-prefix-caching",
    ]


def test_flags_that_the_user_gives_are_not_written_again():
    made = template(engine={"extraArgs": ["--max_num_seqs", "64", "--kv-cache-d=fp8"]})
    flags = [argument.partition("=")[0] for argument in engine_of(made)["args"]]
    assert "--max-num-seqs" not in flags
    assert "--kv-cache-dtype" not in flags


def test_a_replica_from_before_settings_were_written_is_rendered_as_it_was():
    made = template(settings=None, needs=None)
    assert engine_of(made)["args"][5:] == ["--max-model-len=8192", "--enable-prefix-caching"]
    assert made["spec"]["terminationGracePeriodSeconds"] == 315


def test_gpus_are_asked_for_by_shards_and_share_memory():
    made = template(tp=4, pp=2)
    amount = {names.GPU_RESOURCE: "8"}
    assert engine_of(made)["resources"] == {"limits": amount, "requests": {**amount, "cpu": "6", "memory": "80Gi"}}
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}
    assert shm in made["spec"]["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in engine_of(made)["volumeMounts"]
    assert shm not in template(tp=1)["spec"]["volumes"]


def test_where_nobody_knows_what_a_node_has_only_gpus_are_asked_for():
    asked = engine_of(template(needs=PodNeeds(start_limit_seconds=600)))["resources"]["requests"]
    assert asked == {names.GPU_RESOURCE: "4"}


def test_what_the_user_asks_for_or_limits_is_the_users():
    own = pod_template(resources={"requests": {"cpu": "1"}, "limits": {"memory": "20Gi"}})
    resources = engine_of(template(engine=own))["resources"]
    assert resources["requests"] == {names.GPU_RESOURCE: "4", "cpu": "1"}
    assert resources["limits"] == {names.GPU_RESOURCE: "4", "memory": "20Gi"}


@pytest.mark.parametrize("security", [{}, {"security": "Restricted"}])
def test_what_the_engine_loads_and_compiles_outlives_its_container(security):
    made = template(tp=1, engine=security)
    (mount,) = engine_of(made)["volumeMounts"]
    assert {"name": mount["name"], "emptyDir": {}} in made["spec"]["volumes"]
    told = {item["name"]: item["value"] for item in engine_of(made)["env"]}
    for name in ("HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT"):
        assert told[name].startswith(f"{mount['mountPath']}/")


def test_caches_stay_where_the_user_mounts_something_for_them():
    own = pod_template(volumeMounts=[{"name": "models", "mountPath": "/root/.cache/huggingface"}])
    made = template(tp=1, engine=own)
    assert engine_of(made)["volumeMounts"] == own["podTemplate"]["spec"]["containers"][0]["volumeMounts"]
    assert "env" not in engine_of(made)
    elsewhere = pod_template(env=[{"name": "HF_HOME", "value": "/models"}])
    told = {item["name"]: item["value"] for item in engine_of(template(tp=1, engine=elsewhere))["env"]}
    assert told["HF_HOME"] == "/models"


@pytest.mark.parametrize(("version", "named"), [("0.18.0", False), ("0.11.1", False), ("0.10.2", True), (None, True)])
def test_the_model_is_named_by_a_flag_only_where_the_image_may_look_for_it(version, named):
    made = template(settings=SETTINGS.model_copy(update={"version": version}))
    weights = "meta-llama/Llama-3.1-70B-Instruct"
    assert engine_of(made)["args"][0] == (f"--model={weights}" if named else weights)


@pytest.mark.parametrize(("needs", "seconds"), [(NEEDS, 3300), (None, 1234)])
def test_a_replica_has_as_long_to_start_as_the_plan_allows(needs, seconds):
    made = engine_of(template(needs=needs, engine={"startupSeconds": 1234}))
    startup = made["startupProbe"]
    assert seconds <= startup["periodSeconds"] * startup["failureThreshold"] < seconds + startup["periodSeconds"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert made[probe]["httpGet"] == {"path": "/health", "port": "http"}


@pytest.mark.parametrize("seconds", [None, 0, 45, 3600])
def test_a_stopping_replica_finishes_what_it_has(seconds):
    made = template(settings=SETTINGS.model_copy(update={"shutdown_seconds": seconds}))
    sleep = engine_of(made)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert made["spec"]["terminationGracePeriodSeconds"] > sleep + (seconds or 0)
    told = [argument for argument in engine_of(made)["args"] if argument.startswith("--shutdown-timeout")]
    assert told == ([] if seconds is None else [f"--shutdown-timeout={seconds}"])


def test_a_pod_waits_for_its_place():
    pod = template()["spec"]
    assert pod["schedulingGates"] == [{"name": names.PLACEMENT_GATE}]
    assert pod["nodeSelector"] == {"karpenter.sh/nodepool": "h100"}


def test_a_pod_waits_for_its_place_whatever_gates_are_added():
    made = template(engine={"podTemplate": {"spec": {"schedulingGates": [{"name": "example.com/checked"}]}}})
    assert made["spec"]["schedulingGates"] == [{"name": names.PLACEMENT_GATE}, {"name": "example.com/checked"}]


def test_pods_wait_in_the_queue_of_the_plan_and_are_other_replicas_then():
    queued = template(queue="team-a")
    assert queued["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team-a"}
    assert name(queued) != name(template())


def test_spot_nodes_are_tolerated_where_they_are_rented():
    keys = [item["key"] for item in template(pool={"capacityType": "Spot"})["spec"]["tolerations"]]
    assert names.GPU_RESOURCE in keys
    assert "cloud.google.com/gke-spot" in keys
    assert [item["key"] for item in template()["spec"]["tolerations"]] == [names.GPU_RESOURCE]


def test_the_service_selects_only_pods_that_serve():
    made, service = manifests(template())
    pod_labels = made["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= pod_labels.items()
    assert service["spec"]["selector"][names.SERVING_LABEL] == "true"
    assert names.SERVING_LABEL not in made["spec"]["selector"]["matchLabels"]
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize("argument", ["--model-impl=vllm", "--enable-prefix-caching", "--host-cache=1", "--", "-O3"])
def test_other_arguments_are_passed_on(argument):
    assert engine_of(template(engine={"extraArgs": [argument]}))["args"][-1] == argument


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (pod_template(resources={"limits": {"nvidia.com/gpu": 1}}), "containers[engine].resources"),
        (pod_template(resources={"requests": {"nvidia.com/gpu": 1}}), "containers[engine].resources"),
        (pod_template(resources=None), "containers[engine].resources"),
        (pod_template(args=["--tensor-parallel-size=8"]), "containers[engine].args"),
        (
            {"podTemplate": {"spec": {"containers": [{"name": "x", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}}},
            "containers[x].resources",
        ),
        (
            {
                "podTemplate": {
                    "spec": {"initContainers": [{"name": "x", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}
                }
            },
            "initContainers[x].resources",
        ),
        ({"podTemplate": {"spec": {"containers": "engine"}}}, "spec.containers"),
        ({"podTemplate": {"spec": {"containers": [{"image": "x"}]}}}, "spec.containers"),
        ({"podTemplate": {"spec": {"nodeName": "n1"}}}, "spec.nodeName"),
        ({"podTemplate": {"spec": {"nodeSelector": {"karpenter.sh/nodepool": "a100"}}}}, "spec.nodeSelector"),
        (pod_template(resources={"limits": ["nvidia.com/gpu"]}), "containers[engine].resources.limits"),
        (
            {"podTemplate": {"spec": {"containers": [{"name": "x", "resources": {"requests": "1"}}]}}},
            "containers[x].resources.requests",
        ),
        ({"podTemplate": {"spec": None}}, "podTemplate.spec"),
        ({"podTemplate": {"metadata": []}}, "podTemplate"),
        ({"podTemplate": {"spec": {"schedulingGates": None}}}, "podTemplate.spec.schedulingGates"),
        ({"podTemplate": {"spec": {"schedulingGates": "none"}}}, "podTemplate.spec.schedulingGates"),
        ({"podTemplate": {"spec": {"schedulingGates": {}}}}, "podTemplate.spec.schedulingGates"),
        ({"podTemplate": {"spec": {"volumes": None}}}, "podTemplate.spec.volumes"),
        (pod_template(livenessProbe=None), "podTemplate.spec.containers[engine].livenessProbe"),
        (
            {"podTemplate": {"spec": {"tolerations": [{"key": "a"}, {"key": None}]}}},
            "podTemplate.spec.tolerations[1].key",
        ),
        ({"podTemplate": {"spec": {"tolerations": [None]}}}, "podTemplate.spec.tolerations[0]"),
    ],
)
def test_a_pod_template_may_not_take_over_what_the_plan_decides(part, field):
    with pytest.raises(InputError) as refused:
        template(engine=part)
    assert refused.value.field.endswith(field)


def test_weights_from_elsewhere_than_known_are_refused():
    made = spec()
    model = made.models[0]
    odd = model.variants[0].model_copy(update={"source": "s3://x"})
    with pytest.raises(InputError, match="must begin with hf://, pvc:// or oci://"):
        deployment.replica_template(
            model=model, variant=odd, pool=made.node_pools[0], tensor_parallel=1, pipeline_parallel=1, settings=SETTINGS
        )


def test_the_hash_changes_exactly_when_the_replica_does():
    same = [
        template(),
        template(model={"priority": 7}),
        template(pool={"dollarsPerNodeHour": "1", "maxNodes": 9}),
        template(engine={"podTemplate": {"spec": {"nodeSelector": {"karpenter.sh/nodepool": "h100"}}}}),
    ]
    others = [
        template(tp=8),
        template(tp=2, pp=2),
        template(settings=SETTINGS.model_copy(update={"max_num_seqs": 128})),
        template(settings=None),
        template(engine={"image": "vllm/vllm-openai:v0.19.0"}),
        template(engine={"extraArgs": []}),
        template(needs=NEEDS.model_copy(update={"start_limit_seconds": 60})),
        template(needs=None),
        template(variant={"source": "hf://other/model"}),
        template(pool={"capacityType": "Spot"}),
        template(pool={"nodeSelector": {"karpenter.sh/nodepool": "h100", "zone": "a"}}),
    ]
    assert len({name(made) for made in same}) == 1
    assert len({name(made) for made in (same[0], *others)}) == 1 + len(others)
    renamed = {name(same[0], **{key: "other"}) for key in ("plan", "model", "variant", "where")}
    assert len({name(same[0]), *renamed}) == 5


def test_quantities_spelled_in_two_ways_are_one_replica():
    one, other = (template(engine=pod_template(resources={"requests": {"cpu": cpu}})) for cpu in ("4", "4000m"))
    assert name(one) == name(other)


def test_merging_joins_maps_named_items_and_other_lists():
    base = {"a": {"b": 1}, "named": [{"name": "x", "v": 1}], "plain": [1, 2], "gone": 1}
    over = {"a": {"c": 2}, "named": [{"name": "y"}, {"name": "x", "w": 2}], "plain": [2, 3], "gone": None}
    assert merge(base, over) == {
        "a": {"b": 1, "c": 2},
        "named": [{"name": "x", "v": 1, "w": 2}, {"name": "y"}],
        "plain": [1, 2, 3],
        "gone": None,
    }


def mounts_of(**more):
    engine = pod_template(volumeMounts=more.pop("mounts"))["podTemplate"]["spec"]["containers"]
    made = template(
        variant={"source": "pvc://claim/models"},
        engine={"podTemplate": {"spec": {"containers": engine, **more}}},
    )
    return engine_of(made)["volumeMounts"]


def test_two_mounts_of_one_volume_are_two_mounts():
    mounts = [{"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "/b", "subPath": "b"}]
    found = mounts_of(mounts=mounts, volumes=[{"name": "data", "emptyDir": {}}])
    assert [item["mountPath"] for item in found if item["name"] == "data"] == ["/a", "/b"]


def test_another_mount_of_the_weights_leaves_them_where_the_engine_reads_them():
    found = mounts_of(mounts=[{"name": "weights", "mountPath": "/also", "readOnly": True}])
    assert [item["mountPath"] for item in found if item["name"] == "weights"] == ["/weights", "/also"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"mounts": [], "volumes": [{"name": "weights", "emptyDir": {}}]}, r"volumes\[weights\]"),
        ({"mounts": [{"name": "x", "mountPath": "/weights"}], "volumes": [{"name": "x", "emptyDir": {}}]}, "mountPath"),
        ({"mounts": [], "volumes": ["weights"]}, r"spec\.volumes: .*list of maps"),
        ({"mounts": ["weights"]}, r"containers\[engine\]\.volumeMounts: .*list of maps"),
    ],
)
def test_nothing_takes_the_place_of_the_weights(more, field):
    with pytest.raises(InputError, match=field):
        mounts_of(**more)


def test_ports_are_told_apart_by_their_number():
    ports = engine_of(template(engine=pod_template(ports=[{"containerPort": 9090}])))["ports"]
    assert [item["containerPort"] for item in ports] == [8000, 9090]


def test_other_devices_are_another_deployment():
    whole = {"dra": {"deviceClass": "gpu.nvidia.com"}}
    other = {"dra": {**whole["dra"], "attributes": SLICES["attributes"]}}
    names_of = {name(template(pool=pool)) for pool in ({}, whole, {"dra": SLICES}, other)}
    assert len(names_of) == 4


@pytest.mark.parametrize(
    ("added", "words"),
    [
        (pod_template(resources={"limits": {"nvidia.com/gpu": 4}}), "the GPUs are devices of a claim"),
        (
            {"podTemplate": {"spec": {"resourceClaims": [{"name": "gpus", "resourceClaimName": "mine"}]}}},
            "choose another name",
        ),
        (
            {"podTemplate": {"metadata": {"annotations": {names.DEVICES_ANNOTATION: '{"count":1}'}}}},
            "the plan decides the devices",
        ),
    ],
)
def test_a_pod_template_cannot_change_the_claim_for_the_gpus(added, words):
    with pytest.raises(InputError, match=words):
        template(pool={"dra": {"deviceClass": "gpu.nvidia.com"}}, engine=added)


def test_the_annotation_of_devices_is_refused_where_the_gpus_are_none():
    with pytest.raises(InputError, match="remove it"):
        template(engine={"podTemplate": {"metadata": {"annotations": {names.DEVICES_ANNOTATION: '{"count":1}'}}}})


def test_a_pod_may_have_claims_of_its_own_beside_ours():
    nic = {"name": "nic", "resourceClaimTemplateName": "nic"}
    own = {
        "podTemplate": {
            "spec": {
                "resourceClaims": [nic],
                "containers": [{"name": "engine", "resources": {"claims": [{"name": "nic"}]}}],
            }
        }
    }
    made = template(pool={"dra": {"deviceClass": "gpu.nvidia.com"}}, engine=own)
    assert made["spec"]["resourceClaims"] == [{"name": "gpus"}, nic]
    assert engine_of(made)["resources"]["claims"] == [{"name": "gpus"}, {"name": "nic"}]
