"""HTTPRoutes of the Gateway API from the routing document: one per model, one rule per class.

A gateway of this kind cannot read a request's body: model and class come in the headers ``x-servingplan-model`` and
``x-servingplan-class``, set by the client or by a filter before it. A request of a known model without a known class
takes the rule of the default class, which also matches by the model alone: a match of more headers goes first, wherever
it stands. One of an unknown model meets no rule and answers 404.

The order of the rules has no meaning, and gateways may know a rule by its number (Envoy Gateway names clusters so). So a
class keeps the number of its rule for as long as it lives; what becomes free by a class that goes waits for a new one.

A rule is a cluster of a gateway's, which is empty for a moment when it is new. So a class that is added first gets its
rule with its backends under a value that no request has, while its requests go by the default class's rule, as those of an
unknown class do; what has no class stays where it is, if the new class is the default one. The rule gets its real matches
when the gateways have taken the route. Which rules are still coming is read from the HTTPRoutes that stand.

What the standard cannot say (sigs.k8s.io/gateway-api, apis/v1/httproute_types.go, HTTPRouteRule.BackendRefs): a class
without a target is a rule without a backend, which answers 500 and not 503; a rate above which requests are turned
away has no field. A class that is admitted at rate 0 has no backend either: its requests would take room from others.
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
from servingplan.render.envoy import CLASS_HEADER, MODEL_HEADER
from servingplan.render.routing import WEIGHT_TOTAL, largest_remainder

API_VERSION = "gateway.networking.k8s.io/v1"
KIND = "HTTPRoute"
MOST_RULES = 16
"""Of one HTTPRoute. The rules of a model with more classes go on in another one; which of them takes a request depends
on the number of its matching headers alone."""
_FREE = "(free)"
"""Stands for a class in the rule of a number that is free; no class can have this name."""
_COMING = "(coming) "
"""Stands before the name of a class whose rule takes no request yet."""
MOST_BACKENDS = 16
"""Of one rule."""
NEGLIGIBLE_SHARE = 0.01
"""Backends beyond the sixteenth may hold this much of a class's weight before that is a problem: no more than weights are
off while replicas come and go."""

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
    """The HTTPRoutes of a routing document, in the order in which they are to be written: of a model's that first which
    takes what has no class, or nothing would while that moves to it from another.

    ``standing`` are the plan's present ones by their names; ``untaken`` those of them whose rules gateways may not have yet.
    ``now``: RFC 3339, written down as the time from which on new rules wait for the gateways.
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
    """Since when (RFC 3339) rules of a standing HTTPRoute have waited for the gateways to take them."""
    since = ((route or {}).get("metadata", {}).get("annotations") or {}).get(names.COMING_SINCE_ANNOTATION)
    return None if since is None else str(since)


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


class _Standing(NamedTuple):
    """A rule as it stands."""

    name: str | None
    """Of the class that it is for. None: all the rest, which had a rule of its own in earlier versions."""
    comes: bool
    """It takes no request yet, and must not before the gateways have it."""
    takes_rest: bool
    """It matches by the model alone."""
    idle: bool
    """It is free, and the gateways know: no request goes by it."""


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
    """The class header's value in the first match that has one."""
    headers = [header for match in rule.get("matches") or () for header in match.get("headers") or ()]
    return next((str(header["value"]) for header in headers if header["name"] == CLASS_HEADER), None)


def _slots(item: Json, standing: Sequence[_Standing]) -> list[str]:
    """Which class each rule is for, by number: the standing ones as they are, then the new ones.

    A new class takes a number that is free, but not that of a class that goes now: requests may be on their way to it.
    Free numbers stay, except at the end of another HTTPRoute than the first, once no request goes by them.
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
    """By number. One without a class answers as that which takes what has no class: there may be requests on their way."""
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
    """Values of the class header by class: its name, and another that it may match by. Lengths, which may belong to the
    same match, cannot be seen."""
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
            # Fields that we no longer give are seen by it; an object that was read has defaults of the API server.
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
