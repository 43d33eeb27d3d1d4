"""Renders the clusters: two for every Service of the document, for requests without and with a session."""

from __future__ import annotations

from collections.abc import Sequence

from servingplan.routing.envoy.routes import STICKY
from servingplan.routing.envoy.terms import TYPE, USUAL, Json, Place

_ENGINE_KEEPS_IDLE_SECONDS = 5
"""vLLM's server, uvicorn, closes a connection that is idle for this long."""
_MANY = 65536
"""Envoy's own limits (1024 requests, 3 retries) are below what a large Service streams at a time."""


def clusters(document: Json, *, namespace: str, by_pod: bool = False, place: Place = USUAL) -> list[Json]:
    """The clusters of all Services, also of those without weight yet: Envoy reads routes and clusters one after the other,
    and a route must never name a missing cluster.

    ``by_pod``: the replicas' addresses are in ``envoy-eds-SERVICE.yaml``. Else the Service's own address takes all requests,
    and the node's proxy distributes them.
    """
    made = []
    for service, port in services(document):
        reached = (
            {
                "type": "EDS",
                "eds_cluster_config": {"service_name": service, "eds_config": place.followed(eds(service))},
            }
            if by_pod
            else {
                "type": "STRICT_DNS",
                "load_assignment": load_assignment(service, [(f"{service}.{namespace}.svc.cluster.local", port)]),
            }
        )
        made += [_cluster(service, reached, _LEAST_REQUEST), _cluster(f"{service}{STICKY}", reached, _BY_SESSION)]
    return made


def services(document: Json) -> list[tuple[str, int]]:
    """The names and ports of the document's Services."""
    return sorted((item["service"], item["port"]) for item in document["services"])


def eds(service: str) -> str:
    """The name of the file with a Service's replicas."""
    return f"envoy-eds-{service}.yaml"


def load_assignment(service: str, addresses: Sequence[tuple[str, int]]) -> Json:
    """Envoy's load assignment with the replicas of a Service."""
    return {
        "cluster_name": service,
        "endpoints": [
            {
                "lb_endpoints": [
                    {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
                    for address, port in addresses
                ]
            }
        ],
    }


_AT_ONCE: Json = {"update_merge_window": "0s"}
"""Ejections take effect at once; by default Envoy gathers those of a second."""
_LEAST_REQUEST: Json = {
    # Choose among all replicas, not between two as by default: model servers are few and each request is long, so the
    # better of two is often far from the best (docs/fleet.md has figures).
    "load_balancing_policy": {
        "policies": [
            {
                "typed_extension_config": {
                    "name": "envoy.load_balancing_policies.least_request",
                    "typed_config": {
                        "@type": f"{TYPE}envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                        "selection_method": "FULL_SCAN",
                    },
                }
            }
        ]
    },
    "common_lb_config": _AT_ONCE,
}
_BY_SESSION: Json = {
    # Consistent hashing with bounded loads: a session moves on when its replica has a quarter more than the mean.
    "lb_policy": "RING_HASH",
    "common_lb_config": {**_AT_ONCE, "consistent_hashing_lb_config": {"hash_balance_factor": 125}},
}


_LIMITS: Json = {
    "thresholds": [
        {
            "max_connections": _MANY,
            "max_pending_requests": _MANY,
            "max_requests": _MANY,
            "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 10},
        }
    ]
}
_EJECTIONS: Json = {
    # A replica that refuses or resets is ejected for a while, at most half of them at a time. The engine's own errors (500)
    # do not eject a replica, since the next one would answer the same.
    "consecutive_gateway_failure": 5,
    "enforcing_consecutive_gateway_failure": 100,
    "enforcing_consecutive_5xx": 0,
    "enforcing_success_rate": 0,
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 3,
    "enforcing_local_origin_success_rate": 0,
    "interval": "1s",
    "base_ejection_time": "5s",
    "max_ejection_time": "60s",
    "max_ejection_percent": 50,
}
_PROTOCOL: Json = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        # Shorter than the engine's limit, so that no request meets a connection that is being closed.
        "common_http_protocol_options": {"idle_timeout": f"{_ENGINE_KEEPS_IDLE_SECONDS - 1}s"},
        "explicit_http_config": {"http_protocol_options": {}},
    }
}


def _cluster(name: str, reached: Json, balancing: Json) -> Json:
    return {
        "@type": f"{TYPE}envoy.config.cluster.v3.Cluster",
        "name": name,
        "connect_timeout": "2s",
        **reached,
        **balancing,
        "circuit_breakers": _LIMITS,
        "outlier_detection": _EJECTIONS,
        "typed_extension_protocol_options": _PROTOCOL,
    }
