"""EFFECT. Asks the admin endpoint of this pod's Envoy what it has read of its files."""

from __future__ import annotations

import http.client
import json
from collections.abc import Collection
from contextlib import closing

from servingplan.routing.envoy.routes import STICKY

DEADLINE_SECONDS = 1.0
_STATS = "/stats?format=json&filter=%5C.membership_healthy$"


def services_with_replicas(admin_port: int, services: Collection[str]) -> set[str] | None:
    """The Services of which Envoy knows a replica, in both of their clusters; None if no Envoy listens.

    The set is empty if Envoy does not answer in time: while it stands still it takes no request either.
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
