"""The operator as a process beside the cluster, with exactly the rights that its chart gives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from localcluster import binaries, service_account
from localcluster.control_plane import ControlPlane, wait_until_established
from localcluster.rights import wait_until_granted

CHART = Path(__file__).resolve().parents[1] / "charts" / "servingplan"
NAMESPACE = "servingplan-system"
RELEASE = "servingplan"
USER = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
"""The name by which the API server knows the operator."""
_STOP_SECONDS = 60


def chart_objects(values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Everything that the chart renders, the CRD first; without values, for the plans of all namespaces."""
    rendered = subprocess.run(
        [
            str(binaries.program("helm")),
            "template",
            RELEASE,
            str(CHART),
            "--namespace",
            NAMESPACE,
            "--include-crds",
            "--values",
            "-",
        ],
        input=yaml.safe_dump(dict(values or {"namespaces": ["*"]})),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [item for item in yaml.safe_load_all(rendered) if item]


def install(cluster: ControlPlane, objects: Sequence[dict[str, Any]]) -> str:
    """Apply the chart without its Deployment (the process takes its place) and hooks, and wait until all of it is in force.

    A later ``helm install`` takes the objects over, since they have Helm's annotations. Returns the ServiceAccount's name.
    """
    definitions = [item for item in objects if item["kind"] == "CustomResourceDefinition"]
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *definitions)
    rest = (
        item
        for item in objects
        if item["kind"] not in ("CustomResourceDefinition", "Deployment") and not _is_hook(item)
    )
    cluster.apply(*map(_as_of_helm, rest), field_manager="helm")
    for item in definitions:
        wait_until_established(cluster.kubectl, item["metadata"]["name"])
    with cluster.client() as client:
        wait_until_granted(client, objects)
    return next(str(item["metadata"]["name"]) for item in objects if item["kind"] == "ServiceAccount")


def _is_hook(item: dict[str, Any]) -> bool:
    """Whether Helm makes the object only at its moment."""
    return "helm.sh/hook" in item["metadata"].get("annotations", {})


def _as_of_helm(item: dict[str, Any]) -> dict[str, Any]:
    """The object with the annotations by which Helm knows those of a release; the chart gives the label ``managed-by``."""
    metadata = item["metadata"]
    release = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE}
    return {**item, "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), **release}}}


def environment(objects: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What the chart's Deployment gives the operator."""
    deployment = next(item for item in objects if item["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"]}


class OperatorProcess:
    """``servingplan run`` as a child process; ends with the block."""

    def __init__(
        self,
        cluster: ControlPlane,
        *,
        log: Path,
        server: str | None = None,
        arguments: tuple[str, ...] = (),
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """``server``: another URL than the API server's own, such as a proxy's. ``arguments``: of ``servingplan run``."""
        self._cluster = cluster
        self._log = log
        self._server = server
        self._arguments = arguments
        self._values = values
        self._environment: dict[str, str] = {}
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        objects = chart_objects(self._values)
        account = install(self._cluster, objects)
        kubeconfig = service_account.write_kubeconfig(
            self._cluster.kubeconfig, NAMESPACE, account, self._log.with_suffix(".kubeconfig"), server=self._server
        )
        self._environment = {**environment(objects), "KUBECONFIG": str(kubeconfig)}
        self.start()
        return self

    def start(self) -> None:
        """Start the process anew, after it has ended, with what is installed."""
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "servingplan",
                    "run",
                    "--liveness-address",
                    "",
                    "--metrics-address",
                    "",
                    *self._arguments,
                ],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
