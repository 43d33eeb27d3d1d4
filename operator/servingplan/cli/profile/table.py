"""``servingplan profile table``: rate per dollar and latency times price over cards, classes and shapes.

After Figures 3 and 4 of Jiang et al., "Demystifying Cost-Efficiency in LLM Serving over Heterogeneous GPUs", ICML 2025.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.files import fail
from servingplan.cli.profile.measure import parse_classes
from servingplan.errors import InputError
from servingplan.model.names import words

if TYPE_CHECKING:
    from rich.console import RenderableType

    from servingplan.model.hardware import GpuType
    from servingplan.model.llm import ModelCard

NINE_TYPES = ["2455:18,2455:253,2455:510,496:18,496:253,496:510,824:18,824:253,824:510"]
"""Workload types of Jiang et al., Figure 4."""

Cell = dict[str, Any]


class Format(StrEnum):
    """The form of the output."""

    table = "table"
    json = "json"
    csv = "csv"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("table")(table)


def table(
    model: Annotated[str, typer.Option(metavar="NAME", help="Catalogue name or repository.")],
    gpu: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="GPU types, repeated or separated by commas; default: all with a price."),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GPU=DOLLARS",
            help="Price of one GPU hour, instead of the shipped one. Repeated or separated by commas.",
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUT:OUTPUT", help="As in measure; default: the nine types of the paper."),
    ] = None,
    shapes: Annotated[
        str | None, typer.Option(metavar="TPxPP,...", help="Shapes; default: all that the model's heads allow.")
    ] = None,
    gpus_per_replica: Annotated[int, typer.Option(min=1, max=64, help="Most GPUs of a replica.")] = 8,
    precision: Annotated[
        str, typer.Option(help="Precision of the weights; auto: what the model's name says.")
    ] = "auto",
    ttft: Annotated[float | None, typer.Option(help="Limit, seconds to the first token.")] = None,
    tpot: Annotated[float | None, typer.Option(help="Limit, seconds per further token.")] = None,
    percentile: Annotated[float, typer.Option(help="Per cent of requests that keep the limits.")] = 95.0,
    engine: Annotated[str, typer.Option(help="vllm, sglang or tensorrt-llm.")] = "vllm",
    every_shape: Annotated[
        bool,
        typer.Option(
            "--every-shape", help="Print a line for each shape (Figure 4), not only for each GPU's best one (Figure 3)."
        ),
    ] = False,
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="Write bars too: .svg, .html or .txt.")] = None,
    output: Annotated[Format, typer.Option("-o", help="table, json or csv.")] = Format.table,
) -> None:
    """Print requests per dollar, and latency times price, of every shape on every GPU for every class.

    A replica costs its GPUs' price. Without --price this is the newest shipped price, named with its date. Latency is the
    mean time from arrival to the last token at that rate.
    """
    from servingplan.profiles.catalogue import find_gpu, find_model

    card = find_model(model)
    stated = _prices(price or [])
    named = [item for text in gpu or () for item in words(text)] or list(stated)
    shipped, notes = _shipped_prices()
    cards = [find_gpu(name) for name in named or shipped]
    prices = shipped | stated
    for name in stated:
        if all(item.name != name for item in cards):
            typer.echo(
                f"warning: --price: {name}: is not in this table, so its price plays no part; add --gpu {name}",
                err=True,
            )
    for item in cards:
        if item.name not in prices:
            fail(f"--price: {item.name}: has no price; give --price {item.name}=DOLLARS")
    for item in cards:
        if item.name not in stated:
            typer.echo(notes[item.name], err=True)
    cells = _cells(
        model,
        cards,
        prices,
        classes or NINE_TYPES,
        _shapes(shapes, card, gpus_per_replica),
        {
            "precision": precision,
            "ttft": ttft,
            "tpot": tpot,
            "percentile": percentile,
            "engine": engine,
        },
    )
    if output is Format.json:
        typer.echo(json.dumps(cells, indent=1))
    elif output is Format.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
    else:
        from servingplan.cli.show import console

        console().print(_view(cells, every_shape=every_shape))
    if plot is not None:
        from servingplan.cli.profile.plot import save

        save(_bars(cells, every_shape=every_shape), plot)
    if all(cell["error"] for cell in cells):
        fail(f"no shape serves any class: {cells[0]['error']}", 3)


COLUMNS = (
    "gpu",
    "tp",
    "pp",
    "class",
    "input",
    "output",
    "dollars_per_hour",
    "requests_per_second",
    "low",
    "high",
    "requests_per_dollar",
    "latency_seconds",
    "latency_times_price",
    "ttft_seconds",
    "tpot_seconds",
    "source",
    "error",
)
"""``requests_per_dollar``: rate over price. ``latency_times_price``: seconds times dollars per hour, lower is better."""


def _prices(texts: list[str]) -> dict[str, float]:
    """The dollars per GPU hour by the catalogue's name of the GPU, in the given order."""
    from servingplan.profiles.catalogue import find_gpu

    found: dict[str, float] = {}
    for text in (item for part in texts for item in words(part)):
        name, _, dollars = text.rpartition("=")
        try:
            amount = float(dollars)
        except ValueError:
            amount = math.nan
        if not name or not math.isfinite(amount) or amount <= 0:
            raise InputError("--price", text, "must be GPU=DOLLARS, such as H100-SXM-80GB=2.99")
        found[find_gpu(name.strip()).name] = amount
    return found


