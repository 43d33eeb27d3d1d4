"""The next safe step: the order in which capacity comes, traffic moves, and capacity goes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from servingplan.model import names
from servingplan.model.actions import (
    AnyAction,
    ClaimPool,
    DeleteObject,
    DeletePod,
    DrainPod,
    NoteUnrouted,
    PlacePod,
    RestorePod,
    ScaleDeployment,
)
from servingplan.model.fleet import Fleet
from servingplan.model.times import seconds_since
from servingplan.model.world import LiveObject, Observation, Pod
from servingplan.planning.pools import CENT, Pool
from servingplan.render.disruption_budget import KIND as DISRUPTION_BUDGET
from servingplan.rollout.drains import Coming, Departures, departures
from servingplan.rollout.growth import (
    given_back_first,
    grow,
    nodes_to_leave,
    planned_size,
    shrink,
    that_can_exist,
    wished_size,
)
from servingplan.rollout.owners import Contest, contest_of
from servingplan.rollout.placement import Assignment, Placement, Spread, Wanted, place
from servingplan.rollout.precedence import precedence
from servingplan.rollout.removal import group_index, remove, remove_groups
from servingplan.rollout.state import Limits, Rollout

NODE_MAY_GO_SECONDS = 60.0
"""How long a new replica waits while its pool has more nodes than it was asked for: the provider may just have chosen the empty
one to take back. After that it is placed there; some providers never take a node back."""


@dataclass(frozen=True)
class Step:
    """Writes of this turn around the publication of weights."""

    before_routing: tuple[AnyAction, ...]
    """Capacity that comes."""
    after_routing: tuple[AnyAction, ...]
    """Capacity that goes."""
    ready: Mapping[str, int]
    """Replicas by Deployment that weights are to cover: reachable, and not about to leave."""
    held_back: bool
    """The budget keeps the plan from growing further for now."""
    unplaced: int
    """Planned replicas that have no node yet."""
    wake_in_seconds: float | None
    must_stay: Mapping[str, int] = field(default_factory=dict)
    """Ready replicas by Deployment that evictions must leave, where these are fewer than planned."""
    contests: tuple[Contest, ...] = ()
    """Deployments of which somebody else sets the number of replicas."""


def ready_replicas(world: Observation, leaving: frozenset[str] = frozenset()) -> dict[str, int]:
    """Replicas by Deployment that gateways can reach and that are not draining."""
    ready: dict[str, int] = {}
    for pod in world.pods:
        if pod.deployment is not None and pod.namespace == world.plan.namespace:
            ready.setdefault(pod.deployment, 0)
            if pod.reachable and pod.draining_since is None and pod.uid not in leaving:
                ready[pod.deployment] += 1
    return {name: ready[name] for name in sorted(ready)}


def next_step(rollout: Rollout, limits: Limits) -> Step:
    """The writes that are safe now."""
    world, pools, whole = rollout.world, rollout.pools, rollout.fleet
    budget, spend = limits.budget_dollars_per_hour, rollout.spend
    lost = lost_pods(world, frozenset(node.name for pool in pools for node in pool.nodes if node.closed))
    placements_of = partial(_placements, topology_keys=limits.topology_keys, lost=lost, budget=budget)
    first = precedence(rollout, limits, placements_of)
    rollout, fleet, placements = first.rollout, first.rollout.fleet, first.placements
    sizes = {pool.name: wished_size(pool, fleet, placements[pool.name]) for pool in pools}
    able = that_can_exist(fleet, rollout.missing)
    wishes = sizes if able is fleet else {pool.name: wished_size(pool, able, placements[pool.name]) for pool in pools}
    growth = grow(pools=pools, fleet=able, sizes=wishes, budget=budget, spend=spend if limits.may_grow else math.nan)
    spend_grown, may_spend = (growth.spend_after, budget) if limits.may_grow else (spend, spend)
    placed, held_back, places_wake = _places(rollout, placements, spend_grown, may_spend)
    strays = tuple(pod for pod in _kept_pods(rollout, lost) if rollout.facts_of(pod).pool not in placements)
    over = limits.exceeded_by(spend)
    grown = {item.pool for item in growth.resize}
    for pool in pools:
        sizes[pool.name] = max(sizes[pool.name], pool.occupied)  # also those on nodes that are being taken away
        if over:
            planned = 0 if pool.contradiction is not None else planned_size(pool, fleet)
            sizes[pool.name] = max(planned, _held(pool, placements[pool.name]))
        less = given_back_first(pool, able) if limits.may_grow and pool.name not in grown else None
        if less is not None:
            sizes[pool.name] = min(sizes[pool.name], less)
    leaving = {name: item.leaving for name, item in placements.items()} if world.marks_machines else None
    smaller = shrink(pools=pools, sizes=sizes, leaving=leaving) if not math.isnan(spend) else ()
    coming = Coming(
        nodes=bool(growth.resize),
        replicas=bool(placed) or places_wake is not None,  # those that only wait for a node to go
        held_back=limits.may_grow and (growth.held_back or held_back or _lack_nodes(pools, placements)),
        room=growth.held_back_beside and bool(smaller),
    )
    leave = departures(rollout, limits, placements, strays, coming, first.kept, whole)
    ready = ready_replicas(world, frozenset(pod.uid for pod, _ in leave.drain) | leave.victims)
    counts = _counts(rollout, whole, placements, leave, lost, patient=not over)
    wakes = [item.hold_seconds for item in counts.contests if item.hold_seconds > 0]
    wakes += [seconds for seconds in (leave.wake_in_seconds, places_wake) if seconds is not None]
    return Step(
        before_routing=(*_claims(world, pools), *growth.resize, *counts.raised, *placed),
        after_routing=(
            *_drains(world, leave, ready),
            *counts.lowered,
            *counts.deleted,
            *_releases(world, pools),
            *smaller,
        ),
        ready=ready,
        held_back=growth.held_back or held_back,
        unplaced=sum(
            placement.unplaced + sum(not item.free_now for item in placement.assigned)
            for placement in placements.values()
        ),
        wake_in_seconds=min(wakes, default=None),
        must_stay=_must_stay(pools, placements),
        contests=counts.contests,
    )


def _held(pool: Pool, placement: Placement) -> int:
    """The nodes that hold our pods, or will after this turn."""
    held = {node.name for node in pool.nodes if node.our_pods}
    return len(held.union(*(item.nodes for item in placement.assigned if item.free_now)))


def _lack_nodes(pools: tuple[Pool, ...], placements: Mapping[str, Placement]) -> bool:
    """Whether replicas wait for nodes in the place of which others hold nodes that take nobody any more, and no node is on its
    way. What may be asked for beside these has been asked for by now."""
    return any(
        pool.sized_by_us
        and placements[pool.name].unplaced
        and any(node.our_pods for node in pool.spent_nodes)
        and not (pool.boots or pool.wanted > len(pool.nodes))
        for pool in pools
    )


def _claims(world: Observation, pools: tuple[Pool, ...]) -> list[AnyAction]:
    return [
        ClaimPool(pool=pool.name, claimed_by=world.plan.key, why=f"{pool.name} is sized by plan {world.plan.key}")
        for pool in pools
        if pool.sized_by_us and not pool.left and pool.object is not None and pool.object.claimed_by != world.plan.key
    ]


def _releases(world: Observation, pools: tuple[Pool, ...]) -> list[AnyAction]:
    """Writes that give back pools that the spec no longer has, once they are at their floors; one that somebody else sizes,
    at once."""
    return [
        ClaimPool(pool=pool.name, claimed_by="", why=f"{pool.name} is given back by plan {world.plan.key}")
        for pool in pools
        if pool.left
        and pool.object is not None
        and pool.object.claimed_by == world.plan.key
        and (pool.conflict is not None or (pool.occupied == 0 and pool.wanted <= pool.least_nodes))
    ]


def lost_pods(world: Observation, closed: Collection[str] = ()) -> frozenset[str]:
    """The uids of our pods that are lost: they run on, or are tied to, a node that is gone, or are tied to a node that takes
    nobody.

    ``closed`` are the names of nodes on which the scheduler puts nobody yet. The cluster takes a minute or more to collect lost
    pods, or never does. Until then they would hold the place of their successors. A group is lost with any of its pods.
    """
    nodes = {node.name: node for node in world.nodes}
    taking = {node.name for node in world.nodes if node.usable and node.name not in closed}
    return frozenset(
        pod.uid
        for pod in world.pods
        if pod.deployment is not None
        and pod.namespace == world.plan.namespace
        and not pod.terminating
        and any(
            part.node is not None and (part.node not in nodes or not (part.bound or part.node in taking))
            for part in pod.parts
        )
    )


def _kept_pods(rollout: Rollout, lost: frozenset[str]) -> tuple[Pod, ...]:
    """Our pods that are neither lost nor being deleted."""
    return tuple(
        pod
        for pod in rollout.world.pods
        if pod.deployment is not None
        and pod.deployment in rollout.facts
        and not pod.terminating
        and pod.uid not in lost
    )


def _placements(
    rollout: Rollout, topology_keys: Mapping[str, str], lost: frozenset[str], budget: float
) -> dict[str, Placement]:
    """The placement of our pods, by pool. ``topology_keys``: the label over whose values a model is spread, by model."""
    fleet, kept = rollout.fleet, _kept_pods(rollout, lost)
    to_leave = nodes_to_leave(rollout.pools, fleet, budget)
    gpus = {name: item.gpus // item.nodes for name, item in rollout.facts.items()}
    pods_of_a_replica = {name: item.nodes for name, item in rollout.facts.items()}
    labels = {node.name: node.labels for node in rollout.world.nodes}
    homes = {pod.uid: pod.nodes for pod in kept if pod.draining_since is None}
    out = {}
    for pool in rollout.pools:
        elsewhere = [pod for pod in kept if rollout.facts_of(pod).pool != pool.name]
        spread = {
            model: Spread(
                model,
                key,
                Counter(
                    labels.get(node, {}).get(key, "")
                    for pod in elsewhere
                    if rollout.facts_of(pod).model == model
                    for node in homes.get(pod.uid, ())
                ),
            )
            for model, key in topology_keys.items()
        }
        wanted = Wanted(
            replicas={item.deployment: item.replicas for item in fleet.replica_sets if item.pool == pool.name},
            gpus=gpus,
            nodes=fleet.nodes.get(pool.name, 0),
            groups=fleet.groups,
            pods=pods_of_a_replica,
            spread={name: spread[item.model] for name, item in rollout.facts.items() if item.model in spread},
        )
        pods = tuple(pod for pod in kept if rollout.facts_of(pod).pool == pool.name)
        out[pool.name] = place(pool, pods, wanted, to_leave)
        homes |= {item.pod.uid: item.nodes for item in out[pool.name].assigned}
    return out


def _places(
    rollout: Rollout, placements: Mapping[str, Placement], spend: float, budget: float
) -> tuple[list[AnyAction], bool, float | None]:
    """Gated pods to let go, those of a group all or none, whether the budget holds some of them back, and in how many seconds
    to look again at those whose node may be on its way out. A replica on a fixed node that held none of ours adds the node's
    price to spend."""
    out: list[AnyAction] = []
    held_back = False
    wakes: list[float] = []
    for pool in rollout.pools:
        occupied = {node.name for node in pool.nodes if node.our_pods}
        free = [item for item in placements[pool.name].assigned if item.free_now]
        for item in sorted(free, key=lambda item: (-rollout.facts_of(item.pod).priority, item.pod.name)):
            more = set(item.nodes) - occupied
            patience = NODE_MAY_GO_SECONDS - seconds_since(item.pod.created, rollout.world.now)
            if patience > 0 and not pool.about_to_go.isdisjoint(more):
                wakes.append(patience)
                continue
            if pool.spec.resize is None and more:
                price = math.nan if pool.dollars_per_node_hour is None else len(more) * pool.dollars_per_node_hour
                if not spend + price <= budget + CENT:
                    held_back = True
                    continue
                spend += price
                occupied |= more
            out += _place(item)
    return out, held_back, min(wakes, default=None)


def _place(item: Assignment) -> list[PlacePod]:
    """The writes that place a replica: one for each of its pods that has no node yet."""
    gated = [part for part in item.pod.parts if part.node is None]
    free = [node for node in item.nodes if node not in item.pod.nodes]
    return [
        PlacePod(
            pod=part.name,
            uid=part.uid,
            node=node,
            node_affinity=_narrowed(part.node_affinity, node),
            why=f"{part.name} belongs on node {node}",
        )
        for part, node in zip(gated, free, strict=True)
    ]


def _narrowed(affinity: dict[str, Any] | None, node: str) -> dict[str, Any]:
    """The pod's required node affinity with the node's name added to each alternative; the API server lets a gated
    pod's affinity be narrowed, never widened."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = (affinity or {}).get("nodeSelectorTerms") or [{}]
    return {"nodeSelectorTerms": [{**term, "matchFields": [*(term.get("matchFields") or []), field]} for term in terms]}


