"""The main job, shown on a local cluster: a plan is applied, nodes come, replicas serve, a node goes, traffic moves.

python -m e2e.demo            start to end; nothing is left running
python -m e2e.demo --keep     the cluster and the operator stay; prints how to use and how to end them
python -m e2e.demo --down     end what --keep left
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from e2e.support.waiting import wait_for
from localcluster import binaries, karpenter, nodes
from localcluster.control_plane import ControlPlane
from localcluster.operator_process import CHART, NAMESPACE, RELEASE, OperatorProcess
from localcluster.ports import free_port
from localcluster.stages import PodTimes
from servingplan.cli.show import fleet_view
from servingplan.model.fleet import Fleet, PlanRecord

REPOSITORY = Path(__file__).resolve().parents[1]
PLAN = REPOSITORY / "examples" / "chat.yaml"
STATE = binaries.cache_folder() / "demo.json"
LOG = binaries.cache_folder() / "demo.log"
READY_SECONDS = 8
END_OF_SHOW = "--- end of the demonstration ---"
NAMESPACE_OF_PLANS = "llm"
OPERATOR_LOG = "operator.log"

Json = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """A demonstration that was left running: processes by id, its kubeconfig and folder, where its metrics are served."""

    pid: int
    operator_pid: int
    kubeconfig: str
    folder: str
    metrics: str

    def text(self) -> str:
        """How to use it and how to end it, as a shell can read it."""
        programs = [str(binaries.program(name).parent) for name in ("kubectl", "helm")]
        path = os.pathsep.join([*programs, str(Path(sys.executable).parent)])
        namespaces = f"--set 'namespaces={{{NAMESPACE_OF_PLANS}}}'"
        return f"""
export KUBECONFIG={self.kubeconfig}
export PATH={path}:$PATH  # kubectl, helm, servingplan
# metrics:              curl {self.metrics}/metrics
# log of the operator:  {self.folder}/{OPERATOR_LOG}
# logs of the cluster:  {self.folder}/logs
# Pods only seem to run here, that of an operator too. To run one of your own in place of this one:
#   kill {self.operator_pid}
#   helm install {RELEASE} {CHART.relative_to(REPOSITORY)} -n {NAMESPACE} --create-namespace {namespaces}
#   servingplan run --namespaces {NAMESPACE_OF_PLANS} --liveness-address ""
# end it with: make demo-down"""


class Show:
    """Tells what happens, with the seconds since it began."""

    def __init__(self, console: Console, cluster: ControlPlane) -> None:
        self.console = console
        self.cluster = cluster
        self._started = time.monotonic()
        self._said: dict[str, str] = {}

    def seconds(self) -> float:
        """Since the last ``restart``."""
        return time.monotonic() - self._started

    def restart(self) -> None:
        """Count from now."""
        self._started = time.monotonic()
        self._said.clear()

    def title(self, text: str) -> None:
        """A new part."""
        self.console.print(f"\n[bold]{text}[/bold]")

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(f"  {self.seconds():5.1f} s  {text}")

    def on_change(self, topic: str, text: str) -> None:
        """One line if it says something new about its topic."""
        if self._said.get(topic) != text:
            self._said[topic] = text
            self.say(f"{topic:<30} {text}")

    def get(self, *what: str) -> Json:
        """An object or a list of the API server."""
        found: Json = json.loads(self.cluster.kubectl("get", *what, "-o", "json"))
        return found


def main() -> int:
    """Run one of the three forms."""
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the cluster and the operator running")
    parser.add_argument("--down", action="store_true", help="end what --keep left running")
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.down:
        return _down()
    if chosen.keep:
        return _keep()
    metrics = f"127.0.0.1:{free_port()}"
    with contextlib.suppress(KeyboardInterrupt), _cluster(metrics) as (cluster, operator):
        _perform(Show(Console(highlight=False, width=None if sys.stdout.isatty() else 120), cluster))
        if chosen.hold:
            kept = Kept(os.getpid(), operator.process.pid, str(cluster.kubeconfig), str(cluster.folder), metrics)
            STATE.write_text(json.dumps(asdict(kept)))
            print(END_OF_SHOW, flush=True)
            signal.pause()  # for the signal that ends it; the cluster is of use without the operator too
    STATE.unlink(missing_ok=True)
    return 0


