"""``helm uninstall`` while plans are there: real Helm, a real API server and Job controller, and the guard's own rights.

No kubelet is here. The test runs the command of the guard's pod with the token of its ServiceAccount, and says how it ended.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from e2e.support.waiting import wait_for
from localcluster import binaries, service_account
from localcluster.audit import AuditLog, Request
from localcluster.control_plane import ControlPlane, wait_until_established

pytestmark = pytest.mark.cluster
REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "charts" / "servingplan"
HOME, RELEASE = "servingplan-system", "servingplan"
GUARD = "servingplan-uninstall"
USER = f"system:serviceaccount:{HOME}:{GUARD}"
COMMAND = str(Path(sys.executable).with_name("servingplan"))


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane(audit=True) as running:
        for namespace in ("llm", "llm-two", "elsewhere"):
            running.kubectl("create", "namespace", namespace)
        yield running


class Installation:
    """A release, and a stand-in for the kubelet that runs what its hooks ask for."""

    def __init__(self, cluster, folder):
        self.cluster, self._folder = cluster, folder
        self._log, self._asked = AuditLog(cluster.audit_log), set()
        self._log.requests()  # those of other tests
        self.said = ""
        """What the guard's pods have printed."""

    def helm(self, *arguments):
        command = [str(binaries.program("helm")), *arguments, f"--namespace={HOME}"]
        return subprocess.run(command, env=self.cluster.environment(), capture_output=True, text=True)

    def install(self, namespaces):
        given = f"namespaces={json.dumps(namespaces)}"
        done = self.helm("install", RELEASE, str(CHART), "--create-namespace", "--set-json", given)
        assert done.returncode == 0, done.stderr
        wait_until_established(self.cluster.kubectl, "llmservingplans.servingplan.dev")

    def uninstall(self, *arguments):
        """``helm uninstall``, with the pods of its hooks run meanwhile."""
        over = threading.Event()
        kubelet = threading.Thread(target=self._run_pods, args=(over,))
        kubelet.start()
        try:
            return self.helm("uninstall", RELEASE, *arguments)
        finally:
            over.set()
            kubelet.join()

    def _run_pods(self, over):
        with self.cluster.client() as api:
            core = client.CoreV1Api(api)
            while not over.wait(0.2):
                for pod in core.list_namespaced_pod(HOME, label_selector="batch.kubernetes.io/job-name").items:
                    if pod.status.phase == "Pending":
                        self._run(core, pod)

    def _run(self, core, pod):
        (container,) = pod.spec.containers
        own = self._folder / "guard.kubeconfig"
        service_account.write_kubeconfig(self.cluster.kubeconfig, HOME, pod.spec.service_account_name, own)
        outside = {key: value for key, value in os.environ.items() if not key.startswith("KUBERNETES_")}
        given = {item.name: item.value for item in container.env or ()}
        done = subprocess.run(
            [COMMAND, *container.args], env={**outside, **given, "KUBECONFIG": str(own)}, capture_output=True, text=True
        )
        self.said += done.stdout + done.stderr
        ended = {"exitCode": done.returncode, "reason": "Error" if done.returncode else "Completed"}
        state = {"name": container.name, "image": container.image, "imageID": "", "ready": False, "restartCount": 0}
        status = {
            "phase": "Failed" if done.returncode else "Succeeded",
            "containerStatuses": [{**state, "state": {"terminated": ended}}],
        }
        core.patch_namespaced_pod_status(pod.metadata.name, HOME, {"status": status})

    def asked(self):
        """What the guard has asked of the API server."""
        self._asked |= {request for request in self._log.requests() if request.user == USER}
        return self._asked

    def runs(self):
        """Whether the objects of the release are there."""
        return bool(self.cluster.kubectl("get", "deployment", "-n", HOME, RELEASE, "-o", "name", "--ignore-not-found"))

    def state(self):
        return json.loads(self.helm("status", RELEASE, "-o", "json").stdout)["info"]["status"]


@pytest.fixture
def installation(cluster, tmp_path):
    made = Installation(cluster, tmp_path)
    yield made
    made.helm("uninstall", RELEASE, "--no-hooks", "--ignore-not-found")


