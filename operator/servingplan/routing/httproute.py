"""Renders HTTPRoutes of the Gateway API from the routing document: one per model, one rule per class.

Such a gateway cannot read a request's body. Model and class are in the headers ``x-servingplan-model`` and
``x-servingplan-class``, which the client or an earlier filter sets. A request of a known model without a known class takes the
rule of the default class, which also matches the model alone: the match with the most headers wins, independent of the order.
A request of an unknown model matches no rule and is answered with 404.

The order of the rules has no meaning, and a gateway may identify a rule by its number (Envoy Gateway names clusters so). So a
class keeps the number of its rule. The number of a removed class stays free until a new class takes it.

A rule is a cluster in the gateway, and a new one is empty for a moment. So a new class first gets its rule with its backends
under a value that no request has. Meanwhile its requests use the default class's rule, like those of an unknown class. If the
new class is the default class, requests without a class keep their old target. The rule gets its real matches when the gateways
have taken the route. The present HTTPRoutes tell which rules still wait.

The standard cannot express two things (sigs.k8s.io/gateway-api, apis/v1/httproute_types.go, HTTPRouteRule.BackendRefs). A class
without a target is a rule without a backend, which answers 500 and not 503. There is no field for a rate limit. A class that is
admitted at rate 0 has no backend either, since its requests would take capacity from others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple

from servingplan.api.v1alpha1 import HttpRoute
from servingplan.model import names
from servingplan.model.world import PlanObject
from servingplan.render.deployment import owner_reference
from servingplan.routing.envoy import CLASS_HEADER, MODEL_HEADER
from servingplan.routing.weights import WEIGHT_TOTAL, largest_remainder

API_VERSION = "gateway.networking.k8s.io/v1"
KIND = "HTTPRoute"
MOST_RULES = 16
"""The most rules of one HTTPRoute. A model with more classes has further HTTPRoutes. Which rule takes a request depends only on
the number of its matching headers."""
_FREE = "(free)"
"""The class name in a rule whose number is free; no class can have this name."""
_COMING = "(coming) "
"""The prefix of the name of a class whose rule takes no request yet."""
MOST_BACKENDS = 16
"""The most backends of one rule."""
NEGLIGIBLE_SHARE = 0.01
"""Backends beyond the sixteenth may have this share of a class's weight before it is a problem. Weights are off by as much
while replicas start and end."""

Json = dict[str, Any]


def http_routes(
    plan: PlanObject,
    wanted: HttpRoute,
    document: Json,
    standing: Mapping[str, Json] = MappingProxyType({}),
    *,
    untaken: Collection[str] = (),
    now: str = "",
) -> list[Json]:
    """The HTTPRoutes of a routing document, in the order of their writes. Of a model's HTTPRoutes, the one that takes
    requests without a class is first; else no route would take them while that rule moves to another HTTPRoute.

    ``standing``: the plan's present HTTPRoutes by name. ``untaken``: those whose rules gateways may not have yet. ``now``:
    RFC 3339, recorded as the time since when new rules wait for the gateways.
    """
    out = []
    for model, item in sorted(document["models"].items()):
        rules = _rules(model, item, list(_standing_rules(plan, model, standing, untaken)))
        for part, first in enumerate(range(0, len(rules), MOST_RULES), start=1):
            mine = rules[first : first + MOST_RULES]
            since = None
            if any((_class_of(rule) or "").startswith(_COMING) for rule in mine):
                since = coming_since(standing.get(names.http_route_name(plan.name, model, part))) or now
            out.append(_route(plan, wanted, model, part, mine, since))
    return sorted(out, key=lambda route: not any(map(_takes_rest, route["spec"]["rules"])))


def _takes_rest(rule: Json) -> bool:
    """Whether a rule matches by the model alone."""
    return any(len(match.get("headers") or ()) == 1 for match in rule.get("matches") or ())


def coming_since(route: Json | None) -> str | None:
    """Since when (RFC 3339) rules of a present HTTPRoute have waited for the gateways; None if none waits."""
    since = ((route or {}).get("metadata", {}).get("annotations") or {}).get(names.COMING_SINCE_ANNOTATION)
    return None if since is None else str(since)


def cut_shares(document: Json) -> dict[str, float]:
    """The share of the weight of the backends beyond the limit, by ``model/class``, if it is above NEGLIGIBLE_SHARE."""
    shares = {
        f"{model}/{entry['name']}": sum(target["weight"] for target in entry["targets"][MOST_BACKENDS:]) / WEIGHT_TOTAL
        for model, item in sorted(document["models"].items())
        for entry in item["classes"]
    }
    return {name: share for name, share in shares.items() if share > NEGLIGIBLE_SHARE}


def not_shed(document: Json) -> list[str]:
    """The classes, as ``model/class``, of which a part must be turned away, which an HTTPRoute cannot do."""
    return [
        f"{model}/{entry['name']}"
        for model, item in sorted(document["models"].items())
        for entry in item["classes"]
        if entry["admitRequestsPerSecond"] and entry["targets"]
    ]


class _Standing(NamedTuple):
    """A rule of a present HTTPRoute."""

    name: str | None
    """The name of its class. None: it takes all other requests, as a separate rule of earlier versions did."""
    comes: bool
    """Whether it takes no request yet, and must not before the gateways have it."""
    takes_rest: bool
    """Whether it matches by the model alone."""
    idle: bool
    """Whether it is free and the gateways know it, so that no request uses it."""


def _standing_rules(
    plan: PlanObject, model: str, standing: Mapping[str, Json], untaken: Collection[str]
) -> Iterator[_Standing]:
    for part in count(1):
        name = names.http_route_name(plan.name, model, part)
        if name not in standing:
            return
        for rule in standing[name]["spec"].get("rules") or ():
            value = _class_of(rule)
            takes_rest = _takes_rest(rule)
            yield _Standing(
                name=None if value is None else value.removeprefix(_COMING),
                comes=value is not None and value.startswith(_COMING) and name in untaken,
                takes_rest=takes_rest,
                idle=value == _FREE and not takes_rest and name not in untaken,
            )


def _class_of(rule: Json) -> str | None:
    """The class header's value in the first match with one; None if there is none."""
    headers = [header for match in rule.get("matches") or () for header in match.get("headers") or ()]
    return next((str(header["value"]) for header in headers if header["name"] == CLASS_HEADER), None)


