"""What the crash story needs: operators that start at once, plans small enough to live through a hundred times, and the
history of everything that the API server ever showed.

Operators are forked from a process that has their modules loaded, so that starting one costs milliseconds; what runs in
them is the command ``servingplan run``, with the rights of the chart's ServiceAccount.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.client import CONFLICT
from pathlib import Path
from typing import Any, Self

from kubernetes.config import kube_config
from typer.main import get_command

from e2e.support import plans
from e2e.support.cluster import NAMESPACES, NODE_POOLS, Cluster
from e2e.support.feed import Feed
from e2e.support.operator import rights
from e2e.support.waiting import wait_for
from localcluster import karpenter, nodes, service_account
from localcluster.proxy import Moment, Verdict, Write, WriteProxy
from servingplan.cli import app
from servingplan.kube import CONFIG_MAPS, DEPLOYMENTS, DISRUPTION_BUDGETS, NODES, PLANS, PODS, SERVICES, Resource
from servingplan.model.fleet import Fleet, PlanRecord

Json = dict[str, Any]

NAMESPACE = "servingplan-crash"
"""Of the operator's ServiceAccount."""
PLAN = "tiny"
PLAN_LABEL = "servingplan.dev/plan"
DEPLOYMENT_LABEL = "servingplan.dev/deployment"
BUDGET = DISRUPTION_BUDGETS.kind
RUN_LABEL = "crash-story"
"""On the nodes of one run: its namespace."""
NODE_CLASS = "servingplan-crash"
FIXED_DOLLARS, RENTED_DOLLARS, BUDGET_DOLLARS = 1.0, 2.0, 3.0
CONVERGE_SECONDS = 90
"""Of a quiet machine, for a dozen lives at a time."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["pytest", "servingplan.cli", "servingplan.answering", "servingplan.handlers.plan", "servingplan.solve", __name__]
)


# --- the plan and its ground -----------------------------------------------------------------------------------------


def plan(namespace: str, requests_per_second: int) -> Json:
    """One model whose replicas fill a node each, on one fixed and one rented pool: 2 requests/s take one, 6 take two."""

    def pool(name: str, dollars: float, **more: Any) -> Json:
        selector = {RUN_LABEL: namespace, "kind": name}
        return {
            "name": name,
            "gpu": "A100-SXM4-80GB",
            "gpusPerNode": nodes.A100.gpus,
            "dollarsPerNodeHour": f"{dollars:g}",
            "maxNodes": 1,
            "nodeSelector": selector,
            **more,
        }

    whole_node = plans.card(120, most_gpus=nodes.A100.gpus)
    made: Json = {"ready_seconds": 0, "stop_seconds": 0, "card": whole_node}
    served = plans.planned_of_a_node(plans.model_at("large", requests_per_second=1, **made), gpus=nodes.A100.gpus)
    model = plans.model_at("large", requests_per_second=requests_per_second / 4 * served, **made)
    resize = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": namespace}
    pools = [pool("fixed", FIXED_DOLLARS), pool("rented", RENTED_DOLLARS, resize=resize)]
    change = {"drainSeconds": 0}
    return plans.plan(namespace, [model], pools, budget=BUDGET_DOLLARS, name=PLAN, change=change)


def ground(namespace: str) -> list[tuple[Resource, Json]]:
    """The namespace of one run, its fixed node and its pool of rented ones."""
    fixed = nodes.node(nodes.A100, f"{namespace}-fixed", labels={RUN_LABEL: namespace, "kind": "fixed"})
    rented = karpenter.static_node_pool(
        nodes.A100,
        name=namespace,
        labels={RUN_LABEL: namespace, "kind": "rented"},
        annotations={karpenter.ALLOWED_NAMESPACES_ANNOTATION: namespace},
        node_class_name=NODE_CLASS,
    )
    home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    return [(NAMESPACES, home), (NODES, fixed), (NODE_POOLS, rented)]


# --- history ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One object as it became, or ceased to be, at one revision of the store."""

    revision: int
    kind: str
    deleted: bool
    item: Json

    @property
    def uid(self) -> str:
        """Of the object."""
        return str(self.item["metadata"]["uid"])


