"""The operator as the chart installs it: a process with exactly the rights of the chart's ServiceAccount."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.support.cluster import Cluster
from e2e.support.releases import THIS, Release
from localcluster import binaries, service_account
from localcluster.ports import free_port
from localcluster.rights import wait_until_granted

Json = dict[str, Any]

CHART = THIS.chart
PERIOD_SECONDS = 2
_RIGHTS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


def rights(namespace: str, watched: tuple[str, ...], *, chart: Path = CHART) -> list[Json]:
    """ServiceAccount and RBAC objects of the operator, released in ``namespace`` for plans of ``watched`` (none: all)."""
    command = [str(binaries.program("helm")), "template", "servingplan", str(chart), "--namespace", namespace]
    command += ["--set-json", f"namespaces={json.dumps(list(watched) or ['*'])}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"helm template: {done.stderr}"
    objects = (item for item in yaml.safe_load_all(done.stdout) if item and item["kind"] in _RIGHTS)
    found = [item for item in objects if item["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"]
    for item in found:
        if item["kind"] in ("ServiceAccount", "Role", "RoleBinding"):
            item["metadata"].setdefault("namespace", namespace)
    return found


@dataclass
class Operator:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log: Path
    metrics_address: str

    def metrics(self, plan_namespace: str) -> dict[str, float]:
        """What Prometheus would read of the plans of a namespace: value by series."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        series = (line.rpartition(" ") for line in lines if f'plan_namespace="{plan_namespace}"' in line)
        return {name: float(value) for name, _, value in series}

    def turns(self, plan_namespace: str) -> float:
        """How many turns of the plans of a namespace have ended well, their writes and Events included: none while the
        process is still starting."""
        try:
            series = self.metrics(plan_namespace)
        except OSError:
            return 0
        wanted = "servingplan_turns_total{"
        return sum(value for name, value in series.items() if name.startswith(wanted) and 'result="done"' in name)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def words(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """End it as a kubelet would."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(
    cluster: Cluster,
    *,
    namespace: str,
    watched: tuple[str, ...],
    log: Path,
    server: str | None = None,
    edit: Callable[[list[Json]], None] = lambda manifests: None,
    period_seconds: float = PERIOD_SECONDS,
    release: Release = THIS,
) -> Iterator[Operator]:
    """An operator released in ``namespace``. ``server`` puts a proxy before the API server; ``edit`` may take rights
    away before they are granted."""
    manifests = rights(namespace, watched, chart=release.chart)
    edit(manifests)
    cluster.apply(*manifests)
    wait_until_granted(cluster.client, manifests)
    account = next(item["metadata"]["name"] for item in manifests if item["kind"] == "ServiceAccount")
    try:
        with acting_as(
            cluster,
            account,
            namespace=namespace,
            watched=watched,
            log=log,
            server=server,
            period_seconds=period_seconds,
            release=release,
        ) as operator:
            yield operator
    finally:
        _take_back(cluster, manifests)


@contextmanager
def acting_as(
    cluster: Cluster,
    account: str,
    *,
    namespace: str,
    watched: tuple[str, ...],
    log: Path,
    server: str | None = None,
    period_seconds: float = PERIOD_SECONDS,
    release: Release = THIS,
) -> Iterator[Operator]:
    """An operator with the rights that a ServiceAccount of ``namespace`` has."""
    own = log.with_suffix(".kubeconfig")
    service_account.write_kubeconfig(cluster.kubeconfig, namespace, account, own, server=server)
    # Without a Lease: the next operator need not wait for the end of one that was killed.
    command = [*release.command, "run", "--liveness-address", "", "--lease-namespace", ""]
    command += ["--catalogue-namespace", namespace]  # as the chart has it
    command += ["--period-seconds", str(period_seconds), "--namespaces", ",".join(watched)]
    metrics_address = f"127.0.0.1:{free_port()}"
    command += ["--metrics-address", metrics_address]
    command += ["--allowed-hosts", "127.0.0.1"]  # gateways and Prometheus of the stories run beside the operator
    environment = {**release.environment(), "KUBECONFIG": str(own)}
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    operator = Operator(process, log, metrics_address)
    try:
        yield operator
    finally:
        operator.stop()


def _take_back(cluster: Cluster, manifests: list[Json]) -> None:
    """What is not in a namespace that goes anyway."""
    for item in manifests:
        if item["kind"].startswith("ClusterRole"):
            cluster.try_kubectl("delete", item["kind"], item["metadata"]["name"], "--wait=false", "--ignore-not-found")
