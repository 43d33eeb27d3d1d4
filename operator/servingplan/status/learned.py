"""What was learned from the fleet, for people and programs."""

from __future__ import annotations

import math

from servingplan.api.status_v1alpha1 import LatencyStatus, LearnedStatus
from servingplan.learning.learn import in_use
from servingplan.model.decision import Decision
from servingplan.model.fleet import LearnedKind
from servingplan.model.row import Row
from servingplan.planning.shapes import slo_of
from servingplan.planning.situation import Situation

CONDITION = "FleetObserved"


def learned_status(kind: LearnedKind | None) -> LearnedStatus | None:
    """The status of one kind of replica; None if nothing was observed lately."""
    if kind is None or kind.look is None:
        return None
    look, used = kind.look, in_use(kind)
    return LearnedStatus(
        at=kind.at,
        requests_per_second=f"{look.requests_per_second:.3g}",
        ttft_seconds=_latency(look.ttft_seconds, look.expected_ttft_seconds),
        tpot_seconds=_latency(look.tpot_seconds, look.expected_tpot_seconds),
        percentile=None if look.percentile is None else f"{look.percentile:g}",
        ttft_percentile_seconds=_latency(look.ttft_percentile_seconds, look.expected_ttft_percentile_seconds),
        tpot_percentile_seconds=_latency(look.tpot_percentile_seconds, look.expected_tpot_percentile_seconds),
        rate_factor=_factor(used.rate_shift),
        ttft_factor=_factor(used.ttft.shift),
        tpot_factor=_factor(used.tpot.shift),
        ttft_tail_factor=_factor(used.ttft_tail.shift) if used.ttft_tail.weight > 0 else None,
        tpot_tail_factor=_factor(used.tpot_tail.shift) if used.tpot_tail.weight > 0 else None,
        percentiles_refused=look.tail_refused,
        refused=look.refused,
    )


def observed_beside_predicted(decision: Decision) -> str:
    """Text with what was observed of each Deployment beside what the plan counts on; empty if nothing was."""
    lines = []
    for name, kind in decision.learned.items():
        found = learned_status(kind)
        if found is None:
            continue
        parts = [
            f"{word} {item.observed} s (predicted {item.predicted})"
            for word, item in (("TTFT", found.ttft_seconds), ("TPOT", found.tpot_seconds))
            if item is not None
        ]
        lines += [f"{name} {', '.join(parts)}"] if parts else []
    return f"observed means: {'; '.join(lines)}" if lines else ""


def late_deployments(situation: Situation, decision: Decision) -> list[str]:
    """Deployments whose observed means are above the loosest limit of the classes that are routed there, with both, for
    people. Some class certainly misses its limit then."""
    if situation.acting is None or decision.fleet is None:
        return []
    models = {model.name: model for model in situation.in_force.models}
    lines = []
    for item in decision.fleet.replica_sets:
        kind = decision.learned.get(item.deployment)
        model = models.get(item.model)
        if kind is None or kind.look is None or model is None:
            continue
        slos = [slo_of(model, found) for found in model.effective_classes if item.planned.get(found.name)]
        for word, seen, limits in (
            ("TTFT", kind.look.ttft_seconds, [slo.ttft_seconds for slo in slos]),
            ("TPOT", kind.look.tpot_seconds, [slo.tpot_seconds for slo in slos]),
        ):
            loosest = max((math.inf if limit is None else float(limit) for limit in limits), default=math.inf)
            if seen is not None and seen > loosest:
                lines.append(f"{item.deployment} has a mean {word} of {seen:.3g} s, above the limit of {loosest:g} s")
    return lines


def fleet_observed(situation: Situation, decision: Decision) -> list[Row]:
    """The condition of a plan that asks to learn; empty for other plans."""
    if situation.acting is None or not situation.acting.planning.learn:
        return []
    seen = situation.world.engines
    if seen is not None and seen.refused is not None:
        return [Row(CONDITION, "False", seen.refused_reason, seen.refused)]
    kept = "what was learned fades"
    if seen is not None and seen.problem is not None:
        return [Row(CONDITION, "False", "NotObserved", f"{seen.problem}; {kept}")]
    looks = {name: kind.look for name, kind in decision.learned.items() if kind.look is not None}
    refused = [f"{name}: {look.refused}" for name, look in looks.items() if look.refused is not None]
    if not looks:
        text = "no engine of the plan was observed for five minutes yet: its pods must be scraped, with the label pod"
        return [Row(CONDITION, "False", "NotObserved", f"{text}; {kept}")]
    if len(refused) == len(looks):
        return [Row(CONDITION, "False", "NothingLearned", f"{'; '.join(refused)}; {kept}")]
    return [Row(CONDITION, "True", "Observed", "; ".join((observed_beside_predicted(decision), *refused)))]


def _latency(observed: float | None, expected: float | None) -> LatencyStatus | None:
    if observed is None or expected is None:
        return None
    return LatencyStatus(observed=f"{observed:.3g}", predicted=f"{expected:.3g}")


def _factor(shift: float) -> str:
    return f"{math.exp(shift):.3g}"
