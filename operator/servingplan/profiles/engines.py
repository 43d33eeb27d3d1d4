"""Constants of engines: factors on the kernels' times, fitted on end-to-end measurements.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. Kernel tables measure single kernels. The work
that an engine adds (launches, scheduling, sampling), and how much slower or faster kernels are in a running engine, are fitted:

    iteration = pace x (sum over kinds of factor x kernels) x bubbles + launch x layers + step + sequence x requests

All engines have the same factors by kind; ``pace``, ``launch``, ``step`` and ``sequence`` differ by engine.
``python -m benchmarks.fit_rates`` fits them on the measurements of the fitting part (``profiles.split``) and prints the errors
on groups that it left out. The constants below are its rounded results on the shipped measurements.
"""

from typing import NamedTuple


class Factors(NamedTuple):
    """Factors by kind of kernel, see ``forward``. They have no unit."""

    products: float
    experts: float
    experts_of_many: float
    """For experts with many tokens, as while prompts are read; engines have faster kernels for this than the tables."""
    small: float
    sums: float
    sums_over_pcie: float
    head: float
    generation: float
    context: float
    bubble: float
    """The part of an iteration that each further pipeline stage loses because stages are not equally long."""
    borrowed_over_pcie: float
    """For PCIe cards that use the table of an SXM module although they have less power, such as the A100 PCIe."""


class Engine(NamedTuple):
    """The constants of one engine."""

    pace: float
    launch_seconds: float
    """Seconds per layer and iteration."""
    step_seconds: float
    sequence_seconds: float
    """Seconds per running request and iteration."""
    reserved_share_of_output: float
    """The part of a request's answer for which KV cache is held on average. TensorRT-LLM's usual policy reserves all of it
    ("guaranteed no evict"). Paged engines hold half of it on average, and a little more to avoid preemption."""


FACTORS = Factors(0.952, 1.12, 0.623, 1.23, 1.28, 1.26, 0.95, 0.989, 1.28, 0.116, 1.27)

ENGINES: dict[str, Engine] = {
    "tensorrt-llm": Engine(0.994, 8.4e-6, 0.53e-3, 5.0e-6, 1.0),
    "vllm": Engine(0.941, 18.3e-6, 0.61e-3, 4.7e-6, 0.55),
    "sglang": Engine(1.113, 14.1e-6, 0.68e-3, 4.5e-6, 0.55),
}


def engine_of(name: str) -> Engine:
    """The constants of an engine; for an unknown engine those of vLLM."""
    return ENGINES.get(name.lower(), ENGINES["vllm"])
