"""An autoscaler in the place of the plan: one shape per model on one pool, as many copies as their queue asks for.

The rule is that of Kubernetes' HorizontalPodAutoscaler, which KEDA drives too ("Algorithm details" of its documentation): every
15 s it wants ceil(replicas x metric / target). The metric is the mean over the ready replicas of ``vllm:num_requests_waiting``,
with the target 5 that vLLM's production stack has in its example for KEDA, or of all requests in flight.

It knows no classes and no limits: each request goes to the replica of its model with the fewest in flight, and none is turned
away. It rents nodes within the budget and the stock of the plan's pool, and gives a node back as soon as nothing is on it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, override

from servingplan.errors import InputError
from servingplan.model.fleet import Fleet, ReplicaSet
from servingplan.planning.situation import Situation
from servingplan.replay.fleet import Replica, Shapes
from servingplan.replay.run import Outcome, Replay

NAME: Final = "autoscaler"
METRICS: Final = ("waiting", "in-flight")
SYNC_SECONDS, TOLERANCE, STABILIZATION_SECONDS = 15.0, 0.1, 300.0
"""Defaults of Kubernetes' HorizontalPodAutoscaler: look every 15 s, ignore a tenth, scale down by the highest wish of the
last five minutes; up at most to the double or by four replicas, the larger, in one look."""
NODE_SECONDS, ENGINE_SECONDS = 90.0, 60.0
"""How long a node takes to come, and an engine to load: those of ``docs/fleet.md``. A plan does not say them."""


@dataclass(frozen=True)
class Rule:
    """desired = ceil(replicas x metric / target), the metric being a mean over ready replicas."""

    metric: str = "waiting"
    """The metric, one of ``METRICS``: requests that wait, or these and those that run."""
    target: float = 5.0


def rule_of(name: str) -> Rule | None:
    """The rule that ``autoscaler`` or ``autoscaler:METRIC=TARGET`` names; None where the name is another.

    Raises:
        InputError: it is an autoscaler without a sensible rule.
    """
    first, colon, rest = name.partition(":")
    if first != NAME:
        return None
    if not colon:
        return Rule()
    metric, _, target = rest.partition("=")
    try:
        value = float(target)
    except ValueError:
        value = math.nan
    if metric not in METRICS or not (math.isfinite(value) and value > 0):
        raise InputError("--against", name, f"give {NAME}:METRIC=TARGET, such as {NAME}:in-flight=20")
    return Rule(metric, value)


def desired(current: int, ready: int, ratio: float) -> int:
    """Replicas that the autoscaler wants, by metric over target: those that are not ready count as idle when it would grow,
    and a tenth is ignored."""
    if ratio > 1:
        ratio = max(1.0, ratio * ready / current)
    wish = current if abs(ratio - 1) <= TOLERANCE else max(1, math.ceil(current * ratio))
    return min(wish, max(2 * current, current + 4))


@dataclass(frozen=True)
class Room:
    """The nodes that an autoscaler may rent."""

    pool: str
    gpus_per_node: int
    dollars_per_node_hour: float
    most_nodes: int
    """The most nodes at a time, by stock and budget."""
    other_dollars_per_hour: float = 0.0
    """$/h of the nodes of other pools that are paid all the time: their floors."""


@dataclass
class _Node:
    number: int
    opened: float
    free_gpus: int
    ready: float
    closed: float | None = None


@dataclass
class _Booting:
    node: _Node
    cancelled: bool = False


@dataclass
class _Scaled:
    """One model: its copies and its wishes of the last minutes."""

    place: int
    item: ReplicaSet
    ready: list[Replica] = field(default_factory=list)
    booting: list[_Booting] = field(default_factory=list)
    leaving: list[Replica] = field(default_factory=list)
    wishes: deque[tuple[float, int]] = field(default_factory=deque)


class Autoscaled(Replay):
    """A fleet of one replica set per model, all on the pool of ``room``, under the rule. ``run`` once."""

    def __init__(
        self,
        fleet: Fleet,
        situation: Situation,
        shapes: Shapes,
        *,
        room: Room,
        rule: Rule,
        seed: int = 1,
    ) -> None:
        self._room, self._rule = room, rule
        self._open: list[_Node] = []
        self._closed: list[_Node] = []
        self._home: dict[Replica, _Node] = {}
        self._models = [
            # As Kubernetes does, it takes the copies that it finds for its first wish.
            _Scaled(place, item, wishes=deque([(0.0, item.replicas)]))
            for place, item in enumerate(fleet.replica_sets)
        ]
        self._most = 0
        super().__init__(fleet, situation, shapes, balancing="least-request", seed=seed)
        self.replicas.clear()
        for scaled in self._models:
            for _ in range(scaled.item.replicas):
                node = self._node_with_room(scaled.item.gpus, now=0.0, boot_seconds=0.0)
                if node is not None:
                    self._add(scaled, node, 0.0)
        self._follow()
        self._at(SYNC_SECONDS, self._look)

    @override
    def _outcome(self) -> Outcome:
        found = super()._outcome()
        nodes = [*self._open, *self._closed]
        hours = sum((found.seconds if node.closed is None else node.closed) - node.opened for node in nodes) / 3600
        found.dollars = (
            hours * self._room.dollars_per_node_hour + found.seconds / 3600 * self._room.other_dollars_per_hour
        )
        found.most_dollars_per_hour = self._most * self._room.dollars_per_node_hour + self._room.other_dollars_per_hour
        found.most_nodes = {self._room.pool: self._most}
        return found

    @override
    def _follow(self) -> None:
        """Send each model's requests to its ready replicas."""
        self._gateway.spread({scaled.item.model: scaled.ready for scaled in self._models})

    # --- every look

    def _look(self, now: float) -> None:
        for replica in self.replicas:
            self._settle(replica, now)
        for scaled in self._models:
            for replica in [item for item in scaled.leaving if not item.open]:
                scaled.leaving.remove(replica)
                self._release(replica, now)
            self._scale(scaled, now)
        self._follow()
        self._at(now + SYNC_SECONDS, self._look)

    def _scale(self, scaled: _Scaled, now: float) -> None:
        current = len(scaled.ready) + len(scaled.booting)
        wish = 1 if not scaled.ready else desired(current, len(scaled.ready), self._ratio(scaled.ready))
        scaled.wishes.append((now, wish))
        while scaled.wishes[0][0] < now - STABILIZATION_SECONDS:
            scaled.wishes.popleft()
        wanted = wish if wish >= current else min(current, max(item for _, item in scaled.wishes))
        for _ in range(wanted - current):
            node = self._node_with_room(scaled.item.gpus, now=now, boot_seconds=NODE_SECONDS)
            if node is None:
                break
            boot = _Booting(node)
            scaled.booting.append(boot)
            self._at(max(now, node.ready) + ENGINE_SECONDS, partial(self._come, scaled, boot))
        for _ in range(current - wanted):
            if scaled.booting:
                boot = scaled.booting.pop()
                boot.cancelled = True
                self._free(boot.node, scaled.item.gpus, now)
            elif len(scaled.ready) > 1:
                replica = scaled.ready.pop()
                replica.up = False
                scaled.leaving.append(replica)
        after = len(scaled.ready) + len(scaled.booting)
        if after != current:
            self._told.append(f"{now:g} s: {scaled.item.model} goes from {current} to {after} replicas")

    def _ratio(self, ready: Sequence[Replica]) -> float:
        """The metric over its target."""
        total = sum(
            item.engine.waiting + (item.engine.running if self._rule.metric == "in-flight" else 0) for item in ready
        )
        return total / len(ready) / self._rule.target

    def _come(self, scaled: _Scaled, boot: _Booting, now: float) -> None:
        if boot.cancelled:
            return
        scaled.booting.remove(boot)
        self._add(scaled, boot.node, now)
        self._follow()

    def _add(self, scaled: _Scaled, node: _Node, now: float) -> None:
        replica = Replica(scaled.place, self._shapes.engine(scaled.item), (self._room.pool, node.number))
        replica.since = now
        self._home[replica] = node
        self.replicas.append(replica)
        scaled.ready.append(replica)

    # --- nodes

    def _node_with_room(self, gpus: int, *, now: float, boot_seconds: float) -> _Node | None:
        """The fullest node that has room, or a new one; its GPUs are taken. None where nothing more can be rented."""
        fitting = [node for node in self._open if node.free_gpus >= gpus]
        if fitting:
            node = min(fitting, key=lambda node: (node.free_gpus, node.number))
        elif len(self._open) < self._room.most_nodes and gpus <= self._room.gpus_per_node:
            number = len(self._open) + len(self._closed)
            node = _Node(number, now, self._room.gpus_per_node, now + boot_seconds)
            self._open.append(node)
            self._most = max(self._most, len(self._open))
        else:
            return None
        node.free_gpus -= gpus
        return node

    def _release(self, replica: Replica, now: float) -> None:
        replica.until = now
        self._free(self._home.pop(replica), self._fleet.replica_sets[replica.place].gpus, now)

    def _free(self, node: _Node, gpus: int, now: float) -> None:
        node.free_gpus += gpus
        if node.free_gpus == self._room.gpus_per_node:
            node.closed = now
            self._open.remove(node)
            self._closed.append(node)
