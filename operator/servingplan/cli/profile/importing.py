"""``servingplan profile import``: results of benchmarks as rows for plans."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.files import fail, read_text
from servingplan.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from servingplan.profiles.rows import Row

_FILL = "What the file does not say"


class Format(StrEnum):
    """The form of rows."""

    csv = "csv"
    json = "json"
    configmap = "configmap"
    table = "table"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import")(import_)


def import_(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Results of benchmarks; - is standard input.")],
    model: Annotated[
        str | None,
        typer.Option(help="Catalogue name or repository, instead of the file's name.", rich_help_panel=_FILL),
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="GPU type.", rich_help_panel=_FILL)] = None,
    precision: Annotated[str | None, typer.Option(help="Precision of the weights.", rich_help_panel=_FILL)] = None,
    tp: Annotated[int | None, typer.Option(min=1, help="Tensor parallel size.", rich_help_panel=_FILL)] = None,
    pp: Annotated[int | None, typer.Option(min=1, help="Pipeline parallel size.", rich_help_panel=_FILL)] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm, sglang or tensorrt-llm; default vllm.", rich_help_panel=_FILL)
    ] = None,
    engine_version: Annotated[str | None, typer.Option(rich_help_panel=_FILL)] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(rich_help_panel=_FILL)] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(rich_help_panel=_FILL)] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, rich_help_panel=_FILL)] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, rich_help_panel=_FILL)] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1, rich_help_panel=_FILL)] = None,
    name: Annotated[str, typer.Option(help="Name of the ConfigMap.")] = "measured-rates",
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace.")] = None,
    output: Annotated[Format, typer.Option("-o", help="csv, json, configmap or table.")] = Format.csv,
) -> None:
    """Read results of vLLM's benchmark, GuideLLM, aiperf, genai-perf, aiconfigurator, or rows of our own.

    Impossible rows are refused by number and reason, and the rest is printed; the exit code is then 2. Apply the
    ConfigMap (-o configmap) in a plan's namespace and name it in the plan's spec.profiles.
    """
    from servingplan.profiles.formats import read_results
    from servingplan.profiles.rows import read_fields

    options = {
        "gpu": gpu,
        "precision": precision,
        "tp": tp,
        "pp": pp,
        "engine": engine,
        "engine_version": engine_version,
        "kv_cache_dtype": kv_cache_dtype,
        "gpu_memory_utilization": gpu_memory_utilization,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_model_len": max_model_len,
    }
    stated = {option: value for option, value in options.items() if value is not None}
    fields: list[dict[str, Any]] = []
    origins: list[tuple[str, int]] = []
    for path in files:
        try:
            found = read_results(read_text(path))
        except InputError as error:
            fail(f"{path}: {error}")
        for number, row in enumerate(found.fields, 1):
            known = {column: value for column, value in row.items() if value not in (None, "")}
            fields.append(stated | known | ({} if model is None else {"model": model}))
            origins.append((path, number))
    reading = read_fields(fields)
    for refusal in reading.refused:
        path, number = origins[refusal.number - 1]
        typer.echo(f"error: {path}: row {number}: {refusal.reason}", err=True)
    if reading.rows:
        print_rows(reading.rows, output, name=name, namespace=namespace)
    if reading.refused or not reading.rows:
        total = len(reading.rows) + len(reading.refused)
        fail(f"{len(reading.refused)} of {total} rows were refused; {len(reading.rows)} were imported")


def print_rows(rows: Iterable[Row], output: Format, *, name: str, namespace: str | None) -> None:
    """Print rows on standard output."""
    from servingplan.model.names import PROFILES_LABEL
    from servingplan.profiles.rows import ROWS_KEY, write_csv

    rows = list(rows)
    if output is Format.csv:
        typer.echo(write_csv(rows), nl=False)
    elif output is Format.json:
        data = [{key: value for key, value in row.model_dump().items() if value not in (None, "")} for row in rows]
        typer.echo(json.dumps(data, indent=1))
    elif output is Format.configmap:
        import yaml

        metadata: dict[str, Any] = {"name": name} | ({} if namespace is None else {"namespace": namespace})
        metadata["labels"] = {PROFILES_LABEL: "measured"}
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {ROWS_KEY: write_csv(rows)}}
        typer.echo(yaml.dump(manifest, Dumper=lines_dumper(), sort_keys=False, width=10_000), nl=False)
    else:
        from servingplan.cli.profile.show import rows_view
        from servingplan.cli.show import console

        console().print(rows_view(rows))


def lines_dumper() -> Any:
    """A YAML dumper that writes a file as lines, not as one string with escapes."""
    import yaml

    class Lines(yaml.SafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Lines.add_representer(str, text)
    return Lines
