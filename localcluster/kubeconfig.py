"""Kubeconfig files that need nothing beside them, since certificates and tokens are inside; and clients by them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.config

from localcluster.certificates import Certificate


def write(
    path: Path,
    server: str,
    *,
    authority: bytes | None = None,
    certificate: Certificate | None = None,
    token: str | None = None,
) -> Path:
    """Write a kubeconfig for ``server`` whose user is a client certificate or a bearer token.

    ``authority`` is the PEM text the server is trusted by; leave it out for a plain ``http://`` server.
    """
    cluster: dict[str, Any] = {"server": server}
    if authority is not None:
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    user: dict[str, Any] = {}
    if certificate is not None:
        user["client-certificate-data"] = base64.b64encode(certificate.certificate.read_bytes()).decode()
        user["client-key-data"] = base64.b64encode(certificate.key.read_bytes()).decode()
    if token is not None:
        user["token"] = token
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": "local", "user": user}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
        "current-context": "local",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))  # JSON is YAML
    return path


def read_cluster(path: Path) -> tuple[str, bytes | None]:
    """Server URL and authority (PEM) of a kubeconfig that ``write`` made."""
    cluster = json.loads(path.read_text())["clusters"][0]["cluster"]
    authority = cluster.get("certificate-authority-data")
    return cluster["server"], base64.b64decode(authority) if authority else None


def client(path: Path) -> kubernetes.client.ApiClient:
    """A new client that acts as the kubeconfig's user; close it after use."""
    connection: kubernetes.client.ApiClient = kubernetes.config.new_client_from_config(str(path))
    return connection
