"""Kernel search (Angelelli, Mansini and Speranza 2010): the exact program over few shapes."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from servingplan.model.goal import Goal
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import Plan
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.guarded import guarded_search
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import TOLD


class Kernel:
    """Some shapes of an instance, and the small instance that has no others."""

    def __init__(self, instance: Instance, shapes: Iterable[int]) -> None:
        self._whole = instance
        self.shapes = sorted(shapes)
        self.instance = replace(
            instance,
            shapes=tuple(instance.shapes[c] for c in self.shapes),
            copies_limit=tuple(instance.copies_limit[c] for c in self.shapes),
        )

    @classmethod
    def near(
        cls, instance: Instance, relaxation: Relaxation, plan: Plan | None, chosen: Collection[int], *, size: int
    ) -> "Kernel":
        """So many shapes, or more where more are in use: those chosen before, those that the relaxation, the plan or the
        running fleet use, and those nearest to use."""
        used = set(chosen) | {c for c, amount in enumerate(relaxation.copies) if amount > TOLD}
        used |= {c for c, count in enumerate(instance.running_copies()) if count}
        used |= set(plan.used) if plan else set()
        costs = relaxation.reduced_costs
        if not costs:
            return cls(instance, used)
        columns = relaxation.plan

        def distance(c: int) -> float:
            """What a busy copy of c would cost the objective: its own reduced cost and that of its best traffic."""
            classes = [k for k in instance.served_by[c] if columns.targets[k]]
            busy = {k: columns.part(c, k) * columns.load(c, k) for k in classes}
            traffic = min((abs(costs[columns.shares[c, k]]) / busy[k] for k in classes), default=math.inf)
            return abs(costs[columns.copies[c]]) + traffic

        others = sorted((c for c in range(len(instance.shapes)) if c not in used), key=lambda c: (distance(c), c))
        return cls(instance, [*used, *others[: max(0, size - len(used), len(used) // 2)]])

    @property
    def is_whole(self) -> bool:
        """Whether it has all shapes of the instance."""
        return len(self.shapes) == len(self._whole.shapes)

    def whole(self, copies: Sequence[int]) -> Plan | None:
        """Copies of these shapes as a plan of the whole instance."""
        everywhere = [0] * len(self._whole.shapes)
        for c, count in zip(self.shapes, copies, strict=True):
            everywhere[c] = count
        return judge(self._whole, everywhere)

    def search(self, plan: Plan | None, effort: Effort, settled: Mapping[Goal, float] | None = None) -> Plan | None:
        """What the exact program over these shapes finds from the plan, as a plan of the whole instance.

        Fewest dollars are for the search over all shapes. Should time end before it, `answer.tidied` takes what lies idle, but
        not from plans beside a running fleet or that must survive losses.
        """
        question = self._whole.question
        scale_only = question.objective == "MaximizeService" and not (question.running or question.survive)
        start = judge(self.instance, [plan.copies[c] for c in self.shapes]) if plan else None
        found = guarded_search(self.instance, effort, start=start, settled=settled, scale_only=scale_only).plan
        return self.whole(found.copies) if found else None
