"""``servingplan plan`` and ``servingplan render``: one turn without a cluster, with the operator's own code."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.files import fail, read_plan, world_of_plan
from servingplan.cli.options import PlanFile, ProfileFiles, WorldFile

if TYPE_CHECKING:
    from servingplan.model.decision import Decision
    from servingplan.planning.situation import Situation


class Format(StrEnum):
    """The form of the output."""

    table = "table"
    json = "json"
    yaml = "yaml"


WithLeaderWorkerSets = Annotated[
    bool,
    typer.Option(
        "--with-leader-worker-sets",
        help="What if replicas could span nodes? Shows a plan that this version cannot apply.",
    ),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="table, json or yaml.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan")(plan)
    app.command("render")(render)


def plan(
    plan_file: PlanFile,
    world: WorldFile = None,
    profiles: ProfileFiles = None,
    output: Output = Format.table,
    with_leader_worker_sets: WithLeaderWorkerSets = False,
) -> None:
    """Print what the operator would decide for a plan, from the plan alone or from a world that a turn saw."""
    from servingplan.status.steps import steps_of

    situation, decision = _decide(plan_file, world, profiles, with_leader_worker_sets=with_leader_worker_sets)
    steps = steps_of(situation, decision)
    if with_leader_worker_sets and decision.waiting is not None:
        decision = decision.model_copy(
            update={"fleet": decision.waiting}
        )  # the answer to "what if", not the plan in force
    if output is Format.table:
        from servingplan.cli.show import console, decision_view

        budget = float(situation.spec.budget.dollars_per_hour)
        console().print(decision_view(decision, budget_dollars_per_hour=budget, steps=steps, live=world is not None))
    else:
        data = json.loads(decision.model_dump_json())
        print_value({**data, "transition": None if steps is None else steps.model_dump(mode="json")}, output)
    bad = [finding for finding in decision.findings if not finding.holds]
    if decision.fleet is None and decision.waiting is None:
        if output is not Format.table:
            for finding in bad:
                typer.echo(f"error: {finding.reason}: {finding.message}", err=True)
        raise typer.Exit(2 if any(finding.condition == "SpecValid" for finding in bad) else 3)
    shown = decision.fleet or decision.waiting
    if shown is not None and not any(item.planned_requests_per_second > 0 for item in shown.classes):
        why = f"; what limits it: {', '.join(shown.binding)}" if shown.binding else ""
        fail(f"the plan serves nothing{why}; `servingplan explain {plan_file}` says which change would help", 3)


def render(
    plan_file: PlanFile, world: WorldFile = None, profiles: ProfileFiles = None, output: Output = Format.yaml
) -> None:
    """Print the manifests that the operator would apply for a plan."""
    from servingplan.model.actions import ApplyObject

    _, decision = _decide(plan_file, world, profiles)
    manifests = [action.manifest for action in decision.actions if isinstance(action, ApplyObject)]
    if not manifests:
        fail("nothing to render: " + "; ".join(finding.message for finding in decision.findings), 3)
    if output is Format.json:
        print_value({"apiVersion": "v1", "kind": "List", "items": manifests}, output)
        return
    import yaml

    typer.echo(yaml.safe_dump_all(manifests, sort_keys=False, width=120), nl=False)


def _decide(
    plan_file: str, world_file: str | None, profiles: list[str] | None, *, with_leader_worker_sets: bool = False
) -> tuple[Situation, Decision]:
    from servingplan.answering import solve_with
    from servingplan.api.parse import parse_spec
    from servingplan.cli.imagine import imagined_world, with_profiles
    from servingplan.decide.decide import decide
    from servingplan.planning.situation import Situation

    manifest = read_plan(plan_file)
    world = imagined_world(manifest) if world_file is None else world_of_plan(world_file, manifest)
    world = with_profiles(world, profiles)
    spec, errors = parse_spec(manifest.get("spec"))
    if spec is None:
        fail("\n       ".join(str(error) for error in errors))
    situation = Situation(world)
    return situation, decide(situation, solve_with(), what_if_leader_worker_sets=with_leader_worker_sets)


def print_value(value: Any, output: Format) -> None:
    """Print a value as JSON or YAML."""
    if output is Format.json:
        typer.echo(json.dumps(value, indent=1, sort_keys=True))
        return
    import yaml

    typer.echo(yaml.safe_dump(value, sort_keys=True, width=120), nl=False)
