"""GPUs and model shapes by name: the packaged catalogue, and what the caller declares inline.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. Names come from node labels and from
``source`` fields of a plan; shapes and peaks come from ``data/gpus.csv`` and ``data/models.csv``, each row with its
source. An inline definition wins over the catalogue, so that a new card or model needs no release.
"""

import csv
import difflib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources

from servingplan.errors import InputError
from servingplan.model.hardware import GpuType, is_share, normalise_product
from servingplan.model.llm import ModelCard


class UnknownGpuError(InputError, LookupError):
    """No whole GPU has that name."""


class UnknownModelError(InputError, LookupError):
    """No model has that name."""


def find_gpu(product: str, *, inline: Iterable[GpuType] = ()) -> GpuType:
    """The GPU that ``product`` names: a catalogue name, a node-label product string or a cloud's accelerator name.

    Args:
        product: any spelling; case, spaces and dashes do not matter.
        inline: the caller's definitions, which win over the catalogue.

    Raises:
        UnknownGpuError: nothing matches (the message lists close names), or the string names a MIG slice or a
            time-shared card, which is not the whole card.
    """
    declared = tuple(inline)
    for gpu in (*declared, *packaged_gpus()):
        if gpu.answers_to(product):
            # A declaration under the catalogue's name also stands for that card's other names.
            return next((own for own in declared if own.answers_to(gpu.name)), gpu)
    if is_share(product):
        raise UnknownGpuError(
            "gpu",
            product,
            "names a MIG slice or a time-shared card, which has neither the memory nor the speed of the whole card; "
            "use whole GPUs, or declare the slice inline under this very name with its own figures",
        )
    names = [name for gpu in (*declared, *packaged_gpus()) for name in (gpu.name, *gpu.aliases)]
    raise UnknownGpuError("gpu", product, f"is not in the catalogue{_close(product, names)}; or declare it inline")


def find_model(identifier: str, *, inline: Iterable[ModelCard] = ()) -> ModelCard:
    """The model that ``identifier`` names: a catalogue name, or a repository identifier of which the tail counts.

    ``hf://meta-llama/Llama-3.1-70B-Instruct``, ``meta-llama/Llama-3.1-70B-Instruct`` and ``llama-3.1-70b`` are the
    same shape. A revision (``@...``) is ignored.

    Raises:
        UnknownModelError: nothing matches; the message lists close names.
    """
    declared = tuple(inline)
    whole = identifier.strip().rstrip("/").lower()
    tail = whole.rsplit("/", 1)[-1].partition("@")[0]
    for card in (*declared, *packaged_models()):
        if {name.lower() for name in (card.name, *card.aliases)} & {whole, tail}:
            return next((own for own in declared if own.name.lower() == card.name.lower()), card)
    names = [name for card in (*declared, *packaged_models()) for name in (card.name, *card.aliases)]
    raise UnknownModelError("model", identifier, f"is not in the catalogue{_close(tail, names)}; or declare it inline")


@cache
def packaged_gpus() -> tuple[GpuType, ...]:
    """Every GPU of ``data/gpus.csv``, in the file's order."""
    return tuple(
        GpuType.model_validate(
            {key: value for key, value in row.items() if value and key not in {"link", "aliases", "source"}}
            | {"nvlink": row["link"].startswith("NVLink"), "aliases": tuple(filter(None, row["aliases"].split(";")))}
        )
        for row in read_rows("gpus.csv")
    )


@cache
def packaged_models() -> tuple[ModelCard, ...]:
    """Every model of ``data/models.csv``, in the file's order."""
    return tuple(
        ModelCard.model_validate(
            {key: value for key, value in row.items() if value and key not in {"aliases", "source"}}
            | {"aliases": tuple(filter(None, row["aliases"].split(";")))}
        )
        for row in read_rows("models.csv")
    )


def read_rows(name: str) -> Iterator[dict[str, str]]:
    """Rows of one packaged CSV file."""
    with (resources.files("servingplan.profiles") / "data" / name).open(encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def _close(wanted: str, names: list[str]) -> str:
    by_spelling = {normalise_product(name): name for name in names}
    needle = normalise_product(wanted)
    near = [spelling for spelling in by_spelling if needle in spelling]
    near = (near or difflib.get_close_matches(needle, by_spelling, n=4, cutoff=0.45))[:4]
    return "; close: " + ", ".join(by_spelling[spelling] for spelling in near) if near else ""
