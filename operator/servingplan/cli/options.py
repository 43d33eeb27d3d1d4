"""Options that several commands have in common, each with its one description."""

from __future__ import annotations

from typing import Annotated

import typer

PlanFile = Annotated[
    str, typer.Argument(metavar="PLAN.yaml", help="File with one LLMServingPlan; - is standard input.")
]
AnyPlanFile = Annotated[
    str | None, typer.Argument(metavar="[PLAN.yaml]", help="File with one LLMServingPlan; - is standard input.")
]
"""The file of commands that can read a plan from the cluster instead."""
LivePlan = Annotated[
    str | None, typer.Option("--live", metavar="NAME", help="The name of a plan in the cluster, instead of a file.")
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")]
WorldFile = Annotated[
    str | None, typer.Option("--world", metavar="WORLD.json", help="What a live turn saw (servingplan world).")
]
ProfileFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profiles",
        metavar="FILE",
        help="Measured rates: rows (CSV), or a ConfigMap of spec.profiles (YAML). May be repeated.",
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0.1, help="Stop after this time and say so; default: only work limits."),
]

# Settings of the installation. `servingplan run` gets them from the chart, by environment variables.
Namespaces = Annotated[
    str, typer.Option(envvar="SERVINGPLAN_NAMESPACES", help="Namespaces of plans, separated by commas. Empty: all.")
]
PoolKinds = Annotated[
    str,
    typer.Option(
        envvar="SERVINGPLAN_POOL_KINDS",
        help="Kinds of objects that plans may size, as Kind.group, separated by commas.",
    ),
]
Site = Annotated[
    str,
    typer.Option(
        envvar="SERVINGPLAN_SITE",
        help="URL of the documentation as a site, whose pages are then named. Empty: explain names their files, messages none.",
    ),
]
CatalogueNamespace = Annotated[
    str,
    typer.Option(
        envvar="SERVINGPLAN_CATALOGUE_NAMESPACE",
        help="Namespace whose ConfigMaps with the label servingplan.dev/catalogue add models, GPUs, prices. Empty: none.",
    ),
]
NamespaceBudgets = Annotated[
    str,
    typer.Option(
        envvar="SERVINGPLAN_NAMESPACE_BUDGETS",
        help="Dollars per hour that all plans of a namespace may spend together, as NAMESPACE=DOLLARS, by comma; * stands "
        "for all others.",
    ),
]
