"""The chart renders, a real API server takes what it renders, and the operator gets the rights it needs, no more."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from e2e.support.waiting import wait_for
from localcluster import binaries
from localcluster.control_plane import ControlPlane, StartError, wait_until_established
from localcluster.rights import wait_until_granted
from servingplan.model.names import PLAN_LABEL
from servingplan.observe.budgets import parse_budgets
from servingplan.render.pod_access import KINDS
from tests.simulated.plans import operator, plan

pytestmark = pytest.mark.cluster
CHART = Path(__file__).parents[2] / "charts" / "servingplan"
RELEASE = "operators"
EVERYWHERE = {
    "namespaces": ["*"],
    "poolKinds": [
        {"kind": "NodePool", "group": "karpenter.sh", "resource": "nodepools", "namespaced": False},
        {
            "kind": "MachineDeployment",
            "group": "cluster.x-k8s.io",
            "resource": "machinedeployments",
            "namespaced": True,
        },
    ],
}
CONFINED = {
    "namespaces": ["llm", "llm-two"],
    "poolKinds": [
        {"kind": "NodePool", "group": "karpenter.sh", "resource": "nodepools", "namespaced": False},
        {
            "kind": "MachineDeployment",
            "group": "cluster.x-k8s.io",
            "resource": "machinedeployments",
            "namespaced": True,
            "namespaces": ["machines"],
        },
    ],
}
FOLLOW = ("list", "watch")
READ = ("get", *FOLLOW)
CREATE_TO_DELETE = (*READ, "create", "patch", "delete")
READ_EVERYWHERE = {
    ("", "nodes"): FOLLOW,
    ("", "pods"): FOLLOW,
    ("servingplan.dev", "llmservingplans"): READ,
    ("resource.k8s.io", "resourceslices"): FOLLOW,
    ("resource.k8s.io", "resourceclaims"): FOLLOW,
    ("resource.k8s.io", "deviceclasses"): FOLLOW,
    ("kueue.x-k8s.io", "clusterqueues"): FOLLOW,
    ("kueue.x-k8s.io", "cohorts"): FOLLOW,
    ("kueue.x-k8s.io", "resourceflavors"): FOLLOW,
}
WRITTEN_WITH_PLANS = {
    ("", "pods"): ("get", "patch", "delete"),
    ("", "services"): CREATE_TO_DELETE,
    ("", "configmaps"): CREATE_TO_DELETE,
    ("", "events"): ("create",),
    ("apps", "deployments"): CREATE_TO_DELETE,
    ("discovery.k8s.io", "endpointslices"): FOLLOW,
    ("policy", "poddisruptionbudgets"): CREATE_TO_DELETE,
    ("gateway.networking.k8s.io", "httproutes"): CREATE_TO_DELETE,
    ("leaderworkerset.x-k8s.io", "leaderworkersets"): CREATE_TO_DELETE,
    ("resource.k8s.io", "resourceclaimtemplates"): CREATE_TO_DELETE,
    ("kueue.x-k8s.io", "localqueues"): FOLLOW,
    ("servingplan.dev", "llmservingplans"): ("patch",),
    ("servingplan.dev", "llmservingplans/status"): ("patch",),
}
POOLS_EVERYWHERE = {
    ("karpenter.sh", "nodepools"): (*READ, "patch"),
    ("karpenter.sh", "nodeclaims"): FOLLOW,
    ("cluster.x-k8s.io", "machinedeployments"): (*READ, "patch"),
}
POOLS_CONFINED = {
    ("karpenter.sh", "nodepools"): (*READ, "patch"),
    ("karpenter.sh", "nodeclaims"): FOLLOW,
    ("cluster.x-k8s.io", "machinedeployments"): READ,
}
NEVER = [
    ("", "secrets", "get"),
    ("", "secrets", "list"),
    ("", "nodes", "get"),
    ("", "nodes", "patch"),
    ("", "nodes", "delete"),
    ("", "nodes/status", "patch"),
    ("", "pods", "create"),
    ("", "pods/exec", "create"),
    ("", "pods/binding", "create"),
    ("", "pods/ephemeralcontainers", "patch"),
    ("", "events", "patch"),
    ("", "namespaces", "list"),
    ("", "serviceaccounts", "get"),
    ("", "serviceaccounts/token", "create"),
    ("", "persistentvolumeclaims", "create"),
    ("apps", "daemonsets", "create"),
    ("apps", "deployments", "update"),
    ("apps", "deployments", "deletecollection"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "list"),
    ("rbac.authorization.k8s.io", "clusterroles", "bind"),
    ("discovery.k8s.io", "endpointslices", "patch"),
    ("gateway.networking.k8s.io", "httproutes", "deletecollection"),
    ("gateway.networking.k8s.io", "httproutes/status", "patch"),
    ("gateway.networking.k8s.io", "gateways", "get"),
    ("leaderworkerset.x-k8s.io", "leaderworkersets/status", "patch"),
    ("leaderworkerset.x-k8s.io", "leaderworkersets/scale", "patch"),
    ("resource.k8s.io", "resourceclaims", "patch"),
    ("resource.k8s.io", "resourceclaims/status", "patch"),
    ("resource.k8s.io", "resourceslices", "patch"),
    ("servingplan.dev", "llmservingplans", "create"),
    ("servingplan.dev", "llmservingplans", "delete"),
    ("karpenter.sh", "nodepools", "create"),
    ("karpenter.sh", "nodepools", "delete"),
    ("karpenter.sh", "nodepools/scale", "patch"),
    ("cluster.x-k8s.io", "machinepools", "patch"),
]


def helm(*arguments: str, values: dict | None = None) -> subprocess.CompletedProcess[str]:
    given = ["--values=-"] if values is not None else []
    command = [str(binaries.program("helm")), *arguments, *given]
    return subprocess.run(command, input=json.dumps(values or {}), capture_output=True, text=True)


def rendered(name, values):
    """What the chart renders; for plans of ``llm`` if the values do not say otherwise."""
    given = {"namespaces": ["llm"], **values}
    done = helm("template", name, str(CHART), f"--namespace={RELEASE}", "--include-crds", values=given)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def operator_of(objects):
    return next(item for item in objects if item["kind"] == "Deployment")


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as running:
        for namespace in (RELEASE, "llm", "llm-two", "machines", "elsewhere"):
            running.kubectl("create", "namespace", namespace)
        running.kubectl("label", "namespace", RELEASE, "pod-security.kubernetes.io/enforce=restricted")
        yield running


@pytest.fixture(scope="module")
def installed(cluster):
    """Both ways to install, side by side, and what they grant in force."""
    for name, values in (("everywhere", EVERYWHERE), ("confined", {**CONFINED, "nameOverride": "planner"})):
        objects = rendered(name, values)
        cluster.apply(*objects, field_manager="helm")
        with cluster.client() as api:
            wait_until_granted(api, objects)
    return {"everywhere": "everywhere-servingplan", "confined": "confined-planner"}


GUARDED = f"system:serviceaccount:{RELEASE}:guarded-servingplan"
HTTP_ROUTES = yaml.safe_load("""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: httproutes.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: unapproved}
spec:
  group: gateway.networking.k8s.io
  names: {kind: HTTPRoute, plural: httproutes}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
