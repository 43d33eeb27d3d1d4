"""GPUs and models by name: the shipped catalogue, what an installation adds to it, and what a caller declares inline.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. Names come from node labels and from a plan;
figures come from ``data/gpus.csv`` and ``data/models.json``, each row with its source. A model's row is its ``config.json``,
cut down to the fields that count, and the repositories that publish that shape, each with what its own file has otherwise:
context, quantisation. What is declared wins over what an installation adds, and that over what is shipped, so that a new
card or model needs no release.
"""

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from servingplan.errors import InputError, in_words
from servingplan.model.hardware import GpuType, is_share, normalise_product
from servingplan.model.llm import ModelCard
from servingplan.profiles.config_json import read_config
from servingplan.profiles.names import ModelName, looser, take_apart
from servingplan.profiles.quantization import Quantization

ADD_MODEL = "add it (servingplan profile add-model CONFIG.JSON), or declare it inline"


class UnknownGpuError(InputError, LookupError):
    """No whole GPU has that name."""


class UnknownModelError(InputError, LookupError):
    """No model has that name."""


class ModelRow(BaseModel):
    """One shape of model, and who publishes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    """Name in the catalogue; all repositories of the row share it, and their measurements."""
    source: str = Field(min_length=1)
    """Where the facts are from."""
    config: dict[str, Any]
    """Fields of the ``config.json`` that count weights, caches and context."""
    repositories: dict[str, dict[str, Any]] = {}
    """By ``organisation/name``, the fields in which its ``config.json`` differs. The first one stands for the name."""
    aliases: tuple[str, ...] = ()
    """Further names."""
    assume_plain: bool = False
    """The architecture is not understood, and taken for a plain decoder."""


class Config(Protocol):
    """Text of a ``config.json``, or why it could not be had."""

    @property
    def text(self) -> str: ...

    @property
    def problem(self) -> str | None: ...


class Catalogue:
    """Rows of models and of GPUs; of two that answer to one name, the earlier one counts."""

    def __init__(
        self,
        models: Iterable[ModelRow] = (),
        gpus: Iterable[GpuType] = (),
        configs: Mapping[str, "Config"] | None = None,
    ) -> None:
        self.models = tuple(models)
        self.gpus = tuple(gpus)
        self._found_gpus: dict[str, GpuType | None] = {}  # names are asked for by the thousand, and are few
        self.configs = dict(configs or {})
        """Configurations of models that plans name, by name."""
        self._cards: dict[tuple[int, str | None], ModelCard] = {}
        self._index: dict[str, tuple[int, str | None]] = {}
        for number, row in enumerate(self.models):
            tails = {_tail(repository): repository for repository in reversed(row.repositories)}
            first = next(iter(row.repositories), None)
            for name in (row.name, *row.aliases):
                self._index.setdefault(name.lower(), (number, tails.get(name.lower(), first)))
        repositories = [(number, item) for number, row in enumerate(self.models) for item in row.repositories]
        for number, repository in repositories:
            self._index.setdefault(repository.lower(), (number, repository))
            self._index.setdefault(_tail(repository), (number, repository))
        for number, repository in repositories:
            parts = take_apart(repository)
            for spelling in looser(parts.plain) if parts.quantization is None else ():
                self._index.setdefault(spelling.lower(), (number, repository))

    def with_rows(
        self,
        models: Iterable[ModelRow] = (),
        gpus: Iterable[GpuType] = (),
        configs: Mapping[str, "Config"] | None = None,
    ) -> "Catalogue":
        """A catalogue in which these rows come first."""
        return Catalogue((*models, *self.models), (*gpus, *self.gpus), {**self.configs, **(configs or {})})

    def cards(self) -> tuple[ModelCard, ...]:
        """One card for each row of models, in their order, with the names of its repositories as aliases."""
        return tuple(self._card(*self._index[row.name.lower()]) for row in self.models)

    def find_gpu(self, product: str) -> GpuType | None:
        """The GPU that a name means; None where none does."""
        if product not in self._found_gpus:
            self._found_gpus[product] = next((gpu for gpu in self.gpus if gpu.answers_to(product)), None)
        return self._found_gpus[product]

    def find_model(self, identifier: str) -> ModelCard | None:
        """The model that a name means, with what the name tells of its quantisation; None where none does.

        Tried are the repository, its last part, and that part without quantisation, tuning and publisher.
        """
        name = take_apart(identifier)
        if name.repository is not None and (found := self._index.get(name.repository.lower())):
            return self._card(*found)
        if found := self._index.get(name.tail.lower()):
            card = self._card(*found)
            return card if name.repository is None else card.model_copy(update={"repository": name.repository})
        for spelling in looser(name.plain):
            if found := self._index.get(spelling.lower()):
                return as_named(self._card(*found), name)
        return None

    def _card(self, number: int, repository: str | None) -> ModelCard:
        if (number, repository) not in self._cards:
            row = self.models[number]
            config = row.config | (row.repositories[repository] if repository is not None else {})
            tails = tuple(dict.fromkeys(item.rpartition("/")[2] for item in row.repositories))
            card = read_config(
                config,
                name=row.name,
                repository=repository,
                aliases=tuple(name for name in (*row.aliases, *tails) if name != row.name),
                assume_plain=row.assume_plain,
            )
            if repository is not None and "quantization_config" not in config:
                card = _quantised(card, take_apart(repository).quantization)
            self._cards[number, repository] = card
        return self._cards[number, repository]


def find_gpu(product: str, *, inline: Iterable[GpuType] = (), catalogue: Catalogue | None = None) -> GpuType:
    """The GPU that ``product`` names: a catalogue name, a node-label product string, a cloud's name or instance type.

    Args:
        product: any spelling; case, spaces and dashes do not matter.
        inline: the caller's definitions, which win over the catalogue.
        catalogue: default is the shipped one.

    Raises:
        UnknownGpuError: nothing matches (the message lists close names), or the string names a MIG slice or a
            time-shared card, which is not the whole card.
    """
    declared = tuple(inline)
    known = catalogue or shipped()
    found = next((own for own in declared if own.answers_to(product)), None) or known.find_gpu(product)
    if found is not None:
        # A declaration under the catalogue's name also stands for that card's other names.
        return next((own for own in declared if own.answers_to(found.name)), found)
    if is_share(product):
        raise UnknownGpuError(
            "gpu",
            product,
            "names a MIG slice or a time-shared card, which has neither the memory nor the speed of the whole card; "
            "use whole GPUs, or declare the slice inline under this very name with its own figures",
        )
    names = {name: gpu.name for gpu in (*declared, *known.gpus) for name in (gpu.name, *gpu.aliases) if "*" not in name}
    raise UnknownGpuError(
        "gpu",
        product,
        f"is not in the catalogue{_close(product, names)}; add a row to a catalogue of GPUs, or declare it inline",
    )


def find_model(identifier: str, *, inline: Iterable[ModelCard] = (), catalogue: Catalogue | None = None) -> ModelCard:
    """The model that ``identifier`` names: a catalogue name, a repository or its last part, with any quantisation.

    ``hf://meta-llama/Llama-3.1-70B-Instruct``, ``RedHatAI/Llama-3.1-70B-Instruct-FP8-dynamic`` and ``llama-3.1-70b`` are
    one shape, ``name``. ``precision`` and ``quantization`` are those of the published weights, ``repository`` is where
    they are: the one that was written, else the known one of that name, else None. A revision (``@...``) is ignored.

    Raises:
        UnknownModelError: nothing matches; the message lists close names.
    """
    declared = tuple(inline)
    name = take_apart(identifier)
    wanted = {name.tail.lower(), (name.repository or name.tail).lower()}
    own = next((card for card in declared if {item.lower() for item in (card.name, *card.aliases)} & wanted), None)
    known = catalogue or shipped()
    found = own or known.find_model(identifier)
    if found is not None:
        return next((card for card in declared if card.name.lower() == found.name.lower()), found)
    listed = [item for card in declared for item in (card.name, *card.aliases)]
    for row in known.models:
        listed += [row.name, *row.aliases, *(repository.rpartition("/")[2] for repository in row.repositories)]
    close = _close(name.plain, {item: item for item in listed})
    raise UnknownModelError("model", identifier, f"is not in the catalogue{close}; {ADD_MODEL}")


@cache
def shipped() -> Catalogue:
    """What the package brings."""
    with (resources.files("servingplan.profiles") / "data" / "models.json").open(encoding="utf-8") as file:
        models = [ModelRow.model_validate(row) for row in json.load(file)]
    return Catalogue(models, (gpu_of_row(row) for row in read_rows("gpus.csv")))


def packaged_gpus() -> tuple[GpuType, ...]:
    """Every GPU of ``data/gpus.csv``, in the file's order."""
    return shipped().gpus


