"""A trace through the fleet that the operator keeps: nodes are lost, pools refuse, and its own turns answer.

Requests go by the routing document that the operator wrote last, to the pods that are ready and listed by then. The operator
measures their arrivals, which are counted by class every ten seconds. It takes a turn when something ends in the cluster (a
boot, a start, a stop), when an event happens, when it wants to be woken, and every ten seconds. A turn takes no time, and a
lost node is seen at once.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import override

from servingplan.api.scalars import seconds_of
from servingplan.errors import InputError
from servingplan.model.readings import Arrivals, SeenDemand
from servingplan.planning.situation import Situation
from servingplan.rehearse.parts import SimulatedPod
from servingplan.rehearse.spans import Spans
from servingplan.rehearse.stage import FLAG, Stage
from servingplan.replay.events import Event
from servingplan.replay.fleet import Replica, Shapes
from servingplan.replay.run import Outcome, Replay

SCRAPE_SECONDS = 10.0
"""The time between two samples of Prometheus, and between two turns at most."""
CALM_SECONDS = 15.0
"""How long the operator must rest until an event counts as over; it looks again within this time."""
MINUTE_SECONDS = 60.0
MOST_MINUTES = 240
"""The most spans of the timeline. Beyond, every two become one."""


@dataclass(frozen=True)
class Phase:
    """A part of the rehearsal: before an event, while it and the operator's answer last, or after that."""

    since: float
    name: str
    """``before``, ``during`` or ``after``."""
    event: str
    """The events, in words; empty before the first."""


@dataclass
class Course:
    """What happened in the cluster. Times are in seconds from the first arrival."""

    phases: list[Phase] = field(default_factory=lambda: [Phase(0.0, "before", "")])
    spend: list[tuple[float, float]] = field(default_factory=list)
    """The $/h that are paid, from each change on."""
    dollars: float = 0.0
    steps: list[tuple[float, str]] = field(default_factory=list)
    """Moves of the fleet, in words."""
    moves: Counter[str] = field(default_factory=Counter)
    """How often each kind of move happened."""


