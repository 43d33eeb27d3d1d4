"""The spec of ``servingplan.dev/v1alpha1``, kind ``LLMServingPlan``, as users write it.

``kubectl explain`` shows the docstring under a field. Defaults are applied in this code, never by the API server, so that the
object in Git and the object in the cluster stay equal. Rules that need only the object itself are CEL rules in the schema; the
same rules hold here, for plans without an API server. No name of hardware or of a model is an enum.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from servingplan.api.scalars import (
    Confidence,
    DecimalString,
    Duration,
    Fraction,
    HostName,
    Name,
    NamespaceName,
    ObjectName,
    PositiveDecimal,
    Share,
    VisibleName,
    seconds_of,
)
from servingplan.api.wire import Rule, Wire, free_form, map_list, refuse_duplicates
from servingplan.model.names import DEVICE_ATTRIBUTE_PATTERN, GPU_RESOURCE_PATTERN

GROUP = "servingplan.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LLMServingPlan"
PLURAL = "llmservingplans"

_LABEL_VALUE_PATTERN = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
_DEVICE_CLASS_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_VERSION_PATTERN = r"^v?[0-9]+(\.[0-9]+){1,2}([-.+]?[A-Za-z0-9]+)*$"
_SOURCE_PATTERN = r"^(hf|pvc|oci)://[^/]"

DEFAULT_MAX_NODES = 100
"""The maxNodes of a pool with resize and without maxNodes."""
LONGEST_PLAN_NAME = 63
LARGEST_TTFT_SECONDS, LARGEST_TPOT_SECONDS = 3600, 5
"""Limits above these are refused, since they cannot be in seconds."""
Method = Literal[
    "Auto", "anytime", "exact", "binary-search", "knapsack", "gh", "agh", "homogeneous", "uniform-composition",
    "uniform-deployment", "round-robin", "melange", "lpr", "dvr", "greedy-cost",
]  # fmt: skip
DEFAULT_VARIANT = "bf16"
"""The name of the default variant, until the catalogue gives its precision."""


class Budget(Wire):
    """What the plan may spend."""

    dollars_per_hour: DecimalString
    """Upper bound of what all nodes of the plan's pools cost per hour, at every moment. Booting and draining nodes
    count."""


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
    pod_template: dict[str, Any] = Field(default_factory=dict, json_schema_extra=free_form())
    """Partial PodTemplateSpec merged under ours: secrets, volumes, tolerations, runtime class, annotations. Host access,
    privileges, capabilities and service accounts need the installation's permission."""

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


class Prometheus(Wire):
    """The source of measured demand."""

    url: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^https?://[!-~]+$")] | None = None
    """Base URL of the Prometheus API, such as http://prometheus.llm:9090: a Service of the plan's namespace, or a host that
    the installation allows. It is asked without credentials. Default: the Prometheus of the installation."""
    window: Duration = "5m"
    """Time over which rates are taken. Default 5m."""
    quantile: Share = Decimal("0.9")
    """Quantile of the rates in the window that the plan is made for; the noise of counting is removed. Default 0.9."""
    query: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """PromQL that gives requests/s with the labels model and class, instead of the known metrics. $interval in it is replaced
    by the length of the intervals. It is sent to Services of the plan's namespace, and elsewhere only if the installation
    allows it. Default: Envoy's counters by class, else vLLM's."""
    floor: Fraction = Decimal("0.1")
    """Least planned rate, as a share of the declared rate, however few requests arrive. Default 0.1."""
    last_good_for: Duration = "1h"
    """How long the last good rates are used if nothing can be read; then the declared rates are. Default 1h."""

    rules = (
        Rule(
            "window",
            "!has(self.window) || (duration(self.window) >= duration('1m') && duration(self.window) <= duration('1h'))",
            lambda prometheus: 60 <= seconds_of(prometheus.window) <= 3600,
            "must be from 1m to 1h: a shorter one holds too few requests, a longer one too much of the past",
        ),
    )


class Demand(Wire):
    """Use measured rates instead of the declared ones."""

    prometheus: Prometheus
    """The source."""


class GpuSpec(Wire):
    """Facts of a GPU that the catalogue does not know, from its datasheet."""

    memory_gb: PositiveDecimal
    """Memory, GB as sold."""
    memory_bandwidth_gb_per_second: PositiveDecimal
    """Memory bandwidth, GB/s."""
    bf16_dense_tflops: PositiveDecimal
    """Dense (not sparse) bf16 peak, TFLOP/s."""
    fp8_dense_tflops: PositiveDecimal | None = None
    """Dense fp8 peak, TFLOP/s. Absent: no fp8 arithmetic."""
    link_gb_per_second: PositiveDecimal
    """Bandwidth between GPUs of one node, GB/s in each direction."""


