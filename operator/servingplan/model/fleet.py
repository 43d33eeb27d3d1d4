"""The decided fleet: which replicas on how many nodes serve which classes, and at which rates.

A ``Fleet`` is the solver's answer in the cluster's terms. It is written to a ConfigMap before anything of it is applied, so
that an operator that is restarted continues with the same plan.
"""

from __future__ import annotations

import hashlib
import json
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from servingplan.model import names
from servingplan.model.engine import EngineSettings


class Part(BaseModel):
    """The base of these values: frozen, without fields that the class does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ReplicaFacts(Part):
    """What one replica of a Deployment is and can do. It is an annotation of the Deployment, so that replicas of an older
    plan keep their weight."""

    model: str
    pool: str
    gpus: int
    nodes: int = Field(default=1, exclude_if=lambda nodes: nodes == 1)
    """The number of nodes that one replica takes, each with a pod of its own."""
    priority: int
    planned: dict[str, float] = {}
    """Requests/s by class that the plan sends to one replica."""
    capacity: dict[str, float] = {}
    """Requests/s by class of one replica that serves only that class."""
    max_utilization: tuple[float, ...] = Field(default=(), exclude_if=lambda table: not table)
    """Utilisation up to which the SLOs hold, by copies that share their requests, the last one for more; empty: 1."""


class PipelineStage(Part):
    """One stage of a replica that spans nodes."""

    pool: str
    gpu: str
    layers: int
    """The number of layers of the model on this stage."""


class PodNeeds(Part):
    """What each pod of a replica requests of its node beside GPUs, and how long it may take to start."""

    cpu_millicores: int | None = None
    """The requested CPU. None: what a node of the pool has was not known, and none is requested."""
    memory_bytes: int | None = None
    """The requested memory; None likewise."""
    start_limit_seconds: int
    """The longest time from its node until it is ready; a replica that takes longer has failed to start."""


class ReplicaSet(Part):
    """All copies of one shape: one Deployment, or one LeaderWorkerSet where a copy spans nodes."""

    deployment: str
    """Name of the Deployment and of its Service; holds the hash of what a replica is."""
    model: str
    variant: str
    pool: str
    """The pool; if a replica spans nodes, that of its first stage."""
    gpu: str
    tensor_parallel: int
    """The GPUs of each stage."""
    pipeline_parallel: int
    """The number of stages."""
    stages: tuple[PipelineStage, ...] = Field(default=(), exclude_if=lambda stages: not stages)
    """The stages of a replica that spans nodes. Empty and left out for a replica inside a node, so that hashes of plans
    without such replicas do not change."""
    nodes: int = Field(default=1, exclude_if=lambda nodes: nodes == 1)
    """The number of nodes that one copy takes, each with a pod of its own. Left out if it is 1, like ``stages``."""
    settings: EngineSettings | None = Field(default=None, exclude_if=lambda settings: settings is None)
    """The engine's settings, which it gets as flags. None and left out in records from before that was done: such replicas
    run with the engine's own defaults and ``extraArgs``."""
    needs: PodNeeds | None = Field(default=None, exclude_if=lambda needs: needs is None)
    """What its pods were made with, whatever is learned or computed later. None and left out in records from before needs
    were written: such pods request only GPUs, have no volume for caches, and get their model by ``--model``."""
    replicas: int
    planned: dict[str, float]
    """Requests/s by class that the plan sends to all copies together."""
    capacity: dict[str, float]
    """Requests/s by class of one copy that serves only that class."""
    max_utilization: tuple[float, ...] = Field(default=(), exclude_if=lambda table: not table)
    """The same table as in ``ReplicaFacts``; left out if empty, like ``stages``."""
    priority: int
    """The priority of its model."""
    error_band: float
    """How far the low end of the central 80 % of a rate lies below its median, as a fraction; the largest of all classes."""
    error_above: float | None = Field(default=None, exclude_if=lambda above: above is None)
    """The same for the high end; None in records of versions that had one figure for both."""
    source: str
    """Where the rates come from: one or more of measured, interpolated, kernels, fitted, datasheet, learned; joined by
    ``+``."""

    @property
    def kind(self) -> str:
        """The kind of the object that makes the copies."""
        return names.LEADER_WORKER_SET if self.stages else names.DEPLOYMENT

    @property
    def gpus(self) -> int:
        """The GPUs of one copy."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def rates_from(self) -> str:
        """The source of the rates and their possible error, for people."""
        if self.error_above is None:
            return f"{self.source}, within {self.error_band:.0%}"
        return f"{self.source}, -{self.error_band:.0%} +{self.error_above:.0%}"

    @property
    def legs(self) -> list[tuple[str, int]]:
        """The pools in the order of the stages, each with its number of stages."""
        if not self.stages:
            return [(self.pool, self.pipeline_parallel)]
        return [(pool, len(list(stages))) for pool, stages in groupby(stage.pool for stage in self.stages)]

    @property
    def facts(self) -> ReplicaFacts:
        """The facts of one replica."""
        return ReplicaFacts(
            model=self.model,
            pool=self.pool,
            gpus=self.gpus,
            nodes=self.nodes,
            priority=self.priority,
            planned={name: rate / self.replicas for name, rate in sorted(self.planned.items())},
            capacity=dict(sorted(self.capacity.items())),
            max_utilization=self.max_utilization,
        )


class NodeGroup(Part):
    """Nodes with the same content."""

    pool: str
    nodes: int
    free_gpus: int
    """The GPUs of such a node that the plan can use."""
    replicas: dict[str, int]
    """The copies on each node, by Deployment. A copy that takes whole nodes counts 1 on each of them."""


class ClassService(Part):
    """What one class is served."""

    model: str
    name: str
    requests_per_second: float
    """The rate that is asked for."""
    planned_requests_per_second: float
    """The rate that the plan serves."""


class Fleet(Part):
    """One decided plan."""

    replica_sets: tuple[ReplicaSet, ...] = ()
    nodes: dict[str, int] = {}
    """The nodes by pool that the plan pays for; for a pool that the plan sizes, its size."""
    groups: tuple[NodeGroup, ...] = ()
    classes: tuple[ClassService, ...] = ()
    dollars_per_hour: float = 0.0
    scale: float | None = None
    """Under MaximizeService, the multiple of the mix that is served."""
    status: str = "Optimal"
    method: str = ""
    stopped: str = ""
    gap: float | None = None
    binding: tuple[str, ...] = ()
    confidence: float | None = None
    """Probability with which a true rate is at least the planned one."""
    pruned: dict[str, int] = {}
    """Shapes that were dropped before solving, by reason."""

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits that change when what is applied changes."""
        return digest(self.model_dump(include={"replica_sets", "nodes", "groups", "classes"}))[:8]

    @property
    def spans_nodes(self) -> bool:
        """Whether some replica needs more than one pod."""
        return any(item.stages for item in self.replica_sets)

    @property
    def spans_types(self) -> bool:
        """Whether some replica has stages on more than one pool."""
        return any(len(item.legs) > 1 for item in self.replica_sets)

    def replica_set(self, deployment: str) -> ReplicaSet | None:
        """The copies behind a Deployment; None if the plan has none."""
        return next((item for item in self.replica_sets if item.deployment == deployment), None)