def _drains(world: Observation, leave: Departures, ready: Mapping[str, int]) -> list[AnyAction]:
    actions: list[AnyAction] = [
        RestorePod(pod=pod.name, uid=pod.uid, why=f"{pod.name} is wanted again") for pod in leave.restore
    ]
    actions += [
        NoteUnrouted(pod=pod.name, uid=pod.uid, since=world.now, why=f"the gateway sends {pod.name} no more requests")
        for pod in leave.unrouted
    ]
    for pod, reason in leave.drain:
        # The last one of a Service stays among its endpoints until it is removed: its requests have nowhere else to go
        # while gateways still follow the weights.
        others = ready.get(pod.deployment or "", 0) > 0
        actions.append(
            DrainPod(pod=pod.name, uid=pod.uid, leave_service=others, since=world.now, why=f"{pod.name}: {reason}")
        )
    return actions


_BESIDE_DEPLOYMENTS = frozenset({"Service", DISRUPTION_BUDGET, names.CLAIM_TEMPLATE})
"""Kinds of objects that a Deployment of ours has under its own name."""


class Counts(NamedTuple):
    """Writes that set the number of replicas of our Deployments, and that delete what nothing uses."""

    raised: list[AnyAction]
    lowered: list[AnyAction]
    """Writes that lower a number, and pods to remove by name."""
    deleted: list[AnyAction]
    """Objects that nothing uses any more."""
    contests: tuple[Contest, ...]


