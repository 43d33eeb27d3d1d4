"""Judges the facts of a cluster: findings, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from servingplan.api.crd import custom_resource_definition
from servingplan.api.v1alpha1 import GROUP, PLURAL, VERSION
from servingplan.doctor.capacity import gpus, pools
from servingplan.doctor.facts import Facts, Finding, Leader, Operator, PlanFacts, Right, Severity, Unread
from servingplan.doctor.rights import OPTIONAL
from servingplan.model import names

CHART = "charts/servingplan"
OWN_NAMESPACE = "servingplan-system"
APPLY_CRD = "servingplan crd | kubectl apply --server-side --force-conflicts -f -"
MOST_FIELDS = 4
"""Fields of a schema that a message names; the rest is counted."""
NOTE, OK, PROBLEM = Severity.note, Severity.ok, Severity.problem


def judge(facts: Facts) -> tuple[Finding, ...]:
    """All findings, in the order in which a person would look."""
    return (
        *_namespace(facts),
        *_crd(facts),
        *_operator(facts),
        *_plans(facts),
        *_permissions(facts),
        *gpus(facts),
        *pools(facts),
        *_gateway(facts),
        *_prometheus(facts),
        *_multi_node(facts),
        *_dra(facts),
        *_kueue(facts),
    )


def worst(findings: tuple[Finding, ...]) -> Severity:
    """The severity that matters most; ok if there is no finding."""
    return next((level for level in (PROBLEM, NOTE) if any(item.severity is level for item in findings)), OK)


def unread(check: str, what: str, source: Unread) -> Finding:
    """The finding that the caller cannot read a source; the operator may read it all the same."""
    return Finding(check, NOTE, f"{what} cannot be read: {source.why}", "run this with an account that may read it")


def _namespace(facts: Facts) -> Iterator[Finding]:
    if facts.namespace_exists is False:
        message = f"there is no namespace {facts.namespace}"
        yield Finding("namespace", PROBLEM, message, f"kubectl create namespace {facts.namespace}")


def _crd(facts: Facts) -> Iterator[Finding]:
    definition = facts.definition
    if isinstance(definition, Unread):
        served = facts.groups.get(GROUP, ())
        if VERSION in served:
            yield Finding("crd", OK, f"{PLURAL}.{GROUP} is served as {VERSION}; its schema cannot be read")
        else:
            yield Finding("crd", PROBLEM, f"{PLURAL}.{GROUP} is not served as {VERSION}", APPLY_CRD)
        return
    if definition is None:
        yield Finding("crd", PROBLEM, f"the CustomResourceDefinition {PLURAL}.{GROUP} is missing", APPLY_CRD)
        return
    yield _schema(definition)


def _schema(definition: Mapping[str, Any]) -> Finding:
    found = {item["name"]: item for item in definition["spec"]["versions"]}
    ours = custom_resource_definition()["spec"]["versions"][0]
    theirs = found.get(VERSION)
    if theirs is None or not theirs.get("served"):
        message = f"{PLURAL}.{GROUP} serves {', '.join(sorted(found))} and not {VERSION}, which this program needs"
        return Finding("crd", PROBLEM, message, APPLY_CRD)
    for condition in (definition.get("status") or {}).get("conditions") or ():
        if condition.get("type") in ("Established", "NamesAccepted") and condition.get("status") != "True":
            message = f"{PLURAL}.{GROUP}: {condition['type']} is {condition['status']}: {condition.get('message', '')}"
            return Finding("crd", PROBLEM, message, f"kubectl describe crd {PLURAL}.{GROUP}")
    wanted, there = (dict(_fields(item["schema"]["openAPIV3Schema"], "")) for item in (ours, theirs))
    if missing := sorted(wanted.keys() - there.keys()):
        message = f"the CRD is older than this program: the API server drops {_some(missing)} of plans in {VERSION}"
        return Finding("crd", PROBLEM, message, APPLY_CRD)
    if more := sorted(there.keys() - wanted.keys()):
        message = f"the CRD is newer than this program, which ignores {_some(more)}"
        return Finding("crd", NOTE, message, "upgrade this program, or the operator, to the version of the CRD")
    if changed := sorted(field for field in wanted if wanted[field] != there[field]):
        message = f"the CRD of {VERSION} has other limits or rules than this program for {_some(changed)}"
        return Finding("crd", NOTE, message, APPLY_CRD)
    return Finding("crd", OK, f"{PLURAL}.{GROUP} serves {VERSION} with the schema of this program")


def _fields(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The fields of a schema by path, each with its own limits and rules. Descriptions are words, and may differ."""
    parts = ("properties", "items", "additionalProperties", "description")
    yield path, {key: value for key, value in node.items() if key not in parts}
    for name, item in (node.get("properties") or {}).items():
        yield from _fields(item, f"{path}.{name}".removeprefix("."))
    for key, sign in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(node.get(key), Mapping):
            yield from _fields(node[key], f"{path}{sign}")


