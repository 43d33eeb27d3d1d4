"""``servingplan profile measure``: the rates of a running server, as rows for plans."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.files import fail, read_plan
from servingplan.cli.profile.importing import Format, print_rows
from servingplan.errors import InputError
from servingplan.model.names import words

if TYPE_CHECKING:
    import asyncio

    from rich.console import RenderableType

    from servingplan.measure.sweep import Lengths, Limits, Point, Sweep
    from servingplan.profiles.rows import Row

_REPLICA = "Replica, as in the rows"
_LIMITS = "Limits, for each class"

NO_KNEE = 3
"""The exit code if the knee of some class was not found; the measured rows are printed anyway."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("measure")(measure)


def measure(
    url: Annotated[str, typer.Option(metavar="URL", help="Server with OpenAI's API, such as http://localhost:8000.")],
    classes: Annotated[
        list[str],
        typer.Option(
            metavar="INPUT:OUTPUT",
            help="Tokens of prompt and answer, NAME=INPUT:OUTPUT to name a class, by comma or repeated; "
            "or a plan's file, for its classes.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model to ask for; default: the server's only model.")
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model in the catalogue, if --model is not.", rich_help_panel=_REPLICA),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="GPU type. Required.", rich_help_panel=_REPLICA)
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Precision of the weights; auto: what the model's name says.", rich_help_panel=_REPLICA)
    ] = "auto",
    tp: Annotated[int, typer.Option(min=1, help="Tensor parallel size.", rich_help_panel=_REPLICA)] = 1,
    pp: Annotated[int, typer.Option(min=1, help="Pipeline parallel size.", rich_help_panel=_REPLICA)] = 1,
    engine: Annotated[str, typer.Option(help="vllm, sglang or tensorrt-llm.", rich_help_panel=_REPLICA)] = "vllm",
    engine_version: Annotated[str | None, typer.Option(rich_help_panel=_REPLICA)] = None,
    kv_cache_dtype: Annotated[str, typer.Option(rich_help_panel=_REPLICA)] = "auto",
    gpu_memory_utilization: Annotated[float | None, typer.Option(rich_help_panel=_REPLICA)] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, rich_help_panel=_REPLICA)] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, rich_help_panel=_REPLICA)] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1, rich_help_panel=_REPLICA)] = None,
    max_requests: Annotated[int, typer.Option(min=50, rich_help_panel=_LIMITS)] = 4000,
    max_seconds: Annotated[float, typer.Option(min=1, rich_help_panel=_LIMITS)] = 1800.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens of prompts and answers together.", rich_help_panel=_LIMITS)
    ] = 20_000_000,
    requests_per_load: Annotated[
        int, typer.Option(min=30, help="Requests at each rate below the knee.", rich_help_panel=_LIMITS)
    ] = 300,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Most requests at the same time.", rich_help_panel=_LIMITS)
    ] = 2048,
    stall_seconds: Annotated[
        float,
        typer.Option(min=0.1, help="Silence after which the measuring of this server ends.", rich_help_panel=_LIMITS),
    ] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of arrivals and prompts.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Ask /v1/chat/completions, not /v1/completions.")] = False,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", show_envvar=True, help="Key that is sent as a bearer token.")
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="Write the plot too: .svg, .html or .txt.")] = None,
    name: Annotated[str, typer.Option(help="Name of the ConfigMap (-o configmap).")] = "measured-rates",
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace.")] = None,
    output: Annotated[Format, typer.Option("-o", help="csv, json, configmap or table.")] = Format.csv,
) -> None:
    """Find the rate at which a server is full, and its times below, with Poisson arrivals at rising rates.

    Prints rows in the form that `servingplan profile import` reads. Ctrl-C ends the measuring and keeps the rows so far.
    """
    from servingplan.measure.sweep import Limits
    from servingplan.profiles.rows import Row

    wanted = parse_classes(classes)
    replica = {
        "gpu": gpu or "",
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
    limits = Limits(max_requests, max_seconds, max_tokens, requests_per_load, max_in_flight)
    if gpu is None:
        raise InputError(
            "--gpu",
            None,
            "is required, since rows of an unknown GPU cannot be used; servingplan profile gpus lists the names",
        )

    def row_of(asked: str, fields: dict[str, Any]) -> Row:
        from servingplan.profiles.rows import read_fields

        # A trial row first: a name that is not known must not cost an hour of measuring.
        reading = read_fields([{**replica, "model": card or asked, **fields}])
        if not reading.rows and fields.get("requests_per_second") == _TRIAL_RATE:
            raise InputError("replica", card or asked, reading.refused[0].reason)
        if reading.rows:
            return reading.rows[0]
        row = Row.model_validate({**replica, "model": card or asked, **fields})
        return row.model_copy(update={"note": "; ".join(filter(None, (row.note, reading.refused[0].reason)))})

    import asyncio

    asked, sweeps = asyncio.run(
        _measure_all(
            url, model, wanted, limits, seed, key=api_key, chat=chat, stall_seconds=stall_seconds, check=row_of
        )
    )
    source = f"servingplan profile measure, {url}, seed {seed}"
    rows = [
        row_of(asked, {**_figures(point), "source": f"{source}, {found.lengths.name}"})
        for found in sweeps
        for point in found.points
    ]
    view = sweeps_view(sweeps)
    if plot is not None:
        from servingplan.cli.profile.plot import save

        save(view, plot)
    if output is Format.table:
        from servingplan.cli.show import console

        console().print(view)
    elif rows:
        print_rows(rows, output, name=name, namespace=namespace)
    for found in sweeps:
        if found.stopped:
            typer.echo(
                f"error: {found.lengths.name}: {found.stopped}; {len(found.points)} loads were measured", err=True
            )
        elif found.knee is None:
            typer.echo(f"error: {found.lengths.name}: no knee was found", err=True)
    if any(found.knee is None for found in sweeps) or len(sweeps) < len(wanted):
        raise typer.Exit(NO_KNEE)


_TRIAL_RATE = 1e-6


def parse_classes(texts: list[str]) -> list[Lengths]:
    """The classes in these texts, or those of a plan's file.

    Raises:
        InputError: a class is not INPUT:OUTPUT in tokens.
    """
    from servingplan.measure.sweep import Lengths

    found: list[Lengths] = []
    for text in texts:
        if text.endswith((".yaml", ".yml")) or Path(text).is_file():
            found += _classes_of_plan(text)
            continue
        for item in words(text):
            name, _, lengths = item.rpartition("=")
            before, _, after = lengths.partition(":")
            if not (before.isdigit() and after.isdigit() and int(before) and int(after)):
                raise InputError(
                    "--classes", item, "must be INPUT:OUTPUT or NAME=INPUT:OUTPUT, in tokens, such as 512:128"
                )
            found.append(Lengths(name or lengths, int(before), int(after)))
    if not found:
        raise InputError("--classes", ", ".join(texts), "name at least one, such as 512:128")
    return found


def _classes_of_plan(path: str) -> list[Lengths]:
    from servingplan.api.parse import parse_spec
    from servingplan.measure.sweep import Lengths

    spec, errors = parse_spec(read_plan(path).get("spec"))
    if spec is None:
        fail("\n       ".join(str(error) for error in errors))
    several = len(spec.models) > 1
    return [
        Lengths(f"{model.name}/{item.name}" if several else item.name, item.input_tokens, item.output_tokens)
        for model in spec.models
        for item in model.effective_classes
    ]


async def _measure_all(
    url: str,
    model: str | None,
    wanted: list[Lengths],
    limits: Limits,
    seed: int,
    *,
    key: str | None,
    chat: bool,
    stall_seconds: float,
    check: Callable[[str, dict[str, Any]], Row],
) -> tuple[str, list[Sweep]]:
    """The model's name, and the results of each class until the server failed or the user stopped."""
    import asyncio

    import aiohttp

    from servingplan.measure.request import Endpoint
    from servingplan.measure.sweep import sweep

    stopped = asyncio.Event()
    sweeps: list[Sweep] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        endpoint = Endpoint(url, model or "", session, key=key, chat=chat, stall_seconds=stall_seconds)
        if not url.startswith(("http://", "https://")):
            raise InputError("--url", url, "must begin with http:// or https://")
        if model is None:
            listed = await endpoint.models()
            if len(listed) != 1:
                raise InputError("--model", None, f"the server has {', '.join(listed) or 'none'}; name one")
            endpoint.model = listed[0]
        for lengths in wanted:
            trial = {"input": lengths.input_tokens, "output": lengths.output_tokens, "requests_per_second": _TRIAL_RATE}
            check(endpoint.model, trial)
        with _interruptible(stopped), _progress(len(wanted)) as report:
            for number, lengths in enumerate(wanted):
                try:
                    found = await sweep(
                        endpoint, lengths, limits, seed=seed, stopped=stopped, report=report(number, lengths.name)
                    )
                except InputError:
                    if not sweeps:
                        raise
                    break
                sweeps.append(found)
                if found.stopped and not found.stopped.startswith("ended by --"):
                    break
    return endpoint.model, sweeps


@contextmanager
def _interruptible(stopped: asyncio.Event) -> Iterator[None]:
    """Let Ctrl-C end the measuring, not the command."""
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, stopped.set)
    except (NotImplementedError, ValueError, RuntimeError):
        # This platform or thread has no signal handlers: Ctrl-C ends the command.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def _progress(classes: int) -> Iterator[Callable[[int, str], Callable[[str, int, int], None]]]:
    """A progress bar on a terminal; elsewhere one line for each load."""
    if not sys.stderr.isatty():
        told: set[tuple[int, str]] = set()

        def line(number: int, name: str) -> Callable[[str, int, int], None]:
            def tell(what: str, _done: int, _all: int) -> None:
                if (number, what) not in told:
                    told.add((number, what))
                    typer.echo(f"{name} ({number + 1} of {classes}): {what}", err=True)

            return tell

        yield line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from servingplan.cli.show import console

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(number: int, name: str) -> Callable[[str, int, int], None]:
            label = f"{name} ({number + 1} of {classes})"
            return lambda what, done, all_of: bar.update(
                task, description=f"{label}: {what}", completed=done, total=all_of
            )

        yield show


