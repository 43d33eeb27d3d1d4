"""Runs the operator in a simulated cluster and watches, at every write and every tick, what must hold.

The turns are those of ``servingplan.reconcile``, with the operator's reader, informers and writer, through the cluster's API.
Only what would need threads is stepped: before each turn every informer tries once.
"""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from servingplan.answering import Beside
from servingplan.api.v1alpha1 import KIND
from servingplan.errors import ApiError
from servingplan.metrics.exporter import PlanMetrics
from servingplan.model import names
from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet, ReplicaFacts
from servingplan.model.question import Question, canonical_json
from servingplan.model.times import seconds_between
from servingplan.model.world import Observation
from servingplan.observe.state import ClusterState
from servingplan.planning.pools import FOREVER
from servingplan.planning.situation import Situation
from servingplan.reconcile import TurnReport
from servingplan.rehearse.api import SimulatedApi
from servingplan.rehearse.api_server import Key
from servingplan.rehearse.cluster import WORKLOADS, SimulatedCluster
from servingplan.rehearse.objects import NAMESPACE, PLAN, PLAN_UID
from servingplan.rehearse.operator import Operator
from servingplan.rehearse.parts import SimulatedPod
from servingplan.solve import solve

Json = dict[str, Any]
MOST_TURNS_AT_ONCE = 40
TICKS_OF_PATIENCE = 600
"""A pool that gives nothing and says nothing is given up after ten minutes, each time that it is asked again."""
_ANSWERS: dict[str, Any] = {}


def exact(question: Question, spec: Any, at_most_seconds: float | None = None, **_: Any) -> Any:
    """The project's exact solver; every test of a run shares its answers."""
    key = canonical_json(question)
    if key not in _ANSWERS:
        _ANSWERS[key] = solve(question, method="exact", deadline_seconds=30)
    return _ANSWERS[key]


class Died(BaseException):
    """The operator's process has ended in the midst of a turn."""


class OwnWrites:
    """What the operator's writes have left, answered or not: nothing older may be decided on."""

    def __init__(self, api: SimulatedApi) -> None:
        self._api = api
        self._left: dict[Key, tuple[str, int]] = {}
        """Uid and version that an object had by the last write of it."""
        self._deleted: set[str] = set()
        """Uids of objects that went."""
        api.wrote = self._note

    def _note(self, key: Key, uid: str, item: Json | None) -> None:
        if item is None:
            self._deleted.add(uid)
        else:
            self._left[key] = (uid, int(item["metadata"]["resourceVersion"]))

    def check(self, state: ClusterState, world: Observation) -> None:
        """The operator holds every object as its last write left it, or as somebody left it after that; or it knows that it
        does not know."""
        held = {uid: version for informer in state.informers() for uid, version in informer.versions().items()}
        unread = {failure.source.lower().removesuffix("s") for failure in world.failures}
        for key, (uid, version) in self._left.items():
            there = self._api.held.get(key)
            if there is None or there["metadata"]["uid"] != uid or key[0].lower() in unread:
                continue  # gone since then, by somebody's hand; or nothing of its kind is decided on
            if (key[0] == KIND and "plan" in unread) or key[0] in self._api.cluster.absent_kinds:
                continue
            if key[:1] + key[2:] in self._api.cluster.foreign_objects:
                continue  # somebody took our label off
            if key[0] == "NodePool" and not any(
                pool.reference.endswith(f"/{key[2]}") and pool.problem is None for pool in world.pools
            ):
                continue  # a new operator has not read it yet, and says so
            assert uid in held, f"{key} is not held, and we wrote version {version} of it"
            assert held[uid] >= version, f"{key} is held as of version {held[uid]}, and we wrote version {version}"
        assert unread or not self._deleted & held.keys(), "what we deleted is held"