@contextlib.contextmanager
def _cluster(metrics: str) -> Iterator[tuple[ControlPlane, OperatorProcess]]:
    def progress(text: str) -> None:
        print(f"  {text}", flush=True)

    print("Starting etcd, Kubernetes, KWOK and Karpenter on this machine", flush=True)
    with ControlPlane(
        karpenter=True, pod_times=PodTimes(ready_seconds=READY_SECONDS, stop_seconds=3), say=progress
    ) as up:
        up.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE_OF_PLANS}})
        allowed = {karpenter.ALLOWED_NAMESPACES_ANNOTATION: NAMESPACE_OF_PLANS}
        up.apply(
            karpenter.node_class(registration_delay_seconds=3),
            *(karpenter.static_node_pool(kind, annotations=allowed) for kind in nodes.NODE_TYPES),
        )
        serving = ("--metrics-address", metrics)
        values = {"namespaces": [NAMESPACE_OF_PLANS]}
        with OperatorProcess(up, log=up.folder / OPERATOR_LOG, arguments=serving, values=values) as operator:
            yield up, operator


def _perform(show: Show) -> None:
    show.title("Three node pools, all at zero nodes; the operator runs with the rights of its chart")
    print(show.cluster.kubectl("get", "nodepools"), end="")
    show.title(f"kubectl apply -f {PLAN.relative_to(REPOSITORY)}")
    show.restart()
    show.cluster.kubectl("apply", "-f", str(PLAN))
    fleet = _until(show, lambda: _fleet(show), 30, "a plan")
    show.say(f"decided: plan {fleet.hash}")
    budget = float(yaml.safe_load(PLAN.read_text())["spec"]["budget"]["dollarsPerHour"])
    show.console.print(fleet_view(fleet, budget_dollars_per_hour=budget))
    _until(show, lambda: _observe(show, fleet), 90, "the plan to serve")
    print()
    print(show.cluster.kubectl("get", "lsp", "-n", NAMESPACE_OF_PLANS, "-o", "wide"), end="")
    _lose_a_node(show, fleet)


def _lose_a_node(show: Show, fleet: Fleet) -> None:
    by_node: dict[str, list[str]] = {}
    for pod in show.get("pods", "-n", NAMESPACE_OF_PLANS)["items"]:
        by_node.setdefault(pod["spec"]["nodeName"], []).append(pod["metadata"]["name"])
    lost = max(sorted(by_node), key=lambda name: len(by_node[name]))
    before, all_ready = _weights(show), _ready(show)
    show.title(f"A node dies: {lost}, with {len(by_node[lost])} replicas")
    show.restart()
    show.cluster.kubectl("delete", "node", lost, "--wait=false")
    # Without Karpenter's finalizer it is gone at once, as a machine is; with it the operator moves every replica beforehand.
    show.cluster.kubectl("patch", "node", lost, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    # Where all of a class goes to one Deployment, its weight stays and only the number of ready replicas falls.
    _until(show, lambda: _weights(show) != before or _ready(show) != all_ready, 30, "the loss to be seen")
    seen_seconds = show.seconds()
    _tell_moves(show, before, _weights(show))

    def whole() -> bool:
        return _observe(show, fleet) and _weights(show) == before and _ready(show) == all_ready

    _until(show, whole, 120, "the replacement to serve")
    show.say(
        f"done: the status and the weights were without the lost replicas after {seen_seconds:.1f} s; "
        f"the plan was whole again after {show.seconds():.1f} s"
    )


def _observe(show: Show, fleet: Fleet) -> bool:
    """Say what changed; True once the plan serves as planned."""
    pools = show.get("nodepools")["items"]
    by_pool: dict[str, int] = {}
    for node in show.get("nodes")["items"]:
        is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))
        if is_ready and "deletionTimestamp" not in node["metadata"]:
            pool = node["metadata"]["labels"].get("karpenter.sh/nodepool", "?")
            by_pool[pool] = by_pool.get(pool, 0) + 1
    sizes = (f"{p['metadata']['name']} {by_pool.get(p['metadata']['name'], 0)}/{p['spec']['replicas']}" for p in pools)
    show.on_change("nodes", "ready/asked: " + ", ".join(sizes))
    plan = show.get("lsp", "chat", "-n", NAMESPACE_OF_PLANS)
    rows = plan.get("status", {}).get("deployments", [])
    ready = ", ".join(f"{_short(row['name'])} {row['ready']}/{row['replicas']}" for row in rows)
    show.on_change("replicas", f"ready: {ready}")
    for key, targets in _weights(show).items():
        text = ", ".join(f"{_short(name)} {weight / 100:.1f} %" for name, weight in targets)
        show.on_change(f"weights {key}", text or "none ready: the gateway answers 503")
    conditions = {item["type"]: item for item in plan.get("status", {}).get("conditions", ())}
    same = plan.get("status", {}).get("planHash") == fleet.hash
    return bool(same and conditions.get("Ready", {}).get("status") == "True")


