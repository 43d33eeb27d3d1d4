"""Times of single kernels: matrix products, attention, experts, sums over a group of GPUs.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. A kernel's time is

    time = (roofline + 2 us) x exp(max(r, 0))        roofline = max(operations / peak, bytes / bandwidth)

with r interpolated in a table of measured kernels over the logarithms of the sizes (``data/kernels.npz``, made by
``benchmarks/reduce_kernels.py`` from aiconfigurator-core 0.12.0). The roofline uses the card's own peaks, so with one table a
faster card is never slower. A card without a table uses that of the most similar card (``reference_of``): it gives the part of
the peaks that a kernel reaches on that architecture.
"""

import math
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servingplan.model.hardware import GpuType

type Array = npt.NDArray[np.float64]
type Numbers = Array | float
"""Numbers, or arrays of them that are broadcast against each other."""

FLOOR_SECONDS = 2e-6
"""The time of the shortest kernel: the start and end of any work on a GPU. It is in every prediction, so that r stays finite
for tiny sizes."""
WIDE_BYTES = 2.0
"""Bytes of one activation in memory (16 bits)."""


class Peaks(NamedTuple):
    """The peaks of a card: bytes/s of memory and of its link, and operations/s by compute family."""

    bandwidth: float
    bf16: float
    fp8: float
    fp4: float
    link: float
    """Bytes/s to its peers, in one direction."""

    def operations(self, family: str) -> float:
        """The peak of a compute family (bf16, fp8 or fp4), in operations/s."""
        return {"bf16": self.bf16, "fp8": self.fp8, "fp4": self.fp4}[family]


class Format(NamedTuple):
    """How weights are stored and multiplied."""

    weight_bytes: float
    """Bytes per weight, with its share of the scales."""
    compute: str
    """The compute family, which is a field of ``Peaks``."""


FORMATS: dict[str, Format] = {
    "bf16": Format(2.0, "bf16"),
    "fp8": Format(1.0, "fp8"),
    "fp8_block": Format(1.0 + 4 / 128**2, "fp8"),
    "int8": Format(1.0, "bf16"),
    "int4": Format((4 + 20 / 128) / 8, "bf16"),
    "fp4": Format((4 + 8 / 16) / 8, "fp4"),
    "mxfp4": Format((4 + 8 / 32) / 8, "bf16"),
    "mxfp4_fp8": Format((4 + 8 / 32) / 8, "fp8"),
}
"""``fp8_block`` has one scale for 128 x 128 weights, ``mxfp4`` one for 32; see ``model.llm.PRECISIONS`` for the others."""

TABLE_PEAKS: dict[str, Peaks] = {
    "a100_sxm": Peaks(2.039e12, 312e12, 312e12, 312e12, 300e9),
    "l40s": Peaks(0.864e12, 362.05e12, 733e12, 362.05e12, 32e9),
    "h100_sxm": Peaks(3.35e12, 989e12, 1978e12, 989e12, 450e9),
    "h200_sxm": Peaks(4.8e12, 989e12, 1978e12, 989e12, 450e9),
    "b200_sxm": Peaks(7.7e12, 2250e12, 4500e12, 9000e12, 900e9),
    "b300_sxm": Peaks(7.75e12, 2250e12, 4500e12, 14000e12, 900e9),
    "gb200": Peaks(8e12, 2500e12, 5000e12, 10000e12, 900e9),
    "gb300": Peaks(8e12, 2500e12, 5000e12, 15000e12, 900e9),
    "rtx_pro_6000_server": Peaks(1.792e12, 467.8e12, 935.6e12, 1871.2e12, 64e9),
}
"""The peaks of the cards on which the tables were measured, from the same package's ``systems/*.yaml``. A
family for which a card has no units has the peak of 16 bits."""

