"""A language model, as a planner needs it: how many bytes it holds and reads, how many operations a token costs.

Flow: observe -> **model** -> solve -> render -> apply -> status. The catalogue (``servingplan.profiles.catalogue``)
knows the common models; users declare others inline with the same fields, which every published ``config.json`` has.
"""

import math
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

WIDE_BYTES = 2.0
"""Bytes of a 16-bit element, the width that embeddings and activations keep in every precision below."""


class Precision(NamedTuple):
    """How weights are stored and computed with."""

    bytes_per_weight: float
    """Stored bytes of one quantised weight, its share of the scales included."""
    compute: str
    """Compute family whose peak applies, ``bf16`` or ``fp8`` (see ``GpuType.flops``)."""


PRECISIONS: dict[str, Precision] = {
    "bf16": Precision(2.0, "bf16"),
    "fp16": Precision(2.0, "bf16"),
    "fp8": Precision(1.0, "fp8"),
    # Weight-only in the common checkpoints (W8A16): the multiplications stay 16 bits wide.
    "int8": Precision(1.0, "bf16"),
    # GPTQ/AWQ, groups of 128: 4 bits + a 16-bit scale and a 4-bit zero point a group.
    "int4": Precision((4 + 20 / 128) / 8, "bf16"),
    # NVFP4, blocks of 16 with an 8-bit scale. Before Blackwell it is weight-only; no FP4 peak is catalogued.
    "fp4": Precision((4 + 8 / 16) / 8, "bf16"),
    # OCP Microscaling (MX) 1.0: blocks of 32 with an 8-bit scale. Weight-only in the common checkpoints (gpt-oss).
    "mxfp4": Precision((4 + 8 / 32) / 8, "bf16"),
}
"""Known precisions. A table, not an enumeration: a new format is one more row."""


class UnknownPrecisionError(LookupError):
    """A precision that the table does not know."""

    def __init__(self, name: str) -> None:
        super().__init__(f"precision {name!r} is not known; known precisions: {', '.join(sorted(PRECISIONS))}")


def precision_of(name: str) -> Precision:
    """Look a precision up, whatever its case.

    Raises:
        UnknownPrecisionError: naming the known ones.
    """
    try:
        return PRECISIONS[name.lower()]
    except KeyError:
        raise UnknownPrecisionError(name) from None


_MARKS = (
    ("fp8", "fp8"),
    ("nvfp4", "fp4"),
    ("mxfp4", "mxfp4"),
    ("fp4", "fp4"),
    ("awq", "int4"),
    ("gptq", "int4"),
    ("w4a16", "int4"),
    ("int4", "int4"),
    ("w8a8", "int8"),
    ("w8a16", "int8"),
    ("int8", "int8"),
)
"""What published checkpoints have in their names, and vLLM in ``--quantization``, for each precision."""


def precision_named(text: str) -> str | None:
    """The precision that the name of a repository or of a way to quantise tells; None where it tells none."""
    return next((precision for mark, precision in _MARKS if mark in text.lower()), None)


