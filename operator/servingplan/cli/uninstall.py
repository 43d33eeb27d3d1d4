"""``servingplan uninstall``: removes plans from the cluster, also if no operator is left to retire them.

A plan has a finalizer, so that its replicas and pools are given back before it is gone. Normally an operator takes these steps.
If none runs, this command takes the operator's Lease, so that none starts meanwhile, and then the same steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.files import fail

if TYPE_CHECKING:
    from servingplan.kube import Api, Kube
    from servingplan.metrics.exporter import PlanMetrics
    from servingplan.observe.cluster import Reader
    from servingplan.observe.state import ClusterState

LOOK_SECONDS = 25.0
"""The longest wait for the Lease. If nobody renews it, it is free after 10 s; so after this time an operator holds it."""
POLL_SECONDS = 1.0
MOST_NAMED = 10
"""How many plans a message names."""
PERIOD_SECONDS = 15.0
"""The longest time between two steps of a retirement; changes in the cluster start one at once."""
MANAGER = "servingplan-uninstall"
PLANS_LEFT = 3
"""The exit code of ``--check`` where there are plans."""
Json = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("uninstall")(uninstall)


def uninstall(
    namespace: Annotated[
        list[str] | None, typer.Option("--namespace", "-n", help="Remove the plans of this namespace; may be repeated.")
    ] = None,
    everywhere: Annotated[bool, typer.Option("--all", help="Remove the plans of all namespaces.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    abandon: Annotated[
        bool,
        typer.Option(
            "--abandon",
            help="Delete the plans at once: pools keep their size and their claim, and no replica is drained.",
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Remove nothing; fail if plans are there. The chart asks this before it is uninstalled."
        ),
    ] = False,
    # What the chart adds to a refusal, since it alone knows the release.
    refused: Annotated[str, typer.Option(envvar="SERVINGPLAN_REFUSED", hidden=True)] = "",
    lease_namespace: Annotated[
        str,
        typer.Option(envvar="SERVINGPLAN_LEASE_NAMESPACE", help="Namespace of the operator's Leases. Empty: none."),
    ] = "kube-system",
) -> None:
    """Delete plans, give back their pools as their deletionPolicy says, and clear their finalizers.

    It first prints what will happen, and asks. If an operator runs, it retires the plans, and this command waits. If none runs,
    this command takes the steps itself, with the rights of the caller. Afterwards the chart and the CRD can be removed.
    """
    import logging

    from servingplan.errors import NotFound
    from servingplan.kube import Kube

    if bool(namespace) == everywhere:
        fail("name the namespaces with --namespace, or give --all")
    namespaces = tuple(sorted(set(namespace or ())))
    api = Kube.connect()
    try:
        plans = _plans(api, namespaces)
    except NotFound:
        typer.echo("The cluster knows no LLMServingPlan: nothing to do.")
        return
    if not plans:
        typer.echo(f"There is no plan in {', '.join(namespaces) or 'any namespace'}. {_next_steps()}")
        return
    if check:
        fail("\n".join(filter(None, (_left_behind(namespaces, plans), refused))), code=PLANS_LEFT)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("servingplan.lease").setLevel(logging.WARNING)
    with _leading(api, lease_namespace, namespaces) as rival:
        _tell(api, namespaces, plans, rival, abandon=abandon)
        if not yes:
            typer.confirm("Go on?", abort=True)
        if abandon:
            for plan in plans:
                api.delete(_resource(), plan["metadata"]["name"], uid=_uid(plan), namespace=_namespace(plan))
                _let_go(api, plan)
        elif rival:
            _delete(api, plans)
            _wait_until_gone(api, plans)
        else:
            _delete(api, plans)
            _retire(api, namespaces, plans)
    gone = "1 plan is gone" if len(plans) == 1 else f"{len(plans)} plans are gone"
    typer.echo(f"{gone}. {_next_steps()}")


def _left_behind(namespaces: tuple[str, ...], plans: list[Json]) -> str:
    """What happens to these plans if their operator goes, and what to do before."""
    from servingplan.model.names import FINALIZER

    named = ", ".join(f"{_namespace(plan)}/{plan['metadata']['name']}" for plan in plans[:MOST_NAMED])
    more = f" and {len(plans) - MOST_NAMED} more" if len(plans) > MOST_NAMED else ""
    chosen = "".join(f" -n {one}" for one in namespaces) or " --all"
    return (
        f"plans are left: {named}{more}. Only an operator retires them: without one, their node pools stay rented, and the "
        f"plans and their namespaces cannot be deleted, because of the finalizer {FINALIZER}.\n"
        f"Let them go first:  servingplan uninstall{chosen}"
    )


def _next_steps() -> str:
    return (
        "Next: helm uninstall the release. The CRD stays, with any other plan; to remove it too: "
        "kubectl delete crd llmservingplans.servingplan.dev"
    )


@contextlib.contextmanager
def _leading(api: Kube, lease_namespace: str, namespaces: tuple[str, ...]) -> Iterator[str]:
    """A context that holds the operator's Lease. It yields the name of the operator that holds the Lease instead; empty if none
    does."""
    import os
    import socket
    import uuid

    from servingplan.kube import Kube
    from servingplan.lease import Keeper, Lease

    if not lease_namespace:
        yield ""
        return
    identity = f"uninstall-{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    lease = Lease(Kube.connect(), namespace=lease_namespace, namespaces=namespaces, identity=identity)
    # Another operator may act from now on: end the steps that are under way together with the process.
    keeper = Keeper(lease, lost=lambda: os._exit(1))
    typer.echo("Looking for a running operator ...")
    keeper.start()
    try:
        if keeper.wait(LOOK_SECONDS):
            api.may_write = lambda: lease.held
            yield ""
        else:
            yield lease.waiting_for or "another operator"
    finally:
        keeper.stop()


def _resource() -> Any:
    from servingplan.kube import PLANS

    return PLANS


def _plans(api: Api, namespaces: tuple[str, ...]) -> list[Json]:
    """The plans of these namespaces; of all where none is named."""
    chosen: Sequence[str | None] = namespaces or (None,)
    return [plan for one in chosen for plan in api.list(_resource(), namespace=one)]


def _namespace(plan: Json) -> str:
    return str(plan["metadata"]["namespace"])


def _uid(plan: Json) -> str:
    return str(plan["metadata"]["uid"])


def _tell(api: Kube, namespaces: tuple[str, ...], plans: list[Json], rival: str, *, abandon: bool) -> None:
    """Print what will happen."""
    from servingplan.decide.retirement import retire
    from servingplan.observe.state import ClusterState
    from servingplan.planning.situation import Situation

    if abandon:
        typer.echo("The plans are deleted at once. Their Deployments end without a drain, and this stays as it is:")
    elif rival:
        typer.echo(f"An operator runs, {rival}. It retires the plans, and this command waits for it:")
    else:
        typer.echo("No operator runs. This command retires the plans itself:")
    state = ClusterState(api, namespaces=namespaces, catalogue_namespace=None)
    state.load()
    with _observing(api, state) as reader:
        for plan in plans:
            name = plan["metadata"]["name"]
            policy = (plan.get("spec") or {}).get("deletionPolicy") or "ScaleToFloor"
            typer.echo(f"  {_namespace(plan)}/{name} ({policy})")
            world = reader.observe(_namespace(plan), name)
            if world is None:
                continue
            step = retire(Situation(world))
            pools = [item.spoken for item in world.pools if item.claimed_by == world.plan.key]
            if policy == "Retain" and not abandon:
                typer.echo("    everything that it made stays; no operator manages it any more")
            for left in step.left if policy != "Retain" or abandon else ():
                typer.echo(f"    {left}")
            for pool in pools:
                typer.echo(f"    {pool} {'keeps its claim' if abandon else 'is released'}")


@contextlib.contextmanager
def _observing(api: Kube, state: ClusterState) -> Iterator[Reader]:
    """A reader that sees what ``state`` does, and asks no Prometheus: a retirement needs no rates."""
    from servingplan.observe.cluster import Reader
    from servingplan.observe.demand import DemandReader
    from servingplan.observe.state import Overlaid
    from servingplan.observe.urls import UrlPolicy
    from servingplan.settings import SharedPrometheus

    urls = UrlPolicy(api, allowed_hosts=None)
    demand = DemandReader(urls=urls, shared=SharedPrometheus())
    reader = Reader(
        Overlaid(api, state), state, pool_kinds=None, urls=urls, namespace_budgets={}, pod_access=None, demand=demand
    )
    try:
        yield reader
    finally:
        reader.close()


def _delete(api: Api, plans: list[Json]) -> None:
    """Delete the plans, each held by its finalizer: one that lost it would be gone before its pools are given back."""
    from servingplan.errors import NotFound
    from servingplan.model.names import FINALIZER

    for plan in plans:
        metadata = plan["metadata"]
        held = [*(metadata.get("finalizers") or ())]
        with contextlib.suppress(NotFound):
            if FINALIZER not in held and "deletionTimestamp" not in metadata:
                change = {"metadata": {"uid": _uid(plan), "finalizers": [*held, FINALIZER]}}
                api.merge(_resource(), metadata["name"], change, manager=MANAGER, namespace=_namespace(plan))
            api.delete(_resource(), metadata["name"], uid=_uid(plan), namespace=_namespace(plan))


def _let_go(api: Api, plan: Json) -> None:
    """Remove our finalizer from a plan; those of others stay."""
    from servingplan.errors import NotFound
    from servingplan.model.names import FINALIZER

    name, namespace = plan["metadata"]["name"], _namespace(plan)
    with contextlib.suppress(NotFound):
        found = api.get(_resource(), name, namespace=namespace)["metadata"]
        held = found.get("finalizers") or []
        if found["uid"] != _uid(plan) or FINALIZER not in held:
            return
        others = [item for item in held if item != FINALIZER]
        change = [
            {"op": "test", "path": "/metadata/finalizers", "value": held},
            {"op": "replace", "path": "/metadata/finalizers", "value": others},
        ]
        api.json_patch(_resource(), name, change, manager=MANAGER, namespace=namespace)
        if others:
            typer.echo(f"{namespace}/{name} stays until other finalizers are removed: {', '.join(others)}")


def _wait_until_gone(api: Api, plans: list[Json]) -> None:
    """Wait until an operator has retired the plans. Print what is left whenever that changes."""
    from servingplan.errors import NotFound

    waiting, told = list(plans), ""
    while True:
        still = []
        for plan in waiting:
            with contextlib.suppress(NotFound):
                found = api.get(_resource(), plan["metadata"]["name"], namespace=_namespace(plan))
                if _uid(found) == _uid(plan):
                    still.append(found)
        waiting = still
        if not waiting:
            return
        lines = []
        for plan in waiting:
            left = ((plan.get("status") or {}).get("retirement") or {}).get("left") or ["its operator"]
            lines.append(f"  {_namespace(plan)}/{plan['metadata']['name']} waits for {', '.join(left)}")
        if (text := "\n".join(lines)) != told:
            typer.echo(text)
            told = text
        time.sleep(POLL_SECONDS)


def _retire(api: Kube, namespaces: tuple[str, ...], plans: list[Json]) -> None:
    """Take the operator's own steps until nothing is left to do, then remove each plan's finalizer."""
    import asyncio

    from servingplan.loop import Alarm, Loop, UnderWay
    from servingplan.metrics.exporter import Exporter
    from servingplan.observe.state import ClusterState, Overlaid
    from servingplan.reconcile import Turns

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a retirement solves nothing")

    async def work() -> None:
        alarm = Alarm(asyncio.get_running_loop())
        state = ClusterState(api, namespaces=namespaces, catalogue_namespace=None, changed=alarm.ring)
        state.start()

        def turns(namespace: str, name: str, metrics: PlanMetrics) -> Turns:
            seen = Overlaid(api, state)
            return Turns(api=seen, reader=reader, solve=never, namespace=namespace, name=name, metrics=metrics)

        async def one(plan: Json) -> None:
            await loop.retire(namespace=_namespace(plan), name=plan["metadata"]["name"], uid=_uid(plan))
            await asyncio.to_thread(_let_go, api, plan)
            typer.echo(f"{_namespace(plan)}/{plan['metadata']['name']} is gone")

        with _observing(api, state) as reader:
            loop = Loop(
                alarm=alarm,
                turns=turns,
                exporter=Exporter(),
                period_seconds=PERIOD_SECONDS,
                settled=state.wait_settled,
                under_way=UnderWay(),
            )
            try:
                await asyncio.gather(*(one(plan) for plan in plans))
            finally:
                state.stop()

    asyncio.run(work())
