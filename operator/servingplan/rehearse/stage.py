"""A plan's cluster in memory with the operator in it: it is moved in time, and what it costs is read from it."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.api.scalars import seconds_of
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.turn import Search, Solve
from servingplan.errors import InputError
from servingplan.model import names
from servingplan.model.answer import Answer
from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet, ReplicaSet
from servingplan.model.question import Question
from servingplan.model.world import Observation
from servingplan.planning.resources import resource_of
from servingplan.planning.situation import Situation
from servingplan.pool_kinds.karpenter import POOL_LABEL
from servingplan.rehearse.cluster import TICK_SECONDS, SimulatedCluster
from servingplan.rehearse.operator import Operator
from servingplan.rehearse.parts import SimulatedNode

Json = dict[str, Any]
FLAG = "--operator"
PERIOD_SECONDS = 15.0
"""The longest time between two turns, as the chart sets it."""
SHORTEST_SECONDS = 1.0
"""The shortest time between two turns that wait for something: the status tells whole seconds."""
MOST_TURNS_AT_ONCE = 60
MOST_SETTLING_SECONDS = 14_400.0


@dataclass(frozen=True)
class Times:
    """How long things take, in seconds."""

    node: float = 90.0
    """Until a rented node is there."""
    engine: float = 60.0
    """Until an engine on it is ready."""
    stop: float = 30.0
    """Until a pod that is asked to end has gone."""


class Stage:
    """The cluster begins with the fixed nodes of the plan and with empty pools."""

    def __init__(self, situation: Situation, solve: Solve, times: Times) -> None:
        """Raises ``InputError`` for a plan that cannot be rehearsed."""
        self.spec = situation.spec
        self._seen = situation.world
        self._times = times
        self.prices = {pool.name: pool.dollars_per_node_hour or 0.0 for pool in situation.pools}
        self.budget = float(self.spec.budget.dollars_per_hour)
        self.cluster = _cluster(situation, times)
        sized = [pool for pool in self.spec.node_pools if pool.resize is not None]
        self.sized = {pool.name: self.cluster.pools[_object_of(pool)] for pool in sized}
        """The pools that the plan sizes, by their name in it."""
        self.pool_by_object = {_object_of(pool): pool.name for pool in sized}
        self.cluster.api.wrote = self._wrote
        self.decision = Decision()
        self.shapes: dict[str, ReplicaSet] = {}
        """The replica sets of all plans that were in force so far, by Deployment."""
        self.plans: list[tuple[datetime, str, Fleet]] = []
        """The plans that came into force: when, why, and what they are."""
        self.resting = False
        """Whether the last turn found nothing to do, and nothing is under way in the cluster or the rollout."""
        self.most_dollars_per_hour = 0.0
        """The most $/h that was ever asked for, after any write."""
        self._wake: float | None = None
        self._operator = Operator(self.cluster, _to_its_end(solve), saw=self._completed)

    # --- time

    def act(self) -> None:
        """Take turns until there is nothing to write at this moment."""
        for _ in range(MOST_TURNS_AT_ONCE):
            report = self._operator.turn()
            decision = report.decision
            if decision is not None:
                self._adopt(decision)
            self._wake = report.wake_in_seconds
            if not report.again:
                waits = decision is None or decision.searching or self.cluster.status.get("transition") is not None
                self.resting = not self.cluster.busy and not waits
                return
        raise InputError(FLAG, None, f"{MOST_TURNS_AT_ONCE} turns at one moment did not come to rest; report this plan")

    def next_moment(self) -> datetime:
        """When the next turn is due: something ends in the cluster, or the operator wakes."""
        pause = PERIOD_SECONDS if self._wake is None else min(PERIOD_SECONDS, max(SHORTEST_SECONDS, self._wake))
        wake = self.cluster.now + timedelta(seconds=pause)
        due = self.cluster.next_due()
        return wake if due is None else min(wake, due)

    def settle(self) -> None:
        """Let the operator build the plan, and let it be in force for its least lifetime."""
        begun = self.cluster.now
        self.act()
        while not self.resting or self.decision.fleet is None:
            since = (self.cluster.now - begun).total_seconds()
            if since > MOST_SETTLING_SECONDS or self._has_nothing():
                raise InputError(FLAG, None, f"the operator has built no plan after {since:g} s{self.wrong}")
            self.cluster.pass_until(self.next_moment())
            self.act()
        self.cluster.pass_until(self.cluster.now + timedelta(seconds=seconds_of(self.spec.change.min_lifetime)))
        self.act()

    def _has_nothing(self) -> bool:
        return self.decision.fleet is None and not self.decision.searching

    @property
    def wrong(self) -> str:
        """What the last turn found wrong, after a colon; empty if nothing."""
        found = "; ".join(f"{item.reason}: {item.message}" for item in self.decision.findings if not item.holds)
        return found and f": {found}"

    def _adopt(self, decision: Decision) -> None:
        self.decision = decision
        fleet = decision.fleet
        if fleet is None:
            return
        self.shapes.update({item.deployment: item for item in fleet.replica_sets})
        if decision.moved is not None or not self.plans:
            self.plans.append((self.cluster.now, decision.moved or "Initial", fleet))

    def _completed(self, world: Observation) -> Observation:
        """The observation, with what the caller's world has beside the cluster."""
        return world.model_copy(update={"catalogues": self._seen.catalogues, "profiles": self._seen.profiles})

    # --- dollars

    @property
    def nodes(self) -> Counter[str]:
        """The nodes that are paid, by pool of the plan: those that exist or boot, of fixed ones those with our pods."""
        held = {pod.node or pod.placed_on for pod in self.cluster.our_pods()}
        found: Counter[str] = Counter()
        for node in self.cluster.nodes.values():
            pool = self.pool_of(node)
            if pool is not None and (node.pool is not None or node.name in held):
                found[pool] += 1
        for name, sized in self.sized.items():
            found[name] += len(sized.booting)
        return found

    @property
    def paid_dollars_per_hour(self) -> float:
        """$/h of these nodes."""
        return self._dollars(self.nodes)

    @property
    def committed_dollars_per_hour(self) -> float:
        """The same with nodes that are asked for and do not come: the spend that the budget bounds."""
        asked = {name: pool.wanted for name, pool in self.sized.items()}
        return self._dollars(self.nodes | Counter(asked))

    def pool_of(self, node: SimulatedNode) -> str | None:
        """The pool of the plan that a node belongs to."""
        if node.pool is not None:
            return self.pool_by_object[node.pool]
        matching = (pool for pool in self.spec.node_pools if pool.node_selector.items() <= node.labels.items())
        return next((pool.name for pool in matching), None)

    def _dollars(self, nodes: Mapping[str, int]) -> float:
        return math.fsum(count * self.prices[name] for name, count in nodes.items())

    def _wrote(self, *_: object) -> None:
        self.most_dollars_per_hour = max(self.most_dollars_per_hour, self.committed_dollars_per_hour)


