"""A reverse proxy before the API server that counts writes and can break any one of them.

Crash tests need to stop a process right before its n-th write reaches the API server, or right after the API server
has done it but before the process learns so. ``WriteProxy`` numbers the writes, keeps them, and asks a hook at both
moments:

    def kill_before_third(write: Write, moment: Moment) -> Verdict:
        if write.number == 3 and moment is Moment.BEFORE:
            process.kill()
            return Verdict.DROP
        return Verdict.PASS

    with WriteProxy(cluster.kubeconfig, certificate=cluster.serving_certificate, hook=kill_before_third) as proxy:
        service_account.write_kubeconfig(cluster.kubeconfig, "default", "operator", path, server=proxy.url)

It speaks HTTP/1.1 on loopback, passes headers (Authorization among them) as they come, and relays answers piece by
piece, so that watches stream. Without a certificate it serves plain HTTP, which Python clients take; kubectl, Helm and
other Go clients send no token over plain HTTP, so they need the certificate. Connections that change protocol (exec,
port-forward) are not supported. Each client connection has one connection of its own upstream. All runs in one thread;
the hook runs in it too, hence while it runs no other request passes.
"""

from __future__ import annotations

import asyncio
import enum
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from localcluster import kubeconfig
from localcluster.certificates import Certificate

_PIECE_BYTES = 65536
_HEAD_LIMIT_BYTES = 1 << 20
_LOOK_FOR_CLIENT_SECONDS = 0.5
_WRITING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Moment(enum.Enum):
    """When the hook is asked."""

    BEFORE = "before the API server has seen the write"
    AFTER = "after the API server has answered, before the client hears of it"


class Verdict(enum.Enum):
    """What becomes of the write."""

    PASS = "pass"
    DROP = "drop the client's connection"


@dataclass
class Write:
    """One write request, numbered from 1 in the order of arrival."""

    number: int
    method: str
    path: str
    """The path of the request with its query."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    status: int | None = None
    """The API server's answer; None as long as there is none."""
    answer: bytes = field(default=b"", repr=False)
    """Body of the answer."""


@dataclass(frozen=True)
class _Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


Hook = Callable[[Write, Moment], Verdict]


def changes_something(method: str, path: str) -> bool:
    """The plain classification: every POST, PUT, PATCH and DELETE is a write, events, leases and reviews included."""
    return method in _WRITING_METHODS


def _pass(write: Write, moment: Moment) -> Verdict:
    return Verdict.PASS


