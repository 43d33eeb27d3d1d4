"""What it costs not to know the rates: plans made with predictions against plans made with measurements.

    python -m benchmarks.regret [--questions 50] [--seed 1] [--markdown]

A question is drawn from the measured rates that the profiles ship: one or two models, two to four cards, two or three
pairs of lengths that were measured on several of them, prices and node sizes as `PRICES` has them, a budget. It is solved
twice with everything else equal, once with the measured rates and once with what `estimate` plans on, and the second plan,
with its own routing, is put under the measured rates. What is told of it: its cost over that of the first plan, and the
share of the requests that it serves at the utilisation that was promised. A plan that serves less is not credited for
being cheaper: costs are compared as they are, and both figures are to be read together.

Two states of knowledge. ``measured``: every configuration is known, but not this cell; in another version of the engine
where there is one, else at other lengths. ``nothing``: the groups (card, model, precision, tensor-parallel size) are hidden.

Limits on latency have tables of their own: ``python -m benchmarks.limits``.
"""

import argparse
import math
import random
import statistics
from collections import defaultdict
from functools import cache
from typing import NamedTuple

from servingplan.model.answer import Answer
from servingplan.model.question import Pool, Question, RequestClass, Shape
from servingplan.profiles.bands import planned_ratio
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.check import Group, group_of, predict
from servingplan.profiles.estimate import Estimate
from servingplan.profiles.measured import SHIPPED, MeasuredRow, MeasuredRows
from servingplan.solve import solve

PRICES = {
    # $ per GPU hour as found on that date, GPUs of a node. Second-hand facts, not offers:
    # on demand of RunPod, Hyperstack, Nebius, CoreWeave, AWS, 2026-09-25 to 2026-10-06; of RunPod in the SkyPilot
    # catalogue v8; of the Melange evaluation, 2024-02; the marketplace's lower quartile in HexGen-3, 2025-11.
    "A100-PCIE-80GB": ((1.39,), 8),
    "A100-SXM4-80GB": ((0.68, 3.67), 8),
    "H100-SXM-80GB": ((1.56, 2.69, 3.20, 3.49, 4.50, 6.155, 6.234, 6.88), 8),
    "H200-SXM-141GB": ((4.59, 5.40, 7.912), 8),
    "L40S": ((0.44,), 8),
    "B200-180GB": ((6.79, 14.242), 8),
}
"""Where several prices are known, a question draws one."""

UTILIZATION = 0.95
"""The same as `planning.question.HIGHEST_UTILIZATION`."""
CONFIDENCES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95)
KNOWLEDGE = ("measured", "nothing")


class Cell(NamedTuple):
    """What one class of a question asks of every card: these lengths, and so many running requests."""

    input_tokens: int
    output_tokens: int
    concurrency: float | None
    """None: as many as the memory holds."""


class Outcome(NamedTuple):
    """One plan made with predictions."""

    cost_ratio: float
    served: float


def cell_of(row: MeasuredRow) -> Cell:
    """The cell that a measurement fills."""
    return Cell(row.input_tokens, row.output_tokens, row.concurrency)


@cache
def by_group() -> dict[Group, dict[Cell, MeasuredRow]]:
    """Measured rates; of several versions of an engine the first in rank."""
    found: dict[Group, dict[Cell, MeasuredRow]] = defaultdict(dict)
    for row in SHIPPED.rows:
        if row.gpu in PRICES and row.pipeline_parallel == 1:
            found[group_of(row)].setdefault(cell_of(row), row)
    return found


@cache
def predicted(group: Group, cell: Cell, knowledge: str) -> Estimate | None:
    """What `estimate` says of a cell under this knowledge."""
    truth = by_group()[group][cell]
    of_group = [row for row in SHIPPED.rows if group_of(row) == group]
    version = truth.settings.engine, truth.settings.version
    others = [row for row in of_group if (row.settings.engine, row.settings.version) != version]
    if knowledge == "nothing":
        left = []
    elif any(cell_of(row) == cell for row in others):
        left = others
    else:
        left = [row for row in of_group if cell_of(row)[:2] != cell[:2]]
    return predict(truth, model=find_model(group[1]), gpu=find_gpu(group[0]), rows=MeasuredRows(lambda: left))


def planned_rate(group: Group, cell: Cell, knowledge: str, confidence: float) -> float | None:
    """The rate that a plan counts on, requests/s; None where the replica is refused."""
    found = predicted(group, cell, knowledge)
    if found is None:
        return None
    return found.requests_per_second * planned_ratio(found.basis, confidence)


class Drawn(NamedTuple):
    """A question without its rates."""

    pools: tuple[Pool, ...]
    classes: tuple[RequestClass, ...]
    cells: dict[str, Cell]
    groups: dict[str, Group]
    """The groups by shape."""
    budget: float

    def question(self, rate) -> Question:
        """The question with rates: ``rate(group, cell)`` in requests/s, or None."""
        shapes = []
        for name, group in self.groups.items():
            rates = {
                item.name: found
                for item in self.classes
                if item.model == group[1]
                and self.cells[item.name] in by_group()[group]
                and (found := rate(group, self.cells[item.name]))
            }
            if rates:
                shapes.append(
                    Shape(
                        name=name,
                        model=group[1],
                        gpus={group[0]: group[3]},
                        requests_per_second=rates,
                        max_utilization=UTILIZATION,
                    )
                )
        return Question(
            objective="MinimizeCost",
            budget_dollars_per_hour=self.budget,
            pools=self.pools,
            classes=self.classes,
            shapes=tuple(shapes),
        )


