"""What a gateway adds and how soon it follows: a real Envoy with our routes, small servers in place of replicas."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, Section, alone, percentile
from e2e.support.gateway import EnvoyProcess, Gateway, Mount, Replicas, ask_all, read_answer, request
from e2e.support.gateway_ground import GatewayGround
from localcluster.control_plane import ControlPlane
from localcluster.ports import free_ports
from servingplan.routing import envoy

Json = dict[str, Any]
RATE = 300
PROMPT = "word " * 1200
"""Some 6 kB: a prompt of 1500 tokens."""
CLASSES = {"long-in": {"inputTokensAtLeast": 1000}, "short-out": {"maxTokensAtMost": 64}, "chat": {}}
SPLIT = {
    "long-in": {"one": 8529, "two": 1471},
    "short-out": {"one": 100, "two": 5000, "three": 4900},
    "chat": {"one": 3333, "two": 3333, "three": 3334},
}


def measure(quick: bool) -> Section:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="servingplan-gateway-") as folder:
        rows = [*_added_latency(Path(folder) / "a", 4 if quick else 30), *_split(Path(folder) / "b", quick)]
        rows += _following(Path(folder) / "c", 5 if quick else 150)
    return Section(
        "Gateway",
        f"A stock Envoy of one worker, three classes. Latency: {RATE} requests a second of 6 kB each in turns of two "
        "seconds to Envoy with our files (model and class read from the body) and to an Envoy that passes everything "
        "through. Following: `servingplan gateway-sync` beside a real control plane, one client that asks without "
        "pause; from sending the ConfigMap to the first request by the new weights, and from sending a pod's status to "
        "the last request that its replica was sent. Client, servers, Envoys and control plane share the machine.",
        tuple(rows),
    )


# --- latency --------------------------------------------------------------------------------------------------------


def _added_latency(folder: Path, turns: int) -> list[Row]:
    asked = request(json.dumps({"model": "m", "max_tokens": 200, "messages": [{"content": PROMPT}]}).encode())
    found: dict[str, list[float]] = {"bare": [], "ours": []}
    with Replicas() as replicas:
        ports = {name: replicas.start(name).port for name in ("one", "two", "three")}
        (folder / "ours").mkdir(parents=True)
        with (
            Gateway(folder / "ours", _document(1, SPLIT), ports) as ours,
            EnvoyProcess(_bare(folder / "bare", ports), log=folder / "bare.log") as bare,
        ):
            gateways = {"bare": bare.port, "ours": ours.port}
            for port in gateways.values():
                asyncio.run(_at_rate(port, asked, 1.0))  # what the first requests build up
            for _ in range(turns):
                for name, port in gateways.items():
                    found[name] += asyncio.run(_at_rate(port, asked, 2.0))
    figures = {name: [1000 * percentile(values, percent) for percent in (50, 99)] for name, values in found.items()}
    added = [ours - bare for ours, bare in zip(figures["ours"], figures["bare"], strict=True)]
    rows = [
        Row(f"{title}, {len(found[name])} requests", f"median {figures[name][0]:.2f} ms, p99 {figures[name][1]:.2f} ms")
        for name, title in (("bare", "bare Envoy"), ("ours", "Envoy with our files"))
    ]
    return [
        *rows,
        Row("added, median", f"{added[0]:.2f} ms", "1 ms", added[0] <= 1),
        Row("added, p99", f"{added[1]:.2f} ms", "5 ms", added[1] <= 5),
    ]


async def _at_rate(port: int, asked: bytes, seconds: float) -> list[float]:
    """Seconds per request, each begun at its time whatever the others do."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    taken: list[float] = []

    async def one() -> None:
        connection = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        started = time.perf_counter()
        writer.write(asked)
        answer, _ = await read_answer(reader)
        taken.append(time.perf_counter() - started)
        assert answer.status == 200, answer
        idle.append(connection)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(RATE * seconds)):
            await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            group.create_task(one())
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()
    return taken


def _bare(folder: Path, ports: dict[str, int]) -> envoy.Place:
    """Listener, one route, one cluster."""
    port, admin_port = free_ports(2)
    kind = "type.googleapis.com/envoy.extensions.filters"
    routes = [
        {"match": {"path": envoy.REVISION_PATH}, "direct_response": {"status": 200}},
        {"match": {"prefix": "/"}, "route": {"cluster": "all", "timeout": "0s"}},
    ]
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}],
    }
    cluster = {
        "name": "all",
        "load_assignment": {
            "cluster_name": "all",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(item)}} for item in ports.values()]}],
        },
    }
    listener = {"address": _address(port), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}
    static = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    Mount(folder).swap({envoy.BOOTSTRAP: json.dumps({**static, "admin": {"address": _address(admin_port)}})})
    return envoy.Place(folder=str(folder), port=port, admin_port=admin_port)


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


# --- weights --------------------------------------------------------------------------------------------------------


