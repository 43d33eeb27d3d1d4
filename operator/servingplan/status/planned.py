"""The conditions of the plan itself: its spec, its demand, its solution, its spend and its promise."""

from __future__ import annotations

from servingplan.model.decision import Decision
from servingplan.model.row import Row, failure
from servingplan.planning.pools import Pool, more_nodes
from servingplan.planning.situation import Situation
from servingplan.planning.starts import lines
from servingplan.routing.admission import WHOLE
from servingplan.routing.carried import Carried
from servingplan.status.learned import late_deployments, observed_beside_predicted
from servingplan.status.summary import gpus_of

_WATCHED = frozenset({"measured", "interpolated", "learned"})
"""Sources of rates that rest on measurements of replicas."""


def spec_valid(decision: Decision) -> Row:
    """The condition: whether every field is understood and some pool can serve every model."""
    return failure(decision, "SpecValid") or Row("SpecValid", "True", "Valid", "the spec is understood")


def inventory_available(decision: Decision) -> Row:
    """The condition: whether nodes, pods and pools could be read."""
    kind = "InventoryAvailable"
    if failed := failure(decision, kind):
        return failed
    unread = [item for item in decision.findings if item.condition == kind]
    if unread:
        text = "nodes, pods and pools were read; " + "; ".join(item.message for item in unread)
        return Row(kind, "True", unread[0].reason, text)
    return Row(kind, "True", "Read", "nodes, pods and pools were read")


def profiles_available(decision: Decision) -> Row:
    """The condition: the possible error of the plan's rates, and whether its own measurements were read."""
    kind = "ProfilesAvailable"
    if failed := failure(decision, kind):
        return failed
    shown = decision.fleet or decision.waiting
    if shown is None or not shown.replica_sets:
        return Row(kind, "Unknown", "NotPlanned", "no plan yet")
    weakest = max(shown.replica_sets, key=lambda item: (item.error_band, item.deployment))
    derived = sorted(item.deployment for item in shown.replica_sets if not _WATCHED.issuperset(item.source.split("+")))
    text = f"nine in ten true rates are at most {weakest.error_band:.0%} below the middle of their band"
    if derived:
        text += f"; the rates of {', '.join(derived)} are computed, not measured: measure them before you rely on them"
    told = [item for item in decision.findings if item.condition == kind]
    if told:
        return Row(kind, "True", told[0].reason, "; ".join((*(item.message for item in told), text)))
    return Row(kind, "True", "Derived" if derived else "Measured", text)


def demand_known(situation: Situation, decision: Decision) -> list[Row]:
    """The condition of a plan that asks for measured rates; empty for other plans, whose rates are in the spec."""
    if situation.acting is None or situation.acting.demand is None:
        return []
    found = next((item for item in decision.findings if item.condition == "DemandKnown"), None)
    if found is None:
        return [Row("DemandKnown", "Unknown", "NotPlanned", "this turn could not plan")]
    return [Row("DemandKnown", "True" if found.holds else "False", found.reason, found.message)]


def plan_solved(situation: Situation, decision: Decision, pools: tuple[Pool, ...]) -> Row:
    """The condition: whether a plan serves some part of every class, and its distance from the best plan."""
    kind = "PlanSolved"
    if failed := failure(decision, kind):
        return failed
    shown = decision.fleet or decision.waiting
    if shown is None:
        return Row(kind, "Unknown", "NotPlanned", "no plan yet")
    nothing = [item for item in shown.classes if item.requests_per_second > 0 and item.planned_requests_per_second <= 0]
    if nothing and (left_out := lines(decision.failed_shapes)):
        listed = ", ".join(f"{item.model}/{item.name}" for item in nothing)
        advice = "correct the cause of the failed starts, or wait"
        return Row(kind, "False", "ShapeFailed", f"{listed} would not be served; {'; '.join(left_out)}; {advice}")
    if nothing:
        budget = "budget" in shown.binding
        listed = ", ".join(f"{item.model}/{item.name}" for item in nothing)
        raise_budget = "raise spec.budget.dollarsPerHour"
        if situation.acting is not None and situation.binding_allowance is not None:
            raise_budget = (
                f"ask for a higher entry for namespace {situation.world.plan.namespace} in the chart's namespaceBudgets"
            )
        advice = raise_budget if budget else more_nodes(pools)
        reason = "BudgetTooSmall" if budget else "NoCapacity"
        return Row(kind, "False", reason, f"{listed} would not be served; {advice}")
    gap = "" if shown.gap is None else f", within {shown.gap:.2%} of the best possible plan"
    text = f"plan {shown.hash}: {gpus_of(shown) or 'no GPUs'} for {shown.dollars_per_hour:.2f} $/h{gap}"
    return Row(kind, "True", shown.status, text)


