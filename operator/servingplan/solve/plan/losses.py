"""Losses that a plan must survive: which losses there are, and whether a plan survives them.

`guarded` adds rows for these losses to the program. It adds the loss of a node with certain copies only after it found a plan
that does not survive it, because most such losses never matter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from servingplan.solve.plan.routing import Rates, kept_part, route
from servingplan.solve.problem.constraints import Loss
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.placement import Packing
from servingplan.solve.solver.tolerance import HELD


@dataclass(frozen=True, slots=True)
class Survival:
    """The rules of a question that say which classes must survive which losses. Classes are indices of the instance."""

    instance: Instance

    def protected(self, event: str | None = None) -> tuple[int, ...]:
        """Classes that some rule protects from this event, or from any event if none is given. They must be served in full."""
        rules = self.instance.question.survive
        floors = [rule.min_priority for rule in rules if event is None or rule.event == event]
        return tuple(k for k, cls in enumerate(self.instance.classes) if floors and cls.priority >= min(floors))

    def spot_losses(self) -> list[Loss]:
        """The loss of all Spot pools at once, if a rule asks for it."""
        classes = self.protected("SpotPools")
        spot = {pool.name for pool in self.instance.pools if pool.capacity_type == "Spot"}
        gone = frozenset(c for c, shape in enumerate(self.instance.shapes) if spot & shape.gpus.keys())
        return [Loss(name="spot", protected=classes, gone=gone)] if classes and gone else []

    def node_losses(self, packing: Packing) -> list[Loss]:
        """One loss for each distinct set of copies on a node of this packing, if a rule asks for it."""
        classes, losses = self.protected("AnyNode"), []
        for p, pool in enumerate(self.instance.pools) if classes else ():
            used = [content for content, count in packing.contents[p] if count]
            used += [((c, 1),) for c in self.instance.sizes_on[p][1] if packing.copies[c]]
            for content in used:
                label = ".".join(f"{count}x{self.instance.shapes[c].name}" for c, count in content)
                losses.append(Loss(name=f"{pool.name}.{label}", protected=classes, pool=p, lost=content))
        return losses

    def every_node_loss(self, *, most: int) -> list[Loss]:
        """One loss for each set of copies that a node could hold; empty if there are more than `most` of them."""
        losses = self.node_losses(Packing.every_content(self.instance))
        return losses if len(losses) <= most else []

    def kept(
        self, losses: Sequence[Loss], copies: Sequence[int], rates: Sequence[float], *, enough: float = 0.0
    ) -> float:
        """The largest part, at most 1, of `rates` (requests/s by class) that protected classes keep after the worst loss.
        The search ends with the first part below `enough`, which need not be the smallest.

        The rates of the remaining copies, without a new routing, bound what is kept from below. So losses are looked at from
        the lowest bound up, until the bound is above what was found.
        """
        found = [(lost, loss.protected) for loss in losses if (lost := self._lost(loss, copies))]
        bounds = [0.0] * len(found)
        if len(found) > 1:
            routed = route(self.instance, copies, rates)
            bounds = [self._left(routed, copies, rates, lost=lost, protected=protected) for lost, protected in found]
        worst = 1.0
        for bound, (lost, protected) in sorted(zip(bounds, found, strict=True), key=lambda item: item[0]):
            if bound >= worst or worst < enough:
                break
            worst = min(worst, kept_part(self.instance, copies, rates, lost=lost, protected=protected))
        return worst

    @staticmethod
    def _lost(loss: Loss, copies: Sequence[int]) -> Mapping[int, int]:
        """The copies of each shape that a loss takes."""
        lost = {**dict(loss.lost), **{c: copies[c] for c in loss.gone}}
        return {c: count for c, count in lost.items() if count and copies[c]}

    def _left(
        self,
        routed: Rates,
        copies: Sequence[int],
        rates: Sequence[float],
        *,
        lost: Mapping[int, int],
        protected: Sequence[int],
    ) -> float:
        """The least part of a protected class's rate that is left if each shape goes on with its part of the routing. A class
        with a limit on its mean quality loss keeps its mix, so it is left the smallest part of any of its shapes."""
        capacity = self.instance.capacity
        part = {
            c: min(1.0, capacity(c, max(0, copies[c] - n)) / before)
            for c, n in lost.items()
            if (before := capacity(c, copies[c])) > 0
        }
        served = [0.0] * len(rates)
        smallest = [1.0] * len(rates)
        for (c, k), rate in routed.items():
            served[k] += rate * part.get(c, 1.0)
            smallest[k] = min(smallest[k], part.get(c, 1.0))
        for k, cls in enumerate(self.instance.classes):
            if cls.quality_loss_limit is not None:
                served[k] = smallest[k] * math.fsum(rate for (_, j), rate in routed.items() if j == k)
        return min((served[k] / rates[k] for k in protected if rates[k] > 0), default=1.0)

    def targets(self, packing: Packing, targets: tuple[float, ...]) -> tuple[float, ...] | None:
        """Targets (requests/s by class) at which this packing may be routed so that protected classes keep them after any loss.

        Under MaximizeService the copies may carry a larger scale than they keep after a loss; the targets are lowered to what
        they keep. Under MinimizeCost protected classes must be served in full; None if they are not after some loss.
        """
        losses = self.spot_losses() + self.node_losses(packing)
        if not losses:
            return targets
        if self.instance.question.objective == "MinimizeCost":
            asked = [cls.requests_per_second for cls in self.instance.classes]
            return targets if self.kept(losses, packing.copies, asked, enough=1.0 - HELD) >= 1.0 - HELD else None
        part = self.kept(losses, packing.copies, targets)
        return tuple(target * part for target in targets) if part > 0 else None