def _figures(point: Point) -> dict[str, Any]:
    """The fields of a row for a point."""
    from servingplan.measure.figures import PERCENTILES, mean, percentile

    fields: dict[str, Any] = {
        "input": round(point.prompt_tokens, 1),
        "output": round(point.answer_tokens, 1),
        "offered_requests_per_second": None if point.offered is None else point.offered.value,
        "requests_per_second": point.completed.value,
        "requests_per_second_low": point.completed.low or None,
        "requests_per_second_high": point.completed.high if point.completed.low else None,
        "requests": point.requests,
        "note": point.note,
    }
    for metric, values in (("ttft", point.ttft), ("tpot", point.tpot)):
        if values:
            fields[f"{metric}_seconds"] = mean(values).value
            for share in PERCENTILES:
                fields[f"{metric}_p{share}_seconds"] = percentile(values, share)
    return fields


def sweeps_view(sweeps: list[Sweep]) -> RenderableType:
    """The view of the results: one table and one bar chart per class."""
    from rich.console import Group

    from servingplan.cli.profile.plot import bars
    from servingplan.measure.figures import mean, percentile

    def times(values: tuple[float, ...], unit: float) -> tuple[str, str]:
        if not values:
            return "", ""
        found = mean(values)
        width = f" ±{(found.high - found.low) / 2 * unit:.2g}" if found.low else ""
        return f"{found.value * unit:.3g}{width}", f"{percentile(values, 95) * unit:.3g}"

    views = []
    for found in sweeps:
        lengths = found.lengths
        knee = found.knee
        at = "no knee was found" if knee is None else f"the knee is at {_interval(knee)} requests/s"
        title = f"{lengths.name}: {lengths.input_tokens} input, {lengths.output_tokens} output tokens; {at}"
        if found.stopped:
            title += f"; {found.stopped}"
        rows = []
        for point in sorted(found.points, key=lambda item: item.completed.value):
            offered = "full" if point.offered is None else f"{point.offered.value:.4g}"
            ttft = mean(point.ttft).value if point.ttft else float("nan")
            words = (offered, _interval(point), *times(point.ttft, 1.0), *times(point.tpot, 1e3), str(point.requests))
            rows.append((words, ttft))
        columns = ("offered/s", "completed/s", "TTFT s", "p95", "TPOT ms", "p95", "requests")
        views.append(bars(title, columns, rows))
    return Group(*views)


def _interval(point: Point) -> str:
    found = point.completed
    return f"{found.value:.4g}" + (f" ±{(found.high - found.low) / 2:.2g}" if found.low else "")