def _must_stay(pools: tuple[Pool, ...], placements: Mapping[str, Placement]) -> dict[str, int]:
    """Ready replicas by Deployment that evictions must leave. Only Deployments with replicas on cordoned nodes that nothing
    can replace, since neither the budget nor the pool has room: these may go, what is ready elsewhere must stay."""
    found: dict[str, int] = {}
    for pool in pools:
        spent = {node.name for node in pool.spent_nodes}
        stay = [pod for pod in placements[pool.name].stay if pod.deployment is not None]
        for name in {pod.deployment for pod in stay if not spent.isdisjoint(pod.nodes)}:
            elsewhere = [pod for pod in stay if pod.deployment == name and spent.isdisjoint(pod.nodes)]
            found[name or ""] = sum(pod.ready for pod in elsewhere)
    return dict(sorted(found.items()))


def _counts(
    rollout: Rollout,
    whole: Fleet,
    placements: Mapping[str, Placement],
    leave: Departures,
    lost: frozenset[str],
    *,
    patient: bool,
) -> Counts:
    """Writes that bring every Deployment of ours to its number of replicas, and delete what nothing of the ``whole`` plan
    uses. ``patient``: numbers that somebody else has set are left for a while."""
    world, fleet = rollout.world, rollout.fleet
    movers = Counter(pod.deployment for placement in placements.values() for pod in placement.movers)
    raised: list[AnyAction] = []
    lowered: list[AnyAction] = []
    deleted: list[AnyAction] = []
    contests: list[Contest] = []
    stuck = {pod.uid for pod in leave.stuck}
    begin = {pod.uid for pod, _ in leave.drain}
    for live in world.deployments():
        item = fleet.replica_set(live.name)
        target = item.replicas if item is not None else 0
        wish = target + movers[live.name] + _ending_nowhere(live, world)
        replicas = int(live.manifest.get("spec", {}).get("replicas", 1))
        pods = tuple(pod for pod in world.pods_of(live.name) if pod.uid not in lost)
        lowered += [
            _delete(pod, "belongs on a node that is gone or out of use")
            for pod in world.pods_of(live.name)
            if pod.uid in lost
        ]
        contest = contest_of(live, wish=wish, now=world.now)
        contests += [] if contest is None else [contest]
        set_by = None if contest is None or replicas == wish else f"{contest.manager} {contest.since}"
        if contest is not None and contest.hold_seconds > 0 and patient:
            pass
        elif replicas < wish:
            why = f"{live.name} from {replicas} to {wish} replicas"
            raised.append(
                ScaleDeployment(
                    object_kind=live.kind, name=live.name, before=replicas, replicas=wish, set_by=set_by, why=why
                )
            )
        elif replicas > wish or any(pod.uid in leave.victims for pod in pods):
            if live.kind == names.LEADER_WORKER_SET:
                removal = remove_groups(pods=pods, replicas=replicas, target=wish, victims=leave.victims)
            else:
                removal = remove(pods=pods, replicas=replicas, target=wish, victims=leave.victims, begin=begin)
            lowered += [_delete(pod, "is beyond the plan") for pod in removal.delete]
            if removal.replicas < replicas:
                why = f"{live.name} from {replicas} to {removal.replicas} replicas"
                lowered.append(
                    ScaleDeployment(
                        object_kind=live.kind,
                        name=live.name,
                        before=replicas,
                        replicas=removal.replicas,
                        set_by=set_by,
                        why=why,
                    )
                )
        lowered += [_delete(pod, "was not ready within its start-up time") for pod in pods if pod.uid in stuck]
        unused = whole.replica_set(live.name) is None and replicas == 0
        if unused and not any(pod.deployment == live.name for pod in world.pods):
            deleted.append(
                DeleteObject(object_kind=live.kind, name=live.name, uid=live.uid, why=f"{live.name} has no replica")
            )
    deployments = {live.name for live in world.deployments()}
    spent = {node.name for pool in rollout.pools for node in pool.spent_nodes}
    for live in world.objects:
        if live.kind not in _BESIDE_DEPLOYMENTS or not live.ours or whole.replica_set(live.name) is not None:
            continue
        if live.name not in deployments:
            why = f"nothing is behind {live.kind} {live.name}"
            deleted.append(DeleteObject(object_kind=live.kind, name=live.name, uid=live.uid, why=why))
        elif live.kind == DISRUPTION_BUDGET and any(
            not spent.isdisjoint(pod.nodes) for pod in world.pods_of(live.name)
        ):
            # The plan does without these replicas, and their successors may never come: a drain must not wait for them.
            why = f"replicas of {live.name}, which the plan does without, are on a node that is drained"
            deleted.append(DeleteObject(object_kind=live.kind, name=live.name, uid=live.uid, why=why))
    return Counts(raised, lowered, deleted, tuple(contests))


def _ending_nowhere(live: LiveObject, world: Observation) -> int:
    """Groups of a LeaderWorkerSet whose end nobody carries out, since a node of theirs is gone or silent. Until it is over none
    takes the place of such a group: one more has to be made."""
    if live.kind != names.LEADER_WORKER_SET:
        return 0
    there = {node.name for node in world.nodes if node.ready}
    own = (pod for pod in world.pods if pod.deployment == live.name and pod.terminating)
    return len({group_index(pod) for pod in own if not there.issuperset(pod.nodes)})


def _delete(pod: Pod, reason: str) -> DeletePod:
    return DeletePod(pod=pod.name, uid=pod.uid, why=f"{pod.name} {reason}")
