"""The commands of the documentation that need an API server: each is run as it is written, in the order of the pages."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes.config
import pytest
import yaml

from localcluster import karpenter, nodes
from localcluster.control_plane import ControlPlane, wait_until_established
from servingplan.kube import NODES, PLANS, Kube
from tests.contract.test_cli_live import add_node, turns_of
from tests.documents import REPOSITORY, SHELL, blocks

pytestmark = pytest.mark.cluster
COMMAND = str(Path(sys.executable).with_name("servingplan"))
PLACEHOLDERS = {"NODE": "l40s-0", "YOUR_TOKEN": "hf_example"}
ROUTING = REPOSITORY / "tests/golden/routing/routing.json"
PROBLEM = 3
"""The exit code of ``servingplan doctor`` where it found something, as it does in a cluster without GPUs of a cloud."""
OURS = [b for b in blocks() if b.language == SHELL and b.mark == ("run", f"tests/contract/{Path(__file__).name}")]
SMALL = nodes.NodeType("small", "", 0, 0, 4, 16, 0.2)
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as up:
        up.install_crds(karpenter.crd_files())
        yield up


@pytest.fixture(scope="module")
def shell(cluster, tmp_path_factory):
    """Runs a command as a person would, in a folder with what the pages assume to be there."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("charts", "crds", "examples"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "examples/chat.yaml", folder / "chat.yaml")
    (folder / "config.json").write_text(json.dumps(MODEL))
    for block in blocks():
        if block.mark is not None and block.mark[0] == "file":
            (folder / block.mark[1]).write_text(block.text + "\n")
    plain = {key: value for key, value in cluster.environment().items() if not key.startswith("KUBERNETES_")}
    environment = plain | {"PATH": os.pathsep.join([str(Path(COMMAND).parent), plain["PATH"]])}

    def run(command):
        for placeholder, value in PLACEHOLDERS.items():
            command = command.replace(placeholder, value)
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder,
            env=environment,
            input="y\n" * 9,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="module")
def installed(cluster, shell):
    """What the pages assume: namespaces, the chart, pools and nodes, a plan that a turn has seen, and Argo CD's settings."""
    results = REPOSITORY / "tests/unit/profile_command/results/vllm.json"
    for command in (
        "kubectl create namespace llm && kubectl create namespace argocd && kubectl create namespace quickstart",
        "helm install servingplan charts/servingplan -n servingplan-system --create-namespace --set 'namespaces={llm}'",
        "kubectl create configmap argocd-cm -n argocd",
        "kubectl apply -f examples/quickstart.yaml",
        f"servingplan profile import {results} --gpu H100-SXM-80GB --tp 2 -o configmap --name chat-rates -n llm > rates.yaml",
    ):
        done = shell(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    wait_until_established(cluster.kubectl, "llmservingplans.servingplan.dev")
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as client:
        nodes.create(client, SMALL, 1)  # for the pods of the chart
    plan = yaml.safe_load((REPOSITORY / "examples/chat.yaml").read_text())
    plan["spec"]["mode"] = "Approve"
    for pool in plan["spec"]["nodePools"]:
        cluster.apply(_node_pool(pool["resize"]["name"]))
    cluster.apply(plan)
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as client:
        api = Kube(client)
        add_node(api, "l40s-0")
        api.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "without-gpus"}})
        with turns_of(api, "llm", "chat") as turns:
            asyncio.run(_until_proposed(api, turns))
    # As the operator writes it once the plan is approved, which here would begin a rollout.
    cluster.kubectl("create", "configmap", "chat-routing", "-n", "llm", f"--from-file={ROUTING}")


async def _until_proposed(api, turns):
    """Take turns until one has the plan's search behind it."""
    async with asyncio.timeout(120):
        while "proposed" not in api.get(PLANS, "chat", namespace="llm").get("status", {}):
            await turns.take()
            await asyncio.sleep(0.1)


def _node_pool(name):
    requirements = [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}]
    reference = {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"}
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": name, "annotations": {"servingplan.dev/allowed-namespaces": "llm"}},
        "spec": {"replicas": 0, "template": {"spec": {"requirements": requirements, "nodeClassRef": reference}}},
    }


def test_there_are_such_commands():
    assert len(OURS) > 12


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("block", OURS, ids=str)
def test_a_command_does_what_it_says(shell, block):
    for command in block.commands:
        done = shell(command)
        allowed = (0, PROBLEM) if command.startswith("servingplan doctor") else (0,)
        assert done.returncode in allowed, f"{block}: {command}: {done.stdout}{done.stderr}"


@pytest.mark.usefixtures("installed")
def test_records_come_back_with_a_plan_that_was_lost(cluster, shell):
    """After the blocks above, the last of which remove the definition of plans and with it the plan."""
    backup, restore = (block for block in OURS if "chat-records.yaml" in block.text)
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / "crds"))
    wait_until_established(cluster.kubectl, "llmservingplans.servingplan.dev")
    plan = yaml.safe_load((REPOSITORY / "examples/chat.yaml").read_text())
    cluster.apply(plan)
    lost = cluster.kubectl("get", "lsp", "chat", "-n", "llm", "-o", "jsonpath={.metadata.uid}")
    for name in ("chat-plan", "chat-routing"):
        shell(f"kubectl delete configmap {name} -n llm")
        cluster.apply(_owned_by(lost, name))
    for command in backup.commands:
        assert shell(command).returncode == 0
    for what in ("lsp/chat", "configmap/chat-plan", "configmap/chat-routing"):
        cluster.kubectl("delete", what, "-n", "llm", "--ignore-not-found")  # a collector may have been faster
    for command in restore.commands:
        done = shell(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    found = {
        name: json.loads(cluster.kubectl("get", name, "-n", "llm", "-o", "json"))
        for name in ("lsp/chat", "cm/chat-plan")
    }
    (owner,) = found["cm/chat-plan"]["metadata"]["ownerReferences"]
    assert owner["uid"] == found["lsp/chat"]["metadata"]["uid"] != lost
    assert found["cm/chat-plan"]["data"] == {"key": "chat-plan"}


def _owned_by(uid, name):
    owner = {"apiVersion": "servingplan.dev/v1alpha1", "kind": "LLMServingPlan", "name": "chat", "uid": uid}
    metadata = {"name": name, "namespace": "llm", "ownerReferences": [{**owner, "controller": True}]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"key": name}}