def measured_rate(group: Group, cell: Cell) -> float:
    """The truth, requests/s."""
    return by_group()[group][cell].requests_per_second


def draw(r: random.Random) -> Drawn | None:
    """One question; None where what was drawn has too little in common."""
    table = by_group()
    cards = r.sample(sorted(PRICES), r.randint(2, 4))
    models = sorted({group[1] for group in table if group[0] in cards})
    chosen = r.sample(models, min(len(models), r.choice((1, 1, 2))))
    classes: list[RequestClass] = []
    cells: dict[str, Cell] = {}
    groups: dict[str, Group] = {}
    for model in chosen:
        mine = sorted(group for group in table if group[1] == model and group[0] in cards)
        if len({group[0] for group in mine}) < 2:
            return None
        counts: dict[Cell, set[str]] = defaultdict(set)
        for group in mine:
            for cell in table[group]:
                counts[cell].add(group[0])
        shared: dict[float | None, list[Cell]] = defaultdict(list)
        for cell, on in counts.items():
            if len(on) >= 2:
                shared[cell.concurrency].append(cell)
        if not shared:
            return None
        kind = r.choice(sorted(shared, key=repr))
        for number, cell in enumerate(r.sample(sorted(shared[kind]), min(len(shared[kind]), r.randint(2, 3)))):
            name = f"{model}/{number}"
            cells[name] = cell
            # Enough for 4 to 40 GPUs of the fastest kind.
            fastest = max(measured_rate(group, cell) / group[3] for group in mine if cell in table[group])
            rate = round(fastest * r.uniform(4, 40), 4)
            classes.append(RequestClass(name=name, model=model, requests_per_second=rate))
        groups |= {f"{group[1]} {group[2]} {group[3]} x {group[0]}": group for group in mine}
    pools = tuple(
        Pool(
            name=card,
            gpus_per_node=PRICES[card][1],
            dollars_per_node_hour=round(r.choice(PRICES[card][0]) * PRICES[card][1], 4),
            max_nodes=r.choice((6, 20, 60)),
        )
        for card in cards
    )
    return Drawn(pools, tuple(classes), cells, groups, budget=1e6)


def questions(count: int, seed: int) -> list[tuple[Drawn, float]]:
    """Questions that measured rates serve in full, with what that costs; their budgets leave half to twice as much more."""
    r = random.Random(seed)
    found: list[tuple[Drawn, float]] = []
    while len(found) < count:
        drawn = draw(r)
        if drawn is None:
            continue
        answer = answered(drawn.question(measured_rate))
        if answer.dollars_per_hour and not _unserved(answer):
            budget = answer.dollars_per_hour * r.uniform(1.5, 3.0)
            found.append((drawn._replace(budget=budget), answer.dollars_per_hour))
    return found


def answered(question: Question) -> Answer:
    """The plan, to a tenth of a per cent or the best within a work limit."""
    return solve(question, method="anytime", relative_gap=1e-3, node_limit=2000, why_infeasible=False)


def _unserved(answer: Answer) -> bool:
    return math.fsum(answer.unserved.values()) > 1e-6


def outcome(drawn: Drawn, dollars: float, knowledge: str, confidence: float) -> Outcome:
    """The plan made with predictions, under the measured rates."""
    question = drawn.question(lambda group, cell: planned_rate(group, cell, knowledge, confidence))
    answer = answered(question)
    asked = math.fsum(item.requests_per_second for item in drawn.classes)
    if answer.dollars_per_hour is None:
        return Outcome(math.nan, 0.0)
    busy: dict[str, float] = defaultdict(float)
    for name, by_shape in answer.rates.items():
        for shape, rate in by_shape.items():
            busy[shape] += rate / measured_rate(drawn.groups[shape], drawn.cells[name])
    served = math.fsum(
        rate * min(1.0, UTILIZATION * answer.replicas[shape] / busy[shape])
        for by_shape in answer.rates.values()
        for shape, rate in by_shape.items()
        if rate > 0
    )
    return Outcome(answer.dollars_per_hour / dollars, served / asked)


class Row(NamedTuple):
    """A line of the table: what plans cost over those with measured rates, and what they serve."""

    knowledge: str
    confidence: float
    mean_cost: float
    worst_cost: float
    mean_served: float
    least_served: float
    served_99: float
    """Share of the questions of which 99 % are served."""


def regret(asked: list[tuple[Drawn, float]], confidences=CONFIDENCES) -> list[Row]:
    """Every state of knowledge at every confidence."""
    rows = []
    for knowledge in KNOWLEDGE:
        for confidence in confidences:
            found = [outcome(drawn, dollars, knowledge, confidence) for drawn, dollars in asked]
            costs = [item.cost_ratio for item in found if not math.isnan(item.cost_ratio)]
            served = [item.served for item in found]
            rows.append(
                Row(
                    knowledge,
                    confidence,
                    statistics.fmean(costs) - 1,
                    max(costs) - 1,
                    statistics.fmean(served),
                    min(served),
                    sum(share >= 0.99 for share in served) / len(served),
                )
            )
    return rows


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    asked = questions(arguments.questions, arguments.seed)
    print(f"| {len(asked)} questions: known | confidence | mean cost | worst | mean served | least | 99 % served in |")
    print("|---|---|---|---|---|---|---|")
    for row in regret(asked):
        print(
            f"| {row.knowledge} | {row.confidence:g} | {row.mean_cost:+.1%} | {row.worst_cost:+.1%} "
            f"| {row.mean_served:.1%} | {row.least_served:.1%} | {row.served_99:.0%} |"
        )


if __name__ == "__main__":
    main()
