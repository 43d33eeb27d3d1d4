"""The part of a plan's spec about models: variants, classes of requests with their limits, and the engine that serves them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from servingplan.api.scalars import (
    DecimalString,
    Fraction,
    Name,
    ObjectName,
    PositiveDecimal,
    Share,
    VisibleName,
)
from servingplan.api.wire import Rule, Wire, free_form, map_list, refuse_duplicates

_VERSION_PATTERN = r"^v?[0-9]+(\.[0-9]+){1,2}([-.+]?[A-Za-z0-9]+)*$"
_LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_SOURCE_PATTERN = r"^(hf|pvc|oci)://[^/]"
DEFAULT_VARIANT = "bf16"
"""The name of the default variant, until the catalogue gives its precision."""
LARGEST_TTFT_SECONDS, LARGEST_TPOT_SECONDS = 3600, 5
"""Limits above these are refused, since they cannot be in seconds."""


class Slo(Wire):
    """Latency limits of requests."""

    ttft_seconds: PositiveDecimal | None = None
    """Time to first token, seconds. Absent: no limit."""
    tpot_seconds: PositiveDecimal | None = None
    """Time per output token after the first, seconds. Absent: no limit."""
    percentile: Annotated[int, Field(strict=True, ge=50, le=99)] = 95
    """Share of requests, in percent, that must meet the limits. Default 95."""

    @model_validator(mode="after")
    def _is_in_seconds(self) -> Self:
        """Refuse limits so large that they must be meant in milliseconds."""
        for name, value, most in (
            ("ttftSeconds", self.ttft_seconds, LARGEST_TTFT_SECONDS),
            ("tpotSeconds", self.tpot_seconds, LARGEST_TPOT_SECONDS),
        ):
            if value is not None and value > most:
                message = f"is {value}, above {most} s; give seconds, not milliseconds"
                raise PydanticCustomError("rule", "{message}", {"message": message, "field": name})
        return self


class Card(Wire):
    """A model's architecture, as in its published configuration, for models that the catalogue does not know."""

    parameters: Annotated[int, Field(strict=True, ge=1)]
    """Number of weights."""
    active_parameters: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Weights used per token, for mixtures of experts. Default: all."""
    experts: Annotated[int, Field(strict=True, ge=1)] = 1
    """Experts per layer, for mixtures of experts. Default 1."""
    experts_per_token: Annotated[int, Field(strict=True, ge=1)] = 1
    """Experts that one token uses. Default 1."""
    layers: Annotated[int, Field(strict=True, ge=1)]
    """Transformer layers."""
    hidden_size: Annotated[int, Field(strict=True, ge=1)]
    """Width of the residual stream."""
    attention_heads: Annotated[int, Field(strict=True, ge=1)]
    """Query heads; tensor parallelism must divide them."""
    kv_heads: Annotated[int, Field(strict=True, ge=1)]
    """Key and value heads."""
    head_dim: Annotated[int, Field(strict=True, ge=1)]
    """Width of one head."""
    vocabulary_size: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Rows of the embedding table (vocab_size), which quantised weights keep at 16 bits. Absent: not known."""
    tied_embeddings: Annotated[bool, Field(strict=True)] | None = None
    """Whether input and output share one embedding table (tie_word_embeddings). Default false."""
    intermediate_size: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Width of the feed-forward network of a dense layer. Absent: not known."""
    expert_intermediate_size: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Width of one expert (moe_intermediate_size). Absent: not known."""
    shared_experts: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Experts that every token passes through, beside the routed ones. Default 0."""
    dense_layers: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Layers of a mixture of experts without experts (first_k_dense_replace). Default 0."""
    attention_layers: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Layers with a KV cache, if others have linear attention or Mamba. Default: all."""
    state_bytes: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Recurrent state of one running sequence over all layers, bytes, for linear attention and Mamba. Default 0."""
    sliding_window: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Tokens in the window of layers with a sliding window. Absent: no layer has one."""
    sliding_layers: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Layers with a sliding window; given together with slidingWindow."""
    kv_lora_rank: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Multi-head latent attention: width of the compressed keys and values (kv_lora_rank). Absent: ordinary attention."""
    q_lora_rank: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Multi-head latent attention: width of the compressed queries. Absent: they are not compressed."""
    qk_rope_head_dim: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Multi-head latent attention: width of the positional part of a key."""
    qk_nope_head_dim: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Multi-head latent attention: width of the other part of a key."""
    v_head_dim: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Width of the values of one head, if it is not headDim."""
    index_head_dim: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Sparse attention with an indexer: width of the key that it keeps per token. Absent: no indexer."""
    max_context_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Longest sequence of the model (max_position_embeddings). Absent: not known, and not checked."""
    quantization: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    """Quantisation of the weights: fp8, awq, gptq, nvfp4, mxfp4, int4 or int8. Absent: not quantised."""
    weight_block: (
        Annotated[tuple[Annotated[int, Field(strict=True, ge=1)], ...], Field(min_length=2, max_length=2)] | None
    ) = None
    """Rows and columns of the quantised weights that share one scale (weight_block_size), such as [128, 128]."""

    rules = (
        Rule(
            "activeParameters",
            "!has(self.activeParameters) || self.activeParameters <= self.parameters",
            lambda card: card.active_parameters is None or card.active_parameters <= card.parameters,
            "activeParameters is above parameters: a token uses at most all weights",
        ),
        Rule(
            "expertsPerToken",
            "!has(self.expertsPerToken) || self.expertsPerToken <= (has(self.experts) ? self.experts : 1)",
            lambda card: card.experts_per_token <= card.experts,
            "expertsPerToken is above experts: set experts, or lower it",
        ),
        Rule(
            "kvHeads",
            "self.attentionHeads % self.kvHeads == 0",
            lambda card: card.attention_heads % card.kv_heads == 0,
            "attentionHeads is not a multiple of kvHeads: copy both from the model's configuration",
        ),
    )


class ModelConfig(Wire):
    """The published config.json of a model."""

    config_map: ObjectName
    """ConfigMap in the plan's namespace with the file under the key config.json."""


