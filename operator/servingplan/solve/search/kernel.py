"""Kernel search (Angelelli, Mansini and Speranza 2010): it searches the exact program over few shapes."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from servingplan.model.goal import Goal
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import Plan
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.guarded import guarded_search
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import TOLD


class Kernel:
    """Some shapes of an instance, and the small instance that has only these."""

    def __init__(self, instance: Instance, shapes: Iterable[int]) -> None:
        self._whole = instance
        self.shapes = sorted(shapes)
        self.instance = instance.only(self.shapes)

    @classmethod
    def near(
        cls, instance: Instance, relaxation: Relaxation, plan: Plan | None, chosen: Collection[int], *, size: int
    ) -> "Kernel":
        """The kernel of the shapes in use and of those with the least reduced costs: up to `size`, or half as many again as
        are in use. In use is what was chosen before, or what the relaxation, the plan or the running fleet use."""
        used = set(chosen) | {c for c, amount in enumerate(relaxation.copies) if amount > TOLD}
        used |= {c for c, count in enumerate(instance.running_copies()) if count}
        used |= set(plan.used) if plan else set()
        costs = relaxation.reduced_costs
        if not costs:
            return cls(instance, used)
        columns = relaxation.plan

        def distance(c: int) -> float:
            """What a busy copy of c would cost the objective: the copy's reduced cost and that of its best traffic."""
            classes = [k for k in instance.served_by[c] if columns.targets[k]]
            busy = {k: columns.part(c, k) * columns.load(c, k) for k in classes}
            traffic = min((abs(costs[columns.shares[c, k]]) / busy[k] for k in classes), default=math.inf)
            return abs(costs[columns.copies[c]]) + traffic

        others = sorted((c for c in range(len(instance.shapes)) if c not in used), key=lambda c: (distance(c), c))
        return cls(instance, [*used, *others[: max(0, size - len(used), len(used) // 2)]])

    @classmethod
    def cheap(cls, instance: Instance, plan: Plan, *, size: int) -> "Kernel":
        """The kernel of all shapes that the plan or the running fleet uses, and of the `size` cheapest of each class."""
        used = {*plan.used, *(c for c, count in enumerate(instance.running_copies()) if count)}
        return cls(instance, used.union(*(instance.cheapest_first(k)[:size] for k in range(len(instance.classes)))))

    @property
    def is_whole(self) -> bool:
        """Whether it has all shapes of the instance."""
        return len(self.shapes) == len(self._whole.shapes)

    def inside(self, plan: Plan) -> Plan | None:
        """A plan of the whole instance that has only these shapes, as a plan of the small one."""
        return judge(self.instance, [plan.copies[c] for c in self.shapes])

    def whole(self, copies: Sequence[int]) -> Plan | None:
        """The plan of the whole instance with these copies of the kernel's shapes; None if they break a promise."""
        everywhere = [0] * len(self._whole.shapes)
        for c, count in zip(self.shapes, copies, strict=True):
            everywhere[c] = count
        return judge(self._whole, everywhere)

    def search(self, plan: Plan | None, effort: Effort, settled: Mapping[Goal, float] | None = None) -> Plan | None:
        """The plan of the whole instance that the exact program over these shapes finds, with `plan` as its warm start.

        Under MaximizeService it optimises only the scale; the search over all shapes minimises the dollars. If the time ends
        before that, `answer.tidied` removes idle copies. It does not do so beside a running fleet or if losses must be
        survived, so all levels are optimised then.
        """
        question = self._whole.question
        scale_only = question.objective == "MaximizeService" and not (question.running or question.survive)
        start = self.inside(plan) if plan else None
        found = guarded_search(self.instance, effort, start=start, settled=settled, scale_only=scale_only).plan
        return self.whole(found.copies) if found else None