class Rehearsal(Replay):
    """The operator on the clock of a trace. ``run`` once."""

    _of_a_refusal = ""

    def __init__(
        self,
        stage: Stage,
        situation: Situation,
        shapes: Shapes,
        *,
        events: Sequence[Event] = (),
        seed: int = 1,
    ) -> None:
        """``stage`` has settled. Raises ``InputError`` if a replica spans nodes."""
        fleet = stage.decision.fleet
        if fleet is None or not fleet.replica_sets:
            raise InputError(FLAG, None, f"the operator's plan serves nothing{stage.wrong}")
        self.stage, self.course = stage, Course()
        self._cluster = stage.cluster
        self._origin = stage.cluster.now
        self._pods: dict[str, Replica] = {}
        """The replicas of the pods that were ready, by uid."""
        self._places = {item.deployment: place for place, item in enumerate(fleet.replica_sets)}
        self._node_numbers: dict[str, int] = {}
        self._lost: dict[str, tuple[dict[str, str], int, str]] = {}
        """The labels, GPUs and resource of nodes that were lost, by name."""
        self._slowness: dict[str, float] = {}
        self._eventful_until = 0.0
        self._calm_since: float | None = None
        self._routed: object = None
        self._plans_told, self._ledger_told = len(stage.plans), len(stage.cluster.ledger)
        self._news: Counter[tuple[str, str, str]] = Counter()
        self._wrong: tuple[str, ...] = ()
        self._most_nodes: Counter[str] = Counter()
        self._paid_since = 0.0
        self._next_look = math.inf
        self._counted: dict[str, deque[tuple[float, float, float]]] = {}
        self._arrived_before: list[int] = []
        super().__init__(fleet, situation, shapes, events=events, seed=seed)
        self.phases, self.minutes = Spans(self.classes), Spans(self.classes)
        self._minute_seconds = MINUTE_SECONDS
        self._begin_counting()
        self.course.spend.append((0.0, stage.paid_dollars_per_hour))
        self._most_nodes |= stage.nodes
        stage.most_dollars_per_hour = stage.committed_dollars_per_hour
        self._at(SCRAPE_SECONDS, self._scrape)
        self._at(MINUTE_SECONDS, self._minute)
        self._plan_look(0.0)

    @property
    def seconds(self) -> float:
        """The time from the first arrival to the last answer so far."""
        return self._last

    # --- what a replay does otherwise

    @override
    def _first_replicas(self) -> list[Replica]:
        return []

    @override
    def _settle(self, replica: Replica, now: float) -> None:
        for served in replica.engine.advance(now):
            number = replica.open.pop(served)
            if self.classes[number].finish(served):
                self.phases.in_time(served.arrived, number)
                self.minutes.in_time(served.arrived, number)
            assert served.finished is not None, "it finished"
            self._last = max(self._last, served.finished)

    @override
    def _outcome(self) -> Outcome:
        self._pay(self._last)
        found = super()._outcome()
        found.dollars = self.course.dollars
        found.most_dollars_per_hour = self.stage.most_dollars_per_hour
        found.most_nodes = {pool.name: self._most_nodes[pool.name] for pool in self._spec.node_pools}
        return found

    @override
    def _follow(self) -> None:
        """Let the engines be those of the pods, and the routing that which the operator wrote."""
        now = self._now
        there = {pod.uid: pod for pod in self._cluster.our_pods() if not pod.rank}
        for uid in [uid for uid, replica in self._pods.items() if uid not in there]:
            replica = self._pods.pop(uid)
            self._end(replica, now)
        for pod in sorted(there.values(), key=lambda pod: (self._place(pod), pod.serial)):
            if pod.uid not in self._pods and self._cluster.is_ready(pod):
                self._start(pod, now)
        for uid, replica in self._pods.items():
            replica.up = self._takes_requests(there[uid])
        document = self._cluster.taken_by_gateway()
        assert document is not None, "a plan in force has its routing"
        routed = (document["revision"], tuple(uid for uid, replica in self._pods.items() if replica.up))
        if routed != self._routed:
            self._routed = routed
            self._gateway.route_by(document, self._fleet, self.replicas)

    # --- pods and their engines

    @property
    def _now(self) -> float:
        return (self._cluster.now - self._origin).total_seconds()

    def _takes_requests(self, pod: SimulatedPod) -> bool:
        return self._cluster.is_ready(pod) and pod.serving and self._cluster.is_listed(pod)

    def _place(self, pod: SimulatedPod) -> int:
        """The place of a pod's replica set, in the order in which these came."""
        assert pod.deployment is not None, "it is ours"
        if pod.deployment not in self._places:
            self._places[pod.deployment] = len(self._places)
            sets = (*self._fleet.replica_sets, self.stage.shapes[pod.deployment])
            self._fleet = self._fleet.model_copy(update={"replica_sets": sets})
        return self._places[pod.deployment]

    def _start(self, pod: SimulatedPod, now: float) -> None:
        place = self._place(pod)
        item = self._fleet.replica_sets[place]
        assert pod.node is not None, "it is ready"
        number = self._node_numbers.setdefault(pod.node, len(self._node_numbers))
        replica = Replica(place, self._shapes.engine(item), (item.pool, number))
        replica.engine.slowdown = self._slowness.get(item.pool, 1.0)
        replica.since = now
        self._pods[pod.uid] = replica
        self.replicas.append(replica)
        if now > 0:
            self._news[item.model, item.pool, "ready"] += 1
            self.course.moves["replicas started"] += 1

    def _end(self, replica: Replica, now: float) -> None:
        if replica.until is None:
            self._cut([replica], now)
            replica.until = now
            item = self._fleet.replica_sets[replica.place]
            self._news[item.model, item.pool, "gone"] += 1
            self.course.moves["replicas ended"] += 1

    # --- time

    def _pass(self, at: float) -> None:
        """Let time pass in the cluster."""
        moment = self._moment(at)
        if moment > self._cluster.now:
            self._cluster.pass_until(moment)

    def _moment(self, at: float) -> datetime:
        return self._origin + timedelta(seconds=at)

    def _react(self, at: float) -> None:
        """Let the operator take its turns, and follow what came of them."""
        for pod in self._cluster.our_pods():
            if pod.draining_since is not None and pod.uid in self._pods:
                self._settle(self._pods[pod.uid], at)
                pod.requests_inside = len(self._pods[pod.uid].open)
        self.stage.act()
        self._follow()
        self._pay(at)
        self._tell(at)
        self._watch_calm(at)
        self._plan_look(at)

    def _watch_calm(self, at: float) -> None:
        """End the time of an event once it is over and the operator has had nothing to do for a while."""
        if at < self._eventful_until or not self.stage.resting:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = at
        elif self.course.phases[-1].name == "during" and at - self._calm_since >= CALM_SECONDS:
            self._enter("after", self.course.phases[-1].event, at)

    def _plan_look(self, at: float) -> None:
        due = (self.stage.next_moment() - self._origin).total_seconds()
        self._next_look = max(math.floor(at) + 1.0, math.ceil(due - 1e-6))
        self._at(self._next_look, self._look)

    def _look(self, at: float) -> None:
        if at == self._next_look:  # else another one was planned instead
            self._pass(at)
            self._react(at)

    # --- demand, as Prometheus would count it

    def _begin_counting(self) -> None:
        self._arrived_before = [0] * len(self.classes)
        demand = self.stage.spec.demand
        window = 300 if demand is None else seconds_of(demand.prometheus.window)
        self._counted = {
            f"{item.model}/{item.name}": deque(maxlen=max(1, round(window / SCRAPE_SECONDS))) for item in self.classes
        }
        self._cluster.demand = lambda _now: self._seen()

    def _scrape(self, at: float) -> None:
        end = self._moment(at).timestamp()
        for number, (item, known) in enumerate(zip(self.classes, self._counted.values(), strict=True)):
            known.append((end, SCRAPE_SECONDS, float(item.arrived - self._arrived_before[number])))
            self._arrived_before[number] = item.arrived
        self._at(at + SCRAPE_SECONDS, self._scrape)
        self._pass(at)
        self._react(at)

    def _seen(self) -> SeenDemand:
        classes = tuple(
            Arrivals(model=item.model, name=item.name, intervals=tuple(known))
            for item, known in zip(self.classes, self._counted.values(), strict=True)
            if known
        )
        return SeenDemand(signal="envoy", metrics=("requests",), classes=classes)

    # --- events

    @override
    def _happen(self, event: Event, at: float) -> None:
        self._pass(at)
        last = self.course.phases[-1]
        self._calm_since = None
        self._enter("during", f"{last.event}; {event.words}" if last.name == "during" else event.words, at)
        replaced = event.event == "NodeLost" and event.pool in self.stage.sized
        if event.seconds is not None and not replaced:
            self._eventful_until = max(self._eventful_until, at + event.seconds)
        super()._happen(event, at)
        self._react(at)

    def _enter(self, name: str, event: str, at: float) -> None:
        self.course.phases.append(Phase(at, name, event))
        self.phases.begin(at)
        if len(self.phases.starts) < len(self.course.phases):  # two begin at once: the first had no time
            del self.course.phases[-2]

    @override
    def _slow(self, pool: str, factor: float, at: float) -> None:
        self._slowness[pool] = factor
        super()._slow(pool, factor, at)

    @override
    def _refuse(self, pool: str, at: float) -> None:
        super()._refuse(pool, at)
        if pool in self.stage.sized:
            self.stage.sized[pool].sold_out = True

    @override
    def _give_again(self, pool: str, at: float) -> None:
        super()._give_again(pool, at)
        self._pass(at)
        if pool in self.stage.sized:
            self.stage.sized[pool].sold_out = False
            self._cluster.run_controllers()
        self._react(at)

    @override
    def _lose(self, pool: str, at: float) -> tuple[str, int] | None:
        """Lose the node of a pool that has had a ready replica for the longest time."""
        held = {pod.node for pod in self._cluster.our_pods() if self._cluster.is_ready(pod)}
        found = [
            name for name, node in self._cluster.nodes.items() if name in held and self.stage.pool_of(node) == pool
        ]
        if not found:
            self._told.append(f"{at:g} s: no node of {pool} with a replica is left to lose")
            return None
        node = min(found, key=lambda name: self._node_numbers.get(name, math.inf))
        lost = [self._pods[pod.uid] for pod in self._cluster.our_pods() if pod.node == node and pod.uid in self._pods]
        cut = self._cut(lost, at)
        for replica in lost:
            replica.until = at
        there = self._cluster.nodes[node]
        self._lost[node] = dict(there.labels), there.gpus, there.resource
        self._cluster.lose_node(node)
        if pool not in self.stage.sized:  # of others the ledger tells
            self.course.moves["nodes lost"] += 1
        self._told.append(f"{at:g} s: {node} of {pool} is lost, and {cut} requests with it")
        return pool, self._node_numbers[node]

    @override
    def _come_back(self, node: tuple[str, int], at: float) -> None:
        pool, number = node
        if pool in self.stage.sized:
            return  # its provider has made another one long since, or does not give any
        name = next(name for name, of in self._node_numbers.items() if of == number)
        self._pass(at)
        self._cluster.add_node(name, *self._lost[name])
        self._told.append(f"{at:g} s: {name} of {pool} is back")
        self._react(at)

    # --- what is told

    def _pay(self, at: float) -> None:
        """Pay the time until now at the rate that held, and note the new one."""
        last = self.course.spend[-1][1]
        self.course.dollars += last * max(0.0, at - self._paid_since) / 3600
        self._paid_since = max(at, self._paid_since)
        rate = self.stage.paid_dollars_per_hour
        if rate != last:
            self.course.spend.append((at, rate))
        self._most_nodes |= self.stage.nodes

    def _tell(self, at: float) -> None:
        """Note what changed in the cluster and in the plan's status."""
        stage, told = self.stage, []
        for _, why, fleet in stage.plans[self._plans_told :]:
            nodes = ", ".join(f"{count} {pool}" for pool, count in sorted(fleet.nodes.items()) if count)
            told.append(f"plan {fleet.hash} ({why}): {fleet.dollars_per_hour:.2f} $/h, {nodes or 'no nodes'}")
            self.course.moves["plans"] += 1
        changes = Counter(
            (stage.pool_by_object[entry.pool], entry.what) for entry in self._cluster.ledger[self._ledger_told :]
        )
        for (pool, what), count in sorted(changes.items()):
            told.append(f"{pool}: {count} {'node' if count == 1 else 'nodes'} {what}")
            self.course.moves[f"nodes {what}"] += count
        for (model, pool, became), count in sorted(self._news.items()):
            told.append(f"{count} {'replica' if count == 1 else 'replicas'} of {model} on {pool} {became}")
        wrong = tuple(
            f"{item['type']}: {item['reason']}"
            for item in self._cluster.status["conditions"]
            if item["status"] != "True"
        )
        if wrong != self._wrong:
            told.append(f"status: {', '.join(wrong) or 'all conditions are true'}")
        self._wrong, self._plans_told, self._ledger_told = wrong, len(stage.plans), len(self._cluster.ledger)
        self._news.clear()
        self.course.steps += [(at, words) for words in told]

    def _minute(self, at: float) -> None:
        self.minutes.begin(at)
        if len(self.minutes.starts) > MOST_MINUTES:
            self.minutes.join_pairs()
            self._minute_seconds *= 2
        self._at(at + self._minute_seconds, self._minute)
