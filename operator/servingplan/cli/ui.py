"""``servingplan ui``: the pages of a cluster's plans, served read-only."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import typer

from servingplan.cli.files import fail
from servingplan.cli.options import CatalogueNamespace, NamespaceBudgets, Namespaces
from servingplan.model.names import words


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ui")(ui)


def ui(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Whoever reaches it sees the plans: put a login in front of it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    own_names: Annotated[
        str,
        typer.Option(
            help="Names under which visitors come, separated by commas; it answers to no others. `*`: every name. Empty: "
            "only localhost, which is refused for an address that other machines reach."
        ),
    ] = "",
    namespaces: Namespaces = "",
    pool_kinds: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_POOL_KINDS",
            help="Kinds of objects that plans may size, as for `run`. Empty: every kind.",
        ),
    ] = "",
    namespace_budgets: NamespaceBudgets = "",
    catalogue_namespace: CatalogueNamespace = "",
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Let visitors try other budgets and demands. Nothing is applied.")
    ] = False,
) -> None:
    """Serve the pages of a cluster's plans over HTTP. It only reads: it writes nothing and reads no secret."""
    from aiohttp import web

    from servingplan.kube import Kube
    from servingplan.observe.budgets import parse_budgets
    from servingplan.observe.cluster import Reader
    from servingplan.observe.demand import DemandReader
    from servingplan.observe.state import ClusterState
    from servingplan.observe.urls import UrlPolicy
    from servingplan.settings import SharedPrometheus
    from servingplan.ui.server import Ui

    names = names_of(host, own_names)
    budgets, kinds = parse_budgets(namespace_budgets), frozenset(words(pool_kinds))
    api = Kube.connect()
    state = ClusterState(api, namespaces=words(namespaces), catalogue_namespace=catalogue_namespace or None)
    state.start()
    if not state.wait_settled(SETTLE_SECONDS):
        state.stop()
        fail(f"the cluster was not read within {SETTLE_SECONDS:g} s; look whether it is reached: kubectl get lsp -A")
    urls = UrlPolicy(api, allowed_hosts=frozenset())  # whatever a plan names, only Services of its namespace are asked
    demand = DemandReader(urls=urls, shared=SharedPrometheus())
    demand.start()
    reader = Reader(api, state, pool_kinds=kinds or None, urls=urls, namespace_budgets=budgets, demand=demand)
    pages = Ui(lambda: state.snapshot().plans, reader.observe, what_if=what_if, own_names=names)
    typer.echo(f"http://{host}:{port}/", err=True)
    try:
        web.run_app(pages.application(), host=host, port=port, print=None, access_log=None)
    finally:
        reader.close()
        demand.close()
        state.stop()


LOCAL = frozenset({"localhost"})
"""The names of an address that only this machine can reach."""
SETTLE_SECONDS = 60.0
"""The longest time of the first reading of the cluster."""


def names_of(host: str, own_names: str) -> frozenset[str] | None:
    """The names to answer to; None for every name. Ends the command if other machines reach the address and no name is
    given: any web site could then read the pages through a name of its own (DNS rebinding)."""
    given = frozenset(name.lower() for name in words(own_names))
    if "*" in given:
        return None
    if not given and not is_loopback(host):
        fail(
            f"--host {host} can be reached from other machines: say by --own-names under which names, or '*' for every name"
        )
    return given or LOCAL


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