def within_budget(situation: Situation, decision: Decision) -> Row:
    """The condition: whether the present spend is within the budget."""
    kind = "WithinBudget"
    if failed := failure(decision, kind):
        return failed
    spec = situation.acting
    if spec is None or decision.spend_dollars_per_hour is None:
        return Row(kind, "Unknown", "NotPlanned", "spend was not computed")
    budget, spend = float(spec.budget.dollars_per_hour), decision.spend_dollars_per_hour
    if notice := decision.notice:
        when = (
            f"this waits until the annotation servingplan.dev/approve has the value {notice.approve}"
            if notice.until is None
            else f"this takes effect at {notice.until}"
        )
        text = (
            f"the budget of {budget:.2f} $/h is below the price of any node that serves ({notice.least_dollars_per_hour:.2f} "
            f"$/h): all replicas are removed and the gateway answers 503; {when}; raise spec.budget.dollarsPerHour to keep "
            "them"
        )
        return Row(kind, "False", "BudgetBelowOneNode", text)
    if spend > budget + 1e-6:
        text = f"spend is {spend:.2f} $/h, the budget {budget:.2f} $/h: replicas drain, lowest priority first, until spend fits"
        return Row(kind, "False", "OverBudget", text + _shared(situation))
    text = f"spend is {spend:.2f} $/h of {budget:.2f} $/h" + _shared(situation)
    return Row(kind, "True", "WithinBudget", text)


def _shared(situation: Situation) -> str:
    """Text that the namespace's budget is what keeps the plan from spending more; empty where it is not."""
    found = situation.binding_allowance
    if found is None:
        return ""
    others = ", ".join(f"{name} {dollars:.2f}" for name, dollars in found.taken.items())
    taken = f"; other plans take {others}" if others else ""
    return (
        f"; all plans of namespace {situation.world.plan.namespace} may spend {found.dollars_per_hour:.2f} $/h{taken}"
    )


def slo_attainable(situation: Situation, decision: Decision, now: tuple[Carried, ...]) -> Row:
    """The condition: whether ready replicas now carry all of the demand within its limits."""
    kind = "SLOAttainable"
    fleet = decision.fleet
    if fleet is None:
        return Row(kind, "Unknown", "NotPlanned", "no plan is in force")
    below = [
        f"{item.model}/{item.name} {item.planned_requests_per_second:.4g} of {item.requests_per_second:.4g} requests/s"
        for item in fleet.classes
        if fleet.scale is None and item.planned_requests_per_second < item.requests_per_second * (1 - 1e-6)
    ]
    behind = [
        f"{item.model}/{item.name} {item.requests_per_second:.4g} of {item.planned_requests_per_second:.4g} requests/s"
        + (", late" if item.answered and not item.in_time else "")
        for item in now
        if item.planned_requests_per_second > 0
        and not (item.in_time and item.requests_per_second >= item.planned_requests_per_second * WHOLE)
    ]
    told = f"of the planned rates, ready replicas now carry: {', '.join(behind)}"
    if below:
        text = f"admitted: {', '.join(below)}; the gateway sheds the rest"
        return Row(kind, "False", "BelowTarget", f"{text}; {told}" if behind else text)
    if behind:
        return Row(kind, "False", "Transitional", f"{told}; the plan carries all once its replicas are ready")
    if late := late_deployments(situation, decision):
        return Row(kind, "False", "ObservedLate", f"{'; '.join(late)}; {observed_beside_predicted(decision)}")
    text = "by the profiles, ready replicas carry every class within its limits"
    if observed := observed_beside_predicted(decision):
        return Row(kind, "True", "Predicted", f"{text}; {observed}")
    return Row(kind, "True", "Predicted", f"{text}; not measured")


def approved(situation: Situation, decision: Decision) -> Row:
    """The condition: whether no plan waits for approval."""
    spec = situation.acting
    if spec is None or spec.mode == "Auto":
        return Row("Approved", "True", "Auto", "plans are applied without approval")
    if decision.waiting is None:
        return Row("Approved", "True", "Approved", "no plan waits")
    if spec.mode == "Preview":
        return Row("Approved", "False", "PreviewOnly", "mode is Preview: plans are shown, never applied")
    plan, waiting = situation.world.plan, decision.waiting.hash
    command = f"kubectl annotate lsp {plan.name} -n {plan.namespace} servingplan.dev/approve={waiting} --overwrite"
    text = f"plan {waiting} waits; status.proposed says what it would change; approve it by: {command}"
    past = {decision.fleet.hash if decision.fleet is not None else None}
    past |= {item.get("hash") for item in plan.status.get("history") or () if isinstance(item, dict)}
    if plan.approved_hash is not None and plan.approved_hash not in past:
        text = (
            f"the annotation servingplan.dev/approve has the value {plan.approved_hash[:64]!r}, which is not the hash of the "
            f"waiting plan and approves nothing: it is mistyped, or of an earlier proposal; {text}"
        )
    return Row("Approved", "False", "AwaitingApproval", text)
