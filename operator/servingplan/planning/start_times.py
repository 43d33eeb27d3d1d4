"""How the time that replicas take to start changes the question: lower rates if nodes are lost now and then, and a cost of
moves."""

from __future__ import annotations

import math
from collections.abc import Mapping

from servingplan.model import question as q
from servingplan.planning.shapes import ShapeFacts

BOOT_SECONDS = 300.0
"""The assumed boot of a node that replaces a lost one, in seconds. A machine with eight GPUs takes some minutes; the clouds
state no time."""


def up_share(facts: ShapeFacts) -> float:
    """The part of the time in which a replica serves, if the provider takes nodes of its pools away now and then.

    It is up for 1 / (losses an hour) hours in the mean, then down for a boot and a start-up: the availability of an alternating
    renewal process, up / (up + down), whatever the distributions (Ross, Introduction to Probability Models, section 7.5.1). A
    replica over several nodes is lost with any of them. The start-up takes what the spec declares, else the longest of the last
    starts, else what is allowed.
    """
    losses_per_hour = math.fsum(
        facts.layout.nodes(leg) * float(leg.pool.spec.interruptions_per_node_hour) for leg in facts.layout.legs
    )
    start_seconds = facts.learned_start_seconds
    if start_seconds is None or facts.model.engine.startup_seconds is not None:
        start_seconds = facts.start_limit_seconds
    hours_down = (BOOT_SECONDS + _whole_minutes(start_seconds)) / 3600.0
    return 1.0 / (1.0 + losses_per_hour * hours_down)


def _whole_minutes(seconds: float) -> float:
    """The time in whole minutes, rounded up: a start that took a few seconds longer must not change a rate, and with it the
    question."""
    return math.ceil(seconds / 60.0) * 60.0


def with_start_ups(question: q.Question, shapes: Mapping[str, ShapeFacts]) -> q.Question:
    """The question with the start-up time of a new copy of each shape, in seconds from renting its node to the first request.

    It is the boot of a node of the pool and the start of the variant there, each the longest that was seen there, else on any
    pool. It only decides whether the answer is worth the moves, so a longer start is no reason to plan anew. What was never
    seen counts as 0, because a guess is no reason to keep the running plan.
    """
    starts: dict[tuple[str, str], float] = {}
    for facts in shapes.values():
        key = (facts.model.name, facts.variant.name)
        starts[key] = max(starts.get(key, 0.0), facts.learned_start_seconds or 0.0)
    boots = {facts.pool.name: max(facts.pool.boot_seconds, default=0.0) for facts in shapes.values()}
    longest_boot = max(boots.values(), default=0.0)

    def seconds(facts: ShapeFacts) -> float:
        start = facts.learned_start_seconds or starts[facts.model.name, facts.variant.name]
        return start + (0.0 if facts.pool.spec.resize is None else boots[facts.pool.name] or longest_boot)

    found = {name: seconds(facts) for name, facts in shapes.items()}
    if not any(found.values()):
        return question
    timed = tuple(shape.model_copy(update={"startup_seconds": found[shape.name]}) for shape in question.shapes)
    return question.model_copy(update={"shapes": timed})
