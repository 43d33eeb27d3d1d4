"""One real Kubernetes node: containerd, kubelet and kube-proxy in namespaces of their own, with a control plane beside.

    with RealNode(labels={"servingplan-e2e/fleet": "h100"}, gpus=8) as node:
        node.plane.kubectl("get", "nodes")

Pods really run: probes, graceful stop, ConfigMap volumes as the kubelet swaps them, ServiceAccount tokens, ClusterIPs.
Their addresses, and those of Services, are reachable from this machine. Images are those of ``node_images``; the GPUs are
numbers in the node's status. It needs root and cgroup v1; nothing is installed, and nothing stays but the cache.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from localcluster import binaries, debian, node_images, oci, sandbox
from localcluster.control_plane import ControlPlane
from localcluster.network import Cable, NodeNetwork
from localcluster.sandbox import Sandbox

NAME = "real-node"
_PACKAGES = (
    *("containerd", "runc", "containernetworking-plugins", "busybox-static"),
    *("nftables", "libnftables1", "libnftnl11", "libmnl0", "libjansson4", "libxtables12", "libedit2", "libseccomp2"),
)
_DEBIAN = "node-debian"
_START_SECONDS = 300
_POLL_SECONDS = 0.1
Json = dict[str, Any]


def missing() -> str:
    """Why there can be no real node here, in one line; empty where there can."""
    if platform.machine() != "x86_64":
        return f"its images are put together for x86_64, and this is {platform.machine()}"
    return sandbox.missing()


class RealNode:
    """A real node that lives as long as its block. Start it from the main thread.

    Raises ``NotToBeHadError`` where a program is missing.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, str],
        gpus: int,
        keep: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``labels`` and ``gpus`` are what an administrator and a device plugin would put onto the node."""
        self._labels, self._gpus, self._keep, self._say = labels, gpus, keep, say
        self._cleanup = ExitStack()
        self.plane: ControlPlane
        self.network: NodeNetwork

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def log(self, program: str) -> str:
        """What containerd, kubelet or kube-proxy has printed so far."""
        return (self._folder / f"{program}.log").read_text(errors="replace")

    def _start(self) -> None:
        debs = debian.unpacked(_DEBIAN, _PACKAGES)
        self._programs = binaries.build(binaries.NODE)
        self._usr = debs / "usr"
        started = time.monotonic()
        cable = self._cleanup.enter_context(Cable())
        self.network = cable.network
        self.plane = ControlPlane(network=self.network, keep=self._keep, say=self._say)
        self._cleanup.enter_context(self.plane)
        self._folder = self.plane.folder / "node"
        self._sandbox = self._cleanup.enter_context(Sandbox(self._folder, NAME))
        self._plug_in(cable)
        self._start_containerd()
        self._start_kubelet()
        self._spawn("kube-proxy", self._programs / "kube-proxy", f"--config={self._write_kube_proxy_configuration()}")
        archive = node_images.archive(self._folder / "images.tar", busybox=debs / "bin" / "busybox")
        self._say(f"importing images, {archive.stat().st_size // 10**6} MB")
        self._ctr("images", "import", str(archive))
        archive.unlink()
        self._wait("kubelet", self._is_ready)
        self.give_gpus(self._gpus)
        labels = {"metadata": {"labels": dict(self._labels)}}
        self.plane.kubectl("patch", "node", NAME, "--type=merge", "-p", json.dumps(labels))
        self._say(f"node ready after {time.monotonic() - started:.1f} s")

    def _plug_in(self, cable: Cable) -> None:
        network = self.network
        cable.plug_in(self._sandbox.pid)
        self._sandbox.tell(f"ip address add {network.node_address}/30 dev {network.peer}")
        self._sandbox.tell(f"ip link set {network.peer} up")
        self._sandbox.tell(f"ip route add default via {network.host_address}")
        self._sandbox.tell("echo 1 > /proc/sys/net/ipv4/ip_forward")

    def _start_containerd(self) -> None:
        self._socket = self._folder / "containerd.sock"
        plugins = self._folder / "cni"
        plugins.mkdir()
        (plugins / "10-bridge.conflist").write_text(json.dumps(_bridge(self.network)))
        configuration = self._folder / "containerd.toml"
        configuration.write_text(
            f"""\
