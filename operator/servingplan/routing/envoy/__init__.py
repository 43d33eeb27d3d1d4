"""Renders Envoy's discovery files from the routing document: listener, routes, clusters.

Stock Envoy reads them from the mounted ConfigMap, or from a folder that ``servingplan gateway-sync`` keeps. Only the
routes change with the weights; the listener never does.

A request's model is in its body or in the header ``x-servingplan-model``. Its class is in the header ``x-servingplan-class``,
or follows from the body's length and ``max_tokens``. A model that is not served is answered with 404, a class without a ready
replica with 503, and a request above the admitted rate with 429, all in the form of an OpenAI error. Each Envoy admits that
rate by itself; of several, each needs its part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from servingplan.routing.checked import checked
from servingplan.routing.envoy.clusters import clusters, eds, load_assignment, services
from servingplan.routing.envoy.listener import listener
from servingplan.routing.envoy.routes import route_configuration
from servingplan.routing.envoy.stats import STATS_PATH, stats_resources
from servingplan.routing.envoy.terms import (
    CLASS_HEADER,
    MODEL_HEADER,
    REVISION_HEADER,
    REVISION_PATH,
    SESSION_HEADER,
    TYPE,
    USUAL,
    Json,
    Place,
)

__all__ = [
    "BOOTSTRAP",
    "CLASS_HEADER",
    "MODEL_HEADER",
    "REVISION_HEADER",
    "REVISION_PATH",
    "SESSION_HEADER",
    "STATS_PATH",
    "Place",
    "bootstrap",
    "clusters",
    "endpoint_files",
    "envoy_files",
    "listener",
    "route_configuration",
]

BOOTSTRAP = "envoy-bootstrap.yaml"
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml if it is installed: the same text, twenty times as fast, in every turn."""


def envoy_files(document: Json, *, namespace: str, by_pod: bool = False, place: Place = USUAL) -> dict[str, str]:
    """The files by name: ``envoy-bootstrap.yaml`` for the start, ``envoy-lds.yaml``, ``envoy-rds.yaml``, ``envoy-cds.yaml``.

    ``by_pod``: replicas are reached at their own addresses (see ``endpoint_files``), not through the Service. Raises
    ``InputError`` if a part of the document must not be rendered.
    """
    checked(document, namespace=namespace)
    strip = document.get("clientHeaders") == "Strip"
    resources = {
        "envoy-lds.yaml": [listener(strip_client_headers=strip, place=place)],
        "envoy-rds.yaml": [route_configuration(document)],
        "envoy-cds.yaml": clusters(document, namespace=namespace, by_pod=by_pod, place=place),
    }
    version = str(document["revision"])
    discovered = {name: _text({"version_info": version, "resources": items}) for name, items in resources.items()}
    return {BOOTSTRAP: _text(bootstrap(place)), **discovered}


def endpoint_files(document: Json, addresses: Mapping[str, Sequence[tuple[str, int]]]) -> dict[str, str]:
    """The files ``envoy-eds-SERVICE.yaml`` with the addresses and ports of each Service's ready replicas, from ``addresses``
    by Service."""
    kind = f"{TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment"
    return {
        eds(service): _text({"resources": [{"@type": kind, **load_assignment(service, addresses.get(service, ()))}]})
        for service, _ in services(document)
    }


def bootstrap(place: Place = USUAL) -> Json:
    """The bootstrap of an Envoy that follows the files. Only its own pod reaches its admin endpoint."""
    shown = {} if place.stats_port is None else stats_resources(place.stats_port, place.admin_port)
    return {
        "node": {"id": "servingplan", "cluster": "servingplan"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": place.admin_port}}},
        "dynamic_resources": {
            "lds_config": place.followed("envoy-lds.yaml"),
            "cds_config": place.followed("envoy-cds.yaml"),
        },
        **({"static_resources": shown} if shown else {}),
    }


def _text(content: Json) -> str:
    # Parts that several routes share are written once, as an alias.
    return yaml.dump(content, Dumper=_DUMPER, sort_keys=False, width=120)
