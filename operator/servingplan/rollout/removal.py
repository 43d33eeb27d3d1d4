"""Removes exactly the intended replicas from a Deployment or LeaderWorkerSet.

When ``replicas`` is lowered, the ReplicaSet controller chooses the pods: first those without a node, then those that are not
ready, then by deletion cost (kubernetes/kubernetes pkg/controller/controller_utils.go, ActivePodsWithRanks). If that order
would remove another pod than the intended one, the intended one is deleted by name. Its successor waits behind the plan's
gate, costs nothing, and is the first to be removed when ``replicas`` is lowered in the next turn.

The groups of a LeaderWorkerSet are removed from the highest index down (the leaders are pods of a StatefulSet). One below the
highest is deleted by name. Its successor waits behind the plan's gate under the same index, costs nothing, and is the next to
be placed when another is wanted. So ``replicas`` may stay above what is planned.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from servingplan.model.world import Pod


@dataclass(frozen=True)
class Removal:
    """The writes that bring one Deployment down."""

    replicas: int
    """The number to set."""
    delete: tuple[Pod, ...]
    """The pods to delete by name."""


def remove(
    *, pods: tuple[Pod, ...], replicas: int, target: int, victims: Collection[str], begin: Collection[str] = ()
) -> Removal:
    """The next writes from ``replicas`` towards ``target`` that only ``victims`` (uids that may go now) fall to.

    ``pods``: all of the Deployment that are not being deleted. ``begin``: uids of those whose drain begins in the same turn;
    by the time that the controller looks, their deletion cost is that of the drained ones.
    """
    room = max(0, replicas - target)
    missing = max(0, replicas - len(pods))
    going = max(0, len(pods) - replicas)  # the number was lowered already, and the controller has not acted yet
    lower = missing
    unbound = [pod for pod in pods if not pod.bound]
    unready = [pod for pod in pods if pod.bound and not pod.ready]
    draining = [pod for pod in pods if pod.bound and pod.ready and (pod.draining_since is not None or pod.uid in begin)]
    covered: list[Pod] = []
    for group in (unbound, unready, draining):
        doomed = [pod for pod in group if pod.uid in victims]
        if group is unbound and len(doomed) < len(group):
            # Those that wait for a node are alike: whichever goes, one of ours fewer is left. One that was placed where it
            # cannot start is not: the controller takes the youngest of both, which is its successor.
            alike = [pod for pod in doomed if pod.node is None]
            covered += alike
            lower += len(alike)
            break
        if len(doomed) == len(group):
            covered += doomed
            lower += len(doomed)
        else:
            break
    lower = min(max(0, lower - going), room)
    sure = {pod.uid for pod in covered[: max(0, lower - missing) + going]}
    by_name = tuple(pod for pod in pods if pod.uid in victims and pod.uid not in sure and pod.node is not None)
    return Removal(replicas=replicas - lower, delete=by_name)


def remove_groups(*, pods: tuple[Pod, ...], replicas: int, target: int, victims: Collection[str]) -> Removal:
    """The same as ``remove``, for a LeaderWorkerSet. ``pods`` are its groups, as their leaders."""
    by_index = {group_index(pod): pod for pod in pods}
    # Those that wait for nodes are alike: whichever goes, one of ours fewer is left.
    alike = sum(pod.uid in victims for pod in pods if not pod.nodes)
    lower, sure = replicas, set()
    while lower > target:
        top = by_index.get(lower - 1)
        if top is not None and top.nodes:
            if top.uid not in victims:
                break
            sure.add(top.uid)
        elif top is not None:
            if not alike:
                break
            alike -= 1
        lower -= 1
    by_name = tuple(pod for pod in pods if pod.uid in victims and pod.uid not in sure and pod.nodes)
    return Removal(replicas=lower, delete=by_name)


def group_index(pod: Pod) -> int:
    """The index of a group, from the name of one of its pods: ``SET-GROUP``, or ``SET-GROUP-WORKER``."""
    return int(pod.name.removeprefix(f"{pod.deployment}-").partition("-")[0])
