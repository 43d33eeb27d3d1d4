"""``servingplan doctor`` as a command: its exit codes, and what it reads of objects."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from typer.testing import CliRunner

from localcluster.ports import free_port
from servingplan.cli import app, main
from servingplan.doctor.read import read
from servingplan.errors import ApiError, Forbidden, NotFound
from servingplan.kube import DEPLOYMENTS, ENDPOINT_SLICES, PLANS, PODS, Kube, Resource
from servingplan.lease import LEASES

OPERATOR = {
    "metadata": {
        "namespace": "system",
        "name": "planner",
        "labels": {"helm.sh/chart": "servingplan-0.1.0", "app.kubernetes.io/instance": "plans"},
    },
    "spec": {
        "replicas": 2,
        "template": {
            "spec": {
                "serviceAccountName": "planner",
                "containers": [
                    {
                        "env": [
                            {"name": "SERVINGPLAN_POOL_KINDS", "value": "MachineSet.cluster.x-k8s.io"},
                            {"name": "SERVINGPLAN_NAMESPACES", "value": "llm"},
                            {"name": "SERVINGPLAN_PROMETHEUS_URL", "value": "http://prom.monitoring.svc:9090"},
                            {"name": "SERVINGPLAN_LEASE_NAMESPACE", "value": ""},
                        ]
                    }
                ],
            }
        },
    },
    "status": {"readyReplicas": 1},
}
FOREIGN = {"metadata": {"namespace": "other", "name": "else"}, "spec": {"template": {"spec": {"containers": [{}]}}}}
PLAN = {"metadata": {"namespace": "llm", "name": "chat"}, "spec": {"gateway": {"configMap": "weights"}}}
GATEWAY = {
    "metadata": {"name": "gateway-0"},
    "spec": {
        "initContainers": [{"args": ["gateway-sync", "--config-map", "weights"]}],
        "containers": [{"env": [{"name": "SERVINGPLAN_CONFIG_MAP", "value": "by-variable"}]}],
        "volumes": [
            {"configMap": {"name": "mounted"}},
            {"projected": {"sources": [{"configMap": {"name": "projected"}}]}},
            {"emptyDir": {}},
        ],
    },
}
SLICE = {"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": False}}]}


class Cluster:
    """Answers as an API server with these objects would, and keeps the access reviews that it was asked."""

    def __init__(self, objects=None):
        self.objects = {
            DEPLOYMENTS: [OPERATOR, FOREIGN],
            PLANS: [PLAN],
            PODS: [GATEWAY],
            ENDPOINT_SLICES: [SLICE],
            **(objects or {}),
        }
        self.reviews = []

    def groups(self):
        return {"servingplan.dev": ("v1alpha1",), "cluster.x-k8s.io": ("v1beta2", "v1beta1"), "apps": ("v1",)}

    def discover(self, api_version, kind):
        if (api_version, kind) != ("cluster.x-k8s.io/v1beta2", "MachineSet"):
            raise NotFound(404, "NotFound", kind)
        return Resource(api_version, "machinesets", kind, True, True)

    def list(self, resource, *, namespace=None, labels=None, fields=None):
        found = self.objects.get(resource, ())
        if isinstance(found, Exception):
            raise found
        yield from found

    def get(self, resource, name, *, namespace=None, subresource=None):
        if resource.plural == "customresourcedefinitions":
            raise NotFound(404, "NotFound", name)
        return {"metadata": {"name": name}}

    def create(self, resource, manifest, *, namespace=None):
        self.reviews.append(manifest)
        attributes = manifest["spec"]["resourceAttributes"]
        return {"status": {"allowed": attributes["resource"] != "machinesets"}}


def test_the_settings_of_the_operator_decide_what_is_asked():
    cluster = Cluster()
    facts = read(cluster, namespace="llm", account=None, prometheus_url="")
    (operator,) = facts.operators
    assert (operator.release, operator.user, operator.ready) == ("plans", "system:serviceaccount:system:planner", 1)
    assert {str(right) for right in facts.refused} == {f"{verb} machinesets.cluster.x-k8s.io" for verb in (
        "get", "list", "watch", "patch"
    )}  # fmt: skip
    assert not any(item["spec"]["resourceAttributes"]["resource"] == "leases" for item in cluster.reviews)
    assert {item["kind"] for item in cluster.reviews} == {"SelfSubjectAccessReview"}
    assert (facts.prometheus.service, facts.prometheus.ready) == ("monitoring/prom", 1)
    assert facts.definition is None


def test_a_service_account_is_asked_about_with_its_groups():
    cluster = Cluster()
    read(cluster, namespace="llm", account="system:serviceaccount:system:planner", prometheus_url="")
    review = cluster.reviews[0]
    assert review["kind"] == "SubjectAccessReview"
    assert review["spec"]["groups"] == [
        "system:authenticated",
        "system:serviceaccounts",
        "system:serviceaccounts:system",
    ]


def test_pods_that_read_a_config_map_are_found_however_they_name_it():
    facts = read(Cluster(), namespace="llm", account=None, prometheus_url="")
    assert set(facts.routing_readers) == {"weights", "by-variable", "mounted", "projected"}
    assert [(plan.routing, plan.has_routes) for plan in facts.plans] == [("weights", False)]


def test_a_refused_source_is_kept_as_unread():
    cluster = Cluster()
    cluster.objects[PLANS] = Forbidden(403, "Forbidden", "may not list plans")
    assert read(cluster, namespace="llm", account=None, prometheus_url="").plans.why == "may not list plans"


def test_a_prometheus_outside_is_not_looked_for():
    facts = read(Cluster(), namespace="llm", account=None, prometheus_url="https://prometheus.example.com")
    assert facts.prometheus.service is None


@pytest.mark.parametrize(
    ("name", "seconds_ago", "acts"),
    [
        ("servingplan-in-llm", 3, True),
        ("servingplan-all", 3, True),
        ("servingplan-in-other", 3, False),
        ("servingplan-in-llm", 3600, False),
        ("servingplan-in-llm", None, False),  # released
    ],
)
def test_the_lease_says_who_acts(name, seconds_ago, acts):
    renewed = None if seconds_ago is None else (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()
    lease = {"metadata": {"name": name}, "spec": {"holderIdentity": "somebody", "renewTime": renewed}}
    facts = read(Cluster({DEPLOYMENTS: [], LEASES: [lease]}), namespace="llm", account=None, prometheus_url="")
    assert (facts.leader is not None) is acts
    if acts:
        assert (facts.leader.lease, facts.leader.holder) == (f"kube-system/{name}", "somebody")


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_findings_are_told_as_text_and_as_json_with_the_exit_code_of_a_problem(monkeypatch):
    monkeypatch.setattr(Kube, "connect", lambda **how: Cluster())
    told = run("-n", "llm")
    assert told.exit_code == 3
    assert "crd" in told.stdout
    answer = json.loads(run("-n", "llm", "-o", "json").stdout)
    assert (answer["version"], answer["namespace"], answer["severity"]) == (1, "llm", "problem")
    assert all(set(item) == {"check", "severity", "message", "fix"} for item in answer["findings"])
    assert all(item["message"] in told.stdout for item in answer["findings"])


def test_a_caller_whom_the_api_server_tells_nothing_gets_one_line(monkeypatch):
    def refuse():
        raise Forbidden(403, "Forbidden", "may not get /apis")

    cluster = Cluster()
    cluster.groups = refuse
    monkeypatch.setattr(Kube, "connect", lambda **how: cluster)
    told = run()
    assert told.exit_code == 2
    assert "does not say what it serves: may not get /apis" in told.stderr


def test_a_kind_that_cannot_be_asked_for_is_kept_as_unread():
    cluster = Cluster()

    def fail(api_version, kind):
        raise ApiError(503, "ServiceUnavailable", "no endpoints")

    cluster.discover = fail
    facts = read(cluster, namespace="llm", account=None, prometheus_url="")
    assert facts.unread_pools["MachineSet.cluster.x-k8s.io"] == "no endpoints"
    assert not facts.pools


def test_an_unknown_form_is_wrong_usage():
    assert run("-o", "yaml").exit_code == 2


@pytest.mark.parametrize("there", [False, True])
def test_a_cluster_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch, capsys, there):
    path = tmp_path / "config"
    if there:
        server = f"http://127.0.0.1:{free_port()}"
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "gone",
                    "clusters": [{"name": "gone", "cluster": {"server": server}}],
                    "contexts": [{"name": "gone", "context": {"cluster": "gone", "user": "me"}}],
                    "users": [{"name": "me", "user": {}}],
                }
            )
        )
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("sys.argv", ["servingplan", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1, said
    assert ("does not answer" if there else "is not a usable kubeconfig (there is no such file)") in said