class AdoptedDemand(Part):
    """The measured rates for which the plan is made, until others are adopted."""

    at: str
    """When they were adopted, RFC 3339."""
    rates: dict[str, float] = {}
    """Requests/s by ``model/class``, without classes that were never measured."""
    how: dict[str, str] = {}
    """How each was made, for people."""


class LearnedCap(Part):
    """The nodes that a pool was seen to give when more were asked for."""

    nodes: int
    since: str
    """When it was learned, RFC 3339."""
    until: str
    """When one more node may be asked for, RFC 3339."""
    reason: str
    """InsufficientCapacity, NotOffered, NotComing or NoGPUsVisible."""
    message: str
    """The same for people."""
    back_off_seconds: float
    """The time from ``since`` to ``until``, in seconds."""
    probing: bool = False
    """Whether it is over. It is not known whether there is more until one more node has come."""


class PoolStock(Part):
    """What was asked of a pool that the plan sizes, and what came."""

    asked: int = 0
    """The nodes that were asked for when it was last looked at."""
    came: int = 0
    """The nodes that showed GPUs then."""
    short_since: str | None = None
    """Since when fewer have come than were asked for, RFC 3339."""
    booting: bool = False
    """Whether nodes are missing because more were asked for, and not because some were lost."""
    boot_seconds: tuple[float, ...] = ()
    """How long the last nodes took from the request until they showed GPUs, in seconds."""
    refused_at: str | None = None
    """The time of the last refusal that was taken into account, RFC 3339."""
    node_cpu_millicores: int | None = None
    """Allocatable CPU of its smallest node, when it last had one."""
    node_memory_bytes: int | None = None
    """Allocatable memory of its smallest node, when it last had one."""
    cap: LearnedCap | None = None


