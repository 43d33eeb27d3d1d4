"""How engines differ: factors on the kernels' times, fitted on end-to-end measurements.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. Kernel tables are taken kernel by kernel, so
what an engine adds (launches, scheduling, sampling) and how kinds of kernels fare in a running engine are left to a fit:

    iteration = pace x (sum over kinds of factor x kernels) x bubbles + launch x layers + step + sequence x requests

The factors by kind are one set for all engines; ``pace``, ``launch``, ``step`` and ``sequence`` belong to an engine.
``python -m benchmarks.fit_rates`` fits them on the measurements of the fitting part (``profiles.split``) and prints the errors
on groups left out. The constants below are what it gave on the shipped measurements, rounded.
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


FACTORS = Factors(0.952, 1.12, 0.623, 1.23, 1.28, 1.26, 0.95, 0.989, 1.28, 0.116, 1.27)

ENGINES: dict[str, Engine] = {
    "tensorrt-llm": Engine(0.994, 8.4e-6, 0.53e-3, 5.0e-6, 1.0),
    "vllm": Engine(0.941, 18.3e-6, 0.61e-3, 4.7e-6, 0.55),
    "sglang": Engine(1.113, 14.1e-6, 0.68e-3, 4.5e-6, 0.55),
}


def engine_of(name: str) -> Engine:
    """The engine's constants; of an unknown one those of vLLM."""
    return ENGINES.get(name.lower(), ENGINES["vllm"])
