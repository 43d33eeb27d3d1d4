"""A replica over several nodes becomes a LeaderWorkerSet: a leader that takes the requests, and workers without a head."""

import os

import pytest
import yaml
from hypothesis import given

from servingplan.errors import InputError
from servingplan.model import names
from servingplan.model.fleet import Fleet, PipelineStage, ReplicaSet
from servingplan.planning.settings import command_line
from servingplan.render import deployment, flags
from servingplan.render.claim_template import asked_in
from servingplan.render.deployment import Group
from servingplan.render.disruption_budget import disruption_budget
from servingplan.render.leader_worker_set import leader_worker_set, serving_pod, template_in, template_of
from tests.unit.render.test_deployment import GOLDEN, NEEDS, PLAN, SETTINGS, engine_of, pod_template, spec
from tests.unit.render.test_flags import SETTINGS as ANY_SETTINGS
from tests.unit.render.test_flags import settings_told

GROUP = Group(2, (39, 41))
REPLICAS = ReplicaSet(
    deployment="chat-llama-3-1-70b-123abc",
    model="llama-3.1-70b",
    variant="bf16",
    pool="h100",
    gpu="H100-SXM-80GB",
    tensor_parallel=8,
    pipeline_parallel=2,
    stages=tuple(PipelineStage(pool="h100", gpu="H100-SXM-80GB", layers=layers) for layers in GROUP.layers),
    nodes=2,
    settings=SETTINGS,
    replicas=3,
    planned={"chat": 3.0},
    capacity={"chat": 2.5},
    priority=100,
    error_band=0.15,
    source="kernels",
)


def template(settings=SETTINGS, needs=NEEDS, group=GROUP, **changes):
    made = spec(**changes)
    model = made.models[0]
    return template_of(
        PLAN,
        model,
        model.variants[0],
        made.node_pools[0],
        tensor_parallel=8,
        pipeline_parallel=2,
        settings=settings,
        needs=needs,
        group=group,
    )


def manifest(made=None):
    fleet = Fleet(replica_sets=(REPLICAS,))
    return leader_worker_set(plan=PLAN, replica_set=REPLICAS, template=made or template(), replicas=3, fleet=fleet)


def engines(made):
    return [engine_of(made[which]) for which in ("leaderTemplate", "workerTemplate")]


def test_the_manifest_is_the_one_kept():
    path = GOLDEN / "leader-worker-set.yaml"
    text = yaml.safe_dump(manifest(), sort_keys=False, width=120)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "UPDATE_GOLDEN=1 writes the files anew"


def test_leaders_and_workers_have_the_priority_class_of_the_plan():
    made = template(engine={"priorityClassName": "serving"})
    assert {made[which]["spec"]["priorityClassName"] for which in ("leaderTemplate", "workerTemplate")} == {"serving"}


def test_each_pod_takes_its_node_and_a_pipeline_over_all_of_them():
    for engine in engines(template()):
        assert engine["resources"]["limits"] == {names.GPU_RESOURCE: "8"}
        line = flags.read(engine["args"]).values
        assert (line["--tensor-parallel-size"], line["--pipeline-parallel-size"], line["--nnodes"]) == ("8", "2", "2")
        assert {"name": "VLLM_PP_LAYER_PARTITION", "value": "39,41"} in engine["env"]


def test_a_restricted_engine_over_several_nodes_still_knows_its_group():
    for engine, plain in zip(engines(template(engine={"security": "Restricted"})), engines(template()), strict=True):
        assert {item["name"] for item in plain["env"]} < {item["name"] for item in engine["env"]}
        assert engine["securityContext"]["allowPrivilegeEscalation"] is False


def test_only_the_leader_takes_requests_and_is_asked_how_it_is():
    leader, worker = engines(template())
    assert "--headless" not in leader["args"]
    assert "--headless" in worker["args"]
    assert {"ports", "startupProbe", "readinessProbe", "livenessProbe"} <= leader.keys()
    assert {"ports", "startupProbe", "readinessProbe", "livenessProbe"}.isdisjoint(worker)
    others = [argument for argument in worker["args"] if argument not in leader["args"]]
    assert others == ["--master-addr=$(LWS_LEADER_ADDRESS)", "--headless"]


