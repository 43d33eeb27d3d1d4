"""The way to install of `docs/install.md`, by its own words: the chart's operator, emulated engines, a request through Envoy.

All pods are under the restricted Pod Security Standard, and the operator has the rights of its ServiceAccount and no others.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.real.ground import GPUS, ask, chat
from e2e.real.traffic import Traffic, until_sent
from e2e.support.cluster import pod_is_ready
from e2e.support.waiting import wait_for
from servingplan.kube import NODES, PLANS, PODS
from servingplan.lease import LEASES
from tests.documents import SHELL, blocks_of

REPOSITORY = Path(__file__).resolve().parents[2]
PLANS_IN, RELEASED_IN = "quickstart", "servingplan-system"
ENFORCE = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture
def commands():
    """The page's commands after the image is on the nodes, in their order."""
    page = REPOSITORY / "docs/install.md"
    found = [line for block in blocks_of(page) if block.language == SHELL for line in block.commands]
    assert [line.split(" ")[0] for line in found[:3]] == ["make", "kubectl", "helm"]
    return found[1:]


@pytest.fixture
def shell(node, ground):
    """Runs a line as a person would; ends what it has left running, and takes away what it has made."""
    environment = node.plane.environment()

    def run(line):
        done = subprocess.run(line, shell=True, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    node.give_gpus(0)  # a node with real ones gets no emulated ones
    try:
        yield run
    finally:
        node.give_gpus(GPUS)
        kubectl = ground.scene.cluster.try_kubectl
        kubectl("patch", "lsp", "chat", "-n", PLANS_IN, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
        kubectl("delete", "namespace", PLANS_IN, RELEASED_IN, "--wait=false", "--ignore-not-found")


class Installed:
    """What is asked of the installation."""

    def __init__(self, api, kubectl):
        self.api, self.kubectl = api, kubectl

    def operators(self):
        """The operator's pods that are ready."""
        found = self.api.list(PODS, namespace=RELEASED_IN, labels="app.kubernetes.io/name=servingplan")
        return [pod["metadata"]["name"] for pod in found if pod_is_ready(pod)]

    def leader(self):
        """The name of the pod that holds the Lease."""
        lease = self.api.get(LEASES, f"servingplan-in-{PLANS_IN}", namespace="kube-system")
        return (lease["spec"].get("holderIdentity") or "").rpartition("_")[0]

    def engines(self):
        """The engines that are ready: how often their containers were started anew, by pod."""
        found = self.api.list(PODS, namespace=PLANS_IN, labels="servingplan.dev/plan")
        ready = [pod for pod in found if pod_is_ready(pod)]
        return {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in ready}

    def evict(self, pod):
        """Ask for the eviction of an operator's pod, as a drain does: what the API server answers."""
        place = {"name": pod, "namespace": RELEASED_IN}
        eviction = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": place})
        path = f"/api/v1/namespaces/{RELEASED_IN}/pods/{pod}/eviction"
        done = self.kubectl("create", "--raw", path, "-f", "-", stdin=eviction)
        return done.stdout + done.stderr

    def ask_for(self, requests_per_second, engines):
        """Edit the plan's demand and wait until an operator has acted on it, and so many engines are ready."""
        plan = self.api.get(PLANS, "chat", namespace=PLANS_IN)
        models = plan["spec"]["models"]
        models[0]["classes"][0]["requestsPerSecond"] = requests_per_second
        edited = self.api.merge(PLANS, "chat", {"spec": {"models": models}}, manager="kubectl-edit", namespace=PLANS_IN)
        wait_for("the edit is acted on", lambda: self.acted_on(edited), seconds=60, shown=self.shown)
        wait_for(f"{engines} engines", lambda: len(self.engines()) == engines, seconds=120, shown=self.shown)

    def acted_on(self, edited):
        """Whether the plan says that it is Ready as it was edited."""
        plan = self.api.get(PLANS, "chat", namespace=PLANS_IN)
        ready = [item for item in plan["status"]["conditions"] if item["type"] == "Ready"]
        current = plan["status"]["observedGeneration"] == edited["metadata"]["generation"]
        return current and ready[0]["status"] == "True"

    def shown(self):
        """The state of the cluster as a message of a failed wait shows it."""
        found = self.kubectl("get", "pods", "-A", "-o", "wide").stdout
        told = self.kubectl("logs", "-n", RELEASED_IN, "deployment/servingplan", "--tail=40").stdout
        return f"{found}\n{self.kubectl('get', 'lsp', '-n', PLANS_IN, '-o', 'yaml').stdout}\n{told}"


@contextmanager
def forwarding(line, environment):
    """``kubectl port-forward`` in the background, once it says that it forwards."""
    command = line.removesuffix("&").split()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "Forwarding" in process.stdout.readline()
            yield
        finally:
            process.terminate()


def test_what_the_page_says_installs_serves_and_survives(node, ground, shell, commands):
    create, install, apply, wait, forward, curl = commands[:6]
    cluster = ground.scene.cluster
    installed = Installed(ground.scene.api, cluster.try_kubectl)
    shell(create)
    for namespace in (PLANS_IN, RELEASED_IN):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        shell(f"kubectl label namespace {namespace} {ENFORCE}")
    began = time.monotonic()
    for line in (install, apply, wait):
        try:
            shell(line)
        except AssertionError as error:
            pytest.fail(f"{error}\n{installed.shown()}")
    print(f"from helm install to the plan Ready: {time.monotonic() - began:.1f} s")

    with forwarding(forward, node.plane.environment()):
        answer = json.loads(shell(curl))
    assert answer["choices"][0]["message"]["content"]
    gateway = ground.scene.cluster.kubectl(
        "get", "service", "chat-gateway", "-n", PLANS_IN, "-o", "jsonpath={.spec.clusterIP}"
    )
    assert ask(gateway, chat(tokens=5), port=80)[0] == 200
    first = installed.engines()
    assert len(first) == 3

    # Two copies of Envoy and two operators ask for more cores than this node may have.
    shell(f"kubectl scale -n {PLANS_IN} deployment/chat-gateway --replicas=1")
    with Traffic(gateway, requests_per_second=4, tokens=(5, 20), port=80) as traffic:
        _restarted(installed, shell)
        _one_of_two_takes_over(installed, shell)
        _evicted(installed, shell)
        wait_for("users go on", until_sent(traffic, 20), seconds=30)
    print(f"{len(traffic.lost)} of {len(traffic.outcomes)} requests lost")
    assert traffic.lost == []
    last = installed.engines()
    assert first.items() <= last.items()  # no engine was replaced, and none started anew
    assert set(last.values()) == {0}

    _uninstalled(installed, shell, node)


def _restarted(installed, shell):
    (before,) = installed.operators()
    shell(f"kubectl delete pod -n {RELEASED_IN} {before} --wait=false")
    wait_for("another pod", lambda: installed.operators() not in ([], [before]), seconds=90, shown=installed.shown)
    installed.ask_for("26", engines=4)


def _one_of_two_takes_over(installed, shell):
    upgrade = f"helm upgrade servingplan charts/servingplan -n {RELEASED_IN} --reset-then-reuse-values"
    small = "resources.requests.cpu=50m"  # three of them are there while one takes the place of another
    shell(f"{upgrade} --set replicas=2 --set writeGuard.enabled=true --set {small}")
    shell(f"kubectl rollout status -n {RELEASED_IN} deployment/servingplan --timeout=180s")
    wait_for("one of them leads", lambda: installed.leader() in installed.operators(), seconds=60)
    leader = installed.leader()
    budget = installed.kubectl("get", "pdb", "-n", RELEASED_IN, "servingplan").stdout
    assert "servingplan" in budget
    shell(f"kubectl delete pod -n {RELEASED_IN} {leader} --wait=false")
    wait_for("the other leads", lambda: installed.leader() not in ("", leader), seconds=60, shown=installed.shown)
    installed.ask_for("24", engines=4)  # what is paid stays


def _evicted(installed, shell):
    """As a drain does it, where nothing can take the place of what is evicted: one operator goes, the last one stays."""
    wait_for("two operators", lambda: len(installed.operators()) == 2, seconds=90, shown=installed.shown)
    leader = installed.leader()
    (standby,) = set(installed.operators()) - {leader}
    pdb = ("get", "pdb", "-n", RELEASED_IN, "servingplan", "-o", "jsonpath={.status.disruptionsAllowed}")
    wait_for("one of them may go", lambda: installed.kubectl(*pdb).stdout == "1", seconds=60, shown=installed.shown)
    shell(f"kubectl create quota full -n {RELEASED_IN} --hard=pods=1")
    quota = ("get", "quota", "full", "-n", RELEASED_IN, "-o", "jsonpath={.status.used.pods}")
    wait_for("the quota is in force", lambda: installed.kubectl(*quota).stdout == "2", seconds=60)

    assert '"Success"' in installed.evict(leader)
    wait_for("the other leads", lambda: installed.leader() == standby, seconds=60, shown=installed.shown)
    wait_for("one is left", lambda: installed.operators() == [standby], seconds=90, shown=installed.shown)
    assert "disruption budget" in installed.evict(standby)
    installed.ask_for("26", engines=4)
    assert installed.operators() == [standby]
    shell(f"kubectl delete quota full -n {RELEASED_IN}")
    # The controller tries again at once after a change of its object; else after minutes, doubled with each refusal.
    shell(f"kubectl annotate replicasets -n {RELEASED_IN} --all tried=again")
    wait_for("two operators again", lambda: len(installed.operators()) == 2, seconds=240, shown=installed.shown)


def _uninstalled(installed, shell, node):
    """Helm refuses while the plan is there. While an operator runs, it retires the plan; the GPUs go with a command."""
    uninstall = ["helm", "uninstall", "servingplan", "-n", RELEASED_IN]
    serving, operators = installed.engines(), installed.operators()
    refused = subprocess.run(uninstall, env=node.plane.environment(), capture_output=True, text=True)
    assert refused.returncode != 0, refused.stdout + refused.stderr
    told = refused.stdout + refused.stderr
    print(told)
    assert f"plans are left: {PLANS_IN}/chat" in told, told + installed.shown()
    assert f"servingplan uninstall -n {PLANS_IN}" in told
    assert (installed.engines(), installed.operators()) == (serving, operators)

    program = str(Path(sys.executable).with_name("servingplan"))
    environment = {**os.environ, "KUBECONFIG": str(node.plane.kubeconfig)}
    for arguments in (["uninstall", "--namespace", PLANS_IN, "--yes"], ["emulate-gpus", "--count", "0"]):
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr + installed.shown()
    assert installed.engines() == {}
    (found,) = installed.api.list(NODES)
    assert "nvidia.com/gpu.emulated" not in found["status"]["allocatable"]
    shell(" ".join(uninstall))
    assert installed.kubectl("get", "deployments,jobs", "-n", RELEASED_IN, "-o", "name").stdout == ""