def add_plan(cluster, namespace):
    """A plan as an operator has taken it: held by its finalizer."""
    manifest = yaml.safe_load((REPOSITORY / "examples" / "chat.yaml").read_text())
    manifest["metadata"] |= {"namespace": namespace, "finalizers": ["servingplan.dev/retire"]}
    cluster.apply(manifest)


def remove_plan(cluster, namespace):
    cluster.kubectl("patch", "lsp", "chat", "-n", namespace, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    cluster.kubectl("delete", "lsp", "chat", "-n", namespace)


@pytest.mark.parametrize("namespaces", [["llm", "llm-two"], ["*"]], ids=["confined", "everywhere"])
def test_helm_does_not_uninstall_the_operator_of_plans_that_are_there(cluster, installation, namespaces):
    installation.install(namespaces)
    add_plan(cluster, "llm-two")
    refused = installation.uninstall()
    assert refused.returncode != 0, refused.stdout
    assert GUARD in refused.stderr
    for words in (
        "llm-two/chat",
        "servingplan.dev/retire",
        "servingplan uninstall --all" if namespaces == ["*"] else "servingplan uninstall -n llm -n llm-two",
        "helm rollback servingplan 1 -n servingplan-system",
        "helm uninstall servingplan -n servingplan-system --no-hooks",
    ):
        assert words in installation.said
    places = [""] if namespaces == ["*"] else namespaces
    used = {Request(USER, "list", "servingplan.dev", "llmservingplans", place, True) for place in places}
    wait_for("it has used its right, and asked for nothing else", lambda: installation.asked() == used, seconds=30)
    assert installation.runs()
    assert cluster.kubectl("get", "lsp", "-n", "llm-two", "chat", "-o", "jsonpath={.metadata.deletionTimestamp}") == ""

    # As the message says: the release can be kept, and be upgraded again.
    assert installation.helm("rollback", RELEASE, "1").returncode == 0
    assert installation.state() == "deployed"
    upgraded = installation.helm("upgrade", RELEASE, str(CHART), "--reset-then-reuse-values")
    assert upgraded.returncode == 0, upgraded.stderr

    remove_plan(cluster, "llm-two")
    gone = installation.uninstall()
    assert gone.returncode == 0, gone.stderr
    assert not installation.runs()
    left = cluster.kubectl("get", "serviceaccounts,jobs,pods", "-n", HOME, "-o", "name").split()
    assert left == ["serviceaccount/default"]


def test_a_refused_release_goes_once_its_own_plans_are_gone(cluster, installation):
    installation.install(["llm"])
    add_plan(cluster, "llm")
    add_plan(cluster, "elsewhere")
    refused = installation.uninstall()
    remove_plan(cluster, "llm")
    done = installation.uninstall()
    remove_plan(cluster, "elsewhere")
    assert refused.returncode != 0
    assert "elsewhere" not in installation.said
    assert done.returncode == 0, done.stderr
    assert not installation.runs()


def test_people_may_leave_plans_behind(cluster, installation):
    installation.install(["llm"])
    add_plan(cluster, "llm")
    assert installation.uninstall("--no-hooks").returncode == 0
    assert installation.said == ""
    remove_plan(cluster, "llm")


def test_without_the_definition_of_plans_there_are_none(cluster, installation):
    installation.install(["llm"])
    cluster.kubectl("delete", "crd", "llmservingplans.servingplan.dev")
    done = installation.uninstall()
    assert done.returncode == 0, done.stderr + installation.said


@pytest.mark.parametrize("namespaces", [["llm"], ["*"]], ids=["confined", "everywhere"])
def test_the_guard_may_list_plans_and_nothing_else(cluster, installation, namespaces):
    installation.install(namespaces)
    account = f"--as={USER}"

    def may():
        told = cluster.kubectl("auth", "can-i", "--list", account, "-n", "llm", "--no-headers")
        resources = [line.split() for line in told.splitlines() if not line.startswith(" ")]
        return {(words[0], words[-1]) for words in resources if not words[0].startswith("self")}

    wait_for("its role is in force", lambda: may() == {("llmservingplans.servingplan.dev", "[list]")}, seconds=60)
