"""The decided fleet: which replicas, on how many nodes, serving which classes at which rate.

A ``Fleet`` is what the solver's answer means in the cluster's terms. It is written down in a ConfigMap before anything
of it is applied, so that an operator that starts again goes on with the same plan.
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
    """Frozen, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ReplicaFacts(Part):
    """What one replica of a Deployment is and can do; travels as an annotation of the Deployment, so that replicas of
    an older plan keep the weight that they had."""

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
    """What each pod of a replica asks of its node beside GPUs, and how long it may take to start."""

    cpu_millicores: int | None = None
    """The CPU that is asked for. None: what a node of the pool has was not known, and nothing is asked for."""
    memory_bytes: int | None = None
    """The memory that is asked for; None as above."""
    start_limit_seconds: int
    """The longest time from its node until it is ready; a replica that takes longer has failed to start."""


class ReplicaSet(Part):
    """All copies of one shape: one Deployment, or one LeaderWorkerSet where a copy spans nodes."""

    deployment: str
    """Name of the Deployment and of its Service; holds the hash of what a replica is."""
    model: str
    variant: str
    pool: str
    """The pool; where a replica spans nodes, that of its first stage."""
    gpu: str
    tensor_parallel: int
    """GPUs of each stage."""
    pipeline_parallel: int
    """Stages."""
    stages: tuple[PipelineStage, ...] = Field(default=(), exclude_if=lambda stages: not stages)
    """The stages of a replica that spans nodes; empty for one inside a node. Left out where empty, so that hashes of plans
    without such replicas stay as they are."""
    nodes: int = Field(default=1, exclude_if=lambda nodes: nodes == 1)
    """The number of nodes that one copy takes, each with a pod of its own; left out where it is one, as ``stages``."""
    settings: EngineSettings | None = Field(default=None, exclude_if=lambda settings: settings is None)
    """The engine's settings, as given to it in flags. None, and left out: the record is from before that was done, and its
    replicas run by the engine's own defaults and by ``extraArgs``."""
    needs: PodNeeds | None = Field(default=None, exclude_if=lambda needs: needs is None)
    """What its pods were made with, whatever is learned or computed later. None, and left out: the record is from before needs
    were written, and its pods ask for GPUs alone, have no volume for caches, and are told their model by ``--model``."""
    replicas: int
    planned: dict[str, float]
    """Requests/s by class that the plan sends to all copies together."""
    capacity: dict[str, float]
    """Requests/s by class of one copy that serves only that class."""
    max_utilization: tuple[float, ...] = Field(default=(), exclude_if=lambda table: not table)
    """The same table as in ``ReplicaFacts``; left out where empty, as ``stages``."""
    priority: int
    """The priority of its model."""
    error_band: float
    """How far the low end of the central 80 % of a rate lies below its median, as a fraction; the largest of all classes."""
    error_above: float | None = Field(default=None, exclude_if=lambda above: above is None)
    """The same of the high end; absent in records of versions that knew one figure for both."""
    source: str
    """Where the rates come from: one or more of measured, interpolated, kernels, fitted, datasheet, learned; joined by
    ``+``."""

    @property
    def kind(self) -> str:
        """Kind of the object that makes the copies."""
        return names.LEADER_WORKER_SET if self.stages else names.DEPLOYMENT

    @property
    def gpus(self) -> int:
        """GPUs of one copy."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def rates_from(self) -> str:
        """Where the rates come from and how far the true ones may be, for people."""
        if self.error_above is None:
            return f"{self.source}, within {self.error_band:.0%}"
        return f"{self.source}, -{self.error_band:.0%} +{self.error_above:.0%}"

    @property
    def legs(self) -> list[tuple[str, int]]:
        """Pools in the order of the stages, each with its number of stages."""
        if not self.stages:
            return [(self.pool, self.pipeline_parallel)]
        return [(pool, len(list(stages))) for pool, stages in groupby(stage.pool for stage in self.stages)]

    @property
    def facts(self) -> ReplicaFacts:
        """Per replica."""
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
    """Nodes of like content."""

    pool: str
    nodes: int
    free_gpus: int
    """GPUs of such a node that are ours to use."""
    replicas: dict[str, int]
    """Copies on each node, by Deployment. One that takes whole nodes counts 1 on each of them."""


class ClassService(Part):
    """What one class gets."""

    model: str
    name: str
    requests_per_second: float
    """Asked for."""
    planned_requests_per_second: float
    """Served by the plan."""


class Fleet(Part):
    """One decided plan."""

    replica_sets: tuple[ReplicaSet, ...] = ()
    nodes: dict[str, int] = {}
    """Nodes by pool that the plan pays for; for a pool that is sized by us, its size."""
    groups: tuple[NodeGroup, ...] = ()
    classes: tuple[ClassService, ...] = ()
    dollars_per_hour: float = 0.0
    scale: float | None = None
    """MaximizeService: the multiple of the mix that is served."""
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
        """The copies behind a Deployment, where the plan has any."""
        return next((item for item in self.replica_sets if item.deployment == deployment), None)


class AdoptedDemand(Part):
    """Measured rates that the plan is made for, until others are adopted."""

    at: str
    """RFC 3339; when they were adopted."""
    rates: dict[str, float] = {}
    """Requests/s by ``model/class``; classes that were never measured are absent."""
    how: dict[str, str] = {}
    """How each was made, for people."""


class LearnedCap(Part):
    """Nodes that a pool has been seen to give, where more were asked for."""

    nodes: int
    since: str
    """RFC 3339; when it was learned."""
    until: str
    """RFC 3339; when one node more may be asked for."""
    reason: str
    """InsufficientCapacity, NotOffered, NotComing or NoGPUsVisible."""
    message: str
    """The same for people."""
    back_off_seconds: float
    """From ``since`` to ``until``."""
    probing: bool = False
    """It is over, and whether there is more is not known before one node more has come."""


class PoolStock(Part):
    """What was asked of a pool that the plan sizes, and what came."""

    asked: int = 0
    """Nodes, when it was last looked at."""
    came: int = 0
    """Nodes that showed GPUs then."""
    short_since: str | None = None
    """RFC 3339; since when fewer have come than were asked for."""
    booting: bool = False
    """They are fewer because more were asked for, not because nodes were lost."""
    boot_seconds: tuple[float, ...] = ()
    """How long the last nodes took from being asked for to showing GPUs."""
    refused_at: str | None = None
    """RFC 3339; the last refusal that was taken into account."""
    node_cpu_millicores: int | None = None
    """Allocatable CPU of its smallest node, when one was last there."""
    node_memory_bytes: int | None = None
    """Allocatable memory of its smallest node, when one was last there."""
    cap: LearnedCap | None = None


class StartTimes(Part):
    """How long replicas of one variant took to start on one pool, from when they got their node."""

    seconds: tuple[float, ...] = ()
    """The times until the last ones were ready."""
    image_seconds: tuple[float, ...] = ()
    """The times until the containers of the last ones ran that told it; the rest is weights and compilation."""
    counted: tuple[str, ...] = ()
    """The uids of pods that are still there and have been counted."""


class FailedShape(Part):
    """A kind of replica that was started and did not get ready."""

    generation: int
    """Generation of the plan's spec when this was learned; any other one clears it."""
    pool: str
    """Where its replicas were."""
    shape: str = ""
    """The key of its shape, which stays the same where its pods would ask for more or less; empty in records of form 3."""
    starts: tuple[str, ...] = ()
    """Starts that failed and count, each by the pod's uid and its number of restarts."""
    message: str = ""
    """The last words of the engine, or what else became of the last start."""
    since: str | None = None
    """RFC 3339; when it was left out of the plan."""
    until: str | None = None
    """RFC 3339; when it may be planned again."""
    back_off_seconds: float = 0.0
    """From ``since`` to ``until``."""


