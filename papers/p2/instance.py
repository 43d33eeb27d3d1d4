"""An instance of P2's model (P_DM, eq. 5a-5k) and a seeded generator of the paper's sizes.

P2 prints ranges for most parameters and nothing for some. Each constant says where it comes from: [T] printed in v1,
[S] the same authors' earlier open code (LLM-RO), [R] our reconstruction because the paper does not give it.

Indices follow the paper: i query type, j model, k tier (GPU type and precision).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice

Shape = tuple[int, int]
"""(n, m): tensor-parallel and pipeline-parallel degree of the one group that an active (model, tier) runs."""
Grid = tuple[tuple[tuple[float, ...], ...], ...]
"""One number per query type, model and tier."""

SIZES = ((4, 4, 5), (6, 6, 10), (10, 10, 10), (15, 15, 10), (20, 20, 20))
"""(I, J, K) of Table 5 [T]."""
TENSOR_PARALLEL = (1, 2, 4, 8)  # [T]
PIPELINE_PARALLEL = (1, 2, 4)  # [T]
HORIZON_HOURS = 24.0  # Delta_T [T]
BUDGET = 100.0  # delta, $ per horizon, base case with six query types [T]
STORAGE_CAP_GB = 1000.0  # C_s, with six query types [T]
STORAGE_PRICE = (0.0005, 0.001)  # p^s, $/GB/h [T]
UTILISATION = 0.9  # eta [T]
SECONDS_PER_HOUR = 3600.0  # T_conv [T]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryType:
    """What users ask (index i)."""

    name: str
    arrivals_per_hour: float
    """lambda_i"""
    input_tokens: int
    """h_i"""
    output_tokens: int
    """f_i"""
    stored_kb_per_token: float
    """theta_i"""
    delay_slo_seconds: float
    """Delta_i"""
    error_slo: float
    """eps_i"""
    delay_penalty_per_ms: float
    """rho_i, $ per ms of mean delay; as printed it carries no arrival rate."""
    unmet_penalty: float
    """phi_i, $ for leaving the whole type unserved; as printed it carries no arrival rate."""
    unserved_cap: float = 1.0
    """zeta_i; not printed. 1 lets every instance have an answer [R]."""

    @property
    def tokens(self) -> int:
        """r_i = h_i + f_i."""
        return self.input_tokens + self.output_tokens

    @property
    def stored_gb(self) -> float:
        """theta_i r_i lambda_i: what one hour of arrivals keeps, in GB."""
        return self.stored_kb_per_token * self.tokens * self.arrivals_per_hour / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that may answer (index j)."""

    name: str
    weights_gb: float
    """B_j; P2 does not scale it by precision."""
    kv_gb_per_token: float
    """beta_j"""
    gflop_per_token: float
    """alpha; printed with indices i, j, k, but "from model FLOPs", so of the model alone [R]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A GPU type at a precision (index k)."""

    name: str
    memory_gb: float
    """C_k, per GPU"""
    peak_tflops: float
    """P_k, per GPU"""
    price_per_hour: float
    """p^c_k, $ per GPU and hour"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """All data of one P_DM."""

    query_types: tuple[QueryType, ...]
    models: tuple[Model, ...]
    tiers: tuple[Tier, ...]
    compute_seconds_per_token: Grid
    """d^comp"""
    link_seconds_per_token: Grid
    """d^comm"""
    residence_seconds: Grid
    """T^res, for the KV term of (5f)"""
    error_rate: Grid
    """e"""
    storage_price_per_gb_hour: float
    """p^s"""
    budget: float
    """delta, $ per horizon; (5c) charges storage to it too"""
    storage_cap_gb: float
    """C_s"""
    tensor_parallel: tuple[int, ...] = TENSOR_PARALLEL
    pipeline_parallel: tuple[int, ...] = PIPELINE_PARALLEL
    horizon_hours: float = HORIZON_HOURS
    utilisation: float = UTILISATION

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every (n, m)."""
        return tuple((n, m) for n in self.tensor_parallel for m in self.pipeline_parallel)

    def delay_seconds(self, i: int, j: int, k: int, shape: Shape) -> float:
        """D_ij^k(n, m) = d^comp r_i / n + m d^comm f_i (section 2.3 of our dossier)."""
        n, m = shape
        kind = self.query_types[i]
        compute = self.compute_seconds_per_token[i][j][k] * kind.tokens / n
        return compute + m * self.link_seconds_per_token[i][j][k] * kind.output_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """A solution: what runs, who is placed where, who is routed where."""

    shapes: dict[tuple[int, int], Shape]
    """(j, k) -> (n, m) of the active pairs: q, w and y = nm in one."""
    routes: dict[tuple[int, int, int], float]
    """(i, j, k) -> x, where positive"""
    unserved: tuple[float, ...]
    """u_i"""
    placed: frozenset[tuple[int, int, int]]
    """(i, j, k) with z = 1"""


Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Type:
    """Ranges of one query type. Lengths and base errors [S]."""

    name: str
    tokens: tuple[int, int]
    base_error: Range
    arrivals: Range
    """Per hour; the first and the last type are [T], those between [R]."""
    stored_kb: Range
    """[T]; every text type alike"""
    delay_slo: Range
    """Seconds. [T] prints only 1.5-25 over all types; the split is [R]."""
    error_slo: Range
    """[T] prints only 2-8 % over all types; the split is [R]."""
    delay_penalty: Range
    """[T] but for Code [R]"""
    unmet_penalty: Range
    """[T]"""