_OF_CARD = {
    "a100-sxm4-80gb": "a100_sxm",
    "l40s": "l40s",
    "h100-sxm-80gb": "h100_sxm",
    "h200-sxm-141gb": "h200_sxm",
    "b200-180gb": "b200_sxm",
    "b300-288gb": "b300_sxm",
    "gb200-192gb": "gb200",
    "gb300-288gb": "gb300",
    "rtx-pro-6000-96gb": "rtx_pro_6000_server",
}
"""Cards of the catalogue that were measured."""
_RELATIVES = {
    "a100-40gb-sxm": "a100_sxm",
    "a100-40gb-pcie": "a100_sxm",
    "a100-pcie-80gb": "a100_sxm",
    "a30": "a100_sxm",
    "h100-pcie-80gb": "h100_sxm",
    "h100-nvl-94gb": "h100_sxm",
    "gh200-96gb": "h100_sxm",
    "h200-nvl-141gb": "h200_sxm",
    "l4": "l40s",
    "l4-24gb": "l40s",
    "l40": "l40s",
    "l40-48gb": "l40s",
    "rtx4090": "l40s",
    "rtx5090": "rtx_pro_6000_server",
}
"""Cards of the catalogue whose chip was measured on another card."""
_PCIE_AT_MOST = 100e9
"""A link with more bytes/s in one direction counts as NVLink."""


def _ladder(*sizes: int) -> Array:
    return np.log(np.array(sizes, dtype=float))


_WIDTHS = _ladder(128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 65536)
GEMM_AXES = (_ladder(1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384), _WIDTHS, _WIDTHS)
GENERATION_AXES = (
    _ladder(1, 4, 16, 64, 256, 1024, 4096, 16384),
    _ladder(32, 128, 512, 2048, 8192, 32768, 131072),
    _ladder(1, 4, 8, 16),
    _ladder(64, 128, 256),
)
CONTEXT_AXES = (
    _ladder(1, 4, 16, 64, 256, 1024),
    _ladder(16, 64, 256, 1024, 2048, 4096, 8192, 16384),
    _ladder(64, 128, 256),
)
EXPERTS_AXES = (
    np.log(np.array([1 / 256, 1 / 32, 1 / 8, 1 / 2, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048])),
    _ladder(2**17, 2**19, 2**21, 2**23, 2**25, 2**27),
    _ladder(1, 4, 16, 64, 128, 256, 512),
)
ALL_REDUCE_AXES = (_ladder(2, 4, 8), _ladder(*(4**power for power in range(4, 16))))


def gemm_roof(peaks: Peaks, name: str, tokens: Numbers, columns: Numbers, rows: Numbers) -> Array:
    """Seconds of (tokens x rows) times (rows x columns): the time of the operations or of the bytes, whichever is longer."""
    kind = FORMATS[name]
    operations = 2.0 * tokens * columns * rows / peaks.operations(kind.compute)
    moved = columns * rows * kind.weight_bytes + tokens * rows * min(WIDE_BYTES, 1.0 + (kind.compute == "bf16"))
    seconds: Array = np.maximum(operations, (moved + WIDE_BYTES * tokens * columns) / peaks.bandwidth)
    return seconds


def generation_roof(
    peaks: Peaks, kv_name: str, batch: Numbers, context: Numbers, kv_heads: Numbers, group: Numbers, width: Numbers
) -> Array:
    """Seconds to attend from one token of each request to its context. Keys and values are read once per KV head."""
    values = 2.0 * batch * context * kv_heads * width
    seconds: Array = np.maximum(
        values * FORMATS[kv_name].weight_bytes / peaks.bandwidth, 2.0 * values * group / peaks.bf16
    )
    return seconds


def context_roof(peaks: Peaks, batch: Numbers, tokens: Numbers, past: Numbers, heads: Numbers, width: Numbers) -> Array:
    """Seconds to attend from each token of a prompt to those before it; ``past`` tokens were read in earlier iterations."""
    operations = 4.0 * batch * heads * width * tokens * (past + tokens / 2.0)
    moved = WIDE_BYTES * batch * heads * width * (2.0 * tokens + past)
    seconds: Array = np.maximum(operations / peaks.bf16, moved / peaks.bandwidth)
    return seconds


