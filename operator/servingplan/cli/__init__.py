"""The command line: the operator, and its commands without a cluster.

Every command calls the same pure functions as a live turn. A command imports the modules that are slow to load by itself, if
it needs them. Exit codes: 0 an answer, 2 wrong usage or input, 3 infeasible, 4 verification failed.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from servingplan.cli import (
    classes,
    cluster,
    doctor,
    emulate,
    emulated_gpus,
    explain,
    frontier,
    gateway,
    live,
    plan,
    profile,
    replay,
    report,
    solve,
    ui,
    uninstall,
)
from servingplan.errors import ServingPlanError

app = typer.Typer(
    name="servingplan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
plan.register(app)
explain.register(app)
frontier.register(app)
replay.register(app)
report.register(app)
ui.register(app)
solve.register(app)
cluster.register(app)
doctor.register(app)
live.register(app)
emulate.register(app)
emulated_gpus.register(app)
gateway.register(app)
classes.register(app)
profile.register(app)
uninstall.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"servingplan {version('servingplan')}")
        raise typer.Exit


@app.callback()
def options(
    shown: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Plan and run LLM serving on Kubernetes over scarce, mixed GPUs."""


@app.command()
def crd(output: Annotated[str, typer.Option("--output", "-o", help="File to write; - prints.")] = "-") -> None:
    """Print the CustomResourceDefinition, generated from the models of the API."""
    from pathlib import Path

    from servingplan.api.crd import crd_yaml

    if output == "-":
        sys.stdout.write(crd_yaml())
    else:
        Path(output).write_text(crd_yaml())


HELP_WIDTH = 160
"""Columns of the help where there is no terminal: so many that no name of an option is cut."""


def _widen_help() -> None:
    if "--help" in sys.argv and not sys.stdout.isatty():
        from typer import rich_utils

        rich_utils.MAX_WIDTH = rich_utils.MAX_WIDTH or HELP_WIDTH


def main() -> None:
    """Run the command line: the entry point of the console script."""
    _widen_help()
    try:
        app()
    except ServingPlanError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from error
