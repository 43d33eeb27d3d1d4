"""What a turn knows of models, GPUs and prices: the shipped catalogue, and what the installation and the plan add to it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from servingplan.model.decision import Finding
from servingplan.model.hardware import GpuType
from servingplan.model.readings import SeenCatalogue, SeenModelConfig
from servingplan.model.world import Observation
from servingplan.profiles.additions import Price, read_gpus, read_models, read_prices
from servingplan.profiles.catalogue import Catalogue, ModelRow, shipped

CONDITION = "ProfilesAvailable"
MOST_TOLD = 5
"""The most rows of one turn that a condition names; the others are counted."""


class Known(NamedTuple):
    """The additions that were read, combined with the shipped catalogue."""

    catalogue: Catalogue
    prices: tuple[Price, ...]
    """The prices of GPUs. A price that a plan states has precedence over them."""
    problems: tuple[str, ...]
    """The rows that are left out, and why."""


def known_of(world: Observation) -> Known:
    """The catalogue, prices and problems of an observation. The same additions are parsed once."""
    return _known(world.catalogues, world.model_configs)


def known_with(catalogues: tuple[SeenCatalogue, ...]) -> Known:
    """The same for an installation, without a plan."""
    return _known(catalogues, ())


def findings_of(known: Known) -> tuple[Finding, ...]:
    """What a condition says of additions that were left out; the plan goes on with the rest."""
    if not known.problems:
        return ()
    more = f"; and {len(known.problems) - MOST_TOLD} more" if len(known.problems) > MOST_TOLD else ""
    told = "; ".join(known.problems[:MOST_TOLD])
    return (
        Finding(condition=CONDITION, reason="RowsRefused", message=f"{told}{more}; the other rows count", holds=True),
    )


@lru_cache(maxsize=64)
def _known(seen: tuple[SeenCatalogue, ...], configs: tuple[SeenModelConfig, ...]) -> Known:
    models: list[ModelRow] = []
    gpus: list[GpuType] = []
    problems: list[str] = []
    for item in seen:
        where = f"the catalogue {item.config_map}" + (f" [{item.key}]" if item.key else "")
        if item.problem is not None:
            problems.append(f"{where}: {item.problem}")
        elif item.kind == "models":
            read = read_models(item.text)
            models += read.rows
            problems += [f"{where}: {text}" for text in read.problems]
        elif item.kind == "gpus":
            found = read_gpus(item.text)
            gpus += found.rows
            problems += [f"{where}: {text}" for text in found.problems]
        elif item.kind != "prices":
            problems.append(f"{where}: {item.kind!r} is no kind of catalogue; the label takes models, gpus or prices")
    catalogue = shipped()
    if models or gpus or configs:
        catalogue = catalogue.with_rows(models, gpus, {item.config_map: item for item in configs})
    prices: list[Price] = []
    for item in seen:
        if item.kind == "prices" and item.problem is None:
            stated = read_prices(item.text, catalogue)
            # What an earlier catalogue states of a GPU stands.
            before = {(price.gpu, price.capacity_type) for price in prices}
            prices += [price for price in stated.rows if (price.gpu, price.capacity_type) not in before]
            where = f"the catalogue {item.config_map}" + (f" [{item.key}]" if item.key else "")
            problems += [f"{where}: {text}" for text in stated.problems]
    return Known(catalogue, tuple(prices), tuple(problems))
