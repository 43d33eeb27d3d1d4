"""The texts of an explanation: limits, gains, alternatives, conflicting limits."""

from __future__ import annotations

import math
from collections.abc import Mapping

from servingplan.model.answer import Answer, Clash, Ease, WhatIf
from servingplan.model.engine import EngineSettings
from servingplan.model.goal import Goal, Kind
from servingplan.model.llm import WIDE_BYTES

NOTHING = "nothing"
MOST_LINES = 8
"""The most lines about one conflict."""

_ONE_MORE = {
    "budget": "1 $/h more of budget",
    "pool": "one more node of {}",
    "floor": "one node less in the floor of {}",
    "quota": "one more GPU in the quota of {}",
    "max_copies": "one more copy of {}",
    "quality": "1 % more quality loss for {}",
    "slo": "latency limits 1 % looser",
}
_FIELDS = {
    "budget": "the budget of {now:.10g} $/h",
    "pool": "{now:.10g} nodes of {item} at most",
    "floor": "{now:.10g} nodes of {item} at least",
    "quota": "a quota of {now:.10g} GPUs for {item}",
    "max_copies": "{now:.10g} copies of {item} at most",
    "quality": "a quality loss of {now:.6g} for {item} at most",
    "survive": "survive {item} from priority {now:.10g}",
    "class": "{now:.6g} requests/s of {item}",
}
_PRUNED = {
    "BlocksNotDivisible": "because blocks of quantised weights do not divide",
    "ContextAboveModel": "because the context is above the model's limit",
    "ContextTooShort": "because requests are longer than the context",
    "Dominated": "because another shape in the same pool serves the same or more",
    "EngineTooOld": "because the engine's version spans no nodes",
    "HeadsNotDivisible": "because heads do not divide",
    "LayersNotDivisible": "because the model has too few layers",
    "Memory": "for lack of memory",
    "MixedTypes": "because they have two GPU types",
    "NoLeaderWorkerSet": "because they span nodes without LeaderWorkerSets",
    "NoNode": "because no node is large enough",
    "NotConnected": "because their nodes are not known to be in one zone",
    "SloUnreachable": "because they cannot reach the latency limits",
}
_CHANGES = {
    "budget": "raise it to {needed} $/h",
    "pool": "allow {needed}",
    "floor": "lower it to {needed}",
    "quota": "raise it to {needed}",
    "max_copies": "allow {needed}",
    "quality": "allow {needed}",
    "survive": "raise its minPriority to {needed}",
    "class": "lower it to {needed}",
}


def one_more(what_if: WhatIf) -> str:
    """The text of the limit that is raised by one unit."""
    kind, _, item = what_if.name.partition(":")
    return _ONE_MORE[kind].format(item)


def gain(what_if: WhatIf, before: Answer) -> str:
    """The text of the gain over the answer before, and of its certainty."""
    if what_if.level is None:
        return NOTHING
    goal = Goal.named(what_if.level)
    if not what_if.distinguishable:
        most = _amount(goal, what_if.at_most)
        return f"not distinguishable from nothing: at most {most}, which is within the gaps of the two plans"
    more = math.fsum(_served(what_if.answer)) - math.fsum(_served(before))
    text = {
        Kind.SCALE: f"serves {what_if.gain:.4g} more of the mix",
        Kind.SERVED_FRACTION: f"serves {what_if.gain:.1%} more of each class of priority {goal.priority}, "
        f"{more:+.4g} requests/s in all",
        Kind.SERVED_TOTAL: f"serves {what_if.gain:.4g} requests/s more at priority {goal.priority}",
        Kind.DOLLARS: f"saves {_dollars(what_if.gain)} $/h",
    }[goal.kind]
    sure = what_if.at_most <= what_if.gain * (1 + 1e-3)
    return text if sure else f"{text} (at most {_amount(goal, what_if.at_most)})"


def outcome(answer: Answer) -> str:
    """The text of what an answer costs and serves."""
    if answer.status == "Infeasible":
        return "no plan" if answer.stopped == "proved" else "no plan was found"
    price = f"{_dollars(answer.dollars_per_hour or 0.0)} $/h"
    gap = "" if not answer.gap or answer.gap < 5e-5 else f", gap {answer.gap:.2%}"
    return f"{price}, serves {share(answer)}{gap}"


