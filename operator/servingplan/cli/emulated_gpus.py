"""``servingplan emulate-gpus``: GPUs that nodes do not have, for emulated engines."""

from __future__ import annotations

from typing import Annotated, Any

import typer

FIELD_MANAGER = "servingplan-emulate-gpus"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("emulate-gpus")(emulate_gpus)


def emulate_gpus(
    count: Annotated[int, typer.Option(min=0, help="GPUs of every node; 0 removes them.")] = 4,
    resource: Annotated[
        str, typer.Option(help="The resource that counts them, which a plan's pool has as resourceName.")
    ] = "nvidia.com/gpu.emulated",
) -> None:
    """Give every node without GPUs this number of emulated ones, for `servingplan emulate` as a plan's engine.

    They are a number in the node's status, as a device plugin writes it. A node with a taint that keeps ordinary pods away
    gets none.
    """
    from servingplan.cli.files import fail
    from servingplan.kube import NODES, Kube
    from servingplan.model import names

    if not names.is_gpu_resource(resource) or resource == names.GPU_RESOURCE:
        fail(f"--resource: {resource} is not a name for emulated GPUs; use one such as nvidia.com/gpu.emulated")
    api = Kube.connect()
    given = 0
    for node in api.list(NODES):
        name = str(node["metadata"]["name"])
        if why := _left_out(node, resource):
            typer.echo(f"{name}: left out, {why}")
            continue
        amount = str(count) if count else None  # null removes the key (RFC 7396)
        status = {"status": {"capacity": {resource: amount}, "allocatable": {resource: amount}}}
        api.merge(NODES, name, status, manager=FIELD_MANAGER, subresource="status")
        given += 1
        typer.echo(f"{name}: {count} {resource}")
    if not given:
        fail("no node can have emulated GPUs")


def _left_out(node: dict[str, Any], resource: str) -> str:
    """Why a node gets no emulated GPUs; empty if it gets them."""
    from servingplan.observe.parse import node_of

    found = node_of(node)
    if real := [
        name for name in found.gpu_resources or ({"GPUs": found.gpus} if found.gpus else {}) if name != resource
    ]:
        return f"it has {', '.join(real)}"
    taints = [taint.get("key", "") for taint in (node.get("spec") or {}).get("taints") or () if _keeps_away(taint)]
    return f"it has the taint {', '.join(taints)}" if taints else ""


def _keeps_away(taint: dict[str, Any]) -> bool:
    return taint.get("effect") in ("NoSchedule", "NoExecute")