def _some(fields: list[str]) -> str:
    # A missing part lacks all of its fields, so only the part is named.
    tops = [field for field in fields if not any(field.startswith(other) for other in fields if other != field)]
    more = f" and {len(tops) - MOST_FIELDS} more" if len(tops) > MOST_FIELDS else ""
    return ", ".join(field or "the object" for field in tops[:MOST_FIELDS]) + more


def _operator(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.operators, Unread):
        yield unread("operator", "Deployments of other namespaces", facts.operators)
        return
    if not facts.operators:
        yield _without_a_deployment(facts)
    for item in facts.operators:
        where = f"Deployment {item.namespace}/{item.name}"
        if item.ready:
            yield Finding("operator", OK, f"{where}: {item.ready} of {item.replicas} replicas are ready")
        else:
            message = f"{where}: none of {item.replicas} replicas is ready"
            look = f"kubectl describe pods -n {item.namespace} -l app.kubernetes.io/component=operator"
            yield Finding("operator", PROBLEM, message, look)
    managing = [item for item in facts.operators if item.has(facts.namespace)]
    if len(managing) > 1:
        names_of = " and ".join(f"{item.namespace}/{item.name}" for item in managing)
        message = f"{names_of} manage the namespace {facts.namespace}: one acts, and the other waits for its Lease"
        spare = managing[-1]
        yield Finding("operator", NOTE, message, f"helm uninstall {spare.release or spare.name} -n {spare.namespace}")
    if facts.operators and not managing:
        first = facts.operators[0]
        listed = names.words(first.settings["SERVINGPLAN_NAMESPACES"])
        message = f"no operator manages the namespace {facts.namespace}; {first.namespace}/{first.name} has {', '.join(listed)}"
        yield Finding("operator", PROBLEM, message, _chart_for(facts))


def _plans(facts: Facts) -> Iterator[Finding]:
    """Plans of the namespace whose deletion waits, where nobody acts who could take its steps."""
    if isinstance(facts.plans, Unread) or facts.leader is not None:
        return
    for plan in facts.plans:
        if plan.namespace == facts.namespace and plan.deleted_at is not None:
            message = (
                f"plan {plan.name} is being deleted since {plan.deleted_at}, and no operator acts that could retire it"
            )
            yield Finding("plans", PROBLEM, message, f"servingplan uninstall -n {plan.namespace}")


def _without_a_deployment(facts: Facts) -> Finding:
    leader = facts.leader
    if not isinstance(leader, Leader):
        return Finding("operator", PROBLEM, "no operator runs in this cluster", _chart_for(facts))
    message = (
        f"no Deployment of an operator is in this cluster, but {leader.holder} acts: it renewed the Lease {leader.lease} "
        f"{leader.seconds_ago:.0f} s ago"
    )
    return Finding("operator", NOTE, message)


EVERYWHERE = " --set 'namespaces={*}'"
"""What an upgrade needs beside the old release's values where the operator works in all namespaces.

The old values do not name them, and the chart refuses an upgrade without a list.
"""


