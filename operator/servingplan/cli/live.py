"""``servingplan diff``, ``status``, ``top``, ``approve`` and ``history``: show a live plan, or approve a change.

All except ``diff`` read only the plan object, with what the operator wrote there. As ``kubectl-servingplan`` on the path they
are ``kubectl servingplan status NAME`` and so on.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.cluster import no_plan, observed
from servingplan.cli.files import fail, read_plan
from servingplan.cli.options import Namespace, PlanFile
from servingplan.cli.plan import Format, Output, print_value

if TYPE_CHECKING:
    from servingplan.kube import Kube

Json = dict[str, Any]

Name = Annotated[str, typer.Argument(help="Name of the plan.")]
APPROVE_MANAGER = "servingplan-approve"
"""Field manager of the annotation."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("diff")(diff)
    app.command("status")(status)
    app.command("top")(top)
    app.command("approve")(approve)
    app.command("history")(history)


def diff(
    plan_file: PlanFile,
    live: Annotated[str, typer.Option("--live", metavar="NAME", help="Name of the plan in the cluster.")],
    namespace: Namespace = "default",
    output: Output = Format.table,
) -> None:
    """Show what applying an edited plan would change: objects, dollars, classes, steps. Nothing is written."""
    from servingplan.answering import solve_with
    from servingplan.decide.decide import decide
    from servingplan.decide.proposal import proposal
    from servingplan.planning.situation import Situation

    manifest = read_plan(plan_file)
    key = (manifest["metadata"].get("namespace", namespace), manifest["metadata"]["name"])
    if key != (namespace, live):
        fail(f"{plan_file}: is the plan {'/'.join(key)}, not {namespace}/{live}; give the edited manifest of that plan")
    situation = Situation(observed(namespace, live, edited=manifest))
    decision = decide(situation, solve_with())
    bad = [finding for finding in decision.findings if not finding.holds]
    wrong = [f"{item.reason}: {item.message}" for item in bad if item.condition == "SpecValid"]
    if wrong:
        fail("\n       ".join(wrong))
    unread = [f"{item.reason}: {item.message}" for item in bad if item.condition == "InventoryAvailable"]
    if unread:
        fail("the cluster cannot be read whole: " + "; ".join(unread))
    unsolved = [f"{item.reason}: {item.message}" for item in bad if item.condition == "PlanSolved"]
    after = decision.waiting or decision.fleet
    if unsolved or after is None:
        fail("no plan can be made of it: " + ("; ".join(unsolved) or "what runs would be kept"), 3)
    found = proposal(situation, decision, situation.record.fleet, after)
    if output is not Format.table:
        data = {"version": 1, "plan": situation.world.plan.key, "mode": situation.spec.mode}
        print_value({**data, **json.loads(found.model_dump_json())}, output)
        return
    from servingplan.cli.show import console
    from servingplan.cli.show_live import proposal_view

    if found.hash == found.in_force:
        console().print(f"plan {found.hash} stays in force: nothing would change")
        return
    console().print(proposal_view(found))
    if situation.spec.mode == "Approve":
        console().print("mode is Approve: it would wait for approval")
    if situation.spec.mode == "Preview":
        console().print("mode is Preview: it would only be shown")


def status(name: Name, namespace: Namespace = "default", output: Output = Format.table) -> None:
    """Show a live plan as a table, with what is ready of it."""
    plan = _plan(_connect(), namespace, name)
    if output is not Format.table:
        print_value({"version": 1, "plan": f"{namespace}/{name}", "status": plan.get("status") or {}}, output)
        return
    from servingplan.cli.show import console
    from servingplan.cli.show_live import status_view

    console().print(status_view(plan))


def top(
    name: Name,
    namespace: Namespace = "default",
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, help="Time between two looks.")] = 2.0,
    output: Output = Format.table,
) -> None:
    """Show what the classes of a live plan get now, and what it costs, until Ctrl-C."""
    from servingplan.cli.show_live import top_data, top_view

    api = _connect()
    if output is not Format.table:
        if not once:
            fail(f"--output: {output.value!r}: needs --once: a table that changes has no such form")
        print_value(top_data(_plan(api, namespace, name)), output)
        return
    from servingplan.cli.show import console

    if once:
        console().print(top_view(_plan(api, namespace, name)))
        return
    import time

    from rich.live import Live

    try:
        with Live(top_view(_plan(api, namespace, name)), console=console(), auto_refresh=False) as shown:
            while True:
                time.sleep(interval)
                shown.update(top_view(_plan(api, namespace, name)), refresh=True)
    except KeyboardInterrupt:
        return


def approve(
    name: Name,
    namespace: Namespace = "default",
    wanted: Annotated[
        str | None, typer.Option("--hash", metavar="HASH", help="Approve only if the waiting plan has this hash.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Show what the waiting plan would change, and approve it: write its hash into the annotation servingplan.dev/approve."""
    from servingplan.errors import ApiError
    from servingplan.kube import PLANS
    from servingplan.model import names

    api = _connect()
    plan = _plan(api, namespace, name)
    found = plan.get("status") or {}
    if found.get("observedGeneration") != plan["metadata"].get("generation"):
        fail(f"the operator has not read the last edit of {namespace}/{name} yet; try again in some seconds")
    proposed = found.get("proposed")
    if not proposed:
        fail(f"no plan of {namespace}/{name} waits; servingplan status {name} -n {namespace} shows the one in force")
    if found.get("mode") != "Approve":
        fail(f"spec.mode: {found.get('mode')!r}: plans are only shown, not approved; set it to Approve")
    if wanted is not None and wanted != proposed["hash"]:
        fail(f"--hash: {wanted!r}: is not the hash of the waiting plan, which is {proposed['hash']}; look at it again")
    if output is Format.table:
        from servingplan.cli.show import console
        from servingplan.cli.show_live import proposed_view

        console().print(proposed_view(proposed, plan_hash=found.get("planHash")))
    patch = {"metadata": {"annotations": {names.APPROVE_ANNOTATION: proposed["hash"]}}}
    try:
        api.merge(PLANS, name, patch, manager=APPROVE_MANAGER, namespace=namespace)
    except ApiError as error:
        fail(f"the plan {namespace}/{name} cannot be written: {error}")
    if output is Format.table:
        typer.echo(f"approved plan {proposed['hash']}")
    else:
        print_value({"version": 1, "plan": f"{namespace}/{name}", "approved": proposed["hash"]}, output)


def history(name: Name, namespace: Namespace = "default", output: Output = Format.table) -> None:
    """Show the last plans that were taken into force, newest first, and why."""
    plan = _plan(_connect(), namespace, name)
    found = (plan.get("status") or {}).get("history") or []
    if output is not Format.table:
        print_value({"version": 1, "plan": f"{namespace}/{name}", "history": found}, output)
        return
    from servingplan.cli.show import console
    from servingplan.cli.show_live import history_view

    console().print(history_view(found))


def _connect() -> Kube:
    from servingplan.kube import Kube

    return Kube.connect()


def _plan(api: Kube, namespace: str, name: str) -> Json:
    """The plan object. Ends the command with one line if it cannot be read."""
    from servingplan.errors import ApiError, NotFound
    from servingplan.kube import PLANS

    try:
        return api.get(PLANS, name, namespace=namespace)
    except NotFound:
        no_plan(api, namespace, name)
    except ApiError as error:
        fail(f"the plan {namespace}/{name} cannot be read: {error}")
