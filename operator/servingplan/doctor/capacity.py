"""What the nodes and the objects of pools mean for plans: which cards there are, and who may size what."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from servingplan.doctor.facts import Facts, Finding, Operator, Severity, SizedObject, Unread
from servingplan.model import names
from servingplan.model.world import Node
from servingplan.planning.inventory import PRODUCT_LABELS, product_of
from servingplan.planning.known import known_with
from servingplan.planning.resources import offered_by
from servingplan.pool_kinds.protocol import INSTANCE_TYPE
from servingplan.pool_kinds.table import kind_at, path_of
from servingplan.profiles.catalogue import Catalogue

MOST_NAMES = 3
"""Names that a message lists; the rest is counted."""
GITOPS_MANAGERS = ("argocd-controller", "helm-controller", "kustomize-controller", "helm", "Helm")
"""Field managers that write what is in Git again: Argo CD, Flux, Helm."""
NOTE, OK, PROBLEM = Severity.note, Severity.ok, Severity.problem


def gpus(facts: Facts) -> Iterator[Finding]:
    """The cards of the nodes, by the labels that name them and by the catalogue."""
    if isinstance(facts.nodes, Unread):
        yield Finding(
            "gpus", NOTE, f"nodes cannot be read: {facts.nodes.why}", "run this with an account that may read them"
        )
        return
    known = known_with(() if isinstance(facts.catalogues, Unread) else facts.catalogues)
    for problem in known.problems:
        yield Finding("gpus", PROBLEM, problem, "correct the ConfigMap; its other rows count")
    catalogue = known.catalogue
    with_gpus = [node for node in facts.nodes if offered_by(node)]
    groups: dict[tuple[str, str | None, str, int], list[Node]] = defaultdict(list)
    for node in with_gpus:
        product = product_of(node.labels, catalogue)
        for resource, count in offered_by(node).items():
            groups[_card(product, catalogue) or "", product, resource, count].append(node)
    for (card, product, resource, count), nodes in sorted(groups.items(), key=lambda entry: str(entry[0])):
        yield _group(facts, card, product, f"{count} {resource}", nodes)
    for node in facts.nodes:
        if node not in with_gpus and any(label in node.labels for label in PRODUCT_LABELS if label != INSTANCE_TYPE):
            said = product_of(node.labels, catalogue)
            message = f"node {node.name} is labelled as one with {said}, and offers no GPUs"
            look = f"kubectl get pods -A --field-selector spec.nodeName={node.name}   # is a device plugin there, and ready?"
            yield Finding("gpus", NOTE, message, look)
    if not with_gpus and not (isinstance(facts.devices, Unread) or facts.devices):
        may_come = any(_verdict(item, facts)[0] is OK for item in facts.pools)
        message = "no node offers GPUs" + (
            "; a pool may bring some" if may_come else ", and no pool may be sized that could"
        )
        fix = None if may_come else "add nodes with GPUs and their device plugin, or let plans size a pool"
        yield Finding("gpus", NOTE if may_come else PROBLEM, message, fix)


def _card(product: str | None, catalogue: Catalogue) -> str | None:
    found = None if product is None else catalogue.find_gpu(product)
    return None if found is None else found.name


def _group(facts: Facts, card: str, product: str | None, has: str, nodes: Sequence[Node]) -> Finding:
    usable = sum(node.usable for node in nodes)
    away = "" if usable == len(nodes) else f", of which {usable} can take pods"
    pools = sorted({name for node in nodes if (name := _pool_of(node, facts)) is not None})
    where = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''} ({_some([node.name for node in nodes])})"
    text = f"{where} with {has} each{away}" + (f", of {', '.join(pools)}" if pools else "")
    if card:
        named = "" if card == product else f" (the nodes say {product})"
        return Finding("gpus", OK, f"{text}: {card}{named}")
    if product is None:
        advice = "run GPU feature discovery on the nodes, or give gpu in the plan's pool"
        return Finding("gpus", NOTE, f"{text}: no label of the nodes names the card", advice)
    advice = "give gpuSpec in the plan's pool, or add a row to catalogues.gpus of the chart (docs/catalogue.md)"
    return Finding("gpus", NOTE, f"{text}: {product} is not in the catalogue", advice)


def _pool_of(node: Node, facts: Facts) -> str | None:
    for item in facts.pools:
        path = _path(item)
        label = None if path is None else kind_at(item.key, path).node_label(item.item)
        if label is not None and node.labels.get(label[0]) == label[1]:
            return f"{_kind(item)} {item.name}"
    return None


def pools(facts: Facts) -> Iterator[Finding]:
    """Which objects plans of the namespace may size, and who else does."""
    for key, why in sorted(facts.unread_pools.items()):
        yield Finding(
            "pools", NOTE, f"objects {key} cannot be read: {why}", "run this with an account that may read them"
        )
    for item in sorted(facts.pools, key=lambda item: (item.key, item.namespace or "", item.name)):
        severity, message, fix = _verdict(item, facts)
        yield Finding("pools", severity, f"{_kind(item)} {_name(item)}: {message}", fix)
    if not facts.pools and not facts.unread_pools:
        message = "no object sizes a pool of nodes; plans use the nodes that are there"
        yield Finding("pools", NOTE, message, "docs/capacity.md lists the kinds of pools that plans can size")


def _verdict(item: SizedObject, facts: Facts) -> tuple[Severity, str, str | None]:
    annotations = item.item["metadata"].get("annotations") or {}
    allowed = _allowed_kinds(facts)
    if allowed is not None and item.key not in allowed:
        return (
            NOTE,
            "the installation does not size this kind",
            "add the kind to the chart's poolKinds (docs/capacity.md)",
        )
    path, problem = path_of(item.key, item.name, annotations, written=None, scalable=item.scalable)
    if path is None:
        return NOTE, str(problem), None
    kind = kind_at(item.key, path)
    if (problem := kind.problem(item.item)) is not None:
        return NOTE, problem, None
    if (who := kind.sized_by(item.item)) is not None:
        return NOTE, f"is sized by {who}, so plans leave it alone", "turn that off, if plans are to size it"
    field = ".".join(("", *path))
    holder = annotations.get(names.CLAIM_ANNOTATION)
    if holder and not _lives(holder, facts):
        message = f"is claimed by plan {holder}, which does not exist"
        return PROBLEM, message, f"{_annotate(item)} {names.CLAIM_ANNOTATION}-"
    nodes = kind.wanted(item.item)
    asked = annotations.get(names.SIZE_ANNOTATION)
    if holder and asked is not None and asked != str(nodes):
        others = ", ".join(item.size_owners) or "somebody else"
        message = f"{others} set {field} to {nodes} after plan {holder} asked for {asked}, so the plan leaves it alone"
        advice = f"stop that manager (docs/gitops.md), then {_annotate(item)} {names.CLAIM_ANNOTATION}-"
        return PROBLEM, message, advice
    consent = names.words(annotations.get(names.ALLOWED_NAMESPACES_ANNOTATION, ""))
    if facts.namespace not in consent and "*" not in consent:
        message = f"does not let plans of {facts.namespace} size it" + (
            f", only of {', '.join(consent)}" if consent else ""
        )
        who = ",".join([*consent, facts.namespace])
        fix = f"{_annotate(item, overwrite=bool(consent))} {names.ALLOWED_NAMESPACES_ANNOTATION}={who}"
        return NOTE, message, fix
    most = annotations.get(names.MAX_NODES_ANNOTATION)
    said = f"has {nodes} node" + ("" if nodes == 1 else "s") + (f", at most {most}" if most else "")
    said += f", sized by plan {holder}" if holder else f", may be sized by plans of {facts.namespace}"
    git = [owner for owner in item.size_owners if owner in GITOPS_MANAGERS]
    if git:
        message = f"{said}; {', '.join(git)} owns {field} too, and sets it again unless it is told to ignore it"
        return NOTE, message, f"leave {field} out of what is in Git, or have it ignored: docs/gitops.md"
    owners = f"; {field} was last set by {', '.join(item.size_owners)}" if item.size_owners else ""
    return OK, f"{said}{owners}", None


def _allowed_kinds(facts: Facts) -> tuple[str, ...] | None:
    """The kinds that the operator of the namespace sizes; None if no operator was found."""
    operators: tuple[Operator, ...] = () if isinstance(facts.operators, Unread) else facts.operators
    mine = next((item for item in operators if item.has(facts.namespace)), None)
    return None if mine is None else names.words(mine.settings.get("SERVINGPLAN_POOL_KINDS", ""))


def _lives(holder: str, facts: Facts) -> bool:
    """Whether a plan (``namespace/name``) exists; it counts as existing if plans could not be read."""
    return isinstance(facts.plans, Unread) or any(f"{plan.namespace}/{plan.name}" == holder for plan in facts.plans)


def _path(item: SizedObject) -> tuple[str, ...] | None:
    annotations = item.item["metadata"].get("annotations") or {}
    return path_of(item.key, item.name, annotations, written=None, scalable=item.scalable)[0]


def _annotate(item: SizedObject, *, overwrite: bool = False) -> str:
    where = f" -n {item.namespace}" if item.namespace else ""
    return f"kubectl annotate {item.resource} {item.name}{where}" + (" --overwrite" if overwrite else "")


def _kind(item: SizedObject) -> str:
    return item.key.partition(".")[0]


def _name(item: SizedObject) -> str:
    return f"{item.namespace}/{item.name}" if item.namespace else item.name


def _some(texts: list[str]) -> str:
    found = sorted(Counter(texts))
    more = f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
    return ", ".join(found[:MOST_NAMES]) + more
