"""How engines differ: factors on the kernels' times, fitted on end-to-end measurements.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. Kernel tables are taken kernel by kernel, so
what an engine adds (launches, scheduling, sampling) and how kinds of kernels fare in a running engine are left to a fit:

    iteration = pace x (sum over kinds of factor x kernels) x bubbles + launch x layers + step + sequence x requests

The factors by kind are one set for all engines; ``pace``, ``launch``, ``step`` and ``sequence`` belong to an engine.
``benchmarks/fit_rates.py`` fits them on the measurements of the fitting part (``profiles.split``) and prints the errors on
groups left out. The constants below were fitted by an earlier form of it, before experts had two factors: a fit by the
present form brings the median error on the fitting part from 7.3 to 6.8 % (saturated) and from 10.1 to 9.7 % (by
concurrency).
"""

from typing import NamedTuple


class Factors(NamedTuple):
    """By kind of kernel, see ``forward``; numbers without a unit."""

    products: float
    experts: float
    experts_of_many: float
    """Where an expert gets many tokens, as in reading prompts: engines have better kernels for it than the tables."""
    small: float
    sums: float
    sums_over_pcie: float
    head: float
    generation: float
    context: float
    bubble: float
    """Part of an iteration that each further pipeline stage loses to stages that are not equally long."""
    borrowed_over_pcie: float
    """Cards that run a table of an SXM module within the power of a PCIe card, as the A100 does."""


class Engine(NamedTuple):
    """What belongs to one engine."""

    pace: float
    launch_seconds: float
    """A layer."""
    step_seconds: float
    sequence_seconds: float
    """A running request."""
    reserved_share_of_output: float
    """Part of a request's answer for which KV cache is held on average. TensorRT-LLM's usual policy reserves all of it
    ("guaranteed no evict"); paged engines hold half of it on average, and a little more so as not to preempt."""


FACTORS = Factors(0.98, 1.09, 0.57, 0.85, 1.23, 1.37, 0.95, 1.0, 1.24, 0.12, 1.25)

ENGINES: dict[str, Engine] = {
    "tensorrt-llm": Engine(0.99, 8.0e-6, 0.56e-3, 3.9e-6, 1.0),
    "vllm": Engine(0.97, 16.5e-6, 0.61e-3, 4.4e-6, 0.55),
    "sglang": Engine(1.06, 18.3e-6, 0.75e-3, 15.8e-6, 0.55),
}


def engine_of(name: str) -> Engine:
    """The engine's constants; of an unknown one those of vLLM."""
    return ENGINES.get(name.lower(), ENGINES["vllm"])
