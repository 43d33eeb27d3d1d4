"""The controller of LeaderWorkerSets beside a control plane: it makes groups of pods, and makes a group anew that lost one.

    with LeaderWorkerSets(cluster.kubeconfig, cluster.kubectl, folder):
        cluster.apply(leader_worker_set)

It runs as a process outside the cluster, so its webhooks, without which its pods lack their names and variables, are called by
URL on the loopback, with a certificate of their own.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml

from localcluster import binaries
from localcluster.certificates import Authority
from localcluster.control_plane import StartError, wait_until_established
from localcluster.ports import free_ports

API = "leaderworkersets.leaderworkerset.x-k8s.io"
_TOOL = "lws"
_MODULE = "sigs.k8s.io/lws"
_START_SECONDS = 300
_STOP_SECONDS = 20


class LeaderWorkerSets:
    """The controller as a child process. It ends with the block, and the kind that it serves goes."""

    def __init__(self, kubeconfig: Path, kubectl: Callable[..., str], folder: Path) -> None:
        """``kubectl`` takes arguments, and ``stdin``."""
        self._kubeconfig = kubeconfig
        self._kubectl = kubectl
        self._folder = folder
        self._webhooks: list[str] = []
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        program = binaries.program(_TOOL)
        self._folder.mkdir(parents=True, exist_ok=True)
        authority = Authority(self._folder / "certificates")
        served = authority.issue("tls", hosts=("127.0.0.1",))
        webhook_port, probe_port = free_ports(2)
        config = self._folder / "config.yaml"
        config.write_text(yaml.safe_dump(_configuration(served.certificate.parent, webhook_port, probe_port)))
        source = binaries.module_folder(_TOOL, _MODULE) / "config"
        for file in sorted((source / "crd" / "bases").glob("*.yaml")):
            self._kubectl("apply", "--server-side", "-f", str(file))
        wait_until_established(self._kubectl, API)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [str(program), "--config", str(config), "--zap-log-level=info"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "KUBECONFIG": str(self._kubeconfig)},
            )
        try:
            self._wait(probe_port)
            trusted = base64.b64encode(authority.certificate.certificate.read_bytes()).decode()
            hooks = yaml.safe_load_all((source / "webhook" / "manifests.yaml").read_text())
            items = [_by_url(hook, f"https://127.0.0.1:{webhook_port}", trusted) for hook in hooks if hook]
            self._webhooks = [f"{item['kind']}/{item['metadata']['name']}" for item in items]
            self._kubectl("apply", "--server-side", "-f", "-", stdin=_list(items))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._webhooks:
            self._kubectl("delete", *self._webhooks)
        self._kubectl("delete", "crd", API, "--wait=false")
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def log_file(self) -> Path:
        """What the controller prints."""
        return self._folder / "lws.log"

    def _wait(self, probe_port: int) -> None:
        end = time.monotonic() + _START_SECONDS
        while not _answers(f"http://127.0.0.1:{probe_port}/readyz"):
            words = self.log_file.read_text(errors="replace")[-3000:]
            if (code := self.process.poll()) is not None:
                raise StartError(f"the controller of LeaderWorkerSets ended with {code}; its last words:\n{words}")
            if time.monotonic() > end:
                raise StartError(f"the controller of LeaderWorkerSets was not ready after {_START_SECONDS} s:\n{words}")
            time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _configuration(certificates: Path, webhook_port: int, probe_port: int) -> dict[str, Any]:
    return {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"port": webhook_port, "certDir": str(certificates)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{probe_port}"},
    }


def _by_url(hook: dict[str, Any], server: str, trusted: str) -> dict[str, Any]:
    """A webhook configuration of the module, which names a Service, for a process outside the cluster."""
    hook["metadata"]["name"] = f"lws-{hook['metadata']['name']}"
    for item in hook["webhooks"]:
        path = item["clientConfig"].pop("service")["path"]
        item["clientConfig"] = {"url": f"{server}{path}", "caBundle": trusted}
        if path == "/mutate--v1-pod":  # other pods are none of its business
            item["objectSelector"] = {
                "matchExpressions": [{"key": "leaderworkerset.sigs.k8s.io/name", "operator": "Exists"}]
            }
    return hook


def _list(items: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
