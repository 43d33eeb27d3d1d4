"""Every condition of a plan, and every reason of a condition or an Event: its meaning, and what to do.

``docs/conditions.md`` and the pages in ``docs/reasons`` are generated from this module (``docs/reference.py``). Tests check
that it holds every reason in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

LONGEST_MESSAGE = 1000
"""The characters of a condition's message."""


class Reason(NamedTuple):
    """A reason, the word that programs read."""

    meaning: str
    """One sentence."""
    advice: str = ""
    """What a person does about it. Empty: nothing."""


CONDITIONS: dict[str, str] = {
    "SpecValid": "The operator understands every field of the spec, and some pool can serve every model.",
    "InventoryAvailable": "Nodes, pods, pools and our own objects were read recently.",
    "ProfilesAvailable": "The rates that the plan uses are known.",
    "DemandKnown": "Measured rates are known. It is present only if the spec asks for them.",
    "PlanSolved": "There is a plan that serves some part of every class.",
    "WithinBudget": "The nodes that exist or are asked for cost no more than the budget.",
    "NodePoolsReady": "Every rented pool has exactly the nodes of the plan, and all are usable.",
    "WorkloadsReady": "Every replica of the plan is ready.",
    "RoutingPublished": "The published weights are those of the plan, and all gateways that can report it have taken them.",
    "Degraded": "A class goes to replicas that may answer later than its limits. It is present only while it holds.",
    "FleetObserved": "What the engines measure is read and compared with the profiles. It is present only if the spec asks to "
    "learn. Ready does not depend on it.",
    "SLOAttainable": "Ready replicas now carry all of the demand within its limits. Ready does not depend on it.",
    "Approved": "No plan waits for approval. Ready does not depend on it.",
    "Stalled": "A person has to act before Ready can hold. It is present only while it holds; kstatus reads it.",
    "Ready": "The plan is applied and serves. If it is False, its reason is that of the condition that causes it.",
}

_WAIT = "Wait."
_REPORT = "Report it with the output of `servingplan world`."