class ModelCard(BaseModel):
    """The shape of one decoder-only transformer. Field names follow the model's published ``config.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    parameters: int = Field(gt=0)
    """All weights, embeddings included; of a mixture of experts every expert."""
    layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    attention_heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocabulary_size: int = Field(default=0, ge=0)
    """Rows of the embedding table, which quantised checkpoints keep at 16 bits; 0 counts all weights as quantised."""
    tied_embeddings: bool = False
    """Whether input and output share one embedding table."""
    active_parameters: int | None = Field(default=None, gt=0)
    """Weights that one token uses, for a mixture of experts; None for a dense model."""
    experts: int = Field(default=1, gt=0)
    experts_per_token: int = Field(default=1, gt=0)
    shared_experts: int = Field(default=0, ge=0)
    """Experts that every token passes through, beside the routed ones."""
    intermediate_size: int | None = Field(default=None, gt=0)
    """Width of the feed-forward network of a dense layer; None: not stated."""
    expert_intermediate_size: int | None = Field(default=None, gt=0)
    """Width of one expert."""
    dense_layers: int = Field(default=0, ge=0)
    """Layers of a mixture of experts that have a dense feed-forward network instead, or none at all."""
    attention_layers: int | None = Field(default=None, gt=0)
    """Layers that keep a KV cache, where others do not (linear attention, Mamba); None: all."""
    sliding_window: int | None = Field(default=None, gt=0)
    """Tokens that a layer with a sliding window looks back."""
    sliding_layers: int = Field(default=0, ge=0)
    """Layers with a sliding window."""
    kv_lora_rank: int | None = Field(default=None, gt=0)
    """Multi-head latent attention: width of the compressed keys and values; None: ordinary attention."""
    qk_rope_head_dim: int = Field(default=0, ge=0)
    """Multi-head latent attention: width of the part of a key that carries the position, kept once for all heads."""
    q_lora_rank: int | None = Field(default=None, gt=0)
    """Multi-head latent attention: width of the compressed queries; None: they are not compressed."""
    qk_nope_head_dim: int = Field(default=0, ge=0)
    """Multi-head latent attention: width of the part of a key without the position, of one head."""
    v_head_dim: int = Field(default=0, ge=0)
    """Width of the values of one head, where it is not ``head_dim``; 0: it is."""
    index_head_dim: int = Field(default=0, ge=0)
    """Sparse attention with an indexer (DeepSeek V3.2): width of the key that the indexer keeps of a token; 0: none."""
    state_bytes: int = Field(default=0, ge=0)
    """Recurrent state of one running sequence over all layers, however long it is (Mamba, linear attention), bytes."""
    max_context_tokens: int | None = Field(default=None, gt=0)
    """Longest sequence that the model was made for, rope scaling included; None: not stated."""
    precision: str = "bf16"
    """The precision of the published weights, a key of ``PRECISIONS``."""
    quantization: str | None = None
    """How the published weights are quantised: ``fp8``, ``awq``, ``gptq``, ``mxfp4``, ``nvfp4``, ``int8``, ``int4``;
    None: not."""
    quantized_part: Literal["linear", "experts"] = "linear"
    """What is quantised: all matrices but the embeddings, or the routed experts alone."""
    weight_block: tuple[int, int] | None = None
    """Rows and columns that share one scale, where weights are quantised in blocks; one row: groups of columns."""
    repository: str | None = None
    """Where the weights are published, ``organisation/name``; None: the name is no repository."""
    aliases: tuple[str, ...] = ()
    """Other names of the same shape: the last part of repository identifiers."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.attention_heads % self.kv_heads:
            raise ValueError(f"attention_heads {self.attention_heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} is above experts {self.experts}")
        if (self.active_parameters is not None) != (self.experts > 1):
            raise ValueError("a mixture of experts states both active_parameters and experts; a dense model neither")
        if self.active_parameters is not None and self.active_parameters > self.parameters:
            raise ValueError(f"active_parameters {self.active_parameters} is above parameters {self.parameters}")
        if self.kv_layers > self.layers:
            raise ValueError(f"attention_layers {self.attention_layers} is above layers {self.layers}")
        if self.sliding_layers > self.kv_layers or (self.sliding_layers > 0) != (self.sliding_window is not None):
            raise ValueError(
                f"sliding_layers {self.sliding_layers} and sliding_window {self.sliding_window} go together, "
                f"for at most {self.kv_layers} layers"
            )
        if self.embedding_parameters > self.parameters:
            raise ValueError(f"the embeddings alone have {self.embedding_parameters} of {self.parameters} parameters")
        return self

    @property
    def attention_width(self) -> int:
        """Width of the queries, ``attention_heads x head_dim``: mostly, but not always, the hidden size."""
        return self.attention_heads * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding table, and of the output head where it is a table of its own."""
        return self.vocabulary_size * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def parameters_per_token(self) -> int:
        """Weights that multiply one token: all of a dense model, the active ones of a mixture of experts."""
        return self.parameters if self.active_parameters is None else self.active_parameters

    @property
    def shape(self) -> Self:
        """The card without its names, context limit and quantisation: what decides how fast a given precision is."""
        return self.model_copy(update=_NO_SHAPE)

    @property
    def kv_layers(self) -> int:
        """Layers that keep a KV cache."""
        return self.layers if self.attention_layers is None else self.attention_layers

    @property
    def routed_parameters(self) -> float:
        """Weights of all routed experts; 0 for a dense model, and where every token uses every expert."""
        if self.active_parameters is None or self.experts == self.experts_per_token:
            return 0.0
        # A token leaves out experts - experts_per_token of each layer's experts, which are all of one size.
        return (self.parameters - self.active_parameters) / (self.experts - self.experts_per_token) * self.experts

    def kv_copies(self, tensor_parallel: int) -> float:
        """How often a token's KV cache is held in a tensor-parallel group.

        If there are more GPUs than KV heads, several GPUs hold the same head. Every GPU holds the latent of multi-head latent
        attention, which all heads share.
        """
        return max(1.0, tensor_parallel if self.kv_lora_rank is not None else tensor_parallel / self.kv_heads)

    def kv_bytes_per_token(self, kv_bytes_per_element: float = WIDE_BYTES) -> float:
        """KV cache of one token over all layers, in bytes.

        Keys and values of every KV head, ``2 x layers x kv_heads x head_dim x b``. Multi-head latent attention keeps one
        latent and one positional key for all heads, ``layers x (kv_lora_rank + qk_rope_head_dim) x b``, and with an
        indexer its key at 8 bits with a 4-byte scale (DeepSeek V3.2 technical report; vLLM's indexer cache).
        Layers with a sliding window are counted in full, as for a sequence within the window: see ``kv_bytes``.
        """
        return self.kv_layers * self._kv_layer_bytes(kv_bytes_per_element)

    def kv_bytes(self, tokens: float, kv_bytes_per_element: float = WIDE_BYTES, copies: float = 1.0) -> float:
        """Cache of one sequence of ``tokens`` tokens, in bytes: layers with a sliding window keep the window at most,
        and recurrent state does not grow. A group holds ``copies`` of the keys and values (``kv_copies``) and one of the
        state, whose heads it shares out."""
        kept = (self.kv_layers - self.sliding_layers) * tokens
        if self.sliding_window is not None:
            kept += self.sliding_layers * min(tokens, self.sliding_window)
        return copies * kept * self._kv_layer_bytes(kv_bytes_per_element) + self.state_bytes

    def held_tokens(self, tokens: float, kv_bytes_per_element: float = WIDE_BYTES, copies: float = 1.0) -> float:
        """``kv_bytes`` in units of ``kv_bytes_per_token``: tokens within the window that take as much memory as one
        sequence of ``tokens`` tokens."""
        per_token = copies * self.kv_bytes_per_token(kv_bytes_per_element)
        return self.kv_bytes(tokens, kv_bytes_per_element, copies) / per_token

    def longest_tokens(self, room_bytes: float, kv_bytes_per_element: float = WIDE_BYTES, copies: float = 1.0) -> float:
        """Tokens of the longest sequence whose cache and state fit in ``room_bytes``, the inverse of ``kv_bytes``; infinite
        where all layers have a window that fits, 0 where not even the state does."""
        layer_bytes = copies * self._kv_layer_bytes(kv_bytes_per_element)
        layer_tokens = max(0.0, room_bytes - self.state_bytes) / layer_bytes
        within = layer_tokens / self.kv_layers
        if self.sliding_window is None or within <= self.sliding_window:
            return within
        full = self.kv_layers - self.sliding_layers
        return (layer_tokens - self.sliding_layers * self.sliding_window) / full if full else math.inf

    def _kv_layer_bytes(self, kv_bytes_per_element: float) -> float:
        if self.kv_lora_rank is None:
            return self.kv_heads * (self.head_dim + (self.v_head_dim or self.head_dim)) * kv_bytes_per_element
        index = self.index_head_dim + _INDEX_SCALE_BYTES if self.index_head_dim else 0
        return (self.kv_lora_rank + self.qk_rope_head_dim) * kv_bytes_per_element + index

    def weight_bytes(self, precision: str) -> float:
        """Bytes of all weights in a precision. Embeddings stay 16 bits wide, as published checkpoints keep them, and
        where ``quantized_part`` says ``experts``, so does all but the routed experts.

        Raises:
            UnknownPrecisionError: the precision is not in the table.
        """
        width = precision_of(precision).bytes_per_weight
        if precision == self.precision and self.quantization == "mxfp4":
            width = precision_of("mxfp4").bytes_per_weight
        elif precision == self.precision == "int4" and self.weight_block is not None:
            # One 16-bit scale a group; AWQ and GPTQ have a 4-bit zero as well.
            width = (4 + (16 if self.quantization == "int4" else 20) / self.weight_block[1]) / 8
        wide = float(self.embedding_parameters)
        if self.quantized_part == "experts":
            wide = self.parameters - self.routed_parameters
        return self.parameters * width + wide * max(0.0, WIDE_BYTES - width)

    def expert_share(self, tokens: float) -> float:
        """Fraction of all weights that a forward pass over ``tokens`` tokens reads; 1 for a dense model.

        With E experts of which a token uses k, chosen uniformly and independently, an expert is idle with probability
        ``(1 - k/E) ** tokens``. Real routers are skewed and touch fewer experts, so this reads a little too much.
        Shared experts and dense layers are among the active parameters, and always read.
        """
        idle: float = (1.0 - self.experts_per_token / self.experts) ** max(1.0, tokens)
        return 1.0 - idle * self.routed_parameters / self.parameters


_INDEX_SCALE_BYTES = 4
_NO_SHAPE = {
    "name": "",
    "aliases": (),
    "repository": None,
    "max_context_tokens": None,
    "precision": "bf16",
    "quantization": None,
    "quantized_part": "linear",
    "weight_block": None,
}