def _ready(show: Show) -> dict[str, int]:
    """Ready replicas by Deployment, as the status tells them."""
    rows = show.get("lsp", "chat", "-n", NAMESPACE_OF_PLANS).get("status", {}).get("deployments", [])
    return {row["name"]: row["ready"] for row in rows}


def _weights(show: Show) -> dict[str, tuple[tuple[str, int], ...]]:
    data = (
        show.get("configmap", "chat-routing", "-n", NAMESPACE_OF_PLANS, "--ignore-not-found")
        if _has_routing(show)
        else {}
    )
    document = json.loads(data.get("data", {}).get("routing.json", '{"models": {}}'))
    return {
        f"{model}/{entry['name']}": tuple((target["service"], target["weight"]) for target in entry["targets"])
        for model, item in document["models"].items()
        for entry in item["classes"]
    }


def _has_routing(show: Show) -> bool:
    return bool(
        show.cluster.kubectl(
            "get", "configmap", "chat-routing", "-n", NAMESPACE_OF_PLANS, "--ignore-not-found", "-o", "name"
        )
    )


def _tell_moves(
    show: Show, before: dict[str, tuple[tuple[str, int], ...]], after: dict[str, tuple[tuple[str, int], ...]]
) -> None:
    for key in before:
        if before[key] != after.get(key):
            old, new = dict(before[key]), dict(after.get(key, ()))
            changes = (
                f"{_short(name)} {old.get(name, 0) / 100:.1f} -> {new.get(name, 0) / 100:.1f} %"
                for name in sorted({*old, *new})
            )
            show.say(f"moved: {key}: {', '.join(changes)}")


def _short(deployment: str) -> str:
    """Without the plan's name, and the hash cut: one line holds them all."""
    parts = deployment.split("-")
    return "-".join([*parts[1:-1], parts[-1][:4]])


def _fleet(show: Show) -> Fleet | None:
    text = show.cluster.kubectl(
        "get", "configmap", "chat-plan", "-n", NAMESPACE_OF_PLANS, "--ignore-not-found", "-o", "json"
    )
    if not text.strip():
        return None
    return PlanRecord.model_validate_json(json.loads(text)["data"]["plan.json"]).fleet


def _until(show: Show, look: Any, seconds: float, what: str) -> Any:
    """``seconds`` are those of a quiet machine."""
    try:
        return wait_for(what, look, seconds=seconds)
    except AssertionError as error:
        print(show.cluster.kubectl("describe", "lsp", "chat", "-n", NAMESPACE_OF_PLANS))
        raise SystemExit(f"error: {error}; the state of the plan is above") from None


def _is_up() -> bool:
    """Whether the process of the kept demonstration runs. After a restart of the machine its number may be somebody else's."""
    if not STATE.exists():
        return False
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{json.loads(STATE.read_text())['pid']}/cmdline").read_bytes().split(b"\0")
        return b"e2e.demo" in words and b"--hold" in words
    return False


def _keep() -> int:
    if _is_up():
        print("a kept demonstration is already up; end it with: make demo-down", file=sys.stderr)
        return 1
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text("")
    with LOG.open("ab") as output:
        holder = subprocess.Popen(
            [sys.executable, "-m", "e2e.demo", "--hold"],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives this command and its terminal
        )
    with LOG.open() as lines:
        while True:
            line = lines.readline()
            if line.startswith(END_OF_SHOW):
                break
            if line:
                print(line, end="", flush=True)
            elif holder.poll() is not None:
                print(lines.read(), end="", file=sys.stderr)
                return 1
            else:
                time.sleep(0.1)
    print(Kept(**json.loads(STATE.read_text())).text())
    return 0


def _down() -> int:
    if not _is_up():
        print("no kept demonstration is up")
        STATE.unlink(missing_ok=True)
        return 0
    pid = json.loads(STATE.read_text())["pid"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while STATE.exists() and _is_up():
        time.sleep(0.1)
    STATE.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
