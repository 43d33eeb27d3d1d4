"""Checks that protected classes are served in full after each loss that the plan must survive."""

from collections.abc import Iterator, Mapping

from servingplan.model.question import Question
from servingplan.verify.case import TOLERANCE, Case, utilization


def survival(case: Case) -> Iterator[str]:
    """The losses after which the remaining copies cannot serve the classes that the rule protects."""
    for rule in case.question.survive:
        demand = {}
        for name, cls in case.classes.items():
            if cls.priority >= rule.min_priority and cls.requests_per_second > 0:
                if name in case.answer.unserved:
                    yield f"unserved.{name} is {case.answer.unserved[name]}; survive {rule.event} protects this class"
                scale = case.scale if case.question.objective == "MaximizeService" else 1.0
                demand[name] = scale * cls.requests_per_second
        for event, lost in _events(case, rule.event):
            left = {name: count - lost.get(name, 0) for name, count in case.answer.replicas.items()}
            if demand and not can_serve(case.question, left, demand):
                yield f"survive {rule.event}: after the loss of {event} the copies left cannot serve {sorted(demand)} in full"


def _events(case: Case, event: str) -> Iterator[tuple[str, Mapping[str, int]]]:
    """The losses of one kind of event: a description of each, and the copies lost, by shape."""
    if event == "SpotPools":
        spot = {name for name, pool in case.pools.items() if pool.capacity_type == "Spot"}
        yield "all Spot pools", {c: n for c, n in case.answer.replicas.items() if spot & case.shapes[c].gpus.keys()}
        return
    seen: set[tuple[tuple[str, int], ...]] = set()
    for group in case.answer.placements:
        per_node = case.pools[group.pool].gpus_per_node
        content = tuple(
            (name, 1 if case.shapes[name].gpus.get(group.pool, 0) > per_node else -(-count // group.nodes))
            for name, count in group.replicas.items()
        )
        if content and content not in seen:
            seen.add(content)
            yield f"a node of {group.pool!r} with {dict(content)}", dict(content)


def can_serve(question: Question, copies: Mapping[str, int], demand: Mapping[str, float]) -> bool:
    """Whether these copies can serve this demand (requests/s by class) in full; the test is exact up to rounding.

    It maximises the sum of served fractions by the simplex method. With x[k,c] the fraction of class k that shape c serves:
    load rows sum_k D/h x <= y rho(y), class rows sum_c x <= 1, quality rows sum_c (loss - limit) x <= 0. The point without
    traffic satisfies every row, so the method starts there and needs no first phase.
    """
    shapes = {shape.name: shape for shape in question.shapes if copies.get(shape.name, 0) > 0}
    columns = [(k, c) for k in sorted(demand) for c in sorted(shapes) if k in shapes[c].requests_per_second]
    rows: list[list[float]] = []
    limits: list[float] = []
    for c in sorted(shapes):
        rows.append([demand[k] / shapes[c].requests_per_second[k] if d == c else 0.0 for k, d in columns])
        limits.append(utilization(shapes[c], copies[c]))
    for cls in question.classes:
        if cls.name in demand:
            rows.append([1.0 if k == cls.name else 0.0 for k, _ in columns])
            limits.append(1.0)
            if cls.quality_loss_limit is not None:
                losses = [shapes[c].quality_loss.get(cls.name, 0.0) for _, c in columns]
                quality = [
                    (loss - cls.quality_loss_limit) if k == cls.name else 0.0
                    for (k, _), loss in zip(columns, losses, strict=True)
                ]
                size = max(map(abs, quality), default=0.0) or 1.0
                rows.append([value / size for value in quality])
                limits.append(0.0)
    return _largest_sum(rows, limits) >= len(demand) * (1 - TOLERANCE)


def _largest_sum(rows: list[list[float]], limits: list[float]) -> float:
    """The maximum of sum(x) subject to rows x <= limits, x >= 0, for limits >= 0, by a simplex tableau with Bland's rule."""
    width = len(rows[0]) if rows else 0
    table = [
        [*row, *(float(i == j) for j in range(len(rows))), limit]
        for i, (row, limit) in enumerate(zip(rows, limits, strict=True))
    ]
    gain = [1.0] * width + [0.0] * len(rows) + [0.0]
    basis = list(range(width, width + len(rows)))
    while True:
        entering = next((j for j, value in enumerate(gain[:-1]) if value > 1e-10), None)
        if entering is None:
            return -gain[-1]
        ratios = [(row[-1] / row[entering], basis[i], i) for i, row in enumerate(table) if row[entering] > 1e-10]
        _, _, pivot = min(ratios)
        factor = table[pivot][entering]
        table[pivot] = [value / factor for value in table[pivot]]
        basis[pivot] = entering
        for row in (*(row for i, row in enumerate(table) if i != pivot), gain):
            if row[entering]:
                factor = row[entering]
                row[:] = [value - factor * lead for value, lead in zip(row, table[pivot], strict=True)]
