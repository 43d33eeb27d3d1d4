"""`servingplan ui` and `servingplan report --live` against a real API server: they see its plans, and write nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from e2e.support.waiting import wait_for
from localcluster import binaries, service_account
from localcluster.control_plane import ControlPlane, wait_until_established
from localcluster.ports import free_port
from localcluster.rights import wait_until_granted
from tests.unit.test_report_command import Page

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).resolve().parents[2]
CRD = REPOSITORY / "crds" / "llmservingplans.servingplan.dev.yaml"
EXAMPLE = REPOSITORY / "examples" / "chat.yaml"
CHART = REPOSITORY / "charts" / "servingplan"
HOME = "servingplan-system"
INGRESS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]


def node_pools():
    """The definition of Karpenter's static NodePools, as far as they are read, and those of the example."""
    whatever = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": whatever, "status": whatever}}
    names = {"kind": "NodePool", "plural": "nodepools", "singular": "nodepool", "listKind": "NodePoolList"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    yield {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "nodepools.karpenter.sh"},
        "spec": {"group": "karpenter.sh", "scope": "Cluster", "names": names, "versions": [version]},
    }
    for pool in yaml.safe_load(EXAMPLE.read_text())["spec"]["nodePools"]:
        yield {
            "apiVersion": "karpenter.sh/v1",
            "kind": "NodePool",
            "metadata": {
                "name": pool["resize"]["name"],
                "annotations": {"servingplan.dev/allowed-namespaces": "llm"},
            },
            "spec": {"replicas": 0},
        }


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as up:
        definition, *pools = node_pools()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm"}}
        up.apply(namespace, yaml.safe_load(CRD.read_text()), definition)
        for name in ("llmservingplans.servingplan.dev", "nodepools.karpenter.sh"):
            wait_until_established(up.kubectl, name)
        up.apply(*pools, yaml.safe_load(EXAMPLE.read_text()))
        yield up


@pytest.fixture(scope="module")
def environment(cluster):
    return {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}


def get(url, timeout=120):
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


def version(cluster):
    return json.loads(cluster.kubectl("get", "lsp", "chat", "-n", "llm", "-o", "json"))["metadata"]["resourceVersion"]


def test_plans_of_the_cluster_are_served_and_left_alone(cluster, environment):
    port, before = free_port(), version(cluster)
    command = [sys.executable, "-m", "servingplan", "ui", "--port", str(port), "--what-if"]
    server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        status, listed = wait_for("it listens", lambda: get(f"http://127.0.0.1:{port}/"), seconds=30)
        assert status == 200
        assert Page(listed).tables["plans"][1][0] == "llm/chat"
        status, html = get(f"http://127.0.0.1:{port}/plans/llm/chat")
        assert status == 200, html
        content = json.loads(Page(html).content)
        assert content["plan"] == "llm/chat"
        assert sum(pool["dollars_per_hour"] for pool in content["pools"]) == pytest.approx(content["dollars_per_hour"])
        assert content["served_share"] == 1.0
        assert get(f"http://127.0.0.1:{port}/plans/llm/nobody")[0] == 404
        status, html = get(f"http://127.0.0.1:{port}/plans/llm/chat?budget=70")
        assert status == 200, html
        assert json.loads(Page(html).content)["budget_dollars_per_hour"] == 70

        second = yaml.safe_load(EXAMPLE.read_text())
        second["metadata"]["name"] = "other"
        cluster.apply(second)
        wait_for("the second plan is listed", lambda: "llm/other" in get(f"http://127.0.0.1:{port}/")[1], seconds=30)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
    assert server.returncode == 0
    assert version(cluster) == before