def _chart_for(facts: Facts) -> str:
    """The command that brings the present chart to the namespace: to its operator, else to the first one, else to a new one.

    A release keeps its values, which ``--set`` alone would drop. Without a list an operator works in its release's namespace.
    """
    if isinstance(facts.operators, Unread):
        return "servingplan doctor  # as somebody who may list Deployments: this command rests on the operators that are there"
    operators = facts.operators
    if mine := next((item for item in operators if item.has(facts.namespace)), None):
        return _upgrade(mine) + ("" if names.words(mine.settings.get("SERVINGPLAN_NAMESPACES", "")) else EVERYWHERE)
    listed = names.words(operators[0].settings["SERVINGPLAN_NAMESPACES"]) if operators else ()
    install = f"helm upgrade --install servingplan {CHART} -n {OWN_NAMESPACE} --create-namespace"
    command = _upgrade(operators[0]) if operators else install
    return f"{command} --set 'namespaces={{{','.join([*listed, facts.namespace])}}}'"


def _upgrade(operator: Operator) -> str:
    return f"helm upgrade {operator.release or operator.name} {CHART} -n {operator.namespace} --reset-then-reuse-values"


def _permissions(facts: Facts) -> Iterator[Finding]:
    who = facts.account or "this kubeconfig's user"
    operators = () if isinstance(facts.operators, Unread) else facts.operators
    mine = next((item for item in operators if item.has(facts.namespace)), None)
    if isinstance(facts.refused, Unread):
        yield Finding(
            "permissions",
            NOTE,
            f"the rights of {who} cannot be asked for: {facts.refused.why}",
            "run this with an account that may create subjectaccessreviews.authorization.k8s.io",
        )
        return
    if facts.account is None and mine is not None:
        # A person who runs this need not have the rights of the operator, whose account can be asked about.
        lacks = f"lacks {len(facts.refused)} of" if facts.refused else "has all"
        message = (
            f"{who} {lacks} {facts.rights} rights that the operator needs, and is not the operator: that is {mine.user}"
        )
        yield Finding("permissions", NOTE, message, f"servingplan doctor -n {facts.namespace} --as {mine.user}")
        return
    if not facts.refused:
        yield Finding("permissions", OK, f"{who} has all {facts.rights} rights that the operator needs")
    for purpose, found in groupby(sorted(facts.refused, key=lambda right: right.purpose), lambda right: right.purpose):
        message = f"{who} cannot {purpose}: lacks {_listed(list(found))}"
        yield Finding("permissions", NOTE if purpose in OPTIONAL else PROBLEM, message, _chart_for(facts))


def _listed(rights: list[Right]) -> str:
    """The rights in few words: the verbs of one resource together."""
    texts = []
    for (name, where), found in groupby(rights, lambda right: (str(right).partition(" ")[2], right.namespace)):
        verbs = ", ".join(right.verb for right in found)
        texts.append(f"{verbs} {name}" + ("" if where else " in the cluster"))
    return "; ".join(texts)


def _gateway(facts: Facts) -> Iterator[Finding]:
    versions = facts.groups.get("gateway.networking.k8s.io")
    if versions is None:
        message = "the Gateway API is not installed; plans with gateway.httpRoute need it, others do not"
        yield Finding(
            "gateway", NOTE, message, "install the Gateway API and a gateway that implements it: docs/httproute.md"
        )
    elif "v1" not in versions:
        message = f"the Gateway API serves {', '.join(versions)}; HTTPRoutes are written in v1"
        yield Finding("gateway", PROBLEM, message, "upgrade the Gateway API to a version that serves v1")
    elif isinstance(facts.gateways, Unread):
        yield unread("gateway", "Gateways", facts.gateways)
    elif facts.gateways:
        yield Finding("gateway", OK, f"the Gateway API is served; Gateways: {', '.join(facts.gateways)}")
    else:
        message = "the Gateway API is served, and there is no Gateway; plans with gateway.httpRoute need one"
        yield Finding("gateway", NOTE, message, "create a Gateway: docs/httproute.md")
    if isinstance(facts.plans, Unread):
        yield unread("gateway", "plans", facts.plans)
        return
    own = [plan for plan in facts.plans if plan.namespace == facts.namespace]
    readers = facts.routing_readers
    if own and isinstance(readers, Unread):
        yield unread("gateway", f"pods of {facts.namespace}", readers)
        return
    assert not isinstance(readers, Unread)
    for plan in own:
        pods = readers.get(plan.routing, ())
        if pods:
            yield Finding(
                "gateway", OK, f"plan {plan.name}: the ConfigMap {plan.routing} is read by {', '.join(pods[:3])}"
            )
        elif not plan.has_routes:
            message = f"plan {plan.name}: no pod of {facts.namespace} reads the ConfigMap {plan.routing}: no request follows it"
            yield Finding("gateway", NOTE, message, _gateway_for(plan))


