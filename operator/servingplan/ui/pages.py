"""One page of a plan, from what was observed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from typing import Any

from servingplan.answering import solve_with
from servingplan.decide.decide import decide
from servingplan.errors import InputError
from servingplan.frontier.frontier import Frontier, Point, frontier
from servingplan.frontier.sweep import Sweep
from servingplan.model.world import Observation
from servingplan.planning.explain import explain_plan
from servingplan.planning.situation import Situation
from servingplan.report.content import content
from servingplan.report.page import page_html

POINTS = 24
"""The number of points of the curve if no range is given."""
BEYOND = 1.5
"""The curve ends at this multiple of the budget."""
Json = dict[str, Any]
Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Reports the progress of a part of the work."""


class NoPlanError(InputError):
    """There is no plan to show."""


def page_of(
    situation: Situation,
    *,
    sweep: Sweep | None = None,
    replay: Mapping[str, Any] | None = None,
    deadline_seconds: float,
    links: Mapping[str, Any] | None = None,
    bar: Bar = lambda _what: nullcontext(lambda _done, _all: None),
) -> str:
    """The page of a situation. The plan is searched within the spec's deadline, the explanation and the curve within
    ``deadline_seconds`` each. ``links`` is what a server adds: see ``page.html``.

    Raises:
        NoPlanError: there is none; the message says why.
    """
    if situation.acting is None:
        raise NoPlanError("spec", None, "; ".join(map(str, situation.spec_errors)))
    decision = decide(situation, solve_with())
    fleet = decision.fleet or decision.waiting
    if fleet is None:
        wrong = "; ".join(f"{found.reason}: {found.message}" for found in decision.findings if not found.holds)
        raise NoPlanError("plan", None, f"there is none to show: {wrong}")
    with bar("explaining"):
        explained = explain_plan(situation, deadline_seconds=deadline_seconds)
    curve, notes = _curve(situation, sweep or _up_to_beyond(situation), deadline_seconds, bar)
    page = content(situation, fleet, decision.findings, explained, curve, replay)
    page["findings"] += [{"reason": "NoCurve", "message": note} for note in notes]
    return page_html(page, links=links)


def changed(world: Observation, *, budget: Decimal | None = None, demand: Decimal | None = None) -> Observation:
    """The world after an edit of the plan: another budget in $/h, and all declared rates multiplied by a factor.

    As for every edit the generation rises, so the plan is searched as a new one, and not in haste or as an improvement of the
    plan in force.
    """
    spec = world.plan.spec
    if not isinstance(spec, dict) or (budget is None and demand is None):
        return world
    spec = dict(spec)
    if budget is not None:
        spec["budget"] = {"dollarsPerHour": f"{budget:f}"}
    if demand is not None:
        spec["models"] = [_scaled(model, demand) for model in spec.get("models") or ()]
    edit = {"spec": spec, "generation": world.plan.generation + 1}
    return world.model_copy(update={"plan": world.plan.model_copy(update=edit)})


def _scaled(model: Any, factor: Decimal) -> Any:
    if not isinstance(model, dict):
        return model
    classes = [
        {**item, "requestsPerSecond": f"{Decimal(str(item['requestsPerSecond'])) * factor:f}"}
        if isinstance(item, dict) and "requestsPerSecond" in item
        else item
        for item in model.get("classes") or ()
    ]
    return {**model, "classes": classes} if classes else model


def _up_to_beyond(situation: Situation) -> Sweep | None:
    most = BEYOND * float(situation.spec.budget.dollars_per_hour)
    if most <= 0:
        return None
    return Sweep("budget", tuple(round(most * index / POINTS, 6) for index in range(POINTS + 1)))


def _curve(
    situation: Situation, sweep: Sweep | None, deadline_seconds: float, bar: Bar
) -> tuple[Frontier | None, list[str]]:
    """The curve, or why there is none."""
    if sweep is None:
        return None, []
    whole, done = len(sweep.values) * (1 + len(situation.spec.node_pools)), 0
    try:
        with bar("curve") as report:

            def count(_pool: str | None, _point: Point) -> None:
                nonlocal done
                done += 1
                report(done, whole)

            return frontier(situation, sweep, deadline_seconds=deadline_seconds, on_point=count), []
    except InputError as error:
        return None, [f"the page has no curve: {error}"]
