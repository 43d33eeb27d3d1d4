"""The rates of one replica over several nodes: the split of its layers, and the rate of each class.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``pipeline`` has the formulas, ``layers`` finds
the split for one batch; this module compares splits by the rates of the whole replica.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from servingplan.model.engine import EngineSettings
from servingplan.model.llm import ModelCard
from servingplan.profiles.bands import Basis, kind_of
from servingplan.profiles.estimate import Estimate, banded, batches_up_to, fastest
from servingplan.profiles.fit import Unfit, shape_refusal
from servingplan.profiles.floor import first_token_seconds
from servingplan.profiles.layers import split_layers
from servingplan.profiles.pipeline import (
    NETWORK_BYTES_PER_SECOND,
    Pipeline,
    PipelineSteps,
    Stage,
    StageSteps,
    body_bytes_of,
    most_layers,
    prefill_seconds,
    stage_steps,
    step_seconds,
)
from servingplan.profiles.promise import Requests, limited

SPLIT_BATCHES = (1, 4, 16, 64, 256, 1024)
"""Numbers of running requests for which a split of the layers is searched. A larger batch needs more room for KV cache on each
stage, which moves layers to stages with more memory."""


class Chain(NamedTuple):
    """A replica over several nodes: its split, and the estimate of each class."""

    layers: tuple[int, ...]
    """Layers by stage; empty if no split fits."""
    by_class: Mapping[str, Estimate | Unfit]


@lru_cache(maxsize=8192)
def estimate_chain(
    *,
    model: ModelCard,
    precision: str,
    stages: tuple[Stage, ...],
    tensor_parallel: int,
    settings: EngineSettings,
    classes: tuple[Requests, ...],
    confidence: float = 0.9,
) -> Chain:
    """The rates of one replica, with one split of its layers for all its classes.

    Candidates are the splits that ``split_layers`` finds for ``SPLIT_BATCHES``, and the even split. The split that serves the
    most classes is taken; of several, the one with the highest rate of an equal mix. The mix is equal because arrival rates
    always change, and a split that follows them would restart the replica.

    Args:
        tensor_parallel: the GPUs of each stage, on one node. Engines have one number for all stages.
        settings: the engine's settings. The KV cache of one sequence of ``max_model_len`` must fit beside the weights of
            each stage.
        confidence: the probability that the true rate is at least the planned one.

    Raises:
        UnknownPrecisionError: the precision is not in the table.
    """
    refusal = shape_refusal(
        model, tensor_parallel, len(stages), precision=precision, expert_parallel=settings.expert_parallel
    )
    if refusal is not None:
        return Chain((), dict.fromkeys((item.name for item in classes), refusal))
    staged = stage_steps(
        model=model, precision=precision, stages=stages, tensor_parallel=tensor_parallel, settings=settings
    )
    context_tokens = settings.max_model_len
    body_bytes = body_bytes_of(model, precision)
    best: Chain | None = None
    best_pipeline: Pipeline | None = None
    best_score = (-1, 0.0)
    for layers in _splits(model, staged, body_bytes, classes, context_tokens):
        pipeline = Pipeline(staged, layers, body_bytes)
        found = {item.name: _of_class(pipeline, item, settings, confidence) for item in classes}
        rates = [answer.requests_per_second for answer in found.values() if isinstance(answer, Estimate)]
        score = (len(rates), 1 / math.fsum(1 / rate for rate in rates) if rates else 0.0)
        if score > best_score:
            best, best_score, best_pipeline = Chain(layers, found), score, pipeline
    if best is None or best_pipeline is None:
        refusal = Unfit(
            reason="Memory",
            message=f"{len(stages)} stages of {tensor_parallel} GPUs cannot hold {model.layers} whole layers, each with "
            f"its part of the KV cache of {context_tokens} tokens; take more GPUs or a smaller precision",
        )
        return Chain((), dict.fromkeys((item.name for item in classes), refusal))
    steps = PipelineSteps(best_pipeline, settings)
    kept = limited(best.by_class, classes, lambda: steps, floor_seconds=first_token_seconds(settings, model))
    return best._replace(by_class=kept)


def _splits(
    model: ModelCard,
    stages: tuple[StageSteps, ...],
    body_bytes: float,
    classes: tuple[Requests, ...],
    context_tokens: int,
) -> list[tuple[int, ...]]:
    """The candidate splits, each once; empty if the stages cannot hold the model and one longest sequence."""
    mean_tokens = sum(item.input_tokens + item.output_tokens for item in classes) / len(classes)
    longest, mean = (float(it) for it in stages[0].whole.held_tokens(np.array([context_tokens, mean_tokens])))
    found: list[tuple[int, ...]] = []
    most = most_layers(model.layers, stages, body_bytes, kv_tokens=longest)
    short = model.layers % len(stages)
    even = tuple(model.layers // len(stages) + (number < short) for number in range(len(stages)))
    if all(held <= limit for held, limit in zip(even, most, strict=True)):
        found.append(even)
    for batch in SPLIT_BATCHES:
        room = max(longest, batch * mean)
        most = most_layers(model.layers, stages, body_bytes, kv_tokens=room)
        tokens = max(1.0, batch / len(stages))
        split = split_layers(model.layers, _seconds(stages, most, model.layers, tokens, classes))
        if split is None:
            break  # a larger batch leaves less room for layers
        if split not in found:
            found.append(split)
    return found


def _seconds(
    stages: tuple[StageSteps, ...], most: tuple[int, ...], layers: int, tokens: float, classes: tuple[Requests, ...]
) -> list[list[float]]:
    """The mean seconds for which one request keeps each stage busy, by number of layers: its prefill and its part of each
    step."""
    inputs, outputs = (np.array(it, dtype=float) for it in zip(*(item[1:3] for item in classes), strict=True))
    # Linear in the layers, so two points give all of them.
    parts = [(stage, part) for part in (0.0, 1 / layers) for stage in stages]
    steps = step_seconds(parts, np.full_like(inputs, tokens), inputs + outputs / 2)
    busy = [
        math.fsum(prefill + outputs * step / tokens) / len(classes)
        for prefill, step in zip(prefill_seconds(parts, inputs), steps, strict=True)
    ]
    return [
        [fixed + (one - fixed) * held for held in range(1, limit + 1)]
        for fixed, one, limit in zip(busy[: len(stages)], busy[len(stages) :], most, strict=True)
    ]


def _of_class(pipeline: Pipeline, item: Requests, settings: EngineSettings, confidence: float) -> Estimate | Unfit:
    tokens = item.input_tokens + item.output_tokens
    if tokens > settings.max_model_len:
        return Unfit(
            reason="ContextTooShort",
            message=f"{item.input_tokens} input and {item.output_tokens} output tokens exceed the context of "
            f"{settings.max_model_len}; raise maxModelLen to {tokens} or more",
        )
    share = pipeline.stages[0].whole.engine.reserved_share_of_output
    held = float(pipeline.stages[0].whole.held_tokens(item.input_tokens + share * item.output_tokens))
    room = max(1, min(settings.max_num_seqs, math.floor(pipeline.kv_room_tokens() / held)))
    best = fastest(pipeline.at(np.array(batches_up_to(room)), item.input_tokens, item.output_tokens))
    return banded(
        best,
        best,
        source="datasheet",
        basis=Basis("saturated", "datasheet", kind=kind_of(pipeline.stages[0].whole.model), reach="pipeline"),
        evidence=(
            f"kernels of {len(pipeline.layers)} stages with {'/'.join(map(str, pipeline.layers))} layers; network "
            f"between nodes assumed {NETWORK_BYTES_PER_SECOND * 8 / 1e9:g} Gbit/s",
        ),
        confidence=confidence,
    )