""")


@pytest.fixture(scope="module")
def guarded(cluster):
    """An installation with the guard, in force; it writes as the operator's ServiceAccount and returns the API server's
    refusal, or nothing."""
    objects = rendered("guarded", {"namespaces": ["llm"], "writeGuard": {"enabled": True}})
    cluster.apply(HTTP_ROUTES, *objects, field_manager="helm")
    wait_until_established(cluster.kubectl, HTTP_ROUTES["metadata"]["name"])
    with cluster.client() as api:
        wait_until_granted(api, objects)

    def write(*arguments, stdin="", user=GUARDED):
        try:
            cluster.kubectl("-n", "llm", f"--as={user}", *arguments, stdin=stdin)
        except StartError as error:
            return str(error)
        return ""

    def refused():
        return "servingplan.dev/plan" in write("create", "configmap", "foreign", "--dry-run=server")

    wait_for("the guard is in force", refused, seconds=60)
    return write


def test_the_guard_bounds_the_operator_to_objects_of_plans(cluster, guarded):
    def applied(**labels):
        metadata = {"name": "settings", "labels": labels}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"by": str(labels)}}

    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    ours, foreign = {"servingplan.dev/plan": "chat"}, {"app": "else"}
    assert guarded(*apply, stdin=json.dumps(applied(**ours))) == ""
    assert guarded("patch", "configmap", "settings", "-p", '{"data": {"a": "b"}}') == ""
    assert "label" in guarded("label", "configmap", "settings", "servingplan.dev/plan-")
    assert guarded("delete", "configmap", "settings") == ""
    assert "servingplan.dev/plan" in guarded(*apply, stdin=json.dumps(applied(**foreign)))

    cluster.kubectl("-n", "llm", *apply, stdin=json.dumps(applied(**foreign)))
    for write in (
        ("patch", "configmap", "settings", "-p", '{"data": {"a": "b"}}'),
        ("label", "configmap", "settings", "servingplan.dev/plan=chat"),
        ("delete", "configmap", "settings"),
    ):
        assert "may write only objects" in guarded(*write), write
    assert guarded("patch", "configmap", "settings", "-p", '{"data": {"a": "b"}}', user="system:admin") != ""  # RBAC
    cluster.kubectl("-n", "llm", "patch", "configmap", "settings", "-p", '{"data": {"a": "b"}}')  # others are free


def test_the_guard_names_every_kind_that_the_operator_may_write_beside_plans():
    objects = rendered("x", {"namespaces": ["llm"], "writeGuard": {"enabled": True}})
    guard = next(item for item in objects if item["kind"] == "ValidatingAdmissionPolicy")
    rules = guard["spec"]["matchConstraints"]["resourceRules"]
    guarded = {(rule["apiGroups"][0], resource) for rule in rules for resource in rule["resources"]}
    role = next(item for item in objects if item["kind"] == "Role" and item["metadata"]["namespace"] == "llm")
    written = {
        (group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if {"patch", "delete"} & set(rule["verbs"]) and group != "servingplan.dev"
    }
    assert written <= guarded


@pytest.mark.parametrize("kind", ["deployment", "service", "pod", "poddisruptionbudget", "httproute"])
def test_the_guard_covers_every_kind_that_the_operator_writes(cluster, guarded, kind):
    pod = {"containers": [{"name": "main", "image": "x"}]}
    template = {"metadata": {"labels": {"app": "x"}}, "spec": pod}
    manifests = {
        "deployment": ("apps/v1", "Deployment", {"selector": {"matchLabels": {"app": "x"}}, "template": template}),
        "service": ("v1", "Service", {"ports": [{"port": 80}]}),
        "pod": ("v1", "Pod", pod),
        "poddisruptionbudget": ("policy/v1", "PodDisruptionBudget", {"maxUnavailable": 1}),
        "httproute": ("gateway.networking.k8s.io/v1", "HTTPRoute", {}),
    }
    version, name, spec = manifests[kind]
    labels = {"servingplan.dev/plan": "chat"}
    for told, item in (("may write only objects", {}), ("", labels)):
        manifest = {"apiVersion": version, "kind": name, "metadata": {"name": "guarded", "labels": item}, "spec": spec}
        cluster.apply({**manifest, "metadata": {**manifest["metadata"], "namespace": "llm"}})
        annotate = ("patch", kind, "guarded", "--type=merge", "-p", '{"metadata": {"annotations": {"a": "b"}}}')
        for write in (annotate, ("delete", kind, "guarded", "--wait=false")):
            answer = guarded(*write)
            assert told in answer if told else answer == "", (write, answer)
        cluster.kubectl("-n", "llm", "delete", kind, "guarded", "--ignore-not-found", "--force", "--grace-period=0")


@pytest.fixture(scope="module")
def may(cluster, installed):
    """Asks the API server what an installation's ServiceAccount may do."""
    with cluster.client() as api:
        reviews = client.AuthorizationV1Api(api)

        def ask(installation, group, resource, verb, namespace):
            plain, _, subresource = resource.partition("/")
            review = client.V1SubjectAccessReview(
                spec=client.V1SubjectAccessReviewSpec(
                    user=f"system:serviceaccount:{RELEASE}:{installed[installation]}",
                    groups=["system:serviceaccounts", f"system:serviceaccounts:{RELEASE}", "system:authenticated"],
                    resource_attributes=client.V1ResourceAttributes(
                        group=group, resource=plain, subresource=subresource, verb=verb, namespace=namespace
                    ),
                )
            )
            return reviews.create_subject_access_review(review).status.allowed

        yield ask