@cache
def packaged_models() -> tuple[ModelCard, ...]:
    """Every model of ``data/models.json``, in the file's order."""
    return shipped().cards()


def stored_otherwise(card: ModelCard, precision: str) -> str | None:
    """Why weights cannot have a precision, since they are published in a narrower one; None: they may."""
    if card.quantization is None or precision.lower() not in ("bf16", "fp16"):
        return None
    return f"contradicts the weights, which are {card.precision} ({card.quantization}): set {card.precision}, or leave it out"


def known_shape(facts: Mapping[str, Any], catalogue: Catalogue | None = None) -> ModelCard | None:
    """The catalogued card of which ``facts`` says nothing else, for those who know only a part of a model; None: none.

    Every fact must be the card's, the numbers of parameters but for rounding; what is not said of the
    shape (vocabulary, widths) is then the card's. Names, context and quantisation are no part of a shape.
    """
    for card in (catalogue or shipped()).cards():
        shape = card.shape
        if all(key in NO_SHAPE or _same(value, getattr(shape, key), key) for key, value in facts.items()):
            return shape
    return None


NO_SHAPE = frozenset({"max_context_tokens", "quantization", "weight_block"})
"""Facts of a card that are no part of its shape: they stay unknown unless they are said."""
_ROUNDED = {"parameters": 0.01, "active_parameters": 0.05}
"""By how much people round them, the active ones with or without the tables of the vocabulary."""


