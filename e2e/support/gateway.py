"""A real Envoy in front of small servers that play model replicas, all on loopback."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import yaml

from e2e.support.waiting import wait_for
from localcluster.ports import free_ports
from servingplan.routing import envoy

ENVOY = Path(sys.executable).with_name("envoy")
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """The answer to one request."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()

    @property
    def error(self) -> Json:
        """The error of an OpenAI answer."""
        assert self.headers["content-type"] == "application/json", self
        error: Json = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


@dataclass
class Replica:
    """One server and what it is told to do."""

    name: str
    status: int = 200
    hang_up: bool = False
    """Close the connection in place of an answer."""
    tokens: int = 0
    """Stream so many in place of the name."""
    first_token_seconds: float = 0.0
    released: threading.Event | None = None
    """A stream's last token waits for it."""
    port: int = 0
    requests: int = 0
    last_headers: dict[str, str] = field(default_factory=dict)


class Replicas:
    """Servers on one event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: dict[int, asyncio.Server] = {}
        self._open: dict[int, set[asyncio.StreamWriter]] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for port in list(self._servers):
            self.stop(port)
        asyncio.run_coroutine_threadsafe(self._settle(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def start(self, name: str, *, host: str = "127.0.0.1", port: int = 0, **behaviour: Any) -> Replica:
        """A server that answers with its name."""
        replica = Replica(name, **behaviour)
        replica.port = asyncio.run_coroutine_threadsafe(self._start(replica, host, port), self._loop).result(60)
        return replica

    def stop(self, port: int) -> None:
        """End a server; its connections are reset."""
        asyncio.run_coroutine_threadsafe(self._stop(port), self._loop).result(60)

    async def _start(self, replica: Replica, host: str, port: int) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open[id(server)].add(writer)
            try:
                while await _serve_one(replica, reader, writer):
                    pass
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                pass
            finally:
                self._open[id(server)].discard(writer)
                writer.close()

        server = await asyncio.start_server(serve, host, port, limit=2**26, backlog=1024)
        bound: int = server.sockets[0].getsockname()[1]
        self._servers[bound] = server
        self._open[id(server)] = set()
        return bound

    async def _stop(self, port: int) -> None:
        server = self._servers.pop(port)
        server.close()
        for writer in list(self._open[id(server)]):
            writer.transport.abort()

    async def _settle(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve_one(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).strip(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.readexactly(int(headers.get("content-length", 0)))
    told = replace(replica)  # whoever sees the request counted may change what the next one meets
    replica.last_headers = headers
    replica.requests += 1
    if told.hang_up:
        return False
    if told.tokens:
        await asyncio.sleep(told.first_token_seconds)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for left in reversed(range(told.tokens)):
            if told.released and not left:
                await asyncio.to_thread(told.released.wait)
            writer.write(b"8\r\ndata: x\n\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    else:
        body = told.name.encode()
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (told.status, len(body), body))
    await writer.drain()
    return True


class Mount:
    """A folder as the kubelet makes it of a ConfigMap: files are links through ``..data``, which is swapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._current: Path | None = None
        folder.mkdir(parents=True)

    def swap(self, files: Mapping[str, str]) -> None:
        """The files in place of those before."""
        self._count += 1
        fresh = self.folder / f"..{self._count}"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_text(content)
        (self.folder / "..data_tmp").symlink_to(fresh.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        if self._current:
            shutil.rmtree(self._current)
        self._current = fresh


def on_loopback(text: str, ports: Mapping[str, int]) -> str:
    """The same file with the addresses of ``ports`` where they really are."""

    def move(node: Any) -> None:
        if isinstance(node, dict) and "port_value" in node and node["address"] in ports:
            node.update(port_value=ports[node["address"]], address="127.0.0.1")
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            move(child)

    content = yaml.safe_load(text)
    move(content)
    return yaml.safe_dump(content)


class EnvoyProcess:
    """A running Envoy, started with the bootstrap file in its folder."""

    def __init__(self, place: envoy.Place, *, log: Path, more: str = "{}") -> None:
        """``more`` is configuration that is added to the file."""
        self.place, self.port, self.log = place, place.port, log
        start = ("-c", f"{place.folder}/{envoy.BOOTSTRAP}", "--config-yaml", more)
        self._command = [str(ENVOY), *start, "--disable-hot-restart", "--concurrency", "1", "-l", "warn"]

    def __enter__(self) -> Self:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            wait_for("Envoy answers", self._answers, seconds=30, shown=self.log.read_text)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.ask(path=envoy.REVISION_PATH, method="GET").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def revision(self) -> int:
        """The revision of the document whose routes it has."""
        answer = self.ask(path=envoy.REVISION_PATH, method="GET")
        return int(answer.headers[envoy.REVISION_HEADER])

    def follow(self, revision: int) -> None:
        """Wait until it has a revision."""
        taken = f"Envoy takes revision {revision}"
        wait_for(taken, lambda: self.revision() == revision, seconds=10, shown=self.log.read_text)

    def stats(self) -> dict[str, int]:
        """Its counters and gauges."""
        entries = json.loads(self.admin("GET", "/stats?format=json"))["stats"]
        return {item["name"]: item["value"] for item in entries if "value" in item}

    def admin(self, method: str, path: str) -> bytes:
        """What its admin endpoint answers."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.place.admin_port, timeout=60)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        assert answer.status == 200, body
        return body

    def ask(
        self,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        path: str = "/v1/chat/completions",
        method: str = "POST",
    ) -> Answer:
        """One request; a body that is not bytes is sent as JSON."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)) as connection:
            connection.request(method, path, body=content, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def ask_all(self, requests: Sequence[bytes], *, connections: int = 8) -> list[Answer]:
        """Answers of many requests in their order, over a few connections that are kept."""
        return ask_all(self.port, requests, connections=connections)


def request(body: bytes, headers: Iterable[tuple[str, str]] = (), *, chunked: bool = False) -> bytes:
    """One request as it goes over the wire."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: gateway", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers]
    if chunked:
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        sent = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        lines.append("transfer-encoding: chunked")
    else:
        sent = body
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + sent


def ask_all(port: int, requests: Sequence[bytes], *, connections: int = 8) -> list[Answer]:
    """See ``EnvoyProcess.ask_all``."""
    answers: list[Answer | None] = [None] * len(requests)

    async def work(numbers: Iterable[int]) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in numbers:
            connection = connection or await asyncio.open_connection("127.0.0.1", port, limit=2**26)
            reader, writer = connection
            writer.write(requests[number])
            answers[number], keeps = await read_answer(reader)
            if not keeps:
                writer.close()
                await writer.wait_closed()
                connection = None
        if connection:
            connection[1].close()
            await connection[1].wait_closed()

    async def run() -> None:
        numbers = iter(range(len(requests)))
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(work(numbers))

    asyncio.run(run())
    return [answer for answer in answers if answer is not None]


async def read_answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """One answer, and whether the connection goes on."""
    started = time.perf_counter()
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).strip(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    answer = Answer(int(first.split()[1]), headers, body, time.perf_counter() - started)
    return answer, headers.get("connection", "").lower() != "close"


class Gateway(EnvoyProcess):
    """An Envoy that follows a mount of its own, with one server behind each Service's name."""

    def __init__(self, folder: Path, document: Json, ports: Mapping[str, int]) -> None:
        """``ports`` are of the servers, by Service."""
        port, admin_port, stats_port = free_ports(3)
        namespace = document["plan"].partition("/")[0]
        self._places = {f"{name}.{namespace}.svc.cluster.local": where for name, where in ports.items()}
        self._namespace = namespace
        self._mount = Mount(folder / "routing")
        place = envoy.Place(str(self._mount.folder), port, admin_port, stats_port)
        super().__init__(place, log=folder / "log")
        self._swap(document)

    def take(self, document: Json) -> None:
        """Swap the document in and wait until Envoy has it."""
        self._swap(document)
        self.follow(document["revision"])

    def _swap(self, document: Json) -> None:
        files = envoy.envoy_files(document, namespace=self._namespace, place=self.place)
        self._mount.swap({name: on_loopback(text, self._places) for name, text in files.items()})
