"""Envoy's discovery files from the routing document: listener, routes, clusters.

Stock Envoy reads them from the mounted ConfigMap with ``watched_directory`` set to the mount (the kubelet swaps a
symlink there; watching a file misses that). Only the routes change with the weights; the listener never does.

A request names its model and class in headers, ``x-servingplan-model`` and ``x-servingplan-class``. Without a class it
takes the model's default class; a model that is not served answers 404, a class with nothing ready 503, both in the
form of an OpenAI error.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

MOUNT = "/etc/envoy/routing"
LISTENER_PORT = 8080
MODEL_HEADER = "x-servingplan-model"
CLASS_HEADER = "x-servingplan-class"
ROUTES = "servingplan"
_TYPE = "type.googleapis.com/"

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
        name: yaml.safe_dump({"version_info": version, "resources": items}, sort_keys=False, width=120)
        for name, items in resources.items()
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
                                    "path_config_source": {
                                        "path": f"{MOUNT}/envoy-rds.yaml",
                                        "watched_directory": {"path": MOUNT},
                                    },
                                    "resource_api_version": "V3",
                                },
                            },
                            "http_filters": [
                                {
                                    "name": "envoy.filters.http.router",
                                    "typed_config": {"@type": f"{_TYPE}envoy.extensions.filters.http.router.v3.Router"},
                                }
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
    unknown = _error("The model does not exist. Name one in the header x-servingplan-model.", "model_not_found")
    routes.append({"match": {"prefix": "/"}, "direct_response": {"status": 404, "body": unknown}})
    return {
        "@type": f"{_TYPE}envoy.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "virtual_hosts": [{"name": ROUTES, "domains": ["*"], "routes": routes}],
    }


def clusters(document: Json, *, namespace: str) -> list[Json]:
    """One cluster per Service that any class names."""
    targets = {
        (target["service"], target["port"])
        for item in document["models"].values()
        for entry in item["classes"]
        for target in entry["targets"]
    }
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
        for service, port in sorted(targets)
    ]


def _header(name: str, value: str) -> Json:
    return {"name": name, "string_match": {"exact": value}}


def _action(model: str, entry: Json) -> Json:
    targets = entry["targets"]
    if not targets:
        body = _error(f"No replica of {model} is ready for class {entry['name']}; try again.", "unavailable")
        return {"direct_response": {"status": 503, "body": body}}
    weighted = {"clusters": [{"name": target["service"], "weight": target["weight"]} for target in targets]}
    return {"route": {"weighted_clusters": weighted, "timeout": "0s"}}


def _error(message: str, code: str) -> Json:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return {"inline_string": json.dumps(body)}
