"""A GPU type, as a planner needs it: what it holds, how fast it reads and computes, how it talks to its neighbours.

Flow: observe -> **model** -> solve -> render -> apply -> status. Observation names a GPU by the product string of its
node label; the catalogue (``servingplan.profiles.catalogue``) turns that into a ``GpuType``; profiles turn a
``GpuType`` and a model into rates.
"""

import re
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

BYTES_PER_NOMINAL_GB = 1.07e9
"""Bytes behind one GB on the label. Parts are sold in GiB (1.074e9 bytes) of which the driver keeps a little: an
"80 GB" H100 reports 81,559 MiB = 85.5e9 bytes, a "141 GB" H200 143,771 MiB = 150.8e9. Cards that keep ECC bits in the
same memory (A10G, L4, A40, L40S) report up to 6 % less than the rule: state ``memory_bytes`` for those."""

_SHARE = re.compile(r"-(?:MIG-\d+g\.[\w.+-]+|\d+g\.\d+gb[\w.+-]*|SHARED)$", re.IGNORECASE)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GpuType(BaseModel):
    """One kind of whole GPU. Peaks are dense: datasheets often print the doubled "with sparsity" figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    memory_gb: Positive
    """Nominal memory, as on the label."""
    memory_bytes: int | None = Field(default=None, gt=0)
    """Exact memory where known: the node label ``nvidia.com/gpu.memory`` x 2**20."""
    memory_bandwidth_gb_per_second: Positive
    bf16_dense_tflops: Positive
    """Also the peak for fp16, which the same units compute at the same speed (and the only one of the T4)."""
    fp8_dense_tflops: Positive | None = None
    """None where the card has no FP8 units: FP8 weights are then widened, and computed at the BF16 peak."""
    fp4_dense_tflops: Positive | None = None
    """None where the card has no FP4 units: FP4 weights are then widened."""
    int8_dense_tops: Positive | None = None
    """None where not stated; INT8 weights of the common checkpoints are widened anyway."""
    vendor: str = "nvidia"
    """``nvidia`` or ``amd``."""
    link_gb_per_second_per_direction: Positive
    """Nominal rate of one GPU to its peers inside the node, one direction."""
    nvlink: bool = False
    """True where that link is NVLink on every pair; False for PCIe, with or without optional bridges."""
    aliases: tuple[str, ...] = ()
    """Other names of the same whole card: node-label product strings, clouds' accelerator names, and instance types,
    where ``*`` stands for the size."""

    @property
    def usable_bytes(self) -> float:
        """Bytes that a process can see: ``memory_bytes``, or the rule of ``BYTES_PER_NOMINAL_GB``."""
        return float(self.memory_bytes) if self.memory_bytes is not None else self.memory_gb * BYTES_PER_NOMINAL_GB

    @property
    def memory_bytes_per_second(self) -> float:
        """Peak memory bandwidth in bytes per second."""
        return self.memory_bandwidth_gb_per_second * 1e9

    @property
    def link_bytes_per_second(self) -> float:
        """Nominal link rate of one direction in bytes per second."""
        return self.link_gb_per_second_per_direction * 1e9

    def flops(self, family: str) -> float:
        """Dense peak in FLOP/s for a compute family, ``bf16`` or ``fp8``; FP8 falls back to BF16 without FP8 units."""
        if family == "fp8" and self.fp8_dense_tflops is not None:
            return self.fp8_dense_tflops * 1e12
        return self.bf16_dense_tflops * 1e12

    def answers_to(self, product: str) -> bool:
        """Whether ``product`` names this card; case and the spaces that labels turn into dashes do not matter.

        A share never answers: GPU feature discovery appends ``-SHARED`` (time slicing, MPS) or ``-MIG-1g.10gb`` to the
        product, and neither has the memory or the speed of the card.
        """
        wanted = normalise_product(product)
        return any(fnmatchcase(wanted, normalise_product(name)) for name in (self.name, *self.aliases))


def normalise_product(product: str) -> str:
    """Spell a product name one way: lower case, runs of spaces and underscores as one dash."""
    return re.sub(r"[\s_]+", "-", product.strip()).lower()


def is_share(product: str) -> bool:
    """Whether a product string names a part of a card (MIG slice) or a time-shared card."""
    return _SHARE.search(re.sub(r"\s+", "-", product.strip())) is not None
