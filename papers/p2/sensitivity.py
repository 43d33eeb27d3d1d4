"""P2's sensitivity (v1, in words only): tighter delay limits cost more than tighter error limits, and dearer GPUs make AGH rent
fewer, larger ones. The paper prints no figures; here both limits are cut by the same shares, and all prices rise alike.
"""

from dataclasses import dataclass, replace

from papers.p2.arrays import arrays_of
from papers.p2.heuristics import Search, State
from papers.p2.instance import Instance
from papers.p2.ours import solve
from papers.page import header, row, say, spread


@dataclass(frozen=True, slots=True)
class Change:
    """Factors on what an instance asks and pays."""

    name: str
    delay_limit: float = 1.0
    error_limit: float = 1.0
    price: float = 1.0


OURS_GAP = 0.02
"""Ours stops at this gap here, or after 2 s."""

CHANGES = (
    Change("as generated"),
    *(Change(f"delay limits x {factor:g}", delay_limit=factor) for factor in (0.9, 0.8, 0.7)),
    *(Change(f"error limits x {factor:g}", error_limit=factor) for factor in (0.9, 0.8, 0.7)),
    *(Change(f"GPU prices x {factor:g}", price=factor) for factor in (1.2, 1.5)),
)


def changed(instance: Instance, change: Change) -> Instance:
    """The instance under a change."""
    kinds = tuple(
        replace(
            kind,
            delay_slo_seconds=kind.delay_slo_seconds * change.delay_limit,
            error_slo=kind.error_slo * change.error_limit,
        )
        for kind in instance.query_types
    )
    tiers = tuple(replace(tier, price_per_hour=tier.price_per_hour * change.price) for tier in instance.tiers)
    return replace(instance, query_types=kinds, tiers=tiers)


def table(instances: list[Instance]) -> list[str]:
    """Costs as multiples of the unchanged instance's; the seed is the instance's place."""
    lines = header(
        ("change", "AGH's cost", "ours", "GPUs that AGH rents", "memory of one, GB", "pairs"),
    )
    before: list[tuple[float, float]] = []
    for change in CHANGES:
        found = []
        for seed, original in enumerate(instances):
            instance = changed(original, change)
            state = Search(arrays_of(instance)).adaptive(seed)
            found.append((state, solve(instance, seed=seed, relative_gap=OURS_GAP).cost))
        costs = [(state.cost, cost) for state, cost in found]
        before = before or costs
        ratios = [(one[0] / other[0], one[1] / other[1]) for one, other in zip(costs, before, strict=True)]
        cells = (
            change.name,
            spread([agh for agh, _ in ratios], "{:.2f}"),
            spread([ours for _, ours in ratios], "{:.2f}"),
            spread([float(state.gpus.sum()) for state, _ in found], "{:g}"),
            spread([_gb_per_gpu(state) for state, _ in found], "{:.0f}"),
            spread([float((state.gpus > 0).sum()) for state, _ in found], "{:g}"),
        )
        lines.append(row(cells))
        say(f"sensitivity, {change.name}")
    return lines


def _gb_per_gpu(state: State) -> float:
    """Mean memory of the GPUs rented; 0 for a plan that rents none."""
    return float(state.gpus @ state.arrays.memory_gb) / max(1.0, float(state.gpus.sum()))
