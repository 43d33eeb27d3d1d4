"""Pods that really answer, where KWOK plays the nodes: each pod's engine is emulated in this process.

What a kubelet does for a replica is done here: the engine is started when the pod has its node, the pod is Ready when
``/health`` would be 200, and when the pod is to go its engine gets the ``preStop`` pause, takes nothing new, answers what
it has, and only then is the pod gone. The pause lasts until the gateway sends it nothing more, as that of a real pod is long
enough for. KWOK must be told to keep its hands off: ``TIMES`` on the pod template.

KWOK's addresses lead nowhere, and no address of loopback may stand in an EndpointSlice. So the gateway's folder writes each
pod's address as the port here on which its engine listens; or, for gateways that read EndpointSlices themselves, each pod
gets an address of this machine's own (``own_addresses``).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Self, override

from e2e.support.cluster import Cluster
from e2e.support.feed import Feed
from e2e.support.gateway import on_loopback
from e2e.support.waiting import PATIENCE
from localcluster import stages
from servingplan.emulate.arguments import Shape, shape_of
from servingplan.emulate.launch import Copy, Options
from servingplan.emulate.pacer import Clock, Pacer
from servingplan.errors import NotFound
from servingplan.gateway_sync.folder import Folder
from servingplan.kube import PODS
from servingplan.render import flags

Json = dict[str, Any]

TIMES = {stages.NEVER_READY_PERCENT_ANNOTATION: "100", stages.STOP_SECONDS_ANNOTATION: "3600"}
"""KWOK runs the pod and leaves it alone until its grace period is over."""
_READY = ("Ready", "ContainersReady")
PROBE_SECONDS = 0.1
"""Between two looks at an engine's health."""
LONGEST_PAUSE_SECONDS = 15.0 * PATIENCE
"""A rendered pod's pause, on a machine that stands still meanwhile: then its engine ends, whoever still sends to it."""
_START_SECONDS = 60
_ADDRESSES = IPv4Network("198.18.128.0/22")
"""Addresses of RFC 2544, for tests; a real node's pods have others of that range."""


