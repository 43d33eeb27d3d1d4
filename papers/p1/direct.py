"""The direct form of figure 9: P1's program with the makespan T as its variable (eq. 1-7), solved with SciPy's MILP interface.

Row (3) has the product y T. The paper does not say how it is made linear; here exactly: y[c] = sum_b 2^b beta[c,b] with binary
beta, and tau[c,b] stands for beta[c,b] T by `tau <= T` and `tau <= T_max beta`; the other two rows of McCormick's envelope are
not needed, as a larger tau never hurts. T_max is the paper's worst case: one copy of the slowest shape serves everything.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from servingplan.model.question import Question


@dataclass(frozen=True, slots=True)
class Direct:
    """Where the direct form ended; T is in seconds for the class rates taken as numbers of requests."""

    makespan_seconds: float | None
    bound_seconds: float

    @property
    def gap(self) -> float | None:
        """(T - bound) / T."""
        return None if self.makespan_seconds is None else 1.0 - self.bound_seconds / self.makespan_seconds


def solve_directly(question: Question, *, deadline_seconds: float, relative_gap: float = 1e-3) -> Direct:
    """Least makespan of a question whose shapes take whole nodes of one pool each, as P1's do."""
    pools = {pool.name: pool for pool in question.pools}
    upper: list[float] = []
    whole: list[int] = []
    cost: list[float] = []
    rows: list[tuple[dict[int, float], float, float]] = []

    def column(most: float, *, integer: bool = False, dollars: float = 0.0) -> int:
        upper.append(most)
        whole.append(int(integer))
        cost.append(dollars)
        return len(upper) - 1

    worst = sum(
        max(cls.requests_per_second / shape.requests_per_second[cls.name] for shape in serving)
        for cls in question.classes
        if (serving := [shape for shape in question.shapes if cls.name in shape.requests_per_second])
    )
    makespan = column(worst, dollars=1.0)
    served: dict[str, dict[int, float]] = {cls.name: {} for cls in question.classes}
    spent: dict[int, float] = {}
    used: dict[str, dict[int, float]] = {name: {} for name in pools}
    for shape in question.shapes:
        ((name, gpus),) = shape.gpus.items()
        nodes, price = gpus // pools[name].gpus_per_node, pools[name].dollars_per_node_hour
        copies: dict[int, float] = {}
        busy: dict[int, float] = {}
        for bit in range((pools[name].max_nodes // nodes).bit_length()):
            beta, tau = column(1.0, integer=True), column(worst)
            copies[beta] = float(2**bit)
            busy[tau] = -float(2**bit)
            rows += [({tau: 1.0, makespan: -1.0}, -np.inf, 0.0), ({tau: 1.0, beta: -worst}, -np.inf, 0.0)]
        for cls in question.classes:
            if cls.name in shape.requests_per_second and cls.requests_per_second > 0:
                share = column(1.0)
                busy[share] = cls.requests_per_second / shape.requests_per_second[cls.name]
                served[cls.name][share] = 1.0
                rows.append(({share: 1.0, **{beta: -k for beta, k in copies.items()}}, -np.inf, 0.0))  # (4)
        rows.append((busy, -np.inf, 0.0))  # (3)
        spent |= {beta: k * nodes * price for beta, k in copies.items()}
        used[name] |= {beta: k * nodes for beta, k in copies.items()}
    rows += [(served[cls.name], 1.0, 1.0) for cls in question.classes if cls.requests_per_second > 0]  # (2)
    rows.append((spent, -np.inf, question.budget_dollars_per_hour))  # (5)
    rows += [(terms, -np.inf, float(pools[name].max_nodes)) for name, terms in used.items() if terms]  # (6)
    entries = [(r, c, v) for r, (terms, _, _) in enumerate(rows) for c, v in terms.items()]
    where_row, where_column, values = zip(*entries, strict=True)
    found = milp(
        np.array(cost),
        integrality=np.array(whole),
        bounds=Bounds(np.zeros(len(upper)), np.array(upper)),
        constraints=LinearConstraint(
            csr_array((values, (where_row, where_column)), shape=(len(rows), len(upper))),
            [row[1] for row in rows],
            [row[2] for row in rows],
        ),
        options={"time_limit": deadline_seconds, "mip_rel_gap": relative_gap},
    )
    bound = 0.0 if found.mip_dual_bound is None else max(0.0, float(found.mip_dual_bound))
    return Direct(None if found.x is None else float(found.fun), bound)