class LearnedFactor(Part):
    """How far what was observed is from what was predicted."""

    log: float = 0.0
    """ln(observed / predicted), the mean over the evidence."""
    requests: float = 0.0
    """The evidence, as it had faded when it was written down."""
    doubted: int = 0
    """The number of observations in a row that were not believed."""


class UsedFactor(Part):
    """A factor that plans are made with."""

    log: float
    """ln(observed / predicted)."""
    weight: float
    """How much it counts against the profile, 0 to 1."""


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
    """What the profile alone says of that load; None: it was not asked."""
    profile_tpot_seconds: float | None = None
    """The same of the time per further token."""
    expected_ttft_seconds: float | None = None
    """What it says with the corrections that are known by now."""
    expected_tpot_seconds: float | None = None
    """The same of the time per further token."""
    utilization: float | None = None
    """The share of the highest rate that arrived, with these corrections."""
    refused: str | None = None
    """Why nothing was learned from it, for people."""


class LearnedKind(Part):
    """What the fleet has taught about one kind of replica: a shape with its settings and image."""

    at: str
    """RFC 3339; the end of the last window that was looked at, or the time at which the evidence last faded."""
    rate: LearnedFactor = LearnedFactor()
    """The factor of the highest rate."""
    ttft: LearnedFactor = LearnedFactor()
    """The factor of the time to the first token, at an equal share of the highest rate."""
    tpot: LearnedFactor = LearnedFactor()
    """The factor of the time per further token, likewise."""
    used: dict[str, UsedFactor] = {}
    """The factors that plans are made with, by ``rate``, ``ttft`` and ``tpot``; it stays while what is known hardly differs."""
    look: LearnedLook | None = None
    """The last look; None: nothing was observed for a while."""


RECORD_VERSION = 4
"""Form of the plan record. Raised whenever a field is added that an older operator would not understand. Forms from
1, which has no ``version``, are read as well; ``tests/golden/record`` keeps one of each."""


class PlanRecord(Part):
    """What the operator remembers between turns; kept in a ConfigMap of the plan."""

    version: int = Field(default=RECORD_VERSION, ge=1)
    """Form of this record; absent in form 1."""
    fleet: Fleet | None = None
    """The plan that is being applied."""
    answer: dict[str, Any] | None = None
    """The solver's answer behind it, so that the verifier can say whether it still holds."""
    question: str | None = None
    """Digest of the question that it answers."""
    generation: int = 0
    """Generation of the spec behind it."""
    since: str | None = None
    """RFC 3339; when it became the plan."""
    spec: dict[str, Any] | None = None
    """The last spec that was valid: what runs is looked after by it while the present one is not."""
    leaving: tuple[dict[str, Any], ...] = ()
    """Pools that the spec no longer has and that this plan still sizes: they go to their floors and are released."""
    waiting: Fleet | None = None
    """A plan that waits for approval, or is only shown."""
    waiting_answer: dict[str, Any] | None = None
    """The answer behind the waiting plan."""
    waiting_question: str | None = None
    """Digest of the question that the waiting plan answers."""
    demand: AdoptedDemand | None = None
    """Measured rates behind the plan; absent where the declared ones are."""
    stock: dict[str, PoolStock] = {}
    """What is known of each pool that the plan sizes."""
    failed_shapes: dict[str, FailedShape] = {}
    """The failures by Deployment, whose name stands for shape, settings and image."""
    learned: dict[str, LearnedKind] = {}
    """What the fleet has taught, by kind of replica (``planning.lessons``)."""
    start_times: dict[str, StartTimes] = {}
    """The last starts by ``model/variant/pool``."""


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, the same for equal values whatever their order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