_TEXT, _MEDIA = (1000.0, 1500.0), (2000.0, 3000.0)
_TYPES = (
    _Type("Summarization", (512, 256), (0.03, 0.05), (18e3, 25e3), (10, 14), (3, 6), (0.02, 0.03), (1e-4, 3e-4), _TEXT),
    _Type("Code", (256, 512), (0.02, 0.03), (6e3, 1e4), (10, 14), (3, 6), (0.02, 0.03), (3e-4, 5e-4), _TEXT),
    _Type(
        "Translation", (128, 128), (0.02, 0.03), (8e3, 12e3), (10, 14), (1.5, 2.5), (0.02, 0.03), (1e-4, 3e-4), _TEXT
    ),
    _Type("Math", (64, 256), (0.05, 0.07), (5e3, 8e3), (10, 14), (1.5, 3), (0.02, 0.03), (5e-4, 8e-4), _TEXT),
    _Type("Image", (32, 1024), (0.06, 0.08), (1e3, 2e3), (40, 60), (6, 12), (0.03, 0.06), (5e-4, 1e-3), _MEDIA),
    _Type("Video", (48, 2048), (0.08, 0.10), (1e3, 3e3), (80, 120), (12, 25), (0.04, 0.08), (5e-4, 1e-3), _MEDIA),
)
_TASK_OVERHEAD = (1.0, 2.5)
"""tau_i in d^comp = tau_i B_j sigma_k / BW_k; not printed [R]."""


@dataclass(frozen=True, slots=True)
class _Model:
    """One of the six models. Weights and capacity (divisor of the error) [S]; KV by 2 layers heads dim 2 B [R]."""

    name: str
    weights_gb: float
    capacity: float
    kv_micro_gb_per_token: float
    hidden: int


_MODELS = (
    _Model("1B", 2, 0.5, 30.5, 2048),
    _Model("3B", 6, 1.5, 107, 3072),
    _Model("8B", 16, 3, 122, 4096),
    _Model("11B-V", 22, 2.5, 153, 4096),
    _Model("31B", 62, 5, 200, 6144),  # 810 GB in the earlier code, labelled a typo there; 2 bytes a parameter [R]
    _Model("70B", 140, 8, 305, 8192),
)
_SIZE_JITTER = (0.8, 1.25)
"""Models beyond the sixth are the six again at a drawn multiple of their size and capacity [R]."""


@dataclass(frozen=True, slots=True)
class _Card:
    """A GPU type. P2 prints 24 GB for the A6000; the card and the authors' earlier code have 48 [S]."""

    memory_gb: float
    bandwidth_gb_per_s: float
    """[T] prints 768-3350 over all; by card from the makers' data sheets [R]"""
    link_gb_per_s: float
    """[T] prints NVLink 600-900"""
    list_price: float
    """$/h, within the printed 0.35-2.50 [R]"""


_CARDS = {
    "A6000": _Card(48, 768, 600, 0.65),
    "RTX 4090": _Card(24, 1008, 600, 0.35),
    "A100-40": _Card(40, 1555, 600, 1.20),
    "H100-80": _Card(80, 3350, 900, 2.50),
}
_TIERS = (  # the ten names [S]; peak TFLOPS printed only as 40.7-1484, rebuilt by the 1 : 1.5 : 2 precision pattern [R]
    ("A6000", "FP16", 40.7),
    ("RTX 4090", "FP16", 82.6),
    ("RTX 4090", "INT4", 165.2),
    ("A100-40", "FP16", 312.0),
    ("H100-80", "FP16", 989.0),
    ("A6000", "INT8", 58.1),
    ("A6000", "INT4", 77.4),
    ("RTX 4090", "INT8", 123.9),
    ("A100-40", "INT8", 468.0),
    ("H100-80", "INT8", 1483.5),
)
_PRICE_JITTER = (0.8, 1.2)
_BYTES_SHARE = {"FP16": 1.0, "INT8": 0.5, "INT4": 0.25}  # sigma_k [T]
_ERROR_INFLATION = {"FP16": 1.0, "INT8": 1.15, "INT4": 1.35}  # [T]


