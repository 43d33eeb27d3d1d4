"""Renders the routes: a request's class, from its headers or its body, and the weights of that class.

A class named in the header takes the request. Else the classes of the model are tried in the document's order, and the first
whose match holds takes it. If none matches, the default class does. The prompt is measured in bytes of the body.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from servingplan.model.names import arrivals_prefix
from servingplan.routing.envoy.answers import (
    AGAIN,
    MODEL_MISSING,
    MODEL_UNKNOWN,
    NOT_JSON,
    TOO_MANY,
    answer,
    nothing_ready,
)
from servingplan.routing.envoy.terms import (
    ARRIVALS_FILTER,
    BODY_FILTER,
    BODY_LIMIT_BYTES,
    BUFFER_FILTER,
    CLASS_HEADER,
    LIMIT_FILTER,
    LIMIT_TYPE,
    MALFORMED,
    METADATA,
    MODEL_HEADER,
    NO_MODEL,
    REVISION_HEADER,
    REVISION_PATH,
    ROUTES,
    SESSION_HEADER,
    TYPE,
    Json,
)

BYTES_PER_TOKEN = 4.0
"""The default, for English text and code with common tokenizers; the document's value replaces it."""
STICKY = "~sticky"
"""The suffix of the name of a Service's cluster that keeps sessions."""
_ALL = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
_LARGEST = 2**63 - 1
_UNREAD = {
    name: {"@type": f"{TYPE}envoy.config.route.v3.FilterConfig", "disabled": True}
    for name in (BUFFER_FILTER, BODY_FILTER)
}
"""The configuration of routes that need nothing of the body, which streams through at any length."""
_RETRIES = {
    # All of these come before the first byte of an answer; a request that may have begun is never sent twice.
    "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-status-codes",
    "retriable_status_codes": [503],
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": f"{TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }
    ],
    "host_selection_retry_max_attempts": 5,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
}


def route_configuration(document: Json) -> Json:
    """The route configuration: revision and models, the routes of every model, then the errors of other requests."""
    models = sorted(document["models"].items())
    bytes_per_token = float(document.get("bytesPerToken", BYTES_PER_TOKEN))
    routes = [_revision(document), _list_of_models([name for name, _ in models])]
    for name, model in models:
        routes += _of_model(document["plan"], name, model, bytes_per_token)
    routes += [
        {"match": _match(_present(MODEL_HEADER)), **MODEL_UNKNOWN},
        {"match": _match(_learnt("problem", MALFORMED)), **NOT_JSON},
        {"match": _match(_learnt("problem", NO_MODEL)), **MODEL_MISSING},
        {"match": {"prefix": "/"}, **MODEL_UNKNOWN},
    ]
    host: Json = {"name": ROUTES, "domains": ["*"], "routes": routes}
    admitted = {
        _full_name(name, entry): entry["admitRequestsPerSecond"]
        for name, model in models
        for entry in model["classes"]
        if entry["admitRequestsPerSecond"]
    }
    if admitted:
        host["typed_per_filter_config"] = {LIMIT_FILTER: _admission(admitted)}
    return {
        "@type": f"{TYPE}envoy.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "max_direct_response_body_size_bytes": 65536,
        "virtual_hosts": [host],
    }


def _revision(document: Json) -> Json:
    """The route that answers with the plan and revision of these routes."""
    revision = {"header": {"key": REVISION_HEADER, "value": str(document["revision"])}}
    body = {"plan": document["plan"], "revision": document["revision"]}
    return {"match": {"path": REVISION_PATH}, **answer(200, body, revision)}


def _list_of_models(models: list[str]) -> Json:
    listed = [{"id": name, "object": "model", "created": 0, "owned_by": "servingplan"} for name in models]
    headers = [{"name": ":method", "string_match": {"exact": "GET"}}, _absent(MODEL_HEADER)]
    return {
        "match": {"path": "/v1/models", "headers": headers},
        **answer(200, {"object": "list", "data": listed}),
    }


def _of_model(plan: str, model: str, item: Json, bytes_per_token: float) -> Iterator[Json]:
    by_header = _header(MODEL_HEADER, model)
    learnt = _learnt("model", model)
    actions = {entry["name"]: _actions(plan, model, entry) for entry in item["classes"]}
    for name in sorted(actions):
        named = _header(CLASS_HEADER, name)
        yield from _routes(actions[name], by_header, named, unread=True)
        yield from _routes(actions[name], learnt, named)
    # The body is too long to be read, so the bound on the answer stays unknown.
    for name, conditions in _cascade(item, bytes_per_token, shortest_bytes=BODY_LIMIT_BYTES + 1):
        yield from _routes(actions[name], by_header, *conditions, unread=True)
    for name, conditions in _cascade(item, bytes_per_token):
        yield from _routes(actions[name], learnt, *conditions)


