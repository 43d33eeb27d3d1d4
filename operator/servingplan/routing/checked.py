"""PURE. Checks a routing document before it is rendered for a gateway: no part of it may end a line or a word.

The schema of plans ensures this. But a document also comes from a file or from a ConfigMap, which others may write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from servingplan.errors import InputError

Json = dict[str, Any]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that a configuration may read as the end of a line, and those without an encoding."""
_SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PLAN = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def checked(document: Json, *, namespace: str) -> Json:
    """The unchanged document. Raises ``InputError`` with the place if a part of it must not be rendered."""
    for place, text in _strings(document):
        if found := _CONTROL.search(text):
            raise InputError(place, text, f"has the control character U+{ord(found[0]):04X}; remove it")
    try:
        for place, value, is_right, what in _parts(document, namespace):
            if not is_right:
                raise InputError(place, value, f"must be {what}")
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            "routing.json", error, "is not a routing document; give the key routing.json of the ConfigMap"
        ) from error
    return document


def _parts(document: Json, namespace: str) -> Iterator[tuple[str, Any, bool, str]]:
    """The parts that are rendered without quotes: place, value, whether it is right, and what it must be."""
    yield "namespace", namespace, _is(namespace, _NAMESPACE), "the name of a namespace"
    yield "plan", document["plan"], _is(document["plan"], _PLAN), "NAMESPACE/NAME"
    yield "revision", document["revision"], _is_whole(document["revision"]), "a whole number"
    ratio = document.get("bytesPerToken", 1)
    yield "bytesPerToken", ratio, _is_number(ratio), "a number"
    for index, item in enumerate(document["services"]):
        yield from _of_service(item, f"services[{index}]")
    for model, served in document["models"].items():
        for entry in served["classes"]:
            place = f"models[{model}].classes[{entry['name']}]"
            admitted = entry["admitRequestsPerSecond"]
            yield (
                f"{place}.admitRequestsPerSecond",
                admitted,
                admitted is None or _is_number(admitted),
                "a number or null",
            )
            for key in ("inputTokensAtLeast", "maxTokensAtMost"):
                tokens = entry["match"].get(key, 0)
                yield f"{place}.match.{key}", tokens, _is_whole(tokens), "a whole number"
            for index, item in enumerate(entry["targets"]):
                yield from _of_service(item, f"{place}.targets[{index}]")
                yield f"{place}.targets[{index}].weight", item["weight"], _is_whole(item["weight"]), "a whole number"


def _of_service(item: Json, place: str) -> Iterator[tuple[str, Any, bool, str]]:
    yield f"{place}.service", item["service"], _is(item["service"], _SERVICE), "the name of a Service"
    yield f"{place}.port", item["port"], _is_whole(item["port"]) and 0 < item["port"] < 65536, "a port"


def _strings(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place or "routing.json", value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key, f"{place} (a key)".strip())
            yield from _strings(item, f"{place}.{key}".strip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{place}[{index}]")


def _is(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")