def _shipped_prices() -> tuple[dict[str, float], dict[str, str]]:
    """The published dollars per GPU hour by GPU, and a note with date and source for each."""
    from servingplan.profiles.additions import price_of, shipped_prices
    from servingplan.profiles.catalogue import packaged_gpus

    prices: dict[str, float] = {}
    notes: dict[str, str] = {}
    for gpu in packaged_gpus():
        found = price_of(shipped_prices(), gpu, "OnDemand")
        if found is not None and found.dollars_per_gpu_hour > 0:
            prices[gpu.name] = found.dollars_per_gpu_hour
            notes[gpu.name] = f"{gpu.name}: {found.dollars_per_gpu_hour:g} $/h as of {found.as_of} ({found.source})"
    return prices, notes


def _shapes(text: str | None, card: ModelCard, most: int) -> list[tuple[int, int]]:
    from servingplan.profiles.estimate import divisible_shapes

    if text is None:
        # Nodes hold 1, 2, 4 or 8 GPUs: other sizes leave GPUs over.
        return [(tp, pp) for tp, pp in divisible_shapes(card, most) if not (tp & (tp - 1) or pp & (pp - 1))]
    found = []
    for item in text.split(","):
        tp, _, pp = item.strip().lower().partition("x")
        if not tp.isdigit() or not (pp or "1").isdigit() or int(tp) < 1 or int(pp or 1) < 1:
            raise InputError("--shapes", item, "must be TP or TPxPP, such as 2x1")
        found.append((int(tp), int(pp or 1)))
    return found


def _cells(
    model: str,
    gpus: list[GpuType],
    prices: dict[str, float],
    classes: list[str],
    shapes: list[tuple[int, int]],
    options: dict[str, Any],
) -> list[Cell]:
    """The cells: one for each GPU, class and shape."""
    from servingplan.profiles.lookup import answer, parse_lookup

    cells: list[Cell] = []
    for gpu in gpus:
        for lengths in parse_classes(classes):
            for tp, pp in shapes:
                dollars = prices[gpu.name] * tp * pp
                cell: Cell = dict.fromkeys(COLUMNS, None) | {
                    "gpu": gpu.name,
                    "tp": tp,
                    "pp": pp,
                    "class": lengths.name,
                    "input": lengths.input_tokens,
                    "output": lengths.output_tokens,
                    "dollars_per_hour": round(dollars, 6),
                    "error": "",
                }
                replica = {"model": model, "gpu": gpu.name, "tp": tp, "pp": pp}
                tokens = {"input": lengths.input_tokens, "output": lengths.output_tokens}
                question = parse_lookup({**replica, **tokens, **options})
                try:
                    found = answer(question)
                except InputError as error:
                    cell["error"] = str(error)
                else:
                    latency = found.ttft_seconds + (lengths.output_tokens - 1) * found.tpot_seconds
                    cell |= {
                        "requests_per_second": found.requests_per_second,
                        "low": found.low,
                        "high": found.high,
                        "requests_per_dollar": found.requests_per_second * 3600 / dollars,
                        "latency_seconds": latency,
                        "latency_times_price": latency * dollars,
                        "ttft_seconds": found.ttft_seconds,
                        "tpot_seconds": found.tpot_seconds,
                        "source": found.source,
                    }
                cells.append(cell)
    return cells


def _lines(cells: list[Cell], *, every_shape: bool, by: str, lower: bool) -> dict[str, dict[str, Cell]]:
    """The cells by line (a GPU's best shape, or each shape) and class."""
    lines: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        shape = f"TP{cell['tp']}" + (f"xPP{cell['pp']}" if cell["pp"] > 1 else "")
        line = lines.setdefault(f"{cell['gpu']} {shape}" if every_shape else cell["gpu"], {})
        best = line.get(cell["class"])
        if cell["error"]:
            continue
        if best is None or (cell[by] < best[by] if lower else cell[by] > best[by]):
            line[cell["class"]] = cell | {"shape": shape}
    return lines


_FIGURES = (
    ("requests_per_dollar", "Requests per dollar", False),
    ("latency_times_price", "Latency times price, s x $/h (lower is better)", True),
)


def _view(cells: list[Cell], *, every_shape: bool) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    names = list(dict.fromkeys(cell["class"] for cell in cells))
    views = []
    for by, title, lower in _FIGURES:
        lines = _lines(cells, every_shape=every_shape, by=by, lower=lower)
        best = {
            name: (min if lower else max)((line[name][by] for line in lines.values() if name in line), default=None)
            for name in names
        }
        view = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
        view.add_column("GPU", no_wrap=True)
        for name in names:
            view.add_column(name, justify="right", no_wrap=True)
        for label, line in lines.items():
            view.add_row(label, *(_word(line.get(name), by, best[name], every_shape=every_shape) for name in names))
        views.append(view)
    return Group(*views)


def _word(cell: Cell | None, by: str, best: float | None, *, every_shape: bool) -> str:
    if cell is None:
        return "-"
    text = f"{cell[by]:.3g}" if cell[by] < 1000 else f"{cell[by]:.0f}"
    text += "" if every_shape else f" {cell['shape']}"
    return f"{text}*" if cell[by] == best else text


def _bars(cells: list[Cell], *, every_shape: bool) -> RenderableType:
    """The view of both figures as bars, with one group per class."""
    from rich.console import Group

    from servingplan.cli.profile.plot import bars

    views = []
    for by, title, lower in _FIGURES:
        lines = _lines(cells, every_shape=every_shape, by=by, lower=lower)
        for name in dict.fromkeys(cell["class"] for cell in cells):
            rows = []
            for label, line in lines.items():
                cell = line.get(name)
                words = (label, cell["shape"] if cell else "none", f"{cell[by]:.4g}" if cell else "")
                rows.append((words, cell[by] if cell else math.nan))
            views.append(bars(f"{title}: {name}", ("GPU", "shape", ""), rows))
    return Group(*views)