class StartTimes(Part):
    """How long replicas of one variant took to start on one pool, from when they got their node."""

    seconds: tuple[float, ...] = ()
    """The seconds until the last ones were ready."""
    image_seconds: tuple[float, ...] = ()
    """The seconds until the containers of the last ones ran, if that is known. The rest is weights and compilation."""
    counted: tuple[str, ...] = ()
    """The uids of pods that still exist and have been counted."""


class FailedShape(Part):
    """A kind of replica that was started and did not become ready."""

    generation: int
    """The generation of the plan's spec when this was learned. With another generation it is cleared."""
    pool: str
    """The pool on which its replicas were."""
    shape: str = ""
    """The key of its shape, which stays the same if only the requests of its pods change; empty in records of form 3."""
    starts: tuple[str, ...] = ()
    """The failed starts that count, each by the pod's uid and its number of restarts."""
    message: str = ""
    """The last message of the engine, or what else ended the last start."""
    since: str | None = None
    """When it was left out of the plan, RFC 3339."""
    until: str | None = None
    """When it may be planned again, RFC 3339."""
    back_off_seconds: float = 0.0
    """The time from ``since`` to ``until``, in seconds."""


class LearnedFactor(Part):
    """The deviation of observations from predictions."""

    log: float = 0.0
    """ln(observed / predicted), the mean over the evidence."""
    requests: float = 0.0
    """The evidence, as it had faded when it was written down."""
    doubted: int = 0
    """The number of observations in a row that were not believed."""


class UsedFactor(Part):
    """A factor with which plans are made."""

    log: float
    """ln(observed / predicted)."""
    weight: float
    """How much it counts against the profile, 0 to 1."""


UNKNOWN = LearnedFactor()
"""A factor of which nothing is known."""


class LearnedLook(Part):
    """What engines measured over the last window, and what the profile says of that load."""

    replicas: int
    """The number of replicas."""
    requests_per_second: float
    """The rate of one replica."""
    input_tokens: int
    """The mean length of prompts."""
    output_tokens: int
    """The mean length of answers."""
    ttft_seconds: float | None = None
    """The mean time to the first token; None: it was not measured."""
    tpot_seconds: float | None = None
    """The mean time per further token; None: it was not measured."""
    profile_ttft_seconds: float | None = None
    """What the profile alone predicts for that load; None if it was not asked."""
    profile_tpot_seconds: float | None = None
    """The same for the time per further token."""
    expected_ttft_seconds: float | None = None
    """What it predicts with the corrections known so far."""
    expected_tpot_seconds: float | None = None
    """The same for the time per further token."""
    utilization: float | None = None
    """The share of the highest rate that arrived, with these corrections."""
    percentile: float | None = Field(default=None, exclude_if=lambda percentile: percentile is None)
    """The percentile of the following latencies; None and left out, as they are, if none was compared."""
    ttft_percentile_seconds: float | None = Field(default=None, exclude_if=lambda seconds: seconds is None)
    """That of the time to the first token, as engines counted it."""
    tpot_percentile_seconds: float | None = Field(default=None, exclude_if=lambda seconds: seconds is None)
    """That of the time per further token."""
    expected_ttft_percentile_seconds: float | None = Field(default=None, exclude_if=lambda seconds: seconds is None)
    """What the profile predicts of it with the corrections known so far."""
    expected_tpot_percentile_seconds: float | None = Field(default=None, exclude_if=lambda seconds: seconds is None)
    """The same for the time per further token."""
    tail_refused: str | None = Field(default=None, exclude_if=lambda refused: refused is None)
    """Why nothing was learned of percentiles although means were compared, for people."""
    refused: str | None = None
    """Why nothing was learned from it, for people."""