class Resize(Wire):
    """The object whose size is the number of nodes of the pool."""

    api_version: Annotated[str, Field(max_length=128, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[a-z0-9]+$")]
    """API version of the object, such as karpenter.sh/v1."""
    kind: Annotated[str, Field(max_length=63, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """Kind of the object, such as NodePool."""
    name: ObjectName
    """Name of the object."""
    namespace: NamespaceName | None = None
    """Namespace of the object, for namespaced kinds. Default: the plan's."""
    replicas_path: Annotated[str, Field(max_length=256, pattern=r"^\.spec(\.[A-Za-z0-9_-]+)+$")] | None = None
    """Path of the size, such as .spec.count. It must be the kind's path, or the one in the owner's annotation
    servingplan.dev/replicas-path on the object. Default: that path."""

    @property
    def of_object(self) -> Resize:
        """The same without replicasPath: two equal values name one object."""
        return self.model_copy(update={"replicas_path": None})


class DeviceAttribute(Wire):
    """A text that a device must have."""

    name: Annotated[str, Field(max_length=96, pattern=DEVICE_ATTRIBUTE_PATTERN)]
    """Name of the attribute with its domain, such as gpu.nvidia.com/profile."""
    value: Annotated[str, Field(min_length=1, max_length=64)]
    """Its text, such as 3g.40gb."""


class Dra(Wire):
    """GPUs that are devices of Dynamic Resource Allocation: a driver publishes them in ResourceSlices, and each pod has a
    ResourceClaim for as many as it needs. A pod's devices are all on its node."""

    device_class: Annotated[str, Field(min_length=1, max_length=253, pattern=_DEVICE_CLASS_PATTERN)]
    """DeviceClass of the GPUs, such as gpu.nvidia.com or mig.nvidia.com."""
    attributes: Annotated[tuple[DeviceAttribute, ...], Field(max_length=8, json_schema_extra=map_list())] = ()
    """What a device must have beside the class, as MIG slices of one profile do. Default: nothing."""

    @property
    def asked(self) -> dict[str, str]:
        """The attributes by name."""
        return {item.name: item.value for item in self.attributes}

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        refuse_duplicates("attributes", "name", [item.name for item in self.attributes])
        return self


class NodePool(Wire):
    """Nodes of one kind at one price."""

    name: Name
    """Name within the plan."""
    gpu: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """GPU type, such as H100-SXM-80GB. Absent: read from the nodes' labels."""
    gpu_spec: GpuSpec | None = None
    """Facts of the GPU, if the catalogue does not know it."""
    resource_name: (
        Annotated[
            str,
            Field(
                max_length=128,
                pattern=GPU_RESOURCE_PATTERN,
            ),
        ]
        | None
    ) = None
    """Extended resource that counts the GPUs, such as nvidia.com/gpu, amd.com/gpu or nvidia.com/mig-3g.40gb. Default: that of
    the GPU's vendor. For a GPU that the catalogue does not know: the resource of its nodes if they have only one, else
    nvidia.com/gpu."""
    dra: Dra | None = None
    """The GPUs are devices of Dynamic Resource Allocation. Absent: a device plugin counts them as an extended resource."""
    engine_image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Image of the engine on this pool, in place of models[].engine.image, of the same version. GPUs of AMD need one, unless
    the image of every model is built for ROCm."""
    gpus_per_node: Annotated[int, Field(strict=True, ge=1, le=64)] | None = None
    """GPUs of one node. Absent: read from the nodes."""
    dollars_per_node_hour: DecimalString | None = None
    """Price of a node. 0 is a price. Absent: unknown, and nothing grows."""
    capacity_type: Literal["OnDemand", "Spot", "Reserved"] = "OnDemand"
    """How the nodes are rented. Default OnDemand."""
    interruptions_per_node_hour: DecimalString = Decimal(0)
    """How often in an hour the provider takes a node away, as Spot nodes are. Each time its replicas are counted as away for a
    start-up and a boot of five minutes, so the plan counts on less of their rate. Default 0."""
    zone: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Zone of the nodes."""
    min_nodes: Annotated[int, Field(strict=True, ge=0, le=100_000)] = 0
    """Least size of the pool. Default 0."""
    max_nodes: Annotated[int, Field(strict=True, ge=0, le=100_000)] | None = None
    """Largest size of the pool. Default: 100 with resize; without resize, all matching nodes."""
    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63, pattern=_LABEL_VALUE_PATTERN)]], Field(max_length=16)
    ]
    """Labels of the pool's nodes. The plan's pods run only on these nodes."""
    resize: Resize | None = None
    """The object to size. Absent: the nodes are fixed and only observed."""

    rules = (
        Rule(
            "minNodes",
            "!has(self.maxNodes) || !has(self.minNodes) || self.minNodes <= self.maxNodes",
            lambda pool: pool.max_nodes is None or pool.min_nodes <= pool.max_nodes,
            "minNodes is above maxNodes: lower one or raise the other",
        ),
        Rule(
            "minNodes",
            f"has(self.maxNodes) || !has(self.minNodes) || !has(self.resize) || self.minNodes <= {DEFAULT_MAX_NODES}",
            lambda pool: pool.max_nodes is not None or pool.resize is None or pool.min_nodes <= DEFAULT_MAX_NODES,
            f"minNodes is above {DEFAULT_MAX_NODES}, the default of maxNodes: set maxNodes",
        ),
        Rule(
            "nodeSelector",
            "size(self.nodeSelector) > 0",
            lambda pool: len(pool.node_selector) > 0,
            "nodeSelector needs at least one label: it selects the pool's nodes",
        ),
        Rule(
            "dra",
            "!has(self.dra) || !has(self.resourceName)",
            lambda pool: pool.dra is None or pool.resource_name is None,
            "dra and resourceName are two ways to ask for the GPUs: remove one",
        ),
    )

    @property
    def cap(self) -> int:
        """The most nodes that the pool may have."""
        return DEFAULT_MAX_NODES if self.max_nodes is None else self.max_nodes


