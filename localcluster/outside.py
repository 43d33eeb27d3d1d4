"""A controller beside a control plane, as a process outside the cluster.

Its webhooks are called by URL on the loopback, with a certificate of their own.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from localcluster import binaries
from localcluster.certificates import Authority, Certificate
from localcluster.control_plane import StartError, wait_until_established
from localcluster.ports import free_ports

_START_SECONDS = 300
_STOP_SECONDS = 20

Json = dict[str, Any]


class OutsideController(ABC):
    """The controller as a child process. It ends with the block, and the kinds that it serves go."""

    tool: str
    """The name of its folder in ``localcluster/tools``, and of its program."""
    title: str
    """What people call it."""
    api_version: str
    """The version of its configuration file."""
    settings: ClassVar[Json] = {}
    """What its configuration file has beside what all have."""

    def __init__(self, kubeconfig: Path, kubectl: Callable[..., str], folder: Path) -> None:
        """``kubectl`` takes arguments, and ``stdin``."""
        self._kubeconfig = kubeconfig
        self._kubectl = kubectl
        self._folder = folder
        self._webhooks: list[str] = []
        self._kinds: list[str] = []
        self.process: subprocess.Popen[bytes]

    @abstractmethod
    def source(self) -> Path:
        """The folder with ``crd/bases`` and ``webhook/manifests.yaml``."""

    @abstractmethod
    def chosen(self, path: str) -> Json | None:
        """What to add to the webhook of this path; None: it is left out."""

    def command(self, program: Path, config: Path, served: Certificate) -> list[str]:
        """How it is started."""
        return [str(program), "--config", str(config), "--zap-log-level=info"]

    def __enter__(self) -> Self:
        program = binaries.program(self.tool)
        self._folder.mkdir(parents=True, exist_ok=True)
        authority = Authority(self._folder / "certificates")
        served = authority.issue("tls", hosts=("127.0.0.1",))
        webhook_port, probe_port = free_ports(2)
        config = self._folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._configuration(served.certificate.parent, webhook_port, probe_port)))
        for file in sorted((self.source() / "crd" / "bases").glob("*.yaml")):
            self._kubectl("apply", "--server-side", "-f", str(file))
            self._kinds.append(yaml.safe_load(file.read_text())["metadata"]["name"])
        for kind in self._kinds:
            wait_until_established(self._kubectl, kind)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(program, config, served),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "KUBECONFIG": str(self._kubeconfig)},
            )
        try:
            self._wait(probe_port)
            trusted = base64.b64encode(authority.certificate.certificate.read_bytes()).decode()
            items = list(self._hooks(f"https://127.0.0.1:{webhook_port}", trusted))
            self._webhooks = [f"{item['kind']}/{item['metadata']['name']}" for item in items]
            objects = {"apiVersion": "v1", "kind": "List", "items": items}
            self._kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(objects))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._webhooks:
            self._kubectl("delete", *self._webhooks)
        self._kubectl("delete", "crd", *self._kinds, "--wait=false")
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def log_file(self) -> Path:
        """What the controller prints."""
        return self._folder / f"{self.tool}.log"

    def _configuration(self, certificates: Path, webhook_port: int, probe_port: int) -> Json:
        return {
            "apiVersion": self.api_version,
            "kind": "Configuration",
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": False},
            "webhook": {"port": webhook_port, "certDir": str(certificates)},
            "metrics": {"bindAddress": "0"},
            "health": {"healthProbeBindAddress": f"127.0.0.1:{probe_port}"},
            **self.settings,
        }

    def _wait(self, probe_port: int) -> None:
        end = time.monotonic() + _START_SECONDS
        while not _answers(f"http://127.0.0.1:{probe_port}/readyz"):
            words = self.log_file.read_text(errors="replace")[-3000:]
            if (code := self.process.poll()) is not None:
                raise StartError(f"{self.title} ended with {code}; its last words:\n{words}")
            if time.monotonic() > end:
                raise StartError(f"{self.title} was not ready after {_START_SECONDS} s:\n{words}")
            time.sleep(0.1)

    def _hooks(self, server: str, trusted: str) -> Iterator[Json]:
        """The webhook configurations of the module, which name a Service, for a process outside the cluster."""
        for hook in filter(None, yaml.safe_load_all((self.source() / "webhook" / "manifests.yaml").read_text())):
            hook["metadata"]["name"] = f"{self.tool}-{hook['metadata']['name']}"
            items = []
            for item in hook["webhooks"]:
                path = item["clientConfig"].pop("service")["path"]
                added = self.chosen(path)
                if added is not None:
                    items.append({**item, "clientConfig": {"url": f"{server}{path}", "caBundle": trusted}, **added})
            hook["webhooks"] = items
            yield hook


def having_label(label: str) -> Json:
    """What limits a webhook to objects with a label."""
    return {"objectSelector": {"matchExpressions": [{"key": label, "operator": "Exists"}]}}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
