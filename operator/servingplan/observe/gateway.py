"""Asks the replicas of a gateway which revision of the weights they have taken."""

from __future__ import annotations

import http.client
import json
import socket
from concurrent.futures import Executor, Future, wait
from contextlib import closing
from urllib.parse import urlsplit

from servingplan.model.world import GatewayFacts

DEADLINE_SECONDS = 1.0
"""For finding the replicas, and again for all of their answers."""
_LONGEST_ANSWER_BYTES = 4096
_MOST_REPLICAS = 64


def ask_gateway(url: str, plan: str, threads: Executor) -> GatewayFacts:
    """What every address of the URL's host says of a plan (``namespace/name``). Never raises, never waits for long."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
    except ValueError as error:
        return GatewayFacts(problem=f"spec.gateway.ackUrl cannot be asked: {error}")
    found = threads.submit(_addresses, host, port)
    try:
        addresses = found.result(DEADLINE_SECONDS)
    except TimeoutError:
        return GatewayFacts(problem=f"the name {host} was not resolved within {DEADLINE_SECONDS:g} s")
    except OSError as error:
        return GatewayFacts(problem=f"the name {host} cannot be resolved: {error.strerror or error}")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    asked = [
        threads.submit(_revision, address, port, path or "/", parts.netloc, plan)
        for address in addresses[:_MOST_REPLICAS]
    ]
    wait(asked, DEADLINE_SECONDS)
    return GatewayFacts(revisions=tuple(_answer(item) for item in asked))


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(entry[4][0]) for entry in found})


def _answer(asked: Future[int | None]) -> int | None:
    if not asked.done():
        asked.cancel()
        return None
    return asked.result()


def _revision(address: str, port: int, path: str, host: str, plan: str) -> int | None:
    """None where there is no such answer. Nothing else of what it says is kept."""
    try:
        with closing(http.client.HTTPConnection(address, port, timeout=DEADLINE_SECONDS)) as connection:
            connection.request("GET", path, headers={"host": host})
            answer = connection.getresponse()
            if answer.status != 200:
                return None
            said = json.loads(answer.read(_LONGEST_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    if not isinstance(said, dict) or said.get("plan") != plan or type(said.get("revision")) is not int:
        return None
    revision: int = said["revision"]
    return revision
