"""The conditions of the plan's pools and replicas."""

from __future__ import annotations

from servingplan.model.actions import ClaimPool, ResizePool
from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet
from servingplan.model.outcome import Outcome
from servingplan.model.row import Row, failure, refusal
from servingplan.model.world import Observation, Pod
from servingplan.planning.availability import cap_lines
from servingplan.planning.declared import selector_text
from servingplan.planning.pools import Pool
from servingplan.planning.quota import quota_lines
from servingplan.planning.starts import lines
from servingplan.rollout.growth import planned_size
from servingplan.routing.conditions import is_routing

_TROUBLES = {
    "CrashLoopBackOff": "EngineCrash",
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "Unschedulable": "Unschedulable",
}
"""The condition's reason by the word of the kubelet or the scheduler about a pod."""


def node_pools_ready(decision: Decision, outcome: Outcome, pools: tuple[Pool, ...], queue: str | None) -> Row:
    """The condition: whether every rented pool has exactly the nodes of the plan, all of them usable."""
    kind = "NodePoolsReady"
    if failed := failure(decision, kind):
        return failed
    for item in outcome.refused:
        if isinstance(item.action, ResizePool | ClaimPool):
            return refusal(kind, item)
    if decision.fleet is None:
        return Row(kind, "Unknown", "NotPlanned", "no plan yet")
    waiting = [
        pool for pool in pools if pool.rented and (_changing(pool, decision.fleet) or _refused(pool, decision.fleet))
    ]
    caps = "".join(f"; {line}" for line in (*cap_lines(pools), *quota_lines(pools, queue)))
    if waiting:
        unmatched = "".join(
            f"; {pool.existing} nodes of {pool.name} exist, but none matches {selector_text(pool.spec)} yet"
            for pool in waiting
            if pool.existing and not pool.nodes
        )
        text = ", ".join(
            f"{pool.name}: {len(pool.usable_nodes)} of {decision.fleet.nodes.get(pool.name, 0)} nodes usable, "
            f"{pool.wanted} asked for{_unlabelled(pool)}{_nodes_out_of_use(pool)}"
            for pool in waiting
        )
        held = "; the budget stops growth until other nodes are gone" if decision.held_back else ""
        return Row(kind, "False", _why(waiting, decision.fleet), text + unmatched + held + caps)
    blind = "".join(f"; {pool.name}{_nodes_out_of_use(pool)}" for pool in pools if not pool.rented and pool.blind_nodes)
    told = [item.message for item in decision.findings if item.condition == kind]
    text = "; ".join((f"every pool has the nodes of the plan{caps}{blind}", *told))
    return Row(kind, "True", "AsPlanned", text)


def _why(waiting: list[Pool], fleet: Fleet) -> str:
    """The reason: the pool refuses nodes of the plan, nodes show no GPUs, or nodes are being added or removed."""
    refused = (pool.cap.reason for pool in waiting if pool.cap and _refused(pool, fleet))
    blind = "NoGPUsVisible" if any(pool.blind_nodes for pool in waiting) else "Scaling"
    return next(refused, blind)


def _nodes_out_of_use(pool: Pool) -> str:
    """Text with the existing nodes that take no replica, each with its reason; empty if there are none."""
    lines = []
    for item in pool.nodes:
        node = item.node
        if node.disrupted:
            lines.append(f"{node.name} is being taken away")
        elif not node.schedulable:
            lines.append(f"{node.name} is cordoned")
        elif not node.ready:
            lines.append(f"{node.name} is not ready")
        elif node.gpus == 0:
            lines.append(f"{node.name} shows no GPUs")
        elif item.closed:
            lines.append(f"{node.name} takes no pods yet: its autoscaler or its agents have not set it up")
    return f" ({', '.join(lines)})" if lines else ""


def _unlabelled(pool: Pool) -> str:
    """Text about nodes that the pool's object counts and the selector does not match: they boot, or the selector is wrong."""
    reported = pool.object.actual if pool.object is not None else None
    if reported is None or reported <= len(pool.nodes):
        return ""
    return f" ({reported} exist, {len(pool.nodes)} of them have the labels of nodeSelector)"


