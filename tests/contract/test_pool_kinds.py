"""Objects of every kind that sizes pools are read and written through a real API server.

The definitions of Cluster API are its own. Those of ACK, Config Connector and Azure Service Operator are ours, with the fields
that are touched. No controller of any of them runs here.
"""

from __future__ import annotations

from pathlib import Path

import kubernetes.config
import pytest

from localcluster import binaries
from localcluster.control_plane import ControlPlane, wait_until_established
from servingplan.api.parse import parse_spec
from servingplan.apply.writer import DELETE_MACHINE, Writer
from servingplan.errors import Conflict
from servingplan.kube import PLANS, Kube, Resource
from servingplan.model import names
from servingplan.model.actions import ClaimPool, ResizePool
from servingplan.model.world import Observation
from servingplan.observe.cluster import Reader
from servingplan.observe.state import ClusterState
from servingplan.observe.urls import UrlPolicy
from tests.unit.pool_kinds.pool_objects import (
    AKS_AGENT_POOL,
    EKS_NODEGROUP,
    FLEET,
    GKE_NODE_POOL,
    MACHINE_DEPLOYMENT,
    MACHINE_POOL,
    changed,
)

pytestmark = pytest.mark.cluster

PLAN_DEFINITION = Path(__file__).resolve().parents[2] / "crds" / "llmservingplans.servingplan.dev.yaml"
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", False)
COUNT = {"type": "integer", "minimum": 0}
SCALING = {"type": "object", "properties": {"desiredSize": COUNT, "minSize": COUNT, "maxSize": COUNT}}
ZONES = changed(GKE_NODE_POOL, ("spec", "nodeLocations"), ["us-central1-a", "us-central1-b"])
OURS = [
    (EKS_NODEGROUP, {"scalingConfig": SCALING}, False),
    (ZONES, {"nodeCount": COUNT}, False),
    (AKS_AGENT_POOL, {"count": COUNT}, False),
    (FLEET, {"replicas": COUNT}, True),
]
"""Objects of kinds that are defined here, the schema of what is touched of their spec, and whether they serve ``/scale``."""
CLUSTER_API = (MACHINE_DEPLOYMENT, MACHINE_POOL)
KINDS = [(item, True) for item in CLUSTER_API] + [(item, scalable) for item, _, scalable in OURS]
IDS = [item["kind"] for item, _ in KINDS]


def definition(item, touched, scalable):
    group, _, version = item["apiVersion"].partition("/")
    kind = item["kind"]
    keep = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": {**keep, "properties": touched}, "status": keep}}
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, **({"scale": scale} if scalable else {})},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.lower()}s.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced" if "namespace" in item["metadata"] else "Cluster",
            "names": {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [served],
        },
    }


@pytest.fixture(scope="module")
def kube():
    with ControlPlane() as up, kubernetes.config.new_client_from_config(str(up.kubeconfig)) as client:
        api = Kube(client)
        crds = binaries.module_folder("cluster-api", "sigs.k8s.io/cluster-api") / "core/config/crd/bases"
        kinds = [*(item["kind"] for item in CLUSTER_API), "Machine"]
        theirs = [crds / f"cluster.x-k8s.io_{kind.lower()}s.yaml" for kind in kinds]
        up.install_crds([PLAN_DEFINITION, *theirs])
        up.kubectl("create", "namespace", "llm")
        for item, touched, scalable in OURS:
            api.create(CRDS, definition(item, touched, scalable))
        for item, _, _ in OURS:
            name = definition(item, {}, False)["metadata"]["name"]
            wait_until_established(up.kubectl, name)
        yield api


class Pool:
    """One object in the cluster, as a plan that names it sees and writes it."""

    def __init__(self, kube, item):
        self.item = {key: value for key, value in item.items() if key != "status"}
        self.kube = kube
        self.namespace = item["metadata"].get("namespace")
        self.resource = kube.discover(item["apiVersion"], item["kind"])
        kube.create(self.resource, self.item, namespace=self.namespace)
        resize = {"apiVersion": item["apiVersion"], "kind": item["kind"], "name": item["metadata"]["name"]}
        self.name = f"{item['kind'].lower()}-{item['metadata']['name']}"
        pools = [{"name": "p", "gpu": "L40S", "gpusPerNode": 4, "nodeSelector": {"a": "b"}, "resize": resize}]
        spec = {"budget": {"dollarsPerHour": 1}, "models": [{"name": "llama-3.1-8b"}], "nodePools": pools}
        plan = {"apiVersion": PLANS.api_version, "kind": PLANS.kind, "metadata": {"name": self.name}, "spec": spec}
        kube.create(PLANS, plan, namespace="llm")

    def world(self) -> Observation:
        """What a turn sees that begins now."""
        state = ClusterState(self.kube)
        state.load()
        reader = Reader(self.kube, state, pool_kinds=None, urls=UrlPolicy(self.kube, allowed_hosts=frozenset()))
        try:
            return reader.observe("llm", self.name)
        finally:
            reader.close()

    def write(self, action, world):
        spec, errors = parse_spec(world.plan.spec)
        assert errors == ()
        return Writer(self.kube).write((action,), world=world, spec=spec)

    def live(self):
        return self.kube.get(self.resource, self.item["metadata"]["name"], namespace=self.namespace)


