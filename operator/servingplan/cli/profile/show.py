"""Shows rows of measurements as tables for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

if TYPE_CHECKING:
    from servingplan.profiles.rows import Row


def rows_view(rows: Iterable[Row]) -> RenderableType:
    """The view of rows, with one line per measurement."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("model", "GPU", "precision", "shape", "input:output", "load"):
        table.add_column(name, no_wrap=True)
    for name in ("requests/s", "TTFT s", "TPOT ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note")
    for row in rows:
        table.add_row(
            row.model,
            row.gpu,
            row.precision,
            f"TP{row.tp}" + (f"xPP{row.pp}" if row.pp > 1 else ""),
            f"{row.input:.4g}:{row.output:.4g}",
            row.load,
            f"{row.requests_per_second:.4g}",
            "" if row.ttft_seconds is None else f"{row.ttft_seconds:.3g}",
            "" if row.tpot_seconds is None else f"{row.tpot_seconds * 1e3:.3g}",
            row.note,
        )
    return table
