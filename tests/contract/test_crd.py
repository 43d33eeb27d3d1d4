"""A real API server takes the CRD, and its schema says the same as the models that it is made from."""

import copy
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from e2e.support.waiting import wait_for
from localcluster import binaries
from localcluster.control_plane import ControlPlane, StartError, wait_until_established
from servingplan.api.crd import PRINTER_COLUMNS, custom_resource_definition
from servingplan.api.parse import parse_spec
from servingplan.api.v1alpha1 import PLAN_RULES
from servingplan.render.quantities import canonical_quantity

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
PLAN = yaml.safe_load((ROOT / "tests" / "golden" / "render" / "plan.yaml").read_text())
CRD = "llmservingplans.servingplan.dev"
RULES = set(re.findall('"message": "(.*?)"', json.dumps(custom_resource_definition())))
"""What the rules of the schema say."""
MODEL = ("models", 0)
POOL = ("nodePools", 0)
CARD = {"parameters": 10, "layers": 2, "hiddenSize": 8, "attentionHeads": 8, "kvHeads": 2, "headDim": 1}


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as running:
        running.apply(custom_resource_definition())
        wait_until_established(running.kubectl, CRD)
        running.kubectl("create", "namespace", "llm")
        wait_for("the API server publishes the schema", lambda: published_schema(running), seconds=30)
        yield running


def published_schema(cluster):
    """The schema as clients read it; the API server publishes it a moment after it serves the kind."""
    try:
        api = json.loads(cluster.kubectl("get", "--raw", "/openapi/v3/apis/servingplan.dev/v1alpha1"))
        return api["components"]["schemas"]["dev.servingplan.v1alpha1.LLMServingPlan"]
    except (StartError, KeyError):
        return None


def plan(spec, name="chat"):
    return {**PLAN, "metadata": {"name": name, "namespace": "llm"}, "spec": spec}


def with_value(path, value):
    spec = copy.deepcopy(PLAN["spec"])
    *parents, last = path
    part = spec
    for key in parents:
        part = part.setdefault(key, {}) if isinstance(part, dict) else part[key]
    part[last] = value
    return spec


def refusal(cluster, manifest):
    """What the API server says against a plan (dry run, strict about unknown fields)."""
    with pytest.raises(StartError) as refused:
        cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(manifest))
    return str(refused.value)


RELEASED = sorted((ROOT / "tests" / "golden" / "released").glob("*/*.yaml"))
"""Plans as users of each release have them stored."""


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_plans_of_every_release_are_taken_and_nothing_of_them_is_lost(cluster, path):
    manifest = yaml.safe_load(path.read_text())
    manifest["metadata"] = {"name": path.stem, "namespace": "llm"}
    arguments = ("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")
    assert json.loads(cluster.kubectl(*arguments, stdin=json.dumps(manifest)))["spec"] == manifest["spec"]
    assert parse_spec(manifest["spec"])[0] is not None


def test_there_are_plans_of_this_release():
    version = yaml.safe_load((ROOT / "charts/servingplan/Chart.yaml").read_text())["appVersion"]
    assert version in {path.parent.name for path in RELEASED}


def test_the_crd_is_established_and_structural(cluster):
    conditions = json.loads(cluster.kubectl("get", "crd", CRD, "-o", "json"))["status"]["conditions"]
    by_type = {item["type"]: item["status"] for item in conditions}
    assert by_type == {"NamesAccepted": "True", "Established": "True"}


def test_every_field_down_to_the_leaves_is_documented_by_the_api_server(cluster):
    def walk(node, path):
        for name, field in node.get("properties", {}).items():
            yield f"{path}.{name}", field.get("description") or field.get("allOf")
            yield from walk(field, f"{path}.{name}")
        if "items" in node:
            yield from walk(node["items"], f"{path}[]")

    fields = dict(walk(published_schema(cluster), ""))
    assert len(fields) > 130
    assert [path for path, description in fields.items() if not description] == []


@pytest.mark.parametrize(
    "field",
    [
        "spec",
        "spec.budget.dollarsPerHour",
        "spec.models.classes.match.inputTokensAtLeast",
        "spec.models.engine.podTemplate",
        "spec.models.card.kvHeads",
        "spec.nodePools.nodeSelector",
        "spec.nodePools.resize.replicasPath",
        "spec.resilience.survive.event",
        "status.conditions.reason",
        "status.cost.perHour",
    ],
)
def test_kubectl_explains(cluster, field):
    text = cluster.kubectl("explain", f"lsp.{field}")
    description = text.split("DESCRIPTION:")[1].split("FIELDS:")[0].strip()
    assert len(description) > 5
    assert "<empty>" not in description


