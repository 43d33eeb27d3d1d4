"""What prevents a turn from writing, or the plan from growing."""

from __future__ import annotations

from servingplan.decide.turn import Turn
from servingplan.model import names
from servingplan.planning.declared import NO_MATCH
from servingplan.planning.ownership import lets
from servingplan.planning.pools import LEFT, LOST, UNREAD, Pool, no_node
from servingplan.planning.situation import Situation


def taken_names(situation: Situation) -> str | None:
    """The ConfigMap that the plan has to write and that belongs to somebody else, for people; None if there is none."""
    world = situation.world
    routing = names.routing_name(world.plan.name, situation.spec.gateway.config_map)
    for name, field_name in (
        (routing, "spec.gateway.configMap"),
        (names.record_name(world.plan.name), "metadata.name"),
    ):
        live = world.live("ConfigMap", name)
        if live is not None and not live.ours:
            return (
                f"{field_name}: ConfigMap {name} belongs to {live.owner} and is left alone; choose another name, or "
                "delete that ConfigMap"
            )
    return None


def pool_findings(turn: Turn) -> None:
    """Note what is wrong with the pools, and on which prices of a pool plans disagree."""
    prices = {other.key: other.prices for other in turn.world.other_plans}
    for pool in turn.pools:
        for problem in (pool.problem, pool.conflict, pool.ceiling, pool.withdrawn, pool.contradiction):
            if problem is not None:
                unread = problem.reason in UNREAD
                turn.find("InventoryAvailable" if unread else "NodePoolsReady", problem.reason, problem.message)
        if pool.spec.resize is None and not pool.nodes:
            turn.find("NodePoolsReady", NO_MATCH, no_node(pool), holds=True)
        if pool.object is None or pool.dollars_per_node_hour is None:
            continue
        if pool.object.dollars_per_node_hour is not None:
            continue  # its owner's price counts for all
        for key in sorted(prices):
            # What a plan says of a pool that it may not size is nobody's concern.
            may = lets(pool.object, key.partition("/")[0])
            other = prices[key].get(pool.object.reference) if may else None
            if other is not None and float(other) != pool.dollars_per_node_hour:
                turn.find(
                    "WithinBudget",
                    "PriceDisagreement",
                    f"nodePools[{pool.name}].dollarsPerNodeHour is {pool.dollars_per_node_hour:g}, plan {key} says "
                    f"{float(other):g} for the same pool; make them equal",
                )


def _unpriced(pool: Pool) -> str:
    written = pool.object.dollars_per_node_hour if pool.object is not None else None
    if written is None:
        return "not given"
    return f"its object's annotation servingplan.dev/dollars-per-node-hour is {written!r}, which is no price"


def must_wait(turn: Turn) -> bool:
    """Whether nothing may grow, because a price is unknown, or because a pool of the plan in force cannot be read or
    counted."""
    wait = False
    for pool in turn.pools:
        if pool.dollars_per_node_hour is None and pool.problem is None:
            turn.find(
                "WithinBudget",
                "PriceUnknown",
                f"spec.nodePools[{pool.name}].dollarsPerNodeHour: {_unpriced(pool)}, so spend cannot be computed and nothing "
                "grows; give the price of a node (0 is a price)",
            )
            wait = True
        reason = pool.problem.reason if pool.problem is not None else None
        if reason in UNREAD or (reason in LOST and _stands_on(turn, pool)):
            wait = True
    return wait


def _stands_on(turn: Turn, pool: Pool) -> bool:
    """Whether the plan in force has nodes of the pool; for a pool that left the spec, whether there are any.

    An object that no longer exists gives nothing back, so nothing waits for the rest of its nodes.
    """
    if pool.name.endswith(LEFT):
        return bool(pool.nodes) and pool.problem is not None and pool.problem.reason != "PoolMissing"
    return turn.record.fleet is not None and turn.record.fleet.nodes.get(pool.name, 0) > 0
