"""A real Kubernetes control plane on loopback, with simulated nodes and, on request, Karpenter.

    with ControlPlane(karpenter=True, say=print) as cluster:
        nodes.create(cluster.client(), nodes.H100, 2)
        cluster.kubectl("get", "nodes")

Everything it starts is a child process that the kernel ends with the thread that started it, so enter it from the main
thread. Its files lie in one temporary folder that goes with it; folders that a killed run had to leave behind are
removed by the next start.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import kubernetes.client

from localcluster import binaries, karpenter, kubeconfig, stages
from localcluster.audit import POLICY as AUDIT_POLICY
from localcluster.certificates import Authority, Certificate
from localcluster.network import NodeNetwork
from localcluster.nodes import BLIND, NODE_TYPES, NodeType
from localcluster.ports import free_ports
from localcluster.stages import PodTimes

_FOLDER_PREFIX = "servingplan-cluster-"
_MARKET = "market.json"
_START_SECONDS = 300
"""Some fifty times what it takes: this ends what hangs, and a machine may be slow."""
_REQUEST_SECONDS = 60
_POLL_SECONDS = 0.05
_AUDIT_MEBIBYTES = 100_000
"""The size from which on the API server begins another file. It is more than any log has: readers know one file."""
_LOOPBACK = "127.0.0.1"
_SERVICE_RANGE = "10.96.0.0/16"
_POD_RANGE = "10.244.0.0/16"
_NODE_ADDRESS = "192.0.2.1"  # of no machine (RFC 5737); all nodes say they have it
_RATE_FLAGS = ("--kube-api-qps=500", "--kube-api-burst=1000")  # the defaults give 20 to 30 pods a second
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class StartError(RuntimeError):
    """The control plane did not start, or one of its programs refused a request."""


@dataclass(frozen=True)
class _Program:
    process: subprocess.Popen[bytes]
    log: Path


class ControlPlane:
    """etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok and, on request, Karpenter."""

    def __init__(
        self,
        *,
        karpenter: bool = False,
        pod_times: PodTimes | None = None,
        node_types: Sequence[NodeType] = (*NODE_TYPES, BLIND),
        audit: bool = False,
        network: NodeNetwork | None = None,
        endpoint_batch_seconds: float = 0.0,
        keep: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``node_types`` are what Karpenter can rent; ``keep`` leaves the folder (logs, kubeconfig) behind.
        ``endpoint_batch_seconds``: how long EndpointSlices wait for more changes of pods, as large clusters set it.

        With a ``network`` there are no simulated nodes: the API server listens there, for a real one (``RealNode``).
        """
        self._with_karpenter = karpenter
        self._pod_times = pod_times or PodTimes()
        self._node_types = node_types
        self._audit = audit
        self._network = network
        self._endpoint_batch_seconds = endpoint_batch_seconds
        self._keep = keep
        self._say = say
        self._programs: dict[str, _Program] = {}
        self._cleanup = ExitStack()
        self._paths: dict[str, Path]
        self._ports: dict[str, int]
        self._authority: Authority
        self._service_accounts: Certificate
        self._tls: ssl.SSLContext
        self.folder: Path
        self.server: str
        """URL of the API server."""
        self.kubeconfig: Path
        """Kubeconfig of an administrator (group ``system:masters``)."""
        self.serving_certificate: Certificate
        """The certificate of 127.0.0.1 and localhost, trusted by whoever trusts the API server."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until it is ready. On failure nothing is left running."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process and remove the folder. May be called twice."""
        # Nothing here is worth an orderly end: the data goes with the folder. Clients first, etcd last.
        programs, self._programs = self._programs, {}
        for program in reversed(programs.values()):
            _kill_group(program.process)
        self._cleanup.close()

    def kill_api_server(self) -> None:
        """Kill the API server, as a crash does."""
        process = self._programs["kube-apiserver"].process
        process.kill()
        process.wait()

    def start_api_server(self) -> None:
        """Again, after ``kill_api_server``; ready when this returns."""
        self._start_api_server()
        self._wait("kube-apiserver", self._answers(f"{self.server}/readyz"))

    def sell(self, *, sold_out: Sequence[str] = (), held: Sequence[str] = ()) -> None:
        """Change what Karpenter's market has, from now on.

        Karpenter launches no node of what is ``sold_out``. A node of what is ``held`` comes when it is held no more. Each
        entry is an instance type, or ``TYPE/CAPACITY-TYPE`` for one way to rent it. Of all others there is any number.
        """
        fresh = self.folder / f"{_MARKET}.new"
        fresh.write_text(json.dumps({"soldOut": sold_out, "held": held}))
        fresh.rename(self.folder / _MARKET)

    @property
    def audit_log(self) -> Path:
        """One JSON event per line for each request of a ServiceAccount (metadata only), if ``audit`` was asked for."""
        return self.folder / "audit.log"

    def pids(self) -> dict[str, int]:
        """Process id of each program."""
        return {name: program.process.pid for name, program in self._programs.items()}

    def memory_mebibytes(self) -> dict[str, int]:
        """Resident memory of each program."""
        return {name: _resident_kibibytes(pid) // 1024 for name, pid in self.pids().items()}

    def log(self, program: str) -> str:
        """What a program has printed so far."""
        return self._programs[program].log.read_text(errors="replace")

    def client(self) -> kubernetes.client.ApiClient:
        """A new client of the administrator's; close it after use."""
        return kubeconfig.client(self.kubeconfig)

    def environment(self) -> dict[str, str]:
        """Environment for commands against this cluster: ``KUBECONFIG`` set, the built programs first on the path."""
        folders = [str(binaries.program(name).parent) for name in ("kubectl", "helm")]
        return {
            **self._client_environment(),
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": os.pathsep.join([*folders, os.environ["PATH"]]),
        }

    def _client_environment(self) -> dict[str, str]:
        # By default kubectl keeps what a server has told it under the server's port, which others had before.
        return {**os.environ, "KUBECACHEDIR": str(self.folder / "kubectl-cache")}

    @property
    def authority(self) -> Path:
        """Certificate of who signs for users and servers here."""
        return self._authority.certificate.certificate

    def credentials(self, name: str, *, user: str, group: str | None = None) -> Path:
        """A kubeconfig of a user's."""
        return self._write_kubeconfig(name, self._authority.issue(name, user=user, group=group))

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Output of a kubectl command. Raises ``StartError`` with its words if it fails."""
        command = [str(binaries.program("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        environment = self._client_environment()
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise StartError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def apply(self, *manifests: Mapping[str, Any], field_manager: str = "cluster-admin") -> None:
        """Server-side apply of objects as an administrator would."""
        objects = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", f"--field-manager={field_manager}", "-f", "-", stdin=json.dumps(objects))

    def _start(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise StartError("start the control plane from the main thread: the kernel ends it with its thread")
        _remove_abandoned_folders()
        self._end_on_sigterm()
        self.folder = self._own_folder()
        programs = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        programs += ["kwok"] * (self._network is None) + ["karpenter"] * self._with_karpenter
        self._paths = {name: binaries.program(name) for name in programs}  # builds what is missing
        started = time.monotonic()
        self._ports = dict(zip((*programs, "etcd peers", "metrics"), free_ports(len(programs) + 2), strict=True))
        self._make_certificates()
        self._start_etcd()
        self._start_api_server()
        # While the API server starts: the others' credentials and files.
        rest = {name: self._kubeconfig_of(name) for name in programs[2:]}
        stages_file = stages.write(self.folder / "stages.yaml", self._pod_times)
        crds = karpenter.crd_files() if self._with_karpenter else []
        self._wait("kube-apiserver", self._answers(f"{self.server}/readyz"))
        self._start_manager(rest["kube-controller-manager"])
        self._start_scheduler(rest["kube-scheduler"])
        if self._network is None:
            self._start_kwok(rest["kwok"], stages_file)
        if self._with_karpenter:
            self.install_crds(crds)
            self._start_karpenter(rest["karpenter"])
        self._wait_for_controllers()
        self._say(f"control plane ready after {time.monotonic() - started:.1f} s: {self.server}")

    def _make_certificates(self) -> None:
        self._authority = Authority(self.folder / "certificates")
        hosts: tuple[str, ...] = (_LOOPBACK, "localhost")
        address = _LOOPBACK
        if self._network is not None:
            address = self._network.host_address
            hosts += (address, self._network.service_address(1))
        self.serving_certificate = self._authority.issue("serving", hosts=hosts)
        self._service_accounts = self._authority.issue("service-accounts")
        admin = self._authority.issue("admin", group="system:masters")
        self.server = f"https://{address}:{self._ports['kube-apiserver']}"
        self._tls = ssl.create_default_context(cafile=str(self._authority.certificate.certificate))
        self._tls.load_cert_chain(admin.certificate, admin.key)
        self.kubeconfig = self._write_kubeconfig("admin", admin)

    def _kubeconfig_of(self, program: str) -> Path:
        """Credentials of one program: Kubernetes' own have roles made for them, the rest are administrators."""
        if program.startswith("kube-"):
            certificate = self._authority.issue(program, user=f"system:{program}")
        else:
            certificate = self._authority.issue(program, group="system:masters")
        return self._write_kubeconfig(program, certificate)

    def _start_etcd(self) -> None:
        url, peers = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "etcd peers"))
        self._spawn(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--log-level=warn",
        )
        self._wait("etcd", self._answers(f"{url}/health"))

    def _start_api_server(self) -> None:
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._ports['etcd']}",
            *self._serving_flags("kube-apiserver", self._network.host_address if self._network else _LOOPBACK),
            f"--client-ca-file={self._authority.certificate.certificate}",
            # The verifying key is read from a certificate as well as from a public key.
            f"--service-account-key-file={self._service_accounts.certificate}",
            f"--service-account-signing-key-file={self._service_accounts.key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            *self._network_flags(),
            *self._audit_flags(),
        )

    def _network_flags(self) -> list[str]:
        if self._network is None:
            # A loopback address may not be an endpoint of the Service `kubernetes`, which nothing here uses.
            return [f"--service-cluster-ip-range={_SERVICE_RANGE}", "--endpoint-reconciler-type=none"]
        own = self._authority.issue("kubelet-client", group="system:masters")
        return [
            f"--service-cluster-ip-range={self._network.services}",
            f"--advertise-address={self._network.host_address}",
            f"--kubelet-client-certificate={own.certificate}",
            f"--kubelet-client-key={own.key}",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    def _start_manager(self, own_kubeconfig: Path) -> None:
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={own_kubeconfig}",
            f"--service-account-private-key-file={self._service_accounts.key}",
            f"--root-ca-file={self._authority.certificate.certificate}",
            "--use-service-account-credentials",
            "--controllers=*,-nodeipam",
            "--leader-elect=false",
            f"--endpointslice-updates-batch-period={self._endpoint_batch_seconds:g}s",
            # Simulated nodes are told to fail; that their heart beats late says something of this machine alone.
            *(["--node-monitor-grace-period=5m"] if self._network is None else []),
            *self._serving_flags("kube-controller-manager"),
            *_RATE_FLAGS,
        )

    def _start_scheduler(self, own_kubeconfig: Path) -> None:
        self._spawn(
            "kube-scheduler",
            f"--kubeconfig={own_kubeconfig}",
            "--leader-elect=false",
            *self._serving_flags("kube-scheduler"),
            *_RATE_FLAGS,
        )

    def _start_kwok(self, own_kubeconfig: Path, stages_file: Path) -> None:
        self._spawn(
            "kwok",
            f"--kubeconfig={own_kubeconfig}",
            f"--config={stages_file}",
            "--manage-all-nodes",
            "--node-lease-duration-seconds=40",
            f"--cidr={_POD_RANGE}",
            f"--node-ip={_NODE_ADDRESS}",
            f"--server-address=127.0.0.1:{self._ports['kwok']}",
        )

    def _start_karpenter(self, own_kubeconfig: Path) -> None:
        instance_types = self.folder / "instance-types.json"
        instance_types.write_text(json.dumps(karpenter.instance_types(self._node_types), indent=1))
        settings = karpenter.environment(
            instance_types,
            self.folder / _MARKET,
            metrics_port=self._ports["metrics"],
            probe_port=self._ports["karpenter"],
        )
        self._spawn("karpenter", environment={**settings, "KUBECONFIG": str(own_kubeconfig)})

    def _wait_for_controllers(self) -> None:
        ports = self._ports
        self._wait("kube-scheduler", self._answers(f"https://127.0.0.1:{ports['kube-scheduler']}/readyz"))
        # Pods are refused before their ServiceAccount is there.
        account = f"{self.server}/api/v1/namespaces/default/serviceaccounts/default"
        self._wait("kube-controller-manager", self._answers(account))
        for name in self._programs.keys() & {"kwok", "karpenter"}:
            self._wait(name, self._answers(f"http://127.0.0.1:{ports[name]}/readyz"))

    def _serving_flags(self, program: str, address: str = _LOOPBACK) -> list[str]:
        return [
            f"--bind-address={address}",
            f"--secure-port={self._ports[program]}",
            f"--tls-cert-file={self.serving_certificate.certificate}",
            f"--tls-private-key-file={self.serving_certificate.key}",
        ]

    def _own_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
        # The lock says that its owner lives, whatever became of the process id. It appears locked, never unlocked.
        lock = (folder / "lock.new").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "lock.new").rename(folder / "lock")

        def release() -> None:
            if self._keep:
                (folder / "lock").unlink()  # so that no later start takes it for abandoned
                self._say(f"kept {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
            lock.close()

        self._cleanup.callback(release)
        (folder / "logs").mkdir()
        return folder

    def _end_on_sigterm(self) -> None:
        """Make SIGTERM unwind the stack as Ctrl-C does, unless somebody handles it already."""
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, interrupt)
        self._cleanup.callback(signal.signal, signal.SIGTERM, signal.SIG_DFL)

    def _write_kubeconfig(self, name: str, certificate: Certificate) -> Path:
        return kubeconfig.write(
            self.folder / f"{name}.kubeconfig",
            self.server,
            authority=self._authority.certificate.certificate.read_bytes(),
            certificate=certificate,
        )

    def _audit_flags(self) -> list[str]:
        if not self._audit:
            return []
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(json.dumps(AUDIT_POLICY))
        return [
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-format=json",
            f"--audit-log-maxsize={_AUDIT_MEBIBYTES}",
        ]

    def _spawn(self, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._say(f"starting {name}")
        log = self.folder / "logs" / f"{name}.log"
        # setpriv has the kernel end the program when we die, however we die; it then becomes the program, so the pid
        # stays. (A preexec_fn could do the same, but Python warns of it in a process with threads.)
        command = ["setpriv", "--pdeathsig", "KILL", "--", str(self._paths[name]), *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                # HOME is the folder: no program reads or writes settings of the person who runs this.
                env={**os.environ, "HOME": str(self.folder), **(environment or {})},
                # Ctrl-C on the terminal is for us; we end the programs in order.
                start_new_session=True,
            )
        self._programs[name] = _Program(process, log)

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            for running, program in self._programs.items():
                if (code := program.process.poll()) is not None:
                    raise StartError(f"{running} ended with {code}; its last words:\n{_tail(program.log)}")
            if time.monotonic() > deadline:
                tail = _tail(self._programs[name].log)
                raise StartError(f"{name} was not ready after {_START_SECONDS} s; its last words:\n{tail}")
            time.sleep(_POLL_SECONDS)

    def install_crds(self, files: Sequence[Path]) -> None:
        """Create custom resource definitions, one per YAML file, and wait until clients find what they define."""
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        made: list[dict[str, Any]] = []
        for file in files:
            status, body = self._request("POST", f"{self.server}{path}", file.read_bytes(), "application/yaml")
            if status != 201:
                raise StartError(f"{file.name} was refused: {body.decode(errors='replace')[:2000]}")
            made.append(json.loads(body)["spec"])
        for spec in made:
            for version in spec["versions"]:
                listed = f"{self.server}/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}?limit=1"
                if version["served"]:
                    self._wait("kube-apiserver", self._answers(listed))
        named = {(spec["group"], spec["names"]["plural"]) for spec in made}
        self._wait("kube-apiserver", lambda: named <= self._discovered())

    def _discovered(self) -> set[tuple[str, str]]:
        """Groups and plurals that clients are told of, some time after they are served."""
        try:
            _, body = self._request("GET", f"{self.server}/apis", accept=_DISCOVERY)
            groups = json.loads(body)["items"]
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return set()
        return {
            (group["metadata"]["name"], item["resource"])
            for group in groups
            for version in group.get("versions", ())
            for item in version.get("resources", ())
        }

    def _answers(self, url: str) -> Callable[[], bool]:
        """Condition: a GET of the URL gives 200."""

        def answers() -> bool:
            try:
                return self._request("GET", url)[0] == 200
            except (OSError, http.client.HTTPException):
                return False

        return answers

    def _request(
        self, method: str, url: str, body: bytes = b"", content_type: str = "", accept: str = "application/json"
    ) -> tuple[int, bytes]:
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        connection = (
            http.client.HTTPSConnection(host, context=self._tls, timeout=_REQUEST_SECONDS)
            if scheme == "https"
            else http.client.HTTPConnection(host, timeout=_REQUEST_SECONDS)
        )
        try:
            headers = {"Accept": accept, **({"Content-Type": content_type} if body else {})}
            connection.request(method, slash + path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _resident_kibibytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _remove_abandoned_folders() -> None:
    for lock_file in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*/lock"):
        try:
            with lock_file.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_file.parent, ignore_errors=True)
        except OSError:
            continue  # somebody uses it, or it belongs to another user


def say_to_stderr(text: str) -> None:
    """A ``say`` that prints."""
    print(text, file=sys.stderr, flush=True)


def wait_until_established(kubectl: Callable[..., str], name: str) -> None:
    """Until clients find the kind of this CustomResourceDefinition, and the API server serves it.

    Its condition ``Established`` comes before both.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            kubectl("get", name, "--all-namespaces", "--output=name")
            return
        except (StartError, AssertionError):
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)
