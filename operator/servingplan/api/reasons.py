"""Every condition of a plan, and every reason of a condition or an Event: what it means, and what to do.

``docs/conditions.md`` is written from here; a test finds each reason that the code gives.
"""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """One word for programs."""

    meaning: str
    """One sentence."""
    advice: str = ""
    """What a person does about it; empty: nothing."""


CONDITIONS: dict[str, str] = {
    "SpecValid": "Every field of the spec is understood, and some pool can serve every model.",
    "InventoryAvailable": "Nodes, pods, pools and our own objects could be read lately.",
    "ProfilesAvailable": "Rates are known for what the plan rests on.",
    "DemandKnown": "Measured rates are known; only where the spec asks for them.",
    "PlanSolved": "There is a plan that gives every class something.",
    "WithinBudget": "What is there or asked for costs no more than the budget.",
    "NodePoolsReady": "Every rented pool has the nodes of the plan, usable and no others.",
    "WorkloadsReady": "Every replica of the plan is ready.",
    "RoutingPublished": "The published weights are those of the plan, and the gateways that can tell have taken them.",
    "Degraded": "A class goes to replicas that may answer later than its limits. It is there only while that is so.",
    "SLOAttainable": "Ready replicas carry all of the demand within its limits now. Ready does not depend on it.",
    "Approved": "No plan waits for a person. Ready does not depend on it.",
    "Stalled": "A person has to act before Ready can hold. It is there only while that is so; kstatus reads it.",
    "Ready": "The plan is applied and serves. Where it is False, its reason is that of the condition that is the cause.",
}

_WAIT = "Wait."
_REPORT = "Report it with the output of `servingplan world`."

