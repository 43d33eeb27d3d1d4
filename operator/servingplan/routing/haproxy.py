"""PURE. Renders HAProxy's configuration from the routing document: a frontend, and a backend for each class.

HAProxy reads model and ``max_tokens`` from a body that fits its buffer (``tune.bufsize``); for longer bodies clients name the
model in ``x-servingplan-model``. Weights of servers are whole numbers up to 256, so shares are exact to 1/256. Each change
needs a reload.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from servingplan.routing.checked import checked
from servingplan.routing.envoy import answers
from servingplan.routing.envoy.routes import BYTES_PER_TOKEN

Json = dict[str, Any]
FILE = "haproxy.cfg"
PORT = 8080
WEIGHT_TOTAL = 256


def haproxy_file(document: Json, *, namespace: str) -> str:
    """The text of the file. A file with ``global`` and ``resolvers``, if wanted, must precede it. Raises ``InputError`` if a
    part of the document must not be rendered."""
    checked(document, namespace=namespace)
    named = [
        (f"m{number}c{place}", model, entry)
        for number, (model, item) in enumerate(sorted(document["models"].items()))
        for place, entry in enumerate(item["classes"])
    ]
    revision = json.dumps({"plan": document["plan"], "revision": document["revision"]})
    lines = [
        f"# Plan {document['plan']}, revision {document['revision']}. Made by servingplan from routing.json.",
        "",
        "defaults servingplan",
        "    mode http",
        "    timeout connect 2s",
        "    timeout client 3600s",
        "    timeout server 3600s # answers stream: only silence ends a request",
        "    timeout http-request 60s",
        "    retries 2",
        "    retry-on conn-failure 503",
        "    option redispatch 1",
        "",
        "frontend servingplan from servingplan",
        f"    bind :{PORT}",
        "    option http-buffer-request",
        f"    http-request return status 200 content-type application/json string '{revision}' "
        f"hdr x-servingplan-revision {document['revision']} if {{ path /servingplan/revision }}",
        *_STRIP * (document.get("clientHeaders") == "Strip"),
        *_LEARN,
        *(f"    {rule}" for rule in _classes(document, named)),
        f"    {_return(answers.MODEL_MISSING)} if !{{ var(txn.model) -m found }}",
        f"    {_return(answers.MODEL_UNKNOWN)} if !{{ var(txn.class) -m found }}",
        "    use_backend %[var(txn.class)]",
    ]
    for name, model, entry in named:
        lines += ["", *_backend(name, model, entry, namespace)]
    return "\n".join([*lines, ""])


_STRIP = ("    http-request del-header x-servingplan-model", "    http-request del-header x-servingplan-class")
_LEARN = (
    "    http-request set-var(txn.model) req.hdr(x-servingplan-model) if { req.hdr(x-servingplan-model) -m found }",
    "    http-request set-var(txn.model) req.body,json_query('$.model') if !{ var(txn.model) -m found }",
    "    http-request set-var(txn.tokens) req.body,json_query('$.max_tokens','int')",
    "    http-request set-var(txn.tokens) req.body,json_query('$.max_completion_tokens','int') "
    "if { req.body,json_query('$.max_completion_tokens','int') -m found }",
)


def _classes(document: Json, named: list[tuple[str, str, Json]]) -> Iterator[str]:
    """The rules that choose the class: by name, then by the first match that holds, then the default."""
    bytes_per_token = float(document.get("bytesPerToken", BYTES_PER_TOKEN))
    for name, model, entry in named:
        yield _choose(name, model, f"{{ req.hdr(x-servingplan-class) -m str -- {_quoted(entry['name'])} }}")
    for name, model, entry in named:
        match = entry["match"]
        conditions = []
        if "header" in match:
            conditions.append(f"{{ req.hdr(x-servingplan-class) -m str -- {_quoted(match['header'])} }}")
        if least := math.ceil(match.get("inputTokensAtLeast", 0) * bytes_per_token):
            conditions.append(f"{{ req.body_size ge {least} }}")
        if "maxTokensAtMost" in match:
            conditions.append(
                f"{{ var(txn.tokens) -m found }} {{ var(txn.tokens) -m int le {match['maxTokensAtMost']} }}"
            )
        yield _choose(name, model, *conditions)
    for name, model, entry in named:
        if document["models"][model]["defaultClass"] == entry["name"]:
            yield _choose(name, model)


def _choose(name: str, model: str, *conditions: str) -> str:
    asked = ("!{ var(txn.class) -m found }", f"{{ var(txn.model) -m str -- {_quoted(model)} }}", *conditions)
    return f"http-request set-var(txn.class) str({name}) if {' '.join(asked)}"


def _backend(name: str, model: str, entry: Json, namespace: str) -> Iterator[str]:
    admitted, targets = entry["admitRequestsPerSecond"], entry["targets"]
    if targets and admitted:
        # The window holds at least ten requests; refused requests do not count.
        seconds = max(1, math.ceil(10 / admitted))
        yield f"backend admitted-{name} from servingplan"
        yield f"    stick-table type string len 8 size 1 expire {2 * seconds}s store http_req_rate({seconds}s)"
        yield ""
    yield f"backend {name} from servingplan"
    if not targets:
        yield f"    {_return(answers.nothing_ready(model, entry['name']))}"
        return
    if admitted == 0:
        yield f"    {_return(answers.TOO_MANY)}"
        return
    if admitted:
        table = f"admitted-{name}"
        most = math.floor(admitted * seconds)
        yield f"    {_return(answers.TOO_MANY)} if {{ str({name}),table_http_req_rate({table}) ge {most} }}"
        yield f"    http-request track-sc0 str({name}) table {table}"
    yield "    balance hdr(x-session-id) # in turn, by weight, where there is none"
    weights = _in_parts({target["service"]: target["weight"] for target in targets})
    for target in targets:
        service, port = target["service"], target["port"]
        if weights[service]:
            where = f"{service}.{namespace}.svc.cluster.local:{port}"
            yield f"    server {service} {where} weight {weights[service]} init-addr last,libc,none"


def _in_parts(weights: Mapping[str, int]) -> dict[str, int]:
    """The weights as parts of 256, by largest remainder; ties go by name."""
    whole = sum(weights.values())
    floors = {name: weight * WEIGHT_TOTAL // whole for name, weight in weights.items()}
    left = WEIGHT_TOTAL - sum(floors.values())
    for name in sorted(weights, key=lambda name: (-(weights[name] * WEIGHT_TOTAL % whole), name))[:left]:
        floors[name] += 1
    return floors


def _quoted(text: str) -> str:
    quoted = text.replace("'", "'\\''")
    return f"'{quoted}'"


def _return(answer: Json) -> str:
    """The answer of a route, with a body that no quote ends early."""
    response = answer["direct_response"]
    body = _quoted(response["body"]["inline_string"])
    again = " hdr retry-after 1" if answers.AGAIN in answer["response_headers_to_add"] else ""
    return f"http-request return status {response['status']} content-type application/json string {body}{again}"