class WriteProxy:
    """The proxy, from entering to leaving the context."""

    def __init__(
        self,
        admin_kubeconfig: Path,
        *,
        certificate: Certificate | None = None,
        hook: Hook = _pass,
        is_write: Callable[[str, str], bool] = changes_something,
    ) -> None:
        """``admin_kubeconfig`` tells only where the API server is and how to trust it; callers bring their own token.

        ``certificate`` makes the proxy serve HTTPS. ``hook`` may be replaced while the proxy runs.
        """
        self._serving_tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._serving_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._serving_tls.load_cert_chain(certificate.certificate, certificate.key)
        server, authority = kubeconfig.read_cluster(admin_kubeconfig)
        parts = urlsplit(server)
        self._upstream_host, self._upstream_port = parts.hostname or "127.0.0.1", parts.port or 443
        self._tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
        self._is_write = is_write
        self.hook = hook
        self.writes: list[Write] = []
        """All writes so far."""
        self.errors: list[BaseException] = []
        """Exceptions that hooks raised; each dropped its connection."""
        self.url: str
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listening)), name="write-proxy")
        self._thread.start()
        listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self, listening: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                await self._relay_connection(reader, writer)
            finally:
                connections.discard(task)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_HEAD_LIMIT_BYTES, ssl=self._serving_tls)
        self.url = f"{'https' if self._serving_tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        listening.set()
        await self._stopping.wait()
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _relay_connection(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        client, upstream = _Peer(client_in, client_out), None
        try:
            while True:
                head = await client.reader.readuntil(b"\r\n\r\n")
                if upstream is None or upstream.reader.at_eof():  # servers close connections that idle
                    upstream = await self._connect()
                if not await self._relay_request(head, client, upstream):
                    break
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # one side has gone, or the proxy is being closed: the other learns of it by its connection's end
        finally:
            for peer in (client, upstream):
                if peer is not None:
                    peer.writer.transport.abort()

    async def _connect(self) -> _Peer:
        reader, writer = await asyncio.open_connection(
            self._upstream_host, self._upstream_port, ssl=self._tls, limit=_HEAD_LIMIT_BYTES
        )
        return _Peer(reader, writer)

    async def _relay_request(self, head: bytes, client: _Peer, upstream: _Peer) -> bool:
        """Relay one request and its answer; False if the client's connection is not to be used again."""
        start, headers = _parse_head(head)
        method, path, _ = start.split(" ", 2)
        if headers.get("expect", "").lower() == "100-continue":
            client.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw_body, body = await _read_body(client.reader, headers)
        write = self._record(method, path, headers, body) if self._is_write(method, path) else None
        if write and self._ask(write, Moment.BEFORE) is Verdict.DROP:
            return False
        upstream.writer.write(head + raw_body)
        await upstream.writer.drain()

        answer_head = await upstream.reader.readuntil(b"\r\n\r\n")
        while answer_head.startswith(b"HTTP/1.1 100"):  # we have told the client ourselves
            answer_head = await upstream.reader.readuntil(b"\r\n\r\n")
        answer_start, answer_headers = _parse_head(answer_head)
        status = int(answer_start.split(" ", 2)[1])
        has_body = method != "HEAD" and status not in (204, 304)
        if write:
            raw_answer, write.answer = await _read_body(upstream.reader, answer_headers) if has_body else (b"", b"")
            write.status = status
            if self._ask(write, Moment.AFTER) is Verdict.DROP:
                return False
            client.writer.write(answer_head + raw_answer)
        else:
            client.writer.write(answer_head)
            if has_body:
                await _stream_body(upstream.reader, client, answer_headers)
        await client.writer.drain()
        until_end = has_body and "content-length" not in answer_headers and "transfer-encoding" not in answer_headers
        return not until_end and "close" not in (headers.get("connection"), answer_headers.get("connection"))

    def _record(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Write:
        write = Write(len(self.writes) + 1, method, path, headers, body)
        self.writes.append(write)
        return write

    def _ask(self, write: Write, moment: Moment) -> Verdict:
        try:
            return self.hook(write, moment)
        except Exception as error:
            self.errors.append(error)
            return Verdict.DROP


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    start, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines if line)
    return start, {name.strip().lower(): value.strip() for name, _, value in fields}


async def _read_body(source: asyncio.StreamReader, headers: dict[str, str]) -> tuple[bytes, bytes]:
    """A whole body: as it came over the wire, and as it is."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        raw, body = bytearray(), bytearray()
        async for size_line, chunk in _chunks(source):
            raw += size_line + chunk
            body += chunk[:-2]
        return bytes(raw), bytes(body)
    body_bytes = await source.readexactly(int(headers.get("content-length", "0")))
    return body_bytes, body_bytes


async def _stream_body(source: asyncio.StreamReader, client: _Peer, headers: dict[str, str]) -> None:
    """Relay a body as it comes, until its end or until the client has gone: no watch outlives who watches."""
    relay = asyncio.ensure_future(_relay_body(source, client.writer, headers))
    try:
        while not relay.done():
            await asyncio.wait((relay,), timeout=_LOOK_FOR_CLIENT_SECONDS)
            if client.reader.at_eof():
                raise EOFError
        relay.result()
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)


async def _relay_body(source: asyncio.StreamReader, target: asyncio.StreamWriter, headers: dict[str, str]) -> None:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        async for size_line, chunk in _chunks(source):
            target.write(size_line + chunk)
            await target.drain()
        return
    left = int(headers["content-length"]) if "content-length" in headers else None
    while left is None or left > 0:
        piece = await source.read(_PIECE_BYTES if left is None else min(left, _PIECE_BYTES))
        if not piece:
            if left is not None:
                raise EOFError
            return
        left = None if left is None else left - len(piece)
        target.write(piece)
        await target.drain()


async def _chunks(source: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    """Chunks of a chunked body, each with its size line and its line end; the last one is empty. No trailers."""
    while True:
        size_line = await source.readuntil(b"\r\n")
        size = int(size_line.split(b";")[0], 16)
        yield size_line, await source.readexactly(size + 2)
        if size == 0:
            return
