"""Facts of a cluster, and what the doctor says of them."""

import copy
import dataclasses

import pytest

from servingplan.api.crd import custom_resource_definition
from servingplan.doctor.facts import (
    Facts,
    Leader,
    Operator,
    PlanFacts,
    PrometheusFacts,
    Right,
    Severity,
    SizedObject,
    Unread,
)
from servingplan.doctor.judge import judge, worst
from servingplan.doctor.rights import SPAN
from servingplan.model.readings import SeenCatalogue
from servingplan.model.world import Node

GROUPS = {"servingplan.dev": ("v1alpha1",), "resource.k8s.io": ("v1",), "karpenter.sh": ("v1",)}
OPERATOR = Operator(
    namespace="servingplan-system",
    name="servingplan",
    release="servingplan",
    account="servingplan",
    replicas=1,
    ready=1,
    settings={"SERVINGPLAN_NAMESPACES": "llm,chat", "SERVINGPLAN_POOL_KINDS": "NodePool.karpenter.sh"},
)
REFUSED = Right("karpenter.sh", "nodepools", "patch", None, "size node pools")


def node(name, product="NVIDIA-H100-80GB-HBM3", gpus=8, ready=True, **labels):
    named = {} if product is None else {"nvidia.com/gpu.product": product}
    return Node(
        name=name, labels=named | {key.replace("__", "/"): it for key, it in labels.items()}, gpus=gpus, ready=ready
    )


def pool(name="h100", replicas=0, owners=(), key="NodePool.karpenter.sh", **annotations):
    said = {f"servingplan.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return SizedObject(
        key=key,
        resource="nodepools.karpenter.sh",
        namespace=None,
        name=name,
        item={"metadata": {"name": name, "annotations": said}, "spec": {"replicas": replicas}},
        scalable=True,
        size_owners=owners,
    )


def facts(**changed):
    """A cluster in which nothing is wrong, but for what is changed."""
    healthy = Facts(
        namespace="llm",
        account=OPERATOR.user,
        groups=GROUPS,
        rights=70,
        operators=(OPERATOR,),
        definition=custom_resource_definition(),
        nodes=(node("n1"), node("n2")),
        pools=(pool(allowed_namespaces="llm"),),
        prometheus=PrometheusFacts("http://prometheus.monitoring:9090", "monitoring/prometheus", 1),
    )
    return dataclasses.replace(healthy, **changed)


def of(check, found):
    return [(item.severity, item.message, item.fix or "") for item in judge(found) if item.check == check]


def only(check, found):
    (item,) = of(check, found)
    return item


def test_one_node_is_told_as_one():
    assert "has 1 node, may be sized" in only("pools", facts(pools=(pool(replicas=1, allowed_namespaces="llm"),)))[1]


def test_a_healthy_cluster_has_no_problem():
    findings = judge(facts())
    assert worst(findings) is not Severity.problem
    assert {item.check for item in findings if item.severity is Severity.ok} >= {
        "crd",
        "operator",
        "permissions",
        "gpus",
        "pools",
    }


@pytest.mark.parametrize(
    ("check", "changed", "words", "fix"),
    [
        ("namespace", {"namespace_exists": False}, "no namespace llm", "kubectl create namespace llm"),
        ("crd", {"definition": None}, "is missing", "servingplan crd | kubectl apply --server-side"),
        ("crd", {"definition": Unread("no"), "groups": {}}, "is not served", "servingplan crd"),
        ("operator", {"operators": ()}, "no operator runs", "helm upgrade --install"),
        ("permissions", {"refused": (REFUSED,)}, "cannot size node pools: lacks patch nodepools.karpenter.sh", "helm upgrade"),
        ("gpus", {"nodes": (), "pools": ()}, "no node offers GPUs, and no pool", "device plugin"),
        ("pools", {"pools": (pool(claimed_by="llm/gone"),)}, "plan llm/gone, which does not exist", "claimed-by-"),
        ("prometheus", {"prometheus": PrometheusFacts("http://p.m:9090", "m/p")}, "no ready address", "kubectl get service"),
    ],
)  # fmt: skip
def test_a_problem_has_its_fix(check, changed, words, fix):
    assert any(
        severity is Severity.problem and words in message and fix in command
        for severity, message, command in of(check, facts(**changed))
    ), of(check, facts(**changed))