REASONS: dict[str, Reason] = {
    "AsPlanned": Reason("What is there is what the plan says."),
    "Approved": Reason("No plan waits for approval."),
    "Auto": Reason("Plans are applied without asking."),
    "AwaitingApproval": Reason("A plan waits.", "Write its hash into the annotation servingplan.dev/approve."),
    "BelowTarget": Reason("The plan serves some class only in part.", "Raise the budget or add nodes, or accept it."),
    "BudgetBelowOneNode": Reason(
        "The budget keeps nothing of what runs: it is told a minute before it is carried out, with mode Approve until then.",
        "Raise spec.budget.dollarsPerHour, or let it be.",
    ),
    "BudgetTooSmall": Reason(
        "The budget leaves some class without service.",
        "Raise spec.budget.dollarsPerHour, or the chart's namespaceBudgets where the message says so.",
    ),
    "CeilingUnreadable": Reason(
        "The annotation servingplan.dev/max-nodes of a pool is no whole number: the pool does not grow.",
        "The pool's owner writes a number.",
    ),
    "ClaimedByOther": Reason(
        "Another plan sizes the pool.",
        "Take the pool out of one of the plans; where the other is gone, remove the annotation servingplan.dev/claimed-by.",
    ),
    "ContextAboveModel": Reason("A longest context is above what a model was made for.", "Lower maxModelLen."),
    "Declared": Reason("Demand is the declared one.", "See the message for why nothing measured is used."),
    "Derived": Reason("Some rates are derived from data sheets.", "Measure them before you rely on them."),
    "EngineCrash": Reason("A replica's engine ends again and again.", "Read the log of the pod."),
    "FalseDeclaration": Reason(
        "Nodes of a pool are not what the plan says: nothing is bought on it.",
        "The message names node, field and both values: correct the plan, or the pool.",
    ),
    "Feasible": Reason("A plan was found, and how far it is from the best is known."),
    "FieldOwnershipConflict": Reason(
        "Somebody else changed the size of a pool after the plan had.",
        "Stop that manager, then remove the annotation servingplan.dev/claimed-by.",
    ),
    "GatedByOther": Reason(
        "Pods wait behind a scheduling gate that is not ours.",
        "Let whoever set it admit them: the quota of Kueue's queue.",
    ),
    "HTTPRoutesUnavailable": Reason(
        "HTTPRoutes cannot be read or written.", "Install the Gateway API, or leave them out."
    ),
    "ImagePullFailed": Reason(
        "An image cannot be pulled.", "Correct engine.image, or give imagePullSecrets in podTemplate."
    ),
    "Infeasible": Reason(
        "Floors or survival exclude every plan.", "The message names a smallest set of limits to change."
    ),
    "InsufficientCapacity": Reason(
        "Whoever sells the nodes of a pool has no more: the plan does without until status.nodePools[].learnedCap.until.",
        "Wait, or give the plan another pool.",
    ),
    "KindNotAllowed": Reason(
        "The installation does not size objects of this kind.", "Add it to the chart's poolKinds."
    ),
    "LastGood": Reason("Prometheus is away, and the last good rates stand in.", "Bring Prometheus back."),
    "LeftBehind": Reason("A plan was deleted and could not take back all.", "Give back by hand what the Event names."),
    "Measured": Reason("Rates are measured."),
    "NameTaken": Reason(
        "An object of that name belongs to somebody else.", "Choose another name, or delete the object."
    ),
    "NoCapacity": Reason("No node can take a replica for some class.", "Add nodes or another pool, or raise maxNodes."),
    "NoFittingShape": Reason(
        "No GPU of the pools can serve a model within its limits.", "The message says what is short."
    ),
    "NoGPUsVisible": Reason(
        "Nodes of a pool are Ready and show no GPUs; after a while they are given back.",
        "Wait while nodes boot; else look at the device plugin on the nodes that the message names.",
    ),
    "NoNodeMatches": Reason(
        "No node has the labels of a pool's nodeSelector.", "Correct nodeSelector, or the labels of the nodes."
    ),
    "NoReadyBackend": Reason("A class has no ready replica: the gateway answers 503.", _WAIT),
    "NotAccepted": Reason("A gateway does not accept an HTTPRoute.", "Do what the gateway's own message asks for."),
    "NotAcknowledged": Reason("A gateway has not taken the weights yet.", _WAIT),
    "NotAllowed": Reason(
        "The owner of a pool does not let plans of this namespace size it.",
        "Name the namespace in the pool's annotation servingplan.dev/allowed-namespaces.",
    ),
    "NotComing": Reason(
        "Nodes that were asked for did not come in time: the plan does without for a while.",
        "Look at the pool's object and its provider.",
    ),
    "NotPlanned": Reason("There is no plan yet that this could be said of.", "Look at the other conditions."),
    "NotRenderable": Reason(
        "The plan has replicas over several nodes, which cannot be applied yet.", "Use larger nodes."
    ),
    "NotResizable": Reason(
        "A pool's object has no size that could be set.",
        "The message says why: give it a whole number at its path, or make a static pool.",
    ),
    "Optimal": Reason("The best plan was found, and that is proved."),
    "OverBudget": Reason("Spend is above the budget.", "Wait: replicas drain, lowest priority first, until it fits."),
    "PathNotAllowed": Reason(
        "Nobody says where a pool's object has its size.",
        "The object's owner writes the path into its annotation servingplan.dev/replicas-path.",
    ),
    "PlanSolved": Reason("A new plan is in force."),
    "PodAccessNotAllowed": Reason(
        "engine.podTemplate asks for the host, privileges or another account, which the installation does not allow.",
        "Take it out, or add it to the chart's podAccess.",
    ),
    "PoolMissing": Reason("A pool's object is not there.", "Create it, or correct resize.name."),
    "PoolReleased": Reason("A pool is not sized by this plan any more."),
    "PoolResized": Reason("A pool was asked for another number of nodes."),
    "Predicted": Reason("By the profiles ready replicas carry every class within its limits; nothing was measured."),
    "PreviewOnly": Reason("Plans are shown and never applied.", "Change spec.mode to have them applied."),
    "PriceDisagreement": Reason("Two plans give one pool two prices.", "Make them equal."),
    "PriceUnknown": Reason(
        "The price of a pool is not given: nothing grows.", "Give dollarsPerNodeHour; 0 is a price."
    ),
    "ProfilesMissing": Reason(
        "Measured rates that the plan names are not there.", "Create the ConfigMap, or take it out."
    ),
    "PrometheusMissing": Reason(
        "Demand is to be measured, and there is no Prometheus to ask.",
        "Give spec.demand.prometheus.url, or set the chart's prometheus.url.",
    ),
    "Published": Reason("The weights are those of the plan."),
    "QueryNotAllowed": Reason(
        "A query of the plan is not asked at a Prometheus that others use too.",
        "Ask a Prometheus of the plan's namespace, or set the chart's prometheus.planQueries.",
    ),
    "Read": Reason("All sources were read."),
    "ReadFailed": Reason("A source cannot be read; the message says since when.", "Look at the API server."),
    "ReadForbidden": Reason("The operator may not read a source.", "Grant it with the chart's roles."),
    "Ready": Reason("The plan is applied and serves."),
    "RecordUnreadable": Reason(
        "The plan in force was written by another version of the operator: nothing grows or shrinks.",
        "Run that version, or delete the ConfigMap NAME-plan to have a plan made anew around what runs.",
    ),
    "RefsNotResolved": Reason("A gateway does not find what an HTTPRoute refers to.", "Do what its message asks for."),
    "ReplicaDraining": Reason("A replica gets no more requests and will be removed."),
    "ReplicaFailure": Reason("The API server refuses pods.", "Change quota or pod security, or engine.podTemplate."),
    "ReplicasSetByOther": Reason(
        "Somebody else (an autoscaler, a person) set the number of replicas of a Deployment of the plan.",
        "Take the Deployment from whatever sets it; the plan decides its number.",
    ),
    "Retired": Reason("A deleted plan has given back all that it had."),
    "Retiring": Reason("The plan is being deleted.", "status.retirement says what is left, and until when."),
    "RollingOut": Reason("Replicas are on their way.", _WAIT),
    "RowsRefused": Reason("Some rows of measured rates cannot be used.", "The message names them."),
    "Scaling": Reason("Nodes are on their way, or are going.", _WAIT),
    "ShapeFailed": Reason(
        "Replicas of one shape, settings and image did not start three times: it is left out of the plan for a while.",
        "The message has the engine's last words; an edit of the plan allows the shape again.",
    ),
    "SharedObject": Reason("Two pools name one object: neither is sized.", "Give one pool, or two objects."),
    "SizedByOther": Reason(
        "The object of a pool says that another autoscaler sizes it.",
        "Turn that autoscaler off for the pool, or leave resize out: its nodes are then used as they are.",
    ),
    "SolverError": Reason("No plan could be made.", _REPORT),
    "SpecInvalid": Reason("A field is wrong; what ran goes on.", "The message names the field and what to write."),
    "Spilled": Reason("The replicas planned for a class are all away; others take it late.", _WAIT),
    "TimeLimit": Reason("No plan was found in time.", "Raise spec.solver.deadlineSeconds."),
    "TooLarge": Reason("The weights would not fit into a ConfigMap: nothing grows.", "Split the plan."),
    "TooManyBackends": Reason("A class goes to more Services than a rule of an HTTPRoute holds.", "Use fewer pools."),
    "Transitional": Reason("Weights cover what is ready, which is not yet the plan.", _WAIT),
    "TurnFailed": Reason("The operator could not finish its look at the plan; it tries again.", _REPORT),
    "UnknownGPU": Reason("The catalogue does not know a GPU.", "Correct the name, or give gpuSpec."),
    "UnknownModel": Reason("The catalogue does not know a model.", "Correct the name, or give card."),
    "Unschedulable": Reason(
        "The scheduler has no room for a pod.", "Look at taints, resources and quotas of the node."
    ),
    "UntoleratedTaint": Reason(
        "Nodes of a pool have a taint that no replica tolerates: the pool is not planned on.",
        "Add it to engine.podTemplate.spec.tolerations, or take the pool out.",
    ),
    "UrlNotAllowed": Reason(
        "A URL of the plan is not asked: it names no Service of the plan's namespace.",
        "Name such a Service as NAME.NAMESPACE, or add the host to the chart's allowedHosts.",
    ),
    "Valid": Reason("The spec is understood."),
    "WithinBudget": Reason("Spend is within the budget."),
    "WriteFailed": Reason("The API server did not take a write.", "The message says why; it is tried again."),
    "WriteForbidden": Reason("The operator lacks a right.", "Grant it with the chart's roles."),
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
"""What is not mended by waiting. Of the others some pass by themselves, some are tried again, and some keep nothing from being
ready."""


def needs_a_person(reason: str) -> bool:
    """Whether what keeps a plan from being ready goes on until somebody changes something."""
    return reason in _STALLING


def page() -> str:
    """``docs/conditions.md``."""
    lines = [
        "# Conditions and Events",
        "",
        "Written from `operator/servingplan/api/reasons.py`. Each condition carries a reason, one word for programs, and a",
        "message, which names numbers and what to do; this page says what the words mean.",
        "",
        "| condition | holds when |",
        "|---|---|",
        *(f"| `{name}` | {text} |" for name, text in CONDITIONS.items()),
        "",
        "| reason | means | what to do |",
        "|---|---|---|",
        *(f"| `{name}` | {item.meaning} | {item.advice} |" for name, item in sorted(REASONS.items())),
    ]
    return "\n".join(lines) + "\n"
