"""Asks the replicas of a gateway which revision of the weights they have taken."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Sequence
from concurrent.futures import CancelledError, Executor, Future, wait

from servingplan.model.readings import GatewayFacts
from servingplan.observe.asking import get
from servingplan.observe.urls import NoAnswer, Target, UrlPolicy, UrlRefused

log = logging.getLogger("servingplan.gateway")

FIELD = "spec.gateway.ackUrl"
NO_ANSWER = f"no answer at {FIELD} has a revision of this plan"
"""The same text for every cause: a status must not reveal open ports."""

DEADLINE_SECONDS = 1.0
"""The longest time of each of three steps: find the Service, resolve a name, get all answers."""
_LONGEST_ANSWER_BYTES = 4096
_MOST_REPLICAS = 64


def ask_gateway(url: str, plan: str, threads: Executor, policy: UrlPolicy) -> GatewayFacts:
    """The answers of all addresses of the URL's host for a plan (``namespace/name``). Never raises; bounded in time."""
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
    """The result of ``ask_gateway`` if it comes in time; else facts that say NO_ANSWER."""
    try:
        return asked.result(3 * DEADLINE_SECONDS)
    except (TimeoutError, CancelledError):
        asked.cancel()
        return GatewayFacts(problem=NO_ANSWER)


def _found(target: Target, threads: Executor) -> Sequence[str]:
    """The addresses of the target. Raises ``OSError`` if a name is not resolved, or not in time."""
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
    """The revision that one address reports for the plan; None if it reports none. Nothing else of the answer is kept."""
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