def generate(size: tuple[int, int, int], seed: int) -> Instance:
    """An instance with (I, J, K) query types, models and tiers; the same size and seed give the same instance.

    Smaller than (6, 6, 10): the first of each list (the tiers are listed so that the first five have every card). Larger:
    the lists again, query types and tier prices drawn anew, models at a drawn multiple of their size. P2 does not say how
    it goes beyond six types, nor whether budget and storage grow; both grow by I/6 here, or nothing would fit [R].
    """
    draw = random.Random(seed).uniform
    many_types, many_models, many_tiers = size
    kinds = tuple(islice(cycle(_TYPES), many_types))
    query_types = tuple(
        QueryType(
            name=_numbered(kind.name, i // len(_TYPES)),
            arrivals_per_hour=draw(*kind.arrivals),
            input_tokens=kind.tokens[0],
            output_tokens=kind.tokens[1],
            stored_kb_per_token=draw(*kind.stored_kb),
            delay_slo_seconds=draw(*kind.delay_slo),
            error_slo=draw(*kind.error_slo),
            delay_penalty_per_ms=draw(*kind.delay_penalty),
            unmet_penalty=draw(*kind.unmet_penalty),
        )
        for i, kind in enumerate(kinds)
    )
    overhead = [draw(*_TASK_OVERHEAD) for _ in kinds]
    base_error = [draw(*kind.base_error) for kind in kinds]

    bases = tuple(islice(cycle(_MODELS), many_models))
    scale = [1.0 if j < len(_MODELS) else draw(*_SIZE_JITTER) for j in range(many_models)]
    models = tuple(
        Model(
            name=_numbered(base.name, j // len(_MODELS)),
            weights_gb=base.weights_gb * scale[j],
            kv_gb_per_token=base.kv_micro_gb_per_token * scale[j] * 1e-6,
            gflop_per_token=base.weights_gb * scale[j],  # 2 FLOP a parameter, 2 bytes a parameter: GFLOP = GB
        )
        for j, base in enumerate(bases)
    )
    grades = tuple(islice(cycle(_TIERS), many_tiers))
    cards = tuple(_CARDS[card] for card, _, _ in grades)
    tiers = tuple(
        Tier(
            name=_numbered(f"{card} {precision}", k // len(_TIERS)),
            memory_gb=_CARDS[card].memory_gb,
            peak_tflops=peak,
            price_per_hour=_CARDS[card].list_price * draw(*_PRICE_JITTER),
        )
        for k, (card, precision, peak) in enumerate(grades)
    )
    growth = max(1.0, many_types / len(_TYPES))
    return Instance(
        query_types=query_types,
        models=models,
        tiers=tiers,
        compute_seconds_per_token=_grid(
            size,
            lambda i, j, k: (
                overhead[i] * models[j].weights_gb * _BYTES_SHARE[grades[k][1]] / cards[k].bandwidth_gb_per_s
            ),
        ),
        # one activation of 2 bytes a hidden unit crosses the link for each token: nanoseconds, so PP is all but free [R]
        link_seconds_per_token=_grid(size, lambda _, j, k: bases[j].hidden * 2e-9 / cards[k].link_gb_per_s),
        residence_seconds=_grid(
            size, lambda i, j, k: query_types[i].tokens * models[j].kv_gb_per_token / cards[k].bandwidth_gb_per_s
        ),
        error_rate=_grid(
            size, lambda i, j, k: base_error[i] / (bases[j].capacity * scale[j]) * _ERROR_INFLATION[grades[k][1]]
        ),
        storage_price_per_gb_hour=draw(*STORAGE_PRICE),
        budget=BUDGET * growth,
        storage_cap_gb=STORAGE_CAP_GB * growth,
    )


def _numbered(name: str, lap: int) -> str:
    return name if lap == 0 else f"{name} ({lap + 1})"


def _grid(size: tuple[int, int, int], value: Callable[[int, int, int], float]) -> Grid:
    rows, columns, layers = (range(length) for length in size)
    return tuple(tuple(tuple(value(i, j, k) for k in layers) for j in columns) for i in rows)