class Driver:
    """An operator at work in a simulated cluster. A new one remembers nothing but what is in the cluster."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        *,
        solve: Callable[..., Any] = exact,
        metrics: PlanMetrics | None = None,
        slow: bool = False,
    ) -> None:
        """Searches of a ``slow`` solver end with the tick, beside the turns; else each turn waits for its answers."""
        self.cluster = cluster
        self.decision = Decision()
        self.serving_floor: dict[str, float] = {}
        self.before_each_write: list[SimulatedCluster] | None = None
        self.history: list[str] = []
        self.spec: dict[str, Any] = {}
        self.world: Observation | None = None
        """What the operator saw last."""
        self.writes = 0
        """The number of writes that were tried, without those of the status, and Events."""
        self.gone = False
        """Whether the plan is let go."""
        self.sees_all = True
        """Whether what the operator does may be judged by the world as it is. Where the API server tells it late, only what
        it can know counts."""
        self.dies_in: int | None = None
        """Writes until the operator's process ends."""
        self.searches_end = True
        """Whether searches that are under way end with the tick."""
        self._own_writes = OwnWrites(cluster.api)
        self._searches: list[Callable[[], None]] = []
        beside = Beside(self._searches.append, patience_seconds=0.0) if slow else None
        self._begin = lambda: Operator(cluster, solve, saw=self._note, beside=beside, metrics=metrics)
        self.operator = self._begin()
        cluster.api.around = self._watched

    def turn(self) -> int:
        """One turn; how many writes it made or tried."""
        return self._take(lambda: self.operator.turn())

    def attempt(self) -> None:
        """One turn, which may fail as ``loop.Loop`` lets it fail; an operator that dies is followed by another one."""
        try:
            self.turn()
        except ApiError as error:
            self.history.append(f"the turn fails: {error}")
        except Died:
            self.history.append("the operator dies")
            self._searches.clear()
            self.dies_in, self.operator = None, self._begin()

    def retire(self) -> bool:
        """One step of the retirement; whether it is over."""
        self._take(lambda: self.operator.retire(PLAN_UID))
        return self.gone

    def _take(self, turn: Callable[[], TurnReport]) -> int:
        before = self.writes
        report = turn()
        self.gone = report.gone
        if report.decision is not None:
            self.decision = report.decision
        return self.writes - before

    def act(self) -> int:
        """Turns until there is nothing to do at this moment."""
        total = 0
        for _ in range(MOST_TURNS_AT_ONCE):
            count = self.turn()
            if not count:
                self.check_routing_at_rest()
                return total
            total += count
        raise AssertionError(f"turns do not come to rest: {[str(item) for item in self.decision.actions]}")

    def tick(self, count: int = 1) -> None:
        """Time passes and the operator looks on."""
        for _ in range(count):
            self.pass_time()
            self.act()

    def pass_time(self) -> None:
        """One tick, in which searches end."""
        self.cluster.tick()
        while self._searches and self.searches_end:
            self._searches.pop(0)()
        self.history.append(f"-- {self.cluster.time}")
        self.check()

    def settle(self, most_ticks: int = TICKS_OF_PATIENCE) -> Fleet:
        """Until nothing is under way, in the cluster or in the plan."""
        self.act()
        for _ in range(most_ticks):
            if not self.cluster.busy and not self._waits():
                before = self._seen()
                self.tick()
                if self._seen() == before and not self._waits():  # what is due later was hidden by the end of a cap
                    return self.decision.fleet or Fleet()
            else:
                self.tick()
        raise AssertionError("the cluster does not come to rest:\n" + "\n".join(self.history[-40:]))

    def _seen(self) -> dict[str, Any]:
        assert self.world is not None
        return self.world.model_dump(exclude={"now", "plan", "demand", "engines", "ages"})

    def _waits(self) -> bool:
        """Whether something is due that is not the end of a cap: a pool that refuses for ever is asked again for ever."""
        if self.decision.searching or any(item.short_since is not None for item in self.decision.stock.values()):
            return True
        if self.world is not None and any(pod.draining_since is not None for pod in self.world.pods):
            return True  # the end of a cap may be due before the end of a drain
        caps = [stock.cap for stock in self.decision.stock.values() if stock.cap is not None and not stock.cap.probing]
        ends = [seconds_between(self.cluster.time, cap.until) for cap in caps]
        ends += [
            seconds_between(self.cluster.time, item.until)
            for item in self.decision.failed_shapes.values()
            if item.until
        ]
        for pool in self.cluster.status.get("nodePools") or ():
            cap = pool.get("learnedCap") or {}
            if cap.get("reason") in ("NotReservedYet", "Reserved") and cap["until"] != FOREVER:
                ends.append(seconds_between(self.cluster.time, cap["until"]))
        # One that is over and has no room in the budget to be tried again stays as it is.
        to_come = (seconds for seconds in ends if seconds > 0)
        return (self.decision.wake_in_seconds or math.inf) < min(to_come, default=math.inf)

    @contextmanager
    def _watched(self, verb: str, key: Key) -> Iterator[None]:
        """Around a write: the moment before it is a moment at which the operator may end."""
        if self.before_each_write is not None:
            self.before_each_write.append(copy.deepcopy(self.cluster))
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in < 0:
                raise Died
        if verb == "apply status":
            yield
            return
        self.writes += 1
        write = f"{verb} {key[0]} {key[2]}"
        self.history.append(write)
        before, weighted = self.spend, self._services_with_weight()
        yield
        raised = self.spend > before + 1e-6
        assert not (raised and self.spend > self.budget + 1e-6), f"{write} raises spend to {self.spend}"
        for name in self._services_with_weight() - weighted:
            assert self._reachable(name), f"{write} gives {name} its first weight, and no EndpointSlice has a replica"
        self.check()

    def _reachable(self, service: str) -> bool:
        """Whether requests to a Service reach somebody, as far as the operator can know."""
        if self.sees_all:
            return bool(self._endpoints(service))
        assert self.world is not None
        return any(pod.reachable and pod.deployment == service for pod in self.world.pods)

    # --- what must hold at every moment ---------------------------------------------------------------------------

    def check(self) -> None:
        try:
            self._check_routing()
            if self.sees_all:
                self._check_pending()
            self._check_serving()
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(self.history[-40:])) from error

    def _note(self, world: Observation) -> Observation:
        """What the operator sees, and the spec in force by that: the last good one while the present one is wrong."""
        self.world = world
        self._own_writes.check(self.operator.state, world)
        spec = Situation(world).acting
        wire = spec.model_dump(mode="json", by_alias=True) if spec is not None else None
        self.spec = wire or {"nodePools": [], "models": [], "budget": {"dollarsPerHour": "0"}}
        return world

    @property
    def budget(self) -> float:
        return float(self.spec["budget"]["dollarsPerHour"])

    @property
    def spend(self) -> float:
        """The spend by the definition that users read: every node of a claimed pool; of fixed nodes, those with our pods."""
        total = 0.0
        for item in self.spec["nodePools"]:
            price = float(item["dollarsPerNodeHour"] or 0)
            if item["resize"] is not None:
                pool = self.cluster.pools.get(item["resize"]["name"])
                if pool is not None and pool.claimed_by in (None, f"{NAMESPACE}/{PLAN}") and pool.allowed:
                    total += price * max(pool.wanted, len(self.cluster.nodes_of(pool.name)) + len(pool.booting))
            else:
                held = {pod.node or pod.placed_on for pod in self.cluster.our_pods()}
                total += price * sum(
                    node.name in held
                    for node in self.cluster.nodes.values()
                    if item["nodeSelector"].items() <= node.labels.items()
                )
        return total

    def routing(self) -> dict[str, Any] | None:
        manifest = self.cluster.objects.get(("ConfigMap", names.routing_name(PLAN, None)))
        return None if manifest is None else json.loads(manifest["data"]["routing.json"])

    def _services_with_weight(self) -> set[str]:
        models = (self.routing() or {"models": {}})["models"].values()
        return {target["service"] for item in models for entry in item["classes"] for target in entry["targets"]}

    def facts(self, deployment: str) -> ReplicaFacts:
        manifest = next(
            self.cluster.objects[kind, deployment] for kind in WORKLOADS if (kind, deployment) in self.cluster.objects
        )
        return ReplicaFacts.model_validate_json(manifest["metadata"]["annotations"][names.FACTS_ANNOTATION])

    def ready(self, deployment: str) -> int:
        return sum(self.cluster.is_ready(pod) for pod in self.cluster.pods_of(deployment))

    def deployments(self) -> list[str]:
        """The names of Deployments and LeaderWorkerSets."""
        return sorted(name for kind, name in self.cluster.objects if kind in WORKLOADS)

    def serving_rate(self, model: str) -> float:
        """Requests/s that ready replicas of a model carry by the plan that last held them."""
        return sum(
            self.ready(name) * sum(self.facts(name).planned.values())
            for name in self.deployments()
            if self.facts(name).model == model
        )

    def _check_routing(self) -> None:
        document = self.routing()
        for item in (document or {"models": {}})["models"].values():
            for entry in item["classes"]:
                targets = entry["targets"]
                assert not targets or sum(target["weight"] for target in targets) == 10_000
                for target in targets:
                    assert ("Service", target["service"]) in self.cluster.objects, f"{target['service']} has no Service"

    def check_routing_at_rest(self) -> None:
        """The operator has looked: weights follow what is ready."""
        document = self.routing()
        for model, item in (document or {"models": {}})["models"].items():
            own = [name for name in self.deployments() if self.facts(name).model == model and self._endpoints(name)]
            for entry in item["classes"]:
                able = [name for name in own if self.facts(name).capacity.get(entry["name"], 0) > 0]
                targets = [target["service"] for target in entry["targets"]]
                assert targets or not able, f"{model}/{entry['name']} is empty though {able} could serve it"
                assert all(self.ready(name) for name in targets), f"{model}/{entry['name']} points at what is not ready"
                for name in targets:
                    assert self._endpoints(name), f"Service {name} has a weight and no endpoint"
            self._check_admission(model, item["classes"])

    def _check_admission(self, model: str, classes: list[dict[str, Any]]) -> None:
        """What is admitted of the planned rates is what the ready replicas carry within their SLO."""
        assert self.world is not None
        record = Situation(self.world).record
        fleet = record.fleet
        measured = record.demand.rates if record.demand else {}
        rates = {
            item.name: item.planned_requests_per_second
            for item in (fleet.classes if fleet else ())
            if item.model == model
        }
        busy: Counter[str] = Counter()
        rounding: Counter[str] = Counter()
        for entry in classes:
            limit = entry["admitRequestsPerSecond"]
            rate = rates.get(entry["name"], 0.0) if limit is None else limit
            assert rate <= rates.get(entry["name"], math.inf) * (1 + 1e-6), f"{model}/{entry['name']}: above the plan"
            assert rate > 0 or not rates.get(entry["name"]), f"{model}/{entry['name']} is turned away entirely"
            if not all(f"{model}/{name}" in measured for name in rates):
                continue  # what is declared may not come: nothing is shed for want of what is not needed
            for target in entry["targets"] if not entry.get("degraded") else ():
                name = target["service"]
                whole = rate / (self.facts(name).capacity[entry["name"]] * len(self._endpoints(name)))
                busy[name] += whole * target["weight"] / 10_000
                rounding[name] += whole / 10_000
        for name, utilization in busy.items():
            table = self.facts(name).max_utilization
            most = table[min(len(self._endpoints(name)), len(table)) - 1]
            assert utilization <= most * (1 + 2e-4) + rounding[name], f"{name} is {utilization} busy of {most}"

    def _endpoints(self, service: str) -> list[SimulatedPod]:
        pods = [pod for pod in self.cluster.pods_of(service) if pod.serving and pod.draining_since is None]
        return [pod for pod in pods if self.cluster.is_ready(pod) and self.cluster.is_listed(pod)]

    def _check_pending(self) -> None:
        """Who was let go has room: on its node, counting those that are going."""
        for pod in self.cluster.our_pods():
            if pod.node is not None or pod.gated or pod.terminating or pod.must_be_on not in self.cluster.nodes:
                continue
            node = self.cluster.nodes[pod.must_be_on]
            if not (node.ready and node.schedulable and not node.disrupted and not node.closed):
                continue
            staying = sum(
                other.gpus for other in self.cluster.pods.values() if other.node == node.name and not other.terminating
            )
            assert staying + pod.gpus <= node.gpus, f"{pod.name} waits for GPUs of {node.name} that nobody frees"

    def _check_serving(self) -> None:
        for model, floor in self.serving_floor.items():
            assert self.serving_rate(model) >= floor * (1 - 1e-6), (
                f"{model} serves {self.serving_rate(model)} of {floor} requests/s"
            )

    # --- what must hold at rest -------------------------------------------------------------------------------------

    def check_settled(self) -> None:
        """The cluster is what the plan says, no more and no less."""
        fleet = self.decision.fleet or Fleet()
        assert self.turn() == 0, [str(item) for item in self.decision.actions]
        planned = {item.deployment: item.replicas for item in fleet.replica_sets}
        assert Counter(pod.deployment for pod in self._pods_but_spare_groups(fleet)) == Counter(planned)
        assert self.deployments() == sorted(planned)
        assert sorted(name for kind, name in self.cluster.objects if kind == "Service") == sorted(planned)
        for item in self.spec["nodePools"]:
            pool = self.cluster.pools.get(item["resize"]["name"]) if item["resize"] else None
            if pool is not None and pool.claimed_by == f"{NAMESPACE}/{PLAN}":
                lost = sum(self.cluster.is_foreign(node) for node in self.cluster.nodes_of(pool.name))
                size = max(fleet.nodes.get(item["name"], 0) + lost, item["minNodes"])
                assert (pool.wanted, len(self.cluster.nodes_of(pool.name))) == (size, size), item["name"]
        self.check_routing_at_rest()

    def _pods_but_spare_groups(self, fleet: Fleet) -> list[SimulatedPod]:
        """Replicas without the groups below others that wait for no node of the plan, and hold nothing."""
        whole = {item.deployment: item.replicas for item in fleet.replica_sets if item.nodes > 1}
        found = []
        for pod in sorted(self.cluster.our_pods(), key=lambda pod: (pod.gated, pod.serial)):
            if pod.rank:
                continue
            if pod.group is not None:
                if pod.gated and whole.get(pod.deployment or "", 0) <= 0:
                    assert all(part.node is None for part in self.cluster.pods.values() if part.leader == pod.uid)
                    continue
                whole[pod.deployment or ""] = whole.get(pod.deployment or "", 0) - 1
            found.append(pod)
        return found

    def conditions(self) -> dict[str, str]:
        """Reason by condition, as the last turn published them."""
        return {item["type"]: item["reason"] for item in self.cluster.status["conditions"]}
