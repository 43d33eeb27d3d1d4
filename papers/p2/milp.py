"""P_DM as printed (eq. 5a-5k with its McCormick layer), solved exactly through the product's solver adapter.

Nothing is tightened: the printed McCormick envelope `v <= x, v <= w, v >= x + w - 1` lets the relaxation set every delay to
zero, which is what makes the printed form slow. `ours` uses a stronger form of the same set. Rows are divided by their
limit, because the adapter's tolerance is absolute.
"""

from dataclasses import dataclass

from papers.p2.instance import SECONDS_PER_HOUR, Instance, Plan
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.program import Column, Limits, Outcome, Program, Term

NODES = 2**31 - 1
"""No work limit: the deadline ends these runs, as Gurobi's 600 s ended the paper's."""
NEGLIGIBLE = 1e-7
"""A routed share below this is the solver's tolerance, not a route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactAnswer:
    """What an exact solve found within its deadline."""

    plan: Plan | None
    cost: float | None
    bound: float
    """No plan costs less; 0 when the solver proved nothing."""
    proved: bool
    seconds: float

    @property
    def gap(self) -> float | None:
        """(cost - bound) / cost."""
        return None if self.cost is None else max(0.0, (self.cost - self.bound) / self.cost)


class PrintedModel:
    """P_DM of one instance as a `Program`."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.program = Program("P_DM")
        add = self.program.add_column
        pairs = [(j, k) for j in range(len(instance.models)) for k in range(len(instance.tiers))]
        types = range(len(instance.query_types))
        triples = [(i, j, k) for i in types for j, k in pairs]
        self._pairs, self._triples = pairs, triples
        largest = max(n * m for n, m in instance.shapes)
        self.q = {pair: add(f"q_{pair[0]}_{pair[1]}", upper=1.0, integer=True) for pair in pairs}
        self.w = {
            (j, k, shape): add(f"w_{j}_{k}_{shape[0]}x{shape[1]}", upper=1.0, integer=True)
            for j, k in pairs
            for shape in instance.shapes
        }
        self.y = {pair: add(f"y_{pair[0]}_{pair[1]}", upper=float(largest), integer=True) for pair in pairs}
        self.z = {(i, j, k): add(f"z_{i}_{j}_{k}", upper=1.0, integer=True) for i, j, k in triples}
        self.x = {(i, j, k): add(f"x_{i}_{j}_{k}", upper=1.0) for i, j, k in triples}
        self.u = {i: add(f"u_{i}", upper=instance.query_types[i].unserved_cap) for i in types}
        self.v = {
            (i, j, k, shape): add(f"v_{i}_{j}_{k}_{shape[0]}x{shape[1]}", upper=1.0)
            for i, j, k in triples
            for shape in instance.shapes
        }
        self._add_rows()

    def objective(self) -> list[Term]:
        """(5a): rental, model storage, token storage, delay penalty, unmet penalty."""
        kinds = self.instance.query_types
        delay = [
            (column, kinds[i].delay_penalty_per_ms * 1e3 * self.instance.delay_seconds(i, j, k, shape))
            for (i, j, k, shape), column in self.v.items()
        ]
        unmet = [(column, kinds[i].unmet_penalty) for i, column in self.u.items()]
        return [*self._provisioning(), *delay, *unmet]

    def plan(self, outcome: Outcome) -> Plan:
        """The plan at the point that the solver found."""
        value = outcome.values
        return Plan(
            shapes={(j, k): shape for (j, k, shape), column in self.w.items() if value[column] > 0.5},
            routes={key: value[column] for key, column in self.x.items() if value[column] > NEGLIGIBLE},
            unserved=tuple(value[column] for column in self.u.values()),
            placed=frozenset(key for key, column in self.z.items() if value[column] > 0.5),
        )

    def _provisioning(self) -> list[Term]:
        """Terms (i) to (iii)."""
        instance = self.instance
        hours = instance.horizon_hours
        rental = [(column, hours * instance.tiers[k].price_per_hour) for (_, k), column in self.y.items()]
        stored = [(column, hours * instance.storage_price_per_gb_hour * gb) for column, gb in self._stored_gb()]
        return [*rental, *stored]

    def _stored_gb(self) -> list[Term]:
        """Left side of (5h)."""
        instance = self.instance
        weights = [(column, instance.models[j].weights_gb) for (_, j, _), column in self.z.items()]
        tokens = [(column, instance.query_types[i].stored_gb) for (i, _, _), column in self.x.items()]
        return [*weights, *tokens]

    def _add_rows(self) -> None:
        instance, row = self.instance, self.program.add_row
        types = range(len(instance.query_types))
        for i in types:
            kind = instance.query_types[i]
            row(f"5b_{i}", [(self.u[i], 1.0), *((self.x[i, j, k], 1.0) for j, k in self._pairs)], "==", 1.0)
            delay = [
                (self.v[i, j, k, shape], instance.delay_seconds(i, j, k, shape) / kind.delay_slo_seconds)
                for j, k in self._pairs
                for shape in instance.shapes
            ]
            row(f"5i_{i}", delay, "<=", 1.0)
            error = [(self.x[i, j, k], instance.error_rate[i][j][k] / kind.error_slo) for j, k in self._pairs]
            row(f"5j_{i}", error, "<=", 1.0)
        row("5c", _scaled(self._provisioning(), instance.budget), "<=", 1.0)
        row("5h", _scaled(self._stored_gb(), instance.storage_cap_gb), "<=", 1.0)
        for j, k in self._pairs:
            self._add_pair(j, k)
        for i, j, k in self._triples:
            x, z = self.x[i, j, k], self.z[i, j, k]
            row(f"5k_xz_{i}_{j}_{k}", [(x, 1.0), (z, -1.0)], "<=", 0.0)
            row(f"5k_zq_{i}_{j}_{k}", [(z, 1.0), (self.q[j, k], -1.0)], "<=", 0.0)
            for shape in instance.shapes:
                v, w = self.v[i, j, k, shape], self.w[j, k, shape]
                row("mx", [(v, 1.0), (x, -1.0)], "<=", 0.0)
                row("mw", [(v, 1.0), (w, -1.0)], "<=", 0.0)
                row("ml", [(v, -1.0), (x, 1.0), (w, 1.0)], "<=", 1.0)

    def _add_pair(self, j: int, k: int) -> None:
        """(5d) to (5g) of one model and tier."""
        instance, row = self.instance, self.program.add_row
        model, tier = instance.models[j], instance.tiers[k]
        types = range(len(instance.query_types))
        chosen = [(shape, self.w[j, k, shape]) for shape in instance.shapes]
        row(f"5d_{j}_{k}", [*((w, 1.0) for _, w in chosen), (self.q[j, k], -1.0)], "==", 0.0)
        row(f"5e_{j}_{k}", [*((w, float(n * m)) for (n, m), w in chosen), (self.y[j, k], -1.0)], "==", 0.0)
        weights = [(w, model.weights_gb / (n * m) / tier.memory_gb) for (n, m), w in chosen]
        cache = [
            (
                self.v[i, j, k, (n, m)],
                model.kv_gb_per_token
                / (n * m)
                * instance.query_types[i].tokens
                * instance.residence_seconds[i][j][k]
                / tier.memory_gb,
            )
            for i in types
            for n, m in instance.shapes
        ]
        row(f"5f_{j}_{k}", [*weights, *cache, (self.q[j, k], -1.0)], "<=", 0.0)
        gpu_tflop_per_hour = instance.utilisation * SECONDS_PER_HOUR * tier.peak_tflops
        work = [
            (
                self.x[i, j, k],
                model.gflop_per_token
                * instance.query_types[i].tokens
                * instance.query_types[i].arrivals_per_hour
                / 1e3
                / gpu_tflop_per_hour,
            )
            for i in types
        ]
        row(f"5g_{j}_{k}", [*work, (self.y[j, k], -1.0)], "<=", 0.0)


def solve_exactly(instance: Instance, *, deadline_seconds: float, relative_gap: float = 1e-6) -> ExactAnswer:
    """Solve P_DM as printed; building the program counts against the deadline."""
    watch = Stopwatch(deadline_seconds)
    model = PrintedModel(instance)
    limits = Limits(relative_gap=relative_gap, nodes=NODES, seconds=watch.remaining_seconds())
    outcome = model.program.optimise(model.objective(), "min", limits)
    return ExactAnswer(
        plan=model.plan(outcome) if outcome.values else None,
        cost=outcome.value,
        bound=max(0.0, outcome.bound or 0.0),  # no term of (5a) is negative
        proved=outcome.stopped == "proved",
        seconds=watch.elapsed_seconds(),
    )


def _scaled(terms: list[Term], limit: float) -> list[tuple[Column, float]]:
    return [(column, coefficient / limit) for column, coefficient in terms]
