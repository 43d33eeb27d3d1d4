"""HTTPRoutes of the Gateway API from the routing document: one per model, one rule per class.

A gateway of this kind cannot read a request's body: model and class come in the headers ``x-servingplan-model`` and
``x-servingplan-class``, set by the client or by a filter before it. A request of a known model without a known class
takes the rule of the default class, which also matches by the model alone: a match of more headers goes first, wherever
it stands. One of an unknown model meets no rule and answers 404.

The order of the rules has no meaning, and gateways may know a rule by its number (Envoy Gateway names clusters so). So a
class keeps the number of its rule for as long as it lives; what becomes free by a class that goes waits for a new one.

What the standard cannot say (sigs.k8s.io/gateway-api, apis/v1/httproute_types.go, HTTPRouteRule.BackendRefs): a class
without a target is a rule without a backend, which answers 500 and not 503; a rate above which requests are turned
away has no field. A class that is admitted at rate 0 has no backend either: its requests would take room from others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from types import MappingProxyType
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
_FREE = "(free)"
"""Stands for a class in the rule of a number that is free; no class can have this name."""
MOST_BACKENDS = 16
"""Of one rule."""
NEGLIGIBLE_SHARE = 0.01
"""Backends beyond the sixteenth may hold this much of a class's weight before that is a problem: no more than weights are
off while replicas come and go."""

Json = dict[str, Any]


def http_routes(
    plan: PlanObject, wanted: HttpRoute, document: Json, standing: Mapping[str, Json] = MappingProxyType({})
) -> list[Json]:
    """The HTTPRoutes of a routing document, by name; ``standing`` are the plan's present ones by their names."""
    out = []
    for model, item in sorted(document["models"].items()):
        slots = _slots(item, [_class_of(rule) for rule in _standing_rules(plan, model, standing)])
        rules = _rules(model, item, slots)
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


def _standing_rules(plan: PlanObject, model: str, standing: Mapping[str, Json]) -> Iterator[Json]:
    for part in count(1):
        route = standing.get(names.http_route_name(plan.name, model, part))
        if route is None:
            return
        yield from route["spec"].get("rules") or ()


def _class_of(rule: Json) -> str | None:
    """The class that a rule is for. None: all the rest, which had a rule of its own in earlier versions."""
    headers = [header for match in rule.get("matches") or () for header in match.get("headers") or ()]
    return next((str(header["value"]) for header in headers if header["name"] == CLASS_HEADER), None)


def _slots(item: Json, standing: Iterable[str | None]) -> list[str]:
    """Which class each rule is for, by number: the standing ones as they are, then the new ones.

    A new class takes a number that is free, but not that of a class that goes now: requests may be on their way to it.
    Free numbers stay, except at the end of another HTTPRoute than the first.
    """
    slots: list[str] = []
    for name in (name or item["defaultClass"] for name in standing):
        slots.append(_FREE if name in slots else name)
    wanted = [entry["name"] for entry in item["classes"]]
    new = [name for name in wanted if name not in slots]
    for index, name in enumerate(slots):
        if name == _FREE and new:
            slots[index] = new.pop(0)
    slots += new
    while len(slots) > MOST_RULES and slots[-1] not in wanted:
        slots.pop()
    return slots


def _rules(model: str, item: Json, slots: Iterable[str]) -> list[Json]:
    """By slot. One without a class answers as the default class does: there may be requests on their way to it."""
    taken = {_FREE, *(entry["name"] for entry in item["classes"])}
    rules = {}
    for entry in item["classes"]:
        values = [entry["name"]]
        # A class may have another value than its name; lengths, which may belong to the same match, cannot be seen.
        if set(entry["match"]) == {"header"} and entry["match"]["header"] not in taken:
            values.append(entry["match"]["header"])
            taken.add(entry["match"]["header"])
        matches = [[(MODEL_HEADER, model), (CLASS_HEADER, value)] for value in values]
        if entry["name"] == item["defaultClass"]:
            matches.append([(MODEL_HEADER, model)])
            free = _rule(entry, [[(MODEL_HEADER, model), (CLASS_HEADER, _FREE)]])
        rules[entry["name"]] = _rule(entry, matches)
    return [rules.get(name, free) for name in slots]


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