def test_who_leads_and_who_is_which_stands_in_variables_of_the_group():
    leader, worker = engines(template())
    for engine in (leader, worker):
        assert "--node-rank=$(LWS_WORKER_INDEX)" in engine["args"]
    assert "--master-addr=$(LWS_LEADER_ADDRESS)" in worker["args"]
    assert "--master-addr=$(POD_IP)" in leader["args"]
    assert {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in leader["env"]


@given(settings=ANY_SETTINGS)
def test_the_settings_come_back_from_the_flags_of_every_pod(settings):
    for engine in engines(template(settings=settings, engine={"extraArgs": []})):
        assert settings_told(flags.read(engine["args"]), declared=settings) == settings


def test_both_pods_stop_and_wait_for_their_place_as_those_of_a_deployment():
    alone = deployment.replica_template(
        model=spec().models[0],
        variant=spec().models[0].variants[0],
        pool=spec().node_pools[0],
        tensor_parallel=8,
        pipeline_parallel=1,
        settings=SETTINGS,
        needs=NEEDS,
    )
    for which in ("leaderTemplate", "workerTemplate"):
        pod = template()[which]["spec"]
        for key in ("schedulingGates", "nodeSelector", "tolerations", "terminationGracePeriodSeconds", "volumes"):
            assert pod[key] == alone["spec"][key], key
        assert engine_of(template()[which])["lifecycle"] == engine_of(alone)["lifecycle"]


def test_the_users_template_is_merged_into_both_pods():
    secret = {"name": "HF_TOKEN", "value": "x"}
    made = template(engine=pod_template(env=[secret]))
    for engine in engines(made):
        assert secret in engine["env"]
        assert any(item["name"] == "VLLM_PP_LAYER_PARTITION" for item in engine["env"])


def test_a_probe_that_the_user_changes_is_the_leaders():
    leader, worker = engines(template(engine=pod_template(startupProbe={"failureThreshold": 720})))
    assert leader["startupProbe"]["failureThreshold"] == 720
    assert "startupProbe" not in worker


def test_the_service_selects_leaders_only_and_the_budget_counts_whole_groups():
    made = manifest()["spec"]["leaderWorkerTemplate"]
    wanted = deployment.service(plan=PLAN, replica_set=REPLICAS)["spec"]["selector"]
    assert wanted.items() <= made["leaderTemplate"]["metadata"]["labels"].items()
    assert not wanted.items() <= made["workerTemplate"]["metadata"]["labels"].items()
    evictions = disruption_budget(plan=PLAN, replica_set=REPLICAS, must_stay=3)["spec"]
    assert evictions["minAvailable"] == 6
    for which in ("leaderTemplate", "workerTemplate"):
        assert evictions["selector"]["matchLabels"].items() <= made[which]["metadata"]["labels"].items()


def test_the_template_is_found_again_in_what_was_made_of_it():
    made = manifest()
    assert template_in(made) == made["spec"]["leaderWorkerTemplate"]
    assert serving_pod(made) == made["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]
    assert (template_in({}), serving_pod({})) == (None, {})
    assert serving_pod({"spec": {"template": {"spec": {"a": 1}}}}) == {"a": 1}


@pytest.mark.parametrize("flag", ["--nnodes=2", "--node-rank=0", "--master-addr=x", "--headless"])
def test_only_the_plan_decides_how_many_nodes_an_engine_has(flag):
    with pytest.raises(InputError, match=flag.partition("=")[0]):
        command_line(spec(engine={"extraArgs": [flag]}).models[0])


def test_a_replica_inside_a_node_is_told_nothing_of_others():
    (engine,) = template(group=None)["spec"]["containers"]
    assert not any(word in argument for argument in engine["args"] for word in ("nnodes", "node-rank", "master-addr"))
    assert not {item["name"] for item in engine["env"]} & {"VLLM_PP_LAYER_PARTITION", "POD_IP"}


def test_what_a_replica_is_tells_how_many_nodes_it_takes():
    assert (REPLICAS.kind, REPLICAS.facts.nodes, REPLICAS.gpus) == ("LeaderWorkerSet", 2, 16)
    inside = REPLICAS.model_copy(update={"stages": (), "nodes": 1})
    assert inside.kind == "Deployment"
    assert "nodes" not in inside.model_dump()
    assert "nodes" not in inside.facts.model_dump()


def test_each_pod_of_a_group_has_a_claim_for_the_devices_of_its_node():
    made = template(pool={"dra": {"deviceClass": "gpu.nvidia.com"}})
    assert asked_in(made) == {"attributes": {}, "count": 8, "deviceClass": "gpu.nvidia.com"}
    pods = manifest(made)["spec"]["leaderWorkerTemplate"]
    for pod in (pods["leaderTemplate"], pods["workerTemplate"]):
        claim = {"name": "gpus", "resourceClaimTemplateName": REPLICAS.deployment}
        assert pod["spec"]["resourceClaims"] == [claim]
        assert engine_of(pod)["resources"] == {
            "claims": [{"name": "gpus"}],
            "requests": {"cpu": "6", "memory": "80Gi"},
        }


@pytest.mark.parametrize("text", ["what", "[]", "{}", '{"attributes": 1, "count": 8, "deviceClass": "a"}', "7"])
def test_what_people_wrote_over_the_devices_of_a_pod_is_not_taken_for_them(text):
    assert asked_in({"metadata": {"annotations": {names.DEVICES_ANNOTATION: text}}}) is None
