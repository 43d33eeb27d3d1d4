"""Assigns requests to classes, for gateways: the order in which classes are tried, and the match of each.

A plan's ``match`` fields hold as written. If no class of a model has one, the boundaries are derived from the declared
lengths. The prompt's length is known when a request arrives, so it decides. The answer's length is not known, so it counts
only among classes with the same prompt length, and only by the request's ``max_tokens``. Classes with the same two lengths
(they differ in their limits) are told apart by the class header alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from servingplan.api.models_v1alpha1 import Match, Model, RequestClass


def matching_order(model: Model) -> tuple[RequestClass, ...]:
    """The classes with the match that a gateway applies. The first class whose match holds takes the request.

    Derived boundaries are half-way between neighbouring lengths, rounded up: 2455 and 496 are divided at 1476. The longest
    prompts are tried first. The last class takes the rest: the shortest prompts, among those the longest answers. So a
    request without ``max_tokens`` goes to the longest answers of its prompt length.
    """
    classes = model.effective_classes
    if any(item.match != Match() for item in classes):
        return classes
    lengths = sorted({item.input_tokens for item in classes})
    least = {length: _middle(below, length) for below, length in pairwise(lengths)}
    by_length = sorted(classes, key=lambda item: -item.input_tokens)  # the sort is stable: equals keep the plan's order
    return tuple(
        found
        for length, alike in groupby(by_length, key=lambda item: item.input_tokens)
        for found in _by_answer(list(alike), least.get(length))
    )


def default_class(classes: Sequence[RequestClass]) -> str:
    """The name of the default class: the last one without a match, else the last one."""
    unmatched = [item.name for item in classes if item.match == Match()]
    return unmatched[-1] if unmatched else classes[-1].name


def class_of(
    classes: Sequence[RequestClass], *, input_tokens: int, max_tokens: int | None = None, header: str | None = None
) -> str:
    """The name of the class that takes a request; ``classes`` are in order of matching."""
    found = class_that_matches(classes, input_tokens=input_tokens, max_tokens=max_tokens, header=header)
    return default_class(classes) if found is None else found


def class_that_matches(
    classes: Sequence[RequestClass], *, input_tokens: int, max_tokens: int | None = None, header: str | None = None
) -> str | None:
    """The name of the first class whose match holds; None where none does."""
    for item in classes:
        match = item.match
        if (
            (match.input_tokens_at_least is None or input_tokens >= match.input_tokens_at_least)
            and (
                match.max_tokens_at_most is None or (max_tokens is not None and max_tokens <= match.max_tokens_at_most)
            )
            and (match.header is None or header == match.header)
        ):
            return item.name
    return None


def _by_answer(alike: list[RequestClass], input_tokens_at_least: int | None) -> list[RequestClass]:
    """The classes of one prompt length with their matches, short answers first."""
    answers = sorted({item.output_tokens for item in alike})
    most = {length: _middle(length, above) - 1 for length, above in pairwise(answers)}
    by_answer = sorted(alike, key=lambda item: item.output_tokens)
    found = []
    for item, following in zip(by_answer, [*by_answer[1:], None], strict=True):
        twin = following is not None and following.output_tokens == item.output_tokens
        match = Match(
            input_tokens_at_least=input_tokens_at_least,
            max_tokens_at_most=most.get(item.output_tokens),
            header=item.name if twin else None,
        )
        found.append(item.model_copy(update={"match": match}))
    return found


def _middle(below: int, above: int) -> int:
    return -(-(below + above) // 2)
