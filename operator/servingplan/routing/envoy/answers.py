"""The gateway's own answers, in the form of an OpenAI error."""

from __future__ import annotations

import json

from servingplan.routing.envoy.terms import Json

_JSON = {"header": {"key": "content-type", "value": "application/json"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
AGAIN: Json = {"header": {"key": "retry-after", "value": "1"}}
"""The header that asks the client to retry."""


def answer(status: int, body: Json, *headers: Json) -> Json:
    """The action of a route that answers without a replica."""
    response = {"status": status, "body": {"inline_string": json.dumps(body)}}
    return {"direct_response": response, "response_headers_to_add": [_JSON, *headers]}


def error(message: str, kind: str, *, code: str | None = None, param: str | None = None) -> Json:
    """The body of an error in the form of OpenAI's API."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


NOT_JSON = answer(
    400, error("The body is not JSON, or not JSON that the gateway can read (numbers, depth).", "invalid_request_error")
)
MODEL_MISSING = answer(400, error("You must provide a model.", "invalid_request_error", param="model"))
MODEL_UNKNOWN = answer(
    404, error("The model does not exist.", "invalid_request_error", code="model_not_found", param="model")
)
TOO_MANY_BODY = error(
    "More requests of this class than the plan has room for; try again.", "requests", code="rate_limit_exceeded"
)
TOO_MANY = answer(429, TOO_MANY_BODY, AGAIN)


def nothing_ready(model: str, class_name: str) -> Json:
    """The body of the 503 for a class without a target."""
    message = f"No replica of {model} is ready for class {class_name}; try again."
    return answer(503, error(message, "server_error", code="unavailable"), AGAIN)


def local_replies(body_limit_bytes: int) -> Json:
    """The bodies of Envoy's own refusals: above the rate, above the size, no reachable replica."""
    too_large = error(
        f"The body is longer than {body_limit_bytes} bytes. Name the model in the header x-servingplan-model to send it.",
        "invalid_request_error",
        code="request_too_large",
    )
    unreachable = error("No replica could be reached; try again.", "server_error", code="unavailable")
    failed = {"response_flag_filter": {"flags": ["UH", "UF", "UC", "UR", "UO", "LR", "NC", "URX"]}}
    return {
        "mappers": [
            {"filter": _status(429), "body_format_override": {"json_format": TOO_MANY_BODY}},
            {"filter": _status(413), "body_format_override": {"json_format": too_large}},
            {"filter": failed, "body_format_override": {"json_format": unreachable}, "headers_to_add": [AGAIN]},
        ]
    }


def _status(code: int) -> Json:
    value = {"default_value": code, "runtime_key": f"servingplan.status_{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
