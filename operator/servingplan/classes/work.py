"""Computes the GPU time of requests and its bound, by the planner's roofline on sums of lengths.

A prompt of i tokens costs p0 + p1 i + p2 i^2 seconds (`profiles.roofline`). A token of its answer costs a share of one
decode step of B requests, d0 + d1 (i + o/2) seconds, with B the batch that the memory holds of requests of the log's mean
lengths. So the work of many requests is linear in their `Sums`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from servingplan.classes.tally import Sums
from servingplan.errors import InputError
from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard
from servingplan.profiles.estimate import MAX_BATCH, divisible_shapes
from servingplan.profiles.roofline import Roofline, roofline

MOST_GPUS = 8
"""The most GPUs of one replica, which are those of a node."""
_FAR = 1024.0


class Replica(NamedTuple):
    """The smallest replica of a model on a GPU type that holds the longest request of the log."""

    gpu: str
    tensor_parallel: int
    base: Roofline

    def batch(self, sums: Sums) -> int:
        """The number of requests of the mean lengths that its memory holds, at most the planner's limit."""
        tokens = max(1, round(sums.mean_input + sums.mean_output))
        return max(1, min(MAX_BATCH, self.base.batch_room(tokens)))


class Work(NamedTuple):
    """GPU time in seconds, of prompts and of answers."""

    prefill_seconds: float
    decode_seconds: float

    @property
    def seconds(self) -> float:
        """The GPU time of both."""
        return self.prefill_seconds + self.decode_seconds


class Pace(NamedTuple):
    """The coefficients p0, p1, p2, d0, d1 of one replica."""

    prompt: float
    prompt_token: float
    prompt_token_squared: float
    answer_token: float
    answer_token_context: float

    def work(self, sums: Sums) -> Work:
        """The work of the requests in the sums."""
        return Work(
            self.prompt * sums.requests
            + self.prompt_token * sums.inputs
            + self.prompt_token_squared * sums.inputs_squared,
            self.answer_token * sums.outputs
            + self.answer_token_context * (sums.inputs_times_outputs + sums.outputs_squared / 2),
        )

    def planned(self, requests: int, input_tokens: float, output_tokens: float) -> Work:
        """The work of this many requests with these lengths each, as a plan counts it."""
        prompt = self.prompt + self.prompt_token * input_tokens + self.prompt_token_squared * input_tokens**2
        token = self.answer_token + self.answer_token_context * (input_tokens + output_tokens / 2)
        return Work(requests * prompt, requests * output_tokens * token)


def replicas_on(
    gpus: Iterable[GpuType], *, model: ModelCard, precision: str, context_tokens: int
) -> tuple[tuple[Replica, ...], tuple[InputError, ...]]:
    """The replica on each GPU type, and errors for the types that cannot hold the model.

    Raises:
        UnknownPrecisionError: the precision is not known.
    """
    found, refused = [], []
    settings = EngineSettings()
    sizes = [tensor for tensor, stages in divisible_shapes(model, MOST_GPUS) if stages == 1]
    for gpu in gpus:
        for size in sizes:
            base = roofline(
                model=model,
                precision=precision,
                gpu=gpu,
                tensor_parallel=size,
                pipeline_parallel=1,
                memory_fraction=settings.gpu_memory_utilization,
            )
            if base.batch_room(context_tokens) >= 1:
                found.append(Replica(gpu.name, size, base))
                break
        else:
            advice = f"{MOST_GPUS} of them cannot hold {model.name} in {precision} and {context_tokens} tokens"
            refused.append(InputError("gpu", gpu.name, f"{advice}; leave it out, or take a smaller precision"))
    return tuple(found), tuple(refused)


def pace_of(replica: Replica, sums: Sums) -> Pace:
    """The replica's coefficients, with its batch of requests of these mean lengths."""
    base, batch = replica.base, replica.batch(sums)
    near = base.step_seconds(batch, 0) / batch
    return Pace(
        prompt=base.traffic_seconds,
        prompt_token=base.imbalance * base.flop_seconds + base.traffic_seconds_per_token,
        prompt_token_squared=base.imbalance * base.attention_flop_seconds,
        answer_token=near,
        answer_token_context=(base.step_seconds(batch, _FAR) / batch - near) / _FAR,
    )


class Bound(NamedTuple):
    """The bound of a class on a replica. Ratios are arithmetic time to memory time: above 1, arithmetic is the bound."""

    gpu: str
    tensor_parallel: int
    batch: int
    """The number of requests that decode together."""
    prefill_ratio: float
    decode_ratio: float
    prefill_share: float
    """The prompts' share of the GPU time."""
    compute_share: float
    """The share of the GPU time in which arithmetic is the bound."""

    @property
    def by(self) -> str:
        """``compute`` or ``memory``: the bound for most of the time."""
        return "compute" if self.compute_share > 0.5 else "memory"


def bound_of(replica: Replica, sums: Sums) -> Bound:
    """The bound of a class of requests at its mean lengths, from arithmetic time and memory time.

    Prefill reads the weights once and multiplies every token of the prompt with them; a decode step reads the weights
    and the KV cache of all running requests, and multiplies one token of each. The ratio is arithmetic intensity over
    the card's balance of arithmetic and bandwidth, both as fitted.
    """
    base, batch = replica.base, replica.batch(sums)
    prompt, answer = sums.mean_input, sums.mean_output
    weights = base.weight_bytes * base.byte_seconds
    arithmetic = base.flop_seconds * prompt + base.attention_flop_seconds * prompt**2
    traffic = weights * base.model.expert_share(prompt)
    step_arithmetic = base.flop_seconds * batch
    context = prompt + answer / 2
    step_traffic = (
        weights * base.model.expert_share(batch) + batch * context * base.kv_bytes_per_token * base.byte_seconds
    )
    prefill = max(arithmetic, traffic)
    decode = answer * max(step_arithmetic, step_traffic) / batch
    computing = (prefill if arithmetic > traffic else 0.0) + (decode if step_arithmetic > step_traffic else 0.0)
    return Bound(
        gpu=replica.gpu,
        tensor_parallel=replica.tensor_parallel,
        batch=batch,
        prefill_ratio=arithmetic / traffic,
        decode_ratio=step_arithmetic / step_traffic,
        prefill_share=prefill / (prefill + decode),
        compute_share=computing / (prefill + decode),
    )