def _gateway_for(plan: PlanFacts) -> str:
    """The command that applies the example's gateway for a plan; the example is of a plan ``chat``."""
    changes = [f"s/chat/{plan.name}/g"] if plan.name != "chat" else []
    if plan.routing != (usual := names.routing_name(plan.name, None)):
        changes.append(f"s/{usual}/{plan.routing}/g")
    example = "examples/gateway/envoy.yaml"
    if not changes:
        return f"kubectl apply -n {plan.namespace} -f {example}"
    return f"sed '{'; '.join(changes)}' {example} | kubectl apply -n {plan.namespace} -f -"


def _prometheus(facts: Facts) -> Iterator[Finding]:
    found = facts.prometheus
    if isinstance(found, Unread):
        yield unread("prometheus", "the Service of Prometheus", found)
    elif found is None:
        message = "the installation names no Prometheus; plans with measured demand must name their own"
        fix = f"{_chart_for(facts)} --set prometheus.url=http://NAME.NAMESPACE:9090"
        yield Finding("prometheus", NOTE, message, fix)
    elif found.service is None:
        yield Finding("prometheus", NOTE, f"{found.url} names no Service of this cluster, so it was not looked for")
    elif found.ready:
        yield Finding(
            "prometheus", OK, f"{found.url}: the Service {found.service} is ready at {_count(found.ready, 'address')}"
        )
    else:
        namespace, _, name = found.service.partition("/")
        message = f"{found.url}: the Service {found.service} does not exist or has no ready address"
        yield Finding(
            "prometheus", PROBLEM, message, f"kubectl get service,endpointslices -n {namespace} | grep {name}"
        )


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}es"


def _multi_node(facts: Facts) -> Iterator[Finding]:
    if versions := facts.groups.get("leaderworkerset.x-k8s.io"):
        yield Finding("multi-node", OK, f"LeaderWorkerSet is served as {versions[0]}")
    else:
        message = "LeaderWorkerSet is not installed; only replicas over several nodes need it"
        yield Finding(
            "multi-node", NOTE, message, "install LeaderWorkerSet, if a model does not fit on one node: docs/groups.md"
        )


def _dra(facts: Facts) -> Iterator[Finding]:
    if "resource.k8s.io" not in facts.groups:
        yield Finding(
            "dra", NOTE, "the API server does not serve dynamic resource allocation; GPUs are extended resources"
        )
    elif isinstance(facts.devices, Unread):
        yield unread("dra", "ResourceSlices", facts.devices)
    elif facts.devices:
        said = ", ".join(f"{count} of {driver}" for driver, count in facts.devices.items())
        classes = "unread" if isinstance(facts.device_classes, Unread) else ", ".join(facts.device_classes) or "none"
        yield Finding(
            "dra",
            OK,
            f"devices in ResourceSlices: {said}; DeviceClasses: {classes}",
            "name the class as dra.deviceClass of a plan's pool to use its devices: docs/dra.md",
        )
    else:
        yield Finding("dra", OK, "dynamic resource allocation is served; no driver publishes devices")


def _kueue(facts: Facts) -> Iterator[Finding]:
    if "kueue.x-k8s.io" not in facts.groups:
        yield Finding("kueue", OK, "Kueue is not installed; plans do not need it")
    elif isinstance(facts.queues, Unread):
        yield unread("kueue", "LocalQueues", facts.queues)
    elif facts.queues:
        message = f"Kueue is installed; a plan may name one of the queues {', '.join(facts.queues)}"
        label = f"kubectl label lsp NAME -n {facts.namespace} kueue.x-k8s.io/queue-name={facts.queues[0]}"
        yield Finding("kueue", OK, message, label)
    else:
        message = (
            f"Kueue is installed; the namespace {facts.namespace} has no LocalQueue, and plans without one are not held"
        )
        yield Finding("kueue", NOTE, message)