class History:
    """Every change of every object, by run. All kinds share one store, whose revisions order them."""

    def __init__(self, cluster: Cluster) -> None:
        self._feed = Feed(
            cluster.client, [NODES, PODS, DEPLOYMENTS, SERVICES, DISRUPTION_BUDGETS, CONFIG_MAPS, PLANS, NODE_POOLS]
        )
        self._changes: dict[str, list[Change]] = defaultdict(list)

    def __enter__(self) -> Self:
        self._feed.__enter__()
        self._feed.listen(self._note, lambda now: None)
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.__exit__()

    def of(self, run: str) -> list[Change]:
        """All changes of one run that are known, in the order in which they happened."""
        return sorted(self._changes[run], key=lambda change: change.revision)

    def all_of(self, run: str) -> list[Change]:
        """All changes of one run so far."""
        self._feed.catch_up()
        return self.of(run)

    def lag(self) -> str:
        """How far behind the cluster it is, for whoever has to find out."""
        return self._feed.lag()

    def _note(self, at: float, kind: str, change: str, item: Json) -> None:
        metadata = item["metadata"]
        run = metadata.get("namespace") or (metadata.get("labels") or {}).get(RUN_LABEL) or metadata["name"]
        self._changes[run].append(Change(int(metadata["resourceVersion"]), kind, change == "DELETED", item))


class State:
    """What was there at one revision."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Json]] = defaultdict(dict)

    def follow(self, change: Change) -> None:
        """Go on to the next revision."""
        if change.deleted:
            self._objects[change.kind].pop(change.uid, None)
        else:
            self._objects[change.kind][change.uid] = change.item

    def all(self, kind: str) -> list[Json]:
        """Objects of a kind."""
        return list(self._objects[kind].values())

    def ours(self, kind: str) -> list[Json]:
        """Those that carry the plan's label."""
        return [item for item in self.all(kind) if labels_of(item).get(PLAN_LABEL) == PLAN]

    def one(self, kind: str, name: str | None = None) -> Json | None:
        """The one object of a kind, or of a name."""
        return next((item for item in self.all(kind) if name in (None, item["metadata"]["name"])), None)

    @property
    def record(self) -> PlanRecord:
        """What the operator wrote down."""
        found = self.one("ConfigMap", f"{PLAN}-plan")
        return PlanRecord.model_validate_json(found["data"]["plan.json"]) if found else PlanRecord()

    @property
    def status(self) -> Json:
        """What the operator says."""
        found = self.one("LLMServingPlan")
        return (found or {}).get("status") or {}

    @property
    def routing(self) -> Json | None:
        """The routing document."""
        found = self.one("ConfigMap", f"{PLAN}-routing")
        return json.loads(found["data"]["routing.json"]) if found else None

    @property
    def asked_nodes(self) -> int:
        """Size of the rented pool."""
        pool = self.one("NodePool")
        return int(pool["spec"].get("replicas") or 0) if pool else 0

    @property
    def claimed_by(self) -> str:
        """The plan that sizes the rented pool, empty where none does."""
        pool = self.one("NodePool")
        return annotations_of(pool).get("servingplan.dev/claimed-by", "") if pool else ""

    def nodes(self, kind: str) -> list[Json]:
        """Nodes of a pool that exist, those on their way out included."""
        return [item for item in self.all("Node") if labels_of(item).get("kind") == kind]


def states(changes: list[Change]) -> Iterator[tuple[Change, State]]:
    """Each change with the state after it; the state is the same object, moved on."""
    state = State()
    for change in changes:
        state.follow(change)
        yield change, state


def final(changes: list[Change]) -> State:
    """The state after all of them."""
    state = State()
    for change in changes:
        state.follow(change)
    return state


def labels_of(item: Json) -> dict[str, str]:
    """Of any object."""
    return item["metadata"].get("labels") or {}


def annotations_of(item: Json) -> dict[str, str]:
    """Of any object."""
    return item["metadata"].get("annotations") or {}


def is_ready(item: Json) -> bool:
    """Whether a pod or node says so and is not on its way out."""
    conditions = (item.get("status") or {}).get("conditions") or ()
    ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
    return ready and "deletionTimestamp" not in item["metadata"]


# --- operators that can be killed ------------------------------------------------------------------------------------