REASONS: dict[str, Reason] = {
    "AsPlanned": Reason("The cluster is as the plan says."),
    "Approved": Reason("No plan waits for approval."),
    "Auto": Reason("Plans are applied without approval."),
    "AwaitingApproval": Reason(
        "A plan waits for approval.",
        "Look at status.proposed, then run `servingplan approve NAME` or write its hash into servingplan.dev/approve.",
    ),
    "BelowTarget": Reason("The plan serves some class only in part.", "Raise the budget or add nodes, or accept it."),
    "BudgetBelowOneNode": Reason(
        "The budget keeps no running replica. It takes effect after a minute, or in mode Approve after the approval.",
        "Raise spec.budget.dollarsPerHour, or let it take effect.",
    ),
    "BudgetTooSmall": Reason(
        "The budget leaves some class without service.",
        "Raise spec.budget.dollarsPerHour, or the chart's namespaceBudgets if the message says so.",
    ),
    "CeilingUnreadable": Reason(
        "The annotation servingplan.dev/max-nodes of a pool is not a whole number, so the pool does not grow.",
        "Ask the pool's owner to write a number.",
    ),
    "ClaimedByOther": Reason(
        "Another plan sizes the pool.",
        "Remove the pool from one of the plans. If the other plan is gone, remove the annotation servingplan.dev/claimed-by.",
    ),
    "ContextAboveModel": Reason("A longest context is above the limit of the model.", "Lower maxModelLen."),
    "Declared": Reason("The plan uses the declared rates.", "The message says why no measured rate is used."),
    "Derived": Reason("Some rates are derived from data sheets.", "Measure them before you rely on them."),
    "EngineCrash": Reason("A replica's engine crashes repeatedly.", "Read the log of the pod."),
    "FalseDeclaration": Reason(
        "Nodes of a pool differ from the plan, so the pool does not grow.",
        "The message names the node, the field and both values. Correct the plan or the pool.",
    ),
    "Feasible": Reason("A plan was found, and its distance from the best plan is known."),
    "FieldOwnershipConflict": Reason(
        "Somebody else changed the size of a pool after the plan set it.",
        "Stop the other manager, then remove the annotation servingplan.dev/claimed-by.",
    ),
    "GatedByOther": Reason(
        "Pods wait behind a scheduling gate that is not ours.",
        "Let its owner admit them; for Kueue, raise the quota of the queue.",
    ),
    "HTTPRoutesUnavailable": Reason(
        "HTTPRoutes cannot be read or written.", "Install the Gateway API, or remove gateway.httpRoute."
    ),
    "ImagePullFailed": Reason(
        "An image cannot be pulled.", "Correct engine.image, or give imagePullSecrets in podTemplate."
    ),
    "Infeasible": Reason(
        "Floors or resilience.survive exclude every plan.", "The message names a smallest set of limits to change."
    ),
    "InsufficientCapacity": Reason(
        "A provider has no more nodes for a pool. The plan does without them until status.nodePools[].learnedCap.until.",
        "Wait, or give the plan another pool.",
    ),
    "KindNotAllowed": Reason(
        "The installation does not size objects of this kind.", "Add it to the chart's poolKinds."
    ),
    "LastGood": Reason("Prometheus gives no rates, so the plan uses the last good ones.", "Restore Prometheus."),
    "LeftBehind": Reason(
        "A plan was deleted and could not give everything back.", "Give back by hand what the Event names."
    ),
    "Measured": Reason("The plan uses measured rates."),
    "NameTaken": Reason(
        "An object of that name belongs to somebody else.", "Choose another name, or delete the object."
    ),
    "NoCapacity": Reason("No node can take a replica for some class.", "Add nodes or another pool, or raise maxNodes."),
    "NoFittingShape": Reason(
        "No GPU of the pools can serve a model within its limits.", "The message says what is short."
    ),
    "NoGPUsVisible": Reason(
        "Nodes of a pool are Ready and show no GPUs. They are given back later.",
        "Wait while nodes boot. Else check the device plugin, or the DRA driver, on the nodes that the message names.",
    ),
    "NoNodeMatches": Reason(
        "No node has the labels of a pool's nodeSelector.", "Correct nodeSelector or the labels of the nodes."
    ),
    "NoReadyBackend": Reason("A class has no ready replica, so the gateway answers 503.", _WAIT),
    "NotAccepted": Reason("A gateway does not accept an HTTPRoute.", "Follow the gateway's message."),
    "NotAcknowledged": Reason("A gateway has not taken the weights yet.", _WAIT),
    "NotAllowed": Reason(
        "The owner of a pool does not allow plans of this namespace to size it.",
        "Add the namespace to the pool's annotation servingplan.dev/allowed-namespaces.",
    ),
    "NotComing": Reason(
        "Requested nodes did not come in time. The plan does without them for a while.",
        "Check the pool's object and its provider.",
    ),
    "NotOffered": Reason(
        "Karpenter's metrics say that its cloud has no nodes of a pool at this moment. The plan does without more of them.",
        "Wait, or give the plan another pool.",
    ),
    "NotPlanned": Reason("There is no plan yet.", "Look at the other conditions."),
    "NothingLearned": Reason(
        "What engines measure does not fit the classes that are routed to them, or is too little.",
        "The message has the numbers. Correct the lengths of the classes.",
    ),
    "NotObserved": Reason(
        "What engines measure cannot be read.", "Scrape the engines, with the label pod (docs/learning.md)."
    ),
    "NotRenderable": Reason(
        "The plan has replicas over several nodes that cannot run here. It is only shown.",
        "The message says why: install the controller of LeaderWorkerSets, or use one GPU type.",
    ),
    "NotReservedYet": Reason(
        "The reservation of a pool has not begun. The plan does without it until then.",
        "Wait, or give the plan another pool for the time before.",
    ),
    "NotResizable": Reason(
        "The size of a pool's object cannot be set.",
        "The message says why: give it a whole number at its path, or make a static pool.",
    ),
    "Optimal": Reason("The best plan was found and proved to be the best."),
    "OverBudget": Reason(
        "Spend is above the budget.", "Wait. Replicas drain, lowest priority first, until spend is within the budget."
    ),
    "PathNotAllowed": Reason(
        "The operator does not know which field of a pool's object is its size.",
        "Ask the object's owner to write the path into its annotation servingplan.dev/replicas-path.",
    ),
    "PlanSolved": Reason("A new plan is in force."),
    "Observed": Reason("What engines measure is compared with the profiles."),
    "ObservedLate": Reason(
        "Engines measure mean latencies above the limits of their classes.",
        "Wait until the plan has learned from it. If it does not, see FleetObserved, or whether the budget allows more.",
    ),
    "PodAccessNotAllowed": Reason(
        "engine asks for host access, privileges, an account or a priority class that the installation does not allow.",
        "Remove it, or add it to the chart's podAccess.",
    ),
    "PoolMissing": Reason("A pool's object does not exist.", "Create it, or correct resize.name."),
    "PoolReleased": Reason("This plan no longer sizes a pool."),
    "PoolResized": Reason("The operator set the size of a pool."),
    "Predicted": Reason(
        "By the profiles, ready replicas carry every class within its limits. The message says what was observed, if anything."
    ),
    "PreviewOnly": Reason("Plans are shown and never applied.", "Change spec.mode to apply them."),
    "PriceDisagreement": Reason("Two plans give one pool different prices.", "Make the prices equal."),
    "PriceUnknown": Reason("A pool has no price, so nothing grows.", "Set dollarsPerNodeHour; 0 is a price."),
    "ProfilesMissing": Reason(
        "A ConfigMap of measured rates does not exist.", "Create it, or remove it from the plan."
    ),
    "PrometheusMissing": Reason(
        "The spec asks for measured demand, or to learn, and there is no Prometheus to ask.",
        "Set spec.demand.prometheus.url, or the chart's prometheus.url.",
    ),
    "Published": Reason("The weights are those of the plan."),
    "QueryNotAllowed": Reason(
        "The plan's own query is not sent to a Prometheus that other namespaces use too.",
        "Use a Prometheus of the plan's namespace, or set the chart's prometheus.planQueries.",
    ),
    "Read": Reason("All sources were read."),
    "ReadFailed": Reason("A source cannot be read. The message says since when.", "Check the API server."),
    "ReadForbidden": Reason("The operator may not read a source.", "Grant the right with the chart's roles."),
    "Ready": Reason("The plan is applied and serves."),
    "RecordUnreadable": Reason(
        "The operator cannot read the record of the plan in force, so nothing grows or shrinks.",
        "Run the version that wrote it, or delete the ConfigMap NAME-plan to plan anew around the running fleet.",
    ),
    "RefsNotResolved": Reason("A gateway does not find what an HTTPRoute refers to.", "Follow the gateway's message."),
    "ReplicaDraining": Reason("A replica gets no more requests and will be removed."),
    "Reserved": Reason("A pool gives the nodes of its reservation, until it ends."),
    "ReservationEnds": Reason(
        "The reservation of a pool ends within its notice, or is over. Replicas leave it.",
        "Renew the reservation and correct reservation.end, or give the plan another pool.",
    ),
    "ReplicaFailure": Reason(
        "The API server refuses pods.", "Change the quota, the pod security or engine.podTemplate."
    ),
    "ReplicasSetByOther": Reason(
        "Somebody else, for example an autoscaler, set the number of replicas of a Deployment of the plan.",
        "Remove the other manager from the Deployment; the plan decides the number.",
    ),
    "Retired": Reason("A deleted plan has given everything back."),
    "Retiring": Reason("The plan is being deleted.", "status.retirement says what is left, and until when."),
    "RollingOut": Reason("Replicas are starting.", _WAIT),
    "RowsRefused": Reason("Some rows of measured rates cannot be used.", "The message names them."),
    "Scaling": Reason("Nodes are being added or removed.", _WAIT),
    "ShapeFailed": Reason(
        "Replicas with one shape, settings and image failed to start three times. The plan leaves the shape out for a while.",
        "The message has the engine's last lines. An edit of the plan allows the shape again.",
    ),
    "SharedObject": Reason("Two pools name one object, so neither is sized.", "Write one pool, or name two objects."),
    "Searching": Reason("The plan for a new or edited spec is being searched. What runs goes on as it is.", _WAIT),
    "SizedByOther": Reason(
        "Another autoscaler sizes the object of a pool.",
        "Turn that autoscaler off for the pool, or remove resize to use its nodes as they are.",
    ),
    "SolverError": Reason("No plan could be made.", _REPORT),
    "SpecInvalid": Reason(
        "A field is wrong. The running fleet stays.", "The message names the field and what to write."
    ),
    "Spilled": Reason("All replicas planned for a class are away. Others serve it, maybe late.", _WAIT),
    "TimeLimit": Reason("No plan was found in time.", "Raise spec.solver.deadlineSeconds."),
    "TooLarge": Reason("The weights do not fit into a ConfigMap, so nothing grows.", "Split the plan."),
    "TooManyBackends": Reason(
        "A class goes to more Services than one rule of an HTTPRoute can hold.", "Use fewer pools."
    ),
    "Transitional": Reason("The weights cover the ready replicas, which are not yet those of the plan.", _WAIT),
    "TurnFailed": Reason("The operator could not finish a turn of the plan. It tries again.", _REPORT),
    "UnknownGPU": Reason("The catalogue does not know a GPU.", "Correct the name, or set gpuSpec."),
    "UnknownModel": Reason("The catalogue does not know a model.", "Correct the name, or set card."),
    "Unschedulable": Reason(
        "The scheduler finds no node for a pod.", "Check taints, resources and quotas of the node."
    ),
    "UntoleratedTaint": Reason(
        "Nodes of a pool have a taint that no replica tolerates, so the plan does not use the pool.",
        "Add it to engine.podTemplate.spec.tolerations, or remove the pool.",
    ),
    "UrlNotAllowed": Reason(
        "A URL of the plan is not asked, since it names no Service of the plan's namespace.",
        "Name such a Service as NAME.NAMESPACE, or add the host to the chart's allowedHosts.",
    ),
    "Valid": Reason("The operator understands the spec."),
    "WithinBudget": Reason("Spend is within the budget."),
    "WriteFailed": Reason("The API server did not accept a write.", "The message says why. The operator tries again."),
    "WriteForbidden": Reason("The operator may not write an object.", "Grant the right with the chart's roles."),
}