class Variant(Wire):
    """One way to serve the model: a precision, or a smaller model instead."""

    name: Name
    """Short name, such as bf16 or fp8."""
    source: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Source of the weights: hf://organisation/model, pvc://claim/path or oci://image. Default: the catalogue's repository for
    the model's name. A name without a repository needs a source."""
    precision: Annotated[str, Field(min_length=1, max_length=16)] = "auto"
    """Number format of the weights, such as bf16, fp8 or int4. Default auto: from the name of the repository, or from the
    configuration."""
    quality_loss: DecimalString = Decimal(0)
    """Quality loss of this variant against the best one, on the scale of maxQualityLoss. Default 0."""
    kv_cache_quality_loss: DecimalString | None = None
    """Additional quality loss of an FP8 KV cache, on the scale of maxQualityLoss. Absent: not known, and counted as 0 if
    engine.kvCacheDtype is fp8."""
    card: Card | None = None
    """Architecture of this variant, if it is another model. Default: the model's."""

    rules = (
        Rule(
            "source",
            f"!has(self.source) || self.source.matches('{_SOURCE_PATTERN}')",
            lambda variant: variant.source is None or re.match(_SOURCE_PATTERN, variant.source) is not None,
            "must begin with hf://, pvc:// or oci://, followed by a name",
        ),
    )


class Match(Wire):
    """The requests of a class. All given fields must hold. Without fields: every request."""

    input_tokens_at_least: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Least prompt length of the class, in tokens."""
    max_tokens_at_most: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Largest max_tokens of the class's requests."""
    header: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]([ -~]*[!-~])?$")] | None = None
    """Value of the x-servingplan-class header that a client may set."""


class RequestClass(Wire):
    """Requests of similar length."""

    name: Name
    """Name within the model."""
    input_tokens: Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
    """Typical prompt length, tokens."""
    output_tokens: Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
    """Typical answer length, tokens."""
    requests_per_second: DecimalString
    """Arrival rate. Under MaximizeService only the proportions count."""
    match: Match = Match()
    """The requests that belong here. The first class of the list whose match holds takes the request. Default: derived from
    the lengths if no class of the model has a match, else every request."""
    slo: Slo | None = None
    """Latency limits of this class. Default: the model's."""


