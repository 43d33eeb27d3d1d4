"""The part of a plan's spec about pools of nodes: their GPUs, their price, and the object that sizes them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from servingplan.api.scalars import (
    DecimalString,
    Duration,
    Moment,
    Name,
    NamespaceName,
    ObjectName,
    PositiveDecimal,
    seconds_of,
)
from servingplan.api.wire import Rule, Wire, map_list, refuse_duplicates
from servingplan.model.names import DEVICE_ATTRIBUTE_PATTERN, GPU_RESOURCE_PATTERN

_LABEL_VALUE_PATTERN = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
_DEVICE_CLASS_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
DEFAULT_MAX_NODES = 100
"""The maxNodes of a pool with resize and without maxNodes."""


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


class Reservation(Wire):
    """Capacity that the provider keeps for this pool for a time, such as a capacity block."""

    nodes: Annotated[int, Field(strict=True, ge=1, le=100_000)]
    """Nodes that are reserved."""
    start: Moment | None = None
    """The time from which they can be had, such as 2026-12-01T08:00:00Z. Absent: now."""
    end: Moment | None = None
    """When the provider takes them back. Absent: never."""
    notice: Duration = "15m"
    """How long before the end replicas leave, so that their successors serve by then. Default 15m."""

    rules = (
        Rule(
            "end",
            "!has(self.start) || !has(self.end) || self.start < self.end",
            lambda item: item.start is None or item.end is None or item.start < item.end,
            "end is not after start: correct one of them",
        ),
        Rule(
            "notice",
            "!has(self.start) || !has(self.end) || self.start >= self.end || "
            "timestamp(self.start) + duration(has(self.notice) ? self.notice : '15m') < timestamp(self.end)",
            lambda item: not item.is_all_notice,
            "notice is as long as the reservation, which would never be used: shorten notice, or correct start or end",
        ),
    )

    @property
    def is_all_notice(self) -> bool:
        """Whether replicas would have to leave before the reservation begins."""
        if self.start is None or self.end is None or self.start >= self.end:
            return False
        lasts = datetime.fromisoformat(self.end) - datetime.fromisoformat(self.start)
        return lasts.total_seconds() <= seconds_of(self.notice)


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
    reservation: Reservation | None = None
    """The nodes can be had only as this reservation says. Absent: at any time."""
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
        Rule(
            "reservation",
            "!has(self.reservation) || has(self.resize)",
            lambda pool: pool.reservation is None or pool.resize is not None,
            "reservation needs resize: fixed nodes are used while they are there",
        ),
    )

    @property
    def cap(self) -> int:
        """The most nodes that the pool may have."""
        return DEFAULT_MAX_NODES if self.max_nodes is None else self.max_nodes
