"""The measurements of the plan's own ConfigMaps, and what a condition says of them."""

from __future__ import annotations

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.decision import Finding
from servingplan.model.world import Observation
from servingplan.profiles.measured import MeasuredRows
from servingplan.profiles.rows import measured_rows

CONDITION = "ProfilesAvailable"
MOST_TOLD = 5
"""Rows of one turn that a condition tells of; the rest is counted."""


def rows_of(spec: PlanSpec, world: Observation) -> tuple[MeasuredRows, tuple[Finding, ...]]:
    """The rows to estimate with, those of the plan first, and what is wrong with them. The plan goes on with the rest."""
    findings = [
        Finding(
            condition=CONDITION,
            reason=seen.problem_reason or "ProfilesMissing",
            message=f"spec.profiles[{seen.config_map}]: the ConfigMap {seen.problem}",
        )
        for seen in world.profiles
        if seen.problem is not None
    ]
    seen = {item.config_map for item in world.profiles}
    findings += [
        Finding(
            condition=CONDITION,
            reason="ProfilesMissing",
            message=f"spec.profiles[{item.config_map}]: was not read; offline, give its rows with --profiles",
        )
        for item in spec.profiles
        if item.config_map not in seen
    ]
    rows, wrong = measured_rows(tuple((item.config_map, item.rows) for item in world.profiles if item.problem is None))
    if wrong:
        told = "; ".join(f"spec.profiles[{name}]: {text}" for name, text in wrong[:MOST_TOLD])
        more = f"; and {len(wrong) - MOST_TOLD} more" if len(wrong) > MOST_TOLD else ""
        findings.append(
            Finding(
                condition=CONDITION, reason="RowsRefused", message=f"{told}{more}; the other rows count", holds=True
            )
        )
    return rows, tuple(findings)