_KINDS = (
    (r"PATCH .*/llmservingplans/[^/]*/status", "", "status"),
    (r"PATCH .*/llmservingplans/", "", "finalizer"),
    (r"PATCH .*-plan\?", "", "record"),
    (r"PATCH .*-routing\?", "", "routing"),
    (r"PATCH .*/services/", "", "service"),
    (r"PATCH .*/poddisruptionbudgets/", "", "disruption budget"),
    (r"PATCH .*/deployments/.*force", "", "deployment"),
    (r"PATCH .*/deployments/", '"replicas"', "scale down"),
    (r"PATCH .*/nodepools/", "", "pool"),
    (r"PATCH .*/pods/", '"/spec/schedulingGates"', "place"),
    (r"PATCH .*/pods/", '"servingplan.dev/draining-since"', "drain"),
    (r"POST .*/events", "", "event"),
    (r"DELETE .*/deployments/", "", "delete deployment"),
    (r"DELETE .*/services/", "", "delete service"),
    (r"DELETE .*/poddisruptionbudgets/", "", "delete disruption budget"),
)


def kind_of(write: Write) -> str:
    """What a write is for."""
    request, body = f"{write.method} {write.path}", write.body.decode()
    return next((kind for path, part, kind in _KINDS if re.match(path, request) and part in body), request)


def numbered(writes: Iterable[Write]) -> list[tuple[str, int]]:
    """Each write as its kind and the how-manieth of its kind it is."""
    counts: dict[str, int] = defaultdict(int)
    out = []
    for kind in map(kind_of, writes):
        counts[kind] += 1
        out.append((kind, counts[kind]))
    return out


@dataclass(frozen=True)
class Death:
    """SIGKILL at a moment of the n-th write of a kind."""

    phase: str
    kind: str
    ordinal: int
    """Within the phase."""
    moment: Moment


_PR_SET_PDEATHSIG = 1
_COMMANDS = get_command(app)
"""The command line, put together before the forks."""


