"""P2's stress protocol (section 2.7): placement fixed, routing redone in every scenario.

Stage 2 is a linear program: with (y, z, w) given, least delay and unmet penalty under compute (5g), delay (5i), error (5j),
and x <= z. Every scenario scales the delays and errors by +-25 % and the arrivals by +-20 %; whether each query type has
draws of its own is not printed: here each has its own three [R]. The cost counted is C^a = C1 + C2 + mean(C3 + C4 + C5),
where C1 to C5 are the terms of (5a).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from papers.p2.evaluate import VIOLATION_SHARE, evaluate
from papers.p2.instance import Grid, Instance, Plan
from papers.p2.ours import solve
from papers.page import header, row, say, spread
from servingplan.solve.solver.program import Limits, Program

SCENARIOS = 500  # S [T]
DELAY_ERROR_SPREAD = 0.25  # [T]
ARRIVAL_SPREAD = 0.20  # [T]
INFLATIONS = (1.0, 1.2, 1.5)  # of delay and error, figure 2 of v1 [T]
CAREFUL = "ours, planned for +25 % delay and error, +20 % arrivals"
METHODS = ("GH", "AGH", "ours", CAREFUL)
_LIMITS = Limits(relative_gap=1e-6, nodes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stress:
    """What became of one placement over all scenarios."""

    mean_cost: float
    """C^a, $"""
    violated: float
    """P_viol: share of (scenario, query type) with more than 1 % unserved"""


def scenarios(instance: Instance, count: int, seed: int, *, inflation: float = 1.0) -> list[Instance]:
    """`count` perturbed copies; `inflation` multiplies delays and errors further (1.2 and 1.5 in the paper's figure 2)."""
    dice = random.Random(seed)
    return [_perturbed(instance, dice, inflation) for _ in range(count)]


def stress(plan: Plan, cases: list[Instance]) -> Stress:
    """Re-route the plan in every case."""
    cost, violated = 0.0, 0
    for case in cases:
        rerouted = reroute(case, plan)
        cost += evaluate(case, rerouted).cost.total
        violated += sum(left > VIOLATION_SHARE for left in rerouted.unserved)
    return Stress(mean_cost=cost / len(cases), violated=violated / (len(cases) * len(plan.unserved)))


def table(instances: Sequence[Instance], plans: Sequence[tuple[Plan, Plan, Plan]], count: int) -> list[str]:
    """The protocol for GH, AGH and ours, and ours planned with a margin; nominal is re-routed too. The seed is the place."""
    placements = [
        (*three, solve(with_margin(instance), seed=seed).plan)
        for seed, (instance, three) in enumerate(zip(instances, plans, strict=True))
    ]
    lines = header(("inflation", "method", "nominal $", "C^a $", "violated"))
    for inflation in INFLATIONS:
        found: list[list[Stress]] = [[] for _ in METHODS]
        for seed, (instance, four) in enumerate(zip(instances, placements, strict=True)):
            cases = scenarios(instance, count, seed, inflation=inflation)
            for results, plan in zip(found, four, strict=True):
                results.append(stress(plan, cases))
        say(f"stress protocol, inflation {inflation:g}")
        for number, (method, results) in enumerate(zip(METHODS, found, strict=True)):
            nominal = [
                evaluate(instance, reroute(instance, four[number])).cost.total
                for instance, four in zip(instances, placements, strict=True)
            ]
            cells = (
                f"{inflation:.1f} x",
                method,
                spread(nominal, "{:.1f}"),
                spread([result.mean_cost for result in results], "{:.1f}"),
                spread([100 * result.violated for result in results], "{:.1f} %"),
            )
            lines.append(row(cells))
    return lines


def with_margin(instance: Instance) -> Instance:
    """The same instance with limits that hold at the worst of the scenarios' ranges."""
    kinds = tuple(
        replace(
            kind,
            delay_slo_seconds=kind.delay_slo_seconds / (1.0 + DELAY_ERROR_SPREAD),
            error_slo=kind.error_slo / (1.0 + DELAY_ERROR_SPREAD),
        )
        for kind in instance.query_types
    )
    return replace(instance, query_types=kinds, utilisation=instance.utilisation / (1.0 + ARRIVAL_SPREAD))


def reroute(case: Instance, plan: Plan) -> Plan:
    """The best routing of one scenario on a fixed placement. Budget and storage are not asked again, as in the paper.

    All may go unserved here whatever zeta says: a placement that cannot carry a scenario must still have a figure.
    """
    if len({i for i, _, _ in plan.placed}) == len(plan.placed):
        return fill(case, plan)
    return solve_routing(case, plan)


def fill(case: Instance, plan: Plan) -> Plan:
    """Where each query type has one pair at most, what is left of the linear program is a continuous knapsack per pair."""
    room = {
        (j, k): case.utilisation * 3600.0 * case.tiers[k].peak_tflops * n * m for (j, k), (n, m) in plan.shapes.items()
    }
    worth: list[tuple[float, tuple[int, int, int], float, float]] = []
    for i, j, k in plan.placed:
        kind = case.query_types[i]
        delay, error = case.delay_seconds(i, j, k, plan.shapes[j, k]), case.error_rate[i][j][k]
        work = case.models[j].gflop_per_token * kind.tokens * kind.arrivals_per_hour / 1e3
        most = min(1.0, kind.delay_slo_seconds / delay, kind.error_slo / error)
        saved = kind.unmet_penalty - kind.delay_penalty_per_ms * 1e3 * delay
        worth.append((-saved / work, (i, j, k), most, work))
    shares: dict[tuple[int, int, int], float] = {}
    unserved = [1.0] * len(case.query_types)
    for loss_per_work, key, most, work in sorted(worth):
        share = min(most, room[key[1:]] / work)
        if loss_per_work < 0.0 and share > 0.0:
            shares[key] = share
            unserved[key[0]] = 1.0 - share
            room[key[1:]] -= share * work
    return Plan(plan.shapes, shares, tuple(unserved), plan.placed)


def solve_routing(case: Instance, plan: Plan) -> Plan:
    """The linear program of stage 2, for any placement."""
    program = Program("P2_stage_2")
    kinds = case.query_types
    routes = sorted(plan.placed)
    x = {key: program.add_column("x_{}_{}_{}".format(*key), upper=1.0) for key in routes}
    u = [program.add_column(f"u_{i}", upper=1.0) for i in range(len(kinds))]
    delay = {(i, j, k): case.delay_seconds(i, j, k, plan.shapes[j, k]) for i, j, k in routes}
    for i, kind in enumerate(kinds):
        mine = [key for key in routes if key[0] == i]
        program.add_row(f"5b_{i}", [(u[i], 1.0), *((x[key], 1.0) for key in mine)], "==", 1.0)
        program.add_row(f"5i_{i}", [(x[key], delay[key] / kind.delay_slo_seconds) for key in mine], "<=", 1.0)
        errors = [(x[i, j, k], case.error_rate[i][j][k] / kind.error_slo) for i, j, k in mine]
        program.add_row(f"5j_{i}", errors, "<=", 1.0)
    for (j, k), (n, m) in plan.shapes.items():
        limit = case.utilisation * 3600.0 * case.tiers[k].peak_tflops * n * m
        work = [
            (
                x[key],
                case.models[j].gflop_per_token * kinds[key[0]].tokens * kinds[key[0]].arrivals_per_hour / 1e3 / limit,
            )
            for key in routes
            if key[1:] == (j, k)
        ]
        program.add_row(f"5g_{j}_{k}", work, "<=", 1.0)
    objective = [(x[key], kinds[key[0]].delay_penalty_per_ms * 1e3 * delay[key]) for key in routes]
    objective += [(column, kinds[i].unmet_penalty) for i, column in enumerate(u)]
    values = program.optimise(objective, "min", _LIMITS, relaxed=True).values
    shares = {key: values[column] for key, column in x.items() if values[column] > 0.0}
    return Plan(plan.shapes, shares, tuple(values[column] for column in u), plan.placed)


def _perturbed(instance: Instance, dice: random.Random, inflation: float) -> Instance:
    def spread(width: float) -> list[float]:
        return [dice.uniform(1.0 - width, 1.0 + width) for _ in instance.query_types]

    slower = [inflation * factor for factor in spread(DELAY_ERROR_SPREAD)]
    worse = [inflation * factor for factor in spread(DELAY_ERROR_SPREAD)]
    busier = spread(ARRIVAL_SPREAD)
    kinds = tuple(
        replace(kind, arrivals_per_hour=kind.arrivals_per_hour * factor)
        for kind, factor in zip(instance.query_types, busier, strict=True)
    )
    return replace(
        instance,
        query_types=kinds,
        compute_seconds_per_token=_times(instance.compute_seconds_per_token, slower),
        link_seconds_per_token=_times(instance.link_seconds_per_token, slower),
        error_rate=_times(instance.error_rate, worse),
    )


def _times(grid: Grid, factors: list[float]) -> Grid:
    return tuple(
        tuple(tuple(value * factor for value in row) for row in plane)
        for plane, factor in zip(grid, factors, strict=True)
    )