@pytest.mark.parametrize(("item", "scalable"), KINDS, ids=IDS)
def test_a_pool_is_read_claimed_and_sized_and_nothing_else_of_it_changes(kube, item, scalable):
    pool = Pool(kube, item)
    world = pool.world()
    (seen,) = world.pools
    assert (seen.problem_reason, seen.sized_by) == (None, None)
    assert pool.resource.scalable is scalable
    before = pool.live()

    claim = ClaimPool(pool="p", claimed_by=world.plan.key, why="w")
    assert pool.write(claim, world).refused == ()
    world = pool.world()
    (seen,) = world.pools
    assert (seen.claimed_by, seen.asked) == (world.plan.key, seen.wanted)
    size = seen.wanted + 2 * seen.step
    assert pool.write(ResizePool(pool="p", before=seen.wanted, nodes=size, why="w"), world).refused == ()

    (after,) = pool.world().pools
    assert (after.wanted, after.asked, after.size_manager) == (size, size, None)
    live = pool.live()
    expected = changed(before, after.path, size // after.step)
    assert live["spec"] == expected["spec"]
    (owned,) = (entry for entry in live["metadata"]["managedFields"] if entry["manager"] == names.POOL_MANAGER)
    assert owned["operation"] == "Update"
    inside = owned["fieldsV1"]["f:spec"]
    for key in after.path[1:]:
        assert list(inside) == [f"f:{key}"]
        inside = inside[f"f:{key}"]
    assert inside == {}


def named(item, name):
    return changed(item, ("metadata", "name"), name)


def test_a_size_that_changed_since_it_was_read_is_not_written_over(kube):
    pool = Pool(kube, named(AKS_AGENT_POOL, "contested"))
    world = pool.world()
    patch = {"spec": {"count": 7}}
    kube.merge(pool.resource, "contested", patch, manager="somebody", namespace="llm")
    (refused,) = pool.write(ResizePool(pool="p", before=1, nodes=2, why="w"), world).refused
    assert refused.reason == "Changed"
    assert pool.live()["spec"]["count"] == 7


def test_a_version_that_is_not_the_one_that_was_read_is_refused_by_the_api_server(kube):
    pool = Pool(kube, named(MACHINE_DEPLOYMENT, "raced"))
    version = pool.live()["metadata"]["resourceVersion"]
    note = {"metadata": {"annotations": {"somebody": "else"}}}
    kube.merge(pool.resource, "raced", note, manager="somebody", namespace="llm")
    late = {"metadata": {"resourceVersion": version}, "spec": {"replicas": 9}}
    with pytest.raises(Conflict):
        kube.merge(pool.resource, "raced", late, manager=names.POOL_MANAGER, namespace="llm")
    assert pool.live()["spec"]["replicas"] == 3


def test_an_autoscaler_that_takes_a_pool_meanwhile_keeps_it(kube):
    pool = Pool(kube, named(AKS_AGENT_POOL, "autoscaled"))
    world = pool.world()
    switch = {"spec": {"enableAutoScaling": True, "minCount": 0, "maxCount": 5}}
    kube.merge(pool.resource, "autoscaled", switch, manager="somebody", namespace="llm")
    (refused,) = pool.write(ResizePool(pool="p", before=1, nodes=2, why="w"), world).refused
    assert "the cluster autoscaler of AKS" in refused.message
    assert pool.live()["spec"]["count"] == 1


def test_the_machines_of_nodes_that_go_are_marked_and_those_of_others_and_of_other_objects_are_not(kube):
    pool = Pool(kube, named(MACHINE_DEPLOYMENT, "shrinking"))
    world = pool.world()
    (seen,) = world.pools
    machines = kube.discover(MACHINE_DEPLOYMENT["apiVersion"], "Machine")
    template = MACHINE_DEPLOYMENT["spec"]["template"]["spec"]
    marks = {"goes": None, "stays": names.POOL_MANAGER, "by-hand": "somebody's", "of-another": None}
    for name, mark in marks.items():
        owner = "another" if name == "of-another" else "shrinking"
        metadata = {
            "name": name,
            "namespace": "llm",
            "labels": {"cluster.x-k8s.io/deployment-name": owner},
            "annotations": {} if mark is None else {DELETE_MACHINE: mark},
        }
        machine = {"apiVersion": machines.api_version, "kind": "Machine", "metadata": metadata, "spec": template}
        kube.create(machines, machine, namespace="llm")
    resize = ResizePool(
        pool="p",
        before=seen.wanted,
        nodes=seen.wanted - 1,
        machines=("llm/goes", "llm/gone", "llm/of-another"),
        spared=("llm/by-hand", "llm/stays"),
        why="w",
    )
    assert pool.write(resize, world).refused == ()
    assert pool.live()["spec"]["replicas"] == seen.wanted - 1
    found = {
        name: (kube.get(machines, name, namespace="llm")["metadata"].get("annotations") or {}).get(DELETE_MACHINE)
        for name in marks
    }
    assert found == {"goes": names.POOL_MANAGER, "stays": None, "by-hand": "somebody's", "of-another": None}
