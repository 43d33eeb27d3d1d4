"""Why the classes that no shape can serve fit nowhere, in sentences, each with what would help."""

from __future__ import annotations

import math
from collections.abc import Iterable

from servingplan.api.models_v1alpha1 import Engine, Model, Slo, Variant
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.llm import ModelCard
from servingplan.planning.layouts import Layout, connected
from servingplan.planning.pools import Pool
from servingplan.planning.settings import SPANS_NODES_SINCE, Wish, spans_nodes, version_of
from servingplan.planning.shapes import Pruning, class_key, slo_of, smallest_across_nodes
from servingplan.profiles.fit import Unfit


def unfit_lines(
    spec: PlanSpec,
    fits: set[str],
    pruning: Pruning,
    cards: Iterable[tuple[Model, Variant, ModelCard, Wish]],
    pools: tuple[Pool, ...],
    *,
    across_nodes: bool,
) -> list[str]:
    lines = []
    for model in spec.models:
        variants = [(variant, card, wish) for owner, variant, card, wish in cards if owner is model]
        for item in model.effective_classes:
            key = class_key(model.name, item.name)
            if key not in fits:
                why = pruning.refusals.get(key, [])
                # Shapes are tried from small to large: the last refusal is the one that more GPUs could not mend.
                last = list(dict.fromkeys(refusal.message for refusal in why))[-1:]
                text = (last[0] if last else "no pool has its GPUs") + _slo_advice(slo_of(model, item), why)
                across = None
                if not (
                    why and why[-1].reason in ("ContextTooShort", "ContextAboveModel")
                ):  # which more GPUs cannot mend
                    across = smallest_across_nodes(
                        model, variants, pools, name=item.name, confidence=float(spec.planning.confidence)
                    )
                hint = "" if across is None else f"; {_across_advice(across, model.engine, across_nodes=across_nodes)}"
                lines.append(f"models[{model.name}].classes[{item.name}]: nothing can serve it: {text}{hint}")
    return lines


def _across_advice(layout: Layout, engine: Engine, *, across_nodes: bool) -> str:
    """What is missing for a plan with a replica over several nodes."""
    leg = layout.legs[0]
    pool = leg.pool
    lacks = []
    if not connected(pool, pool):
        lacks.append(f"spec.nodePools[{pool.name}].zone, since a replica stays in one zone")
    if not across_nodes:
        lacks.append(
            "LeaderWorkerSets: install their controller (leaderworkerset.x-k8s.io/v1), and let the operator write them (the "
            "chart's value leaderWorkerSets)"
        )
    if not spans_nodes(engine):
        first = ".".join(map(str, SPANS_NODES_SINCE))
        lacks.append(
            f"vLLM {first} or newer, which spans nodes without Ray; the engine's version is {version_of(engine) or 'unknown'} "
            "(engine.version, else the tag of engine.image)"
        )
    return (
        f"it would fit over {layout.nodes(leg)} nodes of pool {pool.name} (TP{layout.tensor_parallel}, "
        f"PP{layout.pipeline_parallel})" + (f" with {' and '.join(lacks)}" if lacks else "")
    )


def _slo_advice(slo: Slo, refusals: list[Unfit]) -> str:
    """The smallest change of each latency limit that would let some shape serve the class; empty if latency is not the
    cause."""
    missed = [refusal for refusal in refusals if refusal.reason == "SloUnreachable"]
    if not missed:
        return ""
    ttft = min((r.least_ttft_seconds for r in missed if r.least_ttft_seconds is not None), default=None)
    tpot = min((r.least_tpot_seconds for r in missed if r.least_tpot_seconds is not None), default=None)
    changes = []
    if ttft is not None and slo.ttft_seconds is not None:
        changes.append(f"ttftSeconds {slo.ttft_seconds} to {_rounded_up(ttft)}")
    if tpot is not None and slo.tpot_seconds is not None:
        changes.append(f"tpotSeconds {slo.tpot_seconds} to {_rounded_up(tpot)}")
    if not changes:
        return "; no change of one latency limit alone does"
    return f"; the smallest change of one limit that would do: {' or '.join(changes)}"


def _rounded_up(seconds: float) -> str:
    """The seconds with four digits, rounded up, as the spec writes decimals."""
    unit = 10.0 ** (math.floor(math.log10(seconds)) - 3)
    return f"{math.ceil(seconds / unit * (1 - 1e-12)) * unit:.9f}".rstrip("0").rstrip(".")
