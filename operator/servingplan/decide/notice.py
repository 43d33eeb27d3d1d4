"""A budget that removes the whole fleet is announced before it is carried out."""

from __future__ import annotations

import math

from servingplan.decide.turn import Turn
from servingplan.model.decision import Notice
from servingplan.model.fleet import Fleet
from servingplan.model.times import later, seconds_between
from servingplan.planning.fleet import within_budget
from servingplan.planning.pools import Pool

NOTICE_SECONDS = 60.0
"""How long after its announcement such a budget is carried out, if no approval is required, in seconds."""


def notice_of(turn: Turn) -> Notice | None:
    """What the budget is about to do; None if it keeps some replica of the plan in force.

    With ``mode: Approve`` it waits for the approval of the plan that is proposed instead. The status has the time of the
    announcement.
    """
    world, record, pools = turn.world, turn.record, turn.pools
    fleet = record.fleet
    if fleet is None or not fleet.replica_sets:
        return None
    if within_budget(fleet, pools, turn.budget_dollars_per_hour).replica_sets:
        return None
    since = str((world.plan.status.get("notice") or {}).get("since"))
    try:
        seconds_between(since, world.now)
    except (TypeError, ValueError):
        since = world.now
    until = later(since, NOTICE_SECONDS)
    proposed = record.waiting.hash if turn.spec.mode == "Approve" and record.waiting is not None else None
    return Notice(
        least_dollars_per_hour=_least(fleet, pools),
        since=since,
        until=None if proposed is not None else until,
        approve=proposed,
        seconds_left=None if proposed is not None else max(0.0, seconds_between(world.now, until)),
    )


def to_carry_out(turn: Turn) -> tuple[Fleet | None, float]:
    """The fleet that the turn aims at, and the $/h that it may spend: what the budget keeps of the plan in force. If that
    is nothing and has only been announced, it is the whole plan in force."""
    fleet, budget, spend = turn.record.fleet, turn.budget_dollars_per_hour, turn.situation.spend
    if fleet is None:
        return None, budget
    notice = notice_of(turn)
    if notice is None or not notice.pending:
        return within_budget(fleet, turn.pools, budget), budget
    return fleet, budget if math.isnan(spend) else max(budget, spend)


def _least(fleet: Fleet, pools: tuple[Pool, ...]) -> float:
    """$/h of the cheapest node on which the plan in force has replicas."""
    used = {group.pool for group in fleet.groups if group.replicas}
    return min((pool.dollars_per_node_hour or 0.0 for pool in pools if pool.name in used), default=0.0)