def test_a_report_is_made_of_a_live_plan(cluster, environment, tmp_path):
    html = tmp_path / "page.html"
    command = [sys.executable, "-m", "servingplan", "report", "--live", "chat", "-n", "llm", "-o", str(html)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(Page(html.read_text()).content)["plan"] == "llm/chat"


def chart(*, enabled=True, **values):
    """What the chart renders for the pages."""
    command = [str(binaries.program("helm")), "template", "x", str(CHART), f"--namespace={HOME}", "--values=-"]
    given = json.dumps({"namespaces": ["llm"], **values, "ui": {"enabled": enabled, **values.get("ui", {})}})
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    component = "app.kubernetes.io/component"
    return [
        item for item in yaml.safe_load_all(done.stdout) if item and item["metadata"]["labels"].get(component) == "ui"
    ]


def of_kind(objects, kind):
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def test_the_chart_runs_no_pages_unless_it_is_asked_to():
    assert chart(enabled=False) == []
    container = of_kind(chart(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert "--what-if" not in container["args"]
    trying = of_kind(chart(ui={"whatIf": True}), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert trying["args"] == [*container["args"], "--what-if"]


@pytest.mark.parametrize("namespaces", [["*"], ["llm", "other"]], ids=["everywhere", "confined"])
def test_the_pages_may_only_read_and_read_no_secret(namespaces):
    objects = chart(namespaces=namespaces)
    roles = [item for item in objects if item["kind"] in ("Role", "ClusterRole")]
    assert {verb for role in roles for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    read = {resource for role in roles for rule in role["rules"] for resource in rule["resources"]}
    assert not {"secrets", "*", "leases", "serviceaccounts"} & read
    assert {"llmservingplans", "nodes", "pods", "deployments", "nodepools"} <= read
    account = of_kind(objects, "ServiceAccount")["metadata"]["name"]
    for binding in (item for item in objects if item["kind"].endswith("Binding")):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": HOME}]
    everywhere = of_kind(objects, "ClusterRole")["rules"]
    assert any("configmaps" in rule["resources"] for rule in everywhere) == (namespaces == ["*"])
    assert {item["metadata"]["namespace"] for item in roles if item["kind"] == "Role"} == (
        {"default"} if namespaces == ["*"] else {"default", HOME, *namespaces}
    )


def test_nothing_that_selects_the_operator_finds_the_pages():
    objects = chart(ui={"networkPolicy": {"from": INGRESS}})
    pod = of_kind(objects, "Deployment")["spec"]["template"]
    labels, (container,) = pod["metadata"]["labels"], pod["spec"]["containers"]
    assert labels["app.kubernetes.io/name"] == "servingplan-ui"  # the operator's selectors name "servingplan"
    service, policy = of_kind(objects, "Service"), of_kind(objects, "NetworkPolicy")
    assert service["spec"]["type"] == "ClusterIP"
    for selector in (service["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/name"] == "servingplan-ui"
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert policy["spec"]["ingress"] == [{"from": INGRESS, "ports": [{"port": "http", "protocol": "TCP"}]}]
    assert of_kind(chart(), "NetworkPolicy")["spec"]["ingress"] == []  # nobody: no rule, which is not an empty rule


@pytest.mark.parametrize("namespaces", [["*"], ["llm"]], ids=["everywhere", "confined"])
def test_the_chart_s_pages_work_with_its_rights(cluster, environment, namespaces, tmp_path):
    restricted = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME, "labels": restricted}})
    objects = chart(
        namespaces=namespaces,
        fullnameOverride="x-all" if namespaces == ["*"] else "x-one",
        ui={"hosts": ["plans.example"]},
    )
    cluster.apply(*objects)
    with cluster.client() as api:
        wait_until_granted(api, objects)
    deployment, account = of_kind(objects, "Deployment"), of_kind(objects, "ServiceAccount")["metadata"]["name"]
    wait_for(
        "a pod, which the restricted standard lets in",
        lambda: cluster.kubectl(
            "-n", HOME, "get", "pods", "-l", f"app.kubernetes.io/name={name_of(deployment)}", "-o", "name"
        ),
        seconds=30,
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    own, port = tmp_path / "ui.kubeconfig", free_port()
    service_account.write_kubeconfig(cluster.kubeconfig, HOME, account, own)
    given = {item["name"]: item["value"] for item in container["env"]}
    arguments = [*container["args"], f"--port={port}", "--host=127.0.0.1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "servingplan", *arguments], env={**environment, **given, "KUBECONFIG": str(own)}
    )
    try:
        answer = wait_for("it listens", lambda: get(f"http://localhost:{port}/"), seconds=60)
        assert answer[0] == 200, answer
        status, html = get(f"http://localhost:{port}/plans/llm/chat")
        assert status == 200, html
        assert get(f"http://localhost:{port}/plans/llm/chat?budget=70")[0] == 403
        asked = urllib.request.Request(f"http://localhost:{port}/", headers={"Host": "evil.example"})
        assert get(asked)[0] == 403
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
    # Whoever may read everything sees the same: nothing that the page needs was refused.
    whole = tmp_path / "page.html"
    command = [sys.executable, "-m", "servingplan", "report", "--live", "chat", "-n", "llm", "-o", str(whole)]
    subprocess.run(command, env=environment, check=True)
    seen, true = (json.loads(Page(text).content) for text in (html, whole.read_text()))
    for field in ("hash", "findings", "pools", "replicas", "classes"):
        assert seen[field] == true[field], field


def name_of(deployment):
    return deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
