"""Asks the replicas of a gateway which revision of the weights they have taken."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Sequence
from concurrent.futures import CancelledError, Executor, Future, wait

from servingplan.model.world import GatewayFacts
from servingplan.observe.asking import get
from servingplan.observe.urls import NoAnswer, Target, UrlPolicy, UrlRefused

log = logging.getLogger("servingplan.gateway")

FIELD = "spec.gateway.ackUrl"
NO_ANSWER = f"nobody at {FIELD} tells a revision of this plan"
"""The same whatever the cause: a status is no way to find out what listens where."""

DEADLINE_SECONDS = 1.0
"""How long each of three steps may take: to find the Service, to resolve a name, and to hear all answers."""
_LONGEST_ANSWER_BYTES = 4096
_MOST_REPLICAS = 64


def ask_gateway(url: str, plan: str, threads: Executor, policy: UrlPolicy) -> GatewayFacts:
    """What every address of the URL's host says of a plan (``namespace/name``). Never raises, never waits for long."""
    try:
        looked_up = threads.submit(policy.target, url, field=FIELD, namespace=plan.partition("/")[0])
        target = looked_up.result(DEADLINE_SECONDS)
        addresses = _found(target, threads)
    except UrlRefused as error:
        return GatewayFacts(refused=str(error))
    except (NoAnswer, OSError) as error:
        log.info("%s: %s cannot be asked: %s", plan, FIELD, error)
        return GatewayFacts(problem=NO_ANSWER)
    asked = [
        threads.submit(_revision, address, target.port, target.path or "/", target.authority, plan)
        for address in addresses[:_MOST_REPLICAS]
    ]
    wait(asked, DEADLINE_SECONDS)
    facts = GatewayFacts(revisions=tuple(_answer(item) for item in asked))
    return facts if facts.answers else GatewayFacts(problem=NO_ANSWER)


def in_time(asked: Future[GatewayFacts]) -> GatewayFacts:
    """What ``ask_gateway`` found, in the time that it may take; nothing where its turn did not come."""
    try:
        return asked.result(3 * DEADLINE_SECONDS)
    except (TimeoutError, CancelledError):
        asked.cancel()
        return GatewayFacts(problem=NO_ANSWER)


def _found(target: Target, threads: Executor) -> Sequence[str]:
    """Raises ``OSError`` where a name is not resolved in time, or not at all."""
    if target.addresses is not None:
        return target.addresses
    return threads.submit(_addresses, target.host, target.port).result(DEADLINE_SECONDS)


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
        status, body = get(
            address,
            port,
            path,
            seconds=DEADLINE_SECONDS,
            most_bytes=_LONGEST_ANSWER_BYTES,
            headers={"host": host},
        )
        said = json.loads(body) if status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    if not isinstance(said, dict) or said.get("plan") != plan or type(said.get("revision")) is not int:
        return None
    revision: int = said["revision"]
    return revision
