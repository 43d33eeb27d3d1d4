"""The status that users read. Server-side apply writes it whole, and only if it changed.

Numbers are rounded strings, and no field has the time of a turn: a status that changes at every turn would wake every watcher
of the object.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class StatusPart(BaseModel):
    """A part of the status: frozen, and in camelCase on the wire."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, use_attribute_docstrings=True
    )


class Condition(StatusPart):
    """One condition of the plan. True is good, except for Degraded and Stalled, which are present only while they hold."""

    type: str
    """Type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    reason: str
    """Reason, one word for programs."""
    message: Annotated[str, Field(max_length=4096)]
    """Text for people: numbers, names, and what to do next."""
    observed_generation: int
    """Generation of the spec that the condition is about."""
    last_transition_time: str
    """When the condition's status last changed."""


class Cost(StatusPart):
    """Money."""

    per_hour: str
    """Cost of the plan once it is fully applied, $/h."""
    spend_per_hour: str
    """Present cost of the nodes that exist or are asked for, $/h."""
    budget_per_hour: str
    """The budget, $/h."""


class CapStatus(StatusPart):
    """The most nodes that a pool has given, learned from a refusal."""

    nodes: int
    """Number of nodes that came when more were asked for."""
    since: str
    """When the cap was learned."""
    until: str
    """When one more node is asked for, if a plan wants it, or when a reservation gives another number."""
    reason: str
    """InsufficientCapacity, NotOffered, NotComing or NoGPUsVisible; of a reservation NotReservedYet, Reserved or
    ReservationEnds."""
    message: str
    """What the provider said, or what was seen."""


class PoolStatus(StatusPart):
    """One node pool."""

    name: str
    """Name in the spec."""
    gpu: str
    """GPU type."""
    planned: int
    """Nodes of the plan."""
    wanted: int
    """Nodes that are now asked for."""
    ready: int
    """Nodes that are now usable."""
    idle_gpus: Annotated[int, Field(alias="idleGPUs")] = 0
    """GPUs of paid nodes, also booting ones, without a ready replica."""
    dollars_per_node_hour: str
    """Price that the plan uses."""
    learned_cap: CapStatus | None = None
    """The most nodes that the pool is known to give now; absent if nothing is known."""


class LatencyStatus(StatusPart):
    """A latency, s."""

    observed: str
    """Measured by the engines."""
    predicted: str
    """What the plan counts on at that load, with what was learned so far."""


class LearnedStatus(StatusPart):
    """What the engines of a kind of replica measured, and what was learned from it."""

    at: str
    """End of the last window that was looked at."""
    requests_per_second: str
    """Rate of one replica in that window."""
    ttft_seconds: LatencyStatus | None = None
    """Time to the first token; absent if it was not compared."""
    tpot_seconds: LatencyStatus | None = None
    """Time per further token; absent if it was not compared."""
    percentile: str | None = None
    """The percentile of requests whose latencies follow, the highest of the classes' limits; absent if none was compared."""
    ttft_percentile_seconds: LatencyStatus | None = None
    """That of the time to the first token."""
    tpot_percentile_seconds: LatencyStatus | None = None
    """That of the time per further token."""
    rate_factor: str
    """Factor on the highest rate of the profile."""
    ttft_factor: str
    """Factor on the time to the first token of the profile."""
    tpot_factor: str
    """Factor on the time per further token of the profile."""
    ttft_tail_factor: str | None = None
    """Additional factor on percentiles of the time to the first token; absent if nothing is known of them."""
    tpot_tail_factor: str | None = None
    """The same for the time per further token."""
    percentiles_refused: str | None = None
    """Why nothing was learned of percentiles although means were compared."""
    refused: str | None = None
    """Why nothing was learned from the last window."""


class DeploymentStatus(StatusPart):
    """One kind of replica."""

    name: str
    """Name of the Deployment and of its Service."""
    model: str
    """Model that it serves."""
    variant: str
    """Variant that it runs."""
    pool: str
    """Node pool that it runs on."""
    gpu: str
    """GPU type."""
    tensor_parallel: int
    """Tensor parallel degree."""
    pipeline_parallel: int
    """Pipeline parallel degree."""
    engine: str = ""
    """Settings of the engine."""
    replicas: int
    """Replicas of the plan."""
    ready: int
    """Replicas that are ready."""
    start_seconds: int | None = None
    """The longest of the last starts on its pool, from the node until ready; absent before any was seen."""
    requests_per_second: str
    """Rate that the plan sends here, all classes together."""
    profile: str
    """Source of its rates, and their possible error."""
    learned: LearnedStatus | None = None
    """What its engines measured; absent if the spec does not ask to learn, or nothing was observed lately."""


