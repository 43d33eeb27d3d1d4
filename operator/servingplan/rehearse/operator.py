"""The operator in a simulated cluster: the turns of ``servingplan.reconcile``, with its reader, informers and writer.

What threads do elsewhere is stepped here: before each turn every informer tries once, and a search ends within its turn unless
the caller runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, override

from servingplan.answering import Beside
from servingplan.decide.turn import Search
from servingplan.explaining import Explainer
from servingplan.metrics.exporter import PlanMetrics
from servingplan.model.decision import Decision
from servingplan.model.world import Observation
from servingplan.observe.state import ClusterState, Overlaid
from servingplan.planning.situation import Situation
from servingplan.reconcile import TurnReport, Turns
from servingplan.rehearse.cluster import SimulatedCluster


class _Unexplained(Explainer):
    """Explanations are found in threads, and change nothing that is decided."""

    @override
    def begin(self, situation: Situation, decision: Decision) -> bool:
        return False


async def _at_once[**P, T](call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """``servingplan.reconcile.Elsewhere`` without a thread."""
    return call(*args, **kwargs)


def _ended[T](work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("the turn waits for something outside the simulated cluster")


class Operator:
    """One process of the operator: it remembers nothing but what its informers hold."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        solve: Search,
        *,
        saw: Callable[[Observation], Observation],
        beside: Beside | None = None,
        metrics: PlanMetrics | None = None,
    ) -> None:
        """``saw`` is told of each observation and returns the one that is decided on."""
        self.state = ClusterState(cluster.api, clock=cluster.seconds)
        self._api = cluster.api
        api = Overlaid(cluster.api, self.state)
        self._reader = cluster.reader(api, self.state)
        self._saw = saw
        self._turns = Turns(
            api=api,
            reader=self,
            solve=solve,
            namespace=cluster.namespace,
            name=cluster.plan,
            metrics=metrics,
            explainer=_Unexplained(),
            elsewhere=_at_once,
            beside=beside,
            clock=lambda: cluster.time,
        )

    def turn(self) -> TurnReport:
        """Take one turn."""
        return self._take(self._turns.take())

    def retire(self, uid: str) -> TurnReport:
        """Take one step of the plan's retirement."""
        return self._take(self._turns.retire(uid))

    def _take(self, turn: Coroutine[Any, Any, TurnReport]) -> TurnReport:
        with self._api.one_moment():
            self.state.step()
        return _ended(turn)

    def observe(self, namespace: str, name: str) -> Observation | None:
        """The same as ``Reader.observe``, and somebody looks on."""
        world = self._reader.observe(namespace, name)
        return None if world is None else self._saw(world)
