"""What the API server makes of an object by each way of writing: apply, merge patch, JSON patch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from servingplan.errors import Invalid

Json = dict[str, Any]


def applied(live: Json, last: Json, wanted: Json) -> Json:
    """The object after a server-side apply of ``wanted``, where the manager applied ``last`` before: fields that it left
    out are gone, those of others stay. Lists count as one value."""
    found = {key: value for key, value in live.items() if key in wanted or key not in last}
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(live.get(key), dict):
            before = last.get(key)
            value = applied(live[key], before if isinstance(before, dict) else {}, value)
        found[key] = value
    return found


def merged(live: Json, patch: Json) -> Json:
    """The object after a JSON merge patch (RFC 7386)."""
    found = dict(live)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            before = found.get(key)
            found[key] = merged(before if isinstance(before, dict) else {}, value)
        else:
            found[key] = value
    return found


def patched(live: Json, operations: Sequence[Json]) -> Json:
    """The object after a JSON patch (RFC 6902) with ``test``, ``add`` and ``remove``. Raises ``Invalid`` where a test
    fails or a path leads nowhere: then nothing is changed."""
    found = copy.deepcopy(live)
    for operation in operations:
        *path, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].removeprefix("/").split("/")
        ]
        place: Any = found
        try:
            for part in path:
                place = place[int(part) if isinstance(place, list) else part]
            key: Any = int(last) if isinstance(place, list) else last
            match operation["op"]:
                case "test" if place[key] != operation["value"]:
                    raise Invalid(422, "Invalid", f"test of {operation['path']} failed: it is {place[key]}")
                case "add":
                    place[key] = operation["value"]
                case "remove":
                    del place[key]
                case _:
                    pass
        except (KeyError, IndexError) as error:
            raise Invalid(422, "Invalid", f"{operation['path']} leads nowhere") from error
    return found


def holds(item: Any, patch: Json) -> bool:
    """Whether an object is as a merge patch wanted it."""
    for key, value in patch.items():
        found = item.get(key) if isinstance(item, dict) else None
        if isinstance(value, dict):
            if not holds(found, value):
                return False
        elif found != value:
            return False
    return True