class FailedShapeStatus(StatusPart):
    """A kind of replica that the plan leaves out because it did not start."""

    name: str
    """Name of its Deployment, which identifies shape, settings and image."""
    pool: str
    """Pool that its replicas were on."""
    since: str
    """Since when it is left out."""
    until: str
    """When it may be planned again; an edit of the plan allows it at once."""
    message: str
    """Last lines of the engine."""


class ClassStatus(StatusPart):
    """One request class."""

    model: str
    """Model."""
    name: str
    """Class."""
    requests_per_second: str
    """Demand of the class."""
    planned_requests_per_second: str
    """Rate that the plan serves."""
    served_requests_per_second: str = "0"
    """Rate that ready replicas now carry. 0: the gateway answers 503."""
    observed_requests_per_second: str | None = None
    """Measured rate that the plan is made for; absent where the declared one counts."""
    in_time: bool | None = None
    """Whether ready replicas carry all of the planned rate within the limits of the class, by the profiles; absent where
    nothing is planned for it."""


class RoutingStatus(StatusPart):
    """Where the weights are published."""

    config_map: str
    """ConfigMap of the weights."""
    revision: int
    """Counts changes of the weights."""
    transitional: bool
    """Whether the ready replicas differ from the plan's."""


class SolverStatus(StatusPart):
    """How the plan was found."""

    status: str
    """Optimal, Feasible or Infeasible."""
    method: str
    """Method that found it."""
    gap: str
    """Relative distance to the proved bound."""
    stopped: str
    """Why the solver stopped."""
    binding_constraints: tuple[str, ...]
    """Limits that keep the plan from being better."""


class WorthStatus(StatusPart):
    """Gain from one more unit of a limit."""

    one_more: str
    """The limit, and how much more of it."""
    brings: str
    """Gain in requests, dollars or scale; or that it is nothing, or not distinguishable from nothing."""


class AlternativeStatus(StatusPart):
    """An alternative plan."""

    name: str
    """Difference from the plan."""
    outcome: str
    """Cost and service of the alternative."""


class ExplanationStatus(StatusPart):
    """Explanation of the plan; computed while the plan is at rest, once for each question."""

    of: str
    """Name of the explained question."""
    best: str
    """The best plan for that question; another one may be in force."""
    worth: Annotated[tuple[WorthStatus, ...], Field(max_length=16)] = ()
    """Gain from one more unit of each limit."""
    alternatives: Annotated[tuple[AlternativeStatus, ...], Field(max_length=3)] = ()
    """Alternative plans."""
    clash: Annotated[tuple[str, ...], Field(max_length=10)] = ()
    """Limits that together exclude a plan, or full service, each with the smallest change that would help."""
    pruned: str = ""
    """How many shapes were left out before the search, and why."""
    not_asked: int = 0
    """Number of questions about worth and alternatives that were left out for lack of time."""


class TransitionStatus(StatusPart):
    """The step that is under way, from the live fleet to the plan in force."""

    step: int
    """Number of the step, from 1."""
    of: int
    """Number of steps; it grows if something comes in between."""
    waiting_for: str
    """What the step waits for, each with its number."""
    since: str
    """Since when it waits for these."""
    dollars_per_hour: str
    """Spend once the step is over, $/h."""
    seconds: int | None = None
    """How long the step is expected to take, s; absent if it is not known."""


class NamesStatus(StatusPart):
    """Objects by number and name."""

    count: int
    """Number of objects."""
    names: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """The first of them, as Kind/name."""


class ObjectsStatus(StatusPart):
    """Objects that the proposed plan would change."""

    created: NamesStatus
    """New objects."""
    changed: NamesStatus
    """Objects with another content, other replicas or another size."""
    removed: NamesStatus
    """Objects that nothing would use any more."""


class BeforeAfter(StatusPart):
    """A value of the plan in force and of the proposed one."""

    before: str
    """The value for the plan in force; 0.00 without one."""
    after: str
    """The value for the proposed plan."""


