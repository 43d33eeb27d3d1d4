"""``servingplan run`` and ``servingplan world``: the commands that meet a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from servingplan.cli.files import fail
from servingplan.model.world import Observation


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("world")(world)


def run(
    namespaces: Annotated[
        str, typer.Option(envvar="SERVINGPLAN_NAMESPACES", help="Namespaces to look after, by comma. Empty: all.")
    ] = "",
    pool_kinds: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_POOL_KINDS",
            help="Kinds of objects that plans may size, as Kind.group, by comma.",
        ),
    ] = "NodePool.karpenter.sh",
    catalogue_namespace: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_CATALOGUE_NAMESPACE",
            help="Namespace whose ConfigMaps with the label servingplan.dev/catalogue add models, GPUs, prices. Empty: none.",
        ),
    ] = "",
    period_seconds: Annotated[
        float, typer.Option(envvar="SERVINGPLAN_PERIOD_SECONDS", min=1, help="Longest time between two turns.")
    ] = 15.0,
    liveness_address: Annotated[
        str, typer.Option(envvar="SERVINGPLAN_LIVENESS_ADDRESS", help="HOST:PORT of the health endpoint. Empty: none.")
    ] = "0.0.0.0:8080",
    metrics_address: Annotated[
        str, typer.Option(envvar="SERVINGPLAN_METRICS_ADDRESS", help="HOST:PORT of the metrics. Empty: none.")
    ] = "0.0.0.0:8081",
    lease_namespace: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_LEASE_NAMESPACE",
            help="Namespace of the Leases that let one operator act at a time. Empty: act without.",
        ),
    ] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every turn, and what kopf does too.")] = False,
) -> None:
    """Run the operator with the pod's service account, or else with the user's kubeconfig."""
    import logging
    import os
    import socket
    import uuid

    from servingplan.answering import solve_with
    from servingplan.cycle import Turns
    from servingplan.handlers.plan import run as run_operator
    from servingplan.kube import Api
    from servingplan.observe.cluster import Reader
    from servingplan.settings import Settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("servingplan").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("kopf").setLevel(logging.INFO if verbose else logging.WARNING)
    solve = solve_with()

    def make_turns(api: Api, reader: Reader):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return lambda namespace, name, metrics: Turns(
            api=api, reader=reader, solve=solve, namespace=namespace, name=name, metrics=metrics
        )

    settings = Settings(
        namespaces=tuple(_words(namespaces)),
        pool_kinds=frozenset(_words(pool_kinds)),
        catalogue_namespace=catalogue_namespace,
        period_seconds=period_seconds,
        liveness_address=liveness_address,
        metrics_address=metrics_address,
        lease_namespace=lease_namespace,
        identity=f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}",
    )
    run_operator(settings, make_turns)


def world(
    name: Annotated[str, typer.Argument(help="Name of the plan.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "default",
    catalogue_namespace: Annotated[
        str, typer.Option(envvar="SERVINGPLAN_CATALOGUE_NAMESPACE", help="Namespace of the operator's catalogues.")
    ] = "",
) -> None:
    """Print what a turn of a live plan sees, its plan in force included, for `servingplan plan --world`."""
    typer.echo(observed(namespace, name, catalogue_namespace).model_dump_json(indent=1))


def observed(namespace: str, name: str, catalogue_namespace: str = "") -> Observation:
    """What a turn of a live plan would see now. Ends the command where it cannot be read."""
    from servingplan.errors import ApiError
    from servingplan.kube import Kube
    from servingplan.observe.cluster import Reader
    from servingplan.observe.demand import DemandReader
    from servingplan.observe.state import ClusterState

    api = Kube.connect()
    state = ClusterState(api, namespaces=(namespace,), catalogue_namespace=catalogue_namespace or None)
    state.load()
    reader = Reader(api, state, pool_kinds=None, demand=DemandReader())
    try:
        seen = reader.observe(namespace, name)
    except ApiError as error:
        fail(f"the plan {namespace}/{name} cannot be read: {error}")
    finally:
        reader.close()
    if seen is None:
        fail(f"there is no plan {name} in namespace {namespace}; list them with kubectl get lsp -A")
    return seen


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
