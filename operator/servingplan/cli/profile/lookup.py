"""``servingplan profile lookup``: the rate of one replica for requests of one length."""

from __future__ import annotations

import csv
import io
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.files import fail, read_text
from servingplan.errors import InputError

if TYPE_CHECKING:
    from servingplan.profiles.lookup import Answer

_REPLICA = "Replica"
_REQUESTS = "Requests"
_ENGINE = "Engine (as vLLM's options)"

_TOLD = 10
"""Numbers of rows without an answer that are named."""


class Format(StrEnum):
    """The form of the output."""

    table = "table"
    json = "json"
    csv = "csv"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("lookup")(lookup)


def lookup(
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Catalogue name or repository.", rich_help_panel=_REPLICA)
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Catalogue name or node label.", rich_help_panel=_REPLICA)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Precision of the weights; auto: what the model's name says.", rich_help_panel=_REPLICA),
    ] = None,
    tp: Annotated[int | None, typer.Option(help="Tensor parallel size; default 1.", rich_help_panel=_REPLICA)] = None,
    pp: Annotated[int | None, typer.Option(help="Pipeline parallel size; default 1.", rich_help_panel=_REPLICA)] = None,
    input_tokens: Annotated[
        int | None, typer.Option("--input", help="Prompt tokens.", rich_help_panel=_REQUESTS)
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option("--output", help="Answer tokens.", rich_help_panel=_REQUESTS)
    ] = None,
    ttft: Annotated[
        float | None, typer.Option(help="Limit, seconds to the first token.", rich_help_panel=_REQUESTS)
    ] = None,
    tpot: Annotated[
        float | None, typer.Option(help="Limit, seconds per further token.", rich_help_panel=_REQUESTS)
    ] = None,
    percentile: Annotated[
        float | None, typer.Option(help="Per cent of requests that keep the limits.", rich_help_panel=_REQUESTS)
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Number of requests that always run (closed loop).", rich_help_panel=_REQUESTS)
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm, sglang or tensorrt-llm; default vllm.", rich_help_panel=_ENGINE)
    ] = None,
    engine_version: Annotated[str | None, typer.Option(rich_help_panel=_ENGINE)] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="auto or fp8.", rich_help_panel=_ENGINE)] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(rich_help_panel=_ENGINE)] = None,
    max_num_seqs: Annotated[int | None, typer.Option(rich_help_panel=_ENGINE)] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(rich_help_panel=_ENGINE)] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            help="Default: as in a plan of this class, twice input and output, at most the model's limit; lengths vary, and "
            "a shorter context would cut long requests.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    expert_parallel: Annotated[bool | None, typer.Option("--expert-parallel", rich_help_panel=_ENGINE)] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.csv",
            help="One question a row, columns named as the options; what a row leaves empty is taken from the options. "
            "- is standard input. Ends with 2 where a row has no answer.",
        ),
    ] = None,
    output: Annotated[Format | None, typer.Option("-o", help="table, json or csv.")] = None,
) -> None:
    """Print rate, band and latencies of one replica, their source, and the settings that they hold for.

    Without a limit: the saturated rate. With --ttft or --tpot: the rate of open arrivals at which the percentile keeps
    them. With --concurrency: the closed-loop rate.
    """
    stated = {
        name: value
        for name, value in {
            "model": model,
            "gpu": gpu,
            "precision": precision,
            "tp": tp,
            "pp": pp,
            "input": input_tokens,
            "output": output_tokens,
            "ttft": ttft,
            "tpot": tpot,
            "percentile": percentile,
            "engine": engine,
            "engine_version": engine_version,
            "kv_cache_dtype": kv_cache_dtype,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "max_model_len": max_model_len,
            "expert_parallel": expert_parallel,
            "concurrency": concurrency,
        }.items()
        if value is not None
    }
    if rows is not None:
        _answer_rows(rows, stated, output or Format.csv)
        return
    from servingplan.profiles.lookup import CannotServeError, answer, parse_lookup

    try:
        found = answer(parse_lookup(stated))
    except CannotServeError as error:
        fail(str(error), 3)
    if output is Format.json:
        typer.echo(found.model_dump_json(indent=1))
    elif output is Format.csv:
        _write_csv([(({name: str(value) for name, value in stated.items()}), found)], list(stated))
    else:
        _print_table(found)


