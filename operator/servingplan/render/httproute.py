"""HTTPRoutes of the Gateway API from the routing document: one per model, one rule per class.

A gateway of this kind cannot read a request's body: model and class come in the headers ``x-servingplan-model`` and
``x-servingplan-class``, set by the client or by a filter before it. A request of a known model without a known class
takes the last rule, which is that of the default class; one of an unknown model meets no rule and answers 404.

What the standard cannot say (sigs.k8s.io/gateway-api, apis/v1/httproute_types.go, HTTPRouteRule.BackendRefs): a class
without a target is a rule without a backend, which answers 500 and not 503; a rate above which requests are turned
away has no field. A class that is admitted at rate 0 has no backend either: its requests would take room from others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from servingplan.api.v1alpha1 import HttpRoute
from servingplan.model.world import PlanObject
from servingplan.render import names
from servingplan.render.deployment import owner_reference
from servingplan.render.envoy import CLASS_HEADER, MODEL_HEADER
from servingplan.render.routing import WEIGHT_TOTAL, largest_remainder

API_VERSION = "gateway.networking.k8s.io/v1"
KIND = "HTTPRoute"
MOST_RULES = 16
"""Of one HTTPRoute. The rules of a model with more classes go on in another one; which of them takes a request depends
on the number of its matching headers alone."""
MOST_BACKENDS = 16
"""Of one rule."""
NEGLIGIBLE_SHARE = 0.01
"""Backends beyond the sixteenth may hold this much of a class's weight before that is a problem: no more than weights are
off while replicas come and go."""

Json = dict[str, Any]


def http_routes(plan: PlanObject, wanted: HttpRoute, document: Json) -> list[Json]:
    """The HTTPRoutes of a routing document, by name."""
    out = []
    for model, item in sorted(document["models"].items()):
        rules = list(_rules(model, item))
        for part, first in enumerate(range(0, len(rules), MOST_RULES), start=1):
            out.append(_route(plan, wanted, model, part, rules[first : first + MOST_RULES]))
    return out


def cut_shares(document: Json) -> dict[str, float]:
    """Share of the weight that backends beyond the limit would have had, by ``model/class``, where it is worth a word."""
    shares = {
        f"{model}/{entry['name']}": sum(target["weight"] for target in entry["targets"][MOST_BACKENDS:]) / WEIGHT_TOTAL
        for model, item in sorted(document["models"].items())
        for entry in item["classes"]
    }
    return {name: share for name, share in shares.items() if share > NEGLIGIBLE_SHARE}


def not_shed(document: Json) -> list[str]:
    """Classes, as ``model/class``, of which a part is to be turned away, which an HTTPRoute does not do."""
    return [
        f"{model}/{entry['name']}"
        for model, item in sorted(document["models"].items())
        for entry in item["classes"]
        if entry["admitRequestsPerSecond"] and entry["targets"]
    ]


def _rules(model: str, item: Json) -> Iterator[Json]:
    """Of each class but the default one, in the order of the plan; then that of the default class, for all the rest."""
    taken = {entry["name"] for entry in item["classes"]}
    default = next(entry for entry in item["classes"] if entry["name"] == item["defaultClass"])
    for entry in item["classes"]:
        values = [entry["name"]]
        # A class may have another value than its name; lengths, which may belong to the same match, cannot be seen.
        if set(entry["match"]) == {"header"} and entry["match"]["header"] not in taken:
            values.append(entry["match"]["header"])
            taken.add(entry["match"]["header"])
        if entry is not default:
            yield _rule(entry, [[(MODEL_HEADER, model), (CLASS_HEADER, value)] for value in values])
    yield _rule(default, [[(MODEL_HEADER, model)]])


def _rule(entry: Json, matches: list[list[tuple[str, str]]]) -> Json:
    return {
        "matches": [
            {
                "path": {"type": "PathPrefix", "value": "/"},
                "headers": [{"type": "Exact", "name": name, "value": value} for name, value in headers],
            }
            for headers in matches
        ],
        # Answers stream for minutes; what a gateway allows by itself may be seconds.
        "timeouts": {"request": "0s"},
        "backendRefs": _backends(entry),
    }


def _backends(entry: Json) -> list[Json]:
    """Weights over at most sixteen Services, the largest share last: implementations that round give the last one what
    is left."""
    if entry["admitRequestsPerSecond"] == 0:
        return []
    kept = entry["targets"][:MOST_BACKENDS]
    ports = {target["service"]: target["port"] for target in kept}
    weights = largest_remainder({target["service"]: target["weight"] for target in kept}, WEIGHT_TOTAL)
    return [
        {"group": "", "kind": "Service", "name": name, "port": ports[name], "weight": weights[name]}
        for name in sorted(weights, key=lambda name: (weights[name], name))
        if weights[name]
    ]


def _route(plan: PlanObject, wanted: HttpRoute, model: str, part: int, rules: list[Json]) -> Json:
    spec: Json = {
        "parentRefs": [
            {
                "group": "gateway.networking.k8s.io",
                "kind": "Gateway",
                "namespace": ref.namespace or plan.namespace,
                "name": ref.name,
                **({} if ref.section_name is None else {"sectionName": ref.section_name}),
            }
            for ref in wanted.parent_refs
        ],
        **({"hostnames": list(wanted.hostnames)} if wanted.hostnames else {}),
        "rules": rules,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": names.http_route_name(plan.name, model, part),
            "namespace": plan.namespace,
            "labels": {
                names.PLAN_LABEL: names.label_value(plan.name),
                names.MODEL_LABEL: names.label_value(model),
                "app.kubernetes.io/managed-by": "servingplan",
            },
            # Fields that we no longer give are seen by it; an object that was read has defaults of the API server.
            "annotations": {names.SPEC_HASH_ANNOTATION: _digest(spec)},
            "ownerReferences": [owner_reference(plan)],
        },
        "spec": spec,
    }


def _digest(spec: Json) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