class ParentRef(Wire):
    """A Gateway."""

    name: ObjectName
    """Name of the Gateway."""
    namespace: NamespaceName | None = None
    """Its namespace. Default: the plan's."""
    section_name: ObjectName | None = None
    """Listener of the Gateway."""


class HttpRoute(Wire):
    """Routes of the Gateway API: one HTTPRoute per model, which matches the headers x-servingplan-model and
    x-servingplan-class."""

    parent_refs: Annotated[tuple[ParentRef, ...], Field(min_length=1, max_length=8)]
    """Gateways that the routes attach to."""
    hostnames: Annotated[tuple[HostName, ...], Field(max_length=16)] = ()
    """Host names of the routes; the first label may be *. Default: those of the Gateway's listeners."""

    @model_validator(mode="after")
    def _each_listener_once(self) -> Self:
        """Require what the Gateway API does: one reference to a Gateway, or several with different listeners. (As a rule in
        the schema this would cost more than the API server allows.)"""
        for ref in self.parent_refs:
            listeners = [item for item in self.parent_refs if (item.namespace, item.name) == (ref.namespace, ref.name)]
            if len(listeners) > 1 and (ref.section_name is None or self.parent_refs.count(ref) > 1):
                message = "a Gateway is given twice: name another listener (sectionName) in each, or remove one"
                raise PydanticCustomError("rule", "{message}", {"message": message, "field": "parentRefs"})
        return self


class Gateway(Wire):
    """Where routing weights are published."""

    config_map: ObjectName | None = None
    """ConfigMap in the plan's namespace. Default: NAME-routing."""
    http_route: HttpRoute | None = None
    """Publish one HTTPRoute per model too."""
    bytes_per_token: PositiveDecimal = Decimal(4)
    """Bytes of a request's body per token of its prompt. A gateway has no tokenizer and measures inputTokensAtLeast by it.
    Default 4, which fits English and code. Lower it for other scripts, or fit it to your logs."""
    client_headers: Literal["Trust", "Strip"] = "Trust"
    """Trust: clients may name model and class in the headers x-servingplan-model and x-servingplan-class. Strip: the
    gateway removes both and uses only the body. Default Trust."""
    ack_url: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^http://[!-.0-~][!-~]*$")] | None = None
    """URL where the gateway reports its revision of the weights, such as http://gateway.llm:8080/servingplan/revision: a
    Service of the plan's namespace, or a host that the installation allows. Every address of the name is asked, so give a
    headless Service. A replica's drain then begins when all replicas of the gateway have the weights without it. Absent: the
    drain begins when the weights are written."""


class Survive(Wire):
    """A loss after which classes must still be served in full."""

    event: Literal["AnyNode", "SpotPools"]
    """AnyNode: any one node. SpotPools: all nodes of all Spot pools."""
    min_priority: Annotated[int, Field(strict=True, ge=-1_000_000, le=1_000_000)] = 0
    """It applies to models of this priority and above. Default 0."""


class Resilience(Wire):
    """What the plan withstands."""

    survive: Annotated[tuple[Survive, ...], Field(max_length=4, json_schema_extra=map_list("event"))] = ()
    """The losses that the plan withstands."""

    @model_validator(mode="after")
    def _events_once(self) -> Self:
        refuse_duplicates("survive", "event", [item.event for item in self.survive])
        return self


