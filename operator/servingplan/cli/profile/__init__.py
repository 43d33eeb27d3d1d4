"""``servingplan profile``: the rate of one replica, and its source.

Each command has a module with a ``register``, which adds it to the group:

    lookup.py      rate, band, latencies of one replica; or of every row of a file
    table.py       rate per dollar and latency times price over cards, classes and shapes
    catalogue.py   the known models and GPUs; a config.json as a row
    measure.py     a running server's rates and times, as rows
    importing.py   results of other programs' benchmarks as rows for plans
    check.py       the errors of such answers against measurements
"""

from __future__ import annotations

import typer

from servingplan.cli.profile import catalogue, check, importing, lookup, measure, table

app = typer.Typer(help="The rate of one replica, and its source.", no_args_is_help=True)


@app.callback()
def _profile() -> None:
    """The rate of one replica, and its source."""


lookup.register(app)
table.register(app)
catalogue.register(app)
measure.register(app)
importing.register(app)
check.register(app)


def register(parent: typer.Typer) -> None:
    """Add the command group."""
    parent.add_typer(app, name="profile")