def crd_with(change):
    found = copy.deepcopy(custom_resource_definition())
    change(found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"])
    return facts(definition=found)


def test_an_older_definition_names_the_fields_that_are_dropped():
    severity, message, _ = only("crd", crd_with(lambda parts: parts["spec"]["properties"].pop("demand")))
    assert severity is Severity.problem
    assert "drops spec.demand of plans" in message


def test_a_newer_definition_is_a_note():
    def add(parts):
        parts["spec"]["properties"]["later"] = {"type": "string"}

    severity, message, _ = only("crd", crd_with(add))
    assert (severity, "ignores spec.later" in message) == (Severity.note, True)


def test_other_limits_are_a_note_and_other_words_are_none():
    def limit(parts):
        parts["spec"]["properties"]["models"]["maxItems"] = 1

    def reword(parts):
        parts["spec"]["description"] = "Other words."

    severity, message, _ = only("crd", crd_with(limit))
    assert (severity, "spec.models" in message) == (Severity.note, True)
    assert only("crd", crd_with(reword))[0] is Severity.ok


def test_a_version_that_is_not_served_is_a_problem():
    found = custom_resource_definition()
    found["spec"]["versions"][0]["name"] = "v1beta1"
    severity, message, _ = only("crd", facts(definition=found))
    assert (severity, "serves v1beta1 and not v1alpha1" in message) == (Severity.problem, True)


def test_a_definition_that_is_not_established_is_a_problem():
    found = custom_resource_definition()
    found["status"] = {"conditions": [{"type": "NamesAccepted", "status": "False", "message": "lsp is taken"}]}
    severity, message, _ = only("crd", facts(definition=found))
    assert (severity, "lsp is taken" in message) == (Severity.problem, True)


def test_a_namespace_that_no_operator_manages_is_added_to_its_list():
    said = of("operator", facts(namespace="other"))
    assert any(severity is Severity.problem and "namespaces={llm,chat,other}" in fix for severity, _, fix in said), said


def test_an_operator_that_is_no_deployment_is_known_by_its_lease():
    acts = Leader("kube-system/servingplan-in-llm", "laptop_1a2b", 3.2)
    severity, message, fix = only("operator", facts(operators=(), leader=acts))
    assert (severity, fix) == (Severity.note, "")
    assert "laptop_1a2b acts: it renewed the Lease kube-system/servingplan-in-llm 3 s ago" in message
    assert only("operator", facts(operators=(), leader=Unread("no")))[0] is Severity.problem


def test_a_plan_that_waits_for_an_operator_to_go_is_named_with_the_way_out():
    going = PlanFacts("llm", "chat", "chat-routing", False, deleted_at="2026-12-01T05:00:00Z")
    severity, message, fix = only("plans", facts(plans=(going,)))
    assert (severity, fix) == (Severity.problem, "servingplan uninstall -n llm")
    assert "plan chat is being deleted since 2026-12-01T05:00:00Z, and no operator acts" in message
    assert of("plans", facts(plans=(going,), leader=Leader("kube-system/servingplan-in-llm", "me", 1.0))) == []
    assert of("plans", facts(plans=(going,), leader=Unread("no Lease"))) == []
    assert of("plans", facts(plans=(dataclasses.replace(going, namespace="other"),))) == []
    assert of("plans", facts(plans=(dataclasses.replace(going, deleted_at=None),))) == []


def test_two_installations_for_one_namespace_are_a_note():
    second = dataclasses.replace(OPERATOR, namespace="second", release="second")
    said = of("operator", facts(operators=(OPERATOR, second)))
    assert said[-1] == (
        Severity.note,
        "servingplan-system/servingplan and second/servingplan manage the namespace llm: one acts, and the other waits for "
        "its Lease",
        "helm uninstall second -n second",
    )
    elsewhere = dataclasses.replace(second, settings={"SERVINGPLAN_NAMESPACES": "other"})
    assert len(of("operator", facts(operators=(OPERATOR, elsewhere)))) == 2


def test_the_rights_of_a_person_are_a_note_beside_an_operator():
    """The person may be no operator; the operator's account is named."""
    severity, message, fix = only("permissions", facts(account=None, refused=(REFUSED,)))
    assert (severity, "lacks 1 of 70 rights" in message) == (Severity.note, True)
    assert fix == f"servingplan doctor -n llm --as {OPERATOR.user}"
    assert "has all 70 rights" in only("permissions", facts(account=None))[1]
    assert only("permissions", facts(account=None, refused=(REFUSED,), operators=()))[0] is Severity.problem


def test_what_an_installation_may_leave_out_is_a_note():
    right = Right("leaderworkerset.x-k8s.io", "leaderworkersets", "create", "llm", SPAN)
    assert only("permissions", facts(refused=(right,)))[0] is Severity.note


def test_verbs_of_one_resource_are_told_together():
    refused = tuple(Right("apps", "deployments", verb, "llm", "write") for verb in ("create", "delete"))
    assert "lacks create, delete deployments.apps in llm" in only("permissions", facts(refused=refused))[1]


def test_cards_are_told_by_the_catalogue_and_by_pool():
    nodes = (
        node("a", karpenter__x="", **{"karpenter.sh__nodepool": "h100"}),
        node("b", ready=False, **{"karpenter.sh__nodepool": "h100"}),
        node("c", product="Unheard-Of-9000", gpus=2),
        node("d", product=None, gpus=1),
        node("e", gpus=0),
    )
    said = of("gpus", facts(nodes=nodes))
    text = "\n".join(message for _, message, _ in said)
    assert (
        "2 nodes (a, b) with 8 nvidia.com/gpu each, of which 1 can take pods, of NodePool h100: H100-SXM-80GB" in text
    )
    assert "Unheard-Of-9000 is not in the catalogue" in text
    assert "1 node (d) with 1 nvidia.com/gpu each: no label of the nodes names the card" in text
    assert "node e is labelled as one with NVIDIA-H100-80GB-HBM3, and offers no GPUs" in text
    assert [severity for severity, *_ in said].count(Severity.ok) == 1


def test_a_card_of_the_installation_is_known():
    from servingplan.profiles.catalogue import packaged_text

    header, first, *_ = packaged_text("gpus.csv").splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=False))
    row = ",".join({**cells, "name": "House-Card-1", "aliases": ""}.values())
    seen = SeenCatalogue(config_map="cards", kind="gpus", key="gpus.csv", text=f"{header}\n{row}\n")
    said = of("gpus", facts(nodes=(node("a", product="House-Card-1"),), catalogues=(seen,)))
    assert any(message.endswith("House-Card-1") and severity is Severity.ok for severity, message, _ in said), said


