"""PURE. Renders NGINX's configuration from the routing document: one file for the ``http`` block.

Stock NGINX reads no bodies. The model is in the header ``x-servingplan-model``. The class is in ``x-servingplan-class``, or
``Content-Length`` selects it among the classes that match only by prompt length. Each change needs a reload.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from servingplan.routing.checked import checked
from servingplan.routing.envoy import answers
from servingplan.routing.envoy.routes import BYTES_PER_TOKEN

Json = dict[str, Any]
FILE = "nginx-split.conf"
PORT = 8080


def nginx_file(document: Json, *, namespace: str) -> str:
    """The text of the file. Weights are hundredths of a per cent, so the percentages are exact. Raises ``InputError`` if a part
    of the document must not be rendered."""
    checked(document, namespace=namespace)
    named = [
        (f"m{number}c{place}", model, entry)
        for number, (model, item) in enumerate(sorted(document["models"].items()))
        for place, entry in enumerate(item["classes"])
    ]
    lines = [
        f"# Plan {document['plan']}, revision {document['revision']}. Made by servingplan from routing.json.",
        "",
        "map $http_x_session_id $servingplan_key { '' $request_id; default $http_x_session_id; }",
        "",
        'map "$http_x_servingplan_model|$http_x_servingplan_class|$content_length" $servingplan_class {',
        *(f"    {pattern} {name};" for pattern, name in _patterns(document, named)),
        "    ~^[^|]  unknown;",
        "    default missing;",
        "}",
        "",
    ]
    for name, _, entry in named:
        lines += _class(name, entry)
    lines += [
        "map $servingplan_class $servingplan_upstream {",
        *(f"    {name} {_goal(name, entry)};" for name, _, entry in named),
        "    default $servingplan_class;",
        "}",
        "",
    ]
    for service, port in sorted((item["service"], item["port"]) for item in document["services"]):
        lines.append(
            f"upstream {service} {{ least_conn; server {service}.{namespace}.svc.cluster.local:{port}; keepalive 64; }}"
        )
    return "\n".join([*lines, "", *_server(document, named), ""])


def number_at_least(least: int) -> str:
    """A regular expression for the decimal numbers from ``least`` on, since NGINX cannot compare numbers."""
    digits = str(least)
    parts = [f"[0-9]{{{len(digits) + 1},}}", digits]
    parts += [
        f"{digits[:place]}[{int(digit) + 1}-9][0-9]{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if digit != "9"
    ]
    return f"(?:{'|'.join(parts)})"


def _patterns(document: Json, named: list[tuple[str, str, Json]]) -> list[tuple[str, str]]:
    """The patterns of classes: first by name, then in order by header value and length."""
    bytes_per_token = float(document.get("bytesPerToken", BYTES_PER_TOKEN))
    found = [(_quoted(f"{_literal(model)}\\|{_literal(entry['name'])}\\|"), name) for name, model, entry in named]
    taken: set[str] = set()
    for name, model, entry in named:
        match = entry["match"]
        if "maxTokensAtMost" in match or model in taken:
            continue
        header = _literal(match["header"]) if "header" in match else "[^|]*"
        least = math.ceil(match.get("inputTokensAtLeast", 0) * bytes_per_token)
        length = f"{number_at_least(least)}$" if least else ""
        found.append((_quoted(f"{_literal(model)}\\|{header}\\|{length}"), name))
        if not least and "header" not in match:
            taken.add(model)
    for name, model, entry in named:
        if model not in taken and document["models"][model]["defaultClass"] == entry["name"]:
            found.append((_quoted(f"{_literal(model)}\\|"), name))
    return found


def _literal(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_/-]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _quoted(pattern: str) -> str:
    escaped = pattern.replace("\\", "\\\\")
    return f'"~^{escaped}"'


def _class(name: str, entry: Json) -> list[str]:
    lines = []
    if entry["targets"]:
        *others, (last, _) = [(target["service"], target["weight"]) for target in reversed(entry["targets"])]
        shares = [f"{weight / 100:.2f}% {service};" for service, weight in others]
        lines.append(f"split_clients $servingplan_key ${name} {{ {' '.join([*shares, f'* {last};'])} }}")
    if admitted := entry["admitRequestsPerSecond"]:
        per_minute = max(1, math.floor(60 * admitted))
        lines.append(f"map $servingplan_class $limit_{name} {{ {name} all; default ''; }}")
        lines.append(f"limit_req_zone $limit_{name} zone={name}:32k rate={per_minute}r/m;")
    return lines


def _goal(name: str, entry: Json) -> str:
    if not entry["targets"]:
        return "unavailable"
    return "refused" if entry["admitRequestsPerSecond"] == 0 else f"${name}"


def _server(document: Json, named: list[tuple[str, str, Json]]) -> list[str]:
    revision = json.dumps({"plan": document["plan"], "revision": document["revision"]})
    lines = [
        "server {",
        f"    listen {PORT};",
        "    client_max_body_size 32m;",
        "    default_type application/json;",
        "    limit_req_status 429;",
        "    error_page 429 = @refused;",
        "    error_page 502 504 = @unreachable;",
        "    location = /servingplan/revision {",
        f"        add_header x-servingplan-revision {document['revision']} always;",
        f"        return 200 '{revision}';",
        "    }",
        f"    location @refused {{ add_header retry-after 1 always; {_return(answers.TOO_MANY)} }}",
        f"    location @unreachable {{ add_header retry-after 1 always; {_return(_UNAVAILABLE)} }}",
        "    location / {",
        "        add_header retry-after $servingplan_again always;",
        f"        if ($servingplan_upstream = missing) {{ {_return(_MISSING)} }}",
        f"        if ($servingplan_upstream = unknown) {{ {_return(answers.MODEL_UNKNOWN)} }}",
        f"        if ($servingplan_upstream = unavailable) {{ {_return(_UNAVAILABLE)} }}",
        f"        if ($servingplan_upstream = refused) {{ {_return(answers.TOO_MANY)} }}",
    ]
    for name, _, entry in named:
        if entry["admitRequestsPerSecond"]:
            burst = max(1, math.ceil(entry["admitRequestsPerSecond"]))
            lines.append(f"        limit_req zone={name} burst={burst} nodelay;")
    return [
        "map $servingplan_upstream $servingplan_again { unavailable 1; refused 1; default ''; }",
        "",
        *lines,
        "        proxy_pass http://$servingplan_upstream;",
        "        proxy_http_version 1.1;",
        "        proxy_set_header connection '';",
        "        proxy_set_header host $host;",
        "        proxy_buffering off; # answers stream",
        "        proxy_read_timeout 3600s;",
        "        proxy_send_timeout 3600s;",
        "    }",
        "}",
    ]


_UNAVAILABLE = answers.answer(
    503, answers.error("No replica is ready for this class; try again.", "server_error", code="unavailable")
)
_MISSING = answers.answer(
    400,
    answers.error(
        "You must provide a model, in the header x-servingplan-model.", "invalid_request_error", param="model"
    ),
)


def _return(answer: Json) -> str:
    response = answer["direct_response"]
    return f"return {response['status']} '{response['body']['inline_string']}';"
