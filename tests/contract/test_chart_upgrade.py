"""A release of an earlier chart is upgraded by real Helm: it goes on managing the namespaces that it had, or is refused."""

import json
import subprocess
import tarfile
from io import BytesIO

import pytest
import yaml

from localcluster import binaries
from localcluster.control_plane import ControlPlane, wait_until_established
from localcluster.operator_process import CHART

pytestmark = pytest.mark.cluster
EARLIER = "a6dfc25559c2e6ef78184743a26cd654b61fb902"
"""A commit whose chart manages all namespaces where it is given no list."""
HOME, RELEASE = "servingplan-system", "servingplan"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The chart of that commit."""
    done = subprocess.run(
        ["git", "archive", EARLIER, "charts/servingplan"], cwd=CHART.parents[1], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"NO UPGRADE WAS TESTED: this copy of the repository has no commit {EARLIER}")
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "charts" / "servingplan"


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as running:
        for namespace in ("llm", "llm-two"):
            running.kubectl("create", "namespace", namespace)
        yield running


@pytest.fixture
def helm(cluster):
    def run(*arguments):
        command = [str(binaries.program("helm")), *arguments, f"--namespace={HOME}"]
        return subprocess.run(command, env=cluster.environment(), capture_output=True, text=True)

    yield run
    run("uninstall", RELEASE, "--no-hooks")


def watched(cluster):
    """The namespaces that the installed operator watches; nothing for all."""
    text = cluster.kubectl("get", "deployment", "-n", HOME, RELEASE, "-o", "json")
    (container,) = json.loads(text)["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item.get("value", "") for item in container["env"]}["SERVINGPLAN_NAMESPACES"]


def writes_everywhere(cluster):
    role = json.loads(cluster.kubectl("get", "clusterrole", f"{HOME}-{RELEASE}", "-o", "json"))
    return any("deployments" in rule["resources"] for rule in role["rules"])


@pytest.fixture
def plan(cluster):
    """Makes a plan in a namespace, as an operator has taken it: held by its finalizer."""
    made = []

    def make(namespace):
        manifest = yaml.safe_load((CHART.parents[1] / "examples" / "chat.yaml").read_text())
        manifest["metadata"] |= {"namespace": namespace, "finalizers": ["servingplan.dev/retire"]}
        cluster.apply(manifest)
        made.append(namespace)

    yield make
    for namespace in made:
        free = '{"metadata": {"finalizers": null}}'
        cluster.kubectl("patch", "lsp", "chat", "-n", namespace, "--type=merge", "-p", free)
        cluster.kubectl("delete", "lsp", "chat", "-n", namespace)


def upgrade(helm, *arguments):
    return helm("upgrade", RELEASE, str(CHART), "--reset-then-reuse-values", *arguments)


def test_a_release_for_all_namespaces_stays_one_or_says_what_to_do(cluster, earlier, helm):
    installed = helm("install", RELEASE, str(earlier), "--create-namespace")
    assert installed.returncode == 0, installed.stderr
    assert (watched(cluster), writes_everywhere(cluster)) == ("", True)

    refused = upgrade(helm)
    assert refused.returncode != 0
    assert "--set 'namespaces={*}'" in refused.stderr
    assert (watched(cluster), writes_everywhere(cluster)) == ("", True), "nothing has changed"

    done = upgrade(helm, "--set", "namespaces={*}")
    assert done.returncode == 0, done.stderr
    assert (watched(cluster), writes_everywhere(cluster)) == ("", True)
    confined = upgrade(helm, "--set", "namespaces={llm}")
    assert confined.returncode == 0, confined.stderr
    assert (watched(cluster), writes_everywhere(cluster)) == ("llm", False)


def test_a_release_with_a_list_keeps_it(cluster, earlier, helm):
    installed = helm("install", RELEASE, str(earlier), "--create-namespace", "--set", "namespaces={llm}")
    assert installed.returncode == 0, installed.stderr
    done = upgrade(helm)
    assert done.returncode == 0, done.stderr
    assert (watched(cluster), writes_everywhere(cluster)) == ("llm", False)
    back = helm("rollback", RELEASE, "1")
    assert back.returncode == 0, back.stderr
    assert watched(cluster) == "llm"


def test_a_release_in_its_own_namespace_is_upgraded_without_a_list(cluster, helm):
    for command in (("install", RELEASE, str(CHART), "--create-namespace"), ("upgrade", RELEASE, str(CHART))):
        done = helm(*command)
        assert done.returncode == 0, done.stderr
        assert (watched(cluster), writes_everywhere(cluster)) == (HOME, False)


@pytest.mark.parametrize("before", ["llm,llm-two", "*"])
def test_no_namespace_with_plans_leaves_the_list(cluster, helm, plan, before):
    """Nobody would retire them, and they would hang on their finalizer."""
    named = f"namespaces={{{before}}}"
    installed = helm("install", RELEASE, str(CHART), "--create-namespace", "--set", named)
    assert installed.returncode == 0, installed.stderr
    wait_until_established(cluster.kubectl, "llmservingplans.servingplan.dev")
    plan("llm")
    was = watched(cluster)
    done = upgrade(helm, "--set", "namespaces={llm}")
    assert done.returncode == 0, done.stderr
    assert upgrade(helm, "--set", named).returncode == 0

    plan("llm-two")
    refused = upgrade(helm, "--set", "namespaces={llm}")
    assert refused.returncode != 0
    assert "llm-two/chat" in refused.stderr
    assert "servingplan uninstall -n llm-two" in refused.stderr
    assert watched(cluster) == was
    forced = upgrade(helm, "--set", "namespaces={llm}", "--set", "uninstallGuard.enabled=false")
    assert forced.returncode == 0, forced.stderr
