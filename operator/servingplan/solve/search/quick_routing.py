"""Routing for copies that change one by one: one linear program that stays in the solver between changes.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. `local_search` asks it thousands of times, so it
goes to HiGHS directly, where a change of one right-hand side starts from the last basis; `routing` has the exact routing of all
levels. The only other module beside `program` that calls a solver.
"""

import importlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from servingplan.solve.problem.instance import Instance, capacity
from servingplan.solve.solver.program import THREADS
from servingplan.solve.solver.tolerance import FEASIBILITY_TOLERANCE


class QuickRouting:
    """The most that copies can serve, and what one more busy copy of each shape would add.

    MaximizeService: max s with sum_c x[c,k] = s. MinimizeCost: max sum_k f[k] with sum_c x[c,k] = f[k] <= 1. In both
    sum_k D[k] / h[c,k] x[c,k] <= cap(y[c]), and quality as in `constraints`.
    """

    def __init__(self, instance: Instance, targets: Sequence[float]) -> None:
        highspy: Any = importlib.import_module("highspy")
        self._instance = instance
        self._highs = highspy.Highs()
        for option, value in (
            ("output_flag", False),
            ("threads", THREADS),
            ("primal_feasibility_tolerance", FEASIBILITY_TOLERANCE),
            ("dual_feasibility_tolerance", FEASIBILITY_TOLERANCE),
        ):
            self._highs.setOptionValue(option, value)
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        shared = instance.question.objective == "MaximizeService"
        served = [0 if shared else k for k in range(len(targets))]
        for _ in dict.fromkeys(served):
            self._column(1.0, upper=math.inf if shared else 1.0)
        load: dict[int, list[tuple[int, float]]] = {}
        for k, target in enumerate(targets):
            limit = instance.classes[k].quality_loss_limit
            shares, quality = [], []
            for c in instance.serving(k):
                column = self._column(0.0)
                shares.append((column, 1.0))
                load.setdefault(c, []).append((column, target / instance.rate(c, k)))
                quality.append((column, instance.loss(c, k) - limit if limit is not None else 0.0))
            self._row([*shares, (served[k], -1.0)], 0.0, 0.0)
            if any(excess > 0 for _, excess in quality):
                largest = max(abs(excess) for _, excess in quality)
                self._row([(column, excess / largest) for column, excess in quality], -math.inf, 0.0)
        self._rows = {c: self._row(terms, -math.inf, 0.0) for c, terms in sorted(load.items())}
        self._limits = dict.fromkeys(self._rows, 0.0)

    def served(self, copies: Sequence[int]) -> tuple[float, dict[int, float]]:
        """The objective, and by shape the value of one more busy copy."""
        for c, row in self._rows.items():
            limit = capacity(self._instance.shapes[c], copies[c])
            if limit != self._limits[c]:
                self._highs.changeRowBounds(row, -math.inf, limit)
                self._limits[c] = limit
        self._highs.run()
        duals = self._highs.getSolution().row_dual
        value = float(self._highs.getInfo().objective_function_value)
        return value, {c: abs(float(duals[row])) for c, row in self._rows.items()}

    def _column(self, cost: float, *, upper: float = math.inf) -> int:
        self._highs.addVar(0.0, upper)
        column = int(self._highs.getNumCol()) - 1
        self._highs.changeColCost(column, cost)
        return column

    def _row(self, terms: Iterable[tuple[int, float]], lower: float, upper: float) -> int:
        import numpy as np

        columns, factors = zip(*terms, strict=True)
        self._highs.addRow(
            lower, upper, len(columns), np.array(columns, dtype=np.int32), np.array(factors, dtype=np.float64)
        )
        return int(self._highs.getNumRow()) - 1
