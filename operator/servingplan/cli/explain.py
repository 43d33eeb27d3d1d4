"""``servingplan explain``: what limits a plan, what one more unit of each limit is worth, and the alternatives."""

from __future__ import annotations

import json
from typing import Any

import typer

from servingplan.cli.cluster import observed
from servingplan.cli.files import fail, read_plan, world_of_plan
from servingplan.cli.options import AnyPlanFile, Deadline, LivePlan, Namespace, ProfileFiles, Site, WorldFile
from servingplan.cli.plan import Format, Output, print_value
from servingplan.model.world import Observation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(
    plan_file: AnyPlanFile = None,
    live: LivePlan = None,
    namespace: Namespace = "default",
    world: WorldFile = None,
    profiles: ProfileFiles = None,
    deadline: Deadline = None,
    site: Site = "",
    output: Output = Format.table,
) -> None:
    """Explain a plan: its limits, what one more unit of each is worth, alternatives, what was left out."""
    from servingplan.cli.imagine import with_profiles

    seen = with_profiles(_world(plan_file, live, namespace, world), profiles)
    from servingplan.model.answer import answer_json
    from servingplan.planning.availability import cap_lines
    from servingplan.planning.cold_starts import start_lines
    from servingplan.planning.explain import explain_plan
    from servingplan.planning.situation import Situation
    from servingplan.planning.starts import lines

    situation = Situation(seen)
    if situation.acting is None:
        fail("\n       ".join(map(str, situation.spec_errors)))
    record, pools = situation.record, situation.pools
    for finding in situation.row_findings:
        typer.echo(f"warning: {finding.message}", err=True)
    found = explain_plan(situation, deadline_seconds=deadline)
    steps = proposed = kept = None
    if live is not None:
        from servingplan.answering import solve_with
        from servingplan.decide.decide import decide
        from servingplan.decide.keep_or_move import SAME_SERVICE, staying
        from servingplan.decide.proposal import proposal
        from servingplan.decide.transition import transition_in_force
        from servingplan.decide.turn import Turn

        decision = decide(situation, solve_with())
        steps = transition_in_force(situation, decision)
        if decision.waiting is not None:
            proposed = proposal(situation, decision, decision.fleet, decision.waiting)
        if found.question is not None and found.answer is not None and found.answer.status != "Infeasible":
            stays = staying(Turn(situation), situation.spec, found.question, found.answer)
            kept = stays.why if stays is not None and stays.gain > SAME_SERVICE else None
    known = (*cap_lines(pools), *lines(record.failed_shapes), *start_lines(pools))
    infeasible = found.answer is not None and found.answer.status == "Infeasible"
    pages = _pages(seen if live is not None else None, site, infeasible=infeasible)
    problems = (*map(str, (*situation.spec_errors, *situation.pool_errors)), *found.problems)
    if output is not Format.table:
        data: dict[str, Any] = {"version": 1, "plan": seen.plan.key, "problems": list(problems), "pages": pages}
        if known:
            data["learned"] = known
        if live is not None:
            data["transition"] = None if steps is None else steps.model_dump(mode="json")
            data["proposal"] = None if proposed is None else proposed.model_dump(mode="json")
            data["kept"] = kept
        if found.question is not None and found.answer is not None:
            data["question"] = found.question.model_dump(mode="json", exclude_defaults=True)
            data["answer"] = json.loads(answer_json(found.answer.model_copy(update={"seconds": 0.0})))
        print_value(data, output)
    else:
        from servingplan.cli.show import console, explanation_view, steps_view

        fleet = record.fleet
        in_force = None if fleet is None else f"in force: plan {fleet.hash}, {fleet.dollars_per_hour:.2f} $/h"
        if kept is not None:
            in_force = f"{in_force}; the best plan does not replace it yet: {kept}"
        console().print(explanation_view(found, problems=problems, in_force=in_force))
        if steps is not None:
            console().print(steps_view(steps))
        if proposed is not None:
            from servingplan.cli.show_live import proposal_view

            console().print(proposal_view(proposed))
        for line in known:
            console().print(line, markup=False)
        for reason, page in pages.items():
            typer.echo(f"{reason}: {page}")
    if problems or found.answer is None:
        raise typer.Exit(2)
    if infeasible:
        raise typer.Exit(3)


def _pages(live: Observation | None, site: str, *, infeasible: bool) -> dict[str, str]:
    """The page of each reason for which a live plan is not as it should be; of a plan from a file, that it is infeasible."""
    from servingplan.api.reasons import asks_for_something, page_of

    conditions = () if live is None else live.plan.status.get("conditions") or ()
    reasons = [item["reason"] for item in conditions if asks_for_something(item)]
    if infeasible:
        reasons.append("Infeasible")
    return {reason: page_of(reason, site) for reason in reasons}


def _world(plan_file: str | None, live: str | None, namespace: str, world_file: str | None) -> Observation:
    if (plan_file is None) == (live is None) or (live is not None and world_file is not None):
        fail("give either PLAN.yaml, if needed with --world, or --live NAME")
    if live is not None:
        return observed(namespace, live)
    manifest = read_plan(plan_file or "-")
    if world_file is None:
        from servingplan.cli.imagine import imagined_world

        return imagined_world(manifest)
    return world_of_plan(world_file, manifest)
