"""Renders a listener that shows only the counters to Prometheus: the admin endpoint could stop and reconfigure Envoy."""

from __future__ import annotations

from servingplan.routing.envoy.terms import TYPE, Json

STATS_PATH = "/stats/prometheus"
_ADMIN = "admin"


def stats_resources(port: int, admin_port: int) -> Json:
    """The static resources of the bootstrap for ``GET /stats/prometheus`` on ``port``."""
    wanted = {"path": STATS_PATH, "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]}
    router = {"@type": f"{TYPE}envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "stats",
        "route_config": {
            "name": "stats",
            "virtual_hosts": [
                {"name": "stats", "domains": ["*"], "routes": [{"match": wanted, "route": {"cluster": _ADMIN}}]}
            ],
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    listener = {
        "name": "stats",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    admin = {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}
    cluster = {
        "name": _ADMIN,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": _ADMIN,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": admin}}]}],
        },
    }
    return {"listeners": [listener], "clusters": [cluster]}
