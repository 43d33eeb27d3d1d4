"""Shapes that do not start: their replicas crash, run out of memory or are not ready in time, again and again.

Failed starts are counted by Deployment, whose name depends on shape, settings and image. A Deployment with the same key of the
shape counts as the same, because only what its pods request can differ: an edit of the plan clears everything. After three
failed starts without a replica that is ready, the shape is left out of the plan for a while, which doubles each time. An image
that cannot be pulled does not count against the shape, nor does a pod for which the scheduler has no room.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from servingplan.model.fleet import FailedShape, PlanRecord
from servingplan.model.times import later, seconds_since
from servingplan.model.world import Observation, Pod
from servingplan.planning.availability import now_is
from servingplan.planning.shapes import shape_key

MOST_FAILED_STARTS = 3
FIRST_BACK_OFF_SECONDS = 600.0
"""Three starts cost minutes of a node each; the first pause is about as long as they take."""
LONGEST_BACK_OFF_SECONDS = 4 * 3600.0


def look_at_starts(
    record: PlanRecord,
    world: Observation,
    *,
    startup_seconds: Callable[[str], float],
    has_room: Callable[[str], bool],
) -> dict[str, FailedShape]:
    """What is known of shapes that fail, by Deployment, after a look at their replicas.

    ``startup_seconds``: how long replicas of a Deployment may take to start. ``has_room``: whether a replica on this pool
    could be tried again without taking anything from what serves; a shape whose pause is over stays out until then. An edit of
    the plan clears everything.
    """
    found = {
        name: _tried_again(item, world.now, has_room)
        for name, item in record.failed_shapes.items()
        if item.generation == world.plan.generation
    }
    for item in record.fleet.replica_sets if record.fleet is not None else ():
        pods = world.pods_of(item.deployment)
        unknown = FailedShape(generation=world.plan.generation, pool=item.pool, shape=shape_key(item))
        names = [name for name, other in found.items() if name == item.deployment or other.shape == unknown.shape]
        before = [found.pop(name) for name in names]
        if any(pod.ready for pod in pods):
            continue
        after = _counted(before[-1] if before else unknown, world, pods, startup_seconds(item.deployment))
        if after != unknown:
            found[item.deployment] = after
    return dict(sorted(found.items()))


def start_up_left(pod: Pod, now: str, startup_seconds: float) -> float | None:
    """Seconds that a replica has left to start; None if that is not known, if it has no node, or if it has started.

    A readiness probe that fails later only takes its requests away, and the liveness probe decides whether it is restarted.
    Then its time begins again when it was last ready.
    """
    if pod.ready or pod.started or pod.placed_since is None:
        return None
    age = min(seconds_since(pod.placed_since, now), seconds_since(pod.unready_since, now))
    return startup_seconds - age if age < math.inf else None


def left_out(failed: dict[str, FailedShape]) -> frozenset[str]:
    """The Deployments, and the keys of shapes, that may not be planned now."""
    out = {name: item for name, item in failed.items() if item.until is not None}
    return frozenset((*out, *(item.shape for item in out.values() if item.shape)))


def lines(failed: dict[str, FailedShape]) -> list[str]:
    """What is left out and why, in words, one per line."""
    return [
        f"{name} on {item.pool} did not start {MOST_FAILED_STARTS} times and is left out until {item.until} where something "
        f"else can serve: {item.message}"
        for name, item in failed.items()
        if item.until is not None
    ]


def _tried_again(item: FailedShape, now: str, has_room: Callable[[str], bool]) -> FailedShape:
    if item.until is None or not now_is(now, item.until) or not has_room(item.pool):
        return item
    return item.model_copy(update={"starts": (), "since": None, "until": None})


def _counted(before: FailedShape, world: Observation, pods: tuple[Pod, ...], startup_seconds: float) -> FailedShape:
    starts, message = list(before.starts), before.message
    usable = {node.name for node in world.nodes if node.usable}
    for pod in pods:
        there = pod.placed and usable.issuperset(pod.nodes)
        told = _failed_start(pod, world.now, startup_seconds) if there else None
        if told is None or told[0] in starts:
            continue
        starts.append(told[0])
        message = told[1]
    after = before.model_copy(update={"starts": tuple(starts[-MOST_FAILED_STARTS:]), "message": message[:300]})
    if before.until is not None or len(starts) < MOST_FAILED_STARTS:
        return after
    back_off = min(max(FIRST_BACK_OFF_SECONDS, 2 * before.back_off_seconds), LONGEST_BACK_OFF_SECONDS)
    update = {"since": world.now, "until": later(world.now, back_off), "back_off_seconds": back_off}
    return after.model_copy(update=update)


def _failed_start(pod: Pod, now: str, startup_seconds: float) -> tuple[str, str] | None:
    """The name by which a failed start of this pod is counted, and its cause; None if no start failed."""
    if pod.crashes > 0:
        return f"{pod.uid}/{pod.crashes}", pod.last_words or pod.trouble or "its engine ended"
    left = start_up_left(pod, now, startup_seconds)
    if left is not None and left <= 0 and pod.trouble is None:
        return f"{pod.uid}/late", f"it was not ready within {startup_seconds:.0f} s"
    return None
