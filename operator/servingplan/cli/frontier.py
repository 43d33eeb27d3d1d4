"""``servingplan frontier``: what a plan serves and costs over a range of budgets, of demand, or of a pool's stock."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.files import fail
from servingplan.cli.options import Deadline, PlanFile, ProfileFiles, WorldFile

if TYPE_CHECKING:
    from servingplan.frontier.frontier import Frontier, Point
    from servingplan.frontier.sweep import Sweep
    from servingplan.model.world import Observation


class Output(StrEnum):
    """The form of the output."""

    table = "table"
    json = "json"
    csv = "csv"


MIXED = "mixed"
"""The name of the plan's own curve beside those of single pools, in CSV."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("frontier")(frontier)


def frontier(
    plan_file: PlanFile,
    budget: Annotated[
        str | None, typer.Option(metavar="FROM:TO:POINTS", help="Budgets in $/h, such as 10:110:20.")
    ] = None,
    demand: Annotated[
        str | None, typer.Option(metavar="FROM:TO:POINTS", help="Factors on all rates, such as 0.5:2:16.")
    ] = None,
    stock: Annotated[
        str | None, typer.Option(metavar="POOL=FROM:TO", help="The most nodes of a pool, such as h100=0:8.")
    ] = None,
    world: WorldFile = None,
    profiles: ProfileFiles = None,
    deadline: Deadline = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="table, json or csv.")] = Output.table,
) -> None:
    """Show where more money stops helping, and what each kind of GPU is worth. Give one of the three ranges."""
    from servingplan.frontier.frontier import frontier as curve
    from servingplan.frontier.words import lines
    from servingplan.planning.situation import Situation

    sweep = _sweep(budget, demand, stock)
    situation = Situation(_seen(plan_file, world, profiles, sweep))
    if situation.acting is None:
        fail("\n       ".join(map(str, situation.spec_errors)))
    for finding in situation.row_findings:
        typer.echo(f"warning: {finding.message}", err=True)
    pools = len(situation.spec.node_pools)
    with _progress(len(sweep.values) * (1 + pools), sweep) as tell:
        found = curve(situation, sweep, deadline_seconds=deadline, on_point=tell)
    if output is Output.json:
        typer.echo(json.dumps(as_json(found, situation.world.plan.key), indent=1))
    elif output is Output.csv:
        _write_csv(found)
    else:
        from servingplan.cli.show import console

        console().print(_table(found))
        for line in lines(found):
            console().print(line, markup=False, soft_wrap=True)
    if all(point.dollars_per_hour is None for point in found.points):
        raise typer.Exit(3)


def as_json(found: Frontier, plan: str) -> dict[str, Any]:
    """The fields of the curve for JSON."""
    from servingplan.frontier.words import lines

    return {
        "version": 1,
        "plan": plan,
        "of": found.sweep.kind,
        **({"pool": found.sweep.pool} if found.sweep.pool else {}),
        "points": [asdict(point) for point in found.points],
        "homogeneous": {pool: [asdict(point) for point in points] for pool, points in found.homogeneous.items()},
        "remarks": list(lines(found)),
    }


def _sweep(budget: str | None, demand: str | None, stock: str | None) -> Sweep:
    from servingplan.frontier.sweep import budget_sweep, demand_sweep, stock_sweep

    ranges = ((budget, budget_sweep), (demand, demand_sweep), (stock, stock_sweep))
    given = [(text, read) for text, read in ranges if text is not None]
    if len(given) != 1:
        fail("give one of --budget FROM:TO:POINTS, --demand FROM:TO:POINTS and --stock POOL=FROM:TO")
    ((text, read),) = given
    return read(text)


