"""The replay: arrivals go through a gateway into engines on a virtual clock, and the results are counted.

Engines share nothing, so each is advanced only when its state matters: when it may take a request, when its node is lost, and
at the end. Times are in seconds from the first arrival.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import Fleet
from servingplan.planning.shapes import slo_of
from servingplan.planning.situation import Situation
from servingplan.replay.events import DemandEvent, Event
from servingplan.replay.fleet import Replica, Shapes, replicas_of
from servingplan.replay.gateway import Balancing, Gateway
from servingplan.replay.sketch import Sketch
from servingplan.replay.trace import Arrival
from servingplan.routing.document import routing_document
from servingplan.simulate.sequence import Sequence as Served

PROGRESS_EVERY = 5_000
"""Requests between two calls of the display."""
ROUNDING = 1e-9
"""The relative slack of a limit, because times are sums of many numbers."""


@dataclass
class ClassFigures:
    """The results of one class."""

    model: str
    name: str
    ttft_limit: float
    tpot_limit: float
    percentile: float
    """The share of requests, in per cent, that the plan promises to serve within both limits."""
    arrived: int = 0
    turned_away: int = 0
    """The requests that the gateway turned away, because they exceeded the admitted rate or no replica was up."""
    unavailable: int = 0
    """Those of them for which no replica was up, which get 503; the others get 429."""
    too_long: int = 0
    """The requests that were longer than the engine's context, which refuses them."""
    cut: int = 0
    """The requests that were cut by the loss of a node."""
    finished: int = 0
    in_time: int = 0
    prompt_tokens: int = 0
    """The prompt tokens of all requests that arrived."""
    output_tokens: int = 0
    served_tokens: int = 0
    """The tokens of the requests that finished, prompts and answers together."""
    ttft: Sketch = field(default_factory=Sketch)
    tpot: Sketch = field(default_factory=Sketch)
    end_to_end: Sketch = field(default_factory=Sketch)

    def finish(self, served: Served) -> bool:
        """Count a request that was answered. Returns whether it was within both limits."""
        assert served.first_token is not None, "it finished"
        assert served.finished is not None, "it finished"
        ttft = served.first_token - served.arrived
        tpot = served.time_per_output_token
        self.finished += 1
        self.served_tokens += served.prompt_tokens + served.output_tokens
        self.ttft.add(ttft)
        self.end_to_end.add(served.finished - served.arrived)
        if tpot is not None:
            self.tpot.add(tpot)
        in_time = ttft <= self.ttft_limit * (1 + ROUNDING) and (tpot or 0.0) <= self.tpot_limit * (1 + ROUNDING)
        self.in_time += in_time
        return in_time


@dataclass
class Outcome:
    """The results of a trace on one fleet."""

    fleet: Fleet
    classes: list[ClassFigures]
    replicas: list[Replica]
    seconds: float
    """The time from the first arrival to the last answer."""
    arrival_seconds: float
    """The time from the first arrival to the last."""
    events: list[str] = field(default_factory=list)
    """The events, in words."""
    dollars: float | None = None
    """Dollars that were paid for nodes that were added and removed; None: the fleet's nodes are paid all the time."""
    most_dollars_per_hour: float | None = None
    """The most $/h at any moment; None: that of the fleet."""
    most_nodes: Mapping[str, int] | None = None
    """The most nodes at any moment, by pool; None: those of the fleet."""


