"""PURE. Holds new weights until their replicas are known. No Service without a replica gets requests while another has one.

The operator learns that a pod is ready a moment before its EndpointSlice says so, and Envoy reads routes and addresses one
after the other. A request between the two would find an empty cluster, which Envoy refuses without a retry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

Json = dict[str, Any]


def services_with_weight(document: Json) -> set[str]:
    """The Services with weight for any class."""
    return {target["service"] for entry in _classes(document) for target in entry["targets"]}


def with_routes_of(shown: Json, document: Json) -> Json:
    """The routes of the shown document with the Services of both, so that Envoy knows those of the next document."""
    services = {item["service"]: item for item in (*shown["services"], *document["services"])}
    return {**shown, "services": [services[name] for name in sorted(services)]}


def without_the_empty(document: Json, replicas: Collection[str]) -> Json:
    """The document without weight on empty Services, in classes with another one. ``replicas``: Services with replicas."""

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