def experts_roof(
    peaks: Peaks,
    name: str,
    tokens: Numbers,
    chosen: Numbers,
    experts: Numbers,
    spread_over: Numbers,
    hidden: Numbers,
    width: Numbers,
) -> Array:
    """Seconds of the experts of one layer on one GPU, with three matrices of (hidden x width) per expert.

    If a token takes k of E experts, each equally likely, an expert gets no token with probability ``(1 - k/E) ** tokens``; only
    the other experts are read. The experts are divided among ``spread_over`` GPUs (expert parallel).
    """
    kind = FORMATS[name]
    read = experts / spread_over * -np.expm1(tokens * np.log1p(-np.minimum(chosen / experts, 1.0 - 1e-9)))
    multiplied = tokens * chosen / spread_over
    moved = 3.0 * read * hidden * width * kind.weight_bytes + WIDE_BYTES * multiplied * (2.0 * hidden + 3.0 * width)
    seconds: Array = np.maximum(
        6.0 * multiplied * hidden * width / peaks.operations(kind.compute), moved / peaks.bandwidth
    )
    return seconds


def all_reduce_roof(peaks: Peaks, gpus: Numbers, size: Numbers) -> Numbers:
    """Seconds of the all-reduce of ``size`` bytes over GPUs in a ring: ``2 (n-1)/n`` of the bytes pass every link."""
    return 2.0 * (gpus - 1.0) / gpus * size / peaks.link


class Kernels(NamedTuple):
    """Kernel times of one card. Sizes may be arrays and are broadcast; times are seconds."""

    peaks: Peaks
    reference: str
    """The system whose tables are used."""
    link_reference: str
    """The system whose table of all-reduce is used."""

    def gemm(self, name: str, tokens: Array, columns: float, rows: float) -> Array:
        """Seconds of (tokens x rows) times (rows x columns) with weights of a format."""
        table = self._table(f"gemm/{name}")
        points = (np.log(tokens), math.log(columns), math.log(rows))
        return self._time(gemm_roof(self.peaks, name, tokens, columns, rows), table, GEMM_AXES, points)

    def generation(
        self, kv_name: str, batch: Array, context: Array, *, kv_heads: float, group: float, width: float
    ) -> Array:
        """Seconds of the attention of one new token of each request."""
        roof = generation_roof(self.peaks, kv_name, batch, context, kv_heads, group, width)
        points = (np.log(batch * kv_heads), np.log(context), math.log(group), math.log(width))
        return self._time(roof, self._table(f"generation/{kv_name}"), GENERATION_AXES, points)

    def context(self, tokens: Array, past: Array | float, *, heads: float, width: float) -> Array:
        """Seconds of the attention of a prompt's tokens to those before them."""
        roof = context_roof(self.peaks, 1.0, tokens, past, heads, width)
        points = (math.log(heads), np.log(tokens + past), math.log(width))
        return self._time(roof, self._table("context/bf16"), CONTEXT_AXES, points)

    def experts(
        self,
        name: str,
        tokens: Array,
        *,
        chosen: float,
        experts: float,
        spread_over: float,
        hidden: float,
        width: float,
    ) -> Array:
        """Seconds of the routed experts of one layer on one GPU. The tables have experts that are chosen by a power law of
        exponent 1.2."""
        roof = experts_roof(self.peaks, name, tokens, chosen, experts, spread_over, hidden, width)
        points = (np.log(tokens * chosen / experts), math.log(hidden * width), math.log(experts / spread_over))
        return self._time(roof, self._table(f"experts/{name}"), EXPERTS_AXES, points)

    def all_reduce(self, gpus: int, size: Array) -> Array:
        """Seconds of the all-reduce of ``size`` bytes over the GPUs of a group."""
        if gpus == 1:
            return np.zeros_like(size)
        table = _table(f"{self.link_reference}/all_reduce")
        roof = np.asarray(all_reduce_roof(self.peaks, float(gpus), size))
        return self._time(roof, table, ALL_REDUCE_AXES, (math.log(gpus), np.log(size)))

    def _table(self, name: str) -> Array | None:
        return _first_table(self.reference, name)

    def _time(
        self, roof: Array, table: Array | None, axes: tuple[Array, ...], points: tuple[Array | float, ...]
    ) -> Array:
        ratio = 0.0 if table is None else interpolated(table, axes, points)
        seconds: Array = (roof + FLOOR_SECONDS) * np.exp(np.maximum(ratio, 0.0))
        return seconds