def each(table):
    return [(group, resource, verb) for (group, resource), verbs in table.items() for verb in verbs]


def refused(may, installation, rights, namespace):
    return [right for right in rights if not may(installation, *right, namespace)]


def granted(may, installation, rights, namespace):
    return [right for right in rights if may(installation, *right, namespace)]


def test_helm_finds_nothing_to_complain_about():
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rendered_object_is_accepted_by_the_api_server(cluster, installed):
    for name in installed.values():
        cluster.kubectl("-n", RELEASE, "get", f"deployment/{name}", f"serviceaccount/{name}")
    cluster.kubectl("get", "crd", "llmservingplans.servingplan.dev")


@pytest.mark.parametrize("component", ["operator", "uninstall-guard"])
def test_its_pods_run_under_the_restricted_pod_security_standard(cluster, installed, component):
    for release in installed:
        selector = f"app.kubernetes.io/instance={release},app.kubernetes.io/component={component}"
        wait_for(
            f"a pod of {release}",
            lambda selector=selector: cluster.kubectl("-n", RELEASE, "get", "pods", "-l", selector, "-o", "name"),
            seconds=20,
            shown=lambda: cluster.kubectl("-n", RELEASE, "get", "events"),
        )


def test_one_operator_acts_and_others_may_stand_by():
    assert operator_of(rendered("x", {"replicas": 2}))["spec"]["replicas"] == 2
    objects = rendered("x", {"leaseNamespace": "leases"})
    deployment = operator_of(objects)
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"
    role = next(item for item in objects if item["kind"] == "Role" and item["metadata"]["name"].endswith("-leases"))
    assert role["metadata"]["namespace"] == "leases"
    assert role["rules"][0]["verbs"] == ["get", "list", "create", "patch"]


