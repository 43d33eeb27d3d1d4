"""The card of every variant: given inline, or found by name in the catalogue."""

from __future__ import annotations

from servingplan.api.v1alpha1 import Card, Model, PlanSpec, Variant
from servingplan.errors import InputError
from servingplan.model.llm import ModelCard, UnknownPrecisionError, precision_of
from servingplan.profiles.catalogue import find_model


def cards_of(spec: PlanSpec) -> tuple[list[tuple[Model, Variant, ModelCard]], list[InputError]]:
    """Every variant with its card, and what is wrong with the others."""
    found: list[tuple[Model, Variant, ModelCard]] = []
    errors: list[InputError] = []
    for model in spec.models:
        for variant in model.effective_variants:
            try:
                card = _card(model, variant)
                precision_of(variant.precision)
            except UnknownPrecisionError as error:
                field = f"spec.models[{model.name}].variants[{variant.name}].precision"
                errors.append(InputError(field, variant.precision, str(error)))
            except InputError as error:
                errors.append(error)
            else:
                found.append((model, variant, card))
    return found, errors


def _card(model: Model, variant: Variant) -> ModelCard:
    wire = variant.card or model.card
    if wire is not None:
        return _inline_card(model.name if variant.card is None else f"{model.name}/{variant.name}", wire)
    field = f"spec.models[{model.name}].name"
    try:
        return find_model(variant.source.partition("://")[2] if variant.source.startswith("hf://") else model.name)
    except InputError:
        try:
            return find_model(model.name)
        except InputError as error:
            advice = error.advice.replace("declare it inline", "give its card (parameters, layers, heads)")
            raise InputError(field, model.name, advice) from error


def _inline_card(name: str, wire: Card) -> ModelCard:
    try:
        return ModelCard(
            name=name,
            parameters=wire.parameters,
            active_parameters=wire.active_parameters,
            experts=wire.experts,
            experts_per_token=wire.experts_per_token,
            layers=wire.layers,
            hidden_size=wire.hidden_size,
            attention_heads=wire.attention_heads,
            kv_heads=wire.kv_heads,
            head_dim=wire.head_dim,
        )
    except ValueError as error:
        text = str(error).splitlines()
        raise InputError(
            f"spec.models[{name}].card", wire.model_dump(), text[-2 if len(text) > 1 else 0].strip()
        ) from error