def test_the_full_plan_is_accepted_and_kept_as_it_is_written(cluster):
    cluster.apply(plan(PLAN["spec"], "kept"), field_manager="author")
    stored = json.loads(cluster.kubectl("-n", "llm", "get", "lsp", "kept", "-o", "json"))
    assert stored["spec"] == PLAN["spec"]
    cluster.kubectl("-n", "llm", "delete", "lsp", "kept")


def test_kubectl_diff_tells_of_an_edit_and_of_nothing_else(cluster):
    """No default of the server and nothing that an operator writes shows up as a difference."""
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(plan(PLAN["spec"], "compared")))
    status = {"observedGeneration": 1, "planHash": "0" * 8, "conditions": []}
    change = json.dumps({"status": status, "metadata": {"finalizers": ["servingplan.dev/retire"]}})
    for part in ((), ("--subresource=status",)):
        cluster.kubectl("-n", "llm", "patch", "lsp", "compared", "--type=merge", *part, "-p", change)

    def differences(spec):
        command = [str(binaries.program("kubectl")), "diff", "-f", "-"]
        given = json.dumps(plan(spec, "compared"))
        done = subprocess.run(command, input=given, env=cluster.environment(), capture_output=True, text=True)
        return done.returncode, [line for line in done.stdout.splitlines() if re.match(r"[-+] ", line)]

    assert differences(PLAN["spec"]) == (0, [])
    edited = copy.deepcopy(PLAN["spec"])
    edited["budget"]["dollarsPerHour"] = "77"
    code, lines = differences(edited)
    assert code == 1
    assert [line for line in lines if "dollarsPerHour" in line][-1] == '+    dollarsPerHour: "77"'
    assert {line.split(":")[0].strip("+- ") for line in lines} <= {"dollarsPerHour", "generation"}
    cluster.kubectl("-n", "llm", "patch", "lsp", "compared", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    cluster.kubectl("-n", "llm", "delete", "lsp", "compared")


def test_the_smallest_plan_is_accepted_with_whole_numbers_for_money(cluster):
    spec = {
        "budget": {"dollarsPerHour": 60},
        "models": [{"name": "llama"}],
        "nodePools": [{"name": "pool", "dollarsPerNodeHour": 0, "nodeSelector": {"pool": "a"}}],
    }
    cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(plan(spec)))


QUARTER_OF_AN_HOUR = {"start": "2026-12-01T08:00:00Z", "end": "2026-12-01T08:15:00Z"}
BACKWARDS = {"start": "2026-12-02T00:00:00Z", "end": "2026-12-01T00:00:00Z"}
BAD = [
    (("budget", "dollarsPerHour"), "-1", "spec.budget.dollarsPerHour"),
    (("budget", "dollarsPerHour"), -1, "spec.budget.dollarsPerHour"),
    (("budget", "dollarsPerHour"), 1.5, "spec.budget.dollarsPerHour"),
    (("budgets",), 5, "spec.budgets"),
    (("objective",), "Fast", "spec.objective"),
    (("models",), [], "spec.models"),
    (("models",), [{"name": "a"}, {"name": "a"}], "spec.models[1]"),
    ((*MODEL, "name"), "two words", "spec.models[0].name"),
    ((*MODEL, "slo", "ttftSeconds"), 0, "spec.models[0].slo.ttftSeconds"),
    ((*MODEL, "slo", "tpotSeconds"), "0.0", "spec.models[0].slo.tpotSeconds"),
    ((*MODEL, "slo", "percentile"), 100, "spec.models[0].slo.percentile"),
    ((*MODEL, "maxModelLen"), 2000, "spec.models[0].maxModelLen"),
    ((*MODEL, "card"), {**CARD, "kvHeads": 3}, "spec.models[0].card.kvHeads"),
    ((*MODEL, "card"), {**CARD, "activeParameters": 11}, "spec.models[0].card.activeParameters"),
    ((*MODEL, "card"), {**CARD, "expertsPerToken": 2}, "spec.models[0].card.expertsPerToken"),
    ((*MODEL, "variants", 0, "source"), "s3://bucket", "spec.models[0].variants[0].source"),
    ((*MODEL, "variants", 1, "name"), "bf16", "spec.models[0].variants[1]"),
    ((*MODEL, "classes", 1, "name"), "long-in", "spec.models[0].classes[1]"),
    ((*MODEL, "classes", 0, "inputTokens"), 0, "spec.models[0].classes[0].inputTokens"),
    ((*POOL, "dollarsPerNodeHour"), "-23.92", "spec.nodePools[0].dollarsPerNodeHour"),
    ((*POOL, "dollarsPerNodeHour"), 23.92, "spec.nodePools[0].dollarsPerNodeHour"),
    ((*POOL, "minNodes"), 9, "spec.nodePools[0].minNodes"),
    ((*POOL, "nodeSelector"), {}, "spec.nodePools[0].nodeSelector"),
    ((*POOL, "capacityType"), "Borrowed", "spec.nodePools[0].capacityType"),
    ((*POOL, "resize", "replicasPath"), ".metadata.generation", "spec.nodePools[0].resize.replicasPath"),
    ((*POOL, "reservation"), {"nodes": 1, "start": "2026-12-01"}, "spec.nodePools[0].reservation.start"),
    ((*POOL, "reservation"), {"nodes": 1, **BACKWARDS}, "spec.nodePools[0].reservation.end"),
    ((*POOL, "reservation"), {"nodes": 1, **QUARTER_OF_AN_HOUR}, "spec.nodePools[0].reservation.notice"),
    (
        (*POOL, "reservation"),
        {"nodes": 1, **QUARTER_OF_AN_HOUR, "notice": "1h"},
        "spec.nodePools[0].reservation.notice",
    ),
    ((*MODEL, "engine", "priorityClassName"), "Not a name", "spec.models[0].engine.priorityClassName"),
    ((*MODEL, "topologySpread"), {"topologyKey": "a/b/c"}, "spec.models[0].topologySpread.topologyKey"),
    (("gateway", "httpRoute", "hostnames"), ["a_b"], "spec.gateway.httpRoute.hostnames[0]"),
    (("resilience", "survive", 0, "event"), "Flood", "spec.resilience.survive[0].event"),
    (("demand", "prometheus", "window"), "", "spec.demand.prometheus.window"),
    (("demand", "prometheus", "window"), "30s", "spec.demand.prometheus.window"),
    (("demand", "prometheus", "window"), "2h", "spec.demand.prometheus.window"),
    (("demand", "prometheus", "floor"), "1.1", "spec.demand.prometheus.floor"),
    (("demand", "prometheus", "lastGoodFor"), "soon", "spec.demand.prometheus.lastGoodFor"),
    (("demand", "prometheus", "quantile"), "1.1", "spec.demand.prometheus.quantile"),
]