def _cascade(item: Json, bytes_per_token: float, shortest_bytes: int = 0) -> Iterator[tuple[str, tuple[Json, ...]]]:
    """The classes in order with the conditions of each, up to the class that takes the rest. With ``shortest_bytes``, only for
    bodies of at least that length, of which only the length is known."""
    for entry in item["classes"]:
        match = entry["match"]
        conditions = []
        if "maxTokensAtMost" in match:
            if shortest_bytes:
                continue
            conditions.append(_at_most("max_tokens", match["maxTokensAtMost"]))
        least_bytes = max(shortest_bytes, math.ceil(match.get("inputTokensAtLeast", 0) * bytes_per_token))
        if least_bytes:
            conditions.append(_body_of_at_least(least_bytes))
        if "header" in match:
            conditions.append(_header(CLASS_HEADER, match["header"]))
        yield entry["name"], tuple(conditions)
        if "header" not in match and least_bytes <= shortest_bytes and "maxTokensAtMost" not in match:
            return
    yield item["defaultClass"], (_body_of_at_least(shortest_bytes),) if shortest_bytes else ()


def _routes(actions: tuple[Json, Json | None], *conditions: Json, unread: bool = False) -> Iterator[Json]:
    """One route, preceded by one for requests of a session."""
    plain, sticky = actions
    for action, session in ((sticky, (_present(SESSION_HEADER),)), (plain, ())):
        if action is not None:
            filters = action["typed_per_filter_config"] | (_UNREAD if unread else {})
            yield {"match": _match(*conditions, *session), **action, "typed_per_filter_config": filters}


def _actions(plan: str, model: str, entry: Json) -> tuple[Json, Json | None]:
    """The actions for requests of the class, without and with a session. Every request is counted."""
    counted = {"typed_per_filter_config": {ARRIVALS_FILTER: _count(arrivals_prefix(plan, model, entry["name"]))}}
    if not entry["targets"]:
        return {**nothing_ready(model, entry["name"]), **counted}, None
    if entry["admitRequestsPerSecond"] == 0:
        return {**TOO_MANY, **counted}, None
    named = {"metadata": {"filter_metadata": {METADATA: {"class": _full_name(model, entry)}}}, **counted}
    return (
        {"route": _weighted(entry["targets"]), **named},
        {"route": _weighted(entry["targets"], sticky=True), **named},
    )


def _count(prefix: str) -> Json:
    return {"@type": LIMIT_TYPE, "stat_prefix": prefix, "token_bucket": _UNBOUNDED, "filter_enabled": _ALL}


def _weighted(targets: list[Json], *, sticky: bool = False) -> Json:
    """The weighted clusters in order of names, so that a new weight moves few sessions."""
    end = STICKY if sticky else ""
    chosen = sorted((target["service"], target["weight"]) for target in targets)
    weighted: Json = {"clusters": [{"name": f"{service}{end}", "weight": weight} for service, weight in chosen]}
    action: Json = {"weighted_clusters": weighted, "timeout": "0s", "retry_policy": _RETRIES}
    if sticky:
        weighted["use_hash_policy"] = True
        action["hash_policy"] = [{"header": {"header_name": SESSION_HEADER}}]
    return action


def _full_name(model: str, entry: Json) -> str:
    return f"{model}/{entry['name']}"


def _admission(admitted: dict[str, float]) -> Json:
    """The token bucket of a class, which all of its routes share."""
    return {
        "@type": LIMIT_TYPE,
        "stat_prefix": "admission",
        "token_bucket": _UNBOUNDED,
        "rate_limits": [{"actions": [{"metadata": _CLASS_OF_ROUTE}]}],
        "descriptors": [
            {"entries": [{"key": "class", "value": key}], "token_bucket": _bucket(per_second)}
            for key, per_second in sorted(admitted.items())
        ],
        "filter_enabled": _ALL,
        "filter_enforced": _ALL,
        "response_headers_to_add": [AGAIN],
    }


_CLASS_OF_ROUTE: Json = {
    "descriptor_key": "class",
    "metadata_key": {"key": METADATA, "path": [{"key": "class"}]},
    "source": "ROUTE_ENTRY",
    "skip_if_absent": True,
}
_UNBOUNDED: Json = {"max_tokens": 2**32 - 1, "tokens_per_fill": 2**32 - 1, "fill_interval": "1s"}
"""The bucket of requests without a limit, since the filter needs one."""


def _bucket(per_second: float) -> Json:
    """The bucket of a rate: the requests of one second at a time, at least one."""
    burst = max(1, math.ceil(per_second))
    return {"max_tokens": burst, "tokens_per_fill": burst, "fill_interval": f"{burst / per_second:.6f}s"}


# --- what must hold of a request ------------------------------------------------------------------------------------


def _match(*conditions: Json) -> Json:
    """The match of all given conditions."""
    match: Json = {"prefix": "/"}
    for condition in conditions:
        match.setdefault("headers" if "name" in condition else "dynamic_metadata", []).append(condition)
    return match


def _header(name: str, value: str) -> Json:
    return {"name": name, "string_match": {"exact": value}}


def _present(name: str) -> Json:
    return {"name": name, "present_match": True}


def _absent(name: str) -> Json:
    return {"name": name, "present_match": False}


def _body_of_at_least(length_bytes: int) -> Json:
    return {"name": "content-length", "range_match": {"start": length_bytes, "end": _LARGEST}}


def _learnt(key: str, value: str) -> Json:
    return _metadata(key, {"string_match": {"exact": value}})


def _at_most(key: str, value: float) -> Json:
    """The condition that a number is at most ``value``; the end of Envoy's range is exclusive."""
    return _metadata(key, {"double_match": {"range": {"start": -1e300, "end": math.nextafter(value, math.inf)}}})


def _metadata(key: str, value: Json) -> Json:
    return {"filter": METADATA, "path": [{"key": key}], "value": value}