def _same(said: Any, known: Any, key: str) -> bool:
    if key in _ROUNDED and known is not None:
        return bool(abs(said / known - 1) <= _ROUNDED[key])
    return bool(said == known)


@cache
def measured_name(shape: ModelCard) -> str | None:
    """The catalogued model of that shape (``ModelCard.shape``), under whose name it was measured; None: there is none.

    A measurement belongs to a shape, not to a name: a model declared with other figures under a catalogued name has none,
    and one declared with the same figures under another name has them.
    """
    return _measured_names().get(shape)


@cache
def _measured_names() -> dict[ModelCard, str]:
    names: dict[ModelCard, str] = {}
    for card in packaged_models():
        names.setdefault(card.shape, card.name)
    return names


def gpu_of_row(row: Mapping[str, str]) -> GpuType:
    """The GPU of one row of a table with the columns of ``data/gpus.csv``; empty cells are absent.

    Raises:
        InputError: a column is unknown or missing, or a figure is wrong; it names the column.
    """
    facts: dict[str, Any] = {key: value for key, value in row.items() if value and key not in _GPU_WORDS}
    link = row.get("link") or ""
    aliases = tuple(filter(None, (row.get("aliases") or "").split(";")))
    try:
        return GpuType.model_validate(facts | {"nvlink": link.startswith("NVLink"), "aliases": aliases})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InputError(".".join(map(str, problem["loc"])), problem.get("input"), in_words(problem)) from error


def read_rows(name: str) -> Iterator[dict[str, str]]:
    """Rows of one packaged CSV file."""
    with (resources.files("servingplan.profiles") / "data" / name).open(encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def packaged_text(name: str) -> str:
    """One packaged file."""
    return (resources.files("servingplan.profiles") / "data" / name).read_text(encoding="utf-8")


_GPU_WORDS = {"link", "aliases", "source"}


def _tail(repository: str) -> str:
    return repository.rpartition("/")[2].lower()


def as_named(card: ModelCard, name: ModelName) -> ModelCard:
    """A card that was found under another name: of the repository that was written, quantised as the name says."""
    if name.repository is not None or name.quantization is not None:
        card = card.model_copy(update={"repository": name.repository})
    return _quantised(card, name.quantization)


def _quantised(card: ModelCard, quantization: Quantization | None) -> ModelCard:
    if quantization is None:
        return card
    return card.model_copy(
        update={
            "precision": quantization.precision,
            "quantization": quantization.method,
            # Four-bit checkpoints of a model whose experts alone were quantised keep the rest as it was published.
            "quantized_part": card.quantized_part if quantization.method is not None else "linear",
            "weight_block": quantization.block,
        }
    )


def _close(wanted: str, names: Mapping[str, str]) -> str:
    """The nearest spellings, each shown as the name that it stands for."""
    by_spelling = {normalise_product(name): shown for name, shown in reversed(list(names.items()))}
    needle = normalise_product(wanted)
    near = sorted((spelling for spelling in by_spelling if needle and needle in spelling), key=lambda s: (len(s), s))
    near = near or difflib.get_close_matches(needle, by_spelling, n=4, cutoff=0.45)
    shown = list(dict.fromkeys(by_spelling[spelling] for spelling in near))[:4]
    return "; close: " + ", ".join(shown) if shown else ""
