"""Builds the conditions of a plan, in their order, with their dates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from servingplan.api.reasons import LONGEST_MESSAGE, needs_a_person
from servingplan.api.status_v1alpha1 import Condition
from servingplan.model.decision import Decision
from servingplan.model.outcome import Outcome
from servingplan.model.row import Row
from servingplan.model.world import Observation
from servingplan.planning.pools import Pool
from servingplan.planning.situation import Situation
from servingplan.routing import conditions as routing
from servingplan.routing.carried import Carried
from servingplan.status import capacity, learned, planned
from servingplan.status.summary import unanswered

COUNT_IN_READY = (
    "SpecValid",
    "InventoryAvailable",
    "ProfilesAvailable",
    "PlanSolved",
    "WithinBudget",
    "NodePoolsReady",
    "WorkloadsReady",
    "RoutingPublished",
)
CAUSES = (
    (
        "NodePoolsReady",
        {
            "PoolMissing",
            "NotAllowed",
            "ClaimedByOther",
            "KindNotAllowed",
            "NotResizable",
            "PathNotAllowed",
            "SharedObject",
            "CeilingUnreadable",
            "FalseDeclaration",
            "UntoleratedTaint",
            "NoNodeMatches",
        },
    ),
    ("WithinBudget", {"PriceUnknown", "PriceDisagreement"}),
    ("PlanSolved", {"RecordUnreadable"}),
)
"""Reasons that a person has to mend and that make other conditions False. Ready reports them before those."""
OF_THE_PLAN_IN_FORCE = frozenset(
    {
        "ProfilesAvailable",
        "PlanSolved",
        "NodePoolsReady",
        "WorkloadsReady",
        "RoutingPublished",
        "Degraded",
        "FleetObserved",
        "SLOAttainable",
        "Stalled",
        "Ready",
    }
)
"""Conditions that tell of the plan in force, not of the spec as it was last written."""
OF_WHAT_WAS_ASKED = frozenset({"PlanSolved", "Stalled", "Ready"})
"""Those of them that tell of the spec as it was last written where that could not be answered."""


def conditions(
    situation: Situation,
    pools: tuple[Pool, ...],
    decision: Decision,
    outcome: Outcome,
    now: tuple[Carried, ...],
) -> tuple[Condition, ...]:
    """All conditions after a turn. Ready, the last, holds where all of COUNT_IN_READY do, and else tells the cause. ``pools``
    are those of the situation with what the decision knows of their stock, ``now`` is what ready replicas carry."""
    world = situation.world
    rows = [
        planned.spec_valid(decision),
        planned.inventory_available(decision),
        planned.profiles_available(decision),
        *planned.demand_known(situation, decision),
        planned.plan_solved(situation, decision, pools),
        planned.within_budget(situation, decision),
        capacity.node_pools_ready(decision, outcome, pools, world.plan.queue),
        capacity.workloads_ready(world, decision, outcome),
        routing.routing_published(situation, decision, outcome),
        *routing.degraded(situation, outcome),
        *learned.fleet_observed(situation, decision),
        planned.slo_attainable(situation, decision, now),
        planned.approved(situation, decision),
    ]
    return _dated(world, with_ready(rows, unanswered(now)), _generations(decision))


def _generations(decision: Decision) -> dict[str, int]:
    """The generation of the spec that each condition is about, where this is not the last one.

    While a plan for the last spec waits, is searched or cannot be had, conditions of the plan in force are about the spec that
    it was made for.
    """
    if decision.fleet is None:
        return {}
    told = {finding.condition for finding in decision.findings if not finding.holds}
    kinds = OF_THE_PLAN_IN_FORCE - told
    if told & {"SpecValid", "InventoryAvailable", "PlanSolved"}:
        kinds -= OF_WHAT_WAS_ASKED
    return dict.fromkeys(kinds, decision.in_force_generation)


def with_ready(rows: Sequence[Row], silent: Sequence[str] = ()) -> list[Row]:
    """The rows, then Stalled (only while a person has to act), then Ready. ``silent``: classes that get 503."""
    ready = _ready(rows, silent)
    stalled = []
    if ready.status == "False" and needs_a_person(ready.reason):
        stalled.append(Row("Stalled", "True", ready.reason, "a person has to act: the condition Ready says what to do"))
    return [*rows, *stalled, ready]


def _ready(rows: Iterable[Row], silent: Sequence[str]) -> Row:
    """The row of Ready. Its message names the classes that get 503 first, then the cause."""
    failing = [row for row in rows if row.type in COUNT_IN_READY and row.status != "True"]
    if not failing:
        return Row("Ready", "True", "Ready", "the plan is applied and serves")
    cause = min(failing, key=_rank)
    first = f"no ready replica for {', '.join(silent)}: the gateway answers 503; " if silent else ""
    return Row("Ready", "False", cause.reason, f"{first}{cause.type}: {cause.message}")


def _rank(row: Row) -> tuple[int, int, int]:
    """The sort key of a row: False before Unknown, then spec and inventory, then CAUSES, then the order of conditions."""
    at = COUNT_IN_READY.index(row.type)
    causes = [number for number, (kind, reasons) in enumerate(CAUSES) if kind == row.type and row.reason in reasons]
    first = row.type in ("SpecValid", "InventoryAvailable")
    return (row.status != "False", 0 if first else 1 if causes else 2, causes[0] if causes and not first else at)


def _dated(world: Observation, rows: Iterable[Row], generations: Mapping[str, int]) -> tuple[Condition, ...]:
    before = {item.get("type"): item for item in world.plan.status.get("conditions") or ()}
    out = []
    for kind, state, reason, message in rows:
        old = before.get(kind) or {}
        since = old.get("lastTransitionTime") if old.get("status") == state else None
        text = message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 4] + " ..."
        out.append(
            Condition(
                type=kind,
                status=state,
                reason=reason,
                message=text,
                observed_generation=generations.get(kind, world.plan.generation),
                last_transition_time=since or world.now,
            )
        )
    return tuple(out)