def _to_its_end(solve: Solve) -> Search:
    """A search that every turn waits for."""

    def search(
        question: Question,
        spec: PlanSpec,
        at_most_seconds: float | None = None,
        *,
        first: bool = False,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> Answer:
        del unwanted  # nobody takes its place meanwhile
        return solve(question, spec, at_most_seconds, first=first)

    return search


def _cluster(situation: Situation, times: Times) -> SimulatedCluster:
    """The cluster of a plan. Pools that are sized are Karpenter's NodePools in it, whatever sizes them elsewhere."""
    spec, plan = situation.spec, situation.world.plan
    if spec.mode != "Auto":
        raise InputError("spec.mode", spec.mode, f"with {FLAG} nobody approves a plan; give Auto")
    for pool in spec.node_pools:
        where = f"spec.nodePools[{pool.name}]"
        if pool.gpus_per_node is None:
            raise InputError(f"{where}.gpusPerNode", None, f"with {FLAG} there is no node to read it from; give it")
        if pool.dra is not None:
            raise InputError(f"{where}.dra", None, f"{FLAG} knows no devices; replay without it")
    manifest: Json = copy.deepcopy(plan.spec)
    for raw, pool in zip(manifest["nodePools"], spec.node_pools, strict=True):
        if pool.resize is not None:
            raw["resize"] = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": _object_of(pool)}
    cluster = SimulatedCluster(
        manifest,
        namespace=plan.namespace,
        plan=plan.name,
        boot_ticks=times.node / TICK_SECONDS,
        start_ticks=times.engine / TICK_SECONDS,
        stop_ticks=times.stop / TICK_SECONDS,
        gateway_ticks=0,
        leader_worker_sets=True,
    )
    for pool in spec.node_pools:
        if pool.resize is not None:
            assert pool.gpus_per_node is not None, "was looked at above"
            cluster.add_pool(
                _object_of(pool), dict(pool.node_selector), pool.gpus_per_node, resource=_resource(pool, situation)
            )
    for node in situation.world.nodes:
        resource, gpus = next(iter(node.gpu_resources.items()), (names.GPU_RESOURCE, node.gpus))
        cluster.add_node(node.name, dict(node.labels), gpus, resource)
    return cluster


def _object_of(pool: NodePool) -> str:
    """The name of the object that sizes a pool: Karpenter labels its nodes with it."""
    return pool.node_selector.get(POOL_LABEL, pool.name)


def _resource(pool: NodePool, situation: Situation) -> str:
    catalogue = situation.known.catalogue
    return resource_of(pool, None if pool.gpu is None else catalogue.find_gpu(pool.gpu), (), catalogue)