@contextmanager
def own_addresses() -> Iterator[Iterator[str]]:
    """Addresses that lead to this machine and may stand in an EndpointSlice. Needs root.

    Raises:
        PermissionError: this process may not change routes.
    """
    route = ("local", str(_ADDRESSES), "dev", "lo")
    done = subprocess.run(["ip", "route", "replace", *route], capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield map(str, _ADDRESSES.hosts())
    finally:
        subprocess.run(["ip", "route", "del", *route], check=True)


class EmulatedKubelet:
    """The kubelet of all plan pods of a namespace. A context.

    Args:
        gpus: GPU by a value of its nodes' selector, such as the name of a NodePool.
        addresses: one for each pod, in place of KWOK's.
        prestop_seconds: pause between the moment at which the gateway has let go of a pod that is deleted and the end of
            its engine.
    """

    def __init__(
        self,
        feed: Feed,
        cluster: Cluster,
        namespace: str,
        *,
        gpus: Mapping[str, str],
        addresses: Iterator[str] | None = None,
        startup_seconds: float = 1.0,
        prestop_seconds: float = 2.0,
    ) -> None:
        self._feed, self._cluster, self._namespace, self._gpus = feed, cluster, namespace, gpus
        self._addresses = addresses
        self._options = Options(startup_seconds=startup_seconds)
        self._prestop_seconds = prestop_seconds
        self.is_in_use: Callable[[str, int], bool] = lambda address, port: False
        """Whether the gateway may send new requests to an engine, by where that listens."""
        self.ports: dict[str, int] = {}
        """Port on loopback by the pod's address."""
        self.started = 0
        """Engines so far."""
        self.stopped = 0
        self.cut = 0
        """Engines that ended with answers under way."""
        self.problems: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="emulated-kubelet", daemon=True)
        self._going: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(_START_SECONDS)
        self._feed.listen(self._hear, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.leave(self._hear, self._tick)
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_SECONDS)
        self._loop.close()

    async def _open(self) -> None:
        self._pacer = Pacer(Clock())

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pacer.close()

    def _tick(self, now: float) -> None:
        pass

    def _hear(self, _: float, kind: str, change: str, item: Json) -> None:
        if kind == "Pod" and item["metadata"]["namespace"] == self._namespace:
            self._loop.call_soon_threadsafe(self._see, change, item)

    def _see(self, change: str, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        if change == "DELETED" or "deletionTimestamp" in pod["metadata"]:
            if uid in self._going:
                self._going[uid].set()
        elif uid not in self._going and (pod.get("status") or {}).get("podIP"):
            self._going[uid] = asyncio.Event()
            task = self._loop.create_task(self._live(pod, self._going[uid]))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self.problems.append(problem)

    async def _live(self, pod: Json, going: asyncio.Event) -> None:
        """One pod, from its start to its end."""
        name, address = pod["metadata"]["name"], pod["status"]["podIP"]
        options, port = self._options, 0
        if self._addresses is not None:
            address = next(self._addresses)
            options, port = replace(options, host=address), pod["spec"]["containers"][0]["ports"][0]["containerPort"]
        async with AsyncExitStack() as stack:
            copy = Copy(self._shape(pod), self._pacer, options, name=name, port=port)
            stack.push_async_callback(copy.close)
            await copy.open()
            if self._addresses is not None:
                await asyncio.to_thread(self._set_status, name, {"podIP": address, "podIPs": [{"ip": address}]})
            self.ports[address] = copy.port
            stack.callback(self._forget, address, copy.port)
            self.started += 1
            while not copy.live.healthy:  # noqa: ASYNC110 (a kubelet asks)
                await asyncio.sleep(PROBE_SECONDS)
            if not going.is_set():
                conditions = [{"type": kind, "status": "True", "reason": "Probed"} for kind in _READY]
                await asyncio.to_thread(self._set_status, name, {"conditions": conditions})
            await going.wait()
            await self._gateway_lets_go(options.host, copy.port)
            await asyncio.sleep(self._prestop_seconds)
            told = flags.read(pod["spec"]["containers"][0]["args"]).value(flags.SHUTDOWN_TIMEOUT)
            self.cut += not await copy.live.drain(told or 0)
            await asyncio.sleep(0.1)  # the last answers are on their way
            await asyncio.to_thread(self._remove, name)
            self.stopped += 1

    async def _gateway_lets_go(self, host: str, port: int) -> None:
        deadline = self._loop.time() + LONGEST_PAUSE_SECONDS
        while self._loop.time() < deadline:
            if not await asyncio.to_thread(self.is_in_use, host, port):
                return
            await asyncio.sleep(PROBE_SECONDS)

    def _forget(self, address: str, port: int) -> None:
        """A later pod may have got the address from KWOK by now."""
        if self.ports[address] == port:
            del self.ports[address]

    def _shape(self, pod: Json) -> Shape:
        container = pod["spec"]["containers"][0]
        selected = pod["spec"]["nodeSelector"].values()
        return shape_of(container["args"], gpu=next(self._gpus[value] for value in selected if value in self._gpus))

    def _set_status(self, name: str, status: Json) -> None:
        where = {"namespace": self._namespace, "subresource": "status"}
        with suppress(NotFound):  # deleted meanwhile
            self._cluster.api.merge(PODS, name, {"status": status}, manager="kubelet", **where)

    def _remove(self, name: str) -> None:
        now = ("--grace-period=0", "--force", "--wait=false", "--ignore-not-found")
        self._cluster.try_kubectl("delete", "pod", name, "-n", self._namespace, *now)


def envoy_sends_to(admin_port: int) -> Callable[[str, int], bool]:
    """Whether an Envoy may send new requests to an address and port; one that does not run sends none."""

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/{path}", timeout=60) as answer:
            return json.load(answer)

    def look(address: str, port: int) -> bool:
        try:
            clusters = ask("clusters?format=json")["cluster_statuses"]
            routes = ask("config_dump?resource=dynamic_route_configs")
        except (OSError, http.client.HTTPException, ValueError):
            return False
        return not _clusters_with(clusters, address, port).isdisjoint(_clusters_with_weight(routes))

    return look


def _clusters_with(statuses: list[Json], address: str, port: int) -> set[str]:
    found = set()
    for item in statuses:
        places = [host["address"]["socket_address"] for host in item.get("host_statuses", ())]
        if any((place["address"], place["port_value"]) == (address, port) for place in places):
            found.add(item["name"])
    return found


def _clusters_with_weight(node: Any) -> Iterator[str]:
    """The clusters of all routes in a dump of them."""
    if isinstance(node, list):
        for child in node:
            yield from _clusters_with_weight(child)
    elif isinstance(node, dict):
        if isinstance(name := node.get("cluster", node.get("name")), str) and ("cluster" in node or node.get("weight")):
            yield name
        for child in node.values():
            yield from _clusters_with_weight(child)


class LoopbackFolder(Folder):
    """The gateway's folder, with pods' addresses as they can be reached from here."""

    def __init__(self, path: Path, kubelet: EmulatedKubelet) -> None:
        super().__init__(path)
        self._kubelet = kubelet

    @override
    def put(self, files: Mapping[str, str]) -> bool:
        """See ``Folder``."""
        ports = dict(self._kubelet.ports)
        moved = {
            name: on_loopback(text, ports) if name.startswith("envoy-eds") else text for name, text in files.items()
        }
        return super().put(moved)
