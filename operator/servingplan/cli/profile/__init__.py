"""``servingplan profile``: what one replica does, and how that is known.

One module a command, each with a ``register`` that adds it to the group:

    lookup.py      rate, band, latencies of one replica; or of every row of a file
    table.py       rate per dollar and latency times price over cards, classes and shapes
    catalogue.py   the models and GPUs that are known; a config.json as a row
    measure.py     a running server's rates and times, as rows
    importing.py   results of other programs' benchmarks as rows that plans count on
    check.py       how far such answers are from measurements
"""

from __future__ import annotations

import typer

from servingplan.cli.profile import catalogue, check, importing, lookup, measure, table

app = typer.Typer(help="What one replica does, and how that is known.", no_args_is_help=True)


@app.callback()
def _profile() -> None:
    """What one replica does, and how that is known."""


lookup.register(app)
table.register(app)
catalogue.register(app)
measure.register(app)
importing.register(app)
check.register(app)


def register(parent: typer.Typer) -> None:
    """Add the group."""
    parent.add_typer(app, name="profile")
