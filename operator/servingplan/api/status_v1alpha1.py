"""The status that users read. Written whole by server-side apply, and only when it changed.

Numbers are rounded strings and nothing carries the time of a turn: a status that changes on every turn would wake every
watcher of the object.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class StatusPart(BaseModel):
    """A part of the status: camelCase outside, frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, use_attribute_docstrings=True
    )


class Condition(StatusPart):
    """One statement about the plan; True is good for every type but Degraded, which is there only while it holds."""

    type: str
    """What it is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """One word for programs."""
    message: Annotated[str, Field(max_length=4096)]
    """For people: numbers, names, and what to do next."""
    observed_generation: int
    """Generation of the spec that it speaks of."""
    last_transition_time: str
    """When its status last changed."""


class Cost(StatusPart):
    """Money."""

    per_hour: str
    """What the plan will cost once it stands, $/h."""
    spend_per_hour: str
    """What the nodes that are there or asked for cost now, $/h."""
    budget_per_hour: str
    """The budget, $/h."""


class CapStatus(StatusPart):
    """The most nodes that a pool was seen to give."""

    nodes: int
    """Nodes that came, where more were asked for."""
    since: str
    """When that was learned."""
    until: str
    """When one node more is asked for, if a plan wants it."""
    reason: str
    """InsufficientCapacity, NotComing or NoGPUsVisible."""
    message: str
    """What was said or seen."""


class PoolStatus(StatusPart):
    """One node pool."""

    name: str
    """Name in the spec."""
    gpu: str
    """GPU type."""
    planned: int
    """Nodes of the plan."""
    wanted: int
    """Nodes that are asked for now."""
    ready: int
    """Nodes that are usable now."""
    idle_gpus: Annotated[int, Field(alias="idleGPUs")] = 0
    """GPUs of nodes that are paid for, booting ones included, on which no replica is ready."""
    dollars_per_node_hour: str
    """Price that is used."""
    learned_cap: CapStatus | None = None
    """The most nodes that it is known to give now; absent where nothing is known."""


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
    """Settings that the engine is given."""
    replicas: int
    """Replicas of the plan."""
    ready: int
    """Replicas that are ready."""
    requests_per_second: str
    """Rate that the plan sends here, all classes together."""
    profile: str
    """Where its rates come from, and how far they may be off."""


class FailedShapeStatus(StatusPart):
    """A kind of replica that is left out of the plan, since it did not start."""

    name: str
    """Name of its Deployment, which stands for shape, settings and image."""
    pool: str
    """Pool that its replicas were on."""
    since: str
    """When it was left out."""
    until: str
    """When it may be planned again; an edit of the plan allows it at once."""
    message: str
    """Last words of the engine."""


class ClassStatus(StatusPart):
    """One request class."""

    model: str
    """Model."""
    name: str
    """Class."""
    requests_per_second: str
    """Rate that was asked for."""
    planned_requests_per_second: str
    """Rate that the plan serves."""
    served_requests_per_second: str = "0"
    """Rate that ready replicas carry now. 0: the gateway answers 503."""


class RoutingStatus(StatusPart):
    """Where the weights are."""

    config_map: str
    """ConfigMap."""
    revision: int
    """Counts changes of the weights."""
    transitional: bool
    """Whether the replicas that are ready differ from the plan's."""


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
    """What keeps the plan from being better."""


class WorthStatus(StatusPart):
    """What one more unit of a limit brings."""

    one_more: str
    """The limit, and how much more of it."""
    brings: str
    """Requests, dollars or scale gained, or that it is nothing, or cannot be told from nothing."""


class AlternativeStatus(StatusPart):
    """Another plan that could be had."""

    name: str
    """What would be different."""
    outcome: str
    """What it would cost and serve."""


class ExplanationStatus(StatusPart):
    """Why the plan is as it is; found when nothing else is to be done, at most once for each question."""

    of: str
    """Names the question that is explained."""
    best: str
    """The best plan for that question, whatever runs now."""
    worth: Annotated[tuple[WorthStatus, ...], Field(max_length=16)] = ()
    """What one more unit of each limit brings."""
    alternatives: Annotated[tuple[AlternativeStatus, ...], Field(max_length=3)] = ()
    """What else there is to choose."""
    clash: Annotated[tuple[str, ...], Field(max_length=10)] = ()
    """Limits that exclude a plan, or full service, with the smallest change of each that would do."""
    pruned: str = ""
    """How many shapes were left out before the search, and why."""
    not_asked: int = 0
    """How many questions about worth and alternatives were left out, for want of time."""


class NoticeStatus(StatusPart):
    """A budget that takes everything down, told before it is carried out."""

    since: str
    """When it was told."""
    until: str | None = None
    """When it is carried out. Absent: it waits for approval."""


class RetirementStatus(StatusPart):
    """The end of a plan that is being deleted."""

    since: str
    """When it began."""
    until: str
    """When the plan is let go, whatever is left."""
    left: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """What is still there."""


class PlanStatus(StatusPart):
    """What was observed and decided."""

    observed_generation: int | None = None
    """Generation of the spec that this status speaks of."""
    plan_hash: str | None = None
    """Names the plan that is applied; changes when the plan does."""
    proposed_plan_hash: str | None = None
    """Names a plan that waits for approval: write it into the annotation servingplan.dev/approve."""
    mode: str | None = None
    """Mode in force."""
    models: str | None = None
    """Number of models, and how many of them are served now."""
    gpus: str | None = None
    """GPUs of the plan, such as 8xH100-SXM-80GB,4xL40S."""
    unanswered: str | None = None
    """Classes for which no replica is ready, such as llama-3.1-8b/chat,llama-3.1-8b/long,+3: the gateway answers 503. none:
    every class is answered."""
    served: str | None = None
    """Share of the asked rate that ready replicas carry now; under MaximizeService the multiple of the mix."""
    planned_served: str | None = None
    """The same of the plan, once it stands."""
    idle_gpus: Annotated[str | None, Field(alias="idleGPUs")] = None
    """GPUs of nodes that are paid for on which no replica is ready, such as 8xL40S. none: all serve."""
    caps: str | None = None
    """The most nodes that pools are known to give now, such as h100=0,l40s=2. none: nothing is known of any."""
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
    """Replicas that are left out of the plan for a while, since they did not start."""
    classes: Annotated[
        tuple[ClassStatus, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["model", "name"]}),
    ] = ()
    """Request classes."""
    routing: RoutingStatus | None = None
    """Where the weights are."""
    solver: SolverStatus | None = None
    """How the plan was found."""
    explanation: ExplanationStatus | None = None
    """Why the plan is as it is."""
    notice: NoticeStatus | None = None
    """That the budget is below the price of any node that serves, while that is so."""
    retirement: RetirementStatus | None = None
    """The end of the plan, while it is being deleted."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = ()
    """Statements about the plan."""