class LearnedKind(Part):
    """What was learned about one kind of replica: a shape with its settings and image."""

    at: str
    """RFC 3339; the end of the last window that was looked at, or the time at which the evidence last faded."""
    rate: LearnedFactor = LearnedFactor()
    """The factor of the highest rate."""
    ttft: LearnedFactor = LearnedFactor()
    """The factor of the time to the first token, at an equal share of the highest rate."""
    tpot: LearnedFactor = LearnedFactor()
    """The factor of the time per further token, likewise."""
    ttft_tail: LearnedFactor = Field(default=UNKNOWN, exclude_if=lambda factor: factor == UNKNOWN)
    """The factor of a percentile of the time to the first token over its mean."""
    tpot_tail: LearnedFactor = Field(default=UNKNOWN, exclude_if=lambda factor: factor == UNKNOWN)
    """The same of the time per further token."""
    used: dict[str, UsedFactor] = {}
    """The factors with which plans are made, by the names of the fields above. They do not change while the knowledge
    hardly changes."""
    look: LearnedLook | None = None
    """The last look; None if nothing was observed for a while."""

    @property
    def knows_tails(self) -> bool:
        """Whether it has a field that form 4 of the record does not know."""
        compared = self.look is not None and self.look.percentile is not None
        return compared or self.ttft_tail != UNKNOWN or self.tpot_tail != UNKNOWN


RECORD_VERSION = 5
"""Form of the plan record. Raised whenever a field is added that an older operator would not understand. Forms from
1, which has no ``version``, are read as well; ``tests/golden/record`` keeps one of each. A record without
the fields that form 5 brought is written in form 4, which older operators read."""


class PlanRecord(Part):
    """What the operator remembers between turns. It is kept in a ConfigMap of the plan."""

    version: int = Field(default=RECORD_VERSION, ge=1)
    """The form of this record; absent in form 1."""
    fleet: Fleet | None = None
    """The plan that is being applied."""
    answer: dict[str, Any] | None = None
    """The solver's answer behind it, so that the verifier can decide whether it still holds."""
    question: str | None = None
    """The digest of the question that it answers."""
    generation: int = 0
    """The generation of the spec behind it."""
    since: str | None = None
    """When the plan came into force, RFC 3339."""
    spec: dict[str, Any] | None = None
    """The last valid spec. What runs follows it while the present one is not valid."""
    leaving: tuple[dict[str, Any], ...] = ()
    """The pools that the spec no longer has and that this plan still sizes. They shrink to their floors and are released."""
    waiting: Fleet | None = None
    """A plan that waits for approval, or is only shown."""
    waiting_answer: dict[str, Any] | None = None
    """The answer behind the waiting plan."""
    waiting_question: str | None = None
    """Digest of the question that the waiting plan answers."""
    demand: AdoptedDemand | None = None
    """The measured rates behind the plan; None if it is made for the declared ones."""
    stock: dict[str, PoolStock] = {}
    """What is known of each pool that the plan sizes."""
    failed_shapes: dict[str, FailedShape] = {}
    """The failures by Deployment, whose name stands for shape, settings and image."""
    learned: dict[str, LearnedKind] = {}
    """What was learned from running replicas, by kind of replica (``planning.lessons``)."""
    start_times: dict[str, StartTimes] = {}
    """The last starts by ``model/variant/pool``."""

    @property
    def form(self) -> int:
        """The oldest form that has all that is known here."""
        return RECORD_VERSION if any(kind.knows_tails for kind in self.learned.values()) else 4


def digest(value: Any) -> str:
    """The SHA-256 of a JSON-like value. It is the same for equal values, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
