"""How the operator reaches the API server from its pod: by address, like the Kubernetes client, without any DNS."""

import kopf
import pytest

from servingplan.handlers import plan


@pytest.mark.parametrize(
    ("variables", "server"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}, "https://10.96.0.1:443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://[fd00::1]:6443"),
        ({}, "https://kubernetes.default.svc"),
    ],
)
def test_the_api_server_is_reached_by_its_address(monkeypatch, variables, server):
    account = kopf.ConnectionInfo(server="https://kubernetes.default.svc", token="secret", ca_path="/ca.crt")
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: account)
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = plan.connection()
    assert (found.server, found.token, found.ca_path) == (server, "secret", "/ca.crt")


def test_outside_of_a_pod_the_kubeconfig_counts(monkeypatch):
    own = kopf.ConnectionInfo(server="https://example.com:6443")
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: None)
    monkeypatch.setattr(kopf, "login_with_kubeconfig", lambda **_: own)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert plan.connection() == own