_STALLING = frozenset(
    {
        "BudgetTooSmall",
        "CeilingUnreadable",
        "ClaimedByOther",
        "EngineCrash",
        "FalseDeclaration",
        "FieldOwnershipConflict",
        "HTTPRoutesUnavailable",
        "ImagePullFailed",
        "Infeasible",
        "KindNotAllowed",
        "NameTaken",
        "NoCapacity",
        "NoFittingShape",
        "NoNodeMatches",
        "NotAccepted",
        "NotAllowed",
        "NotRenderable",
        "NotResizable",
        "PathNotAllowed",
        "PodAccessNotAllowed",
        "PoolMissing",
        "PriceDisagreement",
        "PriceUnknown",
        "ReadForbidden",
        "RecordUnreadable",
        "RefsNotResolved",
        "ReplicaFailure",
        "SharedObject",
        "SizedByOther",
        "SolverError",
        "SpecInvalid",
        "TimeLimit",
        "TooLarge",
        "TooManyBackends",
        "UnknownGPU",
        "UnknownModel",
        "Unschedulable",
        "UntoleratedTaint",
        "UrlNotAllowed",
        "WriteForbidden",
    }
)
"""Reasons that waiting does not cure. Of the others, some pass by themselves, some are tried again, and some do not keep the
plan from being ready."""


