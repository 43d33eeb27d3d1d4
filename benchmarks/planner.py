"""The planner against the plain program: the tables of ``docs/planner.md``.

    python -m benchmarks.planner [SECONDS [SECTION ...]]

Every answer passes the verifier before it is counted. SECONDS (default 5) is the deadline of one search. The plain form is
the maximise-scale (or least-dollars) program, dominance pruning on, scaled by its LP bound, with HiGHS at its defaults. Both
forms run in the same process with one thread; CPU seconds are told beside wall seconds, since the machine may be shared.
"""

import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import highspy
import numpy as np

from papers.p1.instance import DOLLARS_PER_HOUR, PARTS, STOCK, question_of
from papers.p1.instance import grid as p1_grid
from servingplan.model.answer import Answer
from servingplan.model.question import Pool, Question, RequestClass, Shape, question_from_json
from servingplan.solve import METHODS, solve
from servingplan.solve.problem.instance import instance_of, utilization
from servingplan.verify import verify

EXAMPLE = Path(__file__).parents[1] / "examples" / "questions" / "p1-worked-example.json"
CARDS = {
    "RTX4090": (1.0, 24), "A40": (1.0, 48), "A6000": (1.2, 48),
    "L40": (1.4, 48), "A100-SXM-80GB": (3.0, 80), "H100-SXM-80GB": (5.2, 80),
}  # fmt: skip
"""Relative speed and GB of the synthetic instances; price and stock are those of Jiang et al. (`papers/p1`)."""
TILINGS = [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (4, 2)]


def near_tied(seed: int, budget: float) -> Question:
    """Three models, six cards, about 160 shapes whose rates differ by at most 10 % from a common rule."""
    r = random.Random(seed)
    pools = tuple(
        Pool(name=card, gpus_per_node=1, dollars_per_node_hour=price, max_nodes=count)
        for (card, price), count in zip(DOLLARS_PER_HOUR.items(), STOCK[1], strict=True)
    )
    classes, shapes = [], []
    weights = (1, 0.5, 0.3, 4, 1.6, 0.9, 2.5, 1.1, 0.7)
    for m, (size, gigabytes) in enumerate(((70, 140), (30, 60), (8, 16))):
        names = [f"m{m}k{k}" for k in range(9)]
        classes += [
            RequestClass(name=n, model=f"m{m}", requests_per_second=round(r.uniform(0.05, 0.3), 3)) for n in names
        ]
        for card, (speed, memory) in CARDS.items():
            for tp, pp in TILINGS:
                gpus = tp * pp
                if gpus * memory < 1.1 * gigabytes:
                    continue
                room = min(1.0, (memory * gpus - gigabytes) / gigabytes + 0.3)
                losses = (1 - 0.04 * (tp.bit_length() - 1)) * (1 - 0.03 * (pp.bit_length() - 1))
                rates = {
                    n: speed * gpus / size * losses * room * w * r.uniform(0.9, 1.1)
                    for n, w in zip(names, weights, strict=True)
                }
                shapes.append(
                    Shape(name=f"m{m}/{card}/tp{tp}pp{pp}", model=f"m{m}", gpus={card: gpus}, requests_per_second=rates)
                )
    return Question(
        objective="MaximizeService",
        budget_dollars_per_hour=budget,
        pools=pools,
        classes=tuple(classes),
        shapes=tuple(shapes),
    )


def coral(models: int, kinds: int, regions: int, *, stock: int, seed: int = 0) -> Question:
    """Sizes of Coral's experiments: least dollars for given demand, 8-GPU and smaller nodes in regions."""
    r = random.Random(seed)
    pools, shapes = [], []
    classes = [
        RequestClass(name=f"m{m}k{k}", model=f"m{m}", requests_per_second=round(r.uniform(1, 8), 3))
        for m in range(models)
        for k in range(2)
    ]
    for kind in range(kinds):
        gpus, speed = (1, 2, 4, 8)[kind % 4], 1.0 + kind // 4
        price = gpus * speed * r.uniform(0.8, 1.2)
        for region in range(regions):
            pool = f"t{kind}r{region}"
            pools.append(
                Pool(name=pool, gpus_per_node=gpus, dollars_per_node_hour=price * r.uniform(0.9, 1.1), max_nodes=stock)
            )
    for m in range(models):
        for kind in range(kinds):
            gpus, speed = (1, 2, 4, 8)[kind % 4], 1.0 + kind // 4
            for tp in (1, 2, 4, 8):
                if tp <= gpus and tp >= (1, 2, 4)[m % 3] / speed:
                    rate = [speed * tp / (1 + m % 3) * r.uniform(0.3, 0.5) * tp**0.05 for _ in range(2)]
                    for region in range(regions):
                        name = f"m{m}/t{kind}r{region}/tp{tp}"
                        rates = {f"m{m}k{k}": rate[k] for k in range(2)}
                        shapes.append(
                            Shape(name=name, model=f"m{m}", gpus={f"t{kind}r{region}": tp}, requests_per_second=rates)
                        )
    return Question(
        objective="MinimizeCost",
        budget_dollars_per_hour=1e6,
        pools=tuple(pools),
        classes=tuple(classes),
        shapes=tuple(shapes),
    )