@pytest.mark.parametrize(
    ("item", "severity", "words", "fix"),
    [
        (pool(), "note", "does not let plans of llm size it",
         "kubectl annotate nodepools.karpenter.sh h100 servingplan.dev/allowed-namespaces=llm"),
        (pool(allowed_namespaces="chat"), "note", "only of chat", "--overwrite servingplan.dev/allowed-namespaces=chat,llm"),
        (pool(allowed_namespaces="*"), "ok", "may be sized by plans of llm", ""),
        (pool(allowed_namespaces="llm", max_nodes="4"), "ok", "has 0 nodes, at most 4", ""),
        (pool(allowed_namespaces="llm", owners=("kubectl-create",)), "ok", ".spec.replicas was last set by kubectl-create", ""),
        (pool(allowed_namespaces="llm", owners=("argocd-controller",)), "note", "argocd-controller owns .spec.replicas",
         "docs/gitops.md"),
        (pool(replicas=3, owners=("kubectl",), allowed_namespaces="llm", claimed_by="llm/chat", asked_nodes="1"), "problem",
         "kubectl set .spec.replicas to 3 after plan llm/chat asked for 1", "servingplan.dev/claimed-by-"),
        (pool(replicas=1, allowed_namespaces="llm", claimed_by="llm/chat", asked_nodes="1"), "ok",
         "sized by plan llm/chat", ""),
        (pool(key="MachineSet.cluster.x-k8s.io"), "note", "does not size this kind", "poolKinds"),
        (pool(replicas=None), "note", "is dynamic", ""),
    ],
)  # fmt: skip
def test_pools_say_who_may_size_them_and_who_does(item, severity, words, fix):
    plans = (PlanFacts("llm", "chat", "chat-routing", False),)
    found = facts(pools=(item,), plans=plans, routing_readers={"chat-routing": ("gateway-0",)})
    said, message, command = only("pools", found)
    assert (said, words in message, fix in command) == (severity, True, True), (said, message, command)


