"""Every two settings of the chart go together: a real API server takes what the chart renders under each pair of them."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from localcluster import binaries
from localcluster.control_plane import ControlPlane, wait_until_established

pytestmark = pytest.mark.cluster
CHART = Path(__file__).parents[2] / "charts" / "servingplan"
RELEASED_IN = "operators"
NAMESPACES = (RELEASED_IN, "llm", "llm-two", "machines", "leases")
KARPENTER = {"kind": "NodePool", "group": "karpenter.sh", "resource": "nodepools", "namespaced": False}
MACHINES = {
    "kind": "MachineDeployment",
    "group": "cluster.x-k8s.io",
    "resource": "machinedeployments",
    "namespaced": True,
}
PRICES = "gpu,dollars_per_gpu_hour,capacity_type,as_of,source\nH100,2.5,OnDemand,2026-01-01,contract\n"
PROMETHEUS = {"url": "https://prometheus.monitoring:9090", "namespaceLabel": "exported_namespace"}
SCHEDULED = {
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "system-cluster-critical",
}
SETTINGS = {
    "replicas": [1, 2],
    "namespaces": [[], ["llm"], ["*"], ["llm", "llm-two"]],
    "poolKinds": [[KARPENTER], [], [KARPENTER, MACHINES], [{**MACHINES, "namespaces": ["machines"]}]],
    "catalogues.enabled": [True, False],
    "catalogues.prices": ["", PRICES],
    "leaderWorkerSets.enabled": [True, False],
    "kueue.enabled": [True, False],
    "dra.enabled": [True, False],
    "namespaceBudgets": [{}, {"llm": "40", "*": "10"}],
    "markMachines": [False, True],
    "podAccess": [[], ["hostIPC", "capabilities=IPC_LOCK"]],
    "allowedHosts": [[], ["gateway.edge:8080", "[::1]:80"]],
    "prometheus": [
        {},
        {**PROMETHEUS, "tokenSecret": "reader"},
        {**PROMETHEUS, "tokenSecret": "reader", "caSecret": "ca"},
    ],
    "prometheus.planQueries": [False, True],
    "leaseNamespace": ["kube-system", "leases"],
    "writeGuard.enabled": [False, True],
    "uninstallGuard.enabled": [True, False],
    "metrics.enabled": [True, False],
    "metrics.bindAddress": ["0.0.0.0", "127.0.0.1"],
    "metrics.networkPolicy.enabled": [True, False],
    "metrics.networkPolicy.from": [
        [{"namespaceSelector": {}}],
        [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
    ],
    "metrics.serviceMonitor.enabled": [False, True],
    "metrics.serviceMonitor.labels": [{}, {"release": "prometheus"}],
    "metrics.podMonitor.enabled": [False, True],
    "metrics.podMonitor.labels": [{}, {"release": "prometheus"}],
    "metrics.rules.enabled": [False, True],
    "metrics.rules.labels": [{}, {"release": "prometheus"}],
    "metrics.dashboard.enabled": [False, True],
    "ui.enabled": [False, True],
    "ui.whatIf": [False, True],
    "ui.hosts": [[], ["plans.example.com"]],
    "ui.networkPolicy.enabled": [True, False],
    "ui.networkPolicy.from": [[], [{"namespaceSelector": {"matchLabels": {"app": "ingress"}}}]],
    "serviceAccount.create": [True, False],
    "serviceAccount.name": ["planner", "default"],
    "serviceAccount.annotations": [{}, {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/planner"}],
    "aggregateRoles": [True, False],
    "podSecurityContext": [{}, {"runAsUser": None, "runAsGroup": None, "fsGroup": None}],
    "image": [{}, {"tag": "0.2.0", "digest": f"sha256:{'0123' * 16}", "pullPolicy": "Always"}],
    "imagePullSecrets": [[], [{"name": "registry"}]],
    "nameOverride": ["", "planner"],
    "fullnameOverride": ["", f"planner-{'x' * 42}"],
    "podLabels": [{}, {"team": "serving"}],
    "podAnnotations": [{}, {"team": "serving"}],
    "scheduling": [{}, SCHEDULED],
}
"""What each value may be, by its path; ``scheduling`` stands for four values that the chart only hands on."""
NEVER = {(("metrics.enabled", False), ("metrics.serviceMonitor.enabled", True))}
"""What the chart refuses; ``test_chart`` says how."""
OTHER_PEOPLES_KINDS = {
    "servicemonitors": "ServiceMonitor",
    "podmonitors": "PodMonitor",
    "prometheusrules": "PrometheusRule",
}


def choices():
    """All settings, each with the place of its value."""
    return [(name, place) for name, values in SETTINGS.items() for place in range(len(values))]


def refused(one, other):
    values = frozenset((name, json.dumps(SETTINGS[name][place])) for name, place in (one, other))
    return any(values == frozenset((name, json.dumps(value)) for name, value in pair) for pair in NEVER)


def pairs():
    """Every two choices that can be made together, as sets."""
    both = itertools.combinations(choices(), 2)
    return {frozenset(pair) for pair in both if pair[0][0] != pair[1][0] and not refused(*pair)}


def covering_rows():
    """Rows of one choice for each setting in which every pair occurs.

    Greedy: a row begins with a pair that occurs in none yet; each further setting takes the choice that adds most pairs.
    """
    rows, missing = [], pairs()
    order = {choice: number for number, choice in enumerate(choices())}
    while missing:
        row = dict(min(missing, key=lambda pair: sorted(order[choice] for choice in pair)))
        for name, values in SETTINGS.items():
            if name in row:
                continue
            made = list(row.items())
            possible = [
                (name, place)
                for place in range(len(values))
                if not any(refused((name, place), choice) for choice in made)
            ]
            gains = [sum(frozenset((choice, other)) in missing for other in made) for choice in possible]
            row[name] = possible[gains.index(max(gains))][1]
        rows.append(row)
        missing -= {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}
    return rows


def values_of(row):
    """The values of a row, as the chart takes them."""
    values = {}
    for name, place in row.items():
        value = SETTINGS[name][place]
        if name == "scheduling":
            values |= value
            continue
        *path, last = name.split(".")
        within = values
        for key in path:
            within = within.setdefault(key, {})
        within[last] = {**within.get(last, {}), **value} if isinstance(value, dict) else value
    return values


def leaves(values, path=""):
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as running:
        for namespace in NAMESPACES:
            running.kubectl("create", "namespace", namespace)
        # A pod that is not restricted makes the API server warn of its Deployment, and no warning is let pass.
        running.kubectl("label", "namespace", RELEASED_IN, "pod-security.kubernetes.io/warn=restricted")
        running.apply(*(definition(plural, kind) for plural, kind in OTHER_PEOPLES_KINDS.items()))
        for plural in OTHER_PEOPLES_KINDS:
            wait_until_established(running.kubectl, f"{plural}.monitoring.coreos.com")
        yield running


def definition(plural, kind):
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "names": {"kind": kind, "plural": plural},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}],
        },
    }


def test_every_switch_of_the_chart_is_among_the_settings():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    switches = {name for name, value in leaves(values) if isinstance(value, bool)}
    switches -= {"podSecurityContext.runAsNonRoot"}  # a part of the pod's own specification
    assert switches == {name for name, choices in SETTINGS.items() if isinstance(choices[0], bool)}


def test_every_pair_of_settings_is_taken_by_the_api_server(cluster):
    rows = covering_rows()
    assert {frozenset(pair) for row in rows for pair in itertools.combinations(row.items(), 2)} == pairs()
    print(f"{len(rows)} renders have all {len(pairs())} pairs of {len(SETTINGS)} settings")
    for number, row in enumerate(rows):
        values = json.dumps(values_of(row))
        command = [str(binaries.program("helm")), "template", "pairs", str(CHART), f"--namespace={RELEASED_IN}"]
        rendered = subprocess.run([*command, "--values=-"], input=values, capture_output=True, text=True)
        assert rendered.returncode == 0, f"{values}: {rendered.stderr}"
        taken = subprocess.run(
            [
                *(str(binaries.program("kubectl")), "apply", "--server-side", "--dry-run=server", "--validate=strict"),
                *("-f", "-"),
            ],
            input=rendered.stdout,
            env=cluster.environment(),
            capture_output=True,
            text=True,
        )
        assert (taken.returncode, taken.stderr) == (0, ""), f"render {number}, {values}: {taken.stderr}"
        assert len(taken.stdout.splitlines()) == len([item for item in yaml.safe_load_all(rendered.stdout) if item])
