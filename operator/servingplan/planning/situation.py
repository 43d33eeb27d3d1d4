"""What one turn knows: its observation, and the facts that everything else needs from it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from servingplan.api.parse import parse_spec
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.demand.adopt import Demand, choose
from servingplan.errors import InputError
from servingplan.model import names
from servingplan.model.decision import Finding
from servingplan.model.fleet import Fleet, PlanRecord, ReplicaFacts
from servingplan.model.world import NamespaceBudget, Observation
from servingplan.planning.availability import with_stock
from servingplan.planning.cold_starts import with_starts
from servingplan.planning.inventory import read_pools
from servingplan.planning.known import Known, known_of
from servingplan.planning.lessons import Lessons, lessons_of
from servingplan.planning.measured import rows_of
from servingplan.planning.pools import CENT, Pool, total_spend
from servingplan.planning.record import effective_spec, pools_behind, read_record, routing_as_published, spec_behind
from servingplan.profiles.measured import MeasuredRows
from servingplan.render.leader_worker_set import serving_pod


@dataclass(frozen=True)
class Situation:
    """What one turn knows.

    It is made once, at the beginning of the turn. Each part is computed when it is first needed, and only once. Before a part
    that depends on the spec is read, ``acting`` must be checked: there may be no spec.
    """

    world: Observation

    @cached_property
    def record(self) -> PlanRecord:
        """What the operator wrote in earlier turns; empty if nothing is there."""
        return read_record(self.world)

    @cached_property
    def known(self) -> Known:
        """The models, GPUs and prices that count for this plan."""
        return known_of(self.world)

    # --- the spec -------------------------------------------------------------------------------------------------

    @cached_property
    def _read(self) -> tuple[PlanSpec | None, tuple[InputError, ...]]:
        return effective_spec(self.world.plan.spec, self.record, self.known.catalogue)

    @property
    def spec_errors(self) -> tuple[InputError, ...]:
        """What is wrong with the spec as it is written."""
        return self._read[1]

    @cached_property
    def acting(self) -> PlanSpec | None:
        """The spec to act by: the written one, else the last good one, with no more budget than the namespace leaves to the
        plan. None if neither is understood."""
        spec, _ = self._read
        allowed = self.world.namespace_budget
        if spec is None or allowed is None or float(spec.budget.dollars_per_hour) <= allowed.left:
            return spec
        left = Decimal(f"{allowed.left:.6f}")
        return spec.model_copy(update={"budget": spec.budget.model_copy(update={"dollars_per_hour": left})})

    @property
    def spec(self) -> PlanSpec:
        """The spec to act by, if it is known that there is one."""
        assert self.acting is not None, "nothing is done where no spec is understood"
        return self.acting

    @property
    def own_budget_dollars_per_hour(self) -> float:
        """The plan's own budget, whatever the namespace leaves of it."""
        spec, _ = self._read
        assert spec is not None
        return float(spec.budget.dollars_per_hour)

    @property
    def binding_allowance(self) -> NamespaceBudget | None:
        """The namespace's budget if the plan is limited by it and not by its own; else None."""
        allowed = self.world.namespace_budget
        binds = allowed is not None and float(self.spec.budget.dollars_per_hour) >= allowed.left - CENT
        return allowed if binds else None

    @cached_property
    def in_force(self) -> PlanSpec:
        """The spec for which the plan in force was made."""
        return self.spec_behind(self.record)

    def spec_behind(self, record: PlanRecord) -> PlanSpec:
        """The spec for which a record's plan was made, else the one to act by. So an edit that is wrong, or that waits for
        approval, changes nothing that runs."""
        return spec_behind(record, self.known.catalogue) or self.spec

    # --- what can be planned with ---------------------------------------------------------------------------------

    @cached_property
    def _pools(self) -> tuple[tuple[Pool, ...], tuple[InputError, ...]]:
        written, _ = parse_spec(self.world.plan.spec)
        behind = () if written is None else pools_behind(written, self.record)
        return read_pools(self.spec, self.world, self.known, [item.name for item in behind])

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """The pools of the spec to act by, with what the record knows of their stock and of starts on them."""
        return with_starts(with_stock(self._pools[0], self.record.stock), self.record.start_times)

    @property
    def pool_errors(self) -> tuple[InputError, ...]:
        """What is wrong with the pools in the spec to act by."""
        return self._pools[1]

    def pools_of(self, spec: PlanSpec) -> tuple[Pool, ...]:
        """The pools of another spec, such as the one in force, without what is known of their stock."""
        if (spec.node_pools, spec.models) == (self.spec.node_pools, self.spec.models):
            return self._pools[0]  # of a spec, pools depend on these alone
        return read_pools(spec, self.world, self.known)[0]

    @property
    def spend(self) -> float:
        """$/h of all pools now; ``nan`` where it cannot be computed."""
        return total_spend(self.pools)

    @cached_property
    def _measured(self) -> tuple[MeasuredRows, tuple[Finding, ...]]:
        return rows_of(self.spec, self.world)

    @property
    def rows(self) -> MeasuredRows:
        """The measurements from which rates are estimated."""
        return self._measured[0]

    @property
    def row_findings(self) -> tuple[Finding, ...]:
        """What is wrong with the plan's own measurements."""
        return self._measured[1]

    @cached_property
    def lessons(self) -> Lessons:
        """What was learned from running replicas, as the record has it."""
        return lessons_of(self.spec, self.world, self.record)

    @cached_property
    def demand(self) -> Demand | None:
        """The rates to plan for; None if the spec does not ask for measured ones."""
        return choose(self.spec, self.world, self.record.demand, _admitted_rates(self.published))

    # --- our objects ----------------------------------------------------------------------------------------------

    @cached_property
    def published(self) -> dict[str, Any] | None:
        """The routing document with the name that the spec to act by gives it; None if it is missing or cannot be read."""
        name = names.routing_name(self.world.plan.name, self.acting.gateway.config_map if self.acting else None)
        return routing_as_published(self.world, name)

    def facts(self, fleet: Fleet) -> dict[str, ReplicaFacts]:
        """The facts of every Deployment of the plan and of the fleet, by name: those of the fleet, else those in its
        annotation, from the plan that last had it."""
        return dict(sorted({**self._annotated, **{item.deployment: item.facts for item in fleet.replica_sets}}.items()))

    @cached_property
    def _annotated(self) -> dict[str, ReplicaFacts]:
        found: dict[str, ReplicaFacts] = {}
        for live in self.world.deployments():
            text = live.manifest["metadata"].get("annotations", {}).get(names.FACTS_ANNOTATION, "")
            try:
                found[live.name] = ReplicaFacts.model_validate_json(text)
            except ValidationError:
                continue
        return found

    @cached_property
    def context_tokens(self) -> dict[str, int]:
        """The longest sequence that the replicas of each Deployment of the plan admit, in tokens, as their arguments say."""
        found = {}
        for live in self.world.deployments():
            containers = serving_pod(live.manifest).get("containers") or ()
            engines = [item for item in containers if item.get("name") == "engine"]
            for argument in (text for item in engines for text in item.get("args") or ()):
                name, _, value = str(argument).partition("=")
                if name == "--max-model-len" and value.isdigit():
                    found[live.name] = int(value)
        return found


def _admitted_rates(published: dict[str, Any] | None) -> dict[str, float]:
    """The published requests/s by ``model/class`` above which gateways turn requests away. Classes without a limit are left
    out; it is empty if the document was not written in the operator's form."""
    try:
        return {
            f"{model}/{entry['name']}": float(entry["admitRequestsPerSecond"])
            for model, routes in (published or {})["models"].items()
            for entry in routes["classes"]
            if entry["admitRequestsPerSecond"] is not None
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