def _run_operator(kubeconfig: str, namespace: str, log: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it does not outlive a test run that was killed
    with Path(log).open("ab") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    os.environ["KUBECONFIG"] = kubeconfig
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = kubeconfig  # it was read from the environment before the fork
    without = ("--liveness-address", "--metrics-address", "--lease-namespace")
    _COMMANDS(["run", "--namespaces", namespace, *(word for option in without for word in (option, ""))])


class Operator:
    """``servingplan run`` for one namespace, behind a proxy that may kill it at one of its writes."""

    def __init__(self, namespace: str, proxy: WriteProxy, kubeconfig: Path, log: Path) -> None:
        self._arguments = (str(kubeconfig), namespace, str(log))
        self._proxy = proxy
        proxy.hook = self._hook
        self._phase_begins_after = 0
        self._death: Death | None = None
        self.died: list[tuple[Death, Write]] = []

    def start(self) -> None:
        """Start it; again after a kill."""
        self._process = _FORKS.Process(target=_run_operator, args=self._arguments, daemon=True)
        self._process.start()

    def expect(self, death: Death | None) -> None:
        """A phase begins, in which it is to die so, once."""
        self._phase_begins_after, self._death = len(self._proxy.writes), death

    @property
    def writes_of_phase(self) -> tuple[Write, ...]:
        """Those since ``expect``."""
        return tuple(self._proxy.writes[self._phase_begins_after :])

    @property
    def dies_at_once(self) -> bool:
        """Whether the write of its death is under way."""
        death = self._death
        return death is not None and (death.kind, death.ordinal) in numbered(self.writes_of_phase)

    def _hook(self, write: Write, now: Moment) -> Verdict:
        death = self._death
        if death is None or now is not death.moment:
            return Verdict.PASS
        of_phase = self._proxy.writes[self._phase_begins_after : write.number]
        if numbered(of_phase)[-1:] != [(death.kind, death.ordinal)]:
            return Verdict.PASS
        self._death = None
        self.died.append((death, write))
        self._process.kill()
        return Verdict.DROP

    def revive(self) -> None:
        """Start it again if the kill has happened and it is down."""
        if not self._process.is_alive():
            assert self.died, f"the operator ended by itself, see {self._arguments[2]}"
            self._process.join()
            self._process.close()
            self.start()

    def last_lines(self, count: int = 40) -> list[str]:
        """The end of its log."""
        return Path(self._arguments[2]).read_text(errors="replace").splitlines()[-count:]

    def stop(self) -> None:
        """End it without ceremony."""
        self._death = None
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()


# --- one life of a plan ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """What became of one plan from apply to serving, through an edit, to its deletion."""

    namespace: str
    writes: dict[str, tuple[Write, ...]]
    """By phase, without those that came too late: where somebody else has written meanwhile, the same is tried again."""
    died: tuple[tuple[Death, Write], ...]
    """Where it was killed, at most once in each phase."""
    served: Json
    """Where the cluster came to rest after the apply."""
    edited: Json
    """After the edit that drains and shrinks."""
    changes: list[Change]

    def describe(self) -> str:
        """For whoever has to find out."""
        return f"{self.namespace}, killed " + "; ".join(
            f"{death.moment.value}: {write.method} {write.path}" for death, write in self.died
        )


class Stage:
    """Cluster, history and credentials that all lives share."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._history = History(cluster)
        self._rights = rights(NAMESPACE, ())
        self._namespaces: list[str] = []

    def __enter__(self) -> Self:
        self._cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self._cluster.apply(*self._rights, karpenter.node_class(registration_delay_seconds=0, name=NODE_CLASS))
        self._history.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._history.__exit__()
        for item in (*self._rights, {"kind": "Namespace", "metadata": {"name": NAMESPACE}}):
            if item["kind"] in ("ClusterRole", "ClusterRoleBinding", "Namespace"):
                self._cluster.try_kubectl("delete", item["kind"], item["metadata"]["name"], "--wait=false")
        if self._cluster.certificate is None:  # a cluster that stays
            for namespace in self._namespaces:
                self._cluster.try_kubectl("delete", "namespace", namespace, "--wait=false")

    def live(self, namespace: str, deaths: Mapping[str, Death | None] | None = None) -> Life:
        """One plan: applied until it serves, edited until it has shrunk, deleted until nothing of it is left.

        ``deaths``: where the operator is killed, by phase. Each phase ends at rest, so that the next begins afresh.
        """
        account = next(item["metadata"]["name"] for item in self._rights if item["kind"] == "ServiceAccount")
        api = self._cluster.api
        deaths = deaths or {}
        writes = {}
        self._namespaces.append(namespace)
        with WriteProxy(self._cluster.kubeconfig) as proxy:
            path = self._folder / f"{namespace}.kubeconfig"
            service_account.write_kubeconfig(self._cluster.kubeconfig, NAMESPACE, account, path, server=proxy.url)
            operator = Operator(namespace, proxy, path, self._folder / f"{namespace}.log")
            made = [api.create(resource, manifest) for resource, manifest in ground(namespace)]
            operator.expect(deaths.get("apply"))
            uid = api.create(PLANS, plan(namespace, 6), namespace=namespace)["metadata"]["uid"]
            operator.start()
            try:
                served = self._wait(namespace, operator, serves)
                writes["apply"] = _without_conflicts(operator.writes_of_phase)
                operator.expect(deaths.get("edit"))
                spec = {"models": plan(namespace, 2)["spec"]["models"]}
                api.merge(PLANS, PLAN, {"spec": spec}, manager="user", namespace=namespace)
                edited = self._wait(namespace, operator, has_shrunk)
                writes["edit"] = _without_conflicts(operator.writes_of_phase)
                operator.expect(deaths.get("delete"))
                api.delete(PLANS, PLAN, uid=uid, namespace=namespace)
                self._wait(namespace, operator, is_gone)
                writes["delete"] = _without_conflicts(operator.writes_of_phase)
            finally:
                operator.stop()
                for (resource, _), item in zip(ground(namespace), made, strict=True):
                    if resource != NAMESPACES:
                        api.delete(resource, item["metadata"]["name"], uid=item["metadata"]["uid"])
            assert not proxy.errors, proxy.errors
            changes = self._history.all_of(namespace)
            return Life(namespace, writes, tuple(operator.died), served, edited, changes)

    def wait_until_collected(self) -> None:
        """Until nothing is left of any plan. The garbage collector takes its time when it has much to do."""
        for namespace in self._namespaces:
            self._wait_until_collected(namespace)

    def _wait_until_collected(self, namespace: str) -> None:
        def left() -> list[Json]:
            return leftovers(final(self._history.of(namespace)))

        wait_for(f"nothing is left in {namespace}", lambda: not left(), seconds=CONVERGE_SECONDS, shown=left)

    def _wait(self, namespace: str, operator: Operator, look: Callable[[State], Json | None]) -> Json:
        seen, found = 0, None

        def at_rest() -> tuple[Json] | None:
            nonlocal seen, found
            operator.revive()
            changes = self._history.of(namespace)
            if len(changes) > seen:
                seen, found = len(changes), look(final(changes))
            return (found,) if found is not None and not operator.dies_at_once else None

        def shown() -> str:
            told = final(self._history.of(namespace))
            api = self._cluster.api
            there = {
                "pods": [_fate(pod) for pod in api.list(PODS, namespace=namespace)],
                "pods as told": [_fate(pod) for pod in told.all("Pod")],
                "nodes": [_fate(node) for node in api.list(NODES, labels=f"{RUN_LABEL}={namespace}")],
                "pool": api.get(NODE_POOLS, namespace)["spec"].get("replicas"),
                "pool as told": told.asked_nodes,
                "feed": self._history.lag(),
                "KWOK was reminded of": self._cluster.reminder.reminded if self._cluster.reminder else [],
                "operator's last lines": operator.last_lines(),
                "died": [str(death) for death, _ in operator.died],
                "status": told.status,
            }
            return json.dumps(there, indent=1)

        (rest,) = wait_for(f"{namespace} is at rest", at_rest, seconds=CONVERGE_SECONDS, shown=shown)
        return rest


def _fate(item: Json) -> str:
    metadata, phase = item["metadata"], (item.get("status") or {}).get("phase")
    return f"{metadata['name']} at {metadata['resourceVersion']}: {phase}, deleted {metadata.get('deletionTimestamp')}"


def _without_conflicts(writes: Iterable[Write]) -> tuple[Write, ...]:
    return tuple(write for write in writes if write.status != CONFLICT)


def serves(state: State) -> Json | None:
    """Where the plan is once the operator says that it is Ready; None before."""
    found = at_rest(state, generation=1)
    conditions = {item["type"]: item["status"] for item in state.status.get("conditions", ())}
    return {**found, "rented nodes": len(state.nodes("rented"))} if found and conditions["Ready"] == "True" else None


def has_shrunk(state: State) -> Json | None:
    """Where the edited plan is once nothing is left that it does without; the node itself takes its time to go."""
    return at_rest(state, generation=2)


def is_gone(state: State) -> Json | None:
    """Whether the plan is gone, with all that is not collected with its owner."""
    left = state.all("LLMServingPlan") or state.ours("Pod") or state.claimed_by or state.asked_nodes
    return None if left else {}


def leftovers(state: State) -> list[Json]:
    """What should have been collected with the plan."""
    return [
        *state.ours("Deployment"),
        *state.ours("Service"),
        *state.ours(BUDGET),
        *state.ours("ConfigMap"),
        *state.ours("Pod"),
    ]


def at_rest(state: State, *, generation: int) -> Json | None:
    """The state in words that do not name the run, once it is as planned for this generation; None before."""
    found = state.one("LLMServingPlan")
    if found is None or found["metadata"]["generation"] != generation:
        return None
    fleet = state.record.fleet
    if (
        fleet is None
        or state.record.generation != generation  # while the plan for an edit is searched, the one before is in force
        or state.status.get("observedGeneration") != generation
        or state.status.get("planHash") != fleet.hash
    ):
        return None
    names = {item.deployment for item in fleet.replica_sets}
    if any(
        {item["metadata"]["name"] for item in state.ours(kind)} != names for kind in ("Deployment", "Service", BUDGET)
    ):
        return None
    pods = state.ours("Pod")
    if len(pods) != sum(item.replicas for item in fleet.replica_sets) or not all(is_ready(pod) for pod in pods):
        return None
    if state.asked_nodes != fleet.nodes.get("rented", 0):
        return None
    routing = state.routing or {}
    if routing.get("transitional", True):
        return None  # a node that was late with its heartbeat, say: the weights are on their way back
    alias = {item.deployment: f"{item.model} on {item.pool}" for item in fleet.replica_sets}
    assert routing.pop("planHash") == fleet.hash
    routing.pop("revision")
    text = json.dumps({"fleet": fleet.model_dump(mode="json"), "routing": routing})
    for name, other in {**alias, found["metadata"]["namespace"]: "NAMESPACE"}.items():
        text = text.replace(name, other)
    plain = _sorted(json.loads(text))
    return {
        "plan hash": Fleet.model_validate(plain["fleet"]).hash,
        "routing": plain["routing"],
        "deployments": {alias[item["metadata"]["name"]]: item["spec"]["replicas"] for item in state.ours("Deployment")},
        "services": sorted(alias[item["metadata"]["name"]] for item in state.ours("Service")),
        "config maps": sorted(item["metadata"]["name"] for item in state.ours("ConfigMap")),
        "pods": sorted(alias[labels_of(pod)[DEPLOYMENT_LABEL]] for pod in pods),
        "nodes asked for": state.asked_nodes,
        "claimed by": state.claimed_by.split("/")[-1],
    }


def _sorted(value: Any) -> Any:
    """Lists in an order that does not come from names with hashes in them."""
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value
