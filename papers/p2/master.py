"""Prices for the Lagrangian of our method: the linear relaxation of the facility form over few facilities, and its duals.

The Lagrangian of `bound` falls apart by pair, so one pass over all facilities turns any prices into a bound. Subgradient steps
find good prices slowly. The duals of the relaxation over the few facilities that matter are good at once; facilities that
the Lagrangian would open at these prices are added, and so on (Dantzig and Wolfe's scheme in its dual form, Kelley 1960).
"""

from collections.abc import Sequence

import numpy as np

from papers.p2.arrays import NONE, Floats, Indices
from papers.p2.facilities import Covers, Facilities
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.program import Column, Limits, Program, Term

UNDONE = 10.0
"""What the master pays for a query type that its facilities cannot serve, as a multiple of phi."""


def dual_prices(
    facilities: Facilities, covers: Covers, unserved_cap: Floats, few: Indices, watch: Stopwatch
) -> tuple[Floats, Floats] | None:
    """Prices in the order of the Lagrangian and w of `few`, from the relaxation over these; None where time did not do.

    A priced row gets a slack column of its own, whose reduced cost is the price. What even these facilities and the unserved
    part cannot do is done at a price far above all others, so that there always is a point.
    """
    f, a = facilities.only(few), facilities.arrays
    types, count = f.cap.shape
    held = covers.holds[:, few]
    program = Program("P2_master")
    w = [program.add_column(f"w_{g}", upper=1.0) for g in range(count)]
    routes = [(i, g) for i in range(types) for g in range(count) if f.cap[i, g] > NONE]
    v = {(i, g): program.add_column(f"v_{i}_{g}", upper=float(f.cap[i, g])) for i, g in routes}
    u = [program.add_column(f"u_{i}", upper=float(unserved_cap[i])) for i in range(types)]
    undone = [program.add_column(f"undone_{i}", upper=1.0) for i in range(types)]
    slacks: list[Column] = []

    def priced(name: str, terms: Sequence[Term], sign: float, limit: float, *, upper: float | None = None) -> None:
        slacks.append(program.add_column(f"slack_{name}", upper=upper))
        program.add_row(name, [*terms, (slacks[-1], sign)], "==", limit)

    of_type: list[list[int]] = [[] for _ in range(types)]
    of_facility: list[list[int]] = [[] for _ in range(count)]
    for i, g in routes:
        of_type[i].append(g)
        of_facility[g].append(i)
        program.add_row(f"open_{i}_{g}", [(v[i, g], float(1.0 / f.cap[i, g])), (w[g], -1.0)], "<=", 0.0)
    for g, served in enumerate(of_facility):
        if f.load[:, g] @ f.cap[:, g] > 1.0:  # otherwise the rows above are as strong
            program.add_row(f"5g_{g}", [*((v[i, g], float(f.load[i, g])) for i in served), (w[g], -1.0)], "<=", 0.0)
    for p in dict.fromkeys(f.pair.tolist()):
        program.add_row(f"5d_{p}", [(w[g], 1.0) for g in np.flatnonzero(f.pair == p).tolist()], "<=", 1.0)
    for i, at in enumerate(of_type):
        priced(f"5b_{i}", [(u[i], 1.0), (undone[i], 1.0), *((v[i, g], 1.0) for g in at)], -1.0, 1.0)
    for i, at in enumerate(of_type):
        priced(f"5j_{i}", [(v[i, g], float(f.error[i, g] / a.error_slo[i])) for g in at], 1.0, 1.0)
    for i, at in enumerate(of_type):
        priced(f"5i_{i}", [(v[i, g], float(f.delay[i, g] / a.delay_slo[i])) for g in at], 1.0, 1.0)
    stored = [(v[i, g], float(f.stored_gb[i, g])) for i, g in routes]
    spend = [*((w[g], float(f.rent[g])) for g in range(count)), *((column, a.gb_price * gb) for column, gb in stored)]
    budget, storage = a.instance.budget, a.instance.storage_cap_gb
    priced("5c", [(column, value / budget) for column, value in spend], 1.0, 1.0)
    priced("5h", [(column, value / storage) for column, value in stored], 1.0, 1.0)
    for c, (i, least) in enumerate(zip(covers.kind.tolist(), covers.least.tolist(), strict=True)):
        inside = [(w[g], 1.0) for g in np.flatnonzero(held[c]).tolist()]
        priced(f"cover_{c}", [(u[i], 1.0 / least), (undone[i], 1.0 / least), *inside], -1.0, 1.0)
    objective = [
        *spend,
        *((v[i, g], float(a.delay_price[i] * f.delay[i, g])) for i, g in routes),
        *((column, float(a.unmet_price[i])) for i, column in enumerate(u)),
        *((column, UNDONE * float(a.unmet_price[i])) for i, column in enumerate(undone)),
    ]
    limits = Limits(relative_gap=0.0, nodes=1, seconds=watch.remaining_seconds())
    outcome = program.optimise(objective, "min", limits, relaxed=True)
    if not outcome.reduced_costs or outcome.stopped != "proved":
        return None
    prices = np.array([outcome.reduced_costs[slack] for slack in slacks])
    return np.maximum(0.0, prices), np.array([outcome.values[column] for column in w])