def _seen(plan_file: str, world: str | None, profiles: list[str] | None, sweep: Sweep) -> Observation:
    """The world of the plan; under a range of stock, its pool may have as many nodes as the range ends at."""
    from servingplan.cli.files import read_plan, world_of_plan
    from servingplan.cli.imagine import imagined_world, with_profiles

    manifest = read_plan(plan_file)
    spec = manifest.get("spec")
    pools = spec.get("nodePools") if isinstance(spec, dict) else None
    if sweep.pool and isinstance(pools, list):
        named = [pool for pool in pools if isinstance(pool, dict) and pool.get("name") == sweep.pool]
        if not named:
            known = ", ".join(str(pool.get("name")) for pool in pools if isinstance(pool, dict))
            fail(f"--stock: {sweep.pool!r}: is none of spec.nodePools; give one of: {known}")
        for pool in named:
            pool["maxNodes"] = max(int(sweep.values[-1]), pool.get("minNodes") or 0)
    seen = imagined_world(manifest) if world is None else world_of_plan(world, manifest)
    return with_profiles(seen, profiles)


@contextmanager
def _progress(points: int, sweep: Sweep) -> Iterator[Callable[[str | None, Point], None]]:
    """Print points on standard error as they are found, above a progress bar on a terminal."""
    done = 0

    def line(pool: str | None, point: Point) -> str:
        nonlocal done
        done += 1
        value = f"{point.x:g} of {sweep.pool}" if sweep.kind == "stock" else f"{sweep.kind} {point.x:.6g}"
        what = "no plan"
        if point.dollars_per_hour is not None:
            what = f"{point.dollars_per_hour:.2f} $/h, {point.served:.4g} requests/s, {_gap(point)}"
        return f"{done}/{points} {'' if pool is None else f'{pool} alone, '}{value}: {what}"

    if not sys.stderr.isatty():
        yield lambda pool, point: typer.echo(line(pool, point), err=True)
        return
    from rich.progress import Progress

    from servingplan.cli.show import console

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("points", total=points)

        def show(pool: str | None, point: Point) -> None:
            bar.console.print(line(pool, point), markup=False)
            bar.advance(task)

        yield show


def _gap(point: Point) -> str:
    return "gap unknown" if point.gap is None else f"gap {point.gap:.2%}"


def _table(found: Frontier) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    headings = {"budget": "budget $/h", "demand": "times demand", "stock": f"nodes of {found.sweep.pool}"}
    table = Table(box=SIMPLE_HEAD, title_justify="left", title="The curve")
    for name in (headings[found.sweep.kind], "$/h", "requests/s", "served", "$/M tokens"):
        table.add_column(name, justify="right")
    table.add_column("nodes")
    table.add_column("gap", justify="right")
    for pool in found.homogeneous:
        table.add_column(f"{pool} alone", justify="right")
    for index, point in enumerate(found.points):
        alone = [_share(points[index]) for points in found.homogeneous.values()]
        nodes = ", ".join(f"{count} {pool}" for pool, count in point.nodes.items() if count)
        table.add_row(
            f"{point.x:.6g}",
            _number(point.dollars_per_hour, ".2f"),
            f"{point.served:.4g}",
            _share(point),
            _number(point.dollars_per_million_tokens, ".3f"),
            nodes or "none",
            "" if point.gap is None else f"{point.gap:.2%}",
            *alone,
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "no plan" if value is None and form == ".2f" else "" if value is None else format(value, form)


def _share(point: Point) -> str:
    return "no plan" if point.dollars_per_hour is None else f"{point.served_share:.1%}"


def _write_csv(found: Frontier) -> None:
    figures = ("x", "dollars_per_hour", "served", "served_share", "dollars_per_million_tokens", "gap")
    pools = list(found.points[0].nodes)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("fleet", *figures, *(f"nodes_{pool}" for pool in pools)))
    for fleet, points in ((MIXED, found.points), *found.homogeneous.items()):
        for point in points:
            values = asdict(point)
            cells = (values[name] for name in figures)
            table.writerow((fleet, *("" if cell is None else cell for cell in cells), *(point.nodes[p] for p in pools)))
