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
from localcluster.control_plane import ControlPlane, wait_until_established
from localcluster.ports import free_port
from tests.unit.test_report_command import Page

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).resolve().parents[2]
CRD = REPOSITORY / "crds" / "llmservingplans.servingplan.dev.yaml"
EXAMPLE = REPOSITORY / "examples" / "chat.yaml"


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
