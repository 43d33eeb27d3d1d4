"""``servingplan gateway-sync``, which runs beside an Envoy, and ``servingplan gateway-files`` for other gateways."""

from __future__ import annotations

import json
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from servingplan.cli.files import fail, read_text


class Gateway(StrEnum):
    """The gateway that the files are for."""

    envoy = "envoy"
    nginx = "nginx"
    haproxy = "haproxy"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("gateway-sync")(gateway_sync)
    app.command("gateway-files")(gateway_files)


def gateway_sync(
    config_map: Annotated[str, typer.Option(envvar="SERVINGPLAN_CONFIG_MAP", help="The plan's routing ConfigMap.")],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", envvar="SERVINGPLAN_NAMESPACE", help="Its namespace.")
    ] = "default",
    directory: Annotated[Path, typer.Option(help="Folder to keep, at the same path in Envoy's container.")] = Path(
        "/etc/envoy/routing"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on which Envoy listens.")] = 8080,
    admin_port: Annotated[int, typer.Option(min=1, max=65535, help="Envoy's admin endpoint, on loopback.")] = 9901,
    stats_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port where Prometheus finds Envoy's counters; 0: none.")
    ] = 9902,
) -> None:
    """Keep Envoy's files up to date with the routing ConfigMap and the ready replicas, within milliseconds of a change."""
    import logging

    from servingplan.gateway_sync.folder import Folder
    from servingplan.gateway_sync.sync import Sync
    from servingplan.kube import Kube
    from servingplan.routing.envoy import Place

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sync = Sync(
        api=Kube.connect(),
        namespace=namespace,
        config_map=config_map,
        place=Place(folder=str(directory), port=port, admin_port=admin_port, stats_port=stats_port or None),
        folder=Folder(directory),
    )
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sync.stop())
    sync.run()


def gateway_files(
    routing: Annotated[str, typer.Argument(metavar="ROUTING.json", help="A routing document; - is standard input.")],
    gateway: Annotated[Gateway, typer.Option(help="The gateway that the files are for.")],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Namespace of the plan's Services. Default: the plan's.")
    ] = "",
    directory: Annotated[Path | None, typer.Option(help="Folder to write to. Without it, print.")] = None,
) -> None:
    """Write or print a gateway's files, from a routing document (key routing.json of the routing ConfigMap)."""
    document = _document(routing)
    where = namespace or document["plan"].partition("/")[0]
    files = _files(document, gateway, where)
    for name, text in files.items():
        if directory is None:
            typer.echo(text if len(files) == 1 else f"# {name}\n{text}", nl=False)
        else:
            try:
                (directory / name).write_text(text)
            except OSError as error:
                fail(
                    f"--directory: {str(directory)!r}: cannot be written to: {error.strerror}; name an existing folder"
                )
            typer.echo(str(directory / name), err=True)


def _document(path: str) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path))
    except ValueError as error:
        fail(f"{path}: not JSON: {error}")
    lacks = [
        key
        for key in ("plan", "revision", "services", "models")
        if not isinstance(document, dict) or key not in document
    ]
    if lacks:
        fail(
            f"{path}: not a routing document: {', '.join(lacks)} is not there; give the key routing.json of the ConfigMap"
        )
    return dict(document)


def _files(document: dict[str, Any], gateway: Gateway, namespace: str) -> dict[str, str]:
    match gateway:
        case Gateway.envoy:
            from servingplan.routing.envoy import envoy_files

            return envoy_files(document, namespace=namespace)
        case Gateway.nginx:
            from servingplan.routing import nginx

            return {nginx.FILE: nginx.nginx_file(document, namespace=namespace)}
        case Gateway.haproxy:
            from servingplan.routing import haproxy

            return {haproxy.FILE: haproxy.haproxy_file(document, namespace=namespace)}
