"""Makes the routing document: the share of each class for each Service. Weights cover only ready replicas.

``routing.json`` is the contract (JSON Schema in ``routing.schema.json``); the gateways' own files are rendered from it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from servingplan.api.matching import default_class, matching_order
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model import names
from servingplan.model.fleet import ClassService, Fleet, ReplicaFacts
from servingplan.model.world import PlanObject
from servingplan.render.deployment import PORT, owner_reference
from servingplan.routing.admission import WHOLE
from servingplan.routing.envoy import envoy_files
from servingplan.routing.weights import WEIGHT_TOTAL, largest_remainder, spread

LARGEST_BYTES = 2**20
"""The most bytes of a ConfigMap's data, by the API server's validation (kubernetes/api core/v1, MaxSecretSize)."""

Json = dict[str, Any]


def routing_document(
    *,
    plan: PlanObject,
    spec: PlanSpec,
    fleet: Fleet,
    facts: Mapping[str, ReplicaFacts],
    ready: Mapping[str, int],
    previous: Json | None,
    measured: Collection[str] = (),
    contexts: Mapping[str, int] | None = None,
) -> Json:
    """The routing document over the ready replicas.

    ``facts`` and ``ready`` are by Deployment, of every revision that still has pods. A class's weights are proportional to
    planned rate per replica x ready replicas. If no replica planned for a class is ready, replicas of its model that could
    serve it take it, in proportion to their rates. If none meets its limits, others take it late, into their unused rate
    (``spills``; such a class has ``degraded``). If there is no replica, or the model's ``spill`` is false, the list is empty
    and the gateway answers 503. ``contexts``: the longest sequence by Deployment, tokens.

    The admitted rate of a class is the rate that the plan serves. For models whose rates were all measured (``measured``, by
    ``model/class``) it is lower while the ready replicas keep their SLO only with less (``admitted_parts``). ``services``
    names all Services that may get weight, so that a gateway knows them beforehand. ``revision`` counts changes against
    ``previous``.
    """
    models: Json = {}
    for model in spec.models:
        ordered, classes = matching_order(model), []
        services = {item.name: item for item in fleet.classes if item.model == model.name}
        measured_all = all(f"{model.name}/{name}" in measured for name in services)
        over = spread(model, services.values(), facts, ready, contexts or {}, all_admitted=not measured_all)
        for item in ordered:
            spill = over.spilled.get(item.name)
            entry = {
                "name": item.name,
                "match": item.match.model_dump(by_alias=True, exclude_none=True),
                "admitRequestsPerSecond": _admitted(services.get(item.name), over.parts.get(item.name, 1.0)),
                "targets": _targets(over.shares[item.name]),
            }
            if spill is not None:
                most = services[item.name].planned_requests_per_second
                entry["admitRequestsPerSecond"] = max(1e-6, round(min(most, spill.requests_per_second), 6))
                entry["targets"] = _targets(spill.shares)
                entry["degraded"] = True
            classes.append(entry)
        models[model.name] = {"defaultClass": default_class(ordered), "classes": classes}
    planned = {item.deployment: item.replicas for item in fleet.replica_sets}
    serving = {name: count for name, count in ready.items() if count}
    document: Json = {
        "version": 1,
        "plan": plan.key,
        "planHash": fleet.hash,
        "revision": 0,
        "transitional": serving != planned,
        "bytesPerToken": float(spec.gateway.bytes_per_token),
        "clientHeaders": spec.gateway.client_headers,
        "services": [{"service": name, "port": PORT} for name in sorted({*facts, *planned})],
        "models": models,
    }
    if previous is None:
        document["revision"] = 1
    else:
        before = previous.get("revision")
        number = before if isinstance(before, int) else 0
        document["revision"] = number if {**previous, "revision": 0} == document else number + 1
    return document


def routing_config_map(plan: PlanObject, spec: PlanSpec, document: Json) -> Json:
    """The ConfigMap that a gateway mounts."""
    data = _data(document, plan.namespace)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.routing_name(plan.name, spec.gateway.config_map),
            "namespace": plan.namespace,
            "labels": {
                names.PLAN_LABEL: names.label_value(plan.name),
                "app.kubernetes.io/managed-by": "servingplan",
            },
            "ownerReferences": [owner_reference(plan)],
        },
        "data": data,
    }


def _data(document: Json, namespace: str) -> dict[str, str]:
    """The document and its renderings; only the document if a ConfigMap has no room for both."""
    text = json.dumps(document, indent=1) + "\n"
    data = {names.ROUTING_KEY: text, **_renderings(text, namespace)}
    if bytes_of(data) <= LARGEST_BYTES:
        return data
    return {names.ROUTING_KEY: json.dumps(document, separators=(",", ":")) + "\n"}


def bytes_of(data: Mapping[str, str]) -> int:
    """The size of a ConfigMap's data for its limit: names and contents, in UTF-8 bytes."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in data.items())


@lru_cache(maxsize=16)
def _renderings(text: str, namespace: str) -> dict[str, str]:
    """The renderings of the document's text. They are cached, since every turn renders it twice and it seldom changes."""
    return envoy_files(json.loads(text), namespace=namespace)


def schema() -> Json:
    """The JSON Schema of the routing document."""
    text = resources.files("servingplan.routing").joinpath("routing.schema.json").read_text()
    loaded: Json = json.loads(text)
    return loaded


def _targets(shares: Mapping[str, float]) -> list[Json]:
    weights = largest_remainder(shares, WEIGHT_TOTAL)
    chosen = [name for name in sorted(weights, key=lambda name: (-weights[name], name)) if weights[name]]
    return [{"service": name, "port": PORT, "weight": weights[name]} for name in chosen]


def _admitted(service: ClassService | None, part: float) -> float | None:
    """The admitted requests/s, rounded so that no positive rate becomes 0; None: all requests are admitted."""
    if service is None:
        return None
    rate = service.planned_requests_per_second
    whole = part >= WHOLE and rate >= service.requests_per_second * (1 - 1e-6)
    return None if whole else max(round(rate * part, 6), 1e-6 if rate > 0 else 0.0)