def _answer_rows(path: str, stated: dict[str, Any], output: Format) -> None:
    """Answer every row of a file; a row that cannot be answered says why."""
    reader = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff")))
    columns = list(reader.fieldnames or ())
    if not columns:
        fail(f"{path}: is empty; the first line names the columns, such as model,gpu,input,output")
    questions = [{name: value or "" for name, value in row.items() if name} for row in reader]
    if output is Format.table:
        fail("-o: 'table': many rows are printed as csv or json")
    answers = [(row, _answer_row(row, stated)) for row in _counted(questions)]
    if output is Format.csv:
        _write_csv(answers, columns)
    else:
        typer.echo(
            json.dumps(
                [
                    row | ({"error": found} if isinstance(found, str) else {"answer": found.model_dump(mode="json")})
                    for row, found in answers
                ],
                indent=1,
            )
        )
    refused = [number for number, (_, found) in enumerate(answers, 1) if isinstance(found, str)]
    if refused:
        shown = ", ".join(map(str, refused[:_TOLD])) + (", ..." if len(refused) > _TOLD else "")
        fail(f"{path}: {len(refused)} of {len(answers)} rows have no answer, but an error: row {shown}")


def _answer_row(row: dict[str, str], stated: dict[str, Any]) -> Answer | str:
    from servingplan.profiles.lookup import Lookup, answer, parse_lookup

    given = {name: text for name, text in row.items() if name in Lookup.model_fields and text.strip()}
    try:
        return answer(parse_lookup(stated | given))
    except InputError as error:
        return str(error)


def _counted(questions: list[dict[str, str]]) -> Any:
    """The rows, with a progress bar on a terminal."""
    if not sys.stderr.isatty():
        yield from questions
        return
    from rich.progress import track

    from servingplan.cli.show import console

    yield from track(questions, description="looking up", console=console(stderr=True), transient=True)


def _write_csv(answers: list[tuple[dict[str, str], Answer | str]], columns: list[str]) -> None:
    """Print the columns of the question, then the answer's fields. A field whose name is taken is ``answer_NAME``."""
    from servingplan.profiles.lookup import Answer

    named = {field: f"answer_{field}" if field in columns else field for field in (*Answer.model_fields, "error")}
    writer = csv.DictWriter(sys.stdout, [*columns, *named.values()], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row, found in answers:
        if isinstance(found, str):
            writer.writerow(row | {named["error"]: found})
            continue
        data = found.model_dump(mode="json")
        data |= {"evidence": "; ".join(found.evidence), "engine": json.dumps(data["engine"])}
        writer.writerow(row | {named[field]: value for field, value in data.items()})


def _print_table(found: Answer) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from servingplan.cli.show import console

    table = Table(box=SIMPLE_HEAD, show_header=False)
    table.add_row("requests/s", f"{found.requests_per_second:.4g}  (80 % within {found.low:.4g} to {found.high:.4g})")
    table.add_row("time to first token", _seconds(found.ttft_seconds, found.ttft_percentile_seconds))
    table.add_row("time per further token", _seconds(found.tpot_seconds, found.tpot_percentile_seconds))
    table.add_row("running requests", f"{found.concurrency:.4g}")
    table.add_row("source", found.source)
    for line in found.evidence:
        table.add_row("evidence", line)
    stated = {name: value for name, value in found.engine.items() if value not in (None, False, 0.0)}
    table.add_row("engine", ", ".join(f"{name} {value}" for name, value in stated.items()))
    console().print(table)


def _seconds(mean: float, percentile: float | None) -> str:
    return f"{mean:.4g} s mean" + ("" if percentile is None else f", {percentile:.4g} s at the percentile")