@pytest.mark.parametrize(("path", "value", "field"), BAD)
def test_a_bad_spec_is_refused_by_the_api_server_and_by_python(cluster, path, value, field):
    spec = with_value(path, value)
    message = refusal(cluster, plan(spec))
    assert field in message
    parsed, errors = parse_spec(spec)
    assert parsed is None
    for error in errors:
        if error.advice in RULES or error.advice.startswith(("must be greater", "must begin")) or ":" in error.advice:
            assert error.advice in message  # rules speak the same words on both sides


@pytest.mark.parametrize(
    "path", [("budget", "dollarsPerHour"), (*MODEL, "slo", "ttftSeconds"), (*POOL, "dollarsPerNodeHour")]
)
def test_a_number_with_a_point_is_refused_in_one_line(cluster, path):
    lines = [line for line in refusal(cluster, plan(with_value(path, 1.5))).splitlines() if path[-1] in line]
    assert len(lines) == 1
    assert "must be of type integer,string" in lines[0]


def test_a_floor_above_the_default_cap_is_refused(cluster):
    spec = with_value((*POOL, "minNodes"), 101)
    del spec["nodePools"][0]["maxNodes"]
    assert "set maxNodes" in refusal(cluster, plan(spec))


def test_names_that_cannot_name_other_objects_are_refused(cluster):
    assert PLAN_RULES[0]["message"] in refusal(cluster, plan(PLAN["spec"], "x" * 64))
    clash = with_value(("gateway", "configMap"), "chat-plan")
    assert PLAN_RULES[1]["message"] in refusal(cluster, plan(clash))


def test_a_spec_of_ten_megabytes_is_refused(cluster):
    spec = with_value((*MODEL, "engine", "podTemplate"), {"metadata": {"annotations": {"big": "x" * 10_000_000}}})
    assert "large" in refusal(cluster, plan(spec)).lower()


