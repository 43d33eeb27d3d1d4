"""The servers that a turn asks beside the API server: the plan's gateway, and the engines of draining replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from servingplan.model.readings import GatewayFacts
from servingplan.observe.asking import SharedThreads
from servingplan.observe.engines import requests_inside
from servingplan.observe.gateway import ask_gateway, in_time
from servingplan.observe.urls import UrlPolicy


class Outside(Protocol):
    """Asks these servers. It never raises and never waits for long."""

    def gateway(self, url: str, plan: str) -> Callable[[], GatewayFacts]:
        """Begin to ask the gateway of a plan (``namespace/name``). The returned call waits for the answer."""
        ...

    def requests_inside(self, namespace: str, addresses: Mapping[str, str]) -> dict[str, int | None]:
        """The same as ``engines.requests_inside``."""
        ...

    def close(self) -> None:
        """Stop the threads."""
        ...


class OverHttp:
    """``Outside`` over HTTP, in threads of which each namespace has a share."""

    def __init__(self, urls: UrlPolicy) -> None:
        self._urls = urls
        self._gateway_threads = SharedThreads(4, share=2, name="gateway")
        self._asking_threads = SharedThreads(16, share=4, name="asking")

    def gateway(self, url: str, plan: str) -> Callable[[], GatewayFacts]:
        namespace = plan.partition("/")[0]
        asking = self._asking_threads.of(namespace)
        asked = self._gateway_threads.of(namespace).submit(ask_gateway, url, plan, asking, self._urls)
        return lambda: in_time(asked)

    def requests_inside(self, namespace: str, addresses: Mapping[str, str]) -> dict[str, int | None]:
        return requests_inside(addresses, self._asking_threads.of(namespace))

    def close(self) -> None:
        for threads in (self._gateway_threads, self._asking_threads):
            threads.shutdown()
