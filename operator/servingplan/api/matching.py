"""Which request belongs to which class, for gateways: the order in which classes are tried, and what each asks for.

What a plan's ``match`` fields say holds as written. A model whose classes give none at all has its boundaries derived
from the declared lengths. The prompt can be counted when a request arrives, so it decides; the answer cannot, so it counts
only among classes of the same prompt length, and only by the request's ``max_tokens``. Classes of the same two lengths
(they differ in their limits) are told apart by the class header alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from servingplan.api.v1alpha1 import Match, Model, RequestClass


def matching_order(model: Model) -> tuple[RequestClass, ...]:
    """The classes with the match that a gateway applies: the first that holds takes the request.

    Derived boundaries lie in the middle between neighbouring lengths, rounded up: 2455 and 496 are divided at 1476. The
    longest prompts are tried first, and the last class takes what is left: the shortest prompts, among those the longest
    answers. So a request that does not say ``max_tokens`` goes to the longest answers of its prompt length.
    """
    classes = model.effective_classes
    if any(item.match != Match() for item in classes):
        return classes
    lengths = sorted({item.input_tokens for item in classes})
    least = {length: _middle(below, length) for below, length in pairwise(lengths)}
    by_length = sorted(classes, key=lambda item: -item.input_tokens)  # stable: the plan's order among equals
    return tuple(
        found
        for length, alike in groupby(by_length, key=lambda item: item.input_tokens)
        for found in _by_answer(list(alike), least.get(length))
    )


def default_class(classes: Sequence[RequestClass]) -> str:
    """Name of the class that takes what no match takes: the last one without a match, else the last one."""
    unmatched = [item.name for item in classes if item.match == Match()]
    return unmatched[-1] if unmatched else classes[-1].name


def class_of(
    classes: Sequence[RequestClass], *, input_tokens: int, max_tokens: int | None = None, header: str | None = None
) -> str:
    """Name of the class that takes a request; ``classes`` in order of matching."""
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
    return default_class(classes)


def _by_answer(alike: list[RequestClass], input_tokens_at_least: int | None) -> list[RequestClass]:
    """Classes of one prompt length, short answers first."""
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
