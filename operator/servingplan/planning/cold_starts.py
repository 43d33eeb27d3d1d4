"""How long replicas take to start (image, weights and compilation), learned from those that started.

A start is counted once per pod, from the moment it got its node, if the pod is ready and no container of it was restarted. The
last few are kept by model, variant and pool. They count for new replicas only: running replicas keep the limit that they were
made with, which is in the plan record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import Fleet, PlanRecord, StartTimes
from servingplan.model.times import seconds_since
from servingplan.model.world import Observation
from servingplan.planning.pools import Pool
from servingplan.render.deployment import UNTOLD_STARTUP_SECONDS

STARTS_KEPT = 5
"""How many of the last starts are kept for each key."""
LOADING_BYTES_PER_SECOND = 60e6
"""The assumed rate at which weights arrive: about half of the 125 MiB/s that a gp3 volume gives without extra charge
(Amazon EBS, General Purpose SSD volumes), because downloaded weights are first written and then read."""
FIXED_SECONDS = 900
"""The time for everything that does not grow with the weights: an image of about 10 GB, compilation, CUDA graphs, the
warm-up."""
MARGIN = 2.0
"""The next start may take this multiple of the longest of the last ones, as with boots (``availability``)."""
LIMIT_STEP_SECONDS = 300
"""Limits are multiples of this. They are part of pod templates, and a start that took a little longer must not change a
template."""
LONGEST_LIMIT_SECONDS = 86_400
"""The longest that a plan may declare as ``startupSeconds``."""


def start_key(model: str, variant: str, pool: str) -> str:
    """The key under which the starts of replicas are kept."""
    return f"{model}/{variant}/{pool}"


def longest_start(times: StartTimes | None) -> float | None:
    """Seconds from a replica's node until it was ready, the longest of the last starts; None where none was seen."""
    return max(times.seconds, default=None) if times is not None else None


def look_at_cold_starts(record: PlanRecord, world: Observation, spec: PlanSpec) -> dict[str, StartTimes]:
    """What is known of the starts of the spec's variants on its pools, after a look at the replicas of the plan in force."""
    there = {pod.uid for pod in world.pods}
    found = {
        key: times.model_copy(update={"counted": tuple(uid for uid in times.counted if uid in there)})
        for key, times in record.start_times.items()
    }
    limits = start_limits(record.fleet or Fleet(), spec)
    for item in record.fleet.replica_sets if record.fleet is not None else ():
        key = start_key(item.model, item.variant, item.pool)
        for pod in sorted(world.pods_of(item.deployment), key=lambda pod: (pod.ready_since or "", pod.uid)):
            times = found.get(key, StartTimes())
            if not pod.ready or pod.ready_since is None or pod.uid in times.counted:
                continue
            seconds = seconds_since(pod.placed_since, pod.ready_since)
            if not 0 <= seconds <= limits[item.deployment]:
                continue  # of one that took longer it is known that it was not ready in time, and is again now
            ran = [] if pod.running_since is None else [seconds_since(pod.placed_since, pod.running_since)]
            found[key] = StartTimes(
                seconds=(*times.seconds, seconds)[-STARTS_KEPT:],
                image_seconds=(*times.image_seconds, *ran)[-STARTS_KEPT:],
                counted=(*times.counted, pod.uid),
            )
    known = {
        start_key(model.name, variant.name, pool.name)
        for model in spec.models
        for variant in model.effective_variants
        for pool in spec.node_pools
    }
    return {key: found[key] for key in sorted(found) if key in known}


def start_limits(fleet: Fleet, spec: PlanSpec) -> dict[str, int]:
    """How long the replicas of each Deployment of a fleet may take to start, in seconds, as their pods were made."""
    declared = {model.name: model.engine.startup_seconds for model in spec.models}
    return {
        item.deployment: declared.get(item.model) or UNTOLD_STARTUP_SECONDS
        if item.needs is None
        else item.needs.start_limit_seconds
        for item in fleet.replica_sets
    }


def start_limit_seconds(declared: int | None, weight_bytes: float, learned_seconds: float | None) -> int:
    """The time that a new replica may take to start, in seconds.

    The spec states it; else it is the time to load the weights at the assumed rate and to do everything else, and at least
    ``MARGIN`` times the longest start that was seen.
    """
    if declared is not None:
        return declared
    least = max(FIXED_SECONDS + weight_bytes / LOADING_BYTES_PER_SECOND, MARGIN * (learned_seconds or 0.0))
    return min(math.ceil(least / LIMIT_STEP_SECONDS) * LIMIT_STEP_SECONDS, LONGEST_LIMIT_SECONDS)


def with_starts(pools: tuple[Pool, ...], start_times: Mapping[str, StartTimes]) -> tuple[Pool, ...]:
    """The pools, each with what is known of the starts on it."""
    return tuple(
        replace(
            pool, start_times={key: times for key, times in start_times.items() if key.rsplit("/", 1)[-1] == pool.name}
        )
        for pool in pools
    )


def start_lines(pools: tuple[Pool, ...]) -> list[str]:
    """What is known of the starts on the pools, in words, one per line."""
    return [
        f"{key.rsplit('/', 1)[0]} on {pool.name} started within {max(times.seconds):.0f} s in the last {len(times.seconds)} "
        "times" + (f"; its container ran after {max(times.image_seconds):.0f} s" if times.image_seconds else "")
        for pool in pools
        for key, times in sorted(pool.start_times.items())
        if times.seconds
    ]


def start_seconds(fleet: Fleet, start_times: Mapping[str, StartTimes]) -> dict[str, float]:
    """How long the replicas of each Deployment of a fleet take to start, in seconds. Deployments of which no start was seen
    are left out."""
    found = {
        item.deployment: longest_start(start_times.get(start_key(item.model, item.variant, item.pool)))
        for item in fleet.replica_sets
    }
    return {name: seconds for name, seconds in found.items() if seconds is not None}