class Change(Wire):
    """When a better plan is worth moving for."""

    min_gain: DecimalString = Decimal("0.05")
    """Least relative gain that justifies a change of a running fleet. Default 0.05."""
    min_lifetime: Duration = "10m"
    """A plan is kept at least this long, except after losses and edits. Default 10m."""
    drain_seconds: Annotated[int, Field(strict=True, ge=0, le=3600)] = 30
    """Time from the end of a replica's traffic until it is removed. Default 30."""
    drain_deadline_seconds: Annotated[int, Field(strict=True, ge=0, le=7200)] = 300
    """A replica whose engine still reports requests is kept beyond drainSeconds until it has none, at most this long after
    the end of its traffic. Default 300."""
    resolve_every: Duration = "5m"
    """Shortest time between two adoptions of measured rates, each with a new solve; a sudden change does not wait.
    Default 5m."""


class Planning(Wire):
    """How careful the plan is."""

    confidence: Confidence = Decimal("0.75")
    """A replica's rate is never known exactly. The plan counts on a rate that the true rate reaches with this probability, and
    on latencies that the true ones keep with it. Higher is safer and costs more; 0.5 plans on the median. From 0.5 to 0.99,
    default 0.75."""
    learn: bool = False
    """Whether what the engines of the plan measure corrects its rates and latencies. They are read from the Prometheus of
    demand.prometheus, else from the installation's. Default false."""


class MeasuredProfiles(Wire):
    """Measured rates."""

    config_map: ObjectName
    """ConfigMap in the plan's namespace with rows of measurements under the key rows.csv, in the form of servingplan profile
    import -o configmap."""


class Solver(Wire):
    """How the plan is computed."""

    method: Method = "Auto"
    """Auto, or a method that servingplan solve --method lists. Default Auto."""
    deadline_seconds: Annotated[int, Field(strict=True, ge=1, le=3600)] = 10
    """Longest time of a search; then the best plan found so far is taken. Default 10."""


class PlanSpec(Wire):
    """What to serve, on what, for how much."""

    budget: Budget
    """What the plan may spend."""
    objective: Literal["MinimizeCost", "MaximizeService"] = "MinimizeCost"
    """MinimizeCost: serve the declared rates, higher priorities first, at the lowest cost. MaximizeService: serve the mix of
    classes at the highest rate that the budget buys. Default MinimizeCost."""
    mode: Literal["Auto", "Approve", "Preview"] = "Auto"
    """Auto: apply. Approve: apply once the annotation servingplan.dev/approve has the plan's hash. Preview: only show.
    Default Auto."""
    models: Annotated[tuple[Model, ...], Field(min_length=1, max_length=64, json_schema_extra=map_list())]
    """The models to serve."""
    demand: Demand | None = None
    """Use measured rates instead of the declared ones."""
    node_pools: Annotated[tuple[NodePool, ...], Field(min_length=1, max_length=64, json_schema_extra=map_list())]
    """The nodes that may be used."""
    gateway: Gateway = Gateway()
    """Where routing weights are published."""
    resilience: Resilience = Resilience()
    """What the plan withstands."""
    change: Change = Change()
    """When a better plan is worth moving for."""
    planning: Planning = Planning()
    """How careful the plan is."""
    profiles: Annotated[tuple[MeasuredProfiles, ...], Field(max_length=8, json_schema_extra=map_list("configMap"))] = ()
    """Your own measured rates. They rank before the shipped ones, and an earlier ConfigMap before a later one."""
    solver: Solver = Solver()
    """How the plan is computed."""
    deletion_policy: Literal["ScaleToFloor", "Retain"] = "ScaleToFloor"
    """When the plan is deleted. ScaleToFloor: drain, remove the replicas, return pools to minNodes. Retain: leave
    replicas, routing and pools as they are. Default ScaleToFloor."""

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        refuse_duplicates("models", "name", [model.name for model in self.models])
        refuse_duplicates("nodePools", "name", [pool.name for pool in self.node_pools])
        refuse_duplicates("profiles", "configMap", [item.config_map for item in self.profiles])
        return self


PLAN_RULES: tuple[dict[str, str], ...] = (
    {
        "rule": f"size(self.metadata.name) <= {LONGEST_PLAN_NAME}",
        "message": f"metadata.name is longer than {LONGEST_PLAN_NAME} characters: names of other objects are made "
        "from it; shorten it",
    },
    {
        "rule": "!has(self.spec.gateway) || !has(self.spec.gateway.configMap) || "
        "self.spec.gateway.configMap != self.metadata.name + '-plan'",
        "message": "spec.gateway.configMap is the name of the plan's own record: choose another",
    },
)
"""The rules on name and spec together, for the API server; ``parse.name_problem`` checks the same."""
