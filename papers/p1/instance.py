"""The instances of P1 as planning questions: printed prices, stock and mixes; rates from the project's profiles.

P1 prints its rates in figures only, so none can be taken over. Every number in the tables of this module is printed in the
paper; where the instances need something that is not, the docstring says so.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from servingplan.model.engine import EngineSettings
from servingplan.model.question import Pool, Question, RequestClass, Shape
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import MAX_BATCH, Estimate, divisible_shapes, estimate
from servingplan.replay.mixes import LENGTHS, MIXES

DOLLARS_PER_HOUR = {
    "RTX4090": 0.53, "A40": 0.55, "A6000": 0.83, "L40": 0.83, "A100-SXM-80GB": 1.75, "H100-SXM-80GB": 2.99,
}  # fmt: skip
"""Price of one GPU by type (table 1)."""
STOCK = {
    1: (16, 12, 8, 12, 6, 8), 2: (32, 8, 16, 16, 7, 12), 3: (32, 16, 8, 8, 32, 8), 4: (24, 24, 24, 16, 4, 8),
}  # fmt: skip
"""GPUs by type, in the order of the prices, in each of the four availability snapshots (table 4)."""
BUDGETS_DOLLARS_PER_HOUR = (15.0, 30.0, 60.0)
PARTS: Mapping[str, Mapping[str, float]] = {
    "70B": {"Llama-3.1-70B": 1.0},
    "8B": {"Llama-3.1-8B": 1.0},
    "pair": {"Llama-3.1-70B": 0.2, "Llama-3.1-8B": 0.8},
}
"""Share of the requests by model; the pair is that of appendix E. The paper has Llama 3, the profiles 3.1."""
SETTINGS = EngineSettings(max_model_len=4096, max_num_seqs=MAX_BATCH)
"""Not printed; holds the longest request."""
MOST_GPUS = 8
"""GPUs of the largest replica (figure 4)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the grid."""

    models: str
    """Key of `PARTS`"""
    mix: str
    """Key of `MIXES`"""
    budget_dollars_per_hour: float
    stock: int
    """Key of `STOCK`"""

    @property
    def name(self) -> str:
        """What tables and messages call it."""
        return f"{self.models} {self.mix} {self.budget_dollars_per_hour:g} $/h Avail {self.stock}"


def grid(models: str | None = None) -> Iterator[Cell]:
    """All cells, or those of one set of models."""
    wanted = PARTS if models is None else (models,)
    for cell in itertools.product(wanted, MIXES, BUDGETS_DOLLARS_PER_HOUR, STOCK):
        yield Cell(*cell)


def question_of(cell: Cell) -> Question:
    """The cell as a question: GPUs are rented singly, as in the paper."""
    stock = dict(zip(DOLLARS_PER_HOUR, STOCK[cell.stock], strict=True))
    return question_with(cell.models, cell.mix, cell.budget_dollars_per_hour, stock)


def homogeneous_question(cell: Cell, gpu: str) -> Question:
    """The paper's baseline: one GPU type of which there is as much as the budget can pay, all else tuned as in ours."""
    affordable = int(cell.budget_dollars_per_hour / DOLLARS_PER_HOUR[gpu] + 1e-9)
    return question_with(cell.models, cell.mix, cell.budget_dollars_per_hour, {gpu: affordable})


def stock_of_blocks(gpus: int) -> dict[str, int]:
    """A stock for figure 9, whose composition is not printed: fours of a type, the types in turn from the dearest."""
    stock = dict.fromkeys(DOLLARS_PER_HOUR, 0)
    turns = itertools.cycle(sorted(DOLLARS_PER_HOUR, key=lambda gpu: -DOLLARS_PER_HOUR[gpu]))
    for gpu, _ in zip(turns, range(gpus // 4), strict=False):
        stock[gpu] += 4
    return {gpu: count for gpu, count in stock.items() if count}


def question_with(models: str, mix: str, budget_dollars_per_hour: float, stock: Mapping[str, int]) -> Question:
    """The largest multiple of a mix that this stock can serve within the budget."""
    pools = tuple(
        Pool(name=gpu, gpus_per_node=1, dollars_per_node_hour=DOLLARS_PER_HOUR[gpu], max_nodes=count)
        for gpu, count in stock.items()
    )
    classes = tuple(
        RequestClass(name=f"{model}/{k}", model=model, requests_per_second=part * percent / 100)
        for model, part in PARTS[models].items()
        for k, percent in enumerate(MIXES[mix])
    )
    shapes = tuple(shape for model in PARTS[models] for gpu in stock for shape in shapes_of(model, gpu))
    return Question(
        objective="MaximizeService",
        budget_dollars_per_hour=budget_dollars_per_hour,
        pools=pools,
        classes=classes,
        shapes=shapes,
    )


@cache
def shapes_of(model: str, gpu: str) -> tuple[Shape, ...]:
    """Every replica of a model on one type of GPU that fits, with the rates that the project's profiles give it."""
    found = []
    for tp, pp in divisible_shapes(find_model(model), MOST_GPUS):
        rates = {
            f"{model}/{k}": rate
            for k, lengths in enumerate(LENGTHS)
            if (rate := _requests_per_second(model, gpu, tp, pp, lengths)) is not None
        }
        if rates:
            name = f"{model}/{gpu}/tp{tp}pp{pp}"
            found.append(Shape(name=name, model=model, gpus={gpu: tp * pp}, requests_per_second=rates))
    return tuple(found)


def shape_named(name: str) -> tuple[str, str, int, int]:
    """Model, GPU, tensor and pipeline parallel size of a shape of `shapes_of`."""
    model, gpu, sizes = name.split("/")
    tp, pp = sizes.removeprefix("tp").split("pp")
    return model, gpu, int(tp), int(pp)


def _requests_per_second(model: str, gpu: str, tp: int, pp: int, lengths: tuple[int, int]) -> float | None:
    tokens_in, tokens_out = lengths
    found = estimate(
        model=find_model(model), precision="bf16", gpu=find_gpu(gpu), tensor_parallel=tp, pipeline_parallel=pp,
        settings=SETTINGS, input_tokens=tokens_in, output_tokens=tokens_out,
        ttft_seconds=None, tpot_seconds=None,
    )  # fmt: skip
    return found.requests_per_second if isinstance(found, Estimate) else None
