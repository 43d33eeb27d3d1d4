"""``servingplan report``: one page about a plan, as a file by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.files import fail, read_plan, world_of_plan
from servingplan.cli.options import AnyPlanFile, LivePlan, Namespace, ProfileFiles, WorldFile
from servingplan.cli.reading import progress_bar
from servingplan.cli.replay import read_result

if TYPE_CHECKING:
    from servingplan.model.world import Observation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.html", help="The page; - is standard output.")],
    plan_file: AnyPlanFile = None,
    live: LivePlan = None,
    namespace: Namespace = "default",
    replay: Annotated[
        str | None,
        typer.Option(metavar="R.json", help="What servingplan replay -o json printed; alone, its plan is shown."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="FROM:TO:POINTS", help="Range of the curve in $/h; default: up to 1.5 times the budget."),
    ] = None,
    deadline: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Longest time of the explanation and of the curve, each.")
    ] = 60.0,
    world: WorldFile = None,
    profiles: ProfileFiles = None,
) -> None:
    """Write a page about a plan: its fleet, who serves what, dollars, limits, the budget curve, latency."""
    if output != "-" and not Path(output).absolute().parent.is_dir():
        fail(f"--output: {output}: its folder does not exist; make it, or give a file in a folder that exists")
    result = None if replay is None else read_result(replay)
    from servingplan.cli.imagine import with_profiles
    from servingplan.planning.situation import Situation

    situation = Situation(with_profiles(_seen(plan_file, live, namespace, world, result), profiles))
    if situation.acting is None:
        fail("\n       ".join(map(str, situation.spec_errors)))
    if result is not None and result["plan"] != situation.world.plan.key:
        fail(f"--replay: {result['plan']!r}: is of another plan than {situation.world.plan.key}; replay this one")
    from servingplan.frontier.sweep import budget_sweep
    from servingplan.ui.pages import NoPlanError, page_of

    sweep = None if budget is None else budget_sweep(budget)
    try:
        text = page_of(situation, sweep=sweep, replay=result, deadline_seconds=deadline, bar=progress_bar)
    except NoPlanError as error:
        fail(error.advice, 3)
    if output == "-":
        typer.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"--output: {output}: cannot be written: {error.strerror}; give a file in a folder that exists")


def _seen(
    plan_file: str | None, live: str | None, namespace: str, world: str | None, result: Mapping[str, Any] | None
) -> Observation:
    from servingplan.cli.imagine import imagined_world
    from servingplan.model.world import Observation

    if plan_file is not None and live is not None:
        fail("give either PLAN.yaml or --live NAME")
    if live is not None:
        from servingplan.cli.cluster import observed

        return observed(namespace, live)
    if plan_file is not None:
        manifest = read_plan(plan_file)
        return imagined_world(manifest) if world is None else world_of_plan(world, manifest)
    if result is None:
        fail("give PLAN.yaml, --live NAME or --replay R.json")
    from pydantic import ValidationError

    try:
        return Observation.model_validate(result.get("world"))
    except ValidationError:
        fail("--replay: holds no world that this version understands; give PLAN.yaml beside it")