def kernels_of(gpu: GpuType) -> Kernels:
    """The kernel times of a card."""
    reference = reference_of(gpu)
    wide = gpu.bf16_dense_tflops * 1e12
    fp8 = (gpu.fp8_dense_tflops or gpu.bf16_dense_tflops) * 1e12
    fp4 = gpu.fp4_dense_tflops * 1e12 if gpu.fp4_dense_tflops else wide
    peaks = Peaks(gpu.memory_bytes_per_second, wide, fp8, fp4, gpu.link_bytes_per_second)
    fast = has_fast_link(gpu)
    link = reference if fast == (TABLE_PEAKS[reference].link > _PCIE_AT_MOST) else ("h100_sxm" if fast else "l40s")
    return Kernels(peaks, reference, link)


def is_measured(gpu: GpuType) -> bool:
    """Whether the kernels of this very card were measured."""
    return gpu.name.lower() in _OF_CARD


def is_related(gpu: GpuType) -> bool:
    """Whether the kernels of a card with the same chip were measured."""
    return gpu.name.lower() in _RELATIVES


def has_fast_link(gpu: GpuType) -> bool:
    """Whether a card's link to its peers is faster than PCIe, as NVLink is."""
    return gpu.link_bytes_per_second > _PCIE_AT_MOST


def borrows_over_pcie(gpu: GpuType) -> bool:
    """Whether a PCIe card uses the table of an SXM module."""
    return not is_measured(gpu) and not has_fast_link(gpu) and TABLE_PEAKS[reference_of(gpu)].link > _PCIE_AT_MOST


def reference_of(gpu: GpuType) -> str:
    """The system whose table applies: the card's own, that of a card with the same chip, or one of the same architecture.

    The compute units of a card show its architecture: FP4 (Blackwell), FP8 (Hopper, or Ada if it has only PCIe), neither
    (Ampere).
    """
    name = gpu.name.lower()
    known = _OF_CARD.get(name) or _RELATIVES.get(name)
    if known is not None:
        return known
    if gpu.fp4_dense_tflops is not None:
        return "b200_sxm" if has_fast_link(gpu) else "rtx_pro_6000_server"
    if gpu.fp8_dense_tflops is not None:
        return "h100_sxm" if has_fast_link(gpu) else "l40s"
    return "a100_sxm"


_SUBSTITUTES = {"fp8_block": "fp8", "mxfp4_fp8": "mxfp4", "mxfp4": "int4", "fp4": "int4", "fp8": "bf16"}
_FALLBACKS = ("b200_sxm", "h100_sxm", "a100_sxm")


@cache
def _first_table(reference: str, name: str) -> Array | None:
    """The table of a kernel on a system, else on another system, else for the nearest format; None if there is none."""
    operation, _, form = name.partition("/")
    while True:
        for system in (reference, *_FALLBACKS):
            found = _table(f"{system}/{operation}/{form}")
            if found is not None:
                return found
        if form not in _SUBSTITUTES:
            return _table(f"{reference}/{operation}/bf16")
        form = _SUBSTITUTES[form]


@cache
def _tables() -> dict[str, Array]:
    with (resources.files("servingplan.profiles") / "data" / "kernels.npz").open("rb") as file, np.load(file) as tables:
        return dict(tables)


@cache
def _table(name: str) -> Array | None:
    found = _tables().get(name)
    return None if found is None else found.astype(float)


def interpolated(table: Array, axes: tuple[Array, ...], points: tuple[Array | float, ...]) -> Array:
    """The multilinear interpolation on a rectangular grid; outside the grid, the nearest value on its border."""
    corners: list[tuple[tuple[npt.NDArray[np.intp], ...], Array | float]] = [((), 1.0)]
    for axis, point in zip(axes, points, strict=True):
        clipped = np.minimum(np.maximum(point, axis[0]), axis[-1])
        low = np.minimum(axis.searchsorted(clipped, side="right") - 1, len(axis) - 2)
        part = (clipped - axis[low]) / (axis[low + 1] - axis[low])
        corners = [
            ((*index, low + step), weight * (part if step else 1.0 - part))
            for index, weight in corners
            for step in (0, 1)
        ]
    total: Array = sum(weight * table[index] for index, weight in corners)  # type: ignore[assignment]
    return total