@dataclass(frozen=True)
class Run:
    """One search."""

    value: float
    bound: float
    gap: float
    wall_seconds: float
    cpu_seconds: float


def ours(question: Question, *, method: str, seconds: float, gap: float) -> Run:
    """Our answer, verified."""
    wall, cpu = time.monotonic(), time.process_time()
    answer: Answer = solve(question, method=method, deadline_seconds=seconds, relative_gap=gap)
    # The level that the plain form has too: of those after it, it knows nothing.
    own = next((level for level in answer.levels if level.name in ("scale", "dollars")), None)
    run = Run(
        own.value if own else 0.0, own.bound if own else 0.0, own.gap if own else 1.0,
        time.monotonic() - wall, time.process_time() - cpu,
    )  # fmt: skip
    faults = verify(question, answer)
    assert not faults, (method, faults)
    return run


def plain(question: Question, *, seconds: float, gap: float) -> Run:
    """The plain form on HiGHS defaults: nodes n, copies y, rates z in units of the LP bound."""
    wall, cpu = time.monotonic(), time.process_time()
    instance = instance_of(question)
    service = question.objective == "MaximizeService"
    scale = 1.0
    for relaxed in (True, False) if service else (False,):
        h = highspy.Highs()
        h.setOptionValue("output_flag", False)
        h.setOptionValue("threads", 1)
        h.setOptionValue("mip_rel_gap", gap)
        h.setOptionValue("time_limit", max(0.01, seconds - (time.monotonic() - wall)))
        columns = 0

        def column(lower, upper, cost, *, whole, h=h, relaxed=relaxed):
            nonlocal columns
            h.addVar(lower, upper)
            h.changeColCost(columns, cost)
            if whole and not relaxed:
                h.changeColIntegrality(columns, highspy.HighsVarType.kInteger)
            columns += 1
            return columns - 1

        def row(lower, upper, terms, h=h):
            index, value = zip(*terms, strict=True)
            h.addRow(lower, upper, len(index), np.array(index, dtype=np.int32), np.array(value))

        s = column(0.0 if service else 1.0, 1e9 if service else 1.0, 1.0 if service else 0.0, whole=False)
        price = [pool.dollars_per_node_hour for pool in instance.pools]
        n = [
            column(p.min_nodes, p.max_nodes, 0.0 if service else p.dollars_per_node_hour, whole=True)
            for p in instance.pools
        ]
        y = [column(0, limit, 0.0, whole=True) for limit in instance.copies_limit]
        load = {c: [(y[c], -utilization(shape, 1))] for c, shape in enumerate(instance.shapes)}
        for k, cls in enumerate(instance.classes):
            served = [(s, -cls.requests_per_second * scale)]
            for c in instance.serving[k]:
                z = column(0, highspy.kHighsInf, 0.0, whole=False)
                served.append((z, 1.0))
                load[c].append((z, 1.0 / instance.rate(c, k)))
            row(0.0, 0.0, served)
        for terms in load.values():
            row(-highspy.kHighsInf, 0.0, terms)
        for p, pool in enumerate(instance.pools):
            used = [(y[c], float(instance.shapes[c].gpus[pool.name])) for c in instance.on_pool[p]]
            row(-highspy.kHighsInf, 0.0, [*used, (n[p], -float(pool.gpus_per_node))])
        row(-highspy.kHighsInf, question.budget_dollars_per_hour, list(zip(n, price, strict=True)))
        h.changeObjectiveSense(highspy.ObjSense.kMaximize if service else highspy.ObjSense.kMinimize)
        h.run()
        info = h.getInfo()
        if relaxed:
            scale = info.objective_function_value
    value, bound = info.objective_function_value, info.mip_dual_bound
    largest = max(abs(value), abs(bound))
    reached = 1.0 if not np.isfinite(largest) else abs(bound - value) / largest if largest else 0.0
    return Run(value * scale, bound * scale, reached, time.monotonic() - wall, time.process_time() - cpu)


def table(title: str, rows: Iterator[tuple[str, str, list[Run]]]) -> None:
    """Medians per instance group and form."""
    print(f"\n### {title}\n")
    print("| instances | form | value | gap | wall s | CPU s |\n|---|---|---|---|---|---|")
    for name, form, runs in rows:
        value, gap, wall, cpu = (
            statistics.median(getattr(run, field) for run in runs)
            for field in ("value", "gap", "wall_seconds", "cpu_seconds")
        )
        print(f"| {name} ({len(runs)}) | {form} | {value:.5g} | {gap:.2%} | {wall:.2f} | {cpu:.2f} |", flush=True)


def forms(name: str, questions: list[Question], *, seconds: float, gap: float) -> Iterator[tuple[str, str, list[Run]]]:
    """Anytime, exact and the plain form on the same questions."""
    for method in ("anytime", "exact"):
        yield name, method, [ours(question, method=method, seconds=seconds, gap=gap) for question in questions]
    yield name, "plain", [plain(question, seconds=seconds, gap=gap) for question in questions]


