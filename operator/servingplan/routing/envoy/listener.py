"""Renders the listener: one port, and the filters that read a request's model and limits. It is independent of weights."""

from __future__ import annotations

from servingplan.routing.envoy.answers import local_replies
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
    ROUTES,
    TYPE,
    USUAL,
    Json,
    Place,
)

_FILTERS = f"{TYPE}envoy.extensions.filters.http"
_LONGEST_SILENCE = "3600s"
"""An answer that is not streamed is silent until it is whole, and a queue before it may be long."""


def listener(*, strip_client_headers: bool = False, place: Place = USUAL) -> Json:
    """One HTTP listener whose routes come from ``envoy-rds.yaml``."""
    manager = {
        "@type": f"{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "servingplan",
        # Answers stream for minutes, so only silence ends a request, never its length.
        "stream_idle_timeout": _LONGEST_SILENCE,
        "rds": {"route_config_name": ROUTES, "config_source": place.followed("envoy-rds.yaml")},
        "local_reply_config": local_replies(BODY_LIMIT_BYTES),
        "http_filters": [_model_of_the_header(), _buffer(), _body(), _arrivals(), _admission(), _router()],
    }
    if strip_client_headers:
        manager["early_header_mutation_extensions"] = [_without_client_headers()]
    return {
        "@type": f"{TYPE}envoy.config.listener.v3.Listener",
        "name": "servingplan",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": place.port}},
        # The buffer for a slow reader. Bodies that are read whole have the buffer filter's own limit.
        "per_connection_buffer_limit_bytes": 2**20,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _model_of_the_header() -> Json:
    config = {
        "@type": f"{_FILTERS}.header_to_metadata.v3.Config",
        "request_rules": [
            {"header": MODEL_HEADER, "on_header_present": {"metadata_namespace": METADATA, "key": "model"}}
        ],
    }
    return {"name": "envoy.filters.http.header_to_metadata", "typed_config": config}


def _buffer() -> Json:
    """The filter that waits for the whole body, and states its length if the client did not."""
    config = {"@type": f"{_FILTERS}.buffer.v3.Buffer", "max_request_bytes": BODY_LIMIT_BYTES}
    return {"name": BUFFER_FILTER, "typed_config": config}


def _body() -> Json:
    """The filter that reads the model, unless a header named it, and the bound on the answer's length. The newer of the
    bound's two names comes last and wins.

    The route is chosen again only if the filter read something, which its first rule always does.
    """
    always = _learnt("body", value="read")
    rules = [
        {"selectors": [{"key": "model"}], "on_present": always, "on_missing": always, "on_error": always},
        {
            "selectors": [{"key": "model"}],
            "on_present": {**_learnt("model"), "preserve_existing_metadata_value": True},
            "on_missing": _learnt("problem", value=NO_MODEL),
            "on_error": _learnt("problem", value=MALFORMED),
        },
        {"selectors": [{"key": "max_tokens"}], "on_present": _learnt("max_tokens")},
        {"selectors": [{"key": "max_completion_tokens"}], "on_present": _learnt("max_tokens")},
    ]
    config = {
        "@type": f"{_FILTERS}.json_to_metadata.v3.JsonToMetadata",
        "request_rules": {
            "rules": rules,
            "allow_empty_content_type": True,
            "allow_content_types_regex": {"regex": ".*"},
        },
    }
    return {"name": BODY_FILTER, "typed_config": config}


def _learnt(key: str, *, value: str | None = None) -> Json:
    """A key and value for the metadata; without a value, the one that was found, with its type."""
    pair = {"metadata_namespace": METADATA, "key": key}
    return {**pair, "type": "PROTOBUF_VALUE"} if value is None else {**pair, "value": value}


def _arrivals() -> Json:
    return {"name": ARRIVALS_FILTER, "typed_config": {"@type": LIMIT_TYPE, "stat_prefix": "arrivals"}}


def _admission() -> Json:
    return {"name": LIMIT_FILTER, "typed_config": {"@type": LIMIT_TYPE, "stat_prefix": "admission"}}


def _router() -> Json:
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_FILTERS}.router.v3.Router"}}


def _without_client_headers() -> Json:
    """The filter for clients that may not choose their class: it removes their headers before anything reads them."""
    config = {
        "@type": f"{TYPE}envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        "mutations": [{"remove": MODEL_HEADER}, {"remove": CLASS_HEADER}],
    }
    return {"name": "envoy.http.early_header_mutation.header_mutation", "typed_config": config}