def share(answer: Answer) -> str:
    """The share of the asked rate that an answer serves; under MaximizeService the multiple of the mix."""
    if answer.scale is not None:
        return f"{answer.scale:.4g} times the mix"
    served, unserved = math.fsum(_served(answer)), math.fsum(answer.unserved.values())
    if unserved <= 1e-6 * (served + unserved):
        return "100%"
    return f"{min(0.999, served / (served + unserved)):.1%}"


def conflict_lines(conflict: Clash) -> tuple[str, ...]:
    """One line per limit of the conflict. If there are many, the first ones; limits with a known change come first."""
    told = (
        sorted(conflict.limits, key=lambda ease: ease.needed is None)
        if len(conflict.limits) > MOST_LINES
        else conflict.limits
    )
    lines = tuple(_conflict_line(ease) for ease in told[:MOST_LINES])
    left = len(conflict.limits) - len(lines)
    return (*lines, f"and {left} more limits") if left else lines


def conflict_title(conflict: Clash) -> str:
    """The title of the lines about a conflict."""
    what = "There is no plan" if conflict.goal == "any plan" else "Not every class is served in full"
    kind = {
        "smallest": "these limits exclude it together, and no smaller set does",
        "irreducible": "these limits exclude it together, and each of them is needed for that",
        "clash": "these limits exclude it together; the search for a smaller set was cut short",
    }[conflict.guarantee]
    return f"{what}: {kind}"


def pruned(counts: Mapping[str, int], asked: int) -> str:
    """The text of how many shapes were left out, and why."""
    known = [f"{count} {_PRUNED.get(reason, reason)}" for reason, count in sorted(counts.items()) if count]
    kept = asked - counts.get("Dominated", 0)
    return f"{kept} shapes were compared; left out before: {', '.join(known) or 'none'}"


def _conflict_line(ease: Ease) -> str:
    kind, _, item = ease.limit.partition(":")
    text = _FIELDS[kind].format(now=ease.now, item=item)
    if ease.needed is None:
        return f"{text}: " + ("no change of it alone helps" if ease.known else "no change that helps is known")
    if kind == "class" and ease.needed == 0:
        return f"{text}: remove the class"
    return f"{text}: {_CHANGES[kind].format(needed=_nearest(ease))}" + ("" if ease.known else " (less may suffice)")


def _nearest(ease: Ease) -> str:
    """The needed value with six digits, rounded to the side on which a plan exists."""
    assert ease.needed is not None
    if ease.needed == round(ease.needed) or not ease.needed:
        return f"{ease.needed:.10g}"
    unit = 10.0 ** (math.floor(math.log10(abs(ease.needed))) - 5)
    rounding = math.ceil if ease.needed > ease.now else math.floor
    return f"{rounding(round(ease.needed / unit, 4)) * unit:.6g}"


def _served(answer: Answer) -> list[float]:
    return [rate for rates in answer.rates.values() for rate in rates.values()]


def _amount(goal: Goal, size: float) -> str:
    return {
        Kind.SCALE: f"{size:.4g} of the mix",
        Kind.SERVED_FRACTION: f"{size:.2%} of each class",
        Kind.SERVED_TOTAL: f"{size:.4g} requests/s",
        Kind.DOLLARS: f"{_dollars(size)} $/h",
    }[goal.kind]


def _dollars(amount: float) -> str:
    """The amount with two decimals, or with more if two would show 0."""
    return f"{amount:.2f}" if amount == 0 or amount >= 0.005 else f"{amount:.2g}"


def engine(settings: EngineSettings | None) -> str:
    """The text of an engine's settings."""
    if settings is None:
        return "by the engine's own defaults"
    kv = "16-bit" if settings.kv_bytes_per_element == WIDE_BYTES else settings.kv_cache_dtype.upper()
    parts = [f"at most {settings.max_num_seqs} requests at a time", f"{kv} KV cache"]
    if settings.speculation is not None:
        parts.append(f"{settings.speculation.method} speculation")
    if settings.expert_parallel:
        parts.append("whole experts spread over the GPUs")
    return ", ".join(parts)
