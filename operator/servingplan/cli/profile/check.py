"""``servingplan profile check``: predictions against measurements that they must not use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from servingplan.cli.files import fail, read_text
from servingplan.errors import InputError

if TYPE_CHECKING:
    from servingplan.profiles.check import Condition, Line, Predicted
    from servingplan.profiles.measured import MeasuredRow, MeasuredRows


class Format(StrEnum):
    """The form of the output."""

    table = "table"
    markdown = "markdown"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    table: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.csv",
            help="Measurements to be predicted, as `profile measure` and `profile import` write them; - is standard "
            "input. Default: those of the package.",
        ),
    ] = None,
    output: Annotated[Format, typer.Option("-o", help="table, markdown or json.")] = Format.table,
) -> None:
    """Print the errors of predictions against measurements that they must not use, by what was known, and by card.

    Two groups of measurements in five (card, model, precision, tensor-parallel size) were set aside before anything was
    fitted. The judge part shows the expected errors, the fit part what the formulas can reach.
    """
    from servingplan.profiles.check import report
    from servingplan.profiles.measured import SHIPPED

    rows = SHIPPED.rows if table is None else _rows(table)
    lines = report(_predicted(rows, SHIPPED if table is None else SHIPPED.after(rows)))
    if output is Format.json:
        data = [{"part": line.part, "table": line.table, "name": line.name, **line.summary._asdict()} for line in lines]
        typer.echo(json.dumps({"version": 1, "lines": data}, indent=1))
    elif output is Format.markdown:
        typer.echo(markdown(lines))
    else:
        _print_tables(lines)


def markdown(lines: Iterable[Line]) -> str:
    """The report as Markdown tables: the figures of the fit part, then those of the judge part."""
    text = []
    for table, names in _by_table(lines):
        text += [f"| {table} | fit | error | p90 | bias | inside | judge | error | p90 | bias | inside | score |"]
        text += ["|---|---|---|---|---|---|---|---|---|---|---|---|"]
        for name, parts in names:
            cells = [cell for part in ("fit", "judge") for cell in _cells(parts.get(part))[:5]]
            text.append(f"| {name} | {' | '.join(cells)} | {_cells(parts.get('judge'))[5]} |")
        text.append("")
    return "\n".join(text).rstrip()


def _cells(line: Line | None) -> list[str]:
    if line is None:
        return [""] * 6
    found = line.summary
    return [
        f"{found.rows} ({found.groups})",
        f"{found.median_error:.1%}",
        f"{found.p90_error:.1%}",
        f"{found.bias:+.1%}",
        f"{found.inside:.0%}",
        f"{found.score / found.constant_score:.2f}" if found.constant_score else "",
    ]


def _by_table(lines: Iterable[Line]) -> Iterator[tuple[str, list[tuple[str, dict[str, Line]]]]]:
    """The tables in their order, each with its lines by name and part."""
    order: dict[str, dict[str, dict[str, Line]]] = {}
    for line in lines:
        order.setdefault(line.table, {}).setdefault(line.name, {})[line.part] = line
    for table, names in order.items():
        # A digit before a name is its position in the order.
        yield table, [(name.lstrip("12345 "), parts) for name, parts in sorted(names.items())]


def _print_tables(lines: Iterable[Line]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from servingplan.cli.show import console

    out = console()
    for table, names in _by_table(lines):
        shown = Table(box=SIMPLE_HEAD, title_justify="left", title=table[0].upper() + table[1:])
        shown.add_column("what was known")
        shown.add_column("part")
        for column in ("rows (groups)", "median error", "p90", "bias", "inside 80 %", "score"):
            shown.add_column(column, justify="right")
        for name, parts in names:
            for part in ("fit", "judge"):
                if part in parts:
                    shown.add_row(name, part, *_cells(parts[part]))
        out.print(shown)
    out.print("score: interval score of the bands over that of the best constant band of the table; below 1 is better")


def _rows(table: str) -> tuple[MeasuredRow, ...]:
    """The measurements of a file. Refused rows are reported and left out."""
    from servingplan.profiles.rows import measured, read_csv

    try:
        reading = read_csv(read_text(table))
    except InputError as error:
        fail(f"{table}: {error}")
    for refusal in reading.refused:
        typer.echo(f"{table}: {refusal}", err=True)
    found = tuple(row for item in reading.rows if (row := measured(item, table)) is not None)
    if not found:
        fail(f"{table}: no row can be predicted; give rows of saturated engines, closed loops or offered rates")
    return found


def _predicted(rows: Sequence[MeasuredRow], known: MeasuredRows) -> list[Predicted]:
    """The predictions of every row under every condition, with a progress bar on a terminal."""
    from servingplan.profiles.check import CONDITIONS, predictions

    conditions: Iterable[Condition] = CONDITIONS
    if sys.stderr.isatty():
        from rich.progress import track

        from servingplan.cli.show import console

        conditions = track(CONDITIONS, description="predicting", console=console(stderr=True), transient=True)
    return [item for condition in conditions for item in predictions(rows, known, (condition,))]
