"""The doctor reads a real API server: what it names as missing is missing, and its fixes, carried out, put it right."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.support.operator import rights
from e2e.support.waiting import wait_for
from localcluster import karpenter, nodes
from localcluster.control_plane import ControlPlane, wait_until_established

pytestmark = pytest.mark.cluster
ACCOUNT = "system:serviceaccount:servingplan-system:servingplan"
COMMAND = str(Path(sys.executable).with_name("servingplan"))
CRD = "llmservingplans.servingplan.dev"


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as running:
        running.install_crds(karpenter.crd_files())
        yield running


def environment(cluster):
    """As a person has it, with this program and kubectl on the path."""
    plain = {key: value for key, value in cluster.environment().items() if not key.startswith("KUBERNETES_")}
    return plain | {"PATH": os.pathsep.join([str(Path(COMMAND).parent), plain["PATH"]])}


def doctor(cluster, *arguments):
    command = [COMMAND, "doctor", "-n", "llm", "-o", "json", *arguments]
    started = time.monotonic()
    done = subprocess.run(command, env=environment(cluster), capture_output=True, text=True)
    print(f"servingplan doctor took {time.monotonic() - started:.1f} s")
    assert done.returncode in (0, 3), done.stderr
    answer = json.loads(done.stdout)
    assert (done.returncode == 3) == (answer["severity"] == "problem")
    return answer["findings"]


def of(findings, check, severity):
    return [item for item in findings if (item["check"], item["severity"]) == (check, severity)]


def run(cluster, fix):
    done = subprocess.run(fix, shell=True, env=environment(cluster), capture_output=True, text=True)
    assert done.returncode == 0, f"{fix}: {done.stderr}"


def test_what_is_missing_is_named_and_its_fix_puts_it_right(cluster):
    found = doctor(cluster, "--as", ACCOUNT)
    (namespace,) = of(found, "namespace", "problem")
    (definition,) = of(found, "crd", "problem")
    assert len(of(found, "permissions", "problem")) >= 4
    assert "no node offers GPUs" in of(found, "gpus", "problem")[0]["message"]
    assert "no operator runs" in of(found, "operator", "problem")[0]["message"]

    run(cluster, namespace["fix"])
    run(cluster, definition["fix"])
    wait_until_established(cluster.kubectl, CRD)
    cluster.kubectl("create", "namespace", "servingplan-system")
    manifests = rights("servingplan-system", ("llm",))
    cluster.apply(*manifests, field_manager="helm")
    pool = karpenter.static_node_pool(nodes.A100, name="a100", annotations={}, node_class_name="default")
    cluster.apply(pool)
    with cluster.client() as api:
        nodes.create(api, nodes.A100, 2, labels={"karpenter.sh/nodepool": "a100"})
    wait_for(
        "the roles are in force",
        lambda: of(doctor(cluster, "--as", ACCOUNT), "permissions", "ok"),
        seconds=60,
        shown=lambda: doctor(cluster, "--as", ACCOUNT),
    )
    found = doctor(cluster, "--as", ACCOUNT)
    assert not of(found, "namespace", "problem")
    assert of(found, "crd", "ok"), "the API server keeps the schema as it was applied"
    (cards,) = of(found, "gpus", "ok")
    assert "of NodePool a100: A100-SXM4-80GB" in cards["message"]
    assert cards["message"].startswith("2 nodes")
    (consent,) = of(found, "pools", "note")
    run(cluster, consent["fix"])
    (sized,) = of(doctor(cluster), "pools", "ok")
    assert ".spec.replicas was last set by cluster-admin" in sized["message"]

    binding = next(
        item for item in manifests if item["kind"] == "ClusterRoleBinding" and "pools" in item["metadata"]["name"]
    )
    cluster.kubectl("delete", "clusterrolebinding", binding["metadata"]["name"])
    lacking = wait_for(
        "the right to size pools is missed",
        lambda: of(doctor(cluster, "--as", ACCOUNT), "permissions", "problem"),
        seconds=60,
    )
    told = "\n".join(item["message"] for item in lacking)
    assert "cannot size node pools: lacks get, list, watch, patch nodepools.karpenter.sh in the cluster" in told
    assert "deployments" not in told


def test_the_doctor_asks_for_what_the_chart_grants():
    """So a right that the operator gets one day is asked for from that day on."""
    from servingplan.doctor.rights import PoolResource, needed

    asked = needed(
        namespace="llm",
        pools=[PoolResource("karpenter.sh", "nodepools")],
        groups=("gateway.networking.k8s.io", "leaderworkerset.x-k8s.io", "kueue.x-k8s.io"),
        lease_namespace="kube-system",
        catalogue_namespace="servingplan-system",
    )
    known = {(right.group, right.resource, right.verb) for right in asked}
    granted = {
        (group, resource, verb)
        for item in rights("servingplan-system", ("llm",))
        if item["kind"] in ("Role", "ClusterRole") and not item["metadata"]["name"].endswith(("-view", "-edit"))
        for rule in item["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == known, f"correct servingplan/doctor/rights.py: {sorted(granted ^ known)}"


def test_an_older_definition_is_told(cluster):
    there = json.loads(cluster.kubectl("get", "crd", CRD, "-o", "json"))
    spec = there["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["resilience"]
    cluster.kubectl("replace", "-f", "-", stdin=json.dumps(there))
    (older,) = of(doctor(cluster), "crd", "problem")
    assert "drops spec.resilience" in older["message"]
    run(cluster, older["fix"])
    assert of(doctor(cluster), "crd", "ok")


def test_a_caller_with_few_rights_is_told_what_could_not_be_read(cluster):
    own = cluster.credentials("guest", user="guest")
    done = subprocess.run(
        [COMMAND, "doctor", "-n", "llm"],
        env={**environment(cluster), "KUBECONFIG": str(own)},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 3, done.stderr
    assert "nodes cannot be read" in done.stdout
    assert "cannot read nodes, pods and plans: lacks get, list, watch nodes in the cluster" in done.stdout
