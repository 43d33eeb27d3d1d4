"""The spec of ``servingplan.dev/v1alpha1``, kind ``LLMServingPlan``, as users write it.

Its models and its pools have modules of their own (``models_v1alpha1``, ``pools_v1alpha1``).

``kubectl explain`` shows the docstring under a field. Defaults are applied in this code, never by the API server, so that the
object in Git and the object in the cluster stay equal. Rules that need only the object itself are CEL rules in the schema; the
same rules hold here, for plans without an API server. No name of hardware or of a model is an enum.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from servingplan.api.models_v1alpha1 import Model
from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.api.scalars import (
    Confidence,
    DecimalString,
    Duration,
    Fraction,
    HostName,
    NamespaceName,
    ObjectName,
    PositiveDecimal,
    Share,
    seconds_of,
)
from servingplan.api.wire import Rule, Wire, map_list, refuse_duplicates

GROUP = "servingplan.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LLMServingPlan"
PLURAL = "llmservingplans"
LONGEST_PLAN_NAME = 63
Method = Literal[
    "Auto", "anytime", "exact", "binary-search", "knapsack", "gh", "agh", "homogeneous", "uniform-composition",
    "uniform-deployment", "round-robin", "melange", "lpr", "dvr", "greedy-cost",
]  # fmt: skip


class Budget(Wire):
    """What the plan may spend."""

    dollars_per_hour: DecimalString
    """Upper bound of what all nodes of the plan's pools cost per hour, at every moment. Booting and draining nodes
    count."""


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
