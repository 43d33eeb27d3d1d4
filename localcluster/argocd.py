"""Argo CD beside a control plane: its repo server and its application controller, with a Redis in memory.

    with ArgoCd(cluster.kubeconfig, folder) as argocd:
        cluster.kubectl("apply", "-f", "application.yaml")

They are the parts that sync Applications: what its server, its CLI and the controller of ApplicationSets do is not needed
for that. Git repositories are read by ``file://``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from localcluster import binaries
from localcluster.control_plane import StartError
from localcluster.ports import free_ports

NAMESPACE = "argocd"
_TOOL = "argocd"
_MODULE = "github.com/argoproj/argo-cd/v3"
_CRDS = ("application-crd.yaml", "appproject-crd.yaml")
_PART_OF = {"app.kubernetes.io/part-of": "argocd"}
_EMPTY_CONFIG_MAPS = ("argocd-rbac-cm", "argocd-ssh-known-hosts-cm", "argocd-tls-certs-cm", "argocd-gpg-keys-cm")
_FOLDERS = {
    "ARGOCD_TLS_DATA_PATH": "tls",
    "ARGOCD_SSH_DATA_PATH": "ssh",
    "ARGOCD_GNUPGHOME": "keys",
    "ARGOCD_GPG_DATA_PATH": "gpg",
    "ARGOCD_PLUGINSOCKFILEPATH": "plugins",
    "ARGOCD_APP_CONF_PATH": "configuration",
    "HOME": "home",
    "TMPDIR": "tmp",
}
_RESYNC_SECONDS = 5
_START_SECONDS = 300
_STOP_SECONDS = 20


def crd_files() -> list[Path]:
    """The definitions of Application and AppProject."""
    folder = binaries.module_folder(_TOOL, _MODULE) / "manifests" / "crds"
    return [folder / name for name in _CRDS]


def objects(settings: Mapping[str, str]) -> list[dict[str, Any]]:
    """What Argo CD finds at its start: its namespace, its ConfigMaps, the project ``default``. ``settings`` go into
    ``argocd-cm``."""
    metadata = {"namespace": NAMESPACE, "labels": _PART_OF}
    own = {"timeout.reconciliation": f"{_RESYNC_SECONDS}s", "timeout.reconciliation.jitter": "0s"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                **metadata,
                "name": "argocd-cm",
                "labels": {**_PART_OF, "app.kubernetes.io/name": "argocd-cm"},
            },
            "data": {**own, **settings},
        },
        *(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "name": name}}
            for name in _EMPTY_CONFIG_MAPS
        ),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**metadata, "name": "argocd-secret"},
            "stringData": {"server.secretkey": "of-a-local-cluster"},
        },
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "AppProject",
            "metadata": {"name": "default", "namespace": NAMESPACE},
            "spec": {
                "sourceRepos": ["*"],
                "destinations": [{"server": "*", "namespace": "*"}],
                "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
            },
        },
    ]


class ArgoCd:
    """The processes, which end with the block. The definitions and ``objects`` are in the cluster before it begins."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._folder = folder
        redis, self._repo, *metrics = free_ports(4)
        self._redis = f"127.0.0.1:{redis}"
        self._metrics = metrics
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "PATH": os.pathsep.join([str(binaries.program("helm").parent), os.environ["PATH"]]),
            "ARGOCD_FAKE_IN_CLUSTER": "true",
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_RECONCILIATION_TIMEOUT": f"{_RESYNC_SECONDS}s",
            "ARGOCD_RECONCILIATION_JITTER": "0s",
            "ARGOCD_SYNC_WAVE_DELAY": "0",  # a wave waits until the one before is healthy, and no longer
            "HOSTNAME": "argocd-application-controller-0",
        }
        for variable, name in _FOLDERS.items():
            (folder / name).mkdir(parents=True)
            self._environment[variable] = str(folder / name)
        (folder / "gpg" / "source").mkdir()
        self._kubeconfig = kubeconfig

    def __enter__(self) -> Self:
        try:
            self._start("redis", self._redis)
            self._wait("redis", int(self._redis.rpartition(":")[2]))
            self._start(
                "repo-server",
                f"--redis={self._redis}",
                f"--port={self._repo}",
                "--address=127.0.0.1",
                "--metrics-address=127.0.0.1",
                f"--metrics-port={self._metrics[0]}",
                "--disable-tls",
                "--logformat=text",
            )
            self._wait("repo-server", self._repo)
            self._start(
                "application-controller",
                f"--namespace={NAMESPACE}",
                f"--kubeconfig={self._kubeconfig}",
                f"--redis={self._redis}",
                f"--repo-server=127.0.0.1:{self._repo}",
                "--repo-server-plaintext",
                f"--metrics-port={self._metrics[1]}",
                f"--app-resync={_RESYNC_SECONDS}",
                "--persist-resource-health",
                "--self-heal-backoff-timeout-seconds=1",
                "--self-heal-backoff-factor=1",
                "--logformat=text",
            )
            self._wait("application-controller", self._metrics[1])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in reversed(self._processes.values()):
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def words(self) -> str:
        """The end of what the parts print."""
        return "\n".join(self._log(name).read_text(errors="replace")[-6000:] for name in self._processes)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _start(self, name: str, *arguments: str) -> None:
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [binaries.program("argocd"), name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
            )

    def _wait(self, name: str, port: int) -> None:
        end = time.monotonic() + _START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if (code := self._processes[name].poll()) is not None or time.monotonic() > end:
                ended = f"ended with {code}" if code is not None else f"was not ready after {_START_SECONDS} s"
                raise StartError(f"argocd {name} {ended}; its last words:\n{self._log(name).read_text()[-3000:]}")
            time.sleep(0.1)


class GitRepository:
    """A repository in a folder, whose branch ``main`` is what an Application follows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._git("init", "--quiet", "--initial-branch=main")

    @property
    def url(self) -> str:
        """The URL by which an Application names it."""
        return f"file://{self.folder}"

    def commit(self, **files: Any) -> None:
        """Commit objects as files of these names (JSON is YAML); None removes a file."""
        for name, content in files.items():
            path = self.folder / "deploy" / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_text(json.dumps(content, indent=1))
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message=change")

    def _git(self, *arguments: str) -> None:
        own = {"user.name": "story", "user.email": "story@localhost", "commit.gpgsign": "false"}
        options = [word for key, value in own.items() for word in ("-c", f"{key}={value}")]
        subprocess.run(["git", *options, *arguments], cwd=self.folder, check=True, capture_output=True)