version = 2
root = "{self._folder}/containerd"
state = "{self._folder}/containerd-state"
[grpc]
  address = "{self._socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{oci.full_name(node_images.PAUSE)}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{self._usr}/sbin/runc"
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{self._usr}/lib/cni"
    conf_dir = "{plugins}"
"""
        )
        self._spawn("containerd", self._usr / "bin" / "containerd", "--config", str(configuration))
        self._wait("containerd", lambda: self._try_ctr("version").returncode == 0)

    def _start_kubelet(self) -> None:
        folder = self._folder / "kubelet"
        configuration = self._folder / "kubelet.json"
        configuration.write_text(json.dumps(self._kubelet_configuration()))
        credentials = self.plane.credentials("kubelet", user=f"system:node:{NAME}", group="system:nodes")
        self._spawn(
            "kubelet",
            self._programs / "kubelet",
            f"--config={configuration}",
            f"--kubeconfig={credentials}",
            f"--root-dir={folder}",
            f"--cert-dir={folder}/pki",
            f"--hostname-override={NAME}",
            f"--node-ip={self.network.node_address}",
        )

    def _kubelet_configuration(self) -> Json:
        """All that concerns pods is the default, the time that it takes to see a ConfigMap's change too."""
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,  # lower ones take a capability that containers lack
            "resolvConf": "",
            "volumePluginDir": f"{self._folder}/plugins",
            "podLogsDir": f"{self._folder}/pods",
            # A developer's disk is nearly full at times; that is not what is tried here.
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self.plane.authority)},
            },
            "authorization": {"mode": "AlwaysAllow"},
        }

    def _write_kube_proxy_configuration(self) -> Path:
        credentials = self.plane.credentials("kube-proxy", user="system:kube-proxy")
        path = self._folder / "kube-proxy.json"
        configuration = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(credentials)},
            "clusterCIDR": self.network.pods,
            "hostnameOverride": NAME,
            "oomScoreAdj": 0,
            # Zero: leave what the machine has.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        path.write_text(json.dumps(configuration))
        return path

    def _spawn(self, name: str, program: Path, *arguments: str) -> None:
        self._say(f"starting {name}")
        self._sandbox.spawn(name, [str(program), *arguments], environment=self._environment())

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self._usr}/bin:{self._usr}/sbin:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{self._usr}/lib/x86_64-linux-gnu",
            "HOME": str(self._folder),
        }

    def _try_ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._usr / "bin" / "ctr"), "--address", str(self._socket), "--namespace", "k8s.io", *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def _ctr(self, *arguments: str) -> None:
        done = self._try_ctr(*arguments)
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr.strip()[-800:]}")

    def _is_ready(self) -> bool:
        found = self.plane.kubectl("get", "nodes", "-o", "json")
        conditions = [one for node in json.loads(found)["items"] for one in node["status"].get("conditions", ())]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def give_gpus(self, count: int) -> None:
        """Let the node have so many, as its device plugin would say."""
        given = {"nvidia.com/gpu": str(count)}
        # Allocatable too: the kubelet would fill it in only after seconds.
        status = {"status": {"capacity": given, "allocatable": given}}
        self.plane.kubectl("patch", "node", NAME, "--subresource=status", "--type=merge", "-p", json.dumps(status))

    def _wait(self, program: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + _START_SECONDS
        while not ready():
            if time.monotonic() > end:
                raise RuntimeError(
                    f"{program} was not ready after {_START_SECONDS} s; its last words:\n{self.log(program)[-3000:]}"
                )
            time.sleep(_POLL_SECONDS)


def _bridge(network: NodeNetwork) -> Json:
    """Pods on a bridge of the node's; no masquerade, since this machine has a route back to them."""
    ranges = [[{"subnet": network.pods}]]
    routes = [{"dst": "0.0.0.0/0"}]
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True}
    addresses = {"type": "host-local", "ranges": ranges, "routes": routes}
    return {"cniVersion": "1.0.0", "name": "servingplan", "plugins": [{**bridge, "ipam": addresses}]}
