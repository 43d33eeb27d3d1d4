"""The local control plane does what the end-to-end stories rely on. One start serves all tests but the last two."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import kubernetes.config
import pytest
from kubernetes import client, watch
from urllib3.exceptions import HTTPError

from e2e.support.waiting import hold, wait_for
from localcluster import karpenter, nodes, service_account, stages
from localcluster.control_plane import ControlPlane, StartError
from localcluster.proxy import Moment, Verdict, Write, WriteProxy
from localcluster.stages import PodTimes

pytestmark = pytest.mark.cluster
REPOSITORY = Path(__file__).resolve().parents[2]
HOUR = 3600
"""Longer than any test waits: what needs so long is told apart from what is only slow."""


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane(karpenter=True, audit=True, pod_times=PodTimes(HOUR, HOUR)) as running:
        pools = [
            karpenter.static_node_pool(kind, annotations={karpenter.ALLOWED_NAMESPACES_ANNOTATION: "team-a"})
            for kind in nodes.NODE_TYPES
        ]
        running.apply(karpenter.node_class(registration_delay_seconds=1), *pools)
        yield running


@pytest.fixture
def core(cluster):
    with cluster.client() as api:
        yield client.CoreV1Api(api)


@pytest.fixture(scope="module")
def gpu_nodes(cluster):
    with cluster.client() as api:
        names = nodes.create(api, nodes.H100, 2, prefix="fixed", labels={"fleet": "fixed"})
        core = client.CoreV1Api(api)
        wait_for("the nodes are ready", lambda: all(nodes.is_ready(core.read_node(name)) for name in names), seconds=20)
        return names


def pod(name: str, *, gpus: int = 0, gate: str | None = None, **annotations: str) -> dict:
    resources = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "metadata": {
            "name": name,
            "annotations": {
                f"kwok.servingplan.dev/{key.replace('_', '-')}": value for key, value in annotations.items()
            },
        },
        "spec": {
            "nodeSelector": {"fleet": "fixed"},
            "containers": [{"name": "main", "image": "x", "resources": {"requests": resources, "limits": resources}}],
            "schedulingGates": [{"name": gate}] if gate else [],
        },
    }


def readiness(core, name: str) -> client.V1PodCondition | None:
    conditions = core.read_namespaced_pod(name, "default").status.conditions or []
    return next((c for c in conditions if c.type == "Ready"), None)


def is_ready(core, name: str) -> bool:
    found = readiness(core, name)
    return found is not None and found.status == "True"


def runs(core, name: str) -> bool:
    return core.read_namespaced_pod(name, "default").status.phase == "Running"


def exists(core, name: str) -> bool:
    return any(one.metadata.name == name for one in core.list_namespaced_pod("default").items)


def test_a_model_server_loads_before_it_is_ready_and_takes_time_to_stop(core, gpu_nodes):
    core.create_namespaced_pod("default", pod("model", gpus=4, ready_seconds="4", stop_seconds="3"))
    wait_for("it runs", lambda: runs(core, "model"), seconds=20)
    running = core.read_namespaced_pod("model", "default")
    assert running.spec.node_name in gpu_nodes
    assert running.status.pod_ip
    changes = itertools.count()

    def changed_and_ready():
        core.patch_namespaced_pod("model", "default", {"metadata": {"labels": {"seen": str(next(changes))}}})
        return is_ready(core, "model")

    # Whoever changes a loading pod does not make it load longer: else it would not be ready as long as this goes on.
    wait_for("it is ready", changed_and_ready, seconds=20)
    loaded = readiness(core, "model").last_transition_time - running.status.start_time
    assert loaded.total_seconds() >= 4

    started = time.monotonic()
    core.delete_namespaced_pod("model", "default", grace_period_seconds=HOUR)
    wait_for("it has stopped", lambda: not exists(core, "model"), seconds=20)
    assert time.monotonic() - started > 1.9, "3 s from a moment that is told in whole seconds"


def test_a_model_server_stops_within_its_grace_period(core, gpu_nodes):
    core.create_namespaced_pod("default", pod("hasty", gpus=4, ready_seconds="0"))
    wait_for("it is ready", lambda: is_ready(core, "hasty"), seconds=20)
    core.delete_namespaced_pod("hasty", "default", grace_period_seconds=1)
    wait_for("it has stopped", lambda: not exists(core, "hasty"), seconds=20)


def test_a_hanging_model_server_is_never_ready(core, gpu_nodes):
    core.create_namespaced_pod("default", pod("hangs", gpus=1, ready_seconds="0", never_ready_percent="100"))
    wait_for("it runs", lambda: runs(core, "hangs"), seconds=20)
    hold("it is not ready", lambda: not is_ready(core, "hangs"), seconds=2)
    assert readiness(core, "hangs").reason == stages.NEVER_READY_REASON
    core.delete_namespaced_pod("hangs", "default", grace_period_seconds=0)


def test_other_pods_are_ready_and_gone_at_once(core, gpu_nodes):
    core.create_namespaced_pod("default", pod("plain"))
    wait_for("it is ready", lambda: is_ready(core, "plain"), seconds=20)
    core.delete_namespaced_pod("plain", "default", grace_period_seconds=HOUR)
    wait_for("it is gone", lambda: not exists(core, "plain"), seconds=20)


def test_a_gated_pod_waits_for_its_gate(core, gpu_nodes):
    core.create_namespaced_pod("default", pod("gated", gpus=1, gate="servingplan.dev/plan", ready_seconds="0"))

    def waits():
        waiting = core.read_namespaced_pod("gated", "default")
        return (waiting.status.phase, waiting.spec.node_name) == ("Pending", None)

    hold("it waits", waits, seconds=2)
    open_gate = [{"op": "remove", "path": "/spec/schedulingGates"}]
    core.patch_namespaced_pod("gated", "default", open_gate)
    wait_for("it is ready", lambda: is_ready(core, "gated"), seconds=20)
    core.delete_namespaced_pod("gated", "default", grace_period_seconds=0)


def test_a_job_ends(cluster, core, gpu_nodes):
    cluster.kubectl("create", "job", "short", "--image=x")
    cluster.kubectl("wait", "job/short", "--for=condition=Complete", "--timeout=120s")
    cluster.kubectl("delete", "job", "short")


def test_a_deleted_node_can_take_its_pods_along(cluster, core):
    with cluster.client() as api:
        (name,) = nodes.create(api, nodes.A100, 1, prefix="doomed", labels={"fleet": "doomed"})
        orphan = pod("orphan", gpus=4, ready_seconds="0")
        orphan["spec"]["nodeSelector"] = {"fleet": "doomed"}
        core.create_namespaced_pod("default", orphan)
        wait_for("it is ready", lambda: is_ready(core, "orphan"), seconds=20)
        nodes.delete(api, name, with_pods=True)
        wait_for("it is gone", lambda: not exists(core, "orphan"), seconds=20)


def test_nodes_can_be_cordoned_and_fail(cluster, core, gpu_nodes):
    name = gpu_nodes[1]
    with cluster.client() as api:
        nodes.cordon(api, name)
        assert core.read_node(name).spec.unschedulable
        nodes.cordon(api, name, cordoned=False)
        assert not core.read_node(name).spec.unschedulable
        nodes.fail(api, name)
        wait_for("it is not ready", lambda: not nodes.is_ready(core.read_node(name)), seconds=20)
        nodes.fail(api, name, failed=False)
        wait_for("it is ready again", lambda: nodes.is_ready(core.read_node(name)), seconds=20)


def test_karpenter_rents_and_returns_the_nodes_of_a_static_pool(cluster, core):
    def rented() -> list[client.V1Node]:
        return core.list_node(label_selector="karpenter.sh/nodepool=h100-8x").items

    cluster.kubectl("scale", "nodepool", "h100-8x", "--replicas=2")
    wait_for("two nodes are ready", lambda: sum(map(nodes.is_ready, rented())) == 2, seconds=30)
    for node in rented():
        assert node.status.allocatable["nvidia.com/gpu"] == "8"
        assert node.metadata.labels["nvidia.com/gpu.product"] == nodes.H100.gpu_product
        assert node.metadata.labels["node.kubernetes.io/instance-type"] == nodes.H100.name
    cluster.kubectl("scale", "nodepool", "h100-8x", "--replicas=0")
    wait_for(
        "none is left",
        lambda: not rented(),
        seconds=30,
        shown=lambda: cluster.kubectl(
            "get", "nodes,nodeclaims,pods,poddisruptionbudgets", "--all-namespaces", "-o", "wide"
        ),
    )


def may(cluster, account: str, verb: str, resource: str) -> bool:
    """What the authorizer knows of, some time after the binding is there."""
    try:
        cluster.kubectl("auth", "can-i", verb, resource, f"--as=system:serviceaccount:default:{account}")
    except StartError:
        return False
    return True


def test_the_proxy_counts_writes_streams_watches_and_breaks_the_write_it_is_told_to(cluster, tmp_path):
    cluster.kubectl("create", "serviceaccount", "writer")
    cluster.kubectl("create", "rolebinding", "writer", "--clusterrole=edit", "--serviceaccount=default:writer")
    for verb in ("create", "patch", "list", "watch"):
        wait_for(f"it may {verb}", lambda verb=verb: may(cluster, "writer", verb, "configmaps"), seconds=20)

    def drop(number: int, moment: Moment) -> Callable[[Write, Moment], Verdict]:
        return lambda write, now: Verdict.DROP if (write.number, now) == (number, moment) else Verdict.PASS

    with WriteProxy(cluster.kubeconfig, certificate=cluster.serving_certificate) as proxy:
        path = service_account.write_kubeconfig(
            cluster.kubeconfig, "default", "writer", tmp_path / "kubeconfig", server=proxy.url
        )
        with kubernetes.config.new_client_from_config(str(path)) as api:
            core = client.CoreV1Api(api)
            api.rest_client.pool_manager.connection_pool_kw["retries"] = False
            core.create_namespaced_config_map("default", {"metadata": {"name": "one"}})
            core.list_namespaced_config_map("default")
            core.patch_namespaced_config_map("one", "default", {"data": {"a": "b"}})
            with pytest.raises(client.ApiException) as refused:
                core.delete_node("nobody-may")
            assert refused.value.status == 403
            assert [(write.number, write.method, write.status) for write in proxy.writes] == [
                (1, "POST", 201),
                (2, "PATCH", 200),
                (3, "DELETE", 403),
            ]
            assert json.loads(proxy.writes[1].body) == {"data": {"a": "b"}}

            stream = watch.Watch()
            seen = []
            for event in stream.stream(core.list_namespaced_config_map, "default", timeout_seconds=300):
                seen.append((event["type"], event["object"].metadata.name))
                if seen[-1] == ("ADDED", "one"):  # arrives while the watch stays open: so it streams
                    core.create_namespaced_config_map("default", {"metadata": {"name": "two"}})
                if seen[-1] == ("ADDED", "two"):
                    stream.stop()
            assert ("ADDED", "two") in seen

            proxy.hook = drop(5, Moment.BEFORE)
            with pytest.raises(HTTPError):
                core.create_namespaced_config_map("default", {"metadata": {"name": "never-sent"}})
            proxy.hook = drop(6, Moment.AFTER)
            with pytest.raises(HTTPError):
                core.create_namespaced_config_map("default", {"metadata": {"name": "never-told"}})
            names = {one.metadata.name for one in core.list_namespaced_config_map("default").items}
            assert "never-sent" not in names
            assert "never-told" in names
            assert [write.status for write in proxy.writes[4:]] == [None, 201]
            assert proxy.errors == []


def test_clients_take_the_proxy_with_and_without_tls(cluster, tmp_path):
    for certificate in (None, cluster.serving_certificate):
        with WriteProxy(cluster.kubeconfig, certificate=certificate) as proxy:
            path = service_account.write_kubeconfig(
                cluster.kubeconfig, "kube-system", "namespace-controller", tmp_path / "kubeconfig", server=proxy.url
            )
            with kubernetes.config.new_client_from_config(str(path)) as api:
                assert client.CoreV1Api(api).list_namespace().items
    with WriteProxy(cluster.kubeconfig, certificate=cluster.serving_certificate) as proxy:
        path = service_account.write_kubeconfig(
            cluster.kubeconfig, "kube-system", "namespace-controller", tmp_path / "kubeconfig", server=proxy.url
        )
        listed = cluster.kubectl(f"--kubeconfig={path}", "get", "namespaces")  # Go clients send tokens over TLS only
        assert "kube-system" in listed
        assert proxy.writes == []


def test_nothing_is_left_when_the_owner_is_killed(tmp_path):
    script = """if True:
        import sys, time
        from localcluster.control_plane import ControlPlane
        with ControlPlane() as cluster:
            print(cluster.folder, *cluster.pids().values(), flush=True)
            time.sleep(600)
    """
    for signal_name, code in (("terminate", -2), ("kill", -9)):
        with subprocess.Popen(
            [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as owner:
            folder, *pids = owner.stdout.readline().split()
            assert len(pids) == 5
            getattr(owner, signal_name)()
            assert owner.wait(timeout=60) == code
        living = [Path(f"/proc/{pid}") for pid in pids]
        wait_for("all are gone", lambda living=living: not any(path.exists() for path in living), seconds=20)
        if signal_name == "terminate":
            assert not Path(folder).exists()
    # A killed owner cannot tidy up; the next start does it.
    with ControlPlane():  # or another at the same moment, of which this one does not wait for the end
        wait_for("it is tidied up", lambda: not Path(folder).exists(), seconds=20)


def test_a_program_that_does_not_start_is_quoted(monkeypatch):
    def broken(times: stages.PodTimes) -> list:
        return [{"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": "x"}, "spec": 7}]

    monkeypatch.setattr(stages, "stages", broken)
    plane = ControlPlane()
    with pytest.raises(StartError, match=r"kwok ended with \d+; its last words:"):
        plane.start()
    assert plane.pids() == {}
    assert not plane.folder.exists()
