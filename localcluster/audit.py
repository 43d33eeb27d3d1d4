"""What ServiceAccounts asked of the API server, out of its audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},  # the controllers of Kubernetes itself
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}
"""The audit policy: what ServiceAccounts asked for is logged, without the objects themselves, and nothing of others."""

_CREATED = 201


class Request(NamedTuple):
    """A verb that somebody used on objects of a kind."""

    user: str
    verb: str
    group: str
    resource: str
    """The resource with its subresource, as RBAC writes it: ``pods/status``."""
    namespace: str
    """Empty for objects of no namespace, and for those of all namespaces."""
    allowed: bool


class AuditLog:
    """Reads the log of one API server, from its beginning on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def requests(self) -> set[Request]:
        """All that was logged since the last call."""
        if not self._path.exists():  # the first request makes it
            return set()
        with self._path.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        self._read += len(whole)
        return {request for line in whole.splitlines() for request in _requests(json.loads(line))}


def _requests(event: dict[str, Any]) -> list[Request]:
    """The requests that an event stands for: two for an apply that makes its object. The API server asks whether ``create`` is
    allowed as well, and logs ``patch``."""
    about = event.get("objectRef")
    if about is None or "resource" not in about:
        return []  # such as what API groups there are, which everybody may ask
    resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
    verbs = [event["verb"]]
    if event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == _CREATED:
        verbs.append("create")
    allowed = event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow"
    return [
        Request(
            event["user"]["username"],
            verb,
            about.get("apiGroup", ""),
            resource,
            about.get("namespace", ""),
            allowed,
        )
        for verb in verbs
    ]