def test_status_is_applied_by_its_own_manager_and_shown_in_columns(cluster):
    cluster.apply(plan(PLAN["spec"], "shown"), field_manager="author")
    status = {
        "observedGeneration": 1,
        "planHash": "9f2c0a11",
        "mode": "Auto",
        "models": "1/1",
        "gpus": "8xH100-SXM-80GB",
        "unanswered": "none",
        "served": "75.0%",
        "plannedServed": "100%",
        "idleGPUs": "4xH100-SXM-80GB",
        "caps": "h100=2",
        "cost": {"perHour": "23.92", "spendPerHour": "35.88", "budgetPerHour": "60.00"},
        "solver": {
            "status": "Optimal",
            "method": "exact",
            "gap": "0",
            "stopped": "proved",
            "bindingConstraints": ["budget"],
        },
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "AsPlanned",
                "message": "all is well",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    manifest = {**plan(None, "shown"), "status": status}
    del manifest["spec"]
    command = ["apply", "--server-side", "--subresource=status", "--field-manager=servingplan-status", "-f", "-"]
    cluster.kubectl(*command, stdin=json.dumps(manifest))
    stored = json.loads(cluster.kubectl("-n", "llm", "get", "lsp", "shown", "-o", "json", "--show-managed-fields"))
    assert stored["status"] == status
    assert stored["metadata"]["generation"] == 1
    (managed,) = (item for item in stored["metadata"]["managedFields"] if item["manager"] == "servingplan-status")
    assert (managed["subresource"], managed["operation"]) == ("status", "Apply")
    assert "f:spec" not in managed["fieldsV1"]

    heading, row = cluster.kubectl("-n", "llm", "get", "lsp").splitlines()
    shown = [column["name"].upper() for column in PRINTER_COLUMNS if not column.get("priority")]
    assert heading.split() == ["NAME", *shown]
    assert row.split()[:-1] == [
        *("shown", "True", "AsPlanned", "none", "75.0%", "1/1", "8xH100-SXM-80GB", "35.88", "60.00")
    ]
    wide, row = cluster.kubectl("-n", "llm", "get", "lsp", "-o", "wide").splitlines()
    assert wide.split()[-8:] == ["PLAN-$/H", "PLAN-SERVED", "IDLE-GPUS", "CAPS", "MODE", "HASH", "GAP", "SOLVER"]
    assert row.split()[-8:] == ["23.92", "100%", "4xH100-SXM-80GB", "h100=2", "Auto", "9f2c0a11", "0", "Optimal"]


def test_unknown_fields_are_pruned_where_nobody_asks_for_strictness(cluster):
    manifest = json.dumps(plan({**PLAN["spec"], "colour": "green"}))
    command = [str(binaries.program("kubectl")), "create", "-f", "-", "-o", "json"]
    done = subprocess.run(
        [*command, "--dry-run=server", "--validate=warn"],
        env=cluster.environment(),
        input=manifest,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'unknown field "spec.colour"' in done.stderr
    assert "colour" not in json.loads(done.stdout)["spec"]


@pytest.mark.parametrize("name", ["restricted", "sharded"])
def test_a_namespace_that_enforces_restricted_admits_restricted_engines_alone(cluster, name):
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": labels}})
    wait_for(
        "its ServiceAccount",
        lambda: "default" in cluster.kubectl("get", "serviceaccounts", "-n", "strict", "-o", "name"),
        seconds=20,
    )
    (deployment,) = (
        item
        for item in yaml.safe_load_all((ROOT / "tests" / "golden" / "render" / f"{name}.yaml").read_text())
        if item["kind"] == "Deployment"
    )
    template = deployment["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "engine", "namespace": "strict"}, **template}
    pod["metadata"] = {**template["metadata"], "name": "engine", "namespace": "strict"}
    if name == "restricted":
        cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    else:
        assert "violates PodSecurity" in refusal(cluster, pod)


SPELLINGS = (
    "1000m 0.5 2000 1.5 0.1m 0.5n 0 999999n 3.0000001 1e3 1000e3 1E4 12e6 1E 2P "
    "1024Mi 1.5Gi 0.5Ki 1000Ki 0.3Gi 0.01Ki 16Gi 0Gi 0.7Ti 0.1Ei"
)


def test_quantities_are_rendered_in_the_api_servers_own_spelling(cluster):
    resources = {f"example.com/r{number}": text for number, text in enumerate(SPELLINGS.split())}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "llm"}}
    manifest = {**quota, "spec": {"hard": {f"requests.{name}": text for name, text in resources.items()}}}
    answer = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest))
    kept = json.loads(answer)["spec"]["hard"]
    assert {text: kept[f"requests.{name}"] for name, text in resources.items()} == {
        text: canonical_quantity(text) for text in resources.values()
    }


@pytest.mark.parametrize("name", ["sharded", "restricted", "single-gpu-spot-claim", "image-weights-and-pod-template"])
def test_rendered_manifests_come_back_as_they_were_rendered(cluster, name):
    """Else they would look changed on every turn."""

    def differences(ours, theirs, path=""):
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return [text for key in ours for text in differences(ours[key], theirs.get(key), f"{path}.{key}")]
        if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
            pairs = zip(ours, theirs, strict=True)
            return [text for number, (a, b) in enumerate(pairs) for text in differences(a, b, f"{path}[{number}]")]
        return [] if ours == theirs else [f"{path}: {ours!r} became {theirs!r}"]

    rendered = list(yaml.safe_load_all((ROOT / "tests" / "golden" / "render" / f"{name}.yaml").read_text()))
    for manifest in rendered:
        answer = cluster.kubectl(
            "apply", "--server-side", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest)
        )
        assert differences(manifest, json.loads(answer)) == []