def _split(folder: Path, quick: bool) -> list[Row]:
    number = 1000 if quick else 20_000
    bodies: dict[str, Json] = {
        "long-in": {"model": "m", "prompt": PROMPT},
        "short-out": {"model": "m", "max_completion_tokens": 9},
        "chat": {"model": "m"},
    }
    worst = 0.0
    with Replicas() as replicas:
        ports = {name: replicas.start(name).port for name in ("one", "two", "three")}
        folder.mkdir()
        with Gateway(folder, _document(1, SPLIT), ports) as gateway:
            for name, weights in SPLIT.items():
                answers = gateway.ask_all([request(json.dumps(bodies[name]).encode())] * number)
                counts = Counter(answer.text for answer in answers)
                assert set(counts) <= set(weights), (name, counts)
                for service, weight in weights.items():
                    share = weight / 10_000
                    sigma = (number * share * (1 - share)) ** 0.5
                    worst = max(worst, abs(counts[service] - number * share) / sigma)
    title = f"observed split against planned, {number} requests in each of {len(SPLIT)} classes, furthest"
    return [Row(title, f"{worst:.2f} sigma", "3 sigma", worst <= 3)]


# --- following ------------------------------------------------------------------------------------------------------


def _following(folder: Path, times: int) -> list[Row]:
    folder.mkdir()
    to_one, to_two = ({name: {service: 10_000} for name in CLASSES} for service in ("one", "two"))
    by_weights: list[float] = []
    by_readiness: list[float] = []
    with (
        ControlPlane() as cluster,
        GatewayGround(cluster, folder, {"one": 3, "two": 3, "three": 0}, _document(1, to_one)) as ground,
        Asking(ground.envoy.port) as asking,
    ):
        for revision in range(2, times + 2):
            service = ("one", "two")[(revision + 1) % 2]
            started = time.perf_counter()
            ground.publish(_document(revision, to_two if service == "two" else to_one))
            by_weights.append(asking.first(service, started) - started)
        service = ("one", "two")[(times + 2) % 2]
        for number in range(times):
            pod = f"{service}-{number % 3}"
            asking.wait_for(pod)
            started = time.perf_counter()
            ground.set_ready(pod, ready=False)
            by_readiness.append(asking.last(pod, started) - started)
            ground.set_ready(pod, ready=True)
        assert not asking.lost, asking.lost[:3]
        count = asking.count
    return [
        _row(f"ConfigMap sent to the first request by it, {times} times", by_weights, 1.0),
        _row(f"replica not ready to its last request, {times} times", by_readiness, 2.0),
        Row(f"requests lost meanwhile, of {count}", "0", "0", True),
    ]


def _row(what: str, seconds: Sequence[float], goal_seconds: float) -> Row:
    p99 = percentile(seconds, 99)
    measured = f"p50 {percentile(seconds, 50):.3f} s, p99 {p99:.3f} s, most {max(seconds):.3f} s"
    return Row(what, measured, f"p99 {goal_seconds:g} s", p99 <= goal_seconds)


class Asking:
    """Asks without pause, and notes when each request was sent and who answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._seen: list[tuple[float, str]] = []
        self.lost: list[str] = []

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    @property
    def count(self) -> int:
        """Requests so far."""
        return len(self._seen)

    def _run(self) -> None:
        asked = request(b'{"model": "m"}')
        while not self._stop.is_set():
            started = time.perf_counter()
            (answer,) = ask_all(self._port, [asked], connections=1)
            self._seen.append((started, answer.text))
            if answer.status != 200:
                self.lost.append(answer.text)
            time.sleep(0.001)

    def first(self, service: str, since: float) -> float:
        """When the first request was sent that a replica of the service answered."""
        return _wait(
            lambda: next((at for at, name in self._seen if at >= since and name.startswith(service)), None), 30
        )

    def wait_for(self, pod: str) -> None:
        """Until it is among those that answer."""
        since = time.perf_counter()
        _wait(lambda: next((at for at, name in self._seen if at >= since and name == pod), None), 30)

    def last(self, pod: str, since: float) -> float:
        """When the last request was sent that it answered: none followed for a second, though others did."""
        time.sleep(1)
        while True:
            seen = self._seen[-3000:]
            last = max((at for at, name in seen if name == pod), default=since)
            if seen[-1][0] - last > 1:
                return max(last, since)
            time.sleep(0.05)


def _wait(found: Callable[[], float | None], seconds: float) -> float:
    end = time.monotonic() + seconds
    while (value := found()) is None:
        assert time.monotonic() < end
        time.sleep(0.002)
    return value


def _document(revision: int, weights: dict[str, dict[str, int]]) -> Json:
    return {
        "version": 1,
        "plan": "llm/chat",
        "planHash": "9f2c0a11",
        "revision": revision,
        "transitional": False,
        "services": [{"service": name, "port": 8000} for name in ("one", "three", "two")],
        "models": {
            "m": {
                "defaultClass": "chat",
                "classes": [
                    {
                        "name": name,
                        "match": match,
                        "admitRequestsPerSecond": None,
                        "targets": [
                            {"service": service, "port": 8000, "weight": weight}
                            for service, weight in weights[name].items()
                        ],
                    }
                    for name, match in CLASSES.items()
                ],
            }
        },
    }


if __name__ == "__main__":
    alone(measure)
