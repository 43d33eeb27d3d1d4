"""GPUs and models by name: the shipped catalogue, the additions of an installation, and inline declarations.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. Names come from node labels and from a plan;
figures come from ``data/gpus.csv`` and ``data/models.json``, each row with its source. A model's row has the needed fields of
its ``config.json`` and the repositories that publish this shape. Each repository has the fields in which its own file differs:
context, quantisation. Inline declarations rank before additions, and additions before the shipped catalogue, so a new card or
model needs no release.
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
    """One shape of model, and the repositories that publish it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    """The name in the catalogue. All repositories of the row share it and its measurements."""
    source: str = Field(min_length=1)
    """Where the facts come from."""
    config: dict[str, Any]
    """The fields of the ``config.json`` that determine weights, caches and context."""
    repositories: dict[str, dict[str, Any]] = {}
    """The fields in which the ``config.json`` of a repository differs, by ``organisation/name``. The name of the row means the
    first repository."""
    aliases: tuple[str, ...] = ()
    """Further names."""
    assume_plain: bool = False
    """Whether the architecture is unknown and treated as a plain decoder."""


class Config(Protocol):
    """The text of a ``config.json``, or why it could not be read."""

    @property
    def text(self) -> str: ...

    @property
    def problem(self) -> str | None: ...


class Catalogue:
    """Rows of models and of GPUs. If two rows have one name, the earlier one counts."""

    def __init__(
        self,
        models: Iterable[ModelRow] = (),
        gpus: Iterable[GpuType] = (),
        configs: Mapping[str, "Config"] | None = None,
    ) -> None:
        self.models = tuple(models)
        self.gpus = tuple(gpus)
        self._found_gpus: dict[str, GpuType | None] = {}  # few names are looked up thousands of times
        self.configs = dict(configs or {})
        """The configurations of models that plans name, by name."""
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
        """A catalogue with these rows before its own."""
        return Catalogue((*models, *self.models), (*gpus, *self.gpus), {**self.configs, **(configs or {})})

    def cards(self) -> tuple[ModelCard, ...]:
        """One card for each row of models, in order, with the names of its repositories as aliases."""
        return tuple(self._card(*self._index[row.name.lower()]) for row in self.models)

    def find_gpu(self, product: str) -> GpuType | None:
        """The GPU with this name; None if there is none."""
        if product not in self._found_gpus:
            self._found_gpus[product] = next((gpu for gpu in self.gpus if gpu.answers_to(product)), None)
        return self._found_gpus[product]

    def find_model(self, identifier: str) -> ModelCard | None:
        """The model with this name, and with the quantisation that the name says; None if there is none.

        It looks up the repository, then its last part, then that part without quantisation, tuning and publisher.
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
        product: the name in any spelling; case, spaces and dashes do not matter.
        inline: the caller's definitions, which rank before the catalogue.
        catalogue: the catalogue; the default is the shipped one.

    Raises:
        UnknownGpuError: no GPU matches (the message lists close names), or the name is that of a MIG slice or a
            time-shared card, which is not the whole card.
    """
    declared = tuple(inline)
    known = catalogue or shipped()
    found = next((own for own in declared if own.answers_to(product)), None) or known.find_gpu(product)
    if found is not None:
        # A declaration under the catalogue's name also applies to that card's other names.
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
    one shape, ``name``. ``precision`` and ``quantization`` are those of the published weights. ``repository`` is where they
    are published: the repository in ``identifier``, else the known one of that name, else None. A revision (``@...``) is
    ignored.

    Raises:
        UnknownModelError: no model matches; the message lists close names.
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
    """The shipped catalogue."""
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
    """The reason why weights cannot have a precision, because they are published in a narrower one; None if they can."""
    if card.quantization is None or precision.lower() not in ("bf16", "fp16"):
        return None
    return f"contradicts the weights, which are {card.precision} ({card.quantization}): set {card.precision}, or leave it out"


def known_shape(facts: Mapping[str, Any], catalogue: Catalogue | None = None) -> ModelCard | None:
    """The shape in the catalogue with these facts, for callers that know only some facts of a model; None if there is none.

    Every fact must agree with the card, numbers of parameters within rounding. The other facts of the shape (vocabulary,
    widths) are then the card's. Names, context and quantisation are not part of a shape.
    """
    for card in (catalogue or shipped()).cards():
        shape = card.shape
        if all(key in NO_SHAPE or _same(value, getattr(shape, key), key) for key, value in facts.items()):
            return shape
    return None


NO_SHAPE = frozenset({"max_context_tokens", "quantization", "weight_block"})
"""Facts of a card that are not part of its shape; they are unknown unless they are stated."""
_ROUNDED = {"parameters": 0.01, "active_parameters": 0.05}
"""The relative rounding of published numbers; active parameters are stated with or without the tables of the vocabulary."""


def _same(said: Any, known: Any, key: str) -> bool:
    if key in _ROUNDED and known is not None:
        return bool(abs(said / known - 1) <= _ROUNDED[key])
    return bool(said == known)


@cache
def measured_name(shape: ModelCard) -> str | None:
    """The catalogued model with this shape (``ModelCard.shape``), under whose name it was measured; None if there is none.

    A measurement belongs to a shape, not to a name. A model that is declared with other figures under a catalogued name has no
    measurements, and one that is declared with the same figures under another name has them.
    """
    return _measured_names().get(shape)


@cache
def _measured_names() -> dict[ModelCard, str]:
    names: dict[ModelCard, str] = {}
    for card in packaged_models():
        names.setdefault(card.shape, card.name)
    return names


def gpu_of_row(row: Mapping[str, str]) -> GpuType:
    """The GPU of one row of a table with the columns of ``data/gpus.csv``; empty cells count as absent.

    Raises:
        InputError: a column is unknown or missing, or a figure is wrong; the error names the column.
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
    """The rows of one packaged CSV file."""
    with (resources.files("servingplan.profiles") / "data" / name).open(encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def packaged_text(name: str) -> str:
    """The text of one packaged file."""
    return (resources.files("servingplan.profiles") / "data" / name).read_text(encoding="utf-8")


_GPU_WORDS = {"link", "aliases", "source"}


def _tail(repository: str) -> str:
    return repository.rpartition("/")[2].lower()


def as_named(card: ModelCard, name: ModelName) -> ModelCard:
    """A card that was found under another name, with the repository and the quantisation of that name."""
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
            # Four-bit checkpoints of a model with only its experts quantised keep the other weights as published.
            "quantized_part": card.quantized_part if quantization.method is not None else "linear",
            "weight_block": quantization.block,
        }
    )


def _close(wanted: str, names: Mapping[str, str]) -> str:
    """A list of the nearest names for a message; empty if there are none."""
    by_spelling = {normalise_product(name): shown for name, shown in reversed(list(names.items()))}
    needle = normalise_product(wanted)
    near = sorted((spelling for spelling in by_spelling if needle and needle in spelling), key=lambda s: (len(s), s))
    near = near or difflib.get_close_matches(needle, by_spelling, n=4, cutoff=0.45)
    shown = list(dict.fromkeys(by_spelling[spelling] for spelling in near))[:4]
    return "; close: " + ", ".join(shown) if shown else ""
