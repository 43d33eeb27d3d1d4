"""Which URLs of a plan are asked: Services of its own namespace, and what the installation lists; nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.errors import NotFound
from servingplan.kube import ENDPOINT_SLICES
from servingplan.observe.urls import NoAnswer, UrlPolicy, UrlRefused

FIELD = "spec.gateway.ackUrl"


class Services:
    """An API server with these Services in namespace ``llm``, and these addresses behind them."""

    def __init__(self, behind=(), **services):
        self.services, self.behind, self.asked = services, behind, []

    def get(self, resource, name, *, namespace):
        self.asked.append((namespace, name))
        if namespace != "llm" or name not in self.services:
            raise NotFound(404, "NotFound", name)
        return {"spec": self.services[name]}

    def list(self, resource, *, namespace, labels):
        assert (resource, namespace) == (ENDPOINT_SLICES, "llm")
        name = labels.partition("=")[2]
        assert labels == f"kubernetes.io/service-name={name}"
        yield {"endpoints": [{"addresses": [item], "conditions": {"ready": ready}} for item, ready in self.behind]}
        yield {"endpoints": None}


def target(url, *allowed, api=None, namespace="llm"):
    api = api or Services(gateway={"clusterIP": "10.96.0.7"})
    return UrlPolicy(api, allowed_hosts=frozenset(allowed)).target(url, field=FIELD, namespace=namespace)


@pytest.mark.parametrize("host", ["gateway.llm", "gateway.llm.svc", "gateway.llm.svc.cluster.local", "Gateway.LLM"])
def test_a_service_of_the_plans_own_namespace_is_asked_at_its_own_address(host):
    found = target(f"http://{host}:8080/servingplan/revision?a=b")
    assert (found.addresses, found.port, found.path) == (("10.96.0.7",), 8080, "/servingplan/revision?a=b")
    assert found.url_at_address == "http://10.96.0.7:8080/servingplan/revision?a=b"
    assert found.authority == f"{host.lower()}:8080"


def test_a_headless_service_is_asked_at_its_ready_replicas():
    behind = (("10.0.0.2", True), ("10.0.0.1", None), ("10.0.0.3", False))
    api = Services(behind, replicas={"clusterIP": "None"})
    assert target("http://replicas.llm", api=api).addresses == ("10.0.0.1", "10.0.0.2")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://169.254.169.254.llm/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://127.0.0.1:8080/healthz",
        "http://localhost/",
        "http://kubernetes.default/",
        "https://kubernetes.default.svc:443/",
        "http://gateway.other:8080/",
        "http://gateway.llm.evil.example/",
        "http://gateway.llm.svc.evil/",
        "http://gateway/",
        "http://user@gateway.llm/",
        "http://gateway.llm@evil.example/",
        "http://gateway.llm:80@evil.example/",
        "http://evil.example\\@gateway.llm/",
        "http://evil.example#@gateway.llm/",
        "http://gateway.llm\n.evil/",
        "http://gateway.llm/\n",
        "http://gateway.llm/ HTTP/1.1\r\nhost: evil",
        "http://gateway.llm:0/",
        "http://gateway.llm:99999/",
        "http://gateway.llm.:80/",
        "http://gateWay。llm/",
        "gopher://gateway.llm/",
        "file:///etc/passwd",
    ],
)
def test_whatever_else_is_refused_with_the_field_and_what_to_do(url):
    with pytest.raises(UrlRefused) as refused:
        target(url)
    text = str(refused.value)
    assert text.startswith(f"{FIELD}: ")
    assert ".llm" in text
    assert len(text) < 700


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", ""]))
def test_no_text_leads_anywhere_but_to_the_namespace(text, scheme):
    api = Services()
    with pytest.raises((UrlRefused, NoAnswer)):
        target(scheme + text, api=api)
    assert all(namespace == "llm" for namespace, _ in api.asked)


def test_a_service_that_leads_elsewhere_is_refused():
    api = Services(away={"type": "ExternalName", "externalName": "metadata.google.internal"})
    with pytest.raises(UrlRefused, match="ExternalName"):
        target("http://away.llm/", api=api)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:169.254.169.254", "224.0.0.1", "0.0.0.0", "x", None, ""],
)
def test_addresses_of_the_pod_itself_of_its_node_and_of_the_cloud_are_never_asked(address):
    with pytest.raises(NoAnswer):
        target("http://odd.llm/", api=Services(odd={"clusterIP": address}))
    behind = Services(((address, True),), odd={"clusterIP": "None"})
    with pytest.raises(NoAnswer):
        target("http://odd.llm/", api=behind)


def test_a_service_that_is_not_there_gives_no_answer():
    with pytest.raises(NoAnswer):
        target("http://nobody.llm/")


@pytest.mark.parametrize(
    ("allowed", "url", "passes"),
    [
        ("prometheus.monitoring", "http://prometheus.monitoring:9090", True),
        ("prometheus.monitoring:9090", "http://prometheus.monitoring:9090", True),
        ("prometheus.monitoring:9090", "http://prometheus.monitoring:9091", False),
        ("prometheus.monitoring", "http://x.prometheus.monitoring", False),
        ("prometheus.monitoring:80", "http://prometheus.monitoring", True),
        ("Prometheus.Example", "https://prometheus.example/select", True),
        ("[::1]:80", "http://[::1]/", True),
        ("::1", "http://[::1]:9090/", True),
        ("*", "http://anything.example", False),
    ],
)
def test_what_the_installation_lists_is_asked_by_name(allowed, url, passes):
    if not passes:
        with pytest.raises(UrlRefused, match="allowedHosts"):
            target(url, allowed)
        return
    found = target(url, allowed)
    assert found.addresses is None
    assert found.url_at_address == found.url


def test_without_a_list_of_an_installation_everything_may_be_asked():
    found = UrlPolicy(Services(), allowed_hosts=None).target("http://127.0.0.1:1/x", field=FIELD, namespace="llm")
    assert (found.host, found.port, found.addresses) == ("127.0.0.1", 1, None)