def needs_a_person(reason: str) -> bool:
    """Whether the reason keeps a plan from being ready until a person changes something."""
    return reason in _STALLING


_MORE = {
    "docs/capacity.md": (
        *(
            "CeilingUnreadable",
            "ClaimedByOther",
            "FieldOwnershipConflict",
            "KindNotAllowed",
            "NotResizable",
            "PathNotAllowed",
        ),
        *(
            "InsufficientCapacity",
            "NotComing",
            "NotOffered",
            "PoolMissing",
            "PriceUnknown",
            "SharedObject",
            "SizedByOther",
        ),
    ),
    "docs/karpenter.md": ("NotAllowed", "NotOffered", "InsufficientCapacity"),
    "docs/fixed-nodes.md": ("FalseDeclaration", "NoGPUsVisible", "NoNodeMatches", "UntoleratedTaint"),
    "docs/dra.md": ("NoGPUsVisible",),
    "docs/catalogue.md": ("PriceDisagreement", "UnknownGPU", "UnknownModel"),
    "docs/engine.md": ("ContextAboveModel", "EngineCrash", "NoFittingShape", "PodAccessNotAllowed", "ReplicaFailure"),
    "docs/gated-models.md": ("EngineCrash",),
    "docs/starting.md": ("RollingOut", "ShapeFailed"),
    "docs/groups.md": ("NotRenderable",),
    "docs/gateways.md": ("NotAcknowledged", "NoReadyBackend", "Transitional"),
    "docs/httproute.md": ("HTTPRoutesUnavailable", "NotAccepted", "RefsNotResolved", "TooManyBackends"),
    "docs/demand.md": ("LastGood", "PrometheusMissing", "QueryNotAllowed", "UrlNotAllowed"),
    "docs/learning.md": ("NotObserved", "NothingLearned", "ObservedLate", "PrometheusMissing"),
    "docs/measuring.md": ("Derived", "ProfilesMissing", "RowsRefused"),
    "docs/live.md": ("AwaitingApproval", "Infeasible", "BelowTarget", "BudgetTooSmall", "NoCapacity", "NotPlanned"),
    "docs/maintenance.md": ("Unschedulable",),
    "docs/operations.md": ("ReadFailed", "SolverError", "TimeLimit", "TurnFailed", "WriteFailed"),
    "docs/doctor.md": ("ReadForbidden", "WriteForbidden"),
    "docs/gitops.md": ("FieldOwnershipConflict", "ReplicasSetByOther"),
    "docs/upgrade.md": ("RecordUnreadable",),
    "docs/uninstall.md": ("LeftBehind", "Retired", "Retiring"),
}
"""Pages that say more, each with its reasons."""


def page_of(reason: str, site: str = "") -> str:
    """The page of a reason: its address on the site of the documentation, or its path where there is none."""
    return f"{site.rstrip('/')}/reasons/{reason}/" if site else f"docs/reasons/{reason}.md"


def with_page(condition: Mapping[str, Any], site: str) -> Mapping[str, Any]:
    """A condition of a status, its message with the page of its reason on ``site`` at the end, if ``asks_for_something``; an
    empty ``site`` changes nothing."""
    end = f" ({page_of(condition['reason'], site)})"
    if not site or not asks_for_something(condition) or condition["message"].endswith(end):
        return condition
    return {**condition, "message": condition["message"][: LONGEST_MESSAGE - len(end)] + end}


def asks_for_something(condition: Mapping[str, Any]) -> bool:
    """Whether the condition fails for a reason about which somebody can do something."""
    fails = condition["status"] == ("True" if condition["type"] == "Degraded" else "False")
    known = REASONS.get(condition["reason"])
    return fails and known is not None and bool(known.advice)


def more_about(reason: str) -> list[str]:
    """The pages that say more about a reason."""
    return [page for page, names in _MORE.items() if reason in names]
