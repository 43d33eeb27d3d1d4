"""The meaning of a curve in sentences: from where on more does not help, and what each pool is worth."""

from __future__ import annotations

from collections.abc import Iterable

from servingplan.frontier.frontier import Frontier, Point
from servingplan.model.answer import Answer
from servingplan.planning import words

FULL = 1.0 - 1e-6
"""The share from which on everything counts as served."""
EQUAL = 1e-6
"""The relative difference up to which two services are equal; this is the solver's tolerance."""


def lines(found: Frontier) -> tuple[str, ...]:
    """Sentences for people, the most important first."""
    if all(point.dollars_per_hour is None for point in found.points):
        return (f"There is no plan {_where(found, found.points[-1].x)} or below it.",)
    return (*_turning_point(found), *_pools(found))


def _turning_point(found: Frontier) -> Iterable[str]:
    if found.sweep.kind == "demand":
        yield from _most_demand(found)
        return
    last, answer = found.points[-1], found.answers[-1]
    what = "money" if found.sweep.kind == "budget" else "stock"
    same = [point for point in found.points if _equal(point, last)]
    if last.served_share >= FULL and answer.scale is None and last.dollars_per_hour is not None:
        cost = f"everything is served for {last.dollars_per_hour:.2f} $/h"
        if found.sweep.kind == "budget":
            yield f"From {last.dollars_per_hour:.2f} $/h on everything is served, and more money changes nothing."
        elif len(same) > 1 and same[0].dollars_per_hour == last.dollars_per_hour:
            yield f"With {_value(found, same[0].x)} {cost}, and more change nothing."
        else:
            yield f"With {_value(found, last.x)} {cost}; with fewer it costs more, or not all is served."
        return
    limited = f" It is limited by {', '.join(answer.binding)}." if answer.binding else ""
    if len(same) > 1:
        yield f"More {what} stops helping at {_value(found, same[0].x)}, where {_share(answer)} is served.{limited}"
    else:
        yield f"More {what} still helps {_where(found, last.x)}, where {_share(answer)} is served.{limited}"


def _most_demand(found: Frontier) -> Iterable[str]:
    last = found.points[-1]
    if found.answers[-1].scale is not None:
        yield "Under MaximizeService rates are proportions of a mix, so that a factor on all of them changes nothing."
        return
    in_full = [point for point in found.points if point.served_share >= FULL]
    if not in_full:
        first = found.points[0]
        yield f"Not even {_value(found, first.x)} is served in full: {first.served_share:.1%} is."
    elif in_full[-1] is last:
        yield f"All demand up to {_value(found, last.x)} is served, there for {last.dollars_per_hour:.2f} $/h."
    else:
        most = in_full[-1]
        yield (
            f"All demand up to {_value(found, most.x)} is served, there for {most.dollars_per_hour:.2f} $/h; "
            f"at {_value(found, last.x)} {last.served_share:.1%} is."
        )


def _pools(found: Frontier) -> Iterable[str]:
    last, whole = found.points[-1], found.answers[-1]
    for pool, points in found.homogeneous.items():
        alone = _alone(found, points)
        if pool not in found.without:
            yield f"{pool} alone {alone}."
            continue
        less = found.without[pool]
        if not last.nodes[pool]:
            worth = f"is not used {_where(found, last.x)}"
        else:
            worth = f"is worth {_worth(whole, less)} {_where(found, last.x)}"
        yield f"{pool} {worth}; alone it {alone}."


def _alone(found: Frontier, points: tuple[Point, ...]) -> str:
    in_full = [point for point in points if point.served_share >= FULL and point.dollars_per_hour is not None]
    if in_full and found.answers[-1].scale is None:
        if found.sweep.kind == "demand":
            return f"serves everything up to {_value(found, in_full[-1].x)}"
        if found.sweep.kind == "budget":
            return f"serves everything from {in_full[-1].dollars_per_hour:.2f} $/h on"
        return f"serves everything from {_value(found, in_full[0].x)} on"
    most = max(points, key=lambda point: point.served_share)
    if not most.served:
        return "serves nothing"
    if found.answers[-1].scale is not None:
        return f"serves at most {most.served_share:.4g} times the mix"
    return f"serves at most {most.served_share:.1%}"


def _worth(whole: Answer, less: Answer) -> str:
    """The loss without a pool, in words."""
    if less.status == "Infeasible":
        return "the whole plan, since there is none without it"
    if words.share(whole) == words.share(less):
        dollars = (less.dollars_per_hour or 0.0) - (whole.dollars_per_hour or 0.0)
        return f"{dollars:.2f} $/h: without it the same service costs {less.dollars_per_hour or 0.0:.2f} $/h"
    return f"the step from {words.share(less)} to {words.share(whole)} of service"


def _share(answer: Answer) -> str:
    return words.share(answer) if answer.scale is not None else f"{words.share(answer)} of the demand"


def _equal(point: Point, last: Point) -> bool:
    return point.dollars_per_hour is not None and abs(point.served - last.served) <= EQUAL * max(1.0, last.served)


def _where(found: Frontier, x: float) -> str:
    """The position on the range for which a sentence holds, such as ``at a budget of 110.00 $/h``."""
    before = {"budget": "at a budget of", "demand": "at", "stock": "with"}[found.sweep.kind]
    return f"{before} {_value(found, x)}"


def _value(found: Frontier, x: float) -> str:
    if found.sweep.kind == "budget":
        return f"{x:.2f} $/h"
    if found.sweep.kind == "stock":
        return f"{x:.0f} nodes of {found.sweep.pool}" if x != 1 else f"1 node of {found.sweep.pool}"
    return f"{x:.4g} x the asked demand"
