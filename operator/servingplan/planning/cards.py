"""The card of every variant: given inline, or found by name in the catalogue; and the sources that a spec leaves out."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from servingplan.api.models_v1alpha1 import Card, Model, Variant
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError, in_words
from servingplan.model.llm import ModelCard, UnknownPrecisionError, precision_of
from servingplan.model.remembered import for_same
from servingplan.profiles.catalogue import NO_SHAPE, Catalogue, as_named, find_model, known_shape, stored_otherwise
from servingplan.profiles.config_json import parse_config, read_config
from servingplan.profiles.names import take_apart
from servingplan.profiles.quantization import ConfigError

AUTO = "auto"
"""The precision that the name of the weights, or their configuration, tells."""
_PRECISIONS = {"awq": "int4", "gptq": "int4", "nvfp4": "fp4", "mxfp4": "fp4"}
"""The precision of each way to quantise that has another name."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def cards_of(
    spec: PlanSpec, catalogue: Catalogue | None = None
) -> tuple[list[tuple[Model, Variant, ModelCard]], list[InputError]]:
    """Every variant, its source and precision spelled out, with its card; and what is wrong with the others."""
    found, errors = _cards_of(spec, catalogue)
    return list(found), list(errors)


@for_same(most=64)
def _cards_of(
    spec: PlanSpec, catalogue: Catalogue | None
) -> tuple[tuple[tuple[Model, Variant, ModelCard], ...], tuple[InputError, ...]]:
    found: list[tuple[Model, Variant, ModelCard]] = []
    errors: list[InputError] = []
    for model in spec.models:
        for variant in model.effective_variants:
            try:
                found.append((model, *_spelled_out(model, variant, catalogue)))
            except InputError as error:
                errors.append(error)
    return tuple(found), tuple(errors)


@for_same(most=64)
def with_sources(spec: PlanSpec, catalogue: Catalogue | None = None) -> PlanSpec:
    """The spec with the sources and precisions that it leaves out, where the catalogue has them; others stay as they are,
    and ``cards_of`` says what is wrong with them."""
    models = []
    for model in spec.models:
        variants = []
        for variant in model.effective_variants:
            with suppress(InputError):
                variant, _ = _spelled_out(model, variant, catalogue)
            variants.append(variant)
        models.append(
            model if tuple(variants) == model.variants else model.model_copy(update={"variants": tuple(variants)})
        )
    return spec.model_copy(update={"models": tuple(models)})


def _spelled_out(model: Model, variant: Variant, catalogue: Catalogue | None) -> tuple[Variant, ModelCard]:
    card = _card(model, variant, catalogue)
    field = f"spec.models[{model.name}].variants[{variant.name}]"
    if variant.precision.lower() != AUTO:
        try:
            precision_of(variant.precision)
        except UnknownPrecisionError as error:
            raise InputError(f"{field}.precision", variant.precision, str(error)) from error
    if (why := stored_otherwise(card, variant.precision)) is not None:
        raise InputError(f"{field}.precision", variant.precision, why)
    chosen = {}
    if variant.precision.lower() == AUTO:
        chosen["precision"] = card.precision
        if not model.variants:
            chosen["name"] = card.precision
    if variant.source is None:
        if card.repository is None:
            raise InputError(
                f"{field}.source",
                None,
                f"is needed: {model.name} is no repository of the catalogue; give one, such as hf://organisation/name",
            )
        chosen["source"] = f"hf://{card.repository}"
    return variant.model_copy(update=chosen), card


def _card(model: Model, variant: Variant, catalogue: Catalogue | None) -> ModelCard:
    wire = variant.card or model.card
    repository = None if variant.source is None else variant.source.partition("hf://")[2] or None
    if wire is not None:
        name = model.name if variant.card is None else f"{model.name}/{variant.name}"
        return _inline_card(name, wire, repository or model.name, catalogue)
    if model.published_config is not None:
        return _published_card(model, model.published_config.config_map, repository or model.name, catalogue)
    if repository is not None:
        try:
            return find_model(repository, catalogue=catalogue)
        except InputError:
            pass
    try:
        card = find_model(model.name, catalogue=catalogue)
    except InputError as error:
        advice = error.advice.replace("declare it inline", "give its card (parameters, layers, heads)")
        raise InputError(f"spec.models[{model.name}].name", model.name, advice) from error
    # Weights of somebody's own: of the model's shape, quantised as the name of their repository says.
    return card if repository is None else as_named(card, take_apart(repository))


def _published_card(model: Model, name: str, written: str, catalogue: Catalogue | None) -> ModelCard:
    """The card that the model's own config.json makes."""
    field = f"spec.models[{model.name}].modelConfig"
    seen = None if catalogue is None else catalogue.configs.get(name)
    if seen is None or seen.problem is not None:
        problem = "was not read; offline, give the model's card in place of it" if seen is None else seen.problem
        raise InputError(field, name, f"the ConfigMap {problem}")
    parts = take_apart(written)
    repository = parts.repository if parts.repository and _REPOSITORY.fullmatch(parts.repository) else None
    try:
        card = read_config(parse_config(seen.text), name=model.name, repository=repository)
    except ConfigError as error:
        raise InputError(f"{field}[{name}].{error.field}", error.value, error.advice) from error
    return card if card.quantization is not None else as_named(card, parts._replace(repository=repository))


def _inline_card(name: str, wire: Card, written: str, catalogue: Catalogue | None) -> ModelCard:
    """The card, of the repository that is ``written`` where that is one. A card that says nothing else than a catalogued
    one of the same shape stands for it, so that what was measured of that counts."""
    given: dict[str, Any] = {key: value for key, value in wire.model_dump().items() if value is not None}
    parts = take_apart(written)
    repository = parts.repository if parts.repository and _REPOSITORY.fullmatch(parts.repository) else None
    known = known_shape(given, catalogue)
    try:
        if known is not None:
            own = {key: value for key, value in given.items() if key in NO_SHAPE}
            card = known.model_copy(update=own | {"name": name, "repository": repository})
        else:
            card = ModelCard(name=name, repository=repository, **given)
    except ValidationError as error:
        text = in_words(error.errors(include_url=False)[0])
        raise InputError(f"spec.models[{name}].card", wire.model_dump(exclude_none=True), text) from error
    if "quantization" in given:
        return card.model_copy(update={"precision": _PRECISIONS.get(wire.quantization or "", wire.quantization)})
    return as_named(card, parts._replace(repository=repository))