def helm_commands(found):
    """Every command of Helm among the fixes."""
    return [item.fix for item in judge(found) if (item.fix or "").startswith("helm ")]


def test_an_upgrade_that_is_named_keeps_the_values_of_the_release():
    elsewhere = dataclasses.replace(OPERATOR, settings={**OPERATOR.settings, "SERVINGPLAN_NAMESPACES": "other"})
    for changed in (
        {"prometheus": None},
        {"refused": (REFUSED,)},
        {"operators": (elsewhere,), "prometheus": None, "refused": (REFUSED,)},
    ):
        commands = helm_commands(facts(**changed))
        assert commands, changed
        if "operators" in changed:
            assert all("--set 'namespaces={other,llm}'" in command for command in commands)
        for command in commands:
            assert "--reset-then-reuse-values" in command
            assert "--install" not in command


def test_an_upgrade_of_an_operator_for_all_namespaces_says_so():
    """The chart is not upgraded without a list, and the values of an old release have none."""
    everywhere = dataclasses.replace(OPERATOR, settings={**OPERATOR.settings, "SERVINGPLAN_NAMESPACES": ""})
    commands = helm_commands(facts(operators=(everywhere,), prometheus=None))
    assert commands
    assert all("--set 'namespaces={*}'" in command for command in commands)


def test_an_installation_that_is_named_is_for_the_namespace_alone():
    commands = helm_commands(facts(operators=(), prometheus=None, refused=(REFUSED,)))
    assert len(commands) == 3
    assert all("--set 'namespaces={llm}'" in command for command in commands)


def test_a_plan_that_nobody_routes_by_is_a_note():
    plans = (PlanFacts("llm", "chat", "chat-routing", False), PlanFacts("llm", "routes", "routes-routing", True))
    read = facts(plans=plans, routing_readers={"chat-routing": ("gateway-0",)})
    assert any("is read by gateway-0" in message for _, message, _ in of("gateway", read))
    assert not any("no pod of llm" in message for _, message, _ in of("gateway", read))
    unread = facts(plans=plans)
    assert [message for _, message, _ in of("gateway", unread) if "no pod of llm" in message] == [
        "plan chat: no pod of llm reads the ConfigMap chat-routing: no request follows it"
    ]


@pytest.mark.parametrize(
    ("check", "group", "changed", "words"),
    [
        ("multi-node", "leaderworkerset.x-k8s.io", {}, "LeaderWorkerSet is served as v1"),
        ("kueue", "kueue.x-k8s.io", {"queues": ("gpus",)}, "queues gpus"),
        ("gateway", "gateway.networking.k8s.io", {"gateways": ("infra/public",)}, "Gateways: infra/public"),
        ("dra", "resource.k8s.io", {"devices": {"gpu.nvidia.com": 16}}, "16 of gpu.nvidia.com"),
        (
            "dra",
            "resource.k8s.io",
            {"devices": {"gpu.nvidia.com": 16}, "device_classes": ("gpu.nvidia.com", "mig.nvidia.com")},
            "DeviceClasses: gpu.nvidia.com, mig.nvidia.com",
        ),
    ],
)
def test_what_is_installed_beside(check, group, changed, words):
    there = facts(groups=GROUPS | {group: ("v1",)}, **changed)
    assert words in only(check, there)[1]
    absent = facts(groups={key: it for key, it in GROUPS.items() if key != group})
    assert words not in only(check, absent)[1]
    assert only(check, absent)[0] is not Severity.problem


UNREADABLE = (
    "refused",
    "operators",
    "nodes",
    "plans",
    "gateways",
    "prometheus",
    "devices",
    "queues",
    "routing_readers",
)


@pytest.mark.parametrize("source", UNREADABLE)
def test_a_source_that_cannot_be_read_is_a_note(source):
    groups = GROUPS | {"kueue.x-k8s.io": ("v1",), "gateway.networking.k8s.io": ("v1",)}
    plans = (PlanFacts("llm", "chat", "chat-routing", False),)
    findings = judge(facts(**{"groups": groups, "plans": plans, source: Unread("may not list it")}))
    assert worst(findings) is Severity.note
    assert any("may not list it" in item.message for item in findings)