def worked_example(seconds: float) -> None:
    """Every method on the example of Jiang et al."""
    example = question_from_json(EXAMPLE.read_bytes())
    print("\n### Worked example of Jiang et al.: every method (optimum 51/1450 = 0.0351724)\n")
    print("| method | scale | gap | CPU ms |\n|---|---|---|---|")
    for method in METHODS:
        runs = [ours(example, method=method, seconds=seconds, gap=1e-4) for _ in range(5)]
        milliseconds = 1000 * statistics.median(run.cpu_seconds for run in runs)
        print(f"| {method} | {runs[0].value:.7f} | {runs[0].gap:.2%} | {milliseconds:.0f} |")


def grid(seconds: float) -> None:
    """The grid of Jiang et al. by snapshot, and the comparators on Avail 1; `python -m papers` has the paper's own tables."""
    comparators = list(METHODS)[2:]
    compared = []
    for models, stock in itertools.product(PARTS, STOCK):
        questions = [question_of(cell) for cell in p1_grid(models) if cell.stock == stock]
        title = f"Grid of Jiang et al., Avail {stock}, {models}, gap 0.1 %"
        table(title, forms(models, questions, seconds=seconds, gap=1e-3))
        if stock > 1:
            continue
        best = [ours(question, method="anytime", seconds=seconds, gap=1e-3).value for question in questions]
        parts = []
        for method in comparators:
            found = [ours(question, method=method, seconds=seconds, gap=1e-3).value for question in questions]
            parts.append(statistics.median(a / b for a, b in zip(found, best, strict=True)))
        compared.append(f"| {models} | " + " | ".join(f"{part:.3f}" for part in parts) + " |")
    print("\n### Comparators on the grid: median of scale / scale of anytime\n")
    print("| models | " + " | ".join(comparators) + " |\n" + "|---" * (len(comparators) + 1) + "|")
    print("\n".join(compared), flush=True)


def ties(seconds: float, seeds: int = 3) -> None:
    """Three models with near-tied shapes: what a second and ``seconds`` bring."""
    for budget in (15.0, 30.0, 60.0):
        questions = [near_tied(seed, budget) for seed in range(seeds)]
        for limit in (1.0, seconds):
            title = f"Three models, near-tied shapes, {budget:g} $/h, gap 1 %, {limit:g} s"
            table(title, forms("near-tied", questions, seconds=limit, gap=0.01))


def certificates(seconds: float, seeds: int = 10) -> None:
    """CPU seconds to a certificate of 1 % on near-tied shapes, ours and the plain form; ``seconds`` is where they give up."""
    cases = [
        (f"near-tied, {budget:g} $/h", [near_tied(seed, budget) for seed in range(seeds)])
        for budget in (15.0, 30.0, 60.0)
    ]
    certified(cases, ("anytime", "plain"), seconds)


def coral_sizes(seconds: float, seeds: int = 5) -> None:
    """Sizes of Coral to 1 %, and ten times that."""
    sizes = (("3 x 12 x 2", (3, 12, 2), 20), ("6 x 20 x 3", (6, 20, 3), 20), ("6 x 20 x 3, stock 2", (6, 20, 3), 2))
    cases = [(name, [coral(*size, stock=stock, seed=seed) for seed in range(seeds)]) for name, size, stock in sizes]
    certified(cases, ("anytime", "exact"), seconds)
    run = ours(coral(60, 40, 5, stock=20), method="anytime", seconds=10.0, gap=0.01)
    table("Ten times Coral", iter([("60 x 40 x 5", "anytime", [run])]))


def certified(cases: list[tuple[str, list[Question]]], methods: tuple[str, ...], seconds: float) -> None:
    """How many reach 1 %, and after how many CPU seconds; those that do not count with all that they spent."""
    print(f"\n### CPU seconds to 1 %, given up after {seconds:g} s of wall clock\n")
    print("| instances | form | certified | median CPU s | fastest, slowest | median gap at the end |")
    print("|---|---|---|---|---|---|")
    for name, questions in cases:
        for form in methods:
            runs = [
                plain(question, seconds=seconds, gap=0.01)
                if form == "plain"
                else ours(question, method=form, seconds=seconds, gap=0.01)
                for question in questions
            ]
            done = sum(run.gap <= 0.01 * (1 + 1e-6) for run in runs)
            cpu = sorted(run.cpu_seconds for run in runs)
            gap = statistics.median(run.gap for run in runs)
            print(
                f"| {name} | {form} | {done} of {len(runs)} | {statistics.median(cpu):.2f} | {cpu[0]:.2f}, {cpu[-1]:.2f} "
                f"| {gap:.2%} |",
                flush=True,
            )


SECTIONS = {"example": worked_example, "grid": grid, "ties": ties, "certificates": certificates, "coral": coral_sizes}


if __name__ == "__main__":
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    for section in sys.argv[2:] or SECTIONS:
        SECTIONS[section](limit)
