"""Plans that are known before the search: what they are worth, and which of two is better.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. The running fleet, the empty plan and every
heuristic plan take this form; `lexicographic` starts from the best one and `certificate` bounds it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from servingplan.model.goal import DOLLARS, MOVES, SCALE, Goal, Kind
from servingplan.solve.plan.found import Found
from servingplan.solve.plan.judge import keeps_counts
from servingplan.solve.plan.losses import protected, protected_from, survivable_targets
from servingplan.solve.plan.placement import needed_nodes, node_contents, spread_contents
from servingplan.solve.plan.routing import route
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.packing import Content
from servingplan.solve.solver.tolerance import TOLD, reaches


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """Copies and nodes that break no promise, with the value of every level."""

    copies: tuple[int, ...]
    nodes: tuple[int, ...]
    contents: Mapping[int, list[tuple[Content, int]]] = field(default_factory=dict)
    values: Mapping[Goal, float]
    """In the order of the goals: service, then dollars, then moves where something runs."""
    rates: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """Requests/s of class k that shape c serves."""


def incumbent_of(
    instance: Instance,
    copies: Sequence[int],
    targets: Sequence[float] | None = None,
    *,
    at_least: Sequence[int] | None = None,
) -> Incumbent | None:
    """These copies on the fewest nodes that we can pack them on, and on no fewer than `at_least` of each pool; None where they
    break a promise. Where any node may be lost they are packed tightly or spread evenly, whichever keeps more.

    `targets` are the rates (requests/s by class) at which service is measured; default: what could be reached.
    """
    nodes = needed_nodes(instance, copies)
    if at_least is not None:
        nodes = tuple(map(max, nodes, at_least))
    if not keeps_counts(instance, copies, nodes):
        return None
    dollars = sum(pool.dollars_per_node_hour * count for pool, count in zip(instance.pools, nodes, strict=True))
    targets = tuple(instance.reachable_targets if targets is None else targets)
    packings: list[dict[int, list[tuple[Content, int]]] | None] = [{}]
    if protected_from(instance, "AnyNode"):
        packings = [spread_contents(instance, copies, nodes), node_contents(instance, copies)]
    judged = [
        (survivable_targets(instance, Found(tuple(copies), nodes, contents=contents, targets=targets)), contents)
        for contents in packings
        if contents is not None
    ]
    survivable, contents = max(judged, key=lambda one: sum(one[0] or ()))
    if survivable is None:
        return None
    routing = route(instance, copies, survivable)
    if instance.question.objective == "MinimizeCost":
        served = {k: sum(rate for (_, j), rate in routing.rates.items() if j == k) for k in protected(instance)}
        if not all(reaches(rate, instance.classes[k].requests_per_second) for k, rate in served.items()):
            return None
    elif not routing.values.get(SCALE):
        return None
    values = {**routing.values, DOLLARS: dollars}
    if instance.question.running:
        running = instance.running_copies()
        values[MOVES] = float(sum(abs(y - now) for y, now in zip(copies, running, strict=True)))
    return Incumbent(copies=tuple(copies), nodes=nodes, contents=contents, values=values, rates=routing.rates)


def running_plan(instance: Instance, targets: Sequence[float] | None = None) -> Incumbent | None:
    """The running fleet as a plan; None where nothing runs, or it is not allowed any more."""
    running = instance.question.running
    if running is None:
        return None
    known = {shape.name for shape in instance.shapes}
    if any(count and name not in known for name, count in running.replicas.items()):
        return None
    return incumbent_of(instance, instance.running_copies(), targets)


def empty_plan(instance: Instance) -> Incumbent | None:
    """No copy at all: a plan under MinimizeCost unless something must be served; none under MaximizeService."""
    if instance.question.objective == "MaximizeService":
        return None
    return incumbent_of(instance, (0,) * len(instance.shapes))


def best_of(plans: Iterable[Incumbent | None]) -> Incumbent | None:
    """The best plan, the first of equals; None where there is none."""
    best: Incumbent | None = None
    for plan in plans:
        if plan is not None and (best is None or is_better(plan.values, best.values)):
            best = plan
    return best


def serves_in_full(plan: Incumbent) -> bool:
    """Whether every class gets all that it asks for, under MinimizeCost."""
    return all(value >= 1.0 for goal, value in plan.values.items() if goal.kind == Kind.SERVED_FRACTION)


def is_better(left: Mapping[Goal, float], right: Mapping[Goal, float], *, tolerance: float = TOLD) -> bool:
    """Whether the level values on the left are better: the first level that differs decides.

    Levels but for the served ones, which must be met, differ where they differ by more than `tolerance`.
    """
    for goal, ours in left.items():
        theirs = right[goal]
        telling = TOLD if goal.is_promise else max(tolerance, TOLD)
        if abs(ours - theirs) > telling * max(abs(ours), abs(theirs)):
            return goal.is_better(ours, theirs)
    return False


def is_settled(plan: Incumbent, known: Mapping[Goal, float], relative_gap: float) -> bool:
    """Whether the bounds that are known tell that the plan is best within the gap, the moves to it included."""
    if SCALE in plan.values or plan.values.get(MOVES):
        return False
    return serves_in_full(plan) and plan.values[DOLLARS] <= known[DOLLARS] * (1 + relative_gap)
