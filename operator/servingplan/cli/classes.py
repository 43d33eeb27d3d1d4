"""``servingplan classes fit``: request classes from a log of requests."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from servingplan.cli.files import cause, fail, read_plan
from servingplan.cli.plan import Format, Output, print_value
from servingplan.cli.reading import SHOW_EVERY, opened, progress_bar

if TYPE_CHECKING:
    from servingplan.api.v1alpha1 import PlanSpec
    from servingplan.classes.tally import Tally
    from servingplan.model.hardware import GpuType
    from servingplan.model.llm import ModelCard
    from servingplan.planning.pools import Pool

REFERENCE_MODEL = "Llama-3.1-8B"
"""The model if neither a model nor a plan is named. The relative work of lengths differs little between models."""
REFERENCE_GPUS = ("L40S", "A100-SXM4-80GB", "H100-SXM-80GB", "H200-SXM-141GB")

app = typer.Typer(help="Request classes: propose them from a log of requests.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, name="classes")


@app.callback()
def _classes() -> None:
    """Request classes: propose them from a log of requests."""


@app.command("fit")
def fit(
    log: Annotated[
        str,
        typer.Option(
            "--from", metavar="FILE", help="Log of requests: CSV or JSON, plain or gzip; - is standard input."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Model to serve; default: the plan's, else {REFERENCE_MODEL}.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(metavar="K", min=1, max=32, help="Number of classes; default: as many as pay.")
    ] = None,
    most: Annotated[int, typer.Option(metavar="K", min=1, max=16, help="Largest number of classes to try.")] = 6,
    plan: Annotated[
        str | None, typer.Option(metavar="PLAN.yaml", help="Plan on whose pools each number of classes is priced.")
    ] = None,
    gpu: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="GPU type, may be repeated; default: the plan's.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Precision of the weights; default: the plan's, else bf16.")
    ] = None,
    log_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Count only requests to this model of the log.")
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(min=1e-6, help="Total rate; default: the log's, else the plan's, else 1.")
    ] = None,
    output_known: Annotated[
        bool, typer.Option("--output-known", help="Assume that requests declare their answers' length (max_tokens).")
    ] = False,
    output: Output = Format.table,
) -> None:
    """Propose classes that a gateway can tell apart. Say what fewer classes cost, and what bounds each class on each GPU."""
    from servingplan.classes.propose import priced, propose
    from servingplan.classes.tally import Tally

    target = _target(plan, model, precision, gpu or [])
    tally = Tally(output_known=output_known, only_model=log_model)
    kind = _read(log, tally)
    if not tally.cells:
        fail(_nothing(log, tally))
    rate = requests_per_second or tally.requests_per_second or target.requests_per_second
    found = propose(
        tally,
        model=target.card,
        precision=target.precision,
        gpus=target.gpus,
        most=max(most, classes or 1),
        requests_per_second=rate or 1.0,
    )
    if target.spec is not None:
        from servingplan.answering import solve_with

        with progress_bar("planning") as report:
            found = priced(
                found,
                spec=target.spec,
                pools=target.pools,
                model=target.model,
                solve=solve_with(),
                before_each=report,
            )
    chosen = min(classes - 1, len(found.fits) - 1) if classes else found.recommended
    from servingplan.cli.show_classes import as_data, as_view, in_plan

    if output is Format.table:
        from servingplan.cli.show import console

        console().print(as_view(kind, tally, found, chosen, rate_known=rate is not None))
    elif output is Format.yaml:
        typer.echo(f"# {found.fits[chosen].loss:.1%} of the work is planned wrongly with these classes")
        print_list({"classes": in_plan(found, chosen)})
    else:
        print_value(as_data(kind, tally, found, chosen, rate_known=rate is not None), output)


def print_list(value: Any) -> None:
    """Print a value as YAML, with its keys in their own order."""
    import yaml

    typer.echo(yaml.safe_dump(value, sort_keys=False, width=120), nl=False)


class _Target(NamedTuple):
    """The model, the GPUs and the plan that the classes are for."""

    model: str
    card: ModelCard
    precision: str
    gpus: list[GpuType]
    spec: PlanSpec | None = None
    pools: tuple[Pool, ...] = ()
    requests_per_second: float | None = None


def _target(plan_file: str | None, model: str | None, precision: str | None, gpus: list[str]) -> _Target:
    from servingplan.model.llm import UnknownPrecisionError, precision_of
    from servingplan.profiles.catalogue import find_gpu, find_model

    try:
        precision_of(precision or "bf16")
    except UnknownPrecisionError as error:
        fail(f"--precision: {error}")
    named = [find_gpu(name) for name in gpus]
    if plan_file is None:
        card = find_model(model or REFERENCE_MODEL)
        return _Target(card.name, card, precision or "bf16", named or [find_gpu(name) for name in REFERENCE_GPUS])
    from servingplan.cli.imagine import imagined_world
    from servingplan.planning.cards import cards_of
    from servingplan.planning.situation import Situation

    situation = Situation(imagined_world(read_plan(plan_file)))
    spec, pools = situation.spec, situation.pools
    names = [item.name for item in spec.models]
    if model is None and len(names) > 1:
        fail(f"--model: {plan_file} has several; name one of {', '.join(names)}")
    wanted = model or names[0]
    if wanted not in names:
        fail(f"--model: {wanted!r}: is not in {plan_file}; name one of {', '.join(names)}")
    cards, errors = cards_of(spec)
    if errors or situation.pool_errors:
        fail("\n       ".join(map(str, (*errors, *situation.pool_errors))))
    _, variant, card = next(item for item in cards if item[0].name == wanted)
    rate = sum((item.requests_per_second for item in spec.models[names.index(wanted)].classes), Decimal(0))
    found = {pool.gpu.name: pool.gpu for pool in pools if pool.gpu is not None}
    return _Target(
        model=wanted,
        card=card,
        precision=precision or variant.precision,
        gpus=named or [found[name] for name in sorted(found)],
        spec=spec,
        pools=pools,
        requests_per_second=float(rate) or None,
    )


def _nothing(log: str, tally: Tally) -> str:
    if tally.only_model is not None and tally.models:
        return f"--log-model: {tally.only_model!r}: {log} has requests to {', '.join(sorted(tally.models))}; name one"
    rows = "\n       ".join(map(str, tally.bad_examples))
    return f"{log}: no row contains a request" + (f":\n       {rows}" if rows else "; it has a header only")


def _read(log: str, tally: Tally) -> str:
    """Count the log into ``tally`` and return the name of its format."""
    from servingplan.classes.log import read_log

    try:
        with opened(log) as (chunks, progress):
            found = read_log(chunks, name=log)
            for number in tally.all_of(found.rows):
                if number % SHOW_EVERY == 0:
                    progress()
    except (OSError, EOFError) as error:
        fail(f"{log}: cannot be read: {cause(error)}; name a readable file, or - for standard input")
    return found.format
