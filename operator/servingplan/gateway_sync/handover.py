"""PURE. New weights wait for the replicas they name; no request goes to a Service without a replica while another has one.

The operator learns that a pod is ready a moment before its EndpointSlice says so, and Envoy reads routes and addresses one
after the other. A request between the two would find a cluster with nobody in it, which Envoy refuses without a retry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

Json = dict[str, Any]


def services_with_weight(document: Json) -> set[str]:
    """Of any class."""
    return {target["service"] for entry in _classes(document) for target in entry["targets"]}


def with_routes_of(shown: Json, document: Json) -> Json:
    """The routes of the document that is shown, with the Services of both: what the next one will need is made known."""
    services = {item["service"]: item for item in (*shown["services"], *document["services"])}
    return {**shown, "services": [services[name] for name in sorted(services)]}


def without_the_empty(document: Json, replicas: Collection[str]) -> Json:
    """No weight on Services that have no replica, in classes where another has. ``replicas``: Services that have some."""

    def kept(entry: Json) -> Json:
        reached = [target for target in entry["targets"] if target["service"] in replicas]
        return {**entry, "targets": reached or entry["targets"]}

    return _with_classes(document, kept)


def _classes(document: Json) -> Iterator[Json]:
    for model in document["models"].values():
        yield from model["classes"]


def _with_classes(document: Json, change: Callable[[Json], Json]) -> Json:
    models = {
        name: {**model, "classes": [change(entry) for entry in model["classes"]]}
        for name, model in document["models"].items()
    }
    return {**document, "models": models}