def _changing(pool: Pool, fleet: Fleet) -> bool:
    size = planned_size(pool, fleet)
    return pool.wanted != size or pool.existing != size or _usable(pool) < size


def _refused(pool: Pool, fleet: Fleet) -> bool:
    """Whether the plan in force counts on nodes that the pool refuses, since no other plan is in force yet."""
    return pool.cap is not None and fleet.nodes.get(pool.name, 0) > pool.most_nodes


def _usable(pool: Pool) -> int:
    """The number of nodes that could take a replica if they were empty."""
    return sum(item.node.usable and not item.closed and item.node.gpus > 0 for item in pool.nodes)


def _is_whole(pod: Pod) -> bool:
    return not pod.workers_to_come


def _rewritten(world: Observation) -> str:
    """Text with what the cluster's admission changes of the Deployments that we write; empty where it changes nothing."""
    return "".join(
        f"; the cluster's admission changes {live.kind} {live.name} ({', '.join(live.rewritten_fields)}), "
        "and it is left as it is then"
        for live in world.deployments()
        if live.ours and live.rewritten_fields
    )


def workloads_ready(world: Observation, decision: Decision, outcome: Outcome) -> Row:
    """The condition: whether every replica of the plan is ready."""
    kind = "WorkloadsReady"
    if failed := failure(decision, kind):
        return failed
    for item in outcome.refused:
        if not isinstance(item.action, ResizePool | ClaimPool) and not is_routing(item):
            return refusal(kind, item)
    fleet = decision.fleet
    if fleet is None:
        return Row(kind, "Unknown", "NotPlanned", "no plan yet")
    short = [
        (item, decision.ready.get(item.deployment, 0))
        for item in fleet.replica_sets
        if decision.ready.get(item.deployment, 0) < item.replicas
    ]
    left_out = "".join(f"; {line}" for line in lines(decision.failed_shapes)) + _rewritten(world)
    if not short:
        return Row(kind, "True", "AsPlanned", f"every replica of the plan is ready{left_out}")
    text = ", ".join(f"{item.deployment}: {ready} of {item.replicas} ready" for item, ready in short)
    planned = {item.deployment for item in fleet.replica_sets}
    if unlisted := sum(pod.ready and not pod.listed for pod in world.pods if pod.deployment in planned):
        text += f"; {unlisted} not yet in the EndpointSlices of their Services"
    lacking = [item for item, _ in short if item.nodes > 1 and not any(map(_is_whole, world.pods_of(item.deployment)))]
    if lacking:
        text += f"; no group of {', '.join(item.deployment for item in lacking)} has all of its pods"
        text += ", which the controller of LeaderWorkerSets makes"
    failures = [(live.manifest.get("status") or {}).get("replicaFailure") for live in world.deployments()]
    if refused := sorted({failure for failure in failures if failure}):
        advice = "no nodes are asked for them; change the quota, the pod security or engine.podTemplate"
        return Row(kind, "False", "ReplicaFailure", f"{text}; pods are not created: {'; '.join(refused)}; {advice}")
    held = [pod for pod in world.pods if pod.deployment in planned and pod.gated and pod.other_gates]
    if held:
        gates = ", ".join(sorted({gate for pod in held for gate in pod.other_gates}))
        advice = "no nodes are asked for them; the owner of the gate must admit them (Kueue: raise the queue's quota)"
        return Row(
            kind, "False", "GatedByOther", f"{text}; {len(held)} pods wait for the scheduling gate {gates}: {advice}"
        )
    troubles = sorted({pod.trouble for pod in world.pods if pod.deployment in planned and pod.trouble})
    if not troubles:
        return Row(kind, "False", "RollingOut", text + left_out)
    reason = _TROUBLES.get(troubles[0].partition(":")[0], "RollingOut")
    return Row(kind, "False", reason, f"{text}; {'; '.join(troubles)}{left_out}")