class Speculative(Wire):
    """Speculative decoding, with the values that you measured."""

    method: Annotated[str, Field(min_length=1, max_length=64)]
    """The engine's name of the method, such as ngram, eagle3 or mtp."""
    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Draft model, for methods with one."""
    tokens: Annotated[int, Field(strict=True, ge=1, le=32)]
    """Tokens proposed in each step."""
    acceptance: Fraction
    """Probability that a proposed token is accepted if the tokens before it were, such as "0.7"."""


class Engine(Wire):
    """How the model server runs. The planner chooses absent settings and gives them to the engine as flags."""

    name: Literal["vllm"] = "vllm"
    """The engine, which determines flags and rates. Default vllm."""
    version: Annotated[str, Field(max_length=32, pattern=_VERSION_PATTERN)] | None = None
    """Version of the engine, such as 0.18.0, which determines its flags and its speed. Default: the tag of the image, if it is
    a version; else unknown, and flags of newer versions are not used."""
    image: Annotated[str, Field(min_length=1, max_length=512)] = "vllm/vllm-openai:v0.18.0"
    """Container image of the engine. Default vllm/vllm-openai:v0.18.0."""
    kv_cache_dtype: Literal["auto", "bf16", "fp8"] | None = None
    """Width of the KV cache. fp8 holds twice the tokens and costs some quality. auto: the planner takes fp8 if the GPU has FP8
    arithmetic and the plan becomes better. If maxQualityLoss is set, this holds only for variants with kvCacheQualityLoss.
    Absent: 16 bits."""
    max_num_seqs: Annotated[int, Field(strict=True, ge=1, le=65_536)] | None = None
    """Most requests that one replica runs at the same time. Absent: the planner takes what the latency limits allow."""
    max_num_batched_tokens: Annotated[int, Field(strict=True, ge=1, le=10_000_000)] | None = None
    """Most tokens of one iteration; longer prompts are read in chunks. Default 8192."""
    gpu_memory_utilization: Share | None = None
    """Share of each GPU's memory that the engine may take. Default 0.9."""
    prefix_cache_hit_share: Fraction | None = None
    """Share of the prompts' tokens that your requests find in the prefix cache, as you measured it. Default: the plan counts
    on none."""
    speculative: Speculative | None = None
    """Speculative decoding. Absent: none."""
    expert_parallel: Annotated[bool, Field(strict=True)] | None = None
    """Spread the experts of a mixture over the GPUs of a replica instead of cutting each. Default false."""
    extra_args: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], Field(max_length=64)] = ()
    """Arguments added after ours. The plan uses arguments that set one of the settings above. Arguments that set the model,
    its name, the sharding or the port, or that contradict the plan, are refused. Others are passed on."""
    startup_seconds: Annotated[int, Field(strict=True, ge=1, le=86_400)] | None = None
    """Longest time from a replica's node until it is ready. A replica that takes longer is replaced. Default: 15 minutes and
    the time that its weights take at 60 MB/s, and at least twice the longest of its last starts."""
    security: Literal["Restricted"] | None = None
    """Restricted: the pods run as the user 2000, without privileges and without a service account's token, so that a namespace
    with the Pod Security Standard restricted admits them. Absent: as the image says."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods, with which the scheduler orders them and may evict others for them. The installation has to
    allow it by name. It is not models[].priority, which orders the models of this plan. Absent: the cluster's default."""
    pod_template: dict[str, Any] = Field(default_factory=dict, json_schema_extra=free_form())
    """Partial PodTemplateSpec merged under ours: secrets, volumes, tolerations, runtime class, annotations. Host access,
    privileges, capabilities, service accounts and priority classes need the installation's permission."""

    rules = (
        Rule(
            "maxNumBatchedTokens",
            "!has(self.maxNumBatchedTokens) || !has(self.maxNumSeqs) || self.maxNumBatchedTokens >= self.maxNumSeqs",
            lambda engine: (
                engine.max_num_batched_tokens is None
                or engine.max_num_seqs is None
                or engine.max_num_batched_tokens >= engine.max_num_seqs
            ),
            "maxNumBatchedTokens is below maxNumSeqs: every running request needs one token per iteration; raise it, or "
            "lower maxNumSeqs",
        ),
    )


