"""``servingplan gateway-sync``: what runs beside an Envoy."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gateway-sync")(gateway_sync)


def gateway_sync(
    config_map: Annotated[str, typer.Option(envvar="SERVINGPLAN_CONFIG_MAP", help="The plan's routing ConfigMap.")],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", envvar="SERVINGPLAN_NAMESPACE", help="Its namespace.")
    ] = "default",
    directory: Annotated[Path, typer.Option(help="Folder to keep, at the same path in Envoy's container.")] = Path(
        "/etc/envoy/routing"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where Envoy listens.")] = 8080,
    admin_port: Annotated[int, typer.Option(min=1, max=65535, help="Envoy's admin endpoint, on loopback.")] = 9901,
) -> None:
    """Keep Envoy's files by the routing ConfigMap and the replicas that are ready, within milliseconds of a change."""
    import logging

    from servingplan.gateway.folder import Folder
    from servingplan.gateway.sync import Sync
    from servingplan.kube import Kube
    from servingplan.render.envoy import Place

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sync = Sync(
        api=Kube.connect(),
        namespace=namespace,
        config_map=config_map,
        place=Place(folder=str(directory), port=port, admin_port=admin_port),
        folder=Folder(directory),
    )
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sync.stop())
    sync.run()
