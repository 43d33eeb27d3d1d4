"""Envoy's discovery files from the routing document: listener, routes, clusters.

Stock Envoy reads them from the mounted ConfigMap with ``watched_directory`` set to the mount (the kubelet swaps a
symlink there; watching a file misses that). Only the routes change with the weights; the listener never does.

A request names its model and class in headers, ``x-servingplan-model`` and ``x-servingplan-class``. Without a class it
takes the model's default class. A model that is not served answers 404, a class with nothing ready 503, and what is
above the rate that a class is admitted at 429, all in the form of an OpenAI error. Each Envoy admits that rate by
itself: of several, each needs its part of it.
"""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

MOUNT = "/etc/envoy/routing"
LISTENER_PORT = 8080
MODEL_HEADER = "x-servingplan-model"
CLASS_HEADER = "x-servingplan-class"
ROUTES = "servingplan"
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml where it is there: the same text, twenty times as fast, on every turn."""
_TYPE = "type.googleapis.com/"
_LIMIT = "envoy.filters.http.local_ratelimit"
_LIMIT_TYPE = f"{_TYPE}envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_ALL = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
_AGAIN = {"header": {"key": "retry-after", "value": "1"}}
_JSON = {"header": {"key": "content-type", "value": "application/json"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}

Json = dict[str, Any]


def envoy_files(document: Json, *, namespace: str) -> dict[str, str]:
    """Keys of the ConfigMap by name: ``envoy-lds.yaml``, ``envoy-rds.yaml``, ``envoy-cds.yaml``."""
    resources = {
        "envoy-lds.yaml": [listener()],
        "envoy-rds.yaml": [route_configuration(document)],
        "envoy-cds.yaml": clusters(document, namespace=namespace),
    }
    version = str(document["revision"])
    return {
        name: yaml.dump({"version_info": version, "resources": items}, Dumper=_DUMPER, sort_keys=False, width=120)
        for name, items in resources.items()
    }


def bootstrap(*, admin_port: int) -> Json:
    """What an Envoy is started with that follows the mounted files."""

    def followed(name: str) -> Json:
        return {"path_config_source": _file(name), "resource_api_version": "V3"}

    return {
        "node": {"id": "servingplan", "cluster": "servingplan"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "dynamic_resources": {
            "lds_config": followed("envoy-lds.yaml"),
            "cds_config": followed("envoy-cds.yaml"),
        },
    }


def listener() -> Json:
    """One HTTP listener whose routes come from ``envoy-rds.yaml``."""
    return {
        "@type": f"{_TYPE}envoy.config.listener.v3.Listener",
        "name": "servingplan",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": LISTENER_PORT}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": {
                            "@type": f"{_TYPE}envoy.extensions.filters.network.http_connection_manager.v3."
                            "HttpConnectionManager",
                            "stat_prefix": "servingplan",
                            # Answers stream for minutes: only silence ends a request, never its length.
                            "stream_idle_timeout": "300s",
                            "rds": {
                                "route_config_name": ROUTES,
                                "config_source": {
                                    "path_config_source": _file("envoy-rds.yaml"),
                                    "resource_api_version": "V3",
                                },
                            },
                            "local_reply_config": {"mappers": [_too_many()]},
                            "http_filters": [
                                {
                                    "name": _LIMIT,
                                    "typed_config": {"@type": _LIMIT_TYPE, "stat_prefix": "admission"},
                                },
                                {
                                    "name": "envoy.filters.http.router",
                                    "typed_config": {"@type": f"{_TYPE}envoy.extensions.filters.http.router.v3.Router"},
                                },
                            ],
                        },
                    }
                ]
            }
        ],
    }


def route_configuration(document: Json) -> Json:
    """One route per class, then one per model for its default class, then 404."""
    routes: list[Json] = []
    for model, item in sorted(document["models"].items()):
        by_name = {entry["name"]: entry for entry in item["classes"]}
        for name in sorted(by_name):
            headers = [_header(MODEL_HEADER, model), _header(CLASS_HEADER, name)]
            routes.append({"match": {"prefix": "/", "headers": headers}, **_action(model, by_name[name])})
        default = by_name[item["defaultClass"]]
        routes.append({"match": {"prefix": "/", "headers": [_header(MODEL_HEADER, model)]}, **_action(model, default)})
    unknown = _error(
        f"The model does not exist. Name one in the header {MODEL_HEADER}.", "invalid_request_error", "model_not_found"
    )
    routes.append({"match": {"prefix": "/"}, **_answer(404, unknown)})
    return {
        "@type": f"{_TYPE}envoy.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "virtual_hosts": [{"name": ROUTES, "domains": ["*"], "routes": routes}],
    }


def clusters(document: Json, *, namespace: str) -> list[Json]:
    """One cluster per Service of the document, those that have no weight yet included: Envoy reads routes and clusters
    one after the other, and a route must never meet a cluster that is not there."""
    return [
        {
            "@type": f"{_TYPE}envoy.config.cluster.v3.Cluster",
            "name": service,
            "type": "STRICT_DNS",
            "connect_timeout": "2s",
            "lb_policy": "LEAST_REQUEST",
            "load_assignment": {
                "cluster_name": service,
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {
                                "endpoint": {
                                    "address": {
                                        "socket_address": {
                                            "address": f"{service}.{namespace}.svc.cluster.local",
                                            "port_value": port,
                                        }
                                    }
                                }
                            }
                        ]
                    }
                ],
            },
        }
        for service, port in sorted((item["service"], item["port"]) for item in document["services"])
    ]


def _header(name: str, value: str) -> Json:
    return {"name": name, "string_match": {"exact": value}}


def _file(name: str) -> Json:
    return {"path": f"{MOUNT}/{name}", "watched_directory": {"path": MOUNT}}


def _action(model: str, entry: Json) -> Json:
    targets, admitted = entry["targets"], entry["admitRequestsPerSecond"]
    if not targets:
        body = _error(
            f"No replica of {model} is ready for class {entry['name']}; try again.", "server_error", "unavailable"
        )
        return _answer(503, body, _AGAIN)
    if admitted == 0:
        return _answer(429, _error(*_TOO_MANY), _AGAIN)
    weighted = {"clusters": [{"name": target["service"], "weight": target["weight"]} for target in targets]}
    action: Json = {"route": {"weighted_clusters": weighted, "timeout": "0s"}}
    if admitted is not None:
        action["typed_per_filter_config"] = {_LIMIT: _admission(admitted)}
    return action


def _admission(per_second: float) -> Json:
    """A second's worth of requests at a time, at least one."""
    burst = max(1, math.ceil(per_second))
    return {
        "@type": _LIMIT_TYPE,
        "stat_prefix": "admission",
        "token_bucket": {
            "max_tokens": burst,
            "tokens_per_fill": burst,
            "fill_interval": f"{burst / per_second:.6f}s",
        },
        "filter_enabled": _ALL,
        "filter_enforced": _ALL,
        "response_headers_to_add": [_AGAIN],
    }


def _answer(status: int, body: Json, *headers: Json) -> Json:
    response = {"status": status, "body": {"inline_string": json.dumps(body)}}
    return {"direct_response": response, "response_headers_to_add": [_JSON, *headers]}


def _too_many() -> Json:
    """The filter's own 429 in the form of an OpenAI error."""
    return {
        "filter": {
            "status_code_filter": {
                "comparison": {"op": "EQ", "value": {"default_value": 429, "runtime_key": "servingplan.too_many"}}
            }
        },
        "body_format_override": {"json_format": _error(*_TOO_MANY)},
    }


_TOO_MANY = ("More requests of this class than the plan has room for; try again.", "requests", "rate_limit_exceeded")


def _error(message: str, kind: str, code: str) -> Json:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
