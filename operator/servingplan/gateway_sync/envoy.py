"""EFFECT. What the Envoy of this pod has taken of its files, asked at its admin endpoint."""

from __future__ import annotations

import http.client
import json
from collections.abc import Collection
from contextlib import closing

from servingplan.render.envoy.routes import STICKY

DEADLINE_SECONDS = 1.0
_STATS = "/stats?format=json&filter=%5C.membership_healthy$"


def services_with_replicas(admin_port: int, services: Collection[str]) -> set[str] | None:
    """Those of the Services of which Envoy knows a replica, in both of their clusters; None where nobody listens.

    An Envoy that does not answer in time knows none: while it stands still it takes no request either.
    """
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", admin_port, timeout=DEADLINE_SECONDS)) as connection:
            connection.request("GET", _STATS)
            found = json.loads(connection.getresponse().read())["stats"]
        members: dict[str, int] = {item["name"]: item["value"] for item in found}
    except ConnectionRefusedError:
        return None
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return set()

    def is_known(cluster: str) -> bool:
        return members.get(f"cluster.{cluster}.membership_healthy", 0) > 0

    return {name for name in services if is_known(name) and is_known(f"{name}{STICKY}")}