class Replay:
    """One fleet on its clock. Call ``run`` only once."""

    _of_a_refusal = ", which changes nothing here: this fleet rents none"
    """What is told beside a pool's refusal."""

    def __init__(
        self,
        fleet: Fleet,
        situation: Situation,
        shapes: Shapes,
        *,
        balancing: Balancing = "weights",
        events: Sequence[Event] = (),
        seed: int = 1,
    ) -> None:
        spec = situation.spec
        self._fleet, self._spec, self._plan, self._shapes = fleet, spec, situation.world.plan, shapes
        self.replicas = self._first_replicas()
        self.classes = [
            _class_figures(spec, model.name, item.name) for model in spec.models for item in model.effective_classes
        ]
        self._numbers = {(item.model, item.name): number for number, item in enumerate(self.classes)}
        self._gateway = Gateway(list(self._numbers), balancing, self._settle, seed=seed)
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._turn = itertools.count()
        for event in events:
            self._at(event.at, partial(self._happen, event))
        self._told: list[str] = []
        self._last = self._arrived = 0.0
        self._follow()

    def run(
        self, arrivals: Iterable[Arrival], *, on_progress: Callable[[int, float], None] = lambda _count, _now: None
    ) -> Outcome:
        """Serve all arrivals, which must be in order of time."""
        numbers, classes, choose = self._numbers, self.classes, self._gateway.choose
        for count, arrival in enumerate(arrivals):
            now = arrival.at
            while self._due and self._due[0][0] <= now:
                at, _, action = heapq.heappop(self._due)
                action(at)
            number = numbers[arrival.model, arrival.name]
            figures = classes[number]
            figures.arrived += 1
            figures.prompt_tokens += arrival.prompt_tokens
            figures.output_tokens += arrival.output_tokens
            replica = choose(number, now, arrival.prefix)
            if replica is None:
                figures.turned_away += 1
                figures.unavailable += not self._gateway.serves(number)
            elif not replica.engine.fits(arrival.prompt_tokens, arrival.output_tokens):
                figures.too_long += 1
            else:
                self._settle(replica, now)
                served = replica.engine.admit(arrival.prompt_tokens, arrival.output_tokens, now, prefix=arrival.prefix)
                replica.open[served] = number
                replica.taken += 1
                replica.least_free_blocks = min(replica.least_free_blocks, replica.engine.free_blocks)
            self._arrived = now
            if count % PROGRESS_EVERY == 0:
                on_progress(count, now)
        self._last = max(self._last, self._arrived)
        for replica in self.replicas:
            self._settle(replica, math.inf)
        return self._outcome()

    def _first_replicas(self) -> list[Replica]:
        return replicas_of(self._fleet, self._shapes)

    def _outcome(self) -> Outcome:
        return Outcome(self._fleet, self.classes, self.replicas, self._last, self._arrived, self._told)

    def _settle(self, replica: Replica, now: float) -> None:
        """Advance a replica to a time, and count what it finished."""
        for served in replica.engine.advance(now):
            self.classes[replica.open.pop(served)].finish(served)
            assert served.finished is not None, "it finished"
            self._last = max(self._last, served.finished)

    def _follow(self) -> None:
        """Route over the replicas that are up."""
        ready = Counter(self._fleet.replica_sets[item.place].deployment for item in self.replicas if item.up)
        facts = {item.deployment: item.facts for item in self._fleet.replica_sets}
        document = routing_document(
            plan=self._plan, spec=self._spec, fleet=self._fleet, facts=facts, ready=ready, previous=None
        )
        self._gateway.route_by(document, self._fleet, self.replicas)

    # --- events

    def _at(self, at: float, action: Callable[[float], None]) -> None:
        """Call ``action`` at a time, in seconds from the first arrival, before the first request from then on."""
        heapq.heappush(self._due, (at, next(self._turn), action))

    def _happen(self, event: Event, at: float) -> None:
        if isinstance(event, DemandEvent):
            self._told.append(f"{at:g} s: {event.words}")  # the arrivals have it in them
            return
        if event.event == "Slow":
            self._slow(event.pool, event.factor, at)
            self._told.append(f"{at:g} s: {event.pool} {event.factor:g} x slower")
            end: Callable[[float], None] = partial(self._recover, event.pool)
        elif event.event == "Refused":
            self._refuse(event.pool, at)
            end = partial(self._give_again, event.pool)
        else:
            node = self._lose(event.pool, at)
            if node is None:
                return
            end = partial(self._come_back, node)
        if event.seconds is not None:
            self._at(at + event.seconds, end)

    def _slow(self, pool: str, factor: float, at: float) -> None:
        for replica in self.replicas:
            if replica.node[0] == pool and replica.up:
                self._settle(replica, at)
                replica.engine.slowdown = factor

    def _recover(self, pool: str, at: float) -> None:
        self._slow(pool, 1.0, at)
        self._told.append(f"{at:g} s: {pool} as fast as before")

    def _refuse(self, pool: str, at: float) -> None:
        self._told.append(f"{at:g} s: {pool} gives no more nodes{self._of_a_refusal}")

    def _give_again(self, pool: str, at: float) -> None:
        self._told.append(f"{at:g} s: {pool} gives nodes again")

    def _lose(self, pool: str, at: float) -> tuple[str, int] | None:
        """Lose the first node of a pool that is up; None if no node is."""
        nodes = sorted({item.node for item in self.replicas if item.up and item.node[0] == pool})
        if not nodes:
            self._told.append(f"{at:g} s: no node of {pool} with a replica is left to lose")
            return None
        cut = self._cut([item for item in self.replicas if item.node == nodes[0] and item.up], at)
        self._told.append(f"{at:g} s: node {nodes[0][1]} of {pool} is lost, and {cut} requests with it")
        self._follow()
        return nodes[0]

    def _cut(self, replicas: Sequence[Replica], at: float) -> int:
        """End engines with their requests. Returns the number of these."""
        cut = 0
        for replica in replicas:
            self._settle(replica, at)
            for of in replica.open.values():
                self.classes[of].cut += 1
            cut += len(replica.open)
            replica.open.clear()
            replica.up = False
            self._retire(replica)
        return cut

    def _come_back(self, node: tuple[str, int], at: float) -> None:
        for replica in self.replicas:
            if replica.node == node:
                replica.up = True
        self._told.append(f"{at:g} s: node {node[1]} of {node[0]} is back")
        self._follow()

    def _retire(self, replica: Replica) -> None:
        """Put an idle engine in the place of one that was lost."""
        replica.replace(self._shapes.engine(self._fleet.replica_sets[replica.place]))


def _class_figures(spec: PlanSpec, model_name: str, name: str) -> ClassFigures:
    model = next(model for model in spec.models if model.name == model_name)
    slo = slo_of(model, next(item for item in model.effective_classes if item.name == name))
    return ClassFigures(
        model=model_name,
        name=name,
        ttft_limit=math.inf if slo.ttft_seconds is None else float(slo.ttft_seconds),
        tpot_limit=math.inf if slo.tpot_seconds is None else float(slo.tpot_seconds),
        percentile=float(slo.percentile),
    )