class ProposedClassStatus(StatusPart):
    """What a class gets, requests/s."""

    model: str
    """Model."""
    name: str
    """Class."""
    before: str
    """Served by the plan in force."""
    after: str
    """Served by the proposed plan."""


class ProposedStatus(StatusPart):
    """A plan that waits for approval, or is only shown, and what it would change."""

    hash: str
    """Its hash: write it into the annotation servingplan.dev/approve."""
    objects: ObjectsStatus
    """Objects."""
    dollars_per_hour: BeforeAfter
    """Cost once it is fully applied, $/h."""
    classes: Annotated[tuple[ProposedClassStatus, ...], Field(max_length=256)] = ()
    """Request classes."""
    steps: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    """Steps from the live fleet, in order."""


class PastDecision(StatusPart):
    """A plan that was taken into force."""

    time: str
    """When it took over."""
    hash: str
    """Hash of the plan."""
    reason: str
    """FirstPlan, SpecChanged, Approved, DemandChanged, NoLongerHeld, Improvement, FloorsExcludePlan or Unknown."""
    dollars_per_hour: str
    """Cost of the plan once it is fully applied, $/h."""
    served: str
    """Share of the demand that it serves; under MaximizeService the multiple of the mix."""


class NoticeStatus(StatusPart):
    """Announcement of a budget that removes all replicas."""

    since: str
    """When it was announced."""
    until: str | None = None
    """When it takes effect. Absent: it waits for approval."""


class RetirementStatus(StatusPart):
    """Retirement of a plan that is being deleted."""

    since: str
    """When the retirement began."""
    until: str
    """When the finalizer is removed at the latest."""
    left: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """What is not given back yet."""


class PlanStatus(StatusPart):
    """What the operator observed and decided."""

    observed_generation: int | None = None
    """Generation of the spec that this status is about."""
    plan_hash: str | None = None
    """Hash of the applied plan; it changes with the plan."""
    proposed_plan_hash: str | None = None
    """Hash of a plan that waits for approval: write it into the annotation servingplan.dev/approve."""
    mode: str | None = None
    """Mode in force."""
    models: str | None = None
    """Number of models that are served now, and of all models."""
    gpus: str | None = None
    """GPUs of the plan, such as 8xH100-SXM-80GB,4xL40S."""
    unanswered: str | None = None
    """Classes without a ready replica, such as llama-3.1-8b/chat,llama-3.1-8b/long,+3: the gateway answers 503. none: every
    class is answered."""
    served: str | None = None
    """Share of the demand that ready replicas now carry; under MaximizeService the multiple of the mix."""
    planned_served: str | None = None
    """The same for the plan once it is fully applied."""
    idle_gpus: Annotated[str | None, Field(alias="idleGPUs")] = None
    """GPUs of paid nodes without a ready replica, such as 8xL40S. none: all serve."""
    caps: str | None = None
    """The most nodes that pools are known to give now, such as h100=0,l40s=2. none: no cap is known."""
    cost: Cost | None = None
    """Money."""
    node_pools: Annotated[
        tuple[PoolStatus, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    ] = ()
    """Node pools."""
    deployments: Annotated[
        tuple[DeploymentStatus, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    ] = ()
    """Replicas."""
    failed_shapes: Annotated[tuple[FailedShapeStatus, ...], Field(max_length=32)] = ()
    """Kinds of replicas that the plan leaves out for a while because they did not start."""
    classes: Annotated[
        tuple[ClassStatus, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["model", "name"]}),
    ] = ()
    """Request classes."""
    routing: RoutingStatus | None = None
    """Where the weights are published."""
    solver: SolverStatus | None = None
    """How the plan was found."""
    explanation: ExplanationStatus | None = None
    """Explanation of the plan."""
    proposed: ProposedStatus | None = None
    """Present only while a plan waits for approval or is only shown."""
    transition: TransitionStatus | None = None
    """Present only while the fleet is on its way to the plan in force."""
    history: Annotated[tuple[PastDecision, ...], Field(max_length=10)] = ()
    """The last ten plans that were taken into force, newest first."""
    notice: NoticeStatus | None = None
    """Present only while the budget is below the price of any node that serves."""
    retirement: RetirementStatus | None = None
    """Retirement of the plan while it is being deleted."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = ()
    """Conditions of the plan."""