class TopologySpread(Wire):
    """How the replicas of a model are spread over the cluster."""

    topology_key: Annotated[str, Field(min_length=1, max_length=317, pattern=_LABEL_KEY_PATTERN)]
    """Label of nodes whose values tell places apart that may fail together, such as topology.kubernetes.io/zone. A new replica
    goes to the place with the fewest replicas of its model, among nodes where the whole plan still fits. No replica is moved
    for it, and no node is rented."""


class Model(Wire):
    """A model that clients call by name."""

    name: VisibleName
    """The value of the field "model" in a client's request."""
    priority: Annotated[int, Field(strict=True, ge=-1_000_000, le=1_000_000)] = 0
    """Models with a higher priority are served first if the budget is too small. Default 0."""
    slo: Slo = Slo()
    """Latency limits of all classes without their own."""
    max_quality_loss: DecimalString | None = None
    """Largest traffic-weighted mean of the variants' qualityLoss for each class. Absent: no limit."""
    max_model_len: Annotated[int, Field(strict=True, ge=1, le=100_000_000)] | None = None
    """Longest context, tokens, which sizes the KV cache. Default: twice the longest class, at most the model's limit."""
    spill: Annotated[bool, Field(strict=True)] = True
    """Whether a class spills over if all its planned replicas are away: to ready replicas of the model that are too slow for
    its limits, into their unused rate. false: it gets 503 until its replicas are back. Default true."""
    topology_spread: TopologySpread | None = None
    """How its replicas are spread over the nodes of their pools. Absent: they fill nodes."""
    card: Card | None = None
    """Architecture, for a model that the catalogue does not know (servingplan profile models lists the known ones)."""
    published_config: Annotated[ModelConfig | None, Field(alias="modelConfig")] = None
    """The model's own configuration, instead of a card."""
    variants: Annotated[tuple[Variant, ...], Field(max_length=16, json_schema_extra=map_list())] = ()
    """Ways to serve the model. Default: one, as its repository publishes it."""
    classes: Annotated[tuple[RequestClass, ...], Field(max_length=32, json_schema_extra=map_list())] = ()
    """Request classes, in order of matching; the last one takes all other requests. If none has a match, the boundaries are
    half-way between their inputTokens, longest first. Default: one class of 1024 prompt and 256 answer tokens at 1 request
    per second."""
    engine: Engine = Engine()
    """How the model server runs."""

    rules = (
        Rule(
            "maxModelLen",
            "!has(self.maxModelLen) || !has(self.classes) || "
            "self.classes.all(c, c.inputTokens + c.outputTokens <= self.maxModelLen)",
            lambda model: all(
                item.input_tokens + item.output_tokens <= (model.max_model_len or 2**63) for item in model.classes
            ),
            "maxModelLen is below inputTokens + outputTokens of a class: raise it, or remove it",
        ),
    )

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        refuse_duplicates("variants", "name", [variant.name for variant in self.variants])
        refuse_duplicates("classes", "name", [item.name for item in self.classes])
        return self

    @property
    def effective_variants(self) -> tuple[Variant, ...]:
        """The variants, or the default one if none is given. Absent sources come from the catalogue."""
        return self.variants or (Variant(name=DEFAULT_VARIANT),)

    @property
    def effective_classes(self) -> tuple[RequestClass, ...]:
        """The classes, or the default one if none is given."""
        default = RequestClass(name="default", input_tokens=1024, output_tokens=256, requests_per_second=Decimal(1))
        return self.classes or (default,)

    @property
    def effective_max_model_len(self) -> int:
        """The longest context in tokens: as given, else twice the longest class."""
        longest = max(item.input_tokens + item.output_tokens for item in self.effective_classes)
        return self.max_model_len or 2 * longest