def test_the_operator_is_probed_and_confined():
    deployment = operator_of(rendered("x", {}))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["run"]
    assert container["image"] == "servingplan:0.1.0"
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert container["ports"] == [
        {"name": "health", "containerPort": 8080, "protocol": "TCP"},
        {"name": "metrics", "containerPort": 8081, "protocol": "TCP"},
    ]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_image_is_named_by_tag_or_by_digest():
    def image(**values):
        (container,) = operator_of(rendered("x", {"image": values}))["spec"]["template"]["spec"]["containers"]
        return container["image"]

    digest = f"sha256:{'0123' * 16}"
    assert image(tag="0.2.0") == "servingplan:0.2.0"
    assert image(repository="example.com/servingplan", digest=digest) == f"example.com/servingplan@{digest}"
    assert image(tag="0.2.0", digest=digest) == f"servingplan:0.2.0@{digest}"


def test_two_operators_are_on_two_nodes_and_a_drained_node_takes_one():
    objects = rendered("x", {"replicas": 2})
    (budget,) = [item for item in objects if item["kind"] == "PodDisruptionBudget"]
    labels = operator_of(objects)["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (spread,) = operator_of(objects)["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    # One operator alone: a budget would only keep its node from being drained.
    assert not [item for item in rendered("x", {}) if item["kind"] == "PodDisruptionBudget"]


def test_a_cluster_may_choose_the_user_of_the_operator():
    security = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    pod = operator_of(rendered("x", {"podSecurityContext": security}))["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_settings_reach_the_operator_through_its_environment():
    (container,) = operator_of(rendered("x", {**CONFINED, "periodSeconds": 2.5}))["spec"]["template"]["spec"][
        "containers"
    ]
    assert {item["name"]: item["value"] for item in container["env"]} == {
        "MALLOC_ARENA_MAX": "2",
        "SERVINGPLAN_POOL_KINDS": "NodePool.karpenter.sh,MachineDeployment.cluster.x-k8s.io",
        "SERVINGPLAN_NAMESPACES": "llm,llm-two",
        "SERVINGPLAN_CATALOGUE_NAMESPACE": RELEASE,
        "SERVINGPLAN_NAMESPACE_BUDGETS": "",
        "SERVINGPLAN_POD_ACCESS": "",
        "SERVINGPLAN_ALLOWED_HOSTS": "",
        "SERVINGPLAN_MARK_MACHINES": "false",
        "SERVINGPLAN_PROMETHEUS_URL": "",
        "SERVINGPLAN_PROMETHEUS_TOKEN_FILE": "",
        "SERVINGPLAN_PROMETHEUS_CA_FILE": "",
        "SERVINGPLAN_PROMETHEUS_NAMESPACE_LABEL": "namespace",
        "SERVINGPLAN_PROMETHEUS_PLAN_QUERIES": "false",
        "SERVINGPLAN_LEASE_NAMESPACE": "kube-system",
        "SERVINGPLAN_SOLVER_PROCESSES": "0",
        "SERVINGPLAN_MOST_SOLVER_SECONDS": "600",
        "SERVINGPLAN_PERIOD_SECONDS": "2.5",
        "SERVINGPLAN_SITE": "",
        "SERVINGPLAN_METRICS_ADDRESS": "0.0.0.0:8081",
    }


def test_namespaces_have_budgets_that_the_operator_reads():
    values = {"namespaceBudgets": {"llm": "40.5", "other": 20, "*": "0"}}
    (container,) = operator_of(rendered("x", values))["spec"]["template"]["spec"]["containers"]
    (text,) = [item["value"] for item in container["env"] if item["name"] == "SERVINGPLAN_NAMESPACE_BUDGETS"]
    assert parse_budgets(text) == {"llm": 40.5, "other": 20.0, "*": 0.0}


def test_what_pod_templates_may_ask_for_is_listed_by_its_kind():
    (container,) = operator_of(rendered("x", {"podAccess": ["hostIPC", "capabilities=IPC_LOCK"]}))["spec"]["template"][
        "spec"
    ]["containers"]
    assert {"name": "SERVINGPLAN_POD_ACCESS", "value": "hostIPC,capabilities=IPC_LOCK"} in container["env"]
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["podAccess"]["items"]["pattern"]
    assert all(re.fullmatch(schema, kind) and re.fullmatch(schema, f"{kind}=/x") for kind in KINDS)
    assert not any(re.fullmatch(schema, word) for word in ("hostpath", "everything", "*"))


def test_machines_are_marked_only_where_the_installation_says_so():
    off, on = rendered("x", {}), rendered("x", {"markMachines": True})
    assert not [item for item in off if item["metadata"]["name"].endswith("-machines")]
    (role,) = [item for item in on if item["kind"] == "ClusterRole" and item["metadata"]["name"].endswith("-machines")]
    assert role["rules"] == [{"apiGroups": ["cluster.x-k8s.io"], "resources": ["machines"], "verbs": ["get", "patch"]}]
    (binding,) = [
        item for item in on if item["kind"] == "ClusterRoleBinding" and "machines" in item["metadata"]["name"]
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (container,) = operator_of(on)["spec"]["template"]["spec"]["containers"]
    assert {"name": "SERVINGPLAN_MARK_MACHINES", "value": "true"} in container["env"]


def test_what_plans_may_have_asked_and_with_which_token():
    prometheus = {"url": "https://prometheus.monitoring:9090", "tokenSecret": "reader", "caSecret": "own-ca"}
    objects = rendered("x", {"allowedHosts": ["gateway.edge:8080", "[::1]:80"], "prometheus": prometheus})
    pod = operator_of(objects)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {item["name"]: item["value"] for item in container["env"]}
    assert told["SERVINGPLAN_ALLOWED_HOSTS"] == "gateway.edge:8080,[::1]:80"
    mounts = {item["mountPath"]: item["name"] for item in container["volumeMounts"] if item.get("readOnly")}
    secrets = {item["name"]: item["secret"]["secretName"] for item in pod["volumes"] if "secret" in item}
    for variable, key, secret in (("TOKEN", "token", "reader"), ("CA", "ca.crt", "own-ca")):
        folder, _, file = told[f"SERVINGPLAN_PROMETHEUS_{variable}_FILE"].rpartition("/")
        assert (file, secrets[mounts[folder]]) == (key, secret)


def test_catalogues_in_the_values_become_labelled_config_maps():
    prices = "gpu,dollars_per_gpu_hour,capacity_type,as_of,source\nH100,2.5,OnDemand,2026-01-01,contract\n"
    found = [item for item in rendered("x", {"catalogues": {"prices": prices}}) if item["kind"] == "ConfigMap"]
    assert [(item["metadata"]["labels"]["servingplan.dev/catalogue"], item["data"]) for item in found] == [
        ("prices", {"prices.csv": prices})
    ]
    without = rendered("x", {**CONFINED, "catalogues": {"enabled": False, "prices": prices}})
    assert not [item for item in without if item["metadata"]["name"].endswith(("-catalogues", "-prices"))]
    (container,) = operator_of(without)["spec"]["template"]["spec"]["containers"]
    assert {"name": "SERVINGPLAN_CATALOGUE_NAMESPACE", "value": ""} in container["env"]


WATCHED = {
    "metrics": {
        "serviceMonitor": {"enabled": True, "interval": "5s", "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    }
}


def one(objects, kind, name):
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def test_metrics_have_a_service_that_finds_the_operator_by_its_labels_and_port(cluster, installed):
    objects = rendered("x", {})
    service, pod = one(objects, "Service", "x-servingplan-metrics"), operator_of(objects)["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    (container,) = pod["spec"]["containers"]
    assert {item["name"]: item["containerPort"] for item in container["ports"]}[port["targetPort"]] == port["port"]
    cluster.kubectl("-n", RELEASE, "get", "service/everywhere-servingplan-metrics")


def test_only_the_peers_of_the_values_reach_the_metrics(cluster, installed):
    objects = rendered("x", {})
    policy, pod = one(objects, "NetworkPolicy", "x-servingplan"), operator_of(objects)["spec"]["template"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert [port["port"] for port in rule["ports"]] == ["metrics"]
    cluster.kubectl("-n", RELEASE, "get", "networkpolicy/everywhere-servingplan")

    peers = [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]
    moved = rendered("x", {"metrics": {"networkPolicy": {"from": peers}, "bindAddress": "127.0.0.1"}})
    assert one(moved, "NetworkPolicy", "x-servingplan")["spec"]["ingress"][0]["from"] == peers
    (container,) = operator_of(moved)["spec"]["template"]["spec"]["containers"]
    assert {"name": "SERVINGPLAN_METRICS_ADDRESS", "value": "127.0.0.1:8081"} in container["env"]
    for values in ({"networkPolicy": {"enabled": False}}, {"enabled": False}):
        assert not [item for item in rendered("x", {"metrics": values}) if item["kind"] == "NetworkPolicy"]


def test_without_metrics_nothing_listens_and_nothing_is_scraped():
    objects = rendered("x", {"metrics": {"enabled": False}})
    assert not [item for item in objects if item["kind"] == "Service"]
    (container,) = operator_of(objects)["spec"]["template"]["spec"]["containers"]
    assert [item["name"] for item in container["ports"]] == ["health"]
    assert {"name": "SERVINGPLAN_METRICS_ADDRESS", "value": ""} in container["env"]


def test_what_needs_other_peoples_kinds_is_off_unless_asked_for():
    groups = {item["apiVersion"].partition("/")[0] for item in rendered("x", {})}
    assert "monitoring.coreos.com" not in groups
    assert not [item for item in rendered("x", {}) if item["kind"] == "ConfigMap"]


def test_the_monitor_of_the_operator_finds_its_service():
    objects = rendered("x", WATCHED)
    monitor, service = one(objects, "ServiceMonitor", "x-servingplan"), one(objects, "Service", "x-servingplan-metrics")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"] == [{"port": service["spec"]["ports"][0]["name"], "interval": "5s"}]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_monitor_of_the_engines_finds_the_pods_of_a_plan_and_names_it():
    driver = operator(plan())
    driver.settle()
    (deployment,) = driver.cluster.observe().deployments()
    pod = deployment.manifest["spec"]["template"]
    spec = one(rendered("x", WATCHED), "PodMonitor", "x-servingplan-engines")["spec"]
    assert spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = spec["podMetricsEndpoints"]
    (container,) = pod["spec"]["containers"]
    assert endpoint["port"] in [port["name"] for port in container["ports"]]
    labels = {item["targetLabel"]: item["sourceLabels"] for item in endpoint["relabelings"]}
    in_prometheus = "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", PLAN_LABEL)
    assert labels == {"plan_namespace": ["__meta_kubernetes_namespace"], "plan": [in_prometheus]}
    assert spec["namespaceSelector"] == {"matchNames": ["llm"]}
    everywhere = one(rendered("x", {**WATCHED, **EVERYWHERE}), "PodMonitor", "x-servingplan-engines")
    assert everywhere["spec"]["namespaceSelector"] == {"any": True}
    confined = one(rendered("x", {**WATCHED, **CONFINED}), "PodMonitor", "x-servingplan-engines")
    assert confined["spec"]["namespaceSelector"] == {"matchNames": CONFINED["namespaces"]}


def test_rules_and_dashboard_are_those_of_the_files(cluster):
    objects = rendered("x", WATCHED)
    rules, dashboard = (
        one(objects, "PrometheusRule", "x-servingplan"),
        one(objects, "ConfigMap", "x-servingplan-dashboard"),
    )
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["servingplan.json"]) == json.loads((CHART / "files/dashboard.json").read_text())
    cluster.apply(dashboard, field_manager="helm")


def test_a_star_for_the_namespaces_lets_the_operator_write_in_all_of_them(may):
    rights = each(READ_EVERYWHERE) + each(WRITTEN_WITH_PLANS) + each(POOLS_EVERYWHERE)
    assert refused(may, "everywhere", rights, None) == []


def test_without_namespaces_the_operator_works_in_its_own_alone():
    assert rendered("x", {"namespaces": []}) == rendered("x", {"namespaces": [RELEASE]})


def test_with_namespaces_the_operator_writes_in_these_alone(may):
    assert refused(may, "confined", each(READ_EVERYWHERE) + each(POOLS_CONFINED), None) == []
    for namespace in CONFINED["namespaces"]:
        assert refused(may, "confined", each(WRITTEN_WITH_PLANS), namespace) == []
    read = set(each(READ_EVERYWHERE))
    writes = [right for right in each(WRITTEN_WITH_PLANS) if right not in read]
    for namespace in ("kube-system", "elsewhere", "machines", None):
        assert granted(may, "confined", writes, namespace) == []
    catalogues = [("", "configmaps", verb) for verb in FOLLOW]
    assert granted(may, "confined", writes, RELEASE) == catalogues


@pytest.mark.parametrize("installation", ["everywhere", "confined"])
def test_events_about_claims_that_got_no_node_can_be_read(may, installation):
    rights = [("", "events", verb) for verb in FOLLOW]
    assert refused(may, installation, rights, "default") == []
    assert granted(may, installation, rights, "kube-system") == []


def test_pool_objects_can_be_confined_to_namespaces(may):
    right = ("cluster.x-k8s.io", "machinedeployments", "patch")
    assert may("confined", *right, "machines")
    assert granted(may, "confined", [right], "llm") == []
    assert granted(may, "confined", [right], None) == []


@pytest.mark.parametrize("installation", ["everywhere", "confined"])
def test_what_is_never_needed_is_never_granted(may, installation):
    for namespace in (None, "llm", "kube-system"):
        assert granted(may, installation, NEVER, namespace) == []


def test_the_roles_hold_exactly_these_rights():
    def rights(objects, *kinds):
        return {
            (group, resource, verb)
            for item in objects
            if item["kind"] in kinds
            and item["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
            and "aggregate-to-edit" not in str(item["metadata"]["labels"])
            for rule in item["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    everywhere = rendered("x", EVERYWHERE)
    assert rights(everywhere, "ClusterRole") == {
        *each(READ_EVERYWHERE),
        *each(WRITTEN_WITH_PLANS),
        *each(POOLS_EVERYWHERE),
    }
    leases = {("coordination.k8s.io", "leases", verb) for verb in ("get", "list", "create", "patch")}
    refusals = {("", "events", verb) for verb in FOLLOW}
    assert rights(everywhere, "Role") == {*leases, *refusals}
    confined = rendered("x", CONFINED)
    assert rights(confined, "ClusterRole") == {*each(READ_EVERYWHERE), *each(POOLS_CONFINED)}
    machines = ("cluster.x-k8s.io", "machinedeployments", "patch")
    assert rights(confined, "Role") == {*each(WRITTEN_WITH_PLANS), machines, *leases, *refusals}


@pytest.mark.parametrize(
    ("switch", "group"), [("leaderWorkerSets", "leaderworkerset.x-k8s.io"), ("dra", "resource.k8s.io")]
)
def test_what_is_switched_off_gives_no_rights_on_its_objects(switch, group):
    def groups(values):
        objects = [item for item in rendered("x", values) if item["kind"] in ("Role", "ClusterRole")]
        return {group for item in objects for rule in item["rules"] for group in rule["apiGroups"]}

    for values in (EVERYWHERE, CONFINED):
        without = groups({**values, switch: {"enabled": False}})
        assert groups(values) - without == {group}


def test_without_pool_kinds_there_are_no_rights_on_pools():
    objects = rendered("x", {"poolKinds": []})
    assert not [item for item in objects if item["metadata"]["name"].endswith(("-pools", "-refusals"))]
    (container,) = operator_of(objects)["spec"]["template"]["spec"]["containers"]
    assert {"name": "SERVINGPLAN_POOL_KINDS", "value": ""} in container["env"]


def test_plans_in_the_namespace_default_and_their_pages_have_objects_of_their_own():
    """There the Events about NodeClaims are read, too."""
    objects = rendered("x", {**CONFINED, "namespaces": ["default"], "ui": {"enabled": True}})
    named = Counter((item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects)
    assert [name for name, count in named.items() if count > 1] == []


def test_the_chart_of_the_crd_takes_over_upgrades_and_leaves_it_with_its_plans(cluster, installed):
    """By Helm itself, over a CRD that the chart of the operator has installed, with a plan stored."""
    crd, chart = "llmservingplans.servingplan.dev", CHART.with_name("servingplan-crds")

    def run(*arguments):
        command = [str(binaries.program("helm")), *arguments, f"--namespace={RELEASE}"]
        done = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(cluster.kubectl("get", "crd", crd, "-o", "json"))

    manifest = yaml.safe_load((CHART.parents[1] / "examples" / "chat.yaml").read_text())
    cluster.apply(manifest)
    before = json.loads(cluster.kubectl("get", "lsp", "-n", "llm", "chat", "-o", "json"))
    original = json.loads(cluster.kubectl("get", "crd", crd, "-o", "json"))
    # A CRD of an earlier version, as Helm's folder crds/ leaves it behind.
    cluster.kubectl("patch", "crd", crd, "--type=json", "-p", '[{"op": "remove", "path": "/spec/names/categories"}]')
    taken = run("install", "crds", str(chart), "--take-ownership", "--force-conflicts")
    assert taken["spec"]["versions"] == original["spec"]["versions"]
    assert taken["spec"]["names"] == {**original["spec"]["names"]}
    assert taken["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    run("upgrade", "crds", str(chart))
    left = run("uninstall", "crds")
    assert left["metadata"]["uid"] == original["metadata"]["uid"]
    after = json.loads(cluster.kubectl("get", "lsp", "-n", "llm", "chat", "-o", "json"))
    assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])
    cluster.kubectl("delete", "lsp", "-n", "llm", "chat")


def test_users_of_a_namespace_may_write_plans(cluster, installed):
    asked = ("auth", "can-i", "create", "llmservingplans.servingplan.dev", "-n", "llm", "--as=ann")
    cluster.kubectl("-n", "llm", "create", "rolebinding", "ann", "--clusterrole=edit", "--user=ann")

    def may():
        try:
            return cluster.kubectl(*asked).strip() == "yes"
        except StartError:  # says no by its exit status
            return False

    wait_for("ann may", may, seconds=20)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replicas": -1}, "replicas"),
        ({"leaseNamespace": ""}, "leaseNamespace"),
        ({"namespaces": "llm"}, "namespaces"),
        ({"namespaces": ["LLM"]}, "namespaces"),
        ({"namespaces": ["*", "llm"]}, "namespaces"),
        ({"uninstallGuard": False}, "uninstallGuard"),
        ({"docsUrl": "docs.example"}, "docsUrl"),
        ({"periodSeconds": 0}, "periodSeconds"),
        ({"periodSeconds": "15"}, "periodSeconds"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"image": {"digest": "sha256:abc"}}, "digest"),
        ({"replica": 2}, "replica"),
        ({"metrics": {"enable": False}}, "enable"),
        ({"writeGuard": True}, "writeGuard"),
        ({"ui": {"enabled": True, "login": "none"}}, "login"),
        ({"ui": {"enabled": True, "hosts": ["plans.example,evil.example"]}}, "hosts"),
        ({"poolKinds": [{"kind": "NodePool", "group": "karpenter.sh", "namespaced": False}]}, "resource"),
        ({"poolKinds": ["NodePool.karpenter.sh"]}, "poolKinds"),
        ({"poolKinds": [{**EVERYWHERE["poolKinds"][0], "namespaces": ["a"]}]}, "namespaces"),
        ({"poolKinds": [{**EVERYWHERE["poolKinds"][0], "resource": "*"}]}, "resource"),
        ({"serviceAccount": {"create": False}}, "serviceAccount"),
        ({"metrics": {"enabled": "yes"}}, "metrics"),
        ({"metrics": {"serviceMonitor": {"interval": "15"}}}, "interval"),
        ({"metrics": {"enabled": False, "serviceMonitor": {"enabled": True}}}, "needs metrics.enabled"),
    ],
)
def test_bad_values_are_refused_by_name(values, complaint):
    done = helm("template", "x", str(CHART), values={"namespaces": ["llm"], **values})
    assert done.returncode != 0
    assert complaint in done.stderr