def _slots(item: Json, standing: Sequence[_Standing]) -> list[str]:
    """The class of each rule by number: the present ones unchanged, then the new ones.

    A new class takes a free number, but not that of a class that is removed now, since requests may still use it. Free
    numbers stay, except at the end of HTTPRoutes after the first, once no request uses them.
    """
    slots: list[str] = []
    for name in (rule.name or item["defaultClass"] for rule in standing):
        slots.append(_FREE if name in slots else name)
    wanted = [entry["name"] for entry in item["classes"]]
    new = [name for name in wanted if name not in slots]
    for index, rule in enumerate(standing):
        if slots[index] == _FREE and not rule.takes_rest and new:
            slots[index] = new.pop(0)
    slots += new
    while MOST_RULES < len(slots) <= len(standing) and slots[-1] == _FREE and standing[len(slots) - 1].idle:
        slots.pop()
    return slots


def _rules(model: str, item: Json, standing: Sequence[_Standing]) -> list[Json]:
    """The rules by number. A rule without a class has the default class's targets, since requests may still use it."""
    slots, default = _slots(item, standing), item["defaultClass"]
    entries = {entry["name"]: entry for entry in item["classes"]}
    here = {rule.name or default for rule in standing if not rule.comes}
    coming = entries.keys() - here if standing else set()
    rest = slots.index(default)
    if default in coming:
        rest = next((index for index, rule in enumerate(standing) if rule.takes_rest), rest)
        coming -= {slots[rest]}
    takes_rest = entries.get(slots[rest], entries[default])
    values = _values(item["classes"])
    rules = []
    for index, name in enumerate(slots):
        asked = [_COMING + name] if name in coming else values.get(name, [_FREE])
        matches = [[(MODEL_HEADER, model), (CLASS_HEADER, value)] for value in asked]
        if index == rest:
            matches.append([(MODEL_HEADER, model)])
        rules.append(_rule(entries.get(name, takes_rest), matches))
    return rules


def _values(classes: Iterable[Json]) -> dict[str, list[str]]:
    """The values of the class header by class: its name, and the value in its match. A match that also has lengths is left
    out, since an HTTPRoute cannot see lengths."""
    values = {entry["name"]: [entry["name"]] for entry in classes}
    taken = {_FREE, *values}
    for entry in classes:
        if set(entry["match"]) == {"header"} and entry["match"]["header"] not in taken:
            values[entry["name"]].append(entry["match"]["header"])
            taken.add(entry["match"]["header"])
    return values


def _rule(entry: Json, matches: list[list[tuple[str, str]]]) -> Json:
    return {
        "matches": [
            {
                "path": {"type": "PathPrefix", "value": "/"},
                "headers": [{"type": "Exact", "name": name, "value": value} for name, value in headers],
            }
            for headers in matches
        ],
        # Answers stream for minutes; a gateway's own limit may be seconds.
        "timeouts": {"request": "0s"},
        "backendRefs": _backends(entry),
    }


def _backends(entry: Json) -> list[Json]:
    """The weights over at most sixteen Services. The largest is last, since implementations that round give the last one the
    rest."""
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


def _route(
    plan: PlanObject, wanted: HttpRoute, model: str, part: int, rules: list[Json], coming_since: str | None
) -> Json:
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
            # This shows fields that we no longer set; an object that was read has defaults of the API server.
            "annotations": {
                names.SPEC_HASH_ANNOTATION: _digest(spec),
                **({} if coming_since is None else {names.COMING_SINCE_ANNOTATION: coming_since}),
            },
            "ownerReferences": [owner_reference(plan)],
        },
        "spec": spec,
    }


def _digest(spec: Json) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
