"""What the operator asks beside the API server of the simulated cluster: market, Prometheus, engines and gateway.

Each has the form of the part of ``observe`` that its docstring names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.readings import GatewayFacts, SeenDemand, SeenEngines
from servingplan.model.world import NodeTemplate, Offered
from servingplan.observe.gateway import NO_ANSWER
from servingplan.pool_kinds.karpenter import POOL_LABEL

if TYPE_CHECKING:
    from servingplan.rehearse.cluster import SimulatedCluster


class Market:
    """``observe.offerings.Market``."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster

    def of(self, template: NodeTemplate) -> Offered | None:
        pool = self._cluster.pools.get(template.labels[POOL_LABEL])
        return None if pool is None else pool.offered


class Prometheus:
    """``observe.demand.Demand``."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster

    def seen(self, namespace: str, name: str, spec: PlanSpec | None) -> SeenDemand | None:
        return None if spec is None or spec.demand is None else self._cluster.demand(self._cluster.now)


class Engines:
    """``observe.engine_figures.Engines``."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster

    def seen(self, namespace: str, name: str, spec: PlanSpec | None) -> SeenEngines | None:
        return None if spec is None or not spec.planning.learn else self._cluster.engines(self._cluster.now)


class Outside:
    """``observe.outside.Outside``: the gateway and the engines, which answer at once or not at all."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster

    def gateway(self, url: str, plan: str) -> Callable[[], GatewayFacts]:
        taken = self._cluster.taken_by_gateway()
        if self._cluster.gateway_ticks is None or not self._cluster.gateway_answers or taken is None:
            return lambda: GatewayFacts(problem=NO_ANSWER)
        return lambda: GatewayFacts(revisions=(taken["revision"],))

    def requests_inside(self, namespace: str, addresses: Mapping[str, str]) -> dict[str, int | None]:
        return {pod.uid: pod.requests_inside for pod in self._cluster.our_pods() if pod.uid in addresses}

    def close(self) -> None:
        pass
