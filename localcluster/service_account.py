"""Kubeconfigs that act as a ServiceAccount, so that a process outside the cluster has exactly its rights."""

from __future__ import annotations

from pathlib import Path

from kubernetes import client

from localcluster import kubeconfig

_DEFAULT_TOKEN_SECONDS = 12 * 3600


def token(admin_kubeconfig: Path, namespace: str, name: str, *, seconds: int = _DEFAULT_TOKEN_SECONDS) -> str:
    """A bearer token of a ServiceAccount, asked of the TokenRequest API."""
    with kubeconfig.client(admin_kubeconfig) as api:
        request = client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=seconds)
        )
        status = client.CoreV1Api(api).create_namespaced_service_account_token(name, namespace, request).status
        assert status is not None
        assert status.token is not None
        return status.token


def write_kubeconfig(
    admin_kubeconfig: Path,
    namespace: str,
    name: str,
    path: Path,
    *,
    server: str | None = None,
    seconds: int = _DEFAULT_TOKEN_SECONDS,
) -> Path:
    """Write a kubeconfig that acts as a ServiceAccount; ``server`` replaces the API server's URL (by a proxy's)."""
    real_server, authority = kubeconfig.read_cluster(admin_kubeconfig)
    return kubeconfig.write(
        path,
        server or real_server,
        authority=None if server and server.startswith("http://") else authority,
        token=token(admin_kubeconfig, namespace, name, seconds=seconds),
    )
