"""``servingplan profile models``, ``gpus``, ``add-model``: the catalogue, its sources, and how to add to it."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from servingplan.cli.files import fail, read_text
from servingplan.errors import InputError
from servingplan.model.hardware import normalise_product

MODELS_KEY = "models.json"
"""The key of the rows of models in a ConfigMap."""


class Format(StrEnum):
    """The form of a list."""

    table = "table"
    json = "json"


class RowFormat(StrEnum):
    """The form of a row."""

    row = "row"
    configmap = "configmap"


Words = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Only names that contain this text.")]
Output = Annotated[Format, typer.Option("-o", help="table or json.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("models")(models)
    app.command("gpus")(gpus)
    app.command("add-model")(add_model)


def models(text: Words = None, output: Output = Format.table) -> None:
    """Print the known models and the sources of their figures. Any repository of a model is also its name."""
    from servingplan.profiles.catalogue import shipped

    catalogue = shipped()
    found = [
        {
            **{
                name: value
                for name, value in card.model_dump(mode="json").items()
                if value not in (None, 0, 1, False, [], ()) or name in ("kv_heads", "layers")
            },
            "aliases": list(card.aliases),
            "repositories": list(row.repositories),
            "source": row.source,
        }
        for row, card in zip(catalogue.models, catalogue.cards(), strict=True)
        if _matches(text, (row.name, *row.aliases, *row.repositories))
    ]
    _print(
        found,
        output,
        text,
        ("model", "weights", "active", "layers", "context", "repository"),
        lambda item: (
            item["name"],
            _billions(item["parameters"]),
            _billions(item.get("active_parameters")),
            str(item["layers"]),
            str(item.get("max_context_tokens", "")),
            next(iter(item["repositories"]), ""),
        ),
        "to add another model: servingplan profile add-model CONFIG.JSON",
    )


def gpus(text: Words = None, output: Output = Format.table) -> None:
    """Print the known GPUs and the sources of their figures. Node labels and clouds' names find them too."""
    from servingplan.profiles.catalogue import packaged_gpus, read_rows

    sources = {row["name"]: (row["source"], row["link"]) for row in read_rows("gpus.csv")}
    found = [
        {
            **{name: value for name, value in gpu.model_dump(mode="json").items() if value is not None},
            "link": sources[gpu.name][1],
            "source": sources[gpu.name][0],
        }
        for gpu in packaged_gpus()
        if _matches(text, (gpu.name, *gpu.aliases))
    ]
    _print(
        found,
        output,
        text,
        ("GPU", "GB", "GB/s", "bf16 TFLOP/s", "fp8", "fp4", "link"),
        lambda item: (
            item["name"],
            f"{item['memory_gb']:g}",
            f"{item['memory_bandwidth_gb_per_second']:g}",
            f"{item['bf16_dense_tflops']:g}",
            f"{item['fp8_dense_tflops']:g}" if item.get("fp8_dense_tflops") else "",
            f"{item['fp4_dense_tflops']:g}" if item.get("fp4_dense_tflops") else "",
            item["link"],
        ),
        "to add another GPU: give its figures in the plan (nodePools[].gpuSpec)",
    )


def add_model(
    path: Annotated[str, typer.Argument(metavar="CONFIG.JSON", help="The model's config.json; - is standard input.")],
    name: Annotated[
        str | None, typer.Option(help="Name in the catalogue; default: the repository's last part, else the folder's.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option(metavar="ORGANISATION/NAME", help="Repository of the weights.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Source of the file; default: its path.")] = None,
    assume_plain: Annotated[
        bool,
        typer.Option("--assume-plain", help="Assume that an unknown architecture is a plain decoder."),
    ] = False,
    config_map: Annotated[str, typer.Option(metavar="NAME", help="Name of the ConfigMap.")] = "servingplan-models",
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace: the operator's.")] = None,
    output: Annotated[RowFormat, typer.Option("-o", help="row or configmap.")] = RowFormat.row,
) -> None:
    """Print a model's config.json as a row of the catalogue; a summary is on standard error."""
    from servingplan.profiles.catalogue import Catalogue, ModelRow
    from servingplan.profiles.config_json import parse_config

    config = parse_config(read_text(path), where=path)
    named = name or (repository or str(config.get("_name_or_path") or "")).rstrip("/").rpartition("/")[2]
    if not named and path != "-":
        named = Path(path).resolve().parent.name if Path(path).name == "config.json" else Path(path).stem
    if not named:
        raise InputError("--name", None, "is required: neither the file nor --repository names the model")
    if repository is not None and len([part for part in repository.split("/") if part]) != 2:
        raise InputError("--repository", repository, "must be ORGANISATION/NAME")
    row = ModelRow(
        name=named,
        source=source or ("standard input" if path == "-" else path),
        config=config,
        repositories={repository: {}} if repository else {},
        assume_plain=assume_plain,
    )
    card = Catalogue([row]).cards()[0]
    typer.echo(f"{card.name}: {_told(card)}", err=True)
    data = row.model_dump(mode="json", exclude_defaults=True)
    if output is RowFormat.row:
        typer.echo(json.dumps(data, indent=1))
        return
    import yaml

    from servingplan.cli.profile.importing import lines_dumper
    from servingplan.model.names import CATALOGUE_LABEL

    metadata: dict[str, Any] = {"name": config_map} | ({} if namespace is None else {"namespace": namespace})
    metadata["labels"] = {CATALOGUE_LABEL: "models"}
    text = json.dumps([data], indent=1) + "\n"
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {MODELS_KEY: text}}
    sys.stdout.write(yaml.dump(manifest, Dumper=lines_dumper(), sort_keys=False, width=10_000))


def _told(card: Any) -> str:
    parts = [f"{_billions(card.parameters)} parameters"]
    if card.active_parameters:
        parts.append(
            f"{_billions(card.active_parameters)} of them for each token ({card.experts_per_token} of {card.experts} experts)"
        )
    parts.append(f"{card.layers} layers")
    parts.append(f"{card.kv_bytes_per_token() / 1024:.4g} KiB of KV cache a token")
    if card.max_context_tokens:
        parts.append(f"context {card.max_context_tokens}")
    if card.quantization:
        parts.append(f"weights quantised as {card.quantization}")
    return ", ".join(parts)


def _matches(text: str | None, names: tuple[str, ...]) -> bool:
    needle = normalise_product(text or "")
    return any(needle in normalise_product(name) for name in names)


def _billions(count: int | None) -> str:
    if not count:
        return ""
    return f"{count / 1e9:.3g} B" if count >= 1e9 else f"{count / 1e6:.3g} M"


def _print(
    found: list[dict[str, Any]], output: Format, text: str | None, columns: tuple[str, ...], cells: Any, advice: str
) -> None:
    if not found:
        fail(f"{text!r}: is in no name; {advice}")
    if output is Format.json:
        typer.echo(json.dumps(found, indent=1))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from servingplan.cli.show import console

    table = Table(box=SIMPLE_HEAD, caption=advice, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=True, justify="left" if number in (0, len(columns) - 1) else "right")
    for item in found:
        table.add_row(*cells(item))
    console().print(table)
